"""Faults: every kind of file call fails once, and nobody is told that something is safe which is not.

A script is a list of faults for the table of file calls: which call, on which kind of file, which one, what happens.
"""

import contextlib
import errno
import os
import select
import tempfile

import pytest

from fastmq import _store
from fastmq.errors import StoreError, UsageError

SIZES = {
    "segment_bytes": 16_384,
    "queue_file_bytes": 400,
    "index_slots": 7,
    "index_entries": 20,
    "allocate_step_bytes": 8192,
}
CALLS = {
    "open": ("commitlog", "consumequeue", "index", "checkpoint", "lock", "abort", "directory"),
    "pwrite": ("commitlog", "consumequeue", "checkpoint", "lock", "abort"),
    "pread": ("consumequeue", "checkpoint"),
    "fdatasync": ("commitlog", "consumequeue", "index", "checkpoint"),
    "fsync": ("abort", "directory"),
    "fallocate": ("commitlog", "consumequeue", "index", "checkpoint"),
    "ftruncate": ("commitlog", "consumequeue", "index", "checkpoint"),
    "mmap": ("commitlog", "index"),
    "msync": ("index",),
    "unlink": ("commitlog", "consumequeue", "index", "abort"),
    "syncfs": ("directory",),
    "mkdir": ("consumequeue", "index"),
    "rmdir": ("consumequeue",),
}


def open_store(path, script=None, **settings):
    return _store.Store(str(path), store_host=("127.0.0.1", 1), fault_script=script, **(SIZES | settings))


def put(store, i, queue=0, size=100):
    return store.put("t", queue, b"%d." % i + b"x" * size, b"KEYS\1k%d\2" % i)


def scenario(store, accepted):
    """A bit of everything. Notes (placed, body) of what was accepted; what is refused or fails is left out."""
    for i in range(260):
        done = put(store, i, i % 2)
        assert done.status in (
            _store.ST_OK,
            _store.ST_DISK_FULL,
            _store.ST_IO_ERROR,
            _store.ST_FLUSH_FAILED,
            _store.ST_NOT_WRITEABLE,
            _store.ST_NO_MEMORY,
        )
        if done.status == _store.ST_OK:
            accepted.append((done, b"%d." % i))
        if i % 16 == 0:
            store.flush_step()
        for step, every in ((store.allocate_step, 20), (store.index_step, 50), (store.checkpoint_step, 80)):
            if i % every == 0:
                with contextlib.suppress(StoreError):
                    step()
    with contextlib.suppress(StoreError):
        store.delete_segments(1)
        store.put("gone", 0, b"", b"")
        store.delete_topic_data("gone")


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize(("call", "file"), [(call, file) for call, files in CALLS.items() for file in files])
def test_one_failing_call(tmp_path, call, file, sync):
    hits = 0
    for nth in (1, 2, 3, 7, 20):
        path = tmp_path / str(nth)
        script = [{"call": call, "file": file, "nth": nth, "errno": errno.EIO if nth % 2 else errno.ENOSPC}]
        accepted, flushed, shown = [], 0, {}
        try:
            # one file per queue: only with no new names are queue files synced one by one
            size = 20_000 if (call, file) == ("fdatasync", "consumequeue") else 400
            store = open_store(path, script, sync_flush=sync, queue_file_bytes=size)
        except StoreError as error:
            told = str(path) in str(error)
            assert told
            hits += 1
        else:
            scenario(store, accepted)
            hits += store.statistics()["faults_hit"]
            flushed = store.flushed_offset
            shown = {(t, q): store.queue_entries(t, q, low, 1000) for t, q, low, _high in store.queues() if t == "t"}
            assert store.dispatched_offset <= (flushed if sync else store.written_offset)
            try:
                store.close()
            except StoreError:
                hits += 1
                assert (path / "abort").exists()
        store = open_store(path, sync_flush=sync, queue_file_bytes=size)
        for done, body in accepted:
            if store.min_log_offset <= done.log_offset:
                record = store.read_record(done.log_offset)
                assert record is not None
                assert body in record
        assert store.flushed_offset >= flushed or not sync
        for (topic, queue), entries in shown.items():
            low = store.queue_offsets(topic, queue)[0]
            assert store.queue_entries(topic, queue, low, 1000)[: len(entries)] or not entries
        done = put(store, 0)
        assert done.status == _store.ST_OK
        store.close()
        assert open_store(path, queue_file_bytes=size).recovery_log == []
    assert hits, "the script never came to bear"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_failed_append_leaves_nothing(tmp_path, code):
    store = open_store(tmp_path, [{"call": "pwrite", "file": "commitlog", "nth": 3, "errno": code, "short": 60}])
    first = [put(store, i) for i in range(2)]
    refused = put(store, 2)
    assert refused.status == (_store.ST_IO_ERROR if code == errno.EIO else _store.ST_DISK_FULL)
    assert store.queue_offsets("t", 0) == (0, 2)
    again = put(store, 2)
    assert (again.log_offset, again.queue_offset) == (first[1].flush_target, 2)
    store.close()


