"""The request table and the response codes.

`REQUESTS` names every request once: its code, who sends it to whom, the classes of its ext fields and of its answer's,
the class of work, and whether fastmq serves it. Dispatch, the tables in docs/protocol.md and the metrics come from it.
Request codes and response codes are different number spaces (3001 is both AUTH_CREATE_USER and USER_NOT_EXIST).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final, Literal

from fastmq.protocol import headers as h
from fastmq.protocol.fields import Header
from fastmq.protocol.languages import LANGUAGE_CODES, LANGUAGE_NAMES, LanguageCode

__all__ = [
    "LANGUAGE_CODES", "LANGUAGE_NAMES", "REQUESTS", "LanguageCode", "RequestCode", "RequestSpec", "ResponseCode",
    "Work", "request_name",
]  # fmt: skip


class RequestCode(IntEnum):
    """RocketMQ's request codes (RequestCode)."""

    SEND_MESSAGE = 10
    PULL_MESSAGE = 11
    QUERY_MESSAGE = 12
    QUERY_BROKER_OFFSET = 13
    QUERY_CONSUMER_OFFSET = 14
    UPDATE_CONSUMER_OFFSET = 15
    UPDATE_AND_CREATE_TOPIC = 17
    UPDATE_AND_CREATE_TOPIC_LIST = 18
    GET_ALL_TOPIC_CONFIG = 21
    GET_TOPIC_CONFIG_LIST = 22
    GET_TOPIC_NAME_LIST = 23
    UPDATE_BROKER_CONFIG = 25
    GET_BROKER_CONFIG = 26
    TRIGGER_DELETE_FILES = 27
    GET_BROKER_RUNTIME_INFO = 28
    SEARCH_OFFSET_BY_TIMESTAMP = 29
    GET_MAX_OFFSET = 30
    GET_MIN_OFFSET = 31
    GET_EARLIEST_MSG_STORETIME = 32
    VIEW_MESSAGE_BY_ID = 33
    HEART_BEAT = 34
    UNREGISTER_CLIENT = 35
    CONSUMER_SEND_MSG_BACK = 36
    END_TRANSACTION = 37
    GET_CONSUMER_LIST_BY_GROUP = 38
    CHECK_TRANSACTION_STATE = 39
    NOTIFY_CONSUMER_IDS_CHANGED = 40
    LOCK_BATCH_MQ = 41
    UNLOCK_BATCH_MQ = 42
    GET_ALL_CONSUMER_OFFSET = 43
    GET_ALL_DELAY_OFFSET = 45
    CHECK_CLIENT_CONFIG = 46
    GET_CLIENT_CONFIG = 47
    UPDATE_AND_CREATE_ACL_CONFIG = 50
    DELETE_ACL_CONFIG = 51
    GET_BROKER_CLUSTER_ACL_INFO = 52
    UPDATE_GLOBAL_WHITE_ADDRS_CONFIG = 53
    GET_BROKER_CLUSTER_ACL_CONFIG = 54
    GET_TIMER_CHECK_POINT = 60
    GET_TIMER_METRICS = 61
    PUT_KV_CONFIG = 100
    GET_KV_CONFIG = 101
    DELETE_KV_CONFIG = 102
    REGISTER_BROKER = 103
    UNREGISTER_BROKER = 104
    GET_ROUTEINFO_BY_TOPIC = 105
    GET_BROKER_CLUSTER_INFO = 106
    UPDATE_AND_CREATE_SUBSCRIPTIONGROUP = 200
    GET_ALL_SUBSCRIPTIONGROUP_CONFIG = 201
    GET_TOPIC_STATS_INFO = 202
    GET_CONSUMER_CONNECTION_LIST = 203
    GET_PRODUCER_CONNECTION_LIST = 204
    WIPE_WRITE_PERM_OF_BROKER = 205
    GET_ALL_TOPIC_LIST_FROM_NAMESERVER = 206
    DELETE_SUBSCRIPTIONGROUP = 207
    GET_CONSUME_STATS = 208
    SUSPEND_CONSUMER = 209
    RESUME_CONSUMER = 210
    RESET_CONSUMER_OFFSET_IN_CONSUMER = 211
    RESET_CONSUMER_OFFSET_IN_BROKER = 212
    ADJUST_CONSUMER_THREAD_POOL = 213
    WHO_CONSUME_THE_MESSAGE = 214
    DELETE_TOPIC_IN_BROKER = 215
    DELETE_TOPIC_IN_NAMESRV = 216
    REGISTER_TOPIC_IN_NAMESRV = 217
    GET_KVLIST_BY_NAMESPACE = 219
    RESET_CONSUMER_CLIENT_OFFSET = 220
    GET_CONSUMER_STATUS_FROM_CLIENT = 221
    INVOKE_BROKER_TO_RESET_OFFSET = 222
    INVOKE_BROKER_TO_GET_CONSUMER_STATUS = 223
    GET_TOPICS_BY_CLUSTER = 224
    UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST = 225
    QUERY_TOPIC_CONSUME_BY_WHO = 300
    REGISTER_FILTER_SERVER = 301
    REGISTER_MESSAGE_FILTER_CLASS = 302
    QUERY_CONSUME_TIME_SPAN = 303
    GET_SYSTEM_TOPIC_LIST_FROM_NS = 304
    GET_SYSTEM_TOPIC_LIST_FROM_BROKER = 305
    CLEAN_EXPIRED_CONSUMEQUEUE = 306
    GET_CONSUMER_RUNNING_INFO = 307
    QUERY_CORRECTION_OFFSET = 308
    CONSUME_MESSAGE_DIRECTLY = 309
    SEND_MESSAGE_V2 = 310
    GET_UNIT_TOPIC_LIST = 311
    GET_HAS_UNIT_SUB_TOPIC_LIST = 312
    GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST = 313
    CLONE_GROUP_OFFSET = 314
    VIEW_BROKER_STATS_DATA = 315
    CLEAN_UNUSED_TOPIC = 316
    GET_BROKER_CONSUME_STATS = 317
    UPDATE_NAMESRV_CONFIG = 318
    GET_NAMESRV_CONFIG = 319
    SEND_BATCH_MESSAGE = 320
    QUERY_CONSUME_QUEUE = 321
    QUERY_DATA_VERSION = 322
    RESUME_CHECK_HALF_MESSAGE = 323
    SEND_REPLY_MESSAGE = 324
    SEND_REPLY_MESSAGE_V2 = 325
    PUSH_REPLY_MESSAGE_TO_CLIENT = 326
    ADD_WRITE_PERM_OF_BROKER = 327
    GET_ALL_PRODUCER_INFO = 328
    DELETE_EXPIRED_COMMITLOG = 329
    QUERY_TOPICS_BY_CONSUMER = 343
    QUERY_SUBSCRIPTION_BY_CONSUMER = 345
    GET_TOPIC_CONFIG = 351
    GET_SUBSCRIPTIONGROUP_CONFIG = 352
    UPDATE_AND_GET_GROUP_FORBIDDEN = 353
    CHECK_ROCKSDB_CQ_WRITE_PROGRESS = 354
    EXPORT_ROCKSDB_CONFIG_TO_JSON = 355
    LITE_PULL_MESSAGE = 361
    RECALL_MESSAGE = 370
    QUERY_ASSIGNMENT = 400
    SET_MESSAGE_REQUEST_MODE = 401
    GET_ALL_MESSAGE_REQUEST_MODE = 402
    UPDATE_AND_CREATE_STATIC_TOPIC = 513
    GET_BROKER_MEMBER_GROUP = 901
    ADD_BROKER = 902
    REMOVE_BROKER = 903
    BROKER_HEARTBEAT = 904
    NOTIFY_MIN_BROKER_ID_CHANGE = 905
    EXCHANGE_BROKER_HA_INFO = 906
    GET_BROKER_HA_STATUS = 907
    RESET_MASTER_FLUSH_OFFSET = 908
    CONTROLLER_ALTER_SYNC_STATE_SET = 1001
    CONTROLLER_ELECT_MASTER = 1002
    CONTROLLER_REGISTER_BROKER = 1003
    CONTROLLER_GET_REPLICA_INFO = 1004
    CONTROLLER_GET_METADATA_INFO = 1005
    CONTROLLER_GET_SYNC_STATE_DATA = 1006
    GET_BROKER_EPOCH_CACHE = 1007
    NOTIFY_BROKER_ROLE_CHANGED = 1008
    UPDATE_CONTROLLER_CONFIG = 1009
    GET_CONTROLLER_CONFIG = 1010
    CLEAN_BROKER_DATA = 1011
    CONTROLLER_GET_NEXT_BROKER_ID = 1012
    CONTROLLER_APPLY_BROKER_ID = 1013
    UPDATE_COLD_DATA_FLOW_CTR_CONFIG = 2001
    REMOVE_COLD_DATA_FLOW_CTR_CONFIG = 2002
    GET_COLD_DATA_FLOW_CTR_INFO = 2003
    SET_COMMITLOG_READ_MODE = 2004
    AUTH_CREATE_USER = 3001
    AUTH_UPDATE_USER = 3002
    AUTH_DELETE_USER = 3003
    AUTH_GET_USER = 3004
    AUTH_LIST_USER = 3005
    AUTH_CREATE_ACL = 3006
    AUTH_UPDATE_ACL = 3007
    AUTH_DELETE_ACL = 3008
    AUTH_GET_ACL = 3009
    AUTH_LIST_ACL = 3010
    POP_MESSAGE = 200050
    ACK_MESSAGE = 200051
    PEEK_MESSAGE = 200052
    CHANGE_MESSAGE_INVISIBLETIME = 200053
    NOTIFICATION = 200054
    POLLING_INFO = 200055
    POP_ROLLBACK = 200056
    BATCH_ACK_MESSAGE = 200151


