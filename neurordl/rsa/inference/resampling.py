"""Resampling schemes: what is drawn, what results generalize to, and similarities and their variances.

As in rsatoolbox, a resample holds a stimulus as often as it was drawn, without the pairs of a stimulus with
its copies, and its ceilings are means over the subjects in it, copies pooled but left out together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError, notify
from neurordl.ids import is_missing
from neurordl.measures.comparisons import Comparison
from neurordl.measures.condensed import missing_groups, n_stimuli, square
from neurordl.measures.kernels.similarities import Drawn, Resampled
from neurordl.rsa.ceilings import ceiling, drawn_ceiling
from neurordl.rsa.compare import check_stacks, similarity
from neurordl.validate import brief, check_choice, check_count, listed

_FEWEST_UNITS = 4  # stimuli, or groups of them, of which components of variance can be taken
_SPARE = 100  # resamples beyond one per stimulus: the variance that pairs add is then known to 14 %
_ATTEMPTS = 1000  # draws of a resample until it holds enough distinct subjects and stimuli
_COUPLES = 100  # pairs of stimuli that a jackknife leaves out together
_LEAST_SHARE = 0.5  # 1 / (1 + second / first) of variance that belongs to three stimuli together
_FEW_GROUPS = 8  # of fewer, long intervals are over 2 to 2.5 times as long as short ones: docs/decisions/0038
_ENOUGH = 100  # resamples: a standard error is then known to 7 %


class Draws(NamedTuple):
    """How often each subject and each stimulus is in each resample; None for what is not resampled.

    Attributes
    ----------
    subjects, stimuli
        (resamples, subjects) and (resamples, stimuli).

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> nrl.Draws(subjects=np.array([[2, 0, 1]])).subjects.shape
    (1, 3)
    """

    subjects: Ints | None = None
    stimuli: Ints | None = None

    @property
    def factors(self) -> tuple[str, ...]:
        """What is resampled: "subjects", "stimuli", or both."""
        return tuple(name for name, counts in self._asdict().items() if counts is not None)

    @classmethod
    def from_indices(
        cls, subjects: npt.ArrayLike | None, stimuli: npt.ArrayLike | None, n_subjects: int, n_stimuli: int
    ) -> Self:
        """Draws from indices that were drawn elsewhere, (resamples, any number) each.

        Raises
        ------
        NeurordlError
            An index is out of range, or a resample holds fewer than three distinct stimuli.
        """
        counts: dict[str, Ints] = {}
        for factor, indices, n in (("subjects", subjects, n_subjects), ("stimuli", stimuli, n_stimuli)):
            if indices is not None:
                drawn = np.asarray(indices)
                if drawn.ndim != 2 or drawn.dtype.kind not in "iu" or drawn.min() < 0 or drawn.max() >= n:
                    raise NeurordlError(f"draws of {factor}: (resamples, drawn) indices from 0 to {n - 1}")
                counts[factor] = _counted(drawn, n)
        if "stimuli" in counts and (few := np.flatnonzero((counts["stimuli"] > 0).sum(axis=1) < 3)).size:
            raise NeurordlError(f"resample {few[0]} holds fewer than three distinct stimuli; draw it again")
        return cls(**counts)

    def __repr__(self) -> str:
        return brief(self)


def _counted(indices: npt.NDArray[np.integer], n: int) -> Ints:
    rows = np.arange(len(indices))[:, None]
    counts = np.bincount((indices + n * rows).ravel(), minlength=n * len(indices))
    return counts.reshape(len(indices), n).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Study:
    """Models and subjects that are compared.

    Attributes
    ----------
    models, data
        Condensed RDMs (models, pairs) and (subjects, pairs), one per subject; NaN marks a missing pair.
    comparison
        How RDMs are compared.
    scores
        (models, subjects) similarities; computed where they are not given.
    device
        Device of matrix products; rank measures stay on the CPU.
    """

    models: Floats
    data: Floats
    comparison: Comparison
    scores: Floats = None  # type: ignore[assignment]  # set below
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        check_stacks(self.models, self.data)
        if not len(self.models) or not len(self.data):
            raise NeurordlError(f"no RDMs: {len(self.models)} models and {len(self.data)} subjects")
        if self.scores is None:
            object.__setattr__(self, "scores", similarity(self.models, self.data, self.comparison))

    def of_subjects(self, chosen: Bools) -> Study:
        """The same models with some of the subjects."""
        return replace(self, data=self.data[chosen], scores=self.scores[:, chosen])

    def of_models(self, rows: Sequence[int], absent: Bools) -> Study:
        """Some of the models, with the same subjects on the pairs that are not absent."""
        data = np.where(absent, np.nan, self.data)
        return replace(self, models=self.models[rows], data=data, scores=self.scores[rows])

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return n_stimuli(self.data.shape[1])

    @cached_property
    def shared(self) -> Bools:
        """(pairs,) the pairs that every model has, on which ceilings are taken.

        A model without a single pair is left out: it says nothing about the others.
        """
        measured = np.isfinite(self.models)
        alive = measured.any(axis=1)
        return np.asarray(measured[alive if alive.any() else slice(None)].all(axis=0))

    @cached_property
    def shared_data(self) -> Floats:
        """The subjects' RDMs on the shared pairs, NaN elsewhere."""
        return np.where(self.shared, self.data, np.nan)

    @cached_property
    def ceiling(self) -> tuple[float, float]:
        """Lower and upper noise ceiling; NaN of one subject."""
        return ceiling(self.shared_data, self.comparison) if len(self.data) > 1 else (np.nan, np.nan)

    @cached_property
    def fitted_gain(self) -> float:
        """By how much the upper ceiling exceeds that of the mean RDM, where subjects miss different pairs."""
        if len(self.data) < 2 or len(missing_groups(self.shared_data)) < 2:
            return 0.0
        once = np.ones(len(self.data), dtype=np.int64)
        gain = self.ceiling[1] - drawn_ceiling(self.shared_data, once, self.comparison)[1]
        return gain if np.isfinite(gain) else 0.0

    def resample(self, stimuli: Ints | None, sets: Ints) -> Resampled:
        """Similarities and ceilings in each resample.

        Where subjects miss different pairs, the upper ceilings are those of mean RDMs, raised by what the RDM
        that fits best gains over the mean RDM in the data as they are.

        Parameters
        ----------
        stimuli
            (resamples, stimuli) how often each was drawn; None for each of them once, where only ceilings are
            computed.
        sets
            (sets, resamples, subjects) how often each subject is in the ceilings.
        """
        comparison = self.comparison
        models = self.models[: 0 if stimuli is None else None]
        data = self.shared_data if stimuli is None else self.data
        if comparison.kernel is not None:
            drawn = Drawn(stimuli, sets, self.device)
            resamples = comparison.kernel.resample(models, data, self.shared, drawn)
            if resamples is not None:
                return self._raised(resamples)
        ceilings = np.full((*sets.shape[:2], 2), np.nan)
        scores = np.empty((0 if stimuli is None else len(stimuli), len(models), len(data)))
        for b in range(sets.shape[1]):
            sample = self.shared_data
            if stimuli is not None:
                a, x = (expanded(rdms, stimuli[b]) for rdms in (models, data))
                scores[b] = similarity(a, x, comparison)
                sample = expanded(sample, stimuli[b])
            for k, drawn in enumerate(sets[:, b]):
                ceilings[k, b] = drawn_ceiling(sample, drawn, comparison)
        return self._raised(Resampled(scores, ceilings))

    def _raised(self, resampled: Resampled) -> Resampled:
        if resampled.ceilings.size and self.fitted_gain:
            resampled.ceilings[..., 1] += self.fitted_gain
        return resampled

    def without_each(self, groups: Ints) -> Floats:
        """Similarities without the stimuli of each group, by its number: (groups, models, subjects)."""
        without = (np.arange(groups.max() + 1)[:, None] != groups).astype(np.int64)
        return self.resample(without, np.ones((0, len(without), len(self.data)), dtype=np.int64)).scores


