"""The recorded exchanges of this folder, one at a time."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Record:
    """One frame of an exchange between released programs."""

    place: str  # file:line, request or response
    client: str
    code: int  # of the request, also for a response
    note: str
    is_request: bool
    resp_code: int | None
    frame: bytes

    def __str__(self) -> str:
        return f"{self.place} ({self.client}, {self.code}: {self.note})"


def _read() -> Iterator[Record]:
    for path in sorted(FOLDER.glob("*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            row = json.loads(line)
            for side in ("request", "response"):
                if row[side]:
                    yield Record(
                        place=f"{path.name}:{number} {side}",
                        client=row["client"],
                        code=row["code"],
                        note=row["note"],
                        is_request=side == "request",
                        resp_code=row["resp_code"],
                        frame=base64.b64decode(row[side]),
                    )


@cache
def records() -> tuple[Record, ...]:
    """Every frame of every file, in the order of the files."""
    return tuple(_read())
