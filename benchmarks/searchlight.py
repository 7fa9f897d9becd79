"""A searchlight beside rsatoolbox's: 22,736 centres, radius 3, 92 conditions, three models.

rsatoolbox computes the RDMs of a share of the centres (`get_searchlight_RDMs`) and compares them; its time is
scaled up to all. Both take turns, with equal threads; what is reported is the median of the ratios of times.
Scores have to agree before anything is timed. Finding the spheres counts for neurordl and not for rsatoolbox,
which gets them ready made.

    python benchmarks/searchlight.py                    # 2 minutes; results/searchlight.csv
    python benchmarks/searchlight.py --quick --out ""   # a look
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CASES = (("correlation", "corr"), ("euclidean", "corr"), ("correlation", "spearman"))


def make(side: int, conditions: int) -> tuple[Any, Any, Any]:
    """Patterns in a box of voxels, models, and the voxels' indices."""
    import numpy as np
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs

    rng = np.random.default_rng(0)
    at = np.array(list(np.ndindex(side, side + 1, side)))
    ids = [f"s{k:03d}" for k in range(conditions)]
    patterns = Dataset(
        rng.standard_normal((conditions, len(at))),
        obs_descriptors={"stimulus": ids},
        channel_descriptors=dict(zip("xyz", at.T, strict=True)),
    )
    pairs = conditions * (conditions - 1) // 2
    return patterns, RDMs(rng.random((3, pairs)), pattern_descriptors={"stimulus": ids}), at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--share", type=int, default=500, help="centres that rsatoolbox does")
    parser.add_argument("--out", default=str(RESULTS), help='folder; "": nothing is written')
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # before numpy and torch are loaded

    import numpy as np
    import pandas as pd
    import torch
    from rsatoolbox.rdm import compare
    from rsatoolbox.util.searchlight import get_searchlight_RDMs

    from neurordl import searchlight
    from neurordl.io import versions, write_json, write_text

    torch.set_num_threads(args.threads)
    patterns, models, at = make(12 if args.quick else 32, 92)
    events = np.array(patterns.obs_descriptors["stimulus"])
    rows: list[dict[str, Any]] = []
    for dissimilarity, method in CASES:
        whole = searchlight(patterns, models, radius=3, dissimilarity=dissimilarity, comparison=method)
        share = np.linspace(0, len(whole.centers) - 1, args.share).astype(int)
        around = [np.flatnonzero(np.square(at - whole.centers[k]).sum(1) < 9) for k in share]

        def theirs(name: str = dissimilarity, comparison: str = method, around: Any = around) -> Any:
            rdms = get_searchlight_RDMs(
                patterns.measurements, np.arange(len(around)), around, events, name, verbose=False
            )
            return compare(models, rdms, comparison)

        np.testing.assert_allclose(whole.scores[:, share], theirs(), atol=1e-9)
        for dtype in (np.float64, np.float32):
            taken: list[tuple[float, float]] = []
            for _ in range(args.turns):
                times = [time.perf_counter()]
                searchlight(
                    patterns, models, radius=3, dissimilarity=dissimilarity, comparison=method, dtype=dtype
                )
                times.append(time.perf_counter())
                theirs()
                times.append(time.perf_counter())
                scale = len(whole.centers) / args.share
                taken.append((times[1] - times[0], (times[2] - times[1]) * scale))
            rows.append(
                {
                    "dissimilarity": dissimilarity,
                    "method": method,
                    "dtype": np.dtype(dtype).name,
                    "centres": len(whole.centers),
                    "voxels_each": int(whole.n_voxels[0]),
                    "neurordl_seconds": statistics.median(ours for ours, _ in taken),
                    "rsatoolbox_seconds": statistics.median(other for _, other in taken),
                    "ratio": statistics.median(other / ours for ours, other in taken),
                    "turns": args.turns,
                }
            )
            print(rows[-1], flush=True)
    if args.out:
        out = Path(args.out)
        write_text(
            out / "searchlight.csv",
            pd.DataFrame(rows).round(4).to_csv(index=False, lineterminator="\n"),
        )
        command = shlex.join(["python", "benchmarks/searchlight.py", *sys.argv[1:]])
        record = {
            "command": command,
            "threads": args.threads,
            "cores": os.cpu_count(),
            "versions": versions(),
        }
        write_json(out / "searchlight.json", record)


if __name__ == "__main__":
    main()
