"""Figures of maps of a group: what is drawn is what is significant, and the title says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
from nilearn.surface import InMemoryMesh, PolyMesh, SurfaceImage

import neurordl as nrl
from neurordl.errors import NeurordlError
from tests.helpers import icosphere

AFFINE = np.array([[-3.0, 0, 0, 20], [0, 3, 0, -20], [0, 0, 3, -9], [0, 0, 0, 1]])


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def result(effect: float = 4.0, **options: Any) -> nrl.SecondLevel:
    rng, images = np.random.default_rng(0), {}
    for k in range(8):
        scores = rng.normal(size=(12, 14, 9))
        scores[3:6, 4:7, 2:5] += effect
        scores[8:10, 4:7, 2:5] -= effect
        images[f"p{k}"] = nib.Nifti1Image(scores, AFFINE)
    return nrl.second_level(images, test=nrl.MapTest("size", n_permutations=60, **options))


def texts(ax: Any) -> set[str]:
    """Texts of all Axes of the figure."""
    return {text.get_text() for x in ax.figure.axes for text in x.texts if text.get_text()}


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
def test_what_is_significant_is_drawn_and_named(tail: Any) -> None:
    tested = result(tail=tail)
    ax = nrl.plot_map(tested)
    ax.figure.canvas.draw()
    title = ax.get_title(loc="left").replace("\n", " ").replace("\u00a0", " ")
    assert title == f"scores, 8 subjects: t where {tested.threshold()}"
    shown = tested.thresholded().get_fdata()
    assert (shown < 0).any() == (tail == "two-sided")
    peak = np.unravel_index(np.abs(shown).argmax(), shown.shape)
    x, y, z = (AFFINE @ [*peak, 1])[:3]
    assert {f"x={x:.0f}", f"y={y:.0f}", f"z={z:.0f}", "L", "R"} <= texts(ax)
    pictures = [image for part in ax.figure.axes for image in part.images if image.get_array() is not None]
    drawn = [image.norm.vmax for image in pictures if image.norm.vmax > 1]
    assert len(drawn) == 3  # a cut along each axis
    np.testing.assert_allclose(drawn, np.abs(shown).max())


CUTS: list[dict[str, Any]] = [
    {"display_mode": "z", "cut_coords": 3},
    {"display_mode": "y", "cut_coords": [-8, 0]},
    {"display_mode": "xz"},
    {"cut_coords": (8, -8, 0)},
    {"background": "MNI152"},
    {"glass": True},
]


@pytest.mark.parametrize("options", CUTS, ids=str)
def test_other_cuts_and_backgrounds(options: Any, tmp_path: Path) -> None:
    for effect in (4.0, 0.0):  # also without anything significant
        ax = nrl.plot_map(result(effect), **options)
        ax.figure.savefig(tmp_path / "figure.png")
        assert ("no voxel with" in ax.get_title(loc="left")) == (effect == 0)
    image = nib.Nifti1Image(np.random.default_rng(0).random((12, 14, 9)), AFFINE)
    nib.save(image, tmp_path / "anatomy.nii.gz")
    assert nrl.plot_map(result(), background=tmp_path / "anatomy.nii.gz").figure


def test_cuts_move_with_the_axes() -> None:
    figure, axes = plt.subplots(2, 1, layout="constrained")
    ax = nrl.plot_map(result(), axes[0])
    axes[1].set_title("a title of three lines\n\n")
    figure.canvas.draw()
    box = ax.get_window_extent()
    cuts = [part for part in figure.axes if part.get_axes_locator() is not None and part is not ax]
    extents = [cut.get_window_extent() for cut in cuts if cut.images]
    assert len(extents) == 3
    assert min(x.y0 for x in extents) > box.y0 - 1
    assert max(x.y1 for x in extents) < box.y1 + 1


POINTS, FACES = icosphere(2)
MESH = PolyMesh(left=InMemoryMesh(POINTS, FACES), right=InMemoryMesh(POINTS + 120, FACES))


def on_surface(effect: float = 4.0, mesh: Any = MESH, **options: Any) -> nrl.SecondLevel:
    rng, images = np.random.default_rng(0), {}
    for k in range(8):
        scores = {side: rng.normal(size=len(POINTS)) for side in mesh.parts}
        scores["left"][np.linalg.norm(POINTS - POINTS[5], axis=1) < 20] += effect
        scores["left"][np.linalg.norm(POINTS - POINTS[90], axis=1) < 20] -= effect
        scores["left"][:3] = np.nan
        images[f"p{k}"] = SurfaceImage(mesh, scores)
    return nrl.second_level(images, test=nrl.MapTest("size", n_permutations=60, **options))


_THREE = ("lateral", "ventral", "medial")


def panels(ax: Any) -> list[str]:
    return [panel.get_title() for panel in ax.child_axes if panel.name == "3d"]


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
def test_surfaces_are_drawn_from_the_side_and_the_middle(tail: Any) -> None:
    tested = on_surface(tail=tail)
    ax = nrl.plot_map(tested)
    ax.figure.canvas.draw()
    title = ax.get_title(loc="left").replace("\n", " ").replace("\u00a0", " ")
    assert title == f"scores, 8 subjects: t where {tested.threshold()}"
    assert panels(ax) == ["left, lateral", "left, medial", "right, medial", "right, lateral"]
    t = tested.space.read(tested.thresholded(), 0)
    assert (t < 0).any() == (tail == "two-sided")
    # a triangle has the color of the median of its vertices where that is significant, or else gray
    picture = matplotlib.cm.ScalarMappable(
        matplotlib.colors.Normalize(-np.abs(t).max() if tail == "two-sided" else 0, np.abs(t).max()),
        "RdBu_r" if tail == "two-sided" else "plasma",
    )
    median = np.median(t[: len(POINTS)][FACES], axis=1)
    panel = next(x for x in ax.child_axes if x.get_title() == "left, lateral")
    colors = panel.collections[0]._facecolor3d
    np.testing.assert_allclose(colors[median != 0], picture.to_rgba(median[median != 0]), atol=1e-2)
    gray = colors[median == 0, :3]
    assert np.ptp(gray, axis=1).max() < 1e-6
    right = next(x for x in ax.child_axes if x.get_title() == "right, lateral").collections[0]._facecolor3d
    assert np.ptp(right[:, :3], axis=1).max() < 1e-6
    none = nrl.plot_map(on_surface(0.0))
    assert "no vertex with" in none.get_title(loc="left")


def test_backgrounds_and_rows_of_surfaces(tmp_path: Path) -> None:
    tested = on_surface()
    round_mesh = {"left": (1.2 * POINTS, FACES), "right": (1.2 * POINTS, FACES)}
    folds = SurfaceImage(MESH, dict.fromkeys(MESH.parts, POINTS[:, 0]))
    for background in (round_mesh, folds, MESH):
        nrl.plot_map(tested, background=background).figure.savefig(tmp_path / "figure.png")
    narrow = plt.subplots(figsize=(3.3, 3.2), layout="constrained")[1]
    nrl.plot_map(tested, narrow)
    assert panels(narrow) == ["left, lateral", "left, medial", "right, lateral", "right, medial"]
    left = nrl.plot_map(on_surface(mesh=PolyMesh(left=MESH.parts["left"])))
    assert panels(left) == ["left, lateral", "left, medial"]
    below = nrl.plot_map(tested, display_mode=_THREE)
    of_left, of_right = [[f"{side}, {view}" for view in _THREE] for side in ("left", "right")]
    assert panels(below) == [*of_left, *of_right[::-1]]
    assert panels(nrl.plot_map(tested, display_mode="ventral")) == ["left, ventral", "right, ventral"]
    narrow = plt.subplots(figsize=(3.3, 3.2), layout="constrained")[1]
    assert panels(nrl.plot_map(tested, narrow, display_mode=_THREE)) == [*of_left, *of_right]
    for options, said in (
        (
            {"background": "fsaverage5"},
            "background= has 10,242 vertices in the left hemisphere, and the maps",
        ),
        ({"background": {"left": round_mesh["left"]}}, "background= has 0 vertices in the right hemisphere"),
        ({"background": "fsaverage9"}, "cannot load background='fsaverage9': .*; give meshes that you have"),
        ({"background": "MNI152"}, "background=: surface='MNI152' does not say which hemisphere"),
        ({"glass": True}, "glass= and cut_coords= are for volumes; leave them out"),
        ({"display_mode": "z"}, "display_mode='z': expected one of 'lateral', 'medial', 'ventral'"),
        ({"display_mode": ()}, "display_mode='': expected one of 'lateral'"),
        ({"cut_coords": (0, 0, 0)}, "are for volumes; leave them out"),
    ):
        with pytest.raises(NeurordlError, match=said):
            nrl.plot_map(tested, **options)


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    tested = result()
    cut = tmp_path / "cut.nii.gz"
    nib.save(nib.Nifti1Image(np.random.default_rng(0).normal(size=(9, 9, 9)), np.eye(4)), cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    several = nib.Nifti1Image(np.ones((9, 9, 9, 2)), np.eye(4))
    for options, said in (
        ({"background": cut}, r"cannot read .*cut.nii.gz: it is damaged"),
        ({"background": several}, r"has shape \(9, 9, 9, 2\); expected a 3D image"),
        ({"display_mode": "front"}, "display_mode='front': expected one of 'ortho'"),
        ({"cut_coords": 3}, "cut_coords=3: display_mode='ortho' needs 3 numbers, in mm"),
        ({"cut_coords": (3, 4)}, "needs 3 numbers"),
        ({"background": "nowhere.nii.gz"}, "there is no background nowhere.nii.gz"),
        ({"glass": True, "background": "MNI152"}, "background= is for cuts"),
        ({"alpha": 0}, "alpha=0"),
    ):
        with pytest.raises(NeurordlError, match=said):
            nrl.plot_map(tested, **options)
    with pytest.raises(
        NeurordlError, match="result: expected SecondLevel, got dict; give the result of second"
    ):
        nrl.plot_map({})
