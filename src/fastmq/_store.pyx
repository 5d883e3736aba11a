# The storage engine: one extension, read as many files. Start with _store.pxd (the structs and doors), then:
#
#   watch.pxi       who is woken by a flush or a moved queue
#   status.pxi      result codes as sentences and exceptions
#   fileops.pxi     the table of file calls, with scripted faults
#   layout.pxi      byte offsets of everything on disk; parsing a record
#   engine.pxi      the engine's struct, its locks, topics and queues
#   segment.pxi     commit log files: create, reserve, hold, release
#   commitlog.pxi   encode records and append them
#   ext.pxi         consumequeue_ext: what a queue entry has no room for
#   queue.pxi       consume queue files, and reading by RocketMQ's rules
#   dispatch.pxi    from the log to the queues
#   flusher.pxi     group commit
#   index.pxi       the key index
#   checkpoint.pxi  what is durable, noted
#   cut.pxi         where a queue and the log end, and making them end elsewhere
#   load.pxi        what is on disk when a store opens
#   rescan.pxi      over the log again, from where the queues may be incomplete
#   recover.pxi     bringing log, queues and index into one state
#   lmq.pxi         light queues: one record in more than one queue
#   results.pxi     checksums, hashes and answers that Python sees
#   reading.pxi     calls under way, copies of records
#   removing.pxi    deleting a topic's queues, and retention
#   opening.pxi     lock, recover and mark a store; make all durable and leave it
#   reads.pxi       what Python sees of a store without changing it
#   store.pxi       the class Python sees

import fcntl
import os
import resource
import socket
import struct
import threading

from fastmq.errors import StoreError, StoreLockedError, UsageError

from libc.errno cimport EAGAIN, EACCES, EDQUOT, EEXIST, EINTR, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSPC, ENXIO, EOPNOTSUPP, errno
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset, strcmp, strlen
from posix.types cimport off_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <pthread.h>
    #include <sched.h>
    #include <stdio.h>
    #include <sys/eventfd.h>
    #include <sys/file.h>
    #include <sys/mman.h>
    #include <sys/resource.h>
    #include <sys/stat.h>
    #include <time.h>
    #include <unistd.h>
    static inline void fq_set_errno(int e) { errno = e; }
    static inline int fq_open(const char *p, int f, int m) { return open(p, f, m); }
    static inline int fq_dup(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 3); }
    static inline void fq_localtime(int64_t s, struct tm *t) { time_t v = (time_t)s; localtime_r(&v, t); }
    /* The calling thread works behind the others of its process (decision 9). A refusal changes nothing. */
    static inline void fq_work_behind(void) {
        struct sched_param none = {0};
        int nice = getpriority(PRIO_PROCESS, 0) + 10;   /* Linux: of the thread */
        if (sched_getscheduler(0) != SCHED_OTHER) return;
        sched_setscheduler(0, SCHED_BATCH, &none);
        setpriority(PRIO_PROCESS, 0, nice < 19 ? nice : 19);
    }
    """
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    ctypedef struct timespec "struct timespec":
        long tv_sec
        long tv_nsec
    ctypedef struct tm "struct tm":
        int tm_year, tm_mon, tm_mday, tm_hour, tm_min, tm_sec
    int pthread_mutex_init(pthread_mutex_t*, void*) nogil
    int pthread_mutex_destroy(pthread_mutex_t*) nogil
    int pthread_mutex_lock(pthread_mutex_t*) nogil
    int pthread_mutex_trylock(pthread_mutex_t*) nogil
    int pthread_mutex_unlock(pthread_mutex_t*) nogil
    int pthread_cond_init(pthread_cond_t*, pthread_condattr_t*) nogil
    int pthread_cond_signal(pthread_cond_t*) nogil
    int pthread_cond_broadcast(pthread_cond_t*) nogil
    int pthread_cond_wait(pthread_cond_t*, pthread_mutex_t*) nogil
    int pthread_cond_timedwait(pthread_cond_t*, pthread_mutex_t*, timespec*) nogil
    int pthread_condattr_init(pthread_condattr_t*) nogil
    int pthread_condattr_setclock(pthread_condattr_t*, int) nogil
    int pthread_condattr_destroy(pthread_condattr_t*) nogil
    ctypedef unsigned long pthread_t
    pthread_t pthread_self() nogil
    int pthread_setname_np(pthread_t, const char*) nogil
    int clock_gettime(int, timespec*) nogil
    void localtime_at "fq_localtime"(int64_t, tm*) nogil
    int CLOCK_MONOTONIC, CLOCK_REALTIME
    int O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_CLOEXEC, O_DIRECTORY
    int PROT_READ, PROT_WRITE, MAP_SHARED, MS_SYNC, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_NORMAL
    int FALLOC_FL_PUNCH_HOLE, FALLOC_FL_KEEP_SIZE, EFD_NONBLOCK, EFD_CLOEXEC
    void* MAP_FAILED
    int open_file "fq_open"(const char*, int, int) nogil
    int close_fd "close"(int) nogil
    int dup_fd "fq_dup"(int) nogil
    ssize_t pwrite(int, const void*, size_t, off_t) nogil
    ssize_t pread(int, void*, size_t, off_t) nogil
    ssize_t write(int, const void*, size_t) nogil
    ssize_t read(int, void*, size_t) nogil
    int nanosleep(const timespec*, timespec*) nogil
    int fdatasync(int) nogil
    int sync_file_range(int, off_t, off_t, unsigned int) nogil
    int SYNC_FILE_RANGE_WRITE
    int fsync(int) nogil
    int syncfs(int) nogil
    int fallocate(int, int, off_t, off_t) nogil
    int ftruncate(int, off_t) nogil
    void* mmap(void*, size_t, int, int, int, off_t) nogil
    int munmap(void*, size_t) nogil
    int msync(void*, size_t, int) nogil
    int madvise(void*, size_t, int) nogil
    ssize_t readahead(int, off_t, size_t) nogil
    int rename_file "rename"(const char*, const char*) nogil
    int unlink(const char*) nogil
    int mkdir(const char*, int) nogil
    int rmdir(const char*) nogil
    off_t lseek(int, off_t, int) nogil
    int SEEK_DATA
    int eventfd(unsigned int, int) nogil
    void set_errno "fq_set_errno"(int) nogil
    void work_behind "fq_work_behind"() nogil

cdef extern from "_crc.h":
    ctypedef uint32_t (*fq_crc_kernel)(uint32_t, const uint8_t*, size_t) noexcept nogil
    fq_crc_kernel fq_crc_select(int) noexcept nogil
    enum:
        FQ_CRC_AUTO
        FQ_CRC_TABLE
        FQ_CRC_PCLMUL

include "_store/fileops.pxi"
include "_store/layout.pxi"
include "_store/engine.pxi"
include "_store/watch.pxi"
include "_store/status.pxi"
include "_store/segment.pxi"
include "_store/commitlog.pxi"
include "_store/ext.pxi"
include "_store/queue.pxi"
include "_store/dispatch.pxi"
include "_store/flusher.pxi"
include "_store/index.pxi"
include "_store/checkpoint.pxi"
include "_store/results.pxi"
include "_store/cut.pxi"
include "_store/load.pxi"
include "_store/rescan.pxi"
include "_store/recover.pxi"
include "_store/lmq.pxi"
include "_store/reading.pxi"
include "_store/removing.pxi"
include "_store/opening.pxi"
include "_store/reads.pxi"
include "_store/store.pxi"
