"""The KV table: what tools put survives restarts and crashes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastmq import limits
from fastmq.errors import RequestError, StoreError
from fastmq.nameserver.kv import KvConfig


def test_values_are_kept_across_restarts(tmp_path: Path) -> None:
    path = tmp_path / "namesrv" / "kvConfig.json"
    kv = KvConfig.open(str(path))
    assert kv.get("ORDER_TOPIC_CONFIG", "t") is None
    assert kv.namespace("ORDER_TOPIC_CONFIG") is None
    kv.put("ORDER_TOPIC_CONFIG", "t", "broker-a:4;broker-b:4")
    kv.put("ns", "schlüssel", '"wert"\n中')
    again = KvConfig.open(str(path))
    assert again.namespace("ORDER_TOPIC_CONFIG") == {"t": "broker-a:4;broker-b:4"}
    assert again.get("ns", "schlüssel") == '"wert"\n中'
    again.delete("ORDER_TOPIC_CONFIG", "t")
    again.delete("ORDER_TOPIC_CONFIG", "t")
    again.delete("absent", "t")
    third = KvConfig.open(str(path))
    assert third.get("ORDER_TOPIC_CONFIG", "t") is None
    assert third.namespace("ORDER_TOPIC_CONFIG") == {}, "a namespace that was used is an empty table, not absent"


def test_the_file_is_rocketmq_s(tmp_path: Path) -> None:
    path = tmp_path / "kvConfig.json"
    path.write_text('{"configTable":{"ORDER_TOPIC_CONFIG":{"t":"a:4"}}}')
    kv = KvConfig.open(str(path))
    kv.put("ns", "k", "v")
    assert json.loads(path.read_text()) == {"configTable": {"ORDER_TOPIC_CONFIG": {"t": "a:4"}, "ns": {"k": "v"}}}


def test_a_torn_file_is_replaced_by_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "kvConfig.json"
    kv = KvConfig.open(str(path))
    kv.put("ns", "k", "1")
    kv.put("ns", "k", "2")
    path.write_text(path.read_text()[:10])
    assert KvConfig.open(str(path)).get("ns", "k") == "1"


@pytest.mark.parametrize("content", ["{", '{"other":1}', '{"configTable":{"ns":5}}', "[]"])
def test_damage_without_a_copy_stops_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kvConfig.json"
    path.write_text(content)
    with pytest.raises(StoreError, match=r"kvConfig\.json"):
        KvConfig.open(str(path))


def test_a_change_that_cannot_be_saved_is_not_made() -> None:
    def refuse(text: str) -> None:
        raise OSError(28, "no space")

    kv = KvConfig({"ns": {"k": "old"}}, refuse)
    with pytest.raises(OSError, match="no space"):
        kv.put("ns", "k", "new")
    with pytest.raises(OSError, match="no space"):
        kv.delete("ns", "k")
    assert kv.get("ns", "k") == "old"


def test_the_table_has_bounds() -> None:
    kv = KvConfig({"ns": {str(number): "" for number in range(limits.MAX_KV_ENTRIES)}})
    with pytest.raises(RequestError, match="full"):
        kv.put("other", "k", "v")
    kv.put("ns", "0", "changed")
    with pytest.raises(RequestError, match="characters"):
        kv.put("ns", "0", "x" * (limits.MAX_KV_VALUE_CHARS + 1))
