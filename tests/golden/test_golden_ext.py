"""consumequeue_ext and bit maps of Apache RocketMQ 5.3.3 (`store/ext-bloom`): read, and written again byte for byte."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

from fastmq._store import Store
from fastmq.broker.filter.matching import MessageFilter, read_matching
from fastmq.broker.filter.service import FilterService
from fastmq.config import BrokerConfig
from fastmq.protocol.message import StoredMessage, decode_message, decode_messages

HERE = Path(__file__).parent / "store"
CONFIG = dataclasses.replace(
    BrokerConfig(), enable_property_filter=True, enable_consume_queue_ext=True, enable_calc_filter_bit_map=True
)
TOPIC = "s-normal"


def unpack(target: Path) -> Path:
    with tarfile.open(HERE / "ext-bloom.tar.xz") as archive:
        archive.extractall(target, filter="data")
    return target / "ext-bloom"


def open_store(root: Path, *, ext_enabled: bool = True, now: list[int] | None = None) -> Store:
    return Store(
        str(root), store_host=("127.0.0.1", 31911), segment_bytes=1 << 20, queue_file_bytes=20_000, index_slots=100,
        index_entries=400, ext_enabled=ext_enabled, ext_file_bytes=65_536,
        wall_clock_ms=(lambda: now[0]) if now else None,
    )  # fmt: skip


def filters(root: Path) -> FilterService:
    return FilterService(str(root / "config" / "consumerFilter.json"), config=lambda: CONFIG, wall_ms=lambda: 1 << 42)


def log_of(store: Store) -> list[StoredMessage]:
    """All messages in the order of the log."""
    places = sorted(
        entry[:2] for topic, queue, low, _ in store.queues() for entry in store.queue_entries(topic, queue, low, 1000)
    )
    return decode_messages(store.read_messages(places))


def files_below(root: Path, *kinds: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for kind in kinds
        for path in sorted((root / kind).rglob("*"))
        if path.is_file()
    }


def test_the_same_messages_make_the_same_files(tmp_path: Path) -> None:
    theirs = unpack(tmp_path)
    source = open_store(theirs)
    messages = log_of(source)
    source.close()
    assert len(messages) > 60
    now = [0]
    ours = open_store(tmp_path / "ours", now=now)
    ours.bit_maps = filters(theirs).bit_map
    for message in messages:
        now[0] = message.store_timestamp
        ours.put(
            message.topic, message.queue_id, message.body, message.properties, flag=message.flag,
            born_timestamp_ms=message.born_timestamp, born_host=message.born_host,
        )  # fmt: skip
    ours.close()
    kinds = "consumequeue", "consumequeue_ext", "commitlog"
    assert files_below(tmp_path / "ours", *kinds) == files_below(theirs, *kinds)


def test_filtered_reads_find_what_matches_with_and_without_bit_maps(tmp_path: Path) -> None:
    root = unpack(tmp_path)
    service = filters(root)
    store = open_store(root)
    for group in ("s-sql", "s-sql-2"):
        known = service.consumers.get(TOPIC, group)
        assert known is not None
        assert known.compiled is not None
        looked_at = 0
        for queue in range(4):
            everything = [decode_message(store.read_messages([place]))[0] for place in
                          store.read_queue(TOPIC, queue, 0, 100, max_bytes=1 << 20).messages]  # fmt: skip
            expected = [one.queue_offset for one in everything if known.compiled.matches_encoded(one.properties)]
            for bloom in (None, known.bloom):
                wanted = MessageFilter(expression=known.compiled, bloom=bloom)
                result = read_matching(store, wanted, TOPIC, queue, 0, 100, monotonic=lambda: 0.0, max_bytes=1 << 20)
                found = decode_messages(store.read_messages(result.messages))
                assert [one.queue_offset for one in found] == expected
            bits = {"bits": known.positions, "bit_count": known.bit_count, "since_ms": known.born_ms}
            looked_at += sum(one is not False for one in store.queue_properties(TOPIC, queue, 0, 100, **bits))
        total = sum(end for topic, _, _, end in store.queues() if topic == TOPIC)
        assert looked_at < total
    store.close()


def test_the_manifest_through_any_settings(tmp_path: Path) -> None:
    """Tags are found behind addresses whether or not units are written."""
    manifest = json.loads((HERE / "ext-bloom.manifest.json").read_text())
    root = unpack(tmp_path)
    for ext_enabled in (False, True):
        store = open_store(root, ext_enabled=ext_enabled)
        for message in manifest["messages"]:
            entry = store.queue_entries(message["topic"], message["queueId"], message["queueOffset"], 1)[0]
            assert entry[:2] == (message["offset"], message["size"])
            assert -(1 << 31) <= entry[2] < 1 << 31
        store.close()
