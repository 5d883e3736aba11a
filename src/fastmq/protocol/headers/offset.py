"""Headers of offsets: codes 14, 15, 29 to 32 (remoting 3.4)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class QueryConsumerOffsetRequest(Header):
    """QueryConsumerOffsetRequestHeader (14)."""

    consumer_group: str
    topic: str
    queue_id: Int32
    set_zero_if_not_found: bool | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class OffsetResponse(Header):
    """The answers with one queue offset: codes 14, 29, 30, 31."""

    offset: int


@header
class UpdateConsumerOffsetRequest(Header):
    """UpdateConsumerOffsetRequestHeader (15). Absent numbers are None: the broker answers them with code 29."""

    consumer_group: str
    topic: str
    queue_id: Int32 | None = None
    commit_offset: int | None = None
    broker_name: str | None = wire("bname", default=None)


@header
class SearchOffsetRequest(Header):
    """SearchOffsetRequestHeader (29). `boundary_type`: `UPPER` in any case, anything else is lower."""

    topic: str
    queue_id: Int32
    timestamp: int
    boundary_type: str | None = None
    broker_name: str | None = wire("bname", default=None)

    @property
    def upper(self) -> bool:
        """Whether the last offset at or before the time is wanted, not the first at or after it."""
        return self.boundary_type is not None and self.boundary_type.upper() == "UPPER"


@header
class GetMaxOffsetRequest(Header):
    """GetMaxOffsetRequestHeader (30)."""

    topic: str
    queue_id: Int32
    committed: bool = True
    broker_name: str | None = wire("bname", default=None)


@header
class GetMinOffsetRequest(Header):
    """GetMinOffsetRequestHeader (31)."""

    topic: str
    queue_id: Int32
    broker_name: str | None = wire("bname", default=None)


@header
class GetEarliestMsgStoretimeRequest(Header):
    """GetEarliestMsgStoretimeRequestHeader (32)."""

    topic: str
    queue_id: Int32
    broker_name: str | None = wire("bname", default=None)


@header
class GetEarliestMsgStoretimeResponse(Header):
    """GetEarliestMsgStoretimeResponseHeader; ms, −1 for an empty queue."""

    timestamp: int
