"""Transactions against a model, on a real store, with stops and crashes at any moment, also between two writes.

What must hold: nobody sees a message before its commit; a committed one is delivered once, a rolled back one never;
producers are asked only about what is open (or was decided so late before a crash that the store does not show it) and
old enough, once a round, and not more often than allowed; in the end nothing stays undecided.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fastmq.broker.delivery import transaction_queue
from fastmq.broker.delivery.transaction import read_op
from unit.broker_rig import FakePeer
from unit.transaction_rig import COMMIT, HALF, MAX_TIME, OP, ROLLBACK, Half, Transacting, checks

TIMEOUT_MS = 6000
MAX_CHECKS = 3
GROUPS = ("g1", "g2")


class Killed(Exception):
    """The process ends here."""


class DyingStore:
    """The store; after so many more puts the process dies."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.puts_left: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, *args: Any, **more: Any) -> Any:
        if self.puts_left is not None:
            if self.puts_left == 0:
                raise Killed
            self.puts_left -= 1
        return self._store.put(*args, **more)


class Dying(Transacting):
    def open(self) -> None:
        super().open()
        self.dying = DyingStore(self.store)
        self.broker.store = self.dying  # type: ignore[assignment]


@dataclass(eq=False)
class Transaction:
    key: str
    group: str
    born_ms: int
    immunity_s: int | None
    records: list[Half] = field(default_factory=list)  # what producers know of
    decision: int | None = None  # the producers' first, which they stay with
    delivered: int = 0
    asked: int = 0
    crashes: int = 0  # since it began: each may cost one question
    given_up: bool = False
    uncertain: bool = False  # decided or given up, but the store does not know
    before_start: bool = False  # decided or given up before the last start

    @property
    def open(self) -> bool:
        return self.decision is None and not self.given_up

    def first_check_ms(self) -> int:
        return TIMEOUT_MS if self.immunity_s is None else self.immunity_s * 1000


