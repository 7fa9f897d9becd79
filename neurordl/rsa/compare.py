"""How similar RDMs are: of containers, matched by stimulus id, and of stacks of condensed RDMs."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor, nn

from neurordl.arrays import Bools, Floats, is_rdms, nan_mean
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids, natural_key
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity
from neurordl.measures.condensed import missing_groups, n_stimuli
from neurordl.rdms.selection import (
    check_one_per_subject,
    descriptor_values,
    rdm_of_row,
    reindex,
    stimulus_ids,
    subject_names,
    times_of_rdms,
)
from neurordl.validate import counted, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Centered = tuple[Floats, Floats]

_SAME, _SAME_RANKS = 0.999, 0.99  # correlations above which two measured RDMs are those of the same data
_SAME_MEAN = 0.99999
_FEWEST_PAIRS, _ENOUGH_PAIRS = 20, 2000  # to compare them on


def compare(
    models: RDMs,
    data: RDMs,
    comparison: ComparisonLike = "rho-a",
    missing: Literal["error", "ignore"] = "error",
) -> Floats:
    """Compare every model RDM with every data RDM, matched by stimulus id, never by position.

    Parameters
    ----------
    models, data
        RDMs with the pattern descriptor ``stimulus``. The data may have more stimuli than the models.
    comparison
        Comparison of two RDMs, as rsatoolbox defines it, or a `Comparison`: ``cosine``, ``corr`` (Pearson),
        and both whitened for the covariance of distances that share a stimulus (``cosine_cov``, ``corr_cov``;
        Diedrichsen et al. 2020, arXiv:2007.02789); ``spearman``, and ``rho-a``, its expected value when ties
        are broken at random (Schütt et al. 2023, eLife 12:e82566); Kendall's ``tau-a`` and ``tau-b``; and,
        for RDMs without missing pairs, ``cka``, ``bures`` and ``neg_riem_dist``.
    missing
        "error": the data must have every stimulus of the models. "ignore": the shared stimuli are compared.

    Returns
    -------
    array, (models, data)
        Each similarity is computed on the pairs of stimuli that were measured in both RDMs. It is NaN if
        there are fewer than two such pairs, or an RDM is constant (then ``rho-a`` and ``tau-a`` are 0, by
        definition) or, for the cosines, all zeros.

    Raises
    ------
    NeurordlError
        The comparison is unknown, ids are absent or do not match, or fewer than three stimuli are shared.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.rdm import RDMs
    >>> import neurordl as nrl
    >>> ids = {"stimulus": ["a", "b", "c"]}
    >>> models = RDMs(np.array([[1.0, 2.0, 3.0]]), pattern_descriptors=ids)
    >>> nrl.compare(models, models, "corr")
    array([[1.]])
    """
    comparison = find_similarity(comparison)
    match = match_ids(stimulus_ids(models), stimulus_ids(data), names=("models", "data"), missing=missing)
    if len(match.matched) < 3:
        raise NeurordlError(f"3 shared stimuli or more are needed, not {len(match.matched)}\n{match}")
    ids = sorted(match.matched, key=natural_key)  # the same sums in whatever order the data came
    return similarity(reindex(models, ids), reindex(data, ids), comparison)


def shared_stimuli(models: Mapping[str, RDMs]) -> tuple[str, ...]:
    """Return the stimulus ids of model RDMs, which must all be of the same stimuli."""
    (first, rdms), *remaining = models.items()
    ids = stimulus_ids(rdms)
    for name, other in remaining:
        if other is not rdms and set(stimulus_ids(other)) != set(ids):
            raise NeurordlError(f"the models {first!r} and {name!r} have different stimuli; give the same")
    return ids


def subject_vectors(rdms: RDMs | npt.ArrayLike) -> Floats:
    """Condensed RDMs (subjects, pairs) of RDMs with one RDM per subject, or of an array of them.

    A person who is in the RDMs under several names is named in a warning.
    """
    if is_rdms(rdms):
        names, rdms = subject_names(rdms), check_one_per_subject(rdms).dissimilarities
        if note := repeated_subjects(names, rdms):
            notify(note)
    vectors = np.asarray(rdms, dtype=np.float64)
    check_stacks(vectors, vectors)
    return vectors


def matched_vectors(
    models: RDMs | npt.ArrayLike, data: RDMs | npt.ArrayLike
) -> tuple[Floats, Floats, Sequence[str]]:
    """Condensed RDMs of models and of subjects, and the ids of their stimuli, which of arrays are numbers.

    RDMs are matched by stimulus id, and arrays are taken as they are.

    Raises
    ------
    NeurordlError
        Some are RDMs and others an array, which has no ids; or they are over different stimuli.
    """
    if is_rdms(models) and is_rdms(data):
        subject_vectors(data)
        match = match_ids(stimulus_ids(models), stimulus_ids(data), names=("models", "data"), missing="error")
        ids = sorted(match.matched, key=natural_key)
        return reindex(models, ids), reindex(data, ids), ids
    if is_rdms(models) or is_rdms(data):
        raise NeurordlError("models and data must both be RDMs, or both condensed arrays over the same pairs")
    a, b = (np.array(rdms, dtype=np.float64) for rdms in (models, data))
    return a, b, [str(number) for number in range(check_stacks(a, b))]


def same_rdms(first: Floats, second: Floats | None = None) -> Bools:
    """Whether RDMs are those of the same data: renamed, rounded, converted, scaled or cut.

    Two are where their correlation exceeds .999 on the pairs that both have, at least 20. Their ranks must
    correlate too, since a single large distance that they share would make any two RDMs correlate.

    Parameters
    ----------
    first, second
        Condensed RDMs (first, pairs) and (second, pairs); of many pairs some 2,000 are compared. Without the
        second, each RDM is compared with those after it.

    Returns
    -------
    array of bool, (first, second)
    """
    r, (a, known), (b, known_too) = _correlations(first, first if second is None else second)
    same = r > _SAME
    same = np.triu(same, 1) if second is None else same
    for i, j in np.argwhere(same):
        pairs = (known[i] > 0) & (known_too[j] > 0)
        ranks = stats.rankdata([a[i, pairs], b[j, pairs]], axis=1)
        with np.errstate(invalid="ignore"):
            same[i, j] = np.corrcoef(ranks)[0, 1] > _SAME_RANKS
    return same


def same_means(rdms: Floats, subjects: Floats) -> Bools:
    """Which subjects' mean each RDM is, that of all or of all but one; of none if a subject is as similar.

    Parameters
    ----------
    rdms, subjects
        Condensed RDMs (rdms, pairs) and (subjects, pairs).

    Returns
    -------
    array of bool, (rdms, subjects)
        Those within the mean.
    """
    n, measured = len(subjects), np.isfinite(subjects)
    if n < 2:
        return np.zeros((len(rdms), n), dtype=bool)
    everyone = np.vstack([np.ones((1, n)), 1 - np.eye(n)])[: n + 1 if n > 2 else 1]
    count = everyone @ measured
    means = np.where(count > 0, everyone @ np.where(measured, subjects, 0) / np.maximum(count, 1), np.nan)
    r, of_subjects = (np.nan_to_num(_correlations(rdms, x)[0]) for x in (means, subjects))
    # similar subjects correlate above .999 with their mean, and so do the means of most and of all of them
    nearest = r.argmax(axis=1)
    same = r.max(axis=1) > np.maximum(_SAME_MEAN, of_subjects.max(axis=1))
    for k in np.flatnonzero(same):  # also by ranks
        same[k] = same_rdms(rdms[[k]], means[[nearest[k]]])[0, 0]
    return np.asarray((everyone[nearest] > 0) & same[:, None])


def _correlations(
    first: Floats, second: Floats
) -> tuple[Floats, tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Correlations (first, second), NaN on too few pairs; and what `_centered` makes of both."""
    step = max(1, first.shape[1] // _ENOUGH_PAIRS)
    (a, known), (b, known_too) = (_centered(rdms[:, ::step]) for rdms in (first, second))
    n, sums, sums_too = known @ known_too.T, a @ known_too.T, known @ b.T
    spread = (n * (a**2 @ known_too.T) - sums**2) * (n * (known @ (b**2).T) - sums_too**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (n * (a @ b.T) - sums * sums_too) / np.sqrt(np.maximum(spread, 0))
    return np.where(n >= _FEWEST_PAIRS, r, np.nan), (a, known), (b, known_too)


def _centered(rdms: Floats) -> tuple[Floats, Floats]:
    """RDMs scaled to 1 and centered, 0 where missing; and where they are not, as 1 and 0."""
    known = np.isfinite(rdms)
    size = np.where(known, np.abs(rdms), 0).max(axis=1, initial=0)
    scaled = np.where(known, rdms, np.nan) / np.where(size > 0, size, 1)[:, None]
    return np.nan_to_num(scaled - nan_mean(scaled, 1)[:, None]), known.astype(np.float64)


def repeated_subjects(names: Sequence[str], vectors: npt.ArrayLike, noun: str = "RDM") -> str:
    """A note on subjects with the RDM of another subject, from condensed RDMs; empty if there are none.

    It can be on their maps, too, (subjects, places).
    """
    same = same_rdms(np.asarray(vectors, dtype=np.float64))
    groups: dict[int, list[str]] = {}
    for j in np.flatnonzero(same.any(axis=0)).tolist():
        first = int(same[:, j].argmax())
        groups.setdefault(first, [names[first]]).append(names[j])
    if not groups:
        return ""
    alike = listed((" = ".join(group) for group in groups.values()), most=3)
    return (
        f"subjects with the same {noun} (correlation above {_SAME:g}): {alike}; if they are one person, "
        "leave the repeats out: intervals, tests and noise ceilings take them as different people"
    )


def check_stacks(models: Tensor | Floats, data: Tensor | Floats) -> int:
    """Return the number of stimuli of two stacks of RDMs that are condensed over the same pairs.

    Raises
    ------
    NeurordlError
        They are not.
    """
    if models.ndim != 2 or data.ndim != 2 or models.shape[1] != data.shape[1]:
        raise NeurordlError(
            "RDMs are compared as (models, pairs) and (data, pairs) over the same pairs, but got "
            f"{tuple(models.shape)} and {tuple(data.shape)}"
        )
    return n_stimuli(models.shape[1])


@overload
def similarity(models: Tensor, data: Tensor, comparison: ComparisonLike) -> Tensor: ...
@overload
def similarity(models: npt.ArrayLike, data: npt.ArrayLike, comparison: ComparisonLike) -> Floats: ...
def similarity(
    models: npt.ArrayLike | Tensor, data: npt.ArrayLike | Tensor, comparison: ComparisonLike
) -> Floats | Tensor:
    """Similarity of condensed RDMs (models, pairs) with others (data, pairs), computed in float64.

    Equal to ``rsatoolbox.rdm.compare``, which wants the same pairs missing in all RDMs. Here each couple is
    compared on the pairs measured in both (NaN marks a missing pair), and ranks are taken on these.

    Parameters
    ----------
    models, data
        Arrays, or tensors of any dtype on one device. Ranks and tau are computed on the CPU.
    comparison
        As in `compare`. ``cka`` reads RDMs as squared Euclidean distances (Kornblith et al. 2019,
        arXiv:1905.00414) and equals ``cosine_cov``.

    Returns
    -------
    array or tensor, (models, data)
        NaN where undefined (rsatoolbox gives 0, or raises): see `compare`; under ``neg_riem_dist`` also for
        data without a Euclidean geometry, or of fewer dimensions than the number of stimuli minus one.

    Raises
    ------
    NeurordlError
        The comparison is unknown, the RDMs are over different pairs, or pairs are missing where the
        comparison needs complete RDMs.
    """
    comparison = find_similarity(comparison)
    tensors = isinstance(models, Tensor) and isinstance(data, Tensor)
    a, b = (torch.as_tensor(rdms).detach().to(torch.float64) for rdms in (models, data))
    check_stacks(a, b)
    kernel = comparison.kernel
    if kernel is not None and kernel.propagates_missing and a.shape[1] > 1:
        scores = kernel.similarity(a, b)
        if bool(scores.isfinite().all()):  # no pair is missing
            return scores if tensors else scores.cpu().numpy()
    scores = torch.full((len(a), len(b)), torch.nan, dtype=torch.float64, device=a.device)
    for rows, absent in missing_groups(a):
        for columns, absent_in_data in missing_groups(b):
            kept = torch.as_tensor(~(absent | absent_in_data), device=a.device)
            whole = bool(kept.all())
            if not whole and comparison.complete:
                raise NeurordlError(
                    f"{comparison.name} needs complete RDMs, but {int((~kept).sum())} of {len(kept)} pairs "
                    "are missing; choose stimuli that every RDM has, or compare with cosine_cov or corr"
                )
            if int(kept.sum()) < 2:
                continue
            left = a if len(rows) == len(a) else a[rows]
            right = b if len(columns) == len(b) else b[columns]
            if kernel is not None:
                part = kernel.similarity(left, right, None if whole else kept)
            else:
                part = _general_similarity(left, right, comparison, kept)
            scores[torch.tensor(rows)[:, None], torch.tensor(columns)] = part
    return scores if tensors else scores.cpu().numpy()


def _general_similarity(models: Tensor, data: Tensor, comparison: Comparison, kept: Tensor) -> Tensor:
    """Similarity without a kernel of RDMs that miss the same pairs: from ``similarity`` or ``function``."""
    left, right = (rdms if bool(kept.all()) else rdms[:, kept] for rdms in (models, data))
    with torch.no_grad():
        if comparison.similarity is not None:
            scores = comparison.similarity(left, right)
        else:
            assert comparison.function is not None
            weights = kept.to(models.dtype)
            known, measured = (torch.where(kept, rdms, 0) for rdms in (models, data))
            scores = torch.stack([comparison.function(row, measured, weights) for row in known])
    if scores.shape != (len(models), len(data)):
        raise NeurordlError(
            f"comparison {comparison.name!r} gave values of the shape {tuple(scores.shape)} for "
            f"{len(models)} models and {len(data)} RDMs: it must return one value for each couple of RDMs"
        )
    undefined = comparison.is_undefined(left)[:, None] | comparison.is_undefined(right)
    return torch.where(undefined, torch.nan, scores.to(torch.float64))


def why_undefined(model: Floats, data: Floats, comparison: Comparison, names: tuple[str, str]) -> str:
    """Say why the similarity of two condensed RDMs, of these names, is NaN."""
    both = np.isfinite(model) & np.isfinite(data)
    for vector, name in zip((model, data), names, strict=True):
        if not np.isfinite(vector).any():
            return f"the RDM of {name} has no defined value on these pairs"
    if both.sum() < 2:
        return f"{int(both.sum())} pairs are measured in both RDMs, two or more are needed"
    for vector, name in zip((model, data), names, strict=True):
        if bool(comparison.is_undefined(torch.as_tensor(vector[None, both]))):
            return f"the RDM of {name} is {comparison.undefined} on these pairs"
    return f"{comparison.name} is undefined for these RDMs{comparison.undefined_hint}"


def model_vectors(source: object, ids: Sequence[str], layers: str | Sequence[str]) -> dict[str, Floats]:
    """Condensed RDM of each model RDM that ``layers`` names."""
    stacks = model_stacks(source)
    chosen = _chosen_names([name for _, names in stacks for name in names], layers)
    vectors: dict[str, Floats] = {}
    for rdms, names in stacks:
        if chosen.intersection(names):
            vectors |= zip(names, reindex(rdms, ids), strict=True)
    return {name: vector for name, vector in vectors.items() if name in chosen}


def _chosen_names(known: Sequence[str], layers: str | Sequence[str]) -> set[str]:
    """The names of models that ``layers`` names, also by globs."""
    requested = layers.split(",") if isinstance(layers, str) else list(layers)
    if not requested:
        raise NeurordlError(f"layers= is empty; name some of: {', '.join(known)}; or 'all'")
    chosen: set[str] = set()
    for name in requested:
        every = name in ("all", "top") and name not in known
        matches = [name] if name in known else fnmatch.filter(known, "*" if every else name)
        if not matches:
            raise NeurordlError(f"no model RDM is named {name!r}; their names are: {', '.join(known)}")
        chosen.update(matches)
    return chosen


def model_stacks(source: object) -> list[tuple[RDMs, list[str]]]:
    """Model RDMs, and the names of those in each container."""
    if is_rdms(source):
        by = next(name for name in ("layer", "name", "index") if name in source.rdm_descriptors)
        names = descriptor_values(source, by)
        if len(set(names)) < len(names):
            raise NeurordlError(f"the RDM descriptor {by!r} repeats a name; give each model RDM its own")
        return [(source, names)]
    if not isinstance(source, Mapping) or not source or not all(map(is_rdms, source.values())):
        expected = "expected a run, a torch module, RDMs, or a dict from name to RDMs or to modules"
        values = list(source.values()) if isinstance(source, Mapping) else [source]
        hint = next(filter(None, map(_hint, values)), "")
        raise NeurordlError(f"{expected}, got {_shown(source)}{'; ' if hint else ''}{hint}")
    if several := [name for name, rdms in source.items() if len(rdms) != 1]:
        raise NeurordlError(f"model {several[0]!r} has {len(source[several[0]])} RDMs; give one RDM per name")
    return [(rdms, [str(name)]) for name, rdms in source.items()]


def _shown(source: object) -> str:
    """What was passed in place of models, for a message."""
    if isinstance(source, type):
        return f"the class {source.__name__}"
    if isinstance(source, Mapping):
        kinds = dict.fromkeys(type(value).__name__ for value in source.values())
        return f"dict of {listed(kinds, most=3)}" if source else "an empty dict"
    return repr(str(source)) if isinstance(source, str | PathLike) else type(source).__name__


def _hint(value: object) -> str:
    """How to make RDMs or a network of something else; empty where that is not known."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"{value.__name__} is a class: make a network of it, {value.__name__}()"
    if isinstance(value, nn.Module):
        call = "compute_rdms(extract_patterns(network, stimuli, layers), 'correlation')"
        return f"for a network's RDMs, write {call}"
    if isinstance(value, Tensor) or (
        isinstance(value, Mapping) and any(map(torch.is_tensor, value.values()))
    ):
        return "weights are no network: make it, read them with load_state_dict or load_weights, and pass it"
    if not isinstance(value, str | PathLike):
        return ""
    name = Path(value).name
    if Path(name).suffix.lower() in (".pth", ".pt", ".ckpt", ".safetensors"):
        return f"make the network, read {name} with load_weights(network, {name!r}), and pass the network"
    return f"read RDMs with load_rdms({name!r}), or make a network by name with students.build"


def models_by_time(
    source: object, layers: str | Sequence[str]
) -> tuple[object, dict[str, tuple[str, float]]]:
    """Model RDMs over time as a model for each time: these, and the name and time of each by its label.

    Other sources are returned as they are. Models with a single time are not over time.
    """
    if is_rdms(source) and "time" in source.rdm_descriptors:
        by = next((name for name in ("layer", "name") if name in source.rdm_descriptors), None)
        names = [""] * len(source) if by is None else descriptor_values(source, by)
        parts = [
            (name, source, [k for k, x in enumerate(names) if x == name]) for name in dict.fromkeys(names)
        ]
    elif isinstance(source, Mapping) and source and all(map(is_rdms, source.values())):
        parts = [(str(name), rdms, list(range(len(rdms)))) for name, rdms in source.items()]
    else:
        return source, {}
    if not any(len(rows) > 1 for _, _, rows in parts):
        return source, {}
    models, labels = dict[str, "RDMs"](), dict[str, tuple[str, float]]()
    chosen = _chosen_names([name for name, _, _ in parts], layers)
    for name, rdms, rows in (part for part in parts if part[0] in chosen):
        if "time" not in rdms.rdm_descriptors:
            wanted = "give one RDM per name, or the RDM descriptor 'time' to RDMs of all models"
            raise NeurordlError(f"model {name!r} has {counted(len(rows), 'RDM')} without times; {wanted}")
        for row, time in sorted(
            zip(rows, times_of_rdms(rdms)[rows].tolist(), strict=True), key=lambda x: x[1]
        ):
            label = ", ".join(filter(None, [name, f"{time:.9g} s"]))
            if label in models:
                raise NeurordlError(f"model {name!r} has two RDMs at {time:.9g} s; average or select them")
            models[label], labels[label] = rdm_of_row(rdms, row), (name, time)
    return models, labels
