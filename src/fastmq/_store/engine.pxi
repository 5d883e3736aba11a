# The engine behind a Store: one struct, one lock, and the table of topics and queues.
#
# Locks, outermost first:
#   lock       the store's lock: everything below unless said otherwise. Taken without holding the GIL, always: a
#              thread that holds it may have to wait for the GIL (a wall clock given by a test), never the reverse.
#   seg_lock   the run of segments and their reference counts. Held for a few instructions, never around a file call,
#              so that readers are not held up by a turn's pwrite. Changing the run needs both.
#   flush_lock one flush at a time (flush_step may be called by anyone); taken before `lock`.
#   spare_lock inside `lock`: while a segment file is being made.
#   check_lock one checkpoint or index step at a time; taken before flush_lock.
#
# topic_find takes no lock: buckets are linked lists that only grow at their heads, and tables that were outgrown
# are kept until the engine is freed, so a reader never meets freed memory.

cdef enum:
    TAIL_ENTRIES = 32           # newest entries of a queue kept in memory, a power of two
    PATH_BYTES = 4096
    CACHED_AHEAD = 16 << 20     # pages of the log that are made before the writer comes to them
    CACHED_STEP = 1 << 20       # the allocator is woken for
    CACHED_PIECE = 128 << 10    # of one call: many kernels let no other thread have the core before it returns
    FLUSH_TAIL = 1 << 20        # at least as much as a page of the page cache may be
    FLUSH_PIECES = 4            # what is appended while one is handed over is the next
    TURN_BYTES = 4 << 20        # turn buffer; one larger record or batch makes it grow
    CLOCK_SLACK_MS = 10_000     # store times do not follow a clock that goes back by less
    LMQ_MAX = 1024              # light queues of one message
    LMQ_TEXT_BYTES = 32768
    TOPIC_SCHEDULE = 0x10000    # private topic flag: SCHEDULE_TOPIC_XXXX, whose tags code is a time

cdef struct Segment:
    int64_t base
    int fd                      # -1 once full and flushed
    uint8_t* map
    int64_t allocated           # bytes from the start that have blocks (what we know of)
    int64_t cached              # bytes from the start that have pages in the page cache, as far as the writer goes
    int references              # guarded by seg_lock; the run itself holds one
    int64_t length

cdef struct QueueFiles:
    int fd                      # of the newest file, -1: not open
    int64_t fd_base
    int64_t first_base          # byte offset of the oldest file, -1: there is no file
    int64_t allocated           # in the newest file
    int64_t last_log_offset     # of the newest entry, -1: none
    uint8_t* unwritten          # entries taken from `pending` that are not in the file yet
    int32_t unwritten_count
    int32_t unwritten_room
    int64_t unwritten_log       # log offset of the first of them
    bint touched                # on the touched list
    bint dirty                  # on the dirty list: written since the last checkpoint
    bint new_files              # a directory entry was made since the last checkpoint
    bint batch                  # a BatchCQ queue: 46-byte entries, read only
    int ext_fd                  # of the file of consumequeue_ext that was written last, -1: not open
    int64_t ext_base            # and where it begins
    int64_t ext_first, ext_last # first and newest ext file, -1: there is none
    int64_t ext_end             # where the next unit goes, -1: to be found out
    int64_t tail_from           # lowest entry number that `tail` holds
    QueueEntry tail[TAIL_ENTRIES]

cdef struct TopicNode:
    Topic topic                 # first, so that a Topic* is a TopicNode*
    uint32_t hash
    TopicNode* next

cdef struct TopicTable:
    int64_t buckets             # a power of two
    TopicNode** heads
    TopicTable* older           # outgrown tables, freed with the engine

cdef struct Pending:            # appended, not yet visible to consumers
    Queue* queue
    int64_t log_offset
    int64_t end
    int64_t tags_code
    int64_t store_time
    uint8_t* bits               # bit map for consumequeue_ext, or NULL; freed when published or undone
    int32_t bits_len
    bint derived                # an entry in a light queue: it has no ext unit

cdef struct LmqTurn:            # the light queues of the message being encoded
    Queue* queues[LMQ_MAX]
    int32_t count
    uint8_t text[LMQ_TEXT_BYTES]
    int32_t text_len

