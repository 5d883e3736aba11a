"""Runs many scenarios of a client side by side and keeps their outcomes, one test per scenario."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from support.lines import LineProgram, Outcome
from support.servers import Server


class Suite:
    """The scenarios of several clients against one server. A client's scenarios run at the first question about it.

    Scenarios named in `over_restart` are pairs, `<name>-phase1` and `<name>-phase2`, with a restart in between.
    """

    def __init__(
        self,
        server: Server,
        start: Callable[[str], LineProgram],
        wanted: Mapping[str, Sequence[str]],
        over_restart: Sequence[str],
    ) -> None:
        self._server = server
        self._start = start
        self._wanted = wanted
        self._over_restart = over_restart
        self._outcomes: dict[str, dict[str, Outcome]] = {}

    def outcome(self, client: str, scenario: str) -> Outcome:
        """What came of a scenario."""
        if client not in self._outcomes:
            self._outcomes[client] = self._run(client)
        return self._outcomes[client][scenario]

    def _run(self, client: str) -> dict[str, Outcome]:
        program = self._start(client)
        params = {"namesrv": self._server.namesrv, "broker": self._server.broker, "run": client.replace(".", "_")}
        begin = time.monotonic()
        plain = [name for name in self._wanted[client] if name not in self._over_restart]
        pairs = [name for name in self._wanted[client] if name in self._over_restart]
        jobs = {name: program.begin(name, params) for name in plain}
        first = {name: program.begin(f"{name}-phase1", params) for name in pairs}
        outcomes = {name: program.outcome(job, 600) for name, job in jobs.items()}
        outcomes |= {name: program.outcome(job, 600) for name, job in first.items()}
        middle = time.monotonic()
        ended = self._server.ended()
        if ended:
            return {name: {"ok": False, "error": ended, "millis": 0} for name in outcomes}
        if pairs:
            try:
                self._server.restart()
            except AssertionError as error:
                outcomes |= {name: {"ok": False, "error": str(error), "millis": 0} for name in pairs}
                return outcomes
        restarted = time.monotonic()
        second = {name: program.begin(f"{name}-phase2", params) for name in pairs if outcomes[name]["ok"]}
        outcomes |= {name: program.outcome(job, 600) for name, job in second.items()}
        slowest = sorted(outcomes.items(), key=lambda item: -item[1]["millis"])[:5]
        print(
            f"\n{client} with {self._server.name}: {len(outcomes)} scenarios in {middle - begin:.1f} s, restart of the "
            f"server {restarted - middle:.1f} s, after it {time.monotonic() - restarted:.1f} s; slowest:",
            ", ".join(f"{name} {outcome['millis'] / 1000:.1f} s" for name, outcome in slowest),
        )
        return outcomes


def wanted_by(request: pytest.FixtureRequest, test: str) -> dict[str, list[str]]:
    """The scenarios per client that the tests called `test` of this run ask for, in their order."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if getattr(item, "originalname", None) == test and "scenario" in params:
            scenarios = wanted.setdefault(params.get("client", ""), [])
            if params["scenario"] not in scenarios:
                scenarios.append(params["scenario"])
    return wanted
