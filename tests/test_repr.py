"""Every public object has a short representation: what it is and how large, not what it holds."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.rdms import RDMs

import neurordl as nrl
from neurordl.datasets import REGISTRY
from neurordl.datasets.loaders import BrainData
from neurordl.measures import COMPARISONS, DISSIMILARITIES
from neurordl.rsa.inference.infer import infer
from tests.helpers import random_rdms, random_stimuli

IDS = [f"a stimulus with a rather long name {k}" for k in range(60)]
EXEMPT = {"NeurordlError", "Teacher", "TransferLoss", "Resampling", "Processes"}  # Processes needs several


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    """Objects of every public class, with many stimuli, subjects, layers and files."""
    stimuli = random_stimuli(len(IDS), ids=IDS, labels=[k % 4 for k in range(len(IDS))])
    data = random_rdms(IDS, subject=[f"a subject {k}" for k in range(30)])
    models = random_rdms(IDS, measure=None, layer=[f"features.{k}.conv" for k in range(40)])
    patterns = Dataset(np.random.default_rng(0).random((60, 50)), obs_descriptors={"stimulus": IDS})
    student = nrl.students.small_cnn(4, 1)
    teacher, network = nrl.RDMTeacher(data), nrl.NetworkTeacher(student, layers="all")
    loss = nrl.RDMLoss(teacher, layer="conv3")
    objective = nrl.Objective([loss, nrl.SoftTargetLoss(network), *[loss] * 8])
    history = pd.DataFrame({"epoch": range(300), "loss": 1.0})
    report = nrl.align({"stimuli": stimuli, "rdms": data})
    files = [Path(f"/a/folder/with/a/long/name/sub-{k:02d}_desc-confounds_timeseries.tsv") for k in range(40)]
    bootstrap = nrl.Bootstrap("both", n=200)
    instances: list[object] = [
        *(
            stimuli,
            stimuli.preprocessing,
            teacher,
            network,
            network["conv1"],
            loss,
            objective,
            report,
            bootstrap,
        ),
        *(nrl.SoftTargetLoss(network), nrl.PatternTeacher(patterns, dissimilarity="correlation")),
        *(nrl.DecoupledLoss(network), nrl.DeepSupervisionLoss("conv3")),
        *(make(network["conv1"], "conv3") for make in (nrl.HintLoss, nrl.AttentionLoss, nrl.AngleLoss)),
        nrl.SimilarityPreservingLoss(network["conv1"], "conv3"),
        nrl.CorrelationCongruenceLoss(network["conv1"], "conv3"),
        nrl.ProbabilisticTransferLoss(network["conv1"], "conv3"),
        nrl.ContrastiveLoss(network["conv1"], "conv3", ["a", "b"]),
        nrl.evaluate(models, data, comparison="corr"),
        nrl.Run(student, history, {"objective": {"losses": {}}}),
        nrl.Batch(torch.zeros(60, 3, 8, 8), tuple(IDS), torch.zeros(60)),
        nrl.Target(torch.zeros(30, 1770), torch.zeros(30, 1770)),
        nrl.Noise("full", residuals=patterns),
        nrl.Regions("atlas.nii.gz", labels={k: f"region {k}" for k in range(300)}, rois="region 1"),
        nrl.Confounds(files, columns=[f"confound {k}" for k in range(300)]),
        bootstrap.draw([f"a subject {k}" for k in range(30)], IDS),
        infer(np.ones((5, 15)), np.random.default_rng(0).random((8, 15)), "corr", bootstrap),
        *(COMPARISONS["rho-a"], DISSIMILARITIES["crossnobis"], REGISTRY["mnist"]),
        teacher.match(IDS),
        BrainData(stimuli, data, stimuli.table, report),
        *(nrl.GLM(), nrl.LSA(), nrl.LSS(), nrl.Average(), nrl.Compute(), nrl.Folds(), nrl.Jackknife("both")),
        *(nrl.Batches(), nrl.Execution(), nrl.Optimization(), nrl.TaskRatio(0.5)),
    ]
    return {type(instance).__name__: instance for instance in instances}


PUBLIC = [
    name
    for name in nrl.__all__
    if inspect.isclass(getattr(nrl, name)) and name not in EXEMPT and getattr(nrl, name) is not RDMs
]


@pytest.mark.parametrize("name", [*PUBLIC, "LayerTeacher", "BrainData", "Match", "Inference", "DataSet"])
def test_the_representation_is_short_and_says_something(name: str, objects: dict[str, object]) -> None:
    text = repr(objects[name])
    assert len(text) <= 1000
    assert text.count("\n") < 20
    assert " object at 0x" not in text
    assert "Parameter" not in text


def test_tables_are_shown_in_notebooks(objects: dict[str, object]) -> None:
    for name in ("Evaluation", "Run"):
        assert "<table" in objects[name]._repr_html_()  # type: ignore[attr-defined]
