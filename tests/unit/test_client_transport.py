"""One connection: answers in any order, timeouts, half-open peers, cancellation, requests of the server."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener

from fastmq.client.errors import ConnectError, ConnectionLost, RequestTimeout
from fastmq.client.transport import Connection, open_stream, parse_address
from fastmq.errors import UsageError
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame


class Stream(anyio.abc.ByteStream):
    """A stream whose other end is the test."""

    def __init__(self) -> None:
        self._to_client, self._incoming = anyio.create_memory_object_stream[bytes](100)
        self.sent = bytearray()
        self.closed = False
        self.hang = False
        self.written = anyio.Event()
        self._splitter = FrameSplitter()

    async def send(self, item: bytes) -> None:
        if self.hang:
            self.written.set()
            await anyio.Event().wait()
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise anyio.ClosedResourceError
        self.sent += item
        self.written.set()

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self._incoming.receive()

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.closed = True
        self._incoming.close()
        self._to_client.close()

    def feed(self, data: bytes) -> None:
        """The server sends."""
        self._to_client.send_nowait(data)

    def end(self) -> None:
        """The server closes."""
        self._to_client.close()

    async def requests(self, count: int) -> list[Command]:
        """The next requests of the client."""
        commands: list[Command] = []
        with anyio.fail_after(60):
            while len(commands) < count:
                while not self.sent:
                    self.written = anyio.Event()
                    await self.written.wait()
                data, self.sent = bytes(self.sent), bytearray()
                commands += map(decode_frame, self._splitter.feed(data))
        return commands


Body = Callable[[Connection, Stream, list[Command]], Awaitable[Any]]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["asyncio", "trio"])
def served(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    """Runs a test with a connection that is served, on each backend."""

    def run(body: Body) -> None:
        async def main() -> None:
            stream = Stream()
            asked: list[Command] = []
            clock = Clock()
            connection = Connection(stream, "h:1", lambda _, command: asked.append(command), clock)
            connection.clock = clock  # type: ignore[attr-defined]
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(connection.run)
                    await body(connection, stream, asked)
                    connection.close()
            assert stream.closed
            assert connection.waiting == 0

        anyio.run(main, backend=request.param)

    return run


def request(code: int = 10) -> Command:
    return Command(code, ext={"a": "b"}, body=b"x")


def test_answers_in_any_order(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        waiters = [connection.post(request(number), 5) for number in range(3)]
        arrived = await stream.requests(3)
        assert [one.code for one in arrived] == [0, 1, 2]
        frames = b"".join(encode_frame(one.reply(100 + one.code)) for one in reversed(arrived))
        for part in (frames[:7], frames[7:50], frames[50:]):
            stream.feed(part)
        assert [(await waiter.wait()).code for waiter in waiters] == [100, 101, 102]

    served(body)


def test_requests_in_turn_do_not_overtake_each_other(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        codes: list[int] = []

        async def call(number: int) -> None:
            codes.append((await connection.call_in_turn(lambda: request(number), 5)).code)

        connection.post_in_turn(request(0), 5)
        async with anyio.create_task_group() as tasks:
            impatient = anyio.CancelScope()

            async def give_up() -> None:
                with impatient:
                    await call(1)

            tasks.start_soon(give_up)
            [first] = await stream.requests(1)
            stream.feed(encode_frame(first.reply(100)))
            [second] = await stream.requests(1)  # and not before the first was answered
            assert (first.code, second.code) == (0, 1)
            impatient.cancel()  # who asked has gone, but the broker may still be at it
            tasks.start_soon(call, 2)
            tasks.start_soon(call, 3)
            await anyio.wait_all_tasks_blocked()
            assert connection.waiting == 1
            stream.feed(encode_frame(second.reply(101)))
            for _ in range(2):
                [later] = await stream.requests(1)
                await anyio.wait_all_tasks_blocked()
                assert connection.waiting == 1
                stream.feed(encode_frame(later.reply(100 + later.code)))
        assert sorted(codes) == [102, 103]
        await connection.settled()

    served(body)


def test_an_answer_nobody_waits_for_is_dropped(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        stream.feed(encode_frame(Command(0, opaque=77, flag=1)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.call, request(), 5)
            (arrived,) = await stream.requests(1)
            tasks.cancel_scope.cancel()
        assert connection.waiting == 0, "the cancelled caller took its waiter along"
        stream.feed(encode_frame(arrived.reply()))
        waiter = connection.post(request(), 5)
        (arrived,) = await stream.requests(1)
        stream.feed(encode_frame(arrived.reply(7)))
        assert (await waiter.wait()).code == 7

    served(body)


def test_requests_of_the_server_and_oneways(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        stream.feed(encode_frame(Command(40, opaque=5)))
        waiter = connection.post(request(), 5)
        connection.send(request(15))
        first, second = await stream.requests(2)
        assert (second.code, second.is_oneway) == (15, True)
        stream.feed(encode_frame(first.reply()))
        await waiter.wait()
        assert [one.code for one in asked] == [40]
        await connection.flush()

    served(body)


@pytest.mark.parametrize("how", ["ends", "garbage", "close"])
def test_when_it_breaks_everybody_learns_it(served: Callable[[Body], None], how: str) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        told: list[object] = []
        waiter = connection.post(request(), 5)
        connection.post(request(), 5, lambda one: told.append(one.error))
        await stream.requests(2)
        if how == "ends":
            stream.end()
        elif how == "garbage":
            stream.feed(b"\xff" * 20)
        else:
            connection.close("enough")
        with pytest.raises(ConnectionLost):
            await waiter.wait()
        assert len(told) == 1
        assert connection.failure is not None
        with pytest.raises(ConnectionLost):
            connection.post(request(), 5)
        connection.send(request())

    served(body)


def test_a_late_answer_is_a_timeout_a_silent_server_is_dead(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        clock = connection.clock  # type: ignore[attr-defined]
        slow, other = connection.post(request(1), 3), connection.post(request(2), 60)
        arrived = await stream.requests(2)
        clock.now += 1
        stream.feed(encode_frame(Command(40)))
        while not asked:
            await anyio.lowlevel.checkpoint()
        clock.now += 2.5
        connection.expire(clock.now)
        with pytest.raises(RequestTimeout):
            await slow.wait()
        assert connection.failure is None, "something came from there meanwhile"
        stream.feed(encode_frame(arrived[1].reply()))
        await other.wait()
        clock.now += 1
        silent, other = connection.post(request(3), 3), connection.post(request(4), 60)
        clock.now += 3
        connection.expire(clock.now)
        with pytest.raises(RequestTimeout):
            await silent.wait()
        with pytest.raises(ConnectionLost):
            await other.wait()

    served(body)


def test_closing_does_not_wait_for_a_stuck_write(served: Callable[[Body], None]) -> None:
    async def body(connection: Connection, stream: Stream, asked: list[Command]) -> None:
        stream.hang = True
        waiter = connection.post(request(), 60)
        await stream.written.wait()
        connection.close()
        with pytest.raises(ConnectionLost):
            await waiter.wait()

    served(body)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_nobody_listens(backend: str) -> None:
    async def main() -> None:
        with pytest.raises(ConnectError) as caught:
            await open_stream("127.0.0.1:1")
        assert caught.value.retryable

    anyio.run(main, backend=backend)


def test_addresses() -> None:
    assert parse_address("h:1") == ("h", 1)
    assert parse_address("http://h:1") == ("h", 1)
    assert parse_address("[::1]:9876") == ("::1", 9876)
    for text in ("h", "h:", ":1", "h:x", "h:70000", ""):
        with pytest.raises(UsageError):
            parse_address(text)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tls(backend: str) -> None:
    folder = Path(__file__).parent / "tls"
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    trusting = ssl.create_default_context(cafile=folder / "cert.pem")

    async def serve(stream: anyio.abc.ByteStream) -> None:
        splitter = FrameSplitter()
        async with stream:
            with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                while True:
                    for frame in splitter.feed(await stream.receive()):
                        await stream.send(encode_frame(decode_frame(frame).reply(7)))

    async def main() -> None:
        plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
        listener = TLSListener(plain, server_side, standard_compatible=False)
        port = plain.extra(anyio.abc.SocketAttribute.local_port)
        with anyio.fail_after(60):
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, serve)
                stream = await open_stream(f"localhost:{port}", trusting)
                connection = Connection(stream, "h:1", lambda _, command: None)
                tasks.start_soon(connection.run)
                assert (await connection.call(request(), 60)).code == 7
                assert connection.local_host == "127.0.0.1"
                connection.close()
                with pytest.raises(ConnectError):
                    await open_stream(f"localhost:{port}", ssl.create_default_context())
                tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
