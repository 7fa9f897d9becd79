"""Differences of ROIs: against t tests, loops over resamples, and what is shared by two ROIs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs
from rsatoolbox.rdm import compare as rsatoolbox_compare
from scipy import stats

import neurordl as nrl
from neurordl.arrays import Floats
from neurordl.report import read_contents, write_report
from neurordl.rsa.inference.resampling import expanded
from neurordl.rsa.regions import MOST_ROIS
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(9)]
PEOPLE = [f"p{k}" for k in range(6)]
ROIS = ["EVC", "IT", "PPA"]
N_PAIRS = 36


def models(n: int = 2) -> RDMs:
    return random_rdms(IDS, seed=1, measure=None, layer=[f"conv{k}" for k in range(n)])


def brains(rois: list[str] = ROIS, people: list[str] = PEOPLE) -> RDMs:
    """IT is more similar to the first model, and what is common to a subject is in all ROIs."""
    data = random_rdms(IDS, seed=2, subject=people * len(rois), roi=np.repeat(rois, len(people)).tolist())
    data.dissimilarities += np.tile(random_rdms(IDS, n=len(people), seed=3).dissimilarities, (len(rois), 1))
    data.dissimilarities[[roi == "IT" for roi in data.rdm_descriptors["roi"]]] += models().dissimilarities[0]
    return data


def table_of(found: nrl.Evaluation) -> dict[tuple[str, str], pd.DataFrame]:
    """Scores of subjects in each layer and ROI."""
    people = found.frame[found.frame["subject"] != "mean"]
    return {key: part.set_index("subject")["score"] for key, part in people.groupby(["layer", "roi"])}


def test_the_default_is_a_paired_t_test_over_subjects() -> None:
    """The order of subjects differs between the ROIs; that of rows is by layer and ROI."""
    data = brains()
    order = np.random.default_rng(0).permutation(data.n_rdm)
    shuffled = data.subset("index", order.tolist())
    for rdms in (data, shuffled):
        found = nrl.evaluate(models(), rdms, comparison="corr", roi=ROIS)
        scores, table = table_of(found), found.roi_differences
        pairs = [("EVC", "IT"), ("EVC", "PPA"), ("IT", "PPA")]
        assert list(zip(table["layer"], table["roi_a"], table["roi_b"], strict=True)) == [
            (layer, *pair) for layer in ("conv0", "conv1") for pair in pairs
        ]
        for row in table.itertuples():
            a, b = scores[row.layer, row.roi_a], scores[row.layer, row.roi_b]
            test = stats.ttest_rel(a, b[a.index])
            assert_allclose(row.difference, a.mean() - b.mean(), atol=1e-14)
            assert_allclose([row.ci_low, row.ci_high], test.confidence_interval(), atol=1e-12)
            assert_allclose(row.p, test.pvalue, atol=1e-12)
        assert set(table["n_subjects"]) == {6}
        assert set(table["n_pairs"]) == {N_PAIRS}
    first = table[table["layer"] == "conv0"]
    assert first["difference"].tolist()[0] < -0.2 < 0.2 < first["difference"].tolist()[2]


def resampled(data: RDMs, scheme: nrl.Bootstrap) -> tuple[Floats, Floats, nrl.Draws]:
    """By rsatoolbox: (layers, subjects) differences of IT from EVC, those of each resample, and the draws."""
    draws = scheme.draw(PEOPLE, IDS)
    assert draws is not None
    rows = np.asarray(data.dissimilarities).reshape(3, 6, -1)[[1, 0]]
    stimuli = np.ones((scheme.n, len(IDS)), int) if draws.stimuli is None else draws.stimuli

    def compared(counts: Floats) -> Floats:
        a, *b = (expanded(x, counts) for x in (models().dissimilarities, *rows))
        keep = np.isfinite(a[0])
        it, evc = (rsatoolbox_compare(RDMs(a[:, keep]), RDMs(x[:, keep]), "corr") for x in b)
        return np.asarray(it - evc)

    return compared(np.ones(len(IDS), int)), np.stack([compared(counts) for counts in stimuli]), draws


@pytest.mark.parametrize("factors", ["subjects", "stimuli", "both"])
@pytest.mark.parametrize("variance", ["bootstrap", "components"])
def test_a_bootstrap_draws_the_same_subjects_and_stimuli_in_both(factors: str, variance: str) -> None:
    """Variances are those of the differences in the same resamples, by a loop."""
    if (factors, variance) == ("subjects", "components"):
        return
    chosen = None if factors == "subjects" else variance
    scheme = nrl.Bootstrap(factors, n=150, seed=3, variance=chosen)  # type: ignore[arg-type]
    data = brains()
    found = nrl.evaluate(models(), data, comparison="corr", roi=["IT", "EVC"], bootstrap=scheme)
    plain, samples, draws = resampled(data, scheme)
    people = np.ones((scheme.n, 6), int) if draws.subjects is None else draws.subjects
    s, t, n = 6 / 5, 9 / 8, len(IDS)
    for k, row in enumerate(found.roi_differences.itertuples()):
        d, x = plain[k], samples[:, k]
        both = np.einsum("bs,bs->b", x, people) / people.sum(axis=1)
        of_subjects, of_stimuli = people @ d / people.sum(axis=1), x.mean(axis=1)
        if variance == "bootstrap":
            var, sub, stim = (np.var(values, ddof=1) for values in (both, of_subjects, of_stimuli))
            total = {"subjects": s * sub, "stimuli": t * stim}.get(factors)
            if total is None:
                total = s * sub + t * stim - s * t * (var - sub - stim)
                total = min(max(total, s * sub, t * stim), var)
        else:
            total = by_components(d, x, draws.stimuli, data, k, over_subjects=factors == "both")
        dof = {"subjects": 5, "stimuli": 8, "both": 5}[factors]
        assert_allclose(row.difference, d.mean(), atol=1e-12)
        reach = stats.t.ppf(0.975, dof) * total**0.5
        assert_allclose(row.ci_high - row.difference, reach, rtol=1e-8)
        assert_allclose(row.p, 2 * stats.t.sf(abs(d.mean()) / total**0.5, dof), rtol=1e-7)
    assert set(found.roi_differences["n_pairs"]) == {N_PAIRS}
    assert n == 9


def by_components(d: Floats, x: Floats, counts: Floats, data: RDMs, k: int, *, over_subjects: bool) -> float:
    """The formula of `ComponentVariance` for a number per subject, by loops over subjects."""
    n, people = len(IDS), len(d)
    rows = np.asarray(data.dissimilarities).reshape(3, 6, -1)[[1, 0]]
    without = []
    for left_out in range(n):
        kept = (np.arange(n) != left_out).astype(int)
        a, *b = (expanded(rdms, kept) for rdms in (models().dissimilarities[[k]], *rows))
        it, evc = (rsatoolbox_compare(RDMs(a), RDMs(part), "corr")[0] for part in b)
        without.append(it - evc)
    basis = np.column_stack([np.ones(len(counts)), counts[:, 1:]])
    residuals = x - basis @ np.linalg.lstsq(basis, x, rcond=None)[0]
    spread = {"pairs": residuals / (len(x) - n) ** 0.5}
    spread["single"] = (np.array(without) - np.mean(without, axis=0)) * ((n - 1) / n) ** 0.5
    parts = {}
    for name, values in spread.items():
        products = values.T @ values  # of two subjects
        different = products.sum() - np.trace(products)
        parts[name] = different / (people * (people - 1)) if over_subjects else products.sum() / people**2
    single = parts["single"] - 2 * (n - 1) / (n - 2) * parts["pairs"]
    subjects = np.var(d, ddof=1) / people if over_subjects else 0.0
    return float(subjects + max(single, 0) + max(parts["pairs"], 0))


@pytest.mark.parametrize("bootstrap", [None, "both"])
def test_two_rois_are_compared_on_the_subjects_and_pairs_of_both(bootstrap: str | None) -> None:
    """Others are left out as if they had never been measured in either ROI."""
    data = brains()
    data.dissimilarities[0, 3] = np.nan  # EVC of p0 alone
    fewer = data.subset("index", [k for k in range(18) if k != 10])  # IT without p4
    found = nrl.evaluate(models(), fewer, comparison="corr", bootstrap=bootstrap)  # type: ignore[arg-type]
    same = brains()
    same.dissimilarities[[0, 6], 3] = np.nan
    same = same.subset("subject", [x for x in PEOPLE if x != "p4"])
    options = {"comparison": "corr", "bootstrap": bootstrap, "roi": ["EVC", "IT"]}
    want = nrl.evaluate(models(), same, **options).roi_differences  # type: ignore[arg-type]
    pair = found.roi_differences.query("roi_a == 'EVC' and roi_b == 'IT'")
    for name in ("difference", "ci_low", "ci_high", "p", "n_subjects", "n_pairs"):
        assert_allclose(pair[name], want[name], atol=1e-12)
    sizes = found.roi_differences.groupby(["roi_a", "roi_b"])["n_subjects"].first().to_dict()
    assert sizes == {("EVC", "IT"): 5, ("EVC", "PPA"): 6, ("IT", "PPA"): 5}
    alone = data.subset("index", [0, 7, 8])  # no subject in both
    table = nrl.evaluate(models(), alone, comparison="corr").roi_differences
    assert table["n_subjects"].tolist() == [0, 0]
    assert table[["difference", "ci_low", "p"]].isna().all(axis=None)


def test_times_are_compared_with_the_same_time() -> None:
    data = brains(["EVC", "IT"] * 2)
    data.rdm_descriptors["time"] = np.repeat([0.0, 0.1], 12).tolist()
    found = nrl.evaluate(models(), data, comparison="corr")
    table = found.roi_differences
    assert table["time"].tolist() == [0.0, 0.0, 0.1, 0.1]
    for time, part in table.groupby("time"):
        at = data.subset("time", time)
        del at.rdm_descriptors["time"]
        want = nrl.evaluate(models(), at, comparison="corr").roi_differences
        assert_allclose(part[["difference", "p"]], want[["difference", "p"]], atol=1e-12)
    assert set(found.correct("layer").roi_differences["family"]) == {"2 tests of the layer in a pair of ROIs"}


def test_families_are_the_table_the_pair_of_rois_or_nothing() -> None:
    found = nrl.evaluate(models(), brains(), comparison="corr")
    assert set(found.roi_differences["family"]) == {"6 tests of the table"}
    assert_allclose(found.roi_differences["p_fdr"], stats.false_discovery_control(found.roi_differences["p"]))
    within = found.correct("roi").roi_differences
    assert set(within["family"]) == {"2 tests of the pair of ROIs"}
    for _, part in within.groupby(["roi_a", "roi_b"]):
        assert_allclose(part["p_fdr"], stats.false_discovery_control(part["p"]))
    assert set(found.differences["family"]) == {"3 tests of the table"}  # a family of its own


def test_one_roi_and_very_many_are_not_compared(tmp_path: Path) -> None:
    alone = nrl.evaluate(models(), brains(), roi="IT")
    assert not len(alone.roi_differences)
    names = [f"parcel{k}" for k in range(MOST_ROIS + 1)]
    many = nrl.evaluate(models(), brains(names), comparison="corr")
    assert not len(many.roi_differences)
    assert "21 ROIs are not compared with each other: choose 20 or fewer with roi=" in many.notes
    several = nrl.evaluate(models(), brains(), comparison="corr")
    assert (several.save(tmp_path) / "roi_differences.csv").is_file()
    assert not (alone.save(tmp_path) / "roi_differences.csv").exists()


def test_reports_have_the_differences_of_rois(tmp_path: Path) -> None:
    """Those of an evaluation in memory, and of its folder."""
    found = nrl.evaluate(models(), brains(), comparison="corr")
    found.save(tmp_path / "scores")
    pages = [found.to_html(tmp_path / "memory.html"), tmp_path / "folder.html"]
    write_report(pages[1], read_contents([tmp_path / "scores"]))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "Differences of each two ROIs in a model" in text
        assert "EVC \u2212 IT" in text


@pytest.mark.parametrize("missing", [False, True])
def test_a_subject_without_a_score_in_one_roi_is_left_out_of_both(missing: bool) -> None:
    """An RDM that is constant, or is so on the pairs that both ROIs have, leaves no half of a pair behind."""
    data = brains(["EVC", "IT"])
    data.dissimilarities[8] = 1.0  # IT of p2
    if missing:
        data.dissimilarities[8, 5:] = np.nan
        data.dissimilarities[2, :2] = np.nan
    found = nrl.evaluate(models(), data, comparison="corr")
    rest = data.subset("subject", [x for x in PEOPLE if x != "p2"])
    want = nrl.evaluate(models(), rest, comparison="corr")
    for name in ("difference", "ci_low", "ci_high", "p", "n_subjects", "n_pairs"):
        assert_allclose(found.roi_differences[name], want.roi_differences[name], atol=1e-12)


@pytest.mark.parametrize("bootstrap", [None, nrl.Bootstrap("subjects", n=20_000)])
def test_a_subject_without_a_score_has_no_part_in_intervals(bootstrap: nrl.Bootstrap | None) -> None:
    """Standard errors and degrees of freedom are those of the others, also of differences of layers."""
    data = brains(["IT"])
    data.dissimilarities[2] = 1.0
    found = nrl.evaluate(models(), data, comparison="corr", bootstrap=bootstrap)
    scores = table_of(found)
    a, b = (scores[layer, "IT"].dropna() for layer in ("conv0", "conv1"))
    test, row = stats.ttest_rel(a, b), found.differences.iloc[0]
    want = [*test.confidence_interval(), test.pvalue]
    assert_allclose(
        row[["ci_low", "ci_high", "p"]].astype(float), want, rtol=1e-9 if bootstrap is None else 0.1
    )
    mean = found.frame[(found.frame["subject"] == "mean") & (found.frame["layer"] == "conv0")].iloc[0]
    want = list(stats.ttest_1samp(a, 0).confidence_interval())
    assert_allclose(mean[["ci_low", "ci_high"]].astype(float), want, rtol=1e-9 if bootstrap is None else 0.03)


def partly_defined() -> RDMs:
    """Subjects of two ROIs; p0 and p1 were measured where the first model is constant."""
    data = brains(["EVC", "IT"])
    data.dissimilarities[[0, 1, 6, 7], 14:] = np.nan
    return data


def partly_constant() -> RDMs:
    first = models(3)
    first.dissimilarities[0, :14] = 1.0
    return first


@pytest.mark.parametrize("bootstrap", [None, "subjects", "stimuli", "both"])
def test_a_layer_without_a_score_in_some_subjects_is_inferred_from_the_others(bootstrap: str | None) -> None:
    """As if the others had been measured alone; two layers are compared in the subjects who have both."""
    options = {"comparison": "corr", "bootstrap": bootstrap}
    data = partly_defined()
    found = nrl.evaluate(partly_constant(), data, **options)  # type: ignore[arg-type]
    rest = data.subset("subject", PEOPLE[2:])
    want = nrl.evaluate(partly_constant(), rest, **options)  # type: ignore[arg-type]
    columns = ["score", "ci_low", "ci_high", "p", "n_subjects", "ceiling_lower", "ceiling_upper", "p_ceiling"]
    means = [x.frame[(x.frame["subject"] == "mean") & (x.frame["layer"] == "conv0")] for x in (found, want)]
    assert_allclose(*(x[columns].astype(float) for x in means), atol=1e-12)
    columns = ["difference", "ci_low", "ci_high", "p"]
    between = [x.differences[x.differences["layer_a"] == "conv0"] for x in (found, want)]
    assert len(between[0]) == 4
    assert_allclose(*(x[columns] for x in between), atol=1e-12)
    of_rois = [x.roi_differences[x.roi_differences["layer"] == "conv0"] for x in (found, want)]
    assert_allclose(*(x[[*columns, "n_subjects"]] for x in of_rois), atol=1e-12)
    others = nrl.evaluate(models(3), data, layers=["conv1", "conv2"], **options)  # type: ignore[arg-type]
    kept = found.differences.query("layer_a == 'conv1'")
    assert_allclose(kept[columns], others.differences[columns], atol=1e-12)
    kept = found.roi_differences.query("layer != 'conv0'")
    assert_allclose(kept[columns], others.roi_differences[columns], atol=1e-12)
    assert set(kept["n_subjects"]) == {6}
    if bootstrap is None:
        assert_allclose(*(x.bayes_factors()["bf10"].iloc[:2] for x in (found, want)), rtol=1e-8)
        scores = table_of(found)
        a, b = (scores[layer, "EVC"][PEOPLE[2:]] for layer in ("conv0", "conv1"))
        assert_allclose(between[0]["p"].iloc[0], stats.ttest_rel(a, b).pvalue, atol=1e-12)


def test_a_layer_with_a_score_in_one_subject_has_no_test() -> None:
    data = brains(["IT"])
    data.dissimilarities[:5, 14:] = np.nan
    found = nrl.evaluate(partly_constant(), data, comparison="corr", bootstrap="subjects")
    mean = found.frame[(found.frame["subject"] == "mean") & (found.frame["layer"] == "conv0")].iloc[0]
    assert mean["n_subjects"] == 1
    assert mean[["ci_low", "ci_high", "p"]].isna().all()
    assert found.differences.query("layer_a == 'conv0'")[["ci_low", "p"]].isna().all(axis=None)
    assert found.differences.query("layer_a == 'conv1'")[["ci_low", "p"]].notna().all(axis=None)
