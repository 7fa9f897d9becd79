"""A searchlight on the surface beside mne-rsa's and rsatoolbox's: 10,242 vertices, 10 mm, 92 conditions.

The mesh is the white surface of fsaverage5's left hemisphere, which nilearn has; there are three models. The
others compute a share of the centers, and their times are scaled up to all: mne-rsa by its `rsa_array`, and
rsatoolbox by `get_searchlight_RDMs` and `compare`. Calls take turns, with equal threads; what is reported is
the median of the ratios of times. Finding the neighbors counts for neurordl; the others get them ready made.
Scores have to agree within 1e-8 before anything is timed, also those of mne-rsa's whole call, `rsa_stcs`,
which finds the neighbors itself. Peak memory is that of a process which does the whole call (mne-rsa with a
share of the centers), beyond what it has before. mne-rsa is no dependency: install it in an environment of
its own; its rows are left out without it.

    python benchmarks/surface_searchlight.py                    # 10 minutes; results/surface_searchlight.csv
    python benchmarks/surface_searchlight.py --quick --out ""   # a look
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RESULTS = Path(__file__).parent / "results"
RADIUS = 10.0  # mm
CASES = (("correlation", "corr"), ("euclidean", "corr"), ("correlation", "spearman"))
NAMES_OF_MNE_RSA = {
    "euclidean": "sqeuclidean",
    "correlation": "correlation",
    "corr": "pearson",
    "spearman": "spearman",
}


def make(conditions: int = 92) -> tuple[Any, Any, Any]:
    """Patterns on a hemisphere, models, and the mesh."""
    import numpy as np
    from nilearn.datasets import load_fsaverage
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import RDMs

    mesh = load_fsaverage("fsaverage5")["white_matter"].parts["left"]
    rng = np.random.default_rng(0)
    ids = [f"s{k:03d}" for k in range(conditions)]
    n_vertices = len(mesh.coordinates)
    patterns = Dataset(
        rng.standard_normal((conditions, n_vertices)),
        obs_descriptors={"stimulus": ids},
        channel_descriptors={"hemisphere": ["left"] * n_vertices, "vertex": list(range(n_vertices))},
    )
    pairs = conditions * (conditions - 1) // 2
    return patterns, RDMs(rng.random((3, pairs)), pattern_descriptors={"stimulus": ids}), mesh


def ours(patterns: Any, models: Any, mesh: Any, case: tuple[str, str], dtype: str = "float64") -> Any:
    from neurordl import searchlight

    surface = {"left": (mesh.coordinates, mesh.faces)}
    radius, names = f"{RADIUS:g} mm", {"dissimilarity": case[0], "comparison": case[1]}
    return searchlight(patterns, models, surface=surface, radius=radius, dtype=dtype, progress=False, **names)


def by_rsatoolbox(patterns: Any, models: Any, around: Any, case: tuple[str, str]) -> Any:
    import numpy as np
    from rsatoolbox.rdm import compare
    from rsatoolbox.util.searchlight import get_searchlight_RDMs

    events = np.array(patterns.obs_descriptors["stimulus"])
    rdms = get_searchlight_RDMs(
        patterns.measurements, np.arange(len(around)), around, events, case[0], verbose=False
    )
    return compare(models, rdms, case[1])


def by_mne_rsa(patterns: Any, models: Any, around: Any, case: tuple[str, str]) -> Any:
    import mne_rsa

    patches = mne_rsa.searchlight(patterns.measurements.shape, spatial_radius=around)
    metric, comparison = (NAMES_OF_MNE_RSA[name] for name in case)
    return mne_rsa.rsa_array(
        patterns.measurements,
        list(models.dissimilarities),
        patches,
        data_rdm_metric=metric,
        rsa_metric=comparison,
    )


def whole_mne_rsa(patterns: Any, models: Any, mesh: Any, share: Any, case: tuple[str, str]) -> Any:
    """mne-rsa's call for source estimates, which finds the neighbors on the mesh; for some centers."""
    import mne
    import mne_rsa
    import numpy as np
    from mne.io.constants import FIFF

    points = np.asarray(mesh.coordinates, dtype=float) / 1000  # in m
    nothing = ("nearest", "nearest_dist", "pinfo", "patch_inds", "dist", "dist_limit")
    n_vertices, vertices = len(points), np.arange(len(points))
    space = {"type": "surf", "coord_frame": FIFF.FIFFV_COORD_MRI, "subject_his_id": "fsaverage5"}
    space |= {"np": n_vertices, "nuse": n_vertices, "vertno": vertices, "inuse": np.ones(n_vertices, int)}
    space |= {"rr": points, "nn": np.zeros_like(points), "tris": mesh.faces, "ntri": len(mesh.faces)}
    space |= {"nuse_tri": 0, "use_tris": np.zeros((0, 3), int), **dict.fromkeys(nothing)}
    single = {"nuse": 1, "vertno": vertices[:1], "inuse": (vertices == 0).astype(int)}  # MNE needs one
    sides = (FIFF.FIFFV_MNE_SURF_LEFT_HEMI, {}), (FIFF.FIFFV_MNE_SURF_RIGHT_HEMI, single)
    spaces = mne.SourceSpaces([{**space, "id": code, **other} for code, other in sides])
    estimates = [
        mne.SourceEstimate(np.append(values, 0.0)[:, None], [vertices, vertices[:1]], 0, 1)
        for values in patterns.measurements
    ]
    metric, comparison = (NAMES_OF_MNE_RSA[name] for name in case)
    maps = mne_rsa.rsa_stcs(
        estimates,
        list(models.dissimilarities),
        src=spaces,
        spatial_radius=RADIUS / 1000,
        stc_rdm_metric=metric,
        rsa_metric=comparison,
        sel_vertices=[share, vertices[:0]],
        verbose=False,
    )
    return np.stack([of_model.data[:, 0] for of_model in maps])


