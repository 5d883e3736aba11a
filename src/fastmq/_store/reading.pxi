# Helpers between the engine and the Python classes: calls under way, copies of records, retention, deletion.

cdef Engine* entered(Store store) except NULL:
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


cdef object read_batch(Engine* e, Queue* q, int64_t offset, int64_t max_messages, int64_t max_bytes):
    """read_queue for a BatchCQ queue: an inner batch is one record, found by any offset inside it."""
    cdef ReadResult result = ReadResult.__new__(ReadResult)
    cdef int64_t total = 0
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
        for log_offset, size, _tags, _time, first, count in batch_entries(e, q):
            if first + count <= offset:
                continue
            if result.messages and (len(result.messages) >= max_messages or total + size > max_bytes):
                break
            result.messages.append((log_offset, size))
            result.next_offset = first + count
            result.status = FOUND
            total += size
    return result


cdef bytes copy_extents(Engine* e, list positions):
    """The records at these places, one after another; what is not in the log (any more) is left out."""
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
                held[i] = hold(e, offsets[2 * i], offsets[2 * i + 1])
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


cdef int settle_all(Engine* e) noexcept nogil:
    """Flush and publish everything, under flush_lock and lock (both held by the caller). 0 or -1."""
    if e.failed:
        return -1
    if e.sync_flush:
        if flush_segments(e, e.flushed, e.written) != 0:
            fail_log(e)
            tell_flushed(e)
            return -1
        if e.written > e.flushed:
            store64(&e.flushed, e.written)
            e.flushed_time = e.last_time
            tell_flushed(e)
    publish(e, e.written)
    return 0 if e.touched_count == 0 else -1


cdef int topic_delete_queues(Engine* e, Topic* topic) noexcept nogil:
    """Remove the queue files of a topic and begin its offsets anew. Takes check_lock, flush_lock and the lock."""
    cdef char path[PATH_BYTES]
    cdef int32_t i
    cdef int result
    cdef Queue* q
    cdef QueueFiles* f
    pthread_mutex_lock(&e.check_lock)
    pthread_mutex_lock(&e.flush_lock)
    pthread_mutex_lock(&e.lock)
    result = settle_all(e)
    if result == 0:
        for i in range(topic.queue_slots):
            q = topic.queues[i]
            if q == NULL or (<QueueFiles*> q.files).batch:
                continue
            f = <QueueFiles*> q.files
            if queue_remove_files(e, q) != 0:
                result = -1
                break
            ext_remove(e, q)
            if e.lmq_turn != NULL and i == 0 and lmq_topic(topic.name, topic.name_len) and q.next_offset:
                e.lmq_count -= 1
            f.unwritten_count = 0
            q.next_offset = f.tail_from = 0
            store64(&q.max_offset, 0)
            store64(&q.min_offset, 0)
            note_moved(e, q)                    # whoever waits shall look again
            tell_moved(e)
            queue_path(e, q, -1, path)
            e.files.rmdir(&e.files, FILE_QUEUE, path)
        snprintf(path, PATH_BYTES, "%s/consumequeue/%s", e.root, topic.name)
        e.files.rmdir(&e.files, FILE_QUEUE, path)
        snprintf(path, PATH_BYTES, "%s/consumequeue", e.root)
        if result == 0 and sync_directory(e, path) != 0 and e.error_number != ENOENT:
            result = -1
    pthread_mutex_unlock(&e.lock)
    pthread_mutex_unlock(&e.flush_lock)
    if result == 0:
        # so that a replay begins after the old messages and cannot bring the old queue back
        result = checkpoint_held(e)
    pthread_mutex_unlock(&e.check_lock)
    return result


