# Encode records and append them: a turn of one or many messages, one pwrite.
#
# Between hot_begin and hot_commit the store's lock is held, so positions in the log and in the queues can be given out as
# records are encoded into the turn's buffer. hot_commit writes the buffer. If that fails, everything given out is taken
# back: the messages were never there. What a failed write may have left in the file is dealt with like this:
#
#   pwrite of [W, W+n) fails            the file may hold any part of it, whole records included
#   dirty_until = W+n                   remembered
#   next append of m bytes at W         is written with 8 zero bytes behind it while W+m < dirty_until, so a scan
#                                       after a crash stops there and cannot run on into the leftovers

cdef int refusal(Engine* e) noexcept nogil:
    """Why appends are refused now, or ST_OK."""
    if e.closed:
        return ST_CLOSED
    if e.failed:
        return e.failed
    if e.disk_full:
        return ST_DISK_FULL
    if e.not_writeable or e.queue_error:
        return ST_NOT_WRITEABLE
    return ST_OK


cdef int64_t store_time(Engine* e, int64_t now) noexcept nogil:
    """The time that messages are stored with: it does not go back with a clock that is corrected by a little. A clock
    that was far ahead is another matter: delayed messages would wait until the time comes that it once showed."""
    return e.last_time if now < e.last_time <= now + CLOCK_SLACK_MS else now


cdef int turn_begin(Engine* e) noexcept nogil:
    """Take the lock and stamp the time. On a status other than ST_OK the lock is not held."""
    cdef int64_t now
    if load_int(&e.closed):
        return ST_CLOSED
    now = wall_ms(e)
    pthread_mutex_lock(&e.lock)
    if e.closed:
        pthread_mutex_unlock(&e.lock)
        return ST_CLOSED
    e.turn_time = store_time(e, now)
    e.turn_used = 0
    e.turn_count = 0
    e.turn_pending = e.pend_tail
    e.turn_plain = e.turn_internal = False
    return ST_OK


cdef int roll(Engine* e) noexcept nogil:
    """End the last segment with a filler and go on in the next. The turn must be empty."""
    cdef Segment* s = e.run[e.run_count - 1]
    cdef uint8_t filler[FILLER_BYTES]
    cdef char path[PATH_BYTES]
    cdef int64_t remaining = s.base + s.length - e.written
    cdef ssize_t n
    put32(filler, <uint32_t> remaining)
    put32(filler + 4, MAGIC_BLANK)
    n = e.files.pwrite(&e.files, FILE_LOG, s.fd, filler, FILLER_BYTES, e.written - s.base)
    if n != FILLER_BYTES:
        if n >= 0:
            set_errno(ENOSPC)
        segment_path(e, s.base, path)
        note_error(e, path)
        if e.dirty_until < e.written + FILLER_BYTES:
            e.dirty_until = e.written + FILLER_BYTES
        return status_of_errno(e.error_number)
    store64(&e.written, s.base + s.length)
    return run_extend(e)


cdef int turn_room_for(Engine* e, int64_t size) noexcept nogil:
    """Make sure `size` more bytes fit: into the turn's buffer, and with 8 to spare into the last segment."""
    cdef int status
    cdef int64_t position, end, room
    cdef uint8_t* grown
    if size + FILLER_BYTES > e.segment_bytes:
        return ST_RECORD_TOO_LARGE
    if e.run_count == 0 or e.written == e.run[e.run_count - 1].base + e.segment_bytes:
        status = run_extend(e)
        if status != ST_OK:
            return status
    position = e.written + e.turn_used
    end = e.run[e.run_count - 1].base + e.segment_bytes
    if size + FILLER_BYTES > end - position:
        if e.turn_used:
            return ST_NEED_COMMIT
        status = roll(e)
        if status != ST_OK:
            return status
    if e.turn_used + size + FILLER_BYTES > e.turn_room:
        if e.turn_used:
            return ST_NEED_COMMIT
        room = size + FILLER_BYTES
        grown = <uint8_t*> realloc(e.turn, room)
        if grown == NULL:
            return ST_NO_MEMORY
        e.turn = grown
        e.turn_room = room
    return ST_OK


cdef int64_t schedule_code(Engine* e, const uint8_t* properties, int32_t length, int64_t store_time, int64_t otherwise) noexcept nogil:
    """Tags code in SCHEDULE_TOPIC_XXXX: the time at which the message is due."""
    cdef int32_t n = 0, i
    cdef int64_t level = 0
    cdef const uint8_t* value = find_property(properties, length, "DELAY", 5, &n)
    if value == NULL or n > 9:
        return otherwise
    for i in range(n):
        if value[i] < 48 or value[i] > 57:
            return otherwise
        level = level * 10 + value[i] - 48
    if level <= 0:
        return otherwise
    if level > e.delay_levels:
        level = e.delay_levels
    return store_time + (e.delay_ms[level - 1] if level > 0 else 1000)


