"""``neurordl rdm``: from NIfTI and events to RDMs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from neurordl.cli.app import Config, app, check_there, importing, several
from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm.rdms import RDMs

_SEVERAL = ("--events", "--confounds")


class SeveralFiles(TyperCommand):
    """A command whose --events and --confounds take all files up to the next option or image."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write ``--events a b``, what a shell makes of ``--events *.tsv``, as ``--events a --events b``."""
        written: list[str] = []
        current, taken = None, False
        for argument in args:
            if argument.startswith("-"):
                current, taken = (argument if argument in _SEVERAL else None), False
            elif current is not None and taken:
                if argument.endswith((".nii", ".nii.gz")):
                    current = None
                else:
                    written.append(current)
            elif current is not None:
                taken = True
            written.append(argument)
        return list(super().parse_args(ctx, written))


@app.command(cls=SeveralFiles)
def rdm(
    images: Annotated[list[Path], typer.Argument(help="BOLD series, one a run; or betas, with --table.")],
    out: Annotated[Path, typer.Option(help="The .h5 file to write.")],
    mask: Annotated[Path | None, typer.Option(help="A binary mask, or an atlas with --labels.")] = None,
    events: Annotated[
        list[Path] | None, typer.Option(help="BIDS events, one file a run; matched by run-NN in the names.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="Of betas: TSV or CSV, a row per volume, with the column stimulus.")
    ] = None,
    dissimilarity: Annotated[
        str, typer.Option(help="crossnobis, correlation, euclidean, mahalanobis, cosine, poisson, ...")
    ] = "crossnobis",
    model: Annotated[
        str,
        typer.Option(
            help="glm; lsa, lss (single trials); average: block means, no HRF, for events that are already "
            "shifted by its lag."
        ),
    ] = "glm",
    condition: Annotated[
        str, typer.Option(help="Column of the events that names the stimuli.")
    ] = "trial_type",
    leave_out: Annotated[
        list[str] | None, typer.Option(help="A condition that gets no pattern, such as rest.")
    ] = None,
    detrend: Annotated[
        bool, typer.Option("--detrend", help="With average: less each run's linear trend.")
    ] = False,
    t_r: Annotated[
        float | None, typer.Option("--t-r", help="Seconds a volume; else the sidecar's, the header's.")
    ] = None,
    slice_time_ref: Annotated[
        float, typer.Option(help="When within that time a volume was taken: 0, or 0.5 for the middle.")
    ] = 0.0,
    hrf_model: Annotated[str, typer.Option(help="As in nilearn; none: no HRF.")] = "spm",
    drift_model: Annotated[str, typer.Option(help="cosine, polynomial or none.")] = "cosine",
    high_pass: Annotated[float, typer.Option(help="Of the cosine drift, in Hz.")] = 0.01,
    noise_model: Annotated[str, typer.Option(help="Of the GLM: ols or ar1.")] = "ols",
    confounds: Annotated[
        list[Path] | None, typer.Option(help="Tables of confounds, one file a run, matched like events.")
    ] = None,
    confound_columns: Annotated[
        str | None, typer.Option(help="The columns to take, with commas; else all.")
    ] = None,
    fmriprep: Annotated[
        str | None, typer.Option(help="Confounds of fMRIPrep beside the images: motion,wm_csf,scrub, ...")
    ] = None,
    center: Annotated[str | None, typer.Option(help="Mean pattern that is removed: run or all.")] = None,
    noise: Annotated[
        str | None, typer.Option(help="Noise normalisation: diagonal, shrinkage_diag, shrinkage_eye, full.")
    ] = None,
    noise_by: Annotated[str, typer.Option(help="pooled, or run: a covariance for each run.")] = "pooled",
    labels: Annotated[
        Path | None, typer.Option(help="Of an atlas: TSV with index and name, or JSON.")
    ] = None,
    roi: Annotated[
        list[str] | None,
        typer.Option(help="A ROI of the atlas to keep (all by default); or the name of a binary mask."),
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Whose images; else the sub- of their names.")] = None,
    session: Annotated[str | None, typer.Option(help="Else the ses- of the names.")] = None,
    config: Config = None,
) -> None:
    """Compute RDMs from BOLD images and events, or from betas, and say what was done."""
    if not out.parent.is_dir() or out.suffix not in (".h5", ".hdf5"):
        raise NeurordlError(f"--out {out}: expected a file named .h5, in a folder that exists")
    check_there(images=images, mask=mask, events=events, table=table, confounds=confounds, labels=labels)
    with importing():
        import neurordl as nrl
        import neurordl.patterns.nifti
        import neurordl.rdms
    options: dict[str, Any] = {"table": table, "labels": labels, "rois": roi or None}
    options |= {"condition": condition, "subject": subject, "session": session}
    options |= {"leave_out": leave_out or (), "detrend": detrend, "t_r": t_r}
    options |= {"confounds": confounds or None, "confound_columns": several(confound_columns)}
    options |= {"fmriprep": several(fmriprep), "model": model, "noise_model": noise_model}
    options |= {"hrf_model": None if hrf_model == "none" else hrf_model, "high_pass": high_pass}
    options |= {"drift_model": None if drift_model == "none" else drift_model}
    options |= {"slice_time_ref": slice_time_ref}
    if noise is None and noise_by != "pooled":
        raise NeurordlError(f"--noise-by {noise_by} is used with --noise; choose one, such as shrinkage_diag")
    settings: dict[str, Any] = {"dissimilarity": dissimilarity, "center": center}
    try:
        with warnings.catch_warnings(record=True) as notices:
            warnings.simplefilter("always")
            read = nrl.read_patterns(images, mask, events or None, residuals=table is None, **options)
            patterns = read[0] if table is None else read
            if noise is not None:
                residuals = read[1] if table is None else None
                settings["noise"] = nrl.Noise(noise, residuals, noise_by)  # type: ignore[arg-type]
            rdms = nrl.compute_rdms(patterns, **settings)
            nrl.save_rdms(rdms, out)
            reliable = _reliability(patterns, rdms, settings)
    finally:  # they may say why there is an error
        for notice in dict.fromkeys(str(one.message) for one in notices if one.category is UserWarning):
            typer.echo(f"notice: {notice}", err=True)
    typer.echo(
        f"{_told(patterns)}\n\n{_summary(rdms, reliable)}\n\n{out} holds {_count(rdms.n_rdm)}" + _next(rdms)
    )


def _told(patterns: Dataset) -> str:
    """What was matched with what, and the voxels."""
    made = json.loads(patterns.descriptors["provenance"])
    runs = made.get("runs") or []
    rows = [("image", "events", "run", "volumes", "TR")] if runs else [("image", "", "", "", "")]
    for k, image in enumerate(made["images"]):
        run = runs[k] if runs else {"events": "", "run": "", "volumes": "", "t_r": ""}
        rows.append((image, run["events"], run["run"], str(run["volumes"]), str(run["t_r"])))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    stimuli = list(dict.fromkeys(patterns.obs_descriptors["stimulus"]))
    shown = ", ".join(stimuli[:8]) + (", ..." if len(stimuli) > 8 else "")
    lines += [
        "",
        f"mask      {made['mask']}" + (" (resampled)" if made["mask_resampled"] else ""),
        f"voxels    {made['voxels']} used; dropped {made['dropped_nan']} with NaN or infinity, "
        f"{made['dropped_constant']} constant in a run",
        f"stimuli   {len(stimuli)}: {shown}",
        f"patterns  {patterns.n_obs}, model {made['model']}"
        + (" (detrended)" if made.get("detrend") else ""),
    ]
    return "\n".join(lines)


def _reliability(patterns: Dataset, rdms: RDMs, settings: dict[str, Any]) -> Any:
    """Correlation of odd with even runs, for each RDM; None where there are too few runs."""
    from neurordl.rdms.reliability import odd_even_reliability

    try:
        with warnings.catch_warnings():  # notices are of all runs, and are given
            warnings.simplefilter("ignore", UserWarning)
            return odd_even_reliability(patterns, **settings)
    except NeurordlError as error:
        return str(error)


def _summary(rdms: RDMs, reliable: Any) -> str:
    lines = [f"measure   {rdms.dissimilarity_measure}"]
    for k in range(rdms.n_rdm):
        of = [
            str(rdms.rdm_descriptors[name][k]) for name in ("subject", "roi") if name in rdms.rdm_descriptors
        ]
        told = reliable if isinstance(reliable, str) else f"{reliable[k]:.3f}"
        spread = _spread(rdms.dissimilarities[k])
        lines.append(f"RDM       {' '.join(of) or k}: {spread}; odd with even runs, r = {told}")
    return "\n".join(lines)


def _spread(values: Any) -> str:
    """From the least to the most of what was measured, and how much was not."""
    there = values[values == values]
    if not len(there):
        return f"none of {len(values)} pairs is measured"
    lost = len(values) - len(there)
    told = f", {lost} of {len(values)} pairs are not measured" if lost else ""
    return f"{there.min():.4g} to {there.max():.4g}{told}"


def _count(number: int) -> str:
    return f"{number} RDM{'' if number == 1 else 's'}"


def _next(rdms: RDMs) -> str:
    if "subject" in rdms.rdm_descriptors:
        return ""
    return "\nnotice: the names of the images do not say whose they are; --subject does"
