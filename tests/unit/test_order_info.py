"""Batches of orderly pops: what blocks a queue, what acks commit, what the file holds."""

import json

import pytest

from fastmq.broker.state.order_info import (
    FORGOTTEN_AFTER_MS,
    ILLEGAL,
    NO_COMMIT,
    ConsumerOrderTable,
    order_counts,
)
from fastmq.errors import StoreError, UsageError
from fastmq.store.tables import save_json

QUEUE = ("t", "g", 0)
START = 1_700_000_000_000


@pytest.fixture
def table():
    return ConsumerOrderTable(None)


def put(table, offsets, *, at=START, attempt=None, invisible=10_000, queue=QUEUE):
    return table.put(*queue, offsets, attempt_id=attempt, pop_ms=at, invisible_ms=invisible, now_ms=at)


def blocked(table, at, *, attempt=None, queue=QUEUE):
    return table.blocked(*queue, attempt_id=attempt, invisible_ms=10_000, now_ms=at)


def ack(table, offset, *, pop=START, committed=0, queue=QUEUE):
    return table.ack(*queue, offset, pop_ms=pop, committed=committed)


def test_a_queue_is_blocked_until_the_invisible_time_is_over(table):
    assert not blocked(table, START)
    put(table, [5, 6])
    assert blocked(table, START)
    assert blocked(table, START + 9_999)
    assert not blocked(table, START + 10_000)
    assert not blocked(table, START, queue=("t", "g", 1))
    assert not blocked(table, START, queue=("t", "g2", 0))


def test_the_same_attempt_gets_the_batch_again(table):
    put(table, [5, 6], attempt="a1")
    assert not blocked(table, START, attempt="a1")
    assert blocked(table, START, attempt="a2")
    assert blocked(table, START)
    put(table, [5, 6])
    assert blocked(table, START), "no attempt id is not an attempt"


def test_acks_commit_up_to_the_first_open_offset(table):
    put(table, [5, 6, 9])
    assert ack(table, 6) == 5
    assert ack(table, 5) == 9
    assert blocked(table, START)
    assert ack(table, 9) == 10
    assert not blocked(table, START)


def test_an_ack_of_another_pop_or_offset_changes_nothing(table):
    put(table, [5, 6])
    assert ack(table, 5, pop=START - 1) == NO_COMMIT
    assert ack(table, 7) == ILLEGAL
    assert table.get(*QUEUE).acked == 0


def test_without_a_batch_only_the_message_at_the_offset_of_the_group_counts(table):
    assert ack(table, 5, committed=5) == 6
    assert ack(table, 7, committed=5) == NO_COMMIT


def test_a_changed_time_counts_for_its_message_only(table):
    put(table, [5, 6])
    assert table.set_visible(*QUEUE, 5, pop_ms=START, visible_ms=START + 30_000)
    assert table.set_visible(*QUEUE, 6, pop_ms=START, visible_ms=START + 1_000)
    assert blocked(table, START + 29_999)
    assert not blocked(table, START + 30_000)
    ack(table, 5)
    assert blocked(table, START + 999)
    assert not blocked(table, START + 1_000)
    assert not table.set_visible(*QUEUE, 5, pop_ms=START + 1, visible_ms=0)
    assert not table.set_visible(*QUEUE, 7, pop_ms=START, visible_ms=0)


def test_messages_that_come_again_are_counted(table):
    assert order_counts(put(table, [5, 6, 7]), 0) == "0 0 0"
    ack(table, 5)
    assert order_counts(put(table, [6, 7], at=START + 10_000), 0) == "0 qo0%6 1;0 qo0%7 1;0 0 1"
    ack(table, 6, pop=START + 10_000)
    counts = order_counts(put(table, [7, 8], at=START + 20_000), 0)
    assert counts == "0 qo0%7 2;0 0 0", "8 is new, so the least of all counts is 0"
    assert order_counts(put(table, [8, 9], at=START + 30_000), 0, 2) == "2 qo0%8 1;2 0 0"


def test_an_attempt_that_asks_again_is_no_new_delivery(table):
    put(table, [5, 6])
    put(table, [5, 6], at=START + 10_000, attempt="a")
    again = put(table, [5, 6], at=START + 10_001, attempt="a")
    assert again.consumed == {5: 1, 6: 1}
    assert ack(table, 5, pop=START + 10_000) == NO_COMMIT, "the handles of the first answer are void"


def test_a_batch_has_a_size(table):
    with pytest.raises(UsageError):
        put(table, [])
    with pytest.raises(UsageError):
        put(table, range(65))
    put(table, range(64))
    assert ack(table, 63) == 0


def test_a_cleared_queue_is_free(table):
    put(table, [5])
    table.clear(*QUEUE)
    assert not blocked(table, START)
    assert len(table) == 0
    table.clear(*QUEUE)


def test_deleting_a_topic_or_a_group_takes_its_batches_along(table):
    for topic in ("t", "t2"):
        for group in ("g", "g2"):
            put(table, [1], queue=(topic, group, 0))
    table.delete_topic("t")
    table.delete_group("g2")
    assert [table.get(*queue) is None for queue in (QUEUE, ("t2", "g", 0), ("t2", "g2", 0))] == [True, False, True]


def test_what_is_gone_is_cleaned(table):
    put(table, [1], queue=("t", "g", 0))
    put(table, [1], queue=("t", "g", 4))
    put(table, [1], queue=("t", "gone", 0))
    put(table, [1], queue=("gone", "g", 0))
    put(table, [1], queue=("t", "g", 1), at=START - FORGOTTEN_AFTER_MS - 1)

    def clean():
        return table.clean(
            read_queues=lambda topic: 4 if topic == "t" else 0, has_group=lambda name: name == "g", now_ms=START
        )

    assert clean() == 4
    assert table.get("t", "g", 0) is not None
    assert clean() == 0


