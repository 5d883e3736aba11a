"""Messages: the stored record, the properties text, batches, ids and tag codes.

The record, as it lies in the commit log and as consumers get it (RocketMQ's MessageDecoder), integers big-endian:

    size 4 · magic 4 · body crc 4 · queue id 4 · flag 4 · queue offset 8 · log offset 8 · sys flag 4 · born time 8 ·
    born host 8|20 · store time 8 · store host 8|20 · reconsume times 4 · prepared offset 8 · body length 4, body ·
    topic length 1 (V1) | 2 (V2), topic · properties length 2, properties

A host is its address (4 bytes, or 16 with the IPv6 bit of the sys flag) and a 4-byte port. The body crc is the CRC-32
of the body without its top bit. Times are ms. Whatever a length claims, nothing outside the buffer is read: a record
whose lengths contradict its size raises ProtocolError.
"""

from __future__ import annotations

import socket
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from fastmq.errors import ProtocolError
from fastmq.limits import MAX_PROPERTIES_BYTES
from fastmq.protocol._json_text import to_utf8

MAGIC_V1: Final = 0xDAA320A7
MAGIC_V2: Final = 0xDAA320AB
MAGIC_BLANK: Final = 0xCBD43194
"""Fills the rest of a commit log file; never sent."""

# --- system flag (MessageSysFlag) ---
COMPRESSED_FLAG: Final = 0x1
MULTI_TAGS_FLAG: Final = 0x2
TRANSACTION_NOT_TYPE: Final = 0x0
TRANSACTION_PREPARED_TYPE: Final = 0x4
TRANSACTION_COMMIT_TYPE: Final = 0x8
TRANSACTION_ROLLBACK_TYPE: Final = 0xC
TRANSACTION_MASK: Final = 0xC
BORN_HOST_V6_FLAG: Final = 0x10
STORE_HOST_V6_FLAG: Final = 0x20
NEED_UNWRAP_FLAG: Final = 0x40
INNER_BATCH_FLAG: Final = 0x80
COMPRESSION_TYPE_MASK: Final = 0x700
COMPRESSION_LZ4: Final = 0x100
COMPRESSION_ZSTD: Final = 0x200
COMPRESSION_ZLIB: Final = 0x300

