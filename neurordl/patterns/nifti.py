"""Brain measurements in NIfTI files -> patterns of conditions or trials."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.errors import NeurordlError
from neurordl.patterns.betas import betas_with_rows
from neurordl.patterns.glm import Estimate, Model, changed, check_model, estimate
from neurordl.patterns.lag import tell_of_lag
from neurordl.patterns.sidecars import volume_times
from neurordl.patterns.study import Study, runs_of, sessions_of, subject_of
from neurordl.patterns.tables import (
    Table,
    fmriprep_confounds,
    matched,
    read_confounds,
    read_events,
    table_name,
)
from neurordl.patterns.volumes import Image, Names, load_image, read_mask

__all__ = ["read_patterns"]

Floats = npt.NDArray[np.float64]


def read_patterns(
    images: Image | Sequence[Image],
    mask: Image | None = None,
    events: Table | Sequence[Table] | None = None,
    *,
    table: Table | None = None,
    labels: Names | None = None,
    rois: str | Sequence[str] | None = None,
    model: Model = "glm",
    condition: str = "trial_type",
    leave_out: Sequence[str] = (),
    t_r: float | None = None,
    slice_time_ref: float = 0.0,
    hrf_model: str | None = "spm",
    drift_model: str | None = "cosine",
    high_pass: float = 0.01,
    drift_order: int = 1,
    noise_model: str = "ols",
    confounds: Table | Sequence[Table] | None = None,
    confound_columns: Sequence[str] | None = None,
    fmriprep: Sequence[str] | None = None,
    detrend: bool = False,
    subject: str | None = None,
    session: str | Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    residuals: bool = False,
) -> Any:
    """Patterns of one subject from NIfTI images: BOLD with events, or betas with a table.

    Parameters
    ----------
    images
        One image or several, 3D or 4D, files or nibabel images. With ``events`` each is the BOLD series of a
        run; with ``table`` their volumes, one after another, are betas.
    mask
        A binary mask, or an atlas with names in ``labels``; on another grid it is resampled, with a warning.
    events
        For each image a BIDS ``events.tsv`` or a DataFrame: ``onset``, ``duration`` (seconds) and
        ``condition``; other columns (``modulation``, say) are not used. Files are matched with images by the
        entities of their names (``run-01`` and so on) where all have them, else by order, which names
        must not contradict.
    table
        Of betas: a TSV or CSV file or a DataFrame with one row per volume and the column ``stimulus`` (or
        ``condition``), where it applies ``run`` and ``session``; other columns become descriptors too. A
        column ``image`` names the file of each row: then 3D images are matched by it, in any order.
        Subjects, sessions and runs in it must be those of the images' names.
    labels, rois
        Of an atlas: number and name of each label (a mapping, or a table with ``index`` and ``name``), and
        the ROIs to keep; of a binary mask, its name. Patterns then carry the channel descriptor ``roi``.
    model
        All but "average" put a haemodynamic response (``hrf_model``) on the events, which is wrong for events
        that are already shifted by its lag, as those of some public data sets are: take "average" for
        these, or ``hrf_model=None``. "glm": one regressor a condition and run. "lsa": one a trial (least
        squares all; Rissman et al. 2004). "lss": for each trial a GLM of that trial beside the others, by
        condition (least squares separate; Mumford et al. 2012, NeuroImage 59:2636; Turner et al. 2012).
        "average": the mean of the volumes taken during a condition's events, without any HRF.
    condition, leave_out
        The column of the conditions' names; conditions that are modelled but get no pattern, such as "rest".
    t_r, slice_time_ref
        Seconds between volumes (else from the image's JSON sidecars, those of higher BIDS folders included,
        or the header), and when within that time a volume counts as taken, from 0 to 1.
    hrf_model, drift_model, high_pass, drift_order, noise_model
        Of the GLM, as in nilearn's ``make_first_level_design_matrix`` and ``run_glm`` ("ols" or "ar1").
    confounds, confound_columns
        For each image a table with one row per volume (matched like events), and the columns to take.
    fmriprep
        Strategies of nilearn's ``load_confounds`` ("motion", "wm_csf", "high_pass", "scrub", ...), which
        finds fMRIPrep's confounds beside each image. Volumes that it excludes do not enter the GLM.
    detrend
        With "average": remove each voxel's linear trend in each run first.
    subject, session, runs
        Names, by default from the files' ``sub-``, ``ses-`` and ``run-``; without these, the runs are run-1,
        run-2 and so on in the order of the images.
    residuals
        Give also the residuals, for ``compute_rdms(patterns, noise=Noise(..., residuals))``.

    Returns
    -------
    Dataset, or (Dataset, Dataset)
        Patterns (rows, voxels), float64. Observation descriptors: ``stimulus``, ``run``, ``session`` where
        there is one, for single trials ``trial`` and ``onset``. Channel descriptors: ``x``, ``y``, ``z``
        (voxel indices), with an atlas ``roi``. Descriptors: ``subject`` where known, and ``provenance``, JSON
        of what was done. Residuals (volumes, voxels): with ``run`` and ``dof``, the degrees of freedom of the
        run.

    Warns
    -----
    UserWarning
        Names do not tell which tables are which image's, something was resampled, voxels were dropped (NaN or
        infinite anywhere, or constant in a run), the sidecars say other times than are taken, or the signal
        follows the events as if they were shifted already (or, with "average", as if they were not).

    Raises
    ------
    NeurordlError
        A file that is absent, damaged or no NIfTI, a mask that is empty or an atlas without names, events
        outside their run, tables that do not fit, several subjects, or no voxel left.
    """
    given = _each(images, (str, os.PathLike, nib.Nifti1Image), "images")
    if not given or (events is None) == (table is None):
        raise NeurordlError(
            "read_patterns takes one image or more, and either events= (BOLD) or table= (betas, one row per "
            "volume)"
        )
    opened = [load_image(image, "image") for image in given]
    names = [name for _, name in opened]
    own_sessions = sessions_of(
        names, session if isinstance(session, str | None) else _each(session, (), "session")
    )
    named_runs = None if runs is None else _each(runs, (str,), "runs")
    study = Study(
        opened,
        read_mask(mask, opened[0][0], labels, None if rois is None else _each(rois, (str,), "rois")),
        subject_of(names, subject),
        own_sessions,
        runs_of(names, own_sessions, named_runs, unique=table is None),
    )
    design: dict[str, Any] = {
        **{"hrf_model": hrf_model, "drift_model": drift_model, "high_pass": high_pass},
        **{"drift_order": drift_order, "noise_model": noise_model},
    }
    if confound_columns is not None and confounds is None:
        raise NeurordlError("confound_columns= are of the tables in confounds=; give both")
    if table is not None:
        of_bold = {"residuals": residuals, "leave_out": leave_out, "confounds": confounds is not None}
        of_bold |= {"fmriprep": fmriprep, "detrend": detrend, "t_r": t_r is not None}
        of_bold |= {"model": model != "glm", "slice_time_ref": slice_time_ref}
        of_bold |= dict.fromkeys(changed(design), True)
        if asked := [name for name, value in of_bold.items() if value]:
            raise NeurordlError(
                f"{asked[0]}= is for BOLD, and table= takes betas as they are: leave it out (betas come "
                "without residuals: compute_rdms can estimate the noise from repeated measurements)"
            )
        named = [key for key, given in (("run", runs), ("session", session)) if given is not None]
        return betas_with_rows(study, table, condition, named)
    check_model(model, detrend, confounds is not None or fmriprep is not None, design)
    settings = {
        "model": model,
        "condition": condition,
        "leave_out": _each(leave_out, (str,), "leave_out"),
        "slice_time_ref": slice_time_ref,
        **({"detrend": detrend} if model == "average" else design),
    }
    files = (str, os.PathLike, pd.DataFrame)
    beside = [
        None if events is None else _each(events, files, "events"),
        None if confounds is None else _each(confounds, files, "confounds"),
    ]
    patterns, left = _bold(study, beside, settings, t_r, confound_columns, fmriprep)
    return (patterns, left) if residuals else patterns


def _bold(
    study: Study,
    beside: Sequence[list[Table] | None],
    settings: Mapping[str, Any],
    t_r: float | None,
    columns: Sequence[str] | None,
    fmriprep: Sequence[str] | None,
) -> tuple[Dataset, Dataset]:
    """Patterns and residuals of all runs."""
    tables, regressors = beside
    assert tables is not None
    of_events = matched(study.names, tables, "events")
    of_confounds = None if regressors is None else matched(study.names, regressors, "confounds")
    series, kept, told = study.read()
    found: list[Estimate] = []
    there: dict[str, None] = {}
    notes: list[dict[str, Any]] = []
    for k, (image, name) in enumerate(study.images):
        if image.ndim != 4:
            raise NeurordlError(
                f"{name} has shape {image.shape}; expected a 4D BOLD series (betas come with table=)"
            )
        step, times = volume_times(image, name, t_r, settings["slice_time_ref"])
        n = len(series[k])
        own, label = tables[of_events[k]], table_name(tables[of_events[k]], of_events[k])
        happened = read_events(own, label, settings["condition"], n * step)
        confounds, volumes = (None, None) if fmriprep is None else fmriprep_confounds(name, fmriprep, n)
        if regressors is not None and of_confounds is not None:
            mine = regressors[of_confounds[k]]
            more = read_confounds(mine, table_name(mine, of_confounds[k]), columns, n)
            confounds = more if confounds is None else pd.concat([confounds, more], axis=1)
        one = estimate(
            series[k],
            happened,
            times,
            settings["model"],
            detrend=bool(settings.get("detrend")),
            confounds=confounds,
            kept=volumes,
            design=settings,
            name=name,
        )
        there |= dict.fromkeys(one.rows["condition"])
        wanted = ~one.rows["condition"].isin(settings["leave_out"]).to_numpy()
        found.append(one._replace(rows=one.rows[wanted], patterns=one.patterns[wanted]))
        note = {"run": study.runs[k], "t_r": step, "volumes": n, "events": Path(label).name, "dof": one.dof}
        if settings["model"] != "average":
            note["confounds"] = 0 if confounds is None else confounds.shape[1]
            note["excluded"] = 0 if volumes is None else n - len(volumes)
        notes.append(note)
    if unknown := [name for name in settings["leave_out"] if name not in there]:
        raise NeurordlError(
            f"leave_out= names {unknown[0]!r}, which no run has; the conditions are {', '.join(there)}"
        )
    if not any(len(one.rows) for one in found):
        raise NeurordlError(f"leave_out= leaves no condition of {', '.join(settings['leave_out'])}")
    tell_of_lag([one.explained for one in found], settings["model"], settings.get("hrf_model"))
    made = {**settings, **told, "runs": notes}
    return (
        study.dataset(
            np.concatenate([one.patterns for one in found]),
            _rows(study, [one.rows for one in found]),
            kept,
            made,
        ),
        study.dataset(
            np.concatenate([one.residuals for one in found]),
            _rows(study, [pd.DataFrame({"dof": [one.dof] * len(one.residuals)}) for one in found]),
            kept,
            made,
        ),
    )


def _rows(study: Study, frames: Sequence[pd.DataFrame]) -> dict[str, list[Any]]:
    """Observation descriptors of the rows of all runs."""
    labelled = []
    for k, frame in enumerate(frames):
        own = frame.rename(columns={"condition": "stimulus"}).assign(run=study.runs[k])
        labelled.append(own if study.sessions is None else own.assign(session=study.sessions[k]))
    together = pd.concat(labelled, ignore_index=True)
    return {str(name): values.tolist() for name, values in together.items()}


def _each(given: Any, one: tuple[type, ...], what: str) -> list[Any]:
    """One thing or several, as a list."""
    if isinstance(given, one):
        return [given]
    if not isinstance(given, Iterable):
        raise NeurordlError(f"{what}= is {given!r:.60}; expected one or several of what it takes")
    return list(given)
