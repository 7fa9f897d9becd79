"""Fit a student: to labels and to its teachers' representational geometry."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.io import check_run_folder
from neurordl.measures.comparisons import few_pairs
from neurordl.stimuli import StimulusSet
from neurordl.teachers.base import spelled
from neurordl.training.fitter import Fitter
from neurordl.training.folder import RunFolder, describe_fit
from neurordl.training.objective import Objective
from neurordl.training.optimisation import Execution, Optimization, optimizer_of, scheduler_of
from neurordl.training.run import Run
from neurordl.training.streams import FEWEST, Batches, Labelled, LoaderStream, SetStream, labelled_stream
from neurordl.validate import check_count


def fit(
    student: nn.Module,
    objective: Objective,
    labelled: Labelled | None = None,
    stimuli: StimulusSet | None = None,
    epochs: int = 20,
    *,
    seed: int = 0,
    validation: StimulusSet | float | None = None,
    batches: Batches = Batches(),  # noqa: B008
    optimization: Optimization = Optimization(),  # noqa: B008
    execution: Execution = Execution(),  # noqa: B008
    out: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Train a student on labels and on its teachers' representational geometry.

    Each step takes a batch of labelled images and a batch of stimuli. An epoch is one pass through the
    longer of the two streams; the shorter one starts again. Without `stimuli`, the labelled images are the
    stimuli. The same seed gives the same student, whatever the order of the images in their sets. The student
    is trained in place.

    Parameters
    ----------
    student : torch.nn.Module
        Network (n, channels, height, width) -> (n, classes).
    objective : Objective
        Task loss and transfer losses.
    labelled : StimulusSet with labels, DataLoader, Dataset, or sized iterable of batches
        Labelled images. Batches are (images, labels) or (images, labels, ids).
    stimuli : StimulusSet, optional
        Training stimuli of the teachers. Leave out the held-out ones before (``stimuli.split``).
    epochs : int
        Passes through the longer stream.
    seed : int
        Seed of data order, augmentation and dropout. It does not set the student's initial weights: call
        ``torch.manual_seed`` before you make the student.
    validation : StimulusSet, or share of the stimuli, optional
        Stimuli that are not trained on and that choose the best epoch: the one with the lowest sum of
        transfer losses. The run's student has the weights of that epoch; the weights of the last epoch are
        kept in the folder, if there is one.
    batches : Batches
        Batch sizes and augmentation.
    optimization : Optimization
        Optimizer, learning rate, schedule, gradient clipping and batch norm.
    execution : Execution
        Device, processes, precision, checkpoints and progress bar.
    out : path, optional
        New folder for ``run.json``, ``history.csv``, checkpoints and weights. None writes nothing.
    resume : bool
        Continue exactly from the checkpoint in `out`, start a new run if there is none, and return a finished
        run as it is. (A DataLoader with persistent workers cannot be continued exactly.)

    Returns
    -------
    Run
        The student with its history and its record.

    Raises
    ------
    NeurordlError
        If ids, labels, layers or image sizes do not fit, the folder holds another run, or the loss is not
        finite. A run that fails before its first checkpoint leaves nothing in the folder.
    """
    check_count("seed", seed, 0)
    check_count("epochs", epochs)
    if out is None and (resume or execution.checkpoint_every is not None):
        raise NeurordlError("resume= and checkpoint_every= need the folder of the run: pass out= too")
    if out is not None:
        check_run_folder(out, resume)  # again when the record is known; now, before anything takes time
    fabric = _fabric(execution, objective)
    batchnorm = optimization.batchnorm
    rank, world = fabric.global_rank, fabric.world_size
    train, held = _split_validation(stimuli, validation, seed)
    _check_streams(objective, labelled, train, held)
    labels: SetStream | LoaderStream | None = None
    if labelled is not None:
        share = partial(fabric.setup_dataloaders, move_to_device=False)
        labels = labelled_stream(labelled, batches.labelled, seed, batches.augment, rank, world, share)
    # Matched once, before the first step; without stimuli, ids come with the labelled images.
    source = train if train is not None else labelled if isinstance(labelled, StimulusSet) else None
    matches = objective.prepare(
        source.ids if source is not None else None, held.ids if held is not None else None
    )
    images = None
    if train is not None and objective.losses:
        groups = objective.groups(train.ids)
        images = SetStream(
            train, batches.stimuli, seed, kind=1, groups=groups, smallest=FEWEST, rank=rank, world=world
        )
    steps = max(len(stream) for stream in (labels, images) if stream is not None)
    fitter = Fitter(fabric, student, objective, labels, images, held, steps, epochs, seed)
    fitter.clip_norm, fitter.checkpoint_every = optimization.clip_norm, execution.checkpoint_every
    deterministic = execution.deterministic
    with _quietly(deterministic if deterministic is not None else fabric.device.type == "cpu"):
        fitter.look_first(batchnorm)
        made = optimizer_of(student, optimization)
        fitter.set_up(made, scheduler_of(made, optimization.scheduler, steps * epochs), batchnorm)
        settings = {
            "seed": seed,
            "epochs": epochs,
            "steps_per_epoch": steps,
            "batch_size": batches.labelled,
            "stimuli_batch": batches.stimuli,
            "batchnorm": batchnorm,
            "clip_norm": optimization.clip_norm,
            "augment": spelled(batches.augment),
            "scheduler": spelled(optimization.scheduler),
            "precision": str(fabric.strategy.precision.precision),
            "processes": world,
        }
        record = describe_fit(settings, student, objective, made, labelled, train, held, matches)
        fitter.record = record
        fitter.folder = RunFolder(out, record, resume, writes=rank == 0) if out is not None else None
        if rank == 0:
            _warn_of_few(train, held)
        fitter.run(execution.progress and rank == 0)
    return Run(student.eval(), pd.DataFrame(fitter.history), record, Path(out) if out is not None else None)


