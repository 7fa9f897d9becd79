"""The control for representational distance learning: a permuted teacher
======================================================================

A student may become more similar to its teacher for reasons that have nothing to do with the teacher's
geometry. The control trains the same student with a teacher whose stimuli are permuted, and scores both
against the true RDMs. The script prints the similarity with the teacher on held-out stimuli for labels
alone, for the teacher, and for the permuted teacher: only the second rises.
"""

import matplotlib.pyplot as plt
import torch

import neurordl as nrl
from neurordl.simulate import simulate_subjects

quiet = nrl.Execution(progress=False)
digits = nrl.datasets.load_digits()
stimuli, labelled = digits.subset(digits.ids[:180]), digits.subset(digits.ids[180:230])
rdms = simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=4, seed=0)
train, held_out = stimuli.split(held_out=0.3, seed=0)
teacher = nrl.RDMTeacher(rdms)

# %%
# Three conditions with equal initial weights and equal steps.
objectives = {
    "labels only": nrl.Objective(),
    "teacher": nrl.Objective([nrl.RDMLoss(teacher, layer="conv3", weight=3.0)]),
    "permuted teacher": nrl.Objective(
        [nrl.RDMLoss(teacher.permuted(train.ids, seed=0), layer="conv3", weight=3.0)]
    ),
}
similarities = {}
for condition, objective in objectives.items():
    torch.manual_seed(0)  # the same initial weights in each condition
    student = nrl.students.small_cnn(in_channels=1)
    nrl.fit(student, objective, labelled, train, epochs=20, seed=0, execution=quiet)  # equal steps
    held_out_rdms = nrl.compute_rdms(nrl.extract_patterns(student, held_out, "conv3"))
    similarities[condition] = nrl.compare(held_out_rdms, rdms.subset_pattern("stimulus", held_out.ids)).mean()
    print(f"{condition:18}{similarities[condition]:.3f}")

# %%
# The band is the noise ceiling, within which a perfect model would be.
ceiling = nrl.noise_ceiling(rdms.subset_pattern("stimulus", held_out.ids))
figure, ax = plt.subplots(figsize=(5, 4), layout="constrained")
ax.bar(list(similarities), list(similarities.values()), color=["0.6", "C0", "0.8"])
ax.axhspan(*ceiling, color="C2", alpha=0.2, label="noise ceiling")
ax.set_ylabel("similarity with the teacher (rho-a),\nheld-out stimuli")
ax.legend()
plt.show()
