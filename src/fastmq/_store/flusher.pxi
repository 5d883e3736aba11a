# The flusher: one fdatasync for everybody who waits.
#
#   appenders  |--A--|--B--|--C--|        |--D--|
#   flusher          [fdatasync: A ]      [fdatasync: B C ]      [fdatasync: D ]
#
# `written` is read before the fdatasync begins, so what it covers is exactly what was in the page cache by then.
# A failed fdatasync is final: the kernel may have dropped the dirty pages and would report success the next time.
#
# fdatasync of much that is dirty locks megabytes of pages at once and keeps them locked until the disk's queue has taken
# them. The page that the log ends in would be one of them, and the appender would wait for it as long as the disk is busy.
# So all but the last FLUSH_TAIL is handed to the disk before, without that page.

cdef void write_out(Engine* e, Segment* s, int64_t start) noexcept nogil:
    """Begin to write what lies from `start` on, but for the end of the log. Says nothing about its being there."""
    cdef int64_t until, at = max(start - s.base, 0)
    cdef int32_t again
    for again in range(FLUSH_PIECES):
        until = min(load64(&e.written) - s.base, s.length) - FLUSH_TAIL
        until -= until % FLUSH_TAIL
        if until <= at:
            return
        while at < until:   # in pieces for the reason of CACHED_PIECE; a failure shows itself in the fdatasync
            sync_file_range(s.fd, at, min(FLUSH_TAIL, until - at), SYNC_FILE_RANGE_WRITE)
            at = min(at + FLUSH_TAIL, until)


cdef int flush_segments(Engine* e, int64_t start, int64_t target) noexcept nogil:
    """fdatasync every segment that holds a byte of [start, target). 0, or an errno (noted)."""
    cdef Segment* s
    cdef char path[PATH_BYTES]
    cdef int64_t at = start
    cdef int error
    while at < target:
        pthread_mutex_lock(&e.seg_lock)
        s = run_find(e, at)
        if s != NULL:
            s.references += 1
        pthread_mutex_unlock(&e.seg_lock)
        if s == NULL:
            break
        if s.fd >= 0:
            write_out(e, s, at)
        if s.fd >= 0 and e.files.fdatasync(&e.files, FILE_LOG, s.fd) != 0:
            error = errno if errno else EIO
            segment_path(e, s.base, path)
            set_errno(error)
            note_error(e, path)
            release(e, s)
            return error
        at = s.base + s.length
        release(e, s)
    return 0


cdef int64_t flush_once(Engine* e) noexcept nogil:
    """Flush all that is written, then publish (SYNC_FLUSH). Returns the bytes made durable, -1 if the log has failed."""
    cdef int64_t start, target, time
    cdef Segment* s
    cdef int error
    cdef int32_t i
    pthread_mutex_lock(&e.flush_lock)
    pthread_mutex_lock(&e.lock)
    start = e.flushed
    target = e.written
    time = e.last_time
    e.flush_asked = False
    if e.failed:
        pthread_mutex_unlock(&e.lock)
        pthread_mutex_unlock(&e.flush_lock)
        return -1
    pthread_mutex_unlock(&e.lock)
    error = flush_segments(e, start, target)
    pthread_mutex_lock(&e.lock)
    e.last_flush_ms = monotonic_ms()
    if error:
        fail_log(e)
    else:
        if target > start:
            e.n_flushes += 1
            e.flushed_time = time
            store64(&e.flushed, target)
            # full and durable segments are only read from now on, through their maps. Not while the allocator may
            # be using such a descriptor: then the next flush closes it.
            if pthread_mutex_trylock(&e.spare_lock) == 0:
                i = e.run_count - 2
                while i >= 0 and e.run[i].fd >= 0:
                    s = e.run[i]
                    if s.base + s.length <= target:
                        close_fd(s.fd)
                        s.fd = -1
                    i -= 1
                pthread_mutex_unlock(&e.spare_lock)
        if e.sync_flush or e.touched_count or e.pend_head < e.pend_tail:
            publish(e, target if e.sync_flush else e.written)
        if e.index_waiting:
            e.index_waiting = False
            pthread_cond_signal(&e.index_wake)
    if error or target > start:
        tell_flushed(e)
    pthread_mutex_unlock(&e.lock)
    pthread_mutex_unlock(&e.flush_lock)
    return -1 if error else target - start


cdef void flusher_loop(Engine* e) noexcept nogil:
    """Until told to stop: SYNC_FLUSH as soon as there is something, ASYNC_FLUSH at RocketMQ's intervals."""
    cdef int64_t pages, since
    cdef bint due
    while True:
        pthread_mutex_lock(&e.lock)
        while not e.stopping:
            if e.sync_flush or e.flush_asked:
                due = e.written > e.flushed and not e.failed
                if due or e.touched_count:
                    break
                e.flush_asked = False
                wait_ms(&e.flush_wake, &e.lock, 1000)
            else:
                since = monotonic_ms() - e.last_flush_ms
                pages = (e.written - e.flushed) // 4096
                if e.written > e.flushed and not e.failed and since >= e.flush_interval_ms and (
                        pages >= e.flush_least_pages or since >= e.flush_thorough_ms):
                    break
                if e.touched_count:
                    break
                wait_ms(&e.flush_wake, &e.lock, max(1, e.flush_interval_ms))
        if e.stopping:
            pthread_mutex_unlock(&e.lock)
            return
        if e.touched_count:
            # entries wait for their queue's file: not more often than every 20 ms
            wait_ms(&e.flush_wake, &e.lock, 20)
        pthread_mutex_unlock(&e.lock)
        if e.failed:
            pthread_mutex_lock(&e.lock)
            publish(e, e.flushed if e.sync_flush else e.written)
            pthread_mutex_unlock(&e.lock)
        else:
            flush_once(e)


cdef void allocator_loop(Engine* e) noexcept nogil:
    while True:
        while allocate_once(e) > 0:
            pass
        pthread_mutex_lock(&e.lock)
        if not e.stopping:
            wait_ms(&e.allocate_wake, &e.lock, 1000)
        if e.stopping:
            pthread_mutex_unlock(&e.lock)
            return
        pthread_mutex_unlock(&e.lock)
