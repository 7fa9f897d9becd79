"""Models of several RDMs, fitted and scored on other stimuli and subjects: `evaluate_fitted`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from rsatoolbox.rdm.rdms import RDMs

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError
from neurordl.ids import match_ids, natural_key
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.rdms.selection import reindex, stimulus_ids
from neurordl.rsa.inference.crossvalidation import infer_fitted
from neurordl.rsa.inference.models import Model
from neurordl.rsa.inference.tests import interval, p_values
from neurordl.rsa.inputs import rdms_by_roi
from neurordl.rsa.table import GENERALISES

__all__ = ["evaluate_fitted"]


def evaluate_fitted(
    models: Mapping[str, RDMs],
    rdms: RDMs,
    *,
    kind: Literal["weighted", "select"] = "weighted",
    comparison: str | Comparison = "corr",
    k_subjects: int = 1,
    k_stimuli: int = 2,
    roi: str | Sequence[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    average: str | Sequence[str] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | None = None,
    n_bootstrap: int = 1000,
    n_splits: int = 2,
    seed: int = 0,
    missing: Literal["error", "ignore"] = "error",
) -> pd.DataFrame:
    """Similarity of fitted models with subjects on stimuli, or of subjects, that they were not fitted to.

    Estimand: the mean similarity over what ``generalises_to`` says, of a model fitted to as much data as all
    folds but one hold. rsatoolbox's ``crossval`` and ``bootstrap_crossval``, matched by id.

    Parameters
    ----------
    models
        RDMs by the name of the model: one RDM is taken as it is, several are fitted.
    rdms
        The data, as in `evaluate`; ``roi``, ``subjects``, ``select``, ``average`` and ``missing`` as there.
    kind
        What several RDMs become: a sum with "weighted" RDMs, the weights 0 or more, or the one to "select".
    comparison
        How RDMs are compared, and fitted: see `neurordl.rsa.inference.models.fit_model`.
    k_subjects, k_stimuli
        Folds; 1 does not split. A fold takes three stimuli or more.
    bootstrap, n_bootstrap, n_splits
        What is resampled, how often, and how often each resample is split at random.
    seed
        Of folds and resamples.

    Returns
    -------
    DataFrame
        A row for each ROI and model: the score over the folds of all data, its 95 % interval and one-sided p
        against zero (NaN without bootstrap), and the noise ceiling on the same folds.

    Raises
    ------
    NeurordlError
        Ids that do not match, models of different stimuli, more folds than there can be, a fitted model
        that nothing is held out from, several RDMs of one subject.
    """
    comparison = find_similarity(comparison)
    if not isinstance(models, Mapping) or not models:
        raise NeurordlError("models= is a dict from the name of a model to its RDMs, one or several")
    if kind not in ("weighted", "select"):
        raise NeurordlError(f"unknown kind of model {kind!r}; choose weighted or select")
    fitted = [name for name, own in models.items() if len(own) > 1]
    if fitted and max(k_subjects, k_stimuli) < 2:
        raise NeurordlError(
            f"model {fitted[0]!r} is fitted, and nothing is held out from it: take 2 folds of stimuli "
            "(k_stimuli) or of subjects (k_subjects), or more"
        )
    first, *others = models
    offered = stimulus_ids(models[first])
    for name in others:
        if set(stimulus_ids(models[name])) != set(offered):
            raise NeurordlError(
                f"the models {first!r} and {name!r} are of different stimuli; give RDMs of the same ones"
            )
    match = match_ids(offered, stimulus_ids(rdms), names=("models", "RDMs"), missing=missing)
    ids = sorted(match.matched, key=natural_key)
    stack = [
        Model(str(name), reindex(own, ids), kind if name in fitted else "fixed")
        for name, own in models.items()
    ]
    frames = []
    for place, brain in rdms_by_roi(rdms, roi, subjects, select, average).items():
        found = infer_fitted(
            *(stack, reindex(brain, ids), comparison),
            resample=bootstrap or "none",
            k_subjects=k_subjects,
            k_stimuli=k_stimuli,
            n_bootstrap=n_bootstrap,
            n_cv=n_splits,
            rng=np.random.default_rng(seed),
        )
        low, high = interval(found, centre="data")
        nothing = np.full(len(stack), np.nan)
        p = nothing if found.model_var is None else p_values(found, centre="data").zero
        columns: dict[str, Any] = {
            "model": [model.name for model in stack],
            "kind": [model.kind for model in stack],
            "roi": place,
            "comparison": comparison,
            "score": nan_mean(found.scores, 1),
            "ci_low": low,
            "ci_high": high,
            "p": p,
            "ceiling_lower": found.ceiling[0],
            "ceiling_upper": found.ceiling[1],
            "generalises_to": GENERALISES[found.resample] if bootstrap else "",
            "n_subjects": found.n_subjects,
            "n_stimuli": found.n_stimuli,
            "k_subjects": k_subjects,
            "k_stimuli": k_stimuli,
        }
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)
