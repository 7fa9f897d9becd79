"""Networks of anyone: by ``package.module:factory`` or by name, with weights from a file."""

from __future__ import annotations

import importlib
import os
import re
import sys
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from neurordl.errors import NeurordlError
from neurordl.students.registry import STUDENTS, build

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_network", "load_weights"]

# Where training code keeps the weights within a checkpoint, and what wrappers put before their names.
_WITHIN = ("state_dict", "model_state_dict", "model", "net")
_PREFIX = re.compile(r"^(module|_orig_mod|model)\.")


def load_network(
    name: str,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    pretrained: bool = False,
    **options: Any,
) -> nn.Module:
    """Make a network, in eval mode.

    Parameters
    ----------
    name : str
        ``"package.module:factory"``, a function of your own that returns a module (importable, or in the
        current folder); ``"torchvision:NAME"``, ``"timm:NAME"``; or one of ``STUDENTS``.
    checkpoint : path, optional
        File with the weights: .safetensors; .pth, .pt or .ckpt of torch; or .npz.

        See `load_weights`.
    pretrained : bool
        Use the trained weights of torchvision or timm, which they download.
    **options
        Passed on to the factory or to `build`.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    NeurordlError
        A name that leads to no network, or weights that do not fit.
    """
    package, _, factory = name.partition(":")
    if factory and package.endswith(".py"):
        file = PurePath(package)
        far = file.is_absolute() or ".." in file.parts
        module = file.stem if far else ".".join(file.with_suffix("").parts)
        where = f", and run where {file.name} lies" if far else ""
        raise NeurordlError(f"{name} names a file, not a module; write {module}:{factory}{where}")
    if package in ("torchvision", "timm") and factory:
        if pretrained:
            options["weights" if package == "torchvision" else "pretrained"] = (
                "DEFAULT" if package == "torchvision" else True
            )
        network = build(name, options.pop("num_classes", 1000), **options)
    elif pretrained:
        raise NeurordlError(f"{name} has no trained weights of its own; give a checkpoint")
    elif name in STUDENTS:
        network = build(name, **options)
    elif factory:
        network = _from_factory(package, factory, options)
    else:
        raise NeurordlError(
            f"{name!r} names no network: give package.module:factory, torchvision:NAME, timm:NAME or one of "
            f"{', '.join(STUDENTS)}"
        )
    if checkpoint is not None:
        load_weights(network, checkpoint)
    return network.eval()


def _from_factory(package: str, factory: str, options: Mapping[str, Any]) -> nn.Module:
    with _current_folder():
        try:
            made = getattr(importlib.import_module(package), factory)
        except ModuleNotFoundError as error:
            raise NeurordlError(
                f"{package}:{factory}: {error}; install it, or run where {package.partition('.')[0]}.py lies"
            ) from error
        except AttributeError as error:
            raise NeurordlError(f"the module {package} has no {factory!r}; check its name") from error
        except Exception as error:  # somebody's module may raise anything
            raise NeurordlError(f"the module {package} cannot be imported: {error!r}") from error
    if isinstance(made, nn.Module):
        return made
    try:
        network = made(**options)
    except Exception as error:
        raise NeurordlError(
            f"{package}:{factory} could not be called with {dict(options)}: {error!r}"
        ) from error
    if not isinstance(network, nn.Module):
        raise NeurordlError(
            f"{package}:{factory} gave {type(network).__name__}; it must return a torch.nn.Module"
        )
    return network


@contextmanager
def _current_folder() -> Iterator[None]:
    """Modules of the current folder can be imported, as with ``python -m``."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read weights into a network; nothing is unpickled.

    Parameters
    ----------
    network : torch.nn.Module
    path
        ``.safetensors``; ``.pth``, ``.pt`` or ``.ckpt`` of torch (read with ``weights_only``; the weights
        themselves, or under ``state_dict``, ``model_state_dict``, ``model`` or ``net``); ``.npz`` with an
        array for each name. A prefix that wrappers put before all names (``module.``) is dropped.

    Raises
    ------
    NeurordlError
        The file is missing, damaged or of another kind, or its names or shapes are not the network's.
    """
    source = Path(path)
    state = _read_state(source)
    own = network.state_dict()
    while not set(state) & set(own) and all(_PREFIX.match(name) for name in state):
        state = {_PREFIX.sub("", name): value for name, value in state.items()}
    missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    # batch norm's counter came late and does nothing in eval mode
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        told = [f"it lacks {', '.join(missing[:3])}"] if missing else []
        told += [f"it has {', '.join(unknown[:3])}, which the network has not"] if unknown else []
        raise NeurordlError(
            f"the weights in {source} are not those of this {type(network).__name__}: {' and '.join(told)} "
            f"({len(missing)} missing, {len(unknown)} unknown of {len(own)})"
        )
    shapes = {
        name: (tuple(state[name].shape), tuple(one.shape))
        for name, one in own.items()
        if name in state and not nn.parameter.is_lazy(one)
    }
    unfit = [name for name, (theirs, ours) in shapes.items() if theirs != ours]
    if unfit:
        theirs, ours = (" x ".join(map(str, shape)) or "one number" for shape in shapes[unfit[0]])
        raise NeurordlError(
            f"the weights in {source} do not fit this {type(network).__name__}: {unfit[0]} is {theirs} there "
            f"and {ours} in the network ({len(unfit)} of {len(own)} differ); make the network as the one "
            "that was trained: as many classes, channels and units"
        )
    try:
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise NeurordlError(f"the weights in {source} do not fit: {error}") from error


def _read_state(source: Path) -> dict[str, Tensor]:
    if not source.is_file():
        raise NeurordlError(f"there is no checkpoint {source}; check the path")
    kind = source.suffix.lower()
    try:
        if kind == ".safetensors":
            from safetensors.torch import load_file

            return load_file(source)
        if kind == ".npz":
            with np.load(source, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        if kind not in (".pth", ".pt", ".ckpt"):
            raise NeurordlError(
                f"{source} is no checkpoint that is read here: give .safetensors, .pth, .pt, .ckpt or .npz"
            )
        state = torch.load(source, map_location="cpu", weights_only=True)
    except NeurordlError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything, and so does what would unpickle
        short = str(error).splitlines()[0] if str(error) else repr(error)
        refused = type(error).__name__ == "UnpicklingError"
        pickled = (refused and "unsupported global" in str(error).lower()) or (
            kind == ".npz" and "allow_pickle" in short and zipfile.is_zipfile(source)
        )
        if pickled:
            raise NeurordlError(
                f"{source} holds pickled objects, which are not read; save the state_dict: "
                "torch.save(network.state_dict(), path)"
            ) from error
        # what torch and numpy say of such bytes is how to unpickle them
        told = "" if refused or "pickle" in short else f" ({short})"
        raise NeurordlError(
            f"cannot read {source}: it is damaged{told}; save or download it again"
        ) from error
    for key in _WITHIN:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(one, Tensor) for one in state.values()):
        raise NeurordlError(f"{source} holds no weights by name; save model.state_dict() with torch.save")
    return {str(name): value for name, value in state.items()}
