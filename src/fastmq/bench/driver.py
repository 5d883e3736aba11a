"""Opens the connections, runs a load and makes its result."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fastmq._load import Load
from fastmq.bench.progress import run_watched
from fastmq.bench.report import Histogram, Result, describe_codes
from fastmq.bench.target import Address, LoadError, Queue, allow_descriptors, connect, offsets
from fastmq.bench.workload import SendWorkload, pull_frame, ring
from fastmq.errors import UsageError
from fastmq.protocol.codes import RequestCode, ResponseCode

UNBOUNDED_SECONDS = 100_000.0
ONEWAY_FRAMES = 64
SUSPEND_MS = 5_000  # of a long poll
GOOD_PULLS = (ResponseCode.SUCCESS, ResponseCode.PULL_NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: one command line of `fastmq bench`.

    `connections` send (0: nothing is sent), `readers` pull (0: nothing is read). `rate` 0 is a closed loop of `depth`
    requests on each connection, otherwise messages a second in all. `batch` 0: a message a request.
    """

    queues: Sequence[Queue]
    connections: int = 0
    depth: int = 1
    rate: float = 0
    spin: bool = False  # wait for the next send without sleeping
    body_bytes: int = 1024
    batch: int = 0
    oneway: bool = False
    tag: str = ""
    readers: int = 0
    pull_batch: int = 32
    live: bool = False  # read what arrives, not what is there
    check_bodies: bool = True
    check_stored: bool = False  # compare the queues' ends with what was acknowledged
    seconds: float = 10.0
    count: int = 0  # messages
    timeout_s: float = 30.0
    group: str = "fastmq-bench"

    def describe(self) -> str:
        """The plan in a few words."""
        parts = []
        if self.connections:
            shape = f"{self.rate:g}/s over {self.connections}" if self.rate else f"{self.connections} x {self.depth}"
            shape = f"over {self.connections}" if self.oneway else shape
            kind = "oneway " if self.oneway else ""
            each = f" x {self.batch} a request" if self.batch else ""
            parts.append(f"send {kind}{shape}, {self.body_bytes} B{each}")
        if self.readers:
            parts.append(f"read over {self.readers}, {self.pull_batch} a pull{', long polls' if self.live else ''}")
        return f"{'; '.join(parts)}, {len(self.queues)} queues"


