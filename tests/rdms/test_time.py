"""RDMs over time: compute_rdms of TemporalDatasets against rsatoolbox and plain loops; windows; bad input."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm import calc_rdm_movie

import neurordl.rdms.source
from neurordl import (
    Dissimilarity,
    NeurordlError,
    Noise,
    PatternTeacher,
    Windows,
    compute_rdms,
    load_rdms,
    rdms_over_time,
)
from neurordl.measures.dissimilarities import DISSIMILARITIES

IDS = ["s10", "s2", "s1", "cat", "Ant"]
TIMES = np.arange(12) / 100 - 0.04


def epochs(n_runs: int = 3, ids: list[str] = IDS, seed: int = 0, **descriptors: Any) -> TemporalDataset:
    """Trials in random order, a trial of each stimulus in each run, positive as rates are."""
    rng = np.random.default_rng(seed)
    rows = [(stimulus, run) for run in range(n_runs) for stimulus in ids]
    rows = [rows[k] for k in rng.permutation(len(rows))]
    return TemporalDataset(
        rng.gamma(2.0, size=(len(rows), 6, 12)),
        descriptors=descriptors,
        obs_descriptors={"stimulus": [s for s, _ in rows], "run": [r for _, r in rows]},
        channel_descriptors={"channel": [f"MEG{k}" for k in range(6)]},
        time_descriptors={"time": TIMES.tolist()},
    )


def at(data: TemporalDataset, samples: slice | int, average: bool = True) -> Dataset:
    """The same in a window, as a Dataset."""
    values = np.atleast_3d(data.measurements[:, :, samples])
    values = values.mean(axis=2) if average else values.reshape(len(values), -1)
    return Dataset(
        values,
        obs_descriptors=data.obs_descriptors,
        channel_descriptors={"channel": list(range(values.shape[1]))},
    )


def precision(n: int = 6) -> Any:
    half = np.random.default_rng(3).standard_normal((n, 2 * n))
    return half @ half.T


@pytest.mark.parametrize("blocks", [1, 1 << 24], ids=["a window at a time", "all at once"])
@pytest.mark.parametrize("name", sorted(DISSIMILARITIES))
def test_each_window_is_the_rdm_of_its_mean(name: str, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurordl.rdms.source, "_WINDOWS_AT_ONCE", blocks)
    data, measure = epochs(), DISSIMILARITIES[name]
    options: dict[str, Any] = {} if measure.precision == "none" else {"precision": precision()}
    center = None if measure.rates else "run"
    rdms = compute_rdms(
        data, name, windows=Windows(-0.03, 0.07, width=0.03, step=0.02), center=center, **options
    )
    assert rdms.rdm_descriptors["time"] == pytest.approx([-0.02, 0.0, 0.02, 0.04, 0.06])
    for k, rdm in enumerate(rdms.dissimilarities):
        start = 1 + 2 * k
        alone = compute_rdms(at(data, slice(start, start + 3)), name, center=center, **options)
        np.testing.assert_allclose(rdm, alone.dissimilarities[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["euclidean", "correlation", "mahalanobis", "crossnobis"])
def test_equals_the_movie_of_rsatoolbox(method: str) -> None:
    data, noise = epochs(), precision() if method in ("mahalanobis", "crossnobis") else None
    movie = calc_rdm_movie(data, method=method, descriptor="stimulus", noise=noise, cv_descriptor="run")
    ours = compute_rdms(data, method, precision=noise)
    order = [
        list(movie.pattern_descriptors["stimulus"]).index(s) for s in ours.pattern_descriptors["stimulus"]
    ]
    i, j = np.triu_indices(len(order), 1)
    expected = movie.get_matrices()[:, order][:, :, order][:, i, j]
    np.testing.assert_allclose(ours.dissimilarities, expected, atol=1e-10)
    np.testing.assert_allclose(ours.rdm_descriptors["time"], movie.rdm_descriptors["time"])


@pytest.mark.parametrize("method", ["euclidean", "correlation", "mahalanobis", "crossnobis", "poisson"])
def test_all_samples_of_a_window_as_the_pattern(method: str) -> None:
    data = epochs()
    whitened = method in ("mahalanobis", "crossnobis")
    rdms = compute_rdms(
        data, method, windows=Windows(width=0.04, average=False), precision=precision() if whitened else None
    )
    every = np.kron(precision(), np.eye(4)) if whitened else None  # the same at each sample
    for k, rdm in enumerate(rdms.dissimilarities):
        alone = compute_rdms(at(data, slice(4 * k, 4 * k + 4), average=False), method, precision=every)
        np.testing.assert_allclose(rdm, alone.dissimilarities[0], atol=1e-9)


@pytest.mark.parametrize("method", ["correlation", "crossnobis"])
@pytest.mark.parametrize("estimator", ["diagonal", "shrinkage_diag"])
def test_noise_of_the_baseline_is_the_mean_over_its_samples(method: str, estimator: Any) -> None:
    data = epochs(n_runs=4)
    covariances = []
    for k in range(5):  # -0.04 to 0
        values, names = data.measurements[:, :, k], np.array(data.obs_descriptors["stimulus"])
        rows = np.concatenate([values[names == s] - values[names == s].mean(axis=0) for s in IDS])
        shape = neurordl.rdms.compute.covariance(rows, len(rows) - len(IDS), estimator, "x")
        covariances.append(shape)
    expected = compute_rdms(data, method, noise=np.mean(covariances, axis=0))
    ours = compute_rdms(data, method, noise=Noise(estimator, times=(-0.04, 0.0)))
    np.testing.assert_allclose(ours.dissimilarities, expected.dissimilarities, atol=1e-10)
    baseline = TemporalDataset(data.measurements[:, :, :5], time_descriptors={"time": TIMES[:5].tolist()})
    plain = [np.cov(baseline.measurements[:, :, k].T) for k in range(5)]
    expected = compute_rdms(data, method, noise=np.mean(plain, axis=0))
    ours = compute_rdms(data, method, noise=Noise("full", baseline))
    np.testing.assert_allclose(ours.dissimilarities, expected.dissimilarities, atol=1e-10)


def test_a_covariance_is_matched_by_the_names_of_channels() -> None:
    data, matrix = epochs(), np.cov(np.random.default_rng(5).normal(size=(6, 30)))
    order = [3, 1, 0, 5, 4, 2]
    names = [f"MEG{k}" for k in order]
    named = SimpleNamespace(ch_names=[*names, "MEG9"], data=np.pad(matrix[np.ix_(order, order)], (0, 1)))
    by_name, by_order = (compute_rdms(data, "correlation", noise=noise) for noise in (named, matrix))
    np.testing.assert_allclose(by_name.dissimilarities, by_order.dissimilarities, atol=1e-12)
    inverse = compute_rdms(data, "crossnobis", precision=np.linalg.inv(matrix))
    np.testing.assert_allclose(
        compute_rdms(data, "crossnobis", noise=matrix).dissimilarities, inverse.dissimilarities, atol=1e-10
    )
    named.ch_names[0] = "MEG3 "
    with pytest.raises(NeurordlError, match="MEG3"):
        compute_rdms(data, "correlation", noise=named)


def test_a_covariance_without_full_rank_whitens_within_it() -> None:
    data = epochs()
    data.measurements -= data.measurements.mean(axis=1, keepdims=True)  # an average reference
    matrix = np.cov(np.random.default_rng(5).normal(size=(6, 30)))
    referenced = (np.eye(6) - 1 / 6) @ matrix @ (np.eye(6) - 1 / 6)
    with pytest.warns(UserWarning, match="rank 5 of 6 channels"):
        ours = compute_rdms(data, "mahalanobis", noise=referenced)
    theirs = compute_rdms(data, "mahalanobis", precision=np.linalg.pinv(referenced))
    np.testing.assert_allclose(ours.dissimilarities, theirs.dissimilarities, atol=1e-9)


def test_subjects_rois_and_missing_stimuli() -> None:
    first, second = epochs(subject="a"), epochs(ids=IDS[:-1], seed=1, subject="b")
    for data in (first, second):
        data.channel_descriptors["roi"] = np.array(["left", "left", "left", "right", "right", "right"])
    with pytest.warns(UserWarning, match="Ant"):
        rdms = compute_rdms([first, second], "euclidean", windows=Windows(width=0.06))
    keys = zip(*(rdms.rdm_descriptors[name] for name in ("subject", "roi", "time")), strict=True)
    assert [(s, r, round(t, 3)) for s, r, t in keys] == [
        (s, r, t) for s in "ab" for r in ("left", "right") for t in (-0.015, 0.045)
    ]
    alone = Dataset(first.measurements[:, 3:, 6:].mean(axis=2), obs_descriptors=first.obs_descriptors)
    np.testing.assert_allclose(rdms.dissimilarities[3], compute_rdms(alone, "euclidean").dissimilarities[0])
    assert np.isnan(rdms.dissimilarities[4:]).sum() == 4 * 4


def test_nan_and_constant_patterns_stay_in_their_time() -> None:
    data = epochs(n_runs=1)
    data.measurements[2, 1, 5] = np.nan
    data.measurements[3, :, 7] = 2.0
    with pytest.warns(UserWarning, match="1 of 6 channels"):
        rdms = compute_rdms(data, "correlation")
    undefined = np.isnan(rdms.dissimilarities).sum(axis=1)
    assert undefined.tolist() == [0, 0, 0, 0, 0, 4, 0, 4, 0, 0, 0, 0]


def test_unbalanced_runs_and_a_function_of_one_window() -> None:
    data = epochs()
    part = np.arange(len(data.measurements)) != 4
    holes = TemporalDataset(
        data.measurements[part],
        obs_descriptors={k: np.asarray(v)[part].tolist() for k, v in data.obs_descriptors.items()},
        time_descriptors={"time": TIMES},
    )
    with pytest.warns(UserWarning, match="runs lack some stimuli"):
        rdms = compute_rdms(holes, "crossnobis", precision=precision())
    alone = compute_rdms(at(holes, 7), "crossnobis", precision=precision())
    np.testing.assert_allclose(rdms.dissimilarities[7], alone.dissimilarities[0], atol=1e-12)

    def city_block(patterns: torch.Tensor) -> torch.Tensor:
        assert patterns.ndim == 2
        return torch.nn.functional.pdist(patterns, p=1.0)

    rdms = compute_rdms(data, Dissimilarity("city_block", city_block))
    alone = compute_rdms(at(data, 7), Dissimilarity("city_block", city_block))
    np.testing.assert_allclose(rdms.dissimilarities[7], alone.dissimilarities[0])


def test_a_memory_map_and_a_file_of_the_result(tmp_path: Path) -> None:
    data = epochs()
    np.save(tmp_path / "epochs.npy", data.measurements)
    mapped = epochs()
    mapped.measurements = np.load(tmp_path / "epochs.npy", mmap_mode="r")
    rdms = compute_rdms(mapped, "crossnobis", out=tmp_path / "rdms.npy", windows=Windows(width=0.02))
    expected = compute_rdms(data, "crossnobis", windows=Windows(width=0.02))
    np.testing.assert_array_equal(np.load(tmp_path / "rdms.npy"), expected.dissimilarities)
    assert '"width": 0.02' in rdms.descriptors["provenance"]


def test_widths_are_whole_samples_and_the_rest_is_said() -> None:
    data = epochs()
    with pytest.warns(UserWarning, match=r"0.025 s of a window or step are rounded to 2 samples, 0.02 s"):
        rdms = compute_rdms(data, windows=Windows(width=0.025))
    assert len(rdms) == 6
    with pytest.warns(UserWarning, match="the last 2 of 12 samples fill no window"):
        assert len(compute_rdms(data, windows=Windows(width=0.05))) == 2


@pytest.mark.parametrize(
    "windows, message",
    [
        (lambda: Windows(step=0.1), "no width="),
        (lambda: Windows(0.3, 0.1), "stop=0.1 is before start=0.3"),
        (lambda: Windows(width=0.0), "width=0.0"),
        (lambda: Windows(width=0.001), "shorter than the interval"),
        (lambda: Windows(width=0.5), "longer than the 12 samples"),
        (lambda: Windows(80, 120), "start=80 is outside of the times"),
        (lambda: Windows(0.001, 0.009), "no sample"),
    ],
)
def test_windows_that_do_not_fit(windows: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(epochs(), windows=windows())


@pytest.mark.parametrize(
    "times, message",
    [
        (TIMES[:-1], "11 times for measurements of shape"),
        (np.zeros(12), "must increase"),
        (np.append(TIMES[:-1], np.nan), "must increase"),
        (["a"] * 12, "no numbers"),
    ],
)
def test_times_that_do_not_fit(times: Any, message: str) -> None:
    data = epochs()
    data.time_descriptors["time"] = times
    with pytest.raises(NeurordlError, match=message):
        compute_rdms(data)


def test_other_bad_input() -> None:
    data, uneven = epochs(), epochs()
    uneven.time_descriptors["time"] = TIMES**3
    with pytest.raises(NeurordlError, match="not equally far apart"):
        compute_rdms(uneven, windows=Windows(width=1e-4))
    assert len(compute_rdms(uneven)) == 12
    with pytest.raises(NeurordlError, match="has no times"):
        compute_rdms(at(data, 3), windows=Windows())
    with pytest.raises(NeurordlError, match="has no times"):
        compute_rdms(at(data, 3), noise=Noise("diagonal", times=(0, 1)))
    with pytest.raises(NeurordlError, match="a covariance, which needs no"):
        Noise(np.eye(6), times=(0, 1))
    with pytest.raises(NeurordlError, match=r"noise= has the shape \(5, 5\), for 6 channels"):
        compute_rdms(data, noise=np.eye(5))
    with pytest.raises(NeurordlError, match="has a single run"):
        compute_rdms(epochs(n_runs=1), "crossnobis")
    with pytest.raises(NeurordlError, match="is missing in Dataset 1"):
        compute_rdms([data, at(data, 3)])
    with pytest.raises(NeurordlError, match="no observation descriptor 'stimulus'"):
        compute_rdms(TemporalDataset(data.measurements))


def movies(n_subjects: int = 3, n_times: int = 4, n: int = 5) -> Any:
    values = np.random.default_rng(0).random((n_subjects, n_times, n, n))
    return (values + values.swapaxes(2, 3)) * (1 - np.eye(n))


def stored(array: Any, folder: Path, suffix: str, **more: Any) -> Path:
    path = folder / f"movie{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez(path, rdms=array, **more)
    elif suffix == ".mat":
        scipy.io.savemat(path, {"rdms": array, **more})
    else:
        with h5py.File(path, "w") as file:
            for name, value in {"rdms": array, **more}.items():
                file[name] = value
    return path


@pytest.mark.parametrize("layout", ["square", "condensed", "MATLAB", "times first", "one subject"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
def test_files_of_subjects_and_times(layout: str, suffix: str, tmp_path: Path) -> None:
    values, times, names = movies(), [0.0, 0.1, 0.2, 0.3], ["a", "b", "c"]
    i, j = np.triu_indices(5, 1)
    array = {
        "square": values,
        "condensed": values[:, :, i, j],
        "MATLAB": values.transpose(2, 3, 1, 0),
        "times first": values.swapaxes(0, 1),
        "one subject": values[0],
    }[layout]
    names = names[: 1 if layout == "one subject" else 3]
    path = stored(array, tmp_path, suffix)
    rdms = rdms_over_time(path, times, ids=IDS, subjects=names, measure="crossnobis")
    np.testing.assert_array_equal(rdms.dissimilarities, values[: len(names)][..., i, j].reshape(-1, 10))
    assert rdms.rdm_descriptors["subject"] == [name for name in names for _ in times]
    assert rdms.rdm_descriptors["time"] == times * len(names)


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_times_that_a_file_stores(suffix: str, tmp_path: Path) -> None:
    path = stored(movies(), tmp_path, suffix, times=np.arange(4) / 10, stimulus=IDS)
    with pytest.warns(UserWarning, match="numbered 1 to 3"):
        rdms = rdms_over_time(path)
    assert rdms.rdm_descriptors["time"][:4] == [0.0, 0.1, 0.2, 0.3]
    assert rdms.rdm_descriptors["subject"][3:5] == ["1", "2"]
    path = stored(movies()[0], tmp_path, suffix, times=np.arange(4) / 10, stimulus=IDS)
    assert load_rdms(path, subjects="a").rdm_descriptors["time"] == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "values, options, message",
    [
        (movies(), {"times": [0, 1, 2]}, "no axis fits"),
        (
            movies(4, 4),
            {"times": [0, 1, 2, 3], "subjects": list("abcd")},
            "either axis may be that of the times; give the RDMs of one subject",
        ),
        (movies(5, 5), {"times": range(5), "subjects": list("abcde")}, "may be the stimuli"),
        (movies(4, 4), {"times": range(4), "ids": None}, "may be the stimuli"),
        (movies(), {"times": range(4), "subjects": ["a", "b"]}, "no axis fits"),
        (movies(), {"times": [0, 2, 1, 3], "subjects": list("abc")}, "increase"),
        (movies(), {"subjects": list("abc")}, "no times"),
        (movies(), {"times": range(4), "subjects": list("aab")}, "subject a"),
        (movies() + np.tri(5, k=-1), {"times": range(4), "subjects": list("abc")}, "symmetric"),
        ("movie.pkl", {}, "unpickling"),
        ("movie.npy", {}, "no RDM file"),
    ],
)
def test_movies_that_cannot_be_read(values: Any, options: Any, message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        rdms_over_time(values, **{"ids": IDS, **options})


def test_loading_a_movie_without_times_says_how(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="rdms_over_time"):
        load_rdms(stored(movies(), tmp_path, ".npy"))


def test_noise_by_run_is_averaged_over_samples() -> None:
    data = epochs(n_runs=3)
    residuals = TemporalDataset(
        np.random.default_rng(7).normal(size=(60, 6, 2)),
        obs_descriptors={"run": [k % 3 for k in range(60)]},
        time_descriptors={"time": [0.0, 0.01]},
    )
    rdms = compute_rdms(data, "crossnobis", noise=Noise("full", residuals, by="run"))
    runs = [residuals.measurements[k::3] for k in range(3)]
    covariances = [np.mean([np.cov(run[:, :, k].T) for k in (0, 1)], axis=0) for run in runs]
    names, of_run = np.array(data.obs_descriptors["stimulus"]), np.array(data.obs_descriptors["run"])
    cells = {(s, r): data.measurements[(names == s) & (of_run == r)][0, :, 9] for s in IDS for r in range(3)}
    expected = []
    for s in range(5):
        for t in range(s + 1, 5):
            a, b = (rdms.pattern_descriptors["stimulus"][k] for k in (s, t))
            total = 0.0
            for first, second in ((0, 1), (0, 2), (1, 2)):
                inverse = np.linalg.inv((covariances[first] + covariances[second]) / 2)
                total += (cells[a, first] - cells[b, first]) @ inverse @ (cells[a, second] - cells[b, second])
            expected.append(total / 3 / 6)
    np.testing.assert_allclose(rdms.dissimilarities[9], expected, rtol=1e-9)


def test_measurements_over_time_where_patterns_are_needed_say_how() -> None:
    with pytest.raises(NeurordlError, match="make a Dataset of the mean of a window of times"):
        PatternTeacher({"s1": epochs()})
