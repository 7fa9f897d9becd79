"""RDM files that can be read in two ways: an option chooses, and a notice or an error says so."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist, squareform

from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms, save_rdms

N = 9
IDS = [f"s{k}" for k in range(N)]
LAYOUTS = ("condensed", "condensed-columns", "condensed-diagonal", "condensed-columns-diagonal")


def matrices(n_rdms: int = 1, n_channels: int = 4, metric: str = "correlation") -> np.ndarray:
    generator = np.random.default_rng(3)
    return np.stack(
        [squareform(pdist(generator.normal(size=(N, n_channels)), metric)) for _ in range(n_rdms)]
    )


def triangle(matrix: np.ndarray, layout: str) -> np.ndarray:
    """What a loop over the upper triangle gives, in one of the orders."""
    diagonal = layout.endswith("diagonal")
    pairs = [(i, j) for i in range(N) for j in range(N) if i < j or (diagonal and i == j)]
    if "columns" in layout:
        pairs.sort(key=lambda pair: (pair[1], pair[0]))
    return np.array([matrix[pair] for pair in pairs])


def notices(path: Path, **options: Any) -> tuple[RDMs, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rdms = load_rdms(path, ids=IDS, **options)
    return rdms, [str(warning.message).partition(": ")[2] for warning in caught]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("suffix", [".npy", ".mat"])
def test_triangles_in_all_orders(layout: str, suffix: str, tmp_path: Path) -> None:
    stack = matrices(3)
    stored = np.stack([triangle(matrix, layout) for matrix in stack])
    path = tmp_path / f"it{suffix}"
    np.save(path, stored) if suffix == ".npy" else scipy.io.savemat(path, {"rdms": stored})
    rdms, said = notices(path, layout=layout)
    np.testing.assert_array_equal(rdms.get_matrices(), stack)
    assert said == []
    similar = np.stack([triangle(1 - matrix, layout) for matrix in stack])
    np.save(tmp_path / "s.npy", similar)
    rdms, _ = notices(tmp_path / "s.npy", layout=layout, similarity="1-s")
    np.testing.assert_allclose(rdms.get_matrices(), stack, atol=1e-15)


def test_matlab_masks_order_by_columns(tmp_path: Path) -> None:
    matrix = matrices()[0]
    mask = np.triu(np.ones((N, N), dtype=bool), 1)
    scipy.io.savemat(tmp_path / "it.mat", {"rdm": matrix.ravel(order="F")[mask.ravel(order="F")][None]})
    rdms, _ = notices(tmp_path / "it.mat", layout="condensed-columns")
    np.testing.assert_array_equal(rdms.get_matrices()[0], matrix)


@pytest.mark.parametrize("layout", ["condensed-diagonal", "condensed-columns-diagonal"])
@pytest.mark.parametrize("blank, name", [(0.0, "zeros"), (1.0, "ones"), (np.nan, "no values")])
def test_a_diagonal_in_condensed_rdms_is_pointed_out(
    layout: str, blank: float, name: str, tmp_path: Path
) -> None:
    matrix = matrices()[0] + 0.01
    np.fill_diagonal(matrix, blank)
    np.save(tmp_path / "it.npy", triangle(matrix, layout))
    with pytest.raises(
        NeurordlError,
        match=rf"{name} exactly where the diagonal of 9 stimuli would be: pass layout='{layout}', or .*10 st",
    ):
        load_rdms(tmp_path / "it.npy")
    np.fill_diagonal(matrix, 0)
    options: dict[str, Any] = {} if name != "ones" else {"diagonal": "ignore"}
    rdms, _ = notices(tmp_path / "it.npy", layout=layout, **options)
    np.testing.assert_array_equal(rdms.get_matrices()[0], matrix)
    if name == "ones":
        with pytest.raises(NeurordlError, match="its diagonal is 1 instead of 0; choose another layout"):
            load_rdms(tmp_path / "it.npy", layout=layout)
    if name != "no values":
        as_10 = load_rdms(tmp_path / "it.npy", layout="condensed")
        assert as_10.n_cond == 10


def test_categories_are_not_taken_for_a_diagonal(tmp_path: Path) -> None:
    """Models with many zeros and ones, of all sizes and numbers of categories."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        categories = generator.integers(0, generator.integers(2, 5), generator.integers(4, 12))
        model = (categories[:, None] != categories).astype(float)
        vector = squareform(model)
        np.save(tmp_path / "model.npy", vector)
        rdms = load_rdms(tmp_path / "model.npy")
        np.testing.assert_array_equal(rdms.dissimilarities[0], vector)


