# One commit log file, and the ordered run of them: create ahead of time, reserve blocks, find, hold, release.
#
# A segment has its full length from the start (RocketMQ refuses other lengths) but gets its blocks in steps, so that an
# idle broker does not take a gigabyte. It is written through its descriptor and read through a read-only map.

cdef void segment_path(Engine* e, int64_t base, char* path) noexcept nogil:
    snprintf(path, PATH_BYTES, "%s/%020lld", e.log_path, <long long> base)


cdef Segment* segment_open(Engine* e, int64_t base, bint create, int* status) noexcept nogil:
    """Open a segment that exists with its full length, or create it. NULL: see status and the noted error."""
    cdef char path[PATH_BYTES]
    cdef Segment* s = <Segment*> calloc(1, sizeof(Segment))
    cdef int fd, error
    if s == NULL:
        status[0] = ST_NO_MEMORY
        return NULL
    segment_path(e, base, path)
    fd = e.files.open(&e.files, FILE_LOG, path, O_RDWR | (O_CREAT | O_TRUNC if create else 0))
    if fd < 0:
        note_error(e, path)
        status[0] = status_of_errno(e.error_number)
        free(s)
        return NULL
    if not create or e.files.ftruncate(&e.files, FILE_LOG, fd, e.segment_bytes) == 0:
        s.map = <uint8_t*> e.files.mmap(&e.files, FILE_LOG, fd, e.segment_bytes, False)
    if s.map == NULL:
        note_error(e, path)
        status[0] = status_of_errno(e.error_number)
        close_fd(fd)
        if create:
            unlink(path)        # never leave a file of a wrong length behind
        free(s)
        return NULL
    s.base = base
    s.fd = fd
    s.length = e.segment_bytes
    s.references = 1
    status[0] = ST_OK
    if create:
        error = sync_directory(e, e.log_path)
        if error:
            status[0] = status_of_errno(error)
            segment_drop(s)
            unlink(path)
            return NULL
    return s


cdef int sync_directory(Engine* e, const char* path) noexcept nogil:
    """fsync a directory, so that the names in it survive a power loss. 0 or an errno, which is noted."""
    cdef int fd = e.files.open(&e.files, FILE_DIRECTORY, path, O_RDONLY | O_DIRECTORY)
    cdef int error = 0
    if fd < 0 or e.files.fsync(&e.files, FILE_DIRECTORY, fd) != 0:
        note_error(e, path)
        error = e.error_number if e.error_number else EIO
    if fd >= 0:
        close_fd(fd)
    return error


cdef void segment_drop(Segment* s) noexcept nogil:
    """Unmap, close and free. Nobody may refer to it."""
    if s.map != NULL:
        munmap(s.map, s.length)
    if s.fd >= 0:
        close_fd(s.fd)
    free(s)


cdef int segment_reserve(Engine* e, Segment* s, int64_t upto) noexcept nogil:
    """Give the segment blocks up to `upto` bytes from its start. Takes no lock: `allocated` is set by the caller's
    side only to what fallocate has confirmed, and confirming twice does no harm."""
    cdef char path[PATH_BYTES]
    cdef int64_t start = load64(&s.allocated)
    upto = min(upto, s.length)
    if upto <= start or s.fd < 0:
        return ST_OK
    if e.files.fallocate(&e.files, FILE_LOG, s.fd, 0, start, upto - start) != 0:
        if errno != EOPNOTSUPP:
            segment_path(e, s.base, path)
            note_error(e, path)
            return status_of_errno(e.error_number)
    store64(&s.allocated, upto)
    return ST_OK


cdef bint segment_cache(Segment* s, int64_t used) noexcept nogil:
    """Have one more piece of pages ahead of the writer in the page cache, which costs it four times more to make: each
    write gets single pages, a read of blocks that hold nothing yet gets large ones, and nothing comes from the disk.

    True if there was one to make. It is advice: the system may do nothing.
    """
    cdef int64_t start = max(load64(&s.cached), used & ~<int64_t> 4095)
    cdef int64_t end = min(min(start + CACHED_PIECE, used + CACHED_AHEAD), load64(&s.allocated))
    if s.fd < 0 or end <= start:
        return False
    readahead(s.fd, start, end - start)
    store64(&s.cached, end)
    return True


# --- the run --------------------------------------------------------------------------------------------------

cdef int run_append(Engine* e, Segment* s) noexcept nogil:
    cdef int64_t room
    cdef void** grown
    pthread_mutex_lock(&e.seg_lock)
    if e.run_count == e.run_room:
        room = max(<int64_t> e.run_room * 2, 16)
        grown = <void**> realloc(e.run, room * sizeof(void*))
        if grown == NULL:
            pthread_mutex_unlock(&e.seg_lock)
            return ST_NO_MEMORY
        e.run = <Segment**> grown
        e.run_room = <int32_t> room
    e.run[e.run_count] = s
    e.run_count += 1
    pthread_mutex_unlock(&e.seg_lock)
    return ST_OK


cdef Segment* run_find(Engine* e, int64_t log_offset) noexcept nogil:
    """The segment that holds an offset, or NULL. Under lock or seg_lock. The run has no holes (recovery sees to it)."""
    cdef int64_t i
    if e.run_count == 0 or log_offset < e.run[0].base:
        return NULL
    i = (log_offset - e.run[0].base) // e.segment_bytes
    return e.run[i] if i < e.run_count else NULL


