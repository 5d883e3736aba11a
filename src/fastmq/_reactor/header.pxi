# Request headers of the hot codes, read in place.
#
# The reader takes what official clients send and nothing else: whatever it does not recognise at once (escapes in a
# name, numbers out of range, non-ASCII text, more fields than any request has) makes the frame a cold one, which the
# complete decoder in Python then accepts or refuses. So this file never has to say what is wrong with a frame.

cdef enum:
    SERIALIZE_JSON = 0
    SERIALIZE_ROCKETMQ = 1
    FLAG_RESPONSE = 1
    FLAG_ONEWAY = 2
    HEADER_BINARY_MIN = 21
    FIELDS_MAX = 24

cdef extern from "_scan.h" nogil:
    const uint8_t* scan_json_text(const uint8_t* p, const uint8_t* end)
    const uint8_t* scan_property_text(const uint8_t* p, const uint8_t* end)
    const uint8_t* scan_ascii(const uint8_t* p, const uint8_t* end)
    const uint8_t* scan_key_text(const uint8_t* p, const uint8_t* end)
    size_t copy_to_backslash(uint8_t* out, const uint8_t* p, const uint8_t* end)

# A piece of the frame; `escaped` text still carries its JSON escapes.
cdef struct Span:
    const uint8_t* data
    int32_t length
    bint escaped

cdef struct Field:
    Span key
    Span value

# A header as it stands in the frame: the spans point into it.
cdef struct RawHeader:
    int32_t code
    int32_t opaque
    int32_t flag
    int32_t serialize
    bint has_code
    bint has_opaque
    bint has_ext
    Span opaque_text            # in a JSON header; and how often it is there
    int32_t opaque_count
    int32_t count
    Field fields[FIELDS_MAX]


cdef bint span_int(const Span* span, int64_t low, int64_t high, int64_t* out) noexcept nogil:
    """Decimal text as a number within [low, high]."""
    cdef int64_t value = 0
    cdef int32_t i = 0, digits
    cdef bint negative = False
    if span.escaped or span.length < 1:
        return False
    if span.data[0] == c'-':
        negative = True
        i = 1
    digits = span.length - i
    if digits < 1 or digits > 18:
        return False
    while i < span.length:
        if span.data[i] < c'0' or span.data[i] > c'9':
            return False
        value = value * 10 + (span.data[i] - c'0')
        i += 1
    if negative:
        value = -value
    if value < low or value > high:
        return False
    out[0] = value
    return True


cdef inline bint span_is(const Span* span, const char* text, int32_t length) noexcept nogil:
    return span.length == length and memcmp(span.data, text, length) == 0


cdef inline Field* raw_next(RawHeader* header) noexcept nogil:
    """Room for one more field, which counts once `count` does. Spans are written where they stay: a copy of one that was
    just put together from smaller parts would wait for them."""
    return &header.fields[header.count] if header.count < FIELDS_MAX else NULL


# --- JSON ---------------------------------------------------------------------------------------------------------

cdef inline const uint8_t* skip_space(const uint8_t* p, const uint8_t* end) noexcept nogil:
    if p < end and p[0] > c' ':
        return p
    while p < end and (p[0] == c' ' or p[0] == c'\n' or p[0] == c'\t' or p[0] == c'\r'):
        p += 1
    return p


cdef inline const uint8_t* json_string(const uint8_t* p, const uint8_t* end, Span* out) noexcept nogil:
    """A string that starts at its opening quote; returns the place after the closing one, or NULL."""
    p += 1
    out.data = p
    out.escaped = False
    while True:
        p = scan_json_text(p, end)
        if p >= end:
            return NULL
        if p[0] == c'"':
            out.length = <int32_t>(p - out.data)
            return p + 1
        if p[0] != c'\\':
            return NULL
        out.escaped = True
        p += 2
        if p > end:
            return NULL


