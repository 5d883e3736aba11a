# The key index: RocketMQ's hash files. A background step follows the log and adds an entry per key.
#
# The newest file is mapped for writing. Its blocks are reserved before a page is touched (slots at once, entries in
# steps), so a full disk is an error of fallocate and never SIGBUS. When it fails the step gives up for now and the
# index lags; nothing is lost, the log still has the keys.
#
# index_lock guards the files, for steps and queries alike. Files are removed under check_lock as well, because a
# checkpoint syncs the maps without holding index_lock.

cdef enum:
    INDEX_ENTRY_BYTES = 20
    INDEX_RESERVE = 4 << 20


cdef int64_t index_file_bytes(Engine* e) noexcept nogil:
    return X_HEADER + e.index_slots * 4 + e.index_entries * INDEX_ENTRY_BYTES


cdef uint8_t* index_slot(Engine* e, IndexFile* x, int64_t slot) noexcept nogil:
    return x.map + X_HEADER + slot * 4


cdef uint8_t* index_entry(Engine* e, IndexFile* x, int64_t number) noexcept nogil:
    return x.map + X_HEADER + e.index_slots * 4 + number * INDEX_ENTRY_BYTES


cdef int64_t index_entries_in(Engine* e, IndexFile* x) noexcept nogil:
    """Number of the next entry, 1 for an empty file; never beyond the file."""
    cdef int64_t count = <int32_t> get32(x.map + X_COUNT)
    return min(max(count, 1), e.index_entries)


cdef void index_path(Engine* e, IndexFile* x, char* path) noexcept nogil:
    snprintf(path, PATH_BYTES, "%s/%s", e.root, x.path)


cdef int index_writeable(Engine* e, IndexFile* x, bint create) noexcept nogil:
    """Map the file for writing, with blocks for header and slots."""
    cdef char path[PATH_BYTES]
    cdef uint8_t* map = NULL
    cdef int64_t head = X_HEADER + e.index_slots * 4
    cdef int fd
    index_path(e, x, path)
    fd = e.files.open(&e.files, FILE_INDEX, path, O_RDWR | (O_CREAT | O_EXCL if create else 0))
    if fd >= 0:
        if not create or e.files.ftruncate(&e.files, FILE_INDEX, fd, index_file_bytes(e)) == 0:
            if e.files.fallocate(&e.files, FILE_INDEX, fd, 0, 0, head) == 0 or errno == EOPNOTSUPP:
                map = <uint8_t*> e.files.mmap(&e.files, FILE_INDEX, fd, index_file_bytes(e), True)
    if map == NULL:
        note_error(e, path)
        if fd >= 0:
            close_fd(fd)
            if create:
                unlink(path)
        return status_of_errno(e.error_number)
    if x.map != NULL:
        munmap(x.map, x.length)
    x.map = map
    x.length = index_file_bytes(e)
    x.fd = fd
    x.reserved = 0
    return ST_OK


cdef int index_roll(Engine* e) noexcept nogil:
    """Begin a new file, named by the time. Its header continues from the file before."""
    cdef char path[PATH_BYTES]
    cdef IndexFile* x
    cdef IndexFile* last = e.index[e.index_count - 1] if e.index_count else NULL
    cdef int64_t now = wall_ms(e)
    cdef int64_t seconds
    cdef tm parts
    cdef int status
    cdef int attempt = 0
    if e.index_count == e.index_room:
        if not room_for(<void***> &e.index, e.index_room, e.index_room + 16):
            return ST_NO_MEMORY
        e.index_room += 16
    snprintf(path, PATH_BYTES, "%s/index", e.root)
    if e.files.mkdir(&e.files, FILE_INDEX, path) != 0 and errno != EEXIST:
        note_error(e, path)
        return status_of_errno(e.error_number)
    x = <IndexFile*> calloc(1, sizeof(IndexFile))
    if x == NULL:
        return ST_NO_MEMORY
    x.fd = -1
    while True:
        seconds = now // 1000
        localtime_at(seconds, &parts)
        snprintf(x.path, sizeof(x.path), "index/%04d%02d%02d%02d%02d%02d%03d", parts.tm_year + 1900, parts.tm_mon + 1,
                 parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec, <int> (now % 1000))
        attempt += 1
        if last != NULL and strcmp(x.path, last.path) <= 0 and attempt < 10_000:
            now += 1        # names are the order of the files, also when the clock stands still
            continue
        status = index_writeable(e, x, True)
        if status == ST_IO_ERROR and e.error_number == EEXIST and attempt < 10_000:
            now += 1
            continue
        break
    if status != ST_OK:
        free(x)
        return status
    put32(x.map + X_COUNT, 1)
    if last != NULL:
        memcpy(x.map + X_BEGIN_TIME, last.map + X_END_TIME, 8)
        memcpy(x.map + X_END_TIME, last.map + X_END_TIME, 8)
        memcpy(x.map + X_BEGIN_OFFSET, last.map + X_END_OFFSET, 8)
        memcpy(x.map + X_END_OFFSET, last.map + X_END_OFFSET, 8)
    x.dirty = True
    e.index[e.index_count] = x
    e.index_count += 1
    return ST_OK


