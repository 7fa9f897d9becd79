"""Comparisons against rsatoolbox and dense formulas; missing pairs, weights, gradients; what is undefined."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Iterator

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.rdm import RDMs, compare
from rsatoolbox.util.matrix import pairwise_contrast
from scipy.stats import pearsonr
from torch import Tensor
from torch.autograd import gradcheck

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import (
    COMPARISONS,
    cka,
    corr,
    corr_cov,
    cosine,
    cosine_cov,
    find_comparison,
    find_similarity,
    huber,
    mse,
)
from neurordl.measures.condensed import condensed_index, n_stimuli, square
from neurordl.measures.dissimilarities import euclidean
from neurordl.measures.kernels import compiled_ranks

TRAINABLE = [name for name, entry in COMPARISONS.items() if entry.differentiable]
WEIGHTED = [name for name, entry in COMPARISONS.items() if entry.weighted]
WITH_MISSING = [name for name in TRAINABLE if not COMPARISONS[name].complete]
SIMILARITIES = ["corr", "cosine", "corr_cov", "cosine_cov", "cka"]
RANKS = ["spearman", "rho-a", "tau-a", "tau-b"]
WITHOUT_GRADIENT = [*RANKS, "bures", "neg_riem_dist"]


def function(name: str):
    found = COMPARISONS[name].function
    assert found is not None
    return found


def dense(name: str, a: np.ndarray, b: np.ndarray, w: np.ndarray) -> float:
    """The definition in float64 with full matrices, over the pairs of weight > 0."""
    n = n_stimuli(len(a))
    kept = (w > 0) & np.isfinite(a) & np.isfinite(b)
    if name == "cka":
        centring = np.eye(n) - 1 / n
        left, right = (-centring @ square(torch.tensor(x)).numpy() @ centring / 2 for x in (a, b))
        return float((left * right).sum() / np.linalg.norm(left) / np.linalg.norm(right))
    contrast = pairwise_contrast(np.arange(n))
    v = (contrast @ contrast.T) ** 2
    a, b, w = a[kept], b[kept], w[kept]
    share = w / w.sum()
    if name == "mse":
        return float(share @ (a - b) ** 2)
    if name == "huber":
        gap = np.abs(a / (share @ a) - b / (share @ b))
        return float(share @ np.where(gap < 1, gap**2 / 2, gap - 0.5))
    if name.startswith("corr"):
        a, b = a - share @ a, b - share @ b
    inner = np.linalg.inv(v[kept][:, kept]) if name.endswith("cov") else np.diag(w)
    return float(a @ inner @ b / np.sqrt(a @ inner @ a) / np.sqrt(b @ inner @ b))


def pair_of_rdms(kind: str, n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    p = n * (n - 1) // 2
    a, b = rng.random((2, p))
    if kind == "tied":
        a, b = (a * 3).round() + 1, (b * 2).round() + 1
    if kind == "offset":
        a, b = a + 1e4, b + 1e4
    if kind == "scaled":
        a, b = a * 1e-9, b * 1e9
    if kind == "signed":  # crossnobis
        a, b = a - 0.2, b - 0.2
    return a, b


@pytest.mark.parametrize("n", [4, 8])
@pytest.mark.parametrize("kind", ["random", "tied", "offset", "scaled", "signed"])
@pytest.mark.parametrize("name", TRAINABLE)
def test_equals_the_dense_formula(name: str, kind: str, n: int) -> None:
    a, b = pair_of_rdms(kind, n)
    expected = dense(name, a, b, np.ones(len(a)))
    found = float(function(name)(torch.tensor(a), torch.tensor(b), torch.ones(len(a))))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)
    assert float(function(name)(torch.tensor(a), torch.tensor(b))) == found  # weights may be left out


@pytest.mark.parametrize("kind", ["random", "tied", "signed"])
@pytest.mark.parametrize("name", ["corr", "cosine", "corr_cov", "cosine_cov"])
def test_equals_rsatoolbox(name: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 36)), rng.random((4, 36))
    if kind == "tied":
        a, b = (a * 3).round(), (b * 3).round()
    if kind == "signed":
        a, b = a - 0.5, b - 0.5
    missing = rng.random(36) < 0.3
    for lacking in (False, True):
        if lacking:
            a[:, missing] = b[:, missing] = np.nan
        theirs = compare(RDMs(a.copy()), RDMs(b.copy()), method=name)
        ours = function(name)(torch.tensor(a)[:, None], torch.tensor(b)[None])
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-10)


def test_a_complete_whitened_cosine_is_cka() -> None:
    a, b = (torch.tensor(x) for x in pair_of_rdms("random"))
    assert float(cka(a, b)) == pytest.approx(float(cosine_cov(a, b)), abs=1e-12)


def test_cka_is_that_of_the_patterns() -> None:
    x, y = torch.randn(9, 20, dtype=torch.float64), torch.randn(9, 30, dtype=torch.float64)
    left, right = ((z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y))
    expected = (left * right).sum() / left.norm() / right.norm()
    torch.testing.assert_close(cka(euclidean(x), euclidean(y)), expected)


def masked(seed: int = 0, p: int = 36) -> tuple[Tensor, Tensor, Tensor]:
    """RDMs with NaN where missing, and 0/1 weights of which some are 0 where values are there."""
    rng = np.random.default_rng(seed)
    a, b = torch.tensor(rng.random((2, p)))
    weights = torch.tensor((rng.random(p) < 0.7).astype(float))
    a[weights == 0] = torch.nan
    a[3], b[5] = torch.nan, torch.inf
    return a, b, weights


@pytest.mark.parametrize("name", WITH_MISSING)
def test_missing_pairs_reach_neither_value_nor_gradient(name: str) -> None:
    a, b, weights = masked()
    a.requires_grad_(), b.requires_grad_()
    found = function(name)(a, b, weights)
    assert found.item() == pytest.approx(
        dense(name, *(x.detach().numpy() for x in (a, b, weights))), abs=1e-10
    )
    found.backward()
    kept = (weights > 0) & a.detach().isfinite() & b.detach().isfinite()
    for gradient in (a.grad, b.grad):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert (gradient[~kept] == 0).all()
        assert (gradient[kept] != 0).any()
    again = function(name)(torch.where(kept, a, 1e30), torch.where(kept, b, -7.0), kept.double())
    assert again.item() == found.item()


@pytest.mark.parametrize("name", WEIGHTED)
def test_pair_weights(name: str) -> None:
    a, b, weights = masked(1)
    weights = weights * torch.rand(36, dtype=torch.float64)
    found = float(function(name)(a, b, weights))
    assert found == pytest.approx(dense(name, *(x.numpy() for x in (a, b, weights))), abs=1e-10)
    assert float(function(name)(a, b, weights * 1e-6)) == pytest.approx(found, abs=1e-12)
    # a weight of 2 is the pair twice
    whole = torch.randint(0, 3, (36,), dtype=torch.float64)
    whole = torch.where(a.isfinite() & b.isfinite(), whole, 0)
    times = whole.long()
    repeated = function(name)(a.repeat_interleave(times), b.repeat_interleave(times))
    assert float(function(name)(a, b, whole)) == pytest.approx(float(repeated), abs=1e-10)


def test_weighted_corr_equals_scipy_where_weights_are_equal() -> None:
    a, b = pair_of_rdms("random")
    found = float(corr(torch.tensor(a), torch.tensor(b), torch.full((28,), 0.3)))
    assert found == pytest.approx(pearsonr(a, b)[0], abs=1e-7)


@pytest.mark.parametrize("name", ["cosine_cov", "corr_cov", "cka"])
def test_fractional_weights_are_refused_where_they_mean_nothing(name: str) -> None:
    a, b = (torch.tensor(x) for x in pair_of_rdms("random"))
    with pytest.raises(NeurordlError, match="corr"):
        function(name)(a, b, torch.full((28,), 0.5))


def test_cka_refuses_missing_pairs() -> None:
    a, b = (torch.tensor(x) for x in pair_of_rdms("random"))
    weights = torch.ones(28)
    weights[3] = 0
    lacking = a.clone()
    lacking[3] = torch.nan
    for given_ in ((a, b, weights), (lacking, b, torch.ones(28)), (b, lacking, None)):
        with pytest.raises(NeurordlError, match="complete"):
            cka(*given_)


@pytest.mark.parametrize("name", TRAINABLE)
def test_shapes_broadcast(name: str) -> None:
    models, data = torch.rand(3, 15, dtype=torch.float64), torch.rand(2, 15, dtype=torch.float64)
    weights = torch.ones(2, 15, dtype=torch.float64)
    if not COMPARISONS[name].complete:
        weights[1, [2, 9]] = 0
    found = function(name)(models[:, None], data[None], weights)
    assert found.shape == (3, 2)
    for i in range(3):
        for j in range(2):
            torch.testing.assert_close(found[i, j], function(name)(models[i], data[j], weights[j]))
    assert function(name)(models[0], data, weights).shape == (2,)
    assert function(name)(models[0], data[0], weights).shape == (2,)


# gradients


@pytest.mark.parametrize(
    ("name", "missing"), [(name, False) for name in TRAINABLE] + [(name, True) for name in WITH_MISSING]
)
def test_gradient(name: str, missing: bool) -> None:
    a, b = (torch.rand(2, 15, dtype=torch.float64).add_(0.1).requires_grad_() for _ in range(2))
    weights = torch.ones(2, 15, dtype=torch.float64)
    if missing:
        weights = (torch.rand(2, 15) < 0.7).double()
    assert gradcheck(lambda a, b: function(name)(a, b, weights), (a, b))
    if COMPARISONS[name].weighted:
        fractions = weights * torch.rand(2, 15, dtype=torch.float64)
        assert gradcheck(lambda a, b: function(name)(a, b, fractions), (a, b))


@pytest.mark.parametrize("name", TRAINABLE)
def test_the_gradient_moves_the_student_towards_the_teacher(name: str) -> None:
    student, teacher = torch.randn(8, 6), torch.rand(28) + 0.5
    student.requires_grad_()
    loss = find_comparison(name).loss
    before = loss(euclidean(student), teacher, torch.ones(28))
    (gradient,) = torch.autograd.grad(before, student)
    assert (gradient != 0).any()
    after = loss(euclidean(student - 0.01 * gradient / gradient.norm()), teacher, torch.ones(28))
    assert after.item() < before.item()


UNDEFINED = {
    "constant": (["corr", "corr_cov"], torch.full((15,), 0.1)),
    "large constant": (["corr", "corr_cov"], torch.full((15,), 1e7 / 3)),
    "zero": (["corr", "corr_cov", "cosine", "cosine_cov", "cka", "huber"], torch.zeros(15)),
    "negative mean": (["huber"], torch.linspace(-2, 1, 15)),
    "missing": (WITH_MISSING, torch.full((15,), torch.nan)),
}


@pytest.mark.parametrize("case", UNDEFINED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_undefined_is_nan_without_a_gradient(case: str, dtype: torch.dtype) -> None:
    names, bad = UNDEFINED[case]
    for name in names:
        a = torch.rand(3, 15, dtype=dtype)
        a[1] = bad.to(dtype)
        b = torch.rand(15, dtype=dtype)
        for swapped in (False, True):
            x, y = a.clone().requires_grad_(), b.clone().requires_grad_()
            found = function(name)(y, x) if swapped else function(name)(x, y)
            assert found.isnan().tolist() == [False, True, False], name
            found.nansum().backward()
            assert x.grad is not None
            assert y.grad is not None
            assert (x.grad[1] == 0).all()
            assert (x.grad[[0, 2]] != 0).any()
            assert y.grad.isfinite().all()


def test_a_nan_value_passed_on_gives_no_gradient_either() -> None:
    a = torch.zeros(15, requires_grad=True)
    for name in SIMILARITIES:
        function(name)(a, torch.rand(15)).backward()
        assert a.grad is not None
        assert (a.grad == 0).all()


def test_one_pair() -> None:
    a, b = torch.tensor([2.0]), torch.tensor([4.0])
    assert float(mse(a, b)) == 4
    assert float(huber(a, b)) == 0
    assert [float(f(a, b)) for f in (cosine, cosine_cov, cka)] == pytest.approx([1, 1, 1])
    assert math.isnan(corr(a, b))
    assert math.isnan(corr_cov(a, b))


def test_no_pair() -> None:
    nothing = torch.zeros(2, 0)
    for name in TRAINABLE:
        assert function(name)(nothing, nothing).isnan().tolist() == [True, True]


@pytest.mark.parametrize("name", TRAINABLE)
def test_tiny_and_huge_values_in_float32(name: str) -> None:
    a, b = torch.rand(28), torch.rand(28)
    expected = float(function(name)(a, b))
    for scale in (1e-25, 1e25):
        found = float(function(name)(a * scale, b * (1 if name != "mse" else scale)))
        if name == "mse":
            assert found == pytest.approx(expected * scale**2) or not 1e-38 < expected * scale**2 < 1e38
        else:
            assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", TRAINABLE)
def test_float32_agrees_with_float64(name: str) -> None:
    a, b = torch.rand(4950, dtype=torch.float64) + 1, torch.rand(4950, dtype=torch.float64) + 1
    found = function(name)(a.float(), b.float())
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(function(name)(a, b)), abs=2e-6)
    assert function(name)(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    assert function(name)(a.float(), b).dtype == torch.float64


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", TRAINABLE)
@pytest.mark.usefixtures("deterministic")
def test_the_same_bits_from_run_to_run(name: str) -> None:
    a, b = torch.rand(1225), torch.rand(1225)
    gradients = []
    for _ in range(3):
        x = a.clone().requires_grad_()
        function(name)(x, b).backward()
        gradients.append(x.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


# properties


@given(
    n=st.integers(4, 9),
    seed=st.integers(0, 2**16),
    levels=st.sampled_from([None, 3]),
    share=st.sampled_from([0.0, 0.3]),
    name=st.sampled_from(TRAINABLE),
)
def test_symmetric_and_blind_to_the_order_of_stimuli(
    n: int, seed: int, levels: int | None, share: float, name: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, n * (n - 1) // 2, generator=generator, dtype=torch.float64)
    if levels is not None:
        a, b = (a * levels).round(), (b * levels).round()
    weights = (torch.rand(len(a), generator=generator) >= share).double()
    if COMPARISONS[name].complete:
        weights = torch.ones_like(weights)
    found = function(name)(a, b, weights)
    torch.testing.assert_close(function(name)(b, a, weights), found, equal_nan=True)
    order = torch.randperm(n, generator=generator)
    i, j = condensed_index(n)
    moved = (square(x)[order[i], order[j]] for x in (a, b, weights))
    torch.testing.assert_close(function(name)(*moved), found, equal_nan=True, rtol=1e-9, atol=1e-12)
    if name in SIMILARITIES and not found.isnan():
        assert abs(float(found)) <= 1 + 1e-12
    if not function(name)(a, a, weights).isnan():
        best = 1.0 if COMPARISONS[name].higher_is_better else 0.0
        assert float(function(name)(a, a, weights)) == pytest.approx(best, abs=1e-12)


@given(seed=st.integers(0, 2**16), scale=st.floats(1e-3, 1e3), name=st.sampled_from([*SIMILARITIES, "huber"]))
def test_blind_to_scale(seed: int, scale: float, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 21, generator=generator, dtype=torch.float64) + 0.1
    torch.testing.assert_close(function(name)(a * scale, b), function(name)(a, b), rtol=1e-9, atol=1e-11)


# names and bad input


def test_the_table_of_comparisons() -> None:
    assert set(COMPARISONS) == {*SIMILARITIES, "mse", "huber", *WITHOUT_GRADIENT}
    for name, entry in COMPARISONS.items():
        assert find_comparison(name) is entry
        assert entry.name == name
        assert entry.differentiable is (entry.function is not None) is (name not in WITHOUT_GRADIENT)
        assert entry.higher_is_better is (name not in ("mse", "huber"))
        assert entry.complete is (name in ("cka", "bures", "neg_riem_dist"))
    assert WEIGHTED == ["mse", "corr", "cosine", "huber"]
    with pytest.raises(NeurordlError, match=r"'pearson'.*'mse', 'corr', 'cosine'.*'tau-b'"):
        find_comparison("pearson")


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_measures_without_a_gradient_are_no_loss(name: str) -> None:
    with pytest.raises(NeurordlError, match=rf"{name} .*no gradient.*mse, corr, .*huber"):
        _ = find_comparison(name).loss


def test_a_loss_is_to_be_made_small() -> None:
    a, b = (torch.tensor(x) for x in pair_of_rdms("random"))
    weights = torch.ones(28)
    for name in SIMILARITIES:
        expected = 1 - function(name)(a, b, weights)
        assert torch.equal(find_comparison(name).loss(a, b, weights), expected)
        assert torch.equal(find_comparison(function(name)).loss(a, b, weights), expected)
    assert find_comparison("mse").loss is mse
    assert find_comparison(huber).loss is huber
    own = lambda a, b, weights: (a - b).abs().mean(-1)  # noqa: E731
    assert find_comparison(own, higher_is_better=False).loss is own
    with pytest.raises(NeurordlError, match="'l1'"):
        find_comparison("l1")
    with pytest.raises(NeurordlError, match=r"expected one of 'corr', (?!.*huber).*; did you mean 'corr'\?"):
        find_similarity("pearson")


def test_bad_shapes_and_weights() -> None:
    a = torch.rand(15)
    for other in (torch.rand(10), torch.tensor(1.0), torch.rand(15, 1)):
        with pytest.raises(NeurordlError, match=r"\(15,\)"):
            corr(a, other)
    with pytest.raises(NeurordlError, match=r"\(10,\)"):
        corr(a, a, torch.ones(10))
    for wrong in (-1.0, torch.nan, torch.inf):
        weights = torch.ones(15)
        weights[0] = wrong
        with pytest.raises(NeurordlError, match="not negative"):
            corr(a, a, weights)
    with pytest.raises(NeurordlError, match="not 14"):
        corr_cov(a[:14], a[:14])


def test_compiling_is_announced_once_and_only_where_it_happens(tmp_path, monkeypatch, capsys) -> None:
    path = tmp_path / "probe.py"
    path.write_text(
        "from neurordl.measures.kernels.compiled_ranks import compiled\n"
        "first = compiled(lambda x: x + 1)\nsecond = compiled(lambda x: x + 2)\n"
    )

    def written(name: str) -> str:
        """What is written if both functions of a new module are called."""
        monkeypatch.setattr(compiled_ranks._ANNOUNCEMENT, "announced", False)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert (module.first(1), module.second(1)) == (2, 3)
        return capsys.readouterr().err

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")  # beside the module
    name = "neurordl.measures.kernels.probe"
    assert written("other") == ""
    shutil.rmtree(tmp_path / "__pycache__")
    text = written(name)
    assert text.startswith("comparisons by rank are compiled for this machine")
    assert text.count("\n") == 1
    assert written(name) == ""  # out of the cache
