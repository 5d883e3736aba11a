"""Records that nobody foresaw: those behind them come all the same, and memory stays within bounds."""

import pytest

from fastmq.broker.delivery import popservice
from fastmq.broker.delivery.popck import CheckPoint
from fastmq.broker.steady import TRIES, Patience
from fastmq.errors import StoreError
from fastmq.protocol import message as m
from fastmq.protocol.bodies import TopicConfig
from unit.pop_rig import PopRig
from unit.transaction_rig import COMMIT, Transacting, checks

REVIVE, RETRY = "rmq_sys_REVIVE_LOG_DefaultCluster", "%RETRY%cg_topic-a"
BAD = b"a body that nobody foresaw"


class Everything(PopRig, Transacting):
    """Pops and transactions on one broker."""


@pytest.fixture
def rig(tmp_path):
    rig = Everything(tmp_path, message_delay_level="1s 5s")
    rig.broker.topics.put(TopicConfig("topic-a", 1, 1))
    yield rig
    rig.close()


@pytest.fixture
def bad_records(monkeypatch):
    """Looking at a record with that body fails as only a mistake in the program does."""
    decode = m.decode_message
    monkeypatch.setattr(m, "decode_message", lambda record: _stumble(decode, record))


def _stumble(decode, record):
    message, end = decode(record)
    if message.body == BAD:
        raise KeyError("a mistake in the program")
    return message, end


def bodies(rig, topic="topic-a"):
    return [rig.stored(topic, 0, offset).body for offset in range(rig.count(topic))]


def again_and_again(call):
    """As `keep_running` does: a service that failed begins again. How often it failed."""
    for failures in range(10):
        try:
            call()
        except KeyError:
            continue
        return failures
    raise AssertionError("it fails for ever")


def test_a_delay_level_goes_on(rig, bad_records, caplog):
    for body in (b"before", BAD, b"behind"):
        rig.send(body=body, properties="DELAY\x011\x02")
    rig.clock.advance_ms(1000)
    assert again_and_again(lambda: rig.broker.delay.due(rig.clock.wall_ms())) == TRIES - 1
    assert bodies(rig) == [b"before", b"behind"]
    assert "delay level 1, offset 1, log offset" in caplog.text


def test_timers_go_on(rig, bad_records, caplog):
    for body in (b"before", BAD, b"behind"):
        rig.send(body=body, properties="TIMER_DELAY_SEC\x012\x02")
    rig.clock.advance_ms(3000)

    def deliver():
        while (next_ms := rig.broker.timers.due(rig.clock.wall_ms()).next_ms) is not None:
            if next_ms > rig.clock.wall_ms():
                return

    again_and_again(deliver)
    assert bodies(rig) == [b"before", b"behind"]
    assert "cannot be read" in caplog.text


def test_a_timer_that_fails_when_it_is_due(rig, monkeypatch, caplog):
    for body in (b"before", BAD, b"behind"):
        rig.send(body=body, properties="TIMER_DELAY_SEC\x012\x02")
    timers = rig.broker.timers
    while (next_ms := timers.due(rig.clock.wall_ms()).next_ms) is not None and next_ms <= rig.clock.wall_ms():
        pass
    decode = m.decode_message
    monkeypatch.setattr(m, "decode_message", lambda record: _stumble(decode, record))
    rig.clock.advance_ms(3000)

    for _ in range(3):
        again_and_again(lambda: timers.due(rig.clock.wall_ms()))
    assert bodies(rig) == [b"before", b"behind"]
    assert "passed over" in caplog.text


def test_a_check_goes_on_and_forgets_nothing(rig, monkeypatch):
    rig.begin("K1", BAD)
    rig.begin("K2", b"behind")
    producer = rig.producer()
    with monkeypatch.context() as patch:
        decode = m.decode_message
        patch.setattr(m, "decode_message", lambda record: _stumble(decode, record))
        rig.check(after_ms=7000)
    ((asked, _),) = checks(producer)
    assert asked.key == "K2"
    assert rig.end(asked, COMMIT).code == 0
    rig.check(after_ms=7000)
    assert [half.key for half, _ in checks(producer)] == ["K1"]


