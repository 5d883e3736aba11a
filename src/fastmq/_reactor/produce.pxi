# The turn's batch: plain sends and clients' batches are placed in it one by one, and it ends with one append. All under the reactor's lock.

cdef void finish_batch(Reactor r) noexcept nogil:
    """Append what the turn placed; its replies leave, are parked, or become refusals."""
    cdef int status
    cdef int32_t i, length
    cdef Staged* reply
    cdef Connection* c
    cdef Parked* block
    cdef uint8_t frame[FAILURE_REMARK_MAX + POLICY_TEXT_MAX]
    if not r.batch_open:
        return
    r.batch_open = False
    status = r.store.hot_commit()
    if status == ST_OK and r.store.sync_flush():
        block = parked_new(r.staged_count, buffer_length(&r.arena), 0)
        if block != NULL:
            memcpy(block.replies, r.staged, r.staged_count * sizeof(Staged))
            memcpy(block.arena, r.arena.data + r.arena.begin, buffer_length(&r.arena))
            block.target = r.store.written_offset()
            park(r, block)
        # without memory for the replies the clients time out: no answer is no false promise
    else:
        for i in range(r.staged_count):
            reply = &r.staged[i]
            c = connection_of(r, reply.connection)
            if c == NULL or reply.oneway:
                continue
            if status == ST_OK:
                queue_output(r, c, r.arena.data + r.arena.begin + reply.offset, reply.length)
            else:
                length = put_failure_reply(frame, &r.policy, &r.policy.failures[status & 15],
                                           reply.serialize, reply.opaque)
                queue_output(r, c, frame, length)
    r.staged_count = 0
    r.arena.begin = r.arena.end = 0
    if r.arena.capacity > ARENA_KEPT_BYTES:
        buffer_free(&r.arena)


cdef bint batch_room(Reactor r, int32_t messages) noexcept nogil:
    """Make sure that the answer to a send of so many messages, and where they are placed, has room."""
    cdef int32_t capacity
    cdef Staged* staged
    cdef Placed* placed
    if buffer_reserve(&r.arena, REPLY_MAX + POLICY_TEXT_MAX + messages * (MESSAGE_ID_BYTES + 1)) == NULL:
        return False
    if r.staged_count == r.staged_capacity:
        capacity = 1024 if r.staged_capacity == 0 else r.staged_capacity * 2
        staged = <Staged*>realloc(r.staged, capacity * sizeof(Staged))
        if staged == NULL:
            return False
        r.staged = staged
        r.staged_capacity = capacity
    if messages > r.placed_capacity:
        capacity = 64
        while capacity < messages:
            capacity *= 2
        placed = <Placed*>realloc(r.placed, capacity * sizeof(Placed))
        if placed == NULL:
            return False
        r.placed = placed
        r.placed_capacity = capacity
    return True


cdef void refuse_busy(Reactor r, Connection* c, const SendHeader* header) noexcept nogil:
    """So many replies wait for the disk that another would only wait with them."""
    cdef uint8_t frame[FAILURE_REMARK_MAX + POLICY_TEXT_MAX]
    r.refused_busy += 1
    if not header.oneway:
        queue_output(r, c, frame, put_failure_reply(frame, &r.policy, &r.policy.busy, header.serialize, header.opaque))


cdef inline bint read_send_header(Reactor r, Connection* c, const uint8_t* frame, SendHeader* header) noexcept nogil:
    """By the shape of the connection's last one, or field by field. False makes it a cold one."""
    cdef const uint8_t* end = frame + 8 + (load_be32(frame + 4) & 0xFFFFFF)
    cdef Shape* shape = &r.shapes[c.id & (SHAPES - 1)]
    if frame[4] == SERIALIZE_JSON and shape_read(shape, frame + 8, end, header):
        return True
    if not read_header(frame, &r.raw) or not read_send(&r.raw, header):
        return False
    if frame[4] == SERIALIZE_JSON:
        shape_keep(shape, frame + 8, end, &r.raw, header)
    return True


