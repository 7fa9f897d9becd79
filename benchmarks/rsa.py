"""RSA beside rsatoolbox: comparisons, noise ceilings and bootstraps in one run, with equal threads.

Each row of work is done by both in turn (ours, theirs, ours, ...), after one uncounted run of ours, and the
ratio is that of the median times. Where rsatoolbox takes too long for as many resamples as ours, it does
fewer, and its time is scaled up: the column `their_resamples` says how many it did. Both get the same RDMs,
which are random: what they show does not change the time. Memory is the peak of a process of its own, less
what it held before the work.

    python benchmarks/rsa.py                          # every row; 27 minutes on two free cores
    python benchmarks/rsa.py --sizes small --out ""   # a minute, nothing written
    python benchmarks/rsa.py --sizes call --no-memory # at the public call, and where subjects miss pairs
    python benchmarks/rsa.py --sizes growth           # how time grows with conditions and resamples
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import platform
import shlex
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from threadpoolctl import threadpool_limits

from neurordl.io import versions, write_json, write_text
from neurordl.measures.condensed import n_stimuli
from neurordl.rsa.ceilings import ceiling
from neurordl.rsa.compare import similarity
from neurordl.rsa.evaluate import evaluate
from neurordl.rsa.inference.infer import infer
from neurordl.rsa.inference.resampling import Bootstrap

RESULTS = Path(__file__).parent / "results"
# Targets of the ratio, theirs over ours, at full size, for those rows that have one.
REACH = {
    ("compare", "cosine"): 6,
    ("compare", "corr"): 5,
    ("compare", "spearman"): 5,
    ("compare", "rho-a"): 5,
    ("compare", "corr_cov"): 5,
    ("compare", "tau-a"): 10,
    ("compare", "tau-b"): 10,
    ("ceiling", "cosine"): 60,
    ("ceiling", "corr"): 50,
    ("ceiling", "spearman"): 15,
    ("bootstrap", "cosine"): 300,
    ("bootstrap", "corr"): 300,
    ("bootstrap", "spearman"): 50,
    ("bootstrap", "rho-a"): 50,
    ("bootstrap", "corr_cov"): 200,
}


@dataclass(frozen=True)
class Work:
    """One row: what is done, by which method, of what size."""

    task: str  # compare, ceiling, bootstrap (two-factor), evaluate (the public call) or missing (pairs)
    method: str
    conditions: int
    subjects: int
    models: int = 0
    resamples: int = 0
    their_resamples: int = 0


def plan(sizes: str) -> list[Work]:
    """Rows of a size."""
    fast = ("cosine", "corr", "cosine_cov", "corr_cov")
    slow = ("spearman", "rho-a", "tau-a", "tau-b")
    if sizes == "call":  # without and with a two-factor bootstrap; subjects who lack a stimulus each
        rows = [
            Work("evaluate", m, 92, 10, 8, b, 5 if b else 0) for m in ("corr", "rho-a") for b in (0, 1000)
        ]
        return rows + [
            Work("missing", m, 92, 10, 8, 1000) for m in ("cosine", "corr", "spearman", "rho-a", "tau-a")
        ]
    if sizes == "small":
        rows = [Work("compare", method, 100, 10, 20) for method in (*fast, *slow)]
        rows += [Work("ceiling", method, 200, 8) for method in ("cosine", "corr", "spearman")]
        return rows + [Work("bootstrap", m, 30, 6, 5, 100, 3) for m in ("cosine", "corr_cov", "rho-a")]
    if sizes == "growth":
        rows = [
            Work("bootstrap", m, n, 8, 10, 1000, 2) for m in ("corr", "rho-a") for n in (46, 92, 184, 368)
        ]
        return rows + [Work("bootstrap", m, 92, 8, 10, b, 2) for m in ("corr", "rho-a") for b in (250, 4000)]
    rows = [Work("compare", method, 1000, 30, 50) for method in (*fast, "spearman", "rho-a")]
    rows += [Work("compare", method, 500, 30, 50) for method in ("tau-a", "tau-b")]
    rows += [Work("ceiling", method, 2000, 8) for method in (*fast, "spearman", "rho-a")]
    for method in (*fast, *slow):
        rows += [Work("bootstrap", method, 92, 8, models, 1000, 10) for models in (10, 50)]
    return rows + [Work("bootstrap", method, 872, 8, 10, 1000, 2) for method in ("cosine", "corr")]


def make_data(work: Work, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pairs = work.conditions * (work.conditions - 1) // 2
    return rng.random((work.models, pairs)), rng.random((work.subjects, pairs))


def as_rdms(vectors: np.ndarray, kind: str) -> RDMs:
    """Containers for the public call."""
    names = [f"{kind}{k}" for k in range(len(vectors))]
    ids = [f"s{k}" for k in range(n_stimuli(vectors.shape[1]))]
    return RDMs(vectors, rdm_descriptors={kind: names}, pattern_descriptors={"stimulus": ids})


def without_a_stimulus_each(data: np.ndarray) -> np.ndarray:
    """RDMs in which each subject lacks the pairs of another stimulus."""
    i, j = np.triu_indices(n_stimuli(data.shape[1]), 1)
    subjects = np.arange(len(data))[:, None]
    return np.where((i == subjects) | (j == subjects), np.nan, data)


def set_threads(threads: int) -> None:
    """Of torch, of numpy's BLAS and of our compiled functions, which take as many as torch."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)


