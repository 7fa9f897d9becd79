"""RDMs over time beside mne-rsa and rsatoolbox, and cluster tests and onsets on simulated studies.

Speed: `neurordl.compute_rdms` of a TemporalDataset, rsatoolbox's `calc_rdm_movie` and mne-rsa's `rdm_array`
(a searchlight over time) on 100 conditions x 300 channels x 200 times, with equal threads. Calls take turns;
reported are medians over turns of the ratio of times. Results have to agree within 1e-8 before anything is
timed, also those of sliding windows and of the similarities with a model. mne-rsa is no dependency: install
it in an environment of its own; its rows are left out without it. Peak memory is that of a process of its
own for each call, beyond the data.

Tests: studies of 12 subjects, 12 stimuli, 16 channels, 2 runs and 30 windows of 20 ms, from epochs to
`time_clusters` and `latencies`. Null studies are noise alone, compared with three models; in the others, the
first model's geometry is on from 0.12 s. A false alarm is a cluster with p < .05.

Plane: the same null studies, compared with a model of 12 times, whose RDMs are correlated over time as those
of a recurrent network: a false alarm is a cluster in the plane of both times.

    python benchmarks/time_course.py speed   # results/time_course.csv
    python benchmarks/time_course.py tests   # 400 + 200 studies; results/time_tests.csv
    python benchmarks/time_course.py plane   # 400 studies; results/time_plane.csv
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.data import Dataset, TemporalDataset
from rsatoolbox.rdm import calc_rdm_movie
from scipy.spatial.distance import squareform

import neurordl as nrl

RESULTS = Path(__file__).parent / "results"
SHAPE = (100, 300, 200)
ONSET, STRENGTH = 0.12, 1.0
TIMES = np.round(np.arange(-10, 50) / 100, 2)
STIMULI = [f"s{k:02d}" for k in range(12)]


def dataset(shape: tuple[int, int, int], runs: int = 1) -> TemporalDataset:
    n, channels, samples = shape
    return TemporalDataset(
        np.random.default_rng(0).normal(size=(n * runs, channels, samples)),
        obs_descriptors={
            "stimulus": [f"s{k:04d}" for k in range(n)] * runs,  # sorted, as rsatoolbox sorts them
            "run": np.repeat(np.arange(runs), n).tolist(),
        },
        time_descriptors={"time": (np.arange(samples) / 100).tolist()},
    )


def calls(data: TemporalDataset, method: str) -> dict[str, Callable[[], Any]]:
    """The same RDMs over time, condensed, by each package."""
    options = {"cv_descriptor": "run"} if method == "crossnobis" else {}
    each: dict[str, Callable[[], Any]] = {
        "neurordl": lambda: nrl.compute_rdms(data, method, progress=False).dissimilarities,
        "rsatoolbox": lambda: (
            calc_rdm_movie(data, method=method, descriptor="stimulus", **options).dissimilarities
        ),
    }
    if method != "crossnobis":
        try:
            import mne_rsa
        except ImportError:
            return each
        x, labels = data.measurements, list(data.obs_descriptors["stimulus"])
        metric, scale = {"correlation": ("correlation", 1), "euclidean": ("sqeuclidean", x.shape[1])}[method]

        def by_mne_rsa() -> Any:
            patches = mne_rsa.searchlight(x.shape, temporal_radius=0)
            rdms = mne_rsa.rdm_array(x, patches, dist_metric=metric, labels=labels)
            return np.stack([squareform(rdm) if rdm.ndim == 2 else rdm for rdm in rdms]) / scale

        each["mne-rsa"] = by_mne_rsa
    return each


def speed(turns: int, out: Path) -> None:
    rows = []
    for method, runs in (("correlation", 1), ("euclidean", 1), ("correlation", 5), ("crossnobis", 4)):
        data = dataset(SHAPE, runs)
        each = calls(data, method)
        results = {name: call() for name, call in each.items()}
        for name, result in results.items():
            np.testing.assert_allclose(result, results["neurordl"], atol=1e-8, err_msg=name)
        seconds: dict[str, list[float]] = {name: [] for name in each}
        for _ in range(turns):
            for name, call in each.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
        for name in list(each)[1:]:
            ratio = statistics.median(b / a for a, b in zip(seconds["neurordl"], seconds[name], strict=True))
            row = {"dissimilarity": method, "trials": runs, "beside": name, "ratio": round(ratio, 2)}
            medians = {f"{x}_s": round(statistics.median(seconds[x]), 3) for x in ("neurordl", name)}
            rows.append(row | {"neurordl_s": medians["neurordl_s"], "beside_s": medians[f"{name}_s"]})
            print(rows[-1], flush=True)
    print(*equal_to_mne_rsa(), sep="\n")
    pd.DataFrame(rows).to_csv(out, index=False)
    memory(out)


def peak_memory(name: str, method: str, runs: int) -> float:
    """MB that a process takes for a call, at its peak, beyond what it has before (Linux)."""

    def resident(entry: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{entry}:")[1].split()[0])

    calls(dataset((4, 3, 3), runs), method)[name]()  # what is loaded late is loaded
    call = calls(dataset(SHAPE, runs), method)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = resident("VmRSS")
    call()
    return (resident("VmHWM") - before) / 1024


def memory(out: Path) -> None:
    table, spawn = pd.read_csv(out), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for column in ("neurordl", "beside"):
            names = table["beside"] if column == "beside" else ["neurordl"] * len(table)
            jobs = zip(names, table["dissimilarity"], table["trials"], strict=True)
            table[f"{column}_mb"] = [round(pool.submit(peak_memory, *job).result()) for job in jobs]
    print(table.to_string(index=False))
    table.to_csv(out, index=False)


def equal_to_mne_rsa() -> list[str]:
    """Sliding windows and similarities with a model: how far mne-rsa's are away, and at most 1e-8."""
    try:
        import mne_rsa
    except ImportError:
        return ["mne-rsa is not installed, and was not compared"]
    data, lines = dataset((20, 30, 40), 3), []
    labels = list(data.obs_descriptors["stimulus"])
    model = nrl.compute_rdms(
        Dataset(np.random.default_rng(1).normal(size=(20, 9)), {"name": "m"}, {"stimulus": labels[:20]})
    )
    windows = nrl.Windows(width=0.05, step=0.01, average=False)  # two samples on both sides of the middle
    rdms = nrl.compute_rdms(data, "correlation", windows=windows)
    inside = mne_rsa.searchlight(data.measurements.shape, temporal_radius=2, samples_from=2, samples_to=38)
    theirs = list(mne_rsa.rdm_array(data.measurements, inside, labels=labels))
    theirs = np.stack([squareform(rdm) if rdm.ndim == 2 else rdm for rdm in theirs])
    apart = [("windows of 5 samples", float(np.abs(theirs - rdms.dissimilarities).max()))]
    rdms.rdm_descriptors["subject"] = ["s1"] * rdms.n_rdm
    for comparison, metric in (("spearman", "spearman"), ("corr", "pearson"), ("tau-a", "kendall-tau-a")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scores = nrl.evaluate(model, rdms, comparison=comparison).frame
        ours = scores.loc[scores["subject"] == "s1", "score"].to_numpy()
        values = list(mne_rsa.rsa_gen(iter(theirs), model.dissimilarities[0], metric=metric))
        apart.append((f"{comparison} with a model", float(np.abs(np.ravel(values) - ours).max())))
    for name, distance in apart:
        assert distance < 1e-8, (name, distance)
        lines.append(f"{name}: mne-rsa and neurordl differ by at most {distance:.1e}")
    return lines


def study(seed: int, strength: float) -> dict[str, Any]:
    """From epochs to tests."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = np.random.default_rng([seed, 1])
    layers = {f"model {k}": rng.normal(size=(12, 8)) for k in range(3)}
    on = {name: strength * (TIMES >= ONSET) * (name == "model 0") for name in layers}
    options: dict[str, Any] = {"n_subjects": 12, "n_channels": 16, "runs": 2, "seed": seed}
    epochs = nrl.simulate.simulate_epochs(layers, on, STIMULI, TIMES, **options)
    rdms = nrl.compute_rdms(epochs, "crossnobis", windows=nrl.Windows(width=0.02), progress=False)
    models = [Dataset(x, {"name": name}, {"stimulus": STIMULI}) for name, x in layers.items()]
    scores = nrl.evaluate(nrl.compute_rdms(models, "euclidean", progress=False), rdms, comparison="corr")
    test = nrl.ClusterTest(seed=seed)
    clusters = nrl.time_clusters(scores, test)
    smallest = clusters.groupby("layer")["p"].min()
    row = {"seed": seed, "strength": strength, "p": smallest.get("model 0", 1.0)}
    row["p_holm"] = clusters["p_holm"].min() if len(clusters) else 1.0
    if strength:
        first = nrl.latencies(scores, test, n_bootstrap=500).set_index("layer").loc["model 0"]
        row |= first[["onset", "onset_low", "onset_high"]].to_dict()
    return row


def tests(n_null: int, n_onset: int, workers: int, out: Path) -> None:
    seeds = [*range(n_null), *range(10_000, 10_000 + n_onset)]
    strengths = [0.0] * n_null + [STRENGTH] * n_onset
    rows = []
    with ProcessPoolExecutor(workers) as pool:
        for row in pool.map(study, seeds, strengths):
            rows.append(row)
            if len(rows) % 50 == 0:
                print(len(rows), flush=True)
                pd.DataFrame(rows).to_csv(out, index=False)
    frame = pd.DataFrame(rows)
    frame.to_csv(out, index=False)
    summary = summarized(frame)
    summary.to_csv(out.with_name(f"{out.stem}_summary.csv"), index=False)
    print(summary.to_string(index=False))


def plane_study(seed: int) -> dict[str, Any]:
    """The smallest p of clusters in the plane of model time and time, of noise that is correlated in time."""
    warnings.simplefilter("ignore")
    rng, n_pairs = np.random.default_rng(seed), len(STIMULI) * (len(STIMULI) - 1) // 2

    def walk(*shape: int) -> Any:
        values = rng.normal(size=shape)
        for k in range(1, shape[-2]):
            values[..., k, :] = 0.8 * values[..., k - 1, :] + 0.6 * values[..., k, :]
        return values

    names = [f"p{k:02d}" for k in range(12)]
    people = nrl.rdms_over_time(walk(12, 30, n_pairs), np.arange(30) / 50, ids=STIMULI, subjects=names)
    model = nrl.rdms_over_time(walk(1, 12, n_pairs), np.arange(12) / 10, ids=STIMULI, subjects="model")
    scores = nrl.evaluate({"model": model}, people, comparison="corr")
    clusters = nrl.time_clusters(scores, nrl.ClusterTest(seed=seed))
    return {"seed": seed, "clusters": len(clusters), "p": clusters["p"].min()}


def plane(n_studies: int, workers: int, out: Path) -> None:
    with ProcessPoolExecutor(workers) as pool:
        frame = pd.DataFrame(pool.map(plane_study, range(n_studies)))
    frame.to_csv(out, index=False)
    print(f"false alarms in the plane: {(frame['p'] < 0.05).mean():.4f} of {len(frame)} studies")


def summarized(frame: pd.DataFrame) -> pd.DataFrame:
    """False alarms, and how well the onset, which is that of the window from 0.12 s, was found."""
    null, effect = frame[frame["strength"] == 0], frame[frame["strength"] > 0]
    truth, width = ONSET + 0.005, 0.02  # the middle of the first window, and a window
    near = (effect["onset"] - truth).abs() <= width + 1e-9
    covered = (effect["onset_low"] <= truth + 1e-9) & (effect["onset_high"].fillna(np.inf) >= truth - 1e-9)
    rows = [
        ("false alarms, one model", len(null), (null["p"] < 0.05).mean()),
        ("false alarms, three models, p_holm", len(null), (null["p_holm"] < 0.05).mean()),
        ("effect found", len(effect), (effect["p"] < 0.05).mean()),
        ("onset within a window of the true one", len(effect), near.mean()),
        ("interval holds the true onset", len(effect), covered.mean()),
    ]
    return pd.DataFrame(rows, columns=["what", "studies", "share"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", default="both", choices=["speed", "tests", "plane", "both"])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--studies", type=int, nargs=2, default=(400, 200), metavar=("NULL", "ONSET"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.part == "plane":
        plane(options.studies[0], options.workers, options.out or RESULTS / "time_plane.csv")
        return
    if options.part != "tests":
        speed(options.turns, options.out or RESULTS / "time_course.csv")
    if options.part != "speed":
        tests(*options.studies, options.workers, options.out or RESULTS / "time_tests.csv")


if __name__ == "__main__":
    main()
