"""Every public object has a short representation: what it is and how large, not what it holds."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import IPython
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.rdms import RDMs

import neurordl as nrl
from neurordl.datasets import REGISTRY
from neurordl.datasets.loaders import BrainData
from neurordl.experiments import HeldOutScore
from neurordl.measures import COMPARISONS, DISSIMILARITIES
from neurordl.rdms.selection import rdms_html
from neurordl.rsa.inference.infer import infer
from neurordl.validate import folded_html
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
    grid = dict(zip("xyz", np.indices((5, 5, 2)).reshape(3, -1), strict=True))
    brain = Dataset(patterns.measurements, obs_descriptors={"stimulus": IDS}, channel_descriptors=grid)
    student = nrl.students.small_cnn(4, 1)
    teacher, network = nrl.RDMTeacher(data), nrl.NetworkTeacher(student, layers="all")
    loss = nrl.RDMLoss(teacher, layer="conv3")
    objective = nrl.Objective([loss, nrl.SoftTargetLoss(network), *[loss] * 8])
    history = pd.DataFrame({"epoch": range(300), "loss": 1.0})
    report = nrl.align({"stimuli": stimuli, "rdms": data})
    files = [Path(f"/a/folder/with/a/long/name/sub-{k:02d}_desc-confounds_timeseries.tsv") for k in range(40)]
    bootstrap = nrl.Bootstrap("both", n=200)
    rng = np.random.default_rng(0)
    scores = {f"a subject {k}": nib.Nifti1Image(rng.normal(size=(4, 4, 4)), np.eye(4)) for k in range(30)}
    tested = nrl.second_level(scores, test=nrl.MapTest("size", n_permutations=30))
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
        *(nrl.Batches(), nrl.Execution(), nrl.Optimization(), nrl.TaskRatio(0.5), data),
        HeldOutScore(data, stimuli, "conv3", test=stimuli),
        *(nrl.Windows(), nrl.ClusterTest(), nrl.Partial(models), nrl.Ridge(0.1)),
        nrl.searchlight(brain, data, threshold=0.3, progress=False),
        tested,
        tested.test,
        nrl.SearchlightMaps(("a", "b"), dict(zip(IDS, files, strict=False)), {"radius": 3}),
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


SHOWN = [
    "Evaluation",
    "Run",
    "Match",
    "StimulusSet",
    "DataSet",
    "Searchlight",
    "SearchlightMaps",
    "SecondLevel",
    "RDMs",
]


@pytest.mark.parametrize("name", SHOWN)
def test_notebooks_show_a_small_folded_table(name: str, objects: dict[str, object]) -> None:
    shown = objects[name]
    html = rdms_html(shown) if isinstance(shown, RDMs) else shown._repr_html_()  # type: ignore[attr-defined]
    root = ElementTree.fromstring(html)  # escaped, and each element closed
    assert root.tag == "details"
    assert root[0].tag == "summary"
    assert len(html) < 40_000
    assert len(root.findall(".//tr")) <= 60
    assert not re.search(r"color|<script|/a/folder", html)


def test_text_in_notebooks_is_escaped_and_has_no_path() -> None:
    ids = ["<b>a</b>", "/data/someone/b.png"]
    stimuli = nrl.StimulusSet.from_array(np.zeros((2, 3, 8, 8)), ids, source="/data/someone/images")
    html = stimuli._repr_html_()
    assert "&lt;b&gt;" in html
    assert "someone" not in html
    assert "images" in html
    long = folded_html("x", [[k] for k in range(60)])
    assert "10 more rows are not shown." in long
    match = nrl.RDMTeacher(random_rdms(["a", "b", "c", "<i>"])).match(["a", "b", "c"])
    assert "Match: 3 " in match._repr_html_()
    assert "1 unused" in match._repr_html_()
    assert "'&lt;i&gt;'" in match._repr_html_().replace("&#x27;", "'")


def test_ipython_shows_rdms_of_rsatoolbox(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    rdms = random_rdms(["a", "b", "c", "d"], subject=["x", "y"])
    rdms.dissimilarities[0, 0] = np.nan
    before = repr(rdms), vars(RDMs).keys()
    nrl._show_in_notebooks()
    html = shell.display_formatter.format(rdms)[0]["text/html"]
    for text in ("2 RDMs of 4 stimuli", "1 of 12", "2: x, y", "4: a, b, c, d"):
        assert text in html
    assert (repr(rdms), vars(RDMs).keys()) == before
    formatter = shell.display_formatter.formatters["text/html"]
    formatter.for_type(RDMs, lambda rdms: "mine")
    nrl._show_in_notebooks()
    assert formatter(rdms) == "mine"
