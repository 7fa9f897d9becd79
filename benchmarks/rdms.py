"""Patterns to RDMs: time and memory beside rsatoolbox, scipy and the bare symmetric product.

Each case compares, with equal threads, `neurordl.compute_rdms` with the same from rsatoolbox (`calc_rdm`;
without a descriptor where it needs none, which spares it averaging and sorting), with scipy's `pdist`, and
with `X @ X.T`, which numpy hands to BLAS's symmetric product (syrk): the least that any of them has to do.
Calls take turns, and what is reported is the median over turns of the ratio of times; medians of seconds
stand beside. Results have to agree before anything is timed.

Memory: each call once more in a process of its own, by how much its largest resident set grew, beside the
bytes of patterns and result. The large cases (5,000 stimuli x 25,088 channels; 20,000 stimuli to the disk)
are only neurordl's: rsatoolbox would take several times the memory.

    python benchmarks/rdms.py                       # about 10 minutes; results/rdms.csv
    python benchmarks/rdms.py --quick --out ""      # a look, with small cases
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
MB = 1e6

# method, stimuli, channels, runs, precision, dtype, who is beside
CASES: list[tuple[str, int, int, int, bool, str, tuple[str, ...]]] = [
    ("correlation", 2000, 4096, 1, False, "float64", ("rsatoolbox", "syrk")),
    ("correlation", 2000, 4096, 1, False, "float32", ("rsatoolbox", "syrk")),
    ("correlation", 500, 4096, 1, False, "float64", ("rsatoolbox", "scipy", "syrk")),
    ("euclidean", 500, 4096, 1, False, "float64", ("rsatoolbox", "scipy", "syrk")),
    ("euclidean", 2000, 4096, 1, False, "float64", ("rsatoolbox", "syrk")),
    ("euclidean", 5000, 4096, 1, False, "float64", ("rsatoolbox", "syrk")),
    ("euclidean", 2000, 4096, 1, False, "float32", ("rsatoolbox", "syrk")),
    ("crossnobis", 500, 4096, 4, False, "float64", ("rsatoolbox", "syrk")),
    ("crossnobis", 92, 25088, 4, False, "float64", ("rsatoolbox", "syrk")),
    ("crossnobis", 500, 4096, 4, True, "float64", ("rsatoolbox", "syrk")),
    ("mahalanobis", 500, 4096, 1, True, "float64", ("rsatoolbox", "syrk")),
    ("poisson", 500, 4096, 1, False, "float64", ("rsatoolbox", "syrk")),
]
QUICK = [
    ("correlation", 400, 500, 1, False, "float64", ("rsatoolbox", "scipy", "syrk")),
    ("euclidean", 400, 500, 1, False, "float32", ("rsatoolbox", "scipy", "syrk")),
    ("crossnobis", 100, 500, 3, True, "float64", ("rsatoolbox", "syrk")),
    ("poisson", 100, 500, 1, False, "float64", ("rsatoolbox", "syrk")),
]
LARGE = [("correlation", 5000, 25088, "float32", False), ("correlation", 20000, 1000, "float32", True)]
QUICK_LARGE = [("correlation", 1500, 2000, "float32", False)]


def make(case: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """A Dataset, its patterns, and a precision."""
    import numpy as np
    from rsatoolbox.data import Dataset

    _, stimuli, channels, runs, precise, dtype, _ = case
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (runs * stimuli, channels)).astype(dtype)
    names = [f"s{k:05d}" for k in range(stimuli)]
    rows = {"stimulus": names * runs, "run": np.repeat(np.arange(runs), stimuli).tolist()}
    precision = None
    if precise:
        half = rng.standard_normal((channels, 64))
        precision = np.eye(channels) + half @ half.T / 64
    return Dataset(values, obs_descriptors=rows), values, precision


def calls(case: tuple[Any, ...], names: tuple[str, ...]) -> dict[str, Callable[[], Any]]:
    """What each of them does; the function gives condensed distances, or a matrix for the bare product."""
    import numpy as np

    method, _, _, runs, _, dtype, _ = case
    data, values, precision = make(case)
    functions: dict[str, Callable[[], Any]] = {}
    if "neurordl" in names:
        from neurordl.rdms import compute_rdms

        options = {} if precision is None else {"precision": precision}
        functions["neurordl"] = lambda: (
            compute_rdms(data, method, dtype=np.dtype(dtype), **options).dissimilarities
        )
    if "rsatoolbox" in names:
        from rsatoolbox.rdm import calc_rdm

        by = {"descriptor": "stimulus", "cv_descriptor": "run"} if runs > 1 else {}
        functions["rsatoolbox"] = lambda: calc_rdm(data, method, noise=precision, **by).dissimilarities
    if "scipy" in names:
        from scipy.spatial.distance import pdist

        metric = {"euclidean": "sqeuclidean"}.get(method, method)
        functions["scipy"] = lambda: pdist(values, metric)[None]
    if "syrk" in names:
        functions["syrk"] = lambda: values[: len(values) // runs] @ values[: len(values) // runs].T
    return functions


def check(case: tuple[Any, ...], functions: dict[str, Callable[[], Any]]) -> None:
    """All give the same numbers."""
    import numpy as np

    method, _, channels, *_ = case
    ours = functions["neurordl"]()
    for name in ("rsatoolbox", "scipy"):
        if name in functions:
            scale = 1 / channels if name == "scipy" and method == "euclidean" else 1.0
            theirs = functions[name]() * scale
            close = 1e-9 if case[5] == "float64" else 2e-3
            np.testing.assert_allclose(ours, theirs, atol=close * float(np.abs(theirs).max()), rtol=0)


def timed(case: tuple[Any, ...], budget: float) -> list[dict[str, Any]]:
    """Median seconds, and ratio to neurordl, of each; calls take turns."""
    names = ("neurordl", *case[6])
    functions = calls(case, names)
    check(case, functions)
    taken: dict[str, list[float]] = {name: [] for name in functions}
    begun = time.perf_counter()
    while len(taken["neurordl"]) < 3 or (
        time.perf_counter() - begun < budget and len(taken["neurordl"]) < 15
    ):
        for name, call in functions.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    rows = []
    for name, seconds in taken.items():
        ratios = [other / ours for other, ours in zip(seconds, taken["neurordl"], strict=True)]
        rows.append(
            {
                "what": name,
                "seconds": statistics.median(seconds),
                "times_neurordl": statistics.median(ratios),
                "turns": len(seconds),
            }
        )
    return rows


def memory(line: str = "VmRSS") -> float:
    """Bytes of the resident set, or of the largest so far (VmHWM; getrusage would count the parent's)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return float(next(row.split()[1] for row in status if row.startswith(line))) * 1024


def grown(case: tuple[Any, ...], name: str) -> dict[str, float]:
    """In this process: by how much the largest resident set grows during one call."""
    small = (case[0], 100, 64, case[3], case[4], case[5], case[6])
    calls(small, (name,))[name]()  # what is loaded late is loaded
    function = calls(case, (name,))[name]
    before = memory()
    start = time.perf_counter()
    function()
    seconds = time.perf_counter() - start
    peak = memory("VmHWM")
    return {"peak": max(0.0, peak - before), "seconds": seconds}


def large(stimuli: int, channels: int, dtype: str, to_disk: bool) -> dict[str, float]:
    """In this process: time and growth of a large correlation RDM."""
    import numpy as np
    from rsatoolbox.data import Dataset

    from neurordl.rdms import compute_rdms

    names = [f"s{k}" for k in range(stimuli)]
    rng = np.random.default_rng(0)
    warm = Dataset(
        rng.standard_normal((200, 64), dtype=np.float32), obs_descriptors={"stimulus": names[:200]}
    )
    compute_rdms(warm, dtype=dtype)
    values = rng.standard_normal((stimuli, channels), dtype=np.float32)
    data = Dataset(values, obs_descriptors={"stimulus": names})
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "rdm.npy") if to_disk else None
        before = memory()
        start = time.perf_counter()
        compute_rdms(data, "correlation", dtype=dtype, out=out)
        seconds = time.perf_counter() - start
    peak = memory("VmHWM")
    start = time.perf_counter()
    values[: min(stimuli, 5000)] @ values[: min(stimuli, 5000)].T
    product = (time.perf_counter() - start) * (stimuli / min(stimuli, 5000)) ** 2
    return {"peak": peak - before, "seconds": seconds, "syrk": product}


