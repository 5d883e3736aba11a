"""Topics by command: create, change, delete, list, look at (RocketMQ's AdminBrokerProcessor).

Creating and deleting wait (a few seconds at most) until the name servers know: whoever asked looks for the route next.
Name servers that cannot be reached are not waited for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from fastmq.broker.handlers.admin import require_local
from fastmq.errors import ProtocolError, RequestError
from fastmq.limits import MAX_QUEUES
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    DataVersion,
    MessageQueue,
    TopicConfig,
    TopicConfigTable,
    TopicList,
    TopicOffset,
    TopicStatsTable,
    dumps,
    topic_config_list,
)
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import (
    CreateTopicRequest,
    DeleteTopicRequest,
    GetAllTopicConfigRequest,
    GetAllTopicConfigResponse,
    GetTopicConfigRequest,
    GetTopicStatsInfoRequest,
)

if TYPE_CHECKING:
    from fastmq._store import Store
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

ANNOUNCE_TIMEOUT_S: Final = 3.0  # mqadmin gives up after 5 s
PAGE_MAX: Final = 2000  # splitMetadataSize
PERM_MAX: Final = 7

# Attributes of a topic: name -> (allowed values, None for a whole number; whether it may change later)
ATTRIBUTES: Final[Mapping[str, tuple[frozenset[str] | None, bool]]] = {
    "queue.type": (frozenset({"BatchCQ", "SimpleCQ"}), False),
    "cleanup.policy": (frozenset({"DELETE", "COMPACTION"}), False),
    "message.type": (frozenset({"UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED"}), True),
    "reserve.time": (None, True),
}
# Legal in RocketMQ, but fastmq has no such queues; accepting them would promise what does not happen.
NOT_BUILT: Final = frozenset({("queue.type", "BatchCQ"), ("cleanup.policy", "COMPACTION")})


_Item = TypeVar("_Item")

# --- create and change ------------------------------------------------------------------------------------------------


async def update_and_create_topic(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_CREATE_TOPIC (17)."""
    header = CreateTopicRequest.decode(request.ext)
    wanted = TopicConfig(
        topic_name=header.topic,
        read_queue_nums=header.read_queue_nums,
        write_queue_nums=header.write_queue_nums,
        perm=header.perm,
        topic_filter_type=header.topic_filter_type,
        topic_sys_flag=header.topic_sys_flag or 0,
        order=header.order,
    )
    changes = parse_attributes(header.attributes or "")
    topic = _checked(broker, wanted, changes)
    if topic != broker.topics.get(topic.topic_name):
        _check_permitted(broker, peer, topic)
        broker.topics.put(topic)
        await broker.registrar.wait_announced(ANNOUNCE_TIMEOUT_S)
    return Reply()


