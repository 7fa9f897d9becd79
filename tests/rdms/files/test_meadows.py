"""Exports of Meadows and of Net2Brain, in the layouts that these write, against the numbers in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from rsatoolbox.io.meadows import load_rdms as read_by_rsatoolbox
from scipy.spatial.distance import squareform

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms, save_rdms

NAMES = ["dog.png", "cat.png", "car.v2.png", "tree.png", "face.png"]
IDS = ["dog", "cat", "car.v2", "tree", "face"]


def judged(seed: int, n: int = 5) -> Any:
    return np.random.default_rng(seed).uniform(size=n * (n - 1) // 2)


def task(title: str, seed: int, names: list[str], **more: Any) -> dict[str, Any]:
    stimuli = [{"id": f"x{number}", "name": name, "type": "png"} for number, name in enumerate(names)]
    about = {"name": title, "task_type": "multiarrange"}
    values = judged(seed, len(names)).tolist()
    return {"status": "finished", "task": about, "stimuli": stimuli, "trials": [], "rdm": values, **more}


INFO = {"status": "finished", "task": {"name": "hello", "task_type": "info"}, "stimuli": [], "trials": []}


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


def test_all_participants_of_a_matlab_file(tmp_path: Path) -> None:
    order = [3, 0, 4, 1, 2]
    names = np.array(NAMES)
    variables = {"rdmutv_able_fly": judged(0)[None], "stimuli_able_fly": names}
    variables |= {"rdmutv_clean_koi": judged(1)[None], "stimuli_clean_koi": names}
    path = tmp_path / "Meadows_my_study_v_v1_arrangement_1D.mat"
    scipy.io.savemat(path, variables)
    with pytest.warns(UserWarning, match=r"without \.png"):
        rdms = load_rdms(path)
    assert rdms.rdm_descriptors["subject"] == ["able-fly", "clean-koi"]
    assert rdms.rdm_descriptors["task"] == ["arrangement"] * 2
    assert rdms.pattern_descriptors["stimulus"] == IDS
    path.rename(tmp_path / "Meadows_study_v_v1_arrangement_1D.mat")  # rsatoolbox counts underscores
    theirs = read_by_rsatoolbox(str(tmp_path / "Meadows_study_v_v1_arrangement_1D.mat"), sort=False)
    np.testing.assert_array_equal(rdms.dissimilarities, theirs.dissimilarities)
    assert rdms.rdm_descriptors["subject"] == theirs.rdm_descriptors["participant"]
    # each in an order of their own, which rsatoolbox takes for that of the first
    variables |= {"stimuli_clean_koi": names[order]}
    variables["rdmutv_clean_koi"] = squareform(squareform(judged(1))[np.ix_(order, order)])[None]
    scipy.io.savemat(path, variables)
    np.testing.assert_array_equal(load_rdms(path).dissimilarities, rdms.dissimilarities)


def test_one_participant_of_a_matlab_file_is_named_by_it(tmp_path: Path) -> None:
    path = tmp_path / "Meadows_study_v_v1_cuddly-bunny_3_1D.mat"
    scipy.io.savemat(path, {"rdmutv": judged(0)[None], "stimuli": np.array(NAMES)})
    rdms = load_rdms(path)
    assert rdms.rdm_descriptors["subject"] == ["cuddly-bunny"]
    assert rdms.pattern_descriptors["stimulus"] == IDS
    path.rename(tmp_path / "judged.mat")
    assert "subject" not in load_rdms(tmp_path / "judged.mat").rdm_descriptors
    assert load_rdms(tmp_path / "judged.mat", subjects="s01").rdm_descriptors["subject"] == ["s01"]


def test_trees_of_one_task_and_of_one_participant(tmp_path: Path) -> None:
    names = [name.removesuffix(".png") for name in NAMES]
    one = write(tmp_path / "Meadows_study_v_v1_shy-owl_2_tree.json", task("shapes", 0, names))
    rdms = load_rdms(one)
    assert rdms.rdm_descriptors["subject"] == ["shy-owl"]
    assert rdms.rdm_descriptors["task"] == ["shapes"]
    assert rdms.pattern_descriptors["stimulus"] == IDS
    np.testing.assert_array_equal(rdms.dissimilarities, judged(0)[None])

    tasks = [INFO, task("shapes", 0, names), task("colors", 1, names), task("shapes", 2, names)]
    several = write(tmp_path / "Meadows_study_v_v1_shy-owl_tree.json", {"token": None, "tasks": tasks})
    rdms = load_rdms(several)
    assert rdms.rdm_descriptors["task"] == ["shapes", "colors", "shapes (4)"]
    assert rdms.rdm_descriptors["subject"] == ["shy-owl"] * 3
    theirs = read_by_rsatoolbox(str(several), sort=False)
    np.testing.assert_array_equal(rdms.dissimilarities, theirs.dissimilarities)
    colors = nrl.select_rdms(rdms, select={"task": "colors"})
    np.testing.assert_array_equal(colors.dissimilarities, judged(1)[None])


def test_trees_of_several_participants_are_matched_by_name(tmp_path: Path) -> None:
    ids = list("abcde")
    part = [task("ma", 1, ["e", "b", "f"])]
    tree = {"able-fly": {"tasks": [INFO, task("ma", 0, ids)]}, "shy-owl": {"tasks": part}}
    tree |= {"left-early": {"tasks": [INFO]}, "no-tasks": {}}
    path = write(tmp_path / "Meadows_my-study_v_v2_tree.json", tree)
    with pytest.warns(UserWarning, match="NaN") as notes:
        rdms = load_rdms(path)
    texts = [str(note.message) for note in notes]
    assert any("2 participants without an RDM: left out (left-early, no-tasks)" in text for text in texts)
    assert any("2 of 2 RDMs lack some of the 6 stimuli" in text for text in texts)
    assert rdms.rdm_descriptors["subject"] == ["able-fly", "shy-owl"]
    assert rdms.pattern_descriptors["stimulus"] == [*ids, "f"]
    matrices = rdms.get_matrices()
    np.testing.assert_array_equal(matrices[0][:5, :5], squareform(judged(0)))
    np.testing.assert_array_equal(matrices[1][np.ix_([4, 1, 5], [4, 1, 5])], squareform(judged(1, 3)))
    assert np.isnan(rdms.dissimilarities).sum() == 5 + 12


def test_pairs_and_tasks_that_are_not_measured(tmp_path: Path) -> None:
    ids = list("abcde")
    values = [None, *judged(0).tolist()[1:]]
    tasks = [task("a", 0, ids, rdm=values, status="open"), task("b", 0, ids, rdm=None), task("c", 0, [])]
    path = write(tmp_path / "x.json", {"tasks": tasks})
    with pytest.warns(UserWarning, match=r"not finished \(open\)") as notes:
        rdms = load_rdms(path)
    assert sum("has no RDM: left out" in str(note.message) for note in notes) == 2
    assert np.isnan(rdms.dissimilarities[0, 0])
    np.testing.assert_array_equal(rdms.dissimilarities[0, 1:], judged(0)[1:])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "expected a tree of Meadows"),
        ({}, "expected a tree of Meadows"),
        ({"V1": {"spearman": {"lnc": 0.1, "unc": 0.2}}}, "no task of multiple arrangements"),
        ({"a": 1}, "expected a tree of Meadows"),
        ({"tasks": {"a": 1}}, "are no list"),
        ({"tasks": [INFO]}, "no task of multiple arrangements"),
        ({"tasks": [task("ma", 0, ["a", "b", "c"], rdm=[0.1, 0.2])]}, "2 values for 3 stimuli, which have 3"),
        ({"tasks": [task("ma", 0, ["a", "a", "c"])]}, "has the stimulus 'a' twice"),
        ({"tasks": [task("ma", 0, ["a", "b"], stimuli=[1, 2])]}, "stimuli without a name"),
        ({"tasks": [task("ma", 0, ["a", "b", "c"], rdm=["x", 1, 2])]}, "damaged"),
    ],
)
def test_trees_that_are_none(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message) as caught:
        load_rdms(write(tmp_path / "x.json", tree))
    assert "x.json" in str(caught.value)


def test_files_that_are_not_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "x.json", {"tasks": [task("ma", 0, ["a", "b", "c"])]})
    path.write_text(path.read_text()[:-20])
    with pytest.raises(NeurordlError, match=r"x\.json: it is damaged"):
        load_rdms(path)
    variables = {"rdmutv_a": judged(0), "stimuli_a": np.array(NAMES), "rdmutv_b": judged(1)}
    scipy.io.savemat(tmp_path / "x.mat", variables)
    with pytest.raises(NeurordlError, match=r"'rdmutv_b' has no names beside it, 'stimuli_b'"):
        load_rdms(tmp_path / "x.mat")
    scipy.io.savemat(tmp_path / "x.mat", {"rdmutv": "text", "stimuli": np.array(NAMES)})
    with pytest.raises(NeurordlError, match="hold no numbers and names"):
        load_rdms(tmp_path / "x.mat")
    with pytest.raises(NeurordlError, match=r"read from \.json, but not written; write \.h5"):
        save_rdms(load_rdms(write(path, task("ma", 0, ["a", "b", "c"]))), tmp_path / "out.json")


def test_matlab_7_3(tmp_path: Path) -> None:
    path = tmp_path / "Meadows_study_v_v1_shy-owl_1_1D.mat"
    with h5py.File(path, "w") as file:
        file["rdmutv"] = judged(0)[:, None]
        file["rdmutv"].attrs["MATLAB_class"] = np.bytes_("double")
        letters = np.array([[ord(letter) for letter in name.ljust(10)] for name in NAMES], np.uint16)
        file["stimuli"] = letters.T
        file["stimuli"].attrs["MATLAB_class"] = np.bytes_("char")
    rdms = load_rdms(path)
    assert rdms.pattern_descriptors["stimulus"] == IDS
    np.testing.assert_array_equal(rdms.dissimilarities, judged(0)[None])


# Net2Brain


def layer(path: Path, values: Any, names: Any, title: Any = "layer1.0.conv1") -> Path:
    """A file as `LayerRDM.save` of Net2Brain writes it: a dict of Python becomes a pickle in it."""
    meta = {"distance": "correlation", "multi_timepoint_rdms": None}
    np.savez(path, rdm=values, stimuli_name=names, layer_name=title, meta=meta)
    return path


def test_a_layer_of_net2brain(tmp_path: Path) -> None:
    path = layer(tmp_path / "RDM_layer1_0_conv1.npz", judged(0).astype(np.float32), IDS)
    with pytest.warns(UserWarning, match="measure="):
        rdms = load_rdms(path, measure="correlation")
    assert rdms.rdm_descriptors["layer"] == ["layer1.0.conv1"]
    assert rdms.pattern_descriptors["stimulus"] == IDS
    assert rdms.dissimilarity_measure == "correlation"
    np.testing.assert_array_equal(rdms.dissimilarities, judged(0).astype(np.float32)[None])
    assert rdms.dissimilarities.dtype == np.float32


def test_layers_of_net2brain_without_names_and_over_time(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="does not say which stimuli"):
        load_rdms(layer(tmp_path / "a.npz", judged(0), None))
    assert load_rdms(tmp_path / "a.npz", ids=IDS).pattern_descriptors["stimulus"] == IDS
    clips = np.stack([judged(seed) for seed in range(3)])
    rdms = load_rdms(layer(tmp_path / "b.npz", clips, IDS, title=None))
    np.testing.assert_array_equal(rdms.dissimilarities, clips)
    movie = nrl.rdms_over_time(tmp_path / "b.npz", [0.0, 0.1, 0.2], subjects="net")
    np.testing.assert_array_equal(movie.dissimilarities, clips)
    assert movie.rdm_descriptors["time"] == [0.0, 0.1, 0.2]
    np.savez(tmp_path / "c.npz", rdm=np.array([{}]), stimuli_name=IDS, layer_name="x", meta=1)
    with pytest.raises(NeurordlError, match="Python objects"):
        load_rdms(tmp_path / "c.npz")
