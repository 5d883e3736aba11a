"""NamesrvConfig: all that a name server can be told (RocketMQ's NamesrvConfig and NettyServerConfig)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fastmq.config.server import ServerSettings
from fastmq.config.setting import INT, PERIOD, PORT, kept, setting
from fastmq.errors import UsageError


@dataclass(frozen=True, kw_only=True, repr=False)
class NamesrvConfig(ServerSettings):
    """Everything a name server can be told. Times are milliseconds unless the name says otherwise."""

    environment_prefix: ClassVar[str] = "FASTMQ_NAMESRV_"

    listen_port: int = setting("listenPort", 9876, "port to listen on; 0 picks a free one", PORT)
    kv_config_path: str = setting("kvConfigPath", "kvConfig.json", "the KV table; unset: $HOME/namesrv/kvConfig.json")
    config_store_path: str = setting(
        "configStorePath",
        "namesrv.properties",
        "where updateNamesrvConfig writes; unset: the file given, else $HOME/namesrv/namesrv.properties",
    )
    order_message_enable: bool = setting("orderMessageEnable", False, "routes carry the order configuration")
    return_order_topic_config_to_broker: bool = setting(
        "returnOrderTopicConfigToBroker", True, "registrations are answered with the order configuration"
    )
    scan_not_active_broker_interval: int = setting(
        "scanNotActiveBrokerInterval", 5000, "how often expired brokers are looked for", PERIOD
    )
    support_acting_master: bool = setting(
        "supportActingMaster", False, "a group without master shows its smallest id as one"
    )
    enable_all_topic_list: bool = setting("enableAllTopicList", True, "answer requests for all topics")
    enable_topic_list: bool = setting("enableTopicList", True, "answer requests for some topics")
    notify_min_broker_id_changed: bool = setting(
        "notifyMinBrokerIdChanged", False, "tell a group's members when its smallest id changes"
    )
    need_wait_for_service: bool = setting("needWaitForService", False, "refuse route requests right after the start")
    wait_seconds_for_service: int = setting("waitSecondsForService", 45, "for how long (s)", INT)
    delete_topic_with_broker_registration: bool = setting(
        "deleteTopicWithBrokerRegistration", False, "a registration removes the topics it does not name"
    )
    config_black_list: str = setting(
        "configBlackList", "configBlackList;configStorePath;kvConfigPath", "properties that updateNamesrvConfig refuses"
    )
    enable_controller_in_namesrv: bool = setting("enableControllerInNamesrv", False, "not built yet, true is refused")

    # kept: read, checked and shown, without effect
    client_request_thread_pool_nums: int = kept("clientRequestThreadPoolNums", 8)
    client_request_thread_pool_queue_capacity: int = kept("clientRequestThreadPoolQueueCapacity", 50000)
    default_thread_pool_nums: int = kept("defaultThreadPoolNums", 16)
    default_thread_pool_queue_capacity: int = kept("defaultThreadPoolQueueCapacity", 10000)
    product_env_name: str = kept("productEnvName", "center")
    cluster_test: bool = kept("clusterTest", False)
    un_register_broker_queue_capacity: int = kept("unRegisterBrokerQueueCapacity", 3000)

    def check(self) -> None:
        if self.enable_controller_in_namesrv:
            raise UsageError("enableControllerInNamesrv=true: the controller is not built yet")
        if not self.bind_address.strip():
            raise UsageError("bindAddress must not be empty")
