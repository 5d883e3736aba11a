from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from fastmq.protocol import headers
from fastmq.protocol.codes import LANGUAGE_NAMES, REQUESTS, LanguageCode, RequestCode, ResponseCode, request_name
from fastmq.protocol.fields import Header
from fastmq.protocol.tables import render

PROTOCOL_DOC = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_every_request_code_has_one_row() -> None:
    assert set(REQUESTS) == {int(code) for code in RequestCode}
    assert all(REQUESTS[code].code == code for code in REQUESTS)


@pytest.mark.parametrize(
    ("name", "number"),
    [("SEND_MESSAGE", 10), ("PULL_MESSAGE", 11), ("HEART_BEAT", 34), ("REGISTER_BROKER", 103),
     ("GET_ROUTEINFO_BY_TOPIC", 105), ("SEND_MESSAGE_V2", 310), ("SEND_BATCH_MESSAGE", 320),
     ("LITE_PULL_MESSAGE", 361), ("POP_MESSAGE", 200050), ("BATCH_ACK_MESSAGE", 200151)],
)  # fmt: skip
def test_request_codes_have_rocketmq_numbers(name: str, number: int) -> None:
    assert RequestCode[name] == number
    assert request_name(number) == name


def test_an_unknown_request_is_called_by_its_number() -> None:
    assert request_name(7777) == "7777"


@pytest.mark.parametrize(
    ("name", "number"),
    [("SUCCESS", 0), ("SYSTEM_ERROR", 1), ("SYSTEM_BUSY", 2), ("REQUEST_CODE_NOT_SUPPORTED", 3),
     ("FLUSH_DISK_TIMEOUT", 10), ("MESSAGE_ILLEGAL", 13), ("NO_PERMISSION", 16), ("TOPIC_NOT_EXIST", 17),
     ("PULL_NOT_FOUND", 19), ("QUERY_NOT_FOUND", 22), ("INVALID_PARAMETER", 29), ("CONSUMER_NOT_ONLINE", 206),
     ("GO_AWAY", 1500), ("CONTROLLER_BROKER_LIVE_INFO_NOT_EXISTS", 2016), ("RPC_TIME_OUT", -1006)],
)  # fmt: skip
def test_response_codes_have_rocketmq_numbers(name: str, number: int) -> None:
    assert ResponseCode[name] == number


def test_languages_go_by_name_and_number() -> None:
    assert LanguageCode.GO == 9
    assert LANGUAGE_NAMES[12] == "RUST"
    assert len(LANGUAGE_NAMES) == 14


def test_every_header_class_is_used_by_some_request() -> None:
    used = Counter(header for row in REQUESTS.values() for header in (row.header, row.reply_header) if header)
    declared = {getattr(headers, name) for name in headers.__all__}
    assert all(issubclass(header, Header) for header in declared)
    assert declared == set(used)


def test_reserved_numbers_are_served_by_nobody() -> None:
    assert not [row for row in REQUESTS.values() if "→" not in row.direction and (row.served or row.header)]


def test_the_tables_in_the_document_are_current() -> None:
    """If this fails: python -m fastmq.protocol.tables docs/protocol.md"""
    text = PROTOCOL_DOC.read_text(encoding="utf-8")
    assert render(text) == text


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers of the request table"):
        render("# nothing here\n")
