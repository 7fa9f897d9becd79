"""Do intervals of fitted models hold what they promise? Simulated studies of which the truth is known.

Stimuli and subjects are those of `simulated_studies`: subjects respond to features that they share, each with
weights of their own, and to features of their own, in noisy voxels. The layers of a model see three of the
shared features each (related), or as many features that have nothing to do with the brain (unrelated). In
each study, `evaluate_fitted`'s default fits a weighted sum of the layers to one half of the stimuli and
scores it on the other, over many random splits, and a `Jackknife` of subjects and stimuli gives its variance.

Every study has new subjects and new stimuli. The truth is 0 for unrelated layers; for related ones it is the
mean score over all studies of a cell, and as many again. Studies are kept in parts, so that an interrupted
run goes on where it stopped.

    python benchmarks/simulated_fitted.py            # about half an hour on 2 cores -> results/
    python benchmarks/simulated_fitted.py --quick    # a look, nothing written
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy import stats
from simulated_studies import (
    EACH,
    RESULTS,
    SHARED,
    USUAL,
    People,
    Stimuli,
    part_options,
    part_path,
    run_parts,
)

from neurordl.io import versions, write_json, write_text
from neurordl.measures.comparisons import find_similarity
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.dissimilarities import correlation
from neurordl.rsa.inference.fitted import Folds, Model, cross_validate, infer_fitted
from neurordl.rsa.inference.infer import interval, p_values
from neurordl.rsa.inference.resampling import Jackknife

SUBJECTS, STIMULI, LAYERS, WORLDS = (6, 12), (12, 40), (2, 8), ("related", "unrelated")
CELLS = list(itertools.product(SUBJECTS, STIMULI, LAYERS, WORLDS))
CELL = ["subjects", "stimuli", "layers", "world"]
SEEN = 3  # features of a layer
Cell = tuple[int, int, int, str]
Floats = npt.NDArray[np.float64]


def study(cell: Cell, rng: np.random.Generator) -> tuple[Model, Floats]:
    """A model of several layers, and the subjects' RDMs."""
    n_subjects, size, n_layers, world = cell
    stimuli = Stimuli(size, rng)
    features = stimuli.shared if world == "related" else stimuli.unrelated
    seen = [(np.arange(SEEN) + layer * SHARED // n_layers) % SHARED for layer in range(n_layers)]
    layers = np.stack([correlation(torch.from_numpy(features[:, columns])).numpy() for columns in seen])
    return Model("layers", layers), People(n_subjects, rng).rdms(stimuli, USUAL, rng)


def score(model: Model, data: Floats, seed: int) -> float:
    """The score alone, with other splits."""
    folds = Folds(seed=seed).all_folds(len(data), n_stimuli(data.shape[1]))
    return float(cross_validate([model], data, "corr", folds)[0].mean())


def part(cell: Cell, number: int, out: Path) -> None:
    """Some studies of a cell, unless they are there."""
    path = part_path(out, cell, number)
    if path.exists():
        return
    rows = []
    for k in range(EACH):
        seed = [CELLS.index(cell), number, k]
        model, data = study(cell, np.random.default_rng(seed))
        result = infer_fitted([model], data, find_similarity("corr"), Jackknife("both"))
        low, high = interval(result)
        assert result.variances is not None
        assert result.model_var is not None
        extra = study(cell, np.random.default_rng([*seed, 1]))
        row = {"score": result.means[0], "again": score(model, data, 1), "extra": score(*extra, 0)}
        row |= {"variance": result.model_var[0], "low": low[0], "high": high[0], "dof": result.dof}
        names = ("v_subjects", "v_stimuli", "v_interaction", "v_pairs")
        row |= dict(zip(names, result.variances[:, 0, 0], strict=True))
        rows.append({**row, "p": p_values(result).zero[0]})
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def summary(cell: Cell, frame: pd.DataFrame) -> dict[str, object]:
    """Variance estimated / true, coverage, and one-sided false positives (or power) of a cell."""
    truth = 0.0 if cell[3] == "unrelated" else float(np.mean([frame["score"].mean(), frame["extra"].mean()]))
    true = float(((frame["score"] - truth) ** 2).mean())
    covered = ((frame["low"] <= truth) & (truth <= frame["high"])).mean()
    splits = ((frame["score"] - frame["again"]) ** 2).mean() / 2
    return {
        **dict(zip(CELL, cell, strict=True)),
        "studies": len(frame),
        "mean_score": frame["score"].mean(),
        "sd": np.sqrt(true),
        "variance_ratio": frame["variance"].mean() / true,
        "coverage": covered,
        "positive": (frame["p"] < 0.05).mean(),
        "share_of_splits": splits / true,
        "half_width": stats.t.ppf(0.975, frame["dof"].iloc[0]) * np.sqrt(frame["variance"]).mean(),
    }


def main() -> None:
    options = part_options("simulated_fitted", "Coverage of intervals of fitted models.").parse_args()
    frames = run_parts(part, CELLS, options)
    rows = [summary(cell, frame) for cell, frame in zip(CELLS, frames, strict=True)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.3f"))
    if options.quick:
        return
    write_text(RESULTS / "simulated_fitted.csv", table.to_csv(index=False, float_format="%.4f"))
    record = {"command": "python benchmarks/simulated_fitted.py", "settings": {"studies": options.studies}}
    write_json(RESULTS / "simulated_fitted.json", {**record, "versions": versions()})


if __name__ == "__main__":
    main()
