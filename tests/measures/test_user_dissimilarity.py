"""A dissimilarity of a user's own script is one object, and works in everything that takes one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from rsatoolbox.data import Dataset
from rsatoolbox.rdm import RDMs
from scipy.spatial.distance import pdist
from torch import Tensor

import neurordl as nrl
from neurordl.measures.dissimilarities import (
    DISSIMILARITIES,
    SquaredDistance,
    dissimilarity_from_text,
    find_dissimilarity,
)

N, CHANNELS = 10, 24
IDS = [f"s{number}" for number in range(N)]
SUBJECTS = ["anna", "ben", "carl", "dora"]


def city_block(patterns: Tensor) -> Tensor:
    row, column = torch.triu_indices(patterns.shape[-2], patterns.shape[-2], offset=1)
    return (patterns[..., row, :] - patterns[..., column, :]).abs().mean(-1)


def across_runs(patterns: Tensor) -> Tensor:
    """Mean over pairs of runs of the inner product of differences: crossnobis, the slow way."""
    row, column = torch.triu_indices(patterns.shape[-2], patterns.shape[-2], offset=1)
    differences = patterns[..., row, :] - patterns[..., column, :]
    runs = len(differences)
    pairs = [(differences[i] * differences[j]).mean(-1) for i in range(runs) for j in range(runs) if i != j]
    return torch.stack(pairs).mean(0)


CITY_BLOCK = nrl.Dissimilarity("city block", city_block, aliases=("Manhattan distance", "L1"))
ACROSS_RUNS = nrl.Dissimilarity("across runs", across_runs, needs_runs=True, for_network=CITY_BLOCK)


@pytest.fixture(params=["object", "registered"])
def measure(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The dissimilarity as a user passes it: the object, or the name that was registered."""
    if request.param == "registered":
        nrl.register(CITY_BLOCK)
    yield CITY_BLOCK if request.param == "object" else "city block"
    DISSIMILARITIES.pop("city block", None)


def patterns(**descriptors: list[Any]) -> dict[str, Dataset]:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(N, CHANNELS))
    return {
        name: Dataset(
            base + 0.3 * rng.normal(size=base.shape),
            obs_descriptors={"stimulus": list(IDS)},
            channel_descriptors=dict(descriptors),
        )
        for name in SUBJECTS
    }


def expected(values: Any) -> Any:
    return pdist(values, "cityblock") / np.shape(values)[1]


def images() -> nrl.StimulusSet:
    return nrl.StimulusSet.from_array(np.random.default_rng(1).random((N, 8, 8)).astype("f4"), IDS)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return nrl.students.small_cnn(4, 1, width=4)


