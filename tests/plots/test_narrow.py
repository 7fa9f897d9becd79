"""Figures as wide as a column of a journal: all text stays in them, and legends can be left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage
from rsatoolbox.rdm.rdms import RDMs

import neurordl as nrl
from neurordl import plots
from neurordl.rsa.evaluate import evaluate
from neurordl.rsa.regression import partition_variance
from neurordl.rsa.time import ClusterTest, time_clusters
from tests.helpers import icosphere, random_rdms, random_stimuli

WIDTH, HEIGHT = 3.3, 3.3  # inches
IDS = [f"stimulus {k}" for k in range(12)]
CATEGORIES = {name: ("animate, natural", "inanimate, artificial")[k % 2] for k, name in enumerate(IDS)}

Draw = Callable[..., Axes]


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def rdm(missing: bool = False) -> RDMs:
    data = random_rdms(IDS, measure="euclidean")
    data.dissimilarities[0, [5, 17]] = np.nan if missing else 0.5
    return data


def scores(ax: Axes, draw: Draw, **options: object) -> Axes:
    models = random_rdms(IDS, seed=3, layer=[f"conv{k}" for k in range(5)])
    subjects, rois = [f"p{k}" for k in range(4)] * 2, ["EVC"] * 4 + ["inferior temporal"] * 4
    data = random_rdms(IDS, seed=4, subject=subjects, roi=rois)
    data.dissimilarities[:4] += models.dissimilarities[0]
    found = evaluate(models, data)
    return draw(found, ax, **options)


def conditions() -> pd.DataFrame:
    rng, names = np.random.default_rng(0), ("labels only", "RDL from brain data", "permuted teacher")
    rows = [(name, seed, *rng.random(2), 0.4, 0.6) for name in names for seed in range(5)]
    columns = [
        "condition",
        "seed",
        "test_accuracy",
        "heldout_rdm_similarity",
        "ceiling_lower",
        "ceiling_upper",
    ]
    return pd.DataFrame(rows, columns=columns)


def history() -> pd.DataFrame:
    terms = ("loss", "task", "rdm:conv3")
    names = [*terms, *(f"val_{name}" for name in terms)]
    return pd.DataFrame({"epoch": range(1, 9), **{name: np.linspace(2, 1, 8) for name in names}})


def groups() -> dict[str, RDMs]:
    layers = random_rdms(IDS, measure=None, layer=[f"layer{k}" for k in range(5)])
    return {"layers": layers, "inferior temporal": random_rdms(IDS, n=3, seed=9)}


DRAW: dict[str, Draw] = {
    "plot_scores": lambda ax, **o: scores(ax, plots.plot_scores, differences=True, **o),
    "plot_layer_roi": lambda ax, **o: scores(ax, plots.plot_layer_roi, relative_to="ceiling_upper", **o),
    "plot_rdm": lambda ax, **o: plots.plot_rdm(rdm(missing=True), ax, categories=CATEGORIES, rank=True, **o),
    "plot_mds": lambda ax, **o: plots.plot_mds(
        rdm(), ax, categories=CATEGORIES, stimuli=random_stimuli(12, ids=IDS), **o
    ),
    "plot_rdm_mds": lambda ax, **o: plots.plot_rdm_mds(groups(), ax, **o),
    "plot_training": lambda ax, **o: plots.plot_training(history(), ax, **o),
    "plot_transfer": lambda ax, **o: plots.plot_transfer(conditions(), ax, **o),
    "plot_paired": lambda ax, **o: plots.plot_paired(conditions(), ax, reference="labels only", **o),
}


def over_time(ax: Axes, draw: Draw, **options: object) -> Axes:
    models = random_rdms(IDS, seed=3, layer=[f"conv{k}" for k in range(5)])
    times = np.repeat(np.arange(8) / 50, 4)
    data = random_rdms(IDS, seed=4, subject=[f"p{k}" for k in range(4)] * 8, time=times.tolist())
    return draw(evaluate(models, data), ax, **options)


def model_time(ax: Axes) -> Axes:
    model = random_rdms(IDS, seed=3, time=[k / 20 for k in range(5)])
    times = np.repeat(np.arange(8) / 50, 4)
    data = random_rdms(IDS, seed=4, subject=[f"p{k}" for k in range(4)] * 8, time=times.tolist())
    scores = evaluate({"recurrent": model}, data)
    return plots.plot_model_time(scores, ax, clusters=time_clusters(scores, ClusterTest(alpha=0.2)))


def partition(ax: Axes) -> Axes:
    models = random_rdms(IDS, seed=3, name=["edges", "categories", "words"])
    data = random_rdms(IDS, seed=4, subject=[f"p{k}" for k in range(4)])
    return plots.plot_partition(partition_variance(models, data), ax)


def group_map(ax: Axes, **options: object) -> Axes:
    rng, images = np.random.default_rng(0), {}
    for k in range(8):
        scores = rng.normal(size=(10, 12, 9))
        scores[3:6, 4:7, 2:5] += 4
        images[f"p{k}"] = nib.Nifti1Image(scores, np.diag([3, 3, 3, 1]))
    test = nrl.MapTest("size", n_permutations=60)
    return plots.plot_map(nrl.second_level(images, test=test), ax, **options)


def surface_map(ax: Axes, **options: object) -> Axes:
    points, faces = icosphere(2)
    rng, mesh = np.random.default_rng(0), InMemoryMesh(points, faces)
    images = {
        f"p{k}": SurfaceImage(
            PolyMesh(left=mesh, right=mesh),
            {side: rng.normal(2, 1, len(points)) for side in ("left", "right")},
        )
        for k in range(8)
    }
    test = nrl.MapTest("size", n_permutations=60)
    return plots.plot_map(nrl.second_level(images, test=test), ax, **options)


# they have no legend
PLAIN = {"plot_layer_time", "plot_map", "plot_model_time", "plot_partition"}
DRAW |= {
    "plot_time_course": lambda ax, **o: over_time(ax, plots.plot_time_course, **o),
    "plot_layer_time": lambda ax, **o: over_time(ax, plots.plot_layer_time),
    "plot_model_time": lambda ax, **o: model_time(ax),
    "plot_partition": lambda ax, **o: partition(ax),
    "plot_map": group_map,
}


DRAWN = DRAW | {"plot_map on a surface": surface_map}


def narrow_axes() -> Axes:
    return plt.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")[1]


def test_every_plot_function_is_drawn() -> None:
    assert set(DRAW) == {name for name in vars(plots) if name.startswith("plot_")}


@pytest.mark.parametrize("legend", [True, False])
@pytest.mark.parametrize("name", DRAWN)
def test_no_text_leaves_a_narrow_figure_and_the_data_keep_room(name: str, legend: bool) -> None:
    ax = DRAWN[name](narrow_axes(), legend=legend)
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.canvas.draw()
    drawn, room = figure.get_tightbbox(), 0.005
    assert min(drawn.x0, drawn.y0) > -room
    assert drawn.x1 < WIDTH + room
    assert drawn.y1 < HEIGHT + room
    box = ax.get_window_extent()
    assert min(box.width, box.height) / figure.dpi > 0.5


@pytest.mark.parametrize("name", sorted(set(DRAW) - PLAIN))
def test_legends_and_captions_can_be_left_out(name: str) -> None:
    with_legend, without = DRAW[name](narrow_axes()), DRAW[name](narrow_axes(), legend=False)
    assert without.get_legend() is None
    if with_legend.get_legend() is None:  # a caption below the axis
        assert len(without.get_xlabel()) < len(with_legend.get_xlabel())


def test_a_wide_figure_has_its_legend_beside_the_data() -> None:
    for width, beside in ((5.6, True), (3.3, False)):
        ax = plots.plot_training(history(), plt.subplots(figsize=(width, 3), layout="constrained")[1])
        ax.figure.canvas.draw()
        legend, box = ax.get_legend().get_window_extent(), ax.get_window_extent()
        assert (legend.x0 > box.x1) == beside
        assert (legend.y1 < box.y0) != beside
