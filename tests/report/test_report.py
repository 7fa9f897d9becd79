"""Reports: what stands on the page, that it needs no other file, and that it has no path of the machine."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import neurordl as nrl
from neurordl import experiments, io
from neurordl.report import content, page, read_contents, write_report
from neurordl.validate import without_paths
from tests.helpers import random_rdms, random_stimuli, student

QUIET = nrl.Execution(progress=False)
VOID = {"meta", "br", "path", "use"}


class Page(HTMLParser):
    """The page as its reader has it: text, elements, and the cells of its tables by caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(self.source)
        assert not self.open
        self.text = " ".join(" ".join(text for tag, text in self.words if tag != "style").split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))

    def each(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.words if name == tag]


def check(path: Path, figures: int) -> Page:
    """What holds of each report."""
    shown = Page(path)
    assert path.stat().st_size < 3e6
    ids = [attributes["id"] for _, attributes in shown.elements if attributes.get("id")]
    assert len(set(ids)) == len(ids)
    svgs = [attributes for attributes in shown.each("svg") if attributes.get("role") == "img"]
    assert len(svgs) == len(shown.each("svg")) == figures
    titles = [text for text in shown.texts("title") if text.strip()]
    assert len(titles) == figures + 1
    assert len([text for text in shown.texts("desc") if text.strip()]) == figures
    for attributes in svgs:
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    for tag, attributes in shown.elements:  # nothing is loaded, and nothing runs
        assert tag not in ("script", "link", "img", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in shown.source
    assert not any(part in shown.source for part in ("someone at home", f"{Path.home()}/", "/tmp/"))
    for target in shown.each("use") + shown.each("a"):
        assert (target.get("xlink:href") or target.get("href") or "")[1:] in ids
    assert not plt.get_fignums()
    return shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three runs with their evaluations, trained on images in a folder; two have odd names."""
    root = tmp_path_factory.mktemp("someone at home") / "study"
    images = root / "private images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(14):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(images / f"i{k}.png")
    stimuli = nrl.StimulusSet.from_folder(images, 8, 1)
    train, _ = stimuli.split(held_out=5 / 14, seed=0)
    rdms = random_rdms([*stimuli.ids, "<b>extra</b>"], subject=["p1", "p2", "p3", "<i>p4"])
    teacher = nrl.RDMTeacher(rdms, subjects=["p1", "p2"])
    teachers = {"labels": None, "rdl": teacher, "permuted & <b>": teacher.permuted(train.ids, seed=3)}
    labelled = random_stimuli(24, seed=1, labels=np.arange(24) % 4)
    for name, part in teachers.items():
        run = nrl.fit(
            student(),
            nrl.Objective([nrl.RDMLoss(part, "conv3", weight=2.5)] if part is not None else []),
            labelled,
            train,
            2,
            seed=7,
            validation=0.34 if name == "rdl" else None,
            execution=QUIET,
            out=root / "runs" / name,
        )
        for pairs in ("held-out", "fitted") if part is teacher else ("held-out",):
            scores = nrl.evaluate(run, rdms, stimuli=stimuli, layers=["conv2", "conv3"], pairs=pairs)
            scores.save(root / "runs" / name / f"scores_{pairs}")
    return root


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A finished study of three conditions and four seeds."""
    rng = np.random.default_rng(0)
    jobs = [{"condition": name, "seed": k} for name in ("rdl", "labels", "permuted") for k in range(4)]

    def score(condition: str, seed: int) -> dict[str, float]:
        values = {"test_accuracy": 0.5 + 0.1 * (condition == "rdl"), "heldout_rdm_similarity": 0.1}
        return {name: value + 0.01 * rng.standard_normal() for name, value in values.items()}

    experiments.run_grid(jobs, score, tmp_path / "study", progress=False)
    return tmp_path / "study"


def test_a_run_with_its_evaluations(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    write_report(out, read_contents([folder / "runs" / "rdl"]))
    shown = check(out, figures=4)
    record = json.loads((folder / "runs" / "rdl" / "run.json").read_text())
    history = pd.read_csv(folder / "runs" / "rdl" / "history.csv")
    assert "trained for 2 epochs of 1 step with AdamW (learning rate 0.001" in shown.text
    assert "seed 7" in shown.text
    assert "Its task (cross_entropy) had 24 labelled images" in shown.text
    text = "The RDM of layer conv3 (correlation dissimilarities) was fitted to that of the teacher "
    assert (
        f"{text}(2 subjects, averaged, correlation dissimilarities), compared by corr, with weight 2.5."
        in shown.text
    )
    counts = [len(record["stimuli"][name]) for name in ("fitted", "validation", "held_out")]
    sizes = "Of the stimuli, {} were fitted, {} were used to choose the epoch and {} were held out."
    assert sizes.format(*counts) in shown.text
    assert f"The weights are those of epoch {record['best']['epoch']}" in shown.text
    assert f"loss from {history['loss'].iloc[0]:.3f} to {history['loss'].iloc[-1]:.3f}" in shown.text
    assert (
        "by rho-a on held-out pairs of 5 stimuli. Means are over the 2 of them whose RDMs were not fitted."
        in shown.text
    )
    first, last = map(page.number, history["task"])
    assert any(f"Task loss from {first} to {last}; similarity" in text for text in shown.texts("desc"))
    similarity = page.number(1 - history["val_rdm:conv3"].iloc[1])
    assert any(f"{similarity}." in text for text in shown.texts("desc"))
    headings = shown.texts("h2")
    held_out = headings.index("Layers against the noise ceiling: held-out pairs")
    assert headings[held_out + 1] == "Layers against the noise ceiling: fitted pairs"
    for pairs in ("held-out", "fitted"):
        scores = pd.read_csv(folder / "runs" / "rdl" / f"scores_{pairs}" / "scores.csv")
        for row in scores[scores["subject"] == "mean"].itertuples():
            assert page.number(row.score) in shown.texts("td")
            assert str(row.fitted) in shown.texts("td")
    assert "<b>extra</b>" in shown.text  # an id that was not matched, as text
    assert record["versions"]["torch"] in shown.texts("td")
    assert record["stimuli"]["sha256"] in shown.texts("td")
    assert record["notices"]
    assert all(f"Training: {text}" in shown.texts("li") for text in record["notices"])
    assert any("held-out pairs: " in text for text in shown.texts("li"))  # few pairs
    assert "10.3389/fncom.2016.00131" in shown.text


def test_runs_side_by_side(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    write_report(out, read_contents([folder / "runs"]), title="A <b> & more")
    shown = check(out, figures=1 + 2 + 3 + 4)
    assert not shown.each("b")
    assert shown.texts("h1") == ["A <b> & more"]
    assert [x for x in shown.texts("h2") if x in read_names(folder)] == ["labels", "permuted & <b>", "rdl"]
    assert shown.texts("td").count("the ids of the teacher were permuted (seed 3)") == 1
    assert "No transfer loss was used: the student learned from labels only." in shown.text
    assert "Not the same data (labels: 14 stimuli, 4 subjects; " in shown.text
    assert "private images" in shown.text  # the name of the folder that the stimuli are from


def test_accuracies_of_runs_side_by_side(folder: Path, tmp_path: Path) -> None:
    contents: Any = read_contents([folder / "runs"])
    for name, accuracy in (("labels", 0.25), ("rdl", 0.125)):
        contents[name].run.record["test"] = {"accuracy": accuracy, "n": 8, "trained_on": 0}
    shown = check(write_report(tmp_path / "r.html", contents), figures=1 + 1 + 2 + 3 + 4)
    scores = {
        name: pd.read_csv(folder / "runs" / name / "scores_held-out" / "scores.csv") for name in contents
    }
    mean = {
        name: x[(x["subject"] == "mean") & (x["layer"] == "conv3")]["score"].item()
        for name, x in scores.items()
    }
    text = f"labels 0.250 and {page.number(mean['labels'])}; rdl 0.125 and {page.number(mean['rdl'])}."
    text = f"Each mark is a single run, without an interval. Accuracy and similarity: {text}"
    assert any(words.endswith(text) for words in shown.texts("desc"))
    assert "of the runs" in shown.texts("title")[1]
    del contents["rdl"].run.record["test"]  # a single point is no figure
    check(write_report(tmp_path / "r.html", contents), figures=1 + 2 + 3 + 4)


def read_names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "runs").iterdir()}


def test_what_python_and_the_shell_write_is_the_same(folder: Path, tmp_path: Path, shell: Any) -> None:
    path = folder / "runs" / "labels"
    code, printed, errors = shell("report", path, "--out", tmp_path / "shell.html")
    assert code == 0, errors
    figures = tmp_path / "shell_figures"
    assert printed == f"{tmp_path / 'shell.html'} holds the report; its figures are in {figures}\n"
    names = {"figure-01-training-curves", "figure-02-layers-and-the-noise-ceiling-held-out-pairs"}
    assert {file.name for file in figures.iterdir()} == {f"{x}.{y}" for x in names for y in ("pdf", "svg")}
    again = ("report", path, "--out", tmp_path / "shell.html")
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "shell.html", *figures.iterdir())}
    told = "shell.html holds a report of the same files and settings already: nothing was computed\n"
    assert shell(*again)[1].endswith(told)
    assert {file: file.stat().st_mtime_ns for file in written} == written
    code, _, errors = shell(*again, "--title", "Mine")
    assert code == 1
    assert (
        "shell.html holds a report already, of other files or settings, which differ in title (None" in errors
    )
    assert shell(*again, "--title", "Mine", "--overwrite")[0] == 0
    assert Page(tmp_path / "shell.html").texts("h1") == ["Mine"]
    assert shell(*again, "--overwrite")[0] == 0
    shutil.rmtree(figures)
    assert shell(*again)[1].endswith(f"its figures are in {figures}\n")
    (tmp_path / "mine.html").write_text("<html></html>")
    code, _, errors = shell("report", path, "--out", tmp_path / "mine.html")
    assert code == 1
    assert "mine.html exists already, and what it was made of is not recorded" in errors
    shell("report", path, "--out", tmp_path / "bare.html", "--no-figures")
    assert not (tmp_path / "bare_figures").exists()
    assert (tmp_path / "bare.html").read_bytes() == (tmp_path / "shell.html").read_bytes()
    run = nrl.load_run(path)
    assert run.to_html(tmp_path / "run.html") == tmp_path / "run.html"
    shown = check(tmp_path / "run.html", figures=1)
    assert shown.texts("h1") == ["labels"]
    training = next(text for text in shown.texts("p") if text.startswith("The student"))
    assert training in Page(tmp_path / "shell.html").texts("p")


