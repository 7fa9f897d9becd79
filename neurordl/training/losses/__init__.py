"""Transfer losses: what pulls a student towards its teacher, and how each is weighted."""

from neurordl.training.losses.base import (
    Features,
    TaskRatio,
    TransferLoss,
    Weight,
    check_loss,
    check_weight,
    layers_of,
    weight_at,
)
from neurordl.training.losses.contrastive import ContrastiveLoss
from neurordl.training.losses.outputs import SoftTargetLoss
from neurordl.training.losses.rdm import RDMLoss

__all__ = [
    "ContrastiveLoss",
    "Features",
    "RDMLoss",
    "SoftTargetLoss",
    "TaskRatio",
    "TransferLoss",
    "Weight",
    "check_loss",
    "check_weight",
    "layers_of",
    "weight_at",
]
