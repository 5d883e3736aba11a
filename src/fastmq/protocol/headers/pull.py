"""Headers of pulling: codes 11 and 361 (remoting 3.2)."""

from __future__ import annotations

from typing import Final

from fastmq.protocol.fields import Header, Int32, header, wire

PULL_COMMIT_OFFSET: Final = 1
PULL_SUSPEND: Final = 2
PULL_SUBSCRIPTION: Final = 4
PULL_CLASS_FILTER: Final = 8
PULL_LITE: Final = 16


@header
class PullMessageRequest(Header):
    """PullMessageRequestHeader; `sys_flag` has the PULL_… bits (RocketMQ's PullSysFlag)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    queue_offset: int
    max_msg_nums: Int32
    sys_flag: Int32
    commit_offset: int
    suspend_timeout_millis: int
    sub_version: int
    subscription: str | None = None
    expression_type: str | None = None
    max_msg_bytes: Int32 | None = None
    request_source: Int32 | None = None
    proxy_forward_client_id: str | None = wire("proxyFrowardClientId", default=None)
    broker_name: str | None = wire("bname", default=None)

    @property
    def commits_offset(self) -> bool:
        """Whether `commit_offset` is to be stored."""
        return self.sys_flag & PULL_COMMIT_OFFSET != 0

    @property
    def may_suspend(self) -> bool:
        """Whether the broker may hold the request until a message arrives."""
        return self.sys_flag & PULL_SUSPEND != 0

    @property
    def has_subscription(self) -> bool:
        """Whether the request brings its own filter."""
        return self.sys_flag & PULL_SUBSCRIPTION != 0

    @property
    def has_class_filter(self) -> bool:
        """Whether an old filter server is meant."""
        return self.sys_flag & PULL_CLASS_FILTER != 0


@header
class PullMessageResponse(Header):
    """PullMessageResponseHeader; the four numbers are there in every answer that a consumer can go on from."""

    suggest_which_broker_id: int | None = None
    next_begin_offset: int | None = None
    min_offset: int | None = None
    max_offset: int | None = None
    offset_delta: int | None = None
    topic_sys_flag: Int32 | None = None
    group_sys_flag: Int32 | None = None
    forbidden_type: Int32 | None = None