# --- property names (MessageConst) ---
PROPERTY_KEYS: Final = "KEYS"
PROPERTY_TAGS: Final = "TAGS"
PROPERTY_WAIT_STORE_MSG_OK: Final = "WAIT"
PROPERTY_DELAY_TIME_LEVEL: Final = "DELAY"
PROPERTY_RETRY_TOPIC: Final = "RETRY_TOPIC"
PROPERTY_REAL_TOPIC: Final = "REAL_TOPIC"
PROPERTY_REAL_QUEUE_ID: Final = "REAL_QID"
PROPERTY_TRANSACTION_PREPARED: Final = "TRAN_MSG"
PROPERTY_PRODUCER_GROUP: Final = "PGROUP"
PROPERTY_MIN_OFFSET: Final = "MIN_OFFSET"
PROPERTY_MAX_OFFSET: Final = "MAX_OFFSET"
PROPERTY_BUYER_ID: Final = "BUYER_ID"
PROPERTY_ORIGIN_MESSAGE_ID: Final = "ORIGIN_MESSAGE_ID"
PROPERTY_TRANSFER_FLAG: Final = "TRANSFER_FLAG"
PROPERTY_CORRECTION_FLAG: Final = "CORRECTION_FLAG"
PROPERTY_MQ2_FLAG: Final = "MQ2_FLAG"
PROPERTY_RECONSUME_TIME: Final = "RECONSUME_TIME"
PROPERTY_MAX_RECONSUME_TIMES: Final = "MAX_RECONSUME_TIMES"
PROPERTY_MSG_REGION: Final = "MSG_REGION"
PROPERTY_TRACE_SWITCH: Final = "TRACE_ON"
PROPERTY_UNIQUE_KEY: Final = "UNIQ_KEY"
PROPERTY_EXTEND_UNIQ_INFO: Final = "EXTEND_UNIQ_INFO"
PROPERTY_CONSUME_START_TIMESTAMP: Final = "CONSUME_START_TIME"
PROPERTY_INNER_NUM: Final = "INNER_NUM"
PROPERTY_INNER_BASE: Final = "INNER_BASE"
PROPERTY_DUP_INFO: Final = "DUP_INFO"
PROPERTY_CHECK_IMMUNITY_TIME_IN_SECONDS: Final = "CHECK_IMMUNITY_TIME_IN_SECONDS"
PROPERTY_TRANSACTION_PREPARED_QUEUE_OFFSET: Final = "TRAN_PREPARED_QUEUE_OFFSET"
PROPERTY_TRANSACTION_ID: Final = "__transactionId__"
PROPERTY_TRANSACTION_CHECK_TIMES: Final = "TRANSACTION_CHECK_TIMES"
PROPERTY_INSTANCE_ID: Final = "INSTANCE_ID"
PROPERTY_CORRELATION_ID: Final = "CORRELATION_ID"
PROPERTY_MESSAGE_REPLY_TO_CLIENT: Final = "REPLY_TO_CLIENT"
PROPERTY_MESSAGE_TTL: Final = "TTL"
PROPERTY_MESSAGE_TYPE: Final = "MSG_TYPE"
PROPERTY_REPLY_MESSAGE_ARRIVE_TIME: Final = "ARRIVE_TIME"
PROPERTY_PUSH_REPLY_TIME: Final = "PUSH_REPLY_TIME"
PROPERTY_CLUSTER: Final = "CLUSTER"
PROPERTY_POP_CK: Final = "POP_CK"
PROPERTY_POP_CK_OFFSET: Final = "POP_CK_OFFSET"
PROPERTY_FIRST_POP_TIME: Final = "1ST_POP_TIME"
PROPERTY_SHARDING_KEY: Final = "__SHARDINGKEY"
PROPERTY_FORWARD_QUEUE_ID: Final = "PROPERTY_FORWARD_QUEUE_ID"
PROPERTY_REDIRECT: Final = "REDIRECT"
PROPERTY_INNER_MULTI_DISPATCH: Final = "INNER_MULTI_DISPATCH"
PROPERTY_INNER_MULTI_QUEUE_OFFSET: Final = "INNER_MULTI_QUEUE_OFFSET"
PROPERTY_TRACE_CONTEXT: Final = "TRACE_CONTEXT"
PROPERTY_TIMER_DELAY_SEC: Final = "TIMER_DELAY_SEC"
PROPERTY_TIMER_DELAY_MS: Final = "TIMER_DELAY_MS"
PROPERTY_TIMER_DELIVER_MS: Final = "TIMER_DELIVER_MS"
PROPERTY_TIMER_ENQUEUE_MS: Final = "TIMER_ENQUEUE_MS"
PROPERTY_TIMER_DEQUEUE_MS: Final = "TIMER_DEQUEUE_MS"
PROPERTY_TIMER_ROLL_TIMES: Final = "TIMER_ROLL_TIMES"
PROPERTY_TIMER_OUT_MS: Final = "TIMER_OUT_MS"
PROPERTY_TIMER_DEL_UNIQKEY: Final = "TIMER_DEL_UNIQKEY"
PROPERTY_TIMER_DELAY_LEVEL: Final = "TIMER_DELAY_LEVEL"
PROPERTY_BORN_HOST: Final = "__BORNHOST"
PROPERTY_BORN_TIMESTAMP: Final = "BORN_TIMESTAMP"
PROPERTY_CRC32: Final = "__CRC32#"
PROPERTY_DLQ_ORIGIN_TOPIC: Final = "DLQ_ORIGIN_TOPIC"
PROPERTY_DLQ_ORIGIN_MESSAGE_ID: Final = "DLQ_ORIGIN_MESSAGE_ID"

NAME_VALUE_SEPARATOR: Final = "\x01"
PROPERTY_SEPARATOR: Final = "\x02"
KEY_SEPARATOR: Final = " "
"""Between the keys in KEYS."""

_HEAD = struct.Struct(">IIIiiqqiq")  # size, magic, crc, queue id, flag, queue offset, log offset, sys flag, born time
_TAIL = struct.Struct(">iqi")  # reconsume times, prepared offset, body length
_LONG = struct.Struct(">q")
_INT = struct.Struct(">i")
_SHORT = struct.Struct(">h")
_BATCH_HEAD = struct.Struct(">iiiii")  # size, magic, crc, flag, body length
_CRC_MASK: Final = 0x7FFFFFFF
_MIN_RECORD: Final = 91

Host = tuple[str, int]
"""Address as text, port."""


