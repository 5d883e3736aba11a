"""Who is connected and how far everybody has come: what consumerProgress, consumerConnection and the Dashboard show.

Bodies with a MessageQueue as key have it as an object literal, which is what every client reads. Reading store times
of many queues happens in a worker thread; what the broker knows in memory is collected before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from fastmq.broker.handlers.admin import refuse_broker_group
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    Connection,
    ConsumeFromWhere,
    ConsumerConnection,
    ConsumeStats,
    ConsumeStatsList,
    ConsumeType,
    GroupList,
    MessageModel,
    MessageQueue,
    OffsetWrapper,
    ProducerInfo,
    QuerySubscriptionBody,
    QueueTimeSpan,
    TopicList,
    consume_time_span,
    dumps,
    producer_connection,
    producer_table,
)
from fastmq.protocol.codes import LANGUAGE_NAMES, RequestCode, ResponseCode
from fastmq.protocol.headers import (
    CloneGroupOffsetRequest,
    GetBrokerConsumeStatsRequest,
    GetConsumerConnectionListRequest,
    GetConsumeStatsRequest,
    GetProducerConnectionListRequest,
    QueryConsumeTimeSpanRequest,
    QueryCorrectionOffsetRequest,
    QuerySubscriptionByConsumerRequest,
    QueryTopicConsumeByWhoRequest,
    QueryTopicsByConsumerRequest,
)

if TYPE_CHECKING:
    from fastmq._store import Store
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.broker.state.sessions import ClientChannel
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

NOTHING_TO_CORRECT: Final = (1 << 63) - 1
"""In the answer to 308: the offset of a queue that a group may not be moved to."""


# --- connections ------------------------------------------------------------------------------------------------------


def language_name(language: str | int) -> str:
    """A language as tools can read it: their enum knows only these names."""
    if isinstance(language, int):
        return LANGUAGE_NAMES.get(language, "OTHER")
    return language


def _connection(channel: ClientChannel) -> Connection:
    return Connection(
        client_id=channel.client_id,
        client_addr=channel.peer.address,
        language=language_name(channel.language),
        version=channel.version,
    )


def get_consumer_connections(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_CONSUMER_CONNECTION_LIST (203)."""
    group = GetConsumerConnectionListRequest.decode(request.ext).consumer_group
    info = broker.sessions.consumer_group(group)
    if info is None:
        return Reply(ResponseCode.CONSUMER_NOT_ONLINE, f"the consumer group[{group}] not online")
    body = ConsumerConnection(
        connection_set=tuple(_connection(channel) for channel in info.channels.values()),
        subscription_table=dict(sorted(info.subscriptions.items())),
        consume_type=ConsumeType(info.consume_type),
        message_model=MessageModel(info.message_model),
        consume_from_where=ConsumeFromWhere(info.consume_from_where),
        subscription_conflicts=broker.sessions.conflicts.of_group(group),
    )
    return Reply(body=dumps(body))


