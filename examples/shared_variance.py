"""What does a model explain that another does not?
================================================

Models of different things often have similar RDMs: faces and houses differ in meaning, and also in their
pixels. Here subjects' RDMs come from the meaning and the shape of stimuli, and the model of the pixels
resembles that of the shapes. Each of the three models correlates with the subjects, but the pixels explain
nothing beyond the other two. The script shows this in three ways: by a partial correlation, by a regression,
and by shares of variance, with intervals that generalize to new subjects and new stimuli.
"""

import matplotlib.pyplot as plt
import numpy as np
from rsatoolbox.data import Dataset

import neurordl as nrl

# %%
# Three models: patterns of meaning, of shape, and of pixels, which follow the shape.
rng = np.random.default_rng(0)
ids = [f"image{number}" for number in range(30)]
meaning, shape = rng.normal(size=(30, 6)), rng.normal(size=(30, 6))
patterns = {"meaning": meaning, "shape": shape, "pixels": shape + 0.7 * rng.normal(size=(30, 6))}
models = {
    name: nrl.compute_rdms(Dataset(values, obs_descriptors={"stimulus": ids}), "euclidean")
    for name, values in patterns.items()
}
people = nrl.simulate.simulate_subjects(
    np.hstack([meaning, shape]), ids, n_subjects=12, snr=0.15, dissimilarity="euclidean", seed=0
)

# %%
# Each model by itself correlates with the subjects, also the pixels.
alone = nrl.evaluate(models, people, comparison="corr", bootstrap="both")
print(alone)

# %%
# Beyond meaning and shape, nothing of that is left.
others = {name: models[name] for name in ("meaning", "shape")}
partial = nrl.Partial(others, "corr")
beyond = nrl.evaluate({"pixels": models["pixels"]}, people, comparison=partial, bootstrap="both")
print(beyond)

# %%
# All models in one regression: standardized weights, and the share that weights of other subjects predict.
weights = nrl.regress_rdms(models, people, bootstrap="both")
print(weights)

# %%
# What each model explains alone, and with others.
scores = nrl.partition_variance(models, people, bootstrap="both")
print(scores)
nrl.plot_partition(scores)
nrl.plot_partition(scores, circles=True)
plt.show()
