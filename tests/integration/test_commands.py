"""The client commands as a user types them, against a server of their own."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import fastmq
from support.servers import BROKER, FastmqServer, Server
from support.waiting import wait_until

SOURCE = str(Path(fastmq.__file__).parents[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with FastmqServer(tmp_path_factory.mktemp("commands")) as server:
        yield server


class Shell:
    """Runs commands; `namesrv` comes from the environment, as users set it."""

    def __init__(self, namesrv: str) -> None:
        self.env = {**os.environ, "PYTHONPATH": SOURCE, "NAMESRV_ADDR": namesrv}

    def run(self, *words: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "fastmq", *words]
        done = subprocess.run(command, input=stdin, capture_output=True, env=self.env, timeout=60, check=False)
        assert done.returncode == code, (words, done.stdout, done.stderr)
        return done

    def text(self, *words: str, **more: Any) -> str:
        return self.run(*words, **more).stdout.decode()

    def json(self, *words: str, **more: Any) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*words, "--json", **more).stdout.splitlines()]


@pytest.fixture
def shell(server: Server) -> Shell:
    return Shell(server.namesrv)


def test_messages_there_and_back(shell: Shell) -> None:
    sent = shell.json("send", "There", "one", "zwei ü", "--tag", "t", "--key", "k1", "--property", "color=red")
    assert [row["status"] for row in sent] == ["SEND_OK", "SEND_OK"]
    got = shell.json("consume", "There", "-g", "back", "--from", "first", "--count", "2", "--timeout", "20")
    assert sorted(row["body"] for row in got) == ["one", "zwei ü"]
    assert {row["tag"] for row in got} == {"t"}
    assert all(row["keys"] == ["k1"] and row["properties"]["color"] == "red" for row in got)
    assert {row["message_id"] for row in got} == {row["message_id"] for row in sent}
    assert shell.text("consume", "There", "-g", "back", "--timeout", "0.5") == "", "they are committed"
    progress = shell.json("group", "show", "back", "-t", "There")
    assert sum(row["consumer_offset"] for row in progress) == 2
    assert all(row["lag"] == 0 for row in progress)


def test_standard_input_is_one_message_or_a_message_a_line(shell: Shell) -> None:
    shell.run("topic", "create", "Piped", "-q", "1")
    shell.run("send", "Piped", stdin=b"two\nlines\n")
    shell.run("send", "Piped", "--lines", stdin=b"a\nb\n")
    text = shell.text("consume", "Piped", "-g", "piped", "--from", "first", "--count", "3", "--timeout", "20", "--body")
    assert text == "two\nlines\n\na\nb\n"


def test_filters_choose(shell: Shell) -> None:
    shell.run("topic", "create", "Chosen", "-q", "1")
    for tag, size in (("small", 1), ("big", 9), ("big", 8)):
        shell.run("send", "Chosen", f"{tag}{size}", "--tag", tag, "--property", f"size={size}")
    common = ("--from", "first", "--count", "2", "--timeout", "20", "--body")
    assert shell.text("consume", "Chosen", "-g", "by-tag", "--tags", "big", *common) == "big9\nbig8\n"
    assert shell.text("consume", "Chosen", "-g", "by-sql", "--sql", "size < 9", *common) == "small1\nbig8\n"


def test_topics(shell: Shell) -> None:
    assert shell.text("topic", "create", "Made", "-q", "3", "--ordered") == "topic Made is there\n"
    assert {"topic": "Made"} in shell.json("topic", "list")
    assert [row["queue"] for row in shell.json("topic", "show", "Made")] == [0, 1, 2]
    shown = shell.text("topic", "show", "Made")
    assert "3 queues to read, 3 to write, perm 6, ordered" in shown
    assert shown.splitlines()[1].split() == [
        "BROKER",
        "QUEUE",
        "MIN",
        "OFFSET",
        "MAX",
        "OFFSET",
        "LAST",
        "UPDATE",
        "MS",
    ]
    shell.run("topic", "delete", "Made")
    assert {"topic": "Made"} not in shell.json("topic", "list")
    again = shell.run("topic", "delete", "Made", code=1)
    assert b"Made" in again.stderr


def test_groups(shell: Shell) -> None:
    shell.run("send", "Grouped", "x", "y", "z")
    shell.run("group", "create", "some", "--max-retries", "3")
    assert {"group": "some"} in shell.json("group", "list")
    shell.run("consume", "Grouped", "-g", "some", "--from", "first", "--count", "3", "--timeout", "20")
    assert {"group": "some"} in shell.json("topic", "groups", "Grouped")
    rows = shell.json("group", "reset", "some", "Grouped", "first")
    assert {row["offset"] for row in rows} == {0}
    again = shell.json("consume", "Grouped", "-g", "some", "--count", "3", "--timeout", "20")
    assert sorted(row["body"] for row in again) == ["x", "y", "z"]
    assert b"not online" in shell.run("group", "members", "some", code=1).stderr
    shell.run("group", "delete", "some")
    assert b"no group some" in shell.run("group", "delete", "some", code=1).stderr


def test_messages_by_id_and_key(shell: Shell) -> None:
    (sent,) = shell.json("send", "Found", "here I am", "--key", "needle")
    # the index is written a moment later
    (by_key,) = wait_until(lambda: shell.json("message", "find", "Found", "needle"), "it is found by its key")
    (by_id,) = shell.json("message", "show", sent["message_id"], "-t", "Found")
    (by_place,) = shell.json("message", "show", by_key["offset_id"])
    assert by_key == by_id == by_place
    assert by_key["body"] == "here I am"
    assert "here I am" in shell.text("message", "show", sent["message_id"], "-t", "Found")
    assert b"no message with the key" in shell.run("message", "find", "Found", "straw", code=1).stderr


def test_brokers(shell: Shell, server: Server) -> None:
    (broker,) = shell.json("cluster", "list")
    assert (broker["broker"], broker["id"], broker["address"]) == (BROKER, 0, server.broker)
    assert int(shell.json("cluster", "show", BROKER)[0]["commitLogMaxOffset"]) >= 0
    shell.run("cluster", "set", BROKER, "maxMessageSize=100000")
    assert shell.json("cluster", "config", BROKER)[0]["maxMessageSize"] == "100000"
    assert b"no broker other" in shell.run("cluster", "show", "other", code=1).stderr


def test_trouble_is_said_and_told_by_the_exit_code(shell: Shell) -> None:
    wrong = shell.run("send", "T", "x", "--at", "tomorrow", code=2)
    assert b"tomorrow: not a time like 20" in wrong.stderr
    assert b"must be NAME=VALUE" in shell.run("send", "T", "x", "--property", "oops", code=2).stderr
    down = Shell("127.0.0.1:1")
    (told,) = down.json("topic", "list", code=1)
    assert told["failed"] is True
    assert told["retryable"] is True
    assert b"Traceback" not in down.run("send", "T", "x", code=1).stderr


@pytest.mark.parametrize(
    ("words", "wanted"),
    [(["top"], {"topic"}), (["topic", "cr"], {"create"}), (["group", "reset", "g", "--js"], {"--json"})],
)
def test_bash_completes(shell: Shell, words: list[str], wanted: set[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = shell.text("completion", "bash")
    line = " ".join(f"'{word}'" for word in ("fastmq", *words))
    script += f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _fastmq; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    done = subprocess.run([bash], input=script, capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) == wanted


def test_other_shells_have_completion(shell: Shell) -> None:
    assert "bashcompinit" in shell.text("completion", "zsh")
    assert "-a create" in shell.text("completion", "fish")


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["completion", "bash"],
        ["topic", "list"],
        ["topic", "list", "--json", "-n", "127.0.0.1:1"],
        *([["bench", "disk", ".", "-s", "0.01"]] if find_spec("fastmq._load") else []),  # it is all compiled
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_nobody_reads_is_no_trouble(
    shell: Shell, tmp_path: Path, words: list[str], unbuffered: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = {**shell.env, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "fastmq", *words]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=env, cwd=tmp_path, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_that_cannot_be_written_is_said(shell: Shell) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "fastmq", "completion", "bash"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=shell.env, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"fastmq: ")
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_closed_standard_streams_are_no_trouble(shell: Shell) -> None:
    command = f"'{sys.executable}' -m fastmq topic list <&- >&-"
    done = subprocess.run(["sh", "-c", command], env=shell.env, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_consumer_that_is_told_to_end_commits_what_it_printed(shell: Shell, number: signal.Signals) -> None:
    topic, group = f"Ended{number.name}", f"ended-{number.name}"
    shell.run("send", topic, "one")
    command = [sys.executable, "-m", "fastmq", "consume", topic, "-g", group, "--from", "first", "--body"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shell.env)
    assert process.stdout is not None
    assert process.stdout.readline() == b"one\n"
    process.send_signal(number)
    _, trouble = process.communicate(timeout=60)
    assert (process.returncode, trouble) == (128 + number, b"")
    assert shell.text("consume", topic, "-g", group, "--timeout", "0.5") == ""


def test_what_a_full_pipe_holds_up_is_printed_and_committed_or_neither(shell: Shell) -> None:
    topic, count = "FullPipe", 40
    shell.run("topic", "create", topic, "-q", "1")
    body = "x" * 8000
    shell.run("send", topic, "--lines", stdin="".join(f"{number} {body}\n" for number in range(count)).encode())
    command = [sys.executable, "-m", "fastmq", "consume", topic, "-g", "full-pipe", "--from", "first", "--body"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shell.env)
    assert process.stdout is not None
    held = bytearray(4)
    wait_until(
        lambda: (
            not fcntl.ioctl(process.stdout, termios.FIONREAD, held) and int.from_bytes(held, sys.byteorder) > 60_000
        ),
        "the pipe is full",
    )
    process.send_signal(signal.SIGTERM)
    out, trouble = process.communicate(timeout=60)
    assert (process.returncode, trouble) == (128 + signal.SIGTERM, b"")
    printed = [int(line.split()[0]) for line in out.split(b"\n")[:-1]]
    rest = shell.text("consume", topic, "-g", "full-pipe", "--body", "--timeout", "0.5")
    assert printed + [int(line.split()[0]) for line in rest.splitlines()] == list(range(count))
    assert 0 < len(printed) < count


@pytest.mark.parametrize(
    "words",
    [
        ["consume", "T", "--count", "0"],
        ["consume", "T", "--timeout", "nan"],
        ["consume", "T", "--timeout", "-1"],
        ["message", "find", "T", "k", "--limit", "-1"],
        ["topic", "create", "T", "-q", "0"],
        ["send", "T", "x", "--count", "0"],
    ],
)
def test_numbers_that_mean_nothing_are_refused(shell: Shell, words: list[str]) -> None:
    assert words[-1].encode() in shell.run(*words, code=2).stderr


def test_what_is_not_there_is_not_shown_as_empty(shell: Shell) -> None:
    assert b"no group nobody" in shell.run("group", "show", "nobody", code=1).stderr
    (sent,) = shell.json("send", "Hidden", "x")
    assert b"topic (-t)" in shell.run("message", "show", sent["message_id"], code=1).stderr
    assert b"no broker of cluster" in shell.run("topic", "create", "X", "--cluster", "other", code=1).stderr
