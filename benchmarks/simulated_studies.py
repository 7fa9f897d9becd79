"""Do intervals hold what they promise? Simulated studies of which the truth is known.

A stimulus is a vector of latent features; subjects respond to half of those features and to others of their
own, each with weights of their own, in noisy voxels. Three models: the features that subjects share, a
coarser version of them, and features that have nothing to do with the brain. A study compares their RDMs
with the subjects' and takes 95 % intervals and p from t over subjects ("none") and from bootstraps over
subjects, stimuli and both, the latter two also with variances by components (`ComponentVariance`). The
truth is the mean similarity over the population that a world repeats:

- both: every study has new subjects and new stimuli;
- subjects: the stimuli are fixed, every study has new subjects;
- stimuli: the subjects are fixed, every study has new stimuli.

The ratio is that of the mean variance told to the mean square of score less truth. Where the true variance
comes from is told by studies that share subjects, all stimuli or half of them (`sources`).

    python benchmarks/simulated_studies.py            # about an hour on 2 cores -> results/
    python benchmarks/simulated_studies.py --quick    # a look, nothing written
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich.progress import track

from neurordl.io import atomic_write, versions, write_json, write_text
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.dissimilarities import correlation
from neurordl.plots.style import COLOURS
from neurordl.rsa.compare import similarity
from neurordl.rsa.inference.infer import Inference, infer, interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap

RESULTS = Path(__file__).parent / "results"
SHARED, OWN, VOXELS, VARIETY = 10, 10, 60, 0.6
NOISES, USUAL = (1.0, 4.0, 10.0), 4.0
MODELS = ("true features", "coarser features", "unrelated")
RESAMPLES = ("none", "subjects", "stimuli", "both")
WORLDS = ("both", "subjects", "stimuli")
SIZES = ((8, 20), (20, 40), (20, 92))
# rank measures take a hundred times as long: one size
CASES = (*((size, "corr") for size in SIZES), (SIZES[1], "rho-a"))
LEVELS = {"both": NOISES, "subjects": (USUAL,), "stimuli": (USUAL,)}
EACH = 20  # studies of a part
Floats = npt.NDArray[np.float64]
Cell = tuple[int | str, ...]


class People:
    """Some subjects: how each weighs the features, shared and own."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.weights = 1 + VARIETY * rng.standard_normal((n, SHARED, 1))
        self.shared = rng.standard_normal((n, SHARED, VOXELS))
        self.own_features = rng.standard_normal((n, OWN, VOXELS))

    def rdms(self, stimuli: Stimuli, noise: float, rng: np.random.Generator) -> Floats:
        """Measured once, with new noise: (n, pairs)."""
        signal = stimuli.shared @ (self.weights * self.shared) + stimuli.own_features @ self.own_features
        measured = signal + noise * rng.standard_normal(signal.shape)
        return correlation(torch.from_numpy(measured)).numpy()


class Stimuli:
    """Some stimuli: their features."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.shared, self.own_features = rng.standard_normal((2, n, SHARED))
        self.unrelated = rng.standard_normal((n, SHARED))

    def models(self) -> Floats:
        """RDMs of the models: (models, pairs)."""
        coarse = self.shared[:, : SHARED // 2]
        features = (self.shared, coarse, self.unrelated)
        return np.stack([correlation(torch.from_numpy(rows)).numpy() for rows in features])


def new(world: str, n_subjects: int, n_stimuli: int, seed: int) -> tuple[People | None, Stimuli | None]:
    """What a world holds fixed."""
    rng = np.random.default_rng([seed, 1])
    fixed_people = People(n_subjects, rng) if world == "stimuli" else None
    return fixed_people, Stimuli(n_stimuli, rng) if world == "subjects" else None


def one_study(
    fixed: tuple[People | None, Stimuli | None],
    n_subjects: int,
    n_stimuli: int,
    noise: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """RDMs of models and subjects of a study."""
    people = fixed[0] or People(n_subjects, rng)
    stimuli = fixed[1] or Stimuli(n_stimuli, rng)
    return stimuli.models(), people.rdms(stimuli, noise, rng)


def inferences(
    models: Floats, data: Floats, method: str, n_bootstrap: int, seed: list[int]
) -> dict[str, Inference]:
    """Each kind of variance, those by components and by rsatoolbox's formula from the same resamples."""
    results = {"none": infer(models, data, method)}
    for resample in RESAMPLES[1:]:
        bootstrap = Bootstrap(resample, n=n_bootstrap, variance="bootstrap")
        rng = np.random.default_rng(seed)
        draws = bootstrap.draw(
            *(list(map(str, range(n))) for n in (len(data), n_stimuli(data.shape[1]))), rng=rng
        )
        results[resample] = infer(models, data, method, bootstrap, draws=draws)
        if resample != "subjects":
            components = replace(bootstrap, variance="components")
            results[f"{resample}, components"] = infer(models, data, method, components, draws=draws)
    return results


