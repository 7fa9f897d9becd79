"""Patterns of a network: the responses of a torch module's layers to each stimulus."""

from __future__ import annotations

import difflib
import fnmatch
import hashlib
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from neurordl.errors import NeurordlError, notify
from neurordl.progress import tracked
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import check_stimuli
from neurordl.validate import check_count, counted, listed

if TYPE_CHECKING:
    from rsatoolbox.data import Dataset

OUTPUT = ""
"""The name of a model's own output, as in ``named_modules()``."""

_BATCH = 64
_FEW_STAGES = 3
_MOST = 0.8  # of all modules with weights: a layer that holds more is opened
_NEAR = 3  # names shown in an error: of numbered layers nearly all are alike

# These containers are never called, so nothing can be read from them.
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass
class _Seen:
    """What is known of a layer's output: its shape in a probe of n images (None: no tensor), its axis."""

    n: int
    shape: tuple[int, ...] | None = None
    axis: int | None = None


_LAYERS: WeakKeyDictionary[nn.Module, _Seen] = WeakKeyDictionary()  # so that a network is probed once

# Where torch.compile, DataParallel, DistributedDataParallel and Fabric keep the network that they wrap.
_WRAPPED = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "_FabricModule": "_original_module",
}


def sha256_modules(model: nn.Module) -> str:
    """SHA-256 of the modules of a network with their settings, as its representation shows them."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(unwrapped(model)))
    return hashlib.sha256(text.encode()).hexdigest()


def unwrapped(model: nn.Module) -> nn.Module:
    """The network within ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` or Fabric.

    Its layers have their plain names, without ``_orig_mod.`` or ``module.``. Other modules are returned as
    they are.
    """
    while (attribute := _WRAPPED.get(type(model).__name__)) is not None:
        model = getattr(model, attribute)
    return model


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
    modules = unwrapped(model).named_modules()
    return [name for name, module in modules if name and not isinstance(module, _NEVER_CALLED)]


def top_layers(model: nn.Module) -> list[str]:
    """Names of a network's stages.

    These are the layers that are not part of another layer, without dropout and identities, which change
    nothing in eval mode. Where fewer than three of them have parts with weights (SqueezeNet's ``features``
    and ``classifier``, the one ``blocks`` of a vision transformer), or one of them holds more than four
    fifths of all modules with weights (``stages`` of timm's ConvNeXt), ``Sequential`` containers of at least
    three parts with weights are replaced by their stages: a part with weights together with the norms,
    nonlinearities and pooling that follow it, named by the last of them. Containers that are never called are
    replaced by their members, and a model that only wraps another one by the layers of that one.
    """
    model = unwrapped(model)
    names = _children(model)
    while True:
        parts = {name: model.get_submodule(name) for name in names}
        few = sum(map(_has_parts, parts.values())) < _FEW_STAGES
        most = _MOST * _n_weighty(model)
        opened = {k for k, part in parts.items() if _holds_stages(part) and (few or _n_weighty(part) > most)}
        if not opened:
            return [name for name, part in parts.items() if not _passes_on(part)] or names
        names = [inner for name in names for inner in (_inside(model, name) if name in opened else [name])]


def _children(model: nn.Module) -> list[str]:
    names: list[str] = []
    for name, module in model.named_children():
        if isinstance(module, _NEVER_CALLED):
            names += [f"{name}.{inner}" for inner in _children(module)]
        else:
            names.append(name)
    if len(names) == 1 and (inner := _children(model.get_submodule(names[0]))):
        return [f"{names[0]}.{name}" for name in inner]
    return names


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _n_weighty(module: nn.Module) -> int:
    """Number of modules with weights of their own."""
    return sum(next(part.parameters(recurse=False), None) is not None for part in module.modules())


def _passes_on(module: nn.Module) -> bool:
    """Whether a layer changes nothing in eval mode."""
    return "Dropout" in type(module).__name__ or isinstance(module, nn.Identity)


def _has_parts(module: nn.Module) -> bool:
    return any(map(_has_weights, module.children()))


def _holds_stages(module: nn.Module) -> bool:
    """Whether a layer is a sequence of at least three parts with weights, or has one among its layers."""
    weighty = sum(map(_has_weights, module.children()))
    listing = isinstance(module, nn.Sequential | nn.ModuleList)
    return (listing and weighty >= _FEW_STAGES) or any(map(_holds_stages, module.children()))


def _inside(model: nn.Module, name: str) -> list[str]:
    """The layers in a layer; of a Sequential, the last one of each stage."""
    module = model.get_submodule(name)
    if not isinstance(module, nn.Sequential):
        return [f"{name}.{inner}" for inner in _children(module)]
    stages: list[str] = []
    for inner, part in module.named_children():
        if _passes_on(part):
            continue
        if stages and (not _has_weights(part) or "Norm" in type(part).__name__):
            stages.pop()
        stages.append(f"{name}.{inner}")
    return stages


def resolve_layers(model: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """Turn names, globs, ``"all"`` or ``"top"`` into the names of layers.

    Parameters
    ----------
    model : torch.nn.Module
        Network.
    layers : str or sequence of str
        Names from ``model.named_modules()``, globs over them (``"features.*"``), ``"all"``, ``"top"``
        (the stages, see `top_layers`), or ``""`` for the model's own output.

    Returns
    -------
    list of str
        Names in the order of `layers`, the matches of a glob in the order of the model, each name once.

    Raises
    ------
    NeurordlError
        If a name or glob matches no layer; the message lists the nearest names.
    """
    model = unwrapped(model)
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

    The axis of the stimuli is never taken by its length alone: when a layer is read for the first time, the
    model also runs on two of the images (three of two), in eval mode and without gradients, and the axis is
    the one whose length follows the number of images while no other length changes.

    Parameters
    ----------
    model : torch.nn.Module
        Network.
    images : Tensor, (n, ...)
        Its input.
    layers : sequence of str
        Names (see `resolve_layers`); ``""`` is the model's output.
    missing : bool
        Leave out layers that did not run or whose output holds no real numbers of these stimuli, with a
        notice, instead of raising an error.
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
        If a layer did not run, or its output does not have one row for each stimulus.

    Warns
    -----
    UserWarning
        A layer runs several times in a pass, or layers are left out; once for each network.
    """
    if not layers:
        return model(images), {}
    plain = unwrapped(model)
    wanted = {}
    for name in layers:
        try:
            wanted[name] = plain.get_submodule(name)
        except AttributeError:
            names = resolve_layers(model, name)  # raises an error if no layer matches
            text = f"{name!r} matches {len(names)} layers; choose one of {listed(names)}"
            raise NeurordlError(text) from None
    if any(isinstance(module, torch.jit.ScriptModule) for name, module in wanted.items() if name != OUTPUT):
        raise NeurordlError("layers of TorchScript cannot be read; pass the module that it was made from")
    n = len(images)
    unseen = {name: module for name, module in wanted.items() if _unknown(module, n)}
    if unseen:
        _probe(model, images, unseen)
    features: dict[str, Tensor] = {}
    failures: dict[str, NeurordlError] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        try:
            tensor = _stimuli_first(_tensor(output, name), n, name, _LAYERS.get(wanted[name]))
        except NeurordlError as error:
            failures[name] = error
            return
        features[name] = reduce(tensor)  # an error here is no reason to leave the layer out

    output = _run_with_hooks(model, images, wanted, keep)
    for module in unseen.values():  # a network that takes no other number of images is not tried at each step
        _LAYERS.setdefault(module, _Seen(0))
    for name, error in failures.items():
        # A teacher always reads its network's output, which may be of any form if no loss needs it.
        if name not in features and not missing:
            raise error
    absent = [name for name in layers if name not in features]
    if absent and not missing:
        raise NeurordlError(f"layer {absent[0]!r} did not run in the model's forward pass; choose another")
    if out := [name for name in absent if name != OUTPUT]:
        reasons = [str(failures.get(name, f"layer {name!r} did not run")) for name in out]
        text = f"{len(out)} of {len(layers)} layers are left out: {listed(reasons, 3)}"
        notify(text)
    return output, {name: features[name] for name in layers if name in features}


def _run_with_hooks(
    model: nn.Module,
    images: Tensor,
    wanted: Mapping[str, nn.Module],
    keep: Callable[[str, nn.Module, Any, Any], None],
) -> Any:
    """The output of a pass, in which `keep` gets the output of each layer that is wanted."""
    with ExitStack() as hooks:
        inner = [name for name in wanted if name != OUTPUT]
        if inner and "torch._dynamo" in sys.modules:  # compiled code would not call the hooks
            hooks.enter_context(torch.compiler.set_stance("force_eager"))
        for name in inner:
            hooks.callback(wanted[name].register_forward_hook(partial(keep, name)).remove)
        output = model(images)
    if OUTPUT in wanted:
        keep(OUTPUT, model, images, output)
    return output


def _unknown(module: nn.Module, n: int) -> bool:
    seen = _LAYERS.get(module)
    return seen is None or (seen.axis is None and seen.n == n)


def _probe(model: nn.Module, images: Tensor, wanted: Mapping[str, nn.Module]) -> None:
    """Note the shapes of layers for another number of images, unless the model does not take another."""
    rows = [0, 0] if len(images) == 1 else [0, 1, 0] if len(images) == 2 else [0, 1]
    noted = {name: _Seen(len(rows)) for name in wanted}
    calls: Counter[str] = Counter()

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        calls[name] += 1
        noted[name].shape = None
        with suppress(NeurordlError):  # the pass itself raises it
            noted[name].shape = tuple(_tensor(output, name).shape)

    devices = [images.device] if images.device.type == "cuda" else []
    with suppress(Exception), torch.random.fork_rng(devices), frozen_eval(model):  # the pass has the reason
        _run_with_hooks(model, images[rows], wanted, keep)
        _LAYERS.update({wanted[name]: seen for name, seen in noted.items()})
    if several := [f"{name} ({count} times)" for name, count in calls.items() if count > 1]:
        single = len(several) == 1
        text = f"{counted(len(several), 'layer')} {'runs' if single else 'run'} several times in a pass"
        text += f", and {'its name stands' if single else 'their names stand'} for the last output alone"
        remedy = "to read each, give every place a module of its own, such as a further nn.ReLU()"
        notify(f"{text}: {listed(several)}; {remedy}")


def _tensor(output: Any, name: str) -> Tensor:
    """The tensor of real numbers in a layer's output."""
    parts = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Tensor) or not isinstance(output, Mapping | Sequence):
        parts = [output]
    tensor = next((part for part in parts if isinstance(part, Tensor)), None)
    if tensor is None:
        raise NeurordlError(f"the output of layer {name!r} is {type(output).__name__} without a tensor")
    if not tensor.is_floating_point():
        raise NeurordlError(f"the output of layer {name!r} is {tensor.dtype}, not real numbers")
    return tensor


def _stimuli_first(tensor: Tensor, n: int, name: str, seen: _Seen | None) -> Tensor:
    """A layer's output with its n stimuli on the first of at least two axes."""
    shape = tuple(tensor.shape)
    axis = seen.axis if seen is not None else None
    if axis is None:
        follows = [k for k, length in enumerate(shape) if length == n]
        before = ""
        if seen is not None and seen.shape is not None:
            before = f" and {seen.shape} for {seen.n}"
            pairs = list(zip(seen.shape, shape, strict=False)) if len(seen.shape) == len(shape) else []
            changed = [k for k, (old, new) in enumerate(pairs) if old != new]
            follows = [k for k in follows if changed == [k] and pairs[k][0] == seen.n]
        if len(follows) != 1:
            problem = f"the output of layer {name!r} has shape {shape} for {n} stimuli{before}"
            raise NeurordlError(f"{problem}, and no axis for one row a stimulus; choose another layer")
        (axis,) = follows
        if seen is not None and before:
            seen.axis = axis
    if axis >= len(shape) or shape[axis] != n:
        problem = f"the output of layer {name!r} has shape {shape}, and no axis for {n} stimuli"
        raise NeurordlError(f"{problem}; take another batch size")
    tensor = tensor.movedim(axis, 0)
    return tensor if tensor.ndim > 1 else tensor.unsqueeze(1)


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


@contextmanager
def explain_unfit(network: nn.Module, batches: Sequence[Tensor], role: str) -> Iterator[None]:
    """An error of a network that runs on batches of images names their shapes, and what to change."""
    try:
        yield
    except (torch.OutOfMemoryError, NeurordlError):
        raise
    except (RuntimeError, ValueError, AssertionError) as error:  # timm and others check the size
        raise NeurordlError(_why_unfit(network, batches, error, role)) from error


def _why_unfit(network: nn.Module, batches: Sequence[Tensor], error: Exception, role: str) -> str:
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
    progress : bool, optional
        Show a progress bar; by default on a terminal and in a notebook.

    Raises
    ------
    NeurordlError
        If the device cannot be used on this machine, or the batch size is not a number of stimuli.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Compute("cpu", batch_size=256).batch_size
    256
    """

    device: str | torch.device | None = None
    batch_size: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.device is not None:
            usable_device(self.device)
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size)

    @classmethod
    def of(cls, device: str | torch.device | Compute | None) -> Compute:
        """A `Compute` as it is; anything else as the device of one."""
        return device if isinstance(device, Compute) else cls(device)


def batches(n: int, size: int) -> list[tuple[int, int]]:
    """First row and end of each batch; a single stimulus left over joins the batch before it."""
    starts = list(range(0, n, size))
    if size > 1 and len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n], strict=True))


def read_batches(
    model: nn.Module,
    stimuli: StimulusSet,
    layers: str | Sequence[str],
    compute: Compute,
    reduce: Callable[[Tensor], Tensor] = Tensor.clone,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The first row of each batch of stimuli, and the features that `read_layers` gives for the batch."""
    model = unwrapped(model)
    names = resolve_layers(model, layers)
    required = {layers} if isinstance(layers, str) else set(layers)
    home = as_input(torch.empty(0), model).device
    device = torch.device(compute.device) if compute.device is not None else home
    batch_size = compute.batch_size or _BATCH
    try:
        model.to(device)
        steps = batches(len(stimuli), batch_size)
        for start, end in tracked(steps, "patterns", compute.progress):
            with frozen_eval(model):
                images = as_input(stimuli.images(range(start, end)).to(device), model)
                if end - start == 1:  # a network that squeezes would lose the axis
                    images = torch.cat([images, images])
                # A layer that a glob matches need not run; a named layer, or one that ran before, must.
                with explain_unfit(model, [images], "network"):
                    _, features = read_layers(model, images, names, missing=start == 0, reduce=reduce)
                if absent := [name for name in names if name in required and name not in features]:
                    read_layers(model, images, absent)  # raises an error with the reason
            names = list(features)
            if end - start == 1:
                features = {name: values[:1] for name, values in features.items()}
            yield start, features
    finally:
        model.to(home)


def layer_bytes(model: nn.Module, stimuli: StimulusSet, layers: str | Sequence[str]) -> dict[str, int]:
    """Bytes in float32 of a stimulus's pattern in each layer, from a pass of two images if none was yet."""
    plain = unwrapped(model)
    modules = dict(plain.named_modules())
    wanted = {name: modules[name] for name in resolve_layers(model, layers)}
    if any(module not in _LAYERS for module in wanted.values()):
        _probe(model, as_input(stimuli.images(range(min(len(stimuli), 3))), model), wanted)
    seen = {name: _LAYERS[module] for name, module in wanted.items() if module in _LAYERS}
    return {name: 4 * math.prod(layer.shape) // layer.n for name, layer in seen.items() if layer.shape}


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
        Names, globs, ``"all"`` or ``"top"`` (the stages, see `top_layers`). A layer that is named must run;
        layers that the others match are left out, with a notice, if they do not run or their output does not
        have one row of real numbers for each stimulus.
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

    Warns
    -----
    UserWarning
        A layer runs several times, is left out, or gives NaN or infinity.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> network = nrl.students.small_cnn(in_channels=1)
    >>> patterns = nrl.extract_patterns(network, digits.subset(digits.ids[:5]), ["conv3", "fc1"])
    >>> patterns["fc1"].measurements.shape
    (5, 128)
    """
    from rsatoolbox.data import Dataset

    check_stimuli(stimuli)
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
    for name, dataset in patterns.items():
        if broken := (~np.isfinite(dataset.measurements)).any(axis=1).nonzero()[0].tolist():
            affected = listed([stimuli.ids[row] for row in broken], quote=True)
            text = f"layer {name!r} gives NaN or infinity for {len(broken)} of {len(stimuli)} stimuli"
            notify(f"{text}: {affected}")
    return patterns
