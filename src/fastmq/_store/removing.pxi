# Deleting a topic's queues, and retention: log files from the beginning, queue files behind them.

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
