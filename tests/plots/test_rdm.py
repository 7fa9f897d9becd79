"""RDMs as matrices: what they show, on the Axes they are given."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import RDMs

from neurordl.errors import NeurordlError
from neurordl.plots import plot_rdm
from neurordl.simulate import simulate_subjects
from neurordl.stimuli import StimulusSet


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


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


def test_missing_pairs_are_gray_and_the_diagonal_is_not():
    values = np.arange(1.0, 7.0)
    values[2] = np.nan
    ax = plot_rdm(RDMs(values[None]))
    missing = ax.images[1].get_array().filled(0)
    expected = np.zeros((4, 4))
    expected[0, 3] = expected[3, 0] = 1
    assert_array_equal(missing, expected)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["not measured"]
    assert len(plot_rdm(RDMs(np.ones((1, 6)))).images) == 1


def test_ranks_are_percentiles_of_measured_pairs():
    ax = plot_rdm(RDMs(np.array([[5.0, np.nan, -1.0, 2.0, 2.0, 9.0]])), rank=True)
    shown = ax.images[0].get_array().filled(np.nan)[np.triu_indices(4, 1)]
    assert_allclose(shown, [75, np.nan, 0, 37.5, 37.5, 100])
    one = plot_rdm(RDMs(np.array([[3.0, np.nan, np.nan]])), rank=True).images[0].get_array()
    assert one.filled(np.nan)[0, 1] == 0


def pictures(n: int) -> StimulusSet:
    """Gray images, the k-th of value k, in an order of their own."""
    ids = [f"s{k}" for k in range(n)][::-1]
    pixels = np.stack([np.full((4, 4), k, dtype=np.uint8) for k in range(n)][::-1])
    table = pd.DataFrame({"id": ids, "kind": ["late" if k < n // 2 else "early" for k in range(n)]})
    return StimulusSet.from_array(pixels, ids, table=table)


@pytest.mark.parametrize("n", [6, 92])
def test_thumbnails_stand_beside_their_rows(n, all_inside):
    ids = [f"s{k}" for k in range(n)]
    rdm = RDMs(np.arange(n * (n - 1) / 2)[None], pattern_descriptors={"stimulus": ids})
    ax = plot_rdm(rdm, stimuli=pictures(n), categories="kind")
    left = [image for image in ax.images[1:] if image.get_extent()[0] < -0.5]
    below = [image for image in ax.images[1:] if image.get_extent()[0] >= -0.5]
    assert len(left) == len(below) >= 6
    assert n > 6 or len(left) == 6
    for image in left:
        _, right, bottom, top = image.get_extent()
        row = int(np.asarray(image.get_array())[0, 0, 0])  # the value of the picture is its stimulus
        assert abs((bottom + top) / 2 - row) <= 1
        assert right < -0.5
        assert min(bottom, top) >= -0.5
        assert max(bottom, top) <= n - 0.5
    edges = sorted(sorted(image.get_extent()[2:]) for image in left)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(edges))  # none hides another
    assert [t.get_text() for t in ax.get_yticklabels()] == ["early", "late"]
    assert all_inside(ax)


def test_thumbnails_are_matched_by_id():
    rdm = RDMs(np.ones((1, 3)), pattern_descriptors={"stimulus": ["s2", "s0", "x"]})
    with pytest.raises(NeurordlError, match="x"):
        plot_rdm(rdm, stimuli=pictures(4))
    named = RDMs(np.ones((1, 3)), pattern_descriptors={"stimulus": ["s2", "s0", "s1"]})
    with pytest.raises(NeurordlError, match="the table of the stimuli: kind"):
        plot_rdm(named, stimuli=pictures(4), categories="sort")
    ax = plot_rdm(named)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["s2", "s0", "s1"]


def test_colours_are_shared_on_request_and_the_bar_has_room():
    rdm = RDMs(np.array([[0.2, 0.4, 0.6]]))
    ax = plot_rdm(rdm, vmin=0, vmax=2)
    assert ax.images[0].get_clim() == (0, 2)
    assert [child.get_ylabel() for child in ax.child_axes] == ["dissimilarity (measure unknown)"]
    assert not plot_rdm(rdm, colorbar=False).child_axes
    known = simulate_subjects(np.eye(4), list("abcd"), n_subjects=1)
    labels = [plot_rdm(known, rank=rank).child_axes[0].get_ylabel() for rank in (False, True)]
    assert labels[0] == "dissimilarity (correlation,\n1 − Pearson's r)"
    assert labels[1] == "dissimilarity (correlation),\npercentile of the measured pairs"
    figure, bare = plt.subplots()  # without a layout, the bar takes its room from the Axes
    plot_rdm(rdm, bare)
    assert len(figure.axes) == 2
    assert not bare.child_axes
