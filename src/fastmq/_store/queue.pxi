# Consume queues: 20-byte entries, written once in order, found by number and by time.
#
# Files are `consumequeue/<topic>/<queue id>/<byte offset, 20 digits>`, each of full length from the start, with blocks
# reserved in growing steps so that a full disk is an error of a call and not a signal later. Only the newest file of
# a queue keeps its descriptor, and only while there are not too many of them.

cdef enum:
    RESERVE_MIN = 4096
    RESERVE_MAX = 1 << 20
    BLANKS_AT_ONCE = 4096


cdef int queue_path(Engine* e, Queue* q, int64_t base, char* path) noexcept nogil:
    """Path of a file of the queue, or of its directory for base -1."""
    cdef int n = snprintf(path, PATH_BYTES, "%s/consumequeue/%s/%d", e.root, q.topic.name, q.queue_id)
    if base >= 0:
        n += snprintf(path + n, PATH_BYTES - n, "/%020lld", <long long> base)
    return n


cdef int make_queue_directory(Engine* e, Queue* q) noexcept nogil:
    """consumequeue/<topic>/<queue id>, with parents. 0 or -1 with errno set."""
    cdef char path[PATH_BYTES]
    cdef int n = queue_path(e, q, -1, path)
    cdef int i
    cdef int start = <int> strlen(e.root) + 1
    for i in range(start, n + 1):
        if path[i] == c'/' or path[i] == 0:
            path[i] = 0
            if e.files.mkdir(&e.files, FILE_QUEUE, path) != 0 and errno != EEXIST:
                note_error(e, path)
                return -1
            if i < n:
                path[i] = c'/'
    return 0


cdef void queue_detach(Engine* e, Queue* q) noexcept nogil:
    """Let go of the newest file's descriptor; if it was written since, the next checkpoint syncs the file system."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    if f.fd < 0:
        return
    if f.dirty:
        e.sync_whole = True
    close_fd(f.fd)
    f.fd = -1
    e.open_queues -= 1


cdef void evict_queue(Engine* e) noexcept nogil:
    """Close the descriptor of some queue that has one: the next in turn."""
    cdef int64_t tried = 0
    cdef Queue* q
    while tried < e.queue_count:
        e.evict_hand = (e.evict_hand + 1) % e.queue_count
        q = e.queues[e.evict_hand]
        if (<QueueFiles*> q.files).fd >= 0:
            queue_detach(e, q)
            return
        tried += 1


cdef int queue_open_newest(Engine* e, Queue* q, int64_t base, bint create) noexcept nogil:
    """Make the file at `base` the one that is open. 0 or -1 with the error noted."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef int fd = -1
    cdef int error
    if e.open_queues >= e.open_queue_limit:
        evict_queue(e)
    queue_path(e, q, base, path)
    if create and f.first_base < 0 and make_queue_directory(e, q) != 0:
        return -1
    fd = e.files.open(&e.files, FILE_QUEUE, path, O_RDWR | (O_CREAT if create else 0))
    if fd < 0 and (errno == EMFILE or errno == ENFILE):
        evict_queue(e)      # sockets may have taken more than their share
        fd = e.files.open(&e.files, FILE_QUEUE, path, O_RDWR | (O_CREAT if create else 0))
    if fd >= 0 and create and e.files.ftruncate(&e.files, FILE_QUEUE, fd, e.queue_file_bytes) != 0:
        error = errno
        close_fd(fd)
        unlink(path)
        set_errno(error)
        fd = -1
    if fd < 0:
        note_error(e, path)
        return -1
    queue_detach(e, q)
    f.fd = fd
    f.fd_base = base
    f.allocated = 0
    e.open_queues += 1
    if create:
        f.new_files = True
        if f.first_base < 0:
            f.first_base = base
    return 0


