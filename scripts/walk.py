"""Print the modules through which `evaluate` and `compute_rdms` pass, and the functions that they call.

    python scripts/walk.py [--functions]

docs/map.md draws both walks. Called functions are recorded while a small example runs. The lowest modules of
the package (errors, checks, arrays, files and ids), which all others use, are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rsatoolbox.data import Dataset
from rsatoolbox.rdm.rdms import RDMs

import neurordl as nrl
from neurordl.simulate import Measurement, simulate_patterns, simulate_subjects

PACKAGE = Path(nrl.__file__).parent
LOWEST = {"", "errors", "validate", "arrays", "io", "ids"}


def walk(call: Callable[[], Any]) -> dict[str, list[str]]:
    """Modules, in the order in which a call enters them, and the functions that it calls in each."""
    modules: dict[str, list[str]] = {}

    def record(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or PACKAGE not in path.parents or frame.f_code.co_name.startswith("<"):
            return
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).replace("__init__", "")
        functions = modules.setdefault(module, [])
        if frame.f_code.co_name not in functions:
            functions.append(frame.f_code.co_name)

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    return {module: functions for module, functions in modules.items() if module not in LOWEST}


def walks() -> dict[str, dict[str, list[str]]]:
    """The walks of `evaluate`, with model RDMs and a bootstrap, and of `compute_rdms`, with runs."""
    rng = np.random.default_rng(0)
    ids = [f"im{number}" for number in range(12)]
    geometry = rng.normal(size=(12, 6))
    patterns = simulate_patterns(geometry, ids, 5, measurement=Measurement(runs=3), seed=0)
    rdms = simulate_subjects(geometry, ids, 5, seed=0)
    model: RDMs = nrl.compute_rdms(Dataset(geometry, obs_descriptors={"stimulus": ids}), "euclidean")
    calls: dict[str, Callable[[], Any]] = {
        "evaluate": lambda: nrl.evaluate({"model": model}, rdms, bootstrap=nrl.Bootstrap("both", n=20)),
        "compute_rdms": lambda: nrl.compute_rdms(patterns, "crossnobis"),
    }
    for call in calls.values():
        call()  # imports and compiled functions come first
    return {name: walk(call) for name, call in calls.items()}


def main() -> None:
    """Print both walks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", action="store_true", help="name the functions, too")
    arguments = parser.parse_args()
    for name, modules in walks().items():
        print(f"{name}: {len(modules)} modules, {sum(map(len, modules.values()))} functions")
        for module, functions in modules.items():
            print(f"  {module}", *(["-", ", ".join(functions)] if arguments.functions else []))


if __name__ == "__main__":
    main()
