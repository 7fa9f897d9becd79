"""The two streams of training: labelled batches and stimulus batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import natural_key
from neurordl.stimuli import StimulusSet
from neurordl.teachers import Batch
from neurordl.teachers.base import sent
from neurordl.validate import check_count, listed

FEWEST = 3
"""Stimuli in a batch: two have a single pair, and one pair cannot be compared."""

_BLOCK = 64  # steps

Augment = Callable[[Tensor], Tensor]
Labelled = StimulusSet | DataLoader[Any] | Dataset[Any] | Iterable[Any]


@dataclass(frozen=True)
class Batches:
    """Batches of the two streams of `fit`.

    Images that do not fill a batch are left out of an epoch, as with ``drop_last=True`` of a DataLoader, and
    they are others in each epoch. A set that is smaller than a batch is one batch.

    Attributes
    ----------
    labelled : int
        Labelled images in a batch, over all processes.

        It is used for a StimulusSet or a Dataset. A DataLoader has its own batch size, per process.
    stimuli : int
        Stimuli in a batch, over all processes.
    augment : callable, optional
        Function Tensor -> Tensor applied to the images of a labelled StimulusSet.
    steps_per_epoch : int, optional
        Steps of an epoch. By default an epoch is one pass through the longer of the two streams.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Batches(labelled=32, stimuli=64).stimuli
    64
    """

    labelled: int = 128
    stimuli: int = 64
    augment: Augment | None = None
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        check_count("Batches.labelled", self.labelled)
        check_count("Batches.stimuli", self.stimuli, FEWEST, "an RDM needs three stimuli to be compared")
        if self.augment is not None and not callable(self.augment):
            raise NeurordlError(f"Batches.augment={self.augment!r}: expected a function Tensor -> Tensor")
        if self.steps_per_epoch is not None:
            check_count("Batches.steps_per_epoch", self.steps_per_epoch)


@lru_cache(maxsize=8)
def _states(seed: int, block: int, rank: tuple[int, ...]) -> list[list[int]]:
    """The states of a block of steps: one by one, between steps of training, they take ten times as long."""
    steps = range(block * _BLOCK, (block + 1) * _BLOCK)
    return [np.random.SeedSequence((seed, step, *rank)).generate_state(2).tolist() for step in steps]


def seed_all(seed: int, step: int, *rank: int) -> None:
    """Seed torch, numpy and random for a step, and for a process if they are to differ."""
    state = _states(seed, step // _BLOCK, rank)[step % _BLOCK]
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if in_use or torch.backends.mps.is_available():
        torch.manual_seed(state[0])
    else:  # torch.manual_seed would note the whole call stack, at each step, for a device that is not in use
        torch.default_generator.manual_seed(state[0])
    np.random.seed(state[1])  # noqa: NPY002 - a user's augmentation may draw from it
    random.seed(state[1])


class SetStream:
    """Batches of a StimulusSet: the stimuli of a step are a function of (seed, step) alone.

    A pass consists of full batches; which stimuli it leaves out changes from pass to pass. Stimuli are drawn
    from sorted ids, so that the order of the set does not matter. Each process takes its share of a batch.

    Parameters
    ----------
    stimuli : StimulusSet
        Images, ids and labels.
    batch_size : int
        Images in a batch, over all processes.
    seed : int
        Seed of the draws.
    groups : sequence of sequences of ids, optional
        Ids that may share a batch, for the stream of a teacher's stimuli. By default all may.
    augment : callable, optional
        Function applied to the images of a batch.
    share : (int, int)
        Number of this process, and of all processes.
    """

    def __init__(
        self,
        stimuli: StimulusSet,
        batch_size: int,
        seed: int,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        augment: Augment | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        rank, world = share
        fewest = max(FEWEST if groups is not None else 1, world)
        check_count("batch size", batch_size, fewest)
        row = {stimulus: number for number, stimulus in enumerate(stimuli.ids)}
        usable = [group for group in ([stimuli.ids] if groups is None else groups) if len(group) >= fewest]
        if not usable:
            raise NeurordlError(f"{len(stimuli)} images or stimuli: a batch needs {fewest} or more of them")
        self._groups = [np.array([row[name] for name in sorted(group, key=natural_key)]) for group in usable]
        self._sizes = [min(batch_size, len(group)) // world * world for group in self._groups]
        # The two streams of a fit draw from different random numbers.
        self._stimuli, self._seed, self._augment = stimuli, (seed, int(groups is not None)), augment
        self._ids = np.array(stimuli.ids, dtype=object)
        self._share = slice(rank, None, world)
        self.labels = stimuli.labels
        self._pass: tuple[int, list[Ints]] = (-1, [])

    def __len__(self) -> int:
        return sum(len(group) // size for group, size in zip(self._groups, self._sizes, strict=True))

    def draw(self, step: int) -> Batch:
        """The batch of a step (counted from 0 over the whole run)."""
        number, place = divmod(step, len(self))
        if self._pass[0] != number:
            self._pass = (number, self._batches(np.random.default_rng([*self._seed, number])))
        rows = self._pass[1][place][self._share]
        index = torch.from_numpy(rows)
        images = self._stimuli.images(index)
        if self._augment is not None:
            images = self._augment(images)
            if not isinstance(images, Tensor) or len(images) != len(rows):
                result = f"{len(images)} images" if isinstance(images, Tensor) else type(images).__name__
                expected = f"a tensor with as many as the batch of {len(rows)}"
                raise NeurordlError(f"augment: the function returned {result}; it must return {expected}")
        return Batch(
            images,
            self._ids[rows].tolist(),
            None if self.labels is None else self.labels.index_select(0, index),
        )

    def _batches(self, rng: np.random.Generator) -> list[Ints]:
        batches: list[Ints] = []
        for group, size in zip(self._groups, self._sizes, strict=True):
            order = rng.permutation(group)
            batches += [order[start : start + size] for start in range(0, len(group) - size + 1, size)]
        return [batches[place] for place in rng.permutation(len(batches))]


class LoaderStream:
    """Batches of a DataLoader, or of any sized iterable of (images, labels) or (images, labels, ids).

    If it is shorter than the epoch, it starts again. Its order depends on the seed and on the step at which
    it starts, so that an epoch can be replayed. Several processes share one order, and each augments its own
    images.

    Parameters
    ----------
    loader : DataLoader or sized iterable
        The batches.
    seed : int
        Seed of the order.
    share : (int, int)
        Number of this process, and of all processes.
    """

    def __init__(self, loader: Any, seed: int, share: tuple[int, int] = (0, 1)) -> None:
        with explain("labelled", TypeError, "give a DataLoader or a list of batches"):
            len(loader)
        self._loader, self._seed, (self._rank, self._world) = loader, seed, share
        self._iterator: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._loader)

    def begin(self) -> None:
        """Start the loader anew at the next draw."""
        self._iterator = iter(())

    def draw(self, step: int) -> Batch:
        """The next batch."""
        batch = next(self._iterator, None)
        if batch is None:
            self._iterator = self._start(step)
            batch = next(self._iterator, None)
        if batch is None:
            remedy = "check that it is not empty, that drop_last= leaves a batch, and that it can start again"
            raise NeurordlError(f"labelled: the loader gave no batch; {remedy}")
        return _loaded(batch)

    def _start(self, step: int) -> Iterator[Any]:
        seed_all(self._seed, step)  # the same in all processes: they share one order
        sampler = getattr(self._loader, "sampler", None)
        inner = getattr(getattr(self._loader, "batch_sampler", None), "sampler", None)
        wrapped: Any = sampler.dataset if isinstance(sampler, DistributedSamplerWrapper) else None
        number = int(torch.randint(2**31, ()))
        # A generator, or a count of passes, would carry its state over from before an interruption.
        for owner in (self._loader, sampler, inner, getattr(wrapped, "_sampler", None)):
            if isinstance(generator := getattr(owner, "generator", None), torch.Generator):
                generator.manual_seed(number)
        if isinstance(sampler, DistributedSampler):
            sampler.seed, sampler.set_epoch = number, lambda epoch: None  # type: ignore[method-assign]
        if wrapped is not None:  # a user's sampler draws its order before the processes are seeded apart
            type(wrapped).reset(wrapped)
            wrapped.reset = lambda: None
        if self._world > 1:
            seed_all(self._seed, step, self._rank)
            if isinstance(generator := getattr(self._loader, "generator", None), torch.Generator):
                generator.manual_seed(number + self._rank)  # which seeds the workers
        return iter(self._loader)


class Streams:
    """The labelled and the stimulus stream of a fit, of which one may be missing.

    Parameters
    ----------
    labelled : StimulusSet, Dataset, DataLoader, iterable of batches, or None
        Labelled images.
    stimuli : StimulusSet, optional
        Stimuli of the teachers.
    groups : sequence of sequences of ids, or None
        Stimuli that may share a batch. None: no loss needs the stimuli, so they are not drawn and only set
        the length of an epoch.
    batches : Batches
        Batch sizes, augmentation and steps of an epoch.
    seed : int
        Seed of the order.
    fabric : Fabric
        Device, and processes that share the batches.
    """

    def __init__(
        self,
        labelled: Labelled | None,
        stimuli: StimulusSet | None,
        groups: Sequence[Sequence[str]] | None,
        batches: Batches,
        seed: int,
        fabric: Fabric,
    ) -> None:
        self.seed, self.device = seed, fabric.device
        self.rank, self.world = share = fabric.global_rank, fabric.world_size
        self.labelled: SetStream | LoaderStream | None = None
        self.batch_size: int | None = batches.labelled  # of labelled images, over all processes, if known
        if isinstance(labelled, StimulusSet):
            if labelled.labels is None:
                raise NeurordlError("labelled: this StimulusSet has no labels; give labels= when it is made")
            self.labelled = SetStream(labelled, batches.labelled, seed, augment=batches.augment, share=share)
        elif labelled is not None:
            if batches.augment is not None:
                raise NeurordlError(
                    "augment= needs a StimulusSet; a loader's images are augmented by its data set"
                )
            loader = _loader(labelled, max(1, batches.labelled // self.world), shuffle=True)
            size = getattr(loader, "batch_size", None)  # None of a list, and of a batch sampler
            self.batch_size = size * self.world if isinstance(size, int) else None
            if self.world > 1:
                _check_shareable(loader)
                loader = fabric.setup_dataloaders(loader, move_to_device=False)
            self.labelled = LoaderStream(loader, seed, share)
        if labelled is None and batches.augment is not None:
            raise NeurordlError(
                "augment= changes the labelled images only: leave it out, or pass labelled= too"
            )
        self.stimuli = None
        if stimuli is not None:
            alike = [stimuli.ids] if groups is None else groups
            self.stimuli = SetStream(stimuli, batches.stimuli, seed, groups=alike, share=share)
        self._lengths = [len(stream) for stream in (self.labelled, self.stimuli) if stream is not None]
        self._steps = batches.steps_per_epoch
        if groups is None:
            self.stimuli = None
        self.n_classes: int | None = None

    def __len__(self) -> int:
        return self._steps or max(self._lengths)

    def begin(self, first: int, step: int) -> None:
        """Go to a step of the epoch that began at step `first`: a loader draws its earlier batches again."""
        if isinstance(self.labelled, LoaderStream):
            self.labelled.begin()
            for earlier in range(first, step):
                seed_all(self.seed, earlier, self.rank)
                self.labelled.draw(earlier)

    def draw(self, step: int) -> tuple[Batch | None, Batch | None]:
        """The labelled batch and the stimulus batch of a step, on the device."""
        labelled = self.labelled.draw(step) if self.labelled is not None else None
        labels = labelled.labels if labelled is not None else None
        if labels is not None and self.n_classes is not None and isinstance(self.labelled, LoaderStream):
            check_labels(labels, self.n_classes)
        stimuli = self.stimuli.draw(step) if self.stimuli is not None else None
        return labelled and self.on_device(labelled), stimuli and self.on_device(stimuli)

    def on_device(self, batch: Batch) -> Batch:
        """The batch, moved to the device."""
        labels = batch.labels if batch.labels is None else sent(batch.labels, self.device)
        return Batch(sent(batch.images, self.device), batch.ids, labels)

    def set_classes(self, n_classes: int) -> None:
        """Check all labels of a set now, and those of a loader batch by batch."""
        self.n_classes = n_classes
        if isinstance(self.labelled, SetStream) and self.labelled.labels is not None:
            check_labels(self.labelled.labels, n_classes)


def _check_shareable(loader: Any) -> None:
    """Raise an error if several processes cannot share the batches of a loader."""
    unshared, remedy = loader, "give a StimulusSet, Dataset or DataLoader"
    if isinstance(loader, DataLoader):
        if type(loader.batch_sampler) in (BatchSampler, type(None)):
            return
        # Fabric would replace it by a batch sampler of its own.
        unshared, remedy = loader.batch_sampler, "give the DataLoader sampler= and batch_size= instead"
    raise NeurordlError(f"labelled: several processes cannot share a {type(unshared).__name__}; {remedy}")


def each_once(labelled: Labelled, batch_size: int) -> Iterator[Batch]:
    """Batches with each image once, in order, for evaluation."""
    if not isinstance(labelled, StimulusSet):
        yield from map(_loaded, _loader(labelled, batch_size, shuffle=False))
        return
    for start in range(0, len(labelled), batch_size):
        part = slice(start, start + batch_size)
        labels = None if labelled.labels is None else labelled.labels[part]
        yield Batch(labelled.images(part), labelled.ids[part], labels)


def _loader(labelled: Any, batch_size: int, shuffle: bool) -> Any:
    """A DataLoader of a Dataset; anything else as it is."""
    if not isinstance(labelled, Dataset) or isinstance(labelled, DataLoader):
        return labelled
    shuffle = shuffle and not isinstance(labelled, IterableDataset)
    return DataLoader(labelled, batch_size=batch_size, shuffle=shuffle)


def _loaded(parts: Any) -> Batch:
    """The batch of a user's loader."""
    if not isinstance(parts, tuple | list) or not 2 <= len(parts) <= 3 or not isinstance(parts[0], Tensor):
        expected = f"(images, labels) or (images, labels, ids), tensors, but one is a {type(parts).__name__}"
        remedy = "if this is a single batch, give [(images, labels)]"
        raise NeurordlError(f"labelled: each batch must be {expected}; {remedy}")
    ids = None
    if len(parts) == 3:
        ids = [str(name) for name in (parts[2].tolist() if isinstance(parts[2], Tensor) else parts[2])]
    return check_batch(Batch(parts[0], ids, torch.as_tensor(parts[1])))


