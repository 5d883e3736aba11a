# Byte offsets of everything on disk. All numbers are big-endian.
#
# Commit log record, IPv4 hosts, magic V1 (an IPv6 host is 20 bytes instead of 8 and shifts what follows; V2 has a
# 2-byte topic length). BODYCRC covers the body only, masked to 31 bits; nothing covers the rest, which is why a reader
# also asks that the parts add up to TOTALSIZE and that PHYSICALOFFSET is where the record stands.
#
#    0  TOTALSIZE                4     40  BORNTIMESTAMP              8
#    4  MAGICCODE                4     48  BORNHOST                   8 | 20
#    8  BODYCRC                  4     56  STORETIMESTAMP             8
#   12  QUEUEID                  4     64  STOREHOSTADDRESS           8 | 20
#   16  FLAG                     4     72  RECONSUMETIMES             4
#   20  QUEUEOFFSET              8     76  PREPAREDTRANSACTIONOFFSET  8
#   28  PHYSICALOFFSET           8     84  BODYLENGTH, BODY           4 + n
#   36  SYSFLAG                  4         TOPICLENGTH, TOPIC         1 + n (V1), 2 + n (V2)
#                                          PROPERTIESLENGTH, PROPERTIES  2 + n
#
# Filler at the end of a commit log file: 0 the bytes from here to the end of the file (4), 4 BLANK_MAGIC (4).
#
# Consume queue entry: 0 log offset (8), 8 record size (4), 12 tags code (8).
# A blank entry (before the first message of a queue that does not begin at 0) is {0, 0x7FFFFFFF, 0}.
#
# Batch consume queue entry (46): 0 log offset, 8 size, 12 tags code, 20 store time, 28 base offset, 36 batch size (2),
# 38 compacted offset (4), 42 reserved (4).
#
# Index file: header 0 begin time (8), 8 end time (8), 16 begin log offset (8), 24 end log offset (8), 32 used slots (4),
# 36 next entry number (4, starts at 1); slots of 4 bytes from 40; then entries of 20 bytes: 0 key hash (4),
# 4 log offset (8), 12 seconds since begin time (4), 16 previous entry of the slot (4).
#
# Checkpoint: RocketMQ's five longs at 0, 8, 16, 24, 32; ours from 64: see CHECK_*.
# To change a format: don't. Apache's broker opens these files.

cdef extern from *:
    """
    #include <string.h>
    #include <stdint.h>
    #define FQ_MAGIC_V1 0xDAA320A7u
    #define FQ_MAGIC_V2 0xDAA320ABu
    #define FQ_MAGIC_BLANK 0xCBD43194u
    static inline uint16_t fq_get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
    static inline uint32_t fq_get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
    static inline int64_t fq_get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return (int64_t)__builtin_bswap64(v); }
    static inline void fq_put16(uint8_t *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
    static inline void fq_put32(uint8_t *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
    static inline void fq_put64(uint8_t *p, int64_t s) { uint64_t v = __builtin_bswap64((uint64_t)s); memcpy(p, &v, 8); }
    static inline int64_t fq_load(const int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fq_store(int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void *fq_load_ptr(void *p) { return __atomic_load_n((void **)p, __ATOMIC_ACQUIRE); }
    static inline void fq_store_ptr(void *p, void *v) { __atomic_store_n((void **)p, v, __ATOMIC_RELEASE); }
    static inline int fq_load_int(const int *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void fq_store_int(int *p, int v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline int fq_add_int(int *p, int v) { return __atomic_add_fetch(p, v, __ATOMIC_ACQ_REL); }
    static inline int32_t fq_hash_step(int32_t h, uint32_t unit) { return (int32_t)((uint32_t)h * 31u + unit); }
    """
    const uint32_t MAGIC_V1 "FQ_MAGIC_V1"
    const uint32_t MAGIC_V2 "FQ_MAGIC_V2"
    const uint32_t MAGIC_BLANK "FQ_MAGIC_BLANK"
    uint16_t get16 "fq_get16"(const uint8_t*) noexcept nogil
    uint32_t get32 "fq_get32"(const uint8_t*) noexcept nogil
    int64_t get64 "fq_get64"(const uint8_t*) noexcept nogil
    void put16 "fq_put16"(uint8_t*, uint16_t) noexcept nogil
    void put32 "fq_put32"(uint8_t*, uint32_t) noexcept nogil
    void put64 "fq_put64"(uint8_t*, int64_t) noexcept nogil
    int64_t load64 "fq_load"(const int64_t*) noexcept nogil
    void store64 "fq_store"(int64_t*, int64_t) noexcept nogil
    void* load_ptr "fq_load_ptr"(void*) noexcept nogil
    void store_ptr "fq_store_ptr"(void*, void*) noexcept nogil
    int load_int "fq_load_int"(const int*) noexcept nogil
    void store_int "fq_store_int"(int*, int) noexcept nogil
    int add_int "fq_add_int"(int*, int) noexcept nogil
    int32_t hash_step "fq_hash_step"(int32_t, uint32_t) noexcept nogil

