"""BrokerConfig: all that a broker can be told, checked as a whole."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastmq import limits
from fastmq.config.delivery import DeliverySettings
from fastmq.config.network import NetworkSettings
from fastmq.config.replication import MASTER_ROLES, ReplicationSettings
from fastmq.config.setting import setting
from fastmq.config.store import StoreSettings
from fastmq.config.topics import TopicSettings
from fastmq.config.values import check_delete_when, check_ports, parse_addresses, parse_delay_levels
from fastmq.errors import UsageError


@dataclass(frozen=True, kw_only=True, repr=False)
class BrokerConfig(NetworkSettings, TopicSettings, DeliverySettings, StoreSettings, ReplicationSettings):
    """Everything a broker can be told. Sizes are bytes, times are milliseconds unless the name says otherwise."""

    config_black_list: str = setting(
        "configBlackList", "configBlackList;brokerConfigPath", "properties that updateBrokerConfig refuses"
    )

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
        check_delete_when(self.delete_when)
        check_ports(listenPort=self.listen_port, fastListenPort=self.fast_listen_port, haListenPort=self.ha_listen_port)
