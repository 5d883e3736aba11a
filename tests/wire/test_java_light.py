"""The official Java clients and light queues (LMQ), which have no route: as RocketMQ's own examples use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.java import ScenarioRunner
from support.lines import describe
from support.servers import Server, make_server, roads
from support.suite import Suite, wanted_by
from support.toolchains import ToolchainMissing, missing

pytestmark = pytest.mark.java

SETTINGS = {"enableLmq": "true", "enableMultiDispatch": "true"}
SCENARIOS = ("light-pull", "light-delayed")
# those that go by what a message says about its place: Apache's broker tells them that in the topic of the message
BY_PLACE = ("light-push", "light-orderly", "light-lite")
BY_PLACE_OVER_RESTART = ("light-restart",)
CLIENTS = {"4.9.8": SCENARIOS, "5.3.3": ("light-pop", *SCENARIOS), "5.5.0": ("light-pop", *SCENARIOS)}


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ScenarioRunner]]:
    """Gives the JVM of a client, which is started at its first use and serves all roads."""
    started: dict[str, ScenarioRunner] = {}

    def runner(client: str) -> ScenarioRunner:
        if client not in started:
            try:
                started[client] = ScenarioRunner(client, tmp_path_factory.mktemp(client))
            except ToolchainMissing as reason:
                missing(str(reason))
        return started[client]

    yield runner
    for one in started.values():
        one.close()


@pytest.fixture(scope="module", params=roads())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with light queues."""
    try:
        with make_server(request.param, tmp_path_factory.mktemp(f"light-{request.param}"), SETTINGS) as running:
            yield running
    except ToolchainMissing as reason:
        missing(str(reason))


@pytest.fixture(scope="module")
def suite(request: pytest.FixtureRequest, server: Server, runners: Callable[[str], ScenarioRunner]) -> Suite:
    return Suite(server, runners, wanted_by(request, "test_light_queues"), BY_PLACE_OVER_RESTART)


@pytest.mark.parametrize(
    ("client", "scenario"),
    [
        pytest.param(client, scenario, id=f"{client}-{scenario}")
        for client, scenarios in CLIENTS.items()
        for scenario in (*scenarios, *(() if roads() == ["apache"] else (*BY_PLACE, *BY_PLACE_OVER_RESTART)))
    ],
)
def test_light_queues(suite: Suite, client: str, scenario: str) -> None:
    outcome = suite.outcome(client, scenario)
    assert outcome["ok"], f"{scenario} with Java client {client}: {describe(outcome)}"
