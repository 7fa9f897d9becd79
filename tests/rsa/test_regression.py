"""Models that share variance, against plain loops; what is undefined; what is refused."""

from __future__ import annotations

import warnings
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from rsatoolbox.rdm import RDMs
from scipy import optimize, stats
from scipy.spatial.distance import pdist, squareform
from sklearn import linear_model

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import find_similarity
from neurordl.rsa import regression
from neurordl.rsa.ceilings import ceiling_p
from neurordl.rsa.inference.infer import infer_study
from neurordl.rsa.inference.resampling import Draws, Study, expanded
from neurordl.rsa.regression import shared_pairs

METHODS = ["corr", "spearman"]


def geometry(n_rdms: int, n: int = 9, seed: int = 0, tied: bool = False) -> np.ndarray:
    """Condensed RDMs that share a geometry."""
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(99).normal(size=(n, 4))
    points = [common + rng.normal(size=(n, 4)) for _ in range(n_rdms)]
    rdms = np.stack([pdist(x, "sqeuclidean") for x in points])
    return rdms.round(-1) if tied else rdms


def as_rdms(vectors: np.ndarray, **descriptors) -> RDMs:
    n = len(squareform(vectors[0], checks=False))
    ids = {"stimulus": [f"s{k}" for k in range(n)]}
    return RDMs(vectors, rdm_descriptors=descriptors, pattern_descriptors=ids)


def brains(vectors: np.ndarray) -> RDMs:
    return as_rdms(vectors, subject=[f"p{k}" for k in range(len(vectors))])


def named(vectors: np.ndarray, names: str = "ab") -> RDMs:
    return as_rdms(vectors, name=list(names[: len(vectors)]))


def left(rdm: np.ndarray, covariates: np.ndarray, method: str) -> np.ndarray:
    """What is left of an RDM, or of its ranks, by least squares of one RDM."""
    if method == "spearman":
        rdm, covariates = stats.rankdata(rdm), stats.rankdata(covariates, axis=1)
    basis = np.column_stack([np.ones_like(rdm), covariates.T])
    return rdm - basis @ np.linalg.lstsq(basis, rdm, rcond=None)[0]


def partial(model: np.ndarray, rdm: np.ndarray, covariates: np.ndarray, method: str) -> float:
    return float(stats.pearsonr(left(model, covariates, method), left(rdm, covariates, method))[0])


