"""POP as clients of RocketMQ 5 do it, over plain connections: consumers, and a server with what they work on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from fastmq.protocol.message import StoredMessage, decode_messages
from support.remoting import Answer, Connection, call
from support.servers import Server
from support.waiting import wait_until

POP, ACK, PEEK, CHANGE, NOTIFY, POLLING, BATCH_ACK = 200050, 200051, 200052, 200053, 200054, 200055, 200151
CREATE_TOPIC, SEND, DELETE_TOPIC, SET_MODE = 17, 310, 215, 401
ORDERLY = 999


@dataclass
class Popped:
    """A message and its handle."""

    message: StoredMessage
    topic: str  # as an ack names it
    handle: str

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def parts(self) -> list[str]:
        """Start offset, pop time, invisible time, revive queue, retry flag, broker, queue, offset."""
        return self.handle.split(" ")


def popped(answer: Answer, topic: str, group: str) -> list[Popped]:
    """The messages of an answer with the handles that a client makes for them."""
    if answer.code != 0:
        assert answer.code in (209, 210), answer
        return []
    starts = {tuple(item.split(" ")[:2]): item.split(" ")[2] for item in answer.ext["startOffsetInfo"].split(";")}
    offsets = {
        tuple(item.split(" ")[:2]): item.split(" ")[2].split(",") for item in answer.ext["msgOffsetInfo"].split(";")
    }
    found = []
    for message in decode_messages(answer.body):
        handle = message.get("POP_CK")
        if handle is None:
            queue = "0", str(message.queue_id)
            assert str(message.queue_offset) in offsets[queue]
            handle = (
                f"{starts[queue]} {answer.ext['popTime']} {answer.ext['invisibleTime']} {answer.ext['reviveQid']} "
                f"0 broker-a {message.queue_id} {message.queue_offset}"
            )
        assert message.topic == topic
        real = {"0": topic, "1": f"%RETRY%{group}_{topic}", "2": f"%RETRY%{group}+{topic}"}[handle.split(" ")[4]]
        found.append(Popped(message, real, handle))
    return found


class Consumer:
    """A member of a group on a connection of its own."""

    def __init__(self, port: int, topic: str, group: str = "g") -> None:
        self.connection = Connection(port, seconds=60)
        self.topic, self.group = topic, group

    def start_pop(self, *, wait_ms: int = 0, most: int = 32, invisible_ms: int = 60_000, **more: Any) -> int:
        ext = {
            "consumerGroup": self.group, "topic": self.topic, "queueId": -1, "maxMsgNums": most, "initMode": 0,
            "invisibleTime": invisible_ms, "pollTime": wait_ms, "bornTime": time.time_ns() // 1_000_000,
            "expType": "TAG", "exp": "*", "order": False, **more,
        }  # fmt: skip
        return self.connection.start(POP, ext)

    def take_pop(self, number: int) -> list[Popped]:
        return popped(self.connection.take(number), self.topic, self.group)

    def pop(self, **more: Any) -> list[Popped]:
        return self.take_pop(self.start_pop(**more))

    def pop_all(self, count: int, **more: Any) -> list[Popped]:
        """Pop until there are so many."""
        found: list[Popped] = []
        wait_until(lambda: found.extend(self.pop(wait_ms=1_000, **more)) or len(found) >= count, f"{count} are popped")
        assert len(found) == count
        return found

    def _handle(self, one: Popped) -> dict[str, Any]:
        return {
            "consumerGroup": self.group, "topic": one.topic, "queueId": one.parts[6], "offset": one.parts[7],
            "extraInfo": one.handle,
        }  # fmt: skip

    def ack(self, one: Popped, code: int = 0) -> None:
        answer = self.connection.call(ACK, self._handle(one))
        assert answer.code == code, answer

    def change(self, one: Popped, invisible_ms: int) -> Popped:
        """The message with its new handle."""
        answer = self.connection.call(CHANGE, {**self._handle(one), "invisibleTime": invisible_ms})
        assert answer.code == 0, answer
        _, _, _, _, retry, broker, queue, offset = one.parts
        start = one.parts[0] if one.parts[3] == str(ORDERLY) else offset
        ext = answer.ext
        handle = f"{start} {ext['popTime']} {ext['invisibleTime']} {ext['reviveQid']} {retry} {broker} {queue} {offset}"
        return Popped(one.message, one.topic, handle)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stage:
    """A server and who is connected to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.consumers: list[Consumer] = []
        self.topics = 0

    def call(self, code: int, ext: dict[str, Any], body: bytes = b"") -> Answer:
        return call(self.server.listen_port, code, ext, body)

    def topic(self, queues: int = 2) -> str:
        """A new topic."""
        self.topics += 1
        name = f"pop-{self.topics}"
        answer = self.call(
            CREATE_TOPIC,
            {
                "topic": name, "defaultTopic": "TBW102", "readQueueNums": queues, "writeQueueNums": queues, "perm": 6,
                "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "order": False,
            },
        )  # fmt: skip
        assert answer.code == 0, answer
        return name

    def send(self, topic: str, *bodies: bytes, queues: int = 2, tag: str = "T") -> None:
        """Messages to the queues in turn."""
        with Connection(self.server.listen_port) as connection:
            for number, body in enumerate(bodies):
                ext = {
                    "a": "pg", "b": topic, "c": "TBW102", "d": queues, "e": number % queues, "f": 0,
                    "g": time.time_ns() // 1_000_000, "h": 0, "i": f"TAGS\x01{tag}\x02", "j": 0, "k": False, "m": False,
                }  # fmt: skip
                answer = connection.call(SEND, ext, body)
                assert answer.code == 0, answer

    def consumer(self, topic: str, group: str = "g") -> Consumer:
        consumer = Consumer(self.server.listen_port, topic, group)
        self.consumers.append(consumer)
        return consumer

    def waiting(self, topic: str, group: str = "g", queue: int = -1) -> int:
        """How many pops wait."""
        answer = self.call(POLLING, {"consumerGroup": group, "topic": topic, "queueId": queue})
        assert answer.code == 0, answer
        return int(answer.ext["pollingNum"])

    def wait_for_waiting(self, count: int, topic: str, group: str = "g", queue: int = -1) -> None:
        wait_until(lambda: self.waiting(topic, group, queue) == count, f"{count} pops wait")

    def disconnect(self) -> None:
        for consumer in self.consumers:
            consumer.close()
        self.consumers.clear()


def bodies(found: list[Popped]) -> list[bytes]:
    return sorted(one.body for one in found)
