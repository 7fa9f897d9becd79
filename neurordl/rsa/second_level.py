"""The second level: searchlight maps tested over people, by permutation tests of nilearn and MNE."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.io import make_folder, versions, write_folder
from neurordl.rsa.compare import repeated_subjects
from neurordl.rsa.map_spaces import MapImage, MapSpace, count_maps, open_map, space_of
from neurordl.rsa.map_tests import Design, MapTest, Statistic
from neurordl.rsa.maps import SearchlightMaps, load_maps
from neurordl.rsa.scores import p_text
from neurordl.validate import check_choice, check_number, check_path, counted, folded_html, listed

if TYPE_CHECKING:
    from neurordl.patterns.images import AnyImage, Regions

Maps: TypeAlias = "SearchlightMaps | str | os.PathLike[str] | Mapping[str, AnyImage]"
"""Maps of `group_searchlight`, their folder, or an image with one map of each subject."""

_TINY = 1e-100
_FULL = {"voxel": "{} level", "size": "cluster size", "mass": "cluster mass", "tfce": "TFCE"}


@dataclass(frozen=True, eq=False)
class SecondLevel:
    """Maps of a group, tested over people.

    Attributes
    ----------
    name
        What was tested: the model, the difference of two, or the covariate.
    values
        Maps of the tested voxels or vertices by name: "mean" (the mean score, or its Fisher z), "t",
        "p_voxel", and with clusters "size" (voxels), "p_size", "mass" and "p_mass", or "tfce" and "p_tfce".
        On a surface, there is the p of the test's statistic alone; "p_voxel" is that of each vertex. P-values
        are corrected for all voxels, or all vertices of both hemispheres (FWE).
    inside
        Which voxels were tested, (x, y, z), or which vertices, those of the left hemisphere first.
    space
        Where voxels or vertices lie: the ``affine`` from voxel indices to mm, or the ``meshes``.
    test
        The test.
    settings
        Subjects, models, smoothing, mask, covariates, degrees of freedom, counts, versions.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng = np.random.default_rng(0)
    >>> volumes = {
    ...     f"s{subject}": nibabel.Nifti1Image(rng.normal(1, 1, (4, 4, 4)), np.diag([3, 3, 3, 1]))
    ...     for subject in range(8)
    ... }
    >>> result = nrl.second_level(volumes, test=nrl.MapTest(n_permutations=200))
    >>> result.image("t").shape, sorted(result.values)
    ((4, 4, 4), ['mean', 'p_voxel', 't'])
    """

    name: str
    values: Mapping[str, Floats]
    inside: Bools
    space: MapSpace
    test: MapTest
    settings: Mapping[str, Any]

    @property
    def p(self) -> Floats:
        """Corrected p-values of the test's statistic, of each tested voxel or vertex."""
        return self.values[f"p_{self.test.statistic}"]

    def threshold(self, alpha: float | None = None) -> str:
        """Return in words what is significant, of the test's level or another one."""
        test, statistic = self.test, _FULL[self.test.statistic].format(self.space.noun)
        limit = f"FWE-corrected p < {self._alpha(alpha):g}, {statistic}"
        if test.statistic in ("size", "mass"):
            limit += f" (clusters of p < {test.threshold:g}, t > {self.settings['t_threshold']:.2f})"
        return limit

    def image(self, name: str = "t") -> MapImage:
        """Return one of the maps, NaN where nothing was tested: a 3D NIfTI image, or nilearn's SurfaceImage.

        Raises
        ------
        NeurordlError
            There is no such map.
        """
        check_choice("name", name, list(self.values))
        return self.space.image(self._whole(self.values[name], np.nan).astype(np.float32))

    def thresholded(self, alpha: float | None = None) -> MapImage:
        """Return the t map where it is significant, and 0 elsewhere."""
        return self.space.image(self._significant(alpha))

    def table(
        self,
        alpha: float | None = None,
        *,
        min_distance: float = 8.0,
        regions: AnyImage | Regions | None = None,
    ) -> pd.DataFrame:
        """Return the peaks of the significant clusters.

        In a volume they are those of nilearn's ``get_clusters_table``, and clusters are joined by their
        faces. On a surface, peaks are vertices that none of their neighbors exceeds, and clusters are joined
        by the edges of the mesh.

        Parameters
        ----------
        alpha
            The significance level; by default that of the test.
        min_distance
            Smallest distance between peaks of a cluster, in mm along a straight line.
        regions
            An atlas with names, for the region of each peak.

        Returns
        -------
        DataFrame
            A row for each peak, the highest of a cluster first, at most four of a cluster: ``cluster``,
            ``peak`` (1, 1a, 1b), on a surface ``hemisphere`` and ``vertex``, ``x``, ``y``, ``z`` (mm; on a
            surface those of the mesh), ``t``, ``mean``, the p-values, the size of the cluster (``mm3`` and
            ``n_voxels``, or ``mm2`` and ``n_vertices``), and ``region``.

        Raises
        ------
        NeurordlError
            A number is out of its range, or as `Regions`.
        """
        check_number("min_distance", min_distance, 0, open_low=True)
        space, shown = self.space, self._significant(alpha)
        if self.test.tail == "greater":
            shown = np.maximum(shown, 0)
        peaks = space.peaks(shown, min_distance)
        columns = [*space.position_columns]
        table = pd.DataFrame(space.positions([peak.place for peak in peaks]), columns=columns)
        table.insert(0, "cluster", [peak.cluster for peak in peaks])
        table.insert(1, "peak", [f"{peak.cluster}{peak.letter}" for peak in peaks])
        for name in ("t", "mean", *(name for name in self.values if name.startswith("p_"))):
            whole = self._whole(self.values[name], np.nan)
            table[name] = [whole[peak.place] for peak in peaks]
        extent, number = space.extent_columns
        table[extent] = [round(peak.extent, 3) for peak in peaks]
        table[number] = [peak.n_places for peak in peaks]
        if regions is not None and peaks:
            atlas = space.mask(regions)
            named = np.full(self.inside.shape, "", dtype=object)
            named[atlas.inside] = atlas.roi if atlas.roi is not None else atlas.name
            table["region"] = [named[peak.place] for peak in peaks]
        elif regions is not None:
            table["region"] = []
        return table

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all maps as NIfTI or GIFTI, the table of peaks as CSV and the settings as JSON.

        On a surface, there is a file of each hemisphere, and one with its mesh.

        Parameters
        ----------
        folder
            A new folder, or one that was written before, which is replaced.

        Raises
        ------
        NeurordlError
            The folder holds other files, or cannot be written.
        """
        path = check_path("folder", folder)
        contents = {
            f"{name}{end}": content
            for name in self.values
            for end, content in self.space.contents(self.image(name), [name]).items()
        }
        contents |= self.space.mesh_files()
        contents["peaks.csv"] = self.table().to_csv(index=False).encode()
        record = {"tested": self.name, **self.settings, "test": asdict(self.test), "shown": self.threshold()}
        contents["settings.json"] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
        make_folder(path.parent)
        write_folder(path, contents, (".gz", ".gii", ".csv", ".json"))

    def _alpha(self, alpha: float | None) -> float:
        if alpha is None:
            return self.test.alpha
        return check_number("alpha", alpha, 0, 1, open_low=True)

    def _significant(self, alpha: float | None) -> Floats:
        """The values of t where they are significant, and 0 elsewhere."""
        return self._whole(np.where(self.p < self._alpha(alpha), self.values["t"], 0), 0)

    def _whole(self, values: Floats, background: float) -> Floats:
        """Values of the whole space from those of the tested places."""
        whole = np.full(self.inside.shape, background, dtype=np.float64)
        whole[self.inside] = values
        return whole

    def _cells(self) -> list[tuple[str, str]]:
        """What was tested on whom, by what, and what came out."""
        test, settings, p = self.test, self.settings, self.p
        significant, t = p < test.alpha, self.values["t"]
        best = int(np.argmin(p - 1e-9 * (np.abs(t) if test.tail == "two-sided" else t)))  # ties by t
        noun, place = self.space.noun, tuple(np.argwhere(self.inside)[best].tolist())
        smoothing = f", smoothed by {settings['fwhm']:g} mm" if settings["fwhm"] else ""
        scale = "Fisher's z of the scores" if test.fisher_z else "scores without Fisher's z"
        beyond = f", with {listed(settings['covariates'])}" if settings["covariates"] else ""
        tail = ", two-sided" if test.tail == "two-sided" else " above 0, one-sided"
        n_clusters = self.table()["cluster"].nunique()
        result = f"{counted(int(significant.sum()), noun)} in {counted(n_clusters, 'cluster')}"
        return [
            (
                "second level",
                f"{self.name}{tail}{beyond}",
            ),
            ("people", f"{counted(len(settings['subjects']), 'subject')}: {listed(settings['subjects'])}"),
            ("tested", f"{counted(int(self.inside.sum()), noun)}; {scale}{smoothing}"),
            ("by", settings["by"]),
            ("threshold", self.threshold()),
            ("significant", result),
            ("smallest p", f"{p_text(p[best])}, t = {t[best]:.2f} at {self.space.where(place)}"),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<12}  {text}" for name, text in self._cells())

    def _repr_html_(self) -> str:
        (_, summary), *cells = self._cells()
        return folded_html(f"Second level: {summary}", cells)

    __repr__ = __str__


def second_level(
    maps: Maps,
    model: str | None = None,
    *,
    difference: tuple[str, str] | None = None,
    test: MapTest | Statistic | None = None,
    mask: AnyImage | Regions | None = None,
    fwhm: float | None = None,
    covariates: pd.DataFrame | None = None,
    contrast: str | None = None,
) -> SecondLevel:
    """Test searchlight maps over people, by permutation tests of nilearn and MNE.

    Maps lie in a volume, or on the surface of one or both hemispheres, which are tested together.

    Parameters
    ----------
    maps
        Maps of `group_searchlight`, or their folder; or a mapping from subject to an image of any software
        with one map, which is NaN where a person has no score: 0 is a score. It is a 3D image, or nilearn's
        ``SurfaceImage``; files of a surface are read together with their mesh by `load_maps`.
    model
        The model, if there are several.
    difference
        Two models: their difference is tested in each person (a paired test), two-sided unless ``test`` is
        given.
    test
        The test; by default ``MapTest()``, which is one-sided: scores above 0. The name of a statistic, such
        as "size", stands for a test by it.
    mask
        A mask or `Regions`: only voxels or vertices in it are tested and corrected for.
    fwhm
        Full width at half maximum, in mm, of the kernel by which nilearn smooths the maps, on a surface along
        the mesh. Scores that are missing, such as outside of the brain, count as 0 there, so that values at
        the edge become smaller.
    covariates
        A row for each subject, with the subjects as index or in the column ``subject`` or ``participant_id``,
        and columns of numbers, such as age, or 0 and 1 for two groups. They are controlled for: the mean is
        that at their means.
    contrast
        A column of ``covariates`` whose effect is tested instead of the mean, two-sided unless ``test`` is
        given. The other columns are controlled for. Of a column of 0 and 1, it is the difference of two
        groups. (Clusters and TFCE on a surface take a column of two groups and no other.)

    Returns
    -------
    SecondLevel
        Maps of t and corrected p, a table of peaks, and what `plot_map` draws.

    Warns
    -----
    UserWarning
        Voxels or vertices are left out or kept that some people lack, with their count; images have 0 where
        others have scores, which may mean that there are no data; scores are the same in all people in some
        voxels, which are left out; two people have the same map; meshes of people have other
        coordinates; or there are so few people that nothing can be significant.

    Raises
    ------
    NeurordlError
        Images of two people are on different grids or meshes; no voxel is left; the model, a subject or a
        column is unknown; there are too few people; Fisher's z is asked for of scores that are no
        correlations; or MNE, which tests clusters on surfaces, is not installed, or cannot test the
        covariates.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng, volumes = np.random.default_rng(0), {}
    >>> for subject in range(12):
    ...     scores = rng.normal(size=(6, 6, 6))
    ...     scores[1:4, 1:4, 1:4] += 2
    ...     volumes[f"s{subject:02d}"] = nibabel.Nifti1Image(scores, np.diag([3, 3, 3, 1]))
    >>> result = nrl.second_level(volumes, test=nrl.MapTest("size", n_permutations=500))
    >>> result.table()[["cluster", "n_voxels", "mm3"]].iloc[0].tolist()
    [1.0, 27.0, 729.0]
    """
    if not isinstance(test, MapTest):
        tail: Any = "greater" if difference is None and contrast is None else "two-sided"
        test = MapTest("voxel" if test is None else test, tail=tail)
    if difference is not None and model is not None:
        raise NeurordlError("model= and difference= exclude each other; a difference names two models")
    if fwhm is not None:
        check_number("fwhm", fwhm, 0, 200, remedy="it is in mm")
    stack = _Stack.of(maps, model, difference)
    design = Design.of(stack.subjects, covariates, contrast, test)
    space, scores = stack.scores(test.fisher_z)
    inside, counts, mask_name = _chosen(scores, stack, space, mask, test)
    smooth = space.smoothed(np.nan_to_num(scores), fwhm) if fwhm else scores
    values = np.nan_to_num(smooth[:, inside])
    varied = np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0)
    if not varied.all():
        notify(
            f"{counted(int((~varied).sum()), space.noun)} with the same score in all people "
            f"{'is' if (~varied).sum() == 1 else 'are'} left out"
        )
        if not varied.any():
            problem = f"all people have the same score in each {space.noun}"
            raise NeurordlError(f"{problem}; give maps of different people")
        inside[inside] = varied
        values = values[:, varied]
    if repeated := repeated_subjects(stack.subjects, scores[:, inside], "map"):
        notify(repeated)
    largest = np.abs(values).max(axis=0)  # t does not depend on the scale, whose squares may be 0 or infinite
    scale = np.where((largest < _TINY) | (largest > 1 / _TINY), largest, 1)
    tested = space.run(test, design, values / scale, inside)
    settings = {
        "subjects": list(stack.subjects),
        "models": list(stack.models),
        "maps": dict(stack.settings),
        "fwhm": fwhm,
        "mask": mask_name,
        **counts,
        f"n_{space.nouns}": int(inside.sum()),
        "covariates": design.names,
        "contrast": contrast,
        "degrees_of_freedom": design.freedom,
        "t_threshold": design.limit(test),
        "by": tested.by,
        "versions": versions() | {name: version(name) for name in ("nilearn", *tested.libraries)},
    }
    name = stack.name if contrast is None else f"{contrast} on {stack.name}"
    return SecondLevel(name, {"mean": values.mean(axis=0), **tested.maps}, inside, space, test, settings)


class _Stack(NamedTuple):
    """Maps of all people, and which of them are tested."""

    subjects: tuple[str, ...]
    opened: Callable[[str], MapImage]
    models: tuple[str, ...]
    places: tuple[int, ...]
    settings: Mapping[str, object]

    @classmethod
    def of(cls, maps: Maps, model: str | None, difference: tuple[str, str] | None) -> _Stack:
        """Find the maps of all people; nothing is read."""
        if isinstance(maps, Mapping):
            if model is not None or difference is not None:
                raise NeurordlError(
                    "these are images without names of models; leave out model= and difference="
                )
            images = {str(subject): image for subject, image in maps.items()}
            stack = cls(tuple(images), lambda subject: _one_map(images, subject), ("scores",), (0,), {})
        else:
            if not isinstance(maps, SearchlightMaps | str | os.PathLike):
                expected = "maps of group_searchlight, their folder, or a mapping from subject to image"
                raise NeurordlError(f"maps: expected {expected}, got {type(maps).__name__}")
            maps = maps if isinstance(maps, SearchlightMaps) else load_maps(maps)
            models = _models(maps.models, model, difference)
            places = tuple(maps.models.index(name) for name in models)
            stack = cls(maps.subjects, maps.image, models, places, maps.settings)
        if len(stack.subjects) < 2:
            raise NeurordlError(
                f"there are maps of {counted(len(stack.subjects), 'subject')}; a test needs two or more"
            )
        return stack

    @property
    def name(self) -> str:
        return " − ".join(self.models)

    def scores(self, fisher_z: bool) -> tuple[MapSpace, Floats]:
        """Where scores lie, and those of all people, or their differences; NaN where there is none."""
        first = space_of(self.opened(self.subjects[0]))
        scores, notes = np.empty((len(self.subjects), *first.shape)), dict[str, list[str]]()
        for row, subject in enumerate(self.subjects):
            image = self.opened(subject)
            if note := first.check_same(space_of(image), (self.subjects[0], subject)):
                notes.setdefault(note, []).append(subject)
            maps = [_checked(first.read(image, place), subject, fisher_z) for place in self.places]
            scores[row] = maps[0] if len(maps) == 1 else maps[0] - maps[1]
        for note, people in notes.items():
            notify(f"{note} ({counted(len(people), 'subject')}: {listed(people)})")
        return first, scores


def _one_map(images: Mapping[str, Any], subject: str) -> MapImage:
    image, name = open_map(images[subject], f"map of {subject}")
    if (n_maps := count_maps(image)) != 1:
        raise NeurordlError(
            f"{name} has {n_maps} maps, shape {tuple(image.shape)}; expected one map of each subject, "
            "3D in a volume"
        )
    return image


def _checked(scores: Floats, subject: str, fisher_z: bool) -> Floats:
    """Scores of a person, or Fisher's z of them; NaN where they are not finite."""
    scores[~np.isfinite(scores)] = np.nan
    if not fisher_z:
        return scores
    beyond = np.abs(scores) >= 1
    if beyond.any():
        raise NeurordlError(
            f"{counted(int(beyond.sum()), 'score')} of {subject} are 1 or beyond, such as "
            f"{scores[beyond][0]:.6g}, where Fisher's z is infinite; test them without fisher_z"
        )
    return np.arctanh(scores)


