"""RDMs as columns, as MATLAB's pdist makes them, ids in another variable, and RDMs spread over a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.testing import assert_array_equal
from scipy.spatial.distance import squareform

import neurordl as nrl

IDS = [f"s{k}" for k in range(12)]
VECTORS = np.random.default_rng(0).random((66, 10))  # of 12 stimuli, or of 5
NAMES = [f"p{k}" for k in range(10)]


def mat(folder: Path, **variables: Any) -> Path:
    scipy.io.savemat(folder / "rdms.mat", variables)
    return folder / "rdms.mat"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n", [8, 10])
def test_the_number_of_names_decides_whether_columns_are_rdms(tmp_path: Path, n: int) -> None:
    file = mat(tmp_path, rdms=VECTORS[:, :n])
    for named in ({"ids": IDS}, {"subjects": NAMES[:n]}, {"ids": IDS, "subjects": NAMES[:n]}):
        with pytest.warns(UserWarning, match=f"its {n} columns of 66 values are read as the RDMs, as there"):
            assert_array_equal(nrl.load_rdms(file, **named).dissimilarities, VECTORS[:, :n].T)  # type: ignore[arg-type]
    np.save(tmp_path / "rdms.npy", VECTORS[:, :n])
    assert_array_equal(nrl.load_rdms(tmp_path / "rdms.npy", ids=IDS).dissimilarities, VECTORS[:, :n].T)
    turned = mat(tmp_path, rdms=VECTORS[:, :n].T)
    assert_array_equal(nrl.load_rdms(turned, ids=IDS).dissimilarities, VECTORS[:, :n].T)


def test_without_names_columns_are_refused_or_rows_are_read_with_a_notice(tmp_path: Path) -> None:
    with pytest.raises(
        nrl.NeurordlError, match="columns are of that length: transpose it, or name its stimuli"
    ):
        nrl.load_rdms(mat(tmp_path, rdms=VECTORS[:, :8]))
    with pytest.warns(UserWarning, match="if each column is an RDM, transpose it"):
        assert nrl.load_rdms(mat(tmp_path, rdms=VECTORS)).n_rdm == 66
    few = mat(tmp_path, rdms=VECTORS)
    with pytest.warns(UserWarning, match="was read as 66 RDMs, one per row"):
        assert nrl.load_rdms(few, ids=IDS[:5]).n_rdm == 66  # the rows fit the five names


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_labels_may_be_a_variable_of_the_file(tmp_path: Path) -> None:
    square = np.stack([squareform(v) for v in VECTORS.T], axis=2)
    file = mat(tmp_path, rdms=square, stimNames=np.array(IDS, dtype=object))
    assert nrl.load_rdms(file, labels="stimNames").pattern_descriptors["stimulus"] == IDS
    with pytest.raises(nrl.NeurordlError, match=r"labels='names' is no file, and no variable.*'stimNames'"):
        nrl.load_rdms(file, labels="names")
    movie = mat(
        tmp_path, rdms=square[None, :, :, :3].transpose(0, 3, 1, 2), names=np.array(IDS, dtype=object)
    )
    rdms = nrl.rdms_over_time(movie, [0.0, 0.1, 0.2], labels="names", subjects="p0")
    assert rdms.pattern_descriptors["stimulus"] == IDS
    (tmp_path / "ids.txt").write_text("\n".join(IDS))
    rdms = nrl.rdms_over_time(movie, [0.0, 0.1, 0.2], labels=tmp_path / "ids.txt", subjects="p0")
    assert rdms.pattern_descriptors["stimulus"] == IDS
    for name in ("ids", "stimuli"):  # variables that are found without labels=
        known = mat(tmp_path, rdms=square, **{name: np.array(IDS, dtype=object)})
        assert nrl.load_rdms(known, labels=name).pattern_descriptors["stimulus"] == IDS


def test_a_file_is_no_list_of_ids(tmp_path: Path) -> None:
    """Its name would be ids of a letter each."""
    np.save(tmp_path / "rdms.npy", VECTORS.T)
    movie, message = (
        np.ones((2, 5, 3, 3)) - np.eye(3),
        "ids= takes the ids as a list, not 'abc'; a file of ids is",
    )
    with pytest.raises(nrl.NeurordlError, match=message):
        nrl.rdms_over_time(movie, range(5), ids="abc")
    with pytest.raises(nrl.NeurordlError, match=message):
        nrl.load_rdms(tmp_path / "rdms.npy", ids="abc")
    with pytest.raises(nrl.NeurordlError, match="ids= and labels= were both given"):
        nrl.rdms_over_time(movie, range(5), ids=list("abc"), labels="abc.txt")


def test_milliseconds_are_pointed_out() -> None:
    movie, options = np.ones((1, 3, 3, 3)) - np.eye(3), {"ids": list("abc"), "subjects": "p"}
    with pytest.warns(
        UserWarning, match="times from -100 to 100 are taken as seconds; if they are milliseconds"
    ):
        nrl.rdms_over_time(movie, [-100, 0, 100], **options)  # type: ignore[arg-type]


def test_rdms_in_fields_and_in_variables_have_a_remedy(tmp_path: Path) -> None:
    squares = {name: squareform(v) for name, v in zip(NAMES[:3], VECTORS.T, strict=False)}
    with pytest.raises(
        nrl.NeurordlError, match=r"'all' has RDMs in its fields p0, p1, p2: .*'-struct', 'all'"
    ):
        nrl.load_rdms(mat(tmp_path, all=squares))
    with pytest.raises(nrl.NeurordlError, match=r"if each is a subject, .* nrl.merge_rdms\("):
        nrl.load_rdms(mat(tmp_path, **squares))
