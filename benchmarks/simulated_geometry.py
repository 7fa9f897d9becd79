"""Does the known geometry come back? 500 simulated subjects, and what naive distances and whitening do.

Each subject has the same eight true patterns, two of which are equal, measured in four runs with noise that
is correlated over channels. `neurordl.compute_rdms` is called as a user calls it. Beside the true distances:

- crossnobis without whitening and with the known precision: unbiased. The largest |z| over all pairs has to
  be below the bound that chance exceeds in 1 of 100 such tables (Bonferroni over the pairs);
- crossnobis whitened by a covariance estimated from residuals that are independent of the patterns: zero on
  average where patterns are equal, and otherwise scaled: with the sample covariance by
  dof / (dof - channels - 1) (the mean of an inverse Wishart matrix), with shrinkage by less than 1 here;
- the naive distance (of mean patterns): too large by twice the noise of a mean, also where they are equal.

    python benchmarks/simulated_geometry.py       # about a minute; table and figure in results/
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rsatoolbox.data import Dataset
from scipy import stats

import neurordl as nrl
from neurordl.io import atomic_write, versions, write_json, write_text

RESULTS = Path(__file__).parent / "results"
STIMULI, CHANNELS, RUNS = 8, 30, 4
IDS = [f"s{k}" for k in range(STIMULI)]
DOFS = (40, 60, 100, 200, 500)
ESTIMATORS = ("full", "shrinkage_diag", "shrinkage_eye", "diagonal")
ROW, COLUMN = np.triu_indices(STIMULI, 1)


def truth() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """True patterns, of which the last two are equal, and the noise covariance of a measurement."""
    rng = np.random.default_rng(0)
    patterns = 0.6 * rng.standard_normal((STIMULI, CHANNELS))
    patterns[-1] = patterns[-2]
    away = np.abs(np.subtract.outer(np.arange(CHANNELS), np.arange(CHANNELS)))
    scale = rng.uniform(0.6, 1.6, CHANNELS)
    return patterns, scale[:, None] * (0.7**away) * scale[None]


def distances(patterns: np.ndarray[Any, Any], precision: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    difference = patterns[ROW] - patterns[COLUMN]
    return np.einsum("pi,ij,pj->p", difference, precision, difference) / CHANNELS


def simulate(n: int, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """RDMs of each method, (simulations, pairs)."""
    patterns, covariance = truth()
    root, precision = np.linalg.cholesky(covariance), np.linalg.inv(covariance)
    distances: dict[str, list[Any]] = {}
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        noise = rng.standard_normal((RUNS, STIMULI, CHANNELS)) @ root.T
        data = Dataset(
            (patterns + noise).reshape(-1, CHANNELS),
            obs_descriptors={"stimulus": IDS * RUNS, "run": np.repeat(np.arange(RUNS), STIMULI).tolist()},
        )
        calls: dict[str, dict[str, Any]] = {
            "naive": {"dissimilarity": "euclidean"},
            "crossnobis": {"dissimilarity": "crossnobis"},
            "crossnobis, known precision": {"dissimilarity": "crossnobis", "precision": precision},
            "naive, known precision": {"dissimilarity": "mahalanobis", "precision": precision},
        }
        for dof in DOFS:
            rows = rng.standard_normal((dof + 1, CHANNELS)) @ root.T
            for noise_name in ESTIMATORS:
                calls[f"crossnobis, {noise_name}, {dof}"] = {
                    "dissimilarity": "crossnobis",
                    "noise": nrl.Noise(noise_name, Dataset(rows)),
                }
        for name, call in calls.items():
            distances.setdefault(name, []).append(nrl.compute_rdms(data, **call).dissimilarities[0])
    return {name: np.stack(rows) for name, rows in distances.items()}


def table(distances: dict[str, np.ndarray[Any, Any]]) -> pd.DataFrame:
    """For each method: the largest |z| over pairs, that of the equal pair, and the scale."""
    patterns, covariance = truth()
    plain, white = distances(patterns, np.eye(CHANNELS)), distances(patterns, np.linalg.inv(covariance))
    equal = (ROW == STIMULI - 2) & (COLUMN == STIMULI - 1)
    rows = []
    for name, values in distances.items():
        diagonal = "diagonal" in name
        whitened = ("," in name) and not diagonal
        true = white if whitened else plain
        if diagonal:  # what it estimates: noise variances alone
            true = distances(patterns, np.diag(1 / np.diag(covariance)))
        z = (values.mean(0) - true) / (values.std(0, ddof=1) / np.sqrt(len(values)))
        rows.append(
            {
                "method": name,
                "largest_z": float(abs(z).max()),
                "z_of_equal_pair": float(z[equal][0]),
                "mean_of_equal_pair": float(values.mean(0)[equal][0]),
                "scale": float(values.mean(0)[~equal].sum() / true[~equal].sum()),
            }
        )
    return pd.DataFrame(rows)


def check(result: pd.DataFrame, bound: float) -> None:
    """What the module's docstring says, or an AssertionError."""
    by = result.set_index("method")
    for name in ("crossnobis", "crossnobis, known precision"):
        assert by.loc[name, "largest_z"] < bound, (name, by.loc[name, "largest_z"], bound)
    estimated = [name for name in by.index if name.startswith("crossnobis, ") and "known" not in name]
    equal_bound = stats.norm.isf(0.01 / 2 / len(estimated))
    for name in estimated:
        assert abs(by.loc[name, "z_of_equal_pair"]) < equal_bound, (name, by.loc[name, "z_of_equal_pair"])
    for name in ("naive", "naive, known precision"):
        assert by.loc[name, "z_of_equal_pair"] > 10
    for dof in DOFS:
        expected = dof / (dof - CHANNELS - 1)
        assert abs(by.loc[f"crossnobis, full, {dof}", "scale"] / expected - 1) < 0.1


