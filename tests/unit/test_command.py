"""Frames: what is written, what is accepted, what is refused. Every test runs on the extension and on plain Python."""

from __future__ import annotations

import json
import struct
from types import ModuleType, SimpleNamespace

import pytest

from fastmq.errors import ProtocolError
from fastmq.protocol import _frames, command
from fastmq.protocol.command import JSON, MAX_FRAME_BYTES, ROCKETMQ, Command

EXTENSION = pytest.importorskip("fastmq._codec") if command.decode_frame is not _frames.decode_frame else _frames


@pytest.fixture(params=[_frames, EXTENSION], ids=["python", "extension"])
def codec(request: pytest.FixtureRequest) -> ModuleType:
    return request.param  # type: ignore[no-any-return]


def json_frame(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">II", 4 + len(text) + len(body), len(text)) + text + body


def binary_frame(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">II", 4 + len(header) + len(body), ROCKETMQ << 24 | len(header)) + header + body


def test_the_front_uses_the_extension_when_it_is_built() -> None:
    pytest.importorskip("fastmq._codec")
    assert command.decode_frame.__module__ == "fastmq._codec"


def test_a_json_header_looks_as_java_writes_it(codec: ModuleType) -> None:
    made = Command(105, opaque=7, version=0, ext={"topic": "t"}, body=b"xy")
    text = (
        b'{"code":105,"extFields":{"topic":"t"},"flag":0,"language":"JAVA","opaque":7,'
        b'"serializeTypeCurrentRPC":"JSON","version":0}'
    )
    assert codec.encode_frame(made) == struct.pack(">II", len(text) + 6, len(text)) + text + b"xy"


def test_absent_parts_are_left_out_and_empty_text_is_kept(codec: ModuleType) -> None:
    assert b"remark" not in codec.encode_frame(Command(0))
    assert b"extFields" not in codec.encode_frame(Command(0))
    assert b'"extFields":{},' in codec.encode_frame(Command(0, ext_present=True))
    assert b'"remark":"",' in codec.encode_frame(Command(0, remark=""))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("KEYS\x01a\x02", rb"KEYS\u0001a\u0002"),
        ("\b\t\n\f\r", rb"\b\t\n\f\r"),
        ("\x0b\x1a\x1f\x00", rb"\u000B\u001A\u001F\u0000"),
        ('say "no" \\ /', rb"say \"no\" \\ /"),
        ("\x7f\x80\x9f\xa0", b"\\u007F\\u0080\\u009F\xc2\xa0"),
        ("\u2027\u2028\u2029\u202a", b"\xe2\x80\xa7\\u2028\\u2029\xe2\x80\xaa"),
        ("größe 标签 \U0001f600", "größe 标签 \U0001f600".encode()),
        ("half \ud83d pair", b"half ? pair"),
    ],
)
def test_text_is_escaped_as_fastjson_does(codec: ModuleType, text: str, shown: bytes) -> None:
    frame = codec.encode_frame(Command(0, remark=text, ext={text: text}))
    assert b'{"' + shown + b'":"' + shown + b'"}' in frame
    assert b'"remark":"' + shown + b'"' in frame
    if "\ud83d" not in text:
        assert codec.decode_frame(frame) == Command(0, remark=text, ext={text: text})


def test_the_binary_header_has_the_documented_bytes(codec: ModuleType) -> None:
    made = Command(105, opaque=7, version=0, remark="r", ext={"topic": "t"}, serialize=ROCKETMQ)
    header = bytes.fromhex("0069 00 0000 00000007 00000000 00000001 72 0000000c 0005 746f706963 00000001 74")
    assert codec.encode_frame(made) == binary_frame(header)
    assert codec.decode_frame(binary_frame(header)) == made


def test_codes_that_do_not_fit_the_binary_header_are_cut_off_as_java_does(codec: ModuleType) -> None:
    frame = codec.encode_frame(Command(200050, serialize=ROCKETMQ, language="KLINGON"))
    back = codec.decode_frame(frame)
    assert back.code == 3442
    assert back.language == "OTHER"


@pytest.mark.parametrize("serialize", [JSON, ROCKETMQ])
def test_a_round_trip_keeps_everything(codec: ModuleType, serialize: int) -> None:
    made = Command(-1006, -5, 3, "GO", 317, "ö", {"b": "1", "a": ""}, b"\x00\xff", serialize)
    back = codec.decode_frame(codec.encode_frame(made))
    assert back == made
    assert list(back.ext) == ["b", "a"]


def test_any_buffer_is_taken(codec: ModuleType) -> None:
    frame = codec.encode_frame(Command(10, body=b"b"))
    assert codec.decode_frame(bytearray(frame)) == codec.decode_frame(memoryview(frame)) == codec.decode_frame(frame)


