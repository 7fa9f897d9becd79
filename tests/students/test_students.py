"""Reference students: shapes, names, gradients, and errors that help."""

from __future__ import annotations

import json
import sys
import types
import urllib.error
from typing import Any

import pytest
import torch
from torch import nn

from neurordl import students
from neurordl.errors import NeurordlError
from neurordl.students import networks
from neurordl.students.loading import load_network

CHEAP: dict[str, dict[str, Any]] = {"resnet18": {"width": 8}}


def make(name: str, **options: Any) -> nn.Module:
    return students.build(name, **(CHEAP.get(name, {}) | options))


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", students.STUDENTS)
@pytest.mark.parametrize(("size", "channels"), [((8, 8), 1), ((28, 28), 1), ((32, 32), 3), ((30, 41), 3)])
def test_takes_images_of_many_sizes(name: str, size: tuple[int, int], channels: int) -> None:
    model = make(name, num_classes=7, in_channels=channels, image_size=size).eval()
    logits = model(torch.randn(2, channels, *size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", students.STUDENTS)
def test_every_weight_learns(name: str) -> None:
    model = make(name, in_channels=1, image_size=16)
    loss = nn.functional.cross_entropy(model(torch.randn(16, 1, 16, 16)), torch.arange(16) % 10)
    loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0 or parameter_name.endswith("bias"), parameter_name


@pytest.mark.parametrize("name", students.STUDENTS)
def test_same_seed_same_student(name: str) -> None:
    built = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        built.append(torch.cat([p.detach().flatten() for p in make(name).parameters()]))
    assert built[0].equal(built[1])
    assert not built[0].equal(built[2])


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("small_cnn", ["conv1", "conv2", "conv3", "fc1", "fc2"]),
        ("nin", ["mlpconv1", "mlpconv2", "mlpconv3", "mean"]),
        ("resnet18", ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool", "fc"]),
        ("mlp", ["fc1", "fc2", "fc3"]),
    ],
)
def test_layer_names(name: str, layers: list[str]) -> None:
    assert [child for child, _ in make(name).named_children()] == layers


def test_sizes_of_the_published_networks() -> None:
    """The CIFAR ResNet-18 has 11,173,962 weights; Lin et al.'s network in network has 966,986."""
    assert weights(students.resnet18()) == 11_173_962
    assert weights(students.nin()) == 966_986
    assert weights(students.small_cnn()) == 160_202


def test_conv3_of_small_cnn_has_one_size_for_all_images() -> None:
    model = students.small_cnn(in_channels=1).eval()
    for size in (8, 28, 33):
        maps = model.conv3(model.conv2(model.conv1(torch.randn(1, 1, size, size))))
        assert maps.shape == (1, 128, 2, 2)


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (7, 7), (8, 8), (2, 5), (9, 4)])
def test_pooling_of_quarters_is_adaptive_pooling(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    assert networks._MaxOfQuarters()(x).equal(nn.AdaptiveMaxPool2d(2)(x))


def test_named_layers_are_nonnegative_and_undropped_in_training() -> None:
    model = students.small_cnn(dropout=0.5, batchnorm=True).train()
    x = torch.randn(4, 3, 16, 16)
    first, second = (model.conv3(model.conv2(model.conv1(x))) for _ in range(2))
    assert first.equal(second)
    assert (first >= 0).all()
    assert not model(x).equal(model(x))
    model.eval()
    assert model(x).equal(model(x))


@pytest.mark.parametrize("name", ["small_cnn", "nin"])
def test_batchnorm_is_an_option(name: str) -> None:
    def norms(model: nn.Module) -> int:
        return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())

    assert norms(make(name)) == 0
    model = make(name, batchnorm=True)
    assert norms(model) == {"small_cnn": 3, "nin": 8}[name]
    assert (model(torch.randn(8, 3, 16, 16)) < 0).any(), "no ReLU on the logits"


def test_mlp_follows_its_hidden_sizes() -> None:
    model = students.mlp(4, 1, image_size=(4, 6), hidden=[5, 3, 2])
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [(5, 24), (3, 5), (2, 3), (4, 2)]
    assert [child for child, _ in students.mlp(hidden=()).named_children()] == ["fc1"]


def test_mlp_refuses_other_images() -> None:
    model = students.mlp(in_channels=1, image_size=8)
    with pytest.raises(NeurordlError, match=r"\(1, 8, 8\).*got \(3, 8, 8\)"):
        model(torch.zeros(2, 3, 8, 8))


def test_small_cnn_refuses_tiny_images() -> None:
    with pytest.raises(NeurordlError, match="at least 8 x 8"):
        students.small_cnn(in_channels=1)(torch.zeros(1, 1, 5, 5))


