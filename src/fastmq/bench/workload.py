"""What a load consists of: template frames with the places that change from message to message."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from fastmq.bench.target import Queue
from fastmq.errors import UsageError
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, encode_frame

OPAQUE_MARK = 1_000_000_000  # ten digits, replaced for each request
PULL_OPAQUE = 2_000_000_000  # + number of the cursor
BORN_MARK = "1700000000000"
KEY_MARK = "FA57BEEF00000000" + "0" * 16  # the last sixteen hex digits count
OFFSET_MARK = "7777777777777777777"
STAMP_BYTES = 16  # at the start of a body: the run's id, the intended send time in ns
STAMP_AT = 8
BODY_MAX = 4 << 20
RING_FRAMES = 64
RING_BYTES = 256 << 20  # of all connections, unless more frames must be in flight
FRAME_BYTES_MAX = 4 << 30

Template = tuple[bytes, int, int, list[tuple[int, int]]]
PullFrame = tuple[bytes, bytes]  # before and after the queue offset


@dataclass(frozen=True, slots=True)
class SendWorkload:
    """Plain messages of one size in the way of the Java client: SEND_MESSAGE_V2 or SEND_BATCH_MESSAGE, JSON headers.

    `batch` 0: single messages, otherwise so many in a request. `run_id` (8 bytes): bodies begin with it and with the
    intended send time.
    """

    queues: Sequence[Queue]
    body_bytes: int
    batch: int = 0
    oneway: bool = False
    tag: str = ""
    group: str = "fastmq-bench"
    run_id: bytes = b""

    def templates(self) -> list[Template]:
        """One template a queue. UsageError for sizes that no broker takes."""
        if not 1 <= self.body_bytes <= BODY_MAX:
            raise UsageError(f"a message body has 1 to {BODY_MAX} bytes")
        if self.run_id and self.body_bytes < STAMP_BYTES:
            raise UsageError(f"a body that carries its send time has at least {STAMP_BYTES} bytes")
        if self.batch < 0 or self.batch * self.body_bytes > BODY_MAX:
            raise UsageError(f"a batch has at most {BODY_MAX} bytes")
        return [self._template(queue) for queue in self.queues]

    def _template(self, queue: Queue) -> Template:
        body = self._body()
        properties = f"UNIQ_KEY\x01{KEY_MARK}\x02WAIT\x01true\x02" + (f"TAGS\x01{self.tag}\x02" if self.tag else "")
        marks: list[tuple[int, int]] = []
        stamp = STAMP_AT if self.run_id else -1
        whole = body
        if self.batch:
            whole = b""
            encoded = properties.encode()
            for _ in range(self.batch):
                size = 22 + len(body) + len(encoded)
                at = len(whole) + 20
                whole += struct.pack(">iiiii", size, 0, 0, 0, len(body)) + body
                marks.append((len(whole) + 2 + encoded.index(KEY_MARK.encode()) + 16, at + stamp if stamp >= 0 else -1))
                whole += struct.pack(">h", len(encoded)) + encoded
            properties = "WAIT\x01true\x02"
        ext = {
            "a": self.group, "b": queue.topic, "c": "TBW102", "d": str(len(self.queues)), "e": str(queue.queue_id),
            "f": "0", "g": BORN_MARK, "h": "0", "i": properties, "j": "0", "k": "false",
            "m": "true" if self.batch else "false",
        }  # fmt: skip
        code = RequestCode.SEND_BATCH_MESSAGE if self.batch else RequestCode.SEND_MESSAGE_V2
        frame = encode_frame(
            Command(code, opaque=OPAQUE_MARK, flag=2 if self.oneway else 0, ext=ext, body=whole),
        )
        header = frame[: len(frame) - len(whole)]
        if self.batch:
            marks = [(len(header) + key, len(header) + at if at >= 0 else -1) for key, at in marks]
        else:
            marks = [(header.index(KEY_MARK.encode()) + 16, len(header) + stamp if stamp >= 0 else -1)]
        return frame, header.index(b'"opaque":') + len(b'"opaque":'), header.index(BORN_MARK.encode()), marks

    def _body(self) -> bytes:
        text = bytes(range(32, 127)) * (self.body_bytes // 95 + 1)
        start = self.run_id + bytes(8) if self.run_id else b""
        return start + text[: self.body_bytes - len(start)]


def pull_frame(queue: Queue, cursor: int, *, group: str, batch: int, suspend_ms: int) -> PullFrame:
    """PULL_MESSAGE for everything in a queue, long polling for up to `suspend_ms` (0: answered at once)."""
    if not 1 <= batch <= 1024:
        raise UsageError("a pull asks for 1 to 1024 messages")
    ext = {
        "commitOffset": "0", "consumerGroup": group, "expressionType": "TAG", "maxMsgNums": str(batch),
        "queueId": str(queue.queue_id), "queueOffset": OFFSET_MARK, "subVersion": "0", "subscription": "*",
        "suspendTimeoutMillis": str(suspend_ms), "sysFlag": str(4 | (2 if suspend_ms else 0)), "topic": queue.topic,
    }  # fmt: skip
    frame = encode_frame(Command(RequestCode.PULL_MESSAGE, opaque=PULL_OPAQUE + cursor, ext=ext))
    head, _, tail = frame.partition(OFFSET_MARK.encode())
    return head, tail


def ring(templates: Sequence[int], place: int, places: int, least: int, frame_bytes: int) -> list[int]:
    """The templates that connection number `place` of `places` sends in turn: `least` or more frames.

    All connections together send every template; where there is room for it, each of them does. UsageError if the
    frames would need more memory than is sensible.
    """
    count = len(templates)
    share = -(-count // places)
    size = max(least, share)
    if places * max(size, min(count, RING_FRAMES)) * frame_bytes <= RING_BYTES:
        size = max(size, min(count, RING_FRAMES))
    if size > count:
        size = -(-size // count) * count
    if places * size * frame_bytes > FRAME_BYTES_MAX:
        raise UsageError(f"{places} connections with {size} frames of {frame_bytes} bytes need too much memory")
    first = place * share
    return [templates[(first + number) % count] for number in range(size)]
