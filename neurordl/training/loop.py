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
from neurordl.rsa.notes import few_pairs
from neurordl.stimuli import StimulusSet
from neurordl.teachers.base import spelled
from neurordl.training.fitter import Fitter
from neurordl.training.folder import RunFolder, describe_fit
from neurordl.training.objective import BatchNorm, Objective
from neurordl.training.optimisation import MakeOptimizer, Scheduler, optimizer_of, scheduler_of
from neurordl.training.run import Run
from neurordl.training.streams import FEWEST, Augment, Labelled, LoaderStream, SetStream, labelled_stream


def fit(
    student: nn.Module,
    objective: Objective,
    labelled: Labelled | None = None,
    stimuli: StimulusSet | None = None,
    epochs: int = 20,
    *,
    seed: int = 0,
    out: str | Path | None = None,
    validation: StimulusSet | float | None = None,
    batch_size: int = 128,
    stimuli_batch: int = 64,
    augment: Augment | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    optimizer: MakeOptimizer | None = None,
    scheduler: Scheduler = "cosine",
    clip_norm: float | None = None,
    batchnorm: BatchNorm = "labelled",
    fabric: Fabric | None = None,
    accelerator: str = "auto",
    devices: int | list[int] = 1,
    precision: Any = "32-true",
    deterministic: bool | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train a student on labels and on its teachers' representational geometry.

    Labelled and stimulus batches run together; the shorter stream starts again, and an epoch is one pass of
    the longer one. Without `stimuli`, the labelled images are the stimuli. With the same seed, the same
    stimuli in another order give the same student. The student is trained in place.

    Parameters
    ----------
    student : torch.nn.Module
        (n, channels, height, width) -> (n, classes).
    objective : Objective
    labelled : StimulusSet with labels, DataLoader, Dataset, or sized iterable of batches
        Batches are (images, labels) or (images, labels, ids).
    stimuli : StimulusSet, optional
        The training stimuli of the teachers. Held-out ones are left out before (``stimuli.split``).
    epochs : int
    seed : int
        Of order, augmentation and dropout. The student's initial weights are yours: seed before you make it.
    out : path, optional
        A new folder for ``run.json``, ``history.csv``, checkpoints and weights. None writes nothing.
    validation : StimulusSet, or share of the stimuli, optional
        Stimuli kept from training on which the best epoch is chosen: the lowest sum of transfer losses. The
        run's student then has that epoch's weights; the last epoch's are kept in the folder, if there is one.
    batch_size, stimuli_batch : int
        Of a StimulusSet or Dataset, and of the stimuli; over all processes. A loader brings its own, per
        process.
    augment : callable, optional
        Applied to the images of a labelled StimulusSet: Tensor -> Tensor.
    lr, weight_decay : float
        Of the default optimiser, AdamW: 1e-3 and 1e-4 by default.
    optimizer : callable, optional
        parameters -> optimizer, in place of the default; it brings its own `lr` and `weight_decay`.
    scheduler : "cosine", "constant", or callable
        Steps every step: (optimizer, number of steps) -> scheduler, one that needs no metric.
    clip_norm : float, optional
        Clip gradients to this norm.
    batchnorm : {"labelled", "stimuli", "both"}
        Which stream normalises by its own batches and updates the running statistics, where there are two.
        By default the labelled one: stimulus batches are small and of other images, and the student meets
        them in evaluation with the running statistics, so that is how their geometry is fitted.
    fabric : lightning_fabric.Fabric, optional
        Your own, in place of `accelerator`, `devices` and `precision`. With several processes, RDM losses
        are taken over the batch of all processes (an objective with ``task=None`` then wants a strategy that
        finds unused parameters).
    deterministic : bool, optional
        Use deterministic algorithms; on the CPU by default.
    checkpoint_every : int, optional
        Steps between checkpoints, besides the one at each epoch's end.
    resume : bool
        Go on from the folder's checkpoint, exactly (but for a loader with persistent workers, whose random
        state is lost); a new run if it has none; nothing to do if it has finished.
    progress : bool
        Show a progress bar with the terms.

    Returns
    -------
    Run

    Raises
    ------
    NeurordlError
        If ids, labels, layers or image sizes do not fit, the folder holds another run, or the loss is not
        finite. A run that fails before its first checkpoint leaves nothing in the folder.
    """
    if seed < 0 or epochs < 1:
        raise NeurordlError(f"seed={seed}, epochs={epochs}: expected a seed from 0, at least one epoch")
    _check_options(clip_norm, checkpoint_every, resume, out)
    if fabric is None:
        fabric = _fabric(accelerator, devices, precision, objective)
    elif (accelerator, devices, precision) != ("auto", 1, "32-true"):
        raise NeurordlError(
            "accelerator=, devices=, precision= are those of the default fabric; set them in your own fabric="
        )
    if not getattr(fabric, "_launched", False):
        fabric.launch()
    rank, world = fabric.global_rank, fabric.world_size
    train, held = _split_validation(stimuli, validation, seed)
    _check_streams(objective, labelled, train, held)
    labels: SetStream | LoaderStream | None = None
    if labelled is not None:
        share = partial(fabric.setup_dataloaders, move_to_device=False)
        labels = labelled_stream(labelled, batch_size, seed, augment, rank, world, share)
    # Matched once, before the first step; without stimuli, ids come with the labelled images.
    source = train if train is not None else labelled if isinstance(labelled, StimulusSet) else None
    matches = objective.prepare(
        source.ids if source is not None else None, held.ids if held is not None else None
    )
    images = None
    if train is not None and objective.losses:
        groups = objective.groups(train.ids)
        images = SetStream(
            train, stimuli_batch, seed, kind=1, groups=groups, smallest=FEWEST, rank=rank, world=world
        )
    steps = max(len(stream) for stream in (labels, images) if stream is not None)
    fitter = Fitter(fabric, student, objective, labels, images, held, steps, epochs, seed)
    fitter.clip_norm, fitter.checkpoint_every = clip_norm, checkpoint_every
    with _quietly(deterministic if deterministic is not None else fabric.device.type == "cpu"):
        fitter.look_first(batchnorm)
        made = optimizer_of(student, optimizer, lr, weight_decay)
        fitter.set_up(made, scheduler_of(made, scheduler, steps * epochs), batchnorm)
        settings = {
            "seed": seed,
            "epochs": epochs,
            "steps_per_epoch": steps,
            "batch_size": batch_size,
            "stimuli_batch": stimuli_batch,
            "batchnorm": batchnorm,
            "clip_norm": clip_norm,
            "augment": spelled(augment),
            "scheduler": spelled(scheduler),
            "precision": str(fabric.strategy.precision.precision),
            "processes": world,
        }
        record = describe_fit(settings, student, objective, made, labelled, train, held, matches)
        fitter.record = record
        fitter.folder = RunFolder(out, record, resume, writes=rank == 0) if out is not None else None
        if rank == 0:
            _warn_of_few(train, held)
        fitter.run(progress and rank == 0)
    return Run(student.eval(), pd.DataFrame(fitter.history), record, Path(out) if out is not None else None)


def _check_options(
    clip_norm: float | None, checkpoint_every: int | None, resume: bool, out: str | Path | None
) -> None:
    """Refuse values under which nothing would be trained or kept, without a word."""
    if clip_norm is not None and not clip_norm > 0:
        raise NeurordlError(f"clip_norm={clip_norm}: expected a number above 0, or None not to clip")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise NeurordlError(f"checkpoint_every={checkpoint_every}: expected one step or more")
    if out is None and (resume or checkpoint_every is not None):
        raise NeurordlError("resume= and checkpoint_every= need the folder of the run: pass out= too")
    if out is not None:
        check_run_folder(out, resume)  # again when the record is known; now, before anything takes time


def _fabric(accelerator: str, devices: int | list[int], precision: Any, objective: Objective) -> Fabric:
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    strategy: Any = "auto" if one else DDPStrategy(find_unused_parameters=objective.task is None)
    try:
        return Fabric(accelerator=accelerator, devices=devices, strategy=strategy, precision=precision)
    except Exception as error:
        raise NeurordlError(
            f"accelerator={accelerator!r}, devices={devices!r}, precision={precision!r} cannot be had here: "
            f"{error}"
        ) from error


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
