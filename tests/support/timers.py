"""Timer messages of a server under test: sent through the plainest client, and what became of them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from fastmq.client.basic import BasicClient
from fastmq.protocol.codes import RequestCode
from support.remoting import call
from support.servers import Server

TOPIC = "timers"


@dataclass
class Timers:
    """What was sent: body to due time; and what was taken back."""

    due: dict[bytes, int] = field(default_factory=dict)
    taken_back: set[bytes] = field(default_factory=set)

    def send(self, server: Server, delays_ms: list[int]) -> None:
        """One message for each delay from now."""
        with BasicClient(server.namesrv) as client:
            for delay_ms in delays_ms:
                body = b"timer %d" % len(self.due)
                due_ms = time.time_ns() // 1_000_000 + delay_ms
                client.send(TOPIC, body, properties={"TIMER_DELIVER_MS": str(due_ms)}, queue_id=0)
                self.due[body] = due_ms

    def send_and_take_back(self, server: Server, delay_ms: int) -> None:
        """One message that must never come. The topic must be there."""
        body = b"timer %d" % len(self.due)
        due_ms = time.time_ns() // 1_000_000 + delay_ms
        ext = {
            "a": "g", "b": TOPIC, "c": "TBW102", "d": "1", "e": "0", "f": "0", "g": "0", "h": "0", "j": "0",
            "k": "false", "i": f"UNIQ_KEY\x01K{len(self.due)}\x02TIMER_DELIVER_MS\x01{due_ms}\x02",
        }  # fmt: skip
        answer = call(server.listen_port, RequestCode.SEND_MESSAGE_V2, ext, body)
        assert answer.code == 0, answer.remark
        ext = {"topic": TOPIC, "recallHandle": answer.ext["recallHandle"], "producerGroup": "g"}
        answer = call(server.listen_port, RequestCode.RECALL_MESSAGE, ext)
        assert answer.code == 0, answer.remark
        self.due[body] = due_ms
        self.taken_back.add(body)

    def wait(self, until_ms: int) -> None:
        """Until the wall clock says so."""
        time.sleep(max(0.0, until_ms / 1000 - time.time()))

    def came(self, server: Server) -> Counter[bytes]:
        """How often each message came; none of them early, none that was taken back."""
        seen: Counter[bytes] = Counter()
        with BasicClient(server.namesrv) as client:
            for message in client.receive(TOPIC, group=f"judge-{time.time_ns()}", wait_s=0):
                seen[message.body] += 1
                early = self.due[message.body] - message.store_timestamp
                assert early <= 0, f"{message.body!r} came {early} ms early"
        assert not self.taken_back & set(seen)
        return seen
