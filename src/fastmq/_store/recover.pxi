# Opening a store: load what is there, find the place from which queues and index may be incomplete, go over the log from
# there, and cut what is not a record. No timestamp alone is ever trusted.
#
# Where the scan of the log starts:
#   our note in `checkpoint` is valid      at the note: below it the queues are complete and durable
#   clean exit of Apache's broker          at the newest log file that begins at or before the end of the queues
#   crash of Apache's broker               the same, or an older file that begins before checkpoint.minTimestamp
#   no consume queue at all                at the beginning of the log
#
# What the scan does with a record whose queue offset is
#   the queue's end           adds the entry
#   below the end             nothing if that entry is this record or a later one (the topic was made anew since);
#                             otherwise the queue is wrong from there on: it is cut there and goes on with this record
#   0, later than the end     the topic was deleted and made again: the queue begins anew
#   beyond the end            queue files are missing: everything is rebuilt from the beginning of the log, once;
#                             what is missing then too is missing in the log, and blank entries keep the numbers right

cdef enum:
    SCAN_DONE = 0
    SCAN_GAP = -100

cdef struct Scan:
    int64_t at                  # where it stopped: the end of the log
    int64_t records
    int64_t added
    int64_t cuts
    int64_t last_time
    const char* reason


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


cdef int recover_entry(Engine* e, Record* r, int64_t tags_code, bint ext, bint rebuilding, Scan* scan) noexcept nogil:
    """What the table at the top says."""
    cdef Topic* topic = topic_get(e, <const char*> r.topic, r.topic_len)
    cdef Queue* q = queue_get(e, topic, r.queue_id) if topic != NULL else NULL
    cdef int64_t end, last
    if q == NULL:
        return ST_OK if topic != NULL and (r.queue_id < 0 or r.queue_id >= MAX_QUEUE_ID) else ST_NO_MEMORY
    if (<QueueFiles*> q.files).batch or r.queue_offset < 0:
        return ST_OK
    end = queue_end(q)
    last = queue_last_log(q)
    if r.queue_offset != end and last >= r.log_offset and (
            r.queue_offset > end or queue_log_at(e, q, r.queue_offset) >= r.log_offset):
        return ST_OK
    if r.queue_offset != end and (r.queue_offset < end or r.queue_offset == 0):
        write_touched(e, 0)
        if e.touched_count or queue_cut(e, q, r.queue_offset) != 0:
            return ST_IO_ERROR
        scan.cuts += 1
    elif r.queue_offset > end:
        if not rebuilding:
            return SCAN_GAP
        if (<QueueFiles*> q.files).first_base < 0 and (<QueueFiles*> q.files).unwritten_count == 0:
            store64(&q.max_offset, r.queue_offset)
            store64(&q.min_offset, r.queue_offset)
            (<QueueFiles*> q.files).tail_from = r.queue_offset
        elif r.queue_offset - end <= 1_000_000:
            while end < r.queue_offset:
                if not entry_add(e, q, 0, BLANK_SIZE, 0):
                    return ST_NO_MEMORY
                end += 1
        else:
            write_touched(e, 0)
            if e.touched_count or queue_cut(e, q, 0) != 0:
                return ST_IO_ERROR
            store64(&q.max_offset, r.queue_offset)
            store64(&q.min_offset, r.queue_offset)
            (<QueueFiles*> q.files).tail_from = r.queue_offset
    if ext:
        tags_code = ext_add(e, q, tags_code, r.store_time, NULL, 0)
    if not entry_add(e, q, r.log_offset, r.size, tags_code):
        return ST_NO_MEMORY
    q.next_offset = r.queue_offset + 1
    scan.added += 1
    return ST_OK


