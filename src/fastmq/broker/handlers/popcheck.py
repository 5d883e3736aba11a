"""What pops and those that only look have in common: whether a group may read a queue of a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmq.broker.handlers.send import FAQ
from fastmq.errors import RequestError
from fastmq.protocol.codes import ResponseCode

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.net.server import Peer


def check_place(broker: Broker, peer: Peer, topic_name: str, group_name: str, queue_id: int) -> int:
    """The number of the topic's queues, or the RequestError that refuses the request (as PopMessageProcessor)."""
    topic = broker.topics.get(topic_name)
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic_name}] not exist, apply first please! {FAQ}")
    if not topic.readable:
        raise RequestError(ResponseCode.NO_PERMISSION, f"the topic[{topic_name}] peeking message is forbidden")
    if queue_id >= topic.read_queue_nums:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"queueId[{queue_id}] is illegal, topic:[{topic_name}] "
            f"topicConfig.readQueueNums:[{topic.read_queue_nums}] consumer:[/{peer.address}]",
        )
    group = broker.groups.find_or_create(group_name)
    if group is None:
        raise RequestError(
            ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{group_name}] does not exist, {FAQ}"
        )
    if not group.consume_enable:
        raise RequestError(ResponseCode.NO_PERMISSION, f"subscription group no permission, {group_name}")
    return topic.read_queue_nums
