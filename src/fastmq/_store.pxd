# The structs and doors of the storage engine; read this first.
#
# Ownership: a Topic or Queue lives until its Store is closed, also after it was deleted, so a pointer to one
# stays valid on every thread that may use the store. All fields are guarded by the store's lock except those
# marked (atomic), which are plain aligned 64-bit numbers that only grow and may be read without it.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

# status of an operation
cpdef enum:
    ST_OK = 0
    ST_NEED_COMMIT = 1
    ST_BODY_TOO_LARGE = 2
    ST_PROPERTIES_TOO_LARGE = 3
    ST_TOPIC_TOO_LONG = 4
    ST_RECORD_TOO_LARGE = 5
    ST_DISK_FULL = 6
    ST_IO_ERROR = 7
    ST_FLUSH_FAILED = 8
    ST_CLOSED = 9
    ST_BAD_BATCH = 10
    ST_NO_MEMORY = 11
    ST_NOT_WRITEABLE = 12
    ST_TOO_MANY_LMQ = 13

# outcome of a read (RocketMQ's GetMessageStatus)
cpdef enum:
    FOUND = 0
    NO_MATCHED_MESSAGE = 1
    MESSAGE_WAS_REMOVING = 2
    OFFSET_FOUND_NULL = 3
    OFFSET_OVERFLOW_BADLY = 4
    OFFSET_OVERFLOW_ONE = 5
    OFFSET_TOO_SMALL = 6
    NO_MATCHED_LOGIC_QUEUE = 7
    NO_MESSAGE_IN_QUEUE = 8

cdef enum:
    TOPIC_SEND_HOT = 1      # an ordinary topic: sends to it may take the hot road
    TOPIC_MULTI_TAG = 2     # topicFilterType MULTI_TAG: sysFlag bit 1 is set on every stored message
    TOPIC_DELETED = 4

# who may wait for the end of a queue to move or for a flush; each has a list of moved queues and eventfds of its own
cdef enum:
    WATCH_LOOP = 0          # Python: Store.watch, take_moved
    WATCHERS_MAX = 32       # it and the reactors: hot_subscribe

cdef struct Queue:
    Topic* topic
    int32_t queue_id
    uint32_t watched        # who waits for its end to move: a bit for each watcher, see hot_watch
    uint32_t moved          # on whose list of moved queues it is
    int64_t next_offset     # queue offset the next appended message gets
    int64_t max_offset      # (atomic) entries published = what consumers may read
    int64_t min_offset      # (atomic)
    void* files             # private to _store

cdef struct Topic:
    const char* name
    int32_t name_len
    int32_t perm
    int32_t read_queues
    int32_t write_queues
    uint32_t flags
    int32_t queue_slots     # length of `queues`; a slot is NULL until its queue is first used
    Queue** queues

# One message on its way into the log. All pointers are borrowed for the duration of the call.
cdef struct MessageIn:
    const uint8_t* body
    int32_t body_len
    const uint8_t* properties
    int32_t properties_len
    const uint8_t* properties2      # appended to `properties` (what the broker adds); may be NULL
    int32_t properties2_len
    int32_t flag
    int32_t sys_flag
    int64_t born_timestamp_ms
    uint8_t born_host[20]           # address (4 or 16 bytes), then the port as 4 bytes, big-endian
    int32_t born_host_len           # 8 or 20; 20 sets sysFlag bit 4
    int32_t reconsume_times
    int64_t prepared_offset
    int64_t tags_code

cdef struct Placed:
    int64_t log_offset              # physical offset of the record
    int32_t size                    # bytes of the record
    int64_t queue_offset
    int64_t store_timestamp_ms

# One entry of a consume queue, decoded.
cdef struct QueueEntry:
    int64_t log_offset
    int32_t size
    int64_t tags_code

# Bytes of a record, held in the map of their segment until hot_release(holder).
cdef struct Extent:
    const uint8_t* data
    int32_t size
    void* holder

