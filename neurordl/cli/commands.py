"""The commands ``data``, ``train``, ``compare`` and ``report`` of the shell."""

from __future__ import annotations

import os
import shlex
import warnings
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurordl.cli.options import Call, Calls, Takes, app, check_files, command
from neurordl.errors import NeurordlError
from neurordl.io import CHECKPOINT, RUN_RECORD, atomic_write, check_folder, check_run_folder, read_json
from neurordl.validate import check_choice

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

    from neurordl.rsa.scores import Evaluation
    from neurordl.stimuli import StimulusSet

_LABELLED = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_stretched")
_TABLE = "or give a CSV or TSV file with the columns path, id and label"
_RDM_FILES = (".h5", ".hdf5", ".mat", ".npz", ".npy", ".csv", ".tsv")
_RESULTS = ("scores.csv", "evaluation.json")  # the files by which a folder holds a comparison
_FIGURES = (".png", ".pdf", ".svg")
_COARSE = 16  # pixels: photographs of this size or above can be told apart
_FEW_LAYERS = 12  # up to so many, the figure shows which layers differ

_READ = Takes("cli.commands:read_rdms", panel="RDMs")
_LOAD = Takes("load_rdms", "name labels measure layout similarity diagonal", panel="RDMs")
_SELECT = Takes("select_rdms", "average", panel="RDMs")


data = typer.Typer(no_args_is_help=True, help="List, describe or download data sets.")
app.add_typer(data, name="data")


@command(data, "list")
def list_data() -> None:
    """List the public data sets, their sizes, and whether they are on this machine.

    Examples
    --------
    neurordl data list
    """
    from neurordl.datasets import REGISTRY, data_root, status

    typer.echo(f"in {data_root()}\n")
    for name, dataset in REGISTRY.items():
        size = f"{dataset.size / 1e6:.1f} MB" if dataset.size else ""
        typer.echo(f"{name:<14}  {size:>9}  {status(name):<31}  {dataset.summary}")


@command(data)
def info(name: str, /) -> None:
    """Describe a data set: its license, its citation, and its files with their sizes and checksums.

    Parameters
    ----------
    name
        Name of the data set, as shown by ``neurordl data list``.

    Examples
    --------
    neurordl data info mnist
    """
    from neurordl.datasets import find_dataset, folder_of, status

    dataset = find_dataset(name)
    readers = ", ".join(f"neurordl.datasets.{loader}" for loader in dataset.loaders)
    place = f"{status(name)}, in {folder_of(name)}" if dataset.files else status(name)
    typer.echo(f"{name}: {dataset.summary}")
    typer.echo(f"  license           {dataset.license}\n  cite              {dataset.citation}")
    typer.echo(f"  source            {dataset.source}\n  read by           {readers}")
    typer.echo(f"  on this machine   {place}")
    for file in dataset.files:
        typer.echo(f"  {file.name}, {file.size} bytes\n    {file.url}\n    sha256 {file.sha256}")


@command(data)
def fetch(name: str, /) -> None:
    """Download a data set into the folder NEURORDL_DATA, or into the user's cache, and verify it.

    Parameters
    ----------
    name
        Name of the data set, as shown by ``neurordl data list``.

    Examples
    --------
    neurordl data fetch mnist
    """
    from neurordl import datasets

    typer.echo(f"{name} is in {datasets.fetch(name, say=typer.echo)}")


def read_rdms(load: Call, rdms: Path, each_a_subject: bool = False) -> RDMs:
    """Read the RDMs of subjects.

    Parameters
    ----------
    load
        `neurordl.load_rdms` with its options.
    rdms
        File with the RDMs of the subjects: .h5, .mat, .npz, .npy, .csv or .tsv.
    each_a_subject
        Take each RDM in the file as that of a different subject, if the file does not name its subjects.
    """
    measured: RDMs = load(rdms)
    if each_a_subject:
        if "subject" in measured.rdm_descriptors:
            raise NeurordlError(f"--each-a-subject: {rdms} names the subjects of its RDMs; leave it out")
        width = max(2, len(str(measured.n_rdm)))
        measured.rdm_descriptors["subject"] = [f"s{k + 1:0{width}d}" for k in range(measured.n_rdm)]
    return measured


