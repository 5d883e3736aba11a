"""Frames that Apache RocketMQ 5.3.3, its Java clients 5.3.3 and 4.9.7, mqadmin and the Go client 2.1.2 really sent.

They were recorded between released programs on one host (see `frames/`). If one of these tests fails, a client in the
field cannot talk to us any more: the bytes are not ours to change.
"""

from __future__ import annotations

from collections import Counter

import pytest

from fastmq.errors import RequestError
from fastmq.protocol import _frames, bodies
from fastmq.protocol.codes import REQUESTS
from fastmq.protocol.command import ROCKETMQ, Command, FrameSplitter, decode_frame, encode_frame
from fastmq.protocol.message import body_crc, decode_batch, decode_messages, encode_batch, encode_message
from golden.frames.loader import Record, records

MESSAGE_MAGICS = (b"\xda\xa3\x20\xa7", b"\xda\xa3\x20\xab")


def written_by_java(record: Record, command: Command) -> bool:
    return command.language == "JAVA"


def decoded() -> list[tuple[Record, Command]]:
    return [(record, decode_frame(record.frame)) for record in records()]


def test_the_recordings_are_all_here() -> None:
    kinds = Counter(command.serialize for _, command in decoded())
    assert len(records()) > 2600
    assert kinds[ROCKETMQ] > 100


def test_every_frame_has_the_code_of_its_record() -> None:
    for record, command in decoded():
        assert command.is_response is not record.is_request, record
        if record.is_request:
            assert command.code == (record.code if command.serialize != ROCKETMQ else record.code & 0x7FFF), record
        else:
            assert command.code == record.resp_code, record


def test_java_frames_encode_to_the_same_bytes() -> None:
    """Java writes its keys in one order and leaves out nulls; clients of other languages read only that."""
    checked = 0
    for record, command in decoded():
        if written_by_java(record, command):
            assert encode_frame(command) == record.frame, record
            checked += 1
    assert checked > 2500


def test_frames_of_other_clients_keep_their_meaning() -> None:
    """The Go client has its own order of keys."""
    checked = 0
    for record, command in decoded():
        if not written_by_java(record, command):
            assert decode_frame(encode_frame(command)) == command, record
            checked += 1
    assert checked > 80


def test_python_and_extension_agree() -> None:
    codec = pytest.importorskip("fastmq._codec")
    for record in records():
        command = _frames.decode_frame(record.frame)
        assert codec.decode_frame(record.frame) == command, record
        assert codec.encode_frame(command) == _frames.encode_frame(command), record


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_the_stream_of_all_frames_is_cut_where_they_end(chunk: int) -> None:
    frames = [record.frame for record in records()]
    if chunk == 1:
        frames = frames[:200]
    stream = b"".join(frames)
    splitter = FrameSplitter()
    cut = [frame for at in range(0, len(stream), chunk) for frame in splitter.feed(stream[at : at + chunk])]
    assert cut == frames
    assert splitter.pending == 0


REFUSED_HEADERS = {
    "max offset, topic missing": "topic",
    "max offset, number not parsable": "queueId",
    "pull, required fields missing": "topic",
    "send, required fields missing": "b",
}
NOT_OF_THE_HEADER = {"ReqT", "bname", "lo", "isC", "AccessKey", "Signature", "SecurityToken"}


def test_every_header_decodes_and_keeps_its_fields() -> None:
    """Where we refuse, Apache's broker answered code 1 too."""
    refused = {}
    for record, command in decoded():
        row = REQUESTS.get(record.code)
        header = None if row is None else row.header if record.is_request else row.reply_header
        if header is None or (not record.is_request and record.resp_code != 0):
            continue
        try:
            fields = header.decode(command.ext).encode()
        except RequestError as error:
            refused[record.note] = (record.resp_code, error.remark)
            continue
        for name, value in command.ext.items():
            if name not in NOT_OF_THE_HEADER:
                assert fields.get(name) == value, (name, record)
    assert refused == {note: (1, f"the custom field <{name}> is null") for note, name in REFUSED_HEADERS.items()}


def is_json(body: bytes) -> bool:
    return body[:1] in (b"{", b"[")


def test_every_json_body_parses() -> None:
    checked = 0
    for record, command in decoded():
        if is_json(command.body):
            if command.body == b"{broken":
                with pytest.raises(ValueError, match="not JSON at character 7"):
                    bodies.loads_lenient(command.body)
                continue
            assert isinstance(bodies.loads_lenient(command.body), dict | list), record
            checked += 1
    assert checked > 400


