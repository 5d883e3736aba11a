"""One remoting request over a plain socket, without the project's own codec (tests judge that codec)."""

from __future__ import annotations

import json
import re
import select
import socket
import struct
from collections.abc import Mapping
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
    ext: Mapping[str, Any] | None = None,
    body: bytes = b"",
    host: str = "127.0.0.1",
    seconds: float = 30,
) -> Answer:
    """Opens a connection, makes one request with a JSON header, returns the answer. OSError when there is none."""
    with Connection(port, host, seconds) as connection:
        return connection.call(code, ext, body)


class Connection:
    """A connection on which several requests may be under way. OSError when it is gone or an answer is late."""

    def __init__(self, port: int, host: str = "127.0.0.1", seconds: float = 30) -> None:
        self.socket = socket.create_connection((host, port), timeout=seconds)
        self._seconds = seconds
        self._opaque = 0
        self._answers: dict[int, Answer] = {}
        self._requests: list[Answer] = []

    def start(self, code: int, ext: Mapping[str, Any] | None = None, body: bytes = b"") -> int:
        """Send a request; the number by which its answer is taken."""
        self._opaque += 1
        header: dict[str, Any] = {
            "code": code,
            "extFields": {key: _text(value) for key, value in (ext or {}).items()},
            "flag": 0,
            "language": "JAVA",
            "opaque": self._opaque,
            "serializeTypeCurrentRPC": "JSON",
            "version": 479,
        }
        text = json.dumps(header, separators=(",", ":")).encode()
        self.socket.sendall(struct.pack(">II", 4 + len(text) + len(body), len(text)) + text + body)
        return self._opaque

    def take(self, number: int, seconds: float | None = None) -> Answer:
        """The answer to a request, whatever else is answered before. TimeoutError if it does not come in time."""
        self.socket.settimeout(self._seconds if seconds is None else seconds)
        while number not in self._answers:
            self._read()
        return self._answers.pop(number)

    def take_requests(self, seconds: float = 0.0) -> list[Answer]:
        """What the server has asked for since the last time, waiting so long for a first one."""
        while select.select([self.socket], [], [], 0 if self._requests else seconds)[0]:
            self._read()
        requests, self._requests = self._requests, []
        return requests

    def _read(self) -> None:
        """One frame, an answer or a request of the server."""
        (total,) = struct.unpack(">I", _exactly(self.socket, 4))
        frame = _exactly(self.socket, total)
        (length,) = struct.unpack(">I", frame[:4])
        length &= 0xFFFFFF
        header = json.loads(frame[4 : 4 + length])
        found = Answer(header["code"], header.get("remark"), header.get("extFields") or {}, frame[4 + length :])
        if header["flag"] & 1:
            self._answers[header["opaque"]] = found
        else:
            self._requests.append(found)

    def has_answer(self, number: int, seconds: float) -> bool:
        """Whether a request is answered within some time; the answer can still be taken."""
        try:
            self._answers[number] = self.take(number, seconds)
        except TimeoutError:
            return False
        return True

    def call(self, code: int, ext: Mapping[str, Any] | None = None, body: bytes = b"") -> Answer:
        """A request and its answer."""
        return self.take(self.start(code, ext, body))

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def has_route(namesrv_port: int, topic: str) -> bool:
    """Whether the name server answers with a route of the topic."""
    answer = call(namesrv_port, GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
    return answer.code == 0 and b"brokerDatas" in answer.body


def brokers_of(namesrv_port: int, topic: str) -> set[str]:
    """The names of the brokers in the name server's route of a topic, empty when there is none."""
    answer = call(namesrv_port, GET_ROUTEINFO_BY_TOPIC, {"topic": topic})
    return {name.decode() for name in re.findall(rb'"brokerName":"([^"]+)"', answer.body)}
