"""Queues shared out by the broker, and whether a group pulls or pops them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastmq.broker.handlers.assignment import ANY_QUEUE, STRATEGIES, assign_averagely, assign_for_pop
from fastmq.broker.state.request_modes import MessageRequestModes
from fastmq.errors import StoreError
from fastmq.protocol.bodies import MessageQueue, MessageRequestMode
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from fastmq.store.tables import save_json
from unit.test_admin_handlers import MemoryBroker


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def queues_of(count: int, *, brokers: str = "b") -> list[MessageQueue]:
    return [MessageQueue("t", name, number) for name in brokers for number in range(count)]


# --- sharing out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("queues", "clients"), [(8, 3), (3, 8), (1, 1), (4, 4), (0, 2), (7, 2)])
def test_every_queue_is_assigned_exactly_once(queues: int, clients: int) -> None:
    all_queues = queues_of(queues)
    ids = [f"c{i}" for i in range(clients)]
    for strategy in STRATEGIES.values():
        assigned = [queue for client in ids for queue in strategy(client, all_queues, ids)]
        assert sorted(assigned) == all_queues
        sizes = [len(strategy(client, all_queues, ids)) for client in ids]
        assert max(sizes) - min(sizes) <= 1
        assert strategy("stranger", all_queues, ids) == []


def pop_numbers(client: str, queues: int, clients: int, share: int) -> list[int]:
    ids = [f"c{i}" for i in range(clients)]
    found = assign_for_pop(client, queues_of(queues), ids, strategy=assign_averagely, share=share)
    return [queue.queue_id for queue in found]


@pytest.mark.parametrize("share", [-1, 0, 2, 3, 99])
def test_popping_from_whole_brokers(share: int) -> None:
    found = assign_for_pop("c1", queues_of(4, brokers="ab"), ["c0", "c1", "c2"], strategy=assign_averagely, share=share)
    assert found == [MessageQueue("t", name, ANY_QUEUE) for name in "ab"]


def test_popping_from_the_queues_of_the_next_members() -> None:
    assert pop_numbers("c0", 8, 4, 1) == [0, 1, 2, 3]
    assert pop_numbers("c2", 8, 4, 1) == [4, 5, 6, 7]
    assert pop_numbers("c3", 8, 4, 1) == [6, 7, 0, 1]
    assert pop_numbers("c3", 8, 4, 2) == [6, 7, 0, 1, 2, 3]
    assert pop_numbers("stranger", 8, 4, 1) == []


def test_popping_with_more_members_than_queues() -> None:
    assert [pop_numbers(f"c{number}", 3, 5, 1) for number in range(5)] == [[0], [1], [2], [0], [1]]
    assert pop_numbers("stranger", 3, 5, 1) == []
    assert pop_numbers("c0", 0, 5, 1) == []


@pytest.mark.parametrize(("queues", "clients", "share"), [(8, 4, 1), (9, 4, 2), (3, 7, 2), (4, 4, 1), (5, 5, 3)])
def test_every_queue_is_popped_by_somebody(queues: int, clients: int, share: int) -> None:
    popped = {number for client in range(clients) for number in pop_numbers(f"c{client}", queues, clients, share)}
    assert popped == set(range(queues)) or popped == {ANY_QUEUE}


# --- asking -----------------------------------------------------------------------------------------------------------


def assignment(broker: MemoryBroker, client: str, **more: str) -> Any:
    body = {"topic": "t", "consumerGroup": "g", "clientId": client, "messageModel": "CLUSTERING"}
    return broker.json(RequestCode.QUERY_ASSIGNMENT, body={**body, "strategyName": "AVG", **more})


def set_mode(broker: MemoryBroker, mode: str = "POP", share: int = -1, **more: Any) -> Any:
    body = {"topic": "t", "consumerGroup": "g", "mode": mode, "popShareQueueNum": share, **more}
    return broker.request(RequestCode.SET_MESSAGE_REQUEST_MODE, body=body)


def numbers(answer: Any) -> list[int]:
    return [entry["messageQueue"]["queueId"] for entry in answer["messageQueueAssignments"]]


def modes(answer: Any) -> set[str]:
    return {entry["mode"] for entry in answer["messageQueueAssignments"]}


def test_query_assignment(broker: MemoryBroker) -> None:
    assert assignment(broker, "c1") == {}
    broker.add_topic("t", 4)
    assert assignment(broker, "c1") == {}, "nobody is online"
    broker.connect("g", "c1", "t")
    broker.connect("g", "c2", "t")
    first = assignment(broker, "c1")
    assert (numbers(first), modes(first)) == ([0, 1], {"PULL"})
    assert numbers(assignment(broker, "c2", strategyName="AVG_BY_CIRCLE")) == [1, 3]
    assert assignment(broker, "c1", strategyName="MAGIC") == {}
    assert numbers(assignment(broker, "stranger")) == []
    assert numbers(assignment(broker, "c1", messageModel="BROADCASTING")) == [0, 1, 2, 3]


def test_without_the_balancer_everybody_gets_everything() -> None:
    broker = MemoryBroker(server_load_balancer_enable=False)
    broker.add_topic("t", 3)
    assert numbers(assignment(broker, "anybody")) == [0, 1, 2]
    assert assignment(broker, "anybody", topic="nowhere") == {}


def test_queues_of_other_brokers_count(broker: MemoryBroker) -> None:
    broker.add_topic("t", 1)
    broker.connect("g", "c1", "t")
    queue = {"brokerName": "", "perm": 6, "readQueueNums": 2, "topicSysFlag": 0, "writeQueueNums": 2}
    route = {"brokerDatas": [], "queueDatas": [{**queue, "brokerName": "a"}, {**queue, "brokerName": "b", "perm": 2}]}
    broker.registrar.route = Command(105, flag=1, body=json.dumps(route).encode())
    broker.registrar.route.code = 0
    queues = [entry["messageQueue"] for entry in assignment(broker, "c1")["messageQueueAssignments"]]
    assert queues == [{"brokerName": "a", "queueId": i, "topic": "t"} for i in (0, 1)]


def test_a_broker_that_says_it_has_two_billion_queues(broker: MemoryBroker) -> None:
    broker.add_topic("t", 1)
    broker.connect("g", "c1", "t")
    queue = {"brokerName": "liar", "perm": 6, "readQueueNums": 2**31 - 1, "topicSysFlag": 0, "writeQueueNums": 1}
    route = {"brokerDatas": [], "queueDatas": [queue]}
    broker.registrar.route = Command(105, flag=1, body=json.dumps(route).encode())
    broker.registrar.route.code = 0
    body = {"topic": "t", "consumerGroup": "g", "clientId": "c1", "messageModel": "CLUSTERING", "strategyName": "AVG"}
    answer = broker.request(RequestCode.QUERY_ASSIGNMENT, body=body)
    assert answer.code == 1
    assert "liar" in answer.remark


def test_a_group_that_pops(broker: MemoryBroker) -> None:
    broker.add_topic("t", 4)
    for number in range(4):
        broker.connect("g", f"c{number}", "t")
    assert set_mode(broker).code == 0
    answer = assignment(broker, "c2")
    assert (numbers(answer), modes(answer)) == ([-1], {"POP"})
    assert set_mode(broker, share=1).code == 0
    assert numbers(assignment(broker, "c3")) == [0, 3]
    assert set_mode(broker, "PULL").code == 0
    answer = assignment(broker, "c3")
    assert (numbers(answer), modes(answer)) == ([3], {"PULL"})


def test_groups_for_which_nothing_was_set() -> None:
    broker = MemoryBroker(default_message_request_mode="POP", default_pop_share_queue_num=1)
    for topic in ("t", "%RETRY%g"):
        broker.add_topic(topic, 4)
    for number in range(4):
        broker.connect("g", f"c{number}", "t")
    answer = assignment(broker, "c0")
    assert (numbers(answer), modes(answer)) == ([0, 1], {"POP"})
    answer = assignment(broker, "c0", topic="%RETRY%g")
    assert (numbers(answer), modes(answer)) == ([0], {"PULL"})


def test_a_light_queue_is_one_queue_of_the_broker_that_is_asked(broker: MemoryBroker) -> None:
    broker.connect("g", "c1", "%LMQ%x")
    assert numbers(assignment(broker, "c1", topic="%LMQ%x")) == [0]


def test_a_topic_that_may_not_be_read(broker: MemoryBroker) -> None:
    broker.add_topic("t", 4, perm=2)
    broker.connect("g", "c1", "t")
    assert assignment(broker, "c1") == {}


# --- modes ------------------------------------------------------------------------------------------------------------


def test_modes_that_cannot_be_set(broker: MemoryBroker) -> None:
    broker.add_topic("t")
    assert set_mode(broker, topic="%RETRY%g").code == 16
    assert set_mode(broker, topic="nope").code == 17
    assert set_mode(broker, mode="PUSH").code == 29
    assert broker.json(RequestCode.GET_ALL_MESSAGE_REQUEST_MODE) == {"messageRequestModeMap": {}}
    strict = MemoryBroker(auto_create_subscription_group=False)
    strict.add_topic("t")
    assert set_mode(strict).code == 26


def test_all_modes(broker: MemoryBroker) -> None:
    broker.add_topic("t")
    set_mode(broker, share=3)
    assert broker.json(RequestCode.GET_ALL_MESSAGE_REQUEST_MODE) == {
        "messageRequestModeMap": {
            "t": {"g": {"consumerGroup": "g", "mode": "POP", "popShareQueueNum": 3, "topic": "t"}}
        }
    }


def test_modes_are_on_disk_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "messageRequestMode.json")
    table = MessageRequestModes(path)
    mode = MessageRequestMode(topic="t", consumer_group="g", mode="POP", pop_share_queue_num=-1)
    table.put(mode)
    again = MessageRequestModes(path)
    assert again.get("t", "g") == mode
    assert again.get("t", "h") is again.get("u", "g") is None
    again.put(MessageRequestMode(topic="t", consumer_group="g"))
    restored = MessageRequestModes(path).get("t", "g")
    assert restored is not None
    assert restored.mode == "PULL"


def test_a_mode_that_cannot_be_written_does_not_count(tmp_path: Path) -> None:
    table = MessageRequestModes(str(tmp_path / "file" / "messageRequestMode.json"))
    (tmp_path / "file").write_text("")
    for _ in range(2):
        with pytest.raises(FileExistsError):
            table.put(MessageRequestMode(topic="t", consumer_group="g", mode="POP"))
        assert table.get("t", "g") is None


@pytest.mark.parametrize("text", ['{"messageRequestModeMap":[]}', '{"messageRequestModeMap":{"t":{"g":[7]}}}'])
def test_a_file_that_makes_no_sense_stops_the_start(tmp_path: Path, text: str) -> None:
    path = str(tmp_path / "messageRequestMode.json")
    save_json(path, text)
    with pytest.raises(StoreError, match="messageRequestMode"):
        MessageRequestModes(path)
