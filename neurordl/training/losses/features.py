"""Losses on features in their own shape: hints and attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from neurordl.errors import NeurordlError
from neurordl.teachers import Batch, LayerTeacher, NetworkTeacher
from neurordl.teachers.base import Record, spelled
from neurordl.training.losses.base import (
    Features,
    LayerLoss,
    Weight,
    autocast_off,
    full_precision,
    passed,
    shape_by_features,
)
from neurordl.validate import check_number, check_type

_LEAST = 1e-30  # mean power from which on the powers of small activations are still numbers


class _FeatureLoss(LayerLoss):
    """A loss on features in their own shape."""

    def _read(self, student: Features, teacher: Features) -> tuple[Tensor, Tensor]:
        """The features of the student and of the teacher, in the student's precision."""
        features = full_precision(student[self.layer])
        return features, teacher[self.teacher.layer].to(features.dtype)

    def _unfit(self, features: Tensor, goal: Tensor, remedy: str) -> NeurordlError:
        shapes = [" x ".join(map(str, values.shape[1:])) for values in (features, goal)]
        both = f"{self.layer!r} gives {shapes[0]}, the teacher's {self.teacher.layer!r} {shapes[1]}"
        return NeurordlError(f"{self.name}: {both} for each image; {remedy}")


class HintLoss(_FeatureLoss, nn.Module):
    r"""Hints: a trained regressor predicts a teacher's layer from the student's (Romero et al. 2015).

    .. math:: L = \operatorname{mean} (r(F_S) - F_T)^2

    over images, channels and places, where :math:`r` is the regressor, by default a linear map of the
    channels: a 1 x 1 convolution of maps, a linear layer of vectors. It gets its shape from the first batch,
    and is trained with the student. Maps of another height or width than the teacher's are resized to the
    smaller height and the smaller width of both by adaptive average pooling, after the regressor.

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``.
    regressor : torch.nn.Module, optional
        A module of your own, from the student's features (n, ...) to the teacher's, in float32. Needed for
        layers of neither vectors nor maps, such as the tokens of a transformer.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses. RepDistiller and mdistiller use 100.

    Raises
    ------
    NeurordlError
        If the teacher is not one layer of a network; at the first batch, if the regressor's output does not
        fit the teacher's features.

    Notes
    -----
    The paper takes half of the sum of squares, and a regressor of larger filters where the maps of the
    student are larger; it trains the lower half of the student on hints first and then the whole on soft
    targets. Here, as in RepDistiller and mdistiller, the mean of the squares is a term beside others in the
    whole training; torchdistill's example takes the sum in a first stage. The regressors of RepDistiller and
    mdistiller have batch norm and a ReLU, and strides where the sizes of the maps differ; torchdistill's is a
    1 x 1 convolution with batch norm and a ReLU. Pass such a one as ``regressor=``, as in the example.

    References
    ----------
    Romero A, Ballas N, Kahou SE, Chassang A, Gatta C, Bengio Y (2015). FitNets: hints for thin deep nets.
    ICLR.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2")
    >>> hint = nrl.HintLoss(teacher, "conv2", weight=100.0)
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = nrl.Objective(hint)(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'hint:conv2']

    The regressor of RepDistiller, for maps of twice the teacher's height and width with 64 channels:

    >>> conv = torch.nn.LazyConv2d(64, kernel_size=3, stride=2, padding=1)
    >>> regressor = torch.nn.Sequential(conv, torch.nn.LazyBatchNorm2d(), torch.nn.ReLU())
    >>> hint = nrl.HintLoss(teacher, "conv1", regressor=regressor)
    """

    name = "hint"

    def __init__(
        self,
        teacher: LayerTeacher | NetworkTeacher,
        layer: str,
        regressor: nn.Module | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__()
        self._set_layers(teacher, layer, weight)
        if regressor is not None:
            check_type("regressor", regressor, nn.Module, "give an object of a torch module")
        self.regressor = _ChannelMap() if regressor is None else regressor

    def forward(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean squared error of the prediction for a batch."""
        features, goal = self._read(student, teacher)
        with autocast_off(features):
            if isinstance(self.regressor, _ChannelMap):
                if features.ndim not in (2, 4):
                    raise self._unfit(features, goal, "a hint of neither vectors nor maps needs regressor=")
                shape_by_features(self.regressor.linear, features.movedim(1, -1), goal.shape[1])
            prediction = passed(self.regressor, features)
            if prediction.ndim == goal.ndim == 4:
                prediction, goal = _of_one_size(prediction, goal)
            if prediction.shape != goal.shape:
                remedy = "give regressor= a module that maps the first to the second"
                raise self._unfit(features, goal, remedy)
            return functional.mse_loss(prediction, goal)

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {**super().describe(), "regressor": spelled(self.regressor)}


class AttentionLoss(_FeatureLoss):
    r"""Attention transfer: maps are active where the teacher's are (Zagoruyko & Komodakis 2017).

    .. math:: L = \operatorname{mean} \left(\frac{Q_S}{\|Q_S\|} - \frac{Q_T}{\|Q_T\|}\right)^2,
        \quad Q = \operatorname{mean}_c |F_c|^p

    over images and places: the map of attention Q of an image is the mean over channels of the maps' power p,
    and is divided by its length. Student and teacher may have different numbers of channels. Maps of
    different height or width are resized to the smaller height and the smaller width of both by adaptive
    average pooling, before the power.

    Parameters
    ----------
    teacher : NetworkTeacher, or one of its layers
        ``teacher["layer3"]``, or a network with a single layer.
    layer : str
        Layer of the student, as in its ``named_modules()``. It must have maps (n, channels, height, width).
    power : float
        Power p of the activations, at least 1.
    weight : float, callable of the step, or TaskRatio
        Factor of the loss in the sum of all losses. RepDistiller and mdistiller use 1000 for each of several
        layers.

    Raises
    ------
    NeurordlError
        If the teacher is not one layer of a network; at the first batch, if a layer has no maps, or maps of a
        single place, whose attention is always 1.

    Notes
    -----
    The paper's formula has the length of the difference, not its mean square. We follow the authors' code,
    as do RepDistiller, mdistiller and torchdistill's ``mode="code"``; published weights belong to the code.
    RepDistiller and mdistiller take the power of the signed activations, which differs from the paper's
    absolute ones only for odd powers of negative activations, and pool maps to squares of one height. An
    image without any activation has a map of zeros, and no gradient.

    References
    ----------
    Zagoruyko S, Komodakis N (2017). Paying more attention to attention: improving the performance of
    convolutional neural networks via attention transfer. ICLR.

    Examples
    --------
    >>> import torch, neurordl as nrl
    >>> teacher = nrl.NetworkTeacher(nrl.students.small_cnn(), "conv2")
    >>> attention = nrl.AttentionLoss(teacher, "conv2", weight=1000.0)
    >>> images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    >>> loss, terms = nrl.Objective(attention)(nrl.students.small_cnn(width=8), (images, labels))
    >>> list(terms)
    ['task', 'attention:conv2']
    """

    name = "attention"

    def __init__(
        self,
        teacher: LayerTeacher | NetworkTeacher,
        layer: str,
        power: float = 2,
        weight: Weight = 1.0,
    ) -> None:
        self._set_layers(teacher, layer, weight)
        self.power = check_number("power", power, 1)

    def __call__(self, student: Features, teacher: Features, batch: Batch) -> Tensor:
        """The mean squared difference of the maps of attention of a batch."""
        features, goal = self._read(student, teacher)
        if not features.ndim == goal.ndim == 4:
            remedy = "attention needs maps (channels, height, width): choose layers before the pooling"
            raise self._unfit(features, goal, remedy)
        with autocast_off(features):
            maps = _of_one_size(features, goal)
            if maps[0][0, 0].numel() == 1:
                raise self._unfit(features, goal, "attention needs several places: choose earlier layers")
            attention, wanted = (functional.normalize(self._attention(x).flatten(1)) for x in maps)
            return functional.mse_loss(attention, wanted)

    def _attention(self, maps: Tensor) -> Tensor:
        return cast("Callable[[Tensor, float], Tensor]", _AttentionMap.apply)(maps, self.power)

    def describe(self) -> Record:
        """What ``run.json`` records of the loss."""
        return {**super().describe(), "power": self.power}


class _AttentionMap(torch.autograd.Function):
    """The mean over channels of |maps|^p, of maps that are divided by a constant for each image.

    The map of attention that is divided by its length does not depend on the constants, which keep powers
    from vanishing and overflowing. Where none does, which the mean of the powers shows, the maps are passed
    through as seldom as in plain code; and the gradient takes one pass, where that of a square takes three.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, power: float) -> Tensor:
        """Maps (n, channels, height, width) -> (n, height, width), of which the largest is about 1."""
        ctx.power, fits = power, False
        if maps.device.type == "cpu":  # on a GPU a look at values would stall each step
            attention = _power(maps, power).mean(dim=1, keepdim=True)
            largest = attention.amax((2, 3), keepdim=True)
            fits = bool(((largest > _LEAST) & (largest < 1 / _LEAST)).all())
        if fits:
            gain = largest.reciprocal()
            attention = attention * gain
        else:
            largest = maps.abs().amax((1, 2, 3), keepdim=True)
            gain = largest.clamp(min=torch.finfo(maps.dtype).tiny).reciprocal().masked_fill_(largest == 0, 0)
            maps = maps * gain
            attention = _power(maps, power).mean(dim=1, keepdim=True)
        ctx.save_for_backward(maps, gain * (power / maps.shape[1]))
        return attention[:, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient of the maps."""
        maps, gain = ctx.saved_tensors
        slope = maps if ctx.power == 2 else maps.sign() * maps.abs().pow(ctx.power - 1)
        return slope * (gradient[:, None] * gain), None


def _power(maps: Tensor, power: float) -> Tensor:
    return maps.square() if power == 2 else maps.abs().pow(power)


class _ChannelMap(nn.Module):
    """A linear map of the channels, the same at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.LazyLinear(0)

    def forward(self, features: Tensor) -> Tensor:
        """Features with the teacher's channels."""
        if features.ndim == 4:
            return functional.conv2d(features, self.linear.weight[:, :, None, None], self.linear.bias)
        mapped: Tensor = self.linear(features)
        return mapped


def _of_one_size(*maps: Tensor) -> list[Tensor]:
    """Maps (n, channels, height, width), pooled to the smallest height and the smallest width of all."""
    size = min(part.shape[2] for part in maps), min(part.shape[3] for part in maps)
    return [part if part.shape[2:] == size else functional.adaptive_avg_pool2d(part, size) for part in maps]
