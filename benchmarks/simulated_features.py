"""Which weights of features predict RDMs of new stimuli best? Simulated feature-reweighted RSA.

Models are RDMs of single features of random stimuli, and subjects' RDMs are sums of some of them with noise.
"few": 10 of 60 independent features count. "many": all 60 count, each with a weight of its own. "alike": 60
noisy copies of 6 features, of which 3 count. Weights are fitted to one half of the stimuli and scored on the
other, over 10 random splits, by `evaluate_fitted`'s cross-validation. "none": a penalty of 1e-6, only so that
weights are unique.

    python benchmarks/simulated_features.py   # results/simulated_features.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from neurordl.io import versions, write_json
from neurordl.progress import tracked
from neurordl.rsa.inference.fitted import Folds, Model, Ridge, cross_validate

RESULTS = Path(__file__).parent / "results"
PENALTIES = (0.01, 0.1, 1.0, 10.0)
FITS = {
    "weights of 0 or more": "weighted",
    "ridge, chosen": Ridge(PENALTIES),
    "both": Ridge(PENALTIES, nonnegative=True),
    "none": Ridge(1e-6),
    "best feature": "select",
}
FEATURES, SUBJECTS, WORLDS, SIZES = 60, 5, ("few", "many", "alike"), (24, 48)


def study(world: str, n: int, seed: int) -> dict[str, float]:
    """Mean scores of each fit, and of the sum of all features, in one study."""
    rng = np.random.default_rng([seed, n, WORLDS.index(world)])
    i, j = np.triu_indices(n, 1)
    points = rng.normal(size=(FEATURES, n))
    weights = np.zeros(FEATURES)
    weights[:10] = 1
    if world == "many":
        weights = rng.exponential(size=FEATURES)
    if world == "alike":
        sources = np.repeat(rng.normal(size=(6, n)), 10, axis=0)
        points, weights = sources + 0.5 * points, np.repeat([1, 1, 1, 0, 0, 0], 10)
    features = (points[:, i] - points[:, j]) ** 2
    signal = weights @ features
    data = signal + 2 * signal.std() * rng.normal(size=(SUBJECTS, len(i)))
    models = [Model(name, features, fit) for name, fit in FITS.items()]
    models.append(Model("sum of all", features.sum(axis=0)[None]))
    folds = Folds(stimuli=2, splits=10, seed=seed).all_folds(SUBJECTS, n)
    scores = cross_validate(models, data, "corr", folds)[0].mean(axis=1)
    return dict(zip([model.name for model in models], scores, strict=True))


def main() -> None:
    """Write the table of means and standard errors."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "simulated_features.csv")
    arguments = parser.parse_args()
    rows = []
    for world in WORLDS:
        for n in SIZES:
            seeds = tracked(range(arguments.studies), f"{world}, {n} stimuli")
            frame = pd.DataFrame([study(world, n, seed) for seed in seeds])
            for name in frame:
                error = frame[name].std() / np.sqrt(len(frame))
                rows.append((world, n, name, frame[name].mean(), error, len(frame)))
    columns = ["world", "stimuli", "fit", "mean score", "standard error", "studies"]
    table = pd.DataFrame(rows, columns=columns).round(4)
    table.to_csv(arguments.out, index=False)
    record = {"command": "python benchmarks/simulated_features.py", "versions": versions()}
    write_json(arguments.out.with_suffix(".json"), record)
    print(table.pivot(index=["world", "stimuli"], columns="fit", values="mean score").to_string())


if __name__ == "__main__":
    main()
