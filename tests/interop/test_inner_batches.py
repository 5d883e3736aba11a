"""Inner batches (queue.type=BatchCQ), which only Apache RocketMQ 5.3.3 writes: filters find the same in both."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmq.protocol.message import BatchEntry, decode_messages, encode_batch
from support.remoting import Answer, call
from support.servers import ApachePeer, FastmqServer, Server
from support.toolchains import ToolchainMissing, apache_class_path, missing

pytestmark = pytest.mark.apache

CREATE_TOPIC, SEND_BATCH, PULL = 17, 320, 11
TOPIC = "inner-batches"
BATCHES = [("red", 3), ("green", 2), ("red", 1), ("blue", 4), ("green", 3)]
FILTERS = [
    "color = 'red'",
    "color <> 'red'",
    "color IN ('blue', 'green')",
    "size > 2",
    "INNER_NUM = 2",
    "missing IS NULL",
]


def made(server: Server) -> None:
    """The topic, and batches whose properties tell them apart."""
    ext = {
        "topic": TOPIC, "defaultTopic": "TBW102", "readQueueNums": 1, "writeQueueNums": 1, "perm": 6, "order": False,
        "topicFilterType": "SINGLE_TAG", "topicSysFlag": 0, "attributes": "+queue.type=BatchCQ",
    }  # fmt: skip
    answer = call(server.listen_port, CREATE_TOPIC, ext)
    assert answer.code == 0, answer
    for number, (color, size) in enumerate(BATCHES):
        body = encode_batch([BatchEntry(body=b"%d/%d" % (number, item)) for item in range(size)])
        properties = f"UNIQ_KEY\x01{number:032X}\x02color\x01{color}\x02size\x01{size}\x02"
        ext = {
            "a": "pg", "b": TOPIC, "c": "TBW102", "d": 1, "e": 0, "f": 0, "g": 1, "h": 0, "i": properties, "j": 0,
            "k": False, "l": 16, "m": True,
        }  # fmt: skip
        answer = call(server.listen_port, SEND_BATCH, ext, body)
        assert answer.code == 0, answer


def pull(server: Server, text: str, offset: int, most: int) -> Answer:
    ext = {
        "consumerGroup": "g", "topic": TOPIC, "queueId": 0, "queueOffset": offset, "maxMsgNums": most, "sysFlag": 4,
        "commitOffset": 0, "suspendTimeoutMillis": 0, "subscription": text, "subVersion": 1, "expressionType": "SQL92",
    }  # fmt: skip
    return call(server.listen_port, PULL, ext)


def seen(server: Server) -> dict[tuple[str, int, int], tuple[int, str, list[str]]]:
    """What pulls find: code, where to go on, the keys of the batches."""
    found = {}
    for text in FILTERS:
        for offset in range(sum(size for _, size in BATCHES) + 1):
            for most in (1, 4, 32):
                answer = pull(server, text, offset, most)
                keys = [one.property_map["UNIQ_KEY"] for one in decode_messages(answer.body)]
                found[text, offset, most] = answer.code, answer.ext["nextBeginOffset"], keys
    return found


def test_filters_find_the_same(tmp_path: Path) -> None:
    try:
        apache_class_path()
    except ToolchainMissing as reason:
        missing(str(reason))
    first, second = ApachePeer(tmp_path / "a"), FastmqServer(tmp_path / "b")
    with first:
        made(first)
        theirs = seen(first)
        first.stop()
    assert any(keys for _, _, keys in theirs.values())
    second.take_over(first)
    with second:
        ours = seen(second)
    assert {key: (found, ours[key]) for key, found in theirs.items() if ours[key] != found} == {}
