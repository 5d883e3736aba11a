# Requests: templates that are patched in place. Answers: where the two numbers are that matter.
#
#   answer   length int32 · header length int32 · {"code":N,...,"opaque":N,...} · body
#
# The places are learned from the first answer: `code` from the front, `opaque` from the back of the header (what varies
# in width stands between them). Each later answer is checked against what was learned and searched if it differs.

cdef enum:
    OPAQUE_DIGITS = 10
    SEND_OPAQUE = 1000000000        # + slot and generation, below
    PULL_OPAQUE = 2000000000        # + number of the cursor
    GENERATIONS = 0x1FFFFFFF
    BORN_DIGITS = 13
    KEY_DIGITS = 16

cdef extern from *:
    """
    static const char FQ_DIGIT_PAIRS[201] =
        "000102030405060708091011121314151617181920212223242526272829303132333435363738394041424344454647484950515253"
        "54555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    static const char FQ_HEX_DIGITS[17] = "0123456789ABCDEF";

    static inline void fq_put_opaque(uint8_t *out, uint32_t value) /* ten digits */
    {
        for (int i = 8; i >= 0; i -= 2) {
            memcpy(out + i, FQ_DIGIT_PAIRS + 2 * (value % 100), 2);
            value /= 100;
        }
    }

    static inline void fq_put_hex16(uint8_t *out, uint64_t value)
    {
        for (int i = 15; i >= 0; i--, value >>= 4)
            out[i] = FQ_HEX_DIGITS[value & 15];
    }

    static inline void fq_put_be64(uint8_t *out, uint64_t value)
    {
        value = __builtin_bswap64(value);
        memcpy(out, &value, 8);
    }

    static inline uint64_t fq_load_be64(const uint8_t *p)
    {
        uint64_t value;
        memcpy(&value, p, 8);
        return __builtin_bswap64(value);
    }

    static inline int fq_is_opaque_key(const uint8_t *p) { return memcmp(p, "\\"opaque\\":", 9) == 0; }
    static inline int fq_starts_with_code(const uint8_t *p) { return memcmp(p, "{\\"code\\":", 8) == 0; }
    """
    void fq_put_opaque(uint8_t* out, uint32_t value) nogil
    void fq_put_hex16(uint8_t* out, uint64_t value) nogil
    void fq_put_be64(uint8_t* out, uint64_t value) nogil
    uint64_t fq_load_be64(const uint8_t* p) nogil
    bint fq_is_opaque_key(const uint8_t* p) nogil
    bint fq_starts_with_code(const uint8_t* p) nogil


cdef inline int32_t put_decimal(uint8_t* out, int64_t value) noexcept nogil:
    """Decimal digits of a number that is not negative; returns how many."""
    cdef uint8_t digits[24]
    cdef int32_t n = 0, i
    while True:
        digits[n] = <uint8_t>(c'0' + value % 10)
        value //= 10
        n += 1
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline int64_t read_decimal(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """The number at p, -1 without a digit or with more than 18 of them."""
    cdef int64_t value = 0
    cdef const uint8_t* begin = p
    cdef bint negative = p < end and p[0] == c'-'
    if negative:
        p += 1
        begin += 1
    while p < end and c'0' <= p[0] <= c'9' and p - begin < 18:
        value = value * 10 + (p[0] - c'0')
        p += 1
    if p == begin or (p < end and c'0' <= p[0] <= c'9'):
        return -1
    return -value if negative else value


cdef const uint8_t* find_top(const uint8_t* p, const uint8_t* end, const char* key, int32_t length) noexcept nogil:
    """The value of a key of the outermost object of a JSON text, or NULL. `key` is in quotes, followed by the colon."""
    cdef int depth = 0
    while p < end:
        if p[0] == c'"':
            if depth == 1 and end - p > length and memcmp(p, key, length) == 0:
                return p + length
            p += 1
            while p < end and p[0] != c'"':
                p += 2 if p[0] == c'\\' else 1
        elif p[0] == c'{' or p[0] == c'[':
            depth += 1
        elif p[0] == c'}' or p[0] == c']':
            depth -= 1
        p += 1
    return NULL


cdef struct Layout:
    int32_t opaque_back             # from the end of the header to the first digit of opaque, 0: not learned

cdef struct Answer:
    int64_t opaque
    int64_t code
    const uint8_t* header
    const uint8_t* body
    const uint8_t* end


cdef bint read_answer(const uint8_t* frame, uint32_t length, Layout* layout, Answer* answer) noexcept nogil:
    """Take an answer apart; False if it is none with a JSON header. `length` is that of the whole frame."""
    cdef uint32_t header_length
    cdef const uint8_t* header = frame + 8
    cdef const uint8_t* header_end
    cdef const uint8_t* p
    if length < 8:
        return False
    header_length = load_be32(frame + 4)  # the serialize type in the highest byte is 0 for JSON
    if header_length > length - 8 or header_length < 16:
        return False
    header_end = header + header_length
    answer.header = header
    answer.body = header_end
    answer.end = frame + length
    if (
        layout.opaque_back and <uint32_t>layout.opaque_back + 9 <= header_length
        and fq_is_opaque_key(header_end - layout.opaque_back - 9)
    ):
        p = header_end - layout.opaque_back
    else:
        p = find_top(header, header_end, b'"opaque":', 9)
        if p == NULL:
            return False
        layout.opaque_back = <int32_t>(header_end - p)
    answer.opaque = read_decimal(p, header_end)
    p = header + 8 if fq_starts_with_code(header) else find_top(header, header_end, b'"code":', 7)
    if p == NULL:
        return False
    answer.code = read_decimal(p, header_end)
    return True
