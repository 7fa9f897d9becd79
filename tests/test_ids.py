from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.rdm import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids, match_ids, natural_key, similar_ids

ids = st.text(st.sampled_from("ab01.A_"), min_size=1, max_size=5)
id_lists = st.lists(ids, min_size=1, max_size=12, unique=True)


def test_natural_order() -> None:
    given_ids = ["s10", "s2", "s1", "10", "9", "s2a", "s02", "S1", "s", "s2.png", "s" + "9" * 5000]
    known = ["9", "10", "S1", "s", "s1", "s02", "s2", "s2.png", "s2a", "s10", "s" + "9" * 5000]
    assert sorted(given_ids, key=natural_key) == known


@given(id_lists, st.randoms())
def test_natural_order_is_total(texts: list[str], random: Any) -> None:
    shuffled = random.sample(texts, len(texts))
    assert sorted(shuffled, key=natural_key) == sorted(texts, key=natural_key)


@pytest.mark.parametrize(
    "given_ids", [["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Series(["a", "b"]), iter("ab")]
)
def test_check_ids_gives_plain_strings(given_ids: Any) -> None:
    checked = check_ids(given_ids, "stimuli")
    assert checked == ("a", "b")
    assert all(type(one) is str for one in checked)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ([], "the stimuli have no ids"),
        ("abc", "must be a sequence of strings"),
        (3, "must be a sequence of strings"),
        (["a", 1], r"position 1 is 1 \(int\)"),
        (["a", b"b"], "bytes"),
        (["a", float("nan")], "nan"),
        (["a", " "], "non-empty"),
        (["a", "b", "a", "b", "c"], "'a', 'b' occur more than once"),
    ],
)
def test_check_ids_refuses(wrong: Any, said: str) -> None:
    with pytest.raises(NeurordlError, match=said):
        check_ids(wrong, "stimuli")


def test_match_finds_by_name() -> None:
    match = match_ids(["s3", "s1", "s9"], ["s1", "s2", "s3"], missing="ignore")
    assert match.index.tolist() == [2, 0]
    assert (match.matched, match.missing, match.unused) == (("s3", "s1"), ("s9",), ("s2",))
    assert match.reordered
    assert not match_ids(["s1", "s3"], ["s1", "s2", "s3"]).reordered
    assert match_ids(["s1", "s3", "s2"], ["s1", "s2", "s3"]).reordered  # a single pair
    with pytest.raises(ValueError, match="read-only"):
        match.index[0] = 1


@given(id_lists, id_lists, st.randoms())
def test_match_does_not_depend_on_order(wanted: list[str], available: list[str], random: Any) -> None:
    if not set(wanted) & set(available):
        with pytest.raises(NeurordlError, match="no id of the stimuli"):
            match_ids(wanted, available, missing="ignore")
        return
    match = match_ids(wanted, available, missing="ignore")
    assert [available[i] for i in match.index] == list(match.matched) == [w for w in wanted if w in available]
    assert match.missing == tuple(w for w in wanted if w not in available)
    assert match.unused == tuple(a for a in available if a not in wanted)
    other = random.sample(available, len(available))
    again = match_ids(wanted, other, missing="ignore")
    assert [other[i] for i in again.index] == list(match.matched)
    assert (again.missing, set(again.unused)) == (match.missing, set(match.unused))
    turned = match_ids(wanted[::-1], available, missing="ignore")
    assert turned.index.tolist() == match.index.tolist()[::-1]


def test_missing_ids_are_an_error_that_names_them() -> None:
    with pytest.raises(
        NeurordlError, match=r"2 of 3 ids of the images are not in the rows: 'b', 'c'"
    ) as caught:
        match_ids(["a", "b", "c"], ["a", "x"], names=("images", "rows"))
    assert "matched with rows" in str(caught.value)  # the table comes along
    assert 'missing="ignore"' not in str(caught.value)
    with pytest.raises(NeurordlError, match='leave them out, or pass missing="ignore"'):
        match_ids(["a", "b"], ["a"], missing="error")


def test_nothing_matched_is_always_an_error() -> None:
    with pytest.raises(NeurordlError, match="no id of the stimuli is among the ids of the RDMs"):
        match_ids(["a"], ["b"], missing="ignore")


@pytest.mark.parametrize(
    "wanted, available, where",
    [
        (["a", "a"], ["a"], "'a' occurs more than once in the stimuli;"),
        (["a"], ["a", "b", "b"], "'b' occurs more than once in the RDMs;"),
        (["a", "a"], ["b", "b"], "'a', 'b' occur more than once in the stimuli and the RDMs;"),
    ],
)
def test_duplicates_are_an_error_on_either_side(wanted: list[str], available: list[str], where: str) -> None:
    with pytest.raises(NeurordlError, match=where):
        match_ids(wanted, available, missing="ignore")


@pytest.mark.parametrize(
    "one, other, ways",
    [
        ("s1.png", "s1", "extension"),
        ("S1", "s1", "letter case"),
        ("s1", "s001", "zero padding"),
        ("S1.jpg", "s01", "extension and letter case and zero padding"),
        ("s1.PNG", "s1.png", "letter case"),
        ("Bär", "Ba\u0308r", "Unicode form"),  # as macOS writes file names
        (" s1", "s1", "blanks"),
        ("faces/s1", "s1", "folder"),
        ("faces/s1.png", "s1", "folder and extension"),
        ("1.0", "1", "decimal point"),
        ("001", "1.", "decimal point and zero padding"),
    ],
)
def test_near_ids_are_pointed_out_and_not_matched(one: str, other: str, ways: str) -> None:
    for wanted, available in (([one], [other]), ([one, "x"], [other, "x"])):
        with pytest.raises(NeurordlError, match=rf"1 differ only by {ways}, such as '{one}' and '{other}'"):
            match_ids(wanted, available)
    assert match_ids([one, "x"], [other, "x"], missing="ignore").matched == ("x",)


