"""Images are known again whatever their id, also changed a little; images that are merely alike are not."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from neurordl.datasets import load_digits
from neurordl.stimuli.fingerprints import decoded, differ, encoded, find_copies, fingerprints


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def scenes(n: int = 40, size: int = 48, seed: int = 0) -> Tensor:
    """Images with structure at all scales and some color, uint8."""
    rng = np.random.default_rng(seed)
    images = sum(
        interpolate(torch.tensor(rng.random((n, 3, k, k))), size=(size, size), mode="bilinear")
        for k in (2, 4, 8, 16)
    )
    return (images * 63.75).to(torch.uint8)


def as_jpeg(pixels: Tensor) -> Tensor:
    changed = []
    for image in pixels:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=90)
        changed.append(torch.tensor(np.asarray(Image.open(file))).permute(2, 0, 1))
    return torch.stack(changed)


def resized(pixels: Tensor) -> Tensor:
    small = interpolate(pixels.float(), size=(36, 36), mode="bilinear", antialias=True)
    return interpolate(small, size=pixels.shape[2:], mode="bilinear").to(torch.uint8)


NEARLY: dict[str, Callable[[Tensor], Tensor]] = {
    "JPEG": as_jpeg,
    "another size": resized,
    "a resize that is kept": lambda x: interpolate(x.float(), size=36, mode="area"),
    "darker": lambda x: (0.8 * x).to(torch.uint8),
    "less contrast": lambda x: (0.7 * x + 30).to(torch.uint8),
    "noise": lambda x: (x + 3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 255
    ),
    "floats": lambda x: x / 255,
    "standardized": lambda x: x / 128 - 1,
}


@pytest.mark.parametrize("change", NEARLY)
def test_an_image_that_was_changed_a_little_is_nearly_a_copy(change: str) -> None:
    images = scenes()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    copies = find_copies(fingerprints(NEARLY[change](images)[order]), fingerprints(images))
    assert copies.row.tolist() == order.tolist()
    assert not copies.identical.any()


def test_an_identical_image_is_known_even_if_it_is_uniform() -> None:
    images = torch.cat([scenes(5), torch.full((1, 3, 48, 48), 90, dtype=torch.uint8)])
    copies = find_copies(fingerprints(images.flip(0)), fingerprints(images))
    assert copies.row.tolist() == [5, 4, 3, 2, 1, 0]
    assert copies.identical.all()


OTHERS: dict[str, Callable[[], Tensor]] = {
    "digits of 10 classes": lambda: load_digits().pixels,
    "digits of one class": lambda: load_digits().pixels[load_digits().labels == 1],
    "scenes": lambda: scenes(200),
    "mirrored": lambda: torch.cat([scenes(), scenes().flip(3)]),
    "uniform": lambda: torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 1, 8, 8),
    "nearly uniform": lambda: (
        torch.arange(64).view(1, 1, 8, 8) // 63 + torch.arange(40).view(-1, 1, 1, 1)
    ).to(torch.uint8),
    "noise": lambda: torch.rand(400, 1, 8, 8, generator=seeded()),
}


@pytest.mark.parametrize("source", OTHERS)
def test_different_images_are_no_copies(source: str) -> None:
    prints = fingerprints(OTHERS[source]())
    half = len(prints) // 2
    assert (find_copies(prints[:half], prints[half:]).row == -1).all()


def test_a_text_holds_fingerprints_and_a_large_set_has_checksums_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = scenes(6)
    prints = fingerprints(images)
    assert prints.shape == (6, 108)
    np.testing.assert_array_equal(decoded(encoded(prints), 6), prints)
    monkeypatch.setattr("neurordl.stimuli.fingerprints._MOST", 5)
    short = fingerprints(images)
    np.testing.assert_array_equal(short, prints[:, :8])
    for pair in ((short, prints), (prints, short), (short, short)):
        assert find_copies(*pair).row.tolist() == list(range(6))
        assert not differ(*pair).any()
        assert differ(pair[0], pair[1][::-1]).all()


def test_images_with_one_id_differ_unless_they_are_alike() -> None:
    images = scenes(10)
    assert not differ(fingerprints(images), fingerprints(as_jpeg(images))).any()
    assert differ(fingerprints(images), fingerprints(scenes(10, seed=9))).all()
