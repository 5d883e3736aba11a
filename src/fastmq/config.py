"""File, environment and flags become one frozen, checked value: BrokerConfig or NamesrvConfig.

A setting has RocketMQ's property name on the outside (`listenPort`) and that name in snake case inside (`listen_port`).
BrokerConfig joins the properties of RocketMQ's BrokerConfig, NettyServerConfig and MessageStoreConfig, as broker.conf
does. Settings made with `kept` change nothing in fastmq: they are read, checked, shown by getBrokerConfig and noted.

Later sources win: defaults, properties file, environment (`FASTMQ_LISTEN_PORT`, for the name server
`FASTMQ_NAMESRV_LISTEN_PORT`), command line.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple, Self

from fastmq import limits
from fastmq.errors import UsageError
from fastmq.properties import escape_value, parse_properties, read_properties

_LONG = 1 << 63
_PORT = (0, 65_535)
_SIZE = (1, limits.MAX_SEGMENT_BYTES)
_INT = (0, (1 << 31) - 1)
_COUNT = (1, (1 << 31) - 1)
_PERIOD = (1, _LONG - 1)  # milliseconds
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:;\[\]/]+):(\d{1,5})")
_DELAY_LEVEL = re.compile(r"(\d+)([smhd])")
_DELAY_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# variables of the build, not settings
_OTHER_VARIABLES = frozenset({"FASTMQ_DEBUG", "FASTMQ_SANITIZE"})
# refused by the update commands whatever configBlackList says
_NEVER_UPDATED = frozenset({"brokerConfigPath", "configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome"})

__all__ = [
    "BrokerConfig",
    "ConfigUpdate",
    "Host",
    "NamesrvConfig",
    "Setting",
    "environment_name",
    "first_local_address",
    "load_broker_config",
    "load_namesrv_config",
    "parse_addresses",
    "parse_delay_levels",
    "parse_properties",
    "settings",
]

MASTER_ROLES = ("ASYNC_MASTER", "SYNC_MASTER")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one property. `acts` is False where fastmq only keeps the value."""

    name: str
    text: str = ""
    acts: bool = True
    own: bool = False  # not a property of RocketMQ
    low: int = -_LONG
    high: int = _LONG - 1
    clamp: bool = False  # RocketMQ pulls values into the range instead of refusing them
    choices: tuple[str, ...] = ()
    list_of_addresses: bool = False


def _setting(name: str, default: Any, text: str, between: tuple[int, int] | None = None, **facts: Any) -> Any:
    low, high = between or (-_LONG, _LONG - 1)
    return field(default=default, metadata={"setting": Setting(name, text, low=low, high=high, **facts)})


def _kept(name: str, default: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(name, acts=False)})


class ConfigUpdate(NamedTuple):
    """Answer of `with_updates`: the new value, the property names that were set, those nobody knows."""

    config: Any
    applied: list[str]
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class Host:
    """What defaults need to know about the machine. `local_address` is asked only if an address must be found."""

    home: str
    name: str
    local_address: Callable[[], str]

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Self:
        return cls(env.get("HOME") or os.getcwd(), socket.gethostname(), first_local_address)


