"""The frames of `fastmq bench`: real requests, with the places where the inner loop writes."""

from __future__ import annotations

import pytest

from fastmq.bench.target import Queue
from fastmq.bench.workload import OPAQUE_MARK, PULL_OPAQUE, SendWorkload, pull_frame, ring
from fastmq.errors import UsageError
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import decode_frame
from fastmq.protocol.message import decode_batch, decode_properties

QUEUES = [Queue(("127.0.0.1", 1), "T", number) for number in range(12)]


def test_a_single_send_is_what_a_java_client_sends() -> None:
    frame, opaque_at, born_at, [(key_at, stamp_at)] = SendWorkload(QUEUES, 100, tag="red").templates()[11]
    command = decode_frame(frame)
    assert (command.code, command.opaque, command.flag) == (RequestCode.SEND_MESSAGE_V2, OPAQUE_MARK, 0)
    assert (command.ext["b"], command.ext["e"], command.ext["m"]) == ("T", "11", "false")
    properties = decode_properties(command.ext["i"])
    assert properties["TAGS"] == "red"
    assert properties["UNIQ_KEY"].encode() == frame[key_at - 16 : key_at + 16]
    assert frame[opaque_at : opaque_at + 10] == b"1000000000"
    assert frame[born_at : born_at + 13] == command.ext["g"].encode()
    assert len(command.body) == 100
    assert stamp_at == -1


def test_a_oneway_send_says_so() -> None:
    frame = SendWorkload(QUEUES, 1, oneway=True).templates()[0][0]
    assert decode_frame(frame).is_oneway


def test_a_batch_holds_messages_with_keys_and_stamps_of_their_own() -> None:
    frame, _, _, marks = SendWorkload(QUEUES, 40, batch=3, run_id=b"run-id-8").templates()[0]
    command = decode_frame(frame)
    assert (command.code, command.ext["m"]) == (RequestCode.SEND_BATCH_MESSAGE, "true")
    entries = decode_batch(command.body)
    assert [len(entry.body) for entry in entries] == [40, 40, 40]
    assert all(entry.body.startswith(b"run-id-8" + bytes(8)) for entry in entries)
    patched = bytearray(frame)
    for number, (key_at, stamp_at) in enumerate(marks):
        patched[key_at : key_at + 16] = f"{number:016X}".encode()
        patched[stamp_at : stamp_at + 8] = number.to_bytes(8, "big")
    entries = decode_batch(decode_frame(bytes(patched)).body)
    assert [int(decode_properties(entry.properties)["UNIQ_KEY"][16:], 16) for entry in entries] == [0, 1, 2]
    assert [int.from_bytes(entry.body[8:16], "big") for entry in entries] == [0, 1, 2]


def test_a_pull_is_cut_where_its_offset_stands() -> None:
    head, tail = pull_frame(QUEUES[3], 5, group="g", batch=32, suspend_ms=1500)
    length = len(head) + 1 + len(tail)
    words = (length - 4).to_bytes(4, "big") + (length - 8).to_bytes(4, "big")
    command = decode_frame(words + head[8:] + b"7" + tail)
    assert (command.code, command.opaque) == (RequestCode.PULL_MESSAGE, PULL_OPAQUE + 5)
    assert (command.ext["queueId"], command.ext["queueOffset"], command.ext["sysFlag"]) == ("3", "7", "6")


@pytest.mark.parametrize(
    ("templates", "places", "least"), [(1, 1, 1), (8, 1, 64), (8, 100, 1), (8, 3, 64), (1000, 10, 4), (100, 8, 64)]
)
def test_all_connections_together_send_to_every_queue(templates: int, places: int, least: int) -> None:
    numbers = list(range(templates))
    rings = [ring(numbers, place, places, least, 1400) for place in range(places)]
    assert {number for one in rings for number in one} == set(numbers)
    for one in rings:
        assert len(one) >= least
        assert len(one) < templates or len(one) % templates == 0, "after the last frame the next queue follows"


@pytest.mark.parametrize(
    "workload",
    [
        SendWorkload(QUEUES, 0),
        SendWorkload(QUEUES, 5 << 20),
        SendWorkload(QUEUES, 8, run_id=b"12345678"),
        SendWorkload(QUEUES, 1 << 20, batch=5),
    ],
)
def test_sizes_that_make_no_sense_are_refused(workload: SendWorkload) -> None:
    with pytest.raises(UsageError):
        workload.templates()


def test_frames_that_would_fill_the_memory_are_refused() -> None:
    with pytest.raises(UsageError, match="memory"):
        ring([0], 0, 1000, 64, 4 << 20)
