"""What a load consists of: template frames with the places that change from message to message."""

from __future__ import annotations

from dataclasses import dataclass

from fastmq.errors import UsageError
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, encode_frame

OPAQUE_MARK = 1_000_000_000  # ten digits, replaced for each request
BORN_MARK = "1700000000000"
KEY_MARK = "FA57BEEF00000000" + "0" * 16  # the last sixteen hex digits are a counter

Template = tuple[bytes, int, int, int]  # frame, position of the opaque, of the key's counter, of the born timestamp


@dataclass(frozen=True, slots=True)
class SendWorkload:
    """Plain messages of one size to the queues of one topic, in the way of the Java client (SEND_MESSAGE_V2, JSON)."""

    topic: str
    queues: int
    body_bytes: int
    group: str = "fastmq-bench"
    oneway: bool = False
    tag: str = ""

    def templates(self) -> list[Template]:
        """One template a queue."""
        if self.body_bytes < 1:
            raise UsageError("a message body has at least one byte")
        return [self._template(queue_id) for queue_id in range(self.queues)]

    def _template(self, queue_id: int) -> Template:
        properties = f"UNIQ_KEY\x01{KEY_MARK}\x02WAIT\x01true\x02" + (f"TAGS\x01{self.tag}\x02" if self.tag else "")
        ext = {
            "a": self.group, "b": self.topic, "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0", "g": BORN_MARK,
            "h": "0", "i": properties, "j": "0", "k": "false", "m": "false",
        }  # fmt: skip
        command = Command(RequestCode.SEND_MESSAGE_V2, opaque=OPAQUE_MARK, flag=2 if self.oneway else 0, ext=ext)
        command.body = bytes(range(32, 127)) * (self.body_bytes // 95 + 1)
        command.body = command.body[: self.body_bytes]
        frame = encode_frame(command)
        header = frame[: len(frame) - self.body_bytes]
        return (
            frame,
            header.index(b'"opaque":') + len(b'"opaque":'),
            header.index(KEY_MARK.encode()) + 16,
            header.index(BORN_MARK.encode()),
        )
