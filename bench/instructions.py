"""Instructions of the hot functions, counted by callgrind: a guard against slow code that no noise can move.

    python bench/instructions.py             count and compare with bench/instructions.json; exit code 1 if one is off
    python bench/instructions.py --update    count and write that file

A driver without threads puts frames into a socket pair and calls `Reactor.turn`; callgrind counts what the reactor and
the store execute inside `run_turn`, their calls into libc included, the kernel not. Counts depend on the compiler and
on Cython, so they are compared only where these are the ones of the file. Needs valgrind; PYTHONPATH=src.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import Cython

from fastmq._reactor import Reactor
from fastmq._store import Store
from fastmq.protocol.command import Command, encode_frame

HERE = Path(__file__).resolve().parent
EXPECTED = HERE / "instructions.json"
TOLERANCE_PERCENT = 5.0
LOOSE = {"frame for the cold road": 25.0}
"""Where malloc is much of it, whose way through a heap depends on what was there before."""
ROUNDS = 20
"""Turns of each load that are counted, after as many that are not."""


# --- inside valgrind --------------------------------------------------------------------------------------------------


class Driver:
    """A store, a reactor and one connection; everything happens in `turn`."""

    def __init__(self, folder: str) -> None:
        self.store = Store(folder, store_host=("127.0.0.1", 10911))
        self.store.set_topic("plain", perm=6, read_queues=4, write_queues=4, flags=1)
        self.store.set_topic("cold", perm=6, read_queues=4, write_queues=4, flags=0)
        self.reactor = Reactor(self.store)
        self.reactor.set_send_policy(
            enabled=True, service=0, region="DefaultRegion", cluster="DefaultCluster", trace_on=True,
            max_message_bytes=4 << 20, failures={},
        )  # fmt: skip
        self.ours, theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        theirs.setblocking(False)
        self.ours.setblocking(False)
        self.reactor.add(theirs.detach(), 0)

    def run(self, data: bytes) -> None:
        """One turn over these frames."""
        self.ours.sendall(data)
        self.reactor.turn(0)
        for connection, _, frame, _ in self.reactor.take_cold():
            self.reactor.cold_done(connection, 310 if b'"code":310' in (frame or b"") else 0)
        while True:
            try:
                self.ours.recv(1 << 20)
            except BlockingIOError:
                return

    def grant(self) -> None:
        self.reactor.grant_pulls(
            "cg", "plain", queues=4, subscription="*", lite=True, sub_version=0, tag_codes=None, max_messages=32,
            max_bytes=1 << 20, suspend_ms=-1, group_sys_flag=0, topic_sys_flag=0, offsets=[(0, 0)],
        )  # fmt: skip


def send_frame(
    number: int,
    *,
    topic: str = "plain",
    serialize: int = 0,
    body: bytes = bytes(128),
    code: int = 310,
    group: str = "ProducerGroup",
) -> bytes:
    """A send as the Java client makes it."""
    ext = {
        "a": group, "b": topic, "c": "TBW102", "d": "4", "e": str(number % 4), "f": "0", "g": "1700000000123",
        "h": "0",
        "i": f"KEYS\x01order-{number:06}\x02UNIQ_KEY\x01FA57BEEF{number:024}\x02WAIT\x01true\x02TAGS\x01TagA\x02",
        "j": "0", "k": "false", "m": "true" if code == 320 else "false", "n": "broker-a",
    }  # fmt: skip
    command = Command(code, opaque=100_000 + number, ext=ext, body=body)
    command.serialize = serialize
    return encode_frame(command)


def batch_body(messages: int) -> bytes:
    properties = b"UNIQ_KEY\x01FA57BEEF000000000000000000000000\x02WAIT\x01true\x02TAGS\x01TagA\x02"
    body = bytes(128)
    size = 22 + len(body) + len(properties)
    head = size.to_bytes(4, "big") + bytes(12) + len(body).to_bytes(4, "big")
    return (head + body + len(properties).to_bytes(2, "big") + properties) * messages


def consumer_frame(code: int, number: int, **more: str) -> bytes:
    """A pull or a request about offsets."""
    ext = {"consumerGroup": "cg", "topic": "plain", "queueId": "0", **more}
    return encode_frame(Command(code, opaque=100_000 + number, ext=ext))


def loads() -> dict[str, tuple[int, bytes]]:
    """Name: (operations, frames of one turn)."""
    pull = {
        "queueOffset": "0", "maxMsgNums": "32", "sysFlag": "5", "commitOffset": "7", "suspendTimeoutMillis": "15000",
        "subscription": "*", "subVersion": "0", "expressionType": "TAG",
    }  # fmt: skip
    return {
        "send, JSON header": (64, b"".join(send_frame(n) for n in range(64))),
        "send, JSON header unlike the last": (
            64,
            b"".join(send_frame(n, group=f"Producers{n % 2}") for n in range(64)),
        ),
        "send, ROCKETMQ header": (64, b"".join(send_frame(n, serialize=1) for n in range(64))),
        "send of 1 KiB": (64, b"".join(send_frame(n, body=bytes(1024)) for n in range(64))),
        "one send a turn": (1, send_frame(1)),
        "a message of a batch of 32": (128, b"".join(send_frame(n, body=batch_body(32), code=320) for n in range(4))),
        "send for the cold road": (1, send_frame(1, topic="cold")),
        "pull of 32": (8, b"".join(consumer_frame(11, n, **pull) for n in range(8))),
        "offset commit": (64, b"".join(consumer_frame(15, n, commitOffset=str(n)) for n in range(64))),
        "offset query": (64, b"".join(consumer_frame(14, n) for n in range(64))),
        "frame for the cold road": (64, b"".join(consumer_frame(31, n) for n in range(64))),
        "an empty turn": (1, b""),
    }


def drive(folder: str) -> None:
    """Each load twice over: the first half warms up. `statistics` tells callgrind where a part ends."""
    driver = Driver(folder)
    for number in range(4):
        driver.run(b"".join(send_frame(n) for n in range(64 * number, 64 * number + 64)))
    driver.grant()
    for _, frames in loads().values():
        for _ in range(2):
            for _ in range(ROUNDS):
                driver.run(frames)
            driver.reactor.statistics()
    found = driver.reactor.statistics()
    expected = {"hot_sends": 256 + 2 * ROUNDS * 261, "hot_pulls": 2 * ROUNDS * 8, "hot_queries": 2 * ROUNDS * 64}
    assert {name: found[name] for name in expected} == expected, found
    driver.reactor.close()
    driver.store.close()


# --- around it --------------------------------------------------------------------------------------------------------


def toolchain() -> dict[str, str]:
    """What the counts depend on."""
    compiler = os.environ.get("CC", "cc")
    version = subprocess.run([compiler, "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    return {"machine": platform.machine(), "compiler": version, "cython": Cython.__version__}


PARTS = {
    "send, JSON header": {"its append": "_store_turn_put"},
    "send, JSON header unlike the last": {"its header": "_reactor_read_json_header"},
    "pull of 32": {"its read": "_store_read_by_rules"},
}
"""Functions of which a load is counted, too."""


def inclusive(path: Path) -> dict[str, int]:
    """Instructions inside each of our functions and whatever they call."""
    command = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", str(path)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, int] = {}
    for number, name in re.findall(r"^ *([\d,]+) \([^)]*\) +\S+:__pyx_f_6fastmq_\d(\w+)", table, re.MULTILINE):
        found[name] = max(found.get(name, 0), int(number.replace(",", "")))
    return found


def count() -> dict[str, int]:
    """Instructions of one operation of each load."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [
            "valgrind", "--tool=callgrind", "--dump-before=*Reactor_*statistics*", f"--callgrind-out-file={out}",
            sys.executable, __file__, "--drive", str(Path(folder) / "store"),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"the driver failed:\n{done.stdout}{done.stderr}")
        counts = {}
        for number, (name, (operations, _)) in enumerate(loads().items()):
            found = inclusive(Path(f"{out}.{2 * number + 2}"))
            for part, function in {name: "_reactor_run_turn", **PARTS.get(name, {})}.items():
                counts[part] = round(found[function] / (ROUNDS * operations))
        return counts


