# Who sleeps until something happens: Python's loop is watcher 0, every reactor is one more. Each has eventfds and a list of
# moved queues of its own, so that none can eat what another waits for. All under the store's lock.

cdef bint watcher_open(Engine* e, int32_t who) noexcept nogil:
    """Make a watcher. False: no descriptors or memory."""
    cdef Watcher* w = &e.watchers[who]
    w.flush_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    w.moved_event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
    w.moved = <Queue**> malloc(max(e.queue_room, 1) * sizeof(Queue*))
    w.moved_count = 0
    w.fresh = False
    w.used = True
    if w.flush_event < 0 or w.moved_event < 0 or w.moved == NULL:
        watcher_free(w)
        return False
    return True


cdef void watcher_free(Watcher* w) noexcept nogil:
    if not w.used:
        return
    w.used = False
    if w.flush_event >= 0:
        close_fd(w.flush_event)
    if w.moved_event >= 0:
        close_fd(w.moved_event)
    free(w.moved)
    w.moved = NULL
    w.moved_count = 0


cdef int32_t watcher_add(Engine* e) noexcept nogil:
    """One more watcher, or -1."""
    cdef int32_t who, found = -1
    pthread_mutex_lock(&e.lock)
    for who in range(1, WATCHERS_MAX):
        if not e.watchers[who].used:
            if watcher_open(e, who):
                found = who
            break
    pthread_mutex_unlock(&e.lock)
    return found


cdef void watcher_remove(Engine* e, int32_t who) noexcept nogil:
    cdef uint32_t bit = <uint32_t> 1 << who
    cdef int64_t i
    pthread_mutex_lock(&e.lock)
    for i in range(e.queue_count):
        e.queues[i].watched &= ~bit
        e.queues[i].moved &= ~bit
    watcher_free(&e.watchers[who])
    pthread_mutex_unlock(&e.lock)


cdef bint watchers_grow(Engine* e, int64_t room) noexcept nogil:
    """Room for so many moved queues in every list."""
    cdef int32_t who
    for who in range(WATCHERS_MAX):
        if e.watchers[who].used and not room_for(<void***> &e.watchers[who].moved, e.queue_room, room):
            return False
    return True


cdef inline void set_watched(Queue* q, int32_t who, bint on) noexcept nogil:
    cdef uint32_t bit = <uint32_t> 1 << who
    q.watched = q.watched | bit if on else q.watched & ~bit


cdef void note_moved(Engine* e, Queue* q) noexcept nogil:
    """Put a queue on the lists of those who watch it and do not have it on theirs yet."""
    cdef uint32_t fresh = q.watched & ~q.moved
    cdef int32_t who = 0
    cdef Watcher* w
    q.moved |= fresh
    while fresh:
        if fresh & 1:
            w = &e.watchers[who]
            w.moved[w.moved_count] = q
            w.moved_count += 1
            w.fresh = True
        fresh >>= 1
        who += 1


cdef void tell_moved(Engine* e) noexcept nogil:
    """Wake those who have new queues on their lists."""
    cdef int32_t who
    for who in range(WATCHERS_MAX):
        if e.watchers[who].fresh:
            e.watchers[who].fresh = False
            signal_event(e.watchers[who].moved_event)


cdef void tell_flushed(Engine* e) noexcept nogil:
    """Wake everybody: the flushed offset has moved, or never will again."""
    cdef int32_t who
    for who in range(WATCHERS_MAX):
        if e.watchers[who].used:
            signal_event(e.watchers[who].flush_event)


cdef int32_t take_moved_of(Engine* e, int32_t who, Queue** out, int32_t room) noexcept nogil:
    """Queues that moved, which are then no longer watched. Takes the lock."""
    cdef Watcher* w = &e.watchers[who]
    cdef uint32_t bit = <uint32_t> 1 << who
    cdef int32_t n
    cdef int64_t i
    if w.moved_count == 0:                      # a glance without the lock; who moves one signals behind
        return 0
    pthread_mutex_lock(&e.lock)
    n = <int32_t> min(<int64_t> room, w.moved_count)
    for i in range(n):
        out[i] = w.moved[i]
        out[i].moved &= ~bit
        out[i].watched &= ~bit
    w.moved_count -= n
    memmove(w.moved, w.moved + n, w.moved_count * sizeof(Queue*))
    pthread_mutex_unlock(&e.lock)
    return n
