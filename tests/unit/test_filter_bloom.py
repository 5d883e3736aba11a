from __future__ import annotations

import pytest

from fastmq.broker.filter.bloom import BloomFilter, murmur3_128
from fastmq.errors import UsageError


@pytest.mark.parametrize(
    ("data", "hashed"),
    [(b"", 0), (b"hello", 0xCBD8A7B341BD9B02), (b"The quick brown fox jumps over the lazy dog", 0xE34BBC7BBC071B6C)],
)
def test_murmur3(data: bytes, hashed: int) -> None:
    assert murmur3_128(data) == hashed


def test_sizes_are_rocketmqs() -> None:
    bloom = BloomFilter(20, 32)
    assert (bloom.hashes, bloom.bit_count) == (3, 112)
    bloom = BloomFilter(10, 128)
    assert (bloom.hashes, bloom.bit_count) == (4, 616)


def test_bits_are_rocketmqs() -> None:
    """As in the recorded consumerFilter.json and consumequeue_ext."""
    bloom = BloomFilter(20, 32)
    assert bloom.positions("s-sql#s-normal") == (33, 55, 34)
    assert bloom.positions("s-sql-2#s-normal") == (63, 0, 62)
    assert bloom.bit_map([(33, 55, 34)]).hex() == "0000000006008000000000000000"
    assert bloom.bit_map([(63, 0, 62)]).hex() == "01000000000000c0000000000000"
    assert bloom.bit_map([]) == bytes(14)


def test_whoever_is_in_the_map_is_found() -> None:
    bloom = BloomFilter(1, 4)
    names = [f"group-{number}#topic" for number in range(4)]
    bits = bloom.bit_map([bloom.positions(name) for name in names])
    assert all(bloom.holds(bits, bloom.positions(name)) for name in names)
    others = [f"other-{number}#topic" for number in range(1000)]
    assert sum(bloom.holds(bits, bloom.positions(name)) for name in others) < 100


@pytest.mark.parametrize(("error", "expected"), [(0, 32), (100, 32), (20, 0)])
def test_nonsense_is_refused(error: int, expected: int) -> None:
    with pytest.raises(UsageError):
        BloomFilter(error, expected)
