"""Damage that a scan does not stop at: fields no checksum covers, entries that name nothing, folders of odd names."""

import contextlib
import errno
import os
import shutil
import struct
from pathlib import Path

import pytest

from fastmq import _store
from fastmq.broker.light import read_records
from fastmq.errors import StoreError, StoreLockedError

SEGMENT = 16_384
SIZES = {
    "segment_bytes": SEGMENT,
    "queue_file_bytes": 400,
    "index_slots": 7,
    "index_entries": 50,
    "allocate_step_bytes": 8192,
}
QUEUE_ID, QUEUE_OFFSET, BODY = 12, 20, 88


def open_store(path, **settings):
    return _store.Store(str(path), store_host=("127.0.0.1", 1), **(SIZES | settings))


def fill(store, count, topic="t", queue=0):
    return [store.put(topic, queue, b"%d." % i + b"x" * 100, b"KEYS\1k%d\2" % i) for i in range(count)]


def patch(path, offset, data):
    with Path(path).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def patch_log(path, log_offset, data):
    patch(path / "commitlog" / f"{log_offset // SEGMENT * SEGMENT:020d}", log_offset % SEGMENT, data)


def patch_entry(path, number, data, topic="t"):
    patch(path / "consumequeue" / topic / "0" / f"{number * 20 // 400 * 400:020d}", number * 20 % 400, data)


def bodies(store, topic="t", low=0, high=None):
    """What a consumer that reads the queue from its beginning to its end gets."""
    found, at = [], low
    high = store.queue_offsets(topic, 0)[1] if high is None else high
    while at < high:
        result = store.read_queue(topic, 0, at, 32)
        assert result.next_offset > at, result
        data = store.read_messages(result.messages)
        while data:
            size = int.from_bytes(data[:4])
            assert 91 <= size <= len(data)
            length = int.from_bytes(data[84:88])
            found.append(data[BODY : BODY + length])
            data = data[size:]
        at = result.next_offset
    return found


# --- entries of queues ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [1, -50, 40, 4096, -(1 << 63), (1 << 63) - 1])
def test_an_entry_that_names_no_record_is_passed_over(tmp_path, to):
    """A consumer gets what is left of the queue, and nothing that is no message."""
    store = open_store(tmp_path)
    placed = fill(store, 50)
    store.close()
    moved = max(-(1 << 63), min(placed[7].log_offset + to, (1 << 63) - 1))
    patch_entry(tmp_path, 7, struct.pack(">q", moved))
    store = open_store(tmp_path)
    assert bodies(store) == [b"%d." % i + b"x" * 100 for i in range(50) if i != 7]
    store.close()


@pytest.mark.parametrize("size", [1, 90, 150, 1000, -1])
def test_an_entry_of_a_wrong_size_is_passed_over(tmp_path, size):
    store = open_store(tmp_path)
    fill(store, 50)
    store.close()
    patch(tmp_path / "consumequeue/t/0" / f"{0:020d}", 7 * 20 + 8, struct.pack(">i", size))
    store = open_store(tmp_path)
    found = bodies(store)
    assert set(found) <= {b"%d." % i + b"x" * 100 for i in range(50)}
    assert len(found) == 49
    store.close()


def test_a_light_queue_over_a_page_of_zeros(tmp_path):
    """Its readers look into the records: one of no length must not hold them up for ever."""
    store = open_store(tmp_path, light_queues=True)
    placed = [store.put("t", 0, b"%d" % i, b"INNER_MULTI_DISPATCH\1%LMQ%a\2") for i in range(5)]
    store.close()
    patch_log(tmp_path, placed[2].log_offset, bytes(placed[2].size))
    store = open_store(tmp_path, light_queues=True)
    result = store.read_queue("%LMQ%a", 0, 0, 32)
    data = read_records(store, "%LMQ%a", 0, 0, result)
    assert len(data) == sum(p.size for p in placed) - placed[2].size
    store.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("call", ["open", "pread"])
def test_what_cannot_be_read_now_is_not_passed_over(tmp_path, call, code):
    """The broker is short of descriptors for a moment: consumers must not lose the rest of that queue file."""
    store = open_store(tmp_path)
    fill(store, 100)
    store.close()
    script = [{"call": call, "file": "consumequeue", "nth": 1, "times": -1, "errno": code}]
    for nth in range(1, 60):
        script[0]["nth"] = nth
        try:
            store = open_store(tmp_path, fault_script=script)
        except StoreError:
            continue
        result = store.read_queue("t", 0, 3, 32)
        assert (result.status, result.next_offset) in (
            (_store.OFFSET_FOUND_NULL, 3),
            (_store.FOUND, 3 + len(result.messages)),
        )
        hit = store.statistics()["faults_hit"]
        store.close(clean=False)
        if hit:
            return
    raise AssertionError("the script never came to bear")


