"""Orderly pops against a model that keeps every message by itself."""

import os
import tempfile

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastmq.broker.state.order_info import ILLEGAL, NO_COMMIT, ConsumerOrderTable

ATTEMPTS = [None, "a", "b"]
steps = some.integers(0, 3_000)


class OrderlyPops(RuleBasedStateMachine):
    """One queue with messages without end, one group. Model: by offset, when it is visible, whether it is acked.

    Messages are acked in any order; the file is loaded, or lost, at any time.
    """

    def __init__(self):
        super().__init__()
        self.now = 1_700_000_000_000
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "consumerOrderInfo.json")
        self.table = ConsumerOrderTable(self.path)
        self.committed = 0
        self.batch = {}  # offset → [visible at, acked]
        self.pop_ms = self.attempt = None
        self.given = {}  # offset → times it was given since it was first given
        self.done = set()  # acked with a handle that was valid
        self.told = False

    def teardown(self):
        self.folder.cleanup()

    def is_blocked(self, attempt=None):
        if attempt is not None and attempt == self.attempt:
            return False
        return any(self.now < at for at, acked in self.batch.values() if not acked)

    @rule(step=steps)
    def time_passes(self, step):
        self.now += step
        freed = self.table.take_free(self.now)
        if freed:
            assert not self.told, "each end of a block is told once"
            assert not self.is_blocked()
            assert any(not acked for _, acked in self.batch.values())
            self.told = True
        elif self.batch and not self.is_blocked() and any(not acked for _, acked in self.batch.values()):
            assert self.told, "the end of the block was not told"

    @rule(count=some.integers(1, 4), attempt=some.sampled_from(ATTEMPTS), invisible=some.integers(1_000, 5_000))
    def pop(self, count, attempt, invisible):
        self.now += 1
        freed = self.table.take_free(self.now)
        blocked = self.table.blocked("t", "g", 0, attempt_id=attempt, invisible_ms=invisible, now_ms=self.now)
        assert blocked == self.is_blocked(attempt)
        if blocked:
            assert not freed
            return
        offsets = list(range(self.committed, self.committed + count))
        same = attempt is not None and attempt == self.attempt
        info = self.table.put(
            "t", "g", 0, offsets, attempt_id=attempt, pop_ms=self.now, invisible_ms=invisible, now_ms=self.now
        )
        before = self.given if same else {o: self.given.get(o, 0) + 1 for o in self.batch}
        self.given = {o: before[o] for o in offsets if o in before}
        assert info.consumed == {o: n for o, n in self.given.items() if n}
        self.batch = {offset: [self.now + invisible, False] for offset in offsets}
        self.pop_ms, self.attempt, self.told = self.now, attempt, False

    @precondition(lambda self: self.batch)
    @rule(index=some.integers(0, 5), stale=some.booleans())
    def ack(self, index, stale):
        offset = min(self.batch) + index
        if offset < self.committed:
            return  # answered before the batch is asked
        pop_ms = self.pop_ms - 1 if stale else self.pop_ms
        outcome = self.table.ack("t", "g", 0, offset, pop_ms=pop_ms, committed=self.committed)
        if stale:
            assert outcome == NO_COMMIT
        elif offset not in self.batch:
            assert outcome == ILLEGAL
        else:
            self.batch[offset][1] = True
            self.done.add(offset)
            open_offsets = [o for o, (_, acked) in self.batch.items() if not acked]
            assert outcome == min(open_offsets, default=max(self.batch) + 1)
            assert outcome >= self.committed
            self.committed = outcome
            self.told = False

    @precondition(lambda self: self.batch)
    @rule(index=some.integers(0, 3), invisible=some.integers(0, 5_000))
    def change_invisible_time(self, index, invisible):
        offset = min(self.batch) + index
        found = self.table.set_visible("t", "g", 0, offset, pop_ms=self.pop_ms, visible_ms=self.now + invisible)
        assert found == (offset in self.batch)
        if found:
            self.batch[offset][0] = self.now + invisible
            self.told = False

    @rule()
    def restart(self):
        body = self.table.to_body()
        self.table.file.persist()
        self.table = ConsumerOrderTable(self.path)
        assert self.table.to_body() == body
        self.told = False

    @rule()
    def lose_the_file(self):
        """The group then stands at its first open message; old handles ack nothing but that one."""
        last = max(self.batch, default=self.committed)
        for name in os.listdir(self.folder.name):
            os.remove(os.path.join(self.folder.name, name))
        self.table = ConsumerOrderTable(self.path)
        for offset in range(self.committed, last + 1):
            outcome = self.table.ack("t", "g", 0, offset, pop_ms=self.now, committed=self.committed)
            assert outcome == (offset + 1 if offset == self.committed else NO_COMMIT)
        self.batch, self.pop_ms, self.attempt, self.given, self.told = {}, None, None, {}, False

    @invariant()
    def nothing_is_skipped(self):
        """What lies before the group's offset was acked."""
        assert all(offset in self.done for offset in range(self.committed))


TestOrderlyPops = OrderlyPops.TestCase
TestOrderlyPops.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
