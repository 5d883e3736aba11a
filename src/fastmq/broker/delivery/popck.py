"""What POP writes down: checkpoints, acks and receipt handles, without any I/O.

A pop makes one checkpoint per queue it took messages from: which messages, for whom, until when. An ack names one or
more of them. Both are JSON bodies of messages in the revive topic (RocketMQ's PopCheckPoint, AckMsg, BatchAckMsg):

    ck     {"bm":0,"bn":broker,"c":group,"d":[0,1,..],"it":..,"n":2,"pt":..,"q":queue,"reviveTime":..,"ro":0,"so":..,"t":topic}
    ack    {"ao":offset,"bn":broker,"c":group,"pt":pop time,"q":queue,"so":start offset,"t":topic}
    bAck   the same with "aol":[offsets]

`so`, `pt`, `q`, `t`, `c` and `bn` together say which checkpoint an ack means. The receipt handle (POP_CK, extraInfo) is
what a consumer gets to make acks with: `so pt it reviveQueue retryFlag broker queue offset`, with spaces between.
"""  # noqa: E501  (each body on a line, as it is written)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fastmq.errors import ProtocolError
from fastmq.protocol import names
from fastmq.protocol._json_text import to_utf8
from fastmq.protocol.bodies import JsonError, dumps, loads_lenient, quote
from fastmq.protocol.fields import parse_int32, parse_int64

CK_TAG: Final = "ck"
ACK_TAG: Final = "ack"
BATCH_ACK_TAG: Final = "bAck"

ORDER_REVIVE_QUEUE: Final = 999
"""The revive queue in handles of orderly pops, which have no checkpoint."""

ACK_LEAD_MS: Final = 1000
"""So much earlier than its acks a checkpoint comes to the revive topic (PopAckConstants.ackTimeInterval)."""

REPUT_INTERVALS_S: Final = (10, 20, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200)
"""How much longer a message stays invisible each time it could not be put into the retry topic."""

NORMAL_FLAG: Final = "0"
RETRY_V1_FLAG: Final = "1"
RETRY_V2_FLAG: Final = "2"


class CheckPointKey(NamedTuple):
    """What an ack has in common with its checkpoint."""

    topic: str
    group: str
    queue_id: int
    start_offset: int
    pop_time: int
    broker: str


