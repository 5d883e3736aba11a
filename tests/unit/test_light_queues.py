"""Light queues (LMQ) and bit maps as a client and the files see them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.message import decode_messages, offset_message_id, parse_message_id
from unit.broker_rig import Rig, consumer

TOPIC = "topic-a"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, enable_lmq=True, enable_multi_dispatch=True, max_lmq_consume_queue_num=3)
    rig.broker.topics.put(TopicConfig(TOPIC, 4, 4))
    yield rig
    rig.close()


def send(rig: Rig, body: bytes, names: str, **more: Any) -> Any:
    return rig.send(TOPIC, body, properties=f"INNER_MULTI_DISPATCH\x01{names}\x02", **more)


def bodies(reply: Any) -> list[bytes]:
    return [message.body for message in decode_messages(reply.body)]


def test_messages_are_pulled_from_every_queue(rig: Rig) -> None:
    assert send(rig, b"one", "%LMQ%a,%LMQ%b").code == 0
    assert send(rig, b"two", "%LMQ%b").code == 0
    assert bodies(rig.pull("%LMQ%a", group="%LMQ%g")) == [b"one"]
    assert bodies(rig.pull("%LMQ%b", group="%LMQ%g")) == [b"one", b"two"]
    assert bodies(rig.pull(TOPIC)) == [b"one", b"two"]
    reply = rig.pull("%LMQ%b", group="%LMQ%g", queue=1)
    assert reply.code == ResponseCode.INVALID_PARAMETER
    assert "%LMQ%a" not in rig.broker.topics.names()
    assert "%LMQ%g" not in rig.broker.groups.names()


def test_a_held_pull_of_a_light_queue(rig: Rig) -> None:
    assert rig.pull("%LMQ%a", group="%LMQ%g", sysFlag=6) is None
    send(rig, b"one", "%LMQ%a")
    rig.wake()
    ((_, reply),) = rig.peer.replies
    assert bodies(reply) == [b"one"]


def test_too_many(rig: Rig) -> None:
    assert send(rig, b"one", "%LMQ%a,%LMQ%b,%LMQ%c").code == 0
    reply = send(rig, b"two", "%LMQ%d")
    assert reply.code == ResponseCode.SYSTEM_ERROR
    assert reply.remark.startswith("[LMQ_CONSUME_QUEUE_NUM_EXCEEDED]")
    assert rig.count(TOPIC) == 1


def test_a_delayed_message_arrives_in_light_queues_when_it_is_due(rig: Rig) -> None:
    assert rig.send(TOPIC, b"late", properties="DELAY\x011\x02INNER_MULTI_DISPATCH\x01%LMQ%a\x02").code == 0
    assert rig.count("%LMQ%a") == 0
    rig.clock.advance_ms(1000)
    rig.broker.delay.due(rig.clock.wall_ms())
    assert bodies(rig.pull("%LMQ%a", group="%LMQ%g")) == [b"late"]


def test_offsets_of_light_groups_have_a_table_of_their_own(rig: Rig) -> None:
    send(rig, b"one", "%LMQ%a")
    offsets = rig.broker.offsets
    offsets.commit("%LMQ%g", "%LMQ%a", 0, 1)
    offsets.commit("cg", TOPIC, 0, 5)
    offsets.file.persist()
    folder = Path(rig.config.store_path_root_dir, "config")
    content = json.loads((folder / "lmqConsumerOffset.json").read_text())
    assert content["lmqOffsetTable"] == {"%LMQ%a@%LMQ%g": 1}
    assert content["offsetTable"] == {f"{TOPIC}@cg": {"0": 5}}
    assert not (folder / "consumerOffset.json").exists()
    rig.reopen()
    assert rig.broker.offsets.query("%LMQ%g", "%LMQ%a", 0) == 1
    assert rig.broker.offsets.query("cg", TOPIC, 0) == 5
    assert bodies(rig.pull("%LMQ%a", group="%LMQ%g")) == [b"one"]


def test_switching_on_takes_the_ordinary_offsets_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.broker.offsets.commit("cg", TOPIC, 0, 5)
    rig.broker.offsets.file.persist()
    rig.close()
    rig = Rig(tmp_path, enable_lmq=True)
    assert rig.broker.offsets.query("cg", TOPIC, 0) == 5
    rig.close()


def test_switched_off_light_names_are_names_like_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.broker.topics.put(TopicConfig(TOPIC, 4, 4))
    send(rig, b"one", "%LMQ%a")
    assert rig.pull("%LMQ%a").code == ResponseCode.TOPIC_NOT_EXIST
    rig.close()


def test_cleaning_up_leaves_light_queues(tmp_path: Path) -> None:
    rig = Rig(tmp_path, enable_lmq=True, enable_multi_dispatch=True)
    rig.broker.topics.put(TopicConfig(TOPIC, 4, 4))
    send(rig, b"one", "%LMQ%a")
    rig.broker.topics.delete(TOPIC)
    rig.config = dataclasses.replace(rig.config, enable_lmq=False)
    rig.reopen()
    assert trio.run(rig.ask, RequestCode.CLEAN_UNUSED_TOPIC).code == 0
    assert (rig.count("%LMQ%a"), rig.count(TOPIC)) == (1, 0)
    rig.close()


# --- bit maps ---------------------------------------------------------------------------------------------------------


class Flags:
    """What the store was told of topics last."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig

    def hot(self, topic: str) -> bool:
        return bool(self.rig.broker.topics._store_flags(TopicConfig(topic, 4, 4)) & 1)


