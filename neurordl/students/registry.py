"""Students by name: the networks here, and those of torchvision and timm."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from neurordl.errors import NeurordlError
from neurordl.students.networks import mlp, nin, resnet18, small_cnn, with_spec

STUDENTS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "nin": nin,
    "resnet18": resnet18,
    "mlp": mlp,
}


def build(
    name: str,
    num_classes: int = 10,
    in_channels: int = 3,
    *,
    image_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> nn.Module:
    """Build a student by name: a module (n, in_channels, height, width) -> (n, num_classes).

    Parameters
    ----------
    name : str
        A key of ``STUDENTS``, or ``"torchvision:NAME"`` or ``"timm:NAME"`` for a network of those packages.
    num_classes, in_channels, image_size
        Logits; channels and size of the images (the size only matters to an ``mlp``).
    **options
        Passed on. Networks of torchvision and timm are untrained unless an option says otherwise.

    Raises
    ------
    NeurordlError
        An unknown name (with near matches) or option; a package that is missing or does not load.
    """
    if min(num_classes, in_channels) < 1:
        raise NeurordlError(f"a student needs classes and channels, but got {num_classes} and {in_channels}.")
    package, _, network = name.partition(":")
    if network and package in ("torchvision", "timm"):
        student = _from_package(package, network, num_classes, in_channels, options)
        return with_spec(student, name=name, num_classes=num_classes, in_channels=in_channels, **options)
    if name not in STUDENTS:
        raise NeurordlError(
            f"no student is called {name!r}{_near(name, STUDENTS)}. There are {', '.join(STUDENTS)}, and the "
            "networks of torchvision and timm as torchvision:NAME and timm:NAME."
        )
    accepted = list(inspect.signature(STUDENTS[name]).parameters)[2:]
    unknown = sorted(set(options) - set(accepted))
    if unknown:
        raise NeurordlError(f"{name} has no option {', '.join(unknown)}; it takes {', '.join(accepted)}.")
    if image_size is not None and "image_size" in accepted:
        options["image_size"] = image_size
    return STUDENTS[name](num_classes, in_channels, **options)


def _near(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _from_package(package: str, name: str, classes: int, channels: int, options: dict[str, Any]) -> nn.Module:
    """Build a network of torchvision or timm; what the package refuses is raised again in our words."""
    library = _load(package)
    if package == "timm":
        known, make = library.list_models(), library.create_model
        options = {"in_chans": channels, **options}
    else:
        known, make = library.models.list_models(module=library.models), library.models.get_model
        if channels != 3:
            raise NeurordlError(f"torchvision:{name} takes images of 3 channels, but these have {channels}.")
    if name.partition(".")[0] not in known:  # timm names trained weights as network.weights
        raise NeurordlError(f"{package} has no classification network {name!r}{_near(name, known)}.")
    try:
        network: nn.Module = make(name, num_classes=classes, **options)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        given = {"num_classes": classes, **options}
        raise NeurordlError(f"{package}:{name} could not be built with {given}: {error}") from error
    return network


def _load(package: str) -> ModuleType:
    """Import an optional package, or say what to install."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        remedy = f"{package} is not installed: pip install 'neurordl[{package}]'"
        if not isinstance(error, ModuleNotFoundError) or error.name != package:
            # Most often a torchvision of another build than torch: CUDA beside CPU-only, another version.
            remedy = (
                f"{package} is installed but does not load beside torch {torch.__version__} ({error}): "
                "install what it lacks; torchvision must be made for this very torch (https://pytorch.org/get-started)"
            )
        raise NeurordlError(f"{remedy}.") from error