def test_the_shell_says_whose_report_it_is(tmp_path: Path, shell: Any) -> None:
    """A report of something else in the folder stays, and contents of folders below are named."""
    scores = evaluation()
    scores.save(tmp_path / "layers")
    mine = evaluation(subjects=["a", "b"]).to_html(tmp_path / "report.html", title="My paper")
    before = mine.read_bytes()
    assert shell("report", tmp_path)[0] == 1
    assert mine.read_bytes() == before
    code, printed, errors = shell("report", tmp_path, "--overwrite", "--no-figures")
    assert code == 0, errors
    assert "note: the report is of what is in folders below: layers" in printed
    assert Page(mine).texts("h1") == ["layers"]
    code, printed, _ = shell("report", tmp_path / "layers", "--no-figures")
    assert (code, "note:" in printed) == (0, False)


def test_a_run_in_memory_without_stimuli(tmp_path: Path) -> None:
    run = nrl.fit(
        student(), nrl.Objective(), random_stimuli(8, labels=[0, 1, 2, 3] * 2), epochs=1, execution=QUIET
    )
    shown = check(run.to_html(tmp_path / "r.html", title="$a$ <b>"), figures=1)
    assert "trained for 1 epochs" not in shown.text
    assert "trained for 1 epoch of 1 step" in shown.text
    assert "The weights are those of epoch" not in shown.text
    assert "the student's weights" in shown.texts("th")
    assert "There were no notices." in shown.text


