"""Small reference networks to teach, and those of torchvision and timm by name."""

from neurordl.students.networks import mlp, nin, resnet18, small_cnn
from neurordl.students.registry import STUDENTS, build

__all__ = ["STUDENTS", "build", "mlp", "nin", "resnet18", "small_cnn"]
