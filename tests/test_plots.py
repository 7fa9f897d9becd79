"""Pictures: what they show, on the Axes they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import FillBetweenPolyCollection
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import RDMs

from neurordl.errors import NeurordlError
from neurordl.plots import plot_paired, plot_rdm, plot_scores, plot_transfer
from neurordl.rsa.evaluation import Evaluation, evaluate


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def scores(rois: tuple[str, ...] = ("IT",), subjects: int = 4) -> Evaluation:
    rng = np.random.default_rng(0)
    ids = {"stimulus": [f"s{k}" for k in range(6)]}
    model = RDMs(
        rng.random((3, 15)), rdm_descriptors={"layer": ["conv1", "conv2", ""]}, pattern_descriptors=ids
    )
    data = RDMs(
        rng.random((subjects * len(rois), 15)),
        rdm_descriptors={
            "subject": [f"p{k}" for k in range(subjects)] * len(rois),
            "roi": [name for name in rois for _ in range(subjects)],
        },
        pattern_descriptors={"stimulus": list(ids["stimulus"])},
    )
    return evaluate(model, data)


def conditions() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    rows = [
        {
            "condition": name,
            "seed": seed,
            "test_accuracy": accuracy + 0.1 * seed,
            "heldout_rdm_similarity": similarity + 0.1 * seed + rng.normal(0, 0.001),
            "ceiling_lower": 0.45,
            "ceiling_upper": 0.54,
        }
        for name, accuracy, similarity in (("labels", 0.6, 0.1), ("rdl", 0.6, 0.3), ("permuted", 0.5, 0.1))
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


def test_scores_show_means_intervals_subjects_and_ceiling():
    _, ax = plt.subplots()
    found = scores()
    assert plot_scores(found, ax) is ax
    mean = found.frame[found.frame["subject"] == "mean"]
    (container,) = ax.containers
    assert_allclose(container.lines[0].get_ydata(), mean["score"])
    bars = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
    assert_allclose(bars, mean[["ci_low", "ci_high"]])
    (band,) = (c for c in ax.collections if isinstance(c, FillBetweenPolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(mean["ceiling_lower"].iloc[0])
    assert heights.max() == pytest.approx(mean["ceiling_upper"].iloc[0])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["conv1", "conv2", "output"]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert sum(len(line.get_ydata()) for line in dots) == 12


def test_scores_of_rois_and_of_a_csv(tmp_path):
    found = scores(("EVC", "IT"))
    assert len(plot_scores(found).containers) == 2
    assert len(plot_scores(found, roi="IT").containers) == 1
    with pytest.raises(NeurordlError, match="'V4'; there are: EVC, IT"):
        plot_scores(found, roi="V4")
    read = pd.read_csv(found.save(tmp_path) / "scores.csv")
    assert [t.get_text() for t in plot_scores(read).get_xticklabels()] == ["conv1", "conv2", "output"]


def test_scores_of_one_subject_have_neither_band_nor_bars():
    ax = plot_scores(scores(subjects=1))
    assert not [c for c in ax.collections if isinstance(c, FillBetweenPolyCollection)]
    ax.figure.canvas.draw()


def test_rdm_is_sorted_by_category():
    rdm = RDMs(
        np.arange(1.0, 7.0)[None],
        dissimilarity_measure="correlation",
        pattern_descriptors={"stimulus": ["a", "b", "c", "d"], "kind": ["x", "y", "x", "y"]},
    )
    ax = plot_rdm(rdm, categories={"d": "y", "c": "x", "b": "y", "a": "x"})
    shown = ax.images[0].get_array().filled(np.nan)
    square = rdm.get_matrices()[0]
    np.fill_diagonal(square, np.nan)
    order = [0, 2, 1, 3]
    assert_array_equal(shown, square[np.ix_(order, order)])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["x", "y"]
    assert_array_equal(ax.get_yticks(), [0.5, 2.5])
    again = plot_rdm(rdm, categories="kind").images[0].get_array().filled(np.nan)
    assert_array_equal(again, shown)
    with pytest.raises(NeurordlError, match="no category, such as 'b'"):
        plot_rdm(rdm, categories={"a": "x", "c": "x", "d": "y"})
    with pytest.raises(NeurordlError, match="no pattern descriptor 'sort'"):
        plot_rdm(rdm, categories="sort")


def test_rdm_without_categories_or_with_missing_pairs():
    rdm = RDMs(np.array([[np.nan, 1.0, 2.0]]))
    ax = plot_rdm(rdm)
    assert np.isnan(ax.images[0].get_array().filled(np.nan)[0, 1])
    ax.figure.canvas.draw()
    with pytest.raises(NeurordlError, match=r"rdms\[0\]"):
        plot_rdm(RDMs(np.ones((2, 3))))


def test_transfer_shows_each_condition_and_the_ceiling():
    ax = plot_transfer(conditions())
    assert len(ax.containers) == 3
    x, y = ax.containers[1].lines[0].get_xydata()[0]
    assert (x, y) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.8))
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["noise ceiling", "labels", "rdl", "permuted"]
    bare = plot_transfer(conditions().assign(ceiling_lower=np.nan, ceiling_upper=np.nan))
    assert "noise ceiling" not in [text.get_text() for text in bare.get_legend().get_texts()]
    with pytest.raises(NeurordlError, match="no column 'test_accuracy'"):
        plot_transfer(conditions().drop(columns="test_accuracy"))


def test_paired_differences_leave_out_what_seeds_share():
    frame = conditions().sample(frac=1, random_state=0)  # rows are paired by seed, not by position
    ax = plot_paired(frame, reference="labels")
    names = [t.get_text() for t in ax.get_yticklabels()]
    at = {name: c.lines[0].get_xdata()[0] for name, c in zip(names, ax.containers, strict=True)}
    assert at["rdl"] == pytest.approx(0.2, abs=0.005)
    assert at["permuted"] == pytest.approx(0.0, abs=0.005)
    bars = ax.containers[names.index("rdl")].lines[2][0].get_segments()[0]
    assert np.ptp(bars[:, 0]) < 0.01  # though over seeds the values spread by 0.4


def test_paired_refuses_what_is_not_paired():
    with pytest.raises(NeurordlError, match="no condition is called 'none'"):
        plot_paired(conditions(), reference="none")
    twice = pd.concat([conditions().assign(fold=fold) for fold in (0, 1)])
    with pytest.raises(NeurordlError, match="pair="):
        plot_paired(twice)
    plot_paired(twice, pair=("seed", "fold"))
    apart = conditions()
    apart.loc[apart["condition"] == "rdl", "seed"] += 10
    with pytest.raises(NeurordlError, match="no pair in common"):
        plot_paired(apart)
