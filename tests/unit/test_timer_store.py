"""The files of the timers: log, wheel, check, metrics."""

import errno
import os

import pytest

from fastmq.broker.delivery.intake import is_congested
from fastmq.broker.delivery.timer_metrics import TimerMetrics
from fastmq.broker.delivery.timer_rules import due_time, first_look, requested_time, roll_window, slot_time
from fastmq.errors import StoreError
from fastmq.protocol.bodies import DataVersion
from fastmq.protocol.recall import RecallHandle
from fastmq.store.timer_check import MAX_BOUNDS, PAGE_BYTES, TimerCheck, load_check, save_check
from fastmq.store.timer_log import FILLER_MAGIC, MAGIC_DEFAULT, RECORD, RECORD_BYTES, TimerLog
from fastmq.store.timer_wheel import SLOTS, WHEEL_BYTES, Slot, TimerWheel, precision_of

FILE_BYTES = 4 * RECORD_BYTES + 20  # four records and a filler


def record(number, previous=-1, log_offset=0):
    return RECORD.pack(RECORD_BYTES, previous, MAGIC_DEFAULT, 1000, 2000 + number, log_offset, 100, 7, number)


def fill(log, count, first=0):
    positions = [log.place(record(first + number, log_offset=first + number)) for number in range(count)]
    log.write()
    return positions


class TestLog:
    @pytest.fixture
    def log(self, tmp_path):
        return TimerLog(str(tmp_path / "timerlog"), FILE_BYTES)

    def reopened(self, log):
        again = TimerLog(log.folder, FILE_BYTES)
        end = again.begin
        for position, _ in again.scan(again.begin):
            end = position + RECORD_BYTES
        again.set_end(end)
        return again

    def test_records_go_on_in_the_next_file(self, log):
        positions = fill(log, 10)
        assert positions == [0, 52, 104, 156, 228, 280, 332, 384, 456, 508]
        assert sorted(os.listdir(log.folder)) == [f"{base:020d}" for base in (0, 228, 456)]
        with open(os.path.join(log.folder, f"{0:020d}"), "rb") as file:
            data = file.read()
        assert len(data) == FILE_BYTES
        assert data[208:] == (20).to_bytes(4) + bytes(8) + FILLER_MAGIC.to_bytes(4, signed=True) + bytes(4)
        assert [log.read(position).due_ms for position in positions] == list(range(10))
        assert log.read(1) is None
        assert log.read(208) is None
        assert log.read(log.end) is None
        assert log.read(-1) is None

    def test_a_scan_finds_every_record_again(self, log):
        positions = fill(log, 11)
        again = self.reopened(log)
        assert [position for position, _ in again.scan(0)] == positions
        assert [position for position, _ in again.scan(280)] == positions[5:]
        assert again.end == log.end
        assert fill(again, 1) == [log.end]

    def test_a_cut_removes_what_lay_behind(self, log):
        fill(log, 11)
        again = TimerLog(log.folder, FILE_BYTES)
        again.set_end(156)
        assert os.listdir(again.folder) == [f"{0:020d}"]
        assert [position for position, _ in again.scan(0)] == [0, 52, 104]
        assert fill(again, 1, first=50) == [156]
        assert [fields[8] for _, fields in again.scan(0)] == [0, 1, 2, 50]

    def test_what_cannot_be_written_does_not_count(self, log, monkeypatch):
        fill(log, 2)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            log.place(record(2))
            with pytest.raises(OSError, match="full"):
                log.write()
        assert log.end == 104
        assert fill(log, 1) == [104]

    def test_files_of_messages_that_are_gone_are_removed(self, log):
        fill(log, 11)
        assert log.delete_before(3) == 0
        assert log.delete_before(4) == 1
        assert (log.begin, log.read(0)) == (228, None)
        assert log.delete_before(1 << 40) == 1
        assert log.begin == 456
        assert not log.covers(300)
        assert log.covers(log.end)

    @pytest.mark.parametrize("name", [f"{0:020d}", f"{228:020d}"])
    def test_files_of_another_size_stop_the_start(self, log, name):
        fill(log, 5)
        os.truncate(os.path.join(log.folder, name), 100)
        with pytest.raises(StoreError, match="mappedFileSizeTimerLog"):
            TimerLog(log.folder, FILE_BYTES)

    def test_a_missing_file_stops_the_start(self, log):
        fill(log, 11)
        os.unlink(os.path.join(log.folder, f"{228:020d}"))
        with pytest.raises(StoreError, match="does not follow"):
            TimerLog(log.folder, FILE_BYTES)

    def test_an_empty_last_file_was_never_used(self, log):
        fill(log, 1)
        open(os.path.join(log.folder, f"{228:020d}"), "w").close()
        assert self.reopened(log).end == 52

    def test_what_was_written_is_to_be_synced_once(self, log):
        fill(log, 5)
        assert [file.base for file in log.take_dirty()] == [0, 228]
        assert log.take_new_name()
        assert (log.take_dirty(), log.take_new_name()) == ([], False)
        fill(log, 1)
        files = log.take_dirty()
        log.mark_dirty(files, new_name=True)
        assert (log.take_dirty(), log.take_new_name()) == (files, True)


