"""Draws of subjects and stimuli with replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError

__all__ = ["Draws", "Resample", "draw", "given_draws"]

Ints = npt.NDArray[np.int64]
Resample = Literal["none", "subjects", "stimuli", "both"]


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each subject, (resamples, subjects), and stimulus was drawn; None: not resampled."""

    subjects: Ints | None
    stimuli: Ints | None


def draw(
    n_subjects: int,
    n_stimuli: int,
    resample: Resample,
    n_bootstrap: int,
    rng: np.random.Generator,
    fewest_subjects: int = 1,
    fewest_stimuli: int = 3,
) -> Draws:
    """Draw subjects, stimuli or both with replacement; again where fewer distinct ones came than are needed.

    Raises
    ------
    NeurordlError
        Fewer than two resamples; one subject, which cannot be resampled; or so few subjects or stimuli that
        half of the draws would be drawn again: those left would be too much alike to tell a variance by.
    """
    if isinstance(n_bootstrap, bool) or not isinstance(n_bootstrap, int | np.integer) or n_bootstrap < 2:
        raise NeurordlError(f"n_bootstrap={n_bootstrap!r}: expected a whole number of resamples, 2 or more")
    subjects = stimuli = None
    if resample in ("subjects", "both"):
        if n_subjects < 2:
            raise NeurordlError(
                "one subject cannot be resampled; resample the stimuli, which generalises to stimuli "
                "only, or give more subjects"
            )
        subjects = _draw(n_subjects, n_bootstrap, fewest_subjects, "subjects", rng)
    if resample in ("stimuli", "both"):
        stimuli = _draw(n_stimuli, n_bootstrap, fewest_stimuli, "stimuli", rng)
    return Draws(subjects, stimuli)


def _draw(n: int, size: int, fewest: int, what: str, rng: np.random.Generator) -> Ints:
    if _chance(n, fewest) <= 0.5:
        raise NeurordlError(
            f"resamples need {fewest} or more distinct {what} each, which draws of {n} {what} give in "
            f"{_chance(n, fewest):.0%} of cases only; give more {what}, or make fewer folds of them"
        )
    found = np.zeros((size, n), dtype=np.int64)
    while len(few := np.flatnonzero((found > 0).sum(axis=1) < fewest)):
        found[few] = _counts(rng.integers(0, n, (len(few), n)), n)
    return found


def _chance(n: int, fewest: int) -> float:
    """Of n draws with replacement out of n, that ``fewest`` or more distinct ones come."""
    share = np.eye(1, n + 1)[0]  # by how many distinct ones have come so far
    new = 1 - np.arange(n + 1) / max(n, 1)
    for _ in range(n):
        share = share * (1 - new) + np.append(0, (share * new)[:-1])
    return float(share[fewest:].sum())


def given_draws(
    subjects: npt.ArrayLike | None, stimuli: npt.ArrayLike | None, n_subjects: int, n_stimuli: int
) -> Draws:
    """Draws from the indices that someone drew, (resamples, any number) each.

    Raises
    ------
    NeurordlError
        A resample of fewer than three distinct stimuli, or an index that is not there.
    """
    found: list[Ints | None] = []
    for drawn, n, what in ((subjects, n_subjects, "subjects"), (stimuli, n_stimuli, "stimuli")):
        if drawn is None:
            found.append(None)
            continue
        index = np.asarray(drawn)
        if index.ndim != 2 or index.dtype.kind not in "iu" or index.min() < 0 or index.max() >= n:
            raise NeurordlError(f"draws of {what} are indices from 0 to {n - 1}, (resamples, drawn)")
        found.append(_counts(index, n))
    if found[1] is not None and (few := np.flatnonzero((found[1] > 0).sum(axis=1) < 3)).size:
        raise NeurordlError(
            f"resample {few[0]} holds fewer than three distinct stimuli, too few to compare RDMs; "
            "draw it again"
        )
    return Draws(*found)


def _counts(index: npt.NDArray[np.integer], n: int) -> Ints:
    rows = np.arange(len(index))[:, None]
    found = np.bincount((index + n * rows).ravel(), minlength=n * len(index))
    return found.reshape(len(index), n).astype(np.int64)
