"""Shares of variance of two correlated models: coverage of their intervals, and false unique variance.

Stimuli have features c, a and b, drawn anew in each study. Model A has c and a, model B c and b, so that the
models correlate by c. Subjects' RDMs are weighted sums of the distances by c, a and b, with weights that vary
over subjects, and noise. "shares": all three count. "null": subjects have model A and noise, so that B
explains nothing beyond A, although it correlates with their RDMs.

Truths for these stimuli come from 2,000 further subjects of the same study. Truths for new stimuli come from
the mean correlations over 2,000 further studies of as many stimuli.

    python benchmarks/simulated_shares.py
    # with how many new stimuli intervals cover: results/simulated_shares_sizes.csv
    python benchmarks/simulated_shares.py --sizes 24 32 40 64 --studies 600
    # with features of more dimensions, in which no stimulus is far from all others
    python benchmarks/simulated_shares.py --sizes 24 --studies 600 --dimensions 12 \\
        --out benchmarks/results/simulated_shares_dimensions.csv
    # how often anything is found of unrelated models: results/simulated_shares_unrelated.csv
    python benchmarks/simulated_shares.py --unrelated 16 24 40 --studies 200

The columns of the latter are those of the former, and for correlations the mean of the estimated variances
divided by the true one, and their coefficient of variation: that of a variance with 11 degrees of freedom,
which intervals take, is .43.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from rsatoolbox.rdm import RDMs
from scipy import stats

import neurordl as nrl
from neurordl.io import versions, write_json
from neurordl.progress import tracked

SIZES, DIMENSIONS = {"new subjects": (24,), "new stimuli": (24, 48)}, {"c": 4, "a": 4, "b": 4}
RESULTS = Path(__file__).parent / "results"
WEIGHTS = {"shares": (1.0, 0.8, 0.6), "null": (1.0, 1.0, 0.0)}
NOISE, SPREAD, SUBJECTS = 10.0, 0.3, 12
QUANTILE = stats.t.ppf(0.975, SUBJECTS - 1)  # there are fewer subjects than stimuli


def distances(n: int, rng: np.random.Generator) -> np.ndarray:
    """Squared distances of n stimuli by the features c, a and b: (3, pairs)."""
    i, j = np.triu_indices(n, 1)
    points = [rng.normal(size=(n, dimensions)) for dimensions in DIMENSIONS.values()]
    return np.stack([((x[i] - x[j]) ** 2).sum(axis=1) for x in points])


def weights(cell: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of c, a and b in some subjects, (subjects, 3): under the null those of c and a are alike."""
    factors = 1 + SPREAD * rng.normal(size=(size, 3))
    return np.array(WEIGHTS[cell]) * (factors[:, :1] if cell == "null" else factors)


