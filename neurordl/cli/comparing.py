"""``neurordl compare``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurordl.cli.app import Average, Config, Rdms, Roi, app
from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    from neurordl.stimuli import StimulusSet
    from neurordl.training.run import Run


class Pairs(StrEnum):
    """Which pairs of stimuli are scored."""

    held_out = "held-out"
    fitted = "fitted"
    cross = "cross"


@app.command()
def compare(
    run: Annotated[Path, typer.Argument(help="Folder of a run.")],
    rdms: Rdms,
    out: Annotated[Path, typer.Option(help="Folder for scores.csv and the figure.")],
    layers: Annotated[
        str, typer.Option(help="Names or globs with commas, all, or top (in no other layer).")
    ] = "all",
    method: Annotated[
        str, typer.Option(help="rho-a, spearman, corr, cosine, tau-a, ... as in rsatoolbox.")
    ] = "rho-a",
    roi: Roi = None,
    subjects: Annotated[
        str | None, typer.Option(help="Subjects to compare with, with commas; all by default.")
    ] = None,
    average: Average = None,
    stimuli: Annotated[
        Path | None, typer.Option(help="Folder of the stimuli; the run's own by default.")
    ] = None,
    pairs: Annotated[
        Pairs, typer.Option(help="Pairs of which both, or one, or no stimulus was fitted.")
    ] = Pairs.held_out,
    config: Config = None,
) -> None:
    """Compare the layers of a run's student with RDMs, on the stimuli that were held out."""
    from matplotlib.figure import Figure

    import neurordl as nrl
    from neurordl.artifacts import write_aside

    fitted = nrl.load_run(run)
    record: dict[str, Any] = fitted.record["stimuli"] or {}
    prepared = fitted.preprocessing
    folder = stimuli or (Path(record["source"]) if record.get("source") else None)
    if folder is None or prepared is None:
        raise NeurordlError(f"{run} does not say where its stimuli are; pass --stimuli FOLDER")
    shown = nrl.StimulusSet.from_folder(folder, prepared.size, prepared.channels, prepared.mean, prepared.std)
    _check_pixels(shown, fitted)
    scores = nrl.evaluate(
        fitted,
        nrl.load_rdms(rdms),
        stimuli=shown,
        layers=layers.split(","),
        method=method,
        roi=roi,
        subjects=subjects.split(",") if subjects else None,
        average=average or None,
        pairs=pairs.value,
        progress=True,
    )
    scores.save(out)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    nrl.plot_scores(scores, figure.add_subplot())
    with write_aside(out / "scores.png") as aside:
        figure.savefig(aside, dpi=150)
    frame = scores.to_frame()
    mean = frame[frame["subject"] == "mean"].drop(columns=["subject", "method"])
    table = mean.to_string(index=False, float_format="%.3f")
    typer.echo(f"{scores.match}\n\n{table}\n\n{out} holds scores.csv and scores.png")


def _check_pixels(shown: StimulusSet, run: Run) -> None:
    """Whether the fitted images, where they are all there, are still those that the run saw."""
    from neurordl.artifacts import sha256_array

    before = (run.record["stimuli"] or {}).get("pixels_sha256")
    if before is None or not run.fitted_ids or not set(run.fitted_ids) <= set(shown.ids):
        return
    if sha256_array(shown.subset(run.fitted_ids).pixels) != before:
        raise NeurordlError(
            f"the images in {shown.source} are not those that the run was fitted on, though their names are "
            "the same; pass the folder of the original ones as --stimuli"
        )