class TestWheel:
    @pytest.fixture
    def wheel(self, tmp_path):
        return TimerWheel(str(tmp_path / "timerwheel"), 1000)

    def test_changes_are_seen_before_they_are_written(self, wheel):
        wheel.put(Slot(5, 0, 52, 2))
        assert wheel.get(5999) == Slot(5, 0, 52, 2)
        assert wheel.get(5000 + SLOTS * 1000) is None
        assert wheel.occupant(5000 + SLOTS * 1000) == Slot(5, 0, 52, 2)
        again = TimerWheel(wheel.path, 1000)
        assert again.get(5000) is None
        changes = wheel.changes()
        wheel.write(changes)
        wheel.put(Slot(5, 0, 104, 3))
        wheel.written(changes)
        assert again.get(5000) == Slot(5, 0, 52, 2)
        assert wheel.changes() == {5: Slot(5, 0, 104, 3)}
        assert os.path.getsize(wheel.path) == WHEEL_BYTES

    def test_neighbours_are_written_together(self, wheel):
        slots = {unit: Slot(unit, unit, unit, 1) for unit in (7, 8, 9, SLOTS - 1)}
        for slot in slots.values():
            wheel.put(slot)
        wheel.write(wheel.changes())
        assert set(TimerWheel(wheel.path, 1000).slots_from(0)) == set(slots.values())
        assert set(TimerWheel(wheel.path, 1000).slots_from(9000)) == {slots[9], slots[SLOTS - 1]}

    def test_linking_records_twice_changes_nothing(self, wheel):
        for _ in range(2):
            for position in (0, 52, 104):
                wheel.link(5500, position, 1)
        assert wheel.get(5000) == Slot(5, 0, 104, 3)
        wheel.link(5500, 156, -1)
        assert wheel.get(5000) == Slot(5, 0, 156, 2)
        wheel.link(5500 + SLOTS * 1000, 208, 1)
        assert wheel.get(5000) is None

    def test_another_length_stops_the_start(self, tmp_path):
        (tmp_path / "timerwheel").write_bytes(b"x" * 32)
        with pytest.raises(StoreError, match="32 bytes instead of 38707200"):
            TimerWheel(str(tmp_path / "timerwheel"), 1000)

    @pytest.mark.parametrize(
        ("setting", "precision"),
        [(-5, 100), (100, 100), (199, 100), (200, 200), (499, 200), (500, 500), (999, 500), (1000, 1000), (9999, 1000)],
    )
    def test_precisions(self, setting, precision):
        assert precision_of(setting) == precision


class TestCheck:
    def check(self, bounds=None):
        return TimerCheck(1, 2, 3, 4, DataVersion(5, 6, 7), 1000, bounds or {8: (9, 10)})

    def test_it_is_read_as_it_was_written(self, tmp_path):
        path = str(tmp_path / "config" / "timercheck")
        assert load_check(path) is None
        save_check(path, self.check().encode())
        assert load_check(path) == self.check()
        assert os.path.getsize(path) == PAGE_BYTES

    def test_what_apache_changed_makes_our_part_void(self):
        page = bytearray(self.check().encode())
        page[7] ^= 1
        found = TimerCheck.decode(bytes(page))
        assert (found.read_ms, found.log_end, found.precision_ms, found.bounds) == (0, 2, 0, {})
        assert TimerCheck.decode(self.check().head()).precision_ms == 0

    def test_too_many_bounds_are_left_out(self):
        bounds = {slot: (slot, 0) for slot in range(MAX_BOUNDS + 5)}
        assert len(TimerCheck.decode(self.check(bounds).encode()).bounds) == MAX_BOUNDS

    def test_one_that_is_too_short_stops_the_start(self, tmp_path):
        (tmp_path / "timercheck").write_bytes(b"x" * 55)
        with pytest.raises(StoreError, match="timercheck: a timer checkpoint of 55 bytes"):
            load_check(str(tmp_path / "timercheck"))


