"""Who the broker is and how it is reached: names, addresses, name servers, what is served under load.

From RocketMQ's BrokerConfig.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastmq.config.server import ServerSettings
from fastmq.config.setting import LONG, PERIOD, PORT, kept, setting


@dataclass(frozen=True, kw_only=True, repr=False)
class NetworkSettings(ServerSettings):
    """Names, addresses, ports, registration, overload."""

    # the broker itself
    broker_cluster_name: str = setting("brokerClusterName", "DefaultCluster", "name of the cluster")
    broker_name: str = setting("brokerName", "DEFAULT_BROKER", "name of the broker; unset: the name of the machine")
    broker_id: int = setting("brokerId", 0, "0 for a master", (0, LONG - 1))
    region_id: str = setting("regionId", "DefaultRegion", "region told to clients in send replies")
    broker_config_path: str = setting("brokerConfigPath", "", "the file that updates at run time are written to")

    # addresses
    broker_ip1: str = setting("brokerIP1", "127.0.0.1", "address told to clients; unset: what bindAddress suggests")
    broker_ip2: str = setting("brokerIP2", "127.0.0.1", "address told to replicas; unset: as brokerIP1")
    listen_port: int = setting("listenPort", 10911, "port for clients; 0 picks a free one", PORT)
    fast_listen_port: int = setting(
        "fastListenPort", 0, "port for old clients' VIP channel; 0: listenPort - 2; -1: none", (-1, 65_535), own=True
    )

    # who may do what
    acl_enable: bool = setting("aclEnable", False, "access control: not built yet, true is refused")

    # name servers
    namesrv_addr: str = setting(
        "namesrvAddr", "", "name servers, `host:port;host:port`; unset: NAMESRV_ADDR", list_of_addresses=True
    )
    register_name_server_period: int = setting(
        "registerNameServerPeriod", 30_000, "how often to register", (10_000, 60_000), clamp=True
    )
    register_broker_timeout_mills: int = setting(
        "registerBrokerTimeoutMills", 24_000, "time limit of one registration", PERIOD
    )
    compressed_register: bool = setting("compressedRegister", False, "pack the registration with zlib")

    # requests that come too late
    broker_fast_failure_enable: bool = setting(
        "brokerFastFailureEnable", True, "refuse requests that keep coming too late"
    )
    wait_time_mills_in_send_queue: int = setting(
        "waitTimeMillsInSendQueue", 200, "ms after which a waiting send is late", (0, LONG - 1)
    )
    wait_time_mills_in_pull_queue: int = setting("waitTimeMillsInPullQueue", 5000, "the same for a pull", (0, LONG - 1))
    wait_time_mills_in_heartbeat_queue: int = setting(
        "waitTimeMillsInHeartbeatQueue", 31000, "the same for a heartbeat", (0, LONG - 1)
    )
    wait_time_mills_in_transaction_queue: int = setting(
        "waitTimeMillsInTransactionQueue", 3000, "the same for the end of a transaction", (0, LONG - 1)
    )
    wait_time_mills_in_ack_queue: int = setting("waitTimeMillsInAckQueue", 3000, "the same for an ack", (0, LONG - 1))
    wait_time_mills_in_admin_broker_queue: int = setting(
        "waitTimeMillsInAdminBrokerQueue", 5000, "the same for all others", (0, LONG - 1)
    )

    # how requests are served
    hot_road_enable: bool = setting("hotRoadEnable", True, "answer common requests without Python", own=True)
    send_thread_pool_queue_capacity: int = setting("sendThreadPoolQueueCapacity", 10000, "shown by brokerStatus")
    pull_thread_pool_queue_capacity: int = setting("pullThreadPoolQueueCapacity", 100_000, "shown by brokerStatus")

    # kept: read, checked and shown, without effect
    config_manager_version: str = kept("configManagerVersion", "v1")
    disappear_time_after_start: int = kept("disappearTimeAfterStart", -1)
    force_register: bool = kept("forceRegister", True)
    enable_single_topic_register: bool = kept("enableSingleTopicRegister", False)
    enable_split_registration: bool = kept("enableSplitRegistration", False)
    split_registration_size: int = kept("splitRegistrationSize", 800)
    fetch_namesrv_addr_by_address_server: bool = kept("fetchNamesrvAddrByAddressServer", False)
    fetch_name_srv_addr_by_dns_lookup: bool = kept("fetchNameSrvAddrByDnsLookup", False)
    update_name_server_addr_period: int = kept("updateNameServerAddrPeriod", 120_000)
    compatible_with_old_name_srv: bool = kept("compatibleWithOldNameSrv", True)
    send_message_thread_pool_nums: int = kept("sendMessageThreadPoolNums", 4)
    pull_message_thread_pool_nums: int = kept("pullMessageThreadPoolNums", 20)
    query_message_thread_pool_nums: int = kept("queryMessageThreadPoolNums", 10)
    admin_broker_thread_pool_nums: int = kept("adminBrokerThreadPoolNums", 16)
    client_manage_thread_pool_nums: int = kept("clientManageThreadPoolNums", 32)
    consumer_manage_thread_pool_nums: int = kept("consumerManageThreadPoolNums", 32)
    heartbeat_thread_pool_nums: int = kept("heartbeatThreadPoolNums", 2)
    end_transaction_thread_pool_nums: int = kept("endTransactionThreadPoolNums", 12)
    ack_message_thread_pool_nums: int = kept("ackMessageThreadPoolNums", 16)
    process_reply_message_thread_pool_nums: int = kept("processReplyMessageThreadPoolNums", 20)
    async_send_enable: bool = kept("asyncSendEnable", True)
    enable_net_work_flow_control: bool = kept("enableNetWorkFlowControl", False)
    metrics_exporter_type: str = kept("metricsExporterType", "DISABLE")
    metrics_prom_exporter_port: int = kept("metricsPromExporterPort", 5557)
    enable_fast_channel_event_process: bool = kept("enableFastChannelEventProcess", False)
