"""Sends at a fixed rate while something else goes on: does it stop them?

PYTHONPATH=src python bench/stalls.py [SECONDS]

Each disturbance is measured in turn with quiet runs on the same server; shown are p99 and p99.9 of sends at 20,000/s
(latency from the intended time; the run with the median p99.9) and the ratio of the two p99.9.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from rig import Wire, bench, beside, serving, table

from fastmq.protocol.bodies import TopicConfig, dumps
from fastmq.protocol.codes import RequestCode
from support.servers import Server

RATE = 20_000
ROUNDS = 3
MANY = 20_000
FILE_BYTES = 256 << 20

Disturbance = Callable[[Server], AbstractContextManager[object]]
Tail = tuple[float, float]  # p99.9, p99 in ms


# --- what disturbs, each a process of its own -------------------------------------------------------------------------


def list_topics(broker: str) -> None:
    """A tool that asks for all topics for ever."""
    wire = Wire(broker)
    while True:
        wire.ask(RequestCode.GET_ALL_TOPIC_CONFIG)


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
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 8.0
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
    if sys.argv[1:2] and sys.argv[1] in DISTURBERS:
        with contextlib.suppress(EOFError, OSError):
            DISTURBERS[sys.argv[1]](sys.argv[2])
    else:
        main()
