"""Apache's mqadmin 5.3.3 against fastmq: retry policies, ordered topics, traces, resets, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
from test_mqadmin import GROUP, OFFLINE, TOPIC, Admin, admin, consumed_again, consumer_offsets, eventually, runners

from support.servers import BROKER, CLUSTER

pytestmark = pytest.mark.java

__all__ = ["admin", "runners"]  # fixtures


# ---- groups


def test_groups_and_topics_from_files(admin: Admin) -> None:
    groups, topics = admin.folder / "groups.json", admin.folder / "topic-list.json"
    groups.write_text(json.dumps([{"groupName": "adm_listed", "retryMaxTimes": 3}, {"groupName": "adm_listed2"}]))
    topics.write_text(json.dumps([{"topicName": "adm_listed", "readQueueNums": 3, "writeQueueNums": 3, "perm": 6}]))
    for command, file in (("updateSubGroupList", groups), ("updateTopicList", topics)):
        assert "success" in admin(command, "-b", admin.server.broker, "-f", str(file)), command
    assert admin.fields("getConsumerConfig", "-g", "adm_listed")["retryMaxTimes"] == "3"
    assert admin.fields("getConsumerConfig", "-g", "adm_listed2")["retryMaxTimes"] == "16"
    eventually(lambda: _queues(admin, "adm_listed", 3))


def _queues(admin: Admin, topic: str, count: int) -> None:
    assert admin.client.run("publish-queues", admin.server, topic=topic)["count"] == count


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        (
            {"type": "EXPONENTIAL", "exponentialRetryPolicy": {"initial": 100, "max": 7000, "multiplier": 3}},
            "ExponentialRetryPolicy{initial=100, max=7000, multiplier=3}",
        ),
        ({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1000, 2000, 3000]}}, "next=[1000, 2000, 3000]"),
    ],
)
def test_retry_policies(admin: Admin, policy: dict[str, object], shown: str) -> None:
    name = f"adm_{policy['type']}"
    said = admin("updateSubGroup", "-b", admin.server.broker, "-g", name, "-p", json.dumps(policy))
    assert "create subscription group" in said
    assert shown in admin.fields("getConsumerConfig", "-g", name)["groupRetryPolicy"]


def test_a_retry_policy_nobody_could_follow(admin: Admin) -> None:
    policy = {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": []}}
    said = admin("updateSubGroup", "-b", admin.server.broker, "-g", "adm_bad", "-p", json.dumps(policy))
    assert "CODE: 29" in said
    said = admin("updateSubGroup", "-b", admin.server.broker, "-g", "adm_bad", "--attributes", "+a=b")
    assert "CODE: 1  DESC: unsupported key: a" in said


def test_exports(admin: Admin) -> None:
    folder = admin.folder / "exports"
    assert "success" in admin("exportConfigs", "-c", CLUSTER, "-f", str(folder))
    exported = json.loads((folder / "configs.json").read_text())
    assert exported["brokerConfigs"][BROKER]["brokerName"] == BROKER
    assert "success" in admin("exportMetrics", "-c", CLUSTER, "-f", str(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["totalData"]["totalTps"]["totalNormalInTps"] >= 0


# ---- order


def test_ordered_topics(admin: Admin) -> None:
    """The order configuration reaches producers through the route once the name server has orderMessageEnable."""
    said = admin("updateTopic", "-b", admin.server.broker, "-t", "adm_ordered", "-r", "2", "-w", "2", "-o", "true")
    assert f"set broker orderConf. isOrder=true, orderConf=[{BROKER}:2]" in said
    assert "order=true" in said
    eventually(lambda: _queues(admin, "adm_ordered", 2))
    admin("updateOrderConf", "-t", "adm_ordered", "-m", "put", "-v", f"{BROKER}:5")
    _queues(admin, "adm_ordered", 2)
    admin("updateNamesrvConfig", "-k", "orderMessageEnable", "-v", "true")
    try:
        assert f'"orderTopicConf":"{BROKER}:5"' in re.sub(r"\s", "", admin("topicRoute", "-t", "adm_ordered"))
        _queues(admin, "adm_ordered", 5)
        admin("updateOrderConf", "-t", "adm_ordered", "-m", "delete")
        _queues(admin, "adm_ordered", 2)
    finally:
        admin("updateNamesrvConfig", "-k", "orderMessageEnable", "-v", "false")


# ---- traces and clients


@pytest.mark.parametrize("traces", [None, "adm_traces"])
def test_query_trace(admin: Admin, traces: str | None) -> None:
    admin.create("adm_traced")
    where: tuple[str, ...] = ()
    more = {}
    if traces is not None:
        admin.create(traces)
        where, more = ("-t", traces), {"traces": traces}
    sent = admin.client.run("send-traced", admin.server, topic="adm_traced", **more)["id"]

    def traced() -> None:
        rows = [row for row in admin.rows("queryMsgTraceById", "-i", sent, *where) if row[0] == "Pub"]
        assert rows
        assert rows[0][-1] == "success"

    eventually(traced)
    assert "CODE: 208" in admin("queryMsgTraceById", "-i", "no-such-id", *where)


def test_threads_of_a_consumer(admin: Admin) -> None:
    said = admin("consumerStatus", "-g", GROUP, "-i", admin.client_id, "-s", "true")
    assert "#Consumer Properties#" in said
    assert "TID: " in said or "jstack" in said.lower() or "ConsumeMessageThread" in said


def test_consume_directly(admin: Admin) -> None:
    before = admin.client.run("held", admin.server, group=GROUP)["bodies"]
    message = admin.sent[1]
    said = admin("queryMsgById", "-t", TOPIC, "-i", message["offset_id"], "-g", GROUP, "-d", admin.client_id)
    assert "CR_SUCCESS" in said
    again = admin.client.run("held", admin.server, group=GROUP, least=len(before) + 1)["bodies"]
    assert again[len(before) :] == [message["body"]]
    said = admin("queryMsgById", "-t", TOPIC, "-i", message["offset_id"], "-g", GROUP, "-d", "nobody@there")
    assert "not online" in said


# ---- resets


def test_reset_one_queue_to_an_offset(admin: Admin) -> None:
    where = ("-b", admin.server.broker, "-q", "0", "-o", "2")
    said = admin("resetOffsetByTime", "-g", OFFLINE, "-t", TOPIC, "-s", "now", *where)
    assert "reset consumer offset to 2" in said
    assert consumer_offsets(admin, OFFLINE)[0] == 2
    where = ("-b", admin.server.broker, "-q", "0", "-o", "1000")
    assert "not in consume queue range" in admin("resetOffsetByTime", "-g", OFFLINE, "-t", TOPIC, "-s", "now", *where)


def test_reset_of_unknown_groups_and_topics(admin: Admin) -> None:
    assert "CODE: 26" in admin("resetOffsetByTime", "-g", "adm_nobody", "-t", TOPIC, "-s", "0")
    assert "No topic route info" in admin("resetOffsetByTime", "-g", GROUP, "-t", "adm_nothing", "-s", "0")


def test_resets_by_the_clients(admin: Admin) -> None:
    """useServerSideResetOffset=false: the broker tells the members, which then go there; nobody online is an error."""

    def committed() -> None:
        rows = [row for row in admin.rows("consumerProgress", "-g", GROUP) if row[0] == TOPIC]
        assert rows
        assert all(row[3] == row[4] for row in rows)

    eventually(committed)
    admin("updateBrokerConfig", "-b", admin.server.broker, "-k", "useServerSideResetOffset", "-v", "false")
    try:
        before = admin.client.run("held", admin.server, group=GROUP)["bodies"]
        rows = admin.rows("resetOffsetByTime", "-g", GROUP, "-t", TOPIC, "-s", "0")
        assert sorted(row for row in rows if row[0] == BROKER) == [[BROKER, "0", "0"], [BROKER, "1", "0"]]
        # the member stops for 10 s before it goes on elsewhere
        eventually(lambda: consumed_again(admin, len(before)))
        # nobody of this group is online: the tool falls back to writing its offsets itself
        said = admin("resetOffsetByTime", "-g", OFFLINE, "-t", TOPIC, "-s", "0")
        assert "reset consumer offset by specified" in said
        assert consumer_offsets(admin, OFFLINE) == {0: 0, 1: 0}
    finally:
        admin("updateBrokerConfig", "-b", admin.server.broker, "-k", "useServerSideResetOffset", "-v", "true")


# ---- what fastmq does not have


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("getColdDataFlowCtrInfo", "-b", "BROKER"), "fastmq has no cold data flow control"),
        (("setCommitLogReadAheadMode", "-b", "BROKER", "-m", "0"), "the read mode of the commit log is fixed"),
        (("checkRocksdbCqWriteProgress", "-c", CLUSTER), "this broker does not use RocksDB"),
        (("getBrokerEpoch", "-b", BROKER), "this request only for controllerMode"),
        (("remappingStaticTopic", "-t", "adm_none", "-c", CLUSTER), "No topic route to do the remapping"),
        (("listUser", "-b", "BROKER"), "request type 3005 not supported"),
        (("listAcl", "-b", "BROKER"), "request type 3010 not supported"),
    ],
)
def test_refused_with_a_reason(admin: Admin, command: tuple[str, ...], says: str) -> None:
    assert says in admin(*(admin.server.broker if part == "BROKER" else part for part in command))
