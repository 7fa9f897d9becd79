"""Patterns of a network: the responses of a torch module's layers to each stimulus."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import track
from rsatoolbox.data import Dataset
from torch import Tensor, nn

from neurordl.errors import NeurordlError
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_count, listed

OUTPUT = ""
"""The name of a model's own output, as in ``named_modules()``."""

_BATCH = 64
_NEAR = 3  # names shown in an error: of numbered layers nearly all are alike

# These containers are never called, so nothing can be read from them.
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def layer_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be read, as in ``model.named_modules()``.

    Parameters
    ----------
    model : torch.nn.Module
        Network.

    Returns
    -------
    list of str
        Names in the order in which the modules were registered, without the model itself and without
        containers that are never called (``ModuleList`` and the like).
    """
    return [name for name, module in model.named_modules() if name and not isinstance(module, _NEVER_CALLED)]


def top_layers(model: nn.Module) -> list[str]:
    """Names of the layers that are not part of another layer: for most networks, their stages.

    Containers that are never called are replaced by their members, and a model that only wraps another one
    by the layers of that one.
    """
    names: list[str] = []
    for name, module in model.named_children():
        if isinstance(module, _NEVER_CALLED):
            names += [f"{name}.{inner}" for inner in top_layers(module)]
        else:
            names.append(name)
    if len(names) == 1 and (inner := top_layers(model.get_submodule(names[0]))):
        return [f"{names[0]}.{name}" for name in inner]
    return names


def resolve_layers(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Turn names, globs, ``"all"`` or ``"top"`` into the names of layers.

    Parameters
    ----------
    model : torch.nn.Module
        Network.
    layers : str or sequence of str
        Names from ``model.named_modules()``, globs over them (``"features.*"``), ``"all"``, ``"top"``
        (the layers that are not part of another layer), or ``""`` for the model's own output.

    Returns
    -------
    list of str
        Names in the order of `layers`, the matches of a glob in the order of the model, each name once.

    Raises
    ------
    NeurordlError
        If a name or glob matches no layer; the message lists the nearest names.
    """
    known = layer_names(model)
    requested = layers.split(",") if isinstance(layers, str) else list(layers)
    if not requested:
        raise NeurordlError("layers= is empty; pass names from model.named_modules(), a glob, 'all' or 'top'")
    names: list[str] = []
    for name in requested:
        if name in ("all", "top") and name not in known:
            names += known if name == "all" else top_layers(model)
        elif name == OUTPUT or name in known:
            names.append(name)
        elif matches := fnmatch.filter(known, name):
            names += matches
        else:
            near = difflib.get_close_matches(name, known, n=_NEAR)
            some = f"nearest: {', '.join(near)}" if near else f"the first: {', '.join(known[:_NEAR])}"
            problem = f"the model ({type(model).__name__}) has no layer {name!r}; {some}"
            top = f"The top ones of its {len(known)} layers are {listed(top_layers(model), 12)}"
            raise NeurordlError(f"{problem}. {top}")
    return list(dict.fromkeys(names))


class _AmbiguousError(NeurordlError):
    """The stimulus axis of a layer is ambiguous, which is never a reason to leave the layer out silently."""


def read_layers(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    missing: bool = False,
    reduce: Callable[[Tensor], Tensor] = Tensor.clone,
) -> tuple[Any, dict[str, Tensor]]:
    """Run a model once and keep the outputs of some of its layers.

    Outputs are cloned, because a later operation in place (a ReLU) would change them, and stay in the graph,
    so that a loss on them trains the model. Hooks are always removed. If a module runs several times in one
    pass, its last output is kept; if its output is a tuple, list or mapping, the first tensor of it.

    Parameters
    ----------
    model : torch.nn.Module
        Network.
    images : Tensor, (n, ...)
        Its input.
    layers : sequence of str
        Names (see `resolve_layers`); ``""`` is the model's output.
    missing : bool
        Leave out layers that did not run or whose output holds no real numbers of these stimuli, instead of
        raising an error.
    reduce : callable
        Function of a layer's output (n, ...), called before later layers can change it; its result is kept
        in place of a clone. The RDM of a layer takes less memory than its patterns.

    Returns
    -------
    output : object
        The output of the model.
    features : dict of str to Tensor, (n, ...)
        The output of each layer in its own shape, such as (n, channels, height, width), with the stimuli on
        the first axis and at least one axis more; or the result of `reduce`.

    Raises
    ------
    NeurordlError
        If a layer did not run, or its output has no stimulus axis or (always raised) an ambiguous one.
    """
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            names = resolve_layers(model, name)  # raises an error if no layer matches
            raise NeurordlError(f"{name!r} matches {len(names)} layers; choose one of {listed(names)}")
    features: dict[str, Tensor] = {}
    failures: dict[str, NeurordlError] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        try:
            tensor = _stimuli_first(output, len(images), name, model)
        except NeurordlError as error:
            failures[name] = error
            return
        features[name] = reduce(tensor)  # an error here is no reason to leave the layer out

    with ExitStack() as hooks:
        for name in layers:
            if name != OUTPUT:
                hooks.callback(modules[name].register_forward_hook(partial(keep, name)).remove)
        output = model(images)
    if OUTPUT in layers:
        keep(OUTPUT, model, images, output)
    for name, error in failures.items():
        # A teacher always reads its network's output, which may be of any form if no loss needs it.
        ambiguous = isinstance(error, _AmbiguousError) and name != OUTPUT
        if name not in features and (ambiguous or not missing):
            raise error
    absent = [name for name in layers if name not in features]
    if absent and not missing:
        raise NeurordlError(f"layer {absent[0]!r} did not run in the model's forward pass; choose another")
    return output, {name: features[name] for name in layers if name in features}


