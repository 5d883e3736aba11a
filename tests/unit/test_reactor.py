"""The reactor alone: sockets in, frames out. Turns are driven by the test, no thread runs."""

from __future__ import annotations

import gc
import select
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from fastmq._reactor import ENDED_BY_FRAMING, ENDED_BY_OUTPUT, Reactor
from fastmq._store import Store
from fastmq.protocol.command import Command, FrameSplitter, decode_frame, encode_frame
from support import reactors


class Bench:
    """A reactor with socket pairs; `step` runs turns until nothing moves."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.stack = ExitStack()

    def connect(self, service: int = 0) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.settimeout(60)
        self.stack.callback(ours.close)
        return ours, self.reactor.add(theirs.detach(), service)

    def frames(self, count: int) -> list[tuple[int, int, bytes | None]]:
        """Turns until so many cold items came; more would be seen by the next call."""
        items: list[tuple[int, int, bytes | None]] = []
        for _ in range(2000):
            self.reactor.turn(20)
            items += [item[:3] for item in self.reactor.take_cold()]
            if len(items) >= count:
                return items
        raise AssertionError(f"only {len(items)} of {count} items came: {items}")


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.stack.close()
    bench.reactor.close()


def frame(opaque: int, body: bytes = b"") -> bytes:
    return encode_frame(Command(34, opaque=opaque, body=body))


def test_frames_arrive_whole_with_their_connection_and_service(bench: Bench) -> None:
    one, one_id = bench.connect(service=2)
    two, two_id = bench.connect(service=7)
    one.sendall(frame(1, b"a") + frame(2, b"b"))
    two.sendall(frame(3))
    items = bench.frames(3)
    assert [(c, s, f) for c, s, f in items if c == one_id] == [(one_id, 2, frame(1, b"a")), (one_id, 2, frame(2, b"b"))]
    assert [(c, s, f) for c, s, f in items if c == two_id] == [(two_id, 7, frame(3))]


def test_a_frame_that_comes_byte_by_byte(bench: Bench) -> None:
    sock, connection = bench.connect()
    whole = frame(1, b"slow") + frame(2)
    for i in range(len(whole)):
        sock.sendall(whole[i : i + 1])
        bench.reactor.turn(100)
    assert [f for _, _, f, _ in bench.reactor.take_cold()] == [frame(1, b"slow"), frame(2)]
    assert connection


@pytest.mark.parametrize("size", [1, 100_000, 262_100, 262_144, 300_000, 524_288, 4 << 20])
def test_frames_of_every_size_next_to_small_ones(bench: Bench, size: int) -> None:
    sock, _ = bench.connect()
    sock.setblocking(False)
    data = frame(1) + frame(2, bytes(size)) + frame(3)
    sent = 0
    items: list[bytes | None] = []
    while len(items) < 3:
        if sent < len(data):
            with suppress(BlockingIOError):
                sent += sock.send(data[sent:])
        bench.reactor.turn(10)
        items += [f for _, _, f, _ in bench.reactor.take_cold()]
    assert items == [frame(1), frame(2, bytes(size)), frame(3)]


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack(">II", 16 << 20, 10),  # larger than a frame may be
        struct.pack(">iI", -5, 10),
        struct.pack(">II", 3, 0),
        struct.pack(">II", 20, 17),  # header longer than the frame
        struct.pack(">II", 20, (2 << 24) | 10),  # no such serialize type
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
)
def test_what_is_no_frame_closes_its_connection_and_no_other(bench: Bench, bad: bytes) -> None:
    good, good_id = bench.connect()
    evil, evil_id = bench.connect()
    evil.sendall(frame(1) + bad)
    items = bench.frames(2)
    assert items == [(evil_id, 0, frame(1)), (evil_id, 0, None)]
    assert evil.recv(1) == b""
    good.sendall(frame(2))
    assert bench.frames(1) == [(good_id, 0, frame(2))]


def test_the_end_of_a_connection_comes_after_its_frames(bench: Bench) -> None:
    sock, connection = bench.connect()
    sock.sendall(frame(1))
    sock.close()
    assert bench.frames(2) == [(connection, 0, frame(1)), (connection, 0, None)]
    assert not bench.reactor.send(connection, frame(1))
    assert bench.reactor.connections() == []


def test_what_a_client_sent_before_it_left_is_read_though_its_answers_cannot_be_written(bench: Bench) -> None:
    """A consumer that leaves tells its offsets with requests that nothing answers, and may leave answers unread."""
    listener = socket.create_server(("127.0.0.1", 0))
    bench.stack.callback(listener.close)
    sock = socket.create_connection(listener.getsockname())
    theirs = listener.accept()[0]
    theirs.setblocking(False)
    connection = bench.reactor.add(theirs.detach(), 0)
    assert bench.reactor.send(connection, bytes(16 << 20))
    bench.reactor.turn(0)
    sock.sendall(frame(1) + frame(2))
    sock.close()  # with unread bytes: a reset
    assert bench.frames(3) == [(connection, 0, frame(1)), (connection, 0, frame(2)), (connection, 0, None)]
    assert not bench.reactor.send(connection, b"late")
    assert bench.reactor.connections() == []


def test_answers_that_the_socket_does_not_take_at_once_arrive_whole(bench: Bench) -> None:
    sock, connection = bench.connect()
    answer = frame(1, bytes(range(256)) * 8192)
    assert bench.reactor.send(connection, answer)
    received = b""
    while len(received) < len(answer):
        bench.reactor.turn(0)
        received += sock.recv(1 << 16)
    assert received == answer


def test_large_bodies_and_what_comes_between_them_leave_in_order_and_are_let_go(bench: Bench) -> None:
    """A large body is sent from where it is: who holds it last is the one who made it."""
    sock, connection = bench.connect()
    large = bytes(range(256)) * 4096
    held = sys.getrefcount(large)
    heads = [b"head %d" % number for number in range(40)]
    expected = b""
    for number, head in enumerate(heads):
        assert bench.reactor.send(connection, (head, large) if number % 4 == 1 else head)
        expected += head + (large if number % 4 == 1 else b"")
        if number % 8 == 7:
            bench.reactor.turn(0)  # some is under way when more comes
    assert sys.getrefcount(large) == held + 10
    received = bytearray()
    while len(received) < len(expected):
        bench.reactor.turn(0)
        received += sock.recv(1 << 18)
    assert received == expected
    readable, _, _ = select.select([bench.reactor.cold_event_fd], [], [], 0)
    assert readable, "nobody was told that the bodies are done with"
    assert bench.reactor.take_cold() == []
    assert sys.getrefcount(large) == held
    assert select.select([bench.reactor.cold_event_fd], [], [], 0)[0] == []


def test_large_bodies_of_connections_that_end_are_let_go(bench: Bench) -> None:
    gone, gone_id = bench.connect()
    stuck, stuck_id = bench.connect()
    large = bytes(3 << 20)
    held = sys.getrefcount(large)
    for connection in (gone_id, stuck_id):
        bench.reactor.send(connection, (b"head", large))
        bench.reactor.send(connection, (b"head", large))
    bench.reactor.turn(0)
    gone.close()
    bench.frames(1)
    bench.reactor.send(gone_id, large)
    bench.reactor.turn(0)
    bench.reactor.take_cold()
    assert sys.getrefcount(large) == held + 2
    bench.reactor.send(stuck_id, large)  # no turn comes to it any more
    bench.reactor.close()
    bench.reactor.take_cold()
    del bench.reactor
    assert sys.getrefcount(large) == held
    bench.reactor = Reactor()
    stuck.close()


@pytest.mark.parametrize("size", [1000, 1 << 16])
def test_a_reader_that_never_reads_is_cut_off_at_the_bound(size: int) -> None:
    reactor = Reactor(max_output_bytes=1 << 20)
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = reactor.add(theirs.detach(), 0)
    sent = 0
    while reactor.send(connection, bytes(size)):
        reactor.turn(0)
        sent += size
        assert sent < 8 << 20, "the bound did not hold"
    assert reactor.take_cold() == [(connection, 0, None, ENDED_BY_OUTPUT)]
    ours.close()
    reactor.close()


def peak_memory_kib() -> int:
    """The most memory this process had since `forget_peak_memory`."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def forget_peak_memory() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be measured here: {error}")


