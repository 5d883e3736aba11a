"""Imports go one way (docs/architecture.md): a module uses what stands below it and nothing above or beside it."""

from __future__ import annotations

import ast
from pathlib import Path

import fastmq

ROOT = Path(fastmq.__file__).parent

# from bottom to top; a part may import its own level only within itself
LEVELS = [
    {"limits", "errors", "properties"},
    {"protocol", "watermark", "clock", "config", "_crc", "_codec", "_store", "_load", "logs"},
    {"_reactor"},
    {"net"},
    {"store"},
    {"ha"},
    {"broker", "nameserver", "client"},
    {"bench", "console", "proxy", "sync"},
    {"commands"},
    {"serve", "testing"},
    {"cli"},
    {"__main__"},
]
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
# net and store stand on one level in meaning: neither knows the other
FORBIDDEN = {("store", "net"), ("net", "store"), ("net", "_store"), ("protocol", "config"), ("config", "protocol")}
# the client runs where nothing is compiled and no server is installed
FORBIDDEN |= {
    (part, other)
    for part in ("client", "sync")
    for other in ("net", "store", "ha", "_codec", "_store", "_reactor", "_load")
}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "fastmq":
                names = [f"fastmq.{alias.name}" for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("fastmq.")}
    return parts - {"__version__"}


def test_every_part_has_its_level() -> None:
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")} - {"__init__"}
    assert parts <= set(LEVEL_OF), f"say where {sorted(parts - set(LEVEL_OF))} stand in LEVELS"


def test_imports_go_down_only() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for other in imported_parts(path) - {part}:
            beside = LEVEL_OF[other] == LEVEL_OF[part] >= LEVEL_OF["broker"]
            above = LEVEL_OF[other] > LEVEL_OF[part]
            if above or beside or (part, other) in FORBIDDEN:
                wrong.append(f"{path.relative_to(ROOT)} imports {other}")
    assert not wrong, "\n".join(wrong)