cdef int turn_put(Engine* e, Topic* topic, int32_t queue_id, const MessageIn* m, Placed* placed) noexcept nogil:
    """Encode one message at the end of the turn. ST_OK, ST_NEED_COMMIT or a refusal, which leaves all as it was."""
    cdef int status = refusal(e)
    cdef int32_t sys_flag = m.sys_flag & ~(SYS_BORN_V6 | SYS_STORE_V6)
    cdef int32_t properties_len = m.properties_len
    cdef int64_t size, at, tags_code, queue_offset
    cdef int64_t most = e.segment_bytes if e.turn_internal else e.max_message
    cdef bint v2 = topic.name_len > MAX_TOPIC_V1
    cdef bint in_queue, light = False
    cdef uint8_t* p
    cdef Queue* queue
    cdef Pending* pending
    cdef uint8_t* bits = NULL
    if status != ST_OK:
        e.n_refused += 1
        return status
    if m.properties2 != NULL:
        properties_len += m.properties2_len
    if m.body_len < 0 or m.body_len > most:
        return ST_BODY_TOO_LARGE
    if properties_len < 0 or properties_len > MAX_PROPERTIES:
        return ST_PROPERTIES_TOO_LARGE
    if topic.name_len <= 0 or topic.name_len > MAX_TOPIC:
        return ST_TOPIC_TOO_LONG
    if m.born_host_len == 20:
        sys_flag |= SYS_BORN_V6
    elif m.born_host_len != 8:
        return ST_BAD_BATCH
    if topic.flags & TOPIC_MULTI_TAG:
        sys_flag |= SYS_MULTI_TAG
    in_queue = (sys_flag & SYS_TRANSACTION) != SYS_PREPARED and (sys_flag & SYS_TRANSACTION) != SYS_ROLLBACK
    in_queue = in_queue and not (sys_flag & SYS_INNER_BATCH)
    if e.lmq_turn != NULL and in_queue and not e.turn_plain and lmq_allowed(topic.name, topic.name_len):
        status = lmq_begin(e, m)
        if status != ST_OK:
            e.n_refused += 1
            return status
        light = e.lmq_turn.count > 0
        if light:
            properties_len += e.lmq_turn.text_len
            if properties_len > MAX_PROPERTIES:
                return ST_PROPERTIES_TOO_LARGE
    size = record_fixed(topic.name_len, m) + m.body_len + properties_len
    if size > most + MAX_RECORD_EXTRA:
        return ST_RECORD_TOO_LARGE
    queue = queue_get(e, topic, queue_id)
    if queue == NULL:
        return ST_NO_MEMORY
    status = turn_room_for(e, size)
    if status != ST_OK:
        return status
    if not (lmq_room(e) if light else pending_room(e)):
        return ST_NO_MEMORY
    if e.turn_bits_len and in_queue:
        bits = <uint8_t*> malloc(e.turn_bits_len)
        if bits == NULL:
            return ST_NO_MEMORY
        memcpy(bits, e.turn_bits, e.turn_bits_len)

    queue_offset = queue.next_offset if in_queue else 0
    p = e.turn + e.turn_used
    put32(p, <uint32_t> size)
    put32(p + R_MAGIC, MAGIC_V2 if v2 else MAGIC_V1)
    put32(p + R_BODY_CRC, e.crc(0, m.body, m.body_len) & 0x7FFFFFFF)
    put32(p + R_QUEUE_ID, <uint32_t> queue_id)
    put32(p + R_FLAG, <uint32_t> m.flag)
    put64(p + R_QUEUE_OFFSET, queue_offset)
    put64(p + R_LOG_OFFSET, e.written + e.turn_used)
    put32(p + R_SYS_FLAG, <uint32_t> sys_flag)
    put64(p + R_BORN_TIME, m.born_timestamp_ms)
    at = R_BORN_HOST
    memcpy(p + at, m.born_host, m.born_host_len)
    at += m.born_host_len
    put64(p + at, e.turn_time)
    memcpy(p + at + 8, e.host, 8)
    put32(p + at + 16, <uint32_t> m.reconsume_times)
    put64(p + at + 20, m.prepared_offset)
    put32(p + at + 28, <uint32_t> m.body_len)
    at += 32
    if m.body_len:
        memcpy(p + at, m.body, m.body_len)
    at += m.body_len
    if v2:
        put16(p + at, <uint16_t> topic.name_len)
        at += 2
    else:
        p[at] = <uint8_t> topic.name_len
        at += 1
    memcpy(p + at, topic.name, topic.name_len)
    at += topic.name_len
    put16(p + at, <uint16_t> properties_len)
    at += 2
    if m.properties_len:
        memcpy(p + at, m.properties, m.properties_len)
    if m.properties2 != NULL:
        memcpy(p + at + m.properties_len, m.properties2, m.properties2_len)
    if light:
        memcpy(p + at + properties_len - e.lmq_turn.text_len, e.lmq_turn.text, e.lmq_turn.text_len)

    tags_code = m.tags_code
    if topic.flags & TOPIC_SCHEDULE:
        tags_code = schedule_code(e, p + at, properties_len, e.turn_time, tags_code)
    placed.log_offset = e.written + e.turn_used
    placed.size = <int32_t> size
    placed.queue_offset = queue_offset
    placed.store_timestamp_ms = e.turn_time
    if in_queue:
        pending = &e.pending[e.pend_tail & (e.pend_room - 1)]
        pending.queue = queue
        pending.log_offset = placed.log_offset
        pending.end = placed.log_offset + size
        pending.tags_code = tags_code
        pending.store_time = e.turn_time
        pending.bits = bits
        pending.bits_len = e.turn_bits_len if bits != NULL else 0
        pending.derived = False
        e.pend_tail += 1
        queue.next_offset += 1
        if light:
            lmq_append(e, placed.log_offset, size, tags_code)
    e.turn_used += size
    e.turn_count += 1
    return ST_OK


