"""Two roads, one meaning: the hot road and the cold one give the same bytes to clients and files.

Two complete brokers in this process, with the same clock and the same addresses, get the same frames over TCP; one may
use the hot road, the other may not. Every answer, the commit log and all consume queues have to be equal.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import random
import socket
import string
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastmq._reactor import Reactor
from fastmq.broker.app import Broker
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig, load_broker_config
from fastmq.net.server import Server, open_listener
from fastmq.protocol.command import Command, FrameSplitter, encode_frame
from fastmq.serve import open_store

GOLDEN = Path(__file__).parents[1] / "golden" / "frames"
SEND_CODES = {10, 310, 320}
STORE_HOST_PORT = 10911


class Stack:
    """A broker with its own thread, and one client connection to it."""

    def __init__(self, folder: Path, *, hot: bool, flush: str, source_port: int) -> None:
        overrides = {
            "storePathRootDir": str(folder), "storePathCommitLog": str(folder / "commitlog"), "flushDiskType": flush,
            "mappedFileSizeCommitLog": str(1 << 20), "brokerName": "two-roads", "hotRoadEnable": str(hot).lower(),
        }  # fmt: skip
        config, _ = load_broker_config(None, {}, overrides)
        self.config: BrokerConfig = dataclasses.replace(config, listen_port=STORE_HOST_PORT)
        self.folder = folder
        self.clock = ManualClock()
        self.store = open_store(self.config, {"wall_clock_ms": self.clock.wall_ms})
        self.store.start()
        self.reactor = Reactor(self.store, hot=hot)
        self.ready = threading.Event()
        self.stop = trio.Event()
        self.turns = threading.Thread(target=self.reactor.run)
        self.loop = threading.Thread(target=trio.run, args=(self._run,))
        self.turns.start()
        self.loop.start()
        assert self.ready.wait(10)
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", source_port))
        self.sock.connect(("127.0.0.1", self.port))
        self.sock.settimeout(10)
        self.splitter = FrameSplitter()
        self.answers: list[bytes] = []

    async def _run(self) -> None:
        broker = Broker(self.config, self.store, self.clock, reactor=self.reactor, random=random.Random(1))
        server = Server(self.reactor, {0: broker})
        listener = await open_listener("127.0.0.1", 0, 0)
        self.port = listener.port
        self.token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run, [listener])
            self.ready.set()
            await self.stop.wait()
            nursery.cancel_scope.cancel()
        listener.socket.close()

    def call(self, frame: bytes) -> bytes:
        self.sock.sendall(frame)
        while not self.answers:
            data = self.sock.recv(1 << 16)
            assert data, "the connection was closed"
            self.answers += self.splitter.feed(data)
        return self.answers.pop(0)

    def close(self) -> None:
        self.sock.close()
        trio.from_thread.run_sync(self.stop.set, trio_token=self.token)
        self.loop.join()
        self.reactor.stop()
        self.turns.join()
        self.reactor.close()
        self.store.close()

    def files(self) -> dict[str, bytes]:
        found = {}
        for kind in ("commitlog", "consumequeue"):
            for path in sorted((self.folder / kind).rglob("*")):
                if path.is_file() and (data := path.read_bytes().rstrip(b"\0")):
                    found[str(path.relative_to(self.folder))] = data
        return found


def free_source_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Roads:
    def __init__(self, folder: Path, flush: str) -> None:
        port = free_source_port()
        self.hot = Stack(folder / "hot", hot=True, flush=flush, source_port=port)
        self.cold = Stack(folder / "cold", hot=False, flush=flush, source_port=port)
        for topic in ("plain", "t", "j5-normal"):
            self.call(Command(17, opaque=1, ext={
                "topic": topic, "defaultTopic": "TBW102", "readQueueNums": "4", "writeQueueNums": "4", "perm": "6",
                "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
            }))  # fmt: skip

    def call(self, command: Command | bytes) -> bytes:
        frame = command if isinstance(command, bytes) else encode_frame(command)
        hot = self.hot.call(frame)
        cold = self.cold.call(frame)
        assert hot == cold, (frame, hot, cold)
        return hot

    def close(self) -> None:
        self.hot.close()
        self.cold.close()


@pytest.fixture(params=["ASYNC_FLUSH", "SYNC_FLUSH"])
def roads(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Roads]:
    roads = Roads(tmp_path, request.param)
    yield roads
    roads.close()


def check_files(roads: Roads, at_least_hot: int) -> None:
    assert roads.hot.reactor.statistics()["hot_sends"] >= at_least_hot, "the hot road was hardly used"
    assert roads.cold.reactor.statistics()["hot_sends"] == 0
    assert roads.hot.store.written_offset == roads.cold.store.written_offset
    assert roads.hot.files() == roads.cold.files()


def golden_sends() -> list[bytes]:
    frames = []
    for name in ("send.jsonl", "acl.jsonl"):
        for line in (GOLDEN / name).read_text().splitlines():
            record = json.loads(line)
            if record["code"] in SEND_CODES and not record["oneway"] and record["response"]:
                frames.append(base64.b64decode(record["request"]))
    return frames


def test_recorded_sends(roads: Roads) -> None:
    frames = golden_sends()
    assert len(frames) > 80
    for _ in range(3):  # the first time a topic is made, which is never hot
        for frame in frames:
            roads.call(frame)
    check_files(roads, 100)


def test_a_log_that_crosses_segments(roads: Roads) -> None:
    for number in range(120):
        ext = plain_ext(f"KEYSEG{number:026}", "TAGS\x01TagA\x02", number % 4)
        roads.call(Command(310, opaque=number, ext=ext, body=bytes([number]) * (30_000 + 7 * number)))
    check_files(roads, 120)


def plain_ext(key: str, more: str, queue_id: int) -> dict[str, str]:
    return {
        "a": "pg", "b": "plain", "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0", "g": "1700000000123", "h": "0",
        "i": f"UNIQ_KEY\x01{key}\x02WAIT\x01true\x02{more}", "j": "0", "k": "false", "m": "false",
    }  # fmt: skip


ORDINARY_NAMES = st.sampled_from(["TAGS", "KEYS", "a", "prop", "x y", "INSTANCE_ID", "RETRY_TOPIC"])
SPECIAL_NAMES = st.sampled_from(
    ["WAIT", "UNIQ_KEY", "DELAY", "TRAN_MSG", "MSG_REGION", "TRACE_ON", "CLUSTER", "POP_CK", "INNER_NUM", "TIMER_DELAY_SEC",
     "__CRC32#", "DUP_INFO", "ключ", "TAGS", ""]
)  # fmt: skip
ORDINARY_VALUES = st.one_of(
    st.sampled_from(["true", "v", 'a"b', "back\\slash", "tab\t", "<&>", "/", "TagA || TagB"]),
    st.text(string.ascii_letters + string.digits + " _-%|", min_size=1, max_size=12),
)
SPECIAL_VALUES = st.one_of(
    st.sampled_from(["", "0", "1", "false", "наб", "🙂"]), st.text(string.printable, max_size=12)
)
NUMBERS = st.sampled_from(["0", "1", "3", "4", "-1", "7", "00", "2147483647", "2147483648", "", "x", "1.0", " 1"])
LONG_NAMES = {
    "a": "producerGroup", "b": "topic", "c": "defaultTopic", "d": "defaultTopicQueueNums", "e": "queueId", "f": "sysFlag",
    "g": "bornTimestamp", "h": "flag", "i": "properties", "j": "reconsumeTimes", "k": "unitMode", "m": "batch",
}  # fmt: skip
ODDITIES = {
    "a": st.sampled_from(["", 'g"r']),
    "b": st.sampled_from(["t", "нет", "%RETRY%g", "new-topic", "x" * 200]),
    "d": NUMBERS,
    "e": NUMBERS,
    "f": st.sampled_from(["1", "256", "4", "8", "16", "48", "128", "-1"]),
    "g": st.sampled_from(["0", "-5", "9223372036854775807", "x"]),
    "h": st.sampled_from(["5", "-7", "2147483648"]),
    "j": st.sampled_from(["1", "-1", "x"]),
    "m": st.sampled_from(["true", "FALSE", "1"]),
}


@st.composite
def send_frames(draw: st.DrawFn) -> bytes:
    """A plain send with at most a few things about it that are not plain."""
    items = draw(st.lists(st.tuples(ORDINARY_NAMES, ORDINARY_VALUES), max_size=4, unique_by=lambda item: item[0]))
    text = "".join(f"{name}\x01{value}\x02" for name, value in items)
    ext = plain_ext(draw(st.text("ABCDEF0123456789", min_size=1, max_size=40)), text, draw(st.integers(0, 3)))
    for oddity in draw(st.lists(st.sampled_from([*sorted(ODDITIES), "item", "tail", "key", "gone"]), max_size=2)):
        if oddity == "item":
            ext["i"] += f"{draw(SPECIAL_NAMES)}\x01{draw(SPECIAL_VALUES)}\x02"
        elif oddity == "tail":
            ext["i"] = ext["i"][:-1]
        elif oddity == "key":
            ext["i"] = text
        elif oddity == "gone":
            ext.pop(draw(st.sampled_from(sorted(ext))), None)
            ext.setdefault("i", "")
        else:
            ext[oddity] = draw(ODDITIES[oddity])
    code = draw(st.sampled_from([310, 310, 10]))
    if code == 10:
        ext = {LONG_NAMES[key]: value for key, value in ext.items()}
    command = Command(code, opaque=draw(st.integers(0, 2**31 - 1)), ext=ext, body=draw(st.binary(max_size=40)))
    command.serialize = draw(st.sampled_from([0, 0, 1]))
    return encode_frame(command)


def test_generated_sends(tmp_path_factory: pytest.TempPathFactory) -> None:
    roads = Roads(tmp_path_factory.mktemp("generated"), "ASYNC_FLUSH")

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(send_frames(), min_size=1, max_size=5))
    def check(frames: list[bytes]) -> None:
        for frame in frames:
            roads.call(frame)
            roads.hot.clock.advance_ms(1)
            roads.cold.clock.advance_ms(1)

    try:
        check()
        check_files(roads, 100)
    finally:
        roads.close()
