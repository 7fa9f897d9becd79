"""Patterns to RDMs: dissimilarities, RDM files, alignment by id, the choice of RDMs by descriptors."""

from __future__ import annotations

from neurordl.rdms.compute import Noise as Noise
from neurordl.rdms.compute import compute_rdms as compute_rdms
from neurordl.rdms.compute import odd_even_reliability as odd_even_reliability
from neurordl.rdms.covariates import feature_rdms as feature_rdms
from neurordl.rdms.covariates import image_rdms as image_rdms
from neurordl.rdms.covariates import property_rdms as property_rdms
from neurordl.rdms.files import load_rdms as load_rdms
from neurordl.rdms.files import rdms_over_time as rdms_over_time
from neurordl.rdms.files import save_rdms as save_rdms
from neurordl.rdms.selection import Alignment as Alignment
from neurordl.rdms.selection import align as align
from neurordl.rdms.selection import merge_rdms as merge_rdms
from neurordl.rdms.selection import select_rdms as select_rdms
from neurordl.rdms.source import Windows as Windows