def test_unknown_student_lists_near_matches() -> None:
    with pytest.raises(
        NeurordlError, match=r"'smal_cnn' \(did you mean small_cnn\?\).*cifar_resnet, resnet18, mlp"
    ):
        students.build("smal_cnn")
    with pytest.raises(NeurordlError, match="'keras:vgg'"):
        students.build("keras:vgg")


def test_unknown_option_lists_the_options() -> None:
    with pytest.raises(
        NeurordlError, match="small_cnn has no option wide; it takes width, batchnorm, dropout"
    ):
        students.build("small_cnn", wide=3)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"in_channels": 0}])
def test_sizes_must_be_positive(wrong: dict[str, int]) -> None:
    with pytest.raises(NeurordlError, match=r"(num_classes|in_channels)=0: expected"):
        students.build("small_cnn", **wrong)


class _FailingImport:
    """A finder that makes the import of one package fail in a chosen way."""

    def __init__(self, package: str, error: Exception) -> None:
        self.package, self.error = package, error

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.package:
            raise self.error


@pytest.mark.parametrize("package", ["torchvision", "timm"])
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError(), r"not installed: pip install {package}"),
        (ModuleNotFoundError("No module named 'huggingface_hub'", name="huggingface_hub"), "huggingface_hub"),
        (
            RuntimeError("operator torchvision::nms does not exist"),
            r"cannot be loaded with torch .*nms.*for this torch",
        ),
    ],
)
def test_package_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, package: str, error: Exception, message: str
) -> None:
    if isinstance(error, ModuleNotFoundError) and error.name is None:
        error = ModuleNotFoundError(f"No module named {package!r}", name=package)
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr(sys, "meta_path", [_FailingImport(package, error), *sys.meta_path])
    with pytest.raises(NeurordlError, match=message.format(package=package)):
        students.build(f"{package}:resnet18")


def fake_torchvision() -> types.ModuleType:
    """The part of torchvision's registry of networks that is used."""
    module, models = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")

    def get_model(name: str, num_classes: int = 1000, weights: str | None = None) -> nn.Module:
        if weights and num_classes != 1000:
            raise ValueError("The parameter 'num_classes' expected value 1000 but got 10 instead.")
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    models.list_models = lambda module: ["resnet18", "resnet34"]  # type: ignore[attr-defined]
    models.get_model = get_model  # type: ignore[attr-defined]
    module.models = models  # type: ignore[attr-defined]
    return module


def test_torchvision_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", fake_torchvision())
    assert students.build("torchvision:resnet18", 6)(torch.zeros(2, 3, 8, 8)).shape == (2, 6)
    with pytest.raises(NeurordlError, match=r"'resnet81' \(did you mean resnet18"):
        students.build("torchvision:resnet81")
    with pytest.raises(NeurordlError, match="3 channels, but these have 1"):
        students.build("torchvision:resnet18", in_channels=1)
    with pytest.raises(NeurordlError, match=r"resnet18 could not be built with .*value 1000"):
        students.build("torchvision:resnet18", weights="DEFAULT")


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), FileNotFoundError("not on the Hub")])
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18"])
def test_trained_weights_without_a_network(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of torch.hub and of huggingface_hub name the remedy."""

    def offline(*_arguments: Any, **_options: Any) -> nn.Module:
        raise error

    module = fake_torchvision()
    module.models.get_model = module.create_model = offline
    module.list_models = lambda: ["resnet18"]
    monkeypatch.setitem(sys.modules, name.partition(":")[0], module)
    with pytest.raises(
        NeurordlError, match=rf"{name}: its trained weights could not be .* as checkpoint"
    ) as raised:
        load_network(name, pretrained=True)
    assert str(error) in str(raised.value)


def test_timm_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, *, num_classes: int, in_chans: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 64, num_classes))

    timm = types.ModuleType("timm")
    timm.list_models = lambda: ["resnet18"]  # type: ignore[attr-defined]
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert students.build("timm:resnet18.a1_in1k", 6, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 6)
    with pytest.raises(NeurordlError, match=r"'resnet_18' \(did you mean resnet18"):
        students.build("timm:resnet_18")
    with pytest.raises(NeurordlError, match=r"timm:resnet18 could not be built with .*nonsense"):
        students.build("timm:resnet18", nonsense=1)


@pytest.mark.parametrize(
    "student",
    [students.small_cnn(7, width=8), students.mlp(in_channels=1, image_size=(8, 9), hidden=(3,))],
    ids=["small_cnn", "mlp"],
)
def test_a_student_can_be_built_again_from_what_is_noted_on_it(student: torch.nn.Module) -> None:
    again = students.build(**json.loads(json.dumps(student.build_spec)))  # type: ignore[arg-type]
    assert str(again) == str(student)
