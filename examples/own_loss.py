"""Use your own loss, with parameters that are trained
===================================================

A *hint* (Romero et al. 2015) asks the student to predict the maps of a teacher's layer through a learned
convolution. The loss is one class. `fit` trains its parameters beside the student's and keeps them out of the
student's file. The script prints how the hint loss falls.
"""

import matplotlib.pyplot as plt
import torch

import neurordl as nrl
from neurordl.plots import plot_training


class Hint(nrl.TransferLoss, torch.nn.Module):
    """Mean squared error between a teacher's maps and their prediction from the student's maps."""

    layers = ("conv2",)  # what it reads from the student

    def __init__(self, teacher: nrl.Teacher, channels: int) -> None:
        super().__init__()
        self.teacher = teacher
        self.regressor = torch.nn.LazyConv2d(channels, kernel_size=1)

    def forward(
        self, student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor], batch: nrl.Batch
    ) -> torch.Tensor:
        """Return the loss of a batch; features have the shape (stimuli, channels, height, width)."""
        prediction = self.regressor(student["conv2"])
        return torch.nn.functional.mse_loss(prediction, teacher["conv2"])


# %%
# A network that knows the digits is the teacher.
digits = nrl.datasets.load_digits()
train = digits.subset(digits.ids[:200])
torch.manual_seed(0)
network = nrl.students.small_cnn(in_channels=1)
nrl.fit(network, nrl.Objective(), train, epochs=3, seed=1)

# %%
# The student is narrower than the teacher, so that the regressor has something to do.
hint = Hint(nrl.NetworkTeacher(network, "conv2")["conv2"], channels=64)
student = nrl.students.small_cnn(in_channels=1, width=8)
run = nrl.fit(student, nrl.Objective([hint]), train, epochs=5, seed=0)
print(run.history[["epoch", "hint"]].to_string(index=False))
plot_training(run, terms=["hint"])
plt.show()