def brain_like(network_rdm: RDMs) -> RDMs:
    """The network's RDM with noise, one for each subject."""
    rng = np.random.default_rng(2)
    vectors = network_rdm.dissimilarities[0] * (1 + 0.2 * rng.random((len(SUBJECTS), N * (N - 1) // 2)))
    return RDMs(
        vectors,
        dissimilarity_measure=network_rdm.dissimilarity_measure,
        rdm_descriptors={"subject": list(SUBJECTS)},
        pattern_descriptors={"stimulus": list(network_rdm.pattern_descriptors["stimulus"])},
    )


def descends(loss: nrl.RDMLoss) -> bool:
    execution = nrl.Execution(progress=False)
    objective = nrl.Objective(loss, task=None)
    run = nrl.fit(network(), objective, stimuli=images(), epochs=5, seed=0, execution=execution)
    history = run.history[loss.name]
    return bool(history.iloc[-1] < history.iloc[0])


def test_rdms_and_files(measure: Any, tmp_path: Path) -> None:
    rdms = nrl.compute_rdms(patterns(), measure)
    assert_allclose(rdms.dissimilarities, [expected(data.measurements) for data in patterns().values()])
    for suffix in (".h5", ".npz", ".mat"):
        nrl.save_rdms(rdms, tmp_path / f"rdms{suffix}")
        loaded = nrl.load_rdms(tmp_path / f"rdms{suffix}")
        assert loaded.dissimilarity_measure == "city block"
        assert_allclose(loaded.dissimilarities, rdms.dissimilarities)
        known = dissimilarity_from_text(loaded.dissimilarity_measure)
        assert known is (CITY_BLOCK if measure == "city block" else None)
    for alias in ("manhattan", "l1", "City-block distance"):
        assert (dissimilarity_from_text(alias) is CITY_BLOCK) == (measure == "city block")


def test_a_teacher_of_such_rdms_trains(measure: Any) -> None:
    teacher = nrl.RDMTeacher(nrl.compute_rdms(patterns(), measure))
    if measure == "city block":
        loss = nrl.RDMLoss(teacher, "conv2")
    else:  # a name in a file says nothing of an object that was not registered
        with pytest.raises(nrl.NeurordlError, match="dissimilarity is unknown; set dissimilarity="):
            nrl.RDMLoss(teacher, "conv2")
        loss = nrl.RDMLoss(teacher, "conv2", measure)
    assert loss.dissimilarity is CITY_BLOCK
    assert loss.describe()["dissimilarity"] == "city block"
    assert descends(loss)


def test_patterns_and_networks_teach_with_it(measure: Any) -> None:
    teacher = nrl.PatternTeacher(patterns(), dissimilarity=measure, pool="subjects")
    target = teacher.target(nrl.Batch(torch.zeros(N, 1, 8, 8), ids=IDS), {})
    assert_allclose(target.rdms, [expected(data.measurements) for data in patterns().values()], rtol=1e-4)
    assert (target.weights == 1).all()
    loss = nrl.RDMLoss(teacher, "conv2")
    assert loss.dissimilarity is CITY_BLOCK
    assert descends(loss)
    other = nrl.NetworkTeacher(nrl.students.small_cnn(4, 1, width=3), "conv2", dissimilarity=measure)
    assert descends(nrl.RDMLoss(other, "conv2"))


def test_comparisons_and_ceilings(measure: Any) -> None:
    rdms = nrl.compute_rdms(patterns(), measure)
    model = nrl.compute_rdms(patterns()["anna"], measure)
    similarities = nrl.compare(model, rdms, "corr")
    assert similarities[0, 0] == pytest.approx(1)
    assert_allclose(similarities[0], np.corrcoef(rdms.dissimilarities)[0], atol=1e-12)
    lower, upper = nrl.noise_ceiling(rdms, "corr")
    assert 0.5 < lower < upper < 1


@pytest.mark.parametrize("bootstrap", [None, "subjects", "stimuli", "both"])
def test_a_network_is_evaluated_by_it(measure: Any, bootstrap: Any) -> None:
    student, stimuli = network(), images()
    layers = nrl.compute_rdms(nrl.extract_patterns(student, stimuli, "conv2"), measure)
    rdms = brain_like(layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*measure.*")
        options = {"stimuli": stimuli, "layers": "conv2", "comparison": "corr", "bootstrap": bootstrap}
        default = {} if measure == "city block" else {"dissimilarity": measure}
        found = nrl.evaluate(student, rdms, **options, **default).to_frame()
    assert set(found["dissimilarity"]) == {"city block"}
    given = nrl.evaluate({"conv2": layers}, rdms, comparison="corr", bootstrap=bootstrap).to_frame()
    for column in ("score", "ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"):
        assert_allclose(found[column], given[column], rtol=1e-6)
    assert found["score"].min() > 0.5


def test_searchlight(measure: Any) -> None:
    voxels = np.indices((4, 4, 4)).reshape(3, -1)
    data = Dataset(
        np.random.default_rng(2).normal(size=(N, 64)),
        obs_descriptors={"stimulus": IDS},
        channel_descriptors=dict(zip("xyz", voxels.tolist(), strict=True)),
    )
    model = nrl.compute_rdms(patterns()["anna"], "euclidean")
    result = nrl.searchlight(data, model, radius=2, dissimilarity=measure)
    center = np.asarray(result.centers[3])
    near = ((voxels - center[:, None]) ** 2).sum(0) < 4
    rdm = expected(data.measurements[:, near])
    assert result.scores[0, 3] == pytest.approx(np.corrcoef(rdm, model.dissimilarities[0])[0, 1], abs=1e-10)


# more that the object can say


def with_runs(missing: int = 0) -> Dataset:
    rng = np.random.default_rng(3)
    rows = [(run, k) for run in range(3) for k in range(N)][missing:]
    base = rng.normal(size=(N, CHANNELS))
    return Dataset(
        np.stack([base[k] + rng.normal(size=CHANNELS) for _, k in rows]),
        obs_descriptors={"stimulus": [IDS[k] for _, k in rows], "run": [run for run, _ in rows]},
    )


def test_runs_and_what_a_network_is_measured_by() -> None:
    rdms = nrl.compute_rdms(with_runs(), ACROSS_RUNS)
    assert_allclose(rdms.dissimilarities, nrl.compute_rdms(with_runs(), "crossnobis").dissimilarities)
    with pytest.raises(nrl.NeurordlError, match="across runs needs every stimulus equally often"):
        nrl.compute_rdms(with_runs(missing=1), ACROSS_RUNS)
    with pytest.raises(nrl.NeurordlError, match="no observation descriptor 'run'"):
        nrl.compute_rdms(patterns(), ACROSS_RUNS)
    with pytest.raises(nrl.NeurordlError, match=r"'across runs' needs repeats.*use 'city block'"):
        nrl.RDMLoss(nrl.RDMTeacher(rdms), "conv2", ACROSS_RUNS)
    teacher = nrl.PatternTeacher(with_runs(), dissimilarity=ACROSS_RUNS)
    target = teacher.target(nrl.Batch(torch.zeros(N, 1, 8, 8), ids=IDS), {})
    assert_allclose(target.rdms, rdms.dissimilarities, rtol=1e-3, atol=1e-5)
    with pytest.warns(UserWarning, match="are across runs, .* the student's RDMs are city block"):
        assert nrl.RDMLoss(teacher, "conv2").dissimilarity is CITY_BLOCK


def test_a_kernel_computes_in_blocks_what_the_function_does() -> None:
    chord = nrl.Dissimilarity(
        "chord",
        lambda patterns: SquaredDistance("length", scale=1.0, root=True)(patterns),
        kernel=SquaredDistance("length", scale=1.0, root=True),
    )
    for data in patterns().values():
        unit = data.measurements / np.linalg.norm(data.measurements, axis=1, keepdims=True)
        assert_allclose(nrl.compute_rdms(data, chord).dissimilarities[0], pdist(unit), rtol=1e-9)
        assert_allclose(chord(torch.tensor(data.measurements)), pdist(unit), rtol=1e-9)


def test_one_without_a_gradient_trains_no_network() -> None:
    counted = nrl.Dissimilarity("counted", lambda x: (city_block(x) > 1).double(), differentiable=False)
    rdms = nrl.compute_rdms(patterns(), counted)
    assert set(np.unique(rdms.dissimilarities)) <= {0, 1}
    with pytest.raises(nrl.NeurordlError, match="'counted' has no gradient"):
        nrl.RDMLoss(nrl.RDMTeacher(rdms), "conv2", counted)


def test_names_that_cannot_be_registered(measure: Any) -> None:
    nrl.register(CITY_BLOCK)
    newer = nrl.Dissimilarity("city block", lambda x: city_block(x))
    nrl.register(newer)  # the same name replaces the former: a cell of a notebook runs twice
    assert DISSIMILARITIES["city block"] is newer
    for wrong, message in (
        (nrl.Dissimilarity("correlation", city_block), "'correlation' is the dissimilarity 'correlation'"),
        (nrl.Dissimilarity("mine", city_block, aliases=("LDC",)), "'ldc' is the dissimilarity 'crossnobis'"),
        (nrl.Dissimilarity("City Block", city_block), "'cityblock' is the dissimilarity 'city block'"),
        (city_block, "not function"),
    ):
        with pytest.raises(nrl.NeurordlError, match=message):
            nrl.register(wrong)  # type: ignore[arg-type]
    for name in ("correlation", "squared cosine"):  # whose RDMs would be read as those of the package
        with pytest.raises(nrl.NeurordlError, match="is taken, since 'co"):
            nrl.compute_rdms(patterns(), nrl.Dissimilarity(name, city_block))
    with pytest.raises(nrl.NeurordlError, match="takes a name and a function"):
        nrl.Dissimilarity("", city_block)
    options: dict[str, Any]
    for options in ({"normalize": "length"}, {"root": True}, {"sides": lambda x: (x, x)}):
        with pytest.raises(nrl.NeurordlError, match="'x' needs runs: its kernel has no norm"):
            nrl.Dissimilarity("x", across_runs, needs_runs=True, kernel=SquaredDistance(**options))
    with pytest.raises(nrl.NeurordlError, match="precision='sometimes'"):
        nrl.Dissimilarity("x", city_block, precision="sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["distance", "距離"])
def test_names_without_letters_do_not_match_unknown_rdms(name: str, measure: Any) -> None:
    nrl.register(nrl.Dissimilarity(name, city_block))
    try:
        assert dissimilarity_from_text(name).name == name
        for unknown in (None, "", "squared", "非類似度"):
            assert dissimilarity_from_text(unknown) is None
    finally:
        DISSIMILARITIES.pop(name)


def test_a_function_of_the_package_is_the_measure_itself() -> None:
    for known in DISSIMILARITIES.values():
        assert find_dissimilarity(known.function) is known


@pytest.mark.parametrize("choice", ["mahalanobis", "crossnobis", "poisson_cv", ACROSS_RUNS])
def test_a_network_is_not_evaluated_by_what_it_cannot_have(choice: Any) -> None:
    rdms = nrl.compute_rdms(patterns(), "correlation")
    with pytest.raises(nrl.NeurordlError, match="which a network does not have: use"):
        nrl.evaluate(network(), rdms, stimuli=images(), layers="conv2", dissimilarity=choice)


def test_runs_with_a_precision_that_is_required() -> None:
    """A teacher passes the precision to the function, whatever the kernel."""

    def function(patterns: Tensor, precision: Tensor) -> Tensor:
        return DISSIMILARITIES["crossnobis"](patterns, precision)

    options: dict[str, Any] = {"needs_runs": True, "precision": "required", "kernel": SquaredDistance()}
    measure, precision = nrl.Dissimilarity("with noise", function, **options), np.eye(CHANNELS) + 0.1
    rdms = nrl.compute_rdms(with_runs(), measure, precision=precision)
    teacher = nrl.PatternTeacher(with_runs(), dissimilarity=measure, precision=precision)
    target = teacher.target(nrl.Batch(torch.zeros(N, 1, 8, 8), ids=IDS), {})
    assert_allclose(target.rdms, rdms.dissimilarities, rtol=1e-3, atol=1e-5)


def test_a_teacher_refuses_patterns_that_are_no_rates() -> None:
    teacher = nrl.PatternTeacher(patterns(), dissimilarity="poisson")
    with pytest.raises(nrl.NeurordlError, match="poisson takes rates or counts of 0 or more, and subject"):
        teacher.target(nrl.Batch(torch.zeros(N, 1, 8, 8), ids=IDS), {})


@pytest.mark.parametrize("shape", [(), (1, N * (N - 1) // 2), (N, N)])
def test_rdms_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    wrong = nrl.Dissimilarity("wrong", lambda x: x.mean().expand(shape))
    message = (
        r"'wrong' gave values of the shape \(.*\) for patterns .*: it must return a tensor with condensed"
    )
    batch = nrl.Batch(torch.zeros(N, 1, 8, 8), ids=IDS)
    rdms = nrl.compute_rdms(patterns(), "correlation")
    for call in (
        lambda: nrl.compute_rdms(patterns(), wrong),
        lambda: nrl.PatternTeacher(patterns(), dissimilarity=wrong).target(batch, {}),
        lambda: nrl.RDMLoss(nrl.RDMTeacher(rdms), "conv2", wrong)({"conv2": torch.rand(N, 3)}, {}, batch),
        lambda: nrl.evaluate(network(), rdms, stimuli=images(), layers="conv2", dissimilarity=wrong),
    ):
        with pytest.raises(nrl.NeurordlError, match=message):
            call()


def test_a_function_of_arrays_is_refused() -> None:
    measure = nrl.Dissimilarity("array", lambda patterns: pdist(patterns.numpy()[0]))
    with pytest.raises(nrl.NeurordlError, match=r"gave a ndarray for patterns .*: it must return a tensor"):
        measure(torch.rand(1, 4, 3))
