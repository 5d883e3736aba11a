"""Apache's mqadmin 5.3.3 works against fastmq. Each test looks at what an operator would look at."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support import remoting
from support.java import AdminRunner, ScenarioRunner
from support.servers import BROKER, CLUSTER, Server
from support.toolchains import ToolchainMissing, missing
from support.waiting import wait_until

pytestmark = pytest.mark.java

TOPIC = "adm_topic"
GROUP = "adm_group"
OFFLINE = "adm_offline"
PRODUCERS = "adm_producers"
COUNT = 6


@dataclass
class Admin:
    """The tool, a server, and what lies in it: six messages `adm<i>` and one of a held producer and consumer."""

    server: Server
    tool: AdminRunner
    client: ScenarioRunner
    sent: list[dict[str, Any]]
    client_id: str
    folder: Path

    def __call__(self, *arguments: str, seconds: float = 60) -> str:
        return self.tool.run(*arguments, "-n", self.server.namesrv, seconds=seconds)

    def rows(self, *arguments: str) -> list[list[str]]:
        """The lines of a command's table, cut at runs of blanks; lines starting with # are its headings."""
        lines = [line for line in self(*arguments).splitlines() if line.strip()]
        return [line.split() for line in lines if not line.startswith("#")]

    def fields(self, *arguments: str) -> dict[str, str]:
        """Lines of the form `key : value` or `key = value`."""
        found = {}
        for line in self(*arguments).splitlines():
            match = re.match(r"([^=:]+?)\s*[:=]\s+(.*)", line)
            if match:
                found[match[1]] = match[2].strip()
        return found

    def create(self, topic: str, queues: int = 2) -> None:
        self.client.run("create-topic", self.server, topic=topic, queues=queues)


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AdminRunner, ScenarioRunner]]:
    try:
        tool = AdminRunner(tmp_path_factory.mktemp("mqadmin"))
        client = ScenarioRunner("5.3.3", tmp_path_factory.mktemp("client"))
    except ToolchainMissing as reason:
        missing(str(reason))
    yield tool, client
    tool.close()
    client.close()


@pytest.fixture(scope="module")
def admin(
    server: Server, runners: tuple[AdminRunner, ScenarioRunner], tmp_path_factory: pytest.TempPathFactory
) -> Admin:
    tool, client = runners
    client.run("create-topic", server, topic=TOPIC, queues=2)
    sent = client.run("send-many", server, topic=TOPIC, count=COUNT, prefix="adm")["sent"]
    client.run("consume", server, topic=TOPIC, group=OFFLINE, count=COUNT)
    held = client.run("hold-consumer", server, topic=TOPIC, group=GROUP, producer_group=PRODUCERS)
    client.run("held", server, group=GROUP, least=COUNT + 1)
    return Admin(server, tool, client, sent, held["client"], tmp_path_factory.mktemp("admin"))


def eventually(check: Callable[[], None]) -> None:
    """Repeats a check of what the server shows a little later."""

    def holds() -> bool:
        check()
        return True

    wait_until(holds, "the check holds", pause=0.2)


def consumer_offsets(admin: Admin, group: str, topic: str = TOPIC) -> dict[int, int]:
    queues = admin.client.run("offsets", admin.server, topic=topic, group=group)["queues"]
    return {row["queue"]: row["consumed"] for row in queues}


def consumed_again(admin: Admin, before: int) -> None:
    """Everything that was sent came to the member once more after its first `before` deliveries."""
    again = admin.client.run("held", admin.server, group=GROUP)["bodies"][before:]
    assert {message["body"] for message in admin.sent} <= set(again)


# ---- cluster and broker


def test_cluster_list(admin: Admin) -> None:
    (row,) = admin.rows("clusterList")
    assert row[:4] == [CLUSTER, BROKER, "0", admin.server.broker]
    assert re.fullmatch(r"V\d+_\d+_\d+", row[4])
    assert row[-1] == "true", "the broker is active"


def test_cluster_list_with_more_stats(admin: Admin) -> None:
    (row,) = admin.rows("clusterList", "-m")
    assert row[:2] == [CLUSTER, BROKER]
    assert int(row[4]) >= COUNT + 1, "messages put today"
    assert int(row[5]) >= COUNT + 1, "messages got today"


