"""Fit a student to labels and to its teachers' representational geometry."""

from __future__ import annotations

import copy
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.single_device import SingleDeviceStrategy
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, ReduceLROnPlateau

from neurordl.arrays import nan_mean
from neurordl.errors import NeurordlError, collect_notices, explain, notices, notify
from neurordl.ids import natural_key
from neurordl.io import RUN_RECORD, check_run_folder, sha256_array, versions, write_json
from neurordl.measures.comparisons import few_pairs
from neurordl.patterns.network import explain_unfit, frozen_eval, sha256_modules, unwrapped
from neurordl.rsa.leaks import check_exposures, count_identical
from neurordl.stimuli import Preprocessing, StimulusSet
from neurordl.stimuli.sets import check_stimuli, warn_of_absent
from neurordl.students.loading import TRAINED_ON
from neurordl.teachers import Batch
from neurordl.teachers.base import ById, Record, spelled
from neurordl.training.losses import RDMLoss, TransferLoss
from neurordl.training.objective import (
    BatchNorm,
    Objective,
    Processes,
    accuracy,
    class_scores,
    first_rows,
    has_batchnorm,
)
from neurordl.training.run import (
    CHECKPOINT_NAME,
    CHECKPOINT_SUM,
    START,
    Run,
    RunFolder,
    describe_start,
    exposures,
    recorded_setting,
)
from neurordl.training.streams import (
    FEWEST,
    Batches,
    Labelled,
    LoaderStream,
    Streams,
    as_trained,
    class_names,
    seed_all,
    tell_class_order,
)
from neurordl.validate import check_choice, check_count, check_number, check_type, listed

