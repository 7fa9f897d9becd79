from __future__ import annotations

import gzip
import json
import os
import struct
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from scipy.spatial.distance import squareform
from sklearn.datasets import load_digits as embedded
from sklearn.utils import Bunch

from neurordl.datasets import (
    DATASETS,
    IMAGES92_IDS,
    IMAGES92_RDMS,
    data_root,
    load_brain,
    load_cifar10,
    load_cifar100,
    load_cifar100_stretched,
    load_digits,
    load_fashion_mnist,
    load_haxby2001,
    load_haxby2001_slice,
    load_images92,
    load_images92_rdms,
    load_mnist,
    loaders,
)
from neurordl.errors import NeurordlError
from neurordl.patterns.fmri import read_betas
from neurordl.stimuli import StimulusSet

real = pytest.mark.skipif(
    not os.environ.get("NEURORDL_DATA"), reason="NEURORDL_DATA is not set: it names the folder of real data"
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NEURORDL_DATA", str(tmp_path))
    for name in ("mnist", "cifar100_stretched", "images92"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_data_root_names_the_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURORDL_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.setenv("NEURORDL_DATA", str(tmp_path / "gone"))
    with pytest.raises(NeurordlError, match="gone, which is not a folder"):
        data_root()
    monkeypatch.delenv("NEURORDL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_root() == tmp_path / "cache" / "neurordl"
    with pytest.raises(NeurordlError, match="neurordl data fetch mnist"):
        load_mnist()


def test_digits_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEURORDL_DATA", raising=False)
    digits = load_digits()
    assert digits.pixels.shape == (1797, 1, 8, 8)
    assert digits.pixels.dtype == torch.uint8
    assert (digits.ids[0], digits.ids[-1]) == ("digits-0000", "digits-1796")
    assert digits.labels is not None
    assert (digits.labels.numpy() == embedded().target).all()
    assert np.allclose(digits.images().numpy()[:, 0] * 16, embedded().images, atol=16 / 255)


# MNIST


def write_idx(path: Path, values: np.ndarray[Any, Any], header: bytes | None = None) -> None:
    usual = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    path.write_bytes(gzip.compress((usual if header is None else header) + values.tobytes()))


@pytest.fixture
def small_mnist(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loaders, "_MNIST_FILES", {"train": ("train", 20)})
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (20, 28, 28), dtype=np.uint8)
    write_idx(root / "mnist/train-images-idx3-ubyte.gz", images)
    write_idx(root / "mnist/train-labels-idx1-ubyte.gz", np.arange(20, dtype=np.uint8) % 10)
    return root / "mnist"


def test_mnist_reads_idx(small_mnist: Path) -> None:
    stimuli = load_mnist("train", limit=12)
    known = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    assert (stimuli.pixels[:, 0].numpy() == known[:12]).all()
    assert stimuli.ids[11] == "mnist-train-00011"
    assert stimuli.labels is not None
    assert stimuli.labels.tolist() == [*range(10), 0, 1]
    assert len(load_mnist("train")) == len(load_mnist("train", limit=99)) == 20


def _with_header(*numbers: int) -> Callable[[Path], None]:
    content = np.zeros((20, 28, 28), dtype=np.uint8)
    return lambda path: write_idx(path, content, struct.pack(f">{len(numbers)}I", *numbers))


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda path: path.unlink(), "neurordl data fetch mnist"),
        (lambda path: path.write_bytes(b"not gzip"), "it is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "it is damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-8] + bytes(8)),
            "it is damaged",
        ),  # its checksum
        (lambda path: path.write_bytes(gzip.compress(b"\x00\x00\x08")), "its header is '000008'"),
        (
            _with_header(0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1),
            "its header is '00000803ffff",
        ),  # no giant array
        (_with_header(0x803, 19, 28, 28), "its header is"),
        (_with_header(0x801, 20 * 784), "its header is"),
        (lambda path: write_idx(path, np.zeros((20, 28, 28), dtype=np.int16)), "size 15681 into shape"),
        (
            lambda path: path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 20, 28, 28) + b"ab")),
            "size 2 into shape",
        ),
    ],
)
def test_damaged_idx(damage: Callable[[Path], None], said: str, small_mnist: Path) -> None:
    damage(small_mnist / "train-images-idx3-ubyte.gz")
    with pytest.raises(NeurordlError, match=rf"train-images-idx3-ubyte\.gz.*{said}"):
        load_mnist()


