"""Attempts to crash the process: use after close, closing twice, closing under a reader, odd arguments."""

import gc
import threading

import pytest

from fastmq import _store
from fastmq.errors import FastmqError, StoreError

SIZES = {"segment_bytes": 16_384, "queue_file_bytes": 400, "index_slots": 7, "index_entries": 20}


def open_store(path, **settings):
    return _store.Store(str(path), store_host=("127.0.0.1", 1), **(SIZES | settings))


CALLS = {
    "start": lambda s: s.start(),
    "set_topic": lambda s: s.set_topic("t", perm=6, read_queues=1, write_queues=1, flags=0),
    "remove_topic": lambda s: s.remove_topic("t"),
    "delete_topic_data": lambda s: s.delete_topic_data("t"),
    "queues": lambda s: s.queues(),
    "queue_offsets": lambda s: s.queue_offsets("t", 0),
    "read_queue": lambda s: s.read_queue("t", 0, 0, 10),
    "read_messages": lambda s: s.read_messages([(0, 92)]),
    "read_record": lambda s: s.read_record(0),
    "queue_entries": lambda s: s.queue_entries("t", 0, 0, 10),
    "search_offset": lambda s: s.search_offset("t", 0, 5),
    "store_timestamp_at": lambda s: s.store_timestamp_at("t", 0, 0),
    "earliest": lambda s: s.earliest_store_timestamp(),
    "query_index": lambda s: s.query_index("t", "k", 10, 0, 1 << 60),
    "watch": lambda s: s.watch("t", 0),
    "take_moved": lambda s: s.take_moved(),
    "request_flush": lambda s: s.request_flush(),
    "flush_step": lambda s: s.flush_step(),
    "index_step": lambda s: s.index_step(),
    "allocate_step": lambda s: s.allocate_step(),
    "checkpoint_step": lambda s: s.checkpoint_step(),
    "segments": lambda s: s.segments(),
    "delete_segments": lambda s: s.delete_segments(1),
    "set_disk_full": lambda s: s.set_disk_full(True),
    "set_writeable": lambda s: s.set_writeable(True),
    "reconfigure": lambda s: s.reconfigure(sync_flush=True),
    "statistics": lambda s: s.statistics(),
}


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_use_after_close(tmp_path, call, clean):
    store = open_store(tmp_path)
    store.put("t", 0, b"", b"KEYS\1k\2")
    store.close(clean=clean)
    with pytest.raises(StoreError, match="closed"):
        CALLS[call](store)


def test_appending_after_close_is_refused(tmp_path):
    store = open_store(tmp_path)
    store.close()
    assert store.put("t", 0, b"", b"").status == _store.ST_CLOSED
    assert store.put_batch("t", 0, b"x" * 30)[0] == _store.ST_CLOSED


def test_positions_can_be_asked_for_ever(tmp_path):
    store = open_store(tmp_path)
    store.put("t", 0, b"", b"")
    end = store.written_offset
    store.close()
    store.close()
    store.close(clean=False)
    assert (store.written_offset, store.flushed_offset, store.dispatched_offset, store.failed) == (end, end, end, None)
    assert store.min_log_offset >= 0


def test_a_store_that_was_dropped(tmp_path):
    for threads in (False, True):
        store = open_store(tmp_path)
        if threads:
            store.start()
        store.put("t", 0, b"", b"")
        if threads:
            store.close()
        del store
        gc.collect()
    assert open_store(tmp_path).queue_offsets("t", 0) == (0, 2)


def test_an_unopened_store(tmp_path):
    store = _store.Store.__new__(_store.Store)
    for call in CALLS.values():
        with pytest.raises(StoreError):
            call(store)
    store.close()


