"""Micro-benchmarks of the parts a message passes: `make bench`. They measure; nothing is asserted about time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmq._store import ST_OK, Store, crc32
from fastmq.broker.filter.expression import Expression
from fastmq.broker.filter.matching import MessageFilter, read_matching
from fastmq.protocol.command import Command, decode_frame, encode_frame
from fastmq.protocol.message import decode_messages

PROPERTIES = b"UNIQ_KEY\x01FA57BEEF000000000000000000000001\x02WAIT\x01true\x02TAGS\x01TagA\x02KEYS\x01k1 k2\x02"
BODY = bytes(range(256)) * 4


@pytest.fixture(params=[False, True], ids=["async", "sync"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path), store_host=("127.0.0.1", 10911), sync_flush=request.param)
    store.start()
    yield store
    store.close()


def send_command() -> Command:
    ext = {
        "a": "pg", "b": "topic", "c": "TBW102", "d": "4", "e": "0", "f": "0", "g": "1700000000000", "h": "0",
        "i": PROPERTIES.decode(), "j": "0", "k": "false", "m": "false",
    }  # fmt: skip
    return Command(310, opaque=7, ext=ext, body=BODY)


@pytest.mark.parametrize("kernel", ["table", "pclmul"])
@pytest.mark.parametrize("size", [128, 1024, 65536])
def test_crc(benchmark: Any, kernel: str, size: int) -> None:
    data = BODY * (size // len(BODY) + 1)
    assert benchmark(crc32, data[:size], kernel=kernel) == crc32(data[:size])


def test_encode_frame(benchmark: Any) -> None:
    assert benchmark(encode_frame, send_command())


def test_decode_frame(benchmark: Any) -> None:
    frame = encode_frame(send_command())
    assert benchmark(decode_frame, frame).body == BODY


def test_append(benchmark: Any, store: Store) -> None:
    assert benchmark(store.put, "topic", 0, BODY, PROPERTIES).status == ST_OK


def test_read_32(benchmark: Any, store: Store) -> None:
    for _ in range(64):
        appended = store.put("topic", 0, BODY, PROPERTIES)
    while store.flushed_offset < appended.flush_target and store.dispatched_offset < appended.flush_target:
        store.flush_step()

    def read() -> bytes:
        return store.read_messages(store.read_queue("topic", 0, 0, 32).messages)

    assert len(decode_messages(benchmark(read))) == 32


@pytest.mark.parametrize(
    "text",
    [
        "color = 'red'",
        "n > 10 AND color = 'red'",
        "n BETWEEN 10 AND 20 AND (color IN ('red', 'blue') OR size IS NULL) AND TAGS NOT CONTAINS 'X'",
    ],
    ids=["one", "two", "many"],
)
def test_filter(benchmark: Any, text: str) -> None:
    properties = PROPERTIES + b"n\x0112\x02color\x01red\x02"
    assert benchmark(Expression(text).matches_encoded, properties)


def test_compile_filter(benchmark: Any) -> None:
    assert benchmark(Expression, "n BETWEEN 10 AND 20 AND (color IN ('red', 'blue') OR size IS NULL)")


def test_filtered_read_of_800(benchmark: Any, tmp_path: Path) -> None:
    store = Store(str(tmp_path), store_host=("127.0.0.1", 10911))
    for number in range(800):
        store.put("topic", 0, BODY, PROPERTIES + b"n\x01%d\x02" % number)
    wanted = MessageFilter(expression=Expression("n > 100000"))
    result = benchmark(read_matching, store, wanted, "topic", 0, 0, 32, monotonic=lambda: 0.0)
    assert result.next_offset == 800
    store.close()
