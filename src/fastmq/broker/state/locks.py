"""Queue locks of orderly consumers (RocketMQ's RebalanceLockManager).

A lock belongs to (group, queue) and is held by a client id, not by a connection. It lasts rebalanceLockMaxLiveTime
(60 s) from the last time its holder asked for it; clients ask every 20 s. Nothing is kept on disk: after a restart
whoever asks first holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from fastmq.protocol.bodies import MessageQueue

LOCK_MAX_LIVE_S: Final = 60.0
"""Seconds a lock outlives its last renewal, if nobody says otherwise."""


def _default_live_s() -> float:
    return LOCK_MAX_LIVE_S


class QueueLocks:
    """Locks by group and queue. `now` is monotonic time in seconds."""

    def __init__(self, max_live_s: Callable[[], float] = _default_live_s) -> None:
        self._max_live_s = max_live_s
        self._groups: dict[str, dict[MessageQueue, tuple[str, float]]] = {}

    def try_lock_batch(
        self, group: str, client_id: str, queues: Iterable[MessageQueue], now: float
    ) -> list[MessageQueue]:
        """Take or renew what can be had; gives the queues that the client holds now, in the order asked for."""
        locks = self._groups.setdefault(group, {})
        held = []
        for queue in queues:
            holder = locks.get(queue)
            if holder is None or holder[0] == client_id or self._expired(holder, now):
                locks[queue] = client_id, now
                held.append(queue)
        if not locks:
            del self._groups[group]
        return held

    def unlock_batch(self, group: str, client_id: str, queues: Iterable[MessageQueue]) -> None:
        """Give up locks; those of others are left alone."""
        locks = self._groups.get(group)
        if locks is None:
            return
        for queue in queues:
            holder = locks.get(queue)
            if holder is not None and holder[0] == client_id:
                del locks[queue]
        if not locks:
            del self._groups[group]

    def group_is_locked(self, group: str, now: float) -> bool:
        """Whether anybody holds a lock of the group: then the group counts as orderly."""
        return any(not self._expired(holder, now) for holder in self._groups.get(group, {}).values())

    def holder(self, group: str, queue: MessageQueue, now: float) -> str | None:
        """The client id that holds a queue."""
        holder = self._groups.get(group, {}).get(queue)
        return None if holder is None or self._expired(holder, now) else holder[0]

    def expire(self, now: float) -> None:
        """Forget what has expired, so that clients which never come back leave nothing behind."""
        for group, locks in list(self._groups.items()):
            for queue, holder in list(locks.items()):
                if self._expired(holder, now):
                    del locks[queue]
            if not locks:
                del self._groups[group]

    def _expired(self, holder: tuple[str, float], now: float) -> bool:
        return now - holder[1] > self._max_live_s()