def expanded(vectors: Floats, counts: Ints) -> Floats:
    """RDMs of a resample with all copies; the pairs of a stimulus with its copies are missing."""
    if (counts == 1).all():
        return vectors
    if counts.max() == 1:
        i, j = np.triu_indices(len(counts), 1)
        return np.asarray(vectors[:, (counts[i] * counts[j]).astype(bool)])
    squares = square(torch.as_tensor(vectors)).numpy()
    np.einsum("kii->ki", squares)[:] = np.nan
    drawn = np.repeat(np.arange(len(counts)), counts)
    i, j = np.triu_indices(len(drawn), 1)
    return np.asarray(squares[:, drawn[i], drawn[j]])


def weighted_mean(scores: Floats, counts: Ints) -> Floats:
    """Mean over the subjects drawn, without those who have no score: (resamples, models)."""
    defined = np.isfinite(scores)
    total = np.einsum("bmd,bd->bm", np.where(defined, scores, 0), counts)
    number = np.einsum("bmd,bd->bm", defined, counts)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))


class Evaluations(NamedTuple):
    """Similarities in resamples, in rsatoolbox's shapes.

    Attributes
    ----------
    models
        (1, models, subjects) without resampling, (resamples, models) of one factor, and (resamples, models,
        1, 1, 3) of both: both at once, subjects only, stimuli only.
    ceilings
        (2,), (2, resamples) or (2, resamples, 1, 3), the lower noise ceiling first.
    by_subject
        (resamples, models, subjects) in resamples of the stimuli.
    """

    models: Floats
    ceilings: Floats
    by_subject: Floats | None = None


class Spread(NamedTuple):
    """Variances of mean similarities, corrected for small samples; None where there is no variance.

    Attributes
    ----------
    model_var
        (models,) of each model's mean.
    diff_var
        (models * (models - 1) / 2,) of the difference of each two models (i < j).
    noise_ceil_var
        (models, 2) of each model's difference from the lower and the upper noise ceiling.
    """

    model_var: Floats | None = None
    diff_var: Floats | None = None
    noise_ceil_var: Floats | None = None


@dataclass(frozen=True)
class Variance:
    """The variance of the resamples, as rsatoolbox takes it.

    Where stimuli are resampled, two numbers of draws multiply in each pair, so that the variance of single
    pairs is counted three times: intervals are too wide if stimuli are independent of each other.

    Attributes
    ----------
    name, title
        Its name, and how it is written in the title of an evaluation; empty for the usual one.
    why_undefined
        Why a model may have no variance.
    """

    name = "bootstrap"
    title = ""
    why_undefined = ""

    def check(self, factors: Sequence[str]) -> None:
        """Refuse factors ("subjects", "stimuli") whose variance cannot be taken in this way."""

    def estimate(self, study: Study, by_subject: Floats, draws: Draws) -> tuple[Floats, Floats] | None:
        """Variances of models and of their differences; None for those of the resamples.

        Parameters
        ----------
        study
            The models and subjects without resampling.
        by_subject
            (resamples, models, subjects) similarities in each resample of the stimuli.
        draws
            Draws of the stimuli, and of the subjects if the mean generalizes to new ones, too.
        """
        return None


