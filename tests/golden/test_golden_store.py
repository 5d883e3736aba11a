"""Stores of Apache RocketMQ 5.3.3, opened by the engine: what Apache's broker read from them, we read.

`store/*.tar.xz` are store directories, packed with the broker stopped or killed; `store/*.manifest.json` is what Apache
itself answered after it was started on a copy (for killed ones: after its own recovery). If one of these tests
fails, somebody's messages disappear or change when they move from RocketMQ to fastmq.

Made with mappedFileSizeCommitLog=1048576, mappedFileSizeConsumeQueue=20000, maxHashSlotNum=100, maxIndexNum=400;
the `ha-*` and `ctl-*` ones with 65536 and 2000 for the first two.
"""

import base64
import hashlib
import json
import struct
import tarfile
from pathlib import Path

import pytest

from fastmq import _store

HERE = Path(__file__).parent / "store"
NAMES = ["clean", "crash", "torn", "rolled", "ext-bloom"]
LEVELS = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
DELAYS = [int(level[:-1]) * {"s": 1000, "m": 60_000, "h": 3_600_000}[level[-1]] for level in LEVELS.split(" ")]


def unpack(name: str, target: Path) -> Path:
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / name


def open_store(path: Path, **settings) -> _store.Store:
    sizes = {"segment_bytes": 1 << 20, "queue_file_bytes": 20_000, "index_slots": 100, "index_entries": 400}
    store = _store.Store(str(path), store_host=("127.0.0.1", 31911), delay_levels_ms=DELAYS, **(sizes | settings))
    while store.index_step(1 << 20) > 0:
        pass
    return store


def parse(record: bytes) -> dict:
    """A record's fields, by the table of the format and with no help of the engine."""
    size, magic, crc, queue_id, flag, queue_offset, offset, sys_flag, born = struct.unpack_from(">iIIiiqqiq", record)
    at = 48
    born_len = 20 if sys_flag & 0x10 else 8
    at += born_len
    (stored,) = struct.unpack_from(">q", record, at)
    at += 8 + (20 if sys_flag & 0x20 else 8)
    reconsume, prepared, body_len = struct.unpack_from(">iqi", record, at)
    at += 16
    body = record[at : at + body_len]
    at += body_len
    if magic == 0xDAA320A7:
        topic_len = record[at]
        at += 1
    else:
        assert magic == 0xDAA320AB
        (topic_len,) = struct.unpack_from(">H", record, at)
        at += 2
    topic = record[at : at + topic_len].decode()
    at += topic_len
    (length,) = struct.unpack_from(">H", record, at)
    pairs = [pair.split("\1", 1) for pair in record[at + 2 : at + 2 + length].decode().split("\2") if "\1" in pair]
    assert at + 2 + length == size == len(record)
    return {
        "topic": topic,
        "queueId": queue_id,
        "queueOffset": queue_offset,
        "offset": offset,
        "size": size,
        "storeTime": stored,
        "bornTime": born,
        "sysFlag": sys_flag,
        "flag": flag,
        "reconsumeTimes": reconsume,
        "preparedTransactionOffset": prepared,
        "bodyCrc": crc,
        "bodyLength": body_len,
        "body": body,
        "properties": {name: value for name, value in pairs if value},
    }


def read_all(store: _store.Store, topic: str, queue_id: int) -> list[bytes]:
    """Every record of a queue, the way a consumer pulls it."""
    ends = store.queue_offsets(topic, queue_id)
    assert ends is not None
    at, records = ends[0], []
    while at < ends[1]:
        result = store.read_queue(topic, queue_id, at, 32)
        assert result.status == _store.FOUND
        assert result.next_offset > at
        data = store.read_messages(result.messages)
        for _offset, size in result.messages:
            records.append(data[:size])
            data = data[size:]
        assert data == b""
        at = result.next_offset
    return records


@pytest.fixture(scope="module", params=NAMES)
def opened(request, tmp_path_factory):
    name = request.param
    store = open_store(unpack(name, tmp_path_factory.mktemp("golden")))
    yield name, store, json.loads((HERE / f"{name}.manifest.json").read_text())
    store.close()


def test_the_log_has_the_same_ends(opened):
    _name, store, manifest = opened
    assert store.min_log_offset == int(manifest["runtime"]["commitLogMinOffset"])
    assert store.written_offset == int(manifest["runtime"]["commitLogMaxOffset"])


def test_every_queue_has_the_same_ends(opened):
    _name, store, manifest = opened
    ours = {(topic, queue_id): (low, high) for topic, queue_id, low, high in store.queues() if high}
    theirs = {(q["topic"], q["queueId"]): (q["minOffset"], q["maxOffset"]) for q in manifest["queues"]}
    assert {key: ours.get(key) for key in theirs} == theirs
    for queue in manifest["queues"]:
        first = store.store_timestamp_at(queue["topic"], queue["queueId"], queue["minOffset"])
        assert first == queue["earliestStoreTime"]


