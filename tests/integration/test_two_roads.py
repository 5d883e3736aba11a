"""Two roads, one meaning: the hot road and the cold one give the same bytes to clients and files.

Two complete brokers in this process, with the same clock and the same addresses, get the same frames over TCP; one may
use the hot road, the other may not. Every answer, the commit log and all consume queues have to be equal.
"""

from __future__ import annotations

import base64
import json
import socket
import string
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame
from fastmq.protocol.message import decode_messages
from support.stack import Stack
from support.waiting import wait_until

GOLDEN = Path(__file__).parents[1] / "golden" / "frames"
SEND_CODES = {10, 310, 320}


def free_source_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Roads:
    def __init__(self, folder: Path, flush: str, **settings: str) -> None:
        self.lanes: list[Lane] = []
        port = free_source_port()
        self.hot = Stack(folder / "hot", hot=True, flush=flush, source_port=port, **settings)
        self.cold = Stack(folder / "cold", hot=False, flush=flush, source_port=port, **settings)
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

    def same_tables(self, command: Command) -> None:
        """Both answer with the same JSON; in which order a group's queues were first committed does not matter."""
        hot, cold = (decode_frame(stack.call(encode_frame(command))) for stack in (self.hot, self.cold))
        assert hot.code == cold.code == 0
        assert json.loads(hot.body) == json.loads(cold.body)

    def second_connection(self) -> Lane:
        lane = Lane(self.hot.port, self.cold.port)
        self.lanes.append(lane)
        return lane

    def wait_held(self, count: int) -> None:
        """Until both brokers hold so many pulls."""
        for stack in (self.hot, self.cold):
            wait_until(lambda stack=stack: stack.held() == count, f"{count} pulls are held", pause=0.001)

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.hot.close()
        self.cold.close()


class Lane:
    """One more connection to each of the two brokers."""

    def __init__(self, *ports: int) -> None:
        self.sockets = [socket.create_connection(("127.0.0.1", port), 10) for port in ports]
        self.splitters = [FrameSplitter() for _ in ports]

    def send(self, command: Command) -> None:
        for sock in self.sockets:
            sock.sendall(encode_frame(command))

    def receive(self) -> bytes:
        answers = []
        for sock, splitter in zip(self.sockets, self.splitters, strict=True):
            frames: list[bytes] = []
            while not frames:
                data = sock.recv(1 << 16)
                assert data, "the connection was closed"
                frames = splitter.feed(data)
            answers.append(frames[0])
        assert answers[0] == answers[1]
        return answers[0]

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


@pytest.fixture(params=["ASYNC_FLUSH", "SYNC_FLUSH"])
def roads(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Roads]:
    roads = Roads(tmp_path, request.param)
    yield roads
    roads.close()


def check_files(roads: Roads, at_least_hot: int) -> None:
    assert roads.hot.reactor.statistics()["hot_sends"] >= at_least_hot, "the hot road was hardly used"
    assert roads.cold.reactor.statistics()["hot_sends"] == 0
    end = roads.hot.store.written_offset
    assert roads.cold.store.written_offset == end
    for stack in (roads.hot, roads.cold):  # who need not wait for a flush is answered before it
        wait_until(lambda stack=stack: stack.store.dispatched_offset == end, "the queues are written", pause=0.001)
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


def batch_entry(body: bytes, properties: str, *, flag: int = 0, size: int = 0, stated: int = 0) -> bytes:
    """One message of a batch; `size` and `stated` are added to the sizes that it states of itself and its body."""
    text = properties.encode()
    total = 22 + len(body) + len(text)
    head = struct.pack(">iiiii", total + size, 0, 0, flag, len(body) + stated)
    return head + body + struct.pack(">H", len(text)) + text


def batch(opaque: int, entries: list[bytes], **changes: str) -> Command:
    ext = {**plain_ext(f"BATCH{opaque:027}", "", 1), "m": "true", **changes}
    return Command(320, opaque=opaque, ext=ext, body=b"".join(entries))


def test_batches(roads: Roads) -> None:
    for number in range(60):
        entries = [
            batch_entry(b"%d" % i * (1 + 37 * number), f"UNIQ_KEY\x01E{number}-{i}\x02TAGS\x01Tag{i % 3}\x02", flag=i)
            for i in range(1 + number % 33)
        ]
        answer = decode_frame(roads.call(batch(number, entries, e=str(number % 4))))
        assert answer.code == 0
        assert len(answer.ext["msgId"].split(",")) == len(entries)
        single = plain_ext(f"BETWEEN{number:025}", "", number % 4)
        roads.call(Command(310, opaque=number, ext=single, body=b"between the batches"))
    check_files(roads, 120)


