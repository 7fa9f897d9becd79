"""Scores over time: clusters of times at which they are above zero, onsets and peaks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage, stats

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError, notify
from neurordl.ids import natural_key
from neurordl.rsa.inference.infer import correct
from neurordl.rsa.scores import Evaluation, time_axes
from neurordl.validate import check_choice, check_count, check_number, counted, listed

Course: TypeAlias = tuple[str, str, list[Floats], Floats]
"""Layer, ROI, the times of each axis, and scores (subjects, times) or (subjects, model times, times)."""

MINUS = " − "
"""Between the two layers of a difference."""
_LIMITS = (0.025, 0.975)
_ROUNDING = 1e-10  # of a sum
_HIGHEST = 100.0  # t in TFCE


@dataclass(frozen=True)
class ClusterTest:
    """A cluster test of courses of scores against zero, by flipping the signs of subjects.

    The test is MNE's ``permutation_cluster_1samp_test`` (Maris & Oostenveld 2007, J. Neurosci. Methods
    164:177): times next to each other at which t is above a threshold are a cluster, and the sum of their t
    values is compared with the largest sum that arises if each subject's scores keep or change their signs at
    random. Its p-values hold for all times together, and generalize to new subjects.

    Parameters
    ----------
    threshold
        The t value from which on a time belongs to a cluster; by default that of p = .05 of one time. "tfce"
        takes no threshold but threshold-free cluster enhancement (Smith & Nichols 2009, NeuroImage 44:83),
        whose p-values are of single times.
    tail
        "greater": scores above zero. "two-sided": above or below.
    n_permutations
        Number of sign flips; all of them if there are fewer.
    alpha
        The significance level, for onsets.
    seed
        Seed of the sign flips.

    Raises
    ------
    NeurordlError
        A value is out of its range.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.ClusterTest(threshold="tfce", seed=1).tail
    'greater'
    """

    threshold: float | Literal["tfce"] | None = None
    tail: Literal["greater", "two-sided"] = "greater"
    n_permutations: int = 1000
    alpha: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.threshold is not None and self.threshold != "tfce":
            check_number("threshold", self.threshold, 0, open_low=True, remedy='it is a t value, or "tfce"')
        check_choice("tail", self.tail, ("greater", "two-sided"))
        check_count("n_permutations", self.n_permutations, 2)
        check_number("alpha", self.alpha, 0, 1, open_low=True, open_high=True)
        check_count("seed", self.seed, 0)

    def limit(self, n_subjects: int) -> float:
        """The threshold of t for a number of subjects."""
        if isinstance(self.threshold, float | int):
            return float(self.threshold)
        return float(stats.t.isf(0.05 / (1 if self.tail == "greater" else 2), n_subjects - 1))

    def run(self, scores: Floats) -> tuple[list[Ints], Floats, Floats, Floats]:
        """Test scores (subjects, times): the times of each cluster, their p, t values, and the null sums.

        Of scores (subjects, model times, times), cells of this plane that share a side are neighbors, and the
        numbers of the cells and the t values are those of the flat plane.
        """
        tested = clusters_by_mne(
            scores,
            threshold={"start": 0, "step": 0.2} if self.threshold == "tfce" else self.limit(len(scores)),
            tail=1 if self.tail == "greater" else 0,
            n_permutations=self.n_permutations,
            rng=self.seed,
        )
        cells = [np.ravel_multi_index(places, scores.shape[1:]) for places in tested.places]
        return cells, tested.p, np.ravel(tested.t), tested.null


class Clusters(NamedTuple):
    """What MNE's test found: t or TFCE; places, sums and p of clusters; the largest sums of permutations."""

    t: Floats
    places: list[tuple[Ints, ...]]
    sums: Floats
    p: Floats
    null: Floats


