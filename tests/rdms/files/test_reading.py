"""RDM files: exact round trips with rsatoolbox, and one clear error for everything that is no RDM file."""

from __future__ import annotations

import errno
import pickle
import resource
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rsatoolbox.rdm import RDMs, load_rdm
from scipy.io import savemat

from neurordl.errors import NeurordlError
from neurordl.rdms import load_rdms, save_rdms


def example() -> RDMs:
    values = np.random.default_rng(0).random((3, 6))
    values[0, 2] = values[2, 5] = np.nan
    return RDMs(
        values,
        dissimilarity_measure="correlation",
        descriptors={
            "study": "demo",
            "note": "x" * 70_000,
            "nested": {"a": "b", "c": [1, 2]},
            "year": 2016,
            "noise": np.eye(2),
            "nothing": None,
        },
        rdm_descriptors={"subject": ["s10", "s2", "s1"], "time": [0.1, 0.2, 0.3], "session": [1, 1, 2]},
        pattern_descriptors={"stimulus": ["b", "a10", "a2", "c"], "animate": [True, False, True, False]},
    )


def same(found: RDMs, expected: RDMs) -> None:
    np.testing.assert_array_equal(found.dissimilarities, expected.dissimilarities)
    assert found.dissimilarity_measure == expected.dissimilarity_measure
    for one, other in (
        (found.rdm_descriptors, expected.rdm_descriptors),
        (found.pattern_descriptors, expected.pattern_descriptors),
    ):
        assert {key: list(values) for key, values in one.items()} == {
            key: list(values) for key, values in other.items()
        }
    np.testing.assert_equal(found.descriptors, expected.descriptors)


def ours(rdms: RDMs, path: Path) -> None:
    save_rdms(rdms, path)


def theirs(rdms: RDMs, path: Path) -> None:
    rdms.save(str(path), file_type="hdf5")


@pytest.mark.parametrize("write", [ours, theirs])
@pytest.mark.parametrize("name", ["it.h5", "it.hdf5", "IT.H5"])
def test_round_trip(tmp_path: Path, name: str, write: Callable[[RDMs, Path], None]) -> None:
    write(example(), tmp_path / name)
    found = load_rdms(tmp_path / name)
    same(found, example())
    assert found.dissimilarities.dtype == np.float64
    assert all(type(value) is str for value in found.pattern_descriptors["stimulus"])
    assert all(type(value) is str for value in found.rdm_descriptors["subject"])
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing aside is left


def test_rsatoolbox_reads_what_we_write(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "it.h5")
    same(load_rdm(str(tmp_path / "it.h5"), file_type="hdf5"), example())


def test_a_second_save_replaces_the_first(tmp_path: Path) -> None:
    path = tmp_path / "it.h5"
    save_rdms(example(), path)
    save_rdms(example().subset("subject", "s2"), str(path))
    assert load_rdms(str(path)).rdm_descriptors["subject"] == ["s2"]


def test_float32_stays_and_whole_numbers_become_floats(tmp_path: Path) -> None:
    rdms = RDMs(np.array([[1.5, 2, 3]], dtype=np.float32), pattern_descriptors={"stimulus": list("abc")})
    save_rdms(rdms, tmp_path / "a.h5")
    assert load_rdms(tmp_path / "a.h5").dissimilarities.dtype == np.float32
    theirs(RDMs(np.array([[1, 2, 3]]), pattern_descriptors={"stimulus": list("abc")}), tmp_path / "b.h5")
    found = load_rdms(tmp_path / "b.h5")
    assert found.dissimilarities.dtype == np.float64
    assert found.dissimilarity_measure is None


def test_ids_beyond_ascii(tmp_path: Path) -> None:
    rdms = example()
    rdms.pattern_descriptors["stimulus"] = ["Bär", "猫", "", "a b"]
    save_rdms(rdms, tmp_path / "it.h5")
    same(load_rdms(tmp_path / "it.h5"), rdms)


