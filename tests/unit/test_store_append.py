"""Appending: the bytes of a record, offsets, batches, roll-over, limits and refusals."""

import struct
import zlib
from pathlib import Path

import pytest

from fastmq import _store
from fastmq.errors import UsageError

NOW = 1_700_000_000_123


@pytest.fixture
def open_store(tmp_path):
    opened = []

    def open_it(**settings):
        defaults = {
            "segment_bytes": 16_384,
            "queue_file_bytes": 400,
            "index_slots": 7,
            "index_entries": 50,
            "allocate_step_bytes": 4096,
            "wall_clock_ms": lambda: NOW,
        }
        store = _store.Store(str(tmp_path / "store"), store_host=("10.1.2.3", 10911), **(defaults | settings))
        opened.append(store)
        return store

    yield open_it
    for store in opened:
        store.close(clean=False)


def batch_of(*messages: tuple[bytes, bytes]) -> bytes:
    out = b""
    for body, properties in messages:
        out += struct.pack(">iiiii", 22 + len(body) + len(properties), 0, 0, 7, len(body)) + body
        out += struct.pack(">H", len(properties)) + properties
    return out


def test_record_bytes(open_store):
    """Every byte of a record with IPv4 hosts, as Apache's broker would read it."""
    store = open_store()
    store.put("t", 3, b"first", b"")
    done = store.put(
        "orders",
        3,
        b"body!",
        b"TAGS\1a\2",
        flag=5,
        sys_flag=0x1,
        born_timestamp_ms=77,
        born_host=("192.0.2.9", 555),
        reconsume_times=2,
        prepared_offset=9,
    )
    expected = struct.pack(
        ">iIIiiqqiq", 91 + 5 + 6 + 7, 0xDAA320A7, zlib.crc32(b"body!") & 0x7FFFFFFF, 3, 5, 0, 97, 1, 77
    )
    expected += (
        bytes([192, 0, 2, 9]) + struct.pack(">iq", 555, NOW) + bytes([10, 1, 2, 3]) + struct.pack(">iiq", 10911, 2, 9)
    )
    expected += struct.pack(">i", 5) + b"body!" + b"\6orders" + struct.pack(">h", 7) + b"TAGS\1a\2"
    assert store.read_record(done.log_offset) == expected
    assert (done.log_offset, done.size, done.queue_offset, done.store_timestamp_ms) == (97, len(expected), 0, NOW)
    assert store.queue_entries("orders", 3, 0, 5) == [(97, len(expected), _store.java_hash("a"))]
    on_disk = Path(store.segments()[0][0]).read_bytes()
    assert on_disk[97 : 97 + len(expected)] == expected


def test_ipv6_born_host(open_store):
    store = open_store()
    record = store.read_record(store.put("t", 0, b"b", b"", born_host=("2001:db8::1", 1)).log_offset)
    assert struct.unpack_from(">i", record, 36)[0] & 0x30 == 0x10
    assert len(record) == 91 + 12 + 1 + 1
    assert record[48:68] == bytes.fromhex("20010db800000000000000000000000100000001")


def test_a_long_topic_makes_a_v2_record(open_store):
    store = open_store()
    topic = "%RETRY%" + "x" * 200
    record = store.read_record(store.put(topic, 0, b"b", b"").log_offset)
    assert struct.unpack_from(">I", record, 4)[0] == 0xDAA320AB
    assert record[89:91] == struct.pack(">H", 207)
    assert store.queue_offsets(topic, 0) == (0, 1)


def test_offsets_count_per_queue(open_store):
    store = open_store()
    for i in range(30):
        done = store.put("t", i % 3, b"%d" % i, b"")
        assert done.queue_offset == i // 3
    assert store.queues() == [("t", 0, 0, 10), ("t", 1, 0, 10), ("t", 2, 0, 10)]
    assert store.queue_offsets("t", 3) is None
    assert store.queue_offsets("unknown", 0) is None


def test_prepared_and_rolled_back_messages_enter_no_queue(open_store):
    store = open_store()
    for sys_flag in (0x4, 0xC):
        done = store.put("t", 0, b"half", b"KEYS\1k\2", sys_flag=sys_flag)
        assert (done.status, done.queue_offset) == (0, 0)
    assert store.queue_offsets("t", 0) is None
    assert store.put("t", 0, b"whole", b"", sys_flag=0x8).queue_offset == 0
    assert store.queue_offsets("t", 0) == (0, 1)


