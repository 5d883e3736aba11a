# Ends of queues and of the log: finding the one on disk, and making another one. Both are cut so that a crash on the
# way leaves something that ends earlier, and never a hole.

cdef int64_t queue_end(Queue* q) noexcept nogil:
    return q.max_offset + (<QueueFiles*> q.files).unwritten_count


cdef int64_t queue_last_log(Queue* q) noexcept nogil:
    """Log offset of the newest entry, written or not; -1: none."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    if f.unwritten_count:
        return get64(f.unwritten + <int64_t> (f.unwritten_count - 1) * ENTRY_BYTES)
    return f.last_log_offset


cdef int64_t queue_log_at(Engine* e, Queue* q, int64_t offset) noexcept nogil:
    """Log offset of an entry, written or not; -1 if it cannot be read."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef QueueEntry entry
    if offset >= q.max_offset:
        return get64(f.unwritten + (offset - q.max_offset) * ENTRY_BYTES)
    return entry.log_offset if queue_entries_from_files(e, q, offset, 1, &entry) == 1 else -1


cdef int queue_remove_files(Engine* e, Queue* q) noexcept nogil:
    """Unlink all files of a queue, newest first, so that what a crash leaves is a queue that ends earlier."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef int64_t base, first = f.first_base
    if f.fd >= 0:
        close_fd(f.fd)
        f.fd = -1
        e.open_queues -= 1
    if first < 0:
        return 0
    base = q.max_offset * ENTRY_BYTES // e.queue_file_bytes * e.queue_file_bytes
    while base >= first:
        queue_path(e, q, base, path)
        if e.files.unlink(&e.files, FILE_QUEUE, path) != 0 and errno != ENOENT:
            note_error(e, path)
            return -1
        base -= e.queue_file_bytes
    f.first_base = -1
    f.last_log_offset = -1
    return 0


cdef bint rest_is_zero(Engine* e, int fd, int64_t at) noexcept nogil:
    """Whether a queue file holds nothing from `at` on, as far as that can be told without reading all of it."""
    cdef uint8_t page[4096]
    cdef int64_t n = min((at // 4096 + 1) * 4096, e.queue_file_bytes) - at
    cdef int64_t i
    if n > 0:
        if e.files.pread(&e.files, FILE_QUEUE, fd, page, n, at) != n:
            return False
        for i in range(n):
            if page[i]:
                return False
    return at + n >= e.queue_file_bytes or (lseek(fd, at + n, SEEK_DATA) < 0 and errno == ENXIO)


cdef int queue_cut(Engine* e, Queue* q, int64_t end) noexcept nogil:
    """End the queue before entry `end`: later files are unlinked, the rest of the last one becomes zeros."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef uint8_t zeros[4096]
    cdef int64_t position, base, last, n, at
    cdef QueueEntry entry
    f.unwritten_count = 0
    f.ext_end = -1
    if end * ENTRY_BYTES <= f.first_base or end == 0 or f.first_base < 0:
        if queue_remove_files(e, q) != 0:
            return -1
        store64(&q.max_offset, end)
        store64(&q.min_offset, end)
        q.next_offset = f.tail_from = end
        return 0
    position = end * ENTRY_BYTES
    base = (position - 1) // e.queue_file_bytes * e.queue_file_bytes      # a full file stays the last one
    last = q.max_offset * ENTRY_BYTES // e.queue_file_bytes * e.queue_file_bytes
    if f.fd >= 0 and f.fd_base != base:
        queue_detach(e, q)
    while last > base:
        queue_path(e, q, last, path)
        if e.files.unlink(&e.files, FILE_QUEUE, path) != 0 and errno != ENOENT:
            note_error(e, path)
            return -1
        last -= e.queue_file_bytes
    if f.fd < 0 and queue_open_newest(e, q, base, False) != 0:
        return -1
    f.allocated = 0
    at = position - base
    if not rest_is_zero(e, f.fd, at) and e.files.fallocate(&e.files, FILE_QUEUE, f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                                    at, e.queue_file_bytes - at) != 0:
        memset(zeros, 0, sizeof(zeros))
        while at < e.queue_file_bytes:
            n = min(e.queue_file_bytes - at, <int64_t> sizeof(zeros))
            if e.files.pwrite(&e.files, FILE_QUEUE, f.fd, zeros, n, at) != n:
                queue_path(e, q, base, path)
                note_error(e, path)
                return -1
            at += n
    store64(&q.max_offset, end)
    q.next_offset = f.tail_from = end
    if q.min_offset > end:
        store64(&q.min_offset, end)
    f.last_log_offset = -1
    if queue_entries_from_files(e, q, end - 1, 1, &entry) == 1 and entry.size != BLANK_SIZE:
        f.last_log_offset = entry.log_offset
    if not f.dirty:
        f.dirty = True
        e.dirty[e.dirty_count] = q
        e.dirty_count += 1
    return 0


cdef bint entry_is_valid(QueueEntry* entry) noexcept nogil:
    return entry.log_offset >= 0 and entry.size > 0


