"""What the tests of training share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

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