_AT_ONCE = 256  # validation images in a pass
_FITTED = "fitted_before"  # attribute of a loss whose parameters were trained
_ADDED_AT_ONCE = 64  # steps whose terms are added up together
_REFRESH = 0.1  # seconds between two states of the progress bar
_ALIKE = 10  # times the smallest validation loss that the largest may be without a notice
_LINES = 50  # of progress, at most, in a log
Scheduler = Callable[[Optimizer, int], LRScheduler] | Literal["cosine", "constant"]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Optimization:
    """How `fit` changes the student's weights.

    Attributes
    ----------
    optimizer : callable, optional
        Function parameters -> optimizer, with its own `lr` and `weight_decay`, such as
        ``lambda parameters: torch.optim.SGD(parameters, lr=0.1)``. AdamW by default.
    lr : float, optional
        Learning rate of AdamW; 1e-3 by default.
    weight_decay : float, optional
        Weight decay of AdamW; 1e-4 by default.
    scheduler : "cosine", "constant", or callable
        Schedule of the learning rate, which changes at each step.

        A callable is a function (optimizer, number of steps) -> scheduler, which must not need a metric.
    clip_norm : float, optional
        Norm to which gradients are clipped.
    batchnorm : {"labelled", "stimuli", "both", "joint"}, optional
        The images whose statistics batch norm uses, where a step has labelled images and stimuli. "labelled",
        "stimuli": the batches of that stream; the other one is normalized by the running statistics, as in
        evaluation. "both": each stream by its own batch. "joint": both streams pass as one batch.

        By default "joint" if all teachers are measured (`RDMTeacher`, `PatternTeacher`) and the images of
        both streams have one shape, otherwise "both": what a study of such students found best for each kind
        of teacher. Without losses the student sees, and has the statistics of, the labelled images only; the
        control with the statistics of a run with losses has the same losses with ``weight=0``, or a permuted
        teacher. The choice is in the run's record.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Optimization(lr=3e-4, scheduler="constant").lr
    0.0003
    """

    optimizer: MakeOptimizer | None = None
    lr: float | None = None
    weight_decay: float | None = None
    scheduler: Scheduler = "cosine"
    clip_norm: float | None = None
    batchnorm: BatchNorm | None = None

    def __post_init__(self) -> None:
        check_choice("batchnorm", self.batchnorm, (None, *get_args(BatchNorm)))
        if not callable(self.optimizer or torch.optim.AdamW):
            remedy = "write a function, such as lambda parameters: torch.optim.SGD(parameters, lr=0.1)"
            raise NeurordlError(f"optimizer: {type(self.optimizer).__name__} is not a function; {remedy}")
        if not callable(self.scheduler):
            remedy = "or give a function (optimizer, steps) -> scheduler"
            check_choice("scheduler", self.scheduler, ("cosine", "constant"), remedy)
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, 0, open_low=True)
        for name, value in (("lr", self.lr), ("weight_decay", self.weight_decay)):
            if value is not None:
                check_number(name, value, 0)
                if self.optimizer is not None:
                    raise NeurordlError("with your own optimizer=, set lr and weight_decay in the optimizer")

    def make_optimizer(self, module: nn.Module) -> Optimizer:
        """The optimizer of all parameters of a module that are trained."""
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if self.optimizer is not None:
            optimizer = self.optimizer(parameters)
            check_type("optimizer: the result of the function", optimizer, Optimizer)
            if isinstance(optimizer, torch.optim.LBFGS):
                problem = (
                    "optimizer: LBFGS computes the loss of a batch several times in a step, and fit once"
                )
                raise NeurordlError(f"{problem}; choose another, or write a loop of your own")
            return optimizer
        lr = 1e-3 if self.lr is None else self.lr
        weight_decay = 1e-4 if self.weight_decay is None else self.weight_decay
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def make_scheduler(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """The schedule of the learning rate over a number of steps."""
        if self.scheduler == "cosine":
            return CosineAnnealingLR(optimizer, max(steps, 1))
        if self.scheduler == "constant":
            return LambdaLR(optimizer, lambda _step: 1.0)
        scheduler = self.scheduler(optimizer, steps)
        if isinstance(scheduler, ReduceLROnPlateau):
            raise NeurordlError("scheduler: ReduceLROnPlateau needs a metric; choose another scheduler")
        if not (hasattr(scheduler, "step") and hasattr(scheduler, "state_dict")):
            raise NeurordlError(f"scheduler: the function returned {type(scheduler).__name__}, no scheduler")
        return scheduler


@dataclass(frozen=True)
class Execution:
    """Where `fit` runs, how often it writes checkpoints, and whether it shows its progress.

    Attributes
    ----------
    accelerator : str
        Type of device, as in ``lightning_fabric.Fabric``: "auto", "cpu", "cuda" or "mps".
    devices : int or list of int
        Number of devices, or a list of their indices. Each device has a process of its own, and an RDM loss
        is computed on the batch of all processes.
    num_nodes : int
        Number of machines, each with as many devices, for processes that a launcher such as torchrun starts.
    precision
        Numerical precision, as in ``lightning_fabric.Fabric``, such as "32-true", "bf16-mixed" or "64-true".

        The student is always passed in float32: "64-true" makes it double.
    fabric : lightning_fabric.Fabric, optional
        Your own fabric, in place of accelerator, devices and precision. Across several processes an objective
        with ``task=None`` needs ``DDPStrategy(find_unused_parameters=True)``.
    deterministic : bool, optional
        Use deterministic algorithms. By default they are used on the CPU only.
    checkpoint_every : int, optional
        Steps between checkpoints. One is always written at the end of each epoch.
    progress : bool
        Show a progress bar with the terms of the loss; in a log or a notebook, at most 50 lines.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Execution(accelerator="cpu", devices=2, progress=False).devices
    2
    """

    accelerator: str = "auto"
    devices: int | list[int] = 1
    num_nodes: int = 1
    precision: Any = "32-true"
    fabric: Fabric | None = None
    deterministic: bool | None = None
    checkpoint_every: int | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        chosen = (self.accelerator, self.devices, self.num_nodes, self.precision)
        check_count("num_nodes", self.num_nodes)
        if self.fabric is not None and chosen != ("auto", 1, 1, "32-true"):
            settings = "accelerator, devices, num_nodes and precision"
            raise NeurordlError(f"with your own fabric=, set {settings} in the fabric")
        if self.checkpoint_every is not None:
            check_count("checkpoint_every", self.checkpoint_every)

    def launch(self, objective: Objective) -> Fabric:
        """The launched fabric: the user's own, or one with these settings."""
        fabric = self.fabric
        if fabric is None:
            single = self._check_world() == 1
            strategy: Any = "auto" if single else DDPStrategy(find_unused_parameters=objective.task is None)
            names = ("accelerator", "devices", "num_nodes", "precision")
            chosen = {name: getattr(self, name) for name in names}
            settings = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
            with explain(f"{settings} cannot be used on this machine"):
                fabric = Fabric(strategy=strategy, **chosen)
        if not getattr(fabric, "_launched", False):
            fabric.launch()
        return fabric

    def _check_world(self) -> int:
        """The number of processes, which must be that of a launcher (torchrun) if there is one."""
        devices = len(self.devices) if isinstance(self.devices, list) else self.devices
        world, started = devices * self.num_nodes, os.environ.get("WORLD_SIZE", "")
        if isinstance(world, int) and world > 0 and started.isdigit() and int(started) not in (1, world):
            local = os.environ.get("LOCAL_WORLD_SIZE", started)
            nodes = max(1, int(started) // int(local)) if local.isdigit() and int(local) else 1
            problem = (
                f"a launcher started {started} processes (WORLD_SIZE), but {devices=} and {self.num_nodes=}"
            )
            remedy = f"pass execution=Execution(devices={int(started) // nodes}, num_nodes={nodes})"
            raise NeurordlError(f"{problem.replace('self.', '')} would make {world} of them; {remedy}")
        return world


@collect_notices()
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
    optimization: Optimization = Optimization(),
    execution: Execution = Execution(),
    out: str | Path | None = None,
    resume: bool = False,
) -> Run:
    """Train a student on labels and on its teachers' representational geometry.

    Each step takes a batch of labelled images and a batch of stimuli. An epoch is one pass through the
    longer of the two streams, in full batches (see `Batches`); the shorter one starts again. Without
    `stimuli`, the labelled images are the stimuli.

    For an objective without transfer losses, or with losses of the labelled images only
    (`DeepSupervisionLoss`), `stimuli` set the length of an epoch and are not shown to the student: the
    control has the steps and labelled batches of the same call with losses. (A teacher whose subjects have
    seen different stimuli can make batches of other numbers: set ``Batches.steps_per_epoch``.)

    With the same initial weights and the same seed, the result is the same, whatever the order of the images
    in their sets. The student and losses that have parameters are trained in place: make new ones for another
    run.

    Parameters
    ----------
    student : torch.nn.Module
        Network (n, channels, height, width) -> (n, classes).
    objective : Objective
        Task loss and transfer losses.
    labelled : StimulusSet with labels, DataLoader, Dataset, or sized iterable of batches
        Labelled images. Batches are (images, labels) or (images, labels, ids).
    stimuli : StimulusSet, optional
        Training stimuli of the teachers. Pass the training part of `StimulusSet.split` only.
    epochs : int
        Passes through the labelled images or the stimuli, whichever make more batches. 0 leaves the student
        as it is: an untrained control, with a record that is scored like that of a trained run.
    seed : int
        Seed of data order, augmentation and dropout.

        It does not set the student's initial weights: call ``torch.manual_seed`` before you make the student.
    validation : StimulusSet, or share of the stimuli, optional
        Stimuli, or the share of the stimuli, that are not trained on. The best epoch is the one with the
        lowest unweighted sum of their transfer losses, and the run's student has its weights. Losses of large
        values, such as `ContrastiveLoss`, decide most of it; a notice says where one is ten times another.

        For an objective without transfer losses of stimuli it is the epoch with the lowest task loss, so that
        they need labels. Images that are among the labelled ones are then left out, with a notice.

        With `out`, the weights of the last epoch are saved too: ``load_run(out, weights="last")``.
    batches : Batches
        Batch sizes and augmentation.
    optimization : Optimization
        Optimizer, learning rate, schedule, gradient clipping and batch norm.
    execution : Execution
        Device, processes, precision, checkpoints and progress bar.
    out : path, optional
        New or empty folder for ``run.json``, ``history.csv``, checkpoints and weights. By default nothing is
        written.
    resume : bool
        Continue exactly from the checkpoint in `out`. A new run starts if there is none, and a finished run
        is returned as it is.

        All arguments must be those of the first call: a run cannot be continued for more epochs. A DataLoader
        with persistent workers cannot be continued exactly.

    Returns
    -------
    Run
        The student with its history and its record. The student is in eval mode and on the device of the run:
        call ``student.train()`` before you train it further.

    Raises
    ------
    NeurordlError
        If ids, labels, layers or image sizes do not fit, the folder holds another run, or the loss is not
        finite. A run that fails before its first checkpoint leaves nothing in the folder.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> stimuli, labelled = digits.subset(digits.ids[:30]), digits.subset(digits.ids[30:80])
    >>> rdms = nrl.simulate.simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3)
    >>> objective = nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(rdms), layer="conv3")])
    >>> student = nrl.students.small_cnn(in_channels=1)
    >>> quiet = nrl.Execution(progress=False)
    >>> run = nrl.fit(student, objective, labelled, stimuli, epochs=2, seed=0, execution=quiet)
    >>> list(run.history[["epoch", "step"]].iloc[-1])
    [2, 2]
    """
    if not torch.is_grad_enabled():
        raise NeurordlError("fit is called in torch.no_grad() or inference_mode(), where nothing is trained")
    check_type("student", student, nn.Module)
    check_type("objective", objective, Objective, "write Objective(loss)")
    if stimuli is not None:
        check_stimuli(stimuli)
    for name, value in (("batches", batches), ("optimization", optimization), ("execution", execution)):
        check_type(name, value, {"batches": Batches, "optimization": Optimization}.get(name, Execution))
    check_count("seed", seed, 0)
    check_count("epochs", epochs, 0)
    if out is not None:
        check_run_folder(out, resume)  # again when the record is known; now, before anything takes time
    elif resume or execution.checkpoint_every is not None:
        raise NeurordlError("resume= and checkpoint_every= need the folder of the run: pass out= too")
    if out is not None and resume and optimization.batchnorm is None:  # by an earlier version's default
        earlier = recorded_setting(out, "optimization.batchnorm")
        optimization = replace(optimization, batchnorm=earlier)
    if labelled is not None and not objective.reads_labelled and stimuli is not None:
        raise NeurordlError("fit: the objective has no task, so labelled= would not be used; leave it out")
    fabric = execution.launch(objective)
    rank, world = fabric.global_rank, fabric.world_size
    stimuli, validation = _checked_stimuli(stimuli, validation, seed, objective)
    if readers := objective.class_readers():
        stimuli, validation = (part and _numbered(part, labelled, readers) for part in (stimuli, validation))
    if validation is not None and not objective.of_stimuli:
        validation = _labelled_validation(validation, labelled, objective)
    if batches.augment is not None and stimuli is None:
        _check_augmented(objective)
    shown = labelled if stimuli is None and isinstance(labelled, StimulusSet) else stimuli
    # Ids are matched once, before the first step.
    ids, validation_ids = (None if part is None else part.ids for part in (shown, validation))
    matches = objective.prepare(ids, validation_ids)
    groups = objective.groups(stimuli.ids) if stimuli is not None and objective.of_stimuli else None
    if ids is not None:
        objective.check_stimuli(ids if groups is None else sorted(set().union(*groups), key=natural_key))
    streams = Streams(labelled, stimuli, groups, batches, seed, fabric)
    if stimuli is not None and groups is None and rank == 0:
        text = f"stimuli: no transfer loss reads stimuli, so the {len(stimuli)} stimuli are not shown to"
        text += f" the student; they only set the epoch, {len(streams)} steps"
        if has_batchnorm(student):
            text += ", and batch norm has the statistics of the labelled images alone"
        notify(text)
    used = [shown if objective.of_stimuli else None, validation]  # otherwise they only set the epoch
    if rank == 0:
        for loss in objective.losses if shown is not None else ():
            if isinstance(loss.teacher, ById):
                warn_of_absent(loss.teacher.ids, shown, validation)
        goes_on = resume and (Path(out or "") / RUN_RECORD).is_file()
        _warn_of_exposure(None if goes_on else student, stimuli, labelled)
        if not goes_on:
            _warn_of_trained_losses(objective)
    deterministic = execution.deterministic
    with _reproducible(fabric.device.type == "cpu" if deterministic is None else deterministic):
        module = Step(student, objective, optimization.batchnorm, Processes() if world > 1 else None)
        module.check(streams)
        optimization = replace(optimization, batchnorm=module.batchnorm)
        optimizer = optimization.make_optimizer(module)
        defaults = optimizer.defaults.items()
        start = describe_start(student)
        if objective.task is not None and start.get(CHECKPOINT_SUM, "") == start[START] and rank == 0:
            tell_class_order(labelled, start[CHECKPOINT_NAME])
        record: Record = {
            "status": "running",
            "settings": {
                "seed": seed,
                "epochs": epochs,
                "steps_per_epoch": len(streams),
                "precision": str(fabric.strategy.precision.precision),
                "processes": world,
                **{f"batches.{name}": spelled(value) for name, value in vars(batches).items()},
                "batches.labelled": streams.batch_size,
                **{f"optimization.{name}": spelled(value) for name, value in vars(optimization).items()},
            },
            "optimizer": {
                "class": type(optimizer).__name__,
                **{name: value for name, value in defaults if isinstance(value, int | float | str | tuple)},
            },
            "objective": objective.describe(),
            "student": {
                "class": type(unwrapped(student)).__name__,
                "parameters": sum(parameter.numel() for parameter in student.parameters()),
                "spec": getattr(student, "build_spec", None),
                "sha256_modules": sha256_modules(student),
                **start,
            },
            "stimuli": None,
            "labelled": None if labelled is None else _describe_images(labelled),
            "matches": {name: str(match) for name, match in matches.items()},
            "unmatched": {name: {"missing": x.missing, "unused": x.unused} for name, x in matches.items()},
            TRAINED_ON: exposures(student, (loss.teacher for loss in objective.losses), used, labelled),
            "versions": versions(),
            "notices": notices(),
        }
        images = validation if shown is None else shown  # a loader brings its own
        if images is not None and (stimuli is not None or validation is not None or objective.of_stimuli):
            record["stimuli"] = {
                "shown": bool(objective.of_stimuli),  # otherwise they only set the length of an epoch
                "fitted": list(images.ids) if objective.of_stimuli else [],
                "validation": list(validation_ids or ()),
                "held_out": list(images.held_out_ids),
                **_describe_images(images),
            }
        # As it will be read from the file, so that a record in memory and one from disk are the same.
        record = json.loads(json.dumps(record, default=str))
        folder = RunFolder(out, record, resume, writes=rank == 0)
        if rank == 0:
            held_out_ids = () if stimuli is None else stimuli.held_out_ids
            validated = validation_ids if objective.of_stimuli else None
            for name, scored in (("held-out", held_out_ids), ("validation", validated)):
                n_pairs = len(scored or ()) * (len(scored or ()) - 1) // 2
                if scored and (message := few_pairs(len(scored), n_pairs, resampled=True)):  # no intervals
                    notify(f"{name} stimuli: {message}")
        trainer = Trainer(fabric, module, optimizer, streams, validation, folder, optimization, epochs)
        setattr(unwrapped(student), TRAINED_ON, record[TRAINED_ON])  # also if the run is interrupted
        for module_of_loss in objective.loss_modules:
            setattr(module_of_loss, _FITTED, True)
        trainer.run(execution.checkpoint_every or len(streams), execution.progress and rank == 0)
    history = pd.DataFrame(trainer.state.history)
    run = Run(student.eval(), history, record, Path(out) if out is not None else None)
    run.student = _own_copy(student)
    return run


def _warn_of_exposure(
    student: nn.Module | None, stimuli: StimulusSet | None, labelled: Labelled | None
) -> None:
    """Say that held-out stimuli are among the labelled images, or that the student was fitted before."""
    if stimuli is not None and isinstance(labelled, StimulusSet):
        trained = set(labelled.ids)
        if labels := [stimulus for stimulus in stimuli.held_out_ids if stimulus in trained]:
            part = f"{len(labels)} of the {len(stimuli.held_out_ids)} held-out stimuli"
            text = f"labelled: {part} are among the labelled images, by their ids ({listed(labels)})"
            notify(f"{text}; leave them out, or scores on them are not held out")
    if earlier := getattr(student and unwrapped(student), TRAINED_ON, None):
        with explain("student: the record of what it was trained on is damaged", remedy="fit it again"):
            check_exposures(earlier)
        shown = sum(len(part["ids"]) for part in (*earlier[0]["stimuli"], *earlier[0]["labelled"]))
        text = f"student: it was fitted before, to {shown} images, and is trained further"
        notify(f"{text}; make a new one for an independent run")


def _warn_of_trained_losses(objective: Objective) -> None:
    """Say that parameters of losses were trained by an earlier fit."""
    names = [
        name
        for name, loss in zip(objective.names, objective.losses, strict=True)
        if isinstance(loss, nn.Module) and getattr(loss, _FITTED, False)
    ]
    if names:
        text = f"{listed(names)}: parameters of the loss were fitted before, and are trained further"
        notify(f"{text}; make new losses for an independent run")


def _own_copy(student: nn.Module) -> nn.Module:
    """A copy for the run, which training the student further does not change."""
    values = (value for module in student.modules() for value in vars(module).values())
    computed = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    try:  # tensors of the last step, such as a weight that is normalized, have a history and no copy
        return copy.deepcopy(student, {id(value): value.detach().clone() for value in computed})
    except Exception as error:  # a module of any sort
        text = f"the student cannot be copied ({error}), so that the run shares its weights"
        notify(f"{text}: training it further changes the run")
        return student


def _checked_stimuli(
    stimuli: StimulusSet | None, validation: StimulusSet | float | None, seed: int, objective: Objective
) -> tuple[StimulusSet | None, StimulusSet | None]:
    """Training and validation stimuli, which share none, checked against the objective."""
    if validation is None or stimuli is None:
        if validation is None or (isinstance(validation, StimulusSet) and not objective.of_stimuli):
            return stimuli, validation
        raise NeurordlError("validation= is a part of the stimuli, or goes with them; pass stimuli= too")
    if not isinstance(validation, StimulusSet):
        train, validation = stimuli.split(held_out=validation, seed=seed)
        stimuli = replace(train, held_out_ids=stimuli.held_out_ids)
    elif shared := sorted(set(stimuli.ids) & set(validation.ids), key=natural_key):
        raise NeurordlError(f"validation: stimuli are also trained on ({listed(shared)}); split them first")
    elif validation.preprocessing != stimuli.preprocessing:
        both = f"({validation.preprocessing}) than those trained on ({stimuli.preprocessing})"
        raise NeurordlError(f"validation: its images are prepared otherwise {both}; prepare them alike")
    return stimuli, validation


def _labelled_validation(
    validation: StimulusSet, labelled: Labelled | None, objective: Objective
) -> StimulusSet:
    """Validation images for the task loss: with the labels of training, and none that is trained on."""
    if objective.task is None:
        problem = "validation: the objective has no task, and no transfer loss reads stimuli"
        raise NeurordlError(f"{problem}, so that nothing chooses the epoch; leave validation= out")
    if validation.labels is None:
        problem = (
            "validation: without transfer losses the epoch is chosen by the task, but these have no labels"
        )
        raise NeurordlError(f"{problem}; give them labels, leave validation= out, or add a loss")
    validation = _numbered(validation, labelled, ["task"])
    trained = set(labelled.ids) if isinstance(labelled, StimulusSet) else set()
    rest = [name for name in validation.ids if name not in trained]
    if n := len(validation) - len(rest):
        problem = f"validation: {n} of {len(validation)} images are among the labelled ones"
        if not rest:
            raise NeurordlError(f"{problem}, which are trained on; choose others, or leave validation= out")
        notify(f"{problem}; the epoch is chosen by the task loss of the {len(rest)} others")
    return validation.subset(rest)


def _numbered(images: StimulusSet, labelled: Labelled | None, readers: Sequence[str]) -> StimulusSet:
    """Images whose labels have the numbers of training, where both know the names of their classes."""
    if images.labels is None:
        problem = f"{listed(readers)}: {len(images)} stimuli or validation images have no labels"
        raise NeurordlError(f"{problem}; give them labels, or leave the loss out")
    names = class_names(labelled)
    numbers = as_trained(images.labels, images.classes, names)
    return replace(images, labels=numbers, classes=names or images.classes)


def _check_augmented(objective: Objective) -> None:
    """Refuse or tell that teachers of stored stimuli do not see the augmented images of a single stream."""
    for name, loss in zip(objective.names, objective.losses, strict=True):
        if loss.network is not None and loss.network.cached:
            problem = f"{name}: augment= changes the student's images, but the teacher answers from its cache"
            remedy = "make it without cache=, or pass the images as stimuli= too, which are not augmented"
            raise NeurordlError(f"{problem} for the originals; {remedy}")
        if isinstance(loss.teacher, ById):
            text = (
                f"{name}: augment= changes the student's images, and the teacher's RDMs are of the originals"
            )
            notify(f"{text}; pass the images as stimuli= too if they should not be changed")


def _describe_images(images: object) -> Record:
    names = class_names(images)
    classes = {"classes": list(names)} if names else {}
    if not isinstance(images, StimulusSet):
        return {"source": type(images).__name__, **classes}
    return {
        **classes,
        "source": images.source,
        "n": len(images),
        "sha256": images.sha256,
        "pixels_sha256": sha256_array(images.pixels),
        "preprocessing": images.preprocessing.as_dict(),
    }


def record_accuracy(run: Run, test: StimulusSet) -> float:
    """Accuracy on test images, which the record of the run then holds, and ``run.json`` in its folder.

    Parameters
    ----------
    run : Run
        A run of `fit`.
    test : StimulusSet with labels
        Test images, prepared like the labelled ones. Names of classes are matched as in `accuracy`. Images
        that were trained on (identical pixels) are counted in a notice and in the record.

    Returns
    -------
    float
        A share from 0 to 1.

    Raises
    ------
    NeurordlError
        As `accuracy`, or the images are prepared otherwise than those of the run.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits, quiet = nrl.datasets.load_digits(), nrl.Execution(progress=False)
    >>> labelled, test = digits.split(held_out=0.5, seed=0, stratify="label")
    >>> student = nrl.students.small_cnn(in_channels=1)
    >>> run = nrl.fit(student, nrl.Objective(), labelled, epochs=1, execution=quiet)
    >>> nrl.record_accuracy(run, test) == run.record["test"]["accuracy"] == nrl.accuracy(run, test)
    True
    """
    before = (run.record.get("labelled") or {}).get("preprocessing")
    if before is not None and Preprocessing.from_dict(before) != test.preprocessing:
        both = f"({test.preprocessing}) than the labelled ones ({before})"
        raise NeurordlError(f"test: the images are prepared otherwise {both}; prepare them alike")
    copies = count_identical(test, run.trained_on[0]["labelled"])
    if copies:
        text = f"test: {copies} of the {len(test)} test images were trained on (identical pixels)"
        notify(f"{text}; leave them out, or the accuracy is not that of new images")
    share = accuracy(run, test)
    images = {**_describe_images(test), "trained_on": copies}
    run.record["test"] = json.loads(json.dumps({"accuracy": share, **images}))
    if run.out is not None:
        write_json(run.out / RUN_RECORD, run.record)
    return share


@contextmanager
def _reproducible(deterministic: bool) -> Iterator[None]:
    """Deterministic algorithms if wanted; the caller's random state and setting are restored."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        with torch.random.fork_rng():
            torch.use_deterministic_algorithms(deterministic or before, warn_only=warn_only)
            # Memory is filled to find errors only, at a cost in each step.
            torch.utils.deterministic.fill_uninitialized_memory = before and fills  # type: ignore[attr-defined]
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class Step(nn.Module):
    """The module that Fabric wraps, so that processes agree on gradients: its forward is the loss of a step.

    Its parameters are those of the student and of the losses.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        batchnorm: BatchNorm | None,
        processes: Processes | None,
    ) -> None:
        super().__init__()
        self.student, self.losses = student, objective.loss_modules
        self.objective, self.batchnorm, self.processes = objective, batchnorm, processes

    def forward(
        self, labelled: Batch | None, stimuli: Batch | None, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step and all of its terms."""
        return self.objective.compute(self.student, labelled, stimuli, step, self.batchnorm, self.processes)

    def memories(self) -> list[str]:
        """Names of the buffers that are the same in all processes, without being sent."""
        names = []
        for name, loss in self.named_modules():
            if isinstance(loss, TransferLoss):
                names += [f"{name}.{buffer}" for buffer in loss.same_in_processes]
        return names

    def check(self, streams: Streams) -> None:
        """Compute a first step without training, so that errors come before anything is written.

        Parameters of losses that depend on the shape of the features are made here, with the seed.
        """
        student, objective = self.student, self.objective
        if not any(parameter.requires_grad for parameter in student.parameters()):
            raise NeurordlError("the student has no parameter to train (requires_grad is False everywhere)")
        self.to(streams.device)
        seed_all(streams.seed, 0)
        labelled, stimuli = streams.draw(0)
        shown = stimuli or labelled
        if objective.of_stimuli and shown and len(shown.images) * streams.world < FEWEST:
            n = len(shown.images)
            raise NeurordlError(f"a batch of {n} stimuli is too small for an RDM; {FEWEST} are needed")
        batches = [batch.images for batch in (labelled, stimuli) if batch is not None]
        with frozen_eval(student, self.losses):
            with explain_unfit(student, batches, "student"):
                outputs = [student(images) for images in batches]
            chosen = objective.choose_batchnorm(student, labelled, stimuli)
            if chosen == "joint" and first_rows(outputs[0], 1, len(batches[0])) is None:
                chosen = "both"  # outputs of one batch could not be divided between the streams
            self.batchnorm = self.batchnorm or chosen
            if objective.task == "cross_entropy" and labelled is not None:
                labels = labelled.labels  # checked on the CPU: a wrong one would break a GPU's context
                scores = class_scores(outputs[0], "cross_entropy", "pass task=function")
                objective.task_loss(scores.cpu(), labels if labels is None else labels.cpu())
            seed_all(streams.seed, 0)
            errors = RuntimeError, TypeError, AttributeError, IndexError
            with explain("the teacher's network, the task or a loss fails", errors):
                objective.compute(student, labelled, stimuli, 0, self.batchnorm, None)
        if objective.task == "cross_entropy":
            streams.set_classes(class_scores(outputs[0], "cross_entropy", "pass task=function").shape[1])


@dataclass
class State:
    """How far a fit has come.

    Attributes
    ----------
    sums : Tensor, (2, terms)
        Sum of the values of each term over the steps of this epoch, and the number of finite values.
    step : int
        Steps done.
    history : list of dict
        A row per epoch.
    best : dict
        Lowest validation loss and its epoch.
    seen : set of str
        Ids of the stimuli shown.
    labelled : set of str
        Ids that came with the batches of a loader of labelled images, if these are not the stimuli.
    """

    sums: Tensor
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=lambda: {"value": math.inf, "epoch": -1})
    seen: set[str] = field(default_factory=set)
    labelled: set[str] = field(default_factory=set)


@dataclass
class Trainer:
    """Trains a module step by step, and writes checkpoints to a folder.

    Attributes
    ----------
    fabric : Fabric
        Devices, processes and precision.
    module : Step
        Student and losses.
    optimizer : Optimizer
        Optimizer of the module's parameters.
    streams : Streams
        Batches.
    validation : StimulusSet, optional
        Stimuli that choose the best epoch.
    folder : RunFolder
        Where the run is written.
    optimization : Optimization
        Schedule and gradient clipping.
    epochs : int
        Epochs to train.
    """

    fabric: Fabric
    module: Step
    optimizer: Optimizer
    streams: Streams
    validation: StimulusSet | None
    folder: RunFolder
    optimization: Optimization
    epochs: int

    def __post_init__(self) -> None:
        module, self.steps = self.module, len(self.streams)
        self.student = unwrapped(module.student)  # its weights are saved under the plain names
        self.objective, self.processes = module.objective, module.processes
        self.scheduler = self.optimization.make_scheduler(self.optimizer, self.steps * max(self.epochs, 1))
        self.wrapped: nn.Module = module
        self.backward: Callable[[Tensor], None] = Tensor.backward
        strategy = self.fabric.strategy
        single = type(strategy) is SingleDeviceStrategy and type(strategy.precision) is Precision
        # with nothing to do, Fabric would only cost time at each step
        if not single or self.fabric._callbacks:
            if self.processes is not None:
                self.processes.share_buffers(module.losses)
                ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
                ignore(module, module.memories())  # type: ignore[no-untyped-call]
            self.wrapped, self.optimizer = self.fabric.setup(module, self.optimizer)
            self.backward = self.fabric.backward
        self._parts: Record = {  # what has a state in a checkpoint
            "student": self.student,
            "losses": module.losses,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "precision": self.fabric.strategy.precision,
        }
        task = ["task"] if self.objective.task is not None else []
        self.terms = ["loss", *task, *self.objective.names]
        self.state = State(torch.zeros(2, len(self.terms), device=self.fabric.device))
        self._has_learned = False  # whether a loss had a gradient
        self._values: list[Tensor] = []  # terms of the steps that are not in the sums yet
        self.epoch_start = time.perf_counter()

    def run(self, checkpoint_every: int, progress: bool) -> None:
        """Train all epochs, from the folder's checkpoint if it has one."""
        try:
            self._restore()
            if not self.epochs and not self.state.history:
                self._note_initial()
            self._all_epochs(checkpoint_every, progress)
            self._finish()
        except BaseException:
            self.folder.withdraw()
            raise

    def _note_initial(self) -> None:
        """A row for the student as it is, whose losses are not computed."""
        lr = self.optimizer.param_groups[0]["lr"]
        undefined = dict.fromkeys(self.terms, math.nan)
        self.state.history.append({"epoch": 0, "step": 0, **undefined, "lr": lr, "seconds": 0.0})
        self._save()

    def _all_epochs(self, checkpoint_every: int, progress: bool) -> None:
        state, total = self.state, self.steps * self.epochs
        lines = progress and not sys.stdout.isatty()  # a bar shows nothing in a file
        counts = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        columns = TextColumn("{task.description}"), *counts, TextColumn("{task.fields[terms]}")
        shown = progress and not lines
        with Progress(*columns, disable=not shown, transient=True) as bar:
            task, refreshed = bar.add_task("", total=total, completed=state.step, terms=""), 0.0
            while state.step < total:
                epoch, done = divmod(state.step, self.steps)
                self.module.train()
                self.streams.begin(state.step - done, state.step)
                for _ in range(done, self.steps):
                    self._one_step()
                    if shown and time.perf_counter() - refreshed > _REFRESH:  # reading terms waits for a GPU
                        text, terms = f"epoch {epoch + 1}/{self.epochs}", _shown(self._means(), 3)
                        bar.update(task, completed=state.step, description=text, terms=terms)
                        refreshed = time.perf_counter()
                    if state.step % checkpoint_every == 0 and state.step % self.steps:
                        self._check_finite()
                        self._save()
                self._end_epoch(epoch + 1)
                last = epoch + 1 == self.epochs
                if lines and (last or (epoch + 1) % math.ceil(self.epochs / _LINES) == 0):
                    row = {name: state.history[-1][name] for name in self.terms}
                    text = f"epoch {epoch + 1}/{self.epochs}  {_shown(row, 4)}"
                    print(text, file=sys.stderr, flush=True)

    def _one_step(self) -> None:
        state = self.state
        # Seeded by step, so that a resumed run needs no generator's state.
        seed_all(self.streams.seed, state.step, self.streams.rank)
        labelled, stimuli = self.streams.draw(state.step)
        if self.objective.of_stimuli and (shown := stimuli or labelled) and shown.ids is not None:
            state.seen.update(shown.ids)
        if labelled and labelled.ids is not None and isinstance(self.streams.labelled, LoaderStream):
            state.labelled.update(labelled.ids)
        loss, terms = self.wrapped(labelled, stimuli, state.step)
        if loss.requires_grad:  # otherwise each loss is undefined on this batch
            self.backward(loss)
            if self.optimization.clip_norm is not None:
                self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=self.optimization.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._has_learned = True
        self.scheduler.step()
        values = torch.stack([loss.detach(), *(terms[name] for name in self.terms[1:])]).float()
        self._values.append(values if self.processes is None else self.processes.mean(values))
        if len(self._values) == _ADDED_AT_ONCE:
            self._add_up()
        state.step += 1

    def _add_up(self) -> None:
        """Add the terms of the latest steps to the sums, in their order: it may be done at any time."""
        if self._values:
            values = torch.stack(self._values)
            finite = torch.isfinite(values)
            for row in torch.stack([torch.where(finite, values, 0.0), finite.float()], dim=1):
                self.state.sums += row
            self._values = []

    def _means(self) -> dict[str, float]:
        self._add_up()
        total, count = self.state.sums.cpu().double()
        return {name: float(value) for name, value in zip(self.terms, total / count, strict=True)}

    def _check_finite(self) -> None:
        """Stop before a checkpoint is written whose weights are not finite."""
        self._add_up()
        epoch, before = divmod(self.state.step - 1, self.steps)
        finite = all(bool(torch.isfinite(parameter).all()) for parameter in self.module.parameters())
        if not finite or float(self.state.sums[1, 0]) <= before:
            counts = zip(self.terms[1:], self.state.sums[1, 1:].tolist(), strict=True)
            terms = [name for name, count in counts if count <= before]
            epoch_text = f"epoch {epoch + 1}{f' (undefined: {listed(terms)})' if terms else ''}"
            remedy = "lower lr= or weight=, set clip_norm=, or check the loss; a checkpoint is from before"
            raise NeurordlError(f"the loss or its gradient was not finite in {epoch_text}; {remedy}")

    def _end_epoch(self, epoch: int) -> None:
        state = self.state
        self._check_finite()
        if not self._has_learned:
            problem = (
                f"all that {listed(self.objective.names)} read is frozen (requires_grad=False), or undefined"
            )
            remedy = "read a layer that is trained, or add a task"
            raise NeurordlError(f"no parameter is trained: {problem} (NaN) in epoch {epoch}; {remedy}")
        row: dict[str, float] = {"epoch": epoch, "step": state.step, **self._means()}
        for name, loss in zip(self.objective.names, self.objective.losses, strict=True):
            if math.isnan(row[name]):
                reason = "its batches have too few measured pairs, or the layer no longer responds"
                reason = reason if isinstance(loss, RDMLoss) else "it returned NaN or infinity"
                notify(f"{name} was undefined on every batch of epoch {epoch}: {reason}")
        if self.processes is not None:
            self.processes.share_buffers(self.module)
        if self.validation is not None:
            row |= self.fabric.broadcast(self._validate(self.validation))  # the first process decides
            values = self._validated(row)
            if undefined := [name for name, value in values.items() if not math.isfinite(value)]:
                raise NeurordlError(self._why_undefined(undefined))
            if epoch == 1:
                self._tell_of_scales(values)
            value = sum(values.values())
            if value < state.best["value"]:
                state.best = {"value": value, "epoch": epoch}
                self.folder.save_best(self.student)
        now = time.perf_counter()
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "seconds": now - self.epoch_start}
        state.history.append(row)
        self.epoch_start = now
        state.sums.zero_()
        self._save()

    def _validated(self, row: dict[str, float]) -> dict[str, float]:
        """The losses of the validation stimuli in a row of the history, which choose the epoch."""
        return {name: row[f"val_{name}"] for name in self.objective.of_stimuli or ["task"]}

    def _tell_of_scales(self, values: dict[str, float]) -> None:
        """Say that a loss of large values decides which epoch is the best one."""
        by_size = sorted(values, key=lambda name: -abs(values[name]))
        largest, smallest = (abs(values[by_size[place]]) for place in (0, -1))
        if largest <= _ALIKE * smallest or self.fabric.global_rank:
            return
        each = ", ".join(f"{name} {values[name]:.3g}" for name in by_size)
        text = f"validation: the epoch is chosen by the unweighted sum of the losses, of which {by_size[0]}"
        remedy = "compare the columns val_... of the history, or leave validation= out to keep the last epoch"
        notify(f"{text} decides most ({each} in the first epoch); {remedy}")

    def _why_undefined(self, names: list[str]) -> str:
        """The message for losses of the validation stimuli that are undefined."""
        measured = all(isinstance(self.objective.of_stimuli.get(name), RDMLoss) for name in names)
        remedy = "give more of them, with more measured pairs" if measured else "they are NaN or infinity"
        return f"the losses of the validation stimuli are undefined ({listed(names)}); {remedy}"

    def _validate(self, validation: StimulusSet) -> dict[str, float]:
        """Transfer losses of the validation stimuli, with a batch for each group; without any, the task's."""
        if not self.objective.of_stimuli:
            return {"val_task": self.objective.task_term(self.student, validation, _AT_ONCE)}
        rows = []
        for group in self.objective.groups(sorted(validation.ids, key=natural_key)):
            part = validation.subset(group)
            batch = self.streams.on_device(Batch(part.images(), part.ids, part.labels))
            rows.append(self.objective.transfer_terms(self.student, batch))
        values = {name: np.array([row[name] for row in rows]) for name in self.objective.of_stimuli}
        return {f"val_{name}": float(nan_mean(losses)) for name, losses in values.items()}

    def _save(self) -> None:
        state = self.state
        if self.processes is not None:
            state.seen = set(self.processes.gather_list(sorted(state.seen)))
            state.labelled = set(self.processes.gather_list(sorted(state.labelled)))
        if not self.folder.writes:
            return
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        ids = {name: sorted(getattr(state, name), key=natural_key) for name in ("seen", "labelled")}
        self.folder.save({**parts, **vars(state), **ids}, state.history)

    def _restore(self) -> None:
        self.fabric.barrier()  # every process has looked at the folder before one of them writes to it
        checkpoint = self.folder.load()
        if checkpoint is None:
            self.folder.start()
            return
        problem = f"{self.folder.path}: its checkpoint is not one of this run"
        with explain(problem, remedy="choose another folder"):
            for name, part in self._parts.items():
                part.load_state_dict(checkpoint[name])
            checkpoint.setdefault("labelled", [])  # one of an earlier version lacks them
            values = {entry.name: checkpoint[entry.name] for entry in fields(State)}
            values |= {name: set(values[name]) for name in ("seen", "labelled")}
            values["sums"] = values["sums"].to(self.fabric.device)
            self.state = State(**values)
        if (
            self.validation is not None and self.epochs and self.state.history
        ):  # a resumed run has the notices of a whole one
            self._tell_of_scales(self._validated(self.state.history[0]))

    def _finish(self) -> None:
        """Write the last weights; then give the student the best ones, if there was a validation."""
        state, record = self.state, self.folder.record
        record["status"] = "finished"
        record["notices"] = list(dict.fromkeys([*record["notices"], *notices()]))
        seen, labels = (sorted(ids, key=natural_key) for ids in (state.seen, state.labelled))
        if record["stimuli"] is None and seen:
            record["seen"] = seen
            record[TRAINED_ON][0]["stimuli"] = [{"ids": seen, "images": None}]
        if labels:
            record[TRAINED_ON][0]["labelled"] = [{"ids": labels, "images": None}]
        chosen = state.best["epoch"] > 0
        if chosen:
            record["best"] = dict(state.best)
        self.folder.finish(self.student, self.objective.state_dict(), state.history)
        self.fabric.barrier()
        if chosen:
            self.folder.load_best(self.student)


def _shown(terms: dict[str, float], digits: int) -> str:
    return "  ".join(f"{name} {value:.{digits}f}" for name, value in terms.items())
