"""Maps of a group, drawn by nilearn where they are significant."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, collect_notices, explain
from neurordl.io import damage_named
from neurordl.patterns.meshes import Mesh, read_meshes
from neurordl.plots import style
from neurordl.rsa.map_spaces import GridSpace, MeshSpace
from neurordl.rsa.second_level import SecondLevel
from neurordl.validate import check_choice, check_type, counted

if TYPE_CHECKING:
    from neurordl.patterns.meshes import Surface
    from neurordl.rsa.maps import Volume

_MODES = ("ortho", "x", "y", "z", "xz", "yx", "yz")
_BACKGROUND = 1e-3  # values of a background that are white: those around the head
_SHARE = 0.96  # of the width of a cut, for the space between cuts
_TESTED = "0.87"  # color of the voxels that were tested, without a background
_VIEWS = ("lateral", "medial", "ventral", "dorsal", "anterior", "posterior")
_WIDE = 2.4  # width by height of Axes from which on all views of a surface are in a row
_GYRI, _SULCI = 0.25, 0.5  # blackness of tested vertices; those that were not tested are white


class _Choices(NamedTuple):
    """What a user chose of the figure."""

    background: Any
    glass: bool
    display_mode: Any
    cut_coords: Any


def plot_map(
    result: SecondLevel,
    ax: Axes | None = None,
    *,
    alpha: float | None = None,
    background: Volume | Surface | str | None = None,
    glass: bool = False,
    display_mode: str | Sequence[str] | None = None,
    cut_coords: Sequence[float] | int | None = None,
    legend: bool = True,
) -> Axes:
    """Draw t where it is significant: in cuts through the brain, as a glass brain or on surfaces, by nilearn.

    Surfaces are drawn from the side and from the middle, or as you choose. The title says what was tested
    and which threshold is drawn.

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

        On a surface, what to draw on: other meshes with the same vertices, such as inflated ones;
        "fsaverage5" or another template of nilearn, inflated and with its folds (templates other than
        fsaverage5 are downloaded); or nilearn's ``SurfaceImage``, whose values are drawn in gray. By default
        it is the mesh of the maps, and vertices that were tested are gray, those in sulci darker.
    glass
        Draw a projection through the brain with nilearn's outline of it, for maps in MNI space.
    display_mode
        In a volume "ortho", the default, for cuts along the three axes; "x", "y", "z" or two of them, such as
        "xz", for cuts along these. On a surface, the views of each hemisphere: one or several of "lateral",
        "medial", "ventral", "dorsal", "anterior" and "posterior"; by default the first two.
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
        The way to display is unknown, the cuts do not fit it, options of volumes were given for a surface, or
        the background cannot be read or has other vertices.

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
    t = result.space.read(result.thresholded(alpha), 0)
    draw, height = _DRAW[type(result.space)]
    ax = style.new_axes(7.0, height) if ax is None else ax
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
    draw(result, t, picture, ax, _Choices(background, glass, display_mode, cut_coords))
    return ax


def _title(result: SecondLevel, alpha: float | None, t: Floats) -> str:
    """What was tested on whom, and what is drawn."""
    people = counted(len(result.settings["subjects"]), "subject")
    shown = "t where " if t.any() else f"no {result.space.noun} with "
    text = f"{result.name}, {people}: {shown}{result.threshold(alpha)}"
    return re.sub(r" ([<>]) ", "\u00a0\\1\u00a0", text)  # no line ends before a number


# volumes