class ResponseCode(IntEnum):
    """RocketMQ's response codes (ResponseCode, RemotingSysResponseCode).

    209 to 211 have the names of 5.x; brokers of 4.x answer ACL administration with the same numbers.
    """

    RPC_TIME_OUT = -1006
    RPC_SEND_TO_CHANNEL_FAILED = -1004
    RPC_ADDR_IS_NULL = -1002
    RPC_UNKNOWN = -1000
    SUCCESS = 0
    SYSTEM_ERROR = 1
    SYSTEM_BUSY = 2
    REQUEST_CODE_NOT_SUPPORTED = 3
    TRANSACTION_FAILED = 4
    FLUSH_DISK_TIMEOUT = 10
    SLAVE_NOT_AVAILABLE = 11
    FLUSH_SLAVE_TIMEOUT = 12
    MESSAGE_ILLEGAL = 13
    SERVICE_NOT_AVAILABLE = 14
    VERSION_NOT_SUPPORTED = 15
    NO_PERMISSION = 16
    TOPIC_NOT_EXIST = 17
    TOPIC_EXIST_ALREADY = 18
    PULL_NOT_FOUND = 19
    PULL_RETRY_IMMEDIATELY = 20
    PULL_OFFSET_MOVED = 21
    QUERY_NOT_FOUND = 22
    SUBSCRIPTION_PARSE_FAILED = 23
    SUBSCRIPTION_NOT_EXIST = 24
    SUBSCRIPTION_NOT_LATEST = 25
    SUBSCRIPTION_GROUP_NOT_EXIST = 26
    FILTER_DATA_NOT_EXIST = 27
    FILTER_DATA_NOT_LATEST = 28
    INVALID_PARAMETER = 29
    TRANSACTION_SHOULD_COMMIT = 200
    TRANSACTION_SHOULD_ROLLBACK = 201
    TRANSACTION_STATE_UNKNOW = 202
    TRANSACTION_STATE_GROUP_WRONG = 203
    NO_BUYER_ID = 204
    NOT_IN_CURRENT_UNIT = 205
    CONSUMER_NOT_ONLINE = 206
    CONSUME_MSG_TIMEOUT = 207
    NO_MESSAGE = 208
    POLLING_FULL = 209
    POLLING_TIMEOUT = 210
    BROKER_NOT_EXIST = 211
    BROKER_DISPATCH_NOT_COMPLETE = 212
    BROADCAST_CONSUMPTION = 213
    FLOW_CONTROL = 215
    NOT_LEADER_FOR_QUEUE = 501
    ILLEGAL_OPERATION = 604
    GO_AWAY = 1500
    CONTROLLER_FENCED_MASTER_EPOCH = 2000
    CONTROLLER_FENCED_SYNC_STATE_SET_EPOCH = 2001
    CONTROLLER_INVALID_MASTER = 2002
    CONTROLLER_INVALID_REPLICAS = 2003
    CONTROLLER_MASTER_NOT_AVAILABLE = 2004
    CONTROLLER_INVALID_REQUEST = 2005
    CONTROLLER_BROKER_NOT_ALIVE = 2006
    CONTROLLER_NOT_LEADER = 2007
    CONTROLLER_BROKER_METADATA_NOT_EXIST = 2008
    CONTROLLER_INVALID_CLEAN_BROKER_METADATA = 2009
    CONTROLLER_BROKER_NEED_TO_BE_REGISTERED = 2010
    CONTROLLER_MASTER_STILL_EXIST = 2011
    CONTROLLER_ELECT_MASTER_FAILED = 2012
    CONTROLLER_ALTER_SYNC_STATE_SET_FAILED = 2013
    CONTROLLER_BROKER_ID_INVALID = 2014
    CONTROLLER_JRAFT_INTERNAL_ERROR = 2015
    CONTROLLER_BROKER_LIVE_INFO_NOT_EXISTS = 2016
    USER_NOT_EXIST = 3001
    POLICY_NOT_EXIST = 3002


