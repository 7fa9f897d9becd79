"""Does a PatternTeacher train with 20,000 stimuli without holding a stimuli x stimuli matrix, and what of time?

Random patterns (stimuli x channels, float32) are written to a file in a temporary folder and memory-mapped; a
small student is fitted to them with `neurordl.fit`, beside labels. Each case runs in a process of its own, so that
its peaks are its own:

- PatternTeacher with a tenth of the stimuli, and with all of them: memory must not grow with the square;
- RDMTeacher with the tenth, as precomputed RDMs have it: the time of its steps, and its memory.

Memory: `max_rss` is the highest resident set (resource.getrusage), in which the pages of the mapped file count
too, although the system can drop them at any time; `anonymous` is what the process holds itself (RssAnon in
/proc/self/status, looked at every 2 ms; Linux only), and `growth` its peak less what it was before the teacher and
the fit. The script fails if that growth reaches a quarter of the matrix that is never held. The time is the median
over epochs but the first (which also takes checksums); the file is in the page cache, having just been written.

    python benchmarks/pattern_teacher.py                                              # 400 MB on the disk meanwhile
    python benchmarks/pattern_teacher.py --stimuli 2000 --channels 500 --out ""       # a quick look
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

MB = 1e6
RESULTS = Path(__file__).parent / "results"
CASES = (("PatternTeacher", 10), ("PatternTeacher", 1), ("RDMTeacher", 10))
IMAGE, CLASSES, LABELLED, BATCH = 16, 10, 640, 64


def write_patterns(path: Path, stimuli: int, channels: int) -> None:
    """Random patterns as an .npy file, block by block: this process must stay small."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (stimuli, channels)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, stimuli, 500):
            rng.standard_normal((min(500, stimuli - start), channels), dtype=np.float32).tofile(file)


