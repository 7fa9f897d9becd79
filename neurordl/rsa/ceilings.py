"""How similar RDMs could be: noise ceilings of subjects' RDMs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.kernels.products import GRAM_METHODS, grams
from neurordl.rsa.similarity import RANKED, check_method, mean_ranks, similarity

__all__ = [
    "bounds",
    "ceiling",
    "defined_mean",
    "mean_along",
    "pooled",
    "pooling_weights",
    "scaled_to_pool",
    "subject_bounds",
]

Floats = npt.NDArray[np.float64]


def ceiling(vectors: Floats, method: str) -> tuple[float, float]:
    """Lower and upper noise ceiling of condensed RDMs (subjects, pairs); see `noise_ceiling`."""
    lower, upper = subject_bounds(vectors, method)
    return defined_mean(lower), defined_mean(upper)


def subject_bounds(vectors: Floats, method: str) -> tuple[Floats, Floats]:
    """Similarity of each subject's RDM with the others' pooled RDM (lower), and with all pooled (upper).

    In closed form from the subjects' inner products under cosine, corr and their whitened kin; on ranks, each
    subject sorted once, under rank measures. Pooled as rsatoolbox pools, a pair over those who have it.

    Parameters
    ----------
    vectors
        Condensed RDMs (subjects, pairs); NaN marks a missing pair.
    method
        One of ``METHODS``.

    Returns
    -------
    lower, upper
        (subjects,); NaN where undefined.

    Raises
    ------
    NeurordlError
        Fewer than two subjects: there are no others.
    """
    check_method(method)
    vectors = np.asarray(vectors, dtype=np.float64)
    if len(vectors) < 2:
        raise NeurordlError(
            "a noise ceiling takes the RDMs of two subjects or more, but there is one; choose more subjects"
        )
    complete = bool(np.isfinite(vectors).all())
    if complete and method in GRAM_METHODS:
        stack = torch.as_tensor(vectors)
        found = grams(stack[:0], stack, method, among=True)
        lower, upper = bounds(found.data, pooling_weights(found.lengths))
        return lower.numpy(), upper.numpy()
    if complete and method in ("spearman", "rho-a"):
        return _rank_bounds(vectors, method)
    scaled = scaled_to_pool(vectors, method)
    upper_bound = similarity(pooled(scaled, method), vectors, method)[0]
    others = [pooled(np.delete(scaled, k, axis=0), method) for k in range(len(vectors))]
    lower_bound = [similarity(one, own[None], method)[0, 0] for one, own in zip(others, vectors, strict=True)]
    return np.array(lower_bound), upper_bound


def bounds(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper bound of each subject from inner products (…, subjects, subjects).

    Parameters
    ----------
    gram
        Inner products of the subjects' RDMs, whose cosine is the similarity.
    weights
        (…, subjects) by which each RDM enters the pooled one: how often it was drawn over its length.

    Returns
    -------
    lower, upper
        (…, subjects); lower leaves out every copy of the subject.
    """
    own = gram.diagonal(dim1=-2, dim2=-1)
    with_all = (gram @ weights[..., None])[..., 0]
    square = (weights * with_all).sum(-1, keepdim=True)
    with_others = with_all - weights * own
    rest = square - 2 * weights * with_all + weights.square() * own
    own = torch.where(own > 0, own, torch.nan)

    def cosine(product: Tensor, length: Tensor) -> Tensor:
        defined = length > 1e-13 * square.abs()
        return product / (own * torch.where(defined, length, torch.nan)).sqrt()

    return cosine(with_others, rest), cosine(with_all, square)


def pooling_weights(lengths: Tensor) -> Tensor:
    """One over a length; a subject whose RDM says nothing is pooled with nobody."""
    return torch.where(lengths > 0, 1 / torch.where(lengths > 0, lengths, 1), 0)


def _rank_bounds(vectors: Floats, method: str) -> tuple[Floats, Floats]:
    """`subject_bounds` of complete RDMs under spearman and rho-a."""
    ranks = mean_ranks(vectors)
    ranks[np.ptp(vectors, axis=1) == 0] = 0  # pooled with nobody
    total = ranks.sum(axis=0)
    pairs = vectors.shape[1]
    middle = (pairs + 1) / 2
    all_of_them = mean_ranks(total[None])[0] - middle
    lower, upper = np.full((2, len(ranks)), np.nan)
    for k, own in enumerate(ranks):  # one at a time: no second stack is held
        others = mean_ranks((total - own)[None])[0] - middle
        own = own - middle if own.any() else np.zeros(pairs)
        for out, against in ((lower, others), (upper, all_of_them)):
            product = float(own @ against)
            if method == "rho-a":
                out[k] = product * 12 / (pairs**3 - pairs)
            elif (length := float(own @ own) * float(against @ against)) > 0:
                out[k] = product / np.sqrt(length)
    return lower, upper


def pooled(scaled: Floats, method: str) -> Floats:
    """Mean of each pair over the subjects in whom it is measured: (1, pairs), NaN where in none."""
    measured = np.isfinite(scaled)
    count = measured.sum(axis=0, keepdims=True)
    total = np.where(measured, scaled, 0.0).sum(axis=0, keepdims=True)
    mean = np.full(total.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.round(6) if method in RANKED else mean  # mean ranks that tie do so whatever the rounding


def scaled_to_pool(vectors: Floats, method: str) -> Floats:
    """Each subject's RDM on the scale whose mean over subjects suits the method (rsatoolbox's pool_rdm).

    rsatoolbox does not pool for cka and bures: they are pooled as cosine is, and divided by their mean.
    """
    scaled = np.full(vectors.shape, np.nan)
    anywhere = int(np.isfinite(vectors).any(axis=0).sum())
    for k, vector in enumerate(vectors):
        here = np.isfinite(vector)
        values = vector[here]
        if not len(values):
            continue
        if method in ("cosine", "cosine_cov", "cka"):
            unit = np.sqrt(np.mean(values**2))
        elif method in ("corr", "corr_cov"):
            flat = np.ptp(values) <= 1e-12 * np.abs(values).max()
            values = values - values.mean()
            unit = 0.0 if flat else values.std()
        elif method == "bures":
            unit = values.mean()
        elif method == "neg_riem_dist":
            unit = 1.0
        else:  # ranks of fewer pairs span less: stretched to the range of all, by 1 if none is missing
            values = stats.rankdata(values)
            unit = (len(values) + 1) / (anywhere + 1)
        if unit > 0:  # a subject whose RDM says nothing is pooled with nobody
            scaled[k, here] = values / unit
    return scaled


def defined_mean(scores: Floats) -> float:
    """Mean of what is not NaN; NaN of nothing."""
    defined = scores[np.isfinite(scores)]
    return float(defined.mean()) if len(defined) else np.nan


def mean_along(values: Floats, axis: int) -> Floats:
    """`defined_mean` along an axis."""
    defined = np.isfinite(values)
    total, number = np.where(defined, values, 0).sum(axis=axis), defined.sum(axis=axis)
    return np.asarray(np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0))
