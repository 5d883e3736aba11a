"""A child process that takes jobs as lines and answers with one JSON object a line."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

Outcome = dict[str, Any]


def describe(outcome: Outcome) -> str:
    """The failure of a job as a reader wants it."""
    return f"{outcome.get('error')}\n{outcome.get('trace', '')}\n{outcome.get('data') or ''}".strip()


class LineProgram:
    """A running program; jobs and outcomes are matched by id."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.errors = folder / "stderr.log"
        self._ids = count(1)
        self._outcomes: dict[str, Outcome] = {}
        self._news = threading.Condition()
        self._ended = False
        with self.errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=folder
            )
        self._reader = threading.Thread(target=self._read, name="outcomes", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(b"{"):
                outcome: Outcome = json.loads(line)
                with self._news:
                    self._outcomes[outcome["id"]] = outcome
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def submit(self, *fields: str) -> str:
        """Gives a job to the program and returns its id."""
        job = str(next(self._ids))
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(("\t".join((job, *fields)) + "\n").encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the outcome will say so
        return job

    def begin(self, scenario: str, params: Mapping[str, object]) -> str:
        """Starts a scenario with named parameters and returns the id of its job."""
        return self.submit(scenario, *(f"{key}={quote(str(value), safe='')}" for key, value in params.items()))

    def outcome(self, job: str, seconds: float) -> Outcome:
        """Waits for the outcome of a job. A failed one is made up when the program ends or is silent for too long."""
        with self._news:
            self._news.wait_for(lambda: self._ended or job in self._outcomes, seconds)
            if job in self._outcomes:
                return self._outcomes.pop(job)
            why = "the program ended" if self._ended else f"nothing came within {seconds} s"
        tail = self.errors.read_text(errors="replace")[-2000:]
        return {"id": job, "ok": False, "error": f"{why}; its stderr ends:\n{tail}", "data": {}, "out": "", "millis": 0}

    def kill(self) -> None:
        """Ends the program in the middle of whatever it does."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the program's input, waits for it, kills it if it stays."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
