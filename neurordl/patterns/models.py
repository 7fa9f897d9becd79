"""Models of one run: how its time series becomes one pattern per condition or trial.

A model is a `RunModel`: a frozen dataclass with its settings and a method ``fit``. Any subclass, also in a
script, can be passed to `read_patterns`; ``MODELS`` has the names of the models of the package.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError, explain, notify
from neurordl.validate import check_choice, check_number, listed

ModelName: TypeAlias = Literal["glm", "lsa", "lss", "average"]
Share: TypeAlias = tuple[float, float]
# how much more the other model must explain, than this one and than by chance, before a notice is given
_MORE_THAN_MODEL, _MORE_THAN_CHANCE = 1.25, 1.15
RESPONSE = 32.0  # seconds after an event in which it is responded to
_LEAST_SEEN = 0.1  # share of a response, as a sum of squares, that volumes must show
_NOISIEST = 10.0  # standard deviations of a beta over that of others of its run, or of a single event
_N_SHIFTS = 4  # other times of the run by which chance is estimated


@dataclass(frozen=True)
class Run:
    """The data of one run, which a model is fitted to.

    Attributes
    ----------
    name
        Name of the run in messages.
    data
        (volumes, voxels) time series, without the volumes that confounds exclude.
    events
        Table with ``condition``, ``onset`` and ``duration`` (in seconds), in time order.
    times
        Time of each volume of the run in seconds, also of excluded volumes.
    confounds
        Regressors of no interest, one row for each time.
    kept
        Positions in ``times`` of the volumes in ``data``; None if no volume is excluded.
    """

    name: str
    data: Floats
    events: pd.DataFrame
    times: Floats
    confounds: pd.DataFrame | None = None
    kept: Ints | None = None


@dataclass(frozen=True)
class Estimate:
    """Patterns of one run.

    Attributes
    ----------
    rows
        Table with the ``condition`` of each pattern; for single trials also ``trial`` (counted from 1 in each
        condition) and ``onset``.
    patterns
        (rows, voxels).
    residuals
        (volumes, voxels); for block averages, only the volumes of the blocks.
    dof
        Degrees of freedom of the residuals.
    explained
        Share of the variance that conditions explain with this model, and with the alternative (without its
        hemodynamic response, or with one), each with the share expected by chance. None if unknown.
    """

    rows: pd.DataFrame
    patterns: Floats
    residuals: Floats
    dof: int
    explained: tuple[Share, Share] | None = None


class Betas(NamedTuple):
    """Betas of some regressors.

    Attributes
    ----------
    values, residuals, dof
        (regressors, voxels), (volumes, voxels), and the degrees of freedom of the residuals.
    variances
        Variance that noise of variance 1 gives each beta, or its difference from another beta where that is
        smaller, because RDMs are made of differences; infinite if the beta is not unique.
    inside
        Sum of squares of each regressor within the run.
    """

    values: Floats
    residuals: Floats
    dof: int
    variances: Floats
    inside: Floats


@dataclass(frozen=True, kw_only=True)
class RunModel:
    """Base class of the models of one run; a subclass has a ``name`` and a method ``fit``.

    Attributes
    ----------
    t_r
        Seconds between volumes (repetition time), in all models. By default it is read from the JSON sidecars
        of the image, also in higher BIDS folders, or else from its header.
    slice_time_ref
        Time of a volume within the repetition time, from 0 (its start) to 1 (its end), as in nilearn. By
        default it is the ``StartTime`` of the sidecars, to which slices were corrected, or else 0.
    name
        Name of the model in ``read_patterns(model=)`` and in the provenance of patterns.
    takes_confounds
        Whether ``fit`` uses the confounds of a run.
    lag_notice
        Warning that is given if `Estimate.explained` is clearly better for the alternative. It can insert
        ``ratio`` and the settings.
    """

    t_r: float | None = None
    slice_time_ref: float | None = None

    name: ClassVar[str]
    takes_confounds: ClassVar[bool] = True
    lag_notice: ClassVar[str] = (
        "the other way to model the events explains {ratio:.1f} times as much of the signal"
    )

    def __post_init__(self) -> None:
        if self.slice_time_ref is not None:
            check_number("slice_time_ref", self.slice_time_ref, 0, 1)

    def fit(self, run: Run) -> Estimate:
        """Estimate the patterns of one run."""
        raise NeurordlError(f"{type(self).__name__} has no method fit(run)")


@dataclass(frozen=True, kw_only=True)
class GLM(RunModel):
    """General linear model with one regressor for each condition in each run.

    Attributes
    ----------
    hrf_model
        Model of the hemodynamic response, as in nilearn, such as "spm" or "glover". Use none if the events
        are already shifted by the hemodynamic lag, as in some public data sets.

        See nilearn's ``make_first_level_design_matrix``. If a model has derivatives, patterns are the betas
        of the main regressor.
    drift_model
        Model of slow drifts, as in nilearn: "cosine", "polynomial" or none.
    high_pass
        Highest frequency of "cosine" drifts, in Hz.
    drift_order
        Order of "polynomial" drifts.
    noise_model
        Model of the noise, as in nilearn: "ols" (independent), or autoregressive "ar1", "ar2" and so on.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.GLM(hrf_model="glover", noise_model="ar1").high_pass
    0.01
    """

    hrf_model: str | None = "spm"
    drift_model: str | None = "cosine"
    high_pass: float = 0.01
    drift_order: int = 1
    noise_model: str = "ols"

    name: ClassVar[str] = "glm"
    lag_notice: ClassVar[str] = (
        "the events explain {ratio:.1f} times as much of the signal without a hemodynamic response as with "
        "hrf_model={hrf_model!r}; if they are already shifted by the hemodynamic lag, use model='average', "
        "or GLM(hrf_model=None) (in the shell --hrf-model none)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.hrf_model, str | None):
            raise NeurordlError(f"hrf_model={self.hrf_model!r}: expected the name of a model, or None")
        if not re.fullmatch("ols|ar[1-9][0-9]*", str(self.noise_model)):
            raise NeurordlError(f"noise_model={self.noise_model!r}: expected 'ols' or 'ar1' ('ar2', ...)")

    def fit(self, run: Run) -> Estimate:
        """Estimate one pattern for each condition."""
        conditions = run.events["condition"].tolist()
        names = list(dict.fromkeys(conditions))
        fit = self.betas(run, conditions, names)
        return self.estimate(run, pd.DataFrame({"condition": names}), fit, conditions)

    def estimate(self, run: Run, rows: pd.DataFrame, fit: Betas, regressors: Sequence[str]) -> Estimate:
        """Leave out the betas that the run says next to nothing about, with a notice; see `_usable`."""
        usable = _usable(run, rows, fit, self.whole(run, regressors))
        return Estimate(rows[usable], fit.values[usable], fit.residuals, fit.dof, self.explained(run))

    def whole(self, run: Run, regressors: Sequence[str]) -> Floats:
        """Sum of squares of each regressor in a run that is long enough for all of its response."""
        step, onset = run.times[1] - run.times[0], run.events["onset"]
        before = int(np.ceil(max(0.0, run.times[0] - onset.min()) / step))
        after = max(0.0, (onset + run.events["duration"]).max() + RESPONSE - run.times[-1])
        times = step * np.arange(before + len(run.times) + int(np.ceil(after / step)))
        events = run.events.assign(onset=onset - run.times[0] + before * step)
        longer = replace(run, events=events, times=times, confounds=None, kept=None)
        design, columns = replace(self, drift_model=None).design(longer, regressors)
        return np.asarray((design[list(columns.values())] ** 2).sum(axis=0), dtype=np.float64)

    def betas(self, run: Run, regressors: Sequence[str], wanted: Sequence[str]) -> Betas:
        """Fit a GLM.

        Parameters
        ----------
        run
            The run.
        regressors
            The regressor to which each event belongs.
        wanted
            The regressors whose betas are returned.

        Raises
        ------
        NeurordlError
            No degrees of freedom are left.
        """
        from nilearn.glm.first_level import run_glm

        design, columns = self.design(run, regressors)
        names = list(design.columns)
        indices = [names.index(columns[regressor]) for regressor in wanted]
        X = np.where(_responding(design.to_numpy()), design.to_numpy(), 0.0)
        inside = (X**2).sum(axis=0)
        lengths = np.where(inside > 0, np.sqrt(inside), 1.0)
        _, spread, axes = np.linalg.svd(X / lengths, full_matrices=False)
        rank = int((spread > spread[0] * max(X.shape) * np.finfo(float).eps).sum())
        if rank >= len(X):
            problem = f"{X.shape[1]} regressors for {len(X)} volumes leave no degrees of freedom"
            raise NeurordlError(f"{run.name}: {problem}; check events, t_r and confounds, or leave some out")
        if rank < (inside > 0).sum():
            notice = f"{run.name}: the design matrix has rank {rank} for {X.shape[1]} regressors; "
            notify(notice + "the betas of dependent regressors are not unique")
        unique = (axes[:rank] ** 2).sum(axis=0)[indices] >= 1 - 1e-6
        variances = _variances((axes[:rank] / spread[:rank, None] / lengths)[:, indices], unique)
        labels, results = run_glm(run.data, X, noise_model=self.noise_model)
        betas, residuals = np.empty((len(indices), run.data.shape[1])), np.empty_like(run.data)
        for label, result in results.items():
            voxels = labels == label
            betas[:, voxels] = result.theta[indices]
            residuals[:, voxels] = result.residuals
        return Betas(betas, residuals, len(X) - rank, variances, inside[indices])

    def explained(self, run: Run) -> tuple[Share, Share] | None:
        """Return the shares of the variance that conditions explain with this HRF and without one.

        None if there is no HRF, or if events are shorter than the time between volumes.
        """
        times, durations = run.times, run.events["duration"]
        if self.hrf_model is None or len(times) < 2 or (durations < times[1] - times[0]).any():
            return None
        shares = []
        for model in (self, replace(self, hrf_model=None)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the fit gives the same warnings
                design, _ = model.design(run, run.events["condition"].tolist())
            X, conditions = design.to_numpy(), design.columns.str.startswith("regressor")
            if not _responding(X)[conditions].all():
                return None
            shares.append(_explained(run.data, X, conditions))
        return shares[0], shares[1]

    def design(self, run: Run, regressors: Sequence[str]) -> tuple[pd.DataFrame, dict[str, str]]:
        """Make the design matrix of a run.

        Parameters
        ----------
        run
            The run; its data are not used.
        regressors
            The regressor to which each event belongs.

        Returns
        -------
        (DataFrame, dict)
            The matrix, (volumes, columns), and the column of each regressor. Columns are numbered, because
            names can be any text.

        Raises
        ------
        NeurordlError
            nilearn cannot make the matrix, or it has several columns for a regressor.
        """
        from nilearn.glm.first_level import make_first_level_design_matrix

        columns = {name: f"regressor{k:06d}" for k, name in enumerate(dict.fromkeys(regressors))}
        events = run.events[["onset", "duration"]].assign(trial_type=[columns[name] for name in regressors])
        confounds = run.confounds if run.confounds is not None and run.confounds.shape[1] else None
        if confounds is not None:
            # on one scale, so that small ones are not lost in rounding; this moves no beta of a condition
            confounds = (confounds - confounds.mean()) / confounds.std(ddof=0).replace(0.0, 1.0)
            confounds = confounds.set_axis([f"confound{k:06d}" for k in range(confounds.shape[1])], axis=1)
        with explain(f"{run.name}: nilearn cannot make the design matrix"), warnings.catch_warnings():
            # nilearn warns of what the package says with names, and of events of 0 s
            known = "(?s).*(null duration|singular at working|divide by zero|Duplicated events)"
            warnings.filterwarnings("ignore", known)
            design: pd.DataFrame = make_first_level_design_matrix(
                run.times,
                events,
                hrf_model=self.hrf_model,
                drift_model=self.drift_model,
                high_pass=self.high_pass,
                drift_order=self.drift_order,
                add_regs=confounds,
                min_onset=_start(run),
            )
        if not set(columns.values()) <= set(design):  # FIR has a column for each delay
            problem = "has several regressors for each condition; choose a model with one, such as 'spm'"
            raise NeurordlError(f"hrf_model={self.hrf_model!r} {problem}")
        return design if run.kept is None else design.iloc[run.kept], columns


@dataclass(frozen=True, kw_only=True)
class LSA(GLM):
    """Least squares all: one GLM with one regressor for each trial (Rissman et al., 2004).

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.LSA(noise_model="ar1").name
    'lsa'
    """

    name: ClassVar[str] = "lsa"

    def fit(self, run: Run) -> Estimate:
        """Estimate one pattern for each trial."""
        trials = [f"trial {row}" for row in range(len(run.events))]
        return self.estimate(run, _trial_rows(run), self.betas(run, trials, trials), trials)


@dataclass(frozen=True, kw_only=True)
class LSS(GLM):
    """Least squares separate: one GLM for each trial, in which the trial has a regressor of its own.

    The other trials share one regressor for each condition. See Mumford et al. (2012, NeuroImage 59:2636) and
    Turner et al. (2012). The residuals are those of the GLM with one regressor for each condition.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.LSS(hrf_model="spm").name
    'lss'
    """

    name: ClassVar[str] = "lss"

    def fit(self, run: Run) -> Estimate:
        """Estimate one pattern for each trial."""
        conditions = run.events["condition"].tolist()
        fits = []
        for row in range(len(conditions)):
            regressors = [f"other {condition}" for condition in conditions]
            regressors[row] = "trial"
            fits.append(self.betas(run, regressors, ["trial"])._replace(residuals=run.data[:0]))
        values, variances, inside = (
            np.concatenate([getattr(fit, name) for fit in fits]) for name in ("values", "variances", "inside")
        )
        fit = self.betas(run, conditions, list(dict.fromkeys(conditions)))
        fit = fit._replace(values=values, variances=variances, inside=inside)
        return self.estimate(run, _trial_rows(run), fit, [f"trial {row}" for row in range(len(conditions))])


@dataclass(frozen=True, kw_only=True)
class Average(RunModel):
    """Mean of the volumes during the events of each condition, without a hemodynamic response.

    Attributes
    ----------
    detrend
        Remove the linear trend of each voxel, but not its mean, from each run first.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.Average(detrend=False).takes_confounds
    False
    """

    detrend: bool = False

    name: ClassVar[str] = "average"
    takes_confounds: ClassVar[bool] = False
    lag_notice: ClassVar[str] = (
        "the events explain {ratio:.1f} times as much of the signal with a hemodynamic response as without, "
        "as block averages use them; unless they are already shifted by the hemodynamic lag, use model='glm'"
    )

    def fit(self, run: Run) -> Estimate:
        """Average the volumes of each condition.

        Raises
        ------
        NeurordlError
            No volume was taken during the events of a condition.
        """
        from scipy.signal import detrend

        data = run.data
        if self.detrend:
            data = detrend(data, axis=0, type="linear") + data.mean(axis=0)
        names = list(dict.fromkeys(run.events["condition"]))
        patterns, residuals = np.empty((len(names), data.shape[1])), []
        for row, condition in enumerate(names):
            during = np.zeros(len(run.times), dtype=bool)
            for event in run.events[run.events["condition"] == condition].itertuples():
                # a volume at the very end belongs to the next event; times are sums of decimals
                start, end = event.onset - 1e-6, event.onset + event.duration - 1e-6
                during |= (run.times >= start) & (run.times < end)
            if not during.any():
                raise NeurordlError(f"{run.name}: no volume was taken during {condition!r}; use model='glm'")
            patterns[row] = data[during].mean(axis=0)
            residuals.append(data[during] - patterns[row])
        stacked, explained = np.concatenate(residuals), GLM().explained(run)
        rows, dof = pd.DataFrame({"condition": names}), len(stacked) - len(names)
        return Estimate(rows, patterns, stacked, dof, explained and explained[::-1])


MODELS: dict[str, type[RunModel]] = {model.name: model for model in (GLM, LSA, LSS, Average)}


def find_model(model: ModelName | RunModel) -> RunModel:
    """Return a model as it is, or the one with this name and the default settings."""
    if isinstance(model, RunModel):
        return model
    name = check_choice("model", model, tuple(MODELS), "or a model with its settings, such as GLM()")
    return MODELS[name]()


def warn_of_lag(model: RunModel, estimates: Sequence[Estimate]) -> None:
    """Give a notice where the signal follows the events in another way than the model has it."""
    shares = [estimate.explained for estimate in estimates if estimate.explained is not None]
    if not shares:
        return
    (share, chance), (other, other_chance) = np.sum(shares, axis=0)
    more = other >= _MORE_THAN_MODEL * share and other >= _MORE_THAN_CHANCE * other_chance
    if more and other - other_chance >= _MORE_THAN_MODEL * (share - chance):
        notice = model.lag_notice.format(ratio=other / max(share, 1e-12), **asdict(model))
        notify(notice)


def _trial_rows(run: Run) -> pd.DataFrame:
    rows = run.events[["condition", "onset"]].copy()
    rows.insert(1, "trial", rows.groupby("condition").cumcount() + 1)
    return rows


def _variances(factor: Floats, unique: Bools) -> Floats:
    """Variances of betas, or of their smallest difference from another; see `Betas`.

    Parameters
    ----------
    factor
        (rank, betas), whose inner products are the covariances of the betas.
    unique
        Which betas are unique.
    """
    from scipy.spatial.distance import pdist, squareform

    variances = np.where(unique, (factor**2).sum(axis=0), np.inf)
    differences = squareform(pdist(factor.T, "sqeuclidean"))
    differences[~unique], differences[:, ~unique] = np.inf, np.inf
    np.fill_diagonal(differences, np.inf)
    return np.asarray(np.minimum(variances, differences.min(axis=0, initial=np.inf)))


def _usable(run: Run, rows: pd.DataFrame, fit: Betas, whole: Floats) -> Bools:
    """Which betas say something about their event, with a notice of the others, which are mostly noise.

    Variances are compared for responses of one size, so that conditions with few or short events count as
    they are: those of trials with the median of the run, those of conditions with the smallest, because half
    of a few conditions may be as bad.
    """
    unseen = fit.inside <= _LEAST_SEEN * whole
    unlike = ~unseen & ~np.isfinite(fit.variances)
    scaled = np.where(unseen | unlike, np.nan, fit.variances * whole)
    usable = ~(unseen | unlike)
    are_trials = "onset" in rows
    usual = (np.nanmedian if are_trials else np.nanmin)(scaled) if usable.any() else 1.0
    noisy = usable & (scaled > _NOISIEST**2 * usual)
    usable &= ~noisy
    reference = "median" if are_trials else "best condition"
    reasons = {
        f"of {{}} less than {_LEAST_SEEN:.0%} of the response lies within the volumes of the run": unseen,
        "{} cannot be separated from other regressors": unlike,
        f"of {{}} the noise is more than {_NOISIEST:g} times that of the {reference}": noisy,
    }
    names = [f"{name!r}" for name in rows["condition"]]
    if are_trials:
        names = [f"{name} at {onset:g} s" for name, onset in zip(names, rows["onset"], strict=True)]
    for reason, chosen in reasons.items():
        if chosen.any():
            problem = f"{run.name}: {reason.format(listed(compress(names, chosen)))}"
            count = f"{chosen.sum()} of {len(rows)} patterns"
            if not usable.any():
                raise NeurordlError(f"{problem} ({count}), and no pattern is left; check events and t_r")
            notify(f"{problem}: {count} left out")
    if usual > _NOISIEST**2:
        notice = (
            f"{run.name}: the noise of the patterns is {np.sqrt(usual):.0f} times that of events alone in a"
        )
        notify(f"{notice} run, because they overlap with others or with regressors")
    return usable


def _start(run: Run) -> float:
    """Seconds from the first volume to the first time of nilearn's fine grid: its default, or earlier."""
    early = run.times[0] - run.events["onset"].min() - 24.0
    step = run.times[1] - run.times[0] if len(run.times) > 1 else 1.0
    return -24.0 - max(0.0, float(np.ceil(early / step))) * float(step)


