"""Models that share variance: partial correlations, regression on several models, and shares of variance.

Everything that is computed here follows from the correlations of all RDMs with each other, covariates, models
and subjects. So resamples are resamples of these correlations, and inference is that of `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from neurordl.arrays import Floats, Ints, is_rdms, nan_mean
from neurordl.errors import NeurordlError, collect_notices, notices, notify
from neurordl.ids import match_ids, natural_key
from neurordl.measures.comparisons import COMPARISONS, Comparison, ComparisonLike, find_similarity
from neurordl.measures.kernels import similarities as kernels
from neurordl.rdms.selection import (
    rdms_by_place,
    reindex,
    sha256_rdms,
    stimulus_ids,
    stimulus_properties,
    subject_names,
)
from neurordl.rsa.compare import model_stacks, model_vectors, repeated_subjects, shared_stimuli
from neurordl.rsa.inference.fitted import Ridge, nonnegative
from neurordl.rsa.inference.infer import Inference, infer_study
from neurordl.rsa.inference.resampling import Resampling, Study, find_resampling
from neurordl.rsa.scores import COLUMNS, Evaluation, check_names
from neurordl.validate import brief, check_choice, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_SINGULAR = 1e-11  # of a squared length of 1: what is left of a model that others add up to
_NOTHING = 1e-12  # a share that is only rounding; its standard error is a root of rounding
_ALPHA = 0.05
_BYTES = 64 << 20  # of inner products of resamples at once
_FEWEST, _MOST = 2, 4  # models whose variance is partitioned
_LEAST = 1e-9  # of the largest eigenvalue of a covariance: below, it has no inverse


@dataclass(frozen=True, eq=False)
class Partial:
    """A partial correlation of RDMs: of what covariates leave of both, for ``comparison=`` of `evaluate`.

    The covariates, and a constant, are regressed out of each model and each subject, and what is left is
    correlated. So is the noise ceiling: of what the covariates leave of the subjects. In resamples of
    stimuli everything is regressed anew. Pairs of stimuli that a subject, a model or a covariate misses are
    left out of all, with a notice that counts them.

    Parameters
    ----------
    covariates
        What is controlled for, such as the RDMs of the images' pixels or of the task: RDMs whose names are
        the RDM descriptor ``name`` or ``layer``, or a mapping from each name to one RDM. They may have more
        stimuli than are compared.
    comparison
        "spearman", of ranks, or "corr", of values.

    Raises
    ------
    NeurordlError
        There are no covariates, or two have one name; or the comparison has no partial form.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(12)]
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> models = {name: people.subset("subject", name) for name in ("s01", "s02")}
    >>> beyond = nrl.Partial({"second": models.pop("s02")}, "corr")
    >>> scores = nrl.evaluate(models, people, subjects=["s03", "s04", "s05"], comparison=beyond)
    >>> scores.frame["comparison"].unique().tolist()
    ['partial corr']
    """

    covariates: RDMs | Mapping[str, RDMs]
    comparison: ComparisonLike = "spearman"

    __repr__ = brief

    def __post_init__(self) -> None:
        _kernel(self.comparison, np.empty((0, 3)))
        if not self.names:
            raise NeurordlError("covariates= has no RDM; give those to control for, or the comparison alone")

    @cached_property
    def names(self) -> list[str]:
        """Names of the covariates."""
        return [name for _, names in model_stacks(self.covariates) for name in names]

    def for_stimuli(self, ids: Sequence[str]) -> Comparison:
        """The comparison of RDMs of these stimuli, in their order."""
        base = find_similarity(self.comparison)
        vectors = np.stack(list(model_vectors(self.covariates, ids, "all").values()))
        hint = (
            f": what {listed(self.names)} leave{'s' if len(self.names) == 1 else ''} of one RDM is constant"
        )
        return Comparison(
            f"partial {base.name}",
            pool=base.pool,
            undefined="constant",
            undefined_hint=hint,
            kernel=_kernel(base, vectors),
        )

    def shared(self, models: Floats, data: Floats, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Models (models, pairs) and subjects (subjects, pairs), both NaN where one or a covariate is."""
        vectors = np.stack(list(model_vectors(self.covariates, ids, "all").values()))
        return shared_pairs(models, data, vectors)


def _kernel(comparison: ComparisonLike, covariates: Floats) -> kernels.Partial:
    """The kernel of a comparison that controls for covariates, (covariates, pairs); there may be none."""
    base = find_similarity(comparison)
    kernel = base.kernel.partial(covariates) if base.kernel is not None else None
    if kernel is None:
        usable = [name for name, x in COMPARISONS.items() if x.kernel and x.kernel.partial(covariates)]
        raise NeurordlError(f"comparison={base.name!r} has no partial form; take {listed(usable)}")
    return kernel


