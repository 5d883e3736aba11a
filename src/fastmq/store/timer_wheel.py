"""The timer wheel: per slot of time the chain of timer log records that hang in it (RocketMQ's TimerWheel).

One file of 2 x 604,800 slots of 32 bytes, big-endian: time in units of the precision long | position of the first
record long | of the last one long | messages int (a record that takes one back counts -1) | 0 int. The slot of a time
is its number of units modulo the number of slots; a slot that says another time is empty.

Changes stay in memory until they are written: the file never names a record that is not durable in the timer log.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from fastmq.errors import StoreError

SLOTS: Final = 2 * 604_800
SLOT: Final = struct.Struct(">qqqii")
WHEEL_BYTES: Final = SLOTS * SLOT.size
PRECISIONS_MS: Final = (100, 200, 500, 1000)


class Slot(NamedTuple):
    """One slot. `unit` is its time divided by the precision."""

    unit: int
    first: int
    last: int
    messages: int
    magic: int = 0


def precision_of(setting_ms: int) -> int:
    """The precision that RocketMQ makes of timerPrecisionMs: 100, 200, 500 or 1000 ms, the next lower one."""
    return max((one for one in PRECISIONS_MS if one <= setting_ms), default=PRECISIONS_MS[0])


class TimerWheel:
    """The file and the changes not yet in it. Raises StoreError if the file has another length."""

    _descriptor = -1

    def __init__(self, path: str, precision_ms: int) -> None:
        self.path = path
        self.precision_ms = precision_ms
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        length = os.fstat(self._descriptor).st_size
        self.is_new = length == 0
        if length not in (0, WHEEL_BYTES):
            raise StoreError(f"{path}: {length} bytes instead of {WHEEL_BYTES}")
        if self.is_new:
            try:
                os.ftruncate(self._descriptor, WHEEL_BYTES)
            except OSError as error:
                raise StoreError(f"{path}: {error.strerror}") from error
        self._map = mmap.mmap(self._descriptor, WHEEL_BYTES, prot=mmap.PROT_READ)
        self._changed: dict[int, Slot] = {}

    def floor(self, time_ms: int) -> int:
        """The time of the slot that a time lies in."""
        return time_ms // self.precision_ms * self.precision_ms

    def get(self, time_ms: int) -> Slot | None:
        """The slot of a time, None if it is empty."""
        unit = time_ms // self.precision_ms
        slot = self._at(unit % SLOTS)
        return slot if slot.unit == unit else None

    def occupant(self, time_ms: int) -> Slot:
        """What lies where the slot of a time goes, whatever time that has."""
        return self._at(time_ms // self.precision_ms % SLOTS)

    def put(self, slot: Slot) -> None:
        """Change a slot."""
        self._changed[slot.unit % SLOTS] = slot

    def link(self, time_ms: int, position: int, change: int) -> Slot:
        """Hang the record at a position into the slot of a time; what the slot is now. Known records change nothing."""
        unit = time_ms // self.precision_ms
        slot = self._at(unit % SLOTS)
        if slot.unit != unit:
            slot = Slot(unit, position, position, change)
        elif position > slot.last:
            slot = Slot(unit, slot.first if slot.first >= 0 else position, position, slot.messages + change)
        else:
            return slot
        self._changed[unit % SLOTS] = slot
        return slot

    def slots_from(self, time_ms: int) -> Iterator[Slot]:
        """Every slot of a time from `time_ms` on, in no order. Reads all that was ever written of the file."""
        unit = time_ms // self.precision_ms
        for slot in self._changed.values():
            if slot.unit >= unit:
                yield slot
        for begin, end in self._written():
            with memoryview(self._map) as view:
                for index, fields in enumerate(SLOT.iter_unpack(view[begin:end]), begin // SLOT.size):
                    if fields[0] >= unit and fields[0] > 0 and index not in self._changed:
                        yield Slot._make(fields)

    def _written(self) -> Iterator[tuple[int, int]]:
        """The parts of the file that are no holes."""
        end = 0
        with contextlib.suppress(OSError):  # ENXIO: there is nothing more
            while True:
                begin = os.lseek(self._descriptor, end, os.SEEK_DATA)
                end = os.lseek(self._descriptor, begin, os.SEEK_HOLE)
                yield begin - begin % SLOT.size, end - end % SLOT.size

    def clear(self) -> None:
        """Empty every slot."""
        self._changed.clear()
        self._map.close()
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, WHEEL_BYTES)
        self._map = mmap.mmap(self._descriptor, WHEEL_BYTES, prot=mmap.PROT_READ)

    def _at(self, index: int) -> Slot:
        changed = self._changed.get(index)
        return changed if changed is not None else Slot._make(SLOT.unpack_from(self._map, index * SLOT.size))

    # --- disk --------------------------------------------------------------------------------------------------------

    def changes(self) -> dict[int, Slot]:
        """The slots that differ from the file, by index; a copy."""
        return dict(self._changed)

    def write(self, changes: Mapping[int, Slot]) -> None:
        """Write slots and make them durable; blocks, in any thread. Raises OSError."""
        if not changes:
            return
        indexes = sorted(changes)
        at = 0
        while at < len(indexes):
            first = indexes[at]
            parts: list[bytes] = []
            while at < len(indexes) and indexes[at] == first + len(parts):
                parts.append(SLOT.pack(*changes[indexes[at]]))
                at += 1
            data, position = b"".join(parts), first * SLOT.size
            while data:
                written = os.pwrite(self._descriptor, data, position)
                data, position = data[written:], position + written
        os.fdatasync(self._descriptor)

    def written(self, changes: Mapping[int, Slot]) -> None:
        """These are in the file now: those not changed since need no memory any more."""
        for index, slot in changes.items():
            if self._changed.get(index) is slot:
                del self._changed[index]

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