def test_what_is_no_ordinary_batch_takes_the_cold_road(roads: Roads) -> None:
    plain = batch_entry(b"x", "TAGS\x01A\x02")
    before = roads.hot.reactor.statistics()["hot_sends"]
    for number, properties in enumerate([
        "INNER_MULTI_DISPATCH\x01%LMQ%a,%LMQ%b\x02", "INNER_NUM\x012\x02", "DELAY\x013\x02", "TIMER_DELAY_SEC\x015\x02",
        "TRAN_MSG\x01true\x02", "CLUSTER\x01x\x02", "POP_CK\x01x\x02", "TAGS\x01\u0422\x02", "TAGS\x01A", "TAGS",
        "\x01v\x02",
    ]):  # fmt: skip
        roads.call(batch(number, [plain, batch_entry(b"y", properties), plain]))
        roads.call(batch(number, [plain], i=f"UNIQ_KEY\x01B\x02{properties}"))
    for entries in ([b"\0"], [plain, plain[:-1]], [plain + b"\0"], [batch_entry(b"x", "", size=-1)],
                    [batch_entry(b"x", "", stated=1)], [batch_entry(b"x", "", size=1 << 30)],
                    [batch_entry(b"x", "", stated=-2)], [plain] * 5000):  # fmt: skip
        roads.call(batch(50, entries))
    for changes in ({"f": "4"}, {"f": "128"}, {"e": "-1"}, {"e": "4"}, {"b": "%RETRY%g"}, {"b": "missing"}, {"j": "1"},
                    {"i": "UNIQ_KEY\x01B\x02WAIT\x01false\x02"}):  # fmt: skip
        roads.call(batch(60, [plain], **changes))
    hot = roads.hot.reactor.statistics()["hot_sends"] - before
    assert hot <= 2, "only the one that need not wait for a flush, and its like, may be hot"
    check_files(roads, 0)


@pytest.mark.parametrize("flush", ["ASYNC_FLUSH", "SYNC_FLUSH"])
def test_light_queues_and_bit_maps_are_left_to_the_cold_road(tmp_path: Path, flush: str) -> None:
    """What only some brokers do with a message: put it into more queues, and note which SQL filters it passes."""
    roads = Roads(
        tmp_path, flush, enableLmq="true", enableMultiDispatch="true", enableConsumeQueueExt="true",
        enableCalcFilterBitMap="true", enablePropertyFilter="true",
    )  # fmt: skip

    def send_some(number: int) -> None:
        for properties in ("color\x01red\x02", "INNER_MULTI_DISPATCH\x01%LMQ%a,%LMQ%b\x02", "TAGS\x01A\x02"):
            for topic in ("plain", "t"):
                ext = {**plain_ext(f"L{number:031}", properties, number % 4), "b": topic}
                assert decode_frame(roads.call(Command(310, opaque=number, ext=ext, body=b"x"))).code == 0
            answer = roads.call(batch(number, [batch_entry(b"y", properties), batch_entry(b"z", "TAGS\x01B\x02")]))
            assert decode_frame(answer).code == 0

    try:
        for number in range(8):
            send_some(number)
        heartbeat = {
            "clientID": "c", "producerDataSet": [], "consumerDataSet": [{
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "consumeType": "CONSUME_PASSIVELY", "groupName": "cg",
                "messageModel": "CLUSTERING", "unitMode": False, "subscriptionDataSet": [{
                    "classFilterMode": False, "codeSet": [], "expressionType": "SQL92", "subString": "color = 'red'",
                    "subVersion": 1, "tagsSet": [], "topic": "t",
                }],
            }],
        }  # fmt: skip
        for stack in (roads.hot, roads.cold):
            answer = stack.call(encode_frame(Command(34, opaque=1, body=json.dumps(heartbeat).encode())))
            while not decode_frame(answer).is_response:  # the members of the group have changed, it is told
                answer = stack.receive()
            assert decode_frame(answer).code == 0
        before = roads.hot.reactor.statistics()["hot_sends"]
        for number in range(8):
            send_some(number)
        hot = roads.hot.reactor.statistics()["hot_sends"] - before
        assert 0 < hot <= 32, "only messages of the topic without such a filter, and of no light queue, are hot"
        check_files(roads, 24)
        assert any(name.startswith("consumequeue/%LMQ%a/") for name in roads.hot.files())
        assert any(name.startswith("consumequeue_ext/t/") for name in roads.hot.files())
    finally:
        roads.close()