# --- fields of records that no checksum covers ------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"../../o", b"a/b/c/d", b"a\0bcdef", b"\xff\xfeabcde", b"."])
def test_a_record_of_an_impossible_topic_makes_no_files(tmp_path, topic):
    store = open_store(tmp_path / "store", index_enabled=False)
    fill(store, 3)
    odd = store.put("u" * len(topic), 0, b"odd", b"")
    after = fill(store, 3)
    store.close(clean=False)
    patch_log(tmp_path / "store", odd.log_offset + BODY + 3 + 1, topic)
    shutil.rmtree(tmp_path / "store" / "consumequeue")
    (tmp_path / "store" / "checkpoint").unlink()
    before = {p for p in tmp_path.rglob("*") if "consumequeue" not in str(p)}
    store = open_store(tmp_path / "store", index_enabled=False)
    assert [q[0] for q in store.queues()] == ["t"]
    assert store.queue_offsets("t", 0) == (0, 6)
    assert store.written_offset == after[-1].flush_target
    store.close()
    made = {p.name for p in tmp_path.rglob("*") if "consumequeue" not in str(p)} - {p.name for p in before}
    assert made <= {"checkpoint"}
    assert os.listdir(tmp_path / "store" / "consumequeue") == ["t"]


@pytest.mark.parametrize("bit", [0, 3, 10, 20, 24, 31, 40, 58, 62, 63])
@pytest.mark.parametrize("number", [0, 5])
def test_a_queue_offset_with_a_flipped_bit_costs_that_message_only(tmp_path, bit, number):
    store = open_store(tmp_path)
    placed = fill(store, 20)
    store.close(clean=False)
    patch_log(tmp_path, placed[number].log_offset + QUEUE_OFFSET, struct.pack(">Q", number ^ 1 << bit))
    shutil.rmtree(tmp_path / "consumequeue")
    (tmp_path / "checkpoint").unlink()
    for _ in range(2):
        store = open_store(tmp_path)
        found = bodies(store, low=store.queue_offsets("t", 0)[0])
        assert found[-14:] == [b"%d." % i + b"x" * 100 for i in range(6, 20)]
        if bit > 4:
            assert len(found) >= 19
        assert store.queue_offsets("t", 0)[1] == 20
        store.close()


# --- a log that ends before the checkpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("lost", [1, 10, 60])
def test_a_log_that_lost_its_end_behind_the_checkpoint(tmp_path, lost, clean):
    """A copy of a running broker, or a disk that lies: a hole in the log would cost all that is appended behind it."""
    store = open_store(tmp_path)
    placed = fill(store, 300)
    while store.index_step() > 0:
        pass
    store.checkpoint_step()
    store.close(clean=clean)
    for done in placed[-lost:]:
        patch_log(tmp_path, done.log_offset, bytes(done.size))
    store = open_store(tmp_path)
    assert store.written_offset == placed[-lost].log_offset
    assert store.queue_offsets("t", 0) == (0, 300 - lost)
    again = fill(store, 1)[0]
    assert (again.log_offset, again.queue_offset) == (placed[-lost].log_offset, 300 - lost)
    while store.index_step() > 0:
        pass
    assert again.log_offset in store.query_index("t", "k0", 10, 0, 1 << 60)[0]
    store.close()
    shutil.rmtree(tmp_path / "consumequeue")
    (tmp_path / "checkpoint").unlink()
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == (0, 301 - lost)
    store.close()


def test_leftovers_of_a_failed_write_do_not_outlive_a_clean_stop(tmp_path):
    """What a refused batch left in the file must not follow a later record and come back with a crash."""
    batch = b""
    for _ in range(3):
        batch += (22 + 10).to_bytes(4, "big") + bytes(12) + (10).to_bytes(4, "big") + b"z" * 10 + bytes(2)
    script = [{"call": "pwrite", "file": "commitlog", "nth": 2, "times": 1, "errno": errno.EIO, "short": 1 << 20}]
    store = open_store(tmp_path, fault_script=script)
    store.put("t", 0, b"head", b"")
    assert store.put_batch("t", 0, batch)[0] == _store.ST_IO_ERROR
    store.close()
    store = open_store(tmp_path)
    over = store.put("t", 0, b"w" * 10, b"")
    store.close(clean=False)
    store = open_store(tmp_path)
    assert store.written_offset == over.flush_target
    assert store.queue_offsets("t", 0) == (0, 2)
    store.close()


# --- the index --------------------------------------------------------------------------------------------------------


