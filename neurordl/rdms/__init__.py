"""Patterns to RDMs: dissimilarities, RDM files, and the choice of RDMs by their descriptors."""

from __future__ import annotations

from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.files import load_rdms, save_rdms

__all__ = ["compute_rdms", "load_rdms", "save_rdms"]
