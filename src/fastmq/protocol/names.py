"""Names of topics and groups: the reserved ones, the derived ones, and what a valid name is.

After RocketMQ's TopicValidator, MixAll, KeyBuilder and NamespaceUtil. A name is opaque text with a length limit;
a namespace is part of it (`ns%name`) and is never interpreted here.
"""

from __future__ import annotations

import re
from typing import Final

TOPIC_MAX_LENGTH: Final = 127
RETRY_OR_DLQ_TOPIC_MAX_LENGTH: Final = 255
GROUP_MAX_LENGTH: Final = 120

RETRY_PREFIX: Final = "%RETRY%"
LMQ_PREFIX: Final = "%LMQ%"
DLQ_PREFIX: Final = "%DLQ%"
SYSTEM_TOPIC_PREFIX: Final = "rmq_sys_"
SYSTEM_GROUP_PREFIX: Final = "CID_RMQ_SYS_"
REPLY_TOPIC_SUFFIX: Final = "_REPLY_TOPIC"

AUTO_CREATE_TOPIC: Final = "TBW102"
SCHEDULE_TOPIC: Final = "SCHEDULE_TOPIC_XXXX"
BENCHMARK_TOPIC: Final = "BenchmarkTest"
TRANS_HALF_TOPIC: Final = "RMQ_SYS_TRANS_HALF_TOPIC"
TRANS_OP_HALF_TOPIC: Final = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
TRANS_CHECK_MAX_TIME_TOPIC: Final = "TRANS_CHECK_MAX_TIME_TOPIC"
SELF_TEST_TOPIC: Final = "SELF_TEST_TOPIC"
OFFSET_MOVED_EVENT: Final = "OFFSET_MOVED_EVENT"
TRACE_TOPIC: Final = "RMQ_SYS_TRACE_TOPIC"
CHECKPOINT_TOPIC: Final = "CHECKPOINT_TOPIC"
TIMER_TOPIC: Final = "rmq_sys_wheel_timer"
REVIVE_TOPIC_PREFIX: Final = "rmq_sys_REVIVE_LOG_"
SYNC_MEMBER_TOPIC_PREFIX: Final = "rmq_sys_SYNC_BROKER_MEMBER_"

CLIENT_INNER_PRODUCER_GROUP: Final = "CLIENT_INNER_PRODUCER"
DEFAULT_PRODUCER_GROUP: Final = "DEFAULT_PRODUCER"
DEFAULT_CONSUMER_GROUP: Final = "DEFAULT_CONSUMER"
TOOLS_CONSUMER_GROUP: Final = "TOOLS_CONSUMER"
SELF_TEST_CONSUMER_GROUP: Final = "SELF_TEST_C_GROUP"
TRANS_CONSUMER_GROUP: Final = "CID_RMQ_SYS_TRANS"
REVIVE_CONSUMER_GROUP: Final = "CID_RMQ_SYS_REVIVE_GROUP"

SYSTEM_TOPICS: Final[frozenset[str]] = frozenset(
    {
        AUTO_CREATE_TOPIC,
        SCHEDULE_TOPIC,
        BENCHMARK_TOPIC,
        TRANS_HALF_TOPIC,
        TRANS_OP_HALF_TOPIC,
        TRANS_CHECK_MAX_TIME_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_EVENT,
        TRACE_TOPIC,
        CHECKPOINT_TOPIC,
        TIMER_TOPIC,
    }
)
"""System topics with a fixed name (TopicValidator). A broker adds those named after itself and its cluster."""

NOT_ALLOWED_SEND_TOPICS: Final[frozenset[str]] = frozenset(
    {
        SCHEDULE_TOPIC,
        TRANS_HALF_TOPIC,
        TRANS_OP_HALF_TOPIC,
        TRANS_CHECK_MAX_TIME_TOPIC,
        SELF_TEST_TOPIC,
        OFFSET_MOVED_EVENT,
        TIMER_TOPIC,
    }
)
"""Topics that no client may send to: answer NO_PERMISSION. RocketMQ lets them send to TIMER_TOPIC."""

WAITING_TOPICS: Final[frozenset[str]] = frozenset({SCHEDULE_TOPIC, TIMER_TOPIC, TRANS_HALF_TOPIC, TRANS_OP_HALF_TOPIC})
"""Where the broker keeps what waits, and notes about it: no message that has waited is ever delivered to these."""