def test_messages_of_topics_with_filters_get_bit_maps(tmp_path: Path) -> None:
    rig = Rig(
        tmp_path, enable_property_filter=True, enable_consume_queue_ext=True, enable_calc_filter_bit_map=True,
        mapped_file_size_consume_queue_ext=4096,
    )  # fmt: skip
    rig.broker.topics.put(TopicConfig(TOPIC, 4, 4))
    hot = Flags(rig).hot
    assert hot(TOPIC)
    data = consumer("cg")
    data["subscriptionDataSet"][0].update(subString="n > 5", expressionType="SQL92")
    rig.heartbeat(consumerDataSet=[data])
    assert not hot(TOPIC)
    rig.clock.advance_ms(10)
    for number in range(10):
        rig.send(TOPIC, b"%d" % number, properties=f"n\x01{number}\x02")
    assert bodies(rig.pull(TOPIC, sysFlag=0, subVersion=1)) == [b"6", b"7", b"8", b"9"]
    known = rig.broker.filters.consumers.get(TOPIC, "cg")
    assert known is not None
    found = rig.store.queue_properties(
        TOPIC, 0, 0, 20, bits=known.positions, bit_count=known.bit_count, since_ms=known.born_ms
    )
    assert [one is not False for one in found] == [False] * 6 + [True] * 4
    rig.change(enable_calc_filter_bit_map=False)
    assert hot(TOPIC)
    rig.send(TOPIC, b"10", properties="n\x0110\x02")
    assert bodies(rig.pull(TOPIC, offset=10, sysFlag=0, subVersion=1)) == [b"10"]
    rig.close()


def test_tools_see_light_topics(rig: Rig) -> None:
    send(rig, b"one", "%LMQ%a")
    reply = rig.ask(RequestCode.GET_MAX_OFFSET, {"topic": "%LMQ%a", "queueId": 0})
    assert (reply.code, reply.ext["offset"]) == (0, "1")


@pytest.mark.parametrize("delay", ["DELAY\x011\x02", "TIMER_DELAY_SEC\x011\x02"])
def test_a_delayed_message_whose_light_queue_cannot_be_made_holds_up_nobody(rig: Rig, delay: str) -> None:
    for body in (b"one", b"two"):
        light = f"INNER_MULTI_DISPATCH\x01%LMQ%{body.decode()}\x02"
        assert rig.send(TOPIC, body, properties=delay + light + "TAGS\x01a\x02").code == 0
    assert send(rig, b"x", "%LMQ%a,%LMQ%b,%LMQ%one").code == 0
    timers = rig.broker.timers
    assert timers is not None
    for _ in range(5):
        rig.clock.advance_ms(1000)
        timers.due(rig.clock.wall_ms())
        rig.broker.delay.due(rig.clock.wall_ms())
    assert bodies(rig.pull(TOPIC)) == [b"x", b"one", b"two"]
    assert bodies(rig.pull("%LMQ%one", group="%LMQ%g")) == [b"x", b"one"]
    assert rig.stored(TOPIC, 0, 2).property_map["TAGS"] == "a"


def place(reply: Any) -> list[tuple[int, int, bytes]]:
    return [(message.queue_id, message.queue_offset, message.body) for message in decode_messages(reply.body)]


def test_messages_say_where_they_lie_in_the_queue_they_were_read_from(rig: Rig) -> None:
    """A client orders and commits by that; what the records say belongs to other queues."""
    for number in range(6):
        send(rig, b"%d" % number, "%LMQ%a" if number % 3 == 0 else "%LMQ%a,%LMQ%b", e=number % 4)
    assert place(rig.pull("%LMQ%a", group="g")) == [(0, number, b"%d" % number) for number in range(6)]
    assert place(rig.pull("%LMQ%a", group="g", offset=4)) == [(0, 4, b"4"), (0, 5, b"5")]
    assert place(rig.pull("%LMQ%b", group="g")) == [(0, 0, b"1"), (0, 1, b"2"), (0, 2, b"4"), (0, 3, b"5")]
    assert place(rig.pull(TOPIC, group="g", queue=1)) == [(1, 0, b"1"), (1, 1, b"5")]


