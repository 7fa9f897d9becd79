"""How the demo's layer and weight were chosen: on seeds and images of which it reports nothing.

The demo's test images stay out altogether; a quarter of its training images takes their place. Writes
choose.csv, the means over seeds 100 to 102 for each layer, weight, experiment and condition. The demo takes
the layer with the highest accuracy of `rdl` here, and the smallest weight from which on it is level.

    python -m benchmarks.demo_setting.choose
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from examples.demo import CONDITIONS, EXPERIMENTS, SETTING, World, fit_and_score
from neurordl.datasets import load_digits
from neurordl.experiments import run_grid
from neurordl.io import write_text

OUT = Path(__file__).parent / "choose.csv"
LAYERS, WEIGHTS, SEEDS = ("conv2", "conv3", "fc1"), (1.0, 10.0, 30.0, 100.0), (100, 101, 102)


def main() -> None:
    """Fit every student and write the table."""
    torch.set_num_threads(1)
    world = World(load_digits().split(held_out=0.25, seed=0, stratify="label")[0])

    def job(experiment: str, condition: str, layer: str, weight: float, seed: int) -> dict[str, float]:
        world.setting = replace(SETTING, layer=layer, weight=weight)
        return fit_and_score(world, experiment, condition, seed)

    jobs = [
        {"experiment": experiment, "condition": condition, "layer": layer, "weight": weight, "seed": seed}
        for experiment in EXPERIMENTS
        for layer in LAYERS
        for weight in WEIGHTS
        for condition in CONDITIONS
        if condition != "labels" or weight == WEIGHTS[0]  # labels only have no weight
        for seed in SEEDS
    ]
    with tempfile.TemporaryDirectory() as folder:
        rows = run_grid(jobs, job, Path(folder))
    measures = ["test_accuracy", "heldout_rdm_similarity", "ceiling_lower", "ceiling_upper"]
    means = rows.groupby(["experiment", "layer", "weight", "condition"], sort=False)[measures].mean().round(4)
    write_text(OUT, means.reset_index().to_csv(index=False))
    print(means.to_string())


if __name__ == "__main__":
    main()