def test_labels_that_are_no_digits(small_mnist: Path) -> None:
    write_idx(small_mnist / "train-labels-idx1-ubyte.gz", np.full(20, 10, dtype=np.uint8))
    with pytest.raises(NeurordlError, match="label 10, expected 0 to 9"):
        load_mnist()


# CIFAR-100


def strips(count: int, per_strip: int = 4) -> dict[str, np.ndarray[Any, Any]]:
    images = np.random.default_rng(1).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    codes = []
    for start in range(0, count, per_strip):
        buffer = BytesIO()
        Image.fromarray(images[start : start + per_strip].reshape(-1, 32, 3)).save(
            buffer, "WEBP", lossless=True
        )
        codes.append(buffer.getvalue())
    return {
        "webp_bytes": np.frombuffer(b"".join(codes), dtype=np.uint8),
        "offsets": np.cumsum([0, *map(len, codes)]),
        "images_per_strip": np.array(per_strip),
        "labels": np.arange(count, dtype=np.uint8) % 3,
        "coarse_labels": np.arange(count, dtype=np.uint8) % 3 // 2,
        "filenames": np.array([f"x_{i % 8}.png".encode() for i in range(count)]),
    }


@pytest.fixture
def small_cifar(root: Path) -> Path:
    folder = root / "cifar100_stretched"
    np.savez(folder / "train_0.npz", **strips(6))  # type: ignore[arg-type]
    np.savez(folder / "train_1.npz", **strips(10))  # type: ignore[arg-type]
    lines = [
        "fine_label\tfine_name\tcoarse_label\tcoarse_name",
        "0\tcat\t0\tanimal",
        "1\tdog\t0\tanimal",
        "2\tcup\t1\tthing",
    ]
    (folder / "class_names.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("limit", [1, 4, 5, 6, 7, 16])
def test_cifar_cuts_strips(limit: int, small_cifar: Path) -> None:
    images = [np.random.default_rng(1).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for n in (6, 10)]
    stimuli = load_cifar100_stretched("train", labels="fine", limit=limit)
    assert (stimuli.pixels.permute(0, 2, 3, 1).numpy() == np.concatenate(images)[:limit]).all()
    assert stimuli.labels is not None
    assert stimuli.labels.tolist() == [*np.arange(6) % 3, *np.arange(10) % 3][:limit]
    assert stimuli.table["coarse"].tolist() == [("animal", "animal", "thing")[i] for i in stimuli.labels]
    assert stimuli.table["fine"].tolist() == [("cat", "dog", "cup")[i] for i in stimuli.labels]
    coarse = load_cifar100_stretched("train", labels="coarse", limit=limit).labels
    assert coarse is not None
    assert coarse.tolist() == [i // 2 for i in stimuli.labels.tolist()]


def test_cifar_file_names_that_come_again(small_cifar: Path) -> None:
    ids = load_cifar100_stretched("train", limit=16).ids
    assert ids[:7] == (*(f"x_{i}.png" for i in range(6)), "x_0.png~2")
    assert ids[14:] == ("x_0.png~3", "x_1.png~3")


def test_cifar_that_is_too_short_or_missing(small_cifar: Path) -> None:
    with pytest.raises(NeurordlError, match="lacks 4 images of 'train'"):
        load_cifar100_stretched("train", limit=20)
    with pytest.raises(NeurordlError, match=r"is not on this machine: .*test\.npz; set"):
        load_cifar100_stretched("test", limit=2)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"webp_bytes": np.zeros(9, dtype=np.uint8)}, "offsets do not fit"),
        ({"offsets": np.array([0, 5])}, "offsets do not fit"),
        ({"offsets": np.array([])}, "it is damaged"),
        ({"images_per_strip": np.array(0)}, "it is damaged"),
        ({"images_per_strip": np.array(-4)}, "offsets do not fit"),
        ({"images_per_strip": np.array([1, 2])}, "it is damaged"),
        ({"labels": np.zeros(3)}, "it is damaged"),
        ({"filenames": np.array([b"a"])}, "it is damaged"),
        ({"filenames": np.array([object()] * 6)}, "cannot read .*pickle"),
        ({"images_per_strip": np.array(3)}, "strip 0 has shape"),
    ],
)
def test_damaged_strips(change: dict[str, Any], said: str, small_cifar: Path) -> None:
    np.savez(small_cifar / "train_0.npz", **{**strips(6), **change})
    with pytest.raises(NeurordlError, match=said):
        load_cifar100_stretched("train", limit=6)


