# What Python can see of a store without changing it: positions, queues, messages, the key index, counters. Types and
# contracts are in _store.pyi.


cdef class StoreReads:
    def __cinit__(self, *args, **kwargs):
        cdef Engine* e = engine_new()
        self.engine = e
        if not watcher_open(e, WATCH_LOOP):
            raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        cdef Engine* e = <Engine*> self.engine
        if e == NULL:
            return
        close_files(e, False)
        engine_free(e)

    # --- positions ----------------------------------------------------------------------------------------------

    @property
    def written_offset(self):
        return load64(&(<Engine*> self.engine).written)

    @property
    def flushed_offset(self):
        return load64(&(<Engine*> self.engine).flushed)

    @property
    def dispatched_offset(self):
        return load64(&(<Engine*> self.engine).dispatched)

    @property
    def indexed_offset(self):
        return load64(&(<Engine*> self.engine).indexed)

    @property
    def min_log_offset(self):
        cdef Engine* e = <Engine*> self.engine
        cdef int64_t result
        with nogil:
            pthread_mutex_lock(&e.seg_lock)
            result = min_offset(e)
            pthread_mutex_unlock(&e.seg_lock)
        return result

    @property
    def failed(self):
        cdef Engine* e = <Engine*> self.engine
        if not e.failed:
            return None
        path = (<bytes> e.failed_path).decode("utf-8", "surrogateescape")
        return f"{path}: {_STATUS_TEXT[e.failed]}: {os.strerror(e.failed_error)}"

    @property
    def flush_event_fd(self):
        return (<Engine*> self.engine).watchers[WATCH_LOOP].flush_event

    @property
    def moved_event_fd(self):
        return (<Engine*> self.engine).watchers[WATCH_LOOP].moved_event

    def statistics(self):
        """Counters since the store was opened, and its positions."""
        cdef Engine* e = entered(self)
        try:
            return {
                "puts": e.n_puts, "put_bytes": e.n_put_bytes, "commits": e.n_commits, "refused": e.n_refused,
                "flushes": e.n_flushes, "queue_writes": e.n_queue_writes, "index_entries": e.n_index_entries,
                "inline_allocations": e.n_inline_allocations, "checkpoints": e.n_checkpoints,
                "reads": e.n_reads, "read_messages": e.n_read_messages,
                "written_offset": e.written, "flushed_offset": e.flushed, "dispatched_offset": e.dispatched,
                "indexed_offset": e.indexed, "durable_queue_offset": e.durable_queues,
                "durable_index_offset": e.durable_index, "queues": e.queue_count, "topics": e.topic_count,
                "open_queue_files": e.open_queues, "segments": e.run_count, "pending": e.pend_tail - e.pend_head,
                "waiting_queues": e.touched_count, "light_queues": e.lmq_count,
                "ext_failures": e.n_ext_failures, "faults_hit": e.files.hits,
            }
        finally:
            left(e)

    def segments(self):
        cdef Engine* e = entered(self)
        cdef int32_t i
        try:
            bases = []
            pthread_mutex_lock(&e.seg_lock)
            for i in range(e.run_count):
                bases.append(e.run[i].base)
            pthread_mutex_unlock(&e.seg_lock)
            found = []
            for base in bases:
                path = f"{os.fsdecode(e.log_path)}/{base:020d}"
                try:
                    status = os.stat(path)
                except FileNotFoundError:
                    continue
                found.append((path, base, status.st_size, status.st_mtime))
            return found
        finally:
            left(e)

    def queues(self):
        cdef Engine* e = entered(self)
        cdef Queue** known = NULL
        cdef QueueFiles* f
        cdef int64_t i, count
        try:
            with nogil:
                pthread_mutex_lock(&e.lock)
                count = e.queue_count
                known = <Queue**> malloc((count + 1) * sizeof(Queue*))
                if known != NULL and count:
                    memcpy(known, e.queues, count * sizeof(Queue*))
                pthread_mutex_unlock(&e.lock)
            if known == NULL:
                raise MemoryError
            found = []
            for i in range(count):
                f = <QueueFiles*> known[i].files
                if known[i].next_offset or f.first_base >= 0 or f.batch:
                    found.append(((<bytes> known[i].topic.name).decode(), known[i].queue_id, load64(&known[i].min_offset),
                                  load64(&known[i].max_offset)))
            return found
        finally:
            free(known)
            left(e)

    def queue_offsets(self, str topic not None, int64_t queue_id):
        cdef Engine* e = entered(self)
        cdef Queue* q
        try:
            q = queue_of(e, topic, queue_id)
            return None if q == NULL else (load64(&q.min_offset), load64(&q.max_offset))
        finally:
            left(e)

    # --- messages -----------------------------------------------------------------------------------------------

    def read_queue(self, str topic not None, int64_t queue_id, int64_t offset, int64_t max_messages, *,
                   int64_t max_bytes=262_144, tag_codes=None, bytes mask=None, int64_t max_scanned=800):
        cdef Engine* e = entered(self)
        cdef const uint8_t* wants = NULL
        cdef Queue* q
        cdef ReadResult result
        cdef ReadSummary summary
        cdef QueueEntry* found = NULL
        cdef int64_t* codes = NULL
        cdef int32_t code_count = 0, wanted, scanned
        cdef int32_t i
        try:
            q = queue_of(e, topic, queue_id)
            result = ReadResult.__new__(ReadResult)
            result.messages = []
            if q == NULL:
                result.status = NO_MATCHED_LOGIC_QUEUE
                return result
            if (<QueueFiles*> q.files).batch:
                return read_batch(e, q, offset, max_messages, max_bytes, tag_codes, mask, max_scanned)
            wanted = <int32_t> min(max(max_messages, 0), 65536)
            scanned = <int32_t> min(max(max_scanned, 1), 1 << 24)
            found = <QueueEntry*> malloc(max(wanted, 1) * sizeof(QueueEntry))
            if found == NULL:
                raise MemoryError
            if mask is not None:
                wants = mask
                scanned = <int32_t> len(mask)
            if tag_codes is not None:
                codes = <int64_t*> malloc(max(1, len(tag_codes)) * sizeof(int64_t))
                if codes == NULL:
                    raise MemoryError
                for code in tag_codes:
                    codes[code_count] = code
                    code_count += 1
            with nogil:
                read_by_rules(e, q, offset, wanted, max_bytes, codes, code_count, wants, scanned, found, wanted,
                              &summary)
            result.status, result.next_offset = summary.status, summary.next_offset
            result.min_offset, result.max_offset = summary.min_offset, summary.max_offset
            result.suggest_slave = summary.suggest_slave
            for i in range(summary.count):
                result.messages.append((found[i].log_offset, found[i].size))
            return result
        finally:
            free(found)
            free(codes)
            left(e)

    def queue_properties(self, str topic not None, int64_t queue_id, int64_t offset, int64_t count, *, bits=(),
                         int64_t bit_count=0, int64_t since_ms=0):
        cdef Engine* e = entered(self)
        cdef int32_t wanted[64]
        cdef bint missed[128]
        cdef int32_t wanted_count = 0
        cdef Queue* q
        cdef QueueEntry entries[128]
        cdef Segment* held[128]
        cdef Record r
        cdef const uint8_t* text[128]
        cdef int32_t length[128]
        cdef int64_t n = 0, i
        try:
            q = queue_of(e, topic, queue_id)
            if q == NULL:
                return []
            if (<QueueFiles*> q.files).batch:
                return batch_properties(e, q, offset, min(max(count, 0), 128))
            if (<QueueFiles*> q.files).ext_first >= 0 and len(bits) <= 64:
                for bit in bits:
                    if not 0 <= bit < bit_count:
                        raise UsageError(f"bit {bit} of {bit_count}")
                    wanted[wanted_count] = bit
                    wanted_count += 1
            with nogil:
                pthread_mutex_lock(&e.lock)
                n = queue_read(e, q, offset, min(max(count, 0), 128), entries)
                for i in range(n):
                    missed[i] = wanted_count and is_ext_address(entries[i].tags_code) and bloom_misses(
                        e, q, entries[i].tags_code, wanted, wanted_count, <int32_t> bit_count, since_ms)
                pthread_mutex_unlock(&e.lock)
                for i in range(n):
                    text[i] = NULL
                    held[i] = NULL
                    if missed[i]:
                        continue
                    held[i] = hold(e, entries[i].log_offset, entries[i].size)
                    if held[i] != NULL and parse_record(held[i].map + (entries[i].log_offset - held[i].base),
                                                        entries[i].size, &r) == 1:
                        text[i] = r.properties
                        length[i] = r.properties_len
            try:
                return [PyBytes_FromStringAndSize(<char*> text[i], length[i]) if text[i] != NULL else False if missed[i] else None
                        for i in range(n)]
            finally:
                with nogil:
                    for i in range(n):
                        release(e, held[i])
        finally:
            left(e)

    def read_messages(self, messages):
        cdef Engine* e = entered(self)
        try:
            return copy_extents(e, list(messages))
        finally:
            left(e)

    def read_record(self, int64_t log_offset):
        cdef Engine* e = entered(self)
        cdef Segment* s = NULL
        cdef Record r
        cdef int64_t room
        cdef int kind = -1
        try:
            with nogil:
                s = hold(e, log_offset, FILLER_BYTES)
                if s != NULL:
                    room = min(s.base + s.length, load64(&e.written)) - log_offset
                    kind = parse_record(s.map + (log_offset - s.base), room, &r)
            if s == NULL:
                return None
            try:
                if kind != 1 or r.log_offset != log_offset:
                    return None
                return PyBytes_FromStringAndSize(<char*> s.map + (log_offset - s.base), r.size)
            finally:
                release(e, s)
        finally:
            left(e)

    def queue_entries(self, str topic not None, int64_t queue_id, int64_t offset, int64_t count):
        cdef Engine* e = entered(self)
        cdef Queue* q
        cdef QueueEntry* found = NULL
        cdef int64_t n = 0, i = 0, k
        try:
            q = queue_of(e, topic, queue_id)
            if q == NULL:
                return []
            if (<QueueFiles*> q.files).batch:
                return [entry[:3] for entry in batch_entries(e, q) if entry[4] + entry[5] > offset][:max(count, 0)]
            count = min(max(count, 0), 1 << 20)
            found = <QueueEntry*> malloc(max(count, 1) * sizeof(QueueEntry))
            if found == NULL:
                raise MemoryError
            with nogil:
                while n < count:
                    pthread_mutex_lock(&e.lock)
                    i = queue_read(e, q, offset + n, min(count - n, 4096), found + n)
                    for k in range(n, n + max(i, 0)):
                        if is_ext_address(found[k].tags_code):
                            found[k].tags_code = plain_code(e, q, found[k].tags_code)
                    pthread_mutex_unlock(&e.lock)
                    if i <= 0:
                        break
                    n += i
            if n == 0 and i < 0:
                raise store_error(e, "cannot read the consume queue")
            return [(found[i].log_offset, found[i].size, found[i].tags_code) for i in range(n)]
        finally:
            free(found)
            left(e)

    def search_offset(self, str topic not None, int64_t queue_id, int64_t timestamp_ms, *, bint upper=False):
        """0 for a queue that was never used."""
        cdef Engine* e = entered(self)
        cdef Queue* q
        cdef int64_t result
        try:
            q = queue_of(e, topic, queue_id)
            if q == NULL:
                return 0
            if (<QueueFiles*> q.files).batch:
                return search_batch(q, batch_entries(e, q), timestamp_ms, upper)
            with nogil:
                result = queue_search(e, q, timestamp_ms, upper)
            return result
        finally:
            left(e)

    def store_timestamp_at(self, str topic not None, int64_t queue_id, int64_t offset):
        cdef Engine* e = entered(self)
        cdef Queue* q
        cdef QueueEntry entry
        cdef int64_t n, result = -1
        try:
            q = queue_of(e, topic, queue_id)
            if q == NULL:
                return -1
            if (<QueueFiles*> q.files).batch:
                return next((item[3] for item in batch_entries(e, q) if item[4] <= offset < item[4] + item[5]), -1)
            with nogil:
                pthread_mutex_lock(&e.lock)
                n = queue_read(e, q, offset, 1, &entry)
                pthread_mutex_unlock(&e.lock)
                if n == 1:
                    result = stored_time(e, entry.log_offset, entry.size)
            return result
        finally:
            left(e)

    def earliest_store_timestamp(self):
        """Store time of the first record of the log, -1 if there is none."""
        cdef Engine* e = entered(self)
        cdef int64_t result = -1, room
        cdef Segment* s
        cdef Record r
        try:
            with nogil:
                pthread_mutex_lock(&e.seg_lock)
                result = min_offset(e)
                pthread_mutex_unlock(&e.seg_lock)
                s = hold(e, result, FILLER_BYTES)
                result = -1
                if s != NULL:
                    room = min(s.base + s.length, load64(&e.written)) - s.base
                    if parse_record(s.map, room, &r) == 1:
                        result = r.store_time
                    release(e, s)
            return result
        finally:
            left(e)

    def query_index(self, str topic not None, str key not None, int64_t max_count, int64_t begin_ms, int64_t end_ms):
        cdef bytes name = topic.encode(), text = key.encode()
        cdef int32_t key_hash = index_key_hash(name, <int32_t> len(name), text, <int32_t> len(text))
        cdef Engine* e = entered(self)
        cdef int64_t* found = NULL
        cdef int64_t n = 0, i, last_time = 0, last_offset = 0
        try:
            max_count = min(max(max_count, 0), 1 << 16)
            found = <int64_t*> malloc(max(max_count, 1) * sizeof(int64_t))
            if found == NULL:
                raise MemoryError
            with nogil:
                n = index_query(e, key_hash, max_count, begin_ms, end_ms, found, &last_time, &last_offset)
            return sorted([found[i] for i in range(n)]), last_time, last_offset
        finally:
            free(found)
            left(e)
