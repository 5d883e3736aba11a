"""The examples of docs/client.md and of README.md run as they stand there, with fastmq and with Apache RocketMQ."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmq
import fastmq.sync
from client.faces import PATIENCE
from support.servers import Server

SOURCE = str(Path(fastmq.__file__).parents[1])
ROOT = Path(__file__).parents[2]
EXAMPLES = [
    example
    for page in ("README.md", "docs/client.md")
    for example in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
]


@pytest.fixture
def warm(server: Server) -> Server:
    """The first send to a server takes longest, on a busy machine longer than the examples wait."""
    with fastmq.sync.Producer(server.namesrv, timeout=PATIENCE, try_timeout=PATIENCE) as producer:
        producer.send("warm-up", b"x")
    return server


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 6


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(warm: Server, number: int) -> None:
    text = EXAMPLES[number].replace("127.0.0.1:9876", warm.namesrv)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {SOURCE!r})\n{text}"],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    if warm.name == "apache4" and "PopConsumer" in text:
        assert "fastmq.client.errors.NotSupported" in done.stderr
        return
    assert done.returncode == 0, f"{EXAMPLES[number]}\n{done.stdout}{done.stderr}"