@pytest.mark.parametrize("held", [False, True], ids=["at once", "held"])
def test_pulls_of_one_turn_do_not_gather_more_answers_than_the_bound(tmp_path: Path, held: bool) -> None:
    """300 pulls of a message of 1 MB, sent at once by a client that reads nothing, are not 300 MB of memory."""
    with ExitStack() as stack:
        store = Store(str(tmp_path), store_host=("127.0.0.1", 10911), segment_bytes=8 << 20)
        stack.callback(store.close)
        store.set_topic("plain", perm=6, read_queues=1, write_queues=1, flags=1)
        store.start()
        reactor = Reactor(store, max_output_bytes=1 << 20)
        stack.callback(reactor.close)
        reactor.set_send_policy(
            enabled=True, service=0, region="r", cluster="c", trace_on=True, max_message_bytes=4 << 20, failures={}
        )
        reactor.grant_pulls(
            "cg", "plain", queues=1, subscription="*", lite=True, sub_version=0, tag_codes=None, max_messages=32,
            max_bytes=1 << 20, suspend_ms=-1, group_sys_flag=0, topic_sys_flag=0,
        )  # fmt: skip
        producer, greedy = reactors.Client(reactor), reactors.Client(reactor)
        stack.callback(producer.sock.close)
        stack.callback(greedy.sock.close)

        def store_one(number: int) -> None:
            data = encode_frame(reactors.send(number, 0, bytes(1_000_000)))
            producer.sock.setblocking(False)
            while reactor.statistics()["hot_sends"] <= number:
                if data:
                    with suppress(BlockingIOError):
                        data = data[producer.sock.send(data) :]
                reactor.turn(10)

        store_one(0)
        forget_peak_memory()
        before = peak_memory_kib()
        ends = []
        greedy.send(*(reactors.pull(number, 0, int(held), wait_ms=60_000 if held else 0) for number in range(300)))
        if held:
            while reactor.statistics()["held_pulls"] < 300:
                reactor.turn(10)
            store_one(1)
        while not ends:
            reactor.turn(10)
            ends += [why for _, _, data, why in reactor.take_cold() if data is None]
        assert ends == [ENDED_BY_OUTPUT]
        assert peak_memory_kib() - before < 50_000