def read_labelled(
    labelled: str, size: int | None = None, n_labelled: int | None = None, *, seed: int
) -> tuple[StimulusSet, StimulusSet | None, int]:
    """Read training images, test images where the data set has some, and the number of classes.

    Parameters
    ----------
    labelled
        Labelled images: digits, mnist, fashion_mnist, cifar10, cifar100, cifar100_stretched (CIFAR-100 with
        stretched contrast, which cannot be downloaded by neurordl), or a CSV or TSV file with the columns
        path, id and label.
    size
        Height and width to which the labelled images of a table are resized, in pixels.
    n_labelled
        Number of labelled images to draw with the seed of the run, equally many of each class. By default all
        images are used.
    seed
        Seed of the draw.
    """
    from neurordl import datasets
    from neurordl.stimuli import StimulusSet

    is_table, test = bool(Path(labelled).suffix), None
    if size is not None and not is_table:
        raise NeurordlError(f"--size is for labelled images of a table; those of {labelled} have their own")
    if is_table:
        images = StimulusSet.from_table(labelled, size=size)
    elif check_choice("--labelled", labelled, _LABELLED, _TABLE) == "digits":
        images, test = datasets.load_digits().split(held_out=0.25, seed=0, stratify="label")
    else:
        images, test = (datasets.DATASETS[labelled](part) for part in ("train", "test"))
    if images.labels is None:
        raise NeurordlError(f"--labelled {labelled}: the table has no column 'label'")
    n_classes = int(images.labels.max()) + 1  # of all images, drawn or not
    return images if n_labelled is None else images.draw(n_labelled, seed), test, n_classes


@command(
    app,
    labelled=Takes("cli.commands:read_labelled", "labelled size n_labelled", panel="Student"),
    read=_READ,
    load_rdms=_LOAD,
    select_rdms=_SELECT,
    teacher=Takes("RDMTeacher", "roi subjects pool pair_weights shrinkage missing", panel="Teacher"),
    loss=Takes(
        "RDMLoss", "layer dissimilarity comparison weight scale", panel="Teacher", defaults={"layer": "conv3"}
    ),
    fit=Takes("fit", "epochs seed validation resume", panel="Training"),
    batches=Takes("Batches", "labelled:batches_labelled stimuli:batches_stimuli", panel="Training"),
    optimization=Takes("Optimization", panel="Training"),
    execution=Takes("Execution", panel="Execution"),
)
def train(
    stimuli: Path,
    out: Path,
    student: str = "small_cnn",
    held_out: float = 0.25,
    permuted: bool = False,
    *,
    call: Calls,
) -> None:
    """Train a student on labels and on the geometry of RDMs.

    The stimuli are prepared like the labelled images. Some of them are held out: neurordl compare scores the
    run on these.

    Parameters
    ----------
    stimuli
        Folder with the images of the stimuli. Their ids are the names of the files without suffix.
    out
        Folder for the run. It must be new or empty, unless --resume continues the run in it.
    student
        Network to train: small_cnn, nin, cifar_resnet, resnet18, mlp, torchvision:NAME or timm:NAME.
    held_out
        Share of the stimuli that is held out from training; 0 holds out none.
    permuted
        Train the control: the ids of the training stimuli are permuted in the RDMs.
    layer
        Layer of the student whose RDM is fitted. The default, conv3, is a layer of small_cnn; other students
        need another one.
    comparison
        Comparison of the two RDMs: "corr", "cosine", "corr_cov", "cosine_cov", "cka", "mse" or "huber". By
        default it is "corr".
    seed
        Seed of the initial weights, the held-out stimuli, the drawn labelled images, the permutation, the
        order of the data and dropout.
    validation
        Share of the training stimuli that is not trained on. The run's student has the weights of the epoch
        with the lowest loss on them.
    resume
        Continue exactly from the checkpoint in the folder --out. A new run starts if there is none, and a
        finished run is left as it is.

    Examples
    --------
    neurordl train --labelled mnist --rdms it.h5 --roi IT --stimuli stimuli/ --layer conv3 --out runs/it
    """
    table = Path(call.labelled.values["labelled"])
    seed, resume = call.fit.values["seed"], call.fit.values["resume"]
    check_run_folder(out, resume)  # before anything takes time
    finished = resume and _has_finished(out)
    check_files({"labelled": table if table.suffix else None})
    import torch

    import neurordl as nrl

    images, test, n_classes = call.labelled(seed=seed)
    shape = tuple(images.pixels.shape[1:])
    prepared = images.preprocessing
    shown = nrl.StimulusSet.from_folder(stimuli, shape[1:], shape[0], prepared.mean, prepared.std)
    brain = call.teacher(call.select_rdms(call.read(call.load_rdms)))
    match = brain.match(shown.ids)  # before the split, whose errors would be about its sizes
    fitted = shown.split(held_out, seed)[0] if held_out else shown
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"  # one of several processes
    if speaks:
        color = "gray" if shape[0] == 1 else "RGB"
        typer.echo(f"stimuli prepared like the labelled images: {shape[1]} x {shape[2]} pixels, {color}")
        if min(shape[1:]) < _COARSE:
            loss = f"at {shape[1]} x {shape[2]} pixels most of what stimuli show is lost"
            typer.echo(f"note: {loss}, and little geometry can be learned; take larger labelled images")
        typer.echo(f"{match}\n")
    if permuted:
        brain = brain.permuted(fitted.ids, seed)
    torch.manual_seed(seed)
    run = call.fit(
        nrl.students.build(student, n_classes, shape[0], image_size=(shape[1], shape[2])),
        nrl.Objective([call.loss(brain)]),
        labelled=images,
        stimuli=fitted,
        batches=call.batches(),
        optimization=call.optimization(),
        execution=call.execution(),
        out=out,
    )
    if not speaks:
        return
    if finished:
        typer.echo(f"{out} holds this run, which had finished: nothing was trained")
    history = run.history.drop(columns="seconds").tail(3)
    typer.echo(history.to_string(index=False, float_format="%.4f"))
    if test is not None:
        typer.echo(f"test accuracy {nrl.accuracy(run.student, test):.4f}")
    words = [word for part in (call.read, call.load_rdms, call.select_rdms) for word in part.words.values()]
    following = ["neurordl", "compare", str(out), *chain(*words), *call.teacher.words.get("roi", ())]
    following += ["--out", str(out / "scores")]
    typer.echo(f"\n{out} holds the run. Next: {shlex.join(following)}")


