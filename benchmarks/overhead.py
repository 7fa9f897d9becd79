"""What does `fit` cost beside a plain loop of torch, where there are labels only?

The plain loop has what such a loop needs: floats that lie ready, batches of a shuffled order, AdamW, a
cosine schedule, and the sum of the losses. `fit` adds what makes a run repeatable and safe: seeds of each
step, images out of 8-bit pixels, a record of each term, and the check that weights are finite.

Both take turns, in one process with one thread. The time of a step is the difference between a fit of
several epochs and one of a single epoch, divided by the steps, so that the start of a fit is counted apart.
Times are of the processor, which is fairer than the clock where others use the machine; the median of the
ratios of pairs is shown, with the second smallest and the second largest.

    python benchmarks/overhead.py               # 9 pairs of each size, 4 min
    python benchmarks/overhead.py --pairs 3     # a quick look
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

import neurordl as nrl
from neurordl.io import write_text

RESULTS = Path(__file__).parent / "results"
QUIET = nrl.Execution(accelerator="cpu", progress=False)
# pixels, channels, images in a batch, width of small_cnn, epochs of 20 steps
SIZES = ((8, 1, 32, 8, 6), (8, 1, 32, 32, 4), (8, 1, 128, 32, 2), (28, 1, 32, 16, 2))
STEPS = 20


def images_of(pixels: int, channels: int, batch: int) -> nrl.StimulusSet:
    """Random images for an epoch."""
    n = STEPS * batch
    values = np.random.default_rng(0).integers(0, 256, (n, pixels, pixels, channels), dtype=np.uint8)
    return nrl.StimulusSet.from_array(values, [f"i{k}" for k in range(n)], labels=np.arange(n) % 10)


def plain_loop(images: nrl.StimulusSet, batch: int, width: int, epochs: int) -> float:
    """Processor time of the loop that one would write."""
    torch.manual_seed(0)
    network = nrl.students.small_cnn(10, images.pixels.shape[1], width=width).train()
    inputs, labels = images.images(), images.labels
    start = time.process_time()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * STEPS)

    def step(rows: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(network(inputs[rows]), labels[rows])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        return loss.detach()

    for _ in range(epochs):
        total = torch.zeros(())
        for rows in torch.randperm(len(images)).split(batch):
            total += step(rows)
        total.item()
    return time.process_time() - start


def fitted(images: nrl.StimulusSet, batch: int, width: int, epochs: int) -> float:
    """Processor time of `fit`."""
    torch.manual_seed(0)
    network = nrl.students.small_cnn(10, images.pixels.shape[1], width=width)
    start = time.process_time()
    nrl.fit(
        network,
        nrl.Objective(),
        images,
        epochs=epochs,
        batches=nrl.Batches(labelled=batch),
        execution=QUIET,
    )
    return time.process_time() - start


def step_and_start(train: Callable[..., float], images: nrl.StimulusSet, *sizes: int) -> tuple[float, float]:
    """Milliseconds of a step, and of what comes before the first."""
    batch, width, epochs = sizes
    first, all_epochs = train(images, batch, width, 1), train(images, batch, width, 1 + epochs)
    step = 1e3 * (all_epochs - first) / (epochs * STEPS)
    return step, 1e3 * first - STEPS * step


def main() -> None:
    """Measure all sizes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of each size (9)")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    rows = []
    for pixels, channels, batch, width, epochs in SIZES:
        images = images_of(pixels, channels, batch)
        measured = []
        for turn in range(pairs + 1):
            order = (plain_loop, fitted) if turn % 2 else (fitted, plain_loop)
            times = {train: step_and_start(train, images, batch, width, epochs) for train in order}
            if turn:  # the first pair warms up
                measured.append((*times[plain_loop], *times[fitted]))
        ratios = sorted(fit / plain for plain, _, fit, _ in measured)
        rows.append(
            {
                "images": f"{pixels} x {pixels} x {channels}",
                "batch": batch,
                "width": width,
                "plain_ms": median(plain for plain, *_ in measured),
                "ratio": median(ratios),
                "ratio_low": ratios[1 if pairs > 3 else 0],
                "ratio_high": ratios[-2 if pairs > 3 else -1],
                "start_ms": median(start for *_, start in measured),
            }
        )
        print(pd.DataFrame(rows[-1:]).round(3).to_string(index=False, header=len(rows) == 1), flush=True)
    write_text(RESULTS / "overhead.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
