# Small things Python gets from the engine: checksums, hashes, answers; and checks of what it passes in.


def crc32(data, *, str kernel="auto"):
    """CRC-32 (IEEE) of a bytes-like object, unmasked. RuntimeError for a kernel this machine cannot run."""
    cdef int kind
    cdef fq_crc_kernel run
    cdef const uint8_t[::1] view
    if kernel not in ("auto", "table", "pclmul"):
        raise RuntimeError(f"no CRC kernel is named {kernel!r}")
    kind = {"auto": FQ_CRC_AUTO, "table": FQ_CRC_TABLE, "pclmul": FQ_CRC_PCLMUL}[kernel]
    run = fq_crc_select(kind)
    if run == NULL:
        raise RuntimeError(f"the CRC kernel {kernel!r} cannot run on this machine")
    if len(data) == 0:
        return 0
    view = data
    return run(0, &view[0], view.shape[0])


def java_hash(str text):
    """java.lang.String.hashCode over UTF-16 code units, signed 32 bit."""
    cdef bytes data = text.encode("utf-16-be", "surrogatepass")
    cdef const uint8_t* p = data
    cdef int32_t h = 0
    cdef Py_ssize_t i
    for i in range(0, len(data), 2):
        h = hash_step(h, get16(p + i))
    return h


cdef class Appended:
    cdef readonly int status
    cdef readonly int64_t log_offset
    cdef readonly int32_t size
    cdef readonly int64_t queue_offset
    cdef readonly int64_t store_timestamp_ms
    cdef readonly int64_t flush_target

    def __repr__(self):
        if self.status:
            return f"<refused: {_STATUS_TEXT[self.status]}>"
        return f"<appended at {self.log_offset}, {self.size} bytes, queue offset {self.queue_offset}>"


cdef Appended appended(int status, const Placed* placed, int64_t target):
    cdef Appended a = Appended.__new__(Appended)
    a.status = status
    if status == ST_OK:
        a.log_offset, a.size, a.queue_offset = placed.log_offset, placed.size, placed.queue_offset
        a.store_timestamp_ms, a.flush_target = placed.store_timestamp_ms, target
    else:
        a.log_offset = a.queue_offset = a.store_timestamp_ms = a.flush_target = -1
    return a


cdef class ReadResult:
    cdef readonly int status
    cdef readonly int64_t next_offset
    cdef readonly int64_t min_offset
    cdef readonly int64_t max_offset
    cdef readonly list messages
    cdef readonly bint suggest_slave

    def __repr__(self):
        return f"<read: status {self.status}, {len(self.messages)} messages, next {self.next_offset}>"


cdef object physical_memory():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


cdef char* copy_text(bytes text) except NULL:
    cdef char* copy = <char*> malloc(len(text) + 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char*> text, len(text) + 1)
    return copy


cdef int check_queue(bytes topic, int64_t queue_id) except -1:
    """UsageError for a queue that cannot have a directory."""
    if not 0 <= queue_id < MAX_QUEUE_ID:
        raise UsageError(f"queue id {queue_id} is out of range")
    if b"/" in topic or b"\0" in topic or topic in (b".", b".."):
        raise UsageError(f"not a topic name: {topic.decode()!r}")
    return 0


cdef int64_t search_batch(Queue* q, list entries, int64_t time, bint upper):
    """search_offset for a BatchCQ queue: the first message of the batch in question, of the last one at most."""
    cdef int64_t result = q.min_offset
    for entry in entries:
        if upper and entry[3] > time:
            break
        result = entry[4]
        if not upper and entry[3] >= time:
            break
    return result


cdef Topic* topic_of(Engine* e, bytes name) except NULL:
    """The topic of that name, made if needed."""
    cdef size_t length = len(name)
    cdef const char* text = name
    cdef Topic* topic = topic_lookup(e, text, length)
    if topic == NULL:
        with nogil:
            pthread_mutex_lock(&e.lock)
            topic = topic_get(e, text, length)
            pthread_mutex_unlock(&e.lock)
        if topic == NULL:
            raise MemoryError
    return topic
