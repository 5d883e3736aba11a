"""A store changes hands: fastmq writes it, Apache RocketMQ 5.3.3 serves and extends it, fastmq gets it back, and the
reverse. The judge is Apache's own client, which must read the same from both, message by message.

With FASTMQ_TEST_TARGET=apache a second Apache plays fastmq's part, to try the test itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.java import ScenarioRunner
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing
from support.waiting import wait_until

pytestmark = pytest.mark.apache

# several commit log segments, consume queue files and index files within a few megabytes
SMALL_FILES = {
    "mappedFileSizeCommitLog": "1048576",
    "mappedFileSizeConsumeQueue": "2000",
    "maxHashSlotNum": "500",
    "maxIndexNum": "600",
}
DEFAULT_FILES: dict[str, str] = {}

QUEUED = "store_queued"
BULKY = "store_bulky"
DELAYED = "store_delayed"
CUT = "store_cut"
GROUP = "store_group"
FIRST = 400
BULKS = 150
MORE = 60


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenarioRunner]:
    try:
        apache_class_path()
        runner = ScenarioRunner("5.3.3", tmp_path_factory.mktemp("client"))
    except ToolchainMissing as reason:
        missing(str(reason))
    yield runner
    runner.close()


def fastmq(data: Path, settings: Mapping[str, str]) -> Server:
    if os.environ.get("FASTMQ_TEST_TARGET") == "apache":
        return ApachePeer(data, settings)
    return FastmqServer(data, settings)


def apache(data: Path, settings: Mapping[str, str]) -> Server:
    return ApachePeer(data, settings)


class Judge:
    """Writes through a client and compares what it reads with what it read before."""

    def __init__(self, client: ScenarioRunner) -> None:
        self.client = client
        self.times: list[int] = []
        self.group_at: dict[int, int] = {}

    def fill(self, server: Server) -> None:
        """The first owner: two topics, keys, tags, delayed messages, a group that is half way through."""
        for topic, queues in ((QUEUED, 3), (BULKY, 2), (DELAYED, 1)):
            self.client.run("create-topic", server, topic=topic, queues=queues)
        self.client.run("send-many", server, topic=DELAYED, count=2, prefix="late", delay=1)
        self.client.run("send-many", server, topic=QUEUED, count=FIRST // 2, prefix="q", size=300)
        self.client.run("consume", server, topic=QUEUED, group=GROUP, count=FIRST // 2)
        self.client.run(
            "send-many", server, topic=QUEUED, count=FIRST // 2, **{"from": FIRST // 2}, prefix="q", size=300
        )
        self.client.run("send-many", server, topic=BULKY, count=BULKS, prefix="b", size=20_000)
        wait_until(lambda: len(self.read(server, DELAYED)) == 2, "the delayed messages are delivered")
        stored = sorted(row["store_time"] for row in self.read(server, QUEUED))
        self.times = [stored[0] - 1000, stored[0], stored[len(stored) // 2], stored[-1], stored[-1] + 1_000_000]

    def extend(self, server: Server, start: int) -> None:
        """A later owner: more messages in the same queues, and one in a topic of its own."""
        rows = self.client.run("send-many", server, topic=QUEUED, count=MORE, **{"from": start}, prefix="q", size=300)
        assert len(rows["sent"]) == MORE
        self.client.run("create-topic", server, topic=f"store_made_at_{start}", queues=1)
        self.client.run("send-many", server, topic=f"store_made_at_{start}", count=1, prefix="own")

    def read(self, server: Server, topic: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.client.run("read-all", server, topic=topic)["messages"]
        for row in rows:
            for key in ("MIN_OFFSET", "MAX_OFFSET"):  # put there by the client, from the pull result
                row["properties"].pop(key, None)
        return sorted(rows, key=lambda row: (row["queue"], row["offset"]))

    def snapshot(self, server: Server, topics: list[str], messages: int) -> dict[str, Any]:
        """What a server says about the store, as one comparable value."""
        keys = [f"q{i}" for i in range(0, messages, 37)] + [f"q{messages - 1}"]

        def all_found() -> dict[str, list[str]] | None:
            found: dict[str, list[str]] = self.client.run("query-keys", server, topic=QUEUED, keys=",".join(keys))[
                "found"
            ]
            return found if all(len(bodies) == 1 for bodies in found.values()) else None

        seen: dict[str, Any] = {"keys": wait_until(all_found, f"each of the keys {keys} finds its message")}
        for topic in topics:
            seen[topic] = self.read(server, topic)
            seen[f"{topic} offsets"] = self.client.run(
                "offsets", server, topic=topic, times=",".join(map(str, self.times)), group=GROUP
            )["queues"]
        assert len(seen[QUEUED]) == messages
        assert len(seen[BULKY]) == BULKS
        return seen

    def views(self, server: Server, sent: list[dict[str, Any]]) -> dict[str, Any]:
        """What lies at some of the offset ids that the senders were given."""
        ids = ",".join(row["offset_id"] for row in sent[:: max(1, len(sent) // 7)])
        found: dict[str, Any] = self.client.run("view", server, topic=QUEUED, ids=ids)["found"]
        return found


def hand_over(old: Server, new: Server) -> Server:
    """The new server opens what the old one left, on the same ports."""
    old.stop()
    new.take_over(old)
    return new.start()


def explain(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first difference of two snapshots, as a sentence."""
    for part, value in before.items():
        other = after.get(part)
        if value == other:
            continue
        if isinstance(value, list) and isinstance(other, list):
            if len(value) != len(other):
                return f"{part}: {len(value)} entries before, {len(other)} after"
            for one, two in zip(value, other, strict=True):
                if one != two:
                    return f"{part}: before {one}\nafter {two}"
        return f"{part}: before {value}\nafter {other}"
    return ""


