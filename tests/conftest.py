"""Fixtures for all tests: few threads, a fixed seed, no display, the shell, and the folder of real data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Set before torch and matplotlib are imported; processes that tests start inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# No deadline, because times vary on a shared machine. Every run has the same examples.
settings.register_profile("neurordl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("neurordl")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that runs the command `neurordl` and returns its exit code, output and error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from neurordl.cli import main

        monkeypatch.setattr("sys.argv", ["neurordl", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets that NEURORDL_DATA names; the test is skipped if it is not set."""
    root = os.environ.get("NEURORDL_DATA")
    if not root:
        pytest.skip("needs real data: NEURORDL_DATA is not set")
    if not Path(root).is_dir():
        pytest.fail(f"NEURORDL_DATA names {root!r}, which is not a folder")
    return Path(root)


@pytest.fixture(scope="session")
def all_inside() -> Callable[[Any], bool]:
    """A function that tells whether everything in the figure of an Axes lies inside the figure."""

    def inside(ax: Any) -> bool:
        figure = ax.figure
        figure.canvas.draw()
        box = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
        width, height = figure.get_size_inches()
        return bool(min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01)

    return inside
