"""Compressed bodies: zlib always, LZ4 and zstandard with the extras of these names (RocketMQ's CompressionType)."""

from __future__ import annotations

import importlib
import zlib
from enum import StrEnum
from typing import Any, Final

from fastmq.client.errors import ClientError, MissingExtra
from fastmq.limits import MIB
from fastmq.protocol.message import (
    COMPRESSED_FLAG,
    COMPRESSION_LZ4,
    COMPRESSION_TYPE_MASK,
    COMPRESSION_ZLIB,
    COMPRESSION_ZSTD,
)

MAX_UNPACKED_BYTES: Final = 256 * MIB
"""How large a body may become; more is an attack or a mistake."""


class Compression(StrEnum):
    """How bodies are compressed. Clients in Go, C++ and ali-ons read zlib only."""

    NONE = "none"
    ZLIB = "zlib"
    LZ4 = "lz4"
    ZSTD = "zstd"


class CorruptBody(ClientError):
    """A compressed body cannot be unpacked."""


_FLAGS: Final = {
    Compression.ZLIB: COMPRESSED_FLAG | COMPRESSION_ZLIB,
    Compression.LZ4: COMPRESSED_FLAG | COMPRESSION_LZ4,
    Compression.ZSTD: COMPRESSED_FLAG | COMPRESSION_ZSTD,
}


def require(kind: Compression) -> None:
    """Raises MissingExtra if bodies cannot be compressed so."""
    if kind is Compression.LZ4:
        _lz4()
    elif kind is Compression.ZSTD:
        _zstandard()


def compress(body: bytes, kind: Compression, level: int = 5) -> tuple[bytes, int]:
    """The packed body and the bits for its system flag. `level` 1 to 9 as in zlib."""
    if kind is Compression.ZLIB:
        return zlib.compress(body, level), _FLAGS[kind]
    if kind is Compression.LZ4:
        packed: bytes = _lz4().compress(body, compression_level=0 if level <= 5 else level)
        return packed, _FLAGS[kind]
    if kind is Compression.ZSTD:
        packed = _zstandard().ZstdCompressor(level=level).compress(body)
        return packed, _FLAGS[kind]
    return body, 0


def decompress(body: bytes, sys_flag: int, limit: int = MAX_UNPACKED_BYTES) -> bytes:
    """The body as it was sent. Raises CorruptBody, or MissingExtra for a kind without its package.

    Producers that know zlib only leave the type bits at 0.
    """
    if not sys_flag & COMPRESSED_FLAG:
        return body
    kind = sys_flag & COMPRESSION_TYPE_MASK
    try:
        if kind == COMPRESSION_LZ4:
            unpacker = _lz4().LZ4FrameDecompressor()
            text: bytes = unpacker.decompress(body, max_length=limit)
            complete = unpacker.eof
        elif kind == COMPRESSION_ZSTD:
            text, complete = _unpack_zstd(body, limit)
        elif kind in (0, COMPRESSION_ZLIB):
            inflater = zlib.decompressobj()
            text = inflater.decompress(body, limit)
            complete = inflater.eof
        else:
            raise CorruptBody(f"compression type {kind >> 8} is unknown")
    except (MissingExtra, CorruptBody):
        raise
    except Exception as error:  # each package has its own errors
        raise CorruptBody(f"the body cannot be unpacked: {error}") from error
    if not complete:
        raise CorruptBody(f"the body is cut off or larger than {limit} bytes when unpacked")
    return text


def _unpack_zstd(body: bytes, limit: int) -> tuple[bytes, bool]:
    """What was unpacked, and whether it is all. In small pieces: each can become 40,000 times as large."""
    unpacker = _zstandard().ZstdDecompressor().decompressobj()
    pieces: list[bytes] = []
    size = 0
    for start in range(0, len(body), 1024):
        pieces.append(unpacker.decompress(body[start : start + 1024]))
        size += len(pieces[-1])
        if unpacker.eof or size > limit:
            break
    return b"".join(pieces), unpacker.eof and size <= limit


def _lz4() -> Any:
    return _optional("lz4.frame", "lz4")


def _zstandard() -> Any:
    return _optional("zstandard", "zstd")


def _optional(module: str, extra: str) -> Any:
    """A package that need not be there; what it gives has no types here."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(module.partition(".")[0], extra) from None
