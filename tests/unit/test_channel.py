"""The client side of a connection, against a server made of a few lines and, for cut-off sends, a stream in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from fastmq.net.channel import Channel, ChannelClosed, PendingCalls, connect, open_channel
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame

Serve = Callable[[trio.SocketStream, Command], Awaitable[None]]


def in_trio(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """An async test as pytest runs it: no fixtures, real time."""

    def run() -> None:
        trio.run(test)

    return run


async def echo(stream: trio.SocketStream, request: Command) -> None:
    await stream.send_all(encode_frame(request.reply(ext=dict(request.ext), body=request.body)))


async def never(stream: trio.SocketStream, request: Command) -> None:
    pass


async def hang_up(stream: trio.SocketStream, request: Command) -> None:
    await stream.aclose()


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server on a free port which gives every request to a function."""

    async def connection(stream: trio.SocketStream) -> None:
        splitter = FrameSplitter()
        try:
            async for chunk in stream:
                for frame in splitter.feed(bytes(chunk)):
                    await serve(stream, decode_frame(frame))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, connection, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@in_trio
async def test_many_calls_at_once_get_their_own_answers() -> None:
    waiting: list[tuple[trio.SocketStream, Command]] = []

    async def in_reverse(stream: trio.SocketStream, request: Command) -> None:
        waiting.append((stream, request))
        if len(waiting) == 20:
            for held in reversed(waiting):
                await echo(*held)

    async with serving(in_reverse) as port, connect("127.0.0.1", port) as channel:
        answers: dict[int, str] = {}

        async def ask(number: int) -> None:
            answer = await channel.call(Command(105, ext={"n": str(number)}), 5)
            answers[number] = answer.ext["n"]

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(ask, number)
        assert answers == {number: str(number) for number in range(20)}


@in_trio
async def test_a_call_without_an_answer_times_out_and_the_channel_lives_on() -> None:
    async def only_pings(stream: trio.SocketStream, request: Command) -> None:
        if request.ext:
            await echo(stream, request)

    async with serving(only_pings) as port, connect("127.0.0.1", port) as channel:
        with pytest.raises(TimeoutError, match=r"no answer from 127\.0\.0\.1"):
            await channel.call(Command(1), 0.01)
        assert channel.alive
        assert (await channel.call(Command(1, ext={"a": "b"}), 5)).ext == {"a": "b"}


@in_trio
async def test_a_cancelled_call_leaves_nothing_behind_and_its_late_answer_is_dropped() -> None:
    held: list[tuple[trio.SocketStream, Command]] = []
    arrived = trio.Event()

    async def hold_first(stream: trio.SocketStream, request: Command) -> None:
        held.append((stream, request))
        arrived.set()
        if len(held) == 2:
            for pair in held:
                await echo(*pair)

    async with serving(hold_first) as port, connect("127.0.0.1", port) as channel:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.call, Command(1, ext={"n": "1"}), 60)
            await arrived.wait()
            nursery.cancel_scope.cancel()
        assert (await channel.call(Command(1, ext={"n": "2"}), 5)).ext == {"n": "2"}
        assert channel.alive


@in_trio
async def test_a_lost_connection_fails_all_calls_and_every_later_one() -> None:
    count = 0

    async def third_is_fatal(stream: trio.SocketStream, request: Command) -> None:
        nonlocal count
        count += 1
        if count == 3:
            await stream.aclose()

    failures: list[str] = []
    async with serving(third_is_fatal) as port, connect("127.0.0.1", port) as channel:

        async def ask() -> None:
            with pytest.raises(ChannelClosed) as caught:
                await channel.call(Command(1), 60)
            failures.append(str(caught.value))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        assert len(failures) == 3
        assert all(f"127.0.0.1:{port} is gone" in text for text in failures)
        assert not channel.alive
        await channel.wait_closed()
        with pytest.raises(ConnectionError):
            await channel.call(Command(1), 60)
        with pytest.raises(ConnectionError):
            await channel.oneway(Command(1))


