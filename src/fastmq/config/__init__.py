"""File, environment and flags become one frozen, checked value: BrokerConfig or NamesrvConfig.

A setting has RocketMQ's property name on the outside (`listenPort`) and that name in snake case inside (`listen_port`).
BrokerConfig joins the properties of RocketMQ's BrokerConfig, NettyServerConfig and MessageStoreConfig, as broker.conf
does; they stand by subject in `server`, `network`, `topics`, `delivery`, `store` and `replication`. Settings made with
`kept` change nothing in fastmq: they are read, checked, shown by getBrokerConfig and noted.

Later sources win: defaults, properties file, environment (`FASTMQ_LISTEN_PORT`, for the name server
`FASTMQ_NAMESRV_LISTEN_PORT`), command line.
"""

from fastmq.config.broker import BrokerConfig
from fastmq.config.loading import Host, environment_name, first_local_address, load_broker_config, load_namesrv_config
from fastmq.config.nameserver import NamesrvConfig
from fastmq.config.replication import MASTER_ROLES
from fastmq.config.setting import ConfigUpdate, Setting, format_value, settings
from fastmq.config.values import parse_addresses, parse_delay_levels
from fastmq.properties import parse_properties

__all__ = [
    "MASTER_ROLES",
    "BrokerConfig",
    "ConfigUpdate",
    "Host",
    "NamesrvConfig",
    "Setting",
    "environment_name",
    "first_local_address",
    "format_value",
    "load_broker_config",
    "load_namesrv_config",
    "parse_addresses",
    "parse_delay_levels",
    "parse_properties",
    "settings",
]