def test_each_loss_is_told_by_its_record() -> None:
    network = nrl.NetworkTeacher(student(), ["conv2"])
    brain = nrl.RDMTeacher(random_rdms(["a", "b", "c", "d"], subject=["x"], roi=["IT"]))
    losses = {
        nrl.HintLoss(
            network, "conv2", weight=0.0
        ): "HintLoss on layer conv2 was added with weight 0 (teacher: "
        "Sequential, layer conv2); as a control, the loss had no effect (weight 0).",
        nrl.SoftTargetLoss(
            network, weight=0.5
        ): "SoftTargetLoss on layer output was added with weight 0.5 (teacher: Sequential).",
        nrl.DeepSupervisionLoss(
            "conv1"
        ): "DeepSupervisionLoss on layer conv1 and output was added with weight 1.",
        nrl.HintLoss(
            network, "conv2"
        ): "HintLoss on layer conv2 was added with weight 1 (teacher: Sequential, layer conv2).",
        nrl.RDMLoss(brain.permuted(["a", "b", "c"], seed=4), "fc1", weight=nrl.TaskRatio(0.1)): "The RDM of "
        "layer fc1 (correlation dissimilarities) was fitted to that of the teacher (1 subject, correlation "
        "dissimilarities), compared by corr, with weight TaskRatio(ratio=0.1); as a control, the ids of the "
        "teacher were permuted (seed 4).",
    }
    for loss, sentence in losses.items():
        assert content._loss_sentence(loss.describe()) == sentence


