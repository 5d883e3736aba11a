"""What a message costs as work grows: queues, connections, length of the log, idle connections, messages stored.

PYTHONPATH=src python bench/scaling.py [--seconds S] [--log-gb N] [--plot FILE.html] [PART ...]

Parts: queues, connections, together, log, idle, stored; all by default. Figures of one part are taken in turn, round by
round, on one server, and the medians are shown with their distance from the best. `together` has the floor (floor.c)
beside it: with fewer requests on each connection, each costs more system calls, whatever serves them.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import math
import resource
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from compare_floor import floor
from rig import ROOT, SETTLED, bench, bench_at, memory_kib, serving, settle, table

from support.servers import Server
from support.waiting import wait_until

ROUNDS = 3
CONNECTIONS = (1, 100, 5000)
DEPTH = 16
TOGETHER = 5000
IDLE = 5000
STORED = 10_000_000

Points = list[tuple[float, float]]


def in_rounds(runs: dict[float, Callable[[], float]]) -> Points:
    """The median of each run, taken in turn."""
    found: dict[float, list[float]] = {size: [] for size in runs}
    for _ in range(ROUNDS):
        for size, run in runs.items():
            found[size].append(run())
    return [(size, statistics.median(rates)) for size, rates in found.items()]


def show(what: str, unit: str, points: Points) -> str:
    best = max(rate for _, rate in points)
    rows = [
        [f"{size:,.0f}" if size >= 1 else f"{size:g}", f"{rate:,.0f}", f"{rate / best:.2f}"] for size, rate in points
    ]
    return f"\n{what}\n\n" + table([unit, "msg/s", "of the best"], rows)


def queues(server: Server, seconds: float) -> Points:
    """Sends over so many queues: topics of at most 1,000."""

    def run(count: int) -> float:
        topics, each = max(1, count // 1000), min(count, 1000)
        shape = ("-c", 8, "-d", 64, "--topics", topics, "-q", each, "-t", f"Queues{count}")
        return float(bench(server, "send", *shape, "-s", seconds)["rates"]["sent"])

    return in_rounds({count: lambda count=count: run(count) for count in (1, 100, 10_000)})  # type: ignore[misc]


def connections(server: Server, seconds: float) -> Points:
    """So many connections with the same number in flight on each."""

    def run(count: int) -> float:
        shape = ("-c", count, "-d", DEPTH, "-t", "Connections")
        return float(bench(server, "send", *shape, "-s", seconds)["rates"]["sent"])

    return in_rounds({count: lambda count=count: run(count) for count in CONNECTIONS})  # type: ignore[misc]


def together(server: Server, seconds: float) -> str:
    """The same number in flight over so many connections, here and at the floor."""
    allow_files(TOGETHER + 500)

    def run(where: Sequence[str], count: int) -> float:
        shape = ("-c", count, "-d", TOGETHER // count, "-t", "Together", "-s", seconds)
        return float(bench_at(where, "send", *shape)["rates"]["sent"])

    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "floor")
        subprocess.run(["cc", "-O2", "-o", program, ROOT / "bench" / "floor.c"], check=True)
        with floor(program, False) as address:
            ours, theirs = ["-n", server.namesrv], ["--broker", address]
            both = [(where, count) for count in CONNECTIONS for where in (ours, theirs)]
            rates = in_rounds({i: lambda at=at: run(*at) for i, at in enumerate(both)})  # type: ignore[misc]
    found = [rate for _, rate in rates]
    best = max(found[::2]), max(found[1::2])
    rows = [
        [f"{count:,}", f"{a:,.0f}", f"{a / best[0]:.2f}", f"{b:,.0f}", f"{b / best[1]:.2f}", f"{a / b:.2f}"]
        for count, a, b in zip(CONNECTIONS, found[::2], found[1::2], strict=True)
    ]
    head = ["connections", "msg/s", "of the best", "floor, msg/s", "of its best", "fastmq / floor"]
    return f"\nconnections, {TOGETHER:,} in flight altogether\n\n" + table(head, rows)


def allow_files(wanted: int) -> None:
    """Raise the soft limit of open files, also for the programs started from here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, wanted)), hard))


