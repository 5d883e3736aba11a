"""fastmq against the floor (bench/floor.c), fresh servers for every round, rounds interleaved: `make bench-floor`.

PYTHONPATH=src python bench/compare_floor.py [--rounds N] [--seconds S] [NAME ...]

Both write into new pages of a new file; what they wrote is deleted after each round and synced away before the next.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rig import ROOT, bench_at, new_memory, serving, table

LOADS: dict[str, tuple[str, tuple[object, ...], bool]] = {
    "8x64": ("8 x 64, 1 KiB", ("send", "-c", 8, "-d", 64), False),
    "128B": ("8 x 64, 128 B", ("send", "-c", 8, "-d", 64, "-b", 128), False),
    "100x1": ("100 x 1, 1 KiB", ("send", "-c", 100, "-d", 1), False),
    "1x1": ("1 x 1, 1 KiB", ("send", "-c", 1, "-d", 1), False),
    "rate": ("20,000/s open loop, 1 KiB", ("rate", "-r", 20_000), False),
    "sync-100x1": ("SYNC_FLUSH, 100 x 1, 1 KiB", ("send", "-c", 100, "-d", 1), True),
    "sync-8x64": ("SYNC_FLUSH, 8 x 64, 1 KiB", ("send", "-c", 8, "-d", 64), True),
}


@contextlib.contextmanager
def floor(program: Path, sync: bool) -> Iterator[str]:
    """The floor on a free port; its address."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("FASTMQ_BENCH_DIR")) as folder:
        command = [str(program), "0", str(Path(folder, "data")), *(["sync"] if sync else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield f"127.0.0.1:{process.stdout.readline().strip()}"
            finally:
                process.kill()


def figures(load: object, found: dict[str, Any]) -> dict[str, float]:
    """Of a run: its rate, or for a fixed rate its latencies in ms."""
    if load == "rate":
        return {name: found["latency_us"]["send"][name] / 1000 for name in ("p99", "p99.9")}
    return {"msg/s": found["rates"]["sent"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("names", nargs="*", default=list(LOADS))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "floor")
        subprocess.run(["cc", "-O2", "-o", program, ROOT / "bench" / "floor.c"], check=True)
        for name in options.names:
            title, load, sync = LOADS[name]
            words = (*load, "-s", options.seconds, "--warm-up", 0.5)
            ours, theirs, memory = [], [], new_memory()
            for _ in range(options.rounds):
                with serving({"flushDiskType": "SYNC_FLUSH" if sync else "ASYNC_FLUSH"}) as server:
                    ours.append(figures(load[0], bench_at(["-n", server.namesrv], *words)))
                with floor(program, sync) as address:
                    theirs.append(figures(load[0], bench_at(["--broker", address], *words)))
            for measure in ours[0]:
                pairs = [(a[measure], b[measure]) for a, b in zip(ours, theirs, strict=True)]
                medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
                ratios = sorted(a / b for a, b in pairs)
                cells = [f"{value:,.0f}" if value > 1000 else f"{value:.2f}" for value in medians]
                spread = f"{ratios[0]:.2f} .. {ratios[-1]:.2f}"
                rows.append([title, measure, *cells, f"{medians[0] / medians[1]:.2f}", spread, f"{memory:.2f} GB/s"])
                print(*rows[-1], sep="  ", flush=True)
    head = ["load", "measure", "fastmq", "floor", "ratio of medians", "pairs from .. to", "new memory"]
    print("\n" + table(head, rows))


if __name__ == "__main__":
    main()
