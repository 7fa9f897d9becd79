"""What does a data set of NSD's size take: reading, RDMs in blocks, an epoch of training, and memory?

A folder in the layout of NSD is simulated: 10,000 images of 64 x 64 pixels, each shown three times in 40
sessions of 750 trials, and an ROI of 20,000 voxels. The grid of voxels is just as large as the ROI, since 40
sessions of a whole brain would take 42 GB; a single session with the grid of a real subject (81 x 104 x 83)
and an ROI of 15,724 of its voxels, as many as nsdgeneral has there, is read beside. All values are random:
this is about time and memory only. Each case has a process of its own, so that no peak is that of another:

- session: `load_nsd` of the session of real size, into memory;
- load: `load_nsd` of 40 sessions into a file in the cache, which is then a memory map of 2.4 GB;
- open: the same call again, which finds that file;
- rdms: `compute_rdms` to a file, float32; the three presentations of an image are averaged block by block;
- images: `load_nsd_stimuli`, 10,000 images;
- train: an epoch of a small CNN with a `PatternTeacher` of the memory map, in batches of 128.

`cpu_seconds` are those of the process; beside other work they say more than `seconds`. `max_rss` is the
largest resident set; pages of mapped files count in it, though the system may drop them at any time.
`anonymous` is what the process itself holds (RssAnon; Linux only), `growth` its peak less what it was before
the case. Files have just been written, so they are read from the page cache where it is large enough.

    python benchmarks/large_plan.py                     # 8 GB on the disk meanwhile; results/large_plan.csv
    python benchmarks/large_plan.py --quick --out ""    # a look, 1 % of the size
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import scipy.io
from pattern_teacher import MB, Peak

RESULTS = Path(__file__).parent / "results"
CASES = ("session", "load", "open", "rdms", "images", "train")
SUBJECT, VERSION = "subj01", "betas_fithrf_GLMdenoise_RR"


@dataclass(frozen=True)
class Plan:
    """Sizes of the simulated folder."""

    images: int = 10_000
    sessions: int = 40
    trials: int = 750  # in a session of 12 runs
    grid: tuple[int, int, int] = (20, 25, 40)
    real_grid: tuple[int, int, int] = (81, 104, 83)
    real_roi: int = 15_724
    size: int = 64
    batch: int = 128


QUICK = Plan(1000, 40, 75, (10, 10, 20), (20, 20, 20), 1572, 32)


def write_folder(folder: Path, plan: Plan, grid: tuple[int, int, int], roi: int, sessions: int) -> None:
    """A folder in the layout of NSD, with random betas."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(plan.images) for _ in range(3)]) + 1
    n_trials = 40 * plan.trials
    pattern = np.zeros((40, 12, -(-plan.trials // 12)))
    for run in range(12):
        pattern[:, run, : (plan.trials + 11 - run) // 12] = 1
    design = {"masterordering": np.resize(order, n_trials)[None], "stimpattern": pattern}
    design |= {"subjectim": np.arange(1, plan.images + 1)[None], "sharedix": np.arange(1, 1001)[None]}
    place = folder / "nsddata" / "experiments" / "nsd"
    place.mkdir(parents=True)
    scipy.io.savemat(place / "nsd_expdesign.mat", design)
    inside = np.zeros(int(np.prod(grid)), dtype=np.int16)
    inside[np.sort(rng.choice(len(inside), roi, replace=False))] = 1
    place = folder / "nsddata" / "ppdata" / SUBJECT / "func1pt8mm" / "roi"
    place.mkdir(parents=True)
    nib.save(nib.Nifti1Image(inside.reshape(grid), np.eye(4)), place / "nsdgeneral.nii.gz")
    place = folder / "nsddata_betas" / "ppdata" / SUBJECT / "func1pt8mm" / VERSION
    place.mkdir(parents=True)
    for session in range(1, sessions + 1):
        with h5py.File(place / f"betas_session{session:02d}.hdf5", "w") as file:
            shape = (plan.trials, *grid[::-1])
            betas = file.create_dataset("betas", shape, np.int16, chunks=(plan.trials, 1, 1, 1))
            for z in range(grid[2]):
                betas[:, z] = rng.integers(-900, 900, (shape[0], *shape[2:]), dtype=np.int16)


def write_images(folder: Path, plan: Plan) -> None:
    place = folder / "nsddata_stimuli" / "stimuli" / "nsd"
    place.mkdir(parents=True)
    with h5py.File(place / "nsd_stimuli.hdf5", "w") as file:
        shape = (plan.images, plan.size, plan.size, 3)
        file["imgBrick"] = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def prepare(case: str, folder: Path, plan: Plan) -> Callable[[], Any]:
    """The call that is measured; what it needs is loaded before."""
    import neurordl as nrl

    load_nsd, load_nsd_stimuli = nrl.datasets.load_nsd, nrl.datasets.load_nsd_stimuli  # imports their module

    def load() -> Any:
        return load_nsd(folder / "nsd", 1, "nsdgeneral", cache=folder / "cache")

    if case == "session":
        return lambda: load_nsd(folder / "real", 1, "nsdgeneral", sessions=[1]).measurements
    if case in ("load", "open"):
        return lambda: load().measurements
    if case == "images":
        return lambda: load_nsd_stimuli(folder / "nsd").pixels
    patterns = load()
    if case == "rdms":
        out = folder / "rdms.npy"
        return lambda: nrl.compute_rdms(patterns, "correlation", dtype=np.float32, out=out).dissimilarities
    stimuli = load_nsd_stimuli(folder / "nsd")
    student = nrl.students.small_cnn(width=16)
    batches, quiet = nrl.Batches(stimuli=plan.batch), nrl.Execution(progress=False)

    def train() -> Any:
        objective = nrl.Objective([nrl.RDMLoss(nrl.PatternTeacher(patterns), layer="conv3")], task=None)
        run = nrl.fit(student, objective, stimuli=stimuli, epochs=1, batches=batches, execution=quiet)
        assert np.isfinite(run.history["rdm:conv3"]).all()
        return run

    return train


def run_case(case: str, folder: Path, plan: Plan, threads: int) -> dict[str, Any]:
    import resource

    import torch

    torch.set_num_threads(threads)
    call = prepare(case, folder, plan)
    with Peak() as peak:
        start, start_of_cpu = time.perf_counter(), time.process_time()
        result = call()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_of_cpu
    unit = 1 if sys.platform == "darwin" else 1024
    shape = list(result.shape) if hasattr(result, "shape") else None
    return {
        "case": case,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "shape": "" if shape is None else " x ".join(map(str, shape)),
        "result_mb": 0 if shape is None else float(np.prod(shape)) * result.dtype.itemsize / MB,
        "anonymous_mb": None if peak.highest is None else peak.highest / MB,
        "growth_mb": None if peak.before is None else ((peak.highest or 0) - peak.before) / MB,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and memory of a data set of NSD's size.")
    parser.add_argument("--quick", action="store_true", help="1 %% of the size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", help="where the temporary folder goes (the system's default)")
    parser.add_argument("--out", default=str(RESULTS), help="folder; '' writes nothing")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    plan = QUICK if args.quick else Plan()
    if args.case:
        print(json.dumps(run_case(args.case[0], Path(args.case[1]), plan, args.threads)))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the files go when this is ended
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write_folder(folder / "real", plan, plan.real_grid, plan.real_roi, 1)
        for case in CASES:
            if case == "load":
                shutil.rmtree(folder / "real")
                write_folder(folder / "nsd", plan, plan.grid, int(np.prod(plan.grid)), plan.sessions)
                write_images(folder / "nsd", plan)
            command = [sys.executable, __file__, "--case", case, name, "--threads", str(args.threads)]
            environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
            command += ["--quick"] if args.quick else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print("  ".join(f"{key} {_short(value)}" for key, value in rows[-1].items()), flush=True)
    if args.out:
        save(args, plan, rows)


def save(args: argparse.Namespace, plan: Plan, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from neurordl.io import versions, write_json, write_text

    write_text(Path(args.out) / "large_plan.csv", pd.DataFrame(rows).round(3).to_csv(index=False))
    info = {
        "command": shlex.join(["python", "benchmarks/large_plan.py", *sys.argv[1:]]),
        "versions": versions(),
        "system": platform.system(),
        "threads": args.threads,
        "plan": asdict(plan),
    }
    write_json(Path(args.out) / "large_plan.json", {"cases": rows, **info})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
