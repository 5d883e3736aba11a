# Grants, hot pulls, held pulls and offset commits, as functions over the reactor. All under its lock.

cdef Progress* progress_find(Reactor r, const uint8_t* group, int32_t group_length, const uint8_t* topic,
                             int32_t topic_length) noexcept nogil:
    cdef uint64_t h = progress_hash(group, group_length, topic, topic_length)
    cdef Progress* progress = r.progress[h & (TABLE_SLOTS - 1)]
    while progress != NULL:
        if (progress.group_length == group_length and progress.topic_length == topic_length
                and memcmp(progress.name, group, group_length) == 0
                and memcmp(progress.name + group_length, topic, topic_length) == 0):
            return progress
        progress = progress.chain
    return NULL


cdef Progress* progress_make(Reactor r, const uint8_t* group, int32_t group_length, const uint8_t* topic,
                             int32_t topic_length, int32_t queues) noexcept nogil:
    """The entry of a group and topic with room for so many queues, or NULL."""
    cdef Progress* progress = progress_find(r, group, group_length, topic, topic_length)
    cdef QueueProgress* by_queue
    cdef uint64_t slot
    cdef int32_t i
    if progress == NULL:
        if r.progress_count >= PROGRESS_MAX:
            return NULL
        progress = <Progress*>calloc(1, sizeof(Progress))
        if progress == NULL:
            return NULL
        progress.name = <uint8_t*>malloc(group_length + topic_length)
        if progress.name == NULL:
            free(progress)
            return NULL
        memcpy(progress.name, group, group_length)
        memcpy(progress.name + group_length, topic, topic_length)
        progress.group_length = group_length
        progress.topic_length = topic_length
        slot = progress_hash(group, group_length, topic, topic_length) & (TABLE_SLOTS - 1)
        progress.chain = r.progress[slot]
        r.progress[slot] = progress
        r.progress_count += 1
    if progress.queues < queues:
        by_queue = <QueueProgress*>realloc(progress.by_queue, queues * sizeof(QueueProgress))
        if by_queue == NULL:
            return NULL
        progress.by_queue = by_queue
        for i in range(progress.queues, queues):
            memset(&by_queue[i], 0, sizeof(QueueProgress))
            by_queue[i].known = by_queue[i].committed = by_queue[i].pulled = -1
        progress.queues = queues
    return progress


cdef inline void progress_changed(Reactor r, Progress* progress) noexcept nogil:
    if not progress.changed:
        progress.changed = True
        progress.next_changed = r.changed
        r.changed = progress


cdef PullGrant* grant_find(Progress* progress, const PullHeader* header) noexcept nogil:
    cdef PullGrant* grant
    cdef bint brings = (header.sys_flag & PULL_SUBSCRIPTION) != 0
    if progress == NULL or not progress.granted:
        return NULL
    grant = <PullGrant*>progress.grants
    while grant != NULL:
        if (grant.alive and grant.brings_filter == brings and (grant.lite or not header.lite)
                and (grant.filter_length == header.subscription.length if brings
                     else header.sub_version <= grant.sub_version)
                and (not brings or grant.filter_length == 0     # then there may be no text to compare with
                     or memcmp(grant.filter, header.subscription.data, grant.filter_length) == 0)):
            return grant
        grant = grant.next
    return NULL


cdef void take_news(Reactor r, Buffer* news) noexcept nogil:
    """Copy what Python has to know and count it as told. What there is no memory for stays for the next time."""
    cdef Progress* progress
    cdef QueueProgress* q
    cdef ProgressNews* row
    cdef int32_t i
    while r.changed != NULL:
        progress = r.changed
        if buffer_reserve(news, (progress.queues + 1) * sizeof(ProgressNews)) == NULL:
            return
        r.changed = progress.next_changed
        progress.changed = False
        for i in range(progress.queues):
            q = &progress.by_queue[i]
            if q.commits or q.pulled >= 0:
                row = <ProgressNews*>(news.data + news.end)
                memset(row, 0, sizeof(ProgressNews))
                row.queue_id = i
                row.queue = q[0]
                news.end += sizeof(ProgressNews)
                q.pulled = -1
                q.commits = q.pulls = q.messages = q.bytes = 0
        row = <ProgressNews*>(news.data + news.end)
        memset(row, 0, sizeof(ProgressNews))
        row.progress = progress
        row.missed = progress.missed
        news.end += sizeof(ProgressNews)
        progress.missed = 0