cdef Segment* hold(Engine* e, int64_t log_offset, int64_t size) noexcept nogil:
    """Pin the segment that holds these bytes of the log, or NULL if they are not (or no longer) in it."""
    cdef Segment* s = NULL
    if size <= 0 or log_offset < 0 or log_offset > load64(&e.written) - size:
        return NULL
    pthread_mutex_lock(&e.seg_lock)
    s = run_find(e, log_offset)
    if s != NULL:
        if log_offset + size > s.base + s.length:
            s = NULL
        else:
            s.references += 1
    pthread_mutex_unlock(&e.seg_lock)
    return s


cdef Segment* hold_record(Engine* e, int64_t log_offset, int64_t size) noexcept nogil:
    """Pin the segment of the record that a queue entry names, or NULL if none of that size begins there: an entry or a
    page of the log may be damaged, and a consumer must not be sent what it cannot take apart."""
    cdef Segment* s
    cdef const uint8_t* p
    cdef uint32_t magic
    if size < R_FIXED:
        return NULL
    s = hold(e, log_offset, size)
    if s == NULL:
        return NULL
    p = s.map + (log_offset - s.base)
    magic = get32(p + R_MAGIC)
    if <int32_t> get32(p) == size and get64(p + R_LOG_OFFSET) == log_offset and (magic == MAGIC_V1 or magic == MAGIC_V2):
        return s
    release(e, s)
    return NULL


cdef void release(Engine* e, Segment* s) noexcept nogil:
    cdef bint last
    if s == NULL:
        return
    pthread_mutex_lock(&e.seg_lock)
    s.references -= 1
    last = s.references == 0
    pthread_mutex_unlock(&e.seg_lock)
    if last:
        segment_drop(s)


cdef int64_t min_offset(Engine* e) noexcept nogil:
    """First offset of the log. Under lock or seg_lock."""
    return e.run[0].base if e.run_count else e.written


cdef int run_extend(Engine* e) noexcept nogil:
    """Make the segment that begins at `written` part of the run. Under the lock, at the end of the last segment.

    spare_lock is held while a segment file is being made, by the allocator or here: were both to open the same name,
    one would empty what the other has begun to fill.
    """
    cdef int64_t base = e.written - e.written % e.segment_bytes
    cdef Segment* s
    cdef int status = ST_OK
    pthread_mutex_lock(&e.spare_lock)
    s = e.spare
    e.spare = NULL
    if s != NULL and s.base != base:
        segment_discard(e, s)
        s = NULL
    if s == NULL:
        s = segment_open(e, base, True, &status)
        e.n_inline_allocations += 1
    if s != NULL:
        status = run_append(e, s)
        if status != ST_OK:
            segment_drop(s)
        else:
            e.next_base = base + e.segment_bytes
    pthread_mutex_unlock(&e.spare_lock)
    pthread_cond_signal(&e.allocate_wake)
    return status


cdef void segment_discard(Engine* e, Segment* s) noexcept nogil:
    """Remove a segment that was made ahead of time and is not needed."""
    cdef char path[PATH_BYTES]
    segment_path(e, s.base, path)
    segment_drop(s)
    e.files.unlink(&e.files, FILE_LOG, path)


cdef bint cache_step(Engine* e, Segment* s, int64_t used) noexcept nogil:
    """CACHED_STEP more of pages ahead of the writer, in the spare segment if `s` is NULL. True if any were to be made.

    Between its pieces whoever waits for the lock has it: the writer may, where a segment ends.
    """
    cdef Segment* of
    cdef bint more, any = False
    cdef int32_t piece
    for piece in range(CACHED_STEP // CACHED_PIECE):
        pthread_mutex_lock(&e.spare_lock)
        of = s if s != NULL else e.spare
        more = of != NULL and segment_cache(of, used)
        pthread_mutex_unlock(&e.spare_lock)
        if not more:
            break
        any = True
    return any


cdef int64_t allocate_once(Engine* e) noexcept nogil:
    """One step of the allocator: blocks and pages ahead of the writer, the next segment when this one nears its end.

    Returns 1 if it did something. A failure is left for the writer to meet, who can answer it.
    """
    cdef Segment* s
    cdef int64_t used, base
    cdef int status
    cdef int64_t did = 0
    pthread_mutex_lock(&e.lock)
    if e.run_count == 0 or e.closed:
        pthread_mutex_unlock(&e.lock)
        return 0
    pthread_mutex_lock(&e.seg_lock)
    s = e.run[e.run_count - 1]
    s.references += 1
    pthread_mutex_unlock(&e.seg_lock)
    used = e.written - s.base
    base = s.base + s.length
    pthread_mutex_unlock(&e.lock)
    if used < s.length and load64(&s.allocated) < s.length and load64(&s.allocated) - used <= e.allocate_step // 2:
        pthread_mutex_lock(&e.spare_lock)       # keeps the flusher from closing s.fd
        # fallocate holds up the writer of the same file while the file system's journal is busy: the more a segment
        # holds, the less often
        if s.fd >= 0 and segment_reserve(e, s, max(load64(&s.allocated), used) + max(e.allocate_step, used)) == ST_OK:
            did = 1
        pthread_mutex_unlock(&e.spare_lock)
    if used > 0 and s.length - used <= e.allocate_step:
        pthread_mutex_lock(&e.spare_lock)
        if e.spare == NULL and e.next_base == base:
            e.spare = segment_open(e, base, True, &status)
            if e.spare != NULL:
                segment_reserve(e, e.spare, e.allocate_step)
                did = 1
        pthread_mutex_unlock(&e.spare_lock)
        if cache_step(e, NULL, 0):
            did = 1
    if used > 0 and cache_step(e, s, used):
        did = 1
    release(e, s)
    return did
