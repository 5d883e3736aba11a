"""Name servers that a web server names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import pytest

import fastmq
from fastmq.client.lookup import MAX_ANSWER_BYTES, is_url, look_up, read_answer
from fastmq.client.session import Session
from unit.client_rig import FakeCluster, Run, until


class Web:
    """A web server that gives one answer after the other, the last one again and again; None is none at all."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []
        self.url = ""

    async def _serve(self, stream: anyio.abc.SocketStream) -> None:
        # a client that is closed while it looks up goes without asking, or without waiting for the answer
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            async with stream:
                self.asked.append(await stream.receive())
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if answer is None:
                    await anyio.sleep_forever()
                else:
                    await stream.send(answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Web]:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/rocketmq/nsaddr?x=1"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()


def ok(text: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    ("answer", "addresses"),
    [
        (ok("a:9876;b:9876"), ["a:9876", "b:9876"]),
        (ok(" a:9876 ;a:9876;\r\n"), ["a:9876"]),
        (ok("[::1]:9876\n"), ["[::1]:9876"]),
        (b"HTTP/1.0 200\r\ncontent-length: 3\r\n\r\na:1;b:2", ["a:1"]),
    ],
)
def test_answers(answer: bytes, addresses: list[str]) -> None:
    assert read_answer(answer) == addresses


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: b", "does not speak HTTP"),
        (b"HTTP/1.1 404 Not Found\r\n\r\na:1", "404 Not Found"),
        (b"HTTP/1.1 301\r\nLocation: /x\r\n\r\n", "301"),
        (ok(""), "empty"),
        (ok(";;"), "empty"),
        (ok("<html>hello</html>"), "<html>"),
        (ok("a:9876,b:9876"), "a:9876,b:9876"),
        (ok("a:70000"), "70000"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\na:9876", "broke off after 6 of 20"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na:9876\r\n", "chunks"),
        (ok("a:1;" * MAX_ANSWER_BYTES), "more than"),
    ],
)
def test_bad_answers(answer: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read_answer(answer)


def test_what_is_asked_for_them_and_what_is_one() -> None:
    assert is_url("http://host:8080/rocketmq/nsaddr")
    assert is_url("https://host/")
    assert not is_url("http://MQ_INST_1.example.com:80")
    assert not is_url("host:9876")
    for wrong in ("http:///path", "http://h:99999/path", "http://u:p@h/path", "http://h/a b", "http://h/pfäd"):
        with pytest.raises(fastmq.UsageError, match="http://host:port/path"):
            Session(wrong)
    with pytest.raises(fastmq.UsageError, match="not both"):
        Session("http://host/path;other:9876")


def test_the_request_and_its_answer(run: Run) -> None:
    async def scenario() -> None:
        async with Web(ok("a:9876;b:9876")).running() as web:
            assert await look_up(web.url) == ["a:9876", "b:9876"]
        (asked,) = web.asked
        assert asked.startswith(b"GET /rocketmq/nsaddr?x=1 HTTP/1.0\r\nHost: 127.0.0.1:")
        assert asked.endswith(b"\r\n\r\n")

    run(scenario)


def test_a_web_server_that_says_nothing_or_too_much_or_is_not_there(run: Run) -> None:
    async def scenario() -> None:
        async with Web(None).running() as web:
            with pytest.raises(fastmq.RouteError, match=r"nsaddr.*within 0\.05 s") as caught:
                await look_up(web.url, timeout=0.05)
            assert caught.value.retryable
        with pytest.raises(fastmq.RouteError, match=r"names no name servers.*cannot be reached"):
            await look_up(web.url)
        async with Web(b"x" * 10 * MAX_ANSWER_BYTES).running() as web:
            with pytest.raises(fastmq.RouteError, match="more than"):
                await look_up(web.url)

    run(scenario)


def test_a_client_finds_its_name_server_and_follows_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with FakeCluster().running() as old, FakeCluster().running() as new:
            web = Web(ok(old.address), b"HTTP/1.1 500 Oops\r\n\r\n", ok(new.address))
            async with web.running():
                monkeypatch.setenv("NAMESRV_ADDR", web.url)
                async with fastmq.Producer(lookup_seconds=0.01) as producer:
                    assert producer.session.name_servers.addresses == [old.address]
                    await producer.session.call_name_server(old_request)
                    await until(lambda: producer.session.name_servers.addresses == [new.address])
                    assert producer.session.open_connection(old.address) is None, "nobody talks to it any more"
                    await producer.send("t", "x")
        assert len(web.asked) >= 3

    run(scenario)


def old_request() -> Any:
    from fastmq.client.session import command
    from fastmq.protocol.codes import RequestCode

    return command(RequestCode.GET_BROKER_CLUSTER_INFO)


def test_a_client_does_not_open_without_them(run: Run) -> None:
    async def scenario() -> None:
        async with Web(ok("<html>")).running() as web:
            producer = fastmq.Producer(web.url)
            with pytest.raises(fastmq.RouteError, match="<html>"):
                async with producer:
                    pass
            with pytest.raises(fastmq.ClientClosed):
                await producer.send("t", "x")

    run(scenario)