def _has_finished(out: Path) -> bool:
    """Whether the run to resume has finished. A notice says where there is none to resume."""
    if not (out / CHECKPOINT).is_file() and os.environ.get("LOCAL_RANK", "0") == "0":
        typer.echo(f"--resume: {out} holds no checkpoint to go on from; the run starts anew", err=True)
    record = out / RUN_RECORD
    return record.is_file() and read_json(record).get("status") == "finished"


@command(
    app,
    read=_READ,
    load_rdms=_LOAD,
    select_rdms=_SELECT,
    evaluate=Takes(
        "evaluate", "layers comparison dissimilarity roi subjects pairs missing", panel="Comparison"
    ),
    bootstrap=Takes(
        "Bootstrap",
        "resample:bootstrap n:bootstrap_n seed:bootstrap_seed variance:bootstrap_variance "
        "groups:bootstrap_groups",
        panel="Bootstrap",
        optional=True,
    ),
    correct=Takes("rsa.scores:Evaluation.correct", panel="Comparison"),
    network=Takes("students.loading:load_network", "checkpoint pretrained", panel="Network"),
    read_images=Takes("StimulusSet.from_folder", "size channels mean std", panel="Network"),
    compute=Takes("Compute", "device batch_size", panel="Network"),
)
def compare(
    source: str,
    /,
    out: Path,
    stimuli: Path | None = None,
    figure: Path | None = None,
    group: bool = False,
    overwrite: bool = False,
    *,
    call: Calls,
) -> None:
    """Compare the layers of a run, of a network, or model RDMs with the RDMs of subjects.

    A run is compared on its held-out stimuli, unless --pairs says otherwise.

    Parameters
    ----------
    source
        Folder of a run; file of model RDMs; or name of a network: package.module:factory, torchvision:NAME,
        timm:NAME, small_cnn, nin, cifar_resnet, resnet18 or mlp.
    out
        Folder for the tables and the figure.
    figure
        File of the figure: .png, .pdf or .svg. By default it is scores.png in the folder --out.
    stimuli
        Folder with the images of the stimuli. By default it is the folder that the run was trained on.
    group
        Also score the mean RDM of the subjects, in rows with the subject "group".
    overwrite
        Replace an earlier comparison in the folder.
    batch_size
        Stimuli in a forward pass. By default all stimuli are run at once if memory allows.

    Examples
    --------
    neurordl compare runs/it --rdms it.h5 --roi IT --layers top --out results/it

    neurordl compare torchvision:resnet18 --pretrained --stimuli stimuli/ --size 224 --mean imagenet
    --std imagenet --rdms it.h5 --bootstrap both --out results/resnet18
    """
    is_path = Path(source).suffix in _RDM_FILES or "/" in source  # the name of a network has neither
    check_files({"source": Path(source) if is_path else None}, unnamed=["source"])
    check_folder(out)
    figure = figure or out / "scores.png"
    if figure.suffix.lower() not in _FIGURES or not (figure.parent.is_dir() or figure.parent == out):
        raise NeurordlError(f"--figure {figure}: expected .png, .pdf or .svg, in a folder that exists")
    earlier = " and ".join(name for name in _RESULTS if (out / name).exists())
    if earlier and not overwrite:
        raise NeurordlError(f"--out {out} holds a comparison already ({earlier}); --overwrite replaces it")
    import pandas as pd
    import torch

    import neurordl as nrl

    record = {"source": Path(source).resolve().name}  # no folder of this machine
    images, notes = None, list[str]()
    pairs = call.evaluate.values.get("pairs")
    if Path(source).is_dir():
        model: Any = nrl.load_run(source)
        images, pairs = model.load_stimuli(stimuli), pairs or "held-out"
    elif pairs is not None:
        raise NeurordlError(f"--pairs is for a run, which knows its fitted stimuli; {source} is not a run")
    elif Path(source).is_file():
        model = _model_rdms(source, call.load_rdms.values.get("labels"))
    elif stimuli is None:
        raise NeurordlError(f"a network is compared on images: pass --stimuli FOLDER for {source}")
    else:
        torch.manual_seed(getattr(call.bootstrap(), "seed", 0))  # for networks with random weights
        model, images = call.network(source), call.read_images(stimuli)
        checkpoint, pretrained = (call.network.values.get(name) for name in ("checkpoint", "pretrained"))
        record = {"source": source, "checkpoint": checkpoint and checkpoint.name, "pretrained": pretrained}
        if not (checkpoint or pretrained):
            named = source.startswith(("torchvision:", "timm:"))
            weights = "the weights that it sets itself" if ":" in source and not named else "random weights"
            remedy = "; --pretrained takes the trained ones" if named else ""
            notes = [f"no checkpoint was given: {source} has {weights}{remedy}"]
        unset = [name for name in ("size", "mean", "std") if call.read_images.values.get(name) is None]
        if unset and source.startswith(("torchvision:", "timm:")):
            unprepared = f"without --{' and --'.join(unset)} the images are not prepared as in its training"
            notes.append(f"{source}: {unprepared}; most take --size 224 --mean imagenet --std imagenet")
    brain = call.select_rdms(call.read(call.load_rdms))
    compute, bootstrap = call.compute(), call.bootstrap()
    scores = call.evaluate(model, brain, stimuli=images, pairs=pairs, bootstrap=bootstrap, device=compute)
    scores = call.correct(scores)
    scores.settings.update(record)
    if group:
        scores = replace(scores, frame=pd.concat([scores.frame, scores.group_rows()], ignore_index=True))
    scores.save(out)
    _draw_scores(scores, figure)
    typer.echo(f"{scores}\n")
    for note in notes:
        typer.echo(f"note: {note}")
    written = " and scores.png" if figure == out / "scores.png" else f"; the figure is {figure}"
    typer.echo(f"{out} holds scores.csv, differences.csv, evaluation.h5, evaluation.json{written}")


