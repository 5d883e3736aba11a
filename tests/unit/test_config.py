"""Configuration as an operator meets it: files, environment, flags, mistakes, updates while running."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastmq
from fastmq.config import (
    BrokerConfig,
    Host,
    NamesrvConfig,
    environment_name,
    load_broker_config,
    load_namesrv_config,
    parse_properties,
    settings,
)
from fastmq.errors import UsageError
from fastmq.properties import escape_value, merge_properties, update_file, update_text

HOST = Host(home="/home/op", name="box7", local_address=lambda: "10.1.2.3")


def load(
    text: str = "", *, env: dict[str, str] | None = None, tmp_path: Path | None = None, **flags: str
) -> BrokerConfig:
    return load_with_notes(text, env=env, tmp_path=tmp_path, **flags)[0]


def load_with_notes(
    text: str = "", *, env: dict[str, str] | None = None, tmp_path: Path | None = None, **flags: str
) -> tuple[BrokerConfig, list[str]]:
    path = None
    if tmp_path is not None:
        path = str(tmp_path / "broker.conf")
        Path(path).write_text(text)
    return load_broker_config(path, env or {}, flags, host=HOST)


# --- properties text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=b", {"a": "b"}),
        ("a = b \n", {"a": "b "}),
        ("a:b\nc d", {"a": "b", "c": "d"}),
        ("a = = b", {"a": "= b"}),
        ("  # not=this\n! nor=that\n\n a\t=\t1", {"a": "1"}),
        ("levels = 1s \\\n     5s \\\n     10s", {"levels": "1s 5s 10s"}),
        ("a=b\\\\\nc=d", {"a": "b\\", "c": "d"}),
        ("a=1\r\nb=2\rc=3", {"a": "1", "b": "2", "c": "3"}),
        ("name=\\u4e2d\\u6587", {"name": "中文"}),
        ("name=\\ud83d\\ude00", {"name": "😀"}),
        ("a\\=b=c\\td", {"a=b": "c\td"}),
        ("alone", {"alone": ""}),
        ("a=1\na=2", {"a": "2"}),
        ("end=here\\", {"end": "here"}),
    ],
)
def test_properties_are_read_as_java_reads_them(text: str, expected: dict[str, str]) -> None:
    assert parse_properties(text) == expected


def test_a_broken_escape_is_named() -> None:
    with pytest.raises(UsageError, match=r"\\u12"):
        parse_properties("a=\\u12")


@pytest.mark.parametrize(
    "value", ["plain", " begins with a blank", "C:\\data\\x", "two\nlines", "中文", "ends with \\", ""]
)
def test_an_escaped_value_is_read_back(value: str) -> None:
    assert parse_properties(f"key={escape_value(value)}\nother=1") == {"key": value, "other": "1"}


def test_an_update_leaves_comments_and_other_lines_alone(tmp_path: Path) -> None:
    text = "# my broker\nlistenPort = 10911\nlevels = 1s \\\n  5s\nbrokerName=a\n\n"
    changed = update_text(text, {"levels": "2s", "new": "x"})
    assert changed == "# my broker\nlistenPort = 10911\nbrokerName=a\nlevels=2s\nnew=x\n"
    path = tmp_path / "made" / "x.conf"
    update_file(str(path), {"a": "1"})
    update_file(str(path), {"a": "2"})
    assert path.read_text() == "a=2\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.conf"]


@pytest.mark.parametrize("end", ["", "\n", "\n  \n", "\r\n"])
def test_a_last_line_that_goes_on_with_nothing_does_not_take_in_what_is_written_behind_it(end: str) -> None:
    text = "home=C:\\mq\\" + end
    for changed in (update_text(text, {"new": "x"}), merge_properties(text, {"new": "x"})):
        assert parse_properties(changed) == {"home": "C:mq", "new": "x"}


# --- defaults --------------------------------------------------------------------------------------------------------


def test_an_unconfigured_broker_is_reached_from_this_machine_only() -> None:
    config = load()
    assert (config.bind_address, config.broker_ip1, config.broker_ip2) == ("127.0.0.1", "127.0.0.1", "127.0.0.1")
    assert (config.listen_port, config.fast_listen_port, config.ha_listen_port) == (10911, 10909, 10912)
    assert config.broker_name == "box7"
    assert config.store_path_root_dir == "/home/op/store"
    assert config.store_path_commit_log == "/home/op/store/commitlog"
    assert config.admin_from_loopback_only


@pytest.mark.parametrize(
    ("bind", "told"),
    [
        ("0.0.0.0", "10.1.2.3"),
        ("::", "10.1.2.3"),
        ("127.0.0.2", "127.0.0.2"),
        ("localhost", "127.0.0.1"),
        ("192.168.0.9", "192.168.0.9"),
    ],
)
def test_clients_are_told_an_address_they_can_reach(bind: str, told: str) -> None:
    assert load(bindAddress=bind).broker_ip1 == told
    assert load(bindAddress=bind, brokerIP1="mq.example.org").broker_ip1 == "mq.example.org"


def test_ports_follow_the_listen_port_unless_set() -> None:
    config = load(listenPort="30911")
    assert (config.fast_listen_port, config.ha_listen_port) == (30909, 30912)
    config = load(listenPort="30911", fastListenPort="4", haListenPort="5")
    assert (config.fast_listen_port, config.ha_listen_port) == (4, 5)
    config = load(listenPort="0")
    assert (config.listen_port, config.fast_listen_port, config.ha_listen_port) == (0, 0, 0)
    assert load(fastListenPort="-1").fast_listen_port == -1


def test_the_usual_broker_conf_is_understood(tmp_path: Path) -> None:
    config, notes = load_with_notes(
        """
        brokerClusterName=DefaultCluster
        brokerName = broker-a
        brokerId=0
        namesrvAddr=10.0.0.1:9876;10.0.0.2:9876
        deleteWhen=04;16
        fileReservedTime=48
        brokerRole=SYNC_MASTER
        flushDiskType=SYNC_FLUSH
        messageDelayLevel=1s 5s 1m 2h 1d
        mappedFileSizeConsumeQueue=100
        """,
        tmp_path=tmp_path,
    )
    assert config.namesrv_addresses == (("10.0.0.1", 9876), ("10.0.0.2", 9876))
    assert config.delete_hours == {4, 16}
    assert config.file_reserved_time == 48
    assert config.sync_flush
    assert config.delay_levels_ms == (1000, 5000, 60_000, 7_200_000, 86_400_000)
    assert notes == []


def test_a_queue_file_holds_whole_entries() -> None:
    assert load(mappedFileSizeConsumeQueue="101").mapped_file_size_consume_queue == 120


def test_a_master_has_id_0() -> None:
    assert load(brokerId="3").broker_id == 0


# --- where settings come from ----------------------------------------------------------------------------------------


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = "listenPort=1001\nbrokerName=from-file\nregionId=from-file\n"
    env = {"FASTMQ_LISTEN_PORT": "1002", "FASTMQ_BROKER_NAME": "from-env", "FASTMQ_BROKER_IP1": "10.9.9.9"}
    config = load(file, env=env, tmp_path=tmp_path, listenPort="1003")
    assert (config.listen_port, config.broker_name, config.region_id) == (1003, "from-env", "from-file")
    assert config.broker_ip1 == "10.9.9.9"
    assert config.given == {"listenPort", "brokerName", "regionId", "brokerIP1"}


def test_java_s_variable_for_name_servers_counts_last(tmp_path: Path) -> None:
    env = {"NAMESRV_ADDR": "10.0.0.1:9876"}
    assert load(env=env).namesrv_addr == "10.0.0.1:9876"
    assert load("namesrvAddr=10.0.0.2:9876", env=env, tmp_path=tmp_path).namesrv_addr == "10.0.0.2:9876"


def test_every_property_has_an_environment_variable_of_its_own() -> None:
    names = [environment_name(cls, attribute) for cls in (BrokerConfig, NamesrvConfig) for attribute in settings(cls)]
    assert len(names) == len(set(names))
    assert environment_name(BrokerConfig, "store_path_root_dir") == "FASTMQ_STORE_PATH_ROOT_DIR"
    assert environment_name(NamesrvConfig, "listen_port") == "FASTMQ_NAMESRV_LISTEN_PORT"


def test_attribute_names_follow_from_property_names() -> None:
    for cls in (BrokerConfig, NamesrvConfig):
        for attribute, setting in settings(cls).items():
            assert attribute.replace("_", "") == setting.name.lower()


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("listenPort", "70000", r"listenPort=70000 \(command line\): must be between 0 and 65535"),
        ("listenPort", "port", "must be a whole number"),
        ("listenPort", "1_000", "must be a whole number"),
        ("listenPort", "65535", "haListenPort comes out as 65536"),
        ("haListenPort", "10909", "fastListenPort and haListenPort are both 10909"),
        ("brokerIP1", " ", "brokerIP1 must not be empty"),
        ("mappedFileSizeCommitLog", "1000", "must be between 1048576 and 2147483647"),
        ("maxMessageSize", "0", "must be between 1 and"),
        ("flushDiskType", "SOMETIMES", "must be one of ASYNC_FLUSH, SYNC_FLUSH"),
        ("brokerRole", "MASTER", "must be one of ASYNC_MASTER, SYNC_MASTER, SLAVE"),
        ("brokerRole", "SLAVE", "replication is not built yet"),
        ("inSyncReplicas", "2", "replication is not built yet"),
        ("aclEnable", "true", "access control is not built yet"),
        ("traceOn", "yes", "must be true or false"),
        ("namesrvAddr", "nohost", "'nohost' is not host:port"),
        ("namesrvAddr", "host:99999", "'host:99999' is not host:port"),
        ("messageDelayLevel", "1s 5x", "'5x' is not a number followed by"),
        ("deleteWhen", "25", "not an hour from 00 to 23"),
        ("storePathCommitLog", "/a;/b", "only one is built"),
        ("storeType", "defaultRocksDB", "only the default file store"),
        ("brokerName", "a\nb", "control characters"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence(name: str, value: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load(**{name: value})


def test_an_error_names_the_file_or_the_variable(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"file .*broker\.conf"):
        load("listenPort=x", tmp_path=tmp_path)
    with pytest.raises(UsageError, match="environment variable FASTMQ_LISTEN_PORT"):
        load(env={"FASTMQ_LISTEN_PORT": "x"})
    with pytest.raises(UsageError, match=r"cannot read .*absent\.conf: No such file"):
        load_broker_config(str(tmp_path / "absent.conf"), {}, {}, host=HOST)


def test_unknown_and_pointless_settings_are_noted_and_do_no_harm(tmp_path: Path) -> None:
    config, notes = load_with_notes(
        "listenport=1\nfromTheFuture=2\nhighSpeedMode=true\ntransferMsgByHeap=true\n",
        env={"FASTMQ_LISTEN_PRT": "3", "FASTMQ_DEBUG": "1"},
        tmp_path=tmp_path,
    )
    assert config.listen_port == 10911
    text = "\n".join(notes)
    assert "listenport" in text
    assert "did you mean listenPort?" in text
    assert "fromTheFuture" in text
    assert "FASTMQ_LISTEN_PRT" in text
    assert "highSpeedMode" in text
    assert "changes nothing" in text
    assert "transferMsgByHeap" not in text, "set to what it is anyway"
    assert len(notes) == 4


def test_ratios_are_pulled_into_the_range_rocketmq_allows() -> None:
    config, notes = load_with_notes(diskMaxUsedSpaceRatio="99", registerNameServerPeriod="1")
    assert (config.disk_max_used_space_ratio, config.register_name_server_period) == (95, 10_000)
    assert len(notes) == 2


def test_a_commit_log_file_smaller_than_a_message_is_noted() -> None:
    _, notes = load_with_notes(mappedFileSizeCommitLog="1048576")
    assert len(notes) == 1
    assert "maxMessageSize" in notes[0]


# --- shown and updated -----------------------------------------------------------------------------------------------


def test_all_settings_are_shown_as_properties_in_order() -> None:
    text = load(brokerName="中").to_properties()
    shown = parse_properties(text)
    assert list(shown) == sorted(shown)
    assert shown["brokerName"] == "中"
    assert shown["listenPort"] == "10911"
    assert shown["autoCreateTopicEnable"] == "true"
    assert shown["highSpeedMode"] == "false"
    assert set(shown) == {setting.name for setting in settings(BrokerConfig).values()}


def test_what_was_given_can_be_written_and_read_back(tmp_path: Path) -> None:
    config = load(brokerName="b", storePathRootDir="/x\\y")
    text = config.to_properties(only_given=True)
    assert set(parse_properties(text)) == {"brokerName", "storePathRootDir"}
    assert load(text, tmp_path=tmp_path).store_path_root_dir == "/x\\y"


def test_an_update_is_all_or_nothing() -> None:
    config = load()
    updated, applied, unknown = config.with_updates({"fileReservedTime": "12", "whatever": "1"})
    assert (updated.file_reserved_time, config.file_reserved_time) == (12, 72)
    assert (applied, unknown) == (["fileReservedTime"], ["whatever"])
    assert "fileReservedTime" in updated.given
    with pytest.raises(UsageError, match="traceOn"):
        config.with_updates({"fileReservedTime": "12", "traceOn": "perhaps"})
    with pytest.raises(UsageError, match="replication is not built"):
        config.with_updates({"brokerRole": "SLAVE"})


def test_the_black_list_itself_cannot_be_updated_away() -> None:
    config = load(configBlackList="brokerConfigPath; storePathRootDir")
    assert config.refused_updates(["configBlackList", "storePathRootDir", "traceOn"]) == [
        "configBlackList",
        "storePathRootDir",
    ]


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(AttributeError):
        load().listen_port = 1  # type: ignore[misc]


# --- name server -----------------------------------------------------------------------------------------------------


def test_a_name_server_s_settings(tmp_path: Path) -> None:
    path = tmp_path / "namesrv.conf"
    path.write_text("listenPort=1\norderMessageEnable=true\n")
    env = {"FASTMQ_LISTEN_PORT": "2", "FASTMQ_NAMESRV_SCAN_NOT_ACTIVE_BROKER_INTERVAL": "100"}
    config, notes = load_namesrv_config(str(path), env, {}, host=HOST)
    assert (config.listen_port, config.bind_address, config.order_message_enable) == (1, "127.0.0.1", True)
    assert config.scan_not_active_broker_interval == 100
    assert config.kv_config_path == "/home/op/namesrv/kvConfig.json"
    assert config.config_store_path == str(path)
    assert notes == []
    with pytest.raises(UsageError, match="controller is not built"):
        load_namesrv_config(None, {}, {"enableControllerInNamesrv": "true"}, host=HOST)


def test_updates_stored_by_a_name_server_count_at_its_next_start(tmp_path: Path) -> None:
    host = Host(home=str(tmp_path), name="x", local_address=lambda: "")
    config, _ = load_namesrv_config(None, {}, {}, host=host)
    update_file(config.config_store_path, {"orderMessageEnable": "true"})
    assert load_namesrv_config(None, {}, {}, host=host)[0].order_message_enable


# --- documentation ---------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[2] / "docs" / "operations.md"


def table(cls: type[BrokerConfig] | type[NamesrvConfig]) -> str:
    """The settings of a class as docs/operations.md shows them."""
    default = cls()
    acting = ["| Property | Default | Environment | Meaning |", "|---|---|---|---|"]
    kept: list[str] = []
    for attribute, setting in sorted(settings(cls).items(), key=lambda item: item[1].name.lower()):
        value = getattr(default, attribute)
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        if setting.acts:
            own = " (fastmq only)" if setting.own else ""
            cells = (f"`{setting.name}`{own}", f"`{shown}`", f"`{environment_name(cls, attribute)}`", setting.text)
            acting.append("| " + " | ".join(cells).replace("``", "") + " |")
        else:
            kept.append(f"`{setting.name}`")
    return "\n".join([*acting, "", "Accepted and shown, without effect: " + ", ".join(kept) + "."])


@pytest.mark.parametrize("cls", [BrokerConfig, NamesrvConfig])
def test_the_documented_settings_are_the_real_ones(cls: type[BrokerConfig] | type[NamesrvConfig]) -> None:
    begin, end = f"<!-- settings of {cls.__name__} -->", f"<!-- end of {cls.__name__} -->"
    documented = DOCS.read_text().split(begin)[1].split(end)[0].strip()
    # to renew: PYTHONPATH=src python tests/unit/test_config.py
    assert documented == table(cls)


def renew_docs() -> None:
    """Write the tables into docs/operations.md."""
    text = DOCS.read_text()
    for cls in (BrokerConfig, NamesrvConfig):
        begin, end = f"<!-- settings of {cls.__name__} -->", f"<!-- end of {cls.__name__} -->"
        pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        content = f"{begin}\n{table(cls)}\n{end}"
        text = pattern.sub(lambda _, content=content: content, text)
    DOCS.write_text(text)


def settings_read() -> set[str]:
    """Attribute names that some code reads from a configuration."""
    source = Path(fastmq.__file__).parent
    settings_of = source / "config"
    text = "\n".join(path.read_text() for path in source.rglob("*.py") if path.parent != settings_of)
    own = "\n".join(path.read_text() for path in settings_of.glob("*.py"))
    return set(re.findall(r"config(?:\(\))?\.([a-z][a-z0-9_]*)", text)) | set(
        re.findall(r"\bself\.([a-z][a-z0-9_]*)", own)
    )


@pytest.mark.parametrize("cls", [BrokerConfig, NamesrvConfig])
def test_a_setting_acts_exactly_if_it_says_so(cls: type[BrokerConfig] | type[NamesrvConfig]) -> None:
    read = settings_read()
    assert [s.name for attribute, s in settings(cls).items() if not s.acts and attribute in read] == [], "they do act"
    assert [s.name for attribute, s in settings(cls).items() if s.acts and attribute not in read] == [], (
        "nobody reads them"
    )


if __name__ == "__main__":
    renew_docs()
