"""Transactions of Apache RocketMQ 5.3.3: its check requests to the byte, its op records, its store taken over.

The store `clean` was packed while two transactions were open, after 14 checks each, with transactionCheckMax 15.
"""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastmq._store import Store
from fastmq.broker.app import Broker
from fastmq.broker.delivery.transaction import OP_PROPERTIES, HalfMessage, op_body, read_op
from fastmq.broker.state.sessions import ClientChannel
from fastmq.clock import ManualClock
from fastmq.config import BrokerConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, decode_frame
from fastmq.protocol.message import StoredMessage, decode_message, encode_message, encode_properties
from unit.broker_rig import FakePeer

HERE = Path(__file__).parent
HALF, OP = "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC"


def recorded_checks() -> Iterator[Command]:
    for line in (HERE / "frames" / "transaction.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["code"] == RequestCode.CHECK_TRANSACTION_STATE:
            yield decode_frame(base64.b64decode(row["request"]))


@pytest.mark.parametrize("number", range(7))
def test_check_requests_are_apaches(number: int) -> None:
    """From the half message that the recorded request must have been made of."""
    command = list(recorded_checks())[number]
    told, _ = decode_message(command.body)
    properties = told.property_map
    checked = {**properties, "WAIT": "true"}
    before = {name: value for name, value in checked.items() if name != "TRANSACTION_CHECK_TIMES"}
    stored = replace(told, topic=HALF, queue_id=0, queue_offset=1, properties=encode_properties(before), version=0)
    half = HalfMessage.decode(encode_message(stored))
    assert half is not None
    copy = half.checked(half.checks + 1)
    assert copy.properties == checked
    copy.properties = checked  # in Java's order
    header, body = half.check_request(
        copy, int(command.ext["tranStateTableOffset"]), int(command.ext["commitLogOffset"]), "broker-golden"
    )
    assert header.encode() == command.ext
    assert body == command.body
    assert command.is_oneway


class Taken:
    """The store `clean` in the hands of a broker of ours."""

    def __init__(self, folder: Path) -> None:
        with tarfile.open(HERE / "store" / "clean.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        root = str(folder / "clean")
        config = BrokerConfig(
            store_path_root_dir=root, broker_name="broker-store", broker_cluster_name="StoreCluster",
            listen_port=31911, file_reserved_time=1_000_000, transaction_time_out=3000,
            mapped_file_size_timer_log=102_400,
        )  # fmt: skip
        self.clock = ManualClock(1_795_221_460_000)
        self.store = Store(
            root, store_host=("127.0.0.1", 31911), segment_bytes=1 << 20, queue_file_bytes=20_000, index_slots=100,
            index_entries=400, delay_levels_ms=config.delay_levels_ms, wall_clock_ms=self.clock.wall_ms,
        )  # fmt: skip
        self.broker = Broker(config, self.store, self.clock)
        self.producer = FakePeer()
        channel = ClientChannel("producer", self.producer, "JAVA", 479, 0, self.clock.monotonic())
        self.broker.sessions.register_producer("s-tx", channel)

    def record(self, topic: str, queue_id: int, offset: int) -> StoredMessage:
        log_offset, _size, _code = self.store.queue_entries(topic, queue_id, offset, 1)[0]
        record = self.store.read_record(log_offset)
        assert record is not None
        return decode_message(record)[0]

    def end(self, topic: str) -> int:
        return sum(high for name, _queue, _low, high in self.store.queues() if name == topic)

    def check(self) -> list[Command]:
        self.clock.advance_ms(30_000)
        for _ in self.broker.transactions.check_steps():
            pass
        asked = list(self.producer.sent)
        self.producer.sent.clear()
        return asked

    def decide(self, asked: Command, decision: int) -> int:
        ext = {
            "producerGroup": "s-tx", "tranStateTableOffset": asked.ext["tranStateTableOffset"],
            "commitLogOffset": asked.ext["commitLogOffset"], "commitOrRollback": str(decision),
            "fromTransactionCheck": "true", "msgId": asked.ext["msgId"], "transactionId": asked.ext["msgId"],
        }  # fmt: skip
        reply = self.broker.handle(self.producer, Command(RequestCode.END_TRANSACTION, ext=ext))  # type: ignore[arg-type]
        return int(reply.code)  # type: ignore[union-attr]


@pytest.fixture
def taken(tmp_path: Path) -> Iterator[Taken]:
    taken = Taken(tmp_path)
    yield taken
    taken.store.close()


def test_op_records_are_apaches(taken: Taken) -> None:
    first, second = taken.record(OP, 0, 0), taken.record(OP, 0, 1)
    assert (first.body, second.body) == (op_body([0, 1, 2, 3, 5, 4]), op_body([10]))
    assert first.properties == second.properties == OP_PROPERTIES
    assert read_op(encode_message(first)) == [0, 1, 2, 3, 5, 4]


def test_what_apache_committed_is_what_we_would_commit(taken: Taken) -> None:
    for queue_id, offset in ((0, 0), (1, 0), (0, 1), (1, 1), (1, 2)):
        committed = taken.record("s-trans", queue_id, offset)
        half = HalfMessage.decode(taken.store.read_record(committed.prepared_offset))
        assert half is not None
        ours = half.committed()
        assert (ours.topic, ours.queue_id, ours.body) == (committed.topic, committed.queue_id, committed.body)
        assert (ours.flag, ours.sys_flag, ours.reconsume_times) == (committed.flag, committed.sys_flag, 0)
        assert (ours.born_timestamp_ms, ours.born_host) == (committed.born_timestamp, committed.born_host)
        assert encode_properties(ours.properties) == committed.properties
        assert ours.prepared_offset == committed.prepared_offset


def test_what_apache_stored_for_a_check_is_what_we_would_store(taken: Taken) -> None:
    for earlier, later in ((6, 9), (9, 12), (8, 11), (34, 36)):
        half = HalfMessage.decode(encode_message(taken.record(HALF, 0, earlier)))
        copy = taken.record(HALF, 0, later)
        assert half is not None
        ours = half.checked(half.checks + 1)
        assert ours.properties == copy.property_map
        assert (ours.topic, ours.queue_id, ours.body, ours.sys_flag) == (HALF, 0, copy.body, copy.sys_flag)
        assert (ours.born_timestamp_ms, ours.born_host) == (copy.born_timestamp, copy.born_host)


def test_open_transactions_of_apache_are_asked_for_and_end(taken: Taken) -> None:
    assert taken.broker.transactions.metrics.counts() == {"s-trans": 2}
    delivered = taken.end("s-trans")
    six, eight = taken.check()
    messages = [decode_message(asked.body)[0] for asked in (six, eight)]
    assert [message.property_map["KEYS"] for message in messages] == ["tx-6", "tx-8"]
    assert {message.property_map["TRANSACTION_CHECK_TIMES"] for message in messages} == {"15"}
    assert [(asked.ext["tranStateTableOffset"], asked.ext["bname"]) for asked in (six, eight)] == [
        ("38", "broker-store"), ("39", "broker-store"),
    ]  # fmt: skip
    assert taken.decide(six, 8) == 0
    assert taken.decide(eight, 12) == 0
    assert taken.end("s-trans") == delivered + 1
    assert taken.record("s-trans", 0, 2).property_map["KEYS"] == "tx-6"
    assert taken.check() == []
    assert taken.broker.transactions.metrics.counts() == {"s-trans": 0}


def test_open_transactions_of_apache_are_given_up_after_their_last_check(taken: Taken) -> None:
    assert len(taken.check()) == 2
    assert taken.check() == []
    given_up = [taken.record("TRANS_CHECK_MAX_TIME_TOPIC", 0, offset) for offset in range(2)]
    assert [message.property_map["KEYS"] for message in given_up] == ["tx-6", "tx-8"]
    assert taken.end("TRANS_CHECK_MAX_TIME_TOPIC") == 2
