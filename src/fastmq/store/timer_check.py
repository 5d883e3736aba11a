"""The timer checkpoint `config/timercheck`: how far timers have come (RocketMQ's TimerCheckpoint).

4096 bytes, big-endian longs: 0 read time (slots before it are done) | 8 flushed end of the timer log | 16 next offset
of the timer queue | 24 the same as the master has it | 32 data version: state version, timestamp, counter.

Apache RocketMQ keeps the rest of the page as it is. fastmq adds from offset 64 on, with a CRC-32 over it and the part
before: magic long | precision ms long | number of bounds long | bounds (slot time, due ms, position: longs) | crc
long. A bound says that the records of its slot before the flushed end of the log and before (due, position) were
delivered. Once Apache has written the page the CRC no longer fits, and the addition counts as absent.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from fastmq.errors import StoreError
from fastmq.protocol.bodies import DataVersion

PAGE_BYTES: Final = 4096
MAX_BOUNDS: Final = 64
_HEAD: Final = struct.Struct(">7q")
_ADDED: Final = struct.Struct(">3q")
_BOUND: Final = struct.Struct(">3q")
_CRC: Final = struct.Struct(">q")
_MAGIC: Final = 0x66616D7154494D45
_ADDED_AT: Final = 64


@dataclass(slots=True)
class TimerCheck:
    """The content of the file. `precision_ms` is 0 if fastmq's part is not there."""

    read_ms: int = 0
    log_end: int = 0
    queue_offset: int = 0
    master_queue_offset: int = 0
    version: DataVersion = field(default_factory=lambda: DataVersion(counter=0, state_version=0, timestamp=0))
    precision_ms: int = 0
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)

    def head(self) -> bytes:
        """RocketMQ's 56 bytes: the body of GET_TIMER_CHECK_POINT (60)."""
        return _HEAD.pack(
            self.read_ms, self.log_end, self.queue_offset, self.master_queue_offset,
            self.version.state_version, self.version.timestamp, self.version.counter,
        )  # fmt: skip

    def encode(self) -> bytes:
        """The page."""
        page = bytearray(self.head().ljust(_ADDED_AT, b"\x00"))
        # fewer bounds only mean that more is delivered again after a crash
        bounds = sorted(self.bounds.items())[:MAX_BOUNDS]
        page += _ADDED.pack(_MAGIC, self.precision_ms, len(bounds))
        for slot_ms, (due_ms, position) in bounds:
            page += _BOUND.pack(slot_ms, due_ms, position)
        page += _CRC.pack(zlib.crc32(page))
        return bytes(page.ljust(PAGE_BYTES, b"\x00"))

    @classmethod
    def decode(cls, page: bytes) -> TimerCheck:
        """What a page says. StoreError if it is too short for RocketMQ's part."""
        if len(page) < _HEAD.size:
            raise StoreError(f"a timer checkpoint of {len(page)} bytes")
        read_ms, log_end, queue_offset, master, state_version, timestamp, counter = _HEAD.unpack_from(page)
        check = cls(read_ms, log_end, queue_offset, master)
        check.version = DataVersion(counter=counter, state_version=state_version, timestamp=timestamp)
        if len(page) < PAGE_BYTES:
            return check
        magic, precision_ms, count = _ADDED.unpack_from(page, _ADDED_AT)
        if magic != _MAGIC or not 0 <= count <= MAX_BOUNDS:
            return check
        at = _ADDED_AT + _ADDED.size
        end = at + count * _BOUND.size
        if _CRC.unpack_from(page, end)[0] != zlib.crc32(page[:end]):
            return check
        check.precision_ms = precision_ms
        check.bounds = {slot: (due, position) for slot, due, position in _BOUND.iter_unpack(page[at:end])}
        return check


def load_check(path: str) -> TimerCheck | None:
    """The checkpoint in a file, None if there is none. Raises StoreError."""
    try:
        with open(path, "rb") as file:
            page = file.read(PAGE_BYTES)
    except FileNotFoundError:
        return None
    if not page:
        return None
    try:
        return TimerCheck.decode(page)
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error


def save_check(path: str, page: bytes) -> None:
    """Write the page over the old one, durably; blocks. It fits into one write that no crash tears in its used part."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(descriptor, page, 0)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