cdef int recover_scan(Engine* e, int64_t start, int64_t dispatch_from, bint rebuilding, Scan* scan) noexcept nogil:
    """Go over the log from `start`; records at or after dispatch_from get their queue entries."""
    cdef int64_t i, at, room
    cdef Segment* s
    cdef Record r
    cdef int kind, status
    cdef int64_t tags_code
    cdef int64_t since_write = 0
    cdef uint8_t* p
    scan.at = start
    scan.reason = "the last file is full"
    i = (start - e.run[0].base) // e.segment_bytes
    while i < e.run_count:
        s = e.run[i]
        madvise(s.map, s.length, MADV_SEQUENTIAL)
        madvise(s.map, s.length, MADV_WILLNEED)
        at = scan.at - s.base
        kind = 1
        while at <= s.length - FILLER_BYTES:
            p = s.map + at
            room = s.length - at
            kind = parse_record(p, room, &r)
            if kind == 0 and r.size != room:
                kind = -1
                scan.reason = "a filler of a wrong length"
                break
            if kind < 0:
                scan.reason = "no record" if get32(p) == 0 and get32(p + 4) == 0 else "a malformed record"
            elif kind == 1 and r.log_offset != s.base + at:
                kind = -1
                scan.reason = "a record that belongs elsewhere"
            elif kind == 1 and e.check_crc and (e.crc(0, r.body, r.body_len) & 0x7FFFFFFF) != r.body_crc:
                kind = -1
                scan.reason = "a body that does not match its CRC"
            if kind != 1:
                break
            scan.records += 1
            if r.store_time > scan.last_time:
                scan.last_time = r.store_time
            if s.base + at >= dispatch_from and not (r.sys_flag & SYS_INNER_BATCH) and (
                    (r.sys_flag & SYS_TRANSACTION) != SYS_PREPARED and (r.sys_flag & SYS_TRANSACTION) != SYS_ROLLBACK):
                tags_code = tags_code_of(r.properties, r.properties_len)
                if r.topic_len == 19 and memcmp(r.topic, SCHEDULE_TOPIC, 19) == 0:
                    tags_code = schedule_code(e, r.properties, r.properties_len, r.store_time, tags_code)
                status = recover_entry(e, &r, tags_code, e.ext_enabled, rebuilding, scan)
                if status == ST_OK and e.lmq_turn != NULL:
                    status = lmq_recover(e, &r, tags_code, rebuilding, scan)
                if status != ST_OK:
                    scan.at = s.base + at
                    return status
                since_write += 1
                if since_write >= 200_000:
                    since_write = 0
                    write_touched(e, 0)
                    if e.touched_count:
                        return ST_IO_ERROR
            at += r.size
        madvise(s.map, s.length, MADV_NORMAL)
        if kind == 0:
            at = s.length
        scan.at = s.base + at
        if kind < 0:
            break
        if at < s.length:
            # less than a filler's length is left: no record can end there, the file ends in the middle of nothing
            scan.reason = "a file that ends without filler"
            break
        i += 1
    write_touched(e, 0)
    return ST_OK if e.touched_count == 0 else ST_IO_ERROR


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


# --- the walk, in Python ----------------------------------------------------------------------------------------

cdef list numbered_files(str directory, int64_t size):
    """(base, path) of the files of a directory in order. Raises StoreError for a stray name, length or hole.

    An empty last file is what a crash between creating and extending leaves: it is removed.
    """
    found = []
    try:
        with os.scandir(directory) as entries:
            names = sorted((entry.name, entry.path) for entry in entries if not entry.is_dir())
    except FileNotFoundError:
        return found
    for i, (name, path) in enumerate(names):
        length = os.stat(path).st_size
        if length == 0 and i == len(names) - 1:
            os.unlink(path)
            continue
        if not (name.isascii() and name.isdigit()):
            raise StoreError(f"{path}: the name is not a number; such a file does not belong here")
        if length != size:
            raise StoreError(f"{path}: {length} bytes where the configured file size is {size}")
        base = int(name)
        if base % size or base > (1 << 62):
            raise StoreError(f"{path}: the name is not a multiple of the file size {size}")
        if found and base != found[len(found) - 1][0] + size:
            raise StoreError(f"{path}: the file before it should begin at {base - size}, but that one is missing")
        found.append((base, path))
    return found