cdef enum:
    R_SIZE = 0
    R_MAGIC = 4
    R_BODY_CRC = 8
    R_QUEUE_ID = 12
    R_FLAG = 16
    R_QUEUE_OFFSET = 20
    R_LOG_OFFSET = 28
    R_SYS_FLAG = 36
    R_BORN_TIME = 40
    R_BORN_HOST = 48
    R_FIXED = 91                # a V1 record with IPv4 hosts and nothing in it
    FILLER_BYTES = 8

    SYS_MULTI_TAG = 0x2
    SYS_TRANSACTION = 0xC       # the two bits: 0 none, 4 prepared, 8 commit, 12 rollback
    SYS_PREPARED = 0x4
    SYS_ROLLBACK = 0xC
    SYS_BORN_V6 = 0x10
    SYS_STORE_V6 = 0x20
    SYS_INNER_BATCH = 0x80

    ENTRY_BYTES = 20
    BLANK_SIZE = 0x7FFFFFFF
    BATCH_ENTRY_BYTES = 46

    X_BEGIN_TIME = 0
    X_END_TIME = 8
    X_BEGIN_OFFSET = 16
    X_END_OFFSET = 24
    X_SLOTS_USED = 32
    X_COUNT = 36
    X_HEADER = 40

    CHECK_FILE_BYTES = 4096
    CHECK_LOG_TIME = 0
    CHECK_QUEUE_TIME = 8
    CHECK_INDEX_TIME = 16
    CHECK_MASTER_FLUSHED = 24
    CHECK_CONFIRM = 32
    CHECK_MAGIC = 64            # "FASTMQ01"
    CHECK_QUEUES = 72           # log offset below which the consume queues are complete and durable
    CHECK_QUEUES_NOT = 80       # its complement
    CHECK_INDEXED = 88          # the same for the index
    CHECK_ENTRIES = 96          # sum of the ends of all queues there, -1: not known; tells that queue files went missing
    CHECK_CRC = 104             # CRC-32 of bytes 0..103: tells that another broker wrote the five longs since
    CHECK_BYTES = 112

    MAX_PROPERTIES = 32767
    MAX_TOPIC = 255
    MAX_TOPIC_V1 = 127
    MAX_QUEUE_ID = 1 << 20
    MAX_RECORD_EXTRA = 65536    # a record may be this much larger than maxMessageSize

cdef const char* CHECK_MAGIC_TEXT = b"FASTMQ01"
cdef const char* SCHEDULE_TOPIC = b"SCHEDULE_TOPIC_XXXX"

cdef struct Record:
    int64_t log_offset          # as written in the record
    int32_t size
    int32_t queue_id
    int32_t sys_flag
    int64_t queue_offset
    int64_t store_time
    const uint8_t* body
    int32_t body_len
    uint32_t body_crc
    const uint8_t* topic
    int32_t topic_len
    const uint8_t* properties
    int32_t properties_len


cdef int parse_record(const uint8_t* p, int64_t available, Record* r) noexcept nogil:
    """1: a record whose parts add up to its size. 0: end-of-file filler (r.size is what it says). -1: neither.

    Reads nothing at or beyond p + available. Does not look at the body's CRC.
    """
    cdef uint32_t magic
    cdef int64_t size, at
    cdef int64_t born, host
    if available < FILLER_BYTES:
        return -1
    size = <int32_t> get32(p)
    magic = get32(p + R_MAGIC)
    r.size = <int32_t> size
    if magic == MAGIC_BLANK:
        return 0
    if (magic != MAGIC_V1 and magic != MAGIC_V2) or size < R_FIXED or size > available:
        return -1
    r.sys_flag = <int32_t> get32(p + R_SYS_FLAG)
    born = 20 if r.sys_flag & SYS_BORN_V6 else 8
    host = 20 if r.sys_flag & SYS_STORE_V6 else 8
    at = R_BORN_HOST + born + 8 + host + 4 + 8
    if at + 4 > size:
        return -1
    r.body_crc = get32(p + R_BODY_CRC)
    r.queue_id = <int32_t> get32(p + R_QUEUE_ID)
    r.queue_offset = get64(p + R_QUEUE_OFFSET)
    r.log_offset = get64(p + R_LOG_OFFSET)
    r.store_time = get64(p + R_BORN_HOST + born)
    r.body_len = <int32_t> get32(p + at)
    at += 4
    if r.body_len < 0 or at + r.body_len + 2 > size:
        return -1
    r.body = p + at
    at += r.body_len
    if magic == MAGIC_V1:
        r.topic_len = p[at]
        at += 1
    else:
        r.topic_len = get16(p + at)
        at += 2
    r.topic = p + at
    at += r.topic_len
    if at + 2 > size:
        return -1
    r.properties_len = get16(p + at)
    at += 2
    r.properties = p + at
    if at + r.properties_len != size or r.properties_len > MAX_PROPERTIES or r.topic_len == 0:
        return -1
    return 1