def test_broker_status(admin: Admin) -> None:
    status = admin.fields("brokerStatus", "-b", admin.server.broker)
    assert status["brokerVersionDesc"].startswith("V")
    assert int(status["msgPutTotalTodayNow"]) >= COUNT + 1
    assert int(status["commitLogMaxOffset"]) > 0
    assert int(status["dispatchBehindBytes"]) == 0
    assert 0 < float(status["commitLogDiskRatio"]) < 1
    assert int(status["earliestMessageTimeStamp"]) > 1_600_000_000_000
    for key in (
        "putTps",
        "getTotalTps",
        "runtime",
        "bootTimestamp",
        "pageCacheLockTimeMills",
        "sendThreadPoolQueueSize",
    ):
        assert key in status, key


def test_broker_config(admin: Admin) -> None:
    config = admin.fields("getBrokerConfig", "-b", admin.server.broker)
    assert config["brokerName"] == BROKER
    assert config["listenPort"] == str(admin.server.listen_port)
    assert config["storePathRootDir"] == str(admin.server.store)
    assert config["messageDelayLevel"].startswith("1s 2s 1s")


def test_update_broker_config(admin: Admin) -> None:
    broker = admin.server.broker
    said = admin("updateBrokerConfig", "-b", broker, "-k", "flushConsumerOffsetInterval", "-v", "4321")
    assert f"update broker config success, {broker}" in said
    assert admin.fields("getBrokerConfig", "-b", broker)["flushConsumerOffsetInterval"] == "4321"


def test_ha_status(admin: Admin) -> None:
    said = admin("haStatus", "-b", admin.server.broker)
    assert f"#MasterAddr\t{admin.server.broker}" in said
    assert "#SlaveNum\t0" in said
    assert int(re.search(r"#MasterCommitLogMaxOffset\t(\d+)", said)[1]) > 0  # type: ignore[index]


def test_cleaning_commands(admin: Admin) -> None:
    for command in ("cleanExpiredCQ", "cleanUnusedTopic", "deleteExpiredCommitLog"):
        assert admin(command, "-b", admin.server.broker).strip() == "success", command
        assert admin(command, "-c", CLUSTER).strip() == "success", command
    assert admin.rows("topicRoute", "-t", TOPIC, "-l")[0][0] == CLUSTER, "a topic in use stays"


def test_export_metadata(admin: Admin) -> None:
    whole = admin.folder / "whole"
    assert "success" in admin("exportMetadata", "-c", CLUSTER, "-f", str(whole))
    exported = json.loads((whole / "metadata.json").read_text())
    assert exported["topicConfigTable"][TOPIC]["writeQueueNums"] == 2
    assert exported["subscriptionGroupTable"][GROUP]["groupName"] == GROUP
    topics = admin.folder / "topics"
    assert "success" in admin("exportMetadata", "-b", admin.server.broker, "-t", "-f", str(topics))
    assert TOPIC in json.loads((topics / "topic.json").read_text())["topicConfigTable"]


def test_send_probes(admin: Admin) -> None:
    admin.create("adm_probe")
    said = admin("checkMsgSendRT", "-t", "adm_probe", "-a", "4", "-s", "100")
    assert len(re.findall(rf"{BROKER}\s+[01]\s+true\s+\d+", said)) == 4
    assert "Avg RT" in said
    assert admin("sendMsgStatus", "-b", BROKER, "-c", "3").count("sendStatus=SEND_OK") == 3


def test_cluster_rt(admin: Admin) -> None:
    said = admin("clusterRT", "-a", "3", "-s", "64", "-c", CLUSTER, seconds=9)  # repeats for ever
    assert re.search(rf"{CLUSTER}\s+{BROKER}\s+[\d.]+\s+3\s+0", said), said


# ---- topics


def test_topic_list(admin: Admin) -> None:
    topics = admin("topicList").split()
    assert {TOPIC, f"%RETRY%{GROUP}", "TBW102", "SELF_TEST_TOPIC", "SCHEDULE_TOPIC_XXXX", BROKER, CLUSTER} <= set(
        topics
    )


def test_topic_list_by_cluster(admin: Admin) -> None:
    assert [CLUSTER, TOPIC, GROUP] in admin.rows("topicList", "-c")


@pytest.mark.parametrize("target", ["broker", "cluster"])
def test_update_topic(admin: Admin, target: str) -> None:
    where = ("-b", admin.server.broker) if target == "broker" else ("-c", CLUSTER)
    topic = f"adm_made_by_{target}"
    said = admin("updateTopic", *where, "-t", topic, "-r", "3", "-w", "5", "-p", "6")
    assert f"create topic to {admin.server.broker} success." in said
    assert f"topicName={topic}, readQueueNums=3, writeQueueNums=5, perm=RW-" in said
    eventually(lambda: _route_shows(admin, topic, ["3", "5", "6"]))
    admin("updateTopic", *where, "-t", topic, "-r", "4", "-w", "4", "-p", "2")
    eventually(lambda: _route_shows(admin, topic, ["4", "4", "2"]))


