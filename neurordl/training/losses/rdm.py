"""Representational distance learning: the RDM of a layer is pulled towards a teacher's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neurordl.arrays import is_rdms
from neurordl.errors import NeurordlError, notify
from neurordl.measures.comparisons import ComparisonLike, find_comparison
from neurordl.measures.condensed import condensed_index
from neurordl.measures.dissimilarities import (
    DISSIMILARITIES,
    Dissimilarity,
    DissimilarityLike,
    find_dissimilarity,
    network_dissimilarity,
)
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher, Target, Teacher
from neurordl.teachers.base import Record
from neurordl.training.losses.base import (
    Features,
    TransferLoss,
    Weight,
    autocast_off,
    check_weight,
    full_precision,
    network_layer,
    of_size_one,
)
from neurordl.validate import check_choice, check_type


class RDMLoss(TransferLoss):
    """Pull the RDM of one of the student's layers towards a teacher's (RDL, McClure & Kriegeskorte 2016).

    The student's RDM is computed with a dissimilarity and compared with the teacher's RDM. RDL, the distance
    term of relational knowledge distillation (``"euclidean_root"`` with ``"huber"``; Park et al. 2019) and
    CKA (``"euclidean"`` with ``"cka"``; Kornblith et al. 2019) are choices of these two. In published code,
    relational distillation's mean runs over all n² entries of the matrices, with their diagonals: its weight
    w, such as 25 in RepDistiller, is w (1 - 1/n) here.

    Parameters
    ----------
    teacher : Teacher
        Teacher, or a `NetworkTeacher` with a single layer.
    layer : str
        Layer of the student whose RDM is fitted, as in its ``named_modules()``.

        The output of the layer is flattened: each of its units is a channel.
    dissimilarity : str, Dissimilarity or callable, optional
        Dissimilarity of the student's patterns, such as "correlation", "cosine" or "euclidean". By default
        the teacher's own, or "euclidean" where the teacher's needs repeated measurements or a noise model
        (crossnobis, mahalanobis).

        It can also be a `Dissimilarity`, or a differentiable function (n, channels) -> (n_pairs,).
    comparison : str, Comparison or callable
        Comparison of the two RDMs: "corr", "cosine", "corr_cov", "cosine_cov", "cka", "mse" or "huber".

        It can also be a differentiable `Comparison`, or a function (a, b, weights) -> loss. The loss of a
        similarity s is 1 - s.
    pairs : {"all", "within", "between"}
        Pairs of stimuli that count: all of them, those with the same label, or those with different labels.
        The last two need labels in the batch.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses.
    scale : bool
        Rescale the student's RDM before the comparison, so that ``"mse"`` can be used with RDMs in different
        units. The factor is fitted by least squares, is not negative, and has no gradient.

    Raises
    ------
    NeurordlError
        If a name is unknown, the dissimilarity needs what a network does not have, the comparison has no
        gradient, or ``mse`` would compare RDMs in different units.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=3)
    >>> loss = nrl.RDMLoss(nrl.RDMTeacher(rdms), layer="conv3", weight=2.0)
    >>> loss.name, loss.layers
    ('rdm:conv3', ('conv3',))
    """

    name = "rdm"

    def __init__(
        self,
        teacher: Teacher | NetworkTeacher,
        layer: str,
        dissimilarity: DissimilarityLike | None = None,
        comparison: ComparisonLike = "corr",
        pairs: Literal["all", "within", "between"] = "all",
        weight: Weight = 1.0,
        scale: bool = False,
    ) -> None:
        self.teacher: Teacher = _single_layer(teacher)
        if isinstance(self.teacher, LayerTeacher) and dissimilarity is not None:
            self.teacher = LayerTeacher(self.teacher.network, self.teacher.layer, dissimilarity)
        check_type("layer", layer, str, "give one name, and make an RDMLoss for each layer")
        self.layer, self.layers, self.name = layer, (layer,), f"{self.name}:{layer}"
        self.pairs = check_choice("pairs", pairs, ("all", "within", "between"))
        self.weight, self.scale = check_weight(weight), scale
        if dissimilarity is None:
            self.dissimilarity = _dissimilarity_for_student(self.teacher)
        else:
            self.dissimilarity = network_dissimilarity(dissimilarity)
        if not self.dissimilarity.differentiable:
            raise NeurordlError(f"dissimilarity={self.dissimilarity.name!r} has no gradient; take another")
        chosen = find_comparison(comparison, higher_is_better=False)
        self._compare, self.comparison, self._masks = chosen.loss, chosen.name, chosen.masks
        self._complete = chosen.complete
        # an RDM of very small or large features vanishes or overflows, and its gradient all the more
        homogeneous = self.dissimilarity.homogeneous
        self._student_in_any_unit = homogeneous and (chosen.scale_free or scale)
        self._teacher_in_any_unit = homogeneous and chosen.scale_free
        if chosen.same_unit and not scale:
            self._check_same_unit()

    def _check_same_unit(self) -> None:
        theirs = getattr(self.teacher, "dissimilarity", None)
        if getattr(self.teacher, "transformed", False):
            difference = "the teacher's RDM is standardized or ranked and has no unit"
        elif theirs is None or find_dissimilarity(theirs) != self.dissimilarity:
            difference = f"the student's RDM is {self.dissimilarity} and the teacher's {theirs}"
        else:
            return
        remedy = "use 'corr', the same dissimilarity for both, or scale=True"
        raise NeurordlError(f"{self.comparison!r} compares absolute values, but {difference}; {remedy}")

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean loss over the teacher's RDMs for which it is defined."""
        if self._complete and batch.ids is not None and len(set(batch.ids)) < len(batch.ids):
            student, teacher, batch = _each_once(student, teacher, batch)
        patterns = student[self.layer].flatten(1)
        # Distances in bfloat16 are off by 4e-3, so they are computed in float32 whatever the network's.
        with autocast_off(patterns):
            patterns = full_precision(patterns)
            rdm = self.dissimilarity(of_size_one(patterns) if self._student_in_any_unit else patterns)
            target = self.teacher.target(batch, self._taught(teacher))
            check_type("the teacher's target()", target, Target, "return Target(rdms, weights)")
            if self._complete and self._undefined_pairs(rdm, target):
                return (0 * rdm.nan_to_num(0.0, 0.0, 0.0)).sum() + torch.nan
            rdm, weights = self._measured_pairs(rdm, target, batch)
            goal = target.rdms.to(rdm.dtype)
            if self.scale:
                rdm = rdm * _best_scale(rdm.detach(), goal, weights)
            values = self._compare(rdm.expand_as(goal), goal, weights)
        if values.shape not in ((), goal.shape[:1]):
            shape = f"{tuple(values.shape)} for {len(goal)} RDMs; return one value for each RDM"
            raise NeurordlError(f"comparison {self.comparison!r} returned values of shape {shape}")
        if values.numel() == 1:
            return values.reshape(())
        defined = torch.isfinite(values)
        mean = torch.where(defined, values, 0.0).sum() / defined.sum().clamp(min=1)
        return torch.where(defined.any(), mean, torch.nan)

    def _undefined_pairs(self, rdm: Tensor, target: Target) -> bool:
        """Whether a network has undefined distances, such as those of a layer that does not respond.

        On a GPU no value is looked at: a comparison that needs all pairs is NaN there by itself.
        """
        if rdm.device.type != "cpu":
            return False
        of_network = isinstance(self.teacher, LayerTeacher)
        return not bool(rdm.isfinite().all()) or (of_network and not bool(target.weights.all()))

    def _taught(self, features: Features) -> Features:
        """Features of the network that teaches, divided by the largest where their unit does not matter."""
        if not (isinstance(self.teacher, LayerTeacher) and self._teacher_in_any_unit):
            return features
        layer = self.teacher.layer
        return {layer: of_size_one(full_precision(features[layer].flatten(1)))}

    def _measured_pairs(self, rdm: Tensor, target: Target, batch: Batch) -> tuple[Tensor, Tensor]:
        """The student's RDM (1, n_pairs), and the weight of each pair; both 0 where it is undefined.

        Comparisons that leave out undefined pairs do so themselves.
        """
        weights = target.weights.to(rdm.dtype)
        if self.scale or not self._masks:
            defined = torch.isfinite(rdm)
            rdm, weights = torch.where(defined, rdm, 0.0), weights * defined
        if self.pairs != "all":
            if batch.labels is None:
                raise NeurordlError(f"pairs={self.pairs!r} needs the labels of the stimuli; give labels=")
            i, j = condensed_index(len(batch.labels), batch.labels.device)
            same = (batch.labels[i] == batch.labels[j]).to(rdm.device)
            weights = weights * (same if self.pairs == "within" else ~same)
        return rdm[None], weights

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {
            **super().describe(),
            "dissimilarity": self.dissimilarity.name,
            "comparison": self.comparison,
            "pairs": self.pairs,
            "scale": self.scale,
        }