@dataclass(slots=True, kw_only=True)
class CheckPoint:
    """Messages of one queue handed out by one pop. Times in ms; `diffs` are their offsets from `start_offset`."""

    topic: str  # the one they were read from, may be a retry topic
    group: str
    queue_id: int
    start_offset: int
    pop_time: int
    invisible_time: int
    broker: str
    diffs: tuple[int, ...]
    acked: int = 0  # bit i: message i
    reput_times: int = 0

    @property
    def revive_time(self) -> int:
        """When what is not acknowledged becomes visible again."""
        return self.pop_time + self.invisible_time

    @property
    def deliver_time(self) -> int:
        """When it comes to the revive topic."""
        return self.revive_time - ACK_LEAD_MS

    @property
    def key(self) -> CheckPointKey:
        """What acks find it by."""
        return CheckPointKey(self.topic, self.group, self.queue_id, self.start_offset, self.pop_time, self.broker)

    @property
    def unique_key(self) -> str:
        """Its UNIQ_KEY in the log."""
        return f"{self.topic}@{self.queue_id}@{self.start_offset}@{self.group}@{self.pop_time}@{self.broker}@ck"

    def same_messages(self, other: CheckPoint) -> bool:
        """Whether the two, which have the same key, say the same."""
        return self.diffs == other.diffs and self.invisible_time == other.invisible_time

    def ack(self, offset: int) -> bool:
        """Mark a message; False if it is none of these."""
        try:
            index = self.diffs.index(offset - self.start_offset)
        except ValueError:
            return False
        self.acked |= 1 << index
        return True

    def open_offsets(self) -> list[int]:
        """Queue offsets of the messages that nobody acknowledged."""
        return [self.start_offset + diff for index, diff in enumerate(self.diffs) if not self.acked >> index & 1]

    def again(self, offset: int, now_ms: int) -> CheckPoint:
        """A new checkpoint for one message that could not be put into the retry topic: it stays invisible longer."""
        longer_s = REPUT_INTERVALS_S[min(self.reput_times, len(REPUT_INTERVALS_S) - 1)]
        return CheckPoint(
            topic=self.topic,
            group=self.group,
            queue_id=self.queue_id,
            start_offset=offset,
            pop_time=self.pop_time,
            invisible_time=self.invisible_time + (longer_s * 1000 if self.revive_time <= now_ms else 0),
            broker=self.broker,
            diffs=(0,),
            reput_times=self.reput_times + 1,
        )

    def encode(self) -> bytes:
        """The body of its message."""
        return dumps(
            {
                "bm": self.acked,
                "bn": self.broker,
                "c": self.group,
                "d": list(self.diffs),
                "it": self.invisible_time,
                "n": len(self.diffs),
                "pt": self.pop_time,
                "q": self.queue_id,
                "reviveTime": self.revive_time,
                "ro": 0,
                "rp": str(self.reput_times) if self.reput_times else None,
                "so": self.start_offset,
                "t": self.topic,
            }
        )

    @classmethod
    def decode(cls, body: bytes) -> CheckPoint:
        """Read a body. Raises ProtocolError."""
        value = _object(body)
        count = _int(value, "n")
        diffs = value.get("d")
        if not isinstance(diffs, list) or not diffs:
            diffs = list(range(count))  # as old brokers wrote it
        if len(diffs) > 127 or not all(type(diff) is int and abs(diff) < 1 << 31 for diff in diffs):
            raise ProtocolError(f"a checkpoint has the offsets {str(diffs)[:64]}")
        start = _int(value, "so")
        if not all(0 <= start + diff < 1 << 63 for diff in diffs):
            raise ProtocolError(f"a checkpoint from {start} on has the offsets {str(diffs)[:64]}")
        reput = value.get("rp")
        return cls(
            topic=_text(value, "t"),
            group=_text(value, "c"),
            queue_id=_int(value, "q"),
            start_offset=start,
            pop_time=_int(value, "pt"),
            invisible_time=_int(value, "it"),
            broker=_text(value, "bn", ""),
            diffs=tuple(diffs),
            acked=_int(value, "bm") & (1 << len(diffs)) - 1,
            reput_times=0 if reput is None else min(parse_int32(str(reput)) or 0, 1000),
        )


@dataclass(slots=True, kw_only=True)
class Ack:
    """Messages of one checkpoint that a consumer is done with."""

    key: CheckPointKey
    offsets: tuple[int, ...]
    batch: bool = False

    @property
    def tag(self) -> str:
        """What kind of message it is in the log."""
        return BATCH_ACK_TAG if self.batch else ACK_TAG

    @property
    def unique_key(self) -> str:
        """Its UNIQ_KEY in the log."""
        key = self.key
        if self.batch:
            return f"{key.topic}@{key.queue_id}@{list(self.offsets)}@{key.group}@{key.pop_time}@{BATCH_ACK_TAG}"
        offset = self.offsets[0]
        return f"{key.topic}@{key.queue_id}@{offset}@{key.group}@{key.pop_time}@{key.broker}@{ACK_TAG}"

    def encode(self) -> bytes:
        """The body of its message."""
        key = self.key
        offsets = f'-1,"aol":[{",".join(map(str, self.offsets))}]' if self.batch else str(self.offsets[0])
        return to_utf8(  # one for each message that is consumed: this is several times faster than `dumps`
            f'{{"ao":{offsets},"bn":{quote(key.broker)},"c":{quote(key.group)},"pt":{key.pop_time},"q":{key.queue_id},'
            f'"so":{key.start_offset},"t":{quote(key.topic)}}}'
        )

    @classmethod
    def decode(cls, body: bytes, *, batch: bool, broker: str) -> Ack:
        """Read a body; `broker` stands for a missing broker name. Raises ProtocolError."""
        value = _object(body)
        key = CheckPointKey(
            topic=_text(value, "t", old="topic"),
            group=_text(value, "c", old="consumerGroup"),
            queue_id=_int(value, "q", old="queueId"),
            start_offset=_int(value, "so", old="startOffset"),
            pop_time=_int(value, "pt", old="popTime"),
            broker=_text(value, "bn", broker, old="brokerName") or broker,
        )
        if not batch:
            return cls(key=key, offsets=(_int(value, "ao", old="ackOffset"),))
        offsets = value.get("aol", value.get("ackOffsetList"))
        if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
            raise ProtocolError("a batch ack has no list of offsets")
        return cls(key=key, offsets=tuple(offsets), batch=True)


