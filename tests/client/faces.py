"""The three faces of the client as one: a scenario is written once, with `await`, and runs on each of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.from_thread
import anyio.to_thread

import fastmq
import fastmq.sync
from support.servers import Server


class Blocking:
    """An object of `fastmq.sync` whose calls are made in a thread and awaited."""

    def __init__(self, thing: Any) -> None:
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._thing, name)
        if not callable(value):
            return value
        if name == "transaction":
            return lambda *args, **kwargs: Blocking(value(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await _in_thread(functools.partial(value, *args, **kwargs))
            return _Sent(result) if isinstance(result, fastmq.sync.Receipt) else result

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._thing, name, value)

    async def __aenter__(self) -> Self:
        await _in_thread(self._thing.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await _in_thread(functools.partial(self._thing.__exit__, kind, error, trace))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return await _in_thread(functools.partial(next, self._thing))


class _Sent:
    def __init__(self, receipt: fastmq.sync.Receipt) -> None:
        self._receipt = receipt

    def __await__(self) -> Any:
        return _in_thread(functools.partial(self._receipt.result, PATIENCE)).__await__()


async def _in_thread(call: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)


LATE_SECONDS = 15.0
PATIENCE = 90


class Face:
    """What a scenario uses: the names of the package, whatever is behind them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.backend = "asyncio" if name == "sync" else name

    def __getattr__(self, name: str) -> Any:
        if name not in fastmq.sync.__all__:
            return getattr(fastmq, name)
        return functools.partial(self._make, name)

    def _make(self, name: str, where: Any = None, *args: Any, **options: Any) -> Any:
        """A client; its answers may be late, on a busy machine, unless the scenario says otherwise."""
        if not isinstance(where, fastmq.Session | fastmq.sync.Session | Blocking):
            options = {"request_timeout": LATE_SECONDS, **options}
        if name == "Producer":
            # a send that is tried again because its answer is late is there twice
            options = {"timeout": LATE_SECONDS, "try_timeout": LATE_SECONDS, **options}
        if self.name != "sync":
            return getattr(fastmq, name)(where, *args, **options)
        return Blocking(getattr(fastmq.sync, name)(getattr(where, "_thing", where), *args, **options))

    def listener(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """A listener for this face: the blocking one gets a plain function."""
        if self.name != "sync":
            return call
        token = anyio.lowlevel.current_token()

        def plain(argument: Any) -> Any:
            return anyio.from_thread.run(call, argument, token=token)

        return plain

    async def value(self, thing: Any) -> Any:
        """What a call or attribute gives, awaited where it has to be."""
        if callable(thing):
            thing = thing()
        return await thing if inspect.isawaitable(thing) else thing

    def run(self, scenario: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run a scenario to its end."""
        anyio.run(scenario, self, *args, backend=self.backend)


@dataclass
class Place:
    """Where a scenario runs: addresses, and names nobody else uses."""

    namesrv: str
    name: str
    server: Server

    def group(self, name: str = "g") -> str:
        """A group of this scenario."""
        return f"{name}-{self.name}"


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until a condition of another process is true; AssertionError naming it after PATIENCE seconds."""
    with anyio.move_on_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110  (it is another process that changes)
            await anyio.sleep(0.02)
        return
    raise AssertionError(f"within {PATIENCE} s it did not come true that {what}")


def members(namesrv: str, group: str) -> int:
    """How many clients a consumer group has."""
    with fastmq.sync.Admin(namesrv) as admin:
        try:
            return len(admin.group_members(group).members)
        except fastmq.BrokerError:
            return 0
