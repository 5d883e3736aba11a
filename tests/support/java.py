"""A JVM that works through jobs: the client scenarios, or mqadmin commands."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support import toolchains
from support.servers import JVM_MODULES, Server

Outcome = dict[str, Any]


class LineProgram:
    """A child process: one job a line in, one JSON object a line out, matched by id."""

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
        self._process.stdin.write(("\t".join((job, *fields)) + "\n").encode())
        self._process.stdin.flush()
        return job

    def outcome(self, job: str, seconds: float) -> Outcome:
        """Waits for the outcome of a job."""
        with self._news:
            self._news.wait_for(lambda: self._ended or job in self._outcomes, seconds)
            if job in self._outcomes:
                return self._outcomes.pop(job)
            why = "the program ended" if self._ended else f"nothing came within {seconds} s"
        tail = self.errors.read_text(errors="replace")[-2000:]
        return {"id": job, "ok": False, "error": f"{why}; its stderr ends:\n{tail}", "data": {}, "out": "", "millis": 0}

    def close(self) -> None:
        """Ends the program's input, waits for it, kills it if it stays."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()


def _java(folder: Path, class_path: str, options: Sequence[str]) -> list[str]:
    command = [toolchains.program("java"), "-Xms64m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [f"-Duser.home={folder}", f"-Drocketmq.home.dir={folder}", "-Drocketmq.client.logLevel=WARN"]
    command += ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Dio.netty.tryReflectionSetAccessible=true"]
    return [*command, *JVM_MODULES, *options, "-cp", class_path]


def describe(outcome: Outcome) -> str:
    """The failure of a job as a reader wants it."""
    return f"{outcome.get('error')}\n{outcome.get('trace', '')}\n{outcome.get('data') or ''}".strip()


class ScenarioRunner(LineProgram):
    """The official Java client of one version."""

    def __init__(self, version: str, folder: Path, options: Sequence[str] = (), threads: int = 8) -> None:
        class_path = toolchains.client_class_path(version)
        super().__init__([*_java(folder, class_path, options), "wire.Runner", str(threads)], folder)

    def begin(self, scenario: str, server: Server, params: Mapping[str, object] | None = None) -> str:
        """Starts a scenario and returns the id of its job."""
        fields = {"namesrv": server.namesrv, **(params or {})}
        return self.submit(scenario, *(f"{key}={quote(str(value), safe='')}" for key, value in fields.items()))

    def run(self, scenario: str, server: Server, seconds: float = 90, /, **params: object) -> dict[str, Any]:
        """Runs one scenario and returns its data; AssertionError when it fails."""
        named = {key.replace("_", "-"): value for key, value in params.items()}
        outcome = self.outcome(self.begin(scenario, server, named), seconds)
        assert outcome["ok"], f"{scenario}: {describe(outcome)}"
        data: dict[str, Any] = outcome["data"]
        return data


class AdminRunner(LineProgram):
    """Apache's mqadmin, one JVM for many commands."""

    def __init__(self, folder: Path) -> None:
        super().__init__([*_java(folder, toolchains.tools_class_path(), ()), "wire.AdminRunner"], folder)

    def run(self, *arguments: str, seconds: float = 20) -> str:
        """Runs one command and returns what it printed. A command that does not end is interrupted after `seconds`."""
        job = self.submit(str(int(seconds * 1000)), *(quote(argument, safe="") for argument in arguments))
        outcome = self.outcome(job, seconds + 20)
        assert outcome["ok"], f"mqadmin {' '.join(arguments)}: {describe(outcome)}"
        printed: str = outcome["out"]
        return printed
