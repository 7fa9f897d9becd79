"""A folder of fMRIPrep's derivatives -> patterns of every subject."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.patterns.nifti import read_patterns
from neurordl.patterns.sidecars import applicable
from neurordl.patterns.tables import entities
from neurordl.patterns.volumes import load_image, read_mask

__all__ = ["read_bids"]

Folder = str | os.PathLike[str]


def read_bids(
    root: Folder,
    task: str,
    space: str | None = None,
    mask: Any = "brain",
    *,
    events_root: Folder | None = None,
    subjects: Sequence[str] | None = None,
    sessions: Sequence[str] | None = None,
    residuals: bool = False,
    **options: Any,
) -> Any:
    """Patterns of the subjects in a BIDS derivatives folder, as fMRIPrep lays it out.

    Parameters
    ----------
    root
        The folder with ``sub-*/[ses-*/]func/*_desc-preproc_bold.nii.gz``.
    task, space
        Their entities; without ``space`` the images that name none (the BOLD grid of each run).
    mask
        A mask or an atlas for all; a path with ``{subject}`` in it, or a mapping of subject to mask; "brain":
        the voxels in fMRIPrep's ``desc-brain_mask`` of every run of a subject.
    events_root
        Where the events are, with the same folders; by default ``root``, or the data set of which ``root``
        is a ``derivatives`` folder. Those of a higher folder apply too, as BIDS says (``task-x_events.tsv``):
        the closest is taken.
    subjects, sessions
        With or without ``sub-`` and ``ses-``; all by default.
    residuals
        Give also the residuals of each subject.
    **options
        Of `read_patterns`: ``model``, ``fmriprep``, ``labels`` and so on.

    Returns
    -------
    dict of subject to Dataset, or two of them
        In natural order: what `PatternTeacher` and `compute_rdms` take.

    Raises
    ------
    NeurordlError
        Nothing found, a subject or session that is not there, a run without events, or as `read_patterns`.
    """
    base = Path(root)
    if not base.is_dir():
        raise NeurordlError(f"there is no folder {base}; check root=")
    found = _images(base, task, space)
    names = sorted({entities(path)["sub"] for path in found}, key=natural_key)
    wanted = _chosen("sub", subjects, names)
    elsewhere = _events_roots(base, events_root)
    patterns, left = {}, {}
    for name in wanted:
        own = [path for path in found if entities(path)["sub"] == name]
        if sessions is not None:
            there = sorted({entities(path).get("ses", "none") for path in own}, key=natural_key)
            kept = _chosen("ses", sessions, there)
            own = [path for path in own if entities(path).get("ses", "none") in kept]
        _one_of_each(own)
        events = [_events(path, base, elsewhere) for path in own]
        read = read_patterns(own, _mask(mask, name, own), events, residuals=residuals, **options)
        patterns[f"sub-{name}"] = read[0] if residuals else read
        if residuals:
            left[f"sub-{name}"] = read[1]
    return (patterns, left) if residuals else patterns


def _images(base: Path, task: str, space: str | None) -> list[Path]:
    pattern = re.compile(r"_space-([A-Za-z0-9]+)")
    found = []
    for path in base.glob("sub-*/**/func/*_bold.nii*"):
        named = pattern.search(path.name)
        preprocessed = "_desc-preproc_" in path.name or "_desc-" not in path.name
        if (
            preprocessed
            and "sub" in entities(path)
            and entities(path).get("task") == task
            and (named[1] if named else None) == space
        ):
            found.append(path)
    if not found:
        raise NeurordlError(
            f"{base} has no image sub-*/func/*_task-{task}*{f'_space-{space}' if space else ''}"
            "*_bold.nii.gz; check root=, task= and space="
        )
    return sorted(found, key=lambda path: natural_key(path.name))


def _one_of_each(images: Sequence[Path]) -> None:
    """Refuse two images of a run: of two resolutions or echoes, say."""
    runs: dict[str, Path] = {}
    for path in images:
        first = runs.setdefault("_".join(entities(path).values()), path)
        if first is not path:
            raise NeurordlError(
                f"{first.name} and {path.name} are of one run; keep one of them in {path.parent}, or give "
                "read_patterns the files to take"
            )


def _chosen(entity: str, asked: Sequence[str] | None, there: Sequence[str]) -> list[str]:
    if asked is None:
        return list(there)
    wanted = [name.removeprefix(f"{entity}-") for name in ([asked] if isinstance(asked, str) else asked)]
    if absent := [name for name in wanted if name not in there]:
        raise NeurordlError(
            f"there is no {entity}-{absent[0]}; there are {', '.join(f'{entity}-{name}' for name in there)}"
        )
    return wanted


def _events_roots(base: Path, given: Folder | None) -> list[Path]:
    if given is not None:
        return [Path(given)]
    above = [
        parent.parent for parent in (base.resolve(), *base.resolve().parents) if parent.name == "derivatives"
    ]
    return [base, *above]


def _events(image: Path, base: Path, roots: Iterable[Path]) -> Path:
    """The events of a run, in the folders of one of the roots: the closest that apply."""
    within = image.parent.relative_to(base)
    for place in roots:
        folders = [place, *(place / folder for folder in reversed(within.parents[:-1])), place / within]
        if found := applicable(image, folders, "events", ".tsv"):
            return found[-1]
    raise NeurordlError(
        f"{image.name} has no events: looked for *_events.tsv of its sub-, ses-, task-, run- and so on in "
        f"{' and '.join(str(place / within) for place in roots)}, and the folders above; pass events_root="
    )


def _mask(mask: Any, subject: str, images: Sequence[Path]) -> Any:
    if isinstance(mask, Mapping):
        named = {str(name).removeprefix("sub-"): value for name, value in mask.items()}
        if subject not in named:
            raise NeurordlError(f"mask= has none for sub-{subject}")
        return named[subject]
    if mask != "brain":
        return (
            str(mask).replace("{subject}", f"sub-{subject}") if isinstance(mask, str | os.PathLike) else mask
        )
    files = [
        path.with_name(re.sub(r"_(desc-preproc_)?bold\.", "_desc-brain_mask.", path.name)) for path in images
    ]
    grid = load_image(images[0], "image")[0]
    inside = np.logical_and.reduce([read_mask(path, grid, None, None).inside for path in files])
    return nib.Nifti1Image(inside.astype(np.uint8), grid.affine)