cdef int load_segments(Engine* e, list log) except -1:
    cdef Segment* s
    cdef int64_t base
    cdef int status = ST_OK
    for base, path in numbered_files(os.fsdecode(e.log_path), e.segment_bytes):
        with nogil:
            s = segment_open(e, base, False, &status)
            if s != NULL:
                status = run_append(e, s)
        check(e, status, "cannot open the commit log file")
    if e.run_count:
        e.next_base = e.run[e.run_count - 1].base + e.segment_bytes
        store64(&e.written, e.next_base)        # readers may look at all of it while we recover
    return 0


cdef int load_queues(Engine* e, list log, dict last_bases) except -1:
    """Make a Queue for every queue directory; last_bases[index in e.queues] = base of its newest file."""
    cdef Topic* topic
    cdef Queue* q
    cdef QueueFiles* f
    cdef bytes name
    cdef int32_t queue_id
    root = os.fsdecode(e.root)
    for kind, size, entry_bytes in (("consumequeue", e.queue_file_bytes, ENTRY_BYTES), ("batchconsumequeue", 0, BATCH_ENTRY_BYTES)):
        top = os.path.join(root, kind)
        if not os.path.isdir(top):
            continue
        for topic_name in sorted(os.listdir(top)):
            folder = os.path.join(top, topic_name)
            name = os.fsencode(topic_name)
            if not os.path.isdir(folder) or not 0 < len(name) <= MAX_TOPIC:
                continue
            for id_name in sorted(os.listdir(folder)):
                directory = os.path.join(folder, id_name)
                if not (id_name.isascii() and id_name.isdigit() and len(id_name) <= 7) or int(id_name) >= MAX_QUEUE_ID:
                    continue
                queue_id = int(id_name)
                if kind == "consumequeue":
                    files = numbered_files(directory, size)
                else:
                    files = batch_files(directory)
                if not files:
                    continue
                topic = topic_get(e, name, len(name))
                q = queue_get(e, topic, queue_id) if topic != NULL else NULL
                if q == NULL:
                    raise MemoryError
                f = <QueueFiles*> q.files
                if kind == "consumequeue":
                    f.first_base = files[0][0]
                    load_ext(e, q)
                    if e.lmq_turn != NULL and lmq_topic(name, len(name)):
                        e.lmq_count += 1
                    last_bases[e.queue_count - 1] = files[len(files) - 1][0]
                else:
                    f.batch = True
                    load_batch_ends(q, files)
    return 0


cdef int load_ext(Engine* e, Queue* q) except -1:
    """Note which ext files the queue has. Files of another length are an error only if we are to write some."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    directory = os.path.join(os.fsdecode(e.root), "consumequeue_ext", (<bytes> q.topic.name).decode(), str(q.queue_id))
    if not os.path.isdir(directory):
        return 0
    try:
        files = numbered_files(directory, e.ext_file_bytes)
    except StoreError:
        if e.ext_enabled:
            raise
        return 0
    if files:
        f.ext_first, f.ext_last = files[0][0], files[len(files) - 1][0]
    return 0


cdef list batch_files(str directory):
    """Files of a batch queue, whose size is the broker's business: any multiple of 46 bytes."""
    return [(int(name), os.path.join(directory, name)) for name in sorted(os.listdir(directory)) if name.isdigit()]


cdef list read_batch_entries(list files):
    """(log offset, size, tags code, store time, base offset, batch size) of the valid entries of a batch queue."""
    found = []
    end = 0
    for _base, path in files:
        with open(path, "rb") as stream:
            data = stream.read()
        for at in range(0, len(data) - BATCH_ENTRY_BYTES + 1, BATCH_ENTRY_BYTES):
            offset, size, tags, time, first, count = struct.unpack_from(">qiqqqh", data, at)
            if offset < 0 or size <= 0 or first < 0 or count <= 0 or first < end:
                return found
            end = first + count
            found.append((offset, size, tags, time, first, count))
    return found


cdef int load_batch_ends(Queue* q, list files) except -1:
    entries = read_batch_entries(files)
    if entries:
        q.min_offset = entries[0][4]
        _offset, _size, _tags, _time, first, count = entries[len(entries) - 1]
        q.max_offset = q.next_offset = first + count
    return 0


