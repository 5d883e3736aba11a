"""State files survive a stop at any moment."""

import errno
import json
import os

import pytest

from fastmq.errors import StoreError
from fastmq.store.tables import load_json, save_json, save_steps


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "config" / "topics.json")


def test_what_is_saved_is_loaded(path):
    save_json(path, '{"a":1}')
    assert load_json(path) == {"a": 1}


def test_nothing_saved_is_nothing_loaded(path):
    assert load_json(path) is None


def test_the_former_content_is_kept_as_backup(path):
    save_json(path, '{"a":1}')
    save_json(path, b'{"a":2}')
    with open(path + ".bak") as file:
        assert json.load(file) == {"a": 1}


@pytest.mark.parametrize("stop", range(6))
def test_a_stop_between_any_two_steps_leaves_old_or_new(path, stop):
    save_json(path, '{"n":1}')
    save_json(path, '{"n":2}')
    steps = save_steps(path, b'{"n":3}')
    for _ in range(stop + 1):
        next(steps, None)
    steps.close()
    assert load_json(path) in ({"n": 2}, {"n": 3})


@pytest.mark.parametrize("left", ["", '{"n":', "\0\0\0\0\0\0\0", '{"n":3', "[]", '{"n":3}garbage'])
def test_a_torn_file_is_replaced_by_its_backup(path, left):
    save_json(path, '{"n":1}')
    save_json(path, '{"n":2}')
    with open(path, "w") as file:
        file.write(left)
    assert load_json(path) == {"n": 1}


def test_the_next_save_does_not_overwrite_the_only_good_copy(path):
    save_json(path, '{"n":1}')
    save_json(path, '{"n":2}')
    with open(path, "w") as file:
        file.write("torn")
    assert load_json(path) == {"n": 1}
    steps = save_steps(path, b'{"n":3}')
    next(steps)
    steps.close()
    assert load_json(path) == {"n": 1}
    save_json(path, '{"n":3}')
    assert load_json(path) == {"n": 3}


@pytest.mark.parametrize("call", ["open", "write", "fsync"])
@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_saves_on_a_full_disk_leave_the_last_good_content(path, monkeypatch, call, earlier):
    """The broker tries again every few seconds: no number of failures may use up the good copies."""
    for number in range(1, earlier + 1):
        save_json(path, f'{{"n":{number}}}')

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        for _ in range(4):
            with pytest.raises(OSError, match="No space"):
                save_json(path, '{"n":9}')
    assert load_json(path) == ({"n": earlier} if earlier else None)
    save_json(path, '{"n":9}')
    assert load_json(path) == {"n": 9}


def test_damage_to_both_copies_is_told_with_their_names(path):
    save_json(path, '{"n":1}')
    save_json(path, '{"n":2}')
    for name in (path, path + ".bak"):
        with open(name, "w") as file:
            file.write("x")
    with pytest.raises(StoreError, match=r"topics\.json.*topics\.json\.bak"):
        load_json(path)


def test_a_file_of_rocketmq_with_bare_numbers_as_keys_is_read(path):
    save_json(path, '{"offsetTable":{"t@g":{0:12,1:7}}}')
    assert load_json(path) == {"offsetTable": {"t@g": {"0": 12, "1": 7}}}


def test_folders_are_made(path):
    save_json(path, "{}")
    assert os.path.isfile(path)