cdef struct IndexFile:
    char path[64]               # relative to the root
    int fd                      # -1 for files that are only read
    uint8_t* map
    int64_t length
    int64_t reserved            # entries that have blocks
    bint dirty

# Somebody who sleeps until the log is flushed or a queue has moved: Python's loop, and each reactor. See watch.pxi.
cdef struct Watcher:
    bint used
    int flush_event             # eventfd: flushed_offset moved, or the log failed
    int moved_event             # eventfd: there are queues in `moved`
    Queue** moved               # queues it watched whose end moved
    int64_t moved_count
    bint fresh                  # it has not been told of all of them

cdef struct Engine:
    FileCalls files
    pthread_mutex_t lock
    pthread_mutex_t seg_lock
    pthread_mutex_t flush_lock
    pthread_mutex_t check_lock
    pthread_cond_t flush_wake
    pthread_cond_t index_wake
    pthread_cond_t allocate_wake
    pthread_cond_t idle         # users fell to 0
    void* clock                 # a Python callable (borrowed from the Store), or NULL for the system's
    bint opened
    int closed                  # atomic
    int users                   # calls under way; guarded by lock
    bint stopping               # the threads shall end
    char* root
    char* log_path
    int root_fd
    int lock_fd
    int log_fd                  # the folder of the log, locked
    int away_fds[2]             # folders of queue files that are links to other file systems than root's, or -1
    int error_number            # of the file call that failed last, and its path
    char error_path[PATH_BYTES]
    uint8_t host[8]

    # settings
    int64_t segment_bytes, queue_file_bytes, index_slots, index_entries
    bint index_enabled, sync_flush, check_crc
    int64_t flush_interval_ms, flush_least_pages, flush_thorough_ms, queue_flush_ms
    int64_t allocate_step
    int64_t max_message
    int64_t delay_ms[64]
    int32_t delay_levels
    int64_t memory_window       # bytes behind the end of the log that count as in memory
    int64_t memory_bytes, memory_count, disk_bytes, disk_count
    fq_crc_kernel crc

    bint ext_enabled            # queue entries get units in consumequeue_ext
    int64_t ext_file_bytes
    LmqTurn* lmq_turn           # NULL: messages are in their own queue only
    int64_t lmq_limit           # light queues there may be

    # why appends are refused
    int failed                  # atomic: ST_OK, or ST_FLUSH_FAILED for ever; then the two that follow say where
    int failed_error
    char failed_path[PATH_BYTES]
    bint disk_full
    bint not_writeable
    bint queue_error            # queue entries wait to be written (WRITE_LOGICS_QUEUE_ERROR)
    bint queue_sync_failed      # the durable offset moves no more

    # the log
    Segment** run
    int32_t run_count, run_room
    pthread_mutex_t spare_lock  # guards the two that follow, and the making of segment files
    Segment* spare              # the next segment, made ahead of time
    int64_t next_base           # where the segment after the last of the run begins
    int64_t written             # (atomic) end of the log
    int64_t flushed             # (atomic)
    int64_t dirty_until         # bytes of failed writes may stand up to here
    int64_t last_time           # newest store time
    int64_t flushed_time        # store time of the newest flushed record
    bint flush_asked
    int64_t last_flush_ms       # monotonic

    # the turn under way (between hot_begin and hot_commit)
    uint8_t* turn
    int64_t turn_room
    int64_t turn_used
    int64_t turn_time
    int64_t turn_pending        # pend_tail when it began
    int32_t turn_count
    int turn_rolled
    bint turn_plain             # a client batch: no light queues
    bint turn_internal          # of the broker itself: maxMessageSize does not count
    const uint8_t* turn_bits    # bit map of the message being encoded
    int32_t turn_bits_len

    # topics and queues
    TopicTable* topics
    int64_t topic_count
    Queue** queues
    int64_t queue_count, queue_room
    Queue** touched
    int64_t touched_count
    Queue** dirty
    int64_t dirty_count
    Watcher watchers[WATCHERS_MAX]
    bint sync_whole             # a written queue file was closed: the next checkpoint has to sync the file system
    int64_t open_queues, open_queue_limit, evict_hand
    int64_t ext_open                # descriptors of ext files
    int64_t lmq_count               # light queues that hold or held messages
    Pending* pending            # a ring; head and tail count up for ever
    int64_t pend_head, pend_tail, pend_room
    int64_t dispatched          # (atomic)

    void** retired              # outgrown arrays that readers without the lock may still look into
    int64_t retired_count, retired_room

    # the index
    IndexFile** index
    int32_t index_count, index_room
    int64_t indexed             # (atomic)
    int64_t index_skip          # records at or below this offset are indexed already (a clean stop of Apache's)
    int64_t index_full_time     # end time of the newest full, flushed file
    bint index_waiting          # the thread sleeps until told
    pthread_mutex_t index_lock  # the index files; index steps and queries

    # checkpoint
    int check_fd
    uint8_t check[CHECK_BYTES]
    int64_t durable_queues, durable_index

    # counters
    int64_t n_puts, n_put_bytes, n_commits, n_flushes, n_queue_writes, n_inline_allocations, n_index_entries
    int64_t n_reads, n_read_messages, n_checkpoints, n_refused, n_ext_failures


