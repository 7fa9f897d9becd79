"""Bayes factors of differences: against pingouin's numbers, and the integral over effects instead of g."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, stats

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.rsa.inference.infer import bayes_factor
from tests.helpers import random_rdms

IDS = [f"s{k}" for k in range(10)]


@pytest.mark.parametrize(
    ("t", "n", "usual", "wide"),
    [  # bayesfactor_ttest(t, n, paired=True, r=...) of pingouin 0.7.0, r = .707 and 1
        (0.0, 5, 0.3974031233361965, 0.30879355670824493),
        (0.5, 8, 0.3733435968841134, 0.28716661316366726),
        (2.3, 12, 1.8945814483907115, 1.670581466617038),
        (-3.1, 20, 7.9803224452758945, 7.216480136836733),
        (8.0, 30, 1598180.1821287302, 1861397.2146881067),
    ],
)
def test_equals_pingouin(t, n, usual, wide):
    assert_allclose([bayes_factor(t, n, 0.707), bayes_factor(t, n, 1.0)], [usual, wide], rtol=1e-8)


@pytest.mark.parametrize(("t", "n"), [(0.3, 6), (-2.0, 10), (4.0, 25)])
def test_equals_the_integral_over_effects(t, n):
    def weight(effect: float) -> float:
        return stats.nct.pdf(t, n - 1, effect * np.sqrt(n)) * stats.cauchy.pdf(effect, scale=0.5)

    marginal = integrate.quad(weight, -8, 8, limit=200, points=[t / np.sqrt(n)])[0]
    assert_allclose(bayes_factor(t, n, 0.5), marginal / stats.t.pdf(t, n - 1), rtol=1e-8)


def test_of_far_and_undefined_values():
    assert bayes_factor(1000.0, 50, 0.707) > 1e50
    assert np.isnan(bayes_factor(np.nan, 8, 0.707))
    assert np.isnan(bayes_factor(np.inf, 8, 0.707))
    assert np.isnan(bayes_factor(1.0, 1, 0.707))


def scores(**options):
    names = [f"p{k}" for k in range(6)]  # fewer people have IT than V1
    people = random_rdms(IDS, subject=names + names[:4], roi=["V1"] * 6 + ["IT"] * 4)
    return nrl.evaluate(random_rdms(IDS, name=list("abc"), seed=2), people, comparison="corr", **options)


def test_table_of_differences():
    evaluation = scores()
    table = evaluation.bayes_factors(0.5)
    assert list(table.columns) == [*evaluation.differences.columns, "bf10"]
    for row in table.itertuples():
        values = evaluation.inferences[row.roi].scores
        first, second = (values["abc".index(layer)] for layer in (row.layer_a, row.layer_b))
        test = stats.ttest_rel(first, second)
        assert_allclose(row.p, test.pvalue, rtol=1e-9)
        assert_allclose(row.bf10, bayes_factor(test.statistic, len(first), 0.5), rtol=1e-9)
    one = scores(subjects="p1")
    assert one.bayes_factors()["bf10"].isna().all()


def test_what_has_no_bayes_factor():
    with pytest.raises(NeurordlError, match="plain t tests over subjects"):
        scores(bootstrap="subjects").bayes_factors()
    people, models = random_rdms(IDS, subject=list("xyz")), random_rdms(IDS, name=list("ab"), seed=2)
    with pytest.raises(NeurordlError, match="not shares of variance"):
        nrl.partition_variance(models, people).bayes_factors()
    assert np.isfinite(nrl.regress_rdms(models, people).bayes_factors()["bf10"]).all()
    assert nrl.regress_rdms(models, people, fit="nonneg").bayes_factors()["bf10"].isna().all()
    with pytest.raises(NeurordlError, match="scale"):
        scores().bayes_factors(0)
