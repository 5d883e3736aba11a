"""What a message costs as work grows: queues, connections, length of the log, idle connections, messages stored.

PYTHONPATH=src python bench/scaling.py [--seconds S] [--log-gb N] [--plot FILE.html] [PART ...]

Parts: queues, connections, log, idle, stored; all by default. Figures of one part are taken in turn, round by round, on
one server, and the medians are shown with their distance from the best.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import math
import resource
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rig import SETTLED, bench, memory_kib, serving, table

from support.servers import Server
from support.waiting import wait_until

ROUNDS = 3
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
    """The same number in flight, 5,000, over so many connections."""

    def run(count: int) -> float:
        shape = ("-c", count, "-d", 5000 // count, "-t", "Connections")
        return float(bench(server, "send", *shape, "-s", seconds)["rates"]["sent"])

    return in_rounds({count: lambda count=count: run(count) for count in (1, 100, 5000)})  # type: ignore[misc]


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
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, IDLE + 500)), hard))
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
    parser.add_argument("parts", nargs="*", default=["queues", "connections", "log", "idle", "stored"])
    options = parser.parse_args(words)
    charts = []
    for part in options.parts:
        with serving() as server:
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
            if part == "queues":
                title, unit, points = "queues sent to, 8 x 64 in flight", "queues", queues(server, options.seconds)
            elif part == "connections":
                title, unit = "connections, 5,000 in flight altogether", "connections"
                points = connections(server, options.seconds)
            else:
                title, unit = "length of the log, 8 x 64 in flight", "MB"
                with serving(SETTLED) as short:
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
