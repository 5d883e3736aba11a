"""Remoting frames in C: the same functions as `protocol/_frames.py`, with the same results.

Only the common shapes are handled here: JSON headers without white space whose ext fields are text, well-formed ROCKETMQ
headers, commands made of plain values. Whatever else comes, good or bad, is handed to the Python code, so that it alone
decides what is refused and with which words.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fastmq import limits
from fastmq.errors import ProtocolError
from fastmq.protocol import _frames, languages

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except? NULL

ctypedef const unsigned char *Bytes

cdef object Command = _frames.Command
cdef object decode_json_slowly = _frames.decode_json_header
cdef object decode_binary_slowly = _frames.decode_binary_header
cdef object encode_slowly = _frames.encode_frame
cdef object send_slowly = _frames.encode_send
cdef bytes SEND_END = _frames._SEND_END
cdef object check_prefix = _frames.check_prefix
cdef object check_length = _frames.check_length
cdef object check_word = _frames.check_word
cdef dict language_names = dict(languages.LANGUAGE_NAMES)
cdef str JAVA = "JAVA"
cdef str OTHER = "OTHER"

cdef enum:
    JSON = 0
    ROCKETMQ = 1
    MIN_BINARY_HEADER = 21
    MAX_HEADER = 0xFFFFFF

cdef int64_t MAX_LENGTH = limits.MAX_FRAME_BYTES - 4


cdef inline uint32_t read_u32(Bytes at) noexcept nogil:
    return (<uint32_t>at[0] << 24) | (<uint32_t>at[1] << 16) | (<uint32_t>at[2] << 8) | at[3]


cdef inline int read_i32(Bytes at) noexcept nogil:
    return <int>read_u32(at)


cdef inline int read_i16(Bytes at) noexcept nogil:
    return <short>((at[0] << 8) | at[1])


# --- decoding --------------------------------------------------------------------------------------------------------

cpdef decode_frame(frame):
    """A whole frame, its length word included. Raises ProtocolError for anything that is not one."""
    cdef bytes data = frame if type(frame) is bytes else bytes(frame)
    cdef Bytes start = <Bytes>PyBytes_AS_STRING(data)
    cdef int64_t size = PyBytes_GET_SIZE(data)
    cdef int64_t length, header_length
    cdef int serialize
    if size < 8:
        check_prefix(data, size)
    length = read_u32(start)
    serialize = start[4]
    header_length = read_u32(start + 4) & MAX_HEADER
    if length != size - 4 or length > MAX_LENGTH or serialize > ROCKETMQ or header_length > length - 4:
        check_prefix(data, size)
    cdef bytes body = data[8 + header_length:] if header_length < length - 4 else b""
    cdef object command
    if serialize == JSON:
        command = decode_json(start + 8, start + 8 + header_length, body)
        if command is None:
            return decode_json_slowly(data[8:8 + header_length], body)
    else:
        command = decode_binary(start + 8, header_length, body)
        if command is None:
            return decode_binary_slowly(data[8:8 + header_length], body)
    return command


cdef Bytes skip_plain(Bytes at, Bytes end) noexcept nogil:
    """The first byte of a string that is not itself: a quote, a backslash or a control character; NULL at the end."""
    while at < end:
        if at[0] == c'"' or at[0] == c'\\' or at[0] < 0x20:
            return at
        at += 1
    return NULL


cdef int hex_digit(unsigned char c) noexcept nogil:
    if c'0' <= c <= c'9':
        return c - c'0'
    if c'a' <= c <= c'f':
        return c - c'a' + 10
    if c'A' <= c <= c'F':
        return c - c'A' + 10
    return -1


cdef object read_string(Bytes *cursor, Bytes end):
    """The string behind an opening quote; moves the cursor behind the closing one. None: not for this parser."""
    cdef Bytes start = cursor[0]
    cdef Bytes at = skip_plain(start, end)
    if at == NULL or at[0] < 0x20:
        return None
    if at[0] == c'"':
        cursor[0] = at + 1
        return PyUnicode_DecodeUTF8(<const char *>start, at - start, "replace")
    return read_escaped(cursor, end, at)


cdef object read_escaped(Bytes *cursor, Bytes end, Bytes at):
    """`read_string` for a string whose first escape is at `at`: unescaped into a buffer, which never gets longer."""
    cdef Bytes start = cursor[0]
    cdef Bytes part = start
    cdef int code, i, digit
    cdef unsigned char *buffer = <unsigned char *>PyMem_Malloc(end - start)
    cdef unsigned char *out = buffer
    if buffer == NULL:
        raise MemoryError
    try:
        while True:
            memcpy(out, part, at - part)
            out += at - part
            if at[0] == c'"':
                cursor[0] = at + 1
                return PyUnicode_DecodeUTF8(<const char *>buffer, out - buffer, "replace")
            if at[0] != c'\\' or end - at < 2:
                return None
            at += 1
            if at[0] == c'u':
                if end - at < 5:
                    return None
                code = 0
                for i in range(1, 5):
                    digit = hex_digit(at[i])
                    if digit < 0:
                        return None
                    code = code << 4 | digit
                at += 4
                if code < 0x80:
                    out[0] = code
                    out += 1
                elif code < 0x800:
                    out[0] = 0xC0 | code >> 6
                    out[1] = 0x80 | code & 0x3F
                    out += 2
                elif 0xD800 <= code <= 0xDFFF:
                    return None
                else:
                    out[0] = 0xE0 | code >> 12
                    out[1] = 0x80 | code >> 6 & 0x3F
                    out[2] = 0x80 | code & 0x3F
                    out += 3
            elif at[0] == c'"' or at[0] == c'\\' or at[0] == c'/':
                out[0] = at[0]
                out += 1
            elif at[0] == c'n':
                out[0] = c'\n'
                out += 1
            elif at[0] == c't':
                out[0] = c'\t'
                out += 1
            elif at[0] == c'r':
                out[0] = c'\r'
                out += 1
            elif at[0] == c'b':
                out[0] = c'\b'
                out += 1
            elif at[0] == c'f':
                out[0] = c'\f'
                out += 1
            else:
                return None
            part = at + 1
            at = skip_plain(part, end)
            if at == NULL or at[0] < 0x20:
                return None
    finally:
        PyMem_Free(buffer)


cdef bint read_int(Bytes *cursor, Bytes end, int64_t *value) noexcept nogil:
    """An integer of 32 bits, followed by a comma or the end of the object. False: not for this parser."""
    cdef Bytes at = cursor[0]
    cdef bint negative = False
    cdef int64_t number = 0
    cdef int digits = 0
    if at < end and at[0] == c'-':
        negative = True
        at += 1
    while at < end and c'0' <= at[0] <= c'9':
        if digits > 9 or (digits == 1 and number == 0):
            return False
        number = number * 10 + (at[0] - c'0')
        digits += 1
        at += 1
    if digits == 0 or at == end or (at[0] != c',' and at[0] != c'}'):
        return False
    if negative:
        number = -number
    if not -0x80000000 <= number <= 0x7FFFFFFF:
        return False
    value[0] = number
    cursor[0] = at
    return True


cdef dict read_ext(Bytes *cursor, Bytes end):
    """The ext fields behind an opening brace, all of them text. None: not for this parser."""
    cdef Bytes at = cursor[0]
    cdef dict ext = {}
    cdef object key, value
    if at < end and at[0] == c'}':
        cursor[0] = at + 1
        return ext
    while True:
        if at >= end or at[0] != c'"':
            return None
        at += 1
        key = read_string(&at, end)
        if key is None or end - at < 2 or at[0] != c':' or at[1] != c'"':
            return None
        at += 2
        value = read_string(&at, end)
        if value is None or at >= end:
            return None
        ext[key] = value
        if at[0] == c'}':
            cursor[0] = at + 1
            return ext
        if at[0] != c',':
            return None
        at += 1


cdef inline bint is_key(Bytes key, Py_ssize_t size, const char *name, Py_ssize_t name_size) noexcept nogil:
    return size == name_size and memcmp(key, name, size) == 0


cdef object decode_json(Bytes at, Bytes end, bytes body):
    """The command of a JSON header of the usual shape; None for any other."""
    cdef int64_t code = 0, flag = 0, opaque = 0, version = 0
    cdef object language = OTHER
    cdef object remark = None
    cdef dict ext = None
    cdef Bytes key
    cdef Py_ssize_t size
    cdef bint good
    if at >= end or at[0] != c'{':
        return None
    at += 1
    while True:
        if at >= end or at[0] != c'"':
            return None
        key = at + 1
        at = <Bytes>memchr(key, c'"', end - key)
        if at == NULL:
            return None
        size = at - key
        at += 1
        if end - at < 2 or at[0] != c':':
            return None
        at += 1
        if is_key(key, size, "code", 4):
            good = read_int(&at, end, &code)
        elif is_key(key, size, "flag", 4):
            good = read_int(&at, end, &flag)
        elif is_key(key, size, "opaque", 6):
            good = read_int(&at, end, &opaque)
        elif is_key(key, size, "version", 7):
            good = read_int(&at, end, &version)
        elif is_key(key, size, "extFields", 9):
            if at[0] != c'{':
                return None
            at += 1
            ext = read_ext(&at, end)
            good = ext is not None
        elif at[0] != c'"':
            return None
        elif is_key(key, size, "language", 8):
            if end - at > 6 and memcmp(at, "\"JAVA\"", 6) == 0:
                at += 6
                language = JAVA
            else:
                at += 1
                language = read_string(&at, end)
            good = language is not None
        elif is_key(key, size, "remark", 6):
            at += 1
            remark = read_string(&at, end)
            good = remark is not None
        elif is_key(key, size, "serializeTypeCurrentRPC", 23):
            at += 1
            good = read_string(&at, end) is not None
        else:
            return None
        if not good or at >= end:
            return None
        if at[0] == c'}':
            break
        if at[0] != c',':
            return None
        at += 1
    if at + 1 != end:
        return None
    if ext is None:
        return Command(code, opaque, flag, language, version, remark, {}, body, JSON, False)
    return Command(code, opaque, flag, language, version, remark, ext, body, JSON, not ext)


cdef object decode_binary(Bytes start, int64_t size, bytes body):
    """The command of a well-formed ROCKETMQ header; None for any other."""
    cdef int64_t remark_length, ext_length, length
    cdef Bytes at
    cdef Bytes end
    cdef dict ext = {}
    cdef object remark = None
    cdef object key, language
    if size < MIN_BINARY_HEADER:
        return None
    remark_length = read_i32(start + 13)
    if not 0 <= remark_length <= size - MIN_BINARY_HEADER:
        return None
    at = start + 17
    if remark_length:
        remark = PyUnicode_DecodeUTF8(<const char *>at, remark_length, "replace")
    at += remark_length
    ext_length = read_i32(at)
    at += 4
    if not 0 <= ext_length <= size - (at - start):
        return None
    end = at + ext_length
    while at < end:
        if end - at < 2:
            return None
        length = read_i16(at)
        at += 2
        if length < 0 or end - at < length + 4:
            return None
        key = PyUnicode_DecodeUTF8(<const char *>at, length, "replace")
        at += length
        length = read_i32(at)
        at += 4
        if length < 0 or end - at < length:
            return None
        ext[key] = PyUnicode_DecodeUTF8(<const char *>at, length, "replace")
        at += length
    language = <int><signed char>start[2]
    return Command(
        read_i16(start), read_i32(start + 5), read_i32(start + 9), language_names.get(language, language),
        read_i16(start + 3), remark, ext, body, ROCKETMQ, False,
    )


# --- encoding --------------------------------------------------------------------------------------------------------

cdef struct Writer:
    char *data
    Py_ssize_t size
    Py_ssize_t capacity


cdef int reserve(Writer *writer, Py_ssize_t more) except -1:
    cdef Py_ssize_t capacity
    cdef char *data
    if writer.capacity - writer.size >= more:
        return 0
    capacity = 2 * (writer.size + more)
    data = <char *>PyMem_Realloc(writer.data, capacity)
    if data == NULL:
        raise MemoryError
    writer.data = data
    writer.capacity = capacity
    return 0


cdef int put(Writer *writer, const char *data, Py_ssize_t size) except -1:
    reserve(writer, size)
    memcpy(writer.data + writer.size, data, size)
    writer.size += size
    return 0


cdef int put_int(Writer *writer, int64_t value) except -1:
    cdef char digits[20]
    cdef int at = 20
    cdef uint64_t rest = <uint64_t>value
    if value < 0:
        rest = 0 - rest
        put(writer, "-", 1)
    while True:
        at -= 1
        digits[at] = <char>(c'0' + rest % 10)
        rest = rest // 10
        if rest == 0:
            break
    return put(writer, digits + at, 20 - at)


cdef inline char hex_char(int digit) noexcept nogil:
    return <char>(digit + (c'0' if digit < 10 else c'A' - 10))


cdef int put_string(Writer *writer, str text) except -1:
    """A JSON string with fastjson's escapes. UnicodeEncodeError for half a surrogate pair."""
    cdef Py_ssize_t size = 0
    cdef Bytes at = <Bytes>PyUnicode_AsUTF8AndSize(text, &size)
    cdef Bytes end = at + size
    cdef char *out
    cdef int code, width
    reserve(writer, 6 * size + 2)  # no byte becomes more than six
    out = writer.data + writer.size
    out[0] = c'"'
    out += 1
    while at < end:
        width = 1
        code = -1
        if at[0] < 0x20 or at[0] == 0x7F:
            code = at[0]
        elif at[0] == c'"' or at[0] == c'\\':
            out[0] = c'\\'
            out[1] = at[0]
            out += 2
            at += 1
            continue
        elif at[0] == 0xC2 and at[1] < 0xA0:
            code = at[1]
            width = 2
        elif at[0] == 0xE2 and at[1] == 0x80 and (at[2] == 0xA8 or at[2] == 0xA9):
            code = 0x2000 | at[2] & 0x3F
            width = 3
        if code < 0:
            out[0] = at[0]
            out += 1
            at += 1
            continue
        at += width
        out[0] = c'\\'
        out[1] = 0
        if code == 8:
            out[1] = c'b'
        elif code == 9:
            out[1] = c't'
        elif code == 10:
            out[1] = c'n'
        elif code == 12:
            out[1] = c'f'
        elif code == 13:
            out[1] = c'r'
        if out[1]:
            out += 2
            continue
        out[1] = c'u'
        out[2] = hex_char(code >> 12)
        out[3] = hex_char(code >> 8 & 15)
        out[4] = hex_char(code >> 4 & 15)
        out[5] = hex_char(code & 15)
        out += 6
    out[0] = c'"'
    writer.size = out + 1 - writer.data
    return 0