cdef int drop_segments(Engine* e, int64_t count, int64_t* dropped) noexcept nogil:
    """Remove the oldest segments, then what queues and index hold of them. 0 or -1 with the error noted.

    A queue's end is remembered by its files alone once its messages are gone, so those must be durable first. Files are
    unlinked without the store's lock (a gigabyte takes its time), oldest first: what a crash leaves is a shorter log.
    """
    cdef char path[PATH_BYTES]
    cdef Segment* s
    cdef int64_t i, first, log_min
    cdef int result = 0
    dropped[0] = 0
    pthread_mutex_lock(&e.check_lock)
    pthread_mutex_lock(&e.lock)
    first = log_min = min_offset(e)
    if count > 0 and e.run_count > 1:
        log_min = e.run[min(count, e.run_count - 1)].base
    pthread_mutex_unlock(&e.lock)
    if log_min > first and log_min > e.durable_queues and checkpoint_held(e) != 0:
        pthread_mutex_unlock(&e.check_lock)
        return -1
    pthread_mutex_lock(&e.flush_lock)           # nobody syncs them
    pthread_mutex_lock(&e.lock)
    log_min = min(log_min, e.durable_queues)
    while e.run_count > 1 and e.run[1].base <= log_min:
        pthread_mutex_lock(&e.seg_lock)
        s = e.run[0]
        memmove(&e.run[0], &e.run[1], (e.run_count - 1) * sizeof(Segment*))
        e.run_count -= 1
        pthread_mutex_unlock(&e.seg_lock)
        release(e, s)
        dropped[0] += 1
    log_min = min_offset(e)
    if e.flushed < log_min:
        store64(&e.flushed, log_min)
    pthread_mutex_unlock(&e.lock)
    pthread_mutex_unlock(&e.flush_lock)
    for i in range(dropped[0]):
        segment_path(e, first + i * e.segment_bytes, path)
        if e.files.unlink(&e.files, FILE_LOG, path) != 0 and errno != ENOENT:
            note_error(e, path)
            result = -1
            break
    i = 0
    while dropped[0]:
        pthread_mutex_lock(&e.lock)
        count = min(i + 64, e.queue_count)      # let appends in between
        while i < count:
            drop_queue_files(e, e.queues[i], log_min)
            i += 1
        count = e.queue_count
        pthread_mutex_unlock(&e.lock)
        if i >= count:
            break
    pthread_mutex_lock(&e.index_lock)
    while e.index_count > 1 and dropped[0] and get64(e.index[0].map + X_END_OFFSET) < log_min:
        index_remove(e, 0)
    if e.indexed < log_min:
        store64(&e.indexed, log_min)
    pthread_mutex_unlock(&e.index_lock)
    pthread_mutex_unlock(&e.check_lock)
    return result


cdef void drop_queue_files(Engine* e, Queue* q, int64_t log_min) noexcept nogil:
    """Unlink files whose last entry points below the log (never the last one), then move the queue's min offset."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef QueueEntry entry
    cdef int64_t last
    if f.batch or f.first_base < 0:
        return
    last = q.max_offset * ENTRY_BYTES
    while f.first_base + e.queue_file_bytes < last:
        if queue_entries_from_files(e, q, (f.first_base + e.queue_file_bytes) // ENTRY_BYTES - 1, 1, &entry) != 1:
            break
        if entry.log_offset >= log_min and entry.size != BLANK_SIZE:
            break
        queue_path(e, q, f.first_base, path)
        if e.files.unlink(&e.files, FILE_QUEUE, path) != 0:
            note_error(e, path)
            break
        f.first_base += e.queue_file_bytes
    if q.min_offset < f.first_base // ENTRY_BYTES:
        store64(&q.min_offset, f.first_base // ENTRY_BYTES)
    queue_correct_min(e, q, log_min)
    ext_trim(e, q)


cdef void close_files(Engine* e, bint clean) noexcept nogil:
    """Let go of every descriptor and map. `clean` removes the segment made ahead of time."""
    cdef int64_t i
    cdef QueueFiles* f
    pthread_mutex_lock(&e.seg_lock)
    for i in range(e.run_count):
        segment_drop(e.run[i])
    e.run_count = 0
    pthread_mutex_unlock(&e.seg_lock)
    if e.spare != NULL:
        if clean:
            segment_discard(e, e.spare)
        else:
            segment_drop(e.spare)
        e.spare = NULL
    for i in range(e.queue_count):
        f = <QueueFiles*> e.queues[i].files
        if f.fd >= 0:
            close_fd(f.fd)
            f.fd = -1
        ext_close(e, e.queues[i])
    for i in range(e.index_count):
        index_close(e.index[i])
    e.index_count = 0
    if e.check_fd >= 0:
        close_fd(e.check_fd)
    if e.lock_fd >= 0:
        close_fd(e.lock_fd)
    if e.root_fd >= 0:
        close_fd(e.root_fd)
    e.check_fd = e.lock_fd = e.root_fd = -1
