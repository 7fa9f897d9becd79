"""Layers of a network: their names, what is captured, and what is left behind."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from neurordl import NeurordlError, StimulusSet
from neurordl.patterns.network import (
    Compute,
    as_input,
    extract_patterns,
    frozen_eval,
    layer_names,
    read_layers,
    resolve_layers,
)
from neurordl.students import resnet18, small_cnn
from neurordl.teachers import Batch, NetworkTeacher
from tests.squeezenet import squeezenet1_1


def stimuli(n: int = 10) -> StimulusSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    return StimulusSet.from_array(pixels, [f"s{i}" for i in range(n)])


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class InPlace(nn.Module):
    """A ReLU in place rewrites what the layer before it put out."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.relu = nn.Linear(4, 6), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(x))


def test_names_and_globs() -> None:
    model = nn.Sequential(
        OrderedDict(features=nn.Sequential(nn.Linear(4, 4), nn.ReLU()), head=nn.Linear(4, 2))
    )
    assert layer_names(model) == ["features", "features.0", "features.1", "head"]
    assert resolve_layers(model, "all") == layer_names(model)
    assert resolve_layers(model, ["head", "features.*"]) == ["head", "features.0", "features.1"]
    assert resolve_layers(model, ["head", "all"])[0] == "head"  # asked for first, and once
    assert resolve_layers(model, "") == [""]
    assert layer_names(nn.ModuleDict({"list": nn.ModuleList([nn.Linear(2, 2)])})) == ["list.0"]


def test_top_layers_stand_in_no_other() -> None:
    assert resolve_layers(small_cnn(), "top") == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    wrapped = nn.Sequential(OrderedDict(body=resnet18(width=4)))
    assert resolve_layers(wrapped, "top")[:2] == ["body.conv1", "body.layer1"]
    listed = nn.Module()
    listed.blocks, listed.head = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.ReLU()]), nn.Linear(2, 2)
    assert resolve_layers(listed, "top") == ["blocks.0", "blocks.1", "head"]
    assert resolve_layers(nn.Sequential(nn.Linear(2, 2)), "top") == ["0"]
    assert resolve_layers(nn.Sequential(OrderedDict(top=nn.Linear(2, 2))), "top") == ["top"]  # a name first


def parts(**modules: nn.Module) -> nn.Module:
    """A network that only holds parts; its names are all that is read."""
    network = nn.Module()
    for name, module in modules.items():
        network.add_module(name, module)
    return network


