from __future__ import annotations

import json
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.experiments import (
    HeldOutScore,
    all_differences,
    crossed_interval,
    fit_controls,
    paired_differences,
    run_grid,
)
from neurordl.io import sha256_state

PAIR = ("experiment", "seed")
JOBS = [{"condition": name, "seed": seed} for name in ("labels", "rdl") for seed in range(3)]


class Work:
    """Counts its calls; fails where it is told to."""

    def __init__(self, fail_at: dict | None = None) -> None:
        self.calls: list[dict] = []
        self.fail_at = fail_at

    def __call__(self, condition: str, seed: int) -> dict[str, float]:
        job = {"condition": condition, "seed": seed}
        if job == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(job)
        return {"score": np.float32(seed + 0.1), "undefined": math.nan, "endless": -math.inf}


def test_a_row_per_job_in_their_order():
    frame = run_grid(JOBS, Work(), progress=False)
    assert list(frame.columns) == ["condition", "seed", "score", "undefined", "endless"]
    assert frame[["condition", "seed"]].to_dict("records") == JOBS
    assert frame["score"].tolist() == pytest.approx([0.1, 1.1, 2.1] * 2)
    assert frame["undefined"].isna().all()


def test_what_is_finished_is_not_run_again(tmp_path):
    out = tmp_path / "deep" / "grid"
    with pytest.raises(KeyboardInterrupt):
        run_grid(JOBS, Work(fail_at=JOBS[4]), out, fingerprint={"epochs": 3}, progress=False)
    assert len(list((out / "rows").glob("*.json"))) == 4
    rest = Work()
    resumed = run_grid(JOBS, rest, out, fingerprint={"epochs": 3}, progress=False)
    assert rest.calls == JOBS[4:]
    pd.testing.assert_frame_equal(resumed, run_grid(JOBS, Work(), progress=False), check_exact=True)
    again = Work()
    fewer = run_grid(JOBS[::-2], again, out, fingerprint={"epochs": 3}, progress=False)
    assert again.calls == []
    assert fewer[["condition", "seed"]].to_dict("records") == JOBS[::-2]
    assert not [file for file in (out / "rows").iterdir() if file.suffix != ".json" or file.name[0] == "."]


def test_rows_of_other_settings_are_refused(tmp_path):
    run_grid(JOBS[:1], Work(), tmp_path, fingerprint={"epochs": 3, "sizes": (1, 2)}, progress=False)
    run_grid(JOBS[:1], Work(), tmp_path, fingerprint={"sizes": (1, 2), "epochs": 3}, progress=False)
    for other in ({"epochs": 4, "sizes": [1, 2]}, {"sizes": [1, 2]}, None):
        with pytest.raises(NeurordlError, match=r"other settings.*epochs.*another folder"):
            run_grid(JOBS[:1], Work(), tmp_path, fingerprint=other, progress=False)
    (tmp_path / "settings.json").unlink()
    with pytest.raises(NeurordlError, match=r"settings.json is missing"):
        run_grid(JOBS[:1], Work(), tmp_path, fingerprint={"epochs": 3}, progress=False)


@pytest.mark.parametrize("damage", ["{", "[]", '{"job": {"condition": "rdl"}}', '{"job": {}, "values": {}}'])
def test_a_damaged_row_is_named(tmp_path, damage):
    run_grid(JOBS[:1], Work(), tmp_path, progress=False)
    (file,) = (tmp_path / "rows").iterdir()
    file.write_text(damage)
    with pytest.raises(NeurordlError, match=file.name):
        run_grid(JOBS[:1], Work(), tmp_path, progress=False)


def test_similar_jobs_have_different_file_names(tmp_path):
    jobs = [{"name": name} for name in ("a/b", "a b", "../a b", "1", 1, 1.0, "x" * 300, "é")]
    frame = run_grid(jobs, lambda name: {"value": len(str(name))}, tmp_path, progress=False)
    assert len(list((tmp_path / "rows").glob("*.json"))) == len(jobs) == len(frame)
    assert {path.name for path in tmp_path.iterdir()} == {"rows", "settings.json"}


