# The hot road of SEND_MESSAGE, SEND_MESSAGE_V2 and SEND_BATCH_MESSAGE: plain messages to an ordinary topic.
#
# It must not differ from the cold road (broker/handlers/send.py) in one byte that a client or a file can see; whatever
# it is not sure of it leaves alone by answering False, before anything was placed.

cdef enum:
    CODE_SEND_MESSAGE = 10
    CODE_SEND_MESSAGE_V2 = 310
    CODE_SEND_BATCH_MESSAGE = 320

    SCRATCH_BYTES = 33024           # properties of a message: at most 32,767 bytes and a final separator
    PROPERTIES_MAX = 32767
    PROPERTY_ITEMS_MAX = 24         # more than that: cold
    UNIQUE_KEY_MAX = 256
    POLICY_TEXT_MAX = 1024
    REPLY_MAX = 1024 + UNIQUE_KEY_MAX
    MESSAGE_ID_BYTES = 32
    BATCH_MAX = 4096                # messages of a batch; more than that: cold
    BATCH_TOPIC_MAX = 127           # the broker's own limit for batches
    BATCH_ENTRY_FIXED = 22          # bytes of an entry beside its body and properties

    FAILURE_STATUSES = 16
    FAILURE_REMARK_MAX = 256

    SYS_FLAG_COLD = 0xCC            # transaction bits, inner batch bits
    SYS_FLAG_HOSTS = 0x30           # set by the store from the address families
    SYS_FLAG_MULTI_TAGS = 0x2

    NAME_SEPARATOR = 1
    ITEM_SEPARATOR = 2

# How a status of the store is answered; the broker's own table, so that both roads say the same.
cdef struct Failure:
    int32_t code
    int32_t remark_length
    uint8_t remark[FAILURE_REMARK_MAX]

# What the hot road needs to know of the broker; filled by Reactor.set_send_policy.
cdef struct SendPolicy:
    bint enabled
    int32_t service
    int32_t max_message_bytes
    int32_t added_length            # properties the broker adds to every plain send
    int32_t reply_json_length
    int32_t reply_binary_length
    uint8_t added[POLICY_TEXT_MAX]
    uint8_t reply_json[POLICY_TEXT_MAX]         # ","TRACE_ON":"true","MSG_REGION":"...","queueOffset":"
    uint8_t reply_binary[POLICY_TEXT_MAX]       # the TRACE_ON and MSG_REGION entries
    int32_t failure_json_length
    uint8_t failure_json[POLICY_TEXT_MAX]       # {"TRACE_ON":"true","MSG_REGION":"..."}
    uint8_t store_host_hex[16]                  # the first half of every offset message id
    Failure failures[FAILURE_STATUSES]          # by status of the store
    Failure busy                                # too many replies wait for a flush

cdef struct SendHeader:
    int32_t opaque
    int32_t serialize
    bint oneway
    Span topic
    Span properties
    int32_t queue_id
    int32_t sys_flag
    int64_t born_timestamp_ms
    int32_t message_flag
    int32_t reconsume_times
    bint batch                  # the body is a batch, whatever the code says
    uint32_t seen               # bit per required field

cdef enum:
    SEEN_TOPIC = 1
    SEEN_QUEUE_ID = 2
    SEEN_SYS_FLAG = 4
    SEEN_BORN = 8
    SEEN_FLAG = 16
    SEEN_PRODUCER_GROUP = 32
    SEEN_DEFAULT_TOPIC = 64
    SEEN_DEFAULT_QUEUES = 128
    SEEN_ALL_REQUIRED = 255

cdef const char* HEX = b"0123456789ABCDEF"


# The field a wire name stands for: the single letter of SendMessageRequestHeaderV2, or 0 if it has no meaning here.
cdef uint8_t send_field(const Span* key, bint v2) noexcept nogil:
    if v2:
        return key.data[0] if key.length == 1 else 0
    if key.length == 5:
        if span_is(key, b"topic", 5):
            return c'b'
        if span_is(key, b"batch", 5):
            return c'm'
    elif key.length == 4:
        if span_is(key, b"flag", 4):
            return c'h'
    elif key.length == 7:
        if span_is(key, b"queueId", 7):
            return c'e'
        if span_is(key, b"sysFlag", 7):
            return c'f'
    elif key.length == 10:
        if span_is(key, b"properties", 10):
            return c'i'
    elif key.length == 12:
        if span_is(key, b"defaultTopic", 12):
            return c'c'
    elif key.length == 13:
        if span_is(key, b"bornTimestamp", 13):
            return c'g'
        if span_is(key, b"producerGroup", 13):
            return c'a'
    elif key.length == 14:
        if span_is(key, b"reconsumeTimes", 14):
            return c'j'
    elif key.length == 21:
        if span_is(key, b"defaultTopicQueueNums", 21):
            return c'd'
    return 0


