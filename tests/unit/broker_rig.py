"""A broker over a real store in a temporary folder, on a clock the test owns, and peers that record what they get."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import trio

from fastmq._store import Store
from fastmq.broker.app import Broker
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig
from fastmq.net.server import Reply
from fastmq.protocol.bodies import dumps
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import StoredMessage, decode_message

SEGMENT_BYTES = 4 << 20


class FakePeer:
    """A connection without a socket: `sent` are requests to the client, `replies` are (opaque, reply)."""

    def __init__(self, number: int = 1, *, host: str = "127.0.0.1", port: int = 50_000) -> None:
        self.id = number
        self.service = 0
        self.host = host
        self.port = port + number
        self.alive = True
        self.sent: list[Command] = []
        self.replies: list[tuple[int, Reply]] = []
        self.answer: Callable[[Command], Command] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        return self.host.startswith("127.")

    def send(self, command: Command) -> bool:
        if self.alive:
            self.sent.append(command)
        return self.alive

    async def call(self, command: Command, timeout_s: float) -> Command:
        self.sent.append(command)
        if self.answer is None:
            raise TimeoutError("no answer")
        return self.answer(command)

    def reply(self, request: Command, reply: Reply) -> None:
        if not request.is_oneway and self.alive:
            self.replies.append((request.opaque, reply))

    def close(self) -> None:
        self.alive = False


class Rig:
    """The broker and what a test needs around it. `at_ms`: the wall time at its start."""

    SIZES: ClassVar[dict[str, int]] = {
        "segment_bytes": SEGMENT_BYTES,
        "queue_file_bytes": 2000,
        "index_slots": 100,
        "index_entries": 400,
    }

    def __init__(self, folder: Path, *, at_ms: int | None = None, **settings: Any) -> None:
        self.folder = folder
        self.clock = ManualClock() if at_ms is None else ManualClock(at_ms)
        settings.setdefault("store_path_root_dir", str(folder / "store"))
        self.config = dataclasses.replace(BrokerConfig(), **settings)
        self.peer = FakePeer()
        self.opaque = 0
        self.crashes = 0
        self.open()

    def open(self) -> None:
        """Open store and broker, as a start does."""
        config = self.config
        self.store = Store(
            config.store_path_root_dir,
            store_host=(config.broker_ip1, config.listen_port),
            **self.SIZES,
            sync_flush=config.sync_flush,
            allocate_step_bytes=1 << 20,
            max_message_bytes=config.max_message_size,
            delay_levels_ms=config.delay_levels_ms,
            ext_enabled=config.enable_consume_queue_ext,
            ext_file_bytes=config.mapped_file_size_consume_queue_ext,
            light_queues=config.light_queues,
            max_light_queues=config.max_lmq_consume_queue_num,
            wall_clock_ms=self.clock.wall_ms,
        )
        self.broker = Broker(config, self.store, self.clock, random=random.Random(7), memory_bytes=1 << 30)

    def close(self) -> None:
        self.store.close()

    def reopen(self) -> None:
        """Stop and start again."""
        self.close()
        self.open()

    def crash(self) -> None:
        """Go on with the files as a killed process would leave them: what was written is there, nothing else."""
        before = Path(self.config.store_path_root_dir)
        self.crashes += 1
        after = self.folder / f"after-crash-{self.crashes}"
        shutil.copytree(before, after, ignore=shutil.ignore_patterns("lock"))
        self.close()
        shutil.rmtree(before)
        self.config = dataclasses.replace(
            self.config, store_path_root_dir=str(after), store_path_commit_log=str(after / "commitlog")
        )
        self.open()

    def stop(self) -> None:
        """An orderly stop and a start."""
        trio.run(self.broker.finish)
        self.reopen()

    def change(self, **settings: Any) -> None:
        """Replace settings of the running broker."""
        old, self.broker.config = self.broker.config, dataclasses.replace(self.broker.config, **settings)
        self.broker.config_changed(old)

    def request(self, code: int, ext: dict[str, Any] | None = None, body: Any = b"", **facts: Any) -> Command:
        self.opaque += 1
        fields = {key: _text(value) for key, value in (ext or {}).items()}
        payload = body if isinstance(body, bytes) else dumps(body)
        return Command(code, opaque=self.opaque, ext=fields, body=payload, **facts)

    def ask(
        self,
        code: int,
        ext: dict[str, Any] | None = None,
        body: Any = b"",
        *,
        peer: FakePeer | None = None,
        **facts: Any,
    ) -> Any:
        """What a handler gives back; a RequestError as the reply that the server would make of it."""
        from fastmq.errors import RequestError

        try:
            return self.broker.handle(peer or self.peer, self.request(code, ext, body, **facts))  # type: ignore[arg-type]
        except RequestError as error:
            return Reply(error.code, error.remark)

    def send(
        self, topic: str = "topic-a", body: bytes = b"hello", *, queue: int = 0, properties: str = "", **more: Any
    ) -> Any:
        """A SEND_MESSAGE_V2 and its answer."""
        peer = more.pop("peer", None)
        version = more.pop("version", 479)
        code = more.pop("code", RequestCode.SEND_MESSAGE_V2)
        ext = {
            "a": "pg",
            "b": topic,
            "c": "TBW102",
            "d": 4,
            "e": queue,
            "f": 0,
            "g": 1234,
            "h": 0,
            "i": properties,
            **more,
        }
        return self.ask(code, ext, body, peer=peer, version=version)

    def pull(self, topic: str = "topic-a", *, queue: int = 0, offset: int = 0, group: str = "cg", **more: Any) -> Any:
        """A PULL_MESSAGE (with its own filter unless `sys_flag` says otherwise) and its answer."""
        peer = more.pop("peer", None)
        code = more.pop("code", RequestCode.PULL_MESSAGE)
        ext = {
            "consumerGroup": group, "topic": topic, "queueId": queue, "queueOffset": offset, "maxMsgNums": 32,
            "sysFlag": 4, "commitOffset": 0, "suspendTimeoutMillis": 15_000, "subVersion": 0, "subscription": "*",
            **more,
        }  # fmt: skip
        return self.ask(code, ext, peer=peer)

    def heartbeat(self, client_id: str = "client-1", *, peer: FakePeer | None = None, **more: Any) -> Any:
        """A HEART_BEAT with one consumer group (see `consumer`) or producer groups, and its answer."""
        body = {"clientID": client_id, "heartbeatFingerprint": 0, "withoutSub": False, **more}
        return self.ask(RequestCode.HEART_BEAT, {}, body, peer=peer)

    def stored(self, topic: str, queue: int = 0, offset: int = 0) -> StoredMessage:
        """The message at an offset of a queue."""
        (entry,) = self.store.queue_entries(topic, queue, offset, 1)
        record = self.store.read_record(entry[0])
        assert record is not None
        return decode_message(record)[0]

    def count(self, topic: str, queue: int = 0) -> int:
        """How many messages the queue ever got."""
        bounds = self.store.queue_offsets(topic, queue)
        return 0 if bounds is None else bounds[1]

    def flush(self) -> None:
        """Make everything durable, and with SYNC_FLUSH visible."""
        self.store.flush_step()

    def wake(self) -> None:
        """What the broker's task does when the store says that queues moved."""
        from fastmq.broker.handlers.pull import wake_pulls

        for topic, queue_id, max_offset in self.store.take_moved():
            wake_pulls(self.broker, topic, queue_id, max_offset)
            self.broker.popwaits.moved(topic, queue_id, max_offset)

    def expire_pulls(self) -> None:
        """What the broker's task does when the deadline of pulls or pops has come."""
        self.broker.answer_due()


def consumer(
    group: str = "cg", topics: dict[str, str] | None = None, *, version: int = 1, **more: Any
) -> dict[str, Any]:
    """A consumer group of a heartbeat: topics with their filters."""
    return {
        "groupName": group,
        "consumeType": "CONSUME_PASSIVELY",
        "messageModel": "CLUSTERING",
        "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
        "unitMode": False,
        "subscriptionDataSet": [
            {"topic": topic, "subString": text, "subVersion": version, "expressionType": "TAG"}
            for topic, text in (topics or {"topic-a": "*"}).items()
        ],
        **more,
    }


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
