"""Consumer offsets with real files: commits, resets, clones, deletions, pulls, saves, stops and crashes in any order.

The model is what the broker knows and what it last wrote. A crash goes back to the latter: what was committed in the
last flush interval is lost, never more, and no offset is ever one that nobody committed. What a tool did is written
before the tool is told. A reset goes to one pull and holds off commits until then.
"""

import copy
import tempfile
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fastmq.protocol.bodies import TopicConfig, loads_lenient
from fastmq.protocol.codes import RequestCode
from unit.broker_rig import Rig

GROUPS = ["g1", "g2"]
TOPICS = ["t1", "t2"]
MESSAGES = 5  # in each queue
QUEUES = 2

groups = some.sampled_from(GROUPS)
topics = some.sampled_from(TOPICS)
queues = some.integers(0, QUEUES - 1)
offsets = some.integers(0, MESSAGES)


class Model:
    """Two tables: (group, topic, queue) to offset."""

    def __init__(self):
        self.committed = {}
        self.reset = {}


class Offsets(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rig = Rig(Path(self.folder.name), timer_wheel_enable=False)  # 38 MB to copy at each crash
        for topic in TOPICS:
            self.make(topic)
        for group in GROUPS:
            self.rig.broker.groups.find_or_create(group)
        self.now = Model()
        self.written = Model()

    def teardown(self):
        self.rig.close()
        self.folder.cleanup()

    def make(self, topic):
        self.rig.broker.topics.put(TopicConfig(topic, QUEUES, QUEUES))
        for queue in range(QUEUES):
            for _ in range(MESSAGES):
                self.rig.send(topic, queue=queue)

    def ask(self, code, **ext):
        """What a handler answers, be it at once or later."""

        async def run():
            answer = self.rig.ask(code, ext)
            return await answer if hasattr(answer, "__await__") else answer

        return trio.run(run)

    def is_written(self):
        self.written = copy.deepcopy(self.now)

    # --- clients -----------------------------------------------------------------------------------------------------

    @rule(group=groups, topic=topics, queue=queues, offset=offsets)
    def commit(self, group, topic, queue, offset):
        """Lower offsets count, too; nothing counts while a reset waits."""
        reply = self.ask(
            RequestCode.UPDATE_CONSUMER_OFFSET,
            consumerGroup=group, topic=topic, queueId=queue, commitOffset=offset,
        )  # fmt: skip
        assert reply.code == 0
        if (group, topic, queue) not in self.now.reset:
            self.now.committed[group, topic, queue] = offset

    @rule(group=groups, topic=topics, queue=queues, offset=offsets, commit=some.none() | offsets)
    def pull(self, group, topic, queue, offset, commit):
        more = {} if commit is None else {"sysFlag": 4 | 1, "commitOffset": commit}
        reply = self.rig.pull(topic, queue=queue, offset=offset, group=group, **more)
        waiting = self.now.reset.pop((group, topic, queue), None)
        if waiting is not None:
            assert (reply.code, reply.remark) == (21, "OFFSET_RESET")
            assert reply.ext["nextBeginOffset"] == str(waiting)
        else:
            assert reply.remark != "OFFSET_RESET"
            if commit is not None:
                self.now.committed[group, topic, queue] = commit

    # --- tools -------------------------------------------------------------------------------------------------------

    @rule(group=groups, topic=topics, queue=queues, offset=offsets)
    def reset_one(self, group, topic, queue, offset):
        reply = self.ask(
            RequestCode.INVOKE_BROKER_TO_RESET_OFFSET,
            topic=topic, group=group, timestamp=0, isForce=True, queueId=queue, offset=offset,
        )  # fmt: skip
        assert reply.code == 0
        self.now.committed[group, topic, queue] = self.now.reset[group, topic, queue] = offset
        self.is_written()

    @rule(group=groups, topic=topics)
    def skip_all(self, group, topic):
        reply = self.ask(
            RequestCode.INVOKE_BROKER_TO_RESET_OFFSET, topic=topic, group=group, timestamp=-1, isForce=True, queueId=-1
        )
        assert reply.code == 0
        for queue in range(QUEUES):
            self.now.committed[group, topic, queue] = self.now.reset[group, topic, queue] = MESSAGES
        self.is_written()

    @rule(source=groups, dest=groups, topic=topics)
    def clone(self, source, dest, topic):
        reply = self.ask(RequestCode.CLONE_GROUP_OFFSET, srcGroup=source, destGroup=dest, topic=topic, offline=True)
        assert reply.code == 0
        mine = {key: offset for key, offset in self.now.committed.items() if key[:2] == (source, topic)}
        if mine and source != dest:
            for queue in range(QUEUES):
                self.now.committed.pop((dest, topic, queue), None)
            self.now.committed |= {(dest, topic, queue): offset for (_, _, queue), offset in mine.items()}
        self.is_written()

    @rule(group=groups, clean=some.booleans())
    def delete_group(self, group, clean):
        reply = self.ask(RequestCode.DELETE_SUBSCRIPTIONGROUP, groupName=group, cleanOffset=clean)
        assert reply.code == 0
        if clean:
            for table in (self.now.committed, self.now.reset):
                for key in [key for key in table if key[0] == group]:
                    del table[key]
            self.is_written()
        self.rig.broker.groups.find_or_create(group)

    @rule(topic=topics)
    def delete_topic(self, topic):
        """And make it anew: whoever had been on the old one begins at 0."""
        assert self.ask(RequestCode.DELETE_TOPIC_IN_BROKER, topic=topic).code == 0
        for table in (self.now.committed, self.now.reset):
            for key in [key for key in table if key[1] == topic]:
                del table[key]
        self.is_written()
        self.make(topic)

    # --- the broker --------------------------------------------------------------------------------------------------

    @rule()
    def the_flush_interval_ends(self):
        trio.run(self.rig.broker.save_consumer_offsets)
        self.is_written()

    @rule()
    def stop(self):
        self.rig.stop()
        self.is_written()

    @rule()
    def crash(self):
        self.rig.crash()
        self.now = copy.deepcopy(self.written)

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def clients_and_tools_are_told_the_same(self):
        table = self.rig.broker.offsets
        for group in GROUPS:
            assert table.topics_of_group(group) == {key[1] for key in self.now.committed if key[0] == group}
            for topic in TOPICS:
                for queue in range(QUEUES):
                    key = group, topic, queue
                    expected = self.now.reset.get(key, self.now.committed.get(key, -1))
                    assert table.query(*key) == expected
                    assert table.has_reset(*key) == (key in self.now.reset)

    @invariant()
    def the_correction_is_the_least_of_the_others(self):
        ext = {"compareGroup": "g1", "topic": "t1", "filterGroups": "g1"}
        told = loads_lenient(self.rig.ask(RequestCode.QUERY_CORRECTION_OFFSET, ext).body)["correctionOffsets"]
        for queue in range(QUEUES):
            others, own = (self.now.committed.get((group, "t1", queue)) for group in ("g2", "g1"))
            if own is not None and (others is None or others > own):
                others = (1 << 63) - 1
            assert told.get(str(queue)) == others


Offsets.TestCase.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
TestOffsets = Offsets.TestCase
