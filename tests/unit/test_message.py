from __future__ import annotations

import struct
import time
import zlib
from dataclasses import replace

import pytest

from fastmq.errors import ProtocolError
from fastmq.protocol import message as m
from fastmq.protocol.message import BatchEntry, StoredMessage

MESSAGE = StoredMessage(
    topic="orders",
    body=b"hello",
    properties=b"KEYS\x01k1 k2\x02TAGS\x01TagA\x02UNIQ_KEY\x01C0000202\x02",
    queue_id=3,
    flag=-1,
    queue_offset=7,
    log_offset=123456,
    sys_flag=m.COMPRESSED_FLAG,
    born_timestamp=1795221011828,
    born_host=("192.0.2.2", 40000),
    store_timestamp=1795221011830,
    store_host=("127.0.0.1", 10911),
    reconsume_times=2,
    prepared_offset=99,
)


def read(record: bytes) -> StoredMessage:
    message, end = m.decode_message(record)
    assert end == len(record)
    return message


def test_the_record_has_the_documented_layout() -> None:
    record = m.encode_message(MESSAGE)
    assert len(record) == 91 + len(MESSAGE.body) + len(MESSAGE.topic) + len(MESSAGE.properties)
    assert record[:4] == len(record).to_bytes(4)
    assert record[4:8] == bytes.fromhex("DAA320A7")
    assert record[8:12] == (zlib.crc32(b"hello") & 0x7FFFFFFF).to_bytes(4)
    assert struct.unpack_from(">iiqqiq", record, 12) == (3, -1, 7, 123456, 1, 1795221011828)
    assert record[48:56] == bytes([192, 0, 2, 2]) + (40000).to_bytes(4)
    assert record[84:93] == (5).to_bytes(4) + b"hello"
    assert record[93:100] == b"\x06orders"


def test_a_record_is_read_back() -> None:
    record = m.encode_message(MESSAGE)
    message = read(record)
    assert message == replace(MESSAGE, version=1, size=len(record), body_crc=m.body_crc(b"hello"))
    assert m.encode_message(message) == record
    assert message.get("TAGS") == "TagA"
    assert message.get("NONE") is None
    assert message.message_id == "C0000202"


def test_ipv6_hosts_set_their_bits() -> None:
    message = replace(MESSAGE, born_host=("2001:db8::1", 1), store_host=("::1", 2))
    record = m.encode_message(message)
    back = read(record)
    assert back.born_host == ("2001:db8::1", 1)
    assert back.store_host == ("::1", 2)
    assert back.sys_flag == m.COMPRESSED_FLAG | m.BORN_HOST_V6_FLAG | m.STORE_HOST_V6_FLAG
    assert m.encode_message(replace(back, born_host=("127.0.0.1", 1))) != record


def test_long_topics_take_the_second_layout() -> None:
    assert read(m.encode_message(StoredMessage(topic="t" * 127))).version == 1
    record = m.encode_message(StoredMessage(topic="t" * 128))
    assert record[4:8] == bytes.fromhex("DAA320AB")
    assert read(record).topic == "t" * 128
    assert read(m.encode_message(StoredMessage(topic="t" * 200, version=1))).topic == "t" * 200
    with pytest.raises(ValueError, match="does not fit into a V1 message"):
        m.encode_message(StoredMessage(topic="t" * 256, version=1))


def test_what_does_not_fit_is_refused() -> None:
    assert read(m.encode_message(StoredMessage(topic="t", properties=b"x" * 32767))).properties == b"x" * 32767
    with pytest.raises(ValueError, match="32768"):
        m.encode_message(StoredMessage(topic="t", properties=b"x" * 32768))
    with pytest.raises(ValueError, match="not an address"):
        m.encode_message(StoredMessage(topic="t", born_host=("localhost", 1)))


def test_a_page_is_read_message_by_message() -> None:
    page = b"".join(m.encode_message(replace(MESSAGE, queue_offset=n, body=b"x" * n)) for n in range(5))
    assert [message.queue_offset for message in m.decode_messages(page)] == [0, 1, 2, 3, 4]
    assert m.decode_messages(memoryview(page)) == m.decode_messages(page)
    assert m.decode_messages(b"") == []


@pytest.mark.parametrize("sample", [MESSAGE, replace(MESSAGE, born_host=("::1", 1), topic="t" * 200)])
def test_a_record_cut_at_any_byte_is_refused(sample: StoredMessage) -> None:
    record = m.encode_message(sample)
    for size in range(len(record)):
        with pytest.raises(ProtocolError):
            m.decode_message(record[:size])
        with pytest.raises(ProtocolError):
            m.decode_message(size.to_bytes(4) + record[4:])
        with pytest.raises(ProtocolError):
            m.decode_message(size.to_bytes(4) + record[4:size])


@pytest.mark.parametrize("value", [-1, 4, 6, 1000, 0x7FFFFFFF, -0x80000000])
def test_a_lying_body_length_is_refused(value: int) -> None:
    record = bytearray(m.encode_message(MESSAGE))
    record[84:88] = value.to_bytes(4, signed=True)
    with pytest.raises(ProtocolError):
        m.decode_message(record)


def test_lying_topic_and_properties_lengths_are_refused() -> None:
    record = bytearray(m.encode_message(MESSAGE))
    for value in (0, 5, 7, 255):
        record[93] = value
        with pytest.raises(ProtocolError):
            m.decode_message(record)
    record[93] = 6
    for text in (b"\xff\xff", b"\x00\x00", b"\x7f\xff"):
        with pytest.raises(ProtocolError):
            m.decode_message(bytes(record[:100]) + text + bytes(record[102:]))


