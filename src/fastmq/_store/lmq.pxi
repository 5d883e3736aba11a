# Light message queues: one record in more than one queue. A message with the property INNER_MULTI_DISPATCH, a list of queue
# names with commas, gets an entry in queue 0 of each "topic" of it that begins with %LMQ%, beside the one of its own. The
# offsets there are told in INNER_MULTI_QUEUE_OFFSET, a list as long, which is written into the record: so a recovery
# finds the entries in the log as it does those of the record's own queue.
#
#     INNER_MULTI_DISPATCH        %LMQ%a,x,%LMQ%b
#     INNER_MULTI_QUEUE_OFFSET    7,,3                (names that are no light queues stay without)

cdef bint lmq_topic(const char* name, int64_t length) noexcept nogil:
    return length >= 5 and memcmp(name, <const char*> b"%LMQ%", 5) == 0


cdef bint lmq_name(const uint8_t* name, int64_t length) noexcept nogil:
    """Whether a name of the list is a light queue's that can be kept."""
    return length > 5 and lmq_topic(<const char*> name, length) and is_folder_name(name, length)


cdef bint lmq_allowed(const char* topic, int64_t length) noexcept nogil:
    """Messages of retry and system topics are in no light queue (MixAll.topicAllowsLMQ)."""
    return not ((length >= 7 and memcmp(topic, <const char*> b"%RETRY%", 7) == 0)
                or (length >= 8 and memcmp(topic, <const char*> b"rmq_sys_", 8) == 0)
                or (length == 19 and memcmp(topic, <const char*> SCHEDULE_TOPIC, 19) == 0))


cdef bint lmq_is_new(Queue* q) noexcept nogil:
    return q.next_offset == 0 and (<QueueFiles*> q.files).first_base < 0


cdef int lmq_begin(Engine* e, const MessageIn* m) noexcept nogil:
    """Find the light queues of a message and write the property that tells its offsets. ST_OK or a refusal."""
    cdef LmqTurn* t = e.lmq_turn
    cdef const uint8_t* names
    cdef const uint8_t* end
    cdef const uint8_t* stop
    cdef Topic* topic
    cdef Queue* q
    cdef int32_t length = 0, i, fresh = 0
    t.count = t.text_len = 0
    names = find_property(m.properties, m.properties_len, "INNER_MULTI_DISPATCH", 20, &length)
    if names == NULL:
        return ST_OK
    stop = m.properties + m.properties_len
    if m.properties2 != NULL and m.properties2_len:
        stop = m.properties2 + m.properties2_len
    if (stop - 1)[0] != 2:
        t.text[0] = 2
        t.text_len = 1
    memcpy(t.text + t.text_len, <const char*> b"INNER_MULTI_QUEUE_OFFSET\x01", 25)
    t.text_len += 25
    end = names + length
    while names <= end:
        stop = <const uint8_t*> memchr(names, c',', end - names) if names < end else NULL
        if stop == NULL:
            stop = end
        if lmq_name(names, stop - names) and t.count < LMQ_MAX:
            q = queue_lookup(topic_lookup(e, <const char*> names, stop - names), 0)
            if q == NULL:
                if e.lmq_count + fresh >= e.lmq_limit:      # before it takes memory
                    t.count = 0
                    return ST_TOO_MANY_LMQ
                topic = topic_get(e, <const char*> names, stop - names)
                q = queue_get(e, topic, 0) if topic != NULL else NULL
                if q == NULL:
                    return ST_NO_MEMORY
            for i in range(t.count):
                if t.queues[i] == q:        # named twice: once is enough
                    q = NULL
                    break
            if q != NULL:
                if lmq_is_new(q):
                    fresh += 1
                t.queues[t.count] = q
                t.count += 1
                if t.text_len + 24 > LMQ_TEXT_BYTES:
                    return ST_PROPERTIES_TOO_LARGE
                t.text_len += snprintf(<char*> t.text + t.text_len, 22, "%lld", <long long> q.next_offset)
        if stop < end:
            if t.text_len + 24 > LMQ_TEXT_BYTES:
                return ST_PROPERTIES_TOO_LARGE
            t.text[t.text_len] = c','
            t.text_len += 1
        names = stop + 1
    if t.count == 0:
        t.text_len = 0
        return ST_OK
    t.text[t.text_len] = 2
    t.text_len += 1
    if fresh and e.lmq_count + fresh > e.lmq_limit:
        t.count = 0
        return ST_TOO_MANY_LMQ
    return ST_OK


