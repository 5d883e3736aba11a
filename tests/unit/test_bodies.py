from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Any

import pytest

from fastmq.errors import ProtocolError
from fastmq.protocol import bodies as b
from fastmq.protocol.bodies import MessageQueue, dumps, loads_lenient

QUEUE = MessageQueue("t", "broker-a", 0)
QUEUE_TEXT = '{"brokerName":"broker-a","queueId":0,"topic":"t"}'


class Colour(IntEnum):
    RED = 1


# --- writing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [1, 2.0, True, None], "none": None}, '{"b":1,"a":[1,2.0,true,null]}'),
        ("größe\x01\x1f\u2028", '"größe\\u0001\\u001F\\u2028"'),
        ({1: "a", 0: "b"}, '{"1":"a","0":"b"}'),
        ({QUEUE: 5}, "{" + QUEUE_TEXT + ":5}"),
        (b"\x00\xff", '"AP8="'),
        (Colour.RED, '"RED"'),
        ({Colour.RED: Colour.RED}, '{"RED":"RED"}'),
        ({3, 1, 2}, "[1,2,3]"),
        (b.MessageModel.CLUSTERING, '"CLUSTERING"'),
        ((), "[]"),
        ({}, "{}"),
    ],
)
def test_json_is_compact_and_in_fastjsons_dialect(value: Any, text: str) -> None:
    assert dumps(value) == text.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"), (-0.0, "-0.0"), (1.5, "1.5"), (0.016666666666666666, "0.016666666666666666"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"), (12345678.25, "1.234567825E7"), (-1e7, "-1.0E7"), (0.001, "0.001"), (0.0001, "1.0E-4"),
        (0.00012345, "1.2345E-4"), (-0.00012345, "-1.2345E-4"), (1e22, "1.0E22"), (1.5e300, "1.5E300"),
        (2e-9, "2.0E-9"),
        (1.7976931348623157e308, "1.7976931348623157E308"), (float("nan"), "null"), (float("inf"), "null"),
    ],
)  # fmt: skip
def test_numbers_look_as_java_prints_them(value: float, text: str) -> None:
    assert dumps(value).decode() == text


def test_integer_keys_can_be_bare() -> None:
    assert dumps({0: "a", 1: "b"}, int_keys_quoted=False) == b'{0:"a",1:"b"}'


def test_ascii_only_escapes_everything_else() -> None:
    assert dumps({"ä": "\U0001f600"}, ascii_only=True) == b'{"\\u00E4":"\\uD83D\\uDE00"}'


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert dumps("\ud83d") == b'"?"'


def test_what_has_no_json_form_is_refused() -> None:
    with pytest.raises(TypeError, match="object has no JSON form"):
        dumps([object()])


def test_a_map_of_queues() -> None:
    assert b.message_queue_map({QUEUE: 1, MessageQueue("t", "broker-a", 1): {"x": 2}}) == (
        "{" + QUEUE_TEXT + ":1," + QUEUE_TEXT.replace(":0", ":1") + ':{"x":2}}'
    )


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":1}', {"a": 1}),
        ('{0:"x",-1:"y"}', {"0": "x", "-1": "y"}),
        ("{a:1,'b':'it''s'}".replace("''", "\\'"), {"a": 1, "b": "it's"}),
        ("[1,2,]", [1, 2]),
        (' {"a" : [ ] , } ', {"a": []}),
        ("{" + QUEUE_TEXT + ":5}", {QUEUE_TEXT: 5}),
        ('{{"topic":"t","queueId":0,"brokerName":"broker-a"}:5}', {QUEUE_TEXT: 5}),
        ("{a:\"\\u00e4\\x41\\n\\v\\ud83d\\ude00\"}", {"a": "äA\n\v\U0001f600"}),
        ("{a:1.5e3,b:-2,c:+3,d:true,e:null,f:{}}", {"a": 1500.0, "b": -2, "c": 3, "d": True, "e": None, "f": {}}),
        (b'{a:"\xff"}', {"a": "\ufffd"}),
    ],
)  # fmt: skip
def test_fastjsons_dialect_is_read(text: str | bytes, value: Any) -> None:
    assert loads_lenient(text) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "{", "}", "{broken", "{a}", "{a:}", "{a:1", "{a:1 b:2}", "{,}", "[", "[1", "[1 2]", "[,1]", "'", '"abc',
     '"\\', '"\\q"', '"\\u12"', "'\\xg0'", "nul", "NaN", "[Infinity]", "{a:1}}", "1 2", "--1", "1e999x", "{a:1e999}",
     "{a:" + "9" * 500 + "}", "{[1]:2}", "{{a}:1}", "\x00"],
)  # fmt: skip
def test_garbage_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(b.JsonError, match="not JSON at character"):
        loads_lenient(text)


