"""Scores over time: evaluate at each time, families, clusters of times, onsets and peaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mne.stats import permutation_cluster_1samp_test
from rsatoolbox.rdm import RDMs
from scipy import stats

from neurordl import (
    ClusterTest,
    NeurordlError,
    evaluate,
    latencies,
    rdms_over_time,
    select_rdms,
    time_clusters,
)
from neurordl.report import read_origin, write_report
from neurordl.rsa.scores import Evaluation
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(12)]
TIMES = np.round(np.arange(20) / 50 - 0.1, 3)
ONSET = 0.1


def models() -> RDMs:
    return random_rdms(IDS, seed=3, name=["first", "second"])


def measured(n_subjects: int = 12, gain: float = 0.5, seed: int = 0, roi: str | None = None) -> RDMs:
    """Subjects whose RDMs hold the first model from the onset on; subjects and times in random order."""
    rng = np.random.default_rng(seed)
    subject, time = (x.ravel() for x in np.meshgrid(np.arange(n_subjects), np.arange(20), indexing="ij"))
    vectors = rng.random((len(subject), 66))
    vectors += gain * (TIMES[time] >= ONSET)[:, None] * models().dissimilarities[0]
    order = rng.permutation(len(subject))
    descriptors: dict[str, list[Any]] = {
        "subject": [f"p{k}" for k in subject[order]],
        "time": TIMES[time[order]].tolist(),
    }
    if roi is not None:
        descriptors["roi"] = [roi] * len(order)
    return RDMs(
        vectors[order], "correlation", rdm_descriptors=descriptors, pattern_descriptors={"stimulus": IDS}
    )


@pytest.fixture(scope="module")
def scores() -> Evaluation:
    return evaluate(models(), measured(), comparison="corr")


def course(scores: Evaluation, layer: str) -> Any:
    frame = scores.frame[(scores.frame["layer"] == layer) & (scores.frame["subject"] != "mean")]
    table = frame.pivot(index="subject", columns="time", values="score")
    return table.loc[[f"p{k}" for k in range(12)]].to_numpy()


@pytest.mark.parametrize("bootstrap", [None, "stimuli"])
def test_each_time_is_scored_as_it_is_alone(bootstrap: Any) -> None:
    rdms = measured()
    scores = evaluate(models(), rdms, comparison="rho-a", bootstrap=bootstrap)
    for time in (TIMES[0], TIMES[12]):
        chosen = select_rdms(rdms, select={"time": time})
        del chosen.rdm_descriptors["time"]
        alone = evaluate(models(), chosen, comparison="rho-a", bootstrap=bootstrap)
        part = scores.frame[scores.frame["time"] == time].set_index(["layer", "subject"])
        whole = alone.frame.set_index(["layer", "subject"]).loc[part.index]
        tested = [
            "score",
            "ci_low",
            "ci_high",
            "p",
            "ceiling_lower",
            "ceiling_upper",
            "p_ceiling",
            "n_subjects",
        ]
        pd.testing.assert_frame_equal(part[tested], whole[tested])
        differences = scores.differences[scores.differences["time"] == time]
        np.testing.assert_allclose(differences["p"], alone.differences["p"])
        key = f"{time:g} s"
        np.testing.assert_allclose(scores.inferences[key].ceiling, alone.inferences[""].ceiling)
        np.testing.assert_allclose(scores.means[key], alone.means[""])


def test_the_table_is_by_time_and_times_are_no_subjects(scores: Evaluation) -> None:
    frame = scores.to_frame()
    assert list(frame.columns[:4]) == ["layer", "roi", "time", "subject"]
    assert len(frame) == 20 * 2 * 13
    assert frame["time"].is_monotonic_increasing
    assert (frame.loc[frame["subject"] == "mean", "n_subjects"] == 12).all()
    assert "20 times" in repr(scores)
    assert str(scores).count("\n") < 12
    assert "highest mean of each layer" in scores.title
    group = scores.group_rows()
    assert len(group) == 40
    assert set(group["time"]) == set(TIMES)


def test_families_over_time(scores: Evaluation) -> None:
    sizes = {"table": 40, "roi": 40, "layer": 20}
    for family, n in sizes.items():
        table = scores.correct(family).frame  # type: ignore[arg-type]
        means = table[table["subject"] == "mean"]
        assert set(means["family"].str.split().str[0]) == {str(n)}
        first = means[means["layer"] == "first"]
        if family == "layer":
            np.testing.assert_allclose(first["p_fdr"], stats.false_discovery_control(first["p"]))
    differences = scores.correct("layer").differences
    np.testing.assert_allclose(differences["p_fdr"], stats.false_discovery_control(differences["p"]))


def test_saved_and_converted(scores: Evaluation, tmp_path: Path) -> None:
    scores.save(tmp_path)
    table = pd.read_csv(tmp_path / "scores.csv")
    np.testing.assert_allclose(table["time"], scores.frame["time"])
    assert scores.to_rsatoolbox("0.1 s").evaluations.shape == (1, 2, 12)
    with pytest.raises(NeurordlError, match=r"'0.1 s'"):
        scores.to_rsatoolbox()


def test_rois_and_times() -> None:
    both = [measured(roi="IT"), measured(roi="EVC", seed=1)]
    rdms = RDMs(
        np.concatenate([part.dissimilarities for part in both]),
        rdm_descriptors={
            k: both[0].rdm_descriptors[k] + both[1].rdm_descriptors[k] for k in ("subject", "time", "roi")
        },
        pattern_descriptors={"stimulus": IDS},
    )
    scores = evaluate(models(), rdms, comparison="corr")
    assert list(scores.inferences)[:2] == ["IT, -0.1 s", "IT, -0.08 s"]
    assert scores.frame.groupby("roi").size().tolist() == [520, 520]
    clusters = time_clusters(scores)
    assert set(zip(clusters["layer"], clusters["roi"], strict=True)) >= {("first", "IT"), ("first", "EVC")}


def test_bad_times() -> None:
    rdms = measured()
    rdms.rdm_descriptors["time"] = ["early"] * rdms.n_rdm
    with pytest.raises(NeurordlError, match="other values than numbers"):
        evaluate(models(), rdms)
    rdms.rdm_descriptors["time"] = [0.1] * rdms.n_rdm
    with pytest.raises(NeurordlError, match=r"the RDMs at 0.1 s: expected one RDM per subject"):
        evaluate(models(), rdms)
    rdms = measured()
    keep = [k for k in range(rdms.n_rdm) if k != rdms.rdm_descriptors["subject"].index("p3")]
    part = RDMs(
        rdms.dissimilarities[keep],
        rdm_descriptors={name: [x[k] for k in keep] for name, x in rdms.rdm_descriptors.items()},
        pattern_descriptors={"stimulus": IDS},
    )
    with pytest.warns(UserWarning, match="1 of 20 times are not those of all 12 subjects"):
        scores = evaluate(models(), part)
    assert sorted(scores.frame.loc[scores.frame["subject"] == "mean", "n_subjects"].unique()) == [11, 12]
    assert set(time_clusters(scores)["n_subjects"]) == {11}


# clusters


@pytest.mark.parametrize("tail", ["greater", "two-sided"])
def test_clusters_are_those_of_mne(scores: Evaluation, tail: Any) -> None:
    test = ClusterTest(tail=tail, seed=4, n_permutations=500)
    ours = time_clusters(scores, test)
    for layer in ("first", "second"):
        x = course(scores, layer)
        threshold = stats.t.isf(0.05 / (1 if tail == "greater" else 2), len(x) - 1)
        t, clusters, p, _ = permutation_cluster_1samp_test(
            x, threshold, 500, tail=int(tail == "greater"), rng=4, out_type="indices", verbose="ERROR"
        )
        part = ours[ours["layer"] == layer].reset_index(drop=True)
        order = np.argsort([c[0][0] for c in clusters])
        np.testing.assert_allclose(part["p"], p[order])
        np.testing.assert_allclose(part["statistic"], [t[clusters[k][0]].sum() for k in order])
        np.testing.assert_allclose(part["start"], [TIMES[clusters[k][0][0]] for k in order])
        np.testing.assert_allclose(part["stop"], [TIMES[clusters[k][0][-1]] for k in order])


def test_too_few_subjects_for_a_correction_are_said() -> None:
    six = random_rdms(IDS, seed=3, name=list("abcdef"))
    message = (
        r"7 subjects have 128 sign flips, so that no p is below 0.0156, and no p_holm of 6 layers .* 0.0938"
    )
    with pytest.warns(UserWarning, match=message):
        clusters = time_clusters(evaluate(six, measured(7), comparison="corr"))
    assert clusters["p_holm"].min() >= 0.09375


def test_few_subjects_are_said_once() -> None:
    with pytest.warns(UserWarning, match="nothing can be significant") as notices:
        time_clusters(evaluate(models(), measured(3), comparison="corr"))
    assert sum("sign flips" in str(notice.message) for notice in notices) == 1


def test_the_true_times_are_a_cluster(scores: Evaluation) -> None:
    clusters = time_clusters(scores)
    best = clusters.loc[clusters["p"].idxmin()]
    assert best["layer"] == "first"
    assert abs(best["start"] - ONSET) <= 0.021
    assert best["stop"] == TIMES[-1]
    assert best["p"] < 0.01
    # Holm over two courses: twice the smallest p of the first course
    assert best["p_holm"] == pytest.approx(2 * best["p"])
    assert (clusters["p_holm"] >= clusters["p"]).all()
    tfce = time_clusters(scores, ClusterTest(threshold="tfce"))
    assert abs(tfce.iloc[0]["start"] - ONSET) <= 0.021
    assert (tfce["p"] < 0.05).all()


def test_a_difference_of_two_layers(scores: Evaluation) -> None:
    clusters = time_clusters(scores, difference=("second", "first"))
    best = clusters.loc[clusters["p"].idxmin()]
    assert best["layer"] == "second − first"
    assert best["statistic"] < 0
    assert best["p"] < 0.01


def test_latencies(scores: Evaluation) -> None:
    table = latencies(scores, within=(0.0, 0.3)).set_index("layer")
    row = table.loc["first"]
    assert row["onset_low"] <= row["onset"] <= row["onset_high"]
    assert abs(row["onset"] - ONSET) <= 0.021
    assert ONSET <= row["peak"] <= 0.3
    assert row["peak_low"] <= row["peak"] <= row["peak_high"]
    x = course(scores, "first")
    inside = (TIMES >= 0) & (TIMES <= 0.3)
    assert row["peak"] == TIMES[inside][x.mean(axis=0)[inside].argmax()]
    assert row["share_with_onset"] == 1
    assert np.isnan(table.loc["second", "onset"])
    pd.testing.assert_frame_equal(table, latencies(scores, within=(0.0, 0.3)).set_index("layer"))


def test_the_onset_in_a_bootstrap_sample_by_a_loop(scores: Evaluation) -> None:
    from neurordl.rsa.time import _drawn_t, _onset

    x, rng = course(scores, "first"), np.random.default_rng(0)
    counts = rng.multinomial(12, np.full(12, 1 / 12), 20)
    t, means = _drawn_t(x, counts)
    limit, cluster = 2.5, np.arange(10, 15)
    for row, count, mean in zip(t, counts, means, strict=True):
        sample = np.repeat(x, count, axis=0)
        np.testing.assert_allclose(row, stats.ttest_1samp(sample, 0).statistic, rtol=1e-6)
        np.testing.assert_allclose(mean, sample.mean(axis=0))
        above, sums, start = np.append(row > limit, False), [], None
        for k, flag in enumerate(above):
            if flag and start is None:
                start = k
            if not flag and start is not None:
                if start < 15 and k > 10:
                    sums.append((row[start:k].sum(), TIMES[start]))
                start = None
        for critical in (5.0, 40.0):
            expected = max(sums)[1] if sums and max(sums)[0] >= critical else np.inf
            assert _onset(row, TIMES, cluster, limit, critical) == expected


def stretches(flags: Any) -> list[list[int]]:
    """Numbers of neighboring times at which something is true."""
    found: list[list[int]] = []
    for k in np.flatnonzero(flags):
        if found and found[-1][-1] == k - 1:
            found[-1].append(int(k))
        else:
            found.append([int(k)])
    return found


@pytest.mark.parametrize(
    ("tail", "gain", "alpha"),
    [("greater", 0.12, 0.05), ("two-sided", -0.13, 0.05), ("two-sided", 0.3, 0.2), ("greater", 0.13, 0.3)],
)
def test_latencies_are_those_of_a_loop(tail: Any, gain: float, alpha: float) -> None:
    scores = evaluate(models(), measured(gain=gain), comparison="corr")
    test = ClusterTest(tail=tail, seed=2, n_permutations=300, alpha=alpha)
    within = (float(TIMES[8]), float(TIMES[17]))
    found = latencies(scores, test, n_bootstrap=200, within=within).set_index("layer").loc["first"]
    x = course(scores, "first")
    limit = stats.t.isf(0.05 / (1 if tail == "greater" else 2), 11)
    _, clusters, p, null = permutation_cluster_1samp_test(
        x, limit, 300, tail=int(tail == "greater"), rng=2, out_type="indices", verbose="ERROR"
    )
    first = min((c[0].tolist() for c, value in zip(clusters, p, strict=True) if value < alpha), key=min)
    critical = np.quantile(np.abs(null), 1 - alpha)
    onsets, peaks = [], []
    for count in np.random.default_rng(2).multinomial(12, np.full(12, 1 / 12), 200):
        sample = np.repeat(x, count, axis=0)
        t = stats.ttest_1samp(sample, 0).statistic
        sign = np.sign(t[first].sum())
        near = [run for run in stretches(sign * t > limit) if set(run) & set(first)]
        largest = max(near, key=lambda run: sign * t[run].sum(), default=[])
        enough = len(largest) > 0 and sign * t[largest].sum() >= critical
        onsets.append(TIMES[largest[0]] if enough else np.inf)
        peaks.append(TIMES[8 + int(sample.mean(axis=0)[8:18].argmax())])
    share = np.isfinite(onsets).mean()
    assert 0 < share < 1 or gain == 0.3
    low, high = np.sort(onsets)[[4, 194]]  # the 5th and the 195th of 200
    assert found["onset"] == TIMES[first[0]]
    assert found["share_with_onset"] == share
    assert found["onset_low"] == low
    assert found["onset_high"] == high or (np.isnan(found["onset_high"]) and np.isinf(high))
    assert (found["peak_low"], found["peak_high"]) == tuple(np.sort(peaks)[[4, 194]])
    assert found["peak"] == TIMES[8 + int(x.mean(axis=0)[8:18].argmax())]


def test_peaks_are_of_means_not_of_t() -> None:
    """Half of the people have a high score at the peak; later all have the same."""
    rng = np.random.default_rng(0)
    model = stats.zscore(models().dissimilarities[0])
    wanted = np.tile([0.1, 0.75, 0.5, 0.1], (12, 1))
    wanted[::2, 1], wanted[1::2, 1] = 0.95, 0.55
    wanted += rng.normal(scale=0.01, size=wanted.shape)
    noise = rng.normal(size=(12, 4, 66))
    noise -= noise.mean(axis=2, keepdims=True)
    noise -= (noise @ model / 66)[..., None] * model
    noise /= noise.std(axis=2, keepdims=True)
    data = wanted[..., None] * model + np.sqrt(1 - wanted**2)[..., None] * noise
    people = rdms_over_time(data, [0.1, 0.2, 0.3, 0.4], ids=IDS, subjects=[f"p{k}" for k in range(12)])
    scores = evaluate(models()[0], people, comparison="corr")
    np.testing.assert_allclose(course(scores, "first"), wanted)
    peaks = latencies(scores, n_bootstrap=300)[["peak", "peak_low", "peak_high"]]
    assert (peaks == 0.2).all(axis=None)


def test_both_ends_of_the_window_of_peaks_are_in_it(scores: Evaluation) -> None:
    for time in TIMES[[0, 7, 19]].tolist():
        table = latencies(scores, n_bootstrap=10, within=(time, time))
        assert (table[["peak", "peak_low", "peak_high"]] == time).all(axis=None)


def test_clusters_are_corrected_over_courses_by_holm() -> None:
    """Courses without a cluster are tests, too; the p of other clusters have the factor of the smallest."""
    from neurordl.rsa.time import _holm

    p = {"a": [0.03, 0.2], "b": [0.01, 0.011], "c": [0.031]}
    table = pd.DataFrame([{"layer": k, "roi": "", "p": x} for k, values in p.items() for x in values])
    for n_courses in (3, 5):
        left, corrected, so_far = n_courses, {}, 0.0
        for layer in sorted(p, key=lambda k: min(p[k])):
            so_far = max(so_far, left * min(p[layer]))
            corrected[layer] = [min(1, max(so_far, left * x)) for x in p[layer]]
            left -= 1
        want = [x for layer in p for x in corrected[layer]]
        np.testing.assert_allclose(_holm(table, n_courses), want)


def test_two_sided_tests_of_few_subjects_have_half_as_many_flips() -> None:
    with pytest.warns(UserWarning, match="5 subjects have 32 sign flips, so that no p is below 0.0625"):
        time_clusters(evaluate(models(), measured(5), comparison="corr"), ClusterTest(tail="two-sided"))


def test_no_cluster_at_all() -> None:
    scores = evaluate(models(), measured(gain=0.0), comparison="corr")
    high = ClusterTest(threshold=50.0)
    assert len(time_clusters(scores, high)) == 0
    table = latencies(scores, high)
    assert table["onset"].isna().all()
    assert (table["share_with_onset"] == 0).all()
    assert table["peak"].notna().all()


def test_bad_input_of_tests_over_time(scores: Evaluation) -> None:
    flat = evaluate(models(), random_rdms(IDS, subject=["a", "b", "c"]))
    with pytest.raises(NeurordlError, match="not over time"):
        time_clusters(flat)
    with pytest.raises(NeurordlError, match="difference='third'"):
        time_clusters(scores, difference=("first", "third"))
    with pytest.raises(NeurordlError, match="threshold"):
        ClusterTest(threshold=-1.0)
    with pytest.raises(NeurordlError, match="tfce"):
        latencies(scores, ClusterTest(threshold="tfce"))
    with pytest.raises(NeurordlError, match="no time of the scores"):
        latencies(scores, within=(5.0, 6.0))
    with pytest.raises(NeurordlError, match="exchange them"):
        latencies(scores, within=(0.4, 0.0))
    with pytest.warns(UserWarning, match="nothing can be significant"):
        time_clusters(evaluate(models(), measured(3)))
    constant = measured()
    row = constant.rdm_descriptors["subject"].index("p5")
    constant.dissimilarities[row] = 1.0
    with pytest.raises(NeurordlError, match=r"are undefined \(subjects p5; times"):
        time_clusters(evaluate(models(), constant, comparison="corr"))


def test_the_report_of_scores_over_time(scores: Evaluation, tmp_path: Path) -> None:
    scores.to_html(tmp_path / "report.html", figures=False)
    page = (tmp_path / "report.html").read_text()
    assert "Highest means over subjects" in page
    assert "20 times" in page
    assert page.count("<svg") == 1
    assert page.count("subjects.all 20 times") == 1  # not a row for each time
    assert "subjects.0.1 s" not in page


def _in_lines(path: Path) -> str:
    """A page without space around its elements."""
    return " ".join(path.read_text().split()).replace("> ", ">").replace(" <", "<")


def test_a_report_has_clusters_onsets_and_how_they_were_tested(scores: Evaluation, tmp_path: Path) -> None:
    test = ClusterTest(tail="two-sided", n_permutations=300, seed=7)
    clusters, onsets = time_clusters(scores, test), latencies(scores, n_bootstrap=200)
    difference = time_clusters(scores, difference=("first", "second"))
    scores.to_html(tmp_path / "report.html", tests=[difference, clusters, onsets])
    page = _in_lines(tmp_path / "report.html")
    for caption in ("Clusters of times", "Clusters of times of a difference", "Onsets and peaks"):
        assert f"<span>{caption}</span></caption>" in page
    how = "clusters of t beyond that of p = .05, at most 300 sign flips, seed 7"
    assert "scores are above or below zero were tested over subjects by MNE&#39;s" in page
    assert how in page
    assert "differences of two models are above or below zero" in page
    assert "200 bootstrap samples of the subjects" in page
    assert "bars: clusters, p &lt; 0.05" in page  # in the figure
    assert "triangles: onsets" in page
    assert "Maris, E." in page
    best = clusters.loc[clusters["p"].idxmin()]
    assert f"{best['start']:.3f} to {best['stop']:.3f}" in page
    assert f"<td>{best['statistic']:.1f}</td>" in page
    plain = write_report(tmp_path / "plain.html", {"Evaluation": scores}, figures=False).read_text()
    assert "Maris, E." not in plain
    assert read_origin(tmp_path / "plain.html") != read_origin(tmp_path / "report.html")


def test_a_report_of_clusters_in_the_plane(tmp_path: Path) -> None:
    steps = select_rdms(measured(1, seed=1), subjects="p0")
    scores = evaluate({"steps": steps}, measured(6), comparison="corr")
    scores.to_html(tmp_path / "report.html", tests=[time_clusters(scores)], figures=False)
    page = _in_lines(tmp_path / "report.html")
    assert "<caption><span>Clusters of cells" in page
    assert "Clusters of cells (model time × time) at which scores are above zero" in page
    assert "outlined: clusters" in page


def test_reports_refuse_other_tables(scores: Evaluation, tmp_path: Path) -> None:
    clusters, path = time_clusters(scores), tmp_path / "report.html"
    with pytest.raises(NeurordlError, match="a report takes the tables of time_clusters and latencies"):
        scores.to_html(path, tests=[scores.frame])
    with pytest.raises(NeurordlError, match="tests of the layer 'third', but the evaluation before them has"):
        scores.to_html(path, tests=[clusters.replace({"layer": {"first": "third"}})])
    with pytest.raises(NeurordlError, match="has 2 tables of latencies of an evaluation; give one"):
        scores.to_html(path, tests=[latencies(scores, n_bootstrap=2)] * 2)
    with pytest.raises(NeurordlError, match="expected a Run, an Evaluation with its tests over time"):
        write_report(path, {"first the table": [clusters, scores]})
    single = evaluate(models(), random_rdms(IDS, subject=["p0", "p1"]), comparison="corr")
    with pytest.raises(NeurordlError, match="the evaluation is not over time; leave out tests over time"):
        single.to_html(path, tests=[clusters])
    assert not path.exists()


def test_one_subject_is_said_in_the_singular() -> None:
    scores = evaluate(models(), measured(1), comparison="corr")
    with pytest.raises(NeurordlError, match="has 1 subject in the mean at all times, and 20 times"):
        time_clusters(scores)


@pytest.mark.parametrize("n", [5, 6])
def test_p_of_all_sign_flips_does_not_depend_on_rounding(n: int) -> None:
    """MNE has the unflipped signs twice, whose t are added up in another order."""
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(size=(n, 20)) + 3
        assert min(ClusterTest().run(scores)[1]) == 2 / 2**n


@pytest.mark.parametrize("plane", [False, True])
def test_nearly_equal_scores_do_not_stop_tfce(plane: bool) -> None:
    scores = np.random.default_rng(0).normal(size=(8, 4, 5)) + 0.3
    scores[:, 1, 2] = 1 + 1e-12 * np.arange(8)
    scores = scores if plane else scores.reshape(8, 20)
    test = ClusterTest("tfce", n_permutations=100)
    with pytest.warns(UserWarning, match="t is beyond 100 at 1 of 20 places, and counts as 100 in TFCE"):
        cells, p, t, _ = test.run(scores)
    assert np.isfinite(t).all()
    assert p[[int(cell[0]) for cell in cells].index(7)] < 0.05