def _draw_volume(
    result: SecondLevel, t: Floats, picture: ScalarMappable, ax: Axes, choices: _Choices
) -> None:
    """Cuts, or a glass brain."""
    mode = "ortho" if choices.display_mode is None else choices.display_mode
    choices = choices._replace(display_mode=check_choice("display_mode", mode, _MODES))
    cuts = _cuts(result, t, choices.display_mode, choices.cut_coords)
    draw = _draw_glass if choices.glass else _draw_cuts
    display = draw(result, ax, choices._replace(cut_coords=cuts))
    if t.any():
        limits = {"vmin": picture.norm.vmin, "vmax": picture.norm.vmax}
        smallest = float(np.abs(t[t != 0]).min())
        display.add_overlay(result.space.image(t), threshold=smallest / 2, cmap=picture.cmap, **limits)
    display.annotate(size=style.font_points("x-small"))
    for cut in display.axes.values():  # nilearn's Axes stay where these were when they were made
        cut.ax.set_axes_locator(_following(display, ax, cut.ax.get_axes_locator()))


def _cuts(result: SecondLevel, t: Floats, mode: str, coords: Sequence[float] | int | None) -> Any:
    """Where to cut: by default through the highest t of what is significant, or else of all."""
    if coords is None:
        every = np.abs(t if t.any() else np.nan_to_num(result.space.read(result.image("t"), 0)))
        place = tuple(map(int, np.unravel_index(int(every.argmax()), every.shape)))
        peak = result.space.positions([place])[0]
        return tuple(peak) if mode == "ortho" else [peak["xyz".index(axis)] for axis in mode]
    n = 3 if mode == "ortho" else len(mode)
    if n > 1 and np.shape(coords) != (n,):
        raise NeurordlError(f"cut_coords={coords!r}: display_mode={mode!r} needs {n} numbers, in mm")
    return coords


def _draw_cuts(result: SecondLevel, ax: Axes, choices: _Choices) -> Any:
    """Cuts through a background, or the tested voxels in gray."""
    from nilearn import plotting
    from nilearn.datasets import load_mni152_template

    background = choices.background
    place: Mapping[str, Any] = {
        "axes": ax,
        "display_mode": choices.display_mode,
        "cut_coords": choices.cut_coords,
        "annotate": False,
        "draw_cross": False,
        "colorbar": False,
        "black_bg": False,
    }
    if background is None:
        tested = result.space.image(result.inside.astype(np.float32))
        gray = {"cmap": ListedColormap(["white", _TESTED]), "vmin": 0, "vmax": 1, "threshold": 0.5}
        return plotting.plot_img(tested, resampling_interpolation="nearest", **gray, **place)
    if isinstance(background, str) and background == "MNI152":
        image = load_mni152_template(resolution=2)
    else:
        from neurordl.patterns.images import load_image

        image, name = load_image(background, "background")
        if image.ndim != 3:
            raise NeurordlError(f"the background {name} has shape {image.shape}; expected a 3D image")
        with damage_named(name, "give an image that can be read whole"):
            image = type(image)(np.asanyarray(image.dataobj), image.affine)
    return plotting.plot_anat(image, threshold=_BACKGROUND, **place)


def _draw_glass(result: SecondLevel, ax: Axes, choices: _Choices) -> Any:
    """The glass brain of nilearn."""
    from nilearn import plotting

    if choices.background is not None:
        raise NeurordlError("background= is for cuts; leave it out, or glass=True")
    mode = choices.display_mode
    return plotting.plot_glass_brain(
        None, axes=ax, display_mode=mode, annotate=False, colorbar=False, black_bg=False, plot_abs=False
    )


def _following(display: Any, ax: Axes, locator: Callable[..., Any]) -> Callable[..., Any]:
    """Place nilearn's Axes where the Axes are now that they were made in."""

    def located(axes: Axes, renderer: Any) -> Any:
        display.rect = tuple(ax.get_position().extents)
        return locator(axes, renderer).expanded(_SHARE, 1)

    return located


# surfaces


