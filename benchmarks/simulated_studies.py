"""Do intervals hold what they promise? Simulated studies of which the truth is known.

A stimulus is a vector of latent features; subjects respond to half of those features and to others of their
own, each with weights of their own, in noisy voxels. Three models: the features that subjects share, a
coarser version of them, and features that have nothing to do with the brain. A study compares their RDMs
with the subjects' and takes 95 % intervals and p from t over subjects ("none") and from bootstraps over
subjects, stimuli and both. The truth is the mean similarity over the population that a world repeats:

- both: every study has new subjects and new stimuli;
- subjects: the stimuli are fixed, every study has new subjects;
- stimuli: the subjects are fixed, every study has new stimuli.

    python benchmarks/simulated_studies.py            # about 25 min on 2 cores -> results/
    python benchmarks/simulated_studies.py --quick    # a look, nothing written
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.progress import track

from neurordl.artifacts import versions, write_aside, write_json, write_text
from neurordl.plots.style import COLOURS
from neurordl.rdms.dissimilarity import correlation
from neurordl.rsa.significance import interval, p_values
from neurordl.rsa.similarity import similarity
from neurordl.rsa.uncertainty import infer

RESULTS = Path(__file__).parent / "results"
SHARED, OWN, VOXELS, NOISE, VARIETY = 10, 10, 60, 4.0, 0.6
MODELS = ("true features", "coarser features", "unrelated")
RESAMPLES = ("none", "subjects", "stimuli", "both")
WORLDS = ("both", "subjects", "stimuli")
SIZES = ((8, 20), (20, 40), (20, 92))
# rank measures take a hundred times as long: one size
CASES = (*((size, "corr") for size in SIZES), (SIZES[1], "rho-a"))
Floats = npt.NDArray[np.float64]


class People:
    """Some subjects: how each weighs the features, shared and own."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.weights = 1 + VARIETY * rng.standard_normal((n, SHARED, 1))
        self.shared = rng.standard_normal((n, SHARED, VOXELS))
        self.own = rng.standard_normal((n, OWN, VOXELS))

    def rdms(self, stimuli: Stimuli, rng: np.random.Generator) -> Floats:
        """Measured once, with new noise: (n, pairs)."""
        signal = stimuli.shared @ (self.weights * self.shared) + stimuli.own @ self.own
        noise = NOISE * rng.standard_normal(signal.shape)
        return correlation(torch.from_numpy(signal + noise)).numpy()


class Stimuli:
    """Some stimuli: their features."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.shared, self.own = rng.standard_normal((2, n, SHARED))
        self.unrelated = rng.standard_normal((n, SHARED))

    def models(self) -> Floats:
        """RDMs of the models: (models, pairs)."""
        coarse = self.shared[:, : SHARED // 2]
        features = (self.shared, coarse, self.unrelated)
        return np.stack([correlation(torch.from_numpy(one)).numpy() for one in features])


def new(world: str, n_subjects: int, n_stimuli: int, seed: int) -> tuple[People | None, Stimuli | None]:
    """What a world holds fixed."""
    rng = np.random.default_rng([seed, 1])
    fixed_people = People(n_subjects, rng) if world == "stimuli" else None
    return fixed_people, Stimuli(n_stimuli, rng) if world == "subjects" else None


def one_study(
    fixed: tuple[People | None, Stimuli | None], n_subjects: int, n_stimuli: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """RDMs of models and subjects of a study."""
    people = fixed[0] or People(n_subjects, rng)
    stimuli = fixed[1] or Stimuli(n_stimuli, rng)
    return stimuli.models(), people.rdms(stimuli, rng)


def studies(
    world: str, size: tuple[int, int], method: str, groups: int, each: int, n_bootstrap: int, truths: int
) -> list[dict[str, Any]]:
    """Rows of every study of a world: whether intervals hold the truth, and p of the unrelated model."""
    rows = []
    for group in range(groups if world != "both" else 1):
        fixed = new(world, *size, group)
        rng = np.random.default_rng([group, 2])
        truth = np.mean(
            [similarity(*one_study(fixed, *size, rng), method).mean(1) for _ in range(truths)], axis=0
        )
        for number in range(each if world != "both" else groups * each):
            models, data = one_study(fixed, *size, np.random.default_rng([group, 3, number]))
            for resample in RESAMPLES:
                draws = np.random.default_rng([group, 4, number])
                found = infer(models, data, method, resample=resample, n_bootstrap=n_bootstrap, rng=draws)
                for centre in ("data", "resamples"):
                    low, high = interval(found, centre=centre)
                    p = p_values(found, centre=centre)
                    at = {"world": world, "subjects": size[0], "stimuli": size[1], "method": method}
                    at |= {"resample": resample, "centre": centre}
                    for k, name in enumerate(MODELS):
                        inside = bool(low[k] <= truth[k] <= high[k])
                        # with fixed stimuli or subjects an unrelated model is not quite at zero
                        null = name == "unrelated" and (world == "both" or truth[k] <= 0)
                        positive = float(p.zero[k] < 0.05) if null else np.nan
                        rows.append({**at, "model": name, "covers": inside, "positive": positive})
    return rows


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Coverage over models, false positives of the unrelated one, and how many studies there were."""
    keys = ["world", "subjects", "stimuli", "method", "centre", "resample"]
    coverage = frame.groupby(keys, sort=False)["covers"].mean().rename("coverage")
    null = frame[frame["model"] == "unrelated"].groupby(keys, sort=False)["positive"]
    found = pd.concat(
        [coverage, null.mean().rename("false_positives"), null.size().rename("studies")], axis=1
    )
    return found.reset_index()