def test_what_clients_of_other_languages_send_is_accepted(codec: ModuleType) -> None:
    text = (
        b'{ "version" : 333, "language":"CPP","code":310,"opaque":3,"flag":"0","remark":"",\t"stranger":{"a":[null]},'
        b'"extFields":{"queueId":3,"batch":true,"unitMode":false,"ratio":1.50,"big":12345678901234567890,"none":null,'
        b'"topic":"t"}}\n'
    )
    back = codec.decode_frame(json_frame(text))
    assert back == Command(
        310, 3, 0, "CPP", 333, "",
        {"queueId": "3", "batch": "true", "unitMode": "false", "ratio": "1.50", "big": "12345678901234567890",
         "topic": "t"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "kept"), [("GO", "GO"), ("ZIG", "ZIG"), ("", ""), (3, "PYTHON"), (77, 77), (None, "OTHER")]
)
def test_languages(codec: ModuleType, given: object, kept: object) -> None:
    assert codec.decode_frame(json_frame({"code": 34, "language": given})).language == kept


def test_missing_numbers_are_zero(codec: ModuleType) -> None:
    back = codec.decode_frame(json_frame({"code": None}))
    assert (back.code, back.opaque, back.flag, back.version) == (0, 0, 0, 0)
    assert back.remark is None
    assert back.ext == {}


def test_the_last_of_equal_keys_counts(codec: ModuleType) -> None:
    back = codec.decode_frame(json_frame(b'{"code":1,"extFields":{"a":"1","a":"2"},"code":2}'))
    assert back.code == 2
    assert back.ext == {"a": "2"}


def test_escapes_and_broken_utf8_in_headers(codec: ModuleType) -> None:
    header = b'{"code":1,"remark":"\\u00e4\\/\\ud83d\\ude00 \\u2028\xff\\n","extFields":{}}'
    back = codec.decode_frame(json_frame(header))
    assert back.remark == "ä/\U0001f600 \u2028\ufffd\n"


@pytest.mark.parametrize(
    "header",
    [
        b"", b"null", b"[]", b"1", b"{", b"{}x", b'{"code":1,}', b"{'code':1}", b'{"code":1.0}', b'{"code":1e2}',
        b'{"code":true}', b'{"code":NaN}', b'{"code":"ten"}', b'{"code":2147483648}', b'{"opaque":-2147483649}',
        b'{"code":01}', b'{"code":1"flag":0}', b'{"remark":5}', b'{"extFields":[]}', b'{"extFields":"x"}',
        b'{"extFields":{"a":{}}}', b'{"extFields":{"a":[1]}}', b'{"extFields":{"a":NaN}}', b'{"language":[]}',
        b'{"language":300}', b'{"remark":"\x01"}', b'{"remark":"\\x"}', b'{"remark":"\\u12g4"}', b'{"remark":"',
        b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"code":' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_a_header_that_is_not_one_is_refused(codec: ModuleType, header: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_frame(json_frame(header))


FIXED = struct.Struct(">hbhiii")


@pytest.mark.parametrize(
    "header",
    [
        b"", bytes(20),
        FIXED.pack(1, 0, 0, 0, 0, -1) + bytes(4),
        FIXED.pack(1, 0, 0, 0, 0, 1) + bytes(4),
        FIXED.pack(1, 0, 0, 0, 0, 0x7FFFFFFF) + bytes(4),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">i", -1),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">i", 1),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">i", 1) + b"\x00",
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">ih", 2, 5),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">ih", 2, -1),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">ihi", 6, 0, 1),
        FIXED.pack(1, 0, 0, 0, 0, 0) + struct.pack(">ihi", 6, 0, -1),
    ],
)  # fmt: skip
def test_a_binary_header_with_lying_lengths_is_refused(codec: ModuleType, header: bytes) -> None:
    with pytest.raises(ProtocolError):
        codec.decode_frame(binary_frame(header))


@pytest.mark.parametrize("serialize", [JSON, ROCKETMQ])
def test_a_frame_cut_at_any_byte_is_refused(codec: ModuleType, serialize: int) -> None:
    frame = codec.encode_frame(Command(10, 1, ext={"topic": "t"}, remark="r", body=b"body", serialize=serialize))
    for size in range(len(frame)):
        with pytest.raises(ProtocolError):
            codec.decode_frame(frame[:size])
    with pytest.raises(ProtocolError):
        codec.decode_frame(frame + b"x")


def test_a_frame_with_a_wrong_prefix_is_refused(codec: ModuleType) -> None:
    header = b'{"code":1}'
    with pytest.raises(ProtocolError, match="serialize type 2"):
        codec.decode_frame(struct.pack(">II", 14, 2 << 24 | 10) + header)
    with pytest.raises(ProtocolError, match="header of 11 bytes"):
        codec.decode_frame(struct.pack(">II", 14, 11) + header)


