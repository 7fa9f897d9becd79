"""THINGS-fMRI (Hebart et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.datasets.large.reading import (
    BRAIN,
    Folder,
    Layout,
    Names,
    Part,
    Values,
    name_of_subject,
    named_channels,
    numbers_of_sessions,
    read_folder_of_stimuli,
    row_blocks,
    trial_rows,
)
from neurordl.errors import NeurordlError
from neurordl.io import damage_named
from neurordl.patterns.trials import open_trials
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_columns, check_path, listed

_ACCESS = "Download it from https://doi.org/10.25452/figshare.plus.20492835 (betas_csv.zip, 43 GB)"
_SESSIONS = 12
# columns of the voxels that are no ROIs
_MEASURES = (
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
        The folder with ``betas_csv``, or the folder with its files. It needs ``sub-01_ResponseData.h5``,
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
    ...     trials["trial_id"] = range(3)
    ...     trials.to_csv(place / "sub-01_StimulusMetadata.csv", index=False)
    ...     voxels = pd.DataFrame({f"voxel_{name}": np.arange(4) for name in ("id", "x", "y", "z")})
    ...     voxels.assign(V1=[0, 1, 1, 0]).to_csv(place / "sub-01_VoxelMetadata.csv", index=False)
    ...     with h5py.File(place / "sub-01_ResponseData.h5", "w") as file:
    ...         file["ResponseData/block0_values"] = np.random.default_rng(0).normal(size=(4, 3))
    ...     patterns = nrl.datasets.load_things(folder, 1, "V1", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 2), ['dog_12s', 'mango_12s', 'dog_12s'])
    """
    root = check_path("folder", folder)
    layout = Layout("THINGS-fMRI", place if (place := root / "betas_csv").is_dir() else root, _ACCESS)
    name, _ = name_of_subject(subject, "sub-{:02d}", 3)
    numbers = numbers_of_sessions(sessions, name, _SESSIONS, _SESSIONS)
    paths = [layout.need(f"{name}_{part}") for part in ("StimulusMetadata.csv", "VoxelMetadata.csv")]
    trials = _read_columns(paths[0], ["trial_type", "stimulus"], ["session", "run", "trial_id"])
    if (trials["trial_id"] != np.arange(len(trials))).any():
        raise NeurordlError(f"{paths[0]} is not in the order of trial_id, from 0; download it again")
    path = layout.need(f"{name}_ResponseData.h5")
    array, responses_of = _frame(path, len(trials))
    responses = open_trials(path, array).values
    voxels = _read_columns(paths[1], (), ["voxel_id", *(f"voxel_{axis}" for axis in "xyz")])
    if responses.shape[0] != len(voxels):
        problem = f"{path} has {responses.shape[0]} voxels, and {paths[1].name} has {len(voxels)}"
        raise NeurordlError(f"{problem}; they are of different downloads")
    if responses_of is not None and (responses_of != voxels["voxel_id"]).any():
        problem = f"{path} and {paths[1].name} have other voxels, or others first, by their voxel_id"
        raise NeurordlError(f"{problem}; download them again")
    mask = named_channels(roi, lambda text: _region(paths[1], text))
    places = np.flatnonzero(mask.inside)
    channels = pd.DataFrame({axis: voxels[f"voxel_{axis}"].to_numpy()[places] for axis in "xyz"})
    channels = channels.assign(roi=mask.roi)
    chosen = np.flatnonzero(trials["session"].isin(numbers))
    if missing := sorted(set(numbers) - set(trials["session"])):
        raise NeurordlError(f"{paths[0]} has no trial of the sessions {listed(missing)}; download it again")
    trials = trials.iloc[chosen].reset_index(drop=True)
    stimuli = [Path(str(file)).stem for file in trials["stimulus"]]
    rows = trial_rows(stimuli, trials["session"].tolist(), trials["run"].tolist())
    concepts = [stimulus.rpartition("_")[0] for stimulus in stimuli]  # a column that older releases lack
    rows = rows.assign(concept=concepts, trial_type=trials["trial_type"])

    def read(columns: slice) -> Values:
        with damage_named(path, "download it again"):
            return np.asarray(responses[places[columns]])[:, chosen].T

    parts = row_blocks(len(places), responses.shape[1], responses.dtype.itemsize)
    blocks = [(slice(None), part, partial(read, part)) for part in parts]
    return Part(name, rows, channels, blocks, [path], {"data_set": "THINGS-fMRI"}).read(standardize, cache)


def _frame(path: Path, n_trials: int) -> tuple[str, Values | None]:
    """The array (voxels, trials) in a frame that pandas wrote, and the voxel_id of its rows.

    Names of the trials are pickles, and stay unread.
    """
    with damage_named(path, "download it again"), h5py.File(path) as file:
        frames = [group for group in file.values() if isinstance(group, h5py.Group)]
        blocks = [
            (item, frame.get(key.replace("values", "items")))
            for frame in frames
            for key, item in frame.items()
            if re.fullmatch(r"block\d+_values", key) and isinstance(item, h5py.Dataset) and item.ndim == 2
        ]
        arrays = [item.name for item, _ in blocks if item.dtype.kind == "f" and item.shape[1] == n_trials]
        ids = [
            item[:, 0]
            for item, names in blocks
            if isinstance(names, h5py.Dataset) and names.dtype.kind == "S" and list(names) == [b"voxel_id"]
        ]
    if len(arrays) != 1:
        raise NeurordlError(
            f"{path} has {len(arrays)} arrays of (voxels, {n_trials} trials), expected one in a frame that "
            "pandas wrote in its fixed format; download it again"
        )
    return str(arrays[0]).removeprefix("/"), ids[0] if ids else None


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


def _region(path: Path, name: str) -> dict[str, Bools]:
    if name == BRAIN:
        return {name: np.ones(len(_read_columns(path, ["voxel_x"])), dtype=bool)}
    with damage_named(path, "download it again"):
        columns = [str(column) for column in pd.read_csv(path, nrows=0).columns]
    rois = [column for column in columns if column not in _MEASURES]
    if name not in rois:
        names = listed([*rois, BRAIN], most=60)
        raise NeurordlError(f"roi=: {name!r} is no column of ROIs in {path}; it has {names}")
    inside = _read_columns(path, [name])[name].to_numpy()
    if not np.isin(inside, (0, 1)).all() or not inside.any():
        raise NeurordlError(f"roi=: {path} marks no voxel as {name!r} by 1, and others by 0; choose another")
    return {name: inside == 1}


def load_things_stimuli(
    folder: Folder, ids: str | Iterable[str] | None = None, **preprocessing: Any
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
    layout = Layout("THINGS", check_path("folder", folder), access)
    return read_folder_of_stimuli(layout, "object_images", ids, preprocessing)
