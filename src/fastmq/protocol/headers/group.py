"""Headers of consumer group administration on a broker (remoting 3.11.3, 3.11.4)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header


@header
class GetAllSubscriptionGroupRequest(Header):
    """GetAllSubscriptionGroupRequestHeader (201): a page of it, or everything when nothing is given."""

    group_seq: Int32 | None = None
    data_version: str | None = None
    max_group_num: Int32 | None = None


@header
class GetAllSubscriptionGroupResponse(Header):
    """GetAllSubscriptionGroupResponseHeader."""

    total_group_num: Int32 | None = None


@header
class GetSubscriptionGroupConfigRequest(Header):
    """GetSubscriptionGroupConfigRequestHeader (352)."""

    group: str


@header
class DeleteSubscriptionGroupRequest(Header):
    """DeleteSubscriptionGroupRequestHeader (207)."""

    group_name: str
    clean_offset: bool = False


@header
class UpdateGroupForbiddenRequest(Header):
    """UpdateGroupForbiddenRequestHeader (353). `readable` None only asks."""

    group: str
    topic: str
    readable: bool | None = None


@header
class GetConsumerConnectionListRequest(Header):
    """GetConsumerConnectionListRequestHeader (203)."""

    consumer_group: str


@header
class GetProducerConnectionListRequest(Header):
    """GetProducerConnectionListRequestHeader (204)."""

    producer_group: str


@header
class GetConsumeStatsRequest(Header):
    """GetConsumeStatsRequestHeader (208). `topic_list` is joined by `;`."""

    consumer_group: str
    topic: str | None = None
    topic_list: str | None = None


@header
class QueryTopicConsumeByWhoRequest(Header):
    """QueryTopicConsumeByWhoRequestHeader (300)."""

    topic: str


@header
class QueryTopicsByConsumerRequest(Header):
    """QueryTopicsByConsumerRequestHeader (343)."""

    group: str


@header
class QuerySubscriptionByConsumerRequest(Header):
    """QuerySubscriptionByConsumerRequestHeader (345)."""

    group: str
    topic: str | None = None


@header
class QueryConsumeTimeSpanRequest(Header):
    """QueryConsumeTimeSpanRequestHeader (303)."""

    topic: str
    group: str


@header
class GetBrokerConsumeStatsRequest(Header):
    """GetConsumeStatsInBrokerHeader (317)."""

    is_order: bool


@header
class QueryCorrectionOffsetRequest(Header):
    """QueryCorrectionOffsetHeader (308). `filter_groups` is joined by `,`."""

    compare_group: str
    topic: str
    filter_groups: str | None = None


@header
class CloneGroupOffsetRequest(Header):
    """CloneGroupOffsetRequestHeader (314)."""

    src_group: str
    dest_group: str
    topic: str | None = None
    offline: bool | None = None