@dataclass(frozen=True)
class ComponentVariance(Variance):
    """Variance by its components: subjects, single stimuli, and pairs of stimuli.

    A similarity of RDMs is, to first order, a mean over pairs of stimuli. The variance that belongs to single
    stimuli and the variance that belongs to pairs have different weights in a resample: a bootstrap of
    stimuli counts the variance of pairs three times, since two numbers of draws multiply, and the delete-one
    jackknife counts it twice (Efron & Stein 1981, Ann. Stat. 9:586). Here the two are separated and each is
    counted once.

    It is the variance of the mean over the populations of subjects and stimuli, or, if only stimuli are
    resampled, over the population of stimuli for these subjects. With n stimuli, and covariances of the
    similarities of different subjects (so that a subject's noise is counted once, with the subjects)::

        subjects + max(jackknife - 2 (n - 1) / (n - 2) pairs, 0) + max(pairs, 0)

    subjects
        Variance of the subjects' similarities, divided by their number; 0 if only stimuli are resampled,
        where the other terms are covariances of the subjects' means.
    jackknife
        ``(n - 1) / n`` times the sum of squares of the similarities without one stimulus: the variance of
        single stimuli, and ``2 (n - 1) / (n - 2)`` times that of pairs.
    pairs
        Residual covariance of the resamples after regression on how often each stimulus was drawn:
        ``c_i c_j - 1 = (c_i - 1) + (c_j - 1) + (c_i - 1) (c_j - 1)``, of which the product remains.

    This is the variance of crossed and of dyadic clusters (Cameron, Gelbach & Miller 2011, J. Bus. Econ.
    Stat. 29:238; Aronow, Samii & Assenova 2015, Polit. Anal. 23:564), its parts bounded below by 0.

    Parameters
    ----------
    groups
        (stimuli,) number of each stimulus's group, if groups are drawn: they stand for stimuli everywhere.
    """

    groups: Ints | None = None

    name = "components"
    title = "variances by components"
    why_undefined = (
        "no variance by components: undefined without some stimulus, or for some subject; "
        "variance='bootstrap' has one"
    )

    def check(self, factors: Sequence[str]) -> None:
        """Refuse subjects alone."""
        if "stimuli" not in factors:
            raise NeurordlError("variance='components' needs resampled stimuli: resample 'stimuli' or 'both'")

    def estimate(self, study: Study, by_subject: Floats, draws: Draws) -> tuple[Floats, Floats]:
        """Variances of models and of their differences.

        Returns
        -------
        models, differences
            (models,) and (models * (models - 1) / 2,). NaN for a model that is undefined without some
            stimulus, or for some of the subjects for whom others are defined; resamples that leave another
            model undefined are left out.

        Raises
        ------
        NeurordlError
            There are fewer than four stimuli, or fewer than 100 resamples more than stimuli.
        """
        scores, counts, over_subjects = study.scores, draws.stimuli, draws.subjects is not None
        assert counts is not None
        groups, units = np.arange(counts.shape[1]), "stimuli"
        if self.groups is not None:
            groups, units = self.groups, "groups of stimuli"
        counts = counts[:, np.unique(groups, return_index=True)[1]]
        n, n_models = counts.shape[1], len(scores)
        if n < _FEWEST_UNITS:
            raise NeurordlError(f"variance='components' needs {_FEWEST_UNITS} {units} or more, not {n}")
        by_model = np.full((3, n_models, n_models), np.nan)
        known = np.isfinite(scores).any(axis=0)
        if known.any():
            resampled, without = (x[:, :, known] for x in (by_subject, study.without_each(groups)))
            scores = scores[:, known]
            alive = np.isfinite(scores).all(axis=1) & np.isfinite(without).all(axis=(0, 2))
            alive &= np.isfinite(resampled).any(axis=(0, 2))
            whole = np.isfinite(resampled[:, alive]).all(axis=(1, 2))
            if (spare := int(whole.sum()) - n) < _SPARE:
                raise NeurordlError(
                    f"variance='components' needs {n + _SPARE} or more defined resamples of {n} {units}, but "
                    f"there are {n + spare}; give Bootstrap a larger n, or variance='bootstrap'"
                )
            kept = resampled[whole][:, alive]
            basis = np.linalg.qr(np.column_stack([np.ones(len(kept)), counts[whole, 1:]]))[0]
            flat = kept.reshape(len(kept), -1)
            residuals = (flat - basis @ (basis.T @ flat)).reshape(kept.shape)
            without = without[:, alive]
            subjects = _mean_and_private(scores[None, alive])[1] * over_subjects
            pairs, private_pairs = (part / spare for part in _mean_and_private(residuals))
            deviations = without - without.mean(axis=0)
            jackknife, private = (part * (n - 1) / n for part in _mean_and_private(deviations))
            if over_subjects:
                pairs, jackknife = pairs - private_pairs, jackknife - private
            rows = np.flatnonzero(alive)
            by_model[:, rows[:, None], rows] = subjects, jackknife, pairs
        variances = np.einsum("kii->ki", by_model)
        i, j = np.triu_indices(n_models, 1)
        differences = variances[:, i] + variances[:, j] - 2 * by_model[:, i, j]
        return _total(variances, n), _total(differences, n)


VARIANCES: dict[str, Variance] = {"bootstrap": Variance(), "components": ComponentVariance()}


def _mean_and_private(deviations: Floats) -> tuple[Floats, Floats]:
    """(samples, models, subjects) -> sums of squares of the mean over subjects, and each subject's part."""
    mean = deviations.mean(axis=2)
    rest = (deviations - mean[:, :, None]).transpose(1, 0, 2).reshape(deviations.shape[1], -1)
    n = deviations.shape[2]
    return mean.T @ mean, rest @ rest.T / (n * max(n - 1, 1))


def _total(parts: Floats, n: int) -> Floats:
    subjects, jackknife, pairs = parts
    single = np.maximum(jackknife - 2 * (n - 1) / (n - 2) * pairs, 0)
    return np.asarray(subjects + single + np.maximum(pairs, 0))


def covariance_with(evaluations: Floats, ceilings: Floats | None = None) -> Floats:
    """Covariance of evaluations (samples, models) and of ceilings (2, samples), as rsatoolbox takes it.

    A model that is undefined throughout has NaN. A sample in which another model is undefined is left out;
    one in which only the ceiling is undefined is left out of the ceiling's covariances.
    """
    columns = np.flatnonzero(np.isfinite(evaluations).any(axis=0))
    n_models, together = evaluations.shape[1], evaluations
    if ceilings is not None and np.isfinite(ceilings).any():
        together = np.concatenate([evaluations, ceilings.T], axis=1)
    size = together.shape[1]
    covariance = np.full((size, size), np.nan)
    for kept in (np.concatenate([columns, np.arange(n_models, size)]), columns):
        samples = together[:, kept]
        samples = samples[np.isfinite(samples).all(axis=1)]
        if len(samples) > 1:
            covariance[np.ix_(kept, kept)] = np.cov(samples.T)
    return covariance


