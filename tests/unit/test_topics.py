"""The topic table: what is there from the start, what changes it, what survives a restart."""

import dataclasses
import json

import pytest

from fastmq.broker.state.topics import TOPIC_MULTI_TAG, TOPIC_SEND_HOT, TopicTable, describe_topic
from fastmq.config import BrokerConfig
from fastmq.errors import StoreError
from fastmq.protocol.bodies import TopicConfig
from fastmq.store.tables import save_json


class StoreTopics:
    def __init__(self):
        self.known = {}

    def set_topic(self, name, *, perm, read_queues, write_queues, flags):
        self.known[name] = (perm, read_queues, write_queues, flags)

    def remove_topic(self, name):
        del self.known[name]


class Topics:
    """A table with its surroundings."""

    def __init__(self, folder, **settings):
        self.config = dataclasses.replace(BrokerConfig(), broker_name="b", broker_cluster_name="c", **settings)
        self.path = str(folder / "config" / "topics.json")
        self.store = StoreTopics()
        self.told = []
        self.now = 1000
        self.open()

    def open(self):
        self.store = StoreTopics()
        self.table = TopicTable(
            self.path,
            config=lambda: self.config,
            store=self.store,
            wall_ms=lambda: self.now,
            on_change=self.told.append,
        )


@pytest.fixture
def topics(tmp_path):
    return Topics(tmp_path)


def queues_and_perm(topic):
    return topic.read_queue_nums, topic.write_queue_nums, topic.perm


def test_system_topics_are_there_from_the_start(topics):
    found = {name: queues_and_perm(topic) for name, topic in topics.table.items()}
    assert found == {
        "SELF_TEST_TOPIC": (1, 1, 6),
        "TBW102": (8, 8, 7),
        "BenchmarkTest": (1024, 1024, 6),
        "c": (16, 16, 7),
        "b": (1, 1, 7),
        "OFFSET_MOVED_EVENT": (1, 1, 6),
        "SCHEDULE_TOPIC_XXXX": (18, 18, 6),
        "c_REPLY_TOPIC": (1, 1, 6),
        "rmq_sys_REVIVE_LOG_c": (8, 8, 6),
        "rmq_sys_SYNC_BROKER_MEMBER_b": (1, 1, 1),
        "RMQ_SYS_TRANS_HALF_TOPIC": (1, 1, 6),
        "RMQ_SYS_TRANS_OP_HALF_TOPIC": (1, 1, 6),
        "rmq_sys_wheel_timer": (1, 1, 6),
    }
    assert topics.table.is_system("b")
    assert topics.table.is_system("rmq_sys_anything")
    assert not topics.table.is_system("orders")


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({"trace_topic_enable": True}, "RMQ_SYS_TRACE_TOPIC", (1, 1, 6)),
        ({"auto_create_topic_enable": False}, "TBW102", None),
        ({"cluster_topic_enable": False}, "c", (16, 16, 1)),
        ({"broker_topic_enable": False}, "b", (1, 1, 1)),
        ({"timer_wheel_enable": False}, "rmq_sys_wheel_timer", None),
        ({"message_delay_level": "1s 2s 3s"}, "SCHEDULE_TOPIC_XXXX", (3, 3, 6)),
        ({"default_topic_queue_nums": 3}, "TBW102", (3, 3, 7)),
    ],
)
def test_settings_decide_about_system_topics(tmp_path, settings, name, expected):
    topic = Topics(tmp_path, **settings).table.get(name)
    assert (None if topic is None else queues_and_perm(topic)) == expected


def test_a_change_is_on_disk_in_the_store_and_told_before_put_returns(topics):
    before = topics.table.data_version
    topics.now = 2000
    topics.table.put(TopicConfig(topic_name="orders", read_queue_nums=3, write_queue_nums=2))
    with open(topics.path) as file:
        content = json.load(file)
    assert content["topicConfigTable"]["orders"] == {
        "attributes": {}, "order": False, "perm": 6, "readQueueNums": 3, "topicFilterType": "SINGLE_TAG",
        "topicName": "orders", "topicSysFlag": 0, "writeQueueNums": 2,
    }  # fmt: skip
    assert content["dataVersion"] == {"counter": before.counter + 1, "stateVersion": 0, "timestamp": 2000}
    assert topics.store.known["orders"] == (6, 3, 2, TOPIC_SEND_HOT)
    assert topics.told == [["orders"]]


def test_a_restart_finds_everything_and_the_file_wins_over_the_defaults(topics):
    topics.table.put(TopicConfig(topic_name="orders", attributes={"message.type": "FIFO"}))
    topics.table.put(dataclasses.replace(topics.table.get("TBW102"), perm=4))
    version = topics.table.data_version
    topics.now = 9000
    topics.open()
    assert topics.table.get("orders").attributes == {"message.type": "FIFO"}
    assert topics.table.get("TBW102").perm == 4
    assert topics.table.data_version == version
    assert topics.store.known["TBW102"][0] == 4


def test_several_topics_are_one_version_and_one_telling(topics):
    before = topics.table.data_version.counter
    topics.table.put_many([TopicConfig(topic_name="t1"), TopicConfig(topic_name="t2")])
    topics.table.put_many([])
    assert topics.table.data_version.counter == before + 1
    assert topics.told == [["t1", "t2"]]


def test_a_deleted_topic_is_gone_everywhere(topics):
    topics.table.put(TopicConfig(topic_name="orders"))
    assert topics.table.delete("orders")
    assert not topics.table.delete("orders")
    assert "orders" not in topics.store.known
    assert topics.told == [["orders"], ["orders"]]
    topics.open()
    assert topics.table.get("orders") is None


