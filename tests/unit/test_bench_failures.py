"""`fastmq bench` against servers that refuse, lie, hang up or are silent: told by code and count, never a success."""

from __future__ import annotations

import io
import itertools
import json
import socket
import sys
import time
import zlib
from typing import Any

import pytest
from bench_rig import Behaviour, answer, record, serving

from fastmq import cli

GET_MAX_OFFSET = 30
GET_MIN_OFFSET = 31
PULL_MESSAGE = 11


def bench(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> dict[str, Any]:
    """Run a command, check its exit code, return what it printed as JSON."""
    assert cli.main(["bench", *arguments, "--json"], {}) == code
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["failed"] == (code != 0)
    return shown


def send(capsys: pytest.CaptureFixture[str], behaviour: Behaviour, *more: str, code: int = 1) -> dict[str, Any]:
    with serving(behaviour) as server:
        flags = f"--broker {server.address} -c 2 -d 4 -q 3 -b 100 --warm-up 0 -s 0.3".split()
        shown = bench(capsys, "send", *flags, *more, code=code)
    counts = shown["failure_counts"]
    answered = sum(shown["send_codes"].values())
    assert shown["sent"] == answered + counts.get("lost", 0) + counts.get("timed_out", 0), "every send has one end"
    assert shown["done"] == shown["send_codes"].get("0", 0)
    assert shown["latency_us"].get("send", {"count": 0})["count"] == shown["done"]
    assert sum(shown["acknowledged_per_100ms"]) == shown["done"]
    return shown


def test_a_good_server_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda *_: answer(_[2], queueOffset="1"), "--count", "50", code=0)
    assert (shown["sent"], shown["done"], shown["failures"]) == (50, 50, [])


def test_opaques_and_keys_are_unique_and_queues_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[dict[str, Any]] = []

    def keep(_: int, __: int, header: dict[str, Any]) -> bytes:
        seen.append(header)
        return answer(header)

    send(capsys, keep, "--count", "600", code=0)
    assert len({header["opaque"] for header in seen}) == 600
    assert len({header["extFields"]["i"] for header in seen}) == 600
    queues = [header["extFields"]["e"] for header in seen]
    assert {queues.count(queue) for queue in "012"} <= set(range(150, 251))
    born = {int(header["extFields"]["g"]) for header in seen}
    assert all(abs(time.time() * 1000 - at) < 60_000 for at in born)


def test_an_answer_may_look_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    def turned(_: int, count: int, header: dict[str, Any]) -> bytes:
        """Another order of keys each time, and texts that only look like what is searched."""
        items = [
            f'"opaque":{header["opaque"]}', '"extFields":{"opaque":"7","code":"9","x":"\\"code\\":5"}', '"code":0',
            '"remark":"\\"opaque\\":1, {[\\\\"', '"flag":1',
        ]  # fmt: skip
        text = ("{" + ",".join(items[count % 5 :] + items[: count % 5]) + "}").encode()
        return (4 + len(text)).to_bytes(4, "big") + len(text).to_bytes(4, "big") + text

    shown = send(capsys, turned, "--count", "100", code=0)
    assert shown["send_codes"] == {"0": 100}


def test_a_read_only_server(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda _, __, h: answer(h, 16, "the broker is not writable"))
    assert shown["done"] == 0
    assert list(shown["send_codes"]) == ["16"]
    assert shown["latency_us"] == {}
    assert any("16 NO_PERMISSION: the broker is not writable" in line for line in shown["failures"])


def test_some_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    busy = itertools.cycle([0, 0, 0, 0, 2])
    shown = send(capsys, lambda _, __, h: answer(h, next(busy)), "--count", "100")
    assert shown["send_codes"] == {"0": 80, "2": 20}
    assert shown["done"] == 80


def test_a_server_that_drops_connections(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda c, n, h: None if n == 10 else answer(h), "-s", "5")
    assert shown["failure_counts"]["connection_errors"] == 2
    assert 2 <= shown["failure_counts"]["lost"] <= 8
    assert shown["send_codes"] == {"0": 20}
    assert shown["elapsed_s"] < 4, "nobody is left to send: the run is over"


def test_one_connection_of_two_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda c, n, h: None if c == 0 and n == 10 else answer(h))
    assert shown["failure_counts"]["connection_errors"] == 1
    assert shown["done"] > 20, "the other goes on"


def test_a_server_that_never_answers(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda *_: b"", "--timeout", "0.4")
    assert shown["done"] == 0
    assert shown["failure_counts"]["timed_out"] >= 8
    assert any("not answered within 0.4 s" in line for line in shown["failures"])


def test_one_answer_stays_out(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda c, n, h: b"" if (c, n) == (0, 3) else answer(h), "--timeout", "0.4", "--count", "40")
    assert shown["failure_counts"] == {"timed_out": 1}
    assert shown["send_codes"] == {"0": 39}


