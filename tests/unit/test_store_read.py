"""Reading: RocketMQ's getMessage rules, offsets by time, keys, and being told of new messages."""

import os
import select

import pytest

from fastmq import _store


@pytest.fixture
def store(tmp_path):
    clock = [1_000_000]
    store = _store.Store(
        str(tmp_path),
        store_host=("127.0.0.1", 1),
        segment_bytes=65_536,
        queue_file_bytes=2000,
        index_slots=13,
        index_entries=50,
        wall_clock_ms=lambda: clock[0],
    )
    store_clock[store] = clock
    yield store
    store.close(clean=False)


store_clock: dict[_store.Store, list[int]] = {}


def fill(store, count, size=100, topic="t", queue=0):
    return [
        store.put(topic, queue, b"%d." % i + b"x" * size, b"TAGS\1%s\2KEYS\1k%d all\2" % ((b"a", b"b", b"c")[i % 3], i))
        for i in range(count)
    ]


def test_statuses(store):
    assert store.read_queue("t", 0, 0, 1).status == _store.NO_MATCHED_LOGIC_QUEUE
    store.watch("t", 0)
    fill(store, 10)
    for offset, status, following in [
        (-1, _store.OFFSET_TOO_SMALL, 0),
        (10, _store.OFFSET_OVERFLOW_ONE, 10),
        (11, _store.OFFSET_OVERFLOW_BADLY, 10),
        (9, _store.FOUND, 10),
    ]:
        result = store.read_queue("t", 0, offset, 32)
        assert (result.status, result.next_offset, result.min_offset, result.max_offset) == (status, following, 0, 10)


def test_count_and_bytes_bound_a_batch(store):
    placed = fill(store, 100)
    assert len(store.read_queue("t", 0, 0, 5).messages) == 5
    assert len(store.read_queue("t", 0, 0, 99).messages) == 32  # maxTransferCountOnMessageInMemory
    assert len(store.read_queue("t", 0, 0, 99, max_bytes=placed[0].size * 3 + 5).messages) == 3
    assert len(store.read_queue("t", 0, 0, 99, max_bytes=1).messages) == 1
    result = store.read_queue("t", 0, 40, 5)
    assert result.messages == [(p.log_offset, p.size) for p in placed[40:45]]
    assert result.next_offset == 45
    store.reconfigure(transfer_count_in_memory=64)
    assert len(store.read_queue("t", 0, 0, 99).messages) == 64
    store.reconfigure(memory_ratio=0)
    cold = store.read_queue("t", 0, 0, 99)
    assert (len(cold.messages), cold.suggest_slave) == (8, True)  # maxTransferCountOnMessageInDisk
    assert not store.read_queue("t", 0, 100, 99).suggest_slave


def test_filter_by_tag_codes(store):
    placed = fill(store, 90)
    a = frozenset([_store.java_hash("a")])
    result = store.read_queue("t", 0, 0, 10, tag_codes=a)
    assert result.messages == [(p.log_offset, p.size) for p in placed[0:30:3]]
    assert result.next_offset == 28  # right behind the last one taken
    nothing = store.read_queue("t", 0, 0, 10, tag_codes=frozenset([1]), max_scanned=50)
    assert (nothing.status, nothing.next_offset, nothing.messages) == (_store.NO_MATCHED_MESSAGE, 50, [])
    both = store.read_queue("t", 0, 60, 32, tag_codes=frozenset([_store.java_hash("b"), _store.java_hash("c")]))
    assert len(both.messages) == 20


def test_records_that_are_gone_are_stepped_over(store):
    placed = fill(store, 1200)
    store.flush_step()
    assert store.delete_segments(2) == 2
    low, high = store.queue_offsets("t", 0)
    assert placed[low].log_offset >= store.min_log_offset > placed[low - 1].log_offset
    assert high == 1200
    assert store.read_queue("t", 0, 0, 32).status == _store.OFFSET_TOO_SMALL
    assert store.read_queue("t", 0, low, 32).status == _store.FOUND
    assert store.read_messages([(0, 100), (placed[-1].log_offset, placed[-1].size)])[-3:] == b"all\2"[-3:]
    assert store.read_record(0) is None


def test_offsets_by_time(store):
    clock = store_clock[store]
    for ms in (10, 20, 20, 20, 40):
        clock[0] = ms
        store.put("t", 0, b"", b"")
    for time, lower, upper in [(0, 0, 0), (10, 0, 0), (15, 1, 0), (20, 1, 3), (30, 4, 3), (40, 4, 4), (50, 5, 4)]:
        assert store.search_offset("t", 0, time) == lower, time
        assert store.search_offset("t", 0, time, upper=True) == upper, time
    assert store.search_offset("other", 0, 5) == 0
    assert [store.store_timestamp_at("t", 0, i) for i in (-1, 0, 4, 5)] == [-1, 10, 40, -1]
    assert store.earliest_store_timestamp() == 10


def test_keys(store):
    clock = store_clock[store]
    placed = []
    for i in range(200):  # more than a file of 50 holds
        clock[0] += 1000
        placed.append(store.put("t", 0, b"%d" % i, b"UNIQ_KEY\1u%d\2KEYS\1k%d  even%d\2" % (i, i, i % 2)))
    while store.index_step(1000) > 0:
        pass
    assert store.indexed_offset == store.written_offset
    for i in (0, 1, 50, 199):
        for key in (f"u{i}", f"k{i}"):
            found, last_time, last_offset = store.query_index("t", key, 10, 0, 1 << 60)
            assert placed[i].log_offset in found
            assert (last_time, last_offset) == (clock[0], placed[-1].log_offset)
    newest = store.query_index("t", "even1", 7, 0, 1 << 60)[0]
    assert newest == [p.log_offset for p in placed[187::2]]
    middle = placed[100].store_timestamp_ms
    assert store.query_index("t", "k100", 7, middle - 2000, middle + 2000)[0] == [placed[100].log_offset]
    assert store.query_index("t", "k100", 7, middle + 5000, middle + 9000)[0] == []
    assert store.query_index("other", "k100", 7, 0, 1 << 60)[0] == []


def test_bytes_of_many_records(store):
    placed = fill(store, 40)
    wanted = [(p.log_offset, p.size) for p in placed[::-1]]
    assert store.read_messages(wanted) == b"".join(store.read_record(p.log_offset) for p in placed[::-1])
    assert store.read_messages([]) == b""
    assert store.read_messages([(store.written_offset - 10, 11), (-5, 10), (0, -1)]) == b""


@pytest.mark.parametrize("offset", [-1, 1, 50, 1 << 40, (1 << 63) - 1])
def test_no_record_where_none_begins(store, offset):
    fill(store, 3)
    assert store.read_record(offset) is None


def test_a_watched_queue_tells_once(store):
    fill(store, 2)
    assert store.watch("t", 0) == 2
    assert store.watch("t", 1) == 0
    assert not select.select([store.moved_event_fd], [], [], 0)[0]
    fill(store, 3)
    assert select.select([store.moved_event_fd], [], [], 0)[0]
    os.read(store.moved_event_fd, 8)
    assert store.take_moved() == [("t", 0, 5)]
    fill(store, 1)
    assert store.take_moved() == []
    store.watch("t", 0)
    store.watch("t", 0, False)
    fill(store, 1)
    assert store.take_moved() == []


def test_many_topics_and_queues(store):
    for i in range(600):
        store.put(f"topic-{i}", i % 40, b"%d" % i, b"")
    assert len(store.queues()) == 600
    for i in (0, 255, 256, 599):
        assert store.queue_offsets(f"topic-{i}", i % 40) == (0, 1)
