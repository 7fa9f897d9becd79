"""`evaluate`: the right pairs, the right subjects, and a table that says what it holds."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import dataclass, replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from rsatoolbox.inference import eval_fixed
from rsatoolbox.model import ModelFixed
from rsatoolbox.rdm import RDMs
from rsatoolbox.rdm import compare as rsatoolbox_compare
from scipy.stats import false_discovery_control
from torch import nn

from neurordl import Execution, Objective, RDMLoss, fit
from neurordl.errors import NeurordlError
from neurordl.io import sha256_state
from neurordl.measures.kernels import distances
from neurordl.patterns.network import Compute
from neurordl.rdms.selection import reindex, select_rdms
from neurordl.rsa.ceilings import noise_ceiling
from neurordl.rsa.evaluate import RunLike, evaluate
from neurordl.rsa.inference.infer import infer, interval, p_values
from neurordl.rsa.inference.resampling import Bootstrap
from neurordl.rsa.scores import COLUMNS, Evaluation
from neurordl.simulate import simulate_subjects
from neurordl.stimuli import Preprocessing, StimulusSet
from neurordl.students import small_cnn
from neurordl.teachers import RDMTeacher

module = sys.modules["neurordl.rsa.evaluate"]  # the package shows the function by this name
N = 12
IDS = tuple(f"s{k}" for k in range(N))


def brain(
    subjects: int = 4, rois: tuple[str, ...] = ("IT",), seed: int = 0, measure: str | None = "correlation"
) -> RDMs:
    """Subjects who share a geometry, in each ROI another."""
    rng = np.random.default_rng(seed)
    shared = rng.random((len(rois), N * (N - 1) // 2))
    vectors = np.concatenate([row + rng.normal(0, 0.3, (subjects, row.size)) for row in shared])
    return RDMs(
        vectors,
        dissimilarity_measure=measure,
        rdm_descriptors={
            "subject": [f"p{k}" for k in range(subjects)] * len(rois),
            "roi": [name for name in rois for _ in range(subjects)],
        },
        pattern_descriptors={"stimulus": list(IDS)},
    )


def models(seed: int = 1) -> RDMs:
    vectors = np.random.default_rng(seed).random((3, N * (N - 1) // 2))
    vectors[1] += brain().dissimilarities.mean(axis=0)
    return RDMs(
        vectors, rdm_descriptors={"layer": ["a", "b1", "b2"]}, pattern_descriptors={"stimulus": list(IDS)}
    )


def images(ids: tuple[str, ...] = IDS) -> StimulusSet:
    pixels = np.random.default_rng(2).random((N, 1, 6, 6)).astype(np.float32)
    return StimulusSet.from_array(pixels, ids=list(IDS)).subset(list(ids))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(48, 5))


@dataclass(frozen=True)
class FakeRun:
    student: nn.Module
    fitted_ids: tuple[str, ...] = IDS[:4]
    validation_ids: tuple[str, ...] = IDS[4:6]
    held_out_ids: tuple[str, ...] = IDS[6:]
    fitted_subjects: tuple[str, ...] = ("p0", "p1")
    fitted_rdms: frozenset[str] = frozenset()
    preprocessing: Preprocessing | None = None


@pytest.fixture
def run() -> FakeRun:
    return FakeRun(network(), preprocessing=images().preprocessing)


def means(scores: Evaluation) -> pd.DataFrame:
    frame = scores.to_frame()
    return frame[frame["subject"] == "mean"].set_index("layer")


def test_the_table_is_that_of_eval_fixed():
    data = brain()
    frame = evaluate(models(), data, comparison="spearman").to_frame()
    assert tuple(frame.columns) == COLUMNS
    assert frame["layer"].tolist() == [name for name in ("a", "b1", "b2") for _ in range(5)]
    assert frame["subject"].tolist() == ["p0", "p1", "p2", "p3", "mean"] * 3
    fixed = eval_fixed([ModelFixed(str(k), m) for k, m in enumerate(models())], data, method="spearman")
    subjects = frame[frame["subject"] != "mean"]
    assert_allclose(subjects["score"].to_numpy().reshape(3, 4), fixed.evaluations[0], atol=1e-12)
    assert subjects[["ci_low", "ci_high", "p"]].isna().to_numpy().all()
    mean = frame[frame["subject"] == "mean"]
    assert_allclose(mean["score"], fixed.get_means())
    assert_allclose(mean[["ci_low", "ci_high"]].to_numpy().T, fixed.get_ci(0.95), atol=1e-12)
    assert_allclose(mean["p"], fixed.test_zero(), atol=1e-12)
    assert_allclose(frame[["ceiling_lower", "ceiling_upper"]], np.tile(fixed.noise_ceiling, (15, 1)))
    assert set(frame["fitted"]) == {"unknown"}
    assert set(frame["pairs"]) == {"all"}
    assert set(frame["n_stimuli"]) == {N}
    assert mean["n_subjects"].tolist() == [4, 4, 4]
    assert set(frame["reason"]) == {""}


def test_order_of_rows_and_subjects_changes_nothing():
    def shuffled(rdms: RDMs, seed: int) -> RDMs:
        rng = np.random.default_rng(seed)
        ids = [IDS[k] for k in rng.permutation(N)]
        return RDMs(
            reindex(rdms, ids),
            rdm_descriptors=dict(rdms.rdm_descriptors),
            pattern_descriptors={"stimulus": ids},
        )[rng.permutation(len(rdms))]

    want = evaluate(models(), brain(rois=("EVC", "IT"))).to_frame()
    got = evaluate(shuffled(models(), 3), shuffled(brain(rois=("EVC", "IT")), 4)).to_frame()
    keys = ["layer", "roi", "subject"]
    pd.testing.assert_frame_equal(
        *(
            frame.sort_values(keys).drop(columns="dissimilarity").reset_index(drop=True)
            for frame in (want, got)
        )
    )


def test_rois_are_evaluated_separately():
    data = brain(rois=("EVC", "IT"))
    frame = evaluate(models(), data).correct("roi").to_frame()
    for name in ("EVC", "IT"):
        alone = evaluate(models(), data, roi=name).correct("roi").to_frame()
        pd.testing.assert_frame_equal(frame[frame["roi"] == name].reset_index(drop=True), alone)
        assert_allclose(alone["ceiling_lower"].iloc[0], noise_ceiling(select_rdms(data, roi=name))[0])
        chosen = evaluate(models(), select_rdms(data, roi=name)).correct("roi").to_frame()
        pd.testing.assert_frame_equal(chosen, alone)
    assert set(evaluate(models(), select_rdms(data, average="roi")).frame["roi"]) == {""}
    with pytest.raises(NeurordlError, match=r"V4.*EVC, IT"):
        evaluate(models(), data, roi="V4")


def test_rois_of_other_subjects_are_left_out():
    data = brain(rois=("IT", "monkey IT"))
    data.rdm_descriptors["subject"][4:] = ["m0", "m1", "m2", "m3"]
    frame = evaluate(models(), data, subjects=["p0", "p1"]).to_frame()
    assert set(frame["roi"]) == {"IT"}
    assert set(evaluate(models(), data).frame["roi"]) == {"IT", "monkey IT"}


def test_sessions_are_not_subjects():
    data = brain(subjects=2, rois=("IT", "IT"))
    data.rdm_descriptors["session"] = [1, 1, 2, 2]
    with pytest.raises(NeurordlError, match=r"'session'.*select= or average="):
        evaluate(models(), data)
    frame = evaluate(models(), select_rdms(data, average="session")).to_frame()
    assert set(frame["subject"]) == {"p0", "p1", "mean"}
    one = evaluate(models(), select_rdms(data, select={"session": 2})).to_frame()
    assert_allclose(one["score"].iloc[0], rsatoolbox_compare(models()[0], data[2], "rho-a")[0, 0])


def test_a_single_subject_has_no_ceiling_and_no_interval():
    frame = evaluate(models(), brain(subjects=1)).to_frame()
    assert np.isfinite(frame["score"]).all()
    assert frame[["ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"]].isna().to_numpy().all()
    reason = frame.set_index("subject")["reason"]
    assert set(reason["p0"]) == {"one subject: no noise ceiling"}
    assert set(reason["mean"]) == {"one subject: no interval, no p, no noise ceiling"}


def test_undefined_scores_have_a_reason_and_do_not_spread():
    data, dead = brain(), models()
    dead.dissimilarities[0] = np.nan
    dead.dissimilarities[2] = 0.5
    data.dissimilarities[1, :] = np.nan
    data.dissimilarities[1, 0] = 1.0
    frame = evaluate(dead, data, comparison="corr").to_frame()
    reasons = frame.set_index(["layer", "subject"])["reason"]
    assert "layer 'a' has no defined value" in reasons["a", "p0"]
    assert "layer 'a'" in reasons["a", "mean"]
    assert "1 pairs" in reasons["b1", "p1"]
    assert reasons["b1", "p0"] == reasons["b1", "mean"] == ""
    assert "layer 'b2' is constant" in reasons["b2", "p0"]
    assert frame["score"].isna().equals(frame["reason"] != "")
    mean = frame[frame["subject"] == "mean"].set_index("layer")
    assert mean["n_subjects"].to_dict() == {"a": 0, "b1": 3, "b2": 0}


def test_model_and_ceiling_are_on_the_same_pairs():
    data, holed = brain(), models()
    holed.dissimilarities[1, : N - 1] = np.nan  # stimulus s0 is undefined in layer b1
    frame = means(evaluate(holed, data))
    fewer = RDMs(data.get_matrices()[:, 1:, 1:], rdm_descriptors={"subject": ["p0", "p1", "p2", "p3"]})
    assert_allclose(frame.loc["b1", ["ceiling_lower", "ceiling_upper"]].astype(float), noise_ceiling(fewer))
    assert_allclose(frame.loc["a", ["ceiling_lower", "ceiling_upper"]].astype(float), noise_ceiling(data))


def test_models_by_name():
    stack = models()
    one_each = {name: stack[k] for k, name in enumerate(stack.rdm_descriptors["layer"])}
    pd.testing.assert_frame_equal(evaluate(one_each, brain()).frame, evaluate(stack, brain()).frame)
    assert list(means(evaluate(stack, brain(), layers=["b*"])).index) == ["b1", "b2"]
    with pytest.raises(NeurordlError, match="'c'; their names are: a, b1, b2"):
        evaluate(stack, brain(), layers="c")
    with pytest.raises(NeurordlError, match="one RDM per name"):
        evaluate({"all": stack}, brain())
    with pytest.raises(NeurordlError, match="got list"):
        evaluate([stack], brain())
    fewer = RDMs(np.arange(6.0)[None], pattern_descriptors={"stimulus": list(IDS[:4])})
    for order in ({"few": fewer, "all": stack[0]}, {"all": stack[0], "few": fewer}):
        with pytest.raises(NeurordlError, match="have different stimuli"):
            evaluate(order, brain())
    stack.rdm_descriptors = {"name": ["x", "x", "y"]}
    with pytest.raises(NeurordlError, match="'name' repeats"):
        evaluate(stack, brain())
    with pytest.raises(NeurordlError, match="dissimilarity= is for a network"):
        evaluate(models(), brain(), dissimilarity="cosine")


def test_layers_of_a_network_give_the_rdms_of_their_patterns():
    net, shuffled_images = network(), images(tuple(reversed(IDS)))
    scores = evaluate(net, brain(), stimuli=shuffled_images, comparison="corr", device=Compute(batch_size=5))
    assert "reordered" in str(scores)
    assert scores.match.reordered
    with torch.no_grad():
        features = net[0](images().images()).flatten(1).double().numpy()
    model = RDMs(1 - np.corrcoef(features)[None])
    want = rsatoolbox_compare(model, RDMs(brain().dissimilarities), "corr")[0].mean()
    assert means(scores).loc["0", "score"] == pytest.approx(want, abs=1e-6)
    assert set(scores.frame["fitted"]) == {"unknown"}
    assert set(scores.frame["dissimilarity"]) == {"correlation"}


def test_layers_in_groups_are_the_same_layers(monkeypatch):
    want = evaluate(network(), brain(), stimuli=images())
    pd.testing.assert_frame_equal(
        evaluate(network(), brain(), stimuli=images(), device=Compute(batch_size=5)).frame, want.frame
    )
    monkeypatch.setattr(module, "_AT_ONCE_BYTES", 1)
    pd.testing.assert_frame_equal(evaluate(network(), brain(), stimuli=images()).frame, want.frame)
    monkeypatch.setattr(module, "_PATTERN_BYTES", 1)
    pd.testing.assert_frame_equal(evaluate(network(), brain(), stimuli=images()).frame, want.frame)


def test_very_wide_layers_have_the_same_rdm(monkeypatch):
    want = evaluate(network(), brain(), stimuli=images(), comparison="corr").frame["score"]
    monkeypatch.setattr(module, "WIDE", 1)
    monkeypatch.setattr(distances, "WIDE", 1)
    assert_allclose(
        evaluate(network(), brain(), stimuli=images(), comparison="corr").frame["score"], want, atol=1e-6
    )


@pytest.mark.parametrize(
    "measure, used, told",
    [
        ("squared euclidean", "euclidean", None),
        ("crossnobis", "euclidean", "crossnobis"),
        ("squared mahalanobis", "euclidean", "mahalanobis"),
        ("percent agreement", "correlation", "unknown .'percent agreement'"),
        (None, "correlation", "unknown"),
    ],
)
def test_the_measure_of_the_network_follows_that_of_the_data(measure, used, told):
    def scores() -> Evaluation:
        return evaluate(network(), brain(measure=measure), stimuli=images(), layers=["0"])

    if told is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert set(scores().frame["dissimilarity"]) == {used}
    else:
        with pytest.warns(UserWarning, match=told):
            assert set(scores().frame["dissimilarity"]) == {used}
    named = evaluate(network(), brain(measure=measure), stimuli=images(), layers="0", dissimilarity="cosine")
    assert set(named.frame["dissimilarity"]) == {"cosine"}


def test_held_out_pairs_have_both_stimuli_unused(run):
    assert isinstance(run, RunLike)
    scores = evaluate(run, brain(), stimuli=images(), layers="0", pairs="held-out")
    subset = evaluate(run, brain(), stimuli=images(IDS[6:]), layers="0")
    pd.testing.assert_frame_equal(scores.frame, subset.frame)  # and so by default where none was used
    bare = evaluate(run.student, brain(), stimuli=images(IDS[6:]), layers="0")
    assert_array_equal(scores.frame["score"][:-1], bare.frame["score"][:-1])  # all but the mean
    assert set(scores.frame["pairs"]) == {"held-out"}
    assert set(scores.frame["n_stimuli"]) == {6}
    fitted = scores.frame.set_index("subject")["fitted"]
    assert fitted["p0"] == "stimuli: no, subjects: yes"
    assert fitted["p3"] == "stimuli: no, subjects: no"
    mean = means(scores).loc["0"]
    assert mean["fitted"] == "stimuli: no, subjects: no"  # the mean is over those who did not teach
    others = [name for name in scores.frame["subject"].unique() if name not in ("mean", *run.fitted_subjects)]
    assert mean["n_subjects"] == len(others) < scores.frame["subject"].nunique() - 1
    alone = means(evaluate(run, brain(), stimuli=images(IDS[6:]), layers="0", subjects=others)).loc["0"]
    columns = ["score", "ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"]
    assert_array_equal(mean[columns], alone[columns])
    everyone = [*run.fitted_subjects, *others]
    asked = evaluate(run, brain(), stimuli=images(IDS[6:]), layers="0", subjects=everyone)
    assert means(asked).loc["0", "fitted"] == "stimuli: no, subjects: some"
    assert means(asked).loc["0", "n_subjects"] == len(everyone)
    new = evaluate(run, brain(), stimuli=images(), layers="0", pairs="held-out", subjects=["p2", "p3"])
    assert means(new).loc["0", "fitted"] == "stimuli: no, subjects: no"


def test_the_group_is_the_mean_rdm_of_the_subjects():
    data = brain()
    data.dissimilarities[0, 3] = np.nan
    scores = evaluate(network(), data, stimuli=images(), layers="0", comparison="corr")
    rows = scores.group_rows()
    assert tuple(rows.columns) == COLUMNS
    assert rows["subject"].tolist() == ["group"]
    group = rows.iloc[0]
    mean = RDMs(
        np.nanmean(data.dissimilarities, axis=0, keepdims=True), pattern_descriptors=data.pattern_descriptors
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = evaluate(
            network(), mean, stimuli=images(), layers="0", comparison="corr", dissimilarity="correlation"
        )
    assert group["score"] == pytest.approx(alone.frame["score"].iloc[0])
    assert group["n_subjects"] == len(data)
    assert np.isnan(group["ceiling_upper"])
    assert "group" not in set(evaluate(network(), data, stimuli=images(), layers="0").frame["subject"])
    data.rdm_descriptors["subject"][0] = "group"
    with pytest.raises(NeurordlError, match="a subject is called 'group'"):
        evaluate(network(), data, stimuli=images(), layers="0")


def test_fitted_and_held_out_are_never_mixed_unasked(run):
    with pytest.raises(NeurordlError, match=r"used 6 of the 12 stimuli.*pairs='held-out'"):
        evaluate(run, brain(), stimuli=images())
    with pytest.raises(NeurordlError, match="used 5 of the 6"):  # validation stimuli are not held out
        evaluate(run, brain(), stimuli=images(IDS[1:7]))
    fitted = evaluate(run, brain(), stimuli=images(IDS[:6]), layers="0")
    assert set(fitted.frame["pairs"]) == {"fitted"}
    assert means(fitted).loc["0", "fitted"].startswith("stimuli: yes")
    everything = evaluate(run, brain(), stimuli=images(), layers="0", pairs="all")
    assert means(everything).loc["0", "fitted"].startswith("stimuli: some")
    for part, told in ((IDS[:6], "yes"), (IDS[6:], "no")):  # "all" says what those that are there are
        scores = evaluate(run, brain(), stimuli=images(part), layers="0", pairs="all")
        assert means(scores).loc["0", "fitted"].startswith(f"stimuli: {told}")


def test_the_three_kinds_of_pairs_share_out_all(run):
    data = brain()
    everyone = {"subjects": ["p0", "p1", "p2", "p3"]}
    cross = evaluate(run, data, stimuli=images(), layers="0", pairs="cross", comparison="corr", **everyone)
    with torch.no_grad():
        features = run.student[0](images().images()).flatten(1).double().numpy()
    model = (1 - np.corrcoef(features))[:6, 6:].ravel()
    square = data.get_matrices()[:, :6, 6:].reshape(4, -1)
    want = [np.corrcoef(model, row)[0, 1] for row in square]
    assert_allclose(cross.frame["score"][:4], want, atol=1e-6)
    assert set(cross.frame["n_stimuli"]) == {N}
    pooled = (square - square.mean(1, keepdims=True)) / square.std(1, keepdims=True)
    upper = np.mean([np.corrcoef(pooled.mean(0), row)[0, 1] for row in square])
    assert cross.frame["ceiling_upper"].iloc[0] == pytest.approx(upper)
    assert "one of each pair" in cross.frame["fitted"].iloc[0]


def test_a_run_without_rdl_has_everything_held_out(run):
    labels = replace(run, fitted_ids=(), validation_ids=(), fitted_subjects=())
    scores = evaluate(labels, brain(), stimuli=images(), layers="0")
    assert set(scores.frame["fitted"]) == {"stimuli: no, subjects: no"}
    with pytest.raises(NeurordlError, match="0 of the 12 matched are in fitted pairs"):
        evaluate(labels, brain(), stimuli=images(), pairs="fitted")
    with pytest.raises(NeurordlError, match="no cross pairs"):
        evaluate(labels, brain(), stimuli=images(), pairs="cross")


def test_bad_input_is_refused_clearly(run):
    with pytest.raises(NeurordlError, match=r"stimuli=.*held out 6, 's6'"):
        evaluate(run, brain())
    with pytest.raises(NeurordlError, match="as stimuli="):
        evaluate(network(), brain())
    for name in ("crossnobis", "mahalanobis"):
        with pytest.raises(NeurordlError, match=f"{name}.*which a network does not have: use 'euclidean'"):
            evaluate(network(), brain(), stimuli=images(), dissimilarity=name)
    other = replace(run, preprocessing=Preprocessing(size=(32, 32), channels=3, mean=None, std=None))
    with pytest.raises(NeurordlError, match=r"prepared as .*channels=1.* as .*size=\(32, 32\)"):
        evaluate(other, brain(), stimuli=images())
    with pytest.raises(NeurordlError, match="pairs='held-out' takes a run"):
        evaluate(run.student, brain(), stimuli=images(), pairs="held-out")
    with pytest.raises(NeurordlError, match="pairs='train'"):
        evaluate(run, brain(), stimuli=images(), pairs="train")
    with pytest.raises(NeurordlError, match="3 stimuli or more"):
        evaluate(network(), brain(), stimuli=images(IDS[:2]))
    with pytest.raises(NeurordlError, match="comparison='pearson'"):
        evaluate(models(), brain(), comparison="pearson")
    with pytest.raises(NeurordlError, match="conv9"):
        evaluate(network(), brain(), stimuli=images(), layers="conv9")
    with pytest.raises(NeurordlError, match="euclidian"):
        evaluate(network(), brain(), stimuli=images(), dissimilarity="euclidian")


def test_ids_without_data(run):
    data = brain()
    data = RDMs(
        data.get_matrices()[:, 1:, 1:],
        dissimilarity_measure="correlation",
        rdm_descriptors=dict(data.rdm_descriptors),
        pattern_descriptors={"stimulus": list(IDS[1:])},
    )
    with pytest.raises(NeurordlError, match="s0"):
        evaluate(network(), data, stimuli=images(), layers="0")
    scores = evaluate(network(), data, stimuli=images(), layers="0", missing="ignore")
    assert scores.match.missing == ("s0",)
    assert set(scores.frame["n_stimuli"]) == {N - 1}


def test_saved_with_what_was_done(tmp_path, run):
    scores = evaluate(run, brain(rois=("EVC", "IT")), stimuli=images(), pairs="held-out")
    out = scores.save(tmp_path / "results" / "first")
    assert sorted(path.name for path in out.iterdir()) == [
        "differences.csv",
        "evaluation.h5",
        "evaluation.json",
        "roi_differences.csv",
        "scores.csv",
    ]
    read = pd.read_csv(out / "scores.csv", keep_default_na=False, na_values=[""])
    assert_allclose(read["score"], scores.frame["score"])
    with h5py.File(out / "evaluation.h5") as file:
        assert [file[name].attrs["roi"] for name in file] == ["EVC", "IT"]
        assert_array_equal(file["roi1/scores"][()], scores.inferences["IT"].scores)
        assert file["roi0"].attrs["estimand"] == "the population of subjects, for these stimuli"
    record = json.loads((out / "evaluation.json").read_text())
    assert record["settings"]["pairs"] == "held-out"
    assert record["settings"]["subjects"]["IT"] == ["p0", "p1", "p2", "p3"]
    assert len(record["settings"]["sha256"]["rdms"]) == 64
    assert record["match"]["matched"] == list(IDS)
    assert "torch" in record["versions"]
    text = str(scores)
    assert "held-out pairs of 6 stimuli" in text
    assert "stimuli matched with RDMs" in text
    assert "<table" in scores._repr_html_()
    (tmp_path / "file").write_text("")
    with pytest.raises(NeurordlError, match="cannot make the folder"):
        scores.save(tmp_path / "file" / "below")


@pytest.mark.parametrize("bootstrap", [None, "subjects", "stimuli", "both"])
def test_bootstraps_are_those_of_infer_and_go_to_rsatoolbox(bootstrap):
    data, given = brain(rois=("EVC", "IT")), models()
    scores = evaluate(
        given, data, comparison="corr", bootstrap=bootstrap and Bootstrap(bootstrap, n=50, seed=3)
    )
    part = RDMs(data.dissimilarities[np.array(data.rdm_descriptors["roi"]) == "IT"])
    part.pattern_descriptors["stimulus"] = list(data.pattern_descriptors["stimulus"])
    vectors = reindex(given, IDS), reindex(part, IDS)
    found = infer(*vectors, "corr", bootstrap and Bootstrap(bootstrap, n=50, seed=3))
    mean = means(scores)[means(scores)["roi"] == "IT"]
    low, high = interval(found, center="data")
    p = p_values(found, center="data")
    assert_allclose(mean["score"], found.scores.mean(1))
    assert_allclose(mean["ci_low"], low)
    assert_allclose(mean["ci_high"], high)
    assert_allclose(mean["p"], p.zero)
    assert_allclose(mean["p_ceiling"], p.ceiling)
    corrected = scores.correct("roi")
    in_roi = means(corrected)[means(corrected)["roi"] == "IT"]
    assert_allclose(in_roi["p_fdr"], false_discovery_control(p.zero))
    assert set(mean["generalizes_to"]) == {
        {None: "subjects", "both": "subjects and stimuli"}.get(bootstrap, bootstrap)
    }
    between = scores.differences[scores.differences["roi"] == "IT"]
    i, j = np.triu_indices(3, 1)
    assert_allclose(between["p"], p.pairs[i, j])
    assert_allclose(between["difference"], found.scores.mean(1)[i] - found.scores.mean(1)[j])
    assert between["layer_a"].tolist() == ["a", "a", "b1"]
    theirs = scores.to_rsatoolbox("IT")
    assert_allclose(theirs.get_means(), found.means)
    assert_allclose(theirs.test_zero(), p_values(found).zero)
    assert_allclose(theirs.get_ci(0.95), interval(found), atol=1e-12)
    with pytest.raises(NeurordlError, match=r"takes one ROI.*'EVC', 'IT'"):
        scores.to_rsatoolbox()


def test_a_dead_layer_leaves_the_others_as_they_are():
    given = {name: models()[k] for k, name in enumerate("abc")}
    want = evaluate(given, brain(), bootstrap=Bootstrap("both", n=30))
    dead = RDMs(np.full((1, N * (N - 1) // 2), np.nan), pattern_descriptors={"stimulus": list(IDS)})
    got = evaluate({"dead": dead, **given}, brain(), bootstrap=Bootstrap("both", n=30))
    assert_array_equal(means(got)["p"][1:], means(want)["p"])
    assert_array_equal(means(got)["p_ceiling"][1:], means(want)["p_ceiling"])
    assert np.isnan(means(got)["p"].iloc[0])
    assert "no defined value" in means(got)["reason"].iloc[0]
    pairs = got.differences[got.differences["layer_a"] != "dead"].reset_index(drop=True)
    pd.testing.assert_frame_equal(pairs[["p", "ci_low"]], want.differences[["p", "ci_low"]])


@pytest.mark.parametrize("method", ["corr", "rho-a"])
@pytest.mark.parametrize("bootstrap", [None, "subjects", "stimuli", "both"])
def test_a_layer_that_misses_pairs_changes_no_other_row(bootstrap, method):
    """Each layer is held against the ceiling on its own pairs, in the columns and in the test."""
    given = models()
    want = means(
        evaluate(given, brain(), comparison=method, bootstrap=bootstrap and Bootstrap(bootstrap, n=30))
    )
    given.dissimilarities[1, : N - 1] = np.nan  # a dead stimulus
    got = means(
        evaluate(given, brain(), comparison=method, bootstrap=bootstrap and Bootstrap(bootstrap, n=30))
    )
    columns = ["score", "ci_low", "ci_high", "p", "p_ceiling", "ceiling_lower", "ceiling_upper"]
    assert_allclose(got.loc[["a", "b2"], columns], want.loc[["a", "b2"], columns], atol=1e-12)
    assert got.loc["b1", "ceiling_lower"] != want.loc["b1", "ceiling_lower"]


@pytest.mark.parametrize("method", ["corr", "cosine", "rho-a"])
def test_a_ceiling_no_better_than_chance_is_noticed(method):
    data = brain(rois=("EVC", "IT"))
    noise = np.random.default_rng(5).random((4, N * (N - 1) // 2))
    data.dissimilarities[4:] = noise  # in IT subjects have nothing in common
    scores = evaluate(models(), data, comparison=method)
    told = means(scores).groupby("roi")["reason"].unique()
    assert told["EVC"].tolist() == [""]
    p = scores.settings["subjects_agree_p"]
    assert p["EVC"] == pytest.approx(0.01)
    assert p["IT"] > 0.05
    assert told["IT"].tolist() == [
        "no evidence that the subjects agree (permutation test of the lower noise ceiling, "
        f"p = {p['IT']:.2f}): the noise ceiling may be chance"
    ]
    assert "no evidence that the subjects agree" in str(scores)
    assert evaluate(models(), data, comparison="bures").settings["subjects_agree_p"] == {
        "EVC": None,
        "IT": None,
    }


def test_the_table_is_a_copy():
    scores = evaluate(models(), brain())
    frame = scores.to_frame()
    frame["score"] = 0.0
    assert (scores.to_frame()["score"] != 0).all()


def test_a_fitted_rdm_is_known_again_under_another_name():
    teacher = RDMTeacher(brain(), subjects=["p0", "p1"])
    run = FakeRun(network(), fitted_rdms=frozenset(teacher.rdm_sha256), preprocessing=images().preprocessing)
    renamed = brain()
    renamed.rdm_descriptors["subject"] = ["a", "b", "c", "d"]
    order = np.random.default_rng(0).permutation(N)
    renamed.reorder(order)  # and in whatever order
    frame = evaluate(run, renamed, stimuli=images(IDS[6:]), layers="0").frame.set_index("subject")
    assert frame.loc["a", "fitted"] == "stimuli: no, subjects: yes"
    assert frame.loc["c", "fitted"] == "stimuli: no, subjects: no"
    assert frame.loc["mean", "n_subjects"] == 2


def test_one_text_may_name_several_layers():
    one = evaluate(models(), brain(), layers="a,b*").frame
    assert one["layer"].unique().tolist() == ["a", "b1", "b2"]
    several = evaluate(network(), brain(), stimuli=images(), layers="0,3").frame
    assert several["layer"].unique().tolist() == ["0", "3"]


def test_the_record_has_a_checksum_of_the_weights() -> None:
    def recorded(source: object, **options: object) -> str | None:
        return evaluate(source, brain(), comparison="corr", **options).settings["sha256"]["weights"]

    first = recorded(network(), stimuli=images())
    assert first == recorded(network(), stimuli=images()) == sha256_state(network().state_dict())
    assert recorded(FakeRun(network()), stimuli=images(), pairs="held-out") == first
    assert recorded(models()) is None
    changed = network()
    with torch.no_grad():
        changed[3].bias[0] += 1e-6
    assert recorded(changed, stimuli=images()) != first
    assert sha256_state(network().to(torch.bfloat16).state_dict()) not in (None, first)
    odd = network()
    odd.register_buffer("eight", torch.zeros(3).to(torch.float8_e4m3fn))
    assert sha256_state(odd.state_dict()) is None


def layers_with_different_pairs() -> tuple[RDMs, RDMs]:
    """Two layers with the same RDM, the second without 4 informative stimuli, and another; subjects."""
    rng = np.random.default_rng(3)
    n, ids = 16, [f"s{k:02d}" for k in range(16)]
    i, j = np.triu_indices(n, 1)
    geometry = rng.standard_normal(len(i)) + 3 * ((i < 4) != (j < 4))
    brains = geometry + rng.standard_normal((8, len(i)))
    layer = geometry + rng.standard_normal(len(i))
    lacking = np.where((i < 4) | (j < 4), np.nan, layer)
    another = geometry + 2 * rng.standard_normal(len(i))
    names = {"pattern_descriptors": {"stimulus": ids}, "dissimilarity_measure": "correlation"}
    models = RDMs(np.stack([layer, lacking, another]), rdm_descriptors={"name": ["a", "b", "c"]}, **names)
    return models, RDMs(brains, rdm_descriptors={"subject": [f"p{k}" for k in range(8)]}, **names)


@pytest.mark.parametrize("bootstrap", [None, "subjects", "stimuli", "both"])
@pytest.mark.parametrize("method", ["corr", "cosine", "rho-a"])
def test_layers_are_compared_on_the_pairs_that_both_have(method: str, bootstrap: str | None) -> None:
    models, brains = layers_with_different_pairs()
    scores = evaluate(models, brains, comparison=method, bootstrap=bootstrap)
    table = scores.differences.set_index(["layer_a", "layer_b"])
    same = table.loc[("a", "b")]
    np.testing.assert_allclose(same[["difference", "ci_low", "ci_high"]].astype(float), 0, atol=1e-12)
    assert same["p"] > 0.99
    assert table["n_pairs"].tolist() == [66, 120, 66]
    shared = np.isfinite(models.dissimilarities[1])
    of_two = rsatoolbox_compare(*(RDMs(x.dissimilarities[:, shared]) for x in (models, brains)), method)
    expected = of_two[1].mean() - of_two[2].mean()
    np.testing.assert_allclose(table.loc[("b", "c"), "difference"], expected, atol=1e-12)
    alone = evaluate(models.subset("name", ["a", "c"]), brains, comparison=method, bootstrap=bootstrap)
    np.testing.assert_allclose(
        table.loc[("a", "c"), ["difference", "ci_low", "ci_high"]].astype(float),
        alone.differences[["difference", "ci_low", "ci_high"]].iloc[0].astype(float),
        atol=1e-12,
    )
    assert any("b has 66" in note and "pairs that both have" in note for note in scores.notes)
    assert not any("pairs that both have" in note for note in alone.notes)


def test_a_run_is_measured_as_it_was_trained_where_the_data_do_not_say() -> None:
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).random((12, 8, 8, 1), dtype=np.float32)
    images = StimulusSet.from_array(
        pixels, [f"s{k:02d}" for k in range(12)], labels=[k % 2 for k in range(12)]
    )
    brains = RDMs(
        np.random.default_rng(1).random((3, 66)),
        rdm_descriptors={"subject": ["a", "b", "c"]},
        pattern_descriptors={"stimulus": list(images.ids)},
    )
    teacher = RDMTeacher(brains, subjects=["a"])
    losses = [RDMLoss(teacher, layer="conv2", dissimilarity="euclidean")]
    student = small_cnn(2, 1, width=4)
    run = fit(student, Objective(losses), images, epochs=1, execution=Execution(progress=False))
    with pytest.warns(UserWarning, match=r"unknown.*computed by euclidean"):
        scores = evaluate(run, brains, stimuli=images, layers=["conv2"], comparison="corr")
    assert set(scores.to_frame()["dissimilarity"]) == {"euclidean"}


def test_small_p_values_are_printed_as_such():
    rdms = simulate_subjects(np.eye(12), [f"s{k}" for k in range(12)], n_subjects=6)
    found = evaluate({"a": rdms.subset("subject", "s01")}, rdms)
    mean = found.frame["subject"] == "mean"
    found.frame.loc[mean, ["p", "p_fdr"]] = [0.0004, 0.0321]
    assert str(found).split("\n")[-1 - len(found.notes)].split()[5:8] == ["<", ".001", "0.032"]
    assert ">&lt; .001</td>" in found._repr_html_()
    found.frame.loc[mean, ["p", "p_fdr"]] = np.nan
    assert "nan" not in str(found).split("\n")[-1 - len(found.notes)]
