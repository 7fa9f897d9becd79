"""Large public fMRI data sets, read from the folders in which they were published.

They are not in the registry: whoever wants to use them registers, or downloads far more than `fetch` is for.
Every loader returns single trials or images (rows) of the voxels of some ROIs as a Dataset, read in blocks.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids
from neurordl.io import atomic_write, damage_named, make_folder, read_text
from neurordl.patterns.images import Mask, Regions, VolumeSpace, load_image, read_mask
from neurordl.patterns.tables import as_list
from neurordl.patterns.trials import TrialArray, open_trials
from neurordl.progress import tracked
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.preprocessing import array_pixels
from neurordl.validate import check_choice, check_columns, check_path, counted, listed

Folder: TypeAlias = str | os.PathLike[str]
Names: TypeAlias = str | Sequence[str]
ROI: TypeAlias = Names | Mapping[str, Names] | Regions | nib.Nifti1Image | os.PathLike[str]
Values: TypeAlias = npt.NDArray[Any]
Block: TypeAlias = tuple[slice, slice, Callable[[], Values]]
"""Which rows and which channels, and the function that reads their values (rows, channels)."""

_AT_ONCE = 1 << 26  # bytes that are read at once
_BRAIN = "brain"


@dataclass(frozen=True)
class _Layout:
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
class _Part:
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
                constant[columns] |= (len(part) > 1) & (part == part[0]).all(axis=0)
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
                for rows in _row_blocks(*self.shape):
                    whole[rows][:, kept].tofile(file)
            with atomic_write(path_of_kept) as aside_of_kept:
                np.save(aside_of_kept, kept)


def _row_blocks(n_rows: int, n_channels: int, itemsize: int = 4) -> Iterator[slice]:
    step = max(1, _AT_ONCE // (n_channels * itemsize))
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _compacted(values: Values, kept: Bools) -> Values:
    """Some channels of an array, moved to its beginning, so that there is never a second array."""
    flat, width = values.reshape(-1), int(kept.sum())
    for rows in _row_blocks(*values.shape):
        part = values[rows][:, kept]
        flat[rows.start * width : rows.start * width + part.size] = part.reshape(-1)
    return flat[: len(values) * width].reshape(len(values), width)


def _name_of_subject(subject: int | str, form: str, count: int) -> tuple[str, int]:
    """Name and number of a subject, of which either may be passed."""
    names = [form.format(number) for number in range(1, count + 1)]
    number = subject if isinstance(subject, int | np.integer) else None
    name = names[number - 1] if number is not None and 1 <= number <= count else subject
    check_choice("subject", name, names, f"or a number from 1 to {count}")
    return str(name), names.index(str(name)) + 1


def _numbers_of_sessions(sessions: Iterable[int] | None, name: str, count: int, planned: int) -> list[int]:
    """The sessions to read: all that a subject completed, with a notice of a smaller number, or some."""
    if sessions is None:
        if count < planned:
            notify(f"{name} completed {count} of {planned} sessions, which are all read")
        return list(range(1, count + 1))
    numbers = [int(number) for number in as_list(sessions, (int, np.integer), "sessions")]
    if not numbers or len(set(numbers)) < len(numbers):
        raise NeurordlError(f"sessions= is {numbers}; give different numbers, such as range(1, 11)")
    if unknown := [number for number in numbers if not 1 <= number <= count]:
        raise NeurordlError(f"sessions= has {unknown[0]}, but {name} has the sessions 1 to {count}")
    return sorted(numbers)


def _trial_rows(stimuli: Sequence[str], sessions: Sequence[int], runs: Sequence[int]) -> pd.DataFrame:
    """Rows of single trials; ``repeat`` counts the presentations of a stimulus among them."""
    of_session = [f"ses-{number:02d}" for number in sessions]
    of_run = [f"{session}_run-{number:02d}" for session, number in zip(of_session, runs, strict=True)]
    rows = pd.DataFrame({"stimulus": list(stimuli), "session": of_session, "run": of_run})
    return rows.assign(repeat=(rows.groupby("stimulus").cumcount() + 1).astype(str))


def _named_channels(roi: Names | Mapping[str, Names], find: Callable[[str], dict[str, Bools]]) -> Mask:
    """The channels of ROIs by name, and the ROI of each; ``find`` gives the masks of a published name."""
    groups = roi.items() if isinstance(roi, Mapping) else [(None, roi)]
    names, code = list[str](), None
    for name, parts in groups:
        for label, inside in (pair for part in as_list(parts, (str,), "roi") for pair in find(part).items()):
            called = label if name is None else str(name)
            names += [] if called in names else [called]
            number = names.index(called) + 1
            code = np.zeros(inside.shape, dtype=np.int32) if code is None else code
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


def _is_image(roi: ROI) -> bool:
    """Whether a ROI is a mask or an atlas, and not the name of one."""
    if isinstance(roi, str):
        return roi.endswith((".nii", ".nii.gz"))
    return isinstance(roi, Regions | nib.Nifti1Image | os.PathLike)


def _channels_of_volume(
    roi: ROI, find: Callable[[str], dict[str, Bools]], grid: nib.Nifti1Image
) -> tuple[Bools, pd.DataFrame, dict[str, object]]:
    """Voxels of ROIs by name, or of a mask in the space of the betas: where, their table, and the record."""
    if _is_image(roi):
        mask = read_mask(roi, grid)  # type: ignore[arg-type]
    else:
        mask = _named_channels(roi, find)  # type: ignore[arg-type]
    space = VolumeSpace(mask, grid)
    every = np.ones(int(mask.inside.sum()), dtype=bool)
    return mask.inside, pd.DataFrame(space.channels(every)), space.record()


def _values_of_volumes(path: Path, inside: Bools, n_trials: int) -> Values:
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


def _blocks_of_sessions(
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


def _read_stimuli(
    images: Mapping[str, Path], ids: Iterable[str] | None, folder: Path, preprocessing: Mapping[str, Any]
) -> StimulusSet:
    """The images of some ids, each once, in the order of its first mention."""
    wanted = list(images) if ids is None else list(dict.fromkeys(map(str, ids)))
    match_ids(wanted, list(images), names=("ids=", f"images in {folder}"), remedy="download these images")
    table = pd.DataFrame({"id": wanted, "path": [str(images[name]) for name in wanted]})
    return replace(StimulusSet.from_table(table, **preprocessing), source=str(folder))


def _images_by_id(folder: Path) -> dict[str, Path]:
    """Images in a folder and its subfolders, by their name without the suffix."""
    images = dict[str, Path]()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".png", ".jpg", ".jpeg") or path.name.startswith("."):
            continue
        if (other := images.setdefault(path.stem, path)) != path:
            raise NeurordlError(f"{other} and {path} would both have the id {path.stem!r}; move one away")
    return images


# The Natural Scenes Dataset

_NSD_ACCESS = "Register at https://naturalscenesdataset.org and agree to its terms to download it"
_NSD_SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)  # that subjects 1 to 8 completed, of 40
_NSD_IMAGES = 73_000
_NSD_SCALE = 300  # betas are percent signal change times this number, as int16
NSD_ROIS = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"),
}
"""Groups of ROIs of NSD, and the names of their labels 1, 2 and so on, as NSD's ``.ctab`` files list them."""


