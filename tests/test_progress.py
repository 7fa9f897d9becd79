"""Bars of long calls: on a terminal, unless they are not wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import IPython
import IPython.display
import numpy as np
import pytest
from nibabel import Nifti1Image
from pandas import DataFrame
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs

import neurordl as nrl
from neurordl import progress
from neurordl.experiments import run_grid
from neurordl.patterns.network import Compute
from neurordl.simulate import plan_study

RNG = np.random.default_rng(0)
STIMULI = list("abcdefgh")
PATTERNS = Dataset(
    RNG.normal(size=(8, 27)),
    obs_descriptors={"stimulus": STIMULI},
    channel_descriptors=dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1).tolist(), strict=True)),
)
MODEL = RDMs(RNG.random((1, 28)), pattern_descriptors={"stimulus": STIMULI})
BRAIN = RDMs(
    RNG.random((3, 28)),
    rdm_descriptors={"subject": list("xyz")},
    pattern_descriptors={"stimulus": STIMULI},
)


BOLD = Nifti1Image(RNG.normal(size=(2, 2, 2, 30)), np.eye(4))
BOLD.header.set_zooms((1, 1, 1, 2))
BOLD.header.set_xyzt_units("mm", "sec")
EVENTS = DataFrame({"onset": [4, 20, 30], "duration": 2, "trial_type": list("aba")})


def read(**options: Any) -> object:
    return nrl.read_patterns(BOLD, events=EVENTS, model="average", **options)


def read_folder(**options: Any) -> object:
    with TemporaryDirectory() as root:
        func = Path(root, "sub-1", "func")
        func.mkdir(parents=True)
        BOLD.to_filename(func / "sub-1_task-x_bold.nii.gz")
        EVENTS.to_csv(func / "sub-1_task-x_events.tsv", sep="\t", index=False)
        return nrl.read_bids(root, "x", mask=None, model="average", **options)


def extract(**options: Any) -> object:
    stimuli = nrl.StimulusSet.from_array(RNG.random((4, 3, 8, 8)), STIMULI[:4])
    return nrl.extract_patterns(nrl.students.small_cnn(width=2), stimuli, "conv1", device=Compute(**options))


CALLS = {
    "runs": read,
    "subjects": read_folder,
    "RDMs": lambda **options: nrl.compute_rdms(PATTERNS, **options),
    "ROIs": lambda **options: nrl.evaluate_fitted({"m": MODEL}, BRAIN, **options),
    "searchlight": lambda **options: nrl.searchlight(PATTERNS, MODEL, radius=1.5, **options),
    "jobs": lambda **options: run_grid([{"x": 1}], lambda x: {"y": x}, **options),
    "patterns": extract,
    "studies": lambda **options: plan_study(
        RNG.normal(size=(8, 9)), STIMULI, subjects=[3], runs=[2], n_simulations=1, snr=1.0, **options
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("description", CALLS)
def test_long_calls_show_a_bar_on_a_terminal_unless_it_is_not_wanted(description, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    CALLS[description]()
    CALLS[description](progress=False)
    assert "%" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    CALLS[description](progress=False)
    assert "%" not in capsys.readouterr().err
    CALLS[description]()
    output = capsys.readouterr()
    assert description in output.err
    assert "%" in output.err
    assert not output.out
    assert not progress._OPEN


def test_a_call_within_a_call_adds_a_line(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for _ in progress.tracked("ab", "outer"):
        assert list(progress.tracked(range(3), "inner")) == [0, 1, 2]
    stopped = progress.tracked("ab", "outer")
    next(stopped)
    stopped.close()  # as an error in the loop does
    assert not progress._OPEN
    error = capsys.readouterr().err
    assert "outer" in error
    assert "inner" in error


def test_a_notebook_shows_calls_that_take_long_in_an_output(monkeypatch, capsys):
    shown = []
    output = SimpleNamespace(update=lambda content, raw: shown.append(content["text/plain"]))

    def display(content, raw, display_id):
        shown.append(content["text/plain"])
        assert "<progress value=" in content["text/html"]
        assert "&lt;b&gt;" in content["text/html"]
        return output

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=True))
    monkeypatch.setattr(IPython.display, "display", display)
    clock = iter(range(0, 1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) / 2)
    assert list(progress.tracked("ab", "quick")) == ["a", "b"]
    assert not shown
    for _ in progress.tracked("abcdef", "<b>outer"):
        assert list(progress.tracked("xyz", "inner")) == ["x", "y", "z"]
    assert "<b>outer: 1 of 6\ninner: 1 of 3" in shown
    assert shown[-1] == ""
    assert progress._Notebook.output is None
    shown.clear()
    list(progress.tracked("a" * 20, "quiet", progress=False))
    assert not shown
    monkeypatch.setattr(IPython.display, "display", lambda content, **_: shown.append(content))
    progress.announce("this takes long")
    assert shown == [{"text/plain": "this takes long"}]
    assert not capsys.readouterr().err


def test_a_log_has_few_lines_and_only_where_they_are_wanted(capsys, monkeypatch):
    clock = iter(range(0, 100_000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock) * 20.0)
    list(progress.tracked(range(1000), "folds", progress=True))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("folds: 100 of 1,000 after ")
    assert lines[-1].startswith("folds: 1,000 of 1,000 after ")
    list(progress.tracked(range(1000), "folds"))
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    list(progress.tracked(range(1000), "quick", progress=True))
    assert not capsys.readouterr().err


def test_training_for_long_writes_few_lines(capsys):
    images = nrl.StimulusSet.from_array(RNG.random((8, 3, 8, 8)), STIMULI, labels=[0, 1] * 4)
    nrl.fit(nrl.students.small_cnn(2, width=2), nrl.Objective(), images, epochs=60)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == [f"{k}/60" for k in range(2, 61, 2)]
