"""Plan how many subjects and runs a study needs
=============================================

The geometry that you expect (here, categories with differences within them) is simulated in studies of
several sizes. The table that is printed has, for each number of subjects and runs, the expected similarity
of the true model, the noise ceiling, and the power: the share of studies in which the model is
significantly similar, and in which it is significantly better than a rival model. Take the signal-to-noise
ratio from a pilot study.
"""

import matplotlib.pyplot as plt
import numpy as np

from neurordl.simulate import plan_study

rng = np.random.default_rng(0)
ids = [f"{category}{number}" for category in ("face", "house", "tool") for number in range(1, 7)]
category = np.repeat(np.eye(3), 6, axis=0)
geometry = np.hstack([category, 0.5 * rng.normal(size=(18, 6))])
table = plan_study(
    geometry, ids, subjects=(5, 15), runs=(2, 6), rival=category, snr=0.02, n_simulations=20, seed=0
)
print(table.round(2).to_string(index=False))

# %%
# The power to find that the model is similar, and that it is better than its rival.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
for ax, column in zip(axes, ("power", "power_rival"), strict=True):
    for runs, part in table.groupby("n_runs"):
        ax.plot(part["n_subjects"], part[column], "o-", label=f"{runs} runs")
    ax.set(xlabel="subjects", ylim=(0, 1.05), title=column)
axes[0].set_ylabel("share of studies")
axes[0].legend()
plt.show()
