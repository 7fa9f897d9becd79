"""Models over time: a score for each time of the model and of the data, clusters in this plane."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mne.stats import permutation_cluster_1samp_test
from rsatoolbox.rdm import RDMs
from scipy import ndimage, stats

from neurordl import (
    Bootstrap,
    ClusterTest,
    NeurordlError,
    evaluate,
    latencies,
    plot_scores,
    plot_time_course,
    time_clusters,
)
from neurordl.rsa.scores import Evaluation
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(10)]
PAIRS = 45
STEPS = np.array([0.0, 0.1, 0.25])
TIMES = np.array([-0.1, 0.0, 0.1, 0.2, 0.3])
N = 9


def rdms(vectors: Any, **descriptors: Any) -> RDMs:
    return RDMs(vectors, "correlation", rdm_descriptors=descriptors, pattern_descriptors={"stimulus": IDS})


def steps(seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((len(STEPS), PAIRS))


def measured() -> Any:
    """(subjects, times, pairs): the first step at .1 s, the second at .2 s, the third at .3 s."""
    data = np.random.default_rng(5).normal(size=(N, len(TIMES), PAIRS)) / 3
    data[:, 2:] += steps()
    return data


def people() -> RDMs:
    """Subjects and times in random order."""
    subject, time = (x.ravel() for x in np.meshgrid(np.arange(N), np.arange(len(TIMES)), indexing="ij"))
    order = np.random.default_rng(1).permutation(len(subject))
    vectors = measured().reshape(-1, PAIRS)[order]
    return rdms(vectors, subject=[f"p{k}" for k in subject[order]], time=TIMES[time[order]].tolist())


def model(seed: int = 0) -> RDMs:
    order = [2, 0, 1]
    return rdms(steps(seed)[order], time=STEPS[order].tolist())


@pytest.fixture(scope="module")
def scores() -> Evaluation:
    return evaluate({"net": model(), "other": model(7)}, people(), comparison="spearman")


def plane(scores: Evaluation, layer: str, subject: str) -> Any:
    frame = scores.frame[(scores.frame["layer"] == layer) & (scores.frame["subject"] == subject)]
    return frame.pivot(index="model_time", columns="time", values="score").to_numpy()


@pytest.mark.parametrize(("layer", "seed"), [("net", 0), ("other", 7)])
def test_scores_are_those_of_a_loop_over_both_times(scores: Evaluation, layer: str, seed: int) -> None:
    for k in range(N):
        expected = [[stats.spearmanr(step, row)[0] for row in measured()[k]] for step in steps(seed)]
        np.testing.assert_allclose(plane(scores, layer, f"p{k}"), expected, atol=1e-12)
    means = np.mean([plane(scores, layer, f"p{k}") for k in range(N)], axis=0)
    np.testing.assert_allclose(plane(scores, layer, "mean"), means, atol=1e-12)
    assert list(scores.frame)[:4] == ["layer", "roi", "model_time", "time"]


@pytest.mark.parametrize("bootstrap", [None, Bootstrap("both", n=112)])
def test_each_model_time_is_scored_as_it_is_alone(bootstrap: Any) -> None:
    whole = evaluate({"net": model()}, people(), comparison="corr", bootstrap=bootstrap)
    for row, time in enumerate(STEPS):
        alone = evaluate({"net": rdms(steps()[[row]])}, people(), comparison="corr", bootstrap=bootstrap)
        part = whole.frame[whole.frame["model_time"] == time].reset_index(drop=True)
        columns = [
            "layer",
            "time",
            "subject",
            "score",
            "ci_low",
            "ci_high",
            "p",
            "ceiling_lower",
            "p_ceiling",
        ]
        pd.testing.assert_frame_equal(part[columns], alone.frame[columns])


def test_differences_are_at_the_same_time_of_both_models(scores: Evaluation) -> None:
    table = scores.differences
    assert len(table) == len(STEPS) * len(TIMES)
    assert set(table["layer_a"]) == {"net"}
    assert set(table["layer_b"]) == {"other"}
    means = plane(scores, "net", "mean") - plane(scores, "other", "mean")
    found = table.pivot(index="model_time", columns="time", values="difference")
    np.testing.assert_allclose(found.to_numpy(), means, atol=1e-12)
    assert scores.bayes_factors()["bf10"].notna().all()


def test_clusters_in_the_plane_are_those_of_mne(scores: Evaluation) -> None:
    data = np.stack([plane(scores, "net", f"p{k}") for k in range(N)])
    table = time_clusters(scores, ClusterTest(n_permutations=200, seed=3))
    limit = stats.t.isf(0.05, N - 1)
    t, clusters, p, _ = permutation_cluster_1samp_test(
        data, threshold=limit, tail=1, n_permutations=200, out_type="mask", rng=3, verbose="ERROR"
    )
    mine = table[table["layer"] == "net"]
    assert len(mine) == len(clusters) == ndimage.label(t > limit)[1]
    for mask, value in zip(clusters, p, strict=True):
        row = next(row for row in mine.to_dict("records") if np.array_equal(row["inside"], mask))
        assert row["p"] == pytest.approx(value)
        assert row["n_times"] == mask.sum()
        assert row["statistic"] == pytest.approx(t[mask].sum())
        in_model, in_data = STEPS[mask.any(axis=1)], TIMES[mask.any(axis=0)]
        assert (row["model_start"], row["model_stop"]) == (in_model.min(), in_model.max())
        assert (row["start"], row["stop"]) == (in_data.min(), in_data.max())
    significant = mine[mine["p_holm"] < 0.05]
    assert len(significant) > 0
    assert all(row["inside"][[0, 1, 2], [2, 3, 4]].any() for row in significant.to_dict("records"))


def test_tfce_and_differences_in_the_plane(scores: Evaluation) -> None:
    table = time_clusters(scores, ClusterTest("tfce", n_permutations=200))
    net = table[table["layer"] == "net"]
    assert sum(net["n_times"]) == sum(mask.sum() for mask in net["inside"])
    assert np.any(list(net["inside"]), axis=0)[[0, 1, 2], [2, 3, 4]].all()
    table = time_clusters(scores, ClusterTest(tail="two-sided"), difference=("net", "other"))
    assert set(table["layer"]) <= {"net − other"}
    with pytest.raises(NeurordlError, match="over model times and times"):
        latencies(scores)


def test_models_over_time_and_data_without_time(tmp_path: Path) -> None:
    flat = rdms(measured()[:, 3], subject=[f"p{k}" for k in range(N)])
    scores = evaluate({"net": model()}, flat, comparison="corr")
    expected = [stats.pearsonr(step, measured()[0, 3])[0] for step in steps()]
    frame = scores.frame[scores.frame["subject"] == "p0"]
    np.testing.assert_allclose(frame["score"], expected)
    assert "time" not in frame
    clusters = time_clusters(scores)
    assert (clusters["start"].item(), clusters["stop"].item()) == (0.0, 0.1)  # times of the model
    assert latencies(scores)["peak"].item() == 0.1
    ax = plot_time_course(scores, clusters=clusters)
    assert ax.get_xlabel() == "time of the model (s)"
    scores.save(tmp_path / "scores")
    assert "model_time" in pd.read_csv(tmp_path / "scores" / "scores.csv")
    scores.to_html(tmp_path / "scores.html")


def test_printing_and_reports_name_both_times(scores: Evaluation, tmp_path: Path) -> None:
    assert "3 model times and 5 times, shown is the highest mean of each layer" in scores.title
    assert "3 model times, 5 times" in repr(scores)
    assert str(scores).count(" net ") == 1
    text = scores.to_html(tmp_path / "scores.html").read_text()
    assert "model time × time (s)" in text
    with pytest.raises(NeurordlError, match=r"draw it with plots\.plot_model_time"):
        plot_scores(scores)
    with pytest.raises(NeurordlError, match=r"draw them with plots\.plot_model_time"):
        plot_time_course(scores)
    assert scores.correct("layer").frame["family"].iloc[N] == "15 tests of the layer in a ROI"


def test_names_come_from_descriptors_and_are_chosen() -> None:
    names = ["a", "b", "a", "b"]
    models = rdms(np.random.default_rng(0).random((4, PAIRS)), layer=names, time=[0.1, 0.1, 0.2, 0.3])
    frame = evaluate(models, people(), comparison="corr").frame
    assert frame.groupby("layer")["model_time"].unique().map(list).to_dict() == {
        "a": [0.1, 0.2],
        "b": [0.1, 0.3],
    }
    assert set(evaluate(models, people(), layers="b", comparison="corr").frame["layer"]) == {"b"}
    alone = evaluate(rdms(steps(), time=STEPS.tolist()), people(), comparison="corr").frame
    assert set(alone["layer"]) == {""}
    single = evaluate({"a": rdms(steps()[:1], time=[0.1])}, people(), comparison="corr").frame
    assert "model_time" not in single


def test_bad_models_over_time(scores: Evaluation) -> None:
    with pytest.raises(NeurordlError, match=r"two RDMs at 0\.1 s"):
        evaluate({"a": rdms(steps(), time=[0.1, 0.1, 0.2])}, people())
    with pytest.raises(NeurordlError, match="model 'b' has 1 RDM without times"):
        evaluate({"a": model(), "b": rdms(steps()[:1])}, people())
    with pytest.raises(NeurordlError, match="model 'b' has 3 RDMs without times"):
        evaluate({"b": rdms(steps())}, people())
    with pytest.raises(NeurordlError, match="NaN or infinity"):
        evaluate({"a": rdms(steps(), time=[0.1, np.nan, 0.2])}, people())
    with pytest.raises(NeurordlError, match="no model RDM is named 'z'"):
        evaluate({"a": model()}, people(), layers="z")
    different = evaluate({"a": model(), "b": model()[[0, 1]]}, people(), comparison="corr")
    with pytest.raises(NeurordlError, match="other model times"):
        time_clusters(different, difference=("a", "b"))
    undefined = evaluate(
        {"a": rdms(np.vstack([steps()[:2], np.ones((1, PAIRS))]), time=STEPS.tolist())},
        people(),
        comparison="corr",
    )
    with pytest.raises(NeurordlError, match=r"times 0.25 s x -0.1 s, 0.25 s x 0 s"):
        time_clusters(undefined)


def test_random_models_have_no_clusters() -> None:
    """Of 60 null studies, the cluster test finds clusters in 5 %, up to chance."""
    rng, hits = np.random.default_rng(0), 0
    for seed in range(60):
        noise = random_rdms(
            IDS, seed=seed, subject=[f"p{k % 8}" for k in range(32)], time=np.repeat(TIMES[:4], 8).tolist()
        )
        found = evaluate({"net": rdms(rng.random((3, PAIRS)), time=STEPS.tolist())}, noise, comparison="corr")
        hits += bool((time_clusters(found, ClusterTest(n_permutations=100, seed=seed))["p"] < 0.05).any())
    assert hits <= 6