def test_strips_that_are_no_images(small_cifar: Path) -> None:
    held = strips(6)
    np.savez(small_cifar / "train_0.npz", **{**held, "webp_bytes": np.zeros_like(held["webp_bytes"])})  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match=r"cannot read .*train_0\.npz.*cannot identify image"):
        load_cifar100_stretched("train", limit=6)
    for content in (b"", b"PK\x03\x04 broken"):
        (small_cifar / "train_0.npz").write_bytes(content)
        with pytest.raises(NeurordlError, match=r"cannot read .*train_0\.npz"):
            load_cifar100_stretched("train", limit=6)


def test_names_that_do_not_exist(root: Path) -> None:
    with pytest.raises(NeurordlError, match="split='val': expected one of 'train', 'test'"):
        load_mnist("val")  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match="labels='super': expected one of 'coarse', 'fine'"):
        load_cifar100_stretched(labels="super")  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match="name='it': expected one of 'cichy_it', 'cichy_evc'"):
        load_images92_rdms("it")
    with pytest.raises(NeurordlError, match="limit=0: expected a whole number of at least 1"):
        load_cifar100_stretched(limit=0)


# The 92 images


def test_images92_must_be_the_known_ones(root: Path) -> None:
    folder = root / "images92" / "stimuli"
    folder.mkdir()
    for name in ("stim_001", "stim_003"):
        Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    (root / "images92" / "stimuli.tsv").write_text("id\tcategory\nstim_001\ta\nstim_003\tb\n")
    with pytest.raises(NeurordlError, match="must hold stim_001 to stim_092"):
        load_images92()


def small_rdms(path: Path, **change: Any) -> None:
    values = np.random.default_rng(0).random((15, 92, 92)).astype(np.float32)
    held = {"it": values + values.swapaxes(1, 2), "ids": np.array(IMAGES92_IDS)}
    np.savez(path / "images92/cichy2014_fmri.npz", **{**held, **change})


def test_rdms_keep_their_order_of_ids(root: Path) -> None:
    small_rdms(root, ids=np.array(IMAGES92_IDS[::-1]))
    rdms = load_images92_rdms("cichy_it")
    assert list(rdms.pattern_descriptors["stimulus"]) == list(IMAGES92_IDS[::-1])
    with np.load(root / "images92/cichy2014_fmri.npz") as held:
        assert (rdms.get_matrices() == held["it"] * (1 - np.eye(92))).all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"ids": np.array([*IMAGES92_IDS[:91], "stim_93"])}, "'stim_092'"),
        ({"ids": np.array([*IMAGES92_IDS[:91], "stim_091"])}, "must be unique"),
        ({"ids": np.array([name.upper() for name in IMAGES92_IDS])}, "differ only by letter case"),
        ({"it": np.zeros((15, 91, 91))}, "should be symmetric 92 x 92"),
        ({"it": np.arange(92 * 92.0).reshape(1, 92, 92)}, "should be symmetric"),
        ({"it": np.full((15, 92, 92), np.nan)}, "should be symmetric"),
    ],
)
def test_rdms_that_are_not_of_the_92_images(change: dict[str, Any], said: str, root: Path) -> None:
    small_rdms(root, **change)
    with pytest.raises(NeurordlError, match=said):
        load_images92_rdms("cichy_it")


# The real files


