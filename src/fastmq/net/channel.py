"""The client side of one remoting connection: requests out, answers matched by their opaque, requests of the server in.

    async with connect("127.0.0.1", 9876) as channel:
        answer = await channel.call(Command(RequestCode.GET_BROKER_CLUSTER_INFO), 3.0)

A channel lives as long as its connection: once that fails or is closed, every pending and every later call raises
ChannelClosed. Whoever owns the channel decides whether to connect again. After RocketMQ's NettyRemotingClient, which
unlike this keeps a connection for every address.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import trio

from fastmq import limits
from fastmq.errors import ProtocolError
from fastmq.protocol.command import ONEWAY_FLAG, Command, FrameSplitter, decode_frame, encode_frame

log = logging.getLogger("fastmq.net")

_OPAQUE_MASK: Final = 0x7FFFFFFF

RequestHandler = Callable[["Channel", Command], None]
"""Takes a request that the server sent. It answers, if at all, with `Channel.answer`; it must not block."""


class ChannelClosed(ConnectionError):
    """The connection is gone: it failed, the server closed it, or it was closed here."""


class _Call:
    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: Command | None = None


class PendingCalls:
    """Who waits for which opaque. No I/O: frames come in as commands, waiters are woken."""

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._calls)

    def begin(self) -> tuple[int, _Call]:
        """A fresh opaque, unlike any that is waited for. Raises ChannelClosed when too many calls wait."""
        if len(self._calls) >= limits.MAX_PENDING_CALLS:
            raise ChannelClosed(f"{len(self._calls)} calls wait for answers already")
        while True:
            self._last = (self._last + 1) & _OPAQUE_MASK
            if self._last not in self._calls:
                break
        call = self._calls[self._last] = _Call()
        return self._last, call

    def end(self, opaque: int) -> None:
        """Stop waiting; an answer that still comes is dropped."""
        self._calls.pop(opaque, None)

    def take(self, answer: Command) -> bool:
        """Give an answer to who waits for it; False if nobody does (any more)."""
        call = self._calls.get(answer.opaque)
        if call is None or call.answer is not None:
            return False
        call.answer = answer
        call.done.set()
        return True

    def wake_all(self) -> None:
        """The connection is gone: wake everybody without an answer."""
        for call in self._calls.values():
            call.done.set()


class Channel:
    """A connection to one server. Made by `connect` or `open_channel`; safe to use from many tasks at once."""

    def __init__(self, stream: trio.abc.Stream, address: str, on_request: RequestHandler | None = None) -> None:
        self.address = address
        self._stream = stream
        self._on_request = on_request
        self._pending = PendingCalls()
        self._sending = trio.Lock()
        self._failure: str | None = None
        self._closed = trio.Event()

    def __repr__(self) -> str:
        return f"<Channel to {self.address}{'' if self.alive else ' closed'}>"

    @property
    def alive(self) -> bool:
        """Whether calls have a chance."""
        return self._failure is None

    async def wait_closed(self) -> None:
        """Return once the connection is gone."""
        await self._closed.wait()

    async def call(self, command: Command, timeout_s: float) -> Command:
        """Send a request and wait for its answer, whatever its code; the command's own opaque is not used.

        Raises ChannelClosed, or TimeoutError when the answer does not come in time: an answer that comes later is
        dropped. Cancelling is safe, except in the middle of a send: then the connection is closed, because the server
        got half a frame.
        """
        self._check()
        opaque, call = self._pending.begin()
        try:
            with trio.move_on_after(timeout_s):
                await self._send(replace(command, opaque=opaque))
                await call.done.wait()
        finally:
            self._pending.end(opaque)
        if call.answer is not None:
            return call.answer
        self._check()
        raise TimeoutError(f"no answer from {self.address} within {timeout_s} s")

    async def oneway(self, command: Command) -> None:
        """Send a request that is not answered. Raises ChannelClosed; cancelling is as for `call`."""
        self._check()
        await self._send(replace(command, flag=command.flag | ONEWAY_FLAG))

    async def answer(self, answer: Command) -> None:
        """Send the answer to a request of the server, made with its `reply`. Raises ChannelClosed."""
        self._check()
        await self._send(answer)

    async def aclose(self) -> None:
        """Close the connection; pending calls raise ChannelClosed."""
        self._fail("it was closed")
        await self._stream.aclose()

    async def read(self) -> None:
        """Receive until the connection ends: the channel's own task, started by `connect` or `open_channel`."""
        splitter = FrameSplitter()
        reason = "the server closed it"
        try:
            while chunk := await self._stream.receive_some(limits.RECEIVE_BYTES):
                for frame in splitter.feed(bytes(chunk)):
                    self._take(decode_frame(frame))
        except trio.ClosedResourceError:
            reason = "it was closed"
        except (trio.BrokenResourceError, OSError) as error:
            reason = str(error.__cause__ or error) or "it broke"
        except ProtocolError as error:
            log.warning("closing the connection to %s: %s", self.address, error)
            reason = str(error)
        except trio.Cancelled:
            reason = "it was closed"
            raise
        finally:
            self._fail(reason)
            await trio.aclose_forcefully(self._stream)

    def _take(self, command: Command) -> None:
        if command.is_response:
            if not self._pending.take(command):
                log.debug("%s answered request %d, for which nobody waits", self.address, command.opaque)
        elif self._on_request is not None:
            self._on_request(self, command)

    async def _send(self, command: Command) -> None:
        frame = encode_frame(command)
        async with self._sending:
            self._check()
            begun = False
            try:
                begun = True
                await self._stream.send_all(frame)
                begun = False
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                self._fail(str(error.__cause__ or error) or "it broke")
                raise ChannelClosed(self._sentence()) from error
            finally:
                if begun:
                    # nobody knows how much of the frame is out: nothing may follow it
                    self._fail("a send was given up half-way")
                    await trio.aclose_forcefully(self._stream)

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
            self._closed.set()
            self._pending.wake_all()

    def _check(self) -> None:
        if self._failure is not None:
            raise ChannelClosed(self._sentence())

    def _sentence(self) -> str:
        return f"the connection to {self.address} is gone: {self._failure}"


async def open_channel(
    nursery: trio.Nursery,
    host: str,
    port: int,
    *,
    on_request: RequestHandler | None = None,
    timeout_s: float = limits.CONNECT_TIMEOUT_SECONDS,
) -> Channel:
    """Connect; the reading task runs in the given nursery, as long as the connection lives.

    Raises OSError, or TimeoutError, if there is no connection in time.
    """
    channel = await _open(host, port, on_request, timeout_s)
    nursery.start_soon(channel.read)
    return channel


@asynccontextmanager
async def connect(
    host: str,
    port: int,
    *,
    on_request: RequestHandler | None = None,
    timeout_s: float = limits.CONNECT_TIMEOUT_SECONDS,
) -> AsyncIterator[Channel]:
    """A channel for the length of a block. Raises as `open_channel`."""
    channel = await _open(host, port, on_request, timeout_s)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.read)
        try:
            yield channel
        except Exception as error:
            failure = error  # raised below: the block's own exception, not wrapped into the nursery's group
        finally:
            await channel.aclose()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _open(host: str, port: int, on_request: RequestHandler | None, timeout_s: float) -> Channel:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    stream: trio.SocketStream | None = None
    with trio.move_on_after(timeout_s):
        stream = await trio.open_tcp_stream(host, port)
    if stream is None:
        raise TimeoutError(f"no connection to {address} within {timeout_s} s")
    return Channel(stream, address, on_request)
