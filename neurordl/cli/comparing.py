"""``neurordl compare``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neurordl.cli.app import (
    Average,
    Config,
    Dissimilarity,
    Each,
    Labels,
    Measure,
    Name,
    Rdms,
    Roi,
    Seed,
    Subjects,
    app,
    check_there,
    importing,
    read_rdms,
    several,
)
from neurordl.errors import NeurordlError
from neurordl.io import RUN_RECORD, check_folder

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs
    from torch import nn

    from neurordl.rsa.evaluation import Evaluation
    from neurordl.stimuli import StimulusSet
    from neurordl.training.run import Run


_RDM_FILES = (".h5", ".hdf5", ".mat", ".npz", ".npy", ".csv", ".tsv")
_RESULTS = ("scores.csv", "evaluation.json")  # by which a folder holds a comparison
_FEW = 12  # layers up to which the figure shows which differ


class Pairs(StrEnum):
    """Which pairs of stimuli are scored."""

    held_out = "held-out"
    fitted = "fitted"
    cross = "cross"


class Bootstrap(StrEnum):
    """What is resampled."""

    subjects = "subjects"
    stimuli = "stimuli"
    both = "both"


class Spread(StrEnum):
    """How the variance is taken where stimuli are resampled."""

    bootstrap = "bootstrap"
    components = "components"


@app.command()
def compare(
    source: Annotated[
        str,
        typer.Argument(
            help="A run's folder, a file of model RDMs, or a network: package.module:factory, "
            "torchvision:NAME, timm:NAME."
        ),
    ],
    rdms: Rdms,
    out: Annotated[Path, typer.Option(help="Folder for the tables and the figure, new or without results.")],
    layers: Annotated[
        str, typer.Option(help="Names or globs with commas, all, or top (in no other layer).")
    ] = "all",
    comparison: Annotated[
        str, typer.Option(help="rho-a, spearman, corr, cosine, tau-a, ... as in rsatoolbox.")
    ] = "rho-a",
    name: Name = None,
    labels: Labels = None,
    measure: Measure = None,
    each_a_subject: Each = False,
    roi: Roi = None,
    subjects: Subjects = None,
    average: Average = None,
    group: Annotated[
        bool, typer.Option("--group", help="Score the subjects' mean RDM too, as a subject 'group'.")
    ] = False,
    stimuli: Annotated[
        Path | None, typer.Option(help="Folder of the stimuli; a run's own by default.")
    ] = None,
    pairs: Annotated[
        Pairs | None,
        typer.Option(help="Of a run: pairs of which no (the default), both, or one stimulus was fitted."),
    ] = None,
    bootstrap: Annotated[
        Bootstrap | None,
        typer.Option(help="Resample subjects, stimuli or both: what intervals and p generalise to."),
    ] = None,
    n_bootstrap: Annotated[int, typer.Option(min=2, help="How many resamples.")] = 1000,
    variance: Annotated[
        Spread,
        typer.Option(
            help="Where stimuli are resampled: rsatoolbox's (intervals are too wide), or by components."
        ),
    ] = Spread.bootstrap,
    seed: Seed = 0,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights of a network: .safetensors, .pth, .pt, .ckpt or .npz.")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="The trained weights of torchvision or timm.")
    ] = False,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels to a side, for a network.")] = None,
    channels: Annotated[int, typer.Option(min=1, max=3, help="1 or 3, for a network.")] = 3,
    mean: Annotated[
        str | None, typer.Option(help="Subtracted from each channel (0 to 1), with commas; or imagenet.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Each channel is divided by it, with commas; or imagenet.")
    ] = None,
    dissimilarity: Dissimilarity = None,
    device: Annotated[str | None, typer.Option(help="Where a network runs, such as cuda.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier comparison in that folder.")
    ] = False,
    config: Config = None,
) -> None:
    """Compare layers with subjects' RDMs: of a run (on its held-out stimuli), a network, or model RDMs."""
    a_file = Path(source).suffix in _RDM_FILES or "/" in source  # no network's name has these
    check_there(source=Path(source) if a_file else None, rdms=rdms, labels=labels, stimuli=stimuli)
    check_there(checkpoint=checkpoint)
    _check_results(out, overwrite)
    with importing():
        import neurordl as nrl
        import neurordl.plots
        import neurordl.rsa.evaluation

    images: dict[str, Any] = {
        "size": size,
        "channels": channels,
        "mean": _numbers(mean, 0),
        "std": _numbers(std, 1),
    }
    options: dict[str, Any] = {"dissimilarity": dissimilarity}
    told: dict[str, Any] = {"source": Path(source).resolve().name}  # no folder of this machine
    notes = list[str]()
    thing: Run | RDMs | nn.Module
    if (Path(source) / RUN_RECORD).is_file() or Path(source).is_dir():
        thing = nrl.load_run(source)
        shown: StimulusSet | None = _stimuli_of(thing, stimuli)
        options["pairs"] = (pairs or Pairs.held_out).value
    elif Path(source).is_file():
        thing, shown, options = _model_rdms(source, labels), None, {}
    else:
        from neurordl.students.loading import load_network

        if stimuli is None:
            raise NeurordlError(f"a network is compared on images: pass --stimuli FOLDER for {source}")
        thing = load_network(source, checkpoint, pretrained=pretrained)
        kept = checkpoint.name if checkpoint else None
        told = {"source": source, "checkpoint": kept, "pretrained": pretrained}
        if not (checkpoint or pretrained):
            notes += [f"no checkpoint was given: the weights are those that {source} makes"]
            if source.startswith(("torchvision:", "timm:")):
                notes[-1] += ", untrained ones; --pretrained takes the trained ones"
        shown = nrl.StimulusSet.from_folder(stimuli, **images)
    if pairs is not None and "pairs" not in options:
        raise NeurordlError(f"--pairs is for a run, which knows what it fitted; {source} is none")
    scores = nrl.evaluate(
        thing,
        read_rdms(rdms, name, labels, measure, each_a_subject),
        stimuli=shown,
        layers=layers.split(","),
        comparison=comparison,
        roi=roi,
        subjects=several(subjects),
        average=several(average),
        group=group,
        bootstrap=bootstrap.value if bootstrap else None,
        n_bootstrap=n_bootstrap,
        variance=variance.value,
        seed=seed,
        device=device,
        progress=True,
        **options,
    )
    scores.settings.update(told)
    _write(scores, out, notes)


