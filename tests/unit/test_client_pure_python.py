"""The client needs no compiled extension, and the package imports none of it until it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fastmq

SOURCE = str(Path(fastmq.__file__).parents[1])

WITHOUT_EXTENSIONS = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in ("fastmq._codec", "fastmq._store", "fastmq._reactor", "fastmq._load"):
            raise ImportError(f"{name} is not built", name=name)

sys.meta_path.insert(0, Blocked())
"""


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {SOURCE!r})\n{script}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_everything_of_the_client_imports_without_extensions() -> None:
    script = f"""{WITHOUT_EXTENSIONS}
import fastmq, fastmq.sync, pkgutil, importlib
for name in fastmq.__all__:
    getattr(fastmq, name)
for package in ("fastmq.client", "fastmq.protocol"):
    for one in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(one.name)
from fastmq.protocol import command, _frames
assert command.decode_frame is _frames.decode_frame
print("fine")
"""
    assert run(script) == "fine"


def test_the_package_alone_imports_nothing_of_the_client() -> None:
    loaded = run(
        "import fastmq; print(*[name for name in sys.modules if name.startswith(('fastmq.', 'anyio', 'trio'))])"
    )
    assert loaded == ""


def test_all_names_are_there() -> None:
    assert set(fastmq.__all__) <= set(dir(fastmq))
    for name in fastmq.__all__:
        assert getattr(fastmq, name).__name__ == name or callable(getattr(fastmq, name))


def test_commands_of_a_user_run_without_extensions_and_servers_say_what_is_missing() -> None:
    script = f"""{WITHOUT_EXTENSIONS}
import contextlib, io
from fastmq.cli import main
said = io.StringIO()
with contextlib.redirect_stderr(said):
    codes = main(["topic", "list", "-n", "127.0.0.1:1"]), main(["serve"])
print(codes, said.getvalue())
"""
    printed = run(script)
    assert printed.startswith("(1, 1) fastmq: no name server answers")
    assert "serve needs the compiled part fastmq._" in printed
