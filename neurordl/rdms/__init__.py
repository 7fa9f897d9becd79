"""Patterns to RDMs: dissimilarities, RDM files, alignment by id, the choice of RDMs by descriptors."""

from __future__ import annotations

from neurordl.rdms.compute import Noise, compute_rdms, odd_even_reliability
from neurordl.rdms.files import load_rdms, save_rdms
from neurordl.rdms.selection import Alignment, align, select_rdms

__all__ = [
    "Alignment",
    "Noise",
    "align",
    "compute_rdms",
    "load_rdms",
    "odd_even_reliability",
    "save_rdms",
    "select_rdms",
]
