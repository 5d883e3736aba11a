"""Consumer groups by command, who is connected and how far everybody has come."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_admin_handlers import MemoryBroker

from fastmq.protocol.bodies import ConsumeStats, MessageQueue, SubscriptionGroupConfig, queue_map
from fastmq.protocol.codes import RequestCode


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


# --- configuration of groups ------------------------------------------------------------------------------------------


def put(broker: MemoryBroker, *, local: bool = True, **more: object) -> int:
    body = {"groupName": "g", "retryMaxTimes": 5, "retryQueueNums": 2, **more}
    return broker.request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, body=body, local=local).code


def test_group_is_created_changed_and_seen(broker: MemoryBroker) -> None:
    assert put(broker) == 0
    seen = broker.json(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": "g"})
    assert (seen["retryMaxTimes"], seen["retryQueueNums"], seen["consumeEnable"]) == (5, 2, True)
    assert put(broker, consumeEnable=False) == 0
    assert broker.groups.get("g").consume_enable is False  # type: ignore[union-attr]
    table = broker.json(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    assert table["subscriptionGroupTable"]["g"]["consumeEnable"] is False
    assert {"dataVersion", "forbiddenTable", "subscriptionGroupTable"} == set(table)


@pytest.mark.parametrize("name", ["", "a b", "x" * 121])
def test_bad_group_names_are_refused(broker: MemoryBroker, name: str) -> None:
    assert put(broker, groupName=name) == 29
    body = {"groupConfigList": [{"groupName": "ok"}, {"groupName": name}]}
    assert broker.request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, body=body).code == 29
    assert "ok" not in broker.groups


def test_group_list(broker: MemoryBroker) -> None:
    body = {"groupConfigList": [{"groupName": "g1"}, {"groupName": "g2", "retryMaxTimes": 1}]}
    assert broker.request(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, body=body).code == 0
    assert broker.groups.get("g2").retry_max_times == 1  # type: ignore[union-attr]


def test_other_machines_may_create_but_not_change(broker: MemoryBroker) -> None:
    assert put(broker, local=False) == 0
    assert put(broker, local=False, consumeEnable=False) == 16
    assert put(MemoryBroker(auto_create_subscription_group=False), local=False) == 16


def test_unknown_group(broker: MemoryBroker) -> None:
    assert broker.json(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": "new"})["groupName"] == "new"
    closed = MemoryBroker(auto_create_subscription_group=False)
    assert closed.request(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": "new"}).code == 26


def test_delete_group_keeps_offsets_unless_told(broker: MemoryBroker) -> None:
    broker.add_topic("t")
    put(broker)
    broker.offsets.commit("g", "t", 0, 3)
    broker.order.put("t", "g", 0, [0], attempt_id=None, pop_ms=1, invisible_ms=1, now_ms=1)
    broker.pop.inflight.add("t", "g", 0, 1, 1)
    assert broker.request(RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "g", "cleanOffset": "false"}).code == 0
    assert len(broker.order) == broker.pop.inflight.count("t", "g", 0) == 1
    assert "g" not in broker.groups
    assert broker.offsets.query("g", "t", 0) == 3
    assert broker.request(RequestCode.DELETE_SUBSCRIPTIONGROUP, {"groupName": "g", "cleanOffset": "true"}).code == 0
    assert broker.offsets.query("g", "t", 0) == -1
    assert len(broker.order) == broker.pop.inflight.count("t", "g", 0) == 0


def test_forbid_reading(broker: MemoryBroker) -> None:
    ext: dict[str, Any] = {"group": "g", "topic": "t"}
    forbid = broker.json(RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, {**ext, "readable": "false"})
    assert forbid == {"group": "g", "readable": False, "topic": "t"}
    assert broker.groups.forbidden("g", "t")
    assert broker.json(RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, ext)["readable"] is False
    assert broker.json(RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN, {**ext, "readable": "true"})["readable"] is True


def test_pages_of_groups(broker: MemoryBroker) -> None:
    version = json.dumps(broker.groups.data_version.to_json())
    ext = {"groupSeq": 1, "maxGroupNum": 2, "dataVersion": version}
    reply = broker.request(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG, ext)
    assert list(json.loads(reply.body)["subscriptionGroupTable"]) == sorted(broker.groups.names())[1:3]
    assert reply.ext == {"totalGroupNum": str(len(broker.groups))}


# --- connections ------------------------------------------------------------------------------------------------------


def test_connections(broker: MemoryBroker) -> None:
    consumer = broker.connect("g", "c1", "t", language="GO", version=405)
    producer = broker.connect("p", "p1")
    seen = broker.json(RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": "g"})
    assert seen["connectionSet"] == [
        {"clientAddr": consumer.address, "clientId": "c1", "language": "GO", "version": 405}
    ]
    assert seen["consumeType"] == "CONSUME_PASSIVELY"
    assert seen["messageModel"] == "CLUSTERING"
    assert seen["consumeFromWhere"] == "CONSUME_FROM_LAST_OFFSET"
    assert list(seen["subscriptionTable"]) == ["t"]
    assert broker.json(RequestCode.GET_PRODUCER_CONNECTION_LIST, {"producerGroup": "p"})["connectionSet"] == [
        {"clientAddr": producer.address, "clientId": "p1", "language": "JAVA", "version": 479}
    ]
    producers = broker.json(RequestCode.GET_ALL_PRODUCER_INFO)["data"]
    assert producers["p"][0]["remoteIP"] == f"/{producer.address}"


def test_nobody_connected(broker: MemoryBroker) -> None:
    offline = broker.request(RequestCode.GET_CONSUMER_CONNECTION_LIST, {"consumerGroup": "g"})
    assert (offline.code, offline.remark) == (206, "the consumer group[g] not online")
    missing = broker.request(RequestCode.GET_PRODUCER_CONNECTION_LIST, {"producerGroup": "p"})
    assert (missing.code, missing.remark) == (1, "the producer group[p] not exist")
    assert broker.json(RequestCode.GET_ALL_PRODUCER_INFO) == {"data": {}}


def test_who_consumes_what(broker: MemoryBroker) -> None:
    broker.connect("online", "c1", "t")
    broker.offsets.commit("offline", "t", 0, 1)
    assert broker.json(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO, {"topic": "t"}) == {"groupList": ["offline", "online"]}
    topics = broker.json(RequestCode.QUERY_TOPICS_BY_CONSUMER, {"group": "offline"})
    assert topics == {"brokerAddr": "127.0.0.1:10911", "topicList": ["t"]}
    seen = broker.json(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, {"group": "online", "topic": "t"})
    assert seen["subscriptionData"]["subString"] == "*"
    offline = broker.json(RequestCode.QUERY_SUBSCRIPTION_BY_CONSUMER, {"group": "offline", "topic": "t"})
    assert offline == {"group": "offline", "topic": "t"}


# --- progress ---------------------------------------------------------------------------------------------------------


def fill(broker: MemoryBroker, name: str = "t", count: int = 5, **more: Any) -> list[int]:
    """A topic with two queues and messages in the first; their store times."""
    broker.add_topic(name, 2, **more)
    times = []
    for _ in range(count):
        broker.clock.advance_ms(1000)
        broker.store.add(name, 0)
        times.append(broker.clock.wall_ms())
    return times


def progress(broker: MemoryBroker, **ext: str) -> dict[MessageQueue, dict[str, int]]:
    body = broker.json(RequestCode.GET_CONSUME_STATS, {"consumerGroup": "g", **ext})
    assert set(body) == {"consumeTps", "offsetTable"}
    return queue_map(body["offsetTable"])


def test_consumer_progress(broker: MemoryBroker) -> None:
    times = fill(broker)
    broker.offsets.commit("g", "t", 0, 3)
    broker.offsets.commit_pull("g", "t", 0, 4)
    table = progress(broker)
    assert table[MessageQueue("t", "broker-a", 0)] == {
        "brokerOffset": 5, "consumerOffset": 3, "lastTimestamp": times[2], "pullOffset": 4,
    }  # fmt: skip
    assert table[MessageQueue("t", "broker-a", 1)] == {
        "brokerOffset": 0, "consumerOffset": 0, "lastTimestamp": 0, "pullOffset": 0,
    }  # fmt: skip


def test_consumer_progress_leaves_out_what_is_not_consumed(broker: MemoryBroker) -> None:
    for name in ("now", "before"):
        fill(broker, name, 1)
        broker.offsets.commit("g", name, 0, 1)
    broker.offsets.commit("g", "deleted", 0, 1)
    assert {queue.topic for queue in progress(broker)} == {"now", "before"}
    broker.connect("g", "c1", "now")
    assert {queue.topic for queue in progress(broker)} == {"now"}
    assert {queue.topic for queue in progress(broker, topicList="before;deleted")} == {"before"}
    assert progress(broker, topic="before") == {}
    assert ConsumeStats(offset_table={}).total_diff == 0


def test_unknown_group_has_no_progress(broker: MemoryBroker) -> None:
    assert broker.request(RequestCode.GET_CONSUME_STATS, {"consumerGroup": "x"}).body == (
        b'{"consumeTps":0.0,"offsetTable":{}}'
    )


def test_broker_consume_stats(broker: MemoryBroker) -> None:
    fill(broker, "plain", 4)
    fill(broker, "ordered", 2, order=True)
    broker.groups.find_or_create("g")
    broker.offsets.commit("g", "plain", 0, 1)
    broker.offsets.commit("g", "ordered", 0, 2)
    body = broker.json(RequestCode.GET_BROKER_CONSUME_STATS, {"isOrder": "false"})
    assert body["brokerAddr"] == "127.0.0.1:10911"
    assert body["totalDiff"] == 3
    by_group = {group: stats for entry in body["consumeStatsList"] for group, stats in entry.items()}
    assert len(by_group["g"]) == 2
    assert by_group["TOOLS_CONSUMER"] == []
    ordered = broker.json(RequestCode.GET_BROKER_CONSUME_STATS, {"isOrder": "true"})
    assert ordered["totalDiff"] == 0


def test_consume_time_span(broker: MemoryBroker) -> None:
    times = fill(broker)
    broker.offsets.commit("g", "t", 0, 2)
    broker.clock.advance_ms(500)
    first, second = broker.json(RequestCode.QUERY_CONSUME_TIME_SPAN, {"group": "g", "topic": "t"})["consumeTimeSpanSet"]
    assert first["minTimeStamp"] == times[0]
    assert first["maxTimeStamp"] == times[4]
    assert first["consumeTimeStamp"] == times[1]
    assert first["delayTime"] == broker.clock.wall_ms() - times[2]
    assert second["delayTime"] == 0
    assert broker.request(RequestCode.QUERY_CONSUME_TIME_SPAN, {"group": "g", "topic": "no"}).code == 17


def test_correction_offset(broker: MemoryBroker) -> None:
    fill(broker)
    for group, offset in (("a", 4), ("b", 2), ("slow", 1), ("mine", 3)):
        broker.offsets.commit(group, "t", 0, offset)
    ext = {"compareGroup": "mine", "topic": "t", "filterGroups": "slow"}
    assert broker.json(RequestCode.QUERY_CORRECTION_OFFSET, ext) == {"correctionOffsets": {"0": 2}}
    assert broker.offsets.query("slow", "t", 0) == 1, "asking changes nothing"
    broker.offsets.commit("slow", "t", 1, 1)
    ext["compareGroup"] = "slow"
    assert broker.json(RequestCode.QUERY_CORRECTION_OFFSET, ext) == {
        "correctionOffsets": {"0": (1 << 63) - 1, "1": (1 << 63) - 1}
    }, "a group behind all others is not to be corrected"


def test_clone_group_offset(broker: MemoryBroker) -> None:
    fill(broker)
    broker.add_topic("%RETRY%src")
    for name in ("t", "%RETRY%src"):
        broker.offsets.commit("src", name, 0, 4)
    ext = {"srcGroup": "src", "destGroup": "dest", "topic": "", "offline": "true"}
    assert broker.request(RequestCode.CLONE_GROUP_OFFSET, ext).code == 0
    assert broker.offsets.table_of("dest") == {"t": {0: 4}}
    assert broker.saves == 1, "they are on disk before the tool is told"


def test_tables_for_slaves(broker: MemoryBroker) -> None:
    broker.offsets.commit("g", "t", 0, 4)
    body = broker.json(RequestCode.GET_ALL_CONSUMER_OFFSET)
    assert body["offsetTable"] == {"t@g": {"0": 4}}
    assert body["groupTopicMap"] == {"g": ["t"]}
    assert broker.json(RequestCode.GET_ALL_DELAY_OFFSET)["offsetTable"] == {"1": 3}


def test_groups_have_no_attributes_to_change(broker: MemoryBroker) -> None:
    """What an Apache broker of a later version stored is kept."""
    broker.groups.put(SubscriptionGroupConfig(group_name="g", attributes={"newer": "1"}))
    code = RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
    reply = broker.request(code, body={"groupName": "g", "attributes": {"+a": "b"}})
    assert (reply.code, reply.remark) == (1, "unsupported key: a")
    assert broker.request(code, body={"groupName": "g", "retryMaxTimes": 3}).code == 0
    group = broker.groups.get("g")
    assert group is not None
    assert (group.retry_max_times, dict(group.attributes)) == (3, {"newer": "1"})
