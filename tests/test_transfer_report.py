"""The statistics of the transfer study, against counts by hand and other programs' numbers."""

from __future__ import annotations

import importlib
import sys
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

FOLDER = Path(__file__).parents[1] / "benchmarks" / "transfer"


@pytest.fixture(scope="module")
def report():
    """The script; its neighbours are imported by their file names, as when it is run."""
    sys.path.insert(0, str(FOLDER))
    before = set(sys.modules)
    try:
        yield importlib.import_module("report")
    finally:
        sys.path.remove(str(FOLDER))
        for name in {path.stem for path in FOLDER.glob("*.py")} - before:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def compared(report):
    """The script's statistics."""
    return sys.modules["compared"]


def outcomes(both: int, first: int, second: int, neither: int):
    """Two students' outcomes with these counts of images."""
    counts = (both, first, second, neither)
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def two_sided(wins: int, losses: int) -> float:
    """Twice the smaller tail of a fair coin."""
    n, smaller = wins + losses, min(wins, losses)
    return min(1.0, 2 * sum(comb(n, k) for k in range(smaller + 1)) / 2**n)


@pytest.mark.parametrize(
    "counts", [(5, 9, 2, 4), (0, 1, 8, 0), (3, 4, 4, 1), (900, 40, 15, 45), (7, 0, 6, 0)]
)
def test_mcnemar_is_a_sum_over_discordant_images(compared, counts):
    assert compared.mcnemar(*outcomes(*counts)) == pytest.approx(two_sided(counts[1], counts[2]), rel=1e-9)


def test_mcnemar_without_discordant_images_is_1(compared):
    assert compared.mcnemar(*outcomes(8, 0, 0, 3)) == 1.0


def test_p_over_seeds_is_twice_the_median_and_at_most_1(compared):
    assert compared.over_seeds([0.001, 0.3, 0.02]) == 0.04
    assert compared.over_seeds([0.01, 0.02, 0.03, 0.9]) == pytest.approx(0.05)
    assert compared.over_seeds([0.9, 0.8]) == 1.0


