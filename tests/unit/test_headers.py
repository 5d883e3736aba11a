from __future__ import annotations

import pytest

from fastmq.errors import RequestError
from fastmq.protocol import headers
from fastmq.protocol.fields import INT32_MAX, Header
from fastmq.protocol.headers import (
    GetMaxOffsetRequest,
    PullMessageRequest,
    ResetOffsetRequest,
    SearchOffsetRequest,
    SendMessageRequest,
    SendMessageRequestV2,
    SendMessageResponse,
    UnregisterClientRequest,
    UpdateConsumerOffsetRequest,
)

ALL = [getattr(headers, name) for name in headers.__all__]


def filled(kind: type[Header]) -> Header:
    """An object of the class in which every field has a value that is not its default."""
    values: dict[str, object] = {}
    for name, text in kind.__annotations__.items():
        if text.startswith("str"):
            values[name] = f"<{name}>"
        elif text.startswith("bool"):
            values[name] = True
        else:
            values[name] = INT32_MAX if "Int32" in text else 1 << 40
    return kind(**values)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_what_is_encoded_is_decoded(kind: type[Header]) -> None:
    header = filled(kind)
    ext = header.encode()
    assert list(ext) == list(kind.WIRE_NAMES.values())
    assert kind.decode(ext) == header


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_only_required_fields_are_required(kind: type[Header]) -> None:
    ext = {name: text for name, text in filled(kind).encode().items() if name in kind.REQUIRED}
    header = kind.decode(ext)
    assert header.encode().items() >= ext.items()
    for name in kind.REQUIRED:
        with pytest.raises(RequestError, match=f"the custom field <{name}> is null"):
            kind.decode({other: text for other, text in ext.items() if other != name})


V1 = {
    "producerGroup": "pg", "topic": "t", "defaultTopic": "TBW102", "defaultTopicQueueNums": "4", "queueId": "3",
    "sysFlag": "1", "bornTimestamp": "1795221011828", "flag": "5", "properties": "KEYS\x01k\x02",
    "reconsumeTimes": "2", "unitMode": "false", "batch": "true", "maxReconsumeTimes": "16", "bname": "b",
}  # fmt: skip
V2 = {
    "a": "pg", "b": "t", "c": "TBW102", "d": "4", "e": "3", "f": "1", "g": "1795221011828", "h": "5",
    "i": "KEYS\x01k\x02", "j": "2", "k": "false", "l": "16", "m": "true", "n": "b",
}  # fmt: skip


def test_both_forms_of_a_send_mean_the_same() -> None:
    assert SendMessageRequest.from_v2(V2) == SendMessageRequest.decode(V1)
    assert SendMessageRequest.decode(V1).encode_v2() == V2
    assert SendMessageRequestV2.decode(V2).to_v1().encode() == V1


def test_a_missing_letter_is_named() -> None:
    with pytest.raises(RequestError, match="the custom field <b> is null"):
        SendMessageRequest.from_v2({"a": "pg"})


def test_a_send_answer_has_the_names_that_clients_parse() -> None:
    answer = SendMessageResponse("0A", 1, 2, "uk", region="DefaultRegion", trace_on=True)
    assert answer.encode() == {
        "msgId": "0A", "queueId": "1", "queueOffset": "2", "transactionId": "uk", "MSG_REGION": "DefaultRegion",
        "TRACE_ON": "true",
    }  # fmt: skip


def test_pull_flags() -> None:
    ext = {
        "consumerGroup": "g", "topic": "t", "queueId": "0", "queueOffset": "7", "maxMsgNums": "32", "sysFlag": "3",
        "commitOffset": "5", "suspendTimeoutMillis": "15000", "subVersion": "0", "proxyFrowardClientId": "c",
    }  # fmt: skip
    pull = PullMessageRequest.decode(ext)
    assert (pull.commits_offset, pull.may_suspend, pull.has_subscription, pull.has_class_filter) == (
        True, True, False, False,
    )  # fmt: skip
    assert pull.proxy_forward_client_id == "c"


def test_the_boundary_is_lower_unless_it_says_upper() -> None:
    ext = {"topic": "t", "queueId": "0", "timestamp": "1"}
    assert not SearchOffsetRequest.decode(ext).upper
    assert SearchOffsetRequest.decode({**ext, "boundaryType": "upper"}).upper
    assert not SearchOffsetRequest.decode({**ext, "boundaryType": "sideways"}).upper


def test_absent_numbers_of_an_offset_update_are_left_to_the_broker() -> None:
    update = UpdateConsumerOffsetRequest.decode({"consumerGroup": "g", "topic": "t"})
    assert update.queue_id is None
    assert update.commit_offset is None


def test_defaults_that_matter() -> None:
    assert GetMaxOffsetRequest.decode({"topic": "t", "queueId": "0"}).committed is True
    assert ResetOffsetRequest.decode({"topic": "t", "group": "g", "timestamp": "-1"}).queue_id == -1
    assert UnregisterClientRequest.decode({"clientID": "c"}).encode() == {"clientID": "c"}
