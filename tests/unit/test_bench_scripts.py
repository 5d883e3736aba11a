"""The scripts of bench/ say how they are used: they load, with what they take from the tests' support."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.name for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text() and path.name != "rig.py"
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_how_it_is_used(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / script), "--help"],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")
