"""Headers of the other administration of a broker (remoting 3.11.5, 3.13)."""

from __future__ import annotations

from fastmq.protocol.fields import Header, header, wire


@header
class GetBrokerConfigResponse(Header):
    """GetBrokerConfigResponseHeader (26): the data version as JSON text."""

    version: str


@header
class ViewBrokerStatsDataRequest(Header):
    """ViewBrokerStatsDataRequestHeader (315)."""

    stats_name: str
    stats_key: str


@header
class ResetMasterFlushOffsetRequest(Header):
    """ResetMasterFlushOffsetHeader (908)."""

    master_flush_offset: int


@header
class SetCommitLogReadModeRequest(Header):
    """SetCommitLogReadaheadModeRequestHeader (2004)."""

    mode: str = wire("READ_AHEAD_MODE")


@header
class CheckRocksdbCqWriteProgressRequest(Header):
    """CheckRocksdbCqWriteProgressRequestHeader (354)."""

    topic: str
    check_store_time: int | None = None


@header
class ExportRocksdbConfigToJsonRequest(Header):
    """ExportRocksDBConfigToJsonRequestHeader (355)."""

    config_type: str


@header
class UserRequest(Header):
    """Headers of user administration (3001 to 3004)."""

    username: str


@header
class ListUsersRequest(Header):
    """ListUsersRequestHeader (3005)."""

    filter: str | None = None


@header
class AclRequest(Header):
    """Headers of ACL administration (3006 to 3009)."""

    subject: str
    policy_type: str | None = None
    resource: str | None = None


@header
class ListAclsRequest(Header):
    """ListAclsRequestHeader (3010)."""

    subject_filter: str | None = None
    resource_filter: str | None = None
