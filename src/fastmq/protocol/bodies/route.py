"""What the name server tells and is told: routes, clusters, registrations, key-value tables."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from fastmq.protocol._json_text import JsonError, dumps, loads_lenient
from fastmq.protocol.bodies._read import as_bool, as_int, as_list, as_map, as_optional_str, as_str, read_object
from fastmq.protocol.bodies.config import DataVersion, TopicConfig, TopicConfigTable

MASTER_ID: Final = 0
STRICT_JSON_VERSION: Final = 401
"""Requests of this version (4.9.4) and later get route bodies as legal JSON."""
FULL_REGISTER_VERSION: Final = 37
"""Brokers older than this (3.0.11) register with a bare topic table."""
MAPPING_REGISTER_VERSION: Final = 413
"""Brokers from this version (5.0.0) on write static topics into compressed registrations."""
MAX_REGISTER_BYTES: Final = 64 << 20
"""How large a compressed registration may become when it is unpacked."""

_INT = struct.Struct(">i")


def _addresses(value: Any) -> dict[int, str]:
    return {as_int(key): address for key, address in as_map(value, as_str).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueData:
    """The queues of a topic on one broker."""

    broker_name: str
    read_queue_nums: int
    write_queue_nums: int
    perm: int
    topic_sys_flag: int = 0

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "brokerName": self.broker_name,
            "perm": self.perm,
            "readQueueNums": self.read_queue_nums,
            "topicSysFlag": self.topic_sys_flag,
            "writeQueueNums": self.write_queue_nums,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not one. `topicSynFlag` is the old spelling."""
        value = read_object(value, "queue data")
        return cls(
            broker_name=as_str(value.get("brokerName")),
            read_queue_nums=as_int(value.get("readQueueNums")),
            write_queue_nums=as_int(value.get("writeQueueNums")),
            perm=as_int(value.get("perm")),
            topic_sys_flag=as_int(value.get("topicSysFlag", value.get("topicSynFlag"))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerData:
    """The brokers of one name: broker id (0 is the master) → `ip:port`."""

    broker_name: str
    cluster: str
    broker_addrs: Mapping[int, str] = field(default_factory=dict)
    zone_name: str | None = None
    enable_acting_master: bool = False

    def to_json(self, strict: bool = True) -> dict[str, Any]:
        """Members as on the wire. Not strict: the form of 4.x, which has no `enableActingMaster`."""
        return {
            "brokerAddrs": dict(sorted(self.broker_addrs.items())),
            "brokerName": self.broker_name,
            "cluster": self.cluster,
            "enableActingMaster": self.enable_acting_master if strict else None,
            "zoneName": self.zone_name,
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read parsed JSON. JsonError if it is not one."""
        value = read_object(value, "broker data")
        return cls(
            broker_name=as_str(value.get("brokerName")),
            cluster=as_str(value.get("cluster")),
            broker_addrs=_addresses(value.get("brokerAddrs")),
            zone_name=as_optional_str(value.get("zoneName")),
            enable_acting_master=as_bool(value.get("enableActingMaster")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicRouteData:
    """Where a topic is: body of code 105."""

    queue_datas: tuple[QueueData, ...] = ()
    broker_datas: tuple[BrokerData, ...] = ()
    order_topic_conf: str | None = None
    filter_server_table: Mapping[str, list[str]] = field(default_factory=dict)
    topic_queue_mapping_by_broker: Mapping[str, Any] | None = None

    def to_json(self, strict: bool = True) -> dict[str, Any]:
        """Members as on the wire; `strict` as in `encode`."""
        return {
            "brokerDatas": [data.to_json(strict) for data in self.broker_datas],
            "filterServerTable": dict(self.filter_server_table),
            "orderTopicConf": self.order_topic_conf,
            "queueDatas": list(self.queue_datas),
            "topicQueueMappingByBroker": self.topic_queue_mapping_by_broker or None,
        }

    def encode(self, strict: bool) -> bytes:
        """The body. Strict: legal ASCII JSON, for requests from STRICT_JSON_VERSION on. Else with bare broker ids and
        without true, false and null, as readers of the 4.x form need it.
        """
        return dumps(self.to_json(strict), int_keys_quoted=strict, ascii_only=strict)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read either form of the body, or parsed JSON. JsonError if it is not a route."""
        value = read_object(value, "a topic route")
        mapping = value.get("topicQueueMappingByBroker")
        return cls(
            queue_datas=tuple(as_list(value.get("queueDatas"), QueueData.from_json)),
            broker_datas=tuple(as_list(value.get("brokerDatas"), BrokerData.from_json)),
            order_topic_conf=as_optional_str(value.get("orderTopicConf")),
            filter_server_table=as_map(value.get("filterServerTable"), lambda item: as_list(item, as_str)),
            topic_queue_mapping_by_broker=None if mapping is None else as_map(mapping, lambda item: item),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterInfo:
    """All brokers and clusters: body of code 106."""

    broker_addr_table: Mapping[str, BrokerData] = field(default_factory=dict)
    cluster_addr_table: Mapping[str, Iterable[str]] = field(default_factory=dict)

    def to_json(self, strict: bool = True) -> dict[str, Any]:
        """Members as on the wire; `strict` as in `TopicRouteData.encode`."""
        return {
            "brokerAddrTable": {name: data.to_json(strict) for name, data in self.broker_addr_table.items()},
            "clusterAddrTable": {name: list(brokers) for name, brokers in self.cluster_addr_table.items()},
        }

    def encode(self, strict: bool) -> bytes:
        """The body, in the form of `TopicRouteData.encode` but never escaped to ASCII."""
        return dumps(self.to_json(strict), int_keys_quoted=strict)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read either form of the body, or parsed JSON. JsonError if it is not one."""
        value = read_object(value, "cluster info")
        return cls(
            broker_addr_table=as_map(value.get("brokerAddrTable"), BrokerData.from_json),
            cluster_addr_table=as_map(value.get("clusterAddrTable"), lambda item: as_list(item, as_str)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerMemberGroup:
    """The brokers of one name: body of code 901."""

    cluster: str
    broker_name: str
    broker_addrs: Mapping[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {
            "brokerMemberGroup": {
                "brokerAddrs": dict(sorted(self.broker_addrs.items())),
                "brokerName": self.broker_name,
                "cluster": self.cluster,
            }
        }

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(read_object(value, "the body").get("brokerMemberGroup") or {}, "a broker member group")
        return cls(
            cluster=as_str(value.get("cluster")),
            broker_name=as_str(value.get("brokerName")),
            broker_addrs=_addresses(value.get("brokerAddrs")),
        )


# --- key-value tables and lists --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KVTable:
    """Text by text: bodies of codes 28, 219 and the answer to 103."""

    table: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"table": dict(self.table)}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        return cls(as_map(read_object(value, "a table").get("table"), as_str))


@dataclass(frozen=True, slots=True)
class TopicList:
    """Names of topics: bodies of codes 206, 224, 304, 305, 311 to 313, 343."""

    topic_list: tuple[str, ...] = ()
    broker_addr: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"brokerAddr": self.broker_addr, "topicList": self.topic_list}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        value = read_object(value, "a topic list")
        return cls(tuple(as_list(value.get("topicList"), as_str)), as_optional_str(value.get("brokerAddr")))


@dataclass(frozen=True, slots=True)
class GroupList:
    """Names of groups: body of code 300."""

    group_list: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Members as on the wire."""
        return {"groupList": self.group_list}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the body. JsonError if it is not one."""
        return cls(tuple(as_list(read_object(value, "a group list").get("groupList"), as_str)))


# --- registration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterBrokerBody:
    """The body of REGISTER_BROKER (103)."""

    topics: TopicConfigTable = field(default_factory=TopicConfigTable)
    filter_server_list: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Members of the plain form."""
        return {"filterServerList": self.filter_server_list, "topicConfigSerializeWrapper": self.topics}

    def encode(self, *, compressed: bool = False, version: int = MAPPING_REGISTER_VERSION) -> bytes:
        """The body, in the plain form or the compressed one that brokers of `version` write."""
        if not compressed:
            return dumps(self)
        topics = self.topics
        parts = [_block(dumps(topics.data_version)), _INT.pack(len(topics.topic_config_table))]
        parts += [_block(config.encode().encode()) for config in topics.topic_config_table.values()]
        parts.append(_block(dumps(self.filter_server_list)))
        if version >= MAPPING_REGISTER_VERSION:
            parts.append(_INT.pack(len(topics.topic_queue_mapping_info_map)))
            parts += [_block(dumps(mapping)) for mapping in topics.topic_queue_mapping_info_map.values()]
        return zlib.compress(b"".join(parts))

    @classmethod
    def decode(cls, body: bytes, *, version: int = MAPPING_REGISTER_VERSION) -> Self:
        """Read the body of a broker of `version`, whichever form it has. JsonError if it is neither.

        The form is told by the first byte: a 5.3 broker that compresses says in its header that it does not.
        """
        if not body:
            return cls()
        if body[:1] == b"\x78":
            return cls._decode_compressed(_unpack(body), version)
        value = read_object(body, "a registration")
        if version < FULL_REGISTER_VERSION:
            return cls(TopicConfigTable.from_json(value))
        return cls(
            TopicConfigTable.from_json(value.get("topicConfigSerializeWrapper") or {}),
            tuple(as_list(value.get("filterServerList"), as_str)),
        )

    @classmethod
    def _decode_compressed(cls, data: bytes, version: int) -> Self:
        text, pos = _read_block(data, 0)
        data_version = DataVersion.from_json(text)
        count, pos = _read_int(data, pos)
        topics: dict[str, TopicConfig] = {}
        for _ in range(count):
            text, pos = _read_block(data, pos)
            config = TopicConfig.decode(text)
            topics[config.topic_name] = config
        text, pos = _read_block(data, pos)
        filter_servers = as_list(loads_lenient(text), as_str)
        mappings: dict[str, Any] = {}
        if version >= MAPPING_REGISTER_VERSION:
            count, pos = _read_int(data, pos)
            for _ in range(count):
                text, pos = _read_block(data, pos)
                mapping = read_object(text, "a queue mapping")
                mappings[as_str(mapping.get("topic"))] = mapping
        table = TopicConfigTable(
            topic_config_table=topics, data_version=data_version, topic_queue_mapping_info_map=mappings
        )
        return cls(table, tuple(filter_servers))


def _block(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def _read_int(data: bytes, pos: int) -> tuple[int, int]:
    if len(data) - pos < 4:
        raise JsonError("a registration is cut off")
    (value,) = _INT.unpack_from(data, pos)
    if not 0 <= value <= len(data) - pos - 4:
        raise JsonError(f"a registration has a part of length {value}")
    return value, pos + 4


def _read_block(data: bytes, pos: int) -> tuple[str, int]:
    length, pos = _read_int(data, pos)
    return str(data[pos : pos + length], "utf-8", "replace"), pos + length


def _unpack(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(body, MAX_REGISTER_BYTES)
    except zlib.error as error:
        raise JsonError(f"a registration cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise JsonError("a compressed registration is cut off or too large")
    return data
