"""Representational distance learning in a training loop of your own
=================================================================

`fit` is a convenience: an `Objective` is a function that returns the loss of a step, with a gradient, and
each of its terms. It works in any PyTorch loop. The script prints the terms of the first and the last step.
"""

import matplotlib.pyplot as plt
import pandas as pd
import torch

import neurordl as nrl
from neurordl.simulate import simulate_subjects

digits = nrl.datasets.load_digits()
stimuli, labelled = digits.subset(digits.ids[:64]), digits.subset(digits.ids[64:114])
rdms = simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3, seed=0)

# %%
# The loss.
teacher = nrl.RDMTeacher(rdms)
objective = nrl.Objective([nrl.RDMLoss(teacher, layer="conv3")])
objective.prepare(stimuli.ids)  # matches the ids with the teacher's, once

# %%
# The loop.
torch.manual_seed(0)
student = nrl.students.small_cnn(in_channels=1)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
history = []
for _ in range(30):
    rows = torch.randperm(len(stimuli))[:32].tolist()
    loss, terms = objective(
        student,
        labelled=(labelled.images(), labelled.labels),
        stimuli=(stimuli.images(rows), [stimuli.ids[row] for row in rows]),
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    history.append({name: value.item() for name, value in terms.items()})
print("first step", history[0])
print("last step ", history[-1])

# %%
# Each term by itself.
pd.DataFrame(history).plot(subplots=True, xlabel="step", ylabel="loss", layout=(1, 2), figsize=(9, 3.5))
plt.tight_layout()
plt.show()