cdef int64_t system_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec * 1000 + t.tv_nsec // 1000000

cdef int64_t monotonic_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec * 1000 + t.tv_nsec // 1000000

cdef int64_t wall_ms(Engine* e) noexcept nogil:
    """Wall clock in ms. A test's clock that raises counts as the system's."""
    if e.clock == NULL:
        return system_ms()
    with gil:
        try:
            return (<object> e.clock)()
        except Exception:
            return system_ms()


cdef void wait_ms(pthread_cond_t* condition, pthread_mutex_t* mutex, int64_t ms) noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    t.tv_sec += ms // 1000
    t.tv_nsec += (ms % 1000) * 1000000
    if t.tv_nsec >= 1000000000:
        t.tv_sec += 1
        t.tv_nsec -= 1000000000
    pthread_cond_timedwait(condition, mutex, &t)


cdef void signal_event(int fd) noexcept nogil:
    cdef uint64_t one = 1
    if write(fd, &one, 8) < 0:
        pass        # the counter is at its top: it is readable already


cdef void note_error(Engine* e, const char* path) noexcept nogil:
    """Keep errno and the path for the sentence that tells of it."""
    e.error_number = errno
    snprintf(e.error_path, PATH_BYTES, "%s", path)


cdef void fail_log(Engine* e) noexcept nogil:
    """The log takes no more writes, for the reason noted last. Under the lock."""
    e.failed_error = e.error_number
    memcpy(e.failed_path, e.error_path, PATH_BYTES)
    store_int(&e.failed, ST_FLUSH_FAILED)


cdef Engine* engine_new() except NULL:
    cdef Engine* e = <Engine*> calloc(1, sizeof(Engine))
    cdef pthread_condattr_t attributes
    if e == NULL:
        raise MemoryError
    file_calls_init(&e.files)
    pthread_mutex_init(&e.lock, NULL)
    pthread_mutex_init(&e.seg_lock, NULL)
    pthread_mutex_init(&e.flush_lock, NULL)
    pthread_mutex_init(&e.spare_lock, NULL)
    pthread_mutex_init(&e.check_lock, NULL)
    pthread_mutex_init(&e.index_lock, NULL)
    pthread_condattr_init(&attributes)
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    pthread_cond_init(&e.flush_wake, &attributes)
    pthread_cond_init(&e.index_wake, &attributes)
    pthread_cond_init(&e.allocate_wake, &attributes)
    pthread_cond_init(&e.idle, &attributes)
    pthread_condattr_destroy(&attributes)
    e.root_fd = e.lock_fd = e.check_fd = e.log_fd = e.away_fds[0] = e.away_fds[1] = -1
    e.crc = fq_crc_select(FQ_CRC_AUTO)
    e.turn_room = TURN_BYTES
    e.turn = <uint8_t*> malloc(e.turn_room)
    e.pend_room = 4096
    e.pending = <Pending*> malloc(e.pend_room * sizeof(Pending))
    e.topics = topic_table_new(256)
    e.index_skip = -1
    if e.turn == NULL or e.pending == NULL or e.topics == NULL:
        engine_free(e)
        raise MemoryError
    return e


