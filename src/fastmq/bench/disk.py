"""`fastmq bench disk`: what this disk can do at all, the limits to read other figures against."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastmq.bench.target import LoadError
from fastmq.errors import UsageError

SIZES = (4 << 10, 64 << 10)
FILE_BYTES = 256 << 20
CHUNK = 1 << 20
PERCENTILES = (50.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Measure:
    """One operation: how many, how long each of them took (ns), bytes a second."""

    what: str
    times_ns: Sequence[int]
    bytes_each: int

    @property
    def per_second(self) -> float:
        """How many of these the disk does in a second."""
        return len(self.times_ns) * 1e9 / (sum(self.times_ns) or 1)

    def percentile_ns(self, percent: float) -> int:
        """The time within which so many percent were done, in nanoseconds."""
        ordered = sorted(self.times_ns)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

    def to_dict(self) -> dict[str, float | str]:
        """The figures as JSON has them; times in microseconds."""
        return {
            "what": self.what,
            "operations": len(self.times_ns),
            "per_second": round(self.per_second, 1),
            "bytes_per_second": round(self.per_second * self.bytes_each),
            **{f"p{p:g}_us": round(self.percentile_ns(p) / 1000, 1) for p in PERCENTILES},
        }

    def to_text(self) -> str:
        """A line for people."""
        times = "  ".join(f"p{p:g} {self.percentile_ns(p) / 1e6:.3f} ms" for p in PERCENTILES)
        rate = self.per_second * self.bytes_each / 1e6
        return f"  {self.what:48}{self.per_second:>10,.0f} /s {rate:>8,.0f} MB/s   {times}"


def measure_disk(
    directory: str,
    seconds: float,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    file_bytes: int = FILE_BYTES,
) -> list[Measure]:
    """Measure in a file of so many bytes in `directory`, which is removed afterwards; each kind of append for so many
    seconds or until the file is full. LoadError if that cannot be done.
    """
    if seconds <= 0:
        raise UsageError("seconds must be more than 0")
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix="fastmq-bench-") as file:
            return _measure(file.fileno(), seconds, clock_ns, file_bytes)
    except OSError as error:
        raise LoadError(f"cannot measure in {directory}: {error.strerror or error}") from error


def _measure(fd: int, seconds: float, clock_ns: Callable[[], int], file_bytes: int) -> list[Measure]:
    measures = []
    for size in SIZES:
        for state in ("fallocated", "written"):
            if state == "fallocated":
                _prepare(fd, file_bytes)
            name = f"append {size >> 10} KiB + fdatasync, {state} blocks"
            measures.append(Measure(name, _appends(fd, size, seconds, clock_ns, file_bytes), size))
    _prepare(fd, file_bytes)
    start = clock_ns()
    times = _writes(fd, clock_ns, file_bytes)
    measures.append(Measure("write 1 MiB, page cache", times, CHUNK))
    os.fdatasync(fd)
    whole = clock_ns() - start
    measures.append(Measure(f"write {file_bytes >> 20} MiB + fdatasync", [whole], file_bytes))
    return measures


def _prepare(fd: int, file_bytes: int) -> None:
    """A file of blocks that are allocated and were never written, on the disk and nothing of it in flight."""
    os.ftruncate(fd, 0)
    os.posix_fallocate(fd, 0, file_bytes)
    os.fsync(fd)


def _appends(fd: int, size: int, seconds: float, clock_ns: Callable[[], int], file_bytes: int) -> list[int]:
    data = os.urandom(size)
    times = []
    end = clock_ns() + int(seconds * 1e9)
    at = 0
    now = clock_ns()
    while now < end and at + size <= file_bytes:
        os.pwrite(fd, data, at)
        os.fdatasync(fd)
        done = clock_ns()
        times.append(done - now)
        now = done
        at += size
    return times


def _writes(fd: int, clock_ns: Callable[[], int], file_bytes: int) -> list[int]:
    data = os.urandom(CHUNK)
    times = []
    now = clock_ns()
    for at in range(0, file_bytes, CHUNK):
        os.pwrite(fd, data, at)
        done = clock_ns()
        times.append(done - now)
        now = done
    return times


def to_text(directory: str, measures: Sequence[Measure]) -> str:
    """All measures as a table."""
    return "\n".join([f"disk under {directory}", *(measure.to_text() for measure in measures)])


def to_json(directory: str, measures: Sequence[Measure]) -> str:
    """All measures as one JSON object."""
    return json.dumps({"directory": directory, "measures": [measure.to_dict() for measure in measures]})
