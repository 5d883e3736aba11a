"""POP against a model of what each consumer may expect, over the real store, timer and files, through crashes.

Every message is acknowledged or comes again. It comes again only when its invisible time is over or after a crash, and
what was acknowledged in time does not come again unless a crash followed.
"""

import base64
import dataclasses
import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.message import parse_message_id
from unit.pop_rig import popped, rig_at

QUEUES = 2
times = some.sampled_from([500, 1000, 2500, 4000, 9000])


class Hold:
    """A message that a consumer has, until a time: once that has come it is over, also if the clock is set back."""

    def __init__(self, one, until):
        self.one = one
        self.name = int(one.body)
        self.until = until
        self.over = False


class Pops(RuleBasedStateMachine):
    """One group. `holds`: what its consumers have and did not acknowledge; `shaken`: what a crash may bring again."""

    flush = "ASYNC_FLUSH"

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = rig_at(Path(self.folder.name), flush_disk_type=self.flush, pop_from_retry_probability=50)
        self.rig.broker.topics.put(TopicConfig("topic-a", QUEUES, QUEUES))
        self.holds = []
        self.sent = {}  # number → log offset
        self.acked = set()
        self.late = set()
        self.shaken = set()
        self.durable = 0  # log offset that was on disk before the last crash

    def teardown(self):
        try:
            self.everything_comes()
        finally:
            self.rig.close()
            self.folder.cleanup()

    @property
    def now(self):
        return self.rig.clock.wall_ms()

    def time_moved(self):
        for hold in self.holds:
            hold.over = hold.over or self.now >= hold.until

    def answered(self, reply):
        """With SYNC_FLUSH a client hears of nothing before it is on disk."""
        if reply.after_flush is not None:
            self.rig.flush()
        return reply

    # --- what clients do ---------------------------------------------------------------------------------------------

    @rule(queue=some.integers(0, QUEUES - 1), count=some.integers(1, 5))
    def send(self, queue, count):
        for _ in range(count):
            number = len(self.sent)
            reply = self.answered(self.rig.send(body=b"%d" % number, queue=queue))
            assert reply.code == 0
            self.sent[number] = parse_message_id(reply.ext["msgId"])[2]

    @rule(most=some.integers(1, 6), invisible=times, queue=some.sampled_from([-1, 0]))
    def pop(self, most, invisible, queue):
        self.take(most, invisible, queue)

    def take(self, most=32, invisible=60_000, queue=-1):
        reply = self.answered(self.rig.pop(maxMsgNums=most, invisibleTime=invisible, queue=queue))
        found = popped(reply, "topic-a", "cg")
        held = {hold.name for hold in self.holds if not hold.over}
        for one in found:
            name = int(one.body)
            assert name in self.sent
            if name not in self.shaken:
                assert name not in held, f"{name} comes while somebody has it"
                assert name not in self.acked, f"{name} comes though it was acknowledged"
        taken = [Hold(one, self.now + invisible) for one in found]
        names = {hold.name for hold in taken}
        self.holds = [hold for hold in self.holds if hold.name not in names] + taken
        return taken

    @precondition(lambda self: self.holds)
    @rule(data=some.data())
    def ack(self, data):
        hold = data.draw(some.sampled_from(self.holds))
        self.done([hold], self.answered(self.rig.ack(hold.one)))

    def done(self, holds, reply):
        assert reply.code == 0, reply.remark
        for hold in holds:
            if not hold.over:
                self.acked.add(hold.name)
                self.holds.remove(hold)
            else:
                self.late.add(hold.name)  # it counts if the message is not visible again yet

    @precondition(lambda self: self.holds)
    @rule(data=some.data())
    def ack_in_a_batch(self, data):
        """Messages of the same queue of one pop."""
        first = data.draw(some.sampled_from(self.holds)).one
        pop = first.handle.split(" ")[:5]
        same = [h for h in self.holds if h.one.handle.split(" ")[:5] == pop and h.one.queue_id == first.queue_id]
        chosen = data.draw(some.lists(some.sampled_from(same), min_size=1, unique=True))
        start = int(pop[0])
        bits = sum(1 << (hold.one.offset - start) for hold in chosen)
        item = {
            "c": "cg", "t": "topic-a", "r": pop[4], "so": start, "q": first.queue_id, "rq": int(pop[3]),
            "pt": int(pop[1]), "it": int(pop[2]),
            "b": base64.b64encode(bits.to_bytes(bits.bit_length() // 8 + 1, "little")).decode(),
        }  # fmt: skip
        self.done(chosen, self.answered(self.rig.batch_ack(item)))

    @precondition(lambda self: self.holds)
    @rule(data=some.data(), invisible=times)
    def change(self, data, invisible):
        hold = data.draw(some.sampled_from(self.holds))
        if hold.over:
            return  # it comes twice then, as with every broker
        ext = self.answered(self.rig.change_time(hold.one, invisible)).ext
        one = hold.one
        _, _, _, _, flag, broker, queue_id, offset = one.handle.split(" ")
        handle = f"{offset} {ext['popTime']} {invisible} {ext['reviveQid']} {flag} {broker} {queue_id} {offset}"
        hold.one = one._replace(handle=handle)
        hold.until = int(ext["popTime"]) + invisible

    # --- what else happens -------------------------------------------------------------------------------------------

    @rule(step=some.sampled_from([1, 300, 999, 1000, 2500, 5000]))
    def time_passes(self, step):
        self.rig.pass_ms(step)
        self.time_moved()

    @rule()
    def save(self):
        """What the broker's services do every second, and every five seconds."""
        self.rig.flush()
        self.rig.broker.timers.persist()
        self.rig.broker.offsets.file.persist()

    @rule()
    def full_disk(self):
        self.rig.store.set_disk_full(True)
        self.rig.pass_ms(1000)
        self.time_moved()
        assert self.rig.pop().code == 210
        self.rig.store.set_disk_full(False)

    @rule(
        precision=some.sampled_from([1000, 1000, 100]),
        revive_queues=some.sampled_from([8, 8, 3]),
        retry_v2=some.booleans(),
    )
    def restart(self, precision, revive_queues, retry_v2):
        """A stop and a start, with other settings as the case may be."""
        self.rig.stop()
        self.rig.config = dataclasses.replace(
            self.rig.config, timer_precision_ms=precision, revive_queue_num=revive_queues,
            enable_retry_topic_v2=retry_v2,
        )  # fmt: skip
        self.rig.open()

    @rule(step=some.integers(-20_000, 20_000))
    def clock_is_set(self, step):
        self.rig.clock.set_wall_ms(self.now + step)
        self.rig.settle()
        self.time_moved()

    @rule()
    def crash(self):
        """What was not written to a file by then is lost; what was is there, on disk or not."""
        self.durable = max(self.durable, self.rig.store.flushed_offset)
        self.rig.store.close(clean=False)
        self.rig.open()
        self.shaken.update(self.sent)

    @rule()
    def power_loss(self):
        """The log ends where it was known to be on disk."""
        flushed = self.durable = max(self.durable, self.rig.store.flushed_offset)
        self.rig.store.close(clean=False)
        cut_log(self.rig.config.store_path_root_dir, flushed)
        self.rig.open()
        lost = {number for number, log_offset in self.sent.items() if log_offset >= flushed}
        assert not lost or self.flush == "ASYNC_FLUSH"
        for number in lost:
            # its number is in use for something else now: nobody may be told of it again
            self.acked.add(number)
        self.holds = [hold for hold in self.holds if hold.name not in lost]
        self.shaken.update(self.sent)

    def everything_comes(self):
        """Whatever is not acknowledged is to be had, if one waits."""
        missing = set(self.sent) - self.acked - self.late
        for _ in range(40):
            self.rig.pass_ms(5000)
            self.time_moved()
            while taken := self.take():
                missing -= {hold.name for hold in taken}
                for hold in taken:
                    self.done([hold], self.answered(self.rig.ack(hold.one)))
            if not missing and not self.holds:
                break
        assert not missing, f"{sorted(missing)} never came again"


def cut_log(root, flushed):
    """Zeroes behind an offset of the commit log."""
    folder = os.path.join(root, "commitlog")
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        size, base = os.path.getsize(path), int(name)
        if base + size > flushed:
            keep = max(0, flushed - base)
            os.truncate(path, keep)
            os.truncate(path, size)


class DurablePops(Pops):
    """With SYNC_FLUSH: what a client was told survives a power loss."""

    flush = "SYNC_FLUSH"


budget = settings(max_examples=15, stateful_step_count=40, deadline=None)
Pops.TestCase.settings = DurablePops.TestCase.settings = budget
TestPops = Pops.TestCase
TestDurablePops = DurablePops.TestCase
