"""Reports: what a run, its evaluations, several runs or a study found, as one HTML file to send.

The file needs no other file and no network. It has no absolute path of the machine that wrote it, prints, and
follows the dark mode of the reader. A folder beside it has each figure as PDF and SVG, for papers and slides.
"""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, takewhile
from pathlib import Path

import pandas as pd

from neurordl import io
from neurordl.errors import NeurordlError, notify
from neurordl.experiments import ROWS, RUNS, SETTINGS
from neurordl.report.content import (
    Entry,
    Grid,
    Scores,
    citations,
    entry_sections,
    grid_sections,
    side_by_side,
    weight_checksums,
)
from neurordl.report.page import Section, figure_files, render
from neurordl.report.time import TimeTests
from neurordl.rsa.scores import COLUMNS, Evaluation
from neurordl.training.run import Run, read_run
from neurordl.validate import check_choice, check_columns, counted, listed, without_paths

__all__ = ["read_contents", "write_report"]

EVALUATION, TABLE = "evaluation.json", "scores.csv"
# Tables of differences, and what they must have.
_DIFFERENCES = {
    "differences.csv": ("layer_a", "layer_b", "roi", "difference"),
    "roi_differences.csv": ("layer", "roi_a", "roi_b", "difference"),
}
_TEXT = {
    "layer",
    "layer_a",
    "layer_b",
    "roi",
    "roi_a",
    "roi_b",
    "subject",
    "comparison",
    "family",
    "generalizes_to",
}
_TEXT |= {"pairs", "fitted", "reason", "dissimilarity"}

Origin = dict[str, object]
Content = Run | Evaluation | Entry | Grid | pd.DataFrame


def write_report(
    path: str | os.PathLike[str],
    contents: Mapping[str, Content | Sequence[Content]],
    *,
    reference: str | None = None,
    title: str | None = None,
    figures: bool = True,
) -> Path:
    """Write a report of runs, evaluations and studies as one HTML file, and its figures beside it.

    Parameters
    ----------
    path
        The file to write, named ``.html``. An earlier one is replaced.
    contents
        What to report, by name: a run, an evaluation, a sequence of a run and its evaluations, or the table
        of a study (`run_grid`) with the column ``condition``. In a sequence, results of `time_clusters` and
        `latencies` follow the evaluation to which they belong. Its columns of decimal numbers are its
        measures, and the others say which rows are paired. Several runs or evaluations are also set side by
        side. A table has no settings: what `read_contents` reads from the folder of a study has, and its
        report says how the runs were trained and scored.
    reference
        Condition of a study that is subtracted from the others. By default it is "labels", or the first
        condition if there is none of this name.
    title
        Heading of the page; by default the names.
    figures
        Write each figure also as PDF and SVG, numbered as on the page, into a folder beside the file:
        ``report_figures`` for ``report.html``. An earlier folder is replaced. The page does not need it.

    Returns
    -------
    Path
        The file.

    Warns
    -----
    UserWarning
        The content is a table alone.

    Raises
    ------
    NeurordlError
        There is nothing to report, the contents are of another type, a table has no condition or no measure,
        the reference is unknown, the folder of the figures holds other files, or nothing can be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from neurordl.report import write_report
    >>> import neurordl as nrl
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> ids = [f"s{number}" for number in range(12)]
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> scores = nrl.evaluate({"first": people.subset("subject", "s01")}, people)
    >>> with TemporaryDirectory() as folder:
    ...     file = write_report(Path(folder) / "report.html", {"pilot": scores})
    >>> file.name
    'report.html'
    """
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise NeurordlError(f"cannot write {path}: a report is one HTML file; name it .html")
    parts = [_prepared(str(name), content, reference) for name, content in contents.items()]
    origin = json.dumps(_origin(parts, title))
    entries = [part for part in parts if isinstance(part, Entry)]
    grids = [part for part in parts if isinstance(part, Grid)]
    if not contents:
        raise NeurordlError("there is nothing to report: contents= is empty; give a run, or an evaluation")
    with _damage_named([entry.folder for entry in entries if entry.folder]):
        sections = _sections(entries, grids)
    page = render(title or listed(contents, most=6), _lead(entries, grids), sections, origin)
    with io.atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
        if figures:
            io.write_folder(figures_folder(path), figure_files(sections), (".pdf", ".svg"))
    return Path(path)


def report_origin(
    contents: Mapping[str, Content | Sequence[Content]],
    reference: str | None = None,
    title: str | None = None,
) -> Origin:
    """What `write_report` makes a report of: its settings, and a checksum of each content."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # which is given when the report is written
        parts = [_prepared(str(name), content, reference) for name, content in contents.items()]
    return _origin(parts, title)


def read_origin(path: str | os.PathLike[str]) -> Origin | None:
    """What a report was made of; None if it does not say, or is no report."""
    text = Path(path).read_bytes().decode(errors="replace")
    match = re.search(r'<meta name="neurordl-origin" content="([^"]*)">', text)
    try:
        origin = json.loads(html.unescape(match[1])) if match else None
    except ValueError:
        return None
    return origin if isinstance(origin, dict) else None


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether the folder of the figures is beside a report, if it has figures."""
    return figures_folder(path).is_dir() or b"<svg" not in Path(path).read_bytes()