@dataclass(slots=True, kw_only=True)
class StoredMessage:
    """One record (RocketMQ's MessageExt). Times in ms; `properties` is the text as stored.

    `version` 1 or 2 picks the layout; 0 means V1 unless the topic is longer than 127 bytes. `size` and `body_crc` are
    what was read; encoding works them out afresh.
    """

    topic: str
    body: bytes = b""
    properties: bytes = b""
    queue_id: int = 0
    flag: int = 0
    queue_offset: int = 0
    log_offset: int = 0
    sys_flag: int = 0
    born_timestamp: int = 0
    born_host: Host = ("127.0.0.1", 0)
    store_timestamp: int = 0
    store_host: Host = ("127.0.0.1", 0)
    reconsume_times: int = 0
    prepared_offset: int = 0
    version: int = 0
    size: int = 0
    body_crc: int = 0

    @property
    def property_map(self) -> dict[str, str]:
        """The properties as a dict, made anew on each call."""
        return decode_properties(self.properties)

    def get(self, name: str) -> str | None:
        """One property, None if it is absent."""
        return decode_properties(self.properties).get(name)

    @property
    def offset_id(self) -> str:
        """The offset message id: store host and log offset (`msgId` of a send response)."""
        return offset_message_id(*self.store_host, self.log_offset)

    @property
    def message_id(self) -> str:
        """What a consumer calls the message: UNIQ_KEY, else the offset id."""
        return self.get(PROPERTY_UNIQUE_KEY) or self.offset_id


def body_crc(body: bytes | memoryview) -> int:
    """The checksum of a body as records hold it: CRC-32 without the top bit."""
    return zlib.crc32(body) & _CRC_MASK


def decode_message(buf: bytes | bytearray | memoryview, pos: int = 0) -> tuple[StoredMessage, int]:
    """The record that starts at `pos`, and where the next one starts. Raises ProtocolError."""
    available = len(buf) - pos
    if pos < 0 or available < _MIN_RECORD:
        raise ProtocolError(f"{available} bytes are too few for a message")
    size, magic, crc, queue_id, flag, queue_offset, log_offset, sys_flag, born_timestamp = _HEAD.unpack_from(buf, pos)
    if magic not in (MAGIC_V1, MAGIC_V2):
        raise ProtocolError(f"{magic:#010x} is not the magic number of a message")
    if not _MIN_RECORD <= size <= available:
        raise ProtocolError(f"a message of {size} bytes where {available} are left")
    version = 1 if magic == MAGIC_V1 else 2
    born_wide = sys_flag & BORN_HOST_V6_FLAG != 0
    store_wide = sys_flag & STORE_HOST_V6_FLAG != 0
    fixed = 90 + version + 12 * (born_wide + store_wide)
    if size < fixed:
        raise ProtocolError(f"a message of {size} bytes is shorter than its fixed part of {fixed}")
    end = pos + size
    at = pos + 48
    born_host, at = _read_host(buf, at, born_wide)
    (store_timestamp,) = _LONG.unpack_from(buf, at)
    store_host, at = _read_host(buf, at + 8, store_wide)
    reconsume_times, prepared_offset, body_length = _TAIL.unpack_from(buf, at)
    at += 16
    if not 0 <= body_length <= size - fixed:
        raise ProtocolError(f"a body of {body_length} bytes in a message of {size}")
    body = bytes(buf[at : at + body_length])
    at += body_length
    if version == 1:
        topic_length = buf[at]
    else:
        (topic_length,) = _SHORT.unpack_from(buf, at)
    at += version
    if not 0 <= topic_length <= end - at - 2:
        raise ProtocolError(f"a topic of {topic_length} bytes in a message of {size}")
    topic = str(buf[at : at + topic_length], "utf-8", "replace")
    at += topic_length
    (properties_length,) = _SHORT.unpack_from(buf, at)
    at += 2
    if properties_length != end - at:
        raise ProtocolError(f"properties of {properties_length} bytes where {end - at} are left of the message")
    message = StoredMessage(
        topic=topic,
        body=body,
        properties=bytes(buf[at:end]),
        queue_id=queue_id,
        flag=flag,
        queue_offset=queue_offset,
        log_offset=log_offset,
        sys_flag=sys_flag,
        born_timestamp=born_timestamp,
        born_host=born_host,
        store_timestamp=store_timestamp,
        store_host=store_host,
        reconsume_times=reconsume_times,
        prepared_offset=prepared_offset,
        version=version,
        size=size,
        body_crc=crc,
    )
    return message, end


def decode_messages(buf: bytes | bytearray | memoryview) -> list[StoredMessage]:
    """All records of a page (body of codes 11, 12, 33, 39, 200050). Raises ProtocolError if anything else is in it."""
    messages: list[StoredMessage] = []
    pos = 0
    while pos < len(buf):
        message, pos = decode_message(buf, pos)
        messages.append(message)
    return messages


