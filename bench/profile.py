"""Why a figure is what it is: who kept the two cores busy during a load, and with what: `make bench-profile`.

PYTHONPATH=src python bench/profile.py [--seconds S] [NAME ...]

Needs `perf` and the right to profile the kernel (root, or kernel.perf_event_paranoid <= -1). Names: LOADS of
compare_apache.py, all by default. A fresh server for each, warmed up; the load then runs while `perf record` samples
both cores. The figures of these runs are not those of compare_apache.py: watching costs, too. CPU time a message is
from /proc (schedstat), "no core" the time in which a thread could have run but had no core; both are of use on a
busy machine as well.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import signal
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from compare_apache import BACKLOG, LOADS
from rig import SETTLED, bench, new_memory, serving, settle, table

from support.servers import Server

FREQUENCY = 997

# what a sample was for: in the program by the function ...
INNER = (
    ("CRC", r"pclmul|crc32|crc_table"),
    ("headers, properties, answers", r"_reactor_(read|json|span|try_hot|unescape|quick|put_|on_frame)|memmem"),
    ("log, queue bookkeeping", r"_store_(?!index|parse)|finish_batch|release_parked|park|topic_find"),
    ("index", r"_store_index|parse_record|hash_utf8|memchr"),
)  # fmt: skip
# ... in the kernel by the first of these that is in the call chain
KERNEL = (
    (
        "new pages: memory, zeroes",
        r"^(__pi_memset|clear_page|__pi_clear_page|get_page_from_freelist|folio_alloc|__alloc_frozen_pages|"
        r"__filemap_add_folio|filemap_add_folio|try_charge|zero_user)",
    ),
    ("copy to page cache", r"^(copy_folio_from_iter|copy_page_from_iter)"),
    ("rest of write", r"sys_pwrite|sys_write|sys_pwritev"),
    ("receive", r"sys_recv"),
    ("send", r"sys_send"),
    ("poll", r"sys_epoll|sys_ppoll|sys_poll"),
    ("flush", r"sys_fdatasync|sys_fsync|sys_msync|sys_syncfs"),
    ("blocks, pages ahead", r"sys_readahead|readahead|sys_fallocate"),
    ("page faults", r"exc_page_fault"),
    ("wake, wait, locks", r"sys_futex|schedule|sys_nanosleep|sys_eventfd"),
)  # fmt: skip

Times = dict[str, tuple[int, int]]  # by name of thread: ns on a core, ns waiting for one
Chain = list[tuple[str, bool]]  # innermost first: function, whether it is the kernel's


def times(pid: int) -> Times:
    """Of a process's threads; those of one name together."""
    found: defaultdict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            busy, ready, _ = map(int, (task / "schedstat").read_text().split())
            name = (task / "comm").read_text().strip()
            found[name] = (found[name][0] + busy, found[name][1] + ready)
    return found


def kind(chain: Chain) -> str:
    """What a sample was for."""
    name, kernel = chain[0]
    if kernel:
        for what, pattern in KERNEL:
            if any(inside and re.search(pattern, function) for function, inside in chain):
                return what
        return "other kernel"
    for what, pattern in INNER:
        if re.search(pattern, name):
            return what
    return "copies" if "mem" in name else "other"


def samples(data: Path) -> Iterator[tuple[int, str, Chain, bool]]:
    """Process, thread's name, call chain, whether it is the load's loop."""
    command = ["perf", "script", "-i", str(data), "-F", "comm,pid,ip,sym,dso"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for block in text.split("\n\n"):
        lines = block.strip("\n").split("\n")
        if len(lines) < 2:
            continue
        name, _, pid = lines[0].strip().rpartition(" ")
        chain = []
        for line in lines[1:]:
            function, _, where = line.strip().partition(" ")[2].rpartition(" (")
            chain.append((function.strip(), "kernel" in where))
        yield int(pid), name.strip(), chain, any("_load." in line for line in lines)


def profiled(server: Server, load: tuple[str, ...], seconds: float) -> tuple[str, list[list[str]], list[list[str]]]:
    """A headline, rows about who was busy, rows about what with."""
    (process,) = server.processes
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "perf")
        speed = new_memory()
        perf = subprocess.Popen(
            ["perf", "record", "-q", "-a", "-g", "-F", str(FREQUENCY), "-o", str(data)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before = times(process.pid)
        run = bench(server, *load, *(() if load[0] == "pull" else ("-s", seconds, "--warm-up", 0)))
        after = times(process.pid)
        perf.send_signal(signal.SIGINT)
        perf.wait()
        taken = list(samples(data))
    loads = {pid for pid, _, _, of_load in taken if of_load}
    who: Counter[str] = Counter()
    what: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for pid, thread, chain, _ in taken:
        name = thread
        if pid in loads:
            name = "load"
        elif pid == 0:
            name = "idle"
        elif pid != process.pid:
            name = "disk and other kernel threads" if all(inside for _, inside in chain) else "other programs"
        who[name] += 1
        what[name][kind(chain)] += 1
    done = run["done"] or run["received"]
    rates = ", ".join(f"{value:,.0f} {key}/s" for key, value in run["rates"].items())
    latencies = "; ".join(f"{key} p99 {one['p99']:,.0f} us" for key, one in run["latency_us"].items())
    headline = f"{rates}; {latencies}; new memory {speed:.2f} GB/s before it"
    busy = []
    for name, count in who.most_common():
        if name in after:
            on, off = (now - then for now, then in zip(after[name], before.get(name, (0, 0)), strict=True))
            busy.append([name, f"{2 * count / len(taken):.2f}", f"{on / done:,.0f}", f"{off / done:,.0f}"])
        elif count * 100 >= len(taken):
            busy.append([name, f"{2 * count / len(taken):.2f}", "", ""])
    shown = [name for name in ("fastmq-reactor", "fastmq-alloc", "fastmq-flush", "fastmq-index", "load") if what[name]]
    kinds = sum((what[name] for name in shown), Counter())
    rows = [
        [one, *(f"{100 * what[name][one] / what[name].total():.0f} %" for name in shown)]
        for one, _ in kinds.most_common() if any(what[name][one] * 100 >= what[name].total() for name in shown)
    ]  # fmt: skip
    return headline, busy, [["", *shown], *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("names", nargs="*", default=list(LOADS))
    options = parser.parse_args()
    for name in options.names:
        title, load = LOADS[name]
        kept = {} if name == "pull" else SETTLED
        with serving({**kept, "flushDiskType": "SYNC_FLUSH" if name.startswith("sync-") else "ASYNC_FLUSH"}) as server:
            bench(server, "send", "-c", 8, "-d", 64, "-s", 3)
            if name == "pull":
                bench(server, *BACKLOG)
            else:
                settle(server)
            headline, busy, rows = profiled(server, load, options.seconds)
        print(f"\n### {title}\n\n{headline}\n")
        print(table(["thread", "cores", "CPU ns a message", "no core, ns a message"], busy))
        print(f"\nits time, by what for\n\n{table(rows[0], rows[1:])}", flush=True)


if __name__ == "__main__":
    main()
