"""Squared distances of few patterns with very many channels: some channels at a time, added up in float64.

Early layers of a network have a million channels: copies of all of them cost more time than the products.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from neurordl.measures.kernels.normalise import NEAR, Normalise

__all__ = ["WIDE", "wide_distances"]

WIDE = 1 << 15
"""Channels from which on it is worth it."""

_BLOCK = 1 << 11  # of fewer than 128 stimuli in float64: stays in the cache


def wide_distances(patterns: Tensor, normalise: Normalise) -> Tensor:
    """Squared distances between the rows of (n, channels), condensed, in float64; as `squared_distances`."""
    n, channels = patterns.shape
    blocks = torch.split(patterns, _BLOCK, -1)
    centre = normalise == "centered length"
    # a first guess of each row's mean: what is left of it is taken out of the products, and costs no digits
    guess = (
        blocks[0].double().mean(-1, keepdim=True) if centre else patterns.new_zeros(n, 1, dtype=torch.float64)
    )
    gram = patterns.new_zeros(n, n, dtype=torch.float64)
    sums = torch.zeros_like(guess)
    room = patterns.new_empty(n, min(_BLOCK, channels), dtype=torch.float64)
    for block in blocks:
        part = room[:, : block.shape[1]].copy_(block)
        if centre:
            sums += part.sub_(guess).sum(-1, keepdim=True)
        elif normalise == "none":  # distances do not see a common offset, and digits are lost to a large one
            offset = part.mean(0)
            part -= torch.where(offset.isfinite(), offset, 0)
        gram.addmm_(part, part.mT)
    means = guess + sums / channels
    gram.addmm_(sums, sums.mT, alpha=-1 / channels)
    squares = gram.diagonal()
    defined = squares.isfinite()
    if normalise != "none":
        rounding = 8 * torch.finfo(torch.float64).eps * means[:, 0].abs() * math.sqrt(channels)
        defined &= squares.sqrt() > rounding.clamp_min(torch.finfo(torch.float64).tiny)
    lengths = squares.sqrt() if normalise != "none" else torch.ones_like(squares)
    lengths = torch.where(defined, lengths, torch.nan)
    row, column = torch.triu_indices(n, n, offset=1, device=patterns.device)
    own = squares / lengths.square()
    norms = own[row] + own[column]
    found = norms - 2 * gram[row, column] / (lengths[row] * lengths[column])
    near = (found < NEAR[torch.float64] * norms).nonzero().flatten()
    if len(near):
        left, right = row[near], column[near]
        exact = patterns.new_zeros(len(near), dtype=torch.float64)
        for block in blocks:
            unit = (block.double() - means) / lengths[:, None]
            exact += (unit[left] - unit[right]).square_().sum(-1)
        found[near] = exact
    return found
