"""Comparisons of RDMs: an object for each, with its function, its properties and the kernel that is fast.

`COMPARISONS` holds those that have a name. A comparison of your own is one `Comparison`: pass it wherever a
name is accepted, or make its name known with `neurordl.register`.

A differentiable function takes RDMs ``a`` and ``b`` and the weight of each pair, (..., pairs) each, which
broadcast against one another (models against data: ``f(a[:, None], b[None], weights)``), and returns (...).
A pair is missing where its weight is 0 or either RDM is not finite: its values reach neither the result nor
the gradient. A similarity that is undefined (a constant RDM, no measured pair) is NaN and has a gradient of
zero. Half precision is computed in float32.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy import optimize, stats
from torch import Tensor

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.measures.condensed import square
from neurordl.measures.kernels.similarities import InnerProducts, Kernel, Ranks, solve_whitening
from neurordl.validate import check_choice, listed

Function = Callable[..., Tensor]
Similarity = Callable[[Tensor, Tensor], Tensor]
Pool = Callable[[Floats, int], Floats]

_FLAT = 1e-12  # range of an RDM, relative to its largest value, that is only rounding
_ENOUGH_PAIRS = 45  # of 10 stimuli: chance alone moves a correlation by 0.15


def standardize(values: Floats, n_pairs: int = 0) -> Floats:
    """Values of one RDM minus their mean, divided by their standard deviation; NaN for a constant RDM."""
    flat = np.ptp(values) <= _FLAT * np.abs(values).max()
    centered = values - values.mean()
    return _divided(centered, 0.0 if flat else centered.std())


def unit_length(values: Floats, n_pairs: int = 0) -> Floats:
    """Values of one RDM divided by their root mean square; NaN for an RDM of zeros."""
    return _divided(values, np.sqrt(np.mean(values**2)))


def unit_mean(values: Floats, n_pairs: int = 0) -> Floats:
    """Values of one RDM divided by their mean; NaN if it is not positive."""
    return _divided(values, values.mean())


def mean_ranks(values: Floats, n_pairs: int) -> Floats:
    """Ranks of one RDM, where ties share their mean, stretched to the range of ``n_pairs`` ranks."""
    return _divided(stats.rankdata(values), (len(values) + 1) / (n_pairs + 1))


def _divided(values: Floats, unit: float) -> Floats:
    return values / unit if unit > 0 else np.full(values.shape, np.nan)


@dataclass(frozen=True)
class Comparison:
    """A comparison of two RDMs: how it is computed, and what has to be known to use it.

    One of ``function``, ``similarity`` and ``kernel`` is needed. Noise ceilings, bootstraps and searchlights
    work with each of them, and are fast with a kernel.

    Attributes
    ----------
    name
        Its name in tables and records.
    function
        Differentiable torch function of two RDMs and the weights of their pairs, (..., pairs) each, that
        returns (...). A pair is missing where its weight is 0. A loss needs this function.
    similarity
        Function of stacks of RDMs without missing pairs, float64 tensors (models, pairs) and (data, pairs),
        that returns (models, data). It is used where there is no kernel, before ``function``.
    differentiable
        Whether a network can be trained with it. Without a ``function`` it is always False.
    higher_is_better
        True for a similarity; False for a distance, which can train a network but not score RDMs.
    complete
        Whether RDMs with missing pairs are refused. Stimuli cannot be resampled then.
    weighted
        Whether pairs may have fractional weights. By default a pair is measured (1) or missing (0), and a
        loss refuses other weights, such as those of ``pair_weights="reliability"``. Set it to True if the
        function handles fractional weights.
    masks
        Whether the function itself leaves out pairs where the weight is 0 or an RDM is not finite. By default
        a loss sets such a pair of the student's RDM to 0, and its weight too, before it calls the function.
    same_unit
        Whether the two RDMs must have the same unit.
    scale_free
        Whether the value stays the same if either RDM is multiplied by a positive number. A loss may then
        compute RDMs in another unit, in which those of very small or very large features are numbers.
    slow
        It takes so long that `evaluate` does not test noise ceilings by permutation.
    pool
        How the RDM of a subject is normalized before RDMs are averaged over subjects into a noise ceiling:
        a function of its measured values (pairs,) and of the number of pairs that any subject has. None
        averages RDMs as they are.
    undefined
        The RDMs for which the comparison is undefined: "constant" ones, or only those of zeros ("zero"). None
        if it is always defined. A kernel returns NaN for them itself.
    undefined_hint
        Other reasons for an undefined similarity, as the end of a message.
    uninformative
        Score of a fitted model whose prediction is constant: the similarity of unrelated RDMs, 0. NaN leaves
        such folds out, where no value means that.
    kernel
        A fast way to compute stacks, ceilings and resamples.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> def overlap(a, b, weights):
    ...     return (weights * torch.minimum(a, b)).sum(-1) / (weights * torch.maximum(a, b)).sum(-1)
    >>> comparison = nrl.Comparison("overlap", overlap)
    >>> people = nrl.simulate.simulate_subjects(torch.eye(3), ["a", "b", "c"], n_subjects=2)
    >>> nrl.compare(people, people, comparison=comparison).shape
    (2, 2)
    """

    name: str
    function: Function | None = None
    similarity: Similarity | None = None
    differentiable: bool = True
    higher_is_better: bool = True
    complete: bool = False
    weighted: bool = False
    masks: bool = False
    same_unit: bool = False
    scale_free: bool = False
    slow: bool = False
    pool: Pool | None = None
    undefined: Literal["constant", "zero"] | None = None
    undefined_hint: str = ""
    uninformative: float = 0.0
    kernel: Kernel | None = None

    def __post_init__(self) -> None:
        if self.function is None and self.similarity is None and self.kernel is None:
            raise NeurordlError(f"comparison {self.name!r} needs a function, a similarity or a kernel")
        if self.function is not None:
            try:
                inspect.signature(self.function).bind(None, None, None)
            except TypeError as error:
                problem = f"comparison {self.name!r}: its function must take (a, b, weights)"
                raise NeurordlError(f"{problem}: two RDMs, and the weights of their pairs") from error
            except ValueError:  # a function in C has no signature
                pass
        check_choice("undefined", self.undefined, ("constant", "zero", None))
        object.__setattr__(self, "differentiable", self.differentiable and self.function is not None)

    @property
    def loss(self) -> Function:
        """Function (a, b, weights) to be minimized: the distance itself, or one minus the similarity.

        Raises
        ------
        NeurordlError
            The comparison has no gradient; the message names those that have one.
        """
        function = self.function
        if function is None or not self.differentiable:
            usable = ", ".join(name for name, entry in COMPARISONS.items() if entry.differentiable)
            raise NeurordlError(f"{self.name} has no gradient, so it cannot be a loss; train with {usable}")
        takes_all = self.weighted and not self.complete
        if takes_all and not self.higher_is_better:
            return function

        def loss(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
            value: Tensor = function(a, b, weights)
            if weights is not None and not takes_all:
                value = torch.where(_accepted(weights, self.name, self.complete), value, math.nan)
            return 1 - value if self.higher_is_better else value

        return loss

    def is_undefined(self, rdms: Tensor) -> Tensor:
        """Which RDMs (rdms, pairs), without missing pairs, have no similarity with any other: (rdms,)."""
        if self.undefined is None or not rdms.shape[-1]:
            return torch.zeros(len(rdms), dtype=torch.bool, device=rdms.device)
        low, high = rdms.aminmax(dim=-1)
        largest = torch.maximum(low.abs(), high.abs())
        return high - low <= _FLAT * largest if self.undefined == "constant" else largest == 0


def mse(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of the squared differences."""
    a, b, weights = _measured(a, b, weights)
    return torch.where(weights.sum(-1) > 0, _mean((a - b).square(), weights), math.nan)