def evaluation(**changes: Any) -> nrl.Evaluation:
    """Model RDMs against those of three subjects in two ROIs; a model is constant, and so undefined."""
    ids = [f"s{k}" for k in range(9)]
    brain = random_rdms(ids, subject=["a", "b", "c"] * 2, roi=["IT"] * 3 + ["V<1>"] * 3)
    models = {"<b>odd</b> $x": random_rdms(ids[::-1], seed=2), "flat": random_rdms(ids, seed=3)}
    models["flat"].dissimilarities[:] = 1.0
    return nrl.evaluate(models, brain, comparison="corr", **changes)


def test_the_notices_of_an_evaluation_are_recorded_and_given(tmp_path: Path) -> None:
    ids = [f"i{k}" for k in range(12)]
    brain = random_rdms(ids, subject=["a", "b"], measure="strange")
    with pytest.warns(UserWarning, match="'strange'") as notices:
        scores = nrl.evaluate(student(), brain, stimuli=random_stimuli(12), layers=["conv3"])
    assert scores.settings["notices"] == [str(notice.message) for notice in notices]
    shown = check(scores.to_html(tmp_path / "r.html"), figures=1)
    assert f"Evaluation of all pairs: {notices[0].message}" in shown.texts("li")


@pytest.mark.parametrize("bootstrap", [None, nrl.Bootstrap("both", n=150, seed=5)])
def test_an_evaluation_of_model_rdms_some_undefined(tmp_path: Path, bootstrap: Any) -> None:
    scores = evaluation(bootstrap=bootstrap)
    shown = check(scores.to_html(tmp_path / "scores.html"), figures=2)
    assert shown.texts("td").count("undefined") == 5  # the mean in each ROI, and its differences
    assert shown.texts("th").count("<b>odd</b> $x") == 2
    assert shown.texts("th").count("<b>odd</b> $x \u2212 flat") == 2
    assert not shown.each("b")
    assert (
        "The RDM of each of 2 models (<b>odd</b> $x, flat) was compared with that of each of 3" in shown.text
    )
    method = "a t test over subjects and"
    if bootstrap is not None:
        method = "150 resamples of subjects and stimuli, with variances by components (seed 5), and"
    text = "Intervals (95 %, two-sided) and p-values (one-sided, mean above zero) come from"
    assert f"{text} {method} generalize to new subjects" in shown.text
    assert ("eLife.82566" in shown.text) == (bootstrap is not None)
    for note in scores.notes:
        assert f"Evaluation of all pairs: {note}" in shown.texts("li")
    assert "yes" in shown.texts("td")  # reordered
    # from its folder
    scores.save(tmp_path / "Evaluation")
    again = write_report(tmp_path / "again.html", read_contents([tmp_path / "Evaluation"]))
    assert again.read_text() == (tmp_path / "scores.html").read_text()


def test_a_study_of_several_experiments_is_of_seeds_in_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"experiment": part, "condition": name, "seed": seed, "score": rng.random()}
        for part in ("a", "b")
        for name in ("labels", "rdl", "permuted")
        for seed in range(3)
    ]
    with pytest.warns(UserWarning, match="a table alone"):
        shown = check(write_report(tmp_path / "r.html", {"two": pd.DataFrame(rows)}), figures=2)
    assert "Intervals are 95 % t intervals over seeds" in shown.text
    assert "6 differences with an interval each" in shown.text
    assert (
        "Differences in score from labels, paired by seed, with 95 % t intervals over 3 seeds: " in shown.text
    )


def test_equal_models_are_called_so(tmp_path: Path) -> None:
    ids = [f"s{k}" for k in range(9)]
    model = random_rdms(ids, seed=2)
    scores = nrl.evaluate({"a": model, "b": model}, random_rdms(ids, subject=["x", "y", "z"]))
    cells = Page(scores.to_html(tmp_path / "r.html")).texts("td")
    assert "equal" in cells
    assert "0\u00a0to\u00a00" not in cells


