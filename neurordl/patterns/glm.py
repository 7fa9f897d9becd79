"""From the time series of a run to one pattern per condition or trial: averages, GLM, LS-A, LS-S."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.errors import NeurordlError
from neurordl.patterns.lag import explained

__all__ = ["DEFAULTS", "Estimate", "Model", "changed", "check_model", "estimate"]

Floats = npt.NDArray[np.float64]
Model = Literal["glm", "lsa", "lss", "average"]
# the options of the GLM, as read_patterns has them
DEFAULTS: Mapping[str, Any] = {
    **{"hrf_model": "spm", "drift_model": "cosine", "high_pass": 0.01, "drift_order": 1, "noise_model": "ols"}
}


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
    explained
        Share of the variance that conditions explain with an HRF, and by chance; without one, and by chance.
        None where the events are too short to tell.
    """

    rows: pd.DataFrame
    patterns: Floats
    residuals: Floats
    dof: int
    explained: tuple[float, float, float, float] | None = None


def check_model(model: str, detrend: bool, confounds: bool, options: Mapping[str, Any]) -> None:
    """Refuse a model that does not exist, or options that cannot be or would be ignored."""
    if model not in get_args(Model):
        raise NeurordlError(f"model={model!r}: expected one of {', '.join(get_args(Model))}")
    if model == "average" and confounds:
        raise NeurordlError("block averages take no confounds; use model='glm', or clean the images first")
    if model == "average" and (asked := changed(options)):
        raise NeurordlError(f"{asked[0]}= is for a GLM, and block averages have none: leave it out")
    if model != "average" and detrend:
        raise NeurordlError(f"detrend= is for block averages; with model={model!r} choose drift_model=")
    if not isinstance(options["hrf_model"], str | None):
        raise NeurordlError(f"hrf_model={options['hrf_model']!r}: expected the name of a model, or None")
    if not re.fullmatch("ols|ar[1-9][0-9]*", str(options["noise_model"])):
        raise NeurordlError(f"noise_model={options['noise_model']!r}: expected 'ols' or 'ar1' ('ar2', ...)")


def changed(options: Mapping[str, Any]) -> list[str]:
    """Which options of the GLM were asked for, and would be ignored without one."""
    return [name for name, value in options.items() if value not in (None, DEFAULTS[name])]