def covariances(evaluations: Floats, ceilings: Floats) -> Floats:
    """`covariance_with` of several bootstraps, (samples, models, bootstraps) and (2, samples, bootstraps).

    Ceilings that are undefined throughout a bootstrap are left out of all.
    """
    bounds = ceilings if np.isfinite(ceilings).any(axis=(0, 1)).all() else np.full_like(ceilings, np.nan)
    return np.stack([covariance_with(evaluations[..., k], bounds[..., k]) for k in range(bounds.shape[-1])])


class Resampling:
    """A resampling scheme. A scheme of one's own is a subclass that draws subjects, stimuli or both.

    A subclass names its ``factors`` and defines `draw_subjects` or `draw_stimuli`, or both. It may also
    define its small-sample correction, degrees of freedom, and the names of what it generalizes to.

    Attributes
    ----------
    factors
        What is resampled: "subjects", "stimuli", or both in this order.
    n
        Number of resamples.
    seed
        Seed of the draws.
    variance
        Estimator of the variances where stimuli are resampled: see `Bootstrap`.
    groups
        Group of each stimulus, if groups are resampled: see `Bootstrap`.
    name
        Name of the scheme in records.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> class HalfOfStimuli(nrl.Resampling):
    ...     '''Half of the stimuli, without replacement.'''
    ...
    ...     factors = ("stimuli",)
    ...
    ...     def draw_stimuli(self, stimuli, size, rng):
    ...         chosen = np.argsort(rng.random((size, len(stimuli))), axis=1) < len(stimuli) // 2
    ...         return chosen.astype(int)
    >>> HalfOfStimuli().draw(["s1", "s2"], list("abcdef")).stimuli.sum(axis=1)[:3]
    array([3, 3, 3])
    """

    factors: tuple[str, ...] = ()
    n: int = 1000
    seed: int = 0
    variance: str | None = "bootstrap"
    groups: Mapping[str, object] | str | None = None
    resamples = True

    @property
    def name(self) -> str:
        """Name of the scheme in records."""
        return type(self).__name__

    @property
    def generalizes_to(self) -> str:
        """What the means generalize to, for tables."""
        text = " and ".join(self.factors)
        return text if self.groups is None else text.replace("stimuli", "groups of stimuli")

    @property
    def title(self) -> str:
        """The inference in words, for tables."""
        variance = self.variance_method.title if "stimuli" in self.factors else ""
        return ", ".join(filter(None, [f"{type(self).__name__} of {self.generalizes_to}", variance]))

    @property
    def estimand(self) -> str:
        """What the means estimate the similarity for."""
        if len(self.factors) == 2:
            return "the populations of subjects and of stimuli"
        fixed = "stimuli" if "subjects" in self.factors else "subjects"
        return f"the population of {self.generalizes_to}, for these {fixed}"

    @property
    def cv_method(self) -> str:
        """Rsatoolbox's name of the evaluation, which chooses its tests."""
        names = {"subjects": "bootstrap_rdm", "stimuli": "bootstrap_pattern"}
        return names[self.factors[0]] if len(self.factors) == 1 else "dual_bootstrap"

    @property
    def variance_method(self) -> Variance:
        """How variances are taken where stimuli are resampled."""
        return VARIANCES[check_choice("variance", self.variance or "bootstrap", list(VARIANCES))]

    @property
    def note(self) -> str:
        """A note on too few resamples or groups of stimuli; empty if there are enough."""
        notes = []
        if self.resamples and self.n < _ENOUGH:
            notes = [f"there are only {self.n} resamples: intervals and p depend on their seed; take n=1000"]
        n_groups = len(self._grouped()[0]) if isinstance(self.groups, Mapping) else _FEW_GROUPS
        if n_groups < _FEW_GROUPS:
            notes.append(
                f"there are only {n_groups} groups of stimuli: intervals and p rest on {n_groups - 1} "
                "degrees of freedom, and the length of an interval depends on which groups were drawn; take "
                f"{_FEW_GROUPS} groups or more, or conclude about these stimuli only"
            )
        return "; ".join(notes)

    def _check_groups(self) -> None:
        """Refuse groups of what is not resampled, or that are neither a mapping nor a name."""
        if self.groups is None:
            return
        if not (isinstance(self.groups, Mapping | str) and self.groups):
            got = type(self.groups).__name__
            raise NeurordlError(f"groups= takes a mapping from stimulus to group, or a name, not {got}")
        if "stimuli" not in self.factors:
            raise NeurordlError("groups= are of stimuli, and none are resampled: take 'stimuli' or 'both'")

    @property
    def _grouping(self) -> str:
        if self.groups is None:
            return ""
        text = f"{self.groups!r}" if isinstance(self.groups, str) else f"<{len(self._grouped()[0])} groups>"
        return f", groups={text}"

    def _grouped(self) -> tuple[list[str], Ints]:
        assert isinstance(self.groups, Mapping)
        return _numbered(self.groups)

    def for_stimuli(
        self,
        stimuli: Sequence[str],
        known: Mapping[str, Sequence[object]],
        n: int | None = None,
        *,
        fitted: bool = False,
    ) -> Self:
        """The scheme with the groups of these stimuli only, in their order.

        Parameters
        ----------
        stimuli
            Their ids.
        known
            What may group them: names of properties, such as "category", and a value for each stimulus.
        n
            Number of resamples, if they were drawn before.
        fitted
            Whether models are fitted in each resample: their variances have no components.

        Warns
        -----
        UserWarning
            Stimuli are resampled one by one, although groups of them are known.

        Raises
        ------
        NeurordlError
            A stimulus has no group, or ``groups`` is none of the known names.
        """
        if "stimuli" not in self.factors:
            return self
        if self.groups is None:
            self._warn_of_groups(known)
            return self._with_variance(len(stimuli), n, fitted)
        scheme = replace(self, groups=self._groups_of(stimuli, known))  # type: ignore[type-var]
        return scheme._with_variance(len(scheme._grouped()[0]), n, fitted)

    def _with_variance(self, n_units: int, n: int | None, fitted: bool) -> Self:
        """The scheme with an estimator of variances for so many stimuli, or groups, and resamples."""
        return self

    def _warn_of_groups(self, known: Mapping[str, Sequence[object]]) -> None:
        for name, values in known.items():
            n = len(set(map(str, values)))
            if n < 2 or n > len(values) / 2 or any(map(is_missing, values)):
                continue
            text = f"the {len(values)} stimuli come in {n} groups by {name!r}, but each is resampled"
            if n < _FEWEST_UNITS:
                text += ": results are for new stimuli of these groups, which are too few to be resampled"
            else:
                text += f", as if independent; for new groups pass groups={name!r} to {type(self).__name__}"
            notify(text)

    def _groups_of(self, stimuli: Sequence[str], known: Mapping[str, Sequence[object]]) -> dict[str, object]:
        groups = self.groups
        if isinstance(groups, str):
            if groups not in known:
                properties = listed(known) or "nothing"
                raise NeurordlError(f"groups={groups!r}, but what is known of the stimuli is: {properties}")
            groups = dict(zip(stimuli, known[groups], strict=True))
        assert groups is not None
        groups = {str(stimulus): group for stimulus, group in groups.items()}  # ids are text
        if absent := [stimulus for stimulus in stimuli if is_missing(groups.get(stimulus))]:
            name = f"groups={self.groups!r}" if isinstance(self.groups, str) else "groups="
            raise NeurordlError(f"{name} has no group for {len(absent)} stimuli: {listed(absent)}")
        return {stimulus: groups[stimulus] for stimulus in stimuli}

    def group_names(self, stimuli: Sequence[str]) -> list[str] | None:
        """Group of each stimulus, for records; None without groups."""
        if self.groups is None:
            return None
        names, numbers = self.units(stimuli)
        return [names[number] for number in numbers]

    def units(self, stimuli: Sequence[str]) -> tuple[Sequence[str], Ints]:
        """Units that are drawn, stimuli or groups of them, and the number of the unit of each stimulus."""
        if self.groups is None:
            return stimuli, np.arange(len(stimuli))
        return _numbered(self._groups_of(stimuli, {}))

    def check(self, comparison: Comparison) -> None:
        """Refuse a comparison of complete RDMs where stimuli are resampled."""
        if "stimuli" in self.factors and comparison.complete:
            problem = f"{comparison.name} needs complete RDMs, and a resample of stimuli has none"
            raise NeurordlError(f"{problem}; draw subjects, or compare by cosine_cov")

    def draw_subjects(self, subjects: Sequence[str], size: int, rng: np.random.Generator) -> Ints:
        """How often each subject is in each of some resamples, (size, subjects)."""
        raise NeurordlError(f"{self.name} resamples subjects: it must define draw_subjects")

    def draw_stimuli(self, stimuli: Sequence[str], size: int, rng: np.random.Generator) -> Ints:
        """How often each stimulus is in each of some resamples, (size, stimuli)."""
        raise NeurordlError(f"{self.name} resamples stimuli: it must define draw_stimuli")

    def check_size(self, factor: str, n: int, fewest: int) -> None:
        """Refuse so few subjects or stimuli that resamples cannot be drawn of them."""
        if factor == "subjects" and n < 2:
            raise NeurordlError("one subject cannot be resampled; resample stimuli, or give more subjects")

    def draw(
        self,
        subjects: Sequence[str],
        stimuli: Sequence[str],
        *,
        fewest: tuple[int, int] = (1, 3),
        rng: np.random.Generator | None = None,
    ) -> Draws | None:
        """Draw all resamples; a resample with too few distinct subjects or stimuli is drawn again.

        Parameters
        ----------
        subjects, stimuli
            Their names.
        fewest
            How many distinct subjects and stimuli a resample needs.
        rng
            Generator of the draws; by default a new one from the seed.

        Raises
        ------
        NeurordlError
            There are fewer than two resamples, or too few subjects or stimuli to draw from.
        """
        if not self.resamples:
            return None
        check_count(f"{self.name}: n", self.n, least=2)
        rng = np.random.default_rng(self.seed) if rng is None else rng
        counts: dict[str, Ints] = {}
        for factor, names, n_distinct in zip(Draws._fields, (subjects, stimuli), fewest, strict=True):
            if factor in self.factors:
                units, parts = self.units(names) if factor == "stimuli" else (names, np.arange(len(names)))
                self.check_size(factor, len(units), n_distinct)
                counts[factor] = self._enough(factor, units, n_distinct, rng)[:, parts]
        return Draws(**counts)

    def _enough(self, factor: str, names: Sequence[str], fewest: int, rng: np.random.Generator) -> Ints:
        draw = self.draw_subjects if factor == "subjects" else self.draw_stimuli
        counts = np.zeros((self.n, len(names)), dtype=np.int64)
        for _ in range(_ATTEMPTS):
            few = np.flatnonzero((counts > 0).sum(axis=1) < fewest)
            if not len(few):
                return counts
            drawn = np.asarray(draw(names, len(few), rng))
            if drawn.shape != (len(few), len(names)) or drawn.dtype.kind not in "iu" or drawn.min() < 0:
                raise NeurordlError(
                    f"{self.name}.draw_{factor} must return whole numbers from 0, ({len(few)}, "
                    f"{len(names)}), and gave {drawn.dtype} of the shape {drawn.shape}"
                )
            counts[few] = drawn
        raise NeurordlError(f"{self.name} keeps drawing fewer than {fewest} distinct {factor}; give more")

    def evaluate(self, study: Study, draws: Draws | None) -> Evaluations:
        """Similarities and ceilings in the resamples."""
        draws = draws or Draws()
        if draws.factors != self.factors:
            raise NeurordlError(f"the draws do not fit {self.name!r}, which resamples {self.generalizes_to}")
        subjects, stimuli = draws
        parts: list[tuple[Floats, Floats]] = []
        by_subject = None
        if stimuli is not None:
            everyone = np.ones((len(stimuli), len(study.data)), dtype=np.int64)
            sets = np.stack([everyone] if subjects is None else [subjects, everyone])
            by_subject, ceilings = study.resample(stimuli, sets)
            parts = [(weighted_mean(by_subject, times), ceilings[k].T) for k, times in enumerate(sets)]
        if subjects is not None:  # the second of three
            ceilings = study.resample(None, subjects[None]).ceilings
            parts.insert(1, (weighted_mean(study.scores[None], subjects), ceilings[0].T))
        if len(parts) == 1:
            return Evaluations(*parts[0], by_subject)
        models, bounds = (np.stack(arrays, axis=-1) for arrays in zip(*parts, strict=True))
        return Evaluations(models[:, :, None, None], bounds[:, :, None], by_subject)

    def covariance(self, evaluations: Evaluations) -> Floats | None:
        """Covariance of the evaluations, with the ceilings where stimuli are resampled, as in rsatoolbox."""
        models, ceilings = evaluations.models, evaluations.ceilings
        if models.ndim == 2:
            return covariance_with(models, ceilings if "stimuli" in self.factors else None)
        return covariances(models[:, :, 0, 0], ceilings[:, :, 0])

    def sizes(self, n_subjects: int, n_stimuli: int) -> list[int]:
        """Number of subjects, of stimuli (or their groups), or of both, to which the results generalize."""
        n_stimuli = len(self._grouped()[0]) if isinstance(self.groups, Mapping) else n_stimuli
        numbers = {"subjects": n_subjects, "stimuli": n_stimuli}
        return [numbers[factor] for factor in self.factors]

    def correct(self, parts: Floats, sizes: Sequence[int]) -> Floats:
        """Rsatoolbox's corrections for small samples.

        One factor: the variance times ``n / (n - 1)``. Two: from the variances of both resampled at once, of
        subjects and of stimuli, ``s V_subjects + t V_stimuli - s t (V_both - V_subjects - V_stimuli)``, s and
        t being such factors; at least either alone and at most V_both (Schütt et al. 2023, eLife 12:e82566).

        Parameters
        ----------
        parts
            Variances (1, …) or (3, …).
        sizes
            Number of subjects or stimuli, or of both.
        """
        if len(parts) == 1:
            n = min(sizes)
            return np.asarray(parts[0] * n / (n - 1))
        s, t = (n / (n - 1) for n in sizes)
        both, subjects, stimuli = parts
        corrected = s * subjects + t * stimuli - s * t * (both - subjects - stimuli)
        least = np.maximum(s * subjects, t * stimuli)
        return np.asarray(np.minimum(np.maximum(corrected, least), both))

    def dof(self, n_subjects: int, n_stimuli: int) -> int:
        """Degrees of freedom of the t tests."""
        return min(self.sizes(n_subjects, n_stimuli)) - 1

    def spread(self, variances: Floats | None, n_models: int, n_subjects: int, n_stimuli: int) -> Spread:
        """Variances of models, of their differences and from the ceilings, from their covariance."""
        if variances is None:
            return Spread()
        stack = variances if variances.ndim == 3 else variances[None]
        diagonal = np.einsum("kii->ki", stack)
        i, j = np.triu_indices(n_models, 1)
        models = diagonal[:, :n_models]
        differences = models[:, i] + models[:, j] - 2 * stack[:, i, j]
        ceilings = np.repeat(models[:, :, None], 2, axis=2)
        if stack.shape[1] > n_models:
            ceilings = ceilings - 2 * stack[:, :n_models, n_models:] + diagonal[:, None, n_models:]
        sizes = self.sizes(n_subjects, n_stimuli)
        return Spread(*(self.correct(part, sizes) for part in (models, differences, ceilings)))