cdef const uint8_t* json_scalar(const uint8_t* p, const uint8_t* end, Span* out) noexcept nogil:
    """A string, whole number, true or false; null, structures and numbers that JSON writes in another way are left to
    the cold road."""
    if p >= end:
        return NULL
    if p[0] == c'"':
        return json_string(p, end, out)
    out.data = p
    out.escaped = False
    if c'a' <= p[0] <= c'z':
        while p < end and c'a' <= p[0] <= c'z':
            p += 1
        out.length = <int32_t>(p - out.data)
        return p if span_is(out, b"true", 4) or span_is(out, b"false", 5) else NULL
    if p[0] == c'0':
        out.length = 1
        return p + 1
    if p[0] == c'-':
        p += 1
    if p >= end or p[0] < c'1' or p[0] > c'9':
        return NULL
    while p < end and c'0' <= p[0] <= c'9':
        p += 1
    out.length = <int32_t>(p - out.data)
    return p if out.length < 20 else NULL


cdef const uint8_t* json_ext_fields(const uint8_t* p, const uint8_t* end, RawHeader* header) noexcept nogil:
    cdef Field* field
    if p >= end or p[0] != c'{':
        return NULL
    p = skip_space(p + 1, end)
    if p < end and p[0] == c'}':
        return p + 1
    while p < end:
        field = raw_next(header)
        if field == NULL or p[0] != c'"':
            return NULL
        if (end - p > 5 and p[2] == c'"' and p[3] == c':' and p[4] == c'"' and 0x20 <= p[1] < 0x80 and p[1] != c'"'
                and p[1] != c'\\'):
            # "x":"..., as all fields of a send are
            field.key.data = p + 1
            field.key.length = 1
            field.key.escaped = False
            p = json_string(p + 4, end, &field.value)
        else:
            p = json_string(p, end, &field.key)
            if p == NULL or field.key.escaped:
                return NULL
            p = skip_space(p, end)
            if p >= end or p[0] != c':':
                return NULL
            p = json_scalar(skip_space(p + 1, end), end, &field.value)
        if p == NULL:
            return NULL
        header.count += 1
        p = skip_space(p, end)
        if p >= end:
            return NULL
        if p[0] == c'}':
            return p + 1
        if p[0] != c',':
            return NULL
        p = skip_space(p + 1, end)
    return NULL


cdef bint read_json_header(const uint8_t* p, const uint8_t* end, RawHeader* header) noexcept nogil:
    """A whole JSON header."""
    cdef Span key, value
    cdef int64_t number = 0
    p = skip_space(p, end)
    if p >= end or p[0] != c'{':
        return False
    p = skip_space(p + 1, end)
    while p < end:
        if p[0] != c'"':
            return False
        p = json_string(p, end, &key)
        if p == NULL or key.escaped:
            return False
        p = skip_space(p, end)
        if p >= end or p[0] != c':':
            return False
        p = skip_space(p + 1, end)
        if span_is(&key, b"extFields", 9):
            if header.has_ext:
                return False                # the last one counts alone
            header.has_ext = True
            p = json_ext_fields(p, end, header)
            if p == NULL:
                return False
        else:
            p = json_scalar(p, end, &value)
            if p == NULL:
                return False
            if span_is(&key, b"code", 4):
                if not span_int(&value, 0, 0x7FFFFFFF, &number):
                    return False
                header.code = <int32_t>number
                header.has_code = True
            elif span_is(&key, b"opaque", 6):
                if not span_int(&value, -0x80000000, 0x7FFFFFFF, &number):
                    return False
                header.opaque = <int32_t>number
                header.opaque_text = value
                header.opaque_count += 1
                header.has_opaque = True
            elif span_is(&key, b"flag", 4):
                if not span_int(&value, 0, 0x7FFFFFFF, &number):
                    return False
                header.flag = <int32_t>number
            elif span_is(&key, b"version", 7):
                if not span_int(&value, -0x80000000, 0x7FFFFFFF, &number):
                    return False
            elif (value.data - 1)[0] != c'"' and (span_is(&key, b"language", 8) or span_is(&key, b"remark", 6)):
                return False
        p = skip_space(p, end)
        if p >= end:
            return False
        if p[0] == c'}':
            return skip_space(p + 1, end) == end and header.has_code and header.has_opaque
        if p[0] != c',':
            return False
        p = skip_space(p + 1, end)
    return False


