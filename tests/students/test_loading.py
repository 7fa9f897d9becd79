"""Networks by name or factory, and their weights from files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neurordl import NeurordlError
from neurordl.students import mlp, small_cnn
from neurordl.students.loading import load_network, load_weights

MODULE = """
from torch import nn

def small(width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(4, width), nn.BatchNorm1d(width))

ready = small(2)

def nothing():
    return 5

def broken():
    raise KeyError("lost")
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, as a user has it."""
    name = "a_module_of_mine"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)
    sys.modules.pop("a_neighbour_of_mine", None)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_a_factory_of_the_current_folder(module: str) -> None:
    path = list(sys.path)
    network = load_network(f"{module}:small", width=5)
    assert not network.training
    assert network[1].out_features == 5
    ready = load_network(f"{module}:ready")
    assert ready[1].out_features == 2
    assert load_network(f"{module}:ready") is not ready  # a student is made anew for each run
    assert sys.path == path
    other = Path("elsewhere") / f"{module}.py"  # of the same name, which imports its neighbour
    other.parent.mkdir()
    other.write_text("from a_neighbour_of_mine import N" + MODULE.replace("4, width", "N, width"))
    (other.parent / "a_neighbour_of_mine.py").write_text("N = 7")
    for name, width in ((f"{module}.py", 4), (str(other), 7), (str(other.resolve()), 7)):
        assert load_network(f"{name}:small")[1].in_features == width
    assert sys.path == path


def test_a_network_by_name() -> None:
    assert load_network("small_cnn", num_classes=3).fc2[1].out_features == 3


@pytest.mark.parametrize("kind", [".safetensors", ".pth", ".pt", ".npz"])
def test_weights_of_each_kind(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, path = small_cnn(3, 1, batchnorm=True), tmp_path / f"weights{kind}"
    state = network.state_dict()
    if kind == ".safetensors":
        save_file(state, path)
    elif kind == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in state.items()})
    elif kind == ".pth":
        torch.save(
            {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path
        )
    else:
        torch.save(state, path)
    other = small_cnn(3, 1, batchnorm=True)
    assert not same(network, other)
    load_weights(other, path)
    assert same(network, other)


def test_a_module_called_model_keeps_its_prefix(tmp_path: Path) -> None:
    wrapped = nn.ModuleDict({"model": nn.Linear(2, 2)})
    torch.save(wrapped.state_dict(), tmp_path / "w.pt")
    other = nn.ModuleDict({"model": nn.Linear(2, 2)})
    load_weights(other, tmp_path / "w.pt")
    assert same(wrapped, other)


class Evil:
    """What would run code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("open('unpickled', 'w').close()",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "evil.pth")
    np.savez("evil.npz", weight=np.array([Evil()], dtype=object))
    for name in ("evil.pth", "evil.npz"):
        with pytest.raises(
            NeurordlError,
            match=rf"^{name} contains pickled objects, which are not read; save the state_dict: .*\)$",
        ):
            load_weights(small_cnn(), name)
    assert not Path("unpickled").exists()


def test_damaged_and_other_files(tmp_path: Path) -> None:
    torch.save(small_cnn().state_dict(), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    cut = whole[:5000]
    for name, content in (
        ("cut.pth", cut),
        ("empty.safetensors", b""),
        ("text.npz", b"hello"),
        ("no.ckpt", b"x"),
        ("within.pth", whole[:200] + bytes(60) + whole[260:]),  # its names, not the list of its parts
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NeurordlError, match=f"cannot read .*{name}: it is damaged") as raised:
            load_weights(small_cnn(), tmp_path / name)
        assert "\n" not in str(raised.value)
        assert "weights_only" not in str(raised.value)
        assert "pickle" not in str(raised.value)
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(NeurordlError, match=r"is not a checkpoint of .safetensors"):
        load_weights(small_cnn(), tmp_path / "weights.h5")
    with pytest.raises(NeurordlError, match="there is no checkpoint"):
        load_weights(small_cnn(), tmp_path / "nowhere.pth")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(NeurordlError, match="contains no state_dict"):
        load_weights(small_cnn(), tmp_path / "list.pt")


def test_a_file_without_weights(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(NeurordlError, match="it lacks weight, bias"):
        load_weights(nn.Linear(2, 2), tmp_path / "empty.safetensors")


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(mlp(10, 1, image_size=8).state_dict(), tmp_path / "mlp.pt")
    network = small_cnn(10, 1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(NeurordlError, match=r"not those of this Sequential: it lacks conv1.*it has fc1\.1"):
        load_weights(network, tmp_path / "mlp.pt")
    torch.save(small_cnn(10, 3).state_dict(), tmp_path / "rgb.pt")
    with pytest.raises(
        NeurordlError,
        match=r"are not those of this Sequential: conv1\.0\.weight is 32 x 3 x 3 x 3 in the file and "
        r"32 x 1 x 3 x 3 in the network; make it with as many [^\n]*$",
    ):
        load_weights(network, tmp_path / "rgb.pt")
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet", {}, "'resnet' is not the name of a network"),
        ("models/mine.py:net", {}, r"^models/mine\.py:net: there is no file models/mine\.py; check"),
        ("{}:smal", {}, r"defines no 'smal' \(did you mean small\?\); check the name"),
        ("{}.py:large", {}, r"\.py defines no 'large'; check the name"),
        ("{}.py:nothing", {}, r"\.py:nothing returned int, not a torch\.nn\.Module"),
        ("{}:nothing", {}, "returned int"),
        ("{}:broken", {}, "could not be called"),
        ("{}:small", {"depth": 2}, "could not be called with"),
        ("no_such_package:net", {}, "No module named 'no_such_package'"),
        ("small_cnn", {"pretrained": True}, "has no trained weights of its own"),
    ],
)
def test_names_that_lead_nowhere(name: str, options: dict[str, object], message: str, module: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        load_network(name.format(module), **options)


def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_written.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("half_written", "half_written.py", "half_written.py"):
        with pytest.raises(NeurordlError, match=rf"{name}:f cannot be imported: .*syntax"):
            load_network(f"{name}:f")


def test_weights_elsewhere_have_a_remedy(tmp_path: Path) -> None:
    """Under another key, under a prefix, and without the last layer."""
    state = small_cnn(4, 1, width=4).state_dict()
    network = small_cnn(4, 1, width=4)
    torch.save({"encoder_weights": dict(state), "epoch": 3}, tmp_path / "key.pth")
    with pytest.raises(NeurordlError, match="its entries are 'encoder_weights', 'epoch'; take"):
        load_weights(network, tmp_path / "key.pth")
    torch.save({f"encoder.{name}": value for name, value in state.items()}, tmp_path / "prefix.pth")
    with pytest.raises(NeurordlError, match=r"all names begin with 'encoder\.': cut it off"):
        load_weights(network, tmp_path / "prefix.pth")
    torch.save({name: value for name, value in state.items() if "fc2" not in name}, tmp_path / "less.pth")
    with pytest.raises(NeurordlError, match=r"it lacks .*fc2.*load_state_dict\(weights, strict=False\)"):
        load_weights(network, tmp_path / "less.pth")
