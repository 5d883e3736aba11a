"""What a run shows: percentiles, codes by name, plots, comparisons, the disk."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmq._load import bucket_low, bucket_of
from fastmq.bench import disk
from fastmq.bench.compare import compare
from fastmq.bench.plot import page
from fastmq.bench.report import Histogram, Result, describe_codes
from fastmq.bench.target import LoadError
from fastmq.errors import UsageError


@given(st.integers(0, 2**45 - 1))
def test_a_bucket_holds_what_falls_into_it_and_is_narrow(ns: int) -> None:
    low, high = bucket_low(bucket_of(ns)), bucket_low(bucket_of(ns) + 1) - 1
    assert low <= ns <= high
    assert high - low <= max(ns / 64, 1)


def test_a_latency_that_is_longer_than_a_run_can_be_has_a_bucket() -> None:
    assert bucket_of(2**62) == bucket_of(2**45 - 1)
    assert bucket_of(-5) == 0


def test_percentiles_never_say_less_than_was_measured() -> None:
    histogram = Histogram([(100, 101, 90), (2000, 2031, 9), (64_000, 64_999, 1)], 64_500)
    assert histogram.percentile_ns(50) == 101
    assert histogram.percentile_ns(90) == 101
    assert histogram.percentile_ns(99) == 2031
    assert histogram.percentile_ns(99.9) == 64_500, "no percentile is larger than the maximum"
    assert Histogram([], 0).percentile_ns(99) == 0


def result(rate: float = 1000.0, **changes: object) -> Result:
    done = int(rate)
    base = Result(
        what="send 8 x 64",
        elapsed_s=1.0,
        sent=done,
        done=done,
        send_codes={0: (done, b"")},
        latency={"send": Histogram([(1000, 1015, done)], 1010)},
        acknowledged=[done // 10] * 10,
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_refusal_is_named_with_its_count_and_remark() -> None:
    header = b'{"code":16,"flag":1,"language":"JAVA","opaque":1,"remark":"the broker is read only","version":479}'
    assert describe_codes("sends", {0: (5, b""), 16: (1200, header), 9999: (1, b"")}, (0,)) == [
        "1,200 sends answered with code 16 NO_PERMISSION: the broker is read only",
        "1 sends answered with code 9999",
    ]


def test_only_successes_make_the_rate() -> None:
    one = result(sent=4000, failures=["3,000 sends answered with code 2 SYSTEM_BUSY"])
    assert one.failed
    assert one.rates == {"sent": 1000.0}
    assert "1,000 of 4,000" in one.to_text()
    assert "FAILED: 3,000 sends answered with code 2 SYSTEM_BUSY" in one.to_text()
    shown = json.loads(one.to_json())
    assert (shown["failed"], shown["done"], shown["rates"]["sent"]) == (True, 1000, 1000.0)
    assert shown["latency_us"]["send"]["p99.9"] == 1.0


def test_a_comparison_takes_turns_and_shows_ratio_and_spread() -> None:
    order: list[str] = []
    rates = {"a": iter([300.0, 200.0, 600.0]), "b": iter([100.0, 100.0, 200.0])}

    def run(name: str) -> Result:
        order.append(name)
        return result(next(rates[name]))

    comparison = compare(("one", "two"), (lambda: run("a"), lambda: run("b")), 3, lambda: order.append("sync"))
    assert order == ["sync", "a", "sync", "b", "sync", "b", "sync", "a", "sync", "a", "sync", "b"]
    metric = comparison.metrics()["sent msg/s"]
    assert (metric.ratio, metric.spread) == (3.0, (2.0, 3.0))
    assert not comparison.failed
    assert re.search(r"sent msg/s +300.0 +100.0 +3.00 +2.00 .. 3.00", comparison.to_text())
    assert json.loads(comparison.to_json())["metrics"]["sent msg/s"]["ratio_of_medians"] == 3.0


def test_a_comparison_shows_whose_run_failed() -> None:
    runs = (lambda: result(1.0), lambda: result(1.0, failures=["1 connections broke"]))
    comparison = compare(("one", "two"), runs, 1, lambda: None)
    assert comparison.failed
    assert "FAILED: round 1, B: 1 connections broke" in comparison.to_text()


def test_a_plot_is_one_file_with_well_formed_pictures() -> None:
    text = page({"A <x>": result(), "B": result(5.0, latency={}, acknowledged=())})
    pictures = [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.S)]
    assert len(pictures) == 2
    for picture in pictures:
        assert len(picture.findall("polyline")) == 1
        assert all("nan" not in line.attrib["points"] for line in picture.findall("polyline"))
    assert "A &lt;x&gt; send" in text
    assert "src=" not in text
    assert "href=" not in text


def test_a_plot_of_nothing_says_so() -> None:
    text = page({"": Result("pull", 1.0)})
    assert "no latencies" in text
    assert "nothing was sent or read" in text


def test_the_disk_is_measured_in_a_file_that_is_gone_afterwards(tmp_path: Path) -> None:
    measures = disk.measure_disk(str(tmp_path / "new"), 0.05, file_bytes=4 << 20)
    assert [measure.what for measure in measures] == [
        "append 4 KiB + fdatasync, fallocated blocks",
        "append 4 KiB + fdatasync, written blocks",
        "append 64 KiB + fdatasync, fallocated blocks",
        "append 64 KiB + fdatasync, written blocks",
        "write 1 MiB, page cache",
        "write 4 MiB + fdatasync",
    ]
    assert all(measure.per_second > 0 for measure in measures)
    assert json.loads(disk.to_json("d", measures))["measures"][0]["bytes_per_second"] > 0
    assert "fdatasync" in disk.to_text("d", measures)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_directory_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match="file"):
        disk.measure_disk(str(tmp_path / "file"), 0.1)
    with pytest.raises(UsageError):
        disk.measure_disk(str(tmp_path), 0)
