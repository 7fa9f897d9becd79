"""The images of one subject: their values in a mask, the voxels that can be used, and what they are of."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from rsatoolbox.data import Dataset

from neurordl.errors import NeurordlError
from neurordl.patterns.tables import entities
from neurordl.patterns.volumes import Mask, values_in

__all__ = ["Study", "runs_of", "sessions_of", "subject_of"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Study:
    """The images of a call, and what they are of."""

    images: list[tuple[nib.Nifti1Image, str]]
    mask: Mask
    subject: str | None
    sessions: list[str] | None
    runs: list[str]

    @property
    def names(self) -> list[str]:
        """File of each image."""
        return [name for _, name in self.images]

    def read(self) -> tuple[list[Floats], npt.NDArray[np.bool_], dict[str, Any]]:
        """Values of each image in the mask, less the voxels that cannot be used, and what was dropped."""
        grid = self.images[0][0]
        values = [values_in(image, self.mask.inside, grid, name) for image, name in self.images]
        broken = np.zeros(values[0].shape[1], dtype=bool)
        for one in values:
            broken |= ~np.isfinite(one).all(axis=0)
        constant = np.zeros_like(broken)
        with np.errstate(invalid="ignore"):
            for one in values if len(values[0]) > 1 else [np.concatenate(values)]:
                constant |= (one == one[0]).all(axis=0) if len(one) > 1 else False
        constant &= ~broken
        kept = ~(broken | constant)
        told = {
            "voxels": int(kept.sum()),
            "dropped_nan": int(broken.sum()),
            "dropped_constant": int(constant.sum()),
        }
        counts = f"{told['dropped_nan']} with NaN or infinity, {told['dropped_constant']} constant in a run"
        if not kept.any():
            raise NeurordlError(
                f"none of the {len(kept)} voxels {self.mask} can be used: {counts}; check "
                "that mask and images belong together"
            )
        if not kept.all():
            lost = f"dropped {int((~kept).sum())} of {len(kept)} voxels {self.mask}: {counts}"
            warnings.warn(lost, UserWarning, stacklevel=4)
        return [one[:, kept] for one in values], kept, told

    def dataset(
        self,
        values: Floats,
        rows: Mapping[str, list[Any]],
        kept: npt.NDArray[np.bool_],
        made: Mapping[str, Any],
    ) -> Dataset:
        """Values (rows, voxels) with what is known of rows and voxels."""
        files: dict[str, Any] = {
            "images": [Path(name).name for name in self.names],
            "mask": Path(self.mask.name).name,
        }
        files["mask_resampled"] = self.mask.resampled
        grid = self.images[0][0]
        files["grid"] = {"shape": list(map(int, grid.shape[:3])), "affine": grid.affine.tolist()}
        channels: dict[str, Any] = {
            axis: place[kept].tolist()
            for axis, place in zip("xyz", np.nonzero(self.mask.inside), strict=True)
        }
        if self.mask.roi is not None:
            channels["roi"] = [roi for roi, keep in zip(self.mask.roi, kept, strict=True) if keep]
        who = {} if self.subject is None else {"subject": self.subject}
        return Dataset(
            values,
            descriptors={**who, "provenance": json.dumps({**files, **made}, ensure_ascii=False)},
            obs_descriptors=dict(rows),
            channel_descriptors=channels,
        )


def subject_of(names: Sequence[str], given: str | None) -> str | None:
    """The subject as given, or of the file names; several are an error."""
    if given is not None:
        return given
    found = list(dict.fromkeys(entities(name).get("sub") for name in names))
    if len(found) > 1:
        raise NeurordlError(
            f"the images are of several subjects ({', '.join(map(str, found))}); read one subject at a time, "
            "or use read_bids"
        )
    return f"sub-{found[0]}" if found and found[0] else None


def sessions_of(names: Sequence[str], given: str | Sequence[str] | None) -> list[str] | None:
    """Each image's session as given, or of its file name; None where there are none."""
    if given is not None:
        sessions = [given] * len(names) if isinstance(given, str) else [str(one) for one in given]
        if len(sessions) != len(names):
            raise NeurordlError(f"session= names {len(sessions)} sessions of {len(names)} images")
        return sessions
    found = [entities(name).get("ses") for name in names]
    return [f"ses-{one}" for one in found] if all(found) else None


def runs_of(
    names: Sequence[str], sessions: list[str] | None, given: Sequence[str] | None, *, unique: bool
) -> list[str]:
    """A name for each image's run, told apart over sessions; unique unless images may share a run."""
    if given is not None:
        runs = [str(run) for run in given]
    else:
        found = [entities(name).get("run") for name in names]
        runs = [f"run-{run or k + 1}" for k, run in enumerate(found)]
    if len(runs) != len(names):
        raise NeurordlError(f"runs= names {len(runs)} runs of {len(names)} images")
    if sessions is not None and len(set(sessions)) > 1:
        runs = [f"{session}_{run}" for session, run in zip(sessions, runs, strict=True)]
    if unique and len(set(runs)) < len(runs):
        again = next(run for run in runs if runs.count(run) > 1)
        raise NeurordlError(f"two images are of {again}; name them with runs=, or leave one out")
    return runs
