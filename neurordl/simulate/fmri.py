"""Simulated subjects in the scanner: NIfTI series with events and masks, in a BIDS-like folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids
from neurordl.io import atomic_write, write_json, write_text
from neurordl.simulate.patterns import simulate_patterns, whole

__all__ = ["simulate_fmri"]

Floats = npt.NDArray[np.float64]
_BASELINE, _PERCENT = 1000.0, 10.0  # of the signal; 1 % of it is one unit of the patterns


def simulate_fmri(
    folder: str | os.PathLike[str],
    patterns: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    ids: Sequence[str],
    n_subjects: int,
    *,
    shape: tuple[int, int, int] = (8, 8, 4),
    runs: int = 4,
    repeats: int = 2,
    t_r: float = 2.0,
    duration: float = 2.0,
    interval: float = 4.0,
    idiosyncrasy: float = 0.2,
    snr: float = 0.5,
    smoothness: float = 1.0,
    autocorrelation: float = 0.3,
    drift: float = 5.0,
    missing: float = 0.0,
    hrf_model: str = "spm",
    task: str = "sim",
    seed: int = 0,
) -> Path:
    """Write a simulated fMRI study whose geometry is known.

    Each ROI is a slab of the volume along its first axis; the patterns of `simulate_patterns` in its voxels,
    convolved with a haemodynamic response, are the signal. Noise is normal, in part smooth in space, and
    autoregressive in time (AR(1)), on a slow drift of each voxel.

    Parameters
    ----------
    folder
        A new or empty folder.
    patterns
        (stimuli, channels) of the known geometry, or one for each ROI by its name; their mean over channels
        is taken away, as in `simulate_patterns`, and is no part of the geometry.
    ids
        Stimulus of each row; they are the events' ``trial_type``.
    n_subjects
        They are called sub-01, sub-02 and so on.
    shape
        Voxels of a volume, of 3 mm.
    runs, repeats
        Runs of a subject, and how often a stimulus is shown in each, in random order.
    t_r, duration, interval
        Seconds of a volume, of a stimulus, and between the onsets of stimuli.
    idiosyncrasy
        As in `simulate_patterns`.
    snr
        Variance of the patterns over that of the noise of a volume.
    smoothness
        Above 0, half of the noise's variance is smooth in space: standard deviation of its kernel, in voxels.
    autocorrelation
        Of the noise, from one volume to the next.
    drift
        Of each voxel in each run: standard deviation of slope and curvature, in units of the patterns.
    missing
        Share of the stimuli that are not shown in a run, drawn for each.
    hrf_model, task
        Of nilearn, and the BIDS entity.
    seed
        Of all that is random.

    Returns
    -------
    Path
        The folder: ``sub-*/func/*_bold.nii.gz`` and ``*_events.tsv``, ``atlas.nii.gz`` with ``atlas.tsv``, a
        mask ``<ROI>.nii.gz`` for each ROI, and ``simulation.json``, which says how it was made.

    Raises
    ------
    NeurordlError
        A folder that holds something, a number that cannot be, or as `simulate_patterns`.
    """
    names = check_ids(ids, "simulated patterns")
    geometries = dict(patterns) if isinstance(patterns, Mapping) else {"roi": patterns}
    _check_names(geometries, task)
    if len(shape) != 3:
        raise NeurordlError(f"shape={shape!r}: expected three numbers of voxels")
    whole(runs=runs, repeats=repeats, seed=seed, **{f"shape[{axis}]": shape[axis] for axis in range(3)})
    if min(shape) < 1 or shape[0] < len(geometries) or runs < 1 or repeats < 1 or not 0 <= missing < 1:
        raise NeurordlError(
            f"cannot simulate shape={shape}, runs={runs}, repeats={repeats}, missing={missing} with "
            f"{len(geometries)} ROIs: expected a slice of the first axis for each ROI, 1 run and repeat or "
            "more, a share from 0 to below 1"
        )
    sizes = {"t_r": t_r, "duration": duration, "interval": interval}
    at_least = {"smoothness": smoothness, "drift": drift}
    if (
        not (-1 < autocorrelation < 1 and snr > 0)
        or not all(0 < size < np.inf for size in sizes.values())
        or not all(0 <= size < np.inf for size in at_least.values())
    ):
        raise NeurordlError(
            f"cannot simulate autocorrelation={autocorrelation}, snr={snr}, "
            + ", ".join(f"{name}={size}" for name, size in (sizes | at_least).items())
            + ": expected between -1 and 1, numbers above 0, and for the last two 0 or more"
        )
    slabs = dict(zip(geometries, np.array_split(np.arange(shape[0]), len(geometries)), strict=True))
    signal = {
        roi: simulate_patterns(
            geometry,
            names,
            n_subjects,
            n_channels=int(len(slabs[roi]) * shape[1] * shape[2]),
            idiosyncrasy=idiosyncrasy,
            snr=np.inf,
            seed=seed + 1000 * place,
        )
        for place, (roi, geometry) in enumerate(geometries.items())
    }
    timing = (t_r, duration, interval, hrf_model)
    _design(names, repeats, missing, timing, np.random.default_rng(seed))  # which may refuse them
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise NeurordlError(f"{target} is not empty; give a new folder")
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    _write_masks(target, slabs, shape, affine)
    for number in range(1, n_subjects + 1):
        where = target / f"sub-{number:02d}" / "func"
        where.mkdir(parents=True)
        truth = np.zeros((len(names), *shape))
        for roi, slab in slabs.items():
            values = np.asarray(signal[roi][f"s{number:02d}"].measurements)
            truth[:, slab] = values.reshape(len(names), len(slab), *shape[1:])
        for run in range(1, runs + 1):
            rng = np.random.default_rng([seed, number, run])
            events, design = _design(names, repeats, missing, timing, rng)
            series = np.tensordot(design, truth, axes=1)
            series += _noise(series.shape, smoothness, autocorrelation, rng) / np.sqrt(snr)
            at = np.linspace(-1, 1, len(series))[:, None, None, None]
            series += drift * (at * rng.standard_normal(shape) + at**2 * rng.standard_normal(shape))
            stem = where / f"sub-{number:02d}_task-{task}_run-{run:02d}"
            write_text(f"{stem}_events.tsv", events.to_csv(sep="\t", index=False, lineterminator="\n"))
            _write_series(f"{stem}_bold.nii.gz", _BASELINE + _PERCENT * series, affine, t_r)
    made = {
        "what": "a simulated fMRI study, made by neurordl.simulate.simulate_fmri",
        **{"seed": seed, "n_subjects": n_subjects, "runs": runs, "repeats": repeats, "shape": list(shape)},
        **{"t_r": t_r, "duration": duration, "interval": interval, "hrf_model": hrf_model},
        **{"snr": snr if np.isfinite(snr) else "inf"},
        **{"idiosyncrasy": idiosyncrasy, "smoothness": smoothness, "autocorrelation": autocorrelation},
        **{"drift": drift, "missing": missing, "rois": list(geometries), "stimuli": list(names)},
    }
    write_json(target / "simulation.json", made)
    return target


def _check_names(rois: Mapping[str, object], task: str) -> None:
    """Refuse names that files cannot have, or that would hide each other."""
    for roi in rois:
        if not isinstance(roi, str) or not re.fullmatch(r"[A-Za-z0-9][\w. -]*", roi) or roi == "atlas":
            raise NeurordlError(
                f"{roi!r} cannot be the name of a ROI and of its mask: expected letters and digits, and "
                "not 'atlas'"
            )
    if not rois or not isinstance(task, str) or not re.fullmatch("[A-Za-z0-9]+", task):
        raise NeurordlError(
            f"cannot simulate task={task!r} with {len(rois)} ROIs: expected letters and digits, 1 ROI or more"
        )


def _design(
    names: tuple[str, ...],
    repeats: int,
    missing: float,
    timing: tuple[float, float, float, str],
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Floats]:
    """Events of a run, and the response to each stimulus, (volumes, stimuli)."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    t_r, duration, interval, hrf_model = timing
    shown = rng.permutation(len(names))[: max(2, len(names) - round(missing * len(names)))]
    order = rng.permutation(np.repeat(shown, repeats))
    onsets = np.round(4.0 + interval * np.arange(len(order)) + rng.uniform(0, interval / 4, len(order)), 3)
    events = pd.DataFrame({"onset": onsets, "duration": duration, "trial_type": [names[k] for k in order]})
    times = t_r * np.arange(int(np.ceil((onsets[-1] + duration + 16.0) / t_r)))
    coded = events.assign(trial_type=[f"stimulus{k:06d}" for k in order])
    try:
        found = make_first_level_design_matrix(times, coded, hrf_model=hrf_model, drift_model=None)
    except (ValueError, TypeError) as error:
        raise NeurordlError(f"cannot simulate hrf_model={hrf_model!r} with t_r={t_r}: {error}") from error
    if any(f"stimulus{k:06d}" not in found for k in shown):
        raise NeurordlError(f"hrf_model={hrf_model!r} has several regressors a stimulus; choose another")
    design = np.zeros((len(times), len(names)))
    for k in shown:
        design[:, k] = found[f"stimulus{k:06d}"]
    return events, design / max(design.max(), 1e-12)


def _noise(
    shape: tuple[int, ...], smoothness: float, autocorrelation: float, rng: np.random.Generator
) -> Floats:
    """Noise of unit variance, (volumes, x, y, z), half of it smooth in space, all AR(1) in time."""
    from scipy.ndimage import gaussian_filter
    from scipy.signal import lfilter

    noise = rng.standard_normal((shape[0] + 20, *shape[1:]))
    if smoothness > 0:
        smooth = gaussian_filter(noise, (0, smoothness, smoothness, smoothness), mode="wrap")
        noise = (smooth / smooth.std() + rng.standard_normal(noise.shape)) / np.sqrt(2)
    innovation = np.sqrt(1 - autocorrelation**2)
    noise[0] /= innovation  # the variance is the same from the first volume on
    return np.asarray(lfilter([innovation], [1, -autocorrelation], noise, axis=0)[20:])


def _write_masks(
    folder: Path, slabs: Mapping[str, npt.NDArray[np.intp]], shape: tuple[int, ...], affine: Floats
) -> None:
    atlas = np.zeros(shape, np.uint8)
    for number, (roi, slab) in enumerate(slabs.items(), start=1):
        atlas[slab] = number
        _save(folder / f"{roi}.nii.gz", nib.Nifti1Image((atlas == number).astype(np.uint8), affine))
    _save(folder / "atlas.nii.gz", nib.Nifti1Image(atlas, affine))
    table = pd.DataFrame({"index": range(1, len(slabs) + 1), "name": list(slabs)})
    write_text(folder / "atlas.tsv", table.to_csv(sep="\t", index=False, lineterminator="\n"))


def _write_series(path: str, series: Floats, affine: Floats, t_r: float) -> None:
    whole = np.clip(np.round(np.moveaxis(series, 0, -1)), -32768, 32767).astype(np.int16)
    image = nib.Nifti1Image(whole, affine)
    image.header.set_zooms((3.0, 3.0, 3.0, t_r))
    image.header.set_xyzt_units("mm", "sec")
    _save(Path(path), image)


def _save(path: Path, image: nib.Nifti1Image) -> None:
    import gzip

    with atomic_write(path) as aside:  # no time of writing in the file: the same seed gives the same bytes
        aside.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
