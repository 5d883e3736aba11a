"""JVMs that work through jobs: the official client's scenarios, and mqadmin commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support import toolchains
from support.lines import LineProgram, describe
from support.servers import JVM_MODULES, Server


def _java(folder: Path, class_path: str, options: Sequence[str]) -> list[str]:
    command = [toolchains.program("java"), "-Xms64m", "-Xmx768m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    command += [f"-Duser.home={folder}", f"-Drocketmq.home.dir={folder}", "-Drocketmq.client.logLevel=WARN"]
    # one late answer must not end the connection that other requests of a scenario use
    command += ["-Dcom.rocketmq.remoting.client.closeSocketIfTimeout=false"]
    command += ["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", "-Dio.netty.tryReflectionSetAccessible=true"]
    return [*command, *JVM_MODULES, *options, "-cp", class_path]


class ScenarioRunner(LineProgram):
    """The official Java client of one version."""

    def __init__(self, version: str, folder: Path, options: Sequence[str] = (), threads: int = 8) -> None:
        class_path = toolchains.client_class_path(version)
        super().__init__([*_java(folder, class_path, options), "wire.Runner", str(threads)], folder)

    def run(self, scenario: str, server: Server, seconds: float = 300, /, **params: object) -> dict[str, Any]:
        """Runs one scenario and returns its data; AssertionError when it fails. `a_b` is the parameter `a-b`."""
        named = {key.replace("_", "-"): value for key, value in params.items()}
        outcome = self.outcome(self.begin(scenario, {"namesrv": server.namesrv, **named}), seconds)
        assert outcome["ok"], f"{scenario}: {describe(outcome)}"
        data: dict[str, Any] = outcome["data"]
        return data


class AdminRunner(LineProgram):
    """Apache's mqadmin, one JVM for many commands."""

    def __init__(self, folder: Path) -> None:
        super().__init__([*_java(folder, toolchains.tools_class_path(), ()), "wire.AdminRunner"], folder)

    def run(self, *arguments: str, seconds: float = 60) -> str:
        """Runs one command and returns what it printed. A command that does not end is interrupted after `seconds`."""
        job = self.submit(str(int(seconds * 1000)), *(quote(argument, safe="") for argument in arguments))
        outcome = self.outcome(job, seconds + 20)
        assert outcome["ok"], f"mqadmin {' '.join(arguments)}: {describe(outcome)}"
        printed: str = outcome["out"]
        return printed