def compare(counts: dict[str, int], expected: dict[str, int], show: Callable[[str], Any] = print) -> bool:
    """Whether all are within the tolerance; a table of them."""
    good = True
    show(f"{'instructions of':<28} {'expected':>9} {'now':>9}")
    for name, now in counts.items():
        before = expected.get(name)
        if before is None:
            show(f"{name:<28} {'-':>9} {now:>9}")
            good = False
            continue
        percent = 100.0 * (now - before) / before
        off = abs(percent) > LOOSE.get(name, TOLERANCE_PERCENT)
        good = good and not off
        show(f"{name:<28} {before:>9} {now:>9} {percent:>+7.1f} %{'  OFF' if off else ''}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="instructions of the hot functions")
    parser.add_argument("--update", action="store_true", help="write bench/instructions.json")
    parser.add_argument("--drive", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        drive(arguments.drive)
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed: nothing was counted", file=sys.stderr)
        return 2
    counts = count()
    tools = toolchain()
    if arguments.update:
        EXPECTED.write_text(json.dumps({"toolchain": tools, "instructions": counts}, indent=2) + "\n")
        compare(counts, counts)
        return 0
    expected = json.loads(EXPECTED.read_text())
    good = compare(counts, expected["instructions"])
    if expected["toolchain"] != tools:
        print(f"not compared: the counts are of {expected['toolchain']}, this is {tools}")
        return 0
    if not good:
        print("a change on purpose: python bench/instructions.py --update", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