cdef int load_index(Engine* e, list log) except -1:
    """Map the index files, newest last."""
    cdef IndexFile* x
    cdef int fd
    cdef bytes path
    folder = os.path.join(os.fsdecode(e.root), "index")
    if not os.path.isdir(folder):
        return 0
    names = sorted(name for name in os.listdir(folder) if name.isascii() and name.isdigit())
    size = index_file_bytes(e)
    for i, name in enumerate(names):
        full = os.path.join(folder, name)
        length = os.stat(full).st_size
        if length == 0 and i == len(names) - 1:
            os.unlink(full)
            continue
        if length != size:
            raise StoreError(f"{full}: {length} bytes where {size} are configured (maxHashSlotNum, maxIndexNum)")
        if len(name) > 40:
            continue
        if e.index_count == e.index_room:
            if not room_for(<void***> &e.index, e.index_room, e.index_room + 64):
                raise MemoryError
            e.index_room += 64
        x = <IndexFile*> calloc(1, sizeof(IndexFile))
        if x == NULL:
            raise MemoryError
        path = os.fsencode("index/" + name)
        memcpy(x.path, <const char*> path, len(path) + 1)
        x.fd = -1
        path = os.fsencode(full)
        fd = e.files.open(&e.files, FILE_INDEX, path, O_RDONLY)
        if fd >= 0:
            x.length = size
            x.map = <uint8_t*> e.files.mmap(&e.files, FILE_INDEX, fd, size, False)
        if fd < 0 or x.map == NULL:
            note_error(e, path)
            if fd >= 0:
                close_fd(fd)
            free(x)
            raise store_error(e, "cannot open the index file")
        close_fd(fd)
        e.index[e.index_count] = x
        e.index_count += 1
    return 0


cdef int load_checkpoint(Engine* e, list log) except -1:
    """Read `checkpoint`, made if missing. Anything unreadable in it counts as absent."""
    cdef bytes path = e.root + b"/checkpoint"
    e.check_fd = e.files.open(&e.files, FILE_CHECKPOINT, path, O_RDWR | O_CREAT)
    if e.check_fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot open")
    if os.fstat(e.check_fd).st_size < CHECK_FILE_BYTES:
        if e.files.ftruncate(&e.files, FILE_CHECKPOINT, e.check_fd, CHECK_FILE_BYTES) != 0:
            note_error(e, path)
            raise store_error(e, "cannot extend")
    memset(e.check, 0, CHECK_BYTES)
    if e.files.pread(&e.files, FILE_CHECKPOINT, e.check_fd, e.check, CHECK_BYTES, 0) != CHECK_BYTES:
        note_error(e, path)
        raise store_error(e, "cannot read")
    e.durable_queues = e.durable_index = -1
    if memcmp(e.check + CHECK_MAGIC, CHECK_MAGIC_TEXT, 8) != 0:
        return 0
    if get64(e.check + CHECK_QUEUES_NOT) != ~get64(e.check + CHECK_QUEUES):
        log.append(f"{os.fsdecode(path)}: offset {CHECK_MAGIC}: our note is damaged, not used")
    elif get64(e.check + CHECK_CRC) != <int64_t> e.crc(0, e.check, CHECK_CRC):
        log.append(f"{os.fsdecode(path)}: offset 0: changed by another broker since our note, which is not used")
    else:
        e.durable_queues = get64(e.check + CHECK_QUEUES)
        e.durable_index = get64(e.check + CHECK_INDEXED)
    return 0


cdef int64_t start_by_files(Engine* e, int64_t queues_end, int64_t before_time) noexcept nogil:
    """RocketMQ's choice: the newest file whose first record is below queues_end and (time >= 0) not after before_time."""
    cdef int64_t i = e.run_count - 1
    cdef Record r
    while i > 0:
        if parse_record(e.run[i].map, e.segment_bytes, &r) == 1 and r.log_offset == e.run[i].base and r.store_time != 0:
            if r.log_offset <= queues_end and (before_time < 0 or r.store_time <= before_time):
                break
        i -= 1
    return e.run[i].base


