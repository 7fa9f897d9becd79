"""The command ``compare`` of the shell: layers of runs or of a network, or model RDMs, and brains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurordl.cli.options import Calls, Takes, app, check_files, command
from neurordl.cli.origin import Origin, as_json, contents_of, is_finished, option_paths, settings_of
from neurordl.cli.sources import LOAD, READ, SELECT, notes_on_network
from neurordl.errors import NeurordlError
from neurordl.io import RUN_RECORD, atomic_write, check_folder, make_folder, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd
    from rsatoolbox.rdm.rdms import RDMs

    from neurordl.report.content import Scores
    from neurordl.rsa.scores import Evaluation

_RDM_FILES = (".h5", ".hdf5", ".mat", ".npz", ".npy", ".csv", ".tsv")
ORIGIN = "origin.json"  # what a comparison is made of, and how far it has come
_RESULTS = ("scores.csv", "evaluation.json")  # the files by which a folder holds a comparison
_SAVED = (*_RESULTS, "differences.csv", "evaluation.h5")  # what `Evaluation.save` always writes
_COUNTS = ("n_subjects", "n_stimuli")  # columns of whole numbers
_FIGURES = (".png", ".pdf", ".svg")
_FEW_LAYERS = 12  # up to so many, the figure shows which layers differ


@command(
    app,
    read=READ,
    load_rdms=LOAD,
    select_rdms=SELECT,
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
        Folder for the tables and the figure. If it exists and was made of the same files with the same
        settings, nothing is computed; otherwise the command says what differs, and --overwrite replaces it.
        If a comparison of several runs is interrupted, the same command goes on with the other runs.
    figure
        File of the figure: .png, .pdf or .svg. By default it is scores.png in the folder --out.
    stimuli
        Folder with the images of the stimuli. By default it is the folder that the run was trained on.
    group
        Also score the mean RDM of the subjects, in rows with the subject "group".
    overwrite
        Replace an earlier comparison that was made of other files or with other settings.
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
    if Path(source).suffix.lower() in (".py", ".safetensors", ".pth", ".pt", ".ckpt"):
        from neurordl.students.loading import explain_file

        raise NeurordlError(explain_file(source))
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
    read = {"sources": list(runs) or [source], "stimuli": stimuli, "figure": figure, "group": group}
    single = [Path(source)] if (Path(source) / RUN_RECORD).is_file() else []
    files = [*_files_of(call, source, [*runs.values()] or single, stimuli), *option_paths(call)]
    job = _Comparison(out, figure, {**settings_of(call, **read), **contents_of(files)})
    if job.is_finished(overwrite):
        return
    if runs:
        _compare_runs(call, runs, job, stimuli, group)
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
        notes = notes_on_network(source, call.network, call.read_images)
    brain = call.select_rdms(call.read(call.load_rdms))
    compute, bootstrap = call.compute(), call.bootstrap()
    scores = call.evaluate(model, brain, stimuli=images, pairs=pairs, bootstrap=bootstrap, device=compute)
    scores = call.correct(scores)
    scores.settings.update(record)
    if group:
        scores = _with_group(scores)
    job.note([])
    scores.save(out)
    _draw_scores(scores, figure)
    job.note([], finished=True)
    typer.echo(f"{scores}\n")
    for note in notes:
        typer.echo(f"note: {note}")
    written = " and scores.png" if figure == out / "scores.png" else f"; the figure is {figure}"
    typer.echo(f"{out} holds scores.csv, differences.csv, evaluation.h5, evaluation.json{written}")


@dataclass(frozen=True)
class _Comparison:
    """Where a comparison is written, and what it is made of; its folder has a note of how far it has come."""

    out: Path
    figure: Path
    origin: Origin

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The note in the folder: the runs that were compared, whether all was written, and the origin."""
        path = self.out / ORIGIN
        return dict(read_json(path)) if path.is_file() else {}

    @property
    def compared(self) -> list[str]:
        """Runs that the same command has compared before, and whose files are there."""
        same = self.recorded.get("origin") == as_json(self.origin)
        return [name for name in self.recorded["runs"] if _is_saved(self.out / name)] if same else []

    @property
    def is_whole(self) -> bool:
        """Whether all that was written is there."""
        runs = self.recorded["runs"]
        files = [self.figure, *(self.out / name for name in ("scores.csv", "report.html") if runs)]
        saved = map(_is_saved, [self.out / name for name in runs] or [self.out])
        return all(saved) and all(file.is_file() for file in files)

    def is_finished(self, overwrite: bool) -> bool:
        """Whether the comparison is there, which is said; another one is refused, or may be replaced."""
        record = self.recorded
        if not record and not any((self.out / name).exists() for name in _RESULTS):
            return False
        same = record.get("origin") == as_json(self.origin)
        if same and not (record["finished"] and self.is_whole):
            return False
        return is_finished(self.out, self.origin, record.get("origin"), overwrite, "a comparison")

    def note(self, runs: Sequence[str], finished: bool = False) -> None:
        """Note the runs that were compared, and at the end that all is written."""
        make_folder(self.out)
        write_json(self.out / ORIGIN, {"finished": finished, "runs": list(runs), "origin": self.origin})


def _is_saved(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _SAVED)


