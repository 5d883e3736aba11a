# What leaves: bytes gather at a connection and are written once, at the end of the turn. All under the reactor's lock.

cdef inline void mark_dirty(Reactor r, Connection* c) noexcept nogil:
    """At the end of the turn write its output and see what is to be watched."""
    if not c.dirty:
        c.dirty = True
        r.dirty[r.dirty_count] = <int32_t>(c.id & SLOT_MASK)
        r.dirty_count += 1


cdef inline size_t output_length(const Connection* c) noexcept nogil:
    """Bytes that wait for the socket."""
    return buffer_length(&c.output) + c.pieces_bytes


cdef void add_piece(Reactor r, Connection* c, Post* one) noexcept nogil:
    """A post leaves behind all that waits; it belongs to the connection from now on."""
    one.next = NULL
    if c.pieces == NULL:
        c.pieces = one
    else:
        c.last_piece.next = one
    c.last_piece = one
    c.pieces_bytes += buffer_length(&one.data) + one.shared_length
    mark_dirty(r, c)


cdef void drop_pieces(Reactor r, Connection* c) noexcept nogil:
    cdef Post* one
    while c.pieces != NULL:
        one = c.pieces
        c.pieces = one.next
        post_done(r, one)
    c.last_piece = NULL
    c.pieces_bytes = 0


cdef void drop_output(Reactor r, Connection* c) noexcept nogil:
    buffer_free(&c.output)
    drop_pieces(r, c)


cdef void queue_output(Reactor r, Connection* c, const uint8_t* data, size_t length) noexcept nogil:
    """Bytes for the end of the turn."""
    cdef Post* one
    cdef bint kept = True
    if c.mute or output_length(c) > r.max_output_bytes + WRITE_MAX:
        # nobody will read it: the next write finds so much left that it ends the connection
        length = 0
    if c.pieces == NULL:
        kept = length == 0 or buffer_append(&c.output, data, length)
    elif c.last_piece.owner == NULL:
        kept = buffer_append(&c.last_piece.data, data, length)
        c.pieces_bytes += length if kept else 0
    elif length:
        one = post_new(POST_SEND, c.id, data, length)
        kept = one != NULL
        if kept:
            add_piece(r, c, one)
    if not kept:
        c.closing = True
        drop_output(r, c)
    mark_dirty(r, c)


cdef ssize_t write_some(Connection* c, size_t limit) noexcept nogil:
    """One write of what waits, `limit` bytes at most. The result of the system call."""
    cdef iovec parts[WRITE_PARTS]
    cdef msghdr message
    cdef int32_t count = 0, i
    cdef Post* one = c.pieces
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    if buffer_length(&c.output):
        parts[0].iov_base = c.output.data + c.output.begin
        parts[0].iov_len = buffer_length(&c.output)
        count = 1
    while one != NULL and count + 2 <= WRITE_PARTS:
        if buffer_length(&one.data):
            parts[count].iov_base = one.data.data + one.data.begin
            parts[count].iov_len = buffer_length(&one.data)
            count += 1
        if one.shared_length:
            parts[count].iov_base = <void*>one.shared
            parts[count].iov_len = one.shared_length
            count += 1
        one = one.next
    for i in range(count):
        parts[i].iov_len = min(parts[i].iov_len, limit)
        limit -= parts[i].iov_len
        message.msg_iovlen += parts[i].iov_len > 0
    return c_sendmsg(c.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)


cdef void pieces_left(Reactor r, Connection* c, size_t length) noexcept nogil:
    """So many bytes of the pieces have been written."""
    cdef Post* one
    cdef size_t n
    c.pieces_bytes -= length
    while c.pieces != NULL:
        one = c.pieces
        n = min(length, buffer_length(&one.data))
        one.data.begin += n
        length -= n
        n = min(length, one.shared_length)
        one.shared += n
        one.shared_length -= n
        length -= n
        if buffer_length(&one.data) or one.shared_length:
            return
        c.pieces = one.next
        post_done(r, one)
    c.last_piece = NULL


cdef bint write_output(Reactor r, Connection* c) noexcept nogil:
    """Write what the socket takes, WRITE_MAX bytes at most: the others of this turn wait meanwhile, and the rest has
    its turn when the socket is ready again. False: the connection was closed.
    """
    cdef ssize_t n
    cdef size_t length = output_length(c), left = WRITE_MAX, first
    while length and left:
        if c.pieces == NULL:
            n = c_send(c.fd, c.output.data + c.output.begin, min(length, left), MSG_NOSIGNAL | MSG_DONTWAIT)
        else:
            n = write_some(c, left)
        if n < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN:
                break
            if (errno == EPIPE or errno == ECONNRESET) and not c.closing:
                # nobody is there any more, but what they sent before they left may still wait here: offsets, say, that
                # nothing answers. Reading finds their end behind it.
                c.mute = True
                drop_output(r, c)
                set_events(r, c)
                return True
            connection_close(r, c, END_CLOSED)
            return False
        r.sent_bytes += n
        c.active_ms = r.now_ms
        first = min(<size_t>n, buffer_length(&c.output))
        c.output.begin += first
        if c.pieces != NULL:
            pieces_left(r, c, n - first)
        length -= n
        left -= n
    if buffer_length(&c.output) == 0:
        # a large answer leaves no large buffer behind
        if c.output.capacity > 65536:
            buffer_free(&c.output)
        else:
            c.output.begin = c.output.end = 0
    if length == 0:
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
