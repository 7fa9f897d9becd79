"""Does a PatternTeacher train with 20,000 stimuli without a stimuli x stimuli matrix, and how fast?

Random patterns (stimuli x channels, float32) are written to a file in a temporary folder and
memory-mapped; a small student is fitted to them with `neurordl.fit`, beside labels. Each case has a
process of its own, so that no peak is that of another:

- PatternTeacher with a tenth of the stimuli, and with all: memory must not grow with the square;
- RDMTeacher with the tenth, their RDM computed beforehand: the time of its steps, and its memory.

Memory: `max_rss` is the largest resident set (resource.getrusage). Pages of the mapped file count in it,
though the system may drop them at any time. `anonymous` is what the process itself holds (RssAnon of
/proc/self/status, looked at every 2 ms; Linux only), `growth` its peak less what it was before teacher
and fit. That no such matrix is made, not even for a moment, the system sees to: while the PatternTeacher
is made and the student fitted, it refuses memory beyond half the condensed float32 matrix (RLIMIT_DATA;
Linux only). The script fails if it had to, or if the growth reaches a quarter of the matrix.

The time of a step is the median over epochs but the first (which takes checksums too). The file has just
been written, so it is read from the page cache.

    python benchmarks/pattern_teacher.py                                    # 400 MB on the disk meanwhile
    python benchmarks/pattern_teacher.py --stimuli 4000 --channels 500 --steps 60 --out ""   # a quick look
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

MB = 1e6
SLACK = 200 * MB  # what loading code and threads may take: a smaller matrix would not show
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
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
    return sizes[0] if sizes else None


@contextmanager
def refusing(matrix: float) -> Iterator[bool]:
    """Let the system refuse this process half the bytes of a matrix beyond what it has; whether it does."""
    import resource

    if sys.platform != "linux" or matrix / 2 < SLACK:
        yield False
        return
    status = Path("/proc/self/status").read_text().splitlines()
    has = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (has + int(matrix / 2), hard))
    try:
        yield _is_refused(int(matrix))
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _is_refused(n_bytes: int) -> bool:
    try:
        np.empty(n_bytes, dtype=np.uint8)
    except MemoryError:
        return True
    return False


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


def run_case(teacher: str, path: Path, stimuli: int, steps: int, threads: int) -> dict[str, Any]:
    """Fit a student to the first stimuli of the file; what it took."""
    import resource

    import torch

    import neurordl as nrl

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    train = random_images(rng, stimuli, "stimulus")
    labelled = random_images(rng, LABELLED, "labelled", rng.integers(0, CLASSES, LABELLED))
    patterns = np.load(path, mmap_mode="r", allow_pickle=False)[:stimuli]
    matrix = stimuli * (stimuli - 1) / 2 * 4
    per_epoch = max(stimuli, LABELLED) // BATCH
    epochs = max(2, round(steps / per_epoch)) + 1
    quiet = nrl.Execution(progress=False)
    # A fit without teacher first: it loads what is loaded late, and takes the memory that any fit takes.
    nrl.fit(nrl.students.small_cnn(CLASSES, width=8), nrl.Objective(), labelled, epochs=1, execution=quiet)
    make_teacher = prepare_teacher(teacher, patterns, train.ids)
    with refusing(matrix if teacher == "PatternTeacher" else 0) as refused, Peak() as peak:
        objective = nrl.Objective([nrl.RDMLoss(make_teacher(), "conv3")])
        student = nrl.students.small_cnn(CLASSES, width=8)
        batches = nrl.Batches(BATCH, BATCH)
        run = nrl.fit(student, objective, labelled, train, epochs, batches=batches, execution=quiet)
        history = run.history
    assert bool(np.isfinite(history["rdm:conv3"]).all())
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "teacher": teacher,
        "stimuli": stimuli,
        "channels": patterns.shape[1],
        "steps": per_epoch * epochs,
        "step_ms": float((history["seconds"].iloc[1:] / per_epoch).median() * 1e3),
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MB,
        "anonymous_mb": None if peak.highest is None else peak.highest / MB,
        "growth_mb": None if peak.before is None else ((peak.highest or 0) - peak.before) / MB,
        "patterns_mb": patterns.nbytes / MB,
        "matrix_mb": matrix / MB,
        "matrix_refused": refused,
    }


def random_images(rng: np.random.Generator, n: int, name: str, labels: Any = None) -> Any:
    """A StimulusSet of small random images."""
    import neurordl as nrl

    pixels = rng.integers(0, 256, (n, IMAGE, IMAGE, 3), dtype=np.uint8)
    return nrl.StimulusSet.from_array(pixels, [f"{name}{number}" for number in range(n)], labels=labels)


def prepare_teacher(teacher: str, patterns: np.ndarray[Any, Any], ids: Sequence[str]) -> Callable[[], Any]:
    """What makes a PatternTeacher of mapped patterns, or an RDMTeacher of their RDM, computed here."""
    from rsatoolbox.data import Dataset

    import neurordl as nrl

    if teacher == "PatternTeacher":
        return lambda: nrl.PatternTeacher({"s01": (patterns, ids)})
    rdms = nrl.compute_rdms(Dataset(patterns, obs_descriptors={"stimulus": list(ids)}))
    return lambda: nrl.RDMTeacher(rdms)


def in_own_process(teacher: str, path: Path, stimuli: int, args: argparse.Namespace) -> dict[str, Any]:
    """`run_case` in a new process."""
    case = ["--case", teacher, str(path), str(stimuli)]
    settings = ["--steps", str(args.steps), "--threads", str(args.threads)]
    command = [sys.executable, __file__, *case, *settings]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def check(rows: list[dict[str, Any]]) -> None:
    """The matrix was never made, and memory did not grow with the square of the stimuli."""
    few, many = (row for row in rows if row["teacher"] == "PatternTeacher")
    growth, matrix, number = many["growth_mb"], many["matrix_mb"], many["stimuli"]
    if growth is None or not many["matrix_refused"]:
        print("not checked: the matrix is too small to show, or this system does not tell")
        return
    assert growth < matrix / 4, f"memory grew by {growth:.0f} MB; the matrix has {matrix:.0f} MB"
    more, squares = growth - few["growth_mb"], matrix - few["matrix_mb"]
    assert more < squares / 4, (
        f"{more:.0f} MB more than with a tenth; the matrices differ by {squares:.0f} MB"
    )
    print(f"the condensed matrix of {number} stimuli, {matrix:.0f} MB in float32, was never made:")
    print("half of it would have been refused by the system")
    print(f"memory grew by {growth:.1f} MB, and by {few['growth_mb']:.1f} MB with {few['stimuli']} stimuli")


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
        teacher, path, stimuli = args.case
        print(json.dumps(run_case(teacher, Path(path), int(stimuli), args.steps, args.threads)))
        return
    rows = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the file goes when this is ended
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "patterns.npy"
        write_patterns(path, args.stimuli, args.channels)
        for teacher, part in CASES:
            rows.append(in_own_process(teacher, path, args.stimuli // part, args))
            print("  ".join(f"{key} {_short(value)}" for key, value in rows[-1].items()), flush=True)
    check(rows)
    if args.out:
        save(args, rows)


def save(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    from neurordl.io import versions, write_json, write_text

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