Work = Literal["inline", "held", "waiting"]
"""How it is worked on: answered in the same turn; answered once a mark is passed (what was stored is durable, a queue
has grown); in a task of its own."""


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One row of the request table.

    `direction`: who sends to whom, C client, B broker, N name server, A administration, K controller, `–` for a number
    that RocketMQ only reserves. `header` and `reply_header` are None where there are no ext fields.
    `served` says whether the receiving side is in fastmq (for `B→C`: whether the broker sends it).
    """

    code: RequestCode
    direction: str
    header: type[Header] | None = None
    reply_header: type[Header] | None = None
    work: Work = "inline"
    served: bool = False

    @property
    def name(self) -> str:
        """RocketMQ's name of the request."""
        return self.code.name


def _served(
    code: RequestCode,
    direction: str,
    header: type[Header] | None = None,
    reply_header: type[Header] | None = None,
    work: Work = "inline",
) -> RequestSpec:
    return RequestSpec(code, direction, header, reply_header, work, served=True)


_R = RequestCode
_known = RequestSpec

_ROWS: Final = (
    _served(_R.SEND_MESSAGE, "C→B", h.SendMessageRequest, h.SendMessageResponse, "held"),
    _served(_R.PULL_MESSAGE, "C→B, B→B", h.PullMessageRequest, h.PullMessageResponse, "held"),
    _served(_R.QUERY_MESSAGE, "C→B, A→B", h.QueryMessageRequest, h.QueryMessageResponse, "waiting"),
    _known(_R.QUERY_BROKER_OFFSET, "–"),
    _served(_R.QUERY_CONSUMER_OFFSET, "C→B", h.QueryConsumerOffsetRequest, h.OffsetResponse),
    _served(_R.UPDATE_CONSUMER_OFFSET, "C→B, A→B", h.UpdateConsumerOffsetRequest),
    _served(_R.UPDATE_AND_CREATE_TOPIC, "A→B, C→B", h.CreateTopicRequest),
    _served(_R.UPDATE_AND_CREATE_TOPIC_LIST, "A→B"),
    _served(_R.GET_ALL_TOPIC_CONFIG, "A→B, B→B", h.GetAllTopicConfigRequest, h.GetAllTopicConfigResponse),
    _known(_R.GET_TOPIC_CONFIG_LIST, "–"),
    _known(_R.GET_TOPIC_NAME_LIST, "–"),
    _served(_R.UPDATE_BROKER_CONFIG, "A→B"),
    _served(_R.GET_BROKER_CONFIG, "A→B", None, h.GetBrokerConfigResponse),
    _known(_R.TRIGGER_DELETE_FILES, "–"),
    _served(_R.GET_BROKER_RUNTIME_INFO, "A→B", None, None, "waiting"),
    _served(_R.SEARCH_OFFSET_BY_TIMESTAMP, "C→B, A→B, B→B", h.SearchOffsetRequest, h.OffsetResponse),
    _served(_R.GET_MAX_OFFSET, "C→B, A→B, B→B", h.GetMaxOffsetRequest, h.OffsetResponse),
    _served(_R.GET_MIN_OFFSET, "C→B, A→B, B→B", h.GetMinOffsetRequest, h.OffsetResponse),
    _served(
        _R.GET_EARLIEST_MSG_STORETIME,
        "C→B, A→B",
        h.GetEarliestMsgStoretimeRequest,
        h.GetEarliestMsgStoretimeResponse,
    ),
    _served(_R.VIEW_MESSAGE_BY_ID, "C→B, A→B", h.ViewMessageRequest),
    _served(_R.HEART_BEAT, "C→B", None, h.HeartbeatResponse),
    _served(_R.UNREGISTER_CLIENT, "C→B", h.UnregisterClientRequest),
    _served(_R.CONSUMER_SEND_MSG_BACK, "C→B", h.ConsumerSendMsgBackRequest, None, "held"),
    _served(_R.END_TRANSACTION, "C→B", h.EndTransactionRequest),
    _served(_R.GET_CONSUMER_LIST_BY_GROUP, "C→B", h.GetConsumerListByGroupRequest),
    _served(_R.CHECK_TRANSACTION_STATE, "B→C", h.CheckTransactionStateRequest),
    _served(_R.NOTIFY_CONSUMER_IDS_CHANGED, "B→C", h.NotifyConsumerIdsChangedRequest),
    _served(_R.LOCK_BATCH_MQ, "C→B, B→B"),
    _served(_R.UNLOCK_BATCH_MQ, "C→B, B→B"),
    _served(_R.GET_ALL_CONSUMER_OFFSET, "B→B"),
    _served(_R.GET_ALL_DELAY_OFFSET, "B→B"),
    _served(_R.CHECK_CLIENT_CONFIG, "C→B"),
    _known(_R.GET_CLIENT_CONFIG, "–"),
    _known(_R.UPDATE_AND_CREATE_ACL_CONFIG, "A→B"),
    _known(_R.DELETE_ACL_CONFIG, "A→B"),
    _known(_R.GET_BROKER_CLUSTER_ACL_INFO, "A→B"),
    _known(_R.UPDATE_GLOBAL_WHITE_ADDRS_CONFIG, "A→B"),
    _known(_R.GET_BROKER_CLUSTER_ACL_CONFIG, "A→B"),
    _served(_R.GET_TIMER_CHECK_POINT, "B→B"),
    _served(_R.GET_TIMER_METRICS, "B→B"),
    _served(_R.PUT_KV_CONFIG, "A→N", h.PutKvConfigRequest),
    _served(_R.GET_KV_CONFIG, "A→N, C→N", h.KvConfigRequest, h.GetKvConfigResponse),
    _served(_R.DELETE_KV_CONFIG, "A→N", h.KvConfigRequest),
    _served(_R.REGISTER_BROKER, "B→N", h.RegisterBrokerRequest, h.RegisterBrokerResponse),
    _served(_R.UNREGISTER_BROKER, "B→N", h.UnregisterBrokerRequest),
    _served(_R.GET_ROUTEINFO_BY_TOPIC, "C→N, A→N, B→N", h.GetRouteInfoRequest),
    _served(_R.GET_BROKER_CLUSTER_INFO, "A→N, B→N"),
    _served(_R.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, "A→B"),
    _served(
        _R.GET_ALL_SUBSCRIPTIONGROUP_CONFIG,
        "A→B, B→B",
        h.GetAllSubscriptionGroupRequest,
        h.GetAllSubscriptionGroupResponse,
    ),
    _served(_R.GET_TOPIC_STATS_INFO, "A→B", h.GetTopicStatsInfoRequest),
    _served(_R.GET_CONSUMER_CONNECTION_LIST, "A→B", h.GetConsumerConnectionListRequest),
    _served(_R.GET_PRODUCER_CONNECTION_LIST, "A→B", h.GetProducerConnectionListRequest),
    _served(_R.WIPE_WRITE_PERM_OF_BROKER, "A→N", h.WipeWritePermRequest, h.WipeWritePermResponse),
    _served(_R.GET_ALL_TOPIC_LIST_FROM_NAMESERVER, "A→N, C→N"),
    _served(_R.DELETE_SUBSCRIPTIONGROUP, "A→B", h.DeleteSubscriptionGroupRequest),
    _served(_R.GET_CONSUME_STATS, "A→B", h.GetConsumeStatsRequest, None, "waiting"),
    _known(_R.SUSPEND_CONSUMER, "–"),
    _known(_R.RESUME_CONSUMER, "–"),
    _known(_R.RESET_CONSUMER_OFFSET_IN_CONSUMER, "–"),
    _known(_R.RESET_CONSUMER_OFFSET_IN_BROKER, "–"),
    _known(_R.ADJUST_CONSUMER_THREAD_POOL, "–"),
    _known(_R.WHO_CONSUME_THE_MESSAGE, "–"),
    _served(_R.DELETE_TOPIC_IN_BROKER, "A→B", h.DeleteTopicRequest, None, "waiting"),
    _served(_R.DELETE_TOPIC_IN_NAMESRV, "A→N", h.DeleteTopicFromNamesrvRequest),
    _served(_R.REGISTER_TOPIC_IN_NAMESRV, "B→N", h.RegisterTopicRequest),
    _served(_R.GET_KVLIST_BY_NAMESPACE, "A→N", h.GetKvListRequest),
    _served(_R.RESET_CONSUMER_CLIENT_OFFSET, "B→C", h.ResetOffsetRequest),
    _served(_R.GET_CONSUMER_STATUS_FROM_CLIENT, "B→C", h.GetConsumerStatusRequest),
    _served(_R.INVOKE_BROKER_TO_RESET_OFFSET, "A→B", h.ResetOffsetRequest),
    _served(_R.INVOKE_BROKER_TO_GET_CONSUMER_STATUS, "A→B", h.GetConsumerStatusRequest, None, "waiting"),
    _served(_R.GET_TOPICS_BY_CLUSTER, "A→N", h.GetTopicsByClusterRequest),
    _served(_R.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, "A→B"),
    _served(_R.QUERY_TOPIC_CONSUME_BY_WHO, "A→B", h.QueryTopicConsumeByWhoRequest),
    _known(_R.REGISTER_FILTER_SERVER, "–"),
    _known(_R.REGISTER_MESSAGE_FILTER_CLASS, "–"),
    _served(_R.QUERY_CONSUME_TIME_SPAN, "A→B", h.QueryConsumeTimeSpanRequest, None, "waiting"),
    _served(_R.GET_SYSTEM_TOPIC_LIST_FROM_NS, "A→N"),
    _served(_R.GET_SYSTEM_TOPIC_LIST_FROM_BROKER, "A→B"),
    _served(_R.CLEAN_EXPIRED_CONSUMEQUEUE, "A→B", None, None, "waiting"),
    _served(_R.GET_CONSUMER_RUNNING_INFO, "A→B, B→C", h.GetConsumerRunningInfoRequest, None, "waiting"),
    _served(_R.QUERY_CORRECTION_OFFSET, "A→B", h.QueryCorrectionOffsetRequest),
    _served(_R.CONSUME_MESSAGE_DIRECTLY, "A→B, B→C", h.ConsumeMessageDirectlyRequest, None, "waiting"),
    _served(_R.SEND_MESSAGE_V2, "C→B", h.SendMessageRequestV2, h.SendMessageResponse, "held"),
    _served(_R.GET_UNIT_TOPIC_LIST, "A→N"),
    _served(_R.GET_HAS_UNIT_SUB_TOPIC_LIST, "A→N"),
    _served(_R.GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST, "A→N"),
    _served(_R.CLONE_GROUP_OFFSET, "A→B", h.CloneGroupOffsetRequest),
    _served(_R.VIEW_BROKER_STATS_DATA, "A→B", h.ViewBrokerStatsDataRequest),
    _served(_R.CLEAN_UNUSED_TOPIC, "A→B", None, None, "waiting"),
    _served(_R.GET_BROKER_CONSUME_STATS, "A→B", h.GetBrokerConsumeStatsRequest, None, "waiting"),
    _served(_R.UPDATE_NAMESRV_CONFIG, "A→N"),
    _served(_R.GET_NAMESRV_CONFIG, "A→N"),
    _served(_R.SEND_BATCH_MESSAGE, "C→B", h.SendMessageRequestV2, h.SendMessageResponse, "held"),
    _served(_R.QUERY_CONSUME_QUEUE, "A→B", h.QueryConsumeQueueRequest),
    _served(_R.QUERY_DATA_VERSION, "B→N", h.QueryDataVersionRequest, h.QueryDataVersionResponse),
    _served(_R.RESUME_CHECK_HALF_MESSAGE, "A→B", h.ResumeCheckHalfMessageRequest),
    _served(_R.SEND_REPLY_MESSAGE, "C→B", h.SendMessageRequest, h.SendMessageResponse, "waiting"),
    _served(_R.SEND_REPLY_MESSAGE_V2, "C→B", h.SendMessageRequestV2, h.SendMessageResponse, "waiting"),
    _served(_R.PUSH_REPLY_MESSAGE_TO_CLIENT, "B→C", h.ReplyMessageRequest),
    _served(_R.ADD_WRITE_PERM_OF_BROKER, "A→N", h.WipeWritePermRequest, h.AddWritePermResponse),
    _served(_R.GET_ALL_PRODUCER_INFO, "A→B"),
    _served(_R.DELETE_EXPIRED_COMMITLOG, "A→B", None, None, "waiting"),
    _served(_R.QUERY_TOPICS_BY_CONSUMER, "A→B", h.QueryTopicsByConsumerRequest),
    _served(_R.QUERY_SUBSCRIPTION_BY_CONSUMER, "A→B", h.QuerySubscriptionByConsumerRequest),
    _served(_R.GET_TOPIC_CONFIG, "A→B", h.GetTopicConfigRequest),
    _served(_R.GET_SUBSCRIPTIONGROUP_CONFIG, "A→B", h.GetSubscriptionGroupConfigRequest),
    _served(_R.UPDATE_AND_GET_GROUP_FORBIDDEN, "A→B", h.UpdateGroupForbiddenRequest),
    _known(_R.CHECK_ROCKSDB_CQ_WRITE_PROGRESS, "A→B", h.CheckRocksdbCqWriteProgressRequest),
    _known(_R.EXPORT_ROCKSDB_CONFIG_TO_JSON, "A→B", h.ExportRocksdbConfigToJsonRequest),
    _served(_R.LITE_PULL_MESSAGE, "C→B", h.PullMessageRequest, h.PullMessageResponse, "held"),
    _served(_R.RECALL_MESSAGE, "C→B", h.RecallMessageRequest, h.RecallMessageResponse),
    _served(_R.QUERY_ASSIGNMENT, "C→B"),
    _served(_R.SET_MESSAGE_REQUEST_MODE, "A→B"),
    _served(_R.GET_ALL_MESSAGE_REQUEST_MODE, "B→B"),
    _known(_R.UPDATE_AND_CREATE_STATIC_TOPIC, "A→B", h.CreateTopicRequest),
    _served(_R.GET_BROKER_MEMBER_GROUP, "B→N, B→B", h.GetBrokerMemberGroupRequest),
    _known(_R.ADD_BROKER, "A→B"),
    _known(_R.REMOVE_BROKER, "A→B"),
    _served(_R.BROKER_HEARTBEAT, "B→N, B→K", h.BrokerHeartbeatRequest),
    _known(_R.NOTIFY_MIN_BROKER_ID_CHANGE, "N→B", h.NotifyMinBrokerIdChangeRequest),
    _known(_R.EXCHANGE_BROKER_HA_INFO, "B→B"),
    _served(_R.GET_BROKER_HA_STATUS, "A→B"),
    _served(_R.RESET_MASTER_FLUSH_OFFSET, "A→B", h.ResetMasterFlushOffsetRequest),
    _known(_R.CONTROLLER_ALTER_SYNC_STATE_SET, "B→K"),
    _known(_R.CONTROLLER_ELECT_MASTER, "B→K, A→K"),
    _known(_R.CONTROLLER_REGISTER_BROKER, "B→K"),
    _known(_R.CONTROLLER_GET_REPLICA_INFO, "B→K"),
    _known(_R.CONTROLLER_GET_METADATA_INFO, "B→K, A→K"),
    _known(_R.CONTROLLER_GET_SYNC_STATE_DATA, "A→K"),
    _known(_R.GET_BROKER_EPOCH_CACHE, "A→B"),
    _known(_R.NOTIFY_BROKER_ROLE_CHANGED, "K→B"),
    _known(_R.UPDATE_CONTROLLER_CONFIG, "A→K"),
    _known(_R.GET_CONTROLLER_CONFIG, "A→K"),
    _known(_R.CLEAN_BROKER_DATA, "A→K"),
    _known(_R.CONTROLLER_GET_NEXT_BROKER_ID, "B→K"),
    _known(_R.CONTROLLER_APPLY_BROKER_ID, "B→K"),
    _known(_R.UPDATE_COLD_DATA_FLOW_CTR_CONFIG, "A→B"),
    _known(_R.REMOVE_COLD_DATA_FLOW_CTR_CONFIG, "A→B"),
    _known(_R.GET_COLD_DATA_FLOW_CTR_INFO, "A→B"),
    _known(_R.SET_COMMITLOG_READ_MODE, "A→B", h.SetCommitLogReadModeRequest),
    _known(_R.AUTH_CREATE_USER, "A→B", h.UserRequest),
    _known(_R.AUTH_UPDATE_USER, "A→B", h.UserRequest),
    _known(_R.AUTH_DELETE_USER, "A→B", h.UserRequest),
    _known(_R.AUTH_GET_USER, "A→B", h.UserRequest),
    _known(_R.AUTH_LIST_USER, "A→B", h.ListUsersRequest),
    _known(_R.AUTH_CREATE_ACL, "A→B", h.AclRequest),
    _known(_R.AUTH_UPDATE_ACL, "A→B", h.AclRequest),
    _known(_R.AUTH_DELETE_ACL, "A→B", h.AclRequest),
    _known(_R.AUTH_GET_ACL, "A→B", h.AclRequest),
    _known(_R.AUTH_LIST_ACL, "A→B", h.ListAclsRequest),
    _served(_R.POP_MESSAGE, "C→B", h.PopMessageRequest, h.PopMessageResponse, "held"),
    _served(_R.ACK_MESSAGE, "C→B", h.AckMessageRequest),
    _served(_R.PEEK_MESSAGE, "C→B", h.PeekMessageRequest, h.PopMessageResponse),
    _served(_R.CHANGE_MESSAGE_INVISIBLETIME, "C→B", h.ChangeInvisibleTimeRequest, h.ChangeInvisibleTimeResponse),
    _served(_R.NOTIFICATION, "C→B", h.NotificationRequest, h.NotificationResponse, "held"),
    _served(_R.POLLING_INFO, "C→B", h.PollingInfoRequest, h.PollingInfoResponse),
    _served(_R.POP_ROLLBACK, "A→B"),
    _served(_R.BATCH_ACK_MESSAGE, "C→B"),
)

REQUESTS: Final[Mapping[int, RequestSpec]] = MappingProxyType({int(row.code): row for row in _ROWS})
"""Every request by its code."""


def request_name(code: int) -> str:
    """RocketMQ's name of a request code, or the number of an unknown one."""
    row = REQUESTS.get(code)
    return row.name if row is not None else str(code)