cdef bint send_set_field(SendHeader* header, uint8_t field, const Span* value) noexcept nogil:
    """Put one ext field where it belongs. False: leave this frame to the cold road."""
    cdef int64_t number = 0
    if field == c'a':
        header.seen |= SEEN_PRODUCER_GROUP
    elif field == c'b':
        if value.escaped:
            return False
        header.topic = value[0]
        header.seen |= SEEN_TOPIC
    elif field == c'c':
        header.seen |= SEEN_DEFAULT_TOPIC
    elif field == c'd':
        if not span_int(value, -0x7FFFFFFF, 0x7FFFFFFF, &number):
            return False
        header.seen |= SEEN_DEFAULT_QUEUES
    elif field == c'e':
        if not span_int(value, 0, 0x7FFFFFFF, &number):
            return False
        header.queue_id = <int32_t>number
        header.seen |= SEEN_QUEUE_ID
    elif field == c'f':
        if not span_int(value, 0, 0x7FFFFFFF, &number):
            return False
        header.sys_flag = <int32_t>number
        header.seen |= SEEN_SYS_FLAG
    elif field == c'g':
        if not span_int(value, 0, 0x7FFFFFFFFFFFFFFF, &number):
            return False
        header.born_timestamp_ms = number
        header.seen |= SEEN_BORN
    elif field == c'h':
        if not span_int(value, -0x7FFFFFFF, 0x7FFFFFFF, &number):
            return False
        header.message_flag = <int32_t>number
        header.seen |= SEEN_FLAG
    elif field == c'i':
        header.properties = value[0]
    elif field == c'j':
        if not span_int(value, 0, 0x7FFFFFFF, &number):
            return False
        header.reconsume_times = <int32_t>number
    elif field == c'm':
        header.batch = span_is(value, b"true", 4)
        return header.batch or span_is(value, b"false", 5)
    return True


cdef bint read_send(const RawHeader* raw, SendHeader* header) noexcept nogil:
    """A plain send's header, all required fields in it."""
    cdef int32_t i
    memset(header, 0, sizeof(SendHeader))
    header.opaque = raw.opaque
    header.serialize = raw.serialize
    header.oneway = (raw.flag & FLAG_ONEWAY) != 0
    for i in range(raw.count):
        if not send_set_field(header, send_field(&raw.fields[i].key, raw.code != CODE_SEND_MESSAGE),
                              &raw.fields[i].value):
            return False
    if raw.code == CODE_SEND_BATCH_MESSAGE and not header.batch:
        return False                # as a batch or not: the cold road knows
    return header.seen == SEEN_ALL_REQUIRED and not raw.flag & FLAG_RESPONSE


cdef inline int32_t put_decimal(uint8_t* out, int64_t value) noexcept nogil:
    cdef uint8_t digits[24]
    cdef int32_t n = 0, length = 0
    cdef uint64_t rest
    if value < 0:
        out[0] = c'-'
        length = 1
        rest = <uint64_t>(-(value + 1)) + 1
    else:
        rest = <uint64_t>value
    while True:
        digits[n] = <uint8_t>(c'0' + rest % 10)
        rest //= 10
        n += 1
        if rest == 0:
            break
    while n:
        n -= 1
        out[length] = digits[n]
        length += 1
    return length


cdef inline void put_hex(uint8_t* out, const uint8_t* data, int32_t length) noexcept nogil:
    cdef int32_t i
    for i in range(length):
        out[2 * i] = HEX[data[i] >> 4]
        out[2 * i + 1] = HEX[data[i] & 15]


cdef inline uint8_t* put_bytes(uint8_t* out, const void* data, size_t length) noexcept nogil:
    memcpy(out, data, length)
    return out + length


cdef bint property_is_cold(const uint8_t* name, int32_t length) noexcept nogil:
    """Names that make a send more than a plain one, or that the broker itself sets."""
    cdef uint8_t first = name[0]
    if first == c'D':
        return (length == 5 and memcmp(name, b"DELAY", 5) == 0) or (length == 8 and memcmp(name, b"DUP_INFO", 8) == 0)
    if first == c'T':
        if length >= 6 and memcmp(name, b"TIMER_", 6) == 0:
            return True
        return (length == 8 and (memcmp(name, b"TRAN_MSG", 8) == 0 or memcmp(name, b"TRACE_ON", 8) == 0))
    if first == c'M':
        return length == 10 and memcmp(name, b"MSG_REGION", 10) == 0
    if first == c'C':
        return length == 7 and memcmp(name, b"CLUSTER", 7) == 0
    if first == c'P':
        return length == 6 and memcmp(name, b"POP_CK", 6) == 0
    if first == c'I':
        return length >= 6 and memcmp(name, b"INNER_", 6) == 0
    if first == c'_':
        return length == 8 and memcmp(name, b"__CRC32#", 8) == 0
    return False


