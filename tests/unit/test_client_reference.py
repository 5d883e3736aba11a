"""docs/client-api.md says what the docstrings say."""

from __future__ import annotations

from pathlib import Path

from fastmq.client.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "client-api.md"


def test_the_reference_is_current() -> None:
    assert PAGE.read_text() == reference(), "python -m fastmq.client.reference docs/client-api.md"
