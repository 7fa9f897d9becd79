"""Is the power that `plan_study` gives that of the inference that will be used?

For each inference, `plan_study` gives the power of a study of `SUBJECTS` subjects; then as many other
studies (another seed) are simulated, and each is evaluated by `neurordl.evaluate`: seen is the share in which
the true model is significantly similar, or more similar than its rival, which has half of its dimensions.
Each study draws its 20 stimuli from 60.

    python benchmarks/simulated_power.py       # seven minutes -> results/
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist

import neurordl as nrl
from neurordl.io import versions, write_json, write_text
from neurordl.simulate import Measurement, plan_study, simulate_subjects

RESULTS = Path(__file__).parent / "results"
ALL, STIMULI, SUBJECTS, CHANNELS = 60, 20, 8, 40
SNR, OWN = 0.05, 0.5
VARIANCES = ("bootstrap", "components")
INFERENCES: tuple[nrl.Bootstrap | None, ...] = (
    None,
    *(nrl.Bootstrap(resample, variance=v) for resample in ("stimuli", "both") for v in VARIANCES),
)


def geometries() -> tuple[np.ndarray, np.ndarray]:
    """Patterns of the true model and of a rival that has half of its dimensions."""
    rng = np.random.default_rng(0)
    true = rng.standard_normal((ALL, 10))
    rival = np.hstack([true[:, :5], rng.standard_normal((ALL, 5))])
    return tuple(patterns - patterns.mean(1, keepdims=True) for patterns in (true, rival))


def study(seed: list[int], ids: list[str]) -> tuple[RDMs, RDMs]:
    """RDMs of the two models and of the subjects."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(ALL, STIMULI, replace=False))
    shown = [ids[k] for k in chosen]
    models = geometries()
    options = {"snr": SNR, "idiosyncrasy": OWN, "n_channels": CHANNELS, "measurement": Measurement(runs=2)}
    number = int(rng.integers(2**31))
    subjects = simulate_subjects(
        models[0][chosen], shown, SUBJECTS, dissimilarity="crossnobis", seed=number, **options
    )
    vectors = np.stack([pdist(model[chosen], "sqeuclidean") for model in models])
    named = {"name": ["true", "rival"]}
    return RDMs(vectors, pattern_descriptors={"stimulus": shown}, rdm_descriptors=named), subjects


def seen(n: int, seed: int, ids: list[str]) -> pd.DataFrame:
    """Share of studies in which `evaluate` detects the true model, and its advantage."""
    rows = np.zeros((n, len(INFERENCES), 2))
    for k in range(n):
        models, subjects = study([seed, k], ids)
        for m, bootstrap in enumerate(INFERENCES):
            scores = nrl.evaluate(models, subjects, comparison="corr", bootstrap=bootstrap)
            mean = scores.frame[(scores.frame["subject"] == "mean") & (scores.frame["layer"] == "true")]
            step = scores.differences.iloc[0]
            rows[k, m] = mean["p"].item() < 0.05, step["p"] < 0.05 and step["difference"] > 0
    return pd.DataFrame(rows.mean(0), columns=["seen", "seen_rival"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="of each (400)")
    parser.add_argument("--seed", type=int, default=0, help="of `plan_study`; seen: the next (0)")
    options = parser.parse_args()
    ids = [f"s{k}" for k in range(ALL)]
    true, rival = geometries()
    size = {"subjects": (SUBJECTS,), "stimuli": (STIMULI,), "runs": (2,), "rival": rival}
    noise = {"snr": SNR, "idiosyncrasy": OWN, "n_channels": CHANNELS}
    plans = [
        plan_study(
            *(true, ids), **size, **noise, bootstrap=b, n_simulations=options.studies, seed=options.seed
        )
        for b in INFERENCES
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        shares = seen(options.studies, options.seed + 1, ids)
    table = pd.concat([pd.concat(plans, ignore_index=True), shares], axis=1)
    print(table.to_string(index=False, float_format="%.3f"))
    write_text(RESULTS / "simulated_power.csv", table.to_csv(index=False, float_format="%.4f"))
    record = {"command": "python benchmarks/simulated_power.py", "settings": vars(options)}
    write_json(RESULTS / "simulated_power.json", {**record, "versions": versions()})


if __name__ == "__main__":
    main()