def in_order(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def conv() -> nn.Module:
    return nn.Conv2d(1, 1, 1)


def blocks(n: int) -> nn.Sequential:
    return in_order(*(parts(conv1=conv(), bn1=nn.BatchNorm2d(1), conv2=conv(), mlp=conv()) for _ in range(n)))


def linear() -> nn.Module:
    return nn.Linear(2, 2)


def convs(*pooled: bool) -> nn.Sequential:
    ends = {True: [nn.MaxPool2d(2)], False: []}
    return in_order(*(part for pool in pooled for part in (conv(), nn.ReLU(), *copy.deepcopy(ends[pool]))))


TREES = {
    "AlexNet": (
        parts(
            features=convs(True, True, False, False, True),
            avgpool=nn.AdaptiveAvgPool2d(6),
            classifier=in_order(
                nn.Dropout(), linear(), nn.ReLU(), nn.Dropout(), linear(), nn.ReLU(), linear()
            ),
        ),
        " ".join(f"features.{k}" for k in (2, 5, 7, 9, 12))
        + " avgpool classifier.2 classifier.5 classifier.6",
    ),
    "MobileNet": (
        parts(features=blocks(5), classifier=in_order(nn.Dropout(), linear())),
        "features.0 features.1 features.2 features.3 features.4 classifier",
    ),
    "ResNet-50": (
        parts(
            conv1=conv(), layer1=blocks(3), layer2=blocks(4), layer3=blocks(6), layer4=blocks(3), fc=linear()
        ),
        "conv1 layer1 layer2 layer3 layer4 fc",
    ),
    "ConvNeXt of timm": (
        parts(
            stem=in_order(conv(), nn.BatchNorm2d(1)),
            stages=in_order(*(parts(downsample=in_order(conv()), blocks=blocks(n)) for n in (3, 3, 9, 3))),
            head=parts(norm=nn.LayerNorm(2), fc=linear()),
        ),
        "stem stages.0 stages.1 stages.2 stages.3 head",
    ),
    "ViT of torchvision": (
        parts(
            conv_proj=conv(),
            encoder=parts(dropout=nn.Dropout(), layers=blocks(4), ln=nn.LayerNorm(2)),
            heads=in_order(linear()),
        ),
        "conv_proj encoder.layers.0 encoder.layers.1 encoder.layers.2 encoder.layers.3 encoder.ln heads",
    ),
    "ViT of Hugging Face": (
        parts(
            vit=parts(
                embeddings=parts(projection=conv(), dropout=nn.Dropout()),
                encoder=parts(layer=nn.ModuleList(blocks(3))),
                layernorm=nn.LayerNorm(2),
            ),
            classifier=linear(),
        ),
        "vit.embeddings vit.encoder.layer.0 vit.encoder.layer.1 vit.encoder.layer.2 vit.layernorm classifier",
    ),
}


@pytest.mark.parametrize("name", TREES)
def test_top_layers_of_known_architectures(name: str) -> None:
    network, expected = TREES[name]
    assert resolve_layers(network, "top") == expected.split()


def test_top_layers_are_the_stages_that_a_person_would_choose() -> None:
    stages = [*(f"features.{k}" for k in (2, 3, 5, 6, 8, 9, 10, 11, 12)), "classifier"]
    assert resolve_layers(squeezenet1_1(), "top") == stages

    def vgg_part(inputs: int, maps: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, maps, 3), nn.BatchNorm2d(maps), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    classifier = [nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Dropout()]
    vgg = nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*vgg_part(3, 4), *vgg_part(4, 8)),
            avgpool=nn.AdaptiveAvgPool2d(1),
            classifier=nn.Sequential(*classifier, nn.Linear(8, 2)),
        )
    )
    stages = ["features.3", "features.7", "avgpool", "classifier.1", "classifier.4", "classifier.6"]
    assert resolve_layers(vgg, "top") == stages

    def block() -> nn.Module:
        return nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)

    vit = nn.Module()  # as in timm
    vit.patch_embed, vit.blocks = nn.Sequential(nn.Conv2d(3, 8, 2)), nn.Sequential(block(), block(), block())
    vit.norm, vit.head = nn.LayerNorm(8), nn.Linear(8, 2)
    blocks = ["blocks.0", "blocks.1", "blocks.2"]
    assert resolve_layers(vit, "top") == ["patch_embed", *blocks, "norm", "head"]
    vit.encoder = nn.Module()  # as in torchvision: the blocks are one level deeper
    vit.encoder.layers, vit.encoder.ln, vit.blocks = vit.blocks, nn.LayerNorm(8), nn.Identity()
    assert resolve_layers(vit, "top")[-4:] == [*(f"encoder.layers.{k}" for k in range(3)), "encoder.ln"]
    stages = ["conv1", "layer1", "layer2", "layer3", "layer4"]
    assert [name for name in resolve_layers(resnet18(width=4), "top") if name in stages] == stages


def test_unknown_layer_lists_near_matches() -> None:
    with pytest.raises(
        NeurordlError, match=r"no layer 'conv4'; nearest: .*conv3.* The top ones of its 20 layers are conv1, "
    ):
        resolve_layers(small_cnn(), "conv4")
    with pytest.raises(NeurordlError, match=r"no layer 'xyz'; the first: conv1, [^,]*, [^,]*\. The top ones"):
        resolve_layers(small_cnn(), "xyz")
    numbered = nn.Sequential(OrderedDict(features=nn.Sequential(*(nn.Linear(2, 2) for _ in range(40)))))
    with pytest.raises(NeurordlError, match=r"nearest: (features\.\d+(, |\. The top)){3}"):
        resolve_layers(numbered, "features.41")
    with pytest.raises(NeurordlError, match=r"no layer 'conv4'.*conv3"):
        read_layers(small_cnn(10, 1), torch.zeros(3, 1, 8, 8), ["conv4"])
    with pytest.raises(NeurordlError, match=r"'conv\*' matches 12 layers; choose one of conv1"):
        read_layers(small_cnn(10, 1), torch.zeros(3, 1, 8, 8), ["conv*"])
    with pytest.raises(NeurordlError, match="layers= is empty"):
        resolve_layers(small_cnn(), [])


def test_in_place_relu_does_not_rewrite_the_layer_before_it() -> None:
    model, x = InPlace(), torch.randn(5, 4)
    _, kept = read_layers(model, x, ["linear", "relu"])
    torch.testing.assert_close(
        kept["linear"], nn.functional.linear(x, model.linear.weight, model.linear.bias)
    )
    assert (kept["linear"] < 0).any()
    torch.testing.assert_close(kept["relu"], kept["linear"].clamp(min=0))