def test_a_batch_never_crosses_segments(roads: Roads) -> None:
    for number in range(40):
        entries = [batch_entry(bytes([i]) * 3000, f"UNIQ_KEY\x01S{number}-{i}\x02") for i in range(20)]
        roads.call(batch(number, entries))
        roads.call(Command(310, opaque=number, ext=plain_ext(f"A{number:031}", "", 2), body=bytes(11_000)))
    check_files(roads, 80)
    assert len(list((roads.hot.folder / "commitlog").iterdir())) > 2


ORDINARY_NAMES = st.sampled_from(["TAGS", "KEYS", "a", "prop", "x y", "INSTANCE_ID", "RETRY_TOPIC"])
SPECIAL_NAMES = st.sampled_from(
    ["WAIT", "UNIQ_KEY", "DELAY", "TRAN_MSG", "MSG_REGION", "TRACE_ON", "CLUSTER", "POP_CK", "INNER_NUM",
     "TIMER_DELAY_SEC", "__CRC32#", "DUP_INFO", "INNER_MULTI_DISPATCH", "ключ", "TAGS", ""]
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
    "a": "producerGroup", "b": "topic", "c": "defaultTopic", "d": "defaultTopicQueueNums", "e": "queueId",
    "f": "sysFlag", "g": "bornTimestamp", "h": "flag", "i": "properties", "j": "reconsumeTimes", "k": "unitMode",
    "l": "maxReconsumeTimes", "m": "batch", "n": "bname",
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
    "k": st.sampled_from(["true", "x"]),
    "l": st.sampled_from(["3", "-1", "x", ""]),
    "m": st.sampled_from(["true", "FALSE", "True", "1", ""]),
    "n": st.sampled_from(["broker", ""]),
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
    code = draw(st.sampled_from([310, 310, 10, 320]))
    body = draw(st.binary(max_size=40))
    if code == 320 or ext.get("m") == "true":
        entries = draw(st.lists(st.tuples(st.binary(max_size=9), ORDINARY_NAMES, ORDINARY_VALUES), max_size=4))
        body = b"".join(batch_entry(data, f"{name}\x01{value}\x02") for data, name, value in entries)
        if draw(st.integers(0, 3)) == 0:
            body = body[: draw(st.integers(0, len(body)))]
        ext["m"] = ext.get("m", "").replace("false", "true")
    if code == 10:
        ext = {LONG_NAMES[key]: value for key, value in ext.items()}
    command = Command(code, opaque=draw(st.integers(0, 2**31 - 1)), ext=ext, body=body)
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


TEXTS = {
    "b": st.sampled_from(["plain", "t", "none", "pl", "plain "]),
    "e": NUMBERS,
    "f": NUMBERS,
    "g": st.one_of(NUMBERS, st.sampled_from(["1700000000123", "-1700000000123", "9223372036854775807"])),
    "h": NUMBERS,
    "i": st.sampled_from(
        [
            r"UNIQ_KEY\u0001K\u0002",
            r"UNIQ_KEY\u0001Longer\u0002TAGS\u0001\"q\"\u0002",
            r"UNIQ_KEY\u0001K\u0002DELAY\u00011\u0002",
            "\\",
            "x",
            "",
        ]
    ),
    "m": st.sampled_from(["true", "false", "False"]),
}
PLAIN = (
    '{"a":"pg","b":"plain","c":"TBW102","d":"4","e":"1","f":"0","g":"1700000000123","h":"0",'
    r'"i":"UNIQ_KEY\u0001K1\u0002","j":"0","k":"false","m":"false"}'
)
REST = ',"flag":0,"language":"JAVA","opaque":OPAQUE,"serializeTypeCurrentRPC":"JSON","version":479}'


@st.composite
def headers_alike(draw: st.DrawFn) -> str:
    """A send's header as text: the plain one with values changed, written otherwise, or there twice; OPAQUE is open."""
    text = PLAIN
    for name in draw(st.lists(st.sampled_from(sorted(TEXTS)), max_size=3, unique=True)):
        begin = text.index(f'"{name}":"') + 5
        value = draw(TEXTS[name])
        if draw(st.integers(0, 9)) == 0 and value.isdigit() and value[0] != "0":
            text = text[: begin - 1] + value + text[text.index('"', begin) + 1 :]
        elif draw(st.integers(0, 9)) == 0:
            text = f'{text[:-1]},"{name}":"{value}"}}'
        else:
            text = text[:begin] + value + text[text.index('"', begin) :]
    head = '{"code":310,"extFields":' + text
    twice = [head + ',"opaque":OPAQUE' + REST, '{"opaque":OPAQUE,' + head[1:] + REST]
    text = draw(st.sampled_from([head + REST] * 6 + twice))
    return text.replace(",", draw(st.sampled_from([","] * 6 + [" , "])), draw(st.integers(0, 8)))


def test_sends_that_are_nearly_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The hot road compares a header with the last one of its connection: only what is the same may pass for it."""
    roads = Roads(tmp_path_factory.mktemp("alike"), "ASYNC_FLUSH")

    def call(header: str, opaque: int) -> None:
        text = header.replace("OPAQUE", str(opaque)).encode()
        try:
            json.loads(text)
        except ValueError:
            return
        body = b"body %d" % opaque
        frame = struct.pack(">II", 4 + len(text) + len(body), len(text)) + text + body
        assert decode_frame(roads.call(frame)).opaque == opaque

    @settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(headers_alike(), st.integers(0, 2**31 - 1)), min_size=1, max_size=6))
    def check(headers: list[tuple[str, int]]) -> None:
        for header, opaque in headers:
            call(header, opaque)

    try:
        check()
        check_files(roads, 100)
    finally:
        roads.close()


TOP_VALUES = (
    '"x"', "5", "-1", '"5"', "null", "true", "1e2", "2147483648", '""', r'"\ud800"', '"é"', "{}", "[]", r'"\u0031"',
    r'"a\/b"', "0.0", "-0", r'"\u0000"', "99999999999999999999", "05", "1-2", "--5", "-",
)  # fmt: skip
FIELD_VALUES = (
    '"1"', "1", '"01"', "true", "null", r'"\u0031"', r'"\ud83d\ude00"', r'"\ud800"', "1.0", "-0", '"+1"', '" 1"',
    '"9223372036854775807"', '""', "01", "1-2", "-",
)  # fmt: skip
ORDINARY_FIELDS = {
    310: {"a": "pg", "b": "plain", "c": "TBW102", "d": "4", "e": "1", "f": "0", "g": "1700000000123", "h": "0",
          "i": "UNIQ_KEY\x01K1\x02TAGS\x01A\x02", "j": "0", "k": "false", "m": "false"},
    11: {"consumerGroup": "cg", "topic": "plain", "queueId": "1", "queueOffset": "0", "maxMsgNums": "32",
         "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subscription": "*", "subVersion": "0",
         "expressionType": "TAG"},
    15: {"consumerGroup": "cg", "topic": "plain", "queueId": "1", "commitOffset": "1"},
    14: {"consumerGroup": "cg", "topic": "plain", "queueId": "1"},
}  # fmt: skip


HALF_A_PAIR = json.dumps(
    {"code": 11, "extFields": {**ORDINARY_FIELDS[11], "subscription": "\ud800"}, "flag": 0, "opaque": 7, "version": 479}
)
"""A header with text that has no UTF-8."""


@st.composite
def odd_headers(draw: st.DrawFn) -> str:
    """A JSON header as text, mostly with something that no client writes: fields twice, absent, of other types."""
    code = draw(st.sampled_from([310, 310, 11, 15, 14]))
    ext = [(json.dumps(key), json.dumps(value)) for key, value in ORDINARY_FIELDS[code].items()]
    for what in draw(st.lists(st.sampled_from(["more", "changed", "unknown", "gone", "order"]), max_size=2)):
        value = draw(st.sampled_from(FIELD_VALUES))
        at = draw(st.integers(0, len(ext) - 1))
        if what == "more":
            ext.append((ext[at][0], value))
        elif what == "changed":
            ext[at] = ext[at][0], value
        elif what == "unknown":
            ext.insert(at, (draw(st.sampled_from(['"zz"', '""', r'"\u0061"', '"é"', '"bname"', '"lo"'])), value))
        elif what == "gone" and len(ext) > 1:
            del ext[at]
        elif what == "order":
            ext = draw(st.permutations(ext))
    fields = "{" + ",".join(f"{key}:{value}" for key, value in ext) + "}"
    top = [('"code"', str(code)), ('"extFields"', fields), ('"flag"', "0"), ('"language"', '"JAVA"'), ('"opaque"', "7"),
           ('"serializeTypeCurrentRPC"', '"JSON"'), ('"version"', "479")]  # fmt: skip
    for what in draw(st.lists(st.sampled_from(["more", "changed", "ext", "flag", "gone", "order"]), max_size=2)):
        value = draw(st.sampled_from(TOP_VALUES))
        at = draw(st.integers(0, len(top) - 1))
        name = draw(st.sampled_from(["version", "language", "remark", "opaque", "zz", "serializeTypeCurrentRPC"]))
        if what == "more":
            top.append((f'"{name}"', value))
        elif what == "changed":
            top = [(key, value if key == f'"{name}"' else old) for key, old in top]
        elif what == "ext":
            top.append(('"extFields"', draw(st.sampled_from(["{}", "null", '{"a":"x"}', fields]))))
        elif what == "flag":  # all of them ask for an answer
            top.append(('"flag"', draw(st.sampled_from(["0", '"4"', "8", "-8", "null", "true", '"x"']))))
        elif what == "gone" and len(top) > 1:
            del top[at]
        elif what == "order":
            top = draw(st.permutations(top))
    return "{" + draw(st.sampled_from([",", ",", " , ", ",\n"])).join(f"{key}:{value}" for key, value in top) + "}"


def test_odd_headers_are_read_alike(tmp_path_factory: pytest.TempPathFactory) -> None:
    roads = Roads(tmp_path_factory.mktemp("odd"), "ASYNC_FLUSH")
    stacks = roads.hot, roads.cold
    sockets: list[socket.socket] = []

    def answer_to(sock: socket.socket, frame: bytes) -> Command | str:
        sock.sendall(frame)
        splitter = FrameSplitter()
        while data := sock.recv(1 << 16):
            for answer in splitter.feed(data):
                return decode_frame(answer)
        return "closed"

    def call(header: str) -> None:
        if not sockets:
            sockets.extend(socket.create_connection(("127.0.0.1", stack.port), 60) for stack in stacks)
        text = header.encode()
        frame = struct.pack(">II", 5 + len(text), len(text)) + text + b"x"
        hot, cold = (answer_to(sock, frame) for sock in sockets)
        for answer in (hot, cold):
            if isinstance(answer, Command):
                answer.body = b""  # records have the ports of these connections in them
        if "closed" in (hot, cold):
            for sock in sockets:
                sock.close()
            sockets.clear()
        assert hot == cold, header

    @settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
    @given(odd_headers())
    @example(HALF_A_PAIR)
    def check(header: str) -> None:
        call(header)

    try:
        for _ in range(5):
            for code, ext in ORDINARY_FIELDS.items():
                call(encode_frame(Command(code, opaque=7, ext=ext))[8:].decode())
        counted = roads.hot.reactor.statistics()
        assert min(counted[name] for name in ("hot_sends", "hot_pulls", "hot_commits", "hot_queries")) > 0
        check()
        assert roads.hot.store.written_offset == roads.cold.store.written_offset
    finally:
        for sock in sockets:
            sock.close()
        roads.close()


def pull(opaque: int, offset: int, **changes: object) -> Command:
    ext = {
        "consumerGroup": "cg", "topic": "plain", "queueId": "0", "queueOffset": str(offset), "maxMsgNums": "32",
        "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "15000", "subscription": "*", "subVersion": "0",
        "expressionType": "TAG",
    }  # fmt: skip
    code = int(changes.pop("code", 11))  # type: ignore[call-overload]
    serialize = int(changes.pop("serialize", 0))  # type: ignore[call-overload]
    ext.update({key: str(value) for key, value in changes.items()})
    command = Command(code, opaque=opaque, ext={key: value for key, value in ext.items() if value != "-"})
    command.serialize = serialize
    return command


def fill(roads: Roads, count: int) -> None:
    for number in range(count):
        tag = ("TagA", "TagB", "TagC")[number % 3]
        ext = plain_ext(f"K{number:031}", f"TAGS\x01{tag}\x02", number % 2)
        roads.call(Command(310, opaque=number, ext=ext, body=b"%d" % number * (1 + number % 900)))


PULL_ODDITIES: dict[str, st.SearchStrategy[object]] = {
    "consumerGroup": st.sampled_from(["other", "TOOLS_CONSUMER", "bad group!", ""]),
    "topic": st.sampled_from(["t", "missing", "%RETRY%cg"]),
    "queueId": st.sampled_from([1, 2, 3, 4, -1, "x"]),
    "queueOffset": st.sampled_from([0, 1, 29, 30, 31, 59, 60, 61, 1000, -1, "x", "9223372036854775807"]),
    "maxMsgNums": st.sampled_from([1, 5, 0, -3, 1000, "2147483648"]),
    "sysFlag": st.sampled_from([5, 0, 1, 4, 20, 21, 12, 8]),
    "commitOffset": st.sampled_from([7, -1, "9223372036854775807"]),
    "subscription": st.sampled_from(["TagA", "TagB || TagC", "TagX", "", "||", "-", 'a"b', "Тег"]),
    "subVersion": st.sampled_from([1, "1795199252493000000", "x"]),
    "expressionType": st.sampled_from(["-", "SQL92", "tag", ""]),
    "code": st.sampled_from([361]),
    "serialize": st.sampled_from([1]),
}


@st.composite
def pulls(draw: st.DrawFn) -> Command:
    names = draw(st.lists(st.sampled_from(sorted(PULL_ODDITIES)), max_size=2, unique=True))
    changes = {name: draw(PULL_ODDITIES[name]) for name in names}
    return pull(draw(st.integers(0, 2**31 - 1)), draw(st.integers(0, 62)), **changes)


@pytest.mark.parametrize("flush", ["ASYNC_FLUSH", "SYNC_FLUSH"])
def test_generated_pulls(tmp_path_factory: pytest.TempPathFactory, flush: str) -> None:
    roads = Roads(tmp_path_factory.mktemp("pulls"), flush)
    fill(roads, 120)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(pulls(), min_size=1, max_size=4))
    def check(commands: list[Command]) -> None:
        for command in commands:
            roads.call(command)
        for queue_id in range(2):
            at = {"consumerGroup": "cg", "topic": "plain", "queueId": str(queue_id)}
            roads.call(Command(14, opaque=1, ext=at))

    try:
        check()
        assert roads.hot.reactor.statistics()["hot_pulls"] > 100
        assert roads.cold.reactor.statistics()["hot_pulls"] == 0
        roads.call(Command(43, opaque=1))
    finally:
        roads.close()


def test_offset_commits(roads: Roads) -> None:
    fill(roads, 10)
    for offset in (3, 5, 4, 0):
        roads.call(pull(1, offset, sysFlag=5, commitOffset=offset))
        at = {"consumerGroup": "cg", "topic": "plain", "queueId": "0"}
        roads.call(Command(14, opaque=2, ext=at))
        for stack in (roads.hot, roads.cold):
            commit = Command(15, opaque=3, flag=2, ext={**at, "commitOffset": str(offset + 1)})
            stack.sock.sendall(encode_frame(commit))
        answer = decode_frame(roads.call(Command(14, opaque=4, ext=at)))
        assert answer.ext["offset"] == str(offset + 1)
    assert roads.hot.reactor.statistics()["hot_commits"] >= 3


def at_queue(queue_id: object, group: str = "cg", topic: str = "plain") -> dict[str, str]:
    return {"consumerGroup": group, "topic": topic, "queueId": str(queue_id)}


def test_offsets_are_asked_for_and_answered_on_the_hot_road(roads: Roads) -> None:
    fill(roads, 10)
    roads.call(Command(15, opaque=1, ext={**at_queue(0), "commitOffset": "2"}))
    for serialize in (0, 1):
        roads.call(pull(2, 0, sysFlag=5, commitOffset=3))
        for offset in (4, 2, 0, 9):
            for command in (
                Command(15, opaque=3, ext={**at_queue(0), "commitOffset": str(offset)}),
                Command(14, opaque=4, ext={**at_queue(0), "setZeroIfNotFound": "false"}),
                Command(14, opaque=5, ext=at_queue(1)),
            ):
                command.serialize = serialize
                roads.call(command)
            roads.call(pull(6, 1, sysFlag=5, commitOffset=offset + 1))
            assert decode_frame(roads.call(Command(14, opaque=7, ext=at_queue(0)))).ext["offset"] == str(offset + 1)
    assert roads.hot.reactor.statistics()["hot_queries"] >= 16
    assert roads.hot.reactor.statistics()["hot_commits"] >= 8


def test_a_granted_group_s_offsets_are_those_that_tools_set(roads: Roads) -> None:
    """Whatever changes the offsets behind the hot road's back is seen by the next question."""
    fill(roads, 10)
    question = Command(14, opaque=9, ext=at_queue(0))

    def grant(offset: int) -> None:
        for _ in range(2):
            roads.call(pull(1, 1, sysFlag=5, commitOffset=offset))
        before = roads.hot.reactor.statistics()["hot_queries"]
        assert decode_frame(roads.call(question)).ext["offset"] == str(offset)
        assert roads.hot.reactor.statistics()["hot_queries"] == before + 1

    grant(3)
    odd = Command(15, opaque=2, ext={**at_queue(0), "commitOffset": " 5"})
    roads.call(odd)  # not for the hot road to read, nor to be read at all
    roads.call(question)
    roads.call(Command(15, opaque=2, ext={**at_queue(0), "commitOffset": "+6"}))
    assert decode_frame(roads.call(question)).ext["offset"] == "6"
    roads.call(Command(15, opaque=2, ext={**at_queue(0), "commitOffset": "-1"}))
    roads.call(question)
    grant(4)
    clone = {"srcGroup": "nobody", "destGroup": "cg", "topic": "plain", "offline": "false"}
    roads.call(Command(314, opaque=3, ext=clone))
    roads.call(question)
    grant(5)
    reset = {"topic": "plain", "group": "cg", "queueId": "0", "offset": "2", "timestamp": "0", "isForce": "true"}
    roads.call(Command(222, opaque=4, ext=reset))
    assert decode_frame(roads.call(question)).ext["offset"] == "2"
    roads.call(pull(5, 3))
    roads.call(question)
    grant(7)
    roads.call(Command(207, opaque=6, ext={"groupName": "cg", "cleanOffset": "true"}))
    roads.call(question)
    grant(1)
    roads.call(Command(215, opaque=7, ext={"topic": "plain"}))
    roads.call(question)


OFFSET_ODDITIES: dict[str, st.SearchStrategy[str]] = {
    "consumerGroup": st.sampled_from(["other", "bad group!", "", "TOOLS_CONSUMER"]),
    "topic": st.sampled_from(["t", "missing", "", "%RETRY%cg"]),
    "queueId": st.sampled_from(["1", "3", "4", "-1", "x", "65536", "2147483648", "00"]),
    "commitOffset": st.sampled_from(["-1", "-7", "x", "", "9223372036854775807", "9223372036854775808", "+3"]),
    "setZeroIfNotFound": st.sampled_from(["true", "false", "x"]),
}


@st.composite
def offset_commands(draw: st.DrawFn) -> Command:
    ext = at_queue(draw(st.integers(0, 1)))
    code = draw(st.sampled_from([14, 14, 15]))
    if code == 15:
        ext["commitOffset"] = str(draw(st.integers(0, 70)))
    for name in draw(st.lists(st.sampled_from([*sorted(OFFSET_ODDITIES), "gone"]), max_size=2)):
        if name == "gone":
            ext.pop(draw(st.sampled_from(sorted(ext))), None)
        else:
            ext[name] = draw(OFFSET_ODDITIES[name])
    command = Command(code, opaque=draw(st.integers(0, 2**31 - 1)), ext=ext)
    command.serialize = draw(st.sampled_from([0, 0, 1]))
    return command


def test_generated_offsets(tmp_path_factory: pytest.TempPathFactory) -> None:
    roads = Roads(tmp_path_factory.mktemp("offsets"), "ASYNC_FLUSH")
    fill(roads, 20)

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(offset_commands() | pulls(), min_size=1, max_size=6))
    def check(commands: list[Command]) -> None:
        for command in commands:
            roads.call(command)

    try:
        check()
        assert roads.hot.reactor.statistics()["hot_queries"] > 50
        roads.same_tables(Command(43, opaque=1))
    finally:
        roads.close()


