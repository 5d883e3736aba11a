"""Requests of tools that end at a consumer: resets, status, running info, trial consumption."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_admin_handlers import MemoryBroker

from fastmq.protocol.bodies import MessageQueue, loads_lenient, queue_map
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import offset_message_id


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.add_topic("t", 2)
    broker.groups.find_or_create("g")
    return broker


def fill(broker: MemoryBroker) -> list[int]:
    times = []
    for _ in range(4):
        broker.clock.advance_ms(1000)
        broker.store.add("t", 0)
        times.append(broker.clock.wall_ms())
    return times


RESET = {"topic": "t", "group": "g", "timestamp": -1, "isForce": "true", "queueId": -1, "offset": -1}


def reset(broker: MemoryBroker, **more: object) -> dict[int, int]:
    body = broker.json(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, {**RESET, **more})
    return {queue.queue_id: offset for queue, offset in queue_map(body["offsetTable"]).items()}


def test_reset_in_the_broker_waits_for_the_next_pull(broker: MemoryBroker) -> None:
    times = fill(broker)
    assert reset(broker, timestamp=times[1]) == {0: 1, 1: 0}
    assert broker.saves == 1, "the reset is on disk before the tool is told"
    assert broker.offsets.query("g", "t", 0) == 1
    assert broker.offsets.take_reset("g", "t", 0) == 1
    assert broker.offsets.take_reset("g", "t", 0) is None
    assert reset(broker) == {0: 4, 1: 0}, "a negative time is the end"
    assert reset(broker, queueId=0, offset=2) == {0: 2}
    assert reset(broker, queueId=0, timestamp=times[3]) == {0: 3}


def test_reset_body_has_queues_as_object_literals(broker: MemoryBroker) -> None:
    reply = broker.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, RESET)
    assert reply.body == (
        b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"t"}:0,'
        b'{"brokerName":"broker-a","queueId":1,"topic":"t"}:0}}'
    )


@pytest.mark.parametrize(
    ("change", "code", "remark"),
    [
        ({"topic": "no"}, 17, None),
        ({"group": "no"}, 26, "Group no does not exist"),
        ({"queueId": 0, "offset": 9}, 1, None),
        ({"queueId": 7, "offset": 0}, 1, None),
    ],
)
def test_reset_refused(broker: MemoryBroker, change: dict[str, object], code: int, remark: str | None) -> None:
    reply = broker.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, {**RESET, **change})
    assert reply.code == code
    assert reply.remark if remark is None else reply.remark == remark


@pytest.fixture
def old_style(broker: MemoryBroker) -> MemoryBroker:
    broker.config = broker.config.with_updates({"useServerSideResetOffset": "false"}).config
    fill(broker)
    return broker


def test_reset_by_the_clients(old_style: MemoryBroker) -> None:
    broker = old_style
    first, second = broker.connect("g", "c1", "t"), broker.connect("g", "c2", "t")
    for queue in (0, 1):
        broker.offsets.commit("g", "t", queue, 0)
    assert reset(broker) == {0: 4, 1: 0}
    for client in (first, second):
        (push,) = client.sent
        assert push.code == 220
        assert push.is_oneway
        assert push.ext["group"] == "g"
        assert queue_map(loads_lenient(push.body)["offsetTable"])[MessageQueue("t", "broker-a", 0)] == 4
    assert broker.offsets.query("g", "t", 0) == 0, "the clients decide"


def test_reset_for_c_clients_has_a_list(old_style: MemoryBroker) -> None:
    client = old_style.connect("g", "c1", "t", language="CPP")
    for queue in (0, 1):
        old_style.offsets.commit("g", "t", queue, 0)
    old_style.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, RESET, language="CPP")
    rows = json.loads(client.sent[0].body)["offsetTable"]
    assert rows[0] == {"brokerName": "broker-a", "offset": 4, "queueId": 0, "topic": "t"}


def test_reset_without_force_only_goes_back(old_style: MemoryBroker) -> None:
    old_style.connect("g", "c1", "t")
    for queue in (0, 1):
        old_style.offsets.commit("g", "t", queue, 2)
    assert reset(old_style, isForce="false") == {0: 2, 1: 0}


def test_reset_by_the_clients_needs_clients(old_style: MemoryBroker) -> None:
    assert old_style.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, RESET).code == 1, "no offset was ever stored"
    for queue in (0, 1):
        old_style.offsets.commit("g", "t", queue, 0)
    assert old_style.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, RESET).code == 206
    old_style.connect("g", "c1", "t", version=20)
    assert old_style.request(RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, RESET).code == 1


# --- relays -----------------------------------------------------------------------------------------------------------


def test_running_info_is_passed_on_untouched(broker: MemoryBroker) -> None:
    client = broker.connect("g", "c1", "t")
    strange = b'{"mqTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{"dropped":false}},"x":NaN}'
    client.answers = lambda request: request.reply(0, "as it is", {"a": "b"}, strange)
    ext = {"consumerGroup": "g", "clientId": "c1", "jstackEnable": "true"}
    reply = broker.request(RequestCode.GET_CONSUMER_RUNNING_INFO, ext)
    assert (reply.code, reply.remark, reply.ext, reply.body) == (0, "as it is", {"a": "b"}, strange)
    assert client.called[0].code == 307
    assert client.called[0].ext == ext


def test_relay_failures(broker: MemoryBroker) -> None:
    ext = {"consumerGroup": "g", "clientId": "c1"}
    offline = broker.request(RequestCode.GET_CONSUMER_RUNNING_INFO, ext)
    assert (offline.code, offline.remark) == (1, "The Consumer <g> <c1> not online")
    client = broker.connect("g", "c1", "t")
    client.answers = lambda request: TimeoutError("10 s")
    assert broker.request(RequestCode.GET_CONSUMER_RUNNING_INFO, ext).code == 207
    client.answers = lambda request: ConnectionError("gone")
    assert broker.request(RequestCode.GET_CONSUMER_RUNNING_INFO, ext).code == 1
    broker.connect("old", "c2", "t", version=61)
    too_old = broker.request(RequestCode.GET_CONSUMER_RUNNING_INFO, {"consumerGroup": "old", "clientId": "c2"})
    assert too_old.code == 1
    assert "61" in (too_old.remark or "")


def test_consume_directly_brings_the_message(broker: MemoryBroker) -> None:
    client = broker.connect("g", "c1", "t")
    client.answers = lambda request: request.reply(0, None, {}, b'{"consumeResult":"CR_SUCCESS"}')
    at = broker.store.add("t", body=b"try me")
    ext: dict[str, Any] = {"consumerGroup": "g", "clientId": "c1", "topic": "t",
                           "msgId": offset_message_id("127.0.0.1", 10911, at)}  # fmt: skip
    reply = broker.request(RequestCode.CONSUME_MESSAGE_DIRECTLY, ext)
    assert reply.body == b'{"consumeResult":"CR_SUCCESS"}'
    request = client.called[0]
    assert request.body == broker.store.read_record(at)
    assert request.ext["brokerName"] == "broker-a"
    assert (request.ext["topicSysFlag"], request.ext["groupSysFlag"]) == ("0", "0")
    gone = {**ext, "msgId": offset_message_id("127.0.0.1", 10911, at + 1)}
    assert broker.request(RequestCode.CONSUME_MESSAGE_DIRECTLY, gone).code == 1
    assert broker.request(RequestCode.CONSUME_MESSAGE_DIRECTLY, {**ext, "msgId": "rubbish"}).code == 1
    assert broker.request(RequestCode.CONSUME_MESSAGE_DIRECTLY, {**ext, "clientId": "x"}).code == 1


def status_answer(offset: int) -> Any:
    queue = '{"brokerName":"broker-a","queueId":0,"topic":"t"}'
    text = f'{{"consumerTable":{{}},"messageQueueTable":{{{queue}:{offset}}}}}'

    def answer(request: Command) -> Command:
        return request.reply(0, None, {}, text.encode())

    return answer


def test_consumer_status(broker: MemoryBroker) -> None:
    ext = {"topic": "t", "group": "g"}
    assert broker.request(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, ext).code == 1
    for number, client_id in ((5, "c1"), (6, "c2")):
        broker.connect("g", client_id, "t").answers = status_answer(number)
    broker.connect("g", "silent", "t").answers = lambda request: TimeoutError("5 s")
    body = broker.json(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, ext)
    assert {client: list(table.values()) for client, table in body["consumerTable"].items()} == {"c1": [5], "c2": [6]}
    one = broker.json(RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, {**ext, "clientAddr": "c2"})
    assert list(one["consumerTable"]) == ["c2"]