cdef bint is_plain(command, ext, remark, body):
    """Whether every value has the type that is written here."""
    cdef object key, value
    if type(ext) is not dict or type(body) is not bytes or not (remark is None or type(remark) is str):
        return False
    for key, value in (<dict>ext).items():
        if type(key) is not str or type(value) is not str:
            return False
    return type(command.language) is str and command.serialize == JSON


cpdef bytes encode_frame(command):
    """The whole frame, its length word included. ValueError if it would be larger than MAX_FRAME_BYTES."""
    cdef dict ext
    cdef object remark = command.remark
    cdef object body = command.body
    cdef Writer writer
    cdef bint comma = False
    if not is_plain(command, command.ext, remark, body):
        return encode_slowly(command)
    ext = command.ext
    writer.data = NULL
    writer.size = 0
    writer.capacity = 0
    try:
        reserve(&writer, 512)
        writer.size = 8
        put(&writer, "{\"code\":", 8)
        put_int(&writer, command.code)
        if ext or command.ext_present:
            put(&writer, ",\"extFields\":{", 14)
            for key, value in ext.items():
                if comma:
                    put(&writer, ",", 1)
                comma = True
                put_string(&writer, <str>key)
                put(&writer, ":", 1)
                put_string(&writer, <str>value)
            put(&writer, "}", 1)
        put(&writer, ",\"flag\":", 8)
        put_int(&writer, command.flag)
        put(&writer, ",\"language\":", 12)
        put_string(&writer, <str>command.language)
        put(&writer, ",\"opaque\":", 10)
        put_int(&writer, command.opaque)
        if remark is not None:
            put(&writer, ",\"remark\":", 10)
            put_string(&writer, <str>remark)
        put(&writer, ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":", 44)
        put_int(&writer, command.version)
        put(&writer, "}", 1)
        return finish(&writer, <bytes>body)
    except (UnicodeEncodeError, OverflowError, TypeError):
        return encode_slowly(command)
    finally:
        PyMem_Free(writer.data)


