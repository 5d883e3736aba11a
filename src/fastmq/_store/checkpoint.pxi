# The checkpoint: make queues and index durable up to where they are, then note that place.
#
# Order: (1) note the place D under the lock; (2) fdatasync queue files, directories and index; (3) fdatasync the log up to D;
# (4) write the note and fdatasync it. A crash between any two leaves the old note, which stays true: queues and index
# only ever grow past it. A queue file that could not be synced stops the note from moving for good (the pages may be
# gone from memory); recovery then rebuilds from the log, beginning at the old note.
#
# RocketMQ's five longs stand in the same file, so that Apache's broker finds what it needs, and a CRC over both parts
# tells us afterwards whether Apache's broker wrote them since: then our note is not believed.

cdef bint checkpoint_due_locked(Engine* e) noexcept nogil:
    return e.durable_queues < e.dispatched or e.durable_index < e.indexed


cdef bint checkpoint_due(Engine* e) noexcept nogil:
    cdef bint due
    pthread_mutex_lock(&e.lock)
    due = checkpoint_due_locked(e) and not e.failed
    pthread_mutex_unlock(&e.lock)
    return due


cdef int64_t sum_of_ends(Engine* e) noexcept nogil:
    """The ends of all queues that we write, added up."""
    cdef int64_t i, total = 0
    for i in range(e.queue_count):
        if not (<QueueFiles*> e.queues[i].files).batch:
            total += e.queues[i].max_offset
    return total


cdef int sync_queues(Engine* e, int* fds, int64_t fd_count, bint whole) noexcept nogil:
    """Sync queue files by descriptor, or the file system as a whole. 0 or -1.

    As a whole when there are many, and when names are new: those would need an fsync of three directories each.
    """
    cdef int64_t i
    cdef int result = 0
    if whole:
        if e.files.syncfs(&e.files, FILE_DIRECTORY, e.root_fd) != 0:
            note_error(e, e.root)
            result = -1
        for i in range(2):
            if e.away_fds[i] >= 0 and e.files.syncfs(&e.files, FILE_DIRECTORY, e.away_fds[i]) != 0:
                note_error(e, e.root)
                result = -1
    else:
        for i in range(fd_count):
            if e.files.fdatasync(&e.files, FILE_QUEUE, fds[i]) != 0:
                note_error(e, e.root)
                result = -1
    for i in range(fd_count):
        close_fd(fds[i])
    return result


cdef int checkpoint_write(Engine* e, int64_t queues, int64_t indexed, int64_t entries, int64_t time) noexcept nogil:
    """Write the note. 0 or -1 with the error noted. Under check_lock."""
    cdef uint8_t page[CHECK_BYTES]
    cdef char path[PATH_BYTES]
    memcpy(page, e.check, CHECK_BYTES)
    if time > 0:
        put64(page + CHECK_LOG_TIME, time)
        put64(page + CHECK_QUEUE_TIME, time)
    put64(page + CHECK_INDEX_TIME, max(get64(page + CHECK_INDEX_TIME), e.index_full_time))
    memcpy(page + CHECK_MAGIC, CHECK_MAGIC_TEXT, 8)
    put64(page + CHECK_QUEUES, queues)
    put64(page + CHECK_QUEUES_NOT, ~queues)
    put64(page + CHECK_INDEXED, indexed)
    put64(page + CHECK_ENTRIES, entries)
    put64(page + CHECK_CRC, e.crc(0, page, CHECK_CRC))
    if (e.files.pwrite(&e.files, FILE_CHECKPOINT, e.check_fd, page, CHECK_BYTES, 0) != CHECK_BYTES
            or e.files.fdatasync(&e.files, FILE_CHECKPOINT, e.check_fd) != 0):
        snprintf(path, PATH_BYTES, "%s/checkpoint", e.root)
        note_error(e, path)
        return -1
    memcpy(e.check, page, CHECK_BYTES)
    e.durable_queues = queues
    e.durable_index = indexed
    e.n_checkpoints += 1
    return 0


cdef int checkpoint_once(Engine* e) noexcept nogil:
    """One checkpoint. 0, or -1 if it could not be made (the old one stays valid)."""
    cdef int status
    pthread_mutex_lock(&e.check_lock)
    status = checkpoint_held(e)
    pthread_mutex_unlock(&e.check_lock)
    return status


cdef int checkpoint_held(Engine* e) noexcept nogil:
    """A checkpoint, under check_lock."""
    cdef int* fds
    cdef int64_t count = 0, i, queues, indexed, entries, time, target, full_time = 0
    cdef bint whole
    cdef QueueFiles* f
    cdef IndexFile* x
    cdef char path[PATH_BYTES]
    cdef int result = 0
    cdef int error

    # (1) where we are, and what has to be synced for it; the index first, since its lock is outside the store's
    pthread_mutex_lock(&e.index_lock)
    indexed = e.indexed
    for i in range(e.index_count):
        if e.index[i].dirty and index_entries_in(e, e.index[i]) >= e.index_entries:
            full_time = max(full_time, get64(e.index[i].map + X_END_TIME))
    pthread_mutex_unlock(&e.index_lock)
    pthread_mutex_lock(&e.lock)
    if e.queue_sync_failed or e.failed:
        pthread_mutex_unlock(&e.lock)
        return -1
    queues = e.dispatched
    time = e.last_time if queues >= e.written else min(e.last_time, e.flushed_time)
    entries = sum_of_ends(e) if e.touched_count == 0 else -1
    whole = e.sync_whole or e.dirty_count > 32
    fds = <int*> malloc(33 * sizeof(int))
    if fds == NULL:
        pthread_mutex_unlock(&e.lock)
        return -1
    for i in range(e.dirty_count):
        f = <QueueFiles*> e.dirty[i].files
        f.dirty = False
        if f.new_files:
            whole = True
            f.new_files = False
        if f.fd >= 0 and not whole:
            fds[count] = dup_fd(f.fd)
            if fds[count] < 0:
                whole = True      # no descriptor to spare: sync them all
            else:
                count += 1
    e.dirty_count = 0
    e.sync_whole = False
    pthread_mutex_unlock(&e.lock)

    # (2) queues and index
    if sync_queues(e, fds, count, whole) != 0:
        result = -1
    free(fds)
    if result != 0:
        pthread_mutex_lock(&e.lock)
        e.queue_sync_failed = True
        pthread_mutex_unlock(&e.lock)
        return -1
    i = 0
    while True:                         # files are added at the end only, and removed only under check_lock
        pthread_mutex_lock(&e.index_lock)
        x = e.index[i] if i < e.index_count else NULL
        pthread_mutex_unlock(&e.index_lock)
        if x == NULL:
            break
        i += 1
        if x.dirty and x.fd >= 0:
            x.dirty = False
            if (e.files.msync(&e.files, FILE_INDEX, x.map, x.length) != 0
                    or e.files.fdatasync(&e.files, FILE_INDEX, x.fd) != 0):
                index_path(e, x, path)
                note_error(e, path)
                e.queue_sync_failed = True
                return -1
    if indexed > e.durable_index and i:
        snprintf(path, PATH_BYTES, "%s/index", e.root)
        if sync_directory(e, path) != 0:
            return -1

    # (3) the log up to there
    target = max(queues, indexed)
    if load64(&e.flushed) < target and flush_once(e) < 0:
        return -1

    # (4) the note
    e.index_full_time = max(e.index_full_time, full_time)
    return checkpoint_write(e, queues, indexed, entries, time)
