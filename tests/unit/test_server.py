"""Listeners, connections and services over real sockets."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from fastmq._reactor import Reactor
from fastmq.errors import RequestError
from fastmq.net.server import Answer, Peer, Reply, Server, open_listener
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame

ECHO, REFUSE, CRASH, HELD, SLOW, CALL_BACK = 34, 35, 36, 11, 12, 307


class Service:
    """Answers by code."""

    def __init__(self) -> None:
        self.gone: list[str] = []
        self.held: list[tuple[Peer, Command]] = []
        self.seen: list[int] = []
        self.cancelled = 0
        self.slow = trio.Event()
        self.waits: list[tuple[int, int, int]] = []
        self.patience_ms: int | None = None
        self.answer_bytes = 0

    def handle(self, peer: Peer, request: Command) -> Answer:
        self.seen.append(request.opaque)
        if request.code == REFUSE:
            raise RequestError(16, "not for you")
        if request.code == CRASH:
            raise ZeroDivisionError("by zero")
        if request.code == HELD:
            self.held.append((peer, request))
            return None
        if request.code == SLOW:
            return self.wait()
        if request.code == CALL_BACK:
            return self.call_back(peer)
        return Reply(0, ext={"from": peer.host}, body=request.body + bytes(self.answer_bytes))

    async def wait(self) -> Reply:
        try:
            await self.slow.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return Reply(0, "slow")

    async def call_back(self, peer: Peer) -> Reply:
        answer = await peer.call(Command(221, ext={"topic": "t"}), 5)
        return Reply(answer.code, answer.remark, body=answer.body)

    def resume(self, peer: Peer, request: Command) -> Answer:
        raise NotImplementedError

    def refuse(self, request: Command, waited_ms: int, behind: int) -> Reply | None:
        self.waits.append((request.opaque, waited_ms, behind))
        if self.patience_ms is not None and waited_ms >= self.patience_ms:
            return Reply(2, f"too late by {waited_ms} ms, {behind} behind")
        return None

    def closed(self, peer: Peer) -> None:
        self.gone.append(peer.address)


class Client:
    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.splitter = FrameSplitter()
        self.frames: list[bytes] = []

    async def send(self, *commands: Command) -> None:
        await self.stream.send_all(b"".join(encode_frame(command) for command in commands))

    async def receive(self) -> Command:
        while not self.frames:
            data = await self.stream.receive_some(65536)
            if not data:
                raise EOFError
            self.frames += self.splitter.feed(data)
        return decode_frame(self.frames.pop(0))

    async def call(self, command: Command) -> Command:
        await self.send(command)
        return await self.receive()


class Running:
    def __init__(self, port: int, service: Service, server: Server) -> None:
        self.port = port
        self.service = service
        self.server = server
        self.clients: list[Client] = []

    async def client(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
        self.clients.append(client)
        return client


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    service = Service()
    reactor = Reactor()
    server = Server(reactor, {3: service})
    listener = await open_listener("127.0.0.1", 0, 3)
    thread = threading.Thread(target=reactor.run)
    thread.start()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listener])
            run = Running(listener.port, service, server)
            with trio.fail_after(60):
                yield run
            for client in run.clients:
                client.stream.socket.close()
            nursery.cancel_scope.cancel()
    finally:
        listener.socket.close()
        reactor.stop()
        thread.join()
        reactor.close()


async def wait_for(condition: object) -> None:
    assert callable(condition)
    while not condition():  # noqa: ASYNC110  (a condition of another thread has no event)
        await trio.sleep(0.001)


def test_requests_are_answered_under_their_opaque() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            answer = await client.call(Command(ECHO, opaque=77, body=b"hi"))
            assert (answer.code, answer.opaque, answer.body, answer.ext) == (0, 77, b"hi", {"from": "127.0.0.1"})
            assert answer.is_response
            answer = await client.call(Command(ECHO, opaque=78, serialize=1))
            assert answer.serialize == 1, "an answer comes in the form of its request"

    trio.run(main)


def test_refusals_and_crashes_answer_and_the_connection_goes_on() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            answer = await client.call(Command(REFUSE, opaque=1))
            assert (answer.code, answer.remark) == (16, "not for you")
            answer = await client.call(Command(CRASH, opaque=2))
            assert answer.code == 1
            assert "by zero" in (answer.remark or "")
            assert (await client.call(Command(ECHO, opaque=3))).code == 0

    trio.run(main)


def test_oneway_requests_are_never_answered() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            await client.send(
                Command(ECHO, opaque=1, flag=2), Command(REFUSE, opaque=2, flag=2), Command(ECHO, opaque=3)
            )
            assert (await client.receive()).opaque == 3
            assert run.service.seen == [1, 2, 3]

    trio.run(main)


def test_a_held_request_is_answered_later_and_others_overtake_it() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            await client.send(Command(HELD, opaque=1), Command(SLOW, opaque=2), Command(ECHO, opaque=3))
            assert (await client.receive()).opaque == 3
            peer, request = run.service.held[0]
            peer.reply(request, Reply(19, "late"))
            assert (await client.receive()).code == 19
            run.service.slow.set()
            answer = await client.receive()
            assert (answer.opaque, answer.remark) == (2, "slow")

    trio.run(main)


def test_a_client_that_leaves_takes_its_waiting_requests_along() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            await client.send(Command(SLOW, opaque=1))
            await wait_for(lambda: run.service.seen)
            await client.stream.aclose()
            await wait_for(lambda: run.service.gone and run.service.cancelled)
            assert not run.server.peers

    trio.run(main)


def test_a_client_that_leaves_right_behind_its_request() -> None:
    async def main() -> None:
        async with running() as run:
            for number in range(1, 30):
                client = await run.client()
                await client.send(Command(SLOW, opaque=1))
                await client.stream.aclose()
                await wait_for(
                    lambda number=number: len(run.service.gone) == number and run.service.cancelled == number
                )

    trio.run(main)


def test_the_broker_calls_the_client() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            await client.send(Command(CALL_BACK, opaque=9))
            request = await client.receive()
            assert (request.code, request.ext) == (221, {"topic": "t"})
            await client.send(request.reply(0, "here", {}, b"status"))
            answer = await client.receive()
            assert (answer.opaque, answer.remark, answer.body) == (9, "here", b"status")

    trio.run(main)


def test_bytes_that_are_no_request_close_only_their_connection() -> None:
    async def main() -> None:
        async with running() as run:
            good, evil = await run.client(), await run.client()
            header = b"this is not JSON"
            await evil.stream.send_all(struct.pack(">II", 4 + len(header), len(header)) + header)
            assert await evil.stream.receive_some(100) == b""
            assert (await good.call(Command(ECHO, opaque=1))).code == 0
            await wait_for(lambda: run.service.gone)

    trio.run(main)


def test_an_idle_client_is_closed_though_it_does_not_take_its_answers() -> None:
    async def main() -> None:
        async with running() as run:
            quiet = await run.client()
            assert (await quiet.call(Command(ECHO, opaque=1))).opaque == 1
            run.service.answer_bytes = 15 << 20
            await quiet.send(Command(ECHO, opaque=2))
            await wait_for(lambda: 2 in run.service.seen)
            run.server.close_idle(60)
            assert run.service.gone == []
            run.server.close_idle(-1)
            await wait_for(lambda: run.service.gone)

    trio.run(main)


def test_a_port_in_use_is_named() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
                await open_listener("127.0.0.1", port, 0)

    trio.run(main)


def test_what_waited_too_long_for_python_is_refused_and_the_next_is_served() -> None:
    async def main() -> None:
        async with running() as run:
            run.service.patience_ms = 0
            client = await run.client()
            await client.send(*(Command(ECHO, opaque=opaque) for opaque in range(3)))
            answers = [await client.receive() for _ in range(3)]
            assert [(a.opaque, a.code) for a in answers] == [(0, 2), (1, 2), (2, 2)]
            assert run.service.seen == []
            run.service.patience_ms = None
            assert (await client.call(Command(ECHO, opaque=7))).code == 0
            assert all(0 <= waited < 20_000 and 0 <= behind < 3 for _, waited, behind in run.service.waits)

    trio.run(main)


def test_an_answer_that_no_frame_can_hold_is_an_error_of_its_request_alone() -> None:
    async def main() -> None:
        async with running() as run:
            client = await run.client()
            run.service.answer_bytes = 17 << 20
            answer = await client.call(Command(ECHO, opaque=1))
            assert answer.code == 1
            assert "ValueError" in (answer.remark or "")
            run.service.answer_bytes = 0
            assert (await client.call(Command(ECHO, opaque=2))).code == 0

    trio.run(main)