def test_an_answer_that_comes_twice_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda c, n, h: answer(h) * 2, "--count", "40")
    assert shown["done"] == 40
    assert shown["failure_counts"]["unexpected"] > 0


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x08\0\0\0\x04{}{}", b"\0\0\0\x02ab"])
def test_a_server_of_another_kind(capsys: pytest.CaptureFixture[str], noise: bytes) -> None:
    shown = send(capsys, lambda *_: noise)
    assert shown["done"] == 0
    assert shown["failure_counts"]["protocol_errors"] == 2


def test_requests_of_the_server_are_no_answers(capsys: pytest.CaptureFixture[str]) -> None:
    shown = send(capsys, lambda _, __, h: answer({"opaque": 3}) + answer(h), "--count", "30", code=0)
    assert shown["done"] == 30


def test_a_server_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        for flag in ("--broker", "--namesrv"):
            shown = bench(capsys, "send", flag, address)
            assert shown["error"].startswith(f"cannot connect to {address}: Connection refused")


@pytest.mark.parametrize(
    "arguments",
    [
        ["send", "--broker", "nowhere"],
        ["send", "--broker", "127.0.0.1:1", "-c", "0"],
        ["send", "--broker", "127.0.0.1:1", "-b", "0"],
        ["rate", "--broker", "127.0.0.1:1", "-r", "0"],
        ["consume", "--broker", "127.0.0.1:1", "-b", "8"],
        ["pull", "--broker", "127.0.0.1:1", "-c", "0"],
        ["compare", "--rounds", "0", "a:1", "b:1"],
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(["bench", *arguments], {}) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_stall_shows_in_every_latency_of_an_open_loop(capsys: pytest.CaptureFixture[str]) -> None:
    """No coordinated omission: while the server stands still the sends that were due keep waiting, and say so."""

    def stall(_: int, count: int, header: dict[str, Any]) -> bytes:
        if count == 200:
            time.sleep(0.5)
        return answer(header)

    with serving(stall) as server:
        flags = ["--broker", server.address, "-c", "1", "-r", "1000", "-s", "1", "--warm-up", "0"]
        shown = bench(capsys, "rate", *flags, code=0)
    assert 200 < shown["done"] == shown["sent"] <= 1001
    assert shown["latency_us"]["send"]["max"] >= 490_000
    assert shown["latency_us"]["send"]["p90"] >= 300_000, "half of all sends were due during the stall"


def test_what_became_due_while_the_load_did_not_run_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    """A busy machine wakes it only after the end: the sends that were due before are late, not left out."""
    with serving(lambda *_: answer(_[2])) as server:
        # over before the loop looks at its clock for the first time
        flags = ["--broker", server.address, "-c", "1", "-r", "100000000", "-s", "0.000001", "--warm-up", "0"]
        shown = bench(capsys, "rate", *flags, code=0)
    assert shown["done"] == shown["sent"] == 100


def test_a_rate_that_the_server_cannot_take_ends_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    def slow(_: int, __: int, header: dict[str, Any]) -> bytes:
        time.sleep(0.005)
        return answer(header)

    with serving(slow) as server:
        flags = ["--broker", server.address, "-c", "1", "-r", "1000", "-s", "0.3", "--warm-up", "0"]
        shown = bench(capsys, "rate", *flags, code=0)
    assert shown["done"] == shown["sent"] > 0
    # the last one was due after 0.3 s and was answered after 5 ms for each before it
    assert shown["latency_us"]["send"]["max"] >= 0.9 * (shown["sent"] * 5_000 - 300_000)


def backlog(change: Any) -> Behaviour:
    """A queue of 100 messages; `change(offset, body, crc)` gives what is served of each."""

    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        if header["code"] in (GET_MIN_OFFSET, GET_MAX_OFFSET):
            return answer(header, offset="0" if header["code"] == GET_MIN_OFFSET else "100")
        first = int(header["extFields"]["queueOffset"])
        last = min(first + int(header["extFields"]["maxMsgNums"]), 100)
        if first >= 100:
            return answer(header, 19, nextBeginOffset="100")
        records = b""
        for offset in range(first, last):
            body = b"body %d" % offset
            found = change(offset, body, zlib.crc32(body) & 0x7FFFFFFF)
            records += b"" if found is None else record(0, *found)
        return answer(header, body=records, nextBeginOffset=str(last))

    return behave


def pull(capsys: pytest.CaptureFixture[str], behaviour: Behaviour, *more: str, code: int = 1) -> dict[str, Any]:
    with serving(behaviour) as server:
        return bench(capsys, "pull", "--broker", server.address, "-c", "1", "-q", "1", *more, code=code)


def test_a_backlog_is_read_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    shown = pull(capsys, backlog(lambda *message: message), code=0)
    assert shown["received"] == 100
    assert shown["pull_codes"] == {"0": 4}
    assert shown["received_bytes"] == sum(len(b"body %d" % n) for n in range(100))


def test_a_changed_body_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    broken = backlog(lambda offset, body, crc: (offset, body, crc ^ (offset == 42)))
    assert pull(capsys, broken)["failure_counts"] == {"checksum_errors": 1}
    assert pull(capsys, broken, "--no-check", code=0)["received"] == 100


def test_a_missing_message_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    shown = pull(capsys, backlog(lambda offset, *rest: None if offset == 42 else (offset, *rest)))
    assert shown["failure_counts"] == {"order_errors": 1, "missing": 1}


def test_messages_out_of_order_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    swapped = {10: 11, 11: 10}
    shown = pull(capsys, backlog(lambda offset, *rest: (swapped.get(offset, offset), *rest)))
    assert shown["failure_counts"]["order_errors"] == 3
    assert "missing" not in shown["failure_counts"]


def test_bytes_that_are_no_message_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        if header["code"] == PULL_MESSAGE:
            return answer(header, body=b"\0\0\0\x63" + b"x" * 95)
        return answer(header, offset="0" if header["code"] == GET_MIN_OFFSET else "100")

    shown = pull(capsys, behave)
    assert shown["received"] == 0
    assert shown["failure_counts"]["malformed"] == 100, "it gives up when nothing else comes"
    assert shown["failure_counts"]["missing"] == 100


def test_pulls_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        if header["code"] == PULL_MESSAGE:
            return answer(header, 24, "the consumer's subscription not exist")
        return answer(header, offset="0" if header["code"] == GET_MIN_OFFSET else "100")

    shown = pull(capsys, behave)
    assert any("24 SUBSCRIPTION_NOT_EXIST: the consumer's" in line for line in shown["failures"])


def test_a_queue_that_ends_too_early(capsys: pytest.CaptureFixture[str]) -> None:
    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        if header["code"] == PULL_MESSAGE:
            return answer(header, 19, "OFFSET_OVERFLOW_ONE", nextBeginOffset="0")
        return answer(header, offset="0" if header["code"] == GET_MIN_OFFSET else "100")

    shown = pull(capsys, behave)
    assert shown["failure_counts"] == {"missing": 100}
    assert any("19 PULL_NOT_FOUND" in line for line in shown["failures"])


def test_a_topic_with_nothing_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    shown = pull(capsys, lambda _, __, h: answer(h, offset="0"))
    assert "nothing to read" in shown["error"]


def test_oneway_sends_count_when_the_queues_have_grown(capsys: pytest.CaptureFixture[str]) -> None:
    stored = {"0": 0, "1": 0}

    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        if header["code"] == GET_MAX_OFFSET:
            return answer(header, offset=str(stored[header["extFields"]["queueId"]]))
        stored[header["extFields"]["e"]] += header["extFields"]["e"] == "0"  # the other half is thrown away
        return b""

    with serving(behave) as server:
        flags = f"--broker {server.address} -c 1 -q 2 --mode oneway --count 100 --warm-up 0".split()
        shown = bench(capsys, "send", *flags, "--timeout", "0.5")
    assert (shown["sent"], shown["done"]) == (100, 50)
    assert shown["failure_counts"] == {"not_stored": 50}


def test_oneway_sends_that_nobody_stores(capsys: pytest.CaptureFixture[str]) -> None:
    def behave(_: int, __: int, header: dict[str, Any]) -> bytes:
        return answer(header, offset="7") if header["code"] == GET_MAX_OFFSET else b""

    with serving(behave) as server:
        flags = f"--broker {server.address} -c 1 -q 1 --mode oneway --count 100 --warm-up 0".split()
        shown = bench(capsys, "send", *flags, "--timeout", "0.3")
    assert (shown["sent"], shown["done"]) == (100, 0)
    assert shown["failure_counts"] == {"not_stored": 100}


def test_a_topic_that_the_route_calls_read_only(capsys: pytest.CaptureFixture[str]) -> None:
    def name_server(_: int, __: int, header: dict[str, Any]) -> bytes:
        queue_data = {"brokerName": "a", "perm": 4, "readQueueNums": 2, "writeQueueNums": 2, "topicSysFlag": 0}
        broker_data = {"brokerName": "a", "brokerAddrs": {"0": "127.0.0.1:1"}, "cluster": "c"}
        return answer(header, body=json.dumps({"brokerDatas": [broker_data], "queueDatas": [queue_data]}).encode())

    with serving(name_server) as server:
        shown = bench(capsys, "send", "-n", server.address, "-t", "Frozen")
    assert shown["error"] == "no master broker has a queue of Frozen that may be written"


def test_a_name_server_that_closes_the_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda *_: None) as server:
        shown = bench(capsys, "send", "-n", server.address)
        assert f"{server.address} closed the connection" in shown["error"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_how_it_goes_and_is_left_clean(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    send(capsys, lambda _, __, h: answer(h), "-s", "0.8", code=0)
    lines = terminal.getvalue().split("\r\x1b[K")
    assert any(line.startswith("send 2 x 4, 100 B") and "sent " in line for line in lines)
    assert lines[-1] == ""
