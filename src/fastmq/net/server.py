"""Listeners, connections and requests: what stands between the reactor and a service such as the broker.

trio accepts; the reactor owns the sockets and serves the hot requests by itself. Every other frame arrives here, is
decoded and handed to the service its listener belongs to. A handler is a plain function that answers at once, or gives
back an awaitable (work that waits), or None: nothing to send now, or ever.

One connection's failure harms only itself: a handler's exception is answered, bytes that are no frame close it.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from fastmq import limits
from fastmq._reactor import ENDED_BY_FRAMING, ENDED_BY_OUTPUT, RESUMED, Reactor
from fastmq.errors import InternalError, ProtocolError, RequestError
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command, decode_frame, encode_frame, frame_head

log = logging.getLogger("fastmq.net")

IDLE_SCAN_SECONDS = 10.0
WAITING_REQUESTS_MAX = 1024  # of one connection
LARGE_BODY = 64 << 10  # is not copied into its frame
FRAMES_A_STEP = 64  # between two of them trio's other tasks have their turn
BUSY_REMARK = "[OVERLOAD]system busy, start flow control for a while"

# requests whose order within a connection the reactor keeps: see Reactor.cold_done
ORDERED_CODES = frozenset(
    {
        RequestCode.SEND_MESSAGE,
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.SEND_BATCH_MESSAGE,
        RequestCode.SEND_REPLY_MESSAGE,
        RequestCode.SEND_REPLY_MESSAGE_V2,
        RequestCode.CONSUMER_SEND_MSG_BACK,
        RequestCode.PULL_MESSAGE,
        RequestCode.LITE_PULL_MESSAGE,
        RequestCode.QUERY_CONSUMER_OFFSET,
        RequestCode.UPDATE_CONSUMER_OFFSET,
    }
)


@dataclass(slots=True)
class Reply:
    """The answer to a request. `after_flush`: the log offset that must be on disk before it may leave."""

    code: int = 0
    remark: str | None = None
    ext: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    after_flush: int | None = None


Answer = Reply | None | Awaitable["Reply | None"]


class Service(Protocol):
    """What serves the requests of a listener: the broker, the name server."""

    def handle(self, peer: Peer, request: Command) -> Answer: ...

    def resume(self, peer: Peer, request: Command) -> Answer:
        """A request that the reactor held and could not finish: process it once more, it may not be held again."""

    def refuse(self, request: Command, waited_ms: int, behind: int) -> Reply | None:
        """What to answer instead of serving a request that waited so long, so many frames behind it; None: serve."""

    def closed(self, peer: Peer) -> None: ...


class Peer:
    """One connection as a service sees it."""

    __slots__ = ("_calls", "_next_opaque", "_reactor", "_scopes", "alive", "host", "id", "port", "service")

    def __init__(self, reactor: Reactor, connection: int, service: int, host: str, port: int) -> None:
        self.id = connection
        self.service = service
        self.host = host
        self.port = port
        self.alive = True
        self._reactor = reactor
        self._next_opaque = 0
        self._calls: dict[int, _Call] = {}
        self._scopes: set[trio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Peer {self.id} {self.address}{'' if self.alive else ' closed'}>"

    @property
    def address(self) -> str:
        """`ip:port`, as RocketMQ's tools show it."""
        return f"{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether the other side is on this machine's loopback."""
        return self.host.startswith("127.") or self.host == "::1"

    def send(self, command: Command) -> bool:
        """Send a command as it is. False if the connection is gone."""
        return self.alive and self._send(command)

    def _send(self, command: Command) -> bool:
        large = len(command.body) >= LARGE_BODY
        return self._reactor.send(self.id, (frame_head(command), command.body) if large else encode_frame(command))

    def reply(self, request: Command, reply: Reply) -> None:
        """Answer a request; nothing is ever sent for a oneway one."""
        if request.is_oneway or not self.alive:
            return
        command = request.reply(reply.code, reply.remark, reply.ext, reply.body)
        if reply.after_flush is None:
            self._send(command)
            return
        frame = encode_frame(command)
        region: dict[str, str] = {key: reply.ext[key] for key in ("TRACE_ON", "MSG_REGION") if key in reply.ext}
        code, remark = FLUSH_FAILED
        failure = encode_frame(request.reply(code, remark, region))
        self._reactor.send_after_flush(self.id, frame, reply.after_flush, failure)

    async def call(self, command: Command, timeout_s: float) -> Command:
        """Send a request to the client and wait for its answer. Raises TimeoutError or ConnectionError."""
        self._next_opaque = (self._next_opaque + 1) & 0x7FFFFFFF
        command.opaque = self._next_opaque
        call = self._calls[command.opaque] = _Call()
        try:
            if not self.send(command):
                raise ConnectionError(f"the connection to {self.address} is closed")
            with trio.move_on_after(timeout_s):
                await call.done.wait()
        finally:
            del self._calls[command.opaque]
        if call.answer is not None:
            return call.answer
        if not self.alive:
            raise ConnectionError(f"the connection to {self.address} was closed")
        raise TimeoutError(f"no answer from {self.address} within {timeout_s} s")

    def close(self) -> None:
        """Close the connection once what was queued for it is written."""
        self._reactor.close_connection(self.id)

    def take_answer(self, answer: Command) -> None:
        call = self._calls.get(answer.opaque)
        if call is not None:
            call.answer = answer
            call.done.set()

    def discard(self) -> None:
        self.alive = False
        for call in self._calls.values():
            call.done.set()
        for scope in self._scopes:
            scope.cancel()

    async def run_waiting(self, awaitable: Awaitable[Reply | None]) -> Reply | None:
        """Await a handler's work; the end of the connection cancels it."""
        with trio.CancelScope() as scope:
            if not self.alive:
                scope.cancel()  # it ended before this task had its first turn
            self._scopes.add(scope)
            try:
                return await awaitable
            finally:
                self._scopes.discard(scope)
        return None

    @property
    def waiting(self) -> int:
        return len(self._scopes)


