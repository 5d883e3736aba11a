"""What the client can do, on each of its faces, against fastmq and against Apache RocketMQ 5.3.3 and 4.9."""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

import fastmq
from client.faces import PATIENCE, Face, Place, until


async def collect(consumer: Any, count: int) -> list[fastmq.ReceivedMessage]:
    """The next messages of a consumer."""
    messages: list[fastmq.ReceivedMessage] = []
    with anyio.fail_after(PATIENCE):
        while len(messages) < count:
            messages += await consumer.poll(count - len(messages), timeout=5)
    return messages


class Seen:
    """What a listener got, and waiting for it."""

    def __init__(self, count: int) -> None:
        self.messages: list[fastmq.ReceivedMessage] = []
        self.count = count
        self._all = anyio.Event()

    async def listen(self, message: fastmq.ReceivedMessage) -> None:
        self.messages.append(message)
        if len(self.messages) >= self.count:
            self._all.set()

    async def wait(self) -> None:
        with anyio.fail_after(PATIENCE):
            await self._all.wait()

    @property
    def texts(self) -> list[str]:
        return [message.text for message in self.messages]


def test_send_and_receive(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            message = fastmq.Message(
                place.name, "Grüße 消息 🚀", tag="ä", keys=["k1", "k2"], properties={"größe": "☃"}, flag=7
            )
            sent = await producer.send(message)
            assert sent.status is fastmq.SendStatus.SEND_OK
            assert sent.queue.topic == place.name
            plain = await producer.send(place.name, b"\x00\xff", tag="t")
            async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
                got = {one.message_id: one for one in await collect(consumer, 2)}
        one = got[sent.message_id]
        assert (one.text, one.tag, one.keys, one.flag) == ("Grüße 消息 🚀", "ä", ["k1", "k2"], 7)
        assert one.properties["größe"] == "☃"
        assert (one.topic, one.queue, one.queue_offset) == (place.name, sent.queue, sent.queue_offset)
        assert one.offset_id == sent.offset_id
        assert one.born_host[0] == "127.0.0.1"
        assert got[plain.message_id].body == b"\x00\xff"

    face.run(scenario)


def test_pipelined_sends_keep_their_order(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            # the first is sent before route and connection are there
            receipts = [
                await producer.send_async(fastmq.Message(place.name, str(number), sharding_key=f"k{number % 3}"))
                for number in range(300)
            ]
            results = [await receipt for receipt in receipts]
            await producer.flush()
        assert len({result.message_id for result in results}) == 300
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            by_key: dict[str | None, list[int]] = defaultdict(list)
            for message in await collect(consumer, 300):
                by_key[message.sharding_key].append(int(message.text))
        if place.server.name != "fastmq":  # Apache's threads take the requests of a connection as they come
            by_key = {key: sorted(numbers) for key, numbers in by_key.items()}
        assert by_key == {f"k{key}": list(range(key, 300, 3)) for key in range(3)}

    face.run(scenario)


def test_batch(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            messages = [fastmq.Message(place.name, f"b{number}", tag="t", keys="k") for number in range(20)]
            sent = await producer.send_batch(messages)
            assert len(sent.message_id.split(",")) == 20
            with pytest.raises(fastmq.UsageError):
                await producer.send_batch([messages[0], fastmq.Message("other", b"x")])
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            got = await collect(consumer, 20)
        assert [one.text for one in got] == [f"b{number}" for number in range(20)]
        assert [one.message_id for one in got] == sent.message_id.split(",")
        assert {one.tag for one in got} == {"t"}

    face.run(scenario)


def test_compression(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        body = b"0123456789" * 2000
        for kind in fastmq.Compression:
            async with f.Producer(place.namesrv, compression=kind) as producer:
                await producer.send(place.name, body, tag=str(kind))
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            got = await collect(consumer, len(fastmq.Compression))
        sizes = {one.tag: one.stored_size for one in got}
        assert all(one.body == body for one in got)
        assert all((size < 5000) == (tag != "none") for tag, size in sizes.items())

    face.run(scenario)


def test_a_listener_gets_messages_and_failures_come_again(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        seen = Seen(11)

        async def listen(message: fastmq.ReceivedMessage) -> None:
            await seen.listen(message)
            if message.text == "m3" and message.reconsume_times == 0:
                raise ValueError("on purpose")

        async with f.Producer(place.namesrv) as producer:
            for number in range(10):
                await producer.send(place.name, f"m{number}")
            async with f.PushConsumer(
                place.namesrv, place.group(), face.listener(listen), place.name, start_from="first"
            ):
                await seen.wait()
        assert sorted(set(seen.texts)) == [f"m{number}" for number in range(10)]
        (again,) = (one for one in seen.messages if one.reconsume_times)
        assert (again.text, again.reconsume_times, again.topic) == ("m3", 1, place.name)

    face.run(scenario)


def test_dead_letters(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        seen = Seen(1)

        async def listen(message: fastmq.ReceivedMessage) -> None:
            raise fastmq.RetryLater(-1)

        group = place.group()
        async with f.Producer(place.namesrv) as producer:
            await producer.send(place.name, "lost cause")
        async with (
            f.PushConsumer(place.namesrv, group, face.listener(listen), place.name, start_from="first"),
            f.PushConsumer(
                place.namesrv, place.group("h"), face.listener(seen.listen), f"%DLQ%{group}", start_from="first"
            ),
        ):
            await seen.wait()
        assert seen.texts == ["lost cause"]

    face.run(scenario)


def test_in_order(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        seen = Seen(61)
        running: set[int] = set()

        async def listen(message: fastmq.ReceivedMessage) -> None:
            queue = message.queue.queue_id
            assert queue not in running
            running.add(queue)
            await anyio.lowlevel.checkpoint()
            running.discard(queue)
            await seen.listen(message)
            if message.text == "7" and message.reconsume_times == 0:
                raise ValueError("on purpose")

        async with f.Producer(place.namesrv) as producer:
            for number in range(60):
                await producer.send(fastmq.Message(place.name, str(number), sharding_key=str(number % 5)))
        async with f.PushConsumer(
            place.namesrv,
            place.group(),
            face.listener(listen),
            place.name,
            start_from="first",
            orderly=True,
            orderly_pause_seconds=0.1,
        ):
            await seen.wait()
        by_key = defaultdict(list)
        for message in seen.messages:
            by_key[message.sharding_key].append(int(message.text))
        expected = {str(key): list(range(key, 60, 5)) for key in range(5)}
        expected["2"].insert(1, 7)
        assert by_key == expected

    face.run(scenario)


def test_tags_choose(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            for number in range(12):
                # two tags with the same hash: the broker cannot tell them apart
                await producer.send(place.name, str(number), tag=["Aa", "BB", "c"][number % 3])
        topics = {place.name: "Aa || d"}
        async with f.Consumer(place.namesrv, place.group(), topics, start_from="first") as consumer:
            got = await collect(consumer, 4)
            assert await consumer.poll(timeout=0) == []
        assert {one.tag for one in got} == {"Aa"}

    face.run(scenario)


def test_offsets_are_kept(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        group = place.group()
        async with f.Producer(place.namesrv) as producer:
            queue = (await producer.queues(place.name))[0]
            for number in range(10):
                await producer.send(fastmq.Message(place.name, str(number)), queue=queue)
        options = {"auto_commit": False, "start_from": "first"}
        async with f.Consumer(place.namesrv, group, place.name, **options) as consumer:
            got = await collect(consumer, 10)
            await consumer.commit(got[3])
            assert await consumer.committed(queue) == 4
        async with f.Consumer(place.namesrv, group, place.name, **options) as consumer:
            assert [one.text for one in await collect(consumer, 6)] == [str(number) for number in range(4, 10)]
            await consumer.commit()
        async with f.Consumer(place.namesrv, group, place.name) as consumer:
            await consumer.wait_assigned()
            assert await consumer.poll(timeout=0.2) == []

    face.run(scenario)


def test_a_message_is_done_when_the_next_is_asked_for(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            queue = (await producer.queues(place.name))[0]
            for number in range(5):
                await producer.send(fastmq.Message(place.name, str(number)), queue=queue)
        texts = []
        for _ in range(2):
            async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
                with anyio.fail_after(PATIENCE):
                    async for message in consumer:
                        texts.append(message.text)
                        if len(texts) in (3, 6):
                            break
        assert texts == ["0", "1", "2", "2", "3", "4"]

    face.run(scenario)


def test_seek_and_pause(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            queue = (await producer.queues(place.name))[0]
            for number in range(5):
                await producer.send(fastmq.Message(place.name, str(number)), queue=queue)
            await anyio.sleep(0.02)  # times of storage are whole milliseconds
            middle = time.time()
            await anyio.sleep(0.02)
            for number in range(5, 8):
                await producer.send(fastmq.Message(place.name, str(number)), queue=queue)
            async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
                assert len(await collect(consumer, 8)) == 8
                await face.value(consumer.seek(queue, 6))
                assert [one.text for one in await collect(consumer, 2)] == ["6", "7"]
                await consumer.seek_to_time(middle)
                first = (await collect(consumer, 1))[0].text
                if place.server.name != "apache4":  # which takes the nearer neighbour
                    assert first == "5"
                if first == "4":
                    first = (await collect(consumer, 1))[0].text
                assert [first, *(one.text for one in await collect(consumer, 2))] == ["5", "6", "7"]
                await consumer.seek_to_begin()
                assert [one.text for one in await collect(consumer, 8)] == [str(number) for number in range(8)]
                await consumer.seek_to_end()
                await face.value(consumer.pause())
                await producer.send(fastmq.Message(place.name, "8"), queue=queue)
                await face.value(consumer.resume())
                assert [one.text for one in await collect(consumer, 1)] == ["8"]

    face.run(scenario)


def test_broadcasting(face: Face, place: Place, tmp_path: Path) -> None:
    async def scenario(f: Any) -> None:
        first, second = Seen(5), Seen(5)
        options = {"broadcasting": True, "start_from": "first"}
        async with f.Producer(place.namesrv) as producer:
            for number in range(5):
                await producer.send(place.name, str(number))
            async with (
                f.PushConsumer(
                    place.namesrv, place.group(), face.listener(first.listen), place.name,
                    offset_folder=tmp_path / "1", **options,
                ),
                f.PushConsumer(
                    place.namesrv, place.group(), face.listener(second.listen), place.name,
                    offset_folder=tmp_path / "2", **options,
                ),
            ):  # fmt: skip
                await first.wait()
                await second.wait()
            assert sorted(first.texts) == sorted(second.texts) == [str(number) for number in range(5)]
            await producer.send(place.name, "after")
            third = Seen(1)
            async with f.PushConsumer(
                place.namesrv, place.group(), face.listener(third.listen), place.name, offset_folder=tmp_path / "1",
                **options,
            ):  # fmt: skip
                await third.wait()
            assert third.texts == ["after"], "the offsets of the file are taken up"

    face.run(scenario)


def test_members_share_the_queues(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            all_queues = await producer.queues(place.name)
            await producer.send(place.name, "x")
        async with f.Consumer(place.namesrv, place.group(), place.name) as one:

            async def one_has_all() -> bool:
                return len(await face.value(one.assignment)) == len(all_queues)

            await until(one_has_all, "the only member has all queues")
            async with f.Consumer(place.namesrv, place.group(), place.name) as other:

                async def shared() -> bool:
                    mine, others = await face.value(one.assignment), await face.value(other.assignment)
                    return len(mine) == len(others) and sorted(mine + others) == sorted(all_queues)

                await until(shared, "two members share the queues")
            await until(one_has_all, "the one that is left has all queues again")

    face.run(scenario)


def test_request_and_reply(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer, f.Producer(place.namesrv, "replier") as replier:
            # the topic exists before the consumer asks for it
            await producer.send(place.name, "first")

            async def listen(message: fastmq.ReceivedMessage) -> None:
                if message.text != "first":
                    await replier.reply(message, f"re: {message.text}")

            async with f.PushConsumer(
                place.namesrv, place.group(), face.listener(listen), place.name, start_from="first"
            ):
                for number in range(3):
                    answer = await producer.request(fastmq.Message(place.name, f"q{number}"), timeout=PATIENCE)
                    assert answer.text == f"re: q{number}"
            with pytest.raises(fastmq.RequestReplyTimeout):
                # time enough for it to be stored
                await producer.request(fastmq.Message(place.name, "nobody"), timeout=2)

    face.run(scenario)


def test_what_has_begun_ends_before_the_consumer_is_closed(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        begun, may_end = anyio.Event(), anyio.Event()
        ended: list[str] = []

        async def listen(message: fastmq.ReceivedMessage) -> None:
            begun.set()
            await may_end.wait()
            ended.append(message.text)

        async with f.Producer(place.namesrv) as producer:
            await producer.send(place.name, "slow")
        async with (
            anyio.create_task_group() as tasks,
            f.PushConsumer(place.namesrv, place.group(), face.listener(listen), place.name, start_from="first"),
        ):
            with anyio.fail_after(PATIENCE):
                await begun.wait()
            tasks.start_soon(_set_soon, may_end)
        assert ended == ["slow"]
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            await consumer.wait_assigned()
            assert await consumer.poll(timeout=0.2) == [], "its offset is stored"

    face.run(scenario)


async def _set_soon(event: anyio.Event) -> None:
    await anyio.sleep(0.1)
    event.set()


def test_delay_levels(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            begin = time.time()
            await producer.send(fastmq.Message(place.name, "later", delay_level=2))
            await producer.send(fastmq.Message(place.name, "now"))
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            got = await collect(consumer, 2)
        # a consumer that comes late finds both, and takes the queues in turn
        got.sort(key=lambda one: one.store_timestamp)
        assert [one.text for one in got] == ["now", "later"]
        assert got[1].store_timestamp / 1000 - begin > 1.9

    face.run(scenario)


def test_refusals(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            with pytest.raises(fastmq.MessageTooLarge):
                await producer.send(place.name, b"x" * (4 << 20 | 1))
            with pytest.raises(fastmq.UsageError):
                await producer.send("no such/topic", b"x")
            with pytest.raises(fastmq.UsageError):
                await producer.send(place.name, b"")
            with pytest.raises(fastmq.UsageError):
                await producer.send("SCHEDULE_TOPIC_XXXX", b"x")
            # an unknown error of 4.9, which may pass
            kind = fastmq.SendFailed if place.server.name == "apache4" else fastmq.BrokerError
            with pytest.raises(kind, match="99"):
                await producer.send(
                    fastmq.Message(place.name, b"x"), queue=fastmq.MessageQueue(place.name, "broker-a", 99)
                )
        with pytest.raises(fastmq.ClientClosed):
            await producer.send(place.name, b"x")
        nobody = f.Producer("127.0.0.1:1", timeout=2)
        async with nobody:
            with pytest.raises(fastmq.ClientError) as failed:
                await nobody.send(place.name, b"x")
            assert failed.value.retryable

    face.run(scenario)


def test_transactions(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        checked: list[str] = []

        async def check(message: fastmq.ReceivedMessage) -> fastmq.TransactionState:
            checked.append(message.text)
            return fastmq.TransactionState.COMMIT

        group = place.group("p")
        async with f.Producer(place.namesrv, group, check=face.listener(check)) as producer:
            await producer.send(place.name, "plain")
            async with producer.transaction(fastmq.Message(place.name, "committed", tag="t")) as transaction:
                pass
            with pytest.raises(ZeroDivisionError):
                async with producer.transaction(fastmq.Message(place.name, "rolled back")):
                    _ = 1 / 0
            async with producer.transaction(fastmq.Message(place.name, "asked")) as left_open:
                left_open.state = fastmq.TransactionState.UNKNOWN
            async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
                got = {one.text: one for one in await collect(consumer, 3)}
        assert set(got) == {"plain", "committed", "asked"}
        assert checked == ["asked"]
        assert got["committed"].message_id == transaction.message_id == got["committed"].transaction_id
        assert got["committed"].tag == "t"

    face.run(scenario)


def test_timers(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            begin = time.time()
            if place.server.name == "apache4":
                timer = fastmq.Message(place.name, "early", delay=2.0)
                with pytest.raises(fastmq.NotSupported, match="delay_level"):
                    await producer.send(timer)
                with pytest.raises(fastmq.NotSupported):
                    await (await producer.send_async(timer))
                with pytest.raises(fastmq.NotSupported):
                    await producer.send_oneway(timer)
                return
            await producer.send(fastmq.Message(place.name, "at", deliver_at=begin + 5))
            await producer.send(fastmq.Message(place.name, "in", delay=timedelta(seconds=2)))
            taken_back = await producer.send(fastmq.Message(place.name, "taken back", delay=4))
            assert await producer.recall(taken_back) == taken_back.message_id
            with pytest.raises(fastmq.BrokerError):
                await producer.send(fastmq.Message(place.name, "never", delay=400 * 86400))
            with pytest.raises(fastmq.UsageError, match="no recall handle"):
                await producer.recall(await producer.send(place.name, "now"))
        async with f.Consumer(place.namesrv, place.group(), place.name, start_from="first") as consumer:
            got = await collect(consumer, 3)
        got.sort(key=lambda one: one.store_timestamp)
        assert got[0].text == "now"
        assert {one.text for one in got} == {"now", "in", "at"}
        assert all(one.store_timestamp / 1000 - begin > 0.9 for one in got[1:])

    face.run(scenario)


def test_sql_chooses(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            for number in range(10):
                await producer.send(fastmq.Message(place.name, str(number), properties={"a": str(number)}))
        topics = {place.name: fastmq.sql("a BETWEEN 3 AND 5")}
        async with f.Consumer(place.namesrv, place.group(), topics, start_from="first") as consumer:
            assert sorted(one.text for one in await collect(consumer, 3)) == ["3", "4", "5"]
            assert await consumer.poll(timeout=0.1) == []
            with pytest.raises(fastmq.BrokerError):
                await consumer.subscribe(place.name, fastmq.sql("a >>> 3"))
            async with f.Producer(place.namesrv) as producer:
                for number in (2, 4, 6):
                    await producer.send(fastmq.Message(place.name, f"later {number}", properties={"a": str(number)}))
            assert [one.text for one in await collect(consumer, 1)] == ["later 4"], "it takes what it took"
        with pytest.raises(fastmq.BrokerError):
            async with f.Consumer(place.namesrv, place.group("bad"), {place.name: fastmq.sql("a >>> 3")}):
                pass

    face.run(scenario)


def test_pop(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            await producer.send_batch([fastmq.Message(place.name, str(number), tag="t") for number in range(5)])
        async with f.PopConsumer(
            place.namesrv, place.group(), {place.name: "t"}, start_from="first", invisible_seconds=60
        ) as consumer:
            if place.server.name == "apache4":
                with pytest.raises(fastmq.NotSupported, match=r"RocketMQ 5\.0"):
                    await consumer.receive(wait=PATIENCE)  # its name server may not know the topic yet
                return
            got: list[fastmq.ReceivedMessage] = []
            with anyio.fail_after(PATIENCE):
                while len(got) < 5:
                    got += await consumer.receive(wait=5)
            assert sorted(one.text for one in got) == [str(number) for number in range(5)]
            kept = got.pop()
            await consumer.ack(got[0])
            await consumer.ack(got[1:])
            await consumer.change_invisible(kept, 1)
            again: list[fastmq.ReceivedMessage] = []
            with anyio.fail_after(PATIENCE):
                while not again:
                    again = await consumer.receive(wait=5)
            assert [one.message_id for one in again] == [kept.message_id]
            assert again[0].topic == place.name
            assert again[0].reconsume_times == 1
            await consumer.ack(again)
            assert await consumer.receive(wait=0.1) == []
            with pytest.raises(fastmq.UsageError):
                await consumer.receive(33)

    face.run(scenario)


def test_what_is_acknowledged_at_once_does_not_come_again(face: Face, place: Place) -> None:
    if place.server.name == "apache4":
        return  # which has no POP, see above

    async def scenario(f: Any) -> None:
        async with f.Producer(place.namesrv) as producer:
            await producer.send_batch([fastmq.Message(place.name, str(number)) for number in range(12)])
        async with f.PopConsumer(
            place.namesrv, place.group(), place.name, start_from="first", invisible_seconds=8
        ) as consumer:
            got: list[fastmq.ReceivedMessage] = []
            with anyio.fail_after(PATIENCE):
                while len(got) < 12:
                    got += await consumer.receive(wait=5)
            await consumer.ack(got[:5] + got[6:-1])
            kept = {got[5].text, got[-1].text}
            again: list[fastmq.ReceivedMessage] = []
            with anyio.fail_after(2 * PATIENCE):
                while not kept <= {one.text for one in again}:
                    again += await consumer.receive(wait=5)
            await consumer.ack(again)
            assert {one.text for one in again} == kept
            # they would have come together with the last one
            assert await consumer.receive(wait=1) == []

    face.run(scenario)


def test_traces(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        topic = f"trace-{place.name}"
        seen = Seen(1)
        async with f.Producer(place.namesrv, place.group("p"), trace=topic) as producer:
            sent = await producer.send(fastmq.Message(place.name, "traced", tag="t", keys="k"))
        async with f.PushConsumer(
            place.namesrv, place.group(), face.listener(seen.listen), place.name, start_from="first", trace=topic
        ):
            await seen.wait()
        async with f.Consumer(place.namesrv, place.group("t"), topic, start_from="first") as consumer:
            records: list[list[str]] = []
            with anyio.fail_after(PATIENCE):
                while len(records) < 3:
                    for message in await consumer.poll(timeout=5):
                        assert sent.message_id in message.keys
                        records += [record.split("\x01") for record in message.text.split("\x02") if record]
        by_kind = {record[0]: record for record in records}
        assert by_kind["Pub"][3:8] == [place.group("p"), place.name, sent.message_id, "t", "k"]
        assert by_kind["Pub"][13] == "true"
        assert by_kind["SubBefore"][5] == sent.message_id
        assert by_kind["SubAfter"][1] == by_kind["SubBefore"][4]
        assert by_kind["SubAfter"][4] == "true"

    face.run(scenario)


def test_a_shared_session(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        session = f.Session(place.namesrv)
        inner = getattr(session, "_thing", session)
        async with (
            session,
            f.Producer(inner) as producer,
            f.Consumer(inner, place.group(), place.name, start_from="first") as consumer,
        ):
            await producer.send(place.name, "shared")
            assert [one.text for one in await collect(consumer, 1)] == ["shared"]

    face.run(scenario)


def test_namespaces(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        seen = Seen(2)

        async def listen(message: fastmq.ReceivedMessage) -> None:
            await seen.listen(message)
            if message.reconsume_times == 0:
                raise ValueError("on purpose")

        async with f.Producer(place.namesrv, namespace="ns1") as producer:
            await producer.send(place.name, "in a namespace")
        async with f.PushConsumer(
            place.namesrv, place.group(), face.listener(listen), place.name, start_from="first", namespace="ns1"
        ):
            await seen.wait()
        assert [one.topic for one in seen.messages] == [place.name, place.name]
        async with f.Consumer(place.namesrv, place.group("raw"), f"ns1%{place.name}", start_from="first") as consumer:
            assert [one.text for one in await collect(consumer, 1)] == ["in a namespace"]

    face.run(scenario)


def test_administration(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        topic, group = place.name, place.group()
        async with f.Admin(place.namesrv) as admin:
            assert [broker.name for broker in await admin.brokers()] == ["broker-a"]
            assert await admin.clusters() == {"DefaultCluster": ["broker-a"]}
            await admin.create_topic(topic, queues=3)
            assert topic in await admin.topics()
            assert (await admin.topic_config(topic))["broker-a"].write_queue_nums == 3
            await admin.create_group(group, max_retries=5)
            assert group in await admin.groups()
            assert (await admin.group_config(group))["broker-a"].retry_max_times == 5
            async with f.Producer(place.namesrv, place.group("p")) as producer:
                sent = [
                    await producer.send(fastmq.Message(topic, str(number), keys=f"key-{number}"), queue=queue)
                    for number, queue in enumerate(await producer.queues(topic))
                ]
                assert (await admin.producer_members(place.group("p")))[0].language == "PYTHON"
                seen = Seen(3)
                async with f.PushConsumer(
                    place.namesrv, group, face.listener(seen.listen), topic, start_from="first", persist_seconds=0.1
                ):
                    await seen.wait()
                    members = await admin.group_members(group)
                    assert members.message_model == "CLUSTERING"
                    assert topic in members.subscriptions
                    client_id = members.members[0].client_id
                    info = await admin.running_info(group, client_id, stacks=True)
                    assert info["properties"]["PROP_CONSUMEORDERLY"] == "false"
                    assert "scenario" in info["jstack"] or "File" in info["jstack"]

                    async def consumed() -> bool:
                        progress = await admin.progress(group, topic)
                        return len(progress) == 3 and all(one.lag == 0 for one in progress.values())

                    await until(consumed, "the group has no lag")
                    message = await admin.message(sent[1].offset_id)
                    assert message.message_id == sent[1].message_id
                    seen.count = 4
                    result = await admin.consume_directly(group, client_id, message)
                    assert result.result == "CR_SUCCESS"
                    assert seen.texts.count("1") == 2
            stats = await admin.topic_stats(topic)
            assert {queue.queue_id: one.max_offset for queue, one in stats.items()} == {0: 1, 1: 1, 2: 1}
            assert group in await admin.topic_groups(topic)

            async def found() -> bool:
                return [one.text for one in await admin.messages_by_key(topic, "key-2")] == ["2"]

            await until(found, "the message is found by its key")
            assert (await admin.message(sent[0].message_id, topic)).text == "0"
            assert await admin.message(sent[0].offset_id[:-8] + "FFFFFFFF") is None
            assert set((await admin.reset_offsets(group, topic, 0)).values()) == {0}
            assert sum(one.lag for one in (await admin.progress(group, topic)).values()) == 3
            again = Seen(3)
            async with f.PushConsumer(place.namesrv, group, face.listener(again.listen), topic):
                await again.wait()
            assert sorted(again.texts) == ["0", "1", "2"]
            runtime = await admin.broker_runtime("broker-a")
            assert int(runtime["msgPutTotalTodayNow"]) >= 3
            assert (await admin.broker_config("broker-a"))["brokerName"] == "broker-a"
            await admin.delete_group(group)
            assert group not in await admin.groups()
            await admin.delete_topic(topic)

            async def gone() -> bool:
                return topic not in await admin.topics()

            await until(gone, "the topic is gone")
            with pytest.raises(fastmq.TopicNotFound):
                await admin.topic_stats(topic)

    face.run(scenario)


def test_telemetry_changes_nothing_without_an_sdk(face: Face, place: Place) -> None:
    pytest.importorskip("opentelemetry.trace")

    async def scenario(f: Any) -> None:
        seen = Seen(4)
        async with f.Producer(place.namesrv, telemetry=True) as producer:
            await producer.send(place.name, "one")
            await (await producer.send_async(fastmq.Message(place.name, "two")))
            await producer.send_batch([fastmq.Message(place.name, "three"), fastmq.Message(place.name, "four")])
        async with f.PushConsumer(
            place.namesrv, place.group(), face.listener(seen.listen), place.name, start_from="first", telemetry=True
        ):
            await seen.wait()
        assert sorted(seen.texts) == ["four", "one", "three", "two"]

    face.run(scenario)


def test_order_stays_when_a_member_joins_and_leaves(face: Face, place: Place) -> None:
    async def scenario(f: Any) -> None:
        seen: dict[str | None, list[int]] = defaultdict(list)
        running: set[tuple[str, int]] = set()

        async def listen(message: fastmq.ReceivedMessage) -> None:
            queue = (message.queue.broker_name, message.queue.queue_id)
            assert queue not in running, "two members consume one queue at the same time"
            running.add(queue)
            await anyio.sleep(0.002)
            running.discard(queue)
            seen[message.sharding_key].append(int(message.text))

        options = {"start_from": "first", "orderly": True, "persist_seconds": 0.2}
        async with f.Producer(place.namesrv) as producer:
            await producer.send(fastmq.Message(place.name, "0", sharding_key="0"))
            async with f.PushConsumer(place.namesrv, place.group(), face.listener(listen), place.name, **options):
                for number in range(1, 100):
                    await producer.send(fastmq.Message(place.name, str(number), sharding_key=str(number % 5)))
                async with f.PushConsumer(place.namesrv, place.group(), face.listener(listen), place.name, **options):
                    for number in range(100, 200):
                        await producer.send(fastmq.Message(place.name, str(number), sharding_key=str(number % 5)))

                async def everything() -> bool:
                    return sum(len(set(numbers)) for numbers in seen.values()) == 200

                await until(everything, "everything is consumed")
        for numbers in seen.values():
            first_times = list(dict.fromkeys(numbers))
            assert first_times == sorted(first_times)

    face.run(scenario)