# --- ROCKETMQ (binary) ----------------------------------------------------------------------------------------------

cdef bint read_binary_header(const uint8_t* p, const uint8_t* end, RawHeader* header) noexcept nogil:
    cdef uint32_t remark_length, ext_length, value_length
    cdef uint16_t key_length
    cdef Field* field
    if end - p < HEADER_BINARY_MIN:
        return False
    header.code = <int16_t>load_be16(p)
    header.opaque = <int32_t>load_be32(p + 5)
    header.flag = <int32_t>load_be32(p + 9)
    remark_length = load_be32(p + 13)
    p += 17
    if remark_length > <uint32_t>(end - p) - 4:
        return False
    p += remark_length
    ext_length = load_be32(p)
    p += 4
    if ext_length != <uint32_t>(end - p):
        return False
    while p < end:
        if end - p < 2:
            return False
        key_length = load_be16(p)
        p += 2
        if key_length == 0 or key_length > 0x7FFF or key_length + 4 > end - p:
            return False
        field = raw_next(header)
        if field == NULL:
            return False
        field.key.data = p
        field.key.length = key_length
        field.key.escaped = False
        p += key_length
        value_length = load_be32(p)
        p += 4
        if value_length == 0 or value_length > <uint32_t>(end - p):
            return False
        field.value.data = p
        field.value.length = <int32_t>value_length
        field.value.escaped = False
        if scan_ascii(p, p + value_length) != p + value_length:
            return False
        p += value_length
        header.count += 1
    return True


cdef inline bint read_header(const uint8_t* frame, RawHeader* header) noexcept nogil:
    """The header of a whole frame; False makes it a cold one."""
    cdef const uint8_t* end = frame + 8 + (load_be32(frame + 4) & 0xFFFFFF)
    header.flag = 0
    header.count = header.opaque_count = 0
    header.has_code = header.has_opaque = header.has_ext = False
    header.serialize = frame[4]
    if header.serialize == SERIALIZE_JSON:
        return read_json_header(frame + 8, end, header)
    return read_binary_header(frame + 8, end, header)


cdef int32_t unescape(const Span* span, uint8_t* out, int32_t capacity) noexcept nogil:
    """JSON text of a span as bytes; -1 if it does not fit or holds anything but ASCII."""
    cdef const uint8_t* p = span.data
    cdef const uint8_t* end = p + span.length
    cdef int32_t n = 0, i
    cdef size_t plain
    cdef uint32_t value
    cdef uint8_t c
    if span.length > capacity:
        return -1
    if not span.escaped:
        memcpy(out, p, span.length)
        return span.length
    while True:
        plain = copy_to_backslash(out + n, p, end)
        n += <int32_t>plain
        p += plain
        if p >= end:
            return n
        if p + 1 >= end:
            return -1
        c = p[1]
        p += 2
        if c == c'u':
            if end - p < 4:
                return -1
            if p[0] == c'0' and p[1] == c'0' and p[2] == c'0' and c'0' <= p[3] <= c'9':
                # the separators of properties
                out[n] = p[3] - c'0'
                n += 1
                p += 4
                continue
            value = 0
            for i in range(4):
                c = p[i]
                if c'0' <= c <= c'9':
                    value = value * 16 + (c - c'0')
                elif c'a' <= c <= c'f':
                    value = value * 16 + (c - c'a' + 10)
                elif c'A' <= c <= c'F':
                    value = value * 16 + (c - c'A' + 10)
                else:
                    return -1
            if value >= 0x80:
                return -1
            p += 4
            out[n] = <uint8_t>value
        elif c == c'n':
            out[n] = 10
        elif c == c't':
            out[n] = 9
        elif c == c'r':
            out[n] = 13
        elif c == c'b':
            out[n] = 8
        elif c == c'f':
            out[n] = 12
        elif c == c'"' or c == c'\\' or c == c'/':
            out[n] = c
        else:
            return -1
        n += 1