def _nsd(folder: Folder) -> _Layout:
    return _Layout("NSD", check_path("folder", folder), _NSD_ACCESS)


def _nsd_id(number: int) -> str:
    """The id of an image, as the Algonauts 2023 challenge writes it: numbers count from 0."""
    return f"nsd-{number:05d}"


def _nsd_design(layout: _Layout, *variables: str) -> list[Values]:
    from scipy.io import loadmat

    path = layout.need("nsddata/experiments/nsd/nsd_expdesign.mat")
    with damage_named(path, "download it again"):
        design = loadmat(path, variable_names=variables)
        return [np.asarray(design[name]) for name in variables]


def nsd_shared_ids(folder: Folder) -> tuple[str, ...]:
    """Return the ids of the 1,000 images that all subjects of NSD were to see, in the order of the design.

    Subjects with fewer sessions saw some of them less often, or not at all.

    Parameters
    ----------
    folder
        As in `load_nsd`.

    Raises
    ------
    NeurordlError
        The design is missing or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import scipy.io
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with a design of 3 shared images
    ...     place = Path(folder) / "nsddata" / "experiments" / "nsd"
    ...     place.mkdir(parents=True)
    ...     scipy.io.savemat(place / "nsd_expdesign.mat", {"sharedix": [[2951, 2991, 3050]]})
    ...     nrl.datasets.nsd_shared_ids(folder)
    ('nsd-02950', 'nsd-02990', 'nsd-03049')
    """
    (shared,) = _nsd_design(_nsd(folder), "sharedix")
    return tuple(_nsd_id(int(number) - 1) for number in shared.ravel())


def load_nsd(
    folder: Folder,
    subject: int | str,
    roi: ROI = "nsdgeneral",
    *,
    sessions: Iterable[int] | None = None,
    standardize: bool = False,
    cache: Folder | None = None,
    betas: str = "betas_fithrf_GLMdenoise_RR",
) -> Dataset:
    """Load single trials of the Natural Scenes Dataset (Allen et al. 2022, Nat. Neurosci. 25:116-126).

    They are the betas in the subject's space of 1.8 mm, in percent signal change, read session by session
    from ``.hdf5``, or else from ``.nii.gz``. The layout is that of the NSD Data Manual
    (https://cvnlab.slite.page/p/M3ZvPmfgU3); the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``nsddata`` and ``nsddata_betas``. It needs of the subject the betas of the sessions,
        ``nsddata/experiments/nsd/nsd_expdesign.mat`` and the ROIs in
        ``nsddata/ppdata/subj01/func1pt8mm/roi``; the names of labels are in
        ``nsddata/freesurfer/subj01/label/*.mgz.ctab``, or else in `NSD_ROIS`.
    subject
        1 to 8, or "subj01" to "subj08".
    roi
        The name of a file of ROIs ("nsdgeneral", "floc-faces": all ROIs in it), of a ROI ("FFA-1"; if several
        files have it, "floc-faces/FFA-1"), "brain" for the brain mask, or several of them. A mapping joins
        them under other names: ``{"V1": ("V1v", "V1d")}``. It can also be a mask or atlas in the space of the
        betas, as in `neurordl.read_patterns`.
    sessions
        The sessions to read, such as ``range(1, 11)``; by default all that the subject completed.
    standardize
        Whether to give each voxel mean 0 and standard deviation 1 in each session. All trials of the session
        count for it, also those of stimuli that are later held out.
    cache
        A folder for the values of this call, which are then a memory map; a later call finds them there. By
        default they are in memory, float32: 4 bytes for each trial and voxel.
    betas
        The folder of a version of the betas.

    Returns
    -------
    Dataset
        (trials, voxels), with the observation descriptors ``stimulus`` (the image's number in 73,000 from 0,
        as "nsd-02950"), ``session``, ``run`` and ``repeat`` (1 for the first time that the image was shown),
        the channel descriptors ``x``, ``y``, ``z`` and ``roi``, and ``subject``.

    Warns
    -----
    UserWarning
        The subject has fewer than 40 sessions, or voxels without data in a session were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged or of another shape, or a ROI is unknown, ambiguous or empty.

    Examples
    --------
    The patterns go into a teacher as they are; where they do not fit into memory, ``cache=`` keeps them on
    the disk::

        patterns = nrl.datasets.load_nsd("nsd", 1, "nsdgeneral", cache="cache")
        images = nrl.datasets.load_nsd_stimuli("nsd", patterns.obs_descriptors["stimulus"], size=64)
        teacher = nrl.PatternTeacher(patterns)

    Here a folder with one session of 3 trials is made and read:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> import nibabel
    >>> import numpy as np
    >>> import scipy.io
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     design = Path(folder) / "nsddata" / "experiments" / "nsd"
    ...     rois = Path(folder) / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi"
    ...     version = Path(folder) / "nsddata_betas" / "ppdata" / "subj01" / "func1pt8mm"
    ...     version = version / "betas_fithrf_GLMdenoise_RR"
    ...     for place in (design, rois, version):
    ...         place.mkdir(parents=True)
    ...     order = {"masterordering": [[2, 1, 2]], "subjectim": [[14, 21]]}
    ...     order["stimpattern"] = np.ones((1, 1, 3))
    ...     scipy.io.savemat(design / "nsd_expdesign.mat", order)
    ...     mask = nibabel.Nifti1Image(np.ones((2, 2, 1), dtype=np.int16), np.eye(4))
    ...     nibabel.save(mask, rois / "nsdgeneral.nii.gz")
    ...     with h5py.File(version / "betas_session01.hdf5", "w") as file:
    ...         file["betas"] = np.arange(12, dtype=np.int16).reshape(3, 1, 2, 2)
    ...     patterns = nrl.datasets.load_nsd(folder, 1, "nsdgeneral", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 4), ['nsd-00020', 'nsd-00013', 'nsd-00020'])
    """
    layout = _nsd(folder)
    name, number = _name_of_subject(subject, "subj{:02d}", 8)
    numbers = _numbers_of_sessions(sessions, name, _NSD_SESSIONS[number - 1], 40)
    rows = _nsd_rows(layout, number, numbers)
    base = f"nsddata_betas/ppdata/{name}/func1pt8mm/{betas}/betas_session"
    files = [layout.need(f"{base}{k:02d}.hdf5", f"{base}{k:02d}.nii.gz") for k in numbers]
    space = f"nsddata/ppdata/{name}/func1pt8mm"
    grid_file = layout.need(f"{space}/brainmask.nii.gz", f"{space}/roi/nsdgeneral.nii.gz")
    grid, _ = load_image(grid_file, "mask")
    inside, channels, space_record = _channels_of_volume(
        roi, lambda text: _nsd_regions(layout, name, text), grid
    )

    def read(path: Path, n_trials: int) -> Values:
        return _values_of_volumes(path, inside, n_trials).astype(np.float32) / _NSD_SCALE

    blocks = _blocks_of_sessions(rows, files, read)
    record = {"data_set": "NSD", "betas": betas, "space": "func1pt8mm", **space_record}
    return _Part(name, rows, channels, blocks, files, record).read(standardize, cache)


