"""Choosing RDMs by descriptor, one per subject, and putting them in order."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs, concat
from scipy.spatial.distance import squareform

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rdms.selection import (
    averaged_subjects,
    check_one_per_subject,
    descriptor_values,
    merge_rdms,
    reindex,
    select_rdms,
    sha256_rdms,
    stimulus_ids,
    subject_names,
)

IDS = ["s1", "s2", "s10", "s3"]


def study(seed: int = 0) -> RDMs:
    """Two subjects, two sessions, two ROIs, of four stimuli."""
    rows = [(who, when, where) for who in ("anna", "ben") for when in (1, 2) for where in ("EVC", "IT")]
    subject, session, roi = (list(column) for column in zip(*rows, strict=True))
    return RDMs(
        np.random.default_rng(seed).random((8, 6)),
        dissimilarity_measure="correlation",
        descriptors={"study": "x"},
        rdm_descriptors={"subject": subject, "session": session, "roi": roi},
        pattern_descriptors={"stimulus": list(IDS)},
    )


def test_picks_by_descriptor_and_keeps_what_it_was_given():
    rdms = study()
    before = rdms.dissimilarities.copy(), {name: list(v) for name, v in rdms.rdm_descriptors.items()}
    chosen = select_rdms(rdms, roi="IT", subjects=["ben"], select={"session": 2})
    assert_array_equal(chosen.dissimilarities, rdms.dissimilarities[7:])
    assert chosen.dissimilarity_measure == "correlation"
    assert stimulus_ids(chosen) == tuple(IDS)
    assert subject_names(chosen) == ("ben",)
    chosen.dissimilarities[:] = 0
    assert_array_equal(rdms.dissimilarities, before[0])
    assert rdms.rdm_descriptors == before[1]


@pytest.mark.parametrize("index", [[3, 1, 4, 0, 5, 2], range(1, 7), list("uvwxyz")])
def test_descriptors_that_are_columns_of_a_table_are_read_by_position(index):
    """A Series has an index, such as that of a sorted table, by which its values are not to be found."""
    rng = np.random.default_rng(0)
    vectors, models = rng.random((6, 6)), rng.random((3, 6))

    def rdms(column, **names):
        result = RDMs(vectors[: len(next(iter(names.values())))], "correlation")
        result.rdm_descriptors = {name: column(values) for name, values in names.items()}
        result.pattern_descriptors = {"stimulus": column(IDS)}
        return result

    def all_of(column):
        brain = rdms(column, subject=list("aabbcc"), time=[0.0, 0.1] * 3)
        steps = rdms(column, name=["net"] * 3, time=[0.0, 1.0, 2.0])
        steps.dissimilarities = models
        yield select_rdms(brain, select={"time": (0.05, 0.2)})
        yield select_rdms(brain, subjects=["c", "a"])
        yield select_rdms(brain, average="time")
        yield nrl.evaluate(steps, brain, comparison="corr").frame[["model_time", "time", "subject", "score"]]

    as_series = all_of(lambda values: pd.Series(values, index=list(index)[: len(values)]))
    for mine, expected in zip(as_series, all_of(list), strict=True):
        if isinstance(mine, RDMs):
            assert_array_equal(mine.dissimilarities, expected.dissimilarities)
            assert mine.rdm_descriptors == expected.rdm_descriptors
            assert list(mine.pattern_descriptors["stimulus"]) == IDS
        else:
            pd.testing.assert_frame_equal(mine, expected)


def test_values_are_matched_as_text_so_that_files_may_bring_numbers_or_numpy():
    rdms = study()
    for value in (2, "2", np.int64(2), 2.0, np.float32(2), [2]):
        assert len(select_rdms(rdms, select={"session": value})) == 4
    assert descriptor_values(rdms, "session")[:3] == ["1", "1", "2"]
    assert len(select_rdms(rdms, select={"session": [1, 2]})) == 8
    rdms.rdm_descriptors["subject"] = [np.str_(name) for name in rdms.rdm_descriptors["subject"]]
    assert len(select_rdms(rdms, subjects="anna")) == 4


def test_averages_sessions_within_subject_and_leaves_out_missing_values():
    rdms = study()
    rdms.dissimilarities[1, 0] = np.nan  # anna, session 1, IT
    rdms.dissimilarities[[1, 3], 1] = np.nan
    chosen = select_rdms(rdms, roi="IT", average="session")
    v = rdms.dissimilarities
    assert_allclose(chosen.dissimilarities[1], (v[5] + v[7]) / 2)
    assert_allclose(chosen.dissimilarities[0, 2:], ((v[1] + v[3]) / 2)[2:])
    assert chosen.dissimilarities[0, 0] == v[3, 0]
    assert np.isnan(chosen.dissimilarities[0, 1])
    assert "session" not in chosen.rdm_descriptors
    assert chosen.rdm_descriptors["roi"] == ["IT", "IT"]
    both = select_rdms(rdms, average=["session", "roi"])
    assert_allclose(both.dissimilarities[1], v[4:].mean(axis=0))


def test_numbers_that_are_near_are_not_the_same():
    times = [1000001.5, 1000001.5, 1000002.5, 1000002.5]
    rdms = RDMs(
        np.random.default_rng(0).random((4, 3)),
        rdm_descriptors={"subject": ["a"] * 4, "session": [1, 2, 1, 2], "time": times},
    )
    assert_array_equal(
        select_rdms(rdms, select={"time": 1000001.5}).dissimilarities, rdms.dissimilarities[:2]
    )
    with pytest.raises(NeurordlError, match=r"'time' \(1000001.5, 1000002.5\)"):
        check_one_per_subject(select_rdms(rdms, average="session"))
    rdms.rdm_descriptors["subject"] = ["a", "a", "b", "b"]
    assert_allclose(select_rdms(rdms, average="session").dissimilarities[1], rdms.dissimilarities[2:].mean(0))
    assert descriptor_values(rdms, "time")[0] == "1000001.5"


def test_rounded_numbers_match_where_they_are_unambiguous():
    for stored in (np.float32([0.1, 0.2, 0.3]).tolist(), np.float32([0.1, 0.2, 0.3]), [0.1, 0.2, 0.1 + 0.2]):
        rdms = RDMs(np.ones((3, 3)), rdm_descriptors={"time": stored, "subject": list("abc")})
        assert list(select_rdms(rdms, select={"time": 0.3}).rdm_descriptors["subject"]) == ["c"]
        assert descriptor_values(rdms, "time") == ["0.1", "0.2", "0.3"]
    rdms.rdm_descriptors["time"] = [float("nan"), 0.1, np.float64("nan")]
    assert descriptor_values(rdms, "time") == ["nan", "0.1", "nan"]


def test_a_mean_over_subjects_has_their_names():
    rdms = study()
    mean = select_rdms(rdms, select={"session": 1}, average="subject")
    assert mean.rdm_descriptors["averaged_subjects"] == ['["anna", "ben"]'] * len(mean)
    assert averaged_subjects(mean) == [("anna", "ben")] * len(mean)
    assert "subject" not in mean.rdm_descriptors
    rdms.rdm_descriptors["subject"] = [f"{name}, Müller" for name in rdms.rdm_descriptors["subject"]]
    with_comma = select_rdms(rdms, select={"session": 1}, average="subject")
    assert averaged_subjects(with_comma) == [("anna, Müller", "ben, Müller")] * len(mean)
    mean.rdm_descriptors["averaged_subjects"] = ["anna, ben", ""]  # of earlier versions
    assert averaged_subjects(mean) == [("anna", "ben"), ()]
    mean.rdm_descriptors["averaged_subjects"] = ["[anna", ""]
    with pytest.raises(NeurordlError, match="averaged_subjects is no list"):
        averaged_subjects(mean)
    rdms = study()
    for roi in ("EVC", "IT"):
        expected = np.nanmean(select_rdms(rdms, roi=roi, select={"session": 1}).dissimilarities, axis=0)
        assert_allclose(select_rdms(mean, roi=roi).dissimilarities[0], expected)


@pytest.mark.parametrize(
    "choice, told",
    [
        ({}, r"'session' \(1, 2\), 'roi' \(EVC, IT\): .*select= or average=.*roi="),
        ({"roi": "IT"}, "'anna' has 2.*2 of 2 subjects.*'session'"),
        ({"select": {"session": 1}}, "'roi'"),
        ({"average": "session"}, "'roi'"),
        ({"roi": "V4"}, "no RDM has roi 'V4'; roi can be: EVC, IT"),
        ({"subjects": ["anna", "carl"]}, "no RDM has subject 'carl'.*anna, ben"),
        ({"select": {"run": 1}}, "no descriptor 'run'.*session"),
        ({"average": "run"}, "cannot average over 'run'.*session"),
        ({"average": "subject"}, "the 4 RDMs have no descriptor 'subject'"),
        ({"roi": "IT", "select": {"roi": "EVC"}}, "'roi' is chosen twice"),
        ({"subjects": []}, "empty list"),
    ],
)
def test_sessions_and_rois_are_never_subjects(choice, told):
    with pytest.raises(NeurordlError, match=told):
        check_one_per_subject(select_rdms(study(), **choice))


def test_a_subject_who_lacks_what_was_asked_for_is_named():
    rdms = study()
    rdms.rdm_descriptors["roi"][5:] = ["EVC", "EVC", "EVC"]
    with pytest.raises(NeurordlError, match="no RDM of subject ben has roi IT"):
        select_rdms(rdms, roi="IT", subjects=["anna", "ben"], average="session")


def test_indistinguishable_repeats_are_refused():
    rdms = RDMs(np.ones((2, 3)), rdm_descriptors={"subject": ["a", "a"]})
    with pytest.raises(NeurordlError, match="the same descriptors"):
        check_one_per_subject(rdms)


def test_without_subjects_one_rdm_is_one_subject_and_several_are_refused():
    one = RDMs(np.ones((1, 3)))
    assert subject_names(check_one_per_subject(one)) == ("unnamed",)
    with pytest.raises(NeurordlError, match=r'no descriptor .subject.*rdm_descriptors\["subject"\]'):
        check_one_per_subject(RDMs(np.ones((3, 3))))
    by_roi = RDMs(np.ones((2, 3)), rdm_descriptors={"roi": ["EVC", "IT"]})
    assert len(check_one_per_subject(select_rdms(by_roi, roi="IT"))) == 1
    with pytest.raises(NeurordlError, match="'roi'"):
        check_one_per_subject(by_roi)


def test_an_rdm_that_is_nan_everywhere_names_its_subject():
    rdms = study()
    rdms.dissimilarities[1::2][2:] = np.nan
    with pytest.raises(NeurordlError, match="RDM of subject ben has no measured pair"):
        check_one_per_subject(select_rdms(rdms, roi="IT", average="session"))


@pytest.mark.parametrize(
    "values, told",
    [(None, "no stimulus ids"), (["a", "b", "a", "c"], "unique"), ([1, 2, 3, 4], "convert numbers with str")],
)
def test_stimulus_ids_are_unique_text(values, told):
    rdms = RDMs(np.ones((1, 6)), pattern_descriptors={"stimulus": values} if values else None)
    with pytest.raises(NeurordlError, match=told):
        stimulus_ids(rdms)


@given(n=st.integers(2, 9), seed=st.integers(0, 1000), data=st.data())
def test_reindex_is_indexing_of_the_square_matrix(n, seed, data):
    ids = [f"s{k}" for k in range(n)]
    vectors = np.random.default_rng(seed).random((2, n * (n - 1) // 2)).astype(np.float32)
    vectors[0, 0] = np.nan
    order = data.draw(st.permutations(range(n)))[: data.draw(st.integers(1, n))]
    rdms = RDMs(vectors, pattern_descriptors={"stimulus": ids})
    got = reindex(rdms, [ids[k] for k in order])
    want = [squareform(squareform(v)[np.ix_(order, order)], checks=False) for v in vectors.astype(float)]
    assert got.dtype == np.float64
    assert_array_equal(got, np.reshape(want, got.shape))


def test_reindex_copies_and_refuses_unknown_ids():
    rdms = study()
    same = reindex(rdms, IDS)
    same[:] = -1
    assert (rdms.dissimilarities >= 0).all()
    with pytest.raises(NeurordlError, match="s4"):
        reindex(rdms, ["s1", "s4"])
    with pytest.raises(NeurordlError, match="unique"):
        reindex(rdms, ["s1", "s1"])


def test_the_checksum_is_of_rdms_and_names_whatever_their_order():
    rdms = study()
    rdms.dissimilarities[0, 2] = np.nan
    known = sha256_rdms(rdms)
    rng = np.random.default_rng(0)
    for _ in range(5):
        order, rows = rng.permutation(4), rng.permutation(8)
        vectors = reindex(rdms, [IDS[k] for k in order])[rows]
        named = {name: [x[k] for k in rows] for name, x in rdms.rdm_descriptors.items()}
        ids = {"stimulus": [IDS[k] for k in order]}
        assert sha256_rdms(RDMs(vectors, rdm_descriptors=named, pattern_descriptors=ids)) == known
    single = RDMs(np.float32([[1, 2, 4]]), pattern_descriptors={"stimulus": list("abc")})
    double = RDMs(np.array([[1.0, 2, 4]]), pattern_descriptors={"stimulus": list("abc")})
    assert sha256_rdms(single) == sha256_rdms(double)

    others = [study() for _ in range(4)]
    others[0].dissimilarities[0, 2] = np.nan
    others[0].pattern_descriptors["stimulus"] = ["s1", "s3", "s10", "s2"]  # the values of two are exchanged
    others[1].dissimilarities[0, 2] = np.nan
    others[1].pattern_descriptors["stimulus"] = ["s1", "s2", "s10", "s4"]  # another stimulus
    others[2].dissimilarities[0, 2] = np.nan
    others[2].rdm_descriptors["subject"] = ["carl"] * 4 + ["ben"] * 4
    assert len({known, *map(sha256_rdms, others)}) == 5


# merging


def patterns_of(subject: str, stimuli: str, seed: int) -> Dataset:
    values = np.random.default_rng(seed).normal(size=(2 * len(stimuli), 5))
    rows = {"stimulus": list(stimuli) * 2, "run": [1] * len(stimuli) + [2] * len(stimuli)}
    record = json.dumps({"images": [f"{subject}.nii"]})
    return Dataset(values, {"subject": subject, "provenance": record}, rows, {"roi": list("ppqqq")})


@pytest.mark.filterwarnings("ignore:.*(stimuli|unbalanced)")
def test_merged_subjects_are_those_computed_together():
    """In other orders, with stimuli that some lack; also the record of how they were made."""
    datasets = [patterns_of(f"s{k}", text, k) for k, text in enumerate(("abcd", "dxab", "bcxda"))]
    together = nrl.compute_rdms(datasets, "crossnobis")
    parts = {data.descriptors["subject"]: nrl.compute_rdms(data, "crossnobis") for data in datasets}
    with pytest.warns(UserWarning, match=r"s0 has 4 of 5 stimuli; the pairs of the others \(x\) are NaN"):
        merged = merge_rdms(parts, missing="nan")
    assert_array_equal(merged.dissimilarities, together.dissimilarities)
    for name in ("descriptors", "rdm_descriptors", "pattern_descriptors", "dissimilarity_measure"):
        assert getattr(merged, name) == getattr(together, name), name


def test_merging_equals_concat_of_rsatoolbox_and_changes_nothing():
    first, second = (select_rdms(study(), subjects=name) for name in ("anna", "ben"))
    turned = RDMs(
        reindex(second, order := ["s10", "s1", "s3", "s2"]),
        rdm_descriptors=dict(second.rdm_descriptors),
        dissimilarity_measure="1 - Pearson's r",
        pattern_descriptors={"stimulus": order},
        descriptors=dict(second.descriptors),
    )
    before = turned.dissimilarities.copy()
    merged = merge_rdms([first, turned])
    assert_array_equal(merged.dissimilarities, concat(first, second).dissimilarities)
    assert merged.rdm_descriptors == study().rdm_descriptors
    assert merged.descriptors == {"study": "x"}
    assert_array_equal(turned.dissimilarities, before)
    assert turned.pattern_descriptors["stimulus"] == order


def test_stimuli_that_some_lack_and_properties_that_differ():
    whole = study()
    whole.pattern_descriptors |= {"kind": list("aabb"), "color": list("rgrg")}
    half = RDMs(
        reindex(whole, order := ["s3", "s2", "s1"])[:2],
        dissimilarity_measure="correlation",
        descriptors={"study": "y"},
        rdm_descriptors={"subject": ["carl"] * 2, "session": [1, 2], "roi": ["IT"] * 2, "age": [3, 3]},
        pattern_descriptors={"stimulus": order, "kind": list("bab"), "color": list("ggr")},
    )
    with pytest.raises(NeurordlError, match=r"1 of 4 ids of the whole.h5 are not in the half.h5: 's10'"):
        merge_rdms({"whole.h5": whole, "half.h5": half})
    with pytest.warns(UserWarning, match="left out") as warned:
        merged = merge_rdms({"whole.h5": whole, "half.h5": half}, missing="ignore")
    text = " ".join(str(warning.message) for warning in warned)
    assert "1 of 4 stimuli are not in all of whole.h5, half.h5 and were left out: s10" in text
    assert "1 descriptors are left out, which some RDMs lack: age" in text
    assert "in which RDMs differ: kind" in text
    assert stimulus_ids(merged) == ("s1", "s2", "s3")
    assert merged.pattern_descriptors["color"] == list("rgg")
    assert merged.rdm_descriptors["study"] == ["x"] * 8 + ["y"] * 2
    squares = [squareform(row) for row in whole.dissimilarities]
    for row, square in zip(merged.dissimilarities, [*squares, *squares[:2]], strict=True):
        assert_array_equal(squareform(row), square[np.ix_([0, 1, 3], [0, 1, 3])])


def named(**changes) -> RDMs:
    rdms = select_rdms(study(), subjects="ben", roi="IT", select={"session": 1})
    rdms.rdm_descriptors |= changes.pop("rdm_descriptors", {})
    for name, value in changes.items():
        setattr(rdms, name, value)
    return rdms


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (
            named(),
            r"2 RDMs have the same descriptors \(subject ben session 1 roi IT\), in a.h5 and b.h5; leave",
        ),
        (named(dissimilarity_measure="crossnobis"), "in a.h5 is 'correlation', and in b.h5 'crossnobis'"),
        (named(dissimilarity_measure=None), "and in b.h5 unknown: .*measure="),
        (named(pattern_descriptors={}), "b.h5: the RDMs .* have no stimulus ids"),
        (named(pattern_descriptors={"stimulus": list("abcd")}), "no id of the a.h5 is among the ids"),
        (named(pattern_descriptors={"stimulus": ["S1", *IDS[1:]]}), "differ only by letter case"),
    ],
)
def test_what_cannot_be_merged_names_both_files(second, told):
    with pytest.raises(NeurordlError, match=told):
        merge_rdms({"a.h5": named(), "b.h5": second})


def test_a_subject_that_only_some_have():
    second = named()
    del second.rdm_descriptors["subject"]
    with pytest.raises(NeurordlError, match=r"b.h5 have no subject, and those of a.h5 do; name the subject"):
        merge_rdms({"a.h5": named(), "b.h5": second})
    with pytest.raises(NeurordlError, match="there are no RDMs to merge"):
        merge_rdms([])


def test_members_of_a_mean_stay_known_and_other_settings_are_noticed():
    mean = select_rdms(study(), average=["subject", "session"])
    mean.rdm_descriptors["subject"] = ["mean"] * 2
    people = select_rdms(study(), average="session")
    merged = merge_rdms([mean, people])
    assert averaged_subjects(merged) == [("anna", "ben")] * 2 + [()] * 4
    runs = [nrl.compute_rdms(patterns_of(s, "abcd", 0), center=c) for s, c in (("s1", "run"), ("s2", None))]
    with pytest.warns(UserWarning, match=r"RDMs 1 was .* than RDMs 0: center \(run before, None now\)"):
        both = merge_rdms(runs)
    assert [part["center"] for part in json.loads(both.descriptors["provenance"])["patterns"]] == [
        "run",
        None,
    ]