def _fabric(execution: Execution, objective: Objective) -> Fabric:
    """The launched fabric: the user's own, or one of these settings."""
    fabric = execution.fabric
    if fabric is None:
        devices = execution.devices
        single = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
        strategy: Any = "auto" if single else DDPStrategy(find_unused_parameters=objective.task is None)
        chosen = {"accelerator": execution.accelerator, "devices": devices, "precision": execution.precision}
        try:
            fabric = Fabric(strategy=strategy, **chosen)
        except Exception as error:
            settings = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
            raise NeurordlError(f"{settings} cannot be used on this machine: {error}") from error
    if not getattr(fabric, "_launched", False):
        fabric.launch()
    return fabric


def _split_validation(
    stimuli: StimulusSet | None, validation: StimulusSet | float | None, seed: int
) -> tuple[StimulusSet | None, StimulusSet | None]:
    """Training and validation stimuli, which share none."""
    if validation is None:
        return stimuli, None
    if stimuli is None:
        raise NeurordlError("validation= chooses the epoch on stimuli; pass stimuli= too")
    if not isinstance(validation, StimulusSet):
        train, held = stimuli.split(held_out=validation, seed=seed)
        return replace(train, held_out_ids=stimuli.held_out_ids), held
    if shared := set(stimuli.ids) & set(validation.ids):
        some = ", ".join(sorted(shared, key=natural_key)[:5])
        raise NeurordlError(
            f"validation: {len(shared)} stimuli are also trained on ({some}); split them first"
        )
    if validation.preprocessing != stimuli.preprocessing:
        raise NeurordlError(
            f"validation: its images are prepared otherwise ({validation.preprocessing}) than those trained "
            f"on ({stimuli.preprocessing}); prepare them alike"
        )
    return stimuli, validation


def _check_streams(
    objective: Objective, labelled: Labelled | None, stimuli: StimulusSet | None, held: StimulusSet | None
) -> None:
    """Whether the streams are those that the objective needs."""
    if labelled is None and (objective.task is not None or stimuli is None):
        raise NeurordlError("fit: pass labelled= (or stimuli= and an objective with task=None)")
    if labelled is not None and objective.task is None and stimuli is not None:
        raise NeurordlError("fit: the objective has no task, so labelled= would not be used; leave it out")
    if held is not None and not objective.losses:
        raise NeurordlError(
            "validation= chooses the epoch by the transfer losses, and this objective has none; leave it out"
        )
    if stimuli is not None and len(stimuli) < FEWEST:
        raise NeurordlError(
            f"stimuli: {len(stimuli)} are too few for an RDM to be compared; {FEWEST} or more are needed"
        )


def _warn_of_few(train: StimulusSet | None, held: StimulusSet | None) -> None:
    """Say where what was left out is too little to be scored, or chosen by."""
    away = {"held-out": train.held_out_ids if train else (), "validation": held.ids if held else ()}
    for name, ids in away.items():
        if ids and (told := few_pairs(len(ids), len(ids) * (len(ids) - 1) // 2)):
            warnings.warn(f"{name} stimuli: {told}", stacklevel=3)


@contextmanager
def _quietly(deterministic: bool) -> Iterator[None]:
    """Deterministic algorithms where asked; the caller's random state and setting are put back."""
    others = random.getstate(), np.random.get_state()  # noqa: NPY002
    before, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        with torch.random.fork_rng():
            torch.use_deterministic_algorithms(deterministic or before, warn_only=warn)
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)
        random.setstate(others[0])
        np.random.set_state(others[1])  # noqa: NPY002