cdef int queue_pwrite(Engine* e, Queue* q, const uint8_t* data, int64_t length, int64_t at) noexcept nogil:
    """Reserve and write within the open file. 0 or -1 with the error noted."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef int64_t upto
    cdef ssize_t n
    if at + length > f.allocated:
        # a few kilobytes for a young queue, up to a megabyte for a busy one
        upto = at + length + min(at, RESERVE_MAX)
        upto = min((upto + RESERVE_MIN - 1) // RESERVE_MIN * RESERVE_MIN, e.queue_file_bytes)
        if e.files.fallocate(&e.files, FILE_QUEUE, f.fd, 0, f.allocated, upto - f.allocated) != 0 and errno != EOPNOTSUPP:
            queue_path(e, q, f.fd_base, path)
            note_error(e, path)
            return -1
        f.allocated = upto
    n = e.files.pwrite(&e.files, FILE_QUEUE, f.fd, data, length, at)
    if n == length:
        return 0
    if n >= 0:
        set_errno(ENOSPC)
    queue_path(e, q, f.fd_base, path)
    note_error(e, path)
    return -1


cdef int queue_prefill(Engine* e, Queue* q, int64_t upto) noexcept nogil:
    """Blank entries from the start of the queue's first file up to where its first message goes."""
    cdef uint8_t blanks[ENTRY_BYTES * 64]
    cdef int64_t at = 0, n, i
    for i in range(64):
        memset(blanks + i * ENTRY_BYTES, 0, ENTRY_BYTES)
        put32(blanks + i * ENTRY_BYTES + 8, BLANK_SIZE)
    while at < upto:
        n = min(upto - at, <int64_t> sizeof(blanks))
        if queue_pwrite(e, q, blanks, n, at) != 0:
            return -1
        at += n
    return 0


