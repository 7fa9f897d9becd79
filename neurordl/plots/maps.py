"""Maps of a group, drawn by nilearn where they are significant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from neurordl.errors import NeurordlError
from neurordl.plots import style
from neurordl.rsa.second_level import SecondLevel
from neurordl.validate import check_choice, check_type, counted

if TYPE_CHECKING:
    import nibabel as nib

    from neurordl.rsa.maps import Volume

_MODES = ("ortho", "x", "y", "z", "xz", "yx", "yz")
_BACKGROUND = 1e-3  # values of a background that are white: those around the head
_SHARE = 0.96  # of the width of a cut, for the space between cuts
_TESTED = "0.87"  # color of the voxels that were tested, without a background


def plot_map(
    result: SecondLevel,
    ax: Axes | None = None,
    *,
    alpha: float | None = None,
    background: Volume | str | None = None,
    glass: bool = False,
    display_mode: str = "ortho",
    cut_coords: Sequence[float] | int | None = None,
    legend: bool = True,
) -> Axes:
    """Draw t where it is significant, in cuts through the brain or as a glass brain, by nilearn.

    The title says what was tested and which threshold is drawn.

    Parameters
    ----------
    result
        Result of `second_level`.
    ax
        Axes to draw on; by default new ones. Nilearn adds Axes for the cuts in its place.
    alpha
        Significance level of the corrected p; by default that of the test.
    background
        An image below the map, or "MNI152", nilearn's template, for maps in MNI space. By default the voxels
        that were tested are gray.
    glass
        Draw a projection through the brain with nilearn's outline of it, for maps in MNI space.
    display_mode
        "ortho": cuts along the three axes. "x", "y", "z" or two of them, such as "xz": along these.
    cut_coords
        Where to cut, in mm: a place (x, y, z) for "ortho"; for an axis, some places or their number. By
        default the highest t.
    legend
        Write the title.

    Returns
    -------
    Axes
        The Axes with the figure.

    Raises
    ------
    NeurordlError
        The way to display is unknown, the cuts do not fit it, or the background cannot be read.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng, volumes = np.random.default_rng(0), {}
    >>> for subject in range(10):
    ...     scores = rng.normal(size=(12, 14, 12))
    ...     scores[6:10, 3:6, 4:8] += 3
    ...     volumes[f"s{subject:02d}"] = nibabel.Nifti1Image(scores, np.diag([3, 3, 3, 1]))
    >>> result = nrl.second_level(volumes, test=nrl.MapTest(n_permutations=100))
    >>> ax = nrl.plot_map(result)
    """
    check_type("result", result, SecondLevel, "give the result of second_level")
    check_choice("display_mode", display_mode, _MODES)
    shown = result.thresholded(alpha)
    t = shown.get_fdata()
    ax = style.new_axes(7.0, 2.9) if ax is None else ax
    largest = float(np.abs(t).max()) or 1.0
    two_sided = result.test.tail == "two-sided"
    picture = ScalarMappable(
        Normalize(-largest if two_sided else 0, largest), "RdBu_r" if two_sided else "plasma"
    )
    if t.any():
        style.bar_beside(ax, picture).set_label("t")
    if legend:
        room, size = style.inches(ax)[0], style.font_points("small")
        title = style.wrapped(_title(result, alpha, t), room, size)
        ax.set_title(title, fontsize=size, loc="left")
    ax.axis("off")
    style.settle(ax)
    cuts = _cuts(result, t, display_mode, cut_coords)
    draw = _draw_glass if glass else _draw_cuts
    display = draw(result, shown, picture, ax, (display_mode, cuts, background))
    display.annotate(size=style.font_points("x-small"))
    for cut in display.axes.values():  # nilearn's Axes stay where these were when they were made
        cut.ax.set_axes_locator(_following(display, ax, cut.ax.get_axes_locator()))
    return ax


def _title(result: SecondLevel, alpha: float | None, t: Any) -> str:
    """What was tested on whom, and what is drawn."""
    people = counted(len(result.settings["subjects"]), "subject")
    shown = "t where " if t.any() else "no voxel with "
    text = f"{result.name}, {people}: {shown}{result.threshold(alpha)}"
    return re.sub(r" ([<>]) ", "\u00a0\\1\u00a0", text)  # no line ends before a number


def _cuts(result: SecondLevel, t: Any, mode: str, coords: Sequence[float] | int | None) -> Any:
    """Where to cut: by default through the highest t of what is significant, or else of all."""
    if coords is None:
        every = np.abs(t) if t.any() else np.nan_to_num(np.abs(result.image("t").get_fdata()))
        place = np.unravel_index(int(every.argmax()), every.shape)
        peak = result.space.affine[:3, :3] @ place + result.space.affine[:3, 3]
        if mode == "ortho":
            return tuple(peak.tolist())
        return [float(peak["xyz".index(axis)]) for axis in mode]
    n = 3 if mode == "ortho" else len(mode)
    if n > 1 and np.shape(coords) != (n,):
        raise NeurordlError(f"cut_coords={coords!r}: display_mode={mode!r} needs {n} numbers, in mm")
    return coords


def _draw_cuts(
    result: SecondLevel, shown: nib.Nifti1Image, picture: ScalarMappable, ax: Axes, options: tuple[Any, ...]
) -> Any:
    """Cuts through a background, or the tested voxels in gray, with the map on it."""
    import nibabel as nib
    from nilearn import plotting
    from nilearn.datasets import load_mni152_template

    mode, cuts, background = options
    places = {"axes": ax, "display_mode": mode, "cut_coords": cuts}
    place: Mapping[str, Any] = {
        **places,
        "annotate": False,
        "draw_cross": False,
        "colorbar": False,
        "black_bg": False,
    }
    if background is None:
        tested = nib.Nifti1Image(result.inside.astype(np.float32), result.space.affine)
        gray = {"cmap": ListedColormap(["white", _TESTED]), "vmin": 0, "vmax": 1, "threshold": 0.5}
        display = plotting.plot_img(tested, resampling_interpolation="nearest", **gray, **place)
    else:
        if isinstance(background, str) and background == "MNI152":
            image = load_mni152_template(resolution=2)
        else:
            from neurordl.patterns.images import load_image

            image = load_image(background, "background")[0]
        display = plotting.plot_anat(image, threshold=_BACKGROUND, **place)
    _add(display, shown, picture)
    return display


def _draw_glass(
    result: SecondLevel, shown: nib.Nifti1Image, picture: ScalarMappable, ax: Axes, options: tuple[Any, ...]
) -> Any:
    """A projection of the map in nilearn's glass brain."""
    from nilearn import plotting

    mode, _, background = options
    if background is not None:
        raise NeurordlError("background= is for cuts; leave it out, or glass=True")
    display = plotting.plot_glass_brain(
        None, axes=ax, display_mode=mode, annotate=False, colorbar=False, black_bg=False, plot_abs=False
    )
    _add(display, shown, picture)
    return display


def _add(display: Any, shown: nib.Nifti1Image, picture: ScalarMappable) -> None:
    t = np.abs(shown.get_fdata())
    if t.any():
        limits = {"vmin": picture.norm.vmin, "vmax": picture.norm.vmax}
        display.add_overlay(shown, threshold=float(t[t > 0].min()) / 2, cmap=picture.cmap, **limits)


def _following(display: Any, ax: Axes, locator: Callable[..., Any]) -> Callable[..., Any]:
    """Place nilearn's Axes where the Axes are now that they were made in."""

    def located(axes: Axes, renderer: Any) -> Any:
        display.rect = tuple(ax.get_position().extents)
        return locator(axes, renderer).expanded(_SHARE, 1)

    return located
