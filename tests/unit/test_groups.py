"""Consumer groups: presets, auto-creation, what is forbidden, the file."""

import dataclasses
import json

import pytest

from fastmq.broker.state.groups import SubscriptionGroupTable
from fastmq.config import BrokerConfig
from fastmq.errors import StoreError
from fastmq.protocol.bodies import SubscriptionGroupConfig
from fastmq.store.tables import save_json


class Groups:
    """A table with its surroundings."""

    def __init__(self, folder, **settings):
        self.config = dataclasses.replace(BrokerConfig(), **settings)
        self.path = str(folder / "config" / "subscriptionGroup.json")
        self.now = 1000
        self.open()

    def open(self):
        self.table = SubscriptionGroupTable(self.path, config=lambda: self.config, wall_ms=lambda: self.now)


@pytest.fixture
def groups(tmp_path):
    return Groups(tmp_path)


def test_the_groups_of_the_tools_are_there_from_the_start(groups):
    assert groups.table.names() == [
        "TOOLS_CONSUMER", "FILTERSRV_CONSUMER", "SELF_TEST_C_GROUP", "CID_ONS-HTTP-PROXY", "CID_ONSAPI_PULL",
        "CID_ONSAPI_PERMISSION", "CID_ONSAPI_OWNER", "CID_RMQ_SYS_TRANS",
    ]  # fmt: skip


def test_a_group_is_made_when_first_named_and_kept(groups):
    assert groups.table.get("cg") is None
    group = groups.table.find_or_create("cg")
    assert (group.retry_max_times, group.retry_queue_nums, group.consume_enable) == (16, 1, True)
    groups.open()
    assert groups.table.get("cg") == group
    assert groups.table.data_version.counter == 1


@pytest.mark.parametrize("name", ["", " ", "a b", "ä", "g" * 121])
def test_an_invalid_name_makes_no_group(groups, name):
    assert groups.table.find_or_create(name) is None
    assert name not in groups.table


def test_creation_can_be_switched_off_but_not_for_system_groups(tmp_path):
    groups = Groups(tmp_path, auto_create_subscription_group=False)
    assert groups.table.find_or_create("cg") is None
    assert groups.table.find_or_create("CID_RMQ_SYS_x") is not None
    groups.config = dataclasses.replace(groups.config, enable_create_sys_group=False)
    assert groups.table.find_or_create("CID_RMQ_SYS_y") is None
    assert groups.table.find_or_create("TOOLS_CONSUMER") is not None


def test_settings_of_a_group_survive(groups):
    groups.table.put(SubscriptionGroupConfig(group_name="cg", retry_max_times=3, consume_enable=False))
    groups.open()
    group = groups.table.get("cg")
    assert (group.retry_max_times, group.consume_enable) == (3, False)


def test_a_deleted_group_takes_its_forbidden_topics_along(groups):
    groups.table.find_or_create("cg")
    groups.table.set_forbidden("cg", "t", 2, True)
    assert groups.table.delete("cg")
    assert not groups.table.delete("cg")
    groups.open()
    assert "cg" not in groups.table
    assert not groups.table.forbidden("cg", "t")


def test_reading_a_topic_can_be_forbidden_and_allowed_again(groups):
    table = groups.table
    assert not table.forbidden("cg", "t")
    table.set_forbidden("cg", "t", 2, True)
    table.set_forbidden("cg", "t", 0, True)
    assert table.forbidden("cg", "t")
    assert not table.forbidden("cg", "u")
    with open(groups.path) as file:
        assert json.load(file)["forbiddenTable"] == {"cg": {"t": 5}}
    groups.open()
    assert groups.table.forbidden("cg", "t")
    groups.table.set_forbidden("cg", "t", 2, False)
    assert not groups.table.forbidden("cg", "t")
    groups.table.set_forbidden("cg", "t", 0, False)
    assert groups.table.to_body()["forbiddenTable"] == {}
    with pytest.raises(ValueError, match="32"):
        groups.table.set_forbidden("cg", "t", 32, True)


def test_when_the_disk_refuses_nothing_has_changed(groups, monkeypatch):
    def refuse(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(groups.table.file, "_save", refuse)
    for change in (
        lambda: groups.table.find_or_create("cg"),
        lambda: groups.table.delete("TOOLS_CONSUMER"),
        lambda: groups.table.set_forbidden("cg", "t", 2, True),
    ):
        with pytest.raises(OSError, match="No space"):
            change()
    assert "cg" not in groups.table
    assert "TOOLS_CONSUMER" in groups.table
    assert not groups.table.forbidden("cg", "t")
    assert groups.table.data_version.counter == 0


def test_a_file_of_rocketmq_is_read(groups):
    save_json(
        groups.path,
        '{"dataVersion":{"counter":2,"stateVersion":0,"timestamp":5},"forbiddenTable":{"cg":{"t":4}},'
        '"subscriptionGroupTable":{"cg":{"groupName":"cg","retryMaxTimes":5,"retryQueueNums":2}}}',
    )
    groups.open()
    assert groups.table.get("cg").retry_queue_nums == 2
    assert groups.table.forbidden("cg", "t")
    assert groups.table.data_version.counter == 2
    assert "TOOLS_CONSUMER" in groups.table


@pytest.mark.parametrize(
    "content", ['{"subscriptionGroupTable":[]}', '{"forbiddenTable":{"g":1}}', '{"forbiddenTable":{"g":{"t":"x"}}}']
)
def test_a_file_that_makes_no_sense_stops_the_start(groups, content):
    save_json(groups.path, content)
    with pytest.raises(StoreError, match="subscriptionGroup"):
        groups.open()