def test_of_many_differences_the_smallest_p_are_shown(tmp_path: Path) -> None:
    ids = [f"s{k}" for k in range(9)]
    models = {f"m{k}": random_rdms(ids, seed=k) for k in range(12)}
    scores = nrl.evaluate(models, random_rdms(ids, subject=["x", "y", "z"], seed=50))
    shown = Page(scores.to_html(tmp_path / "r.html"))
    rows = [text for text in shown.texts("th") if " \u2212 " in text]
    least = scores.differences.nsmallest(60, "p")
    assert set(rows) == {f"{a} \u2212 {b}" for a, b in zip(least["layer_a"], least["layer_b"], strict=True)}
    assert "Shown are the 60 of 66 with the smallest p" in shown.text


def test_a_study_from_its_folder_and_its_table(study: Path, tmp_path: Path) -> None:
    shown = check(write_report(tmp_path / "a.html", read_contents([study])), figures=3)
    (grid,) = read_contents([study]).values()
    frame = getattr(grid, "frame")  # noqa: B009
    cells = [cell.replace("\u00a0", " ") for cell in shown.texts("td")]
    for reference, names in (("labels", ["permuted", "rdl"]), ("permuted", ["rdl"])):  # each two once
        differences = experiments.paired_differences(frame, "test_accuracy", reference=reference)
        for row in differences[differences["condition"].isin(names)].itertuples():
            text = f"{page.number(row.difference)} ({page.number(row.ci_low)} to {page.number(row.ci_high)})"
            assert cells[cells.index(f"{row.condition} \u2212 {reference}") + 1] == text
    assert "12 runs of 3 conditions (labels, permuted, rdl) with 4 seeds." in shown.text
    frame.loc[0, "test_accuracy"] = np.nan
    frame.to_csv(tmp_path / "study.csv", index=False)
    from_file = write_report(tmp_path / "b.html", read_contents([tmp_path / "study.csv"]), reference="rdl")
    text, cells = Page(from_file).text, Page(from_file).texts("td")
    assert "labels \u2212 rdl" in cells
    assert not [cell for cell in cells if cell.startswith("rdl \u2212")]
    assert "), of 3" in text  # the undefined value is counted


def random_student() -> Any:
    return nrl.students.small_cnn(4, 1, width=4)


def controls(
    folder: Path, rounded: bool = False, student: Any = random_student, controls: Any = ("labels", "permuted")
) -> pd.DataFrame:
    """A finished study of controls whose runs have their evaluations; their values may be rounded."""
    stimuli = random_stimuli(24)
    train, held_out = stimuli.split(held_out=0.5, seed=0)
    rdms = random_rdms(stimuli.ids, subject=["p1", "p2", "p3", "p4"], roi=["IT"] * 4)
    test = random_stimuli(8, seed=5, ids=[f"t{k}" for k in range(8)], labels=[0, 1, 2, 3] * 2)

    def score(run: nrl.Run) -> dict[str, float]:
        scores = nrl.evaluate(run, rdms, stimuli=held_out, layers="conv3", comparison="rho-a")
        assert run.out is not None
        scores.save(run.out / "scores")
        mean = scores.frame[scores.frame["subject"] == "mean"].iloc[0]
        names = ("score", "ceiling_lower", "ceiling_upper")
        similarity, lower, upper = (round(mean[x], 2) if rounded else mean[x] for x in names)
        row = {"heldout_rdm_similarity": similarity, "ceiling_lower": lower, "ceiling_upper": upper}
        return {"test_accuracy": nrl.record_accuracy(run, test), **row}

    return experiments.fit_controls(
        student,
        lambda teacher: nrl.RDMLoss(teacher, "conv3"),
        nrl.RDMTeacher(rdms, roi="IT", subjects=["p1"]),
        score,
        folder,
        controls,
        2,
        labelled=random_stimuli(8, seed=1, ids=[f"l{k}" for k in range(8)], labels=[0, 1, 2, 3] * 2),
        stimuli=train,
        epochs=1,
        execution=QUIET,
    )


