"""The two streams of training: labelled batches and stimulus batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neurordl.errors import NeurordlError
from neurordl.matching import natural_key
from neurordl.stimuli import StimulusSet
from neurordl.teachers import Batch

Augment = Callable[[Tensor], Tensor]
Labelled = StimulusSet | DataLoader[Any] | Dataset[Any] | Iterable[Any]


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

    A pass takes as many full batches as there are; the stimuli left over change from pass to pass. Stimuli are
    drawn over sorted ids, so the order of the set does not matter. Across processes, each takes its share of the
    batch.
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
        labels = self._stimuli.labels
        return Batch(
            images if self._augment is None else self._augment(images),
            [self._stimuli.ids[row] for row in rows],
            None if labels is None else labels[torch.from_numpy(rows)],
        )

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray[Any, Any]]:
        batches = []
        for group, size in zip(self._groups, self._sizes, strict=True):
            order = rng.permutation(group)
            batches += [order[start : start + size] for start in range(0, len(group) - size + 1, size)]
        return [batches[place] for place in rng.permutation(len(batches))]


class LoaderStream:
    """Batches of anyone's DataLoader, or of any sized iterable of (images, labels) or (images, labels, ids).

    Where it is shorter than the epoch it starts again. Its order depends on the seed of the step at which it starts,
    so that an epoch can be replayed.
    """

    def __init__(self, loader: Any) -> None:
        try:
            empty = len(loader) == 0
        except TypeError as error:
            raise NeurordlError(
                f"labelled: {type(loader).__name__} has no length; give a DataLoader or a list of batches"
            ) from error
        if empty:
            raise NeurordlError("labelled: the loader has no batch; does drop_last drop the only one?")
        self._loader, self._iterator = loader, iter(())

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
        try:
            given = next(self._iterator)
        except StopIteration:
            self._iterator = self._start()
            given = next(self._iterator)
        if (
            not isinstance(given, tuple | list)
            or not 2 <= len(given) <= 3
            or not isinstance(given[0], Tensor)
        ):
            raise NeurordlError(
                "labelled: each batch must be (images, labels) or (images, labels, ids), images a tensor"
            )
        ids = [str(stimulus) for stimulus in given[2]] if len(given) == 3 else None
        return Batch(given[0], ids, torch.as_tensor(given[1]))

    def _start(self) -> Iterator[Any]:
        # A generator of the loader's own would carry its state over from before an interruption.
        owners = (self._loader, getattr(self._loader, "sampler", None))
        for generator in {getattr(owner, "generator", None) for owner in owners}:
            if isinstance(generator, torch.Generator):
                generator.manual_seed(int(torch.randint(2**62, ())))
        return iter(self._loader)


def labelled_stream(
    labelled: Labelled, batch_size: int, seed: int, augment: Augment | None, rank: int, world: int
) -> SetStream | LoaderStream:
    """The labelled stream of whatever the user gave."""
    if isinstance(labelled, StimulusSet):
        if labelled.labels is None:
            raise NeurordlError("labelled: this StimulusSet has no labels; give labels= when it is made")
        return SetStream(labelled, batch_size, seed, augment=augment, rank=rank, world=world)
    if augment is not None:
        raise NeurordlError("augment= works on a StimulusSet; a loader's data set brings its own")
    if isinstance(labelled, Dataset) and not isinstance(labelled, DataLoader):
        labelled = DataLoader(labelled, batch_size=max(1, batch_size // world), shuffle=True)
    return LoaderStream(labelled)


def each_once(labelled: Labelled, batch_size: int) -> Iterator[Batch]:
    """Batches with each image once, in order, for evaluation."""
    if isinstance(labelled, StimulusSet):
        for start in range(0, len(labelled), batch_size):
            part = slice(start, start + batch_size)
            yield Batch(
                labelled.images(part),
                labelled.ids[part],
                None if labelled.labels is None else labelled.labels[part],
            )
        return
    loader = labelled
    if isinstance(labelled, Dataset) and not isinstance(labelled, DataLoader):
        loader = DataLoader(labelled, batch_size=batch_size)
    stream = LoaderStream(loader)
    for step in range(len(stream)):
        yield stream.draw(step)
