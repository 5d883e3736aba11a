"""One connection to a name server or broker: many requests at a time, answers in any order, requests from the server.

A request is a frame in the output list and a `Waiter` in a table; no task is started for it. Three tasks serve a
connection: the writer sends what has gathered since it last looked, the reader completes waiters, the watchdog ends
waiters whose time is over. A frame is never torn by a caller that is cancelled: only the writer touches the stream.

Half-open connections: when a request timed out and not one byte arrived since it was sent, nobody is at the other end
any more. The connection is closed and all its waiters learn it at once instead of each at its own deadline.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final, Protocol

import anyio
import anyio.abc

from fastmq.client.errors import ConnectError, ConnectionLost, RequestTimeout
from fastmq.errors import ProtocolError, UsageError
from fastmq.limits import CONNECT_TIMEOUT_SECONDS, KIB
from fastmq.protocol.command import ONEWAY_FLAG, RESPONSE_FLAG, Command, FrameSplitter, decode_frame, encode_frame

RECEIVE_BYTES: Final = 256 * KIB
WRITE_BYTES: Final = 512 * KIB  # one write of gathered frames
WATCH_SECONDS: Final = 0.1  # how late a timeout may be noticed

_NOT_IN_A_HOST: Final = re.compile(r"[\s,;/\\@\[\]]")

OnRequest = Callable[["Connection", Command], None]


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `host:port`, `[v6]:port` or `scheme://host:port`. Raises UsageError."""
    host, _, port = text.strip().rpartition("://")[2].rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    usable = bool(host) and port.isdecimal() and port.isascii() and int(port) <= 0xFFFF
    if not usable or _NOT_IN_A_HOST.search(host) or (":" in host and not _is_v6(host)):
        raise UsageError(f"an address has the form host:port, several are separated by semicolons; not {text!r}")
    return host, int(port)


def _is_v6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


async def open_stream(
    address: str, tls: ssl.SSLContext | None = None, timeout: float = CONNECT_TIMEOUT_SECONDS
) -> anyio.abc.ByteStream:
    """A TCP or TLS stream to `host:port`. Raises ConnectError within `timeout` seconds."""
    host, port = parse_address(address)
    try:
        with anyio.fail_after(timeout):
            if tls is not None:
                return await anyio.connect_tcp(
                    host, port, ssl_context=tls, tls_hostname=host, tls_standard_compatible=False
                )
            stream = await anyio.connect_tcp(host, port)
            raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream
    except TimeoutError:
        raise ConnectError(f"{address} did not take the connection within {timeout} s") from None
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        raise ConnectError(f"{address} cannot be reached: {_why(error)}") from error


def _why(error: BaseException) -> str:
    """What the system says of a connection that could not be had; anyio hides it in the cause."""
    cause = error.__cause__
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else [cause or error]
    return "; ".join(dict.fromkeys(map(_text_of, causes)))


def _text_of(error: BaseException) -> str:
    number = error.errno if isinstance(error, OSError) else None
    # asyncio puts words of its own in place of those of the system
    return os.strerror(number) if number and number > 0 else str(getattr(error, "strerror", None) or error)


class Pending(Protocol):
    """What a connection keeps of a request. Times are seconds of its clock; `complete` is called once."""

    sent_at: float
    deadline: float

    def complete(self, reply: Command | None, error: ConnectionLost | RequestTimeout | None = None) -> None:
        """The outcome is known."""


