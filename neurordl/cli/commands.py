"""The commands ``data``, ``train``, ``compare`` and ``report`` of the shell."""

from __future__ import annotations

import inspect
import os
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

import neurordl.cli.rdms  # noqa: F401 - its commands come first in the help
from neurordl.cli.options import Call, Calls, Takes, app, check_files, command
from neurordl.errors import NeurordlError
from neurordl.io import CHECKPOINT, RUN_RECORD, atomic_write, check_folder, check_run_folder, read_json
from neurordl.validate import check_choice

if TYPE_CHECKING:
    import pandas as pd
    from rsatoolbox.rdm.rdms import RDMs

    from neurordl.rsa.scores import Evaluation
    from neurordl.stimuli import StimulusSet
    from neurordl.training.run import Run

_LABELLED = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_stretched")
_TABLE = "or give a CSV or TSV file with the columns path, id and label"
_RDM_FILES = (".h5", ".hdf5", ".mat", ".npz", ".npy", ".csv", ".tsv")
_RESULTS = ("scores.csv", "evaluation.json")  # the files by which a folder holds a comparison
_FIGURES = (".png", ".pdf", ".svg")
_COARSE = 16  # pixels: photographs of this size or above can be told apart
_N_OUTPUTS = 10  # of a student without labelled images
_FEW_LAYERS = 12  # up to so many, the figure shows which layers differ

_READ = Takes("cli.commands:read_rdms", panel="RDMs")
_LOAD = Takes("load_rdms", "name labels subjects_from measure layout similarity diagonal", panel="RDMs")
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
    labelled: str,
    n_labelled: int | None = None,
    test: Path | None = None,
    *,
    seed: int,
    **preprocessing: Any,
) -> tuple[StimulusSet, StimulusSet | None, int]:
    """Read training images, test images where there are some, and the number of classes.

    Parameters
    ----------
    labelled
        Labelled images: digits, mnist, fashion_mnist, cifar10, cifar100, cifar100_stretched (CIFAR-100 with
        stretched contrast, which cannot be downloaded by neurordl), or a CSV or TSV file with the columns
        path, id and label.
    n_labelled
        Number of labelled images to draw with the seed of the run, equally many of each class. By default all
        images are used.
    test
        Table of test images like that of the labelled ones: the run records the accuracy on them. By default
        they are the test part of the data set, where it has one.
    seed
        Seed of the draw.
    preprocessing
        As in `StimulusSet.from_table`, for the images of a table.
    """
    from neurordl import datasets
    from neurordl.stimuli import StimulusSet

    tested = None
    if Path(labelled).suffix:
        images = StimulusSet.from_table(labelled, **preprocessing)
    elif check_choice("--labelled", labelled, _LABELLED, _TABLE) == "digits":
        images, tested = datasets.load_digits().split(held_out=0.25, seed=0, stratify="label")
    else:
        images, tested = (datasets.DATASETS[labelled](part) for part in ("train", "test"))
    if test is not None:
        tested = StimulusSet.from_table(test, **images.preprocessing.as_dict())
    for option, part in (("--labelled", images), ("--test", tested)):
        if part is not None and part.labels is None:
            raise NeurordlError(f"{option} {part.source}: the table has no column 'label'")
    if tested is not None and (tested.classes is None) != (images.classes is None):
        problem = f"the labels of --test {test} and --labelled {labelled} are names in one of both"
        raise NeurordlError(f"{problem} and numbers in the other; write them alike")
    assert images.labels is not None
    n_classes = int(images.labels.max()) + 1  # of all images, drawn or not
    return images if n_labelled is None else images.draw(n_labelled, seed), tested, n_classes