def test_a_json_error_is_both_a_protocol_and_a_value_error() -> None:
    assert issubclass(b.JsonError, ProtocolError)
    assert issubclass(b.JsonError, ValueError)


@pytest.mark.parametrize("opener", ["[", "{a:", "{{", '{"a":', "[[{a:"])
@pytest.mark.parametrize("times", [b.MAX_DEPTH + 2, 100_000])
def test_deep_nesting_is_refused(opener: str, times: int) -> None:
    with pytest.raises(b.JsonError):
        loads_lenient(opener * times)


@pytest.mark.parametrize("opener", ["{a:", '{"a":'])
def test_the_allowed_depth_is_read(opener: str) -> None:
    def nested(depth: int) -> str:
        return opener * depth + "1" + "}" * depth

    assert isinstance(loads_lenient(nested(b.MAX_DEPTH)), dict)
    with pytest.raises(b.JsonError, match="nested deeper than 64"):
        loads_lenient(nested(b.MAX_DEPTH + 2))


# --- heartbeats --------------------------------------------------------------------------------------------------


def test_a_java_heartbeat() -> None:
    beat = b.HeartbeatData(
        client_id="1.2.3.4@1",
        producer_data_set=(b.ProducerData("p"),),
        consumer_data_set=(
            b.ConsumerData(
                group_name="g",
                subscription_data_set=(b.SubscriptionData.from_expression("t", "TagA || TagB", sub_version=9),),
            ),
        ),
        heartbeat_fingerprint=5,
    )
    text = dumps(beat).decode()
    assert text == (
        '{"clientID":"1.2.3.4@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",'
        '"consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":['
        '{"classFilterMode":false,"codeSet":[2598919,2598920],"expressionType":"TAG","subString":"TagA || TagB",'
        '"subVersion":9,"tagsSet":["TagA","TagB"],"topic":"t"}],"unitMode":false}],"heartbeatFingerprint":5,'
        '"producerDataSet":[{"groupName":"p"}],"withoutSub":false}'
    )
    assert b.HeartbeatData.from_json(text) == beat


def test_a_cpp_heartbeat_has_ordinals_and_text_for_numbers() -> None:
    beat = b.HeartbeatData.from_json(
        b'{"clientID":"c","consumerDataSet":[{"groupName":"g","consumeType":0,"messageModel":0,"consumeFromWhere":4,'
        b'"subscriptionDataSet":[{"topic":"t","subString":"a||b","subVersion":"1795199252493"}]}]}\n'
    )
    (group,) = beat.consumer_data_set
    assert group.consume_type is b.ConsumeType.CONSUME_ACTIVELY
    assert group.message_model is b.MessageModel.BROADCASTING
    assert group.consume_from_where is b.ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET
    assert group.subscription_data_set[0].sub_version == 1795199252493
    assert group.subscription_data_set[0].tags_set == {"a", "b"}
    assert beat.producer_data_set == ()


def test_what_a_go_client_says_of_its_codes_is_not_trusted() -> None:
    subscription = b.SubscriptionData.from_json(
        '{"topic":"t","subString":"TagA","codeSet":["1"],"tagsSet":["x"],"expressionType":"TAG","subVersion":5}'
    )
    assert subscription.code_set == {2598919}
    assert subscription.tags_set == {"TagA"}


def test_unknown_enum_values_fall_back() -> None:
    group = b.ConsumerData.from_json({"groupName": "g", "consumeType": "BY_PIGEON", "messageModel": 17})
    assert group.consume_type is b.ConsumeType.CONSUME_PASSIVELY
    assert group.message_model is b.MessageModel.CLUSTERING


