"""Which brokers to leave alone for a while: those that answered late or not at all (RocketMQ's MQFaultStrategy)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from fastmq.protocol.bodies.config import MessageQueue

T = TypeVar("T", bound=MessageQueue)

# answered later than (seconds) → left alone for (seconds)
_PENALTIES: Final = ((15.0, 30.0), (5.0, 10.0), (3.0, 6.0), (1.8, 5.0), (0.55, 2.0))
LATE_SECONDS: Final = _PENALTIES[-1][0]
"""What is answered earlier has no consequence."""
FAILURE_SECONDS: Final = 10.0
"""A failure without an answer counts like an answer after so long."""


def penalty(latency: float) -> float:
    """For how many seconds a broker is left alone that answered after `latency` seconds."""
    for over, seconds in _PENALTIES if latency >= LATE_SECONDS else ():
        if latency >= over:
            return seconds
    return 0.0


class Latencies:
    """What is known of each broker. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def record(self, broker_name: str, latency: float, now: float) -> None:
        """A broker answered after `latency` seconds."""
        seconds = penalty(latency)
        if seconds:
            self._until[broker_name] = now + seconds
        elif self._until:
            self._until.pop(broker_name, None)

    def record_failure(self, broker_name: str, now: float) -> None:
        """A broker could not be reached or did not answer."""
        self._until[broker_name] = now + penalty(FAILURE_SECONDS)

    @property
    def all_well(self) -> bool:
        """Whether no broker is left alone, so that the next in turn may be taken."""
        return not self._until

    def is_available(self, broker_name: str, now: float) -> bool:
        """Whether it may be sent to without need."""
        return not self._until or self._until.get(broker_name, now) <= now

    def choose(self, queues: Sequence[T], turn: int, now: float, avoid: Callable[[str], bool] | None = None) -> T:
        """The next queue in turn: of a broker that is well and not to be avoided; of one that is not to be avoided; of
        the one that is free again soonest. `queues` must not be empty.
        """
        count = len(queues)
        if not self._until and avoid is None:
            return queues[turn % count]
        rest: list[T] = []
        for step in range(count):
            queue = queues[(turn + step) % count]
            if avoid is not None and avoid(queue.broker_name):
                continue
            if self.is_available(queue.broker_name, now):
                return queue
            rest.append(queue)
        candidates = rest or [queues[(turn + step) % count] for step in range(count)]
        return min(candidates, key=lambda queue: self._until.get(queue.broker_name, 0.0))