def test_jobs_that_make_no_grid_are_refused(tmp_path):
    for jobs, message in (
        ([], "0 jobs"),
        ([{"a": 1}, {"b": 1}], "same keys"),
        ([{"a": 1}, {"a": 1}], "twice"),
    ):
        with pytest.raises(NeurordlError, match=message):
            run_grid(jobs, Work(), tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NeurordlError, match="folder"):
        run_grid(JOBS, Work(), tmp_path / "file", progress=False)


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"experiment": e, "condition": c, "seed": s, "score": rng.normal() + s}
        for e in ("dnn", "subjects")
        for c in ("labels", "rdl", "permuted")
        for s in range(6)
    ]
    return pd.DataFrame(rows)


def test_paired_differences_are_those_of_the_paired_t_test():
    frame = table()
    result = paired_differences(
        frame.sample(frac=1, random_state=1), "score", reference="labels", pair=PAIR, by=["experiment"]
    )
    assert len(result) == 4
    for row in result.to_dict("records"):
        part = frame[frame["experiment"] == row["experiment"]].set_index("seed")
        a, b = (part[part["condition"] == name]["score"] for name in (row["condition"], "labels"))
        expected = stats.ttest_rel(a, b)
        interval = expected.confidence_interval(0.95)
        assert row["difference"] == pytest.approx((a - b).mean())
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
        assert row["n"] == 6


def test_without_groups_all_pairs_count_together():
    frame = table()
    result = paired_differences(frame, "score", reference="permuted", pair=PAIR).set_index("condition")
    a, b = (frame[frame["condition"] == name]["score"].to_numpy() for name in ("rdl", "permuted"))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert result.loc["rdl", "n"] == 12
    assert result.loc["rdl", ["ci_low", "ci_high"]].tolist() == pytest.approx([interval.low, interval.high])


def test_undefined_and_unpaired_values_are_left_out_and_counted():
    frame = table()
    frame.loc[(frame["condition"] == "rdl") & (frame["seed"] == 2), "score"] = np.nan
    frame = frame[~((frame["condition"] == "labels") & (frame["seed"] == 4))]
    result = paired_differences(frame, "score", reference="labels", pair=PAIR, by=["experiment"]).set_index(
        "condition"
    )
    assert result.loc["rdl", "n"].tolist() == [4, 4]
    assert result.loc["permuted", "n"].tolist() == [5, 5]
    single = paired_differences(
        frame[frame["seed"] == 0], "score", reference="labels", pair=PAIR, by=["experiment"]
    )
    assert single["n"].tolist() == [1] * 4
    assert single[["ci_low", "ci_high"]].isna().all(axis=None)
    assert single["difference"].notna().all()


def test_tables_that_cannot_be_paired_are_refused():
    frame = table()
    for options, message in (
        ({"value": "accuracy"}, "accuracy"),
        ({"reference": "none"}, "'labels', 'rdl', 'permuted'"),
        ({"pair": ["seed"]}, "twice"),
        ({"pair": ["fold"]}, "fold"),
        ({"pair": ["seed", "experiment"], "by": ["fold"]}, "fold"),
    ):
        with pytest.raises(NeurordlError, match=message):
            paired_differences(frame, **{"value": "score", "reference": "labels", "pair": PAIR, **options})


def test_a_function_that_returns_a_number_is_refused(tmp_path):
    with pytest.raises(NeurordlError, match="result of function: expected Mapping, got float; return a dict"):
        run_grid([{"x": 1.0}], lambda x: x, str(tmp_path), progress=False)


