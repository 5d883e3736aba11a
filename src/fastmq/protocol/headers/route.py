"""Headers of the name server (remoting 3.12)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, Int32, header, wire


@header
class GetRouteInfoRequest(Header):
    """GetRouteInfoRequestHeader (105)."""

    topic: str
    accept_standard_json_only: bool | None = None


@header
class RegisterBrokerRequest(Header):
    """RegisterBrokerRequestHeader (103). Addresses are `ip:port`."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    ha_server_addr: str
    broker_id: int
    heartbeat_timeout_millis: int | None = None
    enable_acting_master: bool | None = None
    compressed: bool = False
    body_crc32: Int32 = 0
    zone_name: str | None = wire("__ZONE_NAME", default=None)


@header
class RegisterBrokerResponse(Header):
    """RegisterBrokerResponseHeader; filled only for a slave."""

    ha_server_addr: str | None = None
    master_addr: str | None = None


@header
class UnregisterBrokerRequest(Header):
    """UnRegisterBrokerRequestHeader (104)."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: int


@header
class QueryDataVersionRequest(Header):
    """QueryDataVersionRequestHeader (322)."""

    broker_name: str
    broker_addr: str
    cluster_name: str
    broker_id: int


@header
class QueryDataVersionResponse(Header):
    """QueryDataVersionResponseHeader."""

    changed: bool


@header
class BrokerHeartbeatRequest(Header):
    """BrokerHeartbeatRequestHeader (904). `heartbeat_timeout_mills` is spelled so on the wire."""

    cluster_name: str
    broker_addr: str
    broker_name: str
    broker_id: int | None = None
    epoch: Int32 | None = None
    max_offset: int | None = None
    confirm_offset: int | None = None
    heartbeat_timeout_mills: int | None = None
    election_priority: Int32 | None = None


@header
class RegisterTopicRequest(Header):
    """RegisterTopicRequestHeader (217)."""

    topic: str


@header
class GetBrokerMemberGroupRequest(Header):
    """GetBrokerMemberGroupRequestHeader (901)."""

    cluster_name: str
    broker_name: str


@header
class NotifyMinBrokerIdChangeRequest(Header):
    """NotifyMinBrokerIdChangeRequestHeader (905), name server to broker."""

    min_broker_id: int | None = None
    broker_name: str | None = None
    min_broker_addr: str | None = None
    offline_broker_addr: str | None = None
    ha_broker_addr: str | None = None


@header
class PutKvConfigRequest(Header):
    """PutKVConfigRequestHeader (100)."""

    namespace: str
    key: str
    value: str


@header
class KvConfigRequest(Header):
    """GetKVConfigRequestHeader and DeleteKVConfigRequestHeader (101, 102)."""

    namespace: str
    key: str


@header
class GetKvConfigResponse(Header):
    """GetKVConfigResponseHeader (101)."""

    value: str | None = None


@header
class GetKvListRequest(Header):
    """GetKVListByNamespaceRequestHeader (219)."""

    namespace: str


@header
class GetTopicsByClusterRequest(Header):
    """GetTopicsByClusterRequestHeader (224)."""

    cluster: str


@header
class DeleteTopicFromNamesrvRequest(Header):
    """DeleteTopicFromNamesrvRequestHeader (216)."""

    topic: str
    cluster_name: str | None = None


@header
class WipeWritePermRequest(Header):
    """WipeWritePermOfBrokerRequestHeader and AddWritePermOfBrokerRequestHeader (205, 327)."""

    broker_name: str


@header
class WipeWritePermResponse(Header):
    """WipeWritePermOfBrokerResponseHeader (205)."""

    wipe_topic_count: Int32


@header
class AddWritePermResponse(Header):
    """AddWritePermOfBrokerResponseHeader (327)."""

    add_topic_count: Int32
