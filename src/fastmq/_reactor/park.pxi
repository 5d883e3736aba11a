# Replies that wait for a flush, ordered by the log offset they wait for. All under the reactor's lock.

cdef void park(Reactor r, Parked* block) noexcept nogil:
    """Put a block in its place by target; blocks arrive nearly in order."""
    cdef Parked* before = r.parked_tail
    cdef Connection* c
    cdef int32_t i
    block.deadline_ms = r.now_ms + r.sync_flush_timeout_ms
    block.next = NULL
    if before == NULL:
        r.parked_head = r.parked_tail = block
    elif before.target <= block.target:
        before.next = block
        r.parked_tail = block
    elif r.parked_head.target > block.target:
        block.next = r.parked_head
        r.parked_head = block
    else:
        before = r.parked_head
        while before.next.target <= block.target:
            before = before.next
        block.next = before.next
        before.next = block
    r.parked_deadline_ms = r.parked_head.deadline_ms
    for i in range(block.count):
        c = connection_of(r, block.replies[i].connection)
        if c != NULL:
            c.parked += 1
            r.parked_total += 1
            if c.parked >= PARKED_PAUSE or r.parked_total >= r.max_parked:
                mark_dirty(r, c)


cdef void release_parked(Reactor r) noexcept nogil:
    """Send the replies whose offset is flushed; after a failed flush the refusals; after the deadline code 10."""
    cdef int64_t flushed
    cdef Parked* block
    cdef Staged* reply
    cdef Connection* c
    cdef uint8_t frame[REPLY_MAX + FAILURE_REMARK_MAX + POLICY_TEXT_MAX]
    cdef uint8_t* long_frame
    cdef int32_t i, length
    cdef int failed
    if r.parked_head == NULL:
        return
    flushed = r.store.flushed_offset()
    failed = r.store.failed_status()
    while r.parked_head != NULL:
        block = r.parked_head
        if block.target > flushed and failed == ST_OK and block.deadline_ms > r.now_ms:
            break
        r.parked_head = block.next
        if r.parked_head == NULL:
            r.parked_tail = NULL
        for i in range(block.count):
            reply = &block.replies[i]
            c = connection_of(r, reply.connection)
            if c == NULL:
                continue
            c.parked -= 1
            r.parked_total -= 1
            if not c.events & EPOLLIN:
                mark_dirty(r, c)
            if reply.oneway:
                continue
            if block.target <= flushed:
                queue_output(r, c, block.arena + reply.offset, reply.length)
            elif failed != ST_OK:
                if block.failure != NULL:
                    queue_output(r, c, block.failure, block.failure_length)
                else:
                    length = put_failure_reply(frame, &r.policy, &r.policy.failures[failed & 15],
                                               reply.serialize, reply.opaque)
                    queue_output(r, c, frame, length)
            elif reply.length + 1 <= <int32_t>sizeof(frame):
                length = patch_code(frame, block.arena + reply.offset, reply.length, CODE_FLUSH_DISK_TIMEOUT)
                queue_output(r, c, frame, length)
            else:
                long_frame = <uint8_t*>malloc(reply.length + 1)
                if long_frame != NULL:
                    length = patch_code(long_frame, block.arena + reply.offset, reply.length,
                                        CODE_FLUSH_DISK_TIMEOUT)
                    queue_output(r, c, long_frame, length)
                    free(long_frame)
        parked_free(block)
    r.parked_deadline_ms = 0 if r.parked_head == NULL else r.parked_head.deadline_ms


cdef Parked* parked_new(int32_t count, size_t arena_length, size_t failure_length) noexcept nogil:
    cdef Parked* block = <Parked*>calloc(1, sizeof(Parked))
    if block == NULL:
        return NULL
    block.count = count
    block.replies = <Staged*>calloc(count, sizeof(Staged))
    block.arena = <uint8_t*>malloc(arena_length + 1)
    if failure_length:
        block.failure = <uint8_t*>malloc(failure_length)
        block.failure_length = <int32_t>failure_length
    if block.replies == NULL or block.arena == NULL or (failure_length and block.failure == NULL):
        parked_free(block)
        return NULL
    return block


cdef void parked_free(Parked* block) noexcept nogil:
    free(block.replies)
    free(block.arena)
    free(block.failure)
    free(block)