def test_store_time_never_goes_back(open_store):
    times = iter([1000, 900, 1001])
    store = open_store(wall_clock_ms=lambda: next(times))
    assert [store.put("t", 0, b"", b"").store_timestamp_ms for _ in range(3)] == [1000, 1000, 1001]


def test_store_time_does_not_stay_where_a_wrong_clock_was(open_store):
    """A machine that starts with a clock in the future: messages with a delay must not wait for that time."""
    times = iter([5_000_000, 20_000, 10_000, 9_999, 9_000, 20_001])
    store = open_store(wall_clock_ms=lambda: next(times), delay_levels_ms=[1000])
    stored = [store.put("SCHEDULE_TOPIC_XXXX", 0, b"", b"DELAY\x011\x02") for _ in range(6)]
    assert [done.store_timestamp_ms for done in stored] == [5_000_000, 20_000, 20_000, 9_999, 9_999, 20_001]
    assert [code for _, _, code in store.queue_entries("SCHEDULE_TOPIC_XXXX", 0, 0, 2)] == [5_001_000, 21_000]


def test_a_delayed_message_carries_its_due_time(open_store):
    store = open_store(delay_levels_ms=[1000, 5000])
    for level in (b"1", b"2", b"9", b"x"):
        store.put("SCHEDULE_TOPIC_XXXX", 0, b"", b"DELAY\1" + level + b"\2TAGS\1a\2")
    codes = [entry[2] for entry in store.queue_entries("SCHEDULE_TOPIC_XXXX", 0, 0, 9)]
    assert codes == [NOW + 1000, NOW + 5000, NOW + 5000, _store.java_hash("a")]


def test_tags_code_of_non_ascii_tags(open_store):
    store = open_store()
    for tags in ("größe", "🚀 fast", "中文"):
        store.put("t", 0, b"", f"A\1b\2TAGS\1{tags}\2".encode())
    codes = [entry[2] for entry in store.queue_entries("t", 0, 0, 9)]
    assert codes == [_store.java_hash(tags) for tags in ("größe", "🚀 fast", "中文")]


def test_a_full_file_ends_with_a_filler(open_store):
    """A record needs 8 bytes more than itself; what does not fit goes to the next file, behind a filler."""
    store = open_store()
    first = store.put("t", 0, b"x" * 10_000, b"")
    room = 16_384 - first.size
    store.put("t", 0, b"y" * (room - 8 - 92 + 1), b"")  # one byte too long
    (path, _base, size, _), (_p, base, _s, _t) = store.segments()
    data = Path(path).read_bytes()
    assert (size, base) == (16_384, 16_384)
    assert data[first.size : first.size + 8] == struct.pack(">iI", room, 0xCBD43194)
    assert [entry[0] for entry in store.queue_entries("t", 0, 0, 9)] == [0, 16_384]


def test_a_file_filled_to_its_last_eight_bytes(open_store):
    store = open_store()
    store.put("t", 0, b"y" * (16_384 - 8 - 92), b"")
    assert store.put("t", 0, b"z", b"").log_offset == 16_384
    assert len(store.read_queue("t", 0, 0, 32).messages) == 2


def test_batch_is_contiguous_and_shares_its_header(open_store):
    store = open_store()
    store.put("t", 1, b"x" * 16_000, b"")
    status, placed = store.put_batch(
        "t",
        1,
        batch_of((b"a" * 200, b"TAGS\1x\2"), (b"bb", b""), (b"", b"K\1v\2")),
        sys_flag=0,
        born_timestamp_ms=5,
        born_host=("192.0.2.1", 9),
    )
    assert status == _store.ST_OK
    assert [p.queue_offset for p in placed] == [1, 2, 3]
    assert placed[0].log_offset == 16_384
    assert [b.log_offset for b in placed[1:]] == [a.log_offset + a.size for a in placed[:-1]]
    record = store.read_record(placed[1].log_offset)
    assert struct.unpack_from(">i", record, 16)[0] == 7
    assert placed[0].flush_target == placed[2].log_offset + placed[2].size
    assert store.queue_entries("t", 1, 1, 3)[0][2] == _store.java_hash("x")


