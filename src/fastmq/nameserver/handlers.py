"""The requests of a name server, one function each (RocketMQ's DefaultRequestProcessor and ClientRequestProcessor).

Functions answer at once. What they change besides the tables goes through the name server they are given: the KV file,
the configuration, notices to brokers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeVar

from fastmq import limits
from fastmq.errors import RequestError, UsageError
from fastmq.nameserver.kv import ORDER_TOPIC_CONFIG
from fastmq.nameserver.routes import Member, Registration, only_zone
from fastmq.net.server import Reply
from fastmq.properties import parse_properties
from fastmq.protocol import headers
from fastmq.protocol.bodies import (
    STRICT_JSON_VERSION,
    TOPIC_UNIT_FLAG,
    TOPIC_UNIT_SUB_FLAG,
    BrokerMemberGroup,
    ClusterInfo,
    DataVersion,
    JsonError,
    KVTable,
    RegisterBrokerBody,
    TopicList,
    TopicRouteData,
    dumps,
)
from fastmq.protocol.codes import RequestCode, ResponseCode

if TYPE_CHECKING:
    from fastmq.nameserver.app import NameServer
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

T = TypeVar("T")
Handler = Callable[["NameServer", "Peer", "Command"], Reply]

# Requests that change what everybody sees, and which brokers and clients never send: refused from other machines while
# adminFromLoopbackOnly is on. Registering, unregistering and all queries stay open to the network.
DANGEROUS: Final = frozenset(
    {
        RequestCode.PUT_KV_CONFIG,
        RequestCode.DELETE_KV_CONFIG,
        RequestCode.WIPE_WRITE_PERM_OF_BROKER,
        RequestCode.ADD_WRITE_PERM_OF_BROKER,
        RequestCode.DELETE_TOPIC_IN_NAMESRV,
        RequestCode.UPDATE_NAMESRV_CONFIG,
    }
)


FAQ: Final = "See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
"""The pointer that RocketMQ puts behind some remarks; clients add one of their own where it is missing."""


# --- routes ----------------------------------------------------------------------------------------------------------


def get_route(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_ROUTEINFO_BY_TOPIC (105)."""
    header = headers.GetRouteInfoRequest.decode(request.ext)
    config = server.config
    if config.need_wait_for_service and server.uptime_seconds < config.wait_seconds_for_service:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "name server not ready")
    route = server.routes.route(header.topic, acting_master=config.support_acting_master)
    if route is None:
        raise RequestError(
            ResponseCode.TOPIC_NOT_EXIST, f"No topic route info in name server for the topic: {header.topic}\n{FAQ}"
        )
    zone = request.ext.get("__ZONE_NAME", "").strip()
    if zone and request.ext.get("__ZONE_MODE", "").lower() == "true":
        route = only_zone(route, zone)
    if config.order_message_enable:
        route = replace(route, order_topic_conf=server.kv.get(ORDER_TOPIC_CONFIG, header.topic))
    return Reply(body=route.encode(_is_strict(request) or bool(header.accept_standard_json_only)))


def get_cluster_info(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_CLUSTER_INFO (106)."""
    info = ClusterInfo(broker_addr_table=server.routes.brokers(), cluster_addr_table=server.routes.clusters())
    return Reply(body=info.encode(_is_strict(request)))


def get_member_group(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_BROKER_MEMBER_GROUP (901)."""
    header = headers.GetBrokerMemberGroupRequest.decode(request.ext)
    group = BrokerMemberGroup(
        cluster=header.cluster_name,
        broker_name=header.broker_name,
        broker_addrs=server.routes.member_addresses(header.broker_name),
    )
    return Reply(body=dumps(group))


def _is_strict(request: Command) -> bool:
    """Whether the sender reads legal JSON; older ones need bare broker ids and no literals."""
    return request.version >= STRICT_JSON_VERSION


def _read(what: str, read: Callable[[], T]) -> T:
    """Run a body's decoder; what it cannot read is refused."""
    try:
        return read()
    except JsonError as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, f"{what} cannot be read: {error}") from error


# --- brokers ---------------------------------------------------------------------------------------------------------