@command(
    app,
    student=Takes(
        "students.loading:load_network",
        "name:student checkpoint:student_checkpoint",
        panel="Student",
        defaults={"name": "small_cnn"},
    ),
    labelled=Takes("cli.commands:read_labelled", "labelled n_labelled test", panel="Student", optional=True),
    read=replace(_READ, optional=True),
    load_rdms=_LOAD,
    select_rdms=_SELECT,
    images=Takes(
        "StimulusSet.from_folder", "labels:stimuli_labels size crop channels mean std", panel="Images"
    ),
    teacher=Takes("RDMTeacher", "roi subjects pool pair_weights shrinkage missing", panel="Teacher: RDMs"),
    network=Takes(
        "students.loading:load_network",
        "name:teacher checkpoint pretrained",
        panel="Teacher: network",
        optional=True,
    ),
    layers=Takes("NetworkTeacher", "layers", panel="Teacher: network"),
    shown=Takes(
        "StimulusSet.from_folder",
        "size:teacher_size channels:teacher_channels mean:teacher_mean std:teacher_std crop:teacher_crop",
        panel="Teacher: network",
    ),
    loss=Takes(
        "RDMLoss", "layer dissimilarity comparison weight scale", panel="Loss", defaults={"layer": "conv3"}
    ),
    controls=Takes("experiments:fit_controls", "controls seeds", panel="Study", optional=True),
    fit=Takes("fit", "epochs seed validation resume", panel="Training"),
    batches=Takes("Batches", "labelled:batches_labelled stimuli:batches_stimuli", panel="Training"),
    optimization=Takes("Optimization", panel="Training"),
    execution=Takes("Execution", panel="Execution"),
)
def train(
    out: Path,
    stimuli: Path | None = None,
    held_out: float = 0.25,
    permuted: bool = False,
    loss: str = "rdm",
    *,
    call: Calls,
) -> None:
    """Train a student on labels and on the geometry of RDMs, or of another network.

    The teacher is a file of RDMs, a network, or both. Without --labelled the student learns from it alone.
    The stimuli are prepared like the labelled images. Some of them are held out: neurordl compare scores the
    run on these.

    Parameters
    ----------
    stimuli
        Folder with the images of the stimuli. Their ids are the names of the files without suffix. RDMs need
        it; without it a network teaches on the labelled images.
    stimuli_labels
        Table (CSV or TSV) with the columns id and label of the stimuli, for losses that need their labels.
    size
        Height and width in pixels to which the images are resized: labelled images of a table with the
        stimuli, or the stimuli alone. Images of a data set have their own.
    crop
        Part around the center that is kept of the stimuli, and of labelled images of a table, before they are
        resized: 1 is the largest part with the proportions of the size. By default they are squashed.
    out
        Folder for the run. It must be new or empty, unless --resume continues the run in it. With --controls
        it is the folder of the study, which the same command continues.
    student
        Network to train: small_cnn, nin, cifar_resnet, resnet18, mlp, torchvision:NAME, timm:NAME, or a
        function of your own that makes it, package.module:factory or FILE.py:factory.
    student_checkpoint
        File with the weights with which training starts: .safetensors; .pth, .pt or .ckpt of torch; or .npz.
    held_out
        Share of the stimuli that is held out from training; 0 holds out none.
    permuted
        Train the control: the ids of the training stimuli are permuted in the RDMs.
    teacher
        Network that teaches: the folder of a run, package.module:factory (importable, or in the current
        folder), FILE.py:factory, torchvision:NAME, timm:NAME, small_cnn, nin, cifar_resnet, resnet18 or mlp.
    layers
        Layers of the network that teaches, or pairs student:teacher, such as conv2:layer3,fc1:avgpool. Each
        pair has a loss; a name alone is paired with --layer. By default it is the output.
    teacher_size
        Height and width of the images that the network is shown. By default they are those of the student, or
        of the run whose folder is given.
    teacher_channels
        Channels of the images that the network is shown, where they are not those of the student: 1 (gray) or
        3 (RGB).
    teacher_mean
        Number that is subtracted from each channel of the images that the network is shown, on a scale from 0
        (black) to 1 (white), or "imagenet".
    teacher_std
        Number by which each channel is divided after that, or "imagenet".
    loss
        Loss of a network that teaches: rdm, soft_targets, decoupled, hint, attention, contrastive, angle,
        similarity, congruence or probabilities. RDMs have the loss rdm.
    layer
        Layer of the student whose RDM is fitted. The default, conv3, is a layer of small_cnn; other students
        need another one.
    comparison
        Comparison of the two RDMs: "corr", "cosine", "corr_cov", "cosine_cov", "cka", "mse" or "huber". By
        default it is "corr".
    seed
        Seed of the initial weights, the held-out stimuli, the drawn labelled images, the permutation, the
        order of the data and dropout. In a study only held-out stimuli, drawn images and a network that
        teaches with random weights have it, and --seeds are those of the runs.
    controls
        Run a study: each of these controls, and the teacher itself, with several seeds. "labels" has the same
        losses with weight 0, "permuted" exchanges the ids of the stimuli in the teachers, "permuted-within"
        exchanges them among stimuli of the same label (--stimuli-labels), and "untrained" is the student with
        its initial weights.
    seeds
        Number of seeds of a study (0, 1, ...), or the seeds themselves. Later calls may add seeds and
        controls.
    validation
        Share of the training stimuli that is not trained on. The run's student has the weights of the epoch
        with the lowest loss on them.
    resume
        Continue exactly from the checkpoint in the folder --out. A new run starts if there is none, and a
        finished run is left as it is.

    Examples
    --------
    neurordl train --labelled mnist --rdms it.h5 --roi IT --stimuli stimuli/ --layer conv3 --out runs/it

    neurordl train --labelled cifar10 --teacher torchvision:resnet18 --pretrained --stimuli stimuli/
    --teacher-size 224 --teacher-mean imagenet --teacher-std imagenet --layers conv2:layer2,conv3:layer3
    --out runs/resnet18

    neurordl train --labelled mnist --teacher runs/large --loss soft_targets --out runs/small

    neurordl train --labelled mnist --rdms it.h5 --roi IT --stimuli stimuli/ --controls labels,permuted
    --seeds 5 --out study

    neurordl train --rdms it.h5 --roi IT --stimuli stimuli/ --size 32 --controls permuted,untrained
    --out study
    """
    table = Path(call.labelled.values.get("labelled", ""))
    seed, resume = call.fit.values["seed"], call.fit.values["resume"]
    if call.controls.absent:
        check_run_folder(out, resume)  # before anything takes time
    else:
        _check_study(out, permuted, resume, call.execution)
    finished = resume and call.controls.absent and _has_finished(out)
    check_files({"labelled": table if table.suffix else None})
    _check_teachers(call, stimuli, loss)
    prepared = _preparation(call, table, stimuli)
    import torch

    import neurordl as nrl
    from neurordl.students.loading import is_own

    labelled: Any = call.labelled(seed=seed, **prepared)
    images, test, n_classes = labelled or (None, None, _N_OUTPUTS)
    shown = None if stimuli is None else _read_stimuli(images, call.images, stimuli)
    exchanged = permuted or not call.controls.absent  # controls may be added to a study
    teachers = _make_teachers(call, images, shown, n_classes, exchanged)
    fitted = shown.split(held_out, seed)[0] if shown is not None and held_out else shown
    first: Any = images if fitted is None else fitted
    build, losses = _student_maker(call, first, n_classes), partial(_make_losses, call, loss, first.ids)
    settings = {
        "labelled": images,
        "stimuli": fitted,
        "batches": call.batches(),
        "optimization": call.optimization(),
        "execution": call.execution(),
    }
    if not call.controls.absent:
        names = fitted.held_out_ids if fitted is not None else ()
        rest = shown.subset(names) if shown is not None and names else None
        _run_study(call, out, (build, losses, teachers), (test, rest), settings)
        return
    if permuted:
        teachers = [teacher.permuted(first.ids, seed) for teacher in teachers]
    torch.manual_seed(seed)
    student, task = build(), {"task": None} if images is None else {}
    run = call.fit(student, nrl.Objective(losses(*teachers), **task), **settings, out=out)
    if not _speaks():
        return
    if finished:
        typer.echo(f"{out} holds this run, which had finished: nothing was trained")
    history = run.history.drop(columns="seconds").tail(3)
    typer.echo(history.to_string(index=False, float_format="%.4f"))
    if test is not None:
        typer.echo(f"test accuracy {nrl.record_accuracy(run, test):.4f}")
    following = ["neurordl", "report", str(out)]
    if not call.read.absent and held_out:
        words = [
            word for part in (call.read, call.load_rdms, call.select_rdms) for word in part.words.values()
        ]
        following = ["neurordl", "compare", str(out), *chain(*words), *call.teacher.words.get("roi", ())]
        following += call.student.words["name"] if is_own(call.student.values["name"]) else []
        following += ["--out", str(out / "scores")]
    typer.echo(f"\n{out} holds the run. Next: {shlex.join(following)}")


