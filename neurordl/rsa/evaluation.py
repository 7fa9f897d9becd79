"""How well layers of a network, or model RDMs, match subjects' RDMs: `evaluate`, and the table it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from torch import nn

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.io import sha256_array
from neurordl.measures.comparisons import Comparison, find_similarity
from neurordl.measures.dissimilarities import DissimilarityLike
from neurordl.patterns.network import Compute, usable_device
from neurordl.rdms.selection import reindex, stimulus_ids, subject_names
from neurordl.rsa.ceilings import noise_ceiling
from neurordl.rsa.compare import compare
from neurordl.rsa.inference.draws import draw
from neurordl.rsa.inference.infer import Inference, Variance, check_variance, infer
from neurordl.rsa.inputs import (
    RunLike,
    choose_pairs,
    model_stimuli,
    model_vectors,
    network_measure,
    rdms_by_roi,
)
from neurordl.rsa.networks import network_vectors, weights_sha256
from neurordl.rsa.notes import measured
from neurordl.rsa.reliability import agreement
from neurordl.rsa.result import COLUMNS, Evaluation
from neurordl.rsa.table import Tested, against_ceilings, comparisons_of, group_rows, rows_of, who_was_fitted
from neurordl.stimuli import StimulusSet

__all__ = ["COLUMNS", "Evaluation", "RunLike", "compare", "evaluate", "noise_ceiling"]

Floats = npt.NDArray[np.float64]


def evaluate(
    source: RunLike | nn.Module | RDMs | Mapping[str, RDMs],
    rdms: RDMs,
    *,
    stimuli: StimulusSet | None = None,
    layers: str | Sequence[str] = "all",
    comparison: str | Comparison = "rho-a",
    dissimilarity: DissimilarityLike | None = None,
    subjects: str | Sequence[str] | None = None,
    roi: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    average: str | Sequence[str] | None = None,
    group: bool = False,
    pairs: Literal["held-out", "fitted", "cross", "all"] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | None = None,
    variance: Variance = "bootstrap",
    n_bootstrap: int = 1000,
    seed: int = 0,
    batch_size: int | None = None,
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
    comparison
        How RDMs are compared: as in `compare`.
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
    bootstrap
        What is resampled for intervals and p, and so what they generalise to: "subjects"; "stimuli"; or
        "both", with the two-factor correction (Schütt et al. 2023, eLife 12:e82566). By default nothing is,
        and they are of the t distribution over the subjects' scores: they generalise to subjects.
    variance
        Where stimuli are resampled: "bootstrap", rsatoolbox's, whose intervals are too wide; or "components",
        which counts what belongs to pairs of stimuli once (`rsa.inference.components`), for intervals, p
        against zero, and comparisons of layers.
    n_bootstrap, seed
        How many resamples, and the seed they are drawn by; the same resamples for every layer and ROI.
    batch_size
        Stimuli in a forward pass of a network. By default all of them, where memory allows, so that of each
        layer only its RDM is kept; else 64.
    device, progress
        As in `extract_patterns`; resamples are computed on the device too, but for rank measures.
    missing
        "ignore" leaves out stimuli that the RDMs do not have.

    Returns
    -------
    Evaluation
        In rows with subject "mean": the score, its 95 % interval, p against zero (one-sided) and against the
        lower noise ceiling (two-sided), by t as in rsatoolbox, but around the score itself, not around the
        mean of the resamples; a layer's ceiling, and p against it, are of the pairs that this layer has.
        ``p_fdr`` and ``p_holm`` are corrected over the layers of a ROI, ``generalises_to`` says to what, and
        ``comparisons`` has each two layers. The mean and the ceiling, on the same pairs, are those of the
        subjects asked for; without ``subjects``, where some taught the run and others did not, of those who
        did not (``n_subjects`` and ``fitted`` say so). A person who taught with one ROI counts as fitted in
        all. What is undefined is NaN, and ``reason`` says why. It also says where subjects do not agree
        better than by chance (`neurordl.rsa.reliability.ceiling_p`, 99 permutations, up to 500,000 values and
        not for bures and neg_riem_dist).

    Raises
    ------
    NeurordlError
        Ids that do not match, fewer than three stimuli, several RDMs of one subject, an unknown layer,
        comparison or measure, preprocessing other than the run's, or used and unused stimuli together without
        ``pairs``.
    """
    comparison = find_similarity(comparison)
    check_variance(variance, bootstrap or "none")
    products = device
    if device is not None and usable_device(device).type == "mps":
        products = "cpu"  # which has float64
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise NeurordlError(f"seed={seed!r}: expected a whole number from 0")
    run = source if isinstance(source, RunLike) else None
    network = run.student if run else source if isinstance(source, nn.Module) else None
    offered = model_stimuli(source, stimuli)
    match = match_ids(offered, stimulus_ids(rdms), names=("stimuli", "RDMs"), missing=missing)
    chosen = choose_pairs(match.matched, run, pairs)
    brains = rdms_by_roi(rdms, roi, subjects, select, average)
    if network is not None and stimuli is not None:
        of_network = network_measure(dissimilarity, rdms)
        measure = of_network.name
        compute = Compute(device, batch_size, progress)
        models = network_vectors(network, stimuli, chosen.ids, layers, of_network, compute)
    elif dissimilarity is None:
        measure = "as given"
        models = model_vectors(source, chosen.ids, layers)
    else:
        raise NeurordlError("dissimilarity= is for a network's RDMs; those of the models are there already")
    stack = np.where(chosen.keep, np.stack(list(models.values())), np.nan)
    names, rows = list(models), list[dict[str, Any]]()
    agreed: dict[str, float] = {}
    there: dict[str, dict[str, Any]] = {}
    inferences, comparisons = dict[str, Inference](), list[pd.DataFrame]()
    for name, brain in brains.items():
        data = np.where(chosen.keep, reindex(brain, chosen.ids), np.nan)
        pooled, fitted = who_was_fitted(brain, run, chosen, asked=subjects is not None)
        there[name] = measured(stack, data, subject_names(brain), pooled, chosen.keep)
        draws = None
        if bootstrap:
            rng = np.random.default_rng(seed)
            draws = draw(sum(pooled), len(chosen.ids), bootstrap, n_bootstrap, rng)
        how: dict[str, Any] = {"resample": bootstrap or "none", "draws": draws, "variance": variance}
        found = infer(stack, data[pooled], comparison, device=products, **how)
        against = against_ceilings(stack, data[pooled], found, draws, products)
        agreed[name] = agreement(data[pooled], comparison, seed)
        tests = Tested(found, against, agreed[name])
        of_roi = list(rows_of(names, stack, subject_names(brain), data, pooled, fitted, tests))
        if group:
            of_roi += group_rows(names, stack, data[pooled], comparison, fitted["mean"])
        rows += [{**row, "roi": name} for row in of_roi]
        inferences[name] = found
        comparisons.append(comparisons_of(names, found).assign(roi=name))
    common: dict[str, Any] = {
        "comparison": comparison.name,
        "n_stimuli": len(chosen.ids),
        "pairs": chosen.name,
        "dissimilarity": measure,
    }
    recorded = getattr(run, "record", {})
    settings = {
        **common,
        "source": type(source).__name__,
        "layers": names,
        "subjects": {name: list(subject_names(brain)) for name, brain in brains.items()},
        "measured": there,
        "select": dict(select or {}),
        "average": average,
        "preprocessing": stimuli.preprocessing.as_dict() if stimuli else None,
        "bootstrap": bootstrap,
        "n_bootstrap": n_bootstrap if bootstrap else None,
        "variance": variance if bootstrap in ("stimuli", "both") else None,
        "subjects_agree_p": {name: p if np.isfinite(p) else None for name, p in agreed.items()},
        "seeds": {"run": recorded.get("settings", {}).get("seed"), "bootstrap": seed if bootstrap else None},
        "sha256": {
            "rdms": sha256_array(np.asarray(rdms.dissimilarities)),
            "stimuli": stimuli.sha256 if stimuli else None,
            "weights": weights_sha256(network) if network is not None else None,
        },
    }
    frame = pd.DataFrame(rows).assign(**common)[list(COLUMNS)]
    between = pd.concat(comparisons, ignore_index=True)
    between.insert(0, "roi", between.pop("roi"))
    return Evaluation(frame, match, settings, between, inferences, stack)
