"""The command ``train`` of the shell: images, teachers and losses of a run, or of the runs of a study."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from neurordl.cli.options import Call, Calls, Takes, app, check_files, command
from neurordl.cli.sources import LOAD, READ, SELECT, notes_on_network
from neurordl.cli.study import check_study, run_study
from neurordl.errors import NeurordlError
from neurordl.io import CHECKPOINT, RUN_RECORD, check_run_folder, read_json
from neurordl.validate import check_choice

if TYPE_CHECKING:
    from neurordl.stimuli import StimulusSet
    from neurordl.training.run import Run

_LABELLED = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar100_stretched")
_TABLE = "or give a CSV or TSV file with the columns path, id and label"
_COARSE = 16  # pixels: photographs of this size or above can be told apart
_N_OUTPUTS = 10  # of a student without labelled images


def read_labelled(
    labelled: str,
    n_labelled: int | None = None,
    test: Path | None = None,
    classes: Sequence[str] | None = None,
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
        Number of labelled images to draw with --seed, equally many of each class; one draw serves all runs of
        a study. By default all images are used.
    test
        Table of test images like that of the labelled ones: the run records the accuracy on them. By default
        they are the test part of the data set, where it has one.
    classes
        Names of the classes in the order of the student's outputs, where a table has names as labels, or a
        file with them (.txt, or a table with the column class). By default names are numbered in natural
        order, which may be another one than that of a checkpoint.
    seed
        Seed of the draw.
    preprocessing
        As in `StimulusSet.from_table`, for the images of a table.
    """
    from neurordl import datasets
    from neurordl.stimuli import StimulusSet

    tested, order = None, _class_order(classes)
    if Path(labelled).suffix:
        images = StimulusSet.from_table(labelled, classes=order, **preprocessing)
    elif order is not None:
        raise NeurordlError(
            f"--classes is for the names in a table, and {labelled} has its own; leave it out"
        )
    elif check_choice("--labelled", labelled, _LABELLED, _TABLE) == "digits":
        images, tested = datasets.load_digits().split(held_out=0.25, seed=0, stratify="label")
    else:
        images, tested = (datasets.DATASETS[labelled](part) for part in ("train", "test"))
    if test is not None:
        tested = StimulusSet.from_table(test, classes=order, **images.preprocessing.as_dict())
    for option, part in (("--labelled", images), ("--test", tested)):
        if part is not None and part.labels is None:
            raise NeurordlError(f"{option} {part.source}: the table has no column 'label'")
    if tested is not None and (tested.classes is None) != (images.classes is None):
        problem = f"the labels of --test {test} and --labelled {labelled} are names in one of both"
        raise NeurordlError(f"{problem} and numbers in the other; write them alike")
    assert images.labels is not None
    n_classes = len(order) if order else int(images.labels.max()) + 1  # of all images, drawn or not
    return images if n_labelled is None else images.draw(n_labelled, seed), tested, n_classes


def _class_order(classes: Sequence[str] | None) -> list[str] | None:
    """Names of classes, or those in the file that is named in their place."""
    from neurordl.rdms.files.tables import read_names

    if classes is not None and len(classes) == 1 and Path(classes[0]).suffix:
        return read_names(Path(classes[0]), ("class", "label", "name"))
    return None if classes is None else list(classes)


