"""The broker's own topics full of nonsense: every loop gets through it, and what lies among it arrives."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmq.protocol.bodies import TopicConfig
from unit.pop_rig import PopRig
from unit.transaction_rig import COMMIT, Transacting

NAMES = (
    "REAL_TOPIC REAL_QID DELAY TIMER_OUT_MS TIMER_DELIVER_MS TIMER_DELAY_SEC TIMER_DELAY_MS TIMER_DEL_UNIQKEY UNIQ_KEY "
    "PGROUP TAGS TRANSACTION_CHECK_TIMES CHECK_IMMUNITY_TIME_IN_SECONDS TRAN_PREPARED_QUEUE_OFFSET TRAN_MSG KEYS "
    "TIMER_ROLL_TIMES TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS INNER_MULTI_DISPATCH 1ST_POP_TIME POP_CK CLUSTER RETRY_TOPIC"
)
VALUES = [
    b"", b"0", b"1", b"-1", b"9" * 30, b"-" + b"9" * 30, b"%d" % (1 << 31), b"%d" % ((1 << 63) - 1), b"%d" % (1 << 53),
    b"x", b"\xff\xfe", b"\xed\xa0\x80", "ü".encode(), "１".encode(), b" ", b"1 ", b"elsewhere", b"bad topic!",
    b"t" * 200, b"t" * 300, b"%RETRY%cg", b"%DLQ%cg", b"rmq_sys_wheel_timer", b"RMQ_SYS_TRANS_OP_HALF_TOPIC", b"tg",
    b"ck", b"ack", b"bAck", b"d", b"%LMQ%a,%LMQ%b", b"a" * 20_000,
]  # fmt: skip
BODIES = [
    "{}", "[]", "null", "5", '{"t":5}', "0,1,2,", "x,-5," + "9" * 40,
    '{"t":"elsewhere","c":"cg","d":[0],"n":1,"so":0,"pt":1,"it":1,"q":0,"bm":0,"bn":"b"}',
    '{"t":"elsewhere","c":"cg","d":[0,1,2],"n":3,"so":0,"pt":9223372036854775807,"it":9223372036854775807,"q":-1}',
    '{"t":"","c":"","so":-5,"pt":-1,"it":0,"q":0,"n":33,"d":[5,5,5]}',
    '{"ao":5,"so":0,"t":"elsewhere","c":"cg","q":0,"pt":1,"bn":"b"}',
    '{"aol":[1,2,"x"],"so":0,"t":"elsewhere","c":"cg","q":0,"pt":1}',
    '{"t":"elsewhere","c":"cg","n":1,"so":0,"pt":1e300,"it":1,"q":0}',
    '{"t":"elsewhere","c":"cg","d":[-1],"n":1,"so":0,"pt":1,"it":1,"q":99999999999}',
    '{"t":"bad topic!","c":"cg","d":[0],"n":1,"so":0,"pt":1,"it":1,"q":0}',
]  # fmt: skip
QUEUES = [
    ("RMQ_SYS_TRANS_HALF_TOPIC", 1), ("RMQ_SYS_TRANS_OP_HALF_TOPIC", 1), ("rmq_sys_wheel_timer", 1),
    ("SCHEDULE_TOPIC_XXXX", 18), ("rmq_sys_REVIVE_LOG_DefaultCluster", 8),
]  # fmt: skip
RECORDS = 150


class Everything(PopRig, Transacting):
    """Pops and transactions on one broker."""


def put_nonsense(rig: Everything, rng: random.Random) -> None:
    """A record as none of the broker's parts would write it."""
    topic, queues = rng.choice(QUEUES)
    now = rig.clock.wall_ms()
    values = [*VALUES, b"%d" % now, b"%d" % (now + 1500), b"%d" % (now - 5000)]
    properties = b"".join(
        name.encode() + b"\x01" + rng.choice(values) + b"\x02" for name in rng.sample(NAMES.split(), rng.randrange(9))
    )
    if rng.random() < 0.5:
        properties = b"REAL_TOPIC\x01elsewhere\x02REAL_QID\x010\x02TIMER_OUT_MS\x01%d\x02" % now + properties
    if "REVIVE" in topic:
        properties = b"TAGS\x01" + rng.choice((b"ck", b"ack", b"bAck")) + b"\x02" + properties
    body = rng.choice(BODIES).encode() if rng.random() < 0.7 else rng.randbytes(30)
    rig.store.put(
        topic, rng.randrange(queues), body, properties[:32_000],
        flag=rng.choice((0, 5)), sys_flag=rng.choice((0, 0, 1, 8, 64, 128 | 0x10)),
        born_timestamp_ms=rng.choice((0, now, -1, now + 10**9, (1 << 63) - 1)),
        reconsume_times=rng.choice((0, 1, -1, (1 << 31) - 1)),
    )  # fmt: skip


def until_idle(rig: Everything, step: Callable[[], int | None]) -> None:
    for _ in range(5000):
        next_ms = step()
        if next_ms is None or next_ms > rig.clock.wall_ms():
            return
    raise AssertionError("it spins")


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100))])
def test_what_lies_among_nonsense_arrives(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    rig = Everything(tmp_path, transaction_check_max=2)
    for topic in ("topic-a", "elsewhere"):
        rig.broker.topics.put(TopicConfig(topic, 1, 1))
    rig.producer()
    rig.send("topic-p", b"popped")
    rig.take("topic-p", invisibleTime=5000)
    halves = []
    for number in range(RECORDS):
        put_nonsense(rig, rng)
        if number % 30 == 0:
            rig.send(body=b"delayed %d" % number, properties="DELAY\x011\x02")
            rig.send(body=b"timed %d" % number, properties="TIMER_DELAY_SEC\x015\x02")
            halves.append(rig.begin(f"K{number}", b"committed %d" % number))
    broker = rig.broker
    assert broker.timers is not None
    for half in halves:
        assert rig.end(half, COMMIT).code == 0
    for _ in range(6):
        rig.clock.advance_ms(2000)
        until_idle(rig, lambda: broker.timers.due(rig.clock.wall_ms()).next_ms)
        until_idle(rig, lambda: broker.delay.due(rig.clock.wall_ms()).next_ms)
        rig.flush()
        until_idle(rig, broker.pop_revive.step)
        rig.check(after_ms=4000)
        assert broker.transactions.write_ops()
        broker.transactions.publish()
        rig.flush()
    came = {bytes(body) for body in rig.bodies()}
    kinds = (b"delayed", b"timed", b"committed")
    assert came >= {b"%s %d" % (kind, number) for number in range(0, RECORDS, 30) for kind in kinds}
    assert [one.body for one in rig.take("topic-p")] == [b"popped"]
    rig.close()
