"""What `evaluate` compares: the pairs of stimuli, the models' RDMs, and each ROI's RDMs of the subjects."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs
from torch import nn

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.measures.dissimilarities import (
    Dissimilarity,
    DissimilarityLike,
    dissimilarity_from_text,
    find_dissimilarity,
)
from neurordl.rdms.selection import (
    check_one_per_subject,
    descriptor_values,
    reindex,
    select_rdms,
    stimulus_ids,
)
from neurordl.stimuli import Preprocessing, StimulusSet

__all__ = [
    "PairChoice",
    "RunLike",
    "choose_pairs",
    "model_stimuli",
    "model_vectors",
    "network_measure",
    "rdms_by_roi",
]

Floats = npt.NDArray[np.float64]

PAIRS = ("held-out", "fitted", "cross", "all")


@runtime_checkable
class RunLike(Protocol):
    """What `evaluate` asks of a training run; `fit` returns one."""

    @property
    def student(self) -> nn.Module:
        """The trained network."""

    @property
    def fitted_ids(self) -> Sequence[str]:
        """Stimuli whose RDMs were fitted."""

    @property
    def validation_ids(self) -> Sequence[str]:
        """Stimuli by which anything was chosen: they are not held out."""

    @property
    def held_out_ids(self) -> Sequence[str]:
        """Stimuli that the split left aside."""

    @property
    def fitted_subjects(self) -> Sequence[str]:
        """Subjects whose RDMs were fitted."""

    @property
    def fitted_rdms(self) -> Collection[str]:
        """Checksums of the RDMs that were fitted, each in natural order of its stimuli."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the run's stimuli were prepared; None without stimuli."""


@dataclass(frozen=True, eq=False)
class PairChoice:
    """Pairs of stimuli to compare RDMs on.

    Attributes
    ----------
    name
        "held-out", "fitted", "cross" or "all".
    ids
        The stimuli in these pairs, naturally sorted: the same sums in whatever order the data came.
    keep
        (pairs,) which of their condensed pairs count; all but for "cross".
    used
        How many of the stimuli the run used.
    """

    name: str
    ids: tuple[str, ...]
    keep: npt.NDArray[np.bool_]
    used: int


def choose_pairs(ids: Sequence[str], run: RunLike | None, pairs: str | None) -> PairChoice:
    """Choose among the pairs of the matched stimuli; see ``pairs`` of `evaluate`."""
    if pairs is not None and pairs not in PAIRS:
        raise NeurordlError(f"unknown pairs {pairs!r}; there are: {', '.join(PAIRS)}")
    if run is None:
        if pairs not in (None, "all"):
            raise NeurordlError(
                f"pairs={pairs!r} takes a run, which knows what it fitted; with a network or RDMs leave "
                "pairs out, and choose the stimuli by stimuli="
            )
        used, pairs = set[str](), "all"
    else:
        used = {*run.fitted_ids, *run.validation_ids}
    fitted = sum(stimulus in used for stimulus in ids)
    if pairs is None:
        if 0 < fitted < len(ids):
            raise NeurordlError(
                f"the run used {fitted} of the {len(ids)} stimuli (fitted or validation) and not the other "
                f"{len(ids) - fitted}, and their pairs are not mixed; choose pairs='held-out', 'fitted' or "
                "'cross', or give stimuli= the held-out ones only"
            )
        pairs = "fitted" if fitted else "held-out"
    wanted = {"held-out": (False,), "fitted": (True,)}.get(pairs, (False, True))
    chosen = tuple(sorted((s for s in ids if (s in used) in wanted), key=natural_key))
    if len(chosen) < 3:
        raise NeurordlError(
            f"comparing RDMs takes 3 stimuli or more, but {len(chosen)} of the {len(ids)} matched are in "
            f"{pairs} pairs; give more stimuli or choose other pairs"
        )
    i, j = np.triu_indices(len(chosen), 1)
    keep = np.ones(len(i), dtype=bool)
    here = np.array([stimulus in used for stimulus in chosen])
    if pairs == "cross":
        keep = here[i] != here[j]
        if not keep.any():
            raise NeurordlError(
                "there are no cross pairs: the stimuli are all fitted or all held out; choose the other pairs"
            )
    return PairChoice(pairs, chosen, keep, int(here.sum()))