def estimate(
    data: Floats,
    events: pd.DataFrame,
    times: Floats,
    model: Model,
    *,
    detrend: bool = False,
    confounds: pd.DataFrame | None = None,
    kept: npt.NDArray[np.int64] | None = None,
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
    design
        The options in ``DEFAULTS``, as in nilearn.
    name
        What to call the run in messages.
    """
    if model == "average":
        found = _averages(_detrended(data) if detrend else data, events, times, name)
        return found._replace(explained=_Fit(data, times, None, None, DEFAULTS, name).explained(events))
    fit = _Fit(data, times, confounds, kept, design, name)
    told = None if design["hrf_model"] is None else fit.explained(events)
    if model == "glm":
        names = list(dict.fromkeys(events["condition"]))
        betas, residuals, dof = fit(events, events["condition"], names)
        return Estimate(pd.DataFrame({"condition": names}), betas, residuals, dof, told)
    rows = events[["condition", "onset"]].copy()
    rows.insert(1, "trial", rows.groupby("condition").cumcount() + 1)
    trials = [f"trial {row}" for row in range(len(rows))]
    if model == "lsa":
        betas, residuals, dof = fit(events, trials, trials)
        return Estimate(rows, betas, residuals, dof, told)
    single = []
    for row, trial in enumerate(trials):
        others = [f"other {condition}" for condition in events["condition"]]
        others[row] = trial
        single.append(fit(events, others, [trial])[0][0])
    # the residuals of LS-S differ from trial to trial; those of the conditions' GLM stand for the noise
    _, residuals, dof = fit(events, events["condition"], list(dict.fromkeys(events["condition"])))
    return Estimate(rows, np.stack(single), residuals, dof, told)


class _Fit:
    """GLMs of one run that differ in their regressors of interest only."""

    def __init__(
        self,
        data: Floats,
        times: Floats,
        confounds: pd.DataFrame | None,
        kept: npt.NDArray[np.int64] | None,
        design: Mapping[str, Any],
        name: str,
    ) -> None:
        self.data = data if kept is None else data[kept]
        self.times, self.confounds, self.kept = times, confounds, kept
        self.design = {key: design[key] for key in DEFAULTS if key != "noise_model"}
        self.noise_model, self.name = design["noise_model"], name

    def __call__(
        self, events: pd.DataFrame, regressors: Sequence[str] | pd.Series, wanted: Sequence[str]
    ) -> tuple[Floats, Floats, int]:
        """Betas of the wanted regressors, residuals, degrees of freedom."""
        from nilearn.glm.first_level import run_glm

        number = {regressor: place for place, regressor in enumerate(dict.fromkeys(regressors))}
        matrix = self._matrix(_coded(events, regressors))
        columns = [self._column(matrix, f"regressor{number[regressor]:06d}") for regressor in wanted]
        if self.kept is not None:
            matrix = matrix.iloc[self.kept]
        X = matrix.to_numpy()
        seen = _seen(X)
        empty = [regressor for regressor, at in zip(wanted, columns, strict=True) if not seen[at]]
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

    def explained(self, events: pd.DataFrame) -> tuple[float, float, float, float] | None:
        """See `Estimate`."""
        if len(self.times) < 2 or (events["duration"] < self.times[1] - self.times[0]).any():
            return None
        found = []
        for hrf_model in (self.design["hrf_model"], None):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what there is to say is said of the fit
                matrix = self._matrix(_coded(events, events["condition"]), hrf_model)
            X = matrix.to_numpy() if self.kept is None else matrix.to_numpy()[self.kept]
            ours = np.array([str(column).startswith("regressor") for column in matrix.columns])
            if not _seen(X)[ours].all():
                return None
            found.append(explained(self.data, X, ours))
        return *found[0], *found[1]

    def _matrix(self, events: pd.DataFrame, hrf_model: str | None = "") -> pd.DataFrame:
        """The design, with another HRF if one is given."""
        from nilearn.glm.first_level import make_first_level_design_matrix

        design = self.design if hrf_model == "" else {**self.design, "hrf_model": hrf_model}
        added = self.confounds if self.confounds is not None and self.confounds.shape[1] else None
        if added is not None:
            # of one scale, so that small ones are not lost in rounding: the constant and the betas of
            # interest do not see it
            added = (added - added.mean()) / added.std(ddof=0).replace(0.0, 1.0)
            added = added.set_axis([f"confound{k:06d}" for k in range(added.shape[1])], axis=1)
        try:
            with warnings.catch_warnings():
                # events of 0 s: it names our columns
                warnings.filterwarnings("ignore", message="(?s).*null duration")
                matrix: pd.DataFrame = make_first_level_design_matrix(
                    self.times, events, add_regs=added, **design
                )
        except (ValueError, TypeError, NotImplementedError, np.linalg.LinAlgError) as error:
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


def _seen(X: Floats) -> npt.NDArray[np.bool_]:
    """Which regressors are more than what nilearn adds to a singular matrix."""
    found: npt.NDArray[np.bool_] = np.abs(X).max(axis=0) > 1e-10
    return found


def _coded(events: pd.DataFrame, regressors: Sequence[str] | pd.Series) -> pd.DataFrame:
    """Events for nilearn, whose regressors are numbered: any name may be a condition."""
    number = {regressor: place for place, regressor in enumerate(dict.fromkeys(regressors))}
    coded = [f"regressor{number[regressor]:06d}" for regressor in regressors]
    return events.assign(trial_type=coded)[["onset", "duration", "trial_type"]]


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