class NoResampling(Resampling):
    """No resampling: the variance over subjects of their scores, for these stimuli."""

    factors = ("subjects",)
    resamples = False
    name = "none"
    title = "t over subjects"
    cv_method = "fixed"

    def evaluate(self, study: Study, draws: Draws | None) -> Evaluations:
        """The similarities as they are."""
        if draws is not None:
            raise NeurordlError("draws= needs bootstrap=, which says what is resampled")
        return Evaluations(study.scores[None], np.array(study.ceiling))

    def covariance(self, evaluations: Evaluations) -> Floats | None:
        """Covariance of the means over subjects; None of one subject."""
        scores = evaluations.models[0]
        n = int(np.isfinite(scores).any(axis=0).sum()) or scores.shape[1]
        if scores.shape[1] < 2:
            return None
        return np.asarray(covariance_with(scores.T) * (n - 1) / n**2)


@dataclass(frozen=True)
class Bootstrap(Resampling):
    """Draw subjects, stimuli or both with replacement.

    Parameters
    ----------
    resample
        What is resampled, and so what intervals and p-values generalize to: "subjects", "stimuli" or "both".

        For "both" variances are corrected for two factors (Schütt et al. 2023, eLife 12:e82566) if they are
        those of the bootstrap.
    n
        Number of resamples.
    seed
        Seed of the draws.
    variance
        Estimator of the variances if stimuli are resampled. "components" counts the variance of pairs of
        stimuli once (`ComponentVariance`), and takes 100 resamples more than there are stimuli, or groups.
        "bootstrap" reproduces rsatoolbox; it counts the variance of pairs three times, so that its intervals
        are too wide for independent stimuli. The default is "components", or, with a warning, "bootstrap" if
        there are too few resamples or stimuli for it; "bootstrap" also for fitted models, which have no
        components (see `evaluate_fitted`).
    groups
        Group of each stimulus, such as its category: a mapping from id to group, or the name of a pattern
        descriptor of the RDMs ("label": the labels of the images). Groups are drawn as a whole, as rsatoolbox
        does with ``pattern_descriptor``, and results generalize to new groups. Degrees of freedom and
        corrections are those of the number of groups (in rsatoolbox, of the number of stimuli). Of fewer than
        8 groups a note of the evaluation says how little is known (Cameron & Miller 2015, J. Hum. Resour.
        50:317, on few clusters).

    Raises
    ------
    NeurordlError
        An argument is out of its range; variances by components or groups are asked for without resampled
        stimuli; or, when it is used, a stimulus has no group.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Bootstrap("both", n=200).estimand
    'the populations of subjects and of stimuli'
    """

    resample: Literal["subjects", "stimuli", "both"]
    n: int = 1000
    seed: int = 0
    variance: Literal["bootstrap", "components"] | None = None
    groups: Mapping[str, object] | str | None = None

    def __post_init__(self) -> None:
        check_choice("resample", self.resample, ("subjects", "stimuli", "both"))
        check_count("n", self.n, least=2)
        check_count("seed", self.seed, least=0)
        check_choice("variance", self.variance, (*VARIANCES, None))
        factors = ("subjects", "stimuli") if self.resample == "both" else (self.resample,)
        object.__setattr__(self, "factors", factors)
        self.variance_method.check(factors)
        self._check_groups()

    def __repr__(self) -> str:
        variance = f", variance={self.variance!r}" if self.variance else ""
        return f"Bootstrap({self.resample!r}, n={self.n}, seed={self.seed}{variance}{self._grouping})"

    @property
    def name(self) -> str:
        """Name of the scheme in records."""
        return self.resample

    @property
    def variance_method(self) -> Variance:
        """How variances are taken where stimuli are resampled."""
        if self.variance != "components":
            return VARIANCES["bootstrap"]
        return ComponentVariance(self._grouped()[1] if isinstance(self.groups, Mapping) else None)

    def _with_variance(self, n_units: int, n: int | None, fitted: bool) -> Self:
        if self.variance is not None:
            return self
        n, enough = n or self.n, n_units >= _FEWEST_UNITS  # of fewer nothing can be drawn
        if enough and not fitted and n >= n_units + _SPARE:
            return replace(self, variance="components")
        if enough and not fitted:
            notify(
                f"variances are those of the resamples, which are too wide, because {n} resamples of "
                f"{n_units} stimuli or groups are too few to separate components: take n={n_units + _SPARE} "
                "or more",
            )
        return replace(self, variance="bootstrap")

    def check_size(self, factor: str, n: int, fewest: int) -> None:
        """Refuse so few that half of the draws would be repeated: the rest would be too similar."""
        super().check_size(factor, n, fewest)
        if factor == "stimuli" and self.groups is not None:
            factor = "groups of stimuli"
        if (chance := _chance_of_distinct(n, fewest)) <= 0.5:
            raise NeurordlError(
                f"resamples need {fewest} or more distinct {factor} each, which draws of {n} {factor} give "
                f"in {chance:.0%} of cases only; give more {factor}, or make fewer folds of them"
            )

    def draw_subjects(self, subjects: Sequence[str], size: int, rng: np.random.Generator) -> Ints:
        """As many subjects as there are, with replacement."""
        return _counted(rng.integers(0, len(subjects), (size, len(subjects))), len(subjects))

    def draw_stimuli(self, stimuli: Sequence[str], size: int, rng: np.random.Generator) -> Ints:
        """As many stimuli as there are, with replacement."""
        return self.draw_subjects(stimuli, size, rng)


