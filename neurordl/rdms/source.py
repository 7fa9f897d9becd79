"""The one reader of repeated patterns: in blocks, averaged, centered, by run, also from a memory map."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, explain, notify
from neurordl.measures.dissimilarities import Dissimilarity
from neurordl.validate import check_choice, check_number, listed

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase

Center = Literal["run", "all"]
Stimuli = slice | npt.NDArray[np.integer]
Places = npt.NDArray[np.intp]

_AT_ONCE = 1 << 24  # bytes of measurements that are read at once
_WINDOWS_AT_ONCE = 1 << 24  # bytes of measurements, and of distances, in the windows of a block
_NEXT = 1e-3  # of the interval between samples: up to here two times are the same
# ratio of the energy of a run's mean to what averaged noise alone has, from which there is a mean
_CHANCE = 4.0
_SPARSE = 0.5  # share of stimuli and runs from which patterns by run are stored with their gaps
_FLAT = 1e-12  # spread of a constant channel, relative to its values: rounding
_DTYPES = {np.dtype(np.float64): torch.float64, np.dtype(np.float32): torch.float32}


class Source:
    """Patterns of the stimuli of a Dataset, which are read when they are needed.

    Parameters
    ----------
    dataset
        The measurements; a memory map stays on the disk. The Dataset is not changed.
    label
        What messages call it.
    descriptor
        The observation descriptor that holds the stimulus ids.
    by_run
        Whether to read the observation descriptor ``run``.
    channels
        Numbers of the channels to read; all by default.
    dtype
        The precision of patterns.
    sums
        The precision in which measurements are averaged.

    Raises
    ------
    NeurordlError
        Measurements that are not real numbers, a descriptor that is absent, ids that are not text, or a
        single stimulus.
    """

    axes: ClassVar[tuple[str, ...]] = ("observations", "channels")

    def __init__(
        self,
        dataset: DatasetBase,
        label: str,
        descriptor: str = "stimulus",
        *,
        by_run: bool = False,
        channels: Places | None = None,
        dtype: npt.DTypeLike = np.float64,
        sums: npt.DTypeLike = np.float64,
    ) -> None:
        self.label, self.channels, self.dtype, self.sums = label, channels, check_dtype(dtype), sums
        self.record = parsed_record(dataset.descriptors.get("provenance"))
        self.measurements = np.asanyarray(dataset.measurements)
        shape = self.measurements.shape
        if len(shape) != len(self.axes) or self.measurements.dtype.kind not in "fiub" or not shape[1]:
            remedy = "measurements over time are a TemporalDataset of rsatoolbox"
            if hasattr(dataset, "time_descriptors"):
                remedy = "make a Dataset of the mean of a window of times"
            raise NeurordlError(
                f"the measurements of {label} must be real numbers, ({', '.join(self.axes)}), not "
                f"{self.measurements.dtype} of shape {shape}; {remedy}"
            )
        self.n_channels = shape[1] if channels is None else len(channels)
        names_of = dataset.channel_descriptors.get("channel")
        self.channel_names = None if names_of is None else list(map(str, names_of))
        self.types = dataset.channel_descriptors.get("type")
        names, self.stimulus = coded(dataset, descriptor, label)
        if len(names) < 2:
            raise NeurordlError(f"{label} has a single stimulus, {names[0]!r}; an RDM needs two or more")
        if wrong := [name for name in names if not isinstance(name, str) or not name]:
            problem = f"{label} has {wrong[0]!r} ({type(wrong[0]).__name__})"
            raise NeurordlError(f"stimulus ids are text, and {problem}; use str()")
        self.ids = tuple(map(str, names))
        self.numbers = {stimulus: number for number, stimulus in enumerate(self.ids)}
        self.runs: list[Any] = [None]
        self.run = np.zeros_like(self.stimulus)
        if by_run:
            self.runs, self.run = coded(dataset, "run", label)
        cell = self.stimulus * len(self.runs) + self.run
        self.counts = np.bincount(cell, minlength=len(self.ids) * len(self.runs)).reshape(len(self.ids), -1)
        # rows in order of stimulus and run, so that a block of stimuli is a block of rows
        self.order = np.argsort(cell, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(self.counts.ravel())])
        self.center: Center | None = None
        self.removed: Floats | None = None

    @property
    def row_size(self) -> int:
        """How many numbers are read of an observation: those of a channel follow one another."""
        return self.n_channels

    @property
    def n_rdms(self) -> int:
        """How many RDMs its patterns have."""
        return 1

    @property
    def balanced(self) -> bool:
        """Whether every stimulus was measured equally often in every run."""
        return bool((self.counts == self.counts[0, 0]).all())

    def centered(self, center: Center | None, stimuli: Stimuli = slice(None)) -> Source:
        """Return the source less a mean pattern.

        Parameters
        ----------
        center
            Which mean is removed: that of each run, that of all measurements, or none.
        stimuli
            The stimuli whose measurements make the mean; all by default.

        Raises
        ------
        NeurordlError
            The mean is not finite, or there is no such mean.
        """
        if center is None:
            return self
        result = copy.copy(self)
        result.center = check_choice("center", center, (None, *get_args(Center)))
        result.removed = self._means(center == "run", stimuli)
        return result

    def _means(self, by_run: bool, stimuli: Stimuli) -> Floats:
        """Mean pattern over the measurements of stimuli, of each run or of all; NaN for a run without any."""
        rows = np.flatnonzero(np.isin(self.stimulus, np.arange(len(self.ids))[stimuli]))
        group = self.run[rows] if by_run else np.zeros_like(rows)
        counts = np.bincount(group, minlength=len(self.runs) if by_run else 1)
        totals = np.zeros((len(counts), self.row_size))
        step = max(1, _AT_ONCE // (8 * math.prod(self.measurements.shape[1:])))
        for start in range(0, len(rows), step):
            block, numbers = self._read(rows[start : start + step]), group[start : start + step]
            for number in np.unique(numbers):
                totals[number] += block[numbers == number].sum(axis=0)
        if not np.isfinite(totals).all():
            blocks = [~np.isfinite(self._read(rows[k : k + step])) for k in range(0, len(rows), step)]
            places = np.flatnonzero(np.any([block.any(axis=0) for block in blocks], axis=0))
            channels = np.unique(places // (self.row_size // self.n_channels))
            count = f"{len(channels)} of {self.n_channels}"
            problem = f"the measurements of {self.label} hold NaN or infinity in {count}"
            broken = np.concatenate([block.any(axis=1) for block in blocks])
            affected = dict.fromkeys(self.ids[number] for number in self.stimulus[rows[broken]])
            where = f"stimuli {listed(affected, quote=True)}, channels {listed(channels)} from 0"
            raise NeurordlError(f"{problem} channels; leave those channels or observations out ({where})")
        return np.asarray(totals / np.where(counts > 0, counts, np.nan)[:, None])

    def check_finite(self, stimuli: Stimuli) -> None:
        """Raise an error if a measurement of these stimuli is NaN or infinite."""
        self._means(False, stimuli)

    def of_channels(self, chosen: Places) -> Source:
        """Return the source with some of its channels, before any mean is removed."""
        result = copy.copy(self)
        result.channels = chosen if self.channels is None else self.channels[chosen]
        result.n_channels = len(chosen)
        return result

    def types_of_channels(self) -> Places:
        """The number of each channel's type, such as "mag" or "eeg"; 0 if types are not known."""
        if self.types is None:
            return np.zeros(self.n_channels, dtype=np.int64)
        types = np.asarray(self.types, dtype=str)
        return np.unique(types if self.channels is None else types[self.channels], return_inverse=True)[1]

    def split_half(self, stimuli: Stimuli = slice(None)) -> tuple[Floats, int]:
        """Correlation of each channel's odd and even measurements of the stimuli that have repeats.

        Parameters
        ----------
        stimuli
            The stimuli over which means of the first, third, ... and of the second, fourth, ... measurement
            are correlated.

        Returns
        -------
        reliability, n_stimuli
            (channels,), NaN where a half is constant, and the number of stimuli with repeats.
        """
        numbers = np.arange(len(self.ids))[stimuli]
        first, last = self.starts[:: len(self.runs)][numbers], self.starts[:: len(self.runs)][numbers + 1]
        repeated = last - first > 1
        first, last = first[repeated], last[repeated]
        step = max(1, _AT_ONCE // (16 * self.measurements.shape[1]))
        shift, sums = np.zeros(()), np.zeros((5, self.n_channels))
        for start in range(0, len(first), step):
            ends = list(zip(first[start : start + step], last[start : start + step], strict=True))
            a, b = (self._means_of([self.order[i + half : j : 2] for i, j in ends]) for half in (0, 1))
            shift = shift if start else a.mean(axis=0)
            a, b = a - shift, b - shift
            sums += np.stack([x.sum(axis=0) for x in (a, b, a * a, b * b, a * b)])
        a, b, aa, bb, ab = sums / max(len(first), 1)
        spread = np.sqrt(np.maximum(aa - a * a, 0) * np.maximum(bb - b * b, 0))
        reliability = np.divide(
            ab - a * b, spread, out=np.full(len(a), np.nan), where=spread > _FLAT * (aa + bb)
        )
        return reliability, len(first)

    def _means_of(self, groups: Sequence[Places]) -> Floats:
        """Mean of the measurements of each group of rows, (groups, channels)."""
        lengths = np.array([len(rows) for rows in groups])
        measured = self._read(np.concatenate(groups))
        means = np.add.reduceat(measured, np.cumsum(lengths) - lengths, axis=0) / lengths[:, None]
        return np.asarray(means)

    def patterns(self, stimuli: Stimuli = slice(None)) -> Tensor:
        """Mean patterns of stimuli, (stimuli, channels), or as `WindowSource` says."""
        if self.removed is None and len(self.stimulus) == len(self.ids):
            return self._direct(self.order[stimuli])
        sums, counts = self._sums(stimuli, by_run=False)
        means = sums[:, 0]
        means /= counts.astype(means.dtype)
        return self._tensor(means)

    def by_run(self, stimuli: Stimuli = slice(None)) -> Tensor:
        """Mean patterns by run, (runs, stimuli, channels); NaN where a stimulus is not in a run."""
        chosen = np.arange(len(self.ids))[stimuli]
        if (self.counts[chosen] == 1).all():  # nothing to average: read in the order of runs
            cells = chosen * len(self.runs) + np.arange(len(self.runs))[:, None]
            measured = self._read_centered(self.order[self.starts[cells]].ravel())
            return self._tensor(measured.reshape(*cells.shape, -1))
        sums, counts = self._sums(stimuli)
        with np.errstate(invalid="ignore"):
            means = sums / np.where(counts > 0, counts, np.nan).astype(sums.dtype)[:, :, None]
        return self._tensor(np.ascontiguousarray(means.transpose(1, 0, 2)))

    @property
    def sparse(self) -> bool:
        """Whether most stimuli were not measured in most runs, so that `compact` takes less memory."""
        return bool((self.counts > 0).mean() < _SPARSE)

    def compact(self, stimuli: Stimuli = slice(None)) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean patterns of the stimuli that each run has, and the options by which a measure knows them.

        Returns
        -------
        patterns, options
            (runs, k, channels), without runs that have none of the stimuli, and 0 where a run has fewer than
            k; ``counts``, (runs, stimuli), of the type of the patterns, and ``stimuli``, (runs, k).
        """
        counts = self.counts[stimuli].T
        means, run, place = self.measured(stimuli)
        used, run = np.unique(run, return_inverse=True)
        lengths = np.bincount(run)
        slot = np.arange(len(run)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        patterns = np.zeros((len(used), lengths.max(), self.row_size), means.dtype)
        patterns[run, slot] = means
        numbers = np.full(patterns.shape[:2], counts.shape[1])
        numbers[run, slot] = place
        tensor = self._tensor(patterns)
        options = {"counts": torch.from_numpy(counts[used]).to(tensor), "stimuli": torch.from_numpy(numbers)}
        return tensor, options

    def measured(self, stimuli: Stimuli = slice(None)) -> tuple[npt.NDArray[Any], Places, Places]:
        """Mean patterns of stimuli in the runs that have them, one run after another, and which these are.

        Returns
        -------
        means, run, place
            (patterns, channels), the number of the run of each pattern, and the place of its stimulus.
        """
        chosen = np.arange(len(self.ids))[stimuli]
        run, place = np.nonzero(self.counts[chosen].T)
        cells = chosen[place] * len(self.runs) + run
        number = self.counts.ravel()[cells]
        ends = np.cumsum(number)
        rows = np.arange(ends[-1]) + np.repeat(self.starts[cells] - ends + number, number)
        sums = np.add.reduceat(self._read_centered(self.order[rows]), ends - number, axis=0)
        return sums / number[:, None].astype(sums.dtype), run, place

    def each_run(self, stimuli: Stimuli, runs: Sequence[int]) -> list[Tensor]:
        """Mean patterns of stimuli in each of some runs; views of the measurements where they can be."""
        if self.removed is not None or (self.counts != 1).any():
            patterns = self.by_run(stimuli)
            return [patterns[run] for run in runs]
        order = self.order.reshape(len(self.ids), -1)[stimuli]
        return [self._direct(order[:, run]) for run in runs]

    def in_memory(self, run: int | None = None) -> bool:
        """Whether all patterns, or those of a run, are views of the measurements."""
        if self.removed is not None or self.channels is not None or (self.counts != 1).any():
            return False
        if run is None and len(self.runs) > 1:
            return False
        same = _DTYPES.get(self.measurements.dtype) == self.dtype
        order = self.order.reshape(len(self.ids), -1)[:, run or 0]
        return same and _torchable(self.measurements) and _consecutive(order)

    def within(self) -> tuple[Floats, float]:
        """Return measurements less the mean of their stimulus, and their degrees of freedom."""
        rows = np.arange(len(self.stimulus))
        sums, counts = self._sums(slice(None), by_run=False)
        means = sums[:, 0] / counts
        lost = len(self.ids) + (len(self.runs) - 1 if self.center == "run" else 0)
        return self._read_centered(rows) - means[self.stimulus], len(rows) - lost

    def _sums(self, stimuli: Stimuli, by_run: bool = True) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Sums of measurements by stimulus and run, (stimuli, runs or 1, channels), and how many they are."""
        runs = len(self.runs) if by_run else 1
        starts = self.starts[:: len(self.runs) // runs]
        chosen = np.arange(len(self.ids))[stimuli]
        cells = (chosen[:, None] * runs + np.arange(runs)).ravel()
        counts = np.diff(starts)[cells]
        ends = np.cumsum(counts)
        rows = np.arange(ends[-1]) + np.repeat(starts[cells] - ends + counts, counts)
        measured = self._read_centered(self.order[rows])
        if (counts == counts[0]).all():
            sums = measured.reshape(len(cells), counts[0], -1)
            sums = sums[:, 0] if counts[0] == 1 else sums.sum(axis=1)
        else:
            filled = counts > 0
            sums = np.zeros((len(cells), self.row_size), measured.dtype)
            sums[filled] = np.add.reduceat(measured, (ends - counts)[filled], axis=0)
        return sums.reshape(len(chosen), runs, -1), counts.reshape(len(chosen), runs)

    def _read_centered(self, rows: Places) -> npt.NDArray[Any]:
        measured = self._read(rows, self.sums)
        if self.removed is None:
            return measured
        run = self.run[rows] if len(self.removed) > 1 else np.zeros_like(rows)
        removed = self.removed.astype(self.sums, copy=False)
        if len(unknown := np.unique(run[np.isnan(removed[run, 0])])):
            names = listed(self.runs[number] for number in unknown)
            problem = f"no training stimulus of {self.label} is in run {names}"
            raise NeurordlError(f"center='run': {problem}, so its mean is not known; use center='all'")
        return np.asarray(measured - (removed if len(removed) == 1 else removed[run]))

    def _read(self, rows: Places, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        """Measurements of some rows; rows that follow one another are a view, also of a memory map."""
        block = self.measurements[slice(rows[0], rows[-1] + 1) if _consecutive(rows) else rows]
        return np.asarray(block if self.channels is None else block[:, self.channels], dtype=dtype)

    def _direct(self, rows: Places) -> Tensor:
        """Single measurements as patterns: a view where they follow one another."""
        block = self._read(rows, np.float64 if self.dtype == torch.float64 else np.float32)
        return self._tensor(block if _torchable(block) else block.copy())

    def _tensor(self, patterns: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(patterns if patterns.flags.writeable else patterns.copy()).to(self.dtype)


@dataclass(frozen=True)
class Windows:
    """Windows of time in which RDMs are computed, in seconds.

    Parameters
    ----------
    start, stop
        The first and the last time, both included; by default those of the measurements.
    width
        Length of a window. By default each sample is a window.

        A window holds the samples from its start up to, but not including, its start plus ``width``, so that
        windows one after the other share no sample. Widths and steps are rounded to whole samples.
    step
        From the start of a window to that of the next; by default ``width``. With a smaller step, windows
        overlap.
    average
        Whether the pattern of a window is the mean of its samples. With False, it has all of them: channels x
        samples, the pattern over sensors and time.

    Raises
    ------
    NeurordlError
        A value is not a number, ``stop`` is before ``start``, a width or a step is not positive, or there is
        a step and no width.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Windows(0.0, 0.5, width=0.02, step=0.01)
    Windows(start=0.0, stop=0.5, width=0.02, step=0.01, average=True)
    """

    start: float | None = None
    stop: float | None = None
    width: float | None = None
    step: float | None = None
    average: bool = True

    def __post_init__(self) -> None:
        for name, low in (("start", -math.inf), ("stop", -math.inf), ("width", 0.0), ("step", 0.0)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), low, open_low=True, remedy="times are in seconds")
        if self.start is not None and self.stop is not None and self.stop < self.start:
            raise NeurordlError(f"stop={self.stop:g} is before start={self.start:g}; exchange them")
        if self.step is not None and self.width is None:
            raise NeurordlError("step= is between the starts of windows, and they have no width=; give it")

    def place(self, times: Floats, label: str) -> Placed:
        """Place the windows on the times of samples.

        Parameters
        ----------
        times
            Times of the samples, increasing.
        label
            What messages call the measurements.

        Raises
        ------
        NeurordlError
            A time is outside of those of the samples, a window is shorter than the interval between two
            samples or longer than all of them, or samples are not equally far apart.
        """
        interval = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
        chosen = np.full(len(times), True)
        for name, value, after in (("start", self.start, True), ("stop", self.stop, False)):
            if value is None:
                continue
            if not times[0] - (1 + _NEXT) * interval <= value <= times[-1] + (1 + _NEXT) * interval:
                extent = f"from {times[0]:g} to {times[-1]:g} s"
                raise NeurordlError(f"{name}={value:g} is outside of the times of {label}, {extent}")
            near = _NEXT * interval
            chosen &= times >= value - near if after else times <= value + near
        inside = np.flatnonzero(chosen)
        if not len(inside):
            raise NeurordlError(f"no sample of {label} is from {self.start} to {self.stop} s; widen it")
        if self.width is None:
            return Placed(int(inside[0]), 1, len(inside), 1, times[inside], [])
        if (np.abs(np.diff(times) - interval) > 0.01 * interval).any():
            problem = f"the samples of {label} are not equally far apart, so a window has no width"
            raise NeurordlError(f"{problem}; resample them, or leave out width=")
        remarks = list[str]()
        n, step = (_samples(x, interval, label, remarks) for x in (self.width, self.step or self.width))
        if n > len(inside):
            extent = f"{len(inside)} samples ({len(inside) * interval:g} s)"
            raise NeurordlError(f"width={self.width:g} is longer than the {extent} of {label}; shorten it")
        count = (len(inside) - n) // step + 1
        if rest := len(inside) - (count - 1) * step - n:
            remarks.append(f"the last {rest} of {len(inside)} samples fill no window and are left out")
        starts = inside[0] + step * np.arange(count)
        centers = times[starts[:, None] + np.arange(n)].mean(axis=1)
        return Placed(int(inside[0]), step, count, n, np.round(centers, 9), list(dict.fromkeys(remarks)))


class Placed(NamedTuple):
    """Windows on samples: the first sample, samples between starts, windows, samples of each, their times.

    ``remarks`` say what was rounded or left out.
    """

    first: int
    step: int
    n_windows: int
    n_samples: int
    times: Floats
    remarks: list[str]


def _samples(seconds: float, interval: float, label: str, remarks: list[str]) -> int:
    """How many samples a time is, rounded, which is remarked."""
    number = round(seconds / interval)
    if number < 1:
        problem = f"{seconds:g} s is shorter than the interval between samples of {label}"
        raise NeurordlError(f"{problem}, {interval:g} s; take a longer window or step")
    if abs(number - seconds / interval) > 0.01:
        rounded = f"{number} samples, {number * interval:g} s"
        remarks.append(f"{seconds:g} s of a window or step are rounded to {rounded}")
    return number


class WindowSource(Source):
    """Patterns in windows of time of a TemporalDataset.

    They have a window more than those of a `Source`: (windows, stimuli, channels), or by run (windows, runs,
    stimuli, channels). Windows that are not averaged have an axis of their samples after that of the windows.

    Parameters
    ----------
    dataset, label, descriptor, **options
        As for a `Source`, with measurements (observations, channels, times).
    windows
        The windows.

    Raises
    ------
    NeurordlError
        As a `Source`, or the times do not fit the measurements or the windows.
    """

    axes = ("observations", "channels", "times")

    def __init__(
        self, dataset: Any, label: str, descriptor: str = "stimulus", *, windows: Windows, **options: Any
    ) -> None:
        super().__init__(dataset, label, descriptor, **options)
        self.all_times = times_of(dataset, label)
        self.all_measurements = self.measurements
        self.average = windows.average
        self._place(windows.place(self.all_times, label))

    def _place(self, placed: Placed) -> None:
        stop = placed.first + (placed.n_windows - 1) * placed.step + placed.n_samples
        self.placed, self.measurements = placed, self.all_measurements[:, :, placed.first : stop]

    @property
    def row_size(self) -> int:
        """See `Source.row_size`."""
        return self.n_channels * self.placed.n_windows * self._n_kept

    @property
    def n_rdms(self) -> int:
        """See `Source.n_rdms`."""
        return self.placed.n_windows

    @property
    def _n_kept(self) -> int:
        """How many samples of a window are in its pattern."""
        return 1 if self.average else self.placed.n_samples

    @property
    def sparse(self) -> bool:
        """False: epochs have few runs, and their patterns by run are stored with gaps."""
        return False

    @property
    def many_samples(self) -> bool:
        """Whether patterns have an axis of samples."""
        return self._n_kept > 1

    def blocks(self) -> Iterator[WindowSource]:
        """The same in some windows at a time, so that one block of them is in memory."""
        n, placed = len(self.ids), self.placed
        distances = len(self.runs) * n * (n - 1) // 2
        size = 8 * max(len(self.stimulus) * self.row_size // placed.n_windows, 4 * self._n_kept * distances)
        step = max(1, _WINDOWS_AT_ONCE // size)
        for start in range(0, placed.n_windows, step):
            rows = slice(start, start + step)
            part = copy.copy(self)
            times = placed.times[rows]
            first = placed.first + start * placed.step
            part._place(placed._replace(first=first, n_windows=len(times), times=times))
            if self.removed is not None:
                shape = len(self.removed), self.n_channels, placed.n_windows, self._n_kept
                part.removed = self.removed.reshape(shape)[:, :, rows].reshape(shape[0], -1)
            yield part

    def each_sample(self, extent: tuple[float, float] | None) -> Iterator[Source]:
        """The same at each sample of a part of the times, or of all."""
        windows = Windows() if extent is None else Windows(*extent)
        placed = windows.place(self.all_times, self.label)
        for k, time in enumerate(placed.times):
            part = copy.copy(self)
            part._place(Placed(placed.first + k, 1, 1, 1, np.array([time]), []))
            part.removed = None
            yield part.centered(self.center)

    def _read(self, rows: Places, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[Any]:
        block = super()._read(rows, dtype)
        if self.placed.n_samples == self.placed.step == 1:
            return block.reshape(len(block), -1)
        parts = sliding_window_view(block, self.placed.n_samples, axis=-1)[:, :, :: self.placed.step]
        if self._n_kept < self.placed.n_samples:
            parts = parts.mean(axis=-1)
        return parts.reshape(len(block), -1)

    def _tensor(self, patterns: npt.NDArray[Any]) -> Tensor:
        shape = self.n_channels, self.placed.n_windows, self._n_kept
        parts = super()._tensor(patterns).reshape(*patterns.shape[:-1], *shape)
        parts = parts.movedim((-2, -1), (0, 1))
        return (parts if self.many_samples else parts[:, 0]).contiguous()


def times_of(dataset: Any, label: str) -> Floats:
    """The times of a TemporalDataset, checked.

    Raises
    ------
    NeurordlError
        There are none, they do not fit the measurements, or they are not increasing numbers.
    """
    with explain(f"the times of {label} are no numbers"):
        times = np.asarray(dataset.time_descriptors["time"], dtype=np.float64)
    shape = np.shape(dataset.measurements)
    if times.ndim != 1 or len(times) != shape[-1]:
        problem = f"{label} has {times.size} times for measurements of shape {shape}"
        raise NeurordlError(f"{problem}; give a time for each of the {shape[-1]} samples")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise NeurordlError(f"the times of {label} must increase from sample to sample, in seconds")
    return times


def _torchable(block: npt.NDArray[Any]) -> bool:
    return block.flags.writeable and min(block.strides) >= 0


def _consecutive(rows: Places) -> bool:
    """Whether rows follow one another: they grow, and there is no room for gaps."""
    return len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and bool((rows[1:] > rows[:-1]).all())


def coded(dataset: DatasetBase, descriptor: str, label: str) -> tuple[list[Any], Places]:
    """Values of an observation descriptor in order of first appearance, and each row's number among them."""
    if descriptor not in dataset.obs_descriptors:
        known = listed(dataset.obs_descriptors, quote=True) or "none"
        remedy = ""
        if descriptor == "run":
            remedy = (
                ": name the run of each measurement, such as its block, or take a dissimilarity without runs"
            )
        raise NeurordlError(f"{label} has no observation descriptor {descriptor!r}; it has {known}{remedy}")
    column = dataset.obs_descriptors[descriptor]
    # a list is not made an array first, which would turn a missing name among texts into the text 'nan'
    values = column.tolist() if isinstance(column, np.ndarray) else list(column)
    try:
        names = list(dict.fromkeys(values))
    except TypeError:  # some cannot be names, such as lists
        names = values
    for name in names:
        if not _is_hashable(name) or name is None or name != name:
            row = next(row for row, value in enumerate(values) if value is name)
            problem = f"{label} has {name!r:.60} as {descriptor!r} of observation {row} (from 0)"
            raise NeurordlError(f"{problem}; give each a name or a number, or leave it out")
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.fromiter(map(numbers.__getitem__, values), np.intp, len(values))


def _is_hashable(name: object) -> bool:
    try:
        hash(name)
    except TypeError:  # a list, or a tuple that holds one
        return False
    return True


def check_dtype(dtype: npt.DTypeLike) -> torch.dtype:
    """Return the torch dtype of float64 or float32, by any name that numpy has for it; others are refused."""
    try:
        return _DTYPES[np.dtype(dtype).newbyteorder("=")]
    except (TypeError, ValueError, KeyError) as error:
        raise NeurordlError(f"dtype={dtype!r}: expected float64 or float32") from error


def check_rates(patterns: Tensor, measure: Dissimilarity, label: str) -> Tensor:
    """Return patterns; refuse negative ones where a dissimilarity takes rates."""
    # a NaN would hide behind the smallest
    if measure.rates and not bool(patterns.min() >= 0) and bool((patterns < 0).any()):
        lowest = f"{label} has {float(patterns.nan_to_num().min()):.3g}"
        remedy = "choose another dissimilarity, or no center="
        raise NeurordlError(f"{measure} takes rates or counts of 0 or more, and {lowest}; {remedy}")
    return patterns


def check_runs(sources: Sequence[Source], measure: Dissimilarity) -> None:
    """Refuse a single run for a dissimilarity across runs.

    Warns
    -----
    UserWarning
        Stimuli are in a single run, or distances depend on the mean pattern of each run.
    """
    if not measure.needs_runs:
        return
    messages: dict[str, list[Source]] = {}
    for source in sources:
        if len(source.runs) < 2:
            problem = f"{source.label} has a single run, {source.runs[0]!r}"
            raise NeurordlError(
                f"{measure} needs two or more runs, and {problem}; choose another dissimilarity"
            )
        alone = np.flatnonzero((source.counts > 0).sum(axis=1) == 1)
        if len(alone):
            n, rest = len(source.ids), len(source.ids) - len(alone)
            lost = (n * (n - 1) - rest * (rest - 1)) // 2
            names = f"{listed((source.ids[k] for k in alone), 3)} {'is' if len(alone) == 1 else 'are'}"
            message = f"{lost} of {n * (n - 1) // 2} pairs are not measured ({names} in one run only)"
            messages.setdefault(message, []).append(source)
    # Inner products are means over pairs of runs, and over other pairs for a stimulus that was in other runs:
    # then what a run adds to all patterns does not cancel. It does where a run has all stimuli equally often.
    shifted = [source for source in sources if measure.kernel is not None and _depends_on_run_means(source)]
    if shifted:
        remedy = 'subtract it with center="run" (in the shell --center run)'
        message = f"{_gaps(shifted[0])}, so that {measure} distances contain the mean pattern of each run"
        messages[f"{message}; {remedy}"] = shifted
    for message, alike in messages.items():
        notify(f"{labels_of(alike)}: {message}")


def parsed_record(text: Any) -> Any:
    """Return what JSON holds that says how data were made; other text as it is."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return str(text)


def labels_of(sources: Sequence[Source]) -> str:
    """Return the label of the first source, and how many more there are."""
    return sources[0].label + (f" and {len(sources) - 1} more" if len(sources) > 1 else "")


def _depends_on_run_means(source: Source) -> bool:
    """Whether a run has some stimuli more often than others, and a mean that is more than noise."""
    if source.center == "run" or not (source.counts != source.counts[:1]).any():
        return False
    n = (source.counts > 0).sum(axis=0)
    if source.sparse:
        return _has_run_means(n, *_sums_of_runs(source))
    step = max(1, _AT_ONCE // (8 * source.row_size * len(source.runs)))
    for block in source.blocks() if isinstance(source, WindowSource) else (source,):
        totals, squares = np.zeros(()), np.zeros(())
        for start in range(0, len(source.ids), step):
            cells = np.moveaxis(block.by_run(slice(start, start + step)).double().numpy(), -3, 0)
            measured = source.counts[start : start + step].T > 0
            shape = len(n), *np.ones(cells.ndim - 3, dtype=int), measured.shape[1], 1
            cells = np.where(measured.reshape(shape), cells, 0)
            totals = totals + cells.sum(axis=-2).reshape(len(n), -1)
            squares = squares + np.square(cells).reshape(len(n), -1).sum(axis=1)
        if _has_run_means(n, totals, squares):
            return True
    return False


def _has_run_means(n: Places, totals: Floats, squares: Floats) -> bool:
    """Whether a run of n patterns, with their sum and their sum of squares, has a mean that is no noise."""
    means = np.square(totals / np.maximum(n, 1)[:, None]).sum(axis=1)
    by_chance = (squares - n * means) / np.maximum(n * (n - 1), 1)
    return bool(((n > 1) & (means > _CHANCE * by_chance)).any())


def _sums_of_runs(source: Source) -> tuple[Floats, Floats]:
    """Sum of the patterns of each run, (runs, channels), and the sum of their squares."""
    totals, squares = np.zeros((len(source.runs), source.row_size)), np.zeros(len(source.runs))
    of_stimulus = (source.counts > 0).sum() / len(source.ids)
    step = max(1, int(_AT_ONCE / (8 * source.row_size * of_stimulus)))
    for start in range(0, len(source.ids), step):
        means, run, _ = source.measured(slice(start, start + step))
        used, first = np.unique(run, return_index=True)
        totals[used] += np.add.reduceat(means, first, axis=0)
        squares += np.bincount(run, np.square(means).sum(axis=1), len(squares))
    return totals, squares


def _gaps(source: Source) -> str:
    """Say which stimuli are missing in which runs, or else that some are there more often than others."""
    missing = [
        f"{stimulus} in {listed((source.runs[k] for k in np.flatnonzero(count == 0)), 3)}"
        for stimulus, count in zip(source.ids, source.counts, strict=True)
        if (count == 0).any()
    ]
    if not missing:
        return "its runs have some stimuli more often than others"
    return f"runs lack some stimuli ({'; '.join(missing[:3])}{'; ...' if len(missing) > 3 else ''})"
