"""The reactor: ready sockets, frames, hot requests, one turn at a time, without the GIL.

    turn:  epoll_wait ─► every ready socket: recv, split frames
             hot code, common case ─► header read in place, message encoded into the store's batch, reply staged
             anything else         ─► copied to the cold list, Python is told through an eventfd
           end of the turn: one append for all of the turn's messages; staged replies leave,
           or are parked under the log offset that has to be flushed first

Parts, all in `_reactor/`:
    os.pxi          system calls, locks, buffers            header.pxi   request headers read in place
    types.pxi       structs, bounds                         send.pxi     what a plain send is and how it is answered
    connection.pxi  the table of connections                produce.pxi  the turn's batch
    cold.pxi        frames for Python                       park.pxi     replies that wait for a flush
    output.pxi      what leaves                             pull.pxi     what a pull is and how it is answered
    turn.pxi        receive, split, serve: one turn         consume.pxi  pulls, held pulls, offset commits
    mail.pxi        what Python hands over while a turn is under way
This file holds the state and the face that Python sees.

Threads: one thread calls `turn` (its own, or trio's); every other method may be called from any thread. All state is
guarded by one lock in order of arrival, which the turn gives back while it waits for events. The store's lock is
taken inside it, never the other way round.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from fastmq._store cimport (
    TOPIC_DELETED, TOPIC_MULTI_TAG, TOPIC_SEND_HOT, Extent, MessageIn, Placed, Queue, QueueEntry, ReadSummary,
    Store, Topic,
)

include "_reactor/os.pxi"
include "_reactor/header.pxi"
include "_reactor/send.pxi"
include "_reactor/shape.pxi"
include "_reactor/pull.pxi"
include "_reactor/types.pxi"

from fastmq.errors import UsageError

RESUMED = 1 << 16
ENDED_BY_FRAMING = END_FRAMING
ENDED_BY_OUTPUT = END_OUTPUT


@cython.final
@cython.no_gc_clear  # its end needs the store
cdef class Reactor:
    cdef FairLock lock
    cdef Store store
    cdef bint hot, stopping, closed
    cdef int epoll_fd, wake_fd, cold_fd, flush_fd
    cdef uint32_t max_frame_bytes
    cdef size_t max_output_bytes
    cdef Connection** slots
    cdef int32_t slot_count, slot_capacity
    cdef int32_t* free_slots
    cdef int32_t free_count
    cdef int64_t generation
    cdef int32_t* dirty
    cdef int32_t dirty_count
    cdef uint8_t* receive
    cdef epoll_event* ready
    cdef int64_t now_ms
    # cold items
    cdef pthread_mutex_t cold_lock
    cdef ColdItem* cold
    cdef int32_t cold_head, cold_count, cold_capacity
    cdef size_t cold_total, max_cold_bytes  # of all frames that wait for Python
    cdef bint cold_told
    # posts of Python's threads
    cdef pthread_mutex_t mail_lock
    cdef Post* mail_first
    cdef Post* mail_last
    cdef Post* spent                    # done, but they hold references: for take_cold
    # the turn's batch
    cdef bint batch_open
    cdef Staged* staged
    cdef int32_t staged_count, staged_capacity
    cdef Placed* placed                 # of one send
    cdef int32_t placed_capacity
    cdef Buffer arena
    cdef uint8_t* scratch
    cdef RawHeader raw
    cdef Shape* shapes
    # parked replies, ordered by target
    cdef Parked* parked_head
    cdef Parked* parked_tail
    cdef int64_t parked_deadline_ms     # of the first parked block, 0 without one; read by the turn without the lock
    cdef int64_t parked_total, max_parked   # replies of connections that live
    cdef int64_t sync_flush_timeout_ms
    cdef SendPolicy policy
    # consumers: see consume.pxi
    cdef Progress** progress
    cdef int32_t progress_count
    cdef Progress* changed
    cdef PullGrant* grants
    cdef HeldQueue** held
    cdef DeadlineHeap heap
    cdef int64_t held_bytes             # of the frames of held pulls
    cdef int64_t held_deadline_ms       # of the first held pull, 0 without one; read by the turn without the lock
    cdef Buffer deferred                # pulls and commits of the turn, each behind its connection's id
    cdef int moved_fd
    cdef int32_t watcher                # of the store, -1: none
    # statistics
    cdef int64_t turns, frames, hot_sends, hot_pulls, hot_commits, hot_queries, refused_busy, received_bytes, sent_bytes

    def __cinit__(self, Store store=None, *, bint hot=True, uint32_t max_frame_bytes=16 << 20,
                  size_t max_output_bytes=64 << 20, size_t max_cold_bytes=256 << 20, int64_t max_parked=200_000):
        self.watcher = -1
        self.epoll_fd = self.wake_fd = self.cold_fd = self.flush_fd = self.moved_fd = -1
        pthread_mutex_init(&self.lock.gate, NULL)
        pthread_mutex_init(&self.lock.held, NULL)
        pthread_mutex_init(&self.cold_lock, NULL)
        pthread_mutex_init(&self.mail_lock, NULL)
        self.store = store
        self.hot = hot
        self.max_frame_bytes = max_frame_bytes
        self.max_output_bytes = max_output_bytes
        self.max_cold_bytes = max_cold_bytes
        self.max_parked = max_parked
        self.generation = 1
        self.sync_flush_timeout_ms = 5000
        self.receive = <uint8_t*>malloc(RECEIVE_BYTES)
        self.scratch = <uint8_t*>malloc(SCRATCH_BYTES)
        self.shapes = <Shape*>calloc(SHAPES, sizeof(Shape))
        self.ready = <epoll_event*>calloc(EVENTS_A_TURN, sizeof(epoll_event))
        self.progress = <Progress**>calloc(TABLE_SLOTS, sizeof(Progress*))
        self.held = <HeldQueue**>calloc(TABLE_SLOTS, sizeof(HeldQueue*))
        if (self.receive == NULL or self.scratch == NULL or self.shapes == NULL or self.ready == NULL or self.progress == NULL
                or self.held == NULL):
            raise MemoryError
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        self.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.cold_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.epoll_fd < 0 or self.wake_fd < 0 or self.cold_fd < 0:
            raise OSError(errno, "the reactor's descriptors cannot be opened")
        self.watch_fd(self.wake_fd, TAG_WAKE)

    def __init__(self, store=None, *, hot=True, max_frame_bytes=16 << 20, max_output_bytes=64 << 20,
                 max_cold_bytes=256 << 20, max_parked=200_000):
        if store is not None:
            self.watcher = self.store.hot_subscribe()
            if self.watcher < 0:
                raise UsageError("too many reactors on one store")
            self.flush_fd = self.store.hot_flush_event(self.watcher)
            self.watch_fd(self.flush_fd, TAG_FLUSH)
            self.moved_fd = self.store.hot_moved_event(self.watcher)
            self.watch_fd(self.moved_fd, TAG_MOVED)

    cdef int watch_fd(self, int fd, uint64_t tag) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = tag
        if epoll_ctl(self.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        return 0

    def __dealloc__(self):
        cdef int32_t i
        if not self.closed:
            release_all(self)
        for i in range(self.cold_head, self.cold_head + self.cold_count):
            free(self.cold[i].frame)
        free(self.cold)
        drop_posts(self)
        drop_spent(self)
        free(self.slots)
        free(self.free_slots)
        free(self.dirty)
        free(self.receive)
        free(self.scratch)
        free(self.shapes)
        free(self.ready)
        free(self.staged)
        free(self.placed)
        free(self.progress)
        free(self.held)
        free(self.heap.items)
        buffer_free(&self.arena)
        buffer_free(&self.deferred)
        pthread_mutex_destroy(&self.lock.gate)
        pthread_mutex_destroy(&self.lock.held)
        pthread_mutex_destroy(&self.cold_lock)
        pthread_mutex_destroy(&self.mail_lock)

    def close(self):
        """Close every connection and descriptor. Nothing may be inside `turn` or `run` any more."""
        with nogil:
            fair_lock(&self.lock)
        if not self.closed:
            release_all(self)
        fair_unlock(&self.lock)
        drop_spent(self)

    # --- connections ------------------------------------------------------------------------------------------------

    def add(self, int fd, int service):
        """Take over a connected, non-blocking socket; returns the id its frames come with."""
        cdef int64_t result
        with nogil:
            fair_lock(&self.lock)
            result = connection_add(self, fd, service)
            fair_unlock(&self.lock)
        if result < 0:
            raise OSError(-result, "the connection cannot be added to the reactor")
        return result

    def send(self, int64_t connection, frame):
        """Queue bytes for a connection and write what its socket takes. False if it is known to be gone."""
        cdef bytes head, body
        cdef const uint8_t* data
        cdef size_t length
        cdef int outcome = 0
        cdef Post* one
        head, body = (b"", frame) if isinstance(frame, bytes) else frame
        if PyBytes_GET_SIZE(body) < SHARED_BYTES:
            head, body = head + body, None
        data = <const uint8_t*>PyBytes_AS_STRING(head)
        length = PyBytes_GET_SIZE(head)
        one = post_new(POST_SEND, connection, data, length)
        if one == NULL:
            raise MemoryError
        if body is not None:
            Py_INCREF(body)
            one.owner = <PyObject*>body
            one.shared = <const uint8_t*>PyBytes_AS_STRING(body)
            one.shared_length = PyBytes_GET_SIZE(body)
        with nogil:
            outcome = post(self, one)
        return outcome != 0

    def send_after_flush(self, int64_t connection, bytes frame not None, int64_t log_offset, bytes failure not None):
        """As `send`, once the log is flushed up to log_offset; `failure` is sent if it never will be."""
        cdef Parked* block
        cdef size_t length = PyBytes_GET_SIZE(frame), failure_length = PyBytes_GET_SIZE(failure)
        cdef Connection* c
        cdef uint64_t one = 1
        if self.store is None or not self.store.sync_flush():
            return self.send(connection, frame)
        block = parked_new(1, length, failure_length)
        if block == NULL:
            raise MemoryError
        memcpy(block.arena, PyBytes_AS_STRING(frame), length)
        memcpy(block.failure, PyBytes_AS_STRING(failure), failure_length)
        block.replies[0].connection = connection
        block.replies[0].offset = 0
        block.replies[0].length = <int32_t>length
        block.replies[0].oneway = False
        block.target = log_offset
        with nogil:
            fair_lock(&self.lock)
            self.now_ms = monotonic_ms()
            do_posted(self)
            c = connection_of(self, connection)
            if c == NULL:
                parked_free(block)
            else:
                if self.parked_head == NULL:
                    c_write(self.wake_fd, &one, 8)  # the turn may sleep for ever: it has a deadline to watch now
                park(self, block)
                release_parked(self)
                write_dirty(self)
                tell_python(self)
            fair_unlock(&self.lock)
        return c != NULL

    def turn(self, int timeout_ms=0):
        """One turn; returns the number of cold items that wait."""
        cdef int32_t count
        with nogil:
            count = run_turn(self, timeout_ms)
        return count

    def run(self):
        """Turns until `stop`: the body of the reactor's own thread."""
        with nogil:
            pthread_setname_np(pthread_self(), "fastmq-reactor")
            ask_for_short_slices()
            while not self.stopping:
                run_turn(self, -1)

    def stop(self):
        """Make `run` return."""
        cdef uint64_t one = 1
        self.stopping = True
        c_write(self.wake_fd, &one, 8)

    def take_cold(self):
        """Some of the frames and ends of connections that wait for Python, in the order in which they came."""
        cdef ColdItem taken[COLD_A_TAKE]
        cdef int64_t pairs[2 * COLD_A_TAKE]
        cdef int32_t count, i, frames = 0
        cdef list result = []
        with nogil:
            count = cold_take(self, taken)
            for i in range(count):
                if taken[i].length:
                    pairs[2 * frames] = taken[i].connection
                    pairs[2 * frames + 1] = taken[i].length
                    frames += 1
            if frames:
                post_or_wait(self, POST_TAKEN, 0, 0, pairs, 2 * frames * sizeof(int64_t))
        drop_spent(self)  # behind the take: of what comes later Python is told again
        for i in range(count):
            if taken[i].length:
                result.append((taken[i].connection, taken[i].service,
                               PyBytes_FromStringAndSize(<char*>taken[i].frame, taken[i].length), taken[i].stamp))
                free(taken[i].frame)
            else:
                result.append((taken[i].connection, taken[i].service, None, taken[i].stamp))
        return result

    @property
    def overloaded(self):
        """Whether so many replies wait for a flush that sends are refused."""
        return self.parked_total >= self.max_parked

    def cold_done(self, int64_t connection, int code):
        """Python has dealt with a request of this connection: later ones of its kind may be hot again."""
        with nogil:
            post_or_wait(self, POST_DONE, connection, code, NULL, 0)

    def grant_pulls(self, str group not None, str topic not None, *, int queues, subscription, bint lite,
                    int64_t sub_version, tag_codes, int max_messages, int64_t max_bytes, int64_t suspend_ms,
                    int group_sys_flag, int topic_sys_flag, offsets=None):
        """From now on serve pulls of this group and topic with this filter here, until `revoke_pulls`.

        `subscription`: the filter's text if pulls bring it, None for the group's registered one, whose version is
        `sub_version`. `tag_codes` None: everything matches. `suspend_ms` -1: pulls say how long they may be held.
        """
        cdef bytes group_name = group.encode(), topic_name = topic.encode()
        cdef bytes text = b"" if subscription is None else (<str>subscription).encode()
        cdef PullGrant* grant
        cdef Progress* progress
        cdef Topic* found
        cdef int64_t* known
        cdef const char* group_text
        cdef const char* topic_text
        cdef int32_t i = 0, known_count = 0, group_length, topic_length
        cdef bint asked
        if not self.hot or self.store is None:
            return
        if not all(32 < c < 127 and c not in b'"\\' for c in group_name + topic_name):
            return
        if not all(32 <= c < 127 and c not in b'"\\' for c in text):
            return
        found = self.store.topic_find(<const char*>topic_name, len(topic_name))
        if found == NULL:
            return
        grant = <PullGrant*>calloc(1, sizeof(PullGrant))
        if grant == NULL:
            return
        grant.topic = found
        grant.alive = True
        grant.brings_filter = subscription is not None
        grant.lite = lite
        grant.sub_version = sub_version
        grant.max_messages = max_messages
        grant.max_bytes = max_bytes
        grant.suspend_ms = suspend_ms
        grant.group_sys_flag = group_sys_flag
        grant.topic_sys_flag = topic_sys_flag
        grant.filter_length = len(text)
        grant.filter = <uint8_t*>malloc(len(text) + 1)
        grant.tag_count = -1 if tag_codes is None else len(tag_codes)
        grant.tag_codes = <int64_t*>malloc((grant.tag_count + 1) * sizeof(int64_t) if tag_codes else 8)
        known = <int64_t*>malloc((2 * len(offsets or ()) + 1) * sizeof(int64_t))
        if grant.filter == NULL or grant.tag_codes == NULL or known == NULL:
            free(known)
            grant_free(grant)
            return
        memcpy(grant.filter, <const char*>text, len(text))
        for code in tag_codes or ():
            grant.tag_codes[i] = code
            i += 1
        for queue_id, offset in offsets or ():
            known[2 * known_count] = queue_id
            known[2 * known_count + 1] = offset
            known_count += 1
        group_text, topic_text = group_name, topic_name
        group_length, topic_length = <int32_t>len(group_name), <int32_t>len(topic_name)
        asked = offsets is not None
        with nogil:
            fair_lock(&self.lock)
            progress = progress_make(self, <const uint8_t*>group_text, group_length, <const uint8_t*>topic_text,
                                     topic_length, queues)
            if progress == NULL:
                grant_free(grant)
            else:
                progress.granted = True
                grant.progress = progress
                grant.next = <PullGrant*>progress.grants
                progress.grants = grant
                grant.next_all = self.grants
                self.grants = grant
                progress.asked = asked
                for i in range(known_count):
                    know_offset(progress, known[2 * i], known[2 * i + 1])
            fair_unlock(&self.lock)
        free(known)

    def know_offset(self, str group not None, str topic not None, int64_t queue_id, int64_t offset):
        """Python has stored a committed offset of a group and topic with grants."""
        cdef bytes group_name = group.encode(), topic_name = topic.encode()
        cdef Progress* progress
        cdef const char* group_text = group_name
        cdef const char* topic_text = topic_name
        cdef int32_t group_length = len(group_name), topic_length = len(topic_name)
        with nogil:
            fair_lock(&self.lock)
            progress = progress_find(self, <const uint8_t*>group_text, group_length, <const uint8_t*>topic_text,
                                     topic_length)
            if progress != NULL and progress.granted:
                know_offset(progress, queue_id, offset)
            fair_unlock(&self.lock)

    def revoke_pulls(self):
        """Something that pulls are checked for has changed: the next one of each kind is Python's again."""
        with nogil:
            fair_lock(&self.lock)
            revoke_all(self)
            fair_unlock(&self.lock)

    def take_pull_progress(self):
        """What hot pulls and commits did since the last call.

        [(group, topic, pulls that found nothing, [(queue id, committed offset, number of commits, offset after the last
        pull or -1, pulls that found something, messages, bytes)])]
        """
        cdef Buffer news  # copied under the lock, made into objects behind it
        cdef ProgressNews* one
        cdef size_t at = 0
        if self.changed == NULL:
            return ()
        memset(&news, 0, sizeof(Buffer))
        with nogil:
            fair_lock(&self.lock)
            take_news(self, &news)
            fair_unlock(&self.lock)
        result = []
        queues = []
        while at < buffer_length(&news):
            one = <ProgressNews*>(news.data + at)
            at += sizeof(ProgressNews)
            if one.progress == NULL:
                queues.append((one.queue_id, one.queue.committed, one.queue.commits, one.queue.pulled, one.queue.pulls,
                               one.queue.messages, one.queue.bytes))
            else:
                # behind its queues; a progress and its name live as long as the reactor
                name = one.progress.name[:one.progress.group_length + one.progress.topic_length]
                result.append((name[:one.progress.group_length].decode(), name[one.progress.group_length:].decode(),
                               one.missed, queues))
                queues = []
        buffer_free(&news)
        return result

    def answer_held_pulls(self):
        """Answer every held pull as if its time were up."""
        with nogil:
            fair_lock(&self.lock)
            self.now_ms = monotonic_ms()
            answer_due(self, 0x7FFFFFFFFFFFFFFF)
            self.held_deadline_ms = 0
            write_dirty(self)
            tell_python(self)
            fair_unlock(&self.lock)

    def close_connection(self, int64_t connection, *, bint at_once=False):
        """Close a connection once what was queued for it is written, or whatever is queued."""
        cdef Connection* c
        with nogil:
            fair_lock(&self.lock)
            self.now_ms = monotonic_ms()
            do_posted(self)
            write_dirty(self)
            c = connection_of(self, connection)
            if c != NULL:
                c.closing = True
                if at_once or output_length(c) == 0:
                    connection_close(self, c, END_ASKED)
                else:
                    set_events(self, c)
            tell_python(self)
            fair_unlock(&self.lock)

    def connections(self):
        """(id, service, seconds since it last sent or received) of every connection."""
        cdef int32_t i, count = 0
        cdef int64_t now = monotonic_ms()
        cdef Buffer rows
        cdef int64_t row[3]
        memset(&rows, 0, sizeof(Buffer))
        with nogil:
            fair_lock(&self.lock)
            for i in range(self.slot_count):
                if self.slots[i] != NULL:
                    row[0], row[1], row[2] = self.slots[i].id, self.slots[i].service, self.slots[i].active_ms
                    count += buffer_append(&rows, <const uint8_t*>row, sizeof(row))
            fair_unlock(&self.lock)
        found = <int64_t*>rows.data
        result = [(found[3 * i], found[3 * i + 1], (now - found[3 * i + 2]) / 1000.0) for i in range(count)]
        buffer_free(&rows)
        return result

    def set_send_policy(self, *, bint enabled, int service, str region, str cluster, bint trace_on,
                        int max_message_bytes, failures, busy=(2, "busy"), int sync_flush_timeout_ms=5000):
        """What the hot road needs to know of the broker; `failures`: status of the store → (code, remark)."""
        cdef SendPolicy policy
        cdef uint8_t host[8]
        memset(&policy, 0, sizeof(policy))
        trace = "true" if trace_on else "false"
        if not all(c.isascii() and c.isprintable() and c not in '"\\' for c in region + cluster):
            enabled = False  # text that would need escapes is left to the cold road
        policy.enabled = enabled and self.hot and self.store is not None
        policy.service = service
        policy.max_message_bytes = max_message_bytes
        added = f"MSG_REGION\x01{region}\x02TRACE_ON\x01{trace}\x02CLUSTER\x01{cluster}\x02".encode()
        reply_json = f'","TRACE_ON":"{trace}","MSG_REGION":"{region}","queueOffset":"'.encode()
        failure_json = f'{{"TRACE_ON":"{trace}","MSG_REGION":"{region}"}}'.encode()
        reply_binary = b"".join(
            len(k).to_bytes(2, "big") + k + len(v).to_bytes(4, "big") + v
            for k, v in ((b"TRACE_ON", trace.encode()), (b"MSG_REGION", region.encode()))
        )
        if max(len(added), len(reply_json), len(failure_json), len(reply_binary)) > POLICY_TEXT_MAX:
            raise UsageError("regionId and brokerClusterName are too long")
        policy.added_length = len(added)
        memcpy(policy.added, <const char*>added, len(added))
        policy.reply_json_length = len(reply_json)
        memcpy(policy.reply_json, <const char*>reply_json, len(reply_json))
        policy.reply_binary_length = len(reply_binary)
        memcpy(policy.reply_binary, <const char*>reply_binary, len(reply_binary))
        policy.failure_json_length = len(failure_json)
        memcpy(policy.failure_json, <const char*>failure_json, len(failure_json))
        for status in range(FAILURE_STATUSES):
            set_failure(&policy.failures[status], failures.get(status, (1, "UNKNOWN_ERROR")))
        set_failure(&policy.busy, busy)
        if self.store is not None:
            self.store.store_host(host)
            put_hex(policy.store_host_hex, host, 8)
        with nogil:
            fair_lock(&self.lock)
            self.policy = policy
            self.sync_flush_timeout_ms = sync_flush_timeout_ms
            fair_unlock(&self.lock)

    @property
    def cold_event_fd(self):
        return self.cold_fd

    def statistics(self):
        """Counters since the start."""
        return {
            "connections": self.slot_count - self.free_count,
            "turns": self.turns,
            "frames": self.frames,
            "hot_sends": self.hot_sends,
            "hot_pulls": self.hot_pulls,
            "hot_commits": self.hot_commits,
            "hot_queries": self.hot_queries,
            "held_pulls": self.heap.count,
            "cold_frames": self.cold_count,
            "cold_bytes": self.cold_total,
            "parked_replies": self.parked_total,
            "refused_busy": self.refused_busy,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
        }


cdef int set_failure(Failure* failure, answer) except -1:
    code, remark = answer
    cdef bytes text = remark.encode("ascii")[:FAILURE_REMARK_MAX]
    failure.code = code
    failure.remark_length = len(text)
    memcpy(failure.remark, <const char*>text, len(text))
    return 0


include "_reactor/connection.pxi"
include "_reactor/cold.pxi"
include "_reactor/mail.pxi"
include "_reactor/output.pxi"
include "_reactor/park.pxi"
include "_reactor/produce.pxi"
include "_reactor/consume.pxi"
include "_reactor/turn.pxi"
