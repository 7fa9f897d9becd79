"""Figures of maps of a group: what is drawn is what is significant, and the title says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest

import neurordl as nrl
from neurordl.errors import NeurordlError

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


def test_what_cannot_be_drawn() -> None:
    tested = result()
    for options, said in (
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
