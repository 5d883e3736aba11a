"""What `fastmq serve`, `fastmq broker` and `fastmq nameserver` run: the one place that knows all parts.

Parts are nested in the order in which they start, and stop in reverse: listeners are bound, the store is opened and
recovered, the reactor's thread starts, the services run, the connections are served. The first SIGTERM, SIGINT or
SIGHUP ends this in order; a second one at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial

import trio

from fastmq import __version__
from fastmq._reactor import Reactor
from fastmq._store import Store
from fastmq.broker.app import Broker
from fastmq.clock import SystemClock
from fastmq.config import BrokerConfig, NamesrvConfig
from fastmq.errors import FastmqError, UsageError
from fastmq.nameserver.app import NameServer
from fastmq.net.server import Listener, Server, Service, open_listener

log = logging.getLogger("fastmq.serve")

SERVICE_BROKER = 0
SERVICE_VIP = 1
SERVICE_NAMESRV = 2

OPEN_FILES_WANTED = 1 << 17

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_AT_ONCE = 130


def run_serve(broker: BrokerConfig, namesrv: NamesrvConfig, *, started: float | None = None) -> int:
    """Name server and broker in one process, in the foreground; returns the exit code."""
    return _run(broker, namesrv, started)


def run_broker(broker: BrokerConfig, *, started: float | None = None) -> int:
    """A broker that registers with the name servers of its configuration."""
    return _run(broker, None, started)


def run_nameserver(namesrv: NamesrvConfig, *, started: float | None = None) -> int:
    """A name server alone."""
    return _run(None, namesrv, started)


def _run(broker: BrokerConfig | None, namesrv: NamesrvConfig | None, started: float | None) -> int:
    begin = time.monotonic() if started is None else started
    raise_file_limit()
    code = EXIT_OK
    try:
        trio.run(_serve, broker, namesrv, begin)
    except* (FastmqError, OSError) as group:
        for error in _leaves(group):
            log.error("%s", _sentence(error))
        code = EXIT_FAILED
    except* KeyboardInterrupt:
        pass
    except* Exception:
        log.critical("fastmq stops because of an unexpected failure", exc_info=True)
        code = EXIT_FAILED
    return code


def _sentence(error: BaseException) -> str:
    """What went wrong, with the file it went wrong with."""
    if isinstance(error, OSError) and error.strerror:
        return f"{os.fspath(error.filename)}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def raise_file_limit(wanted: int = OPEN_FILES_WANTED) -> int:
    """Raise the soft limit of open files as far as the hard one allows: each connection takes one. The new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return soft


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions inside nested groups."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _serve(broker_config: BrokerConfig | None, namesrv_config: NamesrvConfig | None, begin: float) -> None:
    listeners: list[Listener] = []
    services: dict[int, Service] = {}
    store: Store | None = None
    broker: Broker | None = None
    nameserver: NameServer | None = None
    clock = SystemClock()
    try:
        if namesrv_config is not None:
            listener = await open_listener(namesrv_config.bind_address, namesrv_config.listen_port, SERVICE_NAMESRV)
            listeners.append(listener)
            namesrv_config = dataclasses.replace(namesrv_config, listen_port=listener.port)
            nameserver = NameServer(namesrv_config, clock)
            services[SERVICE_NAMESRV] = nameserver
        if broker_config is not None:
            bound = await _open_broker_listeners(broker_config)
            listeners += bound
            broker_config = _settle(broker_config, bound, namesrv_config)
            store = await trio.to_thread.run_sync(partial(open_store, broker_config))
            for sentence in store.recovery_log:
                log.info("recovery: %s", sentence)
        reactor = Reactor(store, hot=broker_config.hot_road_enable if broker_config else False)
        try:
            server = Server(reactor, services)
            if broker_config is not None and store is not None:
                store.start()
                broker = Broker(broker_config, store, clock, reactor=reactor, hot_service=SERVICE_BROKER)
                services[SERVICE_BROKER] = broker
                services[SERVICE_VIP] = broker.vip
            thread = threading.Thread(target=reactor.run, name="fastmq-reactor", daemon=True)
            thread.start()
            try:
                await _serve_until_told(server, listeners, nameserver, broker, begin)
            finally:
                reactor.stop()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(thread.join)
        finally:
            reactor.close()  # it watches the store
    finally:
        for listener in listeners:
            listener.socket.close()
        if store is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(store.close)
    log.info("stopped")


