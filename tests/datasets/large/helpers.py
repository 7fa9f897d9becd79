"""Training on the patterns of a data set."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

import neurordl as nrl


def trained(patterns: Any, stimuli: nrl.StimulusSet, teacher: Any) -> None:
    """Train for an epoch on the images of patterns, and see that the weights changed."""
    torch.manual_seed(0)
    student = nrl.students.small_cnn(width=8)
    before = [weights.detach().clone() for weights in student.parameters()]
    objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv2")], task=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*undefined")
        run = nrl.fit(student, objective, stimuli=stimuli, epochs=1, batches=nrl.Batches(stimuli=16))
    assert np.isfinite(run.history["loss"]).all()
    weights = [weights.detach() for weights in run.student.parameters()]
    assert any(not torch.equal(new, old) for new, old in zip(weights, before, strict=True))
