"""Fixtures of the tests that drive official clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.servers import Server, make_server, roads
from support.toolchains import ToolchainMissing, missing


@pytest.fixture(scope="module", params=roads())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server: each road of fastmq, or Apache with FASTMQ_TEST_TARGET=apache."""
    try:
        with make_server(request.param, tmp_path_factory.mktemp(f"server-{request.param}")) as running:
            yield running
    except ToolchainMissing as reason:
        missing(str(reason))
