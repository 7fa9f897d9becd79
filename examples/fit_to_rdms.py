"""Train a network on labels and on the RDMs of subjects
=====================================================

Six simulated subjects see 180 handwritten digits; the geometry of their responses is that of the images.
Three subjects teach a small network, which also learns from 50 labelled digits. The script prints how
similar the network's layers are to the other three subjects, on stimuli that were not used in training,
beside the noise ceiling: the similarity that a perfect model would reach.
"""

import matplotlib.pyplot as plt
import torch

import neurordl as nrl
from neurordl.simulate import simulate_subjects

# %%
# The images and the subjects. Some stimuli are held out.
digits = nrl.datasets.load_digits()
stimuli, labelled = digits.subset(digits.ids[:180]), digits.subset(digits.ids[180:230])
rdms = simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=6, seed=0)
train, held_out = stimuli.split(held_out=0.3, seed=0)

# %%
# Three subjects teach the layer ``conv3``, with the stimuli that are not held out.
teacher = nrl.RDMTeacher(rdms, subjects=["s01", "s02", "s03"])
print(teacher.match(train.ids))
torch.manual_seed(0)
student = nrl.students.small_cnn(in_channels=1)
objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv3", weight=3.0)])
run = nrl.fit(student, objective, labelled, train, epochs=20, seed=0)
print(run.history.tail(1))

# %%
# The other three subjects and the held-out stimuli are the test.
scores = nrl.evaluate(run, rdms, stimuli=held_out, layers="top")
print(scores)
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
nrl.plot_scores(scores, ax)
plt.show()
