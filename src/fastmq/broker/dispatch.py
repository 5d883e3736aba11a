"""From a request's code to its handler.

Handlers are plain functions, or `async def` for work that waits. Each module of `handlers` has a table of its own; this
one joins them and refuses what must not get that far: codes nobody serves, pulls on the port for old clients' VIP
channel, and commands that can harm the broker from other machines.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from fastmq.broker import handlers
from fastmq.broker.handlers.admin import DANGEROUS
from fastmq.errors import InternalError, ProtocolError, StoreError
from fastmq.net.server import Answer, Reply
from fastmq.protocol.codes import RequestCode, ResponseCode

if TYPE_CHECKING:
    from fastmq.broker.app import Broker
    from fastmq.net.server import Peer
    from fastmq.protocol.command import Command

Handler = Callable[[Any, Any, Any], "Reply | Awaitable[Reply | None] | None"]
"""(broker, peer, request) to an answer; None: it is given later or never."""

NOT_ON_VIP: Final = frozenset(
    {
        RequestCode.PULL_MESSAGE,
        RequestCode.LITE_PULL_MESSAGE,
        RequestCode.PEEK_MESSAGE,
        RequestCode.POP_MESSAGE,
        RequestCode.NOTIFICATION,
        RequestCode.POLLING_INFO,
    }
)
"""Requests that may have to wait for a message: not served on the port for old clients' VIP channel."""

SENDS: Final = frozenset(
    {
        RequestCode.SEND_MESSAGE,
        RequestCode.SEND_MESSAGE_V2,
        RequestCode.SEND_BATCH_MESSAGE,
        RequestCode.POP_MESSAGE,  # without its group a checkpoint is worth nothing
    }
)


TABLE_WRITES: Final = frozenset(
    {
        RequestCode.UPDATE_AND_CREATE_TOPIC,
        RequestCode.UPDATE_AND_CREATE_TOPIC_LIST,
        RequestCode.DELETE_TOPIC_IN_BROKER,
        RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
        RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST,
        RequestCode.DELETE_SUBSCRIPTIONGROUP,
        RequestCode.UPDATE_AND_GET_GROUP_FORBIDDEN,
        RequestCode.SET_MESSAGE_REQUEST_MODE,
    }
)
"""Requests that change a table: one that finds everything as it wants it may be the repetition of one that failed."""


def handler_tables() -> list[Mapping[Any, Any]]:
    """The tables of all modules in `handlers`."""
    found = sorted(module.name for module in pkgutil.iter_modules(handlers.__path__))
    modules = [importlib.import_module(f"{handlers.__name__}.{name}") for name in found]
    return [module.HANDLERS for module in modules if hasattr(module, "HANDLERS")]


def join_tables(tables: Iterable[Mapping[Any, Any]]) -> dict[int, Handler]:
    """One table of all; two handlers for one code are a bug."""
    joined: dict[int, Handler] = {}
    for table in tables:
        for code, handler in table.items():
            if int(code) in joined:
                raise InternalError(f"request {int(code)} has two handlers")
            joined[int(code)] = handler
    return joined


class Dispatcher:
    """The table of handlers of one broker."""

    def __init__(self, broker: Broker, tables: Iterable[Mapping[Any, Any]]) -> None:
        self._broker = broker
        self._handlers = join_tables(tables)
        self._files = broker.topics.file, broker.groups.file, broker.request_modes.file

    def dispatch(self, peer: Peer, request: Command, *, vip: bool = False) -> Answer:
        """Handle a request. Broken JSON in a body is answered with code 1; RequestErrors are left to the caller."""
        code = request.code
        handler = self._handlers.get(code)
        if handler is None or (vip and code in NOT_ON_VIP):
            return Reply(ResponseCode.REQUEST_CODE_NOT_SUPPORTED, f" request type {code} not supported")
        if code in DANGEROUS and self._broker.config.admin_from_loopback_only and not peer.local:
            return Reply(
                ResponseCode.NO_PERMISSION,
                f"request type {code} is taken from this machine only (adminFromLoopbackOnly)",
            )
        changes = self._changes
        try:
            answer = handler(self._broker, peer, request)
        except ProtocolError as error:
            return Reply(ResponseCode.SYSTEM_ERROR, f"the request cannot be read: {error}")
        if inspect.isawaitable(answer):
            return self._wait(answer, changes, code)
        if answer is not None and self._must_be_saved(changes, code):
            return self._when_saved(answer)
        return answer

    async def _wait(self, awaitable: Awaitable[Reply | None], changes: int, code: int) -> Reply | None:
        try:
            answer = await awaitable
        except ProtocolError as error:
            return Reply(ResponseCode.SYSTEM_ERROR, f"the request cannot be read: {error}")
        except StoreError as error:
            return Reply(ResponseCode.SYSTEM_ERROR, str(error))
        if answer is not None and self._must_be_saved(changes, code):
            return await self._when_saved(answer)
        return answer

    # --- tables must be on disk before anybody is told -------------------------------------------------------------

    @property
    def _changes(self) -> int:
        return sum(file.changes for file in self._files)

    def _must_be_saved(self, changes: int, code: int) -> bool:
        """Whether a request's answer has to wait: it speaks of a table, or it was a send that may need a new topic."""
        if all(file.is_saved for file in self._files):
            return False
        return code in SENDS or code in TABLE_WRITES or self._changes != changes

    async def _when_saved(self, answer: Reply) -> Reply:
        try:
            for file in self._files:
                await file.wait_saved()
        except StoreError as error:
            return Reply(ResponseCode.SYSTEM_ERROR, str(error), answer.ext)
        return answer
