"""The route tables, rule by rule: what clients find after brokers came, changed, fell silent and went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from fastmq.nameserver.routes import Member, Registered, Registration, RouteTables, only_zone
from fastmq.protocol.bodies import DataVersion, QueueData, TopicConfig, TopicRouteData

V1 = DataVersion(0, 1000, 1)
V2 = DataVersion(0, 2000, 2)


def topics(*names: str, perm: int = 6, queues: int = 4, flags: int = 0) -> dict[str, TopicConfig]:
    return {name: TopicConfig(name, queues, queues, perm, topic_sys_flag=flags) for name in names}


class Tables(RouteTables):
    """Route tables with a short way to register."""

    def add(
        self,
        name: str = "a",
        broker_id: int = 0,
        *,
        address: str | None = None,
        now: int = 0,
        delete_unnamed: bool = False,
        table: Mapping[str, TopicConfig] | None = None,
        **more: Any,
    ) -> Registered:
        address = address or f"{name}-{broker_id}:10911"
        facts: dict[str, Any] = {
            "cluster": "C", "name": name, "broker_id": broker_id, "address": address, "ha_address": f"{address}0",
            "connection": 1, "version": V1, "topics": topics("t", "u") if table is None else table,
        }  # fmt: skip
        return self.register(Registration(**(facts | more)), now, delete_unnamed=delete_unnamed)

    def found(self, topic: str, **more: Any) -> TopicRouteData:
        route = self.route(topic, **more)
        assert route is not None, f"no route to {topic}"
        return route

    def addresses(self, topic: str, **more: Any) -> dict[str, Mapping[int, str]]:
        return {broker.broker_name: broker.broker_addrs for broker in self.found(topic, **more).broker_datas}

    def perms(self, topic: str) -> dict[str, int]:
        return {queue.broker_name: queue.perm for queue in self.found(topic).queue_datas}


@pytest.fixture
def tables() -> Tables:
    return Tables()


def member(name: str, broker_id: int, address: str | None = None) -> Member:
    return Member("C", address or f"{name}-{broker_id}:10911", name, broker_id)


# --- registering ---------------------------------------------------------------------------------------------------


def test_a_topic_is_found_on_every_broker_that_has_it(tables: Tables) -> None:
    tables.add("a", table=topics("t", "only-a", queues=4))
    tables.add("b", table=topics("t", "only-b", queues=8, perm=4))
    route = tables.found("t")
    assert tables.addresses("t") == {"a": {0: "a-0:10911"}, "b": {0: "b-0:10911"}}
    assert [(q.broker_name, q.read_queue_nums, q.perm) for q in route.queue_datas] == [("a", 4, 6), ("b", 8, 4)]
    assert list(tables.addresses("only-a")) == ["a"]
    assert tables.route("nowhere") is None


def test_a_first_registration_with_one_topic_is_refused_and_leaves_no_trace(tables: Tables) -> None:
    assert not tables.add(table=topics("t")).accepted
    assert tables.brokers() == {}
    assert tables.clusters() == {}
    assert tables.add(table=topics("t", "u")).accepted
    assert tables.add(table=topics("v"), version=V2).accepted, "an increment of a known broker"
    assert tables.topics() == ["t", "u", "v"]
    assert not tables.add(broker_id=1, table=topics("t")).accepted, "a replica has to send its whole table too"


def test_a_changed_topic_counts_only_with_a_new_data_version(tables: Tables) -> None:
    tables.add(table=topics("t", "u", queues=4))
    tables.add(table=topics("t", "new", queues=9))
    assert tables.found("t").queue_datas[0].read_queue_nums == 4
    assert tables.found("new").queue_datas[0].read_queue_nums == 9, "a topic without entry is always taken"
    tables.add(table=topics("t", "u", queues=9), version=V2)
    assert tables.found("t").queue_datas[0].read_queue_nums == 9


def test_topics_a_registration_does_not_name_stay_unless_told_otherwise(tables: Tables) -> None:
    tables.add(table=topics("t", "u"))
    tables.add("b", table=topics("u", "w"))
    tables.add(table=topics("t", "v"), version=V2)
    assert tables.topics() == ["t", "u", "w", "v"]
    tables.add(table=topics("t", "v"), version=V2, delete_unnamed=True)
    assert tables.topics() == ["t", "u", "w", "v"]
    assert list(tables.addresses("u")) == ["b"], "only this broker's part of it"


def test_a_replica_shows_up_under_its_id_and_learns_the_master(tables: Tables) -> None:
    alone = tables.add(broker_id=1)
    assert (alone.master_address, alone.master_ha_address) == (None, None)
    assert tables.route("t") is None, "topics come from masters"
    tables.add(broker_id=0)
    answer = tables.add(broker_id=1)
    assert (answer.master_address, answer.master_ha_address) == ("a-0:10911", "a-0:109110")
    assert tables.addresses("t") == {"a": {0: "a-0:10911", 1: "a-1:10911"}}


def test_a_broker_that_moved_replaces_its_old_address(tables: Tables) -> None:
    tables.add(address="old:1")
    tables.add(address="new:1", now=1)
    assert tables.addresses("t") == {"a": {0: "new:1"}}
    # the silence of the old address does not take the new one down
    late, _ = tables.expired(120_001)
    assert [m.address for m in late] == ["old:1"]
    tables.unregister(late)
    assert tables.addresses("t") == {"a": {0: "new:1"}}


def test_a_broker_that_changed_its_role_keeps_one_id(tables: Tables) -> None:
    tables.add(broker_id=0, address="x:1")
    tables.add(broker_id=1, address="y:1")
    tables.add(broker_id=0, address="y:1", version=V2)
    assert tables.addresses("t") == {"a": {0: "y:1"}}


def test_a_broker_that_comes_back_under_another_name_leaves_the_old_one_with_its_old_connection(tables: Tables) -> None:
    tables.add("b", address="y:1")
    tables.add("old", address="x:1", connection=5)
    tables.add("a", address="x:1", connection=6)
    tables.unregister(tables.members_on(5))
    assert tables.addresses("t") == {"b": {0: "y:1"}, "a": {0: "x:1"}}
    assert tables.clusters() == {"C": ["b", "a"]}
    tables.unregister(tables.members_on(6))
    assert tables.addresses("t") == {"b": {0: "y:1"}}


def test_a_broker_that_comes_back_in_another_cluster_leaves_nothing_in_the_old_one(tables: Tables) -> None:
    tables.add("b", address="y:1")
    tables.add("a", address="x:1", cluster="D", connection=5)
    tables.add("a", address="x:1", connection=6)
    assert tables.brokers()["a"].cluster == "C"
    assert tables.clusters() == {"C": ["b", "a"]}
    tables.unregister(tables.members_on(5))
    assert tables.addresses("t") == {"b": {0: "y:1"}, "a": {0: "x:1"}}
    tables.unregister(tables.members_on(6))
    assert tables.addresses("t") == {"b": {0: "y:1"}}
    assert tables.clusters() == {"C": ["b"]}


def test_brokers_of_two_clusters_under_one_name_leave_one_by_one(tables: Tables) -> None:
    """A mistake, which harms routes as long as it lasts and no longer."""
    tables.add("a", address="x:1", cluster="C", connection=5)
    tables.add("a", 1, address="z:1", cluster="D", connection=6)
    tables.unregister(tables.members_on(6))
    assert tables.addresses("t") == {"a": {0: "x:1"}}
    tables.unregister(tables.members_on(5))
    assert (tables.topics(), tables.brokers(), tables.clusters()) == ([], {}, {})


def test_a_master_of_an_older_epoch_does_not_get_its_id_back(tables: Tables) -> None:
    tables.add(address="new:1", version=DataVersion(2, 0, 0))
    assert tables.add(address="old:1", version=DataVersion(1, 9, 9)).accepted, "it is told nothing is wrong"
    assert tables.addresses("t") == {"a": {0: "new:1"}}
    assert tables.version_of("C", "old:1", "a") is None


# --- falling silent and leaving ------------------------------------------------------------------------------------


def test_a_silent_broker_expires_after_its_own_time(tables: Tables) -> None:
    tables.add("a", now=0)
    tables.add("b", now=0, timeout_ms=500, connection=7)
    assert tables.expired(500) == ([], [])
    late, connections = tables.expired(501)
    assert (late, connections) == ([member("b", 0)], [7])
    assert tables.touch("C", "b-0:10911", "b", 600)
    assert tables.expired(1100)[0] == []
    assert tables.expired(120_000)[0] == [member("b", 0)]
    assert {m.name for m in tables.expired(120_001)[0]} == {"a", "b"}
    assert not tables.touch("C", "unknown:1", "b", 0)


def test_the_silence_of_one_broker_does_not_close_the_connection_of_another(tables: Tables) -> None:
    tables.add("a", connection=5, now=0)
    tables.add("b", connection=5, now=0, timeout_ms=500)
    tables.add("c", connection=6, now=0, timeout_ms=500)
    assert tables.expired(501) == ([member("b", 0), member("c", 0)], [6])


def test_the_last_address_takes_the_broker_and_its_topics_along(tables: Tables) -> None:
    tables.add("a", table=topics("t", "only-a"))
    tables.add("a", 1)
    tables.add("b", table=topics("t", "only-b"))
    tables.unregister([member("a", 0)])
    assert tables.addresses("t") == {"a": {1: "a-1:10911"}, "b": {0: "b-0:10911"}}
    tables.unregister([member("a", 1)])
    assert tables.topics() == ["t", "only-b"]
    assert tables.clusters() == {"C": ["b"]}
    tables.unregister([member("b", 0), member("never", 0)])
    assert tables.topics() == []
    assert tables.clusters() == {}
    assert tables.brokers() == {}


def test_a_closed_connection_names_the_brokers_that_registered_on_it_last(tables: Tables) -> None:
    tables.add("a", connection=1)
    tables.add("b", connection=1)
    tables.add("b", connection=2)
    assert tables.members_on(1) == [member("a", 0)]
    assert tables.members_on(2) == [member("b", 0)]
    assert tables.members_on(3) == []


def test_an_unregistration_of_an_address_that_moved_changes_nothing(tables: Tables) -> None:
    tables.add(address="old:1")
    tables.add(address="new:1")
    assert tables.unregister([member("a", 0, "old:1")]) == []
    assert tables.addresses("t") == {"a": {0: "new:1"}}


# --- acting master -------------------------------------------------------------------------------------------------


def test_without_its_master_a_group_is_read_through_the_smallest_id(tables: Tables) -> None:
    for broker_id in (0, 1, 2):
        tables.add(broker_id=broker_id, acting_master=True)
    tables.unregister([member("a", 0)])
    assert tables.perms("t") == {"a": 4}, "nobody may write"
    assert tables.addresses("t") == {"a": {1: "a-1:10911", 2: "a-2:10911"}}
    assert tables.addresses("t", acting_master=True) == {"a": {0: "a-1:10911", 2: "a-2:10911"}}
    tables.add(broker_id=0, acting_master=True, version=V2)
    assert tables.perms("t") == {"a": 6}
    assert tables.addresses("t", acting_master=True)["a"][0] == "a-0:10911"


def test_a_group_that_does_not_know_of_acting_masters_stays_as_it_is(tables: Tables) -> None:
    tables.add(broker_id=0)
    tables.add(broker_id=1)
    tables.unregister([member("a", 0)])
    assert tables.perms("t") == {"a": 6}
    assert tables.addresses("t", acting_master=True) == {"a": {1: "a-1:10911"}}


def test_the_smallest_replica_of_a_5x_group_brings_topics_read_only(tables: Tables) -> None:
    tables.add(broker_id=1, acting_master=True)
    assert tables.perms("t") == {"a": 4}
    tables.add("b", broker_id=1, acting_master=False)
    assert tables.perms("t") == {"a": 4, "b": 6}, "the field alone tells a 5.x broker"
    tables.add(broker_id=2, acting_master=True, table=topics("x", "y"))
    assert tables.route("x") is None, "not the smallest"


def test_the_members_topic_shows_real_ids(tables: Tables) -> None:
    name = "rmq_sys_SYNC_BROKER_MEMBER_a"
    tables.add(broker_id=1, acting_master=True, table=topics(name, "t"))
    assert tables.addresses(name, acting_master=True) == {"a": {1: "a-1:10911"}}


def test_those_who_stay_are_told_of_a_new_smallest_id(tables: Tables) -> None:
    tables.add(broker_id=1)
    tables.add(broker_id=2)
    (change,) = tables.add(broker_id=0).changes
    assert (change.min_broker_id, change.min_broker_address, change.offline_address) == (0, "a-0:10911", None)
    assert change.ha_address == "a-0:109110"
    assert change.notify == ("a-1:10911", "a-2:10911")
    (change,) = tables.unregister([member("a", 0)])
    assert (change.min_broker_id, change.offline_address) == (1, "a-0:10911")
    assert change.notify == ("a-1:10911", "a-2:10911")
    assert tables.unregister([member("a", 2)]) == [], "it was not the smallest"
    assert tables.unregister([member("a", 1)]) == [], "nobody is left to be told"


# --- zones ---------------------------------------------------------------------------------------------------------


def test_a_zone_hides_masters_of_other_zones_but_no_orphans(tables: Tables) -> None:
    tables.add("here", zone="z1", filter_servers=["f:1"])
    tables.add("there", zone="z2", filter_servers=["f:2"])
    tables.add("orphan", 1, zone="z2", acting_master=True)
    route = only_zone(tables.found("t"), "Z1")
    assert [broker.broker_name for broker in route.broker_datas] == ["here", "orphan"]
    assert [queue.broker_name for queue in route.queue_datas] == ["here", "orphan"]
    assert route.filter_server_table == {"here-0:10911": ["f:1"]}


# --- permissions and topics by hand --------------------------------------------------------------------------------


def test_a_wiped_broker_takes_no_messages_until_it_registers_a_change(tables: Tables) -> None:
    tables.add("a")
    tables.add("b")
    assert tables.wipe_write_permission("a") == 2
    assert tables.perms("t") == {"a": 4, "b": 6}
    tables.add("a")
    assert tables.perms("t") == {"a": 4, "b": 6}, "an unchanged registration does not bring it back"
    tables.add("a", version=V2)
    assert tables.perms("t") == {"a": 6, "b": 6}
    tables.wipe_write_permission("a")
    assert tables.add_write_permission("a") == 2
    assert tables.perms("t") == {"a": 6, "b": 6}
    assert tables.wipe_write_permission("unknown") == 0


def test_a_topic_is_deleted_everywhere_or_in_one_cluster(tables: Tables) -> None:
    tables.add("a")
    tables.add("b", cluster="D")
    tables.delete_topic("t", "D")
    assert list(tables.addresses("t")) == ["a"]
    tables.delete_topic("t", "unknown")
    tables.delete_topic("t")
    assert tables.route("t") is None
    tables.delete_topic("t")


def test_a_topic_can_be_set_for_known_brokers_only(tables: Tables) -> None:
    tables.add("a")
    queues = QueueData(broker_name="a", read_queue_nums=1, write_queue_nums=1, perm=6)
    stranger = QueueData(broker_name="stranger", read_queue_nums=1, write_queue_nums=1, perm=6)
    tables.put_topic("made", [queues])
    assert tables.addresses("made") == {"a": {0: "a-0:10911"}}
    tables.put_topic("other", [queues, stranger])
    assert tables.route("other") is None


def test_static_mappings_travel_with_the_route(tables: Tables) -> None:
    mapping = {"bname": "a", "topic": "t", "totalQueues": 4}
    tables.add(mappings={"t": mapping})
    assert tables.found("t").topic_queue_mapping_by_broker == {"a": mapping}
    assert tables.found("u").topic_queue_mapping_by_broker is None


# --- lists ---------------------------------------------------------------------------------------------------------


def test_lists_of_topics(tables: Tables) -> None:
    tables.add("a", table=topics("unit", "both", flags=1) | topics("both", flags=3) | topics("sub", flags=2))
    tables.add("b", cluster="D", table=topics("plain", "sub", flags=2) | topics("plain"))
    assert tables.topics_of_cluster("C") == ["unit", "both", "sub"]
    assert tables.topics_of_cluster("D") == ["sub", "plain"]
    assert tables.topics_of_cluster("E") == []
    assert tables.topics_by_flags(needed=1) == ["unit", "both"]
    assert tables.topics_by_flags(needed=2) == ["both", "sub"]
    assert tables.topics_by_flags(needed=2, absent=1) == ["sub"]
    assert tables.system_topics() == (["C", "a", "D", "b"], "a-0:10911")
    assert RouteTables().system_topics() == ([], None)
    assert tables.member_addresses("a") == {0: "a-0:10911"}
    assert tables.member_addresses("x") == {}
    assert tables.statistics() == {"topics": 4, "brokers": 2, "clusters": 2}


def test_a_route_given_out_does_not_change_any_more(tables: Tables) -> None:
    tables.add()
    before = tables.found("t")
    tables.add(broker_id=1)
    tables.wipe_write_permission("a")
    assert dict(before.broker_datas[0].broker_addrs) == {0: "a-0:10911"}
    assert before.queue_datas[0].perm == 6