def _nsd_rows(layout: _Layout, subject: int, sessions: Sequence[int]) -> pd.DataFrame:
    """Stimulus, session and run of the trials of some sessions."""
    order, images, pattern = _nsd_design(layout, "masterordering", "subjectim", "stimpattern")
    trials = pattern.sum(axis=2).astype(int)  # (sessions, runs)
    if trials.sum() != order.size or len(images) < subject or order.max() > images.shape[1]:
        raise NeurordlError(
            f"{layout.folder}/nsddata/experiments/nsd/nsd_expdesign.mat: masterordering {order.shape}, "
            f"subjectim {images.shape} and stimpattern {pattern.shape} do not fit; download it again"
        )
    session = np.repeat(np.arange(1, len(trials) + 1), trials.sum(axis=1))
    run = np.concatenate([np.repeat(np.arange(1, len(of_run) + 1), of_run) for of_run in trials])
    shown = images[subject - 1, order.ravel() - 1].astype(int) - 1
    chosen = np.isin(session, sessions)
    ids = [_nsd_id(number) for number in shown[chosen]]
    return _trial_rows(ids, session[chosen].tolist(), run[chosen].tolist())


def _nsd_labels(layout: _Layout, subject: str, group: str) -> dict[int, str]:
    """Number and name of the labels of a file of ROIs; empty for a mask."""
    group = group.removeprefix("lh.").removeprefix("rh.")
    for owner in (subject, "fsaverage"):
        path = layout.folder / "nsddata" / "freesurfer" / owner / "label" / f"{group}.mgz.ctab"
        if path.is_file():
            cells = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
            with damage_named(path, "download it again"):
                return {int(number): label.strip() for number, label in cells if int(number) > 0}
    return dict(enumerate(NSD_ROIS.get(group, ()), 1))


def _nsd_regions(layout: _Layout, subject: str, name: str) -> dict[str, Bools]:
    """Voxels of a published name: those of each ROI in a file, or those of a ROI."""
    space = f"nsddata/ppdata/{subject}/func1pt8mm"
    if name == _BRAIN:
        return {name: _labels_in(layout.need(f"{space}/brainmask.nii.gz")) > 0}
    folder = layout.need(f"{space}/roi")
    groups = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz"))
    group, _, label = name.partition("/")
    if name not in groups and not label:
        having = [entry for entry in groups if name in _nsd_labels(layout, subject, entry).values()]
        both = [entry for entry in having if not entry.startswith(("lh.", "rh."))]
        if len(both) != 1:
            many = f"is in {listed(both)}: write '{both[0]}/{name}'" if both else "is no ROI"
            known = {part for entry in groups for part in _nsd_labels(layout, subject, entry).values()}
            problem = f"roi=: {name!r} {many}" if both else f"roi=: {name!r} is no ROI of {subject}"
            names = listed([*groups, *sorted(known)], most=60)
            raise NeurordlError(problem if both else f"{problem}; it has {names}, and 'brain'")
        group, label = both[0], name
    data, labels = _labels_in(layout.need(f"{space}/roi/{group}.nii.gz")), _nsd_labels(layout, subject, group)
    if label:
        check_choice("roi", label, list(labels.values()))
        labels = {number: text for number, text in labels.items() if text == label}
    regions = {text: data == number for number, text in labels.items()} if labels else {group: data > 0}
    regions = {text: inside for text, inside in regions.items() if inside.any()}
    if not regions:
        raise NeurordlError(f"roi=: {subject} has no voxel in {name!r}; choose another ROI")
    return regions


def _labels_in(path: Path) -> Values:
    image, name = load_image(path, "mask")
    with damage_named(name, "download it again"):
        return np.asanyarray(image.dataobj)