def _route_shows(admin: Admin, topic: str, last: list[str]) -> None:
    row = admin.rows("topicRoute", "-t", topic, "-l")[0]
    assert row == [CLUSTER, BROKER, f"{{0={admin.server.broker}}}", *last]


def test_topic_route(admin: Admin) -> None:
    # the tool prints the body with integer keys, as Apache's server writes it
    said = re.sub(r"([{,]\s*)(\d+)\s*:", r'\1"\2":', admin("topicRoute", "-t", TOPIC))
    route = json.loads(said)
    assert route["brokerDatas"][0]["brokerAddrs"] == {"0": admin.server.broker}
    assert route["brokerDatas"][0]["cluster"] == CLUSTER
    queues = route["queueDatas"][0]
    assert (queues["brokerName"], queues["readQueueNums"], queues["writeQueueNums"], queues["perm"]) == (
        BROKER,
        2,
        2,
        6,
    )
    assert "No topic route info" in admin("topicRoute", "-t", "no_such_topic")


def test_topic_status(admin: Admin) -> None:
    rows = admin.rows("topicStatus", "-t", TOPIC)
    queues = {int(row[1]): row for row in rows if row[0] == BROKER}
    assert sorted(queues) == [0, 1]
    assert all(row[2] == "0" for row in queues.values()), "min offsets"
    assert sum(int(row[3]) for row in queues.values()) >= COUNT + 1, "max offsets"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", queues[0][4]), "last updated"


def test_topic_permission(admin: Admin) -> None:
    admin.create("adm_perm")
    said = admin("updateTopicPerm", "-b", admin.server.broker, "-t", "adm_perm", "-p", "4")
    assert f"update topic perm from 6 to 4 in {admin.server.broker} success." in said
    eventually(lambda: _route_shows(admin, "adm_perm", ["2", "2", "4"]))
    assert "perm from 4 to 6" in admin("updateTopicPerm", "-c", CLUSTER, "-t", "adm_perm", "-p", "6")
    eventually(lambda: _route_shows(admin, "adm_perm", ["2", "2", "6"]))


def test_delete_topic(admin: Admin) -> None:
    admin.create("adm_gone")
    said = admin("deleteTopic", "-c", CLUSTER, "-t", "adm_gone")
    assert f"delete topic [adm_gone] from cluster [{CLUSTER}] success." in said
    assert "delete topic [adm_gone] from NameServer success." in said

    def gone() -> None:
        assert "adm_gone" not in admin("topicList").split()

    eventually(gone)


def test_topic_clusters_and_allocation(admin: Admin) -> None:
    assert admin("topicClusterList", "-t", TOPIC).split() == [CLUSTER]
    shares = json.loads(admin("allocateMQ", "-t", TOPIC, "-i", "10.0.0.1,10.0.0.2"))["result"]
    assert sorted(queue["queueId"] for share in shares.values() for queue in share) == [0, 1]


def test_order_conf(admin: Admin) -> None:
    assert "update orderConf success" in admin("updateOrderConf", "-t", TOPIC, "-m", "put", "-v", f"{BROKER}:2")
    assert f"orderConf=[{BROKER}:2]" in admin("updateOrderConf", "-t", TOPIC, "-m", "get")
    assert "delete orderConf success" in admin("updateOrderConf", "-t", TOPIC, "-m", "delete")
    assert "orderConf=[]" in admin("updateOrderConf", "-t", TOPIC, "-m", "get") or "CODE: 22" in admin(
        "updateOrderConf", "-t", TOPIC, "-m", "get"
    )


# ---- name server


def test_namesrv_config(admin: Admin) -> None:
    before = admin.fields("getNamesrvConfig")
    assert before["listenPort"] == str(admin.server.namesrv_port)
    assert before["orderMessageEnable"] == "false"
    said = admin("updateNamesrvConfig", "-k", "orderMessageEnable", "-v", "true")
    assert f"update name server config success![{admin.server.namesrv}]" in said
    assert admin.fields("getNamesrvConfig")["orderMessageEnable"] == "true"
    admin("updateNamesrvConfig", "-k", "orderMessageEnable", "-v", "false")