def studies(
    world: str,
    size: tuple[int, int],
    method: str,
    noise: float,
    groups: int,
    each: int,
    n_bootstrap: int,
    truths: int,
) -> pd.DataFrame:
    """Summary of the studies of a world: how wide intervals are, what they hold, p of the unrelated model."""
    rows = []
    for group in range(groups if world != "both" else 1):
        fixed = new(world, *size, group)
        rng = np.random.default_rng([group, 2])
        many = (one_study(fixed, *size, noise, rng) for _ in range(truths))
        truth = np.mean([similarity(*study, method).mean(1) for study in many], axis=0)
        for number in range(each if world != "both" else groups * each):
            models, data = one_study(fixed, *size, noise, np.random.default_rng([group, 3, number]))
            for resample, result in inferences(models, data, method, n_bootstrap, [group, 4, number]).items():
                bounds = {center: interval(result, center=center) for center in ("data", "resamples")}
                inside = {at: (low <= truth) & (truth <= high) for at, (low, high) in bounds.items()}
                p = p_values(result, center="data").zero
                error, variance = result.scores.mean(1) - truth, result.model_var
                assert variance is not None
                for k, name in enumerate(MODELS):
                    # with fixed stimuli or subjects an unrelated model is not quite at zero
                    null = name == "unrelated" and (world == "both" or truth[k] <= 0)
                    row = {
                        "resample": resample,
                        "model": name,
                        "variance": variance[k],
                        "error": error[k] ** 2,
                    }
                    row |= {at: bool(values[k]) for at, values in inside.items()}
                    rows.append({**row, "positive": float(p[k] < 0.05) if null else np.nan})
    case = {"world": world, "subjects": size[0], "stimuli": size[1], "method": method, "noise": noise}
    table = summary(pd.DataFrame(rows))
    return table.assign(**case)[[*case, *table.columns]]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Variance told / true, coverage, false positives of the unrelated model, for each model and all."""
    frame = pd.concat([frame, frame.assign(model="all")])
    kinds = frame.groupby(["resample", "model"], sort=False)
    means = kinds[["variance", "error", "data", "resamples", "positive"]].mean()
    table = pd.DataFrame(
        {
            "variance_ratio": means["variance"] / means["error"],
            "coverage": means["data"],
            "coverage_around_resamples": means["resamples"],
            "false_positives": means["positive"],
            "studies": kinds.size(),
        }
    ).reset_index()
    table.loc[table["model"] == "all", "studies"] //= len(MODELS)
    return table


def sources(size: tuple[int, int], noise: float, repeats: int) -> pd.DataFrame:
    """Shares of the true variance (corr): of subjects, of stimuli singly and in pairs, and these by subject.

    From covariances of studies with the same or other subjects and all, half or none of the stimuli: who
    shares m of n stimuli shares m / n of what belongs to single ones, m (m - 1) / (n (n - 1)) of what belongs
    to pairs.
    """
    n_subjects, n = size
    half = n // 2
    places = [np.arange(n) + start for start in (0, half, n + half)]
    i, j = np.triu_indices(2 * n + half, 1)
    chosen = [np.isin(i, place) & np.isin(j, place) for place in places]
    scores = np.empty((repeats, 2, 3, len(MODELS)))  # people, stimuli
    for number in range(repeats):
        rng = np.random.default_rng([number, 5])
        stimuli = Stimuli(2 * n + half, rng)
        models = stimuli.models()
        for subject in range(2):
            data = People(n_subjects, rng).rdms(stimuli, noise, rng)
            for which, pairs in enumerate(chosen):
                scores[number, subject, which] = similarity(models[:, pairs], data[:, pairs], "corr").mean(1)
    scores -= scores.mean(axis=(0, 1, 2))
    shared = np.einsum("rabm,rcdm->abcdm", scores, scores) / repeats
    total = np.mean([shared[a, b, a, b] for a in range(2) for b in range(3)], axis=0)
    stimuli_all = np.mean([shared[0, b, 1, b] for b in range(3)], axis=0)
    stimuli_half = (shared[0, 0, 1, 1] + shared[1, 0, 0, 1]) / 2
    subjects = np.mean([shared[a, 0, a, 2] for a in range(2)], axis=0)
    subjects_half = np.mean([shared[a, 0, a, 1] for a in range(2)], axis=0)
    single, pair = (n - half) / n, (n - half) * (n - half - 1) / (n * (n - 1))
    by_subject, by_subject_half = total - subjects - stimuli_all, subjects_half - subjects - stimuli_half
    pairs_all, pairs_by_subject = (
        (single * whole - part) / (single - pair)
        for whole, part in ((stimuli_all, stimuli_half), (by_subject, by_subject_half))
    )
    shares = {"subjects": subjects, "stimuli": stimuli_all - pairs_all, "pairs": pairs_all}
    shares |= {"subjects_x_stimuli": by_subject - pairs_by_subject, "subjects_x_pairs": pairs_by_subject}
    at = {"n_subjects": n_subjects, "n_stimuli": n, "noise": noise, "model": MODELS, "sd": np.sqrt(total)}
    return pd.DataFrame({**at, **{name: share / total for name, share in shares.items()}})


def part_options(name: str, description: str) -> argparse.ArgumentParser:
    """Options of a simulation whose studies are kept in parts."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"{EACH} studies a cell, nothing written")
    parser.add_argument("--studies", type=int, default=400, help="studies of each cell (400)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (2)")
    parser.add_argument("--parts", type=Path, default=Path(f"build/{name}"), help="where parts lie")
    return parser