def test_a_row_is_plain_json(tmp_path):
    run_grid(JOBS[:1], Work(), tmp_path, progress=False)
    (file,) = (tmp_path / "rows").iterdir()
    assert file.name.startswith("labels_0_")
    held = json.loads(file.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert held["job"] == JOBS[0]
    assert held["values"] == {"score": pytest.approx(0.1), "undefined": "nan", "endless": "-inf"}


def test_crossed_interval_is_a_t_interval_where_one_factor_varies() -> None:
    people = np.array([0.1, 0.4, 0.2, 0.3])
    values = np.broadcast_to(people, (3, 2, 4))
    mean, low, high = crossed_interval(values)
    expected = stats.t.interval(0.95, 3, people.mean(), stats.sem(people))
    assert mean == pytest.approx(0.25)
    assert (low, high) == pytest.approx(expected)


def test_crossed_interval_adds_the_variances_of_the_factors() -> None:
    values = np.random.default_rng(0).standard_normal((4, 3, 5))
    variance = sum(
        np.var([np.take(values, k, axis).mean() for k in range(n)], ddof=1) / n
        for axis, n in enumerate(values.shape)
    )
    _, low, high = crossed_interval(values)
    assert (high - low) / 2 > 1.96 * np.sqrt(variance)
    wider = crossed_interval(values, confidence=0.99)
    assert wider[1] < low < high < wider[2]


def test_crossed_interval_covers_at_least_what_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(500):  # 4 folds, 3 seeds, 5 people, each with an effect of its own, and noise
        folds, seeds, people = (rng.standard_normal(shape) for shape in ((4, 1, 1), (1, 3, 1), (1, 1, 5)))
        _, low, high = crossed_interval(folds + seeds + people + rng.standard_normal((4, 3, 5)))
        covered += low <= 0 <= high
    assert covered / 500 >= 0.94


@pytest.mark.parametrize("values", [np.full((2, 2), np.nan), np.ones((3, 1)), np.array(1.0)])
def test_crossed_interval_refuses_what_has_no_interval(values: np.ndarray) -> None:
    with pytest.raises(NeurordlError, match="crossed values need"):
        crossed_interval(values)


def test_crossed_interval_of_what_does_not_vary_is_a_point() -> None:
    assert crossed_interval(np.zeros((3, 2, 2))) == (0.0, 0.0, 0.0)


DIGITS = nrl.datasets.load_digits()
STIMULI, HELD_OUT = DIGITS.subset(DIGITS.ids[:24]).split(held_out=0.25, seed=0)
RDMS = nrl.simulate.simulate_subjects(
    DIGITS.subset(DIGITS.ids[:24]).images().flatten(1), DIGITS.ids[:24], n_subjects=3, seed=0
)
CONDITIONS = ("labels", "permuted", "permuted-within", "teacher")


def small(**changes: Any) -> dict[str, Any]:
    """Arguments of a study of a few steps."""
    return {
        "student": lambda: nrl.students.small_cnn(in_channels=1),
        "losses": lambda teacher: nrl.RDMLoss(teacher, layer="conv3", weight=2.0),
        "teachers": nrl.RDMTeacher(RDMS),
        "score": lambda run: {"test_accuracy": nrl.accuracy(run, DIGITS.subset(DIGITS.ids[100:200]))},
        "controls": CONDITIONS[:-1],
        "seeds": 2,
        "labelled": DIGITS.subset(DIGITS.ids[24:64]),
        "stimuli": STIMULI,
        "epochs": 2,
        "batches": nrl.Batches(labelled=16, stimuli=9),
        "execution": nrl.Execution(progress=False),
        **changes,
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("studies") / "study"
    return out, fit_controls(**small(out=out))


pytestmark = pytest.mark.filterwarnings("ignore:held-out stimuli")


def test_runs_of_a_study_are_those_of_fit(study: tuple[Path, pd.DataFrame]) -> None:
    """Each condition is the same call of `fit` with its teacher and its weight."""
    out, table = study
    assert table["condition"].tolist() == [*CONDITIONS, *CONDITIONS]
    assert table["seed"].tolist() == [0] * 4 + [1] * 4
    teacher = nrl.RDMTeacher(RDMS)
    kinds = dict(zip(STIMULI.ids, STIMULI.labels.tolist(), strict=True))
    taught = {
        "labels": teacher,
        "permuted": teacher.permuted(STIMULI.ids, 1),
        "permuted-within": teacher.permuted(STIMULI.ids, 1, kinds),
        "teacher": teacher,
    }
    arguments = small()
    for name in CONDITIONS:
        torch.manual_seed(1)
        student = arguments["student"]()
        loss = nrl.RDMLoss(taught[name], "conv3", weight=0.0 if name == "labels" else 2.0)
        settings = {key: arguments[key] for key in ("labelled", "stimuli", "epochs", "batches", "execution")}
        run = nrl.fit(student, nrl.Objective(loss), **settings, seed=1)
        written = nrl.load_run(out / "runs" / f"{name}_1")
        assert sha256_state(written.student.state_dict()) == sha256_state(run.student.state_dict())
        row = table[(table["condition"] == name) & (table["seed"] == 1)]
        assert row["test_accuracy"].item() == arguments["score"](run)["test_accuracy"]


WITHOUT_LABELS = {"labelled": None, "stimuli": replace(STIMULI, labels=None)}


def test_a_study_without_labelled_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs learn from the teacher alone, and the untrained student is that before the first step."""

    def score(run: nrl.Run) -> dict[str, float]:
        scores = nrl.evaluate(run, RDMS, stimuli=HELD_OUT, layers="conv3").to_frame()
        return {"similarity": scores.loc[scores["subject"] == "mean", "score"].item()}

    changes = {**WITHOUT_LABELS, "score": score, "controls": ["permuted", "untrained"]}
    shown = {"teachers": nrl.RDMTeacher(RDMS, subjects=["s01"]), "execution": nrl.Execution(progress=True)}
    table = fit_controls(**small(out=tmp_path, **changes, **shown))
    assert table["condition"].tolist() == ["permuted", "untrained", "teacher"] * 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "compiled" not in line]
    assert lines == [
        f"{name}, seed {seed} ({3 * seed + k + 1} of 6)"
        for seed in (0, 1)
        for k, name in enumerate(("permuted", "untrained", "teacher"))
    ]
    again = fit_controls(**small(out=tmp_path, **changes, **shown))
    pd.testing.assert_frame_equal(table, again)

    torch.manual_seed(1)
    student = small()["student"]()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    untrained, trained = (nrl.load_run(tmp_path / "runs" / f"{name}_1") for name in ("untrained", "teacher"))
    assert sha256_state(untrained.student.state_dict()) == sha256_state(before)
    assert untrained.history[["epoch", "step"]].to_numpy().tolist() == [[0, 0]]
    assert untrained.fitted_subjects == trained.fitted_subjects  # it is scored by the same people
    objective = nrl.Objective(nrl.RDMLoss(shown["teachers"], "conv3", weight=2.0), task=None)
    settings = {key: small()[key] for key in ("epochs", "batches", "execution")}
    run = nrl.fit(student, objective, stimuli=WITHOUT_LABELS["stimuli"], **settings, seed=1)
    assert sha256_state(trained.student.state_dict()) == sha256_state(run.student.state_dict())
    assert "task" not in trained.history
    assert "its student has its initial weights" in untrained.to_html(tmp_path / "run.html").read_text()


def test_stimuli_of_rdms_without_an_image_are_said() -> None:
    """Those of a split have one; others are counted and named, by `fit` and by `evaluate`."""
    fewer = DIGITS.subset(DIGITS.ids[:22])
    whole = nrl.StimulusSet(fewer.ids, fewer.pixels, fewer.preprocessing)  # as from a folder that lacks two
    settings = {"epochs": 1, "execution": nrl.Execution(progress=False)}
    objective = nrl.Objective(nrl.RDMLoss(nrl.RDMTeacher(RDMS), "conv3"), task=None)
    text = (
        f"2 of 24 stimuli of the RDMs have no image and are left out: '{DIGITS.ids[22]}', '{DIGITS.ids[23]}'"
    )
    for stimuli, notices in ((whole, [text]), (STIMULI, [])):
        train, held_out = stimuli.split(0.5, 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = nrl.fit(small()["student"](), objective, stimuli=train, **settings)
            scores = nrl.evaluate(run, RDMS, stimuli=held_out, layers="conv3")
        said = [str(warning.message) for warning in caught if "no image" in str(warning.message)]
        assert said == 2 * notices
        for kept in (run.record["notices"], scores.settings["notices"]):
            assert [line for line in kept if "no image" in line] == notices


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", ["training", "scoring"])
def test_an_interrupted_study_goes_on(place: str, study: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    """Killed in a run, or between it and its row: finished runs stay, and the result is the same."""
    out, arguments, passes, scored = tmp_path / "study", small(), 0, list[str]()

    def student() -> torch.nn.Module:
        network = nrl.students.small_cnn(in_channels=1)

        def count(module: Any, images: Any) -> None:
            nonlocal passes
            passes += module.training
            if place == "training" and passes == 23:
                raise Killed

        network.register_forward_pre_hook(count)
        return network

    def score(run: nrl.Run) -> dict[str, float]:
        scored.append(run.out.name)
        if place == "scoring" and len(scored) == 3:
            raise Killed
        return arguments["score"](run)

    with pytest.raises(Killed):
        fit_controls(**small(out=out, student=student, score=score))
    assert 1 < len(list((out / "rows").iterdir())) < 5
    begun = out / "runs" / "permuted-within_0"
    state = json.loads((begun / "run.json").read_text())["status"]
    assert (state, (begun / "last.ckpt").is_file()) == (
        "running" if place == "training" else "finished",
        True,
    )
    before = scored[:2]
    place = "none"
    scored.clear()
    table = fit_controls(**small(out=out, student=student, score=score))
    pd.testing.assert_frame_equal(table, study[1])
    assert not set(before) & set(scored)
    for folder in (out / "runs").iterdir():
        other = study[0] / "runs" / folder.name
        assert (folder / "student.safetensors").read_bytes() == (other / "student.safetensors").read_bytes()


def test_a_study_keeps_its_settings(study: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    out, table = study
    more = fit_controls(**small(out=out, controls=["labels"], seeds=[1]))  # of finished rows
    assert more["test_accuracy"].tolist() == [table["test_accuracy"][k] for k in (4, 7)]
    for changes, message in (
        ({"epochs": 3}, r"differ in epochs \(2 before, 3 now\)"),
        ({"batches": nrl.Batches(labelled=8, stimuli=9)}, r"batches.labelled \(16 before, 8 now\)"),
        ({"losses": lambda teacher: nrl.RDMLoss(teacher, "conv2")}, "losses .*loss 1, layers"),
        ({"teachers": nrl.RDMTeacher(RDMS, subjects=["s01"])}, "loss 1, teacher"),
        ({"stimuli": HELD_OUT}, "stimuli"),
        ({"fingerprint": {"score": "rho-a"}}, r"score \(nothing before, rho-a now\)"),
    ):
        with pytest.raises(nrl.NeurordlError, match=f"holds rows of other settings.*{message}"):
            fit_controls(**small(out=out, **changes))


def pretrained(seed: int) -> dict[str, Any]:
    """The argument of a student with the weights of a checkpoint, as torch loads them."""
    torch.manual_seed(100 + seed)
    checkpoint = nrl.students.small_cnn(in_channels=1).state_dict()

    def student() -> torch.nn.Module:
        network = nrl.students.small_cnn(in_channels=1)
        network.load_state_dict(checkpoint)
        return network

    return {"student": student, "controls": ["untrained"], "epochs": 1}


def test_a_study_refuses_another_checkpoint(tmp_path: Path) -> None:
    """The modules of its student are the same, its weights are not."""
    with pytest.warns(
        UserWarning, match="all 2 seeds start from the same weights; intervals over seeds vary"
    ):
        table = fit_controls(**small(out=tmp_path, **pretrained(0)))
    again = fit_controls(**small(out=tmp_path, **pretrained(0), seeds=[1, 0]))
    assert again["test_accuracy"].tolist() == [table["test_accuracy"][k] for k in (2, 3, 0, 1)]
    message = r"holds runs of a student with other initial weights \(seed 1: no checkpoint is known\)"
    with pytest.raises(NeurordlError, match=message):
        fit_controls(**small(out=tmp_path, **pretrained(1), seeds=[1]))
    torch.save(pretrained(1)["student"]().state_dict(), tmp_path / "other.pth")

    def student() -> torch.nn.Module:
        network = nrl.students.small_cnn(in_channels=1)
        nrl.students.load_weights(network, tmp_path / "other.pth")
        return network

    with pytest.raises(NeurordlError, match=r"no checkpoint before, other\.pth now"):
        fit_controls(**small(out=tmp_path, **{**pretrained(1), "student": student}))


def test_a_study_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Its records lack the initial weights of the students."""
    table = fit_controls(**small(out=tmp_path, **pretrained(0), seeds=1))
    for path in tmp_path.glob("runs/*/run.json"):
        record = json.loads(path.read_text())
        del record["student"]["sha256_weights"]
        path.write_text(json.dumps(record))
    pd.testing.assert_frame_equal(table, fit_controls(**small(out=tmp_path, **pretrained(1), seeds=1)))


def test_a_notice_of_all_runs_is_given_once(tmp_path: Path) -> None:
    """Whether it is of `fit`, of a score or of the study; the records of all runs have it."""

    def score(run: nrl.Run) -> dict[str, float]:
        scores = nrl.evaluate(run, RDMS, stimuli=HELD_OUT, layers="conv3")
        return {"similarity": scores.frame["score"].iloc[-1]}

    few = {"labelled": DIGITS.subset(DIGITS.ids[:64]), "score": score, "epochs": 1}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_controls(**small(out=tmp_path, **few))
    said = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert len(said) == len(set(said))
    assert sum("held-out stimuli are among the labelled images" in text for text in said) == 1
    assert (
        sum(text.startswith("study: only 4 steps in all (epochs: 1, steps in each: 4)") for text in said) == 1
    )
    for path in tmp_path.glob("runs/*/run.json"):
        noted = json.loads(path.read_text())["notices"]
        assert any("held-out stimuli are among the labelled images" in text for text in noted)
    assert sum(warning.filename == __file__ for warning in caught) == len(caught)


def test_students_with_random_weights_of_their_own_are_no_notice(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*start from the same weights")
        fit_controls(**small(out=tmp_path, controls=["untrained"], epochs=1))


def test_the_ready_score_says_that_a_copy_was_trained_on(tmp_path: Path) -> None:
    """A held-out stimulus is among the fitted ones under another id; the study says so once."""
    copy = HELD_OUT.subset(HELD_OUT.ids[:1])
    pixels = torch.cat([STIMULI.images(), copy.images()])
    both = nrl.StimulusSet.from_array(pixels.numpy(), [*STIMULI.ids, "copy"])
    rdms = nrl.simulate.simulate_subjects(pixels.flatten(1), both.ids, n_subjects=2, seed=0)
    changes = {
        "stimuli": both,
        "teachers": nrl.RDMTeacher(rdms),
        "score": HeldOutScore(RDMS, HELD_OUT, "conv3"),
    }
    message = (
        f"^heldout_rdm_similarity: 1 of the 6 held-out stimuli are copies .*: {HELD_OUT.ids[0]} of copy$"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        fit_controls(**small(out=tmp_path, **changes, controls=["labels"], epochs=1))
    assert sum(bool(re.search(message, str(warning.message))) for warning in caught) == 1


def test_the_ready_score_is_that_of_evaluate(tmp_path: Path) -> None:
    """Its values are those of `evaluate` and `record_accuracy`, and its settings are those of the study."""
    test = DIGITS.subset(DIGITS.ids[100:150])
    settings = {"comparison": "corr"}
    score = HeldOutScore(RDMS, HELD_OUT, layer="conv3", test=test, settings=settings)
    teachers = nrl.RDMTeacher(RDMS, subjects=["s01"])
    arguments = small(out=tmp_path, score=score, teachers=teachers, controls=["untrained"], seeds=1, epochs=1)
    table = fit_controls(**arguments)
    for row in table.to_dict("records"):
        run = nrl.load_run(tmp_path / "runs" / f"{row['condition']}_0")
        scores = nrl.evaluate(run, RDMS, stimuli=HELD_OUT, layers="conv3", **settings)
        mean = scores.frame[scores.frame["subject"] == "mean"].iloc[0]
        assert row["heldout_rdm_similarity"] == mean["score"]
        assert (row["ceiling_lower"], row["ceiling_upper"]) == (mean["ceiling_lower"], mean["ceiling_upper"])
        assert row["test_accuracy"] == nrl.accuracy(run, test) == run.record["test"]["accuracy"]
        assert (run.out / "scores" / "evaluation.json").is_file()
    with pytest.raises(NeurordlError, match=r"differ in comparison \(corr before, rho-a now"):
        fit_controls(**{**arguments, "score": replace(score, settings={"comparison": "rho-a"})})
    with pytest.raises(NeurordlError, match="differ in held-out stimuli"):
        fit_controls(**{**arguments, "score": replace(score, stimuli=HELD_OUT.subset(HELD_OUT.ids[:-1]))})


def test_the_ready_score_of_layers_and_rois(tmp_path: Path) -> None:
    """Each layer is compared with the ROI at its place; the value is the mean."""
    parts = []
    for name in ("V1", "IT"):
        parts.append(
            nrl.simulate.simulate_subjects(
                DIGITS.subset(DIGITS.ids[:24]).images().flatten(1),
                DIGITS.ids[:24],
                n_subjects=3,
                seed=len(parts),
            )
        )
        parts[-1].rdm_descriptors["roi"] = [name] * 3
    both = nrl.merge_rdms(parts)
    objective = nrl.Objective(nrl.RDMLoss(nrl.RDMTeacher(RDMS, subjects=["s01"]), "conv3"), task=None)
    quiet = nrl.Execution(progress=False)
    run = nrl.fit(small()["student"](), objective, stimuli=STIMULI, epochs=1, execution=quiet)
    found = HeldOutScore(both, HELD_OUT, layer=["conv1", "conv3"], roi=["V1", "IT"])(run)
    frame = nrl.evaluate(run, both, stimuli=HELD_OUT, layers=["conv1", "conv3"]).frame
    means = frame[frame["subject"] == "mean"].set_index(["layer", "roi"])
    names = ["score", "ceiling_lower", "ceiling_upper"]
    expected = (means.loc[("conv1", "V1"), names] + means.loc[("conv3", "IT"), names]) / 2
    assert list(found.values()) == pytest.approx(list(expected), rel=1e-12)
    with pytest.raises(NeurordlError, match=r"2 means for 1 layer \(ROIs: .*\); choose a ROI with roi="):
        HeldOutScore(both, HELD_OUT, layer="conv3")(run)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "there is nothing to score: give rdms= with stimuli= and layer=, or test="),
        ({"rdms": RDMS}, "stimuli"),
        ({"rdms": RDMS, "stimuli": HELD_OUT}, "layer= is empty"),
        ({"rdms": RDMS, "stimuli": HELD_OUT, "layer": ["a", "b"], "roi": ["IT"]}, "1 ROI for 2 layers"),
        ({"test": DIGITS, "settings": {"pairs": "all"}}, "settings: pairs is set by the score itself"),
    ],
)
def test_wrong_ready_scores(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        HeldOutScore(**arguments)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"controls": ["shuffled"]}, "controls='shuffled': expected"),
        (WITHOUT_LABELS, "'labels' trains on labelled images alone, and there are none; pass labelled="),
        ({"seed": 3}, "seed= is set by the study for each run"),
        ({"seeds": 0}, "seeds"),
        ({"seeds": []}, "seeds= is empty"),
        ({"seeds": [1.5]}, "seeds=1.5: expected a whole number"),
        ({"stimuli": replace(STIMULI, labels=None)}, "permuted-within: the stimuli have no labels"),
        ({"teachers": nrl.NetworkTeacher(nrl.students.small_cnn(in_channels=1), "conv3")}, "needs cached"),
        ({"stimuli": None, "labelled": [(torch.rand(3, 1, 8, 8), torch.arange(3))]}, "list may have none"),
    ],
)
def test_wrong_studies(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(nrl.NeurordlError, match=message):
        fit_controls(**small(out=tmp_path / "study", **changes))
    assert not (tmp_path / "study").exists()


def test_a_study_is_not_written_into_a_run(study: tuple[Path, pd.DataFrame]) -> None:
    with pytest.raises(nrl.NeurordlError, match="holds a run; choose another folder"):
        fit_controls(**small(out=study[0] / "runs" / "labels_0"))


@pytest.mark.parametrize("result", [{"a": "x"}, {"a": None}, {"a": [1.0]}])
def test_a_result_that_is_no_number_names_its_job(result: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"the result of \{'seed': 3\} is not a number for each name"):
        run_grid([{"seed": 3}], lambda seed: result, tmp_path / "grid", progress=False)


def test_a_job_that_is_no_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"the job .*seed.* cannot be written as JSON.*plain numbers"):
        run_grid([{"seed": np.float32(3)}], lambda seed: {"a": 1.0}, tmp_path / "grid", progress=False)


def test_all_differences_have_each_two_conditions_once() -> None:
    values = np.random.default_rng(0).normal(size=(3, 4))
    names = ["teacher", "labels", "permuted"]
    rows = [(name, k, values[j, k]) for j, name in enumerate(names) for k in range(4)]
    table = all_differences(pd.DataFrame(rows, columns=["condition", "seed", "x"]), "x", reference="labels")
    assert list(zip(table["condition"], table["reference"], strict=True)) == [
        ("teacher", "labels"),
        ("permuted", "labels"),
        ("permuted", "teacher"),
    ]
    expected = [values[j].mean() - values[k].mean() for j, k in ((0, 1), (2, 1), (2, 0))]
    np.testing.assert_allclose(table["difference"], expected)


def test_jobs_take_integers_of_numpy(tmp_path: Path) -> None:
    jobs, plain = [{"seed": seed} for seed in np.arange(2)], [{"seed": 0}, {"seed": 1}]
    first = run_grid(jobs, lambda seed: {"a": float(seed)}, tmp_path, progress=False)
    again = run_grid(plain, lambda seed: {"a": math.nan}, tmp_path, progress=False)
    assert first["a"].tolist() == again["a"].tolist() == [0.0, 1.0]
