"""A trained network against real brains, from the shell: the figures of a right analysis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rsatoolbox.rdm import RDMs

from neurordl import save_rdms
from neurordl.datasets import load_images92_rdms

ROOT = Path(os.environ.get("NEURORDL_DATA", "nowhere"))
pytestmark = pytest.mark.skipif(
    not (ROOT / "squeezenet1_1_imagenet").is_dir(), reason="NEURORDL_DATA holds no squeezenet1_1_imagenet"
)

# Spearman, correlation distance over all units: with the subjects' mean RDM, and mean over subjects
EXPECTED = {
    "cichy_evc": ((0.400, 0.469, 0.528, 0.317, 0.303, -0.033), (0.169, 0.192, 0.216, 0.133, 0.126, -0.010)),
    "cichy_it": ((0.234, 0.337, 0.336, 0.390, 0.385, 0.129), (0.133, 0.193, 0.193, 0.216, 0.217, 0.073)),
    "human_it": ((0.128, 0.228, 0.239, 0.327, 0.282, 0.247), (0.099, 0.165, 0.174, 0.230, 0.201, 0.168)),
    "monkey_it": ((0.290, 0.367, 0.339, 0.434, 0.419, 0.312),) * 2,
}
CEILINGS = {"cichy_evc": (0.242, 0.392), "cichy_it": (0.453, 0.542), "human_it": (0.372, 0.666)}
LAYERS = ("features.3", "features.6", "features.9", "features.11", "features.12", "classifier.3")


def brains() -> RDMs:
    """All of them in one file, each a region of its own; the sessions of human IT averaged."""
    vectors, subjects, rois = [], [], []
    for name in EXPECTED:
        rdms = load_images92_rdms(name)
        people = np.array(rdms.rdm_descriptors["subject"])
        for person in dict.fromkeys(people.tolist()):
            vectors.append(rdms.dissimilarities[people == person].mean(0))
            subjects.append(person)
            rois.append(name)
    return RDMs(
        np.stack(vectors),
        dissimilarity_measure="correlation",
        rdm_descriptors={"subject": subjects, "roi": rois},
        pattern_descriptors={"stimulus": list(rdms.pattern_descriptors["stimulus"])},
    )


def test_layers_of_squeezenet_against_four_regions(tmp_path: Path) -> None:
    save_rdms(brains(), tmp_path / "brains.h5")
    weights = ROOT / "squeezenet1_1_imagenet" / "squeezenet1_1_torchvision_layout.npz"
    command = [
        sys.executable, "-c", "from neurordl.cli import main; main()",
        "compare", "squeezenet:squeezenet1_1", "--checkpoint", weights,
        "--stimuli", ROOT / "images92" / "stimuli", "--size", 224, "--mean", "imagenet", "--std", "imagenet",
        "--rdms", tmp_path / "brains.h5", "--layers", ",".join(LAYERS), "--comparison", "spearman", "--group",
        "--out", tmp_path / "scores",
    ]  # fmt: skip
    here = Path(__file__).parent  # where squeezenet.py lies
    done = subprocess.run(list(map(str, command)), cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frame = (
        pd.read_csv(tmp_path / "scores" / "scores.csv").set_index(["roi", "subject", "layer"]).sort_index()
    )
    for roi, (group, mean) in EXPECTED.items():
        for subject, scores in (("group", group), ("mean", mean)):
            found = frame.loc[(roi, subject)].loc[list(LAYERS), "score"]
            np.testing.assert_allclose(found, scores, atol=0.0015)
        if roi in CEILINGS:
            bounds = frame.loc[(roi, "mean")].iloc[0][["ceiling_lower", "ceiling_upper"]]
            np.testing.assert_allclose(bounds.astype(float), CEILINGS[roi], atol=0.0015)
