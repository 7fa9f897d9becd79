"""compute_rdms against rsatoolbox; order, names, missing stimuli, runs, and bad input."""

from __future__ import annotations

import copy
import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import DISSIMILARITIES, dissimilarity_from_text
from neurordl.rdms import compute_rdms
from neurordl.rdms.source import Source

IDS = ["s10", "s2", "s1", "cat", "Ant"]


def dataset(ids: list[str] = IDS, channels: int = 7, seed: int = 0, **descriptors: Any) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(
        rng.standard_normal((len(ids), channels)),
        descriptors=dict(descriptors),
        obs_descriptors={"stimulus": list(ids)},
    )


def runs(n_runs: int = 3, ids: list[str] = IDS, repeats: int = 1) -> Dataset:
    rows = [(stimulus, run) for run in range(n_runs) for stimulus in ids * repeats]
    order = np.random.default_rng(1).permutation(len(rows))
    return Dataset(
        np.random.default_rng(2).standard_normal((len(rows), 7)),
        obs_descriptors={
            "stimulus": [rows[k][0] for k in order],
            "run": [rows[k][1] for k in order],
        },
    )


def by_name(rdms: Any, name: str = "stimulus") -> dict[tuple[str, str], float]:
    ids = [str(stimulus) for stimulus in rdms.pattern_descriptors[name]]
    matrix = rdms.get_matrices()[0]
    return {(a, b): matrix[i, j] for i, a in enumerate(ids) for j, b in enumerate(ids)}


