"""RDMs, patterns, stimuli and tables brought together by id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import squareform

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms.selection import reindex

IDS = [f"s{k}" for k in range(6)]
VALUE = {stimulus: float(k) for k, stimulus in enumerate([*IDS, "x", "y"])}


def rdms(ids: list[str]) -> RDMs:
    values = np.array([VALUE[stimulus] for stimulus in ids])
    distances = np.abs(values[:, None] - values)
    return RDMs(
        squareform(distances)[None].astype(np.float32),
        dissimilarity_measure="euclidean",
        rdm_descriptors={"subject": ["a"]},
        pattern_descriptors={"stimulus": ids, "value": values.tolist()},
    )


def patterns(ids: list[str], repeats: int = 2) -> Dataset:
    rows = [*ids] * repeats
    return Dataset(
        np.array([[VALUE[stimulus], k // len(ids)] for k, stimulus in enumerate(rows)]),
        descriptors={"subject": "a"},
        obs_descriptors={"stimulus": rows, "run": [k // len(ids) for k in range(len(rows))]},
        channel_descriptors={"roi": ["IT", "V1"]},
    )


def stimuli(ids: list[str]) -> nrl.StimulusSet:
    pixels = np.stack([np.full((4, 4), VALUE[stimulus]) for stimulus in ids]).astype(np.uint8)
    return nrl.StimulusSet.from_array(pixels, ids)


def labels(ids: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"id": ids, "value": [VALUE[stimulus] for stimulus in ids]})


def check(aligned: nrl.Alignment, ids: list[str]) -> None:
    expected = [VALUE[stimulus] for stimulus in ids]
    assert aligned.ids == tuple(ids)
    assert aligned["stimuli"].ids == tuple(ids)
    assert aligned["stimuli"].pixels[:, 0, 0, 0].tolist() == expected
    matrix = np.abs(np.subtract.outer(expected, expected))
    np.testing.assert_array_equal(aligned["rdms"].get_matrices()[0], matrix)
    assert aligned["rdms"].dissimilarities.dtype == np.float32
    assert list(aligned["rdms"].pattern_descriptors["value"]) == expected
    assert aligned["rdms"].rdm_descriptors["subject"] == ["a"]
    measured = aligned["patterns"]
    assert measured.measurements[::2, 0].tolist() == measured.measurements[1::2, 0].tolist() == expected
    assert list(measured.obs_descriptors["run"]) == [0, 1] * len(ids)
    assert list(measured.obs_descriptors["stimulus"][::2]) == ids
    assert list(measured.channel_descriptors["roi"]) == ["IT", "V1"]
    assert aligned["labels"]["value"].tolist() == expected
    assert aligned["labels"].index.tolist() == ids


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders=st.lists(st.permutations(IDS), min_size=4, max_size=4))
def test_any_orders_come_together(orders: list[list[str]]) -> None:
    one, two, three, four = orders
    given_ = {"stimuli": stimuli(one), "rdms": rdms(two), "patterns": patterns(three), "labels": labels(four)}
    check(nrl.align(**given_), one)
    for first in given_:  # whichever gives the order
        turned = {first: given_[first], **{name: thing for name, thing in given_.items() if name != first}}
        order = dict(zip(given_, orders, strict=True))[first]
        check(nrl.align(turned), order)


def test_unwanted_stimuli_are_left_out_with_a_notice(tmp_path: Path) -> None:
    more = ["y", *IDS[::-1], "x"]
    path = tmp_path / "labels.tsv"
    labels(more).to_csv(path, sep="\t", index=False)
    kept = nrl.align(stimuli=stimuli(IDS), rdms=rdms(more), patterns=patterns(IDS), labels=path)
    check(kept, IDS)
    lines = str(kept).splitlines()
    assert lines[0].split() == ["matched", "missing", "unused", "repeated", "reordered"]
    assert [line.split() for line in lines[1:5]] == [
        ["stimuli", "6", "0", "0", "0"],
        ["rdms", "6", "0", "2", "0", "yes"],
        ["patterns", "6", "0", "0", "6", "no"],
        ["labels", "6", "0", "2", "0", "yes"],
    ]
    assert lines[5] == "6 of the 6 ids of 'stimuli' are in all data, in its order"
    assert "unused in rdms: y, x" in lines
    assert list(kept) == ["stimuli", "rdms", "patterns", "labels"]
    assert len(kept) == 4


def test_missing_stimuli() -> None:
    given_: dict[str, Any] = {
        "stimuli": stimuli(IDS),
        "rdms": rdms(IDS[1:]),
        "patterns": patterns(IDS[:-1]),
        "labels": labels(IDS),
    }
    with pytest.raises(NeurordlError) as caught:
        nrl.align(**given_)
    assert "1 of 6 ids of the stimuli are not in the rdms: 's0'" in str(caught.value)
    assert "1 of 6 ids of the stimuli are not in the patterns: 's5'" in str(caught.value)  # all at once
    kept = nrl.align(**given_, missing="ignore")
    check(kept, IDS[1:-1])
    assert "4 of the 6 ids of 'stimuli' are in all data" in str(kept)
    assert "missing in rdms: s0" in str(kept)
    with pytest.raises(NeurordlError, match="no stimulus is in all of"):
        nrl.align(stimuli=stimuli(IDS), rdms=rdms(IDS[:3]), labels=labels(IDS[3:]), missing="ignore")


def test_near_misses_are_pointed_out_and_never_matched() -> None:
    table = labels(IDS).assign(id=[f"S{k:02d}.png" for k in range(6)])
    with pytest.raises(NeurordlError, match="6 differ only by extension and letter case and zero padding"):
        nrl.align(stimuli=stimuli(IDS), labels=table, missing="ignore")


def test_near_misses_stand_in_the_report() -> None:
    kept = nrl.align(stimuli=stimuli(IDS), labels=labels(IDS).assign(id=["S0", *IDS[1:]]), missing="ignore")
    assert kept.ids == tuple(IDS[1:])
    assert "missing in labels: s0 (1 differ only by letter case, such as 's0' and 'S0')" in str(kept)


def test_input_is_left_alone() -> None:
    one, other = rdms(IDS), patterns(IDS)
    before = one.dissimilarities.copy()
    aligned = nrl.align(stimuli=stimuli(IDS[::-1]), rdms=one, patterns=other)
    aligned["rdms"].dissimilarities[:] = -1
    aligned["patterns"].measurements[:] = -1
    np.testing.assert_array_equal(one.dissimilarities, before)
    assert one.pattern_descriptors["stimulus"] == IDS
    assert (other.measurements >= 0).all()


def test_the_report_counts_stimuli_with_repeats_not_rows() -> None:
    kept = nrl.align(rdms=rdms(IDS), patterns=patterns(IDS, repeats=3))
    assert str(kept).splitlines()[2].split() == ["patterns", "6", "0", "0", "6", "no"]
    assert kept.repeats == {"patterns": 6}
    assert nrl.align(rdms=rdms(IDS), patterns=patterns(IDS, repeats=1)).repeats == {}


def test_patterns_over_time_keep_their_times_and_lists_stay_as_they_are() -> None:
    measured = np.arange(24.0).reshape(3, 2, 4)
    given_ = TemporalDataset(
        measured,
        obs_descriptors={"stimulus": ["s2", "s0", "s1"], "note": ["x", 1, None]},
        channel_descriptors={"roi": ["IT", "V1"]},
        time_descriptors={"time": [0.1, 0.2, 0.3, 0.4]},
    )
    taken = nrl.align(rdms=rdms(IDS[:3]), patterns=given_)["patterns"]
    assert isinstance(taken, TemporalDataset)
    np.testing.assert_array_equal(taken.measurements, measured[[1, 2, 0]])
    assert list(taken.time_descriptors["time"]) == [0.1, 0.2, 0.3, 0.4]
    assert list(taken.obs_descriptors["note"]) == [1, None, "x"]
    fewer = nrl.align(rdms=rdms(IDS[:2]), patterns=given_)["patterns"]
    assert (fewer.n_obs, len(fewer.measurements), given_.n_obs) == (2, 2, 3)
    two = fewer.split_time("time")
    assert len(two) == 4


@pytest.mark.parametrize("wrong", [None, 1, 1.0, float("nan")])
def test_rows_of_patterns_are_named_by_text(wrong: Any) -> None:
    named = Dataset(np.ones((2, 2)), obs_descriptors={"stimulus": ["s0", wrong]})
    with pytest.raises(NeurordlError, match=r"ids of the patterns must be .* position 1 is"):
        nrl.align(rdms=rdms(IDS[:2]), patterns=named, missing="ignore")


def test_rows_of_patterns_named_by_bytes() -> None:
    named = Dataset(np.eye(2), obs_descriptors={"stimulus": [b"s1", b"s0"]})
    taken = nrl.align(rdms=rdms(IDS[:2]), patterns=named)["patterns"]
    np.testing.assert_array_equal(taken.measurements, [[0, 1], [1, 0]])


def test_what_cannot_be_aligned() -> None:
    nameless = rdms(IDS)
    del nameless.pattern_descriptors["stimulus"]
    twice = labels([*IDS[:-1], "s0"])
    bare = Dataset(np.ones((2, 2)), obs_descriptors={"conds": ["a", "b"]})
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "two or more data by name.*got none"),
        ({"stimuli": stimuli(IDS)}, "got stimuli"),
        ({"stimuli": stimuli(IDS), "rdms": nameless}, "have no stimulus ids"),
        ({"stimuli": stimuli(IDS), "labels": twice}, "must be unique"),
        ({"stimuli": stimuli(IDS), "patterns": bare}, "patterns lack .* 'stimulus' .*conds"),
        ({"stimuli": stimuli(IDS), "rdms": np.ones(3)}, "rdms is ndarray; align takes"),
        ({"stimuli": stimuli(IDS), "labels": "gone.csv"}, "cannot read gone.csv"),
        ({"stimuli": stimuli(IDS), "rdms": rdms(IDS), "missing": "drop"}, "missing='drop'"),
    ]
    for given_, said in cases:
        with pytest.raises(NeurordlError, match=said):
            nrl.align(**given_)
    with pytest.raises(NeurordlError, match="two or more data by name"):
        nrl.align(rdms(IDS), stimuli=stimuli(IDS), again=rdms(IDS))  # type: ignore[arg-type]


@pytest.mark.parametrize("column", ["id", "stimulus"])
def test_ids_stand_in_the_column_id_or_stimulus(tmp_path: Path, column: str) -> None:
    """In a file for `align` and for `load_rdms`, and in a table in memory."""
    frame = pd.DataFrame({"size": [3.0, 1.0, 2.0], column: ["c", "a", "b"]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    np.save(tmp_path / "it.npy", np.array([[0.0, 1, 2], [1, 0, 3], [2, 3, 0]]))
    rdms = nrl.load_rdms(tmp_path / "it.npy", labels=tmp_path / "labels.csv")
    ids = ["a", "b", "c"]
    wanted = RDMs(reindex(rdms, ids), pattern_descriptors={"stimulus": ids})
    for table in (tmp_path / "labels.csv", frame):
        aligned = nrl.align(rdms=wanted, labels=table)
        assert list(aligned["labels"]["size"]) == [1.0, 2.0, 3.0]
        assert list(aligned["rdms"].dissimilarities[0]) == [3.0, 1.0, 2.0]  # a-b, a-c, b-c
    named = pd.DataFrame({"stimulus": ["x", "y", "z"]}, index=["c", "a", "b"])  # ids are the index's
    assert list(nrl.align(rdms=wanted, labels=named)["labels"]["stimulus"]) == ["y", "z", "x"]
