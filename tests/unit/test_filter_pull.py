"""Pulls with SQL92 filters, over a real store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastmq.broker.filter.matching import MAX_SCANNED, SLICE, MessageFilter, read_matching
from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.message import decode_messages
from unit.broker_rig import FakePeer, Rig, consumer

TOPIC = "topic-a"
MUST_WAIT = 4 | 2


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, enable_property_filter=True)
    rig.broker.topics.put(TopicConfig(TOPIC, 4, 4))
    yield rig
    rig.close()


def fill(rig: Rig, count: int = 10, start: int = 0) -> None:
    for number in range(start, start + count):
        color = ("red", "blue", "green")[number % 3]
        assert rig.send(TOPIC, b"%d" % number, properties=f"n\x01{number}\x02color\x01{color}\x02").code == 0


def bodies(reply: Any) -> list[bytes]:
    return [message.body for message in decode_messages(reply.body)]


def sql_consumer(text: str, version: int = 1, group: str = "cg") -> dict[str, Any]:
    data = consumer(group)
    data["subscriptionDataSet"] = [
        {"topic": TOPIC, "subString": text, "subVersion": version, "expressionType": "SQL92"},
        {"topic": f"%RETRY%{group}", "subString": "*", "subVersion": version, "expressionType": "TAG"},
    ]
    return data


@pytest.mark.parametrize("code", [RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE])
def test_a_filter_in_the_request(rig: Rig, code: int) -> None:
    fill(rig)
    reply = rig.pull(TOPIC, subscription="n >= 3 AND color <> 'red'", expressionType="SQL92", code=code)
    assert (reply.code, bodies(reply)) == (0, [b"4", b"5", b"7", b"8"])
    assert reply.ext["nextBeginOffset"] == "10"


def test_nothing_matches(rig: Rig) -> None:
    fill(rig)
    reply = rig.pull(TOPIC, subscription="n > 100", expressionType="SQL92")
    assert (reply.code, reply.remark) == (ResponseCode.PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE")
    assert reply.ext["nextBeginOffset"] == "10"


@pytest.mark.parametrize(("offset", "code"), [(10, ResponseCode.PULL_NOT_FOUND), (11, ResponseCode.PULL_OFFSET_MOVED)])
def test_offsets_outside_are_answered_as_without_filter(rig: Rig, offset: int, code: int) -> None:
    fill(rig)
    assert rig.pull(TOPIC, offset=offset, subscription="n > 100", expressionType="SQL92").code == code
    assert rig.pull(TOPIC, queue=1, subscription="n > 1", expressionType="SQL92").code == ResponseCode.PULL_NOT_FOUND


def test_as_many_as_asked_for(rig: Rig) -> None:
    fill(rig, 20)
    reply = rig.pull(TOPIC, subscription="color = 'red'", expressionType="SQL92", maxMsgNums=3)
    assert bodies(reply) == [b"0", b"3", b"6"]
    reply = rig.pull(
        TOPIC, offset=int(reply.ext["nextBeginOffset"]), subscription="color = 'red'", expressionType="SQL92"
    )
    assert bodies(reply) == [b"9", b"12", b"15", b"18"]


@pytest.mark.parametrize("text", ["a >> 5", "a = 1 LIKE 'x'", "5", ""])
def test_one_that_does_not_compile_is_refused_with_its_place(rig: Rig, text: str) -> None:
    fill(rig)
    reply = rig.pull(TOPIC, subscription=text, expressionType="SQL92")
    assert reply.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert reply.remark.startswith("parse the consumer's subscription failed, line 1, column ")


def test_a_type_nobody_knows(rig: Rig) -> None:
    reply = rig.pull(TOPIC, subscription="x", expressionType="XPATH")
    assert reply.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert "no filter type XPATH" in reply.remark


def test_switched_off(rig: Rig) -> None:
    rig.change(enable_property_filter=False)
    remark = "The broker does not support consumer to filter message by SQL92"
    remark += ": enablePropertyFilter is false in its configuration"
    reply = rig.pull(TOPIC, subscription="n > 1", expressionType="SQL92")
    assert (reply.code, reply.remark) == (ResponseCode.SYSTEM_ERROR, remark)
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 1")])
    reply = rig.pull(TOPIC, sysFlag=0, subVersion=1)
    assert (reply.code, reply.remark) == (ResponseCode.SYSTEM_ERROR, remark)


# --- filters of heartbeats --------------------------------------------------------------------------------------------


def test_a_filter_of_a_heartbeat(rig: Rig) -> None:
    fill(rig)
    rig.heartbeat(consumerDataSet=[sql_consumer("n BETWEEN 2 AND 4")])
    reply = rig.pull(TOPIC, sysFlag=0, subVersion=1)
    assert bodies(reply) == [b"2", b"3", b"4"]
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7", 2)])
    assert bodies(rig.pull(TOPIC, sysFlag=0, subVersion=2)) == [b"8", b"9"]


def test_filter_data_not_latest(rig: Rig) -> None:
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7", 2)])
    info = rig.broker.sessions.consumer_group("cg")
    assert info is not None
    rig.broker.filters.consumers.get(TOPIC, "cg").client_version = 1  # type: ignore[union-attr]
    reply = rig.pull(TOPIC, sysFlag=0, subVersion=2)
    assert reply.code == ResponseCode.FILTER_DATA_NOT_LATEST
    assert rig.pull(TOPIC, sysFlag=0, subVersion=3).code == ResponseCode.SUBSCRIPTION_NOT_LATEST


def test_filter_data_does_not_exist_if_it_does_not_compile(rig: Rig) -> None:
    assert rig.heartbeat(consumerDataSet=[sql_consumer("n >> 7")]).code == 0
    assert rig.pull(TOPIC, sysFlag=0, subVersion=1).code == ResponseCode.FILTER_DATA_NOT_EXIST


def test_the_filter_dies_with_the_group(rig: Rig) -> None:
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7")])
    known = rig.broker.filters.consumers.get(TOPIC, "cg")
    assert known is not None
    rig.clock.advance_ms(5)
    rig.broker.closed(rig.peer)  # type: ignore[arg-type]
    assert known.dead


def test_retry_topics(rig: Rig) -> None:
    retry = "%RETRY%cg"
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7")])
    origins = f"\x02RETRY_TOPIC\x01{TOPIC}\x02", "\x02RETRY_TOPIC\x01other\x02", "\x02"
    for body, properties in zip((b"low", b"high", b"other", b"none"), ("n\x015" + origins[0], "n\x018" + origins[0],
                                "n\x015" + origins[1], "n\x015" + origins[2]), strict=True):  # fmt: skip
        rig.store.put(retry, 0, body, properties.encode())
    assert len(bodies(rig.pull(retry, sysFlag=0, subVersion=1))) == 4
    ask = {"subscription": "*", "expressionType": "SQL92"}
    assert rig.pull(retry, **ask).code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    ask["subscription"] = "TRUE"
    assert len(bodies(rig.pull(retry, **ask))) == 4
    rig.change(filter_support_retry=True)
    assert bodies(rig.pull(retry, **ask)) == [b"high", b"other", b"none"]


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_held_pull_waits_for_a_match(rig: Rig) -> None:
    fill(rig, 5)
    ask = {"subscription": "n > 7", "expressionType": "SQL92", "sysFlag": MUST_WAIT, "offset": 5}
    assert rig.pull(TOPIC, **ask) is None
    for number in (5, 6, 7):
        fill(rig, 1, number)
        rig.wake()
        assert rig.peer.replies == []
    fill(rig, 1, 8)
    rig.wake()
    ((_, reply),) = rig.peer.replies
    assert (reply.code, bodies(reply), reply.ext["nextBeginOffset"]) == (0, [b"8"], "9")


def test_a_held_pull_without_match_times_out(rig: Rig) -> None:
    fill(rig, 1)
    assert rig.pull(TOPIC, subscription="n > 7", expressionType="SQL92", sysFlag=MUST_WAIT, offset=1) is None
    fill(rig, 3, 1)
    rig.wake()
    rig.clock.advance_ms(15_000)
    rig.expire_pulls()
    ((_, reply),) = rig.peer.replies
    assert (reply.code, reply.ext["nextBeginOffset"]) == (ResponseCode.PULL_RETRY_IMMEDIATELY, "4")


# --- bounds -----------------------------------------------------------------------------------------------------------


def counting(step_s: float) -> Callable[[], float]:
    """A clock that goes on by so much with each look at it."""
    times = iter(step_s * number for number in range(10_000))
    return lambda: next(times)


def test_a_slow_scan_is_cut_short(rig: Rig) -> None:
    fill(rig, 5 * SLICE)
    wanted = MessageFilter(expression=rig.broker.filters.expressions.compile("n > 100000"))
    result = read_matching(rig.store, wanted, TOPIC, 0, 0, 32, monotonic=counting(1.0))
    assert (result.messages, result.next_offset) == ([], SLICE)
    result = read_matching(rig.store, wanted, TOPIC, 0, 0, 32, monotonic=counting(0.0015))
    assert result.next_offset == 2 * SLICE
    result = read_matching(rig.store, wanted, TOPIC, 0, 0, 32, monotonic=counting(0))
    assert result.next_offset == 5 * SLICE


def test_a_scan_looks_at_so_many_messages(rig: Rig) -> None:
    fill(rig, MAX_SCANNED + 50)
    reply = rig.pull(TOPIC, subscription=f"n >= {MAX_SCANNED}", expressionType="SQL92")
    assert (reply.code, reply.ext["nextBeginOffset"]) == (ResponseCode.PULL_RETRY_IMMEDIATELY, str(MAX_SCANNED))
    rig.change(max_filter_message_size=100 * 20)
    reply = rig.pull(TOPIC, subscription=f"n >= {MAX_SCANNED}", expressionType="SQL92")
    assert reply.ext["nextBeginOffset"] == "100"


def test_pulling_on_finds_everything(rig: Rig) -> None:
    fill(rig, 700)
    rig.change(max_filter_message_size=2000)
    offset, found = 0, []
    while offset < 700:
        reply = rig.pull(TOPIC, offset=offset, subscription="n >= 250 AND color = 'blue'", expressionType="SQL92")
        found += bodies(reply)
        assert int(reply.ext["nextBeginOffset"]) > offset
        offset = int(reply.ext["nextBeginOffset"])
    assert found == [b"%d" % number for number in range(250, 700) if number % 3 == 1]


# --- what is asked beforehand -----------------------------------------------------------------------------------------


def check(rig: Rig, text: str, kind: str = "SQL92") -> Any:
    body = {
        "clientId": "c",
        "group": "g",
        "subscriptionData": {"topic": TOPIC, "subString": text, "expressionType": kind},
    }
    return rig.ask(RequestCode.CHECK_CLIENT_CONFIG, {}, body)


def test_check_client_config(rig: Rig) -> None:
    assert check(rig, "n > 5").code == 0
    reply = check(rig, "n >> 5")
    assert reply.code == ResponseCode.SUBSCRIPTION_PARSE_FAILED
    assert 'line 1, column 4: unexpected ">"' in reply.remark
    rig.change(enable_property_filter=False)
    reply = check(rig, "n > 5")
    assert reply.code == 1
    assert reply.remark.startswith("The broker does not support consumer to filter message by SQL92: enablePropert")


def test_the_group_view_tells_of_conflicts(rig: Rig) -> None:
    def view() -> dict[str, Any]:
        reply = rig.ask(RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": "cg"})
        return dict(json.loads(reply.body))

    rig.heartbeat("client-1", consumerDataSet=[sql_consumer("n > 7")])
    assert "subscriptionConflicts" not in view()
    other = FakePeer(2)
    rig.heartbeat("client-2", peer=other, consumerDataSet=[sql_consumer("n > 8", 2)])
    assert view()["subscriptionConflicts"] == {TOPIC: {"client-1": "SQL92: n > 7", "client-2": "SQL92: n > 8"}}
    rig.broker.closed(other)  # type: ignore[arg-type]
    assert "subscriptionConflicts" not in view()


def test_filters_survive_a_restart(rig: Rig) -> None:
    fill(rig)
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7")])
    rig.broker.filters.consumers.file.persist()
    rig.reopen()
    known = rig.broker.filters.consumers.get(TOPIC, "cg")
    assert known is not None
    assert known.dead
    rig.heartbeat(consumerDataSet=[sql_consumer("n > 7")])
    assert bodies(rig.pull(TOPIC, sysFlag=0, subVersion=1)) == [b"8", b"9"]


def test_the_filter_of_single_messages(rig: Rig) -> None:
    wanted = MessageFilter(expression=rig.broker.filters.expressions.compile("n > 7"), tag_codes=frozenset({5}))
    assert wanted.matches(b"n\x018\x02", 5)
    assert wanted.matches({"n": "8"})
    assert not wanted.matches({"n": "8"}, 6)
    assert not wanted.matches(b"n\x017\x02", 5)
    assert MessageFilter().matches(b"", 5)
