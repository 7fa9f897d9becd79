"""Permutation tests of maps over people: nilearn's of voxels and vertices, MNE's of clusters of vertices."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from scipy import stats
from scipy.sparse import csr_array

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.rsa.time import clusters_by_mne, t_of_people, warn_of_few
from neurordl.validate import brief, check_choice, check_columns, check_count, check_number, counted, listed

Statistic = Literal["voxel", "size", "mass", "tfce"]

_OF_CLUSTERS = ("size", "mass")
_STEP = 0.1  # of t between the thresholds of TFCE on a surface, as in its paper


@dataclass(frozen=True)
class MapTest:
    """A test of maps over people, with p-values that are corrected for the number of voxels or vertices.

    The test is nilearn's ``permuted_ols``, and that of clusters on surfaces MNE's
    ``permutation_cluster_1samp_test``: the signs of people's maps are flipped at random (for a contrast of
    covariates, people are permuted), and each statistic is compared with the largest of the whole map, of
    both hemispheres together, that arises so. The p-values hold for all voxels or vertices together
    (family-wise error, FWE), and generalize to new people.

    Parameters
    ----------
    statistic
        What is compared with its largest value. "voxel": the t value of each voxel or vertex. "size" and
        "mass": the number of voxels or vertices of a cluster, and in a volume the sum of what their t is
        above the threshold, on a surface the sum of their t; a cluster is tested as a whole, which says that
        there is an effect somewhere in it. "tfce": threshold-free cluster enhancement (Smith & Nichols 2009,
        NeuroImage 44:83), which takes some forty times as long. It is to be chosen before the results are
        seen.
    threshold
        For "size" and "mass": voxels whose p, not corrected, is below it form clusters by their faces, and
        vertices by the edges of the mesh. (A threshold above .001 makes clusters that say little about where
        an effect is; Woo et al. 2014, NeuroImage 91:412.)
    tail
        "greater": scores above 0. "two-sided": above or below.
    fisher_z
        Test Fisher's z of the scores, their inverse hyperbolic tangent, instead of the scores. It is for
        correlations.
    coverage
        Smallest share of the people who must have a score in a voxel or vertex. With 1.0, those that anyone
        lacks are left out; with less, people count as 0 where they have no score, which makes the test
        conservative.
    alpha
        The significance level, of table and figure.
    n_permutations
        Number of random permutations.
    seed
        Seed of the permutations.
    n_jobs
        Number of processes. nilearn's permutations, and with them the p-values, are others for each number.

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
        of_clusters = self.statistic in _OF_CLUSTERS  # nilearn's smallest p is 1 / n there, else 1 / (n + 1)
        if self.n_permutations + (not of_clusters) <= 1 / self.alpha:
            least = int(1 / self.alpha) + of_clusters
            raise NeurordlError(
                f"n_permutations={self.n_permutations}: no p can be below alpha={self.alpha:g}; take "
                f"{least} or more, better {100 * least:,}"
            )


_SUBJECT = ("subject", "participant_id")  # the column with the names of the subjects; BIDS has the second


class Design(NamedTuple):
    """What is tested over people, and what is controlled for."""

    tested: Floats  # (people, 1)
    nuisance: Floats | None  # (people, columns)
    names: list[str]
    contrast: str | None
    freedom: int

    @classmethod
    def of(
        cls, subjects: tuple[str, ...], table: pd.DataFrame | None, contrast: str | None, test: MapTest
    ) -> Design:
        """Match the rows of covariates with subjects, by name."""
        n = len(subjects)
        if table is None:
            if contrast is not None:
                raise NeurordlError(f"contrast={contrast!r} is a column of covariates=, which are not given")
            return cls(np.ones((n, 1)), None, [], None, n - 1)
        if test.coverage < 1:
            raise NeurordlError(
                "coverage below 1 counts people as 0, which biases effects of covariates; take 1"
            )
        values, names = _columns(table, subjects)
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
            return cls(np.ones((n, 1)), values - values.mean(axis=0), names, None, n - whole.shape[1])
        rest = [k for k, name in enumerate(names) if name != contrast]
        tested = values[:, [names.index(contrast)]]
        return cls(tested, values[:, rest] if rest else None, names, contrast, n - whole.shape[1])

    def limit(self, test: MapTest) -> float:
        """The t above which places form clusters."""
        p = test.threshold / (1 if test.tail == "greater" else 2)
        return float(stats.t.isf(p, self.freedom))