cdef bint lmq_room(Engine* e) noexcept nogil:
    """Make sure that the entries of the message fit into the ring, its own included."""
    while e.pend_tail - e.pend_head + e.lmq_turn.count + 1 > e.pend_room:
        if not pending_grow(e):
            return False
    return True


cdef void lmq_append(Engine* e, int64_t log_offset, int64_t size, int64_t tags_code) noexcept nogil:
    """The message was placed: so are its entries in light queues."""
    cdef LmqTurn* t = e.lmq_turn
    cdef Pending* pending
    cdef int32_t i
    for i in range(t.count):
        if lmq_is_new(t.queues[i]):
            e.lmq_count += 1
        pending = &e.pending[e.pend_tail & (e.pend_room - 1)]
        memset(pending, 0, sizeof(Pending))
        pending.queue = t.queues[i]
        pending.log_offset = log_offset
        pending.end = log_offset + size
        pending.tags_code = tags_code
        pending.derived = True
        e.pend_tail += 1
        t.queues[i].next_offset += 1
    t.count = 0


cdef bint read_number(const uint8_t* p, const uint8_t* end, int64_t* number) noexcept nogil:
    """A non-negative decimal number that is the whole text."""
    number[0] = 0
    if p >= end or end - p > 18:
        return False
    while p < end:
        if p[0] < 48 or p[0] > 57:
            return False
        number[0] = number[0] * 10 + p[0] - 48
        p += 1
    return True


cdef int lmq_recover(Engine* e, Record* r, int64_t tags_code, bint rebuilding, Scan* scan) noexcept nogil:
    """The entries in light queues that a record of the log tells of."""
    cdef const uint8_t* names
    cdef const uint8_t* offsets
    cdef const uint8_t* name_end
    cdef const uint8_t* offset_end
    cdef const uint8_t* name_stop
    cdef const uint8_t* offset_stop
    cdef int32_t names_len = 0, offsets_len = 0
    cdef int64_t offset = 0
    cdef int status
    cdef Record light
    if not lmq_allowed(<const char*> r.topic, r.topic_len):
        return ST_OK
    names = find_property(r.properties, r.properties_len, "INNER_MULTI_DISPATCH", 20, &names_len)
    offsets = find_property(r.properties, r.properties_len, "INNER_MULTI_QUEUE_OFFSET", 24, &offsets_len)
    if names == NULL or offsets == NULL:
        return ST_OK
    name_end, offset_end = names + names_len, offsets + offsets_len
    while names < name_end and offsets <= offset_end:
        name_stop = <const uint8_t*> memchr(names, c',', name_end - names)
        offset_stop = <const uint8_t*> memchr(offsets, c',', offset_end - offsets) if offsets < offset_end else NULL
        if name_stop == NULL:
            name_stop = name_end
        if offset_stop == NULL:
            offset_stop = offset_end
        if lmq_name(names, name_stop - names) and read_number(offsets, offset_stop, &offset):
            light = r[0]
            light.topic = names
            light.topic_len = <int32_t> (name_stop - names)
            light.queue_id = 0
            light.queue_offset = offset
            status = recover_entry(e, &light, tags_code, False, rebuilding, scan)
            if status != ST_OK:
                return status
        names, offsets = name_stop + 1, offset_stop + 1
    return ST_OK