cdef int queue_write(Engine* e, Queue* q) noexcept nogil:
    """Write the entries that wait and make them visible, as far as the files let us. 0 when none is left."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t position, base, n, i, left
    cdef bint fresh
    cdef QueueEntry* slot
    cdef const uint8_t* p
    while f.unwritten_count:
        position = q.max_offset * ENTRY_BYTES
        base = position - position % e.queue_file_bytes
        if f.fd < 0 or f.fd_base != base:
            fresh = f.first_base < 0
            # a file of that name exists unless the entry is the first of it; O_CREAT keeps one that a failed
            # attempt has left behind
            if queue_open_newest(e, q, base, fresh or position == base) != 0:
                return -1
            if fresh and position > base and queue_prefill(e, q, position - base) != 0:
                queue_detach(e, q)
                f.first_base = -1       # begin again, blanks included
                return -1
        left = (base + e.queue_file_bytes - position) // ENTRY_BYTES
        n = min(<int64_t> f.unwritten_count, left)
        if queue_pwrite(e, q, f.unwritten, n * ENTRY_BYTES, position - base) != 0:
            return -1
        e.n_queue_writes += 1
        for i in range(max(0, n - TAIL_ENTRIES), n):
            p = f.unwritten + i * ENTRY_BYTES
            slot = &f.tail[(q.max_offset + i) & (TAIL_ENTRIES - 1)]
            slot.log_offset = get64(p)
            slot.size = <int32_t> get32(p + 8)
            slot.tags_code = get64(p + 12)
        if n > TAIL_ENTRIES:
            f.tail_from = q.max_offset + n - TAIL_ENTRIES
        f.last_log_offset = get64(f.unwritten + (n - 1) * ENTRY_BYTES)
        f.unwritten_count -= <int32_t> n
        if f.unwritten_count:
            memmove(f.unwritten, f.unwritten + n * ENTRY_BYTES, f.unwritten_count * ENTRY_BYTES)
            f.unwritten_log = get64(f.unwritten)
        if not f.dirty:
            f.dirty = True
            e.dirty[e.dirty_count] = q
            e.dirty_count += 1
        store64(&q.max_offset, q.max_offset + n)
        if q.max_offset - f.tail_from > TAIL_ENTRIES:
            f.tail_from = q.max_offset - TAIL_ENTRIES
        note_moved(e, q)
    if f.unwritten_room > 256:      # a burst need not be remembered for ever
        free(f.unwritten)
        f.unwritten = NULL
        f.unwritten_room = 0
    return 0


# --- reading --------------------------------------------------------------------------------------------------

cdef int64_t queue_entries_from_files(Engine* e, Queue* q, int64_t offset, int64_t count, QueueEntry* out) noexcept nogil:
    """Entries [offset, offset + count) from the files. Returns how many could be read; -1 on a file error."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef uint8_t chunk[ENTRY_BYTES * 256]
    cdef char path[PATH_BYTES]
    cdef int64_t done = 0, n, i, position, base
    cdef int64_t open_base = -1
    cdef int fd = -1
    cdef ssize_t got
    while done < count:
        position = (offset + done) * ENTRY_BYTES
        base = position - position % e.queue_file_bytes
        n = min(min(count - done, 256), (base + e.queue_file_bytes - position) // ENTRY_BYTES)
        if f.fd >= 0 and base == f.fd_base:
            got = e.files.pread(&e.files, FILE_QUEUE, f.fd, chunk, n * ENTRY_BYTES, position - base)
        else:
            if fd >= 0 and open_base != base:
                close_fd(fd)
                fd = -1
            if fd < 0:
                queue_path(e, q, base, path)
                fd = e.files.open(&e.files, FILE_QUEUE, path, O_RDONLY)
                open_base = base
                if fd < 0 and (errno == EMFILE or errno == ENFILE):
                    evict_queue(e)
                    fd = e.files.open(&e.files, FILE_QUEUE, path, O_RDONLY)
                if fd < 0:
                    note_error(e, path)
                    return done if done else -1
            got = e.files.pread(&e.files, FILE_QUEUE, fd, chunk, n * ENTRY_BYTES, position - base)
        if got != n * ENTRY_BYTES:
            if got >= 0:
                set_errno(ENXIO)        # the file is shorter than it was made
            queue_path(e, q, base, path)
            note_error(e, path)
            if fd >= 0:
                close_fd(fd)
            return done if done else -1
        for i in range(n):
            out[done + i].log_offset = get64(chunk + i * ENTRY_BYTES)
            out[done + i].size = <int32_t> get32(chunk + i * ENTRY_BYTES + 8)
            out[done + i].tags_code = get64(chunk + i * ENTRY_BYTES + 12)
        done += n
    if fd >= 0:
        close_fd(fd)
    return done


cdef int64_t queue_read(Engine* e, Queue* q, int64_t offset, int64_t count, QueueEntry* out) noexcept nogil:
    """Visible entries from `offset` on, at most `count`. Under the lock. -1 on a file error."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t i
    if f.batch or offset < q.min_offset:
        return 0
    count = min(count, q.max_offset - offset)
    if count <= 0:
        return 0
    if offset >= f.tail_from:
        for i in range(count):
            out[i] = f.tail[(offset + i) & (TAIL_ENTRIES - 1)]
        return count
    return queue_entries_from_files(e, q, offset, count, out)


cdef int64_t stored_time(Engine* e, int64_t log_offset, int32_t size) noexcept nogil:
    """Store time of the record there, -1 if it is not in the log or is none."""
    cdef Segment* s = hold(e, log_offset, size)
    cdef Record r
    cdef int64_t time = -1
    if s != NULL:
        if parse_record(s.map + (log_offset - s.base), size, &r) == 1:
            time = r.store_time
        release(e, s)
    return time


cdef int64_t queue_search(Engine* e, Queue* q, int64_t time, bint upper) noexcept nogil:
    """Queue offset by store time: lower = first entry at or after it, upper = last entry at or before it.

    Takes the lock for each entry and not for looking at its record, which may have to come from the disk.
    """
    cdef int64_t low = load64(&q.min_offset), high = load64(&q.max_offset), middle, t, n
    cdef int64_t first = low
    cdef QueueEntry entry
    while low < high:
        middle = low + (high - low) // 2
        pthread_mutex_lock(&e.lock)
        n = queue_read(e, q, middle, 1, &entry)
        pthread_mutex_unlock(&e.lock)
        if n != 1:
            return low
        t = stored_time(e, entry.log_offset, entry.size)
        if t < time or (upper and t == time):
            low = middle + 1
        else:
            high = middle
    if upper and low > first:
        low -= 1
    return low


cdef void queue_correct_min(Engine* e, Queue* q, int64_t min_log) noexcept nogil:
    """Move min_offset past the entries whose records are gone (blank entries count as gone)."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef int64_t low = q.min_offset, high = q.max_offset, middle
    cdef QueueEntry entry
    if f.batch or low >= high or queue_read(e, q, low, 1, &entry) != 1:
        return
    if entry.log_offset >= min_log and not (entry.log_offset == 0 and entry.size == BLANK_SIZE):
        return
    while low < high:
        middle = low + (high - low) // 2
        if queue_read(e, q, middle, 1, &entry) != 1:
            return
        if entry.log_offset < min_log or (entry.log_offset == 0 and entry.size == BLANK_SIZE):
            low = middle + 1
        else:
            high = middle
    store64(&q.min_offset, low)


cdef int read_by_rules(Engine* e, Queue* q, int64_t offset, int32_t max_messages, int64_t max_bytes, const int64_t* codes,
                       int32_t code_count, const uint8_t* mask, int32_t max_scanned, QueueEntry* out, int32_t room,
                       ReadSummary* r) noexcept nogil:
    """RocketMQ's getMessage, positions only. Takes the lock. Returns ST_OK or a file error's status.

    `mask`, if there is one, says of each of the max_scanned entries from `offset` on whether it matches.
    """
    cdef QueueEntry chunk[128]
    cdef int64_t at, n, i, count, total = 0, log_end, log_min, cursor, next_file = -1
    cdef int32_t j, scanned = 0
    cdef bint in_memory, matches
    cdef int64_t code
    memset(r, 0, sizeof(ReadSummary))
    pthread_mutex_lock(&e.lock)
    r.min_offset = q.min_offset
    r.max_offset = q.max_offset
    r.next_offset = offset
    log_end = e.written
    log_min = min_offset(e)
    e.n_reads += 1
    if r.max_offset == 0:
        r.status = NO_MESSAGE_IN_QUEUE
        r.next_offset = 0
    elif offset < r.min_offset:
        r.status = OFFSET_TOO_SMALL
        r.next_offset = r.min_offset
    elif offset == r.max_offset:
        r.status = OFFSET_OVERFLOW_ONE
    elif offset > r.max_offset:
        r.status = OFFSET_OVERFLOW_BADLY
        r.next_offset = r.max_offset
    else:
        r.status = NO_MATCHED_MESSAGE
        at = offset
        cursor = -1
        max_bytes = max(max_bytes, 100)
        max_messages = min(max_messages, room)
        while at < r.max_offset and scanned < max_scanned:
            n = queue_read(e, q, at, min(128, max_scanned - scanned), chunk)
            if n <= 0:
                if at == offset:
                    r.status = OFFSET_FOUND_NULL
                    if n < 0 and e.error_number != ENOENT and e.error_number != ENXIO:
                        break       # no descriptors, a disk that fails: it may be read later
                    # this file of the queue is gone: go on with the next one
                    at = (at * ENTRY_BYTES // e.queue_file_bytes + 1) * e.queue_file_bytes // ENTRY_BYTES
                    at = min(at, r.max_offset)
                break
            i = 0
            while i < n:
                cursor = chunk[i].log_offset
                if next_file >= 0 and cursor < next_file:
                    i += 1
                    continue
                in_memory = log_end - cursor <= e.memory_window
                if r.count:
                    if r.count >= max_messages or total + chunk[i].size > max_bytes:
                        break
                    if in_memory:
                        if total + chunk[i].size > e.memory_bytes or r.count >= e.memory_count:
                            break
                    elif total + chunk[i].size > e.disk_bytes or r.count >= e.disk_count:
                        break
                matches = codes == NULL
                if mask != NULL:
                    matches = mask[at + i - offset] != 0
                elif not matches:
                    code = chunk[i].tags_code
                    if is_ext_address(code):
                        code = plain_code(e, q, code)
                        matches = is_ext_address(code)      # nobody knows its tags
                    for j in range(code_count):
                        if codes[j] == code:
                            matches = True
                            break
                if matches:
                    if cursor < log_min or cursor > log_end - chunk[i].size or chunk[i].size <= 0:
                        if r.count == 0:
                            r.status = MESSAGE_WAS_REMOVING
                        if cursor < log_min:
                            next_file = (cursor // e.segment_bytes + 1) * e.segment_bytes
                    elif max_messages > 0:
                        out[r.count] = chunk[i]
                        r.count += 1
                        total += chunk[i].size
                        r.status = FOUND
                        next_file = -1
                i += 1
            at += i
            scanned += <int32_t> i
            if i < n:
                break
        r.next_offset = at
        r.bytes = total
        r.suggest_slave = cursor >= 0 and log_end - cursor > e.memory_window
        e.n_read_messages += r.count
    pthread_mutex_unlock(&e.lock)
    return ST_OK