def load_nsd_stimuli(folder: Folder, ids: Iterable[str] | None = None, **preprocessing: Any) -> StimulusSet:
    """Load images of NSD by their ids, from ``nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5``.

    Images are read and resized in blocks: with ``size=64``, 10,000 images take 123 MB; without a size they
    are 425 x 425, and take 5.4 GB.

    Parameters
    ----------
    folder
        As in `load_nsd`.
    ids
        Ids such as "nsd-02950", also with repeats, such as the descriptor ``stimulus`` of `load_nsd`; each
        image is read once, in the order of its first mention. By default all 73,000.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`.

    Raises
    ------
    NeurordlError
        The file is missing or damaged, or it has no image of an id.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with 5 small images
    ...     place = Path(folder) / "nsddata_stimuli" / "stimuli" / "nsd"
    ...     place.mkdir(parents=True)
    ...     with h5py.File(place / "nsd_stimuli.hdf5", "w") as file:
    ...         file["imgBrick"] = np.zeros((5, 20, 20, 3), dtype=np.uint8)
    ...     nrl.datasets.load_nsd_stimuli(folder, ["nsd-00003", "nsd-00001", "nsd-00003"], size=8).ids
    ('nsd-00003', 'nsd-00001')
    """
    path = _nsd(folder).need("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
    with damage_named(path, "download it again"), h5py.File(path) as file:
        brick = file["imgBrick"]
        is_brick = isinstance(brick, h5py.Dataset) and brick.ndim == 4 and brick.dtype == np.uint8
        if not is_brick or len(brick) > _NSD_IMAGES:
            raise ValueError(f"imgBrick should be ({_NSD_IMAGES} images, height, width, 3) of bytes")
        known = [_nsd_id(number) for number in range(len(brick))]
        wanted = known if ids is None else list(dict.fromkeys(map(str, ids)))
        numbers = match_ids(wanted, known, names=("ids=", f"images in {path}"))
        step = max(1, _AT_ONCE // int(np.prod(brick.shape[1:])))
        pixels: torch.Tensor | None = None
        for start in range(0, len(wanted), step):
            images = np.stack([brick[int(number)] for number in numbers.index[start : start + step]])
            part, prepared = array_pixels(images, preprocessing)
            if pixels is None:  # so that the images are never in memory twice
                pixels = part.new_empty((len(wanted), *part.shape[1:]))
            pixels[start : start + step] = part
    assert pixels is not None  # match_ids refuses an empty list
    return StimulusSet(tuple(wanted), pixels, prepared, source=str(path))


# The Algonauts 2023 challenge

_ALGONAUTS_ACCESS = "Fill in the form of the challenge that https://github.com/gifale95/algonauts_2023 links"
_ALL_VERTICES = "all-vertices"


def _algonauts(folder: Folder, subject: int | str) -> tuple[_Layout, str]:
    name, _ = _name_of_subject(subject, "subj{:02d}", 8)
    return _Layout("Algonauts 2023", check_path("folder", folder), _ALGONAUTS_ACCESS), name


def _algonauts_images(layout: _Layout, name: str) -> dict[str, Path]:
    """Training images in the order of the responses, by their ids in NSD."""
    folder = layout.need(f"{name}/training_split/training_images")
    numbered = [(re.fullmatch(r"train-(\d+)_(nsd-\d{5})\.png", path.name), path) for path in folder.iterdir()]
    images = sorted((int(match[1]), match[2], path) for match, path in numbered if match)
    if not images or [number for number, *_ in images] != list(range(1, len(images) + 1)):
        raise NeurordlError(
            f"{folder} has {len(images)} images, which are not train-0001_nsd-... and on without a gap; "
            "unpack the archive of the subject again"
        )
    return {stimulus: path for _, stimulus, path in images}


def load_algonauts(
    folder: Folder, subject: int | str, roi: Names | Mapping[str, Names], *, cache: Folder | None = None
) -> Dataset:
    """Load training responses of the Algonauts 2023 challenge (Gifford et al. 2023, arXiv 2301.03198).

    They are responses of NSD's subjects on the surface of fsaverage, z-scored by the organizers in each
    session and averaged over the presentations of each image. The layout is that of the challenge's archives;
    the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``subj01`` and so on, each with ``training_split`` and ``roi_masks``. Its files
        ``mapping_*.npy`` are pickles and are not read: their names of ROIs are those of `NSD_ROIS`.
    subject
        1 to 8, or "subj01" to "subj08".
    roi
        A group in `NSD_ROIS` ("streams": all its ROIs), a ROI in it ("hV4"), "all-vertices", or several of
        them. A mapping joins them under other names: ``{"V1": ("V1v", "V1d")}``.
    cache
        As in `load_nsd`.

    Returns
    -------
    Dataset
        (images, vertices), float32, with the observation descriptor ``stimulus`` (the id in NSD, such as
        "nsd-00013"), the channel descriptors ``hemisphere`` ("lh" or "rh"), ``column`` (in the file of the
        hemisphere), ``vertex`` (of fsaverage, if ``roi_masks`` has the map of all vertices) and ``roi``, and
        ``subject``.

    Warns
    -----
    UserWarning
        Vertices with NaN, or constant ones, were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, or a ROI is unknown or empty.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with 3 images and 4 vertices in each hemisphere
    ...     places = [Path(folder) / "subj01" / place for place in ("training_split", "roi_masks")]
    ...     for place in (places[0] / "training_images", places[0] / "training_fmri", places[1]):
    ...         place.mkdir(parents=True)
    ...     for number in (1, 2, 3):
    ...         name = f"train-{number:04d}_nsd-{7 * number:05d}.png"
    ...         Image.new("RGB", (8, 8)).save(places[0] / "training_images" / name)
    ...     for side in ("lh", "rh"):
    ...         responses = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ...         np.save(places[0] / "training_fmri" / f"{side}_training_fmri.npy", responses)
    ...         np.save(places[1] / f"{side}.floc-places_challenge_space.npy", np.array([0, 2, 2, 3]))
    ...     patterns = nrl.datasets.load_algonauts(folder, 1, "PPA")
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 4), ['nsd-00007', 'nsd-00014', 'nsd-00021'])
    """
    layout, name = _algonauts(folder, subject)
    ids = list(_algonauts_images(layout, name))
    base = f"{name}/training_split/training_fmri"
    files = [layout.need(f"{base}/{side}_training_fmri.npy") for side in ("lh", "rh")]
    arrays = [open_trials(path) for path in files]
    for array in arrays:
        if array.shape[0] != len(ids) or len(array.shape) != 2:
            problem = f"{array.name} has shape {array.shape}, and there are {len(ids)} training images"
            raise NeurordlError(f"{problem}; unpack the archive of the subject again")
    widths = [array.shape[1] for array in arrays]
    mask = _named_channels(roi, lambda text: _algonauts_regions(layout, name, text, widths))
    table = _algonauts_vertices(layout, name, widths)[mask.inside].assign(roi=mask.roi).reset_index(drop=True)
    blocks, start = list[Block](), 0
    for side, array in zip(("lh", "rh"), arrays, strict=True):
        chosen = table.loc[table["hemisphere"] == side, "column"].to_numpy()
        part = slice(start, start + len(chosen))
        blocks.append((slice(None), part, partial(array.values.__getitem__, (slice(None), chosen))))
        start = part.stop
    rows = pd.DataFrame({"stimulus": ids})
    return _Part(name, rows, table, blocks, files, {"data_set": "Algonauts 2023"}).read(False, cache)


def _algonauts_vertices(layout: _Layout, name: str, widths: Sequence[int]) -> pd.DataFrame:
    """Hemisphere, column and vertex of all channels."""
    sides = []
    for side, width in zip(("lh", "rh"), widths, strict=True):
        table = pd.DataFrame({"hemisphere": side, "column": np.arange(width)})
        path = layout.folder / name / "roi_masks" / f"{side}.{_ALL_VERTICES}_fsaverage_space.npy"
        if path.is_file():
            vertices = np.flatnonzero(_whole_numbers(path))
            if len(vertices) != width:
                raise NeurordlError(f"{path} marks {len(vertices)} vertices, and the responses have {width}")
            table["vertex"] = vertices
        sides.append(table)
    return pd.concat(sides, ignore_index=True)


def _algonauts_regions(layout: _Layout, name: str, wanted: str, widths: Sequence[int]) -> dict[str, Bools]:
    """Vertices of both hemispheres that belong to a group of ROIs, or to a ROI."""
    if wanted == _ALL_VERTICES:
        return {wanted: np.ones(sum(widths), dtype=bool)}
    groups = {label: group for group, labels in NSD_ROIS.items() for label in labels}
    check_choice("roi", wanted, [*NSD_ROIS, *groups, _ALL_VERTICES])
    group = groups.get(wanted, wanted)
    sides = []
    for side, width in zip(("lh", "rh"), widths, strict=True):
        path = layout.need(f"{name}/roi_masks/{side}.{group}_challenge_space.npy")
        sides.append(_whole_numbers(path))
        if sides[-1].shape != (width,):
            raise NeurordlError(
                f"{path} has shape {sides[-1].shape}, and the responses have {width} vertices"
            )
    labels = np.concatenate(sides)
    regions = {label: labels == number for number, label in enumerate(NSD_ROIS[group], 1)}
    regions = {
        label: inside for label, inside in regions.items() if wanted in (group, label) and inside.any()
    }
    if not regions:
        raise NeurordlError(f"roi=: {name} has no vertex in {wanted!r}; choose another ROI")
    return regions


def _whole_numbers(path: Path) -> Values:
    with damage_named(path, "unpack the archive of the subject again"):
        values = np.load(path, allow_pickle=False)
        if values.ndim != 1 or (values != np.round(values)).any():
            raise ValueError(f"expected a row of labels, it has shape {values.shape}")
        return np.asarray(values)


def load_algonauts_stimuli(
    folder: Folder, subject: int | str, ids: Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load training images of a subject of the Algonauts 2023 challenge; ids are NSD's.

    Parameters
    ----------
    folder, subject
        As in `load_algonauts`.
    ids
        As in `load_nsd_stimuli`; by default all training images.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`.

    Raises
    ------
    NeurordlError
        Images are missing or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     place = Path(folder) / "subj02" / "training_split" / "training_images"
    ...     place.mkdir(parents=True)
    ...     Image.new("RGB", (20, 20)).save(place / "train-0001_nsd-00013.png")
    ...     nrl.datasets.load_algonauts_stimuli(folder, 2, size=8).ids
    ('nsd-00013',)
    """
    layout, name = _algonauts(folder, subject)
    images = _algonauts_images(layout, name)
    return _read_stimuli(images, ids, layout.folder / name, preprocessing)


# THINGS-fMRI

_THINGS_ACCESS = "Download it from https://doi.org/10.25452/figshare.plus.20492835 (betas_csv.zip, 43 GB)"
_THINGS_SESSIONS = 12
# columns of the voxels that are no ROIs
_THINGS_MEASURES = (
    *("voxel_id", "subject_id", "voxel_x", "voxel_y", "voxel_z", "nc_singletrial", "nc_testset"),
    *("splithalf_uncorrected", "splithalf_corrected"),
    *("prf-eccentricity", "prf-polarangle", "prf-rsquared", "prf-size"),
)


def load_things(
    folder: Folder,
    subject: int | str,
    roi: Names | Mapping[str, Names],
    *,
    sessions: Iterable[int] | None = None,
    standardize: bool = False,
    cache: Folder | None = None,
) -> Dataset:
    """Load single trials of THINGS-fMRI (Hebart et al. 2023, eLife 12:e82580), from its tables.

    They are the responses in table format, without catch trials; voxels of the ROIs are read in blocks. The
    layout is that of the published notebooks (https://github.com/ViCCo-Group/THINGS-data); the function was
    tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``betas_csv``, or that folder. It needs ``sub-01_ResponseData.h5``,
        ``sub-01_StimulusMetadata.csv`` and ``sub-01_VoxelMetadata.csv`` of the subject.
    subject
        1 to 3, or "sub-01" to "sub-03".
    roi
        A column of ROIs in the table of voxels ("V1", "lFFA", "glasser-V1"), "brain" for all voxels, or
        several of them. A mapping joins them under other names: ``{"FFA": ("lFFA", "rFFA")}``.
    sessions, standardize, cache
        As in `load_nsd`; there are 12 sessions.

    Returns
    -------
    Dataset
        (trials, voxels), float32, with the observation descriptors ``stimulus`` (the file of the image
        without its suffix, such as "dog_12s"), ``concept``, ``trial_type`` ("train" or "test": the 100 images
        that each session shows), ``session``, ``run`` and ``repeat``, the channel descriptors ``x``, ``y``,
        ``z`` and ``roi``, and ``subject``.

    Warns
    -----
    UserWarning
        Voxels with NaN, or constant ones, were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, or a ROI is unknown or empty.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> import numpy as np
    >>> import pandas as pd
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with 3 trials and 4 voxels
    ...     place = Path(folder) / "betas_csv"
    ...     place.mkdir()
    ...     trials = pd.DataFrame({"trial_type": ["train", "test", "train"], "session": 1, "run": [1, 1, 2]})
    ...     trials["stimulus"] = ["dog_12s.jpg", "mango_12s.jpg", "dog_12s.jpg"]
    ...     trials["concept"] = ["dog", "mango", "dog"]
    ...     trials.to_csv(place / "sub-01_StimulusMetadata.csv", index=False)
    ...     voxels = pd.DataFrame({f"voxel_{axis}": np.arange(4) for axis in "xyz"})
    ...     voxels.assign(V1=[0, 1, 1, 0]).to_csv(place / "sub-01_VoxelMetadata.csv", index=False)
    ...     with h5py.File(place / "sub-01_ResponseData.h5", "w") as file:
    ...         file["ResponseData/block0_values"] = np.random.default_rng(0).normal(size=(4, 3))
    ...     patterns = nrl.datasets.load_things(folder, 1, "V1", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 2), ['dog_12s', 'mango_12s', 'dog_12s'])
    """
    root = check_path("folder", folder)
    root = root if root.name == "betas_csv" else root / "betas_csv"
    layout = _Layout("THINGS-fMRI", root, _THINGS_ACCESS)
    name, _ = _name_of_subject(subject, "sub-{:02d}", 3)
    numbers = _numbers_of_sessions(sessions, name, _THINGS_SESSIONS, _THINGS_SESSIONS)
    paths = [layout.need(f"{name}_{part}") for part in ("StimulusMetadata.csv", "VoxelMetadata.csv")]
    trials = _read_columns(paths[0], ["trial_type", "stimulus", "concept"], ["session", "run"])
    path = layout.need(f"{name}_ResponseData.h5")
    responses = open_trials(path, _things_values(path, len(trials))).values
    mask = _named_channels(roi, lambda text: _things_region(paths[1], text))
    if responses.shape[0] != len(mask.inside):
        problem = f"{path} has {responses.shape[0]} voxels, and {paths[1].name} has {len(mask.inside)}"
        raise NeurordlError(f"{problem}; they are of different downloads")
    places = np.flatnonzero(mask.inside)
    axes = _read_columns(paths[1], (), [f"voxel_{axis}" for axis in "xyz"])
    channels = pd.DataFrame({axis: axes[f"voxel_{axis}"].to_numpy()[places] for axis in "xyz"})
    channels = channels.assign(roi=mask.roi)
    chosen = np.flatnonzero(trials["session"].isin(numbers))
    if missing := sorted(set(numbers) - set(trials["session"])):
        raise NeurordlError(f"{paths[0]} has no trial of the sessions {listed(missing)}; download it again")
    trials = trials.iloc[chosen].reset_index(drop=True)
    stimuli = [Path(str(file)).stem for file in trials["stimulus"]]
    rows = _trial_rows(stimuli, trials["session"].tolist(), trials["run"].tolist())
    rows = rows.assign(concept=trials["concept"], trial_type=trials["trial_type"])

    def read(columns: slice) -> Values:
        with damage_named(path, "download it again"):
            return np.asarray(responses[places[columns]])[:, chosen].T

    parts = _row_blocks(len(places), responses.shape[1], responses.dtype.itemsize)
    blocks = [(slice(None), part, partial(read, part)) for part in parts]
    return _Part(name, rows, channels, blocks, [path], {"data_set": "THINGS-fMRI"}).read(standardize, cache)


def _things_values(path: Path, n_trials: int) -> str:
    """The array (voxels, trials) in a frame that pandas wrote; its names of columns are pickles, unread."""
    with damage_named(path, "download it again"), h5py.File(path) as file:
        arrays = [
            item.name.removeprefix("/")
            for group in file.values()
            if isinstance(group, h5py.Group)
            for key, item in group.items()
            if re.fullmatch(r"block\d+_values", key)
            and isinstance(item, h5py.Dataset)
            and item.ndim == 2
            and item.dtype.kind == "f"
            and item.shape[1] == n_trials
        ]
    if len(arrays) != 1:
        raise NeurordlError(
            f"{path} has {len(arrays)} arrays of (voxels, {n_trials} trials), expected one in a frame that "
            "pandas wrote in its fixed format; download it again"
        )
    return str(arrays[0])


def _read_columns(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Some columns of a large CSV file, of which the others are not kept; ``numbers`` are whole numbers."""
    with damage_named(path, "download it again"):
        known = pd.read_csv(path, nrows=0).columns
        check_columns(str(path), known, [*columns, *numbers])
        table = pd.read_csv(path, usecols=[*columns, *numbers], keep_default_na=False)
        for column in numbers:
            if table[column].dtype.kind not in "iu":
                raise ValueError(f"the column {column!r} should be whole numbers")
        return table


def _things_region(path: Path, name: str) -> dict[str, Bools]:
    if name == _BRAIN:
        return {name: np.ones(len(_read_columns(path, ["voxel_x"])), dtype=bool)}
    with damage_named(path, "download it again"):
        columns = [str(column) for column in pd.read_csv(path, nrows=0).columns]
    rois = [column for column in columns if column not in _THINGS_MEASURES]
    if name not in rois:
        names = listed([*rois, _BRAIN], most=60)
        raise NeurordlError(f"roi=: {name!r} is no column of ROIs in {path}; it has {names}")
    inside = _read_columns(path, [name])[name].to_numpy()
    if not np.isin(inside, (0, 1)).all() or not inside.any():
        raise NeurordlError(f"roi=: {path} marks no voxel as {name!r} by 1, and others by 0; choose another")
    return {name: inside == 1}


def load_things_stimuli(
    folder: Folder, ids: Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load images of the THINGS database (Hebart et al. 2019, PLoS ONE 14:e0223792) by their ids.

    Parameters
    ----------
    folder
        The folder with ``object_images``, or a folder of images, also in subfolders ("dog/dog_12s.jpg").
    ids
        Ids such as "dog_12s", as in `load_nsd_stimuli`; by default all images in the folder.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`; ``size`` is needed
        where images have several sizes.

    Raises
    ------
    NeurordlError
        An image is missing or damaged, or two images have the same id.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     place = Path(folder) / "object_images" / "dog"
    ...     place.mkdir(parents=True)
    ...     Image.new("RGB", (20, 20)).save(place / "dog_12s.jpg")
    ...     nrl.datasets.load_things_stimuli(folder, ["dog_12s"], size=8).ids
    ('dog_12s',)
    """
    access = "Get the images from https://osf.io/jum2f"
    place = _folder_of_images(_Layout("THINGS", check_path("folder", folder), access), "object_images")
    return _read_stimuli(_images_by_id(place), ids, place, preprocessing)


def _folder_of_images(layout: _Layout, relative: str) -> Path:
    """The published place of images in a folder, or the folder itself, if it holds images."""
    if (place := layout.folder / relative).is_dir():
        return place
    has_images = layout.folder.is_dir() and bool(_images_by_id(layout.folder))
    return layout.folder if has_images else layout.need(relative)


# BOLD5000, the release with GLMsingle

_BOLD5000_PAGE = "https://bold5000-dataset.github.io/website/download.html"
_BOLD5000_ACCESS = f"Download release 2.0 from {_BOLD5000_PAGE}"
_BOLD5000_TRIALS = 37  # in a run
# runs of each session, counted in the lists of images of https://github.com/nchang430/BOLD5000-Scripts
_BOLD5000_RUNS = {
    "CSI1": (10, 10, 10, 9, 10, 9, 10, 9, 9, 10, 9, 9, 9, 9, 10),
    "CSI2": (10, 9, 10, 10, 10, 9, 9, 9, 9, 9, 10, 10, 9, 10, 9),
    "CSI3": (10, 9, 10, 9, 10, 10, 10, 9, 9, 9, 10, 9, 9, 9, 10),
    "CSI4": (10, 9, 9, 10, 9, 9, 9, 9, 10),
}


def load_bold5000(
    folder: Folder,
    subject: int | str,
    roi: ROI,
    *,
    sessions: Iterable[int] | None = None,
    standardize: bool = False,
    cache: Folder | None = None,
    betas: str = "TYPED-FITHRF-GLMDENOISE-RR",
) -> Dataset:
    r"""Load single trials of BOLD5000 (Chang et al. 2019, Sci. Data 6:49), of release 2.0 with GLMsingle.

    They are betas in percent signal change, from the arrays of ROIs, or session by session from the images
    of the whole brain. Its authors recommend ``standardize=True``. The layout is that of the release's notes
    (https://github.com/BOLD5000-dataset/BOLD5000); the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``CSI1_imgnames.txt`` and, for ROIs by name,
        ``CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy`` and so on, there, in ``py`` or in
        ``BOLD5000_GLMsingle_ROI_betas/py``; for a mask, ``CSI1_GLMbetas-..._ses-01.nii.gz`` and so on.
    subject
        1 to 4, or "CSI1" to "CSI4".
    roi
        A ROI of a hemisphere ("LHPPA"), of both ("PPA"), or several of them; a mapping joins them under other
        names. Or a mask or atlas in the space of the betas, as in `neurordl.read_patterns`; "brain" is
        ``CSI1_brainmask.nii.gz``, which users found not to lie exactly on the betas: voxels without values
        are dropped.
    sessions, standardize, cache
        As in `load_nsd`; there are 15 sessions, and 9 of CSI4.
    betas
        The version of the betas in the names of the files.

    Returns
    -------
    Dataset
        (trials, voxels), float32, with the observation descriptors ``stimulus`` (the file of the image
        without its suffix and without ``rep_``, such as "n01930112_19568"), ``session``, ``run`` and
        ``repeat``, the channel descriptors ``roi``, ``hemisphere`` and ``column``, or ``x``, ``y`` and ``z``
        of a mask, and ``subject``.

    Warns
    -----
    UserWarning
        CSI4 has fewer sessions; voxels with NaN, or constant ones in a session, were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, or a ROI is unknown.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with all 3,108 trials of CSI4, and 4 voxels of the left PPA
    ...     names = "\n".join(f"n{number:08d}_1.JPEG" for number in range(3108))
    ...     _ = (Path(folder) / "CSI4_imgnames.txt").write_text(names)
    ...     name = "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy"
    ...     np.save(Path(folder) / name, np.random.default_rng(0).normal(size=(3108, 4)))
    ...     patterns = nrl.datasets.load_bold5000(folder, "CSI4", "LHPPA", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["run"][-1]
    ((370, 4), 'ses-01_run-10')
    """
    layout = _Layout("BOLD5000", check_path("folder", folder), _BOLD5000_ACCESS)
    name, _ = _name_of_subject(subject, "CSI{}", 4)
    numbers = _numbers_of_sessions(sessions, name, len(_BOLD5000_RUNS[name]), 15)
    rows, chosen = _bold5000_rows(layout, name, numbers)
    base = f"{name}_GLMbetas-{betas}"
    record: dict[str, object] = {"data_set": "BOLD5000", "betas": betas}
    if roi == _BRAIN or _is_image(roi):
        files = [layout.need(f"{base}_ses-{number:02d}.nii.gz") for number in numbers]
        grid, _ = load_image(files[0], "image of betas")
        image = layout.need(f"{name}_brainmask.nii.gz") if roi == _BRAIN else roi
        inside, channels, space_record = _channels_of_volume(image, lambda _: {}, grid)
        record |= space_record
        blocks = _blocks_of_sessions(rows, files, lambda path, count: _values_of_volumes(path, inside, count))
    else:
        arrays = _bold5000_arrays(layout, f"{base}_allses_", name)
        mask = _named_channels(roi, lambda text: _bold5000_region(name, arrays, text))  # type: ignore[arg-type]
        every = [(label, column) for label, array in arrays.items() for column in range(array.shape[1])]
        labels, columns = zip(*(every[place] for place in np.flatnonzero(mask.inside)), strict=True)
        channels = pd.DataFrame({"roi": mask.roi, "hemisphere": [label[:2].lower() for label in labels]})
        channels["column"] = columns
        blocks, used = list[Block](), [arrays[label] for label in dict.fromkeys(labels)]
        for array in used:
            start = blocks[-1][1].stop if blocks else 0
            part = slice(start, start + array.shape[1])
            blocks.append((slice(None), part, partial(array.values.__getitem__, chosen)))
        files = [Path(array.name) for array in used]
    return _Part(name, rows, channels, blocks, files, record).read(standardize, cache)


def _bold5000_rows(layout: _Layout, name: str, sessions: Sequence[int]) -> tuple[pd.DataFrame, Values]:
    """Rows of the trials of some sessions, and which of all trials these are."""
    path, runs = layout.need(f"{name}_imgnames.txt"), np.array(_BOLD5000_RUNS[name])
    names = read_text(path).split()
    if len(names) != runs.sum() * _BOLD5000_TRIALS:
        trials = f"{name} has {runs.sum()} runs of {_BOLD5000_TRIALS} trials"
        raise NeurordlError(f"{path} names {len(names)} images, and {trials}; download it again")
    session = np.repeat(np.arange(1, len(runs) + 1), runs * _BOLD5000_TRIALS)
    run = np.concatenate([np.repeat(np.arange(1, count + 1), _BOLD5000_TRIALS) for count in runs])
    chosen = np.flatnonzero(np.isin(session, sessions))
    stimuli = [Path(names[trial].removeprefix("rep_")).stem for trial in chosen]
    return _trial_rows(stimuli, session[chosen].tolist(), run[chosen].tolist()), chosen


def _bold5000_arrays(layout: _Layout, prefix: str, name: str) -> dict[str, TrialArray]:
    """The arrays of ROIs by name, such as "LHPPA", with all trials of a subject."""
    n_trials = sum(_BOLD5000_RUNS[name]) * _BOLD5000_TRIALS
    places = ("", "py/", "BOLD5000_GLMsingle_ROI_betas/py/")
    paths = {
        path.stem.removeprefix(prefix): path
        for place in places
        for path in sorted((layout.folder / place).glob(f"{prefix}[LR]H*.npy"))
    }
    if not paths:
        layout.need(f"{places[-1]}{prefix}LHPPA.npy")
    arrays = {label: open_trials(path) for label, path in paths.items()}
    for array in arrays.values():
        if len(array.shape) != 2 or array.shape[0] != n_trials:
            raise NeurordlError(
                f"{array.name} has shape {array.shape}, expected {n_trials} trials, one for each image that "
                "the subject saw; download it again"
            )
    return arrays


def _bold5000_region(name: str, arrays: Mapping[str, TrialArray], wanted: str) -> dict[str, Bools]:
    """Columns of all arrays, side by side, that belong to a ROI of a hemisphere or of both."""
    labels = [label for label in arrays if wanted in (label, label[2:])]
    if wanted == _BRAIN:
        raise NeurordlError(f"roi=: 'brain' is not combined with ROIs by name, such as {listed(arrays)}")
    if not labels:
        names = listed([*sorted({label[2:] for label in arrays}), *arrays, _BRAIN], most=30)
        raise NeurordlError(f"roi=: {wanted!r} is no ROI of {name}; it has {names}")
    return {
        wanted: np.concatenate([np.full(array.shape[1], label in labels) for label, array in arrays.items()])
    }


def load_bold5000_stimuli(
    folder: Folder, ids: Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load images of BOLD5000 by their ids: scenes, and images of COCO and ImageNet.

    Parameters
    ----------
    folder
        The folder with ``BOLD5000_Stimuli``, or that folder, of which ``Scene_Stimuli/Presented_Stimuli`` is
        read; or a folder of images, also in subfolders.
    ids
        Ids such as "n01930112_19568", as in `load_nsd_stimuli`; by default all images in the folder.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`; ``size`` is needed
        where images have several sizes.

    Raises
    ------
    NeurordlError
        An image is missing or damaged, or two images have the same id.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     place = Path(folder) / "Scene_Stimuli" / "Presented_Stimuli" / "Scene"
    ...     place.mkdir(parents=True)
    ...     Image.new("RGB", (20, 20)).save(place / "banquetHall2.jpg")
    ...     nrl.datasets.load_bold5000_stimuli(folder, ["banquetHall2"], size=8).ids
    ('banquetHall2',)
    """
    root = check_path("folder", folder)
    root = root / "BOLD5000_Stimuli" if (root / "BOLD5000_Stimuli").is_dir() else root
    access = f"Get BOLD5000_Stimuli.zip from {_BOLD5000_PAGE}"
    place = _folder_of_images(_Layout("BOLD5000", root, access), "Scene_Stimuli/Presented_Stimuli")
    return _read_stimuli(_images_by_id(place), ids, place, preprocessing)