def test_a_short_write_is_a_full_disk(tmp_path):
    store = open_store(tmp_path, [{"call": "pwrite", "file": "commitlog", "nth": 1, "short": 100}])
    assert put(store, 0).status == _store.ST_DISK_FULL
    assert store.written_offset == 0
    assert put(store, 0).log_offset == 0
    store.close()


def test_leftovers_of_a_failed_batch_never_come_back(tmp_path):
    """The batch reached the file although the call failed, and clearing its head failed too. Then the machine dies."""
    batch = b""
    for size in (10, 10, 10):
        batch += (22 + size).to_bytes(4, "big") + bytes(12) + size.to_bytes(4, "big") + b"z" * size + bytes(2)
    script = [{"call": "pwrite", "file": "commitlog", "nth": 2, "times": 2, "errno": errno.EIO, "short": 1 << 20}]
    store = open_store(tmp_path, script)
    head = put(store, 0)
    assert store.put_batch("t", 0, batch)[0] == _store.ST_IO_ERROR
    # exactly over the first of the three leftovers, so that the second would follow it seamlessly
    over = store.put("t", 0, b"w" * 10, b"")
    assert (over.status, over.log_offset) == (_store.ST_OK, head.flush_target)
    store.close(clean=False)
    store = open_store(tmp_path)
    assert store.written_offset == over.flush_target
    assert store.queue_offsets("t", 0) == (0, 2)
    store.close()


def test_a_failed_flush_is_final(tmp_path):
    store = open_store(
        tmp_path, [{"call": "fdatasync", "file": "commitlog", "nth": 2, "errno": errno.EIO}], sync_flush=True
    )
    put(store, 0)
    assert store.flush_step() > 0
    before = store.flushed_offset
    put(store, 1)
    assert store.failed is None
    assert store.flush_step() == -1
    assert "commitlog" in store.failed
    assert select.select([store.flush_event_fd], [], [], 0)[0]
    assert store.flush_step() == -1
    assert store.flushed_offset == before
    assert store.queue_offsets("t", 0) == (0, 1)
    assert put(store, 2).status == _store.ST_FLUSH_FAILED
    with pytest.raises(StoreError):
        store.checkpoint_step()
    with pytest.raises(StoreError):
        store.close()
    assert (tmp_path / "abort").exists()
    open_store(tmp_path).close()


def test_waiters_learn_of_a_failed_flush_from_the_thread(tmp_path):
    store = open_store(
        tmp_path, [{"call": "fdatasync", "file": "commitlog", "times": -1, "errno": errno.EIO}], sync_flush=True
    )
    store.start()
    put(store, 0)
    assert select.select([store.flush_event_fd], [], [], 10)[0]
    assert store.failed
    assert store.flushed_offset == 0
    with pytest.raises(StoreError):
        store.close()


@pytest.mark.parametrize("call", ["pwrite", "fallocate", "open", "ftruncate", "mkdir"])
def test_a_queue_that_cannot_be_written_stops_appends_until_it_can(tmp_path, call):
    store = open_store(tmp_path, [{"call": call, "file": "consumequeue", "times": 3, "errno": errno.ENOSPC}])
    done = put(store, 0)
    assert done.status == _store.ST_OK  # it is in the log
    assert store.dispatched_offset == 0
    assert store.queue_offsets("t", 0) == (0, 0)
    assert put(store, 1).status == _store.ST_NOT_WRITEABLE
    for _ in range(3):
        store.flush_step()
    assert store.queue_offsets("t", 0) == (0, 1)
    assert store.dispatched_offset == done.flush_target
    assert put(store, 1).queue_offset == 1
    store.close()
    assert open_store(tmp_path).queue_offsets("t", 0) == (0, 2)