def _preparation(call: Calls, table: Path, stimuli: Path | None) -> Mapping[str, Any]:
    """How images are prepared, where options may say so: those of a data set are as they are."""
    chosen = {name: value for name, value in call.images.values.items() if name != "labels"}
    fixed = bool(call.labelled.words) and not table.suffix
    words = [
        text[0] for name, text in call.images.words.items() if name in ("size", "channels", "mean", "std")
    ]
    if fixed and (words := words or ["--crop"] * (chosen.get("crop") is not None and stimuli is None)):
        problem = f"{words[0]} is for images of a table or a folder, and those of {table} have their own"
        raise NeurordlError(f"{problem}; leave it out")
    return {} if fixed else chosen


def _student_maker(call: Calls, images: StimulusSet, n_classes: int) -> Callable[[], Any]:
    """A function that makes a new student for images and classes; one of a user's own has its own shape."""
    from neurordl.students.loading import is_own

    n_channels, *size = images.pixels.shape[1:]
    shape = {"num_classes": n_classes, "in_channels": n_channels, "image_size": tuple(size)}
    return partial(call.student, **({} if is_own(call.student.values["name"]) else shape))


def _check_study(out: Path, permuted: bool, resume: bool, execution: Call) -> None:
    """Refuse what a study cannot do, before anything takes time."""
    check_folder(out)
    if (out / RUN_RECORD).is_file():
        raise NeurordlError(f"{out} holds a run; choose another folder for a study")
    if permuted:
        raise NeurordlError("--permuted is a single run: leave it out, and name permuted in --controls")
    if resume:
        raise NeurordlError("--resume is for a single run: leave it out, since a study always goes on")
    several = [part for part in ("devices", "num_nodes") if execution.values[part] not in (1, [1], [0])]
    if several or os.environ.get("WORLD_SIZE", "1") != "1":
        remedy = "leave out --devices and --num-nodes, and start one command for each of --seeds"
        raise NeurordlError(f"a study fits one run after the other on one device; {remedy}")


