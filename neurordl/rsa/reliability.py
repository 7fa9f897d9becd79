"""How reliable RDMs are: of halves of subjects, of sessions; whether subjects agree better than by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import n_stimuli
from neurordl.rsa.ceilings import ceiling, defined_mean, pooled, scaled_to_pool
from neurordl.rsa.similarity import check_method, similarity

__all__ = ["SessionReliability", "agreement", "ceiling_p", "session_reliability", "split_half"]

Floats = npt.NDArray[np.float64]

# What tables test: up to here it takes a second or so, unless each subject takes a search or matrix roots.
_TESTED = 500_000
_SLOW = ("neg_riem_dist", "bures")


def ceiling_p(vectors: Floats, method: str, *, n_permutations: int = 1000, rng: np.random.Generator) -> float:
    """Whether subjects agree better than by chance: p of the lower noise ceiling, by permutation.

    The stimuli of each subject are permuted independently, rows and columns together. Estimand: agreement of
    these subjects on these stimuli, beside what RDMs of unrelated stimuli would give (which is not zero
    under the cosines). It generalises to neither other subjects nor other stimuli.

    Parameters
    ----------
    vectors
        Condensed RDMs (subjects, pairs).
    method
        One of ``METHODS``.
    n_permutations
        How many; the smallest p is one over this number plus one.
    rng
        Where the permutations come from.

    Returns
    -------
    p
        One-sided; NaN where the ceiling is undefined.
    """
    if n_permutations < 1:
        raise NeurordlError(f"n_permutations={n_permutations}: expected 1 or more")
    found = ceiling(vectors, method)[0]
    if np.isnan(found):
        return np.nan
    n = n_stimuli(vectors.shape[1])
    i, j = np.triu_indices(n, 1)
    number = np.zeros((n, n), dtype=np.int64)
    number[i, j] = number[j, i] = np.arange(len(i))
    exceed = 0
    for _ in range(n_permutations):
        orders = [rng.permutation(n) for _ in vectors]
        moved = np.stack(
            [one[number[order[i], order[j]]] for one, order in zip(vectors, orders, strict=True)]
        )
        exceed += not ceiling(moved, method)[0] < found - 1e-12
    return (1 + exceed) / (1 + n_permutations)


def agreement(vectors: Floats, method: str, seed: int) -> float:
    """`ceiling_p` from 99 permutations, for tables; NaN where it takes too long, or of one subject."""
    if len(vectors) < 2 or vectors.size > _TESTED or method in _SLOW:
        return np.nan
    return ceiling_p(vectors, method, n_permutations=99, rng=np.random.default_rng(seed))


def split_half(
    vectors: Floats,
    method: str,
    *,
    n_splits: int = 100,
    rng: np.random.Generator,
    spearman_brown: bool = False,
) -> Floats:
    """Similarity of the pooled RDMs of random halves of the subjects, one value for each split.

    Estimand: reliability of the pooled RDM of half as many subjects from this population, for these
    stimuli; with ``spearman_brown``, of as many, ``2 r / (1 + r)``, which supposes that subjects are
    exchangeable and that the similarity is a correlation (Spearman 1910; Brown 1910).

    Parameters
    ----------
    vectors
        Condensed RDMs (subjects, pairs). Of an odd number, one subject is left out of each split.
    method
        One of ``METHODS``.
    n_splits
        How many random splits.
    rng
        Where they come from.
    spearman_brown
        Step up to the length of all subjects.

    Returns
    -------
    array, (n_splits,)

    Raises
    ------
    NeurordlError
        Fewer than two subjects.
    """
    check_method(method)
    half = len(vectors) // 2
    if half < 1:
        raise NeurordlError("split-half reliability takes the RDMs of two subjects or more, but there is one")
    if n_splits < 1:
        raise NeurordlError(f"n_splits={n_splits}: expected 1 or more")
    scaled = scaled_to_pool(np.asarray(vectors, dtype=np.float64), method)
    out = np.empty(n_splits)
    for k in range(n_splits):
        order = rng.permutation(len(vectors))
        first, second = (pooled(scaled[order[part]], method) for part in (slice(half), slice(half, 2 * half)))
        out[k] = similarity(first, second, method)[0, 0]
    return 2 * out / (1 + out) if spearman_brown else out


@dataclass(frozen=True, eq=False)
class SessionReliability:
    """How similar a subject's RDMs of different sessions are, beside those of other subjects.

    Attributes
    ----------
    subjects
        Names, in order of appearance.
    same, other
        (subjects,) mean similarity with the subject's own RDMs of other sessions, and with those of other
        subjects in other sessions. NaN where there are none.
    """

    subjects: tuple[str, ...]
    same: Floats
    other: Floats


def session_reliability(
    vectors: Floats, subjects: list[str], sessions: list[str], method: str
) -> SessionReliability:
    """Similarity of RDMs across sessions, within and between subjects.

    Estimand: for each of these subjects, on these stimuli, how well one session's RDM tells another's; the
    difference of the two is what is the subject's own.

    Parameters
    ----------
    vectors
        Condensed RDMs (rdms, pairs).
    subjects, sessions
        Of each RDM.
    method
        One of ``METHODS``.

    Raises
    ------
    NeurordlError
        One session only, or lists that do not fit the RDMs.
    """
    if not len(vectors) == len(subjects) == len(sessions):
        raise NeurordlError(
            f"each RDM takes a subject and a session, but there are {len(vectors)} RDMs, {len(subjects)} "
            f"subjects and {len(sessions)} sessions"
        )
    if len(set(sessions)) < 2:
        raise NeurordlError("session reliability takes RDMs of two sessions or more, but there is one")
    found = similarity(vectors, vectors, method)
    who, when = np.array(subjects), np.array(sessions)
    names = tuple(dict.fromkeys(subjects))
    elsewhen = when[:, None] != when
    alike = who[:, None] == who
    same, other = (
        np.array([defined_mean(found[elsewhen & relation & (who == name)[:, None]]) for name in names])
        for relation in (alike, ~alike)
    )
    return SessionReliability(names, same, other)
