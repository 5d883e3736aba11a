"""Waiting POP requests with consumers that take what they find: nobody waits for a message that is there."""

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmq.broker.delivery.popwait import ANY_QUEUE, HeldPop, Hold, PopWaitLimits, PopWaitTable
from fastmq.broker.delivery.watches import QueueWatches

GROUPS = ["g", "h"]
LIMITS = PopWaitLimits(per_key=3, total=6, keys=4)
queue_ids = some.sampled_from([ANY_QUEUE, 0, 1, 2])


class WaitingPops(RuleBasedStateMachine):
    """Three queues, a retry queue per group. A request takes some messages at most, then the next one is woken."""

    def __init__(self):
        super().__init__()
        self.ends = {("t", number): 0 for number in range(3)} | {(f"retry-{group}", 0): 0 for group in GROUPS}
        self.read = {}  # (group, queue) → how far the group is
        self.watched = {}
        self.watches = QueueWatches(self.watch)
        self.table = PopWaitTable(self.watches.part(), limits=lambda: LIMITS)
        self.other = self.watches.part()
        self.waiting = []
        self.now = 0.0

    def watch(self, topic, queue_id, on):
        if on:
            self.watched[topic, queue_id] = self.ends[topic, queue_id]
        else:
            self.watched.pop((topic, queue_id), None)
        return self.ends[topic, queue_id]

    def queues_of(self, group, queue_id):
        ids = range(3) if queue_id == ANY_QUEUE else (queue_id,)
        return [("t", number) for number in ids] + [(f"retry-{group}", 0)]

    def left(self, group, queue):
        return self.ends[queue] - self.read.get((group, queue), 0)

    def process(self, pop):
        """What a handler does: take, wake the next one for what is left, or wait."""
        found = 0
        for queue in pop.queues:
            taken = min(pop.request - found, self.left(pop.group, queue))
            self.read[pop.group, queue] = self.read.get((pop.group, queue), 0) + taken
            found += taken
        if found:
            self.wake_next(pop)
            return
        if pop.deadline <= self.now:
            return
        pop.queues = {queue: self.ends[queue] for queue in pop.queues}
        if self.table.hold(pop) is Hold.HELD:
            self.waiting.append(pop)

    def wake_next(self, pop):
        for queue in pop.queues:
            if self.left(pop.group, queue):
                ids = (queue[1],) if queue[0] == "t" else (0, 1, 2)
                following = self.table.take_one("t", pop.group, ANY_QUEUE, *ids)
                if following is not None:
                    self.woken([following])

    def woken(self, pops):
        for pop in pops:
            assert not pop.waiting
            self.waiting.remove(pop)
        for pop in pops:
            self.process(pop)

    @rule(
        group=some.sampled_from(GROUPS), queue_id=queue_ids, peer=some.integers(1, 3), most=some.integers(1, 3),
        timeout=some.floats(0, 20),
    )  # fmt: skip
    def request(self, group, queue_id, peer, most, timeout):
        queues = {queue: self.ends[queue] for queue in self.queues_of(group, queue_id)}
        pop = HeldPop("t", group, queue_id, queues, self.now + timeout, peer, most, self.process)
        full = len(self.waiting) >= LIMITS.total or self.table.count("t", group, queue_id) >= LIMITS.per_key
        full |= len({one.key for one in self.waiting} | {pop.key}) > LIMITS.keys
        hungry = not any(self.left(group, queue) for queue in queues)
        self.process(pop)
        if hungry and pop.deadline > self.now:
            assert (pop in self.waiting) == (not full)

    @rule(group=some.sampled_from(GROUPS), queue_id=queue_ids, number=some.integers(0, 2))
    def a_message_between_read_and_wait(self, group, queue_id, number):
        queues = {queue: self.ends[queue] for queue in self.queues_of(group, queue_id)}
        self.come(("t", number), 1)
        pop = HeldPop("t", group, queue_id, queues, self.now + 5, 1, 9, self.process)
        outcome = self.table.hold(pop)
        assert outcome is not Hold.HELD or queue_id not in (ANY_QUEUE, number)
        if outcome is Hold.HELD:
            self.waiting.append(pop)
            self.table.drop_peer(1)
            self.waiting = [one for one in self.waiting if one.peer_id != 1]

    @rule(number=some.integers(0, 2), count=some.integers(1, 5))
    def messages_come(self, number, count):
        self.come(("t", number), count)

    @rule(group=some.sampled_from(GROUPS))
    def a_message_comes_again(self, group):
        self.come((f"retry-{group}", 0), 1)

    def come(self, queue, count):
        self.ends[queue] += count
        if queue in self.watched:
            del self.watched[queue]  # the store tells once, and forgets that it was asked
            self.woken(self.table.take_moved(*queue, self.ends[queue]))

    @rule(number=some.integers(0, 2), on=some.booleans())
    def another_part_watches(self, number, on):
        self.other("t", number, on)

    @rule(step=some.floats(0, 10))
    def time_passes(self, step):
        self.now += step
        due = self.table.take_due(self.now)
        assert {id(pop) for pop in due} == {id(pop) for pop in self.waiting if pop.deadline <= self.now}
        self.woken(due)

    @rule(peer=some.integers(1, 3))
    def connection_closes(self, peer):
        gone = self.table.drop_peer(peer)
        assert {id(pop) for pop in gone} == {id(pop) for pop in self.waiting if pop.peer_id == peer}
        self.waiting = [pop for pop in self.waiting if pop.peer_id != peer]

    @rule(group=some.sampled_from(GROUPS))
    def group_goes(self, group):
        gone = self.table.take_group(group)
        assert {id(pop) for pop in gone} == {id(pop) for pop in self.waiting if pop.group == group}
        self.waiting = [pop for pop in self.waiting if pop.group != group]

    @invariant()
    def nobody_waits_for_what_is_there(self):
        assert len(self.table) == len(self.waiting)
        for pop in self.waiting:
            assert pop.waiting
            for queue in pop.queues:
                assert not self.left(pop.group, queue)
                assert queue in self.watched
        assert self.table.next_deadline() == min((pop.deadline for pop in self.waiting), default=None)


TestWaitingPops = WaitingPops.TestCase
TestWaitingPops.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
