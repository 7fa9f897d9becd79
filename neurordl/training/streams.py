"""The two streams of training: labelled batches and stimulus batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.stimuli import StimulusSet
from neurordl.teachers import Batch
from neurordl.validate import check_count

FEWEST = 3
"""Stimuli in a batch: two have a single pair, of which no comparison can be made."""

Augment = Callable[[Tensor], Tensor]
Labelled = StimulusSet | DataLoader[Any] | Dataset[Any] | Iterable[Any]


@dataclass(frozen=True)
class Batches:
    """Batches of the two streams of `fit`.

    Attributes
    ----------
    labelled : int
        Images in a batch of a labelled StimulusSet or Dataset, over all processes. A DataLoader has its own
        batch size, per process.
    stimuli : int
        Stimuli in a batch, over all processes.
    augment : callable, optional
        Function Tensor -> Tensor applied to the images of a labelled StimulusSet.

    Examples
    --------
    >>> Batches(labelled=32, stimuli=64).stimuli
    64
    """

    labelled: int = 128
    stimuli: int = 64
    augment: Augment | None = None

    def __post_init__(self) -> None:
        check_count("Batches.labelled", self.labelled)
        check_count("Batches.stimuli", self.stimuli, FEWEST, "an RDM needs three stimuli to be compared")


def seed_all(*parts: int) -> None:
    """Seed torch, numpy and random from a tuple of numbers, such as (seed, step)."""
    state = np.random.SeedSequence(parts).generate_state(2)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002 - augmentations of others draw from it
    random.seed(int(state[1]))


class Stream(Protocol):
    """Batches by step."""

    def __len__(self) -> int:
        """Batches in a pass."""

    def begin(self) -> None:
        """Start an epoch."""

    def draw(self, step: int) -> Batch:
        """The batch of a step."""

    def skip(self, step: int) -> None:
        """Leave out the batch of a step, when resuming."""


class SetStream:
    """Batches of a StimulusSet: which stimuli a step gets is a function of (seed, step) alone.

    A pass takes as many full batches as there are; the stimuli left over change from pass to pass. Stimuli
    are drawn over sorted ids, so the order of the set does not matter. Across processes, each takes its share
    of the batch.
    """

    def __init__(
        self,
        stimuli: StimulusSet,
        batch_size: int,
        seed: int,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        augment: Augment | None = None,
        kind: int = 0,
        smallest: int = 1,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < max(smallest, world):
            raise NeurordlError(f"a batch of {batch_size}: expected {max(smallest, world)} or more")
        place = {stimulus: row for row, stimulus in enumerate(stimuli.ids)}
        chosen = [
            sorted(group, key=natural_key) for group in (groups if groups is not None else [stimuli.ids])
        ]
        chosen = [group for group in chosen if len(group) >= max(smallest, world)]
        if not chosen:
            raise NeurordlError(
                f"no batch can be drawn: {len(stimuli)} stimuli, of which too few share a batch "
                f"({max(smallest, world)} are needed); give more stimuli"
            )
        self._groups = [np.array([place[stimulus] for stimulus in group]) for group in chosen]
        self._sizes = [min(batch_size, len(group)) // world * world for group in self._groups]
        self._stimuli, self._seed, self._augment = stimuli, (seed, kind), augment
        self._share = slice(rank, None, world)
        self.labels = stimuli.labels
        self._pass: tuple[int, list[np.ndarray[Any, Any]]] = (-1, [])

    def __len__(self) -> int:
        return sum(len(group) // size for group, size in zip(self._groups, self._sizes, strict=True))

    def begin(self) -> None:
        """Nothing: draws do not depend on what was drawn before."""

    def skip(self, step: int) -> None:
        """Nothing: draws do not depend on what was drawn before."""

    def draw(self, step: int) -> Batch:
        """The batch of a step (counted from 0 over the whole run)."""
        number, place = divmod(step, len(self))
        if self._pass[0] != number:
            self._pass = (number, self._batches(np.random.default_rng([*self._seed, number])))
        rows = self._pass[1][place][self._share]
        images = self._stimuli.images(rows.tolist())
        return Batch(
            images if self._augment is None else self._augment(images),
            [self._stimuli.ids[row] for row in rows],
            None if self.labels is None else self.labels[torch.from_numpy(rows)],
        )

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
        batches = []
        for group, size in zip(self._groups, self._sizes, strict=True):
            order = rng.permutation(group)
            batches += [order[start : start + size] for start in range(0, len(group) - size + 1, size)]
        return [batches[place] for place in rng.permutation(len(batches))]


class LoaderStream:
    """Batches of anyone's DataLoader, or of any sized iterable of (images, labels) or (images, labels, ids).

    Where it is shorter than the epoch it starts again. Its order depends on the seed and on the step at which
    it starts, so that an epoch can be replayed. Several processes share out one order, and augment each in
    its own way.
    """

    def __init__(self, loader: Any, seed: int, rank: int = 0, world: int = 1) -> None:
        try:
            empty = len(loader) == 0
        except TypeError as error:
            raise NeurordlError(
                f"labelled: {type(loader).__name__} has no length; give a DataLoader or a list of batches"
            ) from error
        if empty:
            raise NeurordlError("labelled: the loader has no batch; does drop_last drop the only one?")
        self._loader, self._seed, self._rank, self._world = loader, seed, rank, world
        self._iterator: Iterator[Any] = iter(())

    def __len__(self) -> int:
        return len(self._loader)

    def begin(self) -> None:
        """Start the loader anew at the next draw."""
        self._iterator = iter(())

    def skip(self, step: int) -> None:
        """Draw and forget: a loader's random draws depend on those before."""
        self.draw(step)

    def draw(self, step: int) -> Batch:
        """The next batch."""
        given = next(self._iterator, None)
        if given is None:
            self._iterator = self._start(step)
            given = next(self._iterator, None)
        if given is None:
            raise NeurordlError("labelled: the loader gave no batch; it must start again each time")
        return _batch(given)

    def _start(self, step: int) -> Iterator[Any]:
        seed_all(self._seed, step)  # the same in all processes: they share out one order
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
        if wrapped is not None:  # the order of a sampler of one's own is drawn before processes part
            type(wrapped).reset(wrapped)
            wrapped.reset = lambda: None
        if self._world > 1:
            seed_all(self._seed, step, self._rank)
            if isinstance(generator := getattr(self._loader, "generator", None), torch.Generator):
                generator.manual_seed(number + self._rank)  # which seeds the workers
        return iter(self._loader)


