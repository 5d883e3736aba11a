"""What a command shows: rows of named values, as aligned columns or as one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from fastmq.client.messages import ReceivedMessage

Row = Mapping[str, Any]


class Output:
    """Where rows go. Values are text, numbers, lists, mappings or None; times are ms since the epoch."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self.as_json = as_json

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table. With --json each row is an object with the columns as names."""
        found = [list(row) for row in rows]
        if self.as_json:
            for row in found:
                self.one(dict(zip(columns, row, strict=True)))
            return
        cells = [[name.upper().replace("_", " ") for name in columns]]
        cells += [[_text(name, value) for name, value in zip(columns, row, strict=True)] for row in found]
        widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
        for row in cells:
            self._line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def one(self, values: Row) -> None:
        """One object: with --json a line, else a line for each of its values."""
        if self.as_json:
            self._line(json.dumps(values, ensure_ascii=False, default=str))
            return
        width = max(map(len, values), default=0)
        for name, value in values.items():
            self._line(f"{name.replace('_', ' ').ljust(width)}  {_text(name, value)}")

    def message(self, message: ReceivedMessage, *, body_only: bool = False) -> None:
        """A message: with --json all of it, else a line about it, or with `body_only` its body as it is."""
        if self.as_json:
            self.one(describe(message))
        elif body_only:
            self._line(message.body.decode("utf-8", "surrogateescape"))
        else:
            place = f"{message.queue.broker_name}:{message.queue.queue_id}@{message.queue_offset}"
            marks = [f"tag={message.tag}"] if message.tag else []
            marks += [f"keys={','.join(message.keys)}"] if message.keys else []
            marks += [f"retries={message.reconsume_times}"] if message.reconsume_times else []
            head = " ".join([time_text(message.store_timestamp), place, message.message_id, *marks])
            self._line(f"{head}\n  {message.body.decode('utf-8', 'backslashreplace')}")

    def done(self, sentence: str) -> None:
        """That something was done; said to people only."""
        if not self.as_json:
            self._line(sentence)

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def describe(message: ReceivedMessage) -> dict[str, Any]:
    """Everything about a message; the body as text, or as hex under another name where it is none."""
    try:
        body = {"body": message.body.decode()}
    except UnicodeDecodeError:
        body = {"body_hex": message.body.hex()}
    return {
        "message_id": message.message_id,
        "offset_id": message.offset_id,
        "topic": message.topic,
        "broker": message.queue.broker_name,
        "queue": message.queue.queue_id,
        "offset": message.queue_offset,
        "born_ms": message.born_timestamp,
        "stored_ms": message.store_timestamp,
        "retries": message.reconsume_times,
        "tag": message.tag,
        "keys": message.keys,
        "properties": dict(message.properties),
        **body,
    }


def time_text(stamp_ms: int) -> str:
    """A time on this machine's clock, `-` for none."""
    if stamp_ms <= 0:
        return "-"
    return datetime.fromtimestamp(stamp_ms / 1000).isoformat(sep=" ", timespec="milliseconds")


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_ms") and isinstance(value, int):
        return time_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value)