def test_a_reset_reaches_the_next_pull_once(roads: Roads) -> None:
    fill(roads, 10)
    for _ in range(2):
        assert decode_frame(roads.call(pull(1, 3))).code == 0
    reset = {"topic": "plain", "group": "cg", "queueId": "0", "offset": "2", "timestamp": "0", "isForce": "true"}
    roads.call(Command(222, opaque=2, ext=reset))
    answer = decode_frame(roads.call(pull(3, 3)))
    assert (answer.code, answer.ext["nextBeginOffset"]) == (21, "2")
    assert decode_frame(roads.call(pull(4, 2))).code == 0


def test_a_group_that_is_switched_off_gets_nothing_more(roads: Roads) -> None:
    fill(roads, 4)
    for _ in range(3):
        assert decode_frame(roads.call(pull(1, 0))).code == 0
    group = json.dumps({"groupName": "cg", "consumeEnable": False}).encode()
    roads.call(Command(200, opaque=2, body=group))
    assert decode_frame(roads.call(pull(3, 0))).code == 16
    roads.call(Command(215, opaque=4, ext={"topic": "plain"}))
    roads.call(pull(5, 0, consumerGroup="cg2"))


def send(roads: Roads, number: int, tag: str) -> None:
    ext = plain_ext(f"H{number:031}", f"TAGS\x01{tag}\x02", 0)
    roads.call(Command(310, opaque=1000 + number, ext=ext, body=b"held"))


