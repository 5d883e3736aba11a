"""The event loop behind the blocking face, its thread, and the base of what is shown of it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from fastmq.client import session as asession
from fastmq.client.errors import ClientClosed
from fastmq.client.session import SessionOptions
from fastmq.sync.outcome import Call, Outcome

T = TypeVar("T")
A = TypeVar("A", bound=Any)


class _Loop:
    """The event loop of this process and its thread, while somebody uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._portal: BlockingPortal | None = None
        self._thread: threading.Thread | None = None
        self._stop: Callable[[], object] | None = None
        self._pid = os.getpid()
        self._open: weakref.WeakSet[Blocking[Any]] = weakref.WeakSet()

    def after_fork(self) -> None:
        """In the child there is no such thread; its locks may be held by nobody."""
        self.__init__()  # type: ignore[misc]

    def enter(self, user: Blocking[Any]) -> BlockingPortal:
        """The portal, started for the first user."""
        with self._lock:
            if self._portal is None:
                self._start()
            self._users += 1
            self._open.add(user)
            assert self._portal is not None
            return self._portal

    def _start(self) -> None:
        started: Outcome[tuple[BlockingPortal, anyio.Event]] = Outcome()

        async def serve() -> None:
            async with BlockingPortal() as portal:
                stop = anyio.Event()
                started.set_result((portal, stop))
                await stop.wait()
                await portal.stop(cancel_remaining=True)  # what an interrupt left behind

        def run() -> None:
            try:
                # trio's worker threads end with the interpreter; those of asyncio would keep it from exiting
                anyio.run(serve, backend="trio")
            except BaseException as error:
                if not started.done:
                    started.set_exception(error)
                raise

        self._thread = threading.Thread(target=run, name="fastmq.sync", daemon=True)
        self._thread.start()
        portal, stop = started.result()
        self._portal = portal
        self._stop = lambda: portal.start_task_soon(stop.set)

    def leave(self, user: Blocking[Any]) -> None:
        """One user less; the thread ends with the last."""
        with self._lock:
            self._open.discard(user)
            self._users -= 1
            if self._users or self._stop is None or self._thread is None:
                return
            stop, thread = self._stop, self._thread
            self._portal = self._thread = self._stop = None  # also if the wait is interrupted
            stop()
            thread.join()

    def close_all(self) -> None:
        """The interpreter exits."""
        for user in list(self._open):
            with contextlib.suppress(Exception):  # there is nobody left who could be told
                user.close()


_LOOP: Final = _Loop()
os.register_at_fork(after_in_child=_LOOP.after_fork)
atexit.register(_LOOP.close_all)


class Blocking(Generic[A]):
    """An async object behind the loop. Subclasses make it in `_make`, which runs in the loop."""

    def __init__(self, make: Callable[[], A]) -> None:
        self._pid = os.getpid()
        self._make = make
        self._async: A | None = None
        self._portal: BlockingPortal | None = None
        self._life: Call[None] | None = None
        self._leave: anyio.Event
        self._state = threading.Lock()

    def __repr__(self) -> str:
        name = f"fastmq.sync.{type(self).__name__}"
        return f"<{name}, not open>" if self._portal is None else f"<{name}: {self._async!r}>"

    def _plain(self, call: Callable[..., T], *args: Any) -> T:
        """Call something in the loop that does not wait."""

        async def once() -> T:
            return call(*args)

        return self._wait_for(self._checked(), once)

    def _run(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
        """Do something in the loop and wait for it. Interrupting the wait (Ctrl-C) cancels it."""
        return self._wait_for(self._checked(), functools.partial(call, *args, **kwargs))

    def _wait_for(self, portal: BlockingPortal, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        one = Call(call)
        try:
            self._start(portal, one)
            return one.result()
        except BaseException:
            one.abandon(portal)
            raise
        finally:
            del one

    def _start(self, portal: BlockingPortal, call: Call[Any]) -> None:
        try:
            portal.start_task_soon(call.run)
        except RuntimeError as error:
            if portal is self._portal:  # called in the loop itself
                raise
            raise ClientClosed("it is closed") from error

    def _check(self) -> None:
        self._checked()

    def _checked(self) -> BlockingPortal:
        """The way into the loop; another thread may close it at any time."""
        portal = self._portal
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        if portal is None:
            raise ClientClosed("not open: use it inside `with`, or call open()")
        return portal

    @property
    def _it(self) -> A:
        self._check()
        assert self._async is not None
        return self._async

    def open(self) -> Self:
        """What `with` does at its begin."""
        if self._pid != os.getpid():
            raise ClientClosed("made in another process; a client does not survive a fork, make a new one")
        with self._state:
            if self._portal is not None:
                raise ClientClosed("it is open already")
            portal = _LOOP.enter(self)
            opened: Outcome[None] = Outcome()
            life = Call(functools.partial(self._live, opened))
            try:
                portal.start_task_soon(life.run)
                opened.result()
                self._life = life
                self._portal = portal
            except BaseException:
                life.abandon(portal)  # an interrupt: it may not be open yet
                _LOOP.leave(self)
                raise
        return self

    async def _live(self, opened: Outcome[None]) -> None:
        """The life of what is behind it, in one task of the loop."""
        self._leave = anyio.Event()
        try:
            self._async = self._make()
            async with self._async:
                opened.set_result(None)
                await self._leave.wait()
        except BaseException as error:
            if not opened.done:
                opened.set_exception(error)
            raise

    def close(self) -> None:
        """What `with` does at its end. Does nothing if it is not open."""
        if self._pid != os.getpid():
            return
        with self._state:
            portal, life = self._portal, self._life
            if portal is None or life is None:
                return
            self._before_close()
            try:
                self._portal = None
                portal.start_task_soon(self._leave.set)
                life.result()
            except BaseException:
                life.abandon(portal)  # an interrupt: the loop must not wait for what was not told to end
                raise
            finally:
                _LOOP.leave(self)

    def _before_close(self) -> None:
        """The last moment in which calls are possible."""

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session(Blocking[asession.Session]):
    """Blocking face of `fastmq.Session`: what several producers and consumers share."""

    def __init__(self, namesrv: str | Sequence[str] | None = None, **options: Unpack[SessionOptions]) -> None:
        super().__init__(lambda: asession.Session(namesrv, **options))

    @property
    def client_id(self) -> str:
        """`ip@instance`."""
        return self._it.client_id


Where = str | Sequence[str] | Session | None


def inner_where(where: Where) -> str | Sequence[str] | asession.Session | None:
    return where._it if isinstance(where, Session) else where
