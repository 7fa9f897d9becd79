"""Networks by name (of this package, of torchvision and timm, or your own), and weights from a file."""

from __future__ import annotations

import ast
import copy
import difflib
import importlib.util
import inspect
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from neurordl.errors import NeurordlError, explain
from neurordl.io import sha256_state
from neurordl.students.networks import cifar_resnet, mlp, nin, resnet18, small_cnn, with_spec
from neurordl.validate import check_count, listed

TRAINED_ON = "trained_on"
"""Attribute of a trained network, and entry of files with its weights: what `fit` has shown to it."""

READ_FROM = "read_from"
"""Attribute of a network whose weights `load_weights` has read: the name of the file, and their checksum."""

STUDENTS: dict[str, Callable[..., nn.Module]] = {
    net.__name__: net for net in (small_cnn, nin, cifar_resnet, resnet18, mlp)
}
_PACKAGES = ("torchvision", "timm")
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")  # .npz may hold RDMs

# Where training code keeps the weights within a checkpoint, and the prefixes that wrappers add to names.
_WITHIN = ("state_dict", "model_state_dict", "model", "net")
_PREFIX = re.compile(r"^(module|_orig_mod|model)\.")


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
    num_classes : int
        Number of outputs.
    in_channels : int
        Channels of the images.
    image_size : int or (int, int), optional
        Height and width of the images, which only an ``mlp`` needs.
    **options
        Further arguments of the network. Networks of torchvision and timm are untrained unless an option
        asks for trained weights.

    Returns
    -------
    torch.nn.Module
        The network, with random weights.

    Raises
    ------
    NeurordlError
        If the name is unknown (the nearest are listed), an option is unknown, or a package is missing or does
        not load.

    Examples
    --------
    >>> import neurordl as nrl
    >>> type(nrl.students.build("small_cnn", num_classes=4)).__name__
    'Sequential'
    """
    check_count("num_classes", num_classes)
    check_count("in_channels", in_channels)
    package, _, network = name.partition(":")
    if network and package in _PACKAGES:
        student = _from_package(package, network, num_classes, in_channels, options)
        return with_spec(student, name=name, num_classes=num_classes, in_channels=in_channels, **options)
    if name not in STUDENTS:
        known = f"{', '.join(STUDENTS)}, torchvision:NAME or timm:NAME"
        raise NeurordlError(f"no student is called {name!r}{_near(name, STUDENTS)}; expected {known}")
    accepted = list(inspect.signature(STUDENTS[name]).parameters)[2:]
    if unknown := sorted(set(options) - set(accepted)):
        raise NeurordlError(f"{name} has no option {', '.join(unknown)}; it takes {', '.join(accepted)}")
    if image_size is not None and "image_size" in accepted:
        options["image_size"] = image_size
    return STUDENTS[name](num_classes, in_channels, **options)


def _near(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=3)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _from_package(
    package: str, name: str, classes: int, channels: int, options: Mapping[str, Any]
) -> nn.Module:
    """Build a network of torchvision or timm."""
    library = _import(package)
    if package == "timm":
        known, make = library.list_models(), library.create_model
        options = {"in_chans": channels, **options}
    else:
        known, make = library.models.list_models(module=library.models), library.models.get_model
        if channels != 3:
            raise NeurordlError(f"torchvision:{name} takes images of 3 channels, but these have {channels}")
    if name.partition(".")[0] not in known:  # timm names trained weights as network.weights
        raise NeurordlError(f"{package} has no classification network {name!r}{_near(name, known)}")
    options = {"num_classes": classes, **options}
    try:
        network: nn.Module = make(name, **options)
    except OSError as error:  # those of urllib and of huggingface_hub are of this type
        problem = f"{package}:{name}: its trained weights could not be downloaded ({error})"
        remedy = "connect to the internet once, or give a file with the weights as checkpoint"
        raise NeurordlError(f"{problem}; {remedy}") from error
    except Exception as error:
        raise NeurordlError(f"{package}:{name} could not be built with {options}: {error}") from error
    return network


def _import(package: str) -> ModuleType:
    """Import an optional package; the error says what to install."""
    try:
        return importlib.import_module(package)
    except (ImportError, OSError, RuntimeError) as error:
        remedy = f"{package} is not installed: pip install {package}"
        if not isinstance(error, ModuleNotFoundError) or error.name != package:
            # Most often a torchvision of another build than torch: CUDA beside CPU-only, another version.
            remedy = f"{package} cannot be loaded with torch {torch.__version__} ({error}): install what is "
            remedy += "missing, and the torchvision for this torch (pytorch.org/get-started)"
        raise NeurordlError(remedy) from error


def load_network(
    name: str, checkpoint: str | os.PathLike[str] | None = None, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Make a network, in eval mode.

    Parameters
    ----------
    name : str
        ``"package.module:factory"`` for a function of your own that returns a module (importable, or in the
        current folder), or ``"path/to/file.py:factory"``; ``"torchvision:NAME"``, ``"timm:NAME"``; or one of
        ``STUDENTS``.
    checkpoint : path, optional
        File with the weights: .safetensors; .pth, .pt or .ckpt of torch; or .npz.

        See `load_weights`.
    pretrained : bool
        Use the trained weights of torchvision or timm, which they download.
    **options
        Further arguments of the factory or of `build`.

    Returns
    -------
    torch.nn.Module
        The network.

    Raises
    ------
    NeurordlError
        If the name leads to no network, or the weights do not fit.
    """
    package, _, factory = name.partition(":")
    if factory and package in _PACKAGES:
        if pretrained:
            options |= {"weights": "DEFAULT"} if package == "torchvision" else {"pretrained": True}
        network = build(name, **{"num_classes": 1000, **options})
    elif pretrained:
        raise NeurordlError(f"{name} has no trained weights of its own; give a checkpoint")
    elif name in STUDENTS:
        network = build(name, **options)
    elif factory:
        network = _from_factory(package, factory, options)
    elif is_file_of_network(name):
        raise NeurordlError(explain_file(name))
    else:
        known = "package.module:factory, FILE.py:factory, torchvision:NAME, timm:NAME or one of "
        known += ", ".join(STUDENTS)
        raise NeurordlError(f"{name!r} is not the name of a network{_near(name, STUDENTS)}; expected {known}")
    if checkpoint is not None:
        load_weights(network, checkpoint)
    return network.eval()