def _columns(table: pd.DataFrame, subjects: tuple[str, ...]) -> tuple[Floats, list[str]]:
    """Covariates of the subjects, (people, columns), and their names."""
    if not isinstance(table, pd.DataFrame) or not len(table.columns):
        raise NeurordlError("covariates= must be a DataFrame with a row for each subject")
    named = [name for name in _SUBJECT if name in table]
    table = table.set_index(named[0]) if named else table
    table = table.set_axis([str(name) for name in table.index])
    if repeated := table.index[table.index.duplicated()].tolist():
        raise NeurordlError(f"covariates= has several rows of {listed(repeated)}; give each subject one")
    if absent := [subject for subject in subjects if subject not in table.index]:
        raise NeurordlError(
            f"covariates= has no row of {listed(absent)}; its rows are {listed(table.index)} (subjects are "
            f"its index, or its column {' or '.join(_SUBJECT)})"
        )
    rows = table.loc[list(subjects)]
    numbers: Floats = rows.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        row, column = np.argwhere(~np.isfinite(numbers))[0]
        value = str(rows.iloc[row, column])
        raise NeurordlError(
            f"covariates=: {rows.columns[column]!r} of {subjects[row]} is {value!r}, no number; write groups "
            "as 0 and 1, and leave out other columns of text"
        )
    return numbers, [str(name) for name in table.columns]


class Tested(NamedTuple):
    """Statistics and p-values of all tested places by name, and what computed them."""

    maps: dict[str, Floats]
    by: str
    libraries: tuple[str, ...] = ()


def run_by_nilearn(test: MapTest, design: Design, values: Floats, masker: Any = None) -> Tested:
    """Test values (people, places) by nilearn; clusters need the masker of a volume."""
    from nilearn.mass_univariate import permuted_ols

    if design.contrast is None:
        warn_of_few(len(values), test.tail, test.alpha)
    with warnings.catch_warnings():  # of sizes of clusters, which nilearn has as 64-bit integers
        warnings.filterwarnings("ignore", "Data array used to create a new image contains 64-bit ints")
        computed = permuted_ols(
            design.tested,
            values,
            confounding_vars=design.nuisance,
            n_perm=test.n_permutations,
            two_sided_test=test.tail == "two-sided",
            random_state=test.seed,
            n_jobs=test.n_jobs,
            masker=masker,
            tfce=test.statistic == "tfce",
            threshold=test.threshold if test.statistic in _OF_CLUSTERS else None,
            output_type="dict",
        )
    maps = {"t": computed["t"][0], "p_voxel": 10.0 ** -computed["logp_max_t"][0]}
    for name in ("size", "mass", "tfce"):
        if name in computed:
            maps |= {name: computed[name][0], f"p_{name}": 10.0 ** -computed[f"logp_max_{name}"][0]}
    return Tested(maps, f"{counted(test.n_permutations, 'permutation')} of nilearn, seed {test.seed}")


def run_on_mesh(test: MapTest, design: Design, values: Floats, neighbors: csr_array) -> Tested:
    """Test values (people, vertices): vertices by nilearn, and clusters and TFCE by MNE.

    Parameters
    ----------
    neighbors
        (vertices, vertices), which of them share an edge.
    """
    if test.statistic == "voxel":
        return run_by_nilearn(test, design, values)
    groups, enhanced = _groups(design, values), test.statistic == "tfce"
    options: dict[str, object] = {}
    if isinstance(groups, list):
        t = _t_of_groups(*groups)
        options = {"stat_fun": _t_of_groups, "buffer_size": None}
    else:
        warn_of_few(len(values), "two-sided", test.alpha)  # MNE has the unflipped signs twice
        t = t_of_people(values)
    tested = clusters_by_mne(
        groups,
        threshold={"start": 0, "step": _STEP} if enhanced else design.limit(test),
        tail=1 if test.tail == "greater" else 0,
        n_permutations=test.n_permutations + 1,  # the unflipped signs are one of them
        adjacency=neighbors,
        t_power=0 if test.statistic == "size" else 1,
        n_jobs=test.n_jobs,
        rng=test.seed,
        **options,
    )
    statistic, p = np.zeros(len(t)), np.ones(len(t))
    for (places,), total, p_value in zip(tested.places, tested.sums, tested.p, strict=True):
        statistic[places], p[places] = total, p_value
    maps = {"t": t, test.statistic: tested.t if enhanced else statistic, f"p_{test.statistic}": p}
    return Tested(maps, f"{_flips(test, groups)} of MNE, seed {test.seed}", ("mne",))


def _groups(design: Design, values: Floats) -> Floats | list[Floats]:
    """Values of all people, or those of the second and the first group of a contrast of two."""
    if not design.names:
        return values
    levels = np.unique(design.tested)
    if design.contrast is None or design.nuisance is not None or len(levels) != 2:
        raise NeurordlError(
            "clusters and TFCE on a surface are tested by MNE, which controls for no covariates; test each "
            "vertex (MapTest('voxel')), or a contrast of two groups without other columns"
        )
    return [values[design.tested[:, 0] == level] for level in levels[::-1]]


def _t_of_groups(second: Floats, first: Floats) -> Floats:
    """The t values of the difference of two groups, with their common variance."""
    t: Floats = stats.ttest_ind(second, first).statistic
    return t


def _flips(test: MapTest, groups: Floats | list[Floats]) -> str:
    """How many permutations there were: MNE takes all sign flips if they are fewer."""
    if isinstance(groups, list):
        return counted(test.n_permutations, "permutation")
    n_flips = 2 ** (len(groups) - (test.tail == "two-sided"))
    if n_flips - 1 < test.n_permutations + 1:
        return f"all {n_flips:,} sign flips"
    return counted(test.n_permutations, "sign flip")
