# The turn: receive from every ready socket, split frames, serve the hot ones, keep the others.

cdef void on_frame(Reactor r, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
    cdef int32_t code = quick_code(frame, length)
    r.frames += 1
    if r.hot:
        if code == CODE_SEND_MESSAGE_V2 or code == CODE_SEND_MESSAGE or code == CODE_SEND_BATCH_MESSAGE:
            if try_hot_send(r, c, frame, length):
                return
        elif is_consume_code(code) and r.store is not None and defer(r, c, frame, length):
            return
    if is_send_code(code):
        c.cold_sends += 1
    if not add_cold(r, c, frame, length):
        c.closing = True


cdef int64_t frame_length(Reactor r, const uint8_t* data) noexcept nogil:
    """Length of the frame whose 8 first bytes are at data, or -1 if this cannot be a frame."""
    cdef uint32_t length = load_be32(data)
    if length < 4 or length > r.max_frame_bytes - 4:
        return -1
    if data[4] > SERIALIZE_ROCKETMQ or (load_be32(data + 4) & 0xFFFFFF) > length - 4:
        return -1
    return <int64_t>length + 4


cdef bint on_readable(Reactor r, Connection* c) noexcept nogil:
    """Receive once, take out whole frames, keep the rest. False: the connection was closed."""
    cdef uint8_t* data = r.receive
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
        connection_close(r, c, END_CLOSED)
        return False
    r.received_bytes += n
    c.active_ms = r.now_ms
    if c.large_frame:
        c.input.end += n
        if c.input.end == c.large_frame:
            large = c.input
            memset(&c.input, 0, sizeof(Buffer))
            c.large_frame = 0
            on_frame(r, c, large.data, <uint32_t>large.end)
            buffer_free(&large)
    else:
        total = kept + n
        while total - used >= 8:
            length = frame_length(r, data + used)
            if length < 0:
                # whoever breaks the framing cannot be understood any further
                connection_close(r, c, END_FRAMING)
                return False
            if <size_t>length > total - used:
                break
            on_frame(r, c, data + used, <uint32_t>length)
            used += length
            length = 0
        c.input.begin = c.input.end = 0
        kept = total - used
        if kept == 0:
            buffer_free(&c.input)
        elif kept >= 8 and length > LARGE_FRAME:
            buffer_free(&c.input)
            if buffer_reserve(&c.input, length) == NULL:
                connection_close(r, c, END_MEMORY)
                return False
            c.large_frame = <uint32_t>length
            memcpy(c.input.data, data + used, kept)
            c.input.end = kept
        elif not buffer_append(&c.input, data + used, kept):
            connection_close(r, c, END_MEMORY)
            return False
    if c.closing and output_length(c) == 0:
        connection_close(r, c, END_ASKED)
        return False
    if c.cold_bytes >= COLD_PAUSE_BYTES or r.cold_total >= r.max_cold_bytes:
        set_events(r, c)
    return True


cdef int32_t run_turn(Reactor r, int timeout_ms) noexcept nogil:
    cdef int count, i
    cdef uint64_t tag, ignored
    cdef Connection* c
    cdef uint32_t events
    cdef int64_t left
    left = r.parked_deadline_ms
    if r.held_deadline_ms and (left == 0 or r.held_deadline_ms < left):
        left = r.held_deadline_ms
    if left:
        left -= monotonic_ms()
        left = 1 if left < 1 else left
        if timeout_ms < 0 or timeout_ms > left:
            timeout_ms = <int>left
    count = epoll_wait(r.epoll_fd, r.ready, EVENTS_A_TURN, timeout_ms)
    fair_lock(&r.lock)
    r.now_ms = monotonic_ms()
    r.turns += 1
    for i in range(count):
        if r.ready[i].data.u64 == TAG_WAKE:
            # before the posts are taken: what is posted from here on wakes the next turn
            c_read(r.wake_fd, &ignored, 8)
            break
    do_posted(r)
    for i in range(count):
        tag = r.ready[i].data.u64
        events = r.ready[i].events
        if tag == TAG_WAKE:
            continue
        if tag == TAG_FLUSH:
            c_read(r.flush_fd, &ignored, 8)
            continue
        if tag == TAG_MOVED:
            c_read(r.moved_fd, &ignored, 8)
            continue
        c = connection_of(r, <int64_t>tag)
        if c == NULL:
            continue
        if events & EPOLLOUT and not write_output(r, c):
            continue
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP):
            on_readable(r, c)
    finish_batch(r)
    release_parked(r)
    if r.store is not None:
        serve_deferred(r)
        wake_held(r)
        answer_due(r, r.now_ms)
        r.held_deadline_ms = r.heap.items[0].deadline_ms if r.heap.count else 0
    write_dirty(r)
    tell_python(r)
    count = r.cold_count
    fair_unlock(&r.lock)
    return count