def _origin(parts: Sequence[Entry | Grid], title: str | None) -> Origin:
    named = {f"the content of {without_paths(part.name)}": _checksum(part) for part in parts}
    shown = title and without_paths(title)
    return {"title": shown, "version": io.versions()["neurordl"], **named}


def _checksum(part: Entry | Grid) -> str:
    """A checksum of all that is reported of a content, the same in memory, from its files, and elsewhere."""
    if isinstance(part, Grid):
        runs = {name: _checksum(entry) for name, entry in part.runs.items()}
        return io.sha256_json([_cells(part.frame), part.measures, part.reference, part.settings, runs])
    run = part.run and [part.run.record, _cells(part.run.history), weight_checksums(part.run)]
    tables = [
        [x.record, *map(_cells, (x.frame, x.differences, x.roi_differences, *x.tests.tables))]
        for x in part.scores
    ]
    return io.sha256_json(without_paths(io.json_text([run, tables])))


def _cells(frame: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """The cells of a table as text; numbers as far as each reader of a file finds them again."""
    columns = []
    for name, column in frame.drop(columns="seconds", errors="ignore").items():  # of the epochs of a run
        try:
            cells = [f"{value:.12g}" for value in column.astype(float)]
        except (ValueError, TypeError):
            cells = column.fillna("").astype(str).tolist()
        columns.append((str(name), cells))
    return columns


def figures_folder(path: str | os.PathLike[str]) -> Path:
    """The folder of the figures of a report."""
    return Path(path).with_name(f"{Path(path).stem}_figures")


def _damage_named(folders: Sequence[Path]) -> contextlib.AbstractContextManager[None]:
    """Name the folders of records that are not as they were written; errors of objects in memory stay."""
    remedy = "fit or evaluate again"
    return io.damage_named(listed(map(str, folders)), remedy) if folders else contextlib.nullcontext()


def _sections(entries: Sequence[Entry], grids: Sequence[Grid]) -> list[Section]:
    several = len(entries) > 1
    sections = list(chain.from_iterable(map(grid_sections, grids)))
    sections += [side_by_side(entries)] if several else []
    for entry in entries:
        with _damage_named([entry.folder] if entry.folder else []):
            sections += entry_sections(entry, several)
    sections.append(citations(entries, grids, io.versions()["neurordl"]))
    return [section for section in sections if section.blocks]


def _lead(entries: Sequence[Entry], grids: Sequence[Grid]) -> str:
    runs, scores = sum(entry.run is not None for entry in entries), sum(len(x.scores) for x in entries)
    counts = {"run": runs, "evaluation": scores, "study": len(grids)}
    parts = [counted(n, name) for name, n in counts.items() if n]
    return f"{' and '.join(parts)}. Every number on this page comes from the records and tables."


def _prepared(name: str, content: object, reference: str | None) -> Entry | Grid:
    """A part of the report, checked."""
    if isinstance(content, pd.DataFrame):
        remedy = "for these, give the folder of the study instead (read_contents)"
        notify(f"{name} is a table alone: its report has no methods, settings and versions; {remedy}")
        measures = [str(column) for column in content if pd.api.types.is_float_dtype(content[column])]
        content = Grid(name, content, [x for x in measures if not x.startswith("ceiling_")])
    if isinstance(content, Grid):
        return _checked(content, reference)
    if isinstance(content, Entry):
        return content
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else [content]
    runs = [part for part in parts if isinstance(part, Run)]
    scores = [part for part in parts if isinstance(part, Evaluation)]
    tests = {id(part): _tables_after(part, parts) for part in scores}
    known = [*runs, *scores, *chain.from_iterable(tests.values())]
    if not parts or len(known) < len(parts) or len(runs) > 1:
        expected = "a Run, an Evaluation with its tests over time, a run with its evaluations, or a table"
        raise NeurordlError(f"{name!r} is {content!r:.60}: expected {expected}")
    read = [_scores_of(part, tests[id(part)], name) for part in scores]
    return Entry(name, runs[0] if runs else None, read)


def _tables_after(evaluation: Evaluation, parts: Sequence[object]) -> list[pd.DataFrame]:
    """The tables that follow an evaluation, up to the next one."""
    place = next(k for k, part in enumerate(parts) if part is evaluation)
    following = takewhile(lambda part: not isinstance(part, Evaluation), parts[place + 1 :])
    return [part for part in following if isinstance(part, pd.DataFrame)]


def _scores_of(evaluation: Evaluation, tables: Sequence[pd.DataFrame], name: str) -> Scores:
    """The tables of an evaluation, with its clusters and onsets."""
    frames = (evaluation.to_frame(), evaluation.record, evaluation.differences, evaluation.roi_differences)
    return Scores(*frames, tests=TimeTests.of(tables, evaluation.frame, name))


def _checked(grid: Grid, reference: str | None) -> Grid:
    check_columns(f"the table {grid.name}", grid.frame, ["condition"])
    frame = grid.frame.astype({"condition": str})
    if not grid.measures or not len(frame):
        raise NeurordlError(f"the table {grid.name} has no rows, or no column of decimal numbers to compare")
    conditions = list(dict.fromkeys(frame["condition"]))
    if reference is None:
        reference = "labels" if "labels" in conditions else conditions[0]
    check_choice("reference", reference, conditions)
    checked = replace(grid, frame=frame, reference=reference)
    if checked.keys and frame.duplicated(["condition", *checked.keys]).any():
        keys = f"{listed(checked.keys)}: give it columns of text or whole numbers that tell its rows apart"
        raise NeurordlError(f"the table {grid.name} has a condition twice with the same {keys}")
    return checked


def read_contents(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Content]:
    """Read what files and folders hold, for `write_report`.

    Parameters
    ----------
    paths
        Folders of runs, with the evaluations in folders below them; of evaluations; of studies (`run_grid`);
        folders of runs of several of these; or tables of a study, CSV.

    Returns
    -------
    dict
        The contents by the names of their files or folders.

    Raises
    ------
    NeurordlError
        A path holds nothing of these, or a file is damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from neurordl.experiments import run_grid
    >>> from neurordl.report import read_contents
    >>> jobs = [{"condition": name, "seed": seed} for name in ("labels", "rdl") for seed in range(3)]
    >>> with TemporaryDirectory() as folder:
    ...     study = Path(folder) / "study"
    ...     table = run_grid(jobs, lambda condition, seed: {"score": 0.5}, study, progress=False)
    ...     contents = read_contents([study])
    >>> list(contents)
    ['study']
    """
    contents: dict[str, Content] = {}
    for path in map(Path, paths):
        for part, content in _read(path):
            name = part.resolve().stem if part.is_file() else part.resolve().name
            name = name if name not in contents else f"{part.resolve().parent.name}/{name}"
            if name in contents:
                raise NeurordlError(f"{part}: there are two contents named {name!r}; rename one")
            contents[name] = content
    return contents


def _read(path: Path) -> list[tuple[Path, Content]]:
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        with io.damage_named(path):
            return [(path, pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ","))]
    if (path / io.RUN_RECORD).is_file():
        return [(path, _read_entry(path))]
    if (path / EVALUATION).is_file():
        return [(path, Entry(path.resolve().name, None, [read_scores(path)], path))]
    if (path / SETTINGS).is_file() and (path / ROWS).is_dir():
        return [(path, _read_grid(path))]
    known = (io.RUN_RECORD, EVALUATION, SETTINGS)
    below = sorted({file.parent for name in known for file in path.glob(f"*/{name}")})
    if not below:
        problem = f"{path} holds no run ({io.RUN_RECORD}), no evaluation ({EVALUATION}) and no study ({ROWS})"
        raise NeurordlError(f"{problem}; give the folder of one, or a CSV table with the column condition")
    return [pair for folder in below for pair in _read(folder)]


