"""Headers of pop consumption: codes 200050 to 200056 (remoting 3.10)."""

from __future__ import annotations

from typing import Final

from fastmq.protocol.fields import Header, Int32, header, wire

INIT_MODE_MIN: Final = 0
INIT_MODE_MAX: Final = 1


@header
class PopMessageRequest(Header):
    """PopMessageRequestHeader (200050). Times in ms; queue id −1 means every queue of the broker."""

    consumer_group: str
    topic: str
    queue_id: Int32
    max_msg_nums: Int32
    invisible_time: int
    poll_time: int
    init_mode: Int32
    born_time: int = 0
    exp_type: str | None = None
    exp: str | None = None
    order: bool = False
    attempt_id: str | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class PopMessageResponse(Header):
    """PopMessageResponseHeader."""

    pop_time: int = 0
    invisible_time: int = 0
    revive_qid: Int32 = 0
    rest_num: int = 0
    start_offset_info: str | None = None
    msg_offset_info: str | None = None
    order_count_info: str | None = None


@header
class AckMessageRequest(Header):
    """AckMessageRequestHeader (200051)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    extra_info: str
    offset: int
    broker_name: str | None = wire("bname", default=None)


@header
class PeekMessageRequest(Header):
    """PeekMessageRequestHeader (200052)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    max_msg_nums: Int32


@header
class ChangeInvisibleTimeRequest(Header):
    """ChangeInvisibleTimeRequestHeader (200053)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    extra_info: str
    offset: int
    invisible_time: int
    broker_name: str | None = wire("bname", default=None)


@header
class ChangeInvisibleTimeResponse(Header):
    """ChangeInvisibleTimeResponseHeader."""

    pop_time: int
    invisible_time: int
    revive_qid: Int32


@header
class NotificationRequest(Header):
    """NotificationRequestHeader (200054)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    poll_time: int
    born_time: int = 0
    order: bool = False
    attempt_id: str | None = None


@header
class NotificationResponse(Header):
    """NotificationResponseHeader."""

    has_msg: bool
    polling_full: bool = False


@header
class PollingInfoRequest(Header):
    """PollingInfoRequestHeader (200055)."""

    consumer_group: str
    topic: str
    queue_id: Int32


@header
class PollingInfoResponse(Header):
    """PollingInfoResponseHeader."""

    polling_num: Int32
