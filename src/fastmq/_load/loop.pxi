# The load: senders and readers on one epoll descriptor, one thread, one clock read for whatever one receive brought.
#
# Every send that was placed ends in exactly one of: answered (by code), lost with its connection, timed out, or (oneway)
# written to the socket. Only code 0 is a success.

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


@cython.final
cdef class Load:
    """Senders and readers, run for a time or until they are done; counts and histograms afterwards."""

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

    # ---- sending

    cdef bint place(self, Connection* c, int32_t index, int64_t now, int64_t intended) noexcept nogil:
        """Fill the next frame of the ring; False if the ring is full or too many sends are unanswered."""
        cdef const Template* t
        cdef const Mark* mark
        cdef uint8_t* frame
        cdef Slot* slot
        cdef int32_t number, i
        cdef int64_t ms
        cdef uint32_t opaque
        if c.unsent == c.frames:
            return False
        t = &self.templates[c.templates[c.head]]
        frame = c.ring + c.starts[c.head]
        self.generation += 1
        if self.oneway:
            opaque = <uint32_t>(self.generation & GENERATIONS)
        else:
            if self.free_count == 0:
                return False
            self.free_count -= 1
            number = self.free_slots[self.free_count]
            if number >= self.slots_used:
                self.slots_used = number + 1
            opaque = <uint32_t>(((self.generation << self.slot_bits) | <uint64_t>number) & GENERATIONS)
            slot = &self.slots[number]
            slot.intended = intended
            slot.opaque = opaque
            slot.connection = index
            c.in_flight += 1
            self.in_flight += 1
        fq_put_opaque(frame + t.opaque_at, SEND_OPAQUE + opaque)
        if t.born_at >= 0:
            ms = (now + self.wall_delta) // 1000000
            if ms != self.born_ms:
                self.born_ms = ms
                put_decimal(self.born, ms)
            memcpy(frame + t.born_at, self.born, BORN_DIGITS)
        for i in range(t.mark_count):
            mark = &self.marks[t.first_mark + i]
            if mark.key_at >= 0:
                fq_put_hex16(frame + mark.key_at, self.key)
                self.key += 1
            if mark.stamp_at >= 0:
                fq_put_be64(frame + mark.stamp_at, <uint64_t>intended)
        c.head += 1
        if c.head == c.frames:
            c.head = 0
        c.unsent += 1
        self.unsent += 1
        self.sent += 1
        return True

    cdef inline bint may_send(self) noexcept nogil:
        return self.sending and (self.send_limit == 0 or self.sent < self.send_limit)

    cdef void fill(self, Connection* c, int32_t index, int64_t now) noexcept nogil:
        """Closed loop: as many requests as may be in flight."""
        while (self.oneway or c.in_flight < self.depth) and self.may_send():
            if not self.place(c, index, now, now):
                break

    cdef void place_due(self, int64_t now) noexcept nogil:
        """Open loop: everything whose time has come, on the connections in turn, then written."""
        cdef int64_t intended
        cdef int32_t tried, first = self.turn, passed = 0
        cdef Connection* c
        while self.may_send():
            intended = self.start_ns + <int64_t>(self.due * self.interval_ns)
            if intended > now:
                break
            for tried in range(self.sender_count):
                c = &self.connections[self.turn]
                if not c.broken and self.place(c, self.turn, now, intended):
                    record(&self.lateness, now - intended, 1)
                    self.due += 1
                    break
                self.next_turn()
                passed += 1
            else:
                break
            self.next_turn()
            passed += 1
        for tried in range(min(passed, self.sender_count)):
            c = &self.connections[first]
            if c.unsent and not c.writing:
                self.flush(c, first)
            first += 1
            if first == self.sender_count:
                first = 0

    cdef inline void next_turn(self) noexcept nogil:
        self.turn += 1
        if self.turn == self.sender_count:
            self.turn = 0

    cdef void flush(self, Connection* c, int32_t index) noexcept nogil:
        cdef epoll_event event
        cdef int32_t before = c.unsent
        cdef int outcome = send_ring(c) if c.sends else send_output(c)
        self.unsent -= before - c.unsent
        if outcome < 0:
            self.fail(c, index)
            return
        if c.writing != (outcome == 0):
            c.writing = outcome == 0
            event.events = EPOLLIN | (EPOLLOUT if c.writing else 0)
            event.data.u64 = index
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, c.fd, &event)

    cdef void flush_all(self) noexcept nogil:
        cdef int32_t i
        cdef Connection* c
        for i in range(self.connection_count):
            c = &self.connections[i]
            if not c.broken and not c.writing and (c.unsent or buffer_length(&c.output)):
                self.flush(c, i)

    cdef void fail(self, Connection* c, int32_t index) noexcept nogil:
        """A connection is gone, and with it what was in flight on it."""
        cdef int32_t i
        if c.broken:
            return
        c.broken = True
        self.connection_errors += 1
        epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, c.fd, NULL)
        if c.sends:
            self.senders_alive -= 1
            self.lost += c.unsent if self.oneway else c.in_flight
            self.in_flight -= c.in_flight
            self.unsent -= c.unsent
            c.unsent = c.in_flight = 0
            for i in range(self.slots_used):
                if self.slots[i].connection == index:
                    self.free_slot(i)
            return
        for i in range(self.cursor_count):
            if self.cursors[i].connection == index and not self.cursors[i].finished:
                self.pulls_lost += self.cursors[i].asked != 0
                self.finish(&self.cursors[i])

    cdef inline void free_slot(self, int32_t number) noexcept nogil:
        self.slots[number].connection = -1
        self.free_slots[self.free_count] = number
        self.free_count += 1

    # ---- receiving

    cdef void on_readable(self, Connection* c, int32_t index) noexcept nogil:
        cdef ssize_t n
        cdef size_t want = SEND_RECEIVE if c.sends else PULL_RECEIVE
        cdef uint32_t length
        cdef uint8_t* room
        cdef int64_t now, done = 0
        cdef Answer answer
        if buffer_length(&c.input) == 0:
            c.input.begin = c.input.end = 0
        room = buffer_reserve(&c.input, want)
        if room == NULL:
            self.fail(c, index)
            return
        n = c_recv(c.fd, room, want, MSG_DONTWAIT)
        if n <= 0:
            if n == 0 or (errno != EAGAIN and errno != EINTR):
                self.fail(c, index)
            return
        c.input.end += n
        now = now_ns()
        while buffer_length(&c.input) >= 4:
            length = load_be32(c.input.data + c.input.begin)
            if length > FRAME_LIMIT:
                self.protocol_errors += 1
                self.fail(c, index)
                return
            length += 4
            if length > buffer_length(&c.input):
                break
            if not read_answer(c.input.data + c.input.begin, length, &c.layout, &answer):
                self.protocol_errors += 1
                self.fail(c, index)
                return
            c.input.begin += length
            if c.sends:
                done += self.on_send_answer(c, index, &answer, now)
            else:
                self.on_pull_answer(c, index, &answer, now)
        if done:
            timeline_add(&self.acknowledged, (now - self.start_ns) // TICK_NS, done * self.per_request)
        if c.sends and self.interval_ns == 0:
            self.fill(c, index, now)
        if not c.broken and not c.writing and (c.unsent or buffer_length(&c.output)):
            self.flush(c, index)

    cdef inline int on_send_answer(self, Connection* c, int32_t index, const Answer* answer, int64_t now) noexcept nogil:
        """Returns 1 for a success."""
        cdef int64_t opaque = answer.opaque - SEND_OPAQUE
        cdef int64_t number = opaque & ((1 << self.slot_bits) - 1)
        cdef Slot* slot
        if opaque < 0 or answer.opaque >= PULL_OPAQUE:
            return 0  # a request of the server's own
        if number >= self.slot_count or self.slots[number].opaque != opaque or self.slots[number].connection != index:
            self.unexpected += 1  # answered twice, or after its timeout
            return 0
        slot = &self.slots[number]
        self.free_slot(<int32_t>number)
        c.in_flight -= 1
        self.in_flight -= 1
        self.answered += 1
        count_code(&self.send_codes_, answer, 1)
        if answer.code != SUCCESS:
            return 0
        record(&self.send_latency, now - slot.intended, 1)
        return 1

    # ---- reading

    cdef void on_pull_answer(self, Connection* c, int32_t index, const Answer* answer, int64_t now) noexcept nogil:
        cdef int64_t number = answer.opaque - PULL_OPAQUE
        cdef Cursor* cursor
        if answer.opaque < SEND_OPAQUE:
            return
        if number < 0 or number >= self.cursor_count or self.cursors[number].connection != index:
            self.unexpected += 1
            return
        cursor = &self.cursors[number]
        if cursor.asked == 0:
            self.unexpected += 1
            return
        count_code(&self.pull_codes_, answer, 1)
        if answer.code == SUCCESS:
            record(&self.pull_latency, now - cursor.asked, 1)
            self.read_records(cursor, answer, now)
        elif answer.code == PULL_NOT_FOUND and self.live:
            cursor.failures = 0
        elif answer.code == PULL_RETRY_IMMEDIATELY or answer.code == PULL_OFFSET_MOVED:
            self.follow(cursor, answer)
        else:
            cursor.failures += 1
        cursor.asked = 0
        if cursor.finished:
            return
        if (0 <= cursor.end <= cursor.next) or cursor.failures >= FAILURES_MAX:
            self.finish(cursor)
        elif self.reading and not place_pull(c, cursor, now):
            self.fail(c, index)

    cdef void finish(self, Cursor* cursor) noexcept nogil:
        cursor.finished = True
        cursor.asked = 0
        self.cursors_open -= 1

    cdef void follow(self, Cursor* cursor, const Answer* answer) noexcept nogil:
        """Go where the server says; what lies between was not delivered."""
        cdef const uint8_t* p = <const uint8_t*>memmem(
            answer.header, answer.body - answer.header, b'"nextBeginOffset":"', 19
        )
        cdef int64_t offset = read_decimal(p + 19, answer.body) if p != NULL else -1
        if offset >= 0 and offset != cursor.next:
            self.order_errors += 1
            cursor.next = offset
        cursor.failures += 1

    cdef void read_records(self, Cursor* cursor, const Answer* answer, int64_t now) noexcept nogil:
        cdef const uint8_t* p = answer.body
        cdef Record item
        cdef int64_t count = 0, stamped
        cursor.failures += 1  # unless there is a message in it
        if p == answer.end:
            self.malformed += 1
        while p < answer.end:
            if not read_record(p, answer.end - p, &item):
                self.malformed += 1
                break
            p += item.length
            if cursor.end >= 0 and item.queue_offset >= cursor.end:
                cursor.next = item.queue_offset  # written after the run began: not part of what is read
                break
            if item.queue_offset != cursor.next or item.queue_id != cursor.queue_id:
                self.order_errors += 1
            cursor.next = item.queue_offset + 1
            if self.verify and self.crc(0, item.body, item.body_length) & 0x7FFFFFFF != item.crc:
                self.checksum_errors += 1
            count += 1
            self.received_bytes += item.body_length
            if self.live and item.body_length >= STAMP_BYTES and memcmp(item.body, self.run_id, 8) == 0:
                stamped = <int64_t>fq_load_be64(item.body + 8)
                record(&self.delivery_latency, now - stamped, 1)
                self.own += 1
        if count:
            cursor.failures = 0
        self.received += count
        self.pulls += 1
        timeline_add(&self.delivered, (now - self.start_ns) // TICK_NS, count)

    # ---- time

    cdef void expire(self, int64_t now) noexcept nogil:
        """Give up on what has waited too long."""
        cdef int32_t i
        cdef Connection* c
        cdef Slot* slot
        for i in range(self.slots_used):
            slot = &self.slots[i]
            if slot.connection >= 0 and now - slot.intended > self.timeout_ns:
                c = &self.connections[slot.connection]
                self.timed_out += 1
                c.in_flight -= 1
                self.in_flight -= 1
                self.free_slot(i)
        for i in range(self.cursor_count):
            if self.cursors[i].asked and now - self.cursors[i].asked > self.timeout_ns:
                self.pulls_timed_out += 1
                self.finish(&self.cursors[i])
        if self.interval_ns == 0:
            for i in range(self.sender_count):
                c = &self.connections[i]
                if not c.broken:
                    self.fill(c, i, now)
            self.flush_all()

    cdef int wait(self, epoll_event* events, int64_t now, int64_t until) noexcept nogil:
        """Ready connections, at the latest at `until`: to the nanosecond in an open loop, which sleeps between sends."""
        cdef pollfd fd
        cdef timespec time
        cdef int64_t gap = until - now
        cdef int ready
        if self.interval_ns == 0:
            return epoll_wait(self.epoll_fd, events, EVENTS, <int>((gap + 999999) // 1000000) if gap > 0 else 0)
        ready = epoll_wait(self.epoll_fd, events, EVENTS, 0)
        if ready or gap <= 0 or (self.spin and gap <= SPIN_NS):
            return ready
        if self.spin:
            gap -= SPIN_NS
        fd.fd = self.epoll_fd
        fd.events = POLLIN
        time.tv_sec = gap // 1000000000
        time.tv_nsec = gap % 1000000000
        if ppoll(&fd, 1, &time, NULL) <= 0:
            return 0
        return epoll_wait(self.epoll_fd, events, EVENTS, 0)

    cdef bint over(self) noexcept nogil:
        """Whether nothing is left to wait for."""
        if self.sending and self.sender_count and self.senders_alive:
            return False
        if self.sender_count and (self.in_flight or self.unsent):
            return False
        if self.cursor_count == 0 or self.cursors_open == 0:
            return True
        if not self.live:
            return self.stopped_reading()
        return self.sender_count > 0 and self.own >= self.successes()

    cdef bint stopped_reading(self) noexcept nogil:
        cdef int32_t i
        if self.reading:
            return False
        for i in range(self.cursor_count):
            if self.cursors[i].asked:
                return False
        return True

    cdef int64_t successes(self) noexcept nogil:
        cdef int32_t i
        for i in range(self.send_codes_.used):
            if self.send_codes_.rows[i].code == SUCCESS:
                return self.send_codes_.rows[i].count * self.per_request
        return 0

    cdef void begin(self, int64_t now) noexcept nogil:
        cdef int32_t i
        cdef Connection* c
        self.start_ns = now
        self.wall_delta = wall_ns() - now
        self.key = self.key_base
        self.sending = self.sender_count > 0
        self.reading = True
        self.senders_alive = self.sender_count
        for i in range(self.cursor_count):
            if not self.cursors[i].finished:
                self.cursors_open += 1
                c = &self.connections[self.cursors[i].connection]
                if not place_pull(c, &self.cursors[i], now):
                    self.fail(c, self.cursors[i].connection)
        if self.interval_ns == 0:
            for i in range(self.sender_count):
                self.fill(&self.connections[i], i, now)
        self.flush_all()

    def run(self, double seconds, int64_t count=0):
        """Load the server for so many seconds, or until `count` requests were sent (0: no such bound), and wait for what
        is in flight. A load runs once. Blocks without the GIL.
        """
        cdef int64_t now, end, next_check, until, give_up = -1
        cdef epoll_event events[EVENTS]
        cdef int ready
        cdef int32_t i, index
        cdef Connection* c
        if self.ran:
            raise UsageError("a load runs once")
        if not 0 <= seconds < 1e6 or count < 0:
            raise UsageError("seconds and count are not negative")
        self.ran = True
        self.send_limit = count
        with nogil:
            prctl(PR_SET_TIMERSLACK, 1)
            now = now_ns()
            end = now + <int64_t>(seconds * 1e9)
            next_check = now + TICK_NS
            self.begin(now)
            while True:
                now = now_ns()
                if give_up < 0 and (now >= end or self.stopping or self.senders_done()):
                    self.sending = False
                    self.reading = self.live
                    give_up = now + self.timeout_ns + 2 * TICK_NS
                if self.over() or (give_up >= 0 and now > give_up):
                    break
                until = next_check if give_up >= 0 or end > next_check else end
                if self.sending and self.interval_ns:
                    self.place_due(now)
                    if self.may_send():
                        until = min(until, self.start_ns + <int64_t>(self.due * self.interval_ns))
                        if until <= now:
                            until = now + 50000  # no room at present: the answers or the sockets wake us
                elif self.oneway and self.sending and self.pour(now):
                    until = now
                if now >= next_check:
                    next_check = now + TICK_NS
                    self.expire(now)
                ready = self.wait(events, now, until)
                for i in range(ready):
                    index = <int32_t>events[i].data.u64
                    c = &self.connections[index]
                    if not c.broken and events[i].events & EPOLLOUT:
                        self.flush(c, index)
                    if not c.broken and events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                        self.on_readable(c, index)
            self.elapsed_ns = now_ns() - self.start_ns
            self.leave()

    cdef bint senders_done(self) noexcept nogil:
        """Whether everything that is to be sent was sent, or nobody is left to send or to read."""
        if self.sender_count == 0:
            return self.cursors_open == 0
        return self.senders_alive == 0 or (self.send_limit and self.sent >= self.send_limit)

    cdef bint pour(self, int64_t now) noexcept nogil:
        """Oneway, closed loop: nothing answers, so the sockets set the pace. True while one of them takes more."""
        cdef int32_t i
        cdef Connection* c
        cdef bint more = False
        for i in range(self.sender_count):
            c = &self.connections[i]
            if not c.broken and not c.writing and self.may_send():
                self.fill(c, i, now)
                self.flush(c, i)
                more = more or not c.writing
        return more

    cdef void leave(self) noexcept nogil:
        """Count what was still open at the end as timed out."""
        self.timed_out += self.in_flight
        if self.oneway:
            self.timed_out += self.unsent
        if not self.live:
            for i in range(self.cursor_count):
                if self.cursors[i].asked:
                    self.pulls_timed_out += 1

    def stop(self):
        """Send nothing more; `run` returns when what is in flight is answered. For another thread."""
        self.stopping = True

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