@pytest.mark.filterwarnings("ignore:labelled:UserWarning")
def test_the_report_of_a_study_says_how_it_was_done(tmp_path: Path) -> None:
    table = controls(tmp_path / "study", rounded=False)
    shown = check(write_report(tmp_path / "a.html", read_contents([tmp_path / "study"])), figures=3)
    conditions = "labels (the same losses with weight 0); permuted (the ids of the training stimuli were "
    scored = "the mean rho-a of the RDM of conv3 (correlation dissimilarities) with those of 3 subjects in "
    for text in (
        "batches of at most 128 labelled images and 64 stimuli, seeds 0 and 1).",
        f"It was trained in 3 conditions: {conditions}permuted in the teacher); teacher (as described).",
        "Of the stimuli, 12 were fitted and 12 were held out.",
        "Test accuracy is the share of 8 test images that were classified correctly.",
        f"{scored}IT, whose RDMs were not fitted, on held-out pairs of 12 stimuli. The noise ceiling",
        "Intervals are 95 % t intervals over seeds",
        "6 differences with an interval each, not corrected for their number.",
        "Sequential, small_cnn (num_classes 4, in_channels 1, width 4",
        "subjects, scored 3",
        "10.3389/neuro.06.004.2008",
        "10.1371/journal.pcbi.1003553",
    ):
        assert text in shown.text
    assert "RDM similarity, held-out stimuli (rho-a)" in shown.texts("th")
    ceiling = [page.number(table[f"ceiling_{name}"].iloc[0]) for name in ("lower", "upper")]
    assert "\u00a0to\u00a0".join(ceiling) in shown.texts("td")
    assert json.loads((tmp_path / "study" / "settings.json").read_text())["labelled"] in shown.texts("td")
    with pytest.warns(UserWarning, match="alone is a table alone: its report has no methods"):
        alone = Page(write_report(tmp_path / "b.html", {"alone": table}))
    assert "made from a table alone, which has no settings" in alone.text


def test_methods_say_which_labels_of_held_out_stimuli_were_trained_on(tmp_path: Path) -> None:
    stimuli = random_stimuli(24, labels=np.arange(24) % 4)
    train, held_out = stimuli.split(held_out=0.5, seed=0)
    rdms = random_rdms(stimuli.ids, subject=["p1", "p2", "p3"])
    objective = nrl.Objective(nrl.RDMLoss(nrl.RDMTeacher(rdms, subjects=["p1"]), "conv3"))
    with pytest.warns(UserWarning, match="among the labelled images"):
        run = nrl.fit(student(), objective, stimuli, train, epochs=60, execution=QUIET)
    scores = nrl.evaluate(run, rdms, stimuli=held_out, layers="conv3")
    shown = Page(run.to_html(tmp_path / "a.html", scores, figures=False))
    methods = " ".join(shown.texts("p"))
    assert "were held out. Labels of 12 of the held-out ones were trained on, by their ids:" in methods
    assert "Labels of 12 of the 12 held-out stimuli were trained on:" in methods
    assert "in which a student hardly moves" not in shown.text
    short = nrl.fit(student(), objective, train, train, epochs=20, execution=QUIET)
    other = Page(short.to_html(tmp_path / "b.html", figures=False))
    assert (
        "Only 20 steps in all (epochs: 20, steps in each: 1), in which a student hardly moves" in other.text
    )
    assert "were trained on" not in " ".join(other.texts("p"))


@pytest.mark.filterwarnings("ignore:labelled:UserWarning")
def test_seeds_of_a_checkpoint_are_no_replicates(tmp_path: Path) -> None:
    """The student starts from one checkpoint, and each step has all images: only permutations differ."""
    torch.save(random_student().state_dict(), tmp_path / "mine.pth")

    def student() -> Any:
        network = random_student()
        nrl.students.load_weights(network, tmp_path / "mine.pth")
        return network

    same = "ll 2 seeds start from the same weights (checkpoint mine.pth); intervals over seeds vary with "
    repeated = ": the 2 seeds are one run but for rounding, for each step has all images, and an interval"
    with pytest.warns(UserWarning, match="seeds") as caught:
        table = controls(tmp_path / "study", student=student, controls=["labels", "permuted", "untrained"])
    said = [str(warning.message) for warning in caught]
    assert sum(f"study: a{same}" in text for text in said) == 1
    assert sum(f"labels, untrained, teacher{repeated}" in text for text in said) == 1
    assert table.query("condition == 'untrained'")["heldout_rdm_similarity"].nunique() == 1
    shown = check(write_report(tmp_path / "a.html", read_contents([tmp_path / "study"])), figures=3)
    for text in (
        "with the weights of mine.pth, was trained for",
        f"over seeds. A{same}",
        f"Labels, teacher, untrained{repeated}",
        f"Study: a{same}",
        f"Study: labels, teacher, untrained{repeated}",
    ):
        assert text in shown.text
    assert "vary with the initial weights" not in shown.text
    assert "mine.pth" in shown.texts("td")  # among the settings
    cells = shown.texts("td")
    for name in ("teacher", "untrained"):
        after = cells[cells.index(f"{name} \u2212 labels") + 1]
        assert after.endswith("(one run each)")
    differences = [after for name, after in pairwise(cells) if name == "permuted \u2212 labels"]
    assert "\u00a0to\u00a0" in differences[1]  # of the similarity
    controls(tmp_path / "other", student=random_student)
    other = Page(write_report(tmp_path / "b.html", read_contents([tmp_path / "other"])))
    assert "vary with the initial weights and batches" in other.text
    assert "one run" not in other.text


