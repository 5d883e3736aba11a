# Helpers between the engine and the Python classes: calls under way, copies of records.

cdef Engine* entered(StoreReads store) except NULL:
    """Count a call in; StoreError once the store is closed. Pair with left(). Both under the GIL, as close() is."""
    cdef Engine* e = <Engine*> store.engine
    if e == NULL or e.closed or not e.opened:
        raise StoreError("the store is closed")
    add_int(&e.users, 1)
    return e


cdef void left(Engine* e) noexcept:
    if add_int(&e.users, -1) == 0 and e.closed:
        with nogil:
            pthread_mutex_lock(&e.lock)
            pthread_cond_signal(&e.idle)
            pthread_mutex_unlock(&e.lock)


cdef int host_bytes(str host, int64_t port, uint8_t* out) except -1:
    """Address and 4-byte port, network order; returns 8 or 20."""
    cdef bytes packed
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError as error:
        raise UsageError(f"{host!r} is not an IP address") from error
    memcpy(out, <const uint8_t*> packed, len(packed))
    put32(out + len(packed), <uint32_t> port)
    return <int> len(packed) + 4


cdef Queue* queue_of(Engine* e, str topic, int64_t queue_id) except? NULL:
    """The queue if it was ever used, or NULL. No lock needed."""
    cdef bytes name = topic.encode()
    cdef Queue* q
    if queue_id < 0 or queue_id >= MAX_QUEUE_ID:
        return NULL
    q = queue_lookup(topic_lookup(e, name, len(name)), <int32_t> queue_id)
    if q == NULL or (q.next_offset == 0 and (<QueueFiles*> q.files).first_base < 0 and not (<QueueFiles*> q.files).batch):
        return NULL
    return q


cdef list batch_entries(Engine* e, Queue* q):
    """Entries of a BatchCQ queue, read from its files."""
    directory = os.path.join(os.fsdecode(e.root), "batchconsumequeue", (<bytes> q.topic.name).decode(), str(q.queue_id))
    return read_batch_entries(batch_files(directory))


cdef object read_batch(Engine* e, Queue* q, int64_t offset, int64_t max_messages, int64_t max_bytes, tag_codes,
                       bytes mask, int64_t max_scanned):
    """read_queue for a BatchCQ queue: an inner batch is one record, found by any offset inside it.

    It passes or does not as a whole, by its own tags and properties; one without tags has messages with tags, perhaps.
    """
    cdef ReadResult result = ReadResult.__new__(ReadResult)
    cdef int64_t total = 0, taken = 0, place
    result.messages = []
    result.min_offset, result.max_offset, result.next_offset = q.min_offset, q.max_offset, offset
    result.suggest_slave = False
    if q.max_offset == 0:
        result.status, result.next_offset = NO_MESSAGE_IN_QUEUE, 0
    elif offset < q.min_offset:
        result.status, result.next_offset = OFFSET_TOO_SMALL, q.min_offset
    elif offset == q.max_offset:
        result.status = OFFSET_OVERFLOW_ONE
    elif offset > q.max_offset:
        result.status, result.next_offset = OFFSET_OVERFLOW_BADLY, q.max_offset
    else:
        result.status = NO_MATCHED_MESSAGE
        if mask is not None:
            max_scanned = len(mask)
        for log_offset, size, tags_code, _time, first, count in batch_entries(e, q):
            if first + count <= offset:
                continue
            place = max(first - offset, 0)
            if place >= max_scanned:
                break
            if result.messages and (taken + count > max_messages or total + size > max_bytes):
                break
            result.next_offset = first + count
            if not mask[place] if mask is not None else tag_codes is not None and tags_code and tags_code not in tag_codes:
                continue
            result.messages.append((log_offset, size))
            result.status = FOUND
            total += size
            taken += count
    return result


cdef bytes properties_at(Engine* e, int64_t log_offset, int64_t size):
    """Properties of the record at a place of the log; None if it is not there."""
    cdef Segment* s
    cdef Record r
    with nogil:
        s = hold(e, log_offset, size)
    if s == NULL:
        return None
    try:
        if parse_record(s.map + (log_offset - s.base), size, &r) == 1:
            return PyBytes_FromStringAndSize(<char*> r.properties, r.properties_len)
        return None
    finally:
        with nogil:
            release(e, s)


cdef list batch_properties(Engine* e, Queue* q, int64_t offset, int64_t count):
    """queue_properties for a BatchCQ queue: those of an inner batch at each of its offsets."""
    cdef list found = []
    cdef int64_t end = min(offset + count, q.max_offset)
    if offset < q.min_offset:
        return found
    for log_offset, size, _tags, _time, first, number in batch_entries(e, q):
        if offset + len(found) >= end:
            break
        if first + number > offset + len(found):
            found += [properties_at(e, log_offset, size)] * (min(first + number, end) - offset - len(found))
    return found


cdef bytes copy_extents(Engine* e, list positions):
    """The records at these places, one after another; what is not in the log (any more), or is no record, is left out."""
    cdef int64_t n = len(positions), i, total = 0
    cdef bytes out
    cdef uint8_t* target
    cdef int64_t* offsets = <int64_t*> malloc(max(n, 1) * 2 * sizeof(int64_t))
    cdef Segment** held = <Segment**> malloc(max(n, 1) * sizeof(Segment*))
    try:
        if offsets == NULL or held == NULL:
            raise MemoryError
        for i in range(n):
            offsets[2 * i], offsets[2 * i + 1] = positions[i]
        with nogil:
            for i in range(n):
                held[i] = hold_record(e, offsets[2 * i], offsets[2 * i + 1])
                if held[i] != NULL:
                    total += offsets[2 * i + 1]
        try:
            out = PyBytes_FromStringAndSize(NULL, total)
            target = <uint8_t*> PyBytes_AS_STRING(out)
            with nogil:
                for i in range(n):
                    if held[i] != NULL:
                        memcpy(target, held[i].map + (offsets[2 * i] - held[i].base), offsets[2 * i + 1])
                        target += offsets[2 * i + 1]
        finally:
            with nogil:
                for i in range(n):
                    release(e, held[i])
        return out
    finally:
        free(offsets)
        free(held)
