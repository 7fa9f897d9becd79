"""Do intervals hold what they promise where stimuli come in groups, and what does counting groups cost?

Stimuli, subjects and models are those of `simulated_studies`, but the features of stimuli of a category have
most of their variance (70 %) in common, and every study has new subjects and new categories (in designs
without categories: new stimuli). Models: the features that subjects share; their first and their second half,
which are equally similar to subjects in the mean; and the same features with their stimuli permuted, which
have nothing to do with the brain. Similarities are correlations of RDMs.

Each study takes 95 % intervals and p from t over subjects ("none") and from `Bootstrap("both")`, by both
variances, of single stimuli and of categories. The truth is the mean score over all studies of a design, and
four times as many others. Studies are kept in parts, so that an interrupted run goes on where it stopped.

A second table has `crossed_interval`, over seeds and subjects, for normal and for skewed effects. A third has
4 to 20 categories of 12 subjects, even or uneven (2 to 8 stimuli each, some categories much further from the
others), with the coverage and the length of intervals of `Bootstrap("both")` by components of categories
(300 resamples).

    python benchmarks/simulated_groups.py            # -> results/
    python benchmarks/simulated_groups.py --quick    # a look, nothing written
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
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

from neurordl.experiments import crossed_interval
from neurordl.io import versions, write_json, write_text
from neurordl.measures.dissimilarities import correlation
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference.infer import infer, interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap

COMMON = 0.7  # share of a category in the variance of features
DESIGNS = ((12, 10, 4), (12, 20, 4), (12, 40, 1), (12, 80, 1), (6, 20, 1))  # subjects, categories, of each
MODELS = ("all features", "first half", "second half", "permuted")
CROSSED = ((5, 12), (10, 12), (5, 30))  # seeds, subjects
FEW = (4, 6, 8, 12, 20)  # categories of the third table
Design = tuple[int, int, int]
Floats = npt.NDArray[np.float64]


class Categories(Stimuli):
    """Stimuli of some categories: features around the mean of the category."""

    def __init__(self, n: int, each: int, rng: np.random.Generator) -> None:
        centers, single = Stimuli(n, rng), Stimuli(n * each, rng)
        common = COMMON if each > 1 else 0.0
        self.member = np.repeat(np.arange(n), each)
        for name in ("shared", "own_features"):
            of_category = getattr(centers, name)[self.member]
            setattr(self, name, np.sqrt(common) * of_category + np.sqrt(1 - common) * getattr(single, name))
        self.permuted = rng.permutation(self.shared)

    def models(self) -> Floats:
        """RDMs of the models: (models, pairs)."""
        features = self.shared, self.shared[:, : SHARED // 2], self.shared[:, SHARED // 2 :], self.permuted
        return np.stack([correlation(torch.from_numpy(rows)).numpy() for rows in features])


class Uneven(Categories):
    """Categories of 2 to 8 stimuli, at lognormal distances from each other."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.member = np.repeat(np.arange(n), rng.integers(2, 9, n))
        centers, single = Stimuli(n, rng), Stimuli(len(self.member), rng)
        scale = np.exp(0.8 * rng.standard_normal((n, 1)))
        for name in ("shared", "own_features"):
            of_category = (getattr(centers, name) * scale)[self.member]
            setattr(self, name, np.sqrt(COMMON) * of_category + np.sqrt(1 - COMMON) * getattr(single, name))
        self.permuted = rng.permutation(self.shared)