cdef int index_add(Engine* e, int32_t key_hash, int64_t log_offset, int64_t time) noexcept nogil:
    cdef IndexFile* x = e.index[e.index_count - 1] if e.index_count else NULL
    cdef int64_t count, slot, previous, seconds, begin, upto
    cdef uint8_t* entry
    cdef char path[PATH_BYTES]
    cdef int status
    if x == NULL or index_entries_in(e, x) >= e.index_entries:
        status = index_roll(e)
        if status != ST_OK:
            return status
        x = e.index[e.index_count - 1]
    if log_offset < get64(x.map + X_END_OFFSET):
        return ST_OK                    # indexed before
    if x.fd < 0:
        status = index_writeable(e, x, False)
        if status != ST_OK:
            return status
    count = index_entries_in(e, x)
    if count >= x.reserved:
        upto = min(count + INDEX_RESERVE // INDEX_ENTRY_BYTES, e.index_entries)
        if e.files.fallocate(&e.files, FILE_INDEX, x.fd, 0, X_HEADER + e.index_slots * 4 + x.reserved * INDEX_ENTRY_BYTES,
                             (upto - x.reserved) * INDEX_ENTRY_BYTES) != 0 and errno != EOPNOTSUPP:
            index_path(e, x, path)
            note_error(e, path)
            return status_of_errno(e.error_number)
        x.reserved = upto
    slot = key_hash % e.index_slots
    previous = <int32_t> get32(index_slot(e, x, slot))
    if previous <= 0 or previous >= count:
        previous = 0
    if count <= 1:
        put64(x.map + X_BEGIN_OFFSET, log_offset)
        put64(x.map + X_BEGIN_TIME, time)
    begin = get64(x.map + X_BEGIN_TIME)
    seconds = 0
    if begin > 0 and count > 1:
        seconds = min(max((time - begin) // 1000, 0), 0x7FFFFFFF)
    entry = index_entry(e, x, count)
    put32(entry, <uint32_t> key_hash)
    put64(entry + 4, log_offset)
    put32(entry + 12, <uint32_t> seconds)
    put32(entry + 16, <uint32_t> previous)
    put32(index_slot(e, x, slot), <uint32_t> count)
    if previous == 0:
        put32(x.map + X_SLOTS_USED, get32(x.map + X_SLOTS_USED) + 1)
    put32(x.map + X_COUNT, <uint32_t> (count + 1))
    put64(x.map + X_END_OFFSET, log_offset)
    put64(x.map + X_END_TIME, time)
    x.dirty = True
    e.n_index_entries += 1
    return ST_OK


cdef int32_t index_key_hash(const uint8_t* topic, int32_t topic_len, const uint8_t* key, int32_t key_len) noexcept nogil:
    """abs(javaHash("<topic>#<key>")), 0 for the one value that has no absolute."""
    cdef int32_t h = hash_utf8(hash_step(hash_utf8(0, topic, topic_len), c'#'), key, key_len)
    if h == -2147483648LL:
        return 0
    return -h if h < 0 else h


cdef int index_record(Engine* e, Record* r) noexcept nogil:
    """Entries for all keys of a record."""
    cdef const uint8_t* value
    cdef int32_t length = 0, start, i
    cdef int status
    if (r.sys_flag & SYS_TRANSACTION) == SYS_ROLLBACK:
        return ST_OK
    value = find_property(r.properties, r.properties_len, "UNIQ_KEY", 8, &length)
    if value != NULL:
        status = index_add(e, index_key_hash(r.topic, r.topic_len, value, length), r.log_offset, r.store_time)
        if status != ST_OK:
            return status
    value = find_property(r.properties, r.properties_len, "KEYS", 4, &length)
    if value != NULL:
        start = 0
        for i in range(length + 1):
            if i == length or value[i] == c' ':
                if i > start:
                    status = index_add(e, index_key_hash(r.topic, r.topic_len, value + start, i - start), r.log_offset,
                                       r.store_time)
                    if status != ST_OK:
                        return status
                start = i + 1
    return ST_OK


cdef int64_t index_follow(Engine* e, int64_t max_bytes) noexcept nogil:
    """Index at most about max_bytes more of the log. Returns the bytes gone over, -1 if a file call failed.

    A step that fails in the middle of a record's keys is repeated from that record's start; the keys that made it in
    the first time are then in the index twice, which a query notices and drops.
    """
    cdef int64_t end, at, start
    cdef Segment* s
    cdef Record r
    cdef int kind
    cdef int status = ST_OK
    pthread_mutex_lock(&e.index_lock)
    end = visible_end(e)
    pthread_mutex_lock(&e.seg_lock)
    start = at = max(e.indexed, min_offset(e))
    pthread_mutex_unlock(&e.seg_lock)
    if not e.index_enabled:
        at = end
    while at < end and at - start < max_bytes and status == ST_OK:
        s = hold(e, at, FILLER_BYTES)
        if s == NULL:
            break
        while at < end and at - start < max_bytes:
            kind = parse_record(s.map + (at - s.base), s.base + s.length - at, &r)
            if kind != 1:
                at = s.base + s.length          # the filler
                break
            if r.log_offset > e.index_skip:
                status = index_record(e, &r)
                if status != ST_OK:
                    break
            at += r.size
            if at >= s.base + s.length - FILLER_BYTES:
                break
        release(e, s)
    at = min(at, end)
    if at > e.indexed:
        store64(&e.indexed, at)
    pthread_mutex_unlock(&e.index_lock)
    return -1 if status != ST_OK else at - start


cdef int64_t index_query(Engine* e, int32_t key_hash, int64_t max_count, int64_t begin, int64_t end, int64_t* out,
                         int64_t* last_time, int64_t* last_offset) noexcept nogil:
    """Log offsets of entries with that hash in [begin, end], newest files first. Returns how many."""
    cdef int64_t found = 0, number, count, previous, time, i, j, seconds, file_begin
    cdef int64_t offset, steps
    cdef IndexFile* x
    cdef uint8_t* entry
    last_time[0] = 0
    last_offset[0] = 0
    pthread_mutex_lock(&e.index_lock)
    if e.index_count:
        x = e.index[e.index_count - 1]
        last_time[0] = get64(x.map + X_END_TIME)
        last_offset[0] = get64(x.map + X_END_OFFSET)
    i = e.index_count - 1
    while i >= 0 and found < max_count:
        x = e.index[i]
        i -= 1
        count = index_entries_in(e, x)
        file_begin = get64(x.map + X_BEGIN_TIME)
        if count > 1 and file_begin <= end and get64(x.map + X_END_TIME) >= begin:
            number = <int32_t> get32(index_slot(e, x, key_hash % e.index_slots))
            steps = 0
            while number > 0 and number < count and found < max_count and steps < count:
                steps += 1
                entry = index_entry(e, x, number)
                seconds = <int32_t> get32(entry + 12)
                if seconds < 0:
                    break
                time = file_begin + seconds * 1000
                offset = get64(entry + 4)
                if <int32_t> get32(entry) == key_hash and begin <= time and time <= end:
                    for j in range(found):
                        if out[j] == offset:
                            break
                    else:
                        out[found] = offset
                        found += 1
                if time < begin:
                    break
                previous = <int32_t> get32(entry + 16)
                if previous == number:
                    break
                number = previous
        if file_begin < begin:
            break
    pthread_mutex_unlock(&e.index_lock)
    return found


cdef void index_remove(Engine* e, int64_t i) noexcept nogil:
    """Unmap and unlink file number i. Under check_lock and index_lock."""
    cdef char path[PATH_BYTES]
    cdef IndexFile* x = e.index[i]
    index_path(e, x, path)
    e.files.unlink(&e.files, FILE_INDEX, path)
    index_close(x)
    memmove(&e.index[i], &e.index[i + 1], (e.index_count - 1 - i) * sizeof(IndexFile*))
    e.index_count -= 1


cdef void index_close(IndexFile* x) noexcept nogil:
    if x.map != NULL:
        munmap(x.map, x.length)
    if x.fd >= 0:
        close_fd(x.fd)
    free(x)


cdef int index_truncate(Engine* e, IndexFile* x, int64_t start) noexcept nogil:
    """Keep the entries of records below `start` and build the slots anew from them.

    The entries themselves are the truth: what the slots, the chains and the header say of them after a crash may come
    from any moment. Entries stand in log order, so the first that is not in order is the end too.
    """
    cdef int64_t number, offset = -1, previous_offset = -1, slot, count, used = 0, time
    cdef uint8_t* entry
    cdef int status
    if x.fd < 0:
        status = index_writeable(e, x, False)
        if status != ST_OK:
            return status
    count = e.index_entries             # the header may be older than the entries: let the entries say
    memset(index_slot(e, x, 0), 0, e.index_slots * 4)
    number = 1
    while number < count:
        entry = index_entry(e, x, number)
        offset = get64(entry + 4)
        if offset >= start or offset < previous_offset or (offset == 0 and get32(entry) == 0):
            break
        previous_offset = offset
        slot = (get32(entry) & 0x7FFFFFFF) % e.index_slots
        if <int32_t> get32(entry + 16) != <int32_t> get32(index_slot(e, x, slot)):
            put32(entry + 16, get32(index_slot(e, x, slot)))
        if get32(index_slot(e, x, slot)) == 0:
            used += 1
        put32(index_slot(e, x, slot), <uint32_t> number)
        number += 1
    put32(x.map + X_COUNT, <uint32_t> number)
    put32(x.map + X_SLOTS_USED, <uint32_t> used)
    if number > 1:
        time = get64(x.map + X_BEGIN_TIME) + (<int64_t> get32(index_entry(e, x, number - 1) + 12) + 1) * 1000 - 1
        put64(x.map + X_END_OFFSET, previous_offset)
        put64(x.map + X_END_TIME, time)     # the last moment it may stand for
    elif get64(x.map + X_END_OFFSET) > start:
        put64(x.map + X_END_OFFSET, start)  # nothing of what the header tells of is left
    x.dirty = True
    return ST_OK


cdef void index_loop(Engine* e) noexcept nogil:
    """Until told to stop: follow the log, and make a checkpoint now and then.

    After about a second without news it sleeps until an append wakes it, so that an idle broker stays idle and a busy
    one is not bothered with a wake-up per turn.
    """
    cdef int64_t did, quiet = 0, last_check = monotonic_ms(), took = 0, now
    while True:
        did = index_follow(e, 1 << 20)
        now = monotonic_ms()
        if now - last_check >= max(e.queue_flush_ms, 10 * took) and checkpoint_due(e):
            checkpoint_once(e)
            last_check = monotonic_ms()
            took = last_check - now
        pthread_mutex_lock(&e.lock)
        if e.stopping:
            pthread_mutex_unlock(&e.lock)
            return
        if did <= 0:
            quiet += 1
            if quiet > 100 and not checkpoint_due_locked(e):
                e.index_waiting = True
                wait_ms(&e.index_wake, &e.lock, 10_000)
                e.index_waiting = False
            else:
                wait_ms(&e.index_wake, &e.lock, 10)
        else:
            quiet = 0
        pthread_mutex_unlock(&e.lock)
