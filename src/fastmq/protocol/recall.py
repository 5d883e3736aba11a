"""The handle by which a producer takes a timer message back (RecallMessageHandle).

URL-safe Base64 of `v1 <topic> <broker name> <time ms> <unique key>`, single spaces. Clients pass it on as it is.
RocketMQ writes the time of the slot + 1, fastmq the exact time of delivery: both lead to the same slot, with the latter
a message can be taken back until it is delivered.
"""

from __future__ import annotations

import base64
from typing import NamedTuple, Self

from fastmq.protocol.fields import parse_int64

VERSION = "v1"
_FIELDS = 5


class RecallHandle(NamedTuple):
    """What a handle says. `time_ms` is -1 if it is no number."""

    topic: str
    broker_name: str
    time_ms: int
    unique_key: str

    def encode(self) -> str:
        """The handle."""
        text = f"{VERSION} {self.topic} {self.broker_name} {self.time_ms} {self.unique_key}"
        return base64.urlsafe_b64encode(text.encode()).decode()

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read a handle, with or without padding. ValueError if it is not one."""
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            items = data.decode().split(" ")
        except ValueError as error:
            raise ValueError("recall handle is invalid") from error
        if len(items) < _FIELDS or items[0] != VERSION:
            raise ValueError("recall handle is invalid")
        _, topic, broker_name, time_text, unique_key = items[:_FIELDS]
        time_ms = parse_int64(time_text)
        return cls(topic, broker_name, -1 if time_ms is None else time_ms, unique_key)