def our_work(work: Work, models: np.ndarray, data: np.ndarray) -> Any:
    if work.task == "compare":
        return similarity(models, data, work.method)
    if work.task == "ceiling":
        return ceiling(data, work.method)
    if work.task == "evaluate":
        bootstrap = Bootstrap("both", n=work.resamples, variance="bootstrap") if work.resamples else None
        return evaluate(models, data, comparison=work.method, bootstrap=bootstrap)
    data = without_a_stimulus_each(data) if work.task == "missing" else data
    return infer(models, data, work.method, Bootstrap("both", n=work.resamples, variance="bootstrap"))


def their_work(work: Work, models: np.ndarray, data: np.ndarray) -> Callable[[], Any]:
    """rsatoolbox's function, with its containers made beforehand; of missing pairs ours of complete RDMs."""
    from rsatoolbox.inference import boot_noise_ceiling, eval_dual_bootstrap, eval_fixed
    from rsatoolbox.model import ModelFixed
    from rsatoolbox.rdm import compare

    if work.task == "missing":
        return lambda: infer(models, data, work.method, Bootstrap("both", n=work.resamples))
    measured = RDMs(data)
    if work.task == "compare":
        predicted = RDMs(models)
        return lambda: compare(predicted, measured, work.method)
    if work.task == "ceiling":
        return lambda: boot_noise_ceiling(measured, work.method)
    fixed = [ModelFixed(f"model{k}", RDMs(model[None])) for k, model in enumerate(models)]
    if not work.resamples:
        return lambda: eval_fixed(fixed, measured, method=work.method)
    return lambda: eval_dual_bootstrap(fixed, measured, method=work.method, N=work.their_resamples)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    with quiet():
        work()
    return time.perf_counter() - start


def race(work: Work, repeats: int, seed: int) -> dict[str, Any]:
    """Median seconds of both, taken in turn, and their ratio."""
    models, data = make_data(work, seed)
    theirs, taken = their_work(work, models, data), ([], [])
    if work.task == "evaluate":
        models, data = as_rdms(models, "layer"), as_rdms(data, "subject")
    our_work(work, models, data)  # compiles
    for _ in range(repeats):
        taken[0].append(seconds(lambda: our_work(work, models, data)))
        taken[1].append(seconds(theirs))
    scale = work.resamples / work.their_resamples if work.their_resamples else 1
    ours, peer = statistics.median(taken[0]), statistics.median(taken[1]) * scale
    return {
        **vars(work),
        "our_seconds": ours,
        "their_seconds": peer,
        "ratio": peer / ours,
        "reach": REACH.get((work.task, work.method)),
        "repeats": repeats,
    }


