# The load: senders and readers on one epoll descriptor, one thread, one clock read for whatever one receive brought.
#
# Every send that was placed ends in exactly one of: answered (by code), lost with its connection, timed out, or (oneway)
# written to the socket. Only code 0 is a success.


@cython.final
cdef class Load(LoadSetup):
    """Senders and readers, run for a time or until they are done; counts and histograms afterwards."""

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

    cdef void place_due(self, int64_t now, int64_t until) noexcept nogil:
        """Open loop: everything whose time has come by `until`, as far as the sockets take it."""
        while self.place_some_due(now, until):
            pass

    cdef bint place_some_due(self, int64_t now, int64_t until) noexcept nogil:
        """What is due and has room, on the connections in turn, then written. Whether there may be room for more."""
        cdef int64_t intended
        cdef int32_t tried, first = self.turn, passed = 0
        cdef bint placed = False, full = False
        cdef Connection* c
        while self.may_send():
            intended = self.start_ns + <int64_t>(self.due * self.interval_ns)
            if intended > until:
                break
            for tried in range(self.sender_count):
                c = &self.connections[self.turn]
                if not c.broken and self.place(c, self.turn, now, intended):
                    record(&self.lateness, now - intended, 1)
                    self.due += 1
                    placed = True
                    break
                self.next_turn()
                passed += 1
            else:
                full = True
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
        return placed and full

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
            ask_for_short_slices()
            now = now_ns()
            end = now + <int64_t>(seconds * 1e9)
            next_check = now + TICK_NS
            self.begin(now)
            while True:
                now = now_ns()
                if give_up < 0 and (now >= end or self.stopping or self.senders_done()):
                    if self.interval_ns and not self.stopping:
                        self.place_due(now, end - 1)  # what became due while we were not running
                    self.sending = False
                    self.reading = self.live
                    give_up = now + self.timeout_ns + 2 * TICK_NS
                if self.over() or (give_up >= 0 and now > give_up):
                    break
                until = next_check if give_up >= 0 or end > next_check else end
                if self.sending and self.interval_ns:
                    self.place_due(now, min(now, end - 1))
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
