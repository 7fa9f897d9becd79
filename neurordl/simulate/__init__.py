"""Simulated subjects with a known representational geometry: as patterns, as RDMs, as fMRI data sets."""

from __future__ import annotations

from neurordl.simulate.fmri import Scan, simulate_fmri
from neurordl.simulate.patterns import (
    Measurement,
    patterns_of,
    plan_study,
    simulate_patterns,
    simulate_subjects,
)

__all__ = [
    "Measurement",
    "Scan",
    "patterns_of",
    "plan_study",
    "simulate_fmri",
    "simulate_patterns",
    "simulate_subjects",
]
