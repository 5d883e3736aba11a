"""How far a group has come: kept on the brokers, or in a file for broadcasting (RocketMQ's OffsetStore)."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread

from fastmq.client.errors import BrokerError, ClientError, RequestTimeout
from fastmq.client.session import Session, command
from fastmq.errors import ProtocolError
from fastmq.protocol.bodies import dumps
from fastmq.protocol.bodies._read import as_int, read_object
from fastmq.protocol.bodies.config import MessageQueue, queue_map
from fastmq.protocol.codes import RequestCode, ResponseCode

log = logging.getLogger("fastmq.client")

PERSIST_SECONDS = 5.0  # for one round of stored offsets


class Offsets(Protocol):
    """Where the offsets of a group are kept. Queues have their names on the wire."""

    async def load(self, queue: MessageQueue) -> int | None:
        """The stored offset, None if there is none. Raises ClientError if it cannot be known now."""

    def update(self, queue: MessageQueue, offset: int) -> None:
        """Remember an offset; `persist` stores it."""

    def known(self, queue: MessageQueue) -> int | None:
        """The offset as last updated."""

    async def persist(self, queues: Collection[MessageQueue] | None = None) -> ClientError | None:
        """Store them. What cannot be stored now will be later: why it cannot is given back, not raised."""

    def forget(self, queue: MessageQueue) -> None:
        """The queue belongs to somebody else now."""


class RemoteOffsets:
    """Offsets on the brokers (RemoteBrokerOffsetStore)."""

    def __init__(self, session: Session, group: str) -> None:
        self._session = session
        self._group = group
        self._offsets: dict[MessageQueue, int] = {}
        self._one_at_a_time = anyio.Lock()

    def known(self, queue: MessageQueue) -> int | None:
        return self._offsets.get(queue)

    def update(self, queue: MessageQueue, offset: int) -> None:
        self._offsets[queue] = offset

    def forget(self, queue: MessageQueue) -> None:
        self._offsets.pop(queue, None)

    def _fields(self, queue: MessageQueue) -> dict[str, str]:
        return {
            "consumerGroup": self._group,
            "topic": queue.topic,
            "queueId": str(queue.queue_id),
            "bname": queue.broker_name,
        }

    async def load(self, queue: MessageQueue) -> int | None:
        request = command(RequestCode.QUERY_CONSUMER_OFFSET, self._fields(queue))
        try:
            reply = await self._session.call_broker(queue.broker_name, request, any_other=True)
            offset = int(reply.ext["offset"])
        except BrokerError as error:
            if error.code == ResponseCode.QUERY_NOT_FOUND:
                return None
            raise
        except (KeyError, ValueError) as error:
            raise BrokerError(ResponseCode.SYSTEM_ERROR, f"no offset in the answer: {error!r}") from None
        # not remembered: what is remembered is stored again and again, and the queue may be somebody else's
        return offset

    async def persist(self, queues: Collection[MessageQueue] | None = None) -> ClientError | None:
        # brokers serve requests side by side: an older offset that is still under way could win over a newer one. So
        # one call ends before the next begins, also when whoever made it is cancelled
        async with self._one_at_a_time:
            with anyio.move_on_after(PERSIST_SECONDS, shield=True):
                return await self._persist(queues)
        return RequestTimeout(f"the offsets of {self._group} were not stored within {PERSIST_SECONDS:g} s")

    async def _persist(self, queues: Collection[MessageQueue] | None) -> ClientError | None:
        # also what has not changed: a broker that crashed may have lost the last seconds of what it was told
        tables: dict[tuple[str, str], list[tuple[MessageQueue, int]]] = {}
        for queue, offset in self._offsets.items():
            if queues is None or queue in queues:
                tables.setdefault((queue.topic, queue.broker_name), []).append((queue, offset))
        failure: ClientError | None = None

        async def store(item: tuple[MessageQueue, int]) -> None:
            nonlocal failure
            queue, offset = item
            fields = {**self._fields(queue), "commitOffset": str(offset)}
            request = command(RequestCode.UPDATE_CONSUMER_OFFSET, fields)
            try:
                await self._session.call_broker(queue.broker_name, request, timeout=PERSIST_SECONDS, any_other=True)
            except ClientError as error:
                failure = error
                log.info("the offset %d of %s is not stored yet: %s", offset, queue, error)

        # Apache makes a table for a group's offsets of a topic with the first of them. When two first ones come at the
        # same time, one table replaces the other and an offset is lost. So one of each topic and broker goes ahead; a
        # broker that does not answer holds up its own
        async def store_table(items: list[tuple[MessageQueue, int]]) -> None:
            await store(items[0])
            await self._session.each([(store, item) for item in items[1:]])

        await self._session.each([(store_table, items) for items in tables.values()])
        return failure


class LocalOffsets:
    """Offsets in a file of this machine (LocalFileOffsetStore): broadcasting. The format is that of RocketMQ."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets: dict[MessageQueue, int] = {}
        self._dirty = False
        self._loaded = False
        self._one_at_a_time = anyio.Lock()

    def known(self, queue: MessageQueue) -> int | None:
        return self._offsets.get(queue)

    def update(self, queue: MessageQueue, offset: int) -> None:
        if self._offsets.get(queue) != offset:
            self._offsets[queue] = offset
            self._dirty = True

    def forget(self, queue: MessageQueue) -> None:
        """Nobody else takes it: the offset stays."""

    async def load(self, queue: MessageQueue) -> int | None:
        if not self._loaded:
            stored = await anyio.to_thread.run_sync(self._read)
            self._offsets = {**stored, **self._offsets}
            self._loaded = True
        return self._offsets.get(queue)

    def _read(self) -> dict[MessageQueue, int]:
        for path in (self._path, self._path.with_suffix(".json.bak")):
            try:
                table = read_object(path.read_bytes(), "an offset file").get("offsetTable")
                return {queue: as_int(offset) for queue, offset in queue_map(table).items()}
            except FileNotFoundError:
                continue
            except (OSError, ProtocolError) as error:
                log.warning("the offsets in %s cannot be read: %s", path, error)
        return {}

    async def persist(self, queues: Collection[MessageQueue] | None = None) -> ClientError | None:
        async with self._one_at_a_time:
            if not self._dirty:
                return None
            self._dirty = False
            try:
                await anyio.to_thread.run_sync(self._write, dumps({"offsetTable": dict(self._offsets)}))
            except OSError as error:
                self._dirty = True
                failure = ClientError(f"the offsets cannot be written to {self._path}: {error}")
                log.warning("%s", failure)
                return failure
            return None

    def _write(self, text: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".json.tmp")
        with fresh.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path, self._path.with_suffix(".json.bak"))
        os.replace(fresh, self._path)
