"""How reliable RDMs are, and whether their similarity with models may be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor

from neurordl.arrays import Bools, Floats, nan_mean
from neurordl.errors import NeurordlError, notify
from neurordl.measures.comparisons import ComparisonLike, find_similarity
from neurordl.measures.condensed import n_stimuli, square
from neurordl.rdms.selection import descriptor_values, subject_names
from neurordl.rsa.ceilings import p_by_permutation, pooled, scaled_to_pool
from neurordl.rsa.compare import matched_vectors, repeated_subjects, similarity, subject_vectors
from neurordl.validate import check_count


def permutation_p(
    models: RDMs | npt.ArrayLike,
    data: RDMs | npt.ArrayLike,
    comparison: ComparisonLike = "rho-a",
    *,
    n_permutations: int = 1000,
    rng: np.random.Generator | None = None,
) -> Floats:
    """Test each model's mean similarity by permuting its stimuli (rows and columns together).

    The test asks whether these models are related to these subjects on these stimuli at all, compared with
    the same RDMs whose stimuli are assigned at random. It generalizes to neither other subjects nor other
    stimuli.

    All models are permuted alike, so that p-values of several can be corrected together.

    Parameters
    ----------
    models, data
        RDMs, matched by their stimulus ids, the data with one RDM per subject; or condensed arrays (models,
        pairs) and (subjects, pairs), where NaN marks a missing pair.
    comparison
        As in `compare`.
    n_permutations
        Number of permutations; the smallest p is one divided by this number plus one.
    rng
        Generator of the permutations; by default one with the seed 0.

    Returns
    -------
    array, (models,)
        One-sided p; NaN if the similarity is undefined.

    Raises
    ------
    NeurordlError
        The RDMs are over different pairs, the comparison is unknown, or there is no permutation or no model.
    """
    comparison, rng = find_similarity(comparison), np.random.default_rng(0) if rng is None else rng
    a, b = map(torch.as_tensor, matched_vectors(models, data)[:2])
    n = n_stimuli(a.shape[1])
    if not len(a):
        raise NeurordlError("there are 0 models to compare; give one or more")
    kernel = None
    if comparison.kernel is not None and bool(a.isfinite().all()) and bool(b.isfinite().all()):
        a, b, kernel = comparison.kernel.permutable(a, b)

    def mean_similarity(rdms: Tensor) -> Floats:
        scores = similarity(rdms, b, comparison) if kernel is None else kernel.similarity(rdms, b)
        return nan_mean(scores.numpy(), 1)

    squares = square(a)
    row, column = torch.triu_indices(n, n, 1)

    def permuted(size: int) -> Floats:
        orders = [torch.from_numpy(rng.permutation(n)) for _ in range(size)]
        moved = torch.cat([squares[:, order[row], order[column]] for order in orders])
        return mean_similarity(moved).reshape(size, -1)

    return p_by_permutation(mean_similarity(a), permuted, n_permutations, a.numel())


def split_half(
    rdms: RDMs | npt.ArrayLike,
    comparison: ComparisonLike = "rho-a",
    *,
    n_splits: int = 100,
    rng: np.random.Generator | None = None,
    spearman_brown: bool = False,
) -> Floats:
    """Similarity of the pooled RDMs of random halves of the subjects, one value for each split.

    The values estimate the reliability of the pooled RDM of half as many subjects from this population, for
    these stimuli; with ``spearman_brown`` that of as many subjects, ``2 r / (1 + r)``, which assumes that
    subjects are exchangeable and that the similarity is a correlation (Spearman 1910; Brown 1910).

    Parameters
    ----------
    rdms
        RDMs with one RDM per subject, or condensed RDMs (subjects, pairs). If their number is odd, one
        subject is left out of each split.
    comparison
        As in `compare`.
    n_splits
        Number of random splits.
    rng
        Generator of the splits; by default one with the seed 0.
    spearman_brown
        Whether to extrapolate to the reliability of all subjects with the Spearman-Brown formula.

    Returns
    -------
    array, (n_splits,)

    Raises
    ------
    NeurordlError
        There are fewer than two subjects, or no splits.
    """
    comparison, vectors = find_similarity(comparison), subject_vectors(rdms)
    rng = np.random.default_rng(0) if rng is None else rng
    half = len(vectors) // 2
    if half < 1:
        raise NeurordlError("split-half reliability takes the RDMs of two subjects or more, but there is one")
    check_count("n_splits", n_splits)
    scaled = scaled_to_pool(vectors, comparison)
    values = np.empty(n_splits)
    for k in range(n_splits):
        order = rng.permutation(len(vectors))
        first, second = (pooled(scaled[rows], comparison) for rows in (order[:half], order[half : 2 * half]))
        values[k] = similarity(first, second, comparison)[0, 0]
    return 2 * values / (1 + values) if spearman_brown else values


@dataclass(frozen=True, eq=False)
class SessionReliability:
    """How similar a subject's RDMs of different sessions are, compared with those of other subjects.

    Attributes
    ----------
    subjects
        Names, in order of appearance.
    same, other
        (subjects,) mean similarity with the subject's RDMs of other sessions, and with those of other
        subjects in other sessions; NaN where there are none.
    """

    subjects: tuple[str, ...]
    same: Floats
    other: Floats


def session_reliability(
    rdms: RDMs | npt.ArrayLike,
    subjects: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    comparison: ComparisonLike = "rho-a",
) -> SessionReliability:
    """Similarity of RDMs across sessions, within and between subjects.

    The means say, for each of these subjects and on these stimuli, how well the RDM of a session predicts
    those of the others; the difference between the two means is specific to the subject.

    Parameters
    ----------
    rdms
        RDMs, or condensed RDMs (rdms, pairs).
    subjects, sessions
        Subject and session of each RDM; by default the RDM descriptors ``subject`` and ``session``.
    comparison
        As in `compare`.

    Raises
    ------
    NeurordlError
        There is one session only, or the lists do not fit the RDMs.
    """
    if isinstance(rdms, RDMs):
        subjects = subject_names(rdms) if subjects is None else subjects
        sessions = descriptor_values(rdms, "session") if sessions is None else sessions
        rdms = rdms.dissimilarities
    vectors = np.asarray(rdms, dtype=np.float64)
    subjects, sessions = list(subjects or ()), list(sessions or ())
    if not len(vectors) == len(subjects) == len(sessions):
        raise NeurordlError(
            f"{len(vectors)} RDMs, {len(subjects)} subjects and {len(sessions)} sessions: give one of each"
        )
    if len(set(sessions)) < 2:
        raise NeurordlError("session reliability takes RDMs of two sessions or more, but there is one")
    labels = [f"{subject} in session {session}" for subject, session in zip(subjects, sessions, strict=True)]
    if note := repeated_subjects(labels, vectors):
        notify(note)
    scores = similarity(vectors, vectors, comparison)
    by_subject, by_session = np.array(subjects), np.array(sessions)
    names = tuple(dict.fromkeys(subjects))
    elsewhen = by_session[:, None] != by_session
    alike = by_subject[:, None] == by_subject

    def means(relation: Bools) -> Floats:
        pairs = elsewhen & relation
        return np.array([float(nan_mean(scores[pairs & (by_subject == name)[:, None]])) for name in names])

    return SessionReliability(names, means(alike), means(~alike))