def first_local_address() -> str:
    """The IPv4 address that packets to other machines would leave from; 127.0.0.1 if there is none. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address; connecting a datagram socket only picks a route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Config:
    """What both configurations can do."""

    given: frozenset[str] = frozenset()  # names of the properties that some source has set
    config_black_list: str = ""

    def to_properties(self, *, only_given: bool = False) -> str:
        """All settings as `name=value` lines in alphabetical order, as getBrokerConfig answers.

        With only_given just those that some source has set, escaped so that `parse_properties` reads them back:
        the text for a rewritten file.
        """
        values = {s.name: format_value(getattr(self, attribute)) for attribute, s in settings(type(self)).items()}
        if not only_given:
            return "".join(f"{name}={values[name]}\n" for name in sorted(values))
        return "".join(f"{name}={escape_value(values[name])}\n" for name in sorted(values) if name in self.given)

    def black_list(self) -> frozenset[str]:
        """Property names that update commands must refuse as a whole with NO_PERMISSION."""
        return _NEVER_UPDATED | {name.strip() for name in self.config_black_list.split(";") if name.strip()}

    def refused_updates(self, updates: Iterable[str]) -> list[str]:
        """Those of the property names that are on the black list, sorted."""
        return sorted(self.black_list().intersection(updates))

    def with_updates(self, updates: Mapping[str, str]) -> ConfigUpdate:
        """A new configuration with property names set to texts; unknown names are left out and reported.

        Raises UsageError if a value is wrong: then nothing is applied. The black list is the caller's to ask first.
        """
        known = {s.name: (attribute, s) for attribute, s in settings(type(self)).items()}
        applied = [name for name in updates if name in known]
        values = {
            known[name][0]: _parse(known[name][1], type(getattr(self, known[name][0])), updates[name], "update")
            for name in applied
        }
        changed = replace(self, **values, given=self.given.union(applied))
        changed.check()
        return ConfigUpdate(changed, applied, [name for name in updates if name not in known])

    def check(self) -> None:
        """Raise UsageError for settings that contradict each other or that fastmq cannot honour."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BrokerConfig(_Config):
    """Everything a broker can be told. Sizes are bytes, times are milliseconds unless the name says otherwise."""

    # --- org.apache.rocketmq.common.BrokerConfig ---------------------------------------------------------------
    broker_cluster_name: str = _setting("brokerClusterName", "DefaultCluster", "name of the cluster")
    broker_name: str = _setting("brokerName", "DEFAULT_BROKER", "name of the broker; unset: the name of the machine")
    broker_id: int = _setting("brokerId", 0, "0 for a master", (0, _LONG - 1))
    broker_ip1: str = _setting("brokerIP1", "127.0.0.1", "address told to clients; unset: what bindAddress suggests")
    broker_ip2: str = _setting("brokerIP2", "127.0.0.1", "address told to replicas; unset: as brokerIP1")
    listen_port: int = _setting("listenPort", 10911, "port for clients; 0 picks a free one", _PORT)
    namesrv_addr: str = _setting(
        "namesrvAddr", "", "name servers, `host:port;host:port`; unset: NAMESRV_ADDR", list_of_addresses=True
    )
    broker_permission: int = _setting("brokerPermission", 6, "4 read, 2 write, 6 both", (0, 7))
    default_topic_queue_nums: int = _setting("defaultTopicQueueNums", 8, "queues of an auto-created topic", (1, 65_536))
    auto_create_topic_enable: bool = _setting("autoCreateTopicEnable", True, "a send may create its topic")
    auto_create_subscription_group: bool = _setting(
        "autoCreateSubscriptionGroup", True, "a consumer may create its group"
    )
    cluster_topic_enable: bool = _setting("clusterTopicEnable", True, "have a topic named as the cluster")
    broker_topic_enable: bool = _setting("brokerTopicEnable", True, "have a topic named as the broker")
    trace_topic_enable: bool = _setting("traceTopicEnable", False, "have the message trace topic")
    msg_trace_topic_name: str = _setting("msgTraceTopicName", "RMQ_SYS_TRACE_TOPIC", "name of the message trace topic")
    trace_on: bool = _setting("traceOn", True, "what send replies tell clients about tracing")
    region_id: str = _setting("regionId", "DefaultRegion", "region told to clients in send replies")
    flush_consumer_offset_interval: int = _setting(
        "flushConsumerOffsetInterval", 5000, "how often consumer offsets go to disk", _PERIOD
    )
    long_polling_enable: bool = _setting("longPollingEnable", True, "hold pulls that find nothing")
    short_polling_time_mills: int = _setting(
        "shortPollingTimeMills", 1000, "how long they are held with longPollingEnable=false", _PERIOD
    )
    notify_consumer_ids_changed_enable: bool = _setting(
        "notifyConsumerIdsChangedEnable", True, "tell consumers when a group's members change"
    )
    real_time_notify_consumer_change: bool = _setting(
        "realTimeNotifyConsumerChange", True, "tell them at once; with false every 15 s what has changed since"
    )
    register_broker_timeout_mills: int = _setting(
        "registerBrokerTimeoutMills", 24_000, "time limit of one registration", _PERIOD
    )
    register_name_server_period: int = _setting(
        "registerNameServerPeriod", 30_000, "how often to register", (10_000, 60_000), clamp=True
    )
    compressed_register: bool = _setting("compressedRegister", False, "pack the registration with zlib")
    start_accept_send_request_time_stamp: int = _setting(
        "startAcceptSendRequestTimeStamp", 0, "refuse sends before this moment (ms since the epoch)"
    )
    reject_pull_consumer_enable: bool = _setting("rejectPullConsumerEnable", False, "refuse pull consumers")
    channel_expired_timeout: int = _setting(
        "channelExpiredTimeout", 120_000, "a client without heartbeats for so long is forgotten", _PERIOD
    )
    subscription_expired_timeout: int = _setting(
        "subscriptionExpiredTimeout", 600_000, "a topic no member subscribes to any more is forgotten after", _PERIOD
    )
    use_server_side_reset_offset: bool = _setting("useServerSideResetOffset", True, "offset resets live in the broker")
    validate_system_topic_when_update_topic: bool = _setting(
        "validateSystemTopicWhenUpdateTopic", True, "refuse changes to system topics"
    )
    clear_retry_topic_when_delete_topic: bool = _setting(
        "clearRetryTopicWhenDeleteTopic", True, "deleting a topic deletes its pop retry topics"
    )
    consumer_offset_update_version_step: int = _setting(
        "consumerOffsetUpdateVersionStep", 500, "commits per step of the offset table's version", (1, _LONG - 1)
    )
    delay_offset_update_version_step: int = _setting(
        "delayOffsetUpdateVersionStep", 200, "deliveries per step of the delay table's version", (1, _LONG - 1)
    )
    enable_create_sys_group: bool = _setting("enableCreateSysGroup", True, "system groups may be created")
    store_reply_message_enable: bool = _setting("storeReplyMessageEnable", True, "store request-reply answers")
    config_black_list: str = _setting(
        "configBlackList", "configBlackList;brokerConfigPath", "properties that updateBrokerConfig refuses"
    )
    acl_enable: bool = _setting("aclEnable", False, "access control: not built yet, true is refused")
    enable_controller_mode: bool = _setting("enableControllerMode", False, "not built yet, true is refused")
    message_store_plug_in: str = _setting("messageStorePlugIn", "", "Java classes: any name is refused")

    # --- fastmq's own -------------------------------------------------------------------------------------------
    fast_listen_port: int = _setting(
        "fastListenPort", 0, "port for old clients' VIP channel; 0: listenPort - 2; -1: none", (-1, 65_535), own=True
    )
    hot_road_enable: bool = _setting("hotRoadEnable", True, "answer common requests without Python", own=True)
    admin_from_loopback_only: bool = _setting(
        "adminFromLoopbackOnly", True, "take dangerous admin commands from this machine only", own=True
    )
    rebalance_lock_max_live_time: int = _setting(
        "rebalanceLockMaxLiveTime",
        60_000,
        "how long a queue lock of an orderly consumer outlives its last renewal (the Java system property "
        "rocketmq.broker.rebalance.lockMaxLiveTime)",
        (1000, _LONG - 1),
        own=True,
    )
    file_reserved_bytes: int = _setting(
        "fileReservedBytes",
        0,
        "largest commit log; older files are deleted above it; 0: no limit",
        (0, 1 << 62),
        own=True,
    )
    allocate_step_bytes: int = _setting(
        "allocateStepBytes",
        limits.ALLOCATE_STEP_BYTES,
        "disk space reserved ahead of the commit log's end",
        (65_536, limits.MAX_SEGMENT_BYTES),
        own=True,
    )

    # --- org.apache.rocketmq.remoting.netty.NettyServerConfig -----------------------------------------------------
    bind_address: str = _setting(
        "bindAddress", "127.0.0.1", "address to listen on; 0.0.0.0 for all (RocketMQ's default)"
    )

    # --- org.apache.rocketmq.store.config.MessageStoreConfig --------------------------------------------------------
    store_path_root_dir: str = _setting("storePathRootDir", "store", "store directory; unset: $HOME/store")
    store_path_commit_log: str = _setting(
        "storePathCommitLog", "", "commit log; unset: commitlog in the store directory"
    )
    mapped_file_size_commit_log: int = _setting(
        "mappedFileSizeCommitLog",
        1 << 30,
        "size of a commit log file",
        (limits.MIN_SEGMENT_BYTES, limits.MAX_SEGMENT_BYTES),
    )
    mapped_file_size_consume_queue: int = _setting(
        "mappedFileSizeConsumeQueue", 6_000_000, "size of a consume queue file, made a multiple of 20", _SIZE
    )
    flush_disk_type: str = _setting(
        "flushDiskType",
        "ASYNC_FLUSH",
        "SYNC_FLUSH answers a send once it is on disk",
        choices=("ASYNC_FLUSH", "SYNC_FLUSH"),
    )
    broker_role: str = _setting(
        "brokerRole", "ASYNC_MASTER", "SLAVE is refused: replication is not built yet", choices=(*MASTER_ROLES, "SLAVE")
    )
    flush_interval_commit_log: int = _setting("flushIntervalCommitLog", 500, "time between flushes of the log", _PERIOD)
    flush_commit_log_least_pages: int = _setting(
        "flushCommitLogLeastPages", 4, "fewer new pages (4 KiB) are not worth a flush", _INT
    )
    flush_commit_log_thorough_interval: int = _setting(
        "flushCommitLogThoroughInterval", 10_000, "flush however little there is after", _PERIOD
    )
    flush_interval_consume_queue: int = _setting(
        "flushIntervalConsumeQueue", 1000, "time between flushes of the queues", _PERIOD
    )
    flush_delay_offset_interval: int = _setting(
        "flushDelayOffsetInterval", 10_000, "how often the progress of delayed messages goes to disk", _PERIOD
    )
    clean_resource_interval: int = _setting("cleanResourceInterval", 10_000, "how often retention looks", _PERIOD)
    delete_when: str = _setting("deleteWhen", "04", "hours of the day for deleting, `;` between them")
    file_reserved_time: int = _setting("fileReservedTime", 72, "hours that a commit log file is kept", _INT)
    disk_max_used_space_ratio: int = _setting(
        "diskMaxUsedSpaceRatio", 75, "percent used: above, expired files go at any hour", (10, 95), clamp=True
    )
    disk_space_clean_forcibly_ratio: int = _setting(
        "diskSpaceCleanForciblyRatio", 85, "percent used: above, files go whatever their age", (30, 85), clamp=True
    )
    disk_space_warning_level_ratio: int = _setting(
        "diskSpaceWarningLevelRatio", 90, "percent used: above, sends are refused", (35, 90), clamp=True
    )
    delete_file_batch_max: int = _setting("deleteFileBatchMax", 10, "most files deleted in one round", _COUNT)
    clean_file_forcibly_enable: bool = _setting("cleanFileForciblyEnable", True, "allow deleting whatever the age")
    max_message_size: int = _setting(
        "maxMessageSize", limits.MAX_MESSAGE_BYTES, "largest message body", (1, limits.MAX_FRAME_BYTES)
    )
    check_crc_on_recover: bool = _setting("checkCRCOnRecover", True, "recovery checks bodies")
    max_transfer_bytes_on_message_in_memory: int = _setting(
        "maxTransferBytesOnMessageInMemory", 262_144, "bytes of one pull answer from memory", _SIZE
    )
    max_transfer_count_on_message_in_memory: int = _setting(
        "maxTransferCountOnMessageInMemory", 32, "messages of one pull answer from memory", _SIZE
    )
    access_message_in_memory_max_ratio: int = _setting(
        "accessMessageInMemoryMaxRatio", 40, "percent of memory that counts as holding the newest messages", (1, 100)
    )
    message_index_enable: bool = _setting("messageIndexEnable", True, "index messages by key")
    max_hash_slot_num: int = _setting("maxHashSlotNum", 5_000_000, "hash slots of an index file", _SIZE)
    max_index_num: int = _setting("maxIndexNum", 20_000_000, "entries of an index file", _SIZE)
    max_msgs_num_batch: int = _setting("maxMsgsNumBatch", 64, "most messages of one query by key", _SIZE)
    default_query_max_num: int = _setting("defaultQueryMaxNum", 32, "messages of a query that names no number", _SIZE)
    ha_listen_port: int = _setting(
        "haListenPort", 0, "port for replicas, told to the name servers; 0: listenPort + 1", (-1, 65_535)
    )
    message_delay_level: str = _setting(
        "messageDelayLevel",
        "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
        "delays of levels 1, 2, ... in s, m, h or d",
    )
    reject_transaction_message: bool = _setting("rejectTransactionMessage", False, "refuse sends in transactions")
    transaction_time_out: int = _setting(
        "transactionTimeOut",
        6000,
        "age from which the producers of an open transaction are asked",
        (0, _LONG - 1),
    )
    transaction_check_max: int = _setting(
        "transactionCheckMax", 15, "how often they are asked about one transaction", _INT
    )
    transaction_check_interval: int = _setting(
        "transactionCheckInterval", 30_000, "between two rounds of that", _PERIOD
    )
    transaction_op_msg_max_size: int = _setting(
        "transactionOpMsgMaxSize", 4096, "text of an op message that is written at once", (1, 1 << 20)
    )
    transaction_op_batch_interval: int = _setting(
        "transactionOpBatchInterval", 3000, "longest wait of an op message; above 20 it is 20", _PERIOD
    )
    transaction_metric_flush_interval: int = _setting(
        "transactionMetricFlushInterval", 10_000, "how often to write transactionMetrics", _PERIOD
    )
    sync_flush_timeout: int = _setting("syncFlushTimeout", 5000, "longest wait for a synchronous flush", _PERIOD)
    in_sync_replicas: int = _setting("inSyncReplicas", 1, "above 1 is refused: replication is not built yet", _COUNT)
    enable_d_leger_commit_log: bool = _setting("enableDLegerCommitLog", False, "not built, true is refused")
    store_type: str = _setting("storeType", "default", "only `default` is built", choices=("default", "defaultRocksDB"))

    # --- kept: read, checked and shown, without effect ----------------------------------------------------------------
    force_register: bool = _kept("forceRegister", True)
    disable_consume_if_consumer_read_slowly: bool = _kept("disableConsumeIfConsumerReadSlowly", False)
    consumer_fallbehind_threshold: int = _kept("consumerFallbehindThreshold", 16 << 30)
    enable_property_filter: bool = _setting("enablePropertyFilter", False, "let consumers filter by SQL92")
    filter_support_retry: bool = _setting(
        "filterSupportRetry", False, "SQL92 filters of retry topics are those of the topics of origin"
    )
    enable_single_topic_register: bool = _kept("enableSingleTopicRegister", False)
    lock_in_strict_mode: bool = _kept("lockInStrictMode", False)
    server_channel_max_idle_time_seconds: int = _kept("serverChannelMaxIdleTimeSeconds", limits.IDLE_SECONDS)
    delete_commit_log_files_interval: int = _kept("deleteCommitLogFilesInterval", 100)
    max_transfer_bytes_on_message_in_disk: int = _kept("maxTransferBytesOnMessageInDisk", 65_536)
    max_transfer_count_on_message_in_disk: int = _kept("maxTransferCountOnMessageInDisk", 8)
    auto_message_version_on_topic_len: bool = _kept("autoMessageVersionOnTopicLen", True)
    timer_max_delay_sec: int = _setting(
        "timerMaxDelaySec", 259_200, "longest time a timer message may wait, in seconds", (0, 1 << 40)
    )
    fetch_namesrv_addr_by_address_server: bool = _kept("fetchNamesrvAddrByAddressServer", False)
    fetch_name_srv_addr_by_dns_lookup: bool = _kept("fetchNameSrvAddrByDnsLookup", False)
    update_name_server_addr_period: int = _kept("updateNameServerAddrPeriod", 120_000)
    send_message_thread_pool_nums: int = _kept("sendMessageThreadPoolNums", 4)
    pull_message_thread_pool_nums: int = _kept("pullMessageThreadPoolNums", 20)
    query_message_thread_pool_nums: int = _kept("queryMessageThreadPoolNums", 10)
    admin_broker_thread_pool_nums: int = _kept("adminBrokerThreadPoolNums", 16)
    client_manage_thread_pool_nums: int = _kept("clientManageThreadPoolNums", 32)
    consumer_manage_thread_pool_nums: int = _kept("consumerManageThreadPoolNums", 32)
    heartbeat_thread_pool_nums: int = _kept("heartbeatThreadPoolNums", 2)
    end_transaction_thread_pool_nums: int = _kept("endTransactionThreadPoolNums", 12)
    ack_message_thread_pool_nums: int = _kept("ackMessageThreadPoolNums", 16)
    process_reply_message_thread_pool_nums: int = _kept("processReplyMessageThreadPoolNums", 20)
    send_thread_pool_queue_capacity: int = _setting("sendThreadPoolQueueCapacity", 10000, "shown by brokerStatus")
    pull_thread_pool_queue_capacity: int = _setting("pullThreadPoolQueueCapacity", 100_000, "shown by brokerStatus")
    flush_consumer_offset_history_interval: int = _kept("flushConsumerOffsetHistoryInterval", 60000)
    transfer_msg_by_heap: bool = _kept("transferMsgByHeap", True)
    high_speed_mode: bool = _kept("highSpeedMode", False)
    slave_read_enable: bool = _kept("slaveReadEnable", False)
    broker_fast_failure_enable: bool = _setting(
        "brokerFastFailureEnable", True, "refuse requests that keep coming too late"
    )
    wait_time_mills_in_send_queue: int = _setting(
        "waitTimeMillsInSendQueue", 200, "ms after which a waiting send is late", (0, _LONG - 1)
    )
    wait_time_mills_in_pull_queue: int = _setting(
        "waitTimeMillsInPullQueue", 5000, "the same for a pull", (0, _LONG - 1)
    )
    wait_time_mills_in_heartbeat_queue: int = _setting(
        "waitTimeMillsInHeartbeatQueue", 31000, "the same for a heartbeat", (0, _LONG - 1)
    )
    wait_time_mills_in_transaction_queue: int = _setting(
        "waitTimeMillsInTransactionQueue", 3000, "the same for the end of a transaction", (0, _LONG - 1)
    )
    wait_time_mills_in_ack_queue: int = _setting("waitTimeMillsInAckQueue", 3000, "the same for an ack", (0, _LONG - 1))
    wait_time_mills_in_admin_broker_queue: int = _setting(
        "waitTimeMillsInAdminBrokerQueue", 5000, "the same for all others", (0, _LONG - 1)
    )
    enable_net_work_flow_control: bool = _kept("enableNetWorkFlowControl", False)
    expect_consumer_num_use_filter: int = _setting(
        "expectConsumerNumUseFilter", 32, "groups with SQL92 filters a topic, for the bloom filter", (1, 1_000_000)
    )
    max_error_rate_of_bloom_filter: int = _setting(
        "maxErrorRateOfBloomFilter", 20, "percent of messages that the bloom filter may pass for nothing", (1, 99)
    )
    filter_data_clean_time_span: int = _setting(
        "filterDataCleanTimeSpan", 86_400_000, "ms after which the filter of a group that left is forgotten", _PERIOD
    )
    enable_broadcast_offset_store: bool = _setting(
        "enableBroadcastOffsetStore", True, "note offsets of broadcasting members, for those that come through a proxy"
    )
    broadcast_offset_expire_second: int = _setting(
        "broadcastOffsetExpireSecond", 120, "seconds without a pull after which they are forgotten", _PERIOD
    )
    broadcast_offset_expire_max_second: int = _setting(
        "broadcastOffsetExpireMaxSecond", 300, "the same while the member is connected", _PERIOD
    )
    broker_heartbeat_interval: int = _kept("brokerHeartbeatInterval", 1000)
    broker_not_active_timeout_millis: int = _kept("brokerNotActiveTimeoutMillis", 10000)
    async_send_enable: bool = _kept("asyncSendEnable", True)
    compatible_with_old_name_srv: bool = _kept("compatibleWithOldNameSrv", True)
    enable_slave_acting_master: bool = _kept("enableSlaveActingMaster", False)
    enable_remote_escape: bool = _kept("enableRemoteEscape", False)
    skip_pre_online: bool = _kept("skipPreOnline", False)
    controller_addr: str = _kept("controllerAddr", "")
    broker_election_priority: int = _kept("brokerElectionPriority", 2_147_483_647)
    sync_broker_metadata_period: int = _kept("syncBrokerMetadataPeriod", 5000)
    check_sync_state_set_period: int = _kept("checkSyncStateSetPeriod", 5000)
    sync_controller_metadata_period: int = _kept("syncControllerMetadataPeriod", 10000)
    controller_heart_beat_timeout_mills: int = _kept("controllerHeartBeatTimeoutMills", 10000)
    use_static_subscription: bool = _kept("useStaticSubscription", False)
    revive_queue_num: int = _setting("reviveQueueNum", 8, "queues of the pop revive topic", (1, 1024))
    revive_interval: int = _setting(
        "reviveInterval", 1000, "longest pause between looks at the pop revive topic", _PERIOD
    )
    revive_scan_time: int = _kept("reviveScanTime", 10000)
    revive_max_slow: int = _kept("reviveMaxSlow", 3)
    enable_pop_buffer_merge: bool = _kept("enablePopBufferMerge", False)
    pop_ck_stay_buffer_time: int = _kept("popCkStayBufferTime", 10000)
    pop_ck_stay_buffer_time_out: int = _kept("popCkStayBufferTimeOut", 3000)
    pop_ck_max_buffer_size: int = _kept("popCkMaxBufferSize", 200_000)
    pop_ck_offset_max_queue_size: int = _kept("popCkOffsetMaxQueueSize", 20000)
    pop_polling_size: int = _setting("popPollingSize", 1024, "pops that may wait for one group, topic and queue")
    pop_polling_map_size: int = _setting(
        "popPollingMapSize", 100_000, "groups, topics and queues for which pops may wait"
    )
    max_pop_polling_size: int = _setting("maxPopPollingSize", 100_000, "pops that may wait at once")
    pop_long_polling_force_notify_interval: int = _setting(
        "popLongPollingForceNotifyInterval", 800, "messages of other tags that wake a waiting pop; 0: none do"
    )
    enable_notify_after_pop_order_lock_release: bool = _setting(
        "enableNotifyAfterPopOrderLockRelease", True, "wake waiting pops when an ordered queue is free again"
    )
    pop_polling_map_expire_time_seconds: int = _kept("popPollingMapExpireTimeSeconds", 600)
    pop_from_retry_probability: int = _setting(
        "popFromRetryProbability", 20, "percent of pops that look into the retry topic first", (0, 100)
    )
    enable_retry_topic_v2: bool = _setting(
        "enableRetryTopicV2", False, "pop retry topics are %RETRY%group+topic, not group_topic"
    )
    retrieve_message_from_pop_retry_topic_v1: bool = _setting(
        "retrieveMessageFromPopRetryTopicV1", True, "with V2, half of the pops look into the V1 retry topic"
    )
    pop_revive_max_return_size_per_read: int = _kept("popReviveMaxReturnSizePerRead", 16384)
    pop_revive_max_attempt_times: int = _kept("popReviveMaxAttemptTimes", 16)
    pop_consumer_fs_service_init: bool = _kept("popConsumerFSServiceInit", True)
    pop_consumer_kv_service_enable: bool = _kept("popConsumerKVServiceEnable", False)
    enable_pop_message_threshold: bool = _setting(
        "enablePopMessageThreshold", False, "stop popping while too many messages of a queue are in flight"
    )
    pop_inflight_message_threshold: int = _setting(
        "popInflightMessageThreshold", 10000, "how many are too many", (0, _LONG - 1)
    )
    enable_pop_batch_ack: bool = _kept("enablePopBatchAck", False)
    enable_skip_long_awaiting_ack: bool = _kept("enableSkipLongAwaitingAck", False)
    revive_ack_wait_ms: int = _kept("reviveAckWaitMs", 180_000)
    init_pop_offset_by_check_msg_in_mem: bool = _setting(
        "initPopOffsetByCheckMsgInMem", True, "a new pop group begins at 0 while message 0 is in memory"
    )
    pop_response_return_actual_retry_topic: bool = _setting(
        "popResponseReturnActualRetryTopic", False, "popped messages keep the name of their retry topic"
    )
    server_load_balancer_enable: bool = _setting(
        "serverLoadBalancerEnable", True, "answer requests for queue assignments"
    )
    default_message_request_mode: str = _setting(
        "defaultMessageRequestMode", "PULL", "how groups get topics for which nothing was set", choices=("PULL", "POP")
    )
    default_pop_share_queue_num: int = _setting(
        "defaultPopShareQueueNum", -1, "members whose queues a popping consumer shares by default; -1: of all"
    )
    lite_pull_message_enable: bool = _setting("litePullMessageEnable", True, "answer lite pulls")
    enable_detail_stat: bool = _kept("enableDetailStat", True)
    auto_delete_unused_stats: bool = _setting(
        "autoDeleteUnusedStats", True, "deleting a topic or group deletes its counters"
    )
    metrics_exporter_type: str = _kept("metricsExporterType", "DISABLE")
    metrics_prom_exporter_port: int = _kept("metricsPromExporterPort", 5557)
    cold_ctr_strategy_enable: bool = _kept("coldCtrStrategyEnable", False)
    cg_cold_read_threshold: int = _kept("cgColdReadThreshold", 3_145_728)
    global_cold_read_threshold: int = _kept("globalColdReadThreshold", 104_857_600)
    use_pid_cold_ctr_strategy: bool = _kept("usePIDColdCtrStrategy", True)
    enable_mixed_message_type: bool = _setting(
        "enableMixedMessageType", False, "topics may have the message type MIXED"
    )
    enable_split_registration: bool = _kept("enableSplitRegistration", False)
    split_registration_size: int = _kept("splitRegistrationSize", 800)
    config_manager_version: str = _kept("configManagerVersion", "v1")
    recall_message_enable: bool = _setting(
        "recallMessageEnable", False, "clients may take timer messages back before they are due"
    )
    allow_recall_when_broker_not_writeable: bool = _setting(
        "allowRecallWhenBrokerNotWriteable", True, "also while brokerPermission forbids sends"
    )
    enable_register_producer: bool = _setting(
        "enableRegisterProducer", True, "remember producers from their heartbeats"
    )
    enable_fast_channel_event_process: bool = _kept("enableFastChannelEventProcess", False)
    server_worker_threads: int = _kept("serverWorkerThreads", 8)
    server_callback_executor_threads: int = _kept("serverCallbackExecutorThreads", 0)
    server_selector_threads: int = _kept("serverSelectorThreads", 3)
    server_oneway_semaphore_value: int = _kept("serverOnewaySemaphoreValue", 256)
    server_async_semaphore_value: int = _kept("serverAsyncSemaphoreValue", 64)
    use_epoll_native_selector: bool = _kept("useEpollNativeSelector", False)
    server_socket_backlog: int = _kept("serverSocketBacklog", 1024)
    server_socket_rcv_buf_size: int = _kept("serverSocketRcvBufSize", 0)
    server_socket_snd_buf_size: int = _kept("serverSocketSndBufSize", 0)
    server_pooled_byte_buf_allocator_enable: bool = _kept("serverPooledByteBufAllocatorEnable", True)
    server_netty_worker_group_enable: bool = _kept("serverNettyWorkerGroupEnable", True)
    write_buffer_high_water_mark: int = _kept("writeBufferHighWaterMark", 0)
    write_buffer_low_water_mark: int = _kept("writeBufferLowWaterMark", 0)
    enable_shutdown_gracefully: bool = _kept("enableShutdownGracefully", False)
    shutdown_wait_time_seconds: int = _kept("shutdownWaitTimeSeconds", 30)
    enable_consume_queue_ext: bool = _setting(
        "enableConsumeQueueExt", False, "keep bit maps of filters beside queue entries; read at start"
    )
    enable_calc_filter_bit_map: bool = _setting(
        "enableCalcFilterBitMap", False, "evaluate SQL92 filters when a message is stored, for its bit map"
    )
    mapped_file_size_consume_queue_ext: int = _setting(
        "mappedFileSizeConsumeQueueExt", 50_331_648, "bytes of a consumequeue_ext file", (2048, (1 << 31) - 1)
    )
    bit_map_length_consume_queue_ext: int = _kept("bitMapLengthConsumeQueueExt", 64)
    mapper_file_size_batch_consume_queue: int = _kept("mapperFileSizeBatchConsumeQueue", 13_800_000)
    commit_interval_commit_log: int = _kept("commitIntervalCommitLog", 200)
    flush_commit_log_timed: bool = _kept("flushCommitLogTimed", True)
    commit_commit_log_least_pages: int = _kept("commitCommitLogLeastPages", 4)
    flush_consume_queue_least_pages: int = _kept("flushConsumeQueueLeastPages", 2)
    flush_least_pages_when_warm_maped_file: int = _kept("flushLeastPagesWhenWarmMapedFile", 4096)
    commit_commit_log_thorough_interval: int = _kept("commitCommitLogThoroughInterval", 200)
    flush_consume_queue_thorough_interval: int = _kept("flushConsumeQueueThoroughInterval", 60000)
    delete_consume_queue_files_interval: int = _kept("deleteConsumeQueueFilesInterval", 100)
    destroy_maped_file_interval_forcibly: int = _kept("destroyMapedFileIntervalForcibly", 120_000)
    redelete_hanged_file_interval: int = _kept("redeleteHangedFileInterval", 120_000)
    max_filter_message_size: int = _setting(
        "maxFilterMessageSize", 16000, "bytes of queue entries (20 a message) one filtered pull looks at", (20, 1 << 24)
    )
    message_index_safe: bool = _kept("messageIndexSafe", False)
    ha_master_address: str = _kept("haMasterAddress", "")
    ha_send_heartbeat_interval: int = _kept("haSendHeartbeatInterval", 5000)
    ha_housekeeping_interval: int = _kept("haHousekeepingInterval", 20000)
    ha_transfer_batch_size: int = _kept("haTransferBatchSize", 32768)
    ha_max_gap_not_in_sync: int = _kept("haMaxGapNotInSync", 268_435_456)
    ha_flow_control_enable: bool = _kept("haFlowControlEnable", False)
    max_ha_transfer_byte_in_second: int = _kept("maxHaTransferByteInSecond", 104_857_600)
    slave_timeout: int = _kept("slaveTimeout", 3000)
    put_message_timeout: int = _kept("putMessageTimeout", 8000)
    os_page_cache_busy_time_out_mills: int = _kept("osPageCacheBusyTimeOutMills", 1000)
    offset_check_in_slave: bool = _kept("offsetCheckInSlave", False)
    transient_store_pool_enable: bool = _kept("transientStorePoolEnable", False)
    transient_store_pool_size: int = _kept("transientStorePoolSize", 5)
    fast_fail_if_no_buffer_in_store_pool: bool = _kept("fastFailIfNoBufferInStorePool", False)
    warm_maped_file_enable: bool = _kept("warmMapedFileEnable", False)
    use_reentrant_lock_when_put_message: bool = _kept("useReentrantLockWhenPutMessage", True)
    topic_queue_lock_num: int = _kept("topicQueueLockNum", 32)
    duplication_enable: bool = _kept("duplicationEnable", False)
    disk_fall_recorded: bool = _kept("diskFallRecorded", True)
    total_replicas: int = _kept("totalReplicas", 1)
    min_in_sync_replicas: int = _kept("minInSyncReplicas", 1)
    all_ack_in_sync_state_set: bool = _kept("allAckInSyncStateSet", False)
    enable_auto_in_sync_replicas: bool = _kept("enableAutoInSyncReplicas", False)
    ha_max_time_slave_not_catchup: int = _kept("haMaxTimeSlaveNotCatchup", 15000)
    sync_from_last_file: bool = _kept("syncFromLastFile", False)
    async_learner: bool = _kept("asyncLearner", False)
    enabled_append_prop_crc: bool = _kept("enabledAppendPropCRC", False)
    force_verify_prop_crc: bool = _kept("forceVerifyPropCRC", False)
    read_un_committed: bool = _kept("readUnCommitted", False)
    put_consume_queue_data_by_file_channel: bool = _kept("putConsumeQueueDataByFileChannel", True)
    travel_cq_file_num_when_get_message: int = _kept("travelCqFileNumWhenGetMessage", 1)
    enable_lmq: bool = _setting("enableLmq", False, "topics and groups that begin with %LMQ% need no creation")
    enable_multi_dispatch: bool = _setting(
        "enableMultiDispatch", False, "with enableLmq: messages go to the %LMQ% queues they name; read at start"
    )
    max_lmq_consume_queue_num: int = _setting(
        "maxLmqConsumeQueueNum", 20000, "%LMQ% queues there may be; read at start", _INT
    )
    enable_compaction: bool = _kept("enableCompaction", True)
    timer_wheel_enable: bool = _setting("timerWheelEnable", True, "take messages for any time")
    timer_precision_ms: int = _setting(
        "timerPrecisionMs", 1000, "width of a slot of the timer file: 100, 200, 500 or 1000; delivery is exact anyway"
    )
    timer_roll_window_slot: int = _setting(
        "timerRollWindowSlot", 172_800, "a timer message that waits for more slots is stored anew on the way"
    )
    timer_flush_interval_ms: int = _setting(
        "timerFlushIntervalMs", 1000, "how often the progress of timer messages goes to disk", _PERIOD
    )
    timer_congest_num_each_slot: int = _setting(
        "timerCongestNumEachSlot",
        2_147_483_647,
        "above so many messages in a slot some are refused, above twice as many all",
        (1, _LONG - 1),
    )
    mapped_file_size_timer_log: int = _setting("mappedFileSizeTimerLog", 104_857_600, "size of a timer log file", _SIZE)
    disappear_time_after_start: int = _kept("disappearTimeAfterStart", -1)
    cold_data_flow_control_enable: bool = _kept("coldDataFlowControlEnable", False)
    cold_data_scan_enable: bool = _kept("coldDataScanEnable", False)
    access_message_in_memory_hot_ratio: int = _kept("accessMessageInMemoryHotRatio", 26)
    data_read_ahead_enable: bool = _kept("dataReadAheadEnable", True)
    write_without_mmap: bool = _kept("writeWithoutMmap", False)
    pull_batch_max_message_count: int = _kept("pullBatchMaxMessageCount", 160)
    rocketmq_home: str = _kept("rocketmqHome", "")
    broker_config_path: str = _setting("brokerConfigPath", "", "the file that updates at run time are written to")

    def __post_init__(self) -> None:
        put = object.__setattr__
        if not self.store_path_commit_log:
            put(self, "store_path_commit_log", os.path.join(self.store_path_root_dir, "commitlog"))
        if self.ha_listen_port <= 0:
            put(self, "ha_listen_port", self.listen_port + 1 if self.listen_port else 0)
        if self.fast_listen_port == 0 and self.listen_port > 2:
            put(self, "fast_listen_port", self.listen_port - 2)
        rest = -self.mapped_file_size_consume_queue % limits.QUEUE_ENTRY_BYTES
        put(self, "mapped_file_size_consume_queue", self.mapped_file_size_consume_queue + rest)
        if self.broker_role in MASTER_ROLES and self.broker_id != 0:
            put(self, "broker_id", 0)  # as BrokerStartup: a master has id 0 whatever the file says

    @property
    def sync_flush(self) -> bool:
        """Whether a send is answered only once it is on disk."""
        return self.flush_disk_type == "SYNC_FLUSH"

    @property
    def light_queues(self) -> bool:
        """Whether messages are dispatched to the light queues (LMQ) that they name."""
        return self.enable_lmq and self.enable_multi_dispatch

    @property
    def delay_levels_ms(self) -> tuple[int, ...]:
        """Delay of level 1, 2, ... in milliseconds."""
        return parse_delay_levels(self.message_delay_level)

    @property
    def namesrv_addresses(self) -> tuple[tuple[str, int], ...]:
        """(host, port) of every name server to register with."""
        return parse_addresses("namesrvAddr", self.namesrv_addr)

    @property
    def delete_hours(self) -> frozenset[int]:
        """Local hours of the day in which expired files are deleted."""
        return frozenset(int(hour) for hour in self.delete_when.split(";") if hour.strip())

    def check(self) -> None:
        if self.broker_role == "SLAVE":
            raise UsageError("brokerRole=SLAVE: replication is not built yet; use ASYNC_MASTER")
        if self.in_sync_replicas > 1:
            raise UsageError(f"inSyncReplicas={self.in_sync_replicas}: replication is not built yet; use 1")
        if self.acl_enable:
            raise UsageError("aclEnable=true: access control is not built yet; ignoring it would let everybody in")
        if self.enable_controller_mode or self.enable_d_leger_commit_log:
            raise UsageError("enableControllerMode and enableDLegerCommitLog: automatic fail-over is not built yet")
        if self.store_type != "default":
            raise UsageError(f"storeType={self.store_type}: only the default file store is built")
        if self.message_store_plug_in:
            raise UsageError(f"messageStorePlugIn={self.message_store_plug_in}: Java plug-ins cannot be loaded")
        if ";" in self.store_path_commit_log or "," in self.store_path_commit_log:
            raise UsageError("storePathCommitLog names several directories: only one is built")
        for name, value in (
            ("brokerName", self.broker_name),
            ("brokerClusterName", self.broker_cluster_name),
            ("brokerIP1", self.broker_ip1),
            ("bindAddress", self.bind_address),
            ("storePathRootDir", self.store_path_root_dir),
        ):
            if not value.strip():
                raise UsageError(f"{name} must not be empty")
        parse_delay_levels(self.message_delay_level)
        _check_delete_when(self.delete_when)
        _check_ports(
            listenPort=self.listen_port, fastListenPort=self.fast_listen_port, haListenPort=self.ha_listen_port
        )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NamesrvConfig(_Config):
    """Everything a name server can be told. Times are milliseconds unless the name says otherwise."""

    listen_port: int = _setting("listenPort", 9876, "port to listen on; 0 picks a free one", _PORT)
    bind_address: str = _setting(
        "bindAddress", "127.0.0.1", "address to listen on; 0.0.0.0 for all (RocketMQ's default)"
    )
    kv_config_path: str = _setting("kvConfigPath", "kvConfig.json", "the KV table; unset: $HOME/namesrv/kvConfig.json")
    config_store_path: str = _setting(
        "configStorePath",
        "namesrv.properties",
        "where updateNamesrvConfig writes; unset: the file given, else $HOME/namesrv/namesrv.properties",
    )
    order_message_enable: bool = _setting("orderMessageEnable", False, "routes carry the order configuration")
    return_order_topic_config_to_broker: bool = _setting(
        "returnOrderTopicConfigToBroker", True, "registrations are answered with the order configuration"
    )
    scan_not_active_broker_interval: int = _setting(
        "scanNotActiveBrokerInterval", 5000, "how often expired brokers are looked for", _PERIOD
    )
    support_acting_master: bool = _setting(
        "supportActingMaster", False, "a group without master shows its smallest id as one"
    )
    enable_all_topic_list: bool = _setting("enableAllTopicList", True, "answer requests for all topics")
    enable_topic_list: bool = _setting("enableTopicList", True, "answer requests for some topics")
    notify_min_broker_id_changed: bool = _setting(
        "notifyMinBrokerIdChanged", False, "tell a group's members when its smallest id changes"
    )
    need_wait_for_service: bool = _setting("needWaitForService", False, "refuse route requests right after the start")
    wait_seconds_for_service: int = _setting("waitSecondsForService", 45, "for how long (s)", _INT)
    delete_topic_with_broker_registration: bool = _setting(
        "deleteTopicWithBrokerRegistration", False, "a registration removes the topics it does not name"
    )
    config_black_list: str = _setting(
        "configBlackList", "configBlackList;configStorePath;kvConfigPath", "properties that updateNamesrvConfig refuses"
    )
    enable_controller_in_namesrv: bool = _setting("enableControllerInNamesrv", False, "not built yet, true is refused")
    admin_from_loopback_only: bool = _setting(
        "adminFromLoopbackOnly", True, "take dangerous admin commands from this machine only", own=True
    )

    # --- kept ----------------------------------------------------------------------------------------------------
    server_channel_max_idle_time_seconds: int = _kept("serverChannelMaxIdleTimeSeconds", limits.IDLE_SECONDS)
    client_request_thread_pool_nums: int = _kept("clientRequestThreadPoolNums", 8)
    client_request_thread_pool_queue_capacity: int = _kept("clientRequestThreadPoolQueueCapacity", 50000)
    default_thread_pool_nums: int = _kept("defaultThreadPoolNums", 16)
    default_thread_pool_queue_capacity: int = _kept("defaultThreadPoolQueueCapacity", 10000)
    product_env_name: str = _kept("productEnvName", "center")
    cluster_test: bool = _kept("clusterTest", False)
    un_register_broker_queue_capacity: int = _kept("unRegisterBrokerQueueCapacity", 3000)
    rocketmq_home: str = _kept("rocketmqHome", "")
    server_worker_threads: int = _kept("serverWorkerThreads", 8)
    server_callback_executor_threads: int = _kept("serverCallbackExecutorThreads", 0)
    server_selector_threads: int = _kept("serverSelectorThreads", 3)
    server_oneway_semaphore_value: int = _kept("serverOnewaySemaphoreValue", 256)
    server_async_semaphore_value: int = _kept("serverAsyncSemaphoreValue", 64)
    use_epoll_native_selector: bool = _kept("useEpollNativeSelector", False)
    server_socket_backlog: int = _kept("serverSocketBacklog", 1024)
    server_socket_rcv_buf_size: int = _kept("serverSocketRcvBufSize", 0)
    server_socket_snd_buf_size: int = _kept("serverSocketSndBufSize", 0)
    server_pooled_byte_buf_allocator_enable: bool = _kept("serverPooledByteBufAllocatorEnable", True)
    server_netty_worker_group_enable: bool = _kept("serverNettyWorkerGroupEnable", True)
    write_buffer_high_water_mark: int = _kept("writeBufferHighWaterMark", 0)
    write_buffer_low_water_mark: int = _kept("writeBufferLowWaterMark", 0)
    enable_shutdown_gracefully: bool = _kept("enableShutdownGracefully", False)
    shutdown_wait_time_seconds: int = _kept("shutdownWaitTimeSeconds", 30)

    def check(self) -> None:
        if self.enable_controller_in_namesrv:
            raise UsageError("enableControllerInNamesrv=true: the controller is not built yet")
        if not self.bind_address.strip():
            raise UsageError("bindAddress must not be empty")