@in_trio
async def test_bytes_that_are_no_frame_end_the_channel() -> None:
    async def garbage(stream: trio.SocketStream, request: Command) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(garbage) as port, connect("127.0.0.1", port) as channel:
        with pytest.raises(ChannelClosed):
            await channel.call(Command(1), 60)


@in_trio
async def test_closing_fails_pending_calls() -> None:
    async with serving(never) as port, trio.open_nursery() as nursery:
        channel = await open_channel(nursery, "127.0.0.1", port)
        failed = trio.Event()

        async def ask() -> None:
            with pytest.raises(ChannelClosed, match="it was closed"):
                await channel.call(Command(1), 60)
            failed.set()

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await channel.aclose()
        await failed.wait()


@in_trio
async def test_a_oneway_request_says_so() -> None:
    got: list[Command] = []
    arrived = trio.Event()

    async def keep(stream: trio.SocketStream, request: Command) -> None:
        got.append(request)
        arrived.set()

    async with serving(keep) as port, connect("127.0.0.1", port) as channel:
        command = Command(34)
        await channel.oneway(command)
        await arrived.wait()
    assert got[0].is_oneway
    assert not command.is_oneway, "the caller's command is not touched"


@in_trio
async def test_the_server_s_requests_can_be_answered() -> None:
    answered = trio.Event()
    answers: list[Command] = []

    async def asks_back(stream: trio.SocketStream, request: Command) -> None:
        if request.is_response:
            answers.append(request)
            answered.set()
        else:
            await stream.send_all(encode_frame(Command(40, opaque=77)))

    async with serving(asks_back) as port, trio.open_nursery() as nursery:

        def on_request(channel: Channel, request: Command) -> None:
            nursery.start_soon(channel.answer, request.reply(0, "got it"))

        async with connect("127.0.0.1", port, on_request=on_request) as channel:
            await channel.oneway(Command(1))
            await answered.wait()
    assert (answers[0].opaque, answers[0].remark) == (77, "got it")


@in_trio
async def test_nobody_listening_is_an_os_error() -> None:
    async with serving(never) as port:
        pass
    with pytest.raises(OSError, match="connect"):
        async with connect("127.0.0.1", port):
            pass


@in_trio
async def test_the_block_s_own_exception_comes_out_as_it_is() -> None:
    async with serving(never) as port:
        with pytest.raises(KeyError):
            async with connect("127.0.0.1", port):
                raise KeyError("mine")


class StuckStream(trio.abc.Stream):
    """Takes no byte, like a peer that does not read."""

    def __init__(self) -> None:
        self.sends = 0
        self._closed = trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sends += 1
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._closed.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        self._closed.set()
        await trio.lowlevel.checkpoint()


def test_a_send_given_up_half_way_ends_the_channel() -> None:
    stream = StuckStream()

    async def give_up() -> None:
        channel = Channel(stream, "x:1")

        async def waits_for_its_turn() -> None:
            with pytest.raises(ChannelClosed):
                await channel.call(Command(2), 60)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.read)
            with trio.move_on_after(1):
                nursery.start_soon(waits_for_its_turn)
                await channel.call(Command(1), 60)
        assert not channel.alive

    trio.run(give_up, clock=trio.testing.MockClock(autojump_threshold=0))
    assert stream.sends == 1, "nothing may follow half a frame"


def test_opaques_are_never_shared_even_after_they_wrap() -> None:
    pending = PendingCalls()
    pending._last = 0x7FFFFFFE
    opaques = [pending.begin()[0] for _ in range(3)]
    assert opaques == [0x7FFFFFFF, 0, 1]
    pending._last = 0x7FFFFFFE
    assert pending.begin()[0] == 2
    assert len(pending) == 4
    assert pending.take(Command(0, opaque=0))
    assert not pending.take(Command(0, opaque=0)), "a second answer"
    assert not pending.take(Command(0, opaque=9))
    pending.end(0)
    assert not pending.take(Command(0, opaque=0))
