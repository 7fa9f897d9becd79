"""How well layers of a network, or model RDMs, match subjects' RDMs: `evaluate`, and the table it gives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from torch import nn

from neurordl.artifacts import sha256_array, versions, write_json, write_text
from neurordl.errors import NeurordlError
from neurordl.matching import Match, match_ids
from neurordl.rdms.selection import reindex, stimulus_ids, subject_names
from neurordl.rsa.inference import (
    ceiling,
    check_method,
    compare,
    mean_interval,
    missing_groups,
    noise_ceiling,
    similarity,
    why_undefined,
)
from neurordl.rsa.inputs import (
    PairChoice,
    RunLike,
    choose_pairs,
    model_stimuli,
    model_vectors,
    network_measure,
    network_vectors,
    rdms_by_roi,
)
from neurordl.stimuli import StimulusSet

__all__ = ["COLUMNS", "Evaluation", "RunLike", "compare", "evaluate", "noise_ceiling"]

COLUMNS = (
    *("layer", "roi", "subject", "method", "score"),
    *("ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"),
    *("n_subjects", "n_stimuli", "pairs", "fitted", "reason", "dissimilarity"),
)
_STIMULI_FITTED = {"held-out": "no", "fitted": "yes", "cross": "one of each pair"}

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of layers against subjects, with what was matched and how it was done.

    Attributes
    ----------
    frame
        A row for each layer, ROI and subject, and one for the mean over subjects; columns ``COLUMNS``.
    match
        Which stimuli were matched with the RDMs.
    settings
        The choices made, the checksums of the inputs and the seed of the run, as saved.
    """

    frame: pd.DataFrame
    match: Match
    settings: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.frame.copy()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``scores.csv`` and ``evaluation.json`` (settings, versions, match) into a folder.

        Raises
        ------
        NeurordlError
            The folder or a file cannot be written; what was there stays.
        """
        out = Path(folder)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NeurordlError(f"cannot make the folder {out}: {error.strerror}; choose another") from error
        match = {name: list(getattr(self.match, name)) for name in ("matched", "missing", "unused")}
        record = {"settings": self.settings, "match": {**match, "reordered": self.match.reordered}}
        write_text(out / "scores.csv", self.frame.to_csv(index=False))
        write_json(out / "evaluation.json", {**record, "versions": versions()})
        return out

    def __str__(self) -> str:
        shown = [*COLUMNS[:2], *COLUMNS[4:11]]
        means = self.frame[self.frame["subject"] == "mean"]
        chosen = self.settings
        title = f"{chosen.get('method')}, {chosen.get('pairs')} pairs of {chosen.get('n_stimuli')} stimuli"
        table = means[shown].to_string(index=False, float_format="{:.3f}".format)
        told = means[means["reason"] != ""]
        notes = [f"{layer}: {reason}" for layer, reason in zip(told["layer"], told["reason"], strict=True)]
        return "\n".join([title, str(self.match), "", table, *notes])

    def _repr_html_(self) -> str:
        return str(
            self.frame[self.frame["subject"] == "mean"].to_html(index=False, float_format="{:.3f}".format)
        )


def evaluate(
    source: RunLike | nn.Module | RDMs | Mapping[str, RDMs],
    rdms: RDMs,
    *,
    stimuli: StimulusSet | None = None,
    layers: str | Sequence[str] = "all",
    method: str = "rho-a",
    dissimilarity: str | None = None,
    subjects: str | Sequence[str] | None = None,
    roi: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    average: str | Sequence[str] | None = None,
    group: bool = False,
    pairs: Literal["held-out", "fitted", "cross", "all"] | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool = False,
    missing: Literal["error", "ignore"] = "error",
) -> Evaluation:
    """Similarity of every layer's RDM with every subject's, its mean, and the noise ceiling.

    Parameters
    ----------
    source
        A run of `fit`, a network, or model RDMs: named by the RDM descriptor ``layer`` or ``name``, else
        numbered; or a mapping from name to RDMs with one RDM.
    rdms
        The data: RDMs with stimulus ids, and the RDM descriptors ``subject`` and, where it applies, ``roi``.
    stimuli
        The images, for a run or a network. A run's must be prepared as they were for the run.
    layers
        Names, globs, "all", or "top": the layers of a network that stand in no other layer.
    method
        How RDMs are compared: one of ``neurordl.rsa.inference.METHODS``.
    dissimilarity
        Measure of the network's RDMs. By default that of the data; ``euclidean`` where theirs is crossnobis
        or Mahalanobis, ``correlation`` where it is unknown, both with a warning.
    subjects, roi, select, average
        Which RDMs, as in `select_rdms`. Without ``roi`` each ROI is evaluated, without ``subjects`` each one.
    group
        Also score the subjects' mean RDM (each pair over those in whom it was measured): a row with subject
        "group". It is another scale than "mean", which a noise ceiling does not bound.
    pairs
        "held-out": both stimuli unused by the run; "fitted": both used (fitted or validation); "cross": one
        of each; "all". By default "held-out" where the run used none of the stimuli, "fitted" where it used
        all, "all" without a run.
    batch_size, device, progress
        As in `extract_patterns`.
    missing
        "ignore" leaves out stimuli that the RDMs do not have.

    Returns
    -------
    Evaluation
        In rows with subject "mean", the interval (95 %, t) and p (against zero, one-sided) are over subjects:
        they generalise to subjects, for these stimuli. The mean and the ceiling, on the same pairs, are those
        of the subjects asked for; without ``subjects``, where some taught the run and others did not, of
        those who did not (``n_subjects`` and ``fitted`` say so). A person who taught with one ROI counts as
        fitted in all. What is undefined is NaN, and ``reason`` says why.

    Raises
    ------
    NeurordlError
        Ids that do not match, fewer than three stimuli, several RDMs of one subject, an unknown layer, method
        or measure, preprocessing other than the run's, or used and unused stimuli together without ``pairs``.
    """
    check_method(method)
    run = source if isinstance(source, RunLike) else None
    network = run.student if run else source if isinstance(source, nn.Module) else None
    offered = model_stimuli(source, stimuli)
    match = match_ids(offered, stimulus_ids(rdms), what=("stimuli", "RDMs"), missing=missing)
    chosen = choose_pairs(match.matched, run, pairs)
    brains = rdms_by_roi(rdms, roi, subjects, select, average)
    if network is not None and stimuli is not None:
        measure = network_measure(dissimilarity, rdms)
        options = {"batch_size": batch_size, "device": device, "progress": progress}
        models = network_vectors(network, stimuli, chosen.ids, layers, measure, **options)
    elif dissimilarity is None:
        measure = "as given"
        models = model_vectors(source, chosen.ids, layers)
    else:
        raise NeurordlError("dissimilarity= is for a network's RDMs; those of the models are there already")
    stack = np.where(chosen.keep, np.stack(list(models.values())), np.nan)
    rows: list[dict[str, Any]] = []
    for name, brain in brains.items():
        data = np.where(chosen.keep, reindex(brain, chosen.ids), np.nan)
        pooled, fitted = _fitted(brain, run, chosen, asked=subjects is not None)
        found = list(_rows(list(models), stack, subject_names(brain), data, method, pooled, fitted))
        if group:
            found += _group_rows(list(models), stack, data[pooled], method, fitted["mean"])
        rows += [{**row, "roi": name} for row in found]
    common: dict[str, Any] = {
        "method": method,
        "n_stimuli": len(chosen.ids),
        "pairs": chosen.name,
        "dissimilarity": measure,
    }
    recorded = getattr(run, "record", {})
    settings = {
        **common,
        "source": type(source).__name__,
        "layers": list(models),
        "subjects": {name: list(subject_names(brain)) for name, brain in brains.items()},
        "select": dict(select or {}),
        "average": average,
        "preprocessing": stimuli.preprocessing.as_dict() if stimuli else None,
        "seeds": {"run": recorded.get("settings", {}).get("seed")},  # nothing is drawn here
        "sha256": {
            "rdms": sha256_array(np.asarray(rdms.dissimilarities)),
            "stimuli": stimuli.sha256 if stimuli else None,
        },
    }
    return Evaluation(pd.DataFrame(rows).assign(**common)[list(COLUMNS)], match, settings)


def _fitted(
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
    if "subject" not in brain.rdm_descriptors and (run.fitted_ids or there):
        told = dict.fromkeys(told, "unknown")
    mixed = len(set(told.values())) > 1
    pooled = [asked or not mixed or told[name] != "yes" for name in names]
    told["mean"] = told[names[0]] if not mixed else "some" if asked else other
    stimuli = _STIMULI_FITTED.get(chosen.name) or {0: "no", len(chosen.ids): "yes"}.get(chosen.used, "some")
    return pooled, {name: f"stimuli: {stimuli}, subjects: {value}" for name, value in told.items()}


def _rows(
    layers: Sequence[str],
    models: Floats,
    subjects: Sequence[str],
    data: Floats,
    method: str,
    pooled: Sequence[bool],
    fitted: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Rows of one ROI: of each layer, the subjects and their mean."""
    scores = similarity(models, data, method)
    bounds = np.full((len(models), 2), np.nan)
    several = sum(pooled) > 1
    if several:
        for alike, absent in missing_groups(models):  # model and ceiling on the same pairs
            bounds[alike] = ceiling(np.where(absent, np.nan, data[pooled]), method)
    note = "" if several else "one subject: no noise ceiling"
    for k, layer in enumerate(layers):
        common = {"layer": layer, "ceiling_lower": bounds[k, 0], "ceiling_upper": bounds[k, 1]}
        reasons = []
        for subject, vector, score in zip(subjects, data, scores[k], strict=True):
            reason = note
            if np.isnan(score):
                reason = why_undefined(models[k], vector, method, f"layer {layer!r}", f"subject {subject!r}")
                reasons.append(reason)
            alone = {"subject": subject, "score": score, "n_subjects": 1, "fitted": fitted[subject]}
            yield {**common, **alone, **dict.fromkeys(("ci_low", "ci_high", "p"), np.nan), "reason": reason}
        mean, low, high, p, n = mean_interval(scores[k][pooled])
        reason = ""
        if n == 0:
            reason = reasons[0]
        elif n == 1:
            reason = "one subject: no interval, no p" + (", no noise ceiling" if note else "")
        together = {"subject": "mean", "score": mean, "n_subjects": n, "fitted": fitted["mean"]}
        yield {**common, **together, "ci_low": low, "ci_high": high, "p": p, "reason": reason}


def _group_rows(
    layers: Sequence[str], models: Floats, data: Floats, method: str, fitted: str
) -> Iterator[dict[str, Any]]:
    """A row for each layer: its similarity with the mean RDM of the subjects."""
    measured = np.isfinite(data)
    count = measured.sum(axis=0)
    mean = np.full(data.shape[1], np.nan)
    np.divide(np.where(measured, data, 0.0).sum(axis=0), count, out=mean, where=count > 0)
    undefined = dict.fromkeys(("ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"), np.nan)
    for k, (layer, score) in enumerate(
        zip(layers, similarity(models, mean[None], method)[:, 0], strict=True)
    ):
        reason = "the mean RDM of the subjects: no interval, no noise ceiling"
        if np.isnan(score):
            reason = why_undefined(models[k], mean, method, f"layer {layer!r}", "the subjects' mean")
        own = {"layer": layer, "subject": "group", "score": score, "n_subjects": len(data)}
        yield {**undefined, **own, "fitted": fitted, "reason": reason}