def run_plan(plan: Plan, what: str = "") -> Result:
    """Run it. LoadError if it cannot begin; whatever goes wrong later is counted in the result."""
    name = f"{what}: {plan.describe()}" if what else plan.describe()
    if plan.depth < 1 or plan.connections < 0 or plan.readers < 0 or plan.seconds <= 0 or plan.count < 0:
        raise UsageError("connections, depth, seconds and count are positive numbers")
    run_id = os.urandom(8) if plan.live else b""
    send_list = SendWorkload(plan.queues, plan.body_bytes, plan.batch, plan.oneway, plan.tag, plan.group, run_id)
    templates = send_list.templates() if plan.connections else []
    begin, end = _reach(plan)
    expected = sum(end) - sum(begin) if plan.readers and not plan.live else 0
    if plan.readers and not plan.live and expected == 0:
        raise LoadError(f"there is nothing to read in {', '.join(sorted({q.topic for q in plan.queues}))}")
    allow_descriptors(plan.connections + plan.readers)
    per_request = plan.batch or 1
    with contextlib.ExitStack() as stack:
        senders: list[tuple[int, list[int]]] = []
        for sock, numbers, place, places in _spread(plan.queues, plan.connections, stack):
            least = ONEWAY_FRAMES if plan.oneway else 4 if plan.rate else plan.depth
            senders.append((sock.fileno(), ring(numbers, place, places, least, len(templates[0][0]))))
        readers: list[int] = []
        cursors: list[tuple[int, bytes, bytes, int, int, int]] = []
        for sock, numbers, place, places in _spread(plan.queues, plan.readers, stack):
            for number in numbers[place::places]:
                head, tail = pull_frame(
                    plan.queues[number],
                    len(cursors),
                    group=plan.group,
                    batch=plan.pull_batch,
                    suspend_ms=_suspend_ms(plan) if plan.live else 0,
                )
                first, last = (end[number], -1) if plan.live else (begin[number], end[number])
                cursors.append((len(readers), head, tail, plan.queues[number].queue_id, first, last))
            readers.append(sock.fileno())
        load = Load(
            senders=senders,
            templates=templates,
            depth=plan.depth,
            rate=plan.rate,
            spin=plan.spin,
            oneway=plan.oneway,
            per_request=per_request,
            readers=readers,
            cursors=cursors,
            live=plan.live,
            verify=plan.check_bodies,
            run_id=run_id or bytes(8),
            key_base=(os.getpid() << 40) ^ (time.time_ns() & 0xFFFFFFFFFF),
            timeout_s=plan.timeout_s,
        )
        seconds = UNBOUNDED_SECONDS if plan.count and plan.connections else plan.seconds
        started = time.monotonic()
        undisturbed = run_watched(load, seconds, -(-plan.count // per_request), name)
    stored = None
    elapsed_s = load.elapsed_ns / 1e9
    if plan.connections and (plan.oneway or plan.check_stored):
        stored, waited = _stored(plan, end, load.sent * per_request if plan.oneway else load.done, started)
        if plan.oneway:
            elapsed_s = waited
    read_all = undisturbed and elapsed_s < plan.seconds
    return _result(plan, name, load, elapsed_s, stored, expected if read_all else load.received)


def _suspend_ms(plan: Plan) -> int:
    """Shorter than the time after which the load gives up."""
    return max(1, min(SUSPEND_MS, int(plan.timeout_s * 500)))


def _reach(plan: Plan) -> tuple[list[int], list[int]]:
    """First and next offset of every queue, as far as the plan needs them."""
    none = [0] * len(plan.queues)
    if not (plan.readers or plan.oneway or plan.check_stored):
        return none, none
    end = offsets(plan.queues, RequestCode.GET_MAX_OFFSET)
    begin = offsets(plan.queues, RequestCode.GET_MIN_OFFSET) if plan.readers and not plan.live else none
    return begin, end


def _stored(plan: Plan, before: Sequence[int], expected: int, started: float) -> tuple[int, float]:
    """Wait until the queues have grown by what is expected or grow no more: by how much, how long after the start."""
    deadline = time.monotonic() + plan.timeout_s
    last, still_since = -1, time.monotonic()
    while True:
        now = time.monotonic()
        stored = sum(offsets(plan.queues, RequestCode.GET_MAX_OFFSET)) - sum(before)
        if stored != last:
            last, still_since = stored, now
        # a queue that no longer grows will not catch up
        if stored >= expected or now > deadline or now - still_since > min(3.0, plan.timeout_s):
            return stored, still_since - started
        time.sleep(0.005)


def _spread(
    queues: Sequence[Queue], connections: int, stack: contextlib.ExitStack
) -> Iterator[tuple[socket.socket, list[int], int, int]]:
    """Connections in turn to every broker that has queues: each with the numbers of that broker's queues, and which of
    how many connections to it this one is. A broker gets no more readers than it has queues to read.
    """
    brokers: dict[Address, list[int]] = {}
    for number, queue in enumerate(queues):
        brokers.setdefault(queue.address, []).append(number)
    addresses = list(brokers)
    for index in range(max(connections, len(addresses)) if connections else 0):
        address = addresses[index % len(addresses)]
        sock = stack.enter_context(connect(address))
        sock.setblocking(False)
        places = -(-(max(connections, len(addresses)) - index % len(addresses)) // len(addresses))
        yield sock, brokers[address], index // len(addresses), places


def _result(plan: Plan, what: str, load: Load, elapsed_s: float, stored: int | None, expected: int) -> Result:
    per_request = load.per_request
    sent = load.sent * per_request
    done = max(0, min(stored or 0, sent)) if plan.oneway else load.done
    counts = {
        "lost": load.lost * per_request,
        "timed_out": load.timed_out * per_request,
        "unexpected": load.unexpected,
        "connection_errors": load.connection_errors,
        "protocol_errors": load.protocol_errors,
        "pulls_lost": load.pulls_lost,
        "pulls_timed_out": load.pulls_timed_out,
        "order_errors": load.order_errors,
        "checksum_errors": load.checksum_errors,
        "malformed": load.malformed,
        "missing": max(0, (load.done - load.own) if plan.live else (expected - load.received) if plan.readers else 0),
        "not_stored": max(0, (sent if plan.oneway else load.done) - stored) if stored is not None else 0,
    }
    sentences = {
        "lost": "messages were in flight when their connection broke",
        "timed_out": f"messages were not answered within {plan.timeout_s:g} s",
        "unexpected": "answers came to nothing that was asked, or too late",
        "connection_errors": "connections were closed by the server or broke",
        "protocol_errors": "connections carried something that is no answer",
        "pulls_lost": "pulls were in flight when their connection broke",
        "pulls_timed_out": f"pulls were not answered within {plan.timeout_s:g} s",
        "order_errors": "times a queue offset was not the next one",
        "checksum_errors": "messages do not match their body's checksum",
        "malformed": "pull answers hold something that is no message",
        "missing": "messages were acknowledged and not delivered" if plan.live else "messages were not delivered",
        "not_stored": "messages were sent and are not in the queues",
    }
    failures = describe_codes("sends", load.send_codes, (ResponseCode.SUCCESS,))
    failures += describe_codes("pulls", load.pull_codes, GOOD_PULLS if plan.live else (ResponseCode.SUCCESS,))
    failures += [f"{count:,} {sentences[name]}" for name, count in counts.items() if count]
    if plan.connections and done == 0:
        failures.append("not one message was sent with success")
    latency = {name: Histogram(*buckets) for name, buckets in load.latencies().items()}
    if plan.live:
        del latency["pull"]  # how long a poll waited for messages says nothing about the server
    notes = []
    if plan.readers > len(plan.queues):
        notes.append(f"{len(plan.queues)} queues keep no more than as many of the {plan.readers} connections busy")
    if stored is not None and not counts["not_stored"]:
        notes.append(f"the queues have grown by {stored:,}")
    if latency["lateness"].count:
        late = latency["lateness"]
        notes.append(f"sends left p99 {late.percentile_ns(99) / 1e6:.3f} ms after their time (part of the latency)")
    acknowledged, delivered = load.timeline()
    return Result(
        what=what,
        elapsed_s=elapsed_s,
        sent=sent,
        done=done,
        received=load.received,
        received_bytes=load.received_bytes,
        send_codes=load.send_codes,
        pull_codes=load.pull_codes,
        latency=latency,
        acknowledged=acknowledged,
        delivered=delivered,
        failures=failures,
        counts=counts,
        notes=notes,
    )