def test_kv_config(admin: Admin) -> None:
    said = admin("updateKvConfig", "-s", "ORDER_TOPIC_CONFIG", "-k", "adm_kv", "-v", f"{BROKER}:7")
    assert "create or update kv config to namespace success." in said
    assert f"orderConf=[{BROKER}:7]" in admin("updateOrderConf", "-t", "adm_kv", "-m", "get")
    assert "delete kv config from namespace success." in admin(
        "deleteKvConfig", "-s", "ORDER_TOPIC_CONFIG", "-k", "adm_kv"
    )
    assert f"{BROKER}:7" not in admin("updateOrderConf", "-t", "adm_kv", "-m", "get")


def test_write_permission_of_a_broker(admin: Admin) -> None:
    said = admin("wipeWritePerm", "-b", BROKER)
    assert re.search(rf"wipe write perm of broker\[{BROKER}\] in name server\[{admin.server.namesrv}\] OK, [1-9]", said)
    _route_shows(admin, TOPIC, ["2", "2", "4"])
    said = admin("addWritePerm", "-b", BROKER)
    assert re.search(rf"add write perm of broker\[{BROKER}\] in name server\[{admin.server.namesrv}\] OK, [1-9]", said)
    _route_shows(admin, TOPIC, ["2", "2", "6"])


# ---- groups and connections


def test_subscription_groups(admin: Admin) -> None:
    broker = admin.server.broker
    said = admin("updateSubGroup", "-b", broker, "-g", "adm_sub", "-r", "5", "-q", "2", "-d", "true")
    assert f"create subscription group to {broker} success." in said
    config = admin.fields("getConsumerConfig", "-g", "adm_sub")
    assert (config["groupName"], config["retryMaxTimes"], config["retryQueueNums"]) == ("adm_sub", "5", "2")
    assert config["consumeBroadcastEnable"] == "true"
    said = admin("updateSubGroup", "-c", CLUSTER, "-g", "adm_sub", "-r", "7", "-s", "false")
    assert f"create subscription group to {broker} success." in said
    config = admin.fields("getConsumerConfig", "-g", "adm_sub")
    assert (config["retryMaxTimes"], config["consumeEnable"]) == ("7", "false")
    said = admin("deleteSubGroup", "-c", CLUSTER, "-g", "adm_sub", "-r", "true")
    assert f"delete subscription group [adm_sub] from broker [{broker}] in cluster [{CLUSTER}] success." in said
    assert "adm_sub" not in admin("getConsumerConfig", "-g", "adm_sub")


def test_consumer_progress(admin: Admin) -> None:
    def caught_up() -> None:
        rows = [row for row in admin.rows("consumerProgress", "-g", GROUP) if row[0] == TOPIC]
        assert [row[1:3] for row in rows] == [[BROKER, "0"], [BROKER, "1"]]
        assert all(row[3] == row[4] and row[5] == "0" for row in rows), "the consumer is at the end"
        assert sum(int(row[3]) for row in rows) >= COUNT + 1

    eventually(caught_up)
    assert "Consume Diff Total: 0" in admin("consumerProgress", "-g", GROUP)
    shown = {row[0]: row for row in admin.rows("consumerProgress")}
    assert shown[GROUP][1] == "1", "members"
    assert shown[GROUP][3:5] == ["PUSH", "CLUSTERING"]


def test_consumer_connection(admin: Admin) -> None:
    said = admin("consumerConnection", "-g", GROUP)
    assert re.search(rf"{re.escape(admin.client_id)}\s+127\.0\.0\.1:\d+\s+JAVA\s+V5_3_3", said)
    assert re.search(rf"{TOPIC}\s+\*", said)
    assert re.search(rf"%RETRY%{GROUP}\s+\*", said)
    for line in ("ConsumeType: CONSUME_PASSIVELY", "MessageModel: CLUSTERING"):
        assert line in said
    assert "ConsumeFromWhere: CONSUME_FROM_FIRST_OFFSET" in said
    assert "CODE: 206" in admin("consumerConnection", "-g", OFFLINE)


def test_producer_connections(admin: Admin) -> None:
    said = admin("producerConnection", "-g", PRODUCERS, "-t", TOPIC)
    assert re.search(r"0001\s+\S+@\S+\s+127\.0\.0\.1:\d+\s+JAVA\s+V5_3_3", said)
    assert f"producer group ({PRODUCERS}) instance : clientId=" in admin("producer", "-b", admin.server.broker)