cdef const uint8_t* find_property(const uint8_t* p, int32_t length, const char* name, int32_t name_len,
                                  int32_t* value_len) noexcept nogil:
    """The value of a property in `name 0x01 value 0x02 ...`, or NULL. An empty value counts as absent.

    Of several with one name the last counts, as it does where they are put into a map.
    """
    cdef const uint8_t* end = p + length
    cdef const uint8_t* stop
    cdef const uint8_t* value = NULL
    while p < end:
        stop = <const uint8_t*> memchr(p, 2, end - p)
        if stop == NULL:
            stop = end
        if stop - p > name_len + 1 and p[name_len] == 1 and memcmp(p, name, name_len) == 0:
            value_len[0] = <int32_t> (stop - p - name_len - 1)
            value = p + name_len + 1
        p = stop + 1
    return value


cdef int32_t hash_utf8(int32_t h, const uint8_t* p, int32_t length) noexcept nogil:
    """Go on with a java.lang.String.hashCode over the UTF-16 units of UTF-8 text; malformed bytes count as U+FFFD."""
    cdef int32_t i = 0, need, j
    cdef uint32_t c, smallest
    while i < length:
        c = p[i]
        i += 1
        if c < 0x80:
            h = hash_step(h, c)
            continue
        if c >= 0xC2 and c <= 0xDF:
            need, smallest, c = 1, 0x80, c & 0x1F
        elif c >= 0xE0 and c <= 0xEF:
            need, smallest, c = 2, 0x800, c & 0x0F
        elif c >= 0xF0 and c <= 0xF4:
            need, smallest, c = 3, 0x10000, c & 0x07
        else:
            h = hash_step(h, 0xFFFD)
            continue
        j = 0
        while j < need and i < length and (p[i] & 0xC0) == 0x80:
            c = (c << 6) | (p[i] & 0x3F)
            i += 1
            j += 1
        if j < need or c < smallest or c > 0x10FFFF or (c >= 0xD800 and c <= 0xDFFF):
            h = hash_step(h, 0xFFFD)
        elif c >= 0x10000:
            c -= 0x10000
            h = hash_step(h, 0xD800 + (c >> 10))
            h = hash_step(h, 0xDC00 + (c & 0x3FF))
        else:
            h = hash_step(h, c)
    return h


cdef bint is_text(const uint8_t* p, int64_t length) noexcept nogil:
    """Whether it is well-formed UTF-8."""
    cdef int64_t i = 0, need
    cdef uint32_t c, smallest
    while i < length:
        c = p[i]
        i += 1
        if c < 0x80:
            continue
        if c >= 0xC2 and c <= 0xDF:
            need, smallest, c = 1, 0x80, c & 0x1F
        elif c >= 0xE0 and c <= 0xEF:
            need, smallest, c = 2, 0x800, c & 0x0F
        elif c >= 0xF0 and c <= 0xF4:
            need, smallest, c = 3, 0x10000, c & 0x07
        else:
            return False
        if length - i < need:
            return False
        while need:
            if (p[i] & 0xC0) != 0x80:
                return False
            c = (c << 6) | (p[i] & 0x3F)
            i += 1
            need -= 1
        if c < smallest or c > 0x10FFFF or (c >= 0xD800 and c <= 0xDFFF):
            return False
    return True


cdef bint is_folder_name(const uint8_t* name, int64_t length) noexcept nogil:
    """Whether a topic of that name can have a folder of its own."""
    if length <= 0 or length > MAX_TOPIC or memchr(name, c'/', length) != NULL or memchr(name, 0, length) != NULL:
        return False
    if name[0] == c'.' and (length == 1 or (length == 2 and name[1] == c'.')):
        return False
    return is_text(name, length)


cdef int64_t tags_code_of(const uint8_t* properties, int32_t length) noexcept nogil:
    cdef int32_t tags_len = 0
    cdef const uint8_t* tags = find_property(properties, length, "TAGS", 4, &tags_len)
    return 0 if tags == NULL else hash_utf8(0, tags, tags_len)
