from __future__ import annotations

import pytest

from fastmq.errors import RequestError
from fastmq.protocol.fields import (
    INT32_MAX,
    INT64_MAX,
    Header,
    Int32,
    header,
    parse_bool,
    parse_float,
    parse_int32,
    parse_int64,
    wire,
)


@header
class Sample(Header):
    """All kinds of fields."""

    consumer_group: str
    queue_id: Int32
    offset: int
    order: bool = False
    ratio: float | None = None
    max_num: Int32 | None = None
    special: str | None = wire("__X", default=None)
    needed: str = wire("clientID", default="none")


def test_wire_names_are_camel_case_unless_told_otherwise() -> None:
    assert list(Sample.WIRE_NAMES.values()) == [
        "consumerGroup", "queueId", "offset", "order", "ratio", "maxNum", "__X", "clientID",
    ]  # fmt: skip
    assert {"consumerGroup", "queueId", "offset"} == Sample.REQUIRED


def test_all_fields_are_read_by_their_type() -> None:
    ext = {
        "consumerGroup": "g", "queueId": "-1", "offset": "9223372036854775807", "order": "True", "ratio": "0.5",
        "maxNum": "+32", "__X": "", "clientID": "c", "unknown": "x",
    }  # fmt: skip
    assert Sample.decode(ext) == Sample("g", -1, INT64_MAX, True, 0.5, 32, "", "c")


def test_absent_optional_fields_have_their_default() -> None:
    assert Sample.decode({"consumerGroup": "", "queueId": "0", "offset": "0"}) == Sample("", 0, 0)


@pytest.mark.parametrize("name", ["consumerGroup", "queueId", "offset"])
def test_an_absent_required_field_is_named(name: str) -> None:
    ext = {"consumerGroup": "g", "queueId": "0", "offset": "0"}
    del ext[name]
    with pytest.raises(RequestError) as caught:
        Sample.decode(ext)
    assert caught.value.code == 1
    assert caught.value.remark == f"the custom field <{name}> is null"


@pytest.mark.parametrize("text", ["", "zero", " 1", "1 ", "1_000", "0x1", "1.0", "--1", "2147483648", "9" * 5000])
def test_a_required_number_that_cannot_be_read_is_absent(text: str) -> None:
    with pytest.raises(RequestError, match="the custom field <queueId> is null"):
        Sample.decode({"consumerGroup": "g", "queueId": text, "offset": "0"})


def test_an_optional_number_that_cannot_be_read_is_absent() -> None:
    decoded = Sample.decode({"consumerGroup": "g", "queueId": "0", "offset": "0", "maxNum": "many", "ratio": "half"})
    assert decoded.max_num is None
    assert decoded.ratio is None


def test_encode_leaves_out_what_is_none() -> None:
    assert Sample("g", 1, 2).encode() == {
        "consumerGroup": "g", "queueId": "1", "offset": "2", "order": "false", "clientID": "none",
    }  # fmt: skip
    assert Sample("g", 1, 2, True, 1.5, 3, "x", "c").encode() == {
        "consumerGroup": "g", "queueId": "1", "offset": "2", "order": "true", "ratio": "1.5", "maxNum": "3", "__X": "x",
        "clientID": "c",
    }  # fmt: skip


def test_headers_have_slots_and_show_their_fields() -> None:
    sample = Sample("g", 1, 2)
    assert repr(sample).startswith("Sample(consumer_group=")
    with pytest.raises(AttributeError):
        sample.typo = 1  # type: ignore[attr-defined]


def test_numbers_as_java_reads_them() -> None:
    assert parse_int32("2147483647") == INT32_MAX
    assert parse_int32("-2147483648") == -INT32_MAX - 1
    assert parse_int32("2147483648") is None
    assert parse_int64("2147483648") == 1 << 31
    assert parse_int64("9223372036854775808") is None
    assert parse_int64("-0") == 0
    assert parse_int64("-") is None
    assert parse_int64(None) is None
    assert parse_float("1e3") == 1000.0
    assert parse_float("1_0") is None


def test_booleans_as_java_reads_them() -> None:
    assert parse_bool("TRUE") is True
    assert parse_bool("1") is False
    assert parse_bool("") is False
    assert parse_bool(None) is None