def bounds(data: np.ndarray, covariates: np.ndarray, method: str, times: np.ndarray) -> tuple[float, float]:
    """Noise ceiling of subjects, drawn so often: pooled are RDMs of unit variance."""
    rest = np.stack([left(x, covariates, method) for x in data])
    rest /= rest.std(axis=1, keepdims=True)
    lower, upper = [], []
    for k in np.flatnonzero(times):
        others = np.where(np.arange(len(data)) == k, 0, times)
        lower.append(np.corrcoef(others @ rest, rest[k])[0, 1])
        upper.append(np.corrcoef(times @ rest, rest[k])[0, 1])
    return float(np.mean(lower)), float(np.mean(upper))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_covariates", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_plain_loop_finds_the_same(method, n_covariates, tied):
    models, data, covariates = (
        geometry(k, seed=seed, tied=tied) for seed, k in enumerate((2, 4, n_covariates))
    )
    controls = nrl.Partial(named(covariates, "xyz"), method)
    scores = nrl.evaluate(named(models), brains(data), comparison=controls, bootstrap=None)
    found = scores.inferences[""]
    want = [[partial(a, b, covariates, method) for b in data] for a in models]
    assert_allclose(found.scores, want, atol=1e-10)
    assert_allclose(found.ceiling, bounds(data, covariates, method, np.ones(4)), atol=1e-10)
    assert scores.frame["comparison"].unique() == [f"partial {method}"]
    assert f"controlled for {', '.join('xyz'[:n_covariates])}" in scores.title
    means = scores.frame[scores.frame["subject"] == "mean"]
    assert_allclose(means["p"], stats.ttest_1samp(want, 0, axis=1, alternative="greater").pvalue, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_everything_is_regressed_anew_in_a_resample(method):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    comparison = nrl.Partial(named(covariates), method).for_stimuli([f"s{k}" for k in range(9)])
    rng = np.random.default_rng(0)
    subjects = np.array([[2, 1, 0, 1], [1, 1, 1, 1], [0, 3, 1, 0]])
    stimuli = np.stack([np.bincount(rng.integers(0, 9, 9), minlength=9) for _ in range(3)])
    found = infer_study(
        Study(models, data, comparison),
        nrl.Bootstrap("both", n=3, variance="bootstrap"),
        Draws(subjects, stimuli),
    )
    for b, (times, counts) in enumerate(zip(subjects, stimuli, strict=True)):
        a, x, c = (expanded(rdms, counts) for rdms in (models, data, covariates))
        kept = np.isfinite(a[0])
        a, x, c = (rdms[:, kept] for rdms in (a, x, c))
        scores = np.array([[partial(model, rdm, c, method) for rdm in x] for model in a])
        assert_allclose(found.evaluations[b, :, 0, 0, 2], scores.mean(axis=1), atol=1e-10)
        assert_allclose(found.evaluations[b, :, 0, 0, 0], scores @ times / times.sum(), atol=1e-10)
        assert_allclose(found.noise_ceiling[:, b, 0, 0], bounds(x, c, method, times), atol=1e-10)
        assert_allclose(found.noise_ceiling[:, b, 0, 1], bounds(data, covariates, method, times), atol=1e-10)


def test_without_shared_variance_it_is_the_correlation():
    models, data = geometry(2, seed=2), geometry(4, seed=4)
    flat = nrl.Partial(named(np.ones((1, 36))), "corr")
    found = nrl.evaluate(named(models), brains(data), comparison=flat)
    want = nrl.evaluate(named(models), brains(data), comparison="corr")
    assert_allclose(found.inferences[""].scores, want.inferences[""].scores, atol=1e-12)
    assert_allclose(found.inferences[""].ceiling, want.inferences[""].ceiling, atol=1e-12)
    huge = nrl.evaluate(
        named(models * 1e150),
        brains(data * 1e-150),
        comparison=nrl.Partial(named(models[:1] * 1e-200), "corr"),
    )
    small = nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(named(models[:1]), "corr"))
    assert_allclose(huge.inferences[""].scores, small.inferences[""].scores, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_what_covariates_explain_is_undefined(method):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    models[0] = covariates[1] if method == "spearman" else covariates[0] + 3 * covariates[1]
    repeated = np.concatenate([covariates, covariates[:1]])
    controls = nrl.Partial(named(repeated, "xyz"), method)
    scores = nrl.evaluate(named(models), brains(data), comparison=controls, bootstrap="both")
    means = scores.frame[scores.frame["subject"] == "mean"].set_index("layer")
    assert np.isnan(means.loc["a", "score"])
    assert "what x, y, z leave of one RDM is constant" in means.loc["a", "reason"]
    want = [partial(models[1], x, covariates, method) for x in data]
    assert_allclose(means.loc["b", "score"], np.mean(want), atol=1e-10)
    assert np.isfinite(means.loc["b", ["ci_low", "ci_high", "p"]].astype(float)).all()


def test_pairs_that_one_rdm_misses_are_left_out_of_all():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 2)))
    data[1, 3] = data[2, 10:12] = covariates[0, 20] = models[1, 0] = np.nan
    gone = np.concatenate([models, np.full((1, 36), np.nan)])
    with pytest.warns(UserWarning, match="5 of 36 pairs of stimuli are left out, since a subject, a model"):
        scores = nrl.evaluate(
            named(gone, "abc"), brains(data), comparison=nrl.Partial(named(covariates), "spearman")
        )
    kept = np.isfinite(np.concatenate([models, data, covariates])).all(axis=0)
    want = [[partial(a[kept], b[kept], covariates[:, kept], "spearman") for b in data] for a in models]
    assert_allclose(scores.inferences[""].scores[:2], want, atol=1e-10)
    want = bounds(data[:, kept], covariates[:, kept], "spearman", np.ones(4))
    assert_allclose(scores.inferences[""].ceiling, want, atol=1e-10)
    group = scores.group_rows().set_index("layer")["score"]
    mean = np.nanmean(data, axis=0)
    assert_allclose(
        group["a"], partial(models[0, kept], mean[kept], covariates[:, kept], "spearman"), atol=1e-10
    )
    few = data.copy()
    few[0, :32] = np.nan
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(NeurordlError, match="4 pairs of stimuli are measured"),
    ):
        nrl.evaluate(named(models), brains(few), comparison=nrl.Partial(named(covariates)))


def test_subjects_who_share_only_the_covariate_do_not_agree():
    """The permutation test is of what the covariates leave, which is noise in all but a few studies."""
    p = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shared = pdist(rng.normal(size=(10, 3)))
        data = shared + 0.5 * rng.normal(size=(5, 45))
        ids = [f"s{k}" for k in range(10)]
        comparison = nrl.Partial(as_rdms(shared[None], name=["x"]), "corr").for_stimuli(ids)
        p.append(ceiling_p(data, comparison, n_permutations=99))
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) <= 0.15


def test_covariates_are_matched_by_id():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 1)))
    order = np.random.default_rng(0).permutation(9)
    moved = squareform(squareform(covariates[0])[np.ix_(order, order)])[None]
    shuffled = RDMs(
        moved, rdm_descriptors={"name": ["x"]}, pattern_descriptors={"stimulus": [f"s{k}" for k in order]}
    )
    found, want = (
        nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(x)).inferences[""].scores
        for x in (shuffled, named(covariates))
    )
    assert_allclose(found, want, atol=1e-12)
    fewer = RDMs(covariates[:, :28], pattern_descriptors={"stimulus": [f"s{k}" for k in range(8)]})
    with pytest.raises(NeurordlError, match="s8"):
        nrl.evaluate(named(models), brains(data), comparison=nrl.Partial(fewer))


def test_what_is_refused():
    covariates = named(geometry(1))
    for method in ("rho-a", "cosine", "tau-a", "corr_cov", "cka"):
        with pytest.raises(NeurordlError, match="has no partial form; take corr, spearman"):
            nrl.Partial(covariates, method)
    with pytest.raises(NeurordlError, match="has no RDM"):
        nrl.Partial(covariates.subsample("name", []))
    with pytest.raises(NeurordlError, match="expected"):
        nrl.Partial([1, 2])
    with pytest.raises(NeurordlError, match="repeats a name"):
        nrl.Partial(named(geometry(2), "aa"))
    with pytest.raises(NeurordlError, match="comparison"):
        nrl.compare(covariates, covariates, nrl.Partial(covariates))


