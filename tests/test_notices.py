"""Notices are given at the user's line, in whatever depth they arise."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nibabel import Nifti1Image
from pandas import DataFrame
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from torch import nn

import neurordl as nrl

RNG = np.random.default_rng(0)
IDS = [f"s{k}" for k in range(12)]
MODEL = RDMs(RNG.random((1, 66)), pattern_descriptors={"stimulus": IDS})
FEW = nrl.Bootstrap("both", n=20)


def brain(subjects: str = "abc") -> RDMs:
    vectors = RNG.random((3, 66))
    vectors[0, :3] = vectors[1, 5:7] = np.nan
    described = {"subject": list(subjects)}
    return RDMs(vectors, rdm_descriptors=described, pattern_descriptors={"stimulus": IDS})


def slow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a[:, None] * b).sum(-1)


PLAIN = nrl.Comparison("plain", similarity=slow)


PLACES = dict(zip("xyz", np.indices((2, 2, 2)).reshape(3, -1), strict=True))
VOXELS = Dataset(np.ones((12, 8)), {}, {"stimulus": IDS}, PLACES)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x))


def stimuli(n: int = 4) -> nrl.StimulusSet:
    return nrl.StimulusSet.from_array(RNG.random((n, 3, 8, 8)), IDS[:n], labels=[0, 1] * (n // 2))


def patterns(ids: list[str], subject: str) -> Dataset:
    return Dataset(RNG.normal(size=(len(ids), 5)), {"subject": subject}, {"stimulus": ids})


def read_bold() -> None:
    values = RNG.normal(size=(2, 2, 2, 30))
    values[0] = 0
    bold = Nifti1Image(values, np.diag([1.0, 1, 1, 1]))
    bold.header.set_zooms((1, 1, 1, 2))
    bold.header.set_xyzt_units("mm", "sec")
    events = DataFrame({"onset": [4, 20], "duration": 2, "trial_type": ["a", "A"]})
    nrl.read_patterns(bold, events=events, model="average")


def train() -> None:
    student = nrl.students.small_cnn(2, width=2)
    for _ in range(2):
        nrl.fit(student, nrl.Objective(), stimuli(), epochs=1, execution=nrl.Execution(progress=False))


CALLS = {
    "noise_ceiling": lambda: nrl.noise_ceiling(brain(), PLAIN),
    "evaluate": lambda: nrl.evaluate({"m": MODEL}, brain(), comparison=PLAIN),
    "evaluate, a bootstrap": lambda: nrl.evaluate({"m": MODEL}, brain(), bootstrap=FEW),
    "evaluate_fitted": lambda: nrl.evaluate_fitted(
        {"m": MODEL}, brain(), folds=nrl.Folds(splits=2), bootstrap=FEW
    ),
    "compute_rdms": lambda: nrl.compute_rdms([patterns(IDS, "a"), patterns(IDS[1:], "b")]),
    "read_patterns": read_bold,
    "searchlight": lambda: nrl.searchlight(VOXELS, MODEL, radius=1.5, threshold=0.1),
    "extract_patterns": lambda: nrl.extract_patterns(Twice(), stimuli(), "layer"),
    "fit": train,
    "RDMLoss": lambda: nrl.RDMLoss(
        nrl.PatternTeacher(
            {"a": Dataset(RNG.normal(size=(8, 5)), {}, {"stimulus": IDS[:4] * 2, "run": [0] * 4 + [1] * 4})},
            dissimilarity="crossnobis",
        ),
        "conv1",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_notice_names_the_line_of_the_user(call):
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always", UserWarning)
        CALLS[call]()
    assert notices
    assert {notice.filename for notice in notices} == {__file__}


def test_there_is_a_single_way_to_give_notices():
    for path in Path(nrl.__file__).parent.rglob("*.py"):
        count = path.read_text(encoding="utf-8").count("warnings.warn(")
        assert count == (path.name == "errors.py"), path
