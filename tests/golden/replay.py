"""Puts recorded requests to a fastmq broker with a real store, after making true what their answers presuppose.

The recordings keep two to five examples of each kind, in the order of time, so the broker cannot simply live through
them: before a request is put, what its recorded answer presupposes is made true (queues as long as they were, offsets
stored, members known); see `Stage`. `replay` then holds code, names of ext fields and shape of the body to Apache's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from fastmq._store import Store
from fastmq.broker.app import Broker
from fastmq.broker.handlers.pull import answer_pulls
from fastmq.broker.state.sessions import ClientChannel, ConsumerHeartbeat
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    ConsumeFromWhere,
    ConsumerStatusBody,
    ConsumeType,
    MessageModel,
    SubscriptionData,
    TopicConfig,
    dumps,
    loads_lenient,
    queue_map,
)
from fastmq.protocol.command import Command, decode_frame
from fastmq.protocol.fields import parse_int32
from fastmq.protocol.message import (
    PROPERTY_MESSAGE_REPLY_TO_CLIENT,
    StoredMessage,
    decode_messages,
    decode_properties,
    encode_properties,
    offset_message_id,
    parse_message_id,
)

FOLDER = Path(__file__).parent / "frames"
BROKER, CLUSTER, PORT = "broker-golden", "GoldenCluster", 30911


@dataclass(frozen=True)
class Exchange:
    """One recorded request and its answer (None: oneway)."""

    file: str
    number: int
    client: str
    note: str
    at_ms: int
    connection: int
    request: Command
    answer: Command | None

    def __str__(self) -> str:
        return f"{self.file}:{self.number} {self.request.code} ({self.client}: {self.note})"

    @property
    def ext(self) -> dict[str, str]:
        return self.request.ext


def exchanges(files: Sequence[str]) -> list[Exchange]:
    """All requests to the broker in these files, in the order of time."""

    def read() -> Iterator[Exchange]:
        for file in files:
            for number, line in enumerate((FOLDER / f"{file}.jsonl").read_text().splitlines(), 1):
                row = json.loads(line)
                if row["peer"] != "broker" or row["dir"] != "client>server":
                    continue
                answer = decode_frame(base64.b64decode(row["response"])) if row["response"] else None
                yield Exchange(file, number, row["client"], row["note"], row["t"], row["conn"],
                               decode_frame(base64.b64decode(row["request"])), answer)  # fmt: skip

    return sorted(read(), key=lambda one: one.at_ms)


@dataclass(frozen=True)
class Deviation:
    """Why some answers differ: those to requests of `code` which the recorded answer and ours tell apart like this."""

    reason: str
    codes: tuple[int, ...]
    recorded: tuple[int, ...]
    ours: int
    remark: str = ""  # in our answer's remark
    note: str = ""  # in the note of the recording

    def covers(self, exchange: Exchange, reply: Reply | None) -> bool:
        return (
            reply is not None
            and exchange.answer is not None
            and exchange.request.code in self.codes
            and exchange.answer.code in self.recorded
            and int(reply.code) == self.ours
            and self.remark in (reply.remark or "")
            and self.note in exchange.note
        )


class Connection:
    """A client's connection: takes what the broker sends, and answers what the client in the recording did."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.host, self.port, self.address = "127.0.0.1", 40_000 + number, f"127.0.0.1:{40_000 + number}"
        self.service = 0
        self.local = self.alive = True
        self.late: list[Reply] = []
        self.answer: Command | None = None  # what the client answers to a request of the broker

    def send(self, command: Command) -> bool:
        return True

    def reply(self, request: Command, reply: Reply) -> None:
        self.late.append(reply)

    async def call(self, command: Command, timeout_s: float) -> Command:
        if self.answer is None:
            raise TimeoutError(f"no answer within {timeout_s} s")
        return self.answer

    def close(self) -> None: ...


