"""Corrections for many tests say over which tests they were made, and the family can be chosen."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import neurordl as nrl
from neurordl.rsa.scores import Evaluation
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(8)]
ROIS = [f"{time} ms" for time in range(0, 200, 50)]


def scores(layers: int = 3) -> Evaluation:
    subjects = [f"p{k}" for k in range(6)]
    models = random_rdms(IDS, seed=1, measure=None, layer=[f"conv{k}" for k in range(layers)])
    subject, roi = subjects * len(ROIS), np.repeat(ROIS, len(subjects)).tolist()
    data = random_rdms(IDS, seed=2, subject=subject, roi=roi)
    data.dissimilarities[:6] += 0.7 * models.dissimilarities[0]  # the first ROI has an effect
    return nrl.evaluate(models, data, comparison="corr")


def benjamini_hochberg(p: list[float]) -> list[float]:
    """The least q for which a test is among the k smallest with p <= q k / n."""
    n, ranked = len(p), sorted(p)
    return [min(min(1.0, ranked[k - 1] * n / k) for k in range(1, n + 1) if ranked[k - 1] >= x) for x in p]


def holm(p: list[float]) -> list[float]:
    """The largest p (n - k) of the tests up to this one, in order."""
    n, ranked = len(p), sorted(p)
    return [max(min(1.0, ranked[k] * (n - k)) for k in range(n) if ranked[k] <= x) for x in p]


@pytest.mark.parametrize("family", ["table", "roi"])
@pytest.mark.parametrize("of", ["means", "differences"])
def test_corrections_are_those_of_a_loop_over_the_family(family: str, of: str) -> None:
    found = scores().correct(family)  # type: ignore[arg-type]
    table = found.differences if of == "differences" else found.frame[found.frame["subject"] == "mean"]
    parts = [table] if family == "table" else [table[table["roi"] == roi] for roi in ROIS]
    assert sum(map(len, parts)) == 12
    for part in parts:
        p = part["p"].tolist()
        assert_allclose(part["p_fdr"], benjamini_hochberg(p))
        assert_allclose(part["p_holm"], holm(p))
        assert set(part["family"]) == {f"{len(p)} tests of the {'table' if family == 'table' else 'ROI'}"}
    assert found.settings["family"] == family


def test_the_default_is_the_whole_table() -> None:
    found = scores()
    pd.testing.assert_frame_equal(found.frame, found.correct("table").frame)
    rows = found.frame["subject"] != "mean"
    assert found.frame.loc[rows, "p_fdr"].isna().all()
    assert set(found.frame.loc[rows, "family"]) == {""}
    assert set(found.group_rows()["family"]) == {""}
    assert found.title.endswith("; p_fdr and p_holm are over 12 tests of the table")
    with pytest.raises(nrl.NeurordlError, match="family='column': expected one of 'table', 'roi'"):
        found.correct("column")  # type: ignore[arg-type]


def test_one_layer_at_several_times_is_corrected_over_the_times() -> None:
    """Where each ROI is a family, "corrected" corrects nothing, and says so."""
    found = scores(layers=1)
    mean = found.frame[found.frame["subject"] == "mean"]
    assert_allclose(mean["p_holm"], holm(mean["p"].tolist()))
    within = found.correct("roi")
    mean = within.frame[within.frame["subject"] == "mean"]
    assert_allclose(mean["p_holm"], mean["p"])
    assert "p_fdr and p_holm are over 1 test of the ROI" in str(within)


def test_undefined_tests_are_not_counted() -> None:
    found = scores()
    found.frame.loc[found.frame.index[found.frame["subject"] == "mean"][0], "p"] = np.nan
    mean = found.correct().frame.query("subject == 'mean'")
    assert_allclose(mean["p_holm"].iloc[1:], holm(mean["p"].iloc[1:].tolist()))
    assert mean["family"].tolist() == ["", *["11 tests of the table"] * 11]


@pytest.mark.parametrize("family, size", [("table", "12 tests of the table"), ("roi", "3 tests of the ROI")])
def test_figures_name_the_family(family: str, size: str, tmp_path: Path) -> None:
    found = scores().correct(family)  # type: ignore[arg-type]
    read = pd.read_csv(found.save(tmp_path) / "scores.csv")
    for table in (found, read):
        tested = f"not significantly above zero\n(one-sided p ≥ 0.05,\nFDR-corrected over\n{size})"
        legend = nrl.plot_scores(table, roi=ROIS[:2], differences=found.differences).get_legend()
        texts = [text.get_text() for text in legend.get_texts()]
        assert tested in texts
        assert texts[-1].endswith(f"(two-sided p < 0.05,\nFDR-corrected over\n{size})")
        assert nrl.plot_layer_roi(table).get_xlabel().endswith(tested.replace("not ", "( ): not "))
        plt.close("all")
