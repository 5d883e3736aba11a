"""Types of the reactor (`_reactor.pyx`): ready sockets, frames, hot requests, one turn at a time, no GIL."""

from collections.abc import Mapping
from typing import Final, final

from fastmq._store import Store

CLOSED: Final = -1  # kind of a cold item that tells of a connection's end

@final
class Reactor:
    """Serves any number of plain TCP connections from one epoll descriptor.

    A turn receives from every ready socket, splits frames, answers hot requests itself and keeps the other frames
    for `take_cold`. It runs on whichever thread calls `turn`; every method may be called from any thread.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        hot: bool = True,
        max_frame_bytes: int = 16 << 20,
        max_output_bytes: int = 64 << 20,
    ) -> None: ...
    def add(self, fd: int, service: int) -> int:
        """Take over a connected, non-blocking socket (the reactor closes it). `service` comes back with its frames.

        Returns the connection's id, unique for the life of the reactor.
        """
    def take_cold(self) -> list[tuple[int, int, bytes | None]]:
        """Frames for Python: (connection id, service, whole frame with its length word); frame None: it closed."""
    def send(self, connection: int, frame: bytes | list[bytes]) -> bool:
        """Queue bytes for a connection. False if it is gone or over its output bound (then it is closed)."""
    def send_after_flush(self, connection: int, frame: bytes, log_offset: int, failure: bytes) -> bool:
        """As `send`, once the store's flushed offset has reached log_offset; `failure` is sent if it never will.

        With a store that does not flush in sync the frame goes out at once.
        """
    def close_connection(self, connection: int) -> None: ...
    def connections(self) -> list[tuple[int, int, float]]:
        """(id, service, seconds since it last sent or received)."""
    def set_send_policy(
        self,
        *,
        enabled: bool,
        service: int,
        region: str,
        cluster: str,
        trace_on: bool,
        max_message_bytes: int,
        failures: Mapping[int, tuple[int, str]],
        sync_flush_timeout_ms: int = 5000,
    ) -> None:
        """What the hot road needs to know of the broker for SEND_MESSAGE (10, 310). `enabled` is the on/off switch.

        `failures`: how a status of the store is answered, (response code, ASCII remark).
        """
    def cold_send_done(self, connection: int) -> None:
        """A send that was handed to Python has been dealt with: later sends of its connection may be hot again."""
    def turn(self, timeout_ms: int = 0) -> int:
        """One turn; returns the number of cold items that wait. timeout_ms -1 waits for ever."""
    def run(self) -> None:
        """Turns until `stop`, without the GIL: the body of the reactor's own thread."""
    def stop(self) -> None: ...
    cold_event_fd: int  # eventfd: readable when there are cold items
    def statistics(self) -> dict[str, int]: ...
    def close(self) -> None: ...
