"""Types of the storage engine (`_store.pyx`): commit log, consume queues, index, flush, recovery."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, final

# status of an operation; the numbers of `_store/status.pxi`
ST_OK: Final = 0
ST_NEED_COMMIT: Final = 1
ST_BODY_TOO_LARGE: Final = 2
ST_PROPERTIES_TOO_LARGE: Final = 3
ST_TOPIC_TOO_LONG: Final = 4
ST_RECORD_TOO_LARGE: Final = 5
ST_DISK_FULL: Final = 6
ST_IO_ERROR: Final = 7
ST_FLUSH_FAILED: Final = 8
ST_CLOSED: Final = 9
ST_BAD_BATCH: Final = 10
ST_NO_MEMORY: Final = 11
ST_NOT_WRITEABLE: Final = 12
ST_TOO_MANY_LMQ: Final = 13

# outcome of a read (RocketMQ's GetMessageStatus)
FOUND: Final = 0
NO_MATCHED_MESSAGE: Final = 1
MESSAGE_WAS_REMOVING: Final = 2
OFFSET_FOUND_NULL: Final = 3
OFFSET_OVERFLOW_BADLY: Final = 4
OFFSET_OVERFLOW_ONE: Final = 5
OFFSET_TOO_SMALL: Final = 6
NO_MATCHED_LOGIC_QUEUE: Final = 7
NO_MESSAGE_IN_QUEUE: Final = 8

def crc32(data: bytes | bytearray | memoryview, *, kernel: str = "auto") -> int:
    """CRC-32 (IEEE), unmasked. `kernel`: "auto", "table", "pclmul"; one that cannot run raises RuntimeError."""

def java_hash(text: str) -> int:
    """java.lang.String.hashCode over UTF-16 code units, signed 32 bit."""

@final
class Appended:
    """Where a message went. `status` is ST_OK or why it was refused (then the offsets are -1)."""

    status: int
    log_offset: int
    size: int
    queue_offset: int
    store_timestamp_ms: int
    flush_target: int  # the log offset that must be flushed before this may be called durable

@final
class ReadResult:
    """Answer of `Store.read_queue`. `messages` holds (log_offset, size) in queue order."""

    status: int
    next_offset: int
    min_offset: int
    max_offset: int
    messages: list[tuple[int, int]]
    suggest_slave: bool

@final
class Store:
    """One store directory, byte-compatible with RocketMQ 5.3.3 (DefaultMessageStore).

    Opening takes the fcntl lock (StoreLockedError), loads, recovers and creates `abort`. Threads are not started by
    the constructor: `start()` starts flusher, index dispatcher and allocator; without it tests call the `*_step`s.
    All methods are safe to call from any thread; the GIL is released around everything that may block.
    """

    def __init__(
        self,
        root: str,
        *,
        store_host: tuple[str, int],
        commit_log_path: str | None = None,
        segment_bytes: int = 1 << 30,
        queue_file_bytes: int = 6_000_000,
        index_slots: int = 5_000_000,
        index_entries: int = 20_000_000,
        index_enabled: bool = True,
        sync_flush: bool = False,
        flush_interval_ms: int = 500,
        flush_least_pages: int = 4,
        flush_thorough_interval_ms: int = 10_000,
        queue_flush_interval_ms: int = 1000,
        allocate_step_bytes: int = 32 << 20,
        max_message_bytes: int = 4 << 20,
        delay_levels_ms: Sequence[int] = (),
        check_crc_on_recover: bool = True,
        ext_enabled: bool = False,
        ext_file_bytes: int = 50_331_648,
        light_queues: bool = False,
        max_light_queues: int = 20_000,
        wall_clock_ms: Callable[[], int] | None = None,
        fault_script: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """`delay_levels_ms` are needed for the tag codes of SCHEDULE_TOPIC_XXXX (deliver time).

        `fault_script`: faults for the file-call table (_store/fileops.pxi), e.g.
        [{"call": "pwrite", "file": "commitlog", "nth": 3, "errno": ENOSPC}, {"call": "pwrite", "short": 100}];
        "times" is how many calls in a row are hit, -1 for all from there on. "hold" is a descriptor: the call waits
        until a byte can be read from it, or its end; "delay_ms": it waits for so long.

        `ext_enabled`: queue entries get units in consumequeue_ext (_store/ext.pxi); units are read if there are any.
        `light_queues`: messages with INNER_MULTI_DISPATCH get entries in %LMQ% queues too (_store/lmq.pxi).

        Raises StoreError (wrong file sizes, missing files, failing calls) and UsageError (settings).
        """

    def start(self) -> None: ...
    def close(self, *, clean: bool = True) -> None:
        """Flush, checkpoint, remove `abort`, unlock. clean=False leaves all as a SIGKILL would (tests)."""

    root: str  # the absolute path
    bit_maps: Callable[[str, bytes], bytes | None] | None
    """With ext_enabled: asked for the bit map of each message that `put` gets, by topic and properties."""
    recovery_log: list[str]  # what recovery found and did, one sentence each: file, offset, action

    # --- topics and queues -------------------------------------------------
    def set_topic(self, name: str, *, perm: int, read_queues: int, write_queues: int, flags: int) -> None:
        """Tell the engine's table about a topic (the broker holds the truth in topics.json)."""
    def remove_topic(self, name: str) -> None: ...
    def delete_topic_data(self, name: str) -> None:
        """Remove the consume queues of a topic from memory and disk; its queue offsets begin again at 0."""
    def queues(self) -> list[tuple[str, int, int, int]]:
        """(topic, queue id, min offset, max offset) of every queue that exists on disk or in memory."""
    def queue_offsets(self, topic: str, queue_id: int) -> tuple[int, int] | None:
        """(min, max) as consumers see them; None if the queue was never used."""

    # --- writing -----------------------------------------------------------
    def put(
        self,
        topic: str,
        queue_id: int,
        body: bytes | memoryview,
        properties: bytes,
        *,
        flag: int = 0,
        sys_flag: int = 0,
        born_timestamp_ms: int = 0,
        born_host: tuple[str, int] = ("127.0.0.1", 0),
        reconsume_times: int = 0,
        prepared_offset: int = 0,
        tags_code: int | None = None,
        internal: bool = False,
    ) -> Appended:
        """Append one message. tags_code None: the Java hash of the TAGS property. internal: a message of the broker
        itself, or one that it accepted before; maxMessageSize does not count then, only what a commit log file holds.

        For SCHEDULE_TOPIC_XXXX it is always computed (store time + delay of the DELAY property).
        """
    def put_batch(
        self,
        topic: str,
        queue_id: int,
        batch: bytes | memoryview,
        *,
        sys_flag: int = 0,
        born_timestamp_ms: int = 0,
        born_host: tuple[str, int] = ("127.0.0.1", 0),
    ) -> tuple[int, list[Appended]]:
        """Append a client batch body (remoting.md 4.6), all of it or nothing. (status, one Appended per message)."""

    @property
    def written_offset(self) -> int:
        """End of the log."""
    @property
    def flushed_offset(self) -> int: ...
    @property
    def dispatched_offset(self) -> int:
        """End of what the queues hold."""
    @property
    def indexed_offset(self) -> int: ...
    @property
    def min_log_offset(self) -> int: ...
    @property
    def failed(self) -> str | None:
        """Why the log takes no more writes (a failed fsync is final), or None."""

    # --- reading -----------------------------------------------------------
    def read_queue(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        max_messages: int,
        *,
        max_bytes: int = 262_144,
        tag_codes: frozenset[int] | None = None,
        mask: bytes | None = None,
        max_scanned: int = 800,
    ) -> ReadResult:
        """RocketMQ's getMessage (store.md 13). tag_codes None: everything matches.

        A mask says in its place of each entry from `offset` on whether it matches (a byte, 0: no), and its length how
        many are looked at.
        """
    def queue_properties(
        self,
        topic: str,
        queue_id: int,
        offset: int,
        count: int,
        *,
        bits: Sequence[int] = (),
        bit_count: int = 0,
        since_ms: int = 0,
    ) -> list[bytes | bool | None]:
        """Properties, as stored, of the messages from a queue offset on: `count` and 128 of them at most.

        None for a record that is no longer (or not yet) in the log. False for one stored after since_ms with a bit map
        of bit_count bits in consumequeue_ext in which one of `bits` is not set. BatchCQ: those of the offset's batch.
        """
    def read_messages(self, messages: Iterable[tuple[int, int]]) -> bytes:
        """The records at (log_offset, size), one after another, copied."""
    def read_record(self, log_offset: int) -> bytes | None:
        """The record that starts at log_offset, if there is a well-formed one."""
    def queue_entries(self, topic: str, queue_id: int, offset: int, count: int) -> list[tuple[int, int, int]]:
        """Queue entries (log_offset, size, tags_code) from a queue offset on.

        The tags code is the real one, also if it is in consumequeue_ext; an address if it cannot be read there.
        """
    def search_offset(self, topic: str, queue_id: int, timestamp_ms: int, *, upper: bool = False) -> int: ...
    def store_timestamp_at(self, topic: str, queue_id: int, offset: int) -> int:
        """Store time in ms of the message at a queue offset, -1 if there is none."""
    def earliest_store_timestamp(self) -> int: ...
    def query_index(
        self, topic: str, key: str, max_count: int, begin_ms: int, end_ms: int
    ) -> tuple[list[int], int, int]:
        """(log offsets ascending, index last update timestamp, index last update physical offset)."""

    # --- waiting -----------------------------------------------------------
    @property
    def flush_event_fd(self) -> int:
        """Eventfd: readable when flushed_offset moved or the log failed."""
    @property
    def moved_event_fd(self) -> int:
        """Eventfd: readable when a watched queue's end moved."""
    def watch(self, topic: str, queue_id: int, on: bool = True) -> int:
        """Ask to be told when the queue's end passes its present value, which is returned."""
    def take_moved(self) -> list[tuple[str, int, int]]:
        """(topic, queue id, max offset) of the watched queues that moved; they are no longer watched."""
    def request_flush(self) -> None: ...

    # --- steps (what the threads call; tests call them with no thread running) ---
    def flush_step(self) -> int: ...
    def index_step(self, max_bytes: int = 1 << 20) -> int: ...
    def allocate_step(self) -> int: ...
    def checkpoint_step(self) -> None:
        """Make queues and index durable up to where they are and note that offset in `checkpoint`."""

    # --- retention -----------------------------------------------------------
    def segments(self) -> list[tuple[str, int, int, float]]:
        """(path, base offset, bytes, mtime) of the commit log segments, oldest first."""
    def delete_segments(self, count: int) -> int:
        """Remove the oldest `count` segments (never the last one), then what queues and index held of them."""
    def set_disk_full(self, full: bool) -> None:
        """While set, appends are refused with ST_DISK_FULL."""
    def set_writeable(self, writeable: bool) -> None: ...
    def reconfigure(
        self,
        *,
        max_message_bytes: int | None = None,
        sync_flush: bool | None = None,
        flush_interval_ms: int | None = None,
        transfer_bytes_in_memory: int | None = None,
        transfer_count_in_memory: int | None = None,
        transfer_bytes_on_disk: int | None = None,
        transfer_count_on_disk: int | None = None,
        memory_ratio: int | None = None,
    ) -> None:
        """Change settings of a running store; None leaves one as it is.

        The transfer limits are maxTransfer{Bytes,Count}OnMessageIn{Memory,Disk}; memory_ratio is
        accessMessageInMemoryMaxRatio in percent.
        """
    def statistics(self) -> dict[str, int]:
        """Counters since the store was opened, and its positions in bytes."""
