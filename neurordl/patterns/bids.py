"""BIDS: names of files, the files that an image inherits, and the tables that belong to an image."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids
from neurordl.io import read_json
from neurordl.patterns.images import HeaderTime
from neurordl.patterns.tables import Table
from neurordl.validate import check_number, listed

_RECORDING = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run")
_LONGEST = 60.0  # seconds between volumes; larger numbers are milliseconds without their unit
_T_R = "set it with model=GLM(t_r=2.0) or in another model (in the shell --t-r 2.0)"


def parse_name(path: object) -> tuple[dict[str, str], str | None]:
    """Return the entities and the suffix in the name of a file, with or without its folders and extension.

    The suffix is None where the name is not one of BIDS.

    Examples
    --------
    >>> parse_name("sub-01_run-2_bold.nii.gz")
    ({'sub': '01', 'run': '2'}, 'bold')
    """
    name = re.sub("^[lr]h[.]", "", Path(str(path)).name)  # FreeSurfer puts the hemisphere in front
    *parts, last = name.split(".")[0].split("_")
    pairs = [re.fullmatch("([A-Za-z]+)-([A-Za-z0-9+]+)", part) for part in (*parts, last)]
    valid = all(pairs[:-1]) and "-" not in last
    return {pair[1]: pair[2] for pair in pairs if pair}, last if valid else None


def recording(path: object) -> dict[str, str]:
    """Return the entities of a name that say which recording it is: ``sub``, ``ses``, ``task``, ``run``."""
    entities, _ = parse_name(path)
    return {key: entities[key] for key in _RECORDING if key in entities}


def inherited_files(image: Path, folders: Iterable[Path], suffix: str, extension: str) -> list[Path]:
    """List the files that apply to an image by the inheritance principle of BIDS, the closest one last.

    A file applies if it has the suffix and no entity that the image lacks or has with another value.

    Parameters
    ----------
    image
        The image; its name has the entities.
    folders
        Where to look, the closest folder last.
    suffix, extension
        Such as "bold" and ".json".

    Raises
    ------
    NeurordlError
        Two files of a folder apply, and neither is closer.
    """
    entities, image_suffix = parse_name(image)
    if image_suffix is None:
        return []
    applicable: list[Path] = []
    for folder in folders:
        by_size: dict[int, Path] = {}
        for path in sorted(folder.glob(f"*{glob.escape(suffix)}.*")):
            if not re.fullmatch(rf"(?i).*{re.escape(extension)}(\.gz)?", path.name):
                continue  # what is compressed is refused when it is read
            candidate, candidate_suffix = parse_name(path)
            size = len(candidate)
            if candidate_suffix != suffix or candidate.items() - entities.items():
                continue
            if size in by_size:
                both = f"{by_size[size]} and {path.name} both apply to {image.name}"
                raise NeurordlError(f"{both}, and neither is closer; leave one")
            by_size[size] = path
        applicable += [by_size[size] for size in sorted(by_size)]
    return applicable


def find_sidecars(image: str | Path) -> list[Path]:
    """List the JSON sidecars of an image, its own and those it inherits, the closest one last.

    Raises
    ------
    NeurordlError
        As `inherited_files`.
    """
    path = Path(image).absolute()
    base = re.sub(r"(?i)(\.(dtseries|dscalar)\.nii|(\.(func|shape|time))?\.gii(\.gz)?)$", "", path.name)
    base = re.sub(r"(?i)\.(nii|img|hdr)(\.(gz|bz2|zst))?$", "", base)
    # up to the folder of the data set, which holds the folders sub-*
    levels = (level for level, folder in enumerate(path.parents) if folder.name.startswith("sub-"))
    folders = reversed(path.parents[: next(levels, -1) + 2])
    files = inherited_files(path, folders, base.split("_")[-1], ".json")
    # also of names that are not those of BIDS
    beside = [path.with_name(f"{base}{extension}") for extension in (".json", ".JSON")]
    return files + [file for file in beside if file not in files and file.is_file()][:1]


def read_metadata(image: str) -> dict[str, tuple[Any, Path]]:
    """Read the sidecars of an image (`find_sidecars`): each key's value and its file.

    Raises
    ------
    NeurordlError
        A sidecar is not a JSON object, or as `inherited_files`.
    """
    metadata: dict[str, tuple[Any, Path]] = {}
    for file in find_sidecars(image):
        content = read_json(file)
        if not isinstance(content, dict):
            raise NeurordlError(f"the sidecar {file} is not a JSON object; correct it, or remove it")
        metadata |= {key: (value, file) for key, value in content.items()}
    return metadata


def volume_times(
    name: str,
    n_volumes: int,
    header: HeaderTime | None,
    t_r: float | None = None,
    slice_time_ref: float | None = None,
) -> tuple[float, Floats, list[str]]:
    """Return the seconds between volumes, when each volume was taken, (volumes,), and notices.

    Parameters
    ----------
    name, n_volumes
        The file of the series, and how many volumes it has.
    header
        The seconds between volumes that the header gives; None if it gives none.
    t_r
        Seconds between volumes; by default they are read from the sidecars, or else from the header.
    slice_time_ref
        Time of a volume within the repetition time, from 0 to 1; by default the ``StartTime`` of the sidecars
        over the repetition time, or else 0.

    Raises
    ------
    NeurordlError
        The time is not known or not plausible, or the volumes are not evenly spaced.
    """
    # what is given need not be read: a sidecar may be damaged then
    with nullcontext() if t_r is None else suppress(NeurordlError):
        metadata: dict[str, tuple[Any, Path | None]] = {}
        metadata |= read_metadata(name)
    recorded, source = metadata.get("RepetitionTime", (None, None)) if t_r is None else (t_r, None)
    if recorded is None and "VolumeTiming" in metadata:
        file = metadata["VolumeTiming"][1]
        raise NeurordlError(f"{file} gives each volume of {name} its own time (VolumeTiming); {_T_R}")
    if recorded is None and header is None:
        raise NeurordlError(f"neither {name} nor a sidecar gives the seconds between volumes; {_T_R}")
    header_step, has_unit, header_notice = header or HeaderTime(0.0, False)
    step = header_step if recorded is None else recorded
    quantity = f"seconds between the volumes of {name}"
    seconds = check_number(quantity, step, 0, _LONGEST, open_low=True, remedy=_T_R)
    notices = []
    if recorded is None and header_notice:
        notices.append(header_notice)
    if recorded is None and not has_unit:
        notice = f"the header gives {seconds:g} between volumes without a unit of time"
        notices.append(f"{notice}; it is read as seconds: otherwise {_T_R}")
    if source is not None and has_unit and abs(header_step - seconds) > 0.01 * seconds:
        notice = (
            f"the sidecar {source.name} says {seconds:g} s between volumes and the header {header_step:g} s"
        )
        notices.append(f"{notice}; the first is used: if it is wrong, {_T_R}")
    reference, notice = _slice_time(metadata.get("StartTime", (None,))[0], seconds, slice_time_ref)
    times = np.asarray(seconds * (np.arange(n_volumes) + reference), dtype=np.float64)
    return seconds, times, notices + [notice] * bool(notice)


def _slice_time(start: object, seconds: float, chosen: float | None) -> tuple[float, str]:
    """The time of a volume within the repetition time, from 0 to 1, and a notice."""
    if start is None:
        return chosen or 0.0, ""
    recorded = float(start) / seconds if isinstance(start, Real) else -1.0
    if not 0 <= recorded <= 1:
        problem = f"the sidecar has StartTime {start!r}, which is no time between two volumes"
        return chosen or 0.0, f"{problem}; slice_time_ref=0 is used" if chosen is None else ""
    corrected = f"slices were corrected to {start} s (StartTime of the sidecar)"
    if chosen is None:
        return recorded, f"{corrected}: slice_time_ref={recorded:.3g} is used" if recorded else ""
    contrary = f"{corrected}, that is slice_time_ref={recorded:.3g}, but slice_time_ref={chosen:g} is used"
    return chosen, contrary if abs(chosen - recorded) > 0.05 else ""


def match_tables(images: Sequence[str], tables: Sequence[Table], name: str) -> list[int]:
    """Return for each image the position of its table.

    Tables are matched by the BIDS entities of the files where all names have them, else by order.

    Parameters
    ----------
    images, tables
        Files of the images; files or DataFrames.
    name
        What the tables hold, for messages: "events", "confounds".

    Warns
    -----
    UserWarning
        Tables are matched by order, and the names of the files do not confirm it; or some are of no image.

    Raises
    ------
    NeurordlError
        There are not as many tables as images (without entities), an image has no table, or names contradict
        the order.
    """
    of_images = [recording(image) for image in images]
    of_tables = [{} if isinstance(table, pd.DataFrame) else recording(table) for table in tables]
    shared = set.intersection(*map(set, [*of_images, *of_tables]))
    keys = [key for key in _RECORDING if key in shared]
    image_ids = ["_".join(f"{key}-{entities[key]}" for key in keys) for entities in of_images]
    table_ids = ["_".join(f"{key}-{entities[key]}" for key in keys) for entities in of_tables]
    positions = list(range(len(images)))
    if keys and len(set(image_ids)) == len(images):
        if absent := [image_id for image_id in image_ids if image_id not in table_ids]:
            problem = f"there are no {name} of the image {absent[0]}: the {name} are of {listed(table_ids)}"
            raise NeurordlError(f"{problem}; check the paths, pass the {name} of this image, or leave it out")
        match = match_ids(image_ids, table_ids, names=("images", name))
        positions = match.index.tolist()
        if match.unused:
            counts = f"{len(match.unused)} of {len(tables)} tables of {name}"
            notify(f"{counts} are of no image and are not used: {listed(match.unused)}")
    elif len(tables) != len(images):
        counts = f"there are {len(images)} images, but the number of {name} files or tables is {len(tables)}"
        raise NeurordlError(f"{counts}; pass one for each image, in the same order")
    else:
        _check_order(images, tables, name, confirmed=bool(keys))
    for image, entities, position in zip(images, of_images, positions, strict=True):
        other = of_tables[position]
        if different := [key for key in entities if other.get(key, entities[key]) != entities[key]]:
            pair = f"{image} would go with the {name} {tables[position]}, which are of another {different[0]}"
            raise NeurordlError(f"{pair}; pass both in one order, or use the same BIDS entities in all names")
    return positions


def _check_order(images: Sequence[str], tables: Sequence[Table], name: str, confirmed: bool) -> None:
    """Refuse files that are numbered alike but ordered differently; warn where names confirm nothing."""
    if any(isinstance(table, pd.DataFrame) for table in tables) or len(set(images)) < len(images):
        return  # in memory: there are no names
    sides = [[Path(str(file)).name for file in files] for files in (images, tables)]
    digits = [[re.findall("[0-9]+", file.split(".")[0]) for file in side] for side in sides]
    numbers, other_numbers = ([int(runs[-1]) if runs else None for runs in side] for side in digits)
    distinct = None not in numbers and len(set(numbers)) == len(images)
    if distinct and set(numbers) == set(other_numbers) and numbers != other_numbers:
        k = next(k for k in range(len(images)) if numbers[k] != other_numbers[k])
        both = f"the images and the {name} are numbered alike but come in different orders"
        pair = f"{images[k]} would go with {tables[k]}"
        raise NeurordlError(f"{both}: {pair}; give both in one order (run10 sorts before run2)")
    # a pair is confirmed by a word or number that both names have and other names lack
    parts = [[re.findall("[a-z]+|[0-9]+", file.lower()) for file in side] for side in sides]
    words = [[{part.lstrip("0") for part in of_file} for of_file in side] for side in parts]
    distinctive = [[of_file - set.intersection(*side) for of_file in side] for side in words]
    if not confirmed and len(images) > 1 and not all(map(set.intersection, *distinctive)):
        first = f"{sides[0][0]} with {sides[1][0]}"
        notice = f"the names do not show which {name} belong to which image; they were matched by order"
        notify(f"{notice}: {first}, and so on")
