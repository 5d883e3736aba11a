"""The official Java clients do to fastmq whatever they do to Apache RocketMQ.

One JVM per client version works through the scenarios side by side; each scenario is a test here. Pairs of
scenarios named -phase1 and -phase2 have a restart of the server in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.java import ScenarioRunner
from support.lines import describe
from support.servers import Server
from support.suite import Suite, wanted_by
from support.toolchains import ToolchainMissing, missing

pytestmark = pytest.mark.java

SCENARIOS = (
    # the slow ones first: they run beside all the others
    "group-join-leave-orderly",
    "group-join-leave",
    "push-topic-later",
    "retry-to-dead-letter",
    "retry-then-success",
    "offset-reset-online",
    "offset-reset-offline",
    "trace",
    "trace-own-topic",
    "push-from-where",
    "delay",
    "transaction-check",
    "transaction-give-up",
    "transaction-own-time",
    "transaction-end",
    "transaction-messages",
    "namespace",
    "retry-orderly",
    "retry-orderly-to-dead-letter",
    "lite-two-members",
    "lite-subscribe",
    "lite-assign",
    "send-sync",
    "send-async",
    "send-oneway",
    "send-batch",
    "send-ordered",
    "send-to-queue",
    "send-fields",
    "send-large",
    "send-too-large",
    "send-auto-create",
    "send-create-topic",
    "send-vip",
    "query-key",
    "query-many-keys",
    "query-unique-key",
    "query-offset-id",
    "query-offsets",
    "push-concurrent",
    "push-orderly",
    "push-broadcast",
    "push-tags",
    "filter-push",
    "filter-retry",
    "filter-lite",
    "filter-pull",
    "filter-broken",
    "push-batches",
    "push-two-topics",
    "order-handover",
    "order-shared-group",
    "retry-level-chosen",
    "retry-not-wanted",
    "retry-more-queues",
    "offset-clone",
    "offset-views",
    "notify-running-info",
    "notify-consume-directly",
    "notify-status",
    "request-reply",
    "request-nobody-answers",
    "request-requester-gone",
    "request-requester-restarted",
    "pull",
    "pull-waits",
    "pull-offsets",
    "group-offsets-kept",
    "push-latency",
)
# what clients of 4.x do not know
SCENARIOS_5 = (
    "pop-requests",
    "pop-retry",
    "pop-dead-letter",
    "pop-orderly",
    *SCENARIOS,
    "pop-push",
    "pop-two-members",
    "pop-tags",
    "pop-waits",
    "timer",
    "timer-recall",
    "timer-refused",
)
OVER_RESTART = (
    "restart-offsets",
    "restart-store",
    "restart-delay",
    "restart-live",
    "restart-orderly",
    "restart-transaction",
)
OVER_RESTART_5 = (*OVER_RESTART, "restart-pop", "restart-timer")

# the other header form, and the VIP port for everything the client would send there
BINARY_HEADER = "5.3.3-binary-header"
BINARY_HEADER_SCENARIOS = (
    "retry-to-dead-letter",
    "send-sync",
    "send-oneway",
    "send-batch",
    "send-fields",
    "send-too-large",
    "send-auto-create",
    "query-key",
    "query-offset-id",
    "query-offsets",
    "push-concurrent",
    "push-orderly",
    "push-tags",
    "filter-push",
    "filter-pull",
    "push-latency",
    "lite-subscribe",
    "pull",
    "request-reply",
    "transaction-end",
    "transaction-check",
    "namespace",
)
CLIENTS = {
    "4.9.8": SCENARIOS,
    "5.3.3": SCENARIOS_5,
    "5.5.0": SCENARIOS_5,
    BINARY_HEADER: BINARY_HEADER_SCENARIOS,
}
PAIRS = {"4.9.8": OVER_RESTART, "5.3.3": OVER_RESTART_5, "5.5.0": OVER_RESTART_5}
OPTIONS = {
    BINARY_HEADER: ("-Drocketmq.serialize.type=ROCKETMQ", "-Dcom.rocketmq.sendMessageWithVIPChannel=true"),
}


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ScenarioRunner]]:
    """Gives the JVM of a client, which is started at its first use and serves all roads."""
    started: dict[str, ScenarioRunner] = {}

    def runner(client: str) -> ScenarioRunner:
        if client not in started:
            version = client.partition("-")[0]
            try:
                started[client] = ScenarioRunner(version, tmp_path_factory.mktemp(client), OPTIONS.get(client, ()))
            except ToolchainMissing as reason:
                missing(str(reason))
        return started[client]

    yield runner
    for one in started.values():
        one.close()


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest, server: Server, runners: Callable[[str], ScenarioRunner]) -> Suite:
    return Suite(server, runners, wanted_by(request, "test_java_client"), OVER_RESTART_5)


@pytest.mark.parametrize(
    ("client", "scenario"),
    [
        pytest.param(client, scenario, id=f"{client}-{scenario}")
        for client, scenarios in CLIENTS.items()
        for scenario in (*scenarios, *PAIRS.get(client, ()))
    ],
)
def test_java_client(suite: Suite, client: str, scenario: str) -> None:
    outcome = suite.outcome(client, scenario)
    assert outcome["ok"], f"{scenario} with Java client {client}: {describe(outcome)}"