@pytest.mark.parametrize("error", [StoreError("not now"), MemoryError()])
def test_what_earlier_processes_left_is_learned_though_a_read_fails(rig, monkeypatch, error):
    rig.begin("held", more="CHECK_IMMUNITY_TIME_IN_SECONDS\x0136000\x02")
    producer = rig.producer()
    halves = [rig.begin(key, body) for key, body in (("K1", b"one"), ("K2", BAD), ("K3", b"three"))]
    rig.check(after_ms=7000)
    assert len(checks(producer)) == 3
    rig.crash()
    decode = m.decode_message
    reads = []

    def fail_once(record):
        message, end = decode(record)
        reads.append(message.body)
        if reads.count(b"three") == 1 and message.body == b"three":
            raise error
        return _stumble(decode, record) if message.body == BAD else (message, end)

    with monkeypatch.context() as patch:
        patch.setattr(m, "decode_message", fail_once)
        with pytest.raises(type(error)):
            rig.check()
        rig.check()
    assert len(reads) > 4
    for half in (halves[0], halves[2]):
        assert rig.end(half, COMMIT).code == 0
    assert bodies(rig) == [b"one", b"three"]


def test_revival_goes_on(rig, monkeypatch, caplog):
    rig.send(body=b"popped")
    rig.take(invisibleTime=2000)
    body = '{"t":"topic-a","c":"cg","d":[],"n":1,"so":0,"pt":1,"it":1,"q":0,"bm":0,"bn":"broker"}'
    assert rig.store.put(REVIVE, 0, body.encode(), b"TAGS\x01ck\x02").status == 0
    decode = CheckPoint.decode

    def stumble(data):
        if data == body.encode():
            raise KeyError("a mistake in the program")
        return decode(data)

    monkeypatch.setattr(CheckPoint, "decode", stumble)
    for _ in range(4):
        again_and_again(lambda: rig.pass_ms(1000))
    assert bodies(rig, RETRY) == [b"popped"]
    assert "passed over" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), StoreError("the store is closed")])
def test_a_failure_that_says_nothing_about_the_record_passes_nothing_over(error):
    patience = Patience()
    assert not any(patience.is_over(1, error) for _ in range(10))


def test_patience_begins_anew_with_another_record():
    patience, error = Patience(), KeyError()
    assert [patience.is_over(where, error) for where in (1, 1, 2, 2, 2, 1)] == [False, False, False, False, True, False]


def test_a_backlog_of_checkpoints_is_not_taken_into_memory_at_once(rig, monkeypatch):
    """A broker that was down for a day finds millions of them, all over: each is read, revived, forgotten."""
    monkeypatch.setattr(popservice, "READ_AHEAD", 100)
    count = 1000
    for number in range(count):
        rig.send(body=b"%d" % number)
    rig.broker.groups.find_or_create("cg")
    now = rig.clock.wall_ms()
    for number in range(count):
        checkpoint = CheckPoint(
            start_offset=number, pop_time=now - 100_000, invisible_time=1000 + number * 10, queue_id=0,
            topic="topic-a", group="cg", broker="broker", diffs=(0,),
        )  # fmt: skip
        properties = f"TAGS\x01ck\x02TIMER_DELIVER_MS\x01{checkpoint.deliver_time}\x02"
        assert rig.store.put(REVIVE, 0, checkpoint.encode(), properties.encode()).status == 0
    rig.flush()
    rig.clock.advance_ms(1000)
    rig.broker.timers.due(rig.clock.wall_ms())
    most, steps = 0, 0
    while rig.count(RETRY) < count:
        rig.broker.pop_revive.step()
        rig.flush()
        most = max(most, rig.broker.pop_revive.statistics()["pending_checkpoints"])
        steps += 1
        assert steps < 10 * count
    assert most <= 100 + popservice.ENTRIES_A_STEP + 250, "those of the last two seconds must wait for what follows"
    assert sorted(map(int, bodies(rig, RETRY))) == list(range(count))
