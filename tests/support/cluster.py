"""Name servers and brokers of fastmq, each a process of its own that can be killed, stopped or frozen by itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import remoting, toolchains
from support.servers import SETTINGS, PortBlock
from support.waiting import wait_until


class Member:
    """One process. Its port and data stay the same over its ends and starts."""

    def __init__(self, name: str, port: int, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.port = port
        self._command = [sys.executable, "-m", "fastmq", *command]
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def _accepts(self) -> bool:
        assert not self.ended(), self.ended()
        with socket.create_connection(("127.0.0.1", self.port), timeout=2):
            return True

    def start(self) -> None:
        """Starts it and waits until its port is open."""
        env = {key: value for key, value in os.environ.items() if not key.startswith("FASTMQ_")}
        env |= {"PYTHONPATH": str(toolchains.TESTS.parent / "src"), "HOME": str(self._folder)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=self._folder
            )
        wait_until(self._accepts, f"{self.name} listens", 60)

    def ended(self) -> str:
        """Says so when it has ended without being told to; otherwise empty."""
        if self._process is None or self._process.poll() is None:
            return ""
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])
        return f"{self.name} ended by itself with {self._process.returncode}:\n{tail}"

    def _signal(self, number: int) -> None:
        assert self._process is not None
        assert not self.ended(), self.ended()
        self._process.send_signal(number)

    def end(self, number: int) -> None:
        """SIGKILL or SIGTERM, and waits for the end. AssertionError if it had ended before."""
        if self._process is not None:
            self._signal(number)
            self._process.wait(60)
            self._process = None

    def freeze(self) -> None:
        """It stands still, its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)


class Cluster:
    """Two name servers and two brokers, `broker-a` and `broker-b`. Use it inside `with`."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True)
        self._ports = [PortBlock() for _ in range(3)]
        names, *blocks = (one.first for one in self._ports)
        self.name_servers = [
            Member(f"namesrv-{port}", port, ["nameserver", "-p", str(port), "--data", str(folder / f"n{port}")], folder)
            for port in (names, names + 1)
        ]
        self.namesrv = ";".join(one.address for one in self.name_servers)
        self.brokers = []
        for letter, block in zip("ab", blocks, strict=True):
            port = block + 2  # the VIP port is two below
            command = ["broker", "-n", self.namesrv, "--listen-port", str(port), "--data", str(folder / letter)]
            own = {"brokerName": f"broker-{letter}", "haListenPort": str(port + 1), "registerNameServerPeriod": "10000"}
            for key, value in {**SETTINGS, **own, **(settings or {})}.items():
                command += ["--set", f"{key}={value}"]
            self.brokers.append(Member(f"broker-{letter}", port, command, folder))

    @property
    def members(self) -> list[Member]:
        """All of them."""
        return [*self.name_servers, *self.brokers]

    def registered(self) -> bool:
        """Whether each name server knows all brokers."""
        brokers = {one.name for one in self.brokers}
        return all(remoting.brokers_of(one.port, "TBW102") == brokers for one in self.name_servers)

    def __enter__(self) -> Cluster:
        try:
            for one in self.members:
                one.start()
            wait_until(self.registered, "both brokers are registered at both name servers", 60)
        except BaseException:
            self._end()
            raise
        return self

    def _end(self) -> None:
        for one in self.members:
            if not one.ended():
                one.end(signal.SIGKILL)

    def __exit__(self, *_: object) -> None:
        self._end()
