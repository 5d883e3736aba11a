"""The broker's tables against models that are too simple to be wrong."""

import dataclasses

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastmq.broker.delivery.longpoll import HeldPull, LongPollTable
from fastmq.broker.state.locks import LOCK_MAX_LIVE_S, QueueLocks
from fastmq.broker.state.offsets import ConsumerOffsetTable
from fastmq.broker.state.sessions import ClientChannel, ClientSessions, ConsumerHeartbeat
from fastmq.config import BrokerConfig
from fastmq.protocol.bodies import ConsumeFromWhere, ConsumeType, MessageModel, MessageQueue, SubscriptionData
from unit.broker_rig import FakePeer

FEW = settings(max_examples=30, stateful_step_count=40, deadline=None)

queues = some.integers(0, 3)
groups = some.sampled_from(["g1", "g2"])
clients = some.sampled_from(["c1", "c2", "c3"])
steps = some.floats(0, 100)


class Locks(RuleBasedStateMachine):
    """At most one client holds a queue; it loses it by giving it up or by 60 s of silence."""

    def __init__(self):
        super().__init__()
        self.locks = QueueLocks()
        self.now = 0.0
        self.model = {}

    def queue(self, number):
        return MessageQueue(topic="t", broker_name="b", queue_id=number)

    @rule(step=steps)
    def time_passes(self, step):
        self.now += step

    @rule(group=groups, client=clients, wanted=some.sets(queues))
    def lock(self, group, client, wanted):
        held = self.locks.try_lock_batch(group, client, [self.queue(n) for n in sorted(wanted)], self.now)
        expected = []
        for number in sorted(wanted):
            holder, since = self.model.get((group, number), (client, self.now))
            if holder == client or self.now - since > LOCK_MAX_LIVE_S:
                self.model[group, number] = client, self.now
                expected.append(number)
        assert [queue.queue_id for queue in held] == expected

    @rule(group=groups, client=clients, given_up=some.sets(queues))
    def unlock(self, group, client, given_up):
        self.locks.unlock_batch(group, client, [self.queue(n) for n in given_up])
        for number in given_up:
            if self.model.get((group, number), ("",))[0] == client:
                del self.model[group, number]

    @rule()
    def expire(self):
        self.locks.expire(self.now)

    @invariant()
    def groups_are_orderly_while_somebody_holds_a_lock(self):
        for group in ("g1", "g2"):
            live = [
                since for (owner, _), (_, since) in self.model.items()
                if owner == group and self.now - since <= LOCK_MAX_LIVE_S
            ]  # fmt: skip
            assert self.locks.group_is_locked(group, self.now) == bool(live)


class Waiting(RuleBasedStateMachine):
    """No pull is lost, answered twice or left waiting for a message that is there."""

    def __init__(self):
        super().__init__()
        self.ends = {}
        self.watched = {}
        self.table = LongPollTable(self.watch)
        self.waiting = []
        self.now = 0.0

    def watch(self, topic, queue_id, on):
        end = self.ends.get((topic, queue_id), 0)
        if on:
            self.watched[topic, queue_id] = end
        else:
            self.watched.pop((topic, queue_id), None)
        return end

    @rule(queue=queues, peer=some.integers(1, 3), ahead=some.integers(-1, 3), timeout=some.floats(0, 20))
    def pull(self, queue, peer, ahead, timeout):
        offset = self.ends.get(("t", queue), 0) + ahead
        pull = HeldPull("t", queue, offset, self.now + timeout, peer, None)
        held = self.table.hold(pull)
        assert held == (ahead >= 0)
        if held:
            self.waiting.append(pull)

    @rule(queue=queues, count=some.integers(1, 3))
    def messages_come(self, queue, count):
        key = "t", queue
        self.ends[key] = self.ends.get(key, 0) + count
        if key in self.watched:
            # the store tells once, and forgets that it was asked
            del self.watched[key]
            self.answered(self.table.take_moved("t", queue, self.ends[key]))

    @rule(step=some.floats(0, 10))
    def time_passes(self, step):
        self.now += step
        due = self.table.take_due(self.now)
        assert {id(pull) for pull in due} == {id(pull) for pull in self.waiting if pull.deadline <= self.now}
        self.answered(due)

    @rule(peer=some.integers(1, 3))
    def connection_closes(self, peer):
        gone = [pull for pull in self.waiting if pull.peer_id == peer]
        assert self.table.drop_peer(peer) == len(gone)
        self.answered(gone)

    @rule()
    def broker_stops(self):
        self.answered(self.table.take_all())
        assert self.waiting == []

    def answered(self, pulls):
        for pull in pulls:
            self.waiting.remove(pull)
            assert not pull.waiting

    @invariant()
    def nobody_waits_for_what_is_there(self):
        assert len(self.table) == len(self.waiting)
        for pull in self.waiting:
            assert pull.offset >= self.ends.get(("t", pull.queue_id), 0)
            assert ("t", pull.queue_id) in self.watched
        assert self.table.next_deadline() == min((pull.deadline for pull in self.waiting), default=None)


