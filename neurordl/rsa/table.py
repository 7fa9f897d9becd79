"""Rows of an evaluation's table: of each layer and ROI, the subjects, their mean, the mean of their RDMs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from scipy import stats

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.io import sha256_array
from neurordl.measures.comparisons import Comparison
from neurordl.measures.kernels.kernel import missing_groups
from neurordl.rdms.selection import reindex, stimulus_ids, subject_names
from neurordl.rsa.ceilings import ceiling
from neurordl.rsa.compare import similarity, why_undefined
from neurordl.rsa.inference.draws import Draws
from neurordl.rsa.inference.infer import Inference, infer
from neurordl.rsa.inference.tests import correct, interval, mean_interval, p_values
from neurordl.rsa.inputs import PairChoice, RunLike

__all__ = [
    "GENERALISES",
    "Tested",
    "against_ceilings",
    "comparisons_of",
    "group_rows",
    "rows_of",
    "who_was_fitted",
]

GENERALISES = {
    "none": "subjects",
    "subjects": "subjects",
    "stimuli": "stimuli",
    "both": "subjects and stimuli",
}
"""What a mean generalises to, by what was resampled."""

_SURE = ("ci_low", "ci_high", "p", "p_fdr", "p_holm", "p_ceiling")

_STIMULI_FITTED = {"held-out": "no", "fitted": "yes", "cross": "one of each pair"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tested:
    """What was tested in one ROI.

    Attributes
    ----------
    found
        The layers, with each other and against zero.
    against_ceilings
        (layers,) p of each against the lower noise ceiling.
    agreement
        p of the ceiling itself, against chance; NaN where it was not tested.
    """

    found: Inference
    against_ceilings: Floats
    agreement: float


def who_was_fitted(
    brain: RDMs, run: RunLike | None, chosen: PairChoice, asked: bool
) -> tuple[list[bool], dict[str, str]]:
    """Subjects that the mean is over, and what ``fitted`` says for each subject and for the mean."""
    names = subject_names(brain)
    if taken := {"mean", "group"} & set(names):
        raise NeurordlError(f"a subject is called {taken.pop()!r}, a word that the table needs; rename it")
    if run is None:
        return [True] * len(names), dict.fromkeys((*names, "mean"), "unknown")
    there = {str(subject) for subject in run.fitted_subjects}
    # An RDM without a subject, such as a group mean, may be of anyone.
    other = "unknown" if "unnamed" in there else "no"
    told = {name: "yes" if name in there else other for name in names}
    if run.fitted_rdms:  # the same RDM under another name is fitted all the same
        vectors = reindex(brain, sorted(stimulus_ids(brain), key=natural_key))
        vectors[~np.isfinite(vectors)] = np.nan
        for name, vector in zip(names, vectors, strict=True):
            if sha256_array(vector) in run.fitted_rdms:
                told[name] = "yes"
    if "subject" not in brain.rdm_descriptors and (run.fitted_ids or there):
        told = dict.fromkeys(told, "unknown")
    mixed = len(set(told.values())) > 1
    pooled = [asked or not mixed or told[name] != "yes" for name in names]
    told["mean"] = told[names[0]] if not mixed else "some" if asked else other
    stimuli = _STIMULI_FITTED.get(chosen.name) or {0: "no", len(chosen.ids): "yes"}.get(chosen.used, "some")
    return pooled, {name: f"stimuli: {stimuli}, subjects: {value}" for name, value in told.items()}


def rows_of(
    layers: Sequence[str],
    models: Floats,
    subjects: Sequence[str],
    data: Floats,
    pooled: Sequence[bool],
    fitted: Mapping[str, str],
    tests: Tested,
) -> Iterator[dict[str, Any]]:
    """Rows of one ROI: of each layer, the subjects and their mean."""
    found = tests.found
    comparison = found.comparison
    scores = similarity(models, data, comparison)
    bounds = np.full((len(models), 2), np.nan)
    several = sum(pooled) > 1
    if several:
        for alike, absent in missing_groups(models):  # model and ceiling on the same pairs
            bounds[alike] = ceiling(np.where(absent, np.nan, data[pooled]), comparison)
    note = "" if several else "one subject: no noise ceiling"
    sure = [*_means(scores[:, pooled], found, tests.against_ceilings)]
    corrected = {
        "p_fdr": correct(np.array([one["p"] for one in sure]), "fdr"),
        "p_holm": correct(np.array([one["p"] for one in sure]), "holm"),
    }
    for k, layer in enumerate(layers):
        common = {"layer": layer, "ceiling_lower": bounds[k, 0], "ceiling_upper": bounds[k, 1]}
        reasons = []
        for subject, vector, score in zip(subjects, data, scores[k], strict=True):
            reason = note
            if np.isnan(score):
                reason = why_undefined(
                    models[k], vector, comparison, (f"layer {layer!r}", f"subject {subject!r}")
                )
                reasons.append(reason)
            alone = {"subject": subject, "score": score, "n_subjects": 1, "fitted": fitted[subject]}
            yield {**common, **alone, **dict.fromkeys(_SURE, np.nan), "generalises_to": "", "reason": reason}
        mean = {**sure[k], **{name: values[k] for name, values in corrected.items()}}
        reason = ""
        if mean["n_subjects"] == 0:
            reason = reasons[0]
        elif np.isnan(mean["p"]):
            reason = "one subject: no interval, no p" + (", no noise ceiling" if note else "")
            if several and found.variance == "components":
                reason = (
                    "no variance by components: undefined without some stimulus, or for some subject; "
                    "variance='bootstrap' has one"
                )
        elif tests.agreement >= 0.05:
            reason = f"noise ceiling no better than chance: subjects do not agree (p = {tests.agreement:.2f})"
        together = {"subject": "mean", "fitted": fitted["mean"], "reason": reason}
        yield {**common, **together, **mean, "generalises_to": GENERALISES[found.resample]}


def against_ceilings(
    models: Floats, data: Floats, found: Inference, draws: Draws | None, device: str | torch.device | None
) -> Floats:
    """Each layer's p against the lower ceiling on its own pairs; those that all layers have may be fewer."""
    out = np.full(len(models), np.nan)
    groups = missing_groups(models)
    for rows, absent in groups:
        one = found
        if absent.all():
            continue
        if len(groups) > 1:
            options: dict[str, Any] = {"resample": found.resample, "draws": draws, "device": device}
            one = infer(models[rows], np.where(absent, np.nan, data), found.comparison, **options)
        if one.model_var is not None:
            out[rows] = p_values(one, centre="data").ceiling
    return out


