"""Arrays of single trials, such as those of GLMsingle: as they are, from NumPy, HDF5 or MATLAB."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import check_ids
from neurordl.io import damage_named
from neurordl.mat5 import is_mat5, read_mat5
from neurordl.patterns.images import AnyImage, Mask, Regions, load_image, read_mask
from neurordl.patterns.tables import Table
from neurordl.validate import listed

Design: TypeAlias = str | os.PathLike[str] | Sequence[npt.ArrayLike]
Voxels: TypeAlias = AnyImage | Regions | Bools | None

_SUFFIXES = (".npy", ".h5", ".hdf5", ".mat")
_BETAS = ("betasmd", "modelmd")  # GLMsingle's names in Python and in MATLAB
_AT_ONCE = 1 << 26  # bytes that are read at once
_MOST_INFLATED = 1032  # times, by the compression of HDF5
_V73 = "save it in MATLAB with -v7.3, or pass the array"


def is_trial_array(betas: object) -> bool:
    """Whether betas are an array, or a file of NumPy, HDF5 or MATLAB, and not NIfTI images."""
    if isinstance(betas, str | os.PathLike):
        return Path(betas).suffix.lower() in _SUFFIXES
    return isinstance(betas, np.ndarray | h5py.Dataset)


@dataclass(frozen=True)
class TrialArray:
    """Betas of single trials.

    Attributes
    ----------
    values
        (trials, voxels), or (x, y, z, trials), as an array or a dataset of HDF5; axes may be ``reversed``.
    name
        What messages call it.
    reversed
        Whether its axes are in the opposite order, as MATLAB's are in HDF5.
    """

    values: Any
    name: str
    reversed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, in the order of its author."""
        return tuple(self.values.shape[::-1] if self.reversed else self.values.shape)

    def oriented(self, n_trials: int, spatial: tuple[int, ...] | None) -> TrialArray:
        """The array with its trials last, (x, y, z, trials), where it has more than two axes.

        Raises
        ------
        NeurordlError
            No axis, or both the first and the last, can be that of the trials.
        """
        forward = self.shape[-1] == n_trials and spatial in (None, self.shape[:-1])
        backward = self.shape[0] == n_trials and self.shape[:0:-1] == spatial
        if forward and backward:
            raise NeurordlError(
                f"{self.name} has shape {self.shape}, and its trials can be the first or the last axis; "
                "pass an array (trials, voxels): betas[mask].T"
            )
        if forward:
            return self
        if backward:
            return TrialArray(self.values, self.name, not self.reversed)
        where = "" if spatial is None else f" and a mask of {spatial}"
        raise NeurordlError(
            f"{self.name} has shape {self.shape}, which does not fit {n_trials} trials{where}: expected "
            "(trials, voxels), or (x, y, z, trials) with a mask (x, y, z)"
        )

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Some trials after another of (x, y, z, trials): which they are, and (trials, x, y, z)."""
        n_trials = self.shape[-1]
        chunks = getattr(self.values, "chunks", None) or (1,) * len(self.shape)
        chunk = chunks[0] if self.reversed else chunks[-1]
        of_trial = int(np.prod(self.shape[:-1])) * self.values.dtype.itemsize
        step = max(1, _AT_ONCE // of_trial // chunk) * chunk
        for start in range(0, n_trials, step):
            part = slice(start, min(start + step, n_trials))
            if self.reversed:
                block = np.asarray(self.values[part])
                yield part, block.transpose(0, *range(block.ndim - 1, 0, -1))
            else:
                yield part, np.moveaxis(np.asarray(self.values[..., part]), -1, 0)


def open_trials(betas: Any, name: str | None = None) -> TrialArray:
    """Open an array of betas without reading it; ``name`` is the variable of a file that has several.

    Raises
    ------
    NeurordlError
        The file cannot be read, or has no such variable.
    """
    if not isinstance(betas, str | os.PathLike):
        if name is not None:
            raise NeurordlError(f"name={name!r} is for a file with several variables, not for an array")
        return _numeric(TrialArray(betas, "the array of betas"))
    path = Path(betas)
    if not path.is_file():
        raise NeurordlError(f"there is no file {path}; check the path")
    if path.suffix.lower() == ".npy":
        return _numeric(_open_npy(path, name))
    if h5py.is_hdf5(path):
        with damage_named(path):
            return _numeric(_open_hdf5(path, name))
    if path.suffix.lower() != ".mat":
        raise NeurordlError(f"{path} is damaged, or not HDF5; write it again")
    if not is_mat5(path):
        raise NeurordlError(f"{path} is damaged, or no .mat file of version 5 or 7.3; {_V73}")
    with damage_named(path, _V73):
        return _numeric(_open_mat5(path, name))


def _numeric(array: TrialArray) -> TrialArray:
    if array.values.dtype.kind not in "fiu" or len(array.shape) < 2 or 0 in array.shape:
        raise NeurordlError(
            f"{array.name} holds {array.values.dtype} of shape {array.shape}; expected real numbers, "
            "(trials, voxels) or (x, y, z, trials)"
        )
    return array


def _open_npy(path: Path, name: str | None) -> TrialArray:
    if name is not None:
        raise NeurordlError(f"{path} has a single array, without a name; leave name= out")
    try:
        return TrialArray(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    except Exception as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise NeurordlError(
                f"{path} is a pickle, as GLMsingle writes by default, which can run any code: run GLMsingle "
                "with wanthdf5=1, or write its array betasmd into a file of its own with np.save"
            ) from error
        raise NeurordlError(f"cannot read {path}: it is damaged ({error}); write it again") from error


def _open_hdf5(path: Path, name: str | None) -> TrialArray:
    file = h5py.File(path, "r")  # the dataset keeps it open
    arrays = {key: item for key in file if isinstance(item := file.get(key), h5py.Dataset)}
    if name is None or not isinstance(dataset := file.get(name), h5py.Dataset):
        name = _chosen(arrays, path, name)
        dataset = arrays[name]
    label = f"{name!r} in {path}"
    if dataset.is_virtual or dataset.external:
        raise NeurordlError(f"{label} keeps its data in another file; copy them into this one")
    claimed = dataset.size * dataset.dtype.itemsize if dataset.shape else 0
    if claimed > _MOST_INFLATED * path.stat().st_size:
        raise NeurordlError(f"{label} claims {claimed:,} bytes, which the file cannot hold; write it again")
    return TrialArray(_memory_map(dataset, path), label, "MATLAB_class" in dataset.attrs)


def _open_mat5(path: Path, name: str | None) -> TrialArray:
    """An array of a file of version 5, which is in memory; sparse and complex ones are not read."""
    variables = read_mat5(path)
    arrays = {key: item for key, item in variables.items() if isinstance(item, np.ndarray)}
    name = _chosen(arrays, path, name)
    return TrialArray(arrays[name], f"{name!r} in {path}")


def _chosen(arrays: Mapping[str, Any], path: Path, name: str | None) -> str:
    """The array of a file that is meant by name, or without a name: GLMsingle's, or else the only one."""
    if name is not None:
        if name not in arrays:
            raise NeurordlError(f"{path} has no array {name!r}; it has {listed(arrays) or 'none'}")
        return name
    able = [key for key in _BETAS if key in arrays]
    able = able or [key for key, item in arrays.items() if len(item.shape or ()) > 1]
    if len(able) != 1:
        raise NeurordlError(f"{path} has the arrays {listed(able) or 'none'}; choose one with name=")
    return able[0]