def _models(known: tuple[str, ...], model: str | None, difference: tuple[str, str] | None) -> tuple[str, ...]:
    """The model that is tested, or the two whose difference is."""
    if difference is not None:
        if isinstance(difference, str) or len(difference) != 2 or len(set(difference)) < 2:
            raise NeurordlError(f"difference={difference!r}: expected two models, such as {known[:2]}")
        return tuple(check_choice("difference", name, known) for name in difference)
    if model is None:
        if len(known) > 1:
            raise NeurordlError(f"there are maps of {listed(known, most=20)}; choose one by model=")
        return known
    return (check_choice("model", model, known),)


def _chosen(
    scores: Floats, stack: _Stack, space: MapSpace, mask: AnyImage | Regions | None, test: MapTest
) -> tuple[Bools, dict[str, int], str]:
    """Which places are tested, the counts of those that some people lack, and the name of the mask."""
    n, known, nouns = len(scores), np.isfinite(scores), space.nouns
    n_known = known.sum(axis=0)
    region, name = n_known > 0, f"all {nouns} with scores"
    if mask is not None:
        opened = space.mask(mask)
        wanted, name = opened.inside, opened.name
        if empty := int((wanted & ~region).sum()):
            empty_places = counted(empty, space.noun)
            notify(f"{empty_places} of {int(wanted.sum()):,} in the mask have no score in anyone")
        region = region & wanted
    inside = region & (n_known >= test.coverage * n - 1e-9)
    left_out, filled = region & ~inside, inside & (n_known < n)
    n_zero = (scores == 0).sum(axis=0)
    zero = inside & (n_zero > 0) & (n_zero < n)
    if zero.any() and not stack.settings:  # maps of searchlights are NaN where there is no center
        notify(
            f"{int(zero.sum()):,} of {int(inside.sum()):,} {nouns} are exactly 0 in some people (at most "
            f"{int(n_zero[zero].max())} of {n}), and count as a score of 0; if it means no data, make it NaN"
        )
    extent = [int((person & region).sum()) for person in known]
    share = "all" if test.coverage == 1 else f"{test.coverage:.0%} of"
    if left_out.any():
        fewest = int(np.argmin(extent))
        notify(
            f"{int(left_out.sum()):,} of {int(region.sum()):,} {nouns} are left out, since not {share} "
            f"people have a score there ({stack.subjects[fewest]} has the fewest, {extent[fewest]:,}); "
            "a lower coverage keeps some"
        )
    if filled.any():
        most = int((n - n_known[filled]).max())
        notify(
            f"{int(filled.sum()):,} of {int(inside.sum()):,} {nouns} are kept that some people lack (at most "
            f"{most} of {n}): these count as 0 there"
        )
    if not inside.any():
        counts = f"{listed(f'{x:,}' for x in extent)} {nouns}{'' if mask is None else ' in the mask'}"
        raise NeurordlError(
            f"no {space.noun} has a score of {share} {n} people (they have {counts}); check that their "
            "images are in one space"
        )
    return inside, {"left_out": int(left_out.sum()), "kept_as_0": int(filled.sum())}, name
