"""Requests that come too late to be served."""

from __future__ import annotations

import dataclasses

import pytest

from fastmq.broker.fastfail import FastFailure
from fastmq.config import BrokerConfig

SEND, PULL, HEARTBEAT, ADMIN, OFFSETS = 310, 11, 34, 21, 15


def judge_of(**settings: object) -> FastFailure:
    config = dataclasses.replace(BrokerConfig(), **settings)
    return FastFailure(lambda: config)


def test_one_slow_command_makes_nobody_fail() -> None:
    judge = judge_of()
    for now_ms in range(0, 1000, 10):
        assert judge.judge(SEND, 900, now_ms, 50) is None


def test_sends_that_have_been_late_for_a_second_are_refused_with_a_reason() -> None:
    judge = judge_of()
    assert judge.judge(SEND, 200, 5000, 7) is None
    assert judge.judge(SEND, 700, 5999, 7) is None
    assert judge.judge(SEND, 812, 6000, 7) == (
        "[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: 812ms, size of queue: 7"
    )


def test_one_request_on_time_ends_it() -> None:
    judge = judge_of()
    judge.judge(SEND, 300, 0, 1)
    assert judge.judge(SEND, 300, 1500, 1) is not None
    assert judge.judge(SEND, 199, 1600, 1) is None
    assert judge.judge(SEND, 300, 1700, 1) is None
    assert judge.judge(SEND, 300, 2700, 1) is not None


def test_each_class_has_its_own_limit() -> None:
    judge = judge_of()
    limits = {SEND: 200, PULL: 5000, HEARTBEAT: 31000, ADMIN: 5000}
    for code, limit in limits.items():
        judge.judge(code, limit, 0, 0)
    for code, limit in limits.items():
        assert judge.judge(code, limit, 1000, 0) is not None
        assert judge.judge(code, limit - 1, 1000, 0) is None


def test_the_limits_can_be_set() -> None:
    judge = judge_of(wait_time_mills_in_send_queue=10)
    judge.judge(SEND, 10, 0, 0)
    assert judge.judge(SEND, 10, 1000, 0) is not None


@pytest.mark.parametrize(("code", "settings"), [(OFFSETS, {}), (SEND, {"broker_fast_failure_enable": False})])
def test_what_is_never_refused(code: int, settings: dict[str, object]) -> None:
    judge = judge_of(**settings)
    judge.judge(code, 99_999, 0, 0)
    assert judge.judge(code, 99_999, 99_999, 0) is None