def register_broker(server: NameServer, peer: Peer, request: Command) -> Reply:
    """REGISTER_BROKER (103)."""
    header = headers.RegisterBrokerRequest.decode(request.ext)
    if header.body_crc32 and header.body_crc32 != zlib.crc32(request.body) & 0x7FFFFFFF:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "crc32 not match")
    body = _read("the registration", lambda: RegisterBrokerBody.decode(request.body, version=request.version))
    result = server.routes.register(
        Registration(
            cluster=header.cluster_name,
            name=header.broker_name,
            broker_id=header.broker_id,
            address=header.broker_addr,
            ha_address=header.ha_server_addr,
            connection=peer.id,
            version=body.topics.data_version,
            topics=body.topics.topic_config_table,
            timeout_ms=header.heartbeat_timeout_millis,
            acting_master=header.enable_acting_master,
            zone=header.zone_name,
            filter_servers=list(body.filter_server_list),
            mappings=body.topics.topic_queue_mapping_info_map,
        ),
        server.now_ms(),
        delete_unnamed=server.config.delete_topic_with_broker_registration,
    )
    if not result.accepted:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "register broker failed")
    server.announce(result.changes)
    answer = headers.RegisterBrokerResponse(ha_server_addr=result.master_ha_address, master_addr=result.master_address)
    orders = server.kv.namespace(ORDER_TOPIC_CONFIG) if server.config.return_order_topic_config_to_broker else None
    return Reply(ext=answer.encode(), body=b"" if orders is None else dumps(KVTable(orders)))


def unregister_broker(server: NameServer, peer: Peer, request: Command) -> Reply:
    """UNREGISTER_BROKER (104)."""
    header = headers.UnregisterBrokerRequest.decode(request.ext)
    server.unregister([Member(header.cluster_name, header.broker_addr, header.broker_name, header.broker_id)])
    return Reply()


def query_data_version(server: NameServer, peer: Peer, request: Command) -> Reply:
    """QUERY_DATA_VERSION (322): has the broker's topic table changed since it registered? Also a sign of life."""
    header = headers.QueryDataVersionRequest.decode(request.ext)
    theirs = _read("the data version", lambda: DataVersion.from_json(request.body or "{}"))
    known = server.routes.version_of(header.cluster_name, header.broker_addr, header.broker_name)
    server.routes.touch(header.cluster_name, header.broker_addr, header.broker_name, server.now_ms())
    answer = headers.QueryDataVersionResponse(changed=known is None or known != theirs)
    return Reply(ext=answer.encode(), body=b"" if known is None else dumps(known))


def broker_heartbeat(server: NameServer, peer: Peer, request: Command) -> Reply:
    """BROKER_HEARTBEAT (904)."""
    header = headers.BrokerHeartbeatRequest.decode(request.ext)
    server.routes.touch(header.cluster_name, header.broker_addr, header.broker_name, server.now_ms())
    return Reply()


def wipe_write_permission(server: NameServer, peer: Peer, request: Command) -> Reply:
    """WIPE_WRITE_PERM_OF_BROKER (205)."""
    header = headers.WipeWritePermRequest.decode(request.ext)
    count = server.routes.wipe_write_permission(header.broker_name)
    return Reply(ext=headers.WipeWritePermResponse(wipe_topic_count=count).encode())


def add_write_permission(server: NameServer, peer: Peer, request: Command) -> Reply:
    """ADD_WRITE_PERM_OF_BROKER (327)."""
    header = headers.WipeWritePermRequest.decode(request.ext)
    count = server.routes.add_write_permission(header.broker_name)
    return Reply(ext=headers.AddWritePermResponse(add_topic_count=count).encode())


# --- topics ----------------------------------------------------------------------------------------------------------


def register_topic(server: NameServer, peer: Peer, request: Command) -> Reply:
    """REGISTER_TOPIC_IN_NAMESRV (217)."""
    header = headers.RegisterTopicRequest.decode(request.ext)
    route = _read("the route", lambda: TopicRouteData.from_json(request.body or "{}"))
    server.routes.put_topic(header.topic, route.queue_datas)
    return Reply()


def delete_topic(server: NameServer, peer: Peer, request: Command) -> Reply:
    """DELETE_TOPIC_IN_NAMESRV (216)."""
    header = headers.DeleteTopicFromNamesrvRequest.decode(request.ext)
    server.routes.delete_topic(header.topic, header.cluster_name or None)
    return Reply()