def test_text_stored_in_other_ways(tmp_path: Path) -> None:
    ids = ["s10", "s2", "s1", "s3"]
    variants = {
        "bytes": np.array(ids, dtype="S"),
        "variable": np.array(ids, dtype=h5py.string_dtype()),
        "objects": np.array([text.encode() for text in ids], dtype=object),
    }
    for name, stored in variants.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["dissimilarities"] = np.arange(6.0)[None]
            file["pattern_descriptors/stimulus"] = stored
        assert load_rdms(path).pattern_descriptors["stimulus"] == ids
    rdms = RDMs(np.arange(6.0)[None], pattern_descriptors={"stimulus": tuple(ids)})
    theirs(rdms, tmp_path / "tuple.h5")  # rsatoolbox puts tuples into attributes
    assert load_rdms(tmp_path / "tuple.h5").pattern_descriptors["stimulus"] == ids
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["dissimilarities"] = np.arange(6.0)  # a single RDM without its dimension
        for number, text in enumerate(ids):  # lists that rsatoolbox could not make an array of
            file[f"pattern_descriptors/stimulus/{number}"] = text
    assert load_rdms(tmp_path / "group.h5").pattern_descriptors["stimulus"] == ids


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    values=hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 3), st.just(6)),
        elements=st.floats(allow_infinity=False, width=64),
    ),
    ids=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
        min_size=4,
        max_size=4,
    ),
)
def test_any_rdms_come_back(tmp_path: Path, values: np.ndarray, ids: list[str]) -> None:
    values[:, 0] = 1.0
    rdms = RDMs(values, pattern_descriptors={"stimulus": ids})
    save_rdms(rdms, tmp_path / "any.h5")
    same(load_rdms(tmp_path / "any.h5"), rdms)


def test_ids_are_not_made_up(tmp_path: Path) -> None:
    rdms = RDMs(np.ones((1, 6)), pattern_descriptors={"conds": list("abcd")})
    save_rdms(rdms, tmp_path / "it.h5")
    with pytest.warns(UserWarning, match=r"it.h5: it does not say .* 4 .*\['stimulus'\].*conds") as caught:
        found = load_rdms(tmp_path / "it.h5")
    assert "stimulus" not in found.pattern_descriptors
    assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_rdms(example().subset("subject", "s2"), tmp_path / "named.h5")
        load_rdms(tmp_path / "named.h5")


def test_an_rdm_without_a_measured_pair_is_named(tmp_path: Path) -> None:
    rdms = example()
    rdms.dissimilarities[1] = np.nan
    theirs(rdms, tmp_path / "it.h5")
    with pytest.raises(NeurordlError, match=r"it\.h5: RDM 1 \(.*subject s2, .*NaN everywhere"):
        load_rdms(tmp_path / "it.h5")
    with pytest.raises(NeurordlError, match=r"RDM 1 \(.*subject s2, .*NaN everywhere"):
        save_rdms(rdms, tmp_path / "other.h5")
    assert not (tmp_path / "other.h5").exists()
    rdms.dissimilarities[1] = 1
    rdms.dissimilarities[1, 0] = np.inf
    with pytest.raises(NeurordlError, match="infinite"):
        save_rdms(rdms, tmp_path / "other.h5")


def test_arguments_of_other_types(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "it.h5")
    for value in (None, 3, ["it.h5"]):
        with pytest.raises(NeurordlError, match=r"path=.*: expected a path, got "):
            load_rdms(value)  # type: ignore[arg-type]
        with pytest.raises(NeurordlError, match=r"path=.*: expected a path, got "):
            save_rdms(example(), value)  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match="labels=3: expected a path, got int"):
        load_rdms(tmp_path / "it.h5", labels=3)  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match="expected a value of 'subject' for each, got 3"):
        load_rdms(tmp_path / "it.h5", subjects=3)  # type: ignore[arg-type]


