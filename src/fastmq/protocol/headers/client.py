"""Headers of client registration and of what a broker asks its clients (remoting 3.7, 3.9)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class HeartbeatResponse(Header):
    """HeartbeatResponseHeader of 5.x (34)."""

    supports_v2: bool | None = wire("IS_SUPPORT_HEART_BEAT_V2", default=None)
    subscription_changed: bool | None = wire("IS_SUB_CHANGE", default=None)


@header
class UnregisterClientRequest(Header):
    """UnregisterClientRequestHeader (35). An empty group counts as absent: C++ sends the unused one so."""

    client_id: str = wire("clientID")
    producer_group: str | None = None
    consumer_group: str | None = None


@header
class GetConsumerListByGroupRequest(Header):
    """GetConsumerListByGroupRequestHeader (38)."""

    consumer_group: str


@header
class NotifyConsumerIdsChangedRequest(Header):
    """NotifyConsumerIdsChangedRequestHeader (40), broker to client."""

    consumer_group: str


@header
class ResetOffsetRequest(Header):
    """ResetOffsetRequestHeader: code 222 from an admin, 220 to the clients."""

    topic: str
    group: str
    timestamp: int
    is_force: bool = False
    queue_id: Int32 = -1
    offset: int | None = None


@header
class GetConsumerStatusRequest(Header):
    """GetConsumerStatusRequestHeader: code 223 from an admin, 221 to the clients."""

    topic: str
    group: str
    client_addr: str | None = None


@header
class GetConsumerRunningInfoRequest(Header):
    """GetConsumerRunningInfoRequestHeader (307), admin to broker and broker to client."""

    consumer_group: str
    client_id: str
    jstack_enable: bool | None = None


@header
class ConsumeMessageDirectlyRequest(Header):
    """ConsumeMessageDirectlyResultRequestHeader (309), admin to broker and broker to client."""

    consumer_group: str
    client_id: str | None = None
    msg_id: str | None = None
    broker_name: str | None = None
    topic: str | None = None
    topic_sys_flag: Int32 | None = None
    group_sys_flag: Int32 | None = None
