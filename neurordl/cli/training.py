"""``neurordl demo`` and ``neurordl train``."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from neurordl.io import CHECKPOINT, RUN_RECORD, check_run_folder, read_json

if TYPE_CHECKING:
    from neurordl.stimuli import StimulusSet


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.csv and the figure.")] = Path("demo_results"),
    seeds: Annotated[
        int, typer.Option(min=2, help="Seeds, each with its own initial weights and data order.")
    ] = 6,
) -> None:
    """Run the main job on embedded data, and show what a teacher's geometry costs or gives."""
    from neurordl.demo import run_demo

    typer.echo(run_demo(out, seeds=seeds))


@app.command()
def train(
    labelled: Annotated[
        str,
        typer.Option(
            help="Labelled images: digits, mnist, fashion_mnist, cifar10, cifar100, or a CSV/TSV with the "
            "columns path, id, label."
        ),
    ],
    rdms: Rdms,
    stimuli: Annotated[Path, typer.Option(help="Folder of the stimuli of the RDMs; file names are the ids.")],
    out: Annotated[Path, typer.Option(help="A new folder for the run.")],
    layer: Annotated[str, typer.Option(help="Layer of the student whose RDM is fitted.")] = "conv3",
    student: Annotated[
        str, typer.Option(help="small_cnn, nin, resnet18, mlp, torchvision:NAME or timm:NAME.")
    ] = "small_cnn",
    weight: Annotated[
        float, typer.Option(min=0, help="Weight of the RDM loss beside the task loss; 0: labels only.")
    ] = 1.0,
    dissimilarity: Dissimilarity = None,
    comparison: Annotated[
        str, typer.Option(help="Of the two RDMs: corr, cosine, corr_cov, cosine_cov, cka, mse, huber.")
    ] = "corr",
    name: Name = None,
    labels: Labels = None,
    measure: Measure = None,
    each_a_subject: Each = False,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels to a side, for labelled images of a table.")
    ] = None,
    n_labelled: Annotated[
        int | None,
        typer.Option(min=3, help="Take so many labelled images, of each class alike, drawn by --seed."),
    ] = None,
    roi: Roi = None,
    subjects: Subjects = None,
    average: Average = None,
    permuted: Annotated[
        bool, typer.Option("--permuted", help="The control: the ids of the training stimuli permuted.")
    ] = False,
    hold_out: Annotated[float, typer.Option(help="Share of the stimuli that is not fitted; 0: none.")] = 0.25,
    validation: Annotated[
        float, typer.Option(help="Share of the fitted stimuli that chooses the epoch; 0: none.")
    ] = 0.0,
    epochs: Annotated[int, typer.Option(min=1)] = 20,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    stimuli_batch: Annotated[int, typer.Option(min=3)] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 1e-3,
    seed: Seed = 0,
    devices: Annotated[int, typer.Option(min=1)] = 1,
    precision: Annotated[str, typer.Option(help="As in Lightning Fabric: 32-true, bf16-mixed.")] = "32-true",
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    config: Config = None,
) -> None:
    """Fit a student to RDMs, beside labels."""
    check_run_folder(out, resume)  # before anything takes time
    finished = resume and _finished(out)
    table = Path(labelled) if Path(labelled).suffix else None
    check_there(labelled=table, rdms=rdms, labels=labels, stimuli=stimuli)
    with importing():
        import torch

        import neurordl as nrl
        import neurordl.training.loop

    images, test = _labelled(labelled, size)
    classes = int(images.labels.max()) + 1 if images.labels is not None else 0  # of all images, drawn or not
    if n_labelled is not None:
        images = _fewer(images, n_labelled, seed)
    shape = tuple(images.pixels.shape[1:])
    measured = read_rdms(rdms, name, labels, measure, each_a_subject)
    prepared = images.preprocessing  # the stimuli meet the student as its labelled images do
    shown = nrl.StimulusSet.from_folder(stimuli, shape[1:], shape[0], prepared.mean, prepared.std)
    teacher = nrl.RDMTeacher(measured, roi=roi, subjects=several(subjects), average=several(average))
    match = teacher.match(shown.ids)  # before the split, whose errors would be about its sizes
    fitted = shown.split(held_out=hold_out, seed=seed)[0] if hold_out else shown
    first = os.environ.get("LOCAL_RANK", "0") == "0"  # of several processes one speaks
    if first:
        kind = "grey" if shape[0] == 1 else "RGB"
        typer.echo(f"stimuli prepared like the labelled images: {shape[1]} x {shape[2]} pixels, {kind}")
        typer.echo(f"{match}\n")
    if permuted:
        teacher = teacher.permuted(fitted.ids, seed)
    torch.manual_seed(seed)
    model = nrl.students.build(student, classes, shape[0], image_size=(shape[1], shape[2]))
    loss = nrl.RDMLoss(
        teacher, layer=layer, dissimilarity=dissimilarity, comparison=comparison, weight=weight
    )
    run = nrl.fit(
        model,
        nrl.Objective([loss]),
        labelled=images,
        stimuli=fitted,
        epochs=epochs,
        seed=seed,
        out=out,
        validation=validation or None,
        batches=nrl.Batches(batch_size, stimuli_batch),
        optimization=nrl.Optimization(lr=lr),
        execution=nrl.Execution(devices=devices, precision=precision, checkpoint_every=checkpoint_every),
        resume=resume,
    )
    if not first:
        return
    if finished:
        typer.echo(f"{out} holds this run, which had finished: nothing was trained")
    columns = [column for column in run.history if column != "seconds"]
    typer.echo(run.history[columns].tail(3).to_string(index=False, float_format="%.4f"))
    if test is not None:
        typer.echo(f"test accuracy {nrl.accuracy(run.student, test):.4f}")
    told = {"--name": name, "--labels": labels, "--measure": measure, "--roi": roi}
    words = [word for option, value in told.items() if value is not None for word in (option, str(value))]
    words += ["--each-a-subject"] if each_a_subject else []
    words += ["--average", ",".join(several(average) or [])] if average else []
    again = ["neurordl", "compare", str(out), "--rdms", str(rdms), *words, "--out", str(out / "scores")]
    typer.echo(f"\n{out} holds the run. Next: {shlex.join(again)}")