cdef int64_t find_end_sorted(Engine* e, Queue* q, int64_t last_base, int64_t limit) noexcept nogil:
    """Number of entries of records below `limit`, by binary search. Right if entries from there on are later or zero."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t low = f.first_base // ENTRY_BYTES
    cdef int64_t high = (last_base + e.queue_file_bytes) // ENTRY_BYTES
    cdef int64_t middle
    cdef QueueEntry entry
    while low < high:
        middle = low + (high - low) // 2
        if queue_entries_from_files(e, q, middle, 1, &entry) != 1:
            return -1
        if entry_is_valid(&entry) and entry.log_offset < limit:
            low = middle + 1
        else:
            high = middle
    return low


cdef int64_t find_end_linear(Engine* e, Queue* q, int64_t last_base) noexcept nogil:
    """RocketMQ's way: entry by entry from the third last file on, until one is not valid or not in log order."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t at = max(f.first_base, last_base - 2 * e.queue_file_bytes) // ENTRY_BYTES
    cdef int64_t end = (last_base + e.queue_file_bytes) // ENTRY_BYTES
    cdef int64_t n, i, previous = -1
    cdef QueueEntry chunk[256]
    while at < end:
        n = queue_entries_from_files(e, q, at, min(end - at, 256), chunk)
        if n <= 0:
            return -1
        for i in range(n):
            if not entry_is_valid(&chunk[i]):
                return at + i
            if chunk[i].size != BLANK_SIZE:
                if chunk[i].log_offset <= previous:
                    return at + i
                previous = chunk[i].log_offset
        at += n
    return at


cdef int queue_settle(Engine* e, Queue* q, int64_t last_base, int64_t limit) noexcept nogil:
    """Find a loaded queue's end. limit >= 0: entries below it are known to be complete (our note)."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef QueueEntry entry
    cdef int64_t end
    if queue_open_newest(e, q, last_base, False) != 0:      # once, and not for every look at it
        return -1
    end = find_end_sorted(e, q, last_base, limit) if limit >= 0 else find_end_linear(e, q, last_base)
    if end < 0:
        return -1
    store64(&q.max_offset, (last_base + e.queue_file_bytes) // ENTRY_BYTES - 1)     # so that a cut finds all files
    store64(&q.min_offset, f.first_base // ENTRY_BYTES)
    f.last_log_offset = -1
    f.tail_from = q.max_offset
    if end * ENTRY_BYTES <= last_base and last_base > f.first_base:
        return queue_cut(e, q, end)      # files made ahead of time, or cut off
    if end == 0:
        return queue_cut(e, q, 0)
    store64(&q.max_offset, end)
    q.next_offset = f.tail_from = end
    if end * ENTRY_BYTES > f.first_base:
        if queue_entries_from_files(e, q, end - 1, 1, &entry) != 1:
            return -1
        if entry.size != BLANK_SIZE:
            f.last_log_offset = entry.log_offset
    return 0


cdef int queue_cut_log(Engine* e, Queue* q, int64_t limit) noexcept nogil:
    """Drop entries of records at or above a log offset. What queue_settle left is in log order, but for blanks."""
    cdef QueueEntry entry
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t low, high, middle
    if f.batch or f.first_base < 0:
        return 0
    low, high = f.first_base // ENTRY_BYTES, q.max_offset
    while low < high:
        middle = low + (high - low) // 2
        if queue_entries_from_files(e, q, middle, 1, &entry) != 1:
            return -1
        if entry.size == BLANK_SIZE or entry.log_offset < limit:
            low = middle + 1
        else:
            high = middle
    # also with nothing to drop: what stands behind the end may be left from before an earlier cut
    return queue_cut(e, q, low)


cdef int cut_queues(Engine* e, int64_t limit, bint always) noexcept nogil:
    """Drop entries of records at or above `limit` from all queues; `always`: clear what is behind the end as well."""
    cdef int64_t i
    cdef Queue* q
    cdef QueueFiles* f
    for i in range(e.queue_count):
        q = e.queues[i]
        f = <QueueFiles*> q.files
        if f.batch or f.first_base < 0 or (not always and f.last_log_offset < limit):
            continue
        if queue_cut_log(e, q, limit) != 0:
            return -1
    return 0


cdef int64_t forget_unwritten(Engine* e) noexcept nogil:
    """Entries that wait are of no use any more; returns the new length of the touched list, 0."""
    cdef int64_t i
    cdef QueueFiles* f
    for i in range(e.queue_count):
        f = <QueueFiles*> e.queues[i].files
        f.unwritten_count = 0
        f.touched = False
    return 0


cdef int cut_log(Engine* e, int64_t end) noexcept nogil:
    """Make `end` the end of the log: later files are removed, the rest of its file becomes zeros."""
    cdef Segment* s
    cdef char path[PATH_BYTES]
    while e.run_count and e.run[e.run_count - 1].base >= end and (e.run_count > 1 or end == e.run[0].base):
        s = e.run[e.run_count - 1]
        segment_path(e, s.base, path)
        if e.files.unlink(&e.files, FILE_LOG, path) != 0 and errno != ENOENT:
            note_error(e, path)
            return -1
        e.run_count -= 1
        segment_drop(s)
    if e.run_count:
        s = e.run[e.run_count - 1]
        if end < s.base + s.length:
            if e.files.fallocate(&e.files, FILE_LOG, s.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end - s.base,
                                 s.base + s.length - end) != 0:
                e.dirty_until = s.base + s.length       # appends carry their own stop mark then
            s.allocated = end - s.base
    return 0


cdef bint tail_is_clear(Engine* e, int64_t end) noexcept nogil:
    """Whether `end` lies in the last file and no record header stands there."""
    cdef Segment* s = e.run[e.run_count - 1]
    if end < s.base or end > s.base + s.length:
        return False
    return end + FILLER_BYTES > s.base + s.length or get64(s.map + (end - s.base)) == 0
