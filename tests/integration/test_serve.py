"""`fastmq serve` as a process: what an operator sees."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastmq.client.basic import BasicClient, ServerError
from support.remoting import call
from support.servers import FastmqServer, PortBlock
from support.waiting import wait_until

SOURCE = str(Path(__file__).parents[2] / "src")


@pytest.fixture(params=[True, False], ids=["hot", "cold"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> FastmqServer:
    server = FastmqServer(tmp_path, hot_road=request.param)
    server.start()
    yield server
    if server.processes:
        server.stop()


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def test_the_example_of_the_readme(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        sent = [client.send("TopicTest", f"hello {i}".encode(), keys=f"k{i}", tag="T") for i in range(20)]
        assert len({result.message_id for result in sent}) == 20
        received = list(client.receive("TopicTest", group="readme"))
        assert sorted(message.body for message in received) == sorted(f"hello {i}".encode() for i in range(20))
        assert all(message.get("TAGS") == "T" for message in received)
        assert list(client.receive("TopicTest", group="readme", wait_s=0)) == [], "each group gets a message once"
        assert len(list(client.receive("TopicTest", group="other"))) == 20


def test_many_topics_made_by_their_first_send(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        for number in range(12):
            client.send(f"made-{number}", b"first")
        for number in range(12):
            assert [message.body for message in client.receive(f"made-{number}", group="g")] == [b"first"]


def test_messages_and_offsets_are_there_after_a_restart(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        for i in range(10):
            client.send("T", b"before %d" % i)
        assert len(list(client.receive("T", group="g"))) == 10
    server.restart()
    with BasicClient(server.namesrv) as client:
        client.send("T", b"after")
        assert [message.body for message in client.receive("T", group="g")] == [b"after"]
        assert len(list(client.receive("T", group="new"))) == 11


def test_an_idle_server_is_small(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        client.send("T", b"one")
    assert resident_kib(server.processes[0].pid) < 60 * 1024
    assert disk_bytes(server.data) < 100_000_000
    segments = list((server.store / "commitlog").iterdir())
    assert all(path.stat().st_size == 1 << 30 for path in segments), "segments have RocketMQ's full length"


def test_a_second_process_on_the_same_store_is_refused_by_name(server: FastmqServer) -> None:
    ports = PortBlock()
    block = ports.first
    command = [sys.executable, "-m", "fastmq", "serve", "--namesrv-port", str(block), "--listen-port", str(block + 3)]
    command += ["--set", f"storePathRootDir={server.store}"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, cwd=server.data, check=False)
    assert second.returncode == 1
    assert str(server.store) in second.stdout + second.stderr
    with BasicClient(server.namesrv) as client:
        client.send("T", b"the first one goes on")


def test_a_port_in_use_is_named(server: FastmqServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastmq", "serve", "--data", str(tmp_path / "other")]
    command += ["--namesrv-port", str(server.namesrv_port), "--listen-port", "0"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert second.returncode == 1
    assert f"127.0.0.1:{server.namesrv_port}" in second.stdout + second.stderr


def test_sigterm_stops_in_order_and_leaves_a_clean_store(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        client.send("T", b"x")
    assert (server.store / "abort").exists()
    process = server.processes[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    server.processes.clear()
    assert not (server.store / "abort").exists()
    assert json.loads((server.store / "config" / "topics.json").read_text())["topicConfigTable"]["T"]["perm"] == 6


STOPPED_EARLY = """
import os, signal, sys
from fastmq import cli, serve

def say_ready(*_):
    os.kill(os.getpid(), int(sys.argv[1]))

