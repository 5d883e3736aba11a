"""Messages of the official Java client are read by ours, and the other way round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

import fastmq
from client.faces import PATIENCE, until
from fastmq.protocol import message as m
from support import toolchains
from support.java import ScenarioRunner
from support.servers import Server

pytestmark = pytest.mark.java

# on a busy machine answers are late
PATIENT: dict[str, Any] = {"timeout": PATIENCE, "try_timeout": PATIENCE}


@pytest.fixture(scope="module")
def java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., ScenarioRunner]]:
    """Starts the Java client 5.3.3 with some system properties."""
    started: dict[tuple[str, ...], ScenarioRunner] = {}

    def start(*options: str) -> ScenarioRunner:
        if options not in started:
            try:
                started[options] = ScenarioRunner("5.3.3", tmp_path_factory.mktemp("java"), options)
            except toolchains.ToolchainMissing as error:
                toolchains.missing(str(error))
        return started[options]

    yield start
    for one in started.values():
        one.close()


async def read(namesrv: str, topic: str, count: int) -> list[fastmq.ReceivedMessage]:
    """The messages of a topic."""
    messages: list[fastmq.ReceivedMessage] = []
    async with fastmq.Consumer(namesrv, f"g-{topic}", topic, start_from="first") as consumer:
        with anyio.fail_after(PATIENCE):
            while len(messages) < count:
                messages += await consumer.poll(timeout=5)
    return messages


@pytest.mark.parametrize("kind", ["ZLIB", "LZ4", "ZSTD"])
def test_java_to_ours(server: Server, java: Callable[..., ScenarioRunner], kind: str) -> None:
    runner = java(f"-Drocketmq.message.compressType={kind}")
    topic = f"from-java-{kind}"
    runner.run("create-topic", server, topic=topic)
    rows = runner.run("send-many", server, topic=topic, count=5, prefix="größe-消息-")["sent"]
    rows += runner.run("send-many", server, topic=topic, count=5, prefix="big", size=20000)["sent"]
    rows += runner.run("send-many", server, topic=topic, count=2, prefix="late", delay=1)["sent"]
    got = {one.message_id: one for one in anyio.run(read, server.namesrv, topic, len(rows))}
    assert set(got) == {row["id"] for row in rows}
    packed = {message_id: one.sys_flag & m.COMPRESSION_TYPE_MASK for message_id, one in got.items()}
    for row in rows:
        one = got[row["id"]]
        assert one.text == row["body"]
        assert one.queue.queue_id == row["queue"]
        number = int(one.properties["nr"])
        assert one.tag == f"T{number % 3}"
        assert one.keys == [row["body"].partition(".")[0]]
    big = [one for one in got.values() if len(one.text) == 20000]
    assert len(big) == 5
    expected = {"ZLIB": m.COMPRESSION_ZLIB, "LZ4": m.COMPRESSION_LZ4, "ZSTD": m.COMPRESSION_ZSTD}[kind]
    assert {packed[one.message_id] for one in big} == {expected}, "the Java client did pack them"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ours_to_java(server: Server, java: Callable[..., ScenarioRunner], backend: str) -> None:
    topic = f"to-java-{backend}"
    sent: dict[str, tuple[str, dict[str, str], int]] = {}

    def note(message_id: str, text: str, flag: int = 0, **properties: str) -> None:
        sent[message_id] = (text, properties, flag)

    async def main() -> None:
        async with fastmq.Producer(server.namesrv, **PATIENT) as producer:
            message = fastmq.Message(
                topic, "Grüße 消息 🚀", tag="ä", keys=["k1", "k2"], properties={"größe": "☃"}, flag=7, sharding_key="s"
            )
            result = await producer.send(message)
            note(
                result.message_id,
                "Grüße 消息 🚀",
                7,
                **{"größe": "☃", "TAGS": "ä", "KEYS": "k1 k2", "__SHARDINGKEY": "s"},
            )
            batch = [fastmq.Message(topic, f"b{number}", tag="t", keys=f"key{number}") for number in range(4)]
            for number, one in enumerate((await producer.send_batch(batch)).message_id.split(",")):
                note(one, f"b{number}", TAGS="t", KEYS=f"key{number}")
            receipts = [await producer.send_async(fastmq.Message(topic, f"p{number}")) for number in range(4)]
            for number, receipt in enumerate(receipts):
                note((await receipt).message_id, f"p{number}")
            note((await producer.send(fastmq.Message(topic, "late", delay_level=1))).message_id, "late", DELAY="1")
            async with producer.transaction(fastmq.Message(topic, "committed")) as transaction:
                pass
            note(transaction.message_id, "committed", TRAN_MSG="true")
        for kind in fastmq.Compression:
            async with fastmq.Producer(server.namesrv, compression=kind, **PATIENT) as producer:
                text = f"{kind} " * 3000
                note((await producer.send(topic, text)).message_id, text)
        # what is delayed is there
        await read(server.namesrv, topic, len(sent))

    anyio.run(main, backend=backend)
    rows: dict[str, Any] = {row["id"]: row for row in java().run("read-all", server, topic=topic)["messages"]}
    assert set(rows) == set(sent)
    for message_id, (text, properties, flag) in sent.items():
        row = rows[message_id]
        assert (row["body"], row["flag"]) == (text, flag)
        assert properties.items() <= row["properties"].items()


def test_traces_of_both_look_the_same(server: Server, java: Callable[..., ScenarioRunner]) -> None:
    runner = java()
    runner.run("create-topic", server, topic="traced")
    runner.run("create-topic", server, topic="traces", queues=1)
    theirs = runner.run("send-traced", server, topic="traced", traces="traces")["id"]

    async def main() -> dict[str, list[str]]:
        async with fastmq.Producer(server.namesrv, trace="traces", **PATIENT) as producer:
            message = fastmq.Message("traced", b"traced", tag="T", keys="traced")
            ours = (await producer.send(message)).message_id
        records: dict[str, list[str]] = {}
        async with fastmq.Consumer(server.namesrv, "g-traces", "traces", start_from="first") as consumer:
            with anyio.move_on_after(PATIENCE):
                while not {ours, theirs} <= set(records):
                    for one in await consumer.poll(timeout=5):
                        for record in one.text.split("\x02"):
                            fields = record.split("\x01")
                            if fields[0] == "Pub":
                                assert fields[5] in one.keys
                                records[fields[5]] = fields
        assert set(records) == {ours, theirs}, {"ours": ours, "theirs": theirs}
        return {"ours": records[ours], "theirs": records[theirs]}

    both = anyio.run(main)
    assert len(both["ours"]) == len(both["theirs"])
    for index in (0, 2, 4, 6, 7, 8, 9, 11, 13):
        assert both["ours"][index] == both["theirs"][index], index


def test_a_group_of_java_and_ours_shares_the_queues(server: Server, java: Callable[..., ScenarioRunner]) -> None:
    runner = java()
    topic, group = "mixed", "mixed-group"
    runner.run("create-topic", server, topic=topic, queues=4)
    runner.run("hold-consumer", server, topic=topic, group=group)
    ours: list[str] = []

    async def main() -> None:
        async def listen(message: fastmq.ReceivedMessage) -> None:
            ours.append(message.text)

        async with fastmq.PushConsumer(server.namesrv, group, listen, topic, start_from="first") as consumer:

            async def half() -> bool:
                return len([queue for queue in consumer.assignment if queue.topic == topic]) == 2

            await until(half, "we have half of the queues")
            async with fastmq.Producer(server.namesrv, **PATIENT) as producer:
                for number in range(40):
                    await producer.send(topic, f"mixed-{number}")

            def theirs() -> set[str]:
                return set(runner.run("held", server, group=group, least=20)["bodies"])

            async def everything() -> bool:
                both = set(ours) | await anyio.to_thread.run_sync(theirs)
                return {f"mixed-{number}" for number in range(40)} <= both

            await until(everything, "both together get everything")
            assert 15 <= len(set(ours)) <= 25

    anyio.run(main)


KINDS_OF_TRANSACTIONS = ("commit commit", "rollback rollback", "unknown commit", "unknown rollback")
"""The first word is what its producer says, the second what whoever is asked says."""
COMMITTED = {f"{kind} {number}" for kind in KINDS_OF_TRANSACTIONS if kind.endswith("commit") for number in range(3)}
OPEN = {f"{kind} {number}" for kind in KINDS_OF_TRANSACTIONS if kind.startswith("unknown") for number in range(3)}
STATES = {
    "commit": fastmq.TransactionState.COMMIT,
    "rollback": fastmq.TransactionState.ROLLBACK,
    "unknown": fastmq.TransactionState.UNKNOWN,
}


@pytest.mark.parametrize("asked", ["java", "ours"])
def test_transactions_of_java(server: Server, java: Callable[..., ScenarioRunner], asked: str) -> None:
    """What Java leaves open is decided by a producer of its group, Java's or ours."""
    topic, group = f"java-transactions-{asked}", f"java-transactions-{asked}-group"
    runner = java()
    runner.run("create-topic", server, topic=topic, queues=2)
    words = ",".join(KINDS_OF_TRANSACTIONS)
    runner.run("transactions", server, topic=topic, group=group, words=words, count=3)
    checked: list[fastmq.ReceivedMessage] = []

    async def main() -> list[fastmq.ReceivedMessage]:
        def check(message: fastmq.ReceivedMessage) -> fastmq.TransactionState:
            checked.append(message)
            return STATES[message.text.split()[1]]

        async with fastmq.Producer(server.namesrv, group, check=check, **PATIENT):

            async def all_checked() -> bool:
                return {one.text for one in checked} >= OPEN

            await until(all_checked, "we are asked about all that Java left open")
        return await read(server.namesrv, topic, len(COMMITTED))

    if asked == "java":
        bodies = runner.run("answer-checks", server, topic=topic, group=group, count=len(OPEN))["checked"]
        assert set(bodies) >= OPEN
        got = anyio.run(read, server.namesrv, topic, len(COMMITTED))
    else:
        got = anyio.run(main)
        assert {one.topic for one in checked} == {topic}
        assert all(one.transaction_id == one.message_id for one in checked)
    assert {one.text for one in got} == COMMITTED
    assert all(one.transaction_id == one.message_id for one in got)


