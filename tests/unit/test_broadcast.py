"""Offsets of broadcasting members that come through a proxy now and then."""

import pytest

from fastmq.broker.state import broadcast
from fastmq.broker.state.broadcast import BroadcastOffsets
from unit.broker_rig import FakePeer, Rig, consumer

PROXY = {"requestSource": 1, "proxyFrowardClientId": "c1"}


@pytest.fixture
def table():
    return BroadcastOffsets()


def begin(table, queue=0, *, asked=0, proxy=False, client="c1"):
    return table.begin_at("t", "g", client, queue, asked=asked, from_proxy=proxy, otherwise=lambda: 77)


def note(table, offset, queue=0, *, proxy=False, client="c1", now=0.0):
    table.note("t", "g", client, queue, offset, from_proxy=proxy, now=now)


def scan(table, now, *online):
    return table.scan(now, online=lambda _group, client: client in online, expire_s=120, expire_online_s=300)


def test_somebody_new_begins_where_he_asks_to(table):
    assert begin(table, asked=5) is None
    assert begin(table, asked=5, proxy=True) is None
    assert begin(table, asked=-1, proxy=True) == 77
    assert begin(table, asked=-1) is None


def test_a_member_that_goes_on_the_same_way_is_let_go(table):
    for proxy in (False, True):
        note(table, 5, proxy=proxy)
        assert begin(table, asked=9, proxy=proxy) is None
        assert begin(table, asked=2, proxy=proxy) is None


def test_a_member_that_comes_the_other_way_goes_on_where_it_was(table):
    note(table, 5)
    note(table, 8, queue=1)
    assert begin(table, asked=0, proxy=True) == 5
    note(table, 5, proxy=True)
    assert begin(table, asked=5, proxy=True) is None
    assert begin(table, 1, asked=0, proxy=True) == 8, "each queue by itself"
    note(table, 9, proxy=True)
    assert begin(table, asked=1) == 9
    assert begin(table, asked=-1, proxy=True) == 9


def test_offsets_only_grow(table):
    note(table, 5)
    note(table, 3)
    note(table, -1)
    assert begin(table, asked=0, proxy=True) == 5


def test_the_least_offset_of_all_members_counts(table):
    note(table, 5)
    note(table, 3, client="c2")
    note(table, 8, queue=1)
    assert scan(table, 1.0) == [("t", "g", 0, 3), ("t", "g", 1, 8)]


def test_silent_members_are_forgotten_later_if_they_are_connected(table):
    note(table, 5)
    note(table, 3, client="c2", now=100.0)
    assert scan(table, 119.0) == [("t", "g", 0, 3)]
    assert scan(table, 120.0, "c1") == [("t", "g", 0, 3)]
    assert len(table) == 2
    assert scan(table, 299.0, "c1") == [("t", "g", 0, 5)]
    assert len(table) == 1
    assert scan(table, 300.0, "c1") == [("t", "g", 0, 5)]
    assert (len(table), scan(table, 301.0)) == (0, [])


def test_members_have_a_bound(table, monkeypatch):
    monkeypatch.setattr(broadcast, "MEMBERS_MAX", 1)
    note(table, 5)
    note(table, 5, client="c2")
    assert len(table) == 1
    table.delete(topic="t")
    note(table, 5, client="c2")
    assert len(table) == 1
    table.delete(group="g")
    assert len(table) == 0


# --- pulls -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    for number in range(6):
        rig.send(body=b"%d" % number)
    rig.heartbeat("c1", consumerDataSet=[consumer(messageModel="BROADCASTING")])
    yield rig
    rig.close()


def offset_of(reply):
    """Where a pull was sent, None if it was served."""
    if reply.code == 0:
        return None
    assert (reply.code, reply.remark) == (21, "OFFSET_RESET")
    return int(reply.ext["nextBeginOffset"])


def test_a_member_changes_from_the_broker_to_a_proxy_and_back(rig):
    assert offset_of(rig.pull(offset=4)) is None
    proxy = FakePeer(9)
    assert offset_of(rig.pull(offset=-1, peer=proxy, **PROXY)) == 4
    assert offset_of(rig.pull(offset=4, peer=proxy, **PROXY)) is None
    assert offset_of(rig.pull(offset=5, peer=proxy, **PROXY)) is None
    assert offset_of(rig.pull(offset=4)) == 5
    assert offset_of(rig.pull(offset=5)) is None


def test_somebody_nobody_has_seen(rig):
    proxy = FakePeer(9)
    assert offset_of(rig.pull(offset=-1, peer=proxy, **PROXY)) == 0, "the queue is in memory from its start"
    assert offset_of(rig.pull(offset=3, peer=proxy, **PROXY)) is None
    rig.broker.commit_broadcast()
    assert rig.broker.offsets.query("cg@broadcast", "topic-a", 0) == 3
    rig.broker.broadcast.delete(group="cg")
    assert offset_of(rig.pull(offset=-1, peer=proxy, **PROXY)) == 3


def test_somebody_nobody_has_seen_begins_at_the_end_of_a_long_queue(rig):
    rig.broker.memory_bytes = 100
    assert offset_of(rig.pull(offset=-1, peer=FakePeer(9), **PROXY)) == 6


def test_an_offset_that_is_not_there_is_corrected_and_noted(rig):
    assert rig.pull(offset=99).ext["nextBeginOffset"] == "6"
    assert offset_of(rig.pull(offset=-1, peer=FakePeer(9), **PROXY)) == 6


def test_others_are_not_noted(rig):
    rig.pull(offset=4, peer=FakePeer(7))
    rig.heartbeat("c2", peer=FakePeer(8), consumerDataSet=[consumer("other")])
    rig.pull(offset=4, peer=FakePeer(8), group="other")
    assert len(rig.broker.broadcast) == 0
    rig.change(enable_broadcast_offset_store=False)
    rig.pull(offset=4)
    assert len(rig.broker.broadcast) == 0


def test_a_deleted_group_leaves_no_offsets(rig):
    rig.pull(offset=4)
    rig.broker.commit_broadcast()
    rig.broker.commit_broadcast()
    assert rig.broker.offsets.query("cg@broadcast", "topic-a", 0) == 4
    import trio

    async def delete():
        await rig.ask(207, {"groupName": "cg", "cleanOffset": True})

    rig.broker.save_consumer_offsets = trio.lowlevel.checkpoint
    trio.run(delete)
    assert len(rig.broker.broadcast) == 0
    assert rig.broker.offsets.query("cg@broadcast", "topic-a", 0) == -1
