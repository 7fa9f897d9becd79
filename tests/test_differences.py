"""The list of differences from rsatoolbox names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_each_difference_names_a_test() -> None:
    text = (TESTS.parent / "docs" / "differences.md").read_text(encoding="utf-8")
    for difference in text.split("\n- ")[1:]:
        if not difference.startswith("`bures_metric`"):  # what is not available has no test
            assert "::test_" in difference, difference
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{test}"