def settings(cls: type[_Config]) -> dict[str, Setting]:
    """The properties of a configuration class by attribute name."""
    return {f.name: f.metadata["setting"] for f in fields(cls) if "setting" in f.metadata}


def load_broker_config(
    path: str | None, env: Mapping[str, str], overrides: Mapping[str, str], *, host: Host | None = None
) -> tuple[BrokerConfig, list[str]]:
    """Read a broker's settings; returns them and notes (unknown or pointless settings) for the log, one sentence each.

    overrides: property names to texts, from the command line. Raises UsageError with a sentence for the user.
    """
    host = host or Host.of(env)
    found, notes = _collect(BrokerConfig, path, env, overrides)
    bind = str(found.get("bind_address", "127.0.0.1"))
    found.setdefault("broker_ip1", _advertised(bind, host))
    defaults: dict[str, Any] = {
        "broker_name": host.name.strip() or "DEFAULT_BROKER",
        "broker_ip2": found["broker_ip1"],
        "namesrv_addr": env.get("NAMESRV_ADDR", "").strip(),
        "store_path_root_dir": os.path.join(host.home, "store"),
        "rocketmq_home": env.get("ROCKETMQ_HOME", ""),
        "broker_config_path": path or "",
    }
    config = BrokerConfig(**(defaults | found))
    config.check()
    parse_addresses("namesrvAddr", config.namesrv_addr)
    if config.max_message_size >= config.mapped_file_size_commit_log:
        notes.append(
            f"mappedFileSizeCommitLog={config.mapped_file_size_commit_log} is smaller than "
            f"maxMessageSize={config.max_message_size}: messages that do not fit into one file are refused"
        )
    return config, notes