def _responding(X: Floats) -> Bools:
    """Which regressors are larger than what nilearn adds to a singular matrix."""
    return np.asarray(np.abs(X).max(axis=0) > 1e-10)


def _explained(data: Floats, X: Floats, chosen: Bools) -> Share:
    """Share of the variance beside the other regressors that the chosen ones explain, and by chance.

    Chance is the mean share that the same regressors explain at other times of the run: noise that is smooth
    in time is more similar to smooth regressors than to others. Shares are sums over voxels.

    Parameters
    ----------
    data, X
        (volumes, voxels), (volumes, regressors).
    chosen
        (regressors,)
    """
    from scipy.linalg import orth

    rest = orth(X[:, ~chosen], rcond=1e-10)
    variance = np.einsum("ij,ij->j", data, data) - ((rest.T @ data) ** 2).sum(axis=0)
    varying = variance > 0

    def share(columns: Floats) -> float:
        basis = orth(columns - rest @ (rest.T @ columns), rcond=1e-10)
        return float((((basis.T @ data) ** 2).sum(axis=0)[varying] / variance[varying]).sum())

    steps = [len(X) * k // (_N_SHIFTS + 1) for k in range(1, _N_SHIFTS + 1)]
    return share(X[:, chosen]), float(np.mean([share(np.roll(X[:, chosen], step, axis=0)) for step in steps]))