def test_frames_that_nobody_takes_are_left_in_the_sockets() -> None:
    """Backpressure: over the bound sockets are not read; nothing is lost once Python catches up."""
    reactor = Reactor(max_cold_bytes=1 << 20)
    clients = []
    for _ in range(8):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        clients.append((ours, reactor.add(theirs.detach(), 0)))
    one = frame(1, bytes(40_000))
    unsent = {connection: one * 100 for _, connection in clients}
    taken = dict.fromkeys(unsent, 0)

    def push() -> None:
        for ours, connection in clients:
            with suppress(BlockingIOError):
                while unsent[connection]:
                    unsent[connection] = unsent[connection][ours.send(unsent[connection]) :]

    for _ in range(300):
        push()
        reactor.turn(0)
    waiting = reactor.take_cold()
    held = sum(len(item or b"") for _, _, item, _ in waiting)
    assert (1 << 20) <= held < (1 << 20) + 8 * (600 << 10), "a receive a connection above the bound at most"
    for _ in range(20_000):
        for connection, _, item, _ in waiting:
            assert item == one
            taken[connection] += 1
        if all(count == 100 for count in taken.values()):
            break
        push()
        reactor.turn(1)
        waiting = reactor.take_cold()
    assert taken == dict.fromkeys(taken, 100)
    for ours, _ in clients:
        ours.close()
    reactor.close()


