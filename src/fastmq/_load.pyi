"""Types of the inner loop of `fastmq bench` (`_load.pyx`)."""

from collections.abc import Sequence
from typing import final

def bucket_low(index: int) -> int:
    """Smallest latency in ns that falls into a bucket of the histogram."""

@final
class SendLoad:
    """Closed loop of sends: `depth` requests in flight on each connection, a new one for every answer.

    `fds` are connected, non-blocking sockets that stay the caller's. A template is (frame, position of the ten digits
    of the opaque, position of the last sixteen hex digits of the unique key or -1, position of the born timestamp or -1).
    """

    sent: int
    answered: int
    connection_errors: int
    max_ns: int
    elapsed_ns: int

    def __init__(
        self, fds: Sequence[int], templates: Sequence[tuple[bytes, int, int, int]], depth: int, key_base: int = 0
    ) -> None: ...
    def run(self, seconds: float, count: int = 0) -> bool: ...
    def stop(self) -> None: ...
    def codes(self) -> dict[int, int]: ...
    def buckets(self) -> list[tuple[int, int]]: ...