async def update_and_create_topic_list(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_CREATE_TOPIC_LIST (18): all of them, or none if one is refused."""
    changed = []
    for wanted in topic_config_list(request.body):
        topic = _checked(broker, wanted, wanted.attributes)
        if topic != broker.topics.get(topic.topic_name):
            _check_permitted(broker, peer, topic)
            changed.append(topic)
    if changed:
        broker.topics.put_many(changed)
        await broker.registrar.wait_announced(ANNOUNCE_TIMEOUT_S)
    return Reply()


def _check_permitted(broker: Broker, peer: Peer, topic: TopicConfig) -> None:
    """Anybody may create what a send would create, too; changing a topic can take it from its users."""
    if topic.topic_name in broker.topics:
        require_local(broker, peer, "changing a topic")
    elif not broker.config.auto_create_topic_enable:
        require_local(broker, peer, "creating a topic")


def _checked(broker: Broker, wanted: TopicConfig, attribute_changes: Mapping[str, str]) -> TopicConfig:
    """The topic as it is to be stored. Raises RequestError for whatever RocketMQ refuses, and for nonsense."""
    name = wanted.topic_name
    problem = names.validate_topic(name)
    if problem is not None:
        raise RequestError(ResponseCode.INVALID_PARAMETER, problem)
    _refuse_system(broker, name)
    if not 0 <= wanted.perm <= PERM_MAX:
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"perm {wanted.perm} is not between 0 and {PERM_MAX}")
    if not (0 <= wanted.read_queue_nums <= MAX_QUEUES and 0 <= wanted.write_queue_nums <= MAX_QUEUES):
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"the number of queues is not between 0 and {MAX_QUEUES}")
    if wanted.topic_filter_type not in ("SINGLE_TAG", "MULTI_TAG"):
        raise RequestError(
            ResponseCode.INVALID_PARAMETER, f"topicFilterType {wanted.topic_filter_type} is not SINGLE_TAG or MULTI_TAG"
        )
    known = broker.topics.get(name)
    attributes = change_attributes(None if known is None else known.attributes, attribute_changes)
    if attributes.get("message.type") == "MIXED" and not broker.config.enable_mixed_message_type:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER, "MIXED message type is not supported: enableMixedMessageType is off"
        )
    return TopicConfig(
        topic_name=name,
        read_queue_nums=wanted.read_queue_nums,
        write_queue_nums=wanted.write_queue_nums,
        perm=wanted.perm,
        topic_filter_type=wanted.topic_filter_type,
        topic_sys_flag=wanted.topic_sys_flag,
        order=wanted.order,
        attributes=attributes,
    )


def _refuse_system(broker: Broker, name: str) -> None:
    if broker.config.validate_system_topic_when_update_topic and broker.topics.is_system(name):
        raise RequestError(ResponseCode.INVALID_PARAMETER, f"The topic[{name}] is conflict with system topic.")


def parse_attributes(text: str) -> dict[str, str]:
    """`+a=1,-b` as {"+a": "1", "-b": ""}. Raises RequestError for text that is neither."""
    changes: dict[str, str] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = piece.partition("=")
        key = name.strip()
        if key[:1] == "+" and equals:
            changes_value = value.strip()
        elif key[:1] == "-" and not equals:
            changes_value = ""
        else:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"kv string format wrong: {piece}")
        if key in changes:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"key duplication: {key}")
        changes[key] = changes_value
    return changes


def change_attributes(current: Mapping[str, str] | None, changes: Mapping[str, str]) -> dict[str, str]:
    """Attributes of a topic after `+name` and `-name` changes; `current` None for a new topic (AttributeUtil)."""
    result = dict(current or {})
    touched: set[str] = set()
    for signed, value in changes.items():
        sign, name = signed[:1], signed[1:]
        if sign not in ("+", "-") or not name or "+" in name or "-" in name:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"wrong format key: {signed}")
        if name in touched:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"alter duplication key: {name}")
        touched.add(name)
        known = ATTRIBUTES.get(name)
        if known is None:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"unsupported key: {name}")
        values, changeable = known
        if sign == "-":
            if current is None:
                raise RequestError(
                    ResponseCode.SYSTEM_ERROR, f"only add attribute is supported while creating topic. key: {signed}"
                )
            if name not in result:
                raise RequestError(ResponseCode.SYSTEM_ERROR, f"attempt to delete a nonexistent key: {name}")
            if not changeable:
                raise RequestError(ResponseCode.SYSTEM_ERROR, f"attempt to delete an unchangeable key: {name}")
            del result[name]
            continue
        valid = value in values if values is not None else value.lstrip("-").isdigit() and int(value) >= -1
        if not valid:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"value is not in range: {name}={value}")
        if (name, value) in NOT_BUILT:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"{name}={value} is not supported by fastmq")
        if current is not None and not changeable and result.get(name, value) != value:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"attempt to update an unchangeable attribute: {name}")
        result[name] = value
    return result


# --- delete ----------------------------------------------------------------------------------------------------------


async def delete_topic(broker: Broker, peer: Peer, request: Command) -> Reply:
    """DELETE_TOPIC_IN_BROKER (215): the topic, its queues, everybody's offsets on it, its pop retry topics."""
    name = DeleteTopicRequest.decode(request.ext).topic
    if not name.strip():
        raise RequestError(ResponseCode.INVALID_PARAMETER, "The specified topic is blank.")
    _refuse_system(broker, name)
    doomed = [name]
    if broker.config.clear_retry_topic_when_delete_topic:
        for group in broker.offsets.groups_of_topic(name):
            retry_topics = (names.pop_retry_topic(group, name, v2=v2) for v2 in (False, True))
            doomed += [topic for topic in retry_topics if topic in broker.topics]
    for topic in doomed:
        broker.topics.delete(topic)
        broker.offsets.delete_topic(topic)
        broker.order.delete_topic(topic)
        broker.pop.inflight.forget(topic=topic)
        broker.broadcast.delete(topic=topic)
        broker.popwaits.topic_gone(topic)
        broker.transactions.metrics.forget(topic)
    # before the messages go: after a crash no group may be ahead of a topic that is made anew
    await broker.save_consumer_offsets()
    for topic in doomed:
        await trio.to_thread.run_sync(broker.store.delete_topic_data, topic)
        if broker.config.auto_delete_unused_stats:
            broker.stats.forget_topic(topic)
    await broker.registrar.wait_announced(ANNOUNCE_TIMEOUT_S)
    return Reply()


async def clean_unused_topic(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CLEAN_UNUSED_TOPIC (316): remove the queues of topics that exist no more."""
    unused = {topic for topic, *_ in broker.store.queues() if topic not in broker.topics}
    for topic in sorted(unused):
        # light queues are in no table; while enableLmq is off nobody can tell which of them are used
        if not broker.topics.is_system(topic) and not names.is_light_queue(topic):
            await trio.to_thread.run_sync(broker.store.delete_topic_data, topic)
    return Reply()


# --- look ------------------------------------------------------------------------------------------------------------


def get_all_topic_config(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_TOPIC_CONFIG (21): everything, or a page for a reader that names the version it has begun with."""
    header = GetAllTopicConfigRequest.decode(request.ext)
    version = broker.topics.data_version
    boot_ms = broker.stats.boot_timestamp_ms
    names = sorted(broker.topics.names()) if header.data_version else []
    page = page_of(names, header.topic_seq, header.max_topic_num, header.data_version, version)
    if page is None:
        return Reply(body=broker.topics.listing(boot_ms))
    table = TopicConfigTable(data_version=version, mapping_data_version=DataVersion(timestamp=boot_ms))
    return Reply(
        ext=GetAllTopicConfigResponse(total_topic_num=len(names)).encode(),
        body=dumps(table.to_json() | {"topicConfigTable": broker.topics.texts(page)}),
    )


def page_of(
    items: list[_Item],
    sequence: int | None,
    maximum: int | None,
    version_text: str | None,
    now: DataVersion,
) -> list[_Item] | None:
    """A page of a table, or None if the reader did not ask for one and gets everything.

    The reader repeats the version its first page came with; if the table has changed since, it starts from 0 again.
    """
    if sequence is None or not version_text:
        return None
    try:
        same = DataVersion.from_json(version_text) == now
    except ProtocolError:
        same = False
    start = max(0, sequence) if same else 0
    count = PAGE_MAX if maximum is None or maximum <= 0 else min(maximum, PAGE_MAX)
    return items[start : start + count]


def get_topic_config(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_TOPIC_CONFIG (351). 5.x tools ask this of every broker and only understand code 17 as "not here"."""
    name = GetTopicConfigRequest.decode(request.ext).topic
    topic = broker.topics.get(name)
    if topic is None:
        return Reply(ResponseCode.TOPIC_NOT_EXIST, f"No topic in this broker. topic: {name}")
    return Reply(body=dumps(topic))


async def get_topic_stats_info(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_TOPIC_STATS_INFO (202): offsets and time of the newest message of each queue."""
    name = GetTopicStatsInfoRequest.decode(request.ext).topic
    topic = broker.topics.get(name)
    if topic is None:
        return Reply(ResponseCode.TOPIC_NOT_EXIST, f"topic[{name}] not exist")
    queues = max(topic.read_queue_nums, topic.write_queue_nums)
    rows = await trio.to_thread.run_sync(partial(_queue_rows, broker.store, name, queues))
    table = {
        MessageQueue(name, broker.config.broker_name, queue_id): TopicOffset(
            min_offset=min_offset, max_offset=max_offset, last_update_timestamp=newest_ms
        )
        for queue_id, (min_offset, max_offset, newest_ms) in enumerate(rows)
    }
    tps = broker.stats.minute_tps("TOPIC_PUT_NUMS", name)
    return Reply(body=dumps(TopicStatsTable(offset_table=table, topic_put_tps=tps)))


def _queue_rows(store: Store, topic: str, queues: int) -> list[tuple[int, int, int]]:
    rows = []
    for queue_id in range(queues):
        min_offset, max_offset = store.queue_offsets(topic, queue_id) or (0, 0)
        newest_ms = store.store_timestamp_at(topic, queue_id, max_offset - 1) if max_offset > 0 else 0
        rows.append((max(0, min_offset), max(0, max_offset), max(0, newest_ms)))
    return rows


def get_system_topic_list(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_SYSTEM_TOPIC_LIST_FROM_BROKER (305)."""
    return Reply(body=dumps(TopicList(tuple(sorted(broker.topics.system_names | names.SYSTEM_TOPICS)))))


def update_and_create_static_topic(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_CREATE_STATIC_TOPIC (513): refused, queues do not move between brokers here."""
    return Reply(ResponseCode.SYSTEM_ERROR, "static topics are not supported by fastmq")


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.UPDATE_AND_CREATE_TOPIC: update_and_create_topic,
    RequestCode.UPDATE_AND_CREATE_TOPIC_LIST: update_and_create_topic_list,
    RequestCode.UPDATE_AND_CREATE_STATIC_TOPIC: update_and_create_static_topic,
    RequestCode.DELETE_TOPIC_IN_BROKER: delete_topic,
    RequestCode.CLEAN_UNUSED_TOPIC: clean_unused_topic,
    RequestCode.GET_ALL_TOPIC_CONFIG: get_all_topic_config,
    RequestCode.GET_TOPIC_CONFIG: get_topic_config,
    RequestCode.GET_TOPIC_STATS_INFO: get_topic_stats_info,
    RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER: get_system_topic_list,
}
