"""Use your own dissimilarity and your own comparison
==================================================

A measure is one object with all its properties. It is passed instead of a name, or
registered so that its name is known in files and in the other functions. Here the dissimilarity is the city
block distance and the comparison is the overlap of two RDMs, from 0 to 1. The script prints an RDM
that was saved and read again, and an evaluation of a network with bootstrap intervals.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import neurordl as nrl
from neurordl.simulate import simulate_subjects


def city_block(patterns: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference: (..., stimuli, channels) -> (..., pairs), pairs in row-major order."""
    n = patterns.shape[-2]
    rows, columns = torch.triu_indices(n, n, offset=1)
    return (patterns[..., rows, :] - patterns[..., columns, :]).abs().mean(-1)


def overlap(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Shared part of two RDMs with sum 1, (..., pairs) each; the weight of a missing pair is 0."""
    a, b = weights * a, weights * b
    return torch.minimum(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)).sum(-1)


nrl.register(nrl.Dissimilarity("city block", city_block, aliases=("manhattan", "L1")))
nrl.register(nrl.Comparison("overlap", overlap))

# %%
# Once registered, their names are known. The subjects are simulated, and their RDMs saved, with them.
digits = nrl.datasets.load_digits()
stimuli, labelled = digits.subset(digits.ids[:30]), digits.subset(digits.ids[30:80])
rdms = simulate_subjects(stimuli.images().flatten(1), stimuli.ids, 5, dissimilarity="city block", seed=0)
with tempfile.TemporaryDirectory() as folder:
    nrl.save_rdms(rdms, Path(folder) / "rdms.h5")
    print(nrl.load_rdms(Path(folder) / "rdms.h5").dissimilarity_measure)
nrl.plot_rdm(nrl.select_rdms(rdms, average="subject"), categories="label", stimuli=stimuli)

# %%
# They train a student, and score it.
torch.manual_seed(0)
student = nrl.students.small_cnn(in_channels=1)
teacher = nrl.RDMTeacher(rdms)
loss = nrl.RDMLoss(
    teacher, layer="conv3", comparison="overlap", weight=10
)  # the dissimilarity is the teacher's
run = nrl.fit(student, nrl.Objective([loss]), labelled, stimuli, epochs=5, seed=0)
bootstrap = nrl.Bootstrap("both", n=200, groups="label")
scores = nrl.evaluate(run, rdms, stimuli=stimuli, layers="conv3", comparison="overlap", bootstrap=bootstrap)
print(scores)
plt.show()
