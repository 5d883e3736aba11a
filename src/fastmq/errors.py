"""The exception tree. Three audiences, three roots: the peer, the caller, ourselves."""

from __future__ import annotations


class FastmqError(Exception):
    """Everything fastmq raises on purpose."""


class ProtocolError(FastmqError):
    """The peer broke the wire protocol. The connection it came from cannot be used any further."""


class RequestError(FastmqError):
    """A request is refused: `code` is the RocketMQ response code, the text becomes the remark."""

    def __init__(self, code: int, remark: str) -> None:
        super().__init__(remark)
        self.code = code
        self.remark = remark


class UsageError(FastmqError):
    """The caller misused an API or gave an invalid configuration."""


class StoreError(FastmqError):
    """The store directory cannot be used: names the file, the offset and what was found."""


class StoreLockedError(StoreError):
    """Another process has the store directory open."""


class InternalError(FastmqError):
    """A bug in fastmq."""