def load_namesrv_config(
    path: str | None, env: Mapping[str, str], overrides: Mapping[str, str], *, host: Host | None = None
) -> tuple[NamesrvConfig, list[str]]:
    """Read a name server's settings, with no path from where updateNamesrvConfig writes; else as load_broker_config."""
    host = host or Host.of(env)
    stored = os.path.join(host.home, "namesrv", "namesrv.properties")
    source = path if path is not None or not os.path.exists(stored) else stored
    found, notes = _collect(NamesrvConfig, source, env, overrides)
    defaults: dict[str, Any] = {
        "kv_config_path": os.path.join(host.home, "namesrv", "kvConfig.json"),
        "config_store_path": path or stored,
        "rocketmq_home": env.get("ROCKETMQ_HOME", ""),
    }
    config = NamesrvConfig(**(defaults | found))
    config.check()
    return config, notes


def environment_name(cls: type[_Config], attribute: str) -> str:
    """The environment variable that sets an attribute: FASTMQ_LISTEN_PORT, FASTMQ_NAMESRV_LISTEN_PORT."""
    return f"{_prefix(cls)}{attribute.upper()}"


def _prefix(cls: type[_Config]) -> str:
    return "FASTMQ_NAMESRV_" if issubclass(cls, NamesrvConfig) else "FASTMQ_"


