"""fastmq's Python client against the other Python clients of RocketMQ: `make bench-client`.

    PYTHONPATH=src python bench/client_compare.py [--rounds N] [--seconds S] [--server apache|fastmq ...] [NAME ...]

All of them talk to one broker, a real Apache RocketMQ 5.3.3 that is started here from its published jars (JDK and Maven
needed; 4 GiB heap). Its proxy, which the gRPC client needs, runs in the broker's process (local mode), which saves that
client a hop. Bodies of 1 KiB, topics of 8 queues, rounds interleaved, each run a process of its own; only what the
broker said is stored counts as sent. `--server fastmq` compares those that speak remoting against fastmq as well.

The others are installed with pip into environments of their own under build/clients. One that cannot be installed or
loaded is named below the tables. How many sends a client may have in flight is tried out first; the best is taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rig import ROOT, ApacheForBench, bench, environment, serving, table

from fastmq import sync
from support import toolchains
from support.servers import JVM_MODULES, PortBlock, Server, _accepts
from support.waiting import wait_until

FOLDER = ROOT / "bench" / "clients"
KEPT = ROOT / "build" / "clients"
DEPTHS = (256, 1024, 4096)
BACKLOG = 400_000
OURS = "fastmq"
GRPC = "gRPC, rocketmq-python-client 5.1.2"
FORK = "C++ binding, fork rocketmq 0.4.4"
CPP = "C++ binding, rocketmq-client-python 2.0.0"
PACKAGES = {
    GRPC: ("rocketmq-python-client==5.1.2", "grpc_client.py", "import rocketmq"),
    FORK: ("rocketmq==0.4.4", "cpp_client.py", "import rocketmq.client"),
    CPP: ("rocketmq-client-python==2.0.0", "cpp_client.py", "import rocketmq.client"),
}
PIPELINED, SINGLE, CONSUMED = "pipelined sends", "sends one by one", "consumed"


@dataclass(frozen=True)
class Run:
    """One way of using one client."""

    name: str
    client: str
    load: str
    title: str
    mode: str


RUNS = (
    Run("asyncio", OURS, PIPELINED, "`send_async`, asyncio", "asyncio-pipelined"),
    Run("trio", OURS, PIPELINED, "`send_async`, trio", "trio-pipelined"),
    Run("sync", OURS, PIPELINED, "`sync`, `send_async`", "sync-pipelined"),
    Run("grpc", GRPC, PIPELINED, "`send_async`", "send-async"),
    Run("fork", FORK, PIPELINED, "`send_async`", "send-async"),
    Run("asyncio-1", OURS, SINGLE, "`await send`, asyncio", "asyncio-one-by-one"),
    Run("sync-1", OURS, SINGLE, "`sync`, `send`", "sync-send"),
    Run("grpc-1", GRPC, SINGLE, "`send`", "send"),
    Run("fork-1", FORK, SINGLE, "`send_sync`", "send"),
    Run("cpp-1", CPP, SINGLE, "`send_sync`", "send"),
    Run("listener", OURS, CONSUMED, "`PushConsumer`, asyncio", "asyncio-listener"),
    Run("iteration", OURS, CONSUMED, "`async for`, asyncio", "asyncio-iteration"),
    Run("trio-listener", OURS, CONSUMED, "`PushConsumer`, trio", "trio-listener"),
    Run("sync-iteration", OURS, CONSUMED, "`sync`, `for`", "sync-iteration"),
    Run("grpc-push", GRPC, CONSUMED, "`PushConsumer`", "push"),
    Run("grpc-simple", GRPC, CONSUMED, "`SimpleConsumer`, 8 threads", "simple"),
    Run("fork-push", FORK, CONSUMED, "`PushConsumer`", "push"),
    Run("cpp-push", CPP, CONSUMED, "`PushConsumer`", "push"),
)


class ApacheWithProxy(ApacheForBench):
    """Apache RocketMQ whose broker and proxy are one process."""

    ready_seconds = 240

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.grpc_ports = PortBlock()
        self.grpc_port = self.grpc_ports.first

    def _spawn(self, command: Sequence[str], env: dict[str, str]) -> None:  # type: ignore[override]
        words = list(command)
        main = next((word for word in words if word.endswith(".BrokerStartup")), None)
        if main is not None:
            home = self.data / "apache-home"
            settings = {
                "rocketMQClusterName": self.settings["brokerClusterName"],
                "proxyClusterName": self.settings["brokerClusterName"],
                "namesrvAddr": self.namesrv,
                "proxyMode": "LOCAL",
                "grpcServerPort": self.grpc_port,
                "remotingListenPort": self.grpc_port + 1,
                "localServeAddr": "127.0.0.1",
            }
            (home / "proxy.json").write_text(json.dumps(settings))
            words[words.index("-cp") + 1] = toolchains.proxy_class_path()
            at = words.index(main)
            words[at:] = ["org.apache.rocketmq.proxy.ProxyStartup", "-n", self.namesrv, "-pm", "local"]
            words += ["-bc", str(home / "broker.conf"), "-pc", str(home / "proxy.json")]
            words[1:1] = list(JVM_MODULES)
            env = {**env, "RMQ_PROXY_HOME": str(home)}
        super()._spawn(words, env)

    def _ready(self) -> None:
        super()._ready()

        def serves() -> bool:
            with contextlib.suppress(OSError):
                return _accepts(self.grpc_port)
            return False

        wait_until(serves, "the proxy takes connections", self.ready_seconds)


@contextlib.contextmanager
def apache() -> Iterator[ApacheWithProxy]:
    """The server, with data that goes away at the end."""
    with serving(apache=ApacheWithProxy) as server:
        assert isinstance(server, ApacheWithProxy)
        yield server


# --- other clients ---------------------------------------------------------------------------------------------------


def installed(client: str) -> tuple[str, str]:
    """(Python that has a client, empty), or (empty, why there is none)."""
    package, _, check = PACKAGES[client]
    folder = KEPT / package.replace("==", "-")
    python = folder / "bin" / "python"
    if not (folder / "installed").exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", package],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return "", f"cannot be installed: {_last(done.stderr or done.stdout)}"
        (folder / "installed").touch()
    done = subprocess.run([str(python), "-c", check], capture_output=True, text=True, env=_plain(), check=False)
    if done.returncode != 0:
        return "", f"is installed, but cannot be loaded: {_last(done.stderr)}"
    return str(python), ""


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no words"])[-1][:200]


def _plain() -> dict[str, str]:
    """An environment in which their logs go to a folder of ours."""
    home = KEPT / "home"
    home.mkdir(parents=True, exist_ok=True)
    env = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    return env | {"HOME": str(home)}


# --- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    messages: int = 0
    seconds: float = 1.0
    cpu: float = 0.0
    failed: int = 0
    words: str = ""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor time of the client for a message, µs."""
        return self.cpu / max(1, self.messages) * 1e6


