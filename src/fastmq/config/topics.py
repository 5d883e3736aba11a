"""Topics, consumer groups and their clients: creation, sessions, offsets, plain pulls. From RocketMQ's BrokerConfig."""

from __future__ import annotations

from dataclasses import dataclass

from fastmq import limits
from fastmq.config.setting import LONG, PERIOD, SIZE, Config, kept, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class TopicSettings(Config):
    """Topics, groups, clients, offsets, pulls."""

    # topics
    broker_permission: int = setting("brokerPermission", 6, "4 read, 2 write, 6 both", (0, 7))
    default_topic_queue_nums: int = setting("defaultTopicQueueNums", 8, "queues of an auto-created topic", (1, 65_536))
    auto_create_topic_enable: bool = setting("autoCreateTopicEnable", True, "a send may create its topic")
    cluster_topic_enable: bool = setting("clusterTopicEnable", True, "have a topic named as the cluster")
    broker_topic_enable: bool = setting("brokerTopicEnable", True, "have a topic named as the broker")
    trace_topic_enable: bool = setting("traceTopicEnable", False, "have the message trace topic")
    msg_trace_topic_name: str = setting("msgTraceTopicName", "RMQ_SYS_TRACE_TOPIC", "name of the message trace topic")
    trace_on: bool = setting("traceOn", True, "what send replies tell clients about tracing")
    validate_system_topic_when_update_topic: bool = setting(
        "validateSystemTopicWhenUpdateTopic", True, "refuse changes to system topics"
    )
    clear_retry_topic_when_delete_topic: bool = setting(
        "clearRetryTopicWhenDeleteTopic", True, "deleting a topic deletes its pop retry topics"
    )
    enable_mixed_message_type: bool = setting("enableMixedMessageType", False, "topics may have the message type MIXED")

    # sends
    max_message_size: int = setting(
        "maxMessageSize", limits.MAX_MESSAGE_BYTES, "largest message body", (1, limits.MAX_FRAME_BYTES)
    )
    start_accept_send_request_time_stamp: int = setting(
        "startAcceptSendRequestTimeStamp", 0, "refuse sends before this moment (ms since the epoch)"
    )
    store_reply_message_enable: bool = setting("storeReplyMessageEnable", True, "store request-reply answers")

    # groups
    auto_create_subscription_group: bool = setting(
        "autoCreateSubscriptionGroup", True, "a consumer may create its group"
    )
    enable_create_sys_group: bool = setting("enableCreateSysGroup", True, "system groups may be created")
    notify_consumer_ids_changed_enable: bool = setting(
        "notifyConsumerIdsChangedEnable", True, "tell consumers when a group's members change"
    )
    real_time_notify_consumer_change: bool = setting(
        "realTimeNotifyConsumerChange", True, "tell them at once; with false every 15 s what has changed since"
    )
    subscription_expired_timeout: int = setting(
        "subscriptionExpiredTimeout", 600_000, "a topic no member subscribes to any more is forgotten after", PERIOD
    )
    rebalance_lock_max_live_time: int = setting(
        "rebalanceLockMaxLiveTime",
        60_000,
        "how long a queue lock of an orderly consumer outlives its last renewal (the Java system property "
        "rocketmq.broker.rebalance.lockMaxLiveTime)",
        (1000, LONG - 1),
        own=True,
    )

    # connected clients
    channel_expired_timeout: int = setting(
        "channelExpiredTimeout", 120_000, "a client without heartbeats for so long is forgotten", PERIOD
    )
    enable_register_producer: bool = setting("enableRegisterProducer", True, "remember producers from their heartbeats")

    # offsets
    flush_consumer_offset_interval: int = setting(
        "flushConsumerOffsetInterval", 5000, "how often consumer offsets go to disk", PERIOD
    )
    consumer_offset_update_version_step: int = setting(
        "consumerOffsetUpdateVersionStep", 500, "commits per step of the offset table's version", (1, LONG - 1)
    )
    use_server_side_reset_offset: bool = setting("useServerSideResetOffset", True, "offset resets live in the broker")
    enable_broadcast_offset_store: bool = setting(
        "enableBroadcastOffsetStore", True, "note offsets of broadcasting members, for those that come through a proxy"
    )
    broadcast_offset_expire_second: int = setting(
        "broadcastOffsetExpireSecond", 120, "seconds without a pull after which they are forgotten", PERIOD
    )
    broadcast_offset_expire_max_second: int = setting(
        "broadcastOffsetExpireMaxSecond", 300, "the same while the member is connected", PERIOD
    )

    # pulls and queries
    long_polling_enable: bool = setting("longPollingEnable", True, "hold pulls that find nothing")
    short_polling_time_mills: int = setting(
        "shortPollingTimeMills", 1000, "how long they are held with longPollingEnable=false", PERIOD
    )
    reject_pull_consumer_enable: bool = setting("rejectPullConsumerEnable", False, "refuse pull consumers")
    lite_pull_message_enable: bool = setting("litePullMessageEnable", True, "answer lite pulls")
    max_msgs_num_batch: int = setting("maxMsgsNumBatch", 64, "most messages of one query by key", SIZE)
    default_query_max_num: int = setting("defaultQueryMaxNum", 32, "messages of a query that names no number", SIZE)

    # assignment of queues
    server_load_balancer_enable: bool = setting(
        "serverLoadBalancerEnable", True, "answer requests for queue assignments"
    )
    default_message_request_mode: str = setting(
        "defaultMessageRequestMode", "PULL", "how groups get topics for which nothing was set", choices=("PULL", "POP")
    )
    default_pop_share_queue_num: int = setting(
        "defaultPopShareQueueNum", -1, "members whose queues a popping consumer shares by default; -1: of all"
    )

    # counters
    auto_delete_unused_stats: bool = setting(
        "autoDeleteUnusedStats", True, "deleting a topic or group deletes its counters"
    )

    # kept: read, checked and shown, without effect
    use_static_subscription: bool = kept("useStaticSubscription", False)
    flush_consumer_offset_history_interval: int = kept("flushConsumerOffsetHistoryInterval", 60000)
    pull_batch_max_message_count: int = kept("pullBatchMaxMessageCount", 160)
    transfer_msg_by_heap: bool = kept("transferMsgByHeap", True)
    high_speed_mode: bool = kept("highSpeedMode", False)
    disable_consume_if_consumer_read_slowly: bool = kept("disableConsumeIfConsumerReadSlowly", False)
    consumer_fallbehind_threshold: int = kept("consumerFallbehindThreshold", 16 << 30)
    cold_ctr_strategy_enable: bool = kept("coldCtrStrategyEnable", False)
    cg_cold_read_threshold: int = kept("cgColdReadThreshold", 3_145_728)
    global_cold_read_threshold: int = kept("globalColdReadThreshold", 104_857_600)
    use_pid_cold_ctr_strategy: bool = kept("usePIDColdCtrStrategy", True)
    enable_detail_stat: bool = kept("enableDetailStat", True)