def test_another_order_that_fits_points_is_pointed_out(tmp_path: Path) -> None:
    for metric in ("correlation", "euclidean", "sqeuclidean"):
        stack = matrices(2, metric=metric)
        for layout, expected in (("condensed", 0), ("condensed-columns", 1)):
            np.save(tmp_path / "it.npy", np.stack([triangle(matrix, layout) for matrix in stack[:1]]))
            _, said = notices(tmp_path / "it.npy")
            assert len(said) == expected
            assert all("pass layout='condensed-columns' then" in text for text in said)
    _, said = notices(tmp_path / "it.npy", layout="condensed")
    assert said == []


def test_vectors_of_matlab_are_read_row_by_row_with_a_word(tmp_path: Path) -> None:
    path = tmp_path / "it.mat"
    scipy.io.savemat(path, {"rdm": squareform(matrices()[0])[None]})
    rdms, said = notices(path)
    np.testing.assert_array_equal(rdms.get_matrices()[0], matrices()[0])
    assert [text.partition(" row by row")[0] for text in said] == ["its vectors were read as upper triangles"]
    assert notices(path, layout="condensed")[1] == []
    scipy.io.savemat(path, {"rdm": matrices()[0]})
    assert notices(path)[1] == []


@pytest.mark.parametrize("blank", [0.0, np.nan])
@pytest.mark.parametrize("form", ["square", "condensed"])
def test_similarities_with_a_blank_diagonal_are_pointed_out(blank: float, form: str, tmp_path: Path) -> None:
    patterns = np.random.default_rng(0).normal(size=(N, 30))
    similar = np.corrcoef(patterns)
    np.fill_diagonal(similar, blank)
    stored = similar if form == "square" else triangle(similar, "condensed")
    np.save(tmp_path / "it.npy", stored)
    _, said = notices(tmp_path / "it.npy")
    negative = int((triangle(similar, "condensed") < 0).sum())
    assert len(said) == 1
    assert said[0].startswith(
        f"{negative} of 36 values are negative, and its values fit similarities s better"
    )
    pd.DataFrame(similar, IDS, IDS).to_csv(tmp_path / "it.csv")  # square beyond doubt
    assert notices(tmp_path / "it.csv")[1] == said
    rdms, said = notices(tmp_path / "it.npy", similarity="1-s", diagonal="ignore")
    np.testing.assert_allclose(rdms.dissimilarities[0], pdist(patterns, "correlation"), atol=1e-14)
    assert said == []
    positive = np.exp(-squareform(pdist(patterns[:, :3], "sqeuclidean")) / 3)  # between 0 and 1
    np.fill_diagonal(positive, blank)
    np.save(tmp_path / "it.npy", positive)
    assert ["fit similarities" in text for text in notices(tmp_path / "it.npy")[1]] == [True]


