"""Offset requests: commits, questions, ends of queues, offsets by time, with RocketMQ's codes."""

import pytest

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from unit.broker_rig import Rig


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.broker.topics.put(TopicConfig(topic_name="topic-a", read_queue_nums=4, write_queue_nums=4))
    yield rig
    rig.close()


class TestOffsetRequests:
    def query(self, rig, *, topic="topic-a", queue=0, **more):
        ext = {"consumerGroup": "cg", "topic": topic, "queueId": queue, **more}
        return rig.ask(RequestCode.QUERY_CONSUMER_OFFSET, ext)

    def commit(self, rig, **ext):
        base = {"consumerGroup": "cg", "topic": "topic-a", "queueId": 0, "commitOffset": 5}
        return rig.ask(RequestCode.UPDATE_CONSUMER_OFFSET, {k: v for k, v in {**base, **ext}.items() if v is not None})

    def test_what_was_committed_is_found(self, rig):
        rig.broker.groups.find_or_create("cg")
        reply = self.commit(rig)
        assert (reply.code, reply.remark, reply.ext) == (0, None, {})
        assert self.query(rig).ext == {"offset": "5"}
        self.commit(rig, commitOffset=2)
        assert self.query(rig).ext == {"offset": "2"}

    def test_commits_need_group_topic_and_numbers(self, rig):
        reply = self.commit(rig)
        assert (reply.code, reply.remark) == (26, "Group cg not exist!")
        rig.broker.groups.find_or_create("cg")
        reply = self.commit(rig, topic="nowhere")
        assert (reply.code, reply.remark) == (17, "Topic nowhere not exist!")
        assert self.commit(rig, queueId=None).code == 29
        assert self.commit(rig, commitOffset=None).code == 29
        assert self.commit(rig, commitOffset="many").code == 29
        assert self.commit(rig, queueId=-1).code == 29
        assert self.commit(rig, queueId=1 << 20).code == 29
        assert rig.broker.offsets.table_of("cg") == {}

    def test_a_new_group_on_an_empty_queue_begins_at_zero(self, rig):
        assert self.query(rig).ext == {"offset": "0"}
        assert self.query(rig, queue=4).code == 22
        assert self.query(rig, topic="nowhere").code == 22

    def test_a_new_group_on_a_young_queue_begins_at_zero(self, rig):
        rig.send()
        assert self.query(rig).ext == {"offset": "0"}

    def test_a_new_group_on_an_old_queue_is_left_to_the_client(self, rig):
        rig.send()
        rig.broker.memory_bytes = 0
        reply = self.query(rig)
        assert (reply.code, reply.ext) == (22, {})
        assert reply.remark == "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"

    def test_zero_may_be_unwanted(self, rig):
        reply = self.query(rig, setZeroIfNotFound=False)
        assert (reply.code, reply.remark) == (22, "Not found, do not set to zero, maybe this group boot first")
        assert self.query(rig, setZeroIfNotFound=True).code == 0

    def test_both_ends_of_a_queue(self, rig):
        ask = {"topic": "topic-a", "queueId": 0}
        for code in (RequestCode.GET_MAX_OFFSET, RequestCode.GET_MIN_OFFSET):
            assert rig.ask(code, ask).ext == {"offset": "0"}
        rig.send()
        assert rig.ask(RequestCode.GET_MAX_OFFSET, ask).ext == {"offset": "1"}
        assert rig.ask(RequestCode.GET_MIN_OFFSET, ask).ext == {"offset": "0"}
        assert rig.ask(RequestCode.GET_MAX_OFFSET, {"queueId": 0}).code == 1
        assert rig.ask(RequestCode.GET_MAX_OFFSET, {"topic": "topic-a", "queueId": "zero"}).code == 1
        for queue in (-1, -(2**31), 2**31 - 1):
            assert rig.ask(RequestCode.GET_MAX_OFFSET, {"topic": "topic-a", "queueId": queue}).ext == {"offset": "0"}

    def test_offsets_by_time(self, rig):
        start = rig.clock.wall_ms()
        for _ in range(3):
            rig.send()
            rig.clock.advance_ms(1000)

        def search(time, boundary):
            ext = {"topic": "topic-a", "queueId": 0, "timestamp": time, "boundaryType": boundary}
            return int(rig.ask(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, ext).ext["offset"])

        assert search(start + 1000, "LOWER") == 1
        assert search(start + 1001, "lower") == 2
        assert search(start + 1001, "UPPER") == 1
        assert search(0, "LOWER") == 0
        assert search(start + 99_000, "LOWER") == 3
        ext = {"topic": "topic-a", "queueId": 3, "timestamp": start}
        assert rig.ask(RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, ext).ext == {"offset": "0"}

    def test_the_time_of_the_oldest_message(self, rig):
        ask = {"topic": "topic-a", "queueId": 0}
        assert rig.ask(RequestCode.GET_EARLIEST_MSG_STORETIME, ask).ext == {"timestamp": "-1"}
        start = rig.clock.wall_ms()
        rig.send()
        rig.clock.advance_ms(5)
        rig.send()
        assert rig.ask(RequestCode.GET_EARLIEST_MSG_STORETIME, ask).ext == {"timestamp": str(start)}
