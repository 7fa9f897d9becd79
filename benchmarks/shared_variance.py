"""Partial RSA, regression and variance partitioning beside mne-rsa and Net2Brain: equal, and how fast.

mne-rsa is imported (``pip install --no-deps mne-rsa mne lazy_loader``); Net2Brain's ``VPA`` is read from a
checkout, and computes from arrays what it would read from files. Both give values only: what a call of
neurordl takes beyond these are its table, intervals, tests and noise ceiling, with a permutation test. Calls
alternate, so that ratios hold on a busy machine.

    python benchmarks/shared_variance.py --net2brain CHECKOUT
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist, squareform
from sklearn import linear_model

import neurordl as nrl
from neurordl.io import versions, write_json
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference.infer import infer_study
from neurordl.rsa.inference.resampling import Draws, Study

SIZES = ((24, 12), (100, 20))  # stimuli, subjects
REPEATS, RESAMPLES = 5, 300
SCHEME = nrl.Bootstrap("stimuli", n=RESAMPLES, variance="bootstrap")


def rdms(n: int, size: int, seed: int, **names: list[str]) -> RDMs:
    """RDMs that share a geometry."""
    rng, common = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(n, 4))
    vectors = np.stack([pdist(common + rng.normal(size=(n, 4)), "sqeuclidean") for _ in range(size)])
    ids = {"stimulus": [f"s{k}" for k in range(n)]}
    return RDMs(vectors, rdm_descriptors=names, pattern_descriptors=ids)


def vpa(checkout: Path) -> Callable[[np.ndarray, np.ndarray], dict[str, float]]:
    """Net2Brain's shares of three models in one subject, from its own methods."""
    file = checkout / "net2brain/evaluations/variance_partitioning_analysis.py"
    (found,) = (
        x for x in ast.parse(file.read_text()).body if isinstance(x, ast.ClassDef) and x.name == "VPA"
    )
    names: dict = {"np": np, "linear_model": linear_model}
    exec(compile(ast.Module([found], []), str(file), "exec"), names)
    analysis = names["VPA"].__new__(names["VPA"])
    analysis.load_rdms, analysis.average_models = lambda rdm: rdm, False

    def shares(models: np.ndarray, subject: np.ndarray) -> dict[str, float]:
        analysis.independent_1, analysis.independent_2, analysis.independent_3 = models
        return analysis.VPA_3(subject)

    return shares


def of_subjects(scores: nrl.Evaluation) -> np.ndarray:
    """(subjects, rows) scores."""
    frame = scores.frame[scores.frame["subject"] != "mean"]
    table = frame.pivot(index="subject", columns="layer", values="score")
    return table.loc[list(dict.fromkeys(frame["subject"])), scores.settings["layers"]].to_numpy()


def timed(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    """Compare and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net2brain", type=Path, help="a checkout; without it, mne-rsa only")
    parser.add_argument("--out", default=Path(__file__).parent / "results" / "shared_variance.csv")
    arguments = parser.parse_args()
    if importlib.util.find_spec("mne_rsa") is None:
        print("mne-rsa is not installed: nothing to compare with")
        return
    module = importlib.import_module("mne_rsa.rsa")
    partial_correlation, rsa = module._partial_correlation, module.rsa
    partition = vpa(arguments.net2brain) if arguments.net2brain else None
    rows = []
    for n, n_subjects in SIZES:
        models = rdms(n, 3, 1, name=["A", "B", "C"])
        people = rdms(n, n_subjects, 2, subject=[f"p{k:02}" for k in range(n_subjects)])
        x, y = models.dissimilarities, people.dissimilarities
        spread = x.std(axis=1) / y.std(axis=1, keepdims=True)
        first = models.subset("name", "A")
        beyond = {m: nrl.Partial(models.subset("name", ["B", "C"]), m) for m in ("corr", "spearman")}

        comparisons = {m: x.for_stimuli([f"s{k}" for k in range(n)]) for m, x in beyond.items()}
        draws = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))

        def ours(method: str, first: RDMs = first, people: RDMs = people, to=beyond) -> np.ndarray:
            return of_subjects(nrl.evaluate(first, people, comparison=to[method]))

        def alone(method: str, x: np.ndarray = x, y: np.ndarray = y, to=comparisons) -> np.ndarray:
            return similarity(x[:1], y, to[method]).T

        def resampled(x: np.ndarray = x, y: np.ndarray = y, draws=draws, to=comparisons) -> np.ndarray:
            counts = Draws.from_indices(None, draws, len(y), draws.shape[1])
            return infer_study(Study(x[:1], y, to["corr"]), SCHEME, counts).evaluations

        def loop(x: np.ndarray = x, y: np.ndarray = y, draws=draws) -> np.ndarray:
            means, squares = [], [np.stack([squareform(rdm) for rdm in stack]) for stack in (x, y)]
            for drawn in draws:
                i, j = (drawn[side] for side in np.triu_indices(len(drawn), 1))
                i, j = i[i != j], j[i != j]
                models, data = (square[:, i, j] for square in squares)
                means.append(np.mean([partial_correlation(rdm, list(models))[0] for rdm in data]))
            return np.array(means)[:, None]

        def theirs(metric: str, x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            return np.asarray(rsa(list(y), list(x), metric=metric))

        def of_net2brain(x: np.ndarray = x, y: np.ndarray = y) -> np.ndarray:
            names = ("y1", "y2", "y3", "y12", "y13", "y23", "y123", "R123")
            return np.array([[partition(x, rdm)[name] for name in names] for rdm in y])

        pairs = {
            ("partial, corr", "mne-rsa"): (lambda: ours("corr"), lambda: theirs("partial")[:, :1]),
            ("partial, spearman", "mne-rsa"): (
                lambda: ours("spearman"),
                lambda: theirs("partial-spearman")[:, :1],
            ),
            ("partial, corr, values only", "mne-rsa"): (
                lambda: alone("corr"),
                lambda: theirs("partial")[:, :1],
            ),
            ("partial, spearman, values only", "mne-rsa"): (
                lambda: alone("spearman"),
                lambda: theirs("partial-spearman")[:, :1],
            ),
            (f"partial, corr, {RESAMPLES} resamples", "a loop of mne-rsa"): (resampled, loop),
            ("regression", "mne-rsa"): (
                lambda models=models, people=people: of_subjects(nrl.regress_rdms(models, people))[:, :3],
                lambda spread=spread: theirs("regression") * spread,
            ),
            ("shares of three models", "Net2Brain"): (
                lambda models=models, people=people: of_subjects(
                    nrl.partition_variance(models, people, crossed=False)
                ),
                of_net2brain,
            ),
        }
        if partition is None:
            del pairs["shares of three models", "Net2Brain"]
        for (job, other), functions in pairs.items():
            seconds = []
            for _ in range(REPEATS + 1):  # the first is not counted
                (a, mine), (b, other_result) = map(timed, functions)
                seconds.append((a, b))
            difference = np.abs(mine - other_result).max()
            ratio = np.median([b / a for a, b in seconds[1:]])
            rows.append(
                {
                    "stimuli": n,
                    "subjects": n_subjects,
                    "job": job,
                    "beside": other,
                    "largest difference": f"{difference:.1e}",
                    "their time / ours": round(float(ratio), 2),
                    "ours, s": round(float(np.median([a for a, _ in seconds[1:]])), 4),
                }
            )
    table = pd.DataFrame(rows)
    table.to_csv(arguments.out, index=False)
    record = {"command": "python benchmarks/shared_variance.py --net2brain CHECKOUT"}
    write_json(Path(arguments.out).with_suffix(".json"), {**record, "versions": versions()})
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