def test_a_closed_connection_first_gets_what_was_queued(bench: Bench) -> None:
    sock, connection = bench.connect()
    answer = frame(1, bytes(2 << 20))
    bench.reactor.send(connection, answer)
    bench.reactor.close_connection(connection)
    received = b""
    while chunk := sock.recv(1 << 16):
        received += chunk
        bench.reactor.turn(0)
    assert received == answer


def test_ids_are_not_reused_for_the_next_connection_in_a_slot(bench: Bench) -> None:
    first, first_id = bench.connect()
    first.close()
    bench.frames(1)
    second, second_id = bench.connect()
    assert first_id != second_id
    assert not bench.reactor.send(first_id, frame(9))
    assert bench.reactor.send(second_id, frame(9))
    assert decode_frame(second.recv(4096)).opaque == 9


def test_a_flood_of_connections(bench: Bench) -> None:
    pairs = [bench.connect() for _ in range(300)]
    for number, (sock, _) in enumerate(pairs):
        sock.sendall(frame(number))
    items = bench.frames(300)
    assert {(c, decode_frame(f).opaque) for c, _, f in items if f} == {
        (connection, number) for number, (_, connection) in enumerate(pairs)
    }


def test_use_after_close() -> None:
    reactor = Reactor()
    ours, theirs = socket.socketpair()
    connection = reactor.add(theirs.detach(), 0)
    reactor.close()
    reactor.close()
    assert ours.recv(1) == b""
    assert not reactor.send(connection, frame(1))
    with pytest.raises(OSError, match="cannot be added"):
        reactor.add(ours.fileno(), 0)
    ours.close()


def plain_send(opaque: int, queue_id: int = 0) -> bytes:
    ext = {
        "a": "pg", "b": "plain", "c": "TBW102", "d": "4", "e": str(queue_id), "f": "0", "g": "1700000000123", "h": "0",
        "i": f"UNIQ_KEY\x01K{opaque}\x02", "j": "0", "k": "false", "m": "false",
    }  # fmt: skip
    return encode_frame(Command(310, opaque=opaque, ext=ext, body=b"x"))


