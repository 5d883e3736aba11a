"""Light queues: one record in more than one queue."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from fastmq import _store
from fastmq._store import Store, java_hash
from fastmq.protocol.message import decode_message, decode_properties

SIZES: dict[str, Any] = {"segment_bytes": 16_384, "queue_file_bytes": 400, "allocate_step_bytes": 8192}


def open_store(path: Path, **settings: Any) -> Store:
    return Store(str(path), store_host=("127.0.0.1", 1), **{"light_queues": True, **SIZES, **settings})


def put(store: Store, names: str, *, topic: str = "t", more: str = "", **facts: Any) -> Any:
    return store.put(topic, 0, b"body", f"{more}INNER_MULTI_DISPATCH\x01{names}\x02".encode(), **facts)


def offsets_in(store: Store, done: Any) -> str | None:
    record = store.read_record(done.log_offset)
    assert record is not None
    return decode_properties(decode_message(record)[0].properties).get("INNER_MULTI_QUEUE_OFFSET")


def ends(store: Store) -> dict[str, int]:
    return {topic: end for topic, _queue, _low, end in store.queues()}


def test_entries_in_every_queue(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    first = put(store, "%LMQ%a,%LMQ%b", more="TAGS\x01red\x02")
    second = put(store, "%LMQ%b")
    assert (offsets_in(store, first), offsets_in(store, second)) == ("0,0", "1")
    assert ends(store) == {"t": 2, "%LMQ%a": 1, "%LMQ%b": 2}
    assert store.queue_entries("%LMQ%a", 0, 0, 10) == [(first.log_offset, first.size, java_hash("red"))]
    assert [entry[0] for entry in store.queue_entries("%LMQ%b", 0, 0, 10)] == [first.log_offset, second.log_offset]
    assert store.statistics()["light_queues"] == 2
    store.close()


@pytest.mark.parametrize(
    ("names", "offsets", "queues"),
    [
        ("%LMQ%a,x,%LMQ%b", "0,,0", {"%LMQ%a", "%LMQ%b"}),
        ("x,%LMQ%a,", ",0,", {"%LMQ%a"}),
        ("%LMQ%a,%LMQ%a", "0,", {"%LMQ%a"}),
        ("%LMQ%a/b", None, set()),
        ("%LMQ%", None, set()),
        ("x", None, set()),
        (",", None, set()),
        ("%LMQ%" + "n" * 250, "0", {"%LMQ%" + "n" * 250}),
        ("%LMQ%" + "n" * 251, None, set()),
        ("%LMQ%ä", "0", {"%LMQ%ä"}),
    ],
)
def test_names(tmp_path: Path, names: str, offsets: str | None, queues: set[str]) -> None:
    store = open_store(tmp_path)
    done = put(store, names)
    assert done.status == _store.ST_OK
    assert offsets_in(store, done) == offsets
    assert set(ends(store)) == queues | {"t"}
    store.close(clean=False)
    store = open_store(tmp_path)
    assert set(ends(store)) == queues | {"t"}
    store.close()


def test_properties_that_do_not_end_with_a_separator(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    done = store.put("t", 0, b"x", b"a\x01b\x02INNER_MULTI_DISPATCH\x01%LMQ%a")
    record = store.read_record(done.log_offset)
    assert record is not None
    assert decode_properties(decode_message(record)[0].properties) == {
        "a": "b", "INNER_MULTI_DISPATCH": "%LMQ%a", "INNER_MULTI_QUEUE_OFFSET": "0"
    }  # fmt: skip
    store.close()


@pytest.mark.parametrize(
    ("topic", "sys_flag"), [("%RETRY%g", 0), ("rmq_sys_x", 0), ("SCHEDULE_TOPIC_XXXX", 0), ("t", 4), ("t", 12)]
)
def test_who_is_not_dispatched(tmp_path: Path, topic: str, sys_flag: int) -> None:
    store = open_store(tmp_path)
    done = put(store, "%LMQ%a", topic=topic, sys_flag=sys_flag)
    assert offsets_in(store, done) is None
    assert "%LMQ%a" not in ends(store)
    store.close()


def test_switched_off(tmp_path: Path) -> None:
    store = open_store(tmp_path, light_queues=False)
    done = put(store, "%LMQ%a")
    assert offsets_in(store, done) is None
    assert set(ends(store)) == {"t"}
    store.close()


def test_batches_are_not_dispatched(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    properties = b"INNER_MULTI_DISPATCH\x01%LMQ%a\x02"
    item = (22 + 1 + len(properties)).to_bytes(4, "big") + bytes(12) + (1).to_bytes(4, "big") + b"x"
    status, placed = store.put_batch("t", 0, (item + len(properties).to_bytes(2, "big") + properties) * 3)
    assert (status, len(placed)) == (_store.ST_OK, 3)
    assert set(ends(store)) == {"t"}
    put(store, "%LMQ%a")
    assert ends(store) == {"t": 4, "%LMQ%a": 1}
    store.close()


def test_a_limit(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_light_queues=3)
    assert put(store, "%LMQ%a,%LMQ%b").status == _store.ST_OK
    assert put(store, "%LMQ%c,%LMQ%d").status == _store.ST_TOO_MANY_LMQ
    assert put(store, "%LMQ%a,%LMQ%c").status == _store.ST_OK
    assert put(store, "%LMQ%d").status == _store.ST_TOO_MANY_LMQ
    assert put(store, "%LMQ%a,%LMQ%b,%LMQ%c").status == _store.ST_OK
    assert ends(store) == {"t": 3, "%LMQ%a": 3, "%LMQ%b": 2, "%LMQ%c": 2}
    store.close()
    store = open_store(tmp_path, max_light_queues=3)
    assert put(store, "%LMQ%d").status == _store.ST_TOO_MANY_LMQ
    assert put(store, "%LMQ%c").status == _store.ST_OK
    store.close()


def test_a_deleted_one_makes_room(tmp_path: Path) -> None:
    store = open_store(tmp_path, max_light_queues=2)
    assert put(store, "%LMQ%a,%LMQ%b").status == _store.ST_OK
    store.delete_topic_data("%LMQ%a")
    store.delete_topic_data("%LMQ%a")
    done = put(store, "%LMQ%c")
    assert done.status == _store.ST_OK
    assert put(store, "%LMQ%a").status == _store.ST_TOO_MANY_LMQ
    store.delete_topic_data("%LMQ%b")
    done = put(store, "%LMQ%a")
    assert offsets_in(store, done) == "0"
    assert ends(store) == {"t": 3, "%LMQ%a": 1, "%LMQ%c": 1}
    store.close()


def test_a_write_that_fails_gives_everything_back(tmp_path: Path) -> None:
    fault = {"call": "pwrite", "file": "commitlog", "nth": 2, "errno": errno.ENOSPC}
    store = open_store(tmp_path, fault_script=[fault], max_light_queues=2)
    assert put(store, "%LMQ%a").status == _store.ST_OK
    assert put(store, "%LMQ%a,%LMQ%b").status == _store.ST_DISK_FULL
    done = put(store, "%LMQ%a,%LMQ%b")
    assert (done.status, offsets_in(store, done)) == (_store.ST_OK, "1,0")
    assert put(store, "%LMQ%c").status == _store.ST_TOO_MANY_LMQ
    store.close()


def test_properties_that_grow_too_long(tmp_path: Path) -> None:
    store = open_store(tmp_path, segment_bytes=1 << 20)
    names = "%LMQ%a"
    room = 32_767 - len(f"INNER_MULTI_DISPATCH\x01{names}\x02") - len("INNER_MULTI_QUEUE_OFFSET\x010\x02") - 3
    assert put(store, names, more=f"k\x01{'x' * room}\x02").status == _store.ST_OK
    assert put(store, names, more=f"k\x01{'x' * (room + 1)}\x02").status == _store.ST_PROPERTIES_TOO_LARGE
    assert ends(store) == {"t": 1, "%LMQ%a": 1}
    store.close()


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_a_restart_finds_them(tmp_path: Path, sync: bool, clean: bool) -> None:
    expected: dict[str, list[int]] = {"%LMQ%a": [], "%LMQ%b": [], "%LMQ%c": []}
    for round_number in range(4):
        store = open_store(tmp_path, sync_flush=sync)
        for number in range(30):
            names = [name for index, name in enumerate(expected) if (number + round_number) % (index + 2) == 0]
            done = put(store, ",".join(names) or "none")
            for name in names:
                expected[name].append(done.log_offset)
        store.flush_step()
        for name, log_offsets in expected.items():
            assert [entry[0] for entry in store.queue_entries(name, 0, 0, 1000)] == log_offsets
        store.close(clean=clean)
    for name in ("%LMQ%a", "t"):
        for file in (tmp_path / "consumequeue" / name / "0").iterdir():
            file.unlink()
    store = open_store(tmp_path, sync_flush=sync)
    for name, log_offsets in expected.items():
        assert [entry[0] for entry in store.queue_entries(name, 0, 0, 1000)] == log_offsets
    store.close()


def test_light_queues_have_no_ext_units(tmp_path: Path) -> None:
    store = open_store(tmp_path, ext_enabled=True, ext_file_bytes=2048)
    put(store, "%LMQ%a", more="TAGS\x01red\x02")
    store.close()
    assert not (tmp_path / "consumequeue_ext" / "%LMQ%a").exists()
    assert (tmp_path / "consumequeue_ext" / "t").exists()


def test_whoever_waits_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    assert store.watch("%LMQ%a", 0) == 0
    put(store, "%LMQ%a")
    assert store.take_moved() == [("%LMQ%a", 0, 1)]
    store.close()