def clusters_by_mne(scores: Floats | list[Floats], **options: Any) -> Clusters:
    """Test clusters by MNE: signs of people's scores are flipped, or people of two groups are permuted.

    p is MNE's, the share of permutations whose largest sum is not smaller, but that sums are equal up to
    rounding: the data are one of the permutations, whose t are added up in another order.

    Raises
    ------
    NeurordlError
        MNE is not installed.
    """
    try:
        from mne.stats import permutation_cluster_1samp_test, permutation_cluster_test
    except ImportError as error:
        raise NeurordlError("cluster tests are MNE's; install it: pip install 'neurordl[mne]'") from error
    function = permutation_cluster_test if isinstance(scores, list) else permutation_cluster_1samp_test
    if isinstance(options["threshold"], dict):
        options |= _bounded(scores, options.get("stat_fun", t_of_people))
    with warnings.catch_warnings():  # of its progress bar, which is not shown
        warnings.filterwarnings("ignore", "IProgress not found")
        t, places, _, null = function(scores, out_type="indices", verbose="ERROR", **options)
    null, power = np.sort(np.abs(null)), options.get("t_power", 1)
    sums = np.array([(np.abs(t[cluster]) ** power).sum() for cluster in places])
    n_smaller = np.searchsorted(null, sums * (1 - _ROUNDING))
    return Clusters(t, list(places), sums, (len(null) - n_smaller) / max(len(null), 1), null)


def t_of_people(scores: Floats) -> Floats:
    """The t values of the mean over people."""
    with warnings.catch_warnings(), np.errstate(divide="ignore"):  # of scores that are nearly equal
        warnings.simplefilter("ignore", RuntimeWarning)
        t: Floats = stats.ttest_1samp(scores, 0).statistic
    return t


def _bounded(scores: Floats | list[Floats], t_of: Callable[..., Floats]) -> dict[str, object]:
    """Options by which t in TFCE has a bound, if it can go beyond.

    Scores that are nearly equal in all people have a t of millions, and thresholds up to it would not end.
    """
    groups = scores if isinstance(scores, list) else [scores]
    t = t_of(*groups)
    if n_high := int((np.abs(t) > _HIGHEST).sum()):
        places = f"{n_high:,} of {t.size:,} places"
        notify(f"t is beyond {_HIGHEST:g} at {places}, and counts as {_HIGHEST:g} in TFCE")
    # of all sign flips, the one to equal signs has the highest t
    if not isinstance(scores, list) and not (t_of_people(np.abs(scores)) > _HIGHEST).any():
        return {}

    def bounded(*groups: Floats) -> Floats:
        return np.clip(np.nan_to_num(t_of(*groups)), -_HIGHEST, _HIGHEST)

    return {"stat_fun": bounded, "buffer_size": None}


def time_clusters(
    evaluation: Evaluation,
    test: ClusterTest | None = None,
    *,
    difference: tuple[str, str] | None = None,
) -> pd.DataFrame:
    """Clusters of times at which subjects' scores are above zero, of each layer in each ROI.

    Parameters
    ----------
    evaluation
        Result of `evaluate` of RDMs over time, or of `regress_rdms` by least squares. The subjects are those
        in its means. If the models are over time, too, clusters are of cells (model time × time).
    test
        The test; by default ``ClusterTest()``.
    difference
        Two layers: the test is then of their difference, and two-sided unless ``test`` is given.

    Returns
    -------
    DataFrame
        A row for each cluster, also of those that are not significant: ``layer``, ``roi``, ``start`` and
        ``stop`` (seconds, the first and last time), ``n_times``, ``statistic`` (the sum of t; with "tfce" the
        largest t), ``p`` over all times of this layer and ROI, ``p_holm``, which is corrected for the number
        of layers and ROIs, too, and ``n_subjects``. With "tfce", a row is a stretch of times with p below
        ``alpha``, and has its smallest p.

        Over model times and times, ``model_start`` and ``model_stop`` are the extent of the cluster over
        model times, ``n_times`` is the number of its cells, and ``inside`` an array (model times, times):
        which cells are in it. Over model times alone, ``start`` and ``stop`` are model times.

        A cluster is tested as a whole: the test says that scores are above zero somewhere in it, not that its
        first time is the onset (Sassenhagen & Draschkow 2019, Psychophysiology 56:e13335); see `latencies`.

    Raises
    ------
    NeurordlError
        The evaluation is not over time, is of shares of variance, has undefined scores or fewer than two
        subjects or times; a layer is unknown; or MNE is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng, ids, times = np.random.default_rng(0), list("abcdef"), np.arange(-5, 15) / 50
    >>> model = nrl.simulate.simulate_subjects(rng.normal(size=(6, 5)), ids, n_subjects=1)
    >>> noise = rng.normal(size=(8, 20, 15))  # of 8 subjects, 20 times and 15 pairs; the model begins at 0 s
    >>> measured = noise + 9 * (times >= 0)[:, None] * model.dissimilarities
    >>> people = nrl.rdms_over_time(measured, times, ids=ids, subjects=[f"s{k}" for k in range(8)])
    >>> scores = nrl.evaluate({"model": model}, people, comparison="corr")
    >>> clusters = nrl.time_clusters(scores, nrl.ClusterTest(seed=1))
    >>> clusters["start"].iloc[-1].item(), clusters["stop"].iloc[-1].item()
    (0.0, 0.28)
    """
    test = test or ClusterTest(tail="greater" if difference is None else "two-sided")
    courses = _courses(evaluation, difference)
    columns = ["layer", "roi", "start", "stop", "n_times", "statistic", "p", "n_subjects"]
    in_plane = courses[0][3].ndim == 3
    columns[2:2] = ["model_start", "model_stop"] if in_plane else []
    rows: list[list[object]] = []
    for n_subjects in sorted({len(scores) for *_, scores in courses}):
        warn_of_few(n_subjects, "two-sided", test.alpha, len(courses))  # MNE has the unflipped signs twice
    for layer, roi, axes, scores in courses:
        for cluster, p, statistic in _clusters(test, scores):
            places = np.unravel_index(cluster, scores.shape[1:])
            extents = [
                float(limit(times[place]))
                for times, place in zip(axes, places, strict=True)
                for limit in (np.min, np.max)
            ]
            rows.append([layer, roi, *extents, len(cluster), statistic, p, len(scores)])
            if in_plane:
                inside = np.zeros(scores.shape[1:], dtype=bool)
                inside[places] = True
                rows[-1].append(inside)
    table = pd.DataFrame(rows, columns=[*columns, *(["inside"] if in_plane else [])])
    table.insert(columns.index("p") + 1, "p_holm", _holm(table, len(courses)))
    table.attrs["test"] = asdict(test)
    return table


