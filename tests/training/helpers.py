"""What the tests of training share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor

from neurordl import Batches, Execution, Optimization, Run, fit

_SIZES = {"batch_size": "labelled", "stimuli_batch": "stimuli"}


def fit_with(*streams: Any, **arguments: Any) -> Run:
    """`fit` without a progress bar, with the settings by name, so that a case can change a single one.

    ``lr=0.1`` goes into `Optimization`, ``checkpoint_every=2`` into `Execution`; ``batch_size=``,
    ``stimuli_batch=``, ``augment=`` and ``steps_per_epoch=`` go into `Batches`.
    """
    batches = {
        _SIZES.get(name, name): arguments.pop(name)
        for name in (*_SIZES, "augment", "steps_per_epoch")
        if name in arguments
    }
    settings: dict[str, Any] = {"batches": Batches(**batches)}
    for name, values in (("optimization", Optimization), ("execution", Execution)):
        chosen = {
            field.name: arguments.pop(field.name) for field in fields(values) if field.name in arguments
        }
        quiet = {"progress": False} if values is Execution else {}
        settings[name] = values(**{**quiet, **chosen})
    return fit(*streams, **settings, **arguments)


def step_of_size_one(parameters: Any) -> torch.optim.Optimizer:
    """After one step the weights have moved by the gradient."""
    return torch.optim.SGD(parameters, lr=1.0)


def launch(module: str, role: str, folder: Path) -> subprocess.Popen[str]:
    """Start a test module as a program in a role; what it prints is kept."""
    command = [sys.executable, "-m", f"tests.training.{module}", role, str(folder)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root)


def save_rank(folder: Path, rank: int, weights: Mapping[str, Tensor], run: Run) -> None:
    """Keep what one of several processes ended with."""
    safetensors.torch.save_file(dict(weights), folder / f"{rank}.safetensors")
    run.history.to_csv(folder / f"{rank}.csv", index=False)


def assert_as_in_one_process(folder: Path, weights: Mapping[str, Tensor], run: Run) -> None:
    """Two processes have the weights and the history of one."""
    for rank in range(2):
        other = safetensors.torch.load_file(folder / f"{rank}.safetensors")
        assert set(other) == set(weights)
        for name, value in weights.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)
        history = pd.read_csv(folder / f"{rank}.csv").drop(columns="seconds")
        pd.testing.assert_frame_equal(history, run.history.drop(columns="seconds"), rtol=0, atol=1e-5)
