"""consumequeue_ext: units beside queue entries, as RocketMQ writes them."""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any

import pytest

from fastmq import _store
from fastmq._store import Store, java_hash
from fastmq.errors import StoreError

EXT_FILE = 2048
FIRST = -(1 << 63)


def open_store(path: Path, **settings: Any) -> Store:
    sizes = {"segment_bytes": 16_384, "queue_file_bytes": 400, "allocate_step_bytes": 8192, "ext_file_bytes": EXT_FILE}
    return Store(str(path), store_host=("127.0.0.1", 1), **{"ext_enabled": True, **sizes, **settings})  # type: ignore[arg-type]


def fill(store: Store, count: int, *, tags: str = "red", size: int = 10, start: int = 0) -> None:
    for number in range(start, start + count):
        properties = f"TAGS\x01{tags}\x02n\x01{number}\x02".encode()
        assert store.put("t", 0, b"%d" % number + b"x" * size, properties).status == _store.ST_OK


def raw_codes(path: Path, queue: int = 0) -> list[int]:
    """The third field of all entries in the queue's files."""
    data = b"".join(file.read_bytes() for file in sorted((path / "consumequeue" / "t" / str(queue)).iterdir()))
    entries = [struct.unpack_from(">qiq", data, at) for at in range(0, len(data), 20)]
    return [code for _, size, code in entries if size]


def units(path: Path, queue: int = 0) -> dict[int, tuple[int, int, int, bytes]]:
    """Units by address: size, tags code, store time, bit map. Checks how files end."""
    found = {}
    for file in sorted((path / "consumequeue_ext" / "t" / str(queue)).iterdir()):
        data = file.read_bytes()
        assert len(data) == EXT_FILE
        at = 0
        while (size := struct.unpack_from(">h", data, at)[0]) > 0:
            _, code, time, bits = struct.unpack_from(">hqqh", data, at)
            found[FIRST + int(file.name) + at] = size, code, time, data[at + 20 : at + 20 + bits]
            at += size
        assert at <= EXT_FILE - 4
        if size == -1:
            assert not any(data[at + 2 :])
    return found


def test_each_entry_names_its_unit(tmp_path: Path) -> None:
    store = open_store(tmp_path, wall_clock_ms=lambda: 1_234_567)
    fill(store, 3)
    store.close()
    assert raw_codes(tmp_path) == [FIRST, FIRST + 20, FIRST + 40]
    assert list(units(tmp_path).values()) == [(20, java_hash("red"), 1_234_567, b"")] * 3


def test_bit_maps_come_from_whoever_is_asked(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    asked = []

    def bit_maps(topic: str, properties: bytes) -> bytes | None:
        asked.append((topic, properties))
        return b"\x01\x02" if b"n\x011\x02" in properties else None

    store.bit_maps = bit_maps
    fill(store, 3)
    store.close()
    assert asked[0] == ("t", b"TAGS\x01red\x02n\x010\x02")
    assert [unit[3] for unit in units(tmp_path).values()] == [b"", b"\x01\x02", b""]


@pytest.mark.parametrize("sync", [False, True])
def test_files_roll_and_go_on_after_a_restart(tmp_path: Path, sync: bool) -> None:
    for start in range(0, 500, 100):
        store = open_store(tmp_path, sync_flush=sync)
        fill(store, 100, start=start)
        store.flush_step()
        assert [code for _, _, code in store.queue_entries("t", 0, 0, 1000)] == [java_hash("red")] * (start + 100)
        store.close(clean=start % 200 == 0)
    written = units(tmp_path)
    assert set(raw_codes(tmp_path)) <= set(written)
    assert len(set(raw_codes(tmp_path))) == 500
    assert len(list((tmp_path / "consumequeue_ext" / "t" / "0").iterdir())) >= 5


def test_tags_are_filtered_through_units(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 2, tags="red")
    fill(store, 2, tags="blue", start=2)
    result = store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("blue")}))
    assert [b"3xxx" in store.read_messages([m]) or b"2xxx" in store.read_messages([m]) for m in result.messages] == [
        True
    ] * 2
    store.close()
    # also by a store that writes none
    store = open_store(tmp_path, ext_enabled=False)
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("red")})).messages) == 2
    fill(store, 2, tags="red", start=4)
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("red")})).messages) == 4
    store.close()
    assert raw_codes(tmp_path)[4:] == [java_hash("red")] * 2


@pytest.mark.parametrize("damage", ["missing", "zeroed", "another file size"])
def test_what_cannot_be_read_lets_everything_match(tmp_path: Path, damage: str) -> None:
    store = open_store(tmp_path)
    fill(store, 4)
    store.close()
    (file,) = (tmp_path / "consumequeue_ext" / "t" / "0").iterdir()
    settings: dict[str, Any] = {"ext_enabled": False}
    if damage == "missing":
        file.unlink()
    elif damage == "zeroed":
        file.write_bytes(bytes(EXT_FILE))
    else:
        settings["ext_file_bytes"] = 4096
    store = open_store(tmp_path, **settings)
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("blue")})).messages) == 4
    store.close()


def test_writing_with_another_file_size_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 4)
    store.close()
    with pytest.raises(StoreError, match="configured file size is 4096"):
        open_store(tmp_path, ext_file_bytes=4096)


def test_new_units_do_not_overwrite_lost_ones(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 4)
    store.close()
    (file,) = (tmp_path / "consumequeue_ext" / "t" / "0").iterdir()
    file.write_bytes(bytes(EXT_FILE))
    store = open_store(tmp_path)
    fill(store, 1, tags="blue", start=4)
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("blue")})).messages) == 5
    store.close()
    assert raw_codes(tmp_path)[4] == FIRST + EXT_FILE