def test_held_pulls_are_answered_by_the_message_they_wait_for(roads: Roads) -> None:
    fill(roads, 6)
    waiting = [roads.second_connection() for _ in range(3)]
    for _ in range(2):  # the second round is hot
        for lane, subscription in zip(waiting, ("*", "TagB", "TagA || TagB"), strict=True):
            end = decode_frame(roads.call(Command(30, opaque=9, ext={"topic": "plain", "queueId": "0"})))
            lane.send(pull(77, int(end.ext["offset"]), sysFlag=6, subscription=subscription))
        roads.wait_held(3)
        send(roads, 1, "TagA")
        for lane in (waiting[0], waiting[2]):
            assert decode_frame(lane.receive()).code == 0
        roads.wait_held(1)
        send(roads, 2, "TagB")
        answer = decode_frame(waiting[1].receive())
        assert answer.code == 0
        assert [message.get("TAGS") for message in decode_messages(answer.body)] == ["TagB"]
        roads.wait_held(0)
    assert roads.hot.reactor.statistics()["hot_pulls"] >= 3


def test_held_pulls_are_answered_at_their_deadline(roads: Roads) -> None:
    fill(roads, 6)
    for _ in range(2):
        answer = decode_frame(roads.call(pull(77, 3, sysFlag=6, suspendTimeoutMillis=60)))
        assert (answer.code, answer.remark) == (19, "OFFSET_OVERFLOW_ONE")


