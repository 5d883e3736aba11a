# A send whose JSON header differs from an earlier one only in the values that change with every message.
#
# What a producer writes is the same from send to send but for queue id, born timestamp, properties and opaque. The text of a
# header that was read field by field is kept with the places of these four; the next header is compared with it in
# five pieces, and only the four values are read. It says the same as the reader it spares: equal pieces are read
# equally, and each value is taken by the same rules. Whatever does not match goes the long way.

cdef enum:
    SHAPES = 64                 # kept by a reactor; connections share them by their slot
    SHAPE_TEXT_MAX = 1024       # longer headers are not kept
    VARYING = 4

    VARIES_QUEUE_ID = 0
    VARIES_BORN = 1
    VARIES_PROPERTIES = 2
    VARIES_OPAQUE = 3

cdef struct Shape:
    int32_t length              # of the text, 0: nothing is kept
    int32_t kinds[VARYING]      # in the order of the text
    int32_t begins[VARYING]
    int32_t ends[VARYING]
    SendHeader header
    uint8_t text[SHAPE_TEXT_MAX]


cdef bint shape_read(const Shape* shape, const uint8_t* p, const uint8_t* end, SendHeader* header) noexcept nogil:
    """A header of this shape. Its topic then points into the shape. False: it has another one."""
    cdef int32_t i, at = 0, length
    cdef int64_t number = 0
    cdef Span value
    if shape.length == 0:
        return False
    header[0] = shape.header
    for i in range(VARYING):
        length = shape.begins[i] - at
        if end - p <= length or memcmp(p, shape.text + at, length) != 0:
            return False
        p += length
        at = shape.ends[i]
        if shape.kinds[i] == VARIES_PROPERTIES:
            p = json_string(p - 1, end, &header.properties)
            if p == NULL:
                return False
            p -= 1      # the closing quote is part of the next piece
            continue
        value.data = p
        value.escaped = False
        while p < end and (c'0' <= p[0] <= c'9' or p[0] == c'-'):
            p += 1
        value.length = <int32_t>(p - value.data)
        if shape.kinds[i] == VARIES_QUEUE_ID:
            if not span_int(&value, 0, 0x7FFFFFFF, &number):
                return False
            header.queue_id = <int32_t>number
        elif shape.kinds[i] == VARIES_BORN:
            if not span_int(&value, 0, 0x7FFFFFFFFFFFFFFF, &number):
                return False
            header.born_timestamp_ms = number
        else:
            if not span_int(&value, -0x80000000, 0x7FFFFFFF, &number):
                return False
            header.opaque = <int32_t>number
    length = shape.length - at
    return end - p == length and memcmp(p, shape.text + at, length) == 0


cdef void shape_keep(Shape* shape, const uint8_t* p, const uint8_t* end, const RawHeader* raw,
                     const SendHeader* header) noexcept nogil:
    """Keep the shape of a JSON header that was read, if all four values are in it once and as clients write them."""
    cdef const Span* found[VARYING]
    cdef const Span* value
    cdef bint v2 = raw.code != CODE_SEND_MESSAGE
    cdef uint8_t name
    cdef int32_t i, kind, at, count
    shape.length = 0
    if end - p > SHAPE_TEXT_MAX or raw.opaque_count != 1:
        return
    found[VARIES_QUEUE_ID] = found[VARIES_BORN] = found[VARIES_PROPERTIES] = NULL
    found[VARIES_OPAQUE] = &raw.opaque_text
    for i in range(raw.count):
        name = send_field(&raw.fields[i].key, v2)
        if name == c'e':
            kind = VARIES_QUEUE_ID
        elif name == c'g':
            kind = VARIES_BORN
        elif name == c'i':
            kind = VARIES_PROPERTIES
        else:
            continue
        if found[kind] != NULL or (raw.fields[i].value.data - 1)[0] != c'"':
            return
        found[kind] = &raw.fields[i].value
    count = 0
    for i in range(VARYING):
        value = found[i]
        if value == NULL or (i == VARIES_OPAQUE and (value.data - 1)[0] == c'"'):
            return
        at = count
        while at and shape.begins[at - 1] > value.data - p:
            shape.kinds[at] = shape.kinds[at - 1]
            shape.begins[at] = shape.begins[at - 1]
            shape.ends[at] = shape.ends[at - 1]
            at -= 1
        shape.kinds[at] = i
        shape.begins[at] = <int32_t>(value.data - p)
        shape.ends[at] = <int32_t>(value.data - p) + value.length
        count += 1
    memcpy(shape.text, p, end - p)
    shape.header = header[0]
    shape.header.topic.data = shape.text + (header.topic.data - p)
    shape.length = <int32_t>(end - p)
