# consumequeue_ext: what a queue entry has no room for. With enableConsumeQueueExt every entry's tags code is the address
# of a unit `size 2, tags code 8, store time 8, bit map size 2, bit map n` in consumequeue_ext/<topic>/<queue id>/. An
# address is a byte offset over all files, minus 2^63; no tags code is below -2^31, so the two cannot be mixed up.
#
# A unit that does not leave 4 bytes free at the end of its file begins the next one; a short -1 closes the file.
#
# What a crash does: units are written before the entries that name them, and synced with them. Entries younger than the
# checkpoint are built anew from the log, their units too, behind the newest unit that is still named. A unit that
# cannot be written leaves the plain tags code in its entry, one that cannot be read lets everything match: consumers
# compare tags, and SQL filters look at the message itself.

cdef enum:
    EXT_FIXED = 20
    EXT_END_BYTES = 4
    EXT_UNIT_MAX = 32767
    EXT_BITS_MAX = 1024         # bytes of a bit map that we write or look at
    EXT_OPEN_MAX = 256          # descriptors of ext files

cdef struct ExtUnit:
    int32_t size
    int64_t tags_code
    int64_t store_time
    int32_t bits_len
    uint8_t bits[EXT_BITS_MAX]


cdef inline bint is_ext_address(int64_t tags_code) noexcept nogil:
    return tags_code < -2147483648LL


cdef inline int64_t ext_offset(int64_t address) noexcept nogil:
    return <int64_t> (<uint64_t> address + (<uint64_t> 1 << 63))


cdef int ext_path(Engine* e, Queue* q, int64_t base, char* path) noexcept nogil:
    """Path of an ext file of the queue, or of its directory for base -1."""
    cdef int n = snprintf(path, PATH_BYTES, "%s/consumequeue_ext/%s/%d", e.root, q.topic.name, q.queue_id)
    if base >= 0:
        n += snprintf(path + n, PATH_BYTES - n, "/%020lld", <long long> base)
    return n


cdef void ext_close(Engine* e, Queue* q) noexcept nogil:
    cdef QueueFiles* f = <QueueFiles*> q.files
    if f.ext_fd >= 0:
        close_fd(f.ext_fd)
        f.ext_fd = -1
        e.ext_open -= 1


cdef int ext_use(Engine* e, Queue* q, int64_t base) noexcept nogil:
    """Make the file at `base` the one that is written, with directories and full length. 0 or -1, noted."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef int i, n, fd
    cdef int64_t number
    if f.ext_fd >= 0 and f.ext_base == base:
        return 0
    ext_close(e, q)
    if e.ext_open >= EXT_OPEN_MAX:
        for number in range(e.queue_count):
            ext_close(e, e.queues[number])
    if f.ext_first < 0:
        n = ext_path(e, q, -1, path)
        for i in range(<int> strlen(e.root) + 1, n + 1):
            if path[i] == c'/' or path[i] == 0:
                path[i] = 0
                if e.files.mkdir(&e.files, FILE_EXT, path) != 0 and errno != EEXIST:
                    note_error(e, path)
                    return -1
                if i < n:
                    path[i] = c'/'
    ext_path(e, q, base, path)
    fd = e.files.open(&e.files, FILE_EXT, path, O_RDWR | O_CREAT)
    if fd < 0 or e.files.ftruncate(&e.files, FILE_EXT, fd, e.ext_file_bytes) != 0:
        note_error(e, path)
        if fd >= 0:
            close_fd(fd)
        return -1
    f.ext_fd, f.ext_base = fd, base
    e.ext_open += 1
    if f.ext_first < 0:
        f.ext_first = base
    f.ext_last = max(f.ext_last, base)
    return 0


cdef bint ext_read(Engine* e, Queue* q, int64_t address, ExtUnit* unit) noexcept nogil:
    """Read a unit; False if there is none."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef uint8_t data[EXT_FIXED + EXT_BITS_MAX]
    cdef char path[PATH_BYTES]
    cdef int64_t offset = ext_offset(address), base, room
    cdef ssize_t got
    cdef int fd
    if f.ext_first < 0 or offset < f.ext_first or offset > f.ext_last + e.ext_file_bytes - EXT_FIXED:
        return False
    base = offset - offset % e.ext_file_bytes
    room = min(<int64_t> sizeof(data), base + e.ext_file_bytes - offset)
    if f.ext_fd >= 0 and f.ext_base == base:
        got = e.files.pread(&e.files, FILE_EXT, f.ext_fd, data, room, offset - base)
    else:
        ext_path(e, q, base, path)
        fd = e.files.open(&e.files, FILE_EXT, path, O_RDONLY)
        if fd < 0:
            return False
        got = e.files.pread(&e.files, FILE_EXT, fd, data, room, offset - base)
        close_fd(fd)
    if got < EXT_FIXED:
        return False
    unit.size = <int16_t> get16(data)
    unit.tags_code = get64(data + 2)
    unit.store_time = get64(data + 10)
    unit.bits_len = <int16_t> get16(data + 18)
    if unit.size < EXT_FIXED or unit.bits_len < 0 or unit.bits_len > unit.size - EXT_FIXED:
        return False
    if unit.bits_len > EXT_BITS_MAX or EXT_FIXED + unit.bits_len > got:
        unit.bits_len = 0       # longer than any bloom filter makes it: as if there were none
    memcpy(unit.bits, data + EXT_FIXED, unit.bits_len)
    return True


