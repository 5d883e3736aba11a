# Going over the log again, from where the queues may be incomplete.
#
# What the scan does with a record whose queue offset is
#   the queue's end           adds the entry
#   below the end             nothing if that entry is this record or a later one (the topic was made anew since);
#                             otherwise the queue is wrong from there on: it is cut there and goes on with this record
#   0, later than the end     the topic was deleted and made again: the queue begins anew
#   beyond what can be        nothing: the record is damaged, there is no room in the log for all those before it
#   beyond the end            queue files are missing: everything is rebuilt from the beginning of the log, once;
#                             what is missing then too is missing in the log, and blank entries keep the numbers right

cdef enum:
    SCAN_GAP = -100

cdef struct Scan:
    int64_t at                  # where it stopped: the end of the log
    int64_t records
    int64_t added
    int64_t cuts
    int64_t last_time
    const char* reason


cdef bint offset_is_possible(Record* r, int64_t end, int64_t last) noexcept nogil:
    """Whether the messages between a queue's end, its newest record at `last`, and this one fit into the log between them."""
    if r.queue_offset < 0 or r.queue_offset >> 56:      # its place in the files has to be a number of 64 bits
        return False
    return last < 0 or r.queue_offset <= end or r.queue_offset - end <= (r.log_offset - last) // R_FIXED


cdef int recover_entry(Engine* e, Record* r, int64_t tags_code, bint ext, bint rebuilding, Scan* scan) noexcept nogil:
    """What the table at the top says."""
    cdef Topic* topic
    cdef Queue* q
    cdef int64_t end, last
    if r.queue_id < 0 or r.queue_id >= MAX_QUEUE_ID or not is_folder_name(r.topic, r.topic_len):
        return ST_OK        # no checksum covers these fields
    topic = topic_get(e, <const char*> r.topic, r.topic_len)
    q = queue_get(e, topic, r.queue_id) if topic != NULL else NULL
    if q == NULL:
        return ST_NO_MEMORY
    end = queue_end(q)
    last = queue_last_log(q)
    if (<QueueFiles*> q.files).batch or not offset_is_possible(r, end, last):
        return ST_OK
    if r.queue_offset != end and last >= r.log_offset and (
            r.queue_offset > end or queue_log_at(e, q, r.queue_offset) >= r.log_offset):
        return ST_OK
    if r.queue_offset != end and (r.queue_offset < end or r.queue_offset == 0):
        write_touched(e, 0)
        if e.touched_count or queue_cut(e, q, r.queue_offset) != 0:
            return ST_IO_ERROR
        scan.cuts += 1
    elif r.queue_offset > end:
        if not rebuilding:
            return SCAN_GAP
        if (<QueueFiles*> q.files).first_base < 0 and (<QueueFiles*> q.files).unwritten_count == 0:
            store64(&q.max_offset, r.queue_offset)
            store64(&q.min_offset, r.queue_offset)
            (<QueueFiles*> q.files).tail_from = r.queue_offset
        elif r.queue_offset - end <= 1_000_000:
            while end < r.queue_offset:
                if not entry_add(e, q, 0, BLANK_SIZE, 0):
                    return ST_NO_MEMORY
                end += 1
        else:
            write_touched(e, 0)
            if e.touched_count or queue_cut(e, q, 0) != 0:
                return ST_IO_ERROR
            store64(&q.max_offset, r.queue_offset)
            store64(&q.min_offset, r.queue_offset)
            (<QueueFiles*> q.files).tail_from = r.queue_offset
    if ext:
        tags_code = ext_add(e, q, tags_code, r.store_time, NULL, 0)
    if not entry_add(e, q, r.log_offset, r.size, tags_code):
        return ST_NO_MEMORY
    q.next_offset = r.queue_offset + 1
    scan.added += 1
    return ST_OK


cdef int recover_scan(Engine* e, int64_t start, int64_t dispatch_from, bint rebuilding, Scan* scan) noexcept nogil:
    """Go over the log from `start`; records at or after dispatch_from get their queue entries."""
    cdef int64_t i, at, room
    cdef Segment* s
    cdef Record r
    cdef int kind, status
    cdef int64_t tags_code
    cdef int64_t since_write = 0
    cdef uint8_t* p
    scan.at = start
    scan.reason = "the last file is full"
    i = (start - e.run[0].base) // e.segment_bytes
    while i < e.run_count:
        s = e.run[i]
        madvise(s.map, s.length, MADV_SEQUENTIAL)
        madvise(s.map, s.length, MADV_WILLNEED)
        at = scan.at - s.base
        kind = 1
        while at <= s.length - FILLER_BYTES:
            p = s.map + at
            room = s.length - at
            kind = parse_record(p, room, &r)
            if kind == 0 and r.size != room:
                kind = -1
                scan.reason = "a filler of a wrong length"
                break
            if kind < 0:
                scan.reason = "no record" if get32(p) == 0 and get32(p + 4) == 0 else "a malformed record"
            elif kind == 1 and r.log_offset != s.base + at:
                kind = -1
                scan.reason = "a record that belongs elsewhere"
            elif kind == 1 and e.check_crc and (e.crc(0, r.body, r.body_len) & 0x7FFFFFFF) != r.body_crc:
                kind = -1
                scan.reason = "a body that does not match its CRC"
            if kind != 1:
                break
            scan.records += 1
            if r.store_time > scan.last_time:
                scan.last_time = r.store_time
            if s.base + at >= dispatch_from and not (r.sys_flag & SYS_INNER_BATCH) and (
                    (r.sys_flag & SYS_TRANSACTION) != SYS_PREPARED and (r.sys_flag & SYS_TRANSACTION) != SYS_ROLLBACK):
                tags_code = tags_code_of(r.properties, r.properties_len)
                if r.topic_len == 19 and memcmp(r.topic, SCHEDULE_TOPIC, 19) == 0:
                    tags_code = schedule_code(e, r.properties, r.properties_len, r.store_time, tags_code)
                status = recover_entry(e, &r, tags_code, e.ext_enabled, rebuilding, scan)
                if status == ST_OK and e.lmq_turn != NULL:
                    status = lmq_recover(e, &r, tags_code, rebuilding, scan)
                if status != ST_OK:
                    scan.at = s.base + at
                    return status
                since_write += 1
                if since_write >= 200_000:
                    since_write = 0
                    write_touched(e, 0)
                    if e.touched_count:
                        return ST_IO_ERROR
            at += r.size
        madvise(s.map, s.length, MADV_NORMAL)
        if kind == 0:
            at = s.length
        scan.at = s.base + at
        if kind < 0:
            break
        if at < s.length:
            # less than a filler's length is left: no record can end there, the file ends in the middle of nothing
            scan.reason = "a file that ends without filler"
            break
        i += 1
    write_touched(e, 0)
    return ST_OK if e.touched_count == 0 else ST_IO_ERROR


cdef int report_scan(Engine* e, int64_t start, Scan* scan, list log) except -1:
    base = scan.at - scan.at % e.segment_bytes
    log.append(f"{os.fsdecode(e.log_path)}/{base:020d}: offset {scan.at}: {scan.records} records from {start} on, "
               f"{scan.added} queue entries added; the log ends here: {scan.reason.decode()}")
    if scan.cuts:
        log.append(f"{os.fsdecode(e.root)}/consumequeue: offset {scan.at}: {scan.cuts} queues did not match the log "
                   "and were cut where they began to differ")
    return 0
