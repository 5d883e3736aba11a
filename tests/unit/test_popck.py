"""Checkpoints, acks and receipt handles are written and read as RocketMQ does."""

import pytest

from fastmq.broker.delivery.popck import (
    Ack,
    CheckPoint,
    CheckPointKey,
    Receipt,
    normal_topic,
    real_topic,
    retry_flag,
)
from fastmq.errors import ProtocolError

# bodies of the golden store `clean`
GOLDEN_CK = (
    b'{"bm":0,"bn":"broker-store","c":"s-pop-group","d":[0,1,2,3],"it":2000,"n":4,"pt":1795221398328,"q":0,'
    b'"reviveTime":1795221400328,"ro":0,"so":0,"t":"s-order"}'
)
GOLDEN_ACK = b'{"ao":1,"bn":"broker-store","c":"s-pop-group","pt":1795221398328,"q":0,"so":0,"t":"s-order"}'


def checkpoint(**more):
    facts = {
        "topic": "s-order",
        "group": "s-pop-group",
        "queue_id": 0,
        "start_offset": 0,
        "pop_time": 1795221398328,
        "invisible_time": 2000,
        "broker": "broker-store",
        "diffs": (0, 1, 2, 3),
    }
    return CheckPoint(**{**facts, **more})


def test_a_checkpoint_is_apaches_byte_for_byte():
    assert checkpoint().encode() == GOLDEN_CK
    assert CheckPoint.decode(GOLDEN_CK) == checkpoint()
    assert checkpoint().unique_key == "s-order@0@0@s-pop-group@1795221398328@broker-store@ck"
    assert checkpoint().deliver_time == 1795221399328


def test_an_ack_is_apaches_byte_for_byte():
    ack = Ack(key=checkpoint().key, offsets=(1,))
    assert ack.encode() == GOLDEN_ACK
    assert Ack.decode(GOLDEN_ACK, batch=False, broker="b") == ack
    assert ack.unique_key == "s-order@0@1@s-pop-group@1795221398328@broker-store@ack"


def test_a_batch_ack_names_many_offsets():
    ack = Ack(key=checkpoint().key, offsets=(1, 3), batch=True)
    assert ack.encode() == GOLDEN_ACK.replace(b'"ao":1,', b'"ao":-1,"aol":[1,3],')
    assert Ack.decode(ack.encode(), batch=True, broker="b") == ack
    assert (ack.tag, ack.unique_key) == ("bAck", "s-order@0@[1, 3]@s-pop-group@1795221398328@bAck")


def test_acks_by_their_long_names_and_without_a_broker():
    body = b'{"ackOffset":7,"startOffset":5,"consumerGroup":"g","topic":"t","queueId":1,"popTime":9,"brokerName":null}'
    assert Ack.decode(body, batch=False, broker="b").key == CheckPointKey("t", "g", 1, 5, 9, "b")


def test_a_checkpoint_of_an_old_broker_has_its_offsets_in_a_row():
    old = CheckPoint.decode(b'{"bm":2,"n":3,"so":10,"t":"t","c":"g","q":0,"pt":1,"it":2}')
    assert old.diffs == (0, 1, 2)
    assert old.open_offsets() == [10, 12]


def test_acked_messages_are_not_open():
    point = checkpoint(start_offset=100, diffs=(0, 5, 9))
    assert point.ack(105)
    assert point.ack(105)
    assert not point.ack(101)
    assert not point.ack(99)
    assert point.open_offsets() == [100, 109]


def test_a_message_that_cannot_be_put_back_stays_away_longer_each_time():
    point = checkpoint()
    over = point.revive_time
    first = point.again(2, over)
    assert (first.start_offset, first.diffs, first.reput_times) == (2, (0,), 1)
    assert first.revive_time == over + 10_000
    assert first.again(2, over).revive_time == first.revive_time  # its time has not come
    second = first.again(2, first.revive_time)
    assert second.revive_time == first.revive_time + 20_000
    assert CheckPoint.decode(second.encode()) == second
    late = checkpoint(reput_times=40)
    assert late.again(0, over).revive_time == over + 7_200_000


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"t":"t"}', b'{"t":1,"c":"g"}', b'{"t":"t","c":"g","d":[1,"x"]}',
        b'{"t":"t","c":"g","so":"x"}', b'{"t":"t","c":"g","pt":99999999999999999999999}',
        b'{"t":"t","c":"g","d":[' + b"1," * 200 + b"1]}",
        b'{"t":"t","c":"g","d":[5],"so":9223372036854775807}', b'{"t":"t","c":"g","d":[0],"so":-5}',
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(body):
    with pytest.raises(ProtocolError):
        CheckPoint.decode(body)


@pytest.mark.parametrize("body", [b"{}", b'{"t":"t","c":"g","aol":"x"}', b'{"t":"t","c":"g","aol":[1.5]}'])
def test_what_is_no_batch_ack_is_refused(body):
    with pytest.raises(ProtocolError):
        Ack.decode(body, batch=True, broker="b")


def test_a_receipt_has_eight_fields():
    text = "0 1795221023347 20000 4 1 broker-golden 0 0"
    receipt = Receipt.parse(text)
    assert receipt == (0, 1795221023347, 20000, 4, "1", "broker-golden", 0, 0)
    assert str(receipt) == text
    assert not receipt.in_order
    assert Receipt.parse(text.replace(" 4 1 ", " 999 0 ")).in_order
    assert Receipt.parse("5 1 2 3 0 b").offset == 5


@pytest.mark.parametrize(
    "text", ["", "1 2 3 4 0", "x 2 3 4 0 b 0 0", "1 2 3 4 7 b 0 0", "1 2 3 4 0 b 0 0 0", "1  2 3 4 0 b"]
)
def test_what_is_no_receipt_is_refused(text):
    with pytest.raises(ValueError, match="receipt"):
        Receipt.parse(text)


def test_topics_and_their_retry_topics():
    for flag, topic in (("0", "t_x"), ("1", "%RETRY%g_1_t_x"), ("2", "%RETRY%g_1+t_x")):
        assert real_topic("t_x", "g_1", flag) == topic
        assert retry_flag(topic) == flag
        assert normal_topic(topic, "g_1") == "t_x"
    with pytest.raises(ValueError, match="retry flag"):
        real_topic("t", "g", "3")


def test_names_with_special_characters_are_escaped():
    key = CheckPointKey('t"\\\n', "g\u00fc\U0001f680", 1, 5, 9, 'b"')
    for offsets, batch in (((7,), False), ((7, 8), True)):
        assert Ack.decode(Ack(key=key, offsets=offsets, batch=batch).encode(), batch=batch, broker="x").key == key
