"""The timer log: one record of 52 bytes for every message that waits for its time (RocketMQ's TimerLog).

Files of equal size named by their first offset, as commit log files. All numbers are big-endian:

    size int (52) | previous record of the same slot long (-1: none) | magic int | write time ms long
    | slot time - write time int | commit log offset long | size of that record int | hash of the real topic int
    | due time ms long

Apache RocketMQ writes 0 in place of the due time and does not read it. Magic: 1, with 2 for a message that is not due
at the slot's time but is looked at again then ("roll"), with 4 for a record that takes another one back.

What does not fit before the end of a file goes to the next one; behind the last record stand 16 bytes: rest of the file
int, 0 long, filler magic int. Records are written with pwrite: they survive the process, `flush` makes them durable.
Reading goes through a map. One thread appends; `dirty_files` and `TimerLogFile.sync` let another one flush.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastmq.errors import StoreError

RECORD: Final = struct.Struct(">iqiqiqiiq")
FILLER: Final = struct.Struct(">iqi")
RECORD_BYTES: Final = RECORD.size
FILLER_MAGIC: Final = -875286124
MAGIC_DEFAULT: Final = 1
MAGIC_ROLL: Final = 2
MAGIC_DELETE: Final = 4
_MAGIC_MASK: Final = 0xF
_NAME_DIGITS: Final = 20


class TimerRecord(NamedTuple):
    """One record; see the module. `previous` is the position of the record before it in the same slot, or -1."""

    size: int
    previous: int
    magic: int
    write_ms: int
    delay_ms: int
    log_offset: int
    log_size: int
    topic_hash: int
    due_ms: int

    @property
    def slot_ms(self) -> int:
        """The time of the slot it hangs in."""
        return self.write_ms + self.delay_ms

    @property
    def valid(self) -> bool:
        """Whether this is a record at all."""
        return self.size == RECORD_BYTES and self.magic | _MAGIC_MASK == _MAGIC_MASK and self.magic != 0


class TimerLogFile:
    """One file: open for writing, mapped for reading. It is closed when nobody needs it any more."""

    _descriptor = -1

    def __init__(self, path: str, base: int, size: int, *, create: bool) -> None:
        self.path = path
        self.base = base
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if create else 0)
        self._descriptor = os.open(path, flags, 0o644)
        if create:
            os.ftruncate(self._descriptor, size)
        self.map = mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ)

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, data: bytes, at: int) -> None:
        """Write all of `data` at an offset of the file. Raises OSError."""
        while data:
            written = os.pwrite(self._descriptor, data, at)
            data, at = data[written:], at + written

    def cut(self, at: int) -> None:
        """Turn what lies behind `at` into zeros, so that no later scan finds old records there."""
        descriptor = self._descriptor
        with contextlib.suppress(OSError):  # ENXIO: from here on there is only a hole
            while True:
                at = os.lseek(descriptor, at, os.SEEK_DATA)
                data = os.pread(descriptor, min(1 << 20, os.lseek(descriptor, at, os.SEEK_HOLE) - at), at)
                if any(data):
                    self.write(bytes(len(data)), at)
                at += len(data)

    def sync(self) -> None:
        """Make the file durable; blocks."""
        os.fdatasync(self._descriptor)


class TimerLog:
    """The files of one folder. `end` is right only after `set_end`. Raises StoreError for files of a wrong size."""

    def __init__(self, folder: str, file_bytes: int) -> None:
        if file_bytes < RECORD_BYTES + FILLER.size:
            raise StoreError(f"{folder}: files of {file_bytes} bytes hold no timer record")
        self.folder = folder
        self.file_bytes = file_bytes
        self._files: dict[int, TimerLogFile] = {}
        self._dirty: set[int] = set()
        self._new_name = False
        self._pending: list[tuple[int, bytes]] = []
        self._planned = 0
        self.end = 0
        self._load()

    def _load(self) -> None:
        try:
            found = sorted(name for name in os.listdir(self.folder) if len(name) == _NAME_DIGITS and name.isdigit())
        except FileNotFoundError:
            return
        for name in found:
            path = os.path.join(self.folder, name)
            length = os.path.getsize(path)
            if length == 0 and name == found[-1]:
                os.unlink(path)
                continue
            if length != self.file_bytes:
                raise StoreError(f"{path}: {length} bytes, mappedFileSizeTimerLog says {self.file_bytes}")
            base = int(name)
            if base % self.file_bytes or (self._files and base - self.file_bytes not in self._files):
                raise StoreError(f"{path}: does not follow the file before it")
            self._files[base] = TimerLogFile(path, base, length, create=False)

    @property
    def begin(self) -> int:
        """Position of the first record that is kept."""
        return min(self._files, default=self.end)

    def covers(self, position: int) -> bool:
        """Whether there is a file for a position, or one that ends there."""
        base = position - position % self.file_bytes
        return base in self._files or (position == base and base - self.file_bytes in self._files)

    # --- writing -----------------------------------------------------------------------------------------------------

    def place(self, record: bytes) -> int:
        """Take a record for the next `write`; where it will lie."""
        at = self._planned % self.file_bytes
        if self.file_bytes - at < RECORD_BYTES + FILLER.size:
            rest = self.file_bytes - at
            if rest >= FILLER.size:
                self._pending.append((self._planned, FILLER.pack(rest, 0, FILLER_MAGIC)))
            self._planned += rest
        position = self._planned
        self._pending.append((position, record))
        self._planned += RECORD_BYTES
        return position

    def write(self) -> None:
        """Write what was placed. Raises OSError; then none of it counts and its places are free again."""
        pending, self._pending = self._pending, []
        try:
            at = 0
            while at < len(pending):
                start = position = pending[at][0]
                base = start - start % self.file_bytes
                parts = []
                while at < len(pending) and pending[at][0] == position and position < base + self.file_bytes:
                    parts.append(pending[at][1])
                    position += len(pending[at][1])
                    at += 1
                self._file_for(base).write(b"".join(parts), start - base)
                self._dirty.add(base)
        except OSError:
            self._planned = self.end
            raise
        self.end = self._planned

    def set_end(self, end: int) -> None:
        """Recovery found the last record to end here: what lies behind it goes away."""
        for base in [base for base in self._files if base > end]:
            file = self._files.pop(base)
            self._dirty.discard(base)
            os.unlink(file.path)
            self._new_name = True
        last = self._files.get(end - end % self.file_bytes)
        if last is not None:
            last.cut(end - last.base)
            self._dirty.add(last.base)
        self.end = self._planned = end

    def start_file(self) -> int:
        """What is written from now on goes to a new file; where that begins."""
        if self.end % self.file_bytes:
            self.end = self._planned = self.end + self.file_bytes - self.end % self.file_bytes
        return self.end

    def _file_for(self, base: int) -> TimerLogFile:
        file = self._files.get(base)
        if file is None:
            os.makedirs(self.folder, exist_ok=True)
            path = os.path.join(self.folder, f"{base:020d}")
            file = self._files[base] = TimerLogFile(path, base, self.file_bytes, create=True)
            self._new_name = True
        return file

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, position: int) -> TimerRecord | None:
        """The record at a position, None if there is none."""
        if position < 0 or position >= self.end:
            return None
        at = position % self.file_bytes
        file = self._files.get(position - at)
        if file is None or at + RECORD_BYTES > self.file_bytes:
            return None
        record = TimerRecord._make(RECORD.unpack_from(file.map, at))
        return record if record.valid else None

    def scan(self, start: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Positions and fields of the records from `start` on (a record's position), up to the first that is none."""
        while True:
            base = start - start % self.file_bytes
            file = self._files.get(base)
            if file is None:
                return
            at = start - base
            view = memoryview(file.map)
            try:
                count = (self.file_bytes - at) // RECORD_BYTES
                for fields in RECORD.iter_unpack(view[at : at + count * RECORD_BYTES]):
                    if fields[0] != RECORD_BYTES or not 0 < fields[2] <= _MAGIC_MASK:
                        break
                    yield base + at, fields
                    at += RECORD_BYTES
            finally:
                view.release()
            if not self._filled(file, at):
                return
            start = base + self.file_bytes

    def _filled(self, file: TimerLogFile, at: int) -> bool:
        """Whether the file ends here because nothing more fits."""
        if self.file_bytes - at < FILLER.size:
            return True
        rest, _, magic = FILLER.unpack_from(file.map, at)
        return bool(magic == FILLER_MAGIC and rest == self.file_bytes - at)

    # --- disk --------------------------------------------------------------------------------------------------------

    def take_dirty(self) -> list[TimerLogFile]:
        """The files written since the last call: `sync` each, in any thread."""
        dirty = [self._files[base] for base in sorted(self._dirty) if base in self._files]
        self._dirty.clear()
        return dirty

    def take_new_name(self) -> bool:
        """Whether the folder got or lost a file since the last call: it needs a sync, too."""
        new, self._new_name = self._new_name, False
        return new

    def mark_dirty(self, files: list[TimerLogFile], *, new_name: bool) -> None:
        """These could not be synced: they are among the next dirty ones again."""
        self._new_name |= new_name
        self._dirty.update(file.base for file in files)

    def delete_before(self, min_log_offset: int) -> int:
        """Remove the files whose last record is about a message that the commit log no longer has; how many."""
        removed = 0
        for base in sorted(self._files)[:-1]:
            last = self.file_bytes - FILLER.size - (self.file_bytes - FILLER.size) % RECORD_BYTES - RECORD_BYTES
            record = self.read(base + last)
            if record is None or record.log_offset >= min_log_offset:
                break
            self._delete(base)
            removed += 1
        return removed

    def delete_files_before(self, position: int) -> None:
        """Remove the files before the one of a position."""
        for base in [base for base in self._files if base + self.file_bytes <= position]:
            self._delete(base)

    def _delete(self, base: int) -> None:
        file = self._files.pop(base)
        self._dirty.discard(base)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.path)