class Parking:
    """A store that flushes synchronously when the test says so, and a reactor that parks at most ten replies."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder), store_host=("127.0.0.1", 10911), sync_flush=True)
        self.store.set_topic("plain", perm=6, read_queues=4, write_queues=4, flags=1)
        self.reactor = Reactor(self.store, max_parked=10)
        self.reactor.set_send_policy(
            enabled=True, service=0, region="r", cluster="c", trace_on=True, max_message_bytes=1 << 20, failures={},
            busy=(2, "[OVERLOAD]too many wait"), sync_flush_timeout_ms=600_000,
        )  # fmt: skip
        self.stack = ExitStack()

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        ours.settimeout(60)
        self.stack.callback(ours.close)
        self.reactor.add(theirs.detach(), 0)
        return ours

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.reactor.turn(0)

    def answers(self, sock: socket.socket, count: int) -> list[Command]:
        splitter = FrameSplitter()
        frames: list[bytes] = []
        while len(frames) < count:
            self.turns()
            frames += splitter.feed(sock.recv(1 << 16))
        return [decode_frame(one) for one in frames]

    @property
    def parked(self) -> int:
        return self.reactor.statistics()["parked_replies"]

    def close(self) -> None:
        self.stack.close()
        self.reactor.close()
        self.store.close()


@pytest.fixture
def parking(tmp_path: Path) -> Iterator[Parking]:
    parking = Parking(tmp_path)
    yield parking
    parking.close()


def test_over_the_bound_of_parked_replies_sockets_are_not_read_and_others_are_refused(parking: Parking) -> None:
    one, two = parking.connect(), parking.connect()
    one.sendall(b"".join(plain_send(opaque) for opaque in range(10)))
    parking.turns()
    assert parking.parked == 10
    assert parking.reactor.overloaded
    one.sendall(plain_send(10))
    two.sendall(plain_send(99))
    refusal = parking.answers(two, 1)[0]
    assert (refusal.opaque, refusal.code, refusal.remark) == (99, 2, "[OVERLOAD]too many wait")
    assert refusal.ext == {"TRACE_ON": "true", "MSG_REGION": "r"}
    assert parking.parked == 10, "whoever has replies waiting is not read"
    parking.store.flush_step()
    answers = parking.answers(one, 10)
    assert [(a.opaque, a.code) for a in answers] == [(opaque, 0) for opaque in range(10)]
    parking.turns()
    assert parking.parked == 1, "the socket is read again"
    parking.store.flush_step()
    assert [a.opaque for a in parking.answers(one, 1)] == [10]
    assert not parking.reactor.overloaded
    assert parking.store.queue_offsets("plain", 0) == (0, 11), "what was refused is not stored"


def test_a_connection_that_ends_takes_its_parked_replies_off_the_count(parking: Parking) -> None:
    one, two = parking.connect(), parking.connect()
    one.sendall(b"".join(plain_send(opaque) for opaque in range(10)))
    parking.turns()
    assert parking.reactor.overloaded
    one.close()
    # paused sockets are not read; that its connection ended shows itself when its replies go out
    parking.store.flush_step()
    parking.turns()
    assert parking.parked == 0
    two.sendall(plain_send(99))
    parking.turns()
    parking.store.flush_step()
    assert parking.answers(two, 1)[0].code == 0


def test_a_connection_with_oneway_sends_only_is_read_again_after_the_flush(parking: Parking) -> None:
    """Nothing is ever written to it: the flush itself has to resume it."""
    sock = parking.connect()
    oneway = decode_frame(plain_send(1))
    oneway.flag = 2
    sock.sendall(encode_frame(oneway) * 12)
    parking.turns()
    assert parking.parked == 12, "a receive above the bound at most"
    sock.sendall(encode_frame(oneway) * 3)
    parking.turns()
    assert parking.parked == 12
    parking.store.flush_step()
    parking.turns()
    parking.store.flush_step()
    parking.turns()
    assert parking.parked == 0
    assert parking.store.queue_offsets("plain", 0) == (0, 12 + 3)


def test_python_gets_a_bounded_number_of_frames_at_a_time(bench: Bench) -> None:
    sock, connection = bench.connect()
    whole = b"".join(frame(opaque) for opaque in range(3000))
    sent = 0
    sock.setblocking(False)
    items: list[bytes | None] = []
    most = 0
    while len(items) < 3000:
        with suppress(BlockingIOError):
            sent += sock.send(whole[sent:])
        bench.reactor.turn(0)
        if sent < len(whole):
            continue
        taken = bench.reactor.take_cold()
        most = max(most, len(taken))
        items += [item for _, _, item, _ in taken]
    assert items == [frame(opaque) for opaque in range(3000)]
    assert 0 < most <= 1024
    assert bench.reactor.statistics()["cold_bytes"] == 0
    assert connection


def test_frames_say_when_they_came_and_ends_say_why(bench: Bench) -> None:
    good, good_id = bench.connect()
    evil, evil_id = bench.connect()
    before = time.monotonic_ns() // 1_000_000 - 200  # it reads a coarse clock, which its host may hold up
    good.sendall(frame(1))
    evil.sendall(b"GET / HTTP/1.1\r\n\r\n")
    for _ in range(5):
        bench.reactor.turn(20)
    good.close()
    for _ in range(5):
        bench.reactor.turn(20)
    (_, _, data, stamp), *ends = sorted(bench.reactor.take_cold(), key=lambda item: item[2] is None)
    assert data == frame(1)
    assert before <= stamp <= time.monotonic_ns() // 1_000_000
    assert {(connection, why) for connection, _, _, why in ends} == {(good_id, 0), (evil_id, ENDED_BY_FRAMING)}


def test_replies_of_many_threads_arrive_whole_and_in_each_threads_order_while_turns_go_on(bench: Bench) -> None:
    """Each thread answers on its own connection, one reply in fifty with megabytes; others keep the turns busy."""
    busy, _ = bench.connect()
    replies = {thread: [(number, 3 << 20 if number % 50 == 7 else 100) for number in range(150)] for thread in (1, 2)}
    pairs = {thread: bench.connect() for thread in replies}
    failures: list[BaseException] = []
    stop = threading.Event()

    def guarded(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def answer(thread: int) -> None:
        for number, size in replies[thread]:
            assert bench.reactor.send(pairs[thread][1], frame(number, bytes(size)))

    def receive(thread: int) -> None:
        splitter = FrameSplitter()
        wanted = replies[thread].copy()
        while wanted:
            data = pairs[thread][0].recv(1 << 20)
            assert data, "the connection was closed"
            for whole in splitter.feed(data):
                command = decode_frame(whole)
                assert (command.opaque, len(command.body)) == wanted.pop(0)

    def ask() -> None:
        while not stop.is_set():
            busy.sendall(frame(1) * 20)

    def take() -> None:
        while not stop.is_set():
            for connection, _, _, _ in bench.reactor.take_cold():
                bench.reactor.cold_done(connection, 10)

    turns = threading.Thread(target=bench.reactor.run)
    turns.start()
    others = [guarded(ask), guarded(take)]
    workers = [guarded(partial(work, thread)) for thread in replies for work in (answer, receive)]
    for worker in workers:
        worker.join(60)
    stop.set()
    for other in others:
        other.join(60)
    bench.reactor.stop()
    turns.join(60)
    assert not failures
    assert not any(thread.is_alive() for thread in (*workers, *others, turns))


def test_no_reply_is_left_lying_until_something_else_happens(bench: Bench) -> None:
    """A reply that is posted while a turn is at work wakes the next turn, also when the turn began with such a wake."""
    busy, _ = bench.connect()
    busy.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    asks, connection = bench.connect()
    turns = threading.Thread(target=bench.reactor.run)
    turns.start()
    try:
        for _ in range(1500):
            assert bench.reactor.send(connection, (b"", bytes(1 << 16)))  # wakes a turn...
            busy.sendall(frame(1) * 2000)  # ...which has something to do
            for _ in range(2):
                assert bench.reactor.send(connection, b"reply")
            expected = (1 << 16) + 10
            while expected:
                expected -= len(asks.recv(expected))  # waits for long, and nothing else comes
            while bench.reactor.take_cold():
                pass
    finally:
        bench.reactor.stop()
        turns.join()


def test_a_close_comes_behind_the_replies_that_were_given_before(bench: Bench) -> None:
    sock, connection = bench.connect()
    turns = threading.Thread(target=bench.reactor.run)
    turns.start()
    try:
        for number in range(200):
            bench.reactor.send(connection, frame(number))
        bench.reactor.close_connection(connection)
        received = b""
        while data := sock.recv(1 << 16):
            received += data
        assert received == b"".join(frame(number) for number in range(200))
    finally:
        bench.reactor.stop()
        turns.join(60)
    assert not bench.reactor.send(connection, frame(1))


def test_a_reactor_that_was_not_closed_goes_with_whatever_held_it(tmp_path: Path) -> None:
    """The collector takes a cycle apart in any order; a reactor's end still needs its store."""
    store = Store(str(tmp_path), store_host=("127.0.0.1", 10911))
    reactor = Reactor(store)
    held = weakref.WeakSet([Holder(reactor)])
    store.close()
    del store, reactor
    gc.collect()
    assert not held


class Holder:
    """Part of a cycle with a reactor in it."""

    def __init__(self, reactor: Reactor) -> None:
        self.me = self
        self.reactor = reactor
