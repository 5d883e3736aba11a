"""Files: where they are, how large, when they are flushed and when deleted. From RocketMQ's MessageStoreConfig."""

from __future__ import annotations

from dataclasses import dataclass

from fastmq import limits
from fastmq.config.setting import COUNT, INT, PERIOD, SIZE, Config, kept, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class StoreSettings(Config):
    """Files, flushing, reading, retention."""

    # where and what
    store_path_root_dir: str = setting("storePathRootDir", "store", "store directory; unset: $HOME/store")
    store_path_commit_log: str = setting(
        "storePathCommitLog", "", "commit log; unset: commitlog in the store directory"
    )
    store_type: str = setting("storeType", "default", "only `default` is built", choices=("default", "defaultRocksDB"))
    message_store_plug_in: str = setting("messageStorePlugIn", "", "Java classes: any name is refused")

    # files
    mapped_file_size_commit_log: int = setting(
        "mappedFileSizeCommitLog",
        1 << 30,
        "size of a commit log file",
        (limits.MIN_SEGMENT_BYTES, limits.MAX_SEGMENT_BYTES),
    )
    mapped_file_size_consume_queue: int = setting(
        "mappedFileSizeConsumeQueue", 6_000_000, "size of a consume queue file, made a multiple of 20", SIZE
    )
    enable_consume_queue_ext: bool = setting(
        "enableConsumeQueueExt", False, "keep bit maps of filters beside queue entries; read at start"
    )
    mapped_file_size_consume_queue_ext: int = setting(
        "mappedFileSizeConsumeQueueExt", 50_331_648, "bytes of a consumequeue_ext file", (2048, (1 << 31) - 1)
    )
    allocate_step_bytes: int = setting(
        "allocateStepBytes",
        limits.ALLOCATE_STEP_BYTES,
        "disk space reserved ahead of the commit log's end",
        (65_536, limits.MAX_SEGMENT_BYTES),
        own=True,
    )

    # flushing
    flush_disk_type: str = setting(
        "flushDiskType",
        "ASYNC_FLUSH",
        "SYNC_FLUSH answers a send once it is on disk",
        choices=("ASYNC_FLUSH", "SYNC_FLUSH"),
    )
    sync_flush_timeout: int = setting("syncFlushTimeout", 5000, "longest wait for a synchronous flush", PERIOD)
    flush_interval_commit_log: int = setting("flushIntervalCommitLog", 500, "time between flushes of the log", PERIOD)
    flush_commit_log_least_pages: int = setting(
        "flushCommitLogLeastPages", 4, "fewer new pages (4 KiB) are not worth a flush", INT
    )
    flush_commit_log_thorough_interval: int = setting(
        "flushCommitLogThoroughInterval", 10_000, "flush however little there is after", PERIOD
    )
    flush_interval_consume_queue: int = setting(
        "flushIntervalConsumeQueue", 1000, "time between flushes of the queues", PERIOD
    )

    # retention
    file_reserved_time: int = setting("fileReservedTime", 72, "hours that a commit log file is kept", INT)
    file_reserved_bytes: int = setting(
        "fileReservedBytes",
        0,
        "largest commit log; older files are deleted above it; 0: no limit",
        (0, 1 << 62),
        own=True,
    )
    delete_when: str = setting("deleteWhen", "04", "hours of the day for deleting, `;` between them")
    clean_resource_interval: int = setting("cleanResourceInterval", 10_000, "how often retention looks", PERIOD)
    disk_max_used_space_ratio: int = setting(
        "diskMaxUsedSpaceRatio", 75, "percent used: above, expired files go at any hour", (10, 95), clamp=True
    )
    disk_space_clean_forcibly_ratio: int = setting(
        "diskSpaceCleanForciblyRatio", 85, "percent used: above, files go whatever their age", (30, 85), clamp=True
    )
    disk_space_warning_level_ratio: int = setting(
        "diskSpaceWarningLevelRatio", 90, "percent used: above, sends are refused", (35, 90), clamp=True
    )
    delete_file_batch_max: int = setting("deleteFileBatchMax", 10, "most files deleted in one round", COUNT)
    clean_file_forcibly_enable: bool = setting("cleanFileForciblyEnable", True, "allow deleting whatever the age")

    # reading
    max_transfer_bytes_on_message_in_memory: int = setting(
        "maxTransferBytesOnMessageInMemory", 262_144, "bytes of one pull answer from memory", SIZE
    )
    max_transfer_count_on_message_in_memory: int = setting(
        "maxTransferCountOnMessageInMemory", 32, "messages of one pull answer from memory", SIZE
    )
    access_message_in_memory_max_ratio: int = setting(
        "accessMessageInMemoryMaxRatio", 40, "percent of memory that counts as holding the newest messages", (1, 100)
    )

    # index
    message_index_enable: bool = setting("messageIndexEnable", True, "index messages by key")
    max_hash_slot_num: int = setting("maxHashSlotNum", 5_000_000, "hash slots of an index file", SIZE)
    max_index_num: int = setting("maxIndexNum", 20_000_000, "entries of an index file", SIZE)

    # recovery
    check_crc_on_recover: bool = setting("checkCRCOnRecover", True, "recovery checks bodies")

    # kept: read, checked and shown, without effect
    bit_map_length_consume_queue_ext: int = kept("bitMapLengthConsumeQueueExt", 64)
    mapper_file_size_batch_consume_queue: int = kept("mapperFileSizeBatchConsumeQueue", 13_800_000)
    transient_store_pool_enable: bool = kept("transientStorePoolEnable", False)
    transient_store_pool_size: int = kept("transientStorePoolSize", 5)
    fast_fail_if_no_buffer_in_store_pool: bool = kept("fastFailIfNoBufferInStorePool", False)
    warm_maped_file_enable: bool = kept("warmMapedFileEnable", False)
    flush_least_pages_when_warm_maped_file: int = kept("flushLeastPagesWhenWarmMapedFile", 4096)
    write_without_mmap: bool = kept("writeWithoutMmap", False)
    put_consume_queue_data_by_file_channel: bool = kept("putConsumeQueueDataByFileChannel", True)
    enable_compaction: bool = kept("enableCompaction", True)
    put_message_timeout: int = kept("putMessageTimeout", 8000)
    os_page_cache_busy_time_out_mills: int = kept("osPageCacheBusyTimeOutMills", 1000)
    use_reentrant_lock_when_put_message: bool = kept("useReentrantLockWhenPutMessage", True)
    topic_queue_lock_num: int = kept("topicQueueLockNum", 32)
    auto_message_version_on_topic_len: bool = kept("autoMessageVersionOnTopicLen", True)
    enabled_append_prop_crc: bool = kept("enabledAppendPropCRC", False)
    force_verify_prop_crc: bool = kept("forceVerifyPropCRC", False)
    flush_commit_log_timed: bool = kept("flushCommitLogTimed", True)
    commit_interval_commit_log: int = kept("commitIntervalCommitLog", 200)
    commit_commit_log_least_pages: int = kept("commitCommitLogLeastPages", 4)
    commit_commit_log_thorough_interval: int = kept("commitCommitLogThoroughInterval", 200)
    flush_consume_queue_least_pages: int = kept("flushConsumeQueueLeastPages", 2)
    flush_consume_queue_thorough_interval: int = kept("flushConsumeQueueThoroughInterval", 60000)
    delete_commit_log_files_interval: int = kept("deleteCommitLogFilesInterval", 100)
    delete_consume_queue_files_interval: int = kept("deleteConsumeQueueFilesInterval", 100)
    destroy_maped_file_interval_forcibly: int = kept("destroyMapedFileIntervalForcibly", 120_000)
    redelete_hanged_file_interval: int = kept("redeleteHangedFileInterval", 120_000)
    max_transfer_bytes_on_message_in_disk: int = kept("maxTransferBytesOnMessageInDisk", 65_536)
    max_transfer_count_on_message_in_disk: int = kept("maxTransferCountOnMessageInDisk", 8)
    access_message_in_memory_hot_ratio: int = kept("accessMessageInMemoryHotRatio", 26)
    data_read_ahead_enable: bool = kept("dataReadAheadEnable", True)
    travel_cq_file_num_when_get_message: int = kept("travelCqFileNumWhenGetMessage", 1)
    cold_data_flow_control_enable: bool = kept("coldDataFlowControlEnable", False)
    cold_data_scan_enable: bool = kept("coldDataScanEnable", False)
    read_un_committed: bool = kept("readUnCommitted", False)
    disk_fall_recorded: bool = kept("diskFallRecorded", True)
    message_index_safe: bool = kept("messageIndexSafe", False)
