"""Requests that released clients and mqadmin sent to Apache RocketMQ 5.3.3, put to a fastmq broker with a real store.

Code, names of ext fields and shape of the body must be Apache's (`replay.py`). What differs on purpose is listed in
`DEVIATIONS` with its reason, and must still differ: a line that is no longer needed fails.
"""

from __future__ import annotations

from pathlib import Path

from golden.replay import Deviation, Stage, exchanges, replay

FILES = ("send", "pull", "offset", "query", "retry", "client", "admin", "notify", "transaction", "pop")

DEVIATIONS = (
    Deviation("a filter that does not compile lets nothing pass", (11,), (0,), 23, note="broken expression"),
    Deviation("a new group on an empty queue begins at 0 and misses nothing (as brokers up to 4.9)", (14,), (22,), 0),
    Deviation("a send without a body is refused with a reason, Apache fails on it", (310,), (1,), 13, note="no body"),
    Deviation("a consumer group without a name does not exist", (36,), (0,), 26, note="unknown group"),
)

# Answers that rest on something the recordings do not hold.
NOT_REPRODUCIBLE = {
    ("pull", 144): "the SQL92 filter that left the messages out was in a heartbeat",
    ("pull", 145): "the SQL92 filter that left the messages out was in a heartbeat",
    ("pull", 165): "a pull that was not kept had taken the reset of its queue",
    ("pull", 166): "a pull that was not kept had taken the reset of its queue",
    ("retry", 8): "no recorded answer holds the message that is sent back",
    ("retry", 12): "no recorded answer holds the message that is sent back",
}


def test_answers_are_those_of_apache(tmp_path: Path) -> None:
    """Deviations are named above; one that covers nothing any more has to go."""
    findings, alike, seen = replay(Stage(tmp_path, exchanges(FILES)), DEVIATIONS, NOT_REPRODUCIBLE)
    assert not findings, f"{len(findings)} answers differ:\n" + "\n".join(findings)
    assert alike > 600
    assert not set(DEVIATIONS) - seen
