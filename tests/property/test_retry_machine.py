"""Messages that consumers give back, over the real store, with a clock the test owns.

The model knows of each message how often it was given back and when it may come again. What must hold after any order
of sending, consuming, giving back, waiting, stopping and crashing: no message is lost, none comes before its delay is
over, the number of tries grows by one each time, too many tries and negative levels end in the dead letters and nothing
else does, and a message comes twice only when the broker crashed in between.
"""

import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastmq.config import BrokerConfig
from fastmq.protocol.bodies import SubscriptionGroupConfig, TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_message, decode_properties
from unit.broker_rig import Rig

FIRST_LEVEL = 3
TOPIC, GROUP = "topic-a", "cg"
RETRY, DEAD = f"%RETRY%{GROUP}", f"%DLQ%{GROUP}"
LEVELS = [BrokerConfig().message_delay_level, "1s 5s 30s", "9s 1s 2s 40s 1s 20m"]
LONG_MS = 8_000_000  # longer than the longest delay


class Retries(RuleBasedStateMachine):
    """One group that consumes one topic."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), timer_wheel_enable=False)  # 38 MB to copy at each crash
        self.rig.broker.topics.put(TopicConfig(TOPIC, 1, 1))
        self.most = 16
        self.sent = 0
        self.read = {TOPIC: 0, RETRY: 0}  # how far the consumer has read
        self.in_hand = []  # (body, times, log offset) that it has neither acked nor given back
        self.waiting = {}  # (body, times) → time at which it may come, at the earliest
        self.came = Counter()  # (body, times) that came to the retry topic
        self.crashed = set()  # (body, times) that were there at a crash: they may come once more
        self.dead = Counter()

    def teardown(self):
        self.deliver(LONG_MS)
        for key in self.waiting:
            assert self.came[key] >= 1, f"{key} was given back and never came again"
        self.rig.close()
        self.folder.cleanup()

    @property
    def now_ms(self):
        return self.rig.clock.wall_ms()

    def messages(self, topic, begin):
        for log_offset, _, _ in self.rig.store.queue_entries(topic, 0, begin, 1000):
            record = self.rig.store.read_record(log_offset)
            assert record is not None
            yield decode_message(record)[0]

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(level=some.sampled_from([0, 0, 1, 4]))
    def send(self, level):
        """With a level the message waits before it is consumed at all."""
        properties = f"DELAY\x01{level}\x02" if level else ""
        assert self.rig.send(TOPIC, b"m%d" % self.sent, properties=properties).code == 0
        self.sent += 1

    @rule(topic=some.sampled_from([TOPIC, RETRY]), most=some.integers(1, 5))
    def consume(self, topic, most):
        for message in list(self.messages(topic, self.read[topic]))[:most]:
            self.read[topic] += 1
            self.in_hand.append((message.body, message.reconsume_times, message.log_offset))

    @precondition(lambda self: self.in_hand)
    @rule()
    def succeed(self):
        self.in_hand.pop(0)

    @precondition(lambda self: self.in_hand)
    @rule(level=some.sampled_from([0, 0, 0, 1, 5, 18, 40, -1]), brings=some.sampled_from([None, None, 0, 2]))
    def give_back(self, level, brings):
        body, times, log_offset = self.in_hand.pop(0)
        ext = {"group": GROUP, "offset": log_offset, "delayLevel": level}
        if brings is not None:
            ext["maxReconsumeTimes"] = brings
        reply = self.rig.ask(RequestCode.CONSUMER_SEND_MSG_BACK, ext, version=479)
        assert (reply.code, reply.remark) == (0, None)
        key = body, times + 1
        if level < 0 or times >= (self.most if brings is None else brings):
            self.dead[key] += 1
            return
        levels = self.rig.config.delay_levels_ms
        step = min(level or FIRST_LEVEL + times, len(levels))
        earliest = self.now_ms + levels[step - 1]
        self.waiting[key] = min(earliest, self.waiting.get(key, earliest))

    @rule(most=some.integers(0, 4))
    def the_group_changes_its_limit(self, most):
        self.most = most
        self.rig.broker.groups.put(SubscriptionGroupConfig(group_name=GROUP, retry_max_times=most))

    @rule(step_ms=some.sampled_from([1, 500, 1_000, 9_999, 60_000, LONG_MS]))
    def deliver(self, step_ms):
        """Time passes and the broker delivers."""
        before = self.rig.count(RETRY)
        self.rig.clock.advance_ms(step_ms)
        while self.rig.broker.delay.due(self.now_ms).delivered:
            pass
        for message in self.messages(RETRY, before):
            key = message.body, message.reconsume_times
            assert key in self.waiting, f"{key} came, but nobody gave it back"
            assert self.now_ms >= self.waiting[key], f"{key} came too early"
            properties = decode_properties(message.properties)
            assert properties["RETRY_TOPIC"] == TOPIC
            self.came[key] += 1

    @rule(step_ms=some.sampled_from([1, 700, 60_000]))
    def the_clock_is_set_back(self, step_ms):
        self.rig.clock.set_wall_ms(self.now_ms - step_ms)
        self.waiting = {key: earliest - step_ms for key, earliest in self.waiting.items()}
        self.deliver(0)

    @rule()
    def offsets_are_saved(self):
        self.rig.flush()
        self.rig.broker.delay.persist()

    @rule(levels=some.sampled_from([None, None, *LEVELS]))
    def stop(self, levels):
        """And start again, with other delay levels as the case may be."""
        if levels is not None:
            self.rig.config = dataclasses.replace(self.rig.config, message_delay_level=levels)
        self.rig.stop()

    @rule()
    def crash(self):
        self.crashed |= set(self.came)
        self.rig.crash()

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_dead_letters_are_those_given_up(self):
        found = Counter((message.body, message.reconsume_times) for message in self.messages(DEAD, 0))
        assert found == self.dead

    @invariant()
    def nothing_comes_twice_without_a_crash(self):
        for key, times in self.came.items():
            assert times == 1 or key in self.crashed or self.copies(key), f"{key} came {times} times"

    def copies(self, key):
        """A message that came twice may be given back twice, too."""
        body, times = key
        return any((body, earlier) in self.crashed for earlier in range(times)) or self.twice_sent(body)

    def twice_sent(self, body):
        """A delayed message may itself have been delivered twice."""
        return sum(message.body == body for message in self.messages(TOPIC, 0)) > 1

    @invariant()
    def what_is_overdue_has_come(self):
        """After a round of delivery at this moment nothing is left that is due."""
        for message in self.messages(RETRY, 0):
            assert (message.body, message.reconsume_times) in self.waiting


Retries.TestCase.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)
TestRetries = Retries.TestCase
