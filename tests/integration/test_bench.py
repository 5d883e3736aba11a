"""`fastmq bench` as a process against `fastmq serve`: every load, its figures, and what it says about refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.servers import BROKER, FastmqServer, Server
from support.toolchains import TESTS
from support.waiting import wait_until

ENV = {**os.environ, "PYTHONPATH": str(TESTS.parent / "src")}
SMALL = ["-c", "3", "-b", "200", "-q", "5", "--warm-up", "0.1"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with FastmqServer(tmp_path_factory.mktemp("bench")) as server:
        yield server


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastmq", "bench", *arguments]


def bench(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = subprocess.run(command(*arguments, "--json"), env=ENV, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    return shown


@pytest.mark.parametrize("mode", ["sync", "async", "oneway", "batch"])
def test_what_is_sent_can_be_read_in_order_and_whole(server: Server, mode: str) -> None:
    at = ["-n", server.namesrv, "-t", f"Send-{mode}"]
    sent = bench("send", *at, *SMALL, "-m", mode, "-d", "8", "--batch", "10" if mode == "batch" else "0",
                 "--count", "3000", "--verify", "--warm-up", "0")  # fmt: skip
    assert (sent["sent"], sent["done"], sent["failures"]) == (3000, 3000, [])
    assert sent["rates"]["sent"] > 0
    if mode != "oneway":
        requests = 300 if mode == "batch" else 3000
        assert sent["send_codes"] == {"0": requests}
        assert sent["latency_us"]["send"]["count"] == requests
    read = bench("pull", *at, "-c", "3")
    assert (read["received"], read["received_bytes"], read["failures"]) == (3000, 600_000, [])


def test_several_topics(server: Server) -> None:
    at = ["-n", server.namesrv, "-t", "Many", "--topics", "3", "-q", "2"]
    assert bench("send", *at, "-c", "2", "-d", "4", "--count", "600", "--warm-up", "0", "--verify")["done"] == 600
    assert bench("pull", *at, "-c", "2")["received"] == 600
    each = [bench("pull", "-n", server.namesrv, "-t", f"Many-{number}", "-c", "2")["received"] for number in range(3)]
    assert sum(each) == 600
    # each connection takes the queues in turn; the last turns of the two may be begun and not ended
    assert all(abs(count - 200) <= 2 * 2 for count in each), each


def test_a_fixed_rate_is_kept(server: Server) -> None:
    shown = bench("rate", "-n", server.namesrv, "-t", "Rate", *SMALL, "-r", "500", "-s", "1")
    assert 498 <= shown["done"] == shown["sent"] <= 501
    assert shown["latency_us"]["send"]["count"] == shown["done"]
    assert shown["latency_us"]["send"]["p99"] >= shown["latency_us"]["send"]["p50"] > 0


def test_messages_arrive_at_who_waits_for_them(server: Server) -> None:
    shown = bench("consume", "-n", server.namesrv, "-t", "Consume", *SMALL, "-r", "500", "-s", "1", "--readers", "2")
    assert shown["done"] == shown["received"] == shown["latency_us"]["delivery"]["count"] >= 498
    assert shown["latency_us"]["delivery"]["max"] < 5_000_000, "nobody waited for the end of a long poll"


def test_reading_while_writing(server: Server) -> None:
    shown = bench("mixed", "-n", server.namesrv, "-t", "Mixed", *SMALL, "-d", "4", "--count", "2000", "--readers", "2")
    assert shown["done"] == shown["received"] == 2000
    assert sum(shown["acknowledged_per_100ms"]) == sum(shown["delivered_per_100ms"]) == 2000


def test_two_servers_side_by_side_and_a_plot(server: Server, tmp_path: Path) -> None:
    plot = tmp_path / "plot.html"
    shown = bench("compare", "--rounds", "2", "--plot", str(plot), server.namesrv, server.namesrv,
                  "send", "-t", "Compare", *SMALL, "-d", "4", "--count", "500")  # fmt: skip
    metric = shown["metrics"]["sent msg/s"]
    assert len(metric["a"]) == len(metric["b"]) == 2
    assert metric["paired_ratios"][0] <= metric["paired_ratios"][1]
    assert len(re.findall("<svg", plot.read_text())) == 2


def test_the_name_servers_are_those_of_the_environment(server: Server) -> None:
    with socket.socket() as nobody:  # bound and not listening
        nobody.bind(("127.0.0.1", 0))
        addresses = f"127.0.0.1:{nobody.getsockname()[1]};{server.namesrv}"
        words = command("send", "-t", "Env", *SMALL, "--count", "300", "--warm-up", "0", "--verify", "--json")
        done = subprocess.run(words, env={**ENV, "NAMESRV_ADDR": addresses}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["done"] == 300


def test_a_plot_under_the_name_of_a_picture_is_refused(tmp_path: Path) -> None:
    words = command("send", "--plot", str(tmp_path / "plot.png"))
    done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "a plot is written as HTML" in done.stderr


def test_ctrl_c_ends_a_load_in_order(server: Server) -> None:
    arguments = command("send", "-n", server.namesrv, "-t", "Stop", *SMALL, "-d", "2", "-s", "60", "--warm-up", "0")
    with subprocess.Popen([*arguments, "--json"], env=ENV, stdout=subprocess.PIPE) as process:
        wait_until(lambda: end_of(server, "Stop") > 0, "the load has begun")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    shown = json.loads(out)
    assert shown["sent"] == shown["done"] > 0
    assert process.returncode == 0


def end_of(server: Server, topic: str) -> int:
    from support import remoting

    answer = remoting.call(server.listen_port, 30, {"topic": topic, "queueId": "0"})
    return int(answer.ext.get("offset", 0))


def test_a_topic_that_does_not_exist_is_not_read(server: Server) -> None:
    assert "absent has no route" in bench("pull", "-n", server.namesrv, "-t", "absent", code=1)["error"]


def test_a_queue_that_does_not_exist(server: Server) -> None:
    bench("send", "-n", server.namesrv, "-t", "Two", "-q", "2", "--count", "10", "--warm-up", "0")
    shown = bench("send", "--broker", server.broker, "-t", "Two", "-q", "4", "-c", "1", "-d", "1",
                  "--count", "100", "--warm-up", "0", code=1)  # fmt: skip
    assert (shown["done"], shown["send_codes"]["0"]) == (50, 50)
    assert sum(shown["send_codes"].values()) == 100
    assert any(line.startswith("50 sends answered with code") for line in shown["failures"])


def test_a_server_that_is_killed_under_load(tmp_path: Path) -> None:
    with FastmqServer(tmp_path / "killed", {"brokerName": BROKER}) as server:
        arguments = command("send", "-n", server.namesrv, "-t", "Kill", *SMALL, "-d", "4", "-s", "60")
        with subprocess.Popen([*arguments, "--warm-up", "0", "--json"], env=ENV, stdout=subprocess.PIPE) as process:
            wait_until(lambda: end_of(server, "Kill") > 0, "the load has begun")
            server.kill()
            out, _ = process.communicate(timeout=60)
    shown = json.loads(out)
    assert process.returncode == 1
    assert shown["failure_counts"]["connection_errors"] == 3
    assert shown["sent"] == shown["done"] + shown["failure_counts"]["lost"]
    assert shown["elapsed_s"] < 50


def test_a_report_for_people(server: Server) -> None:
    arguments = command("send", "-n", server.namesrv, "-t", "Text", *SMALL, "-d", "4", "--count", "200")
    done = subprocess.run(arguments, env=ENV, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"sent +[\d,]+ msg/s +200 of 200", done.stdout)
    assert "p99.99" in done.stdout
    assert done.stderr == "", "no progress line where there is no terminal"