cdef void engine_free(Engine* e) noexcept:
    """Free the memory. Files were closed by close() or by a failed open."""
    cdef TopicTable* table = e.topics
    cdef TopicTable* older
    cdef TopicNode* node
    cdef TopicNode* next_node
    cdef int64_t i
    cdef QueueFiles* f
    if table != NULL:
        for i in range(table.buckets):
            node = table.heads[i]
            while node != NULL:
                next_node = node.next
                free(<void*> node.topic.name)
                free(node.topic.queues)
                free(node)
                node = next_node
    while table != NULL:
        older = table.older
        free(table.heads)
        free(table)
        table = older
    for i in range(e.queue_count):
        f = <QueueFiles*> e.queues[i].files
        free(f.unwritten)
        free(f)
        free(e.queues[i])
    for i in range(e.retired_count):
        free(e.retired[i])
    free(e.retired)
    free(e.queues)
    free(e.touched)
    free(e.dirty)
    for i in range(WATCHERS_MAX):
        watcher_free(&e.watchers[i])
    while e.pend_head < e.pend_tail:
        free(e.pending[e.pend_head & (e.pend_room - 1)].bits)
        e.pend_head += 1
    free(e.pending)
    free(e.lmq_turn)
    free(e.turn)
    free(e.run)
    free(e.index)
    free(e.root)
    free(e.log_path)
    free(e.files.faults)
    pthread_mutex_destroy(&e.lock)
    pthread_mutex_destroy(&e.seg_lock)
    pthread_mutex_destroy(&e.flush_lock)
    pthread_mutex_destroy(&e.spare_lock)
    pthread_mutex_destroy(&e.check_lock)
    pthread_mutex_destroy(&e.index_lock)
    free(e)


# --- topics ---------------------------------------------------------------------------------------------------

cdef TopicTable* topic_table_new(int64_t buckets) noexcept nogil:
    cdef TopicTable* table = <TopicTable*> calloc(1, sizeof(TopicTable))
    if table == NULL:
        return NULL
    table.buckets = buckets
    table.heads = <TopicNode**> calloc(buckets, sizeof(TopicNode*))
    if table.heads == NULL:
        free(table)
        return NULL
    return table


cdef uint32_t name_hash(const char* name, size_t length) noexcept nogil:
    cdef uint32_t h = 2166136261u
    cdef size_t i
    for i in range(length):
        h = (h ^ <uint8_t> name[i]) * 16777619u
    return h


cdef Topic* topic_lookup(Engine* e, const char* name, size_t length) noexcept nogil:
    """The topic of that name or NULL. Needs no lock."""
    cdef TopicTable* table = <TopicTable*> load_ptr(&e.topics)
    cdef uint32_t h = name_hash(name, length)
    cdef TopicNode* node = <TopicNode*> load_ptr(&table.heads[h & (table.buckets - 1)])
    while node != NULL:
        if node.hash == h and <size_t> node.topic.name_len == length and memcmp(node.topic.name, name, length) == 0:
            return &node.topic
        node = <TopicNode*> load_ptr(&node.next)
    return NULL


cdef Topic* topic_get(Engine* e, const char* name, size_t length) noexcept nogil:
    """The topic of that name, made (unknown to the broker: no permission, no queues) if needed. NULL: no memory."""
    cdef Topic* found = topic_lookup(e, name, length)
    cdef TopicNode* node
    cdef TopicNode** head
    cdef char* copy
    if found != NULL:
        return found
    if e.topic_count >= e.topics.buckets:
        topics_grow(e)
    node = <TopicNode*> calloc(1, sizeof(TopicNode))
    copy = <char*> malloc(length + 1)
    if node == NULL or copy == NULL:
        free(node)
        free(copy)
        return NULL
    memcpy(copy, name, length)
    copy[length] = 0
    node.topic.name = copy
    node.topic.name_len = <int32_t> length
    if strcmp(copy, SCHEDULE_TOPIC) == 0:
        node.topic.flags = TOPIC_SCHEDULE
    node.hash = name_hash(name, length)
    head = &e.topics.heads[node.hash & (e.topics.buckets - 1)]
    node.next = head[0]
    store_ptr(head, node)
    e.topic_count += 1
    return &node.topic


