"""The server under load: where a topic's queues are, how far they reach, and connections to them."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastmq.errors import FastmqError, ProtocolError, UsageError
from fastmq.protocol.bodies import loads_lenient
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import Command, decode_frame, encode_frame

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
DEFAULT_TOPIC = "TBW102"
SPARE_DESCRIPTORS = 64
PERM_READ = 4
PERM_WRITE = 2

Address = tuple[str, int]


class LoadError(FastmqError):
    """The server is down, refuses or has no such topic; the text says which."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One message queue and the broker that has it."""

    address: Address
    topic: str
    queue_id: int


def parse_address(text: str) -> Address:
    """`host:port` as a pair."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"an address has the form host:port, not {text!r}")
    return host, int(port)


def parse_addresses(text: str) -> list[Address]:
    """`host:port;host:port` as pairs."""
    return [parse_address(one.strip()) for one in text.split(";") if one.strip()] or [parse_address(text)]


def connect_any(addresses: Sequence[Address]) -> socket.socket:
    """A connection to the first of several name servers that takes one; LoadError that names all if none does."""
    reasons: list[str] = []
    for address in addresses:
        try:
            return connect(address)
        except LoadError as error:
            reasons.append(str(error))
    raise LoadError("; ".join(reasons))


def connect(address: Address) -> socket.socket:
    """A blocking connection, or LoadError with the address in it."""
    try:
        sock = socket.create_connection(address, CONNECT_SECONDS)
    except OSError as error:
        raise LoadError(f"cannot connect to {address[0]}:{address[1]}: {error.strerror or error}") from error
    sock.settimeout(ANSWER_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files to what so many connections need; LoadError if that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    if wanted <= soft or soft == resource.RLIM_INFINITY:
        return
    if hard not in (resource.RLIM_INFINITY,) and wanted > hard:
        raise LoadError(f"{count} connections need {wanted} open files, this process may have {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def call(sock: socket.socket, request: Command) -> Command:
    """One request and its answer on a connection that nothing else uses. LoadError without an answer."""
    host, port = sock.getpeername()[:2]
    try:
        sock.sendall(encode_frame(request))
        data = b""
        while len(data) < 4 or len(data) < int.from_bytes(data[:4], "big") + 4:
            chunk = sock.recv(1 << 16)
            if not chunk:
                raise LoadError(f"{host}:{port} closed the connection after request {request.code}")
            data += chunk
        return decode_frame(data)
    except TimeoutError as error:
        raise LoadError(f"{host}:{port} did not answer request {request.code} in {ANSWER_SECONDS:.0f} s") from error
    except (OSError, ProtocolError) as error:
        raise LoadError(f"{host}:{port} failed at request {request.code}: {error}") from error


def find_queues(
    namesrv: Sequence[Address], topics: Sequence[str], queues: int, *, only_read: bool = False
) -> list[Queue]:
    """Ask a name server for the queues of topics, of all masters, that may be written (or read). A missing topic is
    created with so many queues, unless it is only to be read. LoadError if no queue is left.
    """
    number_of_queues, wanted_perm = ("readQueueNums", PERM_READ) if only_read else ("writeQueueNums", PERM_WRITE)
    found: list[Queue] = []
    with connect_any(namesrv) as sock:
        host, port = sock.getpeername()[:2]
        for topic in topics:
            route = _route(sock, topic)
            if route is None:
                if only_read:
                    raise LoadError(f"topic {topic} has no route at {host}:{port}")
                route = _create(sock, topic, queues)
            masters = {
                data["brokerName"]: parse_address(data["brokerAddrs"]["0"])
                for data in route["brokerDatas"]
                if "0" in data["brokerAddrs"]
            }
            found += [
                Queue(masters[data["brokerName"]], topic, queue_id)
                for data in route["queueDatas"]
                if data["brokerName"] in masters and int(data["perm"]) & wanted_perm
                for queue_id in range(int(data[number_of_queues]))
            ]
    if not found:
        use = "read" if only_read else "written"
        raise LoadError(f"no master broker has a queue of {', '.join(topics)} that may be {use}")
    return found


def assume_queues(broker: Address, topics: Sequence[str], queues: int) -> list[Queue]:
    """The queues of topics at a broker that is given, without a name server: the broker is not asked."""
    return [Queue(broker, topic, queue_id) for topic in topics for queue_id in range(queues)]


def _route(sock: socket.socket, topic: str) -> dict[str, Any] | None:
    answer = call(sock, Command(RequestCode.GET_ROUTEINFO_BY_TOPIC, ext={"topic": topic}))
    if answer.code == ResponseCode.TOPIC_NOT_EXIST:
        return None
    if answer.code != ResponseCode.SUCCESS:
        raise LoadError(f"the name server does not tell the route of {topic}: {code_name(answer.code)} {answer.remark}")
    route: dict[str, Any] = dict(loads_lenient(answer.body))
    return route


def _create(sock: socket.socket, topic: str, queues: int) -> dict[str, Any]:
    default = _route(sock, DEFAULT_TOPIC)
    if default is None:
        raise LoadError(f"topic {topic} has no route, and no broker offers {DEFAULT_TOPIC} to create it from")
    ext = {
        "topic": topic, "defaultTopic": DEFAULT_TOPIC, "readQueueNums": str(queues), "writeQueueNums": str(queues),
        "perm": "6", "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
    }  # fmt: skip
    for data in default["brokerDatas"]:
        if "0" not in data["brokerAddrs"]:
            continue
        with connect(parse_address(data["brokerAddrs"]["0"])) as broker:
            answer = call(broker, Command(RequestCode.UPDATE_AND_CREATE_TOPIC, ext=ext))
            if answer.code != ResponseCode.SUCCESS:
                raise LoadError(f"topic {topic} cannot be created: {code_name(answer.code)} {answer.remark}")
    deadline = time.monotonic() + CONNECT_SECONDS
    while (route := _route(sock, topic)) is None:
        if time.monotonic() > deadline:
            raise LoadError(f"topic {topic} was created and has no route after {CONNECT_SECONDS:.0f} s")
        time.sleep(0.02)
    return route


def offsets(queues: Sequence[Queue], code: RequestCode) -> list[int]:
    """The first (GET_MIN_OFFSET) or the next (GET_MAX_OFFSET) queue offset of each queue."""
    sockets: dict[Address, socket.socket] = {}
    found: list[int] = []
    try:
        for queue in queues:
            if queue.address not in sockets:
                sockets[queue.address] = connect(queue.address)
            ext = {"topic": queue.topic, "queueId": str(queue.queue_id)}
            answer = call(sockets[queue.address], Command(code, ext=ext))
            if answer.code == ResponseCode.TOPIC_NOT_EXIST:
                found.append(0)
                continue
            if answer.code != ResponseCode.SUCCESS or "offset" not in answer.ext:
                raise LoadError(
                    f"queue {queue.queue_id} of {queue.topic}: the broker does not tell its offsets: "
                    f"{code_name(answer.code)} {answer.remark or ''}".rstrip()
                )
            found.append(max(0, int(answer.ext["offset"])))
    finally:
        for sock in sockets.values():
            sock.close()
    return found


def code_name(code: int) -> str:
    """A response code as `16 NO_PERMISSION`."""
    try:
        return f"{code} {ResponseCode(code).name}"
    except ValueError:
        return str(code)