def _run_study(
    call: Calls,
    out: Path,
    makers: tuple[Any, Any, list[Any]],
    scored: tuple[StimulusSet | None, StimulusSet | None],
    settings: Mapping[str, Any],
) -> None:
    """Fit each condition with each seed, and write the table, its paired differences and the report."""
    import matplotlib.pyplot as plt
    import pandas as pd

    from neurordl.experiments import all_differences
    from neurordl.io import sha256_array, sha256_file, write_text
    from neurordl.report import read_contents, write_report
    from neurordl.report.content import Grid

    test, rest = scored
    brain = None
    if not call.read.absent and rest is not None:
        brain = call.select_rdms(call.read(call.load_rdms))
    if test is None and brain is None:
        problem = "a study is scored on test images, or on held-out stimuli with RDMs, and there are none"
        raise NeurordlError(f"{problem}; pass --test TABLE, or --rdms and --held-out above 0")
    scoring = {"layer": call.loss.values["layer"], "roi": call.teacher.values.get("roi")}
    scoring["missing"] = call.teacher.values["missing"]
    scorer = partial(_score, test=test, brain=brain, rest=rest, **scoring)
    sums = {"test": test and test.sha256, "held-out stimuli": rest and rest.sha256, **scoring}
    sums["scored RDMs"] = sha256_array(brain.dissimilarities) if brain is not None else None
    start = call.student.values.get("checkpoint")
    sums |= {"student by": call.student.values["name"], "student from": start and sha256_file(start)}
    more = {name: call.fit.values.get(name) for name in ("epochs", "validation")}
    table = call.controls(*makers, scorer, out, fingerprint=sums, **settings, **more)
    ((name, grid),) = read_contents([out]).items()
    assert isinstance(grid, Grid)
    conditions = list(dict.fromkeys(table["condition"]))
    reference = "labels" if "labels" in conditions else conditions[0]
    parts = {x: all_differences(table, x, reference=reference) for x in grid.measures}
    differences = pd.concat(parts, names=["measure"]).reset_index("measure")
    write_text(out / "table.csv", table.to_csv(index=False))
    write_text(out / "differences.csv", differences.to_csv(index=False))
    plt.switch_backend("agg")  # there may be no screen
    write_report(out / "report.html", {name: replace(grid, frame=table)}, reference=reference)
    typer.echo(table.to_string(index=False, float_format="%.4f"))
    typer.echo("\ndifferences of conditions, paired by seed, with 95 % t intervals")
    typer.echo(differences.to_string(index=False, float_format="%.4f"))
    typer.echo(f"\n{out} holds the runs, table.csv, differences.csv and report.html")


def _score(
    run: Run,
    test: StimulusSet | None,
    brain: RDMs | None,
    rest: StimulusSet | None,
    layer: str,
    roi: str | None,
    missing: Any,
) -> dict[str, float]:
    """Test accuracy of a run, and the similarity of its layer with RDMs on held-out stimuli."""
    import neurordl as nrl

    row = {} if test is None else {"test_accuracy": nrl.record_accuracy(run, test)}
    if brain is not None and run.out is not None:
        scores = nrl.evaluate(run, brain, stimuli=rest, layers=layer, roi=roi, missing=missing)
        scores.save(run.out / "scores")
        mean = scores.frame[scores.frame["subject"] == "mean"].iloc[0]
        row["heldout_rdm_similarity"] = mean["score"]
        row |= {name: mean[name] for name in ("ceiling_lower", "ceiling_upper")}
    return row