def anonymous() -> int | None:
    """Bytes that this process holds itself, without pages of files; None where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
    return found[0] if found else None


class Peak:
    """The highest anonymous memory while it is open."""

    def __enter__(self) -> Peak:
        self.before = self.highest = anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if self.before is not None:
            self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.highest = max(self.highest or 0, anonymous() or 0)

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._done.set()
        if self.before is not None:
            self._thread.join()


def run_case(kind: str, path: Path, stimuli: int, steps: int, threads: int) -> dict[str, Any]:
    """Fit a student to the first stimuli of the file; what it took."""
    import resource

    import torch
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs

    import neurordl as nrl

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(1)

    def images(n: int, name: str, labels: Any = None) -> nrl.StimulusSet:
        pixels = rng.integers(0, 256, (n, IMAGE, IMAGE, 3), dtype=np.uint8)
        return nrl.StimulusSet.from_array(pixels, [f"{name}{one}" for one in range(n)], labels=labels)

    train, labelled = images(stimuli, "s"), images(LABELLED, "l", rng.integers(0, CLASSES, LABELLED))
    patterns = np.load(path, mmap_mode="r", allow_pickle=False)[:stimuli]
    # A first fit without teacher loads everything that is loaded late, and allocates what any fit does.
    nrl.fit(nrl.students.small_cnn(CLASSES, width=8), nrl.Objective(), labelled, epochs=1, progress=False)
    with Peak() as peak:
        start = time.perf_counter()
        teacher: Any
        if kind == "PatternTeacher":
            teacher = nrl.PatternTeacher({"s01": (patterns, list(train.ids))})
        else:
            made = nrl.compute_rdms(Dataset(patterns, obs_descriptors={"stimulus": list(train.ids)}))
            teacher = nrl.RDMTeacher(
                RDMs(made.dissimilarities, "correlation", pattern_descriptors=made.pattern_descriptors)
            )
        ready = time.perf_counter() - start
        per_epoch = max(stimuli // BATCH, LABELLED // BATCH)
        epochs = max(2, round(steps / per_epoch)) + 1
        run = nrl.fit(
            nrl.students.small_cnn(CLASSES, width=8),
            nrl.Objective([nrl.RDMLoss(teacher, "conv3")]),
            labelled,
            train,
            epochs,
            batch_size=BATCH,
            stimuli_batch=BATCH,
            progress=False,
        )
    history = run.history
    assert bool(np.isfinite(history["rdm:conv3"]).all())
    unit = 1024 if sys.platform != "darwin" else 1
    growth = None if peak.before is None else ((peak.highest or 0) - peak.before) / MB
    return {
        "teacher": kind,
        "stimuli": stimuli,
        "channels": patterns.shape[1],
        "steps": per_epoch * epochs,
        "step_ms": float((history["seconds"].iloc[1:] / per_epoch).median() * 1e3),
        "teacher_seconds": ready,
        "first_loss": float(history["rdm:conv3"].iloc[0]),
        "last_loss": float(history["rdm:conv3"].iloc[-1]),
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB,
        "anonymous_mb": None if peak.highest is None else peak.highest / MB,
        "growth_mb": growth,
        "patterns_mb": stimuli * patterns.shape[1] * 4 / MB,
        "matrix_mb": stimuli * (stimuli - 1) / 2 * 4 / MB,
    }


def in_own_process(kind: str, path: Path, stimuli: int, args: argparse.Namespace) -> dict[str, Any]:
    """`run_case` in a new process."""
    case = ["--case", kind, str(path), str(stimuli)]
    settings = ["--steps", str(args.steps), "--threads", str(args.threads)]
    command = [sys.executable, __file__, *case, *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(rows: list[dict[str, Any]]) -> None:
    """The matrix was never held, and memory did not grow with the square of the stimuli."""
    few, many = (row for row in rows if row["teacher"] == "PatternTeacher")
    if many["growth_mb"] is None:
        print("this system does not tell anonymous memory: nothing could be checked")
        return
    matrix = many["matrix_mb"]
    assert many["growth_mb"] < matrix / 4, (
        f"memory grew by {many['growth_mb']:.0f} MB, the matrix has {matrix:.0f}"
    )
    more, squared = many["growth_mb"] - few["growth_mb"], matrix - few["matrix_mb"]
    assert more < squared / 4, (
        f"{more:.0f} MB more for more stimuli, where their matrices differ by {squared:.0f}"
    )
    print(f"never held: the condensed matrix of {many['stimuli']} stimuli, {matrix:.0f} MB in float32")
    print(
        f"memory grew by {many['growth_mb']:.0f} MB during the fit, {few['growth_mb']:.0f} MB with a tenth of them"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of a PatternTeacher with many stimuli.")
    parser.add_argument("--stimuli", type=int, default=20_000)
    parser.add_argument("--channels", type=int, default=5_000)
    parser.add_argument("--steps", type=int, default=624, help="of training, about; whole epochs (624)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", help="where the temporary folder goes (the system's default)")
    parser.add_argument("--out", default=str(RESULTS), help="folder; '' writes nothing")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        kind, path, stimuli = args.case
        print(json.dumps(run_case(kind, Path(path), int(stimuli), args.steps, args.threads)))
        return
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "patterns.npy"
        write_patterns(path, args.stimuli, args.channels)
        for kind, part in CASES:
            rows.append(in_own_process(kind, path, args.stimuli // part, args))
            print("  ".join(f"{key} {_short(value)}" for key, value in rows[-1].items()), flush=True)
    check(rows)
    if args.out:
        save(args, rows)


def save(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from neurordl.artifacts import versions, write_json, write_text

    Path(args.out).mkdir(parents=True, exist_ok=True)
    write_text(Path(args.out) / "pattern_teacher.csv", pd.DataFrame(rows).to_csv(index=False))
    settings = {name: getattr(args, name) for name in ("stimuli", "channels", "steps", "threads")}
    info = {
        "command": shlex.join(["python", "benchmarks/pattern_teacher.py", *sys.argv[1:]]),
        "versions": versions(),
        "system": platform.system(),
        "settings": settings,
    }
    write_json(Path(args.out) / "pattern_teacher.json", {"cases": rows, **info})


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
