"""Configuration, runtime information, refusals; and the broker in memory the other handler tests use."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from fastmq.broker.delivery.longpoll import LongPollTable
from fastmq.broker.delivery.pop import PopService
from fastmq.broker.delivery.popwait import PopWaits
from fastmq.broker.handlers import admin, assignment, consumer_admin, group, query, relay, stats, topic
from fastmq.broker.handlers.admin import DANGEROUS
from fastmq.broker.hot import HotPulls
from fastmq.broker.state.broadcast import BroadcastOffsets
from fastmq.broker.state.groups import SubscriptionGroupTable
from fastmq.broker.state.offsets import ConsumerOffsetTable
from fastmq.broker.state.order_info import ConsumerOrderTable
from fastmq.broker.state.request_modes import MessageRequestModes
from fastmq.broker.state.sessions import ClientChannel, ClientSessions, ConsumerHeartbeat
from fastmq.broker.state.topics import TopicTable
from fastmq.broker.state.transaction_metrics import TransactionMetrics
from fastmq.broker.stats import BrokerStats
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.properties import merge_properties, parse_properties
from fastmq.protocol.bodies import DataVersion, SubscriptionData, TopicConfig, loads_lenient
from fastmq.protocol.codes import REQUESTS, RequestCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import StoredMessage, decode_properties, encode_message, encode_properties

TABLES = (admin.HANDLERS, assignment.HANDLERS, consumer_admin.HANDLERS, group.HANDLERS, query.HANDLERS, relay.HANDLERS,
          stats.HANDLERS, topic.HANDLERS)  # fmt: skip


class MemoryStore:
    """Records in a list; the queue of a message is found by looking."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.records: list[tuple[int, StoredMessage, bytes]] = []
        self.written_offset = self.flushed_offset = self.dispatched_offset = 0
        self.min_log_offset = 0
        self.told: dict[str, tuple[int, int, int]] = {}
        self.settings: dict[str, object] = {}
        self.collide = False

    def add(self, topic: str, queue_id: int = 0, body: bytes = b"x", **properties: str) -> int:
        at = self.written_offset
        message = StoredMessage(
            topic=topic,
            body=body,
            queue_id=queue_id,
            queue_offset=len(self._queue(topic, queue_id)),
            log_offset=at,
            store_timestamp=self.clock.wall_ms(),
            properties=encode_properties(properties),
        )
        record = encode_message(message)
        self.records.append((at, message, record))
        self.written_offset += len(record)
        self.flushed_offset = self.dispatched_offset = self.written_offset
        return at

    def _queue(self, topic: str, queue_id: int) -> list[tuple[int, StoredMessage, bytes]]:
        return [r for r in self.records if r[1].topic == topic and r[1].queue_id == queue_id]

    def set_topic(self, name: str, *, perm: int, read_queues: int, write_queues: int, flags: int) -> None:
        self.told[name] = (perm, read_queues, write_queues)

    def remove_topic(self, name: str) -> None:
        self.told.pop(name, None)

    def delete_topic_data(self, name: str) -> None:
        self.records = [r for r in self.records if r[1].topic != name]

    def queues(self) -> list[tuple[str, int, int, int]]:
        keys = dict.fromkeys((r[1].topic, r[1].queue_id) for r in self.records)
        return [(topic, queue, 0, len(self._queue(topic, queue))) for topic, queue in keys]

    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None:
        found = self._queue(topic, queue_id)
        return (0, len(found)) if found else None

    def store_timestamp_at(self, topic: str, queue_id: int, offset: int) -> int:
        found = self._queue(topic, queue_id)
        return found[offset][1].store_timestamp if 0 <= offset < len(found) else -1

    def earliest_store_timestamp(self) -> int:
        return self.records[0][1].store_timestamp if self.records else -1

    def search_offset(self, topic: str, queue_id: int, timestamp_ms: int, *, upper: bool = False) -> int:
        return sum(r[1].store_timestamp < timestamp_ms for r in self._queue(topic, queue_id))

    def queue_entries(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        return [(at, len(record), 7) for at, _, record in self._queue(topic, queue_id)[offset : offset + count]]

    def read_record(self, log_offset: int) -> bytes | None:
        assert log_offset >= 0
        return next((record for at, _, record in self.records if at == log_offset), None)

    def query_index(self, topic: str, key: str, count: int, begin: int, end: int) -> tuple[list[int], int, int]:
        hits = []
        for at, message, _ in self.records:
            values = " ".join(decode_properties(message.properties).values()).split()
            if begin <= message.store_timestamp <= end and (self.collide or key in values):
                hits.append(at)
        return hits[-count:], self.clock.wall_ms(), self.written_offset

    def reconfigure(self, **settings: object) -> None:
        self.settings |= settings


class NoRegistrar:
    def __init__(self) -> None:
        self.changes = 0
        self.route: Command | None = None

    def changed(self, topics: object = ()) -> None:
        self.changes += 1

    async def wait_announced(self, timeout_s: float) -> bool:
        return True

    async def ask(self, request: Command, timeout_s: float) -> Command | None:
        return self.route


class Delay:
    def __init__(self) -> None:
        self.levels = {1: 3}

    def offsets(self) -> dict[int, int]:
        return self.levels

    def to_body(self) -> dict[str, Any]:
        return {"dataVersion": DataVersion(), "offsetTable": self.levels}


class Retention:
    requests = 0

    def request(self) -> None:
        self.requests += 1


class Tool:
    """The connection a request comes from."""

    def __init__(self, local: bool = True) -> None:
        self.local = local
        self.address = "127.0.0.1:5555" if local else "192.0.2.7:5555"


class Client:
    """A connected client; `answers` says what it answers to which request."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.address = f"127.0.0.1:{40000 + number}"
        self.sent: list[Command] = []
        self.called: list[Command] = []
        self.answers: Callable[[Command], Command | Exception] = lambda request: request.reply()

    def close(self) -> None: ...

    def send(self, command: Command) -> bool:
        self.sent.append(command)
        return True

    async def call(self, command: Command, timeout_s: float) -> Command:
        self.called.append(command)
        answer = self.answers(command)
        if isinstance(answer, Exception):
            raise answer
        return answer


class MemoryBroker:
    """What handlers use of a broker, all in memory."""

    def __init__(self, path: Path | None = None, **config: Any) -> None:
        self.clock = ManualClock()
        self.config = BrokerConfig(broker_name="broker-a", store_path_root_dir=str(path or "/nowhere"), **config)
        self.store = MemoryStore(self.clock)
        self.topics = TopicTable(None, config=lambda: self.config, store=self.store, wall_ms=self.clock.wall_ms)
        self.groups = SubscriptionGroupTable(None, config=lambda: self.config, wall_ms=self.clock.wall_ms)
        self.offsets = ConsumerOffsetTable(None, config=lambda: self.config, wall_ms=self.clock.wall_ms)
        self.sessions = ClientSessions()
        self.stats = BrokerStats(
            "DefaultCluster",
            self.clock.wall_ms,
            queue_ends=self.store.queues,
            log_end=lambda: self.store.written_offset,
        )
        self.registrar = NoRegistrar()
        self.delay = Delay()
        self.timers = None
        self.retention = Retention()
        self.longpoll = LongPollTable(lambda topic, queue_id, on: 0)
        self.popwaits = PopWaits(lambda: lambda topic, queue_id, on: 0)
        self.order = ConsumerOrderTable(None)
        self.broadcast = BroadcastOffsets()
        self.transactions = SimpleNamespace(metrics=TransactionMetrics(None, lambda: 0))
        self.request_modes = MessageRequestModes(None)
        self.hot = HotPulls(self, None)
        self.pop = PopService(self)
        self.saves = 0
        self.old_configs: list[BrokerConfig] = []
        self._clients = 0

    def config_changed(self, old: BrokerConfig) -> None:
        self.old_configs.append(old)

    async def save_consumer_offsets(self) -> None:
        self.saves += 1

    def peer_of(self, channel: ClientChannel) -> Any:
        return channel.peer

    def next_opaque(self) -> int:
        return 1

    def add_topic(self, name: str, queues: int = 2, **more: Any) -> None:
        self.topics.put(TopicConfig(topic_name=name, read_queue_nums=queues, write_queue_nums=queues, **more))

    def connect(
        self, group_name: str, client_id: str, *topics: str, version: int = 479, language: str = "JAVA"
    ) -> Client:
        """A consumer of topics; without topics a producer."""
        self._clients += 1
        client = Client(self._clients)
        channel = ClientChannel(client_id, client, language, version, self.clock.wall_ms(), self.clock.monotonic())
        if topics:
            subscriptions = tuple(SubscriptionData.from_expression(name, "*") for name in topics)
            heartbeat = ConsumerHeartbeat(
                group_name, "CONSUME_PASSIVELY", "CLUSTERING", "CONSUME_FROM_LAST_OFFSET", subscriptions
            )
            self.sessions.register_consumer(heartbeat, channel)
        else:
            self.sessions.register_producer(group_name, channel)
        return client

    def request(
        self,
        code: RequestCode,
        ext: Mapping[str, Any] | None = None,
        body: object = b"",
        *,
        local: bool = True,
        language: str = "JAVA",
    ) -> Reply:
        """What a tool is answered."""
        handler = next(table[code] for table in TABLES if code in table)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {key: str(value) for key, value in (ext or {}).items()}
        command = Command(code, ext=fields, body=data, language=language)

        async def run() -> Reply:
            try:
                answer = handler(self, Tool(local), command)
                if isinstance(answer, Awaitable):
                    answer = await answer
            except RequestError as error:
                return Reply(error.code, error.remark)
            assert isinstance(answer, Reply)
            return answer

        return trio.run(run)

    def json(self, code: RequestCode, ext: Mapping[str, Any] | None = None, body: object = b"") -> Any:
        """The body of a successful answer."""
        reply = self.request(code, ext, body)
        assert reply.code == 0, reply.remark
        return loads_lenient(reply.body)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


# --- the table -------------------------------------------------------------------------------------------------------


def test_no_request_has_two_handlers_and_all_are_for_brokers() -> None:
    codes = [int(code) for table in TABLES for code in table]
    assert len(codes) == len(set(codes))
    assert all("B" in REQUESTS[code].direction for code in codes)


def test_what_destroys_is_dangerous_and_what_reads_is_not() -> None:
    assert {25, 207, 215, 316, 329, 222, 314, 353, 401, 908} <= DANGEROUS
    reads = {21, 26, 28, 43, 45, 201, 202, 203, 208, 300, 315, 317, 351, 352, 12, 33, 321}
    assert not DANGEROUS & reads


# --- configuration ---------------------------------------------------------------------------------------------------


def test_update_config_counts_at_once(broker: MemoryBroker) -> None:
    reply = broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"maxMessageSize=1000\nflushDiskType=SYNC_FLUSH\n")
    assert reply.code == 0
    assert broker.config.max_message_size == 1000
    assert broker.store.settings["max_message_bytes"] == 1000
    assert broker.store.settings["sync_flush"] is True
    assert broker.old_configs[0].max_message_size != 1000
    assert b"maxMessageSize=1000\n" in broker.request(RequestCode.GET_BROKER_CONFIG).body


def test_update_config_refuses_the_black_list_as_a_whole(broker: MemoryBroker) -> None:
    reply = broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"maxMessageSize=1000\nbrokerConfigPath=/etc/x\n")
    assert reply.code == 16
    assert "brokerConfigPath" in (reply.remark or "")
    assert broker.config.max_message_size != 1000


@pytest.mark.parametrize("body", [b"maxMessageSize=many\n", b"brokerRole=SLAVE\n", b"fileReservedTime=-1\n"])
def test_update_config_names_what_is_wrong(broker: MemoryBroker, body: bytes) -> None:
    before = broker.config
    reply = broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=body)
    assert reply.code == 29
    assert body.split(b"=")[0].decode() in (reply.remark or "")
    assert broker.config is before


def test_unknown_settings_and_empty_updates_are_ignored(broker: MemoryBroker) -> None:
    assert broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"noSuchThing=1\n").code == 0
    assert broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"").code == 0
    assert broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"a=\\u12\n").code == 1


def test_permission_change_reaches_the_name_servers(broker: MemoryBroker) -> None:
    version = broker.topics.data_version
    broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"brokerPermission=4\n")
    assert broker.topics.data_version != version, "name servers ignore a table whose version they know"
    assert broker.registrar.changes == 1


def test_update_config_is_kept_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broker.conf"
    path.write_text("# mine\nfileReservedTime = 48\nbrokerName=broker-a\n")
    broker = MemoryBroker(tmp_path, broker_config_path=str(path))
    broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"fileReservedTime=24\ndeleteWhen=05\n")
    assert path.read_text() == "# mine\nfileReservedTime=24\nbrokerName=broker-a\ndeleteWhen=05\n"


def test_what_is_read_at_start_goes_to_the_file_only(tmp_path: Path) -> None:
    path = tmp_path / "broker.conf"
    path.write_text("listenPort=10911\n")
    broker = MemoryBroker(tmp_path, broker_config_path=str(path))
    assert broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"listenPort=20911\ntraceOn=false\n").code == 0
    assert broker.config.listen_port == 10911, "it would register an address it does not listen on"
    assert broker.config.trace_on is False
    assert path.read_text() == "listenPort=20911\ntraceOn=false\n"
    assert broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"listenPort=x\n").code == 29
    without_file = MemoryBroker()
    assert without_file.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"listenPort=20911\n").code == 29


def test_config_version_changes_with_the_settings(broker: MemoryBroker) -> None:
    before = broker.request(RequestCode.GET_BROKER_CONFIG).ext["version"]
    assert broker.request(RequestCode.GET_BROKER_CONFIG).ext["version"] == before
    broker.request(RequestCode.UPDATE_BROKER_CONFIG, body=b"traceOn=false\n")
    assert broker.request(RequestCode.GET_BROKER_CONFIG).ext["version"] != before
    assert set(json.loads(before)) == {"counter", "stateVersion", "timestamp"}


@pytest.mark.parametrize(
    ("text", "values", "result"),
    [
        ("", {"a": "1"}, "a=1\n"),
        ("a=1\nb=2\na=3\n", {"a": "9"}, "a=9\nb=2\n"),
        ("a = 1 \\\n  2\nb=2", {"a": "9"}, "a=9\nb=2\n"),
        ("! note\n\n a:1\n", {"a": "x"}, "! note\n\na=x\n"),
        ("ab=1\n", {"a": "2"}, "ab=1\na=2\n"),
        ("x=1, \\\n  a=2\n", {"a": "9"}, "x=1, \\\n  a=2\na=9\n"),
        ("x=1\u2028a=2\n# \x0c b=\n", {"a": "9"}, "x=1\u2028a=2\n# \x0c b=\na=9\n"),
        ("p=c:\\\\x\n", {"p": "d:\\y"}, "p=d:\\\\y\n"),
    ],
)
def test_merge_properties(text: str, values: dict[str, str], result: str) -> None:
    merged = merge_properties(text, values)
    assert merged == result
    assert parse_properties(merged) == {**parse_properties(text), **values}


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_runtime_info(tmp_path: Path) -> None:
    broker = MemoryBroker(tmp_path)
    broker.store.add("t")
    broker.stats.on_get_missed()
    broker.clock.advance_ms(61_000)
    table = broker.json(RequestCode.GET_BROKER_RUNTIME_INFO)["table"]
    assert table["brokerVersionDesc"] == "V5_3_3"
    assert table["brokerVersion"] == "479"
    assert table["runtime"] == "[ 0 days, 0 hours, 1 minutes, 1 seconds ]"
    assert table["commitLogMaxOffset"] == str(broker.store.written_offset)
    assert table["msgPutTotalTodayNow"] == "1"
    assert table["scheduleMessageOffset_1"] == "3,3"
    assert len(table["getTotalTps"].split(" ")) == 3


def test_statistics_item(broker: MemoryBroker) -> None:
    ext = {"statsName": "TOPIC_PUT_NUMS", "statsKey": "t"}
    missing = broker.request(RequestCode.VIEW_BROKER_STATS_DATA, ext)
    assert (missing.code, missing.remark) == (1, "The stats <TOPIC_PUT_NUMS> <t> not exist")
    broker.stats.on_put("t", 0, 2, 200)
    data = broker.json(RequestCode.VIEW_BROKER_STATS_DATA, ext)
    assert data["statsMinute"]["sum"] == 2
    assert set(data) == {"statsDay", "statsHour", "statsMinute"}
    assert set(data["statsDay"]) == {"avgpt", "sum", "tps"}


def test_ha_status_of_a_lone_master(broker: MemoryBroker) -> None:
    broker.store.add("t")
    status = broker.json(RequestCode.GET_BROKER_HA_STATUS)
    assert status["master"] is True
    assert status["haConnectionInfo"] == []
    assert status["masterCommitLogMaxOffset"] == broker.store.written_offset


def test_delete_expired_commit_log_asks_the_retention_service(broker: MemoryBroker) -> None:
    assert broker.request(RequestCode.DELETE_EXPIRED_COMMITLOG).code == 0
    assert broker.retention.requests == 1
    assert broker.request(RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE).code == 0
    assert broker.request(RequestCode.POP_ROLLBACK).code == 0, "exportPopRecord of mqadmin"


@pytest.mark.parametrize("code", [354, 355, 1007, 2001, 2002, 2003, 2004, 513])
def test_what_is_not_there_is_refused_with_a_reason(broker: MemoryBroker, code: int) -> None:
    reply = broker.request(RequestCode(code))
    assert reply.code == 1
    assert reply.remark
