# The table of file calls. The engine touches files through it and through nothing else, so that a test can make
# the third fdatasync of the commit log fail and see who notices. With no script the table holds the system's calls.
#
# A fault names a call, optionally a kind of file, and which of the matching calls it hits: `nth` (1 is the first)
# and `times` (how many in a row from there, -1 for ever). `errno` makes the call fail; `short` makes a pwrite or
# pread move only that many bytes; `hold` makes it wait, before anything else, until a byte can be read from that
# descriptor, and `delay_ms` for so long.

cdef enum:
    CALL_OPEN, CALL_PWRITE, CALL_PREAD, CALL_FDATASYNC, CALL_FSYNC, CALL_FALLOCATE, CALL_FTRUNCATE
    CALL_MMAP, CALL_MSYNC, CALL_RENAME, CALL_UNLINK, CALL_SYNCFS, CALL_MKDIR, CALL_RMDIR

cdef enum:
    FILE_LOG, FILE_QUEUE, FILE_INDEX, FILE_CHECKPOINT, FILE_LOCK, FILE_ABORT, FILE_DIRECTORY, FILE_EXT

cdef tuple _CALL_NAMES = ("open", "pwrite", "pread", "fdatasync", "fsync", "fallocate", "ftruncate", "mmap", "msync",
                          "rename", "unlink", "syncfs", "mkdir", "rmdir")
cdef tuple _FILE_NAMES = ("commitlog", "consumequeue", "index", "checkpoint", "lock", "abort", "directory",
                          "consumequeue_ext")

cdef struct Fault:
    int call
    int file            # -1: any
    int64_t nth
    int64_t times
    int64_t seen
    int error
    int64_t short_count  # -1: none
    int hold            # a descriptor, -1: none
    int64_t delay_ms

cdef struct FileCalls:
    int (*open)(FileCalls*, int kind, const char* path, int flags) noexcept nogil
    ssize_t (*pwrite)(FileCalls*, int kind, int fd, const void* data, size_t length, int64_t offset) noexcept nogil
    ssize_t (*pread)(FileCalls*, int kind, int fd, void* data, size_t length, int64_t offset) noexcept nogil
    int (*fdatasync)(FileCalls*, int kind, int fd) noexcept nogil
    int (*fsync)(FileCalls*, int kind, int fd) noexcept nogil
    int (*fallocate)(FileCalls*, int kind, int fd, int mode, int64_t offset, int64_t length) noexcept nogil
    int (*ftruncate)(FileCalls*, int kind, int fd, int64_t length) noexcept nogil
    void* (*mmap)(FileCalls*, int kind, int fd, size_t length, bint writeable) noexcept nogil
    int (*msync)(FileCalls*, int kind, void* address, size_t length) noexcept nogil
    int (*rename)(FileCalls*, int kind, const char* old, const char* new) noexcept nogil
    int (*unlink)(FileCalls*, int kind, const char* path) noexcept nogil
    int (*syncfs)(FileCalls*, int kind, int fd) noexcept nogil
    int (*mkdir)(FileCalls*, int kind, const char* path) noexcept nogil
    int (*rmdir)(FileCalls*, int kind, const char* path) noexcept nogil
    pthread_mutex_t lock
    Fault* faults
    int fault_count
    int64_t hits


cdef int sys_open(FileCalls* c, int kind, const char* path, int flags) noexcept nogil:
    return open_file(path, flags | O_CLOEXEC, 0o644)

cdef ssize_t sys_pwrite(FileCalls* c, int kind, int fd, const void* data, size_t length, int64_t offset) noexcept nogil:
    cdef ssize_t n
    while True:
        n = pwrite(fd, data, length, offset)
        if n >= 0 or errno != EINTR:
            return n

cdef ssize_t sys_pread(FileCalls* c, int kind, int fd, void* data, size_t length, int64_t offset) noexcept nogil:
    cdef ssize_t n
    while True:
        n = pread(fd, data, length, offset)
        if n >= 0 or errno != EINTR:
            return n

cdef int sys_fdatasync(FileCalls* c, int kind, int fd) noexcept nogil:
    return fdatasync(fd)

cdef int sys_fsync(FileCalls* c, int kind, int fd) noexcept nogil:
    return fsync(fd)

