"""RDM files of every format: exact round trips, files of other programs, and what each reading refuses."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms, save_rdms
from neurordl.rdms.files import FORMATS, Format, RDMContent, hdf5, matlab
from neurordl.rdms.selection import reindex

IDS = ["b", "a10", "a2", "c", "d"]
N = len(IDS)
PAIRS = N * (N - 1) // 2
ONE_EACH = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def example(n: int = 3, dtype: Any = np.float64, missing: bool = True) -> RDMs:
    values = np.random.default_rng(0).normal(1, 1, (n, PAIRS)).astype(dtype)  # some are negative
    if missing:
        values[0, 2] = np.nan
    return RDMs(
        values,
        dissimilarity_measure="crossnobis",
        descriptors={"study": "demo", "year": 2016, "nested": {"a": "Bär"}, "noise": np.eye(2)},
        rdm_descriptors={
            "subject": ["s10", "s2", "猫"][:n],
            "roi": ["IT"] * n,
            "time": [0.1, 0.2, 1 / 3][:n],
        },
        pattern_descriptors={"stimulus": IDS, "animate": [True, False, True, False, True]},
    )


def bare(n: int = 1, ids: bool = True) -> RDMs:
    return RDMs(example(n).dissimilarities, pattern_descriptors={"stimulus": IDS} if ids else {})


def same(found: RDMs, expected: RDMs) -> None:
    np.testing.assert_array_equal(found.dissimilarities, expected.dissimilarities)
    assert found.dissimilarities.dtype == expected.dissimilarities.dtype
    assert found.dissimilarity_measure == expected.dissimilarity_measure
    assert type(found.dissimilarity_measure) is type(expected.dissimilarity_measure)
    assert {k: np.shape(v) for k, v in found.descriptors.items()} == {
        k: np.shape(v) for k, v in expected.descriptors.items()
    }
    for kind in ("rdm_descriptors", "pattern_descriptors"):
        one, other = (
            {k: list(v) for k, v in getattr(rdms, kind).items() if k not in ("index", "name")}
            for rdms in (found, expected)
        )
        assert one == other
    np.testing.assert_equal(found.descriptors, expected.descriptors)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".npz", ".mat"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 3])
def test_everything_comes_back(tmp_path: Path, suffix: str, dtype: Any, n: int) -> None:
    save_rdms(example(n, dtype), tmp_path / f"it{suffix}")
    found = load_rdms(tmp_path / f"it{suffix}")
    same(found, example(n, dtype))
    assert all(type(one) is str for one in found.pattern_descriptors["stimulus"])
    assert all(type(one) is str for one in found.rdm_descriptors["subject"])
    assert [path.name for path in tmp_path.iterdir()] == [f"it{suffix}"]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_table_comes_back(tmp_path: Path, suffix: str) -> None:
    save_rdms(bare(), tmp_path / f"it{suffix}")
    same(load_rdms(tmp_path / f"it{suffix}"), bare())
    unnamed = bare(ids=False)
    save_rdms(unnamed, tmp_path / f"bare{suffix}")
    with pytest.warns(UserWarning, match=r"does not say which stimuli its 5 rows are; .*ids= or labels="):
        same(load_rdms(tmp_path / f"bare{suffix}"), unnamed)


def test_an_array_comes_back(tmp_path: Path) -> None:
    save_rdms(bare(3), tmp_path / "it.npy", lossy=True)
    same(load_rdms(tmp_path / "it.npy", ids=IDS), bare(3))


@pytest.mark.parametrize(
    ("suffix", "named"),
    [(".npy", "RDM descriptor 'subject'.*pattern descriptor 'stimulus'.*measure"), (".csv", "'animate'")],
)
def test_what_a_format_has_no_place_for_is_named(tmp_path: Path, suffix: str, named: str) -> None:
    with pytest.raises(NeurordlError, match=rf"has no place for .*{named}.*lossy=True"):
        save_rdms(example(1), tmp_path / f"it{suffix}")
    save_rdms(example(1), tmp_path / f"it{suffix}", lossy=True)
    with pytest.raises(NeurordlError, match="holds one RDM, and these are 3"):
        save_rdms(example(3), tmp_path / "it.csv", lossy=True)
    assert len(list(tmp_path.iterdir())) == 1


@ONE_EACH
@given(data=st.data())
def test_any_order_of_a_file_aligns_to_the_same(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".h5", ".npz", ".mat", ".csv", ".tsv"]))
    order = data.draw(st.permutations(range(N)))
    rdms = bare()
    matrix = squareform(rdms.dissimilarities[0], checks=False)[np.ix_(order, order)]
    turned = RDMs(
        squareform(matrix, checks=False)[None], pattern_descriptors={"stimulus": [IDS[k] for k in order]}
    )
    save_rdms(turned, tmp_path / f"it{suffix}")
    np.testing.assert_array_equal(reindex(load_rdms(tmp_path / f"it{suffix}"), IDS), rdms.dissimilarities)


@ONE_EACH
@given(
    ids=st.lists(
        st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="\0\r\n"), min_size=1).filter(
            str.strip
        ),
        min_size=N,
        max_size=N,
        unique=True,
    ),
    suffix=st.sampled_from([".h5", ".npz", ".mat", ".csv", ".tsv"]),
)
def test_any_ids_come_back(tmp_path: Path, ids: list[str], suffix: str) -> None:
    rdms = RDMs(np.ones((1, PAIRS)), pattern_descriptors={"stimulus": ids})
    if suffix in (".csv", ".tsv") and any(one != one.strip() for one in ids):
        with pytest.raises(NeurordlError, match="begins or ends with a blank"):
            save_rdms(rdms, tmp_path / f"ids{suffix}")
        return
    if suffix == ".tsv" and "\t" in "".join(ids):
        with pytest.raises(NeurordlError, match="has a tab"):
            save_rdms(rdms, tmp_path / "ids.tsv")
        return
    save_rdms(rdms, tmp_path / f"ids{suffix}")
    assert list(load_rdms(tmp_path / f"ids{suffix}").pattern_descriptors["stimulus"]) == ids


# Shapes: what numpy, scipy and MATLAB leave behind


def squares(n: int = 2) -> np.ndarray:
    return np.stack([squareform(v, checks=False) for v in example(3, missing=False).dissimilarities[:n]])


def vectors(n: int = 2) -> np.ndarray:
    return example(3, missing=False).dissimilarities[:n]


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (squares(1)[0], vectors(1)),
        (squares(2), vectors(2)),
        (np.moveaxis(squares(2), 0, -1), vectors(2)),  # as MATLAB stacks them
        (squares(2).reshape(1, 2, N, N), vectors(2)),
        (vectors(1)[0], vectors(1)),
        (vectors(1).T, vectors(1)),
        (vectors(2), vectors(2)),
        (vectors(2).T[None], vectors(2)),  # 1 x pairs x RDMs
        (squares(3)[:, :3, :3], squareform(squares(3)[0, :3, :3])[None]),  # a cube of which one reading fits
        ((squares(1)[0] > 1).astype(np.uint8), (vectors(1) > 1).astype(float)),
        (squares(1)[0] > 1, (vectors(1) > 1).astype(float)),
        (squares(1)[0].astype(">f4"), vectors(1).astype(np.float32)),
    ],
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_shapes(tmp_path: Path, array: np.ndarray, expected: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"it{suffix}"
    if suffix == ".mat":
        scipy.io.savemat(path, {"D": array}, oned_as="row")
    else:
        (np.save if suffix == ".npy" else np.savez)(path, array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_rdms(path).dissimilarities
    np.testing.assert_array_equal(found[: len(expected)], expected)


def test_where_both_readings_are_possible(tmp_path: Path) -> None:
    # 10 RDMs of 5 stimuli, or one of 10 that is not symmetric
    array = np.random.default_rng(0).random((10, 10)) * (1 - np.eye(10))
    np.save(tmp_path / "it.npy", array)
    with pytest.raises(
        NeurordlError, match=r"\(10, 10\).*its symmetry does not decide: pass layout='square'"
    ):
        load_rdms(tmp_path / "it.npy")
    np.testing.assert_array_equal(
        load_rdms(tmp_path / "it.npy", ids=IDS, layout="condensed").dissimilarities, array
    )
    with pytest.raises(NeurordlError, match="is not symmetric: row 2, column 6"):
        load_rdms(tmp_path / "it.npy", layout="square")
    for shape in ((7,), (2, 7), (4, 5), (2, 3, 4), ()):
        np.save(tmp_path / "it.npy", np.ones(shape))
        with pytest.raises(NeurordlError, match=r"which no RDM has: expected a square"):
            load_rdms(tmp_path / "it.npy")


def test_asymmetry(tmp_path: Path) -> None:
    matrix = squares(1)[0]
    rounded = matrix.copy()
    rounded[0, 1] *= 1 + 1e-7
    np.save(tmp_path / "it.npy", rounded)
    found = load_rdms(tmp_path / "it.npy", ids=IDS).dissimilarities
    assert found[0, 0] == pytest.approx((rounded[0, 1] + rounded[1, 0]) / 2, rel=1e-15)
    np.testing.assert_array_equal(found[:, 1:], vectors(1)[:, 1:])
    for wrong in (matrix[0, 1] + 0.1, np.nan):
        broken = matrix.copy()
        broken[0, 1] = wrong
        np.save(tmp_path / "it.npy", broken)
        with pytest.raises(NeurordlError, match=r"not symmetric: row 0, column 1 .* row 1, column 0"):
            load_rdms(tmp_path / "it.npy")
    np.save(tmp_path / "it.npy", np.triu(matrix))
    with pytest.raises(NeurordlError, match=r"not symmetric.*make it symmetric"):
        load_rdms(tmp_path / "it.npy")


def test_rounding_is_less_than_what_was_measured_twice(tmp_path: Path) -> None:
    matrix = squares(1)[0]
    matrix[0, 1] += 1e-4 * np.abs(matrix).max()
    np.save(tmp_path / "it.npy", matrix)
    with pytest.raises(NeurordlError, match="not symmetric"):
        load_rdms(tmp_path / "it.npy")


def test_condensed_similarities(tmp_path: Path) -> None:
    np.save(tmp_path / "it.npy", 1 - vectors(2))
    found = load_rdms(tmp_path / "it.npy", ids=IDS, similarity="1-s").dissimilarities
    np.testing.assert_allclose(found, vectors(2), atol=1e-15)


def test_similarities_and_diagonals(tmp_path: Path) -> None:
    path = tmp_path / "it.npy"
    similar = 1 - squares(1)[0]
    np.save(path, similar)
    with pytest.raises(
        NeurordlError, match=r"ones on its diagonal: these are similarities.*similarity='1-s'"
    ):
        load_rdms(path)
    np.testing.assert_allclose(
        load_rdms(path, ids=IDS, similarity="1-s").dissimilarities, vectors(1), atol=1e-15
    )
    np.save(path, squares(1)[0])
    with pytest.raises(NeurordlError, match="it is zero, as of dissimilarities; leave similarity out"):
        load_rdms(path, similarity="1-s")
    np.save(path, squares(1)[0] + np.diag([0.5, 0, 0, 0, 0]))
    with pytest.raises(
        NeurordlError, match=r"diagonal that is not zero \(from 0 to 0.5\).*diagonal='ignore'"
    ):
        load_rdms(path)
    np.testing.assert_array_equal(load_rdms(path, ids=IDS, diagonal="ignore").dissimilarities, vectors(1))
    with pytest.raises(NeurordlError, match=r"takes similarities.*goes to 0.5"):
        load_rdms(path, similarity="1-s")
    np.save(path, squares(1)[0] + np.diag([np.nan] * N))
    np.testing.assert_array_equal(load_rdms(path, ids=IDS).dissimilarities, vectors(1))
    for option in ("layout", "similarity", "diagonal"):
        with pytest.raises(NeurordlError, match=rf"{option}='x': expected one of None, '"):
            load_rdms(path, **{option: "x"})  # type: ignore[arg-type]


def test_values_that_are_no_dissimilarities(tmp_path: Path) -> None:
    path = tmp_path / "it.npy"
    for array, said in (
        (np.full((1, PAIRS), np.nan), "NaN everywhere"),
        (np.array([[np.inf, 1, 1]]), "infinite"),
        (np.array([["a", "b", "c"]]), "must be numbers"),
        (np.ones((1, 3)) * 1j, "must be numbers"),
        (np.ones((0, 3)), "must be numbers"),
    ):
        np.save(path, array)
        with pytest.raises(NeurordlError, match=said):
            load_rdms(path)


# Ids, subjects


def test_ids_are_given_once_and_for_each_row(tmp_path: Path) -> None:
    path = tmp_path / "it.npy"
    np.save(path, vectors(2))
    for ids in (IDS[:-1], [*IDS, "e"]):
        with pytest.raises(
            NeurordlError,
            match=rf"{len(ids)} values were passed for 'stimulus', but .* has 5",
        ):
            load_rdms(path, ids=ids)
    with pytest.raises(NeurordlError, match="must be unique"):
        load_rdms(path, ids=["b"] * N)
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    (tmp_path / "ids.csv").write_text("name,id\n" + "".join(f"x,{one}\n" for one in IDS))
    (tmp_path / "ids.tsv").write_text("stimulus\tn\n" + "".join(f"{one}\t1\n" for one in IDS))
    for name in ("ids.txt", "ids.csv", "ids.tsv"):
        assert load_rdms(path, labels=tmp_path / name).pattern_descriptors["stimulus"] == IDS
    with pytest.raises(NeurordlError, match="both given"):
        load_rdms(path, ids=IDS, labels=tmp_path / "ids.txt")
    (tmp_path / "ids.csv").write_text("name,age\nx,1\n")
    with pytest.raises(NeurordlError, match="no column 'id' or 'stimulus': its columns are name, age"):
        load_rdms(path, labels=tmp_path / "ids.csv")
    for name, said in (("gone.txt", "gone.txt: No such file"), ("it.npy", "expected a .csv, .tsv or .txt")):
        with pytest.raises(NeurordlError, match=said):
            load_rdms(path, labels=tmp_path / name)


def test_what_is_given_does_not_go_against_the_file(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "it.h5")
    load_rdms(tmp_path / "it.h5", ids=IDS, subjects=["s10", "s2", "猫"], roi="IT", measure="crossnobis")
    for given_, said in (
        ({"ids": IDS[::-1]}, "its own stimulus"),
        ({"subjects": ["a", "b", "c"]}, "its own subject"),
        ({"roi": "EVC"}, "its own roi"),
        ({"measure": "euclidean"}, "its own measure"),
        ({"subjects": ["s10"]}, r"1 values were passed for 'subject', but .* has 3"),
        ({"name": "it"}, "leave out name='it'"),
    ):
        with pytest.raises(NeurordlError, match=said):
            load_rdms(tmp_path / "it.h5", **given_)  # type: ignore[arg-type]
    np.save(tmp_path / "it.npy", vectors(2))
    found = load_rdms(tmp_path / "it.npy", ids=IDS, subjects=["x", "y"], roi="IT", measure="correlation")
    assert found.rdm_descriptors["subject"] == ["x", "y"]
    assert found.rdm_descriptors["roi"] == ["IT", "IT"]
    assert found.dissimilarity_measure == "correlation"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "s10\n\n s2 \n猫\n"),
        ("names.csv", "age,subject\n1,s10\n2,s2\n3,猫\n"),
        ("participants.tsv", "participant_id\tage\ns10\tn/a\ns2\t2\n猫\t3\n"),
    ],
)
def test_subjects_from_a_file(tmp_path: Path, name: str, text: str) -> None:
    np.save(tmp_path / "it.npy", vectors(3))
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = load_rdms(tmp_path / "it.npy", ids=IDS, subjects_from=tmp_path / name, session="1")
    assert found.rdm_descriptors["subject"] == ["s10", "s2", "猫"]
    assert found.rdm_descriptors["session"] == ["1", "1", "1"]
    own = load_rdms(tmp_path / "it.npy", ids=IDS, subjects="me", session=["1", "2", "3"])
    assert own.rdm_descriptors["subject"] == ["me"] * 3
    with pytest.raises(NeurordlError, match="both given"):
        load_rdms(tmp_path / "it.npy", ids=IDS, subjects="me", subjects_from=tmp_path / name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "subject\ns1\ns2\n",
            r"names.csv do not fit: 2 values were passed for 'subject', but .*it.npy has 3",
        ),
        ("subject\ns1\ns2\ns1\n", r"names.csv do not fit: 2 RDMs have .* \(subject s1\), in .*it.npy; leave"),
        ("subject,age\ns1,1\nn/a,1\ns2,2\n", r"names.csv: row 2 \(from 1, .*\) has no subject; fill it in"),
        (
            "name,age\na,1\nb,1\n",
            "no column 'subject' or 'participant_id': .* name, age.*the subjects, rename it",
        ),
        (None, "names.csv: No such file"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, text: str | None, said: str) -> None:
    np.save(tmp_path / "it.npy", vectors(3))
    if text is not None:
        (tmp_path / "names.csv").write_text(text)
    with pytest.raises(NeurordlError, match=said):
        load_rdms(tmp_path / "it.npy", ids=IDS, subjects_from=tmp_path / "names.csv")
    (tmp_path / "names.csv").write_text("subject\ns1\ns1\ns2\n")  # the ROI tells them apart
    roi = ["IT", "EVC", "IT"]
    found = load_rdms(tmp_path / "it.npy", ids=IDS, subjects_from=tmp_path / "names.csv", roi=roi)
    assert found.rdm_descriptors["subject"] == ["s1", "s1", "s2"]


# .npz and .npy


def test_npz_names_its_stimuli_and_subjects(tmp_path: Path) -> None:
    path = tmp_path / "it.npz"
    np.savez(path, D=squares(2), ids=np.array(IDS), subjects=np.array(["s2", "s1"]), age=np.arange(4))
    found = load_rdms(path)
    assert (found.pattern_descriptors["stimulus"], found.rdm_descriptors["subject"]) == (IDS, ["s2", "s1"])
    np.savez(path, D=squares(2), E=vectors(2), ids=np.array(IDS), subjects=np.array(["s2", "s1", "s0"]))
    with pytest.raises(NeurordlError, match=r"several .*: 'D' \(2 x 5 x 5\), 'E' \(2 x 10\); pass name="):
        load_rdms(path)
    with pytest.raises(NeurordlError, match=r"no variable 'F'; it has: D .*E .*ids"):
        load_rdms(path, name="F")
    with pytest.warns(UserWarning, match="3 subject names but 2 RDMs: they are left out"):
        assert "subject" not in load_rdms(path, name="E").rdm_descriptors
    np.savez(path, x=np.ones(4))
    with pytest.raises(NeurordlError, match=r"no variable that can be RDMs .*it has: x \(4\)"):
        load_rdms(path)
    np.savez(path, D=squares(1), ids=np.array(IDS[:4]))
    with pytest.raises(NeurordlError, match="consistent RDMs"):
        load_rdms(path)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_what_could_be_the_ids_is_pointed_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"it{suffix}"
    conds = np.array(IDS, dtype=object if suffix == ".mat" else str)
    variables = {"D": squares(1)[0], "group": conds[[0, 0, 1, 1, 2]], "conds": conds, "few": conds[:3]}
    scipy.io.savemat(path, variables) if suffix == ".mat" else np.savez(path, **variables)
    with pytest.warns(
        UserWarning,
        match=r"; 'conds' has another text .*\['stimulus'\] = rdms.pattern_descriptors\['conds'\]$",
    ):
        found = load_rdms(path)
    assert "few" not in found.pattern_descriptors
    with pytest.raises(NeurordlError, match="'conds' has another text for each row"):
        reindex(found, IDS)
    found.pattern_descriptors["stimulus"] = found.pattern_descriptors["conds"]
    np.testing.assert_array_equal(reindex(found, IDS), vectors(1))
    for ids in (IDS, [f"{name}.png" for name in IDS], [f"photo {name}" for name in IDS[::-1]]):
        assert load_rdms(path, ids=ids).pattern_descriptors["stimulus"] == ids
    for ids in (IDS[::-1], [f"{name}.png" for name in IDS[::-1]]):  # the file itself says otherwise
        with pytest.raises(
            NeurordlError, match=r"'conds' has the same names in another order .*give the ids"
        ):
            load_rdms(path, ids=ids)
    np.save(tmp_path / "it.npy", squares(1))
    (tmp_path / "ids.csv").write_text("n,conds\n" + "".join(f"1,{one}\n" for one in IDS))
    with pytest.raises(
        NeurordlError, match=r"are n, conds; 'conds' has another text .* rename it to 'stimulus'"
    ):
        load_rdms(tmp_path / "it.npy", labels=tmp_path / "ids.csv")


def test_texts_that_could_be_of_rdms_or_of_stimuli(tmp_path: Path) -> None:
    cube = np.stack([squares(1)[0]] * N)  # as many RDMs as stimuli
    np.savez(tmp_path / "it.npz", D=cube, who=np.array(list("vwxyz")))
    with pytest.warns(UserWarning, match="does not say which stimuli its 5 rows are.*to their ids$"):
        assert "who" not in load_rdms(tmp_path / "it.npz", layout="square").pattern_descriptors


def test_structs_that_name_their_stimuli(tmp_path: Path) -> None:
    array = np.empty((1, 2), dtype=[("RDM", object), ("name", object), ("ids", object), ("conds", object)])
    names = np.array(IDS, dtype=object)
    for k in range(2):
        array[0, k] = (squares(2)[k], "ab"[k], names, names[::-1])
    scipy.io.savemat(tmp_path / "it.mat", {"RDMs": array})
    assert load_rdms(tmp_path / "it.mat").pattern_descriptors["stimulus"] == IDS
    array[0, 1]["ids"] = names[::-1]
    scipy.io.savemat(tmp_path / "it.mat", {"RDMs": array})
    with pytest.raises(
        NeurordlError, match=r"in the field 'ids', and not all alike; bring them into one order"
    ):
        load_rdms(tmp_path / "it.mat")
    other = {"RDM": squares(1)[0], "conds": names}
    scipy.io.savemat(tmp_path / "it.mat", {"RDMs": other})
    with pytest.warns(UserWarning, match="'conds' has another text"):
        load_rdms(tmp_path / "it.mat")


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".h5"])
def test_numbers_are_no_ids_until_they_are_given_as_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"it{suffix}"
    save_rdms(RDMs(vectors(1), pattern_descriptors={"stimulus": np.arange(1.0, N + 1)}), path)
    with pytest.warns(
        UserWarning, match=r"has numbers as stimulus ids \(1.0, 2.0, 3.0, and 2 more\).*'1' another than"
    ):
        found = load_rdms(path)
    with pytest.raises(NeurordlError, match=r"position 0 is 1.0 \(float\); convert numbers with str"):
        reindex(found, ["1", "2"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_rdms(path, ids=["1", "2", "3", "4", "5"])
    assert found.pattern_descriptors["stimulus"] == ["1", "2", "3", "4", "5"]
    for wrong in (["2", "1", "3", "4", "5"], ["01", "02", "03", "04", "05"]):
        with pytest.raises(NeurordlError, match="its own stimulus"):
            load_rdms(path, ids=wrong)


def test_rdms_in_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "it.npy", np.random.default_rng(0).random((45, 15)))
    with pytest.warns(
        UserWarning, match=r"\(45, 15\) was read as 45 RDMs, one per row; if each column is an RDM"
    ):
        assert load_rdms(tmp_path / "it.npy", ids=list("abcdef")).n_rdm == 45
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_rdms(tmp_path / "it.npy", ids=list("abcdef"), layout="condensed")
        np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((15, 45)))
        load_rdms(tmp_path / "rows.npy", ids=list("abcdefghij"))
    np.save(tmp_path / "it.npy", np.random.default_rng(0).random((45, 14)))
    with pytest.raises(NeurordlError, match="its columns are of that length: transpose it"):
        load_rdms(tmp_path / "it.npy")


def test_npz_ids_as_bytes_and_pictures_that_are_no_ids(tmp_path: Path) -> None:
    path = tmp_path / "it.npz"
    np.savez(path, D=squares(1), ids=np.array([one.encode() for one in IDS]))
    assert load_rdms(path).pattern_descriptors["stimulus"] == IDS
    np.savez(path, D=squares(1), stimuli=np.zeros((N, 4, 4, 3), np.uint8), id=np.array([IDS]))
    assert load_rdms(path).pattern_descriptors["stimulus"] == IDS
    np.savez(path, D=squares(1), ids=np.array([b"\xff"] * N))
    with pytest.raises(NeurordlError, match="damaged"):
        load_rdms(path)


def test_which_variables_say_what(tmp_path: Path) -> None:
    path = tmp_path / "it.npz"
    np.savez(path, dissimilarities=vectors(2), D=squares(1), stimulus=np.array(IDS), id=np.array(IDS[::-1]))
    found = load_rdms(path)
    np.testing.assert_array_equal(found.dissimilarities, vectors(2))
    assert found.pattern_descriptors["stimulus"] == IDS


def test_a_header_that_claims_less_than_the_file_holds(tmp_path: Path) -> None:
    np.save(tmp_path / "it.npy", vectors(1))
    content = (tmp_path / "it.npy").read_bytes().replace(b"(1, 10), }", b"(1, 6), } ")
    (tmp_path / "it.npy").write_bytes(content)  # six pairs of the ten: an RDM of four stimuli
    with pytest.raises(NeurordlError, match="claims an array of 48 bytes, but has 80"):
        load_rdms(tmp_path / "it.npy", ids=IDS[:4])


def test_a_number_that_changed_in_npz(tmp_path: Path) -> None:
    path = tmp_path / "it.npz"
    np.savez(path, D=squares(1), ids=np.array(IDS))
    content = bytearray(path.read_bytes())
    content[content.index(squares(1)[0, 0, 1].tobytes()) + 3] ^= 1  # symmetric to the eye: the checksum tells
    content[content.index(squares(1)[0, 0, 1].tobytes()) + 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(NeurordlError, match="CRC"):
        load_rdms(path)
    np.savez_compressed(path, D=squares(1))
    with zipfile.ZipFile(path) as archive:
        crc = struct.pack("<I", archive.getinfo("D.npy").CRC)
    path.write_bytes(path.read_bytes().replace(crc, b"\1\2\3\4"))
    with pytest.raises(NeurordlError, match="CRC"):
        load_rdms(path)


def test_an_array_twice_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "it.npz", D=squares(1))
    with zipfile.ZipFile(tmp_path / "it.npz", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("D.npy", archive.read("D.npy"))
    with pytest.raises(NeurordlError, match="it has the array 'D' twice"):
        load_rdms(tmp_path / "it.npz")


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_descriptors_of_several_numbers_come_back(tmp_path: Path, suffix: str) -> None:
    rdms = example()
    rdms.pattern_descriptors["place"] = np.arange(2.0 * N).reshape(N, 2)
    rdms.rdm_descriptors["window"] = [[0.1, 0.2], [0.2, 0.3], [0.3, 0.4]]
    save_rdms(rdms, tmp_path / f"it{suffix}")
    found = load_rdms(tmp_path / f"it{suffix}")
    np.testing.assert_array_equal(found.pattern_descriptors["place"], rdms.pattern_descriptors["place"])
    assert found.rdm_descriptors["window"] == rdms.rdm_descriptors["window"]


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".mat", ".npy"])
def test_several_rdms_of_two_stimuli(tmp_path: Path, suffix: str) -> None:
    rdms = RDMs(np.array([[0.5], [0.2], [0.1]]), pattern_descriptors={"stimulus": ["x", "y"]})
    if suffix == ".npy":  # (3, 1) is also one RDM of three stimuli, as a column
        with pytest.raises(NeurordlError, match="3 RDMs of two stimuli"):
            save_rdms(rdms, tmp_path / "two.npy", lossy=True)
        assert list(tmp_path.iterdir()) == []
        return
    save_rdms(rdms, tmp_path / f"two{suffix}")
    np.testing.assert_array_equal(load_rdms(tmp_path / f"two{suffix}").dissimilarities, rdms.dissimilarities)


class Bomb:
    """Would make a file, were it unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.mark), "w"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for protocol in (2, 3, 4, 5):
        for suffix in (".npz", ".npy"):
            (tmp_path / f"it{suffix}").write_bytes(pickle.dumps(Bomb(mark), protocol))
            with pytest.raises(
                NeurordlError, match=rf"it\{suffix} is a pickle under another name.*can run any code"
            ):
                load_rdms(tmp_path / f"it{suffix}")
    for suffix in (".mat", ".h5", ".csv"):
        (tmp_path / f"it{suffix}").write_bytes(pickle.dumps(Bomb(mark)))
        with pytest.raises(NeurordlError, match=rf"it\{suffix}"):
            load_rdms(tmp_path / f"it{suffix}")
    objects = np.array([[Bomb(mark)] * 3], dtype=object)
    np.save(tmp_path / "o.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "o.npz", D=objects)
    for name in ("o.npy", "o.npz"):
        with pytest.raises(
            NeurordlError, match=r"o\.np. holds Python objects|'D' in .*o\.npz holds Python objects"
        ):
            load_rdms(tmp_path / name)
    assert not mark.exists()


def npy_header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def hdf5_bomb(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("dissimilarities", (1, 2**40), "f8", chunks=(1, 2**16), compression="gzip")


def mat_bomb(path: Path) -> None:
    scipy.io.savemat(path, {"D": squares(1)[0]}, do_compression=False)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<4i", 5, 8, N, N))
    content[at : at + 16] = struct.pack("<4i", 5, 8, 2**20, 2**20)
    path.write_bytes(content)


def mat_packed_bomb(path: Path) -> None:
    scipy.io.savemat(path, {"D": squares(1)[0]}, do_compression=False)
    content = path.read_bytes()
    packed = zlib.compress(struct.pack("<2I", 14, 2**31 - 8) + bytes(100))
    path.write_bytes(content[:128] + struct.pack("<2I", 15, len(packed)) + packed)


def npz_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("D.npy", npy_header("(100000, 100000)"))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("it.npy", lambda path: path.write_bytes(npy_header("(100000, 100000)"))),
        ("it.npy", lambda path: path.write_bytes(npy_header("(100000000000,)", "'|V0'"))),
        ("it.npz", npz_bomb),
        ("it.mat", mat_bomb),
        ("it.mat", mat_packed_bomb),
        ("it.h5", hdf5_bomb),
        ("it.mat", hdf5_bomb),
    ],
)
def test_small_files_that_claim_gigabytes(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 100_000
    with pytest.raises(NeurordlError, match=r"is damaged.*claims"):
        load_rdms(tmp_path / name)


def test_a_list_of_texts_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.ones((1, 3))
        file["pattern_descriptors/stimulus"] = np.array(["a", "bcdef", "g"], dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<IQ", 5, content.index(b"GCOL")))
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(NeurordlError, match="claims a text of 2147483647"):
        load_rdms(path)


def test_a_text_in_chunks_that_claims_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.ones((1, 3))
        texts = {
            "data": ["a", "bcdef", "g"],
            "dtype": h5py.string_dtype(),
            "chunks": (3,),
            "maxshape": (None,),
        }
        file.create_dataset("pattern_descriptors/stimulus", **texts)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<IQ", 5, content.index(b"GCOL")))
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    with pytest.raises(NeurordlError, match="claims a text of 2147483647"):
        load_rdms(path)


def test_hdf5_of_what_rdm_files_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.ones((1, 3))
        file["table"] = np.zeros(2, dtype=[("a", "f8"), ("b", "i4")])
    with pytest.warns(UserWarning, match="1 items in it are not read: /table is of a type that RDM files do"):
        assert load_rdms(path, ids=list("abc")).n_rdm == 1
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.ones((1, 3), dtype=complex)
    with pytest.raises(NeurordlError, match="/dissimilarities is of a type that RDM files do not use"):
        load_rdms(path)
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.ones((1, 3))
        file["a"] = file["b"] = 1.0
    monkeypatch.setattr(hdf5, "_MAX_ITEMS", 2)
    with pytest.raises(NeurordlError, match="holds 3 items"):
        load_rdms(path)


@pytest.mark.parametrize("texts", ["an attribute", "a dataset", "a dataset in chunks"])
def test_hdf5_whose_free_space_has_no_end_is_refused(texts: str, tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w") as file:
        file["dissimilarities"] = np.random.default_rng(0).random((2, 6))
        file["pattern_descriptors/stimulus"] = np.array([b"a", b"b", b"c", b"d"])
        if texts == "an attribute":
            file["dissimilarities"].parent.attrs["dissimilarity_measure"] = "correlation"
        else:
            options = {"chunks": (2,), "maxshape": (None,)} if "chunks" in texts else {}
            kind = h5py.string_dtype()
            file.create_dataset("rdm_descriptors/subject", data=["x", "y"], dtype=kind, **options)
    whole = path.read_bytes()
    assert load_rdms(path).n_rdm == 2
    start = whole.index(b"GCOL\x01\0\0\0")
    at, end = start + 16, start + int.from_bytes(whole[start + 8 : start + 16], "little")
    while whole[at : at + 2] != b"\0\0":
        at += 16 + (int.from_bytes(whole[at + 8 : at + 16], "little") + 7) // 8 * 8
    assert int.from_bytes(whole[at + 8 : at + 16], "little") == end - at
    path.write_bytes(whole[: at + 8] + (128).to_bytes(8, "little") + whole[at + 16 :])
    with pytest.raises(NeurordlError, match="stored in a damaged way"):  # HDF5 itself never comes back
        load_rdms(path)


def test_numbered_lists_in_hdf5_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    ids = [f"s{k}" for k in range(12)]
    with h5py.File(tmp_path / "it.h5", "w") as file:
        file["dissimilarities"] = np.arange(66.0)
        for number, text in enumerate(ids):
            file[f"pattern_descriptors/stimulus/{number}"] = text
    assert load_rdms(tmp_path / "it.h5").pattern_descriptors["stimulus"] == ids


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("others", [0, 20])  # many attributes are stored elsewhere
def test_a_text_that_claims_gigabytes(tmp_path: Path, version: Any, several: bool, others: int) -> None:
    path = tmp_path / "it.h5"
    with h5py.File(path, "w", libver=version) as file:
        file["dissimilarities"] = np.ones((1, 3))
        group = file.create_group("descriptors")
        group.attrs["study"] = ["a text", "a longer text"] if several else "a longer text"
        for k in range(others):
            group.attrs[f"x{k}"] = "y"
    content = bytearray(path.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert "study" in load_rdms(path).descriptors
    length = struct.pack("<IQ", 13, content.index(b"GCOL"))
    at = content.index(length, content.index(b"study\0"))
    content[at : at + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    # with a checksum of its own the newer form is not read at all
    said = "claims a text of 2147483647" if version == "earliest" else "checksum"
    with pytest.raises(NeurordlError, match=said):
        load_rdms(path)


def test_hdf5_that_points_elsewhere_or_at_itself(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "other.h5")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["dissimilarities"] = h5py.ExternalLink("other.h5", "dissimilarities")
    with pytest.raises(NeurordlError, match="'dissimilarities' is a link to another file"):
        load_rdms(tmp_path / "link.h5")
    (tmp_path / "raw").write_bytes(bytes(80))
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("dissimilarities", (1, 10), "f8", external=[(str(tmp_path / "raw"), 0, 80)])
    with pytest.raises(NeurordlError, match="keeps its data in another file"):
        load_rdms(tmp_path / "raw.h5")
    layout = h5py.VirtualLayout((1, 10), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "dissimilarities", (3, 10))[:1]
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("dissimilarities", layout)
    with pytest.raises(NeurordlError, match="keeps its data in another file"):
        load_rdms(tmp_path / "virtual.h5")
    for name in ("loop.h5", "loop.mat"):
        with h5py.File(tmp_path / name, "w") as file:
            file["descriptors/again"] = file["/"]
        with pytest.raises(NeurordlError, match="nested more than 16 deep"):
            load_rdms(tmp_path / name)


# MATLAB


def toolbox(names: list[str], shape: tuple[int, ...], condensed: bool = False) -> np.ndarray:
    """A struct array as the MATLAB toolbox writes it."""
    array = np.empty(shape, dtype=[("RDM", object), ("name", object), ("color", object)])
    for k, place in enumerate(np.ndindex(shape)):
        vector = vectors(1)[0] + k
        array[place] = (vector[None] if condensed else squareform(vector), names[k], np.array([[0, 0, 1]]))
    return array


NAMES = [f"hIT | {who} | Session: {n}" for who in ("BE", "KO") for n in (1, 2)]


@pytest.mark.parametrize("condensed", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_struct_arrays_of_the_toolbox(tmp_path: Path, condensed: bool, compressed: bool) -> None:
    path = tmp_path / "it.mat"
    scipy.io.savemat(path, {"RDMs": toolbox(NAMES, (1, 2, 2), condensed)}, do_compression=compressed)
    with pytest.warns(
        UserWarning, match=r"read from the names of the 4 RDMs; 'hIT \| BE \| Session: 1' is roi 'hIT'"
    ):
        found = load_rdms(path, ids=IDS)
    described = found.rdm_descriptors
    assert "name" not in described  # its parts say it all
    assert described["subject"] == ["BE", "KO", "BE", "KO"]
    assert described["session"] == ["1", "1", "2", "2"]
    assert described["roi"] == ["hIT"] * 4
    np.testing.assert_array_equal(found.dissimilarities, vectors(1) + np.array([[0, 2, 1, 3]]).T)
    assert "color" not in described


@pytest.mark.parametrize("names", [["hIT | BE", "hIT | KO"], ["a", "b"], ["hIT | BE | Session: 1", "mean"]])
def test_other_names_stay_names(tmp_path: Path, names: list[str]) -> None:
    scipy.io.savemat(tmp_path / "it.mat", {"RDMs": toolbox(names, (1, 2))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        described = load_rdms(tmp_path / "it.mat", ids=IDS).rdm_descriptors
    assert described["name"] == names
    assert "subject" not in described


def test_mat_with_several_candidates(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    cell = np.empty((1, N), dtype=object)
    cell[0, :] = IDS
    one = toolbox(["a"], (1, 1))
    scipy.io.savemat(path, {"D": squares(1)[0], "RDMs": one, "ids": cell, "subject": "s1"})
    with pytest.raises(NeurordlError, match=r"several .*: 'D' \(5 x 5\), 'RDMs' \(1 structs\)"):
        load_rdms(path)
    for name in ("D", "RDMs"):
        found = load_rdms(path, name=name)
        assert found.pattern_descriptors["stimulus"] == IDS
        assert found.rdm_descriptors["subject"] == ["s1"]
    scipy.io.savemat(path, {"s": {"x": 1.0}, "t": "text"})
    with pytest.raises(
        NeurordlError, match=r"no variable that can be RDMs.*it has: s \(1 structs\), t \(text\)"
    ):
        load_rdms(path)
    with pytest.raises(NeurordlError, match="no field RDM, but x"):
        load_rdms(path, name="s")
    scipy.io.savemat(path, {"D": squares(1)[0]}, format="4")
    with pytest.raises(NeurordlError, match=r"not a \.mat file of version 5 or 7\.3"):
        load_rdms(path)
    array = toolbox(["a", "b"], (1, 2))
    array[0, 1]["RDM"] = np.zeros((3, 3))
    scipy.io.savemat(path, {"RDMs": array})
    with pytest.raises(NeurordlError, match=r"different numbers of stimuli .*5"):
        load_rdms(path)


def mat73(path: Path, variables: dict[str, Any]) -> None:
    """A file as MATLAB 7.3 lays it out: columns first, text as numbers, cells and structs by reference."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")

        def put(group: h5py.Group, name: str, value: Any) -> h5py.Dataset | h5py.Group:
            if isinstance(value, str):
                item = group.create_dataset(
                    name, data=np.frombuffer(value.encode("utf-16-le"), "<u2")[:, None]
                )
                item.attrs["MATLAB_class"] = np.bytes_("char")
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                item = group.create_group(name)
                item.attrs["MATLAB_class"] = np.bytes_("struct")
                for field in value[0]:
                    item.create_dataset(
                        field, data=np.array([[ref(one[field])] for one in value], dtype=h5py.ref_dtype)
                    )
            elif isinstance(value, list):
                item = group.create_dataset(
                    name, data=np.array([[ref(one)] for one in value], dtype=h5py.ref_dtype)
                )
                item.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                array = np.asarray(value)
                item = group.create_dataset(
                    name, data=np.atleast_2d(array).T.astype(np.uint8 if array.dtype == bool else array.dtype)
                )
                item.attrs["MATLAB_class"] = np.bytes_("logical" if array.dtype == bool else "double")
            return item

        def ref(value: Any) -> h5py.Reference:
            return put(refs, f"r{len(refs)}", value).ref

        for name, value in variables.items():
            put(file, name, value)
    with open(path, "r+b") as handle:
        handle.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def test_version_73(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    mat73(path, {"D": np.moveaxis(squares(2), 0, -1), "ids": IDS, "subject": ["s2", "s1"]})
    found = load_rdms(path)
    np.testing.assert_array_equal(found.dissimilarities, vectors(2))
    assert found.pattern_descriptors["stimulus"] == IDS
    assert found.rdm_descriptors["subject"] == ["s2", "s1"]
    mat73(path, {"D": vectors(2), "ids": IDS})
    np.testing.assert_array_equal(load_rdms(path).dissimilarities, vectors(2))
    mat73(path, {"D": squares(1)[0] > 1, "ids": IDS})
    np.testing.assert_array_equal(load_rdms(path).dissimilarities, vectors(1) > 1)
    structs = [{"RDM": squares(2)[k], "name": NAMES[k]} for k in range(2)]
    mat73(path, {"RDMs": structs, "ids": IDS})
    with pytest.warns(UserWarning, match="were read from the names of the 2 RDMs"):
        found = load_rdms(path)
    np.testing.assert_array_equal(found.dissimilarities, vectors(2))
    assert found.rdm_descriptors["session"] == ["1", "2"]


def test_hdf5_not_written_by_matlab_keeps_its_axis_order(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "it.h5")
    (tmp_path / "it.h5").rename(tmp_path / "it.mat")
    found = load_rdms(tmp_path / "it.mat", layout="condensed")
    np.testing.assert_array_equal(found.dissimilarities, example().dissimilarities)
    assert found.pattern_descriptors["stimulus"] == IDS
    assert found.rdm_descriptors["subject"] == ["s10", "s2", "猫"]
    with h5py.File(tmp_path / "it.mat", "w") as file:
        file["D"], file["subject"] = vectors(1), "s1"
        file["ids"] = np.array(IDS, dtype=h5py.string_dtype())
    found = load_rdms(tmp_path / "it.mat")
    assert (found.pattern_descriptors["stimulus"], found.rdm_descriptors["subject"]) == (IDS, ["s1"])


def test_character_matrices_and_cells_in_rows_and_columns(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    people = np.array([["a", "b"], ["c", "d"]], dtype=object)  # as the structs are: the first axis runs first
    structs = toolbox(list("wxyz"), (2, 2))
    scipy.io.savemat(path, {"RDMs": structs, "ids": np.array(IDS), "subject": people})
    found = load_rdms(path)
    assert found.pattern_descriptors["stimulus"] == IDS  # "b  " and "a10" are of one length in MATLAB
    assert found.rdm_descriptors["subject"] == ["a", "c", "b", "d"]
    assert found.rdm_descriptors["name"] == ["w", "y", "x", "z"]
    mat73(path, {"D": squares(1)[0]})
    letters = np.array([list(one.ljust(3)) for one in IDS]).view(np.uint32).astype("<u2")
    with h5py.File(path, "r+") as file:
        text = file.create_dataset("ids", data=letters.T)
        text.attrs["MATLAB_class"] = np.bytes_("char")
        empty = file.create_dataset("E", data=np.zeros(3, np.uint64))  # zeros(0, 0, 0), as MATLAB has it
        empty.attrs["MATLAB_class"], empty.attrs["MATLAB_empty"] = np.bytes_("double"), np.uint8(1)
    assert load_rdms(path).pattern_descriptors["stimulus"] == IDS


def test_fields_of_text_and_numbers_are_left_out(tmp_path: Path) -> None:
    structs = toolbox(["a", "b"], (1, 2))
    structs[0, 0]["color"], structs[0, 1]["color"] = "red", 1.0
    scipy.io.savemat(tmp_path / "it.mat", {"RDMs": structs, "subject": "s1"})
    with pytest.warns(UserWarning, match="1 subject names but 2 RDMs: they are left out"):
        assert set(load_rdms(tmp_path / "it.mat", ids=IDS).rdm_descriptors) == {"name", "index"}


def test_mat_files_that_contradict_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.mat"
    matrix = squares(1)[0]
    mat5(path, mat5_matrix(b"D", matrix), mat5_matrix(b"D", 2 * matrix))
    with pytest.raises(NeurordlError, match="variable 'D' comes twice"):
        load_rdms(path)
    whole = mat5_matrix(b"D", matrix)
    mat5(path, whole.replace(struct.pack("<4i", 5, 8, N, N), struct.pack("<4i", 5, 8, 4, 4)))
    with pytest.raises(NeurordlError, match="claims 16 values, but holds 25"):
        load_rdms(path)
    packed = zlib.compress(whole)
    mat5(path, mat5_element(15, packed)[: 8 + len(packed)])
    np.testing.assert_array_equal(load_rdms(path, ids=IDS).dissimilarities, vectors(1))
    for wrong in (zlib.compress(whole + b"x"), packed[:-4], packed[:-1] + bytes([packed[-1] ^ 1])):
        mat5(path, struct.pack("<2I", 15, len(wrong)) + wrong)
        with pytest.raises(NeurordlError, match=r"more or less are stored|incorrect data check"):
            load_rdms(path)
    nested: Any = 1.0
    for _ in range(20):
        nested = {"a": nested}
    scipy.io.savemat(path, {"D": matrix, "deep": nested})
    with pytest.raises(NeurordlError, match="nested too deep"):
        load_rdms(path)
    mat5(path, whole)
    monkeypatch.setattr("neurordl.mat5._MAX_ELEMENTS", 3)
    with pytest.raises(NeurordlError, match="more than 3 parts"):
        load_rdms(path)


def test_version_73_of_what_is_no_number_or_text(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    mat73(path, {"D": squares(1)[0], "ids": np.arange(1.0, N + 1)})
    with h5py.File(path, "r+") as file:
        # an array of strings: where they are in a part of the file that is not documented
        file["ids"].attrs["MATLAB_class"] = np.bytes_("string")
        empty = file.create_dataset("e", data=np.zeros(2, np.uint64))  # struct("a", {}), as MATLAB has it
        empty.attrs["MATLAB_class"], empty.attrs["MATLAB_empty"] = np.bytes_("struct"), np.uint8(1)
        letters = np.empty(1, dtype=object)
        letters[0] = np.array([b"a"])
        empty.attrs.create("MATLAB_fields", letters, dtype=h5py.vlen_dtype(np.dtype("S1")))
        sparse = file.create_group("S")
        sparse.attrs["MATLAB_class"], sparse.attrs["MATLAB_sparse"] = np.bytes_("double"), np.uint64(N)
        for part in ("data", "ir", "jc"):
            sparse[part] = np.arange(3)
    with pytest.warns(UserWarning, match=r"is not read: strings .*cellstr|which stimuli") as caught:
        found = load_rdms(path)
    assert "'ids' is not read" in str(caught[0].message)
    assert "does not say which stimuli" in str(caught[1].message)
    assert "stimulus" not in found.pattern_descriptors
    np.testing.assert_array_equal(found.dissimilarities, vectors(1))
    with pytest.raises(NeurordlError, match=r"'ids' is not read"):
        load_rdms(path, name="ids")
    mat73(path, {"D": squares(1)[0], "ids": IDS})
    with h5py.File(path, "r+") as file:
        file["ids"][0, 0] = h5py.Reference()  # nothing in a cell: the others do not move up
    with pytest.warns(UserWarning, match="does not say which stimuli"):
        load_rdms(path)


def mat5(path: Path, *variables: bytes) -> None:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + b"\x00\x01IM" + b"".join(variables))


def mat5_element(kind: int, content: bytes) -> bytes:
    return struct.pack("<2I", kind, len(content)) + content + bytes(-len(content) % 8)


def mat5_matrix(name: bytes, matrix: np.ndarray, kind: int = 6) -> bytes:
    parts = (
        mat5_element(6, struct.pack("<2I", kind, 0)),
        mat5_element(5, struct.pack("<2i", *matrix.shape)),
        mat5_element(1, name),
        mat5_element(9 if kind == 6 else 6, matrix.T.tobytes()),
    )
    return mat5_element(14, b"".join(parts))


def mat5_string(name: bytes) -> bytes:
    """An array of strings: MATLAB writes an object, which says where in the file the text is."""
    where = mat5_matrix(b"", np.array([[0xDD000000], [2], [1], [1], [1], [1]], "<u4"), 13)
    parts = (
        mat5_element(6, struct.pack("<2I", 17, 0)),
        *(mat5_element(1, t) for t in (name, b"MCOS", b"string")),
    )
    return mat5_element(14, b"".join(parts) + where)


def test_version_5_of_what_is_no_number_or_text(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    mat5(path, mat5_matrix(b"D", squares(1)[0]), mat5_string(b"ids"))
    assert "D" in scipy.io.loadmat(path)
    with pytest.warns(UserWarning, match=r"'ids' is not read: strings .*cellstr|which stimuli"):
        np.testing.assert_array_equal(load_rdms(path).dissimilarities, vectors(1))
    fields = b"".join(name.ljust(32, b"\0") for name in (b"RDM", b"name"))
    parts = (
        mat5_element(6, struct.pack("<2I", 2, 0)),
        mat5_element(5, struct.pack("<2i", 1, 1)),
        mat5_element(1, b"RDMs"),
        mat5_element(5, struct.pack("<i", 32)),
        mat5_element(1, fields),
        mat5_matrix(b"", squares(1)[0]),
        mat5_string(b""),
    )
    mat5(path, mat5_element(14, b"".join(parts)))
    assert scipy.io.loadmat(path)["RDMs"].dtype.names == ("RDM", "name")
    with pytest.warns(UserWarning, match=r"the field 'name' is not read: strings .*cellstr|which stimuli"):
        np.testing.assert_array_equal(load_rdms(path).dissimilarities, vectors(1))
    mat5(path, mat5_string(b"D"))
    with pytest.raises(NeurordlError, match=r"no variable that can be RDMs.*D \(not read: in it are strings"):
        load_rdms(path)
    scipy.io.savemat(path, {"D": squares(1)[0] * 1j, "S": scipy.sparse.csc_array(squares(1)[0])})
    for name in "DS":
        with pytest.raises(NeurordlError, match=rf"'{name}' is not read.*full\(x\)"):
            load_rdms(path, name=name)


TEXTS = st.text(st.characters(max_codepoint=0xD7FF, exclude_characters="\0"), max_size=6)
NUMBERS = hnp.arrays(
    st.sampled_from(["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]),
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=4),
)
FIELDS = st.from_regex("[a-z][a-z0-9]{0,5}", fullmatch=True)


def cell(items: list[Any]) -> np.ndarray:
    array = np.empty((1, len(items)), dtype=object)
    array[0, :] = items
    return array


def from_scipy(value: Any) -> Any:
    """What scipy reads, in the form of `read_mat5`."""
    if value.dtype.names:
        names = value.dtype.names
        return [{name: from_scipy(item[name]) for name in names} for item in value.ravel(order="F")]
    if value.dtype.kind == "O":
        return [from_scipy(item) for item in value.ravel(order="F")]
    if value.dtype.kind == "U":
        texts = [str(text) for text in value.ravel()]
        return texts[0] if len(texts) == 1 else [text.rstrip() for text in texts] or ""
    return value


def same_variables(ours: Any, theirs: Any) -> None:
    assert isinstance(ours, type(theirs))
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            same_variables(ours[key], theirs[key])
    elif isinstance(ours, list):
        for pair in zip(ours, theirs, strict=True):
            same_variables(*pair)
    elif isinstance(ours, np.ndarray):
        np.testing.assert_array_equal(ours.ravel(), theirs.ravel())
        assert not ours.size or (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype.newbyteorder("="))
    else:
        assert ours == theirs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    variables=st.dictionaries(
        FIELDS,
        st.recursive(
            TEXTS | NUMBERS,
            lambda values: (
                st.dictionaries(FIELDS, values, min_size=1, max_size=3)
                | st.lists(TEXTS, min_size=1, max_size=3).map(cell)
            ),
            max_leaves=6,
        ),
        min_size=1,
        max_size=3,
    ),
    packed=st.booleans(),
)
def test_version_5_is_read_as_scipy_reads_it(tmp_path: Path, variables: dict[str, Any], packed: bool) -> None:
    path = tmp_path / "it.mat"
    scipy.io.savemat(path, variables, do_compression=packed, oned_as="row")
    theirs = scipy.io.loadmat(path, mat_dtype=True)
    same_variables(matlab.read_mat5(path), {name: from_scipy(theirs[name]) for name in variables})


@pytest.mark.parametrize(
    "name", ["testcellnest_7.4_GLNX86", "teststructarr_6.1_SOL2", "teststringarray_7.4_GLNX86"]
)
def test_files_of_matlab_itself(name: str) -> None:
    path = Path(scipy.io.matlab.__file__).parent / "tests" / "data" / f"{name}.mat"
    if not path.is_file():
        pytest.skip("scipy is installed without its test data")
    ours = matlab.read_mat5(path)
    theirs = scipy.io.loadmat(path, mat_dtype=True)
    same_variables(ours, {key: from_scipy(theirs[key]) for key in ours})


def test_text_of_matlab_beyond_ascii(tmp_path: Path) -> None:
    """MATLAB writes UTF-16 codes, of which scipy takes the lower bytes."""

    def text(name: bytes, value: str) -> bytes:
        codes = value.encode("utf-16-le")
        parts = (
            mat5_element(6, struct.pack("<2I", 4, 0)),
            mat5_element(5, struct.pack("<2i", 1, len(codes) // 2)),
            mat5_element(1, name),
            mat5_element(4, codes),
        )
        return mat5_element(14, b"".join(parts))

    mat5(tmp_path / "it.mat", text(b"a", "Bär"), text(b"b", "猫 \U0001f600"), text(b"c", ""))
    assert matlab.read_mat5(tmp_path / "it.mat") == {"a": "Bär", "b": "猫 \U0001f600", "c": ""}


def test_a_user_format_is_one_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(source: Path, name: str | None) -> RDMContent:
        content = json.loads(source.read_bytes())
        return RDMContent(np.array(content["rdms"]), pattern_descriptors={"stimulus": content["ids"]})

    def write(rdms: RDMs) -> bytes:
        ids = list(rdms.pattern_descriptors["stimulus"])
        return json.dumps({"rdms": rdms.dissimilarities.tolist(), "ids": ids}).encode()

    monkeypatch.setitem(FORMATS, ".json", Format((".json",), read, write, keeps=("stimulus",)))
    save_rdms(bare(3), tmp_path / "it.json")
    same(load_rdms(tmp_path / "it.json"), bare(3))
    with pytest.raises(NeurordlError, match=r"it\.json has no place for the descriptor 'study'"):
        save_rdms(example(), tmp_path / "it.json")
    with pytest.raises(NeurordlError, match="leave out name='x'"):
        load_rdms(tmp_path / "it.json", name="x")
    (tmp_path / "it.json").write_text("{")
    with pytest.raises(
        NeurordlError, match=r"it\.json: it is damaged, or not a \.json file .*write it again"
    ):
        load_rdms(tmp_path / "it.json")


def test_big_endian(tmp_path: Path) -> None:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">2I", kind, len(content)) + content + bytes(-len(content) % 8)

    matrix = squares(1)[0]
    parts = (
        element(6, struct.pack(">2I", 6, 0)),  # flags: a double array
        element(5, struct.pack(">2i", N, N)),
        element(1, b"D"),
        element(9, matrix.T.astype(">f8").tobytes()),
    )
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "it.mat").write_bytes(header + element(14, b"".join(parts)))
    np.testing.assert_array_equal(load_rdms(tmp_path / "it.mat", ids=IDS).dissimilarities, vectors(1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a b": "x"}, r"'a b'.*named by up to 63"),
        ({"_a": "x"}, "starts with a letter"),
        ({"a": None}, "not text or numbers"),
        ({"a": "\U0001f600"}, "MATLAB's text does not hold"),
    ],
)
def test_descriptors_that_mat_does_not_hold(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rdms = example()
    rdms.descriptors = change
    with pytest.raises(NeurordlError, match=said):
        save_rdms(rdms, tmp_path / "it.mat")
    assert list(tmp_path.iterdir()) == []


def test_descriptors_that_npz_does_not_hold(tmp_path: Path) -> None:
    for value in (None, [None], ["a", 1], {"a": None}, "a\0"):
        rdms = example()
        rdms.descriptors = {"a": value}
        with pytest.raises(NeurordlError, match=r"descriptor descriptors\['a'\].* in \.npz"):
            save_rdms(rdms, tmp_path / "it.npz")
    assert list(tmp_path.iterdir()) == []


# Tables


def table(ids: list[str], across: bool, down: bool, corner: str = "") -> str:
    matrix = squares(1)[0]
    rows = [[*([ids[k]] if down else []), *map(repr, row)] for k, row in enumerate(matrix.tolist())]
    head = [[*([corner] if down else []), *ids]] if across else []
    return "\n".join(",".join(row) for row in [*head, *rows]) + "\n"


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("down", [True, False])
@pytest.mark.parametrize("start", ["", "﻿"])
def test_tables_with_and_without_ids(tmp_path: Path, across: bool, down: bool, start: str) -> None:
    path = tmp_path / "it.csv"
    path.write_text(start + table(IDS, across, down, corner="id"), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error" if across or down else "ignore")
        found = load_rdms(path)
    np.testing.assert_array_equal(found.dissimilarities, vectors(1))
    assert found.pattern_descriptors.get("stimulus") == (IDS if across or down else None)


def test_tables_with_numbers_as_ids(tmp_path: Path) -> None:
    path = tmp_path / "it.csv"
    path.write_text(table(["001", "002", "003", "004", "005"], True, True))
    assert load_rdms(path).pattern_descriptors["stimulus"][0] == "001"


@pytest.mark.parametrize(
    "text",
    [
        "7,8,9\n0,1,2\n1,0,4\n2,4,0\n",  # not four RDMs of three pairs
        "7,0,1,2\n8,1,0,4\n9,2,4,0\n",
        ",7,8,9\n7,0,1,2\n8,1,0,4\n9,2,4,0\n",
    ],
)
def test_numbers_that_can_only_be_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "it.csv").write_text(text)
    found = load_rdms(tmp_path / "it.csv")
    assert found.pattern_descriptors["stimulus"] == ["7", "8", "9"]
    np.testing.assert_array_equal(found.dissimilarities, [[1, 2, 4]])


@pytest.mark.parametrize("similarity", [None, "1-s"])
def test_numbers_above_a_matrix_that_is_rounded_or_of_similarities(tmp_path: Path, similarity: Any) -> None:
    # 10 columns could also be 11 RDMs of 5 stimuli
    vector = np.random.default_rng(0).random(45)
    matrix = squareform(vector)
    matrix = 1 - matrix if similarity else matrix
    matrix[0, 1] *= 1 + 1e-9
    ids = list(map(str, range(100, 110)))
    rows = [ids, *([repr(one) for one in row] for row in matrix.tolist())]
    (tmp_path / "it.csv").write_text("\n".join(map(",".join, rows)))
    (tmp_path / "turned.csv").write_text("\n".join(map(",".join, zip(*rows, strict=True))))
    for name in ("it.csv", "turned.csv"):
        found = load_rdms(tmp_path / name, similarity=similarity)
        assert found.pattern_descriptors["stimulus"] == ids
        np.testing.assert_allclose(found.dissimilarities, vector[None], rtol=1e-8)


def test_rdms_too_large_for_mat(tmp_path: Path) -> None:
    rdms = RDMs(np.ones((2, 3)))
    rdms.n_cond = 20_000  # as large as it would be, without its values
    with pytest.raises(NeurordlError, match="larger than the 2 GB"):
        save_rdms(rdms, tmp_path / "it.mat")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("0,1,2\n1,0,x\n2,3,0\n", "text 'x'"),
        ("0,x,2\nx,0,3\n2,3,0\n", "text 'x'"),
        ("0,1,2\n1,0,3\n2,3,0\nx,1,2\n", "text 'x' where a dissimilarity should be"),
        ("id,b,c,d\na,0,1,2\nb,1,0,oops\nc,2,3,0\n", "ids of rows and columns differ"),
        (",a,b,c\na,0,1,2\nb,1,0,oops\nc,2,3,0\n", r"text 'oops' .*row 1, column 2"),
        (
            ",a,b,c\na,0,1,2\nc,1,0,3\nb,2,3,0\n",
            "a diagonal that is not zero",
        ),  # unless its columns are named wrongly
        (",a,b,c\na,0,1,2\nd,1,0,3\nc,2,3,0\n", r"ids of rows and columns differ: number 1 .*each once"),
        (",a,b,b\na,0,1,2\nb,1,0,3\na,2,3,0\n", "ids of rows and columns differ: number 2"),
        ("0,1,2\n1,0\n2,3,0\n", r"row 1 \(from 0\) has 2 cells"),
        ("0;1,5;2.5\n1,5;0;3\n2.5;3;0\n", "separated by semicolons"),  # 1,5 may be another number
        ("0;1;2\n1;0\n2;3;0\n", "separated by semicolons"),
        ("0;1;2\n1;0;3\t\n2;3;0\n", "separated by semicolons"),
        ("0\t1\n1\t0\n", "separated by tabs"),
        ('0,"0,5",2\n"0,5",0,3\n2,3,0\n', "text '0,5' .*write decimals with a point"),
        ("0,1_0,2\n1_0,0,3\n2,3,0\n", "text '1_0'"),
        ('"0,1', "cannot read|shape"),
        ("1,2,3,4\n", "which no RDM has"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "it.csv").write_text(text)
    with pytest.raises(NeurordlError, match=said):
        load_rdms(tmp_path / "it.csv")


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_bytes("0,ä".encode("latin-1"))
    with pytest.raises(NeurordlError, match="not text in UTF-8"):
        load_rdms(tmp_path / "it.csv")


def test_small_tables(tmp_path: Path) -> None:
    path = tmp_path / "it.csv"
    path.write_text("id,a,b\na,0,1\nb,1,0\n")
    found = load_rdms(path)
    assert (found.pattern_descriptors["stimulus"], found.dissimilarities.tolist()) == (["a", "b"], [[1]])
    path.write_text(",1,2\n1,,3\n2,3,\n")  # nothing on the diagonal
    np.testing.assert_array_equal(load_rdms(path, ids=list("abc")).dissimilarities, [[1, 2, 3]])


def test_condensed_and_missing_in_tables(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text("1,2,NA\n-4,,nan\n")
    found = load_rdms(tmp_path / "it.csv", ids=["a", "b", "c"]).dissimilarities
    np.testing.assert_array_equal(found, [[1, 2, np.nan], [-4, np.nan, np.nan]])


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".npy", ".h5"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    save_rdms(example(), tmp_path / f"whole{suffix}", lossy=True)
    content = (tmp_path / f"whole{suffix}").read_bytes()
    for share in (0, 0.1, 0.5, 0.95):
        (tmp_path / f"part{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(NeurordlError, match=rf"part\{suffix}"):
            load_rdms(tmp_path / f"part{suffix}")


# The real files


@pytest.fixture
def images92(data_root: Path) -> Path:
    return data_root / "images92"


def test_the_92_images_in_both_forms(images92: Path) -> None:
    with pytest.warns(UserWarning, match=r"ROI, subject and session were read"):
        brains = load_rdms(images92 / "92_brainRDMs.mat", labels=images92 / "stimuli.tsv")
    with np.load(images92 / "kriegeskorte2008.npz") as known:
        for k in range(8):
            place = list(known["human_subjects"]).index(brains.rdm_descriptors["subject"][k])
            matrix = known["human_it"][place, int(brains.rdm_descriptors["session"][k]) - 1]
            np.testing.assert_array_equal(brains.get_matrices()[k].astype(np.float32), matrix)
        ids = list(known["ids"])
    assert set(brains.rdm_descriptors["roi"]) == {"hIT"}
    with pytest.raises(NeurordlError, match=r"\(4, 2, 92, 92\): several axes"):
        load_rdms(images92 / "kriegeskorte2008.npz", name="human_it")
    models = load_rdms(images92 / "92_modelRDMs.mat", ids=ids)
    monkey = load_rdms(images92 / "kriegeskorte2008.npz", name="monkey_it")
    row = models.rdm_descriptors["name"].index("monkeyIT")
    np.testing.assert_allclose(models.dissimilarities[row], monkey.dissimilarities[0], rtol=1e-6)
    with pytest.raises(NeurordlError, match=r"several variables.*'human_it'.*'monkey_it'"):
        load_rdms(images92 / "kriegeskorte2008.npz")


def test_several_axes_of_rdms_are_not_guessed(tmp_path: Path) -> None:
    square = np.random.default_rng(0).random((4, 2, 5, 5))
    np.save(tmp_path / "sessions.npy", square + square.swapaxes(-1, -2))
    with pytest.raises(NeurordlError, match=r"\(4, 2, 5, 5\): several axes"):
        load_rdms(tmp_path / "sessions.npy", ids=list("abcde"))


def test_conflicting_ids_are_refused_with_both_lists(tmp_path: Path) -> None:
    save_rdms(bare(), tmp_path / "it.csv")
    with pytest.raises(
        NeurordlError, match=r"stimulus \('b', 'a10', 'a2', and 2 more\), other than those given \('d', 'c', "
    ):
        load_rdms(tmp_path / "it.csv", ids=IDS[::-1])


@pytest.mark.parametrize("ids", [IDS, ["0,5", "1;5", 'a"b', "d", "e"], None])
@pytest.mark.filterwarnings("ignore:.*does not say which stimuli")
def test_semicolons_and_decimal_commas(tmp_path: Path, ids: list[str] | None) -> None:
    """As Excel writes them where decimals have commas, and pandas where it is told so."""
    matrix = squareform(example(1).dissimilarities[0], checks=False)
    frame = pd.DataFrame(matrix, index=ids, columns=ids)
    text = ids is not None
    frame.to_csv(tmp_path / "it.csv", sep=";", decimal=",", index=text, header=text, encoding="utf-8-sig")
    with pytest.warns(UserWarning, match="semicolons between cells and decimal commas"):
        found = load_rdms(tmp_path / "it.csv")
    np.testing.assert_array_equal(found.get_matrices()[0], matrix)
    assert list(found.pattern_descriptors.get("stimulus", [])) == (ids or [])


def test_semicolons_within_ids_are_no_separators(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text("a;1,0,1,2\nb;1,1,0,3\nc;1,2,3,0\n")
    found = load_rdms(tmp_path / "it.csv")
    assert found.pattern_descriptors["stimulus"] == ["a;1", "b;1", "c;1"]
    np.testing.assert_array_equal(found.dissimilarities, [[1, 2, 3]])


def test_columns_in_another_order_than_rows_are_matched_by_id(tmp_path: Path) -> None:
    matrix = squareform(example(1).dissimilarities[0], checks=False)
    frame = pd.DataFrame(matrix, index=IDS, columns=IDS)
    for seed in range(5):
        rows, columns = (list(np.random.default_rng(seed + k).permutation(IDS)) for k in (0, 100))
        frame.loc[rows, columns].to_csv(tmp_path / "it.csv")
        found = load_rdms(tmp_path / "it.csv")
        assert found.pattern_descriptors["stimulus"] == rows
        np.testing.assert_array_equal(found.get_matrices()[0], frame.loc[rows, rows].to_numpy())


@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_of_a_table_are_no_ids_without_a_word(tmp_path: Path, first: int) -> None:
    matrix = squares(1)[0]
    numbers = range(first, N + first)
    pd.DataFrame(matrix, index=numbers, columns=numbers).to_csv(tmp_path / "it.csv")
    with pytest.warns(UserWarning, match=r"has numbers as stimulus ids \(\d, \d, \d, and 2 more\)"):
        found = load_rdms(tmp_path / "it.csv")
    assert found.pattern_descriptors["stimulus"] == list(map(str, numbers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = load_rdms(tmp_path / "it.csv", ids=IDS)  # of the rows in their order, as for a table without
    assert named.pattern_descriptors["stimulus"] == IDS
    np.testing.assert_array_equal(named.dissimilarities, found.dissimilarities)