def test_consumer_status(admin: Admin) -> None:
    said = admin("consumerStatus", "-g", GROUP)
    assert admin.client_id in said
    assert "Same subscription in the same group of consumer" in said
    assert "Rebalance OK" in said
    said = admin("consumerStatus", "-g", GROUP, "-i", admin.client_id)
    assert "#Consumer Properties#" in said
    assert re.search(rf"{TOPIC}\s+{BROKER}\s+0\s", said), "the queues the client reports"


# ---- messages


def _shows_message(said: str, message: dict[str, Any]) -> None:
    fields = dict(re.findall(r"^([A-Z][A-Za-z ]+):\s+(.*)$", said, re.MULTILINE))
    assert fields["Topic"] == TOPIC
    assert fields["Keys"] == f"[{message['body']}]"
    assert fields["Queue ID"] == str(message["queue"])
    assert fields["Queue Offset"] == str(message["offset"])
    assert f"UNIQ_KEY={message['id']}" in fields["Properties"]
    assert Path(fields["Message Body Path"]).read_text() == message["body"]


def test_query_by_id(admin: Admin) -> None:
    message = admin.sent[2]
    for key in ("offset_id", "id"):
        said = admin("queryMsgById", "-t", TOPIC, "-i", message[key])
        _shows_message(said, message)
        assert f"consumerGroup={GROUP}, trackType=CONSUMED" in said


def test_query_by_key(admin: Admin) -> None:
    message = admin.sent[3]
    assert admin.rows("queryMsgByKey", "-t", TOPIC, "-k", "adm3") == [
        [message["id"], str(message["queue"]), str(message["offset"])]
    ]


def test_query_by_unique_key(admin: Admin) -> None:
    _shows_message(admin("queryMsgByUniqueKey", "-t", TOPIC, "-i", admin.sent[4]["id"]), admin.sent[4])


def test_query_by_offset(admin: Admin) -> None:
    message = admin.sent[5]
    where = ("-b", BROKER, "-i", str(message["queue"]), "-o", str(message["offset"]))
    _shows_message(admin("queryMsgByOffset", "-t", TOPIC, *where), message)


def test_query_cq(admin: Admin) -> None:
    said = admin("queryCq", "-t", TOPIC, "-q", "0", "-i", "0", "-c", "2", "-g", GROUP, "-b", admin.server.broker)
    assert re.search(r"max: [34], min: 0", said)
    assert said.count("ConsumeQueueData{physicOffset=") == 2
    assert '"topic":"adm_topic"' in said, "the group's subscription"


def test_print_messages(admin: Admin) -> None:
    said = admin("printMsg", "-t", TOPIC, "-d", "true")
    for message in admin.sent:
        assert f"MSGID: {message['id']} " in said
    assert "BODY: adm0" in said
    assert re.search(r"minOffset=0, maxOffset=[34], ", said)
    tagged = admin("printMsg", "-t", TOPIC, "-d", "true", "-s", "T1")
    assert re.findall(r"BODY: (\S+)", tagged) != []
    assert set(re.findall(r"BODY: (\S+)", tagged)) == {"adm1", "adm4"}
    said = admin("printMsgByQueue", "-t", TOPIC, "-a", BROKER, "-i", "1", "-p", "true", "-d", "true")
    assert {message["id"] in said for message in admin.sent if message["queue"] == 1} == {True}
    assert {message["id"] in said for message in admin.sent if message["queue"] == 0} == {False}


def test_send_and_consume(admin: Admin) -> None:
    admin.create("adm_sent")
    (row,) = admin.rows("sendMessage", "-t", "adm_sent", "-p", "Grüße", "-c", "TagS", "-k", "keyS")
    assert row[0] == BROKER
    assert row[2] == "SEND_OK"
    (row,) = admin.rows("sendMessage", "-t", "adm_sent", "-p", "to queue", "-b", BROKER, "-i", "1")
    assert row[:3] == [BROKER, "1", "SEND_OK"]

    def both() -> None:
        said = admin("consumeMessage", "-t", "adm_sent", "-c", "10")
        assert "BODY: Grüße" in said
        assert "BODY: to queue" in said

    eventually(both)
    said = admin("consumeMessage", "-t", TOPIC, "-b", BROKER, "-i", "1", "-o", "0", "-c", "2")
    assert said.count("MSGID: ") == 2


