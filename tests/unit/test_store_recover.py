"""Recovery: torn tails, damaged and missing files, and stores that another broker or an older crash left behind."""

import os
import random
import shutil
import struct
from pathlib import Path

import pytest

from fastmq import _store
from fastmq.errors import StoreError

SIZES = {
    "segment_bytes": 16_384,
    "queue_file_bytes": 400,
    "index_slots": 7,
    "index_entries": 50,
    "allocate_step_bytes": 8192,
}


def open_store(path, **settings):
    return _store.Store(str(path), store_host=("127.0.0.1", 1), **(SIZES | settings))


def fill(store, count, queues=3, topic="t", size=100):
    return [store.put(topic, i % queues, b"%d." % i + b"x" * size, b"KEYS\1k%d\2" % i) for i in range(count)]


def log_files(path):
    return sorted((path / "commitlog").iterdir())


def queue_files(path, topic="t", queue=0):
    return sorted((path / "consumequeue" / topic / str(queue)).iterdir())


def patch(path, offset, data):
    with Path(path).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def crashed(path, count=300, **settings):
    """A store that was killed; its directory and what had been placed."""
    store = open_store(path, **settings)
    placed = fill(store, count)
    store.close(clean=False)
    return placed


def contents(store):
    return {
        (topic, queue): store.queue_entries(topic, queue, low, 1 << 20) for topic, queue, low, _high in store.queues()
    }


def test_nothing_is_lost_by_a_kill(tmp_path):
    placed = crashed(tmp_path)
    store = open_store(tmp_path)
    assert store.written_offset == placed[-1].flush_target
    assert sorted(store.queues()) == [("t", 0, 0, 100), ("t", 1, 0, 100), ("t", 2, 0, 100)]
    assert "abort" in store.recovery_log[0]
    while store.index_step() > 0:
        pass
    assert store.query_index("t", "k77", 5, 0, 1 << 60)[0] == [placed[77].log_offset]
    assert fill(store, 1)[0].queue_offset == 100
    store.close()


@pytest.mark.parametrize("lost", [1, 2, 7, 8, 50, 100])
def test_a_torn_last_record_is_cut(tmp_path, lost):
    """A power loss kept all but the last bytes of the last body."""
    placed = crashed(tmp_path)
    last = placed[-1]
    patch(log_files(tmp_path)[-1], (last.log_offset + 88 + 100 - lost) % 16_384, bytes(lost))
    store = open_store(tmp_path)
    assert store.written_offset == last.log_offset
    assert sum(high for _t, _q, _low, high in store.queues()) == 299
    again = store.put("t", 2, b"again", b"")
    assert (again.log_offset, again.queue_offset) == (last.log_offset, last.queue_offset)
    store.close()
    assert open_store(tmp_path).read_messages([(again.log_offset, again.size)])[88:93] == b"again"


