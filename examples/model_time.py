"""Steps of a model beside times of the brain
==========================================

The representation of a recurrent model changes from step to step, and that of simulated subjects from moment
to moment, in the same order. The script compares the RDM of each step with that of each time, tests clusters
in the plane of both times, and draws it: similarity runs along a diagonal, from early steps at early times to
late steps at late times.
"""

import matplotlib.pyplot as plt
import numpy as np
from rsatoolbox.data import TemporalDataset

import neurordl as nrl
from neurordl.plots import plot_model_time

# %%
# The model has eight steps, at each of which 16 pictures have a pattern: the first one becomes the last one.
rng = np.random.default_rng(0)
ids = [f"picture{number:02d}" for number in range(1, 17)]
first, last = rng.normal(size=(2, 16, 12))
share = np.linspace(0, 1, 8)
states = first[:, :, None] * (1 - share) + last[:, :, None] * share  # pictures, units, steps
steps = TemporalDataset(
    states, obs_descriptors={"stimulus": ids}, time_descriptors={"time": np.arange(8) / 20}
)
model = nrl.compute_rdms(steps, "euclidean")

# %%
# Ten people have the same patterns from 0.1 s on, one after another, with noise of their own.
times = np.round(np.arange(-5, 25) / 50, 2)
place = np.clip((times - 0.1) / 0.3 * 7, 0, 7)
course = [
    np.stack([np.interp(place, np.arange(8), row) for row in pattern]) for pattern in states
]  # of each picture: (units, times)
people = [
    TemporalDataset(
        np.where(times >= 0.1, np.stack(course), 0) + 1.8 * rng.normal(size=(16, 12, len(times))),
        descriptors={"subject": f"s{number:02d}"},
        obs_descriptors={"stimulus": ids},
        time_descriptors={"time": times},
    )
    for number in range(1, 11)
]
rdms = nrl.compute_rdms(people, "euclidean")

# %%
# Scores of each step at each time, and clusters of cells. The cells of a cluster are in its column inside.
scores = nrl.evaluate({"model": model}, rdms, comparison="corr")
clusters = nrl.time_clusters(scores)
print(clusters[clusters["p_holm"] < 0.05].drop(columns="inside").round(3).to_string(index=False))
means = scores.frame[scores.frame["subject"] == "mean"]
best = means.loc[means.groupby("time")["score"].idxmax()].set_index("time")["model_time"]
print(f"most similar step at 0.12 s: {best[0.12]:.2f} s, at 0.4 s: {best[0.4]:.2f} s")
plot_model_time(scores, clusters=clusters)
plt.show()
