"""What whoever computes RDMs should know of their patterns: missing stimuli, runs that are not balanced."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neurordl.measures.dissimilarities import Dissimilarity
from neurordl.rdms.sources import Source

__all__ = ["of_means", "of_pairs", "of_runs", "of_stimuli"]

_ALIKE = 0.01  # median correlation distance below which patterns are alike but for their mean
_CHANCE = 4.0  # times the energy that the mean of a run has where only noise is averaged


def of_stimuli(sources: Sequence[Source], stimuli: Sequence[str]) -> None:
    """Warn of stimuli that some sources lack."""
    for source in sources:
        own = set(source.ids)
        if lacking := [stimulus for stimulus in stimuli if stimulus not in own]:
            _tell(
                f"{source.label} has {len(own)} of {len(stimuli)} stimuli; the pairs of the "
                f"others ({_few(lacking)}) are NaN in its RDM"
            )


def of_pairs(sources: Sequence[Source], measure: Dissimilarity) -> None:
    """Warn of stimuli that were measured in a single run, where distances are across runs."""
    if not measure.needs_runs:
        return
    told: dict[str, list[Source]] = {}
    for source in sources:
        alone = np.flatnonzero((source.counts > 0).sum(axis=1) == 1)
        if len(alone):
            n = len(source.ids)
            pairs = n * (n - 1) // 2
            lost = pairs - (n - len(alone)) * (n - len(alone) - 1) // 2
            who = f"{_few([source.ids[k] for k in alone])} {'is' if len(alone) == 1 else 'are'}"
            text = f"{lost} of {pairs} pairs are not measured ({who} in one run only)"
            told.setdefault(text, []).append(source)
    for text, alike in told.items():
        _tell(f"{_labels(alike)}: {text}")


def of_runs(sources: Sequence[Source], measure: Dissimilarity) -> None:
    """Warn of distances that see the mean patterns of runs, which are there.

    Inner products are means over pairs of runs, other pairs where a stimulus was measured in other runs: then
    what a run adds to all its patterns does not cancel. It does where the stimuli of a run are equally many.
    """
    if not measure.needs_runs or measure.kernel is None:
        return
    seen = [source for source in sources if source.centred_by != "run" and _uneven(source)]
    told = [source for source in seen if _has_means(source.cells(), source.counts)]
    if told:
        _tell(
            f"{_labels(told)}: {_gaps(told[0])}, so that {measure} distances contain the mean "
            'pattern of each run, and there is one; remove it: center="run" (in the shell --center run)'
        )


def of_means(rdms: npt.NDArray[Any], sources: Sequence[Source], measure: Dissimilarity) -> None:
    """Warn where block averages differ by little beside the mean that all have: an RDM for each source."""
    if measure.kernel is None or measure.kernel.normalize == "none":
        return
    told, middles = list[Source](), list[float]()
    for rdm, source in zip(rdms, sources, strict=True):
        if source.centred_by is None and _averaged(source.record):
            there = rdm[np.isfinite(rdm)]
            if len(there) and (middle := float(np.median(there))) < _ALIKE:
                told.append(source)
                middles.append(middle)
    if told:
        _tell(
            f"{_labels(told)}: the {measure} distances of block averages are tiny (median {middles[0]:.2g}), "
            "since all share the mean signal, which "
            'center="run" (in the shell --center run) removes'
        )


def _labels(sources: Sequence[Source]) -> str:
    return sources[0].label + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def _uneven(source: Source) -> bool:
    """Whether a run has some stimuli more often than others."""
    return bool((source.counts != source.counts[:1]).any())


def _has_means(cells: Tensor, counts: npt.NDArray[np.int64]) -> bool:
    """Whether the mean over the stimuli of a run is more than noise: (runs, stimuli, channels) come in."""
    for patterns, number in zip(cells.double().numpy(), counts.T, strict=True):
        own = patterns[number > 0]
        if len(own) < 2:
            continue
        mean = own.mean(axis=0)
        by_chance = np.square(own - mean).sum() / (len(own) * (len(own) - 1))
        if np.square(mean).sum() > _CHANCE * by_chance:
            return True
    return False


def _gaps(source: Source) -> str:
    """Which stimuli are missing in which runs, or else are there more often than others."""
    missing = [
        f"{stimulus} in {_few([str(source.runs[k]) for k in np.flatnonzero(number == 0)])}"
        for stimulus, number in zip(source.ids, source.counts, strict=True)
        if (number == 0).any()
    ]
    if not missing:
        return "its runs have some stimuli more often than others"
    return f"runs are without some stimuli ({'; '.join(missing[:3])}{'; ...' if len(missing) > 3 else ''})"


def _averaged(record: Any) -> bool:
    try:
        made = json.loads(record)
    except (TypeError, ValueError):
        return False
    return isinstance(made, Mapping) and made.get("model") == "average"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _tell(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)
