"""Administration of the broker as a whole: configuration, retention, replication state, and refusals.

`DANGEROUS` is the one list of requests that are taken from this machine only while `adminFromLoopbackOnly` is on:
they destroy data, stop consumers or change what the broker is. Creating topics and groups is not on it: development
clients do that (Java's createTopic is code 17), and with auto-creation on any send or heartbeat does the same. Changing
what exists is guarded in the handlers themselves, see `require_local`. Reads are never guarded.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from fastmq import limits
from fastmq.errors import RequestError, UsageError
from fastmq.net.server import Reply
from fastmq.properties import merge_properties, parse_properties
from fastmq.protocol import names
from fastmq.protocol.bodies import (
    DataVersion,
    HaRuntimeInfo,
    dumps,
    dumps_text,
)
from fastmq.protocol.codes import RequestCode, ResponseCode, request_name
from fastmq.protocol.command import Command
from fastmq.protocol.headers import GetBrokerConfigResponse
from fastmq.store.tables import save_json

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.broker.admin")

DANGEROUS: Final[frozenset[RequestCode]] = frozenset(
    {
        RequestCode.UPDATE_BROKER_CONFIG,
        RequestCode.DELETE_SUBSCRIPTIONGROUP,
        RequestCode.DELETE_TOPIC_IN_BROKER,
        RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE,
        RequestCode.CLEAN_UNUSED_TOPIC,
        RequestCode.DELETE_EXPIRED_COMMITLOG,
        RequestCode.INVOKE_BROKER_TO_RESET_OFFSET,
        RequestCode.CLONE_GROUP_OFFSET,
        RequestCode.CONSUME_MESSAGE_DIRECTLY,
        RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN,
        RequestCode.SET_MESSAGE_REQUEST_MODE,
        RequestCode.UPDATE_AND_CREATE_STATIC_TOPIC,
        RequestCode.RESET_MASTER_FLUSH_OFFSET,
        RequestCode.UPDATE_COLD_DATA_FLOW_CTR_CONFIG,
        RequestCode.REMOVE_COLD_DATA_FLOW_CTR_CONFIG,
        RequestCode.SET_COMMITLOG_READ_MODE,
        RequestCode.EXPORT_ROCKSDB_CONFIG_TO_JSON,
        RequestCode.RESUME_CHECK_HALF_MESSAGE,
    }
)

# Read when the broker starts. A running broker that changed them would register addresses it does not listen on, or
# look for its files elsewhere; so an update only puts them into the configuration file.
START_ONLY: Final[frozenset[str]] = frozenset(
    """
    bindAddress listenPort fastListenPort haListenPort brokerIP1 brokerIP2 brokerName brokerClusterName brokerId
    brokerRole storePathRootDir storePathCommitLog mappedFileSizeCommitLog mappedFileSizeConsumeQueue maxHashSlotNum
    maxIndexNum messageIndexEnable messageDelayLevel checkCRCOnRecover allocateStepBytes storeType timerPrecisionMs
    mappedFileSizeTimerLog enableConsumeQueueExt mappedFileSizeConsumeQueueExt enableLmq enableMultiDispatch
    maxLmqConsumeQueueNum reviveQueueNum
    """.split()  # noqa: SIM905  (as text it is readable)
)


def refuse_broker_group(group: str) -> None:
    """RequestError(16) for a group whose offsets say how far the broker itself has come: moving them loses messages."""
    if names.is_broker_group(group):
        raise RequestError(ResponseCode.NO_PERMISSION, f"the group {group} belongs to the broker itself")


def require_local(broker: Broker, peer: Peer, what: str) -> None:
    """Refuse a change that comes from another machine, unless the configuration allows it."""
    if broker.config.admin_from_loopback_only and not peer.local:
        raise RequestError(
            ResponseCode.NO_PERMISSION, f"{what} is allowed from the broker's machine only (adminFromLoopbackOnly)"
        )


# --- configuration ----------------------------------------------------------------------------------------------------


async def update_broker_config(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_BROKER_CONFIG (25): `key=value` lines; all of them are applied, or none if one is refused.

    The configuration file, if there is one, gets the new values. Settings that are read at start only (`START_ONLY`)
    are changed in the file alone and count from the next start on; without a file they are refused.
    """
    updates = _properties(request.body)
    if not updates:
        return Reply()
    refused = broker.config.refused_updates(updates)
    if refused:
        raise RequestError(ResponseCode.NO_PERMISSION, f"Can not update config in black list: {', '.join(refused)}")
    try:
        _, known, unknown = broker.config.with_updates(updates)  # whether all are right, those for later as well
        later = sorted(START_ONLY.intersection(known))
        now = {name: updates[name] for name in known if name not in START_ONLY}
        changed, applied, _ = broker.config.with_updates(now)
    except UsageError as error:
        raise RequestError(ResponseCode.INVALID_PARAMETER, str(error)) from error
    if unknown:
        log.info("unknown settings in an update are ignored: %s", ", ".join(unknown))
    path = broker.config.broker_config_path
    if later and not path:
        raise RequestError(
            ResponseCode.INVALID_PARAMETER, f"{', '.join(later)}: set at start only, and there is no configuration file"
        )
    if known and path:
        await trio.to_thread.run_sync(_rewrite_file, path, {name: updates[name].strip() for name in known})
    if later:
        log.info("changed in %s, counts from the next start: %s", path, ", ".join(later))
    if not applied:
        return Reply()
    old, broker.config = broker.config, changed
    log.info("configuration changed by %s: %s", peer.address, ", ".join(f"{n}={updates[n]}" for n in applied))
    broker.store.reconfigure(
        max_message_bytes=changed.max_message_size,
        sync_flush=changed.sync_flush,
        flush_interval_ms=changed.flush_interval_commit_log,
    )
    broker.config_changed(old)
    if changed.broker_permission != old.broker_permission:
        broker.topics.touch()
    if changed.broker_permission != old.broker_permission or changed.namesrv_addr != old.namesrv_addr:
        broker.registrar.changed()
    return Reply()