cdef int recover(Engine* e, bint crashed, list log) except -1:
    """Bring log, queues and index into one state. `log` gets a sentence for everything that was found and done."""
    cdef int64_t i, start, begin, capacity, queues_end = -1, dispatch_from, before_time, last_base
    cdef bint noted, rebuilding = False
    cdef int status
    cdef Scan scan
    cdef Queue* q
    cdef QueueFiles* f
    cdef dict last_bases = {}
    load_segments(e, log)
    load_queues(e, log, last_bases)
    load_checkpoint(e, log)
    load_index(e, log)
    memset(&scan, 0, sizeof(scan))
    scan.reason = "nothing"
    begin = e.run[0].base if e.run_count else 0
    capacity = e.written
    if not e.run_count and e.durable_queues > 0 and e.durable_queues % e.segment_bytes == 0:
        begin = capacity = e.durable_queues      # the log ended with a file, and the next had not begun
        store64(&e.written, begin)
    noted = 0 <= e.durable_queues <= capacity
    if e.durable_queues > capacity:
        log.append(f"{os.fsdecode(e.root)}/checkpoint: offset {CHECK_QUEUES}: says {e.durable_queues}, "
                   f"but the log has room for {capacity} only; not used")
    if crashed:
        log.append(f"{os.fsdecode(e.root)}/abort: offset 0: the last exit was not clean")
    if not noted:
        e.durable_queues = e.durable_index = -1

    # the queues as they are
    limit = e.durable_queues if noted else -1
    for number, base in last_bases.items():
        q = e.queues[<int64_t> number]
        last_base = base
        start = limit
        with nogil:
            status = queue_settle(e, q, last_base, start)
        if status != 0:
            raise store_error(e, "cannot read the consume queue")
        f = <QueueFiles*> q.files
        if f.last_log_offset >= 0:
            queues_end = max(queues_end, f.last_log_offset)

    if e.run_count:
        before_time = max(0, min(get64(e.check + CHECK_LOG_TIME), get64(e.check + CHECK_QUEUE_TIME)) - 3000) if crashed else -1
        if noted and get64(e.check + CHECK_ENTRIES) not in (-1, sum_of_ends(e)):
            log.append(f"{os.fsdecode(e.root)}/consumequeue: offset {e.durable_queues}: the queues hold {sum_of_ends(e)} entries "
                       f"and held {get64(e.check + CHECK_ENTRIES)} when they were complete; rebuilt from the log")
            start = dispatch_from = begin
            crashed = True
        elif noted:
            start = dispatch_from = max(e.durable_queues, begin)
        elif queues_end < 0:
            start = dispatch_from = begin
            rebuilding = True
        else:
            start = start_by_files(e, queues_end, before_time)
            dispatch_from = start if crashed else max(start, queues_end + 1)
        if start == begin and dispatch_from == begin:
            rebuilding = True           # there is nothing before it that could be missing
        if crashed:
            with nogil:
                status = cut_queues(e, start, True)
            if status != 0:
                raise store_error(e, "cannot cut the consume queue")
        while True:
            with nogil:
                status = recover_scan(e, start, dispatch_from, rebuilding, &scan)
            if status != SCAN_GAP or rebuilding:
                break
            log.append(f"{os.fsdecode(e.log_path)}: offset {scan.at}: its queue ends before this record; "
                       "all queues are rebuilt from the log")
            e.touched_count = forget_unwritten(e)
            if cut_queues(e, begin, True) != 0:
                raise store_error(e, "cannot cut the consume queue")
            start = dispatch_from = begin
            rebuilding = True
            memset(&scan, 0, sizeof(scan))
        check(e, status, "cannot write the consume queues during recovery")
        if not noted or crashed or scan.records:
            report_scan(e, start, &scan, log)
        with nogil:
            status = 0
            if not noted:
                status = cut_queues(e, scan.at, False)
            if status == 0 and not (noted and not crashed and scan.records == 0 and tail_is_clear(e, scan.at)):
                status = cut_log(e, scan.at)
        if status != 0:
            raise store_error(e, "cannot cut")
        store64(&e.written, scan.at)
        begin = e.run[0].base if e.run_count else scan.at
        e.next_base = (e.run[e.run_count - 1].base + e.segment_bytes) if e.run_count else begin
    else:
        start = scan.at = e.written
        for i in range(e.queue_count):
            f = <QueueFiles*> e.queues[i].files
            if not noted and not f.batch and f.first_base >= 0:
                if queue_cut(e, e.queues[i], 0) != 0:
                    raise store_error(e, "cannot remove the consume queue")
                log.append(f"{os.fsdecode(e.root)}/consumequeue: offset 0: the log is empty; queue removed")
    with nogil:
        for i in range(e.queue_count):
            queue_correct_min(e, e.queues[i], begin)
            if e.queues[i].next_offset < e.queues[i].max_offset:
                e.queues[i].next_offset = e.queues[i].max_offset
    e.pend_head = e.pend_tail = 0
    e.queue_error = False
    e.last_time = max(scan.last_time, last_time_in(e, begin))
    e.flushed_time = e.last_time
    store64(&e.dispatched, e.written)
    store64(&e.flushed, e.written if not crashed else min(start, e.written))
    recover_index(e, crashed, noted, begin, log)
    if crashed and e.sync_flush:
        with nogil:
            status = flush_segments(e, e.flushed, e.written)
        if status != 0:
            raise store_error(e, "cannot sync the recovered log")
        store64(&e.flushed, e.written)
    for i in range(e.run_count - 1):
        if e.run[i].base + e.segment_bytes <= e.flushed and e.run[i].fd >= 0:
            close_fd(e.run[i].fd)
            e.run[i].fd = -1
    if noted:
        e.durable_queues = min(e.durable_queues, e.written)
        e.durable_index = min(e.durable_index, e.written)
    return 0


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