cdef void turn_undo_to(Engine* e, int64_t pending_tail, int64_t used, int32_t count) noexcept nogil:
    """Give back what this turn gave out since it stood there."""
    cdef Pending* pending
    while e.pend_tail > pending_tail:
        e.pend_tail -= 1
        pending = &e.pending[e.pend_tail & (e.pend_room - 1)]
        pending.queue.next_offset -= 1
        if pending.derived and lmq_is_new(pending.queue):
            e.lmq_count -= 1
        free(pending.bits)
    e.turn_used = used
    e.turn_count = count


cdef inline void turn_undo(Engine* e) noexcept nogil:
    """Give back what this turn gave out."""
    turn_undo_to(e, e.turn_pending, 0, 0)


cdef int turn_write(Engine* e) noexcept nogil:
    """One pwrite of the whole turn. On failure nothing of it exists."""
    cdef Segment* s = e.run[e.run_count - 1]
    cdef char path[PATH_BYTES]
    cdef uint8_t zeros[FILLER_BYTES]
    cdef int64_t at = e.written - s.base
    cdef int64_t length = e.turn_used
    cdef int status = ST_OK
    cdef ssize_t n
    if at + length > load64(&s.allocated):
        status = segment_reserve(e, s, at + length + e.allocate_step)
        if status == ST_DISK_FULL:
            status = segment_reserve(e, s, at + length)     # a full disk may still have room for just this
        e.n_inline_allocations += 1
    if status == ST_OK:
        if e.written + length < e.dirty_until:
            memset(e.turn + length, 0, FILLER_BYTES)    # there is room: turn_room_for counts it
            length += FILLER_BYTES
        n = e.files.pwrite(&e.files, FILE_LOG, s.fd, e.turn, length, at)
        if n == length:
            return ST_OK
        if n >= 0:
            set_errno(ENOSPC)       # a short write to a regular file: the rest would have found no room
        segment_path(e, s.base, path)
        note_error(e, path)
        status = status_of_errno(e.error_number)
        e.dirty_until = max(e.dirty_until, e.written + length)
        memset(zeros, 0, FILLER_BYTES)
        e.files.pwrite(&e.files, FILE_LOG, s.fd, zeros, FILLER_BYTES, at)   # best effort: see the top of this file
    return status


cdef inline void wake_allocator(Engine* e) noexcept nogil:
    """If half of the blocks that are kept ready ahead of the writer are used up, or a step of the pages."""
    cdef Segment* s = e.run[e.run_count - 1]
    cdef int64_t used = e.written - s.base
    if load64(&s.allocated) - used <= e.allocate_step // 2 or (
            load64(&s.cached) - used <= CACHED_AHEAD - CACHED_STEP and load64(&s.cached) < load64(&s.allocated)):
        pthread_cond_signal(&e.allocate_wake)


