"""Creating, changing, deleting and looking at topics, as mqadmin and the Dashboard do it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_admin_handlers import MemoryBroker

from fastmq.protocol.bodies import DataVersion
from fastmq.protocol.codes import RequestCode

CREATE = {
    "readQueueNums": 4, "writeQueueNums": 4, "perm": 6, "topicFilterType": "SINGLE_TAG", "topic": "t",
    "attributes": "", "force": "false", "defaultTopic": "TBW102", "order": "false", "topicSysFlag": 0,
}  # fmt: skip


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def create(broker: MemoryBroker, local: bool = True, **more: object) -> tuple[int, str | None]:
    reply = broker.request(RequestCode.UPDATE_AND_CREATE_TOPIC, {**CREATE, **more}, local=local)
    return reply.code, reply.remark


def test_created_topic_can_be_used_and_seen(broker: MemoryBroker) -> None:
    assert create(broker, attributes="+message.type=FIFO", order="true")[0] == 0
    assert broker.store.told["t"] == (6, 4, 4)
    seen = broker.json(RequestCode.GET_TOPIC_CONFIG, {"topic": "t", "lo": "true"})
    assert seen == {
        "attributes": {"message.type": "FIFO"}, "order": True, "perm": 6, "readQueueNums": 4,
        "topicFilterType": "SINGLE_TAG", "topicName": "t", "topicSysFlag": 0, "writeQueueNums": 4,
    }  # fmt: skip


def test_same_topic_again_changes_nothing(broker: MemoryBroker) -> None:
    create(broker)
    version = broker.topics.data_version
    assert create(broker) == (0, None)
    assert broker.topics.data_version == version
    assert create(broker, perm=4) == (0, None)
    assert broker.topics.data_version != version


@pytest.mark.parametrize(
    ("change", "code", "remark"),
    [
        ({"topic": ""}, 29, "The specified topic is blank."),
        ({"topic": "a b"}, 29, "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
        ({"topic": "x" * 128}, 29, "The specified topic is longer than topic max length."),
        ({"topic": "TBW102"}, 29, "The topic[TBW102] is conflict with system topic."),
        ({"topic": "broker-a"}, 29, "The topic[broker-a] is conflict with system topic."),
        ({"perm": 8}, 29, None),
        ({"readQueueNums": -1}, 29, None),
        ({"writeQueueNums": 70_000}, 29, None),
        ({"topicFilterType": "WHAT"}, 29, None),
        ({"attributes": "+no.such=1"}, 1, "unsupported key: no.such"),
        ({"attributes": "-message.type"}, 1, None),
        ({"attributes": "+message.type=ODD"}, 1, None),
        ({"attributes": "message.type=FIFO"}, 1, None),
        ({"attributes": "+message.type=FIFO,+message.type=DELAY"}, 1, None),
        ({"attributes": "+reserve.time=soon"}, 1, None),
        ({"attributes": "+queue.type=BatchCQ"}, 1, "queue.type=BatchCQ is not supported by fastmq"),
        ({"attributes": "+cleanup.policy=COMPACTION"}, 1, "cleanup.policy=COMPACTION is not supported by fastmq"),
        ({"attributes": "+message.type=MIXED"}, 29, None),
    ],
)
def test_refused(broker: MemoryBroker, change: dict[str, object], code: int, remark: str | None) -> None:
    got, text = create(broker, **change)
    assert got == code
    assert text if remark is None else text == remark
    assert "t" not in broker.topics


def test_attributes_of_a_topic_can_be_changed_and_removed(broker: MemoryBroker) -> None:
    create(broker, attributes="+message.type=FIFO,+queue.type=SimpleCQ")
    assert create(broker, attributes="+message.type=DELAY")[0] == 0
    assert broker.topics.get("t").attributes == {"message.type": "DELAY", "queue.type": "SimpleCQ"}  # type: ignore[union-attr]
    assert create(broker, attributes="-message.type")[0] == 0
    assert broker.topics.get("t").attributes == {"queue.type": "SimpleCQ"}  # type: ignore[union-attr]
    assert create(broker, attributes="-message.type")[0] == 1
    assert create(broker, attributes="-queue.type")[0] == 1


def test_topic_list_is_all_or_nothing(broker: MemoryBroker) -> None:
    attributes = {"+message.type": "FIFO"}
    good = {"topicName": "a", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "attributes": attributes}
    bad = {**good, "topicName": "TBW102"}
    assert broker.request(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, body={"topicConfigList": [good, bad]}).code == 29
    assert "a" not in broker.topics
    assert broker.request(RequestCode.UPDATE_AND_CREATE_TOPIC_LIST, body={"topicConfigList": [good]}).code == 0
    assert broker.topics.get("a").attributes == {"message.type": "FIFO"}  # type: ignore[union-attr]


def test_other_machines_may_create_but_not_change(broker: MemoryBroker) -> None:
    assert create(broker, local=False)[0] == 0
    assert create(broker, local=False)[0] == 0, "nothing changes"
    assert create(broker, local=False, perm=0)[0] == 16
    assert broker.topics.get("t").perm == 6  # type: ignore[union-attr]
    closed = MemoryBroker(auto_create_topic_enable=False)
    assert create(closed, local=False)[0] == 16
    open_broker = MemoryBroker(admin_from_loopback_only=False)
    create(open_broker)
    assert create(open_broker, local=False, perm=0)[0] == 0


def test_delete_takes_everything_of_the_topic(broker: MemoryBroker) -> None:
    for name in ("t", "other", "%RETRY%g_t"):
        broker.add_topic(name)
        broker.store.add(name)
        broker.offsets.commit("g", name, 0, 1)
        broker.order.put(name, "g", 0, [0], attempt_id=None, pop_ms=1, invisible_ms=1, now_ms=1)
        broker.pop.inflight.add(name, "g", 0, 1, 1)
    broker.stats.on_put("t", 0, 1, 1)
    assert broker.request(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "t"}).code == 0
    assert broker.request(RequestCode.GET_TOPIC_CONFIG, {"topic": "t"}).code == 17
    assert "%RETRY%g_t" not in broker.topics
    assert broker.offsets.topics_of_group("g") == {"other"}
    assert len(broker.order) == 1
    assert [broker.pop.inflight.count(name, "g", 0) for name in ("t", "other")] == [0, 1]
    assert [queue[0] for queue in broker.store.queues()] == ["other"]
    assert "t" not in broker.store.told
    assert broker.stats.view("TOPIC_PUT_NUMS", "t") is None
    assert broker.request(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "t"}).code == 0, "again is no error"
    assert broker.request(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "TBW102"}).code == 29
    assert broker.request(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": " "}).code == 29


def test_clean_unused_topic_keeps_what_exists(broker: MemoryBroker) -> None:
    broker.add_topic("t")
    for name in ("t", "gone", "SCHEDULE_TOPIC_XXXX"):
        broker.store.add(name)
    assert broker.request(RequestCode.CLEAN_UNUSED_TOPIC).code == 0
    assert [queue[0] for queue in broker.store.queues()] == ["t", "SCHEDULE_TOPIC_XXXX"]


def test_whole_table_for_readers_that_know_no_pages(broker: MemoryBroker) -> None:
    broker.add_topic("t")
    for ext in ({}, {"topicSeq": 0, "maxTopicNum": 3}):
        reply = broker.request(RequestCode.GET_ALL_TOPIC_CONFIG, ext)
        assert reply.ext == {}
        body = json.loads(reply.body)
        assert set(body["topicConfigTable"]) == set(broker.topics.names())
        assert list(body) == sorted(body)


def test_pages_cover_the_table_once(broker: MemoryBroker) -> None:
    version = json.dumps(broker.topics.data_version.to_json())
    seen: dict[str, Any] = {}
    total = None
    while total is None or len(seen) < total:
        ext = {"topicSeq": len(seen), "maxTopicNum": 3, "dataVersion": version}
        reply = broker.request(RequestCode.GET_ALL_TOPIC_CONFIG, ext)
        total = int(reply.ext["totalTopicNum"])
        page = json.loads(reply.body)["topicConfigTable"]
        assert 0 < len(page) <= 3
        assert not seen.keys() & page.keys()
        seen |= page
    assert set(seen) == set(broker.topics.names())


def test_a_changed_table_is_read_from_the_start_again(broker: MemoryBroker) -> None:
    old = json.dumps(DataVersion(counter=99).to_json())
    for text in (old, "rubbish{"):
        ext = {"topicSeq": 5, "maxTopicNum": 2, "dataVersion": text}
        page = json.loads(broker.request(RequestCode.GET_ALL_TOPIC_CONFIG, ext).body)["topicConfigTable"]
        assert list(page) == sorted(broker.topics.names())[:2]


def test_topic_status(broker: MemoryBroker) -> None:
    broker.add_topic("t", 2)
    broker.store.add("t", 1)
    broker.clock.advance_ms(5)
    broker.store.add("t", 1)
    reply = broker.request(RequestCode.GET_TOPIC_STATS_INFO, {"topic": "t"})
    newest = broker.clock.wall_ms()
    assert reply.body.startswith(
        b'{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"t"}:'
        b'{"lastUpdateTimestamp":0,"maxOffset":0,"minOffset":0},'
        b'{"brokerName":"broker-a","queueId":1,"topic":"t"}:'
        b'{"lastUpdateTimestamp":%d,"maxOffset":2,"minOffset":0}},"topicPutTps":' % newest
    )
    missing = broker.request(RequestCode.GET_TOPIC_STATS_INFO, {"topic": "nope"})
    assert (missing.code, missing.remark) == (17, "topic[nope] not exist")


def test_system_topics(broker: MemoryBroker) -> None:
    topics = broker.json(RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_BROKER)["topicList"]
    assert {"TBW102", "broker-a", "DefaultCluster", "SCHEDULE_TOPIC_XXXX", "CHECKPOINT_TOPIC"} <= set(topics)
