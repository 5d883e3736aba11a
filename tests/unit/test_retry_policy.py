"""Delays of a group's retry policy, as RocketMQ's GroupRetryPolicy computes them."""

import pytest

from fastmq.broker.delivery.retry_policy import DEFAULT_STEPS_MS, next_delay, problem_of
from fastmq.config import BrokerConfig
from fastmq.protocol.bodies import SubscriptionGroupConfig, dumps
from fastmq.protocol.codes import RequestCode, ResponseCode
from unit.broker_rig import Rig

LAST_MS = 7_200_000


def exponential(**facts):
    return {"type": "EXPONENTIAL", "exponentialRetryPolicy": facts}


def customized(*steps):
    return {"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": list(steps)}}


@pytest.mark.parametrize("policy", [None, {}, {"type": "CUSTOMIZED"}, {"type": "EXPONENTIAL"}])
def test_without_particulars_the_delay_levels_count(policy):
    assert [next_delay(policy, times) for times in (-5, 0, 1, 15, 16, 10**9)] == [
        10_000, 10_000, 30_000, LAST_MS, LAST_MS, LAST_MS
    ]  # fmt: skip


def test_the_default_steps_are_the_default_levels():
    assert list(DEFAULT_STEPS_MS) == list(BrokerConfig().delay_levels_ms)


@pytest.mark.parametrize(
    ("steps", "delays"),
    [
        ((1, 2, 3, 4), [3, 4, 4, 4]),
        ((1,), [1, 1, 1, 1]),
        ((1, 2), [2, 2, 2, 2]),
        ((), [10_000, 30_000, 60_000, 120_000]),
    ],
)
def test_a_list_begins_with_its_third_step(steps, delays):
    assert [next_delay(customized(*steps), times) for times in range(4)] == delays


@pytest.mark.parametrize(
    ("facts", "delays"),
    [
        ({}, [5000, 10_000, 20_000, 40_000]),
        ({"initial": 100, "max": 1000, "multiplier": 3}, [100, 300, 900, 1000]),
        ({"multiplier": 1}, [5000] * 4),
        ({"initial": 0}, [0] * 4),
        ({"max": 7}, [7] * 4),
    ],
)
def test_exponential(facts, delays):
    assert [next_delay(exponential(**facts), times) for times in range(4)] == delays
    assert next_delay(exponential(**facts), 40) == next_delay(exponential(**facts), 32)


@pytest.mark.parametrize(
    "policy",
    [
        {"type": "LINEAR"},
        {"customizedRetryPolicy": 3},
        {"customizedRetryPolicy": {"next": []}},
        {"customizedRetryPolicy": {"next": [1, "2"]}},
        {"customizedRetryPolicy": {"next": [-1]}},
        {"exponentialRetryPolicy": []},
        exponential(initial="x"),
        exponential(multiplier=-2),
        exponential(max=1 << 63),
    ],
)
def test_what_could_not_be_asked_is_refused(tmp_path, policy):
    assert problem_of(policy) is not None
    rig = Rig(tmp_path)
    group = SubscriptionGroupConfig(group_name="cg", group_retry_policy=policy)
    reply = rig.ask(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, dumps(group))
    assert reply.code == ResponseCode.INVALID_PARAMETER
    assert "cg" not in rig.broker.groups
    rig.close()


@pytest.mark.parametrize(
    "policy", [customized(1, 2), exponential(initial=1, max=2, multiplier=3), {"type": "EXPONENTIAL"}]
)
def test_kept_over_a_restart_and_shown(tmp_path, policy):
    rig = Rig(tmp_path)
    group = SubscriptionGroupConfig(group_name="cg", group_retry_policy=policy)
    assert rig.ask(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, {}, dumps(group)).code == 0
    rig.reopen()
    reply = rig.ask(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG, {"group": "cg"})
    assert SubscriptionGroupConfig.from_json(reply.body) == group
    rig.close()
