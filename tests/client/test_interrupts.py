"""Ctrl-C at whatever moment: the program gets its KeyboardInterrupt, and ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import fastmq
from client.faces import PATIENCE, members
from support.servers import FastmqServer, Server
from support.waiting import wait_until

SOURCE = str(Path(fastmq.__file__).parents[1])
PROGRAM = Path(__file__).parents[1] / "support" / "interrupted.py"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """Consumers come and go by the dozen here."""
    with FastmqServer(tmp_path / "server") as running:
        yield running


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("push", range(1, 301, 10)),
        ("pop", range(2, 242, 8)),
        ("open", range(3, 303, 10)),
        ("sync send", range(1, 91, 3)),
        ("sync pop", range(1, 61, 2)),
    ],
)
def test_an_interrupt_at_any_step_ends_the_program(own_server: Server, kind: str, steps: range) -> None:
    with fastmq.BasicClient(own_server.namesrv) as client:
        for _ in range(3):
            client.send("t", b"x")
    command = [sys.executable, str(PROGRAM), SOURCE, own_server.namesrv, kind, *map(str, steps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    endings = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert [int(step) for step, _, _ in endings] == list(steps)
    assert [(step, where, how) for step, where, how in endings if how != "interrupted"] == []
    assert len({where for _, where, _ in endings}) > len(steps) // 2  # they were at different places


CONSUMER_SCRIPT = """
import sys
sys.path.insert(0, {source!r})
import anyio, fastmq

async def listen(message):
    print("ready", flush=True)
    while {busy}:
        pass

async def main():
    async with fastmq.PushConsumer({namesrv!r}, "g", listen, "t", start_from="first"):
        await anyio.sleep_forever()

try:
    anyio.run(main, backend={backend!r})
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

SILENT_SCRIPT = """
import sys
sys.path.insert(0, {source!r})
import fastmq.sync

print("ready", flush=True)
try:
    with fastmq.sync.Consumer({namesrv!r}, "g", "t", request_timeout=1000):
        print("open", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def _interrupted_consumer(server: Server, *, backend: str, busy: bool) -> str:
    with fastmq.BasicClient(server.namesrv) as client:
        for _ in range(3):
            client.send("t", b"x")
    return _interrupted(CONSUMER_SCRIPT.format(source=SOURCE, namesrv=server.namesrv, backend=backend, busy=busy))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_ends_a_consumer_in_order(own_server: Server, backend: str) -> None:
    assert _interrupted_consumer(own_server, backend=backend, busy=False).endswith("interrupted\n")
    wait_until(lambda: members(own_server.namesrv, "g") == 0, "the group is left")


def test_an_interrupt_ends_a_listener_that_waits_for_nothing(own_server: Server) -> None:
    assert _interrupted_consumer(own_server, backend="trio", busy=True) == "interrupted\n"


def test_an_interrupt_ends_the_opening_of_what_gets_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, contextlib.ExitStack() as asked:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        script = SILENT_SCRIPT.format(source=SOURCE, namesrv=address)

        def until_asked() -> None:
            connection, _ = silent.accept()
            asked.enter_context(connection)
            assert connection.recv(1)

        assert _interrupted(script, until_asked) == "interrupted\n"


def _interrupted(script: str, until: Callable[[], object] = lambda: None) -> str:
    """What a program writes when it is interrupted after its line "ready"."""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            until()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    return output
