"""`frames/extra.jsonl`, a second session with Apache RocketMQ 5.3.3 for answers that need special settings, replayed.

There the first file of the commit log had been removed, so queues do not begin at 0, and sends had one thread with a
queue of one. What differs on purpose is listed in `DEVIATIONS` with its reason, and must still differ.
"""

from __future__ import annotations

from pathlib import Path

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.command import Command
from golden.replay import Deviation, Exchange, Stage, exchanges, replay

DEVIATIONS = (
    Deviation("offset 0 of a log that begins later is no message; Apache shows the first one there is", (33,), (0,), 1),
    Deviation("sends wait for no thread: no queue of theirs is full", (310,), (2,), 0, note="many sends at once"),
)

SEGMENT_BYTES = 1 << 20


class ShortenedStage(Stage):
    """A broker whose log has lost its beginning, so that queues begin where the answers say."""

    def __init__(self, root: Path, recorded: list[Exchange]) -> None:
        super().__init__(root, recorded, segment_bytes=SEGMENT_BYTES)
        lows = lowest_offsets(recorded)
        for (topic, queue_id), low in lows.items():
            self.topic(topic)
            for _ in range(low):
                self.store.put(topic, queue_id, b"gone", b"")
        while self.store.written_offset < SEGMENT_BYTES:
            self.store.put("filler", 0, bytes(200_000), b"")
        assert self.store.delete_segments(1) == 1
        for (topic, queue_id), low in lows.items():
            self.fill(topic, queue_id, low + 1)
            assert self.store.queue_offsets(topic, queue_id) == (low, low + 1)
        self.broker.topics.put(TopicConfig("j5-readonly", 4, 4, perm=4))

    def half_before(self, request: Command) -> dict[str, str]:
        """The one decision of this session was about a transaction that was not there."""
        return {}


def lowest_offsets(recorded: list[Exchange]) -> dict[tuple[str, int], int]:
    """Where queues begin, by what the answers to pulls say."""
    found = {}
    for exchange in recorded:
        if exchange.answer is not None and exchange.answer.ext.get("minOffset", "0") != "0":
            found[exchange.ext["topic"], int(exchange.ext["queueId"])] = int(exchange.answer.ext["minOffset"])
    return found


def test_answers_are_those_of_apache(tmp_path: Path) -> None:
    stage = ShortenedStage(tmp_path, exchanges(["extra"]))
    findings, alike, seen = replay(stage, DEVIATIONS, {})
    assert not findings, f"{len(findings)} answers differ:\n" + "\n".join(findings)
    assert alike > 60
    assert not set(DEVIATIONS) - seen