def test_captured_layers_stay_in_the_graph() -> None:
    model = InPlace()
    _, kept = read_layers(model, torch.randn(5, 4), ["linear"])
    kept["linear"].square().sum().backward()
    assert model.linear.weight.grad is not None
    assert model.linear.weight.grad.abs().sum() > 0


def test_output_and_layers_come_from_one_pass() -> None:
    model, calls = small_cnn(10, 1), []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    images = torch.rand(4, 1, 8, 8)
    output, kept = read_layers(model, images, ["conv1", "fc2", ""])
    assert calls == [2, 4]  # probed with two images, once
    read_layers(model, images, ["conv1", "fc2", ""])
    assert calls == [2, 4, 4]
    assert {name: value.shape[0] for name, value in kept.items()} == {"conv1": 4, "fc2": 4, "": 4}
    torch.testing.assert_close(kept[""], output)
    torch.testing.assert_close(kept[""], kept["fc2"])


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        raise KeyError("inside")


def test_hooks_are_removed_whatever_happens() -> None:
    model = small_cnn(10, 1)
    read_layers(model, torch.rand(3, 1, 8, 8), layer_names(model))
    assert hooks(model) == 0
    failing = Fails()
    with pytest.raises(KeyError):
        read_layers(failing, torch.rand(3, 4), ["layer"])
    assert hooks(failing) == 0
    with pytest.raises(NeurordlError):
        read_layers(model, torch.rand(3, 1, 8, 8), ["conv1", "nowhere"])
    assert hooks(model) == 0


class Told(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


def test_tuples_and_mappings_give_their_first_tensor() -> None:
    x = torch.randn(5, 4)
    for make in (
        lambda x: (2 * x, 3 * x),
        lambda x: [None, 2 * x],
        lambda x: OrderedDict(last_hidden_state=2 * x, pooler=x),
        lambda x: {"mask": None, "logits": 2 * x},
    ):
        _, kept = read_layers(nn.Sequential(Told(make)), x, ["0"])
        torch.testing.assert_close(kept["0"], 2 * x)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: "text", "without a tensor"),
        (lambda x: (None, 3), "without a tensor"),
        (lambda x: x.long(), "not real numbers"),
        (lambda x: x.sum(0), "and no axis for"),
    ],
)
def test_unreadable_networks_are_refused_with_the_reason(make: Any, message: str) -> None:
    model = nn.Sequential(Told(make))
    with pytest.raises(NeurordlError, match=f"'0'.*{message}"):
        read_layers(model, torch.randn(5, 4), ["0"])
    assert read_layers(model, torch.randn(5, 4), ["0"], missing=True)[1] == {}


class TwoPaths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.used(2 * x)


def test_layer_that_did_not_run_and_layer_that_ran_twice() -> None:
    model, x = TwoPaths(), torch.randn(5, 4)
    with pytest.raises(NeurordlError, match="'unused' did not run"):
        read_layers(model, x, ["unused"])
    torch.testing.assert_close(read_layers(model, x, ["used"])[1]["used"], model.used(2 * x))