def _finished(out: Path) -> bool:
    """Whether the run to go on with has finished; a word where there is none to go on with."""
    if not (out / CHECKPOINT).is_file() and os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(f"--resume: {out} holds no checkpoint to go on from; the run starts anew", err=True)
    record = out / RUN_RECORD
    return record.is_file() and read_json(record).get("status") == "finished"


def _fewer(images: StimulusSet, n: int, seed: int) -> StimulusSet:
    """A draw of ``n`` images, of each class as many to within one, with a word on it for the record.

    Where a class has too few images, all of them are taken, and more of the others.
    """
    from neurordl.stimuli.splitting import draw_number

    labels = list(map(str, images.labels.tolist())) if images.labels is not None else [""] * len(images)
    if n < len(set(labels)):
        raise NeurordlError(
            f"--n-labelled {n} for {len(set(labels))} classes; take one image of each, or more"
        )
    if n > len(images) - 3:  # a split leaves three or more on either side
        raise NeurordlError(
            f"--n-labelled {n}: there are {len(images)} labelled images; leave it out for all"
        )
    chosen = draw_number(images.ids, n, seed, labels)
    drawn = images.split(held_out=[images.ids[k] for k in chosen])[1]
    return replace(drawn, source=f"{images.source}, {n} of {len(images)} drawn by seed {seed}")


_LABELLED = ("mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_stretched")


def _labelled(name: str, size: int | None) -> tuple[StimulusSet, StimulusSet | None]:
    """Training images, and test images where the set has its own."""
    from neurordl import datasets
    from neurordl.stimuli import StimulusSet

    if size is not None and not Path(name).suffix:
        raise NeurordlError(f"--size is for labelled images of a table; those of {name} have their own")
    if name == "digits":
        return datasets.load_digits().split(held_out=0.25, seed=0, stratify="label")
    if name in _LABELLED:
        return datasets.DATASETS[name]("train"), datasets.DATASETS[name]("test")
    if not Path(name).suffix:
        raise NeurordlError(
            f"--labelled {name}: expected digits, {', '.join(_LABELLED)} or a CSV/TSV with the columns path, "
            "id and label"
        )
    images = StimulusSet.from_table(name, size=size)
    if images.labels is None:
        raise NeurordlError(f"--labelled {name}: the table has no column 'label'")
    return images, None
