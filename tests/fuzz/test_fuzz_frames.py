"""Any bytes at all: the codec accepts them or raises ProtocolError, nothing else.

Held on every input: `decode_frame` of the extension and of plain Python give equal commands or both refuse; what was
accepted can be encoded again; a stream fed whole and fed in pieces gives the same frames and fails at the same point.
Messages, batches, properties and JSON bodies: accepted, or refused with their one error.

Seeds are recorded frames, mutated by a fixed generator; FASTMQ_FUZZ_ROUNDS asks for a longer search.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmq.errors import ProtocolError
from fastmq.protocol import _frames, bodies, command
from fastmq.protocol import message as m
from fastmq.protocol.command import Command
from golden.frames.loader import records

EXTENSION = pytest.importorskip("fastmq._codec") if command.decode_frame is not _frames.decode_frame else _frames
ROUNDS = int(os.environ.get("FASTMQ_FUZZ_ROUNDS", "4000"))
INTERESTING = [
    b"\x00", b"\xff", b"\x7f", b"\x80", b'"', b"\\", b"{", b"}", b"[", b",", b":", b"\\u", b"\\ud800", b"null", b"-",
    b"1e5", b"0", b" ", b"\n", b"\x01", b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"true", b"NaN",
]  # fmt: skip


def outcome(codec: ModuleType, frame: bytes) -> Command | str:
    try:
        made: Command = codec.decode_frame(frame)
    except ProtocolError as error:
        return str(error)
    return made


def check_frame(frame: bytes) -> bool:
    """Both implementations agree; True if they accept."""
    expected = outcome(_frames, frame)
    assert outcome(EXTENSION, frame) == expected
    if isinstance(expected, str):
        return False
    written = _frames.encode_frame(expected)
    assert EXTENSION.encode_frame(expected) == written
    assert isinstance(outcome(EXTENSION, written), Command)
    return True


def split(codec: ModuleType, pieces: list[bytes]) -> tuple[list[bytes], bool]:
    splitter = codec.FrameSplitter()
    frames: list[bytes] = []
    for piece in pieces:
        try:
            frames += splitter.feed(piece)
        except ProtocolError:
            assert splitter.failure
            assert splitter.pending == 0
    return frames, splitter.failure is not None


def check_stream(stream: bytes, generator: random.Random) -> None:
    cuts = sorted(generator.randrange(len(stream) + 1) for _ in range(generator.randrange(6)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]
    whole = split(_frames, [stream])
    for codec in (_frames, EXTENSION):
        assert split(codec, [stream]) == whole
        assert split(codec, pieces) == whole
    assert b"".join(whole[0]) == stream[: sum(map(len, whole[0]))]


def mutate(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.randrange(1, 4)):
        at = generator.randrange(len(changed) + 1)
        what = generator.randrange(6)
        if what == 0 and changed:
            changed[at % len(changed)] = generator.randrange(256)
        elif what == 1:
            changed[at:at] = generator.choice(INTERESTING)
        elif what == 2:
            del changed[at : at + generator.randrange(1, 9)]
        elif what == 3 and changed:
            changed[at % len(changed)] ^= 1 << generator.randrange(8)
        elif what == 4:
            changed[at : at + 4] = struct.pack(">i", generator.choice([0, -1, 1, 0x7FFFFFFF, len(data), -0x80000000]))
        else:
            changed[at:at] = changed[at : at + 12]
    return bytes(changed)


def reframed(frame: bytes) -> bytes:
    """The frame with a length word that fits, so that a mutation gets past the first check."""
    return (len(frame) - 4).to_bytes(4) + frame[4:] if len(frame) >= 8 else frame


def test_mutated_frames() -> None:
    seeds = [record.frame for record in records() if len(record.frame) < 3000]
    generator = random.Random(20260)
    accepted = 0
    for _ in range(ROUNDS):
        frame = mutate(generator.choice(seeds), generator)
        accepted += check_frame(frame)
        accepted += check_frame(reframed(frame))
    assert ROUNDS < 1000 or accepted > ROUNDS // 20


def test_mutated_headers_behind_a_right_prefix() -> None:
    seeds = [record.frame for record in records() if len(record.frame) < 1500]
    generator = random.Random(20261)
    for _ in range(ROUNDS):
        seed = generator.choice(seeds)
        end = 8 + (int.from_bytes(seed[4:8]) & 0xFFFFFF)
        header = mutate(seed[8:end], generator)
        check_frame(struct.pack(">II", 4 + len(header), seed[4] << 24 | len(header)) + header)


def test_mutated_streams() -> None:
    seeds = [record.frame for record in records() if len(record.frame) < 1000]
    generator = random.Random(20262)
    for _ in range(ROUNDS // 8):
        stream = b"".join(generator.choice(seeds) for _ in range(generator.randrange(1, 6)))
        check_stream(stream, generator)
        check_stream(mutate(stream, generator), generator)


def test_mutated_message_pages_and_batches() -> None:
    commands = [(record, command.decode_frame(record.frame)) for record in records()]
    pages = [c.body for _, c in commands if c.body[4:7] == b"\xda\xa3\x20" and len(c.body) < 5000]
    batches = [c.body for record, c in commands if record.code == 320 and record.is_request]
    assert pages
    assert batches
    generator = random.Random(20263)
    for _ in range(ROUNDS):
        page = mutate(generator.choice(pages), generator)
        try:
            for message in m.decode_messages(page):
                m.decode_messages(m.encode_message(message))
                m.decode_properties(message.properties)
        except ProtocolError:
            pass
        batch = mutate(generator.choice(batches), generator)
        with contextlib.suppress(ProtocolError):
            assert m.encode_batch(m.decode_batch(batch)) is not None


READERS = [
    bodies.HeartbeatData.from_json, bodies.LockBatchBody.from_json, bodies.TopicRouteData.from_json,
    bodies.ClusterInfo.from_json, bodies.RegisterBrokerBody.decode, bodies.TopicConfigTable.from_json,
    bodies.SubscriptionGroupTable.from_json, bodies.ConsumerOffsetTable.from_json, bodies.ResetOffsetBody.from_json,
    bodies.ConsumerStatusBody.from_json, bodies.batch_acks, bodies.CheckClientBody.from_json,
]  # fmt: skip


def test_mutated_json_bodies() -> None:
    seeds = [command.decode_frame(record.frame).body for record in records()]
    seeds = [body for body in seeds if body[:1] in (b"{", b"[") and len(body) < 4000]
    generator = random.Random(20264)
    for _ in range(ROUNDS // 2):
        body = mutate(generator.choice(seeds), generator)
        try:
            value = bodies.loads_lenient(body)
        except bodies.JsonError:
            value = None
        if value is not None:
            bodies.loads_lenient(bodies.dumps(value))
        for read in READERS:
            with contextlib.suppress(bodies.JsonError):
                read(body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    check_frame(data)
    for kind in (0, 1):
        check_frame(struct.pack(">II", 4 + len(data), kind << 24 | len(data)) + data)
    check_stream(data, random.Random(len(data)))
    for read in (m.decode_messages, m.decode_batch):
        with contextlib.suppress(ProtocolError):
            read(data)
    m.decode_properties(data)
    with contextlib.suppress(bodies.JsonError):
        bodies.loads_lenient(data)


HEADER_PIECES = st.sampled_from([
    "{", "}", "[", "]", ",", ":", '"', "\\", '"code"', '"flag"', '"opaque"', '"version"', '"language"', '"remark"',
    '"extFields"', '"serializeTypeCurrentRPC"', '"JAVA"', '"JSON"', "0", "-0", "1", "-1", "00", "2147483647",
    "2147483648", "-2147483648", "12345678901234567890", "1.0", "true", "null", " ", '"a"', '"\\u0001"',
    '"\\ud83d\\ude00"', '"\\ud83d"', '"ä"', "\x01", "{}",
    '{"a":"b"}', '{"a":1}', '"code":1', '"extFields":{"k":"v"}',
])  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(HEADER_PIECES, max_size=14))
def test_any_sequence_of_header_pieces(pieces: list[str]) -> None:
    header = "".join(pieces).encode()
    for text in (header, b"{" + header + b"}"):
        check_frame(struct.pack(">II", 4 + len(text), len(text)) + text)