@pytest.mark.parametrize("cut", [1, 3, 19, 21, 25])
def test_a_malformed_batch_places_nothing(open_store, cut):
    store = open_store()
    whole = batch_of((b"aaaa", b"K\1v\2"), (b"bb", b""))
    assert store.put_batch("t", 0, whole[:-cut]) == (_store.ST_BAD_BATCH, [])
    assert store.put_batch("t", 0, whole[:4] + b"\xff" * 20) == (_store.ST_BAD_BATCH, [])
    assert store.put_batch("t", 0, b"") == (_store.ST_BAD_BATCH, [])
    assert store.written_offset == 0
    assert store.queue_offsets("t", 0) is None


def test_limits(open_store):
    store = open_store(max_message_bytes=1000)
    assert store.put("t", 0, b"x" * 1000, b"").status == _store.ST_OK
    assert store.put("t", 0, b"x" * 1001, b"").status == _store.ST_BODY_TOO_LARGE
    assert store.put("t", 0, b"", b"p" * 32_768).status == _store.ST_PROPERTIES_TOO_LARGE
    assert store.put("t", 0, b"", b"p" * 32_767).status == _store.ST_RECORD_TOO_LARGE  # of this small file
    assert store.put("", 0, b"", b"").status == _store.ST_TOPIC_TOO_LONG
    assert store.put("t" * 256, 0, b"", b"").status == _store.ST_TOPIC_TOO_LONG
    refused = store.put("t", 0, b"x" * 1001, b"")
    assert (refused.log_offset, refused.queue_offset) == (-1, -1)
    assert store.queue_offsets("t", 0) == (0, 1)
    store.reconfigure(max_message_bytes=2000)
    assert store.put("t", 0, b"x" * 1001, b"").status == _store.ST_OK


@pytest.mark.parametrize(("topic", "queue"), [("a/b", 0), ("..", 0), ("t", -1), ("t", 1 << 40)])
def test_a_queue_that_cannot_have_a_directory_is_refused(open_store, topic, queue):
    with pytest.raises(UsageError):
        open_store().put(topic, queue, b"", b"")


def test_refusals_by_the_broker(open_store):
    store = open_store()
    store.set_disk_full(True)
    assert store.put("t", 0, b"", b"").status == _store.ST_DISK_FULL
    store.set_disk_full(False)
    store.set_writeable(False)
    assert store.put("t", 0, b"", b"").status == _store.ST_NOT_WRITEABLE
    assert store.put_batch("t", 0, batch_of((b"", b"")))[0] == _store.ST_NOT_WRITEABLE
    store.set_writeable(True)
    assert store.put("t", 0, b"", b"").status == _store.ST_OK


def test_multi_tag_topics_mark_their_messages(open_store):
    store = open_store()
    store.set_topic("m", perm=6, read_queues=1, write_queues=1, flags=2)
    record = store.read_record(store.put("m", 0, b"", b"").log_offset)
    assert struct.unpack_from(">i", record, 36)[0] == 2


def test_an_idle_store_takes_little_disk(tmp_path):
    """1 GiB log files and 420 MB index files keep their lengths, but get blocks only as they fill."""
    store = _store.Store(str(tmp_path), store_host=("127.0.0.1", 1))
    store.put("t", 0, b"x", b"KEYS\1k\2")
    while store.allocate_step() > 0:
        pass
    while store.index_step() > 0:
        pass
    blocks = sum(path.stat().st_blocks * 512 for path in tmp_path.rglob("*"))
    sizes = sorted(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    store.close()
    assert blocks < 100_000_000
    assert sizes[-3:] == [6_000_000, 420_000_040, 1 << 30]


def test_segments_are_made_ahead_of_time(open_store):
    store = open_store(segment_bytes=65_536, allocate_step_bytes=65_536)
    store.put("t", 0, b"x", b"")
    assert store.allocate_step() == 1
    assert store.allocate_step() == 0
    inline = store.statistics()["inline_allocations"]
    for _ in range(70):
        store.put("t", 0, b"x" * 1000, b"")
    assert store.statistics()["inline_allocations"] == inline
    assert len(store.segments()) == 2
