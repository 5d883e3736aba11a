"""Sends at a fixed rate while something else goes on: does it stop them?

PYTHONPATH=src python bench/stalls.py [SECONDS]

Each disturbance is measured in turn with quiet runs on the same server; shown are p99 and p99.9 of sends at 20,000/s
(latency from the intended time; the run with the median p99.9) and the ratio of the two p99.9.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rig import PLAIN, Wire, bench, beside, serving, table

from fastmq import cli, serve
from fastmq.protocol.bodies import TopicConfig, dumps
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, encode_frame
from support.servers import FastmqServer, Server

RATE = 20_000
ROUNDS = 3
MANY = 20_000
FILE_BYTES = 256 << 20
FLUSH_MS = 1000

Disturbance = Callable[[Server], AbstractContextManager[object]]
Tail = tuple[float, float]  # p99.9, p99 in ms


# --- what disturbs, each a process of its own -------------------------------------------------------------------------


def list_topics(broker: str) -> None:
    """A tool that asks for all topics for ever and drops the answers: what it does with them is not to be measured."""
    host, _, port = broker.rpartition(":")
    room, opaque = bytearray(1 << 20), 0
    with socket.create_connection((host, int(port))) as sock:
        while True:
            opaque += 1
            sock.sendall(encode_frame(Command(RequestCode.GET_ALL_TOPIC_CONFIG, opaque=opaque)))
            got = sock.recv(256)
            if not got:
                raise EOFError
            assert b'"opaque":%d,' % opaque in got, got
            left = 4 + int.from_bytes(got[:4], "big") - len(got)
            assert left > 100 * MANY, "that are not all topics"
            while left:
                count = sock.recv_into(room, min(left, len(room)), socket.MSG_TRUNC)  # dropped by the system
                if not count:
                    raise EOFError
                left -= count


def make_topics(broker: str) -> None:
    """A tool that makes topics for ever."""
    wire = Wire(broker)
    while True:
        create(wire, [f"made-{os.getpid()}-{time.time_ns()}"])


def write_files(folder: str) -> None:
    """Somebody else's files on the same disk, each synced: flushes of the log wait for them."""
    block = os.urandom(1 << 20)
    while True:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(block)
            os.fsync(file.fileno())


DISTURBERS = {"list": list_topics, "make": make_topics, "write": write_files}


def create(wire: Wire, names: list[str]) -> None:
    body = dumps({"topicConfigList": [TopicConfig(topic_name=name) for name in names]})
    answer = wire.ask(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, body=body)
    assert answer.code == 0, answer.remark


# --- a server whose disk is slow --------------------------------------------------------------------------------------


class SlowDisk(FastmqServer):
    """Every flush of its log takes FLUSH_MS longer."""

    def _spawn(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        path = os.pathsep.join(sys.path)
        super()._spawn([sys.executable, __file__, "slow-disk", *command[3:]], {**env, "PYTHONPATH": path})


def serve_on_slow_disk(words: list[str]) -> int:
    """`fastmq` with these words, over a store with that fault."""
    faults = [{"call": "fdatasync", "file": "commitlog", "times": -1, "delay_ms": FLUSH_MS}]
    serve.open_store = functools.partial(serve.open_store, options={"fault_script": faults})  # type: ignore[assignment]
    return cli.main(words)


@contextlib.contextmanager
def serving_on_slow_disk() -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory(dir=os.environ.get("FASTMQ_BENCH_DIR")) as folder,
        SlowDisk(Path(folder), PLAIN) as server,
    ):
        yield server


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(server: Server, seconds: float, disturb: Disturbance) -> Tail:
    with disturb(server):
        latency = bench(server, "rate", "-r", RATE, "-s", seconds, "-t", "Stall")["latency_us"]["send"]
    return latency["p99.9"] / 1000, latency["p99"] / 1000


def row(name: str, quiet: list[Tail], loud: list[Tail]) -> list[str]:
    before, after = sorted(quiet)[len(quiet) // 2], sorted(loud)[len(loud) // 2]
    figures = (before[1], before[0], after[1], after[0])
    return [name, *(f"{value:.2f} ms" for value in figures), f"{after[0] / before[0]:.2f}"]


def in_turn(name: str, server: Server, seconds: float, disturb: Disturbance, quiet: Server | None = None) -> list[str]:
    """Rounds of a quiet and a disturbed run; `quiet` is another server for the quiet ones."""
    before, after = [], []
    for _ in range(ROUNDS):
        before.append(measure(quiet or server, seconds, nothing))
        after.append(measure(server, seconds, disturb))
    return row(name, before, after)


def nothing(_server: Server) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=8.0, help="of each run")
    seconds = parser.parse_args().seconds
    rows = []
    with serving() as server:
        rows.append(in_turn("nothing (how far quiet runs differ)", server, seconds, nothing))
        rows.append(
            in_turn(
                "another program writes and syncs files of 256 MiB", server, seconds,
                lambda one: beside(__file__, "write", str(one.data)),
            )
        )  # fmt: skip
        wire = Wire(server.broker)
        for first in range(0, MANY, 1000):
            create(wire, [f"many-{number:05d}" for number in range(first, first + 1000)])
        rows.append(
            in_turn(
                f"a client lists {MANY:,} topics in a loop", server, seconds,
                lambda one: beside(__file__, "list", one.broker),
            )
        )  # fmt: skip
        rows.append(
            in_turn(
                f"a client makes topics in a loop, {MANY:,} are there", server, seconds,
                lambda one: beside(__file__, "make", one.broker),
            )
        )  # fmt: skip
    with serving() as plain, serving_on_slow_disk() as slow:
        rows.append(
            in_turn("every flush of the log takes a second longer (quiet: a server on the same disk without that)",
                    slow, seconds, nothing, plain)
        )  # fmt: skip
    # 1 KiB at 20,000/s: a segment of 64 MiB lasts 2.5 s; the ratio is below what the disk has, so each is deleted soon
    rolls = {"mappedFileSizeCommitLog": str(64 << 20), "diskMaxUsedSpaceRatio": "10", "cleanResourceInterval": "1000"}
    with serving() as plain, serving(rolls) as rolling:
        rows.append(
            in_turn(
                "a new segment every 2.5 s and old ones deleted (quiet: a server with 1 GiB segments)",
                rolling, seconds, nothing, plain,
            )
        )  # fmt: skip
    print(table(["while", "quiet p99", "quiet p99.9", "disturbed p99", "disturbed p99.9", "ratio of p99.9"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["slow-disk"]:
        sys.exit(serve_on_slow_disk(sys.argv[2:]))
    if sys.argv[1:2] and sys.argv[1] in DISTURBERS:
        with contextlib.suppress(EOFError, OSError):
            DISTURBERS[sys.argv[1]](sys.argv[2])
    else:
        main()
