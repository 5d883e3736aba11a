# Connections: their table, what epoll watches of them, and their end. All under the reactor's lock.

cdef inline Connection* connection_of(Reactor r, int64_t connection) noexcept nogil:
    cdef int64_t slot = connection & SLOT_MASK
    cdef Connection* c
    if slot >= r.slot_count:
        return NULL
    c = r.slots[slot]
    if c == NULL or c.id != connection:
        return NULL
    return c


cdef int64_t connection_add(Reactor r, int fd, int32_t service) noexcept nogil:
    cdef int32_t slot, capacity
    cdef Connection* c
    cdef Connection** slots
    cdef int32_t* numbers
    cdef epoll_event event
    if r.closed or r.slot_count == CONNECTIONS_MAX:
        return -24
    if r.free_count:
        slot = r.free_slots[r.free_count - 1]
    else:
        slot = r.slot_count
        if slot == r.slot_capacity:
            capacity = 64 if slot == 0 else slot * 2
            slots = <Connection**>realloc(r.slots, capacity * sizeof(Connection*))
            if slots == NULL:
                return -12
            r.slots = slots
            numbers = <int32_t*>realloc(r.free_slots, capacity * sizeof(int32_t))
            if numbers == NULL:
                return -12
            r.free_slots = numbers
            numbers = <int32_t*>realloc(r.dirty, capacity * sizeof(int32_t))
            if numbers == NULL:
                return -12
            r.dirty = numbers
            r.slot_capacity = capacity
    c = <Connection*>calloc(1, sizeof(Connection))
    if c == NULL:
        return -12
    c.fd = fd
    c.id = (r.generation << SLOT_BITS) | slot
    c.service = service
    c.events = EPOLLIN
    c.active_ms = monotonic_ms()
    read_peer(c)
    event.events = EPOLLIN
    event.data.u64 = <uint64_t>c.id
    if epoll_ctl(r.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        free(c)
        return -errno
    r.generation += 1
    if r.free_count:
        r.free_count -= 1
    else:
        r.slot_count += 1
    r.slots[slot] = c
    return c.id


cdef void connection_close(Reactor r, Connection* c, int64_t why) noexcept nogil:
    """End a connection; Python learns of it behind the frames it sent before."""
    cdef int32_t slot = <int32_t>(c.id & SLOT_MASK)
    if c.held != NULL:
        # letting go of pulls takes the store's lock, which an open batch of this turn holds
        finish_batch(r)
        drop_held(r, c)
    add_end(r, c, why)
    r.parked_total -= c.parked
    c_close(c.fd)
    buffer_free(&c.input)
    buffer_free(&c.output)
    drop_pieces(r, c)
    r.slots[slot] = NULL
    r.free_slots[r.free_count] = slot
    r.free_count += 1
    free(c)


cdef void set_events(Reactor r, Connection* c) noexcept nogil:
    """Watch what the state of the connection asks for: reading is paused over a bound, writing only when needed."""
    cdef epoll_event event
    cdef uint32_t wanted = 0
    cdef size_t output = output_length(c)
    # over the bound of all, who has frames (or replies) waiting is not read on; take_cold (release_parked) goes through
    # exactly these
    if (output < OUTPUT_PAUSE_BYTES and c.cold_bytes < COLD_PAUSE_BYTES and c.parked < PARKED_PAUSE
            and not c.closing and (c.cold_bytes == 0 or r.cold_total < r.max_cold_bytes)
            and (c.parked == 0 or r.parked_total < r.max_parked)):
        wanted |= EPOLLIN
    if output:
        wanted |= EPOLLOUT
    if wanted != c.events:
        c.events = wanted
        event.events = wanted
        event.data.u64 = <uint64_t>c.id
        epoll_ctl(r.epoll_fd, EPOLL_CTL_MOD, c.fd, &event)


cdef void read_peer(Connection* c) noexcept nogil:
    """The peer's address as the born host of its messages: IPv4, or IPv6 that is no mapped IPv4."""
    cdef sockaddr_storage address
    cdef socklen_t length = sizeof(address)
    cdef sockaddr_in* v4
    cdef sockaddr_in6* v6
    cdef uint8_t mapped[12]
    memset(c.host, 0, 20)
    c.host_length = 8
    memset(&address, 0, sizeof(address))
    if getpeername(c.fd, <sockaddr*>&address, &length) < 0:
        return
    if address.ss_family == AF_INET:
        v4 = <sockaddr_in*>&address
        memcpy(c.host, &v4.sin_addr.s_addr, 4)
        store_be32(c.host + 4, ntohs(v4.sin_port))
    elif address.ss_family == AF_INET6:
        v6 = <sockaddr_in6*>&address
        memset(mapped, 0, 10)
        mapped[10] = mapped[11] = 0xFF
        if memcmp(v6.sin6_addr.s6_addr, mapped, 12) == 0:
            memcpy(c.host, v6.sin6_addr.s6_addr + 12, 4)
            store_be32(c.host + 4, ntohs(v6.sin6_port))
        else:
            memcpy(c.host, v6.sin6_addr.s6_addr, 16)
            store_be32(c.host + 16, ntohs(v6.sin6_port))
            c.host_length = 20


cdef void release_all(Reactor r) noexcept:
    cdef int32_t i
    cdef Parked* block
    cdef Progress* progress
    r.closed = True
    revoke_all(r)
    for i in range(r.slot_count):
        if r.slots[i] != NULL:
            drop_held(r, r.slots[i])
            c_close(r.slots[i].fd)
            buffer_free(&r.slots[i].input)
            buffer_free(&r.slots[i].output)
            drop_pieces(r, r.slots[i])
            free(r.slots[i])
            r.slots[i] = NULL
    r.slot_count = 0
    if r.watcher >= 0:
        with nogil:
            r.store.hot_unsubscribe(r.watcher)
        r.watcher = -1
    while r.parked_head != NULL:
        block = r.parked_head
        r.parked_head = block.next
        parked_free(block)
    r.parked_tail = NULL
    for i in range(TABLE_SLOTS):
        while r.progress[i] != NULL:
            progress = r.progress[i]
            r.progress[i] = progress.chain
            free(progress.by_queue)
            free(progress.name)
            free(progress)
    r.changed = NULL
    for fd in (r.epoll_fd, r.wake_fd, r.cold_fd):
        if fd >= 0:
            c_close(fd)
    r.epoll_fd = r.wake_fd = r.cold_fd = -1
