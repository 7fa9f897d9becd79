"""What the weights of fits say: similarity to the teacher, layer by layer, and accuracy on worse images.

Each fit is measured once; rows are kept beside the fits, and the tables in results/ serve where fits are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from conditions import CELLS, PAIRS
from scipy.ndimage import gaussian_filter
from setting import RESULTS, RUNS, SOURCES, load, trained_network
from study import Job, new_student
from torch import Tensor, nn

import neurordl as nrl
from neurordl.experiments import run_grid
from neurordl.io import write_text

N_SHOWN, N_WORSE = 1_000, 5_000
"""Test images whose RDMs are compared, and those that are made worse; equally many of each class."""

UNTRAINED = "untrained"
OUTPUTS = "fc"
"""The teacher's last layer."""

COMPARISONS = ("corr", "spearman")
KEYS = ["cell", "condition", "ratio", "seed", "crc"]
STRENGTHS: dict[str, dict[str, tuple[float, ...]]] = {
    "mnist": {
        "noise": (0.1, 0.2, 0.3, 0.4, 0.5),
        "blur": (0.5, 1.0, 1.5, 2.0, 2.5),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    },
    "cifar100": {
        "noise": (0.02, 0.04, 0.06, 0.08, 0.1),
        "blur": (0.4, 0.6, 0.8, 1.0, 1.2),
        "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    },
}
"""SD of the noise, of pixels from 0 to 1; SD of the blur in pixels; factor of the contrast."""


def state_of(job: Job) -> dict[str, Tensor]:
    """The weights of a fit, empty if they were not kept."""
    if not job.file.exists():
        return {}
    with np.load(job.file) as result:
        names = [name for name in result if name.startswith("weights/")]
        return {name.removeprefix("weights/"): torch.from_numpy(result[name]).float() for name in names}


def student_of(cell: str, condition: str, ratio: float, seed: int) -> nn.Module:
    """The student of a fit, or the untrained one of its seed, in eval mode."""
    student = new_student(cell, seed)
    if condition != UNTRAINED:
        state = state_of(Job(cell, condition, ratio, seed))
        before = student.state_dict()  # counts of batches are integers
        student.load_state_dict({name: value.to(before[name].dtype) for name, value in state.items()})
    return student.eval()


def table_of(
    name: str,
    jobs: Sequence[Mapping[str, Any]],
    function: Callable[..., Mapping[str, float]],
    settings: Any,
    workers: int,
) -> pd.DataFrame:
    """A row per fit: measured now, or before and kept in results/, if its predictions are still the same."""
    table, file = pd.DataFrame(columns=KEYS), RESULTS / f"{name}.csv"
    present = [job for job in jobs if job["present"]]
    plain = [{key: job[key] for key in KEYS} for job in present]
    if plain:
        folder = RUNS / "measured" / name
        folder.mkdir(parents=True, exist_ok=True)
        measure = partial(run_grid, function=function, out=folder, fingerprint=settings, progress=False)
        if workers > 1 and len(list(folder.glob("rows/*"))) < len(plain):
            shares = [plain[start::workers] for start in range(min(workers, len(plain)))]
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                list(pool.map(measure, shares))
        table = measure(plain)
    if file.exists():
        kept = pd.read_csv(file)
        wanted = {tuple(job[key] for key in KEYS) for job in jobs} - set(table[KEYS].itertuples(False, None))
        rows = [row in wanted for row in kept[KEYS].itertuples(False, None)]
        table = pd.concat([part for part in (table, kept[rows]) if len(part)] or [table], ignore_index=True)
    if len(table):
        write_text(file, table.to_csv(index=False, float_format="%.5g"))
    return table


def jobs_of(predictions: Mapping[Job, npt.NDArray[np.uint8]], measure: bool) -> list[dict[str, Any]]:
    """The finished fits, and whether to measure them: their weights may be absent."""
    result, seeds = [], {}
    for job, classes in predictions.items():
        present = measure and bool(state_of(job))
        values = (
            job.cell,
            job.condition,
            job.ratio,
            job.seed,
            crc32(np.ascontiguousarray(classes).tobytes()),
        )
        result.append({**dict(zip(KEYS, values, strict=True)), "present": present})
        seeds[job.cell, job.seed] = seeds.get((job.cell, job.seed), False) or present
    result += [
        {**dict(zip(KEYS, (cell, UNTRAINED, 0.0, seed, 0), strict=True)), "present": present}
        for (cell, seed), present in seeds.items()
    ]
    return result


# --- geometry -----------------------------------------------------------------------------------------------


@cache
def images_of(source: str, number: int = N_SHOWN) -> nrl.StimulusSet:
    """Some test images."""
    return load(source).test.draw(number, 0)


def rdms_of(network: nn.Module, images: nrl.StimulusSet) -> Any:
    """Correlation-distance RDMs of a network's stages."""
    return nrl.compute_rdms(nrl.extract_patterns(network, images, "top"), "correlation")


@cache
def teacher_rdms(source: str) -> Any:
    """The teacher's RDMs."""
    return rdms_of(trained_network(source), images_of(source))


def geometry(cell: str, condition: str, ratio: float, seed: int, crc: int) -> dict[str, float]:
    """Similarities of all layers of a student with all layers of the teacher."""
    source = CELLS[cell].source
    rdms = rdms_of(student_of(cell, condition, ratio, seed), images_of(source))
    teacher = teacher_rdms(source)
    result = {}
    for comparison in COMPARISONS:
        values = nrl.compare(rdms, teacher, comparison)
        for row, layer in enumerate(rdms.rdm_descriptors["layer"]):
            for column, theirs in enumerate(teacher.rdm_descriptors["layer"]):
                result[f"{layer} {theirs} {comparison}"] = float(values[row, column])
    return result


def layer_pairs(cell: str) -> list[tuple[str, str]]:
    """Layers of the student and of the teacher to compare: those that losses compare, and the outputs."""
    pair = PAIRS[CELLS[cell].student]
    *_, (outputs, _) = new_student(cell, 0).named_children()
    return [*(pair.several or (pair.last,)), (outputs, OUTPUTS)]


def similarity_name(cell: str, comparison: str = "corr") -> str:
    """The column with the similarity of the last layers before the outputs."""
    return " ".join((*PAIRS[CELLS[cell].student].last, comparison))


# --- robustness ---------------------------------------------------------------------------------------------


@cache
def worse(source: str, corruption: str, strength: float) -> Tensor:
    """Test images with noise, or less sharp, or of less contrast; 8 bits as in a file."""
    pixels = images_of(source, N_WORSE).pixels.numpy() / np.float32(255)
    if corruption == "noise":
        noise = np.random.default_rng(0).standard_normal(pixels.shape, dtype=np.float32)
        pixels = pixels + np.float32(strength) * noise
    elif corruption == "blur":
        pixels = gaussian_filter(pixels, (0, 0, strength, strength), mode="nearest")
    elif corruption == "contrast":
        means = pixels.mean(axis=(1, 2, 3), keepdims=True)
        pixels = means + np.float32(strength) * (pixels - means)
    result = torch.from_numpy((255 * pixels.clip(0, 1)).round().astype(np.uint8))
    return result.to(memory_format=torch.channels_last)


@torch.no_grad()
def share_right(student: nn.Module, source: str, pixels: Tensor) -> float:
    """Accuracy in percent."""
    mean, std = (torch.tensor(part).view(-1, 1, 1) for part in (SOURCES[source].mean, SOURCES[source].std))
    student = student.to(memory_format=torch.channels_last)  # half the time on a CPU
    classes = [student((part.float() / 255 - mean) / std).argmax(1) for part in pixels.split(100)]
    return 100 * float((torch.cat(classes) == images_of(source, N_WORSE).labels).float().mean())


def robustness(cell: str, condition: str, ratio: float, seed: int, crc: int) -> dict[str, float]:
    """Accuracies on test images as they are, and with each corruption of each strength."""
    source = CELLS[cell].source
    student = student_of(cell, condition, ratio, seed)
    result = {"clean": share_right(student, source, worse(source, "none", 0.0))}
    for corruption, strengths in STRENGTHS[source].items():
        for strength in strengths:
            pixels = worse(source, corruption, strength)
            result[f"{corruption} {strength:g}"] = share_right(student, source, pixels)
    return result


# --- both ---------------------------------------------------------------------------------------------------
