"""The command line: which settings each command ends up with, and what a user is told about mistakes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastmq
from fastmq import cli, logs
from fastmq.config import BrokerConfig, NamesrvConfig


class Launch:
    """What a command would have run."""

    broker: BrokerConfig | None = None
    namesrv: NamesrvConfig | None = None

    def run_serve(self, broker: BrokerConfig, namesrv: NamesrvConfig, **_: Any) -> int:
        self.broker, self.namesrv = broker, namesrv
        return 7

    def run_broker(self, broker: BrokerConfig, **_: Any) -> int:
        self.broker = broker
        return 8

    def run_nameserver(self, namesrv: NamesrvConfig, **_: Any) -> int:
        self.namesrv = namesrv
        return 9


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Launch]:
    launch = Launch()
    module = SimpleNamespace(
        run_serve=launch.run_serve, run_broker=launch.run_broker, run_nameserver=launch.run_nameserver
    )
    monkeypatch.setitem(sys.modules, "fastmq.serve", module)
    monkeypatch.setattr(fastmq, "serve", module, raising=False)
    monkeypatch.chdir(tmp_path)
    logger = logging.getLogger(logs.ROOT)
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield launch
    logger.handlers[:], logger.level, logger.propagate = before


def run(*arguments: str, **env: str) -> int:
    return cli.main(arguments, {"HOME": "/home/op", **env})


def test_serve_needs_no_arguments(launch: Launch, tmp_path: Path) -> None:
    assert run("serve") == 7
    assert launch.broker is not None
    assert launch.namesrv is not None
    assert (launch.broker.listen_port, launch.namesrv.listen_port) == (10911, 9876)
    assert (launch.broker.bind_address, launch.namesrv.bind_address) == ("127.0.0.1", "127.0.0.1")
    assert launch.broker.store_path_root_dir == str(tmp_path / "fastmq-data" / "store")
    assert launch.namesrv.kv_config_path == str(tmp_path / "fastmq-data" / "namesrv" / "kvConfig.json")


def test_serve_takes_ports_data_and_properties_of_both(launch: Launch, tmp_path: Path) -> None:
    conf = tmp_path / "broker.conf"
    conf.write_text("brokerName=from-file\nstorePathRootDir=/elsewhere\nlistenPort=1\n")
    run(
        "serve", "-c", str(conf), "--data", "d", "--namesrv-port", "0", "--listen-port", "0", "--bind", "0.0.0.0",
        "--set", "brokerIP1=10.0.0.1", "--set", "namesrv.orderMessageEnable=true", "--set", "deleteWhen=1",
    )  # fmt: skip
    assert launch.broker is not None
    assert launch.namesrv is not None
    assert (launch.broker.listen_port, launch.namesrv.listen_port) == (0, 0)
    assert (launch.broker.bind_address, launch.namesrv.bind_address) == ("0.0.0.0", "0.0.0.0")
    assert launch.broker.broker_name == "from-file"
    assert launch.broker.broker_ip1 == "10.0.0.1"
    assert launch.broker.store_path_root_dir == str(tmp_path / "d" / "store"), "--data wins over the file"
    assert launch.namesrv.order_message_enable


def test_the_environment_tells_broker_and_name_server_apart(launch: Launch) -> None:
    run("serve", FASTMQ_LISTEN_PORT="1234", FASTMQ_NAMESRV_LISTEN_PORT="5678", FASTMQ_STORE_PATH_ROOT_DIR="/x")
    assert launch.broker is not None
    assert launch.namesrv is not None
    assert (launch.broker.listen_port, launch.namesrv.listen_port) == (1234, 5678)
    assert launch.broker.store_path_root_dir == "/x"


def test_a_broker_alone_replaces_rocketmq_s(launch: Launch, tmp_path: Path) -> None:
    conf = tmp_path / "broker.conf"
    conf.write_text("namesrvAddr=10.0.0.1:9876\n")
    assert run("broker", "-c", str(conf)) == 8
    assert launch.broker is not None
    assert launch.broker.store_path_root_dir == "/home/op/store"
    assert launch.broker.namesrv_addresses == (("10.0.0.1", 9876),)
    run("broker", "-c", str(conf), "-n", "10.0.0.2:9876;10.0.0.3:9876")
    assert [host for host, _ in launch.broker.namesrv_addresses] == ["10.0.0.2", "10.0.0.3"]


def test_a_name_server_alone(launch: Launch, tmp_path: Path) -> None:
    assert run("nameserver", "-p", "0", "--data", "d") == 9
    assert launch.namesrv is not None
    assert launch.namesrv.listen_port == 0
    assert launch.namesrv.kv_config_path == str(tmp_path / "d" / "namesrv" / "kvConfig.json")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["serve", "--set", "listenPort"], "--set listenPort: must be KEY=VALUE"),
        (["serve", "--set", "=1"], "must be KEY=VALUE"),
        (["serve", "--listen-port", "x"], "listenPort=x (command line): must be a whole number"),
        (["broker", "-c", "absent.conf"], "cannot read absent.conf"),
        (["broker", "--set", "brokerRole=SLAVE"], "replication is not built yet"),
        (["nameserver", "-p", "99999"], "must be between 0 and 65535"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    launch: Launch, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastmq: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert launch.broker is None
    assert launch.namesrv is None


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--no-such-flag"], ["serve", "--log-level", "loud"]])
def test_unknown_words_are_explained_with_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments, {})
    assert caught.value.code == 2
    assert "usage: fastmq" in capsys.readouterr().err


def test_notes_about_settings_are_logged(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--json", "--set", "listenPrt=1") == 7
    line = capsys.readouterr().err
    assert '"level":"warning"' in line
    assert "did you mean listenPort?" in line


def test_the_version_is_told_without_loading_the_server() -> None:
    code = "import sys; from fastmq.cli import main\ntry: main(['--version'])\nfinally: print('trio' in sys.modules)"
    source = str(Path(fastmq.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [f"fastmq {fastmq.__version__}", "False"]


def test_python_m_fastmq_is_the_same_program() -> None:
    source = str(Path(fastmq.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "fastmq", "--version"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": source},
        check=True,
        timeout=60,
    )
    assert done.stdout == f"fastmq {fastmq.__version__}\n"


def test_a_server_may_open_as_many_files_as_the_system_allows() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256));"
        "from fastmq.serve import raise_file_limit; print(raise_file_limit(), raise_file_limit(100));"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    source = str(Path(fastmq.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["256 256", "(256, 256)"]


def test_an_empty_data_directory_is_refused(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--data", "") == 2
    assert "--data" in capsys.readouterr().err
