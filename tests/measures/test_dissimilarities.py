"""Dissimilarities against rsatoolbox, scipy and a plain loop; gradients; what is undefined; precision."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import calc_rdm
from scipy.spatial.distance import pdist, squareform
from torch import Tensor
from torch.autograd import gradcheck

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import condensed_index, n_stimuli, square
from neurordl.measures.dissimilarities import (
    DISSIMILARITIES,
    Dissimilarity,
    correlation,
    cosine,
    crossnobis,
    dissimilarity_from_text,
    euclidean,
    euclidean_root,
    find_dissimilarity,
    mahalanobis,
    poisson_cv,
)
from neurordl.measures.kernels.distances import squared_distances, whiten

PLAIN = ("euclidean", "euclidean_root", "correlation", "cosine")
NORMALISED = ("correlation", "cosine")


def loop(name: str, patterns: np.ndarray) -> np.ndarray:
    """The definition, pair by pair, in float64."""

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        if name == "euclidean":
            return float(((a - b) ** 2).sum() / len(a))
        if name == "euclidean_root":
            return float(np.sqrt(((a - b) ** 2).sum() / len(a)))
        if name == "correlation":
            a, b = a - a.mean(), b - b.mean()
        # half the squared distance of the unit vectors: 1 - cosine, but exact for near duplicates
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        return float(((a - b) ** 2).sum() / 2)

    patterns = patterns.astype(np.float64)
    n = len(patterns)
    return np.array([distance(patterns[i], patterns[j]) for i in range(n) for j in range(i + 1, n)])


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    random = rng.standard_normal((9, 14))
    duplicate = random.copy()
    duplicate[[4, 7]] = duplicate[2]
    near = random.copy()
    near[5] = near[3] + 1e-6 * rng.standard_normal(14)
    return {
        "random": random,
        "tied": rng.integers(0, 3, (9, 14)).astype(float),
        "offset": random + 1e4,
        "row offsets": random + 1e3 * rng.standard_normal((9, 1)),
        "scaled rows": random * 10.0 ** np.arange(-4, 5)[:, None],
        "duplicate": duplicate,
        "near": near,
        "two": random[:2],
        "three": random[:3],
        "two channels": random[:, :2],
    }


INPUTS = inputs()


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("name", PLAIN)
def test_equals_the_plain_loop(name: str, kind: str) -> None:
    x = INPUTS[kind]
    found = DISSIMILARITIES[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(found, loop(name, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["random", "tied", "duplicate", "two", "three", "two channels"])
def test_equals_scipy_and_rsatoolbox(kind: str) -> None:
    x = INPUTS[kind]
    channels = x.shape[1]
    expected = {
        "euclidean": pdist(x, "sqeuclidean") / channels,
        "euclidean_root": pdist(x, "euclidean") / np.sqrt(channels),
        "correlation": pdist(x, "correlation"),
        "cosine": pdist(x, "cosine"),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(DISSIMILARITIES[name](torch.tensor(x)).numpy(), values, rtol=0, atol=1e-10)
    for name in ("euclidean", "correlation"):
        values = calc_rdm(Dataset(x.copy()), method=name).dissimilarities[0]
        np.testing.assert_allclose(DISSIMILARITIES[name](torch.tensor(x)).numpy(), values, rtol=0, atol=1e-10)


def spd(channels: int, seed: int = 3) -> np.ndarray:
    half = np.random.default_rng(seed).standard_normal((channels, channels + 4))
    return half @ half.T / channels


@pytest.mark.parametrize("kind", ["random", "tied", "offset", "duplicate", "two", "two channels"])
def test_mahalanobis_equals_scipy_and_rsatoolbox(kind: str) -> None:
    x = INPUTS[kind]
    precision = spd(x.shape[1])
    found = mahalanobis(torch.tensor(x), torch.tensor(precision)).numpy()
    scipys = pdist(x, "mahalanobis", VI=precision) ** 2 / x.shape[1]
    np.testing.assert_allclose(found, scipys, rtol=1e-9, atol=1e-10)
    if kind != "offset":  # rsatoolbox does not centre: it is off by 1e-7 there
        theirs = calc_rdm(Dataset(x.copy()), method="mahalanobis", noise=precision).dissimilarities[0]
        np.testing.assert_allclose(found, theirs, rtol=0, atol=1e-10)


def test_a_semidefinite_precision_is_factored_too() -> None:
    x = INPUTS["random"]
    half = np.random.default_rng(0).standard_normal((x.shape[1], 3))
    expected = [((a - b) @ half @ half.T @ (a - b)) / len(a) for i, a in enumerate(x) for b in x[i + 1 :]]
    found = mahalanobis(torch.tensor(x), torch.tensor(half @ half.T)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("n_runs", [2, 3, 5])
@pytest.mark.parametrize("whitened", [False, True])
def test_crossnobis_equals_rsatoolbox(n_runs: int, whitened: bool) -> None:
    rng = np.random.default_rng(n_runs)
    x = rng.standard_normal((n_runs, 6, 7)) + 2 * rng.standard_normal((6, 7)) + 50
    precision = spd(7) if whitened else None
    data = Dataset(
        x.reshape(-1, 7),
        obs_descriptors={"s": [f"s{i}" for i in range(6)] * n_runs, "run": np.repeat(range(n_runs), 6)},
    )
    theirs = calc_rdm(data, method="crossnobis", descriptor="s", cv_descriptor="run", noise=precision)
    ours = crossnobis(torch.tensor(x), None if precision is None else torch.tensor(precision))
    np.testing.assert_allclose(ours.numpy(), theirs.dissimilarities[0], rtol=0, atol=1e-10)


def test_crossnobis_equals_the_plain_loop_over_runs() -> None:
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    expected = []
    for i in range(5):
        for j in range(i + 1, 5):
            delta = x[:, i] - x[:, j]
            folds = [delta[k] @ np.delete(delta, k, 0).mean(0) / 6 for k in range(4)]
            expected.append(np.mean(folds))
    np.testing.assert_allclose(crossnobis(torch.tensor(x)).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_leading_dimensions_are_a_loop(name: str) -> None:
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    x[1, 2, 3] = x[1, 2, 4]
    x[0, 1, 2, 0] = torch.nan
    found = DISSIMILARITIES[name](x)
    assert found.shape == (2, 3, 15)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(found[i, j], DISSIMILARITIES[name](x[i, j]), equal_nan=True)


def test_leading_dimensions_of_whitened_measures() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    precision = torch.tensor(spd(4))
    torch.testing.assert_close(mahalanobis(x, precision)[1, 2], mahalanobis(x[1, 2], precision))
    torch.testing.assert_close(crossnobis(x, precision)[1], crossnobis(x[1], precision))


@pytest.mark.parametrize("name", PLAIN)
def test_one_stimulus_or_none_has_no_pairs(name: str) -> None:
    for n in (0, 1):
        x = torch.randn(n, 5, requires_grad=True)
        found = DISSIMILARITIES[name](x)
        assert found.shape == (0,)
        found.sum().backward()


# gradients


@pytest.mark.parametrize("kind", ["random", "tied", "offset", "near", "two", "three"])
@pytest.mark.parametrize("name", PLAIN)
def test_gradient(name: str, kind: str) -> None:
    x = torch.tensor(INPUTS[kind][:, :6], requires_grad=True)
    if name == "euclidean_root" and kind == "near":  # too curved for a difference of 1e-6
        x = x.detach().mul_(1e3).requires_grad_()
    assert gradcheck(
        lambda x: DISSIMILARITIES[name](x).nan_to_num(), (x,), atol=1e-4 if kind == "near" else 1e-5
    )


def test_gradient_of_duplicates() -> None:
    x = torch.tensor(INPUTS["duplicate"][:, :6], requires_grad=True)
    for name in ("euclidean", "correlation", "cosine"):
        assert gradcheck(DISSIMILARITIES[name], (x,))


def test_gradient_of_whitened_measures() -> None:
    precision = torch.tensor(spd(4))
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: mahalanobis(x, precision), (x,))
    assert gradcheck(lambda x: crossnobis(x, precision), (x,))
    assert gradcheck(crossnobis, (x,))


def spoil(x: Tensor, how: str) -> Tensor:
    x = x.clone()
    x[2] = {"constant": 0.1, "zero": 0.0, "nan": torch.nan, "inf": torch.inf}[how]
    if how in ("nan", "inf"):
        x[2, 1:] = 1.0
    return x


@pytest.mark.parametrize("how", ["constant", "zero", "nan", "inf"])
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_undefined_pattern_is_nan_and_touches_nothing_else(
    name: str, how: str, dtype: torch.dtype
) -> None:
    x = spoil(torch.randn(7, 300, dtype=dtype), how).requires_grad_()
    found = DISSIMILARITIES[name](x)
    i, j = condensed_index(7)
    with_it = (i == 2) | (j == 2)
    undefined = how in ("nan", "inf") or (name == "correlation") or (name == "cosine" and how == "zero")
    assert bool(found[with_it].isnan().all()) is undefined
    assert not found[~with_it].isnan().any()

    found.nansum().backward()
    assert x.grad is not None
    rest = [k for k in range(7) if k != 2]
    if undefined:
        assert (x.grad[2] == 0).all()
        alone = x.detach()[rest].requires_grad_()
        DISSIMILARITIES[name](alone).sum().backward()
        torch.testing.assert_close(x.grad[rest], alone.grad)
    else:
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", PLAIN)
def test_a_nan_that_flows_back_into_an_undefined_pair_stops_there(name: str) -> None:
    x = spoil(torch.randn(6, 20), "nan").requires_grad_()
    (DISSIMILARITIES[name](x) * 3).sum().backward()  # no nansum: the gradient of the NaN pairs is 3
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[2] == 0).all()


def test_missing_patterns_of_whitened_measures() -> None:
    precision = torch.tensor(spd(5))
    x = torch.randn(6, 5, dtype=torch.float64)
    x[3, 1] = torch.nan
    x.requires_grad_()
    rest = [0, 1, 2, 4, 5]
    found = mahalanobis(x, precision)
    torch.testing.assert_close(square(found)[rest][:, rest], square(mahalanobis(x[rest], precision)))
    found.nansum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[3] == 0).all()

    runs = torch.randn(3, 6, 5, dtype=torch.float64)
    runs[1, 4] = torch.nan
    runs.requires_grad_()
    found = crossnobis(runs)
    i, j = condensed_index(6)
    assert torch.equal(found.isnan(), (i == 4) | (j == 4))
    found.nansum().backward()
    assert runs.grad is not None
    assert runs.grad.isfinite().all()
    assert (runs.grad[:, 4] == 0).all()


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e8])
def test_a_dead_layer_has_no_gradient(name: str, value: float) -> None:
    x = torch.full((8, 50), value, requires_grad=True)
    found = DISSIMILARITIES[name](x)
    defined = name.startswith("euclidean") or (name == "cosine" and value > 0)
    assert ((found == 0) if defined else found.isnan()).all()
    found.nansum().backward()
    assert x.grad is not None
    assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_is_judged_by_its_magnitude(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    x = torch.randn(4, 1000, dtype=dtype)
    x[1] = 1e6 / 3  # its mean is rounded
    x[2] = x[2] * 1e-10  # small, not constant
    x[3] = 7 + 1e4 * eps * x[3]  # a large offset, not constant
    assert torch.equal(correlation(x).isnan(), torch.tensor([True, False, False, True, True, False]))


@pytest.mark.parametrize("name", PLAIN)
def test_duplicates_are_at_zero_with_a_finite_gradient(name: str) -> None:
    x = torch.randn(40, 1500)  # enough pairs and channels for several blocks
    x[10:35] = x[3]
    x.requires_grad_()
    found = square(DISSIMILARITIES[name](x))
    assert (found[10:35, 10:35] == 0).all()
    assert (found[3, 10:35] == 0).all()
    np.testing.assert_allclose(
        DISSIMILARITIES[name](x).detach().numpy(), loop(name, x.detach().numpy()), rtol=1e-4, atol=1e-6
    )
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# precision


def test_a_large_mean_costs_no_digits() -> None:
    patterns = torch.from_numpy(np.random.default_rng(0).standard_normal((8, 5000)) + 1e5).float()
    torch.testing.assert_close(
        correlation(patterns), correlation(patterns.double()).float(), rtol=0, atol=5e-6
    )


@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize("relative", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("name", PLAIN)
def test_near_duplicates_in_float32(name: str, relative: float, offset: float) -> None:
    x = torch.randn(40, 1500)
    x[1::2] = x[::2] + relative * torch.randn(20, 1500)
    x += offset
    found = DISSIMILARITIES[name](x)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), loop(name, x.numpy()), rtol=0.01)


def test_near_duplicates_pull_in_the_right_direction_in_float32() -> None:
    x = torch.randn(30, 1500)
    x[1::2] = x[::2] + 1e-5 * torch.randn(15, 1500)
    for name in PLAIN:
        single, double = x.clone().requires_grad_(), x.double().requires_grad_()
        weights = square(torch.rand(435)).double()
        for patterns in (single, double):
            (square(DISSIMILARITIES[name](patterns)).double() * weights).sum().backward()
        assert single.grad is not None
        assert double.grad is not None
        error = (single.grad - double.grad).norm(dim=1) / double.grad.norm(dim=1)
        assert error.max() < 0.02, name


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(12, 400, dtype=dtype, requires_grad=True)
    found = DISSIMILARITIES[name](x)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), loop(name, x.detach().float().numpy()), rtol=1e-4)
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.fixture
def sloppy() -> Iterator[None]:
    """The precision people choose outside: autocast and a fast matmul."""
    torch.set_float32_matmul_precision("medium")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("name", [*PLAIN, "mahalanobis", "crossnobis"])
@pytest.mark.usefixtures("sloppy")
def test_autocast_and_fast_matmul_stay_outside(name: str) -> None:
    x = torch.randn(3, 10, 30)
    precision = torch.tensor(spd(30)).float()

    def measure(x: Tensor) -> Tensor:
        if name in PLAIN:
            return DISSIMILARITIES[name](x)
        return DISSIMILARITIES[name](x, precision.to(x.dtype))

    single, double = x.clone().requires_grad_(), x.double().requires_grad_()
    measure(single).sum().backward()  # the backward pass under autocast too
    measure(double).sum().backward()
    assert measure(single).dtype == torch.float32
    torch.testing.assert_close(measure(single).double(), measure(double), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.grad, double.grad.float(), rtol=1e-3, atol=1e-4)
    assert torch.get_float32_matmul_precision() == "medium"


def test_float64_stays_float64() -> None:
    assert euclidean(torch.randn(3, 4, dtype=torch.float64)).dtype == torch.float64


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.usefixtures("deterministic")
def test_the_same_bits_from_run_to_run(name: str) -> None:
    x = torch.randn(30, 1200)
    x[20:] = x[:10] + 1e-4 * torch.randn(10, 1200)
    gradients = []
    for _ in range(3):
        patterns = x.clone().requires_grad_()
        square(DISSIMILARITIES[name](patterns)).square().sum().backward()
        gradients.append(patterns.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


@pytest.mark.parametrize("name", PLAIN)
def test_patterns_are_left_as_they_were(name: str) -> None:
    for how in ("", "nan"):
        x = torch.randn(5, 6)
        x = spoil(x, how) if how else x
        before = x.clone()
        DISSIMILARITIES[name](x)
        torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)


def test_patterns_may_lie_in_memory_in_any_order() -> None:
    x = torch.randn(8, 5, dtype=torch.float64)
    x[:, 1] = x[:, 2]
    for name in PLAIN:
        copy, view = x.T.clone().requires_grad_(), x.clone().requires_grad_()
        DISSIMILARITIES[name](copy).sum().backward()
        DISSIMILARITIES[name](view.T).sum().backward()
        torch.testing.assert_close(view.grad.T, copy.grad)


# properties


def permuted(condensed: Tensor, order: Tensor) -> Tensor:
    i, j = condensed_index(len(order))
    return square(condensed)[order[i], order[j]]


@given(
    n=st.integers(2, 9),
    channels=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    levels=st.sampled_from([None, 2, 3]),
    name=st.sampled_from(PLAIN),
)
def test_permuting_stimuli_permutes_the_rdm(
    n: int, channels: int, seed: int, levels: int | None, name: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, channels, generator=generator, dtype=torch.float64)
    if levels is not None:  # ties, duplicates, constants and zeros
        x = (x * levels / 2).round()
    order = torch.randperm(n, generator=generator)
    found, expected = DISSIMILARITIES[name](x[order]), permuted(DISSIMILARITIES[name](x), order)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@given(
    seed=st.integers(0, 2**16),
    scale=st.floats(1e-6, 1e6),
    offset=st.floats(-100, 100),
    name=st.sampled_from(NORMALISED),
)
def test_what_a_measure_does_not_see(seed: int, scale: float, offset: float, name: str) -> None:
    x = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = DISSIMILARITIES[name](x)
    assert ((found >= 0) & (found <= 2 + 1e-12)).all()
    moved = x * scale + (offset * scale if name == "correlation" else 0)
    torch.testing.assert_close(DISSIMILARITIES[name](moved), found, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(euclidean(x + offset), euclidean(x), rtol=1e-9, atol=1e-9)
    assert ((euclidean_root(x).square() - euclidean(x)).abs() < 1e-12).all()


def test_random_float32_inputs_agree_with_the_loop() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = (rng.standard_normal((8, 60)) + 3 * rng.standard_normal(60)).astype(np.float32)
        for name in PLAIN:
            found = DISSIMILARITIES[name](torch.tensor(x)).numpy()
            np.testing.assert_allclose(found, loop(name, x), rtol=2e-4, atol=1e-7)


# the condensed form


@pytest.mark.parametrize("name", NORMALISED)
def test_many_equal_channels_do_not_add_up_their_rounding(name: str) -> None:
    # a gray background in an early layer: float32 sums of equal squares drift, 5e-4 in the distance
    gray = torch.full((4, 700_000), 7.3)
    objects = 20 * torch.rand(4, 90_000, generator=torch.Generator().manual_seed(0))
    patterns = torch.cat([gray, objects], -1)
    torch.testing.assert_close(
        DISSIMILARITIES[name](patterns).double(),
        DISSIMILARITIES[name](patterns.double()),
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_condensed_form_is_scipys() -> None:
    matrix = squareform(np.arange(1.0, 16))
    assert np.array_equal(square(torch.arange(1.0, 16)).numpy(), matrix)
    i, j = condensed_index(6)
    assert np.array_equal(matrix[i, j], np.arange(1, 16))
    assert torch.equal(square(torch.arange(30.0).reshape(2, 15))[1], square(torch.arange(15.0, 30)))
    assert gradcheck(square, (torch.randn(2, 10, dtype=torch.float64, requires_grad=True),))


def test_the_number_of_stimuli() -> None:
    assert [n_stimuli(n * (n - 1) // 2) for n in (1, 2, 3, 92, 20_000)] == [1, 2, 3, 92, 20_000]
    for wrong in (2, 4, 5, 4187):
        with pytest.raises(NeurordlError, match=f"not {wrong}"):
            n_stimuli(wrong)


# names and bad input


def test_names() -> None:
    for name, measure in DISSIMILARITIES.items():
        assert find_dissimilarity(name) is measure
        assert find_dissimilarity(measure) is measure

    def plain(patterns: Tensor) -> Tensor:
        return patterns

    assert find_dissimilarity(plain) == Dissimilarity(plain.__qualname__, plain)
    with pytest.raises(NeurordlError, match=r"'pearson'.*euclidean_root.*correlation.*crossnobis"):
        find_dissimilarity("pearson")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("squared euclidean", "euclidean"),
        ("Euclidean", "euclidean"),
        ("euclidean", "euclidean"),
        ("sqeuclidean", "euclidean"),
        ("euclidean_root", "euclidean_root"),
        ("correlation", "correlation"),
        ("Correlation distance", "correlation"),
        ("1 - Pearson", "correlation"),
        ("1-pearson r", "correlation"),
        ("1 - r", "correlation"),
        ("squared mahalanobis", "mahalanobis"),
        ("crossnobis", "crossnobis"),
        ("Cross-validated Mahalanobis distance", "crossnobis"),
        ("cosine", "cosine"),
        ("poisson", "poisson"),
        ("", None),
        (None, None),
    ],
)
def test_measures_as_they_are_written(written: str | None, name: str | None) -> None:
    measure = dissimilarity_from_text(written)
    assert (measure and measure.name) == name


def test_rsatoolbox_writes_names_that_are_known() -> None:
    data = Dataset(
        np.random.default_rng(0).standard_normal((8, 5)),
        obs_descriptors={"s": list("abcd") * 2, "run": [0] * 4 + [1] * 4},
    )
    for method in ("euclidean", "correlation", "mahalanobis", "crossnobis"):
        noise = np.eye(5) if method == "mahalanobis" else None
        rdms = calc_rdm(data, method=method, descriptor="s", cv_descriptor="run", noise=noise)
        assert dissimilarity_from_text(rdms.dissimilarity_measure) is DISSIMILARITIES[method]


def test_bad_patterns() -> None:
    with pytest.raises(NeurordlError, match="int64"):
        correlation(torch.arange(6).reshape(2, 3))
    with pytest.raises(NeurordlError, match="ndarray"):
        cosine(np.zeros((2, 3)))  # type: ignore[arg-type]
    with pytest.raises(NeurordlError, match=r"\(3,\)"):
        euclidean(torch.zeros(3))
    with pytest.raises(NeurordlError, match=r"\(3, 0\)"):
        squared_distances(torch.zeros(3, 0))


def test_crossnobis_needs_runs() -> None:
    for shape in ((4, 5), (1, 4, 5)):
        with pytest.raises(NeurordlError, match="2 or more runs"):
            crossnobis(torch.randn(*shape))


def test_bad_precisions() -> None:
    x = torch.randn(4, 3)
    cases = {
        "3 x 3": torch.eye(4),
        "not symmetric": torch.tensor([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]),
        "not positive semidefinite": torch.diag(torch.tensor([1.0, 1, -1])),
        "NaN or infinity": torch.full((3, 3), torch.nan),
    }
    for message, precision in cases.items():
        for measure in (mahalanobis, whiten, lambda x, p: crossnobis(torch.stack([x, x]), p)):
            with pytest.raises(NeurordlError, match=message):
                measure(x, precision)


def test_no_warning_comes_out_of_it() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in PLAIN:
            x = spoil(torch.randn(5, 6), "nan").requires_grad_()
            DISSIMILARITIES[name](x).nansum().backward()


@pytest.mark.parametrize("function", [crossnobis, poisson_cv])
def test_patterns_of_the_stimuli_of_each_run_alone(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 3, 2, 4 and 2 of 5 stimuli, with several times and their gradients."""
    rng = np.random.default_rng(0)
    counts = torch.tensor(
        [[1, 0, 2, 1, 0], [0, 1, 0, 0, 1], [1, 1, 0, 3, 2], [0, 2, 1, 0, 0]], dtype=torch.float64
    )
    stimuli = torch.full((4, 4), 5)
    patterns = torch.zeros(2, 4, 4, 3, dtype=torch.float64)
    whole = torch.full((2, 4, 5, 3), torch.nan, dtype=torch.float64)
    for run, row in enumerate(counts):
        numbers = row.nonzero()[:, 0]
        values = torch.from_numpy(rng.gamma(2, size=(2, len(numbers), 3)))
        stimuli[run, : len(numbers)], patterns[:, run, : len(numbers)] = numbers, values
        whole[:, run, numbers] = values
    expected = function(whole, counts=counts)
    assert torch.isfinite(expected).any()
    ours = function(patterns, counts=counts, stimuli=stimuli)
    torch.testing.assert_close(ours, expected, equal_nan=True, rtol=1e-12, atol=1e-12)
    measure = DISSIMILARITIES[function.__name__]
    torch.testing.assert_close(measure(patterns, counts=counts, stimuli=stimuli), ours, equal_nan=True)
    defined = expected.isfinite()
    patterns.requires_grad_()
    assert gradcheck(lambda x: function(x, counts=counts, stimuli=stimuli)[defined], patterns)
    monkeypatch.setattr("neurordl.measures.dissimilarities._PRODUCTS", 0)  # run after run
    torch.testing.assert_close(
        function(whole, counts=counts), expected, equal_nan=True, rtol=1e-12, atol=1e-12
    )
