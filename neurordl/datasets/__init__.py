"""Public data sets by name: what is known about each (`REGISTRY`), downloads (`fetch`), and loaders.

They are stored in the folder that the environment variable NEURORDL_DATA names, or else in the user's cache.
The loaders are imported when one of them is first used (PEP 562), so that a list of the data sets costs
nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from neurordl.datasets.registry import REGISTRY as REGISTRY
from neurordl.datasets.registry import DataSet as DataSet
from neurordl.datasets.registry import File as File
from neurordl.datasets.registry import data_root as data_root
from neurordl.datasets.registry import fetch as fetch
from neurordl.datasets.registry import find_dataset as find_dataset
from neurordl.datasets.registry import folder_of as folder_of
from neurordl.datasets.registry import status as status

if TYPE_CHECKING:
    from neurordl.datasets.large.algonauts import *  # noqa: F403
    from neurordl.datasets.large.bold5000 import *  # noqa: F403
    from neurordl.datasets.large.nsd import *  # noqa: F403
    from neurordl.datasets.large.things import *  # noqa: F403
    from neurordl.datasets.loaders import *  # noqa: F403

_LOADERS = ("loaders", "large.nsd", "large.algonauts", "large.things", "large.bold5000")


def __getattr__(name: str) -> object:
    if not name.startswith("_"):
        for module in _LOADERS:
            defined = vars(import_module(f"{__name__}.{module}"))
            if name in defined:
                return defined[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    names = set(globals())
    for module in (import_module(f"{__name__}.{name}") for name in _LOADERS):
        public = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        defined = (
            key for key, value in public.items() if getattr(value, "__module__", "") == module.__name__
        )
        names |= {*defined, *filter(str.isupper, public)}
    return sorted(names)
