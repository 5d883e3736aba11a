"""The examples of docs/client.md run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastmq
from support.servers import FastmqServer, Server

SOURCE = str(Path(fastmq.__file__).parents[1])
GUIDE = Path(__file__).parents[2] / "docs" / "client.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with FastmqServer(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(running: Server, number: int) -> None:
    text = EXAMPLES[number].replace("127.0.0.1:9876", running.namesrv)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {SOURCE!r})\n{text}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{EXAMPLES[number]}\n{done.stdout}{done.stderr}"
