"""Timer messages of one broker are delivered by the other: fastmq and Apache RocketMQ 5.3.3 take turns on one store."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.servers import ApachePeer, FastmqServer, Server
from support.timers import Timers
from support.waiting import wait_until

pytestmark = pytest.mark.apache

FILES = {"mappedFileSizeCommitLog": "1048576", "mappedFileSizeTimerLog": str(52 * 10 + 16)}


def take_turns(first: Server, second: Server, third: Server) -> None:
    timers = Timers()
    servers = (first, second, third)
    try:
        first.start()
        timers.send(first, [1])
        timers.send(first, [14_000 + number * 450 for number in range(50)])
        timers.send_and_take_back(first, 20_000)
        first.stop()
        second.take_over(first)
        second.start()
        timers.send(second, [18_000 + number * 210 for number in range(20)])
        timers.send_and_take_back(second, 21_000)
        timers.wait(timers.due[b"timer 20"])
        second.stop()
        third.take_over(second)
        third.start()
        timers.wait(max(timers.due.values()) + 3000)
        wanted = set(timers.due) - timers.taken_back
        wait_until(lambda: set(timers.came(third)) >= wanted, "every message comes")
        came = timers.came(third)
        assert set(came) == wanted
        # those of the second that was being delivered when the store changed hands, each time
        seconds = {timers.due[body] // 1000 for body, times in came.items() if times > 1}
        assert len(seconds) <= 4, seconds
    finally:
        for server in servers:
            if server.processes:
                server.discard()


def test_fastmq_to_apache_and_back(tmp_path: Path) -> None:
    first, last = (FastmqServer(tmp_path / name, FILES) for name in "ac")
    take_turns(first, ApachePeer(tmp_path / "b", FILES), last)


def test_apache_to_fastmq_and_back(tmp_path: Path) -> None:
    first, last = (ApachePeer(tmp_path / name, FILES) for name in "ac")
    take_turns(first, FastmqServer(tmp_path / "b", FILES), last)
