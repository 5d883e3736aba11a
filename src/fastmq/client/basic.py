"""The smallest useful client: blocking, one thread, plain sends and pulls, no dependencies.

It is made for trying a server out, for scripts and for tests. It does no rebalancing and keeps no connection alive in
the background: each call talks to the name server and the brokers it needs.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from fastmq.errors import FastmqError, UsageError
from fastmq.protocol.bodies import loads_lenient
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command, decode_frame, encode_frame
from fastmq.protocol.message import StoredMessage, create_unique_key, decode_messages, encode_properties

CONNECT_SECONDS = 3.0
REPLY_SECONDS = 35.0  # longer than any long poll that is asked for here
PULL_BATCH = 32
NEW_TOPIC_QUEUES = 4
SYS_FLAG_SUBSCRIPTION = 4
PULL_CODES = frozenset(
    {
        ResponseCode.SUCCESS,
        ResponseCode.PULL_NOT_FOUND,
        ResponseCode.PULL_RETRY_IMMEDIATELY,
        ResponseCode.PULL_OFFSET_MOVED,
    }
)


class ServerError(FastmqError):
    """The server answered with an error: its response code and remark."""

    def __init__(self, code: int, remark: str) -> None:
        super().__init__(f"code {code}: {remark}")
        self.code = code


@dataclass(frozen=True, slots=True)
class SendResult:
    """Where a message went. `message_id` is the offset message id that `mqadmin queryMsgById` takes."""

    message_id: str
    topic: str
    broker_name: str
    queue_id: int
    queue_offset: int


@dataclass(frozen=True, slots=True)
class _Queue:
    broker_name: str
    address: tuple[str, int]
    queue_id: int


class BasicClient:
    """Sends to and receives from topics through a name server (`host:port`). Not safe for use by several threads.

    Raises ServerError for refusals, OSError for connections that cannot be had or break.
    """

    def __init__(self, namesrv: str) -> None:
        self._namesrv = _address(namesrv)
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._opaque = 0
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def send(
        self,
        topic: str,
        body: bytes,
        *,
        tag: str = "",
        keys: str = "",
        properties: Mapping[str, str] | None = None,
        queue_id: int | None = None,
        group: str = "fastmq-basic",
    ) -> SendResult:
        """Send one message and wait until the broker has stored it. The topic is created if the broker allows it."""
        queues = self._write_queues(topic)
        chosen = queues[self._sent % len(queues)] if queue_id is None else queues[queue_id]
        self._sent += 1
        now_ms = time.time_ns() // 1_000_000
        key = create_unique_key("127.0.0.1", os.getpid(), now_ms, self._sent)
        items = {**(properties or {}), "UNIQ_KEY": key, "WAIT": "true"}
        if tag:
            items["TAGS"] = tag
        if keys:
            items["KEYS"] = keys
        answer = self._call(
            chosen.address,
            Command(
                RequestCode.SEND_MESSAGE_V2,
                ext={
                    "a": group,
                    "b": topic,
                    "c": "TBW102",
                    "d": str(NEW_TOPIC_QUEUES),
                    "e": str(chosen.queue_id),
                    "f": "0",
                    "g": str(now_ms),
                    "h": "0",
                    "i": encode_properties(items).decode(),
                    "j": "0",
                    "k": "false",
                    "m": "false",
                },
                body=body,
            ),
        )
        ext = answer.ext
        return SendResult(ext["msgId"], topic, chosen.broker_name, int(ext["queueId"]), int(ext["queueOffset"]))

    def receive(self, topic: str, *, group: str = "fastmq-basic", wait_s: float = 1.0) -> Iterator[StoredMessage]:
        """All messages of a topic that the group has not taken yet, queue by queue; ends when there are no more.

        A message counts as taken once the iteration has gone past its batch. `wait_s`: how long an empty topic is
        waited for.
        """
        found = False
        deadline = time.monotonic() + wait_s
        while True:
            for queue in self._queues(topic):
                for message in self._drain(topic, group, queue):
                    found = True
                    yield message
            if found or time.monotonic() >= deadline:
                return
            time.sleep(0.02)

    def _drain(self, topic: str, group: str, queue: _Queue) -> Iterator[StoredMessage]:
        at = {"consumerGroup": group, "topic": topic, "queueId": str(queue.queue_id)}
        try:
            answer = self._call(queue.address, Command(RequestCode.QUERY_CONSUMER_OFFSET, ext=at))
            offset = int(answer.ext["offset"])
        except ServerError as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                raise
            offset = 0
        while True:
            pull = {
                **at, "queueOffset": str(offset), "maxMsgNums": str(PULL_BATCH), "sysFlag": str(SYS_FLAG_SUBSCRIPTION),
                "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
            }  # fmt: skip
            answer = self._call(queue.address, Command(RequestCode.PULL_MESSAGE, ext=pull), PULL_CODES)
            if answer.code == ResponseCode.PULL_NOT_FOUND:
                return
            yield from decode_messages(answer.body)
            offset = int(answer.ext["nextBeginOffset"])
            commit = {**at, "commitOffset": str(offset)}
            self._call(queue.address, Command(RequestCode.UPDATE_CONSUMER_OFFSET, ext=commit))

    def _write_queues(self, topic: str) -> list[_Queue]:
        # a topic that is made by the first send gets at most so many queues, see "d" there
        queues = self._queues(topic) or self._queues("TBW102")[:NEW_TOPIC_QUEUES]
        if not queues:
            raise ServerError(ResponseCode.TOPIC_NOT_EXIST, f"topic {topic} has no route")
        return queues

    def _queues(self, topic: str) -> list[_Queue]:
        """The queues of the master brokers of a topic, empty without a route."""
        try:
            answer = self._call(self._namesrv, Command(RequestCode.GET_ROUTEINFO_BY_TOPIC, ext={"topic": topic}))
        except ServerError as error:
            if error.code == ResponseCode.TOPIC_NOT_EXIST:
                return []
            raise
        route: Any = loads_lenient(answer.body)
        masters = {
            data["brokerName"]: _address(data["brokerAddrs"]["0"])
            for data in route["brokerDatas"]
            if "0" in data["brokerAddrs"]
        }
        return [
            _Queue(data["brokerName"], masters[data["brokerName"]], queue_id)
            for data in route["queueDatas"]
            if data["brokerName"] in masters
            for queue_id in range(int(data["writeQueueNums"]))
        ]

    def _call(
        self, address: tuple[str, int], request: Command, accept: frozenset[int] = frozenset({ResponseCode.SUCCESS})
    ) -> Command:
        """One request and its answer; a connection that broke since its last use is opened once more."""
        self._opaque += 1
        request.opaque = self._opaque
        fresh = address not in self._sockets
        try:
            answer = self._exchange(address, request)
        except OSError:
            self._drop(address)
            if fresh:
                raise
            answer = self._exchange(address, request)
        if answer.code not in accept:
            raise ServerError(answer.code, answer.remark or "")
        return answer

    def _exchange(self, address: tuple[str, int], request: Command) -> Command:
        sock = self._sockets.get(address)
        if sock is None:
            sock = self._sockets[address] = socket.create_connection(address, CONNECT_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(REPLY_SECONDS)
        sock.sendall(encode_frame(request))
        while True:
            head = _read(sock, 4)
            answer = decode_frame(head + _read(sock, int.from_bytes(head, "big")))
            if answer.is_response and answer.opaque == request.opaque:
                return answer

    def _drop(self, address: tuple[str, int]) -> None:
        sock = self._sockets.pop(address, None)
        if sock is not None:
            sock.close()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"an address has the form host:port, not {text!r}")
    return host, int(port)


def _read(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        chunk = sock.recv(length - len(data))
        if not chunk:
            raise ConnectionError("the server closed the connection")
        data += chunk
    return bytes(data)
