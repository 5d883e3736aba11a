"""Servers and faces for the client's scenarios."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator, Mapping

import pytest

from client.faces import Face, Place
from support import toolchains
from support.servers import Apache4Peer, ApachePeer, FastmqServer, Server

# what is settled has to be written down before anybody asks what became of it
SETTINGS = {
    "transactionCheckInterval": "1000",
    "transactionTimeOut": "1000",
    "transactionOpBatchInterval": "100",
}


KINDS: Mapping[str, type[Server]] = {"fastmq": FastmqServer, "apache": ApachePeer, "apache4": Apache4Peer}


@pytest.fixture(
    scope="session",
    params=["fastmq", *(pytest.param(one, marks=pytest.mark.apache) for one in ("apache", "apache4"))],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A name server and broker that all scenarios share."""
    data = tmp_path_factory.mktemp(request.param)
    try:
        with KINDS[request.param](data, SETTINGS) as running:
            yield running
    except toolchains.ToolchainMissing as error:
        toolchains.missing(str(error))


@pytest.fixture(params=["asyncio", "trio", "sync"])
def face(request: pytest.FixtureRequest) -> Face:
    """Each face of the client."""
    return Face(request.param)


@pytest.fixture
def place(server: Server, request: pytest.FixtureRequest, face: Face) -> Place:
    """A topic name of its own for each test."""
    return Place(server.namesrv, f"{request.node.originalname.removeprefix('test_')}-{face.name}"[:100], server)


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A scenario leaves no socket and no thread of ours behind."""
    gc.collect()
    before = _descriptors()
    yield
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "fastmq.sync"]
    left = _descriptors() - before
    assert not left, f"sockets were left open: {left}"
