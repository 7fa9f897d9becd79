"""The list of differences from rsatoolbox names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_each_difference_names_a_test() -> None:
    text = (HERE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Where we differ from rsatoolbox on purpose")[1]
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", section)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (HERE / file).read_text(encoding="utf-8"), f"{file}::{test}"
