"""Relatives of RDL: relations between stimuli are pulled towards those in a layer of a network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from neurordl.measures.kernels import distances
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher
from neurordl.teachers.base import Record
from neurordl.training.losses.base import (
    Features,
    LayerLoss,
    Weight,
    full_precision,
    of_size_one,
)
from neurordl.validate import check_choice, check_count, check_number

_ANGLES = 1 << 22  # angles that are computed at once
_SMALL = 1e-7  # what PKT adds to probabilities before it takes logarithms


class _RelationLoss(LayerLoss, ABC):
    """What the relatives share: a layer of each network, flattened, and the smallest batch with relations."""

    least = 2

    def __init__(self, teacher: LayerTeacher | NetworkTeacher, layer: str, weight: Weight = 1.0) -> None:
        self._set_layers(teacher, layer, weight)

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The loss of a batch; NaN if it has too few stimuli for a relation."""
        patterns = full_precision(student[self.layer]).flatten(1)
        if len(patterns) < self.least:
            return patterns.new_full((), math.nan)
        goal = teacher[self.teacher.layer].detach().flatten(1).to(patterns.dtype)
        with distances.full_precision(patterns.device):
            return self.compare(patterns, goal)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of patterns (n, channels), which may differ in the number of channels."""


class AngleLoss(_RelationLoss):
    r"""Match the angles of all triplets of stimuli: a term of relational distillation (Park et al. 2019).

    .. math:: L = \frac{1}{n^3} \sum_{ijk} h(c^S_{ijk} - c^T_{ijk}),
        \quad c_{ijk} = \frac{(x_i - x_j) \cdot (x_k - x_j)}{\|x_i - x_j\| \|x_k - x_j\|}

    where :math:`h` is the smooth L1 loss (beta 1) and :math:`c` the cosine of the angle at stimulus j. The
    distance term is ``RDMLoss(teacher, layer, "euclidean_root", "huber")``, whose mean runs over pairs: for
    a published weight w give it w (1 - 1/n).

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``; its output is flattened.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses: 50 in RepDistiller and mdistiller and 2 in torchdistill,
        twice that of the distance term.

    Notes
    -----
    The paper sums over triplets of different stimuli. The authors' code, RepDistiller, torchdistill and
    mdistiller take the mean over all n³, with those where two are the same stimulus, which add 0. So does
    this loss.

    The angles are computed from squared distances, without a tensor of n² differences, for some stimuli j
    at a time, and are not kept for the gradient: time grows with n³, but memory with n².

    The direction between equal patterns is 0 and has no gradient; in published code the gradient is then of
    the order of 1e10. With fewer than three stimuli the loss is NaN.

    References
    ----------
    Park W, Kim D, Lu Y, Cho M (2019). Relational knowledge distillation. CVPR; arXiv:1904.05068.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv3")
    >>> weight = 25 * (1 - 1 / 4)  # for batches of 4
    >>> distances = nrl.RDMLoss(teacher, "conv3", "euclidean_root", "huber", weight=weight)
    >>> objective = nrl.Objective([distances, nrl.AngleLoss(teacher, "conv3", weight=50.0)])
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'rdm:conv3', 'angle:conv3']
    """

    name, least = "angle", 3

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all triplets."""
        squared, goal = (_squared_distances(of_size_one(x)) for x in (student, teacher))
        return cast("Callable[[Tensor, Tensor], Tensor]", _AngleTerm.apply)(squared, goal)