def shared_pairs(models: Floats, data: Floats, covariates: Floats) -> tuple[Floats, Floats]:
    """Models and data, NaN where a model, a subject or a covariate is; a model without a pair is left out."""
    known = [np.isfinite(x).all(axis=0) for x in (models[np.isfinite(models).any(axis=1)], data, covariates)]
    whole = np.isfinite(models).any(axis=0) & np.isfinite(data).any(axis=0)
    both = np.logical_and.reduce(known)
    if lost := int((whole & ~both).sum()):
        notify(
            f"{lost:,} of {int(whole.sum()):,} pairs of stimuli are left out, since a subject, a model or a "
            "covariate misses them: RDMs are regressed on the pairs that all have"
        )
    if both.sum() < len(covariates) + 3:
        raise NeurordlError(
            f"{int(both.sum())} pairs of stimuli are measured in all subjects, models and covariates, too "
            f"few to control for {len(covariates)}; choose fewer covariates, or subjects who share stimuli"
        )
    return np.where(both, models, np.nan), np.where(both, data, np.nan)


# regression on several models

Rows = Callable[[Tensor, int], Tensor]
"""From inner products (…, rdms, rdms) of what covariates leave of models, followed by subjects, and the
number of models, to rows (…, rows, subjects)."""


@dataclass(frozen=True, eq=False)
class RegressionStudy(Study):
    """Subjects whose RDMs are regressed on models; its scores are rows such as weights, in each resample.

    Attributes
    ----------
    covariates
        (covariates, pairs) that are regressed out of models and subjects first.
    rows
        What is computed.
    ranked
        Regress ranks, taken anew in each resample, instead of values.
    """

    covariates: Floats = field(kw_only=True)
    rows: Rows = field(kw_only=True)
    ranked: bool = field(kw_only=True)

    def __post_init__(self) -> None:
        if self.scores is None:
            object.__setattr__(self, "scores", self._scores(None))
        super().__post_init__()

    @property
    def ceiling(self) -> tuple[float, float]:
        """None: weights and shares of variance have no common unit."""
        return np.nan, np.nan

    def with_rows(self, rows: Rows) -> RegressionStudy:
        """The same RDMs with other rows."""
        parts = self.models, self.data, self.comparison
        return RegressionStudy(*parts, covariates=self.covariates, rows=rows, ranked=self.ranked)

    def remainders(self, counts: Ints | None = None) -> Tensor:
        """Inner products of what the covariates leave of models and subjects, of unit length before."""
        parts = (self.covariates, self.models, self.data)
        stack = torch.as_tensor(np.concatenate(parts), dtype=torch.float64)
        measured = torch.as_tensor(np.isfinite(self.data[0]))
        correlated = kernels.correlations(stack, counts, measured, ranked=self.ranked)
        return kernels.controlled(correlated, len(self.covariates))

    def _scores(self, counts: Ints | None) -> Floats:
        n, size = len(self.models), len(self.covariates) + len(self.models) + len(self.data)
        if counts is None:
            return np.asarray(self.rows(self.remainders(), n))
        step = max(1, _BYTES // (8 * size**2))
        parts = (counts[start : start + step] for start in range(0, len(counts), step))
        return np.concatenate([np.asarray(self.rows(self.remainders(part), n)) for part in parts])

    def resample(self, stimuli: Ints | None, sets: Ints) -> kernels.Resampled:
        """See `Study.resample`; there are no ceilings."""
        size = (0, len(self.scores), len(self.data))
        scores = np.empty(size) if stimuli is None else self._scores(stimuli)
        return kernels.Resampled(scores, np.full((*sets.shape[:2], 2), np.nan))


class _Inputs(NamedTuple):
    """What is regressed on what, matched and checked."""

    blocks: dict[str, Floats]  # RDMs of each model, (rdms, pairs)
    covariates: dict[str, Floats]
    comparison: Comparison
    resampling: Resampling
    brains: dict[str, tuple[RDMs, str, float]]  # with ROI and time
    ids: tuple[str, ...]
    settings: dict[str, object]
    match: Any

    @classmethod
    def of(
        cls,
        models: RDMs | Mapping[str, RDMs],
        rdms: RDMs,
        covariates: RDMs | Mapping[str, RDMs] | None,
        comparison: ComparisonLike,
        bootstrap: str | Resampling | None,
        chosen: tuple[str | Sequence[str] | None, str | Sequence[str] | None],
    ) -> _Inputs:
        """Match the stimuli of models, covariates and data; ``chosen`` are ROIs and subjects."""
        base, resampling = find_similarity(comparison), find_resampling(bootstrap)
        resampling.check(base)
        if isinstance(models, Mapping) and models and all(map(is_rdms, models.values())):
            stacks = {str(name): stack for name, stack in models.items()}  # each may be several RDMs
        else:
            stacks = {names[0]: stack for stack, names in model_stacks(models)}
        match = match_ids(shared_stimuli(stacks), stimulus_ids(rdms), names=("models", "RDMs"))
        ids = tuple(sorted(match.matched, key=natural_key))
        resampling = resampling.for_stimuli(ids, stimulus_properties(rdms, ids))
        blocks = {name: reindex(stack, ids) for name, stack in stacks.items()}
        if is_rdms(models):
            blocks = {name: vector[None] for name, vector in model_vectors(models, ids, "all").items()}
        controls = model_vectors(covariates, ids, "all") if covariates is not None else {}
        settings = {
            "comparison": base.name,
            "n_stimuli": len(ids),
            "pairs": "all",
            "controlled": list(controls),
            "models": list(blocks),
            "bootstrap": resampling.name if resampling.resamples else None,
            "n_bootstrap": resampling.n if resampling.resamples else None,
            "variance": resampling.variance_method.name if "stimuli" in resampling.factors else None,
            "groups": resampling.group_names(ids),
            "seeds": {"bootstrap": resampling.seed if resampling.resamples else None},
            "sha256": {"rdms": sha256_rdms(rdms)},
        }
        brains = rdms_by_place(rdms, *chosen)
        return cls(blocks, controls, base, resampling, brains, ids, settings, match)

    def study(self, brain: RDMs, rows: Rows) -> RegressionStudy:
        """The study of a ROI."""
        people, data = check_names(subject_names(brain)), reindex(brain, self.ids)
        if note := repeated_subjects(people, data):
            notify(note)
        covariates = np.array(list(self.covariates.values())).reshape(-1, data.shape[1])
        models, data = shared_pairs(np.concatenate(list(self.blocks.values())), data, covariates)
        owners = [name for name, block in self.blocks.items() for _ in block]
        if empty := [x for x, rdm in zip(owners, models, strict=True) if not np.isfinite(rdm).any()]:
            problem = f"the RDM of model {listed(dict.fromkeys(empty), quote=True)} has no measured pair (NaN"
            raise NeurordlError(f"{problem} everywhere); leave the model out")
        ranked = _kernel(self.comparison, covariates).ranked
        study = RegressionStudy(
            models, data, self.comparison, covariates=covariates, rows=rows, ranked=ranked
        )
        remaining = np.asarray(study.remainders().diagonal())[len(models) :]
        if flat := [name for name, x in zip(people, remaining, strict=True) if not x > 0]:
            problem = "constant, or are explained by the covariates, on the pairs that all RDMs have"
            raise NeurordlError(f"the RDMs of subjects {listed(flat)} are {problem}; leave them out")
        return study

    def infer(self, study: Study, names: Sequence[str]) -> Inference:
        """The inference over the subjects."""
        return infer_study(study, self.resampling, self.resampling.draw(names, self.ids))


class _Table(NamedTuple):
    """Quantities of a ROI."""

    subjects: Sequence[str]
    scores: Floats  # (quantities, subjects)
    means: Mapping[str, Any]  # columns of the rows of means: score, ci_low, ci_high, p, reason
    ceilings: Floats  # (quantities, 2)
    differences: Mapping[str, Any]  # columns, with layer_a and layer_b

    def frame(self, names: Sequence[str], resampling: Resampling) -> pd.DataFrame:
        """A row for each quantity and subject, and one for the mean."""
        n, subjects = len(names), list(self.subjects)
        of_subjects = {"subject": subjects * n, "score": self.scores.ravel(), "n_subjects": 1, "reason": ""}
        of_means = {
            "subject": "mean",
            **self.means,
            "n_subjects": len(subjects),
            "generalizes_to": resampling.generalizes_to,
        }
        rows = np.repeat(np.arange(n), len(subjects))
        table = pd.concat([pd.DataFrame(of_subjects, rows), pd.DataFrame(of_means, np.arange(n))])
        table = table.sort_index(kind="stable")
        table["ceiling_lower"], table["ceiling_upper"] = self.ceilings[table.index].T
        table["layer"] = np.array(names, dtype=object)[table.index]
        return table.fillna({"generalizes_to": ""})


def _evaluation(
    inputs: _Inputs, names: Sequence[str], tables: Mapping[str, _Table], title: str
) -> Evaluation:
    frames, between = [], []
    for label, table in tables.items():
        _, roi, time = inputs.brains[label]
        frames.append(table.frame(names, inputs.resampling).assign(roi=roi, time=time))
        between.append(pd.DataFrame({"roi": roi, "time": time, **table.differences}))
    frame = pd.concat(frames, ignore_index=True).assign(
        comparison=title, n_stimuli=len(inputs.ids), pairs="all", fitted="unknown", dissimilarity="as given"
    )
    over_time = np.isfinite([time for _, _, time in inputs.brains.values()]).all()
    columns = [*COLUMNS[:2], *(["time"] if over_time else []), *COLUMNS[2:]]
    differences = pd.concat(between, ignore_index=True)
    settings = {**inputs.settings, "comparison": title, "layers": list(names), "notices": notices()}
    settings["in_mean"] = {label: list(table.subjects) for label, table in tables.items()}
    return Evaluation(
        frame=frame.reindex(columns=columns),
        match=inputs.match,
        settings=settings,
        differences=differences if over_time else differences.drop(columns="time"),
    ).correct()


# weights


@dataclass(frozen=True)
class _Weights:
    """Weights of models, and the share of each subject that the others' mean weights predict."""

    fit: Literal["ols", "nonneg"] | Ridge

    def __call__(self, rest: Tensor, n: int) -> Tensor:
        """Rows (…, models + 1, subjects)."""
        products, goals = rest[..., :n, :n].nan_to_num(), rest[..., :n, n:]
        weights = self.solved(products, goals)
        size, squares = goals.shape[-1], rest.diagonal(dim1=-2, dim2=-1)[..., n:]
        companions = (
            (weights.sum(-1, keepdim=True) - weights) / (size - 1) if size > 1 else weights * torch.nan
        )
        explained = (companions * (2 * goals.nan_to_num() - products @ companions)).sum(-2) / squares
        return torch.cat([weights, explained[..., None, :]], dim=-2)

    def solved(self, products: Tensor, goals: Tensor) -> Tensor:
        """Weights (…, models, subjects); NaN where they are not unique."""
        n = products.shape[-1]
        identity = torch.eye(n, dtype=products.dtype)
        positive = self.fit == "nonneg"
        if isinstance(self.fit, Ridge):
            positive = self.fit.nonnegative
            products = products + self.fit.penalties[0] * identity
            if not positive:
                return torch.as_tensor(torch.linalg.solve(products, goals.nan_to_num()))
        unique = (torch.linalg.eigvalsh(products)[..., :1] > _SINGULAR)[..., None]
        if positive:
            by_subject = goals.nan_to_num().mT.reshape(-1, goals.shape[-1], n).numpy()
            weights = torch.as_tensor(nonnegative(products.reshape(-1, n, n).numpy(), by_subject))
            return torch.where(unique, weights.mT.reshape(goals.shape), torch.nan)
        return torch.where(
            unique, torch.linalg.solve(torch.where(unique, products, identity), goals), torch.nan
        )


@collect_notices()
def regress_rdms(
    models: RDMs | Mapping[str, RDMs],
    rdms: RDMs,
    *,
    covariates: RDMs | Mapping[str, RDMs] | None = None,
    fit: Literal["ols", "nonneg"] | Ridge = "ols",
    comparison: ComparisonLike = "corr",
    roi: str | Sequence[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = None,
) -> Evaluation:
    """Regress the RDM of each subject on several models at once.

    Weights are standardized: models and subjects have unit variance, so that the weight of a single model is
    its correlation. They are tested over subjects, or what is resampled, as scores of `evaluate` are.

    Parameters
    ----------
    models
        RDMs whose names are the RDM descriptor ``name`` or ``layer``, or a mapping from each name to one RDM.
    rdms
        The data: RDMs, one per subject in each ROI and at each time.
    covariates
        Further RDMs in the regression, with weights of any sign and no penalty, and no row in the table.
    fit
        "ols": least squares. "nonneg": least squares with weights of 0 or more. Or a `Ridge`.

        Weights of the latter two are not 0 in the mean where a model explains nothing, so they have no p:
        `partition_variance` tests what a model adds.
    comparison
        "corr": regress values. "spearman": regress ranks on ranks, taken anew in each resample.
    roi, subjects, bootstrap
        As in `evaluate`.

    Returns
    -------
    Evaluation
        Its table has a row for each model, with the weight in the column ``score``, and ``R²``: the share of
        a subject's variance (of what covariates leave of it) that the mean weights of the other subjects
        predict. It is below 0 where they predict worse than none. Its ceiling is the mean correlation of two
        subjects. Weights are fitted and scored on the same stimuli, so that unrelated models have an R² above
        0 where there are few stimuli, also in the mean over new stimuli: `evaluate_fitted` predicts new ones.

    Raises
    ------
    NeurordlError
        Ids do not match, the fit or the comparison is unknown, or a model has several RDMs.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(16)]
    >>> patterns = np.random.default_rng(0).normal(size=(16, 6))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=6)
    >>> models = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=2, seed=1)
    >>> models.rdm_descriptors = {"name": ["A", "B"]}
    >>> nrl.regress_rdms(models, people).frame["layer"].unique().tolist()
    ['A', 'B', 'R²']
    """
    if not isinstance(fit, Ridge):
        check_choice("fit", fit, ("ols", "nonneg"), "or a Ridge")
    elif len(fit.penalties) > 1:
        raise NeurordlError(
            f"fit={fit!r} has {len(fit.penalties)} penalties to choose from, and nothing is held out here: "
            "give one, or take evaluate_fitted(combine=)"
        )
    inputs = _Inputs.of(models, rdms, covariates, comparison, bootstrap, (roi, subjects))
    if several := [name for name, block in inputs.blocks.items() if len(block) > 1]:
        raise NeurordlError(f"model {several[0]!r} has several RDMs; give each a name, for its weight")
    if "R²" in inputs.blocks:
        raise NeurordlError("a model is called 'R²', a row that the table needs; rename it")
    tables = {name: _regressed(inputs, brain, _Weights(fit)) for name, (brain, _, _) in inputs.brains.items()}
    inputs.settings["untested"] = [] if fit == "ols" else list(inputs.blocks)
    name = str(fit)
    return _evaluation(inputs, [*inputs.blocks, "R²"], tables, f"weight ({name}, {inputs.comparison.name})")


def _regressed(inputs: _Inputs, brain: RDMs, weights: _Weights) -> _Table:
    """The weights of a ROI."""
    names, study = subject_names(brain), inputs.study(brain, weights)
    inference, n = inputs.infer(study, names), len(study.models)
    means, differences = inference.estimates(), inference.differences()
    reasons = np.full(n + 1, "", dtype=object)
    reasons[np.isnan(means["p"])] = "one subject: no interval, no p" if len(names) == 1 else "no variance"
    reasons[np.isnan(means["score"])] = "weights are not unique: a model is constant, or a sum of others"
    i, j = np.triu_indices(n + 1, 1)
    between = j < n  # two weights
    if weights.fit != "ols":
        means["p"][:n], differences["p"][:] = np.nan, np.nan
        reasons[:n][np.isfinite(means["score"][:n])] = (
            "no p: weights of this fit are not 0 in the mean where a model explains nothing"
        )
    if len(names) == 1:
        reasons[n] = "one subject: no weights of others to predict it"
    labels = np.array([*inputs.blocks, "R²"], dtype=object)
    ceilings = np.full((n + 1, 2), np.nan)
    ceilings[n] = _agreement(study.remainders(), n, crossed=True)
    columns = {name: values[between] for name, values in differences.items()}
    pairs = {"layer_a": labels[i[between]], "layer_b": labels[j[between]]}
    return _Table(names, study.scores, {**means, "reason": reasons}, ceilings, {**pairs, **columns})


# shares of variance


@dataclass(frozen=True)
class _Shares:
    """Which shares there are, from semi-partial correlations of models beyond sets of others.

    Attributes
    ----------
    sizes
        Number of RDMs of each model.
    """

    sizes: tuple[int, ...]

    @cached_property
    def chains(self) -> list[tuple[tuple[int, ...], int]]:
        """Each model beyond sets of earlier ones, which give the R² of all sets; and beyond all others."""
        n = len(self.sizes)
        chains = [(x, b) for b in range(n) for size in range(b + 1) for x in combinations(range(b), size)]
        return chains + [(tuple(a for a in range(n) if a != b), b) for b in range(n - 1)]

    @cached_property
    def rows_of(self) -> dict[tuple[tuple[int, ...], int], list[int]]:
        """Numbers of the rows of each chain: one for each RDM of the model."""
        ends = np.cumsum([self.sizes[b] for _, b in self.chains])
        return {x: list(range(end - self.sizes[x[1]], end)) for x, end in zip(self.chains, ends, strict=True)}

    @property
    def subsets(self) -> list[tuple[int, ...]]:
        """Sets of models that share variance, single ones first."""
        n = len(self.sizes)
        return [x for size in range(1, n + 1) for x in combinations(range(n), size)]

    def names(self, models: Sequence[str]) -> list[str]:
        """Names of the shares, and of the total."""
        shares = [
            f"{'shared' if len(subset) > 1 else 'unique'} {' & '.join(models[b] for b in subset)}"
            for subset in self.subsets
        ]
        return [*shares, "total"]

    def explained(self, models: Sequence[int]) -> Floats:
        """(rows,) whose squares add up to the R² of these models."""
        n_rows = len(np.concatenate(list(self.rows_of.values())))
        coefficients = np.zeros(n_rows)
        for b in models:
            coefficients[self.rows_of[tuple(a for a in models if a < b), b]] = 1
        return coefficients

    @cached_property
    def coefficients(self) -> Floats:
        """(shares and total, rows) of the squares: by inclusion and exclusion."""
        everything, shares = range(len(self.sizes)), []
        for subset in self.subsets:
            rest = [b for b in everything if b not in subset]
            parts = [x for size in range(len(subset) + 1) for x in combinations(subset, size)]
            shares.append(sum((-1) ** (len(x) + 1) * self.explained(sorted([*rest, *x])) for x in parts))
        return np.stack([*shares, self.explained(everything)])

    @cached_property
    def tested(self) -> list[list[int]]:
        """Rows that are all 0 where a share is: of unique ones and of the total; none of shared ones."""
        n = len(self.sizes)
        unique = [self.rows_of[tuple(a for a in range(n) if a != b), b] for b in range(n)]
        shared: list[list[int]] = [[] for _ in self.subsets[n:]]
        return [*unique, *shared, np.flatnonzero(self.explained(range(n))).tolist()]

    def __call__(self, rest: Tensor, n: int) -> Tensor:
        """Semi-partial correlations (…, rows, subjects)."""
        starts, rows = np.cumsum([0, *self.sizes]), []
        remaining: dict[tuple[int, ...], Tensor] = {(): rest[..., :n, :]}
        for beyond, b in self.chains:  # what each set leaves is there before it is needed
            matrix = remaining[beyond]
            for k in range(starts[b], starts[b + 1]):
                matrix, row = _eliminated(matrix, k)
                rows.append(row[..., n:])
            remaining[tuple(sorted((*beyond, b)))] = matrix
        squares = rest.diagonal(dim1=-2, dim2=-1)[..., None, n:]
        return torch.stack(rows, dim=-2) / torch.where(squares > 0, squares, torch.nan).sqrt()


def _eliminated(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Inner products of models with all RDMs when model ``k`` is regressed out, and its own before, scaled.

    A model of which nothing is left, or that is constant, changes nothing.
    """
    pivot = matrix[..., k, k, None]
    row = torch.where(pivot > _SINGULAR, matrix[..., k, :] / pivot.clamp(min=_SINGULAR).sqrt(), 0)
    return matrix - row[..., : matrix.shape[-2], None] * row[..., None, :], row


def _f_test(means: Floats, covariance: Floats, dof: int, *, exact: bool) -> float:
    """P of a test that all means are 0; NaN if none has a variance.

    "exact" is Hotelling's test, for covariances over subjects; NaN with fewer degrees of freedom than means.
    Where stimuli are resampled, a covariance is too unsure to be inverted, which makes p far too small. Then
    the sum of squares is compared with its mean, the trace (Box 1954, Ann. Math. Stat. 25:290; Brunner, Dette
    & Munk 1997, J. Am. Stat. Assoc. 92:1494).
    """
    kept = np.diag(covariance) > 0
    means, covariance, n = means[kept], covariance[np.ix_(kept, kept)], int(kept.sum())
    if not n or (exact and dof - n + 1 < 1):
        return np.nan
    values = np.linalg.eigvalsh(covariance)
    if exact and values[0] > _LEAST * values[-1]:
        statistic = means @ np.linalg.solve(covariance, means) * (dof - n + 1) / (n * dof)
        return float(stats.f.sf(statistic, n, dof - n + 1))
    trace = np.trace(covariance)
    number = min(max(trace**2 / (covariance**2).sum(), 1), n)  # of independent squares
    return float(stats.f.sf(means @ means / trace, number, dof))


@dataclass(frozen=True, eq=False)
class _Squares:
    """Sums of squared means of rows, without bias.

    Of a sum ``a'm²`` of squared means m with covariance C, ``a'(m² - diag C)`` has no bias. Its variance is
    that of the linear row ``2 a m``, which the resampling estimates, and ``2 Σ a_i a_j C_ij²``, if the means
    are normal.
    """

    coefficients: Floats
    study: RegressionStudy
    inference: Inference

    @classmethod
    def of(
        cls, coefficients: Floats, study: RegressionStudy, infer: Callable[[Study], Inference]
    ) -> _Squares:
        """Infer the rows of a study, followed by the linear ones."""
        rows = study.rows
        slopes = torch.as_tensor(2 * coefficients * nan_mean(study.scores, 1))

        def both(rest: Tensor, n: int) -> Tensor:
            parts = rows(rest, n)
            return torch.cat([parts, slopes @ parts], dim=-2)

        return cls(coefficients, study, infer(study.with_rows(both)))

    @property
    def n(self) -> int:
        """Number of rows that are squared."""
        return int(self.coefficients.shape[1])

    @cached_property
    def covariance(self) -> Floats:
        """Covariance of the means of the rows, followed by those of the linear rows; NaN of one subject."""
        variance, between = self.inference.model_var, self.inference.diff_var
        n = len(self.inference.scores)
        if variance is None or between is None:
            return np.full((n, n), np.nan)
        covariance, (i, j) = np.diag(variance), np.triu_indices(n, 1)
        covariance[i, j] = covariance[j, i] = (variance[i] + variance[j] - between) / 2
        return covariance

    def estimates(self, contrasts: Floats, *, greater: bool) -> tuple[Floats, dict[str, Floats]]:
        """Contrasts of the sums, (contrasts, sums): values, and columns with their intervals and p.

        A share has a greater error where it is greater. So the ends of an interval are those of the sum on
        the way of the means, by t standard errors of the linear row to either side, as the squares of the
        ends of a correlation's interval are those of its square.
        """
        a, covariance, dof = contrasts @ self.coefficients, self.covariance, self.inference.dof
        means, n = nan_mean(self.study.scores, 1), self.n
        among, linear = covariance[:n, :n], covariance[n:, n:]
        first = np.sqrt(np.maximum(np.einsum("ci,ij,cj->c", contrasts, linear, contrasts), 0))
        second = np.sqrt(np.maximum(2 * np.einsum("ci,ij,cj->c", a, among**2, a), 0))
        way = covariance[:n, n:] @ contrasts.T / np.where(first > 0, first, np.inf)
        limits = np.sqrt(np.diag(among))[:, None]
        bend = (a * np.clip(way, -limits, limits).T ** 2).sum(axis=1)
        estimates, reach = a @ (means**2 - np.diag(among)), stats.t.ppf(0.975, dof)
        flat = (np.abs(estimates) <= _NOTHING) & (np.hypot(first, second) <= _NOTHING**0.5)
        estimates, first, second, bend = (np.where(flat, 0, x) for x in (estimates, first, second, bend))
        steps = [np.full(len(a), -reach), np.full(len(a), reach)]
        with np.errstate(divide="ignore", invalid="ignore"):
            steps.append(np.nan_to_num(np.clip(-first / (2 * bend), -reach, reach)))  # where it turns
        ends = [np.where(flat, 0, a @ means**2) + step * first + step**2 * bend for step in steps]
        columns = _tested(estimates, np.hypot(first, second), dof, greater=greater)
        columns["ci_low"] = np.min([*ends, estimates - reach * second], axis=0)
        columns["ci_high"] = np.max([*ends, estimates + reach * second], axis=0)
        return estimates, columns


@collect_notices()
def partition_variance(
    models: RDMs | Mapping[str, RDMs],
    rdms: RDMs,
    *,
    covariates: RDMs | Mapping[str, RDMs] | None = None,
    comparison: ComparisonLike = "corr",
    crossed: bool = True,
    roi: str | Sequence[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = None,
) -> Evaluation:
    """Partition the variance of RDMs into what each of 2 to 4 models explains alone and with others.

    Subjects' RDMs are regressed on the models by least squares. ``unique A`` is what A explains beyond all
    other models, ``shared A & B`` is what either explains but no other model does, and ``total`` is what all
    explain together: the shares add up to it. A shared part can be below 0, where a model hides what another
    explains (suppression).

    In each subject's RDM, least squares explain noise too: shares of a subject are above 0 whatever the
    models are, and no test against 0 holds. So shares are ``crossed`` by default: the squares of which they
    consist are products of two subjects, whose noise is independent, and the means estimate without bias
    which share of the variance the model's part has that subjects have in common. They may be below 0 by
    chance. If stimuli are resampled, what these stimuli add by chance is subtracted as well.

    Parameters
    ----------
    models
        RDMs whose names are the RDM descriptor ``name`` or ``layer``, or a mapping from each name to one RDM,
        or to several, which then are one set of predictors, such as the layers of a network.
    rdms
        The data: RDMs, one per subject in each ROI and at each time.
    covariates
        RDMs that are regressed out of models and subjects first, as in `Partial`: shares are of what they
        leave.
    comparison
        "corr": regress values. "spearman": regress ranks on ranks.
    crossed
        Whether squares are products of different subjects. False gives the mean of what each subject's own
        regression explains, as other software does, also of a single subject.
    roi, subjects
        As in `evaluate`.
    bootstrap
        What is resampled, as in `evaluate`. Without it, results are for these stimuli. For new stimuli take
        40 or more: of 24, intervals of shared parts and totals covered 90 % in simulations.

    Returns
    -------
    Evaluation
        Its table has the shares in the column ``layer``, with 95 % intervals. ``p`` of a unique share and of
        the total tests whether the correlations are 0 of which it is the square (two-sided t; of several RDMs
        Hotelling's test, or where stimuli are resampled that of the sum of their squares); that of a shared
        part is one-sided. The ceiling is the mean correlation of two
        subjects, which the true model's total would reach.

    Raises
    ------
    NeurordlError
        There are fewer than 2 or more than 4 models; ids do not match; shares are crossed of a single
        subject without resampled stimuli; or shares of each subject are to generalize to new stimuli.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(16)]
    >>> patterns = np.random.default_rng(0).normal(size=(16, 6))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=6)
    >>> models = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=2, seed=1)
    >>> models.rdm_descriptors = {"name": ["A", "B"]}
    >>> nrl.partition_variance(models, people).frame["layer"].unique().tolist()
    ['unique A', 'unique B', 'shared A & B', 'total']
    """
    inputs = _Inputs.of(models, rdms, covariates, comparison, bootstrap, (roi, subjects))
    if not _FEWEST <= len(inputs.blocks) <= _MOST:
        remedy = "give one model several RDMs, or take regress_rdms" if len(inputs.blocks) > _MOST else ""
        problem = f"variance is partitioned among {_FEWEST} to {_MOST} models, not {len(inputs.blocks)}"
        raise NeurordlError(f"{problem}; {remedy or 'take evaluate'}")
    if not crossed and "stimuli" in inputs.resampling.factors:
        remedy = "resample subjects only, or leave crossed=True"
        raise NeurordlError(f"shares within each subject have no unbiased form for new stimuli; {remedy}")
    shares = _Shares(tuple(len(block) for block in inputs.blocks.values()))
    tables = {
        name: _partitioned(inputs, brain, shares, crossed) for name, (brain, _, _) in inputs.brains.items()
    }
    title = f"share of variance ({inputs.comparison.name}{'' if crossed else ', within subjects'})"
    inputs.settings["test"] = "above zero; of unique shares and the total by their signed correlations"
    return _evaluation(inputs, shares.names(list(inputs.blocks)), tables, title)


def _partitioned(inputs: _Inputs, brain: RDMs, shares: _Shares, crossed: bool) -> _Table:
    """The shares of a ROI."""
    names, study = subject_names(brain), inputs.study(brain, shares)
    n, rows, a = len(names), study.scores, shares.coefficients
    if crossed and n < 2 and "stimuli" not in inputs.resampling.factors:
        remedy = "give more, resample stimuli, or take crossed=False"
        raise NeurordlError(f"one subject ({names[0]}) cannot be crossed with another; {remedy}")
    squares = _Squares.of(a, study, lambda extended: inputs.infer(extended, names))
    dof, means = squares.inference.dof, nan_mean(rows, 1)
    exact = "stimuli" not in inputs.resampling.factors
    i, j = np.triu_indices(len(a), 1)
    contrasts = np.eye(len(a))[i] - np.eye(len(a))[j]
    if crossed:
        companions = (means[:, None] * n - rows) / (n - 1) if n > 1 else np.full(rows.shape, np.nan)
        scores = a @ (rows * companions)
        estimates, columns = squares.estimates(np.eye(len(a)), greater=True)
        differences, between = squares.estimates(contrasts, greater=False)
    else:
        scores = a @ rows**2
        (estimates, errors), (differences, spread) = map(_mean_and_error, (scores, contrasts @ scores))
        columns = _tested(estimates, errors, dof, greater=True)
        between = _tested(differences, spread, dof, greater=False)
    t = stats.t.ppf(0.975, dof)
    for k, tested in enumerate(shares.tested):
        covariance = squares.covariance[np.ix_(tested, tested)]
        if tested:
            columns["p"][k] = _f_test(means[tested], covariance, dof, exact=exact)
        if crossed and len(tested) == 1:  # squares of the bounds of a correlation
            bounds = abs(means[tested[0]]) + np.array([-t, t]) * np.sqrt(covariance[0])
            columns["ci_low"][k], columns["ci_high"][k] = np.sign(bounds) * bounds**2
    reasons = np.full(len(a), "", dtype=object)
    for k, tested in enumerate(shares.tested):
        if len(tested) == 1 and means[tested[0]] < 0 and columns["p"][k] < _ALPHA:
            reasons[k] = "the model is unlike the subjects beyond the others: its weight is below 0"
    untested = "no test: too few subjects, or nothing of a model is left beside the others"
    labels = np.array(shares.names(list(inputs.blocks)), dtype=object)
    ceilings = _agreement(study.remainders(), len(study.models), crossed)
    return _Table(
        names,
        scores,
        {"score": estimates, **columns, "reason": np.where(np.isnan(columns["p"]), untested, reasons)},
        np.tile(ceilings, (len(labels), 1)),
        {
            "layer_a": labels[i],
            "layer_b": labels[j],
            "difference": differences,
            **between,
        },
    )


def _mean_and_error(scores: Floats) -> tuple[Floats, Floats]:
    """Mean over subjects and its standard error; NaN of one subject."""
    n = scores.shape[1]
    spread = scores.std(axis=1, ddof=1) if n > 1 else np.full(len(scores), np.nan)
    return scores.mean(axis=1), spread / np.sqrt(n)


def _tested(estimates: Floats, errors: Floats, dof: int, *, greater: bool) -> dict[str, Floats]:
    """Columns of a table: 95 % intervals by t, and p of above 0, or of another value than 0."""
    reach = stats.t.ppf(0.975, dof) * errors
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimates / errors
    p = stats.t.sf(statistic, dof) if greater else 2 * stats.t.sf(np.abs(statistic), dof)
    return {"ci_low": estimates - reach, "ci_high": estimates + reach, "p": p}


def _agreement(rest: Tensor, n: int, crossed: bool) -> list[float]:
    """Ceilings of the total, from what covariates leave of ``n`` models and the subjects; NaN of one.

    Crossed: the mean correlation of two subjects. Else the mean share of a subject that the others' mean
    RDM explains, and the greatest that as many RDMs as there are models can.
    """
    among, size = rest[n:, n:], len(rest) - n
    if size < 2:
        return [np.nan, np.nan]
    lengths = among.diagonal().sqrt()
    correlated = among / lengths[:, None] / lengths
    if crossed:
        return [float((correlated.sum() - size) / (size * (size - 1)))] * 2
    lower = kernels.bounds(correlated, torch.ones(size, dtype=among.dtype))[0].square().mean()
    return [float(lower), float(torch.linalg.eigvalsh(correlated)[-n:].sum() / size)]