def _speaks() -> bool:
    """Whether this is the one of several processes that prints."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _check_teachers(call: Calls, stimuli: Path | None, loss: str) -> None:
    """Refuse options that no teacher or loss of the command takes, before anything takes time."""
    if call.labelled.absent and stimuli is None:
        raise NeurordlError("there are no images: pass --stimuli FOLDER, --labelled IMAGES, or both")
    if call.read.absent and call.network.absent:
        raise NeurordlError("nothing teaches the student: pass --rdms FILE, --teacher NETWORK, or both")
    unused = [call.layers, call.shown] if call.network.absent else []
    unused += [call.load_rdms, call.select_rdms, call.teacher] if call.read.absent else []
    for words in chain.from_iterable(part.words.values() for part in unused):
        needed = "--rdms" if call.network.words else "--teacher"
        raise NeurordlError(f"{words[0]} needs {needed}; leave it out, or pass {needed} too")
    if call.network.absent and loss != "rdm":
        raise NeurordlError(f"--loss {loss} reads a network that teaches: pass --teacher NETWORK")
    if not call.read.absent and stimuli is None:
        raise NeurordlError("RDMs are of stimuli: pass --stimuli FOLDER with their images")


def _read_stimuli(images: StimulusSet | None, read: Call, folder: Path) -> StimulusSet:
    """The stimuli of a folder, prepared like the labelled images where there are some."""
    if images is None:
        return cast("StimulusSet", read(folder))
    shape, prepared = images.pixels.shape[1:], images.preprocessing
    size, statistics = tuple(shape[1:]), {"mean": prepared.mean, "std": prepared.std}
    shown: StimulusSet = read(folder, size=size, channels=shape[0], **statistics)
    if _speaks():
        color = "gray" if shape[0] == 1 else "RGB"
        typer.echo(f"stimuli prepared like the labelled images: {shape[1]} x {shape[2]} pixels, {color}")
        if min(shape[1:]) < _COARSE:
            loss = f"at {shape[1]} x {shape[2]} pixels most of what stimuli show is lost"
            typer.echo(f"note: {loss}, and little geometry can be learned; take larger labelled images")
    return shown


def _make_teachers(
    call: Calls, images: Any, shown: StimulusSet | None, n_classes: int, permuted: bool
) -> list[Any]:
    """The RDMs that teach, matched with the stimuli, and the network."""
    teachers: list[Any] = []
    if shown is not None and not call.read.absent:
        teachers.append(call.teacher(call.select_rdms(call.read(call.load_rdms))))
        match = teachers[0].match(shown.ids)  # before the split, whose errors would be about its sizes
        if _speaks():
            typer.echo(f"{match}\n")
    if not call.network.absent:
        teachers.append(_make_network(call, images, shown, n_classes, permuted))
    return teachers


def _make_network(call: Calls, images: Any, shown: StimulusSet | None, n_classes: int, permuted: bool) -> Any:
    """The network that teaches, with a cache where its images are prepared otherwise, or are permuted."""
    import torch

    import neurordl as nrl
    from neurordl.students import STUDENTS

    name, stimuli = call.network.values["name"], images if shown is None else shown
    settings: Mapping[str, Any] | None = call.shown.values if call.shown.words else None
    if Path(name).is_dir():
        for words in [words for argument, words in call.network.words.items() if argument != "name"]:
            raise NeurordlError(f"{words[0]}: the run in {name} has weights; leave it out")
        run = _load_teacher(Path(name))
        network, prepared = run.student, run.preprocessing
        if prepared is not None and prepared != stimuli.preprocessing and settings is None:
            settings = prepared.as_dict()
    else:
        options = {}
        if name in STUDENTS:  # one of this package has the classes of the student
            shape = stimuli.pixels.shape[1:]
            channels = shape[0] if settings is None else settings["channels"]
            options = {"num_classes": n_classes, "in_channels": channels, "image_size": tuple(shape[1:])}
        torch.manual_seed(call.fit.values["seed"])  # for networks with random weights
        network = call.network(**options)
        for note in _notes_on_network(name, call.network, call.shown, "teacher-") if _speaks() else ():
            typer.echo(f"note: {note}")
    cache = stimuli if permuted else None
    if settings is not None:
        cache = _prepared_again(call, images, shown, settings)
    return nrl.NetworkTeacher(network, [layer for _, layer in _pairs(call)], cache=cache)


def _load_teacher(folder: Path) -> Run:
    """The run that teaches; of a network of a user's own the shell takes the name and the weights."""
    import neurordl as nrl
    from neurordl.training.run import LAST, read_run

    if not read_run(folder).record["student"].get("spec"):
        remedy = f"pass --teacher package.module:factory --checkpoint {folder / LAST}"
        raise NeurordlError(f"{folder}: its student is a network of your own; {remedy}")
    return nrl.load_run(folder)


def _prepared_again(
    call: Calls, images: Any, shown: StimulusSet | None, settings: Mapping[str, Any]
) -> StimulusSet:
    """The stimuli, prepared as the network that teaches needs them."""
    from neurordl.stimuli import StimulusSet

    if shown is not None:
        return StimulusSet.from_folder(str(shown.source), **settings)
    labelled = call.labelled.values["labelled"]
    if not Path(labelled).suffix:
        problem = f"the images of {labelled} have one size, and the network that teaches needs others"
        raise NeurordlError(f"{problem}; pass --stimuli FOLDER, or a table as --labelled")
    return StimulusSet.from_table(labelled, **settings).subset(images.ids)