def test_a_message_sent_to_a_light_queue_itself(rig: Rig) -> None:
    send(rig, b"through its topic", "%LMQ%a", e=3)
    assert rig.send("%LMQ%a", b"straight").code == 0
    assert place(rig.pull("%LMQ%a", group="g")) == [(0, 0, b"through its topic"), (0, 1, b"straight")]


def test_places_with_a_filter(rig: Rig) -> None:
    for number in range(6):
        tag = "TAGS\x01even\x02" if number % 2 == 0 else ""
        rig.send(TOPIC, b"%d" % number, properties=f"{tag}INNER_MULTI_DISPATCH\x01%LMQ%a\x02", e=number % 4)
    assert place(rig.pull("%LMQ%a", group="g", subscription="even")) == [(0, 0, b"0"), (0, 2, b"2"), (0, 4, b"4")]


# --- what nobody may see ----------------------------------------------------------------------------------------------

LIGHT = "INNER_MULTI_DISPATCH\x01%LMQ%a,%LMQ%b\x02"
TRANSACTION = f"TRAN_MSG\x01true\x02PGROUP\x01pg\x02UNIQ_KEY\x01K\x02{LIGHT}"
COMMIT, ROLLBACK = 8, 12


def end(rig: Rig, began: Any, decision: int) -> Any:
    ext = {
        "producerGroup": "pg", "tranStateTableOffset": began.ext["queueOffset"], "commitOrRollback": decision,
        "commitLogOffset": parse_message_id(began.ext["msgId"])[2], "msgId": "K", "transactionId": "K",
        "fromTransactionCheck": False,
    }  # fmt: skip
    return rig.ask(RequestCode.END_TRANSACTION, ext)


@pytest.mark.parametrize("decision", [COMMIT, ROLLBACK])
def test_a_half_message_is_in_no_light_queue_before_its_commit(rig: Rig, decision: int) -> None:
    began = rig.send(TOPIC, b"held", properties=TRANSACTION, f=4)
    assert began.code == 0
    assert (rig.count("%LMQ%a"), rig.count("%LMQ%b")) == (0, 0)
    assert end(rig, began, decision).code == 0
    expected = [b"held"] if decision == COMMIT else []
    assert bodies(rig.pull("%LMQ%a", group="g")) == expected
    assert bodies(rig.pull("%LMQ%b", group="g")) == expected
    rig.crash()
    assert bodies(rig.pull("%LMQ%a", group="g")) == expected
    if expected:
        properties = rig.stored(TOPIC).property_map
        assert (properties["INNER_MULTI_DISPATCH"], properties["INNER_MULTI_QUEUE_OFFSET"]) == ("%LMQ%a,%LMQ%b", "0,0")
        assert "__INNER_MULTI_DISPATCH__" not in properties


def test_a_half_message_of_another_broker_gets_its_places_by_the_commit(rig: Rig) -> None:
    """RocketMQ has it in its light queues from the beginning."""
    more = f"{TRANSACTION}REAL_TOPIC\x01{TOPIC}\x02REAL_QID\x010\x02"
    done = rig.store.put(names.TRANS_HALF_TOPIC, 0, b"held", more.encode())
    assert rig.count("%LMQ%a") == 1
    ext = {"queueOffset": "0", "msgId": offset_message_id("127.0.0.1", 1, done.log_offset)}
    assert end(rig, Reply(ext=ext), COMMIT).code == 0
    assert rig.stored(TOPIC).property_map["INNER_MULTI_QUEUE_OFFSET"] == "1,1"


def test_a_dead_letter_is_in_no_light_queue(rig: Rig) -> None:
    send(rig, b"bad", "%LMQ%a")
    rig.broker.groups.find_or_create("g")
    (entry,) = rig.store.queue_entries("%LMQ%a", 0, 0, 1)
    ext = {"group": "g", "offset": entry[0], "delayLevel": -1, "originMsgId": "x", "originTopic": TOPIC}
    assert rig.ask(RequestCode.CONSUMER_SEND_MSG_BACK, ext).code == 0
    assert (rig.count("%DLQ%g"), rig.count("%LMQ%a")) == (1, 1)
    rig.crash()
    assert (rig.count("%DLQ%g"), rig.count("%LMQ%a")) == (1, 1)
