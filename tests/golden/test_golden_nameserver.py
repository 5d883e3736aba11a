"""Requests to a real RocketMQ 5.3.3 name server, in the order they were made, replayed against ours.

`data/namesrv.jsonl`: recorded between released clients (Java 4.9.7 and 5.3.3, Go 2.1.2, mqadmin, a broker) and Apache's
name server; up to five of each kind were kept. Whoever answers with another code, other ext fields or another shape of
body breaks one of those clients. Not every registration was kept, so before a recorded route is asked for, its topic is
registered by what the recording says about it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastmq.clock import ManualClock
from fastmq.config import NamesrvConfig
from fastmq.errors import RequestError
from fastmq.nameserver.app import NameServer
from fastmq.nameserver.handlers import HANDLERS
from fastmq.net.server import Reply
from fastmq.protocol.bodies import DataVersion, RegisterBrokerBody, TopicConfig, TopicConfigTable, loads_lenient
from fastmq.protocol.codes import RequestCode
from fastmq.protocol.command import Command, decode_frame

RECORDS = [json.loads(line) for line in (Path(__file__).parent / "data" / "namesrv.jsonl").read_text().splitlines()]


@dataclass
class RecordedPeer:
    id: int
    host: str = "127.0.0.1"
    local: bool = True
    address: str = "127.0.0.1:40000"


def frame(text: str) -> Command:
    return decode_frame(base64.b64decode(text))


def shape(value: Any) -> Any:
    """Keys and kinds of a JSON value; what a table or a list holds is reduced to the shapes that occur."""
    if isinstance(value, dict):
        return {key: shape(member) for key, member in sorted(value.items())}
    if isinstance(value, list):
        return sorted({json.dumps(shape(item)) for item in value})
    return type(value).__name__


def body_shape(code: int, body: bytes) -> Any:
    if code == RequestCode.GET_NAMESRV_CONFIG:
        return sorted(line.partition("=")[0] for line in body.decode().splitlines())
    if not body:
        return None
    content = loads_lenient(body)
    if code == RequestCode.GET_KVLIST_BY_NAMESPACE or "table" in content:
        return list(content)
    return shape(content)


@pytest.fixture
def server(tmp_path: Path) -> NameServer:
    config = NamesrvConfig(
        kv_config_path=str(tmp_path / "kvConfig.json"), config_store_path=str(tmp_path / "namesrv.properties")
    )
    return NameServer(config, ManualClock())


def answer(server: NameServer, connection: int, request: Command) -> Reply:
    try:
        reply = server.handle(RecordedPeer(connection), request)  # type: ignore[arg-type]
    except RequestError as error:
        return Reply(error.code, error.remark)
    assert reply is not None
    return reply


def register_as_recorded(server: NameServer, topic: str, route: dict[str, Any]) -> None:
    broker, queues = route["brokerDatas"][0], route["queueDatas"][0]
    address = broker["brokerAddrs"]["0"]
    config = TopicConfig(topic, queues["readQueueNums"], queues["writeQueueNums"], queues["perm"])
    known = server.routes.version_of(broker["cluster"], address, broker["brokerName"]) or DataVersion()
    body = RegisterBrokerBody(TopicConfigTable(topic_config_table={topic: config}, data_version=known)).encode()
    ext = {
        "brokerName": broker["brokerName"], "brokerAddr": address, "clusterName": broker["cluster"],
        "haServerAddr": "127.0.0.1:30912", "brokerId": "0", "bodyCrc32": str(zlib.crc32(body) & 0x7FFFFFFF),
    }  # fmt: skip
    assert answer(server, 16, Command(RequestCode.REGISTER_BROKER, ext=ext, body=body)).code == 0


Exchange = tuple[dict[str, Any], Command, Command, Reply]


def replay(server: NameServer) -> Iterator[Exchange]:
    """(record, request, Apache's answer, ours) of the whole session."""
    for record in RECORDS:
        request, recorded = frame(record["request"]), frame(record["response"])
        is_route = request.code == RequestCode.GET_ROUTEINFO_BY_TOPIC and recorded.code == 0
        if is_route and server.routes.route(request.ext["topic"]) is None:
            register_as_recorded(server, request.ext["topic"], loads_lenient(recorded.body))
        yield record, request, recorded, answer(server, record["conn"], request)


def without_what_4x_lacks(request: Command, body: bytes) -> bytes:
    """Readers older than 4.9.4 are sent the 4.x form, which has no such flag (a client of theirs stops at `false`)."""
    return body if request.version >= 401 else body.replace(b',"enableActingMaster":false', b"")


def test_codes_fields_and_shapes_of_the_recorded_session(server: NameServer) -> None:
    differences = []
    for record, request, recorded, ours in replay(server):
        expected = body_shape(request.code, without_what_4x_lacks(request, recorded.body))
        found = body_shape(request.code, ours.body)
        if request.code == RequestCode.GET_NAMESRV_CONFIG:
            found = [name for name in found if name in expected]  # we may know more settings, never fewer
        # a remark that the real server forgot in successful answers
        remark = (recorded.remark or "").replace("not set any response code", "")
        theirs_is = (recorded.code, sorted(recorded.ext), expected, remark)
        ours_is = (ours.code, sorted(ours.ext), found, ours.remark or "")
        if theirs_is != ours_is:
            differences.append(f"{record['name']} ({record['note']}): {theirs_is} became {ours_is}")
    assert not differences, "\n".join(differences)


def test_route_bodies_are_equal_byte_for_byte(server: NameServer) -> None:
    compared = Counter[str]()
    for record, request, recorded, ours in replay(server):
        if request.code == RequestCode.GET_ROUTEINFO_BY_TOPIC:
            assert ours.body == without_what_4x_lacks(request, recorded.body), record["note"]
            compared[record["client"]] += 1
    assert {"java 5.3.3", "java 4.9.7", "go 2.1.2"} <= compared.keys()


def test_every_kind_of_name_server_request_was_recorded_or_is_known_to_be_missing() -> None:
    recorded = {record["code"] for record in RECORDS}
    missing = {RequestCode(code).name for code in HANDLERS if code not in recorded}
    assert missing == {
        "BROKER_HEARTBEAT",
        "GET_HAS_UNIT_SUB_TOPIC_LIST",
        "GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST",
        "REGISTER_TOPIC_IN_NAMESRV",
    }
