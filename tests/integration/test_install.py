"""An installation where no compiler is at hand: the client works, the servers say what they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.servers import FastmqServer

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import asyncio, sys, fastmq, fastmq.sync
from fastmq.client.basic import BasicClient

async def both(namesrv):
    async with fastmq.Producer(namesrv) as producer:
        await producer.send("Pure", b"from asyncio")
    async with fastmq.Consumer(namesrv, "pure", "Pure", start_from="first") as consumer:
        async for message in consumer:
            print(message.text)
            break

namesrv = sys.argv[1]
asyncio.run(both(namesrv))
with fastmq.sync.Producer(namesrv) as producer:
    print(producer.send("Pure", b"blocking").status.name)
with BasicClient(namesrv) as client:
    print(client.send("Pure", b"basic").topic)
print(fastmq.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fastmq as pip installs it when the compiler fails."""
    folder = tmp_path_factory.mktemp("install")
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    kept = ROOT / "build" / "cython"
    if kept.exists():  # C that is there already need not be made again
        shutil.copytree(kept, source / "build" / "cython", ignore=shutil.ignore_patterns("*.o"))
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-q"]
    done = subprocess.run(
        [*command, "--target", str(target), str(source)],
        env={**os.environ, "CC": "/bin/false"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list((target / "fastmq").glob("*.so")), "the compiler did work"
    return target


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], env=env, cwd=installed, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_client_works(installed: Path, tmp_path: Path) -> None:
    with FastmqServer(tmp_path) as server:
        done = run(installed, "-W", "error", "-c", PROGRAM, server.namesrv)
    assert done.returncode == 0, done.stderr
    *said, where = done.stdout.splitlines()
    assert said == ["from asyncio", "SEND_OK", "Pure"]
    assert where.startswith(str(installed))


@pytest.mark.parametrize("words", [("serve",), ("nameserver",), ("bench", "send")])
def test_what_needs_the_compiled_parts_says_so(installed: Path, words: tuple[str, ...]) -> None:
    done = run(installed, "-m", "fastmq", *words)
    assert done.returncode == 1
    assert "needs the compiled part" in done.stderr
    assert "Traceback" not in done.stderr
