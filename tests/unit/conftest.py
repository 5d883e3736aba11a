"""What unit tests of different files share."""

from __future__ import annotations

import anyio
import pytest

from unit.client_rig import Run, Scenario


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a scenario of the client to its end on each backend; AssertionError if it hangs."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            with anyio.fail_after(60):
                await scenario()

        anyio.run(main, backend=request.param)

    return run
