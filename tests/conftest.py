"""What holds for all tests, and how `pytest -n 4` shares them out among processes."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import fastmq

# no test is about how fast an example is made or runs, and a busy machine is slow now and then
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What a script starts in the background ignores interrupts, and hangups behind nohup; so would every process that a
# test ends by one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests of a module stay together in one process, so that what they share is started once. Some modules are divided
# further, by the part of a test's parameters that names the client or server that is shared...
DIVIDED = {
    "wire/test_java_clients": r"\[\w+-([\d.]+(-binary-header)?)",
    "client/test_scenarios": r"\[(\w+)-",
    "client/test_java_exchange": r"\[(fastmq|apache4?)",
    "integration/test_pop": r"\[(hot|cold)",
}
# ...and these into single tests, which share nothing.
SINGLE = (
    "crash/",
    "client/test_trouble",
    "client/test_soak",
    "interop/test_pops",
    "interop/test_timers",
    "wire/test_java_order",
)
# What processes begin with: groups that take long because they wait for clients and other servers, and not all JVMs at
# once. The rest fills the gaps.
ORDER = (
    "wire/test_java_clients 5.3.3",
    "wire/test_go_client",
    "wire/test_java_clients 4.9.8",
    "client/test_scenarios apache",
    "wire/test_java_clients 5.5.0",
    "interop/test_store",
    "wire/test_mqadmin",
    "client/test_scenarios",
    "wire/test_java_clients 5.3.3-binary",
    "wire/test_java_clients",
    "interop/",
    "wire/",
    "client/",
    "crash/",
    "integration/",
    "property/",
    "",
)


def pytest_report_header() -> str:
    """Which fastmq is tested."""
    compiled = importlib.util.find_spec("fastmq._codec") is not None
    return f"fastmq: {Path(fastmq.__file__).parent}, {'with' if compiled else 'without'} extensions"


def _group(nodeid: str) -> str:
    """The name of the group of tests that run in one process."""
    file, _, test = nodeid.removeprefix("tests/").partition("::")
    module = file.removesuffix(".py")
    if module.startswith(SINGLE):
        return f"{module} {test}"
    part = re.search(DIVIDED[module], test) if module in DIVIDED else None
    return f"{module} {part[1]}" if part else module


def _rank(nodeid: str) -> int:
    group = _group(nodeid)
    return ORDER.index(max((start for start in ORDER if group.startswith(start)), key=len))


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """The order in which the processes begin the groups, and how long they look for examples."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _rank(item.nodeid))
    times = int(os.environ.get("FASTMQ_EXAMPLES", "1"))
    if times > 1:
        for test in {getattr(item, "cls", None) or getattr(item, "obj", None) for item in items}:
            _look_longer(test, times)


def _look_longer(test: Any, times: int) -> None:
    """So many times as many examples of a property, if it is one."""
    for name in ("settings", "_hypothesis_internal_use_settings"):  # of a state machine; of a function
        usual = getattr(test, name, None)
        if isinstance(usual, settings):
            setattr(test, name, settings(usual, max_examples=usual.max_examples * times))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives out the groups, each as a whole."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    config.option.loadscopereorder = False
    return Groups(config, log)