def part_path(folder: Path, cell: Cell, number: int) -> Path:
    """Where a part of a cell lies."""
    return folder / f"{'_'.join(map(str, cell))}_{number}.csv"


def run_parts(
    part: Callable[..., None], cells: Sequence[Any], options: argparse.Namespace, *settings: object
) -> list[pd.DataFrame]:
    """All studies of each cell, of which ``part(cell, number, folder, *settings)`` writes `EACH`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as scratch:
        out = Path(scratch) if options.quick else options.parts
        out.mkdir(parents=True, exist_ok=True)
        numbers = range(1 if options.quick else -(-options.studies // EACH))
        with ProcessPoolExecutor(options.workers, initializer=_one_quiet_thread) as pool:
            jobs = [pool.submit(part, cell, k, out, *settings) for k in numbers for cell in cells]
            for job in track(jobs, "parts"):
                job.result()
        return [pd.concat([pd.read_csv(part_path(out, cell, k)) for k in numbers]) for cell in cells]


def _one_quiet_thread() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def draw(frame: pd.DataFrame) -> Figure:
    """Coverage of each interval in each world; a panel for each size."""
    shown = frame[(frame["model"] == "all") & (frame["method"] == "corr") & (frame["noise"] == USUAL)]
    sizes = list(dict.fromkeys(zip(shown["subjects"], shown["stimuli"], strict=True)))
    figure = Figure(figsize=(3.2 * len(sizes) + 1.6, 3.6), layout="constrained")
    every = figure.subplots(1, len(sizes), sharey=True, squeeze=False)[0]
    for axes, (subjects, stimuli) in zip(every, sizes, strict=True):
        axes.axhspan(93, 98, color="0.88", lw=0, label="93 to 98 %")
        axes.axhline(95, color="0.5", lw=0.8)
        part = shown[(shown["subjects"] == subjects) & (shown["stimuli"] == stimuli)]
        for k, resample in enumerate((*RESAMPLES, "both, components")):
            rows = part[part["resample"] == resample].set_index("world").loc[list(WORLDS)]
            reach = 196 * np.sqrt(rows["coverage"] * (1 - rows["coverage"]) / rows["studies"])
            places = np.arange(len(WORLDS)) + 0.16 * (k - 2)
            name = {"none": "t over subjects"}.get(resample, f"bootstrap: {resample}")
            axes.errorbar(
                places,
                100 * rows["coverage"],
                reach,
                fmt="os^Dv"[k],
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
    parser.add_argument("--each", type=int, default=15, help="studies of each; of rho-a in all (15)")
    parser.add_argument("--new", type=int, default=2000, help="studies in world 'both', corr (2000)")
    parser.add_argument("--bootstraps", type=int, default=1000)
    parser.add_argument("--truths", type=int, default=1000, help="studies that a truth is the mean of (1000)")
    parser.add_argument("--repeats", type=int, default=3000, help="of the studies of `sources` (3000)")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread (2)")
    options = parser.parse_args()
    if options.quick:
        options.groups, options.each, options.new = 2, 5, 20
        options.bootstraps, options.truths, options.repeats = 200, 100, 50
    with ProcessPoolExecutor(options.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts, shares = [], []
        for world in WORLDS:
            for size, method in CASES:
                groups, each = options.groups, options.each
                if world == "both" and method == "corr":
                    groups, each = 1, options.new
                for noise in LEVELS[world]:
                    numbers = noise, groups, each, options.bootstraps, options.truths
                    parts.append(pool.submit(studies, world, size, method, *numbers))
        for size in SIZES:
            shares += [pool.submit(sources, size, noise, options.repeats) for noise in NOISES]
        coverage = pd.concat([part.result() for part in track(parts, "studies")], ignore_index=True)
        origin = pd.concat([share.result() for share in track(shares, "sources")], ignore_index=True)
    for table in (coverage, origin):
        print(table.to_string(index=False, float_format="%.3f"))
    if options.quick:
        return
    write_text(RESULTS / "simulated_studies.csv", coverage.to_csv(index=False, float_format="%.4f"))
    write_text(RESULTS / "simulated_studies_sources.csv", origin.to_csv(index=False, float_format="%.4f"))
    with atomic_write(RESULTS / "simulated_studies.png") as aside:
        draw(coverage).savefig(aside, dpi=150)
    record = {
        "command": "python benchmarks/simulated_studies.py",
        "settings": vars(options),
        "versions": versions(),
    }
    write_json(RESULTS / "simulated_studies.json", record)


if __name__ == "__main__":
    main()
