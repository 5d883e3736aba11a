"""The client's decisions: routes, choice of queue, strategies, window, names, packing, signing, message ids."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime

import pytest

from fastmq.client import namespace
from fastmq.client.acl import Credentials, signature
from fastmq.client.compress import Compression, CorruptBody, compress, decompress
from fastmq.client.latency import Latencies
from fastmq.client.messages import Message, ReceivedMessage, UniqueKeys, decode_page
from fastmq.client.prepared import Preparer, _is_plain, properties_text
from fastmq.client.rebalance import (
    averagely,
    averagely_by_circle,
    by_config,
    by_machine_room,
    consistent_hash,
    near_machine_room,
)
from fastmq.client.routes import NameServers, Route, RouteTable, borrow_route, make_route
from fastmq.client.session import Session
from fastmq.client.subscriptions import Filter, read_topics, subscription, takes
from fastmq.client.window import FlowLimits, Window
from fastmq.clock import ManualClock
from fastmq.errors import ProtocolError, UsageError
from fastmq.protocol import message as m
from fastmq.protocol.bodies import BrokerData, MessageQueue, QueueData, TopicRouteData
from fastmq.protocol.command import Command, encode_frame


def queues(count: int, broker: str = "a") -> list[MessageQueue]:
    return [MessageQueue("t", broker, index) for index in range(count)]


# --- strategies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [averagely, averagely_by_circle, consistent_hash()])
@pytest.mark.parametrize(("queue_count", "client_count"), [(0, 1), (1, 3), (4, 1), (7, 3), (8, 4), (16, 5)])
def test_every_queue_has_one_owner(strategy, queue_count, client_count) -> None:  # type: ignore[no-untyped-def]
    clients = [f"c{index}" for index in range(client_count)]
    all_queues = queues(queue_count)
    shares = [strategy("g", client, all_queues, clients) for client in clients]
    assert sorted(queue for share in shares for queue in share) == all_queues


def test_averagely_gives_neighbours() -> None:
    clients = ["c0", "c1", "c2"]
    ids = [[queue.queue_id for queue in averagely("g", one, queues(8), clients)] for one in clients]
    assert ids == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_client_that_is_not_in_the_list_gets_nothing() -> None:
    for strategy in (averagely, averagely_by_circle, consistent_hash(), by_machine_room({"r"})):
        assert strategy("g", "me", queues(4), ["other"]) == []


def test_consistent_hash_moves_few_queues() -> None:
    strategy = consistent_hash(100)
    before = {queue: one for one in ("a", "b", "c") for queue in strategy("g", one, queues(60), ["a", "b", "c"])}
    after = {queue: one for one in ("a", "b") for queue in strategy("g", one, queues(60), ["a", "b"])}
    assert all(after[queue] == owner for queue, owner in before.items() if owner != "c")


def test_config_and_machine_rooms() -> None:
    assert by_config(queues(9)[7:])("g", "c", queues(8), ["c"]) == queues(8)[7:]
    near = queues(5, "r1@b")
    far = queues(3, "r2@b")
    shares = [by_machine_room({"r1"})("g", one, far + near, ["c0", "c1"]) for one in ("c0", "c1")]
    assert sorted(shares[0] + shares[1]) == near
    assert [len(share) for share in shares] == [3, 2]


def test_queues_stay_in_their_room_and_orphans_are_shared() -> None:
    strategy = near_machine_room(averagely, lambda broker: broker[0], lambda client: client[0])
    all_queues = sorted(queues(2, "x1") + queues(2, "y1") + queues(2, "z1"))
    shares = {one: strategy("g", one, all_queues, ["x-c", "y-c"]) for one in ("x-c", "y-c")}
    assert {queue.broker_name for queue in shares["x-c"]} == {"x1", "z1"}
    assert sorted(shares["x-c"] + shares["y-c"]) == all_queues


# --- window ----------------------------------------------------------------------------------------------------------


def received(offset: int, size: int = 10, **more: object) -> ReceivedMessage:
    return ReceivedMessage.from_stored(
        m.StoredMessage(topic="t", body=b"x" * size, queue_offset=offset, **more),
        "a",  # type: ignore[arg-type]
    )


def test_only_what_is_done_without_a_gap_may_be_committed() -> None:
    window = Window(5)
    assert window.commit_offset == 5
    window.add([received(5), received(6), received(9)], 10)
    assert window.commit_offset == 5
    assert window.done(6)
    assert not window.done(6)
    assert window.commit_offset == 5
    window.done(5)
    assert (window.commit_offset, window.first, window.last) == (9, 9, 9)
    window.done(9)
    assert (window.commit_offset, len(window), window.size) == (10, 0, 0)
    window.add([], 20)
    assert window.commit_offset == 20


def test_done_through_and_the_limits() -> None:
    window = Window(0)
    window.add([received(offset) for offset in range(4)], 4)
    window.done_through(2)
    assert window.commit_offset == 3
    limits = FlowLimits(count=3, size=1 << 30, span=10)
    assert not window.is_full(limits)
    window.add([received(4), received(5)], 6)
    assert window.is_full(limits)
    window.done_through(5)
    window.add([received(6), received(16)], 17)
    assert window.is_full(limits), "the span counts too"
    assert window.is_full(FlowLimits(size=100))


# --- routes ----------------------------------------------------------------------------------------------------------


def route_data(*, master: bool = True, perm: int = 6, order: str | None = None) -> TopicRouteData:
    return TopicRouteData(
        queue_datas=(
            QueueData(broker_name="b", read_queue_nums=2, write_queue_nums=1, perm=6),
            QueueData(broker_name="a", read_queue_nums=1, write_queue_nums=2, perm=perm),
        ),
        broker_datas=(
            BrokerData(broker_name="a", cluster="c", broker_addrs={0 if master else 1: "1.1.1.1:1", 2: "1.1.1.2:1"}),
            BrokerData(broker_name="b", cluster="c", broker_addrs={0: "2.2.2.2:1"}),
        ),
        order_topic_conf=order,
    )


def test_queues_of_a_route() -> None:
    route = make_route("t", route_data(), 0)
    assert [(one.broker_name, one.queue_id) for one in route.write_queues] == [("a", 0), ("a", 1), ("b", 0)]
    assert [(one.broker_name, one.queue_id) for one in route.read_queues] == [("a", 0), ("b", 0), ("b", 1)]
    assert [one.broker_name for one in make_route("t", route_data(master=False), 0).write_queues] == ["b"]
    assert [one.broker_name for one in make_route("t", route_data(perm=4), 0).write_queues] == ["b"]
    ordered = make_route("t", route_data(order="a:1;z:2;"), 0)
    assert [(one.broker_name, one.queue_id) for one in ordered.write_queues] == [("a", 0), ("z", 0), ("z", 1)]


def test_addresses_and_changes() -> None:
    table = RouteTable()
    assert table.put(make_route("t", route_data(), 0))
    assert not table.put(make_route("t", route_data(), 7)), "only the time differs"
    assert table.address("a") == "1.1.1.1:1"
    assert table.address("a", 1) is None
    assert table.address("a", 1, any_other=True) == "1.1.1.1:1"
    assert table.address("x", any_other=True) is None
    assert table.name_of("1.1.1.2:1") == "a"
    assert set(table.broker_addresses(masters_only=True)) == {"1.1.1.1:1", "2.2.2.2:1"}
    assert len(table.broker_addresses(masters_only=False)) == 3


def test_a_borrowed_route_has_four_queues_at_most() -> None:
    default = Route("TBW102", tuple(MessageQueue("TBW102", "a", index) for index in range(8)), (), {"a": {0: "h:1"}})
    route = borrow_route("new", default, 1.0)
    assert [(one.topic, one.queue_id) for one in route.write_queues] == [("new", index) for index in range(4)]
    assert route.provisional


def test_the_next_name_server_has_its_turn() -> None:
    servers = NameServers(["a:1", "b:1", "a:1"])
    assert servers.addresses == ["a:1", "b:1"]
    servers.failed("b:1")
    assert servers.addresses[0] == "a:1"
    servers.failed("a:1")
    assert servers.addresses == ["b:1", "a:1"]
    servers.replace(["c:1", "b:1"])
    assert servers.addresses[0] == "b:1"


# --- which queue -----------------------------------------------------------------------------------------------------


def test_slow_brokers_are_left_alone_for_a_while() -> None:
    both = [*queues(1, "a"), *queues(1, "b")]
    latencies = Latencies()
    assert [latencies.choose(both, turn, 0.0).broker_name for turn in range(3)] == ["a", "b", "a"]
    latencies.record("a", 0.6, now=100.0)
    assert {latencies.choose(both, turn, 101.0).broker_name for turn in range(4)} == {"b"}
    assert {latencies.choose(both, turn, 102.1).broker_name for turn in range(4)} == {"a", "b"}
    latencies.record_failure("b", 110.0)
    latencies.record("b", 0.01, 111.0)
    assert latencies.is_available("b", 111.0), "a quick answer makes good"


def test_avoided_brokers_are_taken_only_in_need() -> None:
    both = [*queues(2, "a"), *queues(1, "b")]
    latencies = Latencies()
    assert {latencies.choose(both, turn, 0.0, {"a"}.__contains__).broker_name for turn in range(4)} == {"b"}
    assert latencies.choose(queues(2), 1, 0.0, {"a"}.__contains__) == queues(2)[1]
    latencies.record_failure("b", 0.0)
    assert latencies.choose(both, 0, 1.0, {"a"}.__contains__).broker_name == "b"


# --- messages --------------------------------------------------------------------------------------------------------


def test_properties_of_a_message() -> None:
    message = Message("t", "é", tag="a", keys=["k1", "k2"], properties={"p": "v"}, sharding_key="s", wait_stored=False)
    assert message.encoded_body() == "é".encode()
    assert message.wire_properties("ID") == {
        "p": "v", "UNIQ_KEY": "ID", "WAIT": "false", "TAGS": "a", "KEYS": "k1 k2", "__SHARDINGKEY": "s",
    }  # fmt: skip


def test_a_message_is_a_value() -> None:
    message = Message("t", b"x", "tag", flag=3)
    assert message == Message(topic="t", body=b"x", tag="tag", flag=3)
    assert hash(message) == hash(replace(message))
    assert replace(message, tag="other") == Message("t", b"x", "other", flag=3)
    assert pickle.loads(pickle.dumps(message)) == message
    assert "tag='tag'" in repr(message)
    with pytest.raises(FrozenInstanceError):
        message.topic = "u"  # type: ignore[misc]


def test_all_fields_of_a_message_can_be_given() -> None:
    values = {one.name: object() for one in fields(Message)}
    message = Message(**values)  # type: ignore[arg-type]
    assert {name: getattr(message, name) for name in values} == values


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ({}, True), ({"tag": "a"}, True), ({"tag": ""}, True), ({"wait_stored": False}, True), ({"flag": 9}, True),
        ({"tag": "é"}, False), ({"tag": "x" * 300}, False), ({"keys": "k"}, False), ({"properties": {"a": "b"}}, False),
        ({"sharding_key": ""}, False), ({"delay": 0}, False), ({"delay_level": 1}, False), ({"deliver_at": 7}, False),
    ],
)  # fmt: skip
def test_the_short_way_to_the_properties_comes_to_the_same(more, plain) -> None:  # type: ignore[no-untyped-def]
    message = Message("t", b"x", **more)
    assert _is_plain(message) is plain
    session = Session("127.0.0.1:1", clock=ManualClock())
    session.unique_keys = UniqueKeys("1.2.3.4", 77, 5)
    prepared = Preparer(session, "g", Compression.NONE, 4096, 4096).single(message)
    assert prepared.properties == properties_text(message.wire_properties(prepared.message_id))


@pytest.mark.parametrize(
    "more", [{"tag": "a\x02b"}, {"tag": "x" * 40_000}, {"keys": "\x02"}, {"flag": 1 << 31}, {"flag": "1"}]
)
def test_properties_that_cannot_be_sent(more) -> None:  # type: ignore[no-untyped-def]
    session = Session("127.0.0.1:1", clock=ManualClock())
    session.unique_keys = UniqueKeys("1.2.3.4", 77, 5)
    with pytest.raises(UsageError):
        Preparer(session, "g", Compression.NONE, 4096, 4096).single(Message("t", b"x", **more))


@pytest.mark.parametrize("body", [b"body", bytearray(b"body"), b"z" * 5000])
def test_the_frame_of_a_lane_is_the_frame_of_the_request(body) -> None:  # type: ignore[no-untyped-def]
    session = Session("127.0.0.1:1", clock=ManualClock(), namespace="ns")
    session.unique_keys = UniqueKeys("1.2.3.4", 77, 5)
    preparer = Preparer(session, 'g"', Compression.ZLIB, 4096, 1 << 20)
    prepared = preparer.single(Message("t", body, "tag", properties={"ä": '"'}, flag=-3))
    queue = MessageQueue("ns%t", "broker ä", 3)
    request = preparer.request(prepared, queue)
    request.opaque = 99
    lane = preparer.lane(prepared, queue)
    assert preparer.frame(prepared, lane, 99) == encode_frame(request)
    assert lane.queue == MessageQueue("t", "broker ä", 3)
    assert preparer.lane(prepared, queue) is lane


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"delay_level": 3}, {"DELAY": "3"}),
        ({"delay": 1.5}, {"TIMER_DELAY_MS": "1500"}),
        ({"deliver_at": 1_700_000_000}, {"TIMER_DELIVER_MS": "1700000000000"}),
        ({"deliver_at": datetime.fromtimestamp(1_700_000_000, UTC)}, {"TIMER_DELIVER_MS": "1700000000000"}),
    ],
)
def test_delays(fields, expected) -> None:  # type: ignore[no-untyped-def]
    properties = Message("t", b"x", **fields).wire_properties("ID")
    assert {name: value for name, value in properties.items() if name not in ("UNIQ_KEY", "WAIT")} == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"delay_level": 1, "delay": 1}, {"delay": -1}, {"delay_level": -1}, {"deliver_at": datetime(2026, 1, 1)},
        {"properties": {"UNIQ_KEY": "mine"}},
    ],
)  # fmt: skip
def test_what_a_message_cannot_have(fields) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        Message("t", b"x", **fields).wire_properties("ID")


def stored(**fields: object) -> m.StoredMessage:
    return m.StoredMessage(
        **{"topic": "ns%t", "body": b"body", "properties": b"UNIQ_KEY\x01id\x02TAGS\x01a\x02", "queue_offset": 7,
           "log_offset": 99, "queue_id": 3, "flag": 5, "born_timestamp": 11, "store_timestamp": 12,
           "reconsume_times": 2, "prepared_offset": 8, "born_host": ("1.2.3.4", 5), "store_host": ("5.6.7.8", 9),
           **fields}  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("host", [("5.6.7.8", 9), ("::1", 9)])
def test_a_page_is_read_as_protocol_message_reads_it(host) -> None:  # type: ignore[no-untyped-def]
    records = [stored(store_host=host), stored(topic="u" * 200, queue_offset=8), stored(properties=b"", body=b"")]
    page = b"".join(map(m.encode_message, records))
    messages = decode_page(page, "broker", "ns")
    for message, record in zip(messages, m.decode_messages(page), strict=True):
        reference = ReceivedMessage.from_stored(record, "broker", "ns")
        for name in (
            "topic", "queue", "queue_offset", "log_offset", "sys_flag", "flag", "born_timestamp", "store_timestamp",
            "reconsume_times", "prepared_offset", "stored_topic", "body", "properties", "message_id", "offset_id",
            "born_host", "store_host", "tag", "keys",
        ):  # fmt: skip
            assert getattr(message, name) == getattr(reference, name), name
    assert messages[0].topic == "t"


def test_a_page_that_is_cut_anywhere_is_refused() -> None:
    page = m.encode_message(stored())
    for length in range(1, len(page)):
        with pytest.raises(ProtocolError):
            decode_page(page[:length])


def test_message_ids_differ_and_have_the_form_of_rocketmq() -> None:
    keys = UniqueKeys("1.2.3.4", 77, 5)
    now_ms = 1_700_000_000_000
    made = [keys.next(now_ms + index // 1000) for index in range(50_000)]
    assert len(set(made)) == len(made)
    assert made[0] == m.create_unique_key("1.2.3.4", 77, now_ms, 1, 5)


# --- packing, signing, names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Compression.ZLIB, Compression.LZ4, Compression.ZSTD])
def test_bodies_are_packed_and_unpacked(kind: Compression) -> None:
    for module in {Compression.LZ4: "lz4", Compression.ZSTD: "zstandard"}.get(kind, "zlib").split():
        pytest.importorskip(module)
    body = b"fastmq " * 10_000
    packed, flag = compress(body, kind)
    assert len(packed) < len(body) / 10
    assert decompress(packed, flag) == body
    with pytest.raises(CorruptBody):
        decompress(packed[: len(packed) // 2], flag)
    with pytest.raises(CorruptBody):
        decompress(packed, flag, limit=1000)


def test_old_producers_leave_the_kind_out() -> None:
    packed, _ = compress(b"x" * 5000, Compression.ZLIB)
    assert decompress(packed, m.COMPRESSED_FLAG) == b"x" * 5000
    assert decompress(b"plain", 0) == b"plain"


def test_the_signature_of_the_worked_example() -> None:
    fields = {"a": "pg1", "b": "TopicTest", "e": "0", "m": "false", "topic": "x", "_zz": "9"}
    request = Command(10, ext=dict(fields), body=b"hello")
    Credentials("ak-demo", "sk-demo", "st-1").sign(request)
    assert request.ext["Signature"] == "10ghES8UOm7qiZn0C9iC0eUSEYM="
    assert signature("sk-demo", request.ext, b"hello") == request.ext["Signature"]
    assert "sk-demo" not in repr(Credentials("ak-demo", "sk-demo", "st-1"))


@pytest.mark.parametrize(
    ("name", "wire"),
    [("t", "ns%t"), ("ns%t", "ns%t"), ("%RETRY%g", "%RETRY%ns%g"), ("%DLQ%g", "%DLQ%ns%g"), ("TBW102", "TBW102")],
)
def test_namespaces(name: str, wire: str) -> None:
    assert namespace.wrap("ns", name) == wire
    assert namespace.wrap("ns", wire) == wire
    assert namespace.unwrap("ns", wire) == name.removeprefix("ns%")
    assert namespace.wrap("", name) == name


def test_filters() -> None:
    assert read_topics("t") == {"t": Filter()}
    assert read_topics({"t": "a || b"}) == {"t": Filter("a || b")}
    data = subscription("t", Filter("a || b"), 5)
    assert takes(data, received(1, properties=b"TAGS\x01b\x02"))
    assert not takes(data, received(1, properties=b"TAGS\x01c\x02"))
    assert not takes(data, received(1))
    with pytest.raises(UsageError):
        subscription("t", Filter("||"), 5)
