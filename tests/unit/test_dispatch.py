"""The request table and the handlers agree: what the table calls served has a handler, and the reverse."""

from __future__ import annotations

from fastmq.broker.dispatch import handler_tables, join_tables
from fastmq.nameserver.handlers import HANDLERS as NAMESRV_HANDLERS
from fastmq.protocol.codes import REQUESTS, RequestCode, request_name

# have a handler only to say clearly that the feature is not there
REFUSED = {
    RequestCode.CHECK_ROCKSDB_CQ_WRITE_PROGRESS,
    RequestCode.EXPORT_ROCKSDB_CONFIG_TO_JSON,
    RequestCode.UPDATE_AND_CREATE_STATIC_TOPIC,
    RequestCode.GET_BROKER_EPOCH_CACHE,
    RequestCode.UPDATE_COLD_DATA_FLOW_CTR_CONFIG,
    RequestCode.REMOVE_COLD_DATA_FLOW_CTR_CONFIG,
    RequestCode.GET_COLD_DATA_FLOW_CTR_INFO,
    RequestCode.SET_COMMITLOG_READ_MODE,
}


def named(codes: set[int]) -> list[str]:
    return sorted(request_name(code) for code in codes)


def test_what_the_table_calls_served_has_a_handler() -> None:
    broker, nameserver = set(join_tables(handler_tables())), {int(code) for code in NAMESRV_HANDLERS}
    served = {code for code, row in REQUESTS.items() if row.served}
    to_broker = {
        code for code in served if any(way.strip().endswith("→B") for way in REQUESTS[code].direction.split(","))
    }
    to_nameserver = {code for code in served if "→N" in REQUESTS[code].direction}
    assert named(to_broker - broker - nameserver) == []
    assert named(to_nameserver - nameserver) == []


def test_what_has_a_handler_is_called_served() -> None:
    handled = set(join_tables(handler_tables())) | {int(code) for code in NAMESRV_HANDLERS}
    served = {code for code, row in REQUESTS.items() if row.served}
    assert named(handled - served - REFUSED) == []
    assert named({code for code in REFUSED if code in served}) == [], "a refused request is not served"
