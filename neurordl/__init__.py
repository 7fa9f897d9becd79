"""Representational distance learning: networks trained on labels and on the geometry of a teacher.

A network (the student) learns a task from labelled images and, at the same time, a teacher's dissimilarities
between the responses to every pair of stimuli (its RDM). Teachers are brain measurements or other networks.

>>> import neurordl as nrl
>>> digits = nrl.datasets.load_digits()
>>> stimuli, labelled = digits.subset(digits.ids[:32]), digits.subset(digits.ids[32:96])
>>> brains = nrl.simulate.simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3)
>>> objective = nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(brains), layer="conv3")])
>>> student = nrl.students.small_cnn(in_channels=1)
>>> run = nrl.fit(student, objective, labelled=labelled, stimuli=stimuli, epochs=1)

Names are loaded when they are first used (PEP 562), so that ``import neurordl`` costs nothing.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

# The public names, and the modules that they come from. This list is the only one: type checkers read it as
# imports, and `_MODULES` maps each name to its module, as the text says.
if TYPE_CHECKING:
    from neurordl import datasets as datasets
    from neurordl import simulate as simulate
    from neurordl import students as students
    from neurordl.errors import NeurordlError as NeurordlError
    from neurordl.measures import Comparison as Comparison
    from neurordl.measures import Dissimilarity as Dissimilarity
    from neurordl.measures import register as register
    from neurordl.patterns.epochs import read_epochs as read_epochs
    from neurordl.patterns.fmri import read_betas as read_betas
    from neurordl.patterns.fmri import read_bids as read_bids
    from neurordl.patterns.fmri import read_patterns as read_patterns
    from neurordl.patterns.images import Regions as Regions
    from neurordl.patterns.models import GLM as GLM
    from neurordl.patterns.models import LSA as LSA
    from neurordl.patterns.models import LSS as LSS
    from neurordl.patterns.models import Average as Average
    from neurordl.patterns.network import Compute as Compute
    from neurordl.patterns.network import extract_patterns as extract_patterns
    from neurordl.patterns.packages import find_betas as find_betas
    from neurordl.patterns.tables import Confounds as Confounds
    from neurordl.patterns.trials import glmsingle_trials as glmsingle_trials
    from neurordl.plots import plot_layer_roi as plot_layer_roi
    from neurordl.plots import plot_map as plot_map
    from neurordl.plots import plot_mds as plot_mds
    from neurordl.plots import plot_partition as plot_partition
    from neurordl.plots import plot_rdm as plot_rdm
    from neurordl.plots import plot_scores as plot_scores
    from neurordl.plots import plot_time_course as plot_time_course
    from neurordl.rdms import Alignment as Alignment
    from neurordl.rdms import Noise as Noise
    from neurordl.rdms import Windows as Windows
    from neurordl.rdms import align as align
    from neurordl.rdms import compute_rdms as compute_rdms
    from neurordl.rdms import feature_rdms as feature_rdms
    from neurordl.rdms import image_rdms as image_rdms
    from neurordl.rdms import load_rdms as load_rdms
    from neurordl.rdms import merge_rdms as merge_rdms
    from neurordl.rdms import property_rdms as property_rdms
    from neurordl.rdms import rdms_over_time as rdms_over_time
    from neurordl.rdms import save_rdms as save_rdms
    from neurordl.rdms import select_rdms as select_rdms
    from neurordl.rsa.ceilings import noise_ceiling as noise_ceiling
    from neurordl.rsa.compare import compare as compare
    from neurordl.rsa.evaluate import evaluate as evaluate
    from neurordl.rsa.inference.fitted import Folds as Folds
    from neurordl.rsa.inference.fitted import Ridge as Ridge
    from neurordl.rsa.inference.fitted import evaluate_fitted as evaluate_fitted
    from neurordl.rsa.inference.resampling import Bootstrap as Bootstrap
    from neurordl.rsa.inference.resampling import Draws as Draws
    from neurordl.rsa.inference.resampling import Jackknife as Jackknife
    from neurordl.rsa.inference.resampling import Resampling as Resampling
    from neurordl.rsa.map_tests import MapTest as MapTest
    from neurordl.rsa.maps import SearchlightMaps as SearchlightMaps
    from neurordl.rsa.maps import group_searchlight as group_searchlight
    from neurordl.rsa.maps import load_maps as load_maps
    from neurordl.rsa.regression import Partial as Partial
    from neurordl.rsa.regression import partition_variance as partition_variance
    from neurordl.rsa.regression import regress_rdms as regress_rdms
    from neurordl.rsa.scores import Evaluation as Evaluation
    from neurordl.rsa.searchlight import searchlight as searchlight
    from neurordl.rsa.second_level import SecondLevel as SecondLevel
    from neurordl.rsa.second_level import second_level as second_level
    from neurordl.rsa.time import ClusterTest as ClusterTest
    from neurordl.rsa.time import latencies as latencies
    from neurordl.rsa.time import time_clusters as time_clusters
    from neurordl.stimuli import Preprocessing as Preprocessing
    from neurordl.stimuli import StimulusSet as StimulusSet
    from neurordl.teachers import Batch as Batch
    from neurordl.teachers import NetworkTeacher as NetworkTeacher
    from neurordl.teachers import PatternTeacher as PatternTeacher
    from neurordl.teachers import RDMTeacher as RDMTeacher
    from neurordl.teachers import Target as Target
    from neurordl.teachers import Teacher as Teacher
    from neurordl.training.losses import AngleLoss as AngleLoss
    from neurordl.training.losses import AttentionLoss as AttentionLoss
    from neurordl.training.losses import ContrastiveLoss as ContrastiveLoss
    from neurordl.training.losses import CorrelationCongruenceLoss as CorrelationCongruenceLoss
    from neurordl.training.losses import DecoupledLoss as DecoupledLoss
    from neurordl.training.losses import DeepSupervisionLoss as DeepSupervisionLoss
    from neurordl.training.losses import HintLoss as HintLoss
    from neurordl.training.losses import ProbabilisticTransferLoss as ProbabilisticTransferLoss
    from neurordl.training.losses import RDMLoss as RDMLoss
    from neurordl.training.losses import SimilarityPreservingLoss as SimilarityPreservingLoss
    from neurordl.training.losses import SoftTargetLoss as SoftTargetLoss
    from neurordl.training.losses import TaskRatio as TaskRatio
    from neurordl.training.losses import TransferLoss as TransferLoss
    from neurordl.training.objective import Objective as Objective
    from neurordl.training.objective import Processes as Processes
    from neurordl.training.objective import accuracy as accuracy
    from neurordl.training.run import Run as Run
    from neurordl.training.run import load_run as load_run
    from neurordl.training.streams import Batches as Batches
    from neurordl.training.trainer import Execution as Execution
    from neurordl.training.trainer import Optimization as Optimization
    from neurordl.training.trainer import fit as fit
    from neurordl.training.trainer import record_accuracy as record_accuracy

__version__ = "0.2.0"


_IMPORTS = re.findall(r"from (neurordl\S*) import (\w+) as", Path(__file__).read_text(encoding="utf-8"))
_MODULES = {name: module for module, name in _IMPORTS}
__all__ = sorted([*_MODULES, "__version__"])


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _MODULES[name] == __name__:
        return import_module(f"{__name__}.{name}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _show_in_notebooks() -> None:
    """Let IPython, if it runs, show RDMs of rsatoolbox as a short table, by its registry of types."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return
    formatter, module = shell.display_formatter.formatters["text/html"], "neurordl.rdms.selection"
    if "rsatoolbox.rdm.rdms.RDMs" not in formatter:  # users may have chosen another one
        show = lambda rdms: import_module(module).rdms_html(rdms)  # noqa: E731
        formatter.for_type_by_name("rsatoolbox.rdm.rdms", "RDMs", show)


_show_in_notebooks()