@dataclass(frozen=True)
class Jackknife(Resampling):
    """Leave out each subject, each stimulus, or each of both, for models that are fitted.

    It is what `evaluate_fitted` takes by default. A resample with copies has fewer distinct stimuli, to which
    models are fitted worse: with 12 stimuli a bootstrap has a variance several times too large.

    A jackknife counts variance that belongs to k stimuli together k times, and a fitted score has such
    variance: it multiplies pairs of stimuli that it was fitted to with pairs that it was scored on. So the
    variance of stimuli is divided by 1 + second / first, but by 2 at most, its value for three stimuli
    together. That of two stimuli together is then counted 1.33 times, of three 1.5 times, of four twice
    (Efron & Stein 1981, Ann. Stat. 9:586). For "both", the variance is the sum of that of subjects and that
    of stimuli, less that of their interaction, which both contain, and at least as large as either::

        subjects      (n - 1) / n Σ (score without a subject - mean of these)²
        first         (m - 1) / m Σ (score without a stimulus - mean of these)²
        second        Σ (score - without a stimulus - without another + without both)², over pairs of stimuli
        interaction   (n - 1) (m - 1) / (n m) Σ (score - without the subject - without the stimulus
                      + without both, less the means of its rows and columns)²

    The interaction is divided as the stimuli are. ``second`` is estimated from 100 random pairs of stimuli;
    where a fold has fewer than five stimuli, or three more than the two largest groups, nothing is divided,
    and intervals are too wide.

    Parameters
    ----------
    resample
        What is left out, and so what intervals and p-values generalize to: "subjects", "stimuli" or "both".
    groups
        Group of each stimulus, as in `Bootstrap`: groups are left out as a whole. Folds divide stimuli, not
        groups: the score is that of models fitted to other stimuli of the same groups.

    Raises
    ------
    NeurordlError
        ``resample`` is none of these, or groups are given where no stimuli are left out.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Jackknife("both").generalizes_to
    'subjects and stimuli'
    """

    resample: Literal["subjects", "stimuli", "both"] = "both"
    groups: Mapping[str, object] | str | None = None
    cv_method = "jackknife"

    def __post_init__(self) -> None:
        check_choice("resample", self.resample, ("subjects", "stimuli", "both"))
        factors = ("subjects", "stimuli") if self.resample == "both" else (self.resample,)
        object.__setattr__(self, "factors", factors)
        self._check_groups()

    def __repr__(self) -> str:
        return f"Jackknife({self.resample!r}{self._grouping})"

    def check(self, comparison: Comparison) -> None:
        """Refuse models that are not fitted."""
        raise NeurordlError(
            "a Jackknife is for evaluate_fitted; for models that are not fitted take "
            f"Bootstrap({self.resample!r}), which needs no more time"
        )

    def check_folds(self, n_subjects: int, n_stimuli: int, k_subjects: int, k_stimuli: int) -> None:
        """Refuse folds that would be too small without a subject or a stimulus."""
        fitted_to = n_subjects - (0 if k_subjects == 1 else -(-n_subjects // k_subjects))
        if "subjects" in self.factors and fitted_to < 2:
            raise NeurordlError(
                f"without a subject, no subject would remain to fit to, of {n_subjects} in {k_subjects} "
                "fold(s); give more subjects, or take bootstrap='stimuli'"
            )
        if "stimuli" in self.factors and n_stimuli // k_stimuli < 4:
            raise NeurordlError(
                f"without a stimulus, a fold would have fewer than 3 of {n_stimuli} stimuli in {k_stimuli} "
                "fold(s); take fewer folds, or bootstrap='subjects'"
            )

    def left_out(self, n_subjects: int, stimuli: Ints) -> tuple[Ints, Ints]:
        """How often each counts: all of them, then without each; (1 + subjects, subjects), and stimuli so.

        ``stimuli`` are the numbers of their units: of the stimuli themselves, or of their groups.
        """
        counts = []
        for factor, units in (("subjects", np.arange(n_subjects)), ("stimuli", stimuli)):
            n = units.max() + 1 if factor in self.factors else 0
            counts.append(
                np.concatenate([np.ones((1, len(units)), dtype=bool), np.arange(n)[:, None] != units])
            )
        subjects, without = (rows.astype(np.int64) for rows in counts)
        return subjects, without

    def pairs(self, stimuli: Ints, k_stimuli: int) -> Ints:
        """Pairs of units of stimuli that are left out together, (pairs, 2): all, or 100 random pairs.

        None without resampled stimuli, or if a fold could have fewer than three: it would count without some
        pairs only, and what it adds to the score would be taken for their variance.
        """
        largest = np.sort(np.bincount(stimuli))[-2:].sum()
        if "stimuli" not in self.factors or len(stimuli) // k_stimuli < 3 + largest:
            return np.empty((0, 2), dtype=np.int64)
        pairs = np.stack(np.triu_indices(stimuli.max() + 1, 1), axis=1)
        size = min(_COUPLES, len(pairs))
        return np.asarray(pairs[np.random.default_rng(0).choice(len(pairs), size, replace=False)])

    def covariance_of(self, scores: Floats, pairs: Ints, without_pairs: Floats) -> Floats:
        """Covariance of models, followed by ceilings (NaN), for each part of the variance.

        The parts are those of the factors, their interaction for "both", and with stimuli that of `pairs`.

        Parameters
        ----------
        scores
            (1 + stimuli, 1 + subjects, models): without each of them, and all at first.
        pairs, without_pairs
            Pairs of stimuli, as of `pairs`, and scores without them, (pairs, models).
        """
        whole, by_subject, by_stimulus = scores[0, 0], scores[0, 1:], scores[1:, 0]
        parts = {"subjects": by_subject, "stimuli": by_stimulus}
        covariance = [_jackknifed(parts[factor][None]) for factor in self.factors]
        if len(covariance) > 1:
            covariance.append(_jackknifed(whole - by_subject - by_stimulus[:, None] + scores[1:, 1:]))
        if "stimuli" in self.factors:
            second = whole - by_stimulus[pairs].sum(axis=1) + without_pairs
            n = len(by_stimulus)
            covariance.append(n * (n - 1) / 2 * second.T @ second / max(len(pairs), 1))
        return np.pad(np.stack(covariance), ((0, 0), (0, 2), (0, 2)), constant_values=np.nan)

    def correct(self, parts: Floats, sizes: Sequence[int]) -> Floats:
        """The variance of a factor, or of both without that of their interaction."""
        if "stimuli" not in self.factors:
            return np.asarray(parts[0])
        *first_order, second = parts
        first = first_order[len(self.factors) - 1]
        share = np.divide(first, first + second, out=np.ones_like(first), where=first + second > 0)
        share = np.maximum(share, _LEAST_SHARE)
        if len(first_order) == 1:
            return np.asarray(share * first)
        subjects, stimuli, interaction = first_order
        stimuli, interaction = share * stimuli, share * interaction
        return np.asarray(np.maximum(subjects + stimuli - interaction, np.maximum(subjects, stimuli)))


def _numbered(groups: Mapping[str, object]) -> tuple[list[str], Ints]:
    """Groups, in the order of their first stimulus, and the number of the group of each stimulus."""
    numbers, names = pd.factorize(np.array([str(group) for group in groups.values()], dtype=object))
    return list(names), numbers


def _jackknifed(effects: Floats) -> Floats:
    """Covariance of models from effects (rows, columns, models) of leaving out, less the means of both."""
    for axis in (0, 1):
        if effects.shape[axis] > 1:
            effects = effects - effects.mean(axis=axis, keepdims=True)
    scale = np.prod([(n - 1) / n for n in effects.shape[:2] if n > 1])
    flat = effects.reshape(-1, effects.shape[2])
    return np.asarray(scale * flat.T @ flat)


def _chance_of_distinct(n: int, fewest: int) -> float:
    """Chance that n draws with replacement out of n give ``fewest`` or more distinct ones."""
    share = np.eye(1, n + 1)[0]  # by the number of distinct ones so far
    new = 1 - np.arange(n + 1) / max(n, 1)
    for _ in range(n):
        share = share * (1 - new) + np.append(0, (share * new)[:-1])
    return float(share[fewest:].sum())


def find_resampling(bootstrap: str | Resampling | None) -> Resampling:
    """Return the resampling scheme of a name, a scheme as it is, or `NoResampling` for None.

    Raises
    ------
    NeurordlError
        The name is unknown, or the scheme has other factors.
    """
    if isinstance(bootstrap, Resampling):
        factors = ("subjects",), ("stimuli",), ("subjects", "stimuli")
        check_choice(f"{bootstrap.name}.factors", bootstrap.factors, factors)
        return bootstrap
    check_choice("bootstrap", bootstrap, ("subjects", "stimuli", "both", None), "or give a Resampling")
    return NoResampling() if bootstrap is None else Bootstrap(bootstrap)  # type: ignore[arg-type]
