"""fMRI to patterns: `read_patterns` for BOLD series, `read_betas` for betas, `read_bids` for a folder."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, compress
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict, Unpack, overload

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids, natural_key, similar_ids, warn_of_names
from neurordl.patterns.bids import inherited_files, match_tables, parse_name, recording, volume_times
from neurordl.patterns.images import AnyImage, Regions, Scan, Space, load_image, open_volumes, read_mask
from neurordl.patterns.models import ModelName, Run, RunModel, find_model, warn_of_lag
from neurordl.patterns.surfaces import HEMISPHERES, is_surface, list_images, open_surfaces
from neurordl.patterns.tables import (
    Confounds,
    Table,
    as_list,
    name_of,
    read_events,
    read_table,
    table_name,
    warn_of_unnamed,
)
from neurordl.patterns.trials import TrialArray, is_trial_array, open_trials, read_trials, trial_table
from neurordl.progress import tracked
from neurordl.validate import check_choice, check_columns, listed

Folder: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = AnyImage | Sequence[AnyImage | tuple[Any, ...]]
Region: TypeAlias = AnyImage | Regions | None
Tables: TypeAlias = Table | Sequence[Table] | None
Names: TypeAlias = str | Sequence[str] | None
Masks: TypeAlias = Region | Mapping[str, Region]


class _Options(TypedDict, total=False):
    model: ModelName | RunModel
    confounds: Tables | Confounds
    condition: str
    leave_out: str | Sequence[str]
    subject: str | None
    session: Names
    runs: Names
    progress: bool | None


class _WithResiduals(_Options):
    residuals: Literal[True]


class _BidsOptions(_Options, total=False):
    events_root: Folder | None
    subjects: Names
    sessions: Names


class _BidsWithResiduals(_BidsOptions):
    residuals: Literal[True]


@overload
def read_patterns(
    images: Images, mask: Region = None, events: Tables = None, **options: Unpack[_WithResiduals]
) -> tuple[Dataset, Dataset]: ...
@overload
def read_patterns(
    images: Images, mask: Region = None, events: Tables = None, **options: Unpack[_Options]
) -> Dataset: ...
def read_patterns(
    images: Images,
    mask: Region = None,
    events: Tables = None,
    *,
    model: ModelName | RunModel = "glm",
    confounds: Tables | Confounds = None,
    condition: str = "trial_type",
    leave_out: str | Sequence[str] = (),
    subject: str | None = None,
    session: Names = None,
    runs: Names = None,
    residuals: bool = False,
    progress: bool | None = None,
) -> Dataset | tuple[Dataset, Dataset]:
    """Estimate the patterns of one subject from BOLD series and events.

    Parameters
    ----------
    images
        4D NIfTI image of each run: files or nibabel images.

        Or series on a surface: GIFTI (``.func.gii``) of one hemisphere or both, CIFTI (``.dtseries.nii``), or
        nilearn's ``SurfaceImage``. Files of both hemispheres are put together by their names (``hemi-L`` and
        ``hemi-R``, ``lh`` and ``rh``); with other names, give a mapping {"left": ..., "right": ...} for each
        run.
    mask
        A binary mask, or `Regions`: a mask with a name, or an atlas with names. A mask on another grid is
        resampled, with a warning; one of another mesh is an error. By default all voxels are used.
    events
        Events of each run: a BIDS ``events.tsv`` with ``onset`` and ``duration`` in seconds and the names of
        the stimuli (see ``condition``). Files are matched with images by their names (``run-01`` and so on),
        or by order if they have no such names.

        Events can also be DataFrames, which are matched by order. Other columns, such as ``modulation``, are
        not used. Events whose name is blank, "n/a", "N/A", "nan", "NaN" or missing in a DataFrame are not
        modeled, which is a notice; all other text is a name, also "NA", "null" and "None".
    model
        Model of a run: "glm" (one pattern per condition and run), "lsa" or "lss" (one pattern per trial), or
        "average" (mean of the volumes during a condition's events, without a hemodynamic response).

        To change its settings, pass an object: `GLM`, `LSA`, `LSS`, `Average`, or a `RunModel` of your own.
        All but "average" convolve the events with a hemodynamic response. If the events are already shifted
        by the hemodynamic lag, as in some public data sets, use "average" or ``GLM(hrf_model=None)``.
    confounds
        Regressors of no interest: `Confounds`, or for each image a table with one row per volume. Tables are
        matched with images as events are.
    condition
        Column of the events with the names of the stimuli.
    leave_out
        Conditions that are modeled but for which no pattern is returned, such as "rest".
    subject
        Name of the subject. By default it is read from the names of the files (``sub-``).
    session
        Name of the session, or one name for each image. By default sessions are read from the names of the
        files (``ses-``).
    runs
        Name of each run. By default runs are read from the names of the files (``run-``); without such names
        they are called run-1, run-2 and so on.
    residuals
        Whether to return the residuals, too. `compute_rdms` takes them for noise normalization.
    progress
        Show a progress bar; by default on a terminal and in a notebook.

    Returns
    -------
    Dataset, or (Dataset, Dataset) with residuals
        Patterns (rows, voxels), float64. Observation descriptors: ``stimulus``, ``run``, ``session`` if there
        is one, and for single trials ``trial`` and ``onset``. Channel descriptors: voxel indices ``x``,
        ``y``, ``z``, or ``hemisphere`` and the index of the ``vertex``, and ``roi`` if regions have names;
        of CIFTI with voxels all of these, -1 where a channel has none, and ``structure``. Descriptors:
        ``subject`` if it is known, and ``provenance``, JSON that records what was done. Residuals
        (volumes, voxels) have ``run``, ``session`` and ``dof``, the degrees of freedom of the run.

    Warns
    -----
    UserWarning
        Tables were matched with images by order alone; a mask was resampled; voxels were dropped, because
        they have NaN or infinite values, or are constant in a run; sidecars and header disagree about times;
        or the other type of model, with or without a hemodynamic response, explains the signal clearly
        better (then events may be shifted already by the hemodynamic lag, or, with "average", not yet).

    Raises
    ------
    NeurordlError
        A file is absent, damaged or not NIfTI, a mask is empty, an atlas lacks names, events lie outside
        their run, tables do not fit their images, images are of several subjects, or no voxel is left.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # a simulated study of one subject, in files
    ...     study = nrl.simulate.simulate_fmri(Path(folder) / "study", np.eye(4), list("abcd"), n_subjects=1)
    ...     bold = sorted(study.glob("sub-01/func/*_bold.nii.gz"))
    ...     events = sorted(study.glob("sub-01/func/*_events.tsv"))
    ...     regions = nrl.Regions(study / "atlas.nii.gz", study / "atlas.tsv")
    ...     patterns = nrl.read_patterns(bold, regions, events, model=nrl.GLM(noise_model="ar1"))
    >>> patterns.measurements.shape  # 4 stimuli in 4 runs, and the voxels
    (16, 256)
    """
    if events is None:
        raise NeurordlError(
            "pass events=, a table for each image; if they are betas, use read_betas (--table)"
        )
    model = find_model(model)
    confounds = confounds if isinstance(confounds, Confounds) else Confounds(confounds)
    leave_out = as_list(leave_out, (str,), "leave_out")
    if confounds != Confounds() and not model.takes_confounds:
        raise NeurordlError(f"model={model.name!r} takes no confounds; remove them first, or use model='glm'")
    scans = _open(images, mask, subject, session, runs)
    if repeated := [run for run in scans.runs if scans.runs.count(run) > 1]:
        raise NeurordlError(f"two images belong to {repeated[0]}; name the runs with runs=, or leave one out")
    event_tables = as_list(events, name="events")
    of_events = match_tables(scans.files, event_tables, "events")
    of_confounds: Sequence[int | None] = [None] * len(scans.files)
    if confounds.tables is not None:
        of_confounds = match_tables(scans.files, as_list(confounds.tables), "confounds")
    series, kept, counts = scans.read()
    estimates, notes, conditions, of_times = [], [], dict[str, None](), list[list[str]]()
    opened, unnamed = list(zip(scans.scans, scans.files, series, strict=True)), []
    for k, (scan, file, data) in enumerate(tracked(opened, "runs", progress)):
        if scan.n_volumes is None:
            raise NeurordlError(f"{file} is no series of volumes; expected BOLD (read_betas reads betas)")
        n_volumes, name = len(data), table_name(event_tables[of_events[k]], of_events[k])
        step, times, noticed = volume_times(file, n_volumes, scan.time, model.t_r, model.slice_time_ref)
        run_events, nameless = read_events(event_tables[of_events[k]], name, condition, n_volumes * step)
        unnamed.append((name, nameless))
        regressors, volumes = confounds.read(file, n_volumes, of_confounds[k])
        run = Run(file, data if volumes is None else data[volumes], run_events, times, regressors, volumes)
        estimate = model.fit(run)
        estimates.append(estimate)
        of_times.append(noticed)
        conditions |= dict.fromkeys(run_events["condition"])
        note = {"run": scans.runs[k], "t_r": step, "volumes": n_volumes, "events": Path(name).name}
        note |= {"dof": estimate.dof, "slice_time_ref": times[0] / step}
        if model.takes_confounds:
            note["confounds"] = 0 if regressors is None else regressors.shape[1]
            note["excluded"] = n_volumes - len(run.data)
        notes.append(note)
    _warn_of_times(scans.files, of_times)
    warn_of_unnamed(unnamed, condition)
    if similar := similar_ids(conditions):
        notify(f"conditions of the events: {similar}")
    rows = scans.rows([estimate.rows for estimate in estimates])
    if unknown := [name for name in leave_out if name not in conditions]:
        known = listed(conditions, quote=True)
        raise NeurordlError(f"leave_out={unknown[0]!r} is not a condition of the events, which are {known}")
    wanted = ~rows["stimulus"].isin(leave_out).to_numpy()
    if not wanted.any():
        raise NeurordlError(f"leave_out= leaves no condition of {', '.join(leave_out)}")
    warn_of_lag(model, estimates)
    provenance = {"model": model.name, "condition": condition, "leave_out": leave_out, **asdict(model)}
    provenance |= {**counts, "runs": notes}
    values = np.concatenate([estimate.patterns for estimate in estimates])[wanted]
    patterns = scans.dataset(values, rows[wanted], kept, provenance)
    if not residuals:
        return patterns
    values = np.concatenate([estimate.residuals for estimate in estimates])
    dof = [pd.DataFrame({"dof": [estimate.dof] * len(estimate.residuals)}) for estimate in estimates]
    return patterns, scans.dataset(values, scans.rows(dof), kept, provenance)


def _warn_of_times(files: Sequence[str], of_files: Sequence[Sequence[str]]) -> None:
    """Give each notice on the times of volumes once, with the number of its images."""
    notices = [notice for of_file in of_files for notice in of_file]
    for notice in dict.fromkeys(notices):
        named = [file for file, of_file in zip(files, of_files, strict=True) if notice in of_file]
        # alike for all subjects where it is of all images, so that Python shows it once
        images = "all images" if len(named) == len(files) else f"images such as {named[0]}"
        notify(f"{images} ({len(named)}): {notice}")


def read_betas(
    images: Images | npt.NDArray[Any],
    table: Table | Sequence[str],
    mask: Region | Bools = None,
    *,
    condition: str = "trial_type",
    subject: str | None = None,
    session: Names = None,
    runs: Names = None,
    name: str | None = None,
) -> Dataset:
    """Read betas or other responses, and a table that describes each of them.

    Betas come without residuals; `compute_rdms` can estimate the noise from repeated measurements.

    Parameters
    ----------
    images
        3D or 4D NIfTI images; the betas are their volumes, one after another. Or maps on a surface, as in
        `read_patterns`: GIFTI (``.func.gii``, ``.shape.gii``), CIFTI (``.dscalar.nii``), ``SurfaceImage``.

        Or the betas of single trials: an array (trials, voxels) or (x, y, z, trials), which may be a memory
        map or a dataset of h5py, or a file of NumPy (``.npy``), HDF5 or MATLAB, such as those of
        GLMsingle. An array (trials, voxels) is used as it is, and a memory map stays on the disk; of
        (x, y, z, trials) only the voxels of the mask are kept in memory.
    table
        A TSV or CSV file or a DataFrame with one row per volume and the column ``stimulus``. It can have the
        columns ``run`` and ``session``; other columns become descriptors, too. If it has a column ``image``
        with the file name of each row (of both hemispheres that of the left one), 3D images are matched by
        these names, in any order. Subjects, sessions and runs in the table must not contradict the names of
        the images.

        In Python, it can also be a list with the stimulus of each volume or trial. For GLMsingle,
        `glmsingle_trials` makes the table; for SPM, FSL and AFNI `find_betas` gives images and table.
    mask
        As in `read_patterns`. An array has no coordinates: its mask is a NIfTI image of the same voxels, or
        an array (x, y, z) of True and False.
    condition
        Column with the names of the stimuli if the table has no column ``stimulus``.
    subject, session, runs
        As in `read_patterns`; several images can belong to one run. For an array, session and runs are
        columns of the table.
    name
        The variable of an HDF5 or MATLAB file. By default it is GLMsingle's (``betasmd`` or ``modelmd``), or
        the only array of the file.

    Returns
    -------
    Dataset
        Patterns as from `read_patterns`; they have ``run`` only if the table, the names of the images or
        ``runs`` give it. An array (trials, voxels) keeps its type, and its channels have no places.

    Warns
    -----
    UserWarning
        Images are not in the table, a mask was resampled, or voxels were dropped.

    Raises
    ------
    NeurordlError
        An image or the table cannot be read, rows and volumes do not fit each other, maps have the names of
        the stimuli in another order, a row has no stimulus, or no voxel is left.

    Examples
    --------
    The images, the table and the mask can be files, such as "betas.nii.gz", "betas.tsv" and "it.nii.gz". Here
    they are made:

    >>> import nibabel
    >>> import numpy as np
    >>> import pandas as pd
    >>> import neurordl as nrl
    >>> values = np.random.default_rng(0).normal(size=(3, 3, 2, 4))
    >>> betas = nibabel.Nifti1Image(values, np.eye(4))
    >>> mask = nibabel.Nifti1Image((values[..., 0] > 0).astype("uint8"), np.eye(4))
    >>> table = pd.DataFrame({"stimulus": ["face", "house", "house", "face"], "run": [1, 1, 2, 2]})
    >>> patterns = nrl.read_betas(betas, table, mask=mask, subject="s01")
    >>> patterns.measurements.shape  # 4 volumes, and the 7 voxels in the mask
    (4, 7)
    """
    table = trial_table(table)
    if is_trial_array(images):
        if runs is not None or session is not None:
            raise NeurordlError("runs= and session= name images; give trials the columns run and session")
        return _array_betas(open_trials(images, name), table, mask, condition, subject)
    if name is not None:
        raise NeurordlError(f"name={name!r} is for a file of HDF5 or MATLAB, not for images")
    if isinstance(images, np.ndarray) or isinstance(mask, np.ndarray):
        raise NeurordlError("mask= is an array, which has no coordinates; for images pass a NIfTI image")
    scans = _open(images, mask, subject, session, runs)
    series, kept, counts = scans.read()
    values, maps = np.concatenate(series), _names_of_maps(scans.scans, series)
    image_of_row = np.repeat(np.arange(len(series)), [len(volumes) for volumes in series])
    name = table_name(table, 0)
    frame, column = _rows_of_betas(table, name, condition)
    if "image" in frame:
        if len(values) != len(scans.files):
            raise NeurordlError("the column 'image' is for 3D images, but some are 4D; leave it out")
        rows_of, files = ([Path(str(file)).name for file in side] for side in (frame["image"], scans.files))
        match = match_ids(rows_of, files, names=("rows of the table", "images"))
        values, image_of_row = values[match.index], image_of_row[match.index]
        maps = [maps[k] for k in match.index]
        if match.unused:
            unused = f"{len(match.unused)} images are in no row of {name} and were left out, such as "
            notify(unused + match.unused[0])
    elif len(frame) != len(values):
        counts_differ = f"{name} has {len(frame)} rows, and the images have {len(values)} volumes"
        raise NeurordlError(f"{counts_differ}; give a row per volume, or name 3D images in a column 'image'")
    for key, argument in (("run", runs), ("session", session)):
        if argument is not None and key in frame:
            raise NeurordlError(f"{key} is a column of {name} and an argument; give one of them")
    _check_rows(frame, name, [scans.files[k] for k in image_of_row])
    _check_maps(frame[column].map(name_of).tolist(), maps, name)
    rows = frame.drop(columns=column).assign(stimulus=frame[column].map(name_of))
    # images of one volume each are no runs, unless their names or runs= say so
    named = runs is not None or all("run" in recording(file) for file in scans.files)
    if "run" not in frame and (named or len(values) > len(series) > 1):
        rows["run"] = [scans.runs[k] for k in image_of_row]
    if "session" not in frame and scans.sessions is not None:
        rows["session"] = [scans.sessions[k] for k in image_of_row]
    return scans.dataset(values, rows, kept, {"model": "betas", "table": Path(name).name, **counts})


def _rows_of_betas(table: Table, name: str, condition: str) -> tuple[pd.DataFrame, str]:
    """The table of betas, and the column with the names of their stimuli, which each row has."""
    frame = read_table(table, name)
    named = [name for name in ("stimulus", condition, "id") if name in frame]
    column = named[0] if named else condition
    check_columns(
        name, frame, (column,), "give it a column stimulus or id, or name another one with condition="
    )
    if (unnamed := frame[column].isna().to_numpy()).any():
        count = f"{unnamed.sum()} rows without a {column} ({listed(np.flatnonzero(unnamed) + 1)}, from 1)"
        raise NeurordlError(f"{name} has {count}; fill it in, or leave out their volumes")
    warn_of_names(frame[column], f"{name}, column {column!r}")
    if similar := similar_ids(frame[column].unique()):
        notify(f"stimuli of {name}: {similar}")
    return frame, column


def _array_betas(
    array: TrialArray, table: Table, mask: Region | Bools, condition: str, subject: str | None
) -> Dataset:
    """Betas of an array, whose trials the rows of a table describe."""
    name = table_name(table, 0)
    frame, column = _rows_of_betas(table, name, condition)
    trials = read_trials(array, len(frame), mask)
    rows = frame.drop(columns=column).assign(stimulus=frame[column].map(name_of))
    record: dict[str, object] = {"model": "betas", "array": Path(array.name).name, "table": Path(name).name}
    channels: dict[str, list[Any]] = {}
    if trials.mask is not None and trials.kept is not None:
        places = np.nonzero(trials.mask.inside)
        channels = {axis: index[trials.kept].tolist() for axis, index in zip("xyz", places, strict=False)}
        if trials.mask.roi is not None:
            channels["roi"] = list(compress(trials.mask.roi, trials.kept))
        record |= {"mask": Path(trials.mask.name).name, **(trials.counts or {})}
        if trials.affine is not None:
            record["grid"] = {"shape": list(trials.mask.inside.shape), "affine": trials.affine.tolist()}
    descriptors = {} if subject is None else {"subject": subject}
    descriptors["provenance"] = json.dumps(record, ensure_ascii=False, default=str)
    observations = {str(key): values.tolist() for key, values in rows.items()}
    return Dataset(trials.values, descriptors, observations, channels)


def _names_of_maps(scans: Sequence[Scan], series: Sequence[Floats]) -> list[str]:
    """The names of all maps in their files; of those without names they are empty."""
    names = [getattr(scan, "maps", ()) for scan in scans]
    return [
        text
        for of_scan, values in zip(names, series, strict=True)
        for text in (of_scan if len(of_scan) == len(values) else [""] * len(values))
    ]


def _check_maps(stimuli: Sequence[str], maps: Sequence[str], name: str) -> None:
    """Refuse rows in another order than the maps, if maps have the names of the stimuli."""
    if not set(maps) <= set(stimuli):
        return
    for row, (stimulus, text) in enumerate(zip(stimuli, maps, strict=True), 1):
        if stimulus != text:
            raise NeurordlError(
                f"row {row} of {name} (from 1) is {stimulus!r}, and its map has the name {text!r} in the "
                f"file; order the rows as the maps, which are {listed(maps, most=8)}"
            )


def _check_rows(frame: pd.DataFrame, name: str, files: Sequence[str]) -> None:
    """Refuse rows whose subject, session or run differs from the name of their image."""
    entities = [recording(file) for file in files]
    for column, key in (("subject", "sub"), ("session", "ses"), ("run", "run")):
        for row, value in enumerate(frame.get(column, ())):
            expected = entities[row].get(key)
            if expected is not None and not pd.isna(value) and _bare(value, key) != _bare(expected, key):
                problem = f"has {column} {value}, and its volume is of {Path(files[row]).name}"
                remedy = "order images as rows, or name them in a column 'image'"
                raise NeurordlError(f"row {row + 1} of {name} (from 1) {problem}; {remedy}")


def _bare(value: object, key: str) -> str:
    """A name without its entity, the subject and session before a run, zeros in front and a fraction of 0."""
    text = re.sub("^(sub-[^_]+_)?(ses-[^_]+_)?", "", str(value)) if key == "run" else str(value)
    return re.sub(r"\.0$", "", text.removeprefix(f"{key}-")).lstrip("0")


def _check_volumes(series: Sequence[Floats], files: Sequence[str], noun: str) -> None:
    """Refuse a volume without any number, which would leave no voxel; a notice of one of a single number."""
    numbers = [np.isfinite(values).any(axis=1) for values in series]
    alike = [(values == values[:, :1]).all(axis=1) for values in series]
    doubtful = not np.concatenate(alike).all()  # else voxels are copies of each other
    for file, finite, same in zip(files, numbers, alike, strict=True):
        if not finite.all() and np.concatenate(numbers).any():
            empty = f"{file}: volumes {listed(np.flatnonzero(~finite) + 1)} (from 1) are NaN or infinite"
            raise NeurordlError(f"{empty} in all {noun}; leave them out, or repair them")
        if same.any() and doubtful:
            blank = f"{same.sum()} of {len(same)} volumes have the same number in all {noun}"
            notify(f"{file}: {blank}: {listed(np.flatnonzero(same) + 1)} (from 1)")


@dataclass(frozen=True)
class _Scans:
    """Images of one subject, where their channels lie, and the names of subject, sessions and runs."""

    scans: Sequence[Scan]
    space: Space
    subject: str | None
    sessions: list[str] | None
    runs: list[str]

    @property
    def files(self) -> list[str]:
        """What messages and tables call the images."""
        return [scan.file for scan in self.scans]

    def read(self) -> tuple[list[Floats], Bools, dict[str, int]]:
        """Values of each image at the channels that can be used, which these are, and their numbers."""
        series = [self.space.values(scan) for scan in self.scans]
        _check_volumes(series, self.files, self.space.noun)
        broken = ~np.all([np.isfinite(values).all(axis=0) for values in series], axis=0)
        runs = series if len(series[0]) > 1 else [np.concatenate(series)]  # 3D images are one run
        constant = [(values == values[0]).all(axis=0) for values in runs if len(values) > 1]
        constant = ~broken & np.any(constant, axis=0)
        kept = ~(broken | constant)
        channels = {self.space.noun: kept, "dropped_nan": broken, "dropped_constant": constant}
        counts = {name: int(chosen.sum()) for name, chosen in channels.items()}
        dropped = f"dropped {(~kept).sum()} of {len(kept)} {self.space.noun} {self.space}: "
        dropped += f"{broken.sum()} with NaN or infinity, {constant.sum()} constant in a run"
        if not kept.any():
            noun = "voxel" if self.space.noun == "voxels" else "vertex"
            raise NeurordlError(f"{dropped}; no {noun} is left: check that mask and images belong together")
        if not kept.all():
            notify(dropped)
        return [values[:, kept] for values in series], kept, counts

    def rows(self, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
        """Rows of all runs, with their run and session."""
        rows = pd.concat(frames, ignore_index=True).rename(columns={"condition": "stimulus"})
        lengths = [len(frame) for frame in frames]
        rows["run"] = np.repeat(self.runs, lengths)
        return rows if self.sessions is None else rows.assign(session=np.repeat(self.sessions, lengths))

    def dataset(
        self, values: Floats, rows: pd.DataFrame, kept: Bools, provenance: Mapping[str, object]
    ) -> Dataset:
        """Values (rows, channels) with the descriptors of rows and channels."""
        parts = [getattr(scan, "parts", (scan,)) for scan in self.scans]  # of a surface, both hemispheres
        of_scans = [dict.fromkeys(part.file for part in of_scan) for of_scan in parts]
        files = {"images": [Path(file).name for file in chain(*of_scans)], **self.space.record()}
        descriptors = {} if self.subject is None else {"subject": self.subject}
        descriptors["provenance"] = json.dumps({**files, **provenance}, ensure_ascii=False, default=str)
        observations = {str(name): column.tolist() for name, column in rows.items()}
        return Dataset(values, descriptors, observations, self.space.channels(kept))


def _open(images: Images, mask: Region, subject: str | None, session: Names, runs: Names) -> _Scans:
    """Open the images and the mask of one subject; names come from the arguments, else from the files."""
    images = list_images(images)
    if not images:
        raise NeurordlError("images= is empty; give one image or more")
    scans: Sequence[Scan]
    space: Space
    if is_surface(images[0]):
        scans, space = open_surfaces(images, mask)
    elif is_surface(atlas := mask.image if isinstance(mask, Regions) else mask):
        pair = (
            f"the mask {atlas!s:.200} is on a surface, and the images such as {images[0]!s:.200} are volumes"
        )
        raise NeurordlError(f"{pair}; give a mask that is a NIfTI image")
    else:
        scans, space = open_volumes(images, mask)
    files_of = [image.values() if isinstance(image, Mapping) else [image] for image in images]
    paths = [Path(file).resolve() for file in chain(*files_of) if isinstance(file, str | os.PathLike)]
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise NeurordlError(f"images= has {twice[0]} twice, whose noise is not independent; leave one out")
    files = [scan.file for scan in scans]
    entities = [recording(file) for file in files]
    if subject is None:
        subjects = listed(dict.fromkeys(names.get("sub", "unknown") for names in entities))
        if "," in subjects:
            raise NeurordlError(f"the images are of several subjects ({subjects}); read one at a time")
        subject = None if subjects == "unknown" else f"sub-{subjects}"
    sessions = _per_image("session", session, len(files))
    if sessions is None and all("ses" in names for names in entities):
        sessions = [f"ses-{names['ses']}" for names in entities]
    run_names = _per_image("runs", runs, len(files))
    run_names = run_names or [f"run-{names.get('run', k + 1)}" for k, names in enumerate(entities)]
    if sessions is not None and len(set(sessions)) > 1:
        run_names = [f"{name}_{run}" for name, run in zip(sessions, run_names, strict=True)]
    return _Scans(scans, space, subject, sessions, run_names)


def _per_image(argument: str, names: Names, n_images: int) -> list[str] | None:
    """The name of each image; one text stands for all images."""
    if names is None:
        return None
    values = [names] * n_images if isinstance(names, str) else list(map(str, as_list(names, (), argument)))
    if len(values) != n_images:
        raise NeurordlError(f"{argument}= has {len(values)} names for {n_images} images; pass one for each")
    return values


@overload
def read_bids(
    root: Folder, task: str, space: str | None = ..., mask: Masks = ..., **options: Unpack[_BidsWithResiduals]
) -> tuple[dict[str, Dataset], dict[str, Dataset]]: ...
@overload
def read_bids(
    root: Folder, task: str, space: str | None = ..., mask: Masks = ..., **options: Unpack[_BidsOptions]
) -> dict[str, Dataset]: ...
def read_bids(
    root: Folder,
    task: str,
    space: str | None = None,
    mask: Masks = "brain",
    *,
    events_root: Folder | None = None,
    subjects: Names = None,
    sessions: Names = None,
    residuals: bool = False,
    **options: Any,
) -> dict[str, Dataset] | tuple[dict[str, Dataset], dict[str, Dataset]]:
    """Estimate the patterns of all subjects in a BIDS derivatives folder, such as that of fMRIPrep.

    Parameters
    ----------
    root
        The folder with the folders ``sub-*/func`` or ``sub-*/ses-*/func``, or a data set with such a folder
        in its ``derivatives``. Images whose names end in ``_bold.nii.gz``, ``_bold.func.gii`` or
        ``_bold.dtseries.nii`` are read if they have the entity ``desc-preproc`` or no entity ``desc``.
    task, space
        BIDS entities of the images to read; ``space`` may name the resolution or the density, too
        ("MNI152_res-2", "fsLR_den-91k"). With the space of a surface, such as "fsaverage5", the files of both
        hemispheres are read. Without it, images without this entity are read, which are in the BOLD grid of
        each run.
    mask
        A mask or `Regions` for all subjects; ``{subject}`` in its path is replaced by the subject, such as
        sub-01. It can also be a mapping from subject to mask, or "brain": the voxels that are in fMRIPrep's
        ``desc-brain_mask`` of every run of a subject, and on surfaces all vertices with data.
    events_root
        The folder with the events, which has the same subfolders as ``root``; by default ``root`` itself, or
        the data set of which it is a ``derivatives`` folder. Runs inherit events from higher folders, such as
        ``task-x_events.tsv``, as in BIDS.
    subjects, sessions
        Names with or without ``sub-`` and ``ses-``. By default all are read.
    residuals
        Whether to return the residuals of each subject, too, as in `read_patterns`.
    **options
        ``model``, ``confounds``, ``condition``, ``leave_out`` and ``progress`` of `read_patterns`.

    Returns
    -------
    dict of subject to Dataset, or two of them with residuals
        Patterns of each subject, as from `read_patterns`, in natural order of the subjects.

    Warns
    -----
    UserWarning
        Subjects have no such image and are left out, runs have events but no image, images are read from the
        ``derivatives`` of a data set, or as in `read_patterns`.

    Raises
    ------
    NeurordlError
        There are no such images, subjects or sessions, several folders of derivatives have them, a run has no
        events, or `read_patterns` raises an error.

    Examples
    --------
    From the folder of fMRIPrep, with its motion parameters::

        motion = nrl.Confounds(fmriprep=["motion"])
        subjects = nrl.read_bids("derivatives/fmriprep", "faces", "MNI152NLin2009cAsym", confounds=motion)

    From the folder of a simulated study:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     study = nrl.simulate.simulate_fmri(Path(folder) / "study", np.eye(4), list("abcd"), n_subjects=2)
    ...     subjects = nrl.read_bids(study, "sim", mask=study / "roi.nii.gz")
    >>> list(subjects), subjects["sub-02"].descriptors["subject"]
    (['sub-01', 'sub-02'], 'sub-02')
    """
    patterns, residuals_of = {}, {}
    scanned = find_bids(root, task, space, events_root=events_root, subjects=subjects, sessions=sessions)
    for subject in tracked(scanned, "subjects", options.get("progress")):
        patterns[subject.name], of_subject = subject.read(mask, **options)
        if residuals:
            residuals_of[subject.name] = of_subject
    return (patterns, residuals_of) if residuals else patterns


@dataclass(frozen=True)
class BidsSubject:
    """A subject of a BIDS folder: the name, such as sub-01, the images, and the events of each."""

    name: str
    images: list[Path]
    events: list[Path]

    def read(self, mask: Masks = "brain", **options: Any) -> tuple[Dataset, Dataset]:
        """Read patterns and residuals with the options of `read_bids`."""
        region = _bids_mask(mask, self.name.removeprefix("sub-"), self.images)
        return read_patterns(self.images, region, self.events, residuals=True, **options)


def find_bids(
    root: Folder,
    task: str,
    space: str | None = None,
    *,
    events_root: Folder | None = None,
    subjects: Names = None,
    sessions: Names = None,
) -> list[BidsSubject]:
    """Find the files of the subjects in a BIDS folder, without reading any; arguments as in `read_bids`."""
    base = Path(root)
    if not base.is_dir():
        raise NeurordlError(f"there is no folder {base}; check root=")
    base = _bids_base(base, task)
    images = _bids_images(base, task, space)
    chosen = _choose("subjects", subjects, images)
    folders = [path.name for path in base.glob("sub-*") if path.is_dir()]
    lacking = sorted({*folders} - {f"sub-{recording(path)['sub']}" for path in images}, key=natural_key)
    if lacking and subjects is None:
        counts = f"{len(lacking)} of {len(folders)} subjects in {base} have no image of this task and space"
        notify(f"{counts} and are left out: {listed(lacking)}")
    sides = {parse_name(path)[0].get("hemi") for path in images} - {None}
    scanned = []
    for subject in chosen:
        files = [path for path in images if recording(path)["sub"] == subject]
        if sessions is not None:
            kept = _choose("sessions", sessions, files)
            files = [path for path in files if recording(path).get("ses", "none") in kept]
        recordings: dict[str, list[Path]] = {}
        for path in files:
            recordings.setdefault("_".join(recording(path).values()), []).append(path)
        for of_run in recordings.values():
            _check_one_image(of_run)
            if len(of_run) < len(sides):
                raise NeurordlError(
                    f"{of_run[0].name} has no image of the other hemisphere beside it, as others in {base} "
                    f"have; complete sub-{subject}, or leave it out by subjects="
                )
        events = [_bids_events(of_run[0], base, events_root) for of_run in recordings.values()]
        scanned.append(BidsSubject(f"sub-{subject}", files, events))
    _warn_of_lone_events(scanned, task)
    return scanned


def _warn_of_lone_events(scanned: Sequence[BidsSubject], task: str) -> None:
    """Give a notice of runs that have events and no image, as where fMRIPrep did not finish."""
    lone = []
    for subject in scanned:
        known = [recording(image) for image in subject.images]
        sessions = {names.get("ses") for names in known}
        files = (sorted(folder.glob("*_events.tsv")) for folder in {path.parent for path in subject.events})
        for file in chain(*files):
            names = recording(file)
            relevant = f"sub-{names.get('sub')}" == subject.name and names.get("task") == task
            if (
                relevant
                and names.get("ses") in sessions
                and not any(names.items() <= of.items() for of in known)
            ):
                lone.append(file.name.removesuffix("_events.tsv"))
    if lone:
        runs = "run has" if len(lone) == 1 else "runs have"
        notify(f"{len(lone)} {runs} events, but no image of this task and space: {listed(lone)}")


def _check_one_image(of_run: Sequence[Path]) -> None:
    """Refuse several images of a run, such as of two resolutions or echoes, but those of two hemispheres."""
    first, *rest = of_run
    spaces = {path: _space_of(parse_name(path)[0]) for path in of_run}
    sides = {path: parse_name(path)[0].get("hemi") for path in of_run}
    for path in rest:
        if (
            spaces[path] != spaces[first]
            or None in (sides[first], sides[path])
            or sides[path] == sides[first]
        ):
            known = spaces[first] or ""
            ambiguous = any(mark in known for mark in ("_res-", "_den-"))
            remedy = f"choose one in space={known!r}" if ambiguous else "keep one of them"
            raise NeurordlError(f"{first.name} and {path.name} belong to one run; {remedy}")


def _bids_base(folder: Path, task: str) -> Path:
    """The folder with the folders of the subjects; of a data set, that of the derivatives with the task."""
    place = folder if folder.name == "derivatives" else folder / "derivatives"
    able = [path for path in sorted(place.glob("*/")) if any(_bold_of(path, task))]
    if len(able) > 1:
        names = listed(path.name for path in able)
        raise NeurordlError(f"{place} has images of task {task!r} in {names}; give one of these folders")
    if able:
        notify(f"{folder} holds derivatives: the images in {able[0]} are read")
    return able[0] if able else folder


def _bold_of(base: Path, task: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The BOLD images of a task, and their entities."""
    for path in base.glob("sub-*/**/func/*_bold.*"):
        entities = parse_name(path)[0]
        if (
            re.search(r"(?i)_bold\.(nii(\.\w+)?|(func\.)?gii(\.gz)?|dtseries\.nii)$", path.name)
            and entities.get("task") == task
        ):
            yield path, entities


def _bids_images(base: Path, task: str, space: str | None) -> list[Path]:
    """The images of a task in a space, which may be followed by other entities (MNI_res-2)."""
    wanted = {"task": task, "desc": "preproc"}
    if space is not None:
        wanted |= parse_name(f"space-{space.removeprefix('space-')}_bold")[0]
    images, spaces = [], set()
    for path, of_name in _bold_of(base, task):
        entities = {"desc": "preproc", **of_name}
        spaces.add(_space_of(entities))
        in_space = entities.get("space") == wanted.get("space")
        if "sub" in entities and in_space and wanted.items() <= entities.items():
            images.append(path)
    if not images:
        pattern = f"sub-*/[ses-*/]func/*_task-{task}{f'*_space-{space}' if space else ''}*_bold.nii.gz"
        known = f"; of this task there are space={listed(sorted(map(repr, spaces)))}" if spaces else ""
        raise NeurordlError(f"{base} has no image {pattern}{known}; check root=, task= and space=")
    return sorted(images, key=lambda path: natural_key(path.name))


def _space_of(entities: Mapping[str, str]) -> str | None:
    """The space of an image and its resolution or density, as `read_bids` takes them."""
    keys = [key for key in ("space", "res", "den") if key in entities]
    return "_".join(f"{key}-{entities[key]}" for key in keys).removeprefix("space-") or None


def _choose(argument: str, wanted: Names, images: Iterable[Path]) -> list[str]:
    """The wanted names of the entity sub or ses, all by default; a name that no image has is an error."""
    names = sorted({recording(path).get(argument[:3], "none") for path in images}, key=natural_key)
    if wanted is None:
        return names
    chosen = [name.removeprefix(f"{argument[:3]}-") for name in as_list(wanted, (str,), argument)]
    return [check_choice(argument, name, names) for name in chosen]


def _bids_events(image: Path, base: Path, events_root: Folder | None) -> Path:
    """The events of a run, in the folders of one of the roots: the closest that apply."""
    parents = (base.resolve(), *base.resolve().parents)
    roots = [base, *(folder.parent for folder in parents if folder.name == "derivatives")]
    roots = roots if events_root is None else [Path(events_root)]
    within = image.parent.relative_to(base)
    for place in roots:
        folders = [place / folder for folder in (*reversed(within.parents), within)]
        if events := inherited_files(image, folders, "events", ".tsv"):
            return events[-1]
    places = " or ".join(str(place / within) for place in roots)
    problem = f"no *_events.tsv with its entities (sub-, task-, ...) is in {places}, or above"
    raise NeurordlError(f"{image.name} has no events: {problem}; pass events_root=")


def _bids_mask(mask: Masks, subject: str, images: Sequence[Path]) -> Region:
    """The mask of one subject."""
    if isinstance(mask, Mapping) and not set(mask) <= set(HEMISPHERES):
        masks = {str(name).removeprefix("sub-"): value for name, value in mask.items()}
        if subject not in masks:
            raise NeurordlError(f"mask= has no mask for sub-{subject}; add it, or leave the subject out")
        return masks[subject]
    if mask is None:
        return None
    regions = mask if isinstance(mask, Regions) else Regions(mask)
    if isinstance(regions.image, Mapping):
        hemispheres = {side: _of_subject(image, subject) for side, image in regions.image.items()}
        return replace(regions, image=hemispheres)
    is_path = isinstance(regions.image, str | os.PathLike)
    if is_path and str(regions.image) == "brain" and is_surface(images[0]):
        if regions.rois is not None:
            raise NeurordlError("mask='brain' is no region of a surface that rois= can name; give an atlas")
        return None  # vertices without data, such as those of the medial wall, are dropped as they are read
    if is_path and str(regions.image) == "brain":
        grid = load_image(images[0], "image")[0]
        names = [re.sub(r"_(desc-preproc_)?bold\.", "_desc-brain_mask.", path.name) for path in images]
        files = [path.with_name(name) for path, name in zip(images, names, strict=True)]
        if absent := [file for file in files if not file.exists()]:
            raise NeurordlError(f"there is no brain mask {absent[0]}; pass another mask=")
        inside = np.logical_and.reduce([read_mask(file, grid).inside for file in files])
        return replace(regions, image=nib.Nifti1Image(inside.astype(np.uint8), grid.affine))
    return replace(regions, image=_of_subject(regions.image, subject))


def _of_subject(image: Any, subject: str) -> Any:
    """The path of a mask for a subject; images in memory as they are."""
    return (
        str(image).replace("{subject}", f"sub-{subject}") if isinstance(image, str | os.PathLike) else image
    )
