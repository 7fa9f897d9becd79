"""Bars of long calls: on a terminal, unless they are not wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

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