def _batch(given: Any) -> Batch:
    """What a loader gave, checked."""
    if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3 or not isinstance(given[0], Tensor):
        raise NeurordlError(
            "labelled: each batch must be (images, labels) or (images, labels, ids), images a tensor"
        )
    labels = torch.as_tensor(given[1])
    ids = None
    if len(given) == 3:
        ids = [str(one) for one in (given[2].tolist() if isinstance(given[2], Tensor) else given[2])]
    return check_batch(Batch(given[0], ids, labels))


def check_batch(batch: Batch) -> Batch:
    """Raise unless there is one id and one label for each image, as far as there are any."""
    n = len(batch.images)
    for name, part in (("ids", batch.ids), ("labels", batch.labels)):
        if part is not None and len(part) != n:
            raise NeurordlError(f"a batch of {n} images has {len(part)} {name}; give one for each image")
    if batch.labels is not None and not isinstance(batch.labels, Tensor):
        raise NeurordlError(f"labels: expected a tensor, got a {type(batch.labels).__name__}")
    return batch


def labelled_stream(
    labelled: Labelled,
    batch_size: int,
    seed: int,
    augment: Augment | None,
    rank: int,
    world: int,
    share: Callable[[DataLoader[Any]], Any],
) -> SetStream | LoaderStream:
    """The labelled stream of whatever the user gave; `share` gives a loader's part to each process."""
    if isinstance(labelled, StimulusSet):
        if labelled.labels is None:
            raise NeurordlError("labelled: this StimulusSet has no labels; give labels= when it is made")
        return SetStream(labelled, batch_size, seed, augment=augment, rank=rank, world=world)
    if augment is not None:
        raise NeurordlError("augment= works on a StimulusSet; a loader's data set brings its own")
    loader = _loader(labelled, max(1, batch_size // world), shuffle=True)
    if world > 1:
        if not isinstance(loader, DataLoader):
            raise NeurordlError(
                f"labelled: several processes cannot share out a {type(loader).__name__}; give a "
                "StimulusSet, Dataset or DataLoader"
            )
        if type(loader.batch_sampler) not in (BatchSampler, type(None)):
            raise NeurordlError(  # Fabric would put a sampler in order in place of its own
                f"labelled: several processes cannot share out a {type(loader.batch_sampler).__name__}; give "
                "the DataLoader a sampler= and a batch_size= instead of its batch_sampler="
            )
        loader = share(loader)
    return LoaderStream(loader, seed, rank, world)


def _loader(labelled: Any, batch_size: int, shuffle: bool) -> Any:
    """A DataLoader of a Dataset; anything else as it is."""
    if not isinstance(labelled, Dataset) or isinstance(labelled, DataLoader):
        return labelled
    return DataLoader(
        labelled, batch_size=batch_size, shuffle=shuffle and not isinstance(labelled, IterableDataset)
    )


def each_once(labelled: Labelled, batch_size: int) -> Iterator[Batch]:
    """Batches with each image once, in order, for evaluation."""
    if not isinstance(labelled, StimulusSet):
        yield from map(_batch, _loader(labelled, batch_size, shuffle=False))
        return
    for start in range(0, len(labelled), batch_size):
        part = slice(start, start + batch_size)
        yield Batch(
            labelled.images(part),
            labelled.ids[part],
            None if labelled.labels is None else labelled.labels[part],
        )


def check_labels(labels: Tensor, n_classes: int) -> None:
    """Raise unless labels are whole numbers from 0 to n_classes - 1."""
    if labels.is_floating_point() or labels.ndim != 1:
        raise NeurordlError(
            f"labels: expected whole numbers of shape (n,), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise NeurordlError(
            f"labels run from {low} to {high}, but the student has {n_classes} outputs (labels 0 to "
            f"{n_classes - 1}); give the student more classes, or mend the labels"
        )
