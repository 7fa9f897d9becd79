"""Names of a network's layers: names, globs, "all" and "top" to the layers that they stand for."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence

from torch import nn

from neurordl.errors import NeurordlError

__all__ = ["OUTPUT", "layer_names", "resolve_layers", "top_layers"]

OUTPUT = ""
"""The name of a model's own output, as in ``named_modules()``."""

_NEAR = 3  # names that an error shows: of numbered layers nearly all are alike

# These containers are never called, so nothing can be read from them.
_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def layer_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be read, as in ``model.named_modules()``.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    list of str
        In the order in which the modules were registered, without the model itself and without
        containers that are never called (``ModuleList`` and the like).
    """
    return [name for name, module in model.named_modules() if name and not isinstance(module, _NEVER_CALLED)]


def top_layers(model: nn.Module) -> list[str]:
    """Names of the layers that stand in no other layer: one name for each stage of most networks.

    A container that is never called, and the only child of a model that wraps another, are looked into.
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
    layers : str or sequence of str
        Names from ``model.named_modules()``, globs over them (``"features.*"``), ``"all"``, ``"top"``
        (those that stand in no other layer), or ``""`` for the model's own output.

    Returns
    -------
    list of str
        In the order asked for; what a glob finds is in the model's order. Each name once.

    Raises
    ------
    NeurordlError
        If a name or glob matches no layer; the nearest are named.
    """
    known = layer_names(model)
    wanted = layers.split(",") if isinstance(layers, str) else list(layers)
    if not wanted:
        raise NeurordlError(
            "no layer was asked for: give names from model.named_modules(), a glob, 'all' or 'top'"
        )
    found: list[str] = []
    for name in wanted:
        if name in ("all", "top") and name not in known:
            found.extend(known if name == "all" else top_layers(model))
        elif name == OUTPUT or name in known:
            found.append(name)
        elif hits := fnmatch.filter(known, name):
            found.extend(hits)
        else:
            near = difflib.get_close_matches(name, known, n=_NEAR)
            some = f"nearest: {', '.join(near)}" if near else f"the first: {', '.join(known[:_NEAR])}"
            raise NeurordlError(
                f"the model ({type(model).__name__}) has no layer {name!r}; {some}. All {len(known)} names: "
                "neurordl.patterns.layers.layer_names(model)"
            )
    return list(dict.fromkeys(found))
