"""The service that lets old commit log segments go and refuses messages before the disk is full.

The decision is `fastmq.store.retention.decide`; this module reads the clock, the disk and the list of segments, and
does what was decided (RocketMQ's CleanCommitLogService and its disk checks in one loop).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import trio

from fastmq.broker.system import DiskUsageOf, disk_usage, used_ratio
from fastmq.store.retention import RetentionPolicy, Segment, Verdict, decide

if TYPE_CHECKING:
    from fastmq.config import BrokerConfig

log = logging.getLogger(__name__)

MANUAL_ROUNDS: Final = 20  # what one DELETE_EXPIRED_COMMITLOG allows, RocketMQ's MAX_MANUAL_DELETE_FILE_TIMES
FIRST_ROUND_DELAY_S: Final = 60.0


class RetainedStore(Protocol):
    """What the service needs of a store."""

    def segments(self) -> list[tuple[str, int, int, float]]: ...
    def delete_segments(self, count: int) -> int: ...
    def set_disk_full(self, full: bool) -> None: ...


def retention_policy(config: BrokerConfig) -> RetentionPolicy:
    """What a broker's settings say about deleting."""
    return RetentionPolicy.build(
        file_reserved_hours=config.file_reserved_time,
        delete_when=config.delete_when,
        max_used_percent=config.disk_max_used_space_ratio,
        clean_forcibly_percent=config.disk_space_clean_forcibly_ratio,
        warning_percent=config.disk_space_warning_level_ratio,
        clean_forcibly=config.clean_file_forcibly_enable,
        batch=config.delete_file_batch_max,
        reserved_bytes=config.file_reserved_bytes,
    )


class RetentionService:
    """One per broker. `round()` does one pass; `run()` repeats it every `cleanResourceInterval`.

    `policy` and `interval_s` are asked each time, so that a changed configuration counts from the next round on.
    The disk-full state is this service's alone: it sets it, and clears it again when space has returned.
    """

    def __init__(
        self,
        store: RetainedStore,
        *,
        policy: Callable[[], RetentionPolicy],
        paths: Callable[[], tuple[str, ...]],
        interval_s: Callable[[], float] = lambda: 10.0,
        wall_s: Callable[[], float] = time.time,
        local_hour: Callable[[float], int] = lambda now_s: time.localtime(now_s).tm_hour,
        usage_of: DiskUsageOf = disk_usage,
    ) -> None:
        self._store = store
        self._policy = policy
        self._paths = paths
        self._interval_s = interval_s
        self._wall_s = wall_s
        self._local_hour = local_hour
        self._usage_of = usage_of
        self._manual_rounds = 0
        self._asked = trio.Event()
        self.disk_full = False
        self.deleted_segments = 0

    def request(self) -> None:
        """An operator asks to delete expired files now, at whatever hour (DELETE_EXPIRED_COMMITLOG)."""
        self._manual_rounds = MANUAL_ROUNDS
        self._asked.set()

    def disk_used(self) -> float:
        """Share in use of the fullest file system under the store, 0 to 1; -1.0 if none could be asked."""
        return max((used_ratio(self._usage_of(path)) for path in self._paths()), default=-1.0)

    def check_disk(self) -> None:
        """Only the disk-full state: what a broker does before it takes its first message."""
        verdict = self._decide(disk_used=self.disk_used(), manual=False)
        self._apply_disk_state(verdict)

    def round(self) -> Verdict:
        """Decide and delete once. Blocks for the unlinking of files; `run` calls it in a thread."""
        manual = self._manual_rounds > 0
        used = self.disk_used()
        verdict = self._decide(disk_used=used, manual=manual)
        self._apply_disk_state(verdict)
        if manual:
            self._manual_rounds -= 1
        if verdict.count:
            gone = self._store.delete_segments(verdict.count)
            self.deleted_segments += gone
            log.info("removed %d commit log segment(s): %s", gone, ", ".join(verdict.reasons))
        return verdict

    async def run(self) -> None:
        """Rounds for ever, the first one a minute after the start (or at once when an operator asks)."""
        self.check_disk()
        delay_s = FIRST_ROUND_DELAY_S
        while True:
            with trio.move_on_after(delay_s):
                await self._asked.wait()
            self._asked = trio.Event()
            await trio.to_thread.run_sync(self.round)
            delay_s = self._interval_s()

    def _decide(self, *, disk_used: float, manual: bool) -> Verdict:
        now_s = self._wall_s()
        segments = [Segment(base, size, mtime_s) for _, base, size, mtime_s in self._store.segments()]
        return decide(
            segments,
            self._policy(),
            now_s=now_s,
            local_hour=self._local_hour(now_s),
            disk_used=disk_used,
            manual=manual,
        )

    def _apply_disk_state(self, verdict: Verdict) -> None:
        if verdict.disk_full is None or verdict.disk_full == self.disk_full:
            return
        self.disk_full = verdict.disk_full
        self._store.set_disk_full(verdict.disk_full)
        if verdict.disk_full:
            log.error("the disk is nearly full: messages are refused until space returns")
        else:
            log.warning("the disk has space again: messages are accepted")