# What a read found; `count` extents (or positions) were filled.
cdef struct ReadSummary:
    int status                      # FOUND ... NO_MESSAGE_IN_QUEUE
    int32_t count
    int64_t bytes
    int64_t next_offset
    int64_t min_offset
    int64_t max_offset
    bint suggest_slave

# What looks and changes nothing (reads.pxi); only its subclass is ever made.
cdef class StoreReads:
    cdef void* engine               # private

cdef class Store(StoreReads):
    cdef object _threads
    cdef object _wall_clock
    cdef public object bit_maps
    cdef readonly list recovery_log
    cdef readonly str root

    # The hot road's doors. The caller is one thread in one turn:
    #   hot_begin() takes the store's lock and stamps the time of the turn;
    #   hot_put() encodes one message into the turn's buffer and assigns its offsets, or returns
    #     ST_NEED_COMMIT (buffer or segment full: commit, begin, put again) or a refusal (nothing was placed);
    #   hot_put_batch() does the same for a client batch (remoting's form) of `count` messages: contiguous, all or nothing;
    #     `shared` is what they have in common, the rest of it is written over;
    #   hot_commit() writes everything placed since hot_begin with one pwrite, publishes it to the queues
    #     (ASYNC_FLUSH; under SYNC_FLUSH the flusher publishes after its fdatasync), wakes the flusher
    #     and releases the lock. On failure nothing of the batch exists: offsets are given back and every
    #     message of it must be answered with the status.
    # `flush_target` after a commit is the log offset that must be flushed before the replies may go out.
    cdef int hot_begin(self) noexcept nogil
    cdef int hot_put(self, Topic* topic, int32_t queue_id, const MessageIn* message, Placed* placed) noexcept nogil
    cdef int hot_put_batch(self, Topic* topic, int32_t queue_id, const uint8_t* batch, int64_t length,
                           MessageIn* shared, int64_t count, Placed* placed) noexcept nogil
    cdef int hot_commit(self) noexcept nogil
    cdef Topic* topic_find(self, const char* name, size_t length) noexcept nogil
    cdef int64_t flushed_offset(self) noexcept nogil
    cdef int64_t written_offset(self) noexcept nogil
    cdef int failed_status(self) noexcept nogil          # ST_OK, or why this log takes no more writes
    cdef bint sync_flush(self) noexcept nogil
    cdef void store_host(self, uint8_t* out8) noexcept nogil    # 4-byte address + 4-byte port

    # The hot road's way out. None of these needs hot_begin; each takes the locks it needs for itself.
    # hot_read fills at most `room` positions by the rules of store.md 13 (tag_codes NULL: everything matches);
    # hot_hold pins one of them in memory (False: it is gone, or no record); every held extent must be released before close().
    cdef int hot_read(self, Queue* queue, int64_t offset, int32_t max_messages, int64_t max_bytes,
                      const int64_t* tag_codes, int32_t tag_count, int32_t max_scanned,
                      QueueEntry* out, int32_t room, ReadSummary* summary) noexcept nogil
    cdef bint hot_hold(self, int64_t log_offset, int32_t size, Extent* extent) noexcept nogil
    cdef void hot_release(self, void* holder) noexcept nogil
    # watch: returns the queue's present end; take_moved: fills `out` with watched queues that moved since, which are then
    # no longer watched. `who`: WATCH_LOOP, or what hot_subscribe gave (-1: there are too many).
    cdef Queue* hot_queue(self, Topic* topic, int32_t queue_id) noexcept nogil      # made if it is new; NULL: no memory
    cdef int64_t hot_watch(self, Queue* queue, int32_t who, bint on) noexcept nogil
    cdef int32_t hot_take_moved(self, int32_t who, Queue** out, int32_t room) noexcept nogil
    cdef int32_t hot_subscribe(self) noexcept nogil
    cdef void hot_unsubscribe(self, int32_t who) noexcept nogil
    cdef int hot_flush_event(self, int32_t who) noexcept nogil
    cdef int hot_moved_event(self, int32_t who) noexcept nogil
