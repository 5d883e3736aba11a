# What leaves: bytes gather at a connection and are written once, at the end of the turn. All under the reactor's lock.

cdef inline void mark_dirty(Reactor r, Connection* c) noexcept nogil:
    """At the end of the turn write its output and see what is to be watched."""
    if not c.dirty:
        c.dirty = True
        r.dirty[r.dirty_count] = <int32_t>(c.id & SLOT_MASK)
        r.dirty_count += 1


cdef void queue_output(Reactor r, Connection* c, const uint8_t* data, size_t length) noexcept nogil:
    """Bytes for the end of the turn."""
    if length and not buffer_append(&c.output, data, length):
        c.closing = True
        c.output.begin = c.output.end
    mark_dirty(r, c)


cdef bint write_output(Reactor r, Connection* c) noexcept nogil:
    """Write what the socket takes, WRITE_MAX bytes at most: the others of this turn wait meanwhile, and the rest has
    its turn when the socket is ready again. False: the connection was closed.
    """
    cdef ssize_t n
    cdef size_t length = buffer_length(&c.output), left = WRITE_MAX
    while length and left:
        n = c_send(c.fd, c.output.data + c.output.begin, min(length, left), MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                break
            connection_close(r, c, END_CLOSED)
            return False
        r.sent_bytes += n
        c.active_ms = r.now_ms
        c.output.begin += n
        length -= n
        left -= n
    if length == 0:
        # a large answer leaves no large buffer behind
        if c.output.capacity > 65536:
            buffer_free(&c.output)
        else:
            c.output.begin = c.output.end = 0
        if c.closing:
            connection_close(r, c, END_ASKED)
            return False
    elif length > r.max_output_bytes:
        connection_close(r, c, END_OUTPUT)
        return False
    set_events(r, c)
    return True


cdef void write_dirty(Reactor r) noexcept nogil:
    cdef int32_t i
    cdef Connection* c
    for i in range(r.dirty_count):
        c = r.slots[r.dirty[i]]
        if c != NULL and c.dirty:
            c.dirty = False
            write_output(r, c)
    r.dirty_count = 0
