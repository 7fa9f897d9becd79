"""Dissimilarities between patterns: one object for each, with everything that the package has to know of it.

Their functions take patterns (..., stimuli, channels) and return condensed RDMs (..., pairs), in float64 for
float64 patterns and otherwise in float32, also within autocast. A distance that is undefined (the correlation
distance of a constant pattern, the cosine distance of a pattern of zeros, any distance of a pattern with NaN)
is NaN, has a gradient of exactly zero and does not affect other pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import condensed_index
from neurordl.measures.kernels.distances import (
    Normalize,
    exact_product,
    factor_of,
    floating,
    full_precision,
    squared_distances,
    whiten,
    whiten_by,
)
from neurordl.validate import check_choice

Precision = Literal["none", "optional", "required"]
_PRODUCTS = 1 << 24  # inner products of runs up to which they are computed at once


@dataclass(frozen=True)
class SquaredDistance:
    """How a dissimilarity follows from squared Euclidean distances, so that it is computed in blocks.

    Parameters
    ----------
    normalize
        "none", "length" (patterns are divided by their length), or "centered length" (patterns are centered
        over channels, and then divided by their length).
    scale
        The factor of the squared distances; 1 / channels by default.
    root
        Whether the square root is taken.
    sides
        A function that returns two versions x and y of patterns (stimuli, channels). The squared distance of
        two stimuli is then (x1 - x2) · (y1 - y2).
    """

    normalize: Normalize = "none"
    scale: float | None = None
    root: bool = False
    sides: Callable[[Tensor], tuple[Tensor, ...]] | None = None

    def factor(self, channels: int) -> float:
        """Return the factor of the squared distances of patterns with that many channels."""
        return 1 / channels if self.scale is None else self.scale

    def __call__(self, patterns: Tensor) -> Tensor:
        """Return the dissimilarities (..., pairs) of patterns (..., stimuli, channels) with one side."""
        squared = squared_distances(patterns, self.normalize)
        squared = squared / patterns.shape[-1] if self.scale is None else squared * self.scale
        if not self.root:
            return squared
        positive = squared > 0  # the gradient is zero where the distance is zero
        return torch.where(positive, torch.where(positive, squared, 1).sqrt(), squared.detach())


@dataclass(frozen=True)
class Dissimilarity:
    """A dissimilarity between two patterns.

    Pass it to any function that has an argument ``dissimilarity``, or make it known by its name with
    `neurordl.register`.

    Parameters
    ----------
    name
        Its name.
    function
        Maps patterns, a tensor (..., stimuli, channels), or (..., runs, stimuli, channels) if it
        ``needs_runs``, to condensed RDMs (..., pairs). It takes the argument ``precision``, (channels,
        channels), unless that is "none", the argument ``counts``, (runs, stimuli), if it is ``unbalanced``,
        and ``stimuli`` if it is ``compact``.
    aliases
        Other names that files and papers use for it. Letter case, blanks, punctuation and the word "distance"
        are ignored.
    written
        The value of ``RDMs.dissimilarity_measure``; the name by default.
    needs_runs
        Whether it needs repeated runs.
    unbalanced
        For a function that needs runs: whether stimuli may be measured more often in some runs than in
        others.
    compact
        For a function with unbalanced runs: whether patterns may be (..., runs, k, channels), those of the
        stimuli of each run alone, with their numbers as the argument ``stimuli``, (runs, k). Runs of fewer
        than k stimuli are filled with the number of stimuli. It saves memory where runs are many.
    precision
        Whether the inverse of a noise covariance is "required", "optional", or not accepted ("none").
    whitened_by_root
        Whether noise normalization (``noise`` of `compute_rdms`) multiplies patterns by the root of the
        precision.
    rates
        Whether patterns are rates or counts, which cannot be negative.
    differentiable
        Whether it can train a network.
    for_network
        The dissimilarity for a network that is compared with brain RDMs of this dissimilarity. By default it
        is the same, or "euclidean" if this one needs runs or a precision, which a network does not have.
    kernel
        How it is computed from squared distances, if it can be. RDMs are then computed in blocks, fast and
        with little memory. With runs, the result is the mean over pairs of different runs, and the kernel has
        no ``normalize``, ``root`` or ``sides``.
    unit
        What its values are, for labels of figures, such as "1 − Pearson's r".

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> def city_block(patterns):
    ...     row, column = torch.triu_indices(patterns.shape[-2], patterns.shape[-2], offset=1)
    ...     return (patterns[..., row, :] - patterns[..., column, :]).abs().mean(-1)
    >>> nrl.Dissimilarity("city_block", city_block, aliases=("L1",))(torch.eye(3))
    tensor([0.6667, 0.6667, 0.6667])
    """

    name: str
    function: Callable[..., Tensor]
    aliases: tuple[str, ...] = ()
    written: str = ""
    needs_runs: bool = False
    unbalanced: bool = False
    compact: bool = False
    precision: Precision = "none"
    whitened_by_root: bool = False
    rates: bool = False
    differentiable: bool = True
    for_network: str | Dissimilarity | None = None
    kernel: SquaredDistance | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, get_args(Precision))
        if not isinstance(self.name, str) or not self.name or not callable(self.function):
            values = f"{self.name!r} and {self.function!r:.60}"
            raise NeurordlError(f"a Dissimilarity takes a name and a function, not {values}")
        if self.needs_runs and self.kernel is not None and not self.squared:
            raise NeurordlError(f"{self.name!r} needs runs: its kernel has no normalize, root or sides")
        object.__setattr__(self, "written", self.written or self.name)

    def __call__(self, patterns: Tensor, *args: Tensor, **kwargs: Tensor) -> Tensor:
        """Return the function's condensed RDMs.

        Raises
        ------
        NeurordlError
            The function returned no tensor, or one of another shape.
        """
        rdms = self.function(patterns, *args, **kwargs)
        n = kwargs["counts"].shape[-1] if "stimuli" in kwargs else patterns.shape[-2]
        expected = (*patterns.shape[: -3 if self.needs_runs else -2], n * (n - 1) // 2)
        if not isinstance(rdms, Tensor) or rdms.shape != expected:
            is_tensor = isinstance(rdms, Tensor)
            result = f"values of the shape {tuple(rdms.shape)}" if is_tensor else f"a {type(rdms).__name__}"
            problem = f"dissimilarity {self.name!r} gave {result} for patterns {tuple(patterns.shape)}"
            raise NeurordlError(f"{problem}: it must return a tensor with condensed RDMs {expected}")
        return rdms

    def __str__(self) -> str:
        return self.name

    @property
    def lacking_in_network(self) -> str:
        """What it needs and a network does not have; an empty text if there is nothing."""
        if self.needs_runs:
            return "repeats"
        return "a precision" if self.precision == "required" else ""

    @property
    def normalized(self) -> bool:
        """Whether patterns are normalized first, as for the correlation distance."""
        return self.kernel is not None and self.kernel.normalize != "none"

    @property
    def squared(self) -> bool:
        """Whether it is a squared Euclidean distance, as rsatoolbox defines Euclidean ones."""
        return self.kernel is not None and self.kernel == SquaredDistance(scale=self.kernel.scale)

    @property
    def homogeneous(self) -> bool:
        """Whether patterns times a number have these RDMs times a number; False where it is not known."""
        return self.kernel is not None and self.kernel.normalize == "none" and self.kernel.sides is None

    def check_name(self, replaced: str = "") -> None:
        """Raise an error if one of its names is that of another dissimilarity, but for a replaced one."""
        if self in DISSIMILARITIES.values():
            return
        for name, known in DISSIMILARITIES.items():
            taken = known.spellings() & self.spellings()
            if taken and name != replaced:
                reason = f"{min(taken)!r} is the dissimilarity {name!r}; choose another name or alias"
                raise NeurordlError(f"the name {self.name!r} is taken, since {reason}")

    def check_precision(self, available: bool) -> None:
        """Raise an error if there is a precision that it cannot take, or none and it needs one."""
        if available and self.precision == "none":
            able = [name for name, known in DISSIMILARITIES.items() if known.precision != "none"]
            raise NeurordlError(f"{self} takes no precision; choose {' or '.join(able)}, or leave it out")
        if not available and self.precision == "required":
            remedy = "pass its inverse as precision=, or in compute_rdms noise='shrinkage_diag' (--noise)"
            raise NeurordlError(f"{self} needs a noise covariance: {remedy}")

    def of_network(self) -> Dissimilarity:
        """Return the dissimilarity for a network where brain data were measured by this one."""
        if self.for_network is not None:
            return find_dissimilarity(self.for_network)
        return DISSIMILARITIES["euclidean"] if self.lacking_in_network else self

    def with_precision(self, precision: Tensor, channels: int) -> Callable[..., Tensor]:
        """Return the function of patterns (..., channels) for one precision, which is factored once."""
        if self.kernel is None or (self.needs_runs and self.precision == "required"):
            return partial(self.function, precision=precision)
        factor = factor_of(precision, channels)
        of_whitened = self.kernel if self.precision == "required" else self.function

        def whitened(patterns: Tensor, **options: Tensor) -> Tensor:
            nonlocal factor
            factor = factor.to(patterns)  # once, if patterns stay on one device
            if options:  # unbalanced runs, whose inner products depend on what is removed from a run
                return of_whitened(exact_product(patterns, factor), **options)
            return of_whitened(whiten_by(patterns, factor))

        return whitened

    def spellings(self) -> set[str]:
        """Return its name and aliases in the form in which they are compared."""
        return {_plain(text) for text in (self.name, self.written, *self.aliases)}


DissimilarityLike = str | Dissimilarity | Callable[..., Tensor]
"""A dissimilarity: its name, an object, or a function of patterns."""


euclidean = SquaredDistance()
"""Squared Euclidean distance divided by the number of channels, as ``euclidean`` in rsatoolbox."""
euclidean_root = SquaredDistance(root=True)
"""Root of `euclidean`, which is a metric; its gradient is zero where the distance is zero."""
correlation = SquaredDistance("centered length", scale=0.5)
"""One minus the Pearson correlation; NaN for a pattern that is constant (up to rounding)."""
cosine = SquaredDistance("length", scale=0.5)
"""One minus the cosine; NaN for a pattern of zeros."""


def mahalanobis(patterns: Tensor, precision: Tensor) -> Tensor:
    """Squared Mahalanobis distance divided by the number of channels, as in rsatoolbox.

    Parameters
    ----------
    patterns
        (..., n, channels).
    precision
        (channels, channels), the inverse of the noise covariance (rsatoolbox's ``noise``), which has no
        gradient. It is factored at each call; on a GPU once, and again if torch changes it.

    Raises
    ------
    NeurordlError
        The precision is not a finite, symmetric, positive semidefinite matrix of that size.
    """
    return euclidean(whiten(patterns, precision))


def poisson(patterns: Tensor, prior_lambda: float = 1.0, prior_weight: float = 0.1) -> Tensor:
    """Symmetrized KL divergence of Poisson rates divided by the number of channels, as in rsatoolbox.

    Parameters
    ----------
    patterns
        (..., n, channels), rates or counts of 0 or more. The pairs of a stimulus with a negative rate, below
        what the prior compensates, are NaN.
    prior_lambda, prior_weight
        The prior rate, and its weight relative to one measurement.
    """
    rates, logs = poisson_rates(patterns, prior_lambda, prior_weight)
    # (a - b)(log a - log b) as a difference of two squared distances, scaled so that little cancels
    scale = _spread_of(logs).div(_spread_of(rates)).sqrt().nan_to_num(1.0, 1.0, 1.0)
    scale = torch.where(scale > 0, scale, 1.0)
    plus = squared_distances(rates * scale + logs / scale)
    return (plus - squared_distances(rates * scale - logs / scale)) / (4 * patterns.shape[-1])


def _spread_of(values: Tensor) -> Tensor:
    """Mean absolute deviation from the mean over stimuli of the finite values, without gradient."""
    finite = torch.nan_to_num(values.detach(), 0.0, 0.0, 0.0)
    return (finite - finite.mean(-2, keepdim=True)).abs().mean((-2, -1), keepdim=True)


def poisson_rates(
    patterns: Tensor, prior_lambda: float = 1.0, prior_weight: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Mix the prior into rates; return these and their logarithms, NaN where a rate is 0 or less."""
    rates = (floating(patterns) + prior_lambda * prior_weight).div_(1 + prior_weight)
    if rates.device.type == "cpu" and bool(rates.detach().min() > 0):  # a look would stall a GPU
        return rates, rates.log()
    positive = (rates > 0).all(-1, keepdim=True)
    rates = torch.where(positive, rates, torch.nan)
    return rates, torch.where(positive, rates, 1.0).log().masked_fill(~positive, torch.nan)


def crossnobis(
    patterns: Tensor,
    precision: Tensor | None = None,
    counts: Tensor | None = None,
    stimuli: Tensor | None = None,
) -> Tensor:
    """Cross-validated squared Mahalanobis distance divided by the number of channels.

    One run is left out at a time: the distance is the mean over runs of the inner product of this run's
    difference with the mean difference of the other runs. It is zero on average for equal patterns, so it can
    be negative. It equals rsatoolbox's distance for balanced runs, and with ``counts`` that of
    ``calc_rdm_unbalanced``. Source: Walther et al. 2016, NeuroImage 137:188.

    Parameters
    ----------
    patterns
        (..., runs, n, channels), two runs or more.
    precision
        (channels, channels) as for `mahalanobis`; the identity by default.
    counts
        (runs, n), for unbalanced runs: the number of measurements of which each pattern is the mean. Patterns
        with a count of 0 are ignored. Inner products of patterns are then means over all pairs of
        measurements from different runs. Unlike the balanced distance, these depend on a pattern that a run
        adds to all stimuli, so remove it first.
    stimuli
        (runs, k), with counts: the numbers of the stimuli in each run, if patterns are (..., runs, k,
        channels); n where a run has fewer than k.

    Returns
    -------
    Tensor
        (..., n(n-1)/2); NaN if either pattern is NaN in any run. With counts, NaN if a stimulus was measured
        in a single run, or two stimuli only in the same run.

    Raises
    ------
    NeurordlError
        There are fewer than two runs, or `mahalanobis` refuses the precision.
    """
    patterns = _with_runs(patterns, "crossnobis", "mahalanobis or euclidean")
    if counts is not None:  # sums over all pairs of measurements less those within a run
        weights = _weights(counts, stimuli)
        sums = torch.where(weights > 0, patterns, 0) * weights
        if precision is not None:
            sums = exact_product(sums, factor_of(precision.detach(), patterns.shape[-1]).to(sums))
        return _from_inner(_across_runs(sums, sums, counts, stimuli) / patterns.shape[-1])
    if precision is not None:
        patterns = whiten(patterns, precision)
    runs, channels = patterns.shape[-3], patterns.shape[-1]
    # the sum over pairs of different runs is that over all pairs of runs less that of each run with itself
    together = squared_distances(patterns.sum(-3))
    alone = squared_distances(patterns).sum(-2)
    return (together - alone) / (runs * (runs - 1) * channels)


def poisson_cv(
    patterns: Tensor,
    counts: Tensor | None = None,
    prior_lambda: float = 1.0,
    prior_weight: float = 0.1,
    stimuli: Tensor | None = None,
) -> Tensor:
    """Cross-validated symmetrized KL divergence of Poisson rates divided by the number of channels.

    Rates of one run are multiplied by log rates of another, over all pairs of different runs. rsatoolbox's
    ``calc_rdm`` returns the value of the last run only; its ``calc_rdm_unbalanced`` equals this if no run
    repeats a stimulus.

    Parameters
    ----------
    patterns
        (..., runs, n, channels), two runs or more; rates or counts of 0 or more.
    counts
        (runs, n) as for `crossnobis`.
    prior_lambda, prior_weight
        As for `poisson`.
    stimuli
        (runs, k) as for `crossnobis`.
    """
    patterns = _with_runs(patterns, "poisson_cv", "poisson")
    if counts is None:
        counts = patterns.new_ones(patterns.shape[-3:-1])
    weights = _weights(counts, stimuli)
    rates, logs = poisson_rates(torch.where(weights > 0, patterns, 1), prior_lambda, prior_weight)
    inner = _across_runs(rates * weights, logs * weights, counts, stimuli)
    # the product of a measurement with itself, which cancels where runs are balanced
    with_itself = (rates * logs * weights).sum(-1)
    if stimuli is not None:
        n = counts.shape[-1]
        spread = with_itself.new_zeros((*with_itself.shape[:-1], n + 1))
        with_itself = spread.scatter_add(-1, stimuli.expand(with_itself.shape), with_itself)[..., :n]
    shared = with_itself.mT @ (counts.sum(-2) - counts)
    inner = inner - (shared + shared.mT) / 2 / _pairs_across_runs(counts)
    return _from_inner(inner) / patterns.shape[-1]


def _with_runs(patterns: Tensor, name: str, alternative: str) -> Tensor:
    patterns = floating(patterns)
    if patterns.ndim < 3 or patterns.shape[-3] < 2:
        expected = f"(..., 2 or more runs, stimuli, channels), not {tuple(patterns.shape)}"
        raise NeurordlError(f"{name} needs patterns {expected}; with a single run take {alternative}")
    return patterns


def _weights(counts: Tensor, stimuli: Tensor | None) -> Tensor:
    """How many measurements each pattern is the mean of, (runs, n or k, 1)."""
    if stimuli is not None:
        counts = torch.nn.functional.pad(counts, (0, 1)).gather(-1, stimuli)
    return counts[..., None]


def _across_runs(left: Tensor, right: Tensor, counts: Tensor, stimuli: Tensor | None = None) -> Tensor:
    """Mean inner product over pairs of measurements from different runs, (..., n, n), from sums of them."""
    runs, n = counts.shape
    with full_precision(left.device):
        if stimuli is not None:
            sums = [_sum_by(stimuli, side, n) for side in (left, right)]
            total = sums[0] @ sums[1].mT - _sum_by_pair(stimuli, left @ right.mT, n)
        elif runs * n * n <= _PRODUCTS:
            total = left.sum(-3) @ right.sum(-3).mT - (left @ right.mT).sum(-3)
        else:  # one after another, since n x n is large
            total = left.sum(-3) @ right.sum(-3).mT
            for run in range(runs):
                total = total - left[..., run, :, :] @ right[..., run, :, :].mT
    return total / _pairs_across_runs(counts)


def _sum_by(stimuli: Tensor, patterns: Tensor, n: int) -> Tensor:
    """Sums of patterns (..., runs, k, channels) of the same stimulus, (..., n, channels)."""
    sums = patterns.new_zeros((*patterns.shape[:-3], n + 1, patterns.shape[-1]))
    return sums.index_add(-2, stimuli.flatten(), patterns.flatten(-3, -2))[..., :n, :]


def _sum_by_pair(stimuli: Tensor, products: Tensor, n: int) -> Tensor:
    """Sums of products (..., runs, k, k) of the same two stimuli, (..., n, n)."""
    pairs = stimuli[:, :, None] * (n + 1) + stimuli[:, None, :]
    sums = products.new_zeros((*products.shape[:-3], (n + 1) ** 2))
    sums = sums.index_add(-1, pairs.flatten(), products.flatten(-3))
    return sums.reshape(*sums.shape[:-1], n + 1, n + 1)[..., :n, :n]


def _pairs_across_runs(counts: Tensor) -> Tensor:
    """Count the pairs of measurements from different runs, (n, n); NaN where there are none."""
    number = counts.sum(-2)[:, None] * counts.sum(-2)[None] - counts.mT @ counts
    return torch.where(number > 0, number, torch.nan)


def _from_inner(inner: Tensor) -> Tensor:
    """Condensed distances from a matrix of inner products, which need not be symmetric."""
    row, column = condensed_index(inner.shape[-1], inner.device)
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    return diagonal[..., row] + diagonal[..., column] - inner[..., row, column] - inner[..., column, row]


_PER_CHANNEL = "squared distance per channel"
_EACH = (
    Dissimilarity(
        "euclidean",
        euclidean,
        ("sqeuclidean",),
        written="squared euclidean",
        kernel=euclidean,
        unit=_PER_CHANNEL,
    ),
    Dissimilarity(
        "euclidean_root",
        euclidean_root,
        ("root euclidean",),
        kernel=euclidean_root,
        unit=f"root of {_PER_CHANNEL}",
    ),
    Dissimilarity(
        "correlation",
        correlation,
        ("pearson", "pearson r", "pearson's r", "pearson correlation", "1 - corr", "1 - r"),
        whitened_by_root=True,
        kernel=correlation,
        unit="1 − Pearson's r",
    ),
    Dissimilarity(
        "cosine",
        cosine,
        ("cosine similarity",),
        whitened_by_root=True,
        kernel=cosine,
        unit="1 − cosine",
    ),
    Dissimilarity(
        "mahalanobis",
        mahalanobis,
        written="squared mahalanobis",
        precision="required",
        kernel=euclidean,
        unit=_PER_CHANNEL,
    ),
    Dissimilarity(
        "crossnobis",
        crossnobis,
        ("cross-validated mahalanobis", "LDC", "linear discriminant contrast"),
        needs_runs=True,
        unbalanced=True,
        compact=True,
        precision="optional",
        kernel=euclidean,
        unit=_PER_CHANNEL,
    ),
    Dissimilarity(
        "poisson",
        poisson,
        ("poisson KL", "symmetrized KL"),
        rates=True,
        kernel=SquaredDistance(sides=poisson_rates),
        unit="KL divergence per channel",
    ),
    Dissimilarity(
        "poisson_cv",
        poisson_cv,
        ("cross-validated poisson",),
        needs_runs=True,
        unbalanced=True,
        compact=True,
        rates=True,
        unit="KL divergence per channel",
    ),
)
DISSIMILARITIES: dict[str, Dissimilarity] = {measure.name: measure for measure in _EACH}
"""The dissimilarities that are known by name, also the registered ones."""


def find_dissimilarity(choice: DissimilarityLike) -> Dissimilarity:
    """Return the dissimilarity of a name; an object as it is; a function as an object.

    Raises
    ------
    NeurordlError
        The name is unknown; the message lists the known ones.

    Examples
    --------
    >>> find_dissimilarity("cosine")(torch.eye(2))
    tensor([1.])
    """
    if isinstance(choice, Dissimilarity):
        return choice
    if callable(choice):
        known = (measure for measure in DISSIMILARITIES.values() if measure.function is choice)
        return next(known, None) or Dissimilarity(_name_of(choice), choice)
    meant = dissimilarity_from_text(str(choice))
    remedy = f"did you mean {meant.name!r}?" if meant else "in Python, also a Dissimilarity or a function"
    return DISSIMILARITIES[check_choice("dissimilarity", choice, tuple(DISSIMILARITIES), remedy)]


def network_dissimilarity(choice: DissimilarityLike) -> Dissimilarity:
    """Return a dissimilarity of a network's patterns, which have neither runs nor noise.

    Raises
    ------
    NeurordlError
        The name is unknown, or the dissimilarity needs runs or a precision.
    """
    measure = find_dissimilarity(choice)
    if measure.lacking_in_network:
        remedy = repr(measure.of_network().name)
        if measure.precision == "required":
            remedy += f", or fix its precision: functools.partial({measure.name}, precision=precision)"
        problem = f"needs {measure.lacking_in_network}, which a network does not have"
        raise NeurordlError(f"dissimilarity={measure.name!r} {problem}: use {remedy}")
    return measure


def dissimilarity_from_text(text: str | None) -> Dissimilarity | None:
    """Return the dissimilarity that a file or a paper calls by this name; None if it is unknown.

    "Euclidean" is read as rsatoolbox means it, squared and per channel.

    Examples
    --------
    >>> dissimilarity_from_text("1 - Pearson's r").name
    'correlation'
    """
    plain = _plain(text or "")
    known = (measure for measure in DISSIMILARITIES.values() if plain and plain in measure.spellings())
    return next(known, None)


def _plain(text: str) -> str:
    """Letters and digits of a name, without the words that do not tell dissimilarities apart."""
    plain = re.sub(r"[^a-z0-9]", "", text.lower())
    plain = re.sub(r"^1(?=pearson|correlation|cosine)|squared|(distance|dissimilarity)$", "", plain)
    return plain or text.strip().lower()  # of a name in another script, or "distance" alone


def _name_of(function: Callable[..., Tensor]) -> str:
    """Return a name that is the same in every process, so without addresses."""
    if isinstance(function, partial):
        return f"partial({_name_of(function.func)})"
    return str(getattr(function, "__qualname__", type(function).__qualname__))