@pytest.mark.parametrize("method", ["euclidean", "correlation", "mahalanobis", "crossnobis"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_equals_rsatoolbox_by_name(method: str, repeats: int) -> None:
    data = runs(repeats=repeats)
    half = np.random.default_rng(3).standard_normal((7, 9))
    noise = half @ half.T if method in ("mahalanobis", "crossnobis") else None
    theirs = calc_rdm(
        copy.deepcopy(data), method=method, descriptor="stimulus", noise=noise, cv_descriptor="run"
    )
    ours = compute_rdms(data, method, precision=noise)
    expected = by_name(theirs)
    assert by_name(ours) == pytest.approx(expected, abs=1e-10)
    assert dissimilarity_from_text(ours.dissimilarity_measure) is DISSIMILARITIES[method]
    assert ours.dissimilarity_measure == theirs.dissimilarity_measure


@pytest.mark.parametrize("method", ["euclidean_root", "cosine"])
def test_measures_that_rsatoolbox_lacks(method: str) -> None:
    data = dataset()
    found = compute_rdms(data, method)
    expected = DISSIMILARITIES[method](torch.tensor(data.measurements)).numpy()
    np.testing.assert_allclose(found.dissimilarities[0], expected, atol=1e-14)
    assert dissimilarity_from_text(found.dissimilarity_measure) is DISSIMILARITIES[method]


def test_the_given_order_is_kept() -> None:
    found = compute_rdms(dataset())
    assert found.pattern_descriptors["stimulus"] == IDS
    doubled = dataset(["b", "a", "b", "c", "a"])
    found = compute_rdms(doubled, "euclidean")
    assert found.pattern_descriptors["stimulus"] == ["b", "a", "c"]
    x = doubled.measurements
    means = np.stack([x[[0, 2]].mean(0), x[[1, 4]].mean(0), x[3]])
    expected = ((means[:, None] - means[None]) ** 2).mean(-1)
    np.testing.assert_allclose(found.dissimilarities[0], squareform(expected, checks=False), atol=1e-12)


@given(order=st.permutations(range(10)), repeats=st.integers(1, 3), seed=st.integers(0, 100))
def test_the_order_of_rows_changes_nothing_by_name(order: list[int], repeats: int, seed: int) -> None:
    ids = [f"s{k // repeats}" for k in range(10)]
    data = dataset(ids, seed=seed)
    moved = Dataset(data.measurements[order], obs_descriptors={"stimulus": [ids[k] for k in order]})
    assert by_name(compute_rdms(moved)) == pytest.approx(by_name(compute_rdms(data)), abs=1e-12)


def test_averages_are_taken_in_float64() -> None:
    rows = (1e4 + np.random.default_rng(0).standard_normal((400, 5))).astype(np.float32)
    ids = [f"s{k % 4}" for k in range(400)]
    found = compute_rdms(Dataset(rows, obs_descriptors={"stimulus": ids}), "euclidean")
    expected = compute_rdms(Dataset(rows.astype(np.float64), obs_descriptors={"stimulus": ids}), "euclidean")
    np.testing.assert_allclose(found.dissimilarities, expected.dissimilarities, rtol=1e-12)
    assert found.dissimilarities.dtype == np.float64


def test_nothing_of_the_caller_is_touched() -> None:
    data = runs()
    data.descriptors["subject"] = "s01"
    before = copy.deepcopy(data)
    for method in ("correlation", "crossnobis"):
        found = compute_rdms(data, method)
        found.rdm_descriptors["subject"][0] = "other"
        found.pattern_descriptors["stimulus"][0] = "other"
        found.pattern_descriptors["more"] = [1] * 5
    assert data == before
    assert set(data.descriptors) == {"subject"}


def test_several_datasets() -> None:
    data = [dataset(seed=k, subject=f"s{k}", roi="IT") for k in range(3)]
    found = compute_rdms(data)
    assert found.rdm_descriptors["subject"] == ["s0", "s1", "s2"]
    assert found.rdm_descriptors["roi"] == ["IT"] * 3
    for k in range(3):
        alone = compute_rdms(data[k]).dissimilarities[0]
        np.testing.assert_array_equal(found.dissimilarities[k], alone)


def test_datasets_by_name() -> None:
    plain = {"s01": dataset(), "s02": dataset(seed=1)}
    assert compute_rdms(plain).rdm_descriptors["subject"] == ["s01", "s02"]
    assert all("subject" not in data.descriptors for data in plain.values())  # the caller's stay as they were
    layers = {"conv1": dataset(layer="conv1"), "conv2": dataset(layer="conv2", seed=1)}
    found = compute_rdms(layers).rdm_descriptors
    assert found["layer"] == ["conv1", "conv2"]
    assert "subject" not in found
    with pytest.raises(NeurordlError, match="'s01' is of subject 's09'"):
        compute_rdms({"s01": dataset(subject="s09")})


def test_datasets_in_other_orders_are_aligned_by_name() -> None:
    first, second = dataset(subject="a"), dataset(subject="b", seed=1)
    order = [3, 0, 4, 2, 1]
    moved = Dataset(
        second.measurements[order],
        descriptors={"subject": "b"},
        obs_descriptors={"stimulus": [IDS[k] for k in order]},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_rdms([first, moved])
    assert found.pattern_descriptors["stimulus"] == IDS
    np.testing.assert_allclose(
        found.dissimilarities, compute_rdms([first, second]).dissimilarities, atol=1e-12
    )


def test_stimuli_that_a_subject_missed_are_missing_pairs() -> None:
    first, second = dataset(subject="a"), dataset(["s1", "new", "s10"], subject="b", seed=1)
    with pytest.warns(UserWarning, match="stimuli") as caught:
        found = compute_rdms([first, second])
    messages = [str(warning.message) for warning in caught]
    assert "Dataset 0 (subject a) has 5 of 6 stimuli; the pairs of the others (new)" in messages[0]
    assert "Dataset 1 (subject b) has 3 of 6 stimuli; the pairs of the others (s2, cat, Ant)" in messages[1]
    assert found.pattern_descriptors["stimulus"] == [*IDS, "new"]
    matrices = found.get_matrices()
    assert np.isnan(matrices[0][5, :5]).all()
    np.testing.assert_allclose(matrices[0][:5, :5], compute_rdms(first).get_matrices()[0])
    alone = compute_rdms(second).get_matrices()[0]
    np.testing.assert_allclose(matrices[1][np.ix_([2, 5, 0], [2, 5, 0])], alone)
    assert np.isfinite(found.dissimilarities[1]).sum() == 3


def test_an_undefined_pattern_is_a_missing_pair() -> None:
    data = dataset()
    data.measurements[1] = 3.0
    data.measurements[2, 0] = np.nan
    matrix = compute_rdms(data).get_matrices()[0]
    expected = np.zeros((5, 5), bool)
    expected[[1, 2]] = expected[:, [1, 2]] = True
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(np.isnan(matrix), expected)


def test_another_descriptor_and_a_function_of_ones_own() -> None:
    data = Dataset(
        np.random.default_rng(0).standard_normal((3, 4)), obs_descriptors={"conds": np.array(["b", "a", "c"])}
    )
    found = compute_rdms(data, lambda x: DISSIMILARITIES["cosine"](x) * 2, descriptor="conds")
    assert found.pattern_descriptors["stimulus"] == ["b", "a", "c"]
    assert all(type(value) is str for value in found.pattern_descriptors["stimulus"])
    expected = 2 * compute_rdms(data, "cosine", descriptor="conds").dissimilarities
    np.testing.assert_allclose(found.dissimilarities, expected)


def test_many_rows_are_averaged_without_a_loop() -> None:
    ids = [f"s{k % 5000}" for k in range(15_000)]
    data = Dataset(np.random.default_rng(0).standard_normal((15_000, 20)), obs_descriptors={"stimulus": ids})
    start = time.perf_counter()
    source = Source(data, "")
    means = source.patterns().numpy()
    assert time.perf_counter() - start < 2
    np.testing.assert_allclose(means[4321], data.measurements[4321::5000].mean(0))


# bad input


@pytest.mark.parametrize(
    ("patterns", "options", "message"),
    [
        ([], {}, "not none"),
        (np.ones((3, 4)), {}, "not ndarray"),
        (3, {}, "not int"),
        ({"a": np.ones((3, 4))}, {}, "not ndarray"),
        (Dataset(np.ones((3, 4))), {}, "Dataset 0 has no observation descriptor 'stimulus'; it has none"),
        (
            dataset(subject="s1"),
            {"descriptor": "conds"},
            r"\(subject s1\) has no .*'conds'; it has 'stimulus'",
        ),
        (dataset(["a"]), {}, "single stimulus, 'a'"),
        (dataset(["a", "a"]), {}, "single stimulus, 'a'"),
        (Dataset(np.eye(3), obs_descriptors={"stimulus": [1, 2, 3]}), {}, r"1 \(int\); use str\(\)"),
        (Dataset(np.eye(2) * 1j, obs_descriptors={"stimulus": ["a", "b"]}), {}, "complex128"),
        (dataset(), {"dissimilarity": "poison"}, "dissimilarity='poison'.*correlation"),
        (dataset(), {"dissimilarity": "mahalanobis"}, "needs a noise covariance"),
        (dataset(), {"dissimilarity": "mahalanobis", "precision": np.eye(3)}, "7 x 7 matrix"),
        (
            dataset(),
            {"dissimilarity": "correlation", "precision": np.eye(7)},
            "correlation takes no precision",
        ),
        (dataset(), {"dissimilarity": "crossnobis"}, "no observation descriptor 'run'; it has 'stimulus'"),
        (runs(1), {"dissimilarity": "crossnobis"}, "a single run, 0"),
        ([dataset(subject="a"), dataset()], {}, "'subject' is missing in Dataset 1"),
    ],
)
def test_bad_input(patterns: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(patterns, **options)


def test_all_datasets_or_none_have_rois() -> None:
    with_rois, without = dataset(channels=2), dataset(channels=2)
    with_rois.channel_descriptors["roi"] = ["V1", "IT"]
    with pytest.raises(NeurordlError, match="'roi' is missing in Dataset 1, but others have it"):
        compute_rdms([with_rois, without])


@pytest.mark.parametrize("value", [["s1"], {"s1": 1}])
def test_a_list_among_names_is_refused_with_its_row(value: Any) -> None:
    data = dataset()
    data.obs_descriptors["stimulus"][2] = value
    with pytest.raises(NeurordlError, match="as 'stimulus' of observation 2"):
        compute_rdms(data)


def plain(values: Any) -> Dataset:
    return Dataset(values, obs_descriptors={"stimulus": [f"s{k}" for k in range(len(values))]})


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_precision_without_a_factor_is_exact_for_near_duplicates(n: int, offset: float) -> None:
    rng = np.random.default_rng(4)
    values = rng.standard_normal((n, 30)) + offset
    values[1] = values[0]
    values[3] = values[2] + 1e-7 * rng.standard_normal(30)
    half = rng.standard_normal((30, 40))
    precision = half @ half.T / 40
    found = compute_rdms(plain(values), "mahalanobis", precision=precision).get_matrices()[0]
    difference = values[:, None] - values[None]
    expected = np.einsum("ijk,kl,ijl->ij", difference, precision, difference) / 30
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
    assert found[0, 1] == 0
    assert found.min() == 0


def test_a_precision_with_negative_distances_is_refused() -> None:
    values = np.random.default_rng(0).standard_normal((200, 5))
    with pytest.raises(NeurordlError, match="not positive semidefinite"):
        compute_rdms(plain(values), "mahalanobis", precision=np.diag([1.0, 1, 1, 1, -1]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_poisson_of_near_duplicates(scale: float) -> None:
    rng = np.random.default_rng(4)
    values = scale * rng.gamma(2.0, 1.0, (150, 20))
    values[1] = values[0]
    values[3] = values[2] * (1 + 1e-7 * rng.standard_normal(20))
    values[5, 2] = np.nan
    found = compute_rdms(plain(values), "poisson").get_matrices()[0]
    rates = (values + 0.1) / 1.1
    left, right = rates[:, None], rates[None]
    with np.errstate(invalid="ignore"):
        expected = ((left - right) * np.log1p((left - right) / right)).mean(axis=-1)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
    assert found[0, 1] == 0


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ({"stimulus": ["a", float("nan"), "b", "c"]}, {}, "nan as 'stimulus' of observation 1"),
        ({"stimulus": ["a", None, "b", "c"]}, {}, "None as 'stimulus' of observation 1"),
        ({"stimulus": [["a"], ["b"], ["c"], ["d"]]}, {}, r"\['a'\] as 'stimulus' of observation 0"),
        (
            {"run": [1.0, 1.0, float("nan"), 2.0]},
            {"dissimilarity": "crossnobis"},
            "nan as 'run' of observation 2",
        ),
        ({}, {"dissimilarity": "mahalanobis", "precision": "x"}, "not a matrix of real numbers"),
        ({}, {"dissimilarity": "mahalanobis", "precision": [[1, 2], [3]]}, "not a matrix of real numbers"),
    ],
)
def test_names_that_are_missing_and_precisions_that_are_none(
    rows: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    values = np.random.default_rng(0).standard_normal((4, 3))
    given = Dataset(values, obs_descriptors={"stimulus": ["a", "b", "a", "b"], "run": [1, 1, 2, 2]})
    given.obs_descriptors.update(rows)
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(given, **options)


@pytest.mark.parametrize("shuffled", [False, True])
def test_runs_that_follow_one_another_are_views_and_others_are_read_in_blocks(
    shuffled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neurordl.measures.kernels import distances
    from neurordl.rdms import compute

    rng = np.random.default_rng(0)
    n, channels = 40, 30
    orders = [np.arange(n), rng.permutation(n) if shuffled else np.arange(n)]
    orders[1][[0, -1]] = orders[1][[-1, 0]] if shuffled else orders[1][[0, -1]]
    values = rng.normal(size=(2 * n, channels))
    names = [f"s{k}" for order in orders for k in order]
    data = Dataset(values, obs_descriptors={"stimulus": names, "run": [0] * n + [1] * n})
    source = Source(data, "it", by_run=True)
    assert [source.in_memory(run) for run in (0, 1)] == [True, not shuffled]
    whole = compute_rdms(data, "crossnobis").dissimilarities
    monkeypatch.setattr(compute, "_KEPT", 0)
    monkeypatch.setattr(distances, "_KEPT", 0)
    monkeypatch.setattr(distances, "_BLOCK", 8 * channels * 8)
    np.testing.assert_allclose(compute_rdms(data, "crossnobis").dissimilarities, whole, atol=1e-12)


def test_measurements_of_any_layout_are_read_and_left_alone() -> None:
    rng = np.random.default_rng(1)
    values = rng.gamma(2.0, 1.0, (12, 9))
    names = {"stimulus": [f"s{k}" for k in range(6)] * 2, "run": [0] * 6 + [1] * 6}
    backwards = values[::-1, ::-1].copy()[::-1, ::-1]
    for method in ("crossnobis", "euclidean", "correlation", "poisson"):
        plain = compute_rdms(Dataset(values.copy(), obs_descriptors=names), method).dissimilarities
        for laid_out in (backwards, np.asfortranarray(values), np.broadcast_to(values, (1, 12, 9))[0]):
            before = laid_out.copy()
            found = compute_rdms(Dataset(laid_out, obs_descriptors=names), method).dissimilarities
            np.testing.assert_allclose(found, plain, atol=1e-12)
            np.testing.assert_array_equal(laid_out, before)

    def in_place(patterns: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pdist(patterns.mul_(2))

    single = Dataset(values[:6].copy(), obs_descriptors={"stimulus": names["stimulus"][:6]})
    compute_rdms(single, in_place)
    np.testing.assert_array_equal(single.measurements, values[:6])


@pytest.mark.parametrize("method", ["mahalanobis", "crossnobis"])
def test_a_precision_that_is_not_finite_or_not_symmetric_is_refused(method: str) -> None:
    rng = np.random.default_rng(2)
    names = {"stimulus": [f"s{k}" for k in range(6)] * 2, "run": [0] * 6 + [1] * 6}
    data = Dataset(rng.normal(size=(12, 9)), obs_descriptors=names)
    for value, told in ((np.inf, "NaN or infinity"), (np.nan, "NaN or infinity"), (1e-5, "not symmetric")):
        precision = np.eye(9)
        precision[3, 4] = value
        with pytest.raises(NeurordlError, match=told):
            compute_rdms(data, method, precision=precision)
    precision[3, 4] = 1e-10  # rounding: the mean of both sides is taken
    even = precision + precision.T
    np.testing.assert_allclose(
        compute_rdms(data, method, precision=precision).dissimilarities,
        compute_rdms(data, method, precision=even / 2).dissimilarities,
        atol=1e-12,
    )


def test_nan_in_measurements_is_a_notice_of_the_dataset_its_channels_and_pairs() -> None:
    rng = np.random.default_rng(0)
    complete, broken = (
        Dataset(rng.random((4, 5)), obs_descriptors={"stimulus": list("abcd")}) for _ in range(2)
    )
    broken.measurements[1, 2] = np.nan
    with pytest.warns(UserWarning, match="pairs are NaN") as notices:
        rdms = compute_rdms({"s01": complete, "s02": broken}, "euclidean")
    assert np.isnan(rdms.dissimilarities).sum(axis=1).tolist() == [0, 3]
    (text,) = (str(notice.message) for notice in notices)
    assert text.startswith("Dataset 1 (subject s02): 3 of 6 pairs are NaN, because the measurements of ")
    remedy = "leave those channels or observations out (stimuli 'b', channels 2 from 0)"
    assert f"hold NaN or infinity in 1 of 5 channels; {remedy}" in text


def test_constant_patterns_are_a_notice() -> None:
    values = np.random.default_rng(0).random((4, 5))
    values[2] = 0.5
    patterns = Dataset(values, obs_descriptors={"stimulus": list("abcd")})
    with pytest.warns(UserWarning, match="3 of 6 pairs are NaN, because patterns are constant"):
        compute_rdms(patterns, "correlation")
