"""Delivery beyond a plain send and pull: delays, timers, transactions, filters, POP, light queues.

From RocketMQ's BrokerConfig and MessageStoreConfig.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastmq.config.setting import INT, LONG, PERIOD, SIZE, Config, kept, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class DeliverySettings(Config):
    """Delays, timers, transactions, filters, POP, light queues."""

    # delay levels
    message_delay_level: str = setting(
        "messageDelayLevel",
        "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
        "delays of levels 1, 2, ... in s, m, h or d",
    )
    flush_delay_offset_interval: int = setting(
        "flushDelayOffsetInterval", 10_000, "how often the progress of delayed messages goes to disk", PERIOD
    )
    delay_offset_update_version_step: int = setting(
        "delayOffsetUpdateVersionStep", 200, "deliveries per step of the delay table's version", (1, LONG - 1)
    )

    # timers
    timer_wheel_enable: bool = setting("timerWheelEnable", True, "take messages for any time")
    timer_max_delay_sec: int = setting(
        "timerMaxDelaySec", 259_200, "longest time a timer message may wait, in seconds", (0, 1 << 40)
    )
    timer_precision_ms: int = setting(
        "timerPrecisionMs", 1000, "width of a slot of the timer file: 100, 200, 500 or 1000; delivery is exact anyway"
    )
    timer_roll_window_slot: int = setting(
        "timerRollWindowSlot", 172_800, "a timer message that waits for more slots is stored anew on the way"
    )
    timer_congest_num_each_slot: int = setting(
        "timerCongestNumEachSlot",
        2_147_483_647,
        "above so many messages in a slot some are refused, above twice as many all",
        (1, LONG - 1),
    )
    timer_flush_interval_ms: int = setting(
        "timerFlushIntervalMs", 1000, "how often the progress of timer messages goes to disk", PERIOD
    )
    mapped_file_size_timer_log: int = setting("mappedFileSizeTimerLog", 104_857_600, "size of a timer log file", SIZE)
    recall_message_enable: bool = setting(
        "recallMessageEnable", False, "clients may take timer messages back before they are due"
    )
    allow_recall_when_broker_not_writeable: bool = setting(
        "allowRecallWhenBrokerNotWriteable", True, "also while brokerPermission forbids sends"
    )

    # transactions
    reject_transaction_message: bool = setting("rejectTransactionMessage", False, "refuse sends in transactions")
    transaction_time_out: int = setting(
        "transactionTimeOut",
        6000,
        "age from which the producers of an open transaction are asked",
        (0, LONG - 1),
    )
    transaction_check_max: int = setting(
        "transactionCheckMax", 15, "how often they are asked about one transaction", INT
    )
    transaction_check_interval: int = setting("transactionCheckInterval", 30_000, "between two rounds of that", PERIOD)
    transaction_op_msg_max_size: int = setting(
        "transactionOpMsgMaxSize", 4096, "text of an op message that is written at once", (1, 1 << 20)
    )
    transaction_op_batch_interval: int = setting(
        "transactionOpBatchInterval", 3000, "longest wait of an op message; above 20 it is 20", PERIOD
    )
    transaction_metric_flush_interval: int = setting(
        "transactionMetricFlushInterval", 10_000, "how often to write transactionMetrics", PERIOD
    )

    # filters
    enable_property_filter: bool = setting("enablePropertyFilter", False, "let consumers filter by SQL92")
    filter_support_retry: bool = setting(
        "filterSupportRetry", False, "SQL92 filters of retry topics are those of the topics of origin"
    )
    max_filter_message_size: int = setting(
        "maxFilterMessageSize", 16000, "bytes of queue entries (20 a message) one filtered pull looks at", (20, 1 << 24)
    )
    enable_calc_filter_bit_map: bool = setting(
        "enableCalcFilterBitMap", False, "evaluate SQL92 filters when a message is stored, for its bit map"
    )
    expect_consumer_num_use_filter: int = setting(
        "expectConsumerNumUseFilter", 32, "groups with SQL92 filters a topic, for the bloom filter", (1, 1_000_000)
    )
    max_error_rate_of_bloom_filter: int = setting(
        "maxErrorRateOfBloomFilter", 20, "percent of messages that the bloom filter may pass for nothing", (1, 99)
    )
    filter_data_clean_time_span: int = setting(
        "filterDataCleanTimeSpan", 86_400_000, "ms after which the filter of a group that left is forgotten", PERIOD
    )

    # light queues
    enable_lmq: bool = setting("enableLmq", False, "topics and groups that begin with %LMQ% need no creation")
    enable_multi_dispatch: bool = setting(
        "enableMultiDispatch", False, "with enableLmq: messages go to the %LMQ% queues they name; read at start"
    )
    max_lmq_consume_queue_num: int = setting(
        "maxLmqConsumeQueueNum", 20000, "%LMQ% queues there may be; read at start", INT
    )

    # POP
    revive_queue_num: int = setting("reviveQueueNum", 8, "queues of the pop revive topic", (1, 1024))
    revive_interval: int = setting(
        "reviveInterval", 1000, "longest pause between looks at the pop revive topic", PERIOD
    )
    pop_polling_size: int = setting("popPollingSize", 1024, "pops that may wait for one group, topic and queue")
    pop_polling_map_size: int = setting(
        "popPollingMapSize", 100_000, "groups, topics and queues for which pops may wait"
    )
    max_pop_polling_size: int = setting("maxPopPollingSize", 100_000, "pops that may wait at once")
    pop_long_polling_force_notify_interval: int = setting(
        "popLongPollingForceNotifyInterval", 800, "messages of other tags that wake a waiting pop; 0: none do"
    )
    enable_notify_after_pop_order_lock_release: bool = setting(
        "enableNotifyAfterPopOrderLockRelease", True, "wake waiting pops when an ordered queue is free again"
    )
    pop_from_retry_probability: int = setting(
        "popFromRetryProbability", 20, "percent of pops that look into the retry topic first", (0, 100)
    )
    enable_retry_topic_v2: bool = setting(
        "enableRetryTopicV2", False, "pop retry topics are %RETRY%group+topic, not group_topic"
    )
    retrieve_message_from_pop_retry_topic_v1: bool = setting(
        "retrieveMessageFromPopRetryTopicV1", True, "with V2, half of the pops look into the V1 retry topic"
    )
    enable_pop_message_threshold: bool = setting(
        "enablePopMessageThreshold", False, "stop popping while too many messages of a queue are in flight"
    )
    pop_inflight_message_threshold: int = setting(
        "popInflightMessageThreshold", 10000, "how many are too many", (0, LONG - 1)
    )
    init_pop_offset_by_check_msg_in_mem: bool = setting(
        "initPopOffsetByCheckMsgInMem", True, "a new pop group begins at 0 while message 0 is in memory"
    )
    pop_response_return_actual_retry_topic: bool = setting(
        "popResponseReturnActualRetryTopic", False, "popped messages keep the name of their retry topic"
    )

    # kept: read, checked and shown, without effect
    revive_scan_time: int = kept("reviveScanTime", 10000)
    revive_max_slow: int = kept("reviveMaxSlow", 3)
    enable_pop_buffer_merge: bool = kept("enablePopBufferMerge", False)
    pop_ck_stay_buffer_time: int = kept("popCkStayBufferTime", 10000)
    pop_ck_stay_buffer_time_out: int = kept("popCkStayBufferTimeOut", 3000)
    pop_ck_max_buffer_size: int = kept("popCkMaxBufferSize", 200_000)
    pop_ck_offset_max_queue_size: int = kept("popCkOffsetMaxQueueSize", 20000)
    pop_polling_map_expire_time_seconds: int = kept("popPollingMapExpireTimeSeconds", 600)
    pop_revive_max_return_size_per_read: int = kept("popReviveMaxReturnSizePerRead", 16384)
    pop_revive_max_attempt_times: int = kept("popReviveMaxAttemptTimes", 16)
    pop_consumer_fs_service_init: bool = kept("popConsumerFSServiceInit", True)
    pop_consumer_kv_service_enable: bool = kept("popConsumerKVServiceEnable", False)
    enable_pop_batch_ack: bool = kept("enablePopBatchAck", False)
    enable_skip_long_awaiting_ack: bool = kept("enableSkipLongAwaitingAck", False)
    revive_ack_wait_ms: int = kept("reviveAckWaitMs", 180_000)