class Offsets(RuleBasedStateMachine):
    """What was committed is found, a reset goes out once, a restart keeps the committed offsets."""

    def __init__(self):
        super().__init__()
        self.table = ConsumerOffsetTable(None, config=lambda: dataclasses.replace(BrokerConfig()), wall_ms=lambda: 1)
        self.committed = {}
        self.reset = {}

    keys = some.tuples(groups, some.sampled_from(["t1", "%RETRY%g1"]), queues)

    @rule(key=keys, offset=some.integers(0, 1 << 62))
    def commit(self, key, offset):
        self.table.commit(*key, offset)
        self.committed[key] = offset

    @rule(key=keys, offset=some.integers(0, 1 << 62))
    def assign_reset(self, key, offset):
        self.table.assign_reset(*key, offset)
        self.committed[key] = self.reset[key] = offset

    @rule(key=keys)
    def take_reset(self, key):
        assert self.table.take_reset(*key) == self.reset.pop(key, None)

    @rule(group=groups)
    def delete_group(self, group):
        self.table.delete_group(group)
        for table in (self.committed, self.reset):
            for key in [key for key in table if key[0] == group]:
                del table[key]

    @invariant()
    def tables_agree(self):
        for group in ("g1", "g2"):
            mine = {key: offset for key, offset in self.committed.items() if key[0] == group}
            assert self.table.topics_of_group(group) == {key[1] for key in mine}
        for key, offset in self.committed.items():
            assert self.table.query(*key) == self.reset.get(key, offset)
            assert self.table.has_reset(*key) == (key in self.reset)


class Sessions(RuleBasedStateMachine):
    """Members are those that said so and are still connected; whoever is left hears of every change."""

    def __init__(self):
        super().__init__()
        self.sessions = ClientSessions(lambda group, channels: self.told.append((group, len(channels))))
        self.told = []
        self.members = {}
        self.topics = {}
        self.producers = set()

    def channel(self, number):
        return ClientChannel(f"c{number}", FakePeer(number), "JAVA", 479, 0, 0.0)

    @rule(group=groups, number=some.integers(1, 3), topics=some.sets(some.sampled_from(["t1", "t2"]), min_size=1))
    def heartbeat(self, group, number, topics):
        heartbeat = ConsumerHeartbeat(
            group=group,
            consume_type=ConsumeType.CONSUME_PASSIVELY,
            message_model=MessageModel.CLUSTERING,
            consume_from_where=ConsumeFromWhere.CONSUME_FROM_LAST_OFFSET,
            subscriptions=tuple(SubscriptionData.from_expression(topic, "*") for topic in sorted(topics)),
        )
        changed = number not in self.members.get(group, set()) or self.topics.get(group) != topics
        self.told.clear()
        assert self.sessions.register_consumer(heartbeat, self.channel(number)) == changed
        self.members.setdefault(group, set()).add(number)
        self.topics[group] = topics
        assert self.told == ([(group, len(self.members[group]))] if changed else [])

    @rule(group=groups, number=some.integers(1, 3))
    def produce(self, group, number):
        self.sessions.register_producer(group, self.channel(number))
        self.producers.add((group, number))

    @rule(group=groups, number=some.integers(1, 3))
    def leave(self, group, number):
        self.told.clear()
        self.sessions.unregister(number, consumer_group=group)
        assert len(self.told) == (number in self.members.get(group, ()))
        self.forget(group, number)

    @rule(number=some.integers(1, 3))
    def close(self, number):
        self.told.clear()
        self.sessions.closed(number)
        assert len(self.told) == sum(number in members for members in self.members.values())
        for group in list(self.members):
            self.forget(group, number)
        self.producers = {entry for entry in self.producers if entry[1] != number}

    def forget(self, group, number):
        members = self.members.get(group, set())
        members.discard(number)
        if not members:
            self.members.pop(group, None)
            self.topics.pop(group, None)

    @precondition(lambda self: self.members)
    @invariant()
    def members_agree(self):
        found = {info.group: set(info.channels) for info in self.sessions.consumer_groups()}
        assert found == self.members
        for group, topics in self.topics.items():
            assert set(self.sessions.consumer_group(group).subscriptions) == topics

    @invariant()
    def producers_agree(self):
        found = {(g, c.peer.id) for g, channels in self.sessions.producer_groups().items() for c in channels}
        assert found == self.producers


TestLocks = Locks.TestCase
TestWaiting = Waiting.TestCase
TestOffsets = Offsets.TestCase
TestSessions = Sessions.TestCase
TestLocks.settings = TestWaiting.settings = TestOffsets.settings = TestSessions.settings = FEW