def test_every_message_is_the_same(opened):
    _name, store, manifest = opened
    ours = {}
    for queue in manifest["queues"]:
        for record in read_all(store, queue["topic"], queue["queueId"]):
            message = parse(record)
            ours[message["offset"]] = message
    assert sorted(ours) == sorted(m["offset"] for m in manifest["messages"])
    for theirs in manifest["messages"]:
        mine = ours[theirs["offset"]]
        for key in (
            "topic",
            "queueId",
            "size",
            "storeTime",
            "bornTime",
            "sysFlag",
            "flag",
            "reconsumeTimes",
            "preparedTransactionOffset",
            "bodyCrc",
            "bodyLength",
            "properties",
        ):
            assert mine[key] == theirs[key], (theirs["offset"], key)
        if not theirs["sysFlag"] & 0x80:  # of an inner batch Apache shows the offset it was asked for
            assert mine["queueOffset"] == theirs["queueOffset"]
        assert hashlib.sha256(mine["body"]).hexdigest() == theirs["bodySha256"]
        if "body" in theirs:
            assert mine["body"] == base64.b64decode(theirs["body"])


def test_offsets_by_time(opened):
    _name, store, manifest = opened
    wrong = []
    for query in manifest["offsetByTime"]:
        found = store.search_offset(query["topic"], query["queueId"], query["time"], upper=query["boundary"] == "UPPER")
        if found != query["offset"]:
            wrong.append((query, found))
    assert wrong == []


def test_queries_by_key(opened):
    """The index gives candidates; who asked compares topic and key, as RocketMQ's broker and clients do."""
    _name, store, manifest = opened
    wrong = []
    for query in manifest["keyQueries"]:
        most = 32 if query["unique"] else query["maxNum"]  # defaultQueryMaxNum stands in for a unique key's number
        found, _time, _offset = store.query_index(query["topic"], query["key"], most, query["begin"], query["end"])
        offsets = []
        for offset in found:
            message = parse(store.read_record(offset))
            keys = [message["properties"].get("UNIQ_KEY"), *message["properties"].get("KEYS", "").split(" ")]
            if message["topic"] == query["topic"] and query["key"] in keys:
                offsets.append(offset)
        if sorted(offsets) != sorted(query["offsets"]):
            wrong.append((query, offsets))
    assert wrong == []


def test_queries_by_offset(opened):
    _name, store, manifest = opened
    for query in manifest["idQueries"]:
        record = store.read_record(query["offset"])
        if query["code"] == 0:
            assert hashlib.sha256(record).hexdigest() == query["bodySha256OfAnswer"]
        else:
            assert record is None


@pytest.mark.parametrize("name", ["crash", "torn"])
def test_everything_that_was_acknowledged_is_there(name, tmp_path):
    """The broker was killed while it answered sends. `torn` then lost its last record as in a power loss."""
    store = open_store(unpack(name, tmp_path))
    missing = []
    for line in (HERE / "crash.acked.tsv").read_text().splitlines():
        key, message_id, queue_offset = line.split("\t")[:3]
        record = store.read_record(int(message_id[16:], 16))
        if record is None or parse(record)["queueOffset"] != int(queue_offset):
            missing.append(key)
    # what the hand of the forger tore was the last record, acknowledged or not
    assert missing == [] if name == "crash" else len(missing) <= 1
    store.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_store_stays_the_same_when_it_is_opened_again(name, tmp_path):
    path = unpack(name, tmp_path)
    first = open_store(path)
    queues, end = first.queues(), first.written_offset
    first.close()
    second = open_store(path)
    assert (second.queues(), second.written_offset) == (queues, end)
    assert second.recovery_log == []
    second.close(clean=False)
    third = open_store(path)
    assert (third.queues(), third.written_offset) == (queues, end)
    third.close()


@pytest.mark.parametrize("name", NAMES)
def test_queues_rebuilt_from_the_log_alone_are_the_same(name, tmp_path):
    """Somebody removed consumequeue/ and index/: the log has it all."""
    path = unpack(name, tmp_path)
    store = open_store(path)
    expected = {}
    for topic, queue_id, low, high in store.queues():
        expected[topic, queue_id] = store.queue_entries(topic, queue_id, low, high - low)
    store.close()
    for kind in ("consumequeue", "index"):
        for file in sorted((path / kind).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    (path / "checkpoint").unlink()
    store = open_store(path)
    for (topic, queue_id), entries in expected.items():
        if not entries or topic == "s-batchcq":
            continue
        rebuilt = store.queue_entries(topic, queue_id, 0, len(entries))
        assert [entry[:2] for entry in rebuilt] == [entry[:2] for entry in entries], topic
        for new, old in zip(rebuilt, entries, strict=True):
            assert new[2] == old[2] or old[2] <= -2147483649  # an address in consumequeue_ext: a hash takes its place
    store.close()


@pytest.mark.parametrize(("left", "right"), [("ha-master", "ha-slave"), ("ctl-a", "ctl-b")])
def test_master_and_replica_hold_the_same(left, right, tmp_path):
    sizes = {"segment_bytes": 65_536, "queue_file_bytes": 2000}
    stores = [open_store(unpack(name, tmp_path), **sizes) for name in (left, right)]
    seen = []
    for store in stores:
        assert store.written_offset > 0
        seen.append(
            {
                (topic, queue_id): read_all(store, topic, queue_id)
                for topic, queue_id, _low, high in store.queues()
                if high
            }
        )
        store.close()
    assert seen[0] == seen[1]
    assert any(seen[0].values())
