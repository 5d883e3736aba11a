"""How long a group waits before a message is tried again (RocketMQ's GroupRetryPolicy).

A policy is kept as the JSON object that a tool sent, in the group's configuration and in subscriptionGroup.json. Apache
RocketMQ asks it for consumers that come through its proxy (the settings handed to gRPC clients, and how long a message
that its consumer did not answer stays invisible). Consumers that speak remoting send messages back with a delay level
instead: see `handlers/retry.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CUSTOMIZED: Final = "CUSTOMIZED"
EXPONENTIAL: Final = "EXPONENTIAL"

_S, _MIN, _H = 1000, 60_000, 3_600_000
DEFAULT_STEPS_MS: Final = (
    _S, 5 * _S, 10 * _S, 30 * _S, *(n * _MIN for n in range(1, 11)), 20 * _MIN, 30 * _MIN, _H, 2 * _H,
)  # fmt: skip
"""Steps of a customised policy that names none: the 18 delay levels."""

_SKIPPED_STEPS: Final = 2  # the first retry takes the third step, as the first send-back takes delay level 3
_MAX_EXPONENT: Final = 32
_DEFAULT_EXPONENTIAL: Final = {"initial": 5000, "max": 2 * _H, "multiplier": 2}
_LONG_MAX: Final = (1 << 63) - 1


def next_delay(policy: Mapping[str, Any] | None, times: int) -> int:
    """Milliseconds until a message that failed `times` times before is tried again.

    Total over everything `problem_of` lets pass; what the policy leaves out has RocketMQ's default.
    """
    times = max(0, times)
    policy = policy or {}
    if policy.get("type") == EXPONENTIAL:
        exponential = policy.get("exponentialRetryPolicy")
        if exponential is not None:
            facts = {**_DEFAULT_EXPONENTIAL, **exponential}
            grown = facts["initial"] * facts["multiplier"] ** min(times, _MAX_EXPONENT)
            return int(min(facts["max"], grown))
        return DEFAULT_STEPS_MS[min(times + _SKIPPED_STEPS, len(DEFAULT_STEPS_MS) - 1)]
    customized = policy.get("customizedRetryPolicy")
    steps = (None if customized is None else customized.get("next")) or DEFAULT_STEPS_MS
    return int(steps[min(times + _SKIPPED_STEPS, len(steps) - 1)])


def problem_of(policy: Mapping[str, Any]) -> str | None:
    """What is wrong with a policy, None if it can be asked for delays."""
    kind = policy.get("type", CUSTOMIZED)
    if kind not in (CUSTOMIZED, EXPONENTIAL, None):
        return f"groupRetryPolicy has the type {str(kind)[:32]!r}; there are {CUSTOMIZED} and {EXPONENTIAL}"
    customized = policy.get("customizedRetryPolicy")
    if customized is not None:
        steps = customized.get("next") if isinstance(customized, Mapping) else 0
        if steps is not None and not (isinstance(steps, list) and steps and all(map(_is_delay, steps))):
            return "customizedRetryPolicy.next is not a list of milliseconds"
    exponential = policy.get("exponentialRetryPolicy")
    if exponential is not None:
        if not isinstance(exponential, Mapping):
            return "exponentialRetryPolicy is not an object"
        for name in _DEFAULT_EXPONENTIAL:
            if not _is_delay(exponential.get(name, 0)):
                return f"exponentialRetryPolicy.{name} is not a number from 0 on"
    return None


def _is_delay(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LONG_MAX
