"""The official Go client does to fastmq whatever it does to Apache RocketMQ.

One process per road works through the scenarios side by side; each scenario is a test here. Its rebalance comes
every 20 s and its route refresh every 30 s, both fixed: whatever needs them takes that long, so all run together.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.lines import LineProgram, describe
from support.servers import Server
from support.suite import Suite, wanted_by
from support.toolchains import ToolchainMissing, go_program, missing

pytestmark = pytest.mark.go

SCENARIOS = (
    "send-sync",
    "send-async",
    "send-oneway",
    "send-batch",
    "send-ordered",
    "send-large",
    "push-orderly",
    "push-broadcast",
    "push-tags",
    "filter-push",
    "pull",
    "delay",
    "group-join-leave",
    "retry-to-dead-letter",
    "group-offsets-kept",
    "request-reply",
    "request-nobody-answers",
    "retry-then-success",
    "retry-orderly-to-dead-letter",
    "trace",
    "admin",
)
OVER_RESTART = ("restart-offsets", "restart-live")


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    try:
        program = LineProgram([str(go_program())], tmp_path_factory.mktemp("go"))
    except ToolchainMissing as reason:
        missing(str(reason))
    yield Suite(server, lambda _: program, wanted_by(request, "test_go_client"), OVER_RESTART)
    program.close()


@pytest.mark.parametrize("scenario", [*SCENARIOS, *OVER_RESTART])
def test_go_client(suite: Suite, scenario: str) -> None:
    outcome = suite.outcome("", scenario)
    assert outcome["ok"], f"{scenario} with the Go client: {describe(outcome)}"