def test_dissimilarities_are_not_taken_for_similarities(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    for metric in ("correlation", "euclidean", "sqeuclidean", "cosine"):
        for n_channels in (2, 20, 300):
            vector = pdist(generator.normal(size=(N, n_channels)), metric)
            for scale in (1.0, 1 / vector.max()):
                np.save(tmp_path / "it.npy", scale * vector)
                assert notices(tmp_path / "it.npy")[1] == []
    halves = generator.normal(size=(2, N, 30)) * 0.02  # of a small crossnobis distance without signal
    low, high = np.triu_indices(N, 1)
    cross = ((halves[0][low] - halves[0][high]) * (halves[1][low] - halves[1][high])).mean(1)
    np.save(tmp_path / "it.npy", cross)
    assert notices(tmp_path / "it.npy", measure="crossnobis")[1] == []


def test_pairs_without_a_value_are_counted(tmp_path: Path) -> None:
    matrix = matrices()[0]
    matrix[2, :] = matrix[:, 2] = np.nan
    matrix[0, 1] = matrix[1, 0] = np.nan
    np.fill_diagonal(matrix, 0)
    for stored in (matrix, squareform(matrix, checks=False)):
        np.save(tmp_path / "it.npy", stored)
        _, said = notices(tmp_path / "it.npy")
        assert said == ["9 of 36 dissimilarities are NaN, pairs without a value, with all of 's2'"]


def test_ids_that_are_alike_are_pointed_out(tmp_path: Path) -> None:
    rdms = RDMs(np.ones((1, 3)), pattern_descriptors={"stimulus": ["face", "face ", "house"]})
    save_rdms(rdms, tmp_path / "it.h5")
    with pytest.warns(
        UserWarning, match="1 of 3 ids differs from another only by blanks, such as 'face' and"
    ):
        assert load_rdms(tmp_path / "it.h5").n_cond == 3


@pytest.mark.parametrize("name", ["subject", "roi", "session"])
def test_rdms_without_a_name_and_names_that_are_alike_are_pointed_out(name: str, tmp_path: Path) -> None:
    vectors = np.stack([squareform(matrix) for matrix in matrices(4)])
    save_rdms(RDMs(vectors, rdm_descriptors={name: ["a", "A", "", "n/a"]}), tmp_path / "it.h5")
    _, said = notices(tmp_path / "it.h5")
    assert said[0] == f"2 of 4 RDMs have no {name} (blank or n/a), number 2, 3 from 0"
    assert said[1].startswith(f"{name}: 1 of 4 ids differs from another only by letter case, such as 'a'")


# Cells and structs of MATLAB


def cells(shape: tuple[int, ...], condensed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    stack = matrices(int(np.prod(shape)))
    array = np.empty(shape, dtype=object)
    for place, matrix in zip(np.ndindex(shape[::-1]), stack, strict=True):
        array[place[::-1]] = squareform(matrix)[None] if condensed else matrix
    return array, stack


def mat73_cells(path: Path, array: np.ndarray) -> None:
    """A cell array as MATLAB stores it in version 7.3: references, with the axes turned round."""
    with h5py.File(path, "w", userblock_size=512) as file:
        references = np.empty(array.shape[::-1], dtype=h5py.ref_dtype)
        for place in np.ndindex(array.shape):
            name = "#refs#/" + "_".join(map(str, place))
            file[name] = array[place].T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
            references[place[::-1]] = file[name].ref
        file.create_dataset("rdms", data=references, dtype=h5py.ref_dtype)
        file["rdms"].attrs["MATLAB_class"] = np.bytes_("cell")


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("condensed", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (3, 1), (1, 1)])
def test_cells_of_rdms(version: str, condensed: bool, shape: tuple[int, int], tmp_path: Path) -> None:
    array, stack = cells(shape, condensed)
    path = tmp_path / "it.mat"
    mat73_cells(path, array) if version == "7.3" else scipy.io.savemat(path, {"rdms": array})
    for options in ({}, {"name": "rdms"}):
        np.testing.assert_array_equal(notices(path, **options)[0].get_matrices(), stack)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_axes_of_cells_are_not_guessed(version: str, tmp_path: Path) -> None:
    array, _ = cells((2, 3))
    path = tmp_path / "it.mat"
    mat73_cells(path, array) if version == "7.3" else scipy.io.savemat(path, {"rdms": array})
    for options in ({}, {"name": "rdms"}):
        with pytest.raises(
            NeurordlError, match="'rdms' has 2 x 3 items, and the meaning of its axes is unknown"
        ):
            load_rdms(path, **options)
    structs = np.empty((2, 2), dtype=[("RDM", object)])
    for place in np.ndindex(2, 2):
        structs[place] = (array[place],)
    scipy.io.savemat(path, {"rdms": structs})
    with pytest.raises(NeurordlError, match="'rdms' has 2 x 2 items"):
        load_rdms(path)
    stacks = np.empty((1, 2), dtype=object)
    stacks[0, 0] = stacks[0, 1] = np.stack(list(matrices(3)), axis=-1)
    scipy.io.savemat(path, {"rdms": stacks})
    with pytest.raises(NeurordlError, match="several items with up to 3 RDMs in each"):
        load_rdms(path)


def test_cells_of_structs_and_cells_beside_an_rdm(tmp_path: Path) -> None:
    stack = matrices(2)
    array = np.empty((1, 2), dtype=object)
    array[0, :] = [{"RDM": matrix, "subject": name} for matrix, name in zip(stack, "ab", strict=True)]
    path = tmp_path / "it.mat"
    scipy.io.savemat(path, {"rdms": array})
    rdms, said = notices(path)
    np.testing.assert_array_equal(rdms.get_matrices(), stack)
    assert (rdms.rdm_descriptors["subject"], said) == (["a", "b"], [])
    pictures = np.empty((1, N), dtype=object)
    pictures[0, :] = [np.ones((4, 4))] * N
    scipy.io.savemat(path, {"rdm": stack[0], "pictures": pictures})
    np.testing.assert_array_equal(notices(path)[0].get_matrices()[0], stack[0])


# What is odd beside the RDMs


def test_what_is_odd_in_a_file_does_not_condemn_it(tmp_path: Path) -> None:
    matrix = matrices()[0]
    odd = np.zeros(2, dtype=[("real", "f8"), ("imag", "f8")])
    for suffix in (".mat", ".h5"):
        path = tmp_path / f"it{suffix}"
        with h5py.File(path, "w", userblock_size=512) as file:
            file["dissimilarities"] = squareform(matrix)[None] if suffix == ".h5" else matrix
            file["spectrum"] = odd
            file["elsewhere"] = h5py.ExternalLink("other.h5", "x")
            file["nowhere"] = h5py.SoftLink("/gone")
            layout = h5py.VirtualLayout((1, 10), "f8")
            file.create_virtual_dataset("virtual", layout)
            file.create_dataset("sparse", (10**6, 10**4), "f8", chunks=(100, 100))  # nothing is written
        np.testing.assert_array_equal(notices(path)[0].get_matrices()[0], matrix)
    for name in ("spectrum", "elsewhere", "nowhere", "sparse"):
        with pytest.raises(NeurordlError, match=f"'{name}' is not read: "):
            load_rdms(tmp_path / "it.mat", name=name)
    said = notices(tmp_path / "it.h5")[1]
    assert said[0].startswith("5 items in it are not read: 'elsewhere' is a link to another file")
    objects = np.array([{}, None], dtype=object)
    np.savez(tmp_path / "it.npz", rdm=matrix, options=objects)
    np.testing.assert_array_equal(notices(tmp_path / "it.npz")[0].get_matrices()[0], matrix)
    with pytest.raises(NeurordlError, match=r"'options' is not read: .*holds Python objects"):
        load_rdms(tmp_path / "it.npz", name="options")


def test_odd_things_in_a_struct(tmp_path: Path) -> None:
    matrix = matrices()[0]
    path = tmp_path / "it.mat"
    scipy.io.savemat(path, {"RDMs": {"RDM": matrix, "spectrum": np.ones((2, 2)) * 1j, "subject": "a"}})
    rdms, said = notices(path)
    np.testing.assert_array_equal(rdms.get_matrices()[0], matrix)
    assert rdms.rdm_descriptors["subject"] == ["a"]
    assert [text.partition(":")[0] for text in said] == ["the field 'spectrum' is not read"]
    scipy.io.savemat(path, {"RDMs": {"RDM": matrix * 1j}})
    with pytest.raises(NeurordlError, match="the field 'RDM' is not read"):
        load_rdms(path)


def test_added_arrays_do_not_condemn_what_save_rdms_wrote(tmp_path: Path) -> None:
    rdms = RDMs(squareform(matrices()[0])[None], pattern_descriptors={"stimulus": IDS})
    save_rdms(rdms, tmp_path / "it.npz")
    arrays = dict(np.load(tmp_path / "it.npz"))
    np.savez(tmp_path / "it.npz", **arrays, extra=np.array([{}], dtype=object))
    again, said = notices(tmp_path / "it.npz")
    np.testing.assert_array_equal(again.dissimilarities, rdms.dissimilarities)
    assert said[0].startswith("1 items in it are not read: 'extra'")


def test_text_of_characters_that_do_not_exist(tmp_path: Path) -> None:
    broken = np.array(IDS)
    broken.view(np.uint32)[3] = 0x7FFFFFFF
    np.savez(tmp_path / "it.npz", rdm=matrices()[0], subjects=broken)
    with pytest.raises(NeurordlError, match="text with characters that do not exist"):
        load_rdms(tmp_path / "it.npz")


# Several participants in a file


def test_ids_of_the_same_participant_are_taken(tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(N)
    names = np.array([f"{name}.png" for name in IDS])
    matrix = matrices()[0]
    variables = {
        "rdmutv_able_fly": squareform(matrix)[None],
        "rdmutv_clean_koi": squareform(matrix[np.ix_(order, order)])[None],
        "stimuli_able_fly": names,
        "stimuli_clean_koi": names[order],
    }
    for suffix in (".mat", ".npz"):
        path = tmp_path / f"it{suffix}"
        scipy.io.savemat(path, variables) if suffix == ".mat" else np.savez(path, **variables)
        for person, expected in (("able_fly", names), ("clean_koi", names[order])):
            rdms = load_rdms(path, name=f"rdmutv_{person}", layout="condensed")
            assert list(rdms.pattern_descriptors["stimulus"]) == expected.tolist()


def test_ids_of_another_participant_are_not_proposed(tmp_path: Path) -> None:
    matrix = matrices()[0]
    np.savez(tmp_path / "it.npz", rdm_a=matrix, rdm_b=matrix, names_a=np.array(IDS), labels=np.array(IDS))
    with pytest.warns(UserWarning, match="'labels' has another text for each row"):
        load_rdms(tmp_path / "it.npz", name="rdm_b")
    with pytest.warns(UserWarning, match="'names_a' has another text for each row"):
        load_rdms(tmp_path / "it.npz", name="rdm_a")
