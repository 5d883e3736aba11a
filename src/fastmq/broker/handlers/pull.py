"""Pulling: PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361), and what becomes of pulls that wait.

After RocketMQ's PullMessageProcessor. The first pass of a pull may commit an offset and may end in waiting; when its
queue moves or its time is up the pull is processed again from the start, without those two rights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastmq import _store as st
from fastmq.broker.delivery.longpoll import HeldPull
from fastmq.broker.filter.matching import MessageFilter, read_matching
from fastmq.broker.handlers.admin import refuse_broker_group
from fastmq.broker.handlers.send import FAQ
from fastmq.broker.light import read_records
from fastmq.broker.state.broadcast import broadcast_group
from fastmq.errors import RequestError
from fastmq.net.server import Reply, answer_again
from fastmq.protocol.bodies import PERM_READ, ConsumeType, SubscriptionData, TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import PullMessageRequest
from fastmq.protocol.names import TOOLS_CONSUMER_GROUP, is_system_group

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

OFFSET_RESET: Final = "OFFSET_RESET"
PROXY_FOR_BROADCAST: Final = 1  # RequestSource: a proxy pulls for a member of a broadcasting group
QUEUE_ENTRY_BYTES: Final = 20  # what maxFilterMessageSize counts

STATUS_NAMES: Final = {
    st.FOUND: "FOUND",
    st.NO_MATCHED_MESSAGE: "NO_MATCHED_MESSAGE",
    st.MESSAGE_WAS_REMOVING: "MESSAGE_WAS_REMOVING",
    st.OFFSET_FOUND_NULL: "OFFSET_FOUND_NULL",
    st.OFFSET_OVERFLOW_BADLY: "OFFSET_OVERFLOW_BADLY",
    st.OFFSET_OVERFLOW_ONE: "OFFSET_OVERFLOW_ONE",
    st.OFFSET_TOO_SMALL: "OFFSET_TOO_SMALL",
    st.NO_MATCHED_LOGIC_QUEUE: "NO_MATCHED_LOGIC_QUEUE",
    st.NO_MESSAGE_IN_QUEUE: "NO_MESSAGE_IN_QUEUE",
}
"""The remarks: what RocketMQ calls the outcomes of a read (GetMessageStatus)."""

_CODES: Final = {
    st.FOUND: ResponseCode.SUCCESS,
    st.NO_MATCHED_MESSAGE: ResponseCode.PULL_RETRY_IMMEDIATELY,
    st.MESSAGE_WAS_REMOVING: ResponseCode.PULL_RETRY_IMMEDIATELY,
    st.OFFSET_FOUND_NULL: ResponseCode.PULL_NOT_FOUND,
    st.OFFSET_OVERFLOW_ONE: ResponseCode.PULL_NOT_FOUND,
    st.OFFSET_OVERFLOW_BADLY: ResponseCode.PULL_OFFSET_MOVED,
    st.OFFSET_TOO_SMALL: ResponseCode.PULL_OFFSET_MOVED,
}
_EMPTY: Final = (st.NO_MATCHED_LOGIC_QUEUE, st.NO_MESSAGE_IN_QUEUE)

# forbiddenType of a refusal: what forbids (ForbiddenType)
_BROKER_FORBIDS: Final = {"forbiddenType": "1"}
_GROUP_FORBIDS: Final = {"forbiddenType": "2"}
_TOPIC_FORBIDS: Final = {"forbiddenType": "3"}
_BROADCAST_FORBIDS: Final = {"forbiddenType": "4"}
_SUBSCRIPTION_FORBIDS: Final = {"forbiddenType": "5"}


class _Forbidden(RequestError):
    """A refusal that says what forbids."""

    def __init__(self, remark: str, ext: dict[str, str]) -> None:
        super().__init__(ResponseCode.NO_PERMISSION, remark)
        self.ext = ext


@dataclass(slots=True)
class PullContext:
    """A pull that is held: whom to answer what, and up to where its filter has looked."""

    peer: Peer
    request: Command
    header: PullMessageRequest


def pull_message(broker: Broker, peer: Peer, request: Command) -> Reply | None:
    """PULL_MESSAGE and LITE_PULL_MESSAGE; None if the pull is held."""
    header = PullMessageRequest.decode(request.ext)
    reply = process_pull(broker, peer, request, header, first_pass=True)
    if reply.code != ResponseCode.PULL_NOT_FOUND or not header.may_suspend or broker.draining or broker.longpoll.full:
        return reply
    if _hold(broker, PullContext(peer, request, header)):
        return None
    return process_pull(broker, peer, request, header, first_pass=False)


def resume_pull(broker: Broker, peer: Peer, request: Command) -> Reply:
    """A pull that the reactor held and cannot finish by itself: the second pass."""
    return process_pull(broker, peer, request, PullMessageRequest.decode(request.ext), first_pass=False)


def process_pull(
    broker: Broker, peer: Peer, request: Command, header: PullMessageRequest, *, first_pass: bool
) -> Reply:
    """One pass: all checks, then the read. Refusals come back as replies, too."""
    try:
        subscription, wanted, topic_config, facts = _check(broker, peer, request, header)
    except _Forbidden as error:
        return Reply(error.code, error.remark, dict(error.ext))
    except RequestError as error:
        return Reply(error.code, error.remark)
    group, topic, queue_id = header.consumer_group, header.topic, header.queue_id
    offsets = broker.offsets
    if broker.config.use_server_side_reset_offset:
        reset = offsets.take_reset(group, topic, queue_id)
        if reset is not None:
            # a commit in the same request names an offset of before the reset
            bounds = broker.store.queue_offsets(topic, queue_id) or (0, 0)
            offsets.commit_pull(group, topic, queue_id, reset)
            return Reply(ResponseCode.PULL_OFFSET_MOVED, OFFSET_RESET, _ext(facts, reset, *bounds))
    config = broker.config
    member = _broadcasting_member(broker, peer, header)
    if member is not None:
        elsewhere = _begin_elsewhere(broker, header, member)
        if elsewhere is not None:
            bounds = broker.store.queue_offsets(topic, queue_id) or (0, 0)
            return Reply(ResponseCode.PULL_OFFSET_MOVED, OFFSET_RESET, _ext(facts, elsewhere, *bounds))
    max_messages = max(1, min(header.max_msg_nums, config.max_transfer_count_on_message_in_memory))
    result = read_matching(
        broker.store,
        wanted,
        topic,
        queue_id,
        header.queue_offset,
        max_messages,
        monotonic=broker.clock.monotonic,
        max_bytes=config.max_transfer_bytes_on_message_in_memory,
        max_scanned=max(config.max_filter_message_size // QUEUE_ENTRY_BYTES, max_messages),
    )
    status = result.status
    body = b""
    if status == st.FOUND:
        body = read_records(broker.store, topic, queue_id, header.queue_offset, result)
        if not body:
            status = st.MESSAGE_WAS_REMOVING  # retention took the segment in between
    if status == st.FOUND:
        broker.stats.on_get(group, topic, queue_id, len(result.messages), len(body))
    else:
        broker.stats.on_get_missed()
    if status in _EMPTY:
        # a fresh queue is no reason for a consumer to reset its offset: trap 5
        code = ResponseCode.PULL_NOT_FOUND if header.queue_offset == 0 else ResponseCode.PULL_OFFSET_MOVED
    else:
        code = _CODES[status]
    if first_pass and header.commits_offset:
        offsets.commit(group, topic, queue_id, header.commit_offset)
    offsets.commit_pull(group, topic, queue_id, result.next_offset)
    if member is not None:
        at = result.next_offset if code == ResponseCode.PULL_OFFSET_MOVED else header.queue_offset
        _note_broadcast(broker, header, member, at)
    elif wanted.by_tags_alone:
        broker.hot.grant(header, topic_config, subscription, wanted.tag_codes, facts[0])
    ext = _ext(facts, result.next_offset, result.min_offset, result.max_offset)
    return Reply(code, STATUS_NAMES[status], ext, body)


# --- broadcasting -----------------------------------------------------------------------------------------------------


def _broadcasting_member(broker: Broker, peer: Peer, header: PullMessageRequest) -> str | None:
    """The client id of a member of a broadcasting group whose offsets are to be noted."""
    if not broker.config.enable_broadcast_offset_store:
        return None
    if header.request_source == PROXY_FOR_BROADCAST:
        return header.proxy_forward_client_id
    info = broker.sessions.consumer_group(header.consumer_group)
    if info is None or not info.is_broadcasting or info.consume_type is not ConsumeType.CONSUME_PASSIVELY:
        return None
    channel = info.channels.get(peer.id)
    return None if channel is None else channel.client_id


def _begin_elsewhere(broker: Broker, header: PullMessageRequest, client_id: str) -> int | None:
    """Where a member is sent that comes through a proxy and did not before, or the other way round."""
    group, topic, queue_id = header.consumer_group, header.topic, header.queue_id

    def otherwise() -> int:
        offset = broker.offsets.query(broadcast_group(group), topic, queue_id)
        return offset if offset >= 0 else _first_offset(broker, topic, queue_id)

    offset = broker.broadcast.begin_at(
        topic, group, client_id, queue_id,
        asked=header.queue_offset, from_proxy=header.request_source == PROXY_FOR_BROADCAST, otherwise=otherwise,
    )  # fmt: skip
    if offset is not None:
        _note_broadcast(broker, header, client_id, offset)
    return offset


def _note_broadcast(broker: Broker, header: PullMessageRequest, client_id: str, offset: int) -> None:
    broker.broadcast.note(
        header.topic, header.consumer_group, client_id, header.queue_id, offset,
        from_proxy=header.request_source == PROXY_FOR_BROADCAST, now=broker.clock.monotonic(),
    )  # fmt: skip


def _first_offset(broker: Broker, topic: str, queue_id: int) -> int:
    """Where somebody new begins: at the first message of a queue that is all in memory, else at its end."""
    first = broker.store.queue_entries(topic, queue_id, 0, 1)
    in_memory = broker.memory_bytes * broker.config.access_message_in_memory_max_ratio // 100
    if first and broker.store.written_offset - first[0][0] <= in_memory:
        return 0
    return (broker.store.queue_offsets(topic, queue_id) or (0, 0))[1]


def _ext(facts: tuple[int, int], next_offset: int, min_offset: int, max_offset: int) -> dict[str, str]:
    group_sys_flag, topic_sys_flag = facts
    return {
        "suggestWhichBrokerId": "0",
        "groupSysFlag": str(group_sys_flag),
        "nextBeginOffset": str(next_offset),
        "maxOffset": str(max_offset),
        "minOffset": str(min_offset),
        "topicSysFlag": str(topic_sys_flag),
    }


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(
    broker: Broker, peer: Peer, request: Command, header: PullMessageRequest
) -> tuple[SubscriptionData, MessageFilter, TopicConfig, tuple[int, int]]:
    """What a pull wants, its topic and (groupSysFlag, topicSysFlag), or the RequestError that refuses it."""
    config = broker.config
    group_name, topic_name = header.consumer_group, header.topic
    if not config.broker_permission & PERM_READ:
        raise _Forbidden(f"the broker[{config.broker_ip1}] pulling message is forbidden", _BROKER_FORBIDS)
    if request.code == RequestCode.LITE_PULL_MESSAGE and not config.lite_pull_message_enable:
        raise _Forbidden(f"the broker[{config.broker_ip1}] for lite pull consumer is forbidden", _BROKER_FORBIDS)
    refuse_broker_group(group_name)
    group = broker.groups.find_or_create(group_name)
    if group is None:
        raise RequestError(
            ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"subscription group [{group_name}] does not exist, {FAQ}"
        )
    if not group.consume_enable:
        raise _Forbidden(f"subscription group no permission, {group_name}", _GROUP_FORBIDS)
    topic = broker.topics.get(topic_name)
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic[{topic_name}] not exist, apply first please! \n{FAQ}")
    if not topic.readable:
        raise _Forbidden(f"the topic[{topic_name}] pulling message is forbidden", _TOPIC_FORBIDS)
    if not 0 <= header.queue_id < topic.read_queue_nums:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER,
            f"queueId[{header.queue_id}] is illegal, topic:[{topic_name}] "
            f"topicConfig.readQueueNums:[{topic.read_queue_nums}] consumer:[/{peer.address}]",
        )
    if header.has_subscription:
        subscription = _own_subscription(header)
        wanted = broker.filters.own(group_name, subscription)
        broker.sessions.compensate(group_name, subscription, broker.clock.monotonic())
    else:
        broker.sessions.compensate(group_name, None, broker.clock.monotonic())
        subscription = _registered_subscription(broker, header, consume_broadcast=group.consume_broadcast_enable)
        wanted = broker.filters.registered(group_name, subscription, header.sub_version)
    if config.reject_pull_consumer_enable:
        _refuse_pull_consumer(broker, peer, group_name)
    return subscription, wanted, topic, (group.group_sys_flag, topic.topic_sys_flag)


def _own_subscription(header: PullMessageRequest) -> SubscriptionData:
    """The filter that the request brings."""
    try:
        return SubscriptionData.from_expression(
            header.topic, header.subscription, header.expression_type, header.sub_version
        )
    except ValueError:
        raise RequestError(ResponseCode.SUBSCRIPTION_PARSE_FAILED, "parse the consumer's subscription failed") from None


def _registered_subscription(
    broker: Broker, header: PullMessageRequest, *, consume_broadcast: bool
) -> SubscriptionData:
    """The filter that the group's heartbeats have told."""
    info = broker.sessions.consumer_group(header.consumer_group)
    if info is None:
        raise RequestError(ResponseCode.SUBSCRIPTION_NOT_EXIST, f"the consumer's group info not exist\n{FAQ}")
    if info.is_broadcasting and not consume_broadcast:
        raise _Forbidden(
            f"the consumer group[{header.consumer_group}] can not consume by broadcast way", _BROADCAST_FORBIDS
        )
    if broker.groups.forbidden(header.consumer_group, header.topic):
        raise _Forbidden(
            f"the consumer group[{header.consumer_group}] is forbidden for topic[{header.topic}]", _SUBSCRIPTION_FORBIDS
        )
    subscription = info.subscriptions.get(header.topic)
    if subscription is None:
        raise RequestError(ResponseCode.SUBSCRIPTION_NOT_EXIST, f"the consumer's subscription not exist\n{FAQ}")
    if subscription.sub_version < header.sub_version:
        raise RequestError(ResponseCode.SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest")
    return subscription


def _refuse_pull_consumer(broker: Broker, peer: Peer, group_name: str) -> None:
    """With rejectPullConsumerEnable only registered push consumers may pull, and the tools."""
    info = broker.sessions.consumer_group(group_name)
    if info is not None and (info.consume_type is not ConsumeType.CONSUME_ACTIVELY or peer.id in info.channels):
        return
    if not is_system_group(group_name) and group_name != TOOLS_CONSUMER_GROUP:
        raise RequestError(ResponseCode.SUBSCRIPTION_NOT_EXIST, f"the consumer's group info not exist\n{FAQ}")


# --- waiting ----------------------------------------------------------------------------------------------------------


def _hold(broker: Broker, context: PullContext, *, offset: int | None = None, deadline: float | None = None) -> bool:
    """Let a pull wait. False if its queue has grown meanwhile, so that it is to be processed again."""
    header = context.header
    if deadline is None:
        config = broker.config
        timeout_ms = header.suspend_timeout_millis if config.long_polling_enable else config.short_polling_time_mills
        deadline = broker.clock.monotonic() + max(0, timeout_ms) / 1000
    pull = HeldPull(
        topic=header.topic,
        queue_id=header.queue_id,
        offset=header.queue_offset if offset is None else offset,
        deadline=deadline,
        peer_id=context.peer.id,
        request=context,
        size=context.request.size,
    )
    held = broker.longpoll.hold(pull)
    if held:
        broker.longpoll_changed()
    return held


def wake_pulls(broker: Broker, topic: str, queue_id: int, max_offset: int) -> None:
    """A queue has grown: answer the pulls that find something in it, let the others wait on."""
    for pull in broker.longpoll.take_moved(topic, queue_id, max_offset):
        _run_again(broker, pull)


def _run_again(broker: Broker, pull: HeldPull) -> None:
    context: PullContext = pull.request
    answer_again(context.peer, context.request, lambda: _process_again(broker, pull, context))


def _process_again(broker: Broker, pull: HeldPull, context: PullContext) -> Reply | None:
    while True:
        if pull.offset > context.header.queue_offset:
            # the filter has looked at what lies before: look only at what is new
            probe = _probe(broker, context, pull.offset)
            if probe is not None:
                pull.offset = probe
                if _hold(broker, context, offset=probe, deadline=pull.deadline):
                    return None
                continue
        reply = process_pull(broker, context.peer, context.request, context.header, first_pass=False)
        scanned = int(reply.ext.get("nextBeginOffset", "0"))
        if (
            reply.code == ResponseCode.PULL_RETRY_IMMEDIATELY
            and scanned > pull.offset
            and scanned >= int(reply.ext["maxOffset"])
        ):
            # nothing for this filter among the new messages
            pull.offset = scanned
            if _hold(broker, context, offset=scanned, deadline=pull.deadline):
                return None
            continue
        return reply


def _probe(broker: Broker, context: PullContext, offset: int) -> int | None:
    """Whether new messages are all filtered out: the offset up to which nothing matched, else None."""
    header = context.header
    try:
        _, wanted, _, _ = _check(broker, context.peer, context.request, header)
    except RequestError:
        return None
    if broker.offsets.has_reset(header.consumer_group, header.topic, header.queue_id):
        return None
    result = read_matching(
        broker.store, wanted, header.topic, header.queue_id, offset, 1, monotonic=broker.clock.monotonic
    )
    if result.status == st.NO_MATCHED_MESSAGE and result.next_offset >= result.max_offset:
        return result.next_offset
    return None


def release_pulls(broker: Broker, topic: str) -> None:
    """Answer what waits for the topic: offsets of some group on it were reset, and its next pulls are told so."""
    broker.hot.answer_held()
    answer_pulls(broker, broker.longpoll.take_queue(topic))


def answer_pulls(broker: Broker, pulls: Iterable[HeldPull]) -> None:
    """Time is up (or the broker stops): process these pulls once more and answer them, whatever comes out."""
    for pull in pulls:
        _answer_now(broker, pull.request)


def _answer_now(broker: Broker, context: PullContext) -> None:
    def process() -> Reply:
        return process_pull(broker, context.peer, context.request, context.header, first_pass=False)

    answer_again(context.peer, context.request, process)


HANDLERS: dict[int, Handler] = {
    RequestCode.PULL_MESSAGE: pull_message,
    RequestCode.LITE_PULL_MESSAGE: pull_message,
}
