from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fastmq.broker.filter.bloom import BloomFilter
from fastmq.broker.filter.consumers import ConsumerFilterTable
from fastmq.broker.filter.expression import ExpressionCache
from fastmq.clock import ManualClock
from fastmq.errors import StoreError
from fastmq.protocol.bodies import SubscriptionData, loads_lenient

DAY_MS = 86_400_000


def sql(text: str, version: int = 1, topic: str = "t") -> SubscriptionData:
    return SubscriptionData(topic=topic, sub_string=text, sub_version=version, expression_type="SQL92")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "consumerFilter.json"
        self.clock = ManualClock(1_000_000)
        self.open()

    def open(self, bloom: BloomFilter | None = None) -> ConsumerFilterTable:
        self.table = ConsumerFilterTable(
            str(self.path),
            bloom=bloom or BloomFilter(20, 32),
            cache=ExpressionCache(),
            wall_ms=self.clock.wall_ms,
            clean_after_ms=lambda: DAY_MS,
        )
        return self.table

    def save(self) -> bool:
        snapshot = self.table.file.take_snapshot()
        if snapshot is not None:
            self.table.file.write(snapshot)
        return snapshot is not None


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_tags_are_not_registered(bench: Bench) -> None:
    bench.table.register("g", [SubscriptionData.from_expression("t", "a || b"), sql("")])
    assert bench.table.get("t", "g") is None
    assert not bench.save()


def test_a_filter_is_registered(bench: Bench) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    known = bench.table.get("t", "g")
    assert known is not None
    assert known.compiled is not None
    assert known.compiled.matches({"a": "6"})
    assert (known.client_version, known.born_ms, known.dead) == (7, bench.clock.wall_ms(), False)


@pytest.mark.parametrize(("version", "text"), [(6, "a > 5"), (7, "a > 5"), (7, "a > 6"), (8, "a > 6")])
def test_only_newer_versions_replace(bench: Bench, version: int, text: str) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.clock.advance_ms(10)
    bench.table.register("g", [sql(text, version)])
    known = bench.table.get("t", "g")
    assert known is not None
    replaced = version > 7 and text != "a > 5"
    assert known.expression == ("a > 6" if replaced else "a > 5")
    assert known.born_ms == (1_000_010 if replaced else 1_000_000)
    assert known.client_version == max(7, version)


def test_a_newer_version_of_the_same_filter_keeps_its_birth(bench: Bench) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.clock.advance_ms(10)
    bench.table.register("g", [sql("a > 5", 8)])
    known = bench.table.get("t", "g")
    assert known is not None
    assert (known.client_version, known.born_ms) == (8, 1_000_000)


def test_one_that_does_not_compile_is_none_and_is_told(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    with caplog.at_level(logging.WARNING):
        bench.table.register("g", [sql("a >> 5", 8)])
    assert bench.table.get("t", "g") is None
    assert "line 1, column 4" in caplog.text
    bench.table.register("g", [SubscriptionData(topic="t", sub_string="x", sub_version=9, expression_type="XPATH")])
    assert bench.table.get("t", "g") is None
    assert "no filter type XPATH" in caplog.text


def test_who_leaves_is_dead_and_may_come_back(bench: Bench) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.clock.advance_ms(10)
    bench.table.unregister("g")
    known = bench.table.get("t", "g")
    assert known is not None
    assert known.dead
    bench.table.register("g", [sql("a > 5", 7)])
    assert not known.dead
    bench.table.register("g", [sql("a > 5", 7, "other")])
    assert known.dead


def test_the_dead_are_forgotten_after_a_day(bench: Bench) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.table.unregister("g")
    bench.clock.advance_ms(DAY_MS - 1)
    bench.table.clean()
    assert bench.table.get("t", "g") is not None
    bench.clock.advance_ms(1)
    bench.table.clean()
    assert bench.table.get("t", "g") is None
    assert bench.table.topics() == []


def test_bit_maps(bench: Bench) -> None:
    changes: list[str] = []
    bench.table.on_change = changes.append
    assert bench.table.bit_map("t", b"a\x016\x02") is None
    bench.table.register("g", [sql("a > 5")])
    bench.table.register("h", [sql("a > 7")])
    assert changes == ["t"]
    positions = {one.group: one.positions for one in bench.table.of_topic("t")}
    assert bench.table.bit_map("t", b"a\x016\x02") == bench.table.bloom.bit_map([positions["g"]])
    assert bench.table.bit_map("t", b"a\x018\x02") == bench.table.bloom.bit_map(list(positions.values()))
    assert bench.table.bit_map("t", b"") == bytes(14)


def test_the_file_is_rocketmqs_and_survives(bench: Bench) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    assert bench.save()
    assert not bench.save()
    content = loads_lenient(bench.path.read_bytes())
    data = content["filterDataByTopic"]["t"]["groupFilterData"]["g"]
    assert data == {
        "bloomFilterData": {"bitNum": 112, "bitPos": list(bench.table.bloom.positions("g#t"))},
        "bornTime": 1_000_000, "clientVersion": 7, "consumerGroup": "g", "dead": False, "deadTime": 0,
        "expression": "a > 5", "expressionType": "SQL92", "topic": "t",
    }  # fmt: skip
    bench.clock.advance_ms(60_000)
    known = bench.open().get("t", "g")
    assert known is not None
    assert known.dead_ms == 1_030_000
    bench.table.register("g", [sql("a > 5", 7)])
    assert not known.dead


def test_another_bloom_filter_drops_the_file(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.save()
    with caplog.at_level(logging.WARNING):
        assert bench.open(BloomFilter(10, 32)).get("t", "g") is None
    assert "bloom filter has changed" in caplog.text


def test_what_apache_wrote_and_does_not_compile_here(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.table.register("g", [sql("a > 5", 7)])
    bench.save()
    bench.path.write_text(bench.path.read_text().replace("a > 5", "a > 5 LIKE it"))
    with caplog.at_level(logging.WARNING):
        assert bench.open().get("t", "g") is None
    assert "column 7" in caplog.text


@pytest.mark.parametrize(
    "content", ['{"filterDataByTopic": []}', '{"filterDataByTopic": {"t": {"groupFilterData": {"g": {}}}}}']
)
def test_a_broken_file_stops_the_start(bench: Bench, content: str) -> None:
    bench.path.write_text(content)
    with pytest.raises(StoreError, match=r"consumerFilter\.json"):
        bench.open()