cdef void grant_free(PullGrant* grant) noexcept nogil:
    free(grant.tag_codes)
    free(grant.filter)
    free(grant)


cdef void revoke_all(Reactor r) noexcept nogil:
    """No pull is hot until Python grants it again. Grants that held pulls point to live on, dead."""
    cdef PullGrant* grant = r.grants
    cdef PullGrant* following
    cdef int32_t i
    r.grants = NULL
    while grant != NULL:
        following = grant.next_all
        grant.alive = False
        for i in range(grant.progress.queues):
            grant.progress.by_queue[i].known = -1
        grant.progress.granted = False
        grant.progress.grants = NULL
        if grant.holds == 0:
            grant_free(grant)
        grant = following


# --- the deferred frames of a turn ------------------------------------------------------------------------------------

cdef bint defer(Reactor r, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
    """Keep a consumer's frame for the end of the turn. False: without memory."""
    cdef uint8_t* room = buffer_reserve(&r.deferred, length + 8)
    if room == NULL:
        return False
    memcpy(room, &c.id, 8)
    memcpy(room + 8, frame, length)
    r.deferred.end += length + 8
    return True


cdef void serve_deferred(Reactor r) noexcept nogil:
    """Serve what consumers asked in this turn, in its order."""
    cdef size_t at = r.deferred.begin
    cdef int64_t connection
    cdef uint32_t length
    cdef const uint8_t* frame
    cdef Connection* c
    while at < r.deferred.end:
        memcpy(&connection, r.deferred.data + at, 8)
        frame = r.deferred.data + at + 8
        length = load_be32(frame) + 4
        at += length + 8
        c = connection_of(r, connection)
        if c == NULL:
            continue
        if c.cold_consumes == 0 and try_hot_consume(r, c, frame, length):
            continue
        c.cold_consumes += 1
        if not add_cold(r, c, frame, length):
            c.closing = True
    r.deferred.begin = r.deferred.end = 0
    if r.deferred.capacity > (1 << 20):
        buffer_free(&r.deferred)


cdef bint try_hot_consume(Reactor r, Connection* c, const uint8_t* frame, uint32_t length) noexcept nogil:
    cdef PullHeader header
    if c.service != r.policy.service or not read_header(frame, &r.raw) or not read_pull(&r.raw, &header):
        return False
    if r.raw.code == CODE_UPDATE_CONSUMER_OFFSET:
        return try_commit(r, c, &header)
    if r.raw.code == CODE_QUERY_CONSUMER_OFFSET:
        return try_query(r, c, &header)
    if r.raw.code == CODE_PULL_MESSAGE or r.raw.code == CODE_LITE_PULL_MESSAGE:
        return try_pull(r, c, &header, frame, length)
    return False


# --- offsets ----------------------------------------------------------------------------------------------------------

cdef Progress* granted_progress(Reactor r, const PullHeader* header) noexcept nogil:
    """The group and topic if their pulls are hot and they have that queue, or NULL."""
    cdef Progress* progress = progress_find(r, header.group.data, header.group.length, header.topic.data,
                                            header.topic.length)
    if progress == NULL or not progress.granted or header.queue_id >= progress.queues:
        return NULL
    return progress


cdef inline void note_commit(Reactor r, Progress* progress, int32_t queue_id, int64_t offset) noexcept nogil:
    cdef QueueProgress* q = &progress.by_queue[queue_id]
    q.committed = offset
    q.known = offset if progress.asked and offset >= 0 else -1
    q.commits += 1
    progress_changed(r, progress)


cdef bint try_commit(Reactor r, Connection* c, const PullHeader* header) noexcept nogil:
    """UPDATE_CONSUMER_OFFSET, answered or oneway."""
    cdef uint8_t reply[OFFSET_REPLY_MAX]
    cdef Progress* progress
    if header.seen != SEEN_OFFSET_ALL or header.commit_offset < 0:
        return False
    progress = granted_progress(r, header)
    if progress == NULL:
        return False
    note_commit(r, progress, header.queue_id, header.commit_offset)
    r.hot_commits += 1
    if not header.oneway:
        queue_output(r, c, reply, put_offset_reply(reply, header, -1))
    return True


cdef bint try_query(Reactor r, Connection* c, const PullHeader* header) noexcept nogil:
    """QUERY_CONSUMER_OFFSET of an offset that is known here."""
    cdef uint8_t reply[OFFSET_REPLY_MAX]
    cdef Progress* progress
    cdef int64_t known
    if header.seen != SEEN_QUEUE_ALL or header.oneway:
        return False
    progress = granted_progress(r, header)
    if progress == NULL:
        return False
    known = progress.by_queue[header.queue_id].known
    if known < 0:
        return False
    queue_output(r, c, reply, put_offset_reply(reply, header, known))
    r.hot_queries += 1
    return True


cdef void know_offset(Progress* progress, int64_t queue_id, int64_t offset) noexcept nogil:
    """Python has stored an offset. What was committed here meanwhile comes after it."""
    cdef QueueProgress* q
    if 0 <= queue_id < progress.queues:
        q = &progress.by_queue[queue_id]
        if q.commits == 0 and progress.asked:
            q.known = offset if offset >= 0 else -1


# --- pulls ------------------------------------------------------------------------------------------------------------

cdef bint try_pull(Reactor r, Connection* c, const PullHeader* header, const uint8_t* frame,
                   uint32_t length) noexcept nogil:
    """Answer or hold a pull. False: nothing happened, it is a cold one."""
    cdef Progress* progress
    cdef PullGrant* grant
    cdef Queue* queue
    if header.seen != SEEN_PULL_ALL or header.oneway or header.sys_flag & PULL_CLASS_FILTER:
        return False
    progress = progress_find(r, header.group.data, header.group.length, header.topic.data, header.topic.length)
    grant = grant_find(progress, header)
    if grant == NULL or header.queue_id >= progress.queues or grant.topic.flags & TOPIC_DELETED:
        return False
    if header.queue_id >= grant.topic.queue_slots:
        return False
    queue = grant.topic.queues[header.queue_id]
    if queue == NULL or queue.max_offset == 0:
        return False
    return run_pull(r, c, header, grant, queue, frame, length, True)


cdef bint run_pull(Reactor r, Connection* c, const PullHeader* header, PullGrant* grant, Queue* queue,
                   const uint8_t* frame, uint32_t length, bint first_pass) noexcept nogil:
    """One pass of a pull; False if it has to be a cold one after all."""
    cdef QueueEntry entries[PULL_EXTENTS_MAX]
    cdef Extent extents[PULL_EXTENTS_MAX]
    cdef ReadSummary summary
    cdef QueueProgress* of_queue
    cdef int32_t wanted = header.max_messages, i
    cdef bint waits, looked_again = False
    if wanted > grant.max_messages:
        wanted = grant.max_messages
    if wanted < 1:
        wanted = 1
    while True:
        if r.store.hot_read(queue, header.queue_offset, wanted, grant.max_bytes,
                            grant.tag_codes if grant.tag_count >= 0 else NULL,
                            grant.tag_count if grant.tag_count > 0 else 0,
                            PULL_SCAN_MAX, entries, PULL_EXTENTS_MAX, &summary) != ST_OK:
            return False
        if summary.status > READ_OFFSET_TOO_SMALL:
            return False
        waits = (first_pass and pull_code(summary.status) == 19 and header.sys_flag & PULL_SUSPEND
                 and r.heap.count < HELD_MAX and r.held_bytes < HELD_BYTES_MAX)
        if not waits or r.store.hot_watch(queue, r.watcher, True) <= header.queue_offset:
            break
        if looked_again:
            return False
        looked_again = True     # another thread has appended between the look and the watch
    if waits:
        if not hold_pull(r, c, header, grant, queue, frame, length):
            return False
    else:
        for i in range(summary.count):
            if not r.store.hot_hold(entries[i].log_offset, entries[i].size, &extents[i]):
                # retention took it in between
                while i:
                    i -= 1
                    r.store.hot_release(extents[i].holder)
                return False
        answer_pull(r, c, header, grant, &summary, extents)
        for i in range(summary.count):
            r.store.hot_release(extents[i].holder)
    of_queue = &grant.progress.by_queue[header.queue_id]
    if first_pass and header.sys_flag & PULL_COMMIT_OFFSET:
        note_commit(r, grant.progress, header.queue_id, header.commit_offset)
    of_queue.pulled = summary.next_offset
    if summary.status == READ_FOUND:
        of_queue.pulls += 1
        of_queue.messages += summary.count
        of_queue.bytes += summary.bytes
    else:
        grant.progress.missed += 1
    progress_changed(r, grant.progress)
    r.hot_pulls += 1
    return True


cdef void answer_pull(Reactor r, Connection* c, const PullHeader* header, const PullGrant* grant,
                      const ReadSummary* summary, const Extent* extents) noexcept nogil:
    """One gathering write of header and records; what the socket does not take is copied behind it."""
    cdef uint8_t head[PULL_REPLY_MAX]
    cdef iovec parts[PULL_EXTENTS_MAX + 1]
    cdef msghdr message
    cdef int32_t i, count = summary.count if summary.status == READ_FOUND else 0
    cdef ssize_t sent = 0
    cdef size_t skip
    parts[0].iov_base = head
    parts[0].iov_len = put_pull_reply(head, header, grant, summary, summary.bytes if count else 0)
    for i in range(count):
        parts[i + 1].iov_base = <void*>extents[i].data
        parts[i + 1].iov_len = extents[i].size
    if output_length(c) == 0:
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = count + 1
        sent = c_sendmsg(c.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        if sent < 0:
            sent = 0        # a broken connection shows itself when the rest is written
        r.sent_bytes += sent
        c.active_ms = r.now_ms
    skip = sent
    for i in range(count + 1):
        if skip >= parts[i].iov_len:
            skip -= parts[i].iov_len
        else:
            queue_output(r, c, <const uint8_t*>parts[i].iov_base + skip, parts[i].iov_len - skip)
            skip = 0


# --- held pulls ---------------------------------------------------------------------------------------------------------

cdef inline uint64_t queue_slot(const Queue* queue) noexcept nogil:
    return (<uint64_t>queue >> 4) * 11400714819323198485ULL >> 52      # 12 bits: TABLE_SLOTS


cdef HeldQueue* held_queue(Reactor r, Queue* queue, bint make) noexcept nogil:
    cdef uint64_t slot = queue_slot(queue)
    cdef HeldQueue* held = r.held[slot]
    while held != NULL and held.queue != queue:
        held = held.chain
    if held == NULL and make:
        held = <HeldQueue*>calloc(1, sizeof(HeldQueue))
        if held != NULL:
            held.queue = queue
            held.chain = r.held[slot]
            r.held[slot] = held
    return held


cdef bint hold_pull(Reactor r, Connection* c, const PullHeader* header, PullGrant* grant, Queue* queue,
                    const uint8_t* frame, uint32_t length) noexcept nogil:
    """Let a pull wait for its queue, which is watched. False: there is no memory."""
    cdef HeldPull* pull
    cdef HeldQueue* held
    cdef int64_t wait_ms = header.suspend_ms if grant.suspend_ms < 0 else grant.suspend_ms
    held = held_queue(r, queue, True)
    pull = <HeldPull*>calloc(1, sizeof(HeldPull))
    if held == NULL or pull == NULL:
        free(pull)
        return False
    pull.frame = <uint8_t*>malloc(length)
    if pull.frame == NULL:
        free(pull)
        return False
    memcpy(pull.frame, frame, length)
    pull.frame_length = length
    pull.queue = held
    pull.of_queue = queue
    pull.grant = grant
    pull.connection = c.id
    pull.looked_at = header.queue_offset
    if wait_ms < 0:
        wait_ms = 0
    elif wait_ms > 86400000:
        wait_ms = 86400000
    pull.deadline_ms = r.now_ms + wait_ms
    if not heap_add(&r.heap, pull):
        free(pull.frame)
        free(pull)
        return False
    grant.holds += 1
    r.held_bytes += length
    pull.previous_in_queue = held.last
    if held.last != NULL:
        held.last.next_in_queue = pull
    else:
        held.first = pull
    held.last = pull
    pull.next_of_connection = c.held
    if c.held != NULL:
        c.held.previous_of_connection = pull
    c.held = pull
    return True


cdef void unlink_pull(Reactor r, HeldPull* pull) noexcept nogil:
    """Take a pull out of all lists; the caller frees it."""
    cdef Connection* c = connection_of(r, pull.connection)
    cdef HeldQueue* held = pull.queue
    heap_remove(&r.heap, pull)
    if pull.previous_in_queue != NULL:
        pull.previous_in_queue.next_in_queue = pull.next_in_queue
    else:
        held.first = pull.next_in_queue
    if pull.next_in_queue != NULL:
        pull.next_in_queue.previous_in_queue = pull.previous_in_queue
    else:
        held.last = pull.previous_in_queue
    if pull.previous_of_connection != NULL:
        pull.previous_of_connection.next_of_connection = pull.next_of_connection
    elif c != NULL:
        c.held = pull.next_of_connection
    if pull.next_of_connection != NULL:
        pull.next_of_connection.previous_of_connection = pull.previous_of_connection
    if held.first == NULL:
        forget_held_queue(r, held)


cdef void forget_held_queue(Reactor r, HeldQueue* held) noexcept nogil:
    cdef HeldQueue** at = &r.held[queue_slot(held.queue)]
    while at[0] != held:
        at = &at[0].chain
    at[0] = held.chain
    r.store.hot_watch(held.queue, r.watcher, False)
    free(held)


cdef void free_pull(Reactor r, HeldPull* pull) noexcept nogil:
    r.held_bytes -= pull.frame_length
    pull.grant.holds -= 1
    if pull.grant.holds == 0 and not pull.grant.alive:
        grant_free(pull.grant)
    free(pull.frame)
    free(pull)


cdef void drop_held(Reactor r, Connection* c) noexcept nogil:
    """A connection ends: so do its pulls."""
    cdef HeldPull* pull
    while c.held != NULL:
        pull = c.held
        unlink_pull(r, pull)
        free_pull(r, pull)


cdef void resume_pull(Reactor r, HeldPull* pull) noexcept nogil:
    """Process an unlinked pull once more and answer it, whatever comes out. Python does it if its grant is gone."""
    cdef PullHeader header
    cdef Connection* c = connection_of(r, pull.connection)
    cdef bint served = False
    if c != NULL:
        if (pull.grant.alive and read_header(pull.frame, &r.raw)
                and read_pull(&r.raw, &header)):
            served = run_pull(r, c, &header, pull.grant, pull.of_queue, pull.frame, pull.frame_length, False)
        if not served:
            add_cold_again(r, c, pull.frame, pull.frame_length)
    free_pull(r, pull)


cdef void wake_held(Reactor r) noexcept nogil:
    """Queues have moved: answer the pulls that find something, let the others wait on."""
    cdef Queue* moved[64]
    cdef int32_t count, i
    while True:
        count = r.store.hot_take_moved(r.watcher, moved, 64)
        for i in range(count):
            wake_queue(r, moved[i])
        if count < 64:
            return


cdef void wake_queue(Reactor r, Queue* queue) noexcept nogil:
    cdef HeldQueue* held = held_queue(r, queue, False)
    cdef HeldPull* pull
    cdef HeldPull* following
    cdef int64_t end
    if held == NULL:
        return
    while True:
        end = queue.max_offset
        pull = held.first
        while pull != NULL:
            following = pull.next_in_queue
            if pull.looked_at != end and not still_waits(r, pull, queue):
                if following == NULL and pull.previous_in_queue == NULL:
                    # the last one: its queue's entry goes with it
                    unlink_pull(r, pull)
                    resume_pull(r, pull)
                    return
                unlink_pull(r, pull)
                resume_pull(r, pull)
            pull = following
        if r.store.hot_watch(queue, r.watcher, True) == end:
            return


cdef bint still_waits(Reactor r, HeldPull* pull, Queue* queue) noexcept nogil:
    """Whether nothing that came is for this pull's filter; then it has looked at all of it."""
    cdef QueueEntry entry
    cdef ReadSummary summary
    cdef PullGrant* grant = pull.grant
    if not grant.alive or grant.tag_count < 0 or pull.looked_at > queue.max_offset:
        return False
    if r.store.hot_read(queue, pull.looked_at, 1, grant.max_bytes, grant.tag_codes, grant.tag_count, PULL_SCAN_MAX,
                        &entry, 1, &summary) != ST_OK:
        return False
    if summary.status != READ_NO_MATCHED_MESSAGE or summary.next_offset < summary.max_offset:
        return False
    pull.looked_at = summary.next_offset
    return True


cdef void answer_due(Reactor r, int64_t now_ms) noexcept nogil:
    """Answer the pulls whose time is up."""
    cdef HeldPull* pull
    while r.heap.count and r.heap.items[0].deadline_ms <= now_ms:
        pull = r.heap.items[0]
        unlink_pull(r, pull)
        resume_pull(r, pull)
