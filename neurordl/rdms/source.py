"""The one reader of repeated patterns: in blocks, averaged, centered, by run, also from a memory map."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, notify
from neurordl.measures.dissimilarities import Dissimilarity
from neurordl.validate import check_choice, listed

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase

Center = Literal["run", "all"]
Stimuli = slice | npt.NDArray[np.integer]
Places = npt.NDArray[np.intp]

_AT_ONCE = 1 << 24  # bytes of measurements that are read at once
# ratio of the energy of a run's mean to what averaged noise alone has, from which there is a mean
_CHANCE = 4.0
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
        if len(shape) != 2 or self.measurements.dtype.kind not in "fiub" or not shape[1]:
            raise NeurordlError(
                f"the measurements of {label} must be real numbers, (observations, channels), not "
                f"{self.measurements.dtype} of shape {shape}; average over time first, where there is any"
            )
        self.n_channels = shape[1] if channels is None else len(channels)
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
        totals = np.zeros((len(counts), self.n_channels))
        step = max(1, _AT_ONCE // (8 * self.measurements.shape[1]))
        for start in range(0, len(rows), step):
            block, numbers = self._read(rows[start : start + step]), group[start : start + step]
            for number in np.unique(numbers):
                totals[number] += block[numbers == number].sum(axis=0)
        if not np.isfinite(totals).all():
            holes = int((~np.isfinite(totals)).any(axis=0).sum())
            problem = f"the measurements of {self.label} hold NaN or infinity in {holes} of {self.n_channels}"
            blocks = [~np.isfinite(self._read(rows[k : k + step])) for k in range(0, len(rows), step)]
            channels = np.flatnonzero(np.any([block.any(axis=0) for block in blocks], axis=0))
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
        """Mean patterns of stimuli, (stimuli, channels)."""
        if self.removed is None and len(self.stimulus) == len(self.ids):
            return self._direct(self.order[stimuli])
        sums, counts = self._sums(stimuli)
        means = sums.sum(axis=1)
        means /= counts.sum(axis=1)[:, None].astype(means.dtype)
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
        sums, counts = self._sums(slice(None))
        means = sums.sum(axis=1) / counts.sum(axis=1)[:, None]
        lost = len(self.ids) + (len(self.runs) - 1 if self.center == "run" else 0)
        return self._read_centered(rows) - means[self.stimulus], len(rows) - lost

    def _sums(self, stimuli: Stimuli) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Sums of measurements by stimulus and run, (stimuli, runs, channels), and how many they are."""
        runs = len(self.runs)
        chosen = np.arange(len(self.ids))[stimuli]
        cells = (chosen[:, None] * runs + np.arange(runs)).ravel()
        counts = self.counts.ravel()[cells]
        ends = np.cumsum(counts)
        rows = np.arange(ends[-1]) + np.repeat(self.starts[cells] - ends + counts, counts)
        measured = self._read_centered(self.order[rows])
        if (counts == counts[0]).all():
            sums = measured.reshape(len(cells), counts[0], -1)
            sums = sums[:, 0] if counts[0] == 1 else sums.sum(axis=1)
        else:
            filled = counts > 0
            sums = np.zeros((len(cells), self.n_channels), measured.dtype)
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
        return torch.from_numpy(patterns).to(self.dtype)


def _torchable(block: npt.NDArray[Any]) -> bool:
    return block.flags.writeable and min(block.strides) >= 0


def _consecutive(rows: Places) -> bool:
    """Whether rows follow one another: they grow, and there is no room for gaps."""
    return len(rows) > 0 and rows[-1] - rows[0] + 1 == len(rows) and bool((rows[1:] > rows[:-1]).all())


def coded(dataset: DatasetBase, descriptor: str, label: str) -> tuple[list[Any], Places]:
    """Values of an observation descriptor in order of first appearance, and each row's number among them."""
    if descriptor not in dataset.obs_descriptors:
        known = listed(dataset.obs_descriptors, quote=True) or "none"
        raise NeurordlError(f"{label} has no observation descriptor {descriptor!r}; it has {known}")
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
    for patterns, count in zip(source.by_run().double().numpy(), source.counts.T, strict=True):
        measured = patterns[count > 0]
        if len(measured) > 1:
            mean = measured.mean(axis=0)
            by_chance = np.square(measured - mean).sum() / (len(measured) * (len(measured) - 1))
            if np.square(mean).sum() > _CHANCE * by_chance:
                return True
    return False


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
