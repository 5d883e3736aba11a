"""fastmq: the RocketMQ you can pip install.

The client's names are here, imported when they are first used: a server that starts needs none of them.

    import fastmq

    async with fastmq.Producer("127.0.0.1:9876") as producer:
        await producer.send("topic", b"hello")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from fastmq.client.acl import Credentials
    from fastmq.client.admin import Admin
    from fastmq.client.basic import BasicClient
    from fastmq.client.compress import Compression, CorruptBody
    from fastmq.client.errors import (
        BrokerError,
        ClientClosed,
        ClientError,
        ConnectError,
        ConnectionLost,
        GroupNotFound,
        MessageRejected,
        MessageTooLarge,
        MissingExtra,
        NotSupported,
        PermissionDenied,
        PipelineFull,
        RequestReplyTimeout,
        RequestTimeout,
        RouteError,
        SendFailed,
        ServerBusy,
        SubscriptionError,
        TopicNotFound,
    )
    from fastmq.client.messages import Message, ReceivedMessage, SendResult, SendStatus
    from fastmq.client.pop import PopConsumer
    from fastmq.client.producer import Producer, Receipt, Transaction, TransactionState
    from fastmq.client.pull import Consumer
    from fastmq.client.push import PushConsumer, RetryLater
    from fastmq.client.session import Session
    from fastmq.client.subscriptions import Filter, StartFrom, sql
    from fastmq.client.window import FlowLimits
    from fastmq.errors import FastmqError, UsageError
    from fastmq.protocol.bodies.config import MessageQueue

_WHERE = {
    "Admin": "fastmq.client.admin",
    "BasicClient": "fastmq.client.basic",
    "BrokerError": "fastmq.client.errors",
    "ClientClosed": "fastmq.client.errors",
    "ClientError": "fastmq.client.errors",
    "Compression": "fastmq.client.compress",
    "ConnectError": "fastmq.client.errors",
    "ConnectionLost": "fastmq.client.errors",
    "Consumer": "fastmq.client.pull",
    "CorruptBody": "fastmq.client.compress",
    "Credentials": "fastmq.client.acl",
    "FastmqError": "fastmq.errors",
    "Filter": "fastmq.client.subscriptions",
    "FlowLimits": "fastmq.client.window",
    "GroupNotFound": "fastmq.client.errors",
    "Message": "fastmq.client.messages",
    "MessageQueue": "fastmq.protocol.bodies.config",
    "MessageRejected": "fastmq.client.errors",
    "MessageTooLarge": "fastmq.client.errors",
    "MissingExtra": "fastmq.client.errors",
    "NotSupported": "fastmq.client.errors",
    "PermissionDenied": "fastmq.client.errors",
    "PipelineFull": "fastmq.client.errors",
    "PopConsumer": "fastmq.client.pop",
    "Producer": "fastmq.client.producer",
    "PushConsumer": "fastmq.client.push",
    "Receipt": "fastmq.client.producer",
    "ReceivedMessage": "fastmq.client.messages",
    "RequestReplyTimeout": "fastmq.client.errors",
    "RequestTimeout": "fastmq.client.errors",
    "RetryLater": "fastmq.client.push",
    "RouteError": "fastmq.client.errors",
    "SendFailed": "fastmq.client.errors",
    "SendResult": "fastmq.client.messages",
    "SendStatus": "fastmq.client.messages",
    "ServerBusy": "fastmq.client.errors",
    "Session": "fastmq.client.session",
    "StartFrom": "fastmq.client.subscriptions",
    "SubscriptionError": "fastmq.client.errors",
    "TopicNotFound": "fastmq.client.errors",
    "Transaction": "fastmq.client.producer",
    "TransactionState": "fastmq.client.producer",
    "UsageError": "fastmq.errors",
    "sql": "fastmq.client.subscriptions",
}

__all__ = [
    "Admin",
    "BasicClient",
    "BrokerError",
    "ClientClosed",
    "ClientError",
    "Compression",
    "ConnectError",
    "ConnectionLost",
    "Consumer",
    "CorruptBody",
    "Credentials",
    "FastmqError",
    "Filter",
    "FlowLimits",
    "GroupNotFound",
    "Message",
    "MessageQueue",
    "MessageRejected",
    "MessageTooLarge",
    "MissingExtra",
    "NotSupported",
    "PermissionDenied",
    "PipelineFull",
    "PopConsumer",
    "Producer",
    "PushConsumer",
    "Receipt",
    "ReceivedMessage",
    "RequestReplyTimeout",
    "RequestTimeout",
    "RetryLater",
    "RouteError",
    "SendFailed",
    "SendResult",
    "SendStatus",
    "ServerBusy",
    "Session",
    "StartFrom",
    "SubscriptionError",
    "TopicNotFound",
    "Transaction",
    "TransactionState",
    "UsageError",
    "sql",
]


def __getattr__(name: str) -> object:
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'fastmq' has no attribute {name!r}")
    value = getattr(importlib.import_module(where), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
