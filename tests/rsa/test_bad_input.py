"""What RSA refuses, each with one clear error from `evaluate`, `compare`, `noise_ceiling` and the shell."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist
from torch import nn

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import few_pairs
from neurordl.rdms.selection import reindex
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.inference.infer import infer
from neurordl.rsa.reliability import permutation_p, split_half
from tests.helpers import random_rdms

N = 12
IDS = [f"s{k}" for k in range(N)]


def stack(n_rdms: int, descriptor: str, ids: list[str] = IDS) -> RDMs:
    return random_rdms(ids, seed=n_rdms, **{descriptor: [f"{descriptor[0]}{k}" for k in range(n_rdms)]})


def models(n: int = N) -> RDMs:
    full = stack(3, "layer")
    return RDMs(
        reindex(full, IDS[:n]),
        rdm_descriptors=dict(full.rdm_descriptors),
        pattern_descriptors={"stimulus": IDS[:n]},
    )


def brain(subjects: int = 4) -> RDMs:
    return stack(subjects, "subject")


def unmeasured() -> RDMs:
    data = brain()
    data.dissimilarities[1] = np.nan
    return data


def twice() -> RDMs:
    data = brain()
    data.rdm_descriptors["subject"] = ["p0", "p0", "p2", "p3"]
    return data


def others() -> RDMs:
    return stack(3, "layer", [f"t{k}" for k in range(N)])


def network_on(device: Any, **options: Any) -> Any:
    images = nrl.StimulusSet.from_array(np.random.default_rng(0).random((N, 1, 4, 4)), ids=IDS)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    return nrl.evaluate(network, brain(), stimuli=images, device=device, **options)


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
Call = Callable[[], Any]


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: nrl.evaluate(others(), brain()), "no id of the stimuli"),
        (lambda: nrl.compare(others(), brain()), "no id of the models"),
        (lambda: nrl.evaluate(models(), unmeasured()), "s1 has no measured pair.*subjects="),
        (lambda: nrl.evaluate(models(), unmeasured(), bootstrap="both"), "s1 has no measured pair"),
        (lambda: nrl.noise_ceiling(unmeasured()), "s1 has no measured pair"),
        (lambda: nrl.evaluate(models(2), brain()), "3 stimuli or more, but 2"),
        (lambda: nrl.compare(models(2), brain()), "3 shared stimuli or more"),
        (lambda: nrl.evaluate(models(3), brain(), bootstrap="both"), "3 stimuli give in 22% of cases"),
        (lambda: nrl.evaluate(models(3), brain(), bootstrap="stimuli"), "give more stimuli"),
        (lambda: nrl.noise_ceiling(brain(1)), "two subjects or more"),
        (lambda: nrl.evaluate(models(), brain(1), bootstrap="subjects"), "one subject cannot be resampled"),
        (lambda: nrl.evaluate(models(), twice()), "subject 'p0' has 2"),
        (lambda: nrl.noise_ceiling(twice()), "subject 'p0' has 2"),
        pytest.param(
            lambda: nrl.evaluate(models(), brain(), device="cuda"), "torch sees no GPU", marks=NO_GPU
        ),
        pytest.param(
            lambda: nrl.evaluate(models(), brain(), device="cuda", bootstrap="both", comparison="corr"),
            "torch sees no GPU",
            marks=NO_GPU,
        ),
        pytest.param(lambda: network_on("cuda"), "torch sees no GPU", marks=NO_GPU),
        (lambda: network_on("gpu"), "device 'gpu' cannot be used here"),
        (lambda: network_on("meta"), "device 'meta' cannot be used here"),
        (lambda: nrl.evaluate(models(), brain(), device="gpu"), "device 'gpu' cannot be used here"),
        (
            lambda: network_on(nrl.Compute("cpu", batch_size=0)),
            "batch_size=0: expected",
        ),
        (
            lambda: nrl.evaluate(models(), brain(), bootstrap=nrl.Bootstrap("both", n=1)),
            "n=1: expected a whole number of at least 2",
        ),
        (lambda: nrl.evaluate(models(), brain(), bootstrap=nrl.Bootstrap("both", n=0)), "n=0"),
        (lambda: nrl.evaluate(models(), brain(), bootstrap=nrl.Bootstrap("both", n=9.5)), "n=9.5"),
        (lambda: nrl.evaluate(models(), brain(), bootstrap="rdm"), "bootstrap='rdm'"),
        (lambda: nrl.evaluate(models(), brain(), bootstrap=nrl.Bootstrap("both", seed=-1)), "seed=-1"),
        (lambda: nrl.evaluate(models(), brain(), layers=[]), "layers= is empty.*l0"),
        (lambda: nrl.evaluate(models(), brain().dissimilarities), "expected rsatoolbox RDMs.*ndarray"),
        (lambda: nrl.compare(models().dissimilarities, brain()), "expected rsatoolbox RDMs.*ndarray"),
        (lambda: nrl.noise_ceiling(brain().dissimilarities), "expected rsatoolbox RDMs.*ndarray"),
    ],
)
def test_one_clear_error(call: Call, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        call()


@pytest.mark.parametrize("n, pairs, moved", [(3, 3, "0.71"), (5, 10, "0.33"), (9, 36, "0.17")])
def test_few_stimuli_are_noted(n: int, pairs: int, moved: str) -> None:
    found = nrl.evaluate(models(n), brain(), comparison="corr")
    (note,) = (note for note in found.notes if "by chance" in note)
    assert note.startswith(f"only {n} stimuli ({pairs} pairs): by chance alone, scores vary")
    assert f"deviation of {moved} " in note
    assert note in str(found)


def test_what_few_pairs_give_by_chance() -> None:
    """The number that the note names is the spread of the scores of unrelated RDMs."""
    rng = np.random.default_rng(0)
    for n in (4, 5, 9):
        a, b = (
            np.array([pdist(rng.normal(size=(n, 30)), "correlation") for _ in range(3000)]) for _ in range(2)
        )
        spread = np.std([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
        told = re.search(r"deviation of ([0-9.]+)", few_pairs(n, a.shape[1]))
        assert told is not None
        assert float(told[1]) == pytest.approx(spread, rel=0.1)
    assert few_pairs(10, 45) == ""


def test_few_stimuli_are_compared_without_a_bootstrap() -> None:
    assert len(nrl.evaluate(models(3), brain(), comparison="corr").frame) == 15
    assert nrl.compare(models(), unmeasured())[:, 1] == pytest.approx(np.full(3, np.nan), nan_ok=True)


RANDOM = np.random.default_rng(0)
ROWS = RANDOM.random((4, 10))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: infer(ROWS, ROWS[:, :6], "corr"), r"\(4, 10\) and \(4, 6\)"),
        (lambda: infer(ROWS, ROWS[:, :6], "tau-a", "both"), r"\(4, 10\) and \(4, 6\)"),
        (lambda: infer(ROWS[0], ROWS, "rho-a"), r"\(10,\) and \(4, 10\)"),
        (lambda: infer(ROWS[:0], ROWS, "rho-a"), "0 models and 4 subjects"),
        (lambda: infer(ROWS, ROWS[:0], "rho-a"), "4 models and 0 subjects"),
        (lambda: permutation_p(ROWS, ROWS[:, :6], "corr", rng=RANDOM), r"\(4, 10\) and \(4, 6\)"),
        (lambda: permutation_p(ROWS[:0], ROWS, "corr", rng=RANDOM), "0 models"),
        (lambda: permutation_p(ROWS, ROWS, "corr", n_permutations=0, rng=RANDOM), "n_permutations=0"),
        (lambda: split_half(ROWS, "corr", n_splits=0, rng=RANDOM), "n_splits=0"),
        (lambda: ceiling_p(ROWS, "corr", n_permutations=0, rng=RANDOM), "n_permutations=0"),
        (lambda: ceiling_p(ROWS[:1], "corr", rng=RANDOM), "two subjects or more"),
    ],
)
def test_arrays_that_do_not_fit(call: Call, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        call()


@pytest.mark.parametrize(
    "offered, measured, options, told",
    [
        (others, brain, [], "no id of the stimuli"),
        (models, unmeasured, [], "s1) is NaN everywhere"),
        (lambda: models(3), brain, ["--bootstrap", "both"], "give more stimuli"),
        (models, lambda: brain(1), ["--bootstrap", "both"], "one subject cannot be resampled"),
        (models, twice, [], "subject 'p0' has 2"),
        (models, brain, ["--layers", "l7"], "no model RDM is named 'l7'"),
        (models, brain, ["--bootstrap", "stimuli", "--comparison", "bures"], "bures needs complete RDMs"),
        (
            models,
            brain,
            ["--bootstrap", "subjects", "--bootstrap-variance", "components"],
            "resample 'stimuli' or 'both'",
        ),
        (models, brain, ["--device", "gpu"], "device 'gpu' cannot be used here"),
        pytest.param(models, brain, ["--device", "cuda"], "torch sees no GPU", marks=NO_GPU),
    ],
)
def test_in_the_shell_one_error_and_nothing_written(
    offered: Call, measured: Call, options: list[str], told: str, shell: Any, tmp_path: Path
) -> None:
    models_file, brain_file = tmp_path / "models.h5", tmp_path / "brain.h5"
    nrl.save_rdms(offered(), models_file)
    measured().save(str(brain_file), file_type="hdf5")  # save_rdms would refuse some already
    code, _, errors = shell("compare", models_file, "--rdms", brain_file, "--out", tmp_path / "out", *options)
    assert code == 1, errors
    assert told in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
