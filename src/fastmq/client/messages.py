"""What goes in and what comes out: `Message`, `SendResult`, `ReceivedMessage`."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final, NamedTuple

from fastmq.client import namespace as namespaces
from fastmq.client.compress import decompress
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import ResponseCode

# size, magic, crc, queue id, flag, queue offset, log offset, sys flag, born time, born host, store time, store host,
# reconsume times, prepared offset, body length: a record whose hosts are IPv4
_RECORD = struct.Struct(">IIIiiqqiq8sq8siqi")
_FOREVER_SECONDS: Final = 1e12
_WIDE: Final = m.BORN_HOST_V6_FLAG | m.STORE_HOST_V6_FLAG

_RESERVED: Final = frozenset(
    {
        m.PROPERTY_UNIQUE_KEY, m.PROPERTY_WAIT_STORE_MSG_OK, m.PROPERTY_TRANSACTION_PREPARED, m.PROPERTY_PRODUCER_GROUP,
        m.PROPERTY_REAL_TOPIC, m.PROPERTY_REAL_QUEUE_ID, m.PROPERTY_RETRY_TOPIC, m.PROPERTY_POP_CK,
    }
)  # fmt: skip


@dataclass(frozen=True, init=False)
class Message:
    """A message to send. `body` may be text, which is sent as UTF-8.

    `tag` is what consumers filter by, `keys` what the message can be found by. `sharding_key`: messages with the same
    one go to the same queue, in order. At most one of `delay_level` (1 to 18), `delay` (seconds, or a timedelta) and
    `deliver_at` (a time zone aware datetime, or seconds since the epoch) keeps it back. `flag` is stored as it is. With
    `wait_stored` False the broker answers before the message is flushed or replicated.
    """

    topic: str
    body: bytes | str = b""
    tag: str | None = None
    keys: str | Sequence[str] = ()
    properties: Mapping[str, str] | None = None
    sharding_key: str | None = None
    delay_level: int = 0
    delay: float | timedelta | None = None
    deliver_at: datetime | float | None = None
    flag: int = 0
    wait_stored: bool = True

    def __init__(
        self,
        topic: str,
        body: bytes | str = b"",
        tag: str | None = None,
        keys: str | Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
        sharding_key: str | None = None,
        delay_level: int = 0,
        delay: float | timedelta | None = None,
        deliver_at: datetime | float | None = None,
        flag: int = 0,
        wait_stored: bool = True,
    ) -> None:
        # what a frozen dataclass does by itself, attribute by attribute, takes several times as long
        fields = self.__dict__
        fields["topic"] = topic
        fields["body"] = body
        fields["tag"] = tag
        fields["keys"] = keys
        fields["properties"] = properties
        fields["sharding_key"] = sharding_key
        fields["delay_level"] = delay_level
        fields["delay"] = delay
        fields["deliver_at"] = deliver_at
        fields["flag"] = flag
        fields["wait_stored"] = wait_stored

    def encoded_body(self) -> bytes:
        """The bytes that are sent. Raises UsageError for what is neither bytes nor text."""
        body = self.body
        if isinstance(body, bytes):
            return body
        if isinstance(body, str):
            try:
                return body.encode()
            except UnicodeEncodeError as error:
                raise UsageError(f"the body cannot be sent as UTF-8: {error}") from None
        if isinstance(body, bytearray | memoryview):
            return bytes(body)  # it may be changed before it is sent
        raise UsageError(f"a body is bytes or str, not {type(body).__name__}")

    def wire_properties(self, unique_key: str) -> dict[str, str]:
        """The properties on the wire. Raises UsageError for what cannot be one, and for contradicting delays."""
        items: dict[str, str] = {}
        if self.properties:
            for name in self.properties:
                if name in _RESERVED:
                    raise UsageError(f"property {name} belongs to the system")
            items.update(self.properties)
        items[m.PROPERTY_UNIQUE_KEY] = unique_key
        items[m.PROPERTY_WAIT_STORE_MSG_OK] = "true" if self.wait_stored else "false"
        if self.tag:
            items[m.PROPERTY_TAGS] = self.tag
        if self.keys:
            items[m.PROPERTY_KEYS] = self.keys_text
        if self.sharding_key is not None:
            items[m.PROPERTY_SHARDING_KEY] = self.sharding_key
        if self.delay_level or self.delay is not None or self.deliver_at is not None:
            items.update(self._delay_property())
        return items

    @property
    def keys_text(self) -> str:
        """The keys as one property holds them. Raises UsageError for keys that are no text."""
        try:
            return self.keys if isinstance(self.keys, str) else m.KEY_SEPARATOR.join(self.keys)
        except TypeError:
            raise UsageError(f"keys are str, or several of them, not {self.keys!r}") from None

    def _delay_property(self) -> dict[str, str]:
        given = bool(self.delay_level) + (self.delay is not None) + (self.deliver_at is not None)
        if given > 1:
            raise UsageError("a message has one of delay_level, delay and deliver_at")
        if self.delay_level:
            if not isinstance(self.delay_level, int) or self.delay_level < 0:
                raise UsageError(f"a delay level is a number from 1 to 18, not {self.delay_level!r}")
            return {m.PROPERTY_DELAY_TIME_LEVEL: str(self.delay_level)}
        delay = self.delay
        if delay is not None:
            seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
            if not isinstance(seconds, int | float):
                raise UsageError(f"a delay is seconds or a timedelta, not {delay!r}")
            if not 0 <= seconds < _FOREVER_SECONDS:
                raise UsageError(f"a delay of {seconds} s is in the past, or never over")
            return {m.PROPERTY_TIMER_DELAY_MS: str(round(seconds * 1000))}
        at = self.deliver_at
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise UsageError("deliver_at needs a time zone")
            at = at.timestamp()
        if not isinstance(at, int | float) or not 0 <= at < _FOREVER_SECONDS:
            raise UsageError(f"deliver_at is a datetime or seconds since the epoch, not {at!r}")
        return {m.PROPERTY_TIMER_DELIVER_MS: str(round(at * 1000))}

    @property
    def is_timer(self) -> bool:
        """Whether it is kept back by a time and not by a level."""
        return self.delay is not None or self.deliver_at is not None

    @property
    def is_delayed(self) -> bool:
        """Whether it is kept back."""
        return bool(self.delay_level) or self.is_timer


class SendStatus(IntEnum):
    """How safely a message is stored; each of them means that it is. The numbers are the response codes."""

    SEND_OK = ResponseCode.SUCCESS
    FLUSH_DISK_TIMEOUT = ResponseCode.FLUSH_DISK_TIMEOUT
    SLAVE_NOT_AVAILABLE = ResponseCode.SLAVE_NOT_AVAILABLE
    FLUSH_SLAVE_TIMEOUT = ResponseCode.FLUSH_SLAVE_TIMEOUT


class SendResult(NamedTuple):
    """Where a message went.

    `message_id` is the id that consumers see, `offset_id` the one of the stored record (of a batch: several, joined by
    commas). `recall_handle` belongs to timer messages.
    """

    message_id: str
    offset_id: str
    queue: MessageQueue
    queue_offset: int
    status: SendStatus = SendStatus.SEND_OK
    transaction_id: str | None = None
    recall_handle: str | None = None
    region: str | None = None
    traced: bool = True

    @property
    def topic(self) -> str:
        """The topic it was sent to."""
        return self.queue.topic


class ReceivedMessage:
    """A message from a broker (RocketMQ's MessageExt). Times are ms since the epoch.

    For a message that is tried again `topic` is the topic it was sent to, and `queue` the retry queue it came from.
    """

    __slots__ = (
        "_body",
        "_born_host",
        "_properties",
        "_properties_text",
        "_store_host",
        "born_timestamp",
        "flag",
        "log_offset",
        "prepared_offset",
        "queue",
        "queue_offset",
        "reconsume_times",
        "store_timestamp",
        "stored_topic",
        "sys_flag",
        "topic",
    )  # fmt: skip

    topic: str
    queue: MessageQueue
    queue_offset: int
    log_offset: int
    sys_flag: int
    flag: int
    born_timestamp: int
    store_timestamp: int
    reconsume_times: int
    prepared_offset: int
    stored_topic: str
    _body: bytes
    _properties_text: bytes
    _properties: dict[str, str] | None
    _born_host: bytes | m.Host
    _store_host: bytes | m.Host

    def __repr__(self) -> str:
        return (
            f"<ReceivedMessage {self.topic} {self.queue.broker_name}:{self.queue.queue_id}@{self.queue_offset} "
            f"{self.message_id}>"
        )

    @classmethod
    def from_stored(cls, stored: m.StoredMessage, broker_name: str = "", namespace: str = "") -> ReceivedMessage:
        """A message of a record that was read by `protocol.message`."""
        self = cls()
        self.stored_topic = stored.topic
        self._body = stored.body
        self._properties_text = stored.properties
        self._properties = None
        self._born_host = stored.born_host
        self._store_host = stored.store_host
        self.queue_offset = stored.queue_offset
        self.log_offset = stored.log_offset
        self.sys_flag = stored.sys_flag
        self.flag = stored.flag
        self.born_timestamp = stored.born_timestamp
        self.store_timestamp = stored.store_timestamp
        self.reconsume_times = stored.reconsume_times
        self.prepared_offset = stored.prepared_offset
        self.topic = namespaces.unwrap(namespace, stored.topic)
        self.queue = MessageQueue(self.topic, broker_name, stored.queue_id)
        return self

    @property
    def body(self) -> bytes:
        """The body as it was sent, unpacked when it is first asked for. Raises CorruptBody or MissingExtra."""
        if self.sys_flag & m.COMPRESSED_FLAG:
            self._body = decompress(self._body, self.sys_flag)
            self.sys_flag &= ~(m.COMPRESSED_FLAG | m.COMPRESSION_TYPE_MASK)
        return self._body

    @property
    def text(self) -> str:
        """The body as UTF-8 text."""
        return self.body.decode()

    @property
    def properties(self) -> dict[str, str]:
        """All properties, those of the system included."""
        if self._properties is None:
            self._properties = m.decode_properties(self._properties_text)
        return self._properties

    @property
    def message_id(self) -> str:
        """The id its producer gave it (`UNIQ_KEY`), else the one of the stored record."""
        return self.properties.get(m.PROPERTY_UNIQUE_KEY) or self.offset_id

    @property
    def offset_id(self) -> str:
        """The id of the stored record: store host and log offset."""
        return m.offset_message_id(*self.store_host, self.log_offset)

    @property
    def tag(self) -> str | None:
        """What consumers filter by."""
        return self.properties.get(m.PROPERTY_TAGS)

    @property
    def keys(self) -> list[str]:
        """What it can be found by."""
        return self.properties.get(m.PROPERTY_KEYS, "").split()

    @property
    def sharding_key(self) -> str | None:
        """Messages with the same one came in order."""
        return self.properties.get(m.PROPERTY_SHARDING_KEY)

    @property
    def transaction_id(self) -> str | None:
        """The id of the transaction it was part of."""
        properties = self.properties
        found = properties.get(m.PROPERTY_TRANSACTION_ID)
        if found is None and properties.get(m.PROPERTY_TRANSACTION_PREPARED) == "true":
            found = properties.get(m.PROPERTY_UNIQUE_KEY)
        return found

    @property
    def born_host(self) -> m.Host:
        """Where it was sent from."""
        return _host(self._born_host)

    @property
    def store_host(self) -> m.Host:
        """The broker that stored it."""
        return _host(self._store_host)

    @property
    def stored_size(self) -> int:
        """About how many bytes it takes."""
        return len(self._body) + len(self._properties_text) + 100


def _host(raw: bytes | m.Host) -> m.Host:
    if isinstance(raw, tuple):
        return raw
    return socket.inet_ntop(socket.AF_INET, raw[:4]), int.from_bytes(raw[4:])


def decode_page(page: bytes, broker_name: str = "", namespace: str = "") -> list[ReceivedMessage]:
    """The messages of the body of a pull, a pop or a query. Raises ProtocolError."""
    return list(_decode(page, broker_name, namespace))


def _decode(page: bytes, broker_name: str, namespace: str) -> Iterator[ReceivedMessage]:
    pos = 0
    total = len(page)
    last_topic = b""
    topic = ""
    queues: dict[int, MessageQueue] = {}
    unpack = _RECORD.unpack_from
    while pos < total:
        if total - pos < 91:
            raise ProtocolError(f"{total - pos} bytes are too few for a message")
        (
            size, magic, _, queue_id, flag, queue_offset, log_offset, sys_flag, born_timestamp, born_host,
            store_timestamp, store_host, reconsume_times, prepared_offset, body_length,
        ) = unpack(page, pos)  # fmt: skip
        if sys_flag & _WIDE or magic != m.MAGIC_V1 or body_length < 0:
            stored, pos = m.decode_message(page, pos)
            yield ReceivedMessage.from_stored(stored, broker_name, namespace)
            continue
        end = pos + size
        at = pos + 88 + body_length
        if end > total or at + 3 > end:
            raise ProtocolError(f"a message of {size} bytes where {total - pos} are left")
        body_start = pos + 88
        topic_end = at + 1 + page[at]
        text_start = topic_end + 2
        if text_start > end or int.from_bytes(page[topic_end:text_start]) != end - text_start:
            raise ProtocolError("the lengths of a message contradict each other")
        topic_bytes = page[at + 1 : topic_end]
        if topic_bytes != last_topic:
            last_topic = topic_bytes
            topic = str(topic_bytes, "utf-8", "replace")
            queues.clear()
        queue = queues.get(queue_id)
        if queue is None:
            queue = queues[queue_id] = MessageQueue(namespaces.unwrap(namespace, topic), broker_name, queue_id)
        one = ReceivedMessage()
        one.stored_topic = topic
        one.topic = queue.topic
        one.queue = queue
        one._body = page[body_start:at]
        one._properties_text = page[text_start:end]
        one._properties = None
        one._born_host = born_host
        one._store_host = store_host
        one.queue_offset = queue_offset
        one.log_offset = log_offset
        one.sys_flag = sys_flag
        one.flag = flag
        one.born_timestamp = born_timestamp
        one.store_timestamp = store_timestamp
        one.reconsume_times = reconsume_times
        one.prepared_offset = prepared_offset
        pos = end
        yield one


class UniqueKeys:
    """Makes message ids (MessageClientIDSetter): address, pid, a random part, ms since the month began, a counter."""

    def __init__(self, host: str, pid: int, random_part: int) -> None:
        try:
            address = m.pack_host((host, 0))[:-4]
        except ValueError:
            address = b"\x7f\x00\x00\x01"
        self._prefix = (address + (pid & 0xFFFF).to_bytes(2) + (random_part & 0xFFFFFFFF).to_bytes(4)).hex().upper()
        self._counter = 0
        self._stem = ""
        self._stem_ms = -1
        self._month_ms = 0
        self._next_month_ms = 0

    def next(self, now_ms: int) -> str:
        """An id that no other message of this process has."""
        if not self._month_ms <= now_ms < self._next_month_ms:
            self._begin_month(now_ms)
        if now_ms != self._stem_ms:
            self._stem_ms = now_ms
            self._stem = f"{self._prefix}{(now_ms - self._month_ms) & 0xFFFFFFFF:08X}"
        self._counter = counter = (self._counter + 1) & 0xFFFF
        return f"{self._stem}{counter:04X}"

    def _begin_month(self, now_ms: int) -> None:
        now = time.localtime(now_ms / 1000)
        month = (now.tm_year, now.tm_mon, 1, 0, 0, 0, 0, 0, -1)
        after = (now.tm_year, now.tm_mon + 1, 1, 0, 0, 0, 0, 0, -1)
        self._month_ms = int(time.mktime(month)) * 1000
        self._next_month_ms = int(time.mktime(after)) * 1000
        self._stem_ms = -1
