"""Replicas and controllers: nothing of it is built; what would be dangerous to ignore is refused."""

from __future__ import annotations

from dataclasses import dataclass

from fastmq.config.setting import COUNT, Config, kept, setting

MASTER_ROLES = ("ASYNC_MASTER", "SYNC_MASTER")


@dataclass(frozen=True, kw_only=True, repr=False)
class ReplicationSettings(Config):
    """Roles, replicas, controllers."""

    # roles
    broker_role: str = setting(
        "brokerRole", "ASYNC_MASTER", "SLAVE is refused: replication is not built yet", choices=(*MASTER_ROLES, "SLAVE")
    )
    in_sync_replicas: int = setting("inSyncReplicas", 1, "above 1 is refused: replication is not built yet", COUNT)
    ha_listen_port: int = setting(
        "haListenPort", 0, "port for replicas, told to the name servers; 0: listenPort + 1", (-1, 65_535)
    )
    enable_d_leger_commit_log: bool = setting("enableDLegerCommitLog", False, "not built, true is refused")
    enable_controller_mode: bool = setting("enableControllerMode", False, "not built yet, true is refused")

    # kept: read, checked and shown, without effect
    slave_read_enable: bool = kept("slaveReadEnable", False)
    ha_master_address: str = kept("haMasterAddress", "")
    ha_send_heartbeat_interval: int = kept("haSendHeartbeatInterval", 5000)
    ha_housekeeping_interval: int = kept("haHousekeepingInterval", 20000)
    ha_transfer_batch_size: int = kept("haTransferBatchSize", 32768)
    ha_max_gap_not_in_sync: int = kept("haMaxGapNotInSync", 268_435_456)
    ha_flow_control_enable: bool = kept("haFlowControlEnable", False)
    max_ha_transfer_byte_in_second: int = kept("maxHaTransferByteInSecond", 104_857_600)
    ha_max_time_slave_not_catchup: int = kept("haMaxTimeSlaveNotCatchup", 15000)
    slave_timeout: int = kept("slaveTimeout", 3000)
    offset_check_in_slave: bool = kept("offsetCheckInSlave", False)
    duplication_enable: bool = kept("duplicationEnable", False)
    total_replicas: int = kept("totalReplicas", 1)
    min_in_sync_replicas: int = kept("minInSyncReplicas", 1)
    all_ack_in_sync_state_set: bool = kept("allAckInSyncStateSet", False)
    enable_auto_in_sync_replicas: bool = kept("enableAutoInSyncReplicas", False)
    sync_from_last_file: bool = kept("syncFromLastFile", False)
    async_learner: bool = kept("asyncLearner", False)
    lock_in_strict_mode: bool = kept("lockInStrictMode", False)
    broker_heartbeat_interval: int = kept("brokerHeartbeatInterval", 1000)
    broker_not_active_timeout_millis: int = kept("brokerNotActiveTimeoutMillis", 10000)
    enable_slave_acting_master: bool = kept("enableSlaveActingMaster", False)
    enable_remote_escape: bool = kept("enableRemoteEscape", False)
    skip_pre_online: bool = kept("skipPreOnline", False)
    controller_addr: str = kept("controllerAddr", "")
    broker_election_priority: int = kept("brokerElectionPriority", 2_147_483_647)
    sync_broker_metadata_period: int = kept("syncBrokerMetadataPeriod", 5000)
    check_sync_state_set_period: int = kept("checkSyncStateSetPeriod", 5000)
    sync_controller_metadata_period: int = kept("syncControllerMetadataPeriod", 10000)
    controller_heart_beat_timeout_mills: int = kept("controllerHeartBeatTimeoutMills", 10000)
