"""Patterns of a network: what the layers of a torch module put out for each stimulus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from rsatoolbox.data import Dataset
from torch import Tensor, nn

from neurordl.errors import NeurordlError
from neurordl.patterns.layers import OUTPUT, resolve_layers
from neurordl.stimuli import StimulusSet
from neurordl.students.loading import why_unfit
from neurordl.validate import check_count

_BATCH = 64


def _first_tensor(output: Any, name: str) -> Tensor:
    """The tensor of a layer's output: itself, or the first one of a tuple, list or mapping."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(parts, Sequence) or isinstance(output, Mapping):
        for part in parts:
            if isinstance(part, Tensor):
                return part
    raise NeurordlError(f"layer {name!r} puts out {type(output).__name__}, which holds no tensor to read")


class _AmbiguousError(NeurordlError):
    """The stimulus axis of a layer cannot be told: never a reason to leave the layer out in silence."""


def _stimuli_first(tensor: Tensor, n: int, name: str, batch_first: bool | None) -> Tensor:
    """(n, channels) of a layer's output, whichever axis its stimuli are on."""
    shape = tuple(tensor.shape)
    first = tensor.ndim > 0 and shape[0] == n
    second = tensor.ndim > 2 and shape[1] == n
    if batch_first is False and second:
        first = False
    elif first and second and tensor.ndim == 3 and n > 1 and batch_first is None:
        # Batches of tokens: (stimuli, tokens, d) and (tokens, stimuli, d) look alike here.
        raise _AmbiguousError(
            f"layer {name!r} puts out {shape} for {n} stimuli: as many tokens as stimuli, so the stimulus "
            "axis cannot be told; use another batch size"
        )
    if first:
        return tensor.flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
    if second:
        return tensor.transpose(0, 1).flatten(1)
    raise NeurordlError(f"layer {name!r} puts out {shape} for {n} stimuli: no axis holds the stimuli")


def _batch_first(model: nn.Module, name: str) -> bool | None:
    """What the innermost module around a layer that says so (``batch_first=``) says; None if none does."""
    module: Any = model
    modes = [getattr(model, "batch_first", None)]
    for part in name.split("."):
        module = getattr(module, part, None)
        modes.append(getattr(module, "batch_first", None))
    known = [mode for mode in modes if isinstance(mode, bool)]
    return known[-1] if known else None


def read_layers(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    *,
    missing: bool = False,
    reduce: Callable[[Tensor], Tensor] = Tensor.clone,
) -> tuple[Any, dict[str, Tensor]]:
    """Run a model once and keep what some of its layers put out.

    What is kept is a clone, because a later in-place operation (a ReLU) would rewrite it, and stays
    in the graph, so that a loss on it trains the model. Hooks are removed whatever happens. Of a module
    that runs several times in one pass, the last output is kept; of a tuple, the first tensor.

    Parameters
    ----------
    model : torch.nn.Module
    images : Tensor, (n, ...)
    layers : sequence of str
        Resolved names (see `resolve_layers`); ``""`` is the model's output.
    missing : bool
        Leave out layers that did not run or whose output holds no float tensor of these stimuli,
        instead of raising.
    reduce : callable
        What is kept of a layer's (n, channels), computed while the layer's output is as it came: the RDM of
        a layer takes less room than its patterns. By default all of it.

    Returns
    -------
    output : object
        What the model returned.
    features : dict of str to Tensor, (n, channels)
        Each layer's output, flattened over all axes but that of the stimuli; or what `reduce` made of it.

    Raises
    ------
    NeurordlError
        If a layer did not run, or its output has no stimulus axis or (always raised) one that cannot be told.
    """
    modules = dict(model.named_modules())
    for name in layers:
        if name not in modules:
            found = resolve_layers(model, name)  # raises where there is none
            raise NeurordlError(f"{name!r} stands for {len(found)} layers; give the name of one")
    kept: dict[str, Tensor] = {}
    failed: dict[str, NeurordlError] = {}

    def keep(name: str, output: Any) -> None:
        try:
            tensor = _first_tensor(output, name)
            if not tensor.is_floating_point():
                raise NeurordlError(f"layer {name!r} puts out {tensor.dtype}, not real numbers")
            kept[name] = reduce(_stimuli_first(tensor, len(images), name, _batch_first(model, name)))
        except NeurordlError as error:
            failed[name] = error

    handles = []
    try:
        for name in layers:
            if name != OUTPUT:
                hook = lambda _module, _inputs, output, name=name: keep(name, output)  # noqa: E731
                handles.append(modules[name].register_forward_hook(hook))
        output = model(images)
    finally:
        for handle in handles:
            handle.remove()
    if OUTPUT in layers:
        keep(OUTPUT, output)
    for name, error in failed.items():
        unclear = isinstance(error, _AmbiguousError) and name != OUTPUT  # an output nobody may have asked for
        if name not in kept and (unclear or not missing):
            raise error
    absent = [name for name in layers if name not in kept]
    if absent and not missing:
        raise NeurordlError(
            f"layer {absent[0]!r} did not run in the model's forward pass; choose another layer"
        )
    return output, {name: kept[name] for name in layers if name in kept}


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def usable_device(device: str | torch.device) -> torch.device:
    """A device that torch can compute on here.

    Raises
    ------
    NeurordlError
        It names no device, or one that is not there.
    """
    try:
        there = torch.device(device)
        if there.type == "cuda" and not torch.cuda.is_available():
            raise NeurordlError(
                f"device {str(there)!r} was asked for, but torch sees no GPU; leave device out"
            )
        torch.empty(1, device=there).fill_(1).item()
    except (RuntimeError, AssertionError, TypeError) as error:  # a build without it fails by assertion
        told = str(error).splitlines()[0]
        raise NeurordlError(
            f"device {str(device)!r} cannot be used here: {told}; leave device out"
        ) from error
    return there


def as_input(images: Tensor, model: nn.Module) -> Tensor:
    """Images on the device and in the precision of a model's parameters (or buffers)."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            return images.to(tensor.device, tensor.dtype)
    return images


@dataclass(frozen=True)
class Compute:
    """Where a network is run on stimuli, how many at a time, and whether a progress bar is shown.

    Attributes
    ----------
    device : str or torch.device, optional
        Device; by default the network's own.
    batch_size : int, optional
        Stimuli in a forward pass. By default 64 for patterns; `evaluate` takes all stimuli at once where
        memory allows.
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
    """The first row of each batch of stimuli, and what `read_layers` keeps of the batch."""
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
                    read_layers(model, images, absent)  # raises with the reason
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
    arrays: dict[str, npt.NDArray[np.float32]] = {}
    for start, features in read_batches(model, stimuli, layers, Compute.of(device)):
        for name, tensor in features.items():
            values = tensor.float().cpu().numpy()
            if name not in arrays:
                arrays[name] = np.empty((len(stimuli), values.shape[1]), dtype=np.float32)
            arrays[name][start : start + len(values)] = values
    return {
        name: Dataset(values, descriptors={"layer": name}, obs_descriptors={"stimulus": list(stimuli.ids)})
        for name, values in arrays.items()
    }
