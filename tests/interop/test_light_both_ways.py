"""A store with light queues (LMQ) changes hands: fastmq and Apache RocketMQ 5.3.3 serve and extend it in turn.

The judge is Apache's own client, which must read the same from both: ends, messages, offsets of groups of both kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.java import ScenarioRunner
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing

pytestmark = pytest.mark.apache

SETTINGS = {
    "enableLmq": "true",
    "enableMultiDispatch": "true",
    "mappedFileSizeCommitLog": "1048576",
    "mappedFileSizeConsumeQueue": "2000",
}
TOPIC, QUEUES = "light_topic", "a,b,c"
GROUPS = ("%LMQ%light_group", "plain_group")
"""Their offsets are in different tables of lmqConsumerOffset.json."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenarioRunner]:
    try:
        apache_class_path()
        runner = ScenarioRunner("5.3.3", tmp_path_factory.mktemp("client"))
    except ToolchainMissing as reason:
        missing(str(reason))
    yield runner
    runner.close()


@pytest.mark.parametrize("ours_first", [pytest.param(True, id="from-fastmq"), pytest.param(False, id="from-apache")])
@pytest.mark.parametrize("killed", [pytest.param(False, id="stopped"), pytest.param(True, id="killed")])
def test_light_queues_change_hands(client: ScenarioRunner, tmp_path: Path, ours_first: bool, killed: bool) -> None:
    one, other = (FastmqServer, ApachePeer) if ours_first else (ApachePeer, FastmqServer)
    servers = [one(tmp_path / "a", SETTINGS), other(tmp_path / "b", SETTINGS), one(tmp_path / "c", SETTINGS)]

    def read(server: Server, **more: int) -> list[dict[str, Any]]:
        return [
            client.run("light-read", server, topic=TOPIC, group=group, queues=QUEUES, **more)["queues"]
            for group in GROUPS
        ]

    sent: list[str] = []
    before: list[dict[str, Any]] = []
    try:
        for turn, server in enumerate(servers):
            if turn:
                servers[turn - 1].kill() if killed else servers[turn - 1].stop()
                server.take_over(servers[turn - 1])
            server.start()
            if turn == 0:
                client.run("create-topic", server, topic=TOPIC, queues=3)
            else:
                there = read(server)
                if killed:  # offsets committed within the last five seconds may be those of before
                    for rows in (*there, *before):
                        for row in rows.values():
                            del row["consumed"]
                assert there == before
            sent += client.run("light-send", server, topic=TOPIC, queues=QUEUES, count=300, prefix=f"{turn}-")["sent"]
            read(server, commit=7 + turn)
            before = read(server)
            for rows in before:
                assert {name: row["max"] for name, row in rows.items()} == {
                    "%LMQ%a": 300 * (turn + 1), "%LMQ%b": 200 * (turn + 1), "%LMQ%c": 100 * (turn + 1)
                }  # fmt: skip
                assert [body for body, *_ in rows["%LMQ%a"]["messages"]] == sent
                assert {row["consumed"] for row in rows.values()} == {7 + turn}
    finally:
        for server in servers:
            if server.processes:
                server.discard()
