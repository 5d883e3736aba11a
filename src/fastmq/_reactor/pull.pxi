# The hot road of consumers: PULL_MESSAGE and LITE_PULL_MESSAGE, held pulls, UPDATE_ and QUERY_CONSUMER_OFFSET.
#
# Whether a pull may be served here is decided in Python: when the cold road has served one, it may grant all pulls that
# are like it (group, topic, filter) to the hot road. Everything that was checked for the grant (permissions, group
# and topic settings, subscriptions, pending resets) revokes all grants when it changes, so that the next pull of each
# kind is a cold one again. What hot pulls do to offsets and statistics is kept here per group and topic, and taken over by
# Python before it looks at its own tables. The other way round Python tells the offsets of a group and topic with the grant, and
# what it commits itself from then on, so that offsets can be asked for here; a revoked grant makes them unknown.
#
# Pulls are served at the end of a turn, behind the turn's append: they find the messages of the very same turn, and the
# store's lock is free.

cdef enum:
    CODE_PULL_MESSAGE = 11
    CODE_LITE_PULL_MESSAGE = 361
    CODE_QUERY_CONSUMER_OFFSET = 14
    CODE_UPDATE_CONSUMER_OFFSET = 15

    PULL_COMMIT_OFFSET = 1
    PULL_SUSPEND = 2
    PULL_SUBSCRIPTION = 4
    PULL_CLASS_FILTER = 8

    PULL_EXTENTS_MAX = 64           # messages of one answer
    PULL_SCAN_MAX = 800             # queue entries looked at for one pull
    PULL_REPLY_MAX = 768
    OFFSET_REPLY_MAX = 256
    HELD_MAX = 100000
    HELD_BYTES_MAX = 67108864       # of the frames of held pulls
    PROGRESS_MAX = 65536            # groups and topics with grants
    TABLE_SLOTS = 4096              # of the hash tables here; a power of two

    # the store's outcomes of a read
    READ_FOUND = 0
    READ_NO_MATCHED_MESSAGE = 1
    READ_MESSAGE_WAS_REMOVING = 2
    READ_OFFSET_FOUND_NULL = 3
    READ_OFFSET_OVERFLOW_BADLY = 4
    READ_OFFSET_OVERFLOW_ONE = 5
    READ_OFFSET_TOO_SMALL = 6

cdef struct PullHeader:
    int32_t opaque
    int32_t serialize
    bint oneway
    bint lite
    Span group
    Span topic
    Span subscription
    int32_t queue_id
    int32_t sys_flag
    int32_t max_messages
    int64_t queue_offset
    int64_t commit_offset
    int64_t suspend_ms
    int64_t sub_version
    uint32_t seen

cdef enum:
    SEEN_PULL_GROUP = 1
    SEEN_PULL_TOPIC = 2
    SEEN_PULL_QUEUE = 4
    SEEN_PULL_OFFSET = 8
    SEEN_PULL_MAX = 16
    SEEN_PULL_SYS_FLAG = 32
    SEEN_PULL_COMMIT = 64
    SEEN_PULL_SUSPEND = 128
    SEEN_PULL_VERSION = 256
    SEEN_PULL_ALL = 511
    SEEN_QUEUE_ALL = 1 | 2 | 4
    SEEN_OFFSET_ALL = 1 | 2 | 4 | 64

# What hot pulls and commits did for one queue since Python took it over. -1: nothing.
cdef struct QueueProgress:
    int64_t known                   # the group's committed offset as everybody sees it, -1: ask Python
    int64_t committed
    int64_t commits
    int64_t pulled
    int64_t pulls
    int64_t messages
    int64_t bytes

# One consumer group on one topic.
cdef struct Progress:
    Progress* chain                 # of the hash table
    Progress* next_changed
    bint granted                    # offsets of it may be committed here
    bint asked                      # and asked for: nobody else commits without telling
    void* grants                    # PullGrant*, the newest first
    bint changed
    int32_t queues
    int64_t missed
    QueueProgress* by_queue
    int32_t group_length
    int32_t topic_length
    uint8_t* name                   # group, then topic

# What a progress has to tell Python: a row for each of its queues with news, then one with the progress itself.
cdef struct ProgressNews:
    Progress* progress              # NULL: a row of a queue
    int64_t missed
    int32_t queue_id
    QueueProgress queue