@real
def test_real_mnist() -> None:
    train, test = load_mnist(), load_mnist("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels is not None
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(float(train.images(slice(0, 60_000)).mean()) - 0.1307) < 1e-4  # the well-known mean


@real
def test_real_cifar100() -> None:
    part, test = (
        load_cifar100_stretched("train", labels="coarse", limit=1000),
        load_cifar100_stretched("test"),
    )
    assert part.ids[0] == "bos_taurus_s_000507.png"
    assert part.table.iloc[0].tolist() == ["cattle", "large_omnivores_and_herbivores", 11]
    assert part.pixels.flatten(1).amax(1).min() == 255  # stretched
    assert part.pixels.flatten(1).amin(1).max() == 0
    assert test.labels is not None
    assert test.labels.bincount().tolist() == [100] * 100


@real
def test_real_images92() -> None:
    stimuli = load_images92(size=32)
    assert stimuli.ids == IMAGES92_IDS
    assert stimuli.pixels.shape == (92, 3, 32, 32)
    categories = stimuli.table["category"].tolist()
    assert [len(set(categories[a:b])) for a, b in ((0, 12), (12, 24), (24, 36), (36, 48))] == [1, 1, 1, 1]
    train, held_out = stimuli.split(0.25, stratify="category")
    assert (len(train), len(held_out)) == (69, 23)
    assert load_images92().preprocessing.size == (175, 175)


@real
@pytest.mark.parametrize("which", IMAGES92_RDMS)
def test_real_rdms(which: str) -> None:
    rdms = load_images92_rdms(which)
    n, subjects = {"cichy_it": (15, 15), "cichy_evc": (15, 15), "human_it": (8, 4), "monkey_it": (1, 1)}[
        which
    ]
    assert rdms.dissimilarities.shape == (n, 4186)
    assert rdms.dissimilarity_measure == "correlation"
    assert tuple(rdms.pattern_descriptors["stimulus"]) == IMAGES92_IDS
    assert len(set(rdms.rdm_descriptors["subject"])) == subjects
    assert set(rdms.rdm_descriptors["roi"]) == {"EVC" if which == "cichy_evc" else "IT"}
    assert ("session" in rdms.rdm_descriptors) == (which == "human_it")
    assert np.isfinite(rdms.dissimilarities).all()
    assert rdms.dissimilarities.max() < 2


@real
def test_real_sessions_belong_to_their_subjects() -> None:
    rdms = load_images92_rdms("human_it")
    assert list(rdms.rdm_descriptors["subject"]) == ["BE", "BE", "KO", "KO", "SN", "SN", "TI", "TI"]
    with np.load(data_root() / "images92/kriegeskorte2008.npz") as held:
        known = held["human_it"][2, 1]  # SN, second session
    row = list(zip(rdms.rdm_descriptors["subject"], rdms.rdm_descriptors["session"], strict=True)).index(
        ("SN", "2")
    )
    assert np.allclose(rdms.get_matrices()[row], known)


def test_named_loaders() -> None:
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "images92"} < set(DATASETS)
    assert isinstance(DATASETS["digits"](), StimulusSet)


# Fashion-MNIST and the official CIFAR archives


def test_fashion_mnist_names_its_classes(small_mnist: Path, root: Path) -> None:
    with pytest.raises(NeurordlError, match="neurordl data fetch fashion_mnist"):
        load_fashion_mnist()
    small_mnist.rename(root / "fashion_mnist")
    stimuli = load_fashion_mnist(limit=12)
    assert stimuli.ids[0] == "fashion_mnist-train-00000"
    assert stimuli.table["name"].tolist()[8:] == ["Bag", "Ankle boot", "T-shirt/top", "Trouser"]


def archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def records(count: int, *highest: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels and images (height, width, channels) in CIFAR's binary layout, and the bytes of it."""
    rng = np.random.default_rng(count)
    labels = np.stack([rng.integers(0, n, count, dtype=np.uint8) for n in highest], axis=1)
    pixels = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return np.concatenate([labels, pixels.reshape(count, -1)], axis=1), pixels


@pytest.fixture
def small_archives(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loaders, "_CIFAR_COUNTS", {"train": 20, "test": 4})
    ten = {f"cifar-10-batches-bin/data_batch_{k}.bin": records(4, 10)[0].tobytes() for k in range(1, 6)}
    ten["cifar-10-batches-bin/batches.meta.txt"] = "\n".join("abcdefghij").encode() + b"\n\n"
    archive(root / "cifar10/cifar-10-binary.tar.gz", ten)
    hundred = {
        "cifar-100-binary/train.bin": records(20, 20, 100)[0].tobytes(),
        "cifar-100-binary/fine_label_names.txt": "\n".join(f"fine{k}" for k in range(100)).encode(),
        "cifar-100-binary/coarse_label_names.txt": "\n".join(f"coarse{k}" for k in range(20)).encode(),
    }
    archive(root / "cifar100/cifar-100-binary.tar.gz", hundred)
    return root


@pytest.mark.parametrize("limit", [None, 3, 4, 5])
def test_official_cifar(small_archives: Path, limit: int | None) -> None:
    stimuli = load_cifar10("train", limit=limit)
    held, pixels = records(4, 10)
    assert len(stimuli) == (limit or 20)
    assert (stimuli.pixels[:3].numpy() == pixels[:3]).all()
    assert stimuli.labels is not None
    assert stimuli.labels[:3].tolist() == held[:3, 0].tolist()
    assert stimuli.table["name"].tolist()[:3] == ["abcdefghij"[k] for k in held[:3, 0]]
    assert stimuli.ids[1] == "cifar10-train-00001"
    held, pixels = records(20, 20, 100)
    for place, kind in enumerate(("coarse", "fine")):
        stimuli = load_cifar100("train", labels=kind, limit=limit)  # type: ignore[arg-type]
        assert (stimuli.pixels.numpy() == pixels[:limit]).all()
        assert stimuli.labels is not None
        assert stimuli.labels.tolist() == held[:limit, place].tolist()
        assert stimuli.table[kind].tolist() == [f"{kind}{k}" for k in held[:limit, place]]


def test_damaged_archives(small_archives: Path) -> None:
    path = small_archives / "cifar10/cifar-10-binary.tar.gz"
    with pytest.raises(NeurordlError, match=r"cannot read .*test_batch"):
        load_cifar10("test")
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(NeurordlError, match=r"cannot read .*cifar-10-binary\.tar\.gz|cut short"):
            load_cifar10()
    short = {f"cifar-10-batches-bin/data_batch_{k}.bin": bytes(3073) for k in range(1, 6)}
    archive(path, short)
    with pytest.raises(NeurordlError, match="has 3073 bytes, expected 12292"):
        load_cifar10()
    archive(
        path,
        {
            "cifar-10-batches-bin/data_batch_1.bin": b"\xff" * 4 * 3073,
            **{"cifar-10-batches-bin/batches.meta.txt": b"a b c"},
        },
    )
    with pytest.raises(NeurordlError, match="it has 3 of 10 classes"):
        load_cifar10(limit=2)
    members = {
        "cifar-10-batches-bin/data_batch_1.bin": b"\xff" * 4 * 3073,
        "cifar-10-batches-bin/batches.meta.txt": b"a b c d e f g h i j",
    }
    archive(path, members)
    with pytest.raises(NeurordlError, match="a label 255"):
        load_cifar10(limit=2)


# Brain data


def supplement(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The paper's supplement in small: its struct arrays, with random content."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (92, 175, 175, 3), dtype=np.uint8)
    fields = ("category", "human", "face", "animal", "natural", "image")
    structs = np.empty((1, 92), dtype=[(name, object) for name in fields])
    for k in range(92):
        structs[0, k] = ("animal face", *np.eye(4, dtype=np.uint8)[k % 4], pixels[k])
    rdms = np.empty((1, 2), dtype=[("name", object), ("RDM", object)])
    vectors = rng.random((2, 4186))
    for k, name in enumerate(("hITvisStim_316vx", "mIT_674neurons")):  # found by name, wherever it is
        rdms[0, k] = (name, vectors[k : k + 1])
    scipy.io.savemat(path, {"stimuli_92objs": structs, "RDMs_mIT_hIT_fig1": rdms})
    return pixels, vectors


def test_images92_from_the_official_files(root: Path) -> None:
    folder = root / "images92"
    with pytest.raises(NeurordlError, match="neurordl data fetch images92"):
        load_images92()
    with pytest.raises(NeurordlError, match="neurordl data fetch cichy2014"):
        load_images92_rdms("cichy_it")
    pixels, vectors = supplement(folder / "Kriegeskorte_Neuron2008_supplementalData.mat")
    stimuli = load_images92()
    assert stimuli.ids == IMAGES92_IDS
    assert (stimuli.pixels.permute(0, 2, 3, 1).numpy() == pixels).all()
    assert stimuli.table["face"].tolist()[:3] == [0, 1, 0]
    assert (load_images92_rdms("monkey_it").dissimilarities == vectors[1:]).all()
    structs = np.empty((1, 2, 2), dtype=[("RDM", object), ("name", object)])
    for place, (who, session) in zip(
        np.ndindex(1, 2, 2), [("KO", 1), ("KO", 2), ("BE", 1), ("BE", 2)], strict=True
    ):
        structs[place] = (squareform(vectors[0]) * session, f"hIT | {who} | Session: {session}")
    scipy.io.savemat(folder / "92_brainRDMs.mat", {"RDMs": structs})
    human = load_images92_rdms("human_it")
    assert list(human.rdm_descriptors["subject"]) == ["BE", "BE", "KO", "KO"]
    assert list(human.rdm_descriptors["session"]) == ["1", "2", "1", "2"]
    assert list(human.rdm_descriptors["roi"]) == ["IT"] * 4
    assert np.allclose(human.dissimilarities, vectors[0] * np.array([[1, 2, 1, 2]]).T)
    found = load_brain("images92", size=16)
    assert found.stimuli.ids == tuple(found.rdms.pattern_descriptors["stimulus"]) == tuple(found.labels.index)
    matrices = np.stack([squareform(vectors[0])] * 15)
    for area in ("EVC", "IT"):
        content = json.dumps({"data": matrices.ravel().tolist(), "shape": [15, 92, 92]})
        (folder / f"92images_fmri_{area}_RDMs.gzip").write_bytes(gzip.compress(content.encode()))
    both = load_brain("cichy2014", size=16)
    assert both.rdms.rdm_descriptors["roi"] == ["EVC"] * 15 + ["IT"] * 15
    assert both.rdms.rdm_descriptors["subject"][14:16] == ["cichy15", "cichy01"]
    assert "92 of the 92 ids" in str(both.report)
    with pytest.raises(NeurordlError, match="name='haxby': expected one of 'images92'"):
        load_brain("haxby")


def test_official_files_that_are_damaged(root: Path) -> None:
    folder = root / "images92"
    for content in (
        b"",
        gzip.compress(b"{}"),
        gzip.compress(b"[" * 100_000),
        gzip.compress(b'{"data": [1]}'),
    ):
        (folder / "92images_fmri_IT_RDMs.gzip").write_bytes(content)
        with pytest.raises(NeurordlError, match=r"cannot read .*92images_fmri_IT_RDMs\.gzip"):
            load_images92_rdms("cichy_it")
    scipy.io.savemat(folder / "Kriegeskorte_Neuron2008_supplementalData.mat", {"x": 1})
    with pytest.raises(NeurordlError, match=r"supplementalData.*it is damaged.*stimuli_92objs"):
        load_images92()


def test_haxby_through_nilearn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nibabel
    import nilearn.datasets

    bold, labels = root / "bold.nii.gz", root / "labels.txt"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2, 3), dtype=np.float32), np.eye(4)), bold)
    labels.write_text("labels chunks\nrest 0\nface 0\nhouse 1\n")
    given: dict[str, Any] = {}

    def fetch(**arguments: Any) -> Any:
        given.update(arguments)
        return Bunch(
            func=[str(bold)],
            session_target=[str(labels)],
            mask=str(root / "mask.nii.gz"),
            mask_vt=[str(root / "vt.nii.gz")],
        )

    monkeypatch.setattr(nilearn.datasets, "fetch_haxby", fetch)
    found = load_haxby2001(3)
    assert (given["data_dir"], given["subjects"]) == (str(root), [3])
    assert found.labels["stimulus"].tolist() == ["rest", "face", "house"]
    assert found.labels["run"].tolist() == [0, 0, 1]
    assert (found.bold, found.tr, set(found.masks)) == (bold, 2.5, {"brain", "vt"})
    values = np.random.default_rng(0).random((2, 2, 2, 3))
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), bold)
    volumes = read_betas(found.bold, found.labels).subset_obs("stimulus", ["face", "house"])
    assert list(volumes.obs_descriptors["run"]) == [0, 1]
    np.testing.assert_allclose(volumes.measurements, values[..., 1:].reshape(8, 2).T)
    labels.write_text("labels chunks\nrest 0\n")
    with pytest.raises(NeurordlError, match="3 volumes, but 1 labels"):
        load_haxby2001()
    with pytest.raises(NeurordlError, match="subject=7: expected one of 1, 2, 3"):
        load_haxby2001(7)

    def refuse(**_: Any) -> Any:
        raise OSError("no route")

    monkeypatch.setattr(nilearn.datasets, "fetch_haxby", refuse)
    with pytest.raises(NeurordlError, match="nilearn could not fetch haxby2001: no route"):
        load_haxby2001()


@real
@pytest.mark.parametrize("name", ["images92", "cichy2014"])
def test_real_brain_data(name: str) -> None:
    found = load_brain(name, size=32)
    assert found.stimuli.ids == tuple(found.rdms.pattern_descriptors["stimulus"]) == IMAGES92_IDS
    assert tuple(found.labels.index) == IMAGES92_IDS
    assert found.rdms.n_rdm == (8 if name == "images92" else 30)


@real
def test_real_haxby_slice() -> None:
    found = load_haxby2001_slice()
    assert (len(found.bold), len(found.events), found.tr) == (12, 12, 2.5)
    assert [path.name.split("_")[2] for path in found.events] == [f"run-{run:02d}" for run in range(1, 13)]


def test_haxby_slice_that_is_not_there(root: Path) -> None:
    with pytest.raises(NeurordlError, match=r"haxby2001_slice is not on this machine: .*NEURORDL_DATA"):
        load_haxby2001_slice()
