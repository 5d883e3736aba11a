"""What a tool wants of a consumer goes through the broker: offset resets, status, running info, trial consumption.

The bodies of relayed answers are passed on as they are, whatever a client wrote into them (AdminBrokerProcessor,
Broker2Client).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from fastmq import limits
from fastmq.broker.handlers.admin import refuse_broker_group
from fastmq.broker.handlers.consumer_admin import language_name
from fastmq.broker.handlers.pull import release_pulls
from fastmq.errors import ProtocolError, RequestError
from fastmq.net.server import Reply
from fastmq.protocol.bodies import ConsumerStatusBody, MessageQueue, ResetOffsetBody, TopicConfig, dumps
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import ONEWAY_FLAG, Command
from fastmq.protocol.headers import (
    ConsumeMessageDirectlyRequest,
    GetConsumerRunningInfoRequest,
    GetConsumerStatusRequest,
    ResetOffsetRequest,
)
from fastmq.protocol.message import parse_message_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.broker.state.sessions import ClientChannel
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.broker.relay")

STATUS_TIMEOUT_S: Final = 5.0  # of each client asked by 223
VERSION_3_0_7: Final = 28  # clients before it know neither offset resets nor status requests
VERSION_3_1_8: Final = 62  # clients before it know neither running info nor trial consumption


# --- offset reset -----------------------------------------------------------------------------------------------------


async def reset_offset(broker: Broker, peer: Peer, request: Command) -> Reply:
    """INVOKE_BROKER_TO_RESET_OFFSET (222): in the broker's own table, or by telling the group's clients."""
    header = ResetOffsetRequest.decode(request.ext)
    refuse_broker_group(header.group)
    topic = broker.topics.get(header.topic)
    if broker.config.use_server_side_reset_offset:
        return await _reset_in_broker(broker, header, topic)
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"topic {header.topic} does not exist")
    return await _reset_in_clients(broker, header, topic, for_c=request.language == "CPP")


async def _reset_in_broker(broker: Broker, header: ResetOffsetRequest, topic: TopicConfig | None) -> Reply:
    """Record the offsets; the next pull of each queue is sent there, and commits wait until it was."""
    if topic is None:
        raise RequestError(ResponseCode.TOPIC_NOT_EXIST, f"Topic {header.topic} does not exist")
    if header.group not in broker.groups:
        raise RequestError(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"Group {header.group} does not exist")
    if header.queue_id >= 0:
        if header.queue_id >= topic.read_queue_nums:
            raise RequestError(
                ResponseCode.SYSTEM_ERROR, f"topic {header.topic} has no queue {header.queue_id} to read from"
            )
        if header.offset is not None and header.offset != -1:
            low, high = broker.store.queue_offsets(header.topic, header.queue_id) or (0, 0)
            if not low <= header.offset <= high + 1:
                raise RequestError(
                    ResponseCode.SYSTEM_ERROR,
                    f"Target offset {header.offset} not in consume queue range [{low}-{high}]",
                )
            targets = {header.queue_id: header.offset}
        else:
            targets = await _offsets_by_time(broker, header.topic, [header.queue_id], header.timestamp)
    else:
        targets = await _offsets_by_time(broker, header.topic, range(topic.read_queue_nums), header.timestamp)
    for queue_id, offset in targets.items():
        broker.offsets.assign_reset(header.group, header.topic, queue_id, offset)
        broker.pop.begin_elsewhere(header.group, header.topic, queue_id)
    release_pulls(broker, header.topic)
    await broker.save_consumer_offsets()
    log.info("offsets of %s on %s were reset to %s", header.group, header.topic, targets)
    return Reply(body=dumps(ResetOffsetBody(_table(broker, header.topic, targets))))


async def _reset_in_clients(broker: Broker, header: ResetOffsetRequest, topic: TopicConfig, *, for_c: bool) -> Reply:
    targets: dict[int, int] = {}
    by_time = await _offsets_by_time(broker, header.topic, range(topic.write_queue_nums), header.timestamp)
    for queue_id, offset in by_time.items():
        consumed = broker.offsets.query(header.group, header.topic, queue_id)
        if consumed == -1:
            raise RequestError(ResponseCode.SYSTEM_ERROR, f"THe consumer group <{header.group}> not exist")
        targets[queue_id] = offset if header.is_force or offset < consumed else consumed
    info = broker.sessions.consumer_group(header.group)
    if info is None:
        raise RequestError(
            ResponseCode.CONSUMER_NOT_ONLINE,
            f"Consumer not online, so can not reset offset, Group: {header.group} Topic: {header.topic} "
            f"Timestamp: {header.timestamp}",
        )
    channels = list(info.channels.values())
    old = next((channel for channel in channels if channel.version < VERSION_3_0_7), None)
    if old is not None:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR,
            f"the client does not support this feature. version={old.version} {old.peer.address}",
        )
    body = ResetOffsetBody(_table(broker, header.topic, targets))
    text = dumps(body.to_json_for_c() if for_c else body)
    for channel in channels:
        client = broker.peer_of(channel)
        if client is not None:
            push = Command(
                RequestCode.RESET_CONSUMER_CLIENT_OFFSET,
                opaque=broker.next_opaque(),
                flag=ONEWAY_FLAG,
                ext=header.encode(),
                body=text,
            )
            client.send(push)
    return Reply(body=dumps(body))


async def _offsets_by_time(
    broker: Broker, topic: str, queue_ids: range | list[int], timestamp_ms: int
) -> dict[int, int]:
    """Queue id -> first offset at or after the time; a negative time stands for the end."""
    store = broker.store

    def search() -> dict[int, int]:
        found = {}
        for queue_id in queue_ids:
            low, high = store.queue_offsets(topic, queue_id) or (0, 0)
            if timestamp_ms < 0 or high <= low:
                found[queue_id] = max(0, high)
            else:
                found[queue_id] = max(low, store.search_offset(topic, queue_id, timestamp_ms))
        return found

    return await trio.to_thread.run_sync(search)


def _table(broker: Broker, topic: str, targets: Mapping[int, int]) -> dict[MessageQueue, int]:
    name = broker.config.broker_name
    return {MessageQueue(topic, name, queue_id): offset for queue_id, offset in targets.items()}


# --- status -----------------------------------------------------------------------------------------------------------


async def get_consumer_status(broker: Broker, peer: Peer, request: Command) -> Reply:
    """INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223): ask the group's clients (221) which offsets they are at."""
    header = GetConsumerStatusRequest.decode(request.ext)
    info = broker.sessions.consumer_group(header.group)
    if info is None:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"No Any Consumer online in the consumer group: [{header.group}]")
    channels = list(info.channels.values())
    old = next((channel for channel in channels if channel.version < VERSION_3_0_7), None)
    if old is not None:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR,
            f"the client does not support this feature. version={old.version} {old.peer.address}",
        )
    if header.client_addr:
        channels = [channel for channel in channels if channel.client_id == header.client_addr]
    tables: dict[str, Mapping[MessageQueue, int]] = {}

    async def ask(channel: ClientChannel) -> None:
        ext = GetConsumerStatusRequest(topic=header.topic, group=header.group).encode()
        try:
            answer = await _client(broker, channel).call(
                Command(RequestCode.GET_CONSUMER_STATUS_FROM_CLIENT, ext=ext), STATUS_TIMEOUT_S
            )
            if answer.code == ResponseCode.SUCCESS and answer.body:
                status = ConsumerStatusBody.from_json(answer.body)
                tables[channel.client_id] = status.message_queue_table
        except (OSError, ProtocolError) as error:
            log.warning("no status of %s in %s: %s", channel.client_id, header.group, error)

    async with trio.open_nursery() as nursery:
        for channel in channels:
            nursery.start_soon(ask, channel)
    body = ConsumerStatusBody(consumer_table={client: tables[client] for client in sorted(tables)})
    return Reply(body=dumps(body))


