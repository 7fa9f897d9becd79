"""Simulated subjects in the scanner: NIfTI series with events and masks, in a BIDS-like folder."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.ids import check_ids
from neurordl.io import write_bytes, write_json, write_text
from neurordl.patterns.models import GLM, Run
from neurordl.simulate.patterns import check_snr, simulate_patterns
from neurordl.validate import check_count, check_number

_BASELINE, _PERCENT = 1000.0, 10.0  # of the signal; 1 % of it is one unit of the patterns
_VOXEL = 3.0  # mm


@dataclass(frozen=True)
class Scan:
    """How a subject is scanned.

    Attributes
    ----------
    shape
        Number of voxels along each axis of a volume; voxels have 3 mm.
    runs, repeats
        Number of runs of a subject, and of presentations of each stimulus in a run, in random order.
    t_r, duration, interval
        Seconds between volumes, of a stimulus, and between the onsets of stimuli.
    missing
        Share of the stimuli that are not shown in a run, drawn for each run, from 0 to below 1.
    smoothness
        If above 0, half of the noise's variance is smooth in space; this is the standard deviation of the
        kernel in voxels.
    autocorrelation
        Correlation of the noise from one volume to the next, between -1 and 1.
    drift
        Standard deviation of slope and curvature of the drift of each voxel in each run, in units of the
        patterns.
    hrf_model
        Hemodynamic response, as in nilearn.
    task
        The BIDS entity.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.simulate.Scan(runs=2).runs
    2
    """

    shape: tuple[int, int, int] = (8, 8, 4)
    runs: int = 4
    repeats: int = 2
    t_r: float = 2.0
    duration: float = 2.0
    interval: float = 4.0
    missing: float = 0.0
    smoothness: float = 1.0
    autocorrelation: float = 0.3
    drift: float = 5.0
    hrf_model: str = "spm"
    task: str = "sim"

    def __post_init__(self) -> None:
        if len(self.shape) != 3:
            raise NeurordlError(f"shape={self.shape!r}: expected three numbers of voxels")
        for axis, size in enumerate(self.shape):
            check_count(f"shape[{axis}]", size)
        check_count("runs", self.runs)
        check_count("repeats", self.repeats)
        for name in ("t_r", "duration", "interval"):
            check_number(name, getattr(self, name), 0, open_low=True)
        check_number("missing", self.missing, 0, 1, open_high=True)
        check_number("smoothness", self.smoothness, 0)
        check_number("autocorrelation", self.autocorrelation, -1, 1, open_low=True, open_high=True)
        check_number("drift", self.drift, 0)
        if not isinstance(self.task, str) or not re.fullmatch("[A-Za-z0-9]+", self.task):
            raise NeurordlError(f"task={self.task!r}: expected letters and digits")

    def design(self, stimuli: Sequence[str], rng: np.random.Generator) -> tuple[pd.DataFrame, Floats]:
        """Draw the events of a run; return them with the response to each stimulus, (volumes, stimuli).

        Raises
        ------
        NeurordlError
            nilearn has no such HRF, or it has several regressors per stimulus.
        """
        n_shown = max(2, len(stimuli) - round(self.missing * len(stimuli)))
        shown = rng.permutation(len(stimuli))[:n_shown]
        order = rng.permutation(np.repeat(shown, self.repeats))
        names = [stimuli[k] for k in order]
        jitter = rng.uniform(0, self.interval / 4, len(order))
        onsets = np.round(4.0 + self.interval * np.arange(len(order)) + jitter, 3)
        events = pd.DataFrame({"onset": onsets, "duration": self.duration})
        n_volumes = int(np.ceil((onsets[-1] + self.duration + 16.0) / self.t_r))
        times: Floats = np.arange(n_volumes, dtype=np.float64) * self.t_r
        run = Run(f"a simulated run with t_r={self.t_r}", np.empty((n_volumes, 0)), events, times)
        matrix, columns = GLM(hrf_model=self.hrf_model, drift_model=None).design(run, names)
        design = np.zeros((n_volumes, len(stimuli)))
        for k in shown:
            design[:, k] = matrix[columns[stimuli[k]]]
        return events.assign(trial_type=names), design / max(design.max(), 1e-12)

    def noise(self, n_volumes: int, rng: np.random.Generator) -> Floats:
        """Draw noise of unit variance, (volumes, x, y, z), autoregressive in time: AR(1)."""
        from scipy.ndimage import gaussian_filter
        from scipy.signal import lfilter

        noise = rng.standard_normal((n_volumes + 20, *self.shape))
        if self.smoothness > 0:
            smooth = gaussian_filter(noise, (0, *[self.smoothness] * 3), mode="wrap")
            noise = (smooth / smooth.std() + rng.standard_normal(noise.shape)) / np.sqrt(2)
        innovation = np.sqrt(1 - self.autocorrelation**2)
        noise[0] /= innovation  # the variance is the same from the first volume on
        return np.asarray(lfilter([innovation], [1, -self.autocorrelation], noise, axis=0)[20:])


def simulate_fmri(
    folder: str | os.PathLike[str],
    patterns: npt.ArrayLike | Mapping[str, npt.ArrayLike],
    ids: Sequence[str],
    n_subjects: int,
    *,
    scan: Scan = Scan(),
    idiosyncrasy: float = 0.2,
    snr: float = 0.5,
    seed: int = 0,
) -> Path:
    """Write a simulated fMRI study with a known geometry.

    Each ROI is a slab of the volume along its first axis. Its signal is the patterns of `simulate_patterns`
    in its voxels, convolved with a hemodynamic response. Noise is normal, in part smooth in space, and
    autoregressive in time, on a slow drift of each voxel.

    Parameters
    ----------
    folder
        A new or empty folder.
    patterns
        (stimuli, channels) of the known geometry, or a mapping of ROI to patterns. Their mean over channels
        is removed, as in `simulate_patterns`.
    ids
        Stimulus of each row; the ``trial_type`` of its events.
    n_subjects
        Number of subjects, who are called sub-01, sub-02 and so on.
    scan
        Volumes, runs, timing and noise.
    idiosyncrasy
        As in `simulate_patterns`.
    snr
        Variance of the patterns over that of the noise of one volume, above 0; ``math.inf`` stands for no
        noise.
    seed
        Seed of all random draws.

    Returns
    -------
    Path
        The folder: ``sub-*/func/*_bold.nii.gz`` and ``*_events.tsv``, ``atlas.nii.gz`` with ``atlas.tsv``, a
        mask ``<ROI>.nii.gz`` for each ROI, and ``simulation.json`` with all settings.

    Raises
    ------
    NeurordlError
        The folder is not empty, a number is out of range, or as in `simulate_patterns`.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     study, scan = Path(folder) / "study", nrl.simulate.Scan(runs=2)
    ...     study = nrl.simulate.simulate_fmri(study, np.eye(4), list("abcd"), n_subjects=1, scan=scan)
    ...     patterns = nrl.read_bids(study, "sim", mask=None)
    >>> patterns["sub-01"].n_obs
    8
    """
    names = check_ids(ids, "simulated patterns")
    geometries = dict(patterns) if isinstance(patterns, Mapping) else {"roi": patterns}
    for roi in geometries:
        if not isinstance(roi, str) or not re.fullmatch(r"[A-Za-z0-9][\w. -]*", roi) or roi == "atlas":
            raise NeurordlError(f"{roi!r} cannot name a ROI: expected letters and digits, not 'atlas'")
    if not 1 <= len(geometries) <= scan.shape[0]:
        raise NeurordlError(f"shape={scan.shape}: expected a slice for each of {len(geometries)} ROIs")
    check_snr(snr)
    slabs = dict(zip(geometries, np.array_split(np.arange(scan.shape[0]), len(geometries)), strict=True))
    simulate = partial(simulate_patterns, ids=names, n_subjects=n_subjects, idiosyncrasy=idiosyncrasy)
    signal = {}
    for number, (roi, slab) in enumerate(slabs.items()):
        n_channels, roi_seed = len(slab) * scan.shape[1] * scan.shape[2], seed + 1000 * number
        signal[roi] = simulate(geometries[roi], n_channels=n_channels, snr=np.inf, seed=roi_seed)
    scan.design(names, np.random.default_rng(seed))  # raises an error before anything is written
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    if any(target.iterdir()):
        raise NeurordlError(f"{target} is not empty; give a new folder")
    _write_masks(target, slabs, scan.shape)
    for number in range(1, n_subjects + 1):
        directory = target / f"sub-{number:02d}" / "func"
        directory.mkdir(parents=True)
        responses = np.zeros((len(names), *scan.shape))
        for roi, slab in slabs.items():
            values = np.asarray(signal[roi][f"s{number:02d}"].measurements)
            responses[:, slab] = values.reshape(len(names), len(slab), *scan.shape[1:])
        for run in range(1, scan.runs + 1):
            rng = np.random.default_rng([seed, number, run])
            events, design = scan.design(names, rng)
            series = np.tensordot(design, responses, axes=1)
            series += scan.noise(len(series), rng) / np.sqrt(snr)
            time = np.linspace(-1, 1, len(series))[:, None, None, None]
            slope, curvature = rng.standard_normal(scan.shape), rng.standard_normal(scan.shape)
            series += scan.drift * (time * slope + time**2 * curvature)
            stem = directory / f"sub-{number:02d}_task-{scan.task}_run-{run:02d}"
            _write_table(Path(f"{stem}_events.tsv"), events)
            volumes = np.round(np.moveaxis(_BASELINE + _PERCENT * series, 0, -1)).clip(-32768, 32767)
            _write_image(Path(f"{stem}_bold.nii.gz"), volumes.astype(np.int16), scan.t_r)
    about = "a simulated fMRI study, made by neurordl.simulate.simulate_fmri"
    settings = {"seed": seed, "n_subjects": n_subjects, "snr": str(snr) if snr == np.inf else snr}
    content = {"about": about, **settings, "idiosyncrasy": idiosyncrasy, **asdict(scan)}
    write_json(target / "simulation.json", {**content, "rois": list(geometries), "stimuli": names})
    return target


def _write_masks(folder: Path, slabs: Mapping[str, npt.NDArray[np.intp]], shape: tuple[int, ...]) -> None:
    atlas = np.zeros(shape, np.uint8)
    for number, (roi, slab) in enumerate(slabs.items(), start=1):
        atlas[slab] = number
        _write_image(folder / f"{roi}.nii.gz", (atlas == number).astype(np.uint8))
    _write_image(folder / "atlas.nii.gz", atlas)
    _write_table(folder / "atlas.tsv", pd.DataFrame({"index": range(1, len(slabs) + 1), "name": list(slabs)}))


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))


def _write_image(path: Path, values: npt.NDArray[np.generic], t_r: float | None = None) -> None:
    image = nib.Nifti1Image(values, np.diag([_VOXEL, _VOXEL, _VOXEL, 1.0]))
    if t_r is not None:
        image.header.set_zooms((_VOXEL, _VOXEL, _VOXEL, t_r))
        image.header.set_xyzt_units("mm", "sec")
    # without the time of writing: the same seed gives the same bytes
    write_bytes(path, gzip.compress(image.to_bytes(), mtime=0))