def lane_with_a_held_pull(roads: Roads) -> Lane:
    """A second connection whose pull behind the end of queue 0 is held, natively where the hot road is on."""
    fill(roads, 6)
    lane = roads.second_connection()
    for _ in range(2):
        lane.send(pull(77, 3, sysFlag=6, suspendTimeoutMillis=50))
        assert decode_frame(lane.receive()).code == 19
    lane.send(pull(78, 3, sysFlag=6))
    roads.wait_held(1)
    return lane


def test_a_held_pull_whose_group_changes_is_python_s_again(roads: Roads) -> None:
    lane = lane_with_a_held_pull(roads)
    roads.call(Command(200, opaque=2, body=json.dumps({"groupName": "cg", "consumeEnable": False}).encode()))
    send(roads, 1, "TagA")
    assert decode_frame(lane.receive()).code == 16


def test_a_held_pull_whose_group_is_reset_learns_it_at_once(roads: Roads) -> None:
    lane = lane_with_a_held_pull(roads)
    reset = {"topic": "plain", "group": "cg", "queueId": "0", "offset": "1", "timestamp": "0", "isForce": "true"}
    roads.call(Command(222, opaque=2, ext=reset))
    answer = decode_frame(lane.receive())
    assert (answer.code, answer.ext["nextBeginOffset"]) == (21, "1")
    roads.call(Command(15, opaque=3, ext={**at_queue(0), "commitOffset": "2"}))
    assert decode_frame(roads.call(pull(4, 2))).code == 0


def test_a_client_that_leaves_takes_its_held_pulls_along(roads: Roads) -> None:
    fill(roads, 6)
    lane = roads.second_connection()
    for _ in range(2):
        lane.send(pull(77, 3, sysFlag=6, suspendTimeoutMillis=50))
        lane.receive()
    lane.send(pull(78, 3, sysFlag=6))
    lane.send(pull(79, 3, sysFlag=6))
    roads.wait_held(2)
    lane.close()
    roads.wait_held(0)
    send(roads, 1, "TagA")


def test_a_consumer_that_leaves_in_the_turn_of_a_send(roads: Roads) -> None:
    fill(roads, 6)
    for number in range(200):
        lane = roads.second_connection()
        lane.send(pull(77, 3, sysFlag=6, suspendTimeoutMillis=0))
        lane.receive()
        lane.send(pull(78, 3 + number, sysFlag=6))
        roads.wait_held(1)
        ext = plain_ext(f"L{number:031}", "", 0)
        for stack in (roads.hot, roads.cold):
            stack.sock.sendall(encode_frame(Command(310, opaque=number, ext=ext, body=b"x")))
        lane.close()
        for stack in (roads.hot, roads.cold):
            assert decode_frame(stack.receive()).code == 0
        roads.wait_held(0)