@pytest.mark.parametrize("address", [1 << 46, 3 * EXT_FILE, 40, EXT_FILE - 10])
def test_an_address_that_was_damaged_does_not_stop_the_next_start(tmp_path: Path, address: int) -> None:
    """New units follow the files there are, wherever the newest entry points: a hole between files is refused."""
    store = open_store(tmp_path)
    fill(store, 4)
    store.close()
    before = set(units(tmp_path).items())
    with (tmp_path / "consumequeue/t/0/00000000000000000000").open("r+b") as file:
        file.seek(3 * 20 + 12)
        file.write(struct.pack(">q", FIRST + address))
    for start in (4, 6):
        store = open_store(tmp_path)
        fill(store, 2, tags="blue", start=start)
        store.close()
    now = units(tmp_path)
    assert {int(file.name) for file in (tmp_path / "consumequeue_ext/t/0").iterdir()} <= {0, EXT_FILE}
    assert set(raw_codes(tmp_path)[4:]) <= set(now)
    if address != 40:
        assert before <= set(now.items())


def test_queues_built_anew_have_units(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 50)
    store.close(clean=False)
    for file in (tmp_path / "consumequeue" / "t" / "0").iterdir():
        file.unlink()
    store = open_store(tmp_path)
    assert [code for _, _, code in store.queue_entries("t", 0, 0, 100)] == [java_hash("red")] * 50
    store.close()
    assert all(code in units(tmp_path) for code in raw_codes(tmp_path))


@pytest.mark.parametrize(
    "fault",
    [
        {"call": "pwrite", "file": "consumequeue_ext", "nth": 3, "errno": errno.ENOSPC},
        {"call": "pwrite", "file": "consumequeue_ext", "nth": 3, "short": 7},
        {"call": "open", "file": "consumequeue_ext", "nth": 1, "times": 3, "errno": errno.EIO},
        {"call": "ftruncate", "file": "consumequeue_ext", "nth": 1, "errno": errno.ENOSPC},
        {"call": "mkdir", "file": "consumequeue_ext", "nth": 1, "errno": errno.EACCES},
    ],
)
def test_what_cannot_be_written_is_left_out(tmp_path: Path, fault: dict[str, Any]) -> None:
    store = open_store(tmp_path, fault_script=[fault])
    fill(store, 6)
    assert store.statistics()["ext_failures"] >= 1
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("red")})).messages) == 6
    assert store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("blue")})).messages == []
    store.close()
    store = open_store(tmp_path)
    assert [code for _, _, code in store.queue_entries("t", 0, 0, 100)] == [java_hash("red")] * 6
    store.close()
    assert java_hash("red") in raw_codes(tmp_path)


def test_a_read_that_fails_lets_match(tmp_path: Path) -> None:
    store = open_store(
        tmp_path, fault_script=[{"call": "pread", "file": "consumequeue_ext", "nth": 1, "errno": errno.EIO}]
    )
    fill(store, 2)
    assert len(store.read_queue("t", 0, 0, 32, tag_codes=frozenset({java_hash("blue")})).messages) == 1
    store.close()


def test_old_files_leave_with_the_log(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 400, size=100)
    folder = tmp_path / "consumequeue_ext" / "t" / "0"
    before = sorted(folder.iterdir())
    store.flush_step()
    store.delete_segments(len(store.segments()) - 1)
    after = sorted(folder.iterdir())
    assert 0 < len(after) < len(before)
    assert after == before[-len(after) :]
    low, high = store.queue_offsets("t", 0) or (0, 0)
    assert [code for _, _, code in store.queue_entries("t", 0, low, 1000)] == [java_hash("red")] * (high - low)
    store.close()
    store = open_store(tmp_path)
    fill(store, 10, start=400)
    store.close()


def test_deleted_topics_leave_nothing(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    fill(store, 200)
    store.delete_topic_data("t")
    assert not (tmp_path / "consumequeue_ext" / "t" / "0").exists()
    fill(store, 1, tags="blue")
    assert store.queue_entries("t", 0, 0, 10)[0][2] == java_hash("blue")
    store.close()
    assert raw_codes(tmp_path) == [FIRST]


def test_the_time_of_delayed_messages_is_found(tmp_path: Path) -> None:
    store = open_store(tmp_path, delay_levels_ms=(1000,), wall_clock_ms=lambda: 5000)
    store.put("SCHEDULE_TOPIC_XXXX", 0, b"x", b"DELAY\x011\x02")
    assert store.queue_entries("SCHEDULE_TOPIC_XXXX", 0, 0, 1)[0][2] == 6000
    store.close()


def test_properties_by_bit_map(tmp_path: Path) -> None:
    now = [1000]
    store = open_store(tmp_path, wall_clock_ms=lambda: now[0])
    maps = iter([b"\x03", b"\x01", None, b"\x03\x00", b"\x01"])
    store.bit_maps = lambda topic, properties: next(maps)
    fill(store, 4)
    now[0] = 3000
    fill(store, 1, start=4)

    def kinds(since_ms: int) -> list[object]:
        found = store.queue_properties("t", 0, 0, 10, bits=(0, 1), bit_count=8, since_ms=since_ms)
        return [True if isinstance(one, bytes) else one for one in found]

    assert kinds(999) == [True, False, True, True, False]
    assert kinds(1000) == [True, True, True, True, False]
    assert kinds(3000) == [True] * 5
    assert store.queue_properties("t", 0, 3, 1) == [b"TAGS\x01red\x02n\x013\x02"]
    assert store.queue_properties("t", 0, 5, 1) == []
    assert store.queue_properties("t", 9, 0, 1) == []
    store.close()
