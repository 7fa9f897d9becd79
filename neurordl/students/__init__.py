"""Small student networks, and those of torchvision and timm by name."""

from neurordl.students.loading import STUDENTS, build
from neurordl.students.networks import mlp, nin, resnet18, small_cnn

__all__ = ["STUDENTS", "build", "mlp", "nin", "resnet18", "small_cnn"]
