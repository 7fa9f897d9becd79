"""Inner products of RDMs, plain or whitened, of many resamples of the stimuli at once.

Cosine, corr, cosine_cov and corr_cov are one inner product over its norms. A resample draws stimulus s
``c_s`` times, so pair (s, t) stands ``c_s c_t`` times (pairs of a stimulus with itself are left out, as
rsatoolbox does): the inner products of all resamples are one matrix product. The whitened one deletes from V
what is left out; with ``r = B'a`` (the sums of each stimulus's dissimilarities) and ``K = 2 I + B'B``, B the
incidence of pairs and stimuli, ``2 a'V⁻¹b = a'b - r_a' K⁻¹ r_b``. Copies of a stimulus have one solution, so
that K is diagonal plus rank one where no pair is missing, and V (pairs x pairs) is never built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurordl.measures.condensed import condensed_index, n_stimuli, square

__all__ = ["GRAM_METHODS", "ROUNDING", "Grams", "cosines", "grams"]

GRAM_METHODS = ("cosine", "corr", "cosine_cov", "corr_cov")
ROUNDING = 1e-13  # of a squared length, beside what it was the difference of
_CONSTANT = 1e-12  # of the mean
_BYTES, _CACHE = 64 << 20, 2 << 20
_ROWS = 3_000  # sums of all RDMs from which a step for each stimulus is quicker than square matrices


@dataclass(frozen=True, eq=False)
class Grams:
    """Inner products of a resample (…): models with data (…, models, data), and so on.

    Attributes
    ----------
    cross, models, data
        Models with data, each model with itself (…, models), and all data with all (…, data, data), or each
        with itself (…, data) where the others were not asked for.
    lengths
        Plain length of each data RDM, (…, data), centred for corr: rsatoolbox pools RDMs divided by it.

    Each RDM may come in a unit of its own.
    """

    cross: Tensor
    models: Tensor
    data: Tensor
    lengths: Tensor


def cosines(found: Grams) -> Tensor:
    """Similarities (…, models, data); NaN where an RDM has no length."""
    own = found.data if found.data.ndim == found.models.ndim else found.data.diagonal(dim1=-2, dim2=-1)
    return found.cross / _length(found.models)[..., :, None] / _length(own)[..., None, :]


def _length(squares: Tensor) -> Tensor:
    return torch.where(squares > 0, squares, torch.nan).sqrt()


def grams(
    models: Tensor,
    data: Tensor,
    method: str,
    counts: Tensor | None = None,
    measured: Tensor | None = None,
    *,
    among: bool = False,
) -> Grams:
    """Inner products of RDMs (models, pairs) with RDMs (data, pairs) under a method of `GRAM_METHODS`.

    Parameters
    ----------
    models, data
        Condensed RDMs in float64.
    method
        One of ``GRAM_METHODS``.
    counts
        (resamples, stimuli) how often each stimulus was drawn; by default once, without that dimension.
    measured
        (pairs,) which pairs count in all of these RDMs; by default each does. Others may hold anything.
    among
        Whether the inner products of data with data are wanted, as noise ceilings do.

    An RDM that misses pairs has the length NaN where ``measured`` does not say so.
    """
    split, centred, white = len(models), method.startswith("corr"), method.endswith("cov")
    if counts is None and measured is None:
        found = _whole(models, data, centred, white, among)
        squares = torch.cat([found.models, found.lengths])
        usual = ((squares > 1e-100) & (squares < 1e100)) | squares.isnan()
        if bool(usual.all()):
            return found
        models, data = (x / x.abs().amax(-1, keepdim=True).clamp(min=1e-300) for x in (models, data))
        return _whole(models, data, centred, white, among)  # squares that overflowed or vanished
    stack = _prepared(torch.cat([models, data]), measured, centred)
    if counts is None and measured is not None:
        a, b = stack[:split], stack[split:]
        plain = b.square().sum(-1)
        cross, own, full = a @ b.T, stack.square().sum(-1), b @ b.T
        if white:
            sums = _stimulus_sums(stack)
            adjacent = square(measured.to(stack))
            factor = torch.linalg.cholesky(adjacent + torch.diag(2 + adjacent.sum(-1)))
            solved = torch.cholesky_solve(sums.T, factor).T
            cross = cross - sums[:split] @ solved[split:].T
            own = own - (sums * solved).sum(-1)
            full = full - sums[split:] @ solved[split:].T
        return Grams(cross, own[:split], full if among else own[split:], plain.sqrt())
    assert counts is not None
    if centred:
        ones = torch.ones_like(stack[:1]) if measured is None else measured.to(stack)[None]
        stack = torch.cat([stack, ones])
    step = max(1, min(256, _BYTES // (8 * len(stack) * counts.shape[1])))
    parts = [_resampled(stack, split, centred, white, part, measured) for part in torch.split(counts, step)]
    return Grams(*(torch.cat([getattr(part, name) for part in parts]) for name in Grams.__annotations__))


def _whole(models: Tensor, data: Tensor, centred: bool, white: bool, among: bool) -> Grams:
    """`grams` of complete RDMs, some pairs at a time: no copy of the RDMs is made."""
    sides, split = (models, data), len(models)
    means = [x.mean(-1, keepdim=True) if centred else x.new_zeros(len(x), 1) for x in sides]
    cross = data.new_zeros(split, len(data))
    full = data.new_zeros(len(data), len(data))
    own = data.new_zeros(split + len(data))
    step = max(1024, _CACHE // (8 * len(own)))
    for start in range(0, data.shape[1], step):
        a, b = (x[:, start : start + step] for x in sides)
        if centred:
            a, b = a - means[0], b - means[1]
        cross.addmm_(a, b.T)
        own += torch.cat([torch.linalg.vector_norm(x, dim=-1).square() for x in (a, b)])
        if among:
            full.addmm_(b, b.T)
    mean = torch.cat(means)
    flat = own <= (_CONSTANT * mean[:, 0]).square() * data.shape[1]  # rounding is all that is left
    own = torch.where(flat, 0, own)  # NaN stays
    lengths = own[split:].sqrt()
    if white:
        n = n_stimuli(data.shape[1])
        sums = torch.cat([_stimulus_sums(x) for x in sides]) - (n - 1) * mean
        solved = _solve_complete(sums)
        cross -= sums[:split] @ solved[split:].T
        own = torch.where(flat | own.isinf(), own, own - (sums * solved).sum(-1))  # infinite: overflowed
        full -= sums[split:] @ solved[split:].T
    return Grams(cross, own[:split], full if among else own[split:], lengths)


def _stimulus_sums(rdms: Tensor) -> Tensor:
    """Sum of each stimulus's dissimilarities: (rdms, stimuli)."""
    n = n_stimuli(rdms.shape[1])
    if len(rdms) * n > _ROWS and rdms.device.type == "cpu":  # row by row: no square matrix is made
        sums = rdms.new_zeros(len(rdms), n)
        start = 0
        for i in range(n - 1):
            row = rdms[:, start : start + n - 1 - i]
            sums[:, i] += row.sum(-1)
            sums[:, i + 1 :] += row
            start += n - 1 - i
        return sums
    step = max(1, _BYTES // (16 * rdms.shape[1] + 1))
    return torch.cat([square(part).sum(-1) for part in torch.split(rdms, step)])


def _solve_complete(sums: Tensor) -> Tensor:
    """``K⁻¹ r`` where no pair is missing: K = n I + 11'."""
    n = sums.shape[-1]
    return (sums - sums.sum(-1, keepdim=True) / (2 * n)) / n


def _prepared(stack: Tensor, measured: Tensor | None, centred: bool) -> Tensor:
    """RDMs with a largest entry of 1, zero where missing, less their mean: nothing computed depends on it."""
    if measured is not None:
        stack = torch.where(measured, stack, 0)
    low, high = stack.aminmax(dim=-1, keepdim=True)
    largest = torch.maximum(low.abs(), high.abs())
    stack = stack / torch.where(largest > 0, largest, 1)
    if centred and measured is None:
        stack = stack.sub_(stack.mean(-1, keepdim=True))
    elif centred and measured is not None:
        mean = stack.sum(-1, keepdim=True) / measured.sum()
        stack = torch.where(measured, stack.sub_(mean), 0)
    return stack


def _resampled(
    stack: Tensor,
    split: int,
    centred: bool,
    white: bool,
    counts: Tensor,
    measured: Tensor | None,
) -> Grams:
    """`grams` of some resamples; the last row of a centred stack is ones."""
    n_rows, device = len(stack) - centred, stack.device
    n_data = n_rows - split
    upper = torch.triu_indices(n_data, n_data, device=device) + split
    own = torch.arange(split, device=device)
    every = torch.arange(n_rows + centred, device=device)
    last = torch.full_like(every, n_rows)
    left = [own.repeat_interleave(n_data), own, upper[0], every if centred else every[:0]]
    right = [torch.arange(split, n_rows, device=device).repeat(split), own, upper[1], last[: len(left[3])]]
    i, j = torch.cat(left), torch.cat(right)
    plain = _products(stack, i, j, counts, measured)
    inner = plain
    if white:
        sums, solved = _sums(stack, counts, measured)
        inner = plain - _paired(sums, solved, i, j, (split, n_data, upper, centred))
    sizes = [len(part) for part in left]
    if centred:  # subtract the weighted mean of each, whatever the inner product
        total = plain[:, -1:]
        mean = plain[:, -sizes[3] :] / total
        with_ones, ones = inner[:, -sizes[3] :], inner[:, -1:]
        a, b = mean[:, i], mean[:, j]
        shift = a * with_ones[:, j] + b * with_ones[:, i] - a * b * ones
        defined = inner - shift
        inner_c = torch.where(defined.abs() > ROUNDING * (inner.abs() + shift.abs()), defined, 0)
        plain = plain - a * b * total
    else:
        inner_c = inner
    cross, models, data, _ = torch.split(inner_c, sizes, dim=1)
    full = torch.empty(len(counts), n_data, n_data, dtype=stack.dtype, device=device)
    k, m = upper - split
    full[:, k, m] = full[:, m, k] = data
    lengths = torch.split(plain, sizes, dim=1)[2][:, k == m].clamp(min=0).sqrt()
    return Grams(cross.reshape(-1, split, n_data), models, full, lengths)


def _products(stack: Tensor, i: Tensor, j: Tensor, counts: Tensor, measured: Tensor | None) -> Tensor:
    """Sums over pairs of ``stack[i] stack[j]``, each pair as often as it was drawn: (resamples, len(i))."""
    s, t = condensed_index(counts.shape[1])
    s, t = s.to(stack.device), t.to(stack.device)
    turned = counts.T.contiguous()
    found = torch.zeros(len(i), len(counts), dtype=stack.dtype, device=stack.device)
    step = max(1, 2 * _CACHE // (8 * (len(i) + len(counts))))
    for start in range(0, stack.shape[1], step):
        part = stack[:, start : start + step]
        weights = turned[s[start : start + step]] * turned[t[start : start + step]]
        found.addmm_(part[i] * part[j], weights)
    return found.T.contiguous()


def _paired(
    sums: Tensor, solved: Tensor, i: Tensor, j: Tensor, layout: tuple[int, int, Tensor, bool]
) -> Tensor:
    """``sums[i]' solved[j]`` of each resample, for the pairs of rows that `_resampled` lists."""
    split, n_data, upper, centred = layout
    a, b = sums[:, :split], solved[:, split : split + n_data]
    parts = [(a @ b.mT).flatten(1), (a * solved[:, :split]).sum(-1)]
    among = sums[:, split : split + n_data] @ b.mT
    parts.append(among[:, upper[0] - split, upper[1] - split])
    if centred:
        parts.append((sums @ solved[:, -1, :, None])[..., 0])
    return torch.cat(parts, dim=1)


def _sums(stack: Tensor, counts: Tensor, measured: Tensor | None) -> tuple[Tensor, Tensor]:
    """``c r`` and ``K⁻¹ r`` of each RDM: (…, rdms, stimuli), r the sum over a stimulus's drawn partners."""
    step = max(1, _BYTES // (16 * stack.shape[1] + 1))
    sums = torch.cat([counts @ square(part) for part in torch.split(stack, step)]).transpose(0, 1)
    counted = counts[:, None]
    if measured is None:
        own = counts.sum(-1, keepdim=True) + 2 - 2 * counts
        if bool((own != 0).all()):
            share = counts / own
            total = (share[:, None] * sums).sum(-1) / (1 + share.sum(-1, keepdim=True))
            return counted * sums, (sums - total[..., None]) / own[:, None]
        adjacent = 1 - torch.eye(counts.shape[1], dtype=stack.dtype, device=stack.device)
    else:
        adjacent = square(measured.to(stack))
    matrix = adjacent * counted + torch.diag_embed(2 + counts @ adjacent)
    return counted * sums, torch.linalg.solve(matrix, sums.mT).mT
