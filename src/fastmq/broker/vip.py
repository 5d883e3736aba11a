"""The port beside the main one (RocketMQ's fastListenPort), for the VIP channel of old clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.net.server import Answer, Peer, Reply
    from fastmq.protocol.command import Command


class VipService:
    """The service behind fastListenPort: the same broker without the requests that may have to wait."""

    __slots__ = ("_broker",)

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def handle(self, peer: Peer, request: Command) -> Answer:
        """A request on that port."""
        return self._broker.handle_vip(peer, request)

    def resume(self, peer: Peer, request: Command) -> Answer:
        """Nothing that waits is served on that port."""
        return self._broker.handle_vip(peer, request)

    def refuse(self, request: Command, waited_ms: int, behind: int) -> Reply | None:
        """As on the main port."""
        return self._broker.refuse(request, waited_ms, behind)

    def closed(self, peer: Peer) -> None:
        """A connection of that port is gone."""
        self._broker.closed(peer)
