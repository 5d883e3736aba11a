"""Name servers that a web server names: `http://host:port/path` answers `a:9876;b:9876` (RocketMQ's TopAddressing).

The Java client's default, made of its property `rocketmq.namesrv.domain`, is `http://<domain>:8080/rocketmq/nsaddr`.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import Final
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.abc

from fastmq.client.errors import ConnectError, RouteError
from fastmq.client.transport import open_stream, parse_address
from fastmq.errors import UsageError
from fastmq.limits import KIB

MAX_ANSWER_BYTES: Final = 64 * KIB
SECONDS: Final = 5.0  # for one question
_PORTS: Final = {"http": 80, "https": 443}


def is_url(text: str) -> bool:
    """Whether a name server's address is an address to ask instead. `http://host:port` alone is a name server itself:
    so some hosting providers write them.
    """
    url = urlsplit(text)
    return url.scheme in _PORTS and bool(url.path)


def check_url(text: str) -> str:
    """The address as it is. Raises UsageError if it is none."""
    url = urlsplit(text)
    try:
        usable = bool(url.hostname) and (url.port or 1) > 0 and text.isascii() and text.isprintable()
    except ValueError:
        usable = False
    if not usable or " " in text or url.username is not None:
        raise UsageError(f"an address that names name servers has the form http://host:port/path, not {text!r}")
    return text


async def look_up(text: str, tls: ssl.SSLContext | None = None, timeout: float = SECONDS) -> list[str]:
    """The name servers that a web server names. Raises RouteError if it cannot be asked or names none."""
    url = urlsplit(text)
    try:
        with anyio.fail_after(timeout):
            answer = await _get(url, tls, timeout)
    except TimeoutError:
        raise RouteError(f"{text} did not answer within {timeout:g} s") from None
    except ConnectError as error:
        raise RouteError(f"{text} names no name servers: {error}") from error
    try:
        return read_answer(answer)
    except ValueError as error:
        raise RouteError(f"{text} names no name servers: {error}") from None


async def _get(url: SplitResult, tls: ssl.SSLContext | None, timeout: float) -> bytes:
    """All bytes of the answer, or a few more than there may be."""
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    context = (tls or ssl.create_default_context()) if url.scheme == "https" else None
    stream = await open_stream(f"{host}:{url.port or _PORTS[url.scheme]}", context, timeout)
    try:
        target = url.path + (f"?{url.query}" if url.query else "")
        # 1.0: the answer comes in one piece and ends with the connection
        request = f"GET {target} HTTP/1.0\r\nHost: {url.netloc}\r\nUser-Agent: fastmq\r\nConnection: close\r\n\r\n"
        answer = bytearray()
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            await stream.send(request.encode("ascii"))
            while len(answer) <= MAX_ANSWER_BYTES:
                answer += await stream.receive()
        return bytes(answer)
    finally:
        await anyio.aclose_forcefully(stream)


def read_answer(answer: bytes) -> list[str]:
    """The addresses in an answer. Raises ValueError that says what is wrong with it."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if len(answer) > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    status, *lines = head.decode("latin-1").split("\r\n")
    words = status.split(None, 2)
    if not separator or len(words) < 2 or not words[0].startswith("HTTP/"):
        raise ValueError(f"it does not speak HTTP, it said {answer[:60]!r}")
    if words[1] != "200":
        raise ValueError(f"it answered {' '.join(words[1:])}")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if fields.get("transfer-encoding", "identity") != "identity":
        raise ValueError("the answer is cut into chunks, which HTTP/1.0 does not have")
    length = fields.get("content-length", "")
    if length.isdigit():
        if len(body) < int(length):
            raise ValueError(f"the answer broke off after {len(body)} of {length} bytes")
        body = body[: int(length)]
    text = body.decode("utf-8", "replace").strip()
    addresses = [one.strip() for one in text.split(";") if one.strip()]
    try:
        for address in addresses:
            parse_address(address)
    except UsageError as error:
        raise ValueError(str(error)) from None
    if not addresses:
        raise ValueError("the answer is empty")
    return list(dict.fromkeys(addresses))
