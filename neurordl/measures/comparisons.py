"""Comparisons of RDMs by name: those that can train a network as torch functions, and each one's properties.

A function takes RDMs ``a`` and ``b`` and the weight of each pair, (..., pairs) each, which broadcast against
one another (models against data: ``f(a[:, None], b[None], weights)``), and gives (...). A pair is missing
where its weight is 0 or either RDM is not finite: what stands there reaches neither value nor gradient.
A similarity that is undefined (a constant RDM, no measured pair) is NaN and has a gradient of zero. Half
precision is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import n_stimuli, square
from neurordl.measures.geometry import centred_kernels

__all__ = [
    "COMPARISONS",
    "Comparison",
    "cka",
    "comparison",
    "corr",
    "corr_cov",
    "cosine",
    "cosine_cov",
    "huber",
    "loss_comparison",
    "mse",
]

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Comparison:
    """A comparison of two RDMs and its properties."""

    name: str  # as rsatoolbox spells it, where it has it
    function: Function | None  # (a, b, weights) -> values; None where it is computed elsewhere
    differentiable: bool  # it can be a loss
    higher_is_better: bool  # a similarity; otherwise a distance
    complete: bool  # missing pairs are an error
    weighted: bool  # takes fractional weights; otherwise a pair is measured (1) or missing (0)


def mse(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of the squared differences."""
    a, b, weights = _measured(a, b, weights)
    return _defined(_mean((a - b).square(), weights), weights.sum(-1) > 0)