def test_what_is_not_a_message_is_refused() -> None:
    record = bytearray(m.encode_message(MESSAGE))
    record[4:8] = m.MAGIC_BLANK.to_bytes(4)
    with pytest.raises(ProtocolError, match="0xcbd43194"):
        m.decode_message(record)
    with pytest.raises(ProtocolError):
        m.decode_message(m.encode_message(MESSAGE), -1)


def test_properties_are_read_as_java_does() -> None:
    text = "a\x011\x02b\x012\x02\x02c\x01\x02\x01d\x02e\x02f\x01x\x01y\x02a\x013"
    assert m.decode_properties(text) == {"a": "3", "b": "2", "f": "x\x01y"}
    assert m.decode_properties(b"") == {}
    assert m.decode_properties("größe\x0110 €\x02".encode()) == {"größe": "10 €"}


def test_properties_are_written_with_every_item_closed() -> None:
    assert m.encode_properties({"a": "1", "b": None, "c": ""}) == b"a\x011\x02c\x01\x02"
    for name, value in (("a\x01", "1"), ("a\x02", "1"), ("a", "1\x02b\x012")):
        with pytest.raises(ValueError, match="separator"):
            m.encode_properties({name: value})


def test_appending_closes_the_last_property_first() -> None:
    """Java 4.9.1 to 5.1.4 leave out the last separator."""
    assert m.append_properties(b"a\x011", {"b": "2"}) == b"a\x011\x02b\x012\x02"
    assert m.append_properties(b"a\x011\x02", {"b": "2"}) == b"a\x011\x02b\x012\x02"
    assert m.append_properties(b"", {"b": "2"}) == b"b\x012\x02"
    assert m.append_properties(b"a\x011", {}) == b"a\x011"
    assert m.get_property(m.append_properties(b"a\x011", {"a": "2"}), "a") == "2"


def test_batches() -> None:
    entries = [BatchEntry(b"one", b"UNIQ_KEY\x01a\x02", 1), BatchEntry(b"", b"", -1)]
    body = m.encode_batch(entries)
    assert body[:20] == struct.pack(">iiiii", 22 + 3 + 11, 0, 0, 1, 3)
    assert m.decode_batch(body) == entries
    assert m.decode_batch(body)[0].property_map == {"UNIQ_KEY": "a"}
    assert m.decode_batch(b"") == []
    with pytest.raises(ValueError, match="32768"):
        m.encode_batch([BatchEntry(b"", bytes(32768))])


def test_a_batch_cut_at_any_byte_is_refused() -> None:
    first = m.encode_batch([BatchEntry(b"one", b"UNIQ_KEY\x01a\x02")])
    for size in range(1, len(first)):
        for body in (first[:size], first + first[:size], size.to_bytes(4) + first[4:]):
            with pytest.raises(ProtocolError):
                m.decode_batch(body)


@pytest.mark.parametrize("value", [-1, 2, 4, 14, 0x7FFFFFFF])
def test_a_batch_entry_with_a_lying_body_length_is_refused(value: int) -> None:
    body = bytearray(m.encode_batch([BatchEntry(b"one", b"UNIQ_KEY\x01a\x02")]))
    body[16:20] = value.to_bytes(4, signed=True)
    with pytest.raises(ProtocolError):
        m.decode_batch(body)


def test_offset_message_ids() -> None:
    text = m.offset_message_id("127.0.0.1", 10911, 123)
    assert text == "7F00000100002A9F000000000000007B"
    assert m.parse_message_id(text) == ("127.0.0.1", 10911, 123)
    assert m.parse_message_id(text.lower()) == ("127.0.0.1", 10911, 123)
    wide = m.offset_message_id("2001:db8::1", 1, 2)
    assert len(wide) == 56
    assert m.parse_message_id(wide) == ("2001:db8::1", 1, 2)
    assert MESSAGE.offset_id == m.offset_message_id("127.0.0.1", 10911, 123456)


@pytest.mark.parametrize("text", ["", "7F", "x" * 32, "7F00000100002A9F 00000000000007B", "F" * 32, "é" * 32])
def test_what_is_not_an_offset_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        m.parse_message_id(text)


def test_unique_keys() -> None:
    month = time.mktime((2026, 11, 1, 0, 0, 0, 0, 0, -1))
    key = m.create_unique_key("192.0.2.2", 0x12345, int(month * 1000) + 0x1234, 0x10007, 0xCAFE)
    assert key == "C0000202" + "2345" + "0000CAFE" + "00001234" + "0007"
    assert len(m.create_unique_key("::1", 1, int(month * 1000), 1)) == 56


@pytest.mark.parametrize(
    ("text", "code"),
    [("TagA", 2598919), ("TagB", 2598920), ("", 0), ("polygenelubricants", -(1 << 31)), ("标签", 857175),
     ("\U0001f600", 1772899), ("\ud83d", 0xD83D)],
)  # fmt: skip
def test_tag_codes_are_javas_hash_codes(text: str, code: int) -> None:
    units = text.encode("utf-16-be", "surrogatepass")
    value = 0
    for at in range(0, len(units), 2):
        value = 31 * value + int.from_bytes(units[at : at + 2])
    assert m.java_hash(text) == (value + (1 << 31)) % (1 << 32) - (1 << 31)
    assert m.tags_code(text) == code


def test_no_tags_have_code_zero() -> None:
    assert m.tags_code(None) == 0