def latencies(
    evaluation: Evaluation,
    test: ClusterTest | None = None,
    *,
    n_bootstrap: int = 1000,
    within: tuple[float, float] | None = None,
) -> pd.DataFrame:
    """Onset and peak of the scores of each layer in each ROI, with 95 % intervals over subjects.

    The onset is the first time of the first significant cluster. In a bootstrap sample of the subjects, it is
    that of the largest cluster that shares times with the first one of the data, if its sum of t would be
    significant in the data: clusters elsewhere, which chance makes more often in samples with repeated
    subjects, are no onsets. An effect that rises slowly is found late, the later the fewer the subjects: an
    onset is when scores can be told from zero. The peak is the time of the highest mean.

    Parameters
    ----------
    evaluation, test
        As for `time_clusters`; the test has a threshold, not "tfce".
    n_bootstrap
        Number of bootstrap samples of the subjects.
    within
        First and last time, in seconds, between which the peak is searched; by default all times.

    Returns
    -------
    DataFrame
        A row for each layer and ROI: ``onset``, ``onset_low``, ``onset_high``, ``peak``, ``peak_low``,
        ``peak_high`` (seconds), ``share_with_onset`` (of the bootstrap samples) and ``n_subjects``. A sample
        without an onset counts as later than all times, so that ``onset_high`` is NaN if more than 2.5 % have
        none.

    Raises
    ------
    NeurordlError
        As `time_clusters`, or no time is within the given ones.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng, ids, times = np.random.default_rng(0), list("abcdef"), np.arange(-5, 15) / 50
    >>> model = nrl.simulate.simulate_subjects(rng.normal(size=(6, 5)), ids, n_subjects=1)
    >>> noise = rng.normal(size=(8, 20, 15))  # of 8 subjects, 20 times and 15 pairs; the model begins at 0 s
    >>> measured = noise + 9 * (times >= 0)[:, None] * model.dissimilarities
    >>> people = nrl.rdms_over_time(measured, times, ids=ids, subjects=[f"s{k}" for k in range(8)])
    >>> scores = nrl.evaluate({"model": model}, people, comparison="corr")
    >>> nrl.latencies(scores, within=(-0.1, 0.3))["onset"].item()
    0.0
    """
    test = test or ClusterTest()
    if test.threshold == "tfce":
        raise NeurordlError('an onset is that of a cluster: take a test with a threshold, not "tfce"')
    check_count("n_bootstrap", n_bootstrap, 2)
    rows = []
    courses = _courses(evaluation, None)
    if len(courses[0][2]) > 1:
        raise NeurordlError(
            "an onset is of one course, and these scores are over model times and times: evaluate the models "
            "at one time (select_rdms), or take time_clusters"
        )
    for layer, roi, (times,), scores in courses:
        inside = np.full(len(times), True)
        if within is not None:
            if within[1] < within[0]:
                raise NeurordlError(f"within={within}: the last time is before the first; exchange them")
            inside = (times >= within[0] - 1e-9) & (times <= within[1] + 1e-9)
        if not inside.any():
            extent = f"from {times[0]:g} to {times[-1]:g} s"
            raise NeurordlError(f"within={within}: no time of the scores, {extent}, is within it")
        rng, n = np.random.default_rng(test.seed), len(scores)
        counts = rng.multinomial(n, np.full(n, 1 / n), n_bootstrap)
        clusters, p, _, null = test.run(scores)
        critical = float(np.quantile(np.abs(null), 1 - test.alpha)) if clusters else np.inf  # none: no null
        significant = [cluster for cluster, value in zip(clusters, p, strict=True) if value < test.alpha]
        t, means = _drawn_t(scores, counts)
        first = min(significant, key=lambda cluster: int(cluster[0]), default=np.zeros(0, dtype=np.int64))
        onsets = np.array([_onset(row, times, first, test.limit(n), critical) for row in t])
        peaks = times[inside][means[:, inside].argmax(axis=1)]
        of_peak = np.quantile(peaks, _LIMITS, method="inverted_cdf")
        of_onset = np.quantile(onsets, _LIMITS, method="inverted_cdf") if significant else np.full(2, np.nan)
        of_onset = np.where(np.isfinite(of_onset), of_onset, np.nan)
        rows.append(
            {
                "layer": layer,
                "roi": roi,
                "onset": float(times[first[0]]) if significant else np.nan,
                "onset_low": of_onset[0],
                "onset_high": of_onset[1],
                "peak": float(times[inside][scores.mean(axis=0)[inside].argmax()]),
                "peak_low": of_peak[0],
                "peak_high": of_peak[1],
                "share_with_onset": float(np.isfinite(onsets).mean()),
                "n_subjects": n,
            }
        )
    table = pd.DataFrame(rows)
    table.attrs |= {"test": asdict(test), "n_bootstrap": n_bootstrap}
    return table


