"""Stimuli and RDMs in a plane: what they show, on the Axes they are given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import AnnotationBbox
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist

from neurordl.errors import NeurordlError
from neurordl.plots import COLOURS, plot_mds, plot_rdm_mds
from neurordl.plots.style import shortened
from neurordl.rsa.compare import compare
from neurordl.stimuli import StimulusSet


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def rdms_of(vectors: np.ndarray, measure: str | None = None, n: int = 8, **descriptors: list[str]) -> RDMs:
    return RDMs(
        np.atleast_2d(vectors),
        dissimilarity_measure=measure,
        rdm_descriptors=descriptors,
        pattern_descriptors={"stimulus": [f"s{k}" for k in range(n)]},
    )


def points(seed: int = 0, n: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2))


def shown(ax) -> np.ndarray:
    return np.concatenate([line.get_xydata() for line in ax.lines])


@pytest.mark.parametrize(
    "measure, power", [(None, 1), ("correlation", 1), ("euclidean", 2), ("crossnobis", 2)]
)
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_points_of_a_plane_are_recovered(measure, power, unit):
    distances = unit * pdist(points())
    ax = plot_mds(rdms_of(distances**power, measure))
    assert_allclose(pdist(shown(ax)), distances, rtol=1e-2)
    assert ax.get_xlabel() == "8 stimuli, stress 0.00"


def test_stress_is_kruskals_first():
    distances = pdist(np.eye(8))  # all alike: no plane holds them
    ax = plot_mds(rdms_of(distances))
    found = pdist(shown(ax))
    expected = np.sqrt(((found - distances) ** 2).sum() / (found**2).sum())
    assert expected > 0.1
    assert ax.get_xlabel().endswith(f" stimuli, stress {expected:.2f}")


def test_the_same_seed_gives_the_same_plane_and_negative_distances_are_zero():
    vectors = np.random.default_rng(0).normal(size=28)
    first, again = (shown(plot_mds(rdms_of(vectors, "crossnobis"), seed=3)) for _ in range(2))
    assert_array_equal(first, again)
    zeroed = shown(plot_mds(rdms_of(np.maximum(vectors, 0), "crossnobis"), seed=3))
    assert_array_equal(first, zeroed)
    assert_array_equal(shown(plot_mds(rdms_of(np.zeros(28)))), np.zeros((8, 2)))


def test_categories_have_colours_and_thumbnails_their_places():
    ids = [f"s{k}" for k in range(8)]
    kinds = dict(zip(ids, ["x", "y"] * 4, strict=True))
    pixels = np.stack([np.full((4, 4), k, dtype=np.uint8) for k in range(8)])
    table = pd.DataFrame({"id": ids, "kind": [kinds[name] for name in ids]})
    stimuli = StimulusSet.from_array(pixels[::-1], ids[::-1], table=table)
    rdm = rdms_of(pdist(points()))
    ax = plot_mds(rdm, categories=kinds)
    assert [line.get_label() for line in ax.lines] == ["x", "y"]
    assert [len(line.get_xydata()) for line in ax.lines] == [4, 4]
    places = np.empty((8, 2))
    places[::2], places[1::2] = (line.get_xydata() for line in ax.lines)
    pictured = plot_mds(rdm, stimuli=stimuli, categories="kind")
    boxes = [child for child in pictured.get_children() if isinstance(child, AnnotationBbox)]
    assert_allclose([box.xy for box in boxes], places)
    assert [int(np.asarray(box.offsetbox.get_data())[0, 0, 0]) for box in boxes] == list(range(8))
    edges = [box.patch.get_edgecolor() for box in boxes]
    assert len(set(edges)) == 2
    assert edges[0] == edges[2]


def test_what_has_no_plane_is_refused():
    vectors = pdist(points())
    vectors[[3, 5]] = np.nan
    with pytest.raises(NeurordlError, match="2 of 28 pairs are missing"):
        plot_mds(rdms_of(vectors))
    with pytest.raises(NeurordlError, match=r"rdms\[0\]"):
        plot_mds(rdms_of(np.ones((2, 28))))
    with pytest.raises(NeurordlError, match="three or more, but the RDM has 2"):
        plot_mds(rdms_of(np.ones(1), n=2))


@pytest.mark.parametrize("comparison", ["corr", "rho-a"])
def test_rdms_lie_apart_by_one_less_their_similarity(comparison):
    rng = np.random.default_rng(1)
    models = rdms_of(rng.random((3, 28)), layer=["conv1", "conv2", ""])
    order = rng.permutation(8)
    data = rdms_of(rng.random((4, 28)), subject=list("abcd"))
    moved = data.subset_pattern("index", list(range(8)))
    moved.reorder(order)
    ax = plot_rdm_mds({"layers": models, "IT": data}, comparison=comparison)
    assert [len(line.get_xydata()) for line in ax.lines] == [3, 4]
    assert_allclose(
        shown(plot_rdm_mds({"layers": models, "IT": moved}, comparison=comparison)), shown(ax), atol=1e-6
    )
    every = rdms_of(np.concatenate([models.dissimilarities, data.dissimilarities]))
    distances = 1 - compare(every, every, comparison)[np.triu_indices(7, 1)]
    found = pdist(shown(ax))
    stress = np.sqrt(((found - distances) ** 2).sum() / (found**2).sum())
    assert ax.get_xlabel() == f"7 RDMs of 8 stimuli\ndistance 1 − {comparison}, stress {stress:.2f}"
    assert [text.get_text() for text in ax.texts] == ["conv1", "conv2", "output"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["layers", "IT"]
    assert ax.lines[1].get_color() == COLOURS[1]
    named = plot_rdm_mds(data, label="subject")
    assert [text.get_text() for text in named.texts] == list("abcd")


def test_rdms_that_cannot_be_compared_are_refused():
    rng = np.random.default_rng(2)
    models, other = rdms_of(rng.random((3, 28))), rdms_of(rng.random((2, 36)), n=9)
    for groups in ({"a": models, "b": other}, {"b": other, "a": models}):
        with pytest.raises(NeurordlError, match="s8"):
            plot_rdm_mds(groups)
        plot_rdm_mds(groups, missing="ignore")
    flat = rdms_of(np.vstack([models.dissimilarities, np.ones(28)]))
    with pytest.raises(NeurordlError, match=r"corr of RDMs number 0 \(all\) and 3 \(all\)"):
        plot_rdm_mds({"all": flat}, comparison="corr")
    with pytest.raises(NeurordlError, match="three or more, but there are 2"):
        plot_rdm_mds(rdms_of(np.ones((2, 28))))


def test_many_names_lose_what_all_share():
    names = [f"encoder.layer_{k}.mlp" for k in range(20)]
    assert shortened(names) == ([str(k) for k in range(20)], "encoder.layer_*.mlp")
    assert shortened(names[:5]) == (names[:5], "")
    unlike = [f"{chr(97 + k)}{k}" for k in range(20)]
    assert shortened(unlike) == (unlike, "")
    nested = ["conv", *(f"conv.{k}" for k in range(20))]
    assert shortened(nested) == (nested, "")