def encode_message(message: StoredMessage) -> bytes:
    """The record, with size and checksum worked out and the IPv6 bits set as the hosts need them.

    ValueError if topic or properties are too long for their length field, or an address is not one.
    """
    topic = to_utf8(message.topic)
    version = message.version or (2 if len(topic) > 0x7F else 1)
    if len(topic) > (0xFF if version == 1 else 0x7FFF):
        raise ValueError(f"a topic of {len(topic)} bytes does not fit into a V{version} message")
    if len(message.properties) > MAX_PROPERTIES_BYTES:
        raise ValueError(f"properties of {len(message.properties)} bytes, the limit is {MAX_PROPERTIES_BYTES}")
    born = pack_host(message.born_host)
    store = pack_host(message.store_host)
    sys_flag = message.sys_flag & ~(BORN_HOST_V6_FLAG | STORE_HOST_V6_FLAG)
    if len(born) > 8:
        sys_flag |= BORN_HOST_V6_FLAG
    if len(store) > 8:
        sys_flag |= STORE_HOST_V6_FLAG
    body = message.body
    size = 74 + version + len(born) + len(store) + len(body) + len(topic) + len(message.properties)
    return b"".join((
        _HEAD.pack(
            size, MAGIC_V1 if version == 1 else MAGIC_V2, body_crc(body), message.queue_id, message.flag,
            message.queue_offset, message.log_offset, sys_flag, message.born_timestamp,
        ),
        born,
        _LONG.pack(message.store_timestamp),
        store,
        _TAIL.pack(message.reconsume_times, message.prepared_offset, len(body)),
        body,
        len(topic).to_bytes(version),
        topic,
        _SHORT.pack(len(message.properties)),
        message.properties,
    ))  # fmt: skip


def pack_host(host: Host) -> bytes:
    """Address and port as records hold them: 8 bytes for IPv4, 20 for IPv6. ValueError if it is not an address."""
    text, port = host
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return socket.inet_pton(family, text) + _INT.pack(port)
    except (OSError, struct.error):
        raise ValueError(f"{text}:{port} is not an address") from None


def _read_host(buf: bytes | bytearray | memoryview, at: int, wide: bool) -> tuple[Host, int]:
    if wide:
        (port,) = _INT.unpack_from(buf, at + 16)
        return (socket.inet_ntop(socket.AF_INET6, bytes(buf[at : at + 16])), port), at + 20
    (port,) = _INT.unpack_from(buf, at + 4)
    return (f"{buf[at]}.{buf[at + 1]}.{buf[at + 2]}.{buf[at + 3]}", port), at + 8


# --- properties ------------------------------------------------------------------------------------------------------


def decode_properties(text: bytes | memoryview | str) -> dict[str, str]:
    """The properties of a text `name\\x01value\\x02…` as MessageDecoder reads it.

    Items without a name or a value are dropped, a later duplicate wins, a missing last separator is fine.
    """
    if not isinstance(text, str):
        text = str(text, "utf-8", "replace")
    properties: dict[str, str] = {}
    for item in text.split(PROPERTY_SEPARATOR):
        name, _, value = item.partition(NAME_VALUE_SEPARATOR)
        if name and value:
            properties[name] = value
    return properties


def encode_properties(properties: Mapping[str, str | None]) -> bytes:
    """The text of properties, each item closed by its separator; None values are left out.

    ValueError if a name or value holds a separator that would turn it into something else when read.
    """
    items: list[str] = []
    for name, value in properties.items():
        if value is None:
            continue
        if PROPERTY_SEPARATOR in value or PROPERTY_SEPARATOR in name or NAME_VALUE_SEPARATOR in name:
            raise ValueError(f"property {name!r} holds a separator")
        items.append(f"{name}{NAME_VALUE_SEPARATOR}{value}{PROPERTY_SEPARATOR}")
    return to_utf8("".join(items))


def append_properties(text: bytes, properties: Mapping[str, str | None]) -> bytes:
    """`text` with more properties behind it. They win over earlier ones of the same name."""
    added = encode_properties(properties)
    if added and text and not text.endswith(b"\x02"):
        return text + b"\x02" + added
    return text + added


def get_property(text: bytes | str, name: str) -> str | None:
    """One property of a text, None if it is absent."""
    return decode_properties(text).get(name)