class TestMetrics:
    def test_counts_by_topic(self, tmp_path):
        path = tmp_path / "timermetrics"
        metrics = TimerMetrics(str(path), lambda: 99)
        metrics.add("a", 1)
        metrics.add("a", 1)
        metrics.add("b", 1)
        metrics.add("b", -1)
        assert (metrics.count("a"), metrics.count("b"), metrics.count("c"), metrics.total) == (2, 0, 0, 2)
        path.write_bytes(metrics.encode())
        again = TimerMetrics(str(path), lambda: 100)
        assert again.to_body() == metrics.to_body()
        assert again.data_version.counter == 4

    def test_topics_that_are_gone_are_forgotten_once_nothing_waits(self):
        metrics = TimerMetrics(None, lambda: 99)
        for topic, change in (("gone", 0), ("waits", 1), ("there", 0), ("rmq_sys_x", 0)):
            metrics.add(topic, change)
        metrics.keep({"there"})
        assert list(metrics.to_body()["timingCount"]) == ["waits", "there", "rmq_sys_x"]

    @pytest.mark.parametrize("text", ['{"timingCount":{"a":1}}', '{"timingCount":{"a":{"count":"1"}}}', "[1]"])
    def test_a_file_that_makes_no_sense_stops_the_start(self, tmp_path, text):
        path = tmp_path / "timermetrics"
        path.write_text(text)
        with pytest.raises(StoreError, match="timermetrics"):
            TimerMetrics(str(path), lambda: 1)


class TestRules:
    @pytest.mark.parametrize(
        ("requested", "precision", "slot"),
        [
            (10_000, 1000, 9000),
            (10_001, 1000, 10_000),
            (10_999, 1000, 10_000),
            (10_000, 100, 9900),
            (10_050, 100, 10_000),
        ],
    )
    def test_slots_as_in_rocketmq(self, requested, precision, slot):
        theirs = requested - precision if requested % precision == 0 else requested // precision * precision
        assert slot_time(requested, precision) == slot == theirs

    def test_the_first_property_wins(self):
        properties = {"TIMER_DELIVER_MS": "5", "TIMER_DELAY_MS": "6", "TIMER_DELAY_SEC": "7"}
        assert requested_time(properties, 100) == 7100
        del properties["TIMER_DELAY_SEC"]
        assert requested_time(properties, 100) == 106
        del properties["TIMER_DELAY_MS"]
        assert requested_time(properties, 100) == 5
        assert requested_time({}, 100) is None

    @pytest.mark.parametrize(
        ("properties", "stored", "due"),
        [
            ({"TIMER_DELIVER_MS": "10250"}, 0, 10_250),
            ({"TIMER_DELIVER_MS": "11000"}, 0, 11_000),
            ({"TIMER_DELAY_MS": "250"}, 10_005, 10_255),
            ({"TIMER_DELAY_MS": "990"}, 10_020, 11_000),  # stored a little later than it was looked at
            ({"TIMER_DELAY_SEC": "1"}, 999_000, 11_000),  # rolled: stored anew since
            ({"TIMER_DELIVER_MS": "5"}, 0, 11_000),
            ({"TIMER_DELIVER_MS": "soon"}, 0, 11_000),
            ({}, 0, 11_000),
        ],
    )
    def test_due_times_of_stored_messages(self, properties, stored, due):
        assert due_time(properties, 10_000, stored, 1000) == due

    @pytest.mark.parametrize(
        ("properties", "out", "stored", "precision", "due"),
        [
            ({"TIMER_DELAY_MS": "250"}, 10_000, 10_005, 100, 10_255),
            ({"TIMER_DELAY_MS": "1000"}, 10_000, 10_001, 100, 11_000),  # the clock was set back when it was sent
            ({"TIMER_DELAY_MS": "9000"}, 10_100, 10_005, 1000, 10_200),
            ({"TIMER_DELAY_MS": "9000"}, 10_200, 10_005, 1000, 10_400),
            ({}, 10_000, 10_005, 100, 10_100),
        ],
    )
    def test_due_times_of_messages_whose_slots_were_longer_or_shorter(self, properties, out, stored, precision, due):
        assert due_time(properties, out, stored, precision) == due

    @pytest.mark.parametrize(("ahead", "first"), [(99, 99), (100, 50), (132, 50), (133, 100), (150, 100), (1000, 100)])
    def test_far_messages_wait_in_between(self, ahead, first):
        assert first_look(ahead * 1000, 0, 100, 1000) == first * 1000

    def test_roll_windows(self):
        assert [roll_window(slots) for slots in (1, 2, 604_740, 604_741)] == [604_740, 2, 604_740, 604_740]

    def test_congestion(self):
        assert not is_congested(10, 10, 0.0)
        assert is_congested(15, 10, 0.4)
        assert not is_congested(15, 10, 0.6)
        assert is_congested(21, 10, 0.999)


class TestHandles:
    def test_round_trip(self):
        handle = RecallHandle("t", "b", 5, "K")
        assert RecallHandle.decode(handle.encode()) == handle
        assert RecallHandle.decode(handle.encode().rstrip("=")) == handle

    @pytest.mark.parametrize("text", ["", "!", "djE=", "djEgdCBiIDU=", "djIgdCBiIDUgSw==", "\u00e4", "/+8="])
    def test_garbage(self, text):
        with pytest.raises(ValueError, match="recall handle is invalid"):
            RecallHandle.decode(text)

    def test_a_time_that_is_none(self):
        assert RecallHandle.decode("djEgdCBiIHggSw==").time_ms == -1
