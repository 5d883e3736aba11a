"""One half message: what it is made of, whether it is due to be checked, what becomes of it. No state, no waiting.

A message sent in a transaction is stored in RMQ_SYS_TRANS_HALF_TOPIC, where no consumer sees it (a *half message*).
Its producer decides about it with END_TRANSACTION (37): commit puts it into its real topic, either decision puts its
queue offset into a message of RMQ_SYS_TRANS_OP_HALF_TOPIC (an *op message*: tag `d`, body `12,13,27,`). After
RocketMQ's TransactionalMessageBridge, EndTransactionProcessor and TransactionalMessageUtil.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from fastmq.broker.delivery.intake import OutgoingMessage
from fastmq.errors import ProtocolError
from fastmq.protocol import message as m
from fastmq.protocol import names
from fastmq.protocol.fields import parse_int32, parse_int64
from fastmq.protocol.headers import CheckTransactionStateRequest

HALF_TOPIC: Final = names.TRANS_HALF_TOPIC
OP_TOPIC: Final = names.TRANS_OP_HALF_TOPIC
HALF_QUEUE: Final = 0
"""All half messages of a broker go into this queue."""
GIVEN_UP_TOPIC: Final = names.TRANS_CHECK_MAX_TIME_TOPIC
GIVEN_UP_QUEUE: Final = 0

OP_PROPERTIES: Final = b"WAIT\x01true\x02TAGS\x01d\x02"
OP_TAG: Final = "d"

Identity = tuple[str, str, int, str, int | None, int]
"""UNIQ_KEY, producer group, born time, real topic and queue, CRC of the body: alike in all records of one transaction,
of which each check makes one more.