class Bench:
    """One server, and what was measured on it."""

    def __init__(self, server: Server, pythons: dict[str, str], seconds: float) -> None:
        self.server = server
        self.outcomes: dict[str, list[Outcome]] = {}
        self.depths: dict[str, int] = {}
        self._pythons = pythons
        self._seconds = seconds
        self._number = 0
        with sync.Admin(server.namesrv) as admin:
            for topic in ("Sent", "Backlog"):
                admin.create_topic(topic, queues=8, attributes={"message.type": "NORMAL"})
        bench(server, "send", "-c", 4, "-d", 64, "-t", "Sent", "-s", 8)  # a JVM compiles
        bench(server, "send", "-c", 4, "-d", 32, "-t", "Backlog", "--count", BACKLOG, "--warm-up", 0)

    def run(self, run: Run, depth: int, seconds: float) -> Outcome:
        """One run of one client."""
        self._number += 1
        group = f"compared-{self._number}"
        consumes = run.load == CONSUMED
        topic = "Backlog" if consumes else "Sent"
        if consumes:
            self._begin_at_first(group, topic)
        address = self.server.namesrv
        if run.client == GRPC:
            assert isinstance(self.server, ApacheWithProxy)
            address = f"127.0.0.1:{self.server.grpc_port}"
        ours = run.client == OURS
        program = FOLDER / ("fastmq_client.py" if ours else PACKAGES[run.client][1])
        command = [sys.executable if ours else self._pythons[run.client], str(program), run.mode]
        command += ["--address", address, "--topic", topic, "--group", group, "--seconds", str(seconds)]
        command += ["--depth", str(depth), "--count", str(BACKLOG)]
        subprocess.run(["sync"], check=True)
        try:
            done = subprocess.run(
                command, env=environment() if ours else _plain(), capture_output=True, text=True,
                timeout=seconds + 100, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(words="did not end")
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if not lines:
            return Outcome(words=_last(done.stderr or f"ended with {done.returncode}"))
        return Outcome(**json.loads(lines[-1]))

    def _begin_at_first(self, group: str, topic: str) -> None:
        """The group has an offset, so that every client begins at the same message."""
        with sync.Admin(self.server.namesrv) as admin:
            admin.create_group(group)
            for queue in admin.topic_stats(topic):
                admin.set_offset(group, queue, 0)

    def find_depth(self, run: Run) -> None:
        """How many sends in flight suit a client best, by one short run each."""
        tried = {depth: self.run(run, depth, 1.5) for depth in DEPTHS}
        good = {depth: one for depth, one in tried.items() if not one.failed and one.messages}
        best = max(good or tried, key=lambda depth: tried[depth].rate)
        self.depths[run.name] = best
        shown = ", ".join(f"{depth}: {one.rate:,.0f}/s {one.words}".strip() for depth, one in tried.items())
        print(f"{run.client} {run.title}: {shown}", file=sys.stderr, flush=True)

    def measure(self, run: Run) -> None:
        """One run more."""
        outcome = self.run(run, self.depths.get(run.name, 1), self._seconds)
        self.outcomes.setdefault(run.name, []).append(outcome)
        print(f"{run.client} {run.title} {run.load}: {outcome.rate:,.0f}/s {outcome}", file=sys.stderr, flush=True)


def rows(measured: Bench, load: str, runs: Sequence[Run]) -> list[list[str]]:
    """Lines of a table: medians, CPU a message, how fast the best of ours is against each other client."""
    found: list[list[str]] = []
    best = max(
        (statistics.median(one.rate for one in measured.outcomes[run.name]) for run in runs
         if run.load == load and run.client == OURS), default=0.0,
    )  # fmt: skip
    for run in runs:
        if run.load != load:
            continue
        outcomes = measured.outcomes[run.name]
        rates = [one.rate for one in outcomes]
        median = statistics.median(rates)
        words = sorted({one.words for one in outcomes if one.words})
        failed = sum(one.failed for one in outcomes)
        if failed:
            words.append(f"{failed:,} failed")
        ratio = "" if run.client == OURS or not median else f"{best / median:.1f}"
        found.append([
            load, run.client, run.title, str(measured.depths.get(run.name, "")), f"{median:,.0f}",
            f"{min(rates):,.0f} .. {max(rates):,.0f}", f"{statistics.median(one.cpu_us for one in outcomes):.1f}",
            ratio, "; ".join(words),
        ])  # fmt: skip
    return found


def compare(server: Server, runs: Sequence[Run], pythons: dict[str, str], options: argparse.Namespace) -> str:
    """All runs against one server; the table."""
    measured = Bench(server, pythons, options.seconds)
    for run in runs:
        if run.load == PIPELINED:
            measured.find_depth(run)
    for number in range(options.rounds):
        for run in runs if number % 2 == 0 else reversed(runs):
            measured.measure(run)
    head = ["load", "client", "how", "in flight", "messages/s", "from .. to", "CPU µs a message", "fastmq's best ×", ""]
    return table(head, [row for load in (PIPELINED, SINGLE, CONSUMED) for row in rows(measured, load, runs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--server", action="append", choices=("apache", "fastmq"))
    parser.add_argument("names", nargs="*", help=f"{', '.join(run.name for run in RUNS)}; all by default")
    options = parser.parse_args()
    names = options.names or [run.name for run in RUNS]
    unknown = set(names) - {run.name for run in RUNS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    wanted = [run for run in RUNS if run.name in names]
    pythons: dict[str, str] = {}
    remarks: list[str] = []
    for client in PACKAGES:
        if any(run.client == client for run in wanted):
            pythons[client], problem = installed(client)
            if problem:
                remarks.append(f"{client}: {problem}")
                print(remarks[-1], file=sys.stderr, flush=True)
    runs = [run for run in wanted if run.client == OURS or pythons[run.client]]
    print(f"{time.strftime('%Y-%m-%d')}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, 1 KiB, 8 queues\n")
    for name in options.server or ("apache",):
        with apache() if name == "apache" else serving() as server:
            shown = [run for run in runs if name == "apache" or run.client != GRPC]
            title = "Apache RocketMQ 5.3.3" if name == "apache" else "fastmq"
            print(f"Broker: {title}\n\n{compare(server, shown, pythons, options)}\n", flush=True)
    for remark in remarks:
        print(remark)


if __name__ == "__main__":
    main()
