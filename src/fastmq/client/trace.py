"""Message traces: who sent and who consumed what, as records in a topic that `mqadmin queryMsgTraceById` reads.

A record is fields separated by \\x01 and closed by \\x02. A trace message has several, and as its keys the ids and keys
of the messages it speaks of (RocketMQ's AsyncTraceDispatcher, TraceDataEncoder). Traces are a help and not a duty:
what cannot be sent is dropped.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import anyio

from fastmq.client.errors import ClientError
from fastmq.client.messages import Message, ReceivedMessage
from fastmq.errors import FastmqError
from fastmq.protocol import message as m
from fastmq.protocol import names

log = logging.getLogger("fastmq.client")

FIELD: Final = "\x01"
RECORD: Final = "\x02"
MAX_BODY_CHARS: Final = 100_000
MAX_WAITING: Final = 2048
FLUSH_COUNT: Final = 10
FLUSH_SECONDS: Final = 5.0
DEFAULT_REGION: Final = "DefaultRegion"


class MessageKind(IntEnum):
    """What kind of message a producer sent."""

    NORMAL = 0
    HALF = 1
    COMMIT = 2
    DELAY = 3
    ORDER = 4


def kind_of(message: Message, sys_flag: int) -> MessageKind:
    """What kind of message it is."""
    if sys_flag & m.TRANSACTION_MASK == m.TRANSACTION_PREPARED_TYPE:
        return MessageKind.HALF
    if message.is_delayed:
        return MessageKind.DELAY
    return MessageKind.ORDER if message.sharding_key is not None else MessageKind.NORMAL


def trace_group(group: str, kind: str) -> str:
    """The producer group that sends the traces of a group. `kind`: PRODUCE or CONSUME."""
    return f"_INNER_TRACE_PRODUCER-{group}-{kind}"[: names.GROUP_MAX_LENGTH]


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One record and what it can be found by."""

    text: str
    keys: tuple[str, ...]


def _record(*fields: object) -> str:
    return FIELD.join("null" if one is None else str(one) for one in fields) + RECORD


def _flag(value: bool) -> str:
    return "true" if value else "false"


def publication(
    *, now_ms: int, region: str, group: str, topic: str, message_id: str, tags: str | None, keys: str | None,
    store_host: str, body_length: int, cost_ms: int, kind: MessageKind, offset_id: str | None, ok: bool,
) -> TraceRecord:  # fmt: skip
    """A message was sent, or could not be."""
    text = _record(
        "Pub", now_ms, region, group, topic, message_id, tags, keys, store_host, body_length, cost_ms, int(kind),
        offset_id, _flag(ok),
    )  # fmt: skip
    return TraceRecord(text, (*message_id.split(","), *(keys or "").split()))


def end_of_transaction(
    *, now_ms: int, region: str, group: str, topic: str, message_id: str, tags: str | None, keys: str | None,
    store_host: str, transaction_id: str, state: str, from_check: bool,
) -> TraceRecord:  # fmt: skip
    """A transaction was committed or rolled back. `state` as in LocalTransactionState."""
    text = _record(
        "EndTransaction", now_ms, region, group, topic, message_id, tags, keys, store_host, int(MessageKind.COMMIT),
        transaction_id, state, _flag(from_check),
    )  # fmt: skip
    return TraceRecord(text, (message_id, *(keys or "").split()))


def consumption_begins(
    *, now_ms: int, region: str, group: str, request_id: str, message_id: str, retries: int, keys: str | None,
) -> TraceRecord:  # fmt: skip
    """A listener is about to get a message."""
    text = _record("SubBefore", now_ms, region, group, request_id, message_id, retries, keys)
    return TraceRecord(text, (message_id, *(keys or "").split()))


def consumption_ended(
    *, now_ms: int, group: str, request_id: str, message_id: str, cost_ms: int, ok: bool, keys: str | None, code: int,
) -> TraceRecord:  # fmt: skip
    """A listener ended. `code`: 0 well, 1 timeout, 2 exception, 4 later."""
    text = _record("SubAfter", request_id, message_id, cost_ms, _flag(ok), keys, code, now_ms, group)
    return TraceRecord(text, (message_id, *(keys or "").split()))


class Tracer:
    """Gathers records and sends them from time to time. `send` sends a message of the trace topic."""

    def __init__(self, topic: str, send: Callable[[Message], Awaitable[object]]) -> None:
        self._topic = topic
        self._send = send
        self._waiting: list[TraceRecord] = []
        self._wake = anyio.Event()
        self._one_at_a_time = anyio.Lock()
        self.dropped = 0
        """Records that were given up, because too many waited or a send failed."""

    def add(self, record: TraceRecord) -> None:
        """A record to be sent. Does not block; drops it when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(record)
        if len(self._waiting) >= FLUSH_COUNT:
            self._wake.set()

    def consumption(self, messages: Sequence[ReceivedMessage], group: str, now_ms: int) -> str | None:
        """A listener begins; the id under which `consumed` tells its end. None if no message is to be traced."""
        request_id = uuid.uuid4().hex.upper()
        traced = [one for one in messages if one.properties.get(m.PROPERTY_TRACE_SWITCH) != "false"]
        for one in traced:
            self.add(
                consumption_begins(
                    now_ms=now_ms,
                    region=one.properties.get(m.PROPERTY_MSG_REGION, DEFAULT_REGION),
                    group=group,
                    request_id=request_id,
                    message_id=one.message_id,
                    retries=one.reconsume_times,
                    keys=one.properties.get(m.PROPERTY_KEYS),
                )
            )
        return request_id if traced else None

    def consumed(
        self, request_id: str, messages: Sequence[ReceivedMessage], group: str, now_ms: int, cost_ms: int, code: int
    ) -> None:
        """A listener ended."""
        for one in messages:
            if one.properties.get(m.PROPERTY_TRACE_SWITCH) != "false":
                self.add(
                    consumption_ended(
                        now_ms=now_ms,
                        group=group,
                        request_id=request_id,
                        message_id=one.message_id,
                        cost_ms=cost_ms // max(1, len(messages)),
                        ok=code == 0,
                        keys=one.properties.get(m.PROPERTY_KEYS),
                        code=code,
                    )
                )

    async def run(self) -> None:
        """Send what gathers, until cancelled."""
        while True:
            with anyio.move_on_after(FLUSH_SECONDS):
                await self._wake.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what has gathered; returns when what is being sent already is sent, too."""
        self._wake = anyio.Event()
        async with self._one_at_a_time:
            await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            count, size = 0, 0
            while count < len(self._waiting) and (size := size + len(self._waiting[count].text)) <= MAX_BODY_CHARS:
                count += 1
            records = self._waiting[: max(1, count)]
            del self._waiting[: max(1, count)]
            keys = dict.fromkeys(key for record in records for key in record.keys if key)
            body = "".join(record.text for record in records)
            try:
                await self._send(Message(self._topic, body, keys=list(keys)))
            except ClientError as error:
                self.dropped += len(records)
                log.info("%d trace records are lost: %s", len(records), error)
            except FastmqError as error:  # keys too long for a message
                self.dropped += len(records)
                log.warning("%d trace records are lost: %s", len(records), error)