class Stage:
    """A broker, and what has to be true before a request makes sense."""

    def __init__(self, root: Path, recorded: list[Exchange], *, segment_bytes: int = 1 << 22) -> None:
        self.recorded = recorded
        self.clock = ManualClock(recorded[0].at_ms - 60_000)
        self.store = Store(
            str(root), store_host=("127.0.0.1", PORT), segment_bytes=segment_bytes, queue_file_bytes=20_000,
            index_slots=1000, index_entries=4000, max_message_bytes=262_144, wall_clock_ms=self.clock.wall_ms,
            delay_levels_ms=BrokerConfig().delay_levels_ms,
        )  # fmt: skip
        config = BrokerConfig(
            broker_name=BROKER, broker_cluster_name=CLUSTER, store_path_root_dir=str(root), listen_port=PORT,
            default_topic_queue_nums=4, max_message_size=262_144, enable_property_filter=True, trace_topic_enable=True,
            recall_message_enable=True,
        )  # fmt: skip
        self.broker = Broker(config, self.store, self.clock)
        self.connections: dict[int, Connection] = {}
        self.numbers: dict[tuple[str, str], int] = {}
        self.known = self._messages()

    def _messages(self) -> dict[tuple[str, int, int], StoredMessage]:
        """Every message that some recorded answer carries, by topic, queue and queue offset."""
        found = {}
        for exchange in self.recorded:
            if exchange.answer is not None and exchange.request.code in (11, 12, 33, 361) and exchange.answer.body:
                for message in decode_messages(exchange.answer.body):
                    found[message.topic, message.queue_id, message.queue_offset] = message
        return found

    def connection(self, number: int) -> Connection:
        return self.connections.setdefault(number, Connection(number))

    def set_time(self, at_ms: int) -> None:
        if at_ms > self.clock.wall_ms():
            self.clock.advance_ms(at_ms - self.clock.wall_ms())

    # --- making things true ----------------------------------------------------------------------------------------

    def fill(self, topic: str, queue_id: int, end: int) -> None:
        """Let the queue end at `end` at least, with the recorded messages where they are known."""
        have = (self.store.queue_offsets(topic, queue_id) or (0, 0))[1]
        for offset in range(have, end):
            message = self.known.get((topic, queue_id, offset))
            if message is None:
                self.store.put(topic, queue_id, b"filler", b"", born_timestamp_ms=self.clock.wall_ms())
                continue
            self.store.put(
                topic, queue_id, message.body, message.properties, flag=message.flag,
                born_timestamp_ms=message.born_timestamp, reconsume_times=message.reconsume_times,
            )  # fmt: skip
        self.store.index_step()

    def place(self, log_offset: int) -> int:
        """Where a recorded message lies in this store's log."""
        message = next((one for one in self.known.values() if one.log_offset == log_offset), None)
        if message is None:
            return log_offset
        self.topic(message.topic)
        self.fill(message.topic, message.queue_id, message.queue_offset + 1)
        return self.store.queue_entries(message.topic, message.queue_id, message.queue_offset, 1)[0][0]

    def topic(self, name: str, queues: int = 4) -> None:
        if name not in self.broker.topics:
            self.broker.topics.put(TopicConfig(name, queues, queues))

    def offsets_before(self, exchange: Exchange) -> None:
        """The queue as long as the answer says it was."""
        answer, ext = exchange.answer, exchange.ext
        if answer is None or answer.code in (17, 26):
            return
        topic, queue_id = ext.get("topic", ""), parse_int32(ext.get("queueId")) or 0
        code = exchange.request.code
        if not topic or queue_id < 0 or names.validate_topic(topic) is not None:
            return
        if code in (11, 361):
            self.topic(topic)
        if code in (11, 361) and "maxOffset" in answer.ext:
            self.fill(topic, queue_id, int(answer.ext["maxOffset"]))
        elif code == 30 and answer.code == 0:
            self.fill(topic, queue_id, int(answer.ext["offset"]))
        elif code in (29, 32) and answer.code == 0:
            self.fill(topic, queue_id, 1 if int(answer.ext.get("timestamp", "0")) > 0 else 0)
        elif code == 12 and answer.code == 0:
            for message in decode_messages(answer.body):
                self.topic(message.topic)
                self.fill(message.topic, message.queue_id, message.queue_offset + 1)
        elif code == 33 and answer.code == 0:
            (message,) = decode_messages(answer.body)
            self.topic(message.topic)
            self.fill(message.topic, message.queue_id, message.queue_offset + 1)
        elif code == 321 and answer.code == 0:
            self.fill(topic, queue_id, loads_lenient(answer.body)["maxQueueIndex"])

    def members_before(self, exchange: Exchange) -> None:
        """Who had sent heartbeats, and what for, as far as the answer tells."""
        answer, ext, code = exchange.answer, exchange.ext, exchange.request.code
        if answer is None:
            return
        group = ext.get("consumerGroup") or ext.get("group") or ""
        if (code, answer.code) in ((203, 206), (38, 1)):
            info = self.broker.sessions.consumer_group(group)
            for connection in list(info.channels) if info is not None else ():
                self.broker.sessions.unregister(connection, consumer_group=group)
            return
        online = code in (11, 361) and answer.code not in (16, 17, 24, 26)
        online |= code in (38, 203, 345, 321, 222) and answer.code == 0
        online |= code in (307, 309) and answer.code == 0
        if code == 223 and answer.code == 0:
            for client_id, table in loads_lenient(answer.body)["consumerTable"].items():
                status = ConsumerStatusBody(message_queue_table=queue_map(table))
                self.client(group, client_id).answer = Command(221).reply(0, None, None, dumps(status))
        if not online or not group or group == "TOOLS_CONSUMER":
            return
        if code in (307, 309):
            self.client(group, ext["clientId"]).answer = answer
            return
        self.join(group, self.connection(exchange.connection), "golden")
        info = self.broker.sessions.consumer_group(group)
        assert info is not None
        topic = ext.get("topic")
        if topic is None or (code == 345 and b'"subscriptionData"' not in answer.body):
            return
        known = info.subscriptions.get(topic)
        if known is None:
            expression, kind = ext.get("subscription") or "*", ext.get("expressionType") or "TAG"
            known = SubscriptionData.from_expression(topic, expression, kind)
        version = int(ext.get("subVersion") or 0) - (1 if answer.code == 25 else 0)
        info.subscriptions[topic] = replace(known, sub_version=version)
        if known.expression_type == "SQL92" and answer.code != 27:
            # what the filter was, the answer does not tell
            filtered = replace(known, sub_string="TRUE", sub_version=version - (1 if answer.code == 28 else 0))
            self.broker.filters.consumers.register(group, [filtered])

    def client(self, group: str, client_id: str) -> Connection:
        """The connection of a consumer that is online."""
        number = self.numbers.setdefault((group, client_id), 10_000 + len(self.numbers))
        self.join(group, self.connection(number), client_id)
        return self.connection(number)

    def join(self, group: str, client: Connection, client_id: str) -> None:
        """A consumer is online, if it is not yet."""
        self.broker.groups.find_or_create(group)
        info = self.broker.sessions.consumer_group(group)
        if info is not None and client.id in info.channels:
            return
        channel = ClientChannel(client_id, client, "JAVA", 479, self.clock.wall_ms(), self.clock.monotonic())
        heartbeat = ConsumerHeartbeat(
            group,
            ConsumeType.CONSUME_PASSIVELY,
            MessageModel.CLUSTERING,
            ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
            None,
        )
        self.broker.sessions.register_consumer(heartbeat, channel)

    def tables_before(self, exchange: Exchange) -> None:
        answer, ext, code = exchange.answer, exchange.ext, exchange.request.code
        if answer is None:
            return
        if code == 14 and answer.code == 0:
            self.topic(ext["topic"])
            offset = int(answer.ext["offset"])
            self.broker.offsets.commit(ext["consumerGroup"], ext["topic"], int(ext["queueId"]), offset)
        if code == 15 and answer.code == 0:
            self.topic(ext["topic"])
            self.broker.groups.find_or_create(ext["consumerGroup"])
        if code in (351, 202, 303) and answer.code == 0:
            self.topic(ext["topic"], len(loads_lenient(answer.body).get("offsetTable", {})) or 4)
        if code == 222 and answer.code == 0:
            self.broker.groups.find_or_create(ext["group"])
            for queue, offset in queue_map(loads_lenient(answer.body)["offsetTable"]).items():
                self.topic(queue.topic)
                self.broker.offsets.commit(ext["group"], queue.topic, queue.queue_id, offset)
        if code == 315 and answer.code == 0:
            topic, _, group = ext["statsKey"].partition("@")
            if group:
                self.broker.stats.on_get(group, topic, 0, 1, 1)
            else:
                self.broker.stats.on_put(topic, 0, 0, 0)
        if code in (11, 361) and answer.code == 21 and answer.remark == "OFFSET_RESET":
            offset = int(answer.ext["nextBeginOffset"])
            self.broker.offsets.assign_reset(ext["consumerGroup"], ext["topic"], int(ext["queueId"]), offset)
        if code in (324, 325) and answer.code == 0:
            client_id = decode_properties(ext.get("i") or ext["properties"])[PROPERTY_MESSAGE_REPLY_TO_CLIENT]
            requester = self.connection(20_000 + exchange.connection)
            requester.answer = Command(326).reply()
            channel = ClientChannel(client_id, requester, "JAVA", 479, 0, self.clock.monotonic())
            self.broker.sessions.register_producer("requester", channel)
        if code == 204 and answer.code == 0:
            channel = ClientChannel("golden", self.connection(exchange.connection), "JAVA", 479, 0, 0.0)
            self.broker.sessions.register_producer(ext["producerGroup"], channel)

    def half_before(self, request: Command) -> dict[str, str]:
        """A half message as the decision says there was one; where it lies in this store."""
        ext = request.ext
        properties = {
            "UNIQ_KEY": ext["msgId"], "PGROUP": ext["producerGroup"], "TRAN_MSG": "true", "REAL_TOPIC": "golden-trans",
            "REAL_QID": "0",
        }  # fmt: skip
        appended = self.store.put(
            names.TRANS_HALF_TOPIC, 0, b"half", encode_properties(properties), born_timestamp_ms=self.clock.wall_ms()
        )
        return {"commitLogOffset": str(appended.log_offset), "tranStateTableOffset": str(appended.queue_offset)}

    def pops_before(self, exchange: Exchange) -> None:
        """Topics, members and offsets of groups that pop."""
        answer, ext, code = exchange.answer, exchange.ext, exchange.request.code
        if answer is None or answer.code == 17:
            return
        if code in (400, 401):
            body = loads_lenient(exchange.request.body)
            assigned = loads_lenient(answer.body).get("messageQueueAssignments") if answer.body else None
            if code == 401 or assigned:
                self.topic(body["topic"], len(assigned or ()) or 2)
            if assigned:
                self.join(body["consumerGroup"], self.connection(exchange.connection), body["clientId"])
        if code in (200052, 200054, 200055):
            self.topic(ext["topic"], 2)
        if code in (200050, 200051, 200053):
            self.topic(ext["topic"], 2)
        if code == 200050 and answer.code == 0:
            self.pop_before(exchange)
        if code in (200051, 200053) and answer.code == 0:
            self.fill(ext["topic"], int(ext["queueId"]), int(ext["offset"]) + 1)
        if code == 200054 and answer.ext["hasMsg"] == "true":
            self.fill(ext["topic"], 0, 1)
        if code == 200052 and answer.code == 19:
            end = (self.store.queue_offsets(ext["topic"], int(ext["queueId"])) or (0, 0))[1]
            self.broker.offsets.commit(ext["consumerGroup"], ext["topic"], int(ext["queueId"]), end)

    def pop_before(self, exchange: Exchange) -> None:
        """What the recorded pop found is there, and the group is where it found it."""
        assert exchange.answer is not None
        group, topic = exchange.ext["consumerGroup"], exchange.ext["topic"]
        starts = [item.split(" ") for item in exchange.answer.ext["startOffsetInfo"].split(";")]
        offsets = [item.split(" ") for item in exchange.answer.ext["msgOffsetInfo"].split(";")]
        for (flag, queue_id, start), (_, _, found) in zip(starts, offsets, strict=True):
            name = topic if flag == "0" else names.pop_retry_topic(group, topic)
            self.topic(name, 2 if flag == "0" else 1)
            self.fill(name, int(queue_id), int(found.split(",")[-1]) + 1)
            self.broker.offsets.commit(group, name, int(queue_id), int(start))

    def translated(self, request: Command) -> Command:
        """The request with commit log offsets of this store where it has those of the recording."""
        ext = dict(request.ext)
        if request.code == 37 and request.ext["commitLogOffset"] != "999999999":
            ext.update(self.half_before(request))
        if request.code in (33, 36) and ext.get("offset"):
            ext["offset"] = str(self.place(int(ext["offset"])))
        if request.code == 309 and ext.get("msgId"):
            host, port, log_offset = parse_message_id(ext["msgId"])
            ext["msgId"] = offset_message_id(host, port, self.place(log_offset))
        return Command(request.code, request.opaque, request.flag, request.language, request.version, request.remark,
                       ext, request.body, request.serialize)  # fmt: skip

    # --- the request itself ------------------------------------------------------------------------------------------

    async def put(self, exchange: Exchange) -> Reply | None:
        self.set_time(exchange.at_ms)
        for prepare in (self.offsets_before, self.members_before, self.tables_before, self.pops_before):
            prepare(exchange)
        peer = self.connection(exchange.connection)
        peer.late.clear()
        try:
            answer: Any = self.broker.handle(peer, self.translated(exchange.request))  # type: ignore[arg-type]
            reply: Reply | None = answer if answer is None or isinstance(answer, Reply) else await answer
        except RequestError as error:
            reply = Reply(error.code, error.remark)
        if reply is None:
            answer_pulls(self.broker, self.broker.longpoll.take_all())
            self.broker.draining = True
            self.broker.popwaits.answer_all()
            self.broker.draining = False
            reply = peer.late[-1] if peer.late else None
        self.store.index_step()
        return reply


