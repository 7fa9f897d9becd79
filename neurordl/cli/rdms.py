"""The commands ``rdm`` and ``merge`` of the shell, which write files of RDMs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurordl.cli.options import Calls, Takes, app, command
from neurordl.cli.origin import (
    Origin,
    checksum,
    contents_of,
    is_finished,
    option_paths,
    origin_of,
    save_with_origin,
    settings_of,
)
from neurordl.cli.sources import number_subjects
from neurordl.errors import NeurordlError, collect_notices, notices, notify
from neurordl.io import read_json, write_json
from neurordl.validate import counted, listed

if TYPE_CHECKING:
    import pandas as pd
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm.rdms import RDMs

    from neurordl.patterns.fmri import BidsSubject
    from neurordl.patterns.models import RunModel

_WRITTEN = (".h5", ".hdf5")  # the files that commands write
_FEW_ROIS = 6  # up to so many, each has a column
# columns of the report with counts, and what they are
_COUNTED = {"runs": "", "patterns": "", "stimuli": "", "voxels": ""}
_COUNTED |= {"dropped": "voxels with NaN or infinity, or constant in a run"}
_COUNTED |= {"excluded": "volumes that the strategies of --fmriprep leave out"}
_COUNTED |= {"NaN pairs": "pairs of stimuli that are not measured"}


@command(
    app,
    bids=Takes("read_bids", "task space subjects sessions events_root", panel="Folder (BIDS)", optional=True),
    read_patterns=Takes("read_patterns", "events model leave_out", panel="Patterns"),
    names=Takes("read_patterns", "condition subject session runs", panel="Patterns"),
    mask=Takes("Regions", "image:mask labels rois", panel="Patterns", optional=True),
    confounds=Takes("Confounds", "tables:confounds columns:confound_columns fmriprep", panel="Patterns"),
    glm=Takes("GLM", panel="Model (glm, lsa and lss)"),
    average=Takes("Average", "detrend", panel="Model (average)"),
    compute_rdms=Takes(
        "compute_rdms", "dissimilarity center", panel="RDMs", defaults={"dissimilarity": "crossnobis"}
    ),
    noise=Takes("Noise", "estimator:noise by:noise_by", panel="RDMs", optional=True),
)
def rdm(
    images: list[Path],
    /,
    out: Path,
    table: Path | None = None,
    each_session: bool = False,
    overwrite: bool = False,
    *,
    call: Calls,
) -> None:
    """Compute RDMs from a folder of fMRIPrep, from BOLD images and events, or from betas.

    Of a folder, the RDMs of all subjects and ROIs are written into a single file. If the command is
    interrupted, the same command goes on where it stopped: finished subjects are kept in the folder
    OUT.parts until the file is written.

    Parameters
    ----------
    images
        A folder with the images of all subjects (BIDS derivatives, or the data set that holds them), whose
        --task is read. Or images of a single subject (NIfTI, GIFTI of both hemispheres, or CIFTI): the BOLD
        series of each run, or betas, which --table describes.
    out
        The .h5 file to write. If it exists and was made of the same files with the same settings, nothing is
        computed; otherwise the command says what differs, and --overwrite replaces it.
    overwrite
        Replace an earlier file that was made of other files or with other settings.
    table
        Table of betas (TSV or CSV) with one row per volume and the column stimulus. It can also have the
        columns run and session, and a column image with the name of the 3D image of each row.
    each_session
        Compute an RDM for each session, with its name. By default the sessions of a subject are pooled.
    mask
        A binary mask, or an atlas with --labels: a NIfTI image, or for images on a surface GIFTI, .annot or
        CIFTI, where {hemi} stands for the marks of both hemispheres (L and R, or lh and rh). For a folder,
        {subject} in its path stands for the subject, such as sub-01, and brain for the brain masks of
        fMRIPrep, the default.
    task
        Task of the images to read in a folder, their BIDS entity.
    space
        Space of the images to read in a folder, their BIDS entity, which may name the resolution, too
        (MNI152_res-2). By default images without a space are read, which are in the grid of each run.
    subjects
        Subjects of a folder, with or without sub-. By default all are read.
    sessions
        Sessions of a folder, with or without ses-. By default all are read, and are pooled in the RDM of a
        subject.
    events_root
        Folder with the events, which has the same subfolders as the folder of the images. By default it is
        that folder, or the data set in whose derivatives it is.
    events
        Events of each image: BIDS events.tsv with onset and duration in seconds and the names of the stimuli
        (--condition). They are matched by name (run-01 and so on), else by order. A folder has its own.
    subject
        Name of the subject of images. By default it is read from the names of the files (sub-).

    Examples
    --------
    neurordl rdm study/derivatives/fmriprep --task objects --space MNI152NLin2009cAsym --mask atlas.nii.gz
    --labels atlas.tsv --fmriprep motion,wm_csf --noise shrinkage_diag --out objects.h5

    neurordl rdm sub-01_run-*_bold.nii.gz --events sub-01_run-*_events.tsv --mask it.nii.gz --out it.h5
    """
    _check_out(out)
    if any(path.is_dir() for path in images):
        if len(images) > 1:
            raise NeurordlError(f"{listed(images, most=2)}: expected one folder, or images alone")
        _rdms_of_folder(images[0], out, table, each_session, overwrite, call)
        return
    for name in call.bids.words:
        raise NeurordlError(f"{name}= is for a folder, and these are images: leave it out")
    origin = settings_of(call, images=images, table=table, each_session=each_session)
    named = [*_expanded(option_paths(call)), *([table] if table else [])]
    origin |= contents_of(dict.fromkeys([*_with_tables(images), *named]))
    if out.exists() and is_finished(out, origin, origin_of(out), overwrite, "RDMs"):
        return
    import neurordl as nrl

    residuals = None
    if table is None:
        options = {"model": _model(call), "confounds": call.confounds(), **call.names.values}
        patterns, residuals = call.read_patterns(images, call.mask(), residuals=True, **options)
    else:
        for name in (*call.read_patterns.words, *call.confounds.words, *call.glm.words, *call.average.words):
            raise NeurordlError(f"{name}= is for BOLD, and --table reads betas as they are: leave it out")
        patterns = nrl.read_betas(images, table, call.mask(), **call.names.values)
    rdms, parts = _compute(call, patterns, residuals, each_session)
    save_with_origin(rdms, out, origin)
    reliability, reason = _reliability(call, parts)
    texts = [f"not computed, {reason}"] if reason else [f"r = {value:.3f}" for value in reliability]
    typer.echo(f"{_describe_patterns(patterns)}\n\n{_describe_rdms(rdms, texts)}\n")
    typer.echo(f"{out} holds {counted(rdms.n_rdm, 'RDM')}")
    if "subject" not in rdms.rdm_descriptors:
        typer.echo("note: the names of the images do not say which subject they are of; --subject names it")


def _with_tables(images: Sequence[Path]) -> list[Path]:
    """Images, with the files beside them that may be read with them."""
    from neurordl.patterns.bids import find_sidecars

    files = dict.fromkeys(images)
    for image in images:
        with suppress(NeurordlError):  # an error where they are read
            files |= dict.fromkeys([*find_sidecars(image), *image.parent.glob("*_desc-confounds_*")])
    return list(files)


def _check_out(out: Path) -> None:
    if not out.parent.is_dir() or out.suffix not in _WRITTEN:
        raise NeurordlError(f"--out {out}: expected a file named .h5, in a folder that exists")


def _model(call: Calls) -> RunModel:
    """The model of a run with its settings; a setting of another model is an error."""
    from neurordl.patterns.models import MODELS

    model, settings = MODELS[call.read_patterns.values["model"]], {**call.glm.values, **call.average.values}
    chosen = [*call.glm.words, *call.average.words]
    for name in chosen:
        if name not in model.__dataclass_fields__:
            able = listed(key for key, known in MODELS.items() if name in known.__dataclass_fields__)
            raise NeurordlError(f"{name}= is of --model {able}, not of {model.name}; leave it out")
    return model(**{name: settings[name] for name in chosen})


# a folder


def _rdms_of_folder(
    folder: Path, out: Path, table: Path | None, each_session: bool, overwrite: bool, call: Calls
) -> None:
    """Write the RDMs of all subjects into a file, with the memory of one; finished subjects are kept."""
    import neurordl as nrl
    from neurordl.experiments import ROWS, SETTINGS, run_grid
    from neurordl.patterns.fmri import find_bids

    words = {**call.read_patterns.words, **call.names.words, **({} if table is None else {"table": []})}
    for name in ("table", "events", "subject", "session", "runs"):
        if name in words:
            raise NeurordlError(f"{name}= is for images, and {folder} is a folder: leave it out")
    if call.bids.absent:
        raise NeurordlError(f"{folder} is a folder: --task NAME says which of its images to read")
    parts, computed = out.with_name(f"{out.name}.parts"), list[str]()
    if parts.is_dir() and not (parts / SETTINGS).exists() and {*parts.iterdir()} - {parts / ROWS}:
        problem = f"{parts}, the folder for finished subjects, holds files that this command did not write"
        raise NeurordlError(f"{problem}; move or rename it, or choose another --out")
    subjects = {subject.name: subject for subject in find_bids(folder, **call.bids.values)}
    options = {"model": _model(call), "confounds": call.confounds(), "mask": call.mask() or "brain"}
    options |= {name: call.read_patterns.values[name] for name in ("leave_out",)} | call.names.values
    settings = settings_of(call, folder=folder, each_session=each_session)
    settings.pop("subjects", None)  # others can be added later
    stamps = {name: _stamp(subject, option_paths(call)) for name, subject in subjects.items()}
    origin = {**settings, "subjects": ", ".join(subjects)}
    origin |= {f"the files of {name}": stamp for name, stamp in stamps.items()}
    if out.exists() and is_finished(out, origin, origin_of(out), overwrite, "RDMs"):
        _remove_finished(parts, settings)  # of a command that was interrupted at its very end
        return

    def compute(subject: str, files: str) -> dict[str, float]:
        with collect_notices():
            rdms, row, texts = _rdms_of_subject(subjects[subject], each_session, call, options)
        nrl.save_rdms(rdms, parts / f"{subject}_{files}.h5")
        write_json(parts / f"{subject}_{files}.json", texts)
        computed.append(subject)
        return row

    jobs = [{"subject": name, "files": stamp[:16]} for name, stamp in stamps.items()]
    rows = run_grid(jobs, compute, parts, fingerprint=settings).drop(columns="files")
    names = {str(job["subject"]): "_".join(job.values()) for job in jobs}
    for text in (text for name in names.values() for text in read_json(parts / f"{name}.json")):
        notify(text)  # of those that were finished before, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of missing pairs, which were counted
        each = {subject: nrl.load_rdms(parts / f"{name}.h5") for subject, name in names.items()}
    rdms = nrl.merge_rdms(each, missing="nan")
    save_with_origin(rdms, out, origin)
    _remove_parts(parts, parts / ROWS, parts / SETTINGS)
    typer.echo(_describe_subjects(rows, rdms))
    if len(computed) < len(subjects):
        before, number = len(subjects) - len(computed), counted(len(subjects), "subject")
        typer.echo(f"{before} of {number} had been computed before")
    counts = f"{counted(rdms.n_rdm, 'RDM')} of {counted(len(subjects), 'subject')}"
    typer.echo(f"{out} holds {counts} and {rdms.n_cond} stimuli")


def _remove_finished(parts: Path, settings: Origin) -> None:
    """Remove what is left of the parts of a finished file, if they have its settings."""
    from neurordl.experiments import ROWS, SETTINGS

    if (parts / SETTINGS).is_file() and read_json(parts / SETTINGS) == json.loads(json.dumps(settings)):
        _remove_parts(parts, parts / ROWS, parts / SETTINGS)
    with suppress(OSError):  # not empty, or there is none
        parts.rmdir()


def _remove_parts(parts: Path, rows: Path, settings: Path) -> None:
    """Remove what `_rdms_of_folder` wrote, also for earlier files of a subject; nothing else."""
    checksum = "[0-9a-f]" * 8
    for place, ending in ((rows, f"{checksum}.json"), (parts, 2 * checksum + ".*")):
        for file in place.glob(f"sub-*_{ending}"):
            if file.suffix in (".h5", ".json"):
                file.unlink()
    with suppress(OSError):  # not empty
        rows.rmdir()
    settings.unlink()  # last: what is interrupted before can go on
    try:
        parts.rmdir()
    except OSError:
        notify(f"{parts} is kept, as it holds files that this command did not write")


def _rdms_of_subject(
    subject: BidsSubject, each_session: bool, call: Calls, options: Mapping[str, Any]
) -> tuple[RDMs, dict[str, float], list[str]]:
    """The RDMs of a subject, a row of the report, and the notices."""
    import numpy as np

    patterns, residuals = subject.read(**options)
    rdms, parts = _compute(call, patterns, residuals, each_session)
    texts = notices()
    record = json.loads(patterns.descriptors["provenance"])
    row = {
        "runs": len(record["runs"]),
        "patterns": patterns.n_obs,
        "stimuli": rdms.n_cond,
        "voxels": _n_channels(record),
        "dropped": record["dropped_nan"] + record["dropped_constant"],
        "excluded": sum(run.get("excluded", 0) for run in record["runs"]),
        "NaN pairs": int(np.isnan(rdms.dissimilarities).sum()),
    }
    reliability, reason = _reliability(call, parts)
    texts += [f"the reliability is not computed: {reason}"] if reason else []
    described = [rdms.rdm_descriptors[name] for name in ("session", "roi") if name in rdms.rdm_descriptors]
    names = [" ".join(["r", *values]) for values in zip(*described, strict=True)] or ["r"]
    return rdms, row | dict(zip(names, reliability, strict=False)), texts


def _n_channels(record: Mapping[str, Any]) -> int:
    """How many voxels or vertices patterns have, by their provenance."""
    return int(next(record[noun] for noun in ("voxels", "vertices", "grayordinates") if noun in record))


def _stamp(subject: BidsSubject, paths: Sequence[Path]) -> str:
    """A checksum of all files on which the RDMs of a subject may depend, with those that options name."""
    beside = {file for image in subject.images for file in image.parent.iterdir() if file.is_file()}
    files = {*beside, *_with_tables(subject.images), *subject.events, *_expanded(paths, subject.name)}
    return checksum(file for file in files if file.is_file() and file.suffix not in _WRITTEN)


def _expanded(paths: Sequence[Path], subject: str = "") -> list[Path]:
    """The files that paths name, in which {subject} stands for the subject and {hemi} for each side."""
    names = [str(path).replace("{subject}", subject) for path in paths]
    return [Path(name.replace("{hemi}", mark)) for name in names for mark in ("L", "R", "lh", "rh")]


def _describe_subjects(rows: pd.DataFrame, rdms: RDMs) -> str:
    """A row for each subject: what was read, what was left out, and the reliability of the RDMs."""
    reliable = [str(name) for name in rows if f"{name} ".startswith("r ")]
    table = rows.drop(columns=reliable).astype({name: int for name in rows if name in _COUNTED})
    if len(reliable) > _FEW_ROIS:
        table["r median"], table["r lowest"] = rows[reliable].median(axis=1), rows[reliable].min(axis=1)
    else:
        table = table.join(rows[reliable])
    legend = [f"{name}: {text}" for name, text in _COUNTED.items() if text and rows[name].any()]
    legend += ["r: correlation of the RDMs of odd and even runs"] if reliable else []
    rois = list(dict.fromkeys(rdms.rdm_descriptors.get("roi", ())))
    pairs = set(zip(rdms.rdm_descriptors["subject"], rdms.rdm_descriptors.get("roi", ()), strict=False))
    absent = [f"{name} {roi}" for name in rows["subject"] for roi in rois if (name, roi) not in pairs]
    if absent:
        number = f"{counted(len(absent), 'RDM')} {'is' if len(absent) == 1 else 'are'}"
        legend.append(f"{number} absent, as no voxel of the ROI is left: {listed(absent)}")
    measure = f"measure   {rdms.dissimilarity_measure}"
    text = table.to_string(index=False, float_format="%.3f")
    return "\n".join([text, "", *legend, measure, *([f"ROIs      {listed(rois)}"] if rois else [])])


# what is printed of a single subject


def _describe_patterns(patterns: Dataset) -> str:
    """The images with their events, and which voxels, stimuli and patterns there are."""
    import pandas as pd

    record = json.loads(patterns.descriptors["provenance"])
    runs = pd.DataFrame(record.get("runs") or [], columns=["events", "run", "volumes", "t_r"])
    table = pd.concat([pd.Series(record["images"], name="image"), runs if len(runs) else None], axis=1)
    stimuli = list(dict.fromkeys(patterns.obs_descriptors["stimulus"]))
    resampled = " (resampled)" if record["mask_resampled"] else ""
    noun = "vertices" if "surface" in record else "voxels"
    detrended = " (detrended)" if record.get("detrend") else ""
    return (
        f"{table.to_string(index=False)}\n\n"
        f"mask      {record['mask']}{resampled}\n"
        f"{noun:<9} {_n_channels(record)} used; dropped {record['dropped_nan']} with NaN or infinity, "
        f"{record['dropped_constant']} constant in a run\n"
        f"stimuli   {len(stimuli)}: {listed(stimuli, most=8)}\n"
        f"patterns  {patterns.n_obs}, model {record['model']}{detrended}"
    )


def _compute(
    call: Calls, patterns: Dataset, residuals: Dataset | None, each_session: bool
) -> tuple[RDMs, list[tuple[Dataset, Dataset | None]]]:
    """The RDMs of patterns, and the patterns and residuals that each of them, or each ROI, is made of."""
    parts = [(patterns, residuals)]
    if each_session:
        if "session" not in patterns.obs_descriptors:
            raise NeurordlError("--each-session: the images have no session (ses-); leave it out, or name it")
        sessions = dict.fromkeys(patterns.obs_descriptors["session"])
        parts = [
            (_of_session(patterns, name), None if residuals is None else _of_session(residuals, name))
            for name in sessions
        ]
    noise = None if residuals is None else [part for _, part in parts]
    return call.compute_rdms([part for part, _ in parts], noise=call.noise(residuals=noise)), parts


def _of_session(dataset: Dataset, name: str) -> Dataset:
    """The rows of a session, with its name."""
    from neurordl.rdms.selection import take_rows

    rows = [row for row, session in enumerate(dataset.obs_descriptors["session"]) if session == name]
    part: Dataset = take_rows(dataset, rows)
    part.descriptors["session"] = name
    return part


def _reliability(call: Calls, parts: Sequence[tuple[Dataset, Dataset | None]]) -> tuple[list[float], str]:
    """The correlation of odd with even runs, for each RDM; or none, and why."""
    from neurordl.rdms.compute import odd_even_reliability

    values = list[float]()
    try:
        with warnings.catch_warnings():  # they are about all runs, and were shown
            warnings.simplefilter("ignore", UserWarning)
            for patterns, residuals in parts:
                options = {**call.compute_rdms.values, "noise": call.noise(residuals=residuals)}
                values += odd_even_reliability(patterns, **options).tolist()
    except NeurordlError as error:
        return [], str(error)
    return values, ""


def _describe_rdms(rdms: RDMs, reliability: Sequence[str]) -> str:
    """The range of each RDM, its missing pairs, and its reliability."""
    lines = [f"measure   {rdms.dissimilarity_measure}"]
    described = [name for name in ("subject", "session", "roi") if name in rdms.rdm_descriptors]
    for k, (values, r) in enumerate(zip(rdms.dissimilarities, cycle(reliability), strict=False)):
        label = " ".join(str(rdms.rdm_descriptors[name][k]) for name in described) or k
        measured = values[values == values]
        extent = f"distances {measured.min():.4g} to {measured.max():.4g}" if len(measured) else "no values"
        if missing := len(values) - len(measured):
            extent += f", {missing} of {len(values)} pairs are not measured"
        lines.append(f"RDM       {label}: {extent}; reliability (odd against even runs): {r}")
    return "\n".join(lines)


@command(
    app,
    load_rdms=Takes(
        "load_rdms", "subjects_from name labels measure layout similarity diagonal", panel="RDMs"
    ),
    merge_rdms=Takes("merge_rdms", "missing", panel="RDMs"),
)
def merge(
    files: list[Path],
    /,
    out: Path,
    subjects: Sequence[str] | None = None,
    roi: Sequence[str] | None = None,
    session: Sequence[str] | None = None,
    each_a_subject: bool = False,
    overwrite: bool = False,
    *,
    call: Calls,
) -> None:
    """Merge files with RDMs of several subjects, sessions or ROIs into one file, by stimulus id.

    All files need RDMs of the same dissimilarity. Two RDMs of the same subject, ROI and session are refused.

    Parameters
    ----------
    files
        Files with RDMs: .h5, .mat, .npz, .npy, .csv, .tsv or .json.
    out
        The .h5 file to write. If it exists and was made of the same files with the same settings, nothing is
        done; otherwise the command says what differs, and --overwrite replaces it.
    overwrite
        Replace an earlier file that was made of other files or with other settings.
    subjects
        The subject of each file, if the files do not name them: s01,s02,s03.
    roi
        The ROI of each file, or of all of them, if the files do not name it: IT,EVC.
    session
        The session of each file, or of all of them, if the files do not name it.
    each_a_subject
        Take each RDM in a file as that of a different subject, s01, s02 and so on in each file, if the files
        do not name them.
    subjects_from
        File with the names of the subjects, if the files do not name them: .txt with one name per line, or
        .csv or .tsv with a column subject or participant_id, such as participants.tsv. It names the subject
        of each file, or of each RDM if all files have the same subjects.

    Examples
    --------
    neurordl merge sub-*_it.h5 --out it.h5

    neurordl merge it.mat evc.mat --roi IT,EVC --subjects-from participants.tsv --labels stimuli.txt
    --out both.h5
    """
    _check_out(out)
    if repeated := [file for file in files if files.count(file) > 1]:
        raise NeurordlError(f"{repeated[0]} is named twice; name each file once")
    if out.resolve() in [file.resolve() for file in files]:
        raise NeurordlError(f"--out {out} is a file to merge, and would be overwritten; choose another")
    origin = settings_of(call, files=files, subjects=subjects, roi=roi, session=session)
    if each_a_subject:
        if subjects or call.load_rdms.values.get("subjects_from"):
            raise NeurordlError("--each-a-subject numbers the subjects, and they are named; leave one out")
        origin["each_a_subject"] = True
    origin |= contents_of([*files, *option_paths(call)])
    if out.exists() and is_finished(out, origin, origin_of(out), overwrite, "RDMs"):
        return
    from neurordl.rdms.files import SUBJECTS, read_names

    named = {
        name: values
        for name, values in (("subjects", subjects), ("roi", roi), ("session", session))
        if values
    }
    source = call.load_rdms.values.get("subjects_from")
    of_file = read_names(source, SUBJECTS) if source and not subjects else []
    if 1 < len(of_file) == len(files):
        named["subjects"] = of_file
    for name, values in named.items():
        if name != "subjects" and len(values) == 1:
            named[name] = list(values) * len(files)
        elif len(values) != len(files):
            counts = f"{counted(len(values), 'name')} for {counted(len(files), 'file')}"
            raise NeurordlError(f"{name}= has {counts}; name each of them")
    each: dict[str, RDMs] = {}
    for k, file in enumerate(files):
        names: dict[str, str | None] = {name: values[k] for name, values in named.items()}
        names |= {"subjects_from": None} if of_file and "subjects" in named else {}
        each[str(file)] = call.load_rdms(file, **names)
        if each_a_subject:
            number_subjects(each[str(file)], file)
        if "subjects_from" in names and each[str(file)].n_rdm == len(files):
            problem = f"{source} has a name for each file, and for each of the {len(files)} RDMs in {file}"
            raise NeurordlError(
                f"{problem}; name the subject of each file by --subjects, or merge fewer files"
            )
    rdms = call.merge_rdms(each)
    save_with_origin(rdms, out, origin)
    for name, part in each.items():
        typer.echo(f"{name} holds {_describe_content(part)}")
    typer.echo(f"\n{out} holds {_describe_content(rdms)}")


def _describe_content(rdms: RDMs) -> str:
    """Numbers of RDMs and stimuli, and the subjects, ROIs and sessions where they have names."""
    from neurordl.rdms.selection import descriptor_values

    counts = f"{counted(rdms.n_rdm, 'RDM')} of {rdms.n_cond} stimuli"
    known = [name for name in ("subject", "roi", "session") if name in rdms.rdm_descriptors]
    return counts + "".join(f"; {n} {listed(dict.fromkeys(descriptor_values(rdms, n)))}" for n in known)