def test_when_the_disk_refuses_nothing_has_changed(topics, monkeypatch):
    def refuse(path, text):
        raise OSError(28, "No space left on device")

    version = topics.table.data_version
    monkeypatch.setattr(topics.table.file, "_save", refuse)
    with pytest.raises(OSError, match="No space"):
        topics.table.put(TopicConfig(topic_name="orders"))
    assert topics.table.get("orders") is None
    assert topics.table.data_version == version
    assert topics.told == []


@pytest.mark.parametrize(
    ("topic", "flags"),
    [
        (TopicConfig(topic_name="orders"), TOPIC_SEND_HOT),
        (TopicConfig(topic_name="BenchmarkTest"), TOPIC_SEND_HOT),
        (TopicConfig(topic_name="orders", topic_filter_type="MULTI_TAG"), TOPIC_SEND_HOT | TOPIC_MULTI_TAG),
        (TopicConfig(topic_name="%RETRY%g"), 0),
        (TopicConfig(topic_name="%DLQ%g"), 0),
        (TopicConfig(topic_name="TBW102"), 0),
        (TopicConfig(topic_name="SCHEDULE_TOPIC_XXXX"), 0),
        (TopicConfig(topic_name="rmq_sys_x"), 0),
        (TopicConfig(topic_name="orders", attributes={"queue.type": "BatchCQ"}), 0),
        (TopicConfig(topic_name="orders", attributes={"queue.type": "SimpleCQ"}), TOPIC_SEND_HOT),
        (TopicConfig(topic_name="orders", attributes={"cleanup.policy": "COMPACTION"}), 0),
    ],
)
def test_the_store_learns_which_topics_are_ordinary(topics, topic, flags):
    topics.table.put(topic)
    assert topics.store.known[topic.topic_name][3] == flags


class TestAutoCreation:
    def test_takes_the_smaller_number_of_queues_and_drops_the_inherit_bit(self, topics):
        topic = topics.table.auto_create("orders", default_topic="TBW102", queue_nums=4)
        assert queues_and_perm(topic) == (4, 4, 6)
        topic = topics.table.auto_create("more", default_topic="TBW102", queue_nums=99)
        assert queues_and_perm(topic) == (8, 8, 6)
        topic = topics.table.auto_create("none", default_topic="TBW102", queue_nums=-3)
        assert queues_and_perm(topic) == (0, 0, 6)

    def test_does_not_touch_a_topic_that_exists(self, topics):
        topics.table.put(TopicConfig(topic_name="orders", read_queue_nums=1))
        assert topics.table.auto_create("orders", default_topic="TBW102", queue_nums=4).read_queue_nums == 1

    def test_needs_a_default_topic_that_may_be_inherited(self, topics):
        topics.table.put(TopicConfig(topic_name="plain"))
        assert topics.table.auto_create("orders", default_topic="plain", queue_nums=4) is None
        assert topics.table.auto_create("orders", default_topic="unknown", queue_nums=4) is None
        assert topics.table.auto_create("orders", default_topic="c", queue_nums=4).perm == 6

    def test_can_be_switched_off(self, topics):
        topics.config = dataclasses.replace(topics.config, auto_create_topic_enable=False)
        assert topics.table.auto_create("orders", default_topic="TBW102", queue_nums=4) is None

    def test_takes_filter_type_and_flag(self, topics):
        topics.table.put(dataclasses.replace(topics.table.get("c"), topic_filter_type="MULTI_TAG"))
        topic = topics.table.auto_create("orders", default_topic="c", queue_nums=1, sys_flag=1)
        assert (topic.topic_filter_type, topic.topic_sys_flag) == ("MULTI_TAG", 1)


def test_retry_topics_are_made_once_and_follow_the_order_mark(topics):
    topic = topics.table.create_internal("%RETRY%g", queue_nums=2, sys_flag=2)
    assert (*queues_and_perm(topic), topic.topic_sys_flag, topic.order) == (2, 2, 6, 2, False)
    assert topics.table.create_internal("%RETRY%g", queue_nums=1) is topic
    grown = topics.table.create_internal("%RETRY%g", queue_nums=3)
    assert (*queues_and_perm(grown), grown.topic_sys_flag, grown.order) == (3, 3, 6, 2, False)
    assert topics.table.create_internal("%RETRY%g", queue_nums=7, order=True).order
    assert topics.table.create_internal("%RETRY%g", queue_nums=7).order
    assert topics.told == [["%RETRY%g"]] * 3


def test_a_file_of_rocketmq_is_read(topics):
    save_json(
        topics.path,
        '{"dataVersion":{"counter":5,"timestamp":77},"topicConfigTable":{"t":{"topicName":"t","perm":6,'
        '"readQueueNums":2,"writeQueueNums":2,"topicFilterType":"SINGLE_TAG","topicSysFlag":0,"order":true}}}',
    )
    topics.open()
    assert topics.table.get("t").order
    assert topics.table.data_version.counter == 5


@pytest.mark.parametrize("content", ['{"topicConfigTable":[]}', '{"topicConfigTable":{"t":5}}'])
def test_a_file_that_makes_no_sense_stops_the_start(topics, content):
    topics.table.put(TopicConfig(topic_name="orders"))
    with open(topics.path, "w") as file:
        file.write(content)
    with pytest.raises(StoreError, match="topics"):
        topics.open()


def test_a_topic_is_described_as_rocketmq_does():
    topic = TopicConfig(topic_name="t", read_queue_nums=4, write_queue_nums=4, attributes={"message.type": "FIFO"})
    assert describe_topic(topic) == (
        "TopicConfig [topicName=t, readQueueNums=4, writeQueueNums=4, perm=RW-, topicFilterType=SINGLE_TAG, "
        "topicSysFlag=0, order=false, attributes={message.type=FIFO}]"
    )