cdef bint tail_is_clear(Engine* e, int64_t end) noexcept nogil:
    """Whether `end` lies in the last file and no record header stands there."""
    cdef Segment* s = e.run[e.run_count - 1]
    if end < s.base or end > s.base + s.length:
        return False
    return end + FILLER_BYTES > s.base + s.length or get64(s.map + (end - s.base)) == 0


cdef int report_scan(Engine* e, int64_t start, Scan* scan, list log) except -1:
    base = scan.at - scan.at % e.segment_bytes
    log.append(f"{os.fsdecode(e.log_path)}/{base:020d}: offset {scan.at}: {scan.records} records from {start} on, "
               f"{scan.added} queue entries added; the log ends here: {scan.reason.decode()}")
    if scan.cuts:
        log.append(f"{os.fsdecode(e.root)}/consumequeue: offset {scan.at}: {scan.cuts} queues did not match the log "
                   "and were cut where they began to differ")
    return 0


cdef int64_t last_time_in(Engine* e, int64_t begin) noexcept nogil:
    """Store time of the newest record any queue knows of."""
    cdef int64_t i, newest = -1, time = 0
    cdef QueueFiles* f
    cdef Segment* s
    cdef Record r
    for i in range(e.queue_count):
        f = <QueueFiles*> e.queues[i].files
        newest = max(newest, f.last_log_offset)
    s = run_find(e, newest) if newest >= begin else NULL
    if s != NULL and parse_record(s.map + (newest - s.base), s.base + s.length - newest, &r) == 1:
        time = r.store_time
    return time


