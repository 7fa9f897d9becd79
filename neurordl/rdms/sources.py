"""The patterns of one Dataset, read in blocks of stimuli: averaged, centred, whitened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.kernels.distances import Rows

__all__ = ["Centre", "Source", "coded"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Centre = Literal["run", "all"]
_AT_ONCE = 1 << 24  # bytes of measurements that are read at once
_IN_CACHE = 1 << 19
_KEPT = 1 << 28  # bytes of the patterns of all runs that are kept rather than read again for each run


class Source:
    """Mean patterns of a Dataset, or of some of its channels.

    Parameters
    ----------
    dataset, label
        The measurements (a memory map stays on the disk), and what to call them.
    descriptor
        The observation descriptor with the stimulus ids.
    by_run
        Whether runs are needed.
    center
        Which mean pattern over measurements is removed: of each run, of all, or none.
    channels
        Places of the channels; all where None.
    dtype
        The precision to compute in; averages are taken in float64.
    """

    def __init__(
        self,
        dataset: DatasetBase,
        label: str,
        descriptor: str,
        *,
        by_run: bool,
        center: Centre | None,
        channels: Places | None,
        dtype: torch.dtype,
    ) -> None:
        self.label, self.channels, self.dtype = label, channels, dtype
        self.record = dataset.descriptors.get("provenance")  # of how the patterns were made
        self.measurements = _checked(np.asanyarray(dataset.measurements), label)
        self.ids, self.stimulus = _stimuli(dataset, descriptor, label)
        self.n_channels = self.measurements.shape[1] if channels is None else len(channels)
        self.runs: list[Any] = [None]
        self.run: Places = np.zeros(len(self.stimulus), dtype=np.intp)
        if by_run or center == "run":
            self.runs, self.run = coded(dataset, "run", label)
        self.cell = self.stimulus * len(self.runs) + self.run
        self.counts = np.bincount(self.cell, minlength=len(self.ids) * len(self.runs))
        self.counts = self.counts.reshape(len(self.ids), -1)
        # rows in order of stimulus and run, so that a block of stimuli is a block of rows
        self.order = np.argsort(self.cell, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(self.counts.ravel())])
        self.factor: Tensor | None = None
        self.precision: Tensor | None = None
        self.offset: Tensor | None = None
        self.centred_by = center
        self.removed = self._means_to_remove(center)
        # one measurement a stimulus, or a stimulus and run: nothing to average, and no float64 in between
        self.single = self.removed is None and len(self.stimulus) == len(self.ids)
        self.single_by_run = self.removed is None and bool((self.counts == 1).all())

    @property
    def balanced(self) -> bool:
        """Whether every stimulus was measured equally often in every run."""
        return bool((self.counts == self.counts[0, 0]).all())

    def rows(self, start: int, stop: int) -> Tensor:
        """Mean patterns of some stimuli, (stop - start, channels)."""
        if self.single:
            return self._direct(self.order[start:stop])
        cells = self._sums(start, stop)
        return self._ready(cells.sum(axis=1) / self.counts[start:stop].sum(axis=1)[:, None])

    def sides(self, start: int, stop: int) -> tuple[Tensor, ...]:
        """Mean patterns, and beside them, where there is a precision, what it makes of them."""
        return self._with_precision(self.rows(start, stop))

    def _with_precision(self, rows: Tensor) -> tuple[Tensor, ...]:
        return (rows,) if self.precision is None else (rows, rows @ self.precision.to(self.dtype))

    def cells(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Mean patterns by run, (runs, stop - start, channels); NaN where a stimulus is not in a run."""
        stop = len(self.ids) if stop is None else stop
        counts = self.counts[start:stop, :, None]
        with np.errstate(invalid="ignore"):
            means = self._sums(start, stop) / np.where(counts > 0, counts, np.nan)
        return self._ready(np.ascontiguousarray(means.transpose(1, 0, 2)))

    def by_runs(self) -> Callable[[int | None], Rows]:
        """For a run its mean patterns as blocks; for None the sum of those of all runs."""
        n, runs = len(self.ids), range(len(self.runs))
        fits = n * len(runs) * self.n_channels * self.dtype.itemsize <= _KEPT
        whole = [self._with_precision(part) for part in self._parts(0, n)] if fits else None

        def of_run(run: int | None) -> Rows:
            chosen = runs if run is None else [run]

            def rows(start: int, stop: int) -> tuple[Tensor, ...]:
                if whole is None:
                    parts = [self._with_precision(part) for part in self._parts(start, stop, chosen)]
                else:
                    parts = [tuple(side[start:stop] for side in whole[one]) for one in chosen]
                return tuple(_total(sides) for sides in zip(*parts, strict=True))

            return rows

        return of_run

    def _parts(self, start: int, stop: int, runs: Sequence[int] | None = None) -> Sequence[Tensor]:
        """Mean patterns of some stimuli in each of some runs."""
        chosen = range(len(self.runs)) if runs is None else runs
        if not self.single_by_run:
            cells = self.cells(start, stop)
            return [cells[run] for run in chosen]
        order = self.order.reshape(len(self.ids), -1)[start:stop]
        return [self._direct(order[:, run]) for run in chosen]

    def within(self) -> tuple[Floats, int]:
        """Centred measurements less the mean of their stimulus, and their degrees of freedom."""
        measured = self._read(np.arange(len(self.stimulus)))
        measured = measured - self._removed_from(self.run)
        means = np.zeros((len(self.ids), self.n_channels))
        np.add.at(means, self.stimulus, measured)
        means /= self.counts.sum(axis=1)[:, None]
        lost = len(self.ids) + (len(self.runs) - 1 if self.centred_by == "run" else 0)
        return measured - means[self.stimulus], len(measured) - lost

    def _direct(self, rows: Places) -> Tensor:
        """Single measurements as patterns: a view where they follow one another."""
        found = self._read(rows, np.float64 if self.dtype == torch.float64 else np.float32)
        return self._ready(found if self._torchable(found) else found.copy())

    @staticmethod
    def _torchable(block: npt.NDArray[Any]) -> bool:
        return block.flags.writeable and min(block.strides) >= 0

    def there(self, run: int | None = None) -> bool:
        """Whether the patterns, or those of a run, are views of the measurements."""
        if not (self.single if run is None else self.single_by_run) or self.channels is not None:
            return False
        if self.offset is not None or self.factor is not None or self.precision is not None:
            return False
        order = self.order if run is None else self.order.reshape(len(self.ids), -1)[:, run]
        kind = torch.from_numpy(np.empty(0, self.measurements.dtype)).dtype
        return _consecutive(order) and kind == self.dtype and self._torchable(self.measurements)

    def _ready(self, means: npt.NDArray[Any]) -> Tensor:
        found = torch.from_numpy(means).to(self.dtype)
        if self.offset is not None:
            found = found - self.offset.to(self.dtype)
        return found if self.factor is None else found @ self.factor.to(self.dtype)

    def _sums(self, start: int, stop: int) -> Floats:
        """Sums of the centred measurements of each stimulus and run, (stimuli, runs, channels), float64."""
        runs = len(self.runs)
        starts = self.starts[start * runs : stop * runs + 1]
        measured = self._read(self.order[starts[0] : starts[-1]])
        filled = np.flatnonzero(np.diff(starts))
        if len(filled) == len(measured):  # a measurement for each cell: nothing to add up
            sums = measured
        else:
            sums = np.add.reduceat(measured, starts[filled] - starts[0], axis=0)
        if len(filled) < len(starts) - 1:
            every = np.zeros((len(starts) - 1, self.n_channels))
            every[filled] = sums
            sums = every
        sums = sums.reshape(stop - start, runs, -1)
        if self.removed is None:
            return sums
        return sums - self.counts[start:stop, :, None] * self._removed_from(np.arange(runs))

    def _read(self, rows: Places, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """Measurements of some rows; rows that follow one another are a view, also of a memory map."""
        if _consecutive(rows):
            block = self.measurements[rows[0] : rows[-1] + 1]
        else:
            block = self.measurements[rows]
        return np.asarray(block if self.channels is None else block[:, self.channels], dtype=dtype)

    def _means_to_remove(self, center: Centre | None) -> Floats | None:
        if center is None:
            return None
        group = self.run if center == "run" else np.zeros_like(self.run)
        sums = np.zeros((int(group.max()) + 1, self.n_channels))
        step = max(1, _AT_ONCE // (8 * self.measurements.shape[1]))
        for start in range(0, len(group), step):
            block, own = self._read(np.arange(len(group))[start : start + step]), group[start : start + step]
            for number in np.unique(own):
                sums[number] += block[own == number].sum(axis=0)
        means: Floats = sums / np.bincount(group)[:, None]
        if not np.isfinite(means).all():
            raise NeurordlError(
                f"center={center!r}: the measurements of {self.label} hold NaN or infinity, so they have no "
                "mean pattern; leave those channels or observations out"
            )
        return means

    def _removed_from(self, run: Places) -> Floats:
        if self.removed is None:
            return np.zeros((1, self.n_channels))
        return self.removed[run if len(self.removed) == len(self.runs) else np.zeros_like(run)]


def _consecutive(rows: Places) -> bool:
    return len(rows) > 0 and int(rows[-1] - rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all())


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Sum of patterns, some rows at a time: what was added last is still in the cache."""
    if len(parts) == 1:
        return parts[0]
    total = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    step = max(1, _IN_CACHE // (total.shape[1] * total.element_size()))
    for start in range(0, len(total), step):
        at = slice(start, start + step)
        torch.add(parts[0][at], parts[1][at], out=total[at])
        for part in parts[2:]:
            total[at] += part[at]
    return total


def coded(dataset: DatasetBase, descriptor: str, label: str) -> tuple[list[Any], Places]:
    """Values of an observation descriptor in order of first appearance, and each row's number among them."""
    if descriptor not in dataset.obs_descriptors:
        raise NeurordlError(
            f"{label} has no observation descriptor {descriptor!r}; it has "
            f"{', '.join(map(repr, dataset.obs_descriptors)) or 'none'}"
        )
    given = dataset.obs_descriptors[descriptor]
    # a list is not made an array first, which would turn a missing name among texts into the text 'nan'
    values = given.tolist() if isinstance(given, np.ndarray) else list(given)
    for row, value in enumerate(values):
        if value is None or value != value or isinstance(value, list | dict | np.ndarray):
            raise NeurordlError(
                f"{label} has {value!r:.60} as {descriptor!r} of observation {row} (from 0); give each a "
                "name or a number, or leave it out"
            )
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.fromiter((numbers[value] for value in values), np.intp, len(values))


def _checked(measurements: npt.NDArray[Any], label: str) -> npt.NDArray[Any]:
    if measurements.ndim != 2 or measurements.dtype.kind not in "fiub" or not measurements.shape[1]:
        raise NeurordlError(
            f"the measurements of {label} must be real numbers, (observations, channels), not "
            f"{measurements.dtype} of shape {measurements.shape}; average over time first, where there is any"
        )
    return measurements


def _stimuli(dataset: DatasetBase, descriptor: str, label: str) -> tuple[tuple[str, ...], Places]:
    ids, stimulus = coded(dataset, descriptor, label)
    if len(ids) < 2:
        raise NeurordlError(f"{label} has a single stimulus, {ids[0]!r}; an RDM needs two or more")
    for name in ids:
        if not isinstance(name, str) or not name:
            raise NeurordlError(
                f"stimulus ids are text, and {label} has {name!r} ({type(name).__name__}); use str()"
            )
    return tuple(str(name) for name in ids), stimulus