@pytest.mark.parametrize(
    "text",
    ["[]", '"x"', "1", "null", '{"consumerDataSet":{}}', '{"consumerDataSet":[1]}', '{"clientID":[]}',
     '{"heartbeatFingerprint":"many"}', '{"withoutSub":"perhaps"}',
     '{"consumerDataSet":[{"subscriptionDataSet":[{"subVersion":{}}]}]}'],
)  # fmt: skip
def test_a_broken_heartbeat_is_refused(text: str) -> None:
    with pytest.raises(b.JsonError):
        b.HeartbeatData.from_json(text)


# --- subscriptions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["*", "", None])
def test_everything_is_subscribed(expression: str | None) -> None:
    subscription = b.SubscriptionData.from_expression("t", expression)
    assert subscription.sub_string == "*"
    assert subscription.takes_all


def test_tags_are_trimmed_and_empty_ones_skipped() -> None:
    subscription = b.SubscriptionData.from_expression("t", " a ||| b|| || c", None, 3)
    assert subscription.tags_set == {"a", "| b", "c"}
    assert subscription.sub_string == " a ||| b|| || c"
    assert subscription.expression_type == "TAG"
    assert not subscription.takes_all


@pytest.mark.parametrize("expression", ["||", "||||"])
def test_a_filter_of_separators_only_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="subString split error"):
        b.SubscriptionData.from_expression("t", expression)
    assert b.SubscriptionData.from_json({"topic": "t", "subString": expression}).code_set == frozenset()


def test_a_sql_filter_is_kept_as_it_is() -> None:
    subscription = b.SubscriptionData.from_expression("t", "a > 1 || b", "SQL92")
    assert subscription.sub_string == "a > 1 || b"
    assert subscription.tags_set == frozenset()
    assert not subscription.takes_all
    assert b.SubscriptionData.from_json(dumps(subscription)) == subscription


# --- tables ------------------------------------------------------------------------------------------------------


def test_queues_are_ordered_by_topic_broker_and_number() -> None:
    queues = [MessageQueue(*parts) for parts in (("s", "z", 0), ("t", "a", 11), ("t", "b", 9), ("t", "b", 10))]
    assert sorted(queues) == queues
    assert MessageQueue.from_key(dumps(QUEUE).decode()) == QUEUE


def test_a_version_grows() -> None:
    first = b.DataVersion(timestamp=1)
    second = first.next_version(5)
    assert (second.counter, second.timestamp, second.state_version) == (1, 5, 0)
    assert first == b.DataVersion(timestamp=1)
    assert b.DataVersion.from_json(dumps(second)) == second
    assert b.DataVersion.from_json('{"counter":3,"timestamp":4}') == b.DataVersion(0, 4, 3)


def test_a_topic_config() -> None:
    config = b.TopicConfig("t")
    assert dumps(config) == (
        b'{"attributes":{},"order":false,"perm":6,"readQueueNums":16,"topicFilterType":"SINGLE_TAG","topicName":"t",'
        b'"topicSysFlag":0,"writeQueueNums":16}'
    )
    assert b.TopicConfig.from_json('{"topicName":"t"}') == config
    assert (config.readable, config.writeable, config.inherited) == (True, True, False)


def test_a_topic_config_line() -> None:
    config = b.TopicConfig("t", 4, 8, 2, attributes={"message.type": "FIFO", "x": "a b"})
    assert config.encode() == 't 4 8 2 SINGLE_TAG {"message.type":"FIFO","x":"a b"}'
    assert b.TopicConfig.decode(config.encode()) == config
    assert b.TopicConfig.decode("t 4 8 2 SINGLE_TAG").attributes == {}
    for line in ("", "t 4 8 2", "t x 8 2 SINGLE_TAG", "t 4 8 2 SINGLE_TAG [1]"):
        with pytest.raises(b.JsonError):
            b.TopicConfig.decode(line)


def test_a_group_config_of_4x_gets_defaults() -> None:
    config = b.SubscriptionGroupConfig.from_json('{"groupName":"g","retryMaxTimes":3,"consumeEnable":false}')
    assert config == b.SubscriptionGroupConfig("g", consume_enable=False, retry_max_times=3)
    assert b.SubscriptionGroupConfig.from_json(dumps(config)) == config


