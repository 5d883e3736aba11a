"""Servers under test as whole processes: fastmq, and a real Apache RocketMQ with the same interface."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from support import remoting, toolchains
from support.waiting import wait_until

CLUSTER = "DefaultCluster"
BROKER = "broker-a"

# 18 levels as in the default, all short: retries must not take minutes here
SHORT_DELAY_LEVELS = " ".join(["1s", "2s", *["1s"] * 16])

SETTINGS: Mapping[str, str] = {
    "brokerClusterName": CLUSTER,
    "brokerName": BROKER,
    "brokerId": "0",
    "brokerIP1": "127.0.0.1",
    "brokerRole": "ASYNC_MASTER",
    "flushDiskType": "ASYNC_FLUSH",
    "autoCreateTopicEnable": "true",
    "enablePropertyFilter": "true",
    "traceTopicEnable": "true",
    "recallMessageEnable": "true",
    "fileReservedTime": "72",
    "deleteWhen": "04",
    "maxMessageSize": "4194304",
    "messageDelayLevel": SHORT_DELAY_LEVELS,
    "transactionTimeOut": "2000",
    "transactionCheckInterval": "1000",
    "transactionCheckMax": "3",
    # on a busy machine a queued send is answered late rather than refused
    "waitTimeMillsInSendQueue": "3000",
    "osPageCacheBusyTimeOutMills": "5000",
    # nor is a disk that others keep busy a reason to call a message not stored
    "syncFlushTimeout": "60000",
}

JVM_MODULES = (
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
)


def _free(ports: Sequence[int]) -> bool:
    sockets: list[socket.socket] = []
    try:
        for port in ports:
            one = socket.socket()
            sockets.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", port))
    except OSError:
        return False
    finally:
        for one in sockets:
            one.close()
    return True


def _accepts(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        return True


class PortBlock:
    """Five free neighbouring ports, below the range the system gives to outgoing connections.

    They stay ours as long as the object lives, also while no server listens: another test process that looks for ports
    sees the lock on the block's file.
    """

    SIZE = 5

    def __init__(self) -> None:
        folder = Path(tempfile.gettempdir()) / f"fastmq-test-ports-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        for _ in range(200):
            self.first = random.randrange(15000, 32000, self.SIZE)
            lock = os.open(folder / str(self.first), os.O_RDWR | os.O_CREAT)
            if _locked(lock) and _free(range(self.first, self.first + self.SIZE)):
                weakref.finalize(self, os.close, lock)
                return
            os.close(lock)
        raise AssertionError("no block of free ports was found")


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Server(ABC):
    """A name server and a broker. Ports and data stay the same over stop, kill and restart."""

    name = "server"
    ready_seconds = 240

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.settings = {**SETTINGS, **(settings or {})}
        self.ports = PortBlock()
        self.namesrv_port = self.ports.first
        self.listen_port = self.ports.first + 3  # VIP is first + 1, HA first + 4
        self.log = data / f"{self.name}.log"
        self.processes: list[subprocess.Popen[bytes]] = []
        data.mkdir(parents=True, exist_ok=True)

    @property
    def namesrv(self) -> str:
        return f"127.0.0.1:{self.namesrv_port}"

    @property
    def broker(self) -> str:
        return f"127.0.0.1:{self.listen_port}"

    @property
    def store(self) -> Path:
        return self.data / "store"

    @abstractmethod
    def start(self) -> Server:
        """Starts the processes and waits until both ports serve."""

    def broker_settings(self) -> dict[str, str]:
        """The content of broker.conf."""
        return {
            **self.settings,
            "listenPort": str(self.listen_port),
            "haListenPort": str(self.listen_port + 1),
            "namesrvAddr": self.namesrv,
            "storePathRootDir": str(self.store),
            "storePathCommitLog": str(self.store / "commitlog"),
        }

    def _spawn(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        with self.log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(env),
                    cwd=self.data,
                )
            )

    def _ready(self) -> None:
        def serves() -> bool:
            for process in self.processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{self.name} ended with {process.returncode} at its start:\n{self.log_tail()}")
            if not remoting.has_route(self.namesrv_port, "TBW102"):
                return False
            return _accepts(self.listen_port)

        try:
            wait_until(serves, f"{self.name} serves a route of TBW102 and its broker port", self.ready_seconds)
        except BaseException as error:
            self.kill()
            if isinstance(error, AssertionError):
                raise AssertionError(f"{error}\n{self.log_tail()}") from None
            raise

    def _end(self, number: int, seconds: float) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # fastmq then prints where it is
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                self.processes.clear()
                raise AssertionError(f"{self.name} did not end within {seconds} s\n{self.log_tail()}") from None
        self.processes.clear()

    def ended(self) -> str:
        """Says so when a process has ended without being told to; otherwise empty."""
        for process in self.processes:
            if process.poll() is not None:
                return f"{self.name} ended by itself with {process.returncode}:\n{self.log_tail()}"
        return ""

    def stop(self) -> None:
        """SIGTERM, and waits for an orderly end. AssertionError if a process had ended before."""
        ended = self.ended()
        self._end(signal.SIGTERM, 120)
        assert not ended, ended

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL, 120)

    def restart(self) -> None:
        """An orderly stop, then a start on the same ports and data."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the processes printed."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> Server:
        return self.start()

    def discard(self) -> None:
        """Ends the processes when nobody will look at the data again."""
        self.stop()

    def take_over(self, other: Server) -> None:
        """Uses the ports and the store of another server, which is not running."""
        self.ports, self.namesrv_port, self.listen_port = other.ports, other.namesrv_port, other.listen_port
        self.data = other.data
        self.log = self.data / f"{self.name}.log"

    def __exit__(self, *_: object) -> None:
        if self.processes:
            self.discard()