def test_what_stands_behind_a_bad_record_never_comes_back(tmp_path):
    """A record in the middle is lost; those after it must not appear again when new ones overwrite the gap."""
    placed = crashed(tmp_path)
    bad = placed[250]
    patch(log_files(tmp_path)[bad.log_offset // 16_384], bad.log_offset % 16_384 + 90, b"\xff")
    store = open_store(tmp_path)
    assert store.written_offset == bad.log_offset
    store.put("t", 0, b"%d." % 250 + b"x" * 100, b"KEYS\1k%d\2" % 250)
    store.close(clean=False)
    store = open_store(tmp_path)
    assert store.written_offset == bad.log_offset + bad.size
    store.close()


@pytest.mark.parametrize("damage", ["zeros", "noise", "size", "magic", "place", "filler"])
def test_any_kind_of_bad_header_ends_the_log(tmp_path, damage):
    placed = crashed(tmp_path)
    bad = placed[120]
    data = {
        "zeros": bytes(91),
        "noise": random.Random(1).randbytes(91),
        "size": b"\x7f\xff\xff\xff",
        "magic": b"",
        "place": b"",
        "filler": struct.pack(">iI", 5, 0xCBD43194),
    }[damage]
    at = bad.log_offset % 16_384
    file = log_files(tmp_path)[bad.log_offset // 16_384]
    patch(file, at, data)
    if damage == "magic":
        patch(file, at + 4, b"\x00")
    if damage == "place":
        patch(file, at + 28, struct.pack(">q", bad.log_offset + 1))
    store = open_store(tmp_path)
    assert store.written_offset == bad.log_offset
    assert [high for _t, _q, _low, high in sorted(store.queues())] == [40, 40, 40]
    store.close()
    assert len(log_files(tmp_path)) == bad.log_offset // 16_384 + 1


def test_noise_everywhere_crashes_nobody(tmp_path):
    """Random bytes over a random file, a hundred times: the store opens or says which file is wrong."""
    source = tmp_path / "source"
    crashed(source)
    store = open_store(source)
    while store.index_step() > 0:
        pass
    store.close()
    lots = random.Random(7)
    for turn in range(100):
        path = tmp_path / f"turn-{turn}"
        shutil.copytree(source, path)
        if lots.random() < 0.6:
            (path / "abort").write_text("1")
        victims = [p for p in sorted(path.rglob("*")) if p.is_file() and p.stat().st_size > 100]
        for _ in range(lots.randrange(1, 6)):
            victim = lots.choice(victims)
            patch(victim, lots.randrange(victim.stat().st_size - 64), lots.randbytes(64))
        try:
            store = open_store(path)
        except StoreError as error:
            told = str(path) in str(error)
            assert told
            continue
        for topic, queue, low, high in store.queues():
            result = store.read_queue(topic, queue, low, 32)
            store.read_messages(result.messages)
            store.search_offset(topic, queue, 1 << 50)
            store.queue_entries(topic, queue, low, high - low)
        store.query_index("t", "k5", 64, 0, 1 << 60)
        while store.index_step() > 0:
            pass
        assert store.put("t", 0, b"x", b"KEYS\1k\2").status == _store.ST_OK
        store.close()
        shutil.rmtree(path)


@pytest.mark.parametrize(
    "what", ["consumequeue", "consumequeue/t/1", "index", "checkpoint", "consumequeue index checkpoint"]
)
@pytest.mark.parametrize("clean", [True, False])
def test_what_can_be_rebuilt_is(tmp_path, what, clean):
    store = open_store(tmp_path)
    fill(store, 300)
    store.index_step(5000)
    store.checkpoint_step()
    fill(store, 30)
    expected = contents(store)
    store.close(clean=clean)
    for name in what.split():
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    store = open_store(tmp_path)
    assert contents(store) == expected
    while store.index_step() > 0:
        pass
    for i in (1, 299):
        assert len(store.query_index("t", f"k{i}", 5, 0, 1 << 60)[0]) == (2 if i < 30 else 1)
    store.close()


@pytest.mark.parametrize(
    ("file", "size"),
    [
        ("commitlog/00000000000000000000", 16_383),
        ("commitlog/00000000000000000000", 0),
        ("consumequeue/t/0/00000000000000000000", 399),
    ],
)
def test_a_wrong_length_is_named(tmp_path, file, size):
    crashed(tmp_path)
    os.truncate(tmp_path / file, size)
    with pytest.raises(StoreError, match=rf"{file}: {size} bytes"):
        open_store(tmp_path)


def test_a_stray_name_is_named(tmp_path):
    crashed(tmp_path)
    (tmp_path / "commitlog" / "core").write_bytes(b"x")
    with pytest.raises(StoreError, match="commitlog/core"):
        open_store(tmp_path)


def test_a_missing_log_file_is_named(tmp_path):
    crashed(tmp_path)
    log_files(tmp_path)[1].unlink()
    with pytest.raises(StoreError, match="should begin at 16384"):
        open_store(tmp_path)


def test_empty_last_files_are_removed(tmp_path):
    """A crash between creating a file and giving it its length."""
    crashed(tmp_path)
    end = len(log_files(tmp_path)) * 16_384
    (tmp_path / "commitlog" / f"{end:020d}").touch()
    (tmp_path / "consumequeue/t/0" / f"{len(queue_files(tmp_path)) * 400:020d}").touch()
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == (0, 100)
    store.close()


def test_a_segment_made_ahead_of_time_is_no_data(tmp_path):
    store = open_store(tmp_path, segment_bytes=16_384, allocate_step_bytes=1 << 20)
    placed = fill(store, 10)
    while store.allocate_step() > 0:
        pass
    assert len(log_files(tmp_path)) == 2
    store.close(clean=False)
    store = open_store(tmp_path)
    assert store.written_offset == placed[-1].flush_target
    assert len(log_files(tmp_path)) == 1
    store.close()


def test_queue_entries_torn_behind_the_checkpoint_are_written_again(tmp_path):
    store = open_store(tmp_path)
    fill(store, 150)
    store.checkpoint_step()
    fill(store, 150)
    expected = contents(store)
    store.close(clean=False)
    for queue in range(3):
        for file in queue_files(tmp_path, queue=queue)[2:]:
            patch(file, 100, bytes(200))
    store = open_store(tmp_path)
    assert contents(store) == expected
    store.close()


def test_a_note_that_another_broker_overtook_is_not_believed(tmp_path):
    """Apache's broker leaves our bytes in `checkpoint` but writes its own five longs."""
    placed = crashed(tmp_path)
    store = open_store(tmp_path)
    store.close()
    patch(tmp_path / "checkpoint", 0, struct.pack(">q", 1_700_000_000_000))
    (tmp_path / "abort").touch()
    store = open_store(tmp_path)
    assert any("another broker" in line for line in store.recovery_log)
    assert store.written_offset == placed[-1].flush_target
    assert sum(high for _t, _q, _low, high in store.queues()) == 300
    store.close()


def test_a_topic_deleted_and_made_again(tmp_path):
    """Its old messages are still in the log; neither a crash nor a rebuild may mix them with the new ones."""
    store = open_store(tmp_path)
    fill(store, 90)
    store.delete_topic_data("t")
    assert store.queue_offsets("t", 0) is None
    assert not (tmp_path / "consumequeue" / "t").exists()
    fresh = fill(store, 30)
    assert [p.queue_offset for p in fresh[:4]] == [0, 0, 0, 1]
    expected = contents(store)
    store.close(clean=False)
    store = open_store(tmp_path)
    assert contents(store) == expected
    store.close()
    shutil.rmtree(tmp_path / "consumequeue")
    (tmp_path / "checkpoint").unlink()
    store = open_store(tmp_path)
    assert contents(store) == expected
    store.close()


def test_a_deleted_topic_stays_deleted(tmp_path):
    store = open_store(tmp_path)
    fill(store, 90)
    fill(store, 9, topic="other")
    store.delete_topic_data("t")
    store.close(clean=False)
    store = open_store(tmp_path)
    assert sorted(q[0] for q in store.queues()) == ["other"] * 3
    store.close()


def test_a_queue_that_begins_late_is_filled_with_blanks(tmp_path):
    """The log begins in the middle (a new replica, or retention) and the queues are rebuilt."""
    store = open_store(tmp_path)
    fill(store, 400)
    store.flush_step()
    store.delete_segments(2)
    low, high = store.queue_offsets("t", 0)
    expected = store.queue_entries("t", 0, low, 1000)
    store.close()
    shutil.rmtree(tmp_path / "consumequeue")
    (tmp_path / "checkpoint").unlink()
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == (low, high)
    assert store.queue_entries("t", 0, low, 1000) == expected
    first = queue_files(tmp_path)[0]
    assert int(first.name) == low * 20 // 400 * 400
    assert first.read_bytes()[:20] == struct.pack(">qiq", 0, 0x7FFFFFFF, 0) or low * 20 % 400 == 0
    store.close()
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == (low, high)
    store.close()


def test_a_log_that_is_gone_takes_its_queues_along(tmp_path):
    crashed(tmp_path)
    shutil.rmtree(tmp_path / "commitlog")
    (tmp_path / "checkpoint").unlink()
    store = open_store(tmp_path)
    assert store.queues() == []
    assert store.put("t", 0, b"", b"").log_offset == 0
    store.close()


def test_sizes_and_crc_switch(tmp_path):
    """check_crc_on_recover=False takes a record with a changed body."""
    placed = crashed(tmp_path)
    patch(log_files(tmp_path)[-1], placed[-1].log_offset % 16_384 + 90, b"\xff")
    store = open_store(tmp_path, check_crc_on_recover=False)
    assert store.written_offset == placed[-1].flush_target
    store.close()


def test_retention_removes_files_of_log_queues_and_index(tmp_path):
    store = open_store(tmp_path)
    fill(store, 600)
    while store.index_step() > 0:
        pass
    store.checkpoint_step()
    before = (len(log_files(tmp_path)), len(queue_files(tmp_path)), len(list((tmp_path / "index").iterdir())))
    assert store.delete_segments(4) == 4
    assert store.min_log_offset == 4 * 16_384
    after = (len(log_files(tmp_path)), len(queue_files(tmp_path)), len(list((tmp_path / "index").iterdir())))
    assert all(a < b for a, b in zip(after, before, strict=True))
    low, high = store.queue_offsets("t", 0)
    assert 0 < low < high == 200
    assert store.query_index("t", "k599", 5, 0, 1 << 60)[0] != []
    assert store.delete_segments(100) == before[0] - 5
    assert len(store.segments()) == 1
    ends = store.queue_offsets("t", 0)
    store.close(clean=False)
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == ends
    assert fill(store, 1)[0].queue_offset == high
    store.close()