def test_lists_of_configs() -> None:
    assert b.topic_config_list('{"topicConfigList":[{"topicName":"a"},{"topicName":"b"}]}') == [
        b.TopicConfig("a"), b.TopicConfig("b"),
    ]  # fmt: skip
    assert b.group_config_list('{"groupConfigList":[{"groupName":"g"}]}') == [b.SubscriptionGroupConfig("g")]


def test_locks() -> None:
    body = b.LockBatchBody(consumer_group="g", client_id="c", mq_set=(QUEUE,))
    assert dumps(body).decode() == (
        f'{{"clientId":"c","consumerGroup":"g","mqSet":[{QUEUE_TEXT}],"onlyThisBroker":false}}'
    )
    assert b.LockBatchBody.from_json(dumps(body)) == body
    assert b.LockBatchBody.from_json("{}").mq_set == ()
    assert dumps(b.LockBatchResponseBody((QUEUE,))).decode() == f'{{"lockOKMQSet":[{QUEUE_TEXT}]}}'


def test_consumer_offsets_are_read_in_both_forms() -> None:
    table = b.ConsumerOffsetTable(offset_table={"t@g": {0: 5, 1: 6}})
    assert b.ConsumerOffsetTable.from_json(dumps(table)) == table
    assert b.ConsumerOffsetTable.from_json('{"offsetTable":{"t@g":{0:5,1:6}}}') == table
    assert b.DelayOffsetTable.from_json('{"offsetTable":{3:7}}').offset_table == {3: 7}


def test_reset_offsets_in_both_forms() -> None:
    body = b.ResetOffsetBody({QUEUE: 7})
    assert dumps(body).decode() == '{"offsetTable":{' + QUEUE_TEXT + ":7}}"
    assert b.ResetOffsetBody.from_json(dumps(body)) == body
    assert dumps(body.to_json_for_c()).decode() == (
        '{"offsetTable":[{"brokerName":"broker-a","offset":7,"queueId":0,"topic":"t"}]}'
    )


def test_batch_acks_name_offsets_by_bits() -> None:
    (ack,) = b.batch_acks('{"acks":[{"b":"BQI=","c":"g","it":1,"pt":2,"q":3,"r":"1","rq":4,"so":100,"t":"t"}]}')
    assert ack.offsets == [100, 102, 109]
    with pytest.raises(b.JsonError, match="base64"):
        b.batch_acks('{"acks":[{"b":"%"}]}')


def test_administration_bodies_have_the_members_that_tools_read() -> None:
    stats = b.ConsumeStats(offset_table={QUEUE: b.OffsetWrapper(broker_offset=9, consumer_offset=4, pull_offset=5)})
    assert (stats.total_diff, stats.total_inflight_diff) == (5, 1)
    assert dumps(b.ConsumeStatsList(broker_addr="a:1", consume_stats_list=({"g": [stats]},))).decode() == (
        '{"brokerAddr":"a:1","consumeStatsList":[{"g":[{"consumeTps":0.0,"offsetTable":{' + QUEUE_TEXT + ":"
        '{"brokerOffset":9,"consumerOffset":4,"lastTimestamp":0,"pullOffset":5}}}]}],"totalDiff":0,"totalInflightDiff":0}'
    )
    span = b.QueueTimeSpan(
        message_queue=QUEUE, min_timestamp=1, max_timestamp=1700000000123, consume_timestamp=2, delay_time=0
    )
    assert loads_lenient(dumps(span))["maxTimeStampStr"].endswith(":123")


# --- routes ------------------------------------------------------------------------------------------------------

ROUTE = b.TopicRouteData(
    queue_datas=(b.QueueData(broker_name="broker-a", read_queue_nums=4, write_queue_nums=4, perm=6),),
    broker_datas=(
        b.BrokerData(broker_name="broker-a", cluster="C", broker_addrs={1: "10.0.0.2:10911", 0: "10.0.0.1:10911"}),
    ),
)


def test_a_strict_route_is_legal_json_with_what_strict_readers_need() -> None:
    assert ROUTE.encode(True) == (
        b'{"brokerDatas":[{"brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"},"brokerName":"broker-a",'
        b'"cluster":"C","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a",'
        b'"perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}'
    )