def in_own_process(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="for the turns of a case")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--out", default=str(RESULTS), help='folder; "": nothing is written')
    parser.add_argument("--grown", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--large", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # before numpy and torch are loaded; inherited by processes
    if args.grown:
        print(json.dumps(grown(tuple(json.loads(args.grown[0])), args.grown[1])))
        return
    if args.large:
        stimuli, channels, dtype, to_disk = args.large
        print(json.dumps(large(int(stimuli), int(channels), dtype, to_disk == "True")))
        return

    import pandas as pd
    import torch

    from neurordl.io import versions, write_json, write_text

    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for case in QUICK if args.quick else CASES:
        method, stimuli, channels, runs, precise, dtype, _ = case
        size = {"float32": 4, "float64": 8}[dtype]
        needed = (runs * stimuli * channels + stimuli * (stimuli - 1) // 2) * size
        about = {"method": method, "stimuli": stimuli, "channels": channels, "runs": runs, "dtype": dtype}
        for timing in timed(case, args.seconds):
            taken = {}
            if not args.no_memory:
                peak = in_own_process(
                    "--grown", json.dumps(case), timing["what"], "--threads", str(args.threads)
                )
                taken = {"grew_mb": peak["peak"] / MB, "input_and_result_mb": needed / MB}
            rows.append({**about, "precision": precise, **timing, **taken})
            print({key: value for key, value in rows[-1].items() if key != "input_and_result_mb"}, flush=True)
    if not args.no_memory:
        for method, stimuli, channels, dtype, to_disk in QUICK_LARGE if args.quick else LARGE:
            row = in_own_process(
                "--large", str(stimuli), str(channels), dtype, str(to_disk), "--threads", str(args.threads)
            )
            result = stimuli * (stimuli - 1) // 2 * 4
            needed = stimuli * channels * 4 + result
            about = {"method": method, "stimuli": stimuli, "channels": channels, "runs": 1, "dtype": dtype}
            rows.append(
                {
                    **about,
                    "precision": False,
                    "what": "neurordl" + (" to the disk" if to_disk else ""),
                    "seconds": row["seconds"],
                    "times_neurordl": 1.0,
                    "turns": 1,
                    "grew_mb": row["peak"] / MB,
                    "input_and_result_mb": needed / MB,
                }
            )
            rows.append(
                {
                    **about,
                    "precision": False,
                    "what": "syrk",
                    "seconds": row["syrk"],
                    "times_neurordl": row["syrk"] / row["seconds"],
                    "turns": 1,
                }
            )
            # the patterns were in memory before; the result (a file's pages, too) and the block are new
            total = (needed - result + row["peak"]) / needed
            print(rows[-2], f"patterns and growth are {total:.2f} of input and result", flush=True)
    table = pd.DataFrame(rows)
    print(table.to_string(index=False, float_format="%.3f"))
    if args.out:
        out = Path(args.out)
        write_text(out / "rdms.csv", table.round(4).to_csv(index=False, lineterminator="\n"))
        command = shlex.join(["python", "benchmarks/rdms.py", *sys.argv[1:]])
        record = {
            "command": command,
            "threads": args.threads,
            "cores": os.cpu_count(),
            "versions": versions(),
        }
        write_json(out / "rdms.json", record)


if __name__ == "__main__":
    main()
