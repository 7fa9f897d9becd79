"""What all tests share: few threads, a fixed seed, no display, and where the real data lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before torch and matplotlib are imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# Times vary on a shared machine: no deadline; the same examples in every run.
settings.register_profile("neurordl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("neurordl")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the shell as its console script does: exit code, standard output, standard error."""

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
    """Folder of the real data sets, named by NEURORDL_DATA; without it the test is skipped."""
    root = os.environ.get("NEURORDL_DATA")
    if not root:
        pytest.skip("needs real data: NEURORDL_DATA is not set")
    if not Path(root).is_dir():
        pytest.fail(f"NEURORDL_DATA names {root!r}, which is not a folder")
    return Path(root)


@pytest.fixture(scope="session")
def all_inside() -> Callable[[Any], bool]:
    """Tells of an Axes whether its figure, once drawn, cuts nothing."""

    def inside(ax: Any) -> bool:
        figure = ax.figure
        figure.canvas.draw()
        box = figure.get_tightbbox(figure.canvas.get_renderer())  # inches
        width, height = figure.get_size_inches()
        return bool(min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01)

    return inside
