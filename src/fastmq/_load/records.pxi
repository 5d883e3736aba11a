# Messages as a pull returns them, one after another (RocketMQ's MessageDecoder has the same walk):
#
#   0  total int32 · 4 magic · 8 body CRC · 12 queue id · 16 flag · 20 queue offset int64 · 28 log offset int64 ·
#   36 sysFlag int32 · 40 born timestamp int64 · 48 born host 8 or 20 · store timestamp 8 · store host 8 or 20 ·
#   reconsume times 4 · prepared transaction offset 8 · body length 4 · body · topic · properties

cdef enum:
    RECORD_MIN = 91
    MAGIC_V1 = -626843481           # DA A3 20 A7
    MAGIC_V2 = -626843477           # DA A3 20 AB
    FLAG_BORN_HOST_V6 = 0x10
    FLAG_STORE_HOST_V6 = 0x20
    STAMP_BYTES = 16                # at the start of a body: the run's id, then the intended send time in ns, big endian

cdef extern from "_crc.c" nogil:    # compiled in: two kernels, no library to link with
    enum: FQ_CRC_AUTO
    ctypedef uint32_t (*fq_crc_kernel)(uint32_t crc, const uint8_t* data, size_t length) noexcept nogil
    fq_crc_kernel fq_crc_select(int kind)


cdef struct Record:
    int64_t length
    int64_t queue_offset
    int32_t queue_id
    uint32_t crc
    const uint8_t* body
    int64_t body_length


cdef bint read_record(const uint8_t* p, int64_t room, Record* record) noexcept nogil:
    """Take the message at p apart; False if what is there is none or ends beyond `room` bytes."""
    cdef int32_t magic
    cdef uint32_t flags
    cdef int64_t at
    if room < RECORD_MIN:
        return False
    record.length = load_be32(p)
    magic = <int32_t>load_be32(p + 4)
    if record.length < RECORD_MIN or record.length > room or (magic != MAGIC_V1 and magic != MAGIC_V2):
        return False
    flags = load_be32(p + 36)
    at = 48 + (20 if flags & FLAG_BORN_HOST_V6 else 8) + 8 + (20 if flags & FLAG_STORE_HOST_V6 else 8) + 12
    if at + 4 > record.length:
        return False
    record.crc = load_be32(p + 8)
    record.queue_id = <int32_t>load_be32(p + 12)
    record.queue_offset = <int64_t>fq_load_be64(p + 20)
    record.body_length = load_be32(p + at)
    record.body = p + at + 4
    return at + 4 + record.body_length <= record.length
