# The class Python sees: opening, writing, waiting, retention, and the doors of the hot road. Types and contracts are in
# _store.pyi.


cdef class Store(StoreReads):
    def __cinit__(self, *args, **kwargs):
        self.recovery_log = []
        self._threads = []

    def __init__(self, str root not None, *, store_host, commit_log_path=None, int64_t segment_bytes=1 << 30,
                 int64_t queue_file_bytes=6_000_000, int64_t index_slots=5_000_000, int64_t index_entries=20_000_000,
                 bint index_enabled=True, bint sync_flush=False, int64_t flush_interval_ms=500,
                 int64_t flush_least_pages=4, int64_t flush_thorough_interval_ms=10_000,
                 int64_t queue_flush_interval_ms=1000, int64_t allocate_step_bytes=32 << 20,
                 int64_t max_message_bytes=4 << 20, delay_levels_ms=(), bint check_crc_on_recover=True,
                 bint ext_enabled=False, int64_t ext_file_bytes=50_331_648, bint light_queues=False,
                 int64_t max_light_queues=20_000, wall_clock_ms=None, fault_script=None):
        cdef Engine* e = <Engine*> self.engine
        cdef uint8_t host[20]
        if e.opened or e.root != NULL:
            raise UsageError("a Store opens once")
        if segment_bytes < 1024 or segment_bytes > (1 << 31) - 1:
            raise UsageError(f"segment_bytes {segment_bytes}: not between 1024 and 2 GiB")
        if queue_file_bytes <= 0 or queue_file_bytes > 1 << 31:
            raise UsageError(f"queue_file_bytes {queue_file_bytes}: not usable")
        if not 0 < index_slots <= 500_000_000 or not 1 < index_entries <= 500_000_000:
            raise UsageError("index_slots and index_entries must be positive")
        if len(delay_levels_ms) > 64:
            raise UsageError("more than 64 delay levels")
        if not 2048 <= ext_file_bytes < 1 << 31:
            raise UsageError(f"ext_file_bytes {ext_file_bytes}: not usable")
        if host_bytes(store_host[0], store_host[1], host) != 8:
            raise UsageError("store_host must be an IPv4 address")
        memcpy(e.host, host, 8)
        e.segment_bytes = segment_bytes
        e.queue_file_bytes = (queue_file_bytes + ENTRY_BYTES - 1) // ENTRY_BYTES * ENTRY_BYTES
        e.index_slots, e.index_entries, e.index_enabled = index_slots, index_entries, index_enabled
        e.sync_flush, e.check_crc = sync_flush, check_crc_on_recover
        e.flush_interval_ms, e.flush_least_pages = flush_interval_ms, flush_least_pages
        e.flush_thorough_ms, e.queue_flush_ms = flush_thorough_interval_ms, queue_flush_interval_ms
        e.allocate_step = max(4096, allocate_step_bytes)
        e.max_message = max_message_bytes
        e.ext_enabled, e.ext_file_bytes, e.lmq_limit = ext_enabled, ext_file_bytes, max_light_queues
        if light_queues:
            e.lmq_turn = <LmqTurn*> calloc(1, sizeof(LmqTurn))
            if e.lmq_turn == NULL:
                raise MemoryError
        for i, ms in enumerate(delay_levels_ms):
            e.delay_ms[<int> i] = ms
        e.delay_levels = len(delay_levels_ms)
        e.memory_window = physical_memory() // 100 * 40
        e.memory_bytes, e.memory_count, e.disk_bytes, e.disk_count = 262_144, 32, 65_536, 8
        if wall_clock_ms is not None:
            self._wall_clock = wall_clock_ms
            e.clock = <void*> wall_clock_ms
        self.root = os.path.abspath(root)
        e.root = copy_text(os.fsencode(self.root))
        e.log_path = copy_text(os.fsencode(os.path.abspath(commit_log_path or os.path.join(root, "commitlog"))))
        if strlen(e.root) > PATH_BYTES - 512 or strlen(e.log_path) > PATH_BYTES - 64:
            raise UsageError("the path of the store is too long")
        if fault_script is not None:
            file_calls_script(&e.files, fault_script)
        e.open_queue_limit = queue_file_limit()
        try:
            open_store(self)
        except OSError as error:
            close_files(e, False)
            store_int(&e.closed, 1)
            raise StoreError(f"{error.filename or self.root}: {error.strerror}") from error
        except BaseException:
            close_files(e, False)
            store_int(&e.closed, 1)
            raise

    # --- threads and the end ------------------------------------------------------------------------------------

    def start(self):
        """Start flusher, index dispatcher and allocator."""
        cdef Engine* e = entered(self)
        try:
            if self._threads:
                return
            for name, target in (("flusher", self._run_flusher), ("index", self._run_index), ("allocator", self._run_allocator)):
                thread = threading.Thread(target=target, name=f"fastmq-{name}", daemon=True)
                self._threads.append(thread)
                thread.start()
        finally:
            left(e)

    def _run_flusher(self):
        cdef Engine* e = <Engine*> self.engine
        with nogil:
            pthread_setname_np(pthread_self(), "fastmq-flush")       # what `top -H` and `perf` show
            flusher_loop(e)

    def _run_index(self):
        cdef Engine* e = <Engine*> self.engine
        with nogil:
            pthread_setname_np(pthread_self(), "fastmq-index")
            work_behind()
            index_loop(e)

    def _run_allocator(self):
        cdef Engine* e = <Engine*> self.engine
        with nogil:
            pthread_setname_np(pthread_self(), "fastmq-alloc")
            allocator_loop(e)

    def close(self, *, bint clean=True):
        close_store(self, clean)

    # --- topics and queues --------------------------------------------------------------------------------------

    def set_topic(self, str name not None, *, int32_t perm, int32_t read_queues, int32_t write_queues, uint32_t flags):
        cdef bytes encoded = name.encode()
        cdef Engine* e = entered(self)
        cdef size_t length = len(encoded)
        cdef const char* text = encoded
        cdef Topic* topic = NULL
        try:
            if not 0 < length <= MAX_TOPIC or b"/" in encoded or b"\0" in encoded or encoded in (b".", b".."):
                raise UsageError(f"not a topic name: {name!r}")
            with nogil:
                pthread_mutex_lock(&e.lock)
                topic = topic_get(e, text, length)
                if topic != NULL:
                    topic.perm = perm
                    topic.read_queues = read_queues
                    topic.write_queues = write_queues
                    topic.flags = (topic.flags & TOPIC_SCHEDULE) | (flags & 0xFFFF)
                pthread_mutex_unlock(&e.lock)
            if topic == NULL:
                raise MemoryError
        finally:
            left(e)

    def remove_topic(self, str name not None):
        """Sends to it are refused on the hot road; its data stays. No error if it is unknown."""
        cdef bytes encoded = name.encode()
        cdef Engine* e = entered(self)
        cdef Topic* topic = topic_lookup(e, encoded, len(encoded))
        try:
            if topic != NULL:
                with nogil:
                    pthread_mutex_lock(&e.lock)
                    topic.perm = topic.read_queues = topic.write_queues = 0
                    topic.flags = (topic.flags & TOPIC_SCHEDULE) | TOPIC_DELETED
                    pthread_mutex_unlock(&e.lock)
        finally:
            left(e)

    def delete_topic_data(self, str name not None):
        cdef bytes encoded = name.encode()
        cdef Engine* e = entered(self)
        cdef Topic* topic = topic_lookup(e, encoded, len(encoded))
        cdef int result = 0
        try:
            if topic != NULL:
                with nogil:
                    result = topic_delete_queues(e, topic)
            if result != 0:
                raise store_error(e, f"cannot delete the queues of {name}")
        finally:
            left(e)

    # --- writing ------------------------------------------------------------------------------------------------

    def put(self, str topic not None, int64_t queue_id, body, bytes properties not None, *, int64_t flag=0, int64_t sys_flag=0,
            int64_t born_timestamp_ms=0, born_host=("127.0.0.1", 0), int64_t reconsume_times=0,
            int64_t prepared_offset=0, tags_code=None, bint internal=False):
        cdef Engine* e = <Engine*> self.engine
        cdef MessageIn m
        cdef Placed placed
        cdef Topic* t
        cdef const uint8_t[::1] view
        cdef bytes name = topic.encode()
        cdef int64_t target = 0
        cdef int status
        cdef int32_t id32 = <int32_t> queue_id
        cdef bytes bits = b""
        cdef const uint8_t* bit_map
        cdef int32_t bit_map_len
        memset(&placed, 0, sizeof(placed))
        if e.closed:
            return appended(ST_CLOSED, &placed, 0)
        if not 0 < len(name) <= MAX_TOPIC:
            return appended(ST_TOPIC_TOO_LONG, &placed, 0)
        if len(body) > 0x7FFFFFFF - MAX_RECORD_EXTRA:
            return appended(ST_BODY_TOO_LARGE, &placed, 0)
        if len(properties) > MAX_PROPERTIES:
            return appended(ST_PROPERTIES_TOO_LARGE, &placed, 0)
        memset(&m, 0, sizeof(m))
        check_queue(name, queue_id)
        if len(body):
            view = body
            m.body = &view[0]
        m.body_len = <int32_t> len(body)
        m.properties = properties
        m.properties_len = <int32_t> len(properties)
        m.flag, m.sys_flag, m.born_timestamp_ms = <int32_t> flag, <int32_t> sys_flag, born_timestamp_ms
        m.born_host_len = host_bytes(born_host[0], born_host[1], m.born_host)
        m.reconsume_times, m.prepared_offset = <int32_t> reconsume_times, prepared_offset
        m.tags_code = tags_code_of(m.properties, m.properties_len) if tags_code is None else tags_code
        if e.ext_enabled and self.bit_maps is not None:
            bits = self.bit_maps(topic, properties) or b""
        bit_map, bit_map_len = bits, <int32_t> len(bits)
        e = entered(self)
        try:
            t = topic_of(e, name)
            with nogil:
                status = put_one(e, t, id32, &m, bit_map, bit_map_len, internal, &placed, &target)
            return appended(status, &placed, target)
        finally:
            left(e)

    def put_batch(self, str topic not None, int64_t queue_id, batch, *, int64_t sys_flag=0, int64_t born_timestamp_ms=0,
                  born_host=("127.0.0.1", 0)):
        cdef Engine* e = <Engine*> self.engine
        cdef MessageIn m
        cdef Placed none
        cdef Placed* placed
        cdef Topic* t
        cdef const uint8_t[::1] view
        cdef const uint8_t* data
        cdef bytes name = topic.encode()
        cdef int64_t target = 0, count, length, bytes_ = 0
        cdef int status
        cdef int32_t id32 = <int32_t> queue_id
        if e.closed:
            return ST_CLOSED, []
        if not 0 < len(name) <= MAX_TOPIC:
            return ST_TOPIC_TOO_LONG, []
        length = len(batch)
        if length == 0:
            return ST_BAD_BATCH, []
        check_queue(name, queue_id)
        memset(&m, 0, sizeof(m))
        m.sys_flag, m.born_timestamp_ms = <int32_t> sys_flag, born_timestamp_ms
        m.born_host_len = host_bytes(born_host[0], born_host[1], m.born_host)
        view = batch
        data = &view[0]
        count = batch_count(data, length, record_fixed(<int32_t> len(name), &m), &bytes_)
        if count <= 0:
            return ST_BAD_BATCH, []
        placed = <Placed*> malloc(count * sizeof(Placed))
        if placed == NULL:
            raise MemoryError
        try:
            e = entered(self)
            try:
                t = topic_of(e, name)
                with nogil:
                    status = put_many(e, t, id32, data, &m, count, bytes_, placed, &target)
            finally:
                left(e)
            return status, [appended(status, &placed[i], target) for i in range(count)] if status == ST_OK else []
        finally:
            free(placed)

    # --- waiting ------------------------------------------------------------------------------------------------

    def watch(self, str topic not None, int64_t queue_id, bint on=True):
        """The queue's present end (0 if it is new); its move past it is told through moved_event_fd."""
        cdef bytes name = topic.encode()
        cdef Engine* e = entered(self)
        cdef Topic* t
        cdef Queue* q = NULL
        cdef int64_t result = 0
        try:
            check_queue(name, queue_id)
            t = topic_of(e, name)
            with nogil:
                pthread_mutex_lock(&e.lock)
                q = queue_get(e, t, <int32_t> queue_id)
                if q != NULL:
                    set_watched(q, WATCH_LOOP, on)
                    result = q.max_offset
                pthread_mutex_unlock(&e.lock)
            if q == NULL:
                raise MemoryError
            return result
        finally:
            left(e)

    def take_moved(self):
        cdef Engine* e = entered(self)
        cdef Queue* taken[64]
        cdef int32_t n, i
        try:
            found = []
            while True:
                with nogil:
                    n = self.hot_take_moved(WATCH_LOOP, taken, 64)
                for i in range(n):
                    found.append(((<bytes> taken[i].topic.name).decode(), taken[i].queue_id, load64(&taken[i].max_offset)))
                if n < 64:
                    return found
        finally:
            left(e)

    def request_flush(self):
        """Ask the flusher to flush now; returns at once."""
        cdef Engine* e = entered(self)
        with nogil:
            pthread_mutex_lock(&e.lock)
            e.flush_asked = True
            pthread_cond_signal(&e.flush_wake)
            pthread_mutex_unlock(&e.lock)
        left(e)

    # --- steps --------------------------------------------------------------------------------------------------

    def flush_step(self):
        """Flush all that is written and, with SYNC_FLUSH, show it to consumers. Bytes made durable; -1: failed."""
        cdef Engine* e = entered(self)
        cdef int64_t result
        try:
            with nogil:
                result = flush_once(e)
            return result
        finally:
            left(e)

    def index_step(self, int64_t max_bytes=1 << 20):
        """Index up to about max_bytes more of the log. Bytes gone over; -1 if the index could not be written."""
        cdef Engine* e = entered(self)
        cdef int64_t result
        try:
            with nogil:
                result = index_follow(e, max_bytes)
            return result
        finally:
            left(e)

    def allocate_step(self):
        """Reserve blocks ahead of the writer, make the next segment. 1 if something was done."""
        cdef Engine* e = entered(self)
        cdef int64_t result
        try:
            with nogil:
                result = allocate_once(e)
            return result
        finally:
            left(e)

    def checkpoint_step(self):
        """StoreError if something could not be synced; the checkpoint before stays valid."""
        cdef Engine* e = entered(self)
        cdef int result
        try:
            with nogil:
                result = checkpoint_once(e)
            if result != 0:
                raise store_error(e, "no checkpoint")
        finally:
            left(e)

    # --- retention ----------------------------------------------------------------------------------------------

    def delete_segments(self, int64_t count):
        cdef Engine* e = entered(self)
        cdef int64_t dropped = 0
        cdef int result
        try:
            with nogil:
                result = drop_segments(e, count, &dropped)
            if result != 0 and dropped == 0:
                raise store_error(e, "cannot delete the commit log file")
            return dropped
        finally:
            left(e)

    def set_disk_full(self, bint full):
        cdef Engine* e = entered(self)
        with nogil:
            pthread_mutex_lock(&e.lock)
            e.disk_full = full
            pthread_mutex_unlock(&e.lock)
        left(e)

    def set_writeable(self, bint writeable):
        cdef Engine* e = entered(self)
        with nogil:
            pthread_mutex_lock(&e.lock)
            e.not_writeable = not writeable
            pthread_mutex_unlock(&e.lock)
        left(e)

    def reconfigure(self, *, max_message_bytes=None, sync_flush=None, flush_interval_ms=None,
                    transfer_bytes_in_memory=None, transfer_count_in_memory=None, transfer_bytes_on_disk=None,
                    transfer_count_on_disk=None, memory_ratio=None):
        cdef Engine* e = entered(self)
        cdef int64_t message, interval, memory_bytes, memory_count, disk_bytes, disk_count, window
        cdef bint sync
        try:
            message = e.max_message if max_message_bytes is None else max_message_bytes
            interval = e.flush_interval_ms if flush_interval_ms is None else flush_interval_ms
            sync = e.sync_flush if sync_flush is None else sync_flush
            memory_bytes = e.memory_bytes if transfer_bytes_in_memory is None else transfer_bytes_in_memory
            memory_count = e.memory_count if transfer_count_in_memory is None else transfer_count_in_memory
            disk_bytes = e.disk_bytes if transfer_bytes_on_disk is None else transfer_bytes_on_disk
            disk_count = e.disk_count if transfer_count_on_disk is None else transfer_count_on_disk
            window = e.memory_window if memory_ratio is None else physical_memory() // 100 * memory_ratio
            with nogil:
                pthread_mutex_lock(&e.lock)
                e.max_message = message
                e.flush_interval_ms = interval
                e.memory_bytes, e.memory_count, e.memory_window = memory_bytes, memory_count, window
                e.disk_bytes, e.disk_count = disk_bytes, disk_count
                if e.sync_flush and not sync and not e.failed:
                    publish(e, e.written)
                e.sync_flush = sync
                pthread_cond_signal(&e.flush_wake)
                pthread_mutex_unlock(&e.lock)
        finally:
            left(e)

    # --- the hot road -------------------------------------------------------------------------------------------

    cdef int hot_begin(self) noexcept nogil:
        return turn_begin(<Engine*> self.engine)

    cdef int hot_put(self, Topic* topic, int32_t queue_id, const MessageIn* message, Placed* placed) noexcept nogil:
        return turn_put(<Engine*> self.engine, topic, queue_id, message, placed)

    cdef int hot_put_batch(self, Topic* topic, int32_t queue_id, const uint8_t* batch, int64_t length,
                           MessageIn* shared, int64_t count, Placed* placed) noexcept nogil:
        cdef int64_t bytes_ = 0
        if batch_count(batch, length, record_fixed(topic.name_len, shared), &bytes_) != count:
            return ST_BAD_BATCH
        return turn_put_batch(<Engine*> self.engine, topic, queue_id, batch, shared, count, bytes_, placed)

    cdef int hot_commit(self) noexcept nogil:
        return turn_commit(<Engine*> self.engine)

    cdef Topic* topic_find(self, const char* name, size_t length) noexcept nogil:
        return topic_lookup(<Engine*> self.engine, name, length)

    cdef int64_t flushed_offset(self) noexcept nogil:
        return load64(&(<Engine*> self.engine).flushed)

    cdef int64_t written_offset(self) noexcept nogil:
        return load64(&(<Engine*> self.engine).written)

    cdef int failed_status(self) noexcept nogil:
        return load_int(&(<Engine*> self.engine).failed)

    cdef bint sync_flush(self) noexcept nogil:
        return (<Engine*> self.engine).sync_flush

    cdef void store_host(self, uint8_t* out8) noexcept nogil:
        memcpy(out8, (<Engine*> self.engine).host, 8)

    cdef int hot_read(self, Queue* queue, int64_t offset, int32_t max_messages, int64_t max_bytes,
                      const int64_t* tag_codes, int32_t tag_count, int32_t max_scanned,
                      QueueEntry* out, int32_t room, ReadSummary* summary) noexcept nogil:
        return read_by_rules(<Engine*> self.engine, queue, offset, max_messages, max_bytes, tag_codes, tag_count,
                             NULL, max_scanned, out, room, summary)

    cdef bint hot_hold(self, int64_t log_offset, int32_t size, Extent* extent) noexcept nogil:
        cdef Segment* s = hold_record(<Engine*> self.engine, log_offset, size)
        if s == NULL:
            return False
        extent.data = s.map + (log_offset - s.base)
        extent.size = size
        extent.holder = s
        return True

    cdef void hot_release(self, void* holder) noexcept nogil:
        release(<Engine*> self.engine, <Segment*> holder)

    cdef Queue* hot_queue(self, Topic* topic, int32_t queue_id) noexcept nogil:
        cdef Engine* e = <Engine*> self.engine
        cdef Queue* q
        pthread_mutex_lock(&e.lock)
        q = queue_get(e, topic, queue_id)
        pthread_mutex_unlock(&e.lock)
        return q

    cdef int32_t hot_subscribe(self) noexcept nogil:
        return watcher_add(<Engine*> self.engine)

    cdef void hot_unsubscribe(self, int32_t who) noexcept nogil:
        watcher_remove(<Engine*> self.engine, who)

    cdef int hot_flush_event(self, int32_t who) noexcept nogil:
        return (<Engine*> self.engine).watchers[who].flush_event

    cdef int hot_moved_event(self, int32_t who) noexcept nogil:
        return (<Engine*> self.engine).watchers[who].moved_event

    cdef int64_t hot_watch(self, Queue* queue, int32_t who, bint on) noexcept nogil:
        cdef Engine* e = <Engine*> self.engine
        cdef int64_t end
        pthread_mutex_lock(&e.lock)
        set_watched(queue, who, on)
        end = queue.max_offset
        pthread_mutex_unlock(&e.lock)
        return end

    cdef int32_t hot_take_moved(self, int32_t who, Queue** out, int32_t room) noexcept nogil:
        return take_moved_of(<Engine*> self.engine, who, out, room)
