"""The package stays as small and as plain as it was built; scripts/code_size.py counts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.code_size import LIMITS, Size, count
from scripts.walk import walks

WALKS = {"evaluate": 12, "compute_rdms": 8}


@pytest.fixture(scope="module")
def size() -> Size:
    return count()


@pytest.mark.parametrize("name", LIMITS)
def test_package_keeps_its_limits(size: Size, name: str) -> None:
    total = size.totals()[name]
    assert total <= LIMITS[name], f"{name}: {total}, at most {LIMITS[name]}; see make size"


def test_few_modules_take_part_in_a_call() -> None:
    """What a reader of the code has to open; docs/map.md draws it."""
    for name, modules in walks().items():
        assert len(modules) <= WALKS[name], f"{name}: {', '.join(modules)}"


def test_counts_are_those_of_a_small_package(tmp_path: Path) -> None:
    (tmp_path / "cli").mkdir()
    (tmp_path / "cli" / "app.py").write_text("@command\ndef train(a, b, c, d, e, f, g, h, i): ...\n")
    (tmp_path / "scores.py").write_text(
        '''"""A docstring
over two lines."""

# a comment
from typing import Any

TEXT = """two
lines"""
RANKED = ("spearman", "rho-a")


class Table:
    """A docstring."""

    def rank(self, method, left, right, a, b, c, d, e): return method in ("corr", "cosine")

    def score(self, method, a, b, c, d, e, f, g, h):
        options: dict[str, Any] = {}
        found = [one for one in options if one == "Corr"]
        self.kind = "stimuli"  # a comment behind code
        return method == "rho-a" or method in RANKED or found


def plot(scheduler, left):
    match left:
        case "tau-b":
            return scheduler == "cosine"
'''
    )
    size = count(tmp_path)
    assert size.lines == {"scores.py": 15, "cli": 2}
    assert size.files == {"scores.py": 1, "cli": 1}
    assert size.long == [(9, "scores.py:17 score")]
    assert len(size.dicts) == 1
    assert sorted(place.split(" ", 1)[1] for place in size.comparisons) == [
        "'tau-b'",
        "method == 'rho-a'",
        "method in ('corr', 'cosine')",
        "method in RANKED",
    ]
    assert sorted(place.split()[1] for place in size.forbidden) == ["found", "kind", "left", "one"]