def _each_once(student: Features, teacher: Features, batch: Batch) -> tuple[Features, Features, Batch]:
    """The first image of each stimulus: the distance of a stimulus from itself is no pair of an RDM."""
    first: dict[str, int] = {}
    for row, stimulus in enumerate(batch.ids or ()):
        first.setdefault(stimulus, row)
    rows = list(first.values())
    features, taught = ({name: values[rows] for name, values in x.items()} for x in (student, teacher))
    labels = None if batch.labels is None else batch.labels[rows]
    return features, taught, Batch(batch.images, list(first), labels)


def _single_layer(teacher: Teacher | NetworkTeacher) -> Teacher:
    if not isinstance(teacher, NetworkTeacher):
        if not hasattr(teacher, "target"):
            wrapped = isinstance(teacher, nn.Module) and "NetworkTeacher(network, layers='layer3')"
            wrapper = "RDMTeacher(rdms)" if is_rdms(teacher) else wrapped
            remedy = f"wrap it: {wrapper}" if wrapper else "make one, such as RDMTeacher(rdms)"
            raise NeurordlError(f"RDMLoss: {type(teacher).__name__} is not a teacher; {remedy}")
        return teacher
    return network_layer("RDMLoss", teacher)


def _dissimilarity_for_student(teacher: Teacher) -> Dissimilarity:
    """The teacher's own dissimilarity, or the one by which a network is measured in its place."""
    if (measured_by := getattr(teacher, "dissimilarity", None)) is None:
        usable = [name for name, measure in DISSIMILARITIES.items() if not measure.lacking_in_network]
        raise NeurordlError(
            f"the teacher's dissimilarity is unknown; set dissimilarity= ({', '.join(usable)}), or say what "
            "its RDMs are when you read them: nrl.load_rdms(path, measure='correlation')"
        )
    theirs = find_dissimilarity(measured_by)
    chosen = theirs.of_network()
    if chosen != theirs:
        notify(
            f"the teacher's RDMs are {theirs}, which needs {theirs.lacking_in_network or 'measured data'}. A "
            f"network has none: the student's RDMs are {chosen}; choose another with dissimilarity=",
        )
    return chosen


def _best_scale(rdm: Tensor, goal: Tensor, weights: Tensor) -> Tensor:
    """The non-negative least-squares factor of each target, (n_rdms, 1)."""
    product = (weights * rdm * goal).sum(-1, keepdim=True)
    return (product / (weights * rdm * rdm).sum(-1, keepdim=True).clamp(min=1e-30)).clamp(min=0)
