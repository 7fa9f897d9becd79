"""Simulated subjects with a known representational geometry: as patterns, as RDMs, as fMRI data sets."""

from neurordl.simulate.fmri import Scan as Scan
from neurordl.simulate.fmri import simulate_fmri as simulate_fmri
from neurordl.simulate.patterns import Measurement as Measurement
from neurordl.simulate.patterns import patterns_of as patterns_of
from neurordl.simulate.patterns import plan_study as plan_study
from neurordl.simulate.patterns import simulate_epochs as simulate_epochs
from neurordl.simulate.patterns import simulate_patterns as simulate_patterns
from neurordl.simulate.patterns import simulate_subjects as simulate_subjects