# --- relays -----------------------------------------------------------------------------------------------------------


async def get_consumer_running_info(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_CONSUMER_RUNNING_INFO (307), passed on to the client it names."""
    header = GetConsumerRunningInfoRequest.decode(request.ext)
    return await _relay(broker, request, header.consumer_group, header.client_id)


async def consume_message_directly(broker: Broker, peer: Peer, request: Command) -> Reply:
    """CONSUME_MESSAGE_DIRECTLY (309): hand one stored message to one client and pass on what it made of it."""
    header = ConsumeMessageDirectlyRequest.decode(request.ext)
    topic = broker.topics.get(header.topic or "")
    group = broker.groups.get(header.consumer_group)
    passed_on = header.replace(
        broker_name=broker.config.broker_name,
        topic_sys_flag=header.topic_sys_flag if topic is None else topic.topic_sys_flag,
        group_sys_flag=header.group_sys_flag if group is None else group.group_sys_flag,
    )
    body = request.body
    if header.msg_id:
        body = await _stored_message(broker, header.msg_id)
    passed_on_request = replace_request(request, {**request.ext, **passed_on.encode()}, body)
    return await _relay(broker, passed_on_request, header.consumer_group, header.client_id or "")


async def _stored_message(broker: Broker, message_id: str) -> bytes:
    try:
        _, _, log_offset = parse_message_id(message_id)
    except (ValueError, ProtocolError) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"{message_id} is no message id of a broker") from error
    record: bytes | None = None
    if log_offset >= 0:
        record = await trio.to_thread.run_sync(broker.store.read_record, log_offset)
    if record is None:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"can not find message by the offset, {log_offset}")
    return record


def replace_request(request: Command, ext: dict[str, str], body: bytes) -> Command:
    """The request to a client that stands for a tool's; its header form is the one every client reads."""
    return Command(request.code, ext=ext, body=body)


async def _relay(broker: Broker, request: Command, group: str, client_id: str) -> Reply:
    channel = broker.sessions.find_consumer_channel(group, client_id)
    if channel is None:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"The Consumer <{group}> <{client_id}> not online")
    if channel.version < VERSION_3_1_8:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR,
            f"The Consumer <{client_id}> Version {channel.version} ({language_name(channel.language)}) too low to "
            "finish, please upgrade it to V3_1_8_SNAPSHOT",
        )
    try:
        answer = await _client(broker, channel).call(
            replace_request(request, dict(request.ext), request.body), limits.BROKER_TO_CLIENT_TIMEOUT_SECONDS
        )
    except TimeoutError as error:
        raise RequestError(
            ResponseCode.CONSUME_MSG_TIMEOUT, f"consumer <{group}> <{client_id}> Timeout: {error}"
        ) from error
    except ConnectionError as error:
        raise RequestError(
            ResponseCode.SYSTEM_ERROR, f"invoke consumer <{group}> <{client_id}> Exception: {error}"
        ) from error
    return Reply(answer.code, answer.remark, dict(answer.ext), answer.body)


def _client(broker: Broker, channel: ClientChannel) -> Peer:
    """The connection behind a session."""
    peer: Peer | None = broker.peer_of(channel)
    if peer is None:
        raise ConnectionError(f"the connection of {channel.client_id} is closed")
    return peer


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: reset_offset,
    RequestCode.INVOKE_BROKER_TO_GET_CONSUMER_STATUS: get_consumer_status,
    RequestCode.GET_CONSUMER_RUNNING_INFO: get_consumer_running_info,
    RequestCode.CONSUME_MESSAGE_DIRECTLY: consume_message_directly,
}