class Receipt(NamedTuple):
    """A receipt handle: POP_CK of a message, extraInfo of an ack."""

    start_offset: int
    pop_time: int
    invisible_time: int
    revive_queue: int
    retry: str
    broker: str
    queue_id: int
    offset: int

    def __str__(self) -> str:
        return " ".join(map(str, self))

    @property
    def in_order(self) -> bool:
        """Whether it is one of an orderly pop."""
        return self.revive_queue == ORDER_REVIVE_QUEUE

    @classmethod
    def parse(cls, text: str) -> Receipt:
        """Read a handle; what stands behind the sixth field may be missing. ValueError if it is not one."""
        fields = text.split(" ")
        if 6 <= len(fields) <= 8:
            start, pop_time, invisible, revive_queue = (parse_int64(field) for field in fields[:4])
            queue_id = parse_int32(fields[6]) if len(fields) > 6 else 0
            offset = parse_int64(fields[7]) if len(fields) > 7 else start
            if (
                start is not None
                and pop_time is not None
                and invisible is not None
                and revive_queue is not None
                and queue_id is not None
                and offset is not None
                and fields[4] in (NORMAL_FLAG, RETRY_V1_FLAG, RETRY_V2_FLAG)
            ):
                return cls(start, pop_time, invisible, revive_queue, fields[4], fields[5], queue_id, offset)
        raise ValueError(f"{text[:128]!r} is not a receipt handle")


def retry_flag(topic: str) -> str:
    """How handles and offset infos tell a topic from the group's retry topics (ExtraInfoUtil.getRetry)."""
    if names.is_retry_topic(topic):
        return RETRY_V2_FLAG if "+" in topic else RETRY_V1_FLAG
    return NORMAL_FLAG


def real_topic(topic: str, group: str, flag: str) -> str:
    """The topic a retry flag stands for. ValueError for an unknown flag."""
    if flag == NORMAL_FLAG:
        return topic
    if flag not in (RETRY_V1_FLAG, RETRY_V2_FLAG):
        raise ValueError(f"{flag[:16]!r} is not a retry flag")
    return names.pop_retry_topic(group, topic, v2=flag == RETRY_V2_FLAG)


def normal_topic(topic: str, group: str) -> str:
    """The topic that a message of a pop retry topic comes from (KeyBuilder.parseNormalTopic)."""
    for separator in "+_":
        prefix = f"{names.RETRY_PREFIX}{group}{separator}"
        if topic.startswith(prefix):
            return topic.removeprefix(prefix)
    return topic


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = loads_lenient(body)
    except JsonError as error:
        raise ProtocolError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError("not a JSON object")
    return value


def _int(value: dict[str, Any], name: str, *, old: str = "") -> int:
    number = value.get(name, value.get(old, 0))
    if type(number) is not int or abs(number) >= 1 << 63:
        raise ProtocolError(f"{name} is {str(number)[:32]}")
    return number


def _text(value: dict[str, Any], name: str, default: str | None = None, *, old: str = "") -> str:
    text = value.get(name, value.get(old))
    if text is None:
        text = default
    if not isinstance(text, str):
        raise ProtocolError(f"{name} is {str(text)[:32]}")
    return text
