"""Bodies of name server requests and answers: registrations in, routes and lists out.

A registration comes in three forms, told apart by its first byte and the sender's version:

    plain        {"filterServerList":[..],"topicConfigSerializeWrapper":{"dataVersion":..,"topicConfigTable":{..},..}}
    before 3.0.11  the inner wrapper alone
    compressed   a zlib stream of
                   int32 n, n bytes  data version, JSON
                   int32             number of topics
                   int32 n, n bytes  each topic: `name readQueues writeQueues perm filterType [attributes]`
                   int32 n, n bytes  filter servers, a JSON list
                   int32             number of static mappings, from 5.0 on
                   int32 n, n bytes  each mapping, JSON

After RocketMQ's RegisterBrokerBody and TopicRouteData.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastmq import limits
from fastmq.errors import ProtocolError, RequestError
from fastmq.nameserver.routes import NO_VERSION, BrokerData, QueueData, Route, Version
from fastmq.protocol.bodies import dumps, loads_lenient
from fastmq.protocol.codes import ResponseCode

FIRST_VERSION_WITH_FILTERS: Final = 37  # 3.0.11: older brokers send the topic wrapper alone
FIRST_VERSION_WITH_MAPPINGS: Final = 413  # 5.0.0
FIRST_STRICT_VERSION: Final = 401  # 4.9.4: reads legal JSON; older readers get unquoted ids and no literals

_INT32 = struct.Struct(">i")


@dataclass(slots=True)
class RegistrationBody:
    """What the body of REGISTER_BROKER holds."""

    version: Version = NO_VERSION
    topics: dict[str, QueueData] = field(default_factory=dict)
    filter_servers: list[str] = field(default_factory=list)
    mappings: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def decode_registration(body: bytes, sender_version: int) -> RegistrationBody:
    """Read a registration body in any of its forms; empty is legal. Raises RequestError for anything else."""
    if not body:
        return RegistrationBody()
    try:
        if body.lstrip()[:1] != b"{":
            return _decode_compressed(body, sender_version)
        wrapper = _object(loads_lenient(body))
        filters: list[str] = []
        if sender_version >= FIRST_VERSION_WITH_FILTERS:
            filters = [str(server) for server in wrapper.get("filterServerList") or []]
            wrapper = _object(wrapper.get("topicConfigSerializeWrapper") or {})
        topics = _object(wrapper.get("topicConfigTable") or {})
        mappings = _object(wrapper.get("topicQueueMappingInfoMap") or {})
        return RegistrationBody(
            decode_version(wrapper.get("dataVersion")),
            {str(name): decode_queues(_object(topic)) for name, topic in topics.items()},
            filters,
            {str(name): _object(mapping) for name, mapping in mappings.items()},
        )
    except (ProtocolError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the registration cannot be read: {error}") from error


def _decode_compressed(body: bytes, sender_version: int) -> RegistrationBody:
    inflater = zlib.decompressobj()
    reader = _Reader(inflater.decompress(body, limits.MAX_REGISTRATION_BYTES))
    if not inflater.eof:
        raise ValueError(f"it is cut off or unpacks to more than {limits.MAX_REGISTRATION_BYTES} bytes")
    result = RegistrationBody(decode_version(loads_lenient(reader.block())))
    for _ in range(reader.number()):
        name, read_queues, write_queues, perm, *_rest = reader.block().decode().split(" ")
        result.topics[name] = QueueData("", int(read_queues), int(write_queues), int(perm))
    result.filter_servers = [str(server) for server in loads_lenient(reader.block()) or []]
    if sender_version >= FIRST_VERSION_WITH_MAPPINGS:
        for _ in range(reader.number()):
            mapping = _object(loads_lenient(reader.block()))
            result.mappings[str(mapping.get("topic"))] = mapping
    return result


class _Reader:
    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def number(self) -> int:
        (number,) = _INT32.unpack_from(self._data, self._position)
        self._position += _INT32.size
        return int(number)

    def block(self) -> bytes:
        length = self.number()
        end = self._position + length
        if length < 0 or end > len(self._data):
            raise ValueError(f"a length of {length} at byte {self._position} leads outside")
        block = self._data[self._position : end]
        self._position = end
        return block


def decode_version(value: object) -> Version:
    """A DataVersion object; one that is absent is all zeros. Raises ValueError."""
    if value is None:
        return NO_VERSION
    fields = _object(value)
    return Version(_number(fields, "stateVersion"), _number(fields, "timestamp"), _number(fields, "counter"))


def decode_version_body(body: bytes) -> Version:
    """The DataVersion that is a whole body. Raises RequestError."""
    try:
        return decode_version(loads_lenient(body) if body else None)
    except (ProtocolError, ValueError) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the data version cannot be read: {error}") from error


def decode_queues(topic: Mapping[str, Any]) -> QueueData:
    """What routes need of a TopicConfig or QueueData object. Raises ValueError."""
    return QueueData(
        str(topic.get("brokerName") or ""),
        _number(topic, "readQueueNums", 16),
        _number(topic, "writeQueueNums", 16),
        _number(topic, "perm", 6),
        _number(topic, "topicSysFlag"),
    )


def decode_topic_queues(body: bytes) -> list[QueueData]:
    """The queues of a TopicRouteData body (REGISTER_TOPIC_IN_NAMESRV). Raises RequestError."""
    if not body:
        return []
    try:
        route = _object(loads_lenient(body))
        return [decode_queues(_object(queues)) for queues in route.get("queueDatas") or []]
    except (ProtocolError, ValueError, TypeError) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"the route cannot be read: {error}") from error


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"an object was expected, found {type(value).__name__}")
    return value


def _number(fields: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool | float) or not isinstance(value, int | str):
        raise ValueError(f"{name} is not a whole number")
    return int(value)


# --- answers -------------------------------------------------------------------------------------------------------


def is_strict(version: int, asked: bool | None = None) -> bool:
    """Whether a reader gets legal JSON, by the version it sent or because it asked for it."""
    return bool(asked) or version >= FIRST_STRICT_VERSION


def route_body(route: Route, order: str | None, *, strict: bool) -> bytes:
    """TopicRouteData. Old readers need unquoted broker ids and no `false`; new ones quoted ids, ASCII, and the flag."""
    return dumps(
        {
            "brokerDatas": [_broker_object(broker, strict=strict) for broker in route.brokers],
            "filterServerTable": route.filters,
            "orderTopicConf": order,
            "queueDatas": [
                {
                    "brokerName": queue.broker_name,
                    "perm": queue.perm,
                    "readQueueNums": queue.read_queues,
                    "topicSysFlag": queue.sys_flag,
                    "writeQueueNums": queue.write_queues,
                }
                for queue in route.queues
            ],
            "topicQueueMappingByBroker": route.mappings,
        },
        int_keys_quoted=strict,
        ascii_only=strict,
    )


def cluster_body(brokers: Mapping[str, BrokerData], clusters: Mapping[str, list[str]], *, strict: bool) -> bytes:
    """ClusterInfo: every group of brokers and the names in every cluster."""
    return dumps(
        {
            "brokerAddrTable": {name: _broker_object(broker, strict=strict) for name, broker in brokers.items()},
            "clusterAddrTable": dict(clusters),
        },
        int_keys_quoted=strict,
    )


def _broker_object(broker: BrokerData, *, strict: bool) -> dict[str, Any]:
    return {
        "brokerAddrs": dict(broker.addresses),
        "brokerName": broker.name,
        "cluster": broker.cluster,
        "enableActingMaster": broker.acting_master if strict else None,
        "zoneName": broker.zone,
    }


def member_group_body(cluster: str, name: str, addresses: Mapping[int, str]) -> bytes:
    """BrokerMemberGroup of GET_BROKER_MEMBER_GROUP."""
    return dumps({"brokerMemberGroup": {"brokerAddrs": dict(addresses), "brokerName": name, "cluster": cluster}})


def topic_list_body(topics: list[str], broker_address: str | None = None) -> bytes:
    """TopicList."""
    return dumps({"brokerAddr": broker_address, "topicList": topics})


def table_body(table: Mapping[str, str]) -> bytes:
    """KVTable."""
    return dumps({"table": dict(table)})


def version_body(version: Version) -> bytes:
    """DataVersion."""
    return dumps({"counter": version.counter, "stateVersion": version.state_version, "timestamp": version.timestamp})
