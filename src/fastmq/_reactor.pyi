"""Types of the reactor (`_reactor.pyx`): ready sockets, frames, hot requests, one turn at a time, no GIL."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, final

from fastmq._store import Store

RESUMED: Final = 65536  # added to the service of a pull that was held here and is to be processed once more
ENDED_BY_FRAMING: Final = 2  # the connection sent what is no frame
ENDED_BY_OUTPUT: Final = 3  # it did not take its replies

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
        max_cold_bytes: int = 256 << 20,
        max_parked: int = 200_000,
    ) -> None:
        """Over `max_output_bytes` unsent bytes a connection is closed; over `max_cold_bytes` of frames that wait for
        Python, the connections that have such frames are not read until they are taken. While `max_parked` replies
        wait for a flush, connections that have such replies are not read and the sends of others are refused.
        """
    def add(self, fd: int, service: int) -> int:
        """Take over a connected, non-blocking socket (the reactor closes it). `service` comes back with its frames.

        Returns the connection's id, unique for the life of the reactor.
        """
    def take_cold(self) -> list[tuple[int, int, bytes | None, int]]:
        """Frames for Python, some at a time: (connection id, service, whole frame with its length word, when it came).

        The time is in ms on the monotonic clock. Frame None: the connection ended; the last number says why.
        """
    overloaded: bool  # `max_parked` replies wait for a flush: sends are refused
    def send(self, connection: int, frame: bytes | tuple[bytes, bytes]) -> bool:
        """Queue a frame, or its head and body, for a connection. False if it is known to be gone.

        Large bytes are not copied: they are referred to until they have left, and given back in `take_cold`.
        """
    def send_after_flush(self, connection: int, frame: bytes, log_offset: int, failure: bytes) -> bool:
        """As `send`, once the store's flushed offset has reached log_offset; `failure` is sent if it never will.

        With a store that does not flush in sync the frame goes out at once.
        """
    def close_connection(self, connection: int, *, at_once: bool = False) -> None:
        """Close a connection once what was queued for it is written, or (at_once) whatever is queued."""
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
        busy: tuple[int, str] = (2, "busy"),
        sync_flush_timeout_ms: int = 5000,
    ) -> None:
        """What the hot road needs to know of the broker for SEND_MESSAGE (10, 310). `enabled` is the on/off switch.

        `failures`: how a status of the store is answered, (response code, ASCII remark); `busy`: the same for a send
        that comes while too many replies wait for a flush.
        """
    def cold_done(self, connection: int, code: int) -> None:
        """Python has dealt with a request of this connection: later ones of its kind may be hot again."""
    def grant_pulls(
        self,
        group: str,
        topic: str,
        *,
        queues: int,
        subscription: str | None,
        lite: bool,
        sub_version: int,
        tag_codes: Collection[int] | None,
        max_messages: int,
        max_bytes: int,
        suspend_ms: int,
        group_sys_flag: int,
        topic_sys_flag: int,
        offsets: Collection[tuple[int, int]] | None = None,
    ) -> None:
        """From now on serve pulls of this group and topic with this filter in the turn, until `revoke_pulls`.

        `subscription`: the filter's text if pulls bring it, None for the group's registered one, whose version is
        `sub_version`. `tag_codes` None: everything matches. `suspend_ms` -1: pulls say how long they may be held.
        `offsets`: (queue id, committed offset) of the group, for who asks for them; None: such questions stay cold,
        for somebody else commits without telling (another reactor).
        """
    def know_offset(self, group: str, topic: str, queue_id: int, offset: int) -> None:
        """Python has stored a committed offset of a group and topic with grants."""
    def revoke_pulls(self) -> None:
        """Something that pulls are checked for has changed: the next one of each kind is Python's again."""
    def take_pull_progress(self) -> Sequence[tuple[str, str, int, list[tuple[int, int, int, int, int, int, int]]]]:
        """What hot pulls and commits did since the last call.

        [(group, topic, pulls that found nothing, [(queue id, committed offset, number of commits, offset after the last
        pull or -1, pulls that found something, messages, bytes)])]
        """
    def answer_held_pulls(self) -> None:
        """Answer every held pull as if its time were up."""
    def turn(self, timeout_ms: int = 0) -> int:
        """One turn; returns the number of cold items that wait. timeout_ms -1 waits for ever."""
    def run(self) -> None:
        """Turns until `stop`, without the GIL: the body of the reactor's own thread."""
    def stop(self) -> None: ...
    cold_event_fd: int  # eventfd: readable when there are cold items
    def statistics(self) -> dict[str, int]: ...
    def close(self) -> None: ...
