"""Checkpoints and acks that Apache RocketMQ 5.3.3 left behind in the store `clean` are revived as it would.

It was packed 50 s after two pops, of a topic and of its retry topic, with an invisible time of 600 s. Two earlier
checkpoints, partly acknowledged, had been revived by then.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from fastmq.broker.delivery.popck import Ack, CheckPoint
from fastmq.protocol.message import StoredMessage
from unit.pop_rig import PopRig

HERE = Path(__file__).parent
PACKED_MS = 1_795_221_460_000
REVIVE, REVIVE_GROUP = "rmq_sys_REVIVE_LOG_StoreCluster", "CID_RMQ_SYS_REVIVE_GROUP"
TOPIC, GROUP = f"s-pop-{'t' * 60}", f"s-group-{'g' * 80}"
RETRY = f"%RETRY%{GROUP}_{TOPIC}"
OTHER_RETRY = "%RETRY%s-pop-group_s-order"


class Taken(PopRig):
    """The store in the hands of a broker of ours."""

    SIZES: ClassVar = {"segment_bytes": 1 << 20, "queue_file_bytes": 20_000, "index_slots": 100, "index_entries": 400}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Taken]:
    with tarfile.open(HERE / "store" / "clean.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    rig = Taken(
        tmp_path, store_path_root_dir=str(tmp_path / "clean"), broker_name="broker-store",
        broker_cluster_name="StoreCluster", listen_port=31911, file_reserved_time=1_000_000,
        mapped_file_size_timer_log=102_400, at_ms=PACKED_MS,
    )  # fmt: skip
    yield rig
    rig.close()


def manifest(topic: str, **more: object) -> list[dict[str, object]]:
    messages = json.loads((HERE / "store" / "clean.manifest.json").read_text())["messages"]
    return [row for row in messages if row["topic"] == topic and row.items() >= more.items()]


def records(rig: Taken, topic: str, queue: int = 0) -> list[StoredMessage]:
    return [rig.stored(topic, queue, offset) for offset in range(rig.count(topic, queue))]


def test_checkpoints_and_acks_are_read_and_written_byte_for_byte(rig: Taken) -> None:
    seen = set()
    entries = [(queue, message) for queue in (0, 1) for message in records(rig, REVIVE, queue)]
    entries += [(int(m.get("REAL_QID") or 0), m) for m in records(rig, "rmq_sys_wheel_timer")
                if m.get("REAL_TOPIC") == REVIVE]  # fmt: skip
    for _, message in entries:
        tag = message.get("TAGS")
        seen.add(tag)
        if tag == "ck":
            point = CheckPoint.decode(message.body)
            assert (point.encode(), point.unique_key) == (message.body, message.get("UNIQ_KEY"))
            assert str(point.deliver_time) == message.get("TIMER_DELIVER_MS")
        else:
            ack = Ack.decode(message.body, batch=False, broker="")
            assert (ack.encode(), ack.unique_key) == (message.body, message.get("UNIQ_KEY"))
    assert len(entries) >= 14
    assert seen == {"ck", "ack"}


def test_what_it_had_revived_is_not_revived_again(rig: Taken) -> None:
    before = rig.count(RETRY), rig.count(OTHER_RETRY)
    rig.pass_ms(60_000)
    assert (rig.count(RETRY), rig.count(OTHER_RETRY)) == before == (2, 2)


def test_pending_checkpoints_are_revived_when_their_time_comes(rig: Taken) -> None:
    points = [
        CheckPoint.decode(message.body)
        for message in records(rig, "rmq_sys_wheel_timer")
        if message.get("TAGS") == "ck" and message.get("REAL_QID") == "2"
    ]
    assert {point.topic for point in points} == {TOPIC, RETRY}
    (over,) = {point.revive_time for point in points}
    wanted = sorted(
        rig.stored(point.topic, 0, offset).message_id for point in points for offset in point.open_offsets()
    )
    rig.pass_ms(over - 1 - PACKED_MS)
    assert rig.count(RETRY) == 2
    rig.pass_ms(1)
    revived = records(rig, RETRY)[2:]
    assert sorted(message.message_id for message in revived) == wanted
    assert {message.reconsume_times for message in revived} == {1, 2}
    assert rig.broker.offsets.offsets_of(REVIVE_GROUP, REVIVE)[2] == 1


def test_a_revived_message_is_what_apache_makes_of_it(rig: Taken) -> None:
    """The two it had revived, made again by us from the same checkpoint."""
    theirs = records(rig, OTHER_RETRY)
    rig.broker.offsets.commit(REVIVE_GROUP, REVIVE, 1, -1)
    rig.settle()
    ours = records(rig, OTHER_RETRY)[2:]
    assert len(ours) == 2
    for mine, its in zip(ours, theirs, strict=True):
        assert mine.property_map == its.property_map
        for name in ("body", "flag", "sys_flag", "born_timestamp", "born_host", "store_host", "reconsume_times"):
            assert getattr(mine, name) == getattr(its, name), name


def test_messages_it_handed_out_can_be_acknowledged_here(rig: Taken) -> None:
    """With a handle that its client may still have."""
    point = next(
        CheckPoint.decode(message.body)
        for message in records(rig, "rmq_sys_wheel_timer")
        if message.get("TAGS") == "ck" and message.get("REAL_QID") == "2"
    )
    handle = f"{point.start_offset} {point.pop_time} {point.invisible_time} 2 0 {point.broker} 0"
    ext = {"consumerGroup": GROUP, "topic": TOPIC, "queueId": 0}
    for offset in point.open_offsets():
        reply = rig.ask(200051, {**ext, "offset": offset, "extraInfo": f"{handle} {offset}"})
        assert reply.code == 0
    rig.pass_ms(point.revive_time - PACKED_MS)
    assert rig.count(RETRY) == 2 + 2  # those that were popped from the retry topic