def test_pairs_that_all_subjects_miss_are_not_counted():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 1)))
    data[:, :3], data[1, 5] = np.nan, np.nan
    with pytest.warns(UserWarning, match="1 of 33 pairs of stimuli are left out"):
        found = shared_pairs(models, data, covariates)[1]
    assert np.isfinite(found).all(axis=0).sum() == 32


def test_shared_pairs_without_holes_say_nothing():
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((2, 4, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found, want in zip(shared_pairs(models, data, covariates), (models, data), strict=True):
            assert_allclose(found, want)


# regression and shares of variance


def units(rdms: np.ndarray, method: str, covariates: np.ndarray | None = None) -> np.ndarray:
    """RDMs, or their ranks, less what covariates explain; divided by their length before."""
    if method == "spearman":
        rdms = stats.rankdata(rdms, axis=1)
    centered = rdms - rdms.mean(axis=1, keepdims=True)
    rest = centered if covariates is None else np.stack([left(x, covariates, method) for x in rdms])
    return rest / np.linalg.norm(centered, axis=1, keepdims=True)


def r_squared(models: np.ndarray, rdm: np.ndarray) -> float:
    """Share of an RDM that least squares explain."""
    if not len(models):
        return 0.0
    fitted = linear_model.LinearRegression().fit(models.T, rdm)
    return float(fitted.score(models.T, rdm))


def commonality(explained) -> list[float]:
    """Unique and shared parts and the total of three models, from the R² of any of them.

    Written out as in Net2Brain's variance partitioning.
    """
    r1, r2, r3 = (explained([k]) for k in range(3))
    r12, r13, r23, r123 = (explained(list(x)) for x in ((0, 1), (0, 2), (1, 2), (0, 1, 2)))
    y123 = r1 + r2 + r3 - r12 - r13 - r23 + r123
    y12, y13, y23 = r1 + r2 - r12 - y123, r1 + r3 - r13 - y123, r2 + r3 - r23 - y123
    unique = r1 - y12 - y13 - y123, r2 - y12 - y23 - y123, r3 - y13 - y23 - y123
    return [*unique, y12, y13, y23, y123, r123]


def by_layer(scores: nrl.Evaluation) -> np.ndarray:
    """Scores of subjects, (quantities, subjects)."""
    frame = scores.frame[scores.frame["subject"] != "mean"]
    return (
        frame.pivot(index="layer", columns="subject", values="score")
        .loc[scores.settings["layers"]]
        .to_numpy()
    )


def means(scores: nrl.Evaluation):
    return scores.frame[scores.frame["subject"] == "mean"].set_index("layer")


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_shares_within_subjects_are_those_of_a_plain_commonality_analysis(method, controlled):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((3, 4, 2)))
    scores = nrl.partition_variance(
        named(models, "abc"),
        brains(data),
        comparison=method,
        crossed=False,
        covariates=named(covariates, "xy") if controlled else None,
    )
    x, y = (units(rdms, method, covariates if controlled else None) for rdms in (models, data))
    want = np.array([commonality(lambda chosen, rdm=rdm: r_squared(x[chosen], rdm)) for rdm in y]).T
    assert_allclose(by_layer(scores), want, atol=1e-10)
    table = means(scores)
    assert_allclose(table["score"], want.mean(axis=1), atol=1e-10)
    reach = stats.t.ppf(0.975, 3) * stats.sem(want, axis=1)
    assert_allclose(table["ci_high"] - table["score"], reach, atol=1e-10)
    assert list(table.index) == [
        *("unique a", "unique b", "unique c", "shared a & b", "shared a & c", "shared b & c"),
        *("shared a & b & c", "total"),
    ]
    correlated = np.corrcoef(y)
    bound = np.linalg.eigvalsh(correlated)[-3:].sum() / 4
    assert_allclose(table["ceiling_upper"], bound, atol=1e-10)
    assert bound >= table.loc["total", "score"]


@pytest.mark.parametrize("n_models", [2, 3, 4])
def test_crossed_shares_are_means_of_products_of_two_subjects(n_models):
    models, data = geometry(n_models, n=12, seed=1), geometry(5, n=12, seed=2)
    scores = nrl.partition_variance(named(models, "abcd"), brains(data))
    x, y = units(models, "corr"), units(data, "corr")

    def explained(chosen: list[int]) -> np.ndarray:
        """Products of what is predicted in two subjects, (subjects, subjects)."""
        basis = np.linalg.qr(x[chosen].T)[0] if chosen else np.zeros((x.shape[1], 1))
        return (y @ basis) @ (y @ basis).T

    everything = list(range(n_models))
    products = {
        subset: explained(list(subset))
        for size in range(n_models + 1)
        for subset in combinations(everything, size)
    }
    table, apart = means(scores), ~np.eye(5, dtype=bool)
    for name, of_subjects in zip(scores.settings["layers"], by_layer(scores), strict=True):
        chosen = (
            everything if name == "total" else ["abcd".index(k) for k in name.split(" ", 1)[1].split(" & ")]
        )
        rest = () if name == "total" else tuple(k for k in everything if k not in chosen)
        parts = (
            combinations(chosen, n_models)
            if name == "total"
            else (x for size in range(len(chosen) + 1) for x in combinations(chosen, size))
        )
        share = sum(
            (1 if name == "total" else (-1) ** (len(part) + 1)) * products[tuple(sorted([*rest, *part]))]
            for part in parts
        )
        assert_allclose(of_subjects, (share * apart).sum(axis=1) / 4, atol=1e-10)
        assert_allclose(table.loc[name, "score"], share[apart].mean(), atol=1e-10)
    assert_allclose(table["score"].drop("total").sum(), table.loc["total", "score"], atol=1e-10)
    assert_allclose(table["ceiling_lower"], np.corrcoef(y)[apart].mean(), atol=1e-10)


def test_the_tests_are_of_signed_correlations():
    models, data = geometry(2, n=12, seed=1), geometry(6, n=12, seed=2)
    table = means(nrl.partition_variance(named(models), brains(data)))
    x, y = units(models, "corr"), units(data, "corr")
    beyond = [units(left(x[k], x[[1 - k]], "corr")[None], "corr")[0] for k in (0, 1)]
    for name, direction in zip(("unique a", "unique b"), beyond, strict=True):
        signed = y @ direction
        test = stats.ttest_1samp(signed, 0)
        assert_allclose(table.loc[name, "p"], test.pvalue, atol=1e-10)
        low, high = test.confidence_interval()
        if low > 0:
            assert_allclose(
                table.loc[name, ["ci_low", "ci_high"]].astype(float), [low**2, high**2], atol=1e-10
            )
    pair = np.stack([y @ x[0], y @ beyond[1]], axis=1)
    statistic = 6 * pair.mean(axis=0) @ np.linalg.solve(np.cov(pair.T), pair.mean(axis=0))
    assert_allclose(table.loc["total", "p"], stats.f.sf(statistic * 4 / (2 * 5), 2, 4), atol=1e-10)


def interval_of_squares(a: np.ndarray, rows: np.ndarray) -> tuple[float, float, float, float]:
    """A sum of squared means of rows (rows, subjects): value, interval and standard error, in plain sums."""
    n, mean = rows.shape[1], rows.mean(axis=1)
    covariance, t = np.cov(rows) / n, stats.t.ppf(0.975, n - 1)
    apart = ~np.eye(n, dtype=bool)
    value = sum(x * np.outer(row, row)[apart].mean() for x, row in zip(a, rows, strict=True))
    linear = 2 * a * mean  # the slope of the sum
    first = np.sqrt(linear @ covariance @ linear)
    second = np.sqrt(
        2 * sum(a[i] * a[j] * covariance[i, j] ** 2 for i in range(len(a)) for j in range(len(a)))
    )
    way = covariance @ linear / first  # of the means, where the sum changes by its standard error
    bend = (a * way**2).sum()

    def at(steps: float) -> float:
        return float(a @ mean**2 + steps * first + steps**2 * bend)

    turn = -first / (2 * bend)
    ends = [at(-t), at(t), *([at(turn)] if abs(turn) < t else [])]
    low, high = min(*ends, value - t * second), max(*ends, value + t * second)
    return value, low, high, float(np.hypot(first, second))


@pytest.mark.parametrize("seed", range(6))
def test_intervals_and_differences_of_shares_are_those_of_plain_sums(seed):
    models, data = geometry(2, n=10, seed=seed), geometry(7, n=10, seed=seed + 50)
    if seed % 2:  # next to nothing, where squares bend
        data = np.random.default_rng(seed).random(data.shape)
    found = nrl.partition_variance(named(models), brains(data))
    table, x, y = means(found), units(models, "corr"), units(data, "corr")
    beyond = [units(left(x[k], x[[1 - k]], "corr")[None], "corr")[0] for k in (0, 1)]
    rows = np.stack([*x, *beyond]) @ y.T
    parts = {
        "unique a": np.array([0, 0, 1, 0]),
        "unique b": np.array([0, 0, 0, 1]),
        "shared a & b": np.array([0, 1, 0, -1]),
        "total": np.array([1, 0, 0, 1]),
    }
    for name in ("shared a & b", "total"):
        value, low, high, error = interval_of_squares(parts[name], rows)
        assert_allclose(table.loc[name, ["score", "ci_low", "ci_high"]].astype(float), [value, low, high])
    p = stats.t.sf(
        table.loc["shared a & b", "score"] / interval_of_squares(parts["shared a & b"], rows)[3], 6
    )
    assert_allclose(table.loc["shared a & b", "p"], p)
    for row in found.differences.itertuples():
        a = parts[row.layer_a] - parts[row.layer_b]
        value, low, high, error = interval_of_squares(a, rows)
        assert_allclose([row.difference, row.ci_low, row.ci_high], [value, low, high], atol=1e-12)
        assert_allclose(row.p, 2 * stats.t.sf(abs(value) / error, 6))


def test_differences_and_ceilings_of_shares_within_subjects():
    models, data = geometry(2, n=10, seed=1), geometry(6, n=10, seed=2)
    found = nrl.partition_variance(named(models), brains(data), crossed=False)
    scores = dict(zip(found.settings["layers"], by_layer(found), strict=True))
    for row in found.differences.itertuples():
        test = stats.ttest_rel(scores[row.layer_a], scores[row.layer_b])
        values = [row.difference, row.p, row.ci_low, row.ci_high]
        want = [np.mean(scores[row.layer_a] - scores[row.layer_b]), test.pvalue, *test.confidence_interval()]
        assert_allclose(values, want, atol=1e-12)
    y = units(data, "corr")
    lower = np.mean([np.corrcoef(y[k], np.delete(y, k, axis=0).mean(axis=0))[0, 1] ** 2 for k in range(6)])
    assert_allclose(means(found)["ceiling_lower"], lower, atol=1e-10)
    weights = nrl.regress_rdms(named(models), brains(data), fit="nonneg")
    ceilings = means(weights)[["ceiling_lower", "ceiling_upper"]]
    assert_allclose(ceilings.loc["R²"], np.corrcoef(y)[~np.eye(6, dtype=bool)].mean(), atol=1e-10)
    assert ceilings.loc[["a", "b"]].isna().all(axis=None)
    assert weights.differences["p"].isna().all()


def test_a_weight_that_may_be_0_is_not_said_to_be_below():
    models, said = geometry(2, n=12, seed=1), []
    beyond = units(left(models[0], models[1:], "corr")[None], "corr")[0]
    for seed in range(8):
        data = np.random.default_rng(seed).random((8, 66))
        row = means(nrl.partition_variance(named(models), brains(data))).loc["unique a"]
        below = (units(data, "corr") @ beyond).mean() < 0
        said.append((below, row["p"] < 0.05, "below 0" in row["reason"]))
    assert (True, False, False) in said
    assert all(text == (below and significant) for below, significant, text in said)


def test_several_correlations_are_tested_by_their_squares_where_stimuli_are_resampled():
    """Of studies of unrelated models, few have a p < .05; Hotelling's test has it in a quarter."""
    hits, n = 0, 16
    for seed in range(60):
        rng = np.random.default_rng([seed, 78])
        own, *models = (pdist(rng.normal(size=(n, 4)), "sqeuclidean") for _ in range(5))
        data = own * (1 + 0.3 * rng.normal(size=(16, 1))) + 2 * rng.normal(size=(16, len(own)))
        blocks = {"a": named(np.stack(models[:2])), "b": named(np.stack(models[2:]))}
        bootstrap = nrl.Bootstrap("both", n=n + 110, seed=seed)
        table = means(nrl.partition_variance(blocks, brains(data), bootstrap=bootstrap))
        hits += int(table.loc["total", "p"] < 0.05)
    assert hits <= 6


def test_the_test_of_squares_is_a_t_test_of_one_and_exact_for_equal_variances():
    assert_allclose(
        regression._f_test(np.array([0.3]), np.array([[0.01]]), 9, exact=False), 2 * stats.t.sf(3, 9)
    )
    found = regression._f_test(np.array([0.3, 0.1, 0]), 0.01 * np.eye(3), 9, exact=False)
    assert_allclose(found, stats.f.sf(10 / 3, 3, 9))
    one = np.outer([1, 2, 3], [1, 2, 3]) / 100  # a single direction counts once
    found = regression._f_test(np.array([0.1, 0.2, 0.3]), one, 9, exact=False)
    assert_allclose(found, stats.f.sf(1, 1, 9))
    assert_allclose(regression._f_test(np.array([0.1, 0.2, 0.3]), one, 9, exact=True), found)
    assert np.isnan(regression._f_test(np.ones(3), np.eye(3), 2, exact=True))
    assert np.isnan(regression._f_test(np.ones(3), np.zeros((3, 3)), 9, exact=False))


def test_a_model_may_be_several_rdms():
    models, data = geometry(3, n=12, seed=1), geometry(6, n=12, seed=2)
    blocks = {"layers": named(models[:2]), "c": named(models[2:])}
    scores = nrl.partition_variance(blocks, brains(data), crossed=False)
    x, y = units(models, "corr"), units(data, "corr")
    r2 = {part: np.array([r_squared(x[list(part)], rdm) for rdm in y]) for part in ((0, 1), (2,), (0, 1, 2))}
    unique = r2[0, 1, 2] - r2[2,], r2[0, 1, 2] - r2[0, 1]
    want = [*unique, r2[0, 1] + r2[2,] - r2[0, 1, 2], r2[0, 1, 2]]
    assert_allclose(by_layer(scores), want, atol=1e-10)
    assert np.isfinite(means(scores)["p"].astype(float)).all()


def test_the_same_model_twice_explains_nothing_alone():
    data, model = geometry(5, n=12, seed=2), geometry(1, n=12, seed=1)
    table = means(
        nrl.partition_variance(named(np.concatenate([model, 2 * model])), brains(data), bootstrap="both")
    )
    assert_allclose(table.loc[["unique a", "unique b"], "score"].astype(float), 0, atol=1e-10)
    assert table.loc[["unique a", "unique b"], "p"].isna().all()
    assert "nothing of a model is left" in table.loc["unique a", "reason"]
    assert_allclose(table.loc["total", "score"], table.loc["shared a & b", "score"], atol=1e-10)
    weights = means(nrl.regress_rdms(named(np.concatenate([model, 2 * model])), brains(data)))
    assert weights["score"].isna().all()
    assert "not unique" in weights.loc["a", "reason"]


FITS = ["ols", "nonneg", nrl.Ridge(0.3)]


def solved(x: np.ndarray, rdm: np.ndarray, fit) -> np.ndarray:
    """Weights by other software."""
    if fit == "ols":
        return np.linalg.lstsq(x.T, rdm, rcond=None)[0]
    if fit == "nonneg":
        return optimize.nnls(x.T, rdm)[0]
    return linear_model.Ridge(fit.penalty, fit_intercept=False).fit(x.T, rdm).coef_


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fit", FITS, ids=["ols", "nonneg", "ridge"])
def test_weights_are_those_of_other_software(fit, method, controlled):
    models, data, covariates = (geometry(k, seed=seed) for seed, k in enumerate((3, 5, 1)))
    models[2] = 40 - models[2]  # a weight below 0
    scores = nrl.regress_rdms(
        named(models, "abc"),
        brains(data),
        fit=fit,
        comparison=method,
        covariates=named(covariates, "x") if controlled else None,
    )
    x, y = (units(rdms, method, covariates if controlled else None) for rdms in (models, data))
    want = np.array([solved(x, rdm, fit) for rdm in y]).T
    r2 = []
    for k, rdm in enumerate(y):
        predicted = np.delete(want, k, axis=1).mean(axis=1) @ x
        r2.append(1 - ((rdm - predicted) ** 2).sum() / (rdm**2).sum())
    assert_allclose(by_layer(scores), [*want, r2], atol=1e-10)
    table = means(scores)
    p = stats.ttest_1samp([*want, r2], 0, axis=1, alternative="greater").pvalue
    if fit != "ols":
        assert table["p"].iloc[:3].isna().all()
        assert table["reason"].iloc[:3].str.contains("no p").all()
        p = [np.nan] * 3 + [p[3]]
    assert_allclose(table["p"].astype(float), p, atol=1e-10)
    assert len(scores.differences) == 3


@pytest.mark.parametrize("fit", FITS, ids=["ols", "nonneg", "ridge"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_are_computed_anew_in_each_resample(method, fit):
    models, data, covariates = (geometry(k, n=10, seed=seed) for seed, k in enumerate((2, 4, 1)))
    counts = np.stack(
        [np.bincount(np.random.default_rng(k).integers(0, 10, 10), minlength=10) for k in range(3)]
    )
    weights = regression._Weights(fit)
    options = {"covariates": covariates, "ranked": method == "spearman"}
    comparison = find_similarity(method)
    study = regression.RegressionStudy(models, data, comparison, rows=weights, **options)
    shares = regression._Shares((1, 1))
    found = study.resample(counts, np.ones((1, 3, 4), dtype=int)).scores
    semi = study.with_rows(shares).resample(counts, np.ones((1, 3, 4), dtype=int)).scores
    for b, row in enumerate(counts):
        kept = np.isfinite(expanded(models, row)[0])
        a, y, c = (expanded(rdms, row)[:, kept] for rdms in (models, data, covariates))
        x, y = (units(rdms, method, c) for rdms in (a, y))
        assert_allclose(found[b, :2], np.array([solved(x, rdm, fit) for rdm in y]).T, atol=1e-9)
        total = shares.coefficients[-1] @ semi[b] ** 2
        assert_allclose(total, [r_squared(x, rdm) for rdm in y], atol=1e-9)


def test_variances_of_shares_are_those_of_their_resamples():
    """Standard errors by components are near the spread of estimates over studies of new stimuli."""
    estimates, errors = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        parts = np.stack([pdist(rng.normal(size=(16, 4)), "sqeuclidean") for _ in range(3)])
        models = np.stack([parts[0] + parts[1], parts[0] + parts[2]])
        data = parts.sum(axis=0) + 6 * rng.normal(size=(8, 120))
        bootstrap = nrl.Bootstrap("both", n=150, seed=seed)
        table = means(nrl.partition_variance(named(models), brains(data), bootstrap=bootstrap))
        row = table.loc["shared a & b"]
        estimates.append(row["score"])
        errors.append((row["ci_high"] - row["ci_low"]) / 2 / stats.t.ppf(0.975, 7))
    assert 0.7 < np.mean(errors) / np.std(estimates) < 1.5


def test_bad_input_of_regressions():
    models, data = geometry(5, seed=1), geometry(3, seed=2)
    people = brains(data)
    with pytest.raises(NeurordlError, match="2 to 4 models, not 1"):
        nrl.partition_variance(named(models[:1]), people)
    with pytest.raises(NeurordlError, match="not 5; give one model several RDMs"):
        nrl.partition_variance(named(models, "abcde"), people)
    with pytest.raises(NeurordlError, match=r"one subject \(p0\) cannot be crossed"):
        nrl.partition_variance(named(models[:2]), brains(data[:1]))
    with pytest.raises(NeurordlError, match="no unbiased form for new stimuli"):
        nrl.partition_variance(named(models[:2]), people, crossed=False, bootstrap="both")
    with pytest.raises(NeurordlError, match="has no partial form"):
        nrl.partition_variance(named(models[:2]), people, comparison="rho-a")
    with pytest.raises(NeurordlError, match="fit='lasso'"):
        nrl.regress_rdms(named(models[:2]), people, fit="lasso")
    with pytest.raises(NeurordlError, match="several RDMs"):
        nrl.regress_rdms({"a": named(models[:2]), "b": named(models[2:3])}, people)
    with pytest.raises(NeurordlError, match="penalty"):
        nrl.Ridge(0)
    flat = data.copy()
    flat[1] = 1
    with pytest.raises(NeurordlError, match="RDMs of subjects p1 are constant"):
        nrl.regress_rdms(named(models[:2]), brains(flat))


def test_a_single_subject_has_its_own_shares():
    models, data = geometry(2, n=14, seed=1), geometry(1, n=14, seed=2)
    own = nrl.partition_variance(named(models), brains(data), crossed=False)
    assert np.isfinite(means(own)["score"].astype(float)).all()
    assert means(own)[["ci_low", "p"]].isna().all(axis=None)
    over_stimuli = means(nrl.partition_variance(named(models), brains(data), bootstrap="stimuli"))
    assert np.isfinite(over_stimuli[["score", "ci_low", "p"]].astype(float)).all(axis=None)
    assert (over_stimuli["score"] < means(own)["score"]).loc[["unique a", "unique b"]].all()
    weights = means(nrl.regress_rdms(named(models), brains(data)))
    assert weights["p"].isna().all()
    assert "one subject" in weights.loc["R²", "reason"]


def test_records_and_files_of_a_regression(tmp_path):
    models, data = geometry(2, seed=1), geometry(3, seed=2)
    people = as_rdms(
        np.concatenate([data, data]), subject=["p0", "p1", "p2"] * 2, roi=["V1"] * 3 + ["IT"] * 3
    )
    scores = nrl.partition_variance(named(models), people, bootstrap="subjects")
    assert scores.frame["roi"].unique().tolist() == ["V1", "IT"]
    assert scores.frame["family"].max() == "8 tests of the table"
    assert scores.frame["comparison"].unique() == ["share of variance (corr)"]
    folder = scores.save(tmp_path / "out")
    assert (folder / "evaluation.json").exists()
    assert "unique a" in str(scores)
    assert "unique a" in scores._repr_html_()
    assert len(scores.differences) == 12
    with pytest.raises(NeurordlError, match="mean RDM"):
        scores.group_rows()
    with pytest.raises(NeurordlError, match="no form in rsatoolbox"):
        scores.to_rsatoolbox("V1")
    assert nrl.plot_scores(scores).get_ylabel() == "share of variance (corr)"
    page = scores.to_html(tmp_path / "page.html", figures=False).read_text(encoding="utf-8")
    assert "was regressed on those of 2 models (a, b) on all pairs of 9 stimuli" in page
    assert "p-values (above zero; of unique shares" in page
    controls = nrl.Partial({"a": named(models[:1])})
    page = nrl.evaluate({"b": named(models[1:])}, people, comparison=controls).to_html(
        tmp_path / "partial.html"
    )
    assert "by partial spearman on all pairs of 9 stimuli; a was controlled for." in page.read_text("utf-8")


@pytest.mark.parametrize("function", [nrl.partition_variance, nrl.regress_rdms])
def test_each_time_is_regressed(function):
    models, data = geometry(2, seed=1), geometry(6, seed=2)
    times = np.repeat([0.1, 0.2], 3)
    people = as_rdms(data, subject=["p0", "p1", "p2"] * 2, time=times.tolist())
    together = function(named(models), people)
    assert together.frame["time"].unique().tolist() == [0.1, 0.2]
    for k, time in enumerate((0.1, 0.2)):
        alone = function(named(models), brains(data[3 * k : 3 * k + 3])).frame["score"]
        assert_allclose(together.frame.loc[together.frame["time"] == time, "score"], alone, atol=1e-12)
    assert "2 times" in together.title
    with pytest.raises(NeurordlError, match=r"one time|no shares"):
        nrl.plot_partition(together)


def test_a_model_without_a_value_is_refused():
    models, people = geometry(3, seed=1), brains(geometry(4, seed=2))
    models[1] = np.nan
    for function in (nrl.partition_variance, nrl.regress_rdms):
        with pytest.raises(NeurordlError, match="model 'b' has no measured pair"):
            function(named(models, "abc"), people)


@pytest.mark.parametrize("function", [nrl.partition_variance, nrl.regress_rdms])
def test_names_repeats_and_schemes_that_the_table_cannot_have(function):
    models, data = geometry(2, seed=1), geometry(4, seed=2)
    with pytest.raises(NeurordlError, match="a subject is called 'mean', a word that the table needs"):
        function(named(models), as_rdms(data, subject=["p0", "mean", "p2", "p3"]))
    with pytest.raises(NeurordlError, match="a Jackknife is for evaluate_fitted"):
        function(named(models), brains(data), bootstrap=nrl.Jackknife("both"))
    data[3] = 2 * data[1]
    with pytest.warns(UserWarning, match="subjects with the same RDM .* p1 = p3"):
        scores = function(named(models), brains(data))
    assert any("p1 = p3" in note for note in scores.settings["notices"])
    with pytest.raises(NeurordlError, match="a model is called 'R²'"):
        nrl.regress_rdms(as_rdms(models, name=["R²", "b"]), brains(geometry(4, seed=2)))


@pytest.mark.parametrize("fit", ["nonneg", nrl.Ridge(0.1), nrl.Ridge(0.1, nonnegative=True)], ids=str)
def test_a_constant_model_among_others(fit):
    """Ridge gives it no weight, and predicts as without it; without a penalty weights are not unique."""
    models, people = geometry(3, seed=1), brains(geometry(5, seed=2))
    models[1] = 3
    table = means(nrl.regress_rdms(named(models, "abc"), people, fit=fit))
    if fit == "nonneg":
        assert table["score"].isna().all()
        assert table["reason"].str.contains("not unique").all()
        return
    want = means(nrl.regress_rdms(named(models[[0, 2]], "ac"), people, fit=fit))
    assert_allclose(table.loc[["a", "c", "R²"], "score"], want["score"], atol=1e-10)
    assert table.loc["b", "score"] == 0


@pytest.mark.parametrize("bootstrap", [None, "both"])
def test_weights_of_0_or_more_that_are_not_unique_are_undefined(bootstrap):
    models, people = geometry(3, seed=1), brains(geometry(5, seed=2))
    for third in (2 * models[0], models[0] + models[1]):
        models[2] = third
        table = means(nrl.regress_rdms(named(models, "abc"), people, fit="nonneg", bootstrap=bootstrap))
        assert table["score"].isna().all()
        assert table["reason"].str.contains("not unique").all()


@pytest.mark.parametrize("bootstrap", [None, "both"])
def test_shares_that_are_only_rounding_are_not_tested(bootstrap):
    models, people = geometry(3, n=12, seed=1), brains(geometry(6, n=12, seed=2))
    models[1] = 3
    found = nrl.partition_variance(named(models, "abc"), people, bootstrap=bootstrap)
    table = means(found)
    rounding = ["unique b", "shared a & b", "shared b & c", "shared a & b & c"]
    assert (table.loc[rounding, ["score", "ci_low", "ci_high"]].astype(float) == 0).all(axis=None)
    assert table.loc[rounding, "p"].isna().all()
    assert table.loc["total", "family"] == "4 tests of the table"
    between = found.differences.set_index(["layer_a", "layer_b"])
    assert np.isnan(between.loc[("unique b", "shared a & b"), "p"])
    assert np.isfinite(between.loc[("unique a", "total"), "p"])


def test_notes_say_what_p_of_shares_is():
    """Hotelling's test and the interval of a sum of squares are not of the same."""
    rng, models = np.random.default_rng(3), geometry(2, n=12, seed=1)
    x = units(models, "corr")
    for _ in range(200):
        data = 0.12 * x[0] + 0.1 * x[1] + 0.1 * rng.normal(size=(6, 66))
        scores = nrl.partition_variance(named(models), brains(data))
        total = means(scores).loc["total"]
        if total["p"] < 0.05 and total["ci_low"] <= 0:
            break
    else:
        raise AssertionError("no such study")
    assert any("p tests the correlations of which a share consists" in note for note in scores.notes)
    assert not any("one-sided" in note for note in scores.notes)


def test_weights_over_time_have_clusters_and_onsets():
    rng, times = np.random.default_rng(0), np.arange(6) / 10
    models = geometry(3, n=12, seed=1)
    data = rng.normal(size=(6, 8, 66)) / 9 + (times >= 0.2)[:, None, None] * units(models[:1], "corr")
    people = as_rdms(
        data.reshape(-1, 66), subject=[f"p{k}" for k in range(8)] * 6, time=np.repeat(times, 8).tolist()
    )
    scores = nrl.regress_rdms(named(models, "abc"), people)
    clusters = nrl.time_clusters(scores)
    first = clusters[clusters["layer"] == "a"].iloc[-1]
    assert (first["start"], first["stop"], first["n_subjects"]) == (0.2, 0.5, 8)
    weights = by_time(scores, "a")
    t = stats.ttest_1samp(weights, 0).statistic
    assert_allclose(first["statistic"], t[2:].sum())
    assert nrl.latencies(scores).set_index("layer").loc["a", "onset"] == 0.2
    with pytest.warns(UserWarning, match=r"leave out 3 layers \(a, b, c\): weights of this fit are not 0"):
        table = nrl.time_clusters(nrl.regress_rdms(named(models, "abc"), people, fit="nonneg"))
    assert set(table["layer"]) == {"R²"}
    for test in (nrl.time_clusters, nrl.latencies):
        with pytest.raises(NeurordlError, match="shares of variance are squares, whose signs"):
            test(nrl.partition_variance(named(models[:2]), people))


def by_time(scores: nrl.Evaluation, layer: str) -> np.ndarray:
    """Scores of a layer, (subjects, times)."""
    frame = scores.frame[(scores.frame["subject"] != "mean") & (scores.frame["layer"] == layer)]
    return frame.pivot(index="subject", columns="time", values="score").to_numpy()


def test_a_weight_below_0_is_said():
    models, rng = geometry(2, n=12, seed=1), np.random.default_rng(0)
    rest = units(left(models[1], models[:1], "corr")[None], "corr")[0]
    data = units(models[:1], "corr") - 0.5 * rest + 0.02 * rng.normal(size=(6, 66))
    scores = nrl.partition_variance(named(models), brains(data))
    assert means(scores)["reason"].tolist()[:2] == [
        "",
        "the model is unlike the subjects beyond the others: its weight is below 0",
    ]
    assert any("unique b" in note and "below 0" in note for note in scores.notes)


def test_resamples_are_the_same_in_parts(monkeypatch):
    models, data = geometry(2, seed=1), geometry(3, seed=2)
    options = {"bootstrap": nrl.Bootstrap("both", n=120)}
    whole = nrl.partition_variance(named(models), brains(data), **options).frame["ci_high"]
    monkeypatch.setattr(regression, "_BYTES", 8 * 5**2 * 7)
    parts = nrl.partition_variance(named(models), brains(data), **options).frame["ci_high"]
    assert_allclose(parts, whole, rtol=1e-9)