def subjects(parts: np.ndarray, cell: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """RDMs of some subjects, (subjects, pairs)."""
    return weights(cell, size, rng) @ parts + NOISE * rng.normal(size=(size, parts.shape[1]))


def signed(parts: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Mean correlations of subjects with A and with B, and of A and B beyond each other."""
    models = np.stack([parts[0] + parts[1], parts[0] + parts[2]])
    units = [x - x.mean(axis=1, keepdims=True) for x in (models, data)]
    models, data = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in units)
    a, b = (models @ data.T).mean(axis=1)
    between = float(models[0] @ models[1])
    rest = np.sqrt(1 - between**2)
    return np.array([a, b, (a - between * b) / rest, (b - between * a) / rest])


def shares(signed: np.ndarray) -> np.ndarray:
    """Unique A, unique B, shared and total, from signed correlations."""
    a, _, only_a, only_b = signed**2
    return np.array([only_a, only_b, a - only_a, a + only_b])


def for_new(n: int, cell: str) -> np.ndarray:
    """Mean signed correlations of many studies of new stimuli, as many as in each study."""
    rng = np.random.default_rng(1)
    sets = (distances(n, rng) for _ in range(2000))
    return np.mean([signed(parts, subjects(parts, cell, 40, rng)) for parts in sets], axis=0)


def study(n: int, cell: str, truth: np.ndarray | None, seed: int) -> list[dict]:
    """Rows of one study of n stimuli; without truths for new stimuli, it is of new subjects."""
    rng = np.random.default_rng([seed, list(WEIGHTS).index(cell)])
    parts = distances(n, rng)
    data = subjects(parts, cell, SUBJECTS, rng)
    models = np.stack([parts[0] + parts[1], parts[0] + parts[2]])
    names = {"name": ["A", "B"]}, {"subject": [f"p{k}" for k in range(SUBJECTS)]}
    ids = {"stimulus": [f"s{k}" for k in range(n)]}
    sides = [
        RDMs(x, rdm_descriptors=name, pattern_descriptors=ids)
        for x, name in zip((models, data), names, strict=True)
    ]
    scheme = "new subjects" if truth is None else "new stimuli"
    bootstrap = None if truth is None else nrl.Bootstrap("both", n=300, seed=seed)
    if truth is None:
        truth = signed(parts, subjects(parts, cell, 2000, rng))
    parted = nrl.partition_variance(*sides, bootstrap=bootstrap).frame
    within = nrl.partition_variance(*sides, crossed=False).frame.query("subject != 'mean'")
    alone = nrl.evaluate(*sides, comparison="corr", bootstrap=bootstrap).frame
    table = pd.concat([alone.assign(layer="correlation of " + alone["layer"]), parted])
    rows = []
    true = np.concatenate([truth[:2], shares(truth)])
    for row, value in zip(table.query("subject == 'mean'").itertuples(), true, strict=True):
        own = within.loc[within["layer"] == row.layer, "score"]
        t = stats.ttest_1samp(own, 0, alternative="greater") if len(own) else None
        rows.append(
            {
                "generalizes to": scheme,
                "stimuli": n,
                "cell": cell,
                "share": row.layer,
                "truth": value,
                "estimate": row.score,
                "covered": row.ci_low <= value <= row.ci_high,
                "p < .05": row.p < 0.05,
                "variance": ((row.ci_high - row.ci_low) / 2 / QUANTILE) ** 2,
                "within subjects": own.mean(),
                "t test of within": np.nan if t is None else t.pvalue < 0.05,
            }
        )
    return rows


def unrelated(sizes: list[int], n_studies: int, out: Path) -> None:
    """How often p < .05 of models unrelated to the subjects' geometry, for new stimuli."""
    rows = []
    for n in sizes:
        for seed in tracked(range(n_studies), f"unrelated, {n} stimuli"):
            rng = np.random.default_rng([seed, 78])
            own, *models = (distances(n, rng)[0] for _ in range(5))
            models[1] = models[0] + models[1]
            data = own * (1 + SPREAD * rng.normal(size=(24, 1))) + 2 * rng.normal(size=(24, len(own)))
            ids = {"stimulus": [f"s{k}" for k in range(n)]}
            people = RDMs(data, rdm_descriptors={"subject": list(range(24))}, pattern_descriptors=ids)
            for each in (1, 2):
                parts = np.stack(models[: 2 * each]).reshape(2, each, -1)
                blocks = {name: RDMs(x, pattern_descriptors=ids) for name, x in zip("AB", parts, strict=True)}
                bootstrap = nrl.Bootstrap("both", n=n + 110, seed=seed)
                table = nrl.partition_variance(blocks, people, bootstrap=bootstrap).frame
                for row in table.query("subject == 'mean'").itertuples():
                    found = {"share": row.layer, "p < .05": row.p < 0.05, "estimate": row.score}
                    rows.append({"stimuli": n, "RDMs of a model": each, **found})
    groups = pd.DataFrame(rows).groupby(["stimuli", "RDMs of a model", "share"], sort=False)
    means = groups.mean().round(4)
    means.insert(0, "studies", n_studies)
    means.to_csv(out)
    print(means.to_string())


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of new stimuli, in the cell 'shares'")
    parser.add_argument("--dimensions", type=int, default=4, help="of each feature")
    parser.add_argument("--unrelated", type=int, nargs="+", help="numbers of new stimuli, unrelated models")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.unrelated:
        warnings.simplefilter("ignore")
        out = arguments.out or RESULTS / "simulated_shares_unrelated.csv"
        unrelated(arguments.unrelated, arguments.studies, out)
        return
    name = "simulated_shares_sizes.csv" if arguments.sizes else "simulated_shares.csv"
    arguments.out = arguments.out or RESULTS / name
    warnings.simplefilter("ignore")
    DIMENSIONS.update(dict.fromkeys(DIMENSIONS, arguments.dimensions))
    rows = []
    cells = ["shares"] if arguments.sizes else list(WEIGHTS)
    schemes = {"new stimuli": tuple(arguments.sizes)} if arguments.sizes else SIZES
    for scheme, sizes in schemes.items():
        for n in sizes:
            for cell in cells:
                truth = for_new(n, cell) if scheme == "new stimuli" else None
                for seed in tracked(range(arguments.studies), f"{cell}, {n} stimuli, {scheme}"):
                    rows += study(n, cell, truth, seed)
    table = pd.DataFrame(rows)
    groups = table.groupby(["generalizes to", "stimuli", "cell", "share"], sort=False)
    means = groups.mean().round(4).drop(columns="variance")
    if arguments.sizes:
        correlations = means.index.get_level_values("share").str.startswith("correlation")  # symmetric
        ratio = groups["variance"].mean() / groups["estimate"].var()
        spread = groups["variance"].std() / groups["variance"].mean()
        means["variance estimated / true"] = ratio.where(correlations).round(3)
        means["coefficient of variation"] = spread.where(correlations).round(3)
    means.insert(0, "studies", arguments.studies)
    means.to_csv(arguments.out)
    command = "python benchmarks/simulated_shares.py"
    command += f" --sizes {' '.join(map(str, arguments.sizes))}" if arguments.sizes else ""
    record = {"command": command, "studies": arguments.studies, "dimensions": arguments.dimensions}
    write_json(Path(arguments.out).with_suffix(".json"), {**record, "versions": versions()})
    print(means.to_string())


if __name__ == "__main__":
    main()