def get_all_topics(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_ALL_TOPIC_LIST_FROM_NAMESERVER (206)."""
    if not server.config.enable_all_topic_list:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "disable")
    return Reply(body=dumps(TopicList(tuple(server.routes.topics()))))


def get_topics_by_cluster(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_TOPICS_BY_CLUSTER (224)."""
    _need_topic_lists(server)
    header = headers.GetTopicsByClusterRequest.decode(request.ext)
    return Reply(body=dumps(TopicList(tuple(server.routes.topics_of_cluster(header.cluster)))))


def get_system_topics(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_SYSTEM_TOPIC_LIST_FROM_NS (304)."""
    _need_topic_lists(server)
    topics, address = server.routes.system_topics()
    return Reply(body=dumps(TopicList(tuple(topics), address)))


def get_unit_topics(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_UNIT_TOPIC_LIST (311)."""
    return _topics_by_flags(server, needed=TOPIC_UNIT_FLAG)


def get_unit_subscription_topics(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_HAS_UNIT_SUB_TOPIC_LIST (312)."""
    return _topics_by_flags(server, needed=TOPIC_UNIT_SUB_FLAG)


def get_unit_subscription_only_topics(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST (313)."""
    return _topics_by_flags(server, needed=TOPIC_UNIT_SUB_FLAG, absent=TOPIC_UNIT_FLAG)


def _topics_by_flags(server: NameServer, *, needed: int, absent: int = 0) -> Reply:
    _need_topic_lists(server)
    return Reply(body=dumps(TopicList(tuple(server.routes.topics_by_flags(needed=needed, absent=absent)))))


def _need_topic_lists(server: NameServer) -> None:
    if not server.config.enable_topic_list:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "disable")


# --- the KV table ----------------------------------------------------------------------------------------------------


def put_kv(server: NameServer, peer: Peer, request: Command) -> Reply:
    """PUT_KV_CONFIG (100)."""
    header = headers.PutKvConfigRequest.decode(request.ext)
    server.kv.put(header.namespace, header.key, header.value)
    return Reply()


def get_kv(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_KV_CONFIG (101)."""
    header = headers.KvConfigRequest.decode(request.ext)
    value = server.kv.get(header.namespace, header.key)
    if value is None:
        raise RequestError(
            ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {header.namespace} Key: {header.key}"
        )
    return Reply(ext=headers.GetKvConfigResponse(value=value).encode())


def delete_kv(server: NameServer, peer: Peer, request: Command) -> Reply:
    """DELETE_KV_CONFIG (102)."""
    header = headers.KvConfigRequest.decode(request.ext)
    server.kv.delete(header.namespace, header.key)
    return Reply()


def get_kv_namespace(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_KVLIST_BY_NAMESPACE (219)."""
    header = headers.GetKvListRequest.decode(request.ext)
    entries = server.kv.namespace(header.namespace)
    if entries is None:
        raise RequestError(ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {header.namespace}")
    return Reply(body=dumps(KVTable(entries)))


# --- configuration ---------------------------------------------------------------------------------------------------


def update_config(server: NameServer, peer: Peer, request: Command) -> Reply:
    """UPDATE_NAMESRV_CONFIG (318)."""
    if len(request.body) > limits.MAX_CONFIG_TEXT_BYTES:
        raise RequestError(ResponseCode.SYSTEM_ERROR, "the properties text is too long")
    try:
        updates = parse_properties(request.body.decode())
        refused = server.config.refused_updates(updates)
        if refused:
            raise RequestError(ResponseCode.NO_PERMISSION, f"Can not update config in black list: {', '.join(refused)}")
        server.update_config(updates)
    except (UsageError, UnicodeDecodeError) as error:
        raise RequestError(ResponseCode.SYSTEM_ERROR, str(error)) from error
    return Reply()


def get_config(server: NameServer, peer: Peer, request: Command) -> Reply:
    """GET_NAMESRV_CONFIG (319)."""
    return Reply(body=server.config.to_properties().encode())


HANDLERS: Final[Mapping[int, Handler]] = MappingProxyType(
    {
        RequestCode.PUT_KV_CONFIG: put_kv,
        RequestCode.GET_KV_CONFIG: get_kv,
        RequestCode.DELETE_KV_CONFIG: delete_kv,
        RequestCode.REGISTER_BROKER: register_broker,
        RequestCode.UNREGISTER_BROKER: unregister_broker,
        RequestCode.GET_ROUTEINFO_BY_TOPIC: get_route,
        RequestCode.GET_BROKER_CLUSTER_INFO: get_cluster_info,
        RequestCode.WIPE_WRITE_PERM_OF_BROKER: wipe_write_permission,
        RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: get_all_topics,
        RequestCode.DELETE_TOPIC_IN_NAMESRV: delete_topic,
        RequestCode.REGISTER_TOPIC_IN_NAMESRV: register_topic,
        RequestCode.GET_KVLIST_BY_NAMESPACE: get_kv_namespace,
        RequestCode.GET_TOPICS_BY_CLUSTER: get_topics_by_cluster,
        RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS: get_system_topics,
        RequestCode.GET_UNIT_TOPIC_LIST: get_unit_topics,
        RequestCode.GET_HAS_UNIT_SUB_TOPIC_LIST: get_unit_subscription_topics,
        RequestCode.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST: get_unit_subscription_only_topics,
        RequestCode.UPDATE_NAMESRV_CONFIG: update_config,
        RequestCode.GET_NAMESRV_CONFIG: get_config,
        RequestCode.QUERY_DATA_VERSION: query_data_version,
        RequestCode.ADD_WRITE_PERM_OF_BROKER: add_write_permission,
        RequestCode.GET_BROKER_MEMBER_GROUP: get_member_group,
        RequestCode.BROKER_HEARTBEAT: broker_heartbeat,
    }
)