def _stimuli_first(output: Any, n: int, name: str, model: nn.Module) -> Tensor:
    """The real-valued tensor of a layer's output with its n stimuli on the first of at least two axes."""
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Tensor) or not isinstance(output, Mapping | Sequence):
        parts = [output]
    tensor = next((part for part in parts if isinstance(part, Tensor)), None)
    if tensor is None:
        raise NeurordlError(f"the output of layer {name!r} is {type(output).__name__} without a tensor")
    if not tensor.is_floating_point():
        raise NeurordlError(f"the output of layer {name!r} is {tensor.dtype}, not real numbers")
    shape = tuple(tensor.shape)
    first = tensor.ndim > 0 and shape[0] == n
    second = tensor.ndim > 2 and shape[1] == n
    batch_first = _batch_first(model, name) if first and second else None
    if first and second and tensor.ndim == 3 and n > 1 and batch_first is None:
        # Batches of tokens: (stimuli, tokens, d) and (tokens, stimuli, d) look alike here.
        problem = "as many tokens as stimuli, so that their axis is ambiguous; use another batch size"
        raise _AmbiguousError(f"the output of layer {name!r} has shape {shape} for {n} stimuli: {problem}")
    if second and (not first or batch_first is False):
        return tensor.transpose(0, 1)
    if not first:
        raise NeurordlError(f"the output of layer {name!r} has shape {shape}, and no axis for {n} stimuli")
    return tensor if tensor.ndim > 1 else tensor.unsqueeze(1)


def _batch_first(model: nn.Module, name: str) -> bool | None:
    """``batch_first`` of the innermost module around a layer that has this attribute; None if none has."""
    module: Any = model
    modes = [getattr(model, "batch_first", None)]
    for part in name.split("."):
        module = getattr(module, part, None)
        modes.append(getattr(module, "batch_first", None))
    known = [mode for mode in modes if isinstance(mode, bool)]
    return known[-1] if known else None