# Pulls of one group and topic with one filter.
cdef struct PullGrant:
    PullGrant* next                 # of the same group and topic
    PullGrant* next_all
    Progress* progress
    Topic* topic
    bint alive
    int32_t holds                   # held pulls that point here
    bint brings_filter              # the subscription stands in the request
    bint lite                       # LITE_PULL_MESSAGE is allowed
    int64_t sub_version
    int32_t tag_count               # -1: everything matches
    int64_t* tag_codes
    int32_t max_messages
    int64_t max_bytes
    int64_t suspend_ms              # -1: as the request says
    int32_t group_sys_flag
    int32_t topic_sys_flag
    int32_t filter_length
    uint8_t* filter

cdef struct HeldQueue

# A pull that waits for its queue to grow.
cdef struct HeldPull:
    HeldPull* next_in_queue
    HeldPull* previous_in_queue
    HeldPull* next_of_connection
    HeldPull* previous_of_connection
    HeldQueue* queue                # while it is linked
    Queue* of_queue
    PullGrant* grant
    int64_t connection
    int64_t looked_at               # queue offset up to which nothing matched
    int64_t deadline_ms
    int32_t heap_index
    uint32_t frame_length
    uint8_t* frame

cdef struct HeldQueue:
    HeldQueue* chain
    Queue* queue
    HeldPull* first
    HeldPull* last


cdef inline uint64_t hash_bytes(uint64_t h, const uint8_t* data, int32_t length) noexcept nogil:
    cdef int32_t i
    for i in range(length):
        h = (h ^ data[i]) * 1099511628211ULL
    return h


cdef inline uint64_t progress_hash(const uint8_t* group, int32_t group_length, const uint8_t* topic,
                                   int32_t topic_length) noexcept nogil:
    cdef uint64_t h = hash_bytes(14695981039346656037ULL, group, group_length)
    h = hash_bytes(h * 31, topic, topic_length)
    return h ^ (h >> 29)


cdef bint pull_set_field(PullHeader* header, const Span* key, const Span* value) noexcept nogil:
    """Put one ext field where it belongs. False: leave this frame to the cold road."""
    cdef int64_t number = 0
    cdef int64_t big = 0x7FFFFFFFFFFFFFFF
    if key.length == 5 and span_is(key, b"topic", 5):
        header.topic = value[0]
        header.seen |= SEEN_PULL_TOPIC
        return not value.escaped
    if key.length == 7:
        if span_is(key, b"queueId", 7):
            header.seen |= SEEN_PULL_QUEUE
            if not span_int(value, 0, 0x7FFFFFFF, &number):
                return False
            header.queue_id = <int32_t>number
        elif span_is(key, b"sysFlag", 7):
            header.seen |= SEEN_PULL_SYS_FLAG
            if not span_int(value, 0, 0x7FFFFFFF, &number):
                return False
            header.sys_flag = <int32_t>number
        return True
    if key.length == 10:
        if span_is(key, b"maxMsgNums", 10):
            header.seen |= SEEN_PULL_MAX
            if not span_int(value, -0x7FFFFFFF, 0x7FFFFFFF, &number):
                return False
            header.max_messages = <int32_t>number
        elif span_is(key, b"subVersion", 10):
            header.seen |= SEEN_PULL_VERSION
            # a Go client sends nanoseconds: nineteen digits
            if value.length == 19:
                header.sub_version = big
                return not value.escaped
            return span_int(value, -big, big, &header.sub_version)
        return True
    if key.length == 11 and span_is(key, b"queueOffset", 11):
        header.seen |= SEEN_PULL_OFFSET
        return span_int(value, 0, big, &header.queue_offset)
    if key.length == 12:
        if span_is(key, b"commitOffset", 12):
            header.seen |= SEEN_PULL_COMMIT
            return span_int(value, -big, big, &header.commit_offset)
        if span_is(key, b"subscription", 12):
            header.subscription = value[0]
            return not value.escaped
        return True
    if key.length == 13 and span_is(key, b"consumerGroup", 13):
        header.group = value[0]
        header.seen |= SEEN_PULL_GROUP
        return not value.escaped
    if key.length == 14 and span_is(key, b"expressionType", 14):
        return span_is(value, b"TAG", 3)
    if key.length == 20 and span_is(key, b"suspendTimeoutMillis", 20):
        header.seen |= SEEN_PULL_SUSPEND
        return span_int(value, -big, big, &header.suspend_ms)
    return True


