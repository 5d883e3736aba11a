"""Timer messages against a model: sends, recalls, clocks that jump, saves that break off, stops, crashes, power losses,
another precision after a start.

The model knows what was asked for each message. What must hold: nothing is delivered before its time; once the broker
has worked, everything due is delivered; a recall that was answered with success before the time is kept; a message
comes twice only if the broker was killed after a delivery, or after it was sent on to a later slot, and that was not
saved yet. A crash is a reopening without a
save; at a power loss the end of the timer log that was never synced is gone, too.
"""

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from fastmq.protocol.codes import RequestCode
from fastmq.store.timer_wheel import PRECISIONS_MS
from unit.broker_rig import Rig

TOPIC = "topic-a"
PRECISIONS = st.sampled_from([None, None, None, 100, 1000])
LOG_FILE = 52 * 7 + 16  # few records, so that files change often


class Sent:
    def __init__(self, due, handle, rolls):
        self.due = due
        self.rolls = rolls
        self.handle = handle
        self.recalled = False
        self.delivered = 0
        self.allowed = 1  # how often it may be delivered
        self.saved = False  # the last delivery is known on disk


class TimerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.sent: dict[bytes, Sent] = {}
        self.read = 0
        self.synced = 0
        self.latest = 0
        self.slack = 0

    @initialize(precision=st.sampled_from([100, 1000]), window=st.sampled_from([10, 40]), start=st.integers(0, 999))
    def begin(self, precision: int, window: int, start: int) -> None:
        self.precision, self.window = precision, window
        self.rig = Rig(
            Path(self.root), recall_message_enable=True, timer_precision_ms=precision, timer_roll_window_slot=window,
            mapped_file_size_timer_log=LOG_FILE,
        )  # fmt: skip
        self.rig.clock.advance_ms(start)
        self.timers = self.rig.broker.timers

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.store.close(clean=False)
        shutil.rmtree(self.root)

    @property
    def now(self) -> int:
        return self.rig.clock.wall_ms()

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(
        delay=st.one_of(st.integers(1, 3000), st.integers(1, 60_000), st.sampled_from([1, 1000, 2000, 3000])),
        how=st.sampled_from(["TIMER_DELIVER_MS", "TIMER_DELAY_MS"]),
    )
    def send(self, delay: int, how: str) -> None:
        body = b"%d" % len(self.sent)
        value = self.now + delay if how == "TIMER_DELIVER_MS" else delay
        reply = self.rig.send(TOPIC, body, properties=f"UNIQ_KEY\x01{len(self.sent)}\x02{how}\x01{value}\x02")
        assert reply.code == 0
        if how == "TIMER_DELAY_MS" and self.now < self.latest:
            # the store's times do not go back with the clock: a delay counts from then, within its slot
            self.slack = max(PRECISIONS_MS)
        self.sent[body] = Sent(self.now + delay, reply.ext["recallHandle"], delay > (self.window - 1) * self.precision)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 1 << 30))
    def recall(self, which: int) -> None:
        message = list(self.sent.values())[which % len(self.sent)]
        ext = {"topic": TOPIC, "recallHandle": message.handle, "producerGroup": "pg"}
        reply = self.rig.ask(RequestCode.RECALL_MESSAGE, ext)
        assert reply.code == (0 if message.due > self.now else 604)
        if reply.code == 0 and not message.delivered:
            message.recalled = True

    # --- time --------------------------------------------------------------------------------------------------------

    @rule(ms=st.one_of(st.integers(0, 3000), st.integers(0, 60_000)))
    def advance(self, ms: int) -> None:
        self.rig.clock.advance_ms(ms)

    @rule(ms=st.integers(1, 30_000))
    def wait_step_by_step(self, ms: int) -> None:
        end = self.now + ms
        while True:
            next_ms = self.work()
            if self.now >= end:
                return
            self.rig.clock.advance_ms(min(self.now + 1000, end, next_ms or end) - self.now)

    @rule(ms=st.integers(-20_000, 20_000))
    def set_clock(self, ms: int) -> None:
        self.latest = max(self.latest, self.now)
        self.rig.clock.set_wall_ms(self.now + ms)
        self.note_rolls()

    def note_rolls(self) -> None:
        for message in self.sent.values():
            message.rolls |= message.due - self.now > (self.window - 1) * self.precision

    # --- what the broker does ----------------------------------------------------------------------------------------

    @rule()
    def catch_up(self) -> None:
        self.work()

    def work(self) -> int | None:
        """All that is to do now; when there is something again."""
        for _ in range(10_000):
            next_ms = self.timers.due(self.now).next_ms
            self.see()
            if next_ms is None or next_ms > self.now:
                break
        else:
            raise AssertionError("there is always more to do")
        # while a clock that was set back has not caught up, what was overdue before may come when it has
        for body, message in self.sent.items() if self.now >= self.latest else ():
            if not message.recalled and message.due + self.slack <= self.now:
                assert message.delivered, (body, message.due - self.now)
        return next_ms

    @rule()
    def a_step(self) -> None:
        self.timers.due(self.now)
        self.see()

    def see(self) -> None:
        """What came since the last look."""
        end = self.rig.count(TOPIC)
        for offset in range(self.read, end):
            stored = self.rig.stored(TOPIC, 0, offset)
            message = self.sent[stored.body]
            assert stored.store_timestamp >= message.due, f"{message.due - stored.store_timestamp} ms early"
            message.delivered += 1
            message.saved = False
            assert message.delivered <= message.allowed, f"{stored.body!r} came again"
            assert not message.recalled or message.delivered > 1, f"{stored.body!r} was taken back"
        self.read = end

    # --- saving, stopping, dying -------------------------------------------------------------------------------------

    def snapshot(self):
        old = self.timers.take_snapshot()  # one may wait from before
        if old is not None:
            self.timers.files.failed(old)
            self.timers.take_snapshot()
        self.rig.flush()
        return self.timers.take_snapshot()

    @rule(steps=st.integers(0, 4))
    def save(self, steps: int) -> None:
        """A save, whole or broken off."""
        covered = {body for body, message in self.sent.items() if message.delivered}
        snapshot = self.snapshot()
        if snapshot is None:
            return
        files = self.timers.files
        end = files.log.end
        if steps == 4:
            files.save(snapshot)
            files.saved(snapshot)
            self.synced = end
            for body in covered:
                self.sent[body].saved = True
            return
        if steps >= 1:
            for file in snapshot.log_files:
                file.sync()
            self.synced = end
        if steps >= 2:
            files.wheel.write(snapshot.slots)
        files.failed(snapshot)

    @rule(precision=PRECISIONS)
    def stop_and_start(self, precision: int | None) -> None:
        self.timers.stop()
        for _ in range(4):
            self.rig.flush()
            if self.timers.persist():
                break
        self.synced = self.timers.files.log.end
        self.reopen(precision, clean=True)

    @rule(lost=st.booleans(), precision=PRECISIONS)
    def crash(self, lost: bool, precision: int | None) -> None:
        self.rig.flush()
        for message in self.sent.values():
            if message.rolls:
                message.allowed = 1 << 30  # it may be sent on to a later slot again: a second copy
            elif message.delivered and not message.saved:
                message.allowed = message.delivered + 1
        end = self.timers.files.log.end
        self.rig.store.close(clean=False)
        if lost:
            self.lose(end)
        self.reopen(precision, clean=False)

    def lose(self, end: int) -> None:
        """Clear what was not synced of the timer log."""
        folder = os.path.join(self.root, "store", "timerlog")
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            base = int(name)
            begin = max(0, self.synced - base)
            if begin < LOG_FILE:
                with open(os.path.join(folder, name), "r+b") as file:
                    file.seek(begin)
                    file.write(bytes(LOG_FILE - begin))

    def reopen(self, precision: int | None, *, clean: bool) -> None:
        """Go on, with another timerPrecisionMs if one is given."""
        if clean:
            self.rig.close()
        if precision is not None:
            self.rig.config = replace(self.rig.config, timer_precision_ms=precision)
            self.precision = precision
            self.note_rolls()
        self.rig.open()
        self.timers = self.rig.broker.timers
        self.synced = min(self.synced, self.timers.files.log.end)


TestTimers = TimerMachine.TestCase
TestTimers.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