def _collect(
    cls: type[_Config], path: str | None, env: Mapping[str, str], overrides: Mapping[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """Attribute values from all sources, later ones winning, and the notes."""
    table = settings(cls)
    kinds = {f.name: type(f.default) for f in fields(cls)}
    attribute_of = {s.name: attribute for attribute, s in table.items()}
    notes: list[str] = []
    texts: dict[str, tuple[str, str]] = {}  # attribute → text, source
    for name, text in (read_properties(path) if path is not None else {}).items():
        if name in attribute_of:
            texts[attribute_of[name]] = (text, f"file {path}")
        else:
            notes.append(_unknown(name, f"file {path}", attribute_of))
    for attribute in table:
        variable = environment_name(cls, attribute)
        if variable in env:
            texts[attribute] = (env[variable], f"environment variable {variable}")
    notes += _unknown_variables(env) if cls is BrokerConfig else []
    for name, text in overrides.items():
        if name not in attribute_of:
            notes.append(_unknown(name, "command line", attribute_of))
        else:
            texts[attribute_of[name]] = (text, "command line")
    found: dict[str, Any] = {"given": frozenset(table[attribute].name for attribute in texts)}
    for attribute, (text, source) in texts.items():
        setting = table[attribute]
        found[attribute] = value = _parse(setting, kinds[attribute], text, source)
        if not setting.acts and value != _default(cls, attribute):
            notes.append(f"{setting.name} ({source}) is accepted but changes nothing in fastmq")
        elif setting.clamp and value != int(text):
            notes.append(f"{setting.name}={text.strip()} ({source}) was set to {value}, the nearest value allowed")
    return found, notes


def _default(cls: type[_Config], attribute: str) -> Any:
    return next(f.default for f in fields(cls) if f.name == attribute)


def _unknown(name: str, source: str, known: Iterable[str]) -> str:
    near = [other for other in known if other.lower() == name.lower()]
    if not near:
        import difflib  # noqa: PLC0415  (only a mistake pays for it)

        near = difflib.get_close_matches(name, list(known), 1, 0.85)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown property {name} ({source}) is ignored{hint}"


def _unknown_variables(env: Mapping[str, str]) -> list[str]:
    known = _OTHER_VARIABLES.union(environment_name(c, a) for c in (BrokerConfig, NamesrvConfig) for a in settings(c))
    return [
        f"environment variable {name} matches no property and is ignored"
        for name in sorted(env)
        if name.startswith("FASTMQ_") and name not in known
    ]


def _parse(setting: Setting, kind: type, text: str, source: str) -> Any:
    """A text from a source as a value of the setting's kind, or UsageError."""
    text = text.strip()
    where = f"{setting.name}={text} ({source})"
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{where}: must be true or false")
        return text.lower() == "true"
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            raise UsageError(f"{where}: must be a whole number")
        number = int(text)
        if setting.clamp:
            return min(max(number, setting.low), setting.high)
        if not setting.low <= number <= setting.high:
            raise UsageError(f"{where}: must be between {setting.low} and {setting.high}")
        return number
    if any(ord(character) < 32 for character in text):
        raise UsageError(f"{setting.name} ({source}): must not contain control characters")
    if setting.choices:
        chosen = {choice.lower(): choice for choice in setting.choices}.get(text.lower())
        if chosen is None:
            raise UsageError(f"{where}: must be one of {', '.join(setting.choices)}")
        return chosen
    if setting.list_of_addresses:
        parse_addresses(setting.name, text)
    return text


def format_value(value: Any) -> str:
    """A setting's value as properties text has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def parse_addresses(name: str, text: str) -> tuple[tuple[str, int], ...]:
    """`host:port;host:port` as pairs; an IPv6 host stands in brackets. Raises UsageError naming the property."""
    addresses = []
    for piece in filter(None, (piece.strip() for piece in text.split(";"))):
        match = _ADDRESS.fullmatch(piece)
        if match is None or not 1 <= int(match[2]) <= 65_535:
            raise UsageError(f"{name}: {piece!r} is not host:port")
        addresses.append((match[1].strip("[]"), int(match[2])))
    return tuple(addresses)


def parse_delay_levels(text: str) -> tuple[int, ...]:
    """`1s 5s 1m` as milliseconds. Raises UsageError."""
    levels = []
    for piece in text.split():
        match = _DELAY_LEVEL.fullmatch(piece)
        if match is None:
            raise UsageError(f"messageDelayLevel: {piece!r} is not a number followed by s, m, h or d")
        levels.append(int(match[1]) * _DELAY_UNIT_MS[match[2]])
    if not levels:
        raise UsageError("messageDelayLevel must name at least one delay")
    return tuple(levels)


def _check_delete_when(text: str) -> None:
    for piece in text.split(";"):
        if piece.strip() and not (piece.strip().isdecimal() and int(piece) <= 23):
            raise UsageError(f"deleteWhen={text}: {piece.strip()!r} is not an hour from 00 to 23")


def _check_ports(**ports: int) -> None:
    used: dict[int, str] = {}
    for name, port in ports.items():
        if port > 65_535:
            raise UsageError(f"{name} comes out as {port}: ports end at 65535")
        if port > 0 and port in used:
            raise UsageError(f"{used[port]} and {name} are both {port}")
        used[port] = name


def _advertised(bind: str, host: Host) -> str:
    """The address clients can reach a listener at."""
    if bind in ("", "0.0.0.0", "::", "*"):  # noqa: S104
        return host.local_address()
    return "127.0.0.1" if bind == "localhost" else bind
