"""Types of the inner loop of `fastmq bench` (`_load.pyx`)."""

from collections.abc import Sequence
from typing import final

# frame, position of the opaque's ten digits, of the born timestamp or -1, and for each message in it the position of
# the last sixteen hex digits of its unique key and of eight bytes for the intended send time, or -1
Template = tuple[bytes, int, int, Sequence[tuple[int, int]]]
# number of the reader, the pull's frame before and after the queue offset, queue id, first offset, end or -1
Cursor = tuple[int, bytes, bytes, int, int, int]
Buckets = tuple[list[tuple[int, int, int]], int]

def bucket_of(ns: int) -> int:
    """The bucket of the histogram that a latency in ns falls into."""

def bucket_low(index: int) -> int:
    """Smallest latency in ns that falls into a bucket of the histogram."""

@final
class Load:
    """Senders and readers, run for a time or until they are done; counts and histograms afterwards.

    `senders` are (descriptor, numbers of the templates it sends in turn), `readers` descriptors: connected,
    non-blocking sockets that stay the caller's. `depth` requests are in flight on each sender, unless `rate` (messages
    a second, over all senders) is given: then each send has its time, and latency counts from there; `spin` to wait for
    the time without sleeping. `oneway`: no answers are waited for. `live`: the readers follow the queues until
    everything acknowledged was read, and messages that begin with `run_id` give the delivery latency; otherwise each
    reads up to its end. A pull carries the opaque
    2,000,000,000 + number of its cursor. UsageError for parameters that contradict each other.
    """

    per_request: int
    sent: int  # requests
    answered: int
    lost: int  # with their connection
    timed_out: int
    unexpected: int  # answers to nothing that was asked
    connection_errors: int
    protocol_errors: int
    pulls: int
    pulls_lost: int
    pulls_timed_out: int
    received: int  # messages
    received_bytes: int
    own: int  # messages of this run
    order_errors: int
    checksum_errors: int
    malformed: int
    elapsed_ns: int

    def __init__(
        self,
        *,
        senders: Sequence[tuple[int, Sequence[int]]] = (),
        templates: Sequence[Template] = (),
        depth: int = 1,
        rate: float = 0,
        spin: bool = False,
        oneway: bool = False,
        per_request: int = 1,
        readers: Sequence[int] = (),
        cursors: Sequence[Cursor] = (),
        live: bool = False,
        verify: bool = True,
        run_id: bytes = ...,
        key_base: int = 0,
        timeout_s: float = 30,
    ) -> None: ...
    def run(self, seconds: float, count: int = 0) -> None:
        """Load for so many seconds or `count` requests (0: no such bound), then wait for what is in flight. Once."""

    def stop(self) -> None:
        """Send nothing more; `run` returns when what is in flight is answered. For another thread."""

    @property
    def done(self) -> int:
        """Messages whose send was answered with success."""

    @property
    def send_codes(self) -> dict[int, tuple[int, bytes]]:
        """{code: (answers to sends, JSON header of the first)}."""

    @property
    def pull_codes(self) -> dict[int, tuple[int, bytes]]:
        """{code: (answers to pulls, JSON header of the first)}."""

    def latencies(self) -> dict[str, Buckets]:
        """`send`, `pull`, `delivery`, `lateness`: (smallest ns, largest ns, count) of buckets in use; the maximum."""

    def timeline(self) -> tuple[list[int], list[int]]:
        """Messages acknowledged and messages read in every 100 ms since the start."""

    def positions(self) -> list[int]:
        """Next queue offset of every cursor."""
