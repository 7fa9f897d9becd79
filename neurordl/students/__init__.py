"""Small student networks, and those of torchvision and timm by name."""

from neurordl.students.loading import STUDENTS, build, load_weights
from neurordl.students.networks import cifar_resnet, mlp, nin, resnet18, small_cnn

__all__ = ["STUDENTS", "build", "cifar_resnet", "load_weights", "mlp", "nin", "resnet18", "small_cnn"]