def neighbors(mesh: Any, share: Any) -> list[Any]:
    """The vertices around some, by scipy's shortest paths over the whole mesh."""
    import mne
    import numpy as np
    from scipy.sparse.csgraph import dijkstra

    graph = mne.surface.mesh_dist(mesh.faces, np.asarray(mesh.coordinates, dtype=float))
    return [np.flatnonzero(dijkstra(graph, indices=int(k), limit=RADIUS) < RADIUS) for k in share]


def peak_memory(package: str) -> float:
    """MB that a process takes for the first case, beyond what it has before."""
    command = [sys.executable, __file__, "--memory", package]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def resident(name: str) -> float:
    """MB of the resident set, or of the largest so far (VmHWM; getrusage would count the parent's)."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) / 1024


def print_memory(package: str) -> None:
    import numpy as np

    patterns, models, mesh = make()
    share = np.linspace(0, patterns.n_channel - 1, 50).astype(int)
    around = neighbors(mesh, np.arange(patterns.n_channel) if package == "rsatoolbox" else share)
    calls = {
        "neurordl": lambda p, m: ours(p, m, mesh, CASES[0]),
        "mne-rsa": lambda p, m: whole_mne_rsa(p, m, mesh, share, CASES[0]),
        "rsatoolbox": lambda p, m: by_rsatoolbox(p, m, around, CASES[0]),
    }
    if package == "neurordl":  # what is loaded late is loaded, on a mesh of four vertices
        tetrahedron = SimpleNamespace(coordinates=np.eye(4)[:, :3], faces=np.array([[0, 1, 2], [1, 2, 3]]))
        ours(patterns.subset_channel("vertex", [0, 1, 2, 3]), models, tetrahedron, CASES[0])
    before = resident("VmRSS")
    calls[package](patterns, models)
    print(resident("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--share", type=int, default=400, help="centers that the others do")
    parser.add_argument("--out", default=str(RESULTS), help='folder; "": nothing is written')
    parser.add_argument("--memory", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)  # before numpy and torch are loaded

    import numpy as np
    import pandas as pd
    import torch

    from neurordl.io import versions, write_json, write_text

    torch.set_num_threads(args.threads)
    if args.memory:
        print_memory(args.memory)
        return
    others: dict[str, Any] = {"rsatoolbox": by_rsatoolbox}
    try:
        import mne_rsa
    except ImportError:
        print("mne-rsa is not installed: without it")
    else:
        others["mne-rsa"] = by_mne_rsa
    patterns, models, mesh = make()
    share = np.linspace(0, patterns.n_channel - 1, 40 if args.quick else args.share).astype(int)
    around, scale = neighbors(mesh, share), patterns.n_channel / len(share)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        whole = ours(patterns, models, mesh, case)
        apart = {name: abs(call(patterns, models, around, case) - whole.scores[:, share]).max()
                 for name, call in others.items()}  # fmt: skip
        if "mne-rsa" in others:
            apart["mne-rsa"] = max(
                apart["mne-rsa"],
                abs(whole_mne_rsa(patterns, models, mesh, share, case) - whole.scores[:, share]).max(),
            )
        assert max(apart.values()) < 1e-8, apart
        for dtype in ("float64", "float32"):
            taken: dict[str, list[tuple[float, float]]] = {name: [] for name in others}
            for _ in range(1 if args.quick else args.turns):
                start = time.perf_counter()
                ours(patterns, models, mesh, case, dtype)
                seconds = time.perf_counter() - start
                for name, call in others.items():
                    start = time.perf_counter()
                    call(patterns, models, around, case)
                    taken[name].append((seconds, (time.perf_counter() - start) * scale))
            for name, times in taken.items():
                rows.append(
                    {
                        "dissimilarity": case[0],
                        "method": case[1],
                        "dtype": dtype,
                        "centers": len(whole.centers),
                        "fewest": int(whole.n_voxels.min()),
                        "most": int(whole.n_voxels.max()),
                        "other": name,
                        "neurordl_seconds": round(statistics.median(a for a, _ in times), 3),
                        "other_seconds": round(statistics.median(b for _, b in times), 1),
                        "ratio": round(statistics.median(b / a for a, b in times), 1),
                        "largest_difference": f"{apart[name]:.1e}",
                        "turns": len(times),
                    }
                )
                print(rows[-1], flush=True)
    memory = {name: round(peak_memory(name)) for name in ("neurordl", *others)}
    print("MB", memory)
    if args.out:
        out = Path(args.out)
        table = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
        write_text(out / "surface_searchlight.csv", table)
        record = {
            "command": shlex.join(["python", "benchmarks/surface_searchlight.py", *sys.argv[1:]]),
            "threads": args.threads,
            "cores": os.cpu_count(),
            "peak_memory_mb": memory,
            "versions": versions() | ({"mne-rsa": mne_rsa.__version__} if "mne-rsa" in others else {}),
        }
        write_json(out / "surface_searchlight.json", record)


if __name__ == "__main__":
    main()
