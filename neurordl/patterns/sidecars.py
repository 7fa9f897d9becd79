"""Files beside images as BIDS inherits them, and what they say of when volumes were taken."""

from __future__ import annotations

import glob
import json
import re
import warnings
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError

__all__ = ["applicable", "metadata", "volume_times"]

Floats = npt.NDArray[np.float64]
_LONGEST = 60.0  # seconds between volumes; more are milliseconds without their unit


def applicable(image: Path, folders: Iterable[Path], suffix: str, extension: str) -> list[Path]:
    """Files that apply to an image by the inheritance principle of BIDS, the closest last.

    A file applies if it has the suffix and no entity that the image lacks or has otherwise.

    Parameters
    ----------
    image
        Whose name has the entities.
    folders
        Where to look, the closest last.
    suffix, extension
        Such as "bold" and ".json".

    Raises
    ------
    NeurordlError
        Two files of a folder apply, and neither is closer.
    """
    own = _entities(image.name.split(".")[0])
    found: list[Path] = []
    for folder in folders:
        here: dict[int, Path] = {}
        for path in sorted(folder.glob(f"*{glob.escape(suffix)}{extension}")):
            stem = path.name.removesuffix(extension)
            told = _entities(stem)
            if told is None or own is None or stem.split("_")[-1] != suffix or told.items() - own.items():
                continue
            if len(told) in here:
                raise NeurordlError(
                    f"{here[len(told)]} and {path.name} both apply to {image.name}, and neither is closer; "
                    "leave one"
                )
            here[len(told)] = path
        found += [here[number] for number in sorted(here)]
    return found


def _entities(stem: str) -> dict[str, str] | None:
    """All entities of a BIDS name without its extension; None for another kind of name."""
    parts = [part.partition("-") for part in stem.split("_")[:-1]]
    if not all(key and value for key, _, value in parts) or "-" in stem.split("_")[-1]:
        return None
    return {key: value for key, _, value in parts}


def metadata(name: str) -> dict[str, tuple[Any, Path]]:
    """What the JSON files of an image say, key by key with the file: that beside it, and those it inherits.

    Raises
    ------
    NeurordlError
        A file that is no JSON object, or as `applicable`.
    """
    image = Path(name).absolute()
    base = re.sub(r"\.nii(\.gz)?$", "", image.name)
    folders = [image.parent]
    # up to the data set's own folder, the one that holds sub-*
    if any(folder.name.startswith("sub-") for folder in image.parents):
        while not folders[0].name.startswith("sub-"):
            folders.insert(0, folders[0].parent)
        folders.insert(0, folders[0].parent)
    files = applicable(image, folders, base.split("_")[-1], ".json")
    beside = image.with_name(f"{base}.json")
    if beside not in files and beside.is_file():  # also of names that are not those of BIDS
        files.append(beside)
    found: dict[str, tuple[Any, Path]] = {}
    for path in files:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(told, dict):
                raise ValueError("it is no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            raise NeurordlError(f"cannot read the sidecar {path}: {error}; mend it or pass t_r=") from error
        found |= {key: (value, path) for key, value in told.items()}
    return found


def volume_times(
    image: nib.Nifti1Image, name: str, t_r: float | None, slice_time_ref: float
) -> tuple[float, Floats]:
    """Seconds between volumes (as given, from the sidecars or the header), and when each was taken.

    Raises
    ------
    NeurordlError
        Times that cannot be, or volumes that are not evenly spaced.
    """
    if not isinstance(slice_time_ref, Real) or not 0 <= float(slice_time_ref) <= 1:
        raise NeurordlError(f"slice_time_ref={slice_time_ref!r}: expected a number from 0 to 1")
    told = metadata(name) if t_r is None else {}
    step: Any = t_r
    if "RepetitionTime" in told:
        step = told["RepetitionTime"][0]
    elif "VolumeTiming" in told:
        raise NeurordlError(
            f"{told['VolumeTiming'][1]} gives each volume of {name} its own time (VolumeTiming), and the "
            "models need even ones; pass t_r= if they are"
        )
    by_header, known = _of_header(image)
    if step is None:
        step = by_header
        if not known and 0 < by_header <= _LONGEST:
            warnings.warn(
                f"the header of {name} gives {by_header:g} between volumes without a unit of time; it is "
                "read as seconds, and t_r= says otherwise",
                UserWarning,
                stacklevel=2,
            )
    if not isinstance(step, Real) or isinstance(step, bool) or not 0 < float(step) <= _LONGEST:
        raise NeurordlError(
            f"the time between the volumes of {name} is {step!r}, which are no plausible seconds "
            f"(0 to {_LONGEST:g}); pass t_r=, in seconds"
        )
    seconds = float(step)
    if "RepetitionTime" in told and known and abs(by_header - seconds) > 0.01 * seconds:
        warnings.warn(
            f"{told['RepetitionTime'][1]} says {seconds:g} s between volumes and the header of {name} "
            f"{by_header:g}; the first is taken, and t_r= says otherwise",
            UserWarning,
            stacklevel=2,
        )
    start = told["StartTime"][0] if "StartTime" in told else None
    if isinstance(start, Real) and abs(float(start) - seconds * slice_time_ref) > 0.05 * seconds:
        warnings.warn(
            f"{told['StartTime'][1]} says that the slices of {name} were brought to {float(start):g} s after "
            f"the start of a volume; slice_time_ref={float(start) / seconds:.3g} says so, and "
            f"{slice_time_ref:g} is taken",
            UserWarning,
            stacklevel=2,
        )
    return seconds, seconds * (np.arange(image.shape[3]) + slice_time_ref)


def _of_header(image: nib.Nifti1Image) -> tuple[float, bool]:
    """Seconds between volumes by the header, and whether it says in which unit."""
    try:
        unit = image.header.get_xyzt_units()[1]
    except KeyError:  # a code that there is not
        unit = "unknown"
    seconds = float(image.header.get_zooms()[3]) * {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    return seconds, unit in ("sec", "msec", "usec")
