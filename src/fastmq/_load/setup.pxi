# What a load is made of, and what came of it: connections, templates and cursors are taken over before the loop and freed
# behind it; counts and histograms are read by Python afterwards.

cdef extern from "<time.h>" nogil:
    enum: CLOCK_MONOTONIC, CLOCK_REALTIME

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    enum: POLLIN
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* signals)

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t haystack_length, const void* needle, size_t needle_length)

cdef extern from "<sys/prctl.h>" nogil:
    enum: PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value, ...)

cdef enum:
    EVENTS = 512
    SEND_RECEIVE = 1 << 16          # room for one receive
    PULL_RECEIVE = 1 << 19
    FRAME_LIMIT = 64 << 20
    OPEN_SLOTS = 1 << 18            # unanswered sends of an open loop; beyond it sends wait, their latency does not
    SPIN_NS = 80000                 # longer than a thread takes to wake up
    FAILURES_MAX = 100              # a reader that gets so many errors in a row gives up

# Response codes of RocketMQ that a pull handles.
cdef enum:
    SUCCESS = 0
    PULL_NOT_FOUND = 19
    PULL_RETRY_IMMEDIATELY = 20
    PULL_OFFSET_MOVED = 21


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t wall_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef class LoadSetup:
    """The parts of a Load and its results; only its subclass is ever made."""

    cdef Connection* connections
    cdef int32_t connection_count, sender_count
    cdef Template* templates
    cdef Mark* marks
    cdef Cursor* cursors
    cdef int32_t cursor_count
    cdef Slot* slots
    cdef int32_t* free_slots
    cdef int32_t slot_count, free_count, slot_bits, slots_used
    cdef int epoll_fd
    cdef int32_t depth
    cdef double interval_ns         # between requests of the open loop; 0: closed loop
    cdef bint oneway, live, verify, spin
    cdef int64_t timeout_ns
    cdef uint64_t key_base
    cdef uint8_t run_id[8]
    cdef fq_crc_kernel crc
    cdef list owners
    # clock
    cdef int64_t start_ns, wall_delta, born_ms
    cdef uint8_t born[BORN_DIGITS]
    # state of the run
    cdef bint sending, reading, ran
    cdef volatile bint stopping
    cdef int64_t send_limit, due    # requests in all (0: no limit); requests scheduled so far by the open loop
    cdef int32_t turn               # whose turn it is in the open loop
    cdef int32_t senders_alive, cursors_open
    cdef int64_t in_flight, unsent  # requests, over all senders
    cdef uint64_t generation, key
    # what came of it
    cdef readonly int32_t per_request
    cdef readonly int64_t sent, answered, lost, timed_out, unexpected
    cdef readonly int64_t connection_errors, protocol_errors
    cdef readonly int64_t pulls, pulls_lost, pulls_timed_out, received, received_bytes, own
    cdef readonly int64_t order_errors, checksum_errors, malformed
    cdef readonly int64_t elapsed_ns
    cdef Codes send_codes_, pull_codes_
    cdef Histogram send_latency, pull_latency, delivery_latency, lateness
    cdef Timeline acknowledged, delivered

    def __cinit__(
        self, *, senders=(), templates=(), int depth=1, double rate=0, bint spin=False, bint oneway=False, int per_request=1,
        readers=(), cursors=(), bint live=False, bint verify=True, bytes run_id=bytes(8), uint64_t key_base=0,
        double timeout_s=30,
    ):
        self.epoll_fd = -1
        if depth < 1 or per_request < 1 or rate < 0 or not 0 < timeout_s < 1e6 or len(run_id) != 8:
            raise UsageError("depth and messages a request are at least 1, rate and timeout not negative")
        if not senders and not readers:
            raise UsageError("a load needs connections")
        if (senders and not templates) or (readers and not cursors):
            raise UsageError("senders need templates, readers need cursors")
        self.depth = depth
        self.per_request = per_request
        self.interval_ns = per_request * 1e9 / rate if rate else 0
        self.oneway = oneway
        self.spin = spin
        self.live = live
        self.verify = verify
        self.key_base = key_base
        self.timeout_ns = <int64_t>(timeout_s * 1e9)
        memcpy(self.run_id, PyBytes_AS_STRING(run_id), 8)
        self.crc = fq_crc_select(FQ_CRC_AUTO)
        self.owners = []
        self.sender_count = len(senders)
        self.connection_count = self.sender_count + len(readers)
        self.connections = <Connection*>calloc(self.connection_count, sizeof(Connection))
        if self.connections == NULL:
            raise MemoryError
        self.take_templates(templates)
        self.take_senders(senders, len(templates))
        self.take_readers(readers, cursors)
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1")
        self.watch()

    cdef take_templates(self, templates):
        cdef int32_t i, mark = 0
        self.templates = <Template*>calloc(max(1, len(templates)), sizeof(Template))
        self.marks = <Mark*>calloc(max(1, sum(len(t[3]) for t in templates)), sizeof(Mark))
        if self.templates == NULL or self.marks == NULL:
            raise MemoryError
        for i, (data, opaque_at, born_at, marks) in enumerate(templates):
            places = [(opaque_at, OPAQUE_DIGITS), (born_at, BORN_DIGITS)]
            places += [(key, KEY_DIGITS) for key, _ in marks] + [(stamp, 8) for _, stamp in marks]
            if opaque_at < 0 or any(at != -1 and not 0 <= at <= len(data) - width for at, width in places):
                raise UsageError("a place of a template lies outside it")
            self.owners.append(data)
            self.templates[i].data = <const uint8_t*>PyBytes_AS_STRING(data)
            self.templates[i].length = <int32_t>PyBytes_GET_SIZE(data)
            self.templates[i].opaque_at = opaque_at
            self.templates[i].born_at = born_at
            self.templates[i].first_mark = mark
            self.templates[i].mark_count = len(marks)
            for key_at, stamp_at in marks:
                self.marks[mark].key_at = key_at
                self.marks[mark].stamp_at = stamp_at
                mark += 1

    cdef take_senders(self, senders, int32_t template_count):
        cdef int32_t i, j
        cdef int32_t* wanted
        cdef bint made
        for i, (fd, ring) in enumerate(senders):
            if not ring or min(ring) < 0 or max(ring) >= template_count:
                raise UsageError("a sender's ring names templates that exist")
            wanted = <int32_t*>malloc(len(ring) * sizeof(int32_t))
            if wanted == NULL:
                raise MemoryError
            for j, number in enumerate(ring):
                wanted[j] = number
            made = make_ring(&self.connections[i], self.templates, wanted, <int32_t>len(ring))
            free(wanted)
            if not made:
                raise MemoryError
            self.connections[i].fd = fd
        if not senders or self.oneway:
            return
        self.slot_count = OPEN_SLOTS if self.interval_ns else self.sender_count * self.depth
        while (1 << self.slot_bits) < self.slot_count:
            self.slot_bits += 1
        if self.slot_bits > 24:
            raise UsageError("connections x depth is too large")
        self.slots = <Slot*>calloc(self.slot_count, sizeof(Slot))
        self.free_slots = <int32_t*>calloc(self.slot_count, sizeof(int32_t))
        if self.slots == NULL or self.free_slots == NULL:
            raise MemoryError
        for i in range(self.slot_count):
            self.slots[i].connection = -1
            self.free_slots[i] = self.slot_count - 1 - i
        self.free_count = self.slot_count

    cdef take_readers(self, readers, cursors):
        cdef int32_t i
        cdef Cursor* cursor
        for i, fd in enumerate(readers):
            self.connections[self.sender_count + i].fd = fd
        self.cursor_count = len(cursors)
        self.cursors = <Cursor*>calloc(max(1, self.cursor_count), sizeof(Cursor))
        if self.cursors == NULL:
            raise MemoryError
        for i, (reader, head, tail, queue_id, begin, end) in enumerate(cursors):
            if not 0 <= reader < len(readers) or begin < 0 or len(head) < 8:
                raise UsageError("a cursor names its reader, a frame in two parts and an offset")
            self.owners += [head, tail]
            cursor = &self.cursors[i]
            cursor.connection = self.sender_count + <int32_t>reader
            cursor.head = <const uint8_t*>PyBytes_AS_STRING(head)
            cursor.tail = <const uint8_t*>PyBytes_AS_STRING(tail)
            cursor.head_length = <int32_t>PyBytes_GET_SIZE(head)
            cursor.tail_length = <int32_t>PyBytes_GET_SIZE(tail)
            cursor.queue_id = queue_id
            cursor.next = begin
            cursor.end = end
            cursor.finished = 0 <= end <= begin

    cdef watch(self):
        cdef int32_t i
        cdef epoll_event event
        for i in range(self.connection_count):
            event.events = EPOLLIN
            event.data.u64 = i
            if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, self.connections[i].fd, &event) < 0:
                raise OSError(errno, "epoll_ctl")

    def __dealloc__(self):
        cdef int32_t i
        if self.connections != NULL:
            for i in range(self.connection_count):
                connection_free(&self.connections[i])
        free(self.connections)
        free(self.templates)
        free(self.marks)
        free(self.cursors)
        free(self.slots)
        free(self.free_slots)
        free(self.acknowledged.counts)
        free(self.delivered.counts)
        if self.epoll_fd >= 0:
            c_close(self.epoll_fd)

    cdef int64_t successes(self) noexcept nogil:
        cdef int32_t i
        for i in range(self.send_codes_.used):
            if self.send_codes_.rows[i].code == SUCCESS:
                return self.send_codes_.rows[i].count * self.per_request
        return 0

    # ---- what came of it

    @property
    def send_codes(self):
        """{code: (answers to sends, JSON header of the first)}."""
        return codes_of(&self.send_codes_)

    @property
    def pull_codes(self):
        """{code: (answers to pulls, JSON header of the first)}."""
        return codes_of(&self.pull_codes_)

    @property
    def done(self):
        """Messages whose send was answered with success."""
        return self.successes()

    def latencies(self):
        """Histograms: name -> ([(smallest ns, largest ns, count), ...], largest seen)."""
        return {
            "send": histogram_buckets(&self.send_latency),
            "pull": histogram_buckets(&self.pull_latency),
            "delivery": histogram_buckets(&self.delivery_latency),
            "lateness": histogram_buckets(&self.lateness),
        }

    def timeline(self):
        """Messages acknowledged and messages read in every 100 ms since the start."""
        cdef int64_t i
        return (
            [self.acknowledged.counts[i] for i in range(self.acknowledged.used)],
            [self.delivered.counts[i] for i in range(self.delivered.used)],
        )

    def positions(self):
        """Next queue offset of every cursor."""
        cdef int32_t i
        return [self.cursors[i].next for i in range(self.cursor_count)]
