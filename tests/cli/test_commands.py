"""The shell: what it prints, what it writes, and how it exits."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from rsatoolbox.rdm import RDMs
from scipy.stats import false_discovery_control

import neurordl as nrl
from neurordl import RDMTeacher, StimulusSet, evaluate, load_rdms, load_run, save_rdms, select_rdms
from neurordl.cli import compare, study
from neurordl.experiments import HeldOutScore, all_differences
from neurordl.io import sha256_state
from tests import docs_files

M = 16


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Labelled images with their table, a folder of stimuli, and RDMs of three subjects in two ROIs."""
    rng = np.random.default_rng(0)
    for folder, n in (("labelled", 24), ("stimuli", M)):
        (tmp_path / folder).mkdir()
        for k in range(n):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{folder}_{k}.png")
    rows = [f"labelled/labelled_{k}.png,i{k},{k % 3}" for k in range(24)]
    (tmp_path / "labelled.csv").write_text("\n".join(["path,id,label", *rows]))
    (tmp_path / "unlabelled.csv").write_text("\n".join(["path,id", *(row.rsplit(",", 1)[0] for row in rows)]))
    order = rng.permutation(M)
    rdms = RDMs(
        rng.random((12, M * (M - 1) // 2)),
        dissimilarity_measure="correlation",
        rdm_descriptors={
            "subject": [f"p{k % 3}" for k in range(12)],
            "roi": ["IT", "EVC"] * 6,
            "session": [k // 6 for k in range(12)],
        },
        pattern_descriptors={"stimulus": [f"stimuli_{k}" for k in order]},
    )
    save_rdms(rdms, tmp_path / "brain.h5")
    return {name: tmp_path / name for name in ("labelled.csv", "unlabelled.csv", "stimuli", "brain.h5")}


def times(folder: Path) -> dict[Path, int]:
    """When each file was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def contents(folder: Path) -> dict[Path, bytes]:
    """What each file holds, but for HDF5."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".h5"]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def train_arguments(data: dict[str, Path], out: Path, **changes: object) -> list[object]:
    given: dict[str, object] = {
        "labelled": data["labelled.csv"],
        "rdms": data["brain.h5"],
        "stimuli": data["stimuli"],
        "out": out,
        "roi": "IT",
        "subjects": "p0,p2",
        "average": "session",
        "epochs": 2,
        "batches-labelled": 8,
        **changes,
    }
    pairs = [(f"--{name}", value) for name, value in given.items() if value is not None]
    return ["train", *(part for pair in pairs for part in pair)]


def test_train_then_compare(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, told, errors = shell(*train_arguments(data, out, validation=0.3, seed=4))
    assert code == 0, errors
    assert re.search(r"stimuli matched with RDMs +16 ", told)
    assert "rdm:conv3" in told
    assert "note: at 8 x 8 pixels most of what stimuli show is lost" in told
    assert f"neurordl compare {out} --rdms {data['brain.h5']}" in told
    run = load_run(out)
    assert run.fitted_subjects == ("p0", "p2")
    assert len(run.held_out_ids) == 4
    assert run.record["settings"]["seed"] == 4
    assert run.record["student"]["spec"]["num_classes"] == 3

    scores = tmp_path / "scores" / "it"
    code, told, errors = shell(
        *("compare", out, "--rdms", data["brain.h5"], "--roi", "IT", "--average", "session", "--out", scores),
        *("--layers", "conv1,fc*", "--comparison", "corr"),
    )
    assert code == 0, errors
    assert sorted(path.name for path in scores.iterdir()) == [
        "differences.csv",
        "evaluation.h5",
        "evaluation.json",
        "origin.json",
        "scores.csv",
        "scores.png",
    ]
    table = pd.read_csv(scores / "scores.csv")
    assert {"conv1", "fc1", "fc2"} <= set(table["layer"])
    assert "conv2" not in set(table["layer"])
    assert set(table["subject"]) == {"p0", "p1", "p2", "mean"}
    assert set(table["n_stimuli"]) == {4}
    assert set(table["pairs"]) == {"held-out"}
    # What the shell prints and writes is what the library says.
    shown = StimulusSet.from_folder(data["stimuli"], size=8).subset(run.held_out_ids)
    own = evaluate(
        run,
        select_rdms(load_rdms(data["brain.h5"]), average="session"),
        stimuli=shown,
        layers="conv1",
        comparison="corr",
        roi="IT",
    )
    expected = own.to_frame().set_index("subject")["score"]
    got = table[table["layer"] == "conv1"].set_index("subject")["score"]
    pd.testing.assert_series_equal(got, expected, rtol=1e-6)
    assert f"{expected['mean']:.3f}" in told
    assert "scores.png" in told


def test_train_takes_names_from_a_file_and_a_diagonal(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    brain = select_rdms(load_rdms(data["brain.h5"]), roi="IT", average="session")
    squares = brain.get_matrices()
    squares[:, range(M), range(M)] = 0.3
    np.savez(tmp_path / "brain.npz", D=squares, ids=np.array(brain.pattern_descriptors["stimulus"]))
    (tmp_path / "names.txt").write_text("ann\nben\ncarl\n")
    changes = {"rdms": tmp_path / "brain.npz", "roi": None, "average": None, "subjects": "ann,carl"}
    names = ("--subjects-from", tmp_path / "names.txt", "--diagonal", "ignore", "--measure", "correlation")
    code, told, errors = shell(*train_arguments(data, tmp_path / "run", **changes), *names)
    assert code == 0, errors
    assert load_run(tmp_path / "run").fitted_subjects == ("ann", "carl")
    assert f"--subjects-from {tmp_path / 'names.txt'} --measure correlation --diagonal ignore" in told


@pytest.mark.parametrize("crop", ["1", "0.5"])
def test_a_crop_is_recorded_and_applied_again(
    shell: Any, data: dict[str, Path], tmp_path: Path, crop: str
) -> None:
    arguments = train_arguments(data, tmp_path / "run", size=8, crop=crop, epochs=1)
    code, _, errors = shell(*arguments)
    assert code == 0, errors
    run = load_run(tmp_path / "run")
    prepared = StimulusSet.from_folder(data["stimuli"], size=8, crop=float(crop))
    assert torch.equal(run.load_stimuli().pixels, prepared.pixels)
    assert run.preprocessing == prepared.preprocessing


@pytest.mark.parametrize("option", ["source", "student", "teacher"])
def test_a_file_in_place_of_a_network_has_its_remedy(
    shell: Any, data: dict[str, Path], tmp_path: Path, option: str
) -> None:
    """The error names what the file defines, which is not run."""
    code_file, weights = tmp_path / "my_net.py", tmp_path / "my_net.pth"
    text = "from torch import nn\nraise SystemExit\ndef make(): ...\nclass _Part(nn.Module): ...\n"
    code_file.write_text(f"{text}class MyNet(nn.Module): ...\n")
    torch.save({}, weights)
    brain = ("--rdms", data["brain.h5"], "--stimuli", data["stimuli"], "--out", tmp_path / "out")
    for file, message in (
        (code_file, f"{code_file} is a file; write {code_file}:MyNet, or another of make"),
        (weights, f"{weights} is a file of weights, which is read into a network; write {code_file}:MyNet"),
        (tmp_path / "none.py", "check the path"),
    ):
        if option == "source":
            code, _, errors = shell("compare", file, *brain)
        else:
            several = ("--roi", "IT", "--average", "session", "--size", "8")
            code, _, errors = shell("train", *brain, *several, f"--{option}", file)
        assert (code, message in " ".join(errors.split())) == (1, True), errors


@pytest.mark.parametrize("option", [("--crop", "0.5"), ("--size", "8"), ("--pretrained",)])
def test_options_of_networks_are_not_for_files(
    shell: Any, data: dict[str, Path], tmp_path: Path, option: tuple[str, ...]
) -> None:
    brain = data["brain.h5"]
    code, _, errors = shell("compare", brain, "--rdms", brain, "--out", tmp_path / "scores", *option)
    assert code == 1
    assert re.search(rf"{option[0]} is for a network by its name, and .*brain.h5 is a run or a file", errors)


def test_config_file(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """The same names in a file give the same run; the command line goes before."""
    config = tmp_path / "train.toml"
    config.write_text(
        f"""
        labelled = "{data["labelled.csv"]}"
        rdms = "{data["brain.h5"]}"
        stimuli = "{data["stimuli"]}"
        roi = "IT"
        subjects = ["p0", "p2"]
        average = "session"
        epochs = 2
        batches-labelled = 8
        seed = 7
        """
    )
    code, _, errors = shell("train", "--config", config, "--out", tmp_path / "one", "--seed", 4)
    assert code == 0, errors
    assert shell(*train_arguments(data, tmp_path / "two", seed=4))[0] == 0
    one, two = (load_run(tmp_path / name) for name in ("one", "two"))
    assert one.record == two.record
    for name, value in one.student.state_dict().items():
        assert torch.equal(value, two.student.state_dict()[name])


def test_resume(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    arguments = train_arguments(data, tmp_path / "run")
    assert shell(*arguments)[0] == 0
    before = times(tmp_path / "run")
    code, told, errors = shell(*arguments, "--no-resume")
    assert (code, told, errors.count("\n")) == (1, "", 1)  # the folder is looked at before anything is read
    assert "already holds a run" in errors
    code, told, errors = shell(*arguments)
    assert code == 0
    assert told.rstrip().endswith("run holds this run, which had finished: nothing was trained")
    assert "starts anew" not in errors
    assert times(tmp_path / "run") == before
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", epochs=3))
    assert code == 1
    assert "differs in epochs (2 before, 3 now)" in errors
    assert "call fit" not in errors
    assert times(tmp_path / "run") == before
    (tmp_path / "run" / "last.ckpt").unlink()
    code, told, errors = shell(*arguments, "--resume")
    assert code == 0
    assert f"note: {tmp_path / 'run'} holds no checkpoint to go on from; the run starts anew" in errors
    assert "nothing was trained" not in told


def test_mlp_fits_the_images(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """Its size is that of the images, at training and when the run is read again."""
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", student="mlp", layer="fc1", epochs=1))
    assert code == 0, errors
    assert load_run(tmp_path / "run").student(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"layer": "conv4"}, "no layer 'conv4'"),
        (
            {"labelled": "imagenet"},
            "'cifar100', 'cifar100_stretched'; or give a CSV or TSV file with",
        ),
        ({"labelled": "nowhere.csv"}, "nowhere.csv"),
        ({"rdms": "nowhere.h5"}, "nowhere.h5"),
        ({"stimuli": "nowhere"}, "nowhere"),
        ({"subjects": "p0,p9"}, "p9"),
        ({"average": None}, "'session'"),
        ({"comparison": "spearman"}, "no gradient"),
        ({"student": "alexnet"}, "'alexnet' is not the name of a network"),
        ({"held-out": 0.9}, "at least 3"),
        ({"dissimilarity": "pearson"}, "dissimilarity='pearson'"),
    ],
)
def test_what_fails_exits_with_1_and_one_line(
    changes: dict[str, object], message: str, shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", **changes))
    assert code == 1
    assert errors.startswith("neurordl: ")
    assert message in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_the_next_command_that_train_prints_works(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    arguments = train_arguments(data, tmp_path / "run", epochs=1)
    code, told, errors = shell(*arguments, "--permuted")
    assert code == 0, errors
    assert re.search(r"epoch 1/1  loss \d", errors)  # a line an epoch, where there is no terminal for a bar
    losses = load_run(tmp_path / "run").record["objective"]["losses"]
    assert losses["rdm:conv3"]["teacher"]["control"]["permuted"] == 0
    following = shlex.split(told.rpartition("Next: neurordl ")[2])
    assert "--roi" in following
    code, _, errors = shell(*following)
    assert code == 0, errors


def test_a_message_names_the_option(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    code, _, errors = shell("compare", data["brain.h5"], "--rdms", data["brain.h5"], "--out", tmp_path / "x")
    assert code == 1
    assert "expected one RDM per subject" in errors
    assert "average=" in errors
    assert "average= is the option --average" in shell("--help")[1]
    page = shell("train", "--help")[1]
    assert "bool" not in page
    assert "initial" in page  # --seed is more than the seed of fit
    assert "--average" in shell("compare", "--help")[1]


def test_notes_and_remedies_are_those_of_the_shell(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """A note names the option; a remedy that the command has not is left out."""
    rdms = load_rdms(data["brain.h5"])
    np.save(tmp_path / "brain.npy", rdms.get_matrices()[:3])
    _, _, errors = shell(*train_arguments(data, tmp_path / "run", rdms=tmp_path / "brain.npy"))
    notes = [
        line
        for line in errors.splitlines()
        if line.startswith("note: ") and "name them by ids= or labels=" in line
    ]
    assert len(notes) == 1
    (data["stimuli"] / "stimuli_0.png").rename(data["stimuli"] / "another.png")
    code, _, errors = shell(*train_arguments(data, tmp_path / "run"))
    assert code == 1
    assert 'missing="ignore"' in errors
    assert shell(*train_arguments(data, tmp_path / "less", epochs=1), "--missing", "ignore")[0] == 0
    assert not (tmp_path / "run").exists()


def test_model_rdms_take_their_ids_from_the_labels(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    rdms = load_rdms(data["brain.h5"])
    np.save(tmp_path / "models.npy", rdms.get_matrices()[:2])
    (tmp_path / "ids.txt").write_text("\n".join(rdms.pattern_descriptors["stimulus"]))
    code, _, errors = shell(
        "compare", tmp_path / "models.npy", "--labels", tmp_path / "ids.txt", "--rdms", data["brain.h5"],
        "--average", "session,roi", "--out", tmp_path / "scores",
    )  # fmt: skip
    assert code == 0, errors
    assert pd.read_csv(tmp_path / "scores" / "scores.csv")["layer"].nunique() == 2


def test_size_of_labelled_images_of_a_table(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    code, told, errors = shell(*train_arguments(data, tmp_path / "run", epochs=1, size=12))
    assert code == 0, errors
    assert "12 x 12 pixels" in told
    assert load_run(tmp_path / "run").preprocessing.size == (12, 12)
    code, _, errors = shell(*train_arguments(data, tmp_path / "other", labelled="digits", size=12))
    assert code == 1
    assert "--size is for images of a table or a folder, and those of digits have their own" in errors


def test_fewer_labelled_images(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """Drawn by seed, of each class alike, and said in the record."""
    found = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        changes = {"n-labelled": 12, "seed": seed, "epochs": 1}
        code, _, errors = shell(*train_arguments(data, tmp_path / name, **changes))
        assert code == 0, errors
        found[name] = load_run(tmp_path / name).record["labelled"]
    assert found["one"] == found["again"]
    assert found["one"]["n"] == 12
    assert found["one"]["source"].endswith("labelled.csv, 12 of 24 drawn by seed 1")
    assert found["one"]["pixels_sha256"] != found["two"]["pixels_sha256"]
    every = StimulusSet.from_table(data["labelled.csv"])
    drawn = every.draw(12, 1)
    assert torch.bincount(drawn.labels).tolist() == [4, 4, 4]
    assert found["one"]["sha256"] == drawn.sha256
    code, _, errors = shell(*train_arguments(data, tmp_path / "x", **{"n-labelled": 25}))
    assert code == 1
    assert "25 cannot be drawn of 24 stimuli in 3 classes" in errors


def test_as_many_labelled_images_as_classes_are_the_fewest(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    """The student has the classes of the whole set, and each is drawn; fewer images are refused at once."""
    table = pd.read_csv(data["labelled.csv"], dtype=str)
    table["label"] = [str(k if k < 6 else 0) for k in range(24)]  # 19 of the class 0, one of each other
    table.to_csv(data["labelled.csv"], index=False)
    for n, said in ((6, None), (9, None), (5, "5 cannot be drawn of 24 stimuli in 6 classes")):
        code, _, errors = shell(*train_arguments(data, tmp_path / f"{n}", **{"n-labelled": n, "epochs": 1}))
        assert code == (said is not None), errors
        assert said is None or said in errors
    drawn = StimulusSet.from_table(data["labelled.csv"]).draw(9, seed=0)
    assert torch.bincount(drawn.labels).tolist() == [4, 1, 1, 1, 1, 1]
    assert load_run(tmp_path / "9").record["student"]["spec"]["num_classes"] == 6
    table["label"] = [str(k % 5 if k < 20 else 9) for k in range(24)]  # 9 is the last, and may not be drawn
    table.to_csv(data["labelled.csv"], index=False)
    assert set(StimulusSet.from_table(data["labelled.csv"]).draw(6, seed=0).labels.tolist()) == {
        0,
        1,
        2,
        3,
        4,
        9,
    }


def test_held_out_stimuli_are_no_labelled_images(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """The labelled images are pictures of the stimuli: those of held-out ones are left out, and counted."""
    rows = [f"stimuli/stimuli_{k}.png,{'s' * (1 - k % 2)}timuli_{k},{k % 3}" for k in range(M)]
    rows += [f"labelled/labelled_{k}.png,stimuli_{k},{k % 3}" for k in range(1, M, 2)]  # others of such ids
    (tmp_path / "shown.csv").write_text("\n".join(["path,id,label", *rows]))
    (tmp_path / "ids.txt").write_text("\n".join(f"stimuli_{k}" for k in (1, 4, 7, 9)))
    (tmp_path / "ids.csv").write_text("group,stimulus\n" + "\n".join(f"a,stimuli_{k}" for k in (9, 7, 4, 1)))
    for name in ("ids.txt", "ids.csv"):
        changes = {"labelled": tmp_path / "shown.csv", "held-out": tmp_path / name, "epochs": 1}
        code, told, errors = shell(*train_arguments(data, tmp_path / name[-3:], **changes))
        assert code == 0, errors
        assert (
            f"note: 4 of {M + M // 2} labelled images are pictures of held-out stimuli, and are left out"
            in told
        )
        run = load_run(tmp_path / name[-3:])
        assert set(run.held_out_ids) == {f"stimuli_{k}" for k in (1, 4, 7, 9)}
        assert run.record["labelled"]["n"] == M + M // 2 - 4
        assert f"neurordl compare {tmp_path / name[-3:]} --rdms" in told
    for text, message in (
        ("stimuli_99", "stimuli_99"),
        ("\n".join(f"stimuli_{k}" for k in range(M - 2)), "at least 3"),
    ):
        (tmp_path / "ids.txt").write_text(text)
        code, _, errors = shell(
            *train_arguments(data, tmp_path / "new", **{**changes, "held-out": tmp_path / "ids.txt"})
        )
        assert (code, message in errors) == (1, True), errors
    code, _, errors = shell(*train_arguments(data, tmp_path / "new", **{**changes, "held-out": "half"}))
    assert code == 1
    assert "--held-out half: there is no such file" in errors


def test_the_order_of_classes_is_that_of_the_checkpoint(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    """Names are numbered in their order, with a notice where weights were read; --classes has another one."""
    names = ["zebra", "cat", "ape"]
    rows = [f"labelled/labelled_{k}.png,i{k},{names[k % 3]}" for k in range(24)]
    (tmp_path / "named.csv").write_text("\n".join(["path,id,label", *rows]))
    (tmp_path / "order.txt").write_text("\n".join([*names, "dog"]))
    (tmp_path / "order.csv").write_text(
        "\n".join(["number,class", *(f"{k},{x}" for k, x in enumerate(names))])
    )
    changes = {"labelled": tmp_path / "named.csv", "epochs": 1}
    assert shell(*train_arguments(data, tmp_path / "first", **changes))[0] == 0
    start = {"student-checkpoint": tmp_path / "first" / "student.safetensors"}
    code, _, errors = shell(*train_arguments(data, tmp_path / "second", **changes, **start))
    assert code == 0
    order = (
        r"order of their names \(0 is 'ape', 1 is 'cat', 2 is 'zebra'\), and the weights are those of student"
    )
    assert re.search(rf"{order}.*pass classes= with the labels \(--classes\)", " ".join(errors.split()))
    for k, text in enumerate(("zebra,cat,ape", tmp_path / "order.csv")):
        out = tmp_path / f"ordered{k}"
        code, _, errors = shell(*train_arguments(data, out, **changes, **start, classes=text))
        assert code == 0, errors
        assert "order of their names" not in errors
        assert load_run(out).classes == tuple(names)
    code, _, errors = shell(
        *train_arguments(data, tmp_path / "four", **changes, classes=tmp_path / "order.txt")
    )
    assert code == 0, errors
    assert load_run(tmp_path / "four").record["student"]["spec"]["num_classes"] == 4
    for more, message in (
        ({"classes": "zebra,cat"}, "label 'ape' is not among the classes"),
        (
            {"classes": "a,b", "labelled": "digits"},
            "--classes is for the names in a table, and digits has its own",
        ),
        ({"classes": tmp_path / "none.txt"}, "none.txt"),
    ):
        code, _, errors = shell(*train_arguments(data, tmp_path / "new", **{**changes, **more}))
        assert (code, message in errors) == (1, True), errors


def test_unmatched_ids_are_reported_before_the_split(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    for image in data["stimuli"].iterdir():
        number = int(re.findall("[0-9]+", image.stem)[0])
        image.unlink() if number >= 8 else image.rename(image.with_name(f"other_{number}.png"))
    code, _, errors = shell(*train_arguments(data, tmp_path / "run"))
    assert code == 1
    assert "no id of the stimuli is among the ids of the" in errors
    assert "cannot be split" not in errors


def test_missing_files_are_named_with_their_option(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    brain, out = data["brain.h5"], ("--out", tmp_path / "x")
    for arguments, message in (
        (("no.h5", "--rdms", brain), "neurordl: no.h5: there is no such file"),
        ((brain, "--rdms", "no.h5"), "neurordl: --rdms no.h5: there is no such file"),
        (("m:net", "--rdms", brain, "--stimuli", "no"), "neurordl: --stimuli no: there"),
        (
            ("m:net", "--rdms", brain, "--stimuli", "mnist"),
            "neurordl: --stimuli mnist: there is no such file or folder; give a folder with image files, "
            "whose names without suffix are the ids of the stimuli. Public images by name are for --labelled",
        ),
        (("m:net", "--rdms", brain, "--checkpoint", "no.pth"), "neurordl: --checkpoint no.pth: there"),
    ):
        code, _, errors = shell("compare", *arguments, *out)
        assert code == 1
        assert errors.startswith(message)
    code, _, errors = shell("compare", brain, "--rdms", brain, "--out", brain)
    assert code == 1
    assert "brain.h5 is a file; give a folder" in errors


def test_table_without_labels(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", labelled=data["unlabelled.csv"]))
    assert code == 1
    assert "no column 'label'" in errors


def test_compare_notices_other_images_of_the_same_names(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert shell(*train_arguments(data, out))[0] == 0
    for image in data["stimuli"].iterdir():
        Image.fromarray(np.full((8, 8, 3), 7, dtype=np.uint8)).save(image)
    code, _, told = shell(
        "compare", out, "--rdms", data["brain.h5"], "--roi", "IT", "--average", "session",
        "--out", tmp_path / "scores",
    )  # fmt: skip
    assert code == 1
    assert "are not those that the run was fitted on" in told
    assert not (tmp_path / "scores").exists()


FACTORY = """
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten())
"""


def test_compare_a_network_of_ones_own(
    shell: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factory_of_mine.py").write_text(FACTORY)
    namespace: dict[str, Any] = {}
    exec(FACTORY, namespace)
    network = namespace["tiny"]()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    code, printed, errors = shell(
        "compare", "factory_of_mine:tiny", "--checkpoint", "weights.pth", "--stimuli", data["stimuli"],
        "--mean", "imagenet", "--std", "0.2,0.2,0.2", "--rdms", data["brain.h5"], "--average", "session",
        "--group", "--comparison", "corr", "--layers", "top", "--out", "scores",
    )  # fmt: skip
    assert code == 0, errors
    assert "group" in printed
    frame = pd.read_csv("scores/scores.csv")
    shown = StimulusSet.from_folder(data["stimuli"], mean=(0.485, 0.456, 0.406), std=(0.2, 0.2, 0.2))
    brain = select_rdms(load_rdms(data["brain.h5"]), average="session")
    own = evaluate(network, brain, stimuli=shown, comparison="corr")
    scores = pd.concat([own.to_frame(), own.group_rows()])["score"]
    np.testing.assert_allclose(frame["score"], scores, atol=1e-12)
    kept = json.loads(Path("scores/evaluation.json").read_text())["settings"]
    assert (kept["source"], kept["checkpoint"], kept["pretrained"]) == (
        "factory_of_mine:tiny", "weights.pth", False,
    )  # fmt: skip
    assert kept["sha256"]["weights"] == own.settings["sha256"]["weights"]
    assert "no checkpoint" not in printed
    with torch.no_grad():
        network[0].bias[0] += 1
    assert kept["sha256"]["weights"] != sha256_state(network.state_dict())
    code, printed, errors = shell(
        "compare", "factory_of_mine:tiny", "--stimuli", data["stimuli"], "--rdms", data["brain.h5"],
        "--average", "session", "--out", tmp_path / "fresh",
    )  # fmt: skip
    assert code == 0, errors
    told = "note: no checkpoint was given: factory_of_mine:tiny has the weights that it sets itself"
    assert told in printed
    code, _, errors = shell(
        "compare", "factory_of_mine:tiny", "--stimuli", data["stimuli"], "--rdms", data["brain.h5"],
        "--average", "session", "--out", tmp_path / "again",
    )  # fmt: skip
    assert code == 0, errors
    assert Path("again/scores.csv").read_text() == Path("fresh/scores.csv").read_text()
    assert json.loads(Path("fresh/evaluation.json").read_text())["settings"]["checkpoint"] is None
    for changes, message in (
        (("--checkpoint", data["brain.h5"]), "is not a checkpoint"),
        (("--pairs", "fitted"), "--pairs is for a run"),
        (("--channels", "1"), "the network takes 3 channels, but the images are 1 x 8 x 8"),
    ):
        code, _, errors = shell(
            "compare", "factory_of_mine:tiny", "--stimuli", data["stimuli"], "--rdms", data["brain.h5"],
            "--average", "session", "--out", "more", *changes,
        )  # fmt: skip
        assert code == 1
        assert message in errors
    code, _, errors = shell("compare", "factory_of_mine:tiny", "--rdms", data["brain.h5"], "--out", "more")
    assert code == 1
    assert "pass --stimuli" in errors
    assert not (tmp_path / "more").exists()


def test_rdms_of_a_file_without_descriptors(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    rdms = load_rdms(data["brain.h5"]).subset("roi", "IT").subset("session", 0)
    np.savez(tmp_path / "brain.npz", it=rdms.get_matrices(), other=rdms.get_matrices()[:2])
    (tmp_path / "ids.txt").write_text("\n".join(rdms.pattern_descriptors["stimulus"]))
    models = rdms.subset("subject", "p0")
    models.rdm_descriptors["name"] = ["first"]
    save_rdms(models, tmp_path / "models.h5")
    arguments = [
        "compare",
        tmp_path / "models.h5",
        "--rdms",
        tmp_path / "brain.npz",
        "--out",
        tmp_path / "scores",
    ]
    told = ["--name", "it", "--labels", tmp_path / "ids.txt", "--measure", "correlation"]
    for given, message in (
        ([], "pass name="),
        (told, "set rdms.rdm_descriptors"),
    ):
        code, _, errors = shell(*arguments, *given)
        assert code == 1
        assert message in errors
    code, _, errors = shell(*arguments, *told, "--each-a-subject")
    assert code == 0, errors
    frame = pd.read_csv(tmp_path / "scores" / "scores.csv")
    assert frame["subject"].tolist() == ["s01", "s02", "s03", "mean"]
    assert frame["score"].iloc[0] == pytest.approx(1)
    code, _, errors = shell(
        *arguments[:2], "--rdms", data["brain.h5"], "--each-a-subject", "--out", tmp_path / "x"
    )
    assert code == 1
    assert "names the subjects of its RDMs" in errors


def test_compare_models_over_time(shell: Any, tmp_path: Path) -> None:
    rng, ids = np.random.default_rng(0), list("abcdef")
    steps = rng.random((1, 3, 15))
    model = nrl.rdms_over_time(steps, [0.0, 0.1, 0.2], ids=ids, subjects="net")
    del model.rdm_descriptors["subject"]
    save_rdms(model, tmp_path / "net.h5")
    people = rng.random((4, 3, 15)) + steps
    brains = nrl.rdms_over_time(people, [0.0, 0.1, 0.2], ids=ids, subjects=list("wxyz"), roi="IT")
    save_rdms(brains, tmp_path / "brain.h5")
    out = tmp_path / "scores"
    code, _, errors = shell("compare", tmp_path / "net.h5", "--rdms", tmp_path / "brain.h5", "--out", out)
    assert code == 0, errors
    frame = pd.read_csv(out / "scores.csv")
    assert set(frame["layer"]) == {"net"}
    own = evaluate({"net": model}, brains)
    np.testing.assert_allclose(frame["score"], own.to_frame()["score"], atol=1e-12)
    assert (out / "scores.png").is_file()


def test_compare_model_rdms(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    models = load_rdms(data["brain.h5"]).subset("subject", "p0").subset("roi", "IT")
    models.rdm_descriptors["name"] = ["first", "second"]
    save_rdms(models, tmp_path / "models.h5")
    code, _, errors = shell(
        "compare", tmp_path / "models.h5", "--rdms", data["brain.h5"], "--average", "session",
        "--out", tmp_path / "scores",
    )  # fmt: skip
    assert code == 0, errors
    assert set(pd.read_csv(tmp_path / "scores" / "scores.csv")["layer"]) == {"first", "second"}
    kept = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["settings"]
    assert kept["source"] == "models.h5"
    assert kept["sha256"]["weights"] is None
    assert str(tmp_path) not in json.dumps(kept)
    code, printed, errors = shell(
        "compare", tmp_path / "models.h5", "--rdms", data["brain.h5"], "--average", "session",
        "--bootstrap", "stimuli", "--bootstrap-variance", "components", "--out", tmp_path / "more",
        "--family", "roi", "--figure", tmp_path / "paper.svg",
    )  # fmt: skip
    assert code == 0, errors
    assert "variances by components" in printed
    assert "p_fdr and p_holm are over 2 tests of the ROI" in printed
    assert "<svg" in (tmp_path / "paper.svg").read_text()[:600]
    assert not (tmp_path / "more" / "scores.png").exists()
    code, _, errors = shell(
        "compare", tmp_path / "models.h5", "--rdms", data["brain.h5"], "--out", tmp_path / "x",
        "--figure", tmp_path / "paper.gif",
    )  # fmt: skip
    assert code == 1
    assert "expected .png, .pdf or .svg" in errors


def test_an_earlier_comparison_is_not_overwritten_unasked(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    models = load_rdms(data["brain.h5"]).subset("subject", "p0").subset("roi", "IT")
    models.rdm_descriptors["name"] = ["first", "second"]
    save_rdms(models, tmp_path / "models.h5")
    out = tmp_path / "scores"
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    arguments = ["compare", tmp_path / "models.h5", "--rdms", data["brain.h5"], "--average", "session"]
    code, _, errors = shell(*arguments, "--out", out)
    assert code == 0, errors
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    code, _, errors = shell(*arguments, "--comparison", "corr", "--out", out)
    assert code == 1
    assert "holds a comparison already, of other files or settings, which differ in comparison" in errors
    assert "--overwrite" in errors
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    written = times(out)
    assert "of the same files and settings already: nothing" in shell(*arguments, "--out", out)[1]
    assert times(out) == written
    (out / "origin.json").rename(tmp_path / "origin.json")  # of an earlier version, or written in Python
    code, _, errors = shell(*arguments, "--out", out)
    assert code == 1
    assert "exists already, and what it was made of is not recorded" in errors
    (tmp_path / "origin.json").rename(out / "origin.json")
    (out / "scores.png").unlink()  # it is made again
    assert shell(*arguments, "--out", out)[0] == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    code, _, errors = shell(*arguments, "--comparison", "corr", "--out", out, "--overwrite")
    assert code == 0, errors
    assert set(pd.read_csv(out / "scores.csv")["comparison"]) == {"corr"}
    assert (out / "mine.txt").read_text() == "kept"


def test_model_rdms_without_names_are_called_as_their_file(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    rdms = load_rdms(data["brain.h5"])
    (tmp_path / "ids.txt").write_text("\n".join(rdms.pattern_descriptors["stimulus"]))
    for n, layers in ((1, ["gist"]), (2, ["gist_1", "gist_2"])):
        np.save(tmp_path / "gist.npy", rdms.get_matrices()[:n])
        code, _, errors = shell(
            "compare", tmp_path / "gist.npy", "--labels", tmp_path / "ids.txt", "--rdms", data["brain.h5"],
            "--average", "session,roi", "--out", tmp_path / f"of {n}",
        )  # fmt: skip
        assert code == 0, errors
        assert list(pd.read_csv(tmp_path / f"of {n}" / "scores.csv")["layer"].unique()) == layers


def test_compare_fails_clearly(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    arguments = (
        "--rdms",
        data["brain.h5"],
        "--out",
        tmp_path / "scores",
        "--roi",
        "IT",
        "--average",
        "session",
    )
    code, _, errors = shell("compare", tmp_path, *arguments)
    assert code == 1
    assert "holds no run" in errors
    assert shell(*train_arguments(data, tmp_path / "run", epochs=1))[0] == 0
    for changes, message in (
        (("--layers", "conv1,conv7"), "no layer 'conv7'"),
        (("--comparison", "kendall"), "kendall"),
        (("--subjects", "p7"), "p7"),
        (("--stimuli", tmp_path / "nowhere"), "nowhere"),
    ):
        code, _, errors = shell("compare", tmp_path / "run", *arguments, *changes)
        assert code == 1
        assert message in errors
        assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["train", "--epochs", "many"],
        ["train", "--epochs", "0"],
        ["train", "--colour", "red"],
        ["compare"],
        ["compare", "run", "--rdms", "x.h5", "--out", "scores", "--pairs", "some"],
    ],
)
def test_wrong_use_exits_with_2(arguments: list[str], shell: Any) -> None:
    code, told, errors = shell(*arguments)
    assert code == 2
    assert "Error" in errors + told


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs = ", "cannot be read"),
        ("color = 3", "unknown color"),
        ("[train]\nepochs = 3", "unknown train"),
        ("epochs = 'many'", "'--epochs'"),
        ("epochs = -1", "'--epochs'"),
        (None, "cannot be read"),
    ],
)
def test_wrong_config_exits_with_2(
    text: str | None, message: str, shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    config = tmp_path / "train.toml"
    if text is not None:
        config.write_text(text)
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", epochs=None), "--config", config)
    assert code == 2
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_help_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['neurordl', 'train', '--help']\n"
        "from neurordl.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.split() == ["False"]
    assert "--held-out" in done.stdout
    wrong = subprocess.run(
        [sys.executable, "-c", "from neurordl.cli import main; main()", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert wrong.returncode == 2


def test_all_stimuli_are_fitted_where_none_is_held_out(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", **{"held-out": 0, "epochs": 1}))
    assert code == 0, errors
    run = load_run(tmp_path / "run")
    assert set(run.fitted_ids) == {path.stem for path in data["stimuli"].iterdir()}
    assert run.held_out_ids == ()


def test_no_arguments_show_the_help(shell: Any) -> None:
    code, told, errors = shell()
    assert code in (0, 2)
    assert all(command in told + errors for command in ("data", "rdm", "train", "compare"))


def test_record_and_evaluation_are_json(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    assert shell(*train_arguments(data, tmp_path / "run", epochs=1))[0] == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    averaged = select_rdms(load_rdms(data["brain.h5"]), average="session")
    teacher = RDMTeacher(averaged, roi="IT", subjects=["p0", "p2"])
    assert record["objective"]["losses"]["rdm:conv3"]["teacher"]["sha256"] == teacher.sha256


def network_arguments(data: dict[str, Path], out: Path, *more: object) -> list[object]:
    return [
        *(
            "train",
            "--labelled",
            data["labelled.csv"],
            "--stimuli",
            data["stimuli"],
            "--teacher",
            "small_cnn",
        ),
        *("--epochs", 1, "--batches-labelled", 8, "--out", out, *more),
    ]


LOSSES = {
    "rdm": nrl.RDMLoss,
    "soft_targets": nrl.SoftTargetLoss,
    "decoupled": nrl.DecoupledLoss,
    "hint": nrl.HintLoss,
    "attention": nrl.AttentionLoss,
    "contrastive": nrl.ContrastiveLoss,
    "angle": nrl.AngleLoss,
    "similarity": nrl.SimilarityPreservingLoss,
    "congruence": nrl.CorrelationCongruenceLoss,
    "probabilities": nrl.ProbabilisticTransferLoss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_teaches_by_each_loss(name: str, shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """Student, teacher and losses are those of the same calls in Python, with Python's defaults."""
    pd.DataFrame({"id": [f"stimuli_{k}" for k in range(M)], "label": [k % 3 for k in range(M)]}).to_csv(
        tmp_path / "kinds.csv", index=False
    )
    pairs = {"conv1": "conv2", "conv3": "conv3"}
    chosen = () if name in ("soft_targets", "decoupled") else ("--layers", "conv1:conv2,conv3")
    more = ("--loss", name, *chosen, "--weight", 0.5, "--seed", 3, "--stimuli-labels", tmp_path / "kinds.csv")
    code, printed, errors = shell(*network_arguments(data, tmp_path / "run", *more))
    assert code == 0, errors
    assert "note: no checkpoint was given: small_cnn has random weights" in printed

    labelled = StimulusSet.from_table(data["labelled.csv"])
    stimuli = StimulusSet.from_folder(data["stimuli"], labels=tmp_path / "kinds.csv").split(0.25, 3)[0]
    torch.manual_seed(3)
    network = nrl.students.small_cnn(num_classes=3)
    teacher = nrl.NetworkTeacher(network, list(pairs.values()) if chosen else "")
    torch.manual_seed(3)
    student = nrl.students.small_cnn(num_classes=3)
    settings = {"weight": 0.5, **({"ids": stimuli.ids} if name == "contrastive" else {})}
    if chosen:
        losses = [LOSSES[name](teacher[theirs], layer, **settings) for layer, theirs in pairs.items()]
    else:
        losses = [LOSSES[name](teacher, **settings)]
    quiet = nrl.Execution(progress=False)
    batches = nrl.Batches(labelled=8)
    run = nrl.fit(
        student, nrl.Objective(losses), labelled, stimuli, 1, seed=3, batches=batches, execution=quiet
    )
    written = load_run(tmp_path / "run")
    for key, value in written.student.state_dict().items():
        torch.testing.assert_close(value, run.student.state_dict()[key], rtol=0, atol=0)
    assert json.dumps(written.record["objective"]) == json.dumps(run.record["objective"])


def test_a_run_teaches_and_so_do_rdms(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """A run's folder is a teacher, with the preparation of its images; RDMs and a network teach together."""
    arguments = train_arguments(data, tmp_path / "large", size=12, epochs=1)
    assert shell(*arguments)[0] == 0
    more = ("--teacher", tmp_path / "large", "--layers", "conv2", "--layer", "conv3", "--permuted")
    code, _, errors = shell(*train_arguments(data, tmp_path / "small", epochs=1), *more)
    assert code == 0, errors
    run = load_run(tmp_path / "small")
    rdms, network = (loss["teacher"] for loss in run.record["objective"]["losses"].values())
    assert list(run.record["objective"]["losses"]) == ["rdm:conv3#1", "rdm:conv3#2"]
    assert rdms["control"] == network["control"]  # stimuli are exchanged alike
    assert (network["cached"], network["layer"]) == (True, "conv2")
    assert network["sha256"] == sha256_state(load_run(tmp_path / "large").student.state_dict())
    assert set(run.trained_on[1]["subjects"]) == {"p0", "p2"}  # those whom the teacher met
    code, _, errors = shell(*network_arguments(data, tmp_path / "x", "--teacher-size", 16))
    assert code == 0, errors
    assert load_run(tmp_path / "x").record["objective"]["losses"]["rdm:conv3"]["teacher"]["cached"]


def test_a_network_teaches_on_the_labelled_images(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    for control in ((), ("--permuted",)):
        code, printed, errors = shell(
            *("train", "--labelled", data["labelled.csv"], "--teacher", "small_cnn", "--epochs", 1, *control),
            *("--loss", "soft_targets", "--out", tmp_path / f"run{len(control)}"),
        )
        assert code == 0, errors
        assert f"Next: neurordl report {tmp_path / 'run'}" in printed
        run = load_run(tmp_path / f"run{len(control)}")
        assert run.record["stimuli"]["fitted"] == [f"i{k}" for k in range(24)]
        assert (run.record["objective"]["losses"]["soft_targets"]["teacher"]["control"] is None) == (
            not control
        )


@pytest.mark.parametrize(
    "more, message",
    [
        (("--loss", "mse"), "--loss='mse': expected one of 'angle', 'attention'"),
        (("--loss", "hint", "--comparison", "mse"), "--comparison is not an option of --loss hint"),
        (
            ("--loss", "soft_targets", "--layers", "conv2"),
            "--layers: the loss soft_targets reads the outputs",
        ),
        (("--layers", "conv1:conv9"), "no layer 'conv9'"),
        (("--roi", "IT"), "--roi needs --rdms; leave it out, or pass --rdms too"),
        (("--loss", "decoupled"), "have no labels"),
        (("--teacher", "nowhere:net"), "nowhere:net cannot be imported"),
    ],
)
def test_wrong_options_of_a_network(
    more: tuple[str, ...], message: str, shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    code, _, errors = shell(*network_arguments(data, tmp_path / "run", *more))
    assert code == 1
    assert message in errors
    assert not (tmp_path / "run").exists()


def test_what_teaches_must_be_named(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    rdms, labelled = data["brain.h5"], ("--labelled", data["labelled.csv"])
    for more, message in (
        ((), "nothing teaches the student: pass --rdms FILE, --teacher NETWORK, or both"),
        (("--rdms", rdms), "RDMs are of stimuli: pass --stimuli FOLDER"),
        (("--rdms", rdms, "--stimuli", data["stimuli"], "--loss", "hint"), "pass --teacher NETWORK"),
        (("--rdms", rdms, "--teacher-size", 32), "--teacher-size needs --teacher"),
    ):
        code, _, errors = shell("train", *labelled, "--out", tmp_path / "x", *more)
        assert code == 1
        assert message in errors
    code, _, errors = shell("train", *labelled, "--out", tmp_path / "x", "--pretrained")
    assert code == 2
    assert "--pretrained needs --teacher, too" in errors


def test_test_accuracy_is_recorded(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """Names of classes are matched, whatever their order and number; images of training are counted."""
    table = pd.read_csv(data["labelled.csv"], dtype=str)
    table["label"] = [["bird", "cat", "dog"][k % 3] for k in range(24)]
    table.to_csv(data["labelled.csv"], index=False)
    rest = table[table["label"] != "bird"].iloc[::-1]
    rest.to_csv(tmp_path / "test.csv", index=False)
    out = tmp_path / "run"
    code, printed, errors = shell(*train_arguments(data, out, test=tmp_path / "test.csv", size=12))
    assert code == 0, errors
    run, test = load_run(out), StimulusSet.from_table(tmp_path / "test.csv", size=12)
    recorded = run.record["test"]
    assert recorded["accuracy"] == nrl.accuracy(run, test)
    assert test.classes == ("cat", "dog")
    assert f"test accuracy {recorded['accuracy']:.4f}" in printed
    assert (recorded["n"], recorded["trained_on"], recorded["classes"]) == (16, 16, ["cat", "dog"])
    assert "note: test: 16 of the 16 test images were trained on (identical pixels)" in errors
    before = times(out)
    code, printed, errors = shell(*train_arguments(data, out, test=tmp_path / "test.csv", size=12))
    assert f"nothing was trained; test accuracy {recorded['accuracy']:.4f}" in printed
    assert times(out) == before
    page = run.to_html(tmp_path / "run.html").read_text()
    share = f"{recorded['accuracy']:.1%}"
    assert f"Of 16 test images, of which 16 were trained on, it classified {share} correctly." in page
    labels = [0, 1] * 8
    for part, message in (
        (rest.assign(label="fish"), "was not trained on 'fish'"),
        (rest.assign(label=labels), "names in one of both and numbers in the other"),
        (rest.drop(columns="label"), "no column 'label'"),
    ):
        part.to_csv(tmp_path / "test.csv", index=False)
        more = () if "fish" not in message else ("--resume",)
        path = out if more else tmp_path / "x"
        code, _, errors = shell(*train_arguments(data, path, test=tmp_path / "test.csv", size=12), *more)
        assert code == 1
        assert message in errors


def test_a_study_in_one_command(
    shell: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its third run and started again, it has the rows of an uninterrupted one, and a report."""
    kinds, out = tmp_path / "kinds.csv", tmp_path / "study"
    pd.DataFrame({"id": [f"stimuli_{k}" for k in range(M)], "label": [k % 2 for k in range(M)]}).to_csv(kinds)
    more = {"controls": "labels,permuted,permuted-within", "seeds": 2, "test": data["labelled.csv"]}
    more |= {"stimuli-labels": kinds, "epochs": 1, "held-out": 0.4, "missing": "ignore"}
    arguments = train_arguments(data, out, **more)
    score, calls = HeldOutScore.__call__, list[int]()

    def killed(*positional: Any, **named: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*positional, **named)

    monkeypatch.setattr(HeldOutScore, "__call__", killed)
    assert shell(*arguments)[0] != 0
    assert len(list((out / "rows").iterdir())) == 2
    code, printed, errors = shell(*arguments)
    assert code == 0, errors
    assert (len(calls), len(list((out / "runs").iterdir()))) == (9, 8)
    assert "permuted-within, seed 0 (3 of 8)" in errors
    assert "labels, seed 0 (1 of 8)" not in errors

    table = pd.read_csv(out / "table.csv")
    assert table["condition"].tolist() == ["labels", "permuted", "permuted-within", "teacher"] * 2
    run = load_run(out / "runs" / "permuted_1")
    control = RDMTeacher(
        select_rdms(load_rdms(data["brain.h5"]), average="session"), roi="IT", subjects=["p0", "p2"]
    )
    control = control.permuted(run.fitted_ids, 1)
    assert run.record["objective"]["losses"]["rdm:conv3"]["teacher"]["control"] == control.control
    assert load_run(out / "runs" / "labels_1").record["objective"]["losses"]["rdm:conv3"]["weight"] == 0
    brain = select_rdms(load_rdms(data["brain.h5"]), average="session")
    held_out = run.load_stimuli().subset(run.held_out_ids)
    scores = evaluate(run, brain, stimuli=held_out, layers="conv3", roi="IT").to_frame()
    row = table.iloc[5]
    assert row["heldout_rdm_similarity"] == pytest.approx(scores.query("subject == 'mean'")["score"].item())
    assert row["test_accuracy"] == nrl.accuracy(run, StimulusSet.from_table(data["labelled.csv"]))

    differences = pd.read_csv(out / "differences.csv")
    assert len(differences) == 2 * 6  # each two of four conditions
    expected = all_differences(table, "test_accuracy", reference="labels")
    got = differences[differences["measure"] == "test_accuracy"].drop(columns="measure")
    pd.testing.assert_frame_equal(got, expected)
    assert "differences of conditions, paired by seed, with 95 % t intervals" in printed
    page = (out / "report.html").read_text()
    assert "Differences in test accuracy (share of images) from labels, paired by seed" in page
    assert "the mean rho-a of the RDM of conv3" in page
    assert "Accuracy on test images against similarity" in page
    assert shell("report", out, "--out", tmp_path / "again.html")[0] == 0

    calls.clear()
    before = times(out)
    assert shell(*arguments)[1].endswith(f"{out} holds this study, which had finished: nothing was trained\n")
    assert calls == []
    told = "report.html holds a report of the same files and settings already: nothing was computed\n"
    assert shell("report", out)[1].endswith(told)
    assert times(out) == before
    whole = {name: (out / name).read_bytes() for name in ("table.csv", "differences.csv", "report.html")}
    for name, content in whole.items():  # as if the command had been killed before it wrote them
        (out / name).unlink()
        assert shell(*arguments)[0] == 0
        assert (out / name).read_bytes() == content
    code, _, errors = shell(*train_arguments(data, out, **{**more, "epochs": 2}))
    assert (code, errors.count("\n")) == (1, 1)
    assert "holds rows of other settings, which differ in epochs (1 before, 2 now)" in errors


def test_a_study_knows_the_rdms_that_it_scores_by_their_ids(
    shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    """The order of stimuli and RDMs in the file is none of its settings; what their values are of is one."""
    changes = {"labelled": None, "batches-labelled": None, "controls": "untrained", "seeds": 1, "epochs": 0}
    arguments = train_arguments(data, tmp_path / "study", size=8, **{"held-out": 0.4, **changes})
    assert shell(*arguments)[0] == 0
    rdms = load_rdms(data["brain.h5"])
    ids = list(rdms.pattern_descriptors["stimulus"])
    rdms.reorder(np.random.default_rng(0).permutation(M))
    save_rdms(rdms.subset("subject", ["p2", "p1", "p0"]), data["brain.h5"])
    code, _, errors = shell(*arguments)
    assert code == 0, errors
    mine = [{"stimuli_0": "stimuli_1", "stimuli_1": "stimuli_0"}.get(name, name) for name in ids]
    rdms = load_rdms(data["brain.h5"])
    rdms.pattern_descriptors["stimulus"] = mine
    save_rdms(rdms, data["brain.h5"])
    code, _, errors = shell(*arguments)
    assert code == 1
    assert "scored RDMs" in errors


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"controls": "shuffled"}, "controls='shuffled': expected"),
        ({"controls": "permuted-within"}, "permuted-within: the stimuli have no labels"),
        ({"controls": "labels", "held-out": 0}, "scored on test images or on held-out stimuli, and there"),
        ({"controls": "labels", "devices": 2}, "a study fits one run after the other on one device"),
        ({"controls": "labels", "no-resume": ""}, "a study always goes on"),
        ({"controls": "labels", "permuted": ""}, "name permuted in --controls"),
    ],
)
def test_wrong_studies(
    changes: dict[str, object], message: str, shell: Any, data: dict[str, Path], tmp_path: Path
) -> None:
    arguments = [part for part in train_arguments(data, tmp_path / "study", **changes) if part != ""]
    code, _, errors = shell(*arguments)
    assert code == 1
    assert message in errors
    assert not (tmp_path / "study").exists()
    code, _, errors = shell(*train_arguments(data, tmp_path / "study"), "--seeds", 3)
    assert code == 2
    assert "--seeds needs --controls, too" in errors


def test_a_study_of_a_network(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """Without RDMs and stimuli the runs are scored on test images. Controls and seeds are added later."""
    start = ("train", "--labelled", "digits", "--n-labelled", 40, "--teacher", "small_cnn", "--epochs", 1)
    start = (*start, "--loss", "soft_targets", "--out", tmp_path / "s")
    for controls, seeds in (("labels", "3,"), ("labels,permuted", "3,5")):
        code, _, errors = shell(*start, "--controls", controls, "--seeds", seeds)
        assert code == 0, errors
    table = pd.read_csv(tmp_path / "s" / "table.csv")
    assert table["seed"].tolist() == [3, 3, 3, 5, 5, 5]
    assert list(table) == ["condition", "seed", "test_accuracy", "heldout_rdm_similarity"]
    assert json.loads((tmp_path / "s" / "settings.json").read_text())["version"] == nrl.__version__
    test = nrl.datasets.load_digits().split(held_out=0.25, seed=0, stratify="label")[1]
    assert len(test) < 500
    torch.manual_seed(0)
    teacher = nrl.students.small_cnn(in_channels=1)
    run = load_run(tmp_path / "s" / "runs" / "permuted_5")
    rdms = [nrl.compute_rdms(nrl.extract_patterns(network, test, "")) for network in (teacher, run.student)]
    similarity = nrl.compare(*rdms, comparison="rho-a").item()
    assert table["heldout_rdm_similarity"][4] == pytest.approx(similarity)
    page = " ".join((tmp_path / "s" / "report.html").read_text().split())
    text = (
        "the mean rho-a of the RDM of the output (correlation dissimilarities) with that of the output of the"
    )
    assert f"{text} network that teaches, on held-out pairs of {len(test)} stimuli" in page
    assert "had 40 labelled images (40 of 1348 drawn by seed 0)" in page
    assert "All seeds had one draw of labelled images, so that intervals do not hold for other draws." in page


def test_a_study_of_a_network_is_scored_on_held_out_stimuli(
    shell: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each pair of layers, on images as the network needs them; of many test images some are drawn."""
    start = ("train", "--teacher", "small_cnn", "--layers", "conv2:conv3,conv1:conv1", "--epochs", 1)
    start = (*start, "--controls", "labels", "--seeds", 1, "--labelled", data["labelled.csv"], "--size", 12)
    more = ("--stimuli", data["stimuli"], "--held-out", 0.4, "--teacher-size", 16, "--out", tmp_path / "a")
    code, _, errors = shell(*start, *more)
    assert code == 0, errors
    table, run = pd.read_csv(tmp_path / "a" / "table.csv"), load_run(tmp_path / "a" / "runs" / "teacher_0")
    assert list(table) == ["condition", "seed", "heldout_rdm_similarity"]
    torch.manual_seed(0)
    n_classes, expected = int(StimulusSet.from_table(data["labelled.csv"]).labels.max()) + 1, []
    teacher = nrl.students.small_cnn(num_classes=n_classes)
    for layers in (("conv2", "conv3"), ("conv1", "conv1")):
        rdms = [
            nrl.compute_rdms(nrl.extract_patterns(network, images.subset(run.held_out_ids), layer))
            for network, layer, images in zip(
                (run.student, teacher),
                layers,
                (StimulusSet.from_folder(data["stimuli"], size=size) for size in (12, 16)),
                strict=True,
            )
        ]
        expected.append(nrl.compare(*rdms, comparison="rho-a").item())
    assert table["heldout_rdm_similarity"][1] == pytest.approx(np.mean(expected))

    monkeypatch.setattr(study, "_MOST_SCORED", 6)
    more = ("--test", data["labelled.csv"], "--teacher-size", 16, "--out", tmp_path / "b")
    code, printed, errors = shell(*start, *more)
    assert code == 1
    assert "0 of the 6 matched are in held-out pairs" in errors
    test = pd.read_csv(data["labelled.csv"]).assign(id=lambda table: "t" + table["id"].astype(str))
    test.to_csv(data["labelled.csv"].with_name("test.csv"), index=False)
    more = ("--test", data["labelled.csv"].with_name("test.csv"), *more[2:-1], tmp_path / "c")
    code, printed, errors = shell(*start, *more)
    assert code == 0, errors
    assert f"is that of 6 of {len(test)} test images, drawn with --seed" in printed


def test_without_labelled_images(shell: Any, data: dict[str, Path], tmp_path: Path) -> None:
    """The student learns from RDMs alone, of images that the options prepare, and a study has controls."""
    changes: dict[str, Any] = {
        "labelled": None,
        "batches-labelled": None,
        "size": 12,
        "mean": 0.5,
        "std": 0.5,
    }
    changes |= {"channels": 1, "held-out": 0.4, "epochs": 1}
    code, _, errors = shell(*train_arguments(data, tmp_path / "run", **changes))
    assert code == 0, errors
    stimuli = StimulusSet.from_folder(data["stimuli"], size=12, channels=1, mean=0.5, std=0.5)
    brain = select_rdms(load_rdms(data["brain.h5"]), average="session")
    loss = nrl.RDMLoss(RDMTeacher(brain, roi="IT", subjects=["p0", "p2"]), "conv3")
    torch.manual_seed(0)
    student, quiet = nrl.students.small_cnn(in_channels=1), nrl.Execution(progress=False)
    train, held_out = stimuli.split(0.4, 0)
    run = nrl.fit(student, nrl.Objective(loss, task=None), stimuli=train, epochs=1, execution=quiet)
    written = load_run(tmp_path / "run")
    assert sha256_state(written.student.state_dict()) == sha256_state(run.student.state_dict())

    study = {**changes, "controls": "permuted,untrained", "seeds": 2}
    code, _, errors = shell(*train_arguments(data, tmp_path / "study", **study))
    assert code == 0, errors
    table = pd.read_csv(tmp_path / "study" / "table.csv")
    assert table["condition"].tolist() == ["permuted", "untrained", "teacher"] * 2
    scores = evaluate(run, brain, stimuli=held_out, layers="conv3", roi="IT").to_frame()
    expected = scores.query("subject == 'mean'")["score"].item()
    assert table["heldout_rdm_similarity"][2] == pytest.approx(expected)
    assert (errors.count("epoch "), errors.count("untrained, seed 1 (5 of 6)")) == (0, 1)
    page = (tmp_path / "study" / "report.html").read_text()
    assert "batches of at most 64 stimuli" in page
    assert "It had no task: it learned from the teacher alone." in page
    assert "untrained (the initial weights, without a step of training)" in page
    assert "All trained conditions of a seed had the same initial weights" in page
    compared = (
        "--rdms",
        data["brain.h5"],
        "--average",
        "session",
        "--layers",
        "conv3",
        "--out",
        tmp_path / "s",
    )
    assert shell("compare", tmp_path / "study", *compared)[0] == 0

    for more, message in (
        ({"controls": "labels"}, "'labels' trains on labelled images alone, and there are none"),
        ({"stimuli": None}, "there are no images: pass --stimuli FOLDER, --labelled IMAGES, or both"),
    ):
        code, _, errors = shell(*train_arguments(data, tmp_path / "x", **{**changes, **more}))
        assert (code, errors.count("\n")) == (1, 1)
        assert message in errors
    code, _, errors = shell(*train_arguments(data, tmp_path / "x", **{**changes, "n-labelled": 10}))
    assert code == 2
    assert "--n-labelled needs --labelled, too" in errors


OWN_STUDENT = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.top = nn.Linear(4, classes)

    def forward(self, images):
        return self.top(self.features(images).mean((2, 3)))

def number():
    return 3
"""


def test_a_student_of_ones_own(
    shell: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its file or its module, with start weights; it is compared, and teaches."""
    monkeypatch.chdir(tmp_path)
    Path("net_of_mine.py").write_text(OWN_STUDENT)
    namespace: dict[str, Any] = {}
    exec(OWN_STUDENT, namespace)
    student = namespace["Net"]()
    torch.save(student.state_dict(), "start.pth")
    torch.save(namespace["Net"](5).state_dict(), "other.pth")
    start = {"student-checkpoint": "start.pth", "layer": "features", "epochs": 1, "held-out": 0.4}
    for name in ("net_of_mine:Net", "net_of_mine.py:Net"):
        out = Path(f"run{len(name)}")
        code, printed, errors = shell(*train_arguments(data, out, student=name, **start))
        assert code == 0, errors
        following = shlex.split(printed.partition("Next: neurordl ")[2])
        assert shell(*following, "--layers", "features")[0] == 0
        weights = nrl.load_run(out, namespace["Net"]()).student.state_dict()
        assert not torch.equal(weights["top.weight"], student.state_dict()["top.weight"])
    stimuli = StimulusSet.from_folder(data["stimuli"]).split(0.4, 0)[0]
    brain = select_rdms(load_rdms(data["brain.h5"]), average="session")
    loss = nrl.RDMLoss(RDMTeacher(brain, roi="IT", subjects=["p0", "p2"]), "features")
    labelled, quiet = StimulusSet.from_table(data["labelled.csv"]), nrl.Execution(progress=False)
    batches = nrl.Batches(labelled=8)
    run = nrl.fit(student, nrl.Objective(loss), labelled, stimuli, 1, batches=batches, execution=quiet)
    assert sha256_state(run.student.state_dict()) == sha256_state(weights)

    study = {**start, "controls": "untrained", "seeds": 1, "student": "net_of_mine.py:Net"}
    code, _, errors = shell(*train_arguments(data, Path("study"), **study))
    assert code == 0, errors
    code, _, errors = shell(*train_arguments(data, Path("study"), **{**study, "student-checkpoint": None}))
    assert code == 1
    assert "holds rows of other settings, which differ in student from" in errors
    compared = ("--rdms", data["brain.h5"], "--average", "session", "--layers", "features")
    code, _, errors = shell("compare", "study", *compared, "--student", "net_of_mine:Net", "--out", "both")
    assert code == 0, errors
    teacher = ("--teacher", "net_of_mine.py:Net", "--checkpoint", out / "student.safetensors")
    code, _, errors = shell(*network_arguments(data, Path("taught"), *teacher, "--layers", "conv3:features"))
    assert code == 0, errors

    for arguments, message in (
        (train_arguments(data, Path("x"), student="nowhere:Net"), "nowhere:Net cannot be imported"),
        (train_arguments(data, Path("x"), student="nowhere.py:Net"), "there is no file nowhere.py"),
        (train_arguments(data, Path("x"), student="net_of_mine:Nett"), "'Nett' (did you mean Net?)"),
        (train_arguments(data, Path("x"), student="net_of_mine.py:number"), "returned int, not a torch.nn"),
        (
            train_arguments(data, Path("x"), **{**study, "student-checkpoint": "other.pth"}),
            "top.weight is 5 x 4 in the file and 3 x 4 in the network",
        ),
        (["compare", out, *compared, "--out", "x"], "how its student (Net) is made is not recorded; pass"),
        (
            ["compare", "small_cnn", *compared, "--student", "net_of_mine:Net", "--out", "x"],
            "--student is for runs, and small_cnn is no folder of a run",
        ),
        (
            network_arguments(data, Path("x"), "--teacher", out),
            f"pass --teacher package.module:factory --checkpoint {out}/student.safetensors",
        ),
    ):
        code, _, errors = shell(*arguments)
        assert (code, errors.count("\n")) == (1, 1), errors
        assert message in errors
    assert not Path("x").exists()


def test_the_commands_of_the_page_on_own_networks(
    shell: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of docs/howto/own_network.md and its commands, one after the other."""
    monkeypatch.chdir(tmp_path)
    docs_files.own_network()
    page = (Path(__file__).parents[2] / "docs" / "howto" / "own_network.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(# mynet\.py\n.*?)```", page, re.DOTALL)
    Path("mynet.py").write_text(source)
    calls = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ").splitlines()
    assert [shlex.split(call)[1] for call in calls] == ["compare", "train", "compare"]
    for call in calls:
        code, _, errors = shell(*("1" if word == "20" else word for word in shlex.split(call)[1:]))
        assert code == 0, errors
    assert set(pd.read_csv("runs/mynet/scores/scores.csv")["layer"]) == set(range(5))


def test_several_runs_side_by_side(
    shell: Any, data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One table with the column run; its rows are those of each run alone, corrected over all of them."""
    study = tmp_path / "study"
    arguments = train_arguments(data, study, controls="labels", seeds=1, epochs=1, **{"held-out": 0.4})
    assert shell(*arguments)[0] == 0
    folders = [study / "runs" / name for name in ("labels_0", "teacher_0")]
    rdms = ("--rdms", data["brain.h5"], "--roi", "IT", "--average", "session", "--layers", "conv2,conv3")
    rdms += ("--subjects", "p0,p1,p2")
    alone = []
    for folder in folders:
        assert shell("compare", folder, *rdms, "--out", tmp_path / folder.name)[0] == 0
        alone.append(pd.read_csv(tmp_path / folder.name / "scores.csv").assign(run=folder.name))
    expected = pd.concat(alone, ignore_index=True)
    for name, sources in (("runs", folders), ("study", [study])):
        out = tmp_path / "compared" / name
        code, printed, errors = shell("compare", *sources, *rdms, "--out", out)
        assert code == 0, errors
        table = pd.read_csv(out / "scores.csv")
        assert next(iter(table)) == "run"
        corrected = ["p_fdr", "p_holm", "family"]
        pd.testing.assert_frame_equal(
            table.drop(columns=corrected), expected[list(table)].drop(columns=corrected)
        )
        means = table[table["subject"] == "mean"]
        np.testing.assert_allclose(means["p_fdr"], false_discovery_control(means["p"]), rtol=1e-12)
        assert "p_fdr is over 4 tests of the table" in printed
        assert {"scores.png", "report.html", "labels_0", "teacher_0"} <= {path.name for path in out.iterdir()}
        page = (out / "report.html").read_text()
        assert "Side by side" in page
        assert "over 4 tests of the table" in page
        assert "over 2 tests" not in page
    before, whole = times(out), contents(out)
    for sources in ([study], folders):  # the same runs
        code, printed, errors = shell("compare", *sources, *rdms, "--out", out)
        told = f"{out} holds a comparison of the same files and settings already: nothing was computed\n"
        assert (code, printed) == (0, told)
    assert times(out) == before
    code, _, errors = shell("compare", *folders, *rdms, "--comparison", "corr", "--out", out)
    assert code == 1
    assert (
        "holds a comparison already, of other files or settings, which differ in comparison (rho-a" in errors
    )
    assert times(out) == before

    again, calls, places = tmp_path / "compared" / "again", list[str](), ["run", "figure"]
    of_compare, draw = nrl.evaluate, compare._draw_scores

    def killed(source: Any, *positional: Any, **named: Any) -> Any:
        calls.append(source.out.name)
        if len(calls) == 2:
            places.remove("run")
            raise KeyboardInterrupt
        return of_compare(source, *positional, **named)

    def stopped(*positional: Any) -> None:
        if places == ["figure"]:
            places.remove("figure")
            raise KeyboardInterrupt
        draw(*positional)

    monkeypatch.setattr(nrl, "evaluate", killed)
    monkeypatch.setattr(compare, "_draw_scores", stopped)
    for _ in range(2):
        assert shell("compare", study, *rdms, "--out", again)[0] != 0
    assert calls == ["labels_0", "teacher_0", "teacher_0"]
    assert shell("compare", study, *rdms, "--out", again)[0] == 0
    assert contents(again) == whole
    one = tmp_path / "compared" / "one"
    assert shell("compare", folders[0], *rdms, "--out", one)[0] == 0
    for out, source, names in (
        (again, study, ("report.html", "scores.csv", "teacher_0/evaluation.h5")),
        (one, folders[0], ("scores.csv", "differences.csv", "evaluation.h5", "evaluation.json")),
    ):
        complete = contents(out)
        for name in names:  # a file that is gone is written again
            (out / name).unlink()
            code, printed, errors = shell("compare", source, *rdms, "--out", out)
            assert code == 0, errors
            assert "nothing was computed" not in printed
            assert contents(out) == complete
    assert calls[3:] == ["labels_0", "teacher_0", *["labels_0"] * 4]  # what is there is not computed again
    for sources, message in (
        ((folders[0], data["brain.h5"]), "brain.h5 holds no run; several sources must be folders of runs"),
        ((study, folders[0]), "two runs in folders named labels_0"),
    ):
        code, _, errors = shell("compare", *sources, *rdms, "--out", tmp_path / "x")
        assert code == 1
        assert message in errors


@pytest.mark.parametrize("n_runs, n_layers", [(2, 3), (20, 2), (14, 30)])
def test_panels_of_many_runs(n_runs: int, n_layers: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The more of runs and layers stand along the axis; of more than 12 colors, a note says what is shown."""
    runs, layers = [f"run{k}" for k in range(n_runs)], [f"l{k}" for k in range(n_layers)]
    table = pd.DataFrame([{"run": run, "layer": layer, "roi": "IT"} for run in runs for layer in layers])
    panels = compare._panels(table)
    assert panels["layer"].nunique() == max(n_runs, n_layers)
    assert panels["roi"].nunique() == min(n_runs, n_layers, 12)
    assert ("the first 12 of 14 colors" in capsys.readouterr().out) == (n_runs == 14)