cdef void topics_grow(Engine* e) noexcept nogil:
    """Twice the buckets. Nodes are relinked from the far end of each list, so a reader of the old table may miss
    a topic for a moment but never follows a wrong pointer; a miss sends the request down the cold road."""
    cdef TopicTable* old = e.topics
    cdef TopicTable* new = topic_table_new(old.buckets * 2)
    cdef TopicNode* node
    cdef TopicNode* next_node
    cdef TopicNode** head
    cdef int64_t i
    if new == NULL:
        return              # longer lists, nothing worse
    for i in range(old.buckets):
        node = old.heads[i]
        while node != NULL:
            next_node = node.next
            head = &new.heads[node.hash & (new.buckets - 1)]
            store_ptr(&node.next, head[0])
            head[0] = node
            node = next_node
    new.older = old
    store_ptr(&e.topics, new)


cdef Queue* queue_lookup(Topic* topic, int32_t queue_id) noexcept nogil:
    cdef Queue** slots
    if topic == NULL or queue_id < 0 or queue_id >= load_int(<int*> &topic.queue_slots):
        return NULL
    slots = <Queue**> load_ptr(&topic.queues)
    return <Queue*> load_ptr(&slots[queue_id])


cdef bint room_for(void*** array, int64_t old, int64_t new) noexcept nogil:
    cdef void** grown = <void**> realloc(array[0], new * sizeof(void*))
    if grown == NULL:
        return False
    array[0] = grown
    return True


cdef bint retire(Engine* e, void* memory) noexcept nogil:
    """Free this memory with the engine and not before."""
    if e.retired_count == e.retired_room:
        if not room_for(&e.retired, e.retired_room, e.retired_room + 64):
            return False
        e.retired_room += 64
    e.retired[e.retired_count] = memory
    e.retired_count += 1
    return True


cdef Queue* queue_get(Engine* e, Topic* topic, int32_t queue_id) noexcept nogil:
    """The queue, made if needed (no files yet). NULL: no memory, or an id nobody can mean."""
    cdef Queue* queue = queue_lookup(topic, queue_id)
    cdef QueueFiles* f
    cdef Queue** slots
    cdef int64_t room
    cdef int32_t wanted
    if queue != NULL:
        return queue
    if queue_id < 0 or queue_id >= MAX_QUEUE_ID:
        return NULL
    if queue_id >= topic.queue_slots:
        wanted = max(queue_id + 1, min(topic.queue_slots * 2, 1024), topic.write_queues, 4)
        slots = <Queue**> calloc(wanted, sizeof(Queue*))
        if slots == NULL:
            return NULL
        if topic.queue_slots:
            memcpy(slots, topic.queues, topic.queue_slots * sizeof(Queue*))
            if not retire(e, topic.queues):     # a reader without the lock may still look into the old array
                free(slots)
                return NULL
        store_ptr(&topic.queues, slots)
        store_int(<int*> &topic.queue_slots, wanted)
    if e.queue_count == e.queue_room:
        room = max(e.queue_room * 2, 64)
        if (not room_for(<void***> &e.queues, e.queue_room, room) or not room_for(<void***> &e.touched, e.queue_room, room)
                or not room_for(<void***> &e.dirty, e.queue_room, room)
                or not watchers_grow(e, room)):
            return NULL
        e.queue_room = room
    queue = <Queue*> calloc(1, sizeof(Queue))
    f = <QueueFiles*> calloc(1, sizeof(QueueFiles))
    if queue == NULL or f == NULL:
        free(queue)
        free(f)
        return NULL
    queue.topic = topic
    queue.queue_id = queue_id
    queue.files = f
    f.fd = -1
    f.first_base = -1
    f.last_log_offset = -1
    f.ext_fd = -1
    f.ext_first = f.ext_last = f.ext_end = -1
    e.queues[e.queue_count] = queue
    e.queue_count += 1
    store_ptr(&topic.queues[queue_id], queue)
    return queue
