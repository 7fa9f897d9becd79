"""A resampling scheme of a user's own script is one class, and works in everything that takes one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs

import neurordl as nrl
from neurordl.rsa.inference.infer import infer, p_values

N, SUBJECTS = 12, 6
IDS = [f"s{k}" for k in range(N)]
CATEGORIES = {name: "abcd"[k % 4] for k, name in enumerate(IDS)}


@dataclass(frozen=True)
class ByCategory(nrl.Resampling):
    """Draw categories of stimuli with replacement, each with all its stimuli."""

    categories: Mapping[str, str]
    n: int = 60
    seed: int = 0
    factors = ("stimuli",)

    @property
    def generalizes_to(self) -> str:
        return "categories"

    def draw_stimuli(self, stimuli: Sequence[str], size: int, rng: np.random.Generator) -> Any:
        names = sorted(set(self.categories.values()))
        times = rng.multinomial(len(names), [1 / len(names)] * len(names), size)
        return times[:, [names.index(self.categories[stimulus]) for stimulus in stimuli]]

    def dof(self, n_subjects: int, n_stimuli: int) -> int:
        return len(set(self.categories.values())) - 1


class HalfOfEach(nrl.Resampling):
    """Half of the subjects and of the stimuli, without replacement."""

    factors = ("subjects", "stimuli")
    n = 40

    def draw_subjects(self, subjects: Sequence[str], size: int, rng: np.random.Generator) -> Any:
        return (rng.random((size, len(subjects))).argsort(axis=1) < len(subjects) // 2).astype(int)

    draw_stimuli = draw_subjects

    def correct(self, parts: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
        return parts[0]  # n / (n - m) times m / n, and m is half of n


SCHEMES = {"categories": ByCategory(CATEGORIES), "halves": HalfOfEach()}


def stack(n_rdms: int, descriptor: str, seed: int) -> RDMs:
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(0).random(N * (N - 1) // 2)
    return RDMs(
        shared + rng.normal(0, 0.4, (n_rdms, len(shared))),
        rdm_descriptors={descriptor: [f"{descriptor[0]}{k}" for k in range(n_rdms)]},
        pattern_descriptors={"stimulus": list(IDS)},
    )


def models() -> RDMs:
    return stack(3, "layer", 1)


def brain() -> RDMs:
    return stack(SUBJECTS, "subject", 2)


@pytest.mark.parametrize("comparison", ["corr", "rho-a"])
@pytest.mark.parametrize("name", SCHEMES)
def test_evaluate(name: str, comparison: str, tmp_path: Path) -> None:
    scheme = SCHEMES[name]
    scores = nrl.evaluate(models(), brain(), comparison=comparison, bootstrap=scheme)
    means = scores.frame[scores.frame["subject"] == "mean"]
    assert means[["ci_low", "ci_high", "p"]].notna().to_numpy().all()
    expected = {"categories": "categories", "halves": "subjects and stimuli"}[name]
    assert set(means["generalizes_to"]) == {expected}
    assert expected in scores.title
    inference = scores.inferences[""]
    assert inference.dof == {"categories": 3, "halves": SUBJECTS - 1}[name]
    assert_allclose(means["p"], p_values(inference, center="data").zero)
    # the same draws, resample by resample
    draws = scheme.draw(list(brain().rdm_descriptors["subject"]), IDS)
    assert draws is not None
    again = infer(models().dissimilarities, brain().dissimilarities, comparison, scheme, draws=draws)
    assert_allclose(inference.evaluations, again.evaluations)
    whole = inference.evaluations if name == "categories" else inference.evaluations[:, :, 0, 0, 0]
    for row, counts in enumerate(draws.stimuli[:5]):
        drawn = np.repeat(np.arange(N), counts)
        i, j = np.triu_indices(len(drawn), 1)
        kept = drawn[i] != drawn[j]
        squares = [x.get_matrices()[:, drawn[i], drawn[j]][:, kept] for x in (models(), brain())]
        subjects = slice(None) if draws.subjects is None else draws.subjects[row] > 0
        if comparison == "corr":
            want = np.corrcoef(squares[0], squares[1][subjects])[:3, 3:].mean(1)
            assert_allclose(whole[row], want, atol=1e-10)
    # saved, and as rsatoolbox's result
    out = scores.save(tmp_path / "scores")
    settings = json.loads((out / "evaluation.json").read_text())["settings"]
    assert (settings["bootstrap"], settings["n_bootstrap"]) == (type(scheme).__name__, scheme.n)
    with h5py.File(out / "evaluation.h5") as file:
        assert file["roi0"].attrs["resample"] == type(scheme).__name__
        assert_allclose(file["roi0/evaluations"][()], inference.evaluations)
    result = scores.to_rsatoolbox()
    assert result.cv_method == {"categories": "bootstrap_pattern", "halves": "dual_bootstrap"}[name]
    assert_allclose(result.get_means(), inference.means)


@pytest.mark.parametrize("name", SCHEMES)
def test_evaluate_fitted(name: str) -> None:
    named = {"single": models()[0], "several": models()}
    options = {"comparison": "corr", "folds": nrl.Folds(stimuli=1, subjects=2)}
    frame = nrl.evaluate_fitted(named, brain(), bootstrap=SCHEMES[name], **options)
    assert frame[["score", "ci_low", "ci_high", "p"]].notna().to_numpy().all()
    assert set(frame["generalizes_to"]) == {SCHEMES[name].generalizes_to}


def test_what_is_refused() -> None:
    class Wrong(nrl.Resampling):
        factors = ("stimuli",)
        n = 5

        def draw_stimuli(self, stimuli: Sequence[str], size: int, rng: np.random.Generator) -> Any:
            return rng.random((size, len(stimuli)))

    class Few(Wrong):
        def draw_stimuli(self, stimuli: Sequence[str], size: int, rng: np.random.Generator) -> Any:
            return np.eye(len(stimuli), dtype=int)[:size]

    class Single(HalfOfEach):
        n = 1

    class Misspelled(HalfOfEach):
        variance = "component"

    with pytest.raises(nrl.NeurordlError, match="variance='component': expected one of 'bootstrap'"):
        nrl.evaluate(models(), brain(), bootstrap=Misspelled())
    for factors in (("stimuli", "subjects"), "stimuli", ("subject",), ()):
        other = type("Other", (HalfOfEach,), {"factors": factors})
        with pytest.raises(nrl.NeurordlError, match=r"Other.factors=.*expected one of \('subjects',\)"):
            nrl.evaluate(models(), brain(), bootstrap=other())
    with pytest.raises(nrl.NeurordlError, match=r"Wrong.draw_stimuli must return whole numbers.*\(5, 12\)"):
        nrl.evaluate(models(), brain(), bootstrap=Wrong())
    with pytest.raises(nrl.NeurordlError, match="Few keeps drawing fewer than 3 distinct stimuli"):
        nrl.evaluate(models(), brain(), bootstrap=Few())
    with pytest.raises(nrl.NeurordlError, match="Single: n=1"):
        nrl.evaluate(models(), brain(), bootstrap=Single())
    with pytest.raises(nrl.NeurordlError, match="bures needs complete RDMs"):
        nrl.evaluate(models(), brain(), comparison="bures", bootstrap=SCHEMES["categories"])


@pytest.mark.parametrize("factor", ["subjects", "stimuli"])
def test_a_scheme_must_draw_what_it_resamples(factor: str) -> None:
    scheme = type("Undrawn", (nrl.Resampling,), {"factors": (factor,), "n": 5})()
    with pytest.raises(nrl.NeurordlError, match=f"Undrawn resamples {factor}: it must define draw_{factor}"):
        nrl.evaluate(models(), brain(), bootstrap=scheme)