def draw(frame: pd.DataFrame) -> Figure:
    """Coverage of each interval in each world; a panel for each size."""
    shown = frame[(frame["centre"] == "data") & (frame["method"] == "corr")]
    sizes = list(dict.fromkeys(zip(shown["subjects"], shown["stimuli"], strict=True)))
    figure = Figure(figsize=(3.2 * len(sizes) + 1.6, 3.6), layout="constrained")
    every = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, (subjects, stimuli) in zip(every, sizes, strict=True):
        axes.axhspan(93, 98, color="0.88", lw=0, label="93 to 98 %")
        axes.axhline(95, color="0.5", lw=0.8)
        part = shown[(shown["subjects"] == subjects) & (shown["stimuli"] == stimuli)]
        for k, resample in enumerate(RESAMPLES):
            own = part[part["resample"] == resample].set_index("world").loc[list(WORLDS)]
            reach = 196 * np.sqrt(own["coverage"] * (1 - own["coverage"]) / own["studies"])
            places = np.arange(len(WORLDS)) + 0.18 * (k - 1.5)
            name = {"none": "t over subjects"}.get(resample, f"bootstrap: {resample}")
            axes.errorbar(
                places,
                100 * own["coverage"],
                reach,
                fmt="os^D"[k],
                color=COLOURS[k],
                ms=6,
                lw=1.2,
                label=name,
            )
        axes.set_xticks(
            range(len(WORLDS)), [f"new {world}" if world != "both" else "new both" for world in WORLDS]
        )
        axes.set_title(f"{subjects} subjects, {stimuli} stimuli", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("95 % intervals that hold the truth (%)")
    figure.legend(
        *every[-1].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals in simulated studies.")
    parser.add_argument("--quick", action="store_true", help="few studies, nothing written")
    parser.add_argument("--groups", type=int, default=20, help="fixed sets of stimuli, or of subjects (20)")
    parser.add_argument(
        "--each", type=int, default=15, help="studies of each (15); of world 'both' all (300)"
    )
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--truths", type=int, default=1000, help="studies that a truth is the mean of (1000)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.groups, arguments.each, arguments.bootstraps, arguments.truths = 2, 5, 200, 100
    jobs = [(world, *case) for world in WORLDS for case in CASES]
    options = (arguments.groups, arguments.each, arguments.bootstraps, arguments.truths)
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = [pool.submit(studies, *job, *options) for job in jobs]
        rows = [row for part in track(parts, "studies") for row in part.result()]
    found = summary(pd.DataFrame(rows))
    print(found.to_string(index=False, float_format="%.3f"))
    if arguments.quick:
        return
    write_text(RESULTS / "simulated_studies.csv", found.to_csv(index=False, float_format="%.4f"))
    with write_aside(RESULTS / "simulated_studies.png") as aside:
        draw(found).savefig(aside, dpi=150)
    record = {
        "command": "python benchmarks/simulated_studies.py",
        "settings": vars(arguments),
        "versions": versions(),
    }
    write_json(RESULTS / "simulated_studies.json", record)


if __name__ == "__main__":
    main()
