"""The inner loop of `fastmq bench`: sends frames and counts answers without Python, so that it is not what is measured.

A workload is a list of template frames (one per message queue) with the places in them that change from message to
message: the opaque, the unique key, the born timestamp. All of them have a fixed width, so that a frame is one copy
and a few patched digits. Latencies go into a log-linear histogram (HDR style: 1/64 relative error).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

include "_reactor/os.pxi"

from fastmq.errors import UsageError

cdef extern from "<time.h>" nogil:
    enum: CLOCK_MONOTONIC, CLOCK_REALTIME

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t haystack_length, const void* needle, size_t needle_length)

cdef enum:
    OPAQUE_BASE = 1000000000        # ten digits, and room for a thousand million requests
    SUB_BUCKETS = 64
    BUCKETS = SUB_BUCKETS * 40
    RECEIVE = 1 << 18
    CODES = 4096


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t wall_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000 + t.tv_nsec // 1000000


cdef inline void put_digits(uint8_t* out, int64_t value, int width) noexcept nogil:
    cdef int i = width
    while i:
        i -= 1
        out[i] = <uint8_t>(c'0' + value % 10)
        value //= 10


cdef inline int bucket_of(int64_t ns) noexcept nogil:
    """Log-linear: exact below 64 ns, then 64 buckets for every doubling."""
    cdef int shift = 0
    cdef int64_t value = ns
    if ns < 0:
        return 0
    while value >= SUB_BUCKETS * 2:
        value >>= 1
        shift += 1
    if shift == 0:
        return <int>value if value < SUB_BUCKETS else SUB_BUCKETS + <int>(value - SUB_BUCKETS)
    return (shift + 1) * SUB_BUCKETS + <int>(value - SUB_BUCKETS)


def bucket_low(int index):
    """Smallest latency in ns that falls into a bucket of the histogram."""
    if index < 2 * SUB_BUCKETS:
        return index
    return (SUB_BUCKETS + index % SUB_BUCKETS) << (index // SUB_BUCKETS - 1)


cdef struct Template:
    uint8_t* data
    int32_t length
    int32_t opaque_at               # 10 digits
    int32_t key_at                  # 16 hex digits at the end of the unique key, or -1
    int32_t born_at                 # 13 digits, or -1

cdef struct LoadConnection:
    int fd
    Buffer output
    Buffer input
    int32_t in_flight
    int32_t next_template
    bint broken
    bint writing


@cython.final
cdef class SendLoad:
    """Closed loop of sends: `depth` requests in flight on each connection, a new one for every answer."""

    cdef LoadConnection* connections
    cdef int32_t connection_count, depth
    cdef Template* templates
    cdef int32_t template_count
    cdef int epoll_fd
    cdef int64_t* started           # send time by opaque, a ring
    cdef int64_t ring_mask
    cdef int64_t next_opaque
    cdef uint64_t key_base
    cdef int64_t* histogram
    cdef int64_t* code_counts
    cdef uint8_t* receive
    cdef list owners
    cdef readonly int64_t sent, answered, connection_errors
    cdef readonly int64_t max_ns, elapsed_ns
    cdef bint stopping

    def __cinit__(self, fds, templates, int depth, uint64_t key_base=0):
        cdef int32_t i
        cdef epoll_event event
        if depth < 1 or not fds or not templates:
            raise UsageError("a load needs connections, templates and a depth of at least 1")
        self.connection_count = len(fds)
        self.depth = depth
        self.key_base = key_base
        self.connections = <LoadConnection*>calloc(self.connection_count, sizeof(LoadConnection))
        self.template_count = len(templates)
        self.templates = <Template*>calloc(self.template_count, sizeof(Template))
        self.histogram = <int64_t*>calloc(BUCKETS, sizeof(int64_t))
        self.code_counts = <int64_t*>calloc(CODES, sizeof(int64_t))
        self.receive = <uint8_t*>malloc(RECEIVE)
        self.ring_mask = 1
        while self.ring_mask < 2 * <int64_t>self.connection_count * depth:
            self.ring_mask *= 2
        self.started = <int64_t*>calloc(self.ring_mask, sizeof(int64_t))
        self.ring_mask -= 1
        self.owners = [t[0] for t in templates]
        for i in range(self.template_count):
            data, opaque_at, key_at, born_at = templates[i]
            self.templates[i].data = <uint8_t*>PyBytes_AS_STRING(data)
            self.templates[i].length = <int32_t>PyBytes_GET_SIZE(data)
            self.templates[i].opaque_at = opaque_at
            self.templates[i].key_at = key_at
            self.templates[i].born_at = born_at
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise OSError(errno, "epoll_create1")
        for i in range(self.connection_count):
            self.connections[i].fd = fds[i]
            self.connections[i].next_template = i % self.template_count
            event.events = EPOLLIN
            event.data.u64 = i
            if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fds[i], &event) < 0:
                raise OSError(errno, "epoll_ctl")

    def __dealloc__(self):
        cdef int32_t i
        for i in range(self.connection_count):
            buffer_free(&self.connections[i].output)
            buffer_free(&self.connections[i].input)
        free(self.connections)
        free(self.templates)
        free(self.histogram)
        free(self.code_counts)
        free(self.receive)
        free(self.started)
        if self.epoll_fd >= 0:
            c_close(self.epoll_fd)

    cdef bint place(self, LoadConnection* c, int64_t now) noexcept nogil:
        """Put the next request into the connection's output."""
        cdef Template* t = &self.templates[c.next_template]
        cdef uint8_t* room = buffer_reserve(&c.output, t.length)
        cdef uint64_t key
        cdef int i
        if room == NULL:
            return False
        c.next_template += 1
        if c.next_template == self.template_count:
            c.next_template = 0
        memcpy(room, t.data, t.length)
        put_digits(room + t.opaque_at, OPAQUE_BASE + (self.next_opaque & 0x3FFFFFFF), 10)
        if t.key_at >= 0:
            key = self.key_base + <uint64_t>self.next_opaque
            for i in range(16):
                room[t.key_at + 15 - i] = b"0123456789ABCDEF"[(key >> (4 * i)) & 15]
        if t.born_at >= 0:
            put_digits(room + t.born_at, wall_ms(), 13)
        c.output.end += t.length
        self.started[self.next_opaque & self.ring_mask] = now
        self.next_opaque += 1
        c.in_flight += 1
        self.sent += 1
        return True

    cdef void flush(self, LoadConnection* c, uint64_t index) noexcept nogil:
        cdef ssize_t n
        cdef size_t length = buffer_length(&c.output)
        cdef epoll_event event
        while length:
            n = c_send(c.fd, c.output.data + c.output.begin, length, MSG_NOSIGNAL | MSG_DONTWAIT)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    self.fail(c)
                    return
                break
            c.output.begin += n
            length -= n
        if length == 0:
            c.output.begin = c.output.end = 0
        if (length != 0) != c.writing:
            c.writing = length != 0
            event.events = EPOLLIN | (EPOLLOUT if c.writing else 0)
            event.data.u64 = index
            epoll_ctl(self.epoll_fd, EPOLL_CTL_MOD, c.fd, &event)

    cdef void fail(self, LoadConnection* c) noexcept nogil:
        if not c.broken:
            c.broken = True
            self.connection_errors += 1
            epoll_ctl(self.epoll_fd, EPOLL_CTL_DEL, c.fd, NULL)
            c.in_flight = 0

    cdef void on_answer(self, LoadConnection* c, const uint8_t* frame, int32_t length, int64_t now) noexcept nogil:
        cdef const uint8_t* p
        cdef const uint8_t* end = frame + length
        cdef int64_t opaque = 0, code = 0, ns
        p = <const uint8_t*>memmem(frame + 8, length - 8, b'"opaque":', 9)
        if p != NULL:
            p += 9
            while p < end and c'0' <= p[0] <= c'9':
                opaque = opaque * 10 + (p[0] - c'0')
                p += 1
        p = <const uint8_t*>memmem(frame + 8, length - 8, b'"code":', 7)
        if p != NULL:
            p += 7
            while p < end and c'0' <= p[0] <= c'9':
                code = code * 10 + (p[0] - c'0')
                p += 1
        if opaque < OPAQUE_BASE:
            return  # a request of the server's own
        c.in_flight -= 1
        self.answered += 1
        self.code_counts[code if code < CODES else CODES - 1] += 1
        if code == 0:
            ns = now - self.started[(opaque - OPAQUE_BASE) & self.ring_mask]
            self.histogram[bucket_of(ns)] += 1
            if ns > self.max_ns:
                self.max_ns = ns

    cdef void on_readable(self, LoadConnection* c) noexcept nogil:
        cdef size_t kept = buffer_length(&c.input), total, used = 0
        cdef ssize_t n
        cdef int64_t now
        cdef uint32_t length
        if kept:
            memcpy(self.receive, c.input.data + c.input.begin, kept)
        n = c_recv(c.fd, self.receive + kept, RECEIVE - kept, MSG_DONTWAIT)
        if n <= 0:
            if n == 0 or errno != EAGAIN:
                self.fail(c)
            return
        now = now_ns()
        total = kept + n
        while total - used >= 4:
            length = load_be32(self.receive + used) + 4
            if length > RECEIVE:
                self.fail(c)
                return
            if length > total - used:
                break
            self.on_answer(c, self.receive + used, <int32_t>length, now)
            used += length
        c.input.begin = c.input.end = 0
        if total > used:
            buffer_append(&c.input, self.receive + used, total - used)

    def run(self, double seconds, int64_t count=0):
        """Load the server for so many seconds, or until `count` requests were sent, then wait for what is in flight.

        Returns False if answers were still missing 30 s after the last request.
        """
        cdef int64_t start, end, now, give_up
        cdef int32_t i, ready, waiting
        cdef epoll_event events[256]
        cdef LoadConnection* c
        cdef bint sending = True
        with nogil:
            start = now_ns()
            end = start + <int64_t>(seconds * 1e9)
            give_up = end + <int64_t>30000000000
            while True:
                now = now_ns()
                sending = sending and now < end and (count == 0 or self.sent < count) and not self.stopping
                waiting = 0
                for i in range(self.connection_count):
                    c = &self.connections[i]
                    if c.broken:
                        continue
                    if sending:
                        while c.in_flight < self.depth and (count == 0 or self.sent < count):
                            if not self.place(c, now):
                                break
                    if buffer_length(&c.output):
                        self.flush(c, i)
                    waiting += c.in_flight
                if waiting == 0 or now > give_up:
                    break
                ready = epoll_wait(self.epoll_fd, events, 256, 100)
                for i in range(ready):
                    c = &self.connections[events[i].data.u64]
                    if not c.broken and events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR):
                        self.on_readable(c)
            self.elapsed_ns = now_ns() - start
        return waiting == 0

    def stop(self):
        """Send nothing more; `run` returns when what is in flight is answered."""
        self.stopping = True

    def codes(self):
        """Answers by response code."""
        return {code: self.code_counts[code] for code in range(CODES) if self.code_counts[code]}

    def buckets(self):
        """(lowest latency in ns, count) of every bucket in use, ascending."""
        return [(bucket_low(i), self.histogram[i]) for i in range(BUCKETS) if self.histogram[i]]
