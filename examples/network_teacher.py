"""A network teaches another one: by the geometry of its layers, and by its soft targets
=====================================================================================

A larger network learns to recognize digits from 400 labels. It then teaches a small student that has 20
labels: two of its layers teach two layers of the student by their RDMs, and its outputs teach by soft
targets (knowledge distillation). The teacher runs once per batch, however many of its layers are used. The
script prints the accuracy of a student without a teacher and of the student with the teacher.
"""

import matplotlib.pyplot as plt
import torch

import neurordl as nrl

quiet = nrl.Execution(progress=False)
digits = nrl.datasets.load_digits()
train, test = digits.split(held_out=0.5, seed=0, stratify="label")
train = train.subset(train.ids[:400])
labelled = train.subset(train.ids[:20])

# %%
# The teacher.
torch.manual_seed(1)
network = nrl.students.small_cnn(in_channels=1, batchnorm=True)
nrl.fit(network, nrl.Objective(), train, epochs=5, seed=1, execution=quiet)

# %%
# Two students from the same initial weights, with equal steps.
teacher = nrl.NetworkTeacher(network, layers=["conv3", "fc1"])
losses = [
    nrl.RDMLoss(teacher["conv3"], layer="conv3"),
    nrl.RDMLoss(teacher["fc1"], layer="fc1"),
    nrl.SoftTargetLoss(teacher, weight=0.5),
]
accuracies = {}
for condition, objective in {"labels only": nrl.Objective(), "teacher": nrl.Objective(losses)}.items():
    torch.manual_seed(0)
    student = nrl.students.small_cnn(in_channels=1)
    nrl.fit(student, objective, labelled, train, epochs=10, seed=0, execution=quiet)  # equal steps
    accuracies[condition] = nrl.accuracy(student, test)
    print(f"{condition:14}{accuracies[condition]:.3f}")

# %%
# How much 20 labels are worth with a teacher beside them.
figure, ax = plt.subplots(figsize=(5, 2.5), layout="constrained")
bars = ax.barh(list(accuracies), list(accuracies.values()), color=["0.6", "C0"])
ax.bar_label(bars, fmt="%.2f", padding=3)
ax.set(xlim=(0, 1), xlabel="accuracy on test images")
ax.invert_yaxis()
plt.show()