class _Call:
    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Command | None = None


FLUSH_FAILED = (
    int(ResponseCode.SERVICE_NOT_AVAILABLE),
    "the flush of the commit log failed, it takes no more messages",
)


@dataclass(slots=True, frozen=True)
class Listener:
    """A bound socket and the number of the service its connections belong to."""

    socket: trio.socket.SocketType
    service: int

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])


async def open_listener(host: str, port: int, service: int, *, backlog: int = 1024) -> Listener:
    """Bind and listen; OSError names the address that could not be had."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind((host, port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return Listener(sock, service)


class Server:
    """Connects listeners, the reactor and services. `run` until cancelled, then `drain`."""

    def __init__(self, reactor: Reactor, services: Mapping[int, Service]) -> None:
        self._reactor = reactor
        self._services = services
        self._peers: dict[int, Peer] = {}

    @property
    def peers(self) -> Mapping[int, Peer]:
        return self._peers

    async def run(
        self,
        listeners: Sequence[Listener],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until cancelled; then no new connection comes in and the others are closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve_cold, nursery)
            nursery.start_soon(self._close_idle)
            for listener in listeners:
                nursery.start_soon(self._accept, listener)
            task_status.started()

    async def _accept(self, listener: Listener) -> None:
        while True:
            try:
                sock, address = await listener.socket.accept()
            except OSError as error:
                # EMFILE and friends, or a client that left before it was accepted
                log.warning("accept failed: %s", error)
                await trio.sleep(0.1)
                continue
            try:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                fd = sock.detach()
            except OSError:
                sock.close()
                continue
            try:
                connection = self._reactor.add(fd, listener.service)
            except OSError as error:
                log.warning("a connection of %s cannot be served: %s", address[0], error)
                os.close(fd)
                continue
            host = address[0].removeprefix("::ffff:")
            self._peers[connection] = Peer(self._reactor, connection, listener.service, host, address[1])

    async def _serve_cold(self, nursery: trio.Nursery) -> None:
        served = 0
        while True:
            await trio.lowlevel.wait_readable(self._reactor.cold_event_fd)
            items = self._reactor.take_cold()
            for index, (connection, service, frame, stamp) in enumerate(items, 1):
                if frame is None:
                    self._closed(connection, stamp)
                else:
                    self._serve_frame(connection, service, frame, stamp, len(items) - index, nursery)
                served += 1
                if served % FRAMES_A_STEP == 0:
                    await trio.lowlevel.checkpoint()

    def _closed(self, connection: int, why: int) -> None:
        peer = self._peers.pop(connection, None)
        if peer is None:
            return
        if why == ENDED_BY_FRAMING:
            log.warning("closed the connection of %s: it sent what is no frame", peer.address)
        elif why == ENDED_BY_OUTPUT:
            log.warning("closed the connection of %s: it does not take its answers", peer.address)
        else:
            log.debug("the connection of %s ended (%d)", peer.address, why)
        peer.discard()
        try:
            self._services[peer.service].closed(peer)
        except Exception:
            log.exception("forgetting the connection of %s failed", peer.address)

    def _serve_frame(
        self, connection: int, service: int, frame: bytes, stamp_ms: int, behind: int, nursery: trio.Nursery
    ) -> None:
        peer = self._peers.get(connection)
        if peer is None:
            return
        try:
            request = decode_frame(frame)
        except ProtocolError as error:
            log.warning("closing the connection of %s: %s", peer.address, error)
            peer.close()
            return
        if request.is_response:
            peer.take_answer(request)
            self._done(peer, request)
            return
        answer: Answer
        try:
            if service >= RESUMED:
                answer = self._services[service - RESUMED].resume(peer, request)
            else:
                waited_ms = time.monotonic_ns() // 1_000_000 - stamp_ms
                answer = self._services[service].refuse(request, waited_ms, behind)
                if answer is None:
                    answer = self._services[service].handle(peer, request)
        except Exception as error:
            answer = failure_reply(error, peer, request)
        if answer is None or isinstance(answer, Reply):
            # done before the answer leaves: what the client sends when it has it may be hot again
            self._done(peer, request)
            if answer is not None:
                self._reply(peer, request, answer)
        elif peer.waiting >= WAITING_REQUESTS_MAX:
            close_awaitable(answer)
            self._done(peer, request)
            peer.reply(request, Reply(ResponseCode.SYSTEM_BUSY, BUSY_REMARK))
        else:
            nursery.start_soon(self._serve_waiting, peer, request, answer)

    async def _serve_waiting(self, peer: Peer, request: Command, awaitable: Awaitable[Reply | None]) -> None:
        try:
            answer = await peer.run_waiting(awaitable)
        except Exception as error:
            answer = failure_reply(error, peer, request)
        self._done(peer, request)
        if answer is not None:
            self._reply(peer, request, answer)

    def _reply(self, peer: Peer, request: Command, answer: Reply) -> None:
        """Answer; what no frame can hold is told to the client, and harms nobody else."""
        try:
            peer.reply(request, answer)
        except Exception as error:
            peer.reply(request, failure_reply(error, peer, request))

    def _done(self, peer: Peer, request: Command) -> None:
        if request.code in ORDERED_CODES:
            self._reactor.cold_done(peer.id, request.code)

    async def _close_idle(self) -> None:
        while True:
            await trio.sleep(IDLE_SCAN_SECONDS)
            self.close_idle(limits.IDLE_SECONDS)

    def close_idle(self, limit_seconds: float) -> None:
        """Close the connections on which nothing moved for longer, also those that do not take their answers."""
        for connection, _, idle_seconds in self._reactor.connections():
            if idle_seconds > limit_seconds:
                log.info("closing the connection %d: idle for %d s", connection, idle_seconds)
                self._reactor.close_connection(connection, at_once=True)


def failure_reply(error: Exception, peer: Peer, request: Command) -> Reply:
    """What a client is told when its request could not be served."""
    if isinstance(error, RequestError):
        return Reply(error.code, error.remark)
    log.error("request %d of %s failed", request.code, peer.address, exc_info=error)
    return Reply(ResponseCode.SYSTEM_ERROR, f"{type(error).__name__}: {error}"[:512])


def answer_again(peer: Peer, request: Command, process: Callable[[], Reply | None]) -> None:
    """Process a request that waits once more, and answer it unless it waits on (None).

    What goes wrong is told to its client; those who woke it, and the others that wait, are not harmed.
    """
    try:
        reply = process()
        if reply is not None:
            peer.reply(request, reply)
    except Exception as error:
        peer.reply(request, failure_reply(error, peer, request))


def close_awaitable(awaitable: Awaitable[Reply | None]) -> None:
    """Drop work that will not be awaited."""
    close: Callable[[], None] | None = getattr(awaitable, "close", None)
    if close is None:
        raise InternalError("a handler gave back something that is neither a reply nor a coroutine")
    close()
