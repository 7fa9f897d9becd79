"""Measured patterns on disk teach a network
=========================================

With thousands of stimuli, the matrix of all pairs may not fit into memory. `PatternTeacher` keeps the
measured patterns, here in a memory-mapped file, and computes the RDM of each batch when it is needed. The
script prints how the distance between the student's RDM and the measured one falls during training.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import neurordl as nrl
from neurordl.plots import plot_training
from neurordl.simulate import simulate_patterns

digits = nrl.datasets.load_digits()
stimuli, labelled = digits.subset(digits.ids[:200]), digits.subset(digits.ids[200:250])
measured = simulate_patterns(stimuli.images().flatten(1), stimuli.ids, n_subjects=1, n_channels=500, seed=0)[
    "s01"
]

# %%
# The file is read batch by batch.
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "betas.npy"
    np.save(file, measured.measurements)
    betas = np.load(file, mmap_mode="r")  # (stimuli, voxels), read from the disk batch by batch
    teacher = nrl.PatternTeacher({"s01": (betas, measured.obs_descriptors["stimulus"])}, center="all")
    torch.manual_seed(0)
    student = nrl.students.small_cnn(in_channels=1)
    objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv3", weight=3.0)])
    run = nrl.fit(student, objective, labelled, stimuli, epochs=5, seed=0)
    del betas, teacher

# %%
# The loss is 1 - the correlation of both RDMs.
print(run.history[["epoch", "rdm:conv3"]].to_string(index=False))
plot_training(run, terms=["rdm:conv3"], similarity=True)
plt.show()