def test_stats_all(admin: Admin) -> None:
    rows = {tuple(row[:2]): row for row in admin.rows("statsAll", "-t", TOPIC)}
    assert rows[(TOPIC, GROUP)][2] == "0", "nothing accumulated"


def test_broker_consume_stats(admin: Admin) -> None:
    rows = [row for row in admin.rows("brokerConsumeStats", "-b", admin.server.broker) if row[:2] == [TOPIC, GROUP]]
    assert sorted(row[3] for row in rows) == ["0", "1"]
    assert all(row[6] == "0" for row in rows), "the consumer is at the end"


def test_export_of_pop_records(admin: Admin) -> None:
    said = admin("exportPopRecord", "-b", admin.server.broker, "-d", "true")
    assert f"Export broker records, brokerName={BROKER}, brokerAddr={admin.server.broker}" in said


def test_consume_mode(admin: Admin) -> None:
    """Seen with GET_ALL_MESSAGE_REQUEST_MODE: no command of mqadmin shows it."""

    def mode() -> tuple[str, int]:
        modes = json.loads(remoting.call(admin.server.listen_port, 402).body)["messageRequestModeMap"]
        return modes[TOPIC]["adm_popper"]["mode"], modes[TOPIC]["adm_popper"]["popShareQueueNum"]

    said = admin("setConsumeMode", "-b", admin.server.broker, "-t", TOPIC, "-g", "adm_popper", "-m", "POP", "-q", "3")
    assert f"set consume mode to {admin.server.broker} success" in said
    assert mode() == ("POP", 3)
    said = admin("setConsumeMode", "-c", CLUSTER, "-t", TOPIC, "-g", "adm_popper", "-m", "PULL")
    assert f"topic[{TOPIC}] group[adm_popper] consume mode[PULL] popShareQueueNum[0]" in said
    assert mode() == ("PULL", 0)
    refused = admin("setConsumeMode", "-b", admin.server.broker, "-t", "nowhere", "-g", "adm_popper", "-m", "POP")
    assert "CODE: 17" in refused
    assert mode() == ("PULL", 0)


# ---- moving offsets


def test_reset_offsets_of_an_online_group(admin: Admin) -> None:
    held = admin.client.run("held", admin.server, group=GROUP)["bodies"]
    rows = admin.rows("resetOffsetByTime", "-g", GROUP, "-t", TOPIC, "-s", "0")
    assert sorted(row for row in rows if row[0] == BROKER) == [[BROKER, "0", "0"], [BROKER, "1", "0"]]
    # its member consumes everything again, the message of its own producer too
    eventually(lambda: consumed_again(admin, len(held)))


def test_reset_offsets_of_an_offline_group(admin: Admin) -> None:
    assert sum(consumer_offsets(admin, OFFLINE).values()) >= COUNT
    rows = admin.rows("resetOffsetByTime", "-g", OFFLINE, "-t", TOPIC, "-s", "0")
    assert sorted(row for row in rows if row[0] == BROKER) == [[BROKER, "0", "0"], [BROKER, "1", "0"]]
    bodies = admin.client.run("consume", admin.server, topic=TOPIC, group=OFFLINE, count=COUNT)["bodies"]
    assert {message["body"] for message in admin.sent} <= set(bodies)


def test_skip_accumulated(admin: Admin) -> None:
    admin.create("adm_skip")
    admin.client.run("send-many", admin.server, topic="adm_skip", count=2, prefix="early")
    admin.client.run("consume", admin.server, topic="adm_skip", group="adm_skipper", count=2)
    admin.client.run("send-many", admin.server, topic="adm_skip", count=10, prefix="pile")
    rows = admin.rows("skipAccumulatedMessage", "-g", "adm_skipper", "-t", "adm_skip")
    assert sorted(row for row in rows if row[0] == BROKER) == [[BROKER, "0", "6"], [BROKER, "1", "6"]]
    admin.client.run("send-many", admin.server, topic="adm_skip", count=2, prefix="fresh")
    bodies = admin.client.run("consume", admin.server, topic="adm_skip", group="adm_skipper", count=2)["bodies"]
    assert sorted(bodies) == ["fresh0", "fresh1"]


def test_clone_offsets(admin: Admin) -> None:
    admin("updateSubGroup", "-c", CLUSTER, "-g", "adm_clone")
    said = admin("cloneGroupOffset", "-s", GROUP, "-d", "adm_clone", "-t", TOPIC, "-o", "true")
    assert "clone group offset success" in said
    assert consumer_offsets(admin, "adm_clone") == consumer_offsets(admin, GROUP)
