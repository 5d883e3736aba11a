"""Timer messages of Apache RocketMQ 5.3.3: its files written anew to the byte, its pending messages served.

The store `clean` was packed with three messages that wait for two hours, one that was taken back, and two POP
checkpoints.
"""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmq._store import Store
from fastmq.broker.delivery.timer import TimerDelivery
from fastmq.broker.delivery.timer_files import TimerFiles
from fastmq.clock import ManualClock
from fastmq.protocol.command import decode_frame
from fastmq.protocol.message import StoredMessage, decode_message
from fastmq.protocol.recall import RecallHandle
from fastmq.store.timer_check import TimerCheck, load_check
from fastmq.store.timer_log import RECORD, RECORD_BYTES
from fastmq.store.timer_wheel import TimerWheel

HERE = Path(__file__).parent
PACKED_MS = 1_795_221_460_000
TIMERS, REVIVE = "rmq_sys_wheel_timer", "rmq_sys_REVIVE_LOG_StoreCluster"


class Timers:
    """A store and its timers, without a broker."""

    def __init__(self, root: Path, now_ms: int) -> None:
        self.root = root
        self.clock = ManualClock(now_ms)
        self.store = Store(
            str(root), store_host=("127.0.0.1", 31911), segment_bytes=1 << 20, queue_file_bytes=20_000,
            index_slots=100, index_entries=400, wall_clock_ms=self.clock.wall_ms,
        )  # fmt: skip
        self.open()

    def open(self) -> None:
        files = TimerFiles(
            str(self.root), store=self.store, precision_ms=1000, log_file_bytes=102_400, clock=self.clock
        )
        self.timers = TimerDelivery(files, store=self.store, clock=self.clock)

    def end(self, topic: str) -> int:
        return sum(high for name, _queue, _low, high in self.store.queues() if name == topic)

    def message(self, topic: str, queue_id: int, offset: int) -> StoredMessage:
        log_offset, _size, _code = self.store.queue_entries(topic, queue_id, offset, 1)[0]
        record = self.store.read_record(log_offset)
        assert record is not None
        return decode_message(record)[0]

    def work(self) -> int | None:
        """All that is to do now; when there is something again."""
        now_ms = self.clock.wall_ms()
        while True:
            next_ms = self.timers.due(now_ms).next_ms
            if next_ms is None or next_ms > now_ms:
                return next_ms

    def run_until(self, wall_ms: int) -> None:
        while True:
            next_ms = self.work()
            now_ms = self.clock.wall_ms()
            if now_ms >= wall_ms:
                return
            self.clock.advance_ms(min(now_ms + 1000, wall_ms, next_ms or wall_ms) - now_ms)

    def save(self) -> None:
        self.timers.take_snapshot()
        self.store.flush_step()
        assert self.timers.persist()


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    with tarfile.open(HERE / "store" / "clean.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "clean"


@pytest.fixture
def taken(unpacked: Path) -> Iterator[Timers]:
    timers = Timers(unpacked, PACKED_MS)
    yield timers
    timers.store.close()


def manifest() -> Any:
    return json.loads((HERE / "store" / "clean.manifest.json").read_text())


def test_apaches_checkpoint_is_read_and_written(unpacked: Path) -> None:
    path = unpacked / "config" / "timercheck"
    check = load_check(str(path))
    assert check is not None
    assert check == TimerCheck(1_795_221_449_000, 884, 17, 17, check.version)
    assert check.head() == path.read_bytes()[:56]
    assert check.version.counter == 69


def test_the_wheel_and_the_log_are_written_as_apache_does(unpacked: Path, taken: Timers, tmp_path: Path) -> None:
    """The recorded timer messages, followed when Apache followed them."""
    messages = [taken.message(TIMERS, 0, offset) for offset in range(17)]
    ours = Timers(tmp_path / "ours", messages[0].store_timestamp)
    for message in messages:
        ours.run_until(message.store_timestamp)
        ours.store.put(TIMERS, 0, message.body, message.properties)
        ours.work()
    ours.save()
    golden = (unpacked / "timerlog" / f"{0:020d}").read_bytes()
    written = (tmp_path / "ours" / "timerlog" / f"{0:020d}").read_bytes()
    assert len(golden) == len(written)
    for at in range(0, 884, RECORD_BYTES):
        theirs, own = RECORD.unpack_from(golden, at), RECORD.unpack_from(written, at)
        assert own[:5] == theirs[:5], at
        assert own[6:8] == theirs[6:8], at
        assert own[4] + own[3] < own[8] <= own[4] + own[3] + 1000
    slots = set(TimerWheel(str(unpacked / "timerwheel"), 1000).slots_from(1))
    assert set(TimerWheel(str(tmp_path / "ours" / "timerwheel"), 1000).slots_from(1)) == slots
    ours.store.close()


def test_after_the_start_everything_is_as_apache_says(taken: Timers) -> None:
    """What Apache answered ten minutes later."""
    known = manifest()
    check = TimerCheck.decode(base64.b64decode(known["timerCheckPoint"]))
    taken.run_until(check.version.timestamp)
    own = taken.timers.files.check({})
    assert (own.read_ms, own.log_end, own.queue_offset) == (check.read_ms, check.log_end, check.queue_offset)
    theirs = json.loads(known["timerMetrics"])["timingCount"]
    assert {topic: taken.timers.files.metrics.count(topic) for topic in theirs} == {
        topic: one["count"] for topic, one in theirs.items()
    }


def test_what_waits_in_apaches_store_comes_at_its_millisecond(taken: Timers) -> None:
    before = taken.end("s-delay"), taken.end(REVIVE)
    taken.run_until(1_795_228_600_000)
    assert (taken.end("s-delay"), taken.end(REVIVE)) == (before[0] + 3, before[1] + 2)
    for number, (queue_id, offset_back) in enumerate(((1, 2), (0, 1), (1, 1)), 4):
        end = (taken.store.queue_offsets("s-delay", queue_id) or (0, 0))[1]
        properties = taken.message("s-delay", queue_id, end - offset_back).property_map
        assert properties["KEYS"] == f"timer-{number}"
        assert properties["TIMER_DEQUEUE_MS"] == properties["TIMER_DELIVER_MS"]
        assert properties["TIMER_ENQUEUE_MS"] == "1795221384000"
    assert taken.timers.files.metrics.total == 0


def test_a_restart_in_between_changes_nothing(taken: Timers) -> None:
    before = taken.end("s-delay")
    for until in (PACKED_MS + 1000, 1_795_228_588_700, 1_795_228_589_303, 1_795_228_600_000):
        taken.run_until(until)
        taken.save()
        taken.open()
    assert taken.end("s-delay") == before + 3


def test_a_crash_of_apache_loses_nothing(unpacked: Path) -> None:
    """The checkpoint is old, and the wheel is lost."""
    path = unpacked / "config" / "timercheck"
    page = bytearray(path.read_bytes())
    page[8:32] = b"\x00" * 24
    path.write_bytes(page)
    (unpacked / "timerwheel").unlink()
    timers = Timers(unpacked, PACKED_MS)
    before = timers.end("s-delay")
    timers.run_until(1_795_228_600_000)
    assert timers.end("s-delay") >= before + 3
    timers.store.close()


def test_apaches_handles_are_read() -> None:
    for line in (HERE / "frames" / "send.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["code"] == 370 and row["resp_code"] == 0:
            ext = decode_frame(base64.b64decode(row["request"])).ext
            handle = RecallHandle.decode(ext["recallHandle"])
            assert handle.topic == ext["topic"]
            assert handle.time_ms % 1000 == 1
            assert handle.encode() == ext["recallHandle"]
            assert handle.unique_key == decode_frame(base64.b64decode(row["response"])).ext["msgId"]
            return
    raise AssertionError("no recall was recorded")