def corr(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson correlation, weighted."""
    a, b, weights = _measured(a, b, weights)
    return _cosine(_centred(_scaled(a), weights), _centred(_scaled(b), weights), weights)


def cosine(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cosine, weighted."""
    a, b, weights = _measured(a, b, weights)
    return _cosine(_scaled(a), _scaled(b), weights)


def cosine_cov(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Whitened cosine: a' V⁻¹ b over its norms, V the covariance of distances between independent patterns.

    Rows and columns of V that belong to missing pairs are deleted. Equal to rsatoolbox's ``cosine_cov``
    without ``sigma_k``. Source: Diedrichsen et al. 2020, arXiv:2007.02789.

    Raises
    ------
    NeurordlError
        Weights other than 0 and 1.
    """
    a, b, weights = _measured(a, b, weights)
    _refuse_fractions(weights, "cosine_cov")
    return _whitened(_scaled(a), _scaled(b), weights)


def corr_cov(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """`cosine_cov` of RDMs less their plain mean over the measured pairs: rsatoolbox's ``corr_cov``."""
    a, b, weights = _measured(a, b, weights)
    _refuse_fractions(weights, "corr_cov")
    return _whitened(_centred(_scaled(a), weights), _centred(_scaled(b), weights), weights)


def cka(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Linear centred kernel alignment of RDMs taken as squared Euclidean distances, from complete RDMs.

    Source: Kornblith et al. 2019, arXiv:1905.00414.

    Raises
    ------
    NeurordlError
        A missing pair, or weights other than 1.
    """
    a, b, weights = _measured(a, b, weights)
    if bool((weights != 1).any()):
        raise NeurordlError(
            "cka needs complete RDMs without pair weights, and here pairs are missing or weighted; choose "
            "stimuli that every RDM has, or compare with cosine_cov (missing pairs) or corr (weights too)"
        )
    left, right = (centred_kernels(_scaled(x)).flatten(-2) for x in (a, b))
    return _cosine(left, right, torch.ones_like(left))


def huber(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Smooth L1 (beta 1) between RDMs divided by their weighted means, averaged with the weights.

    The distance term of relational knowledge distillation: Park et al. 2019, arXiv:1904.05068.
    """
    a, b, weights = _measured(a, b, weights)
    a, b = _scaled(a), _scaled(b)
    mean_a, mean_b = _mean(a, weights), _mean(b, weights)
    floor = 8 * torch.finfo(a.dtype).eps
    defined = (mean_a > floor) & (mean_b > floor)
    a, b = (x / torch.where(defined, mean, 1)[..., None] for x, mean in ((a, mean_a), (b, mean_b)))
    loss = torch.nn.functional.smooth_l1_loss(a, b, reduction="none", beta=1.0)
    return _defined(_mean(loss, weights), defined)


def _measured(a: Tensor, b: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """RDMs with zeros at missing pairs, weights that are 0 there; float32 or float64, broadcast."""
    pairs = {x.shape[-1] if x.ndim else None for x in (a, b, weights) if x is not None}
    if len(pairs) != 1 or None in pairs:
        raise NeurordlError(
            "the RDMs and their weights must be condensed over the same pairs; their shapes are "
            + ", ".join(str(tuple(x.shape)) for x in (a, b, weights) if x is not None)
        )
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    measured = a.isfinite() & b.isfinite()
    if weights is None:
        weights = measured.to(dtype)
    else:
        weights = weights.detach().to(dtype)
        if bool((~(weights >= 0) | weights.isinf()).any()):
            raise NeurordlError("pair weights are finite and not negative; give 0 where a pair is missing")
        measured = measured & (weights > 0)
        weights = torch.where(measured, weights, 0)
    return torch.where(measured, a, 0), torch.where(measured, b, 0), weights


def _scaled(rdms: Tensor) -> Tensor:
    """RDMs whose largest entry is 1, the scale taken as constant: nothing computed of them depends on it."""
    if not rdms.shape[-1]:
        return rdms
    largest = rdms.detach().abs().amax(-1, keepdim=True)
    return rdms / torch.where(largest > 0, largest, 1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum(-1)
    return (values * weights).sum(-1) / torch.where(total > 0, total, 1)


def _centred(rdms: Tensor, weights: Tensor) -> Tensor:
    """Less the weighted mean; exactly zero where missing and where only rounding is left (a constant RDM)."""
    centred = torch.where(weights > 0, rdms - _mean(rdms, weights)[..., None], 0)
    rounding = 8 * torch.finfo(rdms.dtype).eps
    varies = (centred.detach().abs() > rounding * rdms.detach().abs()).any(-1, keepdim=True)
    return torch.where(varies, centred, 0)


def _defined(values: Tensor, defined: Tensor) -> Tensor:
    return torch.where(defined, values, math.nan)


def _cosine(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Weighted cosine; NaN, with a gradient of zero, where either has no length."""
    a, b, weights = _scaled(a), _scaled(b), _scaled(weights)  # their squares neither overflow nor vanish
    length_a, length_b = ((x.square() * weights).sum(-1) for x in (a, b))
    defined = (length_a > 0) & (length_b > 0)
    lengths = torch.where(defined, length_a, 1).sqrt() * torch.where(defined, length_b, 1).sqrt()
    return _defined((a * b * weights).sum(-1) / lengths, defined)


def _refuse_fractions(weights: Tensor, name: str) -> None:
    if bool(((weights != 0) & (weights != 1)).any()):
        raise NeurordlError(
            f"{name} takes a pair as measured (weight 1) or missing (0), not with fractional weights; "
            "take corr, cosine, mse or huber for those"
        )


def _whitened(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Cosine under V⁻¹, V = 2 I + B B' with B the (measured pairs x stimuli) incidence.

    Woodbury: with K = 2 I + B'B (stimuli x stimuli) and x_a = K⁻¹ B'a,
    2 a' V⁻¹ b = (a - B x_a)'(b - B x_b) + 2 x_a'x_b, a plain inner product in which nothing cancels.
    """
    n = n_stimuli(a.shape[-1])
    measured = square(weights)
    complete = bool((weights == 1).all())
    factor = None if complete else torch.linalg.cholesky(measured + torch.diag_embed(2 + measured.sum(-1)))

    def extended(rdms: Tensor) -> Tensor:
        matrix = square(rdms)
        sums = matrix.sum(-1)
        if factor is None:  # K = n I + 11'
            x = (sums - sums.sum(-1, keepdim=True) / (2 * n)) / n
        else:
            x = torch.cholesky_solve(sums[..., None], factor)[..., 0]
        rest = matrix - measured * (x[..., :, None] + x[..., None, :])
        return torch.cat([rest.flatten(-2), 2 * x], -1)  # each pair stands twice: twice the inner product

    left, right = extended(a), extended(b)
    return _cosine(left, right, torch.ones_like(left))


_TABLE: tuple[tuple[str, Function | None, bool, bool, bool], ...] = (
    # name, function, higher is better, complete, weighted
    ("mse", mse, False, False, True),
    ("corr", corr, True, False, True),
    ("cosine", cosine, True, False, True),
    ("cosine_cov", cosine_cov, True, False, False),
    ("corr_cov", corr_cov, True, False, False),
    ("cka", cka, True, True, False),
    ("huber", huber, False, False, True),
    ("spearman", None, True, False, False),
    ("rho-a", None, True, False, False),
    ("tau-a", None, True, False, False),
    ("tau-b", None, True, False, False),
    ("bures", None, True, True, False),
    ("neg_riem_dist", None, True, True, False),
)

COMPARISONS: dict[str, Comparison] = {
    name: Comparison(name, function, function is not None, higher, complete, weighted)
    for name, function, higher, complete, weighted in _TABLE
}


def comparison(name: str) -> Comparison:
    """The comparison of a name in `COMPARISONS`.

    Raises
    ------
    NeurordlError
        No such name: the message lists those there are.
    """
    if name not in COMPARISONS:
        raise NeurordlError(f"there is no comparison {name!r}; choose one of {', '.join(COMPARISONS)}")
    return COMPARISONS[name]


def loss_comparison(name: str | Function) -> Function:
    """The loss of a comparison: the distance itself, one minus a similarity, or a function of one's own.

    Parameters
    ----------
    name
        In `COMPARISONS`, or one of its functions; any other function (a, b, weights) -> values is taken as it
        is, to be made small.

    Raises
    ------
    NeurordlError
        No such name, or a measure without a gradient, such as of ranks: the message names those with one.
    """
    if callable(name):
        known = [entry for entry in COMPARISONS.values() if entry.function is name]
        if not known:
            return name
        found = known[0]
    else:
        found = comparison(name)
    similarity = found.function
    if similarity is None:
        usable = ", ".join(entry.name for entry in COMPARISONS.values() if entry.differentiable)
        raise NeurordlError(
            f"{found.name} has no gradient here, so it cannot be a loss; train with one of {usable}, and "
            f"evaluate with {found.name}"
        )
    if not found.higher_is_better:
        return similarity

    def loss(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
        return 1 - similarity(a, b, weights)

    return loss