class SimilarityPreservingLoss(_RelationLoss):
    r"""Match the inner products of all stimuli, with rows of unit length (Tung & Mori 2019).

    .. math:: L = \frac{1}{n^2} \|G^S - G^T\|_F^2, \quad
        G_{ij} = \frac{x_i \cdot x_j}{\sqrt{\sum_k (x_i \cdot x_k)^2}}

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``; its output is flattened.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses; 3000 in RepDistiller and mdistiller.

    Notes
    -----
    RepDistiller and mdistiller compute the same. torchdistill divides rows by the sums of their magnitudes
    instead of their lengths. A pattern of zeros has a row of zeros, without gradient; in published code the
    gradient is then of the order of 1e10.

    References
    ----------
    Tung F, Mori G (2019). Similarity-preserving knowledge distillation. ICCV; arXiv:1907.09682.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv3")
    >>> objective = nrl.Objective(nrl.SimilarityPreservingLoss(teacher, "conv3", weight=3000.0))
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'similarity:conv3']
    """

    name = "similarity"

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all entries of the two matrices."""
        both = (of_size_one(patterns) for patterns in (student, teacher))
        similarities, goal = (_unit_rows(patterns @ patterns.mT) for patterns in both)
        return (similarities - goal).square().mean()


class CorrelationCongruenceLoss(_RelationLoss):
    r"""Match a kernel between all stimuli: correlation congruence (Peng et al. 2019).

    .. math:: L = \frac{1}{n^2} \|K^S - K^T\|_F^2, \quad
        K_{ij} = e^{-2\gamma} \sum_{p=0}^P \frac{(2\gamma c_{ij})^p}{p!} \approx e^{-\gamma \|u_i - u_j\|^2}

    where :math:`u` are patterns of unit length and :math:`c` their inner products: the Taylor series of the
    Gaussian kernel.

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``; its output is flattened.
    kernel : {"gaussian", "bilinear"}
        The Gaussian kernel of patterns of unit length, or the inner products of patterns as they are.
    gamma : float
        γ of the Gaussian kernel.
    order : int or None
        Order P of the Taylor series; None for the kernel itself.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses.

    Raises
    ------
    NeurordlError
        If the kernel is unknown, gamma is not positive, or the order is below 1.

    Notes
    -----
    Popular code differs. Knowledge-Distillation-Zoo computes this loss (gamma 0.4, order 2, weight 100).
    torchdistill takes the norm without the square, divided by n² (weight 0.003), and does not divide patterns
    by their lengths. RepDistiller compares no matrices: its loss is the mean over i of ``|s_i - t_i| ·
    |s_(i+1) - t_(i+1)|`` of linear embeddings with parameters, which depends on the order of the stimuli. We
    follow the paper, without an embedding: student and teacher may differ in the number of channels.

    References
    ----------
    Peng B, Jin X, Liu J, et al. (2019). Correlation congruence for knowledge distillation. ICCV;
    arXiv:1904.01802.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv3")
    >>> objective = nrl.Objective(nrl.CorrelationCongruenceLoss(teacher, "conv3", weight=100.0))
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'congruence:conv3']
    """

    name = "congruence"

    def __init__(
        self,
        teacher: LayerTeacher | NetworkTeacher,
        layer: str,
        kernel: Literal["gaussian", "bilinear"] = "gaussian",
        gamma: float = 0.4,
        order: int | None = 2,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(teacher, layer, weight)
        self.kernel = check_choice("kernel", kernel, ("gaussian", "bilinear"))
        self.gamma = check_number("gamma", gamma, 0, open_low=True)
        self.order = None if order is None else check_count("order", order, remedy="or None")

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all entries of the two matrices."""
        return (self._correlations(student) - self._correlations(teacher)).square().mean()

    def _correlations(self, patterns: Tensor) -> Tensor:
        if self.kernel == "bilinear":
            return patterns @ patterns.mT
        products = 2 * self.gamma * _cosines(patterns)
        if self.order is None:
            return (products - 2 * self.gamma).exp()
        series = torch.ones_like(products)
        for power in range(self.order, 0, -1):
            series = 1 + products * series / power
        return math.exp(-2 * self.gamma) * series

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        knobs = {"kernel": self.kernel, "gamma": self.gamma, "order": self.order}
        return {**super().describe(), **knobs}


