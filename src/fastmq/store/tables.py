"""Small state files (`config/*.json`): replaced as a whole, never lost by a crash.

After RocketMQ's ConfigManager and MixAll.string2File, in this order, so that at every moment one of the two files is
whole and on disk:

    step                          <file>        <file>.bak
    (before)                      old           older
    1 rename <file> to .bak       -             old
    2 sync the folder             -             old, for sure
    3 write <file>                torn or new   old
    4 sync <file>                 new           old
    5 sync the folder             new, for sure old

Reading takes <file>, and <file>.bak when <file> is missing, empty or not JSON. A file that cannot be read is moved to
`<file>.broken` then: step 1 of the next save would otherwise put it in the place of the only good copy. For the same
reason a save that fails, on a full disk say, puts the old content back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastmq.errors import ProtocolError, StoreError
from fastmq.protocol.bodies import loads_lenient

BACKUP_SUFFIX = ".bak"
BROKEN_SUFFIX = ".broken"


def save_json(path: str, text: str | bytes) -> None:
    """Replace the file at `path` durably; folders above it are made. Blocks on the disk. Raises OSError."""
    for _ in save_steps(path, text.encode() if isinstance(text, str) else text):
        pass


def save_steps(path: str, data: bytes) -> Iterator[str]:
    """The steps of `save_json`, named after they were done: a test stops between any two of them."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    has_old = os.path.exists(path)
    if has_old:
        os.replace(path, path + BACKUP_SUFFIX)
    try:
        if has_old:
            yield "renamed"
            sync_folder(folder)
            yield "rename synced"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            yield "created"
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
            yield "written"
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        with contextlib.suppress(OSError):
            if has_old:
                os.replace(path + BACKUP_SUFFIX, path)
            else:
                os.unlink(path)
        raise
    yield "synced"
    sync_folder(folder)
    yield "done"


def sync_folder(folder: str) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_json(path: str) -> dict[str, Any] | None:
    """The object in the file, or in its backup; None if neither exists.

    Raises StoreError if there is something but none of it can be read: starting without it would lose state.
    """
    main, main_problem = _read(path)
    if main is not None:
        return main
    backup, backup_problem = _read(path + BACKUP_SUFFIX)
    if backup is not None:
        if main_problem is not None:
            os.replace(path, path + BROKEN_SUFFIX)
        return backup
    if main_problem is None and backup_problem is None:
        return None
    problems = [problem for problem in (main_problem, backup_problem) if problem is not None]
    raise StoreError("; ".join(problems))


def load_table(path: str | None, take: Callable[[dict[str, Any]], None]) -> bool:
    """Give the object in the file, or in its backup, to `take`; False if there is none, or no path.

    Raises StoreError if it cannot be read, or `take` raises ProtocolError because it makes no sense.
    """
    content = load_json(path) if path is not None else None
    if content is None:
        return False
    try:
        take(content)
    except ProtocolError as error:
        raise StoreError(f"{path}: {error}") from error
    return True


def object_of(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The object under a key; empty if there is none. ProtocolError if it is something else."""
    value = content.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ProtocolError(f"{key} is not an object")
    return value


def _read(path: str) -> tuple[dict[str, Any] | None, str | None]:
    """(content, None), (None, what is wrong) or, for a missing file, (None, None)."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None, None
    if not data.strip():
        return None, f"{path}: empty"
    try:
        content = loads_lenient(data)
    except ProtocolError as error:
        return None, f"{path}: {error}"
    if not isinstance(content, dict):
        return None, f"{path}: not a JSON object"
    return content, None
