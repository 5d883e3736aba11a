"""Consumer groups by command: create, change, delete, list, look at (RocketMQ's AdminBrokerProcessor)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fastmq.broker.delivery.retry_policy import problem_of
from fastmq.broker.handlers.admin import refuse_broker_group, require_local
from fastmq.broker.handlers.topic import page_of
from fastmq.broker.state.broadcast import broadcast_group
from fastmq.errors import RequestError
from fastmq.net.server import Reply
from fastmq.protocol import names
from fastmq.protocol.bodies import GroupForbidden, SubscriptionGroupConfig, dumps, group_config_list
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.headers import (
    DeleteSubscriptionGroupRequest,
    GetAllSubscriptionGroupRequest,
    GetAllSubscriptionGroupResponse,
    GetSubscriptionGroupConfigRequest,
    UpdateGroupForbiddenRequest,
)

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.broker.dispatch import Handler
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

FORBIDDEN_READ_BIT: Final = 2


def update_and_create_group(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_CREATE_SUBSCRIPTIONGROUP (200)."""
    _put(broker, peer, [SubscriptionGroupConfig.from_json(request.body)])
    return Reply()


def update_and_create_group_list(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST (225): all of them, or none if one is refused."""
    _put(broker, peer, group_config_list(request.body))
    return Reply()


def _put(broker: Broker, peer: Peer, groups: list[SubscriptionGroupConfig]) -> None:
    """Anybody may create what a heartbeat would create, too; changing a group can stop its consumers."""
    changed = []
    for wanted in groups:
        group = wanted
        problem = names.validate_group(group.group_name) or problem_of(group.group_retry_policy)
        if problem is not None:
            raise RequestError(ResponseCode.INVALID_PARAMETER, problem)
        if group.attributes:
            # as in RocketMQ: a tool sends changes of attributes (`+name`, `-name`), but groups have none so far
            raise RequestError(
                ResponseCode.SYSTEM_ERROR, f"unsupported key: {next(iter(group.attributes)).lstrip('+-')}"
            )
        known = broker.groups.get(group.group_name)
        if known is not None:
            group = replace(group, attributes=known.attributes)
        if group == known:
            continue
        if known is not None:
            require_local(broker, peer, "changing a consumer group")
        elif not broker.config.auto_create_subscription_group:
            require_local(broker, peer, "creating a consumer group")
        changed.append(group)
    broker.groups.put_many(changed)


async def delete_group(broker: Broker, peer: Peer, request: Command) -> Reply:
    """DELETE_SUBSCRIPTIONGROUP (207); its offsets only if the tool says so."""
    header = DeleteSubscriptionGroupRequest.decode(request.ext)
    refuse_broker_group(header.group_name)
    broker.groups.delete(header.group_name)
    if header.clean_offset:
        broker.offsets.delete_group(header.group_name)
        broker.offsets.delete_group(broadcast_group(header.group_name))
        broker.order.delete_group(header.group_name)
        broker.pop.inflight.forget(group=header.group_name)
        broker.broadcast.delete(group=header.group_name)
        await broker.save_consumer_offsets()
    if not broker.config.auto_create_subscription_group:
        broker.popwaits.group_gone(header.group_name)  # elsewhere a waiting pop would only make it again
    if broker.config.auto_delete_unused_stats:
        broker.stats.forget_group(header.group_name)
    return Reply()


def get_all_groups(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201): everything, or a page for a reader that names its version."""
    header = GetAllSubscriptionGroupRequest.decode(request.ext)
    body = broker.groups.to_body()
    groups = sorted(broker.groups.items())
    page = page_of(groups, header.group_seq, header.max_group_num, header.data_version, broker.groups.data_version)
    reply = Reply()
    if page is not None:
        reply.ext = GetAllSubscriptionGroupResponse(total_group_num=len(groups)).encode()
        body["subscriptionGroupTable"] = dict(page)
    reply.body = dumps(body)
    return reply


def get_group(broker: Broker, peer: Peer, request: Command) -> Reply:
    """GET_SUBSCRIPTIONGROUP_CONFIG (352). As in RocketMQ, asking makes the group where groups make themselves."""
    name = GetSubscriptionGroupConfigRequest.decode(request.ext).group
    group = broker.groups.find_or_create(name)
    if group is None:
        return Reply(ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST, f"No group in this broker. group: {name}")
    return Reply(body=dumps(group))


def update_and_get_forbidden(broker: Broker, peer: Peer, request: Command) -> Reply:
    """UPDATE_AND_GET_GROUP_FORBIDDEN (353): stop a group from reading a topic, or only ask whether it may."""
    header = UpdateGroupForbiddenRequest.decode(request.ext)
    if header.readable is not None:
        forbidden = not header.readable
        if broker.groups.forbidden(header.group, header.topic) != forbidden:
            broker.groups.set_forbidden(header.group, header.topic, FORBIDDEN_READ_BIT, forbidden)
    readable = not broker.groups.forbidden(header.group, header.topic)
    body = GroupForbidden(group=header.group, topic=header.topic, readable=readable)
    return Reply(remark="", body=dumps(body))


HANDLERS: Final[dict[int, Handler]] = {
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: update_and_create_group,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: update_and_create_group_list,
    RequestCode.DELETE_SUBSCRIPTIONGROUP: delete_group,
    RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG: get_all_groups,
    RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG: get_group,
    RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN: update_and_get_forbidden,
}