def _courses(evaluation: Evaluation, difference: tuple[str, str] | None) -> list[Course]:
    """Scores of the subjects in the means: each layer in each ROI, or the difference of two layers."""
    axes = time_axes(evaluation.frame) if isinstance(evaluation, Evaluation) else []
    if not axes:
        problem = "the scores are not over time: give an Evaluation of RDMs with the RDM descriptor 'time'"
        raise NeurordlError(problem)
    if "test" in evaluation.settings:
        raise NeurordlError(
            "shares of variance are squares, whose signs cannot be flipped: for what a model adds to others, "
            "take regress_rdms, or evaluate with comparison=Partial(...)"
        )
    frame, untested = evaluation.frame, evaluation.settings.get("untested", ())
    layers = [layer for layer in dict.fromkeys(frame["layer"]) if layer not in untested]
    if untested:
        problem = "weights of this fit are not 0 in the mean where a model explains nothing"
        notify(f"tests over time leave out {counted(len(untested), 'layer')} ({listed(untested)}): {problem}")
    for layer in difference or ():
        check_choice("difference", layer, layers)
    courses = []
    for roi, part in frame.groupby("roi", sort=False):
        pooled = [
            set(evaluation.settings["in_mean"][place]) for place in evaluation.places[part.index].unique()
        ]
        names = sorted(set.intersection(*pooled), key=natural_key)  # flips do not depend on the order of rows
        rows = part[part["subject"].isin(names)]
        scores = {
            layer: rows[rows["layer"] == layer]
            .pivot(index="subject", columns=axes, values="score")
            .loc[names]
            .sort_index(axis=1)
            for layer in layers
        }
        if difference is not None:
            first, second = difference
            if not scores[first].columns.equals(scores[second].columns):
                raise NeurordlError(
                    f"{first!r} and {second!r} have other model times; a difference needs the same"
                )
            scores = {MINUS.join(difference): scores[first] - scores[second]}
        for layer, table in scores.items():
            times = _checked(table, layer)
            shape = (len(table), *map(len, times))
            courses.append((layer, str(roi), times, table.to_numpy().reshape(shape)))
    return courses