class FastmqServer(Server):
    """`fastmq serve` of this environment's Python; FASTMQ_TEST_SOURCE names another source folder than ours."""

    name = "fastmq"

    def __init__(self, data: Path, settings: Mapping[str, str] | None = None, hot_road: bool = True) -> None:
        super().__init__(data, settings)
        self.hot_road = hot_road

    def start(self) -> Server:
        command = [sys.executable, "-m", "fastmq", "serve", "--data", str(self.data)]
        command += ["--namesrv-port", str(self.namesrv_port), "--listen-port", str(self.listen_port)]
        for key, value in self.broker_settings().items():
            if key not in ("listenPort", "namesrvAddr"):
                command += ["--set", f"{key}={value}"]
        source = os.environ.get("FASTMQ_TEST_SOURCE") or str(toolchains.TESTS.parent / "src")
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        road = "true" if self.hot_road else "false"
        env = {key: value for key, value in os.environ.items() if not key.startswith("FASTMQ_")}
        env |= {"FASTMQ_HOT_ROAD_ENABLE": road, "PYTHONPATH": path, "HOME": str(self.data), "PYTHONFAULTHANDLER": "1"}
        self._spawn(command, env)
        self._ready()
        return self


class ApachePeer(Server):
    """Apache RocketMQ from its published jars."""

    name = "apache"

    def start(self) -> Server:
        libraries = toolchains.apache_class_path()
        home = self.data / "apache-home"
        home.mkdir(exist_ok=True)
        namesrv_conf = home / "namesrv.conf"
        namesrv_conf.write_text(f"listenPort={self.namesrv_port}\nkvConfigPath={home}/kvConfig.json\n")
        broker_conf = home / "broker.conf"
        broker_conf.write_text("".join(f"{key}={value}\n" for key, value in self.broker_settings().items()))
        logback = "-Drmq.logback.configurationFile=rmq.namesrv.logback.xml"
        self._java(home, libraries, "128m", [logback], "namesrv.NamesrvStartup", namesrv_conf)
        # a broker that does not reach the name server at once tries again only 10 s later
        wait_until(lambda: _accepts(self.namesrv_port), "the name server accepts connections")
        self._start_broker(home, broker_conf)
        self._ready()
        return self

    def _start_broker(self, home: Path, conf: Path) -> None:
        logback = "-Drmq.logback.configurationFile=rmq.broker.logback.xml"
        self._java(home, toolchains.apache_class_path(), "512m", [logback], "broker.BrokerStartup", conf)

    def _java(self, home: Path, libraries: str, heap: str, more: Sequence[str], main: str, conf: Path) -> None:
        options = [toolchains.program("java"), "-server", f"-Xms{heap}", f"-Xmx{heap}", "-XX:MaxDirectMemorySize=512m"]
        options += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Duser.home={home}"]
        options += [f"-Drocketmq.home.dir={home}", "-Dio.netty.tryReflectionSetAccessible=true", *JVM_MODULES, *more]
        env = {key: value for key, value in os.environ.items() if not key.startswith("ROCKETMQ")}
        self._spawn([*options, "-cp", libraries, f"org.apache.rocketmq.{main}", "-c", str(conf)], env)

    def stop(self) -> None:
        super().stop()

        # the HA port may outlive the process for a moment
        wait_until(
            lambda: _free([self.listen_port, self.listen_port + 1, self.namesrv_port]), "the ports are free again"
        )

    def discard(self) -> None:
        self.kill()  # an orderly stop takes 13 s


class Apache4Peer(ApachePeer):
    """A broker of Apache RocketMQ 4.9 at a name server of 5.3.3: of 4.9 only brokers are published."""

    name = "apache4"

    def _start_broker(self, home: Path, conf: Path) -> None:
        folder = home / "conf"
        folder.mkdir(exist_ok=True)
        (folder / "logback_broker.xml").write_text("<configuration/>\n")
        # made for Java 8: it unmaps files by means that later ones keep to themselves
        options = ["--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED"]
        self._java(home, toolchains.apache4_class_path(), "512m", options, "broker.BrokerStartup", conf)


def roads() -> list[str]:
    """What the wire tests run against: both roads of fastmq, or Apache when FASTMQ_TEST_TARGET says so."""
    if os.environ.get("FASTMQ_TEST_TARGET") == "apache":
        return ["apache"]
    return ["hot", "cold"]


def make_server(road: str, data: Path, settings: Mapping[str, str] | None = None) -> Server:
    """A server of one of `roads()`, not started."""
    if road == "apache":
        return ApachePeer(data, settings)
    return FastmqServer(data, settings, hot_road=road == "hot")
