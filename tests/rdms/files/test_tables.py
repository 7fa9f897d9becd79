"""Tables of RDMs as R, pandas, Excel and people write them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist, squareform

from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms

N = 5
IDS = [f"s{k}" for k in range(N)]
VECTORS = np.stack([pdist(np.random.default_rng(k).normal(size=(N, 3)), "correlation") for k in range(3)])
MATRIX = squareform(VECTORS[0])


def read(path: Path, text: str, **options: Any) -> tuple[RDMs, list[str]]:
    path.write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rdms = load_rdms(path, **options)
    return rdms, [str(warning.message).partition(": ")[2] for warning in caught]


@pytest.mark.parametrize("suffix, mark", [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_tables_of_r(suffix: str, mark: str, quote: str, tmp_path: Path) -> None:
    """write.table has no cell above the row names; write.csv has an empty one."""
    names = [f"{quote}{name}{quote}" for name in IDS]
    body = [mark.join([name, *map(repr, row)]) for name, row in zip(names, MATRIX.tolist(), strict=True)]
    for corner in ([], [quote * 2]):
        text = "\n".join([mark.join([*corner, *names]), *body]) + "\n"
        rdms, said = read(tmp_path / f"it{suffix}", text)
        np.testing.assert_array_equal(rdms.get_matrices()[0], MATRIX)
        assert (rdms.pattern_descriptors["stimulus"], said) == (IDS, [])


@pytest.mark.parametrize("across, down", [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("diagonal", ["0", "", "NA"])
@pytest.mark.parametrize("blank", ["", "NA"])
def test_one_triangle(
    across: bool, down: bool, lower: bool, diagonal: str, blank: str, tmp_path: Path
) -> None:
    rows = [IDS] if across else []
    for i in range(N):
        cells = [repr(float(x)) if (i > j) == lower else blank for j, x in enumerate(MATRIX[i])]
        rows.append([*cells[:i], diagonal, *cells[i + 1 :]])
    if down:
        rows = [[name, *row] for name, row in zip([""] * across + IDS, rows, strict=True)]
    text = "".join(",".join(row) + "\n" for row in rows)
    rdms, _ = read(tmp_path / "it.csv", text, **({} if across or down else {"ids": IDS}))
    np.testing.assert_array_equal(rdms.get_matrices()[0], MATRIX)
    assert rdms.pattern_descriptors["stimulus"] == IDS


@pytest.mark.parametrize("header", ["with a corner", "without a corner", "none"])
@pytest.mark.parametrize("diagonal", ["0", "", None])
def test_ragged_lower_triangles(header: str, diagonal: str | None, tmp_path: Path) -> None:
    rows = [[IDS[i], *map(repr, MATRIX[i, :i].tolist())] for i in range(N)]
    rows = [row if diagonal is None else [*row, diagonal] for row in rows]
    if header != "none":
        rows.insert(0, ["", *IDS] if header == "with a corner" else IDS)
    rdms, said = read(tmp_path / "it.csv", "".join(",".join(row) + "\n" for row in rows))
    np.testing.assert_array_equal(rdms.get_matrices()[0], MATRIX)
    assert (rdms.pattern_descriptors["stimulus"], said) == (IDS, [])


def test_ragged_triangles_without_ids(tmp_path: Path) -> None:
    rows = [",".join(map(repr, MATRIX[i, : i + 1].tolist())) for i in range(N)]
    rdms, _ = read(tmp_path / "it.csv", "\n".join(rows), ids=IDS)
    np.testing.assert_array_equal(rdms.get_matrices()[0], MATRIX)
    without = [",".join(map(repr, MATRIX[i, :i].tolist())) for i in range(1, N)]
    upper = [",".join(map(repr, MATRIX[i, i:].tolist())) for i in range(N)]
    for wrong in (without, upper):
        with pytest.raises(
            NeurordlError, match="write rows of one length, or a lower triangle whose rows end"
        ):
            read(tmp_path / "it.csv", "\n".join(wrong))


@pytest.mark.parametrize("n", [4, 5, 6, 10])
@pytest.mark.parametrize("form", ["square", "named", "with ids in front", "condensed"])
def test_separators_at_the_ends_of_lines(form: str, n: int, tmp_path: Path) -> None:
    """A square of 5 stimuli became 5 RDMs of 4 stimuli that lack their last pair."""
    vector = pdist(np.random.default_rng(0).normal(size=(n, 3)))
    names = [f"s{k}" for k in range(n)]
    table = pd.DataFrame(vector[None] if form == "condensed" else squareform(vector))
    if form in ("named", "with ids in front"):
        table.index, table.columns = names, names
    text = table.to_csv(header=form == "named", index=form not in ("square", "condensed"))
    given = {} if form in ("named", "with ids in front") else {"ids": names}
    for marks in (",", ",,"):
        rdms, _ = read(tmp_path / "it.csv", text.replace("\n", f"{marks}\n"), **given)
        np.testing.assert_array_equal(rdms.dissimilarities, vector[None])
        assert rdms.pattern_descriptors["stimulus"] == names


@pytest.mark.parametrize("n", [3, 5, 6, 10])
@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_squares_one_below_another(suffix: str, n: int, tmp_path: Path) -> None:
    """Two squares of 6 stimuli became 12 RDMs of 4."""
    vectors = np.stack([pdist(np.random.default_rng(k).normal(size=(n, 3))) for k in range(2)])
    squares = np.concatenate([squareform(vector) for vector in vectors])
    path = tmp_path / f"it{suffix}"
    if suffix == ".csv":
        np.savetxt(path, squares, "%.17g", ",")
    else:
        np.save(path, squares)
    names = [f"s{k}" for k in range(n)]
    np.testing.assert_array_equal(load_rdms(path, ids=names).dissimilarities, vectors)
    rows = np.random.default_rng(0).random((2 * n, n))  # no squares
    np.save(tmp_path / "rows.npy", rows)
    if n in (3, 6, 10):
        np.testing.assert_array_equal(
            load_rdms(tmp_path / "rows.npy", layout="condensed").dissimilarities, rows
        )


@pytest.mark.parametrize(
    "text, said",
    [
        (
            ",a,b\nb,1,\nc,2,3\n",
            "its columns begin with 'a' and its rows with 'b', as R prints a dist;",
        ),
        (
            "x,y,value\na,b,1\na,c,2\na,d,3\nb,c,4\nb,d,5\nc,d,6\n",
            "2 columns of names and one of values, as with a row",
        ),
        (
            "a_b,1\na_c,2\na_d,3\nb_c,4\nb_d,5\nc_d,6\n",
            "1 columns of names and one of values, as with a row",
        ),
    ],
)
def test_layouts_that_are_not_read_are_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=said):
        read(tmp_path / "it.csv", text)


@pytest.mark.parametrize("header", ["subject", "Subject", "participant_id", "", None])
@pytest.mark.parametrize("people", [["sub-01", "sub-02", "sub-03"], ["1", "2", "7"]])
def test_a_column_of_subjects(header: str | None, people: list[str], tmp_path: Path) -> None:
    rows = [[name, *map(repr, row)] for name, row in zip(people, VECTORS.tolist(), strict=True)]
    if header is not None:
        pairs = [f"{a}-{b}" for k, a in enumerate(IDS) for b in IDS[k + 1 :]]
        rows.insert(0, [header, *pairs])
    text = "".join(",".join(row) + "\n" for row in rows)
    if not header and people[0] == "1":  # numbers without a name may be anything
        with pytest.raises(NeurordlError, match="which no RDM has"):
            read(tmp_path / "it.csv", text, ids=IDS)
        return
    rdms, said = read(tmp_path / "it.csv", text, ids=IDS)
    np.testing.assert_array_equal(rdms.dissimilarities, VECTORS)
    assert rdms.rdm_descriptors["subject"] == people
    expected = [] if header else ["its column 0 (from 0) was read as subjects: sub-01, sub-02, sub-03"]
    named = (
        "its first row names 10 pairs (s0-s1, s0-s2, and 8 more) and is not read: pairs are taken row by row"
    )
    assert [text.rpartition(", (0, 1)")[0] or text for text in said] == expected + [named] * (
        header is not None
    )


def test_several_columns_before_condensed_rdms(tmp_path: Path) -> None:
    frame = pd.DataFrame(VECTORS, columns=[f"V{k}" for k in range(1, 11)])
    frame.insert(0, "subject", [1, 1, 2])
    frame.insert(1, "roi", ["V1", "IT", "V1"])
    frame.insert(2, "group", list("aab"))
    rdms, _ = read(tmp_path / "it.csv", frame.to_csv(index=False), ids=IDS)
    np.testing.assert_array_equal(rdms.dissimilarities, VECTORS)
    described = {name: rdms.rdm_descriptors[name] for name in ("subject", "roi", "group")}
    assert described == {"subject": ["1", "1", "2"], "roi": ["V1", "IT", "V1"], "group": ["a", "a", "b"]}


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("r", [True, False])
def test_numbers_of_rows_and_columns_are_no_rdms(index: bool, r: bool, tmp_path: Path) -> None:
    """pandas counts from 0, R names columns V1, V2, ... and counts rows from 1."""
    frame = pd.DataFrame(VECTORS)
    if r:
        frame.columns, frame.index = [f"V{k + 1}" for k in range(10)], range(1, 4)
    rdms, said = read(tmp_path / "it.csv", frame.to_csv(index=index), ids=IDS)
    np.testing.assert_array_equal(rdms.dissimilarities, VECTORS)
    assert [text[:30] for text in said] == ["its first row names 10 pairs ("]


@pytest.mark.parametrize(
    "text", ["0,\u22121\n\u22121,0\n", '"0,5",1,2,3\n"0,6",3,4,5\n', "0,x,2\nx,0,3\n2,3,0\n"]
)
def test_text_that_is_no_name_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"it has the text .* where a dissimilarity should be"):
        read(tmp_path / "it.csv", text)


@pytest.mark.parametrize("name", ["", "rdm\n"])
def test_an_rdm_as_a_column(name: str, tmp_path: Path) -> None:
    rdms, said = read(tmp_path / "it.csv", name + "\n".join(map(repr, VECTORS[0].tolist())) + "\n", ids=IDS)
    np.testing.assert_array_equal(rdms.dissimilarities[0], VECTORS[0])
    assert len(said) == (1 if name else 0)


def test_a_linear_model_is_no_row_of_numbers(tmp_path: Path) -> None:
    model = np.abs(np.arange(8)[:, None] - np.arange(8))
    rdms, said = read(tmp_path / "it.csv", pd.DataFrame(model).to_csv(index=False, header=False))
    np.testing.assert_array_equal(rdms.get_matrices()[0], model)
    assert all("first row" not in text for text in said)
