"""A name server: tables, KV file, configuration, and the two tasks that act without being asked.

Any number of them may live in one process; none knows another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from fastmq.clock import Clock
from fastmq.config import NamesrvConfig
from fastmq.errors import RequestError
from fastmq.nameserver.handlers import DANGEROUS, HANDLERS
from fastmq.nameserver.kv import KvConfig
from fastmq.nameserver.routes import Member, MinBrokerIdChange, RouteTables
from fastmq.net.channel import connect
from fastmq.net.server import Reply
from fastmq.properties import update_file
from fastmq.protocol.codes import RequestCode, ResponseCode
from fastmq.protocol.command import ONEWAY_FLAG, Command
from fastmq.protocol.headers import NotifyMinBrokerIdChangeRequest

if TYPE_CHECKING:
    from fastmq.net.server import Peer

log = logging.getLogger("fastmq.nameserver")

NOTICE_TIMEOUT_SECONDS = 3.0
NOTICES_KEPT = 1000  # waiting to be sent; more are dropped, brokers also ask by themselves


class NameServer:
    """Serves the requests that `handlers.HANDLERS` names. Raises StoreError if the KV file cannot be read.

    `run` must be running for brokers to expire and for notices to go out.
    """

    def __init__(self, config: NamesrvConfig, clock: Clock) -> None:
        self.config = config
        self.routes = RouteTables()
        self.kv = KvConfig.open(config.kv_config_path)
        self._clock = clock
        self._started = clock.monotonic()
        self._peers: dict[int, Peer] = {}  # that a broker registered on
        self._notices_in, self._notices_out = trio.open_memory_channel[MinBrokerIdChange](NOTICES_KEPT)

    def handle(self, peer: Peer, request: Command) -> Reply | None:
        """Answer a request. Raises RequestError for one that is refused."""
        handler = HANDLERS.get(request.code)
        if handler is None:
            # the leading blank is RocketMQ's
            return Reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f" request type {request.code} not supported")
        if request.code in DANGEROUS and self.config.admin_from_loopback_only and not peer.local:
            log.warning("refused %s from %s", RequestCode(request.code).name, peer.address)
            raise RequestError(
                ResponseCode.NO_PERMISSION,
                f"{RequestCode(request.code).name} is taken from the name server's own machine only "
                "(adminFromLoopbackOnly)",
            )
        reply = handler(self, peer, request)
        if request.code == RequestCode.REGISTER_BROKER:
            self._peers[peer.id] = peer
        return reply

    def refuse(self, request: Command, waited_ms: int, behind: int) -> Reply | None:
        """Nothing: what a name server answers is never too late."""
        return None

    def resume(self, peer: Peer, request: Command) -> Reply | None:
        """Nothing of a name server is ever held."""
        return self.handle(peer, request)

    def closed(self, peer: Peer) -> None:
        """A connection ended: the brokers that registered on it last are gone."""
        self._peers.pop(peer.id, None)
        gone = self.routes.members_on(peer.id)
        if gone:
            log.info("lost the connection of %s: %s", peer.address, _named(gone))
            self.unregister(gone)

    async def run(self) -> None:
        """Look for silent brokers and send notices, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_notices)
            while True:
                await trio.sleep(self.config.scan_not_active_broker_interval / 1000)
                self.expire()

    def expire(self) -> None:
        """Take out brokers that were not heard of for too long, and close their connections."""
        late, connections = self.routes.expired(self.now_ms())
        if not late:
            return
        log.warning("not heard of for too long: %s", _named(late))
        self.unregister(late)
        for connection in connections:
            peer = self._peers.pop(connection, None)
            if peer is not None:
                peer.close()

    # --- for the handlers ----------------------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Monotonic milliseconds: registrations must not expire because the wall clock was set."""
        return int(self._clock.monotonic() * 1000)

    @property
    def uptime_seconds(self) -> float:
        """How long it has been up."""
        return self._clock.monotonic() - self._started

    def unregister(self, members: Iterable[Member]) -> None:
        """Take brokers out of the tables and tell those who remain."""
        self.announce(self.routes.unregister(members))

    def announce(self, changes: Iterable[MinBrokerIdChange]) -> None:
        """Have brokers told that the smallest id of their group changed, if notifyMinBrokerIdChanged is on."""
        if not self.config.notify_min_broker_id_changed:
            return
        for change in changes:
            try:
                self._notices_in.send_nowait(change)
            except trio.WouldBlock:
                log.warning("too many notices wait: dropped one for %s", change.broker_name)

    def update_config(self, updates: Mapping[str, str]) -> None:
        """Apply settings by property name, write them to configStorePath. UsageError, OSError: nothing changed."""
        update = self.config.with_updates(updates)
        if update.unknown:
            log.warning("unknown properties are ignored: %s", ", ".join(update.unknown))
        if update.applied:
            update_file(self.config.config_store_path, {name: updates[name] for name in update.applied})
            log.info("settings changed: %s", ", ".join(update.applied))
        self.config = update.config

    async def _send_notices(self) -> None:
        async with trio.open_nursery() as nursery:
            async for change in self._notices_out:
                for address in change.notify:
                    nursery.start_soon(_notify, address, change)


async def _notify(address: str, change: MinBrokerIdChange) -> None:
    """Send NOTIFY_MIN_BROKER_ID_CHANGE to one broker, on a connection of its own; failures are only logged."""
    header = NotifyMinBrokerIdChangeRequest(
        min_broker_id=change.min_broker_id,
        broker_name=change.broker_name,
        min_broker_addr=change.min_broker_address,
        offline_broker_addr=change.offline_address,
        ha_broker_addr=change.ha_address,
    )
    command = Command(RequestCode.NOTIFY_MIN_BROKER_ID_CHANGE, flag=ONEWAY_FLAG, ext=header.encode())
    host, _, port = address.rpartition(":")
    try:
        with trio.fail_after(NOTICE_TIMEOUT_SECONDS):
            async with connect(host.strip("[]"), int(port)) as channel:
                await channel.oneway(command)
    except (OSError, ValueError, trio.TooSlowError) as error:
        log.warning("could not tell %s of the new smallest id: %s", address, error or type(error).__name__)


def _named(members: Iterable[Member]) -> str:
    return ", ".join(f"{member.name or '?'}-{member.broker_id} {member.address}" for member in members)