def shape(body: bytes) -> Any:
    """What must be alike of two bodies: nothing, messages, text, or JSON with the same member names."""
    if not body:
        return "nothing"
    if body[4:8] in (b"\xda\xa3\x20\xa7", b"\xda\xa3\x20\xab"):
        return "messages"
    try:
        content = loads_lenient(body)
    except ValueError:
        return "text"
    return sorted(content) if isinstance(content, dict) else type(content).__name__


def difference(recorded: Command, reply: Reply | None) -> str | None:
    """None if a client could not tell the answers apart, else what it sees."""
    if reply is None:
        return "no answer"
    if reply.code != recorded.code:
        return f"code {recorded.code} ({recorded.remark}) became {int(reply.code)} ({reply.remark})"
    if set(reply.ext) != set(recorded.ext):
        return f"ext {sorted(recorded.ext)} became {sorted(reply.ext)}"
    if shape(reply.body) != shape(recorded.body):
        return f"body {shape(recorded.body)} became {shape(reply.body)}"
    return None


def replay(
    stage: Stage, deviations: Sequence[Deviation], not_reproducible: Collection[tuple[str, int]]
) -> tuple[list[str], int, set[Deviation]]:
    """Put every request: what differs without a reason, how many answers are alike, and which deviations were seen."""
    findings: list[str] = []
    seen: set[Deviation] = set()
    alike = 0

    async def run() -> None:
        nonlocal alike
        for exchange in stage.recorded:
            reply = await stage.put(exchange)
            if exchange.answer is None or (exchange.file, exchange.number) in not_reproducible:
                continue
            found = difference(exchange.answer, reply)
            deviation = next((one for one in deviations if one.covers(exchange, reply)), None)
            if found is None:
                alike += 1
            elif deviation is None:
                findings.append(f"{exchange}: {found}")
            else:
                seen.add(deviation)

    try:
        trio.run(run)
    finally:
        stage.store.close()
    return findings, alike, seen
