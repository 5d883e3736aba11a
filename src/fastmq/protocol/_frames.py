"""Remoting frames in plain Python: the reference of `_codec.pyx`, and what is used without the extension.

    offset  size   field
    0       4      L, the number of bytes that follow this word
    4       4      bits 31..24 serialize type (0 JSON, 1 ROCKETMQ), bits 23..0 header length H
    8       H      header, in the form of the serialize type
    8+H     L-4-H  body

The JSON header is one object (`code extFields flag language opaque remark serializeTypeCurrentRPC version`). The
ROCKETMQ header is packed, without padding, integers big-endian:

    int16 code · int8 language · int16 version · int32 opaque · int32 flag · int32 R, R bytes remark ·
    int32 E, E bytes of entries, each: int16 key length, key, int32 value length, value

After RocketMQ's RemotingCommand, RemotingSerializable and RocketMQSerializable. A frame larger than MAX_FRAME_BYTES, or
one whose lengths contradict each other, raises ProtocolError: the connection it came from is to be closed.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from fastmq import limits
from fastmq.errors import ProtocolError
from fastmq.protocol._json_text import quote, to_utf8
from fastmq.protocol.languages import LANGUAGE_CODES, LANGUAGE_NAMES

MAX_FRAME_BYTES: Final = limits.MAX_FRAME_BYTES
"""Largest frame, its length word included (com.rocketmq.remoting.frameMaxLength)."""

JSON: Final = 0
ROCKETMQ: Final = 1

RESPONSE_FLAG: Final = 1
ONEWAY_FLAG: Final = 2

VERSION: Final = 479
"""The version that fastmq says it is: the ordinal of RocketMQ 5.3.3."""

_HEADER_MAX: Final = (1 << 24) - 1
_INT32_MIN: Final = -(1 << 31)
_INT32_MAX: Final = (1 << 31) - 1
_UNKNOWN_LANGUAGE: Final = LANGUAGE_CODES["OTHER"]

_PREFIX = struct.Struct(">II")
_FIXED = struct.Struct(">hbhiii")  # code, language, version, opaque, flag, remark length
_INT32 = struct.Struct(">i")
_INT16 = struct.Struct(">h")


@dataclass(slots=True)
class Command:
    """One request or response (RocketMQ's RemotingCommand).

    `language` is a name, or the number of a language without one. `ext` holds the ext fields in the order of the wire.
    `ext_present` matters only while `ext` is empty: whether a JSON header has `"extFields":{}` or no such key.
    """

    code: int
    opaque: int = 0
    flag: int = 0
    language: str | int = "JAVA"
    version: int = VERSION
    remark: str | None = None
    ext: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    serialize: int = JSON
    ext_present: bool = False

    @property
    def size(self) -> int:
        """What it takes while it waits, about: the bytes of its body and characters of its ext fields."""
        return len(self.body) + sum(len(name) + len(value) for name, value in self.ext.items())

    @property
    def is_response(self) -> bool:
        """Whether it answers a request."""
        return self.flag & RESPONSE_FLAG != 0

    @property
    def is_oneway(self) -> bool:
        """Whether it is a request that must not be answered."""
        return self.flag & ONEWAY_FLAG != 0

    def reply(
        self, code: int = 0, remark: str | None = None, ext: dict[str, str] | None = None, body: bytes = b""
    ) -> Command:
        """A response to this request: the same opaque, in the form of header that the request had."""
        return Command(
            code, self.opaque, RESPONSE_FLAG, "JAVA", VERSION, remark, {} if ext is None else ext, body, self.serialize
        )


def decode_frame(frame: bytes | bytearray | memoryview) -> Command:
    """A whole frame, its length word included. Raises ProtocolError for anything that is not one."""
    data = frame if isinstance(frame, bytes) else bytes(frame)
    serialize, header_length = check_prefix(data, len(data))
    end = 8 + header_length
    body = data[end:]
    if serialize == JSON:
        return decode_json_header(data[8:end], body)
    return decode_binary_header(data[8:end], body)


def check_prefix(data: bytes, size: int) -> tuple[int, int]:
    """(serialize type, header length) of a frame that is said to be `size` bytes long."""
    if size < 8:
        raise ProtocolError(f"a frame of {size} bytes has no header")
    length, word = _PREFIX.unpack_from(data)
    check_length(length)
    if length != size - 4:
        raise ProtocolError(f"the length word says {length}, {size - 4} bytes follow it")
    return check_word(word, length)


def check_length(length: int) -> None:
    """Refuse a length word that no frame can have."""
    if length < 4:
        raise ProtocolError(f"frame length {length} leaves no room for the header word")
    if length > MAX_FRAME_BYTES - 4:
        raise ProtocolError(f"frame of {length + 4} bytes, the limit is {MAX_FRAME_BYTES}")


def check_word(word: int, length: int) -> tuple[int, int]:
    """(serialize type, header length) of a header word in a frame whose length word is `length`."""
    serialize = word >> 24
    header_length = word & _HEADER_MAX
    if serialize > ROCKETMQ:
        raise ProtocolError(f"serialize type {serialize} is unknown")
    if header_length > length - 4:
        raise ProtocolError(f"header of {header_length} bytes in a frame of {length + 4}")
    return serialize, header_length


# --- JSON header -----------------------------------------------------------------------------------------------------


class _Decimal(str):
    """A number with a fraction or exponent, kept as it was written."""

    __slots__ = ()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def decode_json_header(header: bytes, body: bytes) -> Command:
    """The command of a JSON header. Unknown keys are ignored; numbers and booleans among ext fields become text."""
    try:
        fields = json.loads(str(header, "utf-8", "replace"), parse_float=_Decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the header is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("the header is not a JSON object")
    remark = fields.get("remark")
    if remark is not None and type(remark) is not str:
        raise ProtocolError("remark is not text")
    given = fields.get("extFields")
    return Command(
        _header_int(fields, "code"),
        _header_int(fields, "opaque"),
        _header_int(fields, "flag"),
        _json_language(fields.get("language")),
        _header_int(fields, "version"),
        remark,
        _json_ext(given),
        body,
        JSON,
        given is not None and not given,
    )


def _header_int(fields: dict[str, Any], key: str) -> int:
    value = fields.get(key, 0)
    if type(value) is not int:
        if value is None:
            return 0
        if type(value) is not str:
            raise ProtocolError(f"{key} is not an integer")
        try:
            value = int(value)
        except ValueError:
            raise ProtocolError(f"{key} is not an integer") from None
    if not _INT32_MIN <= value <= _INT32_MAX:
        raise ProtocolError(f"{key} does not fit into 32 bits")
    return int(value)


def _json_language(value: Any) -> str | int:
    if type(value) is str:
        return value
    if value is None:
        return "OTHER"
    if type(value) is int and -128 <= value <= 127:
        return LANGUAGE_NAMES.get(value, value)
    raise ProtocolError("language is neither a name nor a small number")


def _json_ext(given: Any) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ProtocolError("extFields is not an object")
    ext: dict[str, str] = {}
    for key, value in given.items():
        kind = type(value)
        if kind is str:
            ext[key] = value
        elif kind is bool:
            ext[key] = "true" if value else "false"
        elif kind is int or kind is _Decimal:
            ext[key] = str(value)
        elif value is not None:
            raise ProtocolError(f"ext field {key[:64]} is neither text, number nor boolean")
    return ext


def encode_json_header(command: Command) -> bytes:
    """The JSON header as Java writes it: keys in alphabetical order, no white space, absent values left out."""
    ext = ""
    if command.ext or command.ext_present:
        entries = ",".join([f"{quote(key)}:{quote(value)}" for key, value in command.ext.items()])
        ext = f'"extFields":{{{entries}}},'
    language = command.language
    shown = quote(language) if isinstance(language, str) else str(language)
    remark = "" if command.remark is None else f'"remark":{quote(command.remark)},'
    return to_utf8(
        f'{{"code":{command.code:d},{ext}"flag":{command.flag:d},"language":{shown},"opaque":{command.opaque:d},{remark}'
        f'"serializeTypeCurrentRPC":"JSON","version":{command.version:d}}}'
    )


# --- ROCKETMQ header -------------------------------------------------------------------------------------------------


def decode_binary_header(header: bytes, body: bytes) -> Command:
    """The command of a ROCKETMQ header. Bytes behind the ext entries are ignored, as Java does."""
    size = len(header)
    if size < 21:
        raise ProtocolError(f"a binary header of {size} bytes is too short")
    code, language, version, opaque, flag, remark_length = _FIXED.unpack_from(header)
    if remark_length < 0 or remark_length > size - 21:
        raise ProtocolError(f"remark of {remark_length} bytes in a header of {size}")
    pos = 17
    remark = str(header[pos : pos + remark_length], "utf-8", "replace") if remark_length else None
    pos += remark_length
    (ext_length,) = _INT32.unpack_from(header, pos)
    pos += 4
    if ext_length < 0 or ext_length > size - pos:
        raise ProtocolError(f"ext fields of {ext_length} bytes in a header of {size}")
    return Command(
        code,
        opaque,
        flag,
        LANGUAGE_NAMES.get(language, language),
        version,
        remark,
        _binary_ext(header, pos, pos + ext_length),
        body,
        ROCKETMQ,
    )


def _binary_ext(header: bytes, pos: int, end: int) -> dict[str, str]:
    ext: dict[str, str] = {}
    while pos < end:
        if end - pos < 2:
            raise ProtocolError("an ext field is cut off")
        (key_length,) = _INT16.unpack_from(header, pos)
        pos += 2
        if key_length < 0 or end - pos < key_length + 4:
            raise ProtocolError("the key of an ext field reaches beyond the header")
        key = str(header[pos : pos + key_length], "utf-8", "replace")
        pos += key_length
        (value_length,) = _INT32.unpack_from(header, pos)
        pos += 4
        if value_length < 0 or end - pos < value_length:
            raise ProtocolError("the value of an ext field reaches beyond the header")
        ext[key] = str(header[pos : pos + value_length], "utf-8", "replace")
        pos += value_length
    return ext


def encode_binary_header(command: Command) -> bytes:
    """The ROCKETMQ header. Code and version keep their low 16 bits only, as in Java."""
    language = command.language
    number = LANGUAGE_CODES.get(language, _UNKNOWN_LANGUAGE) if isinstance(language, str) else language
    remark = b"" if command.remark is None else to_utf8(command.remark)
    entries: list[bytes] = []
    for key, value in command.ext.items():
        key_bytes = to_utf8(key)
        value_bytes = to_utf8(value)
        if len(key_bytes) > 0x7FFF:
            raise ValueError("the key of an ext field is longer than 32767 bytes")
        entries += (_INT16.pack(len(key_bytes)), key_bytes, _INT32.pack(len(value_bytes)), value_bytes)
    ext = b"".join(entries)
    return b"".join((
        _FIXED.pack(
            _signed(command.code, 16), _signed(number, 8), _signed(command.version, 16), command.opaque, command.flag,
            len(remark),
        ),
        remark,
        _INT32.pack(len(ext)),
        ext,
    ))  # fmt: skip


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def encode_frame(command: Command) -> bytes:
    """The whole frame, its length word included. ValueError if it would be larger than MAX_FRAME_BYTES."""
    return frame_head(command) + command.body


def frame_head(command: Command) -> bytes:
    """The frame up to its body. ValueError if the whole would be larger than MAX_FRAME_BYTES."""
    header = encode_json_header(command) if command.serialize == JSON else encode_binary_header(command)
    return join_head(command.serialize, header, len(command.body))


def join_head(serialize: int, header: bytes, body_length: int) -> bytes:
    """Length word, header word and header of a frame."""
    length = 4 + len(header) + body_length
    if length > MAX_FRAME_BYTES - 4 or len(header) > _HEADER_MAX:
        raise ValueError(f"a frame of {length + 4} bytes, the limit is {MAX_FRAME_BYTES}")
    return _PREFIX.pack(length, serialize << 24 | len(header)) + header


@dataclass(frozen=True, slots=True)
class SendTemplate:
    """What all sends of one producer to one queue have in common: their JSON header in pieces.

    `head` ends where the value of the ext field `f` (sysFlag) begins; `g` (born time), `h` (flag) and `i` (properties)
    follow it. `tail` is what comes between the properties and the opaque.
    """

    head: bytes
    tail: bytes


_SEND_END: Final = b',"serializeTypeCurrentRPC":"JSON","version":%d}' % VERSION


def send_template(code: int, before: dict[str, str], after: dict[str, str]) -> SendTemplate:
    """The template of requests of `code` in PYTHON's name with the ext fields `before`, f, g, h, i and `after`."""
    first = "".join([f"{quote(key)}:{quote(value)}," for key, value in before.items()])
    last = "".join([f",{quote(key)}:{quote(value)}" for key, value in after.items()])
    return SendTemplate(
        to_utf8(f'{{"code":{code:d},"extFields":{{{first}"f":"'),
        to_utf8(f'{last}}},"flag":0,"language":"PYTHON","opaque":'),
    )


def encode_send(
    template: SendTemplate, sys_flag: int, born_ms: int, flag: int, properties: str, opaque: int, body: bytes
) -> bytes:
    """The frame of a send: what `encode_frame` makes of the same fields. ValueError if it would be too large."""
    varying = b'%d","g":"%d","h":"%d","i":' % (sys_flag, born_ms, flag)
    text = to_utf8(quote(properties))
    header = b"%b%b%b%b%d%b" % (template.head, varying, text, template.tail, opaque, _SEND_END)
    return join_head(JSON, header, len(body)) + body


class FrameSplitter:
    """Cuts a byte stream into whole frames.

    `feed` returns the frames that became complete. Lengths are checked as soon as they are there, before the bytes
    behind them are waited for. When the stream breaks the protocol, the frames before that point are still returned and
    the next `feed` raises ProtocolError, as do all later ones; `failure` tells the reason at once.
    """

    __slots__ = ("_buffer", "failure")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.failure: str | None = None

    @property
    def pending(self) -> int:
        """Bytes kept of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take the next bytes of the stream, give the frames that are complete with them."""
        frames: list[bytes] = []
        if self.failure is None:
            buffer = self._buffer
            buffer += data
            pos = 0
            size = len(buffer)
            try:
                while size - pos >= 4:
                    length = int.from_bytes(buffer[pos : pos + 4])
                    check_length(length)
                    if size - pos < 8:
                        break
                    check_word(int.from_bytes(buffer[pos + 4 : pos + 8]), length)
                    if size - pos < length + 4:
                        break
                    frames.append(bytes(buffer[pos : pos + length + 4]))
                    pos += length + 4
            except ProtocolError as error:
                self.failure = str(error)
                pos = size
            del buffer[:pos]
            if self.failure is None or frames:
                return frames
        raise ProtocolError(self.failure)