def _read_entry(folder: Path) -> Entry:
    """A run, with the evaluations in folders below it."""
    scores = [read_scores(file.parent) for file in sorted(folder.glob(f"*/{EVALUATION}"))]
    return Entry(folder.resolve().name, read_run(folder), scores, folder)


def read_scores(folder: Path) -> Scores:
    """An evaluation, as `Evaluation.save` wrote it."""
    of_layers, of_rois = (
        _read_table(folder / name, columns) if (folder / name).is_file() else pd.DataFrame()
        for name, columns in _DIFFERENCES.items()
    )
    return Scores(_read_table(folder / TABLE, COLUMNS), io.read_json(folder / EVALUATION), of_layers, of_rois)


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A table of an evaluation, with text as such and all else as numbers."""
    with io.damage_named(path, "evaluate again"):
        frame = io.read_frame(path, keep=sorted(_TEXT))
        check_columns(str(path), frame, columns)
        for name in frame.columns.difference(list(_TEXT)):
            frame[name] = [float(cell or "nan") for cell in frame[name]]
    return frame


def _read_grid(folder: Path) -> Grid:
    """The rows of a study, as `run_grid` wrote them."""
    rows, measures = [], dict[str, None]()
    for file in sorted((folder / ROWS).glob("[!.]*.json")):
        row = io.read_json(file)
        with io.damage_named(file, "delete it to run its job again"):
            values = {name: float(value) for name, value in row["values"].items()}
            rows.append({**row["job"], **values})
            measures |= dict.fromkeys(values)
    names = [name for name in measures if not name.startswith("ceiling_")]
    frame = pd.DataFrame(rows)
    by = [str(name) for name in frame if name not in measures]
    frame = frame.sort_values(by, kind="stable", ignore_index=True)
    runs = {
        path.parent.name: _read_entry(path.parent)
        for path in sorted((folder / RUNS).glob(f"*/{io.RUN_RECORD}"))
        if io.read_json(path).get("status") == "finished"
    }
    return Grid(folder.resolve().name, frame, names, settings=io.read_json(folder / SETTINGS), runs=runs)
