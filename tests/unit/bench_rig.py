"""A small server that speaks the remoting protocol as a test wants it: right, wrong, or not at all."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

# (connection number, request number on it, header) -> frame, b"" for no answer, None to close the connection
Behaviour = Callable[[int, int, dict[str, Any]], bytes | None]


def answer(request: dict[str, Any], code: int = 0, remark: str = "", body: bytes = b"", **ext: str) -> bytes:
    """A well-formed answer in the look of a Java broker."""
    header = {
        "code": code,
        "extFields": ext,
        "flag": 1,
        "language": "JAVA",
        "opaque": request["opaque"],
        **({"remark": remark} if remark else {}),
        "serializeTypeCurrentRPC": "JSON",
        "version": 479,
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack(">ii", 4 + len(text) + len(body), len(text)) + text + body


def record(queue_id: int, queue_offset: int, body: bytes, crc: int) -> bytes:
    """A message as a pull returns it (version 1, IPv4 hosts), with whatever checksum."""
    head = struct.pack(">iIiiqqiq", -626843481, crc, queue_id, 0, queue_offset, queue_offset * 200, 0, 1)
    rest = (
        b"\x7f\0\0\x01" + struct.pack(">iq", 1, 2) + b"\x7f\0\0\x01" + struct.pack(">iiqi", 1, 0, 0, len(body)) + body
    )
    rest += b"\x01T" + b"\0\0"
    return struct.pack(">i", 4 + len(head) + len(rest)) + head + rest


class FakeServer:
    """Accepts connections and follows a behaviour, a thread for each."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._lock = threading.Lock()
        self._threads[0].start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for sock in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in [self._listener, *self._sockets]:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                number = len(self._sockets)
                self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, number))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), sock.makefile("rb") as stream:
            count = 0
            while len(words := stream.read(8)) == 8:
                total, header = struct.unpack(">ii", words)
                content = stream.read(total - 4)
                reply = self._behaviour(number, count, json.loads(content[:header]))
                count += 1
                if reply is None:
                    sock.shutdown(socket.SHUT_RDWR)
                    return
                if reply:
                    sock.sendall(reply)


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[FakeServer]:
    """A server for the length of a block."""
    server = FakeServer(behaviour)
    try:
        yield server
    finally:
        server.close()