def class_names(labelled: Any) -> tuple[str, ...] | None:
    """Names of the classes in the order of their numbers, of a set, or of the data set of a loader."""
    while not hasattr(labelled, "classes") and hasattr(labelled, "dataset"):
        labelled = labelled.dataset
    names = getattr(labelled, "classes", None)
    listed_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if listed_names and names else None


def tell_class_order(labelled: Any, checkpoint: str) -> None:
    """Say in which order classes are numbered by their names, where a checkpoint may have another one."""
    names = class_names(labelled)
    if (
        names is None
        or not isinstance(labelled, StimulusSet)
        or list(names) != sorted(names, key=natural_key)
    ):
        return
    numbered = listed([f"{number} is {name!r}" for number, name in enumerate(names)], most=3)
    text = (
        f"labelled: classes are numbered in the order of their names ({numbered}), and the weights are those"
    )
    remedy = "if its outputs have another order, pass classes= with the labels (--classes)"
    notify(f"{text} of {checkpoint}; {remedy}")


def as_trained(labels: Tensor, names: Sequence[str] | None, trained: Sequence[str] | None) -> Tensor:
    """Labels numbered as in training, where both know the names of their classes; otherwise as they are.

    Parameters
    ----------
    labels : Tensor, (n,)
        Whole numbers.
    names, trained : sequence of str, or None
        Names of the classes of these labels, and of those in training, in the order of their numbers.

    Returns
    -------
    Tensor, (n,)
        The numbers of the same names in training.

    Raises
    ------
    NeurordlError
        If a label's class is none of those in training.
    """
    if names is None or trained is None or tuple(names) == tuple(trained):
        return labels
    check_labels(labels, len(names))
    number = {name: place for place, name in enumerate(trained)}
    numbers = torch.tensor([number.get(name, -1) for name in names], device=labels.device)
    if unknown := [names[label] for label in sorted(set(labels.tolist())) if numbers[label] < 0]:
        problem = f"labels: the student was not trained on {listed(unknown, quote=True)}"
        raise NeurordlError(f"{problem}, but on {listed(trained, quote=True)}; leave these images out")
    return numbers[labels]


