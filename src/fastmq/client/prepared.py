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
from fastmq.protocol.command import Command

COMPRESS_LEVEL: Final = 5

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
        self._known: set[str] = set()

    def single(self, message: Message, queue: MessageQueue | None = None, selector: Selector | None = None) -> Prepared:
        """One message. Raises UsageError or MessageTooLarge."""
        prepared = Prepared()
        prepared.message = message
        prepared.topic = self._topic(message.topic)
        if queue is not None and queue.topic != message.topic:
            raise UsageError(f"{queue} is no queue of topic {message.topic}")
        now_ms = self._session.clock.wall_ms()
        prepared.message_id = unique_key = self._session.unique_keys.next(now_ms)
        properties = message.wire_properties(unique_key)
        if self._session.namespace:
            properties[m.PROPERTY_INSTANCE_ID] = self._session.namespace
        body = message.encoded_body()
        self._check_size(body)
        prepared.span = None
        if self._telemetry is not None:
            properties_text(properties)  # from here on nothing is refused: who began a span ends it
            prepared.span = self._telemetry.sending(message, unique_key, properties)
        sys_flag = 0
        if len(body) >= self._compress_over and self._compression is not Compression.NONE:
            body, sys_flag = compress(body, self._compression, COMPRESS_LEVEL)
        prepared.body = body
        prepared.sys_flag = sys_flag
        prepared.properties = properties_text(properties)
        prepared.flag = message.flag
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
        if topic in self._known:
            return topic
        wrong = names.validate_topic(topic)
        if wrong:
            raise UsageError(wrong)
        if names.is_not_allowed_send_topic(topic):
            raise UsageError(f"topic {topic} belongs to the system")
        self._known.add(topic)
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
