"""Whether the signal follows the events by a haemodynamic lag, or as if they were shifted by it already."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["explained", "tell_of_lag"]

Floats = npt.NDArray[np.float64]
# more of the signal than the other way, and than by chance, before anything is said
_MORE, _CHANCE = 1.25, 1.15
_MOVED = 4  # other times of the run


def explained(data: Floats, X: Floats, ours: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Share of the variance, beside the other regressors, that some explain: summed over voxels; by chance.

    By chance: what the same regressors explain at other times of the run, for noise that is smooth in time is
    more like smooth regressors than like others.

    Parameters
    ----------
    data, X
        (volumes, voxels), (volumes, regressors).
    ours
        (regressors,), which of them.
    """
    rest = _basis(X[:, ~ours])
    left = np.einsum("ij,ij->j", data, data) - ((rest.T @ data) ** 2).sum(axis=0)
    there = left > 0

    def share(columns: Floats) -> float:
        own = _basis(columns - rest @ (rest.T @ columns))
        return float((((own.T @ data) ** 2).sum(axis=0)[there] / left[there]).sum())

    moved = [share(np.roll(X[:, ours], len(X) * k // (_MOVED + 1), axis=0)) for k in range(1, _MOVED + 1)]
    return share(X[:, ours]), float(np.mean(moved))


def _basis(columns: Floats) -> Floats:
    """Orthonormal columns that span the given ones."""
    left, values, _ = np.linalg.svd(columns, full_matrices=False)
    found: Floats = left[:, values > values.max(initial=0.0) * 1e-10]
    return found


def tell_of_lag(
    of_runs: Sequence[tuple[float, float, float, float] | None], model: str, hrf_model: str | None
) -> None:
    """Say so where the signal follows the events in another way than the model has it.

    Parameters
    ----------
    of_runs
        What conditions explain with an HRF, and by chance, and without one; None where that is not known.
    model, hrf_model
        See `neurordl.read_patterns`.
    """
    known = [one for one in of_runs if one is not None]
    if not known:
        return
    (more, chance), (less, least) = np.sum(known, axis=0).reshape(2, 2)[:: 1 if model == "average" else -1]
    if more < _CHANCE * chance or more < _MORE * less or more - chance < _MORE * (less - least):
        return
    if model == "average":
        told = (
            "a haemodynamic response to the events explains {:.1f} times as much of the signal as the events "
            "as they are, which block averages take: unless they are shifted by its lag, use model='glm'"
        )
    else:
        told = (
            f"the events as they are explain {{:.1f}} times as much of the signal as with {hrf_model=}: if "
            "they are already shifted by the haemodynamic lag, use model='average', or hrf_model=None"
        )
    warnings.warn(told.format(more / max(less, 1e-12)), UserWarning, stacklevel=4)