def get_producer_connections(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_PRODUCER_CONNECTION_LIST (204)."""
    group = GetProducerConnectionListRequest.decode(request.ext).producer_group
    channels = broker.sessions.producers(group)
    if not channels:
        return Reply(ResponseCode.SYSTEM_ERROR, f"the producer group[{group}] not exist")
    return Reply(body=dumps(producer_connection(map(_connection, channels))))


def get_all_producers(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_PRODUCER_INFO (328)."""
    groups = broker.sessions.producer_groups()
    data = {
        group: [
            ProducerInfo(
                client_id=channel.client_id,
                remote_ip=f"/{channel.peer.address}",
                language=language_name(channel.language),
                version=channel.version,
                last_update_timestamp=channel.last_update_ms,
            )
            for channel in groups[group]
        ]
        for group in sorted(groups)
    }
    return Reply(body=dumps(producer_table(data)))


# --- who consumes what ------------------------------------------------------------------------------------------------


def query_topic_consume_by_who(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_TOPIC_CONSUME_BY_WHO (300): groups that are online with the topic, and groups that have offsets on it."""
    topic = QueryTopicConsumeByWhoRequest.decode(request.ext).topic
    groups = broker.sessions.groups_subscribing(topic) | broker.offsets.groups_of_topic(topic)
    return Reply(body=dumps(GroupList(tuple(sorted(groups)))))


def query_topics_by_consumer(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_TOPICS_BY_CONSUMER (343): topics the group has offsets on."""
    group = QueryTopicsByConsumerRequest.decode(request.ext).group
    topics = tuple(sorted(broker.offsets.topics_of_group(group)))
    return Reply(body=dumps(TopicList(topics, broker_address(broker))))


def query_subscription_by_consumer(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_SUBSCRIPTION_BY_CONSUMER (345)."""
    header = QuerySubscriptionByConsumerRequest.decode(request.ext)
    subscription = broker.sessions.find_subscription(header.group, header.topic or "")
    body = QuerySubscriptionBody(group=header.group, topic=header.topic, subscription_data=subscription)
    return Reply(body=dumps(body))


def broker_address(broker: Broker) -> str:
    """`ip:port` as the broker registers it and as it stands in message ids."""
    return f"{broker.config.broker_ip1}:{broker.config.listen_port}"


# --- progress ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Progress:
    """One queue and what a group has read of it: offsets from the broker's tables, then end and time from the store."""

    topic: str
    queue_id: int
    consumer_offset: int
    pull_offset: int
    broker_offset: int = 0
    last_timestamp_ms: int = 0

    def wrapper(self) -> OffsetWrapper:
        return OffsetWrapper(
            broker_offset=self.broker_offset,
            consumer_offset=self.consumer_offset,
            pull_offset=self.pull_offset,
            last_timestamp=self.last_timestamp_ms,
        )


def _progress_of(broker: Broker, group: str, topic: str, queues: int) -> list[_Progress]:
    rows = []
    for queue_id in range(queues):
        consumed = max(0, broker.offsets.query(group, topic, queue_id))
        pulled = max(consumed, broker.offsets.pull_offset(group, topic, queue_id))
        rows.append(_Progress(topic, queue_id, consumed, pulled))
    return rows


def _fill(store: Store, rows: Iterable[_Progress]) -> None:
    """Ask the store about each queue. Runs in a worker thread."""
    for row in rows:
        row.broker_offset = max(0, (store.queue_offsets(row.topic, row.queue_id) or (0, 0))[1])
        if row.consumer_offset > 0:
            row.last_timestamp_ms = max(0, store.store_timestamp_at(row.topic, row.queue_id, row.consumer_offset - 1))


def _is_consumed(broker: Broker, group: str, topic: str) -> bool:
    """False for a topic with old offsets which the members of an online group subscribe to no more."""
    info = broker.sessions.consumer_group(group)
    return info is None or not info.subscriptions or broker.sessions.find_subscription(group, topic) is not None


def _stats(broker: Broker, rows: Iterable[_Progress], tps: float) -> ConsumeStats:
    name = broker.config.broker_name
    table = {MessageQueue(row.topic, name, row.queue_id): row.wrapper() for row in rows}
    return ConsumeStats(offset_table=table, consume_tps=tps)


async def get_consume_stats(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_CONSUME_STATS (208): offsets of a group on one topic, on some, or on all it ever committed on."""
    header = GetConsumeStatsRequest.decode(request.ext)
    group = header.consumer_group
    listed = [topic for topic in (header.topic_list or "").split(";") if topic]
    topics = listed or ([header.topic] if header.topic else sorted(broker.offsets.topics_of_group(group)))
    rows: list[_Progress] = []
    tps = 0.0
    broker.stats.catch_up()
    for topic in topics:
        config = broker.topics.get(topic)
        if config is None or not (listed or _is_consumed(broker, group, topic)):
            continue
        rows += _progress_of(broker, group, topic, config.read_queue_nums)
        tps += broker.stats.minute_tps("GROUP_GET_NUMS", f"{topic}@{group}", fresh=False)
    await trio.to_thread.run_sync(_fill, broker.store, rows)
    return Reply(body=dumps(_stats(broker, rows, tps)))


async def get_broker_consume_stats(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_CONSUME_STATS (317): the progress of every group; `isOrder` keeps to ordered topics."""
    only_ordered = GetBrokerConsumeStatsRequest.decode(request.ext).is_order
    groups: list[tuple[str, list[tuple[float, list[_Progress]]]]] = []
    broker.stats.catch_up()
    for group in sorted(broker.groups.names()):
        topics = []
        for topic in sorted(broker.offsets.topics_of_group(group)):
            config = broker.topics.get(topic)
            if config is None or (only_ordered and not config.order) or not _is_consumed(broker, group, topic):
                continue
            tps = broker.stats.minute_tps("GROUP_GET_NUMS", f"{topic}@{group}", fresh=False)
            topics.append((tps, _progress_of(broker, group, topic, config.write_queue_nums)))
        groups.append((group, topics))
    everything = [row for _, topics in groups for _, rows in topics for row in rows]
    await trio.to_thread.run_sync(_fill, broker.store, everything)
    body = ConsumeStatsList(
        broker_addr=broker_address(broker),
        consume_stats_list=[{group: [_stats(broker, rows, tps) for tps, rows in topics]} for group, topics in groups],
        total_diff=sum(row.broker_offset - row.consumer_offset for row in everything),
        total_inflight_diff=sum(row.pull_offset - row.consumer_offset for row in everything),
    )
    return Reply(body=dumps(body))


async def query_consume_time_span(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_CONSUME_TIME_SPAN (303): per queue the times of the oldest, newest and last consumed message."""
    header = QueryConsumeTimeSpanRequest.decode(request.ext)
    topic = broker.topics.get(header.topic)
    if topic is None:
        return Reply(ResponseCode.TOPIC_NOT_EXIST, f"No topic in this broker. topic: {header.topic}")
    consumed = [broker.offsets.query(header.group, header.topic, q) for q in range(topic.write_queue_nums)]
    now_ms = broker.clock.wall_ms()
    name = broker.config.broker_name
    queues = [MessageQueue(header.topic, name, queue_id) for queue_id in range(topic.write_queue_nums)]
    spans = await trio.to_thread.run_sync(_time_spans, broker.store, queues, consumed, now_ms)
    return Reply(body=dumps(consume_time_span(spans)))


def _time_spans(store: Store, queues: list[MessageQueue], consumed: list[int], now_ms: int) -> list[QueueTimeSpan]:
    """-1 stands for the time of a message that is not there."""
    spans = []
    for queue, offset in zip(queues, consumed, strict=True):
        low, high = store.queue_offsets(queue.topic, queue.queue_id) or (0, 0)
        oldest = store.store_timestamp_at(queue.topic, queue.queue_id, low) if high > low else -1
        newest = store.store_timestamp_at(queue.topic, queue.queue_id, high - 1) if high > low else -1
        last = store.store_timestamp_at(queue.topic, queue.queue_id, offset - 1) if offset > 0 else oldest
        head = max(offset, low)  # what the group reads next
        waiting = store.store_timestamp_at(queue.topic, queue.queue_id, head) if head < high else -1
        spans.append(
            QueueTimeSpan(
                message_queue=queue,
                min_timestamp=oldest,
                max_timestamp=newest,
                consume_timestamp=last,
                delay_time=now_ms - waiting if waiting >= 0 else 0,
            )
        )
    return spans


def query_correction_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """QUERY_CORRECTION_OFFSET (308): per queue the least offset of all groups but some.

    Where one group (`compareGroup`) is behind all of these, there is nothing to correct: the queue has 2^63 - 1.
    """
    header = QueryCorrectionOffsetRequest.decode(request.ext)
    left_out = {group for group in (header.filter_groups or "").split(",") if group}
    least: dict[int, int] = {}
    for group in broker.offsets.groups_of_topic(header.topic) - left_out:
        for queue_id, offset in broker.offsets.table_of(group).get(header.topic, {}).items():
            low = (broker.store.queue_offsets(header.topic, queue_id) or (0, 0))[0]
            if offset >= low:
                least[queue_id] = min(offset, least.get(queue_id, offset))
    for queue_id, offset in broker.offsets.table_of(header.compare_group).get(header.topic, {}).items():
        if least.get(queue_id, NOTHING_TO_CORRECT) > offset:
            least[queue_id] = NOTHING_TO_CORRECT
    return Reply(body=dumps({"correctionOffsets": dict(sorted(least.items()))}))


async def clone_group_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CLONE_GROUP_OFFSET (314): a group begins where another one is, on one topic or on all but its retry topic."""
    header = CloneGroupOffsetRequest.decode(request.ext)
    refuse_broker_group(header.dest_group)
    topics = [header.topic] if header.topic else sorted(broker.offsets.topics_of_group(header.src_group))
    for topic in topics:
        if topic not in broker.topics or names.is_retry_topic(topic):
            continue
        if not header.offline and not _is_consumed(broker, header.src_group, topic):
            continue
        broker.offsets.clone(header.src_group, header.dest_group, topic)
    await broker.save_consumer_offsets()
    return Reply()


# --- whole tables, for slaves and exports -----------------------------------------------------------------------------


async def get_all_consumer_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_CONSUMER_OFFSET (43)."""
    return Reply(body=await trio.to_thread.run_sync(broker.offsets.view()))


def get_all_delay_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_DELAY_OFFSET (45): how far delivery of each delay level has come."""
    return Reply(body=dumps(broker.delay.to_body()))


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.GET_CONSUMER_CONNECTION_LIST: get_consumer_connections,
    RequestCode.GET_PRODUCER_CONNECTION_LIST: get_producer_connections,
    RequestCode.GET_ALL_PRODUCER_INFO: get_all_producers,
    RequestCode.QUERY_TOPIC_CONSUME_BY_WHO: query_topic_consume_by_who,
    RequestCode.QUERY_TOPICS_BY_CONSUMER: query_topics_by_consumer,
    RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER: query_subscription_by_consumer,
    RequestCode.GET_CONSUME_STATS: get_consume_stats,
    RequestCode.GET_BROKER_CONSUME_STATS: get_broker_consume_stats,
    RequestCode.QUERY_CONSUME_TIME_SPAN: query_consume_time_span,
    RequestCode.QUERY_CORRECTION_OFFSET: query_correction_offset,
    RequestCode.CLONE_GROUP_OFFSET: clone_group_offset,
    RequestCode.GET_ALL_CONSUMER_OFFSET: get_all_consumer_offset,
    RequestCode.GET_ALL_DELAY_OFFSET: get_all_delay_offset,
}
