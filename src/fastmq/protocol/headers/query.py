"""Headers of message queries: codes 12, 33, 321 (remoting 3.3, 3.11.4)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class QueryMessageRequest(Header):
    """QueryMessageRequestHeader (12), with the loose field that marks a lookup by UNIQ_KEY. Times in ms."""

    topic: str
    key: str
    max_num: Int32
    begin_timestamp: int
    end_timestamp: int
    unique_key_query: bool | None = wire("_UNIQUE_KEY_QUERY", default=None)


@header
class QueryMessageResponse(Header):
    """QueryMessageResponseHeader."""

    index_last_update_timestamp: int
    index_last_update_phyoffset: int


@header
class ViewMessageRequest(Header):
    """ViewMessageRequestHeader (33). `offset` is a commit log offset."""

    offset: int
    topic: str | None = None


@header
class QueryConsumeQueueRequest(Header):
    """QueryConsumeQueueRequestHeader (321). Absent numbers are 0, as for Java's primitive types."""

    topic: str | None = None
    queue_id: Int32 = 0
    index: int = 0
    count: Int32 = 0
    consumer_group: str | None = None