def there_and_back(first: Server, second: Server, third: Server, client: ScenarioRunner) -> None:
    """One server fills the store, the next serves and extends it, the last serves and extends it again."""
    judge = Judge(client)
    topics = [QUEUED, BULKY, DELAYED]
    try:
        first.start()
        judge.fill(first)
        sent = client.run("send-many", first, topic=QUEUED, count=7, **{"from": FIRST}, prefix="q", size=300)["sent"]
        total = FIRST + 7
        before, viewed = judge.snapshot(first, topics, total), judge.views(first, sent)

        hand_over(first, second)
        assert explain(before, judge.snapshot(second, topics, total)) == ""
        assert explain(viewed, judge.views(second, sent)) == ""
        judge.extend(second, total)
        total += MORE
        rest = client.run("consume", second, topic=QUEUED, group=GROUP, count=total - FIRST // 2)["bodies"]
        assert len(rest) == total - FIRST // 2, "the group goes on where it was, and gets nothing twice"
        topics.append(f"store_made_at_{total - MORE}")
        before = judge.snapshot(second, topics, total)

        hand_over(second, third)
        assert explain(before, judge.snapshot(third, topics, total)) == ""
        assert explain(viewed, judge.views(third, sent)) == ""
        judge.extend(third, total)
        total += MORE
        rest = client.run("consume", third, topic=QUEUED, group=GROUP, count=MORE)["bodies"]
        assert len(rest) == MORE, "the group goes on where it was, and gets nothing twice"
        judge.snapshot(third, [*topics, f"store_made_at_{total - MORE}"], total)
    finally:
        for server in (first, second, third):
            if server.processes:
                server.discard()


@pytest.mark.parametrize(
    "files", [pytest.param(SMALL_FILES, id="small-files"), pytest.param(DEFAULT_FILES, id="default-files")]
)
def test_fastmq_to_apache_and_back(client: ScenarioRunner, tmp_path: Path, files: dict[str, str]) -> None:
    there_and_back(fastmq(tmp_path / "a", files), apache(tmp_path / "b", files), fastmq(tmp_path / "c", files), client)


def test_apache_to_fastmq_and_back(client: ScenarioRunner, tmp_path: Path) -> None:
    files = SMALL_FILES
    there_and_back(apache(tmp_path / "a", files), fastmq(tmp_path / "b", files), apache(tmp_path / "c", files), client)


def test_apache_opens_what_a_killed_fastmq_left(client: ScenarioRunner, tmp_path: Path) -> None:
    """SIGKILL in the middle of sending: Apache serves all that was acknowledged, and so does fastmq after it."""
    first, second = fastmq(tmp_path / "a", SMALL_FILES), apache(tmp_path / "b", SMALL_FILES)
    third = fastmq(tmp_path / "c", SMALL_FILES)
    judge = Judge(client)
    try:
        first.start()
        client.run("create-topic", first, topic=CUT, queues=4)
        job = client.begin(
            "send-until-it-fails", {"namesrv": first.namesrv, "topic": CUT, "prefix": "cut", "size": 1500}
        )

        def enough() -> bool:
            queues = client.run("offsets", first, topic=CUT)["queues"]
            return sum(row["max"] for row in queues) > 1500

        wait_until(enough, "a good number of messages is stored")
        first.kill()
        outcome = client.outcome(job, 90)
        assert outcome["ok"], outcome
        acknowledged = {row["id"]: row for row in outcome["data"]["sent"]}
        assert len(acknowledged) > 1500

        second.take_over(first)
        second.start()
        there = judge.read(second, CUT)
        found = {row["id"]: row for row in there}
        lost = [row for key, row in acknowledged.items() if key not in found]
        assert not lost, f"{len(lost)} acknowledged messages are lost, for example {lost[0]}"
        assert len(there) <= len(acknowledged) + 1, "at most the message in flight is stored without an answer"
        for key, row in acknowledged.items():
            got = found[key]
            assert (got["queue"], got["offset"], got["body"]) == (row["queue"], row["offset"], row["body"])
        key = next(iter(acknowledged.values()))["body"].partition(".")[0]
        wait_until(
            lambda: len(client.run("query-keys", second, topic=CUT, keys=key)["found"][key]) == 1, f"key {key} is found"
        )
        client.run("send-many", second, topic=CUT, count=10, prefix="apache")
        there = judge.read(second, CUT)

        hand_over(second, third)
        assert explain({CUT: there}, {CUT: judge.read(third, CUT)}) == ""
        client.run("send-many", third, topic=CUT, count=10, prefix="back")
        assert len(judge.read(third, CUT)) == len(there) + 10
    finally:
        for server in (first, second, third):
            if server.processes:
                server.discard()


# a broker of Apache counts checks also while there is nobody to ask, and forgets op messages it has not written yet
PATIENT = {
    **SMALL_FILES,
    "transactionCheckMax": "1000",
    "transactionCheckInterval": "2000",
    "transactionOpBatchInterval": "100",
}


@pytest.mark.parametrize("ours_first", [pytest.param(True, id="from-fastmq"), pytest.param(False, id="from-apache")])
def test_open_transactions_change_hands(client: ScenarioRunner, tmp_path: Path, ours_first: bool) -> None:
    """The next owner asks about those that are open; nothing is delivered twice, whoever asks once more."""
    one, other = (fastmq, apache) if ours_first else (apache, fastmq)
    first, second, third = one(tmp_path / "a", PATIENT), other(tmp_path / "b", PATIENT), one(tmp_path / "c", PATIENT)
    judge = Judge(client)
    topic, group = "store_transactions", "store_transaction_group"
    count = 6
    words = ("commit commit", "rollback rollback", "unknown commit", "unknown rollback")
    bodies = {kind: {f"{kind} {i}" for i in range(count)} for kind in words}
    try:
        first.start()
        client.run("create-topic", first, topic=topic, queues=2)
        client.run("transactions", first, topic=topic, group=group, words=",".join(words), count=count)
        assert {row["body"] for row in judge.read(first, topic)} == bodies["commit commit"]

        hand_over(first, second)
        assert {row["body"] for row in judge.read(second, topic)} == bodies["commit commit"]
        asked = client.run("answer-checks", second, topic=topic, group=group, count=2 * count)["checked"]
        still_open = bodies["unknown commit"] | bodies["unknown rollback"]
        assert set(asked) >= still_open
        if ours_first:
            assert set(asked) == still_open, "of what fastmq had decided Apache asks nothing"
        there = wait_until(
            lambda: rows if len(rows := judge.read(second, topic)) == 2 * count else None, "what was committed is there"
        )
        assert {row["body"] for row in there} == bodies["commit commit"] | bodies["unknown commit"]

        hand_over(second, third)
        asked = client.run("answer-checks", third, topic=topic, group=group, wait=6500)["checked"]
        if not ours_first:
            assert asked == [], "nor of what it decided later"
        assert explain({topic: there}, {topic: judge.read(third, topic)}) == ""
    finally:
        for server in (first, second, third):
            if server.processes:
                server.discard()