cdef int sys_fallocate(FileCalls* c, int kind, int fd, int mode, int64_t offset, int64_t length) noexcept nogil:
    cdef int result
    while True:
        result = fallocate(fd, mode, offset, length)
        if result == 0 or errno != EINTR:
            return result

cdef int sys_ftruncate(FileCalls* c, int kind, int fd, int64_t length) noexcept nogil:
    return ftruncate(fd, length)

cdef void* sys_mmap(FileCalls* c, int kind, int fd, size_t length, bint writeable) noexcept nogil:
    cdef void* address = mmap(NULL, length, PROT_READ | PROT_WRITE if writeable else PROT_READ, MAP_SHARED, fd, 0)
    return NULL if address == MAP_FAILED else address

cdef int sys_msync(FileCalls* c, int kind, void* address, size_t length) noexcept nogil:
    return msync(address, length, MS_SYNC)

cdef int sys_rename(FileCalls* c, int kind, const char* old, const char* new) noexcept nogil:
    return rename_file(old, new)

cdef int sys_unlink(FileCalls* c, int kind, const char* path) noexcept nogil:
    return unlink(path)

cdef int sys_syncfs(FileCalls* c, int kind, int fd) noexcept nogil:
    return syncfs(fd)

cdef int sys_mkdir(FileCalls* c, int kind, const char* path) noexcept nogil:
    return mkdir(path, 0o755)

cdef int sys_rmdir(FileCalls* c, int kind, const char* path) noexcept nogil:
    return rmdir(path)


cdef bint fault_hits(FileCalls* c, int call, int kind, int64_t* short_count) noexcept nogil:
    """Count this call against the script. True: fail with errno as set; short_count >= 0: move only so much."""
    cdef int i, hold = -1
    cdef int error = 0
    cdef int64_t delay_ms = 0
    cdef char ignored
    cdef timespec pause
    cdef Fault* f
    short_count[0] = -1
    pthread_mutex_lock(&c.lock)
    for i in range(c.fault_count):
        f = &c.faults[i]
        if f.call != call or (f.file >= 0 and f.file != kind):
            continue
        f.seen += 1
        if f.seen < f.nth or (f.times >= 0 and f.seen >= f.nth + f.times):
            continue
        c.hits += 1
        if f.short_count >= 0:
            short_count[0] = f.short_count
        if f.error:
            error = f.error
        if f.hold >= 0:
            hold = f.hold
        delay_ms = max(delay_ms, f.delay_ms)
    pthread_mutex_unlock(&c.lock)
    while hold >= 0 and read(hold, &ignored, 1) < 0 and errno == EINTR:
        pass
    if delay_ms:
        pause.tv_sec = delay_ms // 1000
        pause.tv_nsec = delay_ms % 1000 * 1000000
        nanosleep(&pause, NULL)
    if error:
        set_errno(error)
        return True
    return False

cdef int script_open(FileCalls* c, int kind, const char* path, int flags) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_OPEN, kind, &short_count) else sys_open(c, kind, path, flags)

cdef ssize_t script_pwrite(FileCalls* c, int kind, int fd, const void* data, size_t length, int64_t offset) noexcept nogil:
    cdef int64_t short_count
    cdef bint failed = fault_hits(c, CALL_PWRITE, kind, &short_count)
    cdef int error
    if short_count >= 0 and <size_t> short_count < length:
        error = errno
        length = <size_t> short_count
        if failed:      # what a real failure may leave behind: part of the data, and an error
            sys_pwrite(c, kind, fd, data, length, offset)
            set_errno(error)
    return -1 if failed else sys_pwrite(c, kind, fd, data, length, offset)

cdef ssize_t script_pread(FileCalls* c, int kind, int fd, void* data, size_t length, int64_t offset) noexcept nogil:
    cdef int64_t short_count
    if fault_hits(c, CALL_PREAD, kind, &short_count):
        return -1
    if short_count >= 0 and <size_t> short_count < length:
        length = <size_t> short_count
    return sys_pread(c, kind, fd, data, length, offset)

cdef int script_fdatasync(FileCalls* c, int kind, int fd) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_FDATASYNC, kind, &short_count) else sys_fdatasync(c, kind, fd)

