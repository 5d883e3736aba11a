"""What holds for all commands, messages, properties and bodies: Hypothesis looks for the one for which it does not."""

from __future__ import annotations

import itertools
import socket
from ipaddress import IPv6Address
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmq.protocol import _frames, command
from fastmq.protocol import message as m
from fastmq.protocol.bodies import MessageQueue, dumps, loads_lenient
from fastmq.protocol.command import JSON, ROCKETMQ, Command

EXTENSION = pytest.importorskip("fastmq._codec") if command.decode_frame is not _frames.decode_frame else _frames
CODECS: list[ModuleType] = [_frames, EXTENSION]

few = settings(max_examples=150, deadline=None)

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.text(
    '\x01\x02"\\/\n\x7f\x85\u2028ä€', max_size=10
)
any_text = st.text(max_size=20)  # with halves of surrogate pairs
int32 = st.integers(-(1 << 31), (1 << 31) - 1)
int16 = st.integers(-(1 << 15), (1 << 15) - 1)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)

json_commands = st.builds(
    Command, code=int32, opaque=int32, flag=int32, language=st.sampled_from(["JAVA", "GO", "X"]) | text, version=int32,
    remark=st.none() | text, ext=st.dictionaries(text, text, max_size=6), body=st.binary(max_size=50),
    serialize=st.just(JSON),
)  # fmt: skip
binary_commands = st.builds(
    Command, code=int16, opaque=int32, flag=int32, language=st.sampled_from(["JAVA", "GO", "RUST"]), version=int16,
    remark=st.none() | text.filter(bool), ext=st.dictionaries(text, text, max_size=6), body=st.binary(max_size=50),
    serialize=st.just(ROCKETMQ),
)  # fmt: skip
commands = json_commands | binary_commands


@few
@given(commands)
def test_a_command_survives_the_wire(made: Command) -> None:
    for codec in CODECS:
        assert codec.decode_frame(codec.encode_frame(made)) == made


@few
@given(commands)
def test_both_implementations_write_the_same_bytes(made: Command) -> None:
    assert EXTENSION.encode_frame(made) == _frames.encode_frame(made)


@few
@given(
    st.dictionaries(text, text, max_size=3), st.dictionaries(text, text, max_size=3), int32, int64, int32,
    any_text | text, st.integers(0, (1 << 31) - 1), st.binary(max_size=50),
)  # fmt: skip
def test_a_frame_from_a_template_is_the_frame_of_the_same_fields(  # type: ignore[no-untyped-def]
    before, after, sys_flag, born_ms, flag, properties, opaque, body
) -> None:
    before = {f"<{key}": value for key, value in before.items()}
    after = {f">{key}": value for key, value in after.items()}
    varying = {"f": str(sys_flag), "g": str(born_ms), "h": str(flag), "i": properties}
    whole = Command(310, opaque, language="PYTHON", ext={**before, **varying, **after}, body=body)
    template = command.send_template(310, before, after)
    for codec in CODECS:
        made = codec.encode_send(template, sys_flag, born_ms, flag, properties, opaque, body)
        assert made == _frames.encode_frame(whole)


@few
@given(any_text, st.dictionaries(any_text, any_text, max_size=3), st.sampled_from([JSON, ROCKETMQ]))
def test_both_implementations_write_the_same_for_broken_text(remark: str, ext: dict[str, str], serialize: int) -> None:
    made = Command(1, remark=remark, ext=ext, serialize=serialize)
    assert EXTENSION.encode_frame(made) == _frames.encode_frame(made)


@few
@given(st.lists(commands, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_a_stream_may_be_split_anywhere(made: list[Command], cuts: list[int]) -> None:
    frames = [_frames.encode_frame(item) for item in made]
    stream = b"".join(frames)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    for codec in CODECS:
        splitter = codec.FrameSplitter()
        got = [frame for a, b in itertools.pairwise(edges) for frame in splitter.feed(stream[a:b])]
        assert got == frames
        assert splitter.pending == 0


def shown(ip: IPv6Address) -> str:
    return socket.inet_ntop(socket.AF_INET6, ip.packed)


hosts = st.tuples(
    st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(shown),
    st.integers(0, 65535),
)
messages = st.builds(
    m.StoredMessage, topic=text.filter(lambda name: len(name.encode()) <= 100), body=st.binary(max_size=100),
    properties=st.binary(max_size=100), queue_id=int32, flag=int32, queue_offset=int64, log_offset=int64,
    born_timestamp=int64, born_host=hosts, store_timestamp=int64, store_host=hosts, reconsume_times=int32,
    prepared_offset=int64, version=st.sampled_from([0, 1, 2]),
)  # fmt: skip


@few
@given(st.lists(messages, max_size=4))
def test_a_page_of_messages_survives(made: list[m.StoredMessage]) -> None:
    page = b"".join(map(m.encode_message, made))
    back = m.decode_messages(page)
    assert b"".join(map(m.encode_message, back)) == page
    assert [(x.topic, x.body, x.properties, x.born_host, x.store_host, x.log_offset) for x in back] == [
        (x.topic, x.body, x.properties, x.born_host, x.store_host, x.log_offset) for x in made
    ]


@few
@given(st.lists(st.builds(m.BatchEntry, st.binary(max_size=40), st.binary(max_size=40), int32), max_size=5))
def test_a_batch_survives(made: list[m.BatchEntry]) -> None:
    assert m.decode_batch(m.encode_batch(made)) == made


names = st.text(st.characters(exclude_characters="\x01\x02", exclude_categories=("Cs",)), min_size=1, max_size=10)
values = st.text(st.characters(exclude_characters="\x02", exclude_categories=("Cs",)), min_size=1, max_size=10)


@few
@given(st.dictionaries(names, values, max_size=6), st.dictionaries(names, values, max_size=3), st.booleans())
def test_properties_survive_and_later_ones_win(first: dict[str, str], more: dict[str, str], closed: bool) -> None:
    written = m.encode_properties(first)
    assert m.decode_properties(written) == first
    if not closed:
        written = written[:-1]
    assert m.decode_properties(m.append_properties(written, more)) == {**first, **more}


@few
@given(hosts, int64)
def test_message_ids_survive(host: tuple[str, int], log_offset: int) -> None:
    assert m.parse_message_id(m.offset_message_id(*host, log_offset)) == (*host, log_offset)


json_values = st.recursive(
    st.none() | st.booleans() | int64 | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(text, inner.filter(lambda v: v is not None), max_size=4)
    ),
    max_leaves=15,
)


@few
@given(json_values)
def test_json_survives(value: Any) -> None:
    assert loads_lenient(dumps(value)) == value
    assert loads_lenient(dumps(value, ascii_only=True)) == value


queues = st.builds(MessageQueue, text, text, int32)


@few
@given(st.dictionaries(queues, int64, max_size=5), st.dictionaries(int32, int64, max_size=4))
def test_maps_with_queues_and_numbers_as_keys_survive(table: dict[MessageQueue, int], numbers: dict[int, int]) -> None:
    back = loads_lenient(dumps([table, numbers], int_keys_quoted=False))
    assert {MessageQueue.from_key(key): value for key, value in back[0].items()} == table
    assert {int(key): value for key, value in back[1].items()} == numbers


@few
@given(st.text(max_size=20))
def test_the_hash_is_javas(value: str) -> None:
    units = value.encode("utf-16-be", "surrogatepass")
    expected = 0
    for at in range(0, len(units), 2):
        expected = 31 * expected + int.from_bytes(units[at : at + 2])
    assert m.java_hash(value) == (expected + (1 << 31)) % (1 << 32) - (1 << 31)