def _pairs(call: Calls) -> list[tuple[str, str]]:
    """Layers of the student, each with that of the network that teaches it."""
    layers = call.layers.values["layers"]
    parts = [name.rpartition(":") for name in ([layers] if isinstance(layers, str) else layers)]
    return [(first if mark else call.loss.values["layer"], last) for first, mark, last in parts]


def _make_losses(call: Calls, name: str, ids: Sequence[str], *teachers: Any) -> list[Any]:
    """An RDMLoss for RDMs, and for a network the losses of this name, one for each pair of layers."""
    from neurordl.teachers import NetworkTeacher
    from neurordl.training import losses as public

    parts = [vars(public)[part] for part in public.__all__]
    known = {part.name: part for part in parts if isinstance(part, type) and hasattr(part, "name")}
    known = {key: part for key, part in known.items() if "teacher" in inspect.signature(part).parameters}
    takes = inspect.signature(known[check_choice("--loss", name, list(known))]).parameters
    losses = [call.loss(teacher) for teacher in teachers if not isinstance(teacher, NetworkTeacher)]
    chosen = {key: value for key, value in call.loss.values.items() if key in call.loss.words}
    for key in [] if losses else [key for key in chosen if key not in takes]:
        raise NeurordlError(f"{call.loss.words[key][0]} is not an option of --loss {name}; leave it out")
    if "layer" not in takes and call.layers.words:
        raise NeurordlError(f"--layers: the loss {name} reads the outputs of both networks; leave it out")
    settings = {key: value for key, value in chosen.items() if key in takes and key != "layer"}
    settings |= {"ids": ids} if "ids" in takes else {}
    for teacher in teachers:
        if isinstance(teacher, NetworkTeacher):
            pairs = [(teacher[layer], first) for first, layer in _pairs(call)]
            losses += [
                known[name](*pair, **settings) for pair in (pairs if "layer" in takes else [(teacher,)])
            ]
    return losses


def _notes_on_network(name: str, network: Call, prepared: Call, prefix: str = "") -> list[str]:
    """What is doubtful about the weights of a network by name, and about the images that it is shown."""
    notes, packaged = [], name.startswith(("torchvision:", "timm:"))
    if not (network.values.get("checkpoint") or network.values.get("pretrained")):
        weights = "the weights that it sets itself" if ":" in name and not packaged else "random weights"
        remedy = "; --pretrained takes the trained ones" if packaged else ""
        notes.append(f"no checkpoint was given: {name} has {weights}{remedy}")
    unset = [f"--{prefix}{part}" for part in ("size", "mean", "std") if prepared.values.get(part) is None]
    if unset and packaged:
        unprepared = f"without {' and '.join(unset)} the images are not prepared as in its training"
        most = f"--{prefix}size 224 --{prefix}mean imagenet --{prefix}std imagenet"
        notes.append(f"{name}: {unprepared}; most take {most}")
    return notes


