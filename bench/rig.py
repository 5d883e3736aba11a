"""What the measuring scripts beside this file share: servers as processes, and `fastmq bench` runs."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from fastmq.protocol.codes import RequestCode  # noqa: E402
from fastmq.protocol.command import Command, decode_frame, encode_frame  # noqa: E402  (the path is set above)
from support.servers import ApachePeer, FastmqServer, Server  # noqa: E402  (as above)

LEVELS = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
PLAIN = {"enablePropertyFilter": "false", "messageDelayLevel": LEVELS}  # the tests' settings are not ours
EVERY_HOUR = ";".join(f"{hour:02}" for hour in range(24))
# a segment is deleted once the next is begun, at most a second later: a log goes round in the same memory. See `settle`
SETTLED = {"fileReservedTime": "0", "deleteWhen": EVERY_HOUR, "cleanResourceInterval": "1000"}
FIRST_DELETION_S = 62.0


class ApacheForBench(ApachePeer):
    """Apache RocketMQ as one runs it: the full compiler, G1, a heap of `heap`."""

    heap = "4g"
    started_s = 0.0  # of the monotonic clock

    def start(self) -> ApachePeer:
        super().start()
        self.started_s = time.monotonic()
        return self

    def _spawn(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        changed = []
        for word in command:
            if word.startswith(("-Xms", "-Xmx")) and word.endswith("512m"):
                changed.append(word[:4] + self.heap)
            elif word == "-XX:+UseSerialGC":
                changed.append("-XX:+UseG1GC")
            elif word.startswith("-XX:MaxDirectMemorySize"):
                changed.append("-XX:MaxDirectMemorySize=4g")
            elif not word.startswith("-XX:TieredStopAtLevel"):
                changed.append(word)
        super()._spawn(changed, env)


@contextlib.contextmanager
def serving(
    settings: Mapping[str, str] | None = None, *, apache: bool | type[ApacheForBench] = False
) -> Iterator[Server]:
    """A server with the default settings but those given, on free ports; its data goes away at the end.

    `apache`: Apache RocketMQ instead of fastmq, or the kind of it that is given.

    FASTMQ_BENCH_DIR says where the data goes meanwhile.
    """
    with tempfile.TemporaryDirectory(dir=os.environ.get("FASTMQ_BENCH_DIR")) as folder:
        kind: type[Server] = FastmqServer
        if apache:
            kind = ApacheForBench if apache is True else apache
        server = kind(Path(folder), {**PLAIN, **(settings or {})})
        with server:
            yield server


def bench(server: Server, *arguments: object) -> dict[str, Any]:
    """One `fastmq bench` run against a server; SystemExit with its words if it failed."""
    return bench_at(["-n", server.namesrv], *arguments)


def bench_at(where: Sequence[str], *arguments: object) -> dict[str, Any]:
    """The same against what `where` names. What others have written is on the disk before it begins."""
    words = [str(argument) for argument in arguments]
    command = [sys.executable, "-m", "fastmq", "bench", words[0], *where, *words[1:], "--json"]
    subprocess.run(["sync"], check=True)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment() -> dict[str, str]:
    """With this tree's package on the path, and bytecode cached as usual."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return env | {"PYTHONPATH": str(ROOT / "src")}


def settle(server: Server) -> None:
    """Have a server with SETTLED begin to delete. Asked to, fastmq does so at once, Apache a minute after its start."""
    Wire(server.broker).ask(RequestCode.DELETE_EXPIRED_COMMITLOG)
    if isinstance(server, ApacheForBench):
        time.sleep(max(0.0, server.started_s + FIRST_DELETION_S - time.monotonic()))


class Wire:
    """A bare connection to a server: one request, its answer."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._number = 0

    def ask(self, code: int, ext: Mapping[str, str] | None = None, body: bytes = b"") -> Command:
        """EOFError if the server closes the connection."""
        self._number += 1
        self._socket.sendall(encode_frame(Command(code, opaque=self._number, ext=dict(ext or {}), body=body)))
        return self.receive()

    def receive(self) -> Command:
        """The next frame from the server. EOFError if it closes the connection."""
        head = self._receive(4)
        return decode_frame(head + self._receive(int.from_bytes(head, "big")))

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(min(1 << 20, size - len(data)))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)


def new_memory(size: int = 256 << 20) -> float:
    """GB/s at which this machine hands out memory that the process has not had before, page by page."""
    with mmap.mmap(-1, size) as memory:
        begin = time.perf_counter()
        memory[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)
        return size / (time.perf_counter() - begin) / 1e9


def memory_kib(server: Server, field: str = "RssAnon") -> int:
    """A line of /proc/PID/status of the server's only process."""
    (process,) = server.processes
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


@contextlib.contextmanager
def beside(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that disturbs while the block runs."""
    process = subprocess.Popen([sys.executable, *arguments], env=environment())
    try:
        yield process
        assert process.poll() is None, f"{arguments} ended with {process.returncode}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)