def _peak(queue: Any, work: Work, threads: int, seed: int, ours: bool) -> None:
    set_threads(threads)
    models, data = make_data(work, seed)
    small = Work(work.task, work.method, 12, 4, min(work.models, 3), 3, 2)
    few = make_data(small, seed)
    with quiet():
        (lambda: our_work(small, *few))() if ours else their_work(small, *few)()  # imports, compiles
        run = (lambda: our_work(work, models, data)) if ours else their_work(work, models, data)
        before = _resident("VmRSS")
        run()
    queue.put(max(0.0, _resident("VmHWM") - before))


def _resident(line: str) -> float:
    """MB of the resident set, or of the largest so far (VmHWM; getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return float(next(row.split()[1] for row in status if row.startswith(line))) / 1024


def peak_megabytes(work: Work, threads: int, seed: int, *, ours: bool) -> float:
    """By how much the work raises the peak memory of a fresh process (of rsatoolbox: fewer resamples)."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(queue, work, threads, seed, ours))
    process.start()
    peak = queue.get()
    process.join()
    return float(peak)


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were taken on and with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "command": shlex.join(["python", "benchmarks/rsa.py", *sys.argv[1:]]),
        "versions": versions(),
        "system": platform.system(),
        "processor": names[0] if names else platform.processor(),
        "processors": len(names) or None,
        "threads": torch.get_num_threads(),
        "settings": {name: value for name, value in vars(args).items() if name != "out"},
    }


def merged(path: Path, rows: list[dict[str, Any]]) -> str:
    """The table, in which rows of other work stay."""
    frame, keys = pd.DataFrame(rows), list(Work.__annotations__)
    if path.is_file():
        frame = pd.concat([pd.read_csv(path), frame]).drop_duplicates(keys, keep="last")
    return str(frame.to_csv(index=False))


def main() -> None:
    parser = argparse.ArgumentParser(description="RSA beside rsatoolbox.")
    parser.add_argument("--sizes", choices=("small", "full", "growth", "call"), default="full")
    parser.add_argument(
        "--kinds", nargs="+", default=("compare", "ceiling", "bootstrap", "evaluate", "missing")
    )
    parser.add_argument("--methods", nargs="+", help="all by default; rows of others stay in the table")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (3)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--out", default=str(RESULTS), help="folder; '' writes nothing")
    args = parser.parse_args()
    set_threads(args.threads)
    name = "rsa" if args.sizes == "full" else f"rsa_{args.sizes}"
    rows: list[dict[str, Any]] = []
    chosen = [work for work in plan(args.sizes) if work.task in args.kinds]
    for work in chosen:
        if args.methods and work.method not in args.methods:
            continue
        row = race(work, args.repeats, args.seed)
        if not args.no_memory:
            for side in ("our", "their"):
                row[f"{side}_peak_mb"] = peak_megabytes(work, args.threads, args.seed, ours=side == "our")
        rows.append(row)
        size = f"{work.conditions} x {work.subjects} x {work.models}"
        aim = f" (reach {row['reach']})" if row["reach"] and args.sizes == "full" else ""
        print(
            f"{work.task:<10}{work.method:<11}{size:<16}{row['our_seconds']:9.3f} s beside "
            f"{row['their_seconds']:9.2f} s, ratio {row['ratio']:7.1f}{aim}",
            flush=True,
        )
        if args.out:
            Path(args.out).mkdir(parents=True, exist_ok=True)
            write_text(Path(args.out) / f"{name}.csv", merged(Path(args.out) / f"{name}.csv", rows))
            write_json(Path(args.out) / f"{name}.json", machine(args))


if __name__ == "__main__":
    main()