cdef struct PropertyView:
    int64_t tags_code
    const uint8_t* unique_key
    int32_t unique_key_length
    bint waits                      # WAIT is absent or true


cdef bint read_properties(const uint8_t* text, int32_t length, PropertyView* view) noexcept nogil:
    """Walk `name \\x01 value \\x02` items; False for anything that is not a plain, well-formed list."""
    cdef const uint8_t* p = text
    cdef const uint8_t* end = text + length
    cdef const uint8_t* value
    cdef const uint8_t* stop
    cdef const uint8_t* names[PROPERTY_ITEMS_MAX]
    cdef int32_t lengths[PROPERTY_ITEMS_MAX]
    cdef int32_t count = 0, name_length, value_length, i
    cdef uint32_t code
    view.tags_code = 0
    view.unique_key = NULL
    view.unique_key_length = 0
    view.waits = True
    while p < end:
        value = scan_property_text(p, end)
        if value >= end or value[0] != NAME_SEPARATOR:
            return False
        name_length = <int32_t>(value - p)
        value += 1
        stop = scan_property_text(value, end)
        if stop >= end or stop[0] != ITEM_SEPARATOR:
            return False
        value_length = <int32_t>(stop - value)
        if name_length == 0 or value_length == 0 or count == PROPERTY_ITEMS_MAX or property_is_cold(p, name_length):
            return False
        for i in range(count):
            if lengths[i] == name_length and memcmp(names[i], p, name_length) == 0:
                return False
        names[count] = p
        lengths[count] = name_length
        count += 1
        if name_length == 4 and memcmp(p, b"TAGS", 4) == 0:
            code = 0
            for i in range(value_length):
                code = code * 31 + value[i]
            view.tags_code = <int32_t>code
        elif name_length == 4 and memcmp(p, b"WAIT", 4) == 0:
            view.waits = value_length == 4 and memcmp(value, b"true", 4) == 0
        elif name_length == 8 and memcmp(p, b"UNIQ_KEY", 8) == 0:
            if value_length > UNIQUE_KEY_MAX:
                return False
            if scan_key_text(value, stop) != stop:
                return False
            view.unique_key = value
            view.unique_key_length = value_length
        p = stop + 1
    return True


cdef int32_t plain_batch(const uint8_t* p, int64_t length) noexcept nogil:
    """Messages of a batch (size 4, magic 4, crc 4, flag 4, body length 4, body, properties length 2, properties each), or
    -1 for anything that is not well formed or has properties that are not plain."""
    cdef const uint8_t* end = p + length
    cdef const uint8_t* at
    cdef const uint8_t* value
    cdef const uint8_t* stop
    cdef int32_t count = 0
    cdef int64_t size, body
    while p < end:
        if end - p < BATCH_ENTRY_FIXED or count == BATCH_MAX:
            return -1
        size = <int32_t>load_be32(p)
        body = <int32_t>load_be32(p + 16)
        if size < BATCH_ENTRY_FIXED or size > end - p or body < 0 or body > size - BATCH_ENTRY_FIXED:
            return -1
        at = p + 20 + body
        if BATCH_ENTRY_FIXED + body + load_be16(at) != size:
            return -1
        at += 2
        p += size
        while at < p:
            value = scan_property_text(at, p)
            if value >= p or value[0] != NAME_SEPARATOR or value == at or property_is_cold(at, <int32_t>(value - at)):
                return -1
            stop = scan_property_text(value + 1, p)
            if stop >= p or stop[0] != ITEM_SEPARATOR:
                return -1
            at = stop + 1
        count += 1
    return count


cdef inline uint8_t* put_message_ids(uint8_t* p, const SendPolicy* policy, const Placed* placed,
                                     int32_t count) noexcept nogil:
    """Store host and log offset of each message in hex, with commas between them."""
    cdef uint8_t number[8]
    cdef int32_t i
    for i in range(count):
        if i:
            p[0] = c','
            p += 1
        store_be32(number, <uint32_t>(<uint64_t>placed[i].log_offset >> 32))
        store_be32(number + 4, <uint32_t>placed[i].log_offset)
        p = put_bytes(p, policy.store_host_hex, 16)
        put_hex(p, number, 8)
        p += 16
    return p


