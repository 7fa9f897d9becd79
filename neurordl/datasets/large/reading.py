"""What the loaders of large sets share: published folders, trials, ROIs by name, and reading in blocks.

A loader finds its files with a `Layout`, describes rows and channels, and hands them with its blocks to a
`Part`, which reads them into memory or into a file of the cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids
from neurordl.io import atomic_write, damage_named, make_folder
from neurordl.patterns.images import Mask, Regions, VolumeSpace, load_image, read_mask
from neurordl.patterns.tables import as_list
from neurordl.patterns.trials import TrialArray, open_trials
from neurordl.progress import tracked
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_choice, check_path, counted

Folder: TypeAlias = str | os.PathLike[str]
Names: TypeAlias = str | Sequence[str]
ROI: TypeAlias = Names | Mapping[str, Names] | Regions | nib.Nifti1Image | os.PathLike[str]
Values: TypeAlias = npt.NDArray[Any]
Block: TypeAlias = tuple[slice, slice, Callable[[], Values]]
"""Which rows and which channels, and the function that reads their values (rows, channels)."""

_AT_ONCE = 1 << 26  # bytes that are read at once
BRAIN = "brain"


@dataclass(frozen=True)
class Layout:
    """The folder of a published data set, and how messages send whoever lacks a part of it."""

    title: str
    folder: Path
    access: str

    def need(self, relative: str, *alternatives: str) -> Path:
        """The file at a place in the folder, or at the first of some other places that exists."""
        for place in (relative, *alternatives):
            if (path := self.folder / place).exists():
                return path
        missing = "" if self.folder.is_dir() else f" (the folder {self.folder} does not exist)"
        raise NeurordlError(
            f"{self.title}: {relative} is not in {self.folder}{missing}; that is its place in the published "
            f"folder, of which you can have a part. {self.access}"
        )


@dataclass(frozen=True)
class Part:
    """The part of a data set that is to be read.

    Attributes
    ----------
    subject
        Name of the subject.
    rows
        Descriptors of the rows, with the column ``stimulus``, and ``session`` where there are sessions.
    channels
        Descriptors of the channels.
    blocks
        The values; a block has all rows of the sessions of which it has any.
    files
        The files of the values.
    record
        What the provenance says beside the files.
    """

    subject: str
    rows: pd.DataFrame
    channels: pd.DataFrame
    blocks: Sequence[Block]
    files: Sequence[Path]
    record: Mapping[str, object]

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and channels."""
        return len(self.rows), len(self.channels)

    def fill(self, values: Values, standardize: bool) -> tuple[Bools, Bools]:
        """Write the values into an array; which channels have NaN, and which are constant in a session."""
        broken, constant = np.zeros((2, len(self.channels)), dtype=bool)
        sessions = self.rows.get("session", pd.Series("", index=self.rows.index)).to_numpy()
        for rows, columns, read in tracked(self.blocks, f"reading {self.subject}"):
            block = np.asarray(read(), dtype=np.float32)
            block = block.copy() if standardize else block  # which may be a view of the file
            for session in dict.fromkeys(sessions[rows]):
                chosen = sessions[rows] == session
                part = block if chosen.all() else block[chosen]
                broken[columns] |= ~np.isfinite(part).all(axis=0)
                constant[columns] |= (standardize or len(part) > 1) & (part == part[0]).all(axis=0)
                if standardize:
                    with np.errstate(divide="ignore", invalid="ignore"):  # these channels are left out
                        spread = part.std(axis=0, dtype=np.float64)
                        block[chosen] = (part - part.mean(axis=0, dtype=np.float64)) / spread
            values[rows, columns] = block
        return broken, constant & ~broken

    def kept(self, broken: Bools, constant: Bools) -> Bools:
        """The channels that are left, with a notice of those that are not."""
        kept = ~(broken | constant)
        dropped = f"{self.subject}: dropped {(~kept).sum()} of {len(kept)} channels: {broken.sum()} with NaN "
        dropped += f"or infinity, {constant.sum()} without data, or constant, in a session"
        if not kept.any():
            raise NeurordlError(f"{dropped}; no channel is left: choose another ROI, or fewer sessions")
        if not kept.all():
            notify(dropped)
        return kept

    def read(self, standardize: bool, cache: Folder | None) -> Dataset:
        """The values as a Dataset: in memory, or as a memory map of a file in the cache."""
        if cache is None:
            values = np.empty(self.shape, dtype=np.float32)
            kept = self.kept(*self.fill(values, standardize))
            values = values if kept.all() else _compacted(values, kept)
        else:
            values, kept = self._cached(standardize, check_path("cache", cache))
        record = {**self.record, "files": [path.name for path in self.files], "standardize": standardize}
        record |= {"voxels": int(kept.sum()), "dropped": int((~kept).sum())}
        return Dataset(
            values,
            {"subject": self.subject, "provenance": json.dumps(record, ensure_ascii=False)},
            {str(name): column.tolist() for name, column in self.rows.items()},
            {str(name): column.tolist() for name, column in self.channels[kept].items()},
        )

    def _cached(self, standardize: bool, folder: Path) -> tuple[Values, Bools]:
        """The file that an earlier call wrote for the same part of the same files, or a new one."""
        make_folder(folder)
        state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files]
        tables = [frame.to_csv() for frame in (self.rows, self.channels)]
        key = json.dumps([state, tables, standardize, dict(self.record)]).encode()
        path = folder / f"{self.subject}_{hashlib.sha256(key).hexdigest()[:16]}.npy"
        path_of_kept = path.with_suffix(".kept.npy")
        known = path.is_file() and path_of_kept.is_file()
        if not known:
            self._write(path, path_of_kept, standardize)
        with damage_named(path, "remove it; it is then written again"):
            kept = np.load(path_of_kept, allow_pickle=False)
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            if values.shape != (len(self.rows), kept.sum()) or len(kept) != len(self.channels):
                raise ValueError(f"it has shape {values.shape}")
        if known and not kept.all():
            count = f"{(~kept).sum()} of {len(kept)} channels"
            notify(f"{self.subject}: {count} were dropped when {path} was written: NaN, constant or no data")
        return values, kept

    def _write(self, path: Path, path_of_kept: Path, standardize: bool) -> None:
        size = math.prod(self.shape) * np.dtype(np.float32).itemsize
        with atomic_write(path) as aside, tempfile.TemporaryFile(dir=path.parent) as scratch:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here; later it would end the process
                os.posix_fallocate(scratch.fileno(), 0, size)
            scratch.truncate(size)
            whole = np.memmap(scratch, np.float32, "r+", shape=self.shape)
            kept = self.kept(*self.fill(whole, standardize))
            shape = (len(whole), int(kept.sum()))
            descr = np.lib.format.dtype_to_descr(whole.dtype)
            with aside.open("wb") as file:
                header = {"descr": descr, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for rows in row_blocks(*self.shape):
                    whole[rows][:, kept].tofile(file)
            with atomic_write(path_of_kept) as aside_of_kept:
                np.save(aside_of_kept, kept)


def row_blocks(n_rows: int, n_channels: int, itemsize: int = 4) -> Iterator[slice]:
    """Slices of rows, each of which is read at once."""
    step = max(1, _AT_ONCE // (n_channels * itemsize))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _compacted(values: Values, kept: Bools) -> Values:
    """Some channels of an array, moved to its beginning, so that there is never a second array."""
    flat, width = values.reshape(-1), int(kept.sum())
    for rows in row_blocks(*values.shape):
        part = values[rows][:, kept]
        flat[rows.start * width : rows.start * width + part.size] = part.reshape(-1)
    return flat[: len(values) * width].reshape(len(values), width)


def name_of_subject(subject: int | str, form: str, count: int) -> tuple[str, int]:
    """Name and number of a subject, of which either may be passed."""
    names = [form.format(number) for number in range(1, count + 1)]
    number = subject if isinstance(subject, int | np.integer) else None
    name = names[number - 1] if number is not None and 1 <= number <= count else subject
    check_choice("subject", name, names, f"or a number from 1 to {count}")
    return str(name), names.index(str(name)) + 1


def numbers_of_sessions(sessions: Iterable[int] | None, name: str, count: int, planned: int) -> list[int]:
    """The sessions to read: all that a subject completed, with a notice of a smaller number, or some."""
    if sessions is None:
        if count < planned:
            notify(f"{name} completed {count} of {planned} sessions, which are all read")
        return list(range(1, count + 1))
    numbers = as_list(sessions, (int, np.integer, str), "sessions")
    whole = all(isinstance(number, int | np.integer) for number in numbers)
    if not numbers or not whole or len(set(numbers)) < len(numbers):
        raise NeurordlError(f"sessions= is {numbers}; give different numbers (int), such as range(1, 11)")
    numbers = [int(number) for number in numbers]
    if unknown := [number for number in numbers if not 1 <= number <= count]:
        raise NeurordlError(f"sessions= has {unknown[0]}, but {name} has the sessions 1 to {count}")
    return sorted(numbers)


def trial_rows(stimuli: Sequence[str], sessions: Sequence[int], runs: Sequence[int]) -> pd.DataFrame:
    """Rows of single trials; ``repeat`` counts the presentations of a stimulus among them."""
    of_session = [f"ses-{number:02d}" for number in sessions]
    of_run = [f"{session}_run-{number:02d}" for session, number in zip(of_session, runs, strict=True)]
    rows = pd.DataFrame({"stimulus": list(stimuli), "session": of_session, "run": of_run})
    return rows.assign(repeat=(rows.groupby("stimulus").cumcount() + 1).astype(str))


def files_of_sessions(layout: Layout, forms: Sequence[str], numbers: Sequence[int]) -> list[Path]:
    """The file of each session; ``forms`` are its places, with the number of the session to fill in."""
    places = {number: [form.format(number) for form in forms] for number in numbers}
    present = [n for n in numbers if any((layout.folder / place).exists() for place in places[n])]
    if present and len(present) < len(numbers):
        lacking = next(places[number][0] for number in numbers if number not in present)
        raise NeurordlError(
            f"{layout.title}: {lacking} is not in {layout.folder}, which has {len(present)} of "
            f"{counted(len(numbers), 'session')}; to read those that it has, pass sessions={present}. "
            f"{layout.access}"
        )
    return [layout.need(*places[number]) for number in numbers]


def _names_of_rois(parts: object) -> list[str]:
    names = list(parts) if isinstance(parts, Sequence) and not isinstance(parts, str) else [parts]
    if strange := [name for name in names if not isinstance(name, str)]:
        raise NeurordlError(
            f"roi= is or has a {type(strange[0]).__name__}; give the name of a ROI, several names, or a "
            "mapping of names to them. A mask is a NIfTI image or the path of one"
        )
    return [str(name) for name in names]


def named_channels(roi: Names | Mapping[str, Names], find: Callable[[str], dict[str, Bools]]) -> Mask:
    """The channels of ROIs by name, and the ROI of each; ``find`` gives the masks of a published name."""
    groups = roi.items() if isinstance(roi, Mapping) else [(None, roi)]
    names, code = list[str](), None
    for name, parts in groups:
        for label, inside in (pair for part in _names_of_rois(parts) for pair in find(part).items()):
            called = label if name is None else str(name)
            names += [] if called in names else [called]
            number = names.index(called) + 1
            code = np.zeros(inside.shape, dtype=np.int32) if code is None else code
            if code.shape != inside.shape:
                shapes = (
                    f"{called!r} is in an image of shape {inside.shape}, and {names[0]!r} of {code.shape}"
                )
                raise NeurordlError(f"roi=: {shapes}; check that the files are of the same subject and space")
            if (both := inside & (code != 0) & (code != number)).any():
                other = names[code[both][0] - 1]
                raise NeurordlError(
                    f"roi=: {counted(int(both.sum()), 'channel')} are in {other!r} and in {called!r}, and a "
                    "channel has one ROI; load them in two calls, or as one ROI: roi={'name': (...)}"
                )
            code[inside] = number
    if code is None:
        raise NeurordlError(f"roi= is {roi!r:.60}; give the name of a ROI, or several")
    return Mask(code != 0, [names[number - 1] for number in code[code != 0]], "roi")


def is_image(roi: ROI) -> bool:
    """Whether a ROI is a mask or an atlas, and not the name of one."""
    if isinstance(roi, str):
        return roi.endswith((".nii", ".nii.gz"))
    return isinstance(roi, Regions | nib.Nifti1Image | os.PathLike)


def channels_of_volume(
    roi: ROI, find: Callable[[str], dict[str, Bools]], grid: nib.Nifti1Image
) -> tuple[Bools, pd.DataFrame, dict[str, object]]:
    """Voxels of ROIs by name, or of a mask in the space of the betas: where, their table, and the record."""
    if is_image(roi):
        mask = read_mask(roi, grid)  # type: ignore[arg-type]
    else:
        mask = named_channels(roi, find)  # type: ignore[arg-type]
    space = VolumeSpace(mask, grid)
    every = np.ones(int(mask.inside.sum()), dtype=bool)
    return mask.inside, pd.DataFrame(space.channels(every)), space.record()


def values_of_volumes(path: Path, inside: Bools, n_trials: int) -> Values:
    """The voxels of a session, (trials, voxels), of HDF5 or NIfTI; at most one session is in memory."""
    if path.suffix == ".hdf5":
        array = open_trials(path, "betas")
        array = TrialArray(array.values, array.name, reversed=True)  # as MATLAB wrote it
        _check_session(path, array.shape, inside, n_trials)
        with damage_named(path, "download it again"):
            return _voxels(array.values, inside)
    image, name = load_image(path, "image of betas")
    _check_session(path, image.shape, inside, n_trials)
    with damage_named(name, "download it again"):
        return np.asanyarray(image.dataobj)[inside].T


def _check_session(path: Path, shape: tuple[int, ...], inside: Bools, n_trials: int) -> None:
    if shape != (*inside.shape, n_trials):
        raise NeurordlError(
            f"{path} has shape {shape}, expected {(*inside.shape, n_trials)}: the voxels of the ROI's image, "
            "and the trials of the session; check that both are of the same subject and preparation"
        )


def _voxels(betas: Values, inside: Bools) -> Values:
    """Voxels of (trials, z, y, x), which are stored voxel by voxel, as NSD's are, or otherwise."""
    x, y, z = np.nonzero(inside)
    values = np.empty((len(betas), len(x)), dtype=betas.dtype)
    if (getattr(betas, "chunks", None) or (0, 1, 1, 1))[1:] == (1, 1, 1):
        flat = np.ravel_multi_index((x, y, z), inside.shape)
        breaks = np.flatnonzero((np.diff(flat) != 1) | (z[1:] == 0)) + 1
        for start, stop in pairwise([0, *breaks.tolist(), len(x)]):  # neighbors along z
            values[:, start:stop] = betas[:, z[start] : z[stop - 1] + 1, y[start], x[start]]
        return values
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in (y, x))
    size = len(betas) * betas.dtype.itemsize * (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    step = max(1, _AT_ONCE // size)
    for start in range(z.min(), z.max() + 1, step):
        chosen = (z >= start) & (z < start + step)
        if chosen.any():
            block = betas[:, start : start + step, *box]
            places = (z[chosen] - start, y[chosen] - box[0].start, x[chosen] - box[1].start)
            values[:, chosen] = block[:, *places]
    return values


def blocks_of_sessions(
    rows: pd.DataFrame, files: Sequence[Path], read: Callable[[Path, int], Values]
) -> list[Block]:
    """A block for the file of each session; the rows are in the order of sessions."""
    lengths = rows.groupby("session", sort=False).size()
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    parts = (slice(start, stop) for start, stop in pairwise(starts))
    return [
        (part, slice(None), partial(read, path, part.stop - part.start))
        for part, path in zip(parts, files, strict=True)
    ]


def wanted_ids(ids: str | Iterable[str] | None, known: list[str]) -> list[str]:
    """The ids of images to load, each once, in the order of its first mention; by default all."""
    if ids is None:
        return known
    wanted = list(dict.fromkeys(map(str, as_list(ids, (str,), "ids"))))
    if not wanted:
        raise NeurordlError("ids= is empty; give ids of images, or leave it out to load all of them")
    return wanted


def read_stimuli(
    images: Mapping[str, Path],
    ids: str | Iterable[str] | None,
    folder: Path,
    preprocessing: Mapping[str, Any],
) -> StimulusSet:
    """The images of some ids, each once, in the order of its first mention."""
    wanted = wanted_ids(ids, list(images))
    match_ids(wanted, list(images), names=("ids=", f"images in {folder}"), remedy="download these images")
    table = pd.DataFrame({"id": wanted, "path": [str(images[name]) for name in wanted]})
    return replace(StimulusSet.from_table(table, **preprocessing), source=str(folder))


def read_folder_of_stimuli(
    layout: Layout, relative: str, ids: str | Iterable[str] | None, preprocessing: Mapping[str, Any]
) -> StimulusSet:
    """Images at their published place in a folder, or in the folder itself, if it holds images."""
    place = layout.folder / relative
    place = place if place.is_dir() else layout.folder
    images = _images_by_id(place)
    if not images:
        layout.need(relative)
    return read_stimuli(images, ids, place, preprocessing)


def _images_by_id(folder: Path) -> dict[str, Path]:
    """Images in a folder and its subfolders, by their name without the suffix."""
    images = dict[str, Path]()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg") or path.name.startswith("."):
            continue
        if (other := images.setdefault(path.stem, path)) != path:
            problem = f"{other} and {path} would both have the id {path.stem!r}"
            raise NeurordlError(f"{problem}; pass the folder of one of them, or move one away")
    return images
