# What Python has for the reactor while a turn is under way. Python's threads may be kept from running at any moment; if
# the turn waited for one that holds the lock, or whose place in the queue comes first, a busy machine would stop all
# sends for as long. So what comes with every cold request is posted:
#
#     post:   append to the list (a lock held for three instructions)
#             the reactor's lock is free ─► take it and do what is posted, here and now
#             a turn has it              ─► wake_fd: the next turn begins with what is posted
#             large answers are written by the turn in any case: who is kept from running in such a write keeps the lock
#
# Posts are done in their order. The rarer methods take the lock in order of arrival, and do what is posted first.

cdef Post* post_new(int32_t kind, int64_t connection, const void* data, size_t length) noexcept nogil:
    cdef Post* post = <Post*>calloc(1, sizeof(Post))
    if post == NULL:
        return NULL
    post.kind = kind
    post.connection = connection
    if length and not buffer_append(&post.data, <const uint8_t*>data, length):
        free(post)
        return NULL
    return post


cdef void post_free(Post* post) noexcept nogil:
    buffer_free(&post.data)
    free(post)


cdef void post_done(Reactor r, Post* one) noexcept nogil:
    """Free a post; one that holds a reference waits for a thread that may drop it."""
    if one.owner == NULL:
        post_free(one)
        return
    pthread_mutex_lock(&r.mail_lock)
    one.next = r.spent
    r.spent = one
    pthread_mutex_unlock(&r.mail_lock)


cdef void drop_spent(Reactor r):
    """Give back the references of posts that are done. By a thread that holds the GIL."""
    cdef Post* following
    cdef Post* one
    if r.spent == NULL:
        return
    pthread_mutex_lock(&r.mail_lock)
    following = r.spent
    r.spent = NULL
    pthread_mutex_unlock(&r.mail_lock)
    while following != NULL:
        one = following
        following = one.next
        Py_DECREF(<object>one.owner)
        post_free(one)


cdef int post(Reactor r, Post* one) noexcept nogil:
    """Hand over a post. 1: it was done at once; 0: at once, but its connection is gone; -1: it will be done."""
    cdef bint first, alive, large = one.owner != NULL
    cdef uint64_t count = 1
    cdef int64_t connection = one.connection
    pthread_mutex_lock(&r.mail_lock)
    first = r.mail_first == NULL
    if first:
        r.mail_first = one
    else:
        r.mail_last.next = one
    r.mail_last = one
    pthread_mutex_unlock(&r.mail_lock)
    if fair_try(&r.lock):
        r.now_ms = monotonic_ms()
        do_posted(r)
        if large:
            c_write(r.wake_fd, &count, 8)
        else:
            write_dirty(r)
        tell_python(r)
        alive = connection_of(r, connection) != NULL
        fair_unlock(&r.lock)
        return alive
    if first:
        c_write(r.wake_fd, &count, 8)
    return -1


cdef void post_or_wait(Reactor r, int32_t kind, int64_t connection, int32_t code, const int64_t* data,
                       size_t length) noexcept nogil:
    """As `post`; without memory for one the lock is waited for."""
    cdef Post* one = post_new(kind, connection, data, length)
    cdef Connection* c
    if one != NULL:
        one.code = code
        post(r, one)
        return
    fair_lock(&r.lock)
    do_posted(r)
    write_dirty(r)
    if kind == POST_TAKEN:
        give_back(r, data, length // (2 * sizeof(int64_t)))
    else:
        c = connection_of(r, connection)
        if c != NULL:
            dealt_with(c, code)
    fair_unlock(&r.lock)


cdef void do_posted(Reactor r) noexcept nogil:
    """Under the reactor's lock."""
    cdef Post* one
    cdef Post* following
    cdef Connection* c
    if r.mail_first == NULL:
        return
    pthread_mutex_lock(&r.mail_lock)
    following = r.mail_first
    r.mail_first = r.mail_last = NULL
    pthread_mutex_unlock(&r.mail_lock)
    while following != NULL:
        one = following
        following = one.next
        c = connection_of(r, one.connection)
        if one.kind == POST_TAKEN:
            give_back(r, <const int64_t*>one.data.data, buffer_length(&one.data) // (2 * sizeof(int64_t)))
        elif c == NULL:
            pass
        elif one.kind == POST_DONE:
            dealt_with(c, one.code)
        elif not c.closing and not c.mute:
            if one.owner != NULL:
                add_piece(r, c, one)
                continue
            queue_output(r, c, one.data.data + one.data.begin, buffer_length(&one.data))
        post_done(r, one)


cdef void dealt_with(Connection* c, int32_t code) noexcept nogil:
    """Python works on one request less of this connection."""
    if is_send_code(code):
        c.cold_sends -= c.cold_sends > 0
    elif is_consume_code(code):
        c.cold_consumes -= c.cold_consumes > 0


cdef void give_back(Reactor r, const int64_t* pairs, size_t count) noexcept nogil:
    """Frames that Python has taken count no longer; who was not read because of them is read again."""
    cdef size_t i
    cdef Connection* c
    for i in range(count):
        r.cold_total -= pairs[2 * i + 1]
        c = connection_of(r, pairs[2 * i])
        if c != NULL:
            c.cold_bytes -= pairs[2 * i + 1]
            if not c.events & EPOLLIN:
                set_events(r, c)


cdef void drop_posts(Reactor r) noexcept nogil:
    cdef Post* one
    while r.mail_first != NULL:
        one = r.mail_first
        r.mail_first = one.next
        post_done(r, one)
    r.mail_last = NULL