def test_an_index_whose_entries_were_lost_is_filled_again(tmp_path):
    """A power loss kept the page of its header and none of its entries."""
    store = open_store(tmp_path, index_entries=1000)
    for _ in range(3):
        store.put("t", 0, b"no key", b"")
    while store.index_step() > 0:
        pass
    store.checkpoint_step()
    placed = fill(store, 10)
    while store.index_step() > 0:
        pass
    store.close(clean=False)
    (file,) = (tmp_path / "index").iterdir()
    patch(file, 40, bytes(file.stat().st_size - 40))
    store = open_store(tmp_path, index_entries=1000)
    while store.index_step() > 0:
        pass
    for i in (0, 4, 9):
        assert store.query_index("t", f"k{i}", 5, 0, 1 << 60)[0] == [placed[i].log_offset]
    store.close()


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["00", "+0", "0 ", "²", "-1", "1048576", "99999999", "lost+found"])
@pytest.mark.parametrize("kind", ["consumequeue", "batchconsumequeue"])
def test_odd_names_in_a_topic_are_left_alone(tmp_path, kind, name):
    store = open_store(tmp_path)
    fill(store, 30)
    store.close()
    shutil.copytree(tmp_path / "consumequeue/t/0", tmp_path / kind / "t" / name)
    (tmp_path / kind / "t" / "7").touch()
    (tmp_path / kind / "file").touch()
    store = open_store(tmp_path)
    assert store.queues() == [("t", 0, 0, 30)]
    assert store.recovery_log == []
    store.close()
    assert (tmp_path / kind / "t" / name).is_dir()


def test_a_topic_folder_whose_name_is_no_text_is_left_alone(tmp_path):
    store = open_store(tmp_path)
    fill(store, 30)
    store.close()
    odd = os.fsencode(tmp_path) + b"/consumequeue/\xff\xfe"
    shutil.copytree(os.fsencode(tmp_path / "consumequeue/t"), odd)
    store = open_store(tmp_path)
    assert store.queues() == [("t", 0, 0, 30)]
    store.close()


def test_a_place_that_cannot_hold_a_store_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="file"):
        open_store(tmp_path / "file" / "store")
    with pytest.raises(StoreError, match="file"):
        open_store(tmp_path / "file")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "commitlog").write_text("x")
    with pytest.raises(StoreError, match="commitlog"):
        open_store(tmp_path / "store")


def test_two_stores_do_not_share_a_commit_log(tmp_path):
    """A configuration that was copied, with another root and the same storePathCommitLog."""
    first = open_store(tmp_path / "a", commit_log_path=str(tmp_path / "log"))
    placed = fill(first, 10)
    with pytest.raises(StoreLockedError, match="log"):
        open_store(tmp_path / "b", commit_log_path=str(tmp_path / "log"))
    assert first.read_record(placed[-1].log_offset) is not None
    first.close()
    with contextlib.closing(open_store(tmp_path / "a", commit_log_path=str(tmp_path / "log"))) as store:
        assert store.queue_offsets("t", 0) == (0, 10)


def test_light_queues_found_in_the_log_count(tmp_path):
    store = open_store(tmp_path, light_queues=True, max_light_queues=3)
    for name in ("a", "b", "c"):
        assert store.put("t", 0, b"x", f"INNER_MULTI_DISPATCH\1%LMQ%{name}\2".encode()).status == _store.ST_OK
    store.close(clean=False)
    shutil.rmtree(tmp_path / "consumequeue")
    store = open_store(tmp_path, light_queues=True, max_light_queues=3)
    assert store.statistics()["light_queues"] == 3
    assert store.put("t", 0, b"x", b"INNER_MULTI_DISPATCH\1%LMQ%d\2").status == _store.ST_TOO_MANY_LMQ
    store.close()


def test_light_queues_that_are_refused_leave_nothing(tmp_path):
    """Names come from clients: thousands that are refused must not stay in memory."""
    store = open_store(tmp_path, light_queues=True, max_light_queues=1)
    assert store.put("t", 0, b"x", b"INNER_MULTI_DISPATCH\1%LMQ%a\2").status == _store.ST_OK
    before = store.statistics()["topics"]
    for i in range(20):
        assert store.put("t", 0, b"x", b"INNER_MULTI_DISPATCH\1%%LMQ%%n%d\2" % i).status == _store.ST_TOO_MANY_LMQ
    assert store.statistics()["topics"] == before
    store.close()


def test_light_queues_whose_names_are_no_text_are_none(tmp_path):
    store = open_store(tmp_path, light_queues=True)
    assert store.put("t", 0, b"x", b"INNER_MULTI_DISPATCH\1%LMQ%\xff\xfe,%LMQ%a\2").status == _store.ST_OK
    assert sorted(q[0] for q in store.queues()) == ["%LMQ%a", "t"]
    store.close()
