"""Statistics of the transfer study, and the words for them.

*Differences* are paired over seeds, which differ in labelled images, stimuli and initial weights; their 95 %
t intervals are for other seeds and these test images. *McNemar's exact test* is for other test images and
these two students: it asks whether two students of a seed err on equally many images. Seeds share the test
images, so their discordant pairs must not be pooled; the p-value over seeds is twice the median of the seeds'
p-values, at most 1, which holds for any dependence between them (Rüger 1978, Metrika 25:171). Holm's
correction is over all tests of a cell. A difference is called significant if its interval leaves out 0 and
its corrected p-value is below .05. *Competitive* means that the interval of the difference lies above -1
percentage point.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from conditions import CELLS
from scipy.stats import binomtest

from neurordl.experiments import paired_differences
from neurordl.rsa.inference.infer import correct

Right = Mapping[tuple[str, int], npt.NDArray[np.bool_]]
"""Whether each test image was classified correctly, by condition and seed."""

MARGIN, ALPHA = -1.0, 0.05
"""Difference in percentage points above which a method is competitive; and the level of tests."""

BASELINE, METHOD = "labels", "RDL"
BOTH = ("RDL + soft targets", "soft targets")
"""What RDL adds to soft targets."""

NO_TRANSFER = (BASELINE, "deep supervision")
TITLES = {"mnist": "MNIST", "cifar100": "CIFAR-100"}


def is_variant(condition: str) -> bool:
    """Whether a condition is RDL alone, with a teacher that is not permuted."""
    return condition.startswith(METHOD) and "permuted" not in condition and "+" not in condition


def is_rival(condition: str) -> bool:
    """Whether a condition is another way to learn from the teacher."""
    return METHOD not in condition and condition not in NO_TRANSFER


# --- statistics ---------------------------------------------------------------------------------------------


def mcnemar(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """The two-sided p of McNemar's exact test: a binomial test of the images that only one gets right."""
    wins, losses = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def over_seeds(p_values: Sequence[float]) -> float:
    """One p-value from those of dependent tests: twice their median."""
    return float(min(1.0, 2 * np.median(p_values)))


def decision(low: float, high: float, margin: float = MARGIN) -> str:
    """Whether an interval lies above a margin ("yes"), below it ("no") or around it ("undecided")."""
    if low > margin:
        return "yes"
    return "no" if high < margin else "undecided"


def best_variant(validation: Mapping[str, Mapping[str, Any]], conditions: Sequence[str]) -> str:
    """The variant of RDL of the highest accuracy on validation images, each with its best weight."""
    scores = {
        name: max(validation[name]["validation accuracy"].values())
        for name in conditions
        if is_variant(name) and name in validation
    }
    return max(scores, key=lambda name: scores[name]) if scores else METHOD


def comparisons(table: pd.DataFrame, right: Right, best: str) -> pd.DataFrame:
    """Each condition less labels, RDL and its best variant less each other one, and what RDL adds.

    Parameters
    ----------
    table
        The accuracies of a cell, a row per fit.
    right
        Which images were classified correctly.
    best
        The variant of RDL that validation images chose.

    Returns
    -------
    DataFrame
        Columns ``first``, ``second``, ``difference`` (percentage points), ``low``, ``high``, ``n`` (seeds),
        ``p`` (over seeds), ``p_holm`` (of all rows), ``competitive``.
    """
    conditions = list(table["condition"].unique())
    pairs = [(name, BASELINE) for name in conditions if name != BASELINE]
    for method in dict.fromkeys((METHOD, best)):
        known = {BASELINE, METHOD, method}
        pairs += [(method, name) for name in conditions if name not in known and method in conditions]
    pairs += [BOTH] if set(BOTH) <= set(conditions) else []
    rows = []
    for first, second in pairs:
        both = table[table["condition"].isin((first, second))]
        step = paired_differences(both, "accuracy", reference=second).iloc[0]
        seeds = [seed for name, seed in right if name == first and (second, seed) in right]
        p_values = [mcnemar(right[first, seed], right[second, seed]) for seed in seeds]
        rows.append(
            {
                "first": first,
                "second": second,
                "difference": step["difference"],
                "low": step["ci_low"],
                "high": step["ci_high"],
                "n": len(seeds),
                "p": over_seeds(p_values) if seeds else np.nan,
            }
        )
    result = pd.DataFrame(rows)
    result["p_holm"] = correct(result["p"].to_numpy(float), "holm")
    result["competitive"] = [
        decision(low, high) for low, high in zip(result["low"], result["high"], strict=True)
    ]
    return result


def verdict(row: pd.Series) -> str:
    """Whether a difference is significantly above ("better") or below zero ("worse"), or neither ("no")."""
    if row["p_holm"] < ALPHA and row["low"] > 0:
        return "better"
    return "worse" if row["p_holm"] < ALPHA and row["high"] < 0 else "no"


# --- words --------------------------------------------------------------------------------------------------


def title(name: str) -> str:
    """A cell in words."""
    cell = CELLS[name]
    depth = f" of {cell.options['depth']} layers" if "depth" in cell.options else ""
    number = "all labels" if cell.labels is None else f"{cell.labels} labels a class"
    return f"{TITLES[cell.source]}, {number}, student {cell.student}{depth}"


def shown(condition: str) -> str:
    """A condition's name in a sentence: "RDL (mse, several layers)"."""
    name, comma, rest = condition.partition(", ")
    return f"{name} ({rest})" if comma else name


def p_text(p: float) -> str:
    """A p-value with three decimals."""
    return "" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def interval(row: Any) -> str:
    """A difference and its interval."""
    return f"{row['difference']:+.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def markdown(rows: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def equals(p: float) -> str:
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"


def listing(conditions: Sequence[str]) -> str:
    """Names in a sentence."""
    names = [shown(name) for name in conditions]
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def slug(name: str) -> str:
    """A cell's name in file names."""
    return re.sub(r"\W+", "_", name)
