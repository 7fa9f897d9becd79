"""The second level: searchlight maps tested over people, by nilearn's permutation tests."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import pandas as pd
from scipy import stats

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.io import make_folder, versions, write_folder
from neurordl.patterns.images import describe_grid, load_image, read_mask, same_grid
from neurordl.rsa.maps import SearchlightMaps, load_maps
from neurordl.rsa.scores import p_text
from neurordl.rsa.time import warn_of_few
from neurordl.validate import (
    brief,
    check_choice,
    check_columns,
    check_count,
    check_number,
    check_path,
    counted,
    folded_html,
    listed,
)

if TYPE_CHECKING:
    import nibabel as nib

    from neurordl.patterns.images import Regions
    from neurordl.rsa.maps import Volume

Maps: TypeAlias = "SearchlightMaps | str | os.PathLike[str] | Mapping[str, Volume]"
"""Maps of `group_searchlight`, their folder, or a 3D image of each subject."""
Statistic = Literal["voxel", "size", "mass", "tfce"]

_FULL = {"voxel": "voxel level", "size": "cluster size", "mass": "cluster mass", "tfce": "TFCE"}


@dataclass(frozen=True)
class MapTest:
    """A test of maps over people, with p-values that are corrected for the number of voxels.

    The test is nilearn's ``permuted_ols``: the signs of people's maps are flipped at random (for a contrast
    of covariates, people are permuted), and each statistic is compared with the largest of the whole map that
    arises so. The p-values hold for all voxels together (family-wise error, FWE), and generalize to new
    people.

    Parameters
    ----------
    statistic
        What is compared with its largest value. "voxel": the t value of each voxel. "size" and "mass": the
        number of voxels of a cluster, and the sum of what their t is above the threshold; a cluster is tested
        as a whole, which says that there is an effect somewhere in it. "tfce": threshold-free cluster
        enhancement (Smith & Nichols 2009, NeuroImage 44:83), which takes some forty times as long. It is to
        be chosen before the results are seen.
    threshold
        For "size" and "mass": voxels whose p, not corrected, is below it form clusters by their faces. (A
        threshold above .001 makes clusters that say little about where an effect is; Woo et al. 2014,
        NeuroImage 91:412.)
    tail
        "greater": scores above 0. "two-sided": above or below.
    fisher_z
        Test Fisher's z of the scores, their inverse hyperbolic tangent, instead of the scores. It is for
        correlations.
    coverage
        Smallest share of the people who must have a score in a voxel. With 1.0, voxels that anyone lacks are
        left out; with less, people count as 0 in a voxel that they lack, which makes the test conservative.
    alpha
        The significance level, of table and figure.
    n_permutations
        Number of random permutations.
    seed
        Seed of the permutations.
    n_jobs
        Number of processes. The permutations, and with them the p-values, are others for each number.

    Raises
    ------
    NeurordlError
        A value is out of its range, or there are too few permutations for a p below ``alpha``.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.MapTest("tfce", n_permutations=1000).tail
    'greater'
    """

    statistic: Statistic = "voxel"
    threshold: float = 0.001
    tail: Literal["greater", "two-sided"] = "greater"
    fisher_z: bool = False
    coverage: float = 1.0
    alpha: float = 0.05
    n_permutations: int = 10_000
    seed: int = 0
    n_jobs: int = 1

    __repr__ = brief

    def __post_init__(self) -> None:
        check_choice("statistic", self.statistic, get_args(Statistic))
        check_number("threshold", self.threshold, 0, 0.5, open_low=True, open_high=True)
        check_choice("tail", self.tail, ("greater", "two-sided"))
        check_choice("fisher_z", self.fisher_z, (True, False))
        check_number("coverage", self.coverage, 0, 1, open_low=True)
        check_number("alpha", self.alpha, 0, 1, open_low=True, open_high=True)
        check_count("n_permutations", self.n_permutations, 1)
        check_count("seed", self.seed, 0)
        check_count("n_jobs", self.n_jobs, 1)
        of_clusters = self.statistic in (
            "size",
            "mass",
        )  # nilearn's smallest p is 1 / n there, else 1 / (n + 1)
        if self.n_permutations + (not of_clusters) <= 1 / self.alpha:
            least = int(1 / self.alpha) + of_clusters
            raise NeurordlError(
                f"n_permutations={self.n_permutations}: no p can be below alpha={self.alpha:g}; take "
                f"{least} or more, better {100 * least:,}"
            )

    def run(self, tested: Floats, values: Floats, nuisance: Floats | None, masker: Any) -> dict[str, Floats]:
        """The statistics and p-values of each voxel, for values (people, voxels), by nilearn."""
        from nilearn.mass_univariate import permuted_ols

        with warnings.catch_warnings():  # of sizes of clusters, which nilearn has as 64-bit integers
            warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit ints")
            computed = permuted_ols(
                tested,
                values,
                confounding_vars=nuisance,
                n_perm=self.n_permutations,
                two_sided_test=self.tail == "two-sided",
                random_state=self.seed,
                n_jobs=self.n_jobs,
                masker=masker,
                tfce=self.statistic == "tfce",
                threshold=self.threshold if self.statistic in ("size", "mass") else None,
                output_type="dict",
            )
        maps = {"t": computed["t"][0], "p_voxel": 10.0 ** -computed["logp_max_t"][0]}
        for name in ("size", "mass", "tfce"):
            if name in computed:
                maps |= {name: computed[name][0], f"p_{name}": 10.0 ** -computed[f"logp_max_{name}"][0]}
        return maps


@dataclass(frozen=True, eq=False)
class SecondLevel:
    """Maps of a group, tested over people.

    Attributes
    ----------
    name
        What was tested: the model, the difference of two, or the covariate.
    values
        Maps of the tested voxels by name: "mean" (the mean score, or its Fisher z), "t", "p_voxel", and with
        clusters "size" (voxels), "p_size", "mass" and "p_mass", or "tfce" and "p_tfce". P-values are
        corrected for all voxels (FWE).
    inside
        (x, y, z), which voxels were tested.
    affine
        (4, 4) from voxel indices to mm.
    test
        The test.
    settings
        Subjects, models, smoothing, mask, covariates, degrees of freedom, counts of voxels, versions.

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
    affine: Floats
    test: MapTest
    settings: Mapping[str, Any]

    @property
    def p(self) -> Floats:
        """Corrected p-values of the test's statistic, (voxels,)."""
        return self.values[f"p_{self.test.statistic}"]

    def threshold(self, alpha: float | None = None) -> str:
        """Return in words what is significant, of the test's level or another one."""
        test, limit = self.test, f"FWE-corrected p < {self._alpha(alpha):g}, {_FULL[self.test.statistic]}"
        if test.statistic in ("size", "mass"):
            limit += f" (clusters of p < {test.threshold:g}, t > {self.settings['t_threshold']:.2f})"
        return limit

    def image(self, name: str = "t") -> nib.Nifti1Image:
        """Return one of the maps, 3D, NaN where nothing was tested.

        Raises
        ------
        NeurordlError
            There is no such map.
        """
        import nibabel as nib

        check_choice("name", name, list(self.values))
        return nib.Nifti1Image(self._volume(self.values[name], np.nan).astype(np.float32), self.affine)

    def thresholded(self, alpha: float | None = None) -> nib.Nifti1Image:
        """Return the t map where it is significant, and 0 elsewhere."""
        import nibabel as nib

        t = np.where(self.p < self._alpha(alpha), self.values["t"], 0)
        return nib.Nifti1Image(self._volume(t, 0), self.affine)

    def table(
        self,
        alpha: float | None = None,
        *,
        min_distance: float = 8.0,
        regions: Volume | Regions | None = None,
    ) -> pd.DataFrame:
        """Return the peaks of the significant clusters, by nilearn's ``get_clusters_table``.

        Parameters
        ----------
        alpha
            The significance level; by default that of the test.
        min_distance
            Smallest distance between peaks of a cluster, in mm.
        regions
            An atlas with names, for the region of each peak.

        Returns
        -------
        DataFrame
            A row for each peak, the highest of a cluster first, at most four of a cluster: ``cluster``,
            ``peak`` (1, 1a, 1b), ``x``, ``y``, ``z`` (mm), ``t``, ``mean``, the p-values, ``mm3`` and
            ``n_voxels`` of the cluster, and ``region``. Clusters are joined by their faces.

        Raises
        ------
        NeurordlError
            A number is out of its range, or as `Regions`.
        """
        import nibabel as nib
        from nilearn.reporting import get_clusters_table

        check_number("min_distance", min_distance, 0, open_low=True)
        shown = _with_margin(self.thresholded(alpha))
        t = np.abs(shown.get_fdata())
        p_values = [name for name in self.values if name.startswith("p_")]
        columns = ["cluster", "peak", "x", "y", "z", "t", "mean", *p_values, "mm3", "n_voxels"]
        columns += ["region"] if regions is not None else []
        if not t.any():
            return pd.DataFrame(columns=columns)
        with warnings.catch_warnings():  # a tail without clusters
            warnings.filterwarnings("ignore", "No clusters found|Attention: No clusters")
            peaks, labels = get_clusters_table(
                shown,
                stat_threshold=float(t[t > 0].min()) / 2,  # all that is not 0
                two_sided=self.test.tail == "two-sided",
                min_distance=min_distance,
                return_label_maps=True,
            )
        names = peaks["Cluster ID"].astype(str)
        places = peaks[["X", "Y", "Z"]].to_numpy(float)
        voxels = nib.affines.apply_affine(np.linalg.inv(self.affine), places).round().astype(int)
        number, letter = names.str.extract(r"(\d+)(.*)").to_numpy().T
        number = pd.factorize(number)[0] + 1  # nilearn leaves numbers out between the two tails
        table = pd.DataFrame({"cluster": number, "peak": number.astype(str).astype(object) + letter})
        table[["x", "y", "z"]] = places.round(3)
        for name in ("t", "mean", *p_values):
            table[name] = self._volume(self.values[name], np.nan)[tuple(voxels.T)]
        clusters = [np.asarray(image.dataobj) for image in labels]
        sizes = [
            int(np.sum(x == x[tuple(voxel + 1)]))
            for voxel in voxels
            for x in clusters
            if x[tuple(voxel + 1)] > 0
        ]
        table["mm3"] = np.round(np.array(sizes) * abs(np.linalg.det(self.affine[:3, :3])), 3)
        table["n_voxels"] = sizes
        if regions is not None:
            atlas = read_mask(regions, self.thresholded(alpha))
            named = np.full(self.inside.shape, "", dtype=object)
            named[atlas.inside] = atlas.roi if atlas.roi is not None else atlas.name
            table["region"] = named[tuple(voxels.T)]
        return table[columns]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write all maps as NIfTI, the table of peaks as CSV and the settings as JSON.

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
            f"{name}.nii.gz": gzip.compress(self.image(name).to_bytes(), mtime=0) for name in self.values
        }
        contents["peaks.csv"] = self.table().to_csv(index=False).encode()
        record = {"tested": self.name, **self.settings, "test": asdict(self.test), "shown": self.threshold()}
        contents["settings.json"] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
        make_folder(path.parent)
        write_folder(path, contents, (".gz", ".csv", ".json"))

    def _alpha(self, alpha: float | None) -> float:
        if alpha is None:
            return self.test.alpha
        return check_number("alpha", alpha, 0, 1, open_low=True)

    def _volume(self, values: Floats, background: float) -> Floats:
        volume = np.full(self.inside.shape, background, dtype=np.float64)
        volume[self.inside] = values
        return volume

    def _cells(self) -> list[tuple[str, str]]:
        """What was tested on whom, by what, and what came out."""
        test, settings, p = self.test, self.settings, self.p
        significant, t = p < test.alpha, self.values["t"]
        best = int(np.argmin(p - 1e-9 * (np.abs(t) if test.tail == "two-sided" else t)))  # ties by t
        place = np.argwhere(self.inside)[best]
        x, y, z = self.affine[:3, :3] @ place + self.affine[:3, 3]
        smoothing = f", smoothed by {settings['fwhm']:g} mm" if settings["fwhm"] else ""
        scale = "Fisher's z of the scores" if test.fisher_z else "scores without Fisher's z"
        beyond = f", with {listed(settings['covariates'])}" if settings["covariates"] else ""
        tail = ", two-sided" if test.tail == "two-sided" else " above 0, one-sided"
        n_clusters = self.table()["cluster"].nunique()
        result = f"{counted(int(significant.sum()), 'voxel')} in {counted(n_clusters, 'cluster')}"
        return [
            (
                "second level",
                f"{self.name}{tail}{beyond}",
            ),
            ("people", f"{counted(len(settings['subjects']), 'subject')}: {listed(settings['subjects'])}"),
            ("tested", f"{counted(int(self.inside.sum()), 'voxel')}; {scale}{smoothing}"),
            ("by", f"{counted(test.n_permutations, 'permutation')} of nilearn, seed {test.seed}"),
            ("threshold", self.threshold()),
            ("significant", result),
            ("smallest p", f"{p_text(p[best])}, t = {t[best]:.2f} at {x:.0f}, {y:.0f}, {z:.0f} mm"),
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
    mask: Volume | Regions | None = None,
    fwhm: float | None = None,
    covariates: pd.DataFrame | None = None,
    contrast: str | None = None,
) -> SecondLevel:
    """Test searchlight maps over people, by nilearn's permutation tests.

    Parameters
    ----------
    maps
        Maps of `group_searchlight`, or their folder; or a mapping from subject to a 3D image of any software,
        which is NaN where a person has no score: 0 is a score.
    model
        The model, if there are several.
    difference
        Two models: their difference is tested in each person (a paired test), two-sided unless ``test`` is
        given.
    test
        The test; by default ``MapTest()``, which is one-sided: scores above 0. The name of a statistic, such
        as "size", stands for a test by it.
    mask
        A mask or `Regions`: only voxels in it are tested and corrected for.
    fwhm
        Full width at half maximum, in mm, of the kernel by which nilearn smooths the maps. Scores that are
        missing, such as outside of the brain, count as 0 there, so that values at the edge become smaller.
    covariates
        A row for each subject, with the subjects as index or in the column ``subject``, and columns of
        numbers, such as age, or 0 and 1 for two groups. They are controlled for: the mean is that at their
        means.
    contrast
        A column of ``covariates`` whose effect is tested instead of the mean, two-sided unless ``test`` is
        given. The other columns are controlled for. Of a column of 0 and 1, it is the difference of two
        groups.

    Returns
    -------
    SecondLevel
        Maps of t and corrected p, a table of peaks, and what `plot_map` draws.

    Warns
    -----
    UserWarning
        Voxels are left out or kept that some people lack, with their count; images have 0 where others have
        scores, which may mean that there are no data; scores are the same in all people
        in some voxels, which are left out; or there are so few people that nothing can be significant.

    Raises
    ------
    NeurordlError
        Images of two people are on different grids; no voxel is left; the model, a subject or a column is
        unknown; there are too few people; or Fisher's z is asked for of scores that are no correlations.

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
    design = _Design.of(stack.subjects, covariates, contrast, test)
    volumes = stack.scores(test.fisher_z)
    inside, counts, mask_name = _chosen(volumes, stack, mask, test)
    masker, values = _masked(volumes, inside, stack.affine, fwhm)
    varied = np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0)
    if not varied.all():
        notify(
            f"{counted(int((~varied).sum()), 'voxel')} with the same score in all people "
            f"{'is' if (~varied).sum() == 1 else 'are'} left out"
        )
        if not varied.any():
            raise NeurordlError("all people have the same score in each voxel; give maps of different people")
        inside[inside] = varied
        masker, values = _masked(volumes, inside, stack.affine, fwhm)
    computed = test.run(design.tested, values, design.nuisance, masker)
    p_of = test.threshold / (1 if test.tail == "greater" else 2)
    settings = {
        "subjects": list(stack.subjects),
        "models": list(stack.models),
        "maps": dict(stack.settings),
        "fwhm": fwhm,
        "mask": mask_name,
        **counts,
        "n_voxels": int(inside.sum()),
        "covariates": design.names,
        "contrast": contrast,
        "degrees_of_freedom": design.freedom,
        "t_threshold": float(stats.t.isf(p_of, design.freedom)),
        "versions": versions() | {"nilearn": _nilearn()},
    }
    name = stack.name if contrast is None else f"{contrast} on {stack.name}"
    parts = {"mean": values.mean(axis=0), **computed}
    return SecondLevel(name, parts, inside, stack.affine, test, settings)


def _nilearn() -> str:
    from importlib.metadata import version

    return version("nilearn")


class _Stack(NamedTuple):
    """Images of all people on one grid, and which of their maps are tested."""

    images: dict[str, nib.Nifti1Image]
    models: tuple[str, ...]
    places: tuple[int, ...]
    settings: Mapping[str, object]

    @classmethod
    def of(cls, maps: Maps, model: str | None, difference: tuple[str, str] | None) -> _Stack:
        """Open the images; nothing is read."""
        images: dict[str, nib.Nifti1Image] = {}
        models: tuple[str, ...] = ("scores",)
        places: tuple[int, ...] = ()
        settings: Mapping[str, object] = {}
        if isinstance(maps, Mapping):
            if model is not None or difference is not None:
                raise NeurordlError(
                    "these are images without names of models; leave out model= and difference="
                )
            for subject, image in maps.items():
                opened, name = load_image(image, f"map of {subject}")
                if opened.ndim == 4 and opened.shape[3] == 1:
                    opened = opened.slicer[..., 0]
                if opened.ndim != 3:
                    raise NeurordlError(
                        f"{name} has shape {opened.shape}; expected one 3D map of each subject"
                    )
                images[str(subject)] = opened
        else:
            if not isinstance(maps, SearchlightMaps | str | os.PathLike):
                expected = "maps of group_searchlight, their folder, or a mapping from subject to image"
                raise NeurordlError(f"maps: expected {expected}, got {type(maps).__name__}")
            maps = maps if isinstance(maps, SearchlightMaps) else load_maps(maps)
            models = _models(maps.models, model, difference)
            places = tuple(maps.models.index(name) for name in models)
            images = {subject: maps.image(subject) for subject in maps.subjects}
            settings = maps.settings
        if len(images) < 2:
            raise NeurordlError(
                f"there are maps of {counted(len(images), 'subject')}; a test needs two or more"
            )
        (first, grid), *further = images.items()
        for subject, image in further:
            if not same_grid(image, grid):
                grids = f"{first} has {describe_grid(grid)}, {subject} {describe_grid(image)}"
                raise NeurordlError(
                    f"the maps of {first} and {subject} are on different grids: {grids}; read the patterns "
                    "of all people in one space, such as MNI, or resample maps (nilearn's resample_to_img)"
                )
        return cls(images, models, places, settings)

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(self.images)

    @property
    def name(self) -> str:
        return " − ".join(self.models)

    @property
    def affine(self) -> Floats:
        return np.asarray(next(iter(self.images.values())).affine, dtype=np.float64)

    def scores(self, fisher_z: bool) -> Floats:
        """Scores of all people, (people, x, y, z), or their differences; NaN where there is none."""
        return np.stack([self._of_person(subject, fisher_z) for subject in self.subjects])

    def _of_person(self, subject: str, fisher_z: bool) -> Floats:
        data = self.images[subject].dataobj
        volumes = [
            np.asarray(data[..., place] if self.places else data, float) for place in self.places or (0,)
        ]
        for k, volume in enumerate(volumes):
            volume[~np.isfinite(volume)] = np.nan
            if fisher_z:
                beyond = np.abs(volume) >= 1
                if beyond.any():
                    raise NeurordlError(
                        f"{counted(int(beyond.sum()), 'score')} of {subject} are 1 or beyond, such as "
                        f"{volume[beyond][0]:.6g}, where Fisher's z is infinite; test them without fisher_z"
                    )
                volumes[k] = np.arctanh(volume)
        return volumes[0] if len(volumes) == 1 else volumes[0] - volumes[1]


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


class _Design(NamedTuple):
    """What is tested over people, and what is controlled for."""

    tested: Floats  # (people, 1)
    nuisance: Floats | None  # (people, columns)
    names: list[str]
    freedom: int

    @classmethod
    def of(
        cls, subjects: tuple[str, ...], table: pd.DataFrame | None, contrast: str | None, test: MapTest
    ) -> _Design:
        """Match the rows of covariates with subjects, by name."""
        n = len(subjects)
        if table is None:
            if contrast is not None:
                raise NeurordlError(f"contrast={contrast!r} is a column of covariates=, which are not given")
            warn_of_few(n, test.tail, test.alpha)
            return cls(np.ones((n, 1)), None, [], n - 1)
        if test.coverage < 1:
            raise NeurordlError(
                "coverage below 1 counts people as 0, which biases effects of covariates; take 1"
            )
        values, names = _columns(table, subjects), [str(name) for name in table.columns if name != "subject"]
        if contrast is not None:
            check_columns("covariates=", names, [contrast])
        whole = np.column_stack([np.ones(n), values])
        if np.linalg.matrix_rank(whole) < whole.shape[1]:
            raise NeurordlError(
                f"the covariates {listed(names)} are constant, or one is a sum of others; leave such columns "
                "out"
            )
        if n <= whole.shape[1]:
            raise NeurordlError(f"{n} people are too few for {counted(len(names), 'covariate')}")
        if contrast is None:
            return cls(np.ones((n, 1)), values - values.mean(axis=0), names, n - whole.shape[1])
        rest = [k for k, name in enumerate(names) if name != contrast]
        tested = values[:, [names.index(contrast)]]
        return cls(tested, values[:, rest] if rest else None, names, n - whole.shape[1])


def _columns(table: pd.DataFrame, subjects: tuple[str, ...]) -> Floats:
    """Covariates of the subjects, (people, columns)."""
    if not isinstance(table, pd.DataFrame) or not len(table.columns):
        raise NeurordlError("covariates= must be a DataFrame with a row for each subject")
    table = table.set_index("subject") if "subject" in table else table
    table = table.set_axis([str(name) for name in table.index])
    if repeated := table.index[table.index.duplicated()].tolist():
        raise NeurordlError(f"covariates= has several rows of {listed(repeated)}; give each subject one")
    if absent := [subject for subject in subjects if subject not in table.index]:
        raise NeurordlError(f"covariates= has no row of {listed(absent)}; its rows are {listed(table.index)}")
    rows = table.loc[list(subjects)]
    numbers: Floats = rows.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        row, column = np.argwhere(~np.isfinite(numbers))[0]
        raise NeurordlError(
            f"covariates=: {rows.columns[column]!r} of {subjects[row]} is {rows.iloc[row, column]!r}, no "
            "number; write groups as 0 and 1"
        )
    return numbers


def _chosen(
    volumes: Floats, stack: _Stack, mask: Volume | Regions | None, test: MapTest
) -> tuple[Bools, dict[str, int], str]:
    """Which voxels are tested, the counts of those that some people lack, and the name of the mask."""
    import nibabel as nib

    n, known = len(volumes), np.isfinite(volumes)
    n_known = known.sum(axis=0)
    region, name = n_known > 0, "all voxels with scores"
    if mask is not None:
        grid = nib.Nifti1Image(np.broadcast_to(np.int8(0), region.shape), stack.affine)
        opened = read_mask(mask, grid)
        wanted, name = opened.inside, opened.name
        if empty := int((wanted & ~region).sum()):
            notify(f"{counted(empty, 'voxel')} of {int(wanted.sum()):,} in the mask have no score in anyone")
        region = region & wanted
    inside = region & (n_known >= test.coverage * n - 1e-9)
    left_out, filled = region & ~inside, inside & (n_known < n)
    n_zero = (volumes == 0).sum(axis=0)
    zero = inside & (n_zero > 0) & (n_zero < n)
    if zero.any() and not stack.places:  # maps of searchlights are NaN where there is no center
        notify(
            f"{int(zero.sum()):,} of {int(inside.sum()):,} voxels are exactly 0 in some people (at most "
            f"{int(n_zero[zero].max())} of {n}), and count as a score of 0; if it means no data, make it NaN"
        )
    if left_out.any():
        extent = [int((known[k] & region).sum()) for k in range(n)]
        fewest = int(np.argmin(extent))
        notify(
            f"{int(left_out.sum()):,} of {int(region.sum()):,} voxels are left out, since not "
            f"{'all' if test.coverage == 1 else f'{test.coverage:.0%} of'} people have a score there "
            f"({stack.subjects[fewest]} has the fewest, {extent[fewest]:,}); a lower coverage keeps some"
        )
    if filled.any():
        most = int((n - n_known[filled]).max())
        notify(
            f"{int(filled.sum()):,} of {int(inside.sum()):,} voxels are kept that some people lack (at most "
            f"{most} of {n}): these count as 0 there"
        )
    if not inside.any():
        extent = [int((known[k] & region).sum()) for k in range(n)]
        share = "all" if test.coverage == 1 else f"{test.coverage:.0%} of"
        counts = f"{listed(f'{x:,}' for x in extent)} voxels{'' if mask is None else ' in the mask'}"
        raise NeurordlError(
            f"no voxel has a score of {share} {n} people (they have {counts}); check that their images are "
            "in one space"
        )
    return inside, {"left_out": int(left_out.sum()), "kept_as_0": int(filled.sum())}, name


def _with_margin(image: nib.Nifti1Image) -> nib.Nifti1Image:
    """The image with zeros around it: nilearn takes the lowest label of clusters for the background."""
    affine = np.array(image.affine)
    affine[:3, 3] -= affine[:3, :3].sum(axis=1)
    return type(image)(np.pad(np.asarray(image.dataobj), 1), affine)


def _masked(volumes: Floats, inside: Bools, affine: Floats, fwhm: float | None) -> tuple[Any, Floats]:
    """Masker of nilearn of the tested voxels, and the values of all people in them, smoothed."""
    import nibabel as nib
    from nilearn.image import smooth_img
    from nilearn.maskers import NiftiMasker

    mask = _with_margin(nib.Nifti1Image(inside.astype(np.int8), affine))
    masker = NiftiMasker(mask_img=mask, reports=False).fit()
    if not fwhm:
        return masker, np.nan_to_num(volumes[:, inside])
    images = (nib.Nifti1Image(np.nan_to_num(volume), affine) for volume in volumes)
    return masker, np.stack([smooth_img(image, fwhm).get_fdata()[inside] for image in images])
