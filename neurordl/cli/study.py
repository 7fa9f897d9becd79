"""The studies of the command ``train``: controls over seeds, with their tables and report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurordl.cli.options import Call, Calls
from neurordl.cli.origin import is_same_report
from neurordl.errors import NeurordlError
from neurordl.io import RUN_RECORD, check_folder

if TYPE_CHECKING:
    import pandas as pd
    from rsatoolbox.rdm.rdms import RDMs

    from neurordl.report.content import Grid
    from neurordl.stimuli import StimulusSet

_MOST_SCORED = 500  # test images whose RDM is compared with that of a network; with all, n² pairs are many


def check_study(out: Path, permuted: bool, resume: bool, execution: Call) -> None:
    """Refuse what a study cannot do, before anything takes time."""
    check_folder(out)
    if (out / RUN_RECORD).is_file():
        raise NeurordlError(f"{out} holds a run; choose another folder for a study")
    if permuted:
        raise NeurordlError("--permuted is a single run: leave it out, and name permuted in --controls")
    if not resume:
        raise NeurordlError("--no-resume is for a single run: leave it out, since a study always goes on")
    several = [part for part in ("devices", "num_nodes") if execution.values[part] not in (1, [1], [0])]
    if several or os.environ.get("WORLD_SIZE", "1") != "1":
        remedy = "leave out --devices and --num-nodes, and start one command for each of --seeds"
        raise NeurordlError(f"a study fits one run after the other on one device; {remedy}")


def run_study(
    call: Calls,
    out: Path,
    makers: tuple[Any, Any, list[Any]],
    scored: tuple[StimulusSet | None, StimulusSet | None],
    settings: Mapping[str, Any],
) -> None:
    """Fit each condition with each seed, and write the table, its paired differences and the report."""
    import pandas as pd

    from neurordl.experiments import HeldOutScore, all_differences
    from neurordl.io import sha256_file
    from neurordl.report import read_contents
    from neurordl.report.content import Grid

    test, rest = scored
    brain, pairs = None, [(call.loss.values["layer"], call.teacher.values.get("roi"))]
    if not call.read.absent and rest is not None:
        brain = call.select_rdms(call.read(call.load_rdms))
    elif not call.network.absent and (rest or test) is not None:
        rest, brain, pairs = _taught(call, makers, rest, test)
    if test is None and brain is None:
        problem = "a study is scored on test images or on held-out stimuli, and there are none"
        raise NeurordlError(f"{problem}; pass --test TABLE, or --stimuli and --held-out above 0")
    layers, rois = zip(*pairs, strict=True)
    missing = {"missing": call.teacher.values["missing"]}
    of_rdms = {} if brain is None else {"rdms": brain, "stimuli": rest, "layer": layers, "roi": rois}
    scorer = HeldOutScore(test=test, **of_rdms, settings=missing)
    start = call.student.values.get("checkpoint")
    sums = {"student by": call.student.values["name"], "student from": start and sha256_file(start)}
    more = {name: call.fit.values.get(name) for name in ("epochs", "validation")}
    table = call.controls(*makers, scorer, out, fingerprint=sums, **settings, **more)
    ((name, grid),) = read_contents([out]).items()
    assert isinstance(grid, Grid)
    conditions = list(dict.fromkeys(table["condition"]))
    reference = "labels" if "labels" in conditions else conditions[0]
    parts = {x: all_differences(table, x, reference=reference) for x in grid.measures}
    differences = pd.concat(parts, names=["measure"]).reset_index("measure")
    # An interval over seeds that are one run would mean nothing.
    single = differences[["condition", "reference"]].isin(grid.repeated).all(axis=1)
    differences.loc[single, ["ci_low", "ci_high"]] = float("nan")
    rows = set(zip(table["condition"], table["seed"], strict=True))
    shown = [row in rows for row in zip(grid.frame["condition"], grid.frame["seed"], strict=True)]
    reported = {name: replace(grid, frame=grid.frame[shown].reset_index(drop=True))}
    if not _write_results(out, {"table": table, "differences": differences}, reported, reference):
        typer.echo(f"{out} holds this study, which had finished: nothing was trained")
        return
    typer.echo(table.to_string(index=False, float_format="%.4f"))
    typer.echo("\ndifferences of conditions, paired by seed, with 95 % t intervals")
    typer.echo(differences.to_string(index=False, float_format="%.4f"))
    typer.echo(f"\n{out} holds the runs, table.csv, differences.csv and report.html")


def _write_results(
    out: Path, tables: Mapping[str, pd.DataFrame], reported: Mapping[str, Grid], reference: str
) -> bool:
    """Write the tables and the report of a study, those that are not there; whether there were any."""
    import matplotlib.pyplot as plt

    from neurordl.io import write_text
    from neurordl.report import write_report

    texts = {out / f"{name}.csv": table.to_csv(index=False) for name, table in tables.items()}
    new = {
        path: text for path, text in texts.items() if not path.is_file() or path.read_bytes() != text.encode()
    }
    for path, text in new.items():
        write_text(path, text)
    page = out / "report.html"
    if is_same_report(page, reported, reference):
        return bool(new)
    plt.switch_backend("agg")  # there may be no screen
    write_report(page, reported, reference=reference)
    return True


def _taught(
    call: Calls, makers: tuple[Any, Any, list[Any]], rest: StimulusSet | None, test: StimulusSet | None
) -> tuple[StimulusSet, RDMs, list[tuple[str, str]]]:
    """Images that no run is trained on, RDMs of the network that teaches for them, and the layers' pairs.

    A pair is a layer of the student with the name of the RDM that teaches it.
    """
    import neurordl as nrl
    from neurordl.report.content import OF_TEACHER
    from neurordl.stimuli import StimulusSet
    from neurordl.teachers import LayerTeacher

    _, losses, teachers = makers
    chosen = rest if rest is not None else test
    assert chosen is not None
    if rest is None and len(chosen) > _MOST_SCORED:
        chosen = chosen.draw(_MOST_SCORED, call.fit.values["seed"])
        text = f"{_MOST_SCORED} of {len(test or ())} test images, drawn with --seed"
        typer.echo(f"similarity with the network that teaches is that of {text}")
    shown, cache = chosen, next(t._cached for t in teachers if isinstance(t, nrl.NetworkTeacher))
    if cache is not None and cache.preprocessing != chosen.preprocessing:
        of_table = call.labelled.values.get("test") if rest is None else None
        again = StimulusSet.from_table(of_table, **cache.preprocessing.as_dict()) if of_table else cache
        shown = again.subset(chosen.ids)
    pairs: list[tuple[str, str]] = []
    rdms: dict[str, RDMs] = {}
    for loss in losses(*teachers):
        if isinstance(source := loss.teacher, LayerTeacher):
            name = f"{source.layer or 'the output'} {OF_TEACHER}"
            pairs.append((loss.layers[0], name))
            if name not in rdms:
                patterns = nrl.extract_patterns(source.network._model, shown, source.layer)
                rdms[name] = nrl.compute_rdms(patterns, dissimilarity=source.dissimilarity)
                rdms[name].rdm_descriptors = {"subject": ["network"], "roi": [name]}
    return chosen, nrl.merge_rdms(rdms), pairs