def _check_results(out: Path, overwrite: bool) -> None:
    """Refuse a folder that cannot be written to, or holds a comparison that is not to be replaced."""
    check_folder(out)
    there = [name for name in _RESULTS if (out / name).exists()]
    if there and not overwrite:
        raise NeurordlError(
            f"--out {out} holds a comparison already ({' and '.join(there)}): choose another folder, or pass "
            "--overwrite to replace it"
        )


def _model_rdms(source: str, labels: Path | None) -> RDMs:
    """Model RDMs, by the file's name where it names none; without stimuli, the rows are as the labels."""
    import neurordl as nrl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if labels is not None else "default")
        rdms = nrl.load_rdms(source)
    if labels is not None and "stimulus" not in rdms.pattern_descriptors:
        rdms = nrl.load_rdms(source, labels=labels)
    if not {"layer", "name"} & set(rdms.rdm_descriptors):
        stem = Path(source).stem
        numbered = [f"{stem}_{place}" for place in range(1, rdms.n_rdm + 1)]
        rdms.rdm_descriptors["name"] = numbered if rdms.n_rdm > 1 else [stem]
    return rdms


def _numbers(text: str | None, which: int) -> list[float] | None:
    """Numbers with commas, or those of ImageNet (0: means, 1: standard deviations)."""
    from neurordl.stimuli.preprocessing import IMAGENET

    if text is None:
        return None
    if text == "imagenet":
        return list(IMAGENET[which])
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: expected numbers with commas, or imagenet") from error


def _stimuli_of(run: Run, folder: Path | None) -> StimulusSet:
    """The stimuli of a run, from its own folder or another one, prepared as they were for it."""
    import neurordl as nrl

    record: dict[str, Any] = run.record["stimuli"] or {}
    prepared = run.preprocessing
    folder = folder or (Path(record["source"]) if record.get("source") else None)
    if folder is None or prepared is None:
        raise NeurordlError(f"{run.out} does not say where its stimuli are; pass --stimuli FOLDER")
    shown = nrl.StimulusSet.from_folder(folder, prepared.size, prepared.channels, prepared.mean, prepared.std)
    _check_pixels(shown, run)
    return shown


def _check_pixels(shown: StimulusSet, run: Run) -> None:
    """Whether the fitted images, where they are all there, are still those that the run saw."""
    from neurordl.io import sha256_array

    before = (run.record["stimuli"] or {}).get("pixels_sha256")
    if before is None or not run.fitted_ids or not set(run.fitted_ids) <= set(shown.ids):
        return
    if sha256_array(shown.subset(run.fitted_ids).pixels) != before:
        raise NeurordlError(
            f"the images in {shown.source} are not those that the run was fitted on, though their names are "
            "the same; pass the folder of the original ones as --stimuli"
        )


def _draw(scores: Evaluation, path: Path) -> None:
    """The figure, in the size that the number of layers and their names ask for."""
    import matplotlib.pyplot as plt

    import neurordl as nrl
    from neurordl.io import write_aside

    plt.switch_backend("agg")  # there may be no screen
    few = len(scores.settings["layers"]) <= _FEW
    figure = nrl.plot_scores(scores, comparisons=few, p="p_fdr").get_figure(root=True)
    assert figure is not None
    with write_aside(path) as aside:
        figure.savefig(aside, dpi=150)
    plt.close(figure)


def _write(scores: Evaluation, out: Path, notes: Sequence[str]) -> None:
    """The tables and the figure, and what of them fits a screen."""
    scores.save(out)
    _draw(scores, out / "scores.png")
    frame = scores.to_frame()
    columns = ["layer", "roi", "subject", "score", "ci_low", "ci_high", "p", "p_fdr"]
    columns += ["ceiling_lower", "ceiling_upper", "n_subjects", "fitted"]
    mean = frame.loc[frame["subject"].isin(["mean", "group"]), columns]
    table = mean.to_string(index=False, float_format="%.3f", na_rep="")
    typer.echo(f"{scores.match}\n\n{scores.title}\n{table}\n")
    for note in [*notes, *scores.notes]:
        typer.echo(f"note: {note}")
    typer.echo(f"{out} holds scores.csv, comparisons.csv, evaluation.h5, evaluation.json and scores.png")