def rdms_by_roi(
    rdms: RDMs,
    roi: str | Sequence[str] | None,
    subjects: str | Sequence[str] | None,
    select: Mapping[str, Any] | None,
    average: str | Sequence[str] | None,
) -> dict[str, RDMs]:
    """One RDM per subject for each ROI asked for (None: each there is); without ROIs, one entry named ''."""
    others = dict(select or {})
    if roi is None:
        roi = others.pop("roi", None)
    picked = select_rdms(rdms, subjects=subjects, select=others)
    averaged = {average} if isinstance(average, str) else set(average or ())
    if "roi" not in rdms.rdm_descriptors and roi is None:
        return {"": check_one_per_subject(select_rdms(picked, average=average))}
    if "roi" in averaged:
        picked = select_rdms(picked, select=None if roi is None else {"roi": roi})
        return {"": check_one_per_subject(select_rdms(picked, average=average))}
    names = [roi] if isinstance(roi, str) else list(roi or dict.fromkeys(descriptor_values(picked, "roi")))
    return {name: check_one_per_subject(select_rdms(picked, roi=name, average=average)) for name in names}


def model_stimuli(source: object, stimuli: StimulusSet | None) -> tuple[str, ...]:
    """Ids that the model side offers, checked: images prepared as the run's were, or the models' own ids."""
    if isinstance(source, RunLike | nn.Module) and stimuli is None:
        told = ""
        if isinstance(source, RunLike) and source.held_out_ids:
            told = f" (the run held out {len(source.held_out_ids)}, {source.held_out_ids[0]!r} and others)"
        raise NeurordlError(f"a network is evaluated on images: give stimuli= a StimulusSet{told}")
    if isinstance(source, RunLike) and stimuli is not None:
        before, now = source.preprocessing, stimuli.preprocessing
        if before is not None and before != now:
            raise NeurordlError(
                f"the stimuli were prepared as {now}, but those of the run as {before}; read them with the "
                "run's size, channels, mean and std"
            )
    if stimuli is not None:
        return stimuli.ids
    (first, (rdms, _)), *others = _named(source).items()
    ids = stimulus_ids(rdms)
    for name, (other, _) in others:
        if other is not rdms and set(stimulus_ids(other)) != set(ids):
            raise NeurordlError(
                f"the model RDMs {first!r} and {name!r} are of different stimuli, and scores on different "
                "stimuli do not compare; give model RDMs of the same ones"
            )
    return ids


def network_measure(dissimilarity: DissimilarityLike | None, rdms: RDMs) -> Dissimilarity:
    """Dissimilarity of the network's RDMs: the one asked for, or that of the data if a network has it."""
    if dissimilarity is not None:
        return find_dissimilarity(dissimilarity)
    measure = dissimilarity_from_text(rdms.dissimilarity_measure)
    if measure is None:
        chosen = find_dissimilarity("correlation")
        why = f"the measure of the data's RDMs is unknown ({rdms.dissimilarity_measure!r})"
    else:
        chosen, why = measure.of_network(), f"the data's {measure} distances take repeated noisy measurements"
        if chosen == measure:
            return measure
    warnings.warn(
        f"{why}: the network's RDMs are {chosen}; name the measure you want by dissimilarity=", stacklevel=3
    )
    return chosen


def model_vectors(source: object, ids: Sequence[str], layers: str | Sequence[str]) -> dict[str, Floats]:
    """Condensed RDM of each model RDM that ``layers`` names."""
    models = _named(source)
    asked = layers.split(",") if isinstance(layers, str) else list(layers)
    if not asked:
        raise NeurordlError(f"layers= is empty; name some of: {', '.join(models)}; or 'all'")
    patterns = ["*" if name in ("all", "top") and name not in models else name for name in asked]
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in models):
            raise NeurordlError(f"no model RDM is named {pattern!r}; there are: {', '.join(models)}")
    stacks: dict[int, Floats] = {}  # a stack of RDMs is put in order once
    vectors = {}
    for name, (rdms, row) in models.items():
        if any(_fits(name, pattern) for pattern in patterns):
            stacks.setdefault(id(rdms), reindex(rdms, ids))
            vectors[name] = stacks[id(rdms)][row]
    return vectors


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _named(source: object) -> dict[str, tuple[RDMs, int]]:
    """Model RDMs by name: the RDMs that hold each, and its row."""
    if isinstance(source, RDMs):
        by = next(name for name in ("layer", "name", "index") if name in source.rdm_descriptors)
        names = descriptor_values(source, by)
        if len(set(names)) < len(names):
            raise NeurordlError(
                f"each model RDM needs a name of its own, but the RDM descriptor {by!r} repeats some; make "
                "its values unique, or give a dict from name to RDMs"
            )
        return {name: (source, row) for row, name in enumerate(names)}
    if not isinstance(source, Mapping) or not source or not all(isinstance(r, RDMs) for r in source.values()):
        raise NeurordlError(
            "evaluate takes a run, a torch module, rsatoolbox RDMs or a dict from name to RDMs, but got "
            f"{type(source).__name__}"
        )
    if several := [name for name, rdms in source.items() if len(rdms) != 1]:
        raise NeurordlError(f"model {several[0]!r} has {len(source[several[0]])} RDMs; give one RDM per name")
    return {str(name): (rdms, 0) for name, rdms in source.items()}