The key alone would not do: a client that sends one message object twice gives both the same, and some give none.
"""


PROPERTY_LIGHT_QUEUES_LATER: Final = "__INNER_MULTI_DISPATCH__"
"""Light queues (LMQ) of a message nobody may see yet: the store must not take notice of them."""


def _hide_light_queues(properties: dict[str, str]) -> None:
    names_of_queues = properties.pop(m.PROPERTY_INNER_MULTI_DISPATCH, None)
    properties.pop(m.PROPERTY_INNER_MULTI_QUEUE_OFFSET, None)
    if names_of_queues is not None:
        properties[PROPERTY_LIGHT_QUEUES_LATER] = names_of_queues


def _show_light_queues(properties: dict[str, str]) -> None:
    names_of_queues = properties.pop(PROPERTY_LIGHT_QUEUES_LATER, None)
    properties.pop(m.PROPERTY_INNER_MULTI_QUEUE_OFFSET, None)  # of a half message that another broker wrote
    if names_of_queues is not None:
        properties[m.PROPERTY_INNER_MULTI_DISPATCH] = names_of_queues


def to_half(message: OutgoingMessage) -> None:
    """Turn a message on its way into the store into a half message."""
    properties = message.properties
    unique_key = properties.get(m.PROPERTY_UNIQUE_KEY)
    if unique_key:
        properties[m.PROPERTY_TRANSACTION_ID] = unique_key
    properties[m.PROPERTY_REAL_TOPIC] = message.topic
    properties[m.PROPERTY_REAL_QUEUE_ID] = str(message.queue_id)
    _hide_light_queues(properties)
    message.sys_flag &= ~m.TRANSACTION_MASK
    message.topic = HALF_TOPIC
    message.queue_id = HALF_QUEUE


@dataclass(frozen=True, slots=True)
class CheckRules:
    """When a half message is checked (transactionTimeOut, transactionCheckMax, fileReservedTime), times in ms."""

    timeout_ms: int
    max_checks: int
    max_age_ms: int


class Verdict(enum.Enum):
    """What is to be done about a half message that nobody has decided about yet."""

    YOUNG = enum.auto()  # its producer may still decide: it and those behind it are looked at later
    PROTECTED = enum.auto()  # the same, because it was sent with a time of its own; those behind it may be due
    DUE = enum.auto()  # its producer is to be asked
    EXPIRED = enum.auto()  # asked often enough, or too old: it is put aside


@dataclass(slots=True)
class HalfMessage:
    """A record of the half topic. `properties` is its own copy of them."""

    message: m.StoredMessage
    properties: dict[str, str]

    @classmethod
    def decode(cls, record: bytes | None) -> HalfMessage | None:
        """None if there is no record, or it is no half message with a real topic and queue to go to."""
        if record is None:
            return None
        try:
            message, _ = m.decode_message(record)
        except ProtocolError:
            return None
        half = cls(message, message.property_map)
        if half.real_queue_id is None or not half.properties.get(m.PROPERTY_REAL_TOPIC):
            return None
        return half

    @property
    def real_topic(self) -> str:
        """The topic the message was sent to."""
        return self.properties[m.PROPERTY_REAL_TOPIC]

    @property
    def real_queue_id(self) -> int | None:
        """The queue the message was sent to; None if the record does not say one."""
        queue_id = parse_int32(self.properties.get(m.PROPERTY_REAL_QUEUE_ID))
        return queue_id if queue_id is not None and queue_id >= 0 else None

    @property
    def producer_group(self) -> str | None:
        """Whose producers decide."""
        return self.properties.get(m.PROPERTY_PRODUCER_GROUP)

    @property
    def identity(self) -> Identity:
        """What this record shares with the other records of its transaction."""
        unique_key = self.properties.get(m.PROPERTY_UNIQUE_KEY, "")
        message, topic = self.message, self.real_topic
        return (
            unique_key, self.producer_group or "", message.born_timestamp, topic, self.real_queue_id, message.body_crc,
        )  # fmt: skip

    def is_commit_of(self, half: HalfMessage) -> bool:
        """Whether this is no half message any more, but what one became by its commit."""
        return (
            self.message.sys_flag & m.TRANSACTION_MASK == m.TRANSACTION_COMMIT_TYPE
            and self.message.topic == half.real_topic
            and self.identity == half.identity
        )

    @property
    def is_copy(self) -> bool:
        """Whether this is not the first record of its transaction."""
        properties = self.properties
        return (
            m.PROPERTY_TRANSACTION_CHECK_TIMES in properties
            or m.PROPERTY_TRANSACTION_PREPARED_QUEUE_OFFSET in properties
        )

    @property
    def checks(self) -> int:
        """How often the producers were asked. What cannot be read counts as one below none, as in RocketMQ."""
        text = self.properties.get(m.PROPERTY_TRANSACTION_CHECK_TIMES)
        if text is None:
            return 0
        times = parse_int32(text)
        return -1 if times is None else times

    def immunity_ms(self, timeout_ms: int) -> int | None:
        """CHECK_IMMUNITY_TIME_IN_SECONDS in ms; None if it was not given, `timeout_ms` for -1 and what is no number."""
        text = self.properties.get(m.PROPERTY_CHECK_IMMUNITY_TIME_IN_SECONDS)
        if text is None:
            return None
        seconds = parse_int64(text)
        return timeout_ms if seconds is None or seconds == -1 else seconds * 1000

    def is_too_late(self, now_ms: int, timeout_ms: int) -> bool:
        """Whether a decision of the producer's own accord comes after the time it asked for: then it is asked first."""
        immunity_ms = self.immunity_ms(timeout_ms)
        return immunity_ms is not None and now_ms - self.message.born_timestamp > max(immunity_ms, timeout_ms)

    def judge(self, now_ms: int, rules: CheckRules) -> Verdict:
        """What is due at a wall time."""
        age_ms = now_ms - self.message.born_timestamp
        if self.checks >= rules.max_checks or age_ms > rules.max_age_ms:
            return Verdict.EXPIRED
        if age_ms < 0:  # the clock of its client is ahead of ours
            age_ms = max(0, now_ms - self.message.store_timestamp)
        immunity_ms = self.immunity_ms(rules.timeout_ms)
        if immunity_ms is not None:
            return Verdict.PROTECTED if age_ms <= immunity_ms else Verdict.DUE
        return Verdict.YOUNG if age_ms <= rules.timeout_ms else Verdict.DUE

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def committed(self) -> OutgoingMessage:
        """The message for its real topic; the half message it came from is noted in it."""
        queue_id = self.real_queue_id
        assert queue_id is not None
        properties = dict(self.properties)
        _show_light_queues(properties)
        outgoing = OutgoingMessage.of(self.message, self.real_topic, queue_id, properties)
        outgoing.sys_flag = outgoing.sys_flag & ~m.TRANSACTION_MASK | m.TRANSACTION_COMMIT_TYPE
        outgoing.prepared_offset = self.message.log_offset
        return outgoing

    def checked(self, checks: int) -> OutgoingMessage:
        """The record that is stored for one more check."""
        properties = {**self.properties, m.PROPERTY_TRANSACTION_CHECK_TIMES: str(checks)}
        return self._hidden(HALF_TOPIC, self._half_queue, properties)

    def moved(self) -> OutgoingMessage:
        """The same record for the end of the half queue, so that what lies before it can be forgotten."""
        first = self.properties.get(m.PROPERTY_TRANSACTION_PREPARED_QUEUE_OFFSET, str(self.message.queue_offset))
        properties = {**self.properties, m.PROPERTY_TRANSACTION_PREPARED_QUEUE_OFFSET: first}
        return self._hidden(HALF_TOPIC, self._half_queue, properties)

    def given_up(self) -> OutgoingMessage:
        """The record for the topic of messages nobody decided about."""
        return self._hidden(GIVEN_UP_TOPIC, GIVEN_UP_QUEUE, dict(self.properties))

    @property
    def _half_queue(self) -> int:
        return self.message.queue_id if self.message.topic == HALF_TOPIC else HALF_QUEUE

    def _hidden(self, topic: str, queue_id: int, properties: dict[str, str]) -> OutgoingMessage:
        """A copy that nobody may see."""
        _hide_light_queues(properties)
        return OutgoingMessage.of(self.message, topic, queue_id, properties)

    # --- asking the producer -----------------------------------------------------------------------------------------

    def check_request(
        self, copy: OutgoingMessage, queue_offset: int, log_offset: int, broker_name: str
    ) -> tuple[CheckTransactionStateRequest, bytes]:
        """Header and body of CHECK_TRANSACTION_STATE (39) for the record that was stored for this check.

        The body is the message as its producer knows it: with its real topic and queue.
        """
        message = self.message
        unique_key = self.properties.get(m.PROPERTY_UNIQUE_KEY)
        header = CheckTransactionStateRequest(
            topic=HALF_TOPIC,
            tran_state_table_offset=queue_offset,
            commit_log_offset=log_offset,
            msg_id=unique_key,
            transaction_id=unique_key,
            offset_msg_id=m.offset_message_id(*message.store_host, log_offset),
            broker_name=broker_name,
        )
        assert self.real_queue_id is not None
        properties = {**copy.properties, m.PROPERTY_WAIT_STORE_MSG_OK: "false"}
        _show_light_queues(properties)
        body = replace(
            message,
            topic=self.real_topic,
            queue_id=self.real_queue_id,
            queue_offset=queue_offset,
            log_offset=log_offset,
            properties=m.encode_properties(properties),
            version=1,
        )
        return header, m.encode_message(body)


# --- op messages ------------------------------------------------------------------------------------------------------


def op_body(half_offsets: Iterable[int]) -> bytes:
    """The body of an op message: each offset followed by a comma."""
    return "".join(f"{offset}," for offset in half_offsets).encode()


def read_op(record: bytes | None) -> list[int]:
    """The half offsets of an op message; none of a record that is no such message, or was damaged."""
    if record is None:
        return []
    try:
        message, _ = m.decode_message(record)
    except ProtocolError:
        return []
    if message.get(m.PROPERTY_TAGS) != OP_TAG:
        return []
    offsets = (parse_int64(part.strip()) for part in message.body.decode("ascii", "replace").split(","))
    return [offset for offset in offsets if offset is not None and offset >= 0]
