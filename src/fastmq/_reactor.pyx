"""The reactor: ready sockets, frames, hot requests, one turn at a time, without the GIL.

    turn:  epoll_wait ─► every ready socket: recv, split frames
             hot code, common case ─► header read in place, message encoded into the store's batch, reply staged
             anything else         ─► copied to the cold list, Python is told through an eventfd
           end of the turn: one append for all of the turn's messages; staged replies leave,
           or are parked under the log offset that has to be flushed first

Parts: `_reactor/os.pxi` (system calls, locks, buffers), `header.pxi` (request headers in place), `send.pxi` (what a plain
send is and how it is answered), `produce.pxi` (the turn's batch), `park.pxi` (replies that wait for a flush), `pull.pxi`
and `consume.pxi` (pulls, held pulls, offset commits). This file holds connections, the turn and the face Python sees.

Threads: one thread calls `turn` (its own, or trio's); every other method may be called from any thread. All state is
guarded by one lock in order of arrival, which the turn gives back while it waits for events. The store's lock is
taken inside it, never the other way round.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from fastmq._store cimport (
    TOPIC_DELETED, TOPIC_MULTI_TAG, TOPIC_SEND_HOT, WATCH_TURN, Extent, MessageIn, Placed, Queue, QueueEntry, ReadSummary,
    Store, Topic,
)

include "_reactor/os.pxi"
include "_reactor/header.pxi"
include "_reactor/send.pxi"
include "_reactor/pull.pxi"

from fastmq.errors import UsageError

RESUMED = 1 << 16

cdef enum:
    ST_OK = 0
    ST_NEED_COMMIT = 1
    ST_FLUSH_FAILED = 8
    CODE_FLUSH_DISK_TIMEOUT = 10

    EVENTS_A_TURN = 512
    RECEIVE_BYTES = 512 * 1024      # the turn's receive buffer, shared by all connections
    LARGE_FRAME = 256 * 1024        # a frame above this is received into memory of its own
    SLOT_BITS = 20
    SLOT_MASK = (1 << SLOT_BITS) - 1
    CONNECTIONS_MAX = 1 << SLOT_BITS

    OUTPUT_PAUSE_BYTES = 4 * 1024 * 1024    # above it a connection is not read until it has taken its replies
    COLD_PAUSE_BYTES = 8 * 1024 * 1024      # above it a connection is not read until Python has caught up
    PARKED_PAUSE = 20000                    # replies of one connection that wait for a flush

    # connection ids of the reactor's own descriptors; ids of connections begin at 1 << SLOT_BITS
    TAG_WAKE = 0
    TAG_FLUSH = 1
    TAG_MOVED = 2

    # of the service number of a cold item: a pull that was held here and is to be processed once more
    RESUMED_BIT = 1 << 16

cdef struct Connection:
    int fd
    int64_t id                      # generation << SLOT_BITS | slot
    int32_t service
    uint32_t events                 # what epoll watches
    Buffer input                    # an incomplete frame; empty while the connection is idle
    uint32_t large_frame            # length of the large frame `input` is being filled with, or 0
    Buffer output
    int64_t active_ms
    int32_t cold_sends              # sends that Python still works on: until they are done no send may overtake them
    int32_t cold_consumes           # the same for pulls and offset commits
    HeldPull* held                  # the first of its held pulls
    int32_t parked
    size_t cold_bytes
    bint dirty                      # on the turn's list of connections with fresh output
    bint closing                    # closes once its output is written
    uint8_t host[20]
    int32_t host_length

cdef struct ColdItem:
    int64_t connection
    int32_t service
    uint32_t length                 # 0: the connection closed
    uint8_t* frame

# A reply of this turn, in the turn's arena, that waits for the turn's append (and then perhaps for a flush).
cdef struct Staged:
    int64_t connection
    uint32_t offset
    int32_t length
    int32_t opaque
    int32_t serialize
    bint oneway

# Replies that wait until the log is flushed up to `target`. One allocation a turn.
cdef struct Parked:
    Parked* next
    int64_t target
    int64_t deadline_ms
    int32_t count
    Staged* replies
    uint8_t* arena
    uint8_t* failure                # a whole frame (replies parked by Python); NULL: made from the policy
    int32_t failure_length


@cython.final
cdef class Reactor:
    cdef FairLock lock
    cdef Store store
    cdef bint hot, stopping, closed
    cdef int epoll_fd, wake_fd, cold_fd, flush_fd
    cdef uint32_t max_frame_bytes
    cdef size_t max_output_bytes
    cdef Connection** slots
    cdef int32_t slot_count, slot_capacity
    cdef int32_t* free_slots
    cdef int32_t free_count
    cdef int64_t generation
    cdef int32_t* dirty
    cdef int32_t dirty_count
    cdef uint8_t* receive
    cdef epoll_event* ready
    cdef int64_t now_ms
    # cold items
    cdef ColdItem* cold
    cdef int32_t cold_count, cold_capacity
    cdef size_t cold_total, max_cold_bytes  # of all frames that wait for Python
    cdef bint cold_told
    # the turn's batch
    cdef bint batch_open
    cdef Staged* staged
    cdef int32_t staged_count, staged_capacity
    cdef Buffer arena
    cdef uint8_t* scratch
    cdef RawHeader raw
    # parked replies, ordered by target
    cdef Parked* parked_head
    cdef Parked* parked_tail
    cdef int64_t parked_deadline_ms     # of the first parked block, 0 without one; read by the turn without the lock
    cdef int64_t sync_flush_timeout_ms
    cdef SendPolicy policy
    # consumers: see consume.pxi
    cdef Progress** progress
    cdef int32_t progress_count
    cdef Progress* changed
    cdef PullGrant* grants
    cdef HeldQueue** held
    cdef DeadlineHeap heap
    cdef int64_t held_deadline_ms       # of the first held pull, 0 without one; read by the turn without the lock
    cdef Buffer deferred                # pulls and commits of the turn, each behind its connection's id
    cdef int moved_fd
    # statistics
    cdef int64_t turns, frames, hot_sends, hot_pulls, hot_commits, received_bytes, sent_bytes

    def __cinit__(self, Store store=None, *, bint hot=True, uint32_t max_frame_bytes=16 << 20,
                  size_t max_output_bytes=64 << 20, size_t max_cold_bytes=256 << 20):
        self.epoll_fd = self.wake_fd = self.cold_fd = self.flush_fd = self.moved_fd = -1
        pthread_mutex_init(&self.lock.gate, NULL)
        pthread_mutex_init(&self.lock.held, NULL)
        self.store = store
        self.hot = hot
        self.max_frame_bytes = max_frame_bytes
        self.max_output_bytes = max_output_bytes
        self.max_cold_bytes = max_cold_bytes
        self.generation = 1
        self.sync_flush_timeout_ms = 5000
        self.receive = <uint8_t*>malloc(RECEIVE_BYTES)
        self.scratch = <uint8_t*>malloc(SCRATCH_BYTES)
        self.ready = <epoll_event*>calloc(EVENTS_A_TURN, sizeof(epoll_event))
        self.progress = <Progress**>calloc(TABLE_SLOTS, sizeof(Progress*))
        self.held = <HeldQueue**>calloc(TABLE_SLOTS, sizeof(HeldQueue*))
        if (self.receive == NULL or self.scratch == NULL or self.ready == NULL or self.progress == NULL
                or self.held == NULL):
            raise MemoryError
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.cold_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll_fd < 0 or self.wake_fd < 0 or self.cold_fd < 0:
            raise OSError(errno, "the reactor's descriptors cannot be opened")
        self.watch_fd(self.wake_fd, TAG_WAKE)

    def __init__(self, store=None, *, hot=True, max_frame_bytes=16 << 20, max_output_bytes=64 << 20,
                 max_cold_bytes=256 << 20):
        if store is not None:
            self.flush_fd = store.flush_event_fd
            self.watch_fd(self.flush_fd, TAG_FLUSH)
            self.moved_fd = self.store.hot_moved_event()
            self.watch_fd(self.moved_fd, TAG_MOVED)

    cdef int watch_fd(self, int fd, uint64_t tag) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = tag
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    def __dealloc__(self):
        cdef int32_t i
        if not self.closed:
            self.release_all()
        for i in range(self.cold_count):
            free(self.cold[i].frame)
        free(self.cold)
        free(self.slots)
        free(self.free_slots)
        free(self.dirty)
        free(self.receive)
        free(self.scratch)
        free(self.ready)
        free(self.staged)
        free(self.progress)
        free(self.held)
        free(self.heap.items)
        buffer_free(&self.arena)
        buffer_free(&self.deferred)
        pthread_mutex_destroy(&self.lock.gate)
        pthread_mutex_destroy(&self.lock.held)

    cdef void release_all(self) noexcept:
        cdef int32_t i
        cdef Parked* block
        cdef Progress* progress
        self.closed = True
        revoke_all(self)
        for i in range(self.slot_count):
            if self.slots[i] != NULL:
                drop_held(self, self.slots[i])
                c_close(self.slots[i].fd)
                buffer_free(&self.slots[i].input)
                buffer_free(&self.slots[i].output)
                free(self.slots[i])
                self.slots[i] = NULL
        self.slot_count = 0
        while self.parked_head != NULL:
            block = self.parked_head
            self.parked_head = block.next
            parked_free(block)
        self.parked_tail = NULL
        for i in range(TABLE_SLOTS):
            while self.progress[i] != NULL:
                progress = self.progress[i]
                self.progress[i] = progress.chain
                free(progress.by_queue)
                free(progress.name)
                free(progress)
        self.changed = NULL
        for fd in (self.epoll_fd, self.wake_fd, self.cold_fd):
            if fd >= 0:
                c_close(fd)
        self.epoll_fd = self.wake_fd = self.cold_fd = -1

    def close(self):
        """Close every connection and descriptor. Nothing may be inside `turn` or `run` any more."""
        fair_lock(&self.lock)
        if not self.closed:
            self.release_all()
        fair_unlock(&self.lock)

    # --- connections ------------------------------------------------------------------------------------------------

    cdef inline Connection* find(self, int64_t connection) noexcept nogil:
        cdef int64_t slot = connection & SLOT_MASK
        cdef Connection* c
        if slot >= self.slot_count:
            return NULL
        c = self.slots[slot]
        if c == NULL or c.id != connection:
            return NULL
        return c

    def add(self, int fd, int service):
        """Take over a connected, non-blocking socket; returns the id its frames come with."""
        cdef int64_t result
        with nogil:
            fair_lock(&self.lock)
            result = self.add_locked(fd, service)
            fair_unlock(&self.lock)
        if result < 0:
            raise OSError(-result, "the connection cannot be added to the reactor")
        return result

    cdef int64_t add_locked(self, int fd, int32_t service) noexcept nogil:
        cdef int32_t slot, capacity
        cdef Connection* c
        cdef Connection** slots
        cdef int32_t* numbers
        cdef epoll_event event
        if self.closed or self.slot_count == CONNECTIONS_MAX:
            return -24
        if self.free_count:
            slot = self.free_slots[self.free_count - 1]
        else:
            slot = self.slot_count
            if slot == self.slot_capacity:
                capacity = 64 if slot == 0 else slot * 2
                slots = <Connection**>realloc(self.slots, capacity * sizeof(Connection*))
                if slots == NULL:
                    return -12
                self.slots = slots
                numbers = <int32_t*>realloc(self.free_slots, capacity * sizeof(int32_t))
                if numbers == NULL:
                    return -12
                self.free_slots = numbers
                numbers = <int32_t*>realloc(self.dirty, capacity * sizeof(int32_t))
                if numbers == NULL:
                    return -12
                self.dirty = numbers
                self.slot_capacity = capacity
        c = <Connection*>calloc(1, sizeof(Connection))
        if c == NULL:
            return -12
        c.fd = fd
        c.id = (self.generation << SLOT_BITS) | slot
        c.service = service
        c.events = EPOLLIN
        c.active_ms = monotonic_ms()
        read_peer(c)
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>c.id
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            free(c)
            return -errno
        self.generation += 1
        if self.free_count:
            self.free_count -= 1
        else:
            self.slot_count += 1
        self.slots[slot] = c
        return c.id

    cdef void close_locked(self, Connection* c) noexcept nogil:
        """End a connection; Python learns of it behind the frames it sent before."""
        cdef int32_t slot = <int32_t>(c.id & SLOT_MASK)
        if c.held != NULL:
            # letting go of pulls takes the store's lock, which an open batch of this turn holds
            finish_batch(self)
            drop_held(self, c)
        self.add_cold(c, NULL, 0)
        c_close(c.fd)
        buffer_free(&c.input)
        buffer_free(&c.output)
        self.slots[slot] = NULL
        self.free_slots[self.free_count] = slot
        self.free_count += 1
        free(c)

    cdef void set_events(self, Connection* c) noexcept nogil:
        """Watch what the state of the connection asks for: reading is paused over a bound, writing only when needed."""
        cdef epoll_event event
        cdef uint32_t wanted = 0
        cdef size_t output = buffer_length(&c.output)
        # over the bound of all, who has frames waiting is not read on; take_cold goes through exactly these
        if (output < OUTPUT_PAUSE_BYTES and c.cold_bytes < COLD_PAUSE_BYTES and c.parked < PARKED_PAUSE
                and not c.closing and (c.cold_bytes == 0 or self.cold_total < self.max_cold_bytes)):
            wanted |= EPOLLIN
        if output:
            wanted |= EPOLLOUT
        if wanted != c.events:
            c.events = wanted
            event.events = wanted
            event.data.u64 = <uint64_t>c.id
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, c.fd, &event)

    cdef bint add_cold(self, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
        cdef ColdItem* items
        cdef ColdItem* item
        cdef int32_t capacity
        if self.cold_count == self.cold_capacity:
            capacity = 256 if self.cold_capacity == 0 else self.cold_capacity * 2
            items = <ColdItem*>realloc(self.cold, capacity * sizeof(ColdItem))
            if items == NULL:
                return False
            self.cold = items
            self.cold_capacity = capacity
        item = &self.cold[self.cold_count]
        item.connection = c.id
        item.service = c.service
        item.length = length
        item.frame = NULL
        if length:
            item.frame = <uint8_t*>malloc(length)
            if item.frame == NULL:
                return False
            memcpy(item.frame, frame, length)
            c.cold_bytes += length
            self.cold_total += length
        self.cold_count += 1
        return True

    cdef void add_cold_again(self, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
        """A pull that was held here and that Python has to process once more."""
        if self.add_cold(c, frame, length):
            self.cold[self.cold_count - 1].service |= RESUMED_BIT
            c.cold_consumes += 1

    cdef inline void tell_python(self) noexcept nogil:
        cdef uint64_t one = 1
        if self.cold_count and not self.cold_told:
            self.cold_told = True
            c_write(self.cold_fd, &one, 8)

    # --- writing ----------------------------------------------------------------------------------------------------

    cdef void queue_output(self, Connection* c, const uint8_t* data, size_t length) noexcept nogil:
        """Bytes for the end of the turn."""
        if not buffer_append(&c.output, data, length):
            c.closing = True
            c.output.begin = c.output.end
        if not c.dirty:
            c.dirty = True
            self.dirty[self.dirty_count] = <int32_t>(c.id & SLOT_MASK)
            self.dirty_count += 1

    cdef bint write_output(self, Connection* c) noexcept nogil:
        """Write what the socket takes. False: the connection was closed."""
        cdef ssize_t n
        cdef size_t length = buffer_length(&c.output)
        while length:
            n = c_send(c.fd, c.output.data + c.output.begin, length, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    break
                self.close_locked(c)
                return False
            self.sent_bytes += n
            c.active_ms = self.now_ms
            c.output.begin += n
            length -= n
        if length == 0:
            # a large answer leaves no large buffer behind
            if c.output.capacity > 65536:
                buffer_free(&c.output)
            else:
                c.output.begin = c.output.end = 0
            if c.closing:
                self.close_locked(c)
                return False
        elif length > self.max_output_bytes:
            self.close_locked(c)
            return False
        self.set_events(c)
        return True

    cdef void write_dirty(self) noexcept nogil:
        cdef int32_t i
        cdef Connection* c
        for i in range(self.dirty_count):
            c = self.slots[self.dirty[i]]
            if c != NULL and c.dirty:
                c.dirty = False
                self.write_output(c)
        self.dirty_count = 0

    def send(self, int64_t connection, frame):
        """Queue bytes for a connection and write what its socket takes. False if it is gone."""
        cdef Connection* c
        cdef bytes data = frame if isinstance(frame, bytes) else b"".join(frame)
        cdef const uint8_t* bytes_data = <const uint8_t*>PyBytes_AS_STRING(data)
        cdef size_t length = PyBytes_GET_SIZE(data)
        cdef bint result = False
        cdef ssize_t n = 0
        with nogil:
            fair_lock(&self.lock)
            c = self.find(connection)
            if c != NULL and not c.closing:
                self.now_ms = monotonic_ms()
                result = True
                if buffer_length(&c.output) == 0:
                    n = c_send(c.fd, bytes_data, length, MSG_NOSIGNAL | MSG_DONTWAIT)
                    if n > 0:
                        self.sent_bytes += n
                        c.active_ms = self.now_ms
                    else:
                        n = 0
                if <size_t>n < length:
                    if buffer_append(&c.output, bytes_data + n, length - n):
                        result = self.write_output(c)
                    else:
                        self.close_locked(c)
                        result = False
            self.tell_python()
            fair_unlock(&self.lock)
        return result

    def send_after_flush(self, int64_t connection, bytes frame not None, int64_t log_offset, bytes failure not None):
        """As `send`, once the log is flushed up to log_offset; `failure` is sent if it never will be."""
        cdef Parked* block
        cdef size_t length = PyBytes_GET_SIZE(frame), failure_length = PyBytes_GET_SIZE(failure)
        cdef Connection* c
        cdef uint64_t one = 1
        if self.store is None or not self.store.sync_flush():
            return self.send(connection, frame)
        block = parked_new(1, length, failure_length)
        if block == NULL:
            raise MemoryError
        memcpy(block.arena, PyBytes_AS_STRING(frame), length)
        memcpy(block.failure, PyBytes_AS_STRING(failure), failure_length)
        block.replies[0].connection = connection
        block.replies[0].offset = 0
        block.replies[0].length = <int32_t>length
        block.replies[0].oneway = False
        block.target = log_offset
        with nogil:
            fair_lock(&self.lock)
            self.now_ms = monotonic_ms()
            c = self.find(connection)
            if c == NULL:
                parked_free(block)
            else:
                c.parked += 1
                if self.parked_head == NULL:
                    c_write(self.wake_fd, &one, 8)  # the turn may sleep for ever: it has a deadline to watch now
                park(self, block)
                release_parked(self)
                self.write_dirty()
                self.tell_python()
            fair_unlock(&self.lock)
        return c != NULL

    # --- frames -----------------------------------------------------------------------------------------------------

    cdef void on_frame(self, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
        cdef int32_t code = quick_code(frame, length)
        self.frames += 1
        if self.hot:
            if code == CODE_SEND_MESSAGE_V2 or code == CODE_SEND_MESSAGE:
                if try_hot_send(self, c, frame, length):
                    return
            elif is_consume_code(code) and self.store is not None and defer(self, c, frame, length):
                return
        if is_send_code(code):
            c.cold_sends += 1
        if not self.add_cold(c, frame, length):
            c.closing = True

    cdef int64_t frame_length(self, const uint8_t* data) noexcept nogil:
        """Length of the frame whose 8 first bytes are at data, or -1 if this cannot be a frame."""
        cdef uint32_t length = load_be32(data)
        if length < 4 or length > self.max_frame_bytes - 4:
            return -1
        if data[4] > SERIALIZE_ROCKETMQ or (load_be32(data + 4) & 0xFFFFFF) > length - 4:
            return -1
        return <int64_t>length + 4

    cdef bint on_readable(self, Connection* c) noexcept nogil:
        """Receive once, take out whole frames, keep the rest. False: the connection was closed."""
        cdef uint8_t* data = self.receive
        cdef size_t kept = buffer_length(&c.input), total, used = 0
        cdef ssize_t n
        cdef int64_t length = 0
        cdef Buffer large
        if c.large_frame:
            n = c_recv(c.fd, c.input.data + c.input.end, c.large_frame - c.input.end, MSG_DONTWAIT)
        else:
            if kept:
                memcpy(data, c.input.data + c.input.begin, kept)
            n = c_recv(c.fd, data + kept, RECEIVE_BYTES - kept, MSG_DONTWAIT)
        if n <= 0:
            if n < 0 and (errno == EAGAIN or errno == EINTR):
                return True
            self.close_locked(c)
            return False
        self.received_bytes += n
        c.active_ms = self.now_ms
        if c.large_frame:
            c.input.end += n
            if c.input.end == c.large_frame:
                large = c.input
                memset(&c.input, 0, sizeof(Buffer))
                c.large_frame = 0
                self.on_frame(c, large.data, <uint32_t>large.end)
                buffer_free(&large)
        else:
            total = kept + n
            while total - used >= 8:
                length = self.frame_length(data + used)
                if length < 0:
                    # whoever breaks the framing cannot be understood any further
                    self.close_locked(c)
                    return False
                if <size_t>length > total - used:
                    break
                self.on_frame(c, data + used, <uint32_t>length)
                used += length
                length = 0
            c.input.begin = c.input.end = 0
            kept = total - used
            if kept == 0:
                buffer_free(&c.input)
            elif kept >= 8 and length > LARGE_FRAME:
                buffer_free(&c.input)
                if buffer_reserve(&c.input, length) == NULL:
                    self.close_locked(c)
                    return False
                c.large_frame = <uint32_t>length
                memcpy(c.input.data, data + used, kept)
                c.input.end = kept
            elif not buffer_append(&c.input, data + used, kept):
                self.close_locked(c)
                return False
        if c.closing and buffer_length(&c.output) == 0:
            self.close_locked(c)
            return False
        if c.cold_bytes >= COLD_PAUSE_BYTES or self.cold_total >= self.max_cold_bytes:
            self.set_events(c)
        return True

    # --- the turn ---------------------------------------------------------------------------------------------------

    cdef int32_t step(self, int timeout_ms) noexcept nogil:
        cdef int count, i
        cdef uint64_t tag, ignored
        cdef Connection* c
        cdef uint32_t events
        cdef int64_t left
        left = self.parked_deadline_ms
        if self.held_deadline_ms and (left == 0 or self.held_deadline_ms < left):
            left = self.held_deadline_ms
        if left:
            left -= monotonic_ms()
            left = 1 if left < 1 else left
            if timeout_ms < 0 or timeout_ms > left:
                timeout_ms = <int>left
        count = epoll_wait(self.epoll_fd, self.ready, EVENTS_A_TURN, timeout_ms)
        fair_lock(&self.lock)
        self.now_ms = monotonic_ms()
        self.turns += 1
        for i in range(count):
            tag = self.ready[i].data.u64
            events = self.ready[i].events
            if tag == TAG_WAKE:
                c_read(self.wake_fd, &ignored, 8)
                continue
            if tag == TAG_FLUSH:
                c_read(self.flush_fd, &ignored, 8)
                continue
            if tag == TAG_MOVED:
                c_read(self.moved_fd, &ignored, 8)
                continue
            c = self.find(<int64_t>tag)
            if c == NULL:
                continue
            if events & EPOLLOUT and not self.write_output(c):
                continue
            if events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP):
                self.on_readable(c)
        finish_batch(self)
        release_parked(self)
        if self.store is not None:
            serve_deferred(self)
            wake_held(self)
            answer_due(self, self.now_ms)
            self.held_deadline_ms = self.heap.items[0].deadline_ms if self.heap.count else 0
        self.write_dirty()
        self.tell_python()
        count = self.cold_count
        fair_unlock(&self.lock)
        return count

    def turn(self, int timeout_ms=0):
        """One turn; returns the number of cold items that wait."""
        cdef int32_t count
        with nogil:
            count = self.step(timeout_ms)
        return count

    def run(self):
        """Turns until `stop`: the body of the reactor's own thread."""
        with nogil:
            while not self.stopping:
                self.step(-1)

    def stop(self):
        """Make `run` return."""
        cdef uint64_t one = 1
        self.stopping = True
        c_write(self.wake_fd, &one, 8)

    def take_cold(self):
        """The frames and ends of connections that wait for Python, in the order in which they came."""
        cdef ColdItem* items
        cdef int32_t count, i
        cdef Connection* c
        cdef uint64_t ignored
        cdef list result
        with nogil:
            fair_lock(&self.lock)
            items = self.cold
            count = self.cold_count
            self.cold = NULL
            self.cold_count = self.cold_capacity = 0
            self.cold_total = 0
            self.cold_told = False
            c_read(self.cold_fd, &ignored, 8)
            for i in range(count):
                c = self.find(items[i].connection)
                if c != NULL and c.cold_bytes:
                    c.cold_bytes = 0
                    self.set_events(c)
            fair_unlock(&self.lock)
        result = []
        for i in range(count):
            if items[i].length:
                result.append((items[i].connection, items[i].service,
                               PyBytes_FromStringAndSize(<char*>items[i].frame, items[i].length)))
                free(items[i].frame)
            else:
                result.append((items[i].connection, items[i].service, None))
        free(items)
        return result

    def cold_done(self, int64_t connection, int code):
        """Python has dealt with a request of this connection: later ones of its kind may be hot again."""
        cdef Connection* c
        with nogil:
            fair_lock(&self.lock)
            c = self.find(connection)
            if c != NULL:
                if is_send_code(code):
                    c.cold_sends -= c.cold_sends > 0
                elif is_consume_code(code):
                    c.cold_consumes -= c.cold_consumes > 0
            fair_unlock(&self.lock)

    def grant_pulls(self, str group not None, str topic not None, *, int queues, subscription, bint lite,
                    int64_t sub_version, tag_codes, int max_messages, int64_t max_bytes, int64_t suspend_ms,
                    int group_sys_flag, int topic_sys_flag):
        """From now on serve pulls of this group and topic with this filter here, until `revoke_pulls`.

        `subscription`: the filter's text if pulls bring it, None for the group's registered one, whose version is
        `sub_version`. `tag_codes` None: everything matches. `suspend_ms` -1: pulls say how long they may be held.
        """
        cdef bytes group_name = group.encode(), topic_name = topic.encode()
        cdef bytes text = b"" if subscription is None else (<str>subscription).encode()
        cdef PullGrant* grant
        cdef Progress* progress
        cdef Topic* found
        cdef int32_t i = 0
        if not self.hot or self.store is None:
            return
        if not all(32 < c < 127 and c not in b'"\\' for c in group_name + topic_name):
            return
        if not all(32 <= c < 127 and c not in b'"\\' for c in text):
            return
        found = self.store.topic_find(<const char*>topic_name, len(topic_name))
        if found == NULL:
            return
        grant = <PullGrant*>calloc(1, sizeof(PullGrant))
        if grant == NULL:
            return
        grant.topic = found
        grant.alive = True
        grant.brings_filter = subscription is not None
        grant.lite = lite
        grant.sub_version = sub_version
        grant.max_messages = max_messages
        grant.max_bytes = max_bytes
        grant.suspend_ms = suspend_ms
        grant.group_sys_flag = group_sys_flag
        grant.topic_sys_flag = topic_sys_flag
        grant.filter_length = len(text)
        grant.filter = <uint8_t*>malloc(len(text) + 1)
        grant.tag_count = -1 if tag_codes is None else len(tag_codes)
        grant.tag_codes = <int64_t*>malloc((grant.tag_count + 1) * sizeof(int64_t) if tag_codes else 8)
        if grant.filter == NULL or grant.tag_codes == NULL:
            grant_free(grant)
            return
        memcpy(grant.filter, <const char*>text, len(text))
        for code in tag_codes or ():
            grant.tag_codes[i] = code
            i += 1
        fair_lock(&self.lock)
        progress = progress_make(self, <const uint8_t*><const char*>group_name, len(group_name),
                                 <const uint8_t*><const char*>topic_name, len(topic_name), queues)
        if progress == NULL:
            grant_free(grant)
        else:
            progress.granted = True
            grant.progress = progress
            grant.next = <PullGrant*>progress.grants
            progress.grants = grant
            grant.next_all = self.grants
            self.grants = grant
        fair_unlock(&self.lock)

    def revoke_pulls(self):
        """Something that pulls are checked for has changed: the next one of each kind is Python's again."""
        with nogil:
            fair_lock(&self.lock)
            revoke_all(self)
            fair_unlock(&self.lock)

    def take_pull_progress(self):
        """What hot pulls and commits did since the last call.

        [(group, topic, pulls that found nothing, [(queue id, committed offset, number of commits, offset after the last
        pull or -1, pulls that found something, messages, bytes)])]
        """
        cdef Progress* progress
        cdef QueueProgress* q
        cdef int32_t i
        if self.changed == NULL:
            return ()
        result = []
        fair_lock(&self.lock)
        try:
            while self.changed != NULL:
                progress = self.changed
                self.changed = progress.next_changed
                progress.changed = False
                queues = []
                for i in range(progress.queues):
                    q = &progress.by_queue[i]
                    if q.commits or q.pulled >= 0:
                        queues.append((i, q.committed, q.commits, q.pulled, q.pulls, q.messages, q.bytes))
                        q.pulled = -1
                        q.commits = q.pulls = q.messages = q.bytes = 0
                name = progress.name[:progress.group_length + progress.topic_length]
                result.append((name[:progress.group_length].decode(), name[progress.group_length:].decode(),
                               progress.missed, queues))
                progress.missed = 0
        finally:
            fair_unlock(&self.lock)
        return result

    def answer_held_pulls(self):
        """Answer every held pull as if its time were up."""
        with nogil:
            fair_lock(&self.lock)
            self.now_ms = monotonic_ms()
            answer_due(self, 0x7FFFFFFFFFFFFFFF)
            self.held_deadline_ms = 0
            self.write_dirty()
            self.tell_python()
            fair_unlock(&self.lock)

    def close_connection(self, int64_t connection):
        """Close a connection once what was queued for it is written."""
        cdef Connection* c
        with nogil:
            fair_lock(&self.lock)
            c = self.find(connection)
            if c != NULL:
                c.closing = True
                if buffer_length(&c.output) == 0:
                    self.close_locked(c)
                else:
                    self.set_events(c)
            self.tell_python()
            fair_unlock(&self.lock)

    def connections(self):
        """(id, service, seconds since it last sent or received) of every connection."""
        cdef int32_t i
        cdef int64_t now = monotonic_ms()
        result = []
        fair_lock(&self.lock)
        try:
            for i in range(self.slot_count):
                if self.slots[i] != NULL:
                    result.append((self.slots[i].id, self.slots[i].service, (now - self.slots[i].active_ms) / 1000.0))
        finally:
            fair_unlock(&self.lock)
        return result

    def set_send_policy(self, *, bint enabled, int service, str region, str cluster, bint trace_on,
                        int max_message_bytes, failures, int sync_flush_timeout_ms=5000):
        """What the hot road needs to know of the broker; `failures`: status of the store → (code, remark)."""
        cdef SendPolicy policy
        cdef uint8_t host[8]
        memset(&policy, 0, sizeof(policy))
        trace = "true" if trace_on else "false"
        if not all(c.isascii() and c.isprintable() and c not in '"\\' for c in region + cluster):
            enabled = False  # text that would need escapes is left to the cold road
        policy.enabled = enabled and self.hot and self.store is not None
        policy.service = service
        policy.max_message_bytes = max_message_bytes
        added = f"MSG_REGION\x01{region}\x02TRACE_ON\x01{trace}\x02CLUSTER\x01{cluster}\x02".encode()
        reply_json = f'","TRACE_ON":"{trace}","MSG_REGION":"{region}","queueOffset":"'.encode()
        failure_json = f'{{"TRACE_ON":"{trace}","MSG_REGION":"{region}"}}'.encode()
        reply_binary = b"".join(
            len(k).to_bytes(2, "big") + k + len(v).to_bytes(4, "big") + v
            for k, v in ((b"TRACE_ON", trace.encode()), (b"MSG_REGION", region.encode()))
        )
        if max(len(added), len(reply_json), len(failure_json), len(reply_binary)) > POLICY_TEXT_MAX:
            raise UsageError("regionId and brokerClusterName are too long")
        policy.added_length = len(added)
        memcpy(policy.added, <const char*>added, len(added))
        policy.reply_json_length = len(reply_json)
        memcpy(policy.reply_json, <const char*>reply_json, len(reply_json))
        policy.reply_binary_length = len(reply_binary)
        memcpy(policy.reply_binary, <const char*>reply_binary, len(reply_binary))
        policy.failure_json_length = len(failure_json)
        memcpy(policy.failure_json, <const char*>failure_json, len(failure_json))
        for status in range(FAILURE_STATUSES):
            code, remark = failures.get(status, (1, "UNKNOWN_ERROR"))
            text = remark.encode("ascii")[:FAILURE_REMARK_MAX]
            policy.failures[status].code = code
            policy.failures[status].remark_length = len(text)
            memcpy(policy.failures[status].remark, <const char*>text, len(text))
        if self.store is not None:
            self.store.store_host(host)
            put_hex(policy.store_host_hex, host, 8)
        fair_lock(&self.lock)
        self.policy = policy
        self.sync_flush_timeout_ms = sync_flush_timeout_ms
        fair_unlock(&self.lock)

    @property
    def cold_event_fd(self):
        return self.cold_fd

    def statistics(self):
        """Counters since the start."""
        return {
            "connections": self.slot_count - self.free_count,
            "turns": self.turns,
            "frames": self.frames,
            "hot_sends": self.hot_sends,
            "hot_pulls": self.hot_pulls,
            "hot_commits": self.hot_commits,
            "held_pulls": self.heap.count,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
        }


