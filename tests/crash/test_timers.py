"""SIGKILL while timer messages wait and come: none is lost, none early, none that was taken back."""

from __future__ import annotations

import random
from pathlib import Path

from support.servers import FastmqServer
from support.timers import Timers
from support.waiting import wait_until

ROUNDS = 5
MESSAGES = 80


def test_killed_while_timers_wait_and_come(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    server = FastmqServer(tmp_path, {"mappedFileSizeTimerLog": str(52 * 40 + 16), "timerFlushIntervalMs": "300"})
    timers = Timers()
    server.start()
    try:
        for _ in range(ROUNDS):
            timers.send(server, [rng.randrange(200, 6000) for _ in range(MESSAGES)])
            timers.send_and_take_back(server, 3000)
            timers.wait(list(timers.due.values())[-1] - rng.randrange(1500, 3500))
            server.kill()
            server.start()
        wanted = set(timers.due) - timers.taken_back
        wait_until(lambda: set(timers.came(server)) == wanted, f"every message comes (seed {seed})")
    finally:
        if server.processes:
            server.stop()