@pytest.mark.filterwarnings("ignore:labelled:UserWarning")
def test_scores_that_no_evaluation_has_are_not_described(tmp_path: Path) -> None:
    controls(tmp_path / "study", rounded=True)
    shown = Page(write_report(tmp_path / "a.html", read_contents([tmp_path / "study"])))
    assert "rho-a of the RDM of" not in shown.text
    assert "The noise ceiling is that" not in shown.text
    assert "RDM similarity, held-out stimuli" in shown.texts("th")


def test_values_without_spread_are_in_words(tmp_path: Path) -> None:
    rows = [
        {
            "condition": name,
            "seed": seed,
            "test_accuracy": accuracy,
            "heldout_rdm_similarity": 0.9 + seed / 20,
        }
        for name, accuracy in (("labels", 1.0), ("rdl", 1.0), ("permuted", 0.9))
        for seed in range(3)
    ]
    with pytest.warns(UserWarning, match="a table alone"):
        shown = check(write_report(tmp_path / "r.html", {"study": pd.DataFrame(rows)}), figures=3)
    cells = shown.texts("td")
    assert cells.count("1 (the same in all 3)") == 2
    assert cells[cells.index("rdl \u2212 labels") + 1] == "none (equal in all 3)"
    assert cells[cells.index("permuted \u2212 labels") + 1] == "\u22120.100 (the same in all 3)"
    assert "of few rows may reach beyond what an accuracy or a similarity can be" in shown.text  # 0.95 ± 0.12
    assert shown.texts("text").count("equal in each pair") == 3


def test_figures_lie_beside_the_report(study: Path, tmp_path: Path) -> None:
    folder, contents = tmp_path / "r_figures", read_contents([study])
    folder.mkdir()
    (folder / "figure-99-earlier.svg").write_text("")
    write_report(tmp_path / "r.html", contents)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    names = ["01-accuracy-and-similarity", "02-paired-differences-of-test_accuracy"]
    names += ["03-paired-differences-of-heldout_rdm_similarity"]
    assert sorted(files) == [f"figure-{name}.{suffix}" for name in names for suffix in ("pdf", "svg")]
    for number, name in enumerate(names, 1):
        assert files[f"figure-{name}.pdf"].startswith(b"%PDF")
        root = ElementTree.fromstring(files[f"figure-{name}.svg"])
        assert root.tag.endswith("svg")
        assert (root[0].text, root[1].tag.endswith("desc")) == (name[3:].replace("-", " ").capitalize(), True)
        assert f"Figure {number}. " in Page(tmp_path / "r.html").text
    write_report(tmp_path / "r.html", contents)
    assert files == {file.name: file.read_bytes() for file in folder.iterdir()}
    before = (tmp_path / "r.html").read_bytes()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(nrl.NeurordlError, match=r"notes.txt is none of the .pdf and .svg files"):
        write_report(tmp_path / "r.html", contents, title="another")
    assert (tmp_path / "r.html").read_bytes() == before
    assert len(list(folder.iterdir())) == 7
    assert {file.name for file in tmp_path.iterdir()} == {"r.html", "r_figures", "study"}