cdef bint is_send_code(int32_t code) noexcept nogil:
    """Codes that append on behalf of a producer: their order within a connection is kept."""
    return (code == CODE_SEND_MESSAGE or code == CODE_SEND_MESSAGE_V2 or code == 320 or code == 324 or code == 325
            or code == 36)


cdef bint is_consume_code(int32_t code) noexcept nogil:
    """Codes by which a consumer reads and commits: their order within a connection is kept."""
    return (code == CODE_PULL_MESSAGE or code == CODE_LITE_PULL_MESSAGE or code == CODE_UPDATE_CONSUMER_OFFSET
            or code == CODE_QUERY_CONSUMER_OFFSET)


cdef int32_t quick_code(const uint8_t* frame, uint32_t length) noexcept nogil:
    """The request code where it is easy to see, -1 elsewhere. Every known client writes it first."""
    cdef const uint8_t* p = frame + 8
    cdef const uint8_t* end = frame + length
    cdef int32_t code = 0
    if frame[4] == SERIALIZE_ROCKETMQ:
        return <int16_t>load_be16(p) if end - p >= 2 else -1
    if end - p < 12 or memcmp(p, b'{"code":', 8) != 0:
        return -1
    p += 8
    while p < end and c'0' <= p[0] <= c'9' and code < 1000000:
        code = code * 10 + (p[0] - c'0')
        p += 1
    return code