BROKER_GROUPS: Final[frozenset[str]] = frozenset({TRANS_CONSUMER_GROUP, REVIVE_CONSUMER_GROUP})
"""Groups whose offsets say how far the broker itself has come; nobody else may use them."""

PREDEFINED_GROUPS: Final[tuple[str, ...]] = (
    TOOLS_CONSUMER_GROUP,
    "FILTERSRV_CONSUMER",
    SELF_TEST_CONSUMER_GROUP,
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    TRANS_CONSUMER_GROUP,
)
"""Consumer groups a broker has from the start, without any heartbeat (SubscriptionGroupManager)."""

_VALID_NAME = re.compile(r"[%|a-zA-Z0-9_-]+\Z")


def retry_topic(group: str) -> str:
    """The topic with the messages that `group` failed to consume (MixAll.getRetryTopic)."""
    return RETRY_PREFIX + group


def dlq_topic(group: str) -> str:
    """The topic with the messages that `group` gave up (MixAll.getDLQTopic)."""
    return DLQ_PREFIX + group


def pop_retry_topic(group: str, topic: str, *, v2: bool = False) -> str:
    """The retry topic of pop consumption, one for each (group, topic) (KeyBuilder.buildPopRetryTopic)."""
    return f"{RETRY_PREFIX}{group}{'+' if v2 else '_'}{topic}"


def reply_topic(cluster: str) -> str:
    """The topic that answers of request-reply are sent to in a cluster."""
    return cluster + REPLY_TOPIC_SUFFIX


def revive_topic(cluster: str) -> str:
    """The topic with pop checkpoints and acks of a cluster."""
    return REVIVE_TOPIC_PREFIX + cluster


def sync_member_topic(broker_name: str) -> str:
    """The topic named after a broker group that RocketMQ keeps for membership."""
    return SYNC_MEMBER_TOPIC_PREFIX + broker_name


def is_light_queue(name: str) -> bool:
    """Whether a topic or group is a light one (LMQ), which exists without being made."""
    return name.startswith(LMQ_PREFIX)


def is_retry_topic(topic: str) -> bool:
    """Whether the topic is some group's retry topic, of push or of pop consumption."""
    return topic.startswith(RETRY_PREFIX)


def is_dlq_topic(topic: str) -> bool:
    """Whether the topic is some group's dead-letter topic."""
    return topic.startswith(DLQ_PREFIX)


def group_of_retry_topic(topic: str) -> str:
    """What follows the prefix of a retry topic: the group (for pop v1 and v2 topics still with the topic)."""
    return topic.removeprefix(RETRY_PREFIX)


def is_system_topic(topic: str) -> bool:
    """Whether the name is reserved: one of SYSTEM_TOPICS or with the prefix of system topics."""
    return topic in SYSTEM_TOPICS or topic.startswith(SYSTEM_TOPIC_PREFIX)


def is_system_group(group: str) -> bool:
    """Whether the group belongs to the broker itself."""
    return group.startswith(SYSTEM_GROUP_PREFIX)


def is_predefined_group(group: str) -> bool:
    """Whether the group exists on every broker and must not be deleted by tools."""
    return group in PREDEFINED_GROUPS


def is_not_allowed_send_topic(topic: str) -> bool:
    """Whether clients are refused with NO_PERMISSION when they send to it."""
    return topic in NOT_ALLOWED_SEND_TOPICS or topic.startswith(REVIVE_TOPIC_PREFIX)


def is_broker_group(group: str) -> bool:
    """Whether the offsets of the group say how far the broker itself has come."""
    return group in BROKER_GROUPS


def validate_topic(topic: str | None) -> str | None:
    """None for a valid topic name, else RocketMQ's remark about what is wrong with it (TopicValidator)."""
    if topic is None or not topic.strip():
        return "The specified topic is blank."
    if _VALID_NAME.match(topic) is None:
        return "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
    if is_retry_topic(topic) or is_dlq_topic(topic):
        if len(topic) > RETRY_OR_DLQ_TOPIC_MAX_LENGTH:
            return "The specified topic is longer than topic max length."
    elif len(topic) > TOPIC_MAX_LENGTH:
        return "The specified topic is longer than topic max length."
    return None


def validate_group(group: str | None) -> str | None:
    """None for a valid group name, else RocketMQ's remark about what is wrong with it (TopicValidator)."""
    if group is None or not group.strip():
        return "The specified group is blank."
    if len(group) > GROUP_MAX_LENGTH:
        return "The specified group is longer than group max length."
    if _VALID_NAME.match(group) is None:
        return "The specified group contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
    return None