def _memory_map(dataset: h5py.Dataset, path: Path) -> Any:
    """A dataset as a memory map, if it is stored in one piece."""
    offset = dataset.id.get_offset() if dataset.shape else None
    if offset is None or dataset.chunks is not None or dataset.dtype.kind not in "fiu":
        return dataset
    return np.memmap(path, dataset.dtype, "r", offset, dataset.shape)


def trial_table(table: Table | Sequence[str]) -> Table:
    """A list of stimulus ids, one for each trial, as a table; other tables as they are."""
    if isinstance(table, pd.DataFrame | str | os.PathLike):
        return table
    return pd.DataFrame({"stimulus": list(map(str, table))})


@dataclass(frozen=True)
class Trials:
    """Patterns of trials, as read.

    Attributes
    ----------
    values
        (trials, voxels).
    mask
        The mask (x, y, z), on whose voxels they lie; None without places.
    affine
        Affine of the mask's image; None if it is not known.
    kept
        Which voxels of the mask are left.
    counts
        Numbers of voxels that are left and that were dropped.
    """

    values: npt.NDArray[Any]
    mask: Mask | None = None
    affine: Floats | None = None
    kept: Bools | None = None
    counts: dict[str, int] | None = None


def read_trials(array: TrialArray, n_trials: int, mask: Voxels = None) -> Trials:
    """Read the voxels of a mask in blocks of trials, or leave an array (trials, voxels) where it is.

    Voxels with NaN or infinity and constant ones are dropped, with a notice, if the array has places.

    Raises
    ------
    NeurordlError
        The array, the number of trials and the mask do not fit each other, or no voxel is left.
    """
    if len(array.shape) == 2 and mask is None:
        if array.shape[0] != n_trials:
            turned = "; transpose it" if array.shape[1] == n_trials else ""
            raise NeurordlError(
                f"{array.name} has shape {array.shape}: expected ({n_trials}, voxels), a row for each "
                f"trial{turned}"
            )
        values = np.asanyarray(array.values if isinstance(array.values, np.ndarray) else array.values[()])
        return Trials(values.T if array.reversed else values)
    region, affine = _region(mask)
    array = array.oriented(n_trials, None if region is None else region.inside.shape)
    if region is None:
        region = Mask(np.ones(array.shape[:-1], dtype=bool), None, "none: all voxels")
    dtype = np.result_type(array.values.dtype, np.float32)
    values = np.empty((n_trials, int(region.inside.sum())), dtype)
    with damage_named(array.name):
        for part, block in array.blocks():
            values[part] = block[:, region.inside]
    broken = ~np.isfinite(values).all(axis=0)
    constant = ~broken & (values == values[0]).all(axis=0) & (n_trials > 1)
    kept = ~(broken | constant)
    voxels = {"voxels": kept, "dropped_nan": broken, "dropped_constant": constant}
    dropped = f"dropped {(~kept).sum()} of {len(kept)} voxels of {array.name}: {broken.sum()} with NaN or "
    dropped += f"infinity, {constant.sum()} constant"
    if not kept.any():
        raise NeurordlError(f"{dropped}; no voxel is left: check that mask and betas belong together")
    if not kept.all():
        notify(dropped)
        values = values[:, kept]
    return Trials(values, region, affine, kept, {key: int(chosen.sum()) for key, chosen in voxels.items()})