def test_a_folder_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: Any) -> None:
    io.write_folder(tmp_path / "x", {"a.svg": b"1"}, (".svg",))
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if target == tmp_path / "x" and not (Path(source) / "a.svg").is_file():
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(nrl.NeurordlError, match="the disk is full"):
        io.write_folder(tmp_path / "x", {"b.svg": b"2"}, (".svg",))
    assert [file.name for file in tmp_path.rglob("*")] == ["x", "a.svg"]
    io.write_folder(tmp_path / "x", {}, (".svg",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "contents, message",
    [
        ({}, "nothing to report"),
        ({"x": 3}, "'x' is 3: expected a Run, an Evaluation"),
        ({"x": [nrl.Objective()]}, "expected a Run, an Evaluation"),
        ({"t": pd.DataFrame({"seed": [1], "score": [0.5]})}, "condition"),
        ({"t": pd.DataFrame({"condition": ["a"], "n": [1]})}, "no column of decimal numbers"),
        ({"t": pd.DataFrame({"condition": ["a", "b"], "x": [0.5, 1.5]})}, "reference"),
        (
            {"t": pd.DataFrame({"condition": list("aab"), "seed": [1] * 3, "x": [0.5] * 3})},
            "a condition twice with the same seed",
        ),
    ],
)
def test_wrong_contents(tmp_path: Path, contents: Mapping[str, Any], message: str) -> None:
    reference = "c" if message == "reference" else None
    with pytest.raises(nrl.NeurordlError, match=message):
        write_report(tmp_path / "r.html", contents, reference=reference)
    assert not list(tmp_path.iterdir())


def test_wrong_files(folder: Path, tmp_path: Path, shell: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"status": "running"}')
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "evaluation.json").write_text("{}")
    (tmp_path / "scores" / "scores.csv").write_text("layer\nx\n")
    good = folder / "runs" / "labels"
    for arguments, message in (
        ([tmp_path / "empty"], "empty holds no run (run.json), no evaluation"),
        ([tmp_path / "run"], "has not finished"),
        ([tmp_path / "scores"], "scores.csv"),
        ([good, "--out", tmp_path / "x.pdf"], "name it .html"),
        ([good, "--out", tmp_path / "no" / "x.html"], "does not exist; create it"),
        ([tmp_path / "none"], "there is no such file or folder"),
    ):
        code, printed, errors = shell("report", *arguments)
        assert (code, printed) == (1, ""), arguments
        assert message in errors
        assert errors.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


@pytest.mark.parametrize("part", [{"settings": "x"}, {"notes": 3}, {"settings": {"notices": 1.0}}], ids=str)
def test_a_damaged_record_of_an_evaluation_is_named(part: dict[str, Any], tmp_path: Path) -> None:
    evaluation().save(tmp_path / "scores")
    record = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    (tmp_path / "scores" / "evaluation.json").write_text(json.dumps({**record, **part}))
    with pytest.raises(nrl.NeurordlError, match=r"cannot read .*scores: it is damaged.*evaluate again"):
        write_report(tmp_path / "report.html", read_contents([tmp_path / "scores"]))
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("/data/My study/it.h5", "it.h5"),
        ("read /data/a/b.h5, then C:\\Users\\someone\\x.npz", "read b.h5, then x.npz"),
        ("file:///data/someone/x and ~/y/z", "x and z"),
        (f"in {Path.home()}/my files/x.h5", "in my files/x.h5"),
        (
            "https://doi.org/10.3389/fncom and a/b and n/a, 1 / 2",
            "https://doi.org/10.3389/fncom and a/b and n/a, 1 / 2",
        ),
        ("layer1.0/conv", "layer1.0/conv"),
    ],
)
def test_paths_are_cut_to_names(text: str, expected: str) -> None:
    assert without_paths(text) == expected


def test_large_tables_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_ROWS", 3)
    monkeypatch.setattr(content, "_MOST_ROIS", 1)
    monkeypatch.setattr(content, "_MOST_CELLS", 1)
    shown = check(evaluation().to_html(tmp_path / "r.html"), figures=1)
    assert "1 more rows are left out" in shown.text
    assert "the first 1 of 2 ROIs" in shown.text
    assert page.ids_text(["i"] * 2001).endswith("i, i, and 1 more")


def test_numbers_of_a_record_stay_numbers() -> None:
    record = {"seed": 0, "epochs": 1, "steps": 1200, "lr": 1.0, "deterministic": True, "scale": False}
    record |= {
        "pairs": {"": {"a": 3, "b": 3, "c": 3}},
        "few": {"a": 1, "b": 1},
        "mixed": {"a": 1, "b": 1, "c": 2},
    }
    parts = {"pairs": "3, each of 3", "few.a": "1", "few.b": "1"}
    parts |= {"mixed.a": "1", "mixed.b": "1", "mixed.c": "2", "out": "–", "leaks": "–"}
    expected = {"seed": "0", "epochs": "1", "steps": "1200", "lr": "1", "deterministic": "yes", "scale": "no"}
    assert dict(content.flattened(record | {"out": None, "leaks": []})) == expected | parts
