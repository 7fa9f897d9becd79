"""Losses without a teacher: auxiliary classifiers on inner layers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.patterns.network import OUTPUT
from neurordl.teachers import Batch
from neurordl.teachers.base import Record, spelled
from neurordl.training.losses.base import (
    Features,
    Stream,
    TransferLoss,
    Weight,
    autocast_off,
    check_weight,
    full_precision,
    passed,
    shape_by_features,
)
from neurordl.training.streams import check_labels
from neurordl.validate import check_type


class DeepSupervisionLoss(TransferLoss, nn.Module):
    """Deep supervision: a classifier that is trained on an inner layer (Lee et al. 2015).

    The loss is the cross-entropy of the classifier's outputs with the labels, averaged over the batch. By
    default the classifier is a linear layer on the mean over the places of each map, with as many classes as
    the student has outputs; it gets its shape from the first batch.

    There is no teacher, and the loss reads the labelled images, also where there are stimuli beside them. It
    has no validation term. Alone in an objective it is trained like the task: the stimuli of `fit` are not
    shown then, and the epoch is chosen by the task loss.

    Parameters
    ----------
    layer : str
        Layer of the student, as in its ``named_modules()``.
    classifier : torch.nn.Module, optional
        A module of your own, from the features (n, ...) of the layer, in float32, to the scores
        (n, classes).
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses.

    Raises
    ------
    NeurordlError
        At the first batch, if there are no labels, the classifier gives no scores of the labelled classes, or
        the layer gives neither vectors nor maps and there is no `classifier`.

    Notes
    -----
    The paper trains classifiers on all inner layers, as linear support vector machines on all units of a
    layer with a squared hinge loss (it names softmax as an alternative), and a loss counts only as far as it
    is above a threshold. Here it is the softmax, without a threshold, and the mean over places, as in later
    networks with auxiliary classifiers. For a classifier on all units pass
    ``torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))``.

    References
    ----------
    Lee C-Y, Xie S, Gallagher P, Zhang Z, Tu Z (2015). Deeply-supervised nets. AISTATS.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> losses = [nrl.DeepSupervisionLoss(layer, weight=0.3) for layer in ("conv1", "conv2")]
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = nrl.Objective(losses)(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'deep_supervision:conv1', 'deep_supervision:conv2']
    """

    name = "deep_supervision"
    stream: Stream = "labelled"

    def __init__(self, layer: str, classifier: nn.Module | None = None, weight: Weight = 1.0) -> None:
        super().__init__()
        check_type("layer", layer, str, "give one name, and make one DeepSupervisionLoss for each layer")
        if classifier is not None:
            check_type("classifier", classifier, nn.Module, "give an object of a torch module")
        self.layer, self.name = layer, f"{self.name}:{layer}"
        self.layers = (layer, OUTPUT) if classifier is None else (layer,)
        self.classifier = nn.LazyLinear(0) if classifier is None else classifier
        self._pools = classifier is None
        self.weight = check_weight(weight)

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean cross-entropy of a batch."""
        if batch.labels is None:
            raise NeurordlError(
                f"{self.name}: the labelled batch has no labels; pass labelled=(images, labels)"
            )
        features = full_precision(student[self.layer])
        with autocast_off(features):
            if self._pools:
                if features.ndim not in (2, 4):
                    shape = " x ".join(map(str, features.shape[1:]))
                    problem = f"{self.name}: the layer gives {shape} for each image, neither vectors nor maps"
                    raise NeurordlError(f"{problem}; give classifier=")
                features = features.mean(dim=(2, 3)) if features.ndim == 4 else features
                shape_by_features(self.classifier, features, student[OUTPUT].flatten(1).shape[1])
            scores = passed(self.classifier, features)
            if scores.ndim != 2 or len(scores) != len(features):
                shape = f"{tuple(scores.shape)} for {len(features)} images"
                raise NeurordlError(
                    f"{self.name}: the classifier gives {shape}; it must give (images, classes)"
                )
            if batch.labels.device.type == "cpu":  # on a GPU a check would stall each step
                check_labels(batch.labels, scores.shape[1])
            return functional.cross_entropy(scores, batch.labels)

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {**super().describe(), "classifier": spelled(self.classifier)}
