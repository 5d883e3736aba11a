"""Timer messages: how late they come, and what many pending ones cost.

PYTHONPATH=src python bench/timers.py [--count 100000] [--over 600] [--queues 4]     lateness
PYTHONPATH=src python bench/timers.py --pending 1000000                             memory and restart

Lateness is the time at which the broker stored a message in its real topic, where consumers see it, less the time that
the message was to be delivered at. Due times are random over the given seconds.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from collections.abc import Iterator

from rig import Wire, memory_kib, serving, table

from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, encode_frame
from fastmq.protocol.message import decode_messages, decode_properties
from support.servers import Server

TOPIC = "Timers"
GROUP = 64  # sends on their way at once, per connection


class Sender(Wire):
    """A connection that sends many messages without waiting for each answer."""

    def send_all(self, dues: list[int], queues: int, body: bytes) -> None:
        """One message for every due time. RuntimeError at the first refusal."""
        for begin in range(0, len(dues), GROUP):
            part = dues[begin : begin + GROUP]
            frames = []
            for number, due_ms in enumerate(part, begin):
                ext = {
                    "a": "bench", "b": TOPIC, "c": "TBW102", "d": str(queues), "e": str(number % queues), "f": "0",
                    "g": str(int(time.time() * 1000)), "h": "0", "i": f"TIMER_DELIVER_MS\x01{due_ms}\x02", "j": "0",
                    "k": "false",
                }  # fmt: skip
                frames.append(
                    encode_frame(Command(RequestCode.SEND_MESSAGE_V2, opaque=number, ext=ext, body=body, version=479))
                )
            self._socket.sendall(b"".join(frames))
            for _ in part:
                answer = self.receive()
                if answer.code != 0:
                    raise RuntimeError(f"refused: {answer.code} {answer.remark}")


def pulled(server: Server, queue: int) -> Iterator[tuple[int, int]]:
    """(due, stored) of every message of a queue."""
    wire = Wire(server.broker)
    offset = 0
    while True:
        ext = {
            "consumerGroup": "bench", "topic": TOPIC, "queueId": str(queue), "queueOffset": str(offset),
            "maxMsgNums": "32", "sysFlag": "4", "commitOffset": "0", "suspendTimeoutMillis": "0", "subVersion": "0",
            "subscription": "*",
        }  # fmt: skip
        answer = wire.ask(RequestCode.PULL_MESSAGE, ext)
        if answer.code != 0:
            return
        for message in decode_messages(answer.body):
            yield int(decode_properties(message.properties)["TIMER_DELIVER_MS"]), message.store_timestamp
        offset = int(answer.ext["nextBeginOffset"])


def send(server: Server, dues: list[int], queues: int, body: bytes, connections: int = 4) -> float:
    """Send messages for due times over several connections; how many seconds it took."""
    begin = time.perf_counter()
    threads = [
        threading.Thread(target=Sender(server.broker).send_all, args=(dues[first::connections], queues, body))
        for first in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def lateness(options: argparse.Namespace) -> None:
    with serving({"autoCreateTopicEnable": "true"}) as server:
        start_ms = int(time.time() * 1000) + options.ahead * 1000
        dues = [start_ms + random.randrange(options.over * 1000) for _ in range(options.count)]
        took = send(server, dues, options.queues, b"x" * options.body)
        print(f"{options.count} messages sent in {took:.1f} s; due over {options.over} s", flush=True)
        if time.time() * 1000 > start_ms:
            print("warning: the first were due before the last was sent (--ahead)")
        time.sleep(max(0.0, max(dues) / 1000 - time.time()) + 2)
        late = sorted(stored - due for queue in range(options.queues) for due, stored in pulled(server, queue))
        early = sum(1 for one in late if one < 0)
        marks = [f"{late[min(len(late) - 1, int(len(late) * share))]}" for share in (0.5, 0.9, 0.99, 0.999)]
        head = ["messages", "early", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "RssAnon MB"]
        print(table(head, [[len(late), early, *marks, late[-1], f"{memory_kib(server) / 1024:.0f}"]]))
        assert len(late) == options.count, "messages are missing or doubled"
        assert early == 0


def memory(server: Server) -> tuple[str, str]:
    """Anonymous and all resident memory in MB."""
    return f"{memory_kib(server) / 1024:.0f}", f"{memory_kib(server, 'VmRSS') / 1024:.0f}"


def pending(options: argparse.Namespace) -> None:
    with serving({"autoCreateTopicEnable": "true"}) as server:
        before = memory_kib(server)
        start_ms = int(time.time() * 1000) + 3600_000
        dues = [start_ms + random.randrange(options.within * 1000) for _ in range(options.pending)]
        took = send(server, dues, options.queues, b"x" * options.body)
        rows = [
            ["sent", f"{took:.1f} s", f"{memory_kib(server) / 1024:.0f}", f"{memory_kib(server, 'VmRSS') / 1024:.0f}"]
        ]
        time.sleep(3)
        anonymous = memory_kib(server)
        rows.append(["at rest", "", f"{anonymous / 1024:.0f}", f"{memory_kib(server, 'VmRSS') / 1024:.0f}"])
        for how in ("stopped", "killed"):
            server.stop() if how == "stopped" else server.kill()
            begin = time.perf_counter()
            server.start()
            took = time.perf_counter() - begin
            waiting = Wire(server.broker).ask(RequestCode.GET_TIMER_METRICS).body
            assert f'"{TOPIC}":{{"count":{options.pending},'.encode() in waiting, waiting
            rows.append([f"restart after it was {how}", f"{took:.2f} s", *memory(server)])
        print(f"{options.pending} pending timers, RssAnon before {before / 1024:.0f} MB")
        print(table(["", "time", "RssAnon MB", "RSS MB"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--over", type=int, default=600, help="seconds over which the messages are due")
    parser.add_argument("--ahead", type=int, default=30, help="seconds until the first is due")
    parser.add_argument("--queues", type=int, default=4)
    parser.add_argument("--body", type=int, default=100)
    parser.add_argument("--pending", type=int, default=0, help="measure memory and restart with so many instead")
    parser.add_argument("--within", type=int, default=36 * 3600, help="seconds over which those are due")
    options = parser.parse_args()
    if options.pending:
        pending(options)
    else:
        lateness(options)


if __name__ == "__main__":
    main()
