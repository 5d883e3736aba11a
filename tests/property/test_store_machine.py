"""The store against a model: any order of appending, flushing, deleting, closing, crashing and losing power.

The model is a list of messages. What must hold after every reopening: the log ends where it ended (after a power loss:
not before what was flushed), every queue (light queues too) holds exactly the messages of its topic since that was last
deleted, with the codes of their tags, and a key finds its message. A power loss is played by clearing, after the crash,
random pieces of what was never synced.
"""

import random
import shutil
import struct
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastmq import _store
from fastmq.protocol.message import decode_message, decode_properties

SEGMENT = 16_384
QUEUE_FILE = 400
TOPICS = ["alpha", "beta", "%RETRY%" + "g" * 150]
LIGHT = ["%LMQ%a", "%LMQ%b/c", "plain", "%LMQ%d"]
EXT_FILE = 2048


def properties_of(record: bytes) -> dict[str, str]:
    return decode_properties(decode_message(record)[0].properties)


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp()
        self.now = 1_700_000_000_000
        self.log: list[tuple[int, int, str, int, int, bytes]] = []  # offset, size, topic, queue, queue offset, body
        self.light: list[tuple[int, int, str, int]] = []  # offset, size, light queue, queue offset
        self.tags: dict[int, str] = {}  # by log offset
        self.keyless: set[int] = set()  # log offsets of messages whose keys a power loss has changed
        self.torn = False  # a power loss has changed what is said about light queues
        self.deleted: dict[str, int] = {}  # topic -> log offset at which it was deleted
        self.min_log = 0
        self.serial = 0
        self.store: _store.Store | None = None

    @initialize(sync=st.booleans(), ext=st.booleans())
    def begin(self, sync: bool, ext: bool) -> None:
        self.sync = sync
        self.ext = ext
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
            ext_enabled=self.ext,
            ext_file_bytes=EXT_FILE,
            light_queues=True,
            wall_clock_ms=lambda: self.now,
        )

    def teardown(self) -> None:
        if self.store is not None:
            self.store.close(clean=False)
        shutil.rmtree(self.root)

    def expected(self, topic: str, queue: int) -> list[tuple[int, int, str, int, int, bytes]]:
        since = self.deleted.get(topic, -1)
        return [m for m in self.log if m[2] == topic and m[3] == queue and m[0] >= since]

    @rule(
        topic=st.sampled_from(TOPICS),
        queue=st.integers(0, 2),
        size=st.integers(0, 3000),
        count=st.integers(1, 12),
        tags=st.sampled_from(["", "red", "blue"]),
        light=st.lists(st.sampled_from(LIGHT), max_size=3),
    )
    def put(self, topic: str, queue: int, size: int, count: int, tags: str, light: list[str]) -> None:
        more = f"TAGS\1{tags}\2INNER_MULTI_DISPATCH\1{','.join(light)}\2".encode()
        for _ in range(count):
            self.serial += 1
            body = (b"%d." % self.serial).ljust(size, b"x")
            done = self.store.put(topic, queue, body, b"KEYS\1k%d\2" % self.serial + more)
            assert done.status == _store.ST_OK
            self.log.append((done.log_offset, done.size, topic, queue, done.queue_offset, body))
            self.tags[done.log_offset] = tags
            self.keyless.discard(done.log_offset)
            if not topic.startswith("%RETRY%"):
                for name in dict.fromkeys(name for name in light if name in ("%LMQ%a", "%LMQ%d")):
                    since = self.deleted.get(name, -1)
                    number = sum(one[2] == name and one[0] >= since for one in self.light)
                    self.light.append((done.log_offset, done.size, name, number))

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
            self.tags[done.log_offset] = ""
            self.keyless.discard(done.log_offset)

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

    @rule(topic=st.sampled_from([*TOPICS, "%LMQ%a"]))
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
        unsafe = {m[0]: properties_of(self.store.read_record(m[0])) for m in self.log if m[0] + m[1] > flushed}
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
                    log_offset, _size, code = struct.unpack_from(">qiq", data, at)
                    if log_offset >= durable and lots.random() < 0.3:
                        data[at : at + 20] = bytes(20)
                    if log_offset >= durable and code < -(1 << 31) and lots.random() < 0.3:
                        self._lose_unit(path.parent, code + (1 << 63))
                path.write_bytes(data)
        self.open()
        now_end = self.store.written_offset
        assert flushed <= now_end <= end
        self.log = [m for m in self.log if m[0] + m[1] <= now_end]
        self.light = [m for m in self.light if m[0] + m[1] <= now_end]
        for m in self.log:
            if m[0] in unsafe:
                # nothing guards the properties of a record that was never flushed
                before, now = unsafe[m[0]], properties_of(self.store.read_record(m[0]))
                self.tags[m[0]] = now.get("TAGS", "")
                if before.get("KEYS") != now.get("KEYS"):
                    self.keyless.add(m[0])
                names = ("INNER_MULTI_DISPATCH", "INNER_MULTI_QUEUE_OFFSET")
                if [before.get(name) for name in names] != [now.get(name) for name in names]:
                    self.torn = True
        self.deleted = {topic: min(at, now_end) for topic, at in self.deleted.items()}

    def _lose_unit(self, queue: Path, offset: int) -> None:
        base = offset - offset % EXT_FILE
        path = Path(self.root, "consumequeue_ext", *queue.parts[-2:], f"{base:020d}")
        with path.open("r+b") as file:
            file.seek(offset - base)
            file.write(bytes(20))

    @invariant()
    def light_queues_hold_the_messages(self) -> None:
        if self.store is None or self.torn:
            return
        for name in ("%LMQ%a", "%LMQ%d"):
            since = self.deleted.get(name, -1)
            shown = [m for m in self.light if m[2] == name and since <= m[0] < self.store.dispatched_offset]
            ends = self.store.queue_offsets(name, 0)
            assert (ends[1] if ends else 0) == len(shown)
            alive = [m for m in shown if m[0] >= self.min_log]
            entries = self.store.queue_entries(name, 0, len(shown) - len(alive), 1000)
            assert [entry[:2] for entry in entries] == [m[:2] for m in alive]
            assert [entry[2] for entry in entries] == [_store.java_hash(self.tags[m[0]]) for m in alive]

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
                assert [entry[2] for entry in entries] == [_store.java_hash(self.tags.get(m[0], "")) for m in alive]
                for m in alive[-3:]:
                    assert m[5] in self.store.read_messages([m[:2]])

    @rule()
    def ask_the_index(self) -> None:
        while self.store.index_step() > 0:
            pass
        for m in [m for m in self.log if self.min_log <= m[0] < self.store.dispatched_offset][-8:]:
            serial = m[5].split(b".")[0].decode()
            if serial and m[0] not in self.keyless:
                found, _time, _offset = self.store.query_index(m[2], f"k{serial}", 64, 0, 1 << 60)
                if len(m[5]) >= len(serial) + 1:
                    assert m[0] in found


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