def test_the_flusher_thread_writes_what_a_queue_could_not_take(tmp_path):
    store = open_store(tmp_path, [{"call": "pwrite", "file": "consumequeue", "times": 5, "errno": errno.ENOSPC}])
    store.watch("t", 0)
    store.start()
    put(store, 0)
    assert select.select([store.moved_event_fd], [], [], 10)[0]
    assert store.queue_offsets("t", 0) == (0, 1)
    store.close()


def test_a_kill_while_a_queue_could_not_be_written(tmp_path):
    store = open_store(
        tmp_path, [{"call": "pwrite", "file": "consumequeue", "nth": 3, "times": -1, "errno": errno.EIO}]
    )
    for i in range(5):
        put(store, i)
    store.close(clean=False)
    assert open_store(tmp_path).queue_offsets("t", 0) == (0, 3)


def test_a_queue_that_could_not_be_synced_keeps_the_checkpoint_where_it_is(tmp_path):
    store = open_store(tmp_path, [{"call": "fdatasync", "file": "consumequeue", "errno": errno.EIO}])
    put(store, 0)
    store.checkpoint_step()  # a new file: the whole file system is synced
    durable = store.statistics()["durable_queue_offset"]
    put(store, 1)
    for _ in range(2):
        with pytest.raises(StoreError):
            store.checkpoint_step()
    assert store.statistics()["durable_queue_offset"] == durable
    assert put(store, 2).status == _store.ST_OK
    with pytest.raises(StoreError):
        store.close()
    store = open_store(tmp_path)
    assert store.queue_offsets("t", 0) == (0, 3)
    store.close()


@pytest.fixture
def other_file_system(tmp_path):
    """A folder on another file system than `tmp_path`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        if os.stat(folder).st_dev == os.stat(tmp_path).st_dev:
            pytest.skip("NOT TESTED: queue files on another file system, /dev/shm is where everything else is, too")
        yield folder


def test_queue_files_on_another_file_system_are_synced_there(tmp_path, other_file_system):
    (tmp_path / "consumequeue").symlink_to(other_file_system)
    # every first sync is that of the store's own file system, every second one theirs
    store = open_store(tmp_path, [{"call": "syncfs", "nth": 2, "errno": errno.EIO}])
    put(store, 0)
    store.flush_step()
    with pytest.raises(StoreError, match="Input/output error"):
        store.checkpoint_step()
    assert store.statistics()["checkpoints"] == 0
    with pytest.raises(StoreError):
        store.close()
    store = open_store(tmp_path)
    assert store.queues() == [("t", 0, 0, 1)]
    store.close()


def test_a_full_disk_keeps_nobody_from_making_room(tmp_path):
    """Before it deletes, retention notes in the checkpoint what is durable: that file has its block from the start."""
    store = open_store(tmp_path)
    assert (tmp_path / "checkpoint").stat().st_blocks > 0
    for i in range(300):
        put(store, i)
    assert store.delete_segments(1) == 1
    store.close()


def test_an_index_without_room_lags_and_catches_up(tmp_path):
    store = open_store(tmp_path, [{"call": "fallocate", "file": "index", "nth": 2, "times": 2, "errno": errno.ENOSPC}])
    placed = [put(store, i) for i in range(50)]
    assert store.index_step() == -1
    assert store.index_step() == -1
    assert store.indexed_offset == 0
    while store.index_step() > 0:
        pass
    for i in (0, 20, 49):
        assert store.query_index("t", f"k{i}", 5, 0, 1 << 60)[0] == [placed[i].log_offset]
    store.close()


def test_a_full_disk_refuses_and_recovers(tmp_path):
    store = open_store(
        tmp_path, [{"call": "fallocate", "file": "commitlog", "nth": 2, "times": 4, "errno": errno.ENOSPC}]
    )
    statuses = [put(store, i, size=2000).status for i in range(20)]
    assert set(statuses) == {_store.ST_OK, _store.ST_DISK_FULL}
    assert statuses[-1] == _store.ST_OK
    assert store.queue_offsets("t", 0) == (0, statuses.count(_store.ST_OK))
    store.close()


@pytest.mark.parametrize(
    "entry", [{"call": "teleport"}, {"call": "pwrite", "file": "moon"}, {"call": "pwrite", "when": 3}]
)
def test_a_script_with_a_mistake_is_refused(tmp_path, entry):
    with pytest.raises(UsageError):
        open_store(tmp_path, [entry])
