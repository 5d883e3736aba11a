"""Imports go one way (docs/architecture.md): a part uses what its row names, and nothing that stands above it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import fastmq

ROOT = Path(fastmq.__file__).parent
SOURCES = sorted(path for path in ROOT.rglob("*") if path.suffix in (".py", ".pyx", ".pxd", ".pxi"))

# from top to bottom: which parts the code of a part may import
USES = {
    "__main__": {"cli"},
    "cli": {"serve", "commands", "bench", "config", "logs", "errors"},
    "serve": {"broker", "nameserver", "net", "_reactor", "_store", "config", "clock", "errors"},
    "commands": {"sync", "client", "errors"},
    "bench": {"_load", "protocol", "errors"},
    "sync": {"client", "protocol"},
    # what runs where nothing is compiled and no server is installed
    "__init__": {"client", "protocol", "errors"},
    "client": {"protocol", "properties", "clock", "limits", "errors"},
    # the servers know neither each other nor the client
    "broker": {"net", "store", "_store", "protocol", "config", "properties", "clock", "limits", "errors"},
    "ha": set(),
    "nameserver": {"net", "store", "protocol", "config", "properties", "clock", "limits", "errors"},
    # neither knows the other
    "net": {"_reactor", "protocol", "limits", "errors"},
    "store": {"protocol", "errors"},
    "_reactor": {"_store", "errors"},
    "_store": {"errors"},
    "_load": {"errors"},
    # the codec in C and its twin in Python, which decides whatever is unusual
    "protocol": {"_codec", "limits", "errors"},
    "_codec": {"protocol", "limits", "errors"},
    "config": {"properties", "limits", "errors"},
    "properties": {"errors"},
    "logs": set(),
    "clock": set(),
    "limits": set(),
    "errors": set(),
}
TWINS = ("_codec", "protocol")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].split(".")[0]


def imported_parts(path: Path) -> set[str]:
    """The parts that a source names in an import; in Cython also those it `cimport`s."""
    text = path.read_text()
    if path.suffix == ".py":
        modules = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                whole = node.module == "fastmq"
                modules |= {f"fastmq.{alias.name}" for alias in node.names} if whole else {node.module}
    else:
        modules = set(re.findall(r"^\s*(?:from|c?import)\s+(fastmq\.[\w.]+)", text, re.MULTILINE))
        for names in re.findall(r"^\s*from fastmq c?import (.+)$", text, re.MULTILINE):
            modules |= {f"fastmq.{name.strip()}" for name in names.split(",")}
    return {module.split(".")[1] for module in modules if module.startswith("fastmq.")} - {"__version__"}


def test_every_part_has_its_row() -> None:
    parts = {part_of(path) for path in SOURCES}
    assert parts <= set(USES), f"say in USES what {sorted(parts - set(USES))} may import"


def test_the_rows_go_down_only() -> None:
    rank = {part: number for number, part in enumerate(USES)}
    up = [f"{part} uses {other}" for part, row in USES.items() for other in row if rank[other] <= rank[part]]
    assert up == ["{} uses {}".format(*TWINS)]


@pytest.mark.parametrize("part", USES)
def test_a_part_imports_what_its_row_names(part: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in SOURCES
        if part_of(path) == part
        for other in sorted(imported_parts(path) - USES[part] - {part})
    ]
    assert not wrong, "\n".join(wrong)


def test_an_import_is_found_however_it_is_written(tmp_path: Path) -> None:
    python = tmp_path / "a.py"
    python.write_text(
        "import fastmq.net.server\nfrom fastmq import store, limits\ndef f():\n    from fastmq.ha import x\n"
    )
    assert imported_parts(python) == {"net", "store", "limits", "ha"}
    cython = tmp_path / "a.pyx"
    cython.write_text("from fastmq._store cimport Store\nfrom fastmq import limits, errors\ncimport fastmq.net\n")
    assert imported_parts(cython) == {"_store", "limits", "errors", "net"}
