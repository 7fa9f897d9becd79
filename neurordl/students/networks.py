"""Small student networks: plain modules, with layer names that read well.

Any ``torch.nn.Module`` can be a student; these are here so that an experiment needs no other package. Each
returns a module (n, in_channels, height, width) -> (n, num_classes), the logits. A named layer begins with
its dropout and ends with its nonlinearity and pooling, so that dropout never affects the features from which
an RDM is computed.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from torch import Tensor, nn
from torch.nn import functional as F

from neurordl.errors import NeurordlError

Options = ParamSpec("Options")


def with_spec(student: nn.Module, **spec: Any) -> nn.Module:
    """Record how a student was built, so that `load_run` can build it again."""
    student.build_spec = spec  # type: ignore[assignment]
    return student


def _noted(make: Callable[Options, nn.Module]) -> Callable[Options, nn.Module]:
    """Record in each student the arguments with which `build` makes it."""

    @functools.wraps(make)
    def noting(*args: Options.args, **options: Options.kwargs) -> nn.Module:
        arguments = inspect.signature(make).bind(*args, **options)
        arguments.apply_defaults()
        return with_spec(make(*args, **options), name=make.__name__, **arguments.arguments)

    return noting


@_noted
def small_cnn(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    width: int = 32,
    batchnorm: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """A small CNN: three convolutional and two fully connected layers.

    Images must have at least 8 x 8 pixels. Layers: ``conv1`` (32 maps), ``conv2`` (64), ``conv3`` (128 maps
    of 2 x 2 for any image size), each of 3 x 3 filters, ReLU and max-pooling; ``fc1`` (128 units, ReLU);
    ``fc2`` (the logits). 160,000 weights.

    Parameters
    ----------
    num_classes, in_channels : int
        Number of classes, and of the images' channels.
    width : int
        Maps of ``conv1``; the later layers have twice and four times as many.
    batchnorm : bool
        Batch norm after each convolution.
    dropout : float
        Probability with which the inputs of ``fc1`` and ``fc2`` are dropped in training.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> nrl.students.small_cnn(num_classes=10, in_channels=1)(torch.rand(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """
    return _named(
        conv1=[*_conv(in_channels, width, 3, batchnorm), nn.MaxPool2d(2)],
        conv2=[*_conv(width, 2 * width, 3, batchnorm), nn.MaxPool2d(2)],
        conv3=[*_conv(2 * width, 4 * width, 3, batchnorm), _MaxOfQuarters()],
        fc1=[nn.Flatten(), nn.Dropout(dropout), _he(nn.Linear(16 * width, 128)), nn.ReLU()],
        fc2=[nn.Dropout(dropout), nn.Linear(128, num_classes)],
    )


@_noted
def nin(
    num_classes: int = 10, in_channels: int = 3, *, batchnorm: bool = False, dropout: float = 0.5
) -> nn.Module:
    """The network in network of Lin, Chen & Yan (2014, arXiv 1312.4400) for CIFAR.

    Layers: ``mlpconv1`` (5 x 5 to 192 maps, 1 x 1 to 160, 96, max-pooling), ``mlpconv2`` (5 x 5 to 192, then
    192, 192, average pooling), ``mlpconv3`` (3 x 3 to 192, then 192, one map per class), ``mean`` of each map
    (the logits). Unlike in the authors' code no ReLU precedes the mean: a class whose map died would never
    learn again. 967,000 weights.

    Parameters
    ----------
    num_classes, in_channels : int
        Number of classes, and of the images' channels.
    batchnorm : bool
        Batch norm after each convolution but the last (not in the paper; trains faster).
    dropout : float
        Probability with which the inputs of ``mlpconv2`` and ``mlpconv3`` are dropped in training.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> nrl.students.nin(num_classes=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def mlpconv(kernel: int, *widths: int) -> list[nn.Module]:
        parts = zip(widths, widths[1:], (kernel, 1, 1), strict=False)
        return [layer for part in parts for layer in _conv(*part, batchnorm)]

    average = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
    return _named(
        mlpconv1=[*mlpconv(5, in_channels, 192, 160, 96), nn.MaxPool2d(3, 2, padding=1)],
        mlpconv2=[nn.Dropout(dropout), *mlpconv(5, 96, 192, 192, 192), average],
        mlpconv3=[nn.Dropout(dropout), *mlpconv(3, 192, 192, 192), nn.Conv2d(192, num_classes, 1)],
        mean=[nn.AdaptiveAvgPool2d(1), nn.Flatten()],
    )


@_noted
def resnet18(num_classes: int = 10, in_channels: int = 3, *, width: int = 64) -> nn.Module:
    """An 18-layer ResNet (He et al. 2016) for small images: a 3 x 3 stem of stride 1, no max-pooling.

    Layers: ``conv1`` (with batch norm and ReLU), ``layer1`` to ``layer4`` (two blocks each; 1, 2, 4, 8 times
    ``width`` maps; each from ``layer2`` on halves the image), ``avgpool``, ``fc`` (the logits).

    Parameters
    ----------
    num_classes, in_channels : int
        Number of classes, and of the images' channels.
    width : int
        Maps of the stem: 64 gives 11 million weights, 16 gives 0.7 million.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> nrl.students.resnet18(num_classes=100, width=8)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [_Residual(inputs, outputs, stride), _Residual(outputs, outputs, 1)]

    return _named(
        conv1=_conv(in_channels, width, 3, batchnorm=True),
        layer1=layer(width, width, 1),
        layer2=layer(width, 2 * width, 2),
        layer3=layer(2 * width, 4 * width, 2),
        layer4=layer(4 * width, 8 * width, 2),
        avgpool=[nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        fc=nn.Linear(8 * width, num_classes),
    )


@_noted
def cifar_resnet(
    num_classes: int = 10, in_channels: int = 3, *, depth: int = 20, width: int = 16
) -> nn.Module:
    """A ResNet for small images as in section 4.2 of He et al. (2016): three stages of few maps.

    Layers: ``conv1`` (with batch norm and ReLU), ``layer1`` to ``layer3`` ((depth - 2) / 6 blocks each; 1, 2
    and 4 times ``width`` maps; the last two halve the image), ``avgpool``, ``fc`` (the logits). Where the
    shape changes the shortcut is a 1 x 1 convolution, as in most later code; the paper pads with zeros.

    Parameters
    ----------
    num_classes, in_channels : int
        Number of classes, and of the images' channels.
    depth : int
        Layers with weights: 6 n + 2, such as 8, 20, 32 or 56.
    width : int
        Maps of the stem: at 16 a depth of 20 has 0.27 million weights.

    Raises
    ------
    NeurordlError
        If the depth is not 6 n + 2.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> nrl.students.cifar_resnet(depth=8)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    if depth < 8 or (depth - 2) % 6:
        raise NeurordlError(f"depth={depth}: expected 6 n + 2, such as 8, 14, 20, 32 or 56")

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        more = [_Residual(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)]
        return [_Residual(inputs, outputs, stride), *more]

    return _named(
        conv1=_conv(in_channels, width, 3, batchnorm=True),
        layer1=layer(width, width, 1),
        layer2=layer(width, 2 * width, 2),
        layer3=layer(2 * width, 4 * width, 2),
        avgpool=[nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        fc=nn.Linear(4 * width, num_classes),
    )


@_noted
def mlp(
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    image_size: int | tuple[int, int] = 32,
    hidden: Sequence[int] = (512, 256),
    dropout: float = 0.0,
) -> nn.Module:
    """A multilayer perceptron on the pixels.

    Layers: ``fc1``, ``fc2``, ... (each linear and ReLU), the last of them the logits.

    Parameters
    ----------
    num_classes, in_channels : int
        Number of classes, and of the images' channels.
    image_size : int or (int, int)
        Height and width of the images (one number: square); images of another size are an error.
    hidden : sequence of int
        Units of each hidden layer.
    dropout : float
        Probability with which hidden units are dropped in training.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> nrl.students.mlp(num_classes=10, in_channels=1, image_size=8)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    widths = [in_channels * height * width, *hidden]
    before: nn.Module = _Pixels((in_channels, height, width))
    layers: dict[str, list[nn.Module]] = {}
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers[f"fc{number}"] = [before, _he(nn.Linear(inputs, outputs)), nn.ReLU()]
        before = nn.Dropout(dropout)
    return _named(**layers, **{f"fc{len(widths)}": [before, nn.Linear(widths[-1], num_classes)]})


def _named(**layers: nn.Module | list[nn.Module]) -> nn.Module:
    """Chain layers under their names; a list becomes one layer."""
    blocks = {name: nn.Sequential(*part) if isinstance(part, list) else part for name, part in layers.items()}
    return nn.Sequential(OrderedDict(blocks))


def _he(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """Give a layer before a ReLU the weights of He et al. (2015, arXiv 1502.01852), and zero biases."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _conv(inputs: int, outputs: int, kernel: int, batchnorm: bool, stride: int = 1) -> list[nn.Module]:
    """Return a convolution that pads, batch norm if asked for, ReLU."""
    conv = _he(nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=not batchnorm))
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()] if batchnorm else [conv, nn.ReLU()]


class _MaxOfQuarters(nn.Module):
    """Maximum over each quarter of a map: (n, c, h, w) -> (n, c, 2, 2), for any h and w from 2.

    The same as ``nn.AdaptiveMaxPool2d(2)``, whose gradient has no deterministic form on a GPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < 2:
            raise NeurordlError("small_cnn needs images of at least 8 x 8 pixels: give them a larger size.")
        return F.max_pool2d(x, (-(-height // 2), -(-width // 2)), (height // 2, width // 2))


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and inputs == outputs
        first, second = _conv(inputs, outputs, 3, True, stride), _conv(outputs, outputs, 3, True)
        self.residual = nn.Sequential(*first, *second[:2])  # the last ReLU comes after the sum
        self.shortcut = nn.Sequential(*([] if same else _conv(inputs, outputs, 1, True, stride)[:2]))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class _Pixels(nn.Module):
    """Flatten images of one shape (channels, height, width); refuse others."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.shape:
            shapes = f"{self.shape} (channels, height, width), but got {tuple(x.shape[1:])}"
            raise NeurordlError(f"this mlp takes images of shape {shapes}; build it with their image_size")
        return x.flatten(1)