def check_batch(batch: Batch) -> Batch:
    """Return the batch if it has an id and a label for each image, as far as it has any."""
    if not isinstance(batch.images, Tensor):
        content = type(batch.images).__name__
        raise NeurordlError(f"images: expected a tensor, got a {content}; use torch.as_tensor(images)")
    n = len(batch.images)
    for name, part in (("ids", batch.ids), ("labels", batch.labels)):
        if part is not None and len(part) != n:
            raise NeurordlError(f"a batch of {n} images has {len(part)} {name}; give one for each image")
    if batch.labels is not None and not isinstance(batch.labels, Tensor):
        raise NeurordlError(f"labels: expected a tensor, got a {type(batch.labels).__name__}")
    if batch.labels is not None and batch.labels.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        return batch._replace(labels=batch.labels.long())  # as losses of torch need them
    return batch


def check_labels(labels: Tensor, n_classes: int) -> None:
    """Raise an error unless labels are whole numbers from 0 to n_classes - 1."""
    if labels.is_floating_point() or labels.ndim != 1:
        remedy = "use labels.argmax(1) for one-hot labels" if labels.ndim > 1 else "use labels.long()"
        content = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise NeurordlError(f"labels: expected whole numbers of shape (n,), got {content}; {remedy}")
    if not len(labels):
        raise NeurordlError("labels: the batch has no images; leave empty batches out")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        outputs = f"the student has {n_classes} outputs (labels 0 to {n_classes - 1})"
        raise NeurordlError(f"labels run from {low} to {high}, but {outputs}; give it more classes")