def _draw_surfaces(
    result: SecondLevel, t: Floats, picture: ScalarMappable, ax: Axes, choices: _Choices
) -> None:
    """Each view of each hemisphere, in Axes within these."""
    from nilearn.plotting import plot_surf_stat_map

    space = result.space
    assert isinstance(space, MeshSpace)
    if choices.glass or choices.cut_coords is not None:
        raise NeurordlError("glass= and cut_coords= are for volumes; leave them out")
    chosen = _VIEWS[:2] if choices.display_mode is None else choices.display_mode
    chosen = [chosen] if isinstance(chosen, str) else list(dict.fromkeys(chosen))
    for view in chosen or [""]:
        check_choice("display_mode", view, _VIEWS)
    meshes, grays = _background(result, space, choices.background)
    values = space.by_side(t)
    smallest = float(np.abs(t[t != 0]).min()) if t.any() else 1.0
    views = [(side, view) for side in space.meshes for view in chosen]
    width, height = style.inches(ax)
    n_rows = 1 if width > _WIDE * height * len(views) / 4 else len(space.meshes)
    n_columns = len(views) // n_rows
    if n_rows == 1:
        views[len(chosen) :] = views[: len(chosen) - 1 : -1]  # the middles beside each other
    for number, (side, view) in enumerate(views):
        row, column = divmod(number, n_columns)
        box = (column / n_columns, 1 - (row + 1) / n_rows, 1 / n_columns, 1 / n_rows)
        panel = ax.inset_axes(box, projection="3d")
        plot_surf_stat_map(
            tuple(meshes[side][:2]),
            values[side],
            bg_map=grays[side],
            hemi=side,
            view=view,
            axes=panel,
            figure=ax.figure,
            colorbar=False,
            threshold=0.99 * smallest,
            avg_method="median",  # a triangle has the t of its vertices, and none between t and 0
            cmap=picture.cmap,
            vmin=picture.norm.vmin,
            vmax=picture.norm.vmax,
        )
        panel.set_title(f"{side}, {view}", fontsize=style.font_points("x-small"), y=0.92)


def _background(
    result: SecondLevel, space: MeshSpace, background: Any
) -> tuple[Mapping[str, Mesh], Mapping[str, Any]]:
    """The meshes to draw on, and the gray of their vertices."""
    if isinstance(background, str) and background.startswith("fsaverage"):
        from nilearn.datasets import load_fsaverage_data

        with explain(f"cannot load background={background!r}", remedy="give meshes that you have"):
            background = load_fsaverage_data(background, mesh_type="inflated", data_type="sulcal")
    grays: Mapping[str, Any] = _folds(result, space)
    meshes = space.meshes
    if background is not None:
        # notices about distances on it do not matter
        with collect_notices(show=False), explain("background=", NeurordlError):
            meshes = read_meshes(getattr(background, "mesh", background))
        grays = getattr(getattr(background, "data", None), "parts", grays)
    for side, size in space.sizes.items():
        number = len(meshes[side].coordinates) if side in meshes else 0
        if number != size:
            raise NeurordlError(
                f"background= has {number:,} vertices in the {side} hemisphere, and the maps have {size:,}; "
                "give meshes of the space of the maps"
            )
    return meshes, grays


def _folds(result: SecondLevel, space: MeshSpace) -> dict[str, Floats]:
    """Gray of the tested vertices, darker where the surface is bent inwards; others are white."""
    points = np.concatenate([mesh.coordinates for mesh in space.meshes.values()])
    normals = np.zeros_like(points)
    start = 0
    for mesh in space.meshes.values():
        a, b, c = np.moveaxis(mesh.coordinates[mesh.faces], 1, 0)
        for corner in range(3):
            np.add.at(normals, start + mesh.faces[:, corner], np.cross(b - a, c - a))
        start += len(mesh.coordinates)
    degree = np.maximum(space.neighbors.sum(axis=1), 1)
    inwards = ((space.neighbors @ points / degree[:, None] - points) * normals).sum(axis=1) > 0
    grays = np.where(result.inside, np.where(inwards, _SULCI, _GYRI), 0.0)
    return space.by_side(grays)


_DRAW: Mapping[type, tuple[Callable[..., None], float]] = {
    GridSpace: (_draw_volume, 2.9),
    MeshSpace: (_draw_surfaces, 2.1),
}
