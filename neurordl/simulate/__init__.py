"""Simulated subjects whose representational geometry is known: as patterns, as RDMs, as fMRI data sets."""

from __future__ import annotations

from neurordl.simulate.fmri import simulate_fmri
from neurordl.simulate.patterns import DIMENSIONS, patterns_of, simulate_patterns, simulate_subjects
from neurordl.simulate.planning import plan_study

__all__ = [
    "DIMENSIONS",
    "patterns_of",
    "plan_study",
    "simulate_fmri",
    "simulate_patterns",
    "simulate_subjects",
]