def _checked(table: pd.DataFrame, layer: str) -> list[Floats]:
    """The times of each axis of a course, subjects x times, whose scores are all defined."""
    if min(table.shape) < 2:
        people, times = counted(table.shape[0], "subject"), counted(table.shape[1], "time")
        counts = f"{people} in the mean at all times, and {times}"
        raise NeurordlError(
            f"a test over time needs two subjects and two times; layer {layer!r} has {counts}"
        )
    undefined = ~np.isfinite(table.to_numpy(float))
    if undefined.any():
        where = f"{undefined.sum()} scores of layer {layer!r} are undefined"
        people = listed(table.index[undefined.any(axis=1)])
        times = listed(
            " x ".join(f"{part:g} s" for part in np.atleast_1d(time))
            for time in table.columns[undefined.any(axis=0)]
        )
        remedy = "leave these subjects or times out; the column reason says why"
        raise NeurordlError(f"{where} (subjects {people}; times {times}); {remedy}")
    index = table.columns
    return [index.unique(level).to_numpy(np.float64) for level in range(index.nlevels)]


def warn_of_few(n_subjects: int, tail: str, alpha: float, n_courses: int = 1) -> None:
    """Say so if nothing can be significant, since so few subjects have few sign flips."""
    smallest = 1 / 2 ** (n_subjects - (tail == "two-sided"))
    counts = f"{n_subjects} subjects have {2**n_subjects} sign flips, so that no p is below {smallest:.3g}"
    if smallest >= alpha:
        notify(f"{counts}; nothing can be significant")
    elif n_courses * smallest >= alpha:
        corrected = f"no p_holm of {n_courses} layers and ROIs below {n_courses * smallest:.3g}"
        notify(f"{counts}, and {corrected}: nothing can be significant with it; test fewer layers or ROIs")


def _clusters(test: ClusterTest, scores: Floats) -> list[tuple[Ints, float, float]]:
    """Times, p and statistic of each cluster, in order of time."""
    clusters, p, t, _ = test.run(scores)
    if test.threshold != "tfce":
        each = [
            (times, float(value), float(t[times].sum())) for times, value in zip(clusters, p, strict=True)
        ]
        return sorted(each, key=lambda cluster: int(cluster[0][0]))
    # the enhanced values are those that are tested, so t is taken from the scores
    of_time = np.full(scores[0].size, np.nan)
    for times, value in zip(clusters, p, strict=True):
        of_time[times] = value
    t = np.ravel(scores.mean(axis=0) / (scores.std(axis=0, ddof=1) / np.sqrt(len(scores))))
    stretches = _stretches((of_time < test.alpha).reshape(scores.shape[1:]))
    return [(x, float(of_time[x].min()), float(t[x][np.abs(t[x]).argmax()])) for x in stretches]


def _stretches(chosen: Bools) -> list[Ints]:
    """Numbers of each stretch of times, or of cells that share sides, that are chosen."""
    labels, count = ndimage.label(chosen)
    return [np.flatnonzero(labels == number) for number in range(1, count + 1)]


def _holm(table: pd.DataFrame, n_courses: int) -> npt.NDArray[np.float64]:
    """Cluster p-values corrected for the number of courses (Holm), by the smallest p of each course."""
    p = table["p"].to_numpy(float)
    course = table.groupby(["layer", "roi"], sort=False).ngroup().to_numpy()
    n_with = len(set(course))
    smallest = np.array([p[course == k].min() for k in range(n_with)] + [1.0] * (n_courses - n_with))
    corrected = correct(smallest, "holm")
    factor = n_courses - np.argsort(np.argsort(smallest, kind="stable"), kind="stable")
    return np.array(
        [min(1.0, max(corrected[k], factor[k] * value)) for k, value in zip(course, p, strict=True)]
    )


def _drawn_t(scores: Floats, counts: Ints) -> tuple[Floats, Floats]:
    """The t values and means of bootstrap samples of the subjects, (samples, times)."""
    n = len(scores)
    means = counts @ scores / n
    variance = np.maximum(counts @ scores**2 / n - means**2, 0) * n / (n - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(means / np.sqrt(variance / n), posinf=0.0, neginf=0.0), means


def _onset(t: Floats, times: Floats, cluster: Ints, limit: float, critical: float) -> float:
    """The first time of the largest of the clusters that share times with one; infinity if none is large."""
    sign = 1.0 if not len(cluster) else np.sign(t[cluster].sum())
    near = [x for x in _stretches(sign * t > limit) if np.isin(x, cluster).any()]
    largest = max(near, key=lambda x: float(sign * t[x].sum()), default=None)
    if largest is None or sign * t[largest].sum() < critical:
        return np.inf
    return float(times[largest[0]])