class Transactions(RuleBasedStateMachine):
    known = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.moving = mock.patch.object(transaction_queue, "MOVE_AFTER", 5)
        self.moving.start()
        self.rig = Dying(self.folder, transaction_check_max=MAX_CHECKS)
        self.all: dict[str, Transaction] = {}
        self.producers: dict[str, FakePeer] = {}

    def teardown(self) -> None:
        try:
            self.end_all()
        finally:
            self.moving.stop()
            self.rig.close()
            shutil.rmtree(self.folder)

    # --- producers ---------------------------------------------------------------------------------------------------

    @rule(target=known, group=some.sampled_from(GROUPS), immunity=some.sampled_from([None, None, 2, 20]))
    def begin(self, group: str, immunity: int | None) -> Transaction:
        key = f"K{len(self.all)}"
        more = "" if immunity is None else f"CHECK_IMMUNITY_TIME_IN_SECONDS\x01{immunity}\x02"
        half = self.rig.begin(key, key.encode(), group=group, more=more)
        made = Transaction(key, group, self.rig.clock.wall_ms(), immunity, [half])
        self.all[key] = made
        return made

    @rule(one=known, decision=some.sampled_from([COMMIT, COMMIT, ROLLBACK]), which=some.integers(0, 9))
    def decide(self, one: Transaction, decision: int, which: int) -> None:
        self.send_decision(one, decision, one.records[which % len(one.records)])

    def send_decision(self, one: Transaction, decision: int, half: Half) -> None:
        if one.before_start:
            # producers stay with what they said; what was said to an earlier process need not be known any more
            decision = one.decision or decision
        reply = self.rig.end(half, decision)
        if reply.code == 604:
            assert one.immunity_s is not None
            assert not half.from_check
            return
        assert reply.code == 0, reply.remark
        delivered = self.rig.bodies().count(one.key.encode())
        first = one.decision is None
        if first:
            one.decision = decision
        assert delivered == one.delivered + (1 if decision == COMMIT and first else 0), "the first decision counts"
        one.delivered = delivered
        one.uncertain = False

    @rule(group=some.sampled_from(GROUPS))
    def connect(self, group: str) -> None:
        if group not in self.producers:
            self.producers[group] = self.rig.producer(50 + GROUPS.index(group), group)

    @rule(group=some.sampled_from(GROUPS))
    def disconnect(self, group: str) -> None:
        peer = self.producers.pop(group, None)
        if peer is not None:
            peer.close()
            self.rig.broker.closed(peer)  # type: ignore[arg-type]

    # --- the broker --------------------------------------------------------------------------------------------------

    @rule(milliseconds=some.sampled_from([1, 19, 500, 3000, 7000, 30_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.rig.clock.advance_ms(milliseconds)

    @rule(milliseconds=some.sampled_from([1, 3000, 7000, 30_000]), connected=some.booleans())
    def round_comes(self, milliseconds: int, connected: bool) -> None:
        self.rig.clock.advance_ms(milliseconds)
        if connected:
            for group in GROUPS:
                self.connect(group)
        self.check()

    def check(self) -> None:
        self.rig.check()
        self.note_asked()

    @rule(which=some.integers(0, 99), decision=some.sampled_from([COMMIT, ROLLBACK]))
    def producer_answers(self, which: int, decision: int) -> None:
        asked = [one for one in self.all.values() if one.records[-1].from_check]
        if asked:
            one = asked[which % len(asked)]
            self.send_decision(one, decision, one.records[-1])

    @rule()
    def op_messages_in_time(self) -> None:
        self.rig.broker.transactions.write_ops()

    @rule(flushed=some.booleans())
    def offsets_are_saved(self, flushed: bool) -> None:
        if flushed:
            self.rig.flush()
        self.rig.broker.transactions.publish()
        self.rig.broker.offsets.file.persist()

    @rule(clean=some.booleans())
    def ends_and_starts(self, clean: bool) -> None:
        if clean:
            self.rig.restart()
        else:
            self.rig.crash()
        self.after_start(crashed=not clean)

    @rule(puts=some.integers(0, 5))
    def die_in_a_check(self, puts: int) -> None:
        self.rig.dying.puts_left = puts
        try:
            self.rig.check()
        except Killed:
            self.note_asked()
            self.ends_and_starts(clean=False)
        else:
            self.note_asked()
            self.rig.dying.puts_left = None

    @precondition(lambda self: any(one.open for one in self.all.values()))
    @rule(puts=some.integers(0, 2), which=some.integers(0, 99))
    def die_in_a_commit(self, puts: int, which: int) -> None:
        candidates = [one for one in self.all.values() if one.open]
        one = candidates[which % len(candidates)]
        self.rig.clock.advance_ms(25)  # so that the op message follows at once
        self.rig.dying.puts_left = puts
        try:
            reply = self.rig.end(one.records[-1], COMMIT)
        except Killed:
            stored = self.rig.bodies().count(one.key.encode())
            assert stored == min(puts, 1)
            if stored:
                one.decision, one.delivered = COMMIT, 1
            self.ends_and_starts(clean=False)
            return
        self.rig.dying.puts_left = None
        if reply.code != 604:
            assert reply.code == 0
            one.decision, one.delivered = COMMIT, 1

    # --- what must hold ----------------------------------------------------------------------------------------------

    def note_asked(self) -> None:
        """What producers were asked in one round; what was given up in it."""
        now_ms = self.rig.clock.wall_ms()
        seen = set()
        for group, peer in self.producers.items():
            for half, message in checks(peer):
                one = self.all[half.key]
                assert (one.group, message.body) == (group, half.key.encode())
                assert one.open or one.uncertain, "only open ones are asked about"
                assert now_ms - one.born_ms > one.first_check_ms()
                assert half.key not in seen, "once a round"
                seen.add(half.key)
                one.records.append(half)
                one.asked += 1
                assert one.asked <= MAX_CHECKS + one.crashes
        put_aside = Counter(self.rig.bodies(MAX_TIME))
        for one in self.all.values():
            assert put_aside[one.key.encode()] <= 1 + one.crashes
            if one.key.encode() in put_aside and one.open:
                assert one.asked + one.crashes >= MAX_CHECKS
                one.given_up = True

    def after_start(self, *, crashed: bool) -> None:
        """Which decisions the store shows, by op records or by its offset."""
        self.producers.clear()
        self.rig.index()
        half_offset = max(0, self.rig.offsets()[0])
        done = set()
        for offset in range(self.rig.count(OP)):
            log_offset = self.rig.store.queue_entries(OP, 0, offset, 1)[0][0]
            done.update(read_op(self.rig.store.read_record(log_offset)))
        live = {
            self.rig.stored(HALF, 0, offset).body.decode()
            for offset in range(half_offset, self.rig.count(HALF))
            if offset not in done
        }
        for one in self.all.values():
            one.crashes += crashed
            if one.open:
                assert one.key in live, "an open transaction is in the store"
            else:
                one.before_start = True
                one.uncertain = one.key in live
                if crashed is False and one.uncertain:
                    # decided by a record from before an earlier start: the live one was not known
                    assert len({half.queue_offset for half in one.records}) > 1 or one.given_up or one.crashes

    @invariant()
    def nobody_sees_what_is_not_committed(self) -> None:
        delivered = Counter(self.rig.bodies())
        for one in self.all.values():
            count = delivered.pop(one.key.encode(), 0)
            assert count == one.delivered
            assert (count > 0) == (one.decision == COMMIT)
        assert not delivered

    def end_all(self) -> None:
        """In the end every transaction is decided or given up, and nobody is asked any more."""
        if not self.all:
            return
        for group in GROUPS:
            self.disconnect(group)
            self.connect(group)
        for _ in range(MAX_CHECKS + 5):
            self.rig.clock.advance_ms(30_000)
            self.check()
            for one in self.all.values():
                if one.asked and (one.open or one.uncertain) and one.records[-1].from_check:
                    self.send_decision(one, one.decision or COMMIT, one.records[-1])
        assert not [one for one in self.all.values() if one.open]
        self.nobody_sees_what_is_not_committed()
        self.check()
        assert not [one for one in self.all.values() if one.uncertain and not one.given_up]


TestTransactions = Transactions.TestCase
TestTransactions.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