class ProbabilisticTransferLoss(_RelationLoss):
    r"""Match the probabilities by which stimuli pick others as neighbors (Passalis & Tefas 2018).

    .. math:: L = \frac{1}{n^2} \sum_{ij} p^T_{ij} \log \frac{p^T_{ij}}{p^S_{ij}}, \quad
        p_{ij} = \frac{1 + c_{ij}}{\sum_k (1 + c_{ik})}

    where :math:`c` is the cosine of two patterns: probabilistic knowledge transfer (PKT).

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``; its output is flattened.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses; 30,000 in RepDistiller, torchdistill and mdistiller.

    Notes
    -----
    In the paper a stimulus does not pick itself, and the divergence is a sum. The authors' code,
    RepDistiller, torchdistill and mdistiller let it pick itself, take the mean over all n² entries and add
    1e-7 to probabilities in the logarithm. So does this loss. The difference of both probabilities is added
    to the terms of the sum: it adds up to 0 but for rounding, which is taken out so (in published code, it
    was up to 1e-3 of the loss of similar features). A pattern of zeros has the cosine 0 with all, without
    gradient; the gradient of their code is NaN.

    References
    ----------
    Passalis N, Tefas A (2018). Learning deep representations with probabilistic knowledge transfer. ECCV.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv3")
    >>> objective = nrl.Objective(nrl.ProbabilisticTransferLoss(teacher, "conv3", weight=30000.0))
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = objective(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'probabilities:conv3']
    """

    name = "probabilities"

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The mean over all entries of the two matrices."""
        picked, goal = (_probabilities(patterns) for patterns in (student, teacher))
        divergence = goal * ((goal + _SMALL) / (picked + _SMALL)).log()
        return (divergence + (picked - goal)).mean()  # rows sum to 1 but for rounding, which is taken out


def _cosines(patterns: Tensor) -> Tensor:
    """Cosines (n, n) of patterns; 0, without gradient, for a pattern of zeros.

    Dividing products costs less than dividing patterns, which may have many channels.
    """
    patterns = of_size_one(patterns)
    products = patterns @ patterns.mT
    squares = products.diagonal()
    inverse = squares.masked_fill(squares == 0, torch.inf).rsqrt()
    return products * inverse[:, None] * inverse


def _unit_rows(rows: Tensor) -> Tensor:
    """Rows divided by their lengths; a row of zeros stays, and has no gradient."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit: Tensor = rows / lengths.masked_fill(lengths == 0, torch.inf)
    return unit


def _probabilities(patterns: Tensor) -> Tensor:
    affinities = 1 + _cosines(patterns)
    return affinities / affinities.sum(1, keepdim=True)


class _AngleTerm(torch.autograd.Function):
    """The angle term of squared distances (n, n); its gradient is computed at once, and no angle is kept."""

    @staticmethod
    def forward(ctx: Any, squared: Tensor, goal: Tensor) -> Tensor:
        """The mean over all triplets."""
        n, loss, gradient = len(squared), squared.new_zeros(()), torch.zeros_like(squared)
        step = max(1, _ANGLES // n**2)
        for start in range(0, n, step):
            part = slice(start, start + step)
            (cosines, inverse), (wanted, _) = _angles(squared, part), _angles(goal, part)
            loss += torch.nn.functional.smooth_l1_loss(cosines, wanted, reduction="sum")
            if ctx.needs_input_grad[0]:
                pull = torch.sub(cosines, wanted, out=wanted).clamp_(-1, 1)
                turning = cosines.mul_(pull).sum(2) * inverse.square()  # by the lengths of the two sides at j
                pull.mul_(inverse[:, :, None]).mul_(inverse[:, None, :])
                gradient[part] += pull.sum(2) - turning
                gradient -= pull.sum(0) / 2
        ctx.save_for_backward(gradient / n**3)
        return loss / n**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the student's squared distances."""
        return gradient * ctx.saved_tensors[0], None


def _angles(squared: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Cosines of the angles at some j between i and k, (j, i, k), and 1 / distances, from squared ones.

    Both are 0 where stimuli are equal. By the law of cosines: the error is that of the squared distances
    times the ratio of two distances.
    """
    at = squared[part]
    inverse = at.masked_fill(at == 0, torch.inf).rsqrt()
    sides = at[:, :, None] + at[:, None, :]
    return sides.sub_(squared).mul_(inverse[:, :, None]).mul_(inverse[:, None, :] / 2), inverse


def _squared_distances(patterns: Tensor) -> Tensor:
    """Squared distances (n, n), 0 between equal patterns. It never waits for the device.

    The products are in float64, where what cancels is below the rounding of float32 features.
    """
    exact = patterns if patterns.device.type == "mps" else patterns.double()
    exact = exact - exact.detach().mean(0)
    products = exact @ exact.mT
    norms = products.diagonal()
    norms = norms[:, None] + norms
    squared = torch.sub(norms, products, alpha=2)
    rounding = 256 * torch.finfo(exact.dtype).eps * norms.detach()
    return squared.masked_fill(squared <= rounding, 0).to(patterns.dtype)