def _properties(body: bytes) -> dict[str, str]:
    if len(body) > limits.MAX_CONFIG_TEXT_BYTES:
        raise RequestError(ResponseCode.INVALID_PARAMETER, "the configuration text is too long")
    try:
        return parse_properties(body.decode())
    except (UnicodeDecodeError, UsageError) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"string2Properties error: {error}") from error


def _rewrite_file(path: str, values: Mapping[str, str]) -> None:
    """Put values into a properties file, replaced as a whole with a backup. Blocks on the disk. Raises OSError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        text = ""
    save_json(os.path.realpath(path), merge_properties(text, values))


def get_broker_config(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_CONFIG (26). The version's counter is a checksum: it differs whenever a setting does."""
    text = broker.config.to_properties().encode()
    version = DataVersion(timestamp=broker.stats.boot_timestamp_ms, counter=zlib.crc32(text))
    return Reply(ext=GetBrokerConfigResponse(version=dumps_text(version)).encode(), body=text)


# --- retention --------------------------------------------------------------------------------------------------------


def delete_expired_commit_log(broker: Broker, peer: Peer, request: Command) -> Reply:
    """DELETE_EXPIRED_COMMITLOG (329): expired segments go now, whatever the hour."""
    broker.retention.request()
    return Reply()


def clean_expired_consume_queue(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CLEAN_EXPIRED_CONSUMEQUEUE (306): nothing is left to do, queues go with the segments they point to."""
    return Reply()


def pop_rollback(broker: Broker, peer: Peer, request: Command) -> Reply:
    """POP_ROLLBACK (200056): nothing is left to do, POP records are always kept in the revive log."""
    return Reply()


# --- replication ------------------------------------------------------------------------------------------------------


def get_ha_status(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_HA_STATUS (907): a master without replicas."""
    status = HaRuntimeInfo(master=True, master_commit_log_max_offset=broker.store.written_offset)
    return Reply(body=dumps(status))


def reset_master_flush_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """RESET_MASTER_FLUSH_OFFSET (908): only concerns a slave; a master answers 0 and does nothing."""
    return Reply()


# --- what is not there ------------------------------------------------------------------------------------------------


_REFUSALS: Final[Mapping[RequestCode, tuple[ResponseCode, str]]] = {
    RequestCode.CHECK_ROCKSDB_CQ_WRITE_PROGRESS: (ResponseCode.SYSTEM_ERROR, "this broker does not use RocksDB"),
    RequestCode.EXPORT_ROCKSDB_CONFIG_TO_JSON: (ResponseCode.SYSTEM_ERROR, "this broker does not use RocksDB"),
    RequestCode.GET_BROKER_EPOCH_CACHE: (ResponseCode.SYSTEM_ERROR, "this request only for controllerMode"),
    RequestCode.UPDATE_COLD_DATA_FLOW_CTR_CONFIG: (ResponseCode.SYSTEM_ERROR, "fastmq has no cold data flow control"),
    RequestCode.REMOVE_COLD_DATA_FLOW_CTR_CONFIG: (ResponseCode.SYSTEM_ERROR, "fastmq has no cold data flow control"),
    RequestCode.GET_COLD_DATA_FLOW_CTR_INFO: (ResponseCode.SYSTEM_ERROR, "fastmq has no cold data flow control"),
    RequestCode.SET_COMMITLOG_READ_MODE: (ResponseCode.SYSTEM_ERROR, "the read mode of the commit log is fixed"),
}


def refuse(broker: Broker, peer: Peer, request: Command) -> Reply:
    """Requests RocketMQ serves and fastmq does not, answered with the reason instead of code 3."""
    code, remark = _REFUSALS[RequestCode(request.code)]
    log.debug("%s refused: %s", request_name(request.code), remark)
    return Reply(code, remark)


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.UPDATE_BROKER_CONFIG: update_broker_config,
    RequestCode.GET_BROKER_CONFIG: get_broker_config,
    RequestCode.DELETE_EXPIRED_COMMITLOG: delete_expired_commit_log,
    RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE: clean_expired_consume_queue,
    RequestCode.POP_ROLLBACK: pop_rollback,
    RequestCode.GET_BROKER_HA_STATUS: get_ha_status,
    RequestCode.RESET_MASTER_FLUSH_OFFSET: reset_master_flush_offset,
    **dict.fromkeys(_REFUSALS, refuse),
}
