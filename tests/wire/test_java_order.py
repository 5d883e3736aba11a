"""Orderly consumers that die: the lock of the dead one expires, then another member goes on; no two work at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from support.java import ScenarioRunner
from support.lines import describe
from support.servers import make_server, roads
from support.toolchains import ToolchainMissing, missing
from support.waiting import wait_until

pytestmark = pytest.mark.java

TOPIC, GROUP = "crash_order", "crash_order_group"
COUNT = 200

# the client renews its locks every 20 s and the broker keeps them for 60 s: here it is all a tenth or less
CLIENT_OPTIONS = (
    "-Drocketmq.client.rebalance.lockInterval=500",
    "-Drocketmq.client.rebalance.lockMaxLiveTime=2000",
    "-Drocketmq.client.rebalance.waitInterval=500",
    "-Drocketmq.client.rebalance.minInterval=200",
)
SETTINGS = {"rebalanceLockMaxLiveTime": "4000"}


@dataclass(frozen=True)
class Step:
    """A line of the journal."""

    member: str
    step: str
    body: str
    ms: int


def read(journal: Path) -> list[Step]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [Step(member, step, body, int(ms)) for member, step, body, ms in (line.split("\t") for line in lines)]


@pytest.mark.parametrize("road", [road for road in roads() if road != "apache"])
def test_a_member_dies(road: str, tmp_path: Path) -> None:
    try:
        members = {
            name: ScenarioRunner("5.3.3", tmp_path / name, CLIENT_OPTIONS, threads=2) for name in ("one", "two", "tool")
        }
    except ToolchainMissing as reason:
        missing(str(reason))
    programs = list(members.values())
    journal = tmp_path / "journal"

    def done() -> set[str]:
        return {step.body for step in read(journal) if step.step == "end"}

    try:
        with make_server(road, tmp_path / "server", SETTINGS) as server:
            tool = members.pop("tool")
            tool.run("create-topic", server, topic=TOPIC, queues=1)
            for name, member in members.items():
                member.run("order-journal", server, topic=TOPIC, group=GROUP, member=name, journal=journal)
            # the group works while it sends: on a busy machine it may be done when the sends are
            sends = {"namesrv": server.namesrv, "topic": TOPIC, "count": COUNT, "prefix": "m"}
            job = tool.begin("send-many", sends)
            wait_until(lambda: len(done()) >= 20, "the group works")
            worker = read(journal)[-1].member
            members[worker].kill()
            assert (outcome := tool.outcome(job, 90))["ok"], describe(outcome)
            wait_until(lambda: len(done()) == COUNT, "the other member does the rest")
    finally:
        for program in programs:
            program.close()
    steps = read(journal)
    assert len({step.member for step in steps}) == 2, "both members worked"
    # a member ends what it has begun before another one begins, except the one that was killed in the middle
    working: Step | None = None
    for step in steps:
        if step.step == "begin":
            assert working is None or working.member == worker, f"{working} is still at work when {step}"
            working = step
        else:
            assert working is not None
            assert (working.member, working.body) == (step.member, step.body)
            working = None
    first = list(dict.fromkeys(step.body for step in steps))
    assert first == [f"m{number}" for number in range(COUNT)], "the order of first deliveries"
