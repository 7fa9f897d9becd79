from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from examples import demo
from neurordl import datasets
from neurordl.errors import NeurordlError
from neurordl.rsa.evaluate import evaluate

TINY = demo.Setting(epochs=1, teacher_epochs=2)


@pytest.fixture(scope="module")
def images():
    return datasets.load_digits().split(held_out=0.3, seed=0, stratify="label")[1]


@pytest.fixture(scope="module")
def world(images):
    return demo.World(images, TINY)


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "results"
    threads = torch.get_num_threads()
    report = demo.run_demo(out, seeds=2, setting=TINY, images=images, progress=False)
    assert torch.get_num_threads() == threads
    return out, report


def test_the_table_has_its_columns_and_rows(finished):
    out, _ = finished
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = "experiment condition seed test_accuracy heldout_rdm_similarity ceiling_lower ceiling_upper"
    assert list(rows[0]) == expected.split()
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        assert 0 <= float(row["test_accuracy"]) <= 1
        assert -1 <= float(row["heldout_rdm_similarity"]) <= 1
        if row["experiment"] == "dnn":
            assert row["ceiling_lower"] == row["ceiling_upper"] == ""
        else:
            assert 0 < float(row["ceiling_lower"]) < float(row["ceiling_upper"]) < 1


def test_the_report_holds_tables_differences_and_settings(finished):
    out, report = finished
    frame = pd.read_csv(out / "results.csv")
    table = frame.pivot(index=["experiment", "seed"], columns="condition", values="heldout_rdm_similarity")
    for experiment in ("dnn", "subjects"):
        for other in ("labels", "permuted"):
            mean = (table["rdl"] - table[other]).loc[experiment].mean()
            (line,) = [
                text
                for text in report.splitlines()
                if text.split()[:4] == [experiment, "rdl", "-", other] and "similarity" in text
            ]
            assert f"{mean:+.4f}" in line
    assert report.count("rdl - ") == 8
    assert "layer conv3, weight 10, 1 epochs" in report
    assert "100 to 102" not in report  # that was another setting
    assert "none (one teacher)" in report


def test_the_figure_is_a_picture(finished):
    with Image.open(finished[0] / "figure.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 300
    assert pixels.std() > 5


def test_a_second_run_only_reads(finished, images, monkeypatch):
    out, report = finished
    monkeypatch.setattr(demo, "World", lambda *_: pytest.fail("nothing is left to run"))
    before = (out / "results.csv").read_bytes()
    assert demo.run_demo(out, seeds=2, setting=TINY, images=images, progress=False) == report
    assert (out / "results.csv").read_bytes() == before


def test_rows_of_another_setting_or_code_are_not_taken_for_these(images, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "World", lambda *_: None)
    monkeypatch.setattr(demo, "_code", lambda: "this")
    values = iter(range(1000))

    def results(setting):
        demo.run_demo(tmp_path, seeds=2, setting=setting, images=images, progress=False)
        return pd.read_csv(tmp_path / "results.csv")["test_accuracy"].tolist()

    names = ("test_accuracy", "heldout_rdm_similarity", "ceiling_lower", "ceiling_upper")
    monkeypatch.setattr(demo, "fit_and_score", lambda *_: dict.fromkeys(names, next(values)))
    assert results(TINY) == list(range(12))
    assert results(demo.SETTING) == list(range(12, 24))
    assert results(TINY) == list(range(12))
    monkeypatch.setattr(demo, "_code", lambda: "other")
    assert results(TINY) == list(range(24, 36))


def test_no_student_trains_on_test_images_or_is_scored_by_its_teachers(world):
    assert not set(world.train.ids) & set(world.test.ids)
    for teacher in world.teachers.values():
        assert set(teacher.match(world.train.ids).matched) == set(world.train.ids)
        with pytest.raises(NeurordlError):
            teacher.match(world.test.ids)
    for rdms in world.scored.values():
        assert set(rdms.pattern_descriptors["stimulus"]) == set(world.test.ids)
    scoring = {str(name) for name in world.scored["subjects"].rdm_descriptors["subject"]}
    assert len(scoring) == demo.N_SUBJECTS
    assert not scoring & set(world.teachers["subjects"].subjects)


def test_conditions_share_initial_weights_labelled_images_and_steps(world, monkeypatch):
    seen: dict[str, dict] = {}
    fitted = demo.nrl.fit

    def spy(student, objective, labelled, stimuli, epochs, **options):
        first = {name: tensor.clone() for name, tensor in student.state_dict().items()}
        run = fitted(student, objective, labelled, stimuli, epochs, **options)
        seen[condition] = {
            "first": first,
            "labelled": labelled.ids,
            "seed": options["seed"],
            "steps": run.history["step"].iloc[-1],
            "last": {name: tensor.clone() for name, tensor in student.state_dict().items()},
        }
        return run

    monkeypatch.setattr(demo.nrl, "fit", spy)
    for condition in demo.CONDITIONS:
        demo.fit_and_score(world, "dnn", condition, seed=3)
    for other in ("rdl", "permuted"):
        for name, tensor in seen["labels"]["first"].items():
            assert torch.equal(tensor, seen[other]["first"][name])
        for name in ("labelled", "seed", "steps"):
            assert seen["labels"][name] == seen[other][name]
    assert len(seen["labels"]["labelled"]) == demo.N_LABELLED
    for one, other in (("labels", "rdl"), ("rdl", "permuted"), ("permuted", "labels")):
        assert not torch.equal(seen[one]["last"]["conv1.0.weight"], seen[other]["last"]["conv1.0.weight"])


def test_a_row_is_reproduced_bit_for_bit(world):
    once, again = (demo.fit_and_score(world, "subjects", "rdl", seed=1) for _ in range(2))
    assert once == again


def test_a_row_agrees_with_evaluate(world, monkeypatch):
    runs = []
    fitted = demo.nrl.fit
    monkeypatch.setattr(
        demo.nrl, "fit", lambda *streams, **options: runs.append(fitted(*streams, **options)) or runs[-1]
    )
    row = demo.fit_and_score(world, "subjects", "rdl", seed=2)
    scores = evaluate(
        runs[0],
        world.scored["subjects"],
        stimuli=world.test,
        layers="conv3",
        comparison=demo.COMPARISON,
        pairs="held-out",
    ).to_frame()
    mean = scores[scores["subject"] == "mean"].iloc[0]
    assert mean["fitted"] == "stimuli: no, subjects: no"
    for name, theirs in (("heldout_rdm_similarity", "score"), ("ceiling_lower",) * 2, ("ceiling_upper",) * 2):
        assert row[name] == pytest.approx(mean[theirs], abs=1e-12)


def test_the_script_refuses_one_seed_in_a_line(tmp_path):
    script = Path(demo.__file__)
    result = subprocess.run(
        [sys.executable, script, "--seeds", "1", "--out", tmp_path / "out"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "seeds" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
