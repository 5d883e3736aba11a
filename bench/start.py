"""From the start of `fastmq serve` to the first acknowledged send, and what the idle process then takes.

PYTHONPATH=src python bench/start.py [RUNS]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastmq.client.basic import BasicClient, ServerError

NAMESRV_PORT = 19876
LISTEN_PORT = 18911


def one_run(folder: str) -> tuple[float, int, int]:
    """(ms to the first acknowledged send, resident KiB, KiB of disk)."""
    command = [sys.executable, "-m", "fastmq", "serve", "--data", folder]
    command += ["--namesrv-port", str(NAMESRV_PORT), "--listen-port", str(LISTEN_PORT)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with BasicClient(f"127.0.0.1:{NAMESRV_PORT}") as client:
                    client.send("T", b"first")
                break
            except (OSError, ServerError):
                time.sleep(0.001)
        took_ms = (time.perf_counter() - begin) * 1000
        status = Path(f"/proc/{process.pid}/status").read_text()
        resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
        disk = sum(path.stat().st_blocks for path in Path(folder).rglob("*") if path.is_file()) // 2
        return took_ms, resident, disk
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=int, default=9)
    runs = parser.parse_args().runs
    results = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            results.append(one_run(folder))
    times = sorted(took for took, _, _ in results)
    median = statistics.median(times)
    print(f"start to first acknowledged send: median {median:.0f} ms ({times[0]:.0f} .. {times[-1]:.0f})")
    print(f"resident memory: {max(resident for _, resident, _ in results) / 1024:.0f} MB")
    print(f"disk: {max(disk for _, _, disk in results) / 1024:.0f} MB")


if __name__ == "__main__":
    main()
