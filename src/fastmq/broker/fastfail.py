"""Refusing requests that have waited too long, after RocketMQ's BrokerFastFailure.

An answer that comes when nobody waits for it any more is work for nothing, and makes everybody behind it later still.
So when requests keep coming faster than they can be served, the late ones are answered with SYSTEM_BUSY and a reason.

RocketMQ refuses whatever is older than its limit. Here one thread serves all cold requests, so a single slow command
makes others late once; refusing those would harm without helping, for they are served in a moment. Therefore a class of
requests is refused only if all of it that was looked at during the last second was late:

    on time  ── a late request ──►  late since t  ── t + 1 s, and it is late ──►  refused, still late
       ▲                                │  ▲                                         │
       └───────── a request on time ────┘  └─────────────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from fastmq.config import BrokerConfig
from fastmq.protocol.codes import RequestCode

STANDING_MS: Final = 1000
"""So long a class of requests must have been late, all of it, before the late ones are refused."""

SEND: Final = "send"
PULL: Final = "pull"
HEARTBEAT: Final = "heartbeat"
TRANSACTION: Final = "transaction"
ACK: Final = "ack"
ADMIN: Final = "admin"

LIMIT_OF: Final[Mapping[str, Callable[[BrokerConfig], int]]] = {
    SEND: lambda config: config.wait_time_mills_in_send_queue,
    PULL: lambda config: config.wait_time_mills_in_pull_queue,
    HEARTBEAT: lambda config: config.wait_time_mills_in_heartbeat_queue,
    TRANSACTION: lambda config: config.wait_time_mills_in_transaction_queue,
    ACK: lambda config: config.wait_time_mills_in_ack_queue,
    ADMIN: lambda config: config.wait_time_mills_in_admin_broker_queue,
}
"""By class: after how many ms a request is late."""

CLASS_OF: Final[Mapping[int, str]] = {
    RequestCode.SEND_MESSAGE: SEND,
    RequestCode.SEND_MESSAGE_V2: SEND,
    RequestCode.SEND_BATCH_MESSAGE: SEND,
    RequestCode.CONSUMER_SEND_MSG_BACK: SEND,
    RequestCode.RECALL_MESSAGE: SEND,
    RequestCode.PULL_MESSAGE: PULL,
    RequestCode.LITE_PULL_MESSAGE: PULL,
    RequestCode.PEEK_MESSAGE: PULL,
    RequestCode.POP_MESSAGE: PULL,
    RequestCode.NOTIFICATION: PULL,
    RequestCode.POLLING_INFO: PULL,
    RequestCode.ACK_MESSAGE: ACK,
    RequestCode.BATCH_ACK_MESSAGE: ACK,
    RequestCode.CHANGE_MESSAGE_INVISIBLETIME: ACK,
    RequestCode.HEART_BEAT: HEARTBEAT,
    RequestCode.END_TRANSACTION: TRANSACTION,
}
"""By request code; all others are of class ADMIN."""

NEVER: Final[frozenset[int]] = frozenset(
    {
        RequestCode.SEND_REPLY_MESSAGE,
        RequestCode.SEND_REPLY_MESSAGE_V2,
        RequestCode.QUERY_MESSAGE,
        RequestCode.VIEW_MESSAGE_BY_ID,
        RequestCode.UNREGISTER_CLIENT,
        RequestCode.CHECK_CLIENT_CONFIG,
        RequestCode.GET_CONSUMER_LIST_BY_GROUP,
        RequestCode.UPDATE_CONSUMER_OFFSET,
        RequestCode.QUERY_CONSUMER_OFFSET,
        RequestCode.QUERY_ASSIGNMENT,
        RequestCode.SET_MESSAGE_REQUEST_MODE,
    }
)
"""Requests of those thread pools of RocketMQ that nobody clears out."""


class FastFailure:
    """Which requests have waited too long. Times are monotonic ms."""

    def __init__(self, config: Callable[[], BrokerConfig]) -> None:
        self._config = config
        self._late_since: dict[str, int] = {}

    def judge(self, code: int, waited_ms: int, now_ms: int, behind: int) -> str | None:
        """The remark that refuses a request which came `waited_ms` ago and has so many behind it, None to serve it."""
        config = self._config()
        if not config.broker_fast_failure_enable or code in NEVER:
            return None
        kind = CLASS_OF.get(code, ADMIN)
        if waited_ms < LIMIT_OF[kind](config):
            self._late_since.pop(kind, None)
            return None
        since = self._late_since.setdefault(kind, now_ms)
        if now_ms - since < STANDING_MS:
            return None
        return (
            f"[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: {waited_ms}ms, "
            f"size of queue: {behind}"
        )
