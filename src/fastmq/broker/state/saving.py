"""When a table of the broker reaches its file: `TableFile` at every change, `LaggingFile` from time to time.

Writing a table takes three fsyncs (`store/tables.py`): milliseconds on a quiet disk, much more beside a busy log, and
nobody else is served on the trio thread meanwhile. Therefore both write in a thread. A `TableFile`:

    state      left by                 a change of the table
    at once    `run` starts            is written before `changed` returns; OSError if the disk refuses
    behind     `run` ends              is noted; the task writes the newest state in a thread, one write for all changes
                                       that came while the last one was under way

What a client is told to be done must be on disk. `is_saved` and `wait_saved` are for those who answer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Final

import trio

from fastmq.broker.state import nothing
from fastmq.errors import StoreError
from fastmq.store.tables import save_json

log = logging.getLogger("fastmq.broker.tables")

RETRY_S: Final = 1.0  # after the disk has refused
Snapshot = Callable[[], bytes]
"""Makes the text of a table, in any thread."""
Freeze = Callable[[], Snapshot]
"""Takes the state of a table as it is now, on the trio thread."""


class TableFile:
    """The file of one table. `path=None`: there is none, everything counts as saved.

    `on_saved` is called on the trio thread when all changes so far have reached the disk.
    """

    def __init__(
        self,
        path: str | None,
        freeze: Freeze,
        *,
        on_saved: Callable[[], None] = nothing,
        save: Callable[[str, bytes], None] = save_json,
    ) -> None:
        self._path = path
        self._freeze = freeze
        self._on_saved = on_saved
        self._save = save
        self._running = False
        self._failing = False
        self._changes = 0
        self._saved = self._tried = 0  # changes that are on disk; that a write, good or bad, has ended for
        self._dirty = trio.Event()
        self._outcome = trio.Event()  # set when the next write ends

    @property
    def changes(self) -> int:
        """How often the table has changed."""
        return self._changes

    @property
    def is_saved(self) -> bool:
        """Whether the file has every change."""
        return self._saved == self._changes

    def changed(self) -> None:
        """The table has changed. While no task runs it is written here and now: OSError if the disk refuses."""
        self._changes += 1
        if self._running:
            self._dirty.set()
            return
        try:
            self.persist()
        except BaseException:
            self._changes -= 1
            raise

    def persist(self) -> None:
        """Write what is not written yet, here and now. OSError."""
        if not self.is_saved:
            number = self._changes
            if self._path is not None:
                self._save(self._path, self._freeze()())
            self._saved = self._tried = number

    async def wait_saved(self) -> None:
        """Wait until every change made before this call is on disk. StoreError if the disk refuses."""
        wanted = self._changes
        while self._saved < wanted:
            await self._outcome.wait()  # of the write that is under way or comes: also of one more after a failure
            if self._saved < wanted <= self._tried:
                raise StoreError(f"{self._path} cannot be written, the broker tries again")

    async def finish(self) -> None:
        """Write what is left, by the task if it runs: no two writes at once. OSError or StoreError: not written."""
        if self._running:
            await self.wait_saved()
        else:
            await trio.to_thread.run_sync(self.persist)

    async def run(self) -> None:
        """Write changes until cancelled. What is left then is for `persist`."""
        self._running = True
        try:
            while True:
                await self._dirty.wait()
                await self._write()
        finally:
            self._running = False

    async def _write(self) -> None:
        """One write of the newest state, and what follows from its outcome."""
        self._dirty = trio.Event()
        number, path, text = self._changes, self._path, self._freeze()
        try:
            if path is not None:
                await trio.to_thread.run_sync(lambda: self._save(path, text()))
        except OSError as error:
            if not self._failing:
                log.error("%s cannot be written, trying again every %g s: %s", path, RETRY_S, error)
            self._failing = True
            self._tell(number)
            await trio.sleep(RETRY_S)
            self._dirty.set()
            return
        if self._failing:
            log.warning("%s is written again", path)
        self._failing = False
        self._saved = number
        if self.is_saved:
            self._on_saved()
        self._tell(number)

    def _tell(self, tried: int) -> None:
        """Wake those who wait: all changes up to this one were tried."""
        self._tried = tried
        outcome, self._outcome = self._outcome, trio.Event()
        outcome.set()


class LaggingFile:
    """The file of a table that changes all the time: it is saved from time to time, a crash loses what changed since.

    `before` is called first: it may note changes that the table has not taken over yet. `durable` is called in the
    thread, with the text made and not yet written: what the text speaks of must be on disk before it is; StoreError if
    that cannot be had. `path=None`: there is no file, nothing is ever to be saved.
    """

    def __init__(
        self,
        path: str | None,
        freeze: Freeze,
        *,
        before: Callable[[], None] = nothing,
        save: Callable[[str, bytes], None] = save_json,
    ) -> None:
        self._path = path
        self._freeze = freeze
        self._before = before
        self._save = save
        self._changed = False
        self._failing = False
        self._writing = trio.Lock()
        self.durable: Callable[[], None] = nothing

    def changed(self) -> None:
        """The table has changed."""
        self._changed = True

    def take_snapshot(self) -> Snapshot | None:
        """What makes the text to save; None if nothing changed since the last one. Give it to `write`."""
        self._before()
        if not self._changed or self._path is None:
            return None
        snapshot = self._freeze()
        self._changed = False
        return snapshot

    def write(self, snapshot: Snapshot) -> None:
        """Write a snapshot; blocks on the disk, in any thread. If it fails, the next one is taken whatever happens."""
        assert self._path is not None
        try:
            text = snapshot()
            self.durable()
            self._save(self._path, text)
        except BaseException:
            self._changed = True
            raise

    def persist(self) -> None:
        """Write what changed, now and here. OSError or StoreError."""
        snapshot = self.take_snapshot()
        if snapshot is not None:
            self.write(snapshot)

    async def save(self) -> None:
        """Write every change made before this call, in a thread. StoreError if that is not possible now."""
        async with self._writing:  # a newer state must not be overtaken by an older one
            snapshot = self.take_snapshot()
            if snapshot is None:
                return
            try:
                await trio.to_thread.run_sync(self.write, snapshot)
            except (OSError, StoreError) as error:
                if not self._failing:
                    log.error("%s cannot be written, trying again: %s", self._path, error)
                self._failing = True
                raise StoreError(f"{self._path} cannot be written, the broker tries again: {error}") from error
            if self._failing:
                log.warning("%s is written again", self._path)
            self._failing = False

    async def try_to_save(self) -> None:
        """The same for a task that will come again."""
        with contextlib.suppress(StoreError):
            await self.save()
