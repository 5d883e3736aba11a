# From the log to the consume queues: what was appended waits in a ring until it may be shown to consumers, then its
# entries are written, one pwrite per queue, and the ends of the queues move.
#
# ASYNC_FLUSH publishes in the turn that appended, so a consumer that waits can be answered in the same turn. SYNC_FLUSH
# publishes after the fdatasync: nobody sees a message that a power loss could still take away.
#
# An entry that cannot be written stays (in `unwritten`, in order) and is tried again at every later step; until it
# is written the store takes no appends. `dispatched` never passes a record whose entry is missing, and so neither does
# the durable offset in the checkpoint: a restart finds the rest in the log.

cdef bint pending_room(Engine* e) noexcept nogil:
    """Make sure that one more message fits into the ring."""
    return e.pend_tail - e.pend_head < e.pend_room or pending_grow(e)


cdef bint pending_grow(Engine* e) noexcept nogil:
    cdef Pending* grown
    cdef int64_t i
    grown = <Pending*> malloc(e.pend_room * 2 * sizeof(Pending))
    if grown == NULL:
        return False
    for i in range(e.pend_head, e.pend_tail):
        grown[i & (e.pend_room * 2 - 1)] = e.pending[i & (e.pend_room - 1)]
    free(e.pending)
    e.pending = grown
    e.pend_room *= 2
    return True


cdef bint entry_add(Engine* e, Queue* q, int64_t log_offset, int32_t size, int64_t tags_code) noexcept nogil:
    """Put an entry behind those of the queue that wait to be written."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef uint8_t* grown
    cdef uint8_t* p
    cdef int32_t room
    if f.unwritten_count == f.unwritten_room:
        room = max(f.unwritten_room * 2, 16)
        grown = <uint8_t*> realloc(f.unwritten, <size_t> room * ENTRY_BYTES)
        if grown == NULL:
            return False
        f.unwritten = grown
        f.unwritten_room = room
    p = f.unwritten + <int64_t> f.unwritten_count * ENTRY_BYTES
    put64(p, log_offset)
    put32(p + 8, <uint32_t> size)
    put64(p + 12, tags_code)
    if f.unwritten_count == 0:
        f.unwritten_log = log_offset
    f.unwritten_count += 1
    if not f.touched:
        f.touched = True
        e.touched[e.touched_count] = q
        e.touched_count += 1
    return True


cdef void write_touched(Engine* e, int64_t upto) noexcept nogil:
    """Write the entries that wait, and note how far the queues are complete: at most `upto`."""
    cdef int64_t i, kept = 0
    cdef Queue* q
    cdef QueueFiles* f
    for i in range(e.touched_count):
        q = e.touched[i]
        f = <QueueFiles*> q.files
        if queue_write(e, q) == 0:
            f.touched = False
        else:
            e.touched[kept] = q
            kept += 1
            upto = min(upto, f.unwritten_log)
    e.touched_count = kept
    e.queue_error = kept != 0
    if upto > e.dispatched:
        store64(&e.dispatched, upto)
    tell_moved(e)


cdef void publish(Engine* e, int64_t upto) noexcept nogil:
    """Show consumers everything appended below `upto`. Under the lock."""
    cdef Pending* p
    cdef int64_t code
    while e.pend_head < e.pend_tail:
        p = &e.pending[e.pend_head & (e.pend_room - 1)]
        if p.end > upto:
            upto = min(upto, p.log_offset)
            break
        code = p.tags_code
        if e.ext_enabled and not p.derived:
            code = ext_add(e, p.queue, code, p.store_time, p.bits, p.bits_len)
        if not entry_add(e, p.queue, p.log_offset, <int32_t> (p.end - p.log_offset), code):
            upto = min(upto, p.log_offset)
            break
        if p.bits != NULL:
            free(p.bits)
            p.bits = NULL
        e.pend_head += 1
    write_touched(e, upto)


cdef int64_t visible_end(Engine* e) noexcept nogil:
    """Up to where the index may follow the log."""
    return load64(&e.dispatched)