def _has_finished(out: Path) -> bool:
    """Whether the run to resume has finished. A notice says where there is none to resume."""
    if not (out / CHECKPOINT).is_file() and _speaks():
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
    student=Takes("students.loading:load_network", "name:student", panel="Network", optional=True),
    network=Takes("students.loading:load_network", "checkpoint pretrained", panel="Network"),
    read_images=Takes("StimulusSet.from_folder", "size crop channels mean std", panel="Network"),
    compute=Takes("Compute", "device batch_size", panel="Network"),
)
def compare(
    sources: list[str],
    /,
    out: Path,
    stimuli: Path | None = None,
    figure: Path | None = None,
    group: bool = False,
    overwrite: bool = False,
    *,
    call: Calls,
) -> None:
    """Compare the layers of runs, of a network, or model RDMs with the RDMs of subjects.

    A run is compared on its held-out stimuli, unless --pairs says otherwise. Several runs have one table with
    the column run, one figure and a report, and a folder below OUT for each of them.

    Parameters
    ----------
    sources
        Folder of a run, or several; folder of a study, whose runs are compared; file of model RDMs; or name
        of a network: package.module:factory, FILE.py:factory, torchvision:NAME, timm:NAME, small_cnn, nin,
        cifar_resnet, resnet18 or mlp.
    student
        Function that makes the student of the runs, package.module:factory or FILE.py:factory, where it is a
        network of your own.
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

    neurordl compare runs/labels runs/it --rdms it.h5 --roi IT --layers conv3 --out results/both
    """
    runs, source = _runs_of(sources), sources[0]
    is_path = ":" not in source and (Path(source).suffix in _RDM_FILES or "/" in source)
    check_files({"source": Path(source) if is_path else None}, unnamed=["source"])
    if call.student.words and not Path(source).is_dir():
        raise NeurordlError(f"--student is for runs, and {source} is no folder of a run; leave it out")
    for words in [*call.network.words.values(), *call.read_images.words.values()]:
        if Path(source).exists():
            purpose = f"is for a network by its name, and {source} is a run or a file of RDMs"
            raise NeurordlError(f"{words[0]} {purpose}; leave it out")
    check_folder(out)
    figure = figure or out / "scores.png"
    if figure.suffix.lower() not in _FIGURES or not (figure.parent.is_dir() or figure.parent == out):
        raise NeurordlError(f"--figure {figure}: expected .png, .pdf or .svg, in a folder that exists")
    earlier = " and ".join(name for name in _RESULTS if (out / name).exists())
    if earlier and not overwrite:
        raise NeurordlError(f"--out {out} holds a comparison already ({earlier}); --overwrite replaces it")
    if runs:
        _compare_runs(call, runs, out, stimuli, figure, group)
        return
    import torch

    import neurordl as nrl

    record = {"source": Path(source).resolve().name}  # no folder of this machine
    images, notes = None, list[str]()
    pairs = call.evaluate.values.get("pairs")
    if Path(source).is_dir():
        model: Any = nrl.load_run(source, call.student())
        images, pairs = model.load_stimuli(stimuli), pairs or "held-out"
    elif pairs is not None:
        raise NeurordlError(f"--pairs is for a run, which knows its fitted stimuli; {source} is not a run")
    elif Path(source).is_file():
        model = _model_rdms(source, *map(call.load_rdms.values.get, ("labels", "diagonal")))
    elif stimuli is None:
        raise NeurordlError(f"a network is compared on images: pass --stimuli FOLDER for {source}")
    else:
        torch.manual_seed(getattr(call.bootstrap(), "seed", 0))  # for networks with random weights
        model, images = call.network(source), call.read_images(stimuli)
        checkpoint, pretrained = (call.network.values.get(name) for name in ("checkpoint", "pretrained"))
        record = {"source": source, "checkpoint": checkpoint and checkpoint.name, "pretrained": pretrained}
        notes = _notes_on_network(source, call.network, call.read_images)
    brain = call.select_rdms(call.read(call.load_rdms))
    compute, bootstrap = call.compute(), call.bootstrap()
    scores = call.evaluate(model, brain, stimuli=images, pairs=pairs, bootstrap=bootstrap, device=compute)
    scores = call.correct(scores)
    scores.settings.update(record)
    if group:
        scores = _with_group(scores)
    scores.save(out)
    _draw_scores(scores, figure)
    typer.echo(f"{scores}\n")
    for note in notes:
        typer.echo(f"note: {note}")
    written = " and scores.png" if figure == out / "scores.png" else f"; the figure is {figure}"
    typer.echo(f"{out} holds scores.csv, differences.csv, evaluation.h5, evaluation.json{written}")


def _with_group(scores: Evaluation) -> Evaluation:
    import pandas as pd

    return replace(scores, frame=pd.concat([scores.frame, scores.group_rows()], ignore_index=True))


def _runs_of(sources: Sequence[str]) -> dict[str, Path]:
    """The folders of several runs, or of those of studies, by name; empty for a single source."""
    from neurordl.experiments import RUNS

    folders = list[Path]()
    for source in map(Path, sources):
        study = [] if (source / RUN_RECORD).is_file() else sorted((source / RUNS).glob(f"*/{RUN_RECORD}"))
        folders += [file.parent for file in study] or [source]
    if len(sources) == 1 and folders == [Path(sources[0])]:
        return {}
    if wrong := [str(folder) for folder in folders if not (folder / RUN_RECORD).is_file()]:
        raise NeurordlError(f"{wrong[0]} holds no run; several sources must be folders of runs or of studies")
    names = [folder.resolve().name for folder in folders]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise NeurordlError(f"there are two runs in folders named {repeated[0]}; rename one of them")
    return dict(zip(names, folders, strict=True))