def test_an_old_route_has_bare_ids_and_no_words() -> None:
    text = ROUTE.encode(False)
    assert b'{0:"10.0.0.1:10911",1:"10.0.0.2:10911"}' in text
    assert not any(word in text for word in (b"true", b"false", b"null"))
    assert eval(text, {}) == eval(ROUTE.encode(False), {})  # a Python literal: how pyrocketmq reads it


@pytest.mark.parametrize("strict", [True, False])
def test_both_routes_are_read(strict: bool) -> None:
    assert b.TopicRouteData.from_json(ROUTE.encode(strict)) == ROUTE


@pytest.mark.parametrize("strict", [True, False])
def test_both_cluster_tables_are_read(strict: bool) -> None:
    info = b.ClusterInfo(broker_addr_table={"broker-a": ROUTE.broker_datas[0]}, cluster_addr_table={"C": ["broker-a"]})
    text = info.encode(strict)
    assert (b'{"0":' in text) is strict
    assert b.ClusterInfo.from_json(text) == info


def test_a_member_group() -> None:
    group = b.BrokerMemberGroup(cluster="C", broker_name="b", broker_addrs={0: "h:1"})
    assert b.BrokerMemberGroup.from_json(dumps(group)) == group
    text = '{"brokerMemberGroup":{"brokerAddrs":{0:"h:1"},"brokerName":"b","cluster":"C"}}'
    assert b.BrokerMemberGroup.from_json(text) == group


# --- registration ------------------------------------------------------------------------------------------------

REGISTRATION = b.RegisterBrokerBody(
    b.TopicConfigTable(
        topic_config_table={"t": b.TopicConfig("t", 4, 4), "u": b.TopicConfig("u", attributes={"a": "b"})},
        data_version=b.DataVersion(1, 2, 3),
        topic_queue_mapping_info_map={"t": {"topic": "t", "bname": "b"}},
    ),
    ("10.0.0.9:1",),
)


@pytest.mark.parametrize("compressed", [True, False])
def test_both_forms_of_a_registration(compressed: bool) -> None:
    body = REGISTRATION.encode(compressed=compressed)
    assert body[:1] == (b"\x78" if compressed else b"{")
    assert b.RegisterBrokerBody.decode(body) == REGISTRATION


def test_a_compressed_registration_of_4x_has_no_mappings() -> None:
    body = REGISTRATION.encode(compressed=True, version=407)
    back = b.RegisterBrokerBody.decode(body, version=407)
    assert back.topics.topic_config_table == REGISTRATION.topics.topic_config_table
    assert back.topics.topic_queue_mapping_info_map == {}
    with pytest.raises(b.JsonError, match="cut off"):
        b.RegisterBrokerBody.decode(body, version=479)


def test_an_ancient_registration_is_the_bare_table() -> None:
    text = dumps(REGISTRATION.topics)
    assert b.RegisterBrokerBody.decode(text, version=30).topics == REGISTRATION.topics
    assert b.RegisterBrokerBody.decode(b"") == b.RegisterBrokerBody()


def test_a_compressed_registration_cut_anywhere_is_refused() -> None:
    inner = zlib.decompress(REGISTRATION.encode(compressed=True))
    for size in range(len(inner)):
        with pytest.raises(b.JsonError):
            b.RegisterBrokerBody.decode(zlib.compress(inner[:size]))
    packed = REGISTRATION.encode(compressed=True)
    for size in range(1, len(packed)):
        with pytest.raises(b.JsonError):
            b.RegisterBrokerBody.decode(packed[:size])


@pytest.mark.parametrize("count", [-1, 0x7FFFFFFF])
def test_a_compressed_registration_with_a_lying_length_is_refused(count: int) -> None:
    with pytest.raises(b.JsonError, match="part of length"):
        b.RegisterBrokerBody.decode(zlib.compress(struct.pack(">i", count) + bytes(100)))


def test_a_registration_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(b.route, "MAX_REGISTER_BYTES", 1000)
    with pytest.raises(b.JsonError, match="too large"):
        b.RegisterBrokerBody.decode(zlib.compress(bytes(1001)))
