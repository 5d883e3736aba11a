"""Flushing: what is visible when, events, group commit, intervals, and the three threads."""

import contextlib
import os
import select
import threading
from pathlib import Path

import pytest

from fastmq import _store
from support.waiting import wait_until


def open_store(path, **settings):
    return _store.Store(
        str(path),
        store_host=("127.0.0.1", 1),
        **({"segment_bytes": 65_536, "queue_file_bytes": 2000, "index_slots": 7, "index_entries": 50} | settings),
    )


def wait_for(fd, condition):
    """Wait on an eventfd until the condition holds; ten seconds mean it never will."""
    while not condition():
        ready, _, _ = select.select([fd], [], [], 10)
        assert ready, "nothing happened"
        os.read(fd, 8)


def test_async_flush_shows_messages_at_once(tmp_path):
    store = open_store(tmp_path)
    done = store.put("t", 0, b"x", b"")
    assert store.queue_offsets("t", 0) == (0, 1)
    assert (store.flushed_offset, store.dispatched_offset) == (0, done.flush_target)
    assert store.flush_step() == done.flush_target
    assert store.flushed_offset == done.flush_target
    assert store.flush_step() == 0
    store.close()


def test_sync_flush_shows_messages_when_they_are_durable(tmp_path):
    store = open_store(tmp_path, sync_flush=True)
    store.watch("t", 0)
    done = store.put("t", 0, b"x", b"KEYS\1k\2")
    assert store.read_queue("t", 0, 0, 1).status == _store.NO_MESSAGE_IN_QUEUE
    assert store.index_step() == 0
    assert store.take_moved() == []
    store.flush_step()
    assert store.read_queue("t", 0, 0, 1).status == _store.FOUND
    assert store.take_moved() == [("t", 0, 1)]
    assert select.select([store.flush_event_fd], [], [], 0)[0]
    assert store.flushed_offset == done.flush_target
    store.close()


def test_switching_to_async_flush_shows_what_waited(tmp_path):
    store = open_store(tmp_path, sync_flush=True)
    store.put("t", 0, b"x", b"")
    store.reconfigure(sync_flush=False)
    assert store.queue_offsets("t", 0) == (0, 1)
    store.close()


def test_a_flush_over_several_files(tmp_path):
    store = open_store(tmp_path, sync_flush=True)
    for _ in range(300):
        store.put("t", 0, b"x" * 1000, b"")
    store.flush_step()
    assert store.flushed_offset == store.written_offset
    assert store.queue_offsets("t", 0) == (0, 300)
    store.close()


@pytest.mark.parametrize("sync", [True, False])
def test_the_threads_flush_and_index(tmp_path, sync):
    store = open_store(tmp_path, sync_flush=sync, flush_interval_ms=1, flush_least_pages=0)
    store.start()
    writers = [
        threading.Thread(target=lambda q=q: [store.put("t", q, b"x" * 300, b"KEYS\1k\2") for _ in range(300)])
        for q in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    wait_for(store.flush_event_fd, lambda: store.flushed_offset == store.written_offset)
    assert (
        store.queues() == [("t", 0, 0, 300), ("t", 1, 0, 300), ("t", 2, 0, 300)] or sorted(store.queues())[0][3] == 300
    )
    statistics = store.statistics()
    store.close()
    assert statistics["puts"] == 900
    again = open_store(tmp_path)
    assert again.recovery_log == []
    assert again.indexed_offset == again.written_offset
    assert sorted(again.queues()) == [("t", 0, 0, 300), ("t", 1, 0, 300), ("t", 2, 0, 300)]
    again.close()


def test_the_index_works_behind_all_others(tmp_path):
    store = open_store(tmp_path)
    store.start()

    def places():
        named = {}
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread of another test that ends
                named[(task / "comm").read_text().strip()] = int(task.name)
        return {
            name: (os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread))
            for name, thread in named.items()
            if name.startswith("fastmq-")
        }

    ordinary = (os.SCHED_OTHER, os.getpriority(os.PRIO_PROCESS, 0))
    behind = (os.SCHED_BATCH, min(19, ordinary[1] + 10))
    expected = {"fastmq-index": behind, "fastmq-flush": ordinary, "fastmq-alloc": ordinary}
    wait_until(lambda: places() == expected, f"the index is behind: {places()}")
    store.close()


def test_request_flush_does_not_wait_for_the_interval(tmp_path):
    store = open_store(tmp_path, flush_interval_ms=3_600_000)
    store.start()
    store.put("t", 0, b"x", b"")
    store.request_flush()
    wait_for(store.flush_event_fd, lambda: store.flushed_offset == store.written_offset)
    store.close()


def test_a_checkpoint_notes_what_is_durable(tmp_path):
    store = open_store(tmp_path)
    for i in range(100):
        store.put("t", i % 50, b"x", b"KEYS\1k\2")
    store.index_step(1000)
    store.checkpoint_step()
    statistics = store.statistics()
    assert statistics["durable_queue_offset"] == store.written_offset == store.flushed_offset
    assert 0 < statistics["durable_index_offset"] == store.indexed_offset < store.written_offset
    store.close()
