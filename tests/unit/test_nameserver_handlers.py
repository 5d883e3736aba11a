"""Requests to a name server and their answers, beyond what was recorded from a real one (tests/golden)."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from fastmq.clock import ManualClock
from fastmq.config import NamesrvConfig, load_namesrv_config
from fastmq.errors import RequestError
from fastmq.nameserver.app import NameServer
from fastmq.nameserver.handlers import DANGEROUS, HANDLERS
from fastmq.net.server import Reply
from fastmq.properties import parse_properties
from fastmq.protocol.bodies import (
    DataVersion,
    RegisterBrokerBody,
    TopicConfig,
    TopicConfigTable,
    dumps,
    loads_lenient,
)
from fastmq.protocol.codes import REQUESTS, RequestCode
from fastmq.protocol.command import Command, FrameSplitter, decode_frame

V1 = DataVersion(0, 1000, 1)


def in_trio(test: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
    """An async test as pytest runs it, with a folder of its own, in real time."""

    def run(tmp_path: Path) -> None:
        trio.run(test, tmp_path)

    return run


@dataclass
class FakePeer:
    id: int = 1
    host: str = "127.0.0.1"
    closed: bool = False
    address: str = field(init=False)
    local: bool = field(init=False)

    def __post_init__(self) -> None:
        self.address = f"{self.host}:5000"
        self.local = self.host == "127.0.0.1"

    def close(self) -> None:
        self.closed = True


class Served(NameServer):
    """A name server with a short way to ask."""

    time: ManualClock

    def ask(
        self, code: RequestCode, body: bytes = b"", *, peer: FakePeer | None = None, version: int = 479, **ext: Any
    ) -> Reply:
        request = Command(code, ext={k: str(v) for k, v in ext.items()}, body=body, version=version)
        reply = self.handle(peer or FakePeer(), request)  # type: ignore[arg-type]
        assert reply is not None
        return reply

    def refusal(self, code: RequestCode, body: bytes = b"", **more: Any) -> tuple[int, str]:
        with pytest.raises(RequestError) as caught:
            self.ask(code, body, **more)
        return caught.value.code, caught.value.remark

    def register(
        self,
        name: str = "a",
        broker_id: int = 0,
        *,
        topics: tuple[str, ...] = ("t", "u"),
        version: DataVersion = V1,
        packed: bool = False,
        **more: Any,
    ) -> Reply:
        table = TopicConfigTable(
            topic_config_table={topic: TopicConfig(topic, 4, 4, 6) for topic in topics}, data_version=version
        )
        body = RegisterBrokerBody(table).encode(compressed=packed)
        fields = {
            "brokerName": name, "brokerId": broker_id, "clusterName": "C",
            "brokerAddr": f"10.0.0.1:{10911 + broker_id}", "haServerAddr": "10.0.0.1:10912",
            "bodyCrc32": zlib.crc32(body) & 0x7FFFFFFF,
        }  # fmt: skip
        return self.ask(RequestCode.REGISTER_BROKER, body, **(fields | more))

    def route(self, topic: str = "t", **more: Any) -> Any:
        return loads_lenient(self.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic=topic, **more).body)


def start(tmp_path: Path, **settings: Any) -> Served:
    tmp_path.mkdir(exist_ok=True)
    config = NamesrvConfig(
        kv_config_path=str(tmp_path / "kvConfig.json"),
        config_store_path=str(tmp_path / "namesrv.properties"),
        **settings,
    )
    clock = ManualClock()
    server = Served(config, clock)
    server.time = clock
    return server


@pytest.fixture
def server(tmp_path: Path) -> Served:
    return start(tmp_path)


# --- routes ----------------------------------------------------------------------------------------------------------


def test_old_readers_get_the_old_form_of_a_route(server: Served) -> None:
    server.register()
    broker = '"brokerName":"a","cluster":"C"'
    queues = '{"brokerName":"a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}'
    rest = f'"filterServerTable":{{}},"queueDatas":[{queues}]}}'
    old = f'{{"brokerDatas":[{{"brokerAddrs":{{0:"10.0.0.1:10911"}},{broker}}}],{rest}'
    new = f'{{"brokerDatas":[{{"brokerAddrs":{{"0":"10.0.0.1:10911"}},{broker},"enableActingMaster":false}}],{rest}'
    assert server.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, version=317, topic="t").body.decode() == old
    assert server.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, version=401, topic="t").body.decode() == new
    asked = server.ask(RequestCode.GET_ROUTEINFO_BY_TOPIC, version=317, topic="t", acceptStandardJsonOnly="true")
    assert asked.body.decode() == new


def test_the_cluster_is_shown_in_the_reader_s_form(server: Served) -> None:
    server.register()
    assert b'{0:"10.0.0.1:10911"}' in server.ask(RequestCode.GET_BROKER_CLUSTER_INFO, version=1).body
    assert b"false" not in server.ask(RequestCode.GET_BROKER_CLUSTER_INFO, version=1).body
    assert b'{"0":"10.0.0.1:10911"}' in server.ask(RequestCode.GET_BROKER_CLUSTER_INFO).body


def test_the_order_configuration_comes_with_the_route_if_switched_on(tmp_path: Path) -> None:
    for switched_on in (False, True):
        server = start(tmp_path, order_message_enable=switched_on)
        server.register()
        server.ask(RequestCode.PUT_KV_CONFIG, namespace="ORDER_TOPIC_CONFIG", key="t", value="a:4")
        assert server.route().get("orderTopicConf") == ("a:4" if switched_on else None)


def test_a_freshly_started_server_may_ask_clients_to_wait(tmp_path: Path) -> None:
    server = start(tmp_path, need_wait_for_service=True)
    server.register()
    assert server.refusal(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="t") == (1, "name server not ready")
    server.time.advance_ms(45_000)
    assert server.route()


def test_zones_filter_only_when_the_mode_is_on(server: Served) -> None:
    server.register("a", __ZONE_NAME="z1")
    server.register("b", __ZONE_NAME="z2")
    names = [b["brokerName"] for b in server.route(__ZONE_NAME="z1", __ZONE_MODE="true")["brokerDatas"]]
    assert names == ["a"]
    assert len(server.route(__ZONE_NAME="z1")["brokerDatas"]) == 2


def test_topic_lists_can_be_switched_off(tmp_path: Path) -> None:
    server = start(tmp_path, enable_all_topic_list=False, enable_topic_list=False)
    for code in (
        RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS,
        RequestCode.GET_UNIT_TOPIC_LIST, RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST,
    ):  # fmt: skip
        assert server.refusal(code) == (1, "disable")
    assert server.refusal(RequestCode.GET_TOPICS_BY_CLUSTER, cluster="C") == (1, "disable")


# --- brokers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header_says_so", [True, False])
def test_a_compressed_registration_is_read_whatever_its_header_says(server: Served, header_says_so: bool) -> None:
    server.register(packed=True, compressed=str(header_says_so).lower())
    assert server.route()["queueDatas"][0]["writeQueueNums"] == 4


def test_a_broker_older_than_3_0_11_sends_only_its_topics(server: Served) -> None:
    table = TopicConfigTable(topic_config_table={t: TopicConfig(t) for t in ("t", "u")}, data_version=V1)
    ext = {"brokerName": "a", "brokerAddr": "h:1", "clusterName": "C", "haServerAddr": "h:2", "brokerId": 0}
    server.ask(RequestCode.REGISTER_BROKER, dumps(table), version=36, **ext)
    assert server.route("u")


@pytest.mark.parametrize("body", [b"{", b"[]", b"\x78\x9cnonsense", b'{"topicConfigSerializeWrapper":5}', b"\x00"])
def test_a_registration_that_cannot_be_read_is_refused(server: Served, body: bytes) -> None:
    ext = {"brokerName": "a", "brokerAddr": "h:1", "clusterName": "C", "haServerAddr": "h:2", "brokerId": 0}
    code, remark = server.refusal(RequestCode.REGISTER_BROKER, body, **ext)
    assert code == 1
    assert "the registration cannot be read" in remark


def test_a_missing_field_is_named(server: Served) -> None:
    assert server.refusal(RequestCode.GET_ROUTEINFO_BY_TOPIC) == (1, "the custom field <topic> is null")
    assert server.refusal(RequestCode.PUT_KV_CONFIG, namespace="n", key="k") == (1, "the custom field <value> is null")


def test_registrations_are_answered_with_the_order_configuration(tmp_path: Path) -> None:
    server = start(tmp_path)
    assert server.register().body == b""
    server.ask(RequestCode.PUT_KV_CONFIG, namespace="ORDER_TOPIC_CONFIG", key="t", value="a:4")
    assert server.register().body == b'{"table":{"t":"a:4"}}'
    assert start(tmp_path, return_order_topic_config_to_broker=False).register().body == b""


def test_a_replica_is_told_its_master(server: Served) -> None:
    server.register()
    assert server.register(broker_id=1).ext == {"haServerAddr": "10.0.0.1:10912", "masterAddr": "10.0.0.1:10911"}


def test_a_data_version_query_tells_of_changes_and_keeps_alive(server: Served) -> None:
    server.register(version=V1)
    ext = {"brokerName": "a", "brokerAddr": "10.0.0.1:10911", "clusterName": "C", "brokerId": 0}
    reply = server.ask(RequestCode.QUERY_DATA_VERSION, dumps(V1), **ext)
    assert reply.ext == {"changed": "false"}
    assert DataVersion.from_json(reply.body) == V1
    assert server.ask(RequestCode.QUERY_DATA_VERSION, dumps(DataVersion(0, 1, 2)), **ext).ext == {"changed": "true"}
    reply = server.ask(RequestCode.QUERY_DATA_VERSION, dumps(V1), **(ext | {"brokerAddr": "other:1"}))
    assert (reply.ext, reply.body) == ({"changed": "true"}, b"")
    for _ in range(3):
        server.time.advance_ms(100_000)
        server.ask(RequestCode.QUERY_DATA_VERSION, dumps(V1), **ext)
        server.expire()
    assert server.route()


def test_heartbeats_keep_a_broker_alive(server: Served) -> None:
    server.register(heartbeatTimeoutMillis=1000)
    ext = {"brokerName": "a", "brokerAddr": "10.0.0.1:10911", "clusterName": "C"}
    for _ in range(3):
        server.time.advance_ms(900)
        server.ask(RequestCode.BROKER_HEARTBEAT, **ext)
        server.expire()
    assert server.route()


def test_a_silent_broker_disappears_and_its_connection_is_closed(server: Served) -> None:
    silent, other = FakePeer(1), FakePeer(2)
    server.register("silent", peer=silent, brokerAddr="10.0.0.2:10911")
    server.time.advance_ms(60_000)
    server.register("other", peer=other, topics=("t", "v"))
    server.time.advance_ms(60_001)
    server.expire()
    assert silent.closed
    assert not other.closed
    assert [b["brokerName"] for b in server.route()["brokerDatas"]] == ["other"]
    assert server.refusal(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="u")[0] == 17


def test_a_broker_whose_connection_ends_disappears_at_once(server: Served) -> None:
    peer = FakePeer(7)
    server.register(peer=peer)
    server.closed(FakePeer(8))  # type: ignore[arg-type]
    assert server.route()
    server.closed(peer)  # type: ignore[arg-type]
    assert server.refusal(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="t")[0] == 17


def test_expiry_needs_nobody_to_ask(tmp_path: Path) -> None:
    async def watch() -> None:
        server = start(tmp_path, scan_not_active_broker_interval=5000)
        server.register()
        server.time.advance_ms(120_001)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            await trio.sleep(4.9)
            assert server.routes.topics() == ["t", "u"]
            await trio.sleep(0.2)
            assert server.routes.topics() == []
            nursery.cancel_scope.cancel()

    trio.run(watch, clock=trio.testing.MockClock(autojump_threshold=0))


@in_trio
async def test_members_are_told_of_a_new_smallest_id(tmp_path: Path) -> None:
    told: list[Command] = []
    heard = trio.Event()

    async def broker(stream: trio.SocketStream) -> None:
        splitter = FrameSplitter()
        async for chunk in stream:
            for frame in splitter.feed(bytes(chunk)):
                told.append(decode_frame(frame))
                heard.set()

    server = start(tmp_path, notify_min_broker_id_changed=True)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, broker, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        nursery.start_soon(server.run)
        server.register(broker_id=1, brokerAddr=f"127.0.0.1:{port}")
        server.register(broker_id=0)
        server.register("down", broker_id=1, brokerAddr="127.0.0.1:1")
        server.register("down", broker_id=0)
        with trio.fail_after(60):
            await heard.wait()
        nursery.cancel_scope.cancel()
    assert told[0].code == RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE
    assert told[0].is_oneway
    assert told[0].ext["minBrokerId"] == "0"
    assert told[0].ext["minBrokerAddr"] == "10.0.0.1:10911"


# --- safety ----------------------------------------------------------------------------------------------------------


def test_dangerous_commands_are_taken_from_this_machine_only(server: Served) -> None:
    stranger = FakePeer(host="10.0.0.9")
    for code in DANGEROUS:
        refused, remark = server.refusal(code, peer=stranger)
        assert refused == 16
        assert "adminFromLoopbackOnly" in remark
    server.register(peer=stranger)
    assert server.route(peer=stranger)
    server.ask(RequestCode.UPDATE_NAMESRV_CONFIG, b"adminFromLoopbackOnly=false")
    server.ask(RequestCode.PUT_KV_CONFIG, peer=stranger, namespace="n", key="k", value="v")


def test_settings_are_updated_shown_and_stored(server: Served) -> None:
    server.ask(RequestCode.UPDATE_NAMESRV_CONFIG, b"orderMessageEnable=true\nfromTheFuture=1\n")
    assert server.config.order_message_enable
    shown = parse_properties(server.ask(RequestCode.GET_NAMESRV_CONFIG).body.decode())
    assert shown["orderMessageEnable"] == "true"
    stored, _ = load_namesrv_config(server.config.config_store_path, {}, {})
    assert stored.order_message_enable


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"kvConfigPath=/etc/passwd\norderMessageEnable=true", 16),
        (b"configStorePath=/etc/cron.d/x\norderMessageEnable=true", 16),
        (b"configBlackList=\norderMessageEnable=true", 16),
        (b"rocketmqHome=/x\norderMessageEnable=true", 16),
        (b"scanNotActiveBrokerInterval=often\norderMessageEnable=true", 1),
        (b"\xff\norderMessageEnable=true", 1),
    ],
)
def test_a_refused_update_changes_nothing(server: Served, text: bytes, code: int) -> None:
    assert server.refusal(RequestCode.UPDATE_NAMESRV_CONFIG, text)[0] == code
    assert not server.config.order_message_enable
    assert not Path(server.config.config_store_path).exists()


def test_an_update_that_cannot_be_stored_is_not_applied(tmp_path: Path) -> None:
    server = start(tmp_path)
    Path(server.config.config_store_path).mkdir()
    with pytest.raises(OSError, match="directory"):
        server.ask(RequestCode.UPDATE_NAMESRV_CONFIG, b"orderMessageEnable=true")
    assert not server.config.order_message_enable


def test_a_broker_s_request_is_not_supported_here(server: Served) -> None:
    reply = server.ask(RequestCode.SEND_MESSAGE)
    assert (reply.code, reply.remark) == (3, " request type 10 not supported")


def test_every_request_to_a_name_server_in_the_table_has_a_handler() -> None:
    to_us = {code for code, spec in REQUESTS.items() if "→N" in spec.direction and spec.served}
    assert to_us == set(HANDLERS)


def test_two_name_servers_know_nothing_of_each_other(tmp_path: Path) -> None:
    one, two = start(tmp_path / "one"), start(tmp_path / "two")
    one.register()
    one.ask(RequestCode.PUT_KV_CONFIG, namespace="n", key="k", value="v")
    one.ask(RequestCode.UPDATE_NAMESRV_CONFIG, b"orderMessageEnable=true")
    assert two.refusal(RequestCode.GET_ROUTEINFO_BY_TOPIC, topic="t")[0] == 17
    assert two.refusal(RequestCode.GET_KV_CONFIG, namespace="n", key="k")[0] == 22
    assert not two.config.order_message_enable