@pytest.mark.parametrize(
    "ids, said",
    [
        (
            ["face", "house", "Face"],
            "1 of 3 ids differs from another only by letter case, such as 'face' and 'Face'",
        ),
        (["a", "a ", "A"], "2 of 3 ids differ from another only by blanks, such as 'a' and 'a '"),
        (["two  words", "two words"], "1 of 2 ids differs from another only by blanks, such as"),
        (["two\u00a0words", "two words"], "1 of 2 ids differs from another only by blanks, such as"),
        (["Bär", "Ba\u0308r"], "1 of 2 ids differs from another only by Unicode form"),
        (
            ["Bär", "ba\u0308r "],
            "1 of 2 ids differs from another only by Unicode form and blanks and letter case",
        ),
        (["s1", "s01", "s1.png", "x/s1", "1", "1.0", 1, None], ""),
        ([], ""),
    ],
)
def test_ids_of_one_side_that_are_alike(ids: list[Any], said: str) -> None:
    assert similar_ids(ids).startswith(said)
    assert bool(similar_ids(ids)) == bool(said)


def test_ids_that_are_not_near_get_no_hint() -> None:
    with pytest.raises(NeurordlError) as caught:
        match_ids(["s1"], ["s2"])
    assert "differ only" not in str(caught.value)


def test_of_near_misses_that_are_alike_the_first_stands_in_the_hint() -> None:
    with pytest.raises(NeurordlError, match=r"1 differ only by letter case, such as 's1' and 'S1'\)"):
        match_ids(["s1"], ["S1", "s01"])


def test_match_prints_as_a_table() -> None:
    match = match_ids(
        [f"s{i}" for i in range(9)], [f"s{i}" for i in range(8, 0, -1)] + ["t"], missing="ignore"
    )
    lines = str(match).splitlines()
    assert [line.split()[0] for line in lines] == ["stimuli", "missing", "unused", "duplicated", "reordered"]
    assert "8  's1', 's2', 's3', 's4', 's5', and 3 more" in lines[0]
    assert lines[1].endswith("1  's0'")
    assert lines[4].endswith("yes")
    assert len(lines[3]) == len(lines[4])  # numbers stand under one another


def test_wrong_option() -> None:
    with pytest.raises(NeurordlError, match="missing='drop': expected one of 'error', 'ignore'"):
        match_ids(["a"], ["a"], missing="drop")  # type: ignore[arg-type]


def test_matching_does_not_import_torch() -> None:
    code = "import sys, neurordl.ids; print('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("missing", ["error", "ignore"])
def test_a_suffix_of_the_ids_is_cut_off_by_the_line_of_the_error(missing: str) -> None:
    rdms = RDMs(np.ones((1, 3)), pattern_descriptors={"stimulus": ["a.png", "b.png", "c.png"]})
    with pytest.raises(NeurordlError, match="differ only by extension") as caught:
        match_ids(["a", "b", "c"], rdms.pattern_descriptors["stimulus"], missing=missing)
    message = str(caught.value).partition("\n")[0]
    assert "; cut '.png' off the ids of the RDMs: rdms.pattern_descriptors" in message
    exec(message.partition("of the RDMs: ")[2], {"rdms": rdms})
    assert match_ids(["a", "b", "c"], rdms.pattern_descriptors["stimulus"]).matched == ("a", "b", "c")
    with pytest.raises(NeurordlError, match=r"; cut '\.jpg' off the ids of the stimuli\n"):
        match_ids(["a.jpg", "b"], ["a", "b"])
    with pytest.raises(NeurordlError, match="; leave them out"):
        match_ids(["A", "b"], ["a", "b"])


@pytest.mark.parametrize(
    "stimuli, names",
    [
        (["face_1", "tree"], ["FACE_1.PNG", "TREE.PNG"]),
        (["FACE_1", "Tree"], ["FACE_1", "Tree.png"]),
        (["FACE_1", "TREE"], ["face_1", "tree"]),
        (["Face", "Tree"], ["face.png", "tree.png"]),
        (["face", "tree"], ["face", "TREE.PNG"]),
    ],
)
def test_ids_that_differ_by_extension_and_case_have_a_line_to_copy(
    stimuli: list[str], names: list[str]
) -> None:
    rdms = RDMs(np.ones((1, 1)), pattern_descriptors={"stimulus": names})
    with pytest.raises(NeurordlError) as caught:
        match_ids(stimuli, names)
    line = str(caught.value).partition("\n")[0]
    exec(line[line.index("rdms.") :], {"rdms": rdms})
    assert match_ids(stimuli, rdms.pattern_descriptors["stimulus"]).missing == ()


def test_no_line_is_advised_that_makes_other_ids_unlike() -> None:
    for stimuli, names in ((["face", "b"], ["FACE.png", "B"]), (["a", "B"], ["A", "B"])):
        with pytest.raises(NeurordlError) as caught:
            match_ids([*stimuli, "Cc"], [*names, "Cc"])
        assert "rdms.pattern_descriptors" not in str(caught.value)
