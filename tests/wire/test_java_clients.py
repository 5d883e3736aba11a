"""The official Java clients do to fastmq whatever they do to Apache RocketMQ.

One JVM per client version works through the scenarios side by side; each scenario is a test here. Pairs of
scenarios named -phase1 and -phase2 have a restart of the server in between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import toolchains
from support.java import Outcome, ScenarioRunner, describe
from support.servers import Server

pytestmark = pytest.mark.java

SCENARIOS = (
    # the slow ones first: they run beside all the others
    "group-join-leave-orderly",
    "group-join-leave",
    "push-topic-later",
    "retry-to-dead-letter",
    "retry-then-success",
    "trace",
    "push-from-where",
    "delay",
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
    "push-batches",
    "push-two-topics",
    "request-reply",
    "pull",
    "pull-waits",
    "pull-offsets",
    "group-offsets-kept",
    "push-latency",
)
OVER_RESTART = ("restart-offsets", "restart-store", "restart-delay", "restart-live")

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
    "push-latency",
    "lite-subscribe",
    "pull",
    "request-reply",
    "namespace",
)
CLIENTS = {
    "4.9.8": SCENARIOS,
    "5.3.3": SCENARIOS,
    "5.5.0": SCENARIOS,
    BINARY_HEADER: BINARY_HEADER_SCENARIOS,
}
OPTIONS = {
    BINARY_HEADER: ("-Drocketmq.serialize.type=ROCKETMQ", "-Dcom.rocketmq.sendMessageWithVIPChannel=true"),
}


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ScenarioRunner]]:
    """One JVM per client, started at its first use."""
    started: dict[str, ScenarioRunner] = {}
    yield started
    for runner in started.values():
        runner.close()


class Suite:
    """Runs all scenarios of a client at the first question about one of them."""

    def __init__(self, server: Server, runners: dict[str, ScenarioRunner], folder: Path, wanted: set[tuple[str, str]]):
        self._server = server
        self._runners = runners
        self._folder = folder
        self._wanted = wanted
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, client: str, scenario: str) -> Outcome:
        if client not in self._outcomes:
            self._outcomes[client] = self._run(client)
        return self._outcomes[client][scenario]

    def _run(self, client: str) -> dict[str, Outcome]:
        if client not in self._runners:
            try:
                toolchains.client_class_path(client.partition("-")[0])
            except toolchains.ToolchainMissing as reason:
                toolchains.missing(str(reason))
            version = client.partition("-")[0]
            self._runners[client] = ScenarioRunner(version, self._folder / client, OPTIONS.get(client, ()))
        runner = self._runners[client]
        wanted = [scenario for scenario in (*SCENARIOS, *OVER_RESTART) if (client, scenario) in self._wanted]
        params = {"run": client.replace(".", "_")}
        start = time.monotonic()
        plain = [name for name in wanted if name not in OVER_RESTART]
        pairs = [name for name in wanted if name in OVER_RESTART]
        jobs = {name: runner.begin(name, self._server, params) for name in plain}
        first = {name: runner.begin(f"{name}-phase1", self._server, params) for name in pairs}
        outcomes = {name: runner.outcome(job, 200) for name, job in jobs.items()}
        before = {name: runner.outcome(job, 200) for name, job in first.items()}
        if pairs:
            self._server.restart()
        second = {name: runner.begin(f"{name}-phase2", self._server, params) for name in pairs if before[name]["ok"]}
        outcomes |= before | {name: runner.outcome(job, 100) for name, job in second.items()}
        slowest = sorted(outcomes.items(), key=lambda item: -item[1]["millis"])[:5]
        print(
            f"{client}: {len(outcomes)} scenarios in {time.monotonic() - start:.1f} s; slowest:",
            ", ".join(f"{name} {outcome['millis'] / 1000:.1f} s" for name, outcome in slowest),
        )
        return outcomes


@pytest.fixture(scope="module")
def suite(
    request: pytest.FixtureRequest,
    server: Server,
    runners: dict[str, ScenarioRunner],
    tmp_path_factory: pytest.TempPathFactory,
) -> Suite:
    wanted = set()
    for item in request.session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "client" in params and "scenario" in params:
            wanted.add((params["client"], params["scenario"]))
    return Suite(server, runners, tmp_path_factory.mktemp("java"), wanted)


@pytest.mark.parametrize(
    ("client", "scenario"),
    [
        pytest.param(client, scenario, id=f"{client}-{scenario}")
        for client, scenarios in CLIENTS.items()
        for scenario in (*scenarios, *(OVER_RESTART if scenarios is SCENARIOS else ()))
    ],
)
def test_java_client(suite: Suite, client: str, scenario: str) -> None:
    outcome = suite.outcome(client, scenario)
    assert outcome["ok"], f"{scenario} with Java client {client}: {describe(outcome)}"
