"""Consumer offsets: commits, resets, the file."""

import dataclasses
import json

import pytest

from fastmq.broker.state.offsets import KEYS_A_PIECE, ConsumerOffsetTable
from fastmq.config import BrokerConfig
from fastmq.errors import StoreError
from fastmq.protocol.bodies import dumps
from fastmq.store.tables import save_json


class Offsets:
    """A table with its surroundings."""

    def __init__(self, folder, **settings):
        self.config = dataclasses.replace(BrokerConfig(), **settings)
        self.path = str(folder / "config" / "consumerOffset.json")
        self.now = 1000
        self.open()

    def open(self):
        self.table = ConsumerOffsetTable(self.path, config=lambda: self.config, wall_ms=lambda: self.now)


@pytest.fixture
def offsets(tmp_path):
    return Offsets(tmp_path)


@pytest.fixture
def table(offsets):
    return offsets.table


def test_what_was_never_committed_is_minus_one(table):
    assert table.query("cg", "t", 0) == -1


def test_a_commit_is_found_again_and_a_lower_one_is_accepted(table):
    table.commit("cg", "t", 0, 12)
    table.commit("cg", "t", 1, 7)
    assert (table.query("cg", "t", 0), table.query("cg", "t", 1), table.query("other", "t", 0)) == (12, 7, -1)
    table.commit("cg", "t", 0, 3)
    assert table.query("cg", "t", 0) == 3


def test_committed_offsets_and_resets_survive_a_restart(offsets):
    offsets.table.commit("cg", "%RETRY%cg", 0, 12)
    offsets.table.commit_pull("cg", "t", 0, 5)
    offsets.table.assign_reset("cg", "u", 0, 9)
    offsets.table.file.persist()
    offsets.open()
    assert offsets.table.query("cg", "%RETRY%cg", 0) == 12
    assert offsets.table.query("cg", "t", 0) == -1
    assert offsets.table.query("cg", "u", 0) == 9
    assert offsets.table.has_reset("cg", "u", 0)


def test_nothing_is_written_when_nothing_was_committed(offsets):
    assert offsets.table.file.take_snapshot() is None
    offsets.table.commit("cg", "t", 0, 1)
    assert json.loads(offsets.table.file.take_snapshot()())["offsetTable"] == {"t@cg": {"0": 1}}
    assert offsets.table.file.take_snapshot() is None


