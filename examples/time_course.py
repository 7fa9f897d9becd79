"""From epochs to a time course of two layers
==========================================

Epochs of simulated subjects hold the geometry of an early layer, and later that of a late layer. The script
computes an RDM in each window of 20 ms, compares it with both layers, tests clusters of times, and draws the
course with the onsets that it found. With epochs of MNE, `nrl.read_epochs` takes the place of the simulation.
"""

import matplotlib.pyplot as plt
import numpy as np
from rsatoolbox.data import Dataset

import neurordl as nrl

# %%
# Twelve people see 16 pictures in four runs; the early layer is on from 0.06 s, the late one from 0.16 s.
rng = np.random.default_rng(0)
ids = [f"picture{number:02d}" for number in range(1, 17)]
layers = {"early": rng.normal(size=(16, 10)), "late": rng.normal(size=(16, 10))}
times = np.round(np.arange(-10, 50) / 100, 2)
strengths = {
    name: 0.6 * np.where(times >= onset, np.exp(-(((times - onset - 0.05) / 0.1) ** 2)), 0)
    for name, onset in (("early", 0.06), ("late", 0.16))
}
trials = nrl.simulate.simulate_epochs(layers, strengths, ids, times, n_subjects=12)

# %%
# An RDM for each subject and window, cross-validated over runs, with the noise of the baseline.
rdms = nrl.compute_rdms(
    trials,
    "crossnobis",
    noise=nrl.Noise("shrinkage_diag", times=(-0.1, 0.0)),
    windows=nrl.Windows(width=0.02),
)
patterns = [Dataset(values, {"name": name}, {"stimulus": ids}) for name, values in layers.items()]
scores = nrl.evaluate(nrl.compute_rdms(patterns, "euclidean"), rdms, comparison="corr")

# %%
# Clusters of times, onsets and peaks. A window's time is its middle, 5 ms after its first sample.
clusters = nrl.time_clusters(scores)
onsets = nrl.latencies(scores, within=(0.0, 0.49))
print(clusters[clusters["p_holm"] < 0.05].round(3).to_string(index=False))
print(onsets.round(3).to_string(index=False))
nrl.plot_time_course(scores, clusters=clusters, onsets=onsets)
plt.show()