cdef bint read_pull(const RawHeader* raw, PullHeader* header) noexcept nogil:
    """The header of a pull or an offset commit; the caller looks at `seen`."""
    cdef int32_t i
    memset(header, 0, sizeof(PullHeader))
    header.opaque = raw.opaque
    header.serialize = raw.serialize
    header.oneway = (raw.flag & FLAG_ONEWAY) != 0
    header.lite = raw.code == CODE_LITE_PULL_MESSAGE
    if raw.flag & FLAG_RESPONSE:
        return False
    for i in range(raw.count):
        if not pull_set_field(header, &raw.fields[i].key, &raw.fields[i].value):
            return False
    return header.group.length > 0 and header.topic.length > 0


# By outcome of the read: (response code, remark), as in broker/handlers/pull.py.
cdef inline int32_t pull_code(int status) noexcept nogil:
    if status == READ_FOUND:
        return 0
    if status == READ_NO_MATCHED_MESSAGE or status == READ_MESSAGE_WAS_REMOVING:
        return 20
    if status == READ_OFFSET_FOUND_NULL or status == READ_OFFSET_OVERFLOW_ONE:
        return 19
    return 21


cdef inline const char* pull_remark(int status) noexcept nogil:
    if status == READ_FOUND:
        return b"FOUND"
    if status == READ_NO_MATCHED_MESSAGE:
        return b"NO_MATCHED_MESSAGE"
    if status == READ_MESSAGE_WAS_REMOVING:
        return b"MESSAGE_WAS_REMOVING"
    if status == READ_OFFSET_FOUND_NULL:
        return b"OFFSET_FOUND_NULL"
    if status == READ_OFFSET_OVERFLOW_BADLY:
        return b"OFFSET_OVERFLOW_BADLY"
    if status == READ_OFFSET_OVERFLOW_ONE:
        return b"OFFSET_OVERFLOW_ONE"
    return b"OFFSET_TOO_SMALL"


cdef inline uint8_t* put_json_number(uint8_t* p, const char* before, size_t length, int64_t value) noexcept nogil:
    p = put_bytes(p, before, length)
    return p + put_decimal(p, value)


cdef inline uint8_t* put_binary_number(uint8_t* p, const char* name, int32_t length, int64_t value) noexcept nogil:
    cdef int32_t digits
    store_be16(p, length)
    p = put_bytes(p + 2, name, length)
    digits = put_decimal(p + 4, value)
    store_be32(p, digits)
    return p + 4 + digits


cdef int32_t put_pull_reply(uint8_t* out, const PullHeader* header, const PullGrant* grant,
                            const ReadSummary* summary, int64_t body_bytes) noexcept nogil:
    """The frame of an answer up to its body."""
    cdef uint8_t* p = out + 8
    cdef uint8_t* ext
    cdef const char* remark = pull_remark(summary.status)
    cdef size_t remark_length = strlen(remark)
    cdef int32_t length
    if header.serialize == SERIALIZE_JSON:
        p = put_json_number(p, b'{"code":', 8, pull_code(summary.status))
        p = put_json_number(p, b',"extFields":{"suggestWhichBrokerId":"', 38, 0)
        p = put_json_number(p, b'","groupSysFlag":"', 18, grant.group_sys_flag)
        p = put_json_number(p, b'","nextBeginOffset":"', 21, summary.next_offset)
        p = put_json_number(p, b'","maxOffset":"', 15, summary.max_offset)
        p = put_json_number(p, b'","minOffset":"', 15, summary.min_offset)
        p = put_json_number(p, b'","topicSysFlag":"', 18, grant.topic_sys_flag)
        p = put_json_number(p, b'"},"flag":1,"language":"JAVA","opaque":', 39, header.opaque)
        p = put_bytes(p, b',"remark":"', 11)
        p = put_bytes(p, remark, remark_length)
        p = put_bytes(p, b'","serializeTypeCurrentRPC":"JSON","version":479}', 49)
    else:
        store_be16(p, pull_code(summary.status))
        p[2] = 0
        store_be16(p + 3, 479)
        store_be32(p + 5, <uint32_t>header.opaque)
        store_be32(p + 9, FLAG_RESPONSE)
        store_be32(p + 13, <uint32_t>remark_length)
        p = put_bytes(p + 17, remark, remark_length)
        ext = p
        p += 4
        p = put_binary_number(p, b"suggestWhichBrokerId", 20, 0)
        p = put_binary_number(p, b"groupSysFlag", 12, grant.group_sys_flag)
        p = put_binary_number(p, b"nextBeginOffset", 15, summary.next_offset)
        p = put_binary_number(p, b"maxOffset", 9, summary.max_offset)
        p = put_binary_number(p, b"minOffset", 9, summary.min_offset)
        p = put_binary_number(p, b"topicSysFlag", 12, grant.topic_sys_flag)
        store_be32(ext, <uint32_t>(p - ext - 4))
    length = <int32_t>(p - out)
    store_be32(out, <uint32_t>(length - 4 + body_bytes))
    store_be32(out + 4, (<uint32_t>header.serialize << 24) | (length - 8))
    return length