def test_p_over_seeds_that_share_their_images_is_not_below_the_level_too_often(compared):
    """Under the null, pooled discordant pairs of seeds that share images would be rejected far too often."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(300):
        wins = rng.binomial(60, 0.5)  # hard images, the same for all seeds
        p_values.append(compared.over_seeds([two_sided(wins, 60 - wins)] * 5))
    assert np.mean(np.array(p_values) < 0.05) <= 0.05


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (-0.9, 0.2, "yes"),
        (0.1, 0.8, "yes"),
        (-3.0, -1.1, "no"),
        (-1.5, 0.4, "undecided"),
        (-1.0, 0.4, "undecided"),
        (np.nan, np.nan, "undecided"),
    ],
)
def test_competitive_is_above_the_margin(compared, low, high, expected):
    assert compared.decision(low, high) == expected


def study(accuracy: dict[str, list[float]], n: int = 1000):
    """A table of a cell and outcomes of n images, of which the first ones are classified correctly."""
    rows = [
        {"cell": "mnist", "condition": name, "ratio": 2.0, "seed": seed, "accuracy": value}
        for name, values in accuracy.items()
        for seed, value in enumerate(values)
    ]
    right = {(row["condition"], row["seed"]): np.arange(n) < row["accuracy"] * n / 100 for row in rows}
    return pd.DataFrame(rows), right


ACCURACY = {
    "labels": [80.0, 81.0, 79.0],
    "RDL": [84.0, 84.5, 83.5],
    "RDL, mse": [84.1, 84.9, 83.2],
    "SP": [84.2, 84.9, 83.6],
    "soft targets": [92.0, 92.5, 91.0],
    "RDL, permuted": [80.2, 80.9, 79.1],
}


def test_differences_are_paired_and_have_t_intervals(compared):
    table, right = study(ACCURACY)
    steps = compared.comparisons(table, right, "RDL").set_index(["first", "second"])
    expected = np.subtract(ACCURACY["RDL"], ACCURACY["labels"])
    low, high = stats.ttest_1samp(expected, 0).confidence_interval()
    row = steps.loc[("RDL", "labels")]
    assert [row["difference"], row["low"], row["high"]] == pytest.approx([expected.mean(), low, high])
    back = steps.loc[("RDL", "soft targets")]
    expected = np.subtract(ACCURACY["RDL"], ACCURACY["soft targets"])
    assert back["difference"] == pytest.approx(expected.mean())
    assert back["competitive"] == "no"
    assert steps.loc[("RDL", "SP"), "competitive"] == "yes"


def test_holm_is_over_all_comparisons_of_a_cell(compared):
    table, right = study(ACCURACY)
    steps = compared.comparisons(table, right, "RDL, mse")
    assert len(steps) == 5 + 4 + 3  # less labels; RDL less the others; its variant less the rest
    assert not steps.duplicated(["first", "second"]).any()
    order = steps["p"].sort_values()
    running = 0.0
    for place, (row, p) in enumerate(order.items()):
        running = max(running, min(1.0, p * (len(steps) - place)))
        assert steps.loc[row, "p_holm"] == pytest.approx(running)


def test_the_variant_is_chosen_on_validation_images(compared):
    scores = {"RDL": 0.80, "RDL, mse": 0.83, "RDL + soft targets": 0.95, "SP": 0.9}
    validation = {name: {"validation accuracy": {"0.5": 0.1, "2": value}} for name, value in scores.items()}
    assert compared.best_variant(validation, [*scores, "RDL, permuted"]) == "RDL, mse"
    assert compared.best_variant(validation, ["labels", "RDL", "SP"]) == "RDL"


def test_what_rdl_adds_to_soft_targets_is_a_comparison(report, compared):
    table, right = study({**ACCURACY, "RDL + soft targets": [90.0, 90.3, 89.2]})
    steps = compared.comparisons(table, right, "RDL")
    row = steps.set_index(["first", "second"]).loc[("RDL + soft targets", "soft targets")]
    assert row["difference"] == pytest.approx(-2.0)
    assert "RDL takes away from soft targets" in report.controls(steps)[-1]


@pytest.mark.parametrize(
    "rivals, expected",
    [
        ([84.0, 83.0], "confirmed"),
        ([84.0, 90.0], "qualified"),
        ([90.0, 91.0], "contradicted"),
        ([90.0, 85.0], "not confirmed"),
    ],
)
def test_the_verdict_on_rivals(report, compared, rivals, expected):
    """RDL has 84 ± 0.5; its difference from a rival of 85 varies around the margin."""
    accuracy = {"labels": [80.0, 80.5, 79.5], "RDL": [84.0, 84.5, 83.5]}
    for name, mean in zip(("SP", "CC"), rivals, strict=True):
        accuracy[name] = [mean, mean + 0.3, mean - 0.4]
    table, right = study(accuracy)
    assert report.competitiveness(compared.comparisons(table, right, "RDL"), "RDL")[0] == expected


def test_sentences_say_what_the_numbers_say(report, compared):
    table, right = study(ACCURACY)
    steps = compared.comparisons(table, right, "RDL")
    assert report.improvement(steps, "RDL")[0] == "confirmed"
    assert report.improvement(steps, "RDL, permuted")[0] == "not confirmed"
    word, text = report.competitiveness(steps, "RDL")
    assert word == "qualified"
    assert "competitive with 1 of 2 rivals (SP), not with soft targets" in text
    assert "worse than soft targets" in text
    assert "the teacher's geometry of the images matters" in " ".join(report.controls(steps))
    judged = report.sentences("mnist", table, steps, "RDL")
    assert "The margin is 6 % of the errors of RDL." in judged
    assert "hardly any rival could fail" not in judged
    near = table.assign(accuracy=table["accuracy"].where(table["condition"] != "RDL", 99.2))
    assert "hardly any rival could fail" in report.sentences("mnist", near, steps, "RDL")
    rows = report.cell_table(table, steps, "RDL").splitlines()
    assert rows[2].startswith("| soft targets | 2 | 91.83 |")


@pytest.mark.parametrize(
    "accuracy, kept, expected",
    [
        ((1, 3), (2, 4), "more robust"),
        ((1, 3), (-1, 4), "not shown to be more robust"),
        ((-1, 3), (2, 4), "not shown to be more robust"),
        ((1, 3), (-4, -2), "less robust"),
    ],
)
def test_robust_is_better_on_worse_images_by_more_than_on_clean_ones(report, accuracy, kept, expected):
    steps = [pd.Series(bounds, ["low", "high"]) for bounds in (accuracy, kept)]
    assert sys.modules["sections"].robust(*steps) == expected
