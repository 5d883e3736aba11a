"""What the client raises: one tree, in which every exception says whether trying again can help.

ClientError
  ConnectError            no connection could be had; nothing was sent
  ConnectionLost          the connection broke while the answer was waited for
  RequestTimeout          no answer in time
  RouteError              there is no broker for it
    TopicNotFound         the name server or broker does not know the topic
  BrokerError             the broker refused: `code`, `remark`, `address`
    PermissionDenied, MessageRejected, ServerBusy, GroupNotFound, SubscriptionError, NotSupported
  SendFailed              all tries of a send failed; `attempts` tells each
  ClientClosed            used after it was closed, or before it was entered
  MessageTooLarge         the message was refused before it was sent
  MissingExtra            an optional package is needed
  RequestReplyTimeout     a request was sent, its reply did not come
  PipelineFull            too many sends are in flight
"""

from __future__ import annotations

from collections.abc import Sequence

from fastmq.errors import FastmqError
from fastmq.protocol.codes import ResponseCode


class ClientError(FastmqError):
    """Everything the client raises on purpose."""

    retryable: bool = False
    """Whether the same call may succeed later or elsewhere."""


class ConnectError(ClientError):
    """No connection could be had. Nothing was sent."""

    retryable = True


class ConnectionLost(ClientError):
    """The connection broke while an answer was waited for. The request may or may not have been carried out."""

    retryable = True


class RequestTimeout(ClientError):
    """No answer came in time. The request may or may not have been carried out."""

    retryable = True


class RouteError(ClientError):
    """There is no broker that could take the request now."""

    retryable = True


class TopicNotFound(RouteError):
    """The topic has no route, and could not be made by sending to it."""

    retryable = False

    def __init__(self, topic: str, remark: str = "") -> None:
        # name servers add a line that points to a page which is no more
        super().__init__(remark.partition("\n")[0] or f"topic {topic} has no route")
        self.topic = topic


_RETRYABLE_CODES = frozenset(
    {
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.SYSTEM_BUSY,
        ResponseCode.SERVICE_NOT_AVAILABLE,
        ResponseCode.NO_PERMISSION,
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
        ResponseCode.FLOW_CONTROL,
        ResponseCode.GO_AWAY,
        ResponseCode.CONSUME_MSG_TIMEOUT,
    }
)
"""What the Java client tries again on another broker (DefaultMQProducerImpl), and what says "later" by its name."""


class BrokerError(ClientError):
    """A server refused a request: `code` as in RocketMQ's ResponseCode, `remark` is its text."""

    def __init__(self, code: int, remark: str = "", address: str = "") -> None:
        super().__init__(f"code {code} from {address}: {remark}" if address else f"code {code}: {remark}")
        self.code = code
        self.remark = remark
        self.address = address
        self.retryable = code in _RETRYABLE_CODES


class PermissionDenied(BrokerError):
    """Credentials or permissions do not allow it."""

    def __init__(self, code: int, remark: str = "", address: str = "") -> None:
        super().__init__(code, remark, address)
        # a broker may be closed for writing for a while, credentials do not become right by trying
        self.retryable = "signature" not in remark and "User:" not in remark and "username" not in remark


class MessageRejected(BrokerError):
    """The broker does not take this message: too large, bad properties, bad deliver time."""


class ServerBusy(BrokerError):
    """The server has too much to do, or is shutting down."""


class GroupNotFound(BrokerError):
    """The consumer group does not exist and is not made by itself."""


class SubscriptionError(BrokerError):
    """The filter cannot be parsed, or the broker does not know the subscription."""


class NotSupported(BrokerError):
    """The server does not know such a request: it is older than what is asked of it, or has it switched off."""


_BY_CODE: dict[int, type[BrokerError]] = {
    ResponseCode.NO_PERMISSION: PermissionDenied,
    ResponseCode.MESSAGE_ILLEGAL: MessageRejected,
    ResponseCode.SYSTEM_BUSY: ServerBusy,
    ResponseCode.SERVICE_NOT_AVAILABLE: ServerBusy,
    ResponseCode.FLOW_CONTROL: ServerBusy,
    ResponseCode.GO_AWAY: ServerBusy,
    ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST: GroupNotFound,
    ResponseCode.SUBSCRIPTION_PARSE_FAILED: SubscriptionError,
    ResponseCode.SUBSCRIPTION_NOT_EXIST: SubscriptionError,
    ResponseCode.SUBSCRIPTION_NOT_LATEST: SubscriptionError,
    ResponseCode.FILTER_DATA_NOT_EXIST: SubscriptionError,
    ResponseCode.FILTER_DATA_NOT_LATEST: SubscriptionError,
    ResponseCode.REQUEST_CODE_NOT_SUPPORTED: NotSupported,
    ResponseCode.VERSION_NOT_SUPPORTED: NotSupported,
}


def broker_error(code: int, remark: str | None, address: str = "") -> BrokerError:
    """The exception for a response code."""
    return _BY_CODE.get(code, BrokerError)(code, remark or "", address)


class SendFailed(ClientError):
    """All tries of a send failed. `attempts`: what each of them raised, the last one is also the cause."""

    def __init__(self, topic: str, attempts: Sequence[ClientError]) -> None:
        tries = "; ".join(dict.fromkeys(str(attempt) for attempt in attempts))
        super().__init__(f"sending to {topic} failed {len(attempts)} times: {tries}")
        self.attempts = tuple(attempts)
        self.retryable = bool(attempts) and attempts[-1].retryable


class ClientClosed(ClientError):
    """It was closed, or is used before it was entered, or in another process than the one that made it."""


class MessageTooLarge(ClientError):
    """The message is larger than `max_message_size`; it was not sent."""


class MissingExtra(ClientError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'fastmq[{extra}]'")


class RequestReplyTimeout(ClientError):
    """The request was sent, its reply did not come in time."""

    retryable = True


class PipelineFull(ClientError):
    """`send_nowait` with too many sends in flight; `send_async` waits instead."""

    retryable = True