@contextmanager
def frozen_eval(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards each module is back in the mode in which it was."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def usable_device(device: str | torch.device) -> torch.device:
    """The device, after a test that torch can compute on it.

    Raises
    ------
    NeurordlError
        If it is not the name of a device, or this machine does not have it.
    """
    try:
        usable = torch.device(device)
        if usable.type == "cuda" and not torch.cuda.is_available():
            raise NeurordlError(f"device {str(device)!r}: torch sees no GPU; leave device out")
        torch.empty(1, device=usable).fill_(1).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # a build without it fails by assertion
        reason = f"device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}"
        raise NeurordlError(f"{reason}; leave device out") from error
    return usable


def as_input(images: Tensor, model: nn.Module) -> Tensor:
    """Images on the device and in the precision of a model's parameters (or buffers)."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return images.to(tensor.device, tensor.dtype)
    return images


def why_unfit(network: nn.Module, batches: Sequence[Tensor], error: RuntimeError, role: str) -> str:
    """The message for a network that fails on batches of images: their shapes, and what to change."""
    shapes = list(dict.fromkeys(tuple(images.shape[1:]) for images in batches))
    text = " and ".join(" x ".join(map(str, shape)) for shape in shapes) + " (channels x height x width)"
    expected = [str(module.in_channels) for module in network.modules() if hasattr(module, "in_channels")]
    channels = list(dict.fromkeys(str(shape[0]) for shape in shapes))
    if not expected or expected[:1] == channels:
        remedy = f"prepare them in another size=, or make another {role}"
        dtype = batches[0].dtype
        if odd := {tensor.dtype for tensor in network.parameters()} - {dtype}:
            single = f"call {role}.float()" if dtype == torch.float32 else "convert them with images.float()"
            remedy = f"they are {dtype}, the parameters {odd.pop()}; "
            remedy += single if dtype.is_floating_point else "convert them, as in images.float() / 255"
        return f"the {role} does not take images of {text}: {error}; {remedy}"
    remedy = f"prepare images with channels={expected[0]}"
    if len(channels) == 1:
        remedy += f", or make the {role} with in_channels={channels[0]}"
    return f"the {role} takes {expected[0]} channels, but the images are {text}; {remedy}"


@dataclass(frozen=True)
class Compute:
    """Where a network is run on stimuli, how many at a time, and whether a progress bar is shown.

    Attributes
    ----------
    device : str or torch.device, optional
        Device; by default the network's own.
    batch_size : int, optional
        Stimuli in a forward pass. By default `extract_patterns` takes 64, and `evaluate` takes all stimuli at
        once if memory allows.
    progress : bool
        Show a progress bar.

    Raises
    ------
    NeurordlError
        If the device cannot be used on this machine, or the batch size is not a number of stimuli.

    Examples
    --------
    >>> Compute("cpu", batch_size=256).batch_size
    256
    """

    device: str | torch.device | None = None
    batch_size: int | None = None
    progress: bool = False

    def __post_init__(self) -> None:
        if self.device is not None:
            usable_device(self.device)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)

    @classmethod
    def of(cls, device: str | torch.device | Compute | None) -> Compute:
        """A `Compute` as it is; anything else as the device of one."""
        return device if isinstance(device, Compute) else cls(device)


def read_batches(
    model: nn.Module,
    stimuli: StimulusSet,
    layers: str | Sequence[str],
    compute: Compute,
    reduce: Callable[[Tensor], Tensor] = Tensor.clone,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The first row of each batch of stimuli, and the features that `read_layers` gives for the batch."""
    names = resolve_layers(model, layers)
    required = {layers} if isinstance(layers, str) else set(layers)
    home = as_input(torch.empty(0), model).device
    device = torch.device(compute.device) if compute.device is not None else home
    batch_size = compute.batch_size or _BATCH
    starts = range(0, len(stimuli), batch_size)
    try:
        model.to(device)
        for start in track(starts, "patterns", disable=not compute.progress, transient=True):
            with frozen_eval(model):
                images = stimuli.images(range(start, min(start + batch_size, len(stimuli))))
                images = as_input(images.to(device), model)
                # A layer that a glob matches need not run; a named layer, or one that ran before, must.
                try:
                    _, features = read_layers(model, images, names, missing=start == 0, reduce=reduce)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    raise NeurordlError(why_unfit(model, [images], error, "network")) from error
                if absent := [name for name in names if name in required and name not in features]:
                    read_layers(model, images, absent)  # raises an error with the reason
            names = list(features)
            yield start, features
    finally:
        model.to(home)


def extract_patterns(
    model: nn.Module,
    stimuli: StimulusSet,
    layers: str | Sequence[str] = "all",
    *,
    device: str | torch.device | Compute | None = None,
) -> dict[str, Dataset]:
    """Patterns of a network's layers for a stimulus set, in eval mode.

    Parameters
    ----------
    model : torch.nn.Module
        Network. Its mode and its device are restored afterwards.
    stimuli : StimulusSet
        Images and their ids.
    layers : str or sequence of str
        Names, globs, ``"all"`` or ``"top"`` (the layers that are not part of another layer). A layer that is
        named must run; layers that the others match are left out if they do not run or have no output of
        real numbers.
    device : str, torch.device or Compute, optional
        Device on which the network is run, by default its own; or ``Compute(device, batch_size, progress)``.

    Returns
    -------
    dict of str to rsatoolbox.data.Dataset
        For each layer, measurements (stimuli, channels) in float32, with the observation descriptor
        ``stimulus`` (ids in the order of `stimuli`) and the descriptor ``layer``. Channels are all axes of
        the layer's output but that of the stimuli, flattened.

    Raises
    ------
    NeurordlError
        If a layer does not exist or did not run, or the network does not take the images.
    """
    patterns: dict[str, Dataset] = {}
    for start, features in read_batches(model, stimuli, layers, Compute.of(device)):
        for name, tensor in features.items():
            values = tensor.flatten(1).float().cpu().numpy()
            if name not in patterns:
                patterns[name] = Dataset(
                    np.empty((len(stimuli), values.shape[1]), dtype=np.float32),
                    descriptors={"layer": name},
                    obs_descriptors={"stimulus": list(stimuli.ids)},
                )
            patterns[name].measurements[start : start + len(values)] = values
    return patterns
