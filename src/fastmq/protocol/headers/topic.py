"""Headers of topic administration on a broker (remoting 3.11.1)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class CreateTopicRequest(Header):
    """CreateTopicRequestHeader (17, 513). `attributes`: comma-joined `+name=value` and `-name`."""

    topic: str
    default_topic: str
    read_queue_nums: Int32
    write_queue_nums: Int32
    perm: Int32
    topic_filter_type: str
    topic_sys_flag: Int32 | None = None
    order: bool = False
    attributes: str | None = None
    force: bool | None = None


@header
class GetAllTopicConfigRequest(Header):
    """GetAllTopicConfigRequestHeader (21): a page of it, or everything when nothing is given."""

    topic_seq: Int32 | None = None
    data_version: str | None = None
    max_topic_num: Int32 | None = None


@header
class GetAllTopicConfigResponse(Header):
    """GetAllTopicConfigResponseHeader."""

    total_topic_num: Int32 | None = None


@header
class GetTopicConfigRequest(Header):
    """GetTopicConfigRequestHeader (351)."""

    topic: str
    logical: bool | None = wire("lo", default=None)


@header
class GetTopicStatsInfoRequest(Header):
    """GetTopicStatsInfoRequestHeader (202)."""

    topic: str


@header
class DeleteTopicRequest(Header):
    """DeleteTopicRequestHeader (215)."""

    topic: str