def _model_rdms(source: str, labels: Path | None) -> RDMs:
    """Model RDMs. The labels are the ids of a file without ids; a file without names gives its own name."""
    import neurordl as nrl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if labels is not None else "default")
        rdms = nrl.load_rdms(source)
    if labels is not None and "stimulus" not in rdms.pattern_descriptors:
        rdms = nrl.load_rdms(source, labels=labels)
    if not {"layer", "name"} & set(rdms.rdm_descriptors):
        stem = Path(source).stem
        numbered = [f"{stem}_{k + 1}" for k in range(rdms.n_rdm)]
        rdms.rdm_descriptors["name"] = numbered if rdms.n_rdm > 1 else [stem]
    return rdms


def _draw_scores(scores: Evaluation, path: Path) -> None:
    """Write the figure, in the format of its suffix."""
    import matplotlib.pyplot as plt

    import neurordl as nrl

    plt.switch_backend("agg")  # there may be no screen
    few = len(scores.settings["layers"]) <= _FEW_LAYERS
    figure = nrl.plot_scores(scores, differences=few, p="p_fdr").get_figure(root=True)
    assert figure is not None
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150)
    plt.close(figure)


@command(app)
def report(
    paths: list[Path], /, out: Path | None = None, reference: str | None = None, title: str | None = None
) -> None:
    """Write what runs, comparisons and studies found as one HTML file, to read offline, print or send.

    Several runs are also set side by side. The file has no path of this machine in it.

    Parameters
    ----------
    paths
        Folders of runs, with the comparisons in folders below them; folders of comparisons; folders of
        studies (run_grid); a folder of several of these; or a CSV table with the column condition.
    out
        The .html file to write. By default it is report.html in the folder PATHS, or in the current folder if
        there are several or it is a file.
    reference
        Condition of a study that is subtracted from the others. By default it is labels, or the first one.
    title
        Heading of the page. By default the names of the folders.

    Examples
    --------
    neurordl report runs/it

    neurordl report runs/labels runs/it runs/permuted --out controls.html
    """
    import matplotlib.pyplot as plt

    from neurordl.report import read_contents, write_report

    plt.switch_backend("agg")  # there may be no screen
    alone = len(paths) == 1 and paths[0].is_dir()
    out = out or (paths[0] if alone else Path()) / "report.html"
    write_report(out, read_contents(paths), reference=reference, title=title)
    typer.echo(f"{out} holds the report")