def is_file_of_network(name: str) -> bool:
    """Whether what should be the name of a network is a file with its code, or with its weights."""
    return Path(name).suffix.lower() in (".py", *_WEIGHTS)


def explain_file(name: str) -> str:
    """Say how a network is named whose code, or whose weights, a file has; the file is not run."""
    path = Path(name)
    weights = path.suffix.lower() != ".py"
    problem = f"{name} is a file of weights, which is read into a network" if weights else f"{name} is a file"
    code = path.with_suffix(".py") if weights else path
    if not path.is_file():
        return f"there is no file {name}; check the path"
    names = _definitions(code) if code.is_file() else []
    shown = f"{code}:{names[0]}" if names else f"{code if not weights else 'FILE.py'}:NAME"
    remedy = f"write {shown}" + (f", or another of {listed(names[1:])}" if names[1:] else "")
    if not weights and not names:
        remedy = "write FILE.py:NAME for a function or a class that makes the network; this file defines none"
    return f"{problem}; {remedy}{f', with {name} as checkpoint' if weights else ''}"


def _definitions(path: Path) -> list[str]:
    """Classes and functions that a file defines, classes of modules first, without running it."""
    with explain(f"{path} is no Python code"):
        body = ast.parse(path.read_text(encoding="utf-8-sig")).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    modules = [x.name for x in classes if any("Module" in ast.unparse(base) for base in x.bases)]
    functions = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    rest = [node.name for node in classes if node.name not in modules]
    return [x for x in (*modules, *functions, *rest) if not x.startswith("_")]


def is_own(name: str) -> bool:
    """Whether the name of a network is that of a function of a user's own, which takes no arguments."""
    package, _, factory = name.partition(":")
    return bool(factory) and package not in _PACKAGES


def _from_factory(package: str, factory: str, options: Mapping[str, Any]) -> nn.Module:
    file = Path(package).resolve() if package.endswith(".py") else None
    if file is not None and not file.is_file():
        raise NeurordlError(f"{package}:{factory}: there is no file {package}; check the path")
    folder = os.getcwd() if file is None else str(file.parent)
    sys.path.insert(0, folder)  # as with ``python -m`` and with ``python FILE``
    remedy = f"check the name, run in the folder of {package.partition('.')[0]}.py, or install it"
    try:
        with explain(f"{package}:{factory} cannot be imported", remedy=remedy if file is None else ""):
            module = importlib.import_module(package) if file is None else _import_file(file)
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
    if not hasattr(module, factory):
        names = [name for name, value in vars(module).items() if callable(value)]
        raise NeurordlError(f"{package} defines no {factory!r}{_near(factory, names)}; check the name")
    network = getattr(module, factory)
    with explain(f"{package}:{factory} could not be called with {dict(options)}"):
        network = copy.deepcopy(network) if isinstance(network, nn.Module) else network(**options)
    if not isinstance(network, nn.Module):
        raise NeurordlError(f"{package}:{factory} returned {type(network).__name__}, not a torch.nn.Module")
    return network


