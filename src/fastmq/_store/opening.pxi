# The first and the last thing done to a store: lock, recover and mark it; make all durable and leave.

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
    path = e.log_path
    e.log_fd = e.files.open(&e.files, FILE_DIRECTORY, path, O_RDONLY | O_DIRECTORY)
    if e.log_fd < 0:
        note_error(e, path)
        raise store_error(e, "cannot open")
    try:
        fcntl.flock(e.log_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)     # storePathCommitLog may name that of another store
    except BlockingIOError:
        raise StoreLockedError(f"{os.fsdecode(e.log_path)}: another store has this commit log open") from None
    except OSError:
        pass
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
    return find_away(self)


cdef int find_away(Store self) except -1:
    """Open the folders of queue files that somebody has moved to another file system: a sync of ours is not theirs."""
    cdef Engine* e = <Engine*> self.engine
    cdef bytes path
    for i, name in enumerate(("consumequeue", "consumequeue_ext")):
        path = os.fsencode(os.path.join(self.root, name))
        if not os.path.isdir(path) or os.stat(path).st_dev == os.fstat(e.root_fd).st_dev:
            continue
        e.away_fds[i] = e.files.open(&e.files, FILE_DIRECTORY, path, O_RDONLY | O_DIRECTORY)
        if e.away_fds[i] < 0:
            note_error(e, path)
            raise store_error(e, "cannot open")
    return 0


cdef int64_t queue_file_limit() except -1:
    """Raise the number of files this process may open as far as it goes; half of them may be queue files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            pass
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(16, soft // 2)


cdef int close_store(Store self, bint clean) except -1:
    """Flush, checkpoint, remove `abort`, unlock. StoreError if something could not be made durable."""
    cdef Engine* e = <Engine*> self.engine
    cdef bint safe = False
    cdef bytes path
    if e.closed or not e.opened:
        return 0
    store_int(&e.closed, 1)
    with nogil:
        pthread_mutex_lock(&e.lock)
        e.stopping = True
        pthread_cond_broadcast(&e.flush_wake)
        pthread_cond_broadcast(&e.index_wake)
        pthread_cond_broadcast(&e.allocate_wake)
        while load_int(&e.users):
            wait_ms(&e.idle, &e.lock, 100)
        pthread_mutex_unlock(&e.lock)
    for thread in self._threads:
        thread.join()
    self._threads = []
    if clean:
        with nogil:
            safe = flush_once(e) >= 0 and clear_leftovers(e) == 0
            while safe and index_follow(e, 1 << 24) > 0:
                pass
            if safe and (e.touched_count or e.pend_head < e.pend_tail):
                safe = False
            if safe and checkpoint_once(e) != 0:
                safe = False
        path = os.fsencode(os.path.join(self.root, "abort"))
        if safe:
            if e.files.unlink(&e.files, FILE_ABORT, path) != 0 or sync_directory(e, e.root) != 0:
                safe = False
    error = store_error(e, "the store was not closed cleanly") if clean and not safe else None
    with nogil:
        close_files(e, clean and safe)
    if error is not None:
        raise error
    return 0


cdef int clear_leftovers(Engine* e) noexcept nogil:
    """Remove what failed writes have left behind the end of the log: after a restart nobody knows of it. 0 or -1."""
    cdef Segment* s = e.run[e.run_count - 1] if e.run_count else NULL
    cdef uint8_t zeros[4096]
    cdef char path[PATH_BYTES]
    cdef int64_t at, until, n = 0
    if s == NULL or e.dirty_until <= e.written or e.written >= s.base + s.length:
        return 0
    at, until = e.written - s.base, min(e.dirty_until - s.base, s.length)
    if e.files.fallocate(&e.files, FILE_LOG, s.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, until - at) == 0:
        at = until
    elif until - at > TURN_BYTES * 4:
        return 0                # recovery could not clear it either: appends carry their own stop mark
    memset(zeros, 0, sizeof(zeros))
    while at < until and n >= 0:
        n = e.files.pwrite(&e.files, FILE_LOG, s.fd, zeros, min(until - at, <int64_t> sizeof(zeros)), at)
        at += max(n, 0)
    if at < until or e.files.fdatasync(&e.files, FILE_LOG, s.fd) != 0:
        segment_path(e, s.base, path)
        note_error(e, path)
        return -1
    return 0


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
    if e.log_fd >= 0:
        close_fd(e.log_fd)
    for i in range(2):
        if e.away_fds[i] >= 0:
            close_fd(e.away_fds[i])
        e.away_fds[i] = -1
    e.check_fd = e.lock_fd = e.root_fd = e.log_fd = -1