def test_a_failed_write_is_tried_again(offsets, monkeypatch):
    def refuse(path, text):
        raise OSError(28, "No space left on device")

    offsets.table.commit("cg", "t", 0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(offsets.table.file, "_save", refuse)
        with pytest.raises(OSError, match="No space"):
            offsets.table.file.persist()
    offsets.table.file.persist()
    offsets.open()
    assert offsets.table.query("cg", "t", 0) == 1


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("keys", [0, 1, 2 * KEYS_A_PIECE, 2 * KEYS_A_PIECE + 1])
def test_the_text_in_pieces_is_that_of_the_whole(tmp_path, keys, light):
    table = Offsets(tmp_path, enable_lmq=light).table
    table.assign_reset("cg", "t", 3, 9)
    for number in range(keys):
        table.commit(f"g{number}", 'odd "topic" ü', number % 3, number)
        table.commit(f"%LMQ%{number}", "t", number % 2, number)
        table.commit_pull(f"g{number}", "t", 0, number)
    body = table.to_body()
    assert table.file.take_snapshot()() == dumps(body)
    assert json.loads(table.view()())["offsetTable"] == json.loads(dumps(body))["offsetTable"]


def test_commits_and_deletions_while_the_text_is_made(offsets, monkeypatch):
    """The thread reads a table that changes under it; what it did not see is written the next time."""
    table = offsets.table
    for number in range(3 * KEYS_A_PIECE):
        table.commit(f"g{number}", "t", 0, 1)
    changes = iter([lambda: table.delete_group("g300"), lambda: table.commit("new", "t", 0, 5)])
    monkeypatch.setattr("fastmq.broker.state.offsets.time.sleep", lambda _: next(changes, lambda: None)())
    written = json.loads(table.file.take_snapshot()())["offsetTable"]
    assert len(written) == 3 * KEYS_A_PIECE - 1
    assert "t@g300" not in written
    monkeypatch.undo()
    assert json.loads(table.file.take_snapshot()())["offsetTable"]["t@new"] == {"0": 5}


def test_the_two_offsets_of_transactions_are_of_one_moment(offsets, monkeypatch):
    """An op offset newer than its half offset would make the broker ask about what is decided."""
    table, group = offsets.table, "CID_RMQ_SYS_TRANS"
    half, op = "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC"
    table.commit(group, half, 0, 10)
    for number in range(KEYS_A_PIECE):
        table.commit(f"g{number}", "t", 0, 1)
    table.commit(group, op, 0, 4)
    snapshot = table.file.take_snapshot()
    table.commit(group, half, 0, 20)
    table.commit(group, op, 0, 8)
    written = json.loads(snapshot())["offsetTable"]
    assert (written[f"{half}@{group}"], written[f"{op}@{group}"]) == ({"0": 10}, {"0": 4})


def test_the_file_of_rocketmq_has_bare_queue_ids(offsets):
    save_json(
        offsets.path,
        '{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":4},"offsetTable":{"t@g":{0:12,1:7,2:0}},'
        '"pullOffsetTable":{},"resetOffsetTable":{}}',
    )
    offsets.open()
    assert offsets.table.table_of("g") == {"t": {0: 12, 1: 7, 2: 0}}
    assert offsets.table.data_version.counter == 3


@pytest.mark.parametrize("table", ["[]", '{"t@g":5}', '{"t@g":{"x":1}}', '{"t@g":{"0":"1"}}'])
def test_a_file_that_makes_no_sense_stops_the_start(offsets, table):
    save_json(offsets.path, f'{{"offsetTable":{table}}}')
    with pytest.raises(StoreError, match="consumerOffset"):
        offsets.open()


def test_the_version_moves_with_every_step_of_commits(tmp_path):
    table = Offsets(tmp_path, consumer_offset_update_version_step=3).table
    for offset in range(7):
        table.commit("cg", "t", 0, offset)
    assert table.data_version.counter == 2


class TestReset:
    def test_is_handed_out_once(self, table):
        table.commit("cg", "t", 0, 50)
        table.assign_reset("cg", "t", 0, 10)
        assert table.has_reset("cg", "t", 0)
        assert not table.has_reset("cg", "t", 1)
        assert table.query("cg", "t", 0) == 10
        assert table.take_reset("cg", "t", 0) == 10
        assert table.take_reset("cg", "t", 0) is None
        assert table.query("cg", "t", 0) == 10
        table.commit("cg", "t", 0, 11)
        assert table.query("cg", "t", 0) == 11

    def test_of_one_queue_leaves_the_others(self, table):
        table.assign_reset("cg", "t", 0, 1)
        table.assign_reset("cg", "t", 1, 2)
        assert table.take_reset("cg", "t", 0) == 1
        assert table.has_reset("cg", "t", 1)
        assert table.take_reset("cg", "other", 1) is None

    def test_survives_a_restart_until_it_was_handed_out(self, tmp_path):
        offsets = Offsets(tmp_path)
        offsets.table.assign_reset("cg", "t", 0, 10)
        offsets.table.assign_reset("cg", "t", 1, 20)
        offsets.table.file.persist()
        offsets.open()
        assert offsets.table.has_reset("cg", "t", 0)
        assert offsets.table.take_reset("cg", "t", 0) == 10
        offsets.table.file.persist()
        offsets.open()
        assert not offsets.table.has_reset("cg", "t", 0)
        assert offsets.table.take_reset("cg", "t", 1) == 20
        offsets.table.file.persist()
        offsets.open()
        assert not offsets.table.has_any_reset("cg", "t")
        assert offsets.table.offsets_of("cg", "t") == {0: 10, 1: 20}

    def test_counts_only_while_the_server_resets(self, tmp_path):
        table = Offsets(tmp_path, use_server_side_reset_offset=False).table
        table.assign_reset("cg", "t", 0, 10)
        table.commit("cg", "t", 0, 60)
        assert table.query("cg", "t", 0) == 60


def test_where_pulls_are_falls_back_to_the_commit(table):
    assert table.pull_offset("cg", "t", 0) == -1
    table.commit("cg", "t", 0, 4)
    assert table.pull_offset("cg", "t", 0) == 4
    table.commit_pull("cg", "t", 0, 9)
    assert table.pull_offset("cg", "t", 0) == 9


def test_groups_and_topics_can_be_listed(table):
    table.commit("g1", "t1", 0, 1)
    table.commit("g1", "t2", 0, 1)
    table.commit("g2", "t1", 3, 1)
    assert table.groups_of_topic("t1") == {"g1", "g2"}
    assert table.topics_of_group("g1") == {"t1", "t2"}
    assert table.offsets_of("g2", "t1") == {3: 1}
    assert table.table_of("g2") == {"t1": {3: 1}}


def test_deleting_a_group_or_a_topic_forgets_all_three_offsets(table):
    for group, topic in (("g1", "t1"), ("g1", "t2"), ("g2", "t1")):
        table.commit(group, topic, 0, 1)
        table.commit_pull(group, topic, 0, 2)
        table.assign_reset(group, topic, 0, 3)
    table.delete_group("g1")
    assert table.topics_of_group("g1") == set()
    assert table.pull_offset("g1", "t2", 0) == -1
    assert not table.has_reset("g1", "t1", 0)
    assert table.query("g2", "t1", 0) == 3
    table.delete_topic("t1")
    assert table.groups_of_topic("t1") == set()


def test_a_cloned_group_goes_on_where_the_other_is(table):
    table.commit("g1", "t", 0, 5)
    table.clone("g1", "g2", "t")
    table.clone("nobody", "g2", "t")
    table.commit("g1", "t", 0, 6)
    assert table.query("g2", "t", 0) == 5
