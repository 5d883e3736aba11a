"""Clients telling about themselves: heartbeat (34), leaving (35), members of a group (38), filter check (46).

After RocketMQ's ClientManageProcessor and ConsumerManageProcessor. A heartbeat also makes what its consumers will need:
the group's configuration and its retry topic, known to the name servers before the first message fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmq.broker.state.sessions import ClientChannel, ConsumerHeartbeat
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import (
    TOPIC_UNIT_SUB_FLAG,
    CheckClientBody,
    ConsumerData,
    ConsumeType,
    HeartbeatData,
    consumer_id_list,
    dumps,
)
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import GetConsumerListByGroupRequest, UnregisterClientRequest
from fastmq.protocol.names import retry_topic, validate_topic

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer


def heart_beat(broker: Broker, peer: Peer, request: Command) -> Reply:
    """HEART_BEAT: the client's producer and consumer groups, with all subscriptions or (V2) without."""
    data = HeartbeatData.from_json(request.body)
    if not data.client_id:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "the heartbeat has no clientID")
    channel = ClientChannel(
        client_id=data.client_id,
        peer=peer,
        language=request.language,
        version=request.version,
        last_update_ms=broker.clock.wall_ms(),
        seen=broker.clock.monotonic(),
    )
    is_v2 = data.heartbeat_fingerprint != 0
    subscriptions_wanted = not is_v2
    for consumer in data.consumer_data_set:
        if broker.config.reject_pull_consumer_enable and consumer.consume_type is ConsumeType.CONSUME_ACTIVELY:
            continue
        heartbeat = ConsumerHeartbeat(
            group=consumer.group_name,
            consume_type=consumer.consume_type,
            message_model=consumer.message_model,
            consume_from_where=consumer.consume_from_where,
            subscriptions=None if is_v2 and data.without_sub else consumer.subscription_data_set,
            fingerprint=data.heartbeat_fingerprint,
        )
        if not _prepare_group(broker, consumer, with_subscriptions=heartbeat.subscriptions is not None):
            continue
        if broker.sessions.take_fingerprint(heartbeat):
            subscriptions_wanted = True
        broker.sessions.register_consumer(heartbeat, channel)
    if broker.config.enable_register_producer:
        for producer in data.producer_data_set:
            broker.sessions.register_producer(producer.group_name, channel)
    return Reply(
        ext={
            "IS_SUPPORT_HEART_BEAT_V2": "true",
            "IS_SUB_CHANGE": "true" if subscriptions_wanted else "false",
        }
    )


def _prepare_group(broker: Broker, consumer: ConsumerData, *, with_subscriptions: bool) -> bool:
    """Make the group and its retry topic; False if the group may not exist."""
    group = broker.groups.find_or_create(consumer.group_name)
    if group is None:
        return False
    topic = retry_topic(consumer.group_name)
    if validate_topic(topic) is not None:
        return False
    ordered = any(broker.topics.is_order(subscription.topic) for subscription in consumer.subscription_data_set)
    broker.topics.create_internal(
        topic,
        queue_nums=group.retry_queue_nums,
        order=ordered if with_subscriptions else None,
        sys_flag=TOPIC_UNIT_SUB_FLAG if consumer.unit_mode else 0,
    )
    return True


def unregister_client(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UNREGISTER_CLIENT: the client leaves the named groups; always code 0."""
    header = UnregisterClientRequest.decode(request.ext)
    broker.sessions.unregister(peer.id, producer_group=header.producer_group, consumer_group=header.consumer_group)
    return Reply()


def get_consumer_list_by_group(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_CONSUMER_LIST_BY_GROUP: client ids of the members. An error, not an empty list, if there is none."""
    header = GetConsumerListByGroupRequest.decode(request.ext)
    info = broker.sessions.consumer_group(header.consumer_group)
    client_ids = [] if info is None else info.client_ids()
    if not client_ids:
        return Reply(ResponseCode.SYSTEM_ERROR, f"no consumer for this group, {header.consumer_group}")
    return Reply(body=dumps(consumer_id_list(client_ids)))


def check_client_config(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CHECK_CLIENT_CONFIG: whether the broker can filter as the client wants; asked for filters that are not by tag."""
    if not request.body:
        return Reply()
    subscription = CheckClientBody.from_json(request.body).subscription_data
    if subscription is not None:
        broker.filters.check(subscription)
    return Reply()


HANDLERS: dict[int, Handler] = {
    RequestCode.HEART_BEAT: heart_beat,
    RequestCode.UNREGISTER_CLIENT: unregister_client,
    RequestCode.GET_CONSUMER_LIST_BY_GROUP: get_consumer_list_by_group,
    RequestCode.CHECK_CLIENT_CONFIG: check_client_config,
}
