from __future__ import annotations

import pytest

from fastmq.protocol import names


def test_derived_topics() -> None:
    assert names.retry_topic("g") == "%RETRY%g"
    assert names.dlq_topic("g") == "%DLQ%g"
    assert names.pop_retry_topic("g", "t") == "%RETRY%g_t"
    assert names.pop_retry_topic("g", "t", v2=True) == "%RETRY%g+t"
    assert names.reply_topic("DefaultCluster") == "DefaultCluster_REPLY_TOPIC"
    assert names.revive_topic("DefaultCluster") == "rmq_sys_REVIVE_LOG_DefaultCluster"
    assert names.sync_member_topic("broker-a") == "rmq_sys_SYNC_BROKER_MEMBER_broker-a"
    assert names.group_of_retry_topic("%RETRY%ns%g") == "ns%g"


def test_kinds_of_topics() -> None:
    assert names.is_retry_topic("%RETRY%g")
    assert not names.is_retry_topic("x%RETRY%g")
    assert names.is_dlq_topic("%DLQ%g")
    assert names.is_system_topic("TBW102")
    assert names.is_system_topic("rmq_sys_anything")
    assert not names.is_system_topic("orders")


def test_clients_may_not_send_to_the_brokers_own_topics() -> None:
    assert names.is_not_allowed_send_topic("SCHEDULE_TOPIC_XXXX")
    assert names.is_not_allowed_send_topic("rmq_sys_wheel_timer")
    assert names.is_not_allowed_send_topic("rmq_sys_REVIVE_LOG_any")
    assert not names.is_not_allowed_send_topic("TBW102")
    assert names.NOT_ALLOWED_SEND_TOPICS <= names.SYSTEM_TOPICS


def test_kinds_of_groups() -> None:
    assert names.is_system_group("CID_RMQ_SYS_TRANS")
    assert names.is_predefined_group("TOOLS_CONSUMER")
    assert not names.is_predefined_group("g")


@pytest.mark.parametrize("topic", ["t", "%RETRY%ns%g", "a|b", "A-Z_09", "x" * 127, "%RETRY%" + "g" * 248])
def test_valid_topics(topic: str) -> None:
    assert names.validate_topic(topic) is None


@pytest.mark.parametrize(
    ("topic", "remark"),
    [
        (None, "The specified topic is blank."),
        ("", "The specified topic is blank."),
        (" \t", "The specified topic is blank."),
        ("bad topic!", "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
        ("line\n", "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
        ("ünï", "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"),
        ("x" * 128, "The specified topic is longer than topic max length."),
        ("%DLQ%" + "g" * 251, "The specified topic is longer than topic max length."),
    ],
)
def test_invalid_topics_get_rocketmq_remarks(topic: str | None, remark: str) -> None:
    assert names.validate_topic(topic) == remark


def test_groups() -> None:
    assert names.validate_group("g" * 120) is None
    assert names.validate_group("") == "The specified group is blank."
    assert names.validate_group("g" * 121) == "The specified group is longer than group max length."
    assert names.validate_group("a b") is not None