cdef bint try_hot_send(Reactor r, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
    """Serve a frame on the hot road. False: nothing happened, it is a cold one."""
    cdef SendHeader header
    cdef PropertyView view
    cdef MessageIn message
    cdef Topic* topic
    cdef Staged* staged
    cdef uint32_t header_length = load_be32(frame + 4) & 0xFFFFFF
    cdef int32_t properties_length = 0, status, body_length, attempt, count = 1
    cdef const uint8_t* body = frame + 8 + header_length
    if not r.policy.enabled or c.service != r.policy.service or c.cold_sends:
        return False
    if not read_send_header(r, c, frame, &header):
        return False
    if header.reconsume_times or header.sys_flag & SYS_FLAG_COLD:
        return False
    body_length = <int32_t>(length - 8 - header_length)
    if body_length < 1 or body_length > r.policy.max_message_bytes:
        return False
    if header.properties.data != NULL:
        properties_length = unescape(&header.properties, r.scratch, SCRATCH_BYTES - 1)
        if properties_length < 0:
            return False
    if properties_length and r.scratch[properties_length - 1] != ITEM_SEPARATOR:
        r.scratch[properties_length] = ITEM_SEPARATOR
        properties_length += 1
    if properties_length + r.policy.added_length > PROPERTIES_MAX:
        return False
    if not read_properties(r.scratch, properties_length, &view):
        return False
    if not view.waits and r.store.sync_flush():
        return False
    if header.batch:
        # of a batch's own properties nothing is stored
        count = plain_batch(body, body_length)
        if count < 1 or header.topic.length > BATCH_TOPIC_MAX:
            return False
    elif view.unique_key == NULL:
        return False
    if r.parked_total >= r.max_parked:
        refuse_busy(r, c, &header)
        return True
    if not batch_room(r, count):
        return False

    message.properties2 = NULL
    message.flag = 0
    if not header.batch:
        message.body = body
        message.body_len = body_length
        message.properties = r.scratch
        message.properties_len = properties_length
        message.properties2 = r.policy.added
        message.properties2_len = r.policy.added_length
        message.flag = header.message_flag
    message.born_timestamp_ms = header.born_timestamp_ms
    memcpy(message.born_host, c.host, 20)
    message.born_host_len = c.host_length
    message.reconsume_times = 0
    message.prepared_offset = 0
    message.tags_code = view.tags_code
    for attempt in range(2):
        if not r.batch_open:
            if r.store.hot_begin() != ST_OK:
                return False
            r.batch_open = True
        # the topic is looked up under the store's lock, which guards the table
        topic = r.store.topic_find(<const char*>header.topic.data, header.topic.length)
        if topic == NULL or not topic.flags & TOPIC_SEND_HOT or topic.flags & TOPIC_DELETED:
            return False
        if header.queue_id >= topic.write_queues and header.queue_id >= topic.read_queues:
            return False
        message.sys_flag = header.sys_flag & ~SYS_FLAG_HOSTS
        if topic.flags & TOPIC_MULTI_TAG:
            message.sys_flag |= SYS_FLAG_MULTI_TAGS
        if header.batch:
            status = r.store.hot_put_batch(topic, header.queue_id, body, body_length, &message, count, r.placed)
        else:
            status = r.store.hot_put(topic, header.queue_id, &message, r.placed)
        if status != ST_NEED_COMMIT:
            break
        finish_batch(r)
        if not batch_room(r, count):
            return False
    if status != ST_OK:
        return False
    staged = &r.staged[r.staged_count]
    staged.connection = c.id
    staged.offset = <uint32_t>(r.arena.end - r.arena.begin)
    staged.opaque = header.opaque
    staged.serialize = header.serialize
    staged.oneway = header.oneway
    staged.length = put_send_reply(r.arena.data + r.arena.end, &r.policy, &header, &view, r.placed, count)
    r.arena.end += staged.length
    r.staged_count += 1
    r.hot_sends += 1
    return True
