"""Finds the broker of a topic, opens the connections and runs a load."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from fastmq._load import SendLoad
from fastmq.bench.report import Histogram, Result
from fastmq.bench.workload import SendWorkload
from fastmq.errors import FastmqError, UsageError
from fastmq.protocol.bodies import loads_lenient
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, decode_frame, encode_frame

CONNECT_SECONDS = 5.0


class LoadError(FastmqError):
    """The server is down, refuses or has no such topic; the text says which."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the queues of a topic are."""

    broker: tuple[str, int]
    broker_name: str
    queues: int


def parse_address(text: str) -> tuple[str, int]:
    """`host:port` as a pair."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"an address has the form host:port, not {text!r}")
    return host, int(port)


def connect(address: tuple[str, int]) -> socket.socket:
    """A blocking connection, or LoadError with the address in it."""
    try:
        sock = socket.create_connection(address, CONNECT_SECONDS)
    except OSError as error:
        raise LoadError(f"cannot connect to {address[0]}:{address[1]}: {error.strerror or error}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def call(sock: socket.socket, request: Command) -> Command:
    """One request and its answer on a connection that nothing else uses."""
    sock.sendall(encode_frame(request))
    data = b""
    while len(data) < 4 or len(data) < int.from_bytes(data[:4], "big") + 4:
        chunk = sock.recv(1 << 16)
        if not chunk:
            raise LoadError(f"the server closed the connection after request {request.code}")
        data += chunk
    return decode_frame(data)


def find_target(namesrv: tuple[str, int], topic: str, queues: int) -> Target:
    """Ask the name server where a topic is; a topic that is missing is created with so many queues."""
    with connect(namesrv) as sock:
        route = _route(sock, topic)
        if route is None:
            default = _route(sock, "TBW102")
            if default is None:
                raise LoadError(f"topic {topic} has no route, and topics are not created on their own there")
            with connect(parse_address(_master(default))) as broker:
                _create_topic(broker, topic, queues)
            deadline = time.monotonic() + CONNECT_SECONDS
            while (route := _route(sock, topic)) is None:
                if time.monotonic() > deadline:
                    raise LoadError(f"topic {topic} was created and has no route after {CONNECT_SECONDS:.0f} s")
                time.sleep(0.02)
    queue_data = route["queueDatas"][0]
    broker_data = next(b for b in route["brokerDatas"] if b["brokerName"] == queue_data["brokerName"])
    return Target(
        parse_address(broker_data["brokerAddrs"]["0"]), queue_data["brokerName"], int(queue_data["writeQueueNums"])
    )


def _route(sock: socket.socket, topic: str) -> dict[str, Any] | None:
    answer = call(sock, Command(RequestCode.GET_ROUTEINFO_BY_TOPIC, ext={"topic": topic}))
    route: dict[str, Any] | None = None
    if answer.code == 0:
        route = dict(loads_lenient(answer.body))
    return route


def _master(route: dict[str, Any]) -> str:
    return str(route["brokerDatas"][0]["brokerAddrs"]["0"])


def _create_topic(sock: socket.socket, topic: str, queues: int) -> None:
    ext = {
        "topic": topic, "defaultTopic": "TBW102", "readQueueNums": str(queues), "writeQueueNums": str(queues),
        "perm": "6", "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
    }  # fmt: skip
    answer = call(sock, Command(RequestCode.UPDATE_AND_CREATE_TOPIC, ext=ext))
    if answer.code != 0:
        raise LoadError(f"topic {topic} cannot be created: code {answer.code}, {answer.remark}")


def run_send(
    target: Target, *, topic: str, connections: int, depth: int, body_bytes: int, seconds: float, count: int = 0
) -> Result:
    """Closed loop of synchronous sends: `depth` in flight on each connection. `count` 0: as many as the time allows."""
    workload = SendWorkload(topic, target.queues, body_bytes)
    sockets = [connect(target.broker) for _ in range(connections)]
    try:
        for sock in sockets:
            sock.setblocking(False)
        load = SendLoad(
            [sock.fileno() for sock in sockets],
            workload.templates(),
            depth,
            (os.getpid() << 40) ^ (time.time_ns() & 0xFFFFFFFFFF),
        )
        complete = load.run(seconds, count)
    finally:
        for sock in sockets:
            sock.close()
    return Result(
        what=f"send {connections} x {depth}, {body_bytes} B",
        elapsed_s=load.elapsed_ns / 1e9,
        sent=load.sent,
        codes=load.codes(),
        connection_errors=load.connection_errors,
        complete=complete,
        latency=Histogram(load.buckets(), load.max_ns),
    )