def plot(distances: dict[str, np.ndarray[Any, Any]], result: pd.DataFrame, bound: float) -> Figure:
    patterns, covariance = truth()
    true = distances(patterns, np.linalg.inv(covariance))
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    colours = {"naive, known precision": "#D55E00", "crossnobis, known precision": "#0072B2"}
    for name, colour in colours.items():
        values = distances[name]
        left.errorbar(
            true,
            values.mean(0),
            yerr=values.std(0),
            fmt="o",
            color=colour,
            ms=4,
            lw=0.8,
            label=name.split(",")[0],
        )
    most = 1.1 * distances["naive, known precision"].mean(0).max()
    left.plot([0, most], [0, most], color="0.5", lw=0.8, zorder=0)
    left.set(
        xlabel="true distance",
        ylabel="estimate (mean ± SD of subjects)",
        title="the naive distance is biased",
    )
    left.legend(frameon=False, loc="upper left")

    values = distances["crossnobis, known precision"]
    z = (values.mean(0) - true) / (values.std(0, ddof=1) / np.sqrt(len(values)))
    middle.scatter(np.arange(len(z)), z, s=14, color="#0072B2")
    for line in (-bound, bound):
        middle.axhline(line, color="0.5", ls="--", lw=0.8)
    middle.axhline(0, color="0.5", lw=0.8)
    middle.set(
        xlabel="pair of stimuli",
        ylabel="z of the mean",
        ylim=(-1.3 * bound, 1.3 * bound),
        title="crossnobis is not (dashed: 1 % bound)",
    )

    scale = result.set_index("method")["scale"]
    dofs = np.linspace(min(DOFS), max(DOFS), 300)
    right.plot(dofs, dofs / (dofs - CHANNELS - 1), color="0.5", lw=0.8, label="theory, full")
    marks = {"full": ("#D55E00", "o"), "shrinkage_diag": ("#0072B2", "s"), "shrinkage_eye": ("#009E73", "^")}
    for name, (colour, mark) in marks.items():
        points = [scale[f"crossnobis, {name}, {dof}"] for dof in DOFS]
        right.plot(DOFS, points, mark, color=colour, ms=5, label=name)
    right.axhline(1, color="0.5", ls=":", lw=0.8)
    right.set(
        xlabel=f"residual degrees of freedom ({CHANNELS} channels)",
        ylabel="mean estimate / true",
        xscale="log",
        yscale="log",
        title="estimated whitening scales distances",
    )
    ticks = (0.5, 1, 2, 4)
    right.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    right.set_xticks(DOFS, [str(dof) for dof in DOFS])
    right.minorticks_off()
    right.legend(frameon=False)
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=str(RESULTS), help='folder; "": nothing is written')
    args = parser.parse_args()
    bound = float(stats.norm.isf(0.01 / 2 / len(ROW)))
    distances = simulate(args.simulations, args.seed)
    result = table(distances)
    print(result.to_string(index=False, float_format="%.3f"))
    print(f"bound of |z| over {len(ROW)} pairs, 1 %: {bound:.2f}")
    check(result, bound)
    print("as it should be")
    if args.out:
        out = Path(args.out)
        text = result.round(5).to_csv(index=False, lineterminator="\n")
        write_text(out / "simulated_geometry.csv", text)
        record = {
            "command": shlex.join(["python", "benchmarks/simulated_geometry.py", *sys.argv[1:]]),
            "simulations": args.simulations,
        }
        record |= {"seed": args.seed, "bound": round(bound, 4), "versions": versions()}
        write_json(out / "simulated_geometry.json", json.loads(json.dumps(record)))
        with atomic_write(out / "simulated_geometry.png") as aside:
            plot(distances, result, bound).savefig(aside, dpi=110)


if __name__ == "__main__":
    main()
