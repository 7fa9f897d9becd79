"""The four commands from images to a report: killed and repeated, they end as if they had not been."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import neurordl as nrl
from neurordl import experiments, io
from neurordl.cli import main, rdms
from neurordl.report import read_origin
from neurordl.training.run import RunFolder
from tests import docs_files

TRAIN = "--labelled images.csv --test test.csv --size 32 --stimuli stimuli --held-out 0.5 --rdms brains.h5"
TRAIN += " --roi IT --subjects sub-01 --dissimilarity euclidean --epochs 2 --controls labels,permuted"
COMMANDS = [
    "rdm study/derivatives/fmriprep --task sim --space MNI152NLin2009cAsym --mask atlas.nii.gz"
    " --labels atlas.tsv --fmriprep motion --noise shrinkage_diag --out brains.h5",
    f"train {TRAIN} --seeds 1 --out rdl",
    "compare rdl --rdms brains.h5 --roi IT --layers conv2,conv3 --out layers",
    "report rdl layers --out report.html",
]


def killed_at(owner: Any, name: str, call: int, command: str) -> None:
    """Run a command in a process of its own, which is killed when a function is called for the n-th time."""
    function, calls = getattr(owner, name), list[int]()

    def counted(*positional: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*positional, **named)

    process = os.fork()
    if not process:
        setattr(owner, name, counted)
        sys.argv = ["neurordl", *command.split()]
        try:
            main()
        finally:
            os._exit(1)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"{command.split()[0]} ended before it was killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


def results(folder: Path) -> dict[str, Any]:
    """What the commands wrote, apart from times and places: RDMs, tables, weights and pages."""
    written: dict[str, Any] = {"rdms": nrl.load_rdms(folder / "brains.h5").dissimilarities.tobytes()}
    for pattern in ("rdl/*.csv", "rdl/rows/*", "rdl/runs/*/*.safetensors", "layers/**/*.csv", "layers/*.png"):
        files = sorted(folder.glob(pattern))
        assert files, pattern
        written |= {str(file.relative_to(folder)): file.read_bytes() for file in files}
    written |= {page: (folder / page).read_bytes() for page in ("rdl/report.html", "report.html")}
    return written | {"layers": read_origin(folder / "layers" / "report.html")}  # the page has times


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_killed_and_repeated(shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: str) -> tuple[str, str]:
        code, printed, errors = shell(*command.split())
        assert code == 0, errors
        return printed, errors

    places: list[list[tuple[Any, str, int]]] = [
        [(rdms, "_rdms_of_subject", 2), (rdms, "save_with_origin", 1)],
        [(RunFolder, "save", 4), (experiments, "record_accuracy", 2)],
        [(nrl, "evaluate", 2)],
        [(io, "write_folder", 1)],
    ]
    (tmp_path / "whole").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    docs_files.shell()
    for command in COMMANDS:
        run(command)
    (tmp_path / "killed").mkdir()
    monkeypatch.chdir(tmp_path / "killed")
    docs_files.shell()
    for command, kills in zip(COMMANDS, places, strict=True):
        for owner, name, call in kills:
            killed_at(owner, name, call, command)
        printed, errors = run(command)
        if command.startswith("rdm"):
            assert "3 of 3 subjects had been computed before" in printed
        if command.startswith("train"):
            assert "labels, seed 0" not in errors  # it had been scored
    assert not Path("brains.h5.parts").exists()
    people = nrl.load_rdms("brains.h5").rdm_descriptors["subject"]
    assert list(people) == ["sub-01", "sub-01", "sub-02", "sub-02", "sub-03", "sub-03"]
    assert nrl.load_run("rdl/runs/teacher_0").fitted_subjects == ("sub-01",)
    whole, again = results(tmp_path / "whole"), results(tmp_path / "killed")
    assert [name for name in whole if whole[name] != again.get(name)] == []

    before = times(tmp_path)
    for command, words in zip(COMMANDS, ("RDMs", "this study", "a comparison", "a report"), strict=True):
        printed, _ = run(command)
        line = printed.splitlines()[-1]
        assert f"holds {words}" in line
        assert line.endswith(("nothing was computed", "nothing was trained"))
        assert command.startswith("train") or printed.count("\n") == 1
    assert times(tmp_path) == before
