"""Tasks that belong to an object and not to who made it: they run shielded, and end when the object says so.

When the scope around a client is cancelled, its connections must live a moment longer: offsets are to be stored, groups
to be left. So each task has a shielded scope of its own and `close` cancels them. A task that fails ends all of them
and brings its exception to whoever has the object open.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from types import TracebackType

import anyio
import anyio.abc


class Background:
    """The tasks of one object. `open` and `close` are called in one task, as `async with` does it."""

    def __init__(self) -> None:
        self._group: anyio.abc.TaskGroup | None = None
        self._scopes: set[anyio.CancelScope] = set()

    @property
    def count(self) -> int:
        """Tasks that run."""
        return len(self._scopes)

    @property
    def is_open(self) -> bool:
        """Whether tasks can be spawned."""
        return self._group is not None

    async def open(self) -> None:
        """From here on tasks can be spawned."""
        group = anyio.create_task_group()
        await group.__aenter__()
        self._group = group

    def spawn(self, call: Callable[..., Awaitable[object]], *args: object) -> anyio.CancelScope:
        """Start a task; the scope that is returned cancels it. Starts nothing once `close` was called: who is being
        cancelled may still come here.
        """
        scope = anyio.CancelScope(shield=True)
        if self._group is None:
            scope.cancel()
            return scope
        self._scopes.add(scope)
        self._group.start_soon(self._run, scope, call, args)
        return scope

    async def _run(
        self, scope: anyio.CancelScope, call: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        try:
            with scope:
                await call(*args)
        except Exception:
            self.cancel()
            raise
        finally:
            self._scopes.discard(scope)

    def cancel(self) -> None:
        """End all tasks."""
        for scope in list(self._scopes):
            scope.cancel()

    async def close(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        """End all tasks and wait for them. Takes what `__aexit__` was given; raises what a task failed with."""
        group, self._group = self._group, None
        if group is None:
            return
        self.cancel()
        try:
            # the group has to see a cancellation, and must not wrap any other exception of its user
            if isinstance(error, anyio.get_cancelled_exc_class()):
                await group.__aexit__(kind, error, trace)
            else:
                await group.__aexit__(None, None, None)
        except BaseExceptionGroup as failures:
            # a task failed; an interrupt of the keyboard may come out in any of them
            alone = _only(failures)
            if alone is None:
                raise
            raise alone from None


def _only(failures: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The exception in a group that has but one."""
    inner: BaseException = failures
    while isinstance(inner, BaseExceptionGroup):
        if len(inner.exceptions) != 1:
            return None
        inner = inner.exceptions[0]
    return inner


def is_stray(error: BaseException) -> bool:
    """Whether a cancellation, in the task that it reached, is none of that task: with asyncio, awaiting something that
    was cancelled looks the same. Who lets one through ends without a trace.
    """
    if not isinstance(error, asyncio.CancelledError) or anyio.current_effective_deadline() == -math.inf:
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


class Tasks:
    """Some tasks of a Background, which can be ended without the others."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._scopes: set[anyio.CancelScope] = set()
        self._idle: anyio.Event | None = None
        self._stopping = False

    def __len__(self) -> int:
        return len(self._scopes)

    def spawn(self, call: Callable[..., Awaitable[object]], *args: object) -> anyio.CancelScope:
        """Start a task; the scope that is returned cancels it. Starts nothing once `stop` was called."""
        inner = anyio.CancelScope()
        if self._stopping or not self._background.is_open:
            inner.cancel()
            return inner
        self._scopes.add(inner)
        self._background.spawn(self._run, inner, call, args)
        return inner

    async def _run(
        self, scope: anyio.CancelScope, call: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        try:
            with scope:
                await call(*args)
        finally:
            self._scopes.discard(scope)
            if not self._scopes and self._idle is not None:
                self._idle.set()
                self._idle = None

    async def stop(self) -> None:
        """End all of them and wait until they have ended. Must not be called by one of them."""
        self._stopping = True
        while self._scopes:
            for scope in list(self._scopes):
                scope.cancel()
            if self._idle is None:
                self._idle = anyio.Event()
            await self._idle.wait()
