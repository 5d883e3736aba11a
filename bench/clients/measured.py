"""What the programs beside this file share: arguments, loops over clients that have threads, the result as one line.

Each of them runs one client once, in an environment that has this client: `client_compare.py` starts them. Nothing but
the standard library is imported here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

BATCH = 64  # pipelined sends between two looks at the clock


def arguments(modes: tuple[str, ...]) -> argparse.Namespace:
    """What to do, as the comparing script says it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=modes)
    parser.add_argument("--address", required=True, help="name server, or for gRPC the proxy")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--depth", type=int, default=1024, help="pipelined sends in flight")
    parser.add_argument("--count", type=int, default=0, help="consumers: messages in the topic")
    parser.add_argument("--body", type=int, default=1024)
    return parser.parse_args()


def report(messages: int, seconds: float, cpu: float, failed: int = 0) -> None:
    """The result: messages that succeeded, the time they took, processor time of this process, messages that failed."""
    print(json.dumps({"messages": messages, "seconds": seconds, "cpu": cpu, "failed": failed}), flush=True)


def leave() -> NoReturn:
    """End at once: what is still running in threads of a client is of no interest."""
    sys.stdout.flush()
    os._exit(0)


def one_by_one(send: Callable[[], object], options: argparse.Namespace) -> None:
    """Sends of one thread, each waited for. `send` raises if it failed."""
    for seconds in (options.warm_up, options.seconds):
        sent = 0
        cpu = time.process_time()
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            send()
            sent += 1
        elapsed = time.perf_counter() - begin
    report(sent, elapsed, time.process_time() - cpu)


def pipelined(send: Callable[[Callable[[bool], None]], object], options: argparse.Namespace) -> None:
    """Sends that do not wait for each other, `depth` in flight. `send` is given what its callback has to call."""
    for seconds in (options.warm_up, options.seconds):
        room = threading.Semaphore(options.depth)
        good, bad = itertools.count(), itertools.count()

        def done(
            ok: bool, room: threading.Semaphore = room, good: Any = good, bad: Any = bad
        ) -> None:  # of this round, even if it comes late
            next(good if ok else bad)
            room.release()

        cpu = time.process_time()
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            for _ in range(BATCH):
                room.acquire()
                send(done)
        for _ in range(options.depth):
            if not room.acquire(timeout=30):
                raise SystemExit("sends did not end within 30 s")
        elapsed = time.perf_counter() - begin
        cpu = time.process_time() - cpu
    report(next(good), elapsed, cpu, next(bad))


class Meter:
    """Counts what several threads consume; time begins with the first message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._begin = 0.0
        self._cpu = 0.0

    def add(self, messages: int = 1) -> None:
        """Some messages were consumed."""
        with self._lock:
            if self._begin == 0.0:
                self._begin = time.perf_counter()
                self._cpu = time.process_time()
            self._count += messages

    def wait(self, options: argparse.Namespace) -> None:
        """Report after `count` messages or `seconds`. SystemExit if nothing comes within a minute."""
        started = time.perf_counter()
        while True:
            time.sleep(0.005)
            now = time.perf_counter()
            with self._lock:
                count, begin = self._count, self._begin
            if begin and (count >= options.count or now >= begin + options.seconds):
                return report(count, now - begin, time.process_time() - self._cpu)
            if not begin and now > started + 60:
                raise SystemExit("no message came within a minute")