cdef int64_t plain_code(Engine* e, Queue* q, int64_t tags_code) noexcept nogil:
    """The tags code behind an address, as long as it can be read."""
    cdef ExtUnit unit
    return unit.tags_code if is_ext_address(tags_code) and ext_read(e, q, tags_code, &unit) else tags_code


cdef int64_t ext_find_end(Engine* e, Queue* q) noexcept nogil:
    """Where the next unit goes: behind the newest one that an entry names; -1 if the entries cannot be read."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef QueueEntry chunk[256]
    cdef ExtUnit unit
    cdef int64_t low, high = q.max_offset, n, i
    if f.ext_first < 0:
        return 0
    low = max(f.first_base // ENTRY_BYTES, 0)
    while f.first_base >= 0 and high > low:
        n = min(high - low, 256)
        if queue_entries_from_files(e, q, high - n, n, chunk) != n:
            return -1
        for i in range(n - 1, -1, -1):
            if is_ext_address(chunk[i].tags_code) and chunk[i].size != BLANK_SIZE:
                if ext_read(e, q, chunk[i].tags_code, &unit):
                    return ext_offset(chunk[i].tags_code) + unit.size
                return f.ext_last + e.ext_file_bytes        # a lost unit, or no address at all: nothing is overwritten
        high -= n
    return f.ext_last


cdef int64_t ext_add(Engine* e, Queue* q, int64_t tags_code, int64_t store_time, const uint8_t* bits,
                     int32_t bits_len) noexcept nogil:
    """Write a unit; its address, or the tags code itself if that cannot be done. Under the lock."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef uint8_t data[EXT_FIXED + EXT_BITS_MAX]
    cdef int64_t at, base
    cdef int32_t size
    if bits_len > EXT_BITS_MAX:
        bits_len = 0
    size = EXT_FIXED + bits_len
    if f.ext_end < 0:
        f.ext_end = ext_find_end(e, q)
        if f.ext_end < 0:
            return tags_code
    at = f.ext_end
    base = at - at % e.ext_file_bytes
    if size > base + e.ext_file_bytes - at - EXT_END_BYTES:
        put16(data, 0xFFFF)
        if ext_use(e, q, base) != 0 or e.files.pwrite(&e.files, FILE_EXT, f.ext_fd, data, 2, at - base) != 2:
            e.n_ext_failures += 1
            return tags_code
        at = base = base + e.ext_file_bytes
    put16(data, <uint16_t> size)
    put64(data + 2, tags_code)
    put64(data + 10, store_time)
    put16(data + 18, <uint16_t> bits_len)
    if bits_len:
        memcpy(data + EXT_FIXED, bits, bits_len)
    if ext_use(e, q, base) != 0 or e.files.pwrite(&e.files, FILE_EXT, f.ext_fd, data, size, at - base) != size:
        e.n_ext_failures += 1
        return tags_code
    f.ext_end = at + size
    e.sync_whole = True
    return <int64_t> (<uint64_t> at + (<uint64_t> 1 << 63))


cdef void ext_trim(Engine* e, Queue* q) noexcept nogil:
    """Unlink files that end before the unit of the queue's first entry."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef QueueEntry entry
    if f.ext_first < 0 or f.batch or queue_read(e, q, q.min_offset, 1, &entry) != 1 or not is_ext_address(entry.tags_code):
        return
    while f.ext_first < f.ext_last and f.ext_first + e.ext_file_bytes <= ext_offset(entry.tags_code):
        ext_path(e, q, f.ext_first, path)
        if e.files.unlink(&e.files, FILE_EXT, path) != 0 and errno != ENOENT:
            note_error(e, path)
            return
        f.ext_first += e.ext_file_bytes


cdef void ext_remove(Engine* e, Queue* q) noexcept nogil:
    """Unlink all of a queue's ext files. What cannot be unlinked is named by nobody."""
    cdef QueueFiles* f = <QueueFiles*> q.files
    cdef char path[PATH_BYTES]
    cdef int64_t base = f.ext_first
    ext_close(e, q)
    if base < 0:
        return
    while base <= f.ext_last:
        ext_path(e, q, base, path)
        e.files.unlink(&e.files, FILE_EXT, path)
        base += e.ext_file_bytes
    ext_path(e, q, -1, path)
    e.files.rmdir(&e.files, FILE_EXT, path)
    f.ext_first = f.ext_last = f.ext_end = -1


cdef bint bloom_misses(Engine* e, Queue* q, int64_t address, const int32_t* bits, int32_t count, int32_t map_bits,
                       int64_t since) noexcept nogil:
    """Whether a bit map says for sure that a message does not match: it is younger than the filter and lacks a bit."""
    cdef ExtUnit unit
    cdef int32_t i
    if not ext_read(e, q, address, &unit) or unit.store_time <= since or unit.bits_len * 8 != map_bits:
        return False
    for i in range(count):
        if not unit.bits[bits[i] >> 3] >> (bits[i] & 7) & 1:
            return True
    return False
