"""Read the files of public repositories, and compare what is read with other readers.

    python benchmarks/public_files.py volumes nibabel pictures Pillow/Tests/images rdms rsatoolbox

Each name of a reader (also: events bids-examples) is followed by a folder, a clone of the repository. A file
is read, read with a notice, or refused by the package's own error; a picture can also be named as left out.
Anything else, and a voxel, frame, pixel, row or value that is lost without a word, is a fault, and its file
is printed.
"""

from __future__ import annotations

import collections
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import scipy.io
from PIL import Image, ImageOps
from scipy.spatial.distance import squareform

import neurordl as nrl
from neurordl.errors import NeurordlError

Notices = list[warnings.WarningMessage]
MISSING = ("", "n/a", "N/A", "nan", "NaN")


class FaultError(Exception):
    """Something was lost or changed without a word."""


def check(right: object, problem: str) -> None:
    """Raise a fault unless something is right."""
    if not right:
        raise FaultError(problem)


def said(notices: Notices, text: str) -> bool:
    """Whether a notice has a text."""
    return any(text in str(notice.message) for notice in notices)


def read_volumes(path: Path, notices: Notices) -> None:
    """Any image, against nibabel."""
    try:
        image: Any = nib.load(path)
        n = int(np.prod(image.shape[3:]))
    except Exception:
        n = 1
    patterns = nrl.read_betas(path, pd.DataFrame({"stimulus": [f"s{k}" for k in range(n)]}))
    values = np.asarray(image.dataobj, dtype=np.float64).reshape(-1, n).T
    places = [np.array(patterns.channel_descriptors[axis]) for axis in "xyz"]
    kept = np.ravel_multi_index(places, image.shape[:3])
    check(np.array_equal(patterns.measurements, values[:, kept]), "other values than nibabel's")
    lost = values.shape[1] - len(kept)
    check(not lost or said(notices, f"dropped {lost} of {values.shape[1]} voxels"), f"{lost} voxels are lost")


def read_picture(path: Path, notices: Notices) -> str | None:
    """An image of a folder, against Pillow; another file is named as left out."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copyfile(path, Path(name) / path.name)
        try:
            stimuli = nrl.StimulusSet.from_folder(name)
        except NeurordlError as error:
            if "no images in" not in str(error):
                raise
            Image.new("RGB", (2, 2)).save(Path(name) / "other.png")
            nrl.StimulusSet.from_folder(name)
            hidden = path.name.startswith(".")
            check(hidden or said(notices, f"not named as images: {path.name}"), "it is passed over")
            return "named"
    with Image.open(path) as image:
        image.load()
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    check(np.array_equal(stimuli.pixels[0].movedim(0, 2).numpy(), shown), "other pixels than Pillow's")
    return None


def read_rdms(path: Path, _: Notices) -> str | None:
    """RDMs, against scipy and numpy: each variable of a file that has several."""
    if path.suffix != ".mat":
        rdms = nrl.load_rdms(path)
        if path.suffix == ".npy":
            check(np.array_equal(rdms.get_matrices().squeeze(), np.load(path)), "other values than numpy's")
        return None
    variables = {name: value for name, value in scipy.io.loadmat(path).items() if name[0] != "_"}
    try:
        chosen = {None: nrl.load_rdms(path)}
    except NeurordlError as error:
        if "pass name=" not in str(error):
            raise
        chosen = {}
        for name in variables:
            try:
                chosen[name] = nrl.load_rdms(path, name=name)
            except NeurordlError:
                continue
    for name, rdms in chosen.items():
        values = variables.values() if name is None else [variables[name]]
        alike = [v for v in map(vectors, values) if v is not None and v.shape == rdms.dissimilarities.shape]
        check(any(np.allclose(v, rdms.dissimilarities, atol=1e-6) for v in alike), f"other values in {name}")
    return "read by name" if None not in chosen else None


def vectors(value: Any) -> Any:
    """Condensed RDMs of a variable as scipy reads it: a matrix, a vector, or the field RDM of structs."""
    if value.dtype.names:
        field = next((name for name in value.dtype.names if name.lower() in ("rdm", "rdms")), None)
        parts = [vectors(struct[field]) for struct in value.ravel(order="F")] if field else [None]
        return None if any(part is None for part in parts) else np.concatenate(parts)
    if value.ndim != 2 or value.dtype.kind not in "fiu":
        return None
    return squareform(value, checks=False)[None] if value.shape[0] == value.shape[1] else value.reshape(1, -1)


def read_events(path: Path, notices: Notices) -> None:
    """Events of a run of noise, against pandas."""
    table = pd.read_csv(path, sep="\t", keep_default_na=False, dtype=str, quoting=3)
    ends = pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in ("onset", "duration")})
    n_volumes = int(np.clip((np.nanmax([0, *ends.sum(axis=1)]) + 12) / 2, 20, 4000))
    noise = np.random.default_rng(0).standard_normal((2, 1, 1, n_volumes))
    image = nib.Nifti1Image(noise, np.eye(4))
    image.header.set_zooms((1, 1, 1, 2))
    image.header.set_xyzt_units("mm", "sec")
    patterns = nrl.read_patterns(image, None, path)
    unnamed = table["trial_type"].str.strip().isin(MISSING)
    named = f"{unnamed.sum()} of {len(table)} events have no trial_type"
    check(not unnamed.any() or said(notices, named), f"{unnamed.sum()} rows are lost")
    lost = set(table["trial_type"][~unnamed]) - set(patterns.obs_descriptors["stimulus"])
    check(not lost or said(notices, "left out"), f"the conditions {lost} are lost")


READERS: dict[str, Callable[[Path, Notices], str | None]] = {
    "volumes": read_volumes,
    "pictures": read_picture,
    "rdms": read_rdms,
    "events": read_events,
}


def files(reader: str, folder: Path) -> Iterator[Path]:
    """The files of a repository for a reader."""
    for path in sorted(folder.rglob("*_events.tsv" if reader == "events" else "*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts[:-1])
        if not path.is_file() or hidden or path.suffix == ".pyc":
            continue
        if reader != "volumes" or "tests/data" in path.as_posix():
            yield path


def outcome(reader: str, path: Path) -> str:
    """What came of a file, or the fault."""
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        try:
            result = READERS[reader](path, notices)
        except NeurordlError:
            return "refused"
        except Exception as error:
            return f"fault: {type(error).__name__}: {error}"
    noticed = any(issubclass(notice.category, UserWarning) for notice in notices)
    return result or ("read with a notice" if noticed else "read")


if __name__ == "__main__":
    faults = 0
    for reader, folder in zip(sys.argv[1::2], map(Path, sys.argv[2::2]), strict=True):
        counts: collections.Counter[str] = collections.Counter()
        for path in files(reader, folder):
            result = outcome(reader, path)
            counts[result.partition(":")[0]] += 1
            if result.startswith("fault"):
                print(path, result)
                faults += 1
        print(f"{reader} {folder.name}: {counts.total()} files, {dict(counts)}", flush=True)
    sys.exit(faults > 0)