# --- ends of blocks --------------------------------------------------------------------------------------------------


def test_a_batch_with_a_long_invisible_time_is_kept_as_long(table):
    put(table, [1], invisible=2 * FORGOTTEN_AFTER_MS)
    rules = {"read_queues": lambda _topic: 4, "has_group": lambda _group: True}
    assert table.clean(now_ms=START + 2 * FORGOTTEN_AFTER_MS - 1, **rules) == 0
    assert table.clean(now_ms=START + 2 * FORGOTTEN_AFTER_MS, **rules) == 1


def test_the_end_of_a_block_is_told_once(table):
    assert table.next_free_ms() is None
    put(table, [5])
    put(table, [5], queue=("t", "g", 1), invisible=20_000)
    assert table.next_free_ms() == START + 10_000
    assert table.take_free(START + 9_999) == []
    assert table.take_free(START + 10_000) == [QUEUE]
    assert table.take_free(START + 10_000) == []
    assert table.next_free_ms() == START + 20_000


def test_the_end_moves_with_the_times_of_the_messages(table):
    put(table, [5, 6])
    table.set_visible(*QUEUE, 6, pop_ms=START, visible_ms=START + 30_000)
    assert table.take_free(START + 10_000) == []
    assert table.next_free_ms() == START + 30_000
    table.set_visible(*QUEUE, 6, pop_ms=START, visible_ms=START + 12_000)
    assert table.next_free_ms() == START + 12_000
    assert table.take_free(START + 12_000) == [QUEUE]
    assert table.next_free_ms() is None


def test_an_acked_batch_has_no_end_to_tell(table):
    put(table, [5])
    ack(table, 5)
    assert table.take_free(START + 10_000) == []
    put(table, [6], at=START + 20_000)
    table.clear(*QUEUE)
    assert table.take_free(START + 30_000) == []


def test_many_changes_leave_few_notes(table):
    for number in range(1000):
        put(table, [number], at=START + number)
    assert len(table._frees) == 1


def test_nothing_is_told_where_that_is_switched_off():
    table = ConsumerOrderTable(None, notify=lambda: False)
    put(table, [5])
    assert table.take_free(START + 10_000) == []


# --- file ------------------------------------------------------------------------------------------------------------


def test_the_file_is_that_of_rocketmq(tmp_path):
    path = str(tmp_path / "consumerOrderInfo.json")
    table = ConsumerOrderTable(path)
    assert table.file.take_snapshot() is None
    put(table, [5, 6, 9])
    put(table, [5, 6, 9], at=START + 10_000, attempt="try")
    ack(table, 6, pop=START + 10_000)
    table.set_visible(*QUEUE, 9, pop_ms=START + 10_000, visible_ms=START + 60_000)
    snapshot = table.file.take_snapshot()
    assert json.loads(snapshot()) == {
        "table": {
            "t@g": {
                "0": {
                    "a": "try", "cm": 2, "i": 10_000, "l": START + 10_000, "o": [5, 1, 4],
                    "oc": {"5": 1, "6": 1, "9": 1}, "ot": {"9": START + 60_000}, "popTime": START + 10_000,
                }
            }
        }
    }  # fmt: skip
    assert table.file.take_snapshot() is None
    table.file.write(snapshot)
    again = ConsumerOrderTable(path)
    assert again.get(*QUEUE) == table.get(*QUEUE)
    assert again.file.take_snapshot() is None
    assert again.next_free_ms() == START + 60_000


def test_a_file_as_fastjson_writes_it_is_read(tmp_path):
    path = str(tmp_path / "consumerOrderInfo.json")
    save_json(
        path,
        '{\n\t"table":{"t@g":{0:{"cm":-9223372036854775807,"i":1000,"l":7,"o":[3,1],"ot":{3:9},"popTime":8},'
        '1:{"cm":0,"l":1,"o":[2],"popTime":1}, 2:{"o":[]}},"t@h":{}}\n}',
    )
    table = ConsumerOrderTable(path)
    info = table.get(*QUEUE)
    assert (info.offsets, info.visible, info.attempt_id, info.next_offset()) == ((3, 4), {3: 9}, None, 4)
    assert info.to_json()["cm"] == -9223372036854775807
    assert table.get("t", "g", 1).invisible_ms == 0
    assert table.blocked("t", "g", 1, attempt_id=None, invisible_ms=50, now_ms=20), "the next pop says how long"
    assert len(table) == 2


@pytest.mark.parametrize(
    "text",
    [
        '{"table":[1]}',
        '{"table":{"t@g":{"x":{}}}}',
        '{"table":{"t@g":{0:7}}}',
        '{"table":{"t@g":{0:{"o":["a"]}}}}',
        '{"table":{"t@g":{0:{"o":[3,2,1]}}}}',
        '{"table":{"t@g":{0:{"o":[3],"popTime":"a"}}}}',
        '{"table":{"t@g":{0:{"o":[3],"ot":{"a":1}}}}}',
    ],
)
def test_a_file_that_makes_no_sense_stops_the_start(tmp_path, text):
    path = str(tmp_path / "consumerOrderInfo.json")
    save_json(path, text)
    with pytest.raises(StoreError, match="consumerOrderInfo"):
        ConsumerOrderTable(path)
