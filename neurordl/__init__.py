"""Representational distance learning: networks trained on labels and on the geometry of a teacher.

A network (the student) learns a task from labelled images and, at the same time, a teacher's dissimilarities
between the responses to every pair of stimuli (its RDM). The teacher: brain measurements, or another network.

>>> import neurordl as nrl
>>> teacher = nrl.RDMTeacher(nrl.load_rdms("it.h5"), roi="IT")  # doctest: +SKIP
>>> objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv3")])  # doctest: +SKIP
>>> run = nrl.fit(nrl.students.small_cnn(), objective, labelled=loader, stimuli=stimuli)  # doctest: +SKIP

Names are loaded when they are first used (PEP 562), so that ``import neurordl`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neurordl import datasets, students
    from neurordl.errors import NeurordlError
    from neurordl.measures import Dissimilarity, register
    from neurordl.patterns.bids import read_bids
    from neurordl.patterns.network import Compute, extract_patterns
    from neurordl.patterns.nifti import read_patterns
    from neurordl.plots import plot_layer_roi, plot_mds, plot_rdm, plot_scores
    from neurordl.rdms import Alignment, align, compute_rdms, load_rdms, save_rdms, select_rdms
    from neurordl.rsa.evaluation import Evaluation, compare, evaluate, noise_ceiling
    from neurordl.rsa.inference.fitted import evaluate_fitted
    from neurordl.rsa.searchlight import searchlight
    from neurordl.stimuli import Preprocessing, StimulusSet
    from neurordl.teachers import Batch, NetworkTeacher, PatternTeacher, RDMTeacher, Target, Teacher
    from neurordl.training.accuracy import accuracy
    from neurordl.training.loop import fit
    from neurordl.training.losses.rdm import RDMLoss, SoftTargetLoss
    from neurordl.training.objective import Objective
    from neurordl.training.optimisation import Execution, Optimization
    from neurordl.training.run import Run, load_run
    from neurordl.training.streams import Batches
    from neurordl.training.weights import TaskRatio

__version__ = "0.1.0"

__all__ = [
    "Alignment",
    "Batch",
    "Batches",
    "Compute",
    "Dissimilarity",
    "Evaluation",
    "Execution",
    "NetworkTeacher",
    "NeurordlError",
    "Objective",
    "Optimization",
    "PatternTeacher",
    "Preprocessing",
    "RDMLoss",
    "RDMTeacher",
    "Run",
    "SoftTargetLoss",
    "StimulusSet",
    "Target",
    "TaskRatio",
    "Teacher",
    "__version__",
    "accuracy",
    "align",
    "compare",
    "compute_rdms",
    "datasets",
    "evaluate",
    "evaluate_fitted",
    "extract_patterns",
    "fit",
    "load_rdms",
    "load_run",
    "noise_ceiling",
    "plot_layer_roi",
    "plot_mds",
    "plot_rdm",
    "plot_scores",
    "read_bids",
    "read_patterns",
    "register",
    "save_rdms",
    "searchlight",
    "select_rdms",
    "students",
]

# Where each name lives; tests/test_import.py holds this, __all__ and the imports for type checkers together.
_HOMES = {
    "errors": ("NeurordlError",),
    "measures": ("Dissimilarity", "register"),
    "patterns.bids": ("read_bids",),
    "patterns.network": ("Compute", "extract_patterns"),
    "patterns.nifti": ("read_patterns",),
    "plots": ("plot_layer_roi", "plot_mds", "plot_rdm", "plot_scores"),
    "rdms": ("Alignment", "align", "compute_rdms", "load_rdms", "save_rdms", "select_rdms"),
    "rsa.evaluation": ("Evaluation", "compare", "evaluate", "noise_ceiling"),
    "rsa.inference.fitted": ("evaluate_fitted",),
    "rsa.searchlight": ("searchlight",),
    "stimuli": ("Preprocessing", "StimulusSet"),
    "teachers": ("Batch", "NetworkTeacher", "PatternTeacher", "RDMTeacher", "Target", "Teacher"),
    "training.accuracy": ("accuracy",),
    "training.loop": ("fit",),
    "training.losses.rdm": ("RDMLoss", "SoftTargetLoss"),
    "training.objective": ("Objective",),
    "training.optimisation": ("Execution", "Optimization"),
    "training.run": ("Run", "load_run"),
    "training.streams": ("Batches",),
    "training.weights": ("TaskRatio",),
}
_MODULES = ("datasets", "students")


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    for home, names in _HOMES.items():
        if name in names:
            value: object = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value  # the next access does not come here
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