async def _serve_until_told(
    server: Server, listeners: list[Listener], nameserver: NameServer | None, broker: Broker | None, begin: float
) -> None:
    async with trio.open_nursery() as services:
        told = trio.Event()
        await services.start(_watch_signals, told)
        if nameserver is not None:
            services.start_soon(nameserver.run)
        async with trio.open_nursery() as connections:
            await connections.start(server.run, listeners)
            if broker is not None:
                await services.start(broker.run)
            _say_ready(nameserver, broker, begin)
            await told.wait()
            log.info("stopping")
            if broker is not None:
                await broker.drain()
            connections.cancel_scope.cancel()
        if broker is not None:
            await broker.finish()
        services.cancel_scope.cancel()


async def _watch_signals(told: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Set `told` at the first signal, also while the services start; from then on a second one ends the process."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        numbers.append(signal.SIGHUP)
    with trio.open_signal_receiver(*numbers) as signals:
        task_status.started()
        async for _ in signals:
            break
    for number in numbers:
        signal.signal(number, _exit_at_once)
    told.set()


def _exit_at_once(number: int, frame: object) -> None:
    sys.stderr.write("fastmq: told twice to stop, gone at once\n")
    sys.stderr.flush()
    os._exit(EXIT_AT_ONCE)


def _say_ready(nameserver: NameServer | None, broker: Broker | None, begin: float) -> None:
    parts = []
    if nameserver is not None:
        parts.append(f"name server on {nameserver.config.bind_address}:{nameserver.config.listen_port}")
    if broker is not None:
        parts.append(f"broker {broker.config.broker_name} on {broker.config.broker_ip1}:{broker.config.listen_port}")
    took_ms = (time.monotonic() - begin) * 1000
    log.info("fastmq %s is ready after %.0f ms: %s", __version__, took_ms, ", ".join(parts))


async def _open_broker_listeners(config: BrokerConfig) -> list[Listener]:
    bound = [await open_listener(config.bind_address, config.listen_port, SERVICE_BROKER)]
    if config.listen_port == 0 or config.fast_listen_port > 0:
        try:
            bound.append(await open_listener(config.bind_address, config.fast_listen_port, SERVICE_VIP))
        except OSError:
            bound[0].socket.close()
            raise
    return bound


def _settle(config: BrokerConfig, bound: list[Listener], namesrv: NamesrvConfig | None) -> BrokerConfig:
    """The configuration with the ports that were really bound and the embedded name server's address."""
    changes: dict[str, object] = {"listen_port": bound[0].port}
    if len(bound) > 1:
        changes["fast_listen_port"] = bound[1].port
    if namesrv is not None and not config.namesrv_addr:
        host = "127.0.0.1" if namesrv.bind_address in {"0.0.0.0", "::"} else namesrv.bind_address  # noqa: S104  (compared, not bound)
        changes["namesrv_addr"] = f"{host}:{namesrv.listen_port}"
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]  # ports and an address, by name


def _address_in_records(config: BrokerConfig) -> str:
    """`brokerIP1`, which stands in every record and message id. Raises UsageError if it is no IPv4 address."""
    try:
        socket.inet_pton(socket.AF_INET, config.broker_ip1)
    except OSError:
        raise UsageError(
            f"brokerIP1={config.broker_ip1}: must be an IPv4 address; unless it is set it follows bindAddress"
        ) from None
    return config.broker_ip1


def open_store(config: BrokerConfig, options: Mapping[str, object] | None = None) -> Store:
    """The store of a broker's configuration, recovered; its threads are not started yet. Raises StoreError."""
    os.makedirs(config.store_path_root_dir, exist_ok=True)
    return Store(
        config.store_path_root_dir,
        store_host=(_address_in_records(config), config.listen_port),
        commit_log_path=config.store_path_commit_log,
        segment_bytes=config.mapped_file_size_commit_log,
        queue_file_bytes=-(-config.mapped_file_size_consume_queue // 20) * 20,
        index_slots=config.max_hash_slot_num,
        index_entries=config.max_index_num,
        index_enabled=config.message_index_enable,
        sync_flush=config.sync_flush,
        flush_interval_ms=config.flush_interval_commit_log,
        flush_least_pages=config.flush_commit_log_least_pages,
        flush_thorough_interval_ms=config.flush_commit_log_thorough_interval,
        queue_flush_interval_ms=config.flush_interval_consume_queue,
        allocate_step_bytes=config.allocate_step_bytes,
        max_message_bytes=config.max_message_size,
        delay_levels_ms=config.delay_levels_ms,
        check_crc_on_recover=config.check_crc_on_recover,
        ext_enabled=config.enable_consume_queue_ext,
        ext_file_bytes=config.mapped_file_size_consume_queue_ext,
        light_queues=config.light_queues,
        max_light_queues=config.max_lmq_consume_queue_num,
        **(options or {}),  # type: ignore[arg-type]  # what tests add, by name
    )
