"""One remoting request over a plain socket, without the project's own codec (tests judge that codec)."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

GET_ROUTEINFO_BY_TOPIC = 105


@dataclass
class Answer:
    code: int
    remark: str | None
    ext: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionError(f"the connection ended after {len(data)} of {count} bytes")
        data += piece
    return data


def call(
    port: int,
    code: int,
    ext: dict[str, str] | None = None,
    body: bytes = b"",
    host: str = "127.0.0.1",
    seconds: float = 5,
) -> Answer:
    """Opens a connection, makes one request with a JSON header, returns the answer. OSError when there is none."""
    header: dict[str, Any] = {
        "code": code,
        "extFields": ext or {},
        "flag": 0,
        "language": "JAVA",
        "opaque": 1,
        "serializeTypeCurrentRPC": "JSON",
        "version": 479,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    with socket.create_connection((host, port), timeout=seconds) as connection:
        connection.sendall(struct.pack(">II", 4 + len(text) + len(body), len(text)) + text + body)
        (total,) = struct.unpack(">I", _exactly(connection, 4))
        frame = _exactly(connection, total)
    (length,) = struct.unpack(">I", frame[:4])
    length &= 0xFFFFFF
    reply = json.loads(frame[4 : 4 + length])
    return Answer(reply["code"], reply.get("remark"), reply.get("extFields") or {}, frame[4 + length :])


def has_route(namesrv_port: int, topic: str) -> bool:
    """Whether the name server answers with a route of the topic."""
    answer = call(namesrv_port, GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
    return answer.code == 0 and b"brokerDatas" in answer.body
