# Opening a store: load what is there, find the place from which queues and index may be incomplete, go over the log from
# there, and cut what is not a record. No timestamp alone is ever trusted.
#
# Where the scan of the log starts:
#   our note in `checkpoint` is valid      at the note: below it the queues are complete and durable
#   clean exit of Apache's broker          at the newest log file that begins at or before the end of the queues
#   crash of Apache's broker               the same, or an older file that begins before checkpoint.minTimestamp
#   no consume queue at all                at the beginning of the log

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

    if noted and e.run_count and not newest_is_whole(e, queues_end):
        log.append(f"{os.fsdecode(e.root)}/checkpoint: offset {CHECK_QUEUES}: says {e.durable_queues}, "
                   f"but there is no record at {queues_end}; not used")
        noted = False
        e.durable_queues = e.durable_index = -1
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
            if e.lmq_turn != NULL and e.queues[i].queue_id == 0 and not lmq_is_new(e.queues[i]) and lmq_topic(
                    e.queues[i].topic.name, e.queues[i].topic.name_len):
                e.lmq_count += 1
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


cdef bint newest_is_whole(Engine* e, int64_t log_offset) noexcept nogil:
    """Whether the newest record that a queue names is there; where none is named or it is gone, that counts as well."""
    cdef Segment* s = run_find(e, log_offset)
    cdef Record r
    if log_offset < 0 or s == NULL:
        return True
    return (parse_record(s.map + (log_offset - s.base), s.base + s.length - log_offset, &r) == 1
            and r.log_offset == log_offset
            and (not e.check_crc or (e.crc(0, r.body, r.body_len) & 0x7FFFFFFF) == r.body_crc))


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
    if e.index_skip >= e.written:
        e.index_skip = -1       # the log has lost its end, and goes on with other records
    if e.index_count and (crashed or get64(e.index[e.index_count - 1].map + X_END_OFFSET) >= e.written):
        x = e.index[e.index_count - 1]
        with nogil:
            status = index_truncate(e, x, keep_below)
        check(e, status, "cannot repair the index file")
        log.append(f"{os.fsdecode(e.root)}/{x.path.decode()}: offset {X_HEADER}: slots rebuilt from "
                   f"{index_entries_in(e, x) - 1} entries below {keep_below}")
    store64(&e.indexed, keep_below)
    return 0