def _region(mask: Voxels) -> tuple[Mask | None, Floats | None]:
    """A mask in the voxels of the array, which has no coordinates, and the affine of its image."""
    if mask is None:
        return None, None
    if isinstance(mask, np.ndarray):
        if mask.dtype.kind not in "biu" or not np.isin(mask, (0, 1)).all() or not mask.any():
            problem = f"mask= is {mask.dtype} of shape {mask.shape}"
            problem += "" if mask.any() else " without any True"
            raise NeurordlError(f"{problem}; expected True and False, or 1 and 0 as whole numbers")
        return Mask(mask.astype(bool), None, "in memory"), None
    image, _ = load_image(mask.image if isinstance(mask, Regions) else mask, "mask")
    grid = nib.Nifti1Image(np.zeros(image.shape[:3], np.uint8), image.affine, image.header)
    return read_mask(mask, grid), image.affine


def glmsingle_trials(design: Design, stimuli: Sequence[str]) -> pd.DataFrame:
    """Name the trials of GLMsingle's betas: their stimuli and runs, in the order of the betas.

    GLMsingle numbers trials in order of time, run after run (Prince et al. 2022, eLife 11:e77599).

    Parameters
    ----------
    design
        ``DESIGNINFO.mat``, which GLMsingle writes in MATLAB, or the design that was passed to GLMsingle: for
        each run an array (volumes, conditions), which is 1 where a trial of a condition begins. The arrays
        may be sparse, and a cell array of MATLAB as ``scipy.io.loadmat`` returns it.
    stimuli
        Id of the stimulus of each condition, in the order of the design's columns.

    Returns
    -------
    DataFrame
        The columns ``stimulus`` and ``run`` ("run-1" and so on), a row for each trial; a table for
        `read_betas`.

    Raises
    ------
    NeurordlError
        The file cannot be read, arrays are no such design, or there are not as many stimuli as conditions.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> runs = [np.zeros((20, 3)), np.zeros((20, 3))]
    >>> for run, order in zip(runs, ([2, 0], [1, 2])):
    ...     run[[4, 12], order] = 1
    >>> nrl.glmsingle_trials(runs, ["face", "house", "dog"])["stimulus"].tolist()
    ['dog', 'face', 'house', 'dog']
    """
    names = check_ids(stimuli, "stimuli")
    if isinstance(design, str | os.PathLike):
        conditions, lengths = _design_of_file(Path(design))
        if (last := max(conditions, default=0)) >= len(names):
            raise NeurordlError(
                f"{design} has trials of condition {last + 1}, but stimuli= has {len(names)} ids; give an id "
                "for each condition, in the order of the design's columns"
            )
    else:
        conditions, lengths = _design_of_arrays(design, len(names))
    runs = [f"run-{number}" for number, length in enumerate(lengths, 1) for _ in range(length)]
    return pd.DataFrame({"stimulus": [names[condition] for condition in conditions], "run": runs})