def _import_file(file: Path) -> ModuleType:
    """The module of a file, which is run once, whatever other modules are called."""
    name = str(file)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Read weights into a network. Files are never read with pickle, so that they cannot run code.

    Parameters
    ----------
    network : torch.nn.Module
        Network, which is changed in place.
    path : path
        ``.safetensors``; ``.pth``, ``.pt`` or ``.ckpt`` of torch (read with ``weights_only``), which hold the
        weights themselves, or under ``state_dict``, ``model_state_dict``, ``model`` or ``net``; or ``.npz``
        with an array for each name. A prefix that wrappers add to all names (``module.``) is dropped.

    Raises
    ------
    NeurordlError
        If the file is missing, damaged or of another type, or its names or shapes are not the network's.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from neurordl.students import load_weights, small_cnn
    >>> network, trained = small_cnn(), small_cnn()
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(trained.state_dict(), Path(folder) / "trained.pth")
    ...     load_weights(network, Path(folder) / "trained.pth")
    >>> torch.equal(network.conv1[0].weight, trained.conv1[0].weight)
    True
    """
    source, expected = Path(path), network.state_dict()
    state = _read_state(source)
    while state and not set(state) & set(expected) and all(_PREFIX.match(name) for name in state):
        state = {_PREFIX.sub("", name): value for name, value in state.items()}
    # Older checkpoints lack batch norm's counter, which does nothing in eval mode.
    absent = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    unknown = sorted(set(state) - set(expected))
    differences = [f"it lacks {listed(absent, 3)}"] if absent else []
    differences += [f"it has {listed(unknown, 3)}, unlike the network"] if unknown else []
    for name in (name for name in expected if name in state):
        if not nn.parameter.is_lazy(expected[name]) and state[name].shape != expected[name].shape:
            sizes = (" x ".join(map(str, it[name].shape)) or "one number" for it in (state, expected))
            differences.append("{} is {} in the file and {} in the network".format(name, *sizes))
    if differences:
        remedy = "make it with as many layers, classes, channels and units"
        remedy = _by_prefix(set(state), set(expected)) or (
            f"{remedy}, or load what there is with load_state_dict(weights, strict=False), and train the rest"
            if differences[1:] == [] and absent
            else remedy
        )
        raise NeurordlError(
            f"the weights in {source} are not those of this {type(network).__name__}: "
            f"{listed(differences, 3)}; {remedy}"
        )
    with explain(f"the weights in {source} do not fit", RuntimeError):
        network.load_state_dict(state, strict=False)
    setattr(network, TRAINED_ON, _trained_on(source))
    setattr(network, READ_FROM, (source.name, sha256_state(network.state_dict())))


def _by_prefix(names: set[str], expected: set[str]) -> str:
    """What to do where the names of weights are those of the network but for a prefix; else empty."""
    for name in sorted(names)[:1]:
        prefix = next((name.removesuffix(other) for other in expected if name.endswith(f".{other}")), "")
        if prefix and sum(x.removeprefix(prefix) in expected for x in names) > len(names) / 2:
            return (
                f"all names begin with {prefix!r}: cut it off, "
                f"weights = {{name.removeprefix({prefix!r}): value for name, value in weights.items()}}, and "
                "pass these to load_state_dict"
            )
    return ""


def _trained_on(source: Path) -> list[Any]:
    """What the weights of a file were trained on, if `fit` wrote it."""
    if source.suffix.lower() != ".safetensors":
        return []
    with (
        explain(f"{source} is damaged", remedy="get a good copy"),
        safe_open(source, "pt") as file,
    ):
        return list(json.loads((file.metadata() or {}).get(TRAINED_ON, "[]")))


def _read_state(source: Path) -> dict[str, Tensor]:
    suffix = source.suffix.lower()
    if not source.is_file():
        raise NeurordlError(f"there is no checkpoint {source}; check the path")
    if suffix not in (".safetensors", ".npz", ".pth", ".pt", ".ckpt"):
        raise NeurordlError(f"{source} is not a checkpoint of .safetensors, .pth, .pt, .ckpt or .npz")
    try:
        if suffix == ".safetensors":
            return load_file(source)
        if suffix == ".npz":
            with np.load(source, allow_pickle=False) as archive:
                return {name: torch.from_numpy(archive[name]) for name in archive.files}
        state = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise nearly any error, and so do pickled objects
        message = str(error) or repr(error)
        refused = type(error).__name__ == "UnpicklingError"
        pickled_array = suffix == ".npz" and "allow_pickle" in message and zipfile.is_zipfile(source)
        if pickled_array or (refused and "unsupported global" in message.lower()):
            remedy = "save the state_dict: torch.save(network.state_dict(), path)"
            raise NeurordlError(f"{source} contains pickled objects, which are not read; {remedy}") from error
        # The messages of torch and numpy about such bytes recommend unpickling them.
        detail = "" if refused or "pickle" in message else f" ({message.splitlines()[0]})"
        raise NeurordlError(f"cannot read {source}: it is damaged{detail}; get a good copy") from error
    for key in _WITHIN:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        entries = ""
        if isinstance(state, Mapping) and state:
            nested = [repr(key) for key, value in state.items() if isinstance(value, Mapping)]
            entries = f"; its entries are {listed(map(repr, state), 8)}"
            entries += f"; take the weights out, such as torch.load(path)[{nested[0]}]" if nested else ""
        raise NeurordlError(
            f"{source} contains no state_dict{entries}; save model.state_dict() with torch.save"
        )
    return {str(name): value for name, value in state.items()}