cdef int32_t put_offset_reply(uint8_t* out, const PullHeader* header, int64_t offset) noexcept nogil:
    """The frame that answers a query of an offset, or (offset -1) a commit."""
    cdef uint8_t* p = out + 8
    cdef uint8_t* ext
    cdef int32_t length
    if header.serialize == SERIALIZE_JSON:
        p = put_bytes(p, b'{"code":0,', 10)
        if offset >= 0:
            p = put_json_number(p, b'"extFields":{"offset":"', 23, offset)
            p = put_bytes(p, b'"},', 3)
        p = put_json_number(p, b'"flag":1,"language":"JAVA","opaque":', 36, header.opaque)
        p = put_bytes(p, b',"serializeTypeCurrentRPC":"JSON","version":479}', 48)
    else:
        store_be16(p, 0)
        p[2] = 0
        store_be16(p + 3, 479)
        store_be32(p + 5, <uint32_t>header.opaque)
        store_be32(p + 9, FLAG_RESPONSE)
        store_be32(p + 13, 0)
        ext = p + 17
        p = ext + 4
        if offset >= 0:
            p = put_binary_number(p, b"offset", 6, offset)
        store_be32(ext, <uint32_t>(p - ext - 4))
    length = <int32_t>(p - out)
    store_be32(out, length - 4)
    store_be32(out + 4, (<uint32_t>header.serialize << 24) | (length - 8))
    return length


# --- the heap of deadlines ------------------------------------------------------------------------------------------

cdef struct DeadlineHeap:
    HeldPull** items
    int32_t count
    int32_t capacity


cdef inline void heap_put(DeadlineHeap* heap, int32_t index, HeldPull* pull) noexcept nogil:
    heap.items[index] = pull
    pull.heap_index = index


cdef void heap_up(DeadlineHeap* heap, int32_t index, HeldPull* pull) noexcept nogil:
    cdef int32_t parent
    while index:
        parent = (index - 1) // 2
        if heap.items[parent].deadline_ms <= pull.deadline_ms:
            break
        heap_put(heap, index, heap.items[parent])
        index = parent
    heap_put(heap, index, pull)


cdef void heap_down(DeadlineHeap* heap, int32_t index, HeldPull* pull) noexcept nogil:
    cdef int32_t child
    while True:
        child = 2 * index + 1
        if child >= heap.count:
            break
        if child + 1 < heap.count and heap.items[child + 1].deadline_ms < heap.items[child].deadline_ms:
            child += 1
        if heap.items[child].deadline_ms >= pull.deadline_ms:
            break
        heap_put(heap, index, heap.items[child])
        index = child
    heap_put(heap, index, pull)


cdef bint heap_add(DeadlineHeap* heap, HeldPull* pull) noexcept nogil:
    cdef HeldPull** items
    cdef int32_t capacity
    if heap.count == heap.capacity:
        capacity = 64 if heap.capacity == 0 else heap.capacity * 2
        items = <HeldPull**>realloc(heap.items, capacity * sizeof(HeldPull*))
        if items == NULL:
            return False
        heap.items = items
        heap.capacity = capacity
    heap.count += 1
    heap_up(heap, heap.count - 1, pull)
    return True


cdef void heap_remove(DeadlineHeap* heap, HeldPull* pull) noexcept nogil:
    cdef HeldPull* last
    cdef int32_t index = pull.heap_index
    heap.count -= 1
    last = heap.items[heap.count]
    if last != pull:
        if index and heap.items[(index - 1) // 2].deadline_ms > last.deadline_ms:
            heap_up(heap, index, last)
        else:
            heap_down(heap, index, last)