cdef int script_fsync(FileCalls* c, int kind, int fd) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_FSYNC, kind, &short_count) else sys_fsync(c, kind, fd)

cdef int script_fallocate(FileCalls* c, int kind, int fd, int mode, int64_t offset, int64_t length) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_FALLOCATE, kind, &short_count) else sys_fallocate(c, kind, fd, mode, offset, length)

cdef int script_ftruncate(FileCalls* c, int kind, int fd, int64_t length) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_FTRUNCATE, kind, &short_count) else sys_ftruncate(c, kind, fd, length)

cdef void* script_mmap(FileCalls* c, int kind, int fd, size_t length, bint writeable) noexcept nogil:
    cdef int64_t short_count
    return NULL if fault_hits(c, CALL_MMAP, kind, &short_count) else sys_mmap(c, kind, fd, length, writeable)

cdef int script_msync(FileCalls* c, int kind, void* address, size_t length) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_MSYNC, kind, &short_count) else sys_msync(c, kind, address, length)

cdef int script_rename(FileCalls* c, int kind, const char* old, const char* new) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_RENAME, kind, &short_count) else sys_rename(c, kind, old, new)

cdef int script_unlink(FileCalls* c, int kind, const char* path) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_UNLINK, kind, &short_count) else sys_unlink(c, kind, path)

cdef int script_syncfs(FileCalls* c, int kind, int fd) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_SYNCFS, kind, &short_count) else sys_syncfs(c, kind, fd)

cdef int script_mkdir(FileCalls* c, int kind, const char* path) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_MKDIR, kind, &short_count) else sys_mkdir(c, kind, path)

cdef int script_rmdir(FileCalls* c, int kind, const char* path) noexcept nogil:
    cdef int64_t short_count
    return -1 if fault_hits(c, CALL_RMDIR, kind, &short_count) else sys_rmdir(c, kind, path)


cdef void file_calls_init(FileCalls* c) noexcept nogil:
    """The system's calls."""
    c.open, c.pwrite, c.pread = sys_open, sys_pwrite, sys_pread
    c.fdatasync, c.fsync, c.fallocate, c.ftruncate = sys_fdatasync, sys_fsync, sys_fallocate, sys_ftruncate
    c.mmap, c.msync, c.rename, c.unlink = sys_mmap, sys_msync, sys_rename, sys_unlink
    c.syncfs, c.mkdir, c.rmdir = sys_syncfs, sys_mkdir, sys_rmdir
    pthread_mutex_init(&c.lock, NULL)


cdef int file_calls_script(FileCalls* c, script) except -1:
    """Put the scripted calls in place. Raises UsageError for a script that names an unknown call, file or key."""
    cdef Fault* f
    script = list(script)
    c.faults = <Fault*> calloc(max(1, len(script)), sizeof(Fault))
    if c.faults == NULL:
        raise MemoryError
    for entry in script:
        unknown = set(entry) - {"call", "file", "nth", "times", "errno", "short", "hold", "delay_ms"}
        if unknown or entry.get("call") not in _CALL_NAMES or entry.get("file", "commitlog") not in _FILE_NAMES:
            raise UsageError(f"bad fault script entry: {dict(entry)!r}")
        f = &c.faults[c.fault_count]
        f.call = _CALL_NAMES.index(entry["call"])
        f.file = _FILE_NAMES.index(entry["file"]) if "file" in entry else -1
        f.nth = entry.get("nth", 1)
        f.times = entry.get("times", 1)
        f.error = entry.get("errno", 0)
        f.short_count = entry.get("short", -1)
        f.hold = entry.get("hold", -1)
        f.delay_ms = entry.get("delay_ms", 0)
        c.fault_count += 1
    c.open, c.pwrite, c.pread = script_open, script_pwrite, script_pread
    c.fdatasync, c.fsync, c.fallocate, c.ftruncate = script_fdatasync, script_fsync, script_fallocate, script_ftruncate
    c.mmap, c.msync, c.rename, c.unlink = script_mmap, script_msync, script_rename, script_unlink
    c.syncfs, c.mkdir, c.rmdir = script_syncfs, script_mkdir, script_rmdir
    return 0