def corr(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Pearson correlation, weighted."""
    if _fit_for_doubles(a, b):
        return _cosine_in_doubles(a, b, weights, center=True)
    return _cosine(*_compared(a, b, weights, center=True))


def cosine(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cosine, weighted."""
    if _fit_for_doubles(a, b):
        return _cosine_in_doubles(a, b, weights)
    return _cosine(*_compared(a, b, weights))


def cosine_cov(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Whitened cosine: a' V⁻¹ b over its norms, V the covariance of distances between independent patterns.

    Rows and columns of V that belong to missing pairs are deleted. Equal to rsatoolbox's ``cosine_cov``
    without ``sigma_k``. Source: Diedrichsen et al. 2020, arXiv:2007.02789.

    Raises
    ------
    NeurordlError
        Weights other than 0 and 1.
    """
    return _whitened(*_compared(a, b, weights), "cosine_cov")


def corr_cov(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """`cosine_cov` of RDMs minus their plain mean over the measured pairs: rsatoolbox's ``corr_cov``."""
    return _whitened(*_compared(a, b, weights, center=True), "corr_cov")


def cka(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Linear centered kernel alignment of complete RDMs, which are read as squared Euclidean distances.

    Source: Kornblith et al. 2019, arXiv:1905.00414.

    Raises
    ------
    NeurordlError
        A missing pair, or weights other than 1.
    """
    a, b, weights = _compared(a, b, weights)
    accepted = _accepted(weights, "cka", complete=True)
    left, right = (centered_kernels(x).flatten(-2) for x in (a, b))
    return torch.where(accepted, _cosine(left, right, torch.ones_like(left)), math.nan)


def huber(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean of the smooth L1 loss (beta 1) between RDMs divided by their weighted means.

    The distance term of relational knowledge distillation: Park et al. 2019, arXiv:1904.05068. The mean of
    their code takes in the diagonals of the RDMs too, where the loss is 0.
    """
    a, b, weights = _compared(a, b, weights)
    mean_a, mean_b = _mean(a, weights), _mean(b, weights)
    floor = 8 * torch.finfo(a.dtype).eps
    defined = (mean_a > floor) & (mean_b > floor)
    a, b = (x / torch.where(defined, mean, 1)[..., None] for x, mean in ((a, mean_a), (b, mean_b)))
    loss = torch.nn.functional.smooth_l1_loss(a, b, reduction="none", beta=1.0)
    return torch.where(defined, _mean(loss, weights), math.nan)


def _measured(a: Tensor, b: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """RDMs and weights in float32 or float64, both 0 where a pair is missing."""
    _check_shapes(a, b, weights)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(dtype), b.to(dtype)
    with torch.no_grad():
        measured = (a - a) + (b - b) == 0  # both are finite, in fewer operations
    zero = a.new_zeros(())
    if weights is None:
        weights = measured.to(dtype)
    else:
        weights = weights.detach().to(dtype)
        on_cpu = weights.device.type == "cpu"  # a look at values on a GPU would stall each step
        if on_cpu and bool((~(weights >= 0) | weights.isinf()).any()):
            raise NeurordlError("pair weights must be finite and not negative; a missing pair has 0")
        measured = measured & (weights > 0)
        weights = torch.where(measured, weights, zero)
    return torch.where(measured, a, zero), torch.where(measured, b, zero), weights


def _check_shapes(*tensors: Tensor | None) -> None:
    shapes = [tuple(x.shape) for x in tensors if x is not None]
    if () in shapes or len({shape[-1] for shape in shapes}) != 1:
        raise NeurordlError(f"RDMs and weights must be condensed over the same pairs; shapes are {shapes}")


def _compared(
    a: Tensor, b: Tensor, weights: Tensor | None, center: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`_measured` RDMs whose largest entry is 1, less their weighted mean if centered."""
    a, b, weights = _measured(a, b, weights)
    a, b = _scaled(a), _scaled(b)
    return (_centered(a, weights), _centered(b, weights), weights) if center else (a, b, weights)


def _scaled(rdms: Tensor) -> Tensor:
    """RDMs whose largest entry is 1; the scale has no gradient, since no value depends on it."""
    if not rdms.shape[-1]:
        return rdms
    largest = rdms.detach().abs().amax(-1, keepdim=True)
    return rdms / torch.where(largest > 0, largest, 1)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    total = weights.sum(-1)
    return (values * weights).sum(-1) / torch.where(total > 0, total, 1)


def _centered(rdms: Tensor, weights: Tensor) -> Tensor:
    """RDMs minus their weighted mean: exactly 0 where missing and where only rounding remains."""
    centered = torch.where(weights > 0, rdms - _mean(rdms, weights)[..., None], 0)
    rounding = 8 * torch.finfo(rdms.dtype).eps
    varies = (centered.detach().abs() > rounding * rdms.detach().abs()).any(-1, keepdim=True)
    return torch.where(varies, centered, 0)


def _cosine(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Weighted cosine; NaN, with a gradient of zero, where either has no length."""
    if _fit_for_doubles(a, b):
        return _cosine_in_doubles(a, b, weights)
    a, b, weights = _scaled(a), _scaled(b), _scaled(weights)  # their squares neither overflow nor vanish
    length_a, length_b = ((x.square() * weights).sum(-1) for x in (a, b))
    defined = (length_a > 0) & (length_b > 0)
    lengths = torch.where(defined, length_a, 1).sqrt() * torch.where(defined, length_b, 1).sqrt()
    return torch.where(defined, (a * b * weights).sum(-1) / lengths, math.nan)


def _fit_for_doubles(a: Tensor, b: Tensor) -> bool:
    """Whether float32 RDMs are on a GPU, where float64 takes fewer kernels than guards against rounding."""
    in_float32 = torch.float64 not in (a.dtype, b.dtype)
    return in_float32 and a.device.type not in ("cpu", "mps") and 0 not in a.shape


def _cosine_in_doubles(a: Tensor, b: Tensor, weights: Tensor | None, center: bool = False) -> Tensor:
    _check_shapes(a, b, weights)
    cosine: Tensor = _CosineInDoubles.apply(a, b, weights, center)  # type: ignore[no-untyped-call]
    return cosine


class _CosineInDoubles(torch.autograd.Function):
    """Weighted cosine of RDMs, centered or not, with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weights: Tensor | None, center: bool) -> Tensor:
        """Their cosine, in the precision of the RDMs."""
        pair = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        both = torch.stack(pair).double()
        total = both.sum(0)
        # NaN where either is not finite, then 0
        weights = torch.add(total.new_ones(()) if weights is None else weights, total - total)
        weights.nan_to_num_(0.0).clamp_min_(0)
        both.nan_to_num_(0.0, 0.0, 0.0)
        weighted = both * weights
        if center:
            sums = weighted.sum(-1, keepdim=True)
            means = sums / weights.sum(-1, keepdim=True)
            both = both - means
            weighted = both * weights
        squares = spread = (weighted * both).sum(-1, keepdim=True)
        if center:  # more than the rounding of the mean
            spread = torch.addcmul(squares, sums, means, value=-((8 * torch.finfo(torch.float32).eps) ** 2))
        inverse = squares.masked_fill_(spread <= 0, math.nan).rsqrt_()
        weighted = weighted * inverse
        cosine = (weighted[0] * (both[1] * inverse[1])).sum(-1, keepdim=True)
        ctx.save_for_backward(weighted, inverse, cosine)
        ctx.shapes, ctx.dtypes = (a.shape, b.shape), (a.dtype, b.dtype)
        return cosine[..., 0].to(torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of either RDM, 0 where the cosine is undefined."""
        weighted, inverse, cosine = ctx.saved_tensors
        pulls: list[Tensor | None] = [None, None]
        for side in (0, 1):
            if ctx.needs_input_grad[side]:
                pull = torch.addcmul(weighted[1 - side], cosine, weighted[side], value=-1)
                pull.mul_(gradient[..., None] * inverse[side]).masked_fill_(cosine.isnan(), 0)
                pulls[side] = pull.sum_to_size(ctx.shapes[side]).to(ctx.dtypes[side])
        return *pulls, None, None


def _accepted(weights: Tensor, name: str, complete: bool = False) -> Tensor:
    """Which RDMs have no missing pairs, where they must be complete, and no fractional weights.

    Others are an error on the CPU; on a GPU a look at values would stall each step, and their value is NaN.
    """
    accepted = ((weights == 1) if complete else (weights == 0) | (weights == 1)).all(-1)
    if weights.device.type != "cpu" or bool(accepted.all()):
        return accepted
    if complete:
        remedy = "choose stimuli that all have, or take corr"
        raise NeurordlError(f"{name} needs complete RDMs without pair weights; {remedy}")
    remedy = "for others take corr, cosine, mse or huber"
    raise NeurordlError(f"{name} takes pairs as measured (1) or missing (0); {remedy}")


def _whitened(a: Tensor, b: Tensor, weights: Tensor, name: str) -> Tensor:
    """Cosine under V⁻¹, V = 2 I + B B' with B the (measured pairs x stimuli) incidence.

    Woodbury: with K = 2 I + B'B (stimuli x stimuli) and x_a = K⁻¹ B'a,
    2 a' V⁻¹ b = (a - B x_a)'(b - B x_b) + 2 x_a'x_b, a plain inner product in which nothing cancels.
    """
    accepted = _accepted(weights, name)
    complete = weights.device.type == "cpu" and bool((weights == 1).all())
    matrices = square(torch.stack([a, b], -2))
    sums = matrices.sum(-1)
    x = solve_whitening(sums, None if complete else weights)
    rest = matrices - square(weights)[..., None, :, :] * (x[..., :, None] + x[..., None, :])
    left, right = torch.cat([rest.flatten(-2), 2 * x], -1).unbind(-2)  # each pair occurs twice
    return torch.where(accepted, _cosine(left, right, torch.ones_like(left)), math.nan)


def centered_kernels(rdms: Tensor) -> Tensor:
    """The doubly centered inner products behind squared distances: (…, pairs) -> (…, stimuli, stimuli)."""
    matrix = square(rdms) / -2
    rows = matrix.mean(-1, keepdim=True)
    return matrix - rows - rows.mT + rows.mean(-2, keepdim=True)


def _cka_of_stacks(models: Tensor, data: Tensor) -> Tensor:
    left, right = (centered_kernels(rdms).flatten(1) for rdms in (models, data))
    return InnerProducts(centered=False).similarity(left, right)


def _bures(models: Tensor, data: Tensor) -> Tensor:
    """Bures similarity of the centered kernels: (models, pairs), (data, pairs) -> (models, data).

    The trace of the root of ``√A B √A`` divided by the root of the product of the traces. Negative
    eigenvalues of A and of the product are left out, as in rsatoolbox. It is not symmetric where squared
    distances are not Euclidean. Source: Muzellec & Cuturi 2018, arXiv:1805.07594.
    """
    left, right = (centered_kernels(_scaled(rdms)) for rdms in (models, data))
    trace = right.diagonal(dim1=-2, dim2=-1).sum(-1)
    similarities = torch.full((len(left), len(right)), torch.nan, dtype=left.dtype, device=left.device)
    for row, kernel in enumerate(left):
        values, vectors = torch.linalg.eigh(kernel)
        positive = values > len(values) * torch.finfo(values.dtype).eps * values.abs().max()
        if not bool(positive.any()):
            continue
        root = vectors[:, positive] * values[positive].sqrt()
        inner = torch.linalg.eigvalsh(root.T @ right @ root).clamp(min=0).sqrt().sum(-1)
        product = kernel.trace() * trace
        similarities[row] = inner / torch.where(product > 0, product, torch.nan).sqrt()
    return similarities


def _negative_riemannian(models: Tensor, data: Tensor) -> Tensor:
    """Affine-invariant distance of second moments, times -1: (models, data).

    rsatoolbox's measure and search: moments relative to the first stimulus, where ``exp(s) A + exp(t) N`` is
    brought as close to B as possible, N being the moments of independent noise. NaN where B is not positive
    definite. Source: Shahbazi et al. 2021, NeuroImage 239:118271.
    """
    left, right = (_moments(rdms).cpu().numpy() for rdms in (models, data))
    noise = np.eye(left.shape[1]) + 1
    similarities = np.full((len(left), len(right)), np.nan)
    for column, target in enumerate(right):
        try:
            factor = np.linalg.inv(np.linalg.cholesky(target))
        except np.linalg.LinAlgError:
            continue
        whitened_noise = factor @ noise @ factor.T
        for row, moments in enumerate(left):
            similarities[row, column] = -_nearest(factor @ moments @ factor.T, whitened_noise)
    return torch.as_tensor(similarities, device=models.device)


def _nearest(moments: Floats, noise: Floats) -> float:
    def distance(scales: Floats) -> float:
        mixed = np.exp(scales[0]) * moments + np.exp(scales[1]) * noise
        values = np.linalg.eigvalsh(mixed)
        return float(np.sqrt((np.log(values) ** 2).sum())) if values[0] > 0 else np.nan

    return float(optimize.minimize(distance, (0, 0), method="Nelder-Mead").fun)


def _moments(rdms: Tensor) -> Tensor:
    """Second moments behind squared distances, the first stimulus at the origin: (rdms, n - 1, n - 1)."""
    matrix = square(rdms)
    first = matrix[..., 0, 1:]
    return (first[..., :, None] + first[..., None, :] - matrix[..., 1:, 1:]) / 2


ComparisonLike = str | Comparison | Function


def _cosine_of(
    name: str, function: Function, pool: Pool, undefined: Literal["constant", "zero"], **options: Any
) -> Comparison:
    shared: Any = {"masks": True, "scale_free": True, "pool": pool, "undefined": undefined}
    return Comparison(name, function, **shared, **options)


def _rank(name: str, products: bool, normalized: bool) -> Comparison:
    undefined: Literal["constant"] | None = "constant" if normalized else None  # else 0 of a constant RDM
    return Comparison(name, pool=mean_ranks, undefined=undefined, kernel=Ranks(products, normalized))


_PLAIN, _CENTERED = InnerProducts(centered=False), InnerProducts(centered=True)
_WHITENED = InnerProducts(centered=False, whitened=True)
_CENTERED_WHITENED = InnerProducts(centered=True, whitened=True)
_BUILT_IN = (
    Comparison("mse", mse, higher_is_better=False, weighted=True, masks=True, same_unit=True),
    _cosine_of("corr", corr, standardize, "constant", weighted=True, kernel=_CENTERED),
    _cosine_of("cosine", cosine, unit_length, "zero", weighted=True, kernel=_PLAIN),
    _cosine_of("cosine_cov", cosine_cov, unit_length, "zero", kernel=_WHITENED),
    _cosine_of("corr_cov", corr_cov, standardize, "constant", kernel=_CENTERED_WHITENED),
    # rsatoolbox does not pool for cka and bures
    _cosine_of("cka", cka, unit_length, "zero", complete=True, similarity=_cka_of_stacks),
    Comparison("huber", huber, higher_is_better=False, weighted=True, masks=True, scale_free=True),
    _rank("spearman", products=True, normalized=True),
    _rank("rho-a", products=True, normalized=False),
    _rank("tau-a", products=False, normalized=False),
    _rank("tau-b", products=False, normalized=True),
    Comparison("bures", None, _bures, complete=True, slow=True, pool=unit_mean, undefined="zero"),
    Comparison(
        "neg_riem_dist",
        None,
        _negative_riemannian,
        complete=True,
        slow=True,
        undefined="zero",
        undefined_hint=": their points must span as many dimensions as there are stimuli minus one",
        uninformative=math.nan,
    ),
)
COMPARISONS: dict[str, Comparison] = {entry.name: entry for entry in _BUILT_IN}
"""The comparisons that have a name, as rsatoolbox spells it where it has them."""


def find_comparison(comparison: ComparisonLike, *, higher_is_better: bool = True) -> Comparison:
    """The comparison of a name in `COMPARISONS`, or of a function.

    Parameters
    ----------
    comparison
        A name; a `Comparison`, which is returned as it is; or a torch function (a, b, weights) -> values.
    higher_is_better
        Whether the values of a function that belongs to none of `COMPARISONS` are similarities.

    Raises
    ------
    NeurordlError
        The name is unknown (the message lists the known ones), or it belongs to another comparison.

    Examples
    --------
    >>> find_comparison("corr").differentiable
    True
    """
    if not isinstance(comparison, Comparison):
        if not callable(comparison):
            return COMPARISONS[check_choice("comparison", comparison, list(COMPARISONS), _meant(comparison))]
        for entry in COMPARISONS.values():
            if entry.function is comparison:
                return entry
        name = getattr(comparison, "__qualname__", type(comparison).__name__)
        comparison = Comparison(name, comparison, higher_is_better=higher_is_better, weighted=True)
    if COMPARISONS.get(comparison.name, comparison) != comparison:
        remedy = "take Comparison('another name', function)"
        raise NeurordlError(f"comparison {comparison.name!r} has the name of another comparison: {remedy}")
    return comparison


def _meant(name: object) -> str:
    """A hint at the comparison that another package calls by this name."""
    meant = {"pearson": "corr", "correlation": "corr", "kendall": "tau-a"}.get(str(name).lower())
    return f"did you mean {meant!r}?" if meant else ""


def find_similarity(comparison: ComparisonLike) -> Comparison:
    """`find_comparison` for scoring RDMs, which takes a similarity.

    Raises
    ------
    NeurordlError
        The name is unknown, or it is that of a distance.
    """
    similarities = [name for name, entry in COMPARISONS.items() if entry.higher_is_better]
    if isinstance(comparison, str) and comparison not in COMPARISONS:
        check_choice("comparison", comparison, similarities, _meant(comparison))
    entry = find_comparison(comparison)
    if not entry.higher_is_better:
        raise NeurordlError(f"comparison={entry.name!r} is a distance; choose {listed(similarities, 40)}")
    return entry


def few_pairs(stimuli: int, pairs: int, *, resampled: bool = False, requested: int | None = None) -> str:
    """A note on how far chance moves a score of few pairs; empty if there are enough.

    The number in the note is the standard deviation of the correlation of unrelated values,
    1 / sqrt(pairs - 1).

    Parameters
    ----------
    stimuli, pairs
        Number of stimuli, and of pairs that were measured.
    resampled
        Whether stimuli are resampled, so that the intervals reflect it.
    requested
        Number of pairs if all had been measured; ``pairs`` by default.
    """
    if not 1 < pairs < _ENOUGH_PAIRS:
        return ""
    subject = f"only {stimuli} stimuli ({pairs} pairs)"
    if requested is not None and pairs < requested:
        subject = f"only {pairs} of the {requested:,} pairs of {stimuli} stimuli"
    hidden = "" if resampled else ", and intervals over subjects do not include this"
    return (
        f"{subject}: by chance alone, scores vary with a standard deviation of {(pairs - 1) ** -0.5:.2f} "
        f"(of a correlation){hidden}; use at least 10 stimuli"
    )