cdef int32_t put_send_reply(uint8_t* out, const SendPolicy* policy, const SendHeader* header, const PropertyView* view,
                            const Placed* placed, int32_t count) noexcept nogil:
    """The frame that answers a send of so many messages: queueId, transactionId (if the send has a unique key), msgId,
    TRACE_ON, MSG_REGION, queueOffset."""
    cdef uint8_t* p = out + 8
    cdef uint8_t* ext
    cdef uint8_t text[24]
    cdef int32_t length
    if header.serialize == SERIALIZE_JSON:
        p = put_bytes(p, b'{"code":0,"extFields":{"queueId":"', 34)
        p += put_decimal(p, header.queue_id)
        if view.unique_key != NULL:
            p = put_bytes(p, b'","transactionId":"', 19)
            p = put_bytes(p, view.unique_key, view.unique_key_length)
        p = put_bytes(p, b'","msgId":"', 11)
        p = put_message_ids(p, policy, placed, count)
        p = put_bytes(p, policy.reply_json, policy.reply_json_length)
        p += put_decimal(p, placed.queue_offset)
        p = put_bytes(p, b'"},"flag":1,"language":"JAVA","opaque":', 39)
        p += put_decimal(p, header.opaque)
        p = put_bytes(p, b',"serializeTypeCurrentRPC":"JSON","version":479}', 48)
    else:
        store_be16(p, 0)
        p[2] = 0
        store_be16(p + 3, 479)
        store_be32(p + 5, <uint32_t>header.opaque)
        store_be32(p + 9, FLAG_RESPONSE)
        store_be32(p + 13, 0)
        ext = p + 17
        p += 21
        length = put_decimal(text, header.queue_id)
        p = put_bytes(p, b"\x00\x07queueId\x00\x00\x00", 12)
        p[0] = <uint8_t>length
        p = put_bytes(p + 1, text, length)
        if view.unique_key != NULL:
            p = put_bytes(p, b"\x00\x0dtransactionId", 15)
            store_be32(p, view.unique_key_length)
            p = put_bytes(p + 4, view.unique_key, view.unique_key_length)
        p = put_bytes(p, b"\x00\x05msgId", 7)
        store_be32(p, count * (MESSAGE_ID_BYTES + 1) - 1)
        p = put_message_ids(p + 4, policy, placed, count)
        p = put_bytes(p, policy.reply_binary, policy.reply_binary_length)
        length = put_decimal(text, placed.queue_offset)
        p = put_bytes(p, b"\x00\x0bqueueOffset\x00\x00\x00", 16)
        p[0] = <uint8_t>length
        p = put_bytes(p + 1, text, length)
        store_be32(ext, <uint32_t>(p - ext - 4))
    length = <int32_t>(p - out)
    store_be32(out, length - 4)
    store_be32(out + 4, (<uint32_t>header.serialize << 24) | (length - 8))
    return length


cdef int32_t put_failure_reply(uint8_t* out, const SendPolicy* policy, const Failure* failure,
                               int32_t serialize, int32_t opaque) noexcept nogil:
    """The frame that refuses a send: code, remark, and the region fields that every answer to a send carries."""
    cdef uint8_t* p = out + 8
    cdef int32_t length
    if serialize == SERIALIZE_JSON:
        p = put_bytes(p, b'{"code":', 8)
        p += put_decimal(p, failure.code)
        p = put_bytes(p, b',"extFields":', 13)
        p = put_bytes(p, policy.failure_json, policy.failure_json_length)
        p = put_bytes(p, b',"flag":1,"language":"JAVA","opaque":', 37)
        p += put_decimal(p, opaque)
        p = put_bytes(p, b',"remark":"', 11)
        p = put_bytes(p, failure.remark, failure.remark_length)
        p = put_bytes(p, b'","serializeTypeCurrentRPC":"JSON","version":479}', 49)
    else:
        store_be16(p, <uint32_t>failure.code)
        p[2] = 0
        store_be16(p + 3, 479)
        store_be32(p + 5, <uint32_t>opaque)
        store_be32(p + 9, FLAG_RESPONSE)
        store_be32(p + 13, failure.remark_length)
        p = put_bytes(p + 17, failure.remark, failure.remark_length)
        store_be32(p, policy.reply_binary_length)
        p = put_bytes(p + 4, policy.reply_binary, policy.reply_binary_length)
    length = <int32_t>(p - out)
    store_be32(out, length - 4)
    store_be32(out + 4, (<uint32_t>serialize << 24) | (length - 8))
    return length


cdef int32_t patch_code(uint8_t* out, const uint8_t* frame, int32_t length, int32_t code) noexcept nogil:
    """Copy a success frame with another two-digit code in it (FLUSH_DISK_TIMEOUT); returns the new length."""
    if frame[4] == SERIALIZE_JSON:
        # the header begins with {"code":0, so that the only digit stands at byte 16 of the frame
        memcpy(out, frame, 16)
        out[16] = <uint8_t>(c'0' + code // 10)
        out[17] = <uint8_t>(c'0' + code % 10)
        memcpy(out + 18, frame + 17, length - 17)
        length += 1
        store_be32(out, length - 4)
        store_be32(out + 4, load_be32(out + 4) + 1)
    else:
        memcpy(out, frame, length)
        store_be16(out + 8, <uint32_t>code)
    return length