def _means(scores: Floats, found: Inference, p_ceiling: Floats) -> Iterator[dict[str, Any]]:
    """Of each layer the mean over subjects, its interval, and p against zero and against the ceiling."""
    tested = found.model_var is not None
    p = p_values(found, centre="data") if tested else None
    low, high = interval(found, centre="data")
    for k, own in enumerate(scores):
        mean, *bounds, p_zero, n = mean_interval(own)
        if found.resample != "none":  # else each layer by the subjects in whom it is defined
            bounds, p_zero = [low[k], high[k]], p.zero[k] if p is not None else np.nan
        yield {
            "score": mean,
            "n_subjects": n,
            "ci_low": bounds[0],
            "ci_high": bounds[1],
            "p": p_zero,
            "p_ceiling": p_ceiling[k],
        }


def comparisons_of(layers: Sequence[str], found: Inference) -> pd.DataFrame:
    """Each two layers of one ROI: the difference of their means, its interval, and p (two-sided)."""
    i, j = np.triu_indices(len(layers), 1)
    means = np.array([mean_interval(own)[0] for own in found.scores])
    difference = means[i] - means[j]
    reach, p = np.full(len(i), np.nan), np.full(len(i), np.nan)
    if found.diff_var is not None:
        reach = stats.t.ppf(0.975, found.dof) * np.sqrt(np.maximum(found.diff_var, 0))
        p = p_values(found, centre="data").pairs[i, j]
    return pd.DataFrame(
        {
            "layer_a": np.array(layers, dtype=object)[i],
            "layer_b": np.array(layers, dtype=object)[j],
            "difference": difference,
            "ci_low": difference - reach,
            "ci_high": difference + reach,
            "p": p,
            "p_fdr": correct(p, "fdr"),
            "p_holm": correct(p, "holm"),
        }
    )


def group_rows(
    layers: Sequence[str], models: Floats, data: Floats, comparison: Comparison, fitted: str
) -> Iterator[dict[str, Any]]:
    """A row for each layer: its similarity with the mean RDM of the subjects."""
    measured = np.isfinite(data)
    count = measured.sum(axis=0)
    mean = np.full(data.shape[1], np.nan)
    np.divide(np.where(measured, data, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    undefined = {**dict.fromkeys((*_SURE, "ceiling_lower", "ceiling_upper"), np.nan), "generalises_to": ""}
    for k, (layer, score) in enumerate(
        zip(layers, similarity(models, mean[None], comparison)[:, 0], strict=True)
    ):
        reason = "the mean RDM of the subjects: no interval, no noise ceiling"
        if np.isnan(score):
            reason = why_undefined(models[k], mean, comparison, (f"layer {layer!r}", "the subjects' mean"))
        own = {"layer": layer, "subject": "group", "score": score, "n_subjects": len(data)}
        yield {**undefined, **own, "fitted": fitted, "reason": reason}
