"""Transfer losses: what pulls a student towards its teacher, and how each is weighted."""

from neurordl.training.losses.auxiliary import DeepSupervisionLoss
from neurordl.training.losses.base import (
    Features,
    Stream,
    TaskRatio,
    TransferLoss,
    Weight,
    check_loss,
    check_weight,
    layers_of,
    stream_of,
    weight_at,
)
from neurordl.training.losses.contrastive import ContrastiveLoss
from neurordl.training.losses.features import AttentionLoss, HintLoss
from neurordl.training.losses.outputs import DecoupledLoss, SoftTargetLoss
from neurordl.training.losses.rdm import RDMLoss
from neurordl.training.losses.relations import (
    AngleLoss,
    CorrelationCongruenceLoss,
    ProbabilisticTransferLoss,
    SimilarityPreservingLoss,
)

__all__ = [
    "AngleLoss",
    "AttentionLoss",
    "ContrastiveLoss",
    "CorrelationCongruenceLoss",
    "DecoupledLoss",
    "DeepSupervisionLoss",
    "Features",
    "HintLoss",
    "ProbabilisticTransferLoss",
    "RDMLoss",
    "SimilarityPreservingLoss",
    "SoftTargetLoss",
    "Stream",
    "TaskRatio",
    "TransferLoss",
    "Weight",
    "check_loss",
    "check_weight",
    "layers_of",
    "stream_of",
    "weight_at",
]