@pytest.mark.parametrize("asked", ["java", "ours"])
def test_transactions_of_ours(server: Server, java: Callable[..., ScenarioRunner], asked: str) -> None:
    """What we leave open is decided by a producer of our group, Java's or ours; Java reads what came of it."""
    topic, group = f"our-transactions-{asked}", f"our-transactions-{asked}-group"
    runner = java()
    runner.run("create-topic", server, topic=topic, queues=2)
    ids: dict[str, str] = {}
    checked: set[str] = set()

    async def main() -> None:
        def check(message: fastmq.ReceivedMessage) -> fastmq.TransactionState:
            checked.add(message.text)
            return STATES[message.text.split()[1]] if asked == "ours" else fastmq.TransactionState.UNKNOWN

        async with fastmq.Producer(server.namesrv, group, check=check, **PATIENT) as producer:
            for kind in KINDS_OF_TRANSACTIONS:
                for number in range(3):
                    message = fastmq.Message(topic, f"{kind} {number}", tag="t", keys=f"key-{number}")
                    async with producer.transaction(message) as transaction:
                        transaction.state = STATES[kind.split()[0]]
                    ids[transaction.message_id] = f"{kind} {number}"
            if asked == "ours":

                async def all_checked() -> bool:
                    return checked >= OPEN

                await until(all_checked, "we are asked about all that we left open")

    anyio.run(main)
    if asked == "java":
        bodies = runner.run("answer-checks", server, topic=topic, group=group, count=len(OPEN))["checked"]
        if server.name == "fastmq":  # Apache writes decisions down a moment later, on a busy machine after it has asked
            assert set(bodies) <= OPEN, "of what we decided nothing is asked"
    anyio.run(read, server.namesrv, topic, len(COMMITTED))
    rows = runner.run("read-all", server, topic=topic)["messages"]
    assert {row["body"] for row in rows} == COMMITTED
    for row in rows:
        assert ids[row["id"]] == row["body"]
        assert row["properties"]["TAGS"] == "t"
        assert row["properties"]["KEYS"] == f"key-{row['body'][-1]}"
