"""Models that share variance: partial correlations, regression on several models, and shares of variance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, notify
from neurordl.measures.comparisons import (
    COMPARISONS,
    Comparison,
    ComparisonLike,
    find_similarity,
)
from neurordl.rsa.compare import model_stacks, model_vectors
from neurordl.validate import brief, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs


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
        base = find_similarity(self.comparison)
        if base.kernel is None or base.kernel.partial(np.empty((0, 3))) is None:
            usable = [
                name for name, x in COMPARISONS.items() if x.kernel and x.kernel.partial(np.empty((0, 3)))
            ]
            raise NeurordlError(f"comparison={base.name!r} has no partial form; take {listed(usable)}")
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
        kernel = base.kernel.partial(vectors) if base.kernel is not None else None
        hint = (
            f": what {listed(self.names)} leave{'s' if len(self.names) == 1 else ''} of one RDM is constant"
        )
        return Comparison(
            f"partial {base.name}", pool=base.pool, undefined="constant", undefined_hint=hint, kernel=kernel
        )

    def shared(self, models: Floats, data: Floats, ids: Sequence[str]) -> tuple[Floats, Floats]:
        """Models (models, pairs) and subjects (subjects, pairs), both NaN where one or a covariate is."""
        vectors = np.stack(list(model_vectors(self.covariates, ids, "all").values()))
        return shared_pairs(models, data, vectors)


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