def _compare_runs(
    call: Calls, runs: Mapping[str, Path], out: Path, stimuli: Path | None, figure: Path, group: bool
) -> None:
    """Compare each run with the same RDMs, and set the runs side by side."""
    import neurordl as nrl
    from neurordl.io import make_folder, write_text
    from neurordl.report import write_report
    from neurordl.rsa.scores import rows_of_means, side_by_side

    brain, compute, bootstrap = call.select_rdms(call.read(call.load_rdms)), call.compute(), call.bootstrap()
    pairs = call.evaluate.values.get("pairs") or "held-out"
    models = {name: nrl.load_run(folder, call.student()) for name, folder in runs.items()}
    compared = {}
    for name, run in models.items():
        images = run.load_stimuli(stimuli)
        scores = call.evaluate(run, brain, stimuli=images, pairs=pairs, bootstrap=bootstrap, device=compute)
        scores = call.correct(scores)
        scores.settings.update({"source": name})
        compared[name] = _with_group(scores) if group else scores
    table = side_by_side(compared, **call.correct.values)
    make_folder(out)
    for name, scores in compared.items():  # with p-values that are corrected over all runs
        part = table[table["run"] == name].drop(columns="run").reset_index(drop=True)
        compared[name] = replace(scores, frame=part)
        compared[name].save(out / name)
    write_text(out / "scores.csv", table.to_csv(index=False))
    _draw_scores(_panels(table), figure)
    write_report(out / "report.html", {name: [models[name], scores] for name, scores in compared.items()})
    shown = ["run", "layer", "roi", "score", "ci_low", "ci_high", "p", "p_fdr", "n_stimuli", "fitted"]
    means = rows_of_means(table[table["subject"] == "mean"])
    shown[3:3] = ["time"] if "time" in means else []
    means = means[shown]
    typer.echo(means.to_string(index=False, float_format="%.3f"))
    typer.echo(f"p and p_fdr are one-sided (above zero); p_fdr is over {table['family'].max()}\n")
    typer.echo(f"{out} holds scores.csv, report.html and a folder for each run; the figure is {figure}")


def _panels(table: pd.DataFrame) -> pd.DataFrame:
    """The table for a figure: the more of runs and layers along its axis, the fewer in colors."""
    roi = table["roi"].map(lambda name: f", {name}" if name else "")
    of_layers = table["layer"].replace("", "output") + roi
    if table["run"].nunique() <= of_layers.nunique():
        table = table.assign(roi=table["run"] + roi)
    else:
        table = table.assign(roi=of_layers, layer=table["run"])
    shown = table["roi"].unique()[:_FEW_LAYERS]
    if table["roi"].nunique() > len(shown):
        colors = f"the first {len(shown)} of {table['roi'].nunique()} colors: {', '.join(shown)}"
        typer.echo(f"note: the figure shows {colors}; choose fewer --layers, or fewer runs, for all")
    return table[table["roi"].isin(shown)]


def _model_rdms(source: str, labels: Path | None, diagonal: Any) -> RDMs:
    """Model RDMs. The labels are the ids of a file without ids; a file without names gives its own name."""
    import neurordl as nrl

    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if labels is not None else "default")
        rdms = nrl.load_rdms(source, diagonal=diagonal)
    if labels is not None and "stimulus" not in rdms.pattern_descriptors:
        rdms = nrl.load_rdms(source, labels=labels, diagonal=diagonal)
    if not {"layer", "name"} & set(rdms.rdm_descriptors):
        stem = Path(source).stem
        numbered = [f"{stem}_{k + 1}" for k in range(rdms.n_rdm)]
        rdms.rdm_descriptors["name"] = numbered if rdms.n_rdm > 1 else [stem]
    return rdms


def _draw_scores(scores: Evaluation | pd.DataFrame, path: Path) -> None:
    """Write the figure, in the format of its suffix."""
    import matplotlib.pyplot as plt
    import pandas as pd

    import neurordl as nrl

    plt.switch_backend("agg")  # there may be no screen
    few = not isinstance(scores, pd.DataFrame) and len(scores.settings["layers"]) <= _FEW_LAYERS
    if "time" in (scores if isinstance(scores, pd.DataFrame) else scores.frame):
        axes = nrl.plot_time_course(scores)
    else:
        axes = nrl.plot_scores(scores, differences=few, p="p_fdr")
    figure = axes.get_figure(root=True)
    assert figure is not None
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150)
    plt.close(figure)


@command(app)
def report(
    paths: list[Path],
    /,
    out: Path | None = None,
    reference: str | None = None,
    title: str | None = None,
    figures: bool = True,
) -> None:
    """Write what runs, comparisons and studies found as one HTML file, to read offline, print or send.

    Several runs are also set side by side. The file has no path of this machine in it. A folder beside it has
    each figure as PDF and SVG.

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
    figures
        Write the figures also as PDF and SVG, into a folder beside the file: report_figures for report.html.

    Examples
    --------
    neurordl report runs/it

    neurordl report runs/labels runs/it runs/permuted --out controls.html
    """
    import matplotlib.pyplot as plt

    from neurordl.report import figures_folder, read_contents, write_report

    plt.switch_backend("agg")  # there may be no screen
    alone = len(paths) == 1 and paths[0].is_dir()
    out = out or (paths[0] if alone else Path()) / "report.html"
    write_report(out, read_contents(paths), reference=reference, title=title, figures=figures)
    beside = figures_folder(out)
    drawn = f"; its figures are in {beside}" if figures and beside.is_dir() else ""
    typer.echo(f"{out} holds the report{drawn}")