# --- batches ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class BatchEntry:
    """One message of the body of a batch send (MessageBatch)."""

    body: bytes
    properties: bytes = b""
    flag: int = 0

    @property
    def property_map(self) -> dict[str, str]:
        """The properties as a dict, made anew on each call."""
        return decode_properties(self.properties)


def decode_batch(body: bytes | bytearray | memoryview) -> list[BatchEntry]:
    """The entries of a batch body, each: size, magic, crc, flag, body length, body, properties length, properties.

    Magic and crc are not looked at (producers write 0). Raises ProtocolError for lengths that do not add up.
    """
    entries: list[BatchEntry] = []
    pos = 0
    total = len(body)
    while pos < total:
        left = total - pos
        if left < 22:
            raise ProtocolError(f"{left} bytes are too few for a batch entry")
        size, _, _, flag, body_length = _BATCH_HEAD.unpack_from(body, pos)
        if not 22 <= size <= left:
            raise ProtocolError(f"a batch entry of {size} bytes where {left} are left")
        if not 0 <= body_length <= size - 22:
            raise ProtocolError(f"a body of {body_length} bytes in a batch entry of {size}")
        at = pos + 20 + body_length
        (properties_length,) = _SHORT.unpack_from(body, at)
        end = pos + size
        if properties_length != end - at - 2:
            raise ProtocolError(f"properties of {properties_length} bytes where {end - at - 2} are left of the entry")
        entries.append(BatchEntry(bytes(body[pos + 20 : at]), bytes(body[at + 2 : end]), flag))
        pos = end
    return entries


def encode_batch(entries: Iterable[BatchEntry]) -> bytes:
    """The body of a batch send. ValueError if the properties of an entry are too long."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry.properties) > MAX_PROPERTIES_BYTES:
            raise ValueError(f"properties of {len(entry.properties)} bytes, the limit is {MAX_PROPERTIES_BYTES}")
        size = 22 + len(entry.body) + len(entry.properties)
        parts += (
            _BATCH_HEAD.pack(size, 0, 0, entry.flag, len(entry.body)), entry.body,
            _SHORT.pack(len(entry.properties)), entry.properties,
        )  # fmt: skip
    return b"".join(parts)


# --- ids and tags ----------------------------------------------------------------------------------------------------


def offset_message_id(host: str, port: int, log_offset: int) -> str:
    """The id of a stored message: upper-case hex of address, port and log offset; 32 or 56 characters."""
    return (pack_host((host, port)) + _LONG.pack(log_offset)).hex().upper()


def parse_message_id(text: str) -> tuple[str, int, int]:
    """(host, port, log offset) of an offset message id. ValueError if it is not one."""
    if len(text) not in (32, 56) or not text.isascii() or not text.isalnum():
        raise ValueError(f"{text[:64]!r} is not an offset message id")
    data = bytes.fromhex(text)
    (host, port), at = _read_host(data, 0, len(data) == 28)
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"{text!r} has port {port}")
    return host, port, int(_LONG.unpack_from(data, at)[0])


def create_unique_key(host: str, pid: int, now_ms: int, counter: int, loader_hash: int = 0) -> str:
    """A client-made message id (MessageClientIDSetter): address, pid, a hash, ms since the month began, a counter.

    The month is that of local time. Unique for a process as long as `counter` does not come round within one ms.
    """
    now = time.localtime(now_ms / 1000)
    month_ms = int(time.mktime((now.tm_year, now.tm_mon, 1, 0, 0, 0, 0, 0, -1))) * 1000
    address = pack_host((host, 0))[:-4]
    elapsed = (now_ms - month_ms) & 0xFFFFFFFF
    return (
        (
            address
            + (pid & 0xFFFF).to_bytes(2)
            + (loader_hash & 0xFFFFFFFF).to_bytes(4)
            + elapsed.to_bytes(4)
            + (counter & 0xFFFF).to_bytes(2)
        )
        .hex()
        .upper()
    )


def java_hash(text: str) -> int:
    """java.lang.String.hashCode: over UTF-16 code units, 32 bit with sign."""
    value = 0
    if text.isascii():
        for unit in text.encode("ascii"):
            value = (value * 31 + unit) & 0xFFFFFFFF
    else:
        data = text.encode("utf-16-be", "surrogatepass")
        for high, low in zip(data[::2], data[1::2], strict=True):
            value = (value * 31 + (high << 8 | low)) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def tags_code(tags: str | None) -> int:
    """What a consume queue entry keeps of the TAGS property: the hash of the whole text, 0 if there is none."""
    return java_hash(tags) if tags else 0
