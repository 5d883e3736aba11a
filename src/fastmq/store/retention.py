"""Which commit log segments may go (RocketMQ's CleanCommitLogService): a decision, no I/O.

Segments leave oldest first and the last one always stays. A round does something when one of these holds:

| Reason | What may go |
|---|---|
| the local hour is in `deleteWhen` | segments older than `fileReservedTime` |
| disk use above `diskMaxUsedSpaceRatio` | the same, at any hour |
| an operator asked (DELETE_EXPIRED_COMMITLOG) | the same, at any hour |
| disk use above `diskSpaceCleanForciblyRatio`, `cleanFileForciblyEnable` on | segments of any age |
| the log is larger than `fileReservedBytes` (fastmq's own, 0 = no bound) | segments of any age until it fits |

Age is the time since the file was last modified, as in RocketMQ: restoring a store without its file times starts
the time anew. Above `diskSpaceWarningLevelRatio` the store refuses messages; it accepts them again below
`diskSpaceCleanForciblyRatio` (not at the same line, so that the state does not flutter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastmq.errors import UsageError


@dataclass(frozen=True, slots=True)
class Segment:
    """One commit log file: first log offset, bytes, time of the last change in seconds since the epoch."""

    base: int
    size: int
    mtime_s: float


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """The settings that decide, ratios as fractions of 1. Out-of-range ratios are clamped as RocketMQ does."""

    file_reserved_hours: float = 72
    delete_hours: frozenset[int] = frozenset({4})
    max_used_ratio: float = 0.75
    clean_forcibly_ratio: float = 0.85
    warning_ratio: float = 0.90
    clean_forcibly: bool = True
    reserved_bytes: int = 0
    batch: int = 10

    @staticmethod
    def build(
        *,
        file_reserved_hours: float = 72,
        delete_when: str = "04",
        max_used_percent: float = 75,
        clean_forcibly_percent: float = 85,
        warning_percent: float = 90,
        clean_forcibly: bool = True,
        reserved_bytes: int = 0,
        batch: int = 10,
    ) -> RetentionPolicy:
        """From configuration values. Raises UsageError for a `deleteWhen` that names no hours."""
        return RetentionPolicy(
            file_reserved_hours=file_reserved_hours,
            delete_hours=parse_delete_when(delete_when),
            max_used_ratio=_clamp(max_used_percent / 100, 0.10, 0.95),
            clean_forcibly_ratio=_clamp(clean_forcibly_percent / 100, 0.30, 0.85),
            warning_ratio=_clamp(warning_percent / 100, 0.35, 0.90),
            clean_forcibly=clean_forcibly,
            reserved_bytes=max(0, reserved_bytes),
            batch=max(1, batch),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a round should do: remove the oldest `count` segments, and why; `disk_full` None leaves the state."""

    count: int = 0
    reasons: tuple[str, ...] = field(default=())
    disk_full: bool | None = None


def _clamp(value: float, low: float, high: float) -> float:
    return min(high, max(low, value))


def parse_delete_when(text: str) -> frozenset[int]:
    """Hours of `deleteWhen`: "04" or "04;16". Raises UsageError."""
    hours = set()
    for part in text.split(";"):
        piece = part.strip()
        if not piece:
            continue
        if not piece.isascii() or not piece.isdigit() or int(piece) > 23:
            raise UsageError(f"deleteWhen: {piece!r} is not an hour from 00 to 23")
        hours.add(int(piece))
    if not hours:
        raise UsageError("deleteWhen names no hour")
    return frozenset(hours)


def decide(
    segments: Sequence[Segment],
    policy: RetentionPolicy,
    *,
    now_s: float,
    local_hour: int,
    disk_used: float,
    manual: bool = False,
) -> Verdict:
    """Decide one round.

    `segments` oldest first; `disk_used` the share of the file system in use (0 to 1, negative if unknown).
    At most `policy.batch` segments go for reasons of age or disk space; the size bound is met at once.
    """
    disk_full: bool | None = None
    if disk_used > policy.warning_ratio:
        disk_full = True
    elif disk_used < policy.clean_forcibly_ratio:
        disk_full = False
    removable = segments[:-1]
    reasons: list[str] = []
    count = 0

    if policy.clean_forcibly and disk_used > policy.clean_forcibly_ratio:
        count = min(policy.batch, len(removable))
        if count:
            reasons.append(f"disk is {disk_used:.0%} full")
    elif manual or local_hour in policy.delete_hours or disk_used > policy.max_used_ratio:
        born_before = now_s - policy.file_reserved_hours * 3600
        for segment in removable[: policy.batch]:
            if segment.mtime_s > born_before:
                break
            count += 1
        if count:
            reasons.append(f"older than {policy.file_reserved_hours:g} hours")

    if policy.reserved_bytes:
        total = sum(segment.size for segment in segments)
        over = 0
        for segment in removable:
            if total <= policy.reserved_bytes:
                break
            total -= segment.size
            over += 1
        if over > count:
            count = over
            reasons.append(f"log larger than {policy.reserved_bytes} bytes")
    return Verdict(count, tuple(reasons), disk_full)
