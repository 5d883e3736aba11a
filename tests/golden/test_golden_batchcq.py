"""A topic with inner batches (queue.type=BatchCQ) of a store of Apache RocketMQ 5.3.3: read through filters.

An inner batch is one record with properties of its own. As in RocketMQ a filter is asked about those; it passes or does
not as a whole.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmq import _store as st
from fastmq._store import Store, java_hash
from fastmq.broker.filter.expression import Expression
from fastmq.broker.filter.matching import MessageFilter, read_matching
from fastmq.clock import ManualClock
from fastmq.protocol.message import decode_messages

HERE = Path(__file__).parent / "store"
TOPIC = "s-batchcq"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("golden")
    with tarfile.open(HERE / "clean.tar.xz") as archive:
        archive.extractall(root, filter="data")
    opened = Store(
        str(root / "clean"), store_host=("127.0.0.1", 31911), segment_bytes=1 << 20, queue_file_bytes=20_000,
        index_slots=100, index_entries=400,
    )  # fmt: skip
    yield opened
    opened.close()


def read(
    store: Store, wanted: MessageFilter, offset: int = 0, most: int = 32, **more: int
) -> tuple[int, int, list[str]]:
    """Status, next offset, and where the batches begin that were found."""
    clock = ManualClock()
    result = read_matching(store, wanted, TOPIC, 0, offset, most, monotonic=clock.monotonic, **more)
    found = decode_messages(store.read_messages(result.messages))
    return result.status, result.next_offset, [message.property_map["INNER_BASE"] for message in found]


def sql(text: str) -> MessageFilter:
    return MessageFilter(expression=Expression(text))


def test_without_a_filter(store: Store) -> None:
    assert read(store, MessageFilter()) == (st.FOUND, 12, ["0", "4", "8"])
    assert read(store, MessageFilter(), 5) == (st.FOUND, 12, ["4", "8"])
    assert read(store, MessageFilter(), 12) == (st.OFFSET_OVERFLOW_ONE, 12, [])


def test_so_many_messages_and_one_batch_at_least(store: Store) -> None:
    assert read(store, MessageFilter(), most=8) == (st.FOUND, 8, ["0", "4"])
    assert read(store, MessageFilter(), most=7) == (st.FOUND, 4, ["0"])
    assert read(store, MessageFilter(), most=1) == (st.FOUND, 4, ["0"])


@pytest.mark.parametrize(
    ("text", "offset", "expected"),
    [
        ("INNER_BASE = '4'", 0, (st.FOUND, 12, ["4"])),
        ("INNER_BASE = '4'", 4, (st.FOUND, 12, ["4"])),
        ("INNER_BASE = '4'", 7, (st.FOUND, 12, ["4"])),
        ("INNER_BASE = '4'", 8, (st.NO_MATCHED_MESSAGE, 12, [])),
        ("INNER_BASE > 3", 1, (st.FOUND, 12, ["4", "8"])),
        ("INNER_NUM = 4 AND INNER_BASE <> '4'", 0, (st.FOUND, 12, ["0", "8"])),
        ("TRACE_ON = 'true'", 0, (st.FOUND, 12, ["0", "4", "8"])),
        ("missing = 'x'", 0, (st.NO_MATCHED_MESSAGE, 12, [])),
    ],
)
def test_an_expression(store: Store, text: str, offset: int, expected: tuple[int, int, list[str]]) -> None:
    assert read(store, sql(text), offset) == expected


def test_a_read_that_looks_at_few_goes_on_behind_them(store: Store) -> None:
    assert read(store, sql("INNER_BASE = '8'"), max_scanned=6) == (st.NO_MATCHED_MESSAGE, 8, [])
    assert read(store, sql("INNER_BASE = '8'"), 8, max_scanned=6) == (st.FOUND, 12, ["8"])


def test_tags_of_a_batch_without_any_are_for_the_client_to_compare(store: Store) -> None:
    assert read(store, MessageFilter(tag_codes=frozenset([java_hash("x")]))) == (st.FOUND, 12, ["0", "4", "8"])


def test_properties_at_each_offset(store: Store) -> None:
    found = store.queue_properties(TOPIC, 0, 2, 7)
    assert [b"INNER_BASE\x01%d" % base in one for one, base in zip(found, (0, 0, 4, 4, 4, 4, 8), strict=True)
            if isinstance(one, bytes)] == [True] * 7  # fmt: skip
    assert len(store.queue_properties(TOPIC, 0, 10, 100)) == 2
    assert store.queue_properties(TOPIC, 0, 12, 100) == []