cdef int recover_index(Engine* e, bint crashed, bint noted, int64_t begin, list log) except -1:
    """Decide from where the index has to follow the log; after a crash, drop what cannot be trusted."""
    cdef IndexFile* x
    cdef int64_t keep_below, trusted_time = get64(e.check + CHECK_INDEX_TIME)
    cdef int status
    e.index_full_time = trusted_time
    e.index_skip = -1
    if not e.index_enabled:
        store64(&e.indexed, e.written)
        return 0
    # no file at all: either there was never a key, or somebody took the folder away. Looking costs a background scan.
    keep_below = e.durable_index if noted and e.durable_index >= 0 and e.index_count else -1
    while crashed and e.index_count:
        x = e.index[e.index_count - 1]
        if keep_below < 0 and get64(x.map + X_END_TIME) > trusted_time:
            log.append(f"{os.fsdecode(e.root)}/{x.path.decode()}: offset 0: newer than the checkpoint; removed, "
                       "its keys are taken from the log again")
        elif keep_below >= 0 and get64(index_entry(e, x, 1) + 4) >= keep_below:
            log.append(f"{os.fsdecode(e.root)}/{x.path.decode()}: offset 0: begins at {keep_below} or later; removed, "
                       "its keys are taken from the log again")
        else:
            break
        index_remove(e, e.index_count - 1)
    if keep_below < 0:
        keep_below = get64(e.index[e.index_count - 1].map + X_END_OFFSET) if e.index_count else begin
        if not crashed and e.index_count:
            e.index_skip = keep_below
    keep_below = min(max(keep_below, begin), e.written)
    if e.index_count and (crashed or get64(e.index[e.index_count - 1].map + X_END_OFFSET) >= e.written):
        x = e.index[e.index_count - 1]
        with nogil:
            status = index_truncate(e, x, keep_below)
        check(e, status, "cannot repair the index file")
        log.append(f"{os.fsdecode(e.root)}/{x.path.decode()}: offset {X_HEADER}: slots rebuilt from "
                   f"{index_entries_in(e, x) - 1} entries below {keep_below}")
    store64(&e.indexed, keep_below)
    return 0


cdef int open_store(Store self) except -1:
    """Lock, load, recover, create `abort`."""
    cdef Engine* e = <Engine*> self.engine
    cdef bytes path
    os.makedirs(os.fsdecode(e.log_path), exist_ok=True)
    os.makedirs(os.path.join(self.root, "consumequeue"), exist_ok=True)
    lock_store(self)
    abort = os.path.join(self.root, "abort")
    recover(e, os.path.exists(abort), self.recovery_log)
    path = os.fsencode(abort)
    fd = e.files.open(&e.files, FILE_ABORT, path, O_RDWR | O_CREAT | O_TRUNC)
    if fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot create")
    pid = str(os.getpid()).encode()
    done = e.files.pwrite(&e.files, FILE_ABORT, fd, <const char*> pid, len(pid), 0) == <ssize_t> len(pid)
    done = done and e.files.fsync(&e.files, FILE_ABORT, fd) == 0
    if not done:
        note_error(e, path)
    close_fd(fd)
    if not done:
        raise store_error(e, "cannot write")
    if sync_directory(e, e.root) != 0:
        raise store_error(e, "cannot sync")
    e.last_flush_ms = monotonic_ms()
    e.opened = True
    return 0


cdef int lock_store(Store self) except -1:
    """Keep everybody else out: another fastmq, a Java broker, and a second Store of this very process.

    Java locks byte 0 of `lock` with a record lock, so that is what we take. Record locks belong to a process: a
    second Store here would get it too, and worse, closing its descriptor would drop ours. So a flock on the
    directory comes first; that one belongs to the open file and tells two Stores of one process apart, and
    who fails there has not touched `lock` yet.
    """
    cdef Engine* e = <Engine*> self.engine
    cdef bytes path = e.root
    e.root_fd = e.files.open(&e.files, FILE_DIRECTORY, path, O_RDONLY | O_DIRECTORY)
    if e.root_fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot open")
    try:
        fcntl.flock(e.root_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreLockedError(f"{self.root}: another store is open on this directory") from None
    except OSError:
        pass        # a file system without flock: the record lock still keeps other processes out
    path = os.fsencode(os.path.join(self.root, "lock"))
    e.lock_fd = e.files.open(&e.files, FILE_LOCK, path, O_RDWR | O_CREAT)
    if e.lock_fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot open")
    try:
        fcntl.lockf(e.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except OSError as error:
        if error.errno in (EAGAIN, EACCES):
            raise StoreLockedError(f"{self.root}: another process has this directory open") from None
        raise StoreError(f"{self.root}/lock: cannot lock: {error.strerror}") from error
    if e.files.pwrite(&e.files, FILE_LOCK, e.lock_fd, <const char*> b"lock", 4, 0) != 4:
        note_error(e, path)
        raise store_error(e, "cannot write")
    return 0