cdef int turn_commit(Engine* e) noexcept nogil:
    """Write, publish or leave to the flusher, and let the lock go."""
    cdef int status = ST_OK
    if e.turn_count:
        status = refusal(e)
        if status == ST_OK:
            status = turn_write(e)
        if status != ST_OK:
            turn_undo(e)
        else:
            e.n_commits += 1
            e.n_puts += e.turn_count
            e.n_put_bytes += e.turn_used
            e.last_time = e.turn_time
            store64(&e.written, e.written + e.turn_used)
            e.turn_used = 0
            e.turn_count = 0
            if e.sync_flush:
                pthread_cond_signal(&e.flush_wake)
            else:
                publish(e, e.written)
            wake_allocator(e)
    if e.index_waiting:
        e.index_waiting = False
        pthread_cond_signal(&e.index_wake)
    pthread_mutex_unlock(&e.lock)
    return status


cdef int put_one(Engine* e, Topic* topic, int32_t queue_id, const MessageIn* m, const uint8_t* bits, int32_t bits_len,
                 bint internal, Placed* placed, int64_t* target) noexcept nogil:
    """Append one message as a turn of its own, with its bit map for consumequeue_ext. topic.flags etc. are read under
    the lock. `internal`: maxMessageSize, which is a limit for clients, does not count."""
    cdef int status = turn_begin(e)
    cdef int result
    if status != ST_OK:
        return status
    e.turn_bits, e.turn_bits_len, e.turn_internal = bits, bits_len, internal
    result = turn_put(e, topic, queue_id, m, placed)
    e.turn_bits, e.turn_bits_len, e.turn_internal = NULL, 0, False
    target[0] = e.written + e.turn_used
    status = turn_commit(e)
    return result if result != ST_OK else status


cdef inline int64_t record_fixed(int32_t topic_len, const MessageIn* m) noexcept nogil:
    """Bytes of a record beside its body and properties."""
    return R_FIXED + topic_len + (12 if m.born_host_len == 20 else 0) + (1 if topic_len > MAX_TOPIC_V1 else 0)


cdef int64_t batch_count(const uint8_t* p, int64_t length, int64_t fixed, int64_t* bytes) noexcept nogil:
    """Messages in a client batch body, and the bytes of their records; -1 if it is malformed.

    Each: size 4, magic 4, crc 4, flag 4, body length 4, body, properties length 2, properties.
    """
    cdef int64_t at = 0, count = 0
    cdef int64_t size, body, properties
    bytes[0] = 0
    while at < length:
        if length - at < 22:
            return -1
        size = <int32_t> get32(p + at)
        body = <int32_t> get32(p + at + 16)
        if size < 22 or size > length - at or body < 0 or body > size - 22:
            return -1
        properties = get16(p + at + 20 + body)
        if 22 + body + properties != size or properties > MAX_PROPERTIES:
            return -1
        bytes[0] += fixed + body + properties
        at += size
        count += 1
    return count


cdef int turn_put_batch(Engine* e, Topic* topic, int32_t queue_id, const uint8_t* batch, MessageIn* m, int64_t count,
                        int64_t bytes, Placed* placed) noexcept nogil:
    """Encode a client batch that batch_count has looked at: contiguous in one segment, all or nothing. `m` holds what
    all of them share. A status other than ST_OK leaves the turn as it was."""
    cdef int64_t at = 0, i = 0, pending_tail = e.pend_tail, used
    cdef int32_t turn_count
    cdef int result = refusal(e)
    if result != ST_OK:
        e.n_refused += 1
        return result
    if bytes > e.max_message + MAX_RECORD_EXTRA:
        return ST_RECORD_TOO_LARGE
    result = turn_room_for(e, bytes)
    used = e.turn_used
    turn_count = e.turn_count
    e.turn_plain = True         # batches are in no light queues: their room was measured before
    while result == ST_OK and i < count:
        m.flag = <int32_t> get32(batch + at + 12)
        m.body_len = <int32_t> get32(batch + at + 16)
        m.body = batch + at + 20
        m.properties_len = get16(batch + at + 20 + m.body_len)
        m.properties = batch + at + 22 + m.body_len
        m.tags_code = tags_code_of(m.properties, m.properties_len)
        result = turn_put(e, topic, queue_id, m, &placed[i])
        at += 22 + m.body_len + m.properties_len
        i += 1
    e.turn_plain = False
    if result != ST_OK:
        turn_undo_to(e, pending_tail, used, turn_count)
    return result


cdef int put_many(Engine* e, Topic* topic, int32_t queue_id, const uint8_t* batch, MessageIn* m, int64_t count,
                  int64_t bytes, Placed* placed, int64_t* target) noexcept nogil:
    """Append a client batch as a turn of its own."""
    cdef int status = turn_begin(e)
    cdef int result
    if status != ST_OK:
        return status
    result = turn_put_batch(e, topic, queue_id, batch, m, count, bytes, placed)
    target[0] = e.written + e.turn_used
    status = turn_commit(e)
    return result if result != ST_OK else status
