"""Finding messages by key, by id and by queue entry."""

from __future__ import annotations

import pytest
from test_admin_handlers import MemoryBroker

from fastmq.net.server import Reply
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages

FOREVER = 2**63 - 1


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.add_topic("t")
    return broker


def find(broker: MemoryBroker, key: str, **more: object) -> Reply:
    ext = {"topic": "t", "key": key, "maxNum": 32, "beginTimestamp": 0, "endTimestamp": FOREVER,
           "_UNIQUE_KEY_QUERY": "false", **more}  # fmt: skip
    return broker.request(RequestCode.QUERY_MESSAGE, ext)


def bodies(reply: Reply) -> list[bytes]:
    return [bytes(message.body) for message in decode_messages(reply.body)]


def test_by_one_of_its_keys(broker: MemoryBroker) -> None:
    broker.store.add("t", body=b"1", KEYS="a b", UNIQ_KEY="U1")
    broker.store.add("t", body=b"2", KEYS="b")
    broker.store.add("t", body=b"3", KEYS="bb")
    reply = find(broker, "b")
    assert reply.code == 0
    assert bodies(reply) == [b"1", b"2"]
    assert int(reply.ext["indexLastUpdatePhyoffset"]) == broker.store.written_offset
    assert int(reply.ext["indexLastUpdateTimestamp"]) > 0


def test_by_unique_key(broker: MemoryBroker) -> None:
    broker.store.add("t", body=b"1", UNIQ_KEY="U1")
    broker.store.add("t", body=b"2", UNIQ_KEY="U2")
    assert bodies(find(broker, "U2", _UNIQUE_KEY_QUERY="true", maxNum=0)) == [b"2"], "32 is the number then"


def test_messages_that_only_share_the_hash_are_left_out(broker: MemoryBroker) -> None:
    broker.store.collide = True
    broker.add_topic("other")
    broker.store.add("t", body=b"mine", KEYS="k")
    broker.store.add("t", body=b"not", KEYS="kk")
    broker.store.add("other", body=b"not", KEYS="k")
    assert bodies(find(broker, "k")) == [b"mine"]


def test_nothing_found(broker: MemoryBroker) -> None:
    broker.store.add("t", KEYS="k")
    reply = find(broker, "absent")
    assert (reply.code, reply.remark) == (22, "can not find message, maybe time range not correct")
    assert reply.ext == {"indexLastUpdatePhyoffset": "0", "indexLastUpdateTimestamp": "0"}
    assert find(broker, "k", endTimestamp=1).code == 22
    assert find(broker, "k", maxNum=0).code == 22


def test_number_is_bounded_and_the_newest_win(broker: MemoryBroker) -> None:
    for number in range(100):
        broker.store.add("t", body=b"%d" % number, KEYS="k")
    assert bodies(find(broker, "k", maxNum=2)) == [b"98", b"99"]
    assert len(bodies(find(broker, "k", maxNum=1000))) == 64


def test_missing_fields_are_named(broker: MemoryBroker) -> None:
    reply = broker.request(RequestCode.QUERY_MESSAGE, {"topic": "t"})
    assert reply.code == 1
    assert "key" in (reply.remark or "")


def test_by_offset_in_the_log(broker: MemoryBroker) -> None:
    at = broker.store.add("t", body=b"here")
    assert bodies(broker.request(RequestCode.VIEW_MESSAGE_BY_ID, {"offset": at})) == [b"here"]
    for offset in (at + 1, 10**9, -1):
        reply = broker.request(RequestCode.VIEW_MESSAGE_BY_ID, {"offset": offset})
        assert (reply.code, reply.remark) == (1, f"can not find message by the offset, {offset}")


def queue(broker: MemoryBroker, **ext: object) -> Reply:
    return broker.request(RequestCode.QUERY_CONSUME_QUEUE, {"topic": "t", "queueId": 0, "index": 0, "count": 10, **ext})


def test_queue_entries(broker: MemoryBroker) -> None:
    offsets = [broker.store.add("t", 0) for _ in range(3)]
    body = broker.json(RequestCode.QUERY_CONSUME_QUEUE, {"topic": "t", "queueId": 0, "index": 1, "count": 10})
    assert (body["minQueueIndex"], body["maxQueueIndex"]) == (0, 3)
    assert [entry["physicOffset"] for entry in body["queueData"]] == offsets[1:]
    assert set(body["queueData"][0]) == {"eval", "physicOffset", "physicSize", "tagsCode"}
    assert "subscriptionData" not in body
    assert b'"queueData":[]' in queue(broker, index=5).body
    assert b'"queueData":[]' in queue(broker, queueId=1).body
    missing = queue(broker, topic="nope")
    assert (missing.code, missing.remark) == (1, "0@nope is not exist!")
    assert queue(broker, queueId=9).code == 1


def test_queue_entries_with_a_group(broker: MemoryBroker) -> None:
    assert b'"filterData":"g@t is not online!"' in queue(broker, consumerGroup="g").body
    broker.connect("g", "c", "t")
    assert b'"subString":"*"' in queue(broker, consumerGroup="g").body