REQUEST_BODIES = {
    34: bodies.HeartbeatData.from_json, 41: bodies.LockBatchBody.from_json, 42: bodies.LockBatchBody.from_json,
    46: bodies.CheckClientBody.from_json, 103: bodies.RegisterBrokerBody.decode,
    200: bodies.SubscriptionGroupConfig.from_json, 220: bodies.ResetOffsetBody.from_json,
    322: bodies.DataVersion.from_json,
}  # fmt: skip
RESPONSE_BODIES = {
    21: bodies.TopicConfigTable.from_json, 28: bodies.KVTable.from_json, 41: bodies.LockBatchResponseBody.from_json,
    103: bodies.KVTable.from_json, 105: bodies.TopicRouteData.from_json, 201: bodies.SubscriptionGroupTable.from_json,
    206: bodies.TopicList.from_json, 219: bodies.KVTable.from_json, 221: bodies.ConsumerStatusBody.from_json,
    222: bodies.ResetOffsetBody.from_json, 223: bodies.ConsumerStatusBody.from_json,
    224: bodies.TopicList.from_json, 300: bodies.GroupList.from_json, 304: bodies.TopicList.from_json,
    305: bodies.TopicList.from_json, 309: bodies.ConsumeMessageDirectlyResult.from_json,
    322: bodies.DataVersion.from_json, 343: bodies.TopicList.from_json, 351: bodies.TopicConfig.from_json,
    352: bodies.SubscriptionGroupConfig.from_json, 353: bodies.GroupForbidden.from_json,
}  # fmt: skip
WITHOUT_ORDER = {34}
"""Bodies with sets, which Java writes in the order of its hash table."""


def is_full_java_body(record: Record, command: Command) -> bool:
    """A body that a Java program of 5.x made of a whole object: nothing is left out, members are sorted."""
    writer = record.client if record.is_request else "broker 5.3.3"
    if not is_json(command.body) or command.language != "JAVA" or not writer.split()[1].startswith("5.3"):
        return False
    return not (record.note.startswith("set ") or command.body in (b"{}", b"{broken"))


def test_typed_bodies_encode_to_the_same_bytes() -> None:
    checked: Counter[int] = Counter()
    for record, command in decoded():
        read = (REQUEST_BODIES if record.is_request else RESPONSE_BODIES).get(record.code)
        if read is None or not is_full_java_body(record, command):
            continue
        body = read(command.body)
        lenient_route = record.code == 105 and b"{0:" in command.body
        if lenient_route or body == read(b"{}") or record.code in WITHOUT_ORDER:
            continue
        shown = body.encode(True) if record.code == 105 else bodies.dumps(body)
        if shown != command.body and set(bodies.loads_lenient(shown)) != set(bodies.loads_lenient(command.body)):
            assert "java" in record.client, record  # made by hand with some members only
            continue
        if record.code in (103, 200) and len(shown) > len(command.body):
            continue  # the same, one level deeper
        assert shown == command.body, record
        checked[record.code] += 1
    assert {21, 28, 41, 42, 46, 103, 105, 201, 222, 351, 352} <= set(checked)


def test_heartbeats_keep_their_meaning() -> None:
    checked = 0
    for record, command in decoded():
        if record.code == 34 and record.is_request and command.body != b"{broken":
            beat = bodies.HeartbeatData.from_json(command.body)
            assert beat.client_id, record
            assert bodies.HeartbeatData.from_json(bodies.dumps(beat)) == beat, record
            raw = bodies.loads_lenient(command.body)
            for group, parsed in zip(raw.get("consumerDataSet", []), beat.consumer_data_set, strict=True):
                for item, subscription in zip(group["subscriptionDataSet"], parsed.subscription_data_set, strict=True):
                    if item["expressionType"] == "TAG":
                        assert set(map(int, item["codeSet"])) == subscription.code_set, record
            checked += 1
    assert checked > 10


def test_lenient_routes_are_read_like_strict_ones() -> None:
    """Clients before 4.9.4 get bare broker ids; ours leaves out `enableActingMaster`, which those never had."""
    checked = 0
    for record, command in decoded():
        if record.code == 105 and not record.is_request and b"{0:" in command.body:
            route = bodies.TopicRouteData.from_json(command.body)
            assert route.broker_datas[0].broker_addrs[0].startswith("127.0.0.1:"), record
            assert route.encode(False) == command.body.replace(b',"enableActingMaster":false', b""), record
            checked += 1
    assert checked > 5


def test_message_pages_encode_to_the_same_bytes() -> None:
    """What a consumer gets is the stored record; a changed byte is a broken page for every client."""
    messages = 0
    for record, command in decoded():
        if command.body[4:8] in MESSAGE_MAGICS:
            page = decode_messages(command.body)
            assert b"".join(map(encode_message, page)) == command.body, record
            for message in page:
                assert message.body_crc == body_crc(message.body), record
                assert message.topic, record
            messages += len(page)
    assert messages > 200


def test_batch_bodies_encode_to_the_same_bytes() -> None:
    entries = 0
    for record, command in decoded():
        if record.code == 320 and record.is_request and command.ext["m"] == "true":
            batch = decode_batch(command.body)
            assert encode_batch(batch) == command.body, record
            assert all(entry.body for entry in batch), record
            entries += len(batch)
    assert entries > 20
