"""Which half messages of a queue are decided, and what the next round of checks does about the others.

All state can be had again from the log and two offsets (group CID_RMQ_SYS_TRANS in consumerOffset.json):

    half offset   everything before it is done: committed, rolled back, put aside, or stored again behind it
    op offset     everything before it speaks only of what lies before the half offset

`decided` holds the half offsets from the half offset on that are done: those of the op messages from the op offset on,
and those whose op message is not written yet. A check stores its half message again at the end of the queue (its
counter is a property), and an op message then says that the old record is done. So a pending transaction has one live
record, and whoever opens the store next, also Apache RocketMQ, finds it.

An op message does not say why a record is done: decided, stored again, or given up. `_records` knows; a start learns it
from the live records and from those that were given up.

Better than RocketMQ on purpose: a decision counts for all records of its transaction, not only for the one it names,
and the first one counts (RocketMQ commits again when a producer's own commit and its answer to a check cross); a
message is not asked for, counted or stored again while no producer of its group is connected; a message with a check
time of its own stays where it is instead of being stored again each round.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from fastmq import _store as st
from fastmq._store import Appended
from fastmq.broker.delivery.intake import OutgoingMessage, PutsMessages, put_as_is
from fastmq.broker.delivery.transaction import (
    GIVEN_UP_QUEUE,
    GIVEN_UP_TOPIC,
    HALF_TOPIC,
    OP_PROPERTIES,
    OP_TOPIC,
    CheckRules,
    HalfMessage,
    Identity,
    Verdict,
    op_body,
    read_op,
)
from fastmq.errors import StoreError
from fastmq.limits import MAX_PROPERTIES_BYTES
from fastmq.protocol.message import encode_properties

log = logging.getLogger("fastmq.broker.transaction")

MOVE_AFTER: Final = 10_000
"""A record that has to wait is stored again once so many others lie behind it: what is known of them can be forgotten.

