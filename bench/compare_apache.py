"""fastmq against a real Apache RocketMQ 5.3.3, both started here, rounds interleaved: `make bench-compare`.

PYTHONPATH=src python bench/compare_apache.py [--rounds N] [--seconds S] [NAME ...]

Needs a JDK and Maven; Apache comes from its published jars, 4 GiB heap. Names: see LOADS; all by default.

Both servers have the same settings, delete what is behind the last segment of their logs (SETTLED), and are warmed up:
the JVM compiles, and each has the memory that it goes round in. Without that the logs of all rounds pile up in the page
cache, and a virtual machine gives out memory that it has not had before ten times more slowly than other memory: such a
run measures the host, see RESULTS.md. "new memory" says before each measure how fast that is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

from rig import SETTLED, bench, environment, new_memory, serving, settle, table

LOADS = {
    "8x64": ("8 x 64, 1 KiB", ("send", "-c", "8", "-d", "64")),
    "100x1": ("100 x 1, 1 KiB", ("send", "-c", "100", "-d", "1")),
    "128B": ("8 x 64, 128 B", ("send", "-c", "8", "-d", "64", "-b", "128")),
    "1x1": ("1 x 1, 1 KiB", ("send", "-c", "1", "-d", "1")),
    "batch": ("8 x 4 batches of 32, 1 KiB", ("send", "-m", "batch", "--batch", "32", "-c", "8", "-d", "4")),
    "pull": ("pull of 500,000, 32 a pull, 8 connections", ("pull", "-t", "Backlog")),
    "rate": ("20,000/s open loop", ("rate", "-r", "20000")),
    "consume": ("send to receipt, 5,000/s", ("consume", "-r", "5000")),
    "sync-100x1": ("SYNC_FLUSH, 100 x 1, 1 KiB", ("send", "-c", "100", "-d", "1")),
    "sync-8x64": ("SYNC_FLUSH, 8 x 64, 1 KiB", ("send", "-c", "8", "-d", "64")),
}

BACKLOG = ("send", "-c", 8, "-d", 64, "-t", "Backlog", "--count", 500_000, "--warm-up", 0)


def compared(names: tuple[str, str], options: argparse.Namespace, load: tuple[str, ...]) -> list[list[str]]:
    """Rows of metric, medians, ratio and its spread."""
    words = [*load] if load[0] == "pull" else [*load, "-s", str(options.seconds)]
    command = [
        sys.executable,
        "-m",
        "fastmq",
        "bench",
        "compare",
        "--rounds",
        str(options.rounds),
        "--json",
        *names,
        *words,
    ]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{load}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    rows = []
    for metric, one in json.loads(done.stdout)["metrics"].items():
        low, high = one["paired_ratios"]
        medians = [f"{statistics.median(one[side]):,.1f}" for side in ("a", "b")]
        rows.append([metric, *medians, f"{one['ratio_of_medians']:.3f}", f"{low:.3f} .. {high:.3f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--warm-up", type=float, default=8.0, metavar="SECONDS", help="of sends to each server")
    parser.add_argument("names", nargs="*", default=list(LOADS))
    options = parser.parse_args()
    rows = []
    groups: tuple[tuple[list[str], dict[str, str]], ...] = (
        ([name for name in options.names if name != "pull" and not name.startswith("sync-")], SETTLED),
        ([name for name in options.names if name == "pull"], {}),  # its backlog stays
        ([name for name in options.names if name.startswith("sync-")], {**SETTLED, "flushDiskType": "SYNC_FLUSH"}),
    )
    for wanted, settings in groups:
        if not wanted:
            continue
        with serving(settings) as fastmq, serving(settings, apache=True) as apache:
            for server in (apache, fastmq):
                bench(server, "send", "-c", 8, "-d", 64, "-s", options.warm_up)
                if "pull" in wanted:
                    bench(server, *BACKLOG)
            if "fileReservedTime" in settings:
                for server in (fastmq, apache):
                    settle(server)
            for name in wanted:
                title, load = LOADS[name]
                speed = f"{new_memory():.2f} GB/s"
                for row in compared((fastmq.namesrv, apache.namesrv), options, load):
                    print(title, *row, speed, sep="  ", file=sys.stderr)
                    rows.append([title, *row, speed])
    head = ["load", "measure", "fastmq", "Apache RocketMQ", "ratio of medians", "pairs from .. to", "new memory"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