def log_length(server: Server, short: Server, seconds: float, gigabytes: float) -> list[tuple[float, float, float]]:
    """Sends while the log grows: its length (1 MB, 1 GB, ..., in MB), the rate, and that of a server with a short log.

    What the machine does meanwhile happens to both. New memory is met only by the log that grows.
    """
    points = []
    for wanted in (1e6, 1e9, *(step * 1e9 for step in (5, 10, 20) if step <= gigabytes)):
        have = size_of(server)
        if wanted > have:
            count = int((wanted - have) / 1250)
            bench(server, "send", "-c", 8, "-d", 64, "-t", "Log", "--count", max(1, count), "--warm-up", 0)
        rates: dict[Server, list[float]] = {server: [], short: []}
        for _ in range(ROUNDS):
            for one, found in rates.items():
                run = bench(one, "send", "-c", 8, "-d", 64, "-t", "Log", "-s", seconds)
                found.append(float(run["rates"]["sent"]))
        points.append((wanted / 1e6, *(statistics.median(found) for found in rates.values())))
    return points


def size_of(server: Server) -> int:
    return sum(path.stat().st_blocks * 512 for path in Path(server.store, "commitlog").glob("*"))


def idle(server: Server) -> float:
    """KiB of the server's memory for each of so many connections that do nothing."""
    allow_files(IDLE + 500)
    host, _, port = server.broker.rpartition(":")
    (process,) = server.processes
    files = Path(f"/proc/{process.pid}/fd")
    before = memory_kib(server)
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection((host, int(port))))
        wait_until(lambda: len(list(files.iterdir())) >= IDLE, "all connections are accepted", 30)
        time.sleep(1)
        return (memory_kib(server) - before) / IDLE


def chart(title: str, points: Points) -> str:
    """Rate against size on a logarithmic scale, as SVG."""
    width, height, left, bottom = 640, 240, 90, 40
    best = max(rate for _, rate in points)
    low, high = math.log10(points[0][0]), math.log10(points[-1][0])
    places = [
        (
            left + (math.log10(size) - low) / (high - low or 1) * (width - left - 20),
            (height - bottom) * (1 - rate / best) + 10,
        )
        for size, rate in points
    ]
    marks = "".join(
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="4"/>'
        f'<text x="{x:.0f}" y="{height - 12}" text-anchor="middle">{size:,.0f}</text>'
        for (x, y), (size, _) in zip(places, points, strict=True)
    )
    line = " ".join(f"{x:.0f},{y:.0f}" for x, y in places)
    return (
        f'<h2>{html.escape(title)}</h2><svg width="{width}" height="{height}"><polyline points="{line}" fill="none" '
        f'stroke="#1f6feb" stroke-width="2"/>{marks}<text x="0" y="16">{best:,.0f}/s</text>'
        f'<text x="0" y="{height - bottom + 10}">0</text></svg>'
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--log-gb", type=float, default=20.0)
    parser.add_argument("--plot", metavar="FILE")
    parser.add_argument("parts", nargs="*", default=["queues", "connections", "together", "log", "idle", "stored"])
    options = parser.parse_args(words)
    charts = []
    for part in options.parts:
        with serving(SETTLED if part in ("queues", "connections", "together") else None) as server:
            if part == "idle":
                print(f"\nmemory per idle connection ({IDLE:,} of them): {idle(server):.1f} KiB", flush=True)
                continue
            if part == "stored":
                before = memory_kib(server)
                bench(server, "send", "-c", 8, "-d", 64, "-b", 128, "--count", STORED, "--warm-up", 0)
                after = memory_kib(server)
                grown = f"{before / 1024:.0f} MiB at the start, {after / 1024:.0f} MiB after {STORED:,} messages"
                print(f"\nanonymous memory: {grown}", flush=True)
                continue
            bench(server, "send", "-c", 8, "-d", 64, "-s", options.seconds)
            if part == "together":
                print(together(server, options.seconds), flush=True)
                continue
            if part == "queues":
                title, unit, points = "queues sent to, 8 x 64 in flight", "queues", queues(server, options.seconds)
            elif part == "connections":
                title, unit = f"connections, {DEPTH} in flight on each", "connections"
                points = connections(server, options.seconds)
            else:
                title, unit = "length of the log, 8 x 64 in flight", "MB"
                with serving(SETTLED) as short:
                    settle(short)
                    pairs = log_length(server, short, options.seconds, options.log_gb)
                points = [(size, rate) for size, rate, _ in pairs]
                rows = [
                    [f"{size:,.0f}", f"{rate:,.0f}", f"{other:,.0f}", f"{rate / other:.2f}"]
                    for size, rate, other in pairs
                ]
                print("\n" + table(["MB", "msg/s", "with a short log, in turn", "ratio"], rows), flush=True)
        print(show(title, unit, points), flush=True)
        charts.append(chart(f"{title}: messages a second by {unit}", points))
    if options.plot:
        Path(options.plot).write_text(f'<!DOCTYPE html><meta charset="utf-8"><title>fastmq</title>{"".join(charts)}\n')


if __name__ == "__main__":
    main()