def _files_of(call: Calls, source: str, runs: Sequence[Path], stimuli: Path | None) -> list[Path]:
    """What is read beside the files of the options: runs or RDMs, Python files, and the stimuli."""
    names = [name for name in (source, call.student.values.get("name")) if name and ".py:" in name]
    files = [Path(name.rpartition(":")[0]) for name in names]
    folders = {(read_json(run / RUN_RECORD).get("stimuli") or {}).get("source") for run in runs}
    shown = [stimuli] if stimuli else [Path(folder) for folder in folders if folder]
    return [*(runs or [Path(source)]), *files, *shown]


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
    call: Calls, runs: Mapping[str, Path], job: _Comparison, stimuli: Path | None, group: bool
) -> None:
    """Compare each run with the same RDMs, and set the runs side by side."""
    import neurordl as nrl
    from neurordl.report import read_scores
    from neurordl.rsa.scores import rows_of_means, side_by_side

    out, done = job.out, job.compared
    brain, compute, bootstrap = call.select_rdms(call.read(call.load_rdms)), call.compute(), call.bootstrap()
    pairs = call.evaluate.values.get("pairs") or "held-out"
    rest = {name: nrl.load_run(folder, call.student()) for name, folder in runs.items() if name not in done}
    for name, run in rest.items():
        images = run.load_stimuli(stimuli)
        scores = call.evaluate(run, brain, stimuli=images, pairs=pairs, bootstrap=bootstrap, device=compute)
        scores = call.correct(scores)
        scores.settings.update({"source": name})
        job.note(done)
        (_with_group(scores) if group else scores).save(out / name)
        done.append(name)
        job.note(done)
    # from the files, so that a command that was interrupted writes what another one does
    compared = {name: read_scores(out / name) for name in runs}
    frames = {name: x.frame.astype(dict.fromkeys(_COUNTS, int)) for name, x in compared.items()}
    table = side_by_side(frames, **call.correct.values)
    _write_side_by_side(table, compared, runs, job)
    job.note(done, finished=True)
    shown = ["run", "layer", "roi", "score", "ci_low", "ci_high", "p", "p_fdr", "n_stimuli", "fitted"]
    means = rows_of_means(table[table["subject"] == "mean"])
    shown[3:3] = ["time"] if "time" in means else []
    means = means[shown]
    typer.echo(means.to_string(index=False, float_format="%.3f"))
    if means["p"].notna().any():
        typer.echo(f"p and p_fdr are one-sided (above zero); p_fdr is over {table['family'].max()}\n")
    typer.echo(f"{out} holds scores.csv, report.html and a folder for each run; the figure is {job.figure}")


def _write_side_by_side(
    table: pd.DataFrame, compared: Mapping[str, Scores], runs: Mapping[str, Path], job: _Comparison
) -> None:
    """Write the table, the figure and the report of several runs, and p-values corrected over all of them."""
    from neurordl.io import write_text
    from neurordl.report import write_report
    from neurordl.report.content import Entry
    from neurordl.rsa.scores import with_families
    from neurordl.training.run import read_run

    entries = {}
    for name, scores in compared.items():
        part = table[table["run"] == name].drop(columns="run").reset_index(drop=True)
        title = with_families(scores.record["title"], part[part["subject"] == "mean"])
        scores = replace(scores, frame=part, record={**scores.record, "title": title})
        write_text(job.out / name / "scores.csv", part.to_csv(index=False))
        write_json(job.out / name / "evaluation.json", scores.record)
        entries[name] = Entry(name, read_run(runs[name]), [scores], job.out / name)
    write_text(job.out / "scores.csv", table.to_csv(index=False))
    _draw_scores(_panels(table), job.figure)
    write_report(job.out / "report.html", entries)


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
        single = rdms.n_rdm == 1 or "time" in rdms.rdm_descriptors
        numbered = [f"{stem}_{k + 1}" for k in range(rdms.n_rdm)]
        rdms.rdm_descriptors["name"] = [stem] * rdms.n_rdm if single else numbered
    return rdms


def _draw_scores(scores: Evaluation | pd.DataFrame, path: Path) -> None:
    """Write the figure, in the format of its suffix."""
    import matplotlib.pyplot as plt
    import pandas as pd

    import neurordl as nrl
    from neurordl.plots import plot_model_time
    from neurordl.rsa.scores import time_axes

    plt.switch_backend("agg")  # there may be no screen
    few = not isinstance(scores, pd.DataFrame) and len(scores.settings["layers"]) <= _FEW_LAYERS
    frame = scores if isinstance(scores, pd.DataFrame) else scores.frame
    if len(times := time_axes(frame)) == 2:
        first = frame.iloc[0]
        if len(frame[["layer", "roi"]].drop_duplicates()) > 1:
            typer.echo(f"note: the figure shows {first['layer']} {first['roi']}; report.html shows all")
        axes = plot_model_time(scores, layer=first["layer"], roi=first["roi"])
    elif times:
        axes = nrl.plot_time_course(scores)
    else:
        axes = nrl.plot_scores(scores, differences=few, p="p_fdr")
    figure = axes.get_figure(root=True)
    assert figure is not None
    with atomic_write(path) as aside:
        figure.savefig(aside, dpi=150)
    plt.close(figure)