def _design_of_file(path: Path) -> tuple[list[int], list[int]]:
    if path.suffix.lower() == ".npy":
        raise NeurordlError(
            f"{path} is a pickle, which can run any code; pass the design that GLMsingle got: a list with "
            "an array (volumes, conditions) for each run"
        )
    order, lengths = (open_trials(path, name) for name in ("stimorder", "numtrialrun"))
    conditions, trials = (np.asarray(array.values).ravel() for array in (order, lengths))
    whole = all((numbers == np.round(numbers)).all() for numbers in (conditions, trials))
    if not whole or conditions.min() < 1 or trials.sum() != len(conditions):
        raise NeurordlError(
            f"{path}: stimorder and numtrialrun do not fit each other ({len(conditions)} and "
            f"{trials.sum():g} trials); write it again"
        )
    return (conditions.astype(int) - 1).tolist(), trials.astype(int).tolist()


def _design_of_arrays(design: object, n_conditions: int) -> tuple[list[int], list[int]]:
    conditions, lengths = list[int](), list[int]()
    if not isinstance(design, Iterable):
        problem = f"design= is a {type(design).__name__}"
        raise NeurordlError(f"{problem}; expected a list with an array (volumes, conditions) for each run")
    is_cell = isinstance(design, np.ndarray) and design.dtype == object
    for number, run in enumerate(design.ravel() if is_cell else design, 1):  # type: ignore[attr-defined]
        onsets = np.asarray(run.toarray() if hasattr(run, "toarray") else run)
        if onsets.ndim != 2 or onsets.shape[1] != n_conditions:
            raise NeurordlError(
                f"the design of run {number} has shape {onsets.shape}: expected (volumes, {n_conditions}), a "
                "column for each of the stimuli"
            )
        if not np.isin(onsets, (0, 1)).all() or (onsets.sum(axis=1) > 1).any():
            raise NeurordlError(
                f"the design of run {number} must be 1 where a trial begins and 0 elsewhere, with one trial "
                "at a time"
            )
        trials = np.argwhere(onsets)[:, 1].tolist()  # row by row: in order of time
        conditions += trials
        lengths.append(len(trials))
    if not conditions:
        raise NeurordlError("the design has no trial; pass an array (volumes, conditions) for each run")
    return conditions, lengths