cdef void read_peer(Connection* c) noexcept nogil:
    """The peer's address as the born host of its messages: IPv4, or IPv6 that is no mapped IPv4."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef sockaddr_in* v4
    cdef sockaddr_in6* v6
    cdef uint8_t mapped[12]
    memset(c.host, 0, 20)
    c.host_length = 8
    memset(&address, 0, sizeof(address))
    if getpeername(c.fd, <sockaddr*>&address, &length) < 0:
        return
    if address.ss_family == AF_INET:
        v4 = <sockaddr_in*>&address
        memcpy(c.host, &v4.sin_addr.s_addr, 4)
        store_be32(c.host + 4, ntohs(v4.sin_port))
    elif address.ss_family == AF_INET6:
        v6 = <sockaddr_in6*>&address
        memset(mapped, 0, 10)
        mapped[10] = mapped[11] = 0xFF
        if memcmp(v6.sin6_addr.s6_addr, mapped, 12) == 0:
            memcpy(c.host, v6.sin6_addr.s6_addr + 12, 4)
            store_be32(c.host + 4, ntohs(v6.sin6_port))
        else:
            memcpy(c.host, v6.sin6_addr.s6_addr, 16)
            store_be32(c.host + 16, ntohs(v6.sin6_port))
            c.host_length = 20


include "_reactor/park.pxi"
include "_reactor/produce.pxi"
include "_reactor/consume.pxi"
