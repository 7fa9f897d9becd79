"""From the time series of a run to one pattern per condition or trial: averages, GLM, LS-A, LS-S."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.errors import NeurordlError

__all__ = ["Estimate", "Model", "check_model", "estimate"]

Floats = npt.NDArray[np.float64]
Model = Literal["glm", "lsa", "lss", "average"]
_DESIGN = ("hrf_model", "drift_model", "high_pass", "drift_order")


class Estimate(NamedTuple):
    """Patterns of a run.

    Attributes
    ----------
    rows
        The condition of each pattern; for single trials also ``trial`` (from 1 in each condition), ``onset``.
    patterns
        (rows, voxels).
    residuals
        (volumes, voxels); of averages, the volumes of the blocks only.
    dof
        Degrees of freedom of the residuals.
    """

    rows: pd.DataFrame
    patterns: Floats
    residuals: Floats
    dof: int


def check_model(model: str, detrend: bool, design: Mapping[str, Any]) -> None:
    """Refuse a model that does not exist, or options that it would ignore."""
    if model not in get_args(Model):
        raise NeurordlError(f"model={model!r}: expected one of {', '.join(get_args(Model))}")
    if model == "average" and design["confounds"]:
        raise NeurordlError("block averages take no confounds; use model='glm', or clean the images first")
    if model != "average" and detrend:
        raise NeurordlError(f"detrend= is for block averages; with model={model!r} choose drift_model=")


def estimate(
    data: Floats,
    events: pd.DataFrame,
    times: Floats,
    model: Model,
    *,
    detrend: bool = False,
    confounds: pd.DataFrame | None = None,
    kept: npt.NDArray[np.int64] | None = None,
    noise_model: str = "ols",
    design: Mapping[str, Any],
    name: str,
) -> Estimate:
    """Patterns of the conditions or trials of one run.

    Parameters
    ----------
    data
        (volumes, voxels).
    events
        ``condition``, ``onset``, ``duration`` (seconds), in time order.
    times
        (volumes,), when each volume was taken, in seconds.
    model
        See `neurordl.read_patterns`.
    detrend
        Remove each voxel's linear trend, but not its mean, before averaging.
    confounds
        Regressors of no interest, a row for each volume.
    kept
        Volumes that enter the GLM; all where None.
    noise_model
        "ols" or "ar1", as in nilearn.
    design
        ``hrf_model``, ``drift_model``, ``high_pass``, ``drift_order`` of nilearn's design matrix.
    name
        What to call the run in messages.
    """
    if model == "average":
        return _averages(_detrended(data) if detrend else data, events, times, name)
    fit = _Fit(data, times, confounds, kept, noise_model, {key: design[key] for key in _DESIGN}, name)
    if model == "glm":
        names = list(dict.fromkeys(events["condition"]))
        betas, residuals, dof = fit(events, events["condition"], names)
        return Estimate(pd.DataFrame({"condition": names}), betas, residuals, dof)
    rows = events[["condition", "onset"]].copy()
    rows.insert(1, "trial", rows.groupby("condition").cumcount() + 1)
    trials = [f"trial {row}" for row in range(len(rows))]
    if model == "lsa":
        betas, residuals, dof = fit(events, trials, trials)
        return Estimate(rows, betas, residuals, dof)
    single = []
    for row, trial in enumerate(trials):
        others = [f"other {condition}" for condition in events["condition"]]
        others[row] = trial
        single.append(fit(events, others, [trial])[0][0])
    # the residuals of LS-S differ from trial to trial; those of the conditions' GLM stand for the noise
    _, residuals, dof = fit(events, events["condition"], list(dict.fromkeys(events["condition"])))
    return Estimate(rows, np.stack(single), residuals, dof)


class _Fit:
    """GLMs of one run that differ in their regressors of interest only."""

    def __init__(
        self,
        data: Floats,
        times: Floats,
        confounds: pd.DataFrame | None,
        kept: npt.NDArray[np.int64] | None,
        noise_model: str,
        design: Mapping[str, Any],
        name: str,
    ) -> None:
        self.data = data if kept is None else data[kept]
        self.times, self.confounds, self.kept = times, confounds, kept
        self.noise_model, self.design, self.name = noise_model, design, name

    def __call__(
        self, events: pd.DataFrame, regressors: Sequence[str] | pd.Series, wanted: Sequence[str]
    ) -> tuple[Floats, Floats, int]:
        """Betas of the wanted regressors, residuals, degrees of freedom."""
        from nilearn.glm.first_level import run_glm

        number = {regressor: place for place, regressor in enumerate(dict.fromkeys(regressors))}
        coded = [
            f"regressor{number[regressor]:06d}" for regressor in regressors
        ]  # any name may be a condition
        matrix = self._matrix(events.assign(trial_type=coded)[["onset", "duration", "trial_type"]])
        columns = [self._column(matrix, f"regressor{number[regressor]:06d}") for regressor in wanted]
        if self.kept is not None:
            matrix = matrix.iloc[self.kept]
        X = matrix.to_numpy()
        empty = [regressor for regressor, at in zip(wanted, columns, strict=True) if not X[:, at].any()]
        rank = int(np.linalg.matrix_rank(X))
        if empty or rank >= len(X):
            raise NeurordlError(
                f"{self.name}: "
                + (
                    f"{empty[0]!r} has no response within the run ({len(empty)} such)"
                    if empty
                    else f"{X.shape[1]} regressors for {len(X)} volumes leave no degrees of freedom"
                )
                + "; check the events, t_r and confounds, or leave regressors out"
            )
        if rank < X.shape[1]:
            warnings.warn(
                f"{self.name}: the design matrix has rank {rank} for {X.shape[1]} regressors; betas of "
                "regressors that depend on others are those of least length",
                UserWarning,
                stacklevel=2,
            )
        labels, results = run_glm(self.data, X, noise_model=self.noise_model)
        betas, residuals = np.empty((len(columns), self.data.shape[1])), np.empty_like(self.data)
        for label, result in results.items():
            at = labels == label
            betas[:, at] = result.theta[columns]
            residuals[:, at] = result.residuals
        return betas, residuals, len(X) - rank

    def _matrix(self, events: pd.DataFrame) -> pd.DataFrame:
        from nilearn.glm.first_level import make_first_level_design_matrix

        added = self.confounds if self.confounds is not None and self.confounds.shape[1] else None
        if added is not None:
            added = added.set_axis([f"confound{k:06d}" for k in range(added.shape[1])], axis=1)
        try:
            matrix: pd.DataFrame = make_first_level_design_matrix(
                self.times, events, add_regs=added, **self.design
            )
        except (ValueError, TypeError, NotImplementedError) as error:
            raise NeurordlError(f"{self.name}: no design matrix: {error}") from error
        return matrix

    def _column(self, matrix: pd.DataFrame, regressor: str) -> int:
        names = [str(column) for column in matrix.columns]
        if regressor not in names:  # several columns a condition: derivatives, or FIR delays
            raise NeurordlError(
                f"hrf_model={self.design['hrf_model']!r} has several regressors a condition; choose a model "
                "with one, or with derivatives ('spm + derivative': the first is taken)"
            )
        return names.index(regressor)


def _averages(data: Floats, events: pd.DataFrame, times: Floats, name: str) -> Estimate:
    """Mean of the volumes taken during the events of each condition."""
    names = list(dict.fromkeys(events["condition"]))
    patterns, residuals = np.empty((len(names), data.shape[1])), []
    for row, condition in enumerate(names):
        inside = np.zeros(len(times), dtype=bool)
        for event in events[events["condition"] == condition].itertuples():
            # a volume at the very end belongs to what comes next; times are sums of decimals
            inside |= (times >= event.onset - 1e-6) & (times < event.onset + event.duration - 1e-6)
        if not inside.any():
            raise NeurordlError(
                f"{name}: no volume was taken during {condition!r}; block averages need events that last"
            )
        patterns[row] = data[inside].mean(axis=0)
        residuals.append(data[inside] - patterns[row])
    left = np.concatenate(residuals)
    return Estimate(pd.DataFrame({"condition": names}), patterns, left, len(left) - len(names))


def _detrended(data: Floats) -> Floats:
    """Each voxel less its linear trend, with its mean."""
    from scipy.signal import detrend

    found: Floats = detrend(data, axis=0, type="linear") + data.mean(axis=0)
    return found
