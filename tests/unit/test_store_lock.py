"""One store, one owner: the lock file, the same process, other processes, and the abort file."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastmq
from fastmq import _store
from fastmq.errors import StoreError, StoreLockedError, UsageError


def open_store(path):
    return _store.Store(str(path), store_host=("127.0.0.1", 1), segment_bytes=16_384, queue_file_bytes=400)


def test_a_second_store_of_the_same_process_is_refused(tmp_path):
    store = open_store(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreLockedError, match=str(tmp_path)):
            open_store(tmp_path)
    assert store.put("t", 0, b"x", b"").status == _store.ST_OK
    assert lock_is_taken(tmp_path), "the refused attempt dropped the lock"
    store.close()
    open_store(tmp_path).close()


def lock_is_taken(path) -> bool:
    """Ask from another process, with the record lock a Java broker would take."""
    code = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+b')\n"
        "try: fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,1,0)\nexcept OSError: sys.exit(3)"
    )
    return subprocess.run([sys.executable, "-c", code, str(path / "lock")], check=False).returncode == 3


def test_java_sees_the_lock(tmp_path):
    store = open_store(tmp_path)
    assert lock_is_taken(tmp_path)
    assert (tmp_path / "lock").read_bytes() == b"lock"
    store.close()
    assert not lock_is_taken(tmp_path)


def test_we_see_the_lock_of_another_process(tmp_path):
    open_store(tmp_path).close()
    code = (
        "import fcntl,sys\nf=open(sys.argv[1],'r+b')\nfcntl.lockf(f,fcntl.LOCK_EX,1,0)\nprint('ok',flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(StoreLockedError, match="another process"):
            open_store(tmp_path)
        other.stdin.close()
    open_store(tmp_path).close()


def test_abort_says_who_runs_and_is_removed_by_a_clean_close(tmp_path):
    store = open_store(tmp_path)
    assert (tmp_path / "abort").read_text() == str(os.getpid())
    store.close(clean=False)
    assert (tmp_path / "abort").exists()
    store = open_store(tmp_path)
    store.close()
    assert not (tmp_path / "abort").exists()


def test_a_killed_process_loses_nothing_it_was_told_is_written(tmp_path):
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(fastmq.__file__).parent.parent)!r})
from fastmq import _store
store = _store.Store({str(tmp_path)!r}, store_host=("127.0.0.1", 1), segment_bytes=16384, queue_file_bytes=400)
store.start()
for i in range(500):
    assert store.put("t", i % 4, b"%d" % i, b"KEYS\\1k%d\\2" % i).status == 0
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    store = open_store(tmp_path)
    assert sorted(store.queues()) == [("t", q, 0, 125) for q in range(4)]
    store.close()


def test_a_failed_open_lets_go_of_everything(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    open_store(tmp_path).close()
    (tmp_path / "commitlog" / "00000000000000000000").write_bytes(b"short")
    for _ in range(3):
        with pytest.raises(StoreError, match="5 bytes"):
            open_store(tmp_path)
    (tmp_path / "commitlog" / "00000000000000000000").unlink()
    open_store(tmp_path).close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "settings",
    [
        {"segment_bytes": 10},
        {"segment_bytes": 1 << 40},
        {"queue_file_bytes": 0},
        {"index_slots": 0},
        {"index_entries": 1},
        {"store_host": ("example", 1)},
        {"store_host": ("::1", 1)},
    ],
)
def test_settings_that_cannot_be(tmp_path, settings):
    with pytest.raises(UsageError):
        _store.Store(str(tmp_path), **({"store_host": ("127.0.0.1", 1)} | settings))


def test_queue_file_size_is_rounded_up_to_whole_entries(tmp_path):
    store = _store.Store(str(tmp_path), store_host=("127.0.0.1", 1), queue_file_bytes=399)
    store.put("t", 0, b"", b"")
    assert (tmp_path / "consumequeue/t/0/00000000000000000000").stat().st_size == 400
    store.close()


def test_the_lock_survives_a_fork(tmp_path):
    """A child's end must not unlock the parent's store (record locks are not inherited)."""
    store = open_store(tmp_path)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    assert lock_is_taken(tmp_path)
    assert fcntl.fcntl(store.flush_event_fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    store.close()