def transformer(batch_first: bool) -> nn.Module:
    class Tokens(nn.Module):
        """Images to tokens to logits, the tokens' axis first or second."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
            self.attention = nn.MultiheadAttention(16, 2, batch_first=batch_first)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.embed(images.squeeze(1))  # (n, 8 rows as tokens, 16)
            tokens = tokens if batch_first else tokens.transpose(0, 1)
            tokens = self.encoder(tokens)
            tokens = self.attention(tokens, tokens, tokens)[0]
            return (tokens if batch_first else tokens.transpose(0, 1)).mean(1)

    return Tokens().eval()


def test_token_layouts_give_the_same_patterns() -> None:
    torch.manual_seed(0)
    first = transformer(batch_first=True)
    second = transformer(batch_first=False)
    second.load_state_dict(first.state_dict())
    images = torch.rand(5, 1, 8, 8)
    layers = ["encoder", "attention", "encoder.self_attn"]
    one, two = (read_layers(model, images, layers)[1] for model in (first, second))
    for layer in layers:
        assert one[layer].shape == (5, 8, 16)
        torch.testing.assert_close(one[layer], two[layer])
    # A stimulus's patterns are its own: they do not depend on which others stand beside it.
    alone = read_layers(second, images[3:4], layers)[1]
    torch.testing.assert_close(alone["encoder"][0], two["encoder"][3])


def test_as_many_tokens_as_stimuli() -> None:
    images = torch.rand(8, 1, 8, 8)  # 8 stimuli, 8 tokens
    for batch_first in (True, False):
        model = transformer(batch_first)
        for layer in ("attention", "encoder"):
            kept = read_layers(model, images, [layer])[1][layer]
            torch.testing.assert_close(kept[:3], read_layers(model, images[:3], [layer])[1][layer])


class Windows(nn.Module):
    """An inner layer has windows x images rows, of as many tokens as there are images, or no row an image."""

    def __init__(self, tokens: int, order: str) -> None:
        super().__init__()
        self.tokens, self.order = tokens, order
        self.inner, self.head = nn.Identity(), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1)
        windows = {
            "windows x images": lambda: self.inner(rows.reshape(-1, self.tokens, 4)),
            "no images": lambda: self.inner(rows[:1].reshape(-1, 1).expand(-1, 4)[: self.tokens]),
            "images x images": lambda: self.inner(rows @ rows.T),
            "summed": lambda: self.inner(rows.sum(0)),
        }[self.order]()
        return self.head(rows) + windows.mean()


@pytest.mark.parametrize("order", ["windows x images", "no images", "images x images", "summed"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 64])
def test_a_layer_without_one_row_a_stimulus_is_refused(n: int, order: str) -> None:
    for tokens in (4, 8):
        images = torch.rand(n, 1, 8, 8)
        with pytest.raises(NeurordlError, match=r"'inner' has shape .* no axis for one row a stimulus"):
            read_layers(Windows(tokens, order), images, ["inner"])
        with pytest.warns(UserWarning, match="1 of 2 layers are left out: the output of layer 'inner'"):
            kept = read_layers(Windows(tokens, order), images, ["inner", "head"], missing=True)[1]
        assert list(kept) == ["head"]


class Squeezes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.squeeze, self.fc = nn.AdaptiveAvgPool2d(1), Told(Tensor.squeeze), nn.Linear(3, 4)
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.squeeze(self.pool(self.conv(x))))


@pytest.mark.parametrize("n, batch_size", [(9, 1), (9, 8), (9, 4), (1, None), (65, None)])
def test_a_network_that_squeezes_loses_no_layer(n: int, batch_size: int | None) -> None:
    model, shown = Squeezes(), stimuli(n)
    got = extract_patterns(model, shown, "all", device=Compute(batch_size=batch_size))
    assert list(got) == ["pool", "squeeze", "fc", "conv"]
    with torch.no_grad():
        right = model(torch.cat([shown.images(), shown.images()]))[:n]
    np.testing.assert_allclose(got["fc"].measurements, right.numpy(), atol=1e-6)
    cached = NetworkTeacher(model, "fc", cache=shown)
    features = cached.features(Batch(shown.images(), list(shown.ids)))
    torch.testing.assert_close(features["fc"], right)


def test_a_module_that_runs_twice_is_said() -> None:
    with pytest.warns(
        UserWarning, match=r"^1 layer runs several times in a pass, and its name .*: 1\.used \(2 times\); to "
    ):
        extract_patterns(nn.Sequential(nn.Flatten(), Repeats()), stimuli(), "all")


class Repeats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(self.used(x))


def wrappers() -> dict[str, Any]:
    fabric = Fabric(accelerator="cpu", devices=1)
    return {
        "compile": lambda net: torch.compile(net, backend="eager"),
        "DataParallel": nn.DataParallel,
        "Fabric": fabric.setup_module,
        "both": lambda net: fabric.setup_module(torch.compile(net, backend="eager")),
    }


@pytest.mark.parametrize("wrapper", ["compile", "DataParallel", "Fabric", "both"])
def test_wrapped_networks_have_the_plain_names_and_numbers(wrapper: str) -> None:
    torch.manual_seed(0)
    plain, shown = small_cnn(10, 1), stimuli()
    wrapped = wrappers()[wrapper](plain)
    assert layer_names(wrapped) == layer_names(plain)
    assert resolve_layers(wrapped, "top") == resolve_layers(plain, "top")
    one, two = (extract_patterns(net, shown, ["conv2", "fc2"]) for net in (plain, wrapped))
    for layer in one:
        np.testing.assert_array_equal(one[layer].measurements, two[layer].measurements)
    assert NetworkTeacher(wrapped, "conv2").describe()["sha256"] == NetworkTeacher(plain).describe()["sha256"]
    _, kept = read_layers(wrapped, shown.images(), ["conv2", ""])  # as a student
    np.testing.assert_allclose(kept["conv2"].detach().flatten(1), one["conv2"].measurements, atol=1e-6)


def test_torchscript_is_refused_by_its_name() -> None:
    script = torch.jit.trace(small_cnn(10, 1), torch.rand(2, 1, 8, 8))
    with pytest.raises(NeurordlError, match="TorchScript cannot be read; pass the module"):
        extract_patterns(script, stimuli(), "fc2")


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_networks_that_check_the_size_of_images_themselves(error: type[Exception]) -> None:
    class Checks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error("Input height (8) doesn't match model (224).")

    with pytest.raises(NeurordlError, match=r"1 x 8 x 8 .*doesn't match model \(224\).*size="):
        extract_patterns(Checks(), stimuli(), "")


def test_convolution_with_as_many_maps_as_stimuli_is_not_ambiguous() -> None:
    images = torch.rand(8, 1, 8, 8)
    model = nn.Sequential(nn.Conv2d(1, 8, 3))
    torch.testing.assert_close(read_layers(model, images, ["0"])[1]["0"], model(images))


def test_frozen_eval_puts_each_mode_back() -> None:
    model = small_cnn(10, 1, batchnorm=True, dropout=0.5).train()
    model.conv2.eval()
    before = [module.training for module in model.modules()]
    with frozen_eval(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before

    def fail() -> None:
        with frozen_eval(model):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.is_grad_enabled()
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_extract_patterns_by_hand(batch_size: int) -> None:
    shown = stimuli()
    model = small_cnn(10, 1, batchnorm=True, dropout=0.5).train()
    running = model.conv1[1].running_mean.clone()
    got = extract_patterns(model, shown, ["conv2", "fc1"], device=Compute(batch_size=batch_size))
    assert model.training
    torch.testing.assert_close(model.conv1[1].running_mean, running)
    assert list(got) == ["conv2", "fc1"]
    with torch.no_grad():
        x = model.eval().conv2(model.conv1(shown.images()))
    np.testing.assert_allclose(got["conv2"].measurements, x.flatten(1).numpy(), atol=1e-5)
    assert got["conv2"].measurements.dtype == np.float32
    assert list(got["conv2"].obs_descriptors["stimulus"]) == list(shown.ids)
    assert got["conv2"].descriptors["layer"] == "conv2"


def test_extract_patterns_in_the_precision_of_the_model() -> None:
    shown = stimuli()
    model = small_cnn(10, 1)
    single = extract_patterns(model, shown, "fc2")["fc2"].measurements
    double = extract_patterns(model.double(), shown, "fc2")["fc2"].measurements
    np.testing.assert_allclose(single, double, atol=1e-5)
    assert as_input(torch.zeros(1), model).dtype == torch.float64
    assert as_input(torch.zeros(1), nn.ReLU()).dtype == torch.float32


def test_what_a_glob_finds_need_not_run_but_what_is_named_must() -> None:
    shown = StimulusSet.from_array(np.random.default_rng(0).random((6, 1, 4, 4)), list("abcdef"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(16, 3), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x.flatten(1))

    assert list(extract_patterns(Model(), shown, "all")) == ["used"]
    assert list(extract_patterns(Model(), shown, "*used")) == ["used"]
    with pytest.raises(NeurordlError, match="'unused' did not run"):
        extract_patterns(Model(), shown, ["used", "unused"])
    with pytest.raises(NeurordlError, match="batch_size=0"):
        Compute(batch_size=0)


def test_errors_of_a_network_are_quoted() -> None:
    with pytest.raises(NeurordlError, match=r"takes 3 channels, but the images are 1 x 8 x 8"):
        extract_patterns(small_cnn(num_classes=3), stimuli())

    class Full(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):  # nothing is wrong with the images
        extract_patterns(Full(), stimuli())


def test_a_network_of_a_fixed_batch_is_run_once_for_each_batch() -> None:
    """It cannot be probed by another number of images, and is not tried again."""

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.passes = nn.Conv2d(1, 4, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            self.passes += 1
            return self.conv(x).view(6, 196)

    network = Fixed()
    for _ in range(3):
        _, features = read_layers(network, torch.rand(6, 1, 9, 9), ["conv"])
        assert features["conv"].shape == (6, 4, 7, 7)
    assert network.passes == 4  # the probe, and three batches
