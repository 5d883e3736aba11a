# A connection of the load, and a reading place in a queue.
#
# A sender owns a ring of whole frames, made once from the templates and laid out one after another. To send is to patch
# some digits in the next frame of the ring and to move on: no byte of a body is copied in user space, and frames that
# follow each other go out in one write. A frame may be patched again when its bytes have left for the socket.

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr* message, int flags)

cdef struct Mark:                   # the places of one message in a template, -1 where there is none
    int32_t key_at                  # 16 hex digits of the unique key that count
    int32_t stamp_at                # 8 bytes of the body for the intended send time

cdef struct Template:
    const uint8_t* data
    int32_t length
    int32_t opaque_at               # 10 digits
    int32_t born_at                 # 13 digits, or -1
    int32_t first_mark
    int32_t mark_count

cdef struct Connection:
    int fd
    bint broken
    bint writing                    # waits for EPOLLOUT
    bint sends                      # has a ring; otherwise it pulls
    int32_t in_flight               # sends without an answer
    uint8_t* ring
    int32_t* templates              # of every frame of the ring
    int64_t* starts                 # where every frame begins; one more: the end
    int32_t frames
    int32_t head                    # next frame to fill
    int32_t tail                    # frame that the next byte to send belongs to
    int32_t unsent                  # filled frames that have not left completely
    int64_t at                      # next byte to send
    Buffer output                   # pulls
    Buffer input
    Layout layout

# Where a reader stands in one queue. At most one pull at a time.
cdef struct Cursor:
    int32_t connection
    int32_t queue_id
    const uint8_t* head             # the frame up to the queue offset, and what follows it
    const uint8_t* tail
    int32_t head_length
    int32_t tail_length
    int64_t next                    # queue offset
    int64_t end                     # stop there; -1: never
    int64_t asked                   # when, 0: no pull is out
    int32_t failures                # answers with an error in a row
    bint finished

# A send without an answer.
cdef struct Slot:
    int64_t intended                # ns
    uint32_t opaque                 # less SEND_OPAQUE
    int32_t connection              # -1: free

cdef enum:
    CODE_ROWS = 32
    HEADER_KEPT = 1024

# Answers by code, in order of appearance; the header of the first of each shows the remark.
cdef struct CodeRow:
    int64_t code
    int64_t count
    int32_t header_length
    uint8_t header[HEADER_KEPT]

cdef struct Codes:
    CodeRow rows[CODE_ROWS]
    int32_t used


cdef void count_code(Codes* codes, const Answer* answer, int64_t count) noexcept nogil:
    cdef int32_t i
    cdef CodeRow* row
    for i in range(codes.used):
        if codes.rows[i].code == answer.code:
            codes.rows[i].count += count
            return
    if codes.used < CODE_ROWS:
        codes.used += 1
    row = &codes.rows[codes.used - 1]
    if row.count == 0:
        row.code = answer.code
        row.header_length = <int32_t>(answer.body - answer.header)
        if row.header_length > HEADER_KEPT:
            row.header_length = 0
        memcpy(row.header, answer.header, row.header_length)
    row.count += count  # the last row also takes all codes that have none


cdef object codes_of(const Codes* codes):
    """{code: (answers, JSON header of the first or b"")}."""
    cdef int32_t i
    cdef const CodeRow* row
    result = {}
    for i in range(codes.used):
        row = &codes.rows[i]
        header = PyBytes_FromStringAndSize(<const char*>row.header, row.header_length)
        result[row.code] = (row.count, header)
    return result


cdef bint make_ring(Connection* c, const Template* templates, const int32_t* wanted, int32_t count) noexcept nogil:
    """Lay out `count` frames of the wanted templates; False without memory."""
    cdef int64_t total = 0
    cdef int32_t i
    c.templates = <int32_t*>malloc(count * sizeof(int32_t))
    c.starts = <int64_t*>malloc((count + 1) * sizeof(int64_t))
    if c.templates == NULL or c.starts == NULL:
        return False
    for i in range(count):
        c.templates[i] = wanted[i]
        c.starts[i] = total
        total += templates[wanted[i]].length
    c.starts[count] = total
    c.ring = <uint8_t*>malloc(total)
    if c.ring == NULL:
        return False
    for i in range(count):
        memcpy(c.ring + c.starts[i], templates[wanted[i]].data, templates[wanted[i]].length)
    c.frames = count
    c.sends = True
    return True


cdef void connection_free(Connection* c) noexcept nogil:
    free(c.ring)
    free(c.templates)
    free(c.starts)
    buffer_free(&c.output)
    buffer_free(&c.input)


cdef int send_ring(Connection* c) noexcept nogil:
    """Write what the ring holds; 1: all, 0: the socket is full, -1: the connection is gone."""
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t n
    cdef int64_t wanted
    cdef int32_t last
    memset(&message, 0, sizeof(message))
    message.msg_iov = parts
    while c.unsent:
        last = c.tail + c.unsent
        parts[0].iov_base = c.ring + c.at
        if last <= c.frames:
            parts[0].iov_len = wanted = c.starts[last] - c.at
            message.msg_iovlen = 1
        else:
            parts[0].iov_len = c.starts[c.frames] - c.at
            parts[1].iov_base = c.ring
            parts[1].iov_len = c.starts[last - c.frames]
            wanted = parts[0].iov_len + parts[1].iov_len
            message.msg_iovlen = 2
        n = c_sendmsg(c.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            if errno == EINTR:
                continue
            return 0 if errno == EAGAIN else -1
        if n == wanted:
            c.tail = c.head
            c.unsent = 0
            c.at = c.starts[c.tail]
            return 1
        c.at += n
        if c.at >= c.starts[c.frames]:
            c.at -= c.starts[c.frames]
            c.unsent -= c.frames - c.tail
            c.tail = 0
        while c.at >= c.starts[c.tail + 1]:
            c.tail += 1
            c.unsent -= 1
    return 1


cdef int send_output(Connection* c) noexcept nogil:
    """Write the pulls that wait in `output`; the result is that of send_ring."""
    cdef ssize_t n
    while buffer_length(&c.output):
        n = c_send(c.fd, c.output.data + c.output.begin, buffer_length(&c.output), MSG_NOSIGNAL | MSG_DONTWAIT)
        if n < 0:
            if errno == EINTR:
                continue
            return 0 if errno == EAGAIN else -1
        c.output.begin += n
    c.output.begin = c.output.end = 0
    return 1


cdef bint place_pull(Connection* c, Cursor* cursor, int64_t now) noexcept nogil:
    """Put the cursor's next pull into the connection's output; False without memory."""
    cdef uint8_t digits[24]
    cdef int32_t width = put_decimal(digits, cursor.next)
    cdef int32_t length = cursor.head_length + width + cursor.tail_length
    cdef uint8_t* room = buffer_reserve(&c.output, length)
    if room == NULL:
        return False
    memcpy(room, cursor.head, cursor.head_length)
    memcpy(room + cursor.head_length, digits, width)
    memcpy(room + cursor.head_length + width, cursor.tail, cursor.tail_length)
    store_be32(room, length - 4)
    store_be32(room + 4, length - 8)
    c.output.end += length
    cursor.asked = now
    return True
