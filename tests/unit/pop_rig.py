"""What tests of POP need: pops, acks and changes as a client sends them, and time that passes with what it brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fastmq.net.server import Reply
from fastmq.protocol import message as m
from fastmq.protocol.bodies import TopicConfig
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.message import StoredMessage, decode_messages
from unit.broker_rig import FakePeer, Rig


class Popped(NamedTuple):
    """A message as a POP consumer has it: the topic it acks on, its queue and offset there, and its handle."""

    body: bytes
    topic: str
    queue_id: int
    offset: int
    handle: str
    message: StoredMessage


class PopRig(Rig):
    """A broker whose timer and revive steps are taken by `pass_ms`."""

    def stop(self) -> None:
        """An orderly stop: everything is written before the store is closed."""
        assert self.broker.timers is not None
        self.flush()
        self.broker.offsets.file.persist()
        self.broker.pop_revive.file.persist()
        assert self.broker.timers.persist()
        self.close()

    def settle(self) -> None:
        """Do what is due now."""
        now = self.clock.wall_ms()
        timers, revive = self.broker.timers, self.broker.pop_revive
        assert timers is not None
        for _ in range(2):  # with SYNC_FLUSH what one round has stored is seen by the next
            while (next_ms := timers.due(now).next_ms) is not None and next_ms <= now:
                pass
            self.flush()
            while (next_ms := revive.step()) is not None and next_ms <= now:
                pass
            self.flush()
        for topic, queue_id, max_offset in self.store.take_moved():
            self.broker.popwaits.moved(topic, queue_id, max_offset)
        while self.broker.pop.wake_some():
            pass
        self.broker.answer_due()

    def pass_ms(self, milliseconds: int) -> None:
        """Let time pass, second by second."""
        while milliseconds > 0:
            step = min(milliseconds, 1000)
            self.clock.advance_ms(step)
            milliseconds -= step
            self.settle()

    def fill(self, count: int, *, topic: str = "topic-a") -> None:
        """Make the topic with one queue and send 0, 1, ... to it."""
        self.broker.topics.put(TopicConfig(topic, 1, 1))
        for number in range(count):
            self.send(topic, b"%d" % number)

    # --- requests ----------------------------------------------------------------------------------------------------

    def pop(self, topic: str = "topic-a", *, group: str = "cg", queue: int = -1, **more: Any) -> Any:
        """A POP_MESSAGE and its answer."""
        ext = {
            "consumerGroup": group, "topic": topic, "queueId": queue, "maxMsgNums": 32, "invisibleTime": 10_000,
            "pollTime": 0, "bornTime": self.clock.wall_ms(), "initMode": 0, "expType": "TAG", "exp": "*",
            "order": False,
        }  # fmt: skip
        peer = more.pop("peer", None)
        ext.update(more)
        return self.ask(RequestCode.POP_MESSAGE, ext, peer=peer)

    def take(self, topic: str = "topic-a", **more: Any) -> list[Popped]:
        """The messages that a pop gives."""
        return popped(self.pop(topic, **more), topic, more.get("group", "cg"))

    def ack(self, one: Popped, *, group: str = "cg", **more: Any) -> Any:
        """An ACK_MESSAGE and its answer."""
        ext = {
            "consumerGroup": group, "topic": one.topic, "queueId": one.queue_id, "offset": one.offset,
            "extraInfo": one.handle, **more,
        }  # fmt: skip
        return self.ask(RequestCode.ACK_MESSAGE, ext)

    def change_time(self, one: Popped, invisible_ms: int, *, group: str = "cg", **more: Any) -> Any:
        """A CHANGE_MESSAGE_INVISIBLETIME and its answer."""
        ext = {
            "consumerGroup": group, "topic": one.topic, "queueId": one.queue_id, "offset": one.offset,
            "extraInfo": one.handle, "invisibleTime": invisible_ms, **more,
        }  # fmt: skip
        return self.ask(RequestCode.CHANGE_MESSAGE_INVISIBLETIME, ext)

    def batch_ack(self, *items: dict[str, Any], broker: str | None = None) -> Any:
        """A BATCH_ACK_MESSAGE and its answer."""
        return self.ask(
            RequestCode.BATCH_ACK_MESSAGE,
            {},
            {"acks": list(items), "brokerName": broker or self.config.broker_name},
        )


def popped(reply: Reply, topic: str, group: str) -> list[Popped]:
    """The messages of an answer, each with its handle as the Java client makes it."""
    if reply.code != 0:
        return []
    ext = reply.ext
    starts = {tuple(item.split(" ")[:2]): item.split(" ")[2] for item in ext["startOffsetInfo"].split(";")}
    offsets = {
        tuple(item.split(" ")[:2]): [int(text) for text in item.split(" ")[2].split(",")]
        for item in ext["msgOffsetInfo"].split(";")
    }
    assert starts.keys() == offsets.keys()
    found = []
    for message in decode_messages(reply.body):
        assert message.topic == topic
        handle = message.get(m.PROPERTY_POP_CK)
        flag, real = "0", topic
        if handle is None:
            handle = (
                f"{starts['0', str(message.queue_id)]} {ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']} 0 "
                f"broker {message.queue_id} {message.queue_offset}"
            )
        else:
            flag = handle.split(" ")[4]
            real = f"%RETRY%{group}{'_' if flag == '1' else '+'}{topic}"
        assert message.queue_offset in offsets[flag, str(message.queue_id)]
        found.append(Popped(message.body, real, message.queue_id, message.queue_offset, handle, message))
    assert len(found) == sum(map(len, offsets.values()))
    return found


def bodies(messages: list[Popped]) -> list[int]:
    """The numbers that `PopRig.fill` sent, in order."""
    return sorted(int(one.body) for one in messages)


def rig_at(folder: Path, **settings: Any) -> PopRig:
    """A rig whose handles name the broker `broker`, and which looks for retries last unless told otherwise."""
    settings.setdefault("broker_name", "broker")
    settings.setdefault("pop_from_retry_probability", 0)
    return PopRig(folder, **settings)


__all__ = ["FakePeer", "PopRig", "Popped", "bodies", "popped", "rig_at"]