def test_opening_twice(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(FastmqError):
        store.__init__(str(tmp_path), store_host=("127.0.0.1", 1))
    store.close()


def test_closing_under_readers_and_writers(tmp_path):
    store = open_store(tmp_path, sync_flush=True)
    store.start()
    failures = []
    begun = threading.Barrier(6)

    def work(kind: int) -> None:
        begun.wait()
        i = 0
        try:
            while True:
                i += 1
                if kind == 0:
                    if store.put("t", i % 3, b"x" * 500, b"KEYS\1k\2").status == _store.ST_CLOSED:
                        return
                elif kind == 1:
                    result = store.read_queue("t", i % 3, i % 50, 32)
                    store.read_messages(result.messages)
                elif kind == 2:
                    store.query_index("t", "k", 64, 0, 1 << 60)
                elif kind == 3:
                    store.delete_segments(1)
                else:
                    store.checkpoint_step()
        except StoreError as error:
            if "closed" not in str(error):
                failures.append(error)

    workers = [threading.Thread(target=work, args=(kind,)) for kind in range(5)]
    for worker in workers:
        worker.start()
    begun.wait()
    while store.written_offset < 400_000:
        store.flush_step()
    store.close()
    for worker in workers:
        worker.join()
    assert failures == []
    again = open_store(tmp_path)
    assert again.recovery_log == []
    again.close()


def test_readers_while_segments_go(tmp_path):
    """A record is copied whole or not at all, however fast its file is deleted."""
    store = open_store(tmp_path)
    placed = [store.put("t", 0, b"%06d" % i + b"x" * 1000, b"") for i in range(900)]
    stop = threading.Event()
    bad = []

    def read() -> None:
        while not stop.is_set():
            for i in range(0, 900, 7):
                data = store.read_messages([(placed[i].log_offset, placed[i].size)])
                if data and data[88:94] != b"%06d" % i:
                    bad.append(i)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    while store.delete_segments(1):
        pass
    stop.set()
    for reader in readers:
        reader.join()
    assert bad == []
    store.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.read_messages([(0,)]),
        lambda s: s.read_messages([("a", 1)]),
        lambda s: s.read_messages([(1 << 70, 1)]),
        lambda s: s.read_messages(5),
        lambda s: s.read_record("x"),
        lambda s: s.put("t", 0, "text", b""),
        lambda s: s.put(None, 0, b"", b""),
        lambda s: s.put("t", 0, b"", None),
        lambda s: s.put("t", 0, b"", b"", born_host=("x", 1)),
        lambda s: s.put("t", 0, b"", b"", tags_code="a"),
        lambda s: s.put("t", 1 << 70, b"", b""),
        lambda s: s.put_batch("t", 0, None),
        lambda s: s.read_queue("t", 0, 0, 1, tag_codes=frozenset(["a"])),
        lambda s: s.queue_entries(None, 0, 0, 1),
        lambda s: s.query_index(None, "k", 1, 0, 1),
        lambda s: s.query_index("t", None, 1, 0, 1),
        lambda s: s.set_topic("", perm=1, read_queues=1, write_queues=1, flags=0),
        lambda s: s.put("\udc80", 0, b"", b""),
        lambda s: s.watch("t", -1),
    ],
)
def test_wrong_arguments_raise(tmp_path, call):
    store = open_store(tmp_path)
    store.put("t", 0, b"", b"")
    with pytest.raises((TypeError, ValueError, OverflowError, FastmqError, UnicodeError)):
        call(store)
    assert store.put("t", 0, b"", b"").status == _store.ST_OK
    store.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.read_queue("t", 0, -(1 << 63), 1 << 60, max_bytes=-1, max_scanned=-5),
        lambda s: s.read_queue("t", 0, (1 << 63) - 1, -1),
        lambda s: s.queue_entries("t", 0, -5, -5),
        lambda s: s.queue_entries("t", -1, 0, 5),
        lambda s: s.queue_offsets("t", 1 << 40),
        lambda s: s.search_offset("t", 0, -(1 << 63)),
        lambda s: s.store_timestamp_at("t", 0, 1 << 62),
        lambda s: s.query_index("t", "", -1, 5, -5),
        lambda s: s.index_step(-1),
        lambda s: s.delete_segments(-1),
        lambda s: s.read_messages([((1 << 63) - 1, (1 << 63) - 1)]),
        lambda s: s.read_messages([(0, 1 << 62)]),
        lambda s: s.put("t", 0, b"", b"\1\1\1\2\2\2\1KEYS\1TAGS\1\2KEYS\1 \2"),
        lambda s: s.put("t", 0, b"", b"\xff\xfeTAGS\1\xff\2"),
    ],
)
def test_strange_arguments_do_no_harm(tmp_path, call):
    store = open_store(tmp_path)
    store.put("t", 0, b"x", b"KEYS\1k\2")
    call(store)
    while store.index_step() > 0:
        pass
    store.close()