class Waiter:
    """The answer to a request, or why there is none. `callback` is called once, when either is known."""

    __slots__ = ("_event", "callback", "deadline", "error", "reply", "sent_at")

    def __init__(self, sent_at: float, deadline: float, callback: Callable[[Waiter], None] | None) -> None:
        self.sent_at = sent_at
        self.deadline = deadline
        self.callback = callback
        self.reply: Command | None = None
        self.error: ConnectionLost | RequestTimeout | None = None
        self._event: anyio.Event | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is known."""
        return self.reply is not None or self.error is not None

    def complete(self, reply: Command | None, error: ConnectionLost | RequestTimeout | None = None) -> None:
        """Set the outcome and tell who waits."""
        self.reply = reply
        self.error = error
        if self._event is not None:
            self._event.set()
        if self.callback is not None:
            self.callback(self)

    async def ended(self) -> None:
        """Wait until the outcome is known."""
        if not self.done:
            if self._event is None:
                self._event = anyio.Event()
            await self._event.wait()

    async def wait(self) -> Command:
        """The reply. Raises ConnectionLost or RequestTimeout."""
        await self.ended()
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.reply


class Connection:
    """A stream that speaks remoting. `run` serves it until it breaks or `close` is called.

    `on_request` gets what the server asks by itself; it must not block and answers, if at all, with `send`.
    """

    def __init__(
        self,
        stream: anyio.abc.ByteStream,
        address: str,
        on_request: OnRequest,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.server_version = 0
        """What the server said of itself in its last answer; 0 before the first."""
        self.failure: ConnectionLost | None = None
        """Why it is over, or None."""
        self.last_received = now()
        """When something came from the server, by `now`."""
        self._stream = stream
        self._on_request = on_request
        self._now = now
        self._opaque = 0
        self._waiters: dict[int, Pending] = {}
        self._output: list[bytes] = []
        self._wake_writer: anyio.Event | None = None
        self._wake_watchdog: anyio.Event | None = None
        self._idle: anyio.Event | None = None
        self._in_turn: Waiter | None = None
        self._writing = False
        self._scope = anyio.CancelScope()

    def __repr__(self) -> str:
        state = "open" if self.failure is None else f"closed: {self.failure}"
        return f"<Connection {self.address} {state}, {len(self._waiters)} waiting>"

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._waiters)

    @property
    def queued(self) -> int:
        """Frames that were not given to the system yet."""
        return len(self._output)

    def idle_for(self, seconds: float) -> bool:
        """Whether nothing is under way, and nothing came from the server for so long."""
        return not self._waiters and not self._output and self.age(self.last_received) > seconds

    def age(self, then: float) -> float:
        """How many seconds a time of its clock is ago, as `sent_at` of a request."""
        return self._now() - then

    @property
    def local_host(self) -> str:
        """Our own address on this connection."""
        local = self._stream.extra(anyio.abc.SocketAttribute.local_address, None)
        return str(local[0]) if isinstance(local, tuple) else "127.0.0.1"

    # --- requests ----------------------------------------------------------------------------------------------------

    def post(self, request: Command, timeout: float, callback: Callable[[Waiter], None] | None = None) -> Waiter:
        """Queue a request; its answer is awaited or told to `callback`. Raises ConnectionLost if it is over."""
        opaque = request.opaque = self.next_opaque()
        frame = encode_frame(request)
        waiter = Waiter(0.0, 0.0, callback)
        self.post_frame(opaque, frame, waiter, timeout)
        return waiter

    def next_opaque(self) -> int:
        """The number of a request that is posted as a frame. Raises ConnectionLost if the connection is over."""
        if self.failure is not None:
            raise ConnectionLost(str(self.failure))
        opaque = self._opaque = (self._opaque + 1) & 0x7FFFFFFF
        return opaque

    def post_frame(self, opaque: int, frame: bytes, pending: Pending, timeout: float) -> None:
        """Queue the frame of a request that has its number from `next_opaque`."""
        pending.sent_at = now = self._now()
        pending.deadline = now + timeout
        self._waiters[opaque] = pending
        self._output.append(frame)
        if self._wake_writer is not None:
            self._wake_writer.set()
            self._wake_writer = None
        if self._wake_watchdog is not None:
            self._wake_watchdog.set()
            self._wake_watchdog = None

    async def call(self, request: Command, timeout: float) -> Command:
        """A request and its answer, whatever its code. Raises ConnectionLost or RequestTimeout."""
        waiter = self.post(request, timeout)
        try:
            return await waiter.wait()
        finally:
            if not waiter.done:
                self._waiters.pop(request.opaque, None)

    def post_in_turn(self, request: Command, timeout: float) -> Waiter:
        """As `post`; `call_in_turn` and `settled` wait for its end."""
        waiter = self._in_turn = self.post(request, timeout)
        return waiter

    async def call_in_turn(self, make: Callable[[], Command], timeout: float) -> Command:
        """As `call`, for requests that must not overtake each other: brokers serve those of one connection side by
        side. Each is made and sent when the one before has ended.
        """
        await self.settled()
        return await self.post_in_turn(make(), timeout).wait()

    async def settled(self) -> None:
        """Wait until the last of those requests has ended, also if whoever made it was cancelled."""
        while self._in_turn is not None and not self._in_turn.done:
            await self._in_turn.ended()

    def send(self, command: Command) -> None:
        """Queue a frame that gets no answer: a reply, or a oneway request. Does nothing if the connection is over."""
        if self.failure is None:
            if not command.is_response:
                self._opaque = (self._opaque + 1) & 0x7FFFFFFF
                command.opaque = self._opaque
                command.flag |= ONEWAY_FLAG
            self._put(encode_frame(command))

    async def flush(self) -> None:
        """Wait until everything queued so far was given to the system, or the connection is over."""
        while self.failure is None and (self._output or self._writing):
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()

    def _put(self, frame: bytes) -> None:
        self._output.append(frame)
        if self._wake_writer is not None:
            self._wake_writer.set()
            self._wake_writer = None

    # --- service -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection. Returns when it is over, for whatever reason; the stream is closed then."""
        try:
            with self._scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._write)
                    group.start_soon(self._watch)
                    await self._read()
                    group.cancel_scope.cancel()
        finally:
            self._end("the connection was closed")
            await anyio.aclose_forcefully(self._stream)

    def close(self, reason: str = "the connection was closed") -> None:
        """End it now; waiters get ConnectionLost."""
        self._end(reason)
        self._scope.cancel()

    def _end(self, reason: str) -> None:
        if self.failure is not None:
            return
        self.failure = ConnectionLost(f"{self.address}: {reason}")
        self._output.clear()
        waiters = list(self._waiters.values())
        self._waiters.clear()
        for waiter in waiters:
            waiter.complete(None, ConnectionLost(str(self.failure)))
        if self._idle is not None:
            self._idle.set()
            self._idle = None

    async def _read(self) -> None:
        splitter = FrameSplitter()
        take = self._waiters.pop
        while True:
            try:
                data = await self._stream.receive(RECEIVE_BYTES)
                frames = splitter.feed(data)
                self.last_received = self._now()
                for frame in frames:
                    command = decode_frame(frame)
                    if not command.flag & RESPONSE_FLAG:
                        self._on_request(self, command)
                        continue
                    self.server_version = command.version
                    waiter = take(command.opaque, None)
                    if waiter is not None:
                        waiter.complete(command)
            except anyio.EndOfStream:
                return self._end("the server closed it")
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                return self._end(f"it broke: {error.__cause__ or error!r}")
            except ProtocolError as error:
                return self._end(f"the server broke the protocol: {error}")

    async def _write(self) -> None:
        while self.failure is None:
            if not self._output:
                if self._idle is not None:
                    self._idle.set()
                    self._idle = None
                self._wake_writer = wake = anyio.Event()
                await wake.wait()
                continue
            frames, self._output = self._output, []
            self._writing = True
            try:
                for data in _gather(frames):
                    await self._stream.send(data)
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                self.close(f"it broke: {error.__cause__ or error!r}")
            finally:
                self._writing = False

    async def _watch(self) -> None:
        while self.failure is None:
            if not self._waiters:
                self._wake_watchdog = wake = anyio.Event()
                await wake.wait()
            await anyio.sleep(WATCH_SECONDS)
            self.expire(self._now())

    def expire(self, now: float) -> None:
        """End the waiters whose time is over; close the connection if it shows no sign of life."""
        late = [(opaque, waiter) for opaque, waiter in self._waiters.items() if waiter.deadline <= now]
        dead = False
        for opaque, waiter in late:
            del self._waiters[opaque]
            dead = dead or self.last_received <= waiter.sent_at
            seconds = waiter.deadline - waiter.sent_at
            waiter.complete(None, RequestTimeout(f"{self.address} did not answer within {seconds:.3g} s"))
        if dead:
            self.close("it is half-open: a request timed out and nothing came from there")


def _gather(frames: list[bytes]) -> list[bytes]:
    """The frames as few pieces that are not too large."""
    if len(frames) == 1:
        return frames
    pieces: list[bytes] = []
    first = size = 0
    for index, frame in enumerate(frames):
        size += len(frame)
        if size >= WRITE_BYTES:
            pieces.append(b"".join(frames[first : index + 1]))
            first, size = index + 1, 0
    if first < len(frames):
        pieces.append(b"".join(frames[first:]))
    return pieces
