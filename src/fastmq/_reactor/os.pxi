# What the reactor asks of the operating system: epoll, eventfd, sockets, mutexes, the monotonic clock.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset, strlen

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EAGAIN, ECONNRESET, EINTR, EPIPE

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)
    ssize_t c_read "read"(int fd, void* data, size_t length)
    ssize_t c_write "write"(int fd, const void* data, size_t length)

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLLOUT, EPOLLERR, EPOLLHUP, EPOLLRDHUP
    enum: EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int count, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    enum: EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    uint16_t ntohs(uint16_t value)

cdef extern from "<sys/socket.h>" nogil:
    enum: AF_INET, AF_INET6, MSG_NOSIGNAL, MSG_DONTWAIT
    ctypedef uint32_t socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    ssize_t c_recv "recv"(int fd, void* data, size_t length, int flags)
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr* message, int flags)
    int getpeername(int fd, sockaddr* address, socklen_t* length)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_init(pthread_mutex_t* mutex, void* attributes)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_mutex_trylock(pthread_mutex_t*)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    ctypedef unsigned long pthread_t
    pthread_t pthread_self()
    int pthread_setname_np(pthread_t thread, const char* name)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC_COARSE
    int clock_gettime(int clock, timespec* now)

cdef extern from *:
    """
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #define FQ_SLICE_NS 100000
    /* Linux 6.12 and later let an ordinary thread ask for short slices: no larger share of the processor, but when it
       wakes up it has its turn before threads with long ones. Where that is not known, nothing changes. */
    static void fq_ask_for_short_slices(void) {
    #if defined(SYS_sched_getattr) && defined(SYS_sched_setattr)
        struct {
            uint32_t size, policy;
            uint64_t flags;
            int32_t nice;
            uint32_t priority;
            uint64_t runtime, deadline, period;
        } attr;
        memset(&attr, 0, sizeof attr);
        if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) != 0 || attr.policy != 0) return;
        attr.runtime = FQ_SLICE_NS;
        syscall(SYS_sched_setattr, 0, &attr, 0);
    #endif
    }
    """
    void ask_for_short_slices "fq_ask_for_short_slices"() noexcept nogil


cdef inline int64_t monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000


# A mutex that is handed over in the order of arrival: who waits for `gate` holds the place in the queue. With a bare
# mutex the reactor's thread, which takes it again microseconds after giving it back, would starve everybody else.
cdef struct FairLock:
    pthread_mutex_t gate
    pthread_mutex_t held


cdef inline void fair_lock(FairLock* lock) noexcept nogil:
    pthread_mutex_lock(&lock.gate)
    pthread_mutex_lock(&lock.held)
    pthread_mutex_unlock(&lock.gate)


cdef inline bint fair_try(FairLock* lock) noexcept nogil:
    """Take the lock if nobody has it or waits for it."""
    cdef bint taken
    if pthread_mutex_trylock(&lock.gate):
        return False
    taken = pthread_mutex_trylock(&lock.held) == 0
    pthread_mutex_unlock(&lock.gate)
    return taken


cdef inline void fair_unlock(FairLock* lock) noexcept nogil:
    pthread_mutex_unlock(&lock.held)


cdef inline uint32_t load_be32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint16_t load_be16(const uint8_t* p) noexcept nogil:
    return <uint16_t>((<uint32_t>p[0] << 8) | p[1])


cdef inline void store_be32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


cdef inline void store_be16(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value


# Bytes that grow at the end and are taken from the front. `reserve` may move them.
cdef struct Buffer:
    uint8_t* data
    size_t begin
    size_t end
    size_t capacity


cdef inline size_t buffer_length(const Buffer* buffer) noexcept nogil:
    return buffer.end - buffer.begin


cdef inline void buffer_free(Buffer* buffer) noexcept nogil:
    free(buffer.data)
    memset(buffer, 0, sizeof(Buffer))


cdef uint8_t* buffer_reserve(Buffer* buffer, size_t length) noexcept nogil:
    """Room for `length` more bytes at the end, or NULL without memory. The caller advances `end`."""
    cdef size_t used = buffer.end - buffer.begin, capacity
    cdef uint8_t* data
    if buffer.end + length <= buffer.capacity:
        return buffer.data + buffer.end
    if buffer.begin and used + length <= buffer.capacity:
        memmove(buffer.data, buffer.data + buffer.begin, used)
    else:
        capacity = 1024 if buffer.capacity < 1024 else buffer.capacity
        while capacity < used + length:
            capacity *= 2
        data = <uint8_t*>malloc(capacity)
        if data == NULL:
            return NULL
        if used:
            memcpy(data, buffer.data + buffer.begin, used)
        free(buffer.data)
        buffer.data = data
        buffer.capacity = capacity
    buffer.begin = 0
    buffer.end = used
    return buffer.data + used


cdef inline bint buffer_append(Buffer* buffer, const uint8_t* data, size_t length) noexcept nogil:
    cdef uint8_t* room = buffer_reserve(buffer, length)
    if room == NULL:
        return False
    memcpy(room, data, length)
    buffer.end += length
    return True
