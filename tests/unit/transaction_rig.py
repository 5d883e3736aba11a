"""Producers of transactions against the broker of `broker_rig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command
from fastmq.protocol.message import StoredMessage, decode_message, parse_message_id
from unit.broker_rig import FakePeer, Rig

HALF = "RMQ_SYS_TRANS_HALF_TOPIC"
OP = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
MAX_TIME = "TRANS_CHECK_MAX_TIME_TOPIC"
COMMIT, ROLLBACK, UNKNOWN = 8, 12, 0


@dataclass(frozen=True)
class Half:
    """What a producer knows of a message it sent in a transaction, or was asked about."""

    key: str
    queue_offset: int
    log_offset: int
    group: str = "tg"
    from_check: bool = False


class Transacting(Rig):
    """A broker and its producers."""

    def begin(
        self, key: str = "K1", body: bytes = b"half", *, topic: str = "topic-a", queue: int = 0, group: str = "tg",
        born: int | None = None, more: str = "", **fields: Any,
    ) -> Half:  # fmt: skip
        """Send a message in a transaction."""
        reply = self.try_to_begin(key, body, topic=topic, queue=queue, group=group, born=born, more=more, **fields)
        assert reply.code == 0, reply.remark
        return Half(key, int(reply.ext["queueOffset"]), parse_message_id(reply.ext["msgId"])[2], group)

    def try_to_begin(
        self, key: str = "K1", body: bytes = b"half", *, topic: str = "topic-a", queue: int = 0, group: str = "tg",
        born: int | None = None, more: str = "", **fields: Any,
    ) -> Any:  # fmt: skip
        properties = f"UNIQ_KEY\x01{key}\x02PGROUP\x01{group}\x02TRAN_MSG\x01true\x02{more}"
        born_ms = self.clock.wall_ms() if born is None else born
        return self.send(topic, body, queue=queue, properties=properties, f=4, g=born_ms, a=group, **fields)

    def end(self, half: Half, decision: int, **changes: Any) -> Any:
        """Decide about it; the answer of END_TRANSACTION."""
        ext = {
            "producerGroup": half.group, "tranStateTableOffset": half.queue_offset, "commitLogOffset": half.log_offset,
            "commitOrRollback": decision, "fromTransactionCheck": half.from_check, "msgId": half.key,
            "transactionId": half.key, **changes,
        }  # fmt: skip
        return self.ask(RequestCode.END_TRANSACTION, {k: v for k, v in ext.items() if v is not None})

    def producer(self, number: int = 50, group: str = "tg") -> FakePeer:
        """A producer that is connected."""
        peer = FakePeer(number)
        self.heartbeat(f"p-{number}", peer=peer, producerDataSet=[{"groupName": group}], consumerDataSet=[])
        return peer

    def check(self, after_ms: int = 0) -> None:
        """A whole round of checks."""
        self.clock.advance_ms(after_ms)
        for _ in self.broker.transactions.check_steps():
            pass

    def bodies(self, topic: str = "topic-a", queue: int = 0) -> list[bytes]:
        """All bodies of a queue."""
        return [self.stored(topic, queue, offset).body for offset in range(self.count(topic, queue))]

    def op_text(self) -> str:
        """All that the op messages say."""
        return b"".join(self.bodies(OP)).decode()

    def offsets(self) -> tuple[int, int]:
        """The offsets in the table of consumer offsets: half topic, op topic."""
        query = self.broker.offsets.query
        return query("CID_RMQ_SYS_TRANS", HALF, 0), query("CID_RMQ_SYS_TRANS", OP, 0)

    def stop(self) -> None:
        """An orderly stop of the broker."""
        self.broker.transactions.write_ops()
        self.flush()
        self.broker.transactions.publish()
        assert self.broker.transactions.publish()
        self.broker.offsets.file.persist()
        self.broker.transactions.metrics.file.persist()
        self.close()

    def restart(self) -> None:
        """Stop in order and start again."""
        self.stop()
        self.open()

    def crash(self) -> None:
        """Be killed and start again: what was written is there, what was in memory is not."""
        self.store.close(clean=False)
        self.open()

    def index(self) -> None:
        """Let the index catch up."""
        while self.store.index_step() > 0:
            pass


def checks(peer: FakePeer) -> list[tuple[Half, StoredMessage]]:
    """What a producer was asked since the last time: where to answer to, and the message in question."""
    asked = [command for command in peer.sent if command.code == RequestCode.CHECK_TRANSACTION_STATE]
    peer.sent.clear()
    return [(_asked(command), decode_message(command.body)[0]) for command in asked]


def _asked(command: Command) -> Half:
    ext = command.ext
    message, _ = decode_message(command.body)
    group = message.property_map["PGROUP"]
    return Half(ext["msgId"], int(ext["tranStateTableOffset"]), int(ext["commitLogOffset"]), group, from_check=True)
