"""Requests whose reply is a message: who waits for which one (RocketMQ's RequestFutureHolder)."""

from __future__ import annotations

import socket

import anyio

from fastmq.client.messages import ReceivedMessage
from fastmq.errors import RequestError
from fastmq.protocol.codes import ResponseCode
from fastmq.protocol.command import Command
from fastmq.protocol.headers import ReplyMessageRequest
from fastmq.protocol.message import PROPERTY_CORRELATION_ID, StoredMessage, decode_properties


class ReplyWaiter:
    """The reply to one request."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._message: ReceivedMessage | None = None

    def set(self, message: ReceivedMessage) -> None:
        """The reply is there."""
        self._message = message
        self._event.set()

    async def wait(self) -> ReceivedMessage:
        """The reply, whenever it comes."""
        await self._event.wait()
        assert self._message is not None
        return self._message


class Replies:
    """The requests of a session that wait for a reply, by correlation id."""

    def __init__(self) -> None:
        self._waiting: dict[str, ReplyWaiter] = {}

    def expect(self, correlation_id: str) -> ReplyWaiter:
        """A request is about to be sent."""
        waiter = self._waiting[correlation_id] = ReplyWaiter()
        return waiter

    def forget(self, correlation_id: str) -> None:
        """Nobody waits any more."""
        self._waiting.pop(correlation_id, None)

    def take(self, request: Command) -> Command:
        """A broker brings a reply (326). Answers 0, or 1 if nobody waits for it."""
        try:
            header = ReplyMessageRequest.decode(request.ext)
        except RequestError as error:
            return request.reply(error.code, error.remark)
        properties = (header.properties or "").encode()
        waiter = self._waiting.pop(decode_properties(properties).get(PROPERTY_CORRELATION_ID, ""), None)
        if waiter is None:
            return request.reply(ResponseCode.SYSTEM_ERROR, "nobody waits for this reply")
        waiter.set(
            ReceivedMessage.from_stored(
                StoredMessage(
                    topic=header.topic,
                    body=request.body,
                    properties=properties,
                    queue_id=header.queue_id,
                    flag=header.flag,
                    sys_flag=header.sys_flag,
                    born_timestamp=header.born_timestamp,
                    born_host=_host(header.born_host),
                    store_timestamp=header.store_timestamp,
                    store_host=_host(header.store_host),
                    reconsume_times=header.reconsume_times or 0,
                )
            )
        )
        return request.reply()


def _host(text: str) -> tuple[str, int]:
    host, _, port = text.lstrip("/").rpartition(":")
    host = host.strip("[]")
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return host, int(port) if port.isdigit() else 0
    return "0.0.0.0", 0  # noqa: S104  (what is not known, not what is bound)
