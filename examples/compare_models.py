"""Compare model RDMs with brain RDMs, with bootstrap intervals
============================================================

The simulated subjects distinguish three categories of stimuli, and stimuli within a category. Each of two
models predicts one of these distinctions. The script prints their similarity with the subjects, with
intervals that generalize to new subjects and new stimuli, beside the noise ceiling. It then fits a weighted
sum of both models to half of the stimuli and scores it on the other half, in many random splits, and compares
it with both models in the same splits.
"""

import matplotlib.pyplot as plt
import numpy as np
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import concat

import neurordl as nrl
from neurordl.simulate import simulate_subjects

# %%
# Subjects are simulated from both distinctions; each model has one of them.
rng = np.random.default_rng(0)
ids = [f"{category}{number}" for category in ("face", "house", "tool") for number in range(1, 9)]
category = np.repeat(np.eye(3), 8, axis=0)
within = rng.normal(size=(24, 6))
rdms = simulate_subjects(np.hstack([category, 0.3 * within]), ids, n_subjects=8, snr=0.2, seed=0)

models = {
    name: nrl.compute_rdms(Dataset(patterns, obs_descriptors={"stimulus": ids}), "euclidean")
    for name, patterns in {"categories": category, "within": within}.items()
}
# %%
# Each model by itself.
scores = nrl.evaluate(models, rdms, comparison="corr", bootstrap="both")
print(scores)
nrl.plot_scores(scores, differences=True)

# %%
# A weighted sum of both is fitted and scored in the same splits of the stimuli.
fitted = nrl.evaluate_fitted({**models, "weighted sum": concat(list(models.values()))}, rdms)
print(fitted[["model", "score", "ci_low", "ci_high", "ceiling_lower"]].round(3).to_string(index=False))
plt.show()
