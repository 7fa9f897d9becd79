"""Compare the layers of a network with brain RDMs
===============================================

Eight simulated subjects have the geometry of the layer ``fc1`` of a trained network, with noise and with
differences between subjects. The script prints the similarity of each layer with the subjects, with 95 %
intervals that generalize to new subjects and new digits, and the noise ceiling, which ``fc1`` reaches. The
layers before it do, too: their geometries are nearly the same. The last table compares each pair of layers.
"""

import matplotlib.pyplot as plt
import torch

import neurordl as nrl
from neurordl.simulate import simulate_subjects

# %%
# A network learns to recognize digits. Its layer ``fc1`` is the geometry of the simulated subjects.
digits = nrl.datasets.load_digits()
stimuli = digits.subset(digits.ids[:40])
torch.manual_seed(0)
network = nrl.students.small_cnn(in_channels=1)
nrl.fit(
    network,
    nrl.Objective(),
    digits.subset(digits.ids[40:540]),
    epochs=5,
    seed=0,
    execution=nrl.Execution(progress=False),
)
truth = nrl.extract_patterns(network, stimuli, "fc1")["fc1"].measurements
rdms = simulate_subjects(truth, stimuli.ids, n_subjects=8, n_channels=200, snr=3, seed=0)

# %%
# The stimuli are about four pictures of each digit. ``groups`` resamples the pictures of a digit together, so
# that intervals generalize to new digits, and not only to new pictures of these ten.
bootstrap = nrl.Bootstrap("both", groups="label")
scores = nrl.evaluate(network, rdms, stimuli=stimuli, layers="top", bootstrap=bootstrap)
print(scores)
print(scores.differences.to_string(index=False))

# %%
# Dots are subjects, and the band is the noise ceiling.
nrl.plot_scores(scores)
plt.show()  # or plt.savefig("layers.pdf")
