"""What a table of scores does not show: few pairs, pairs that were not measured, RDMs that repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from neurordl.measures.condensed import unmeasured_stimuli

__all__ = ["measured", "repeated_layers", "unmeasured"]

_SHOWN = 3

Floats = npt.NDArray[np.float64]


def measured(
    models: Floats, data: Floats, subjects: Sequence[str], pooled: Sequence[bool], keep: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """How much of one ROI was measured, as an evaluation records it.

    Parameters
    ----------
    models, data
        (layers, pairs) and (subjects, pairs), NaN where there is nothing.
    subjects, pooled
        Their names, and whose scores the mean is over.
    keep
        (pairs,) those asked for.

    Returns
    -------
    dict
        ``asked``: pairs asked for; ``anyone``: those of them that a layer and a subject of the mean have;
        ``pairs`` and ``stimuli``: by subject, pairs that were measured, and stimuli without any such pair.
    """
    there = np.isfinite(data) & keep
    anyone = there[np.asarray(pooled)].any(axis=0) & np.isfinite(models).any(axis=0)
    lacking = [len(unmeasured_stimuli(row)) for row in there]
    return {
        "asked": int(keep.sum()),
        "anyone": int(anyone.sum()),
        "pairs": dict(zip(subjects, there.sum(axis=1).tolist(), strict=True)),
        "stimuli": dict(zip(subjects, lacking, strict=True)),
    }


def unmeasured(found: Mapping[str, Any]) -> str:
    """In which subjects pairs were not measured, in words, from what `measured` gives; empty if in none."""
    told = list[str]()
    for subject, pairs in found["pairs"].items():
        if pairs < found["asked"]:
            lacking = found["stimuli"][subject]
            stimuli = (
                f" ({lacking:,} {'stimuli are' if lacking > 1 else 'stimulus is'} not)" if lacking else ""
            )
            told.append(f"{subject}: {pairs:,} of {found['asked']:,} pairs measured{stimuli}")
    return _few(told, "; ")


def repeated_layers(layers: Sequence[str], models: Floats) -> str:
    """Which layers have the RDM of another, value by value, in words; empty if none.

    A container gives what its last layer gives, and what only reshapes, or does nothing when a network is
    evaluated, gives what it got.
    """
    same: dict[bytes, list[str]] = {}
    for layer, rdm in zip(layers, models, strict=True):
        if np.isfinite(rdm).any():
            same.setdefault(np.where(np.isnan(rdm), np.nan, rdm + 0.0).tobytes(), []).append(layer)
    groups = [group for group in same.values() if len(group) > 1]
    if not groups:
        return ""
    named = _few([" = ".join(layer or "output" for layer in group) for group in groups], ", ")
    return (
        f"layers with one and the same RDM: {named}; each is one test, though every layer is counted; "
        'name one of each in layers, or take "top", which leaves out what stands in another layer'
    )


def _few(told: Sequence[str], between: str) -> str:
    more = [f"and {len(told) - _SHOWN:,} more"] if len(told) > _SHOWN else []
    return between.join([*told[:_SHOWN], *more])