def test_infinite_values_are_not_missing_ones(tmp_path: Path) -> None:
    (tmp_path / "it.csv").write_text(",a,b\na,0,1e400\nb,1e400,0\n")
    with pytest.raises(NeurordlError, match="RDM 0 holds infinite dissimilarities"):
        load_rdms(tmp_path / "it.csv")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"no RDM file .*it\.h5"):
        load_rdms(tmp_path / "it.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(NeurordlError, match=r"no RDM file .*folder\.h5"):
        load_rdms(tmp_path / "folder.h5")
    for content in (b"", b"no RDMs here", b"\x89HDF\r\n\x1a\n" + bytes(200)):
        (tmp_path / "it.h5").write_bytes(content)
        with pytest.raises(NeurordlError, match=r"it\.h5: it is damaged, or not a \.h5 file"):
            load_rdms(tmp_path / "it.h5")


def test_other_formats(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "it.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(NeurordlError, match=r"it\.pkl.*unpickling"):
        load_rdms(tmp_path / "it.pkl")
    assert not (tmp_path / "ran").exists()
    for name in ("it.yaml", "it.mat5", "it"):
        with pytest.raises(NeurordlError, match=r"HDF5 in rsatoolbox's layout"):
            load_rdms(tmp_path / name)
        with pytest.raises(NeurordlError, match=r"HDF5 in rsatoolbox's layout"):
            save_rdms(example(), tmp_path / name)


def test_truncated_files(tmp_path: Path) -> None:
    save_rdms(example(), tmp_path / "whole.h5")
    content = (tmp_path / "whole.h5").read_bytes()
    for share in (0.1, 0.5, 0.9):
        (tmp_path / "part.h5").write_bytes(content[: int(share * len(content))])
        with pytest.raises(NeurordlError, match=r"part\.h5"):
            load_rdms(tmp_path / "part.h5")


def test_other_layouts(tmp_path: Path) -> None:
    cases: dict[str, tuple[dict[str, object], str]] = {
        "other": ({"rdm": np.ones(3)}, r"no 'dissimilarities', but \['rdm'\]"),
        "pairs": ({"dissimilarities": np.ones((2, 4))}, r"\(2, 4\), which no condensed RDM has"),
        "cube": ({"dissimilarities": np.ones((2, 3, 3))}, r"\(2, 3, 3\)"),
        "text": ({"dissimilarities": np.array([[b"a", b"b", b"c"]])}, "must be numbers"),
        "empty": ({"dissimilarities": np.ones((0, 3))}, "must be numbers"),
        "ids": (
            {"dissimilarities": np.ones((1, 3)), "pattern_descriptors/stimulus": np.array([b"a", b"b"])},
            "pattern_descriptors",
        ),
        "subjects": (
            {"dissimilarities": np.ones((1, 3)), "rdm_descriptors/subject": np.array([b"a", b"b"])},
            "rdm_descriptors",
        ),
        "a number": (
            {"dissimilarities": np.ones((1, 3)), "pattern_descriptors": 3.0},
            "its pattern_descriptors are no descriptors with names",
        ),
        "not utf-8": (
            {"dissimilarities": np.ones((1, 3)), "pattern_descriptors/stimulus": np.array([b"\xff"] * 3)},
            "damaged",
        ),
    }
    for name, (content, message) in cases.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for key, value in content.items():
                file[key] = value
        with pytest.raises(NeurordlError, match=message):
            load_rdms(tmp_path / f"{name}.h5")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mixed", ["a", 1, "b", 2]),
        ("objects", [object()] * 4),
        ("ragged", [[1], [1, 2], [1], [1]]),
        ("none", [None] * 4),
    ],
)
def test_descriptors_that_cannot_be_stored(tmp_path: Path, key: str, value: list[object]) -> None:
    rdms = example()
    rdms.pattern_descriptors[key] = value
    with pytest.raises(NeurordlError, match=rf"descriptor pattern_descriptors\['{key}'\]"):
        save_rdms(rdms, tmp_path / "it.h5")
    assert list(tmp_path.iterdir()) == []


def test_descriptors_of_the_whole_that_cannot_be_stored(tmp_path: Path) -> None:
    for key in ("a/b", "", 3):
        rdms = example()
        rdms.descriptors[key] = "x"
        with pytest.raises(NeurordlError, match="without a slash"):
            save_rdms(rdms, tmp_path / "it.h5")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_rdms(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="ndarray"):
        save_rdms(np.ones((1, 3)), tmp_path / "it.h5")
    with pytest.raises(NeurordlError, match="nowhere"):
        save_rdms(example(), tmp_path / "nowhere" / "it.h5")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.h5"
    save_rdms(example(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(NeurordlError, match=r"it\.h5.*disk is full"):
        save_rdms(example(), path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["it.h5"]


@pytest.mark.parametrize("limit", [512, 4096, 65536])
def test_a_file_that_the_system_cuts_short(tmp_path: Path, limit: int) -> None:
    """A real refusal: no file may grow beyond a limit (HDF5 itself would crash on the small ones)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(NeurordlError, match=r"cannot write .*it\.h5"):
            save_rdms(RDMs(np.ones((1, 19900 if limit > 5000 else 3))), tmp_path / "it.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_variable_is_a_text(tmp_path: Path) -> None:
    savemat(tmp_path / "rdms.mat", {"EVC": np.zeros((3, 3)), "IT": np.zeros((3, 3))})
    with pytest.raises(NeurordlError, match=r"name.*list.*give the name of one variable"):
        load_rdms(tmp_path / "rdms.mat", name=["EVC", "IT"])  # type: ignore[arg-type]
