"""The store against a model: any order of appending, flushing, deleting, closing, crashing and losing power.

The model is a list of messages. What must hold after every reopening: the log ends where it ended (after a power loss:
not before what was flushed), every queue holds exactly the messages of its topic since that was last deleted, and a key
finds its message. A power loss is played by clearing, after the crash, random pieces of what was never synced.
"""

import os
import random
import shutil
import struct
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastmq import _store

SEGMENT = 16_384
QUEUE_FILE = 400
TOPICS = ["alpha", "beta", "%RETRY%" + "g" * 150]


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.now = 1_700_000_000_000
        self.log: list[tuple[int, int, str, int, int, bytes]] = []  # offset, size, topic, queue, queue offset, body
        self.deleted: dict[str, int] = {}  # topic -> log offset at which it was deleted
        self.min_log = 0
        self.serial = 0
        self.store: _store.Store | None = None

    @initialize(sync=st.booleans())
    def begin(self, sync: bool) -> None:
        self.sync = sync
        self.open()

    def open(self) -> None:
        self.store = _store.Store(
            self.root,
            store_host=("127.0.0.1", 1),
            segment_bytes=SEGMENT,
            queue_file_bytes=QUEUE_FILE,
            index_slots=7,
            index_entries=20,
            sync_flush=self.sync,
            allocate_step_bytes=8192,
            wall_clock_ms=lambda: self.now,
        )

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close(clean=False)
        shutil.rmtree(self.root)

    def expected(self, topic: str, queue: int) -> list[tuple[int, int, str, int, int, bytes]]:
        since = self.deleted.get(topic, -1)
        return [m for m in self.log if m[2] == topic and m[3] == queue and m[0] >= since]

    @rule(topic=st.sampled_from(TOPICS), queue=st.integers(0, 2), size=st.integers(0, 3000), count=st.integers(1, 12))
    def put(self, topic: str, queue: int, size: int, count: int) -> None:
        for _ in range(count):
            self.serial += 1
            body = (b"%d." % self.serial).ljust(size, b"x")
            done = self.store.put(topic, queue, body, b"KEYS\1k%d\2" % self.serial)
            assert done.status == _store.ST_OK
            self.log.append((done.log_offset, done.size, topic, queue, done.queue_offset, body))

    @rule(
        topic=st.sampled_from(TOPICS),
        queue=st.integers(0, 2),
        sizes=st.lists(st.integers(0, 900), min_size=1, max_size=12),
    )
    def put_batch(self, topic: str, queue: int, sizes: list[int]) -> None:
        bodies, batch = [], b""
        for size in sizes:
            self.serial += 1
            body = (b"%d." % self.serial).ljust(size, b"y")
            keys = b"KEYS\1k%d\2" % self.serial
            batch += struct.pack(">iiiii", 22 + len(body) + len(keys), 0, 0, 0, len(body)) + body
            batch += struct.pack(">H", len(keys)) + keys
            bodies.append(body)
        status, placed = self.store.put_batch(topic, queue, batch)
        assert status == _store.ST_OK
        for done, body in zip(placed, bodies, strict=True):
            self.log.append((done.log_offset, done.size, topic, queue, done.queue_offset, body))

    @rule()
    def flush(self) -> None:
        self.store.flush_step()

    @rule()
    def allocate(self) -> None:
        self.store.allocate_step()

    @rule(size=st.integers(1, 40_000))
    def index(self, size: int) -> None:
        self.store.index_step(size)

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint_step()

    @rule(topic=st.sampled_from(TOPICS))
    def delete_topic(self, topic: str) -> None:
        self.store.delete_topic_data(topic)
        self.deleted[topic] = self.store.written_offset

    @rule()
    def delete_oldest_segment(self) -> None:
        self.store.flush_step()
        self.store.delete_segments(1)
        self.min_log = self.store.min_log_offset

    @rule(ms=st.integers(-5000, 100_000))
    def clock(self, ms: int) -> None:
        self.now += ms

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.open()
        assert self.store.recovery_log == []

    @rule()
    def kill(self) -> None:
        """What was written stays, as after SIGKILL; under SYNC_FLUSH recovery makes the rest durable."""
        end = self.store.written_offset
        self.store.close(clean=False)
        self.open()
        assert self.store.written_offset == end

    @rule(seed=st.integers(0, 1 << 32))
    def lose_power(self, seed: int) -> None:
        flushed, end = self.store.flushed_offset, self.store.written_offset
        durable = max(self.store.statistics()["durable_queue_offset"], 0)
        self.store.close(clean=False)
        lots = random.Random(seed)
        for path in sorted(Path(self.root, "commitlog").iterdir()):
            base = int(path.name)
            with path.open("r+b") as file:
                for at in range(base, base + SEGMENT, 512):
                    low, high = max(at, flushed), min(at + 512, end)
                    if low < high and lots.random() < 0.3:
                        file.seek(low - base)
                        file.write(bytes(high - low))
        for path in sorted(Path(self.root, "consumequeue").rglob("0*")):
            if path.is_file():
                data = bytearray(path.read_bytes())
                for at in range(0, len(data), 20):
                    if struct.unpack_from(">q", data, at)[0] >= durable and lots.random() < 0.3:
                        data[at : at + 20] = bytes(20)
                path.write_bytes(data)
        self.open()
        now_end = self.store.written_offset
        assert flushed <= now_end <= end
        self.log = [m for m in self.log if m[0] + m[1] <= now_end]
        self.deleted = {topic: min(at, now_end) for topic, at in self.deleted.items()}

    @invariant()
    def queues_hold_the_messages(self) -> None:
        if self.store is None:
            return
        visible = self.store.dispatched_offset
        assert visible == (self.store.flushed_offset if self.sync else self.store.written_offset)
        for topic in TOPICS:
            for queue in range(3):
                messages = self.expected(topic, queue)
                shown = [m for m in messages if m[0] < visible]
                ends = self.store.queue_offsets(topic, queue)
                assert [m[4] for m in messages] == list(range(len(messages)))
                assert (ends[1] if ends else 0) == len(shown)
                alive = [m for m in shown if m[0] >= self.min_log]
                if ends:
                    assert ends[0] == len(shown) - len(alive)
                entries = self.store.queue_entries(topic, queue, len(shown) - len(alive), 1000)
                assert [entry[:2] for entry in entries] == [m[:2] for m in alive]
                for m in alive[-3:]:
                    assert m[5] in self.store.read_messages([m[:2]])

    @rule()
    def ask_the_index(self) -> None:
        while self.store.index_step() > 0:
            pass
        for m in [m for m in self.log if self.min_log <= m[0] < self.store.dispatched_offset][-8:]:
            serial = m[5].split(b".")[0].decode()
            if serial:
                found, _time, _offset = self.store.query_index(m[2], f"k{serial}", 64, 0, 1 << 60)
                if len(m[5]) >= len(serial) + 1:
                    assert m[0] in found


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=int(os.environ.get("FASTMQ_EXAMPLES", "40")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
