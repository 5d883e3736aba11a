"""A broker as a whole: which requests reach a handler, and its services over a store with its threads."""

import inspect

import pytest
import trio
import trio.testing

from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import decode_messages
from unit.broker_rig import FakePeer, Rig, consumer


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    rig.broker.topics.put(TopicConfig(topic_name="topic-a", read_queue_nums=4, write_queue_nums=4))
    yield rig
    rig.close()


def bodies(reply):
    return [message.body for message in decode_messages(reply.body)]


class TestDispatch:
    def test_unknown_codes(self, rig):
        reply = rig.ask(9999)
        assert (reply.code, reply.remark) == (3, " request type 9999 not supported")

    def test_the_port_for_old_clients_holds_nobody(self, rig):
        reply = rig.broker.vip.handle(rig.peer, rig.request(RequestCode.PULL_MESSAGE))
        assert (reply.code, reply.remark) == (3, " request type 11 not supported")
        ext = {"topic": "topic-a", "queueId": "0"}
        assert rig.broker.vip.handle(rig.peer, rig.request(RequestCode.GET_MAX_OFFSET, ext)).code == 0

    def test_its_connections_are_forgotten_too(self, rig):
        rig.heartbeat(consumerDataSet=[consumer()])
        rig.broker.vip.closed(rig.peer)
        assert rig.broker.sessions.consumer_group("cg") is None

    def test_dangerous_commands_are_for_this_machine(self, rig):
        stranger = FakePeer(2, host="192.0.2.7")
        reply = rig.ask(RequestCode.DELETE_TOPIC_IN_BROKER, {"topic": "topic-a"}, peer=stranger)
        assert reply.code == 16
        assert "adminFromLoopbackOnly" in reply.remark
        assert "topic-a" in rig.broker.topics


class TestRunning:
    """The services of a broker over a store with its threads."""

    def run(self, rig, scenario, *, save_ms=20):
        rig.change(namesrv_addr="", flush_consumer_offset_interval=save_ms, flush_delay_offset_interval=save_ms)

        async def main():
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    await nursery.start(rig.broker.run)
                    await scenario()
                    await rig.broker.drain()
                    await rig.broker.finish()
                    nursery.cancel_scope.cancel()

        rig.store.start()
        trio.run(main)

    async def answer(self, given):
        """The answer of a request; that of a send waits while the group's or topic's file is written."""
        return await given if inspect.isawaitable(given) else given

    async def until(self, condition):
        while not condition():  # noqa: ASYNC110  (a fake peer has no event)
            await trio.sleep(0.002)

    @pytest.fixture
    def rig(self, tmp_path):
        from fastmq.clock import SystemClock

        rig = Rig(tmp_path, message_delay_level="1s 2s")
        rig.close()
        rig.clock = SystemClock()
        rig.open()
        rig.broker.topics.put(TopicConfig(topic_name="topic-a", read_queue_nums=4, write_queue_nums=4))
        yield rig
        rig.close()

    def test_a_held_pull_is_answered_when_a_message_comes(self, rig):
        async def scenario():
            assert rig.pull(sysFlag=6) is None
            await self.answer(rig.send(body=b"news"))
            await self.until(lambda: rig.peer.replies)
            assert bodies(rig.peer.replies[0][1]) == [b"news"]

        self.run(rig, scenario)

    def test_a_broker_with_nothing_to_do_sleeps(self, rig):
        async def scenario():
            assert rig.pull(sysFlag=6) is None
            await self.answer(rig.send(body=b"news"))
            await self.until(lambda: rig.peer.replies)
            with trio.fail_after(60):
                await trio.testing.wait_all_tasks_blocked(0.02)

        self.run(rig, scenario, save_ms=60_000)

    def test_a_held_pull_is_answered_by_its_deadline(self, rig):
        async def scenario():
            assert rig.pull(queue=1, sysFlag=6, suspendTimeoutMillis=60_000) is None
            await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
            assert rig.pull(sysFlag=6, suspendTimeoutMillis=50) is None
            await self.until(lambda: rig.peer.replies)
            assert 0.045 <= trio.current_time() - start < 2
            assert rig.peer.replies[0][0] == 2

        self.run(rig, scenario)
        assert len(rig.peer.replies) == 2

    def test_a_delayed_message_wakes_its_consumer(self, rig):
        async def scenario():
            assert rig.pull(sysFlag=6) is None
            before = rig.clock.wall_ms()
            await self.answer(rig.send(body=b"later", properties="DELAY\x011\x02"))
            await self.until(lambda: rig.peer.replies)
            ((_, reply),) = rig.peer.replies
            assert bodies(reply) == [b"later"]
            assert decode_messages(reply.body)[0].store_timestamp - before >= 1000

        self.run(rig, scenario)
        rig.reopen()
        assert rig.broker.delay.offsets() == {1: 1}

    def test_a_stop_saves_what_was_committed(self, rig):
        async def scenario():
            rig.broker.offsets.commit("cg", "topic-a", 0, 41)

        self.run(rig, scenario)
        rig.reopen()
        assert rig.broker.offsets.query("cg", "topic-a", 0) == 41

    def test_commits_are_saved_while_it_runs(self, rig):
        path = rig.folder / "store" / "config" / "consumerOffset.json"

        async def scenario():
            rig.broker.offsets.commit("cg", "topic-a", 0, 41)
            await self.until(lambda: path.exists() and b"41" in path.read_bytes())

        self.run(rig, scenario)