@command(
    app,
    student=Takes(
        "students.loading:load_network",
        "name:student checkpoint:student_checkpoint",
        panel="Student",
        defaults={"name": "small_cnn"},
    ),
    labelled=Takes(
        "cli.train:read_labelled", "labelled n_labelled test classes", panel="Student", optional=True
    ),
    read=replace(READ, optional=True),
    load_rdms=LOAD,
    select_rdms=SELECT,
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
    fit=Takes("fit", "epochs seed validation resume", panel="Training", defaults={"resume": True}),
    batches=Takes("Batches", "labelled:batches_labelled stimuli:batches_stimuli", panel="Training"),
    optimization=Takes("Optimization", panel="Training"),
    execution=Takes("Execution", panel="Execution"),
)
def train(
    out: Path,
    stimuli: Path | None = None,
    held_out: str = "0.25",
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
        Folder for the run, or, with --controls, for the study. If it exists, the same command goes on where
        it was interrupted, and leaves what has finished as it is; of other files or settings it says what
        differs, and needs another folder.
    student
        Network to train: small_cnn, nin, cifar_resnet, resnet18, mlp, torchvision:NAME, timm:NAME, or a
        function of your own that makes it, package.module:factory or FILE.py:factory.
    student_checkpoint
        File with the weights with which training starts: .safetensors; .pth, .pt or .ckpt of torch; or .npz.
    held_out
        Share of the stimuli that is held out from training, 0 for none; or a file with their ids (.txt, or a
        table with the column id). Labelled images that are their pictures are left out, with their count.
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
        its initial weights. Runs are scored by the accuracy on test images, and by the similarity with the
        RDMs, or else with the network that teaches, on held-out stimuli or else test images.
    seeds
        Number of seeds of a study (0, 1, ...), or the seeds themselves. Later calls may add seeds and
        controls.
    validation
        Share of the training stimuli that is not trained on. The run's student has the weights of the epoch
        with the lowest loss on them.
    resume
        Continue exactly from the checkpoint in the folder --out. A new run starts if there is none, and a
        finished run is left as it is. With --no-resume a folder that holds a run is refused.

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
        check_study(out, permuted, resume, call.execution)
    finished = call.controls.absent and _has_finished(out)
    fraction = _fraction(held_out)
    files = {"labelled": table if table.suffix else None}
    check_files(files | {"held_out": Path(held_out) if fraction is None else None})
    _check_teachers(call, stimuli, loss)
    prepared = _preparation(call, table, stimuli)
    import torch

    import neurordl as nrl
    from neurordl.students.loading import is_own
    from neurordl.training.run import few_steps

    labelled: Any = call.labelled(seed=seed, **prepared)
    images, test, n_classes = labelled or (None, None, _N_OUTPUTS)
    shown = None if stimuli is None else _read_stimuli(images, call.images, stimuli)
    exchanged = permuted or not call.controls.absent  # controls may be added to a study
    teachers = _make_teachers(call, images, shown, n_classes, exchanged)
    fitted = shown
    if shown is not None and fraction != 0:
        fitted = shown.split(_read_ids(held_out) if fraction is None else fraction, seed)[0]
        images = _without(images, shown.subset(fitted.held_out_ids))
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
        run_study(call, out, (build, losses, teachers), (test, rest), settings)
        return
    if permuted:
        teachers = [teacher.permuted(first.ids, seed) for teacher in teachers]
    torch.manual_seed(seed)
    student, task = build(), {"task": None} if images is None else {}
    run = call.fit(student, nrl.Objective(losses(*teachers), **task), **settings, out=out)
    if not _speaks():
        return
    if finished:
        share = "" if test is None else f"; test accuracy {_accuracy(run, test):.4f}"
        typer.echo(f"{out} holds this run, which had finished: nothing was trained{share}")
        return
    history = run.history.drop(columns="seconds").tail(3)
    typer.echo(history.to_string(index=False, float_format="%.4f"))
    if note := few_steps(run.record):
        typer.echo(f"note: {note}")
    if test is not None:
        typer.echo(f"test accuracy {_accuracy(run, test):.4f}")
    following = ["neurordl", "report", str(out)]
    if not call.read.absent and fitted is not None and fitted.held_out_ids:
        words = [
            word for part in (call.read, call.load_rdms, call.select_rdms) for word in part.words.values()
        ]
        following = ["neurordl", "compare", str(out), *chain(*words), *call.teacher.words.get("roi", ())]
        following += call.student.words["name"] if is_own(call.student.values["name"]) else []
        following += ["--out", str(out / "scores")]
    typer.echo(f"\n{out} holds the run. Next: {shlex.join(following)}")


def _fraction(held_out: str) -> float | None:
    """The share that is held out; None for a file with ids."""
    try:
        return float(held_out)
    except ValueError:
        return None


def _read_ids(path: str) -> list[str]:
    from neurordl.rdms.files.tables import read_names

    return read_names(Path(path), ("id", "stimulus"))


def _without(images: StimulusSet | None, held_out: StimulusSet) -> StimulusSet | None:
    """The labelled images but for the pictures of held-out stimuli, which training must not show."""
    from neurordl.stimuli.fingerprints import find_copies

    if images is None:
        return None
    same = find_copies(images.fingerprints, held_out.fingerprints).identical
    if not same.any():
        return images
    rest = [name for name, copy in zip(images.ids, same, strict=True) if not copy]
    if not rest:
        problem = f"--labelled: all {len(images)} images are pictures of held-out stimuli"
        raise NeurordlError(f"{problem}; give others, or hold out fewer of the stimuli with --held-out")
    if _speaks():
        text = f"{same.sum()} of {len(images)} labelled images are pictures of held-out stimuli"
        typer.echo(f"note: {text}, and are left out")
    return images.subset(rest)


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
        for note in notes_on_network(name, call.network, call.shown, "teacher-") if _speaks() else ():
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


def _has_finished(out: Path) -> bool:
    """Whether there is a finished run. A notice says where a run cannot go on, but starts again."""
    record = out / RUN_RECORD
    if record.is_file() and not (out / CHECKPOINT).is_file():
        if _speaks():
            typer.echo(f"note: {out} holds no checkpoint to go on from; the run starts anew", err=True)
        return False
    return record.is_file() and read_json(record).get("status") == "finished"


def _accuracy(run: Run, test: StimulusSet) -> float:
    """The accuracy on test images, which is computed unless the record of the run has it."""
    import neurordl as nrl

    recorded = run.record.get("test") or {}
    return recorded["accuracy"] if recorded.get("sha256") == test.sha256 else nrl.record_accuracy(run, test)
