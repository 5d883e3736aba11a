"""The client against what Apache's broker and Java client said to each other."""

from __future__ import annotations

from fastmq.client.messages import ReceivedMessage
from fastmq.client.pop import popped
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import decode_frame
from fastmq.protocol.message import PROPERTY_POP_CK
from golden.frames.loader import Record, records

POP = [
    one
    for one in records()
    if one.place.startswith("pop.jsonl") and one.client.startswith("java") and one.resp_code == 0
]


def _answers() -> list[Record]:
    return [one for one in POP if one.code == RequestCode.POP_MESSAGE and not one.is_request]


def test_checkpoints_are_those_the_java_client_acknowledges_with() -> None:
    """With another checkpoint the broker does not find the message, and brings it again although it is done."""
    made: set[str] = set()
    for answer in _answers():
        for message in popped(decode_frame(answer.frame), "broker-golden"):
            assert isinstance(message, ReceivedMessage)
            made.add(message.properties[PROPERTY_POP_CK])
    acknowledged = [
        decode_frame(one.frame).ext["extraInfo"]
        for one in POP
        if one.code == RequestCode.ACK_MESSAGE and one.is_request and "POP consumer" in one.note
    ]
    assert acknowledged
    assert set(acknowledged) & made, (acknowledged, sorted(made)[:5])