cpdef bytes encode_send(
    template, int64_t sys_flag, int64_t born_ms, int64_t flag, str properties, int64_t opaque, body
):
    """The frame of a send: what `encode_frame` makes of the same fields. ValueError if it would be too large."""
    cdef bytes head = template.head
    cdef bytes tail = template.tail
    cdef Writer writer
    writer.data = NULL
    writer.size = 0
    writer.capacity = 0
    try:
        reserve(&writer, 512)
        writer.size = 8
        put(&writer, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        put_int(&writer, sys_flag)
        put(&writer, "\",\"g\":\"", 7)
        put_int(&writer, born_ms)
        put(&writer, "\",\"h\":\"", 7)
        put_int(&writer, flag)
        put(&writer, "\",\"i\":", 6)
        put_string(&writer, properties)
        put(&writer, PyBytes_AS_STRING(tail), PyBytes_GET_SIZE(tail))
        put_int(&writer, opaque)
        put(&writer, PyBytes_AS_STRING(SEND_END), PyBytes_GET_SIZE(SEND_END))
        return finish(&writer, body if type(body) is bytes else bytes(body))
    except UnicodeEncodeError:
        return send_slowly(template, sys_flag, born_ms, flag, properties, opaque, body)
    finally:
        PyMem_Free(writer.data)


cdef bytes finish(Writer *writer, bytes body):
    """Header and body behind their two words."""
    cdef Py_ssize_t header_length = writer.size - 8
    cdef Py_ssize_t body_length = PyBytes_GET_SIZE(body)
    cdef int64_t length = 4 + header_length + body_length
    cdef char *out
    cdef bytes frame
    if length > MAX_LENGTH:
        raise ValueError(f"a frame of {length + 4} bytes, the limit is {limits.MAX_FRAME_BYTES}")
    frame = PyBytes_FromStringAndSize(NULL, length + 4)
    out = PyBytes_AS_STRING(frame)
    memcpy(out, writer.data, writer.size)
    out[0] = <char>(length >> 24)
    out[1] = <char>(length >> 16)
    out[2] = <char>(length >> 8)
    out[3] = <char>length
    out[4] = JSON
    out[5] = <char>(header_length >> 16)
    out[6] = <char>(header_length >> 8)
    out[7] = <char>header_length
    memcpy(out + writer.size, PyBytes_AS_STRING(body), body_length)
    return frame


# --- splitting -------------------------------------------------------------------------------------------------------

cdef class FrameSplitter:
    """Cuts a byte stream into whole frames; see `_frames.FrameSplitter`."""

    def __cinit__(self):
        self._buffer = bytearray()
        self.failure = None

    @property
    def pending(self):
        """Bytes kept of a frame that is not complete."""
        return len(self._buffer)

    cpdef list feed(self, data):
        """Take the next bytes of the stream, give the frames that are complete with them."""
        cdef list frames = []
        cdef Py_buffer view
        cdef object source = data
        cdef Bytes start
        cdef int64_t length, size
        cdef int64_t pos = 0
        if self.failure is not None:
            raise ProtocolError(self.failure)
        if len(self._buffer):
            self._buffer += data
            source = self._buffer
        PyObject_GetBuffer(source, &view, PyBUF_SIMPLE)
        try:
            start = <Bytes>view.buf
            size = view.len
            while size - pos >= 4:
                length = read_u32(start + pos)
                if not 4 <= length <= MAX_LENGTH:
                    check_length(length)
                if size - pos < 8:
                    break
                if start[pos + 4] > ROCKETMQ or (read_u32(start + pos + 4) & MAX_HEADER) > length - 4:
                    check_word(read_u32(start + pos + 4), length)
                if size - pos < length + 4:
                    break
                frames.append(PyBytes_FromStringAndSize(<const char *>start + pos, length + 4))
                pos += length + 4
            if source is not self._buffer and pos < size:
                self._buffer = bytearray(PyBytes_FromStringAndSize(<const char *>start + pos, size - pos))
        except ProtocolError as error:
            self.failure = str(error)
            pos = size
        finally:
            PyBuffer_Release(&view)
        if source is self._buffer and pos:
            del self._buffer[:pos]
        if self.failure is not None and not frames:
            raise ProtocolError(self.failure)
        return frames
