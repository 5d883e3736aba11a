# The cold list: frames that Python serves. It has a lock of its own: Python takes from it without stopping a turn.

cdef bint is_send_code(int32_t code) noexcept nogil:
    """Codes that append on behalf of a producer: their order within a connection is kept."""
    return (code == CODE_SEND_MESSAGE or code == CODE_SEND_MESSAGE_V2 or code == CODE_SEND_BATCH_MESSAGE or code == 324 or code == 325
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


cdef ColdItem* cold_item(Reactor r, const Connection* c) noexcept nogil:
    """A new last item, or NULL, under the list's lock. It counts once `cold_count` is raised."""
    cdef ColdItem* items
    cdef ColdItem* item
    cdef int32_t capacity
    if r.cold_head and r.cold_head + r.cold_count == r.cold_capacity:
        memmove(r.cold, r.cold + r.cold_head, r.cold_count * sizeof(ColdItem))
        r.cold_head = 0
    if r.cold_count == r.cold_capacity:
        capacity = 256 if r.cold_capacity == 0 else r.cold_capacity * 2
        items = <ColdItem*>realloc(r.cold, capacity * sizeof(ColdItem))
        if items == NULL:
            return NULL
        r.cold = items
        r.cold_capacity = capacity
    item = &r.cold[r.cold_head + r.cold_count]
    item.connection = c.id
    item.service = c.service
    item.length = 0
    item.frame = NULL
    return item


cdef bint add_cold(Reactor r, Connection* c, const uint8_t* frame, uint32_t length, int32_t bits=0) noexcept nogil:
    """A frame for Python; `bits` go into the service's number."""
    cdef ColdItem* item
    cdef uint8_t* copy = <uint8_t*>malloc(length)
    if copy == NULL:
        return False
    memcpy(copy, frame, length)
    pthread_mutex_lock(&r.cold_lock)
    item = cold_item(r, c)
    if item != NULL:
        item.frame = copy
        item.service |= bits
        item.length = length
        item.stamp = r.now_ms
        r.cold_count += 1
    pthread_mutex_unlock(&r.cold_lock)
    if item == NULL:
        free(copy)
        return False
    c.cold_bytes += length
    r.cold_total += length
    return True


cdef void add_end(Reactor r, const Connection* c, int64_t why) noexcept nogil:
    """Tell Python that a connection ended."""
    cdef ColdItem* item
    pthread_mutex_lock(&r.cold_lock)
    item = cold_item(r, c)
    if item != NULL:
        item.stamp = why
        r.cold_count += 1
    pthread_mutex_unlock(&r.cold_lock)


cdef void add_cold_again(Reactor r, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
    """A pull that was held here and that Python has to process once more."""
    if add_cold(r, c, frame, length, RESUMED_BIT):
        c.cold_consumes += 1


cdef int32_t cold_take(Reactor r, ColdItem* taken) noexcept nogil:
    """The first items of the list, COLD_A_TAKE at most."""
    cdef uint64_t ignored
    cdef int32_t count
    pthread_mutex_lock(&r.cold_lock)
    count = min(r.cold_count, <int32_t>COLD_A_TAKE)
    if count:
        memcpy(taken, r.cold + r.cold_head, count * sizeof(ColdItem))
    r.cold_count -= count
    r.cold_head = r.cold_head + count if r.cold_count else 0
    if r.cold_count == 0:
        r.cold_told = False
        c_read(r.cold_fd, &ignored, 8)
        if r.cold_capacity > COLD_A_TAKE:
            free(r.cold)
            r.cold = NULL
            r.cold_capacity = 0
    pthread_mutex_unlock(&r.cold_lock)
    return count


cdef inline void tell_python(Reactor r) noexcept nogil:
    cdef uint64_t one = 1
    if r.cold_count == 0 and r.spent == NULL:
        return
    pthread_mutex_lock(&r.cold_lock)
    if not r.cold_told and (r.cold_count or r.spent != NULL):
        r.cold_told = True
        c_write(r.cold_fd, &one, 8)
    pthread_mutex_unlock(&r.cold_lock)
