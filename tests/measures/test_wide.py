"""Few patterns with very many channels: the same distances, whatever the block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurordl.measures.dissimilarities import DISSIMILARITIES
from neurordl.measures.kernels import distances
from tests.measures.test_dissimilarities import INPUTS, loop

NAMES = ("euclidean", "correlation", "cosine")


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take small patterns for wide ones, and cut them into blocks of 5 channels."""
    monkeypatch.setattr(distances, "WIDE", 1)
    monkeypatch.setattr(distances, "_WIDE_CHANNELS", 5)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_plain_loop(name: str, kind: str, narrow: None) -> None:
    x = INPUTS[kind]
    found = DISSIMILARITIES[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, loop(name, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_undefined_is_the_same_and_touches_nothing_else(name: str, narrow: None) -> None:
    x = torch.tensor(INPUTS["random"])
    x[1], x[3], x[5, 2], x[7, 0] = 0.3, 0.0, torch.nan, torch.inf
    narrow_values = DISSIMILARITIES[name](x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "WIDE", 1 << 40)
        plain = DISSIMILARITIES[name](x)
    assert narrow_values.isnan().any()
    torch.testing.assert_close(narrow_values, plain, equal_nan=True, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_float32_comes_out_as_float64_would(name: str) -> None:
    gray = torch.full((5, 60_000), 7.3)
    patterns = torch.cat([gray, 20 * torch.rand(5, 9_000, generator=torch.Generator().manual_seed(0))], -1)
    assert patterns.shape[1] > distances.WIDE
    found = DISSIMILARITIES[name](patterns)
    assert found.dtype == torch.float32
    exact = DISSIMILARITIES[name](patterns.double().requires_grad_()).detach()  # by the path with gradient
    torch.testing.assert_close(found.double(), exact, rtol=2e-7, atol=1e-9)