def study(design: Design, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """RDMs of models and subjects."""
    n_subjects, n, each = design
    stimuli = Categories(n, each, rng)
    return stimuli.models(), People(n_subjects, rng).rdms(stimuli, USUAL, rng)


def schemes(design: Design, n: int) -> dict[str, Bootstrap | None]:
    """Ways of inference by name."""
    _, n_groups, each = design
    groups = {str(k): str(k // each) for k in range(n_groups * each)}
    named: dict[str, Bootstrap | None] = {"none": None}
    for variance in ("bootstrap", "components"):
        named[f"both, {variance}"] = Bootstrap("both", n=n, variance=variance)
        if each > 1:
            named[f"both, {variance}, groups"] = Bootstrap("both", n=n, variance=variance, groups=groups)
    return named


def part(design: Design, number: int, out: Path, n: int) -> None:
    """Some studies of a design, unless they are there."""
    path = part_path(out, design, number)
    if path.exists():
        return
    rows = []
    for k in range(EACH):
        seed = [DESIGNS.index(design), number, k]
        models, data = study(design, np.random.default_rng(seed))
        others = [study(design, np.random.default_rng([*seed, other])) for other in range(1, 5)]
        extra = np.mean([similarity(*other, "corr").mean(1) for other in others], axis=0)
        for name, scheme in schemes(design, n).items():
            result = infer(models, data, "corr", scheme)
            low, high = interval(result, center="data")
            p = p_values(result, center="data")
            assert result.model_var is not None
            for m, model in enumerate(MODELS):
                row = {"inference": name, "model": model, "score": result.scores[m].mean(), "extra": extra[m]}
                row |= {"variance": result.model_var[m], "low": low[m], "high": high[m], "p": p.zero[m]}
                rows.append(row | {"p_halves": p.pairs[1, 2], "p_all": p.pairs[0, 1]})
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def summary(design: Design, frame: pd.DataFrame) -> pd.DataFrame:
    """Coverage, false positives and power of each inference."""
    rows = []
    for name, part in frame.groupby("inference", sort=False):
        models = dict(list(part.groupby("model", sort=False)))
        row = {"subjects": design[0], "categories": design[1], "each": design[2], "inference": name}
        row["studies"] = len(models["permuted"])
        covered, ratio = {}, {}
        for model, scores in models.items():
            truth = 0.2 * scores["score"].mean() + 0.8 * scores["extra"].mean()
            covered[model] = ((scores["low"] <= truth) & (truth <= scores["high"])).mean()
            ratio[model] = scores["variance"].mean() / ((scores["score"] - truth) ** 2).mean()
        row["coverage"] = np.mean([covered[model] for model in MODELS[:3]])
        row["coverage_permuted"] = covered["permuted"]
        row["variance_ratio"] = np.mean([ratio[model] for model in MODELS[:3]])
        row["false_positives"] = (models["permuted"]["p"] < 0.05).mean()
        row["halves_differ"] = (models["permuted"]["p_halves"] < 0.05).mean()
        row["all_and_half_differ"] = (models["permuted"]["p_all"] < 0.05).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def crossed(studies: int) -> pd.DataFrame:
    """Coverage of `crossed_interval`: a mean of 0 of effects of seeds, of subjects and of both."""
    rows = []
    for n_seeds, n_subjects in CROSSED:
        for effects in ("normal", "skewed"):
            rng = np.random.default_rng([n_seeds, n_subjects])

            def draw(*shape: int, rng=rng, effects=effects) -> Floats:
                return rng.standard_normal(shape) if effects == "normal" else rng.exponential(size=shape) - 1

            inside = 0
            for _ in range(studies):
                values = draw(n_seeds, 1) + draw(1, n_subjects) + draw(n_seeds, n_subjects)
                _, low, high = crossed_interval(values)
                inside += low <= 0 <= high
            rows.append({"seeds": n_seeds, "subjects": n_subjects, "effects": effects, "studies": studies})
            rows[-1]["coverage"] = inside / studies
    return pd.DataFrame(rows)


def few_categories(studies: int) -> pd.DataFrame:
    """Coverage and length of intervals of few categories, even and uneven."""

    def draw(n: int, even: bool, seed: list[int]) -> tuple[Floats, Floats, dict[str, str]]:
        rng = np.random.default_rng(seed)
        stimuli = Categories(n, 4, rng) if even else Uneven(n, rng)
        groups = {str(k): str(group) for k, group in enumerate(stimuli.member)}
        return stimuli.models(), People(12, rng).rdms(stimuli, USUAL, rng), groups

    rows = []
    for n, even in ((n, even) for n in FEW for even in (True, False)):
        scores, bounds, p = [], [], []
        for k in range(studies):
            models, data, groups = draw(n, even, [n, even, k])
            result = infer(models, data, "corr", Bootstrap("both", n=300, groups=groups))
            bounds.append(interval(result, center="data"))
            p.append(p_values(result, center="data").zero[-1])
            others = [draw(n, even, [n, even, k, other])[:2] for other in range(1, 5)]
            scores += [result.scores.mean(1), *(similarity(*other, "corr").mean(1) for other in others)]
        low, high = np.array(bounds).transpose(1, 0, 2)
        truth, length = np.mean(scores, axis=0), (high - low)[:, 0]
        covered = ((low <= truth) & (truth <= high))[:, :3].mean()
        row = {"categories": n, "even": even, "studies": studies, "coverage": covered}
        row |= {f"length_{q}": np.quantile(length, q / 100) for q in (10, 50, 90)}
        rows.append(row | {"false_positives": np.mean(np.array(p) < 0.05)})
    return pd.DataFrame(rows)


def main() -> None:
    parser = part_options("simulated_groups", "Coverage of intervals where stimuli come in groups.")
    parser.add_argument("--resamples", type=int, default=1000, help="of each bootstrap (1000)")
    options = parser.parse_args()
    frames = run_parts(part, DESIGNS, options, options.resamples)
    tables = [summary(design, frame) for design, frame in zip(DESIGNS, frames, strict=True)]
    tables = {"simulated_groups": pd.concat(tables), "simulated_groups_crossed": crossed(5 * options.studies)}
    tables["simulated_groups_few"] = few_categories(options.studies)
    for name, table in tables.items():
        print(table.to_string(index=False, float_format="%.3f"))
        if not options.quick:
            write_text(RESULTS / f"{name}.csv", table.to_csv(index=False, float_format="%.4f"))
    if not options.quick:
        settings = {"studies": options.studies, "resamples": options.resamples}
        record = {"command": "python benchmarks/simulated_groups.py", "settings": settings}
        write_json(RESULTS / "simulated_groups.json", {**record, "versions": versions()})


if __name__ == "__main__":
    main()
