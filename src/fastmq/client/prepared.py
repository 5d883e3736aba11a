"""Messages made ready to be sent: checked, packed, their properties encoded, once for all tries of a send."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from fastmq.client.compress import Compression, compress, require
from fastmq.client.errors import MessageTooLarge
from fastmq.client.messages import Message
from fastmq.client.otel import Telemetry
from fastmq.client.routes import NEW_TOPIC_QUEUES
from fastmq.client.session import Session
from fastmq.errors import UsageError
from fastmq.limits import MAX_PROPERTIES_BYTES
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.bodies.config import MessageQueue
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, SendTemplate, encode_send, send_template

COMPRESS_LEVEL: Final = 5
MOST_LANES: Final = 4096

_UNIQUE_KEY: Final = m.PROPERTY_UNIQUE_KEY + m.NAME_VALUE_SEPARATOR
_TAGS: Final = m.PROPERTY_TAGS + m.NAME_VALUE_SEPARATOR
_WAIT: Final = f"{m.PROPERTY_SEPARATOR}{m.PROPERTY_WAIT_STORE_MSG_OK}{m.NAME_VALUE_SEPARATOR}true{m.PROPERTY_SEPARATOR}"
_NO_WAIT: Final = _WAIT.replace("true", "false")

Selector = Callable[[Sequence[MessageQueue], Message], MessageQueue]
"""Chooses one of the queues of a topic for a message."""


class Prepared:
    """A message or batch, ready to be sent to any queue."""

    __slots__ = (
        "body", "born_ms", "code", "fixed_queue", "flag", "message", "message_id", "properties", "selector", "size",
        "span", "sys_flag", "topic",
    )  # fmt: skip

    topic: str
    body: bytes
    properties: str
    flag: int
    sys_flag: int
    code: int
    message: Message
    message_id: str
    born_ms: int
    size: int
    fixed_queue: MessageQueue | None
    selector: Selector | None
    span: Any


class Lane:
    """A queue that is sent to: the template of its frames, and what receipts tell of it."""

    __slots__ = ("queue", "queue_id", "template")

    def __init__(self, queue: MessageQueue, template: SendTemplate) -> None:
        self.queue = queue
        self.queue_id = str(queue.queue_id)
        self.template = template


class Preparer:
    """Makes messages of one producer ready."""

    def __init__(
        self, session: Session, group: str, compression: Compression, compress_over: int, max_message_size: int,
        telemetry: Telemetry | None = None,
    ) -> None:  # fmt: skip
        require(compression)
        self._session = session
        self._group = group
        self._compression = compression
        self._compress_over = compress_over
        self._max_message_size = max_message_size
        self._telemetry = telemetry
        self._topics: dict[str, str] = {}
        self._lanes: dict[tuple[str, str, int], Lane] = {}

    def single(self, message: Message, queue: MessageQueue | None = None, selector: Selector | None = None) -> Prepared:
        """One message. Raises UsageError or MessageTooLarge."""
        prepared = Prepared()
        prepared.message = message
        session = self._session
        name = message.topic
        prepared.topic = (self._topics.get(name) if type(name) is str else None) or self._topic(name)
        if queue is not None and queue.topic != name:
            raise UsageError(f"{queue} is no queue of topic {name}")
        now_ms = session.clock.wall_ms()
        prepared.message_id = unique_key = session.unique_keys.next(now_ms)
        body = message.encoded_body()
        if not 0 < len(body) <= self._max_message_size:
            self._check_size(body)
        flag = message.flag
        if type(flag) is not int or not -0x80000000 <= flag <= 0x7FFFFFFF:
            raise UsageError(f"a flag is a number of 32 bits, not {flag!r}")
        prepared.span = None
        if _is_plain(message) and self._telemetry is None and not session.namespace:
            # the same text as below, which takes longer
            tag = f"{_TAGS}{message.tag}{m.PROPERTY_SEPARATOR}" if message.tag else ""
            prepared.properties = f"{_UNIQUE_KEY}{unique_key}{_WAIT if message.wait_stored else _NO_WAIT}{tag}"
        else:
            properties = message.wire_properties(unique_key)
            if session.namespace:
                properties[m.PROPERTY_INSTANCE_ID] = session.namespace
            if self._telemetry is not None:
                properties_text(properties)  # from here on nothing is refused: who began a span ends it
                prepared.span = self._telemetry.sending(message, unique_key, properties)
            prepared.properties = properties_text(properties)
        sys_flag = 0
        if len(body) >= self._compress_over and self._compression is not Compression.NONE:
            body, sys_flag = compress(body, self._compression, COMPRESS_LEVEL)
        prepared.body = body
        prepared.sys_flag = sys_flag
        prepared.flag = flag
        prepared.code = RequestCode.SEND_MESSAGE_V2
        prepared.born_ms = now_ms
        prepared.fixed_queue = queue
        prepared.selector = selector
        prepared.size = len(body) + len(prepared.properties) + 200
        return prepared

    def batch(self, messages: Sequence[Message], queue: MessageQueue | None = None) -> Prepared:
        """Messages of one topic as one request. Raises UsageError or MessageTooLarge."""
        if not messages:
            raise UsageError("a batch needs a message")
        first = messages[0]
        if queue is not None and queue.topic != first.topic:
            raise UsageError(f"{queue} is no queue of topic {first.topic}")
        now_ms = self._session.clock.wall_ms()
        ids: list[str] = []
        span: Any = None
        carried: dict[str, str] = {}
        if self._telemetry is not None:
            span = self._telemetry.sending(first, "", carried, len(messages))
        entries: list[m.BatchEntry] = []
        for message in messages:
            if message.topic != first.topic or message.wait_stored != first.wait_stored:
                raise UsageError("the messages of a batch have one topic and one wait_stored")
            if message.is_delayed:
                raise UsageError("a message of a batch cannot be delayed")
            ids.append(self._session.unique_keys.next(now_ms))
            properties = {**message.wire_properties(ids[-1]), **carried}
            if self._session.namespace:
                properties[m.PROPERTY_INSTANCE_ID] = self._session.namespace
            entries.append(m.BatchEntry(message.encoded_body(), properties_text(properties).encode(), message.flag))
        try:
            body = m.encode_batch(entries)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self._check_size(body)
        prepared = Prepared()
        prepared.message = first
        prepared.topic = self._topic(first.topic)
        if names.is_retry_topic(prepared.topic):
            raise UsageError("a batch cannot be sent to a retry topic")
        prepared.body = body
        prepared.sys_flag = 0
        # no id of its own: Apache's broker would give it to each message of the batch
        prepared.properties = properties_text({m.PROPERTY_WAIT_STORE_MSG_OK: "true" if first.wait_stored else "false"})
        prepared.flag = 0
        prepared.code = RequestCode.SEND_BATCH_MESSAGE
        prepared.message_id = ",".join(ids)
        prepared.born_ms = now_ms
        prepared.fixed_queue = queue
        prepared.selector = None
        prepared.span = span
        prepared.size = len(body) + 200
        return prepared

    def _topic(self, name: str) -> str:
        if not isinstance(name, str):
            raise UsageError(f"a topic is a str, not {name!r}")
        topic = self._session.wrap(name)
        wrong = names.validate_topic(topic)
        if wrong:
            raise UsageError(wrong)
        if names.is_not_allowed_send_topic(topic):
            raise UsageError(f"topic {topic} belongs to the system")
        if len(self._topics) >= MOST_LANES:
            self._topics.clear()
        self._topics[name] = topic
        return topic

    def _check_size(self, body: bytes) -> None:
        if not body:
            raise UsageError("a message needs a body")
        if len(body) > self._max_message_size:
            raise MessageTooLarge(f"a body of {len(body)} bytes, the limit is {self._max_message_size}")

    def request(self, prepared: Prepared, queue: MessageQueue) -> Command:
        """The request that sends it to a queue."""
        ext = {
            "a": self._group,
            "b": prepared.topic,
            "c": names.AUTO_CREATE_TOPIC,
            "d": str(NEW_TOPIC_QUEUES),
            "e": str(queue.queue_id),
            "f": str(prepared.sys_flag),
            "g": str(prepared.born_ms),
            "h": str(prepared.flag),
            "i": prepared.properties,
            "j": "0",
            "k": "false",
            "m": "true" if prepared.code == RequestCode.SEND_BATCH_MESSAGE else "false",
            "n": queue.broker_name,
        }
        return Command(prepared.code, 0, 0, "PYTHON", ext=ext, body=prepared.body)

    def lane(self, prepared: Prepared, queue: MessageQueue) -> Lane:
        """How a single message that was prepared here gets to a queue."""
        topic = prepared.message.topic
        key = (topic, queue.broker_name, queue.queue_id)
        lane = self._lanes.get(key)
        if lane is None:
            before = {
                "a": self._group,
                "b": prepared.topic,
                "c": names.AUTO_CREATE_TOPIC,
                "d": str(NEW_TOPIC_QUEUES),
                "e": str(queue.queue_id),
            }
            after = {"j": "0", "k": "false", "m": "false", "n": queue.broker_name}
            template = send_template(RequestCode.SEND_MESSAGE_V2, before, after)
            if len(self._lanes) >= MOST_LANES:
                self._lanes.clear()
            lane = self._lanes[key] = Lane(MessageQueue(topic, queue.broker_name, queue.queue_id), template)
        return lane

    def frame(self, prepared: Prepared, lane: Lane, opaque: int) -> bytes:
        """The frame of `request`, for a single message and without a signature."""
        return encode_send(
            lane.template, prepared.sys_flag, prepared.born_ms, prepared.flag, prepared.properties, opaque,
            prepared.body,
        )  # fmt: skip


def _is_plain(message: Message) -> bool:
    """Whether it has no properties but a common tag."""
    tag = message.tag
    if tag is not None and (
        type(tag) is not str or len(tag) >= 256 or not tag.isascii() or m.PROPERTY_SEPARATOR in tag
    ):
        return False
    return not (
        message.keys
        or message.properties
        or message.sharding_key is not None
        or message.delay_level
        or message.delay is not None
        or message.deliver_at is not None
    )


def properties_text(properties: dict[str, str]) -> str:
    """The text of the properties. Raises UsageError for a separator inside, and for more than fits."""
    try:
        text = m.encode_properties(properties)
    except (ValueError, TypeError) as error:
        for name, value in properties.items():
            if not isinstance(name, str) or not isinstance(value, str | None):
                raise UsageError(f"names and values of properties are str, not {name!r}: {value!r}") from None
        raise UsageError(str(error)) from None
    if len(text) > MAX_PROPERTIES_BYTES:
        raise UsageError(f"properties of {len(text)} bytes, the limit is {MAX_PROPERTIES_BYTES}")
    return text.decode()