def test_the_largest_frame_and_one_byte_more(codec: ModuleType) -> None:
    room = MAX_FRAME_BYTES - len(codec.encode_frame(Command(10)))
    frame = codec.encode_frame(Command(10, body=bytes(room)))
    assert len(frame) == MAX_FRAME_BYTES
    assert len(codec.decode_frame(frame).body) == room
    assert codec.FrameSplitter().feed(frame) == [frame]
    with pytest.raises(ValueError, match="the limit is 16777216"):
        codec.encode_frame(Command(10, body=bytes(room + 1)))


def test_values_that_no_header_can_hold_are_the_callers_error(codec: ModuleType) -> None:
    with pytest.raises((TypeError, ValueError)):
        codec.encode_frame(Command(10, ext={"a": 1}))  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="longer than 32767"):
        codec.encode_frame(Command(10, ext={"a" * 40000: ""}, serialize=ROCKETMQ))


def test_a_reply_echoes_opaque_and_form() -> None:
    request = Command(10, opaque=77, language="GO", flag=0, serialize=ROCKETMQ)
    reply = request.reply(17, "no such topic", {"a": "b"}, b"x")
    assert (reply.opaque, reply.serialize, reply.flag, reply.language) == (77, ROCKETMQ, 1, "JAVA")
    assert (reply.code, reply.remark, reply.ext, reply.body) == (17, "no such topic", {"a": "b"}, b"x")
    assert reply.is_response
    assert not request.is_response
    assert Command(15, flag=2).is_oneway


def stream_of(codec: ModuleType) -> SimpleNamespace:
    frames = [
        codec.encode_frame(Command(10, 1, body=b"one")),
        codec.encode_frame(Command(11, 2, ext={"topic": "t"}, serialize=ROCKETMQ)),
        codec.encode_frame(Command(34, 3, body=b"x" * 100)),
    ]
    return SimpleNamespace(frames=frames, data=b"".join(frames))


def test_a_stream_is_cut_wherever_it_is_split(codec: ModuleType) -> None:
    stream = stream_of(codec)
    for at in range(len(stream.data) + 1):
        splitter = codec.FrameSplitter()
        assert splitter.feed(stream.data[:at]) + splitter.feed(stream.data[at:]) == stream.frames
        assert splitter.pending == 0


def test_a_stream_is_cut_byte_by_byte(codec: ModuleType) -> None:
    stream = stream_of(codec)
    splitter = codec.FrameSplitter()
    got = [frame for byte in stream.data for frame in splitter.feed(bytes([byte]))]
    assert got == stream.frames


def test_pending_tells_what_is_kept(codec: ModuleType) -> None:
    splitter = codec.FrameSplitter()
    assert splitter.feed(memoryview(b"\x00\x00\x00\x20\x00")) == []
    assert splitter.pending == 5
    assert splitter.feed(bytearray(b"")) == []
    assert splitter.pending == 5


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (b"\x00\x00\x00\x03", "leaves no room"),
        (b"\x00\x00\x00\x00", "leaves no room"),
        (b"\x01\x00\x00\x00", "frame of 16777220 bytes"),
        (b"\xff\xff\xff\xff", "frame of 4294967299 bytes"),
        (b"\x00\x00\x00\x10\x02\x00\x00\x00", "serialize type 2"),
        (b"\x00\x00\x00\x10\x00\x00\x00\x0d", "header of 13 bytes"),
        (b"GET / HT", "frame of"),
        (b"\x16\x03\x01\x02", "frame of"),
    ],
)
def test_a_broken_stream_is_refused_as_soon_as_it_shows(codec: ModuleType, prefix: bytes, reason: str) -> None:
    splitter = codec.FrameSplitter()
    for byte in prefix[:-1]:
        if splitter.failure is None:
            try:
                assert splitter.feed(bytes([byte])) == []
            except ProtocolError:
                break
    with pytest.raises(ProtocolError, match=reason):
        splitter.feed(prefix[-1:])
    assert reason in splitter.failure
    with pytest.raises(ProtocolError, match=reason):
        splitter.feed(b"")
    assert splitter.pending == 0


def test_frames_before_a_break_are_still_given(codec: ModuleType) -> None:
    stream = stream_of(codec)
    splitter = codec.FrameSplitter()
    assert splitter.feed(stream.data + b"\x00\x00\x00\x00" + stream.data) == stream.frames
    assert splitter.failure is not None
    with pytest.raises(ProtocolError):
        splitter.feed(stream.data)