serve._say_ready = say_ready
sys.exit(cli.main(["serve", "--data", sys.argv[2], "--namesrv-port", "0", "--listen-port", "0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_right_behind_the_start_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", STOPPED_EARLY, str(int(number)), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert "stopped" in done.stderr
    assert not (tmp_path / "store" / "abort").exists()


def test_a_hang_up_is_ignored_under_nohup(tmp_path: Path) -> None:
    program = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{STOPPED_EARLY}"
    program = program.replace("int(sys.argv[1]))", "signal.SIGHUP); os.kill(os.getpid(), signal.SIGTERM)")
    command = [sys.executable, "-c", program, "", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 0, done.stderr  # two signals would have ended it with 130


def test_a_data_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "fastmq", "serve", "--data", str(tmp_path / "file")]
    command += ["--namesrv-port", "0", "--listen-port", "0"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert done.returncode == 1
    assert f"{tmp_path}/file" in done.stderr
    assert "Not a directory" in done.stderr


def test_a_start_that_fails_half_way_says_why_and_leaves_a_clean_store(tmp_path: Path) -> None:
    def small_files_only() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20 << 20, 20 << 20))  # the timer wheel is larger

    command = [sys.executable, "-m", "fastmq", "serve", "--data", str(tmp_path)]
    command += ["--namesrv-port", "0", "--listen-port", "0"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=env, check=False, preexec_fn=small_files_only
    )
    assert done.returncode == 1, done.stderr
    assert "timerwheel: File too large" in done.stderr
    assert not (tmp_path / "store" / "abort").exists()


def test_an_address_that_no_record_can_carry_is_refused_with_its_setting(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastmq", "serve", "--data", str(tmp_path)]
    command += ["--namesrv-port", "0", "--listen-port", "0"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    for address in ("::1", "mq.example"):
        done = subprocess.run(
            [*command, "--set", f"brokerIP1={address}"],
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            check=False,
        )
        assert done.returncode == 1, done.stderr
        assert f"brokerIP1={address}: must be an IPv4 address" in done.stderr


def test_a_stopped_broker_leaves_no_route(tmp_path: Path) -> None:
    """A broker of its own unregisters from its name server when it stops."""
    ports = PortBlock()
    block = ports.first
    env = {**os.environ, "PYTHONPATH": SOURCE, "HOME": str(tmp_path)}
    log = (tmp_path / "log").open("ab")
    start = [sys.executable, "-m", "fastmq"]
    nameserver = subprocess.Popen([*start, "nameserver", "-p", str(block)], env=env, stdout=log, stderr=log)
    broker = subprocess.Popen(
        [*start, "broker", "-n", f"127.0.0.1:{block}", "--listen-port", str(block + 3), "--data", str(tmp_path / "b")],
        env=env, stdout=log, stderr=log,
    )  # fmt: skip
    try:
        wait_until(lambda: call(block, 105, {"topic": "TBW102"}).code == 0, "the broker is registered")
        with BasicClient(f"127.0.0.1:{block}") as client:
            client.send("T", b"x")
        broker.terminate()
        assert broker.wait(60) == 0
        assert call(block, 105, {"topic": "TBW102"}).code == 17
    finally:
        for process in (broker, nameserver):
            process.kill()
            process.wait()
        log.close()


def test_logs_for_machines(tmp_path: Path) -> None:
    ports = PortBlock()
    block = ports.first
    env = {**os.environ, "PYTHONPATH": SOURCE}
    command = [sys.executable, "-m", "fastmq", "serve", "--json", "--data", str(tmp_path)]
    command += ["--namesrv-port", str(block), "--listen-port", str(block + 3)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_until(lambda: call(block, 105, {"topic": "TBW102"}).code == 0, "the broker is registered")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    lines = [json.loads(line) for line in output.splitlines()]
    assert any("is ready" in str(line) for line in lines)


@pytest.mark.parametrize(
    ("topic", "body", "code"),
    [
        ("bad topic!", b"x", 29),
        ("x" * 128, b"x", 29),
        ("SCHEDULE_TOPIC_XXXX", b"x", 16),
        ("T", b"", 13),
        ("T", bytes((4 << 20) + 1), 13),
    ],
)
def test_bad_sends_are_refused_and_harm_nothing(server: FastmqServer, topic: str, body: bytes, code: int) -> None:
    with BasicClient(server.namesrv) as client:
        with pytest.raises(ServerError) as refused:
            client.send(topic, body)
        assert refused.value.code == code
        client.send("T", b"still here")
        assert [message.body for message in client.receive("T", group="g")] == [b"still here"]


def test_garbage_closes_its_connection_and_no_other(server: FastmqServer) -> None:
    with BasicClient(server.namesrv) as client:
        client.send("T", b"1")
        for port in (server.listen_port, server.listen_port - 2, server.namesrv_port):
            for garbage in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\xff" * 64,
                b"\x00\x00\x00\x08\x00\x00\x00\x04{{{{",
                os.urandom(999),
            ):
                with socket.create_connection(("127.0.0.1", port), 60) as evil:
                    evil.sendall(garbage)
                    evil.shutdown(socket.SHUT_WR)
                    assert evil.recv(100) == b""
        client.send("T", b"2")
        assert len(list(client.receive("T", group="g"))) == 2


def test_an_unknown_code_gets_its_answer(server: FastmqServer) -> None:
    for port in (server.listen_port, server.namesrv_port):
        answer = call(port, 7777)
        assert (answer.code, answer.remark) == (3, " request type 7777 not supported")


def test_the_vip_port_serves_sends_and_no_pulls(server: FastmqServer) -> None:
    ext = {"topic": "TBW102", "queueId": "0"}
    assert call(server.listen_port - 2, 30, ext).code == 0
    assert call(server.listen_port - 2, 11, ext).code == 3