RocketMQ does that every round. So a long wait costs one copy per so many new transactions, and none while all is quiet.
"""

KNOWN_RECORDS: Final = 100_000
"""Transactions with more than one record of which it is known how they stand; the oldest are forgotten above it."""

SETTLED: Final = -1  # in the place of an offset: the transaction is decided
GIVEN_UP: Final = -2  # the same: nobody decided in time, a late decision is honoured
OPS_A_STEP: Final = 64
RECORDS_A_STEP: Final = 64


class TransactionStore(PutsMessages, Protocol):
    """What transactions need of the store."""

    @property
    def dispatched_offset(self) -> int: ...
    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None: ...
    def queue_entries(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]: ...
    def read_record(self, log_offset: int) -> bytes | None: ...


class Asker(Protocol):
    """Who speaks to producers, and is told what became of messages."""

    def can_ask(self, group: str | None) -> bool:
        """Whether a producer of the group is connected."""

    def ask(self, half: HalfMessage, copy: OutgoingMessage, appended: Appended) -> None:
        """Ask a producer about a record that was stored for this check."""

    def give_up(self, half: HalfMessage) -> bool:
        """Put aside a message nobody decided about; False: not possible now."""


@dataclass(slots=True)
class Round:
    """Where a round of checks stands: the next offset to look at, and the end it was begun with."""

    offset: int
    end: int
    asked: int = 0
    moved: int = 0
    given_up: int = 0


class HalfQueue:
    """One queue of the half topic with its queue of op messages. `half_offset`, `op_offset`: None if never stored.

    `store_host`: address and port in the op messages.
    """

    def __init__(
        self,
        queue_id: int,
        store: TransactionStore,
        *,
        half_offset: int | None,
        op_offset: int | None,
        store_host: tuple[str, int],
        wall_ms: Callable[[], int],
        on_put: Callable[[str, int, Appended], None] = lambda _topic, _queue_id, _appended: None,
    ) -> None:
        self.queue_id = queue_id
        self._store = store
        self._store_host = store_host
        self._wall_ms = wall_ms
        self._on_put = on_put
        self.half_offset = self._within(HALF_TOPIC, half_offset)
        self.op_offset = self._within(OP_TOPIC, op_offset)
        self._read_to = self.op_offset  # op messages before it are in `decided`
        self._decided: set[int] = set()
        self._ops: deque[int] = deque()  # the highest half offset of each op message from the op offset on
        self._unwritten: list[int] = []  # decided, with no op message yet
        self._unwritten_chars = 0
        self._records: dict[Identity, int] = {}  # the live record where there are several; or SETTLED, GIVEN_UP
        self._known_from = self.half_offset
        self._begun_at = self.end
        self._learning = self._learn()
        self._round: Round | None = None

    # --- reading -----------------------------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """End of the half queue, as consumers see it."""
        return self._bounds(HALF_TOPIC)[1]

    @property
    def unwritten_chars(self) -> int:
        """Length of the op text that is not written yet."""
        return self._unwritten_chars

    def is_decided(self, half: HalfMessage) -> bool:
        """Whether a decision about the message's transaction is known.

        What is done is decided if it was neither stored again nor given up. Of records before the half offset this
        process began with nothing is known.
        """
        offset = half.message.queue_offset
        done = offset in self._decided or self._known_from <= offset < self.half_offset
        live = self._records.get(half.identity)
        if live is None and done and offset < self._begun_at:  # an op message of an earlier process says so, not why
            while self.read_ops() or self.learn():
                pass
            live = self._records.get(half.identity)
        return done if live is None else live == SETTLED

    def may_be_known_before(self, half: HalfMessage) -> bool:
        """Whether an earlier process knew of the transaction, and may have been killed before its op message."""
        return half.message.queue_offset < self._begun_at or half.is_copy

    def holds(self, half: HalfMessage) -> bool:
        """Whether the queue really has this record at the offset it claims to be at."""
        message = half.message
        if message.topic != HALF_TOPIC or message.queue_id != self.queue_id:
            return False
        dispatched = self._store.dispatched_offset  # asked first: the queue has by now what lies before it
        low, high = self._bounds(HALF_TOPIC)
        if message.queue_offset >= high:
            # with SYNC_FLUSH it may be stored and not visible yet: checks do not wait for the flush, nor do all sends
            return message.log_offset >= dispatched
        if message.queue_offset < low:
            return False
        entries = self._store.queue_entries(HALF_TOPIC, self.queue_id, message.queue_offset, 1)
        return bool(entries) and entries[0][0] == message.log_offset

    # --- decisions ---------------------------------------------------------------------------------------------------

    def decide(self, half: HalfMessage) -> None:
        """The transaction is committed or rolled back: none of its records is asked for again."""
        offset = half.message.queue_offset
        live = self._records.get(half.identity)
        self._done(offset)
        if live is not None and live >= 0:
            self._done(live)
        if live is not None or self.may_be_known_before(half):  # it may have other records, made by that process
            self._remember(half.identity, SETTLED)

    def put_again(self, half: HalfMessage, copy: OutgoingMessage) -> Appended | None:
        """Store a record again, in the place of the one there is. None: not possible now."""
        appended = put_as_is(self._store, copy)
        if appended.status != st.ST_OK:
            return None
        self._on_put(copy.topic, copy.queue_id, appended)
        live = self._records.get(half.identity)
        if live is not None and live >= 0:
            self._done(live)
        if half.message.topic == HALF_TOPIC:
            self._done(half.message.queue_offset)
        self._remember(half.identity, appended.queue_offset)
        return appended

    def write_ops(self, max_chars: int) -> bool:
        """Write one op message with what is decided; False: not possible now. Nothing to write is fine."""
        if not self._unwritten:
            return True
        chars = count = 0
        for count, offset in enumerate(self._unwritten, 1):  # noqa: B007  (read behind the loop)
            chars += len(str(offset)) + 1
            if chars >= max_chars:
                break
        appended = self._store.put(
            OP_TOPIC,
            self.queue_id,
            op_body(self._unwritten[:count]),
            OP_PROPERTIES,
            born_timestamp_ms=self._wall_ms(),
            born_host=self._store_host,
            internal=True,
        )
        if appended.status != st.ST_OK:
            return False
        self._on_put(OP_TOPIC, self.queue_id, appended)
        if appended.queue_offset == self._read_to:  # else those before it have yet to be read
            self._ops.append(max(self._unwritten[:count]))
            self._read_to += 1
        del self._unwritten[:count]
        self._unwritten_chars -= chars
        self._advance()
        return True

    # --- a round of checks -------------------------------------------------------------------------------------------

    def read_ops(self, count: int = OPS_A_STEP) -> bool:
        """Read op messages that others wrote, an earlier run of the broker above all. Whether there are more."""
        self._pass_removed()
        end = self.end
        entries = self._store.queue_entries(OP_TOPIC, self.queue_id, self._read_to, count)
        for log_offset, _size, _tags_code in entries:
            # what is not in the queue is never done: a record that is stored there later would not be looked at
            offsets = [offset for offset in read_op(self._store.read_record(log_offset)) if offset < end]
            self._decided.update(offset for offset in offsets if offset >= self.half_offset)
            self._ops.append(max(offsets, default=-1))
            self._read_to += 1
        self._advance()
        return self._read_to < self._bounds(OP_TOPIC)[1] and bool(entries)

    def learn(self) -> bool:
        """Go on learning what earlier processes stored again or gave up, behind `read_ops`. Whether there is more.

        Without that it would look decided, and its commit would be swallowed.
        """
        try:
            return all(next(self._learning, False) for _ in range(RECORDS_A_STEP))
        except BaseException:
            self._learning = self._learn()  # what was found is lost: from the beginning
            raise

    def begin_round(self) -> None:
        """From here on `check` goes through what is in the queue now."""
        self._pass_removed()
        self._round = Round(self.half_offset, self.end)

    def check(self, now_ms: int, rules: CheckRules, asker: Asker, count: int) -> Round | None:
        """Go on with the round, past at most `count` records that had to be read. The round when it is over."""
        current = self._round
        if current is None:
            return Round(self.half_offset, self.half_offset)
        left = count
        while current.offset < current.end:
            if current.offset < self.half_offset:
                current.offset = self.half_offset
                continue
            if current.offset in self._decided:
                current.offset += 1
                continue
            if left == 0:
                return None
            left -= 1
            try:
                if not self._check_one(now_ms, rules, asker, current):
                    break
            except (MemoryError, StoreError):
                raise
            except Exception:  # it stays open, and must not keep the producers of others from being asked
                log.exception("half queue %d, offset %d: looked at again next time", self.queue_id, current.offset)
            current.offset += 1
        self._round = None
        return current

    def _check_one(self, now_ms: int, rules: CheckRules, asker: Asker, current: Round) -> bool:
        """Look at the record at the round's offset. False: the round ends with it."""
        offset = current.offset
        entries = self._store.queue_entries(HALF_TOPIC, self.queue_id, offset, 1)
        half = HalfMessage.decode(self._store.read_record(entries[0][0])) if entries else None
        if half is None:
            log.error("half queue %d, offset %d: no half message there, passed over", self.queue_id, offset)
            self._done(offset)
            return True
        live = self._records.get(half.identity)
        if live is not None and (live < 0 or live > offset):
            self._done(offset)  # another record of a transaction that is decided or given up, or has a later one
            return True
        verdict = half.judge(now_ms, rules)
        if verdict is Verdict.YOUNG:
            return False
        ask = verdict is Verdict.DUE and asker.can_ask(half.producer_group)
        copy = half.checked(half.checks + 1) if ask else half.moved()
        # a record that has no room for what a check adds to it must not keep those behind it waiting
        if verdict is Verdict.EXPIRED or (ask and not _fits(copy)):
            if not asker.give_up(half):
                return False
            self._remember(half.identity, GIVEN_UP)
            self._done(offset)
            current.given_up += 1
            return True
        if ask:
            appended = self.put_again(half, copy)
            if appended is None:
                return False
            asker.ask(half, copy, appended)
            current.asked += 1
            return True
        if current.end - offset > MOVE_AFTER and _fits(copy):
            if self.put_again(half, copy) is None:
                return False
            current.moved += 1
        return True

    # --- inside ------------------------------------------------------------------------------------------------------

    def _learn(self) -> Iterator[bool]:
        """One record after the other. Only those of the offsets whose op messages were read matter."""
        known_from = max(self._known_from, self._bounds(HALF_TOPIC)[0])
        oldest = self._store.queue_entries(HALF_TOPIC, self.queue_id, known_from, 1)
        if known_from >= self._begun_at or not oldest:
            return
        found: dict[Identity, int] = {}
        low, high = self._store.queue_offsets(GIVEN_UP_TOPIC, GIVEN_UP_QUEUE) or (0, 0)
        low = bisect_left(range(high), oldest[0][0], low, key=self._given_up_at)
        for half in self._read(GIVEN_UP_TOPIC, GIVEN_UP_QUEUE, max(low, high - KNOWN_RECORDS), high):
            if half is not None:
                _put_last(found, half.identity, GIVEN_UP)
            yield True
        for half in self._read(HALF_TOPIC, self.queue_id, self.half_offset, self._begun_at):
            if half is not None and half.is_copy:  # also of one that was given up: its checks began anew
                _put_last(found, half.identity, half.message.queue_offset)
            yield True
        for identity, live in self._records.items():  # what this process did is newer
            _put_last(found, identity, live)
        self._records = found

    def _given_up_at(self, offset: int) -> int:
        entries = self._store.queue_entries(GIVEN_UP_TOPIC, GIVEN_UP_QUEUE, offset, 1)
        return entries[0][0] if entries else 0

    def _read(self, topic: str, queue_id: int, offset: int, end: int) -> Iterator[HalfMessage | None]:
        """The half messages of a queue; None in the place of what is done or cannot be read."""
        while offset < end:
            entries = self._store.queue_entries(topic, queue_id, offset, min(RECORDS_A_STEP, end - offset))
            if not entries:
                return
            for log_offset, _size, _tags_code in entries:
                done = topic == HALF_TOPIC and (offset < self.half_offset or offset in self._decided)
                yield None if done else self._decode(topic, offset, log_offset)
                offset += 1

    def _decode(self, topic: str, offset: int, log_offset: int) -> HalfMessage | None:
        try:
            return HalfMessage.decode(self._store.read_record(log_offset))
        except (MemoryError, StoreError):
            raise
        except Exception:  # nothing is known of it then, and all others must be
            log.exception("%s, offset %d: passed over", topic, offset)
            return None

    def _bounds(self, topic: str) -> tuple[int, int]:
        return self._store.queue_offsets(topic, self.queue_id) or (0, 0)

    def _within(self, topic: str, offset: int | None) -> int:
        """A stored offset within what the queue has; its beginning if there is none."""
        low, high = self._bounds(topic)
        if offset is None or offset < low:
            return low
        return min(offset, high)

    def _pass_removed(self) -> None:
        """Old segments of the log are removed one day, whatever still lies in them."""
        low = self._bounds(HALF_TOPIC)[0]
        if low > self.half_offset:
            lost = low - self.half_offset - sum(1 for offset in self._decided if offset < low)
            log.warning("half queue %d: %d open transactions were in removed segments", self.queue_id, lost)
            self._decided = {offset for offset in self._decided if offset >= low}
            self.half_offset = low
        low = self._bounds(OP_TOPIC)[0]
        while self.op_offset < low:
            if self._ops:
                self._ops.popleft()
            self.op_offset += 1
        self._read_to = max(self._read_to, self.op_offset)
        self._advance()

    def _done(self, offset: int) -> None:
        """The record at an offset needs nothing more."""
        if offset < self.half_offset or offset in self._decided:
            return
        self._decided.add(offset)
        self._unwritten.append(offset)
        self._unwritten_chars += len(str(offset)) + 1
        self._advance()

    def _advance(self) -> None:
        """Move both offsets over what is done."""
        decided = self._decided
        while self.half_offset in decided:
            decided.remove(self.half_offset)
            self.half_offset += 1
        while self._ops and self._ops[0] < self.half_offset:
            self._ops.popleft()
            self.op_offset += 1

    def _remember(self, identity: Identity, offset: int) -> None:
        _put_last(self._records, identity, offset)


def _put_last(records: dict[Identity, int], identity: Identity, offset: int) -> None:
    records.pop(identity, None)
    records[identity] = offset
    if len(records) > KNOWN_RECORDS:
        del records[next(iter(records))]


def _fits(message: OutgoingMessage) -> bool:
    """Whether the properties of a copy are not too long to be stored."""
    return len(encode_properties(message.properties)) <= MAX_PROPERTIES_BYTES
