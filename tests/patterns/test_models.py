"""GLMs against numpy's least squares: runs, events and confounds as they come; events shifted already."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

import neurordl as nrl
from neurordl import GLM, LSA
from neurordl.errors import NeurordlError
from neurordl.patterns.models import Estimate, Run, RunModel

STUDY = Path(__file__).parents[2] / "data" / "simulated_fmri" / "study"
T_R = 2.0


def bold(values: Any) -> nib.Nifti1Image:
    """Of (volumes, voxels)."""
    image = nib.Nifti1Image(np.asarray(values).T[:, None, None], np.eye(4))
    image.header.set_zooms((1, 1, 1, T_R))
    image.header.set_xyzt_units("mm", "sec")
    return image


def least_squares(data: Any, events: pd.DataFrame, wanted: list[str], **options: Any) -> Any:
    design = make_first_level_design_matrix(T_R * np.arange(len(data)), events, **options)
    betas = np.linalg.lstsq(design.to_numpy(), data, rcond=None)[0]
    return betas[[design.columns.get_loc(name) for name in wanted]]


@pytest.mark.parametrize("hrf_model", ["spm", "glover", "spm + derivative + dispersion", None])
def test_runs_of_unequal_length_and_events_in_any_order(hrf_model: Any) -> None:
    rng = np.random.default_rng(0)
    images, tables, expected, names = [], [], [], []
    for run, n in enumerate((90, 61, 120)):
        data = 100 * rng.standard_normal((n, 6)) + 1000
        onsets = np.arange(4.0, 2 * n - 12, 9.5)
        events = pd.DataFrame({"onset": onsets, "duration": rng.uniform(2, 6, len(onsets))})
        events["trial_type"] = [f"s{k}" for k in np.arange(len(onsets)) % (4 + run)]
        there = list(dict.fromkeys(events["trial_type"]))
        expected.append(least_squares(data, events, there, hrf_model=hrf_model))
        names += there
        images.append(bold(data))
        tables.append(events.sample(frac=1, random_state=run))  # the index is out of order, too
    found = nrl.read_patterns(images, None, tables, model=GLM(hrf_model=hrf_model))
    assert found.obs_descriptors["stimulus"] == names
    np.testing.assert_allclose(found.measurements, np.concatenate(expected), atol=1e-8)


def test_confounds_of_very_different_scales() -> None:
    """Six motion parameters and three signals with derivatives and squares, as fMRIPrep writes them."""
    rng = np.random.default_rng(0)
    n = 200
    steps = np.repeat([0.01, 2e-4, 5.0], 3)
    base = pd.DataFrame(np.cumsum(rng.standard_normal((n, 9)) * steps, axis=0)) + np.repeat([0, 0, 1e4], 3)
    slope = base.diff()
    regressors = pd.concat([base, slope, base**2, slope**2], axis=1).set_axis(
        [f"c{k}" for k in range(36)], axis=1
    )
    scaled = regressors.fillna(0)
    scaled = (scaled - scaled.mean()) / scaled.std()
    data = 500 + 20 * rng.standard_normal((n, 5)) + 50 * scaled[["c31"]].to_numpy()  # squared, of a rotation
    events = pd.DataFrame(
        {"onset": np.arange(10.0, 370, 12), "duration": 2.0, "trial_type": list("abc") * 10}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the design has full rank
        found = nrl.read_patterns(bold(data), None, events, confounds=regressors)
    exact = least_squares(data, events, ["a", "b", "c"], hrf_model="spm", add_regs=scaled)
    np.testing.assert_allclose(found.measurements, exact, atol=1e-6)


def test_events_without_duration_are_nilearns_impulses() -> None:
    data = np.random.default_rng(0).standard_normal((80, 4))
    events = pd.DataFrame({"onset": np.arange(5.0, 140, 11), "duration": 0.0})
    events["trial_type"] = ["a", "b"] * 6 + ["a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nilearn's names our columns
        found = nrl.read_patterns(bold(data), None, events)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = least_squares(data, events, ["a", "b"], hrf_model="spm")
    np.testing.assert_allclose(found.measurements, exact, atol=1e-8)


def test_a_run_of_one_volume_is_refused() -> None:
    events = pd.DataFrame({"onset": [0.0], "duration": [1.0], "trial_type": ["a"]})
    with pytest.raises(NeurordlError, match="cannot make the design matrix"):
        nrl.read_patterns(bold(np.ones((1, 3))), None, events)


# events that are shifted by the hemodynamic lag, or are not


def told(*args: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        nrl.read_patterns(*args, **options)
    return [str(one.message) for one in notices if "hemodynamic" in str(one.message)]


def test_shifted_events_are_noticed(data_root: Path) -> None:
    folder = data_root / "haxby2001_slice"
    call = (
        sorted(folder.glob("*_slice_bold.nii.gz")),
        folder / "slice_brain_mask.nii.gz",
        sorted(folder.glob("*_events.tsv")),
    )
    assert "already shifted by the hemodynamic lag, use model='average'" in told(*call)[0]
    assert told(*call, model=GLM(hrf_model=None)) == []
    assert told(*call, model="average") == []
    back = [pd.read_csv(path, sep="\t") for path in call[2]]
    back = [events.assign(onset=events["onset"] - 5.0) for events in back]
    assert told(*call[:2], back) == []
    assert (
        "unless they are already shifted by the hemodynamic lag, use model='glm'"
        in told(*call[:2], back, model="average")[0]
    )


@pytest.mark.parametrize("model", ["glm", "lsa", "lss"])
def test_unshifted_events_are_not_taken_for_shifted_ones(model: Any) -> None:
    func = STUDY / "sub-01" / "func"
    images, events = sorted(func.glob("*_bold.nii.gz"))[:2], sorted(func.glob("*_events.tsv"))[:2]
    assert told(images, STUDY / "IT.nii.gz", events, model=model) == []
    assert len(told(images, STUDY / "IT.nii.gz", events, model="average")) == 1


def test_noise_alone_follows_nothing() -> None:
    events = pd.DataFrame({"onset": np.arange(5.0, 200, 12), "duration": 6.0})
    events["trial_type"] = [f"s{k % 4}" for k in range(len(events))]
    for seed in range(20):
        noise = np.random.default_rng(seed).standard_normal((120, 30))
        assert told([bold(noise)] * 1, None, [events]) == []
        assert told([bold(noise)] * 1, None, [events], model="average") == []
    # too short to be seen between volumes: nothing can be said
    assert told(bold(noise), None, events.assign(onset=events["onset"] + 0.5, duration=0.1)) == []


# what no other test would see


def test_a_duplicate_regressor_costs_no_second_degree_of_freedom_and_is_noticed() -> None:
    data = np.random.default_rng(0).standard_normal((80, 4))
    events = pd.DataFrame({"onset": np.arange(5.0, 140, 11), "duration": 3.0})
    events["trial_type"] = ["a", "b"] * 6 + ["a"]
    one = pd.DataFrame({"csf": np.random.default_rng(1).standard_normal(80)})
    _, left = nrl.read_patterns(bold(data), None, events, confounds=one, residuals=True)
    with pytest.warns(UserWarning, match=r"has rank (\d+) for (\d+) regressors"):
        again, same = nrl.read_patterns(
            bold(data), None, events, confounds=one.assign(again=2 * one["csf"]), residuals=True
        )
    assert left.obs_descriptors["dof"] == same.obs_descriptors["dof"]
    exact = least_squares(data, events, ["a", "b"], hrf_model="spm", add_regs=one)
    np.testing.assert_allclose(again.measurements, exact, atol=1e-6)


def test_regressors_without_volumes_or_response_are_refused() -> None:
    rng = np.random.default_rng(0)
    events = pd.DataFrame({"onset": [5.0, 40.5], "duration": [3.0, 0.2], "trial_type": ["a", "b"]})
    many = pd.DataFrame(rng.standard_normal((40, 38)))
    data = bold(rng.standard_normal((40, 4)))
    with pytest.raises(NeurordlError, match="regressors for 40 volumes leave no degrees of freedom"):
        nrl.read_patterns(data, None, events, confounds=many)
    last = events.assign(onset=[5.0, 78.5])  # the last volume is at 78 s
    for model, table in ((GLM(hrf_model=None), events), (GLM(), last)):
        with pytest.warns(
            UserWarning, match="of 'b' less than 10% of the response lies within the volumes of t"
        ):
            assert nrl.read_patterns(data, None, table, model=model).obs_descriptors["stimulus"] == ["a"]
    with pytest.raises(NeurordlError, match=r"'b' less than 10% .*1 of 1 patterns., and no pattern is left"):
        nrl.read_patterns(data, None, last[1:])


def test_events_at_the_end_without_a_name_and_with_numbers_for_names() -> None:
    data = bold(np.random.default_rng(0).standard_normal((40, 4)))  # 80 s
    events = pd.DataFrame({"onset": [4.0, 30.0, 71.0], "duration": 16.0, "trial_type": [1.0, None, 2.0]})
    with pytest.warns(UserWarning, match="1 of 3 events have no trial_type"):
        found = nrl.read_patterns(data, None, events)
    assert found.obs_descriptors["stimulus"] == ["1", "2"]
    with pytest.raises(NeurordlError, match=r"1 of 2 events lie outside the run, .*from 80 s to 80 s"):
        nrl.read_patterns(data, None, events.assign(onset=[4.0, 30.0, 80.0], duration=0.0))
    with pytest.raises(NeurordlError, match="1 of 2 events lie outside the run"):
        nrl.read_patterns(data, None, events.assign(duration=18.1))


@pytest.mark.parametrize("model", ["glm", "average"])
def test_temporally_smooth_noise_gives_no_notice(model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(150, 300))
    for t in range(1, 150):
        noise[t] += 0.9 * noise[t - 1]
    image = nib.Nifti1Image((100 + noise.T.reshape(10, 10, 3, 150)).astype(np.float32), np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    onsets = np.arange(4.0, 286.0, 8.0)
    names = [f"c{k % 6}" for k in range(len(onsets))]
    events = pd.DataFrame({"onset": onsets, "duration": 4.0, "trial_type": names})
    assert told(image, events=events, model=model) == []


# patterns that a run says next to nothing about


REGULAR = pd.DataFrame(
    {"onset": [10.0, 40, 70, 100, 130, 160, 190, 210], "duration": 4.0, "trial_type": list("abababab")}
)


def with_event(onset: float, duration: float = 1.0, name: str = "late") -> pd.DataFrame:
    row = pd.DataFrame({"onset": [onset], "duration": [duration], "trial_type": [name]})
    return pd.concat([REGULAR, row], ignore_index=True)


@pytest.mark.parametrize("onset", [235.9, 236.5, 237.5, 239.5, -26.0, -30.0])
@pytest.mark.parametrize("model", ["glm", "lsa", "lss"])
def test_events_at_the_edge_of_a_run_give_no_pattern(model: Any, onset: float) -> None:
    """By least squares, their betas are more than three times as noisy as those of a whole response."""
    data = np.random.default_rng(0).standard_normal((120, 400))
    name = "late" if model == "glm" else "a"
    events = with_event(onset, name=name)
    at = "" if model == "glm" else f" at {onset:g} s"
    with pytest.warns(
        UserWarning, match=rf"of '{name}'{at} less than 10% of the response .* 1 of \d patterns l"
    ):
        patterns = nrl.read_patterns(bold(data), None, events, model=model)
    names = ["a", "b"] if model == "glm" else list("abababab")
    assert patterns.obs_descriptors["stimulus"] == names
    if model != "glm":
        assert patterns.obs_descriptors["onset"] == REGULAR["onset"].tolist()
    # the event is still modeled
    events = events.assign(trial_type=[f"t{k}" for k in range(9)]) if model == "lsa" else events
    if model != "lss":
        shift = 0 if onset > 0 else 20  # volumes before the run
        moved = events.assign(onset=events["onset"] + 2.0 * shift)
        times = 2.0 * np.arange(120 + shift)
        design = make_first_level_design_matrix(times, moved, hrf_model="spm", drift_model=None).iloc[shift:]
        drifts = make_first_level_design_matrix(2.0 * np.arange(120), hrf_model="spm", drift_model="cosine")
        X = pd.concat([design.iloc[:, :-1].reset_index(drop=True), drifts.reset_index(drop=True)], axis=1)
        wanted = [
            X.columns.get_loc(column) for column in (names if model == "glm" else [f"t{k}" for k in range(8)])
        ]
        exact = np.linalg.lstsq(X.to_numpy(), data, rcond=None)[0][wanted]
        np.testing.assert_allclose(patterns.measurements, exact, atol=1e-5)
        sd = np.sqrt(np.diag(np.linalg.pinv(X.to_numpy().T @ X.to_numpy())))[wanted]
        np.testing.assert_allclose(patterns.measurements.std(axis=1), sd, rtol=0.15)
    else:
        assert patterns.measurements.std(axis=1).max() < 3 * patterns.measurements.std(axis=1).min()


@pytest.mark.filterwarnings("error:.*left out")
@pytest.mark.parametrize("model", ["glm", "lsa", "lss"])
def test_events_of_which_enough_is_seen_give_patterns(model: Any) -> None:
    data = bold(np.random.default_rng(0).standard_normal((120, 4)))
    for events in (
        REGULAR,
        with_event(232.0),
        with_event(-4.0),
        with_event(20.0, 0.0),
        with_event(150.0, 60.0),
    ):
        patterns = nrl.read_patterns(data, None, events, model=model)
        assert set(patterns.obs_descriptors["stimulus"]) == set(events["trial_type"])


def test_an_event_between_volumes_says_so_without_a_response() -> None:
    data = bold(np.random.default_rng(0).standard_normal((120, 4)))
    events = with_event(20.5, 0.1)
    with pytest.warns(UserWarning, match="of 'late' less than 10% of the response lies within the volumes"):
        patterns = nrl.read_patterns(data, None, events, model=GLM(hrf_model=None))
    assert patterns.obs_descriptors["stimulus"] == ["a", "b"]


def test_an_event_whose_volumes_are_excluded_gives_no_pattern() -> None:
    data, kept = np.random.default_rng(0).standard_normal((120, 4)), np.delete(np.arange(120), range(35, 52))
    run = Run(
        "run",
        data[kept],
        REGULAR.rename(columns={"trial_type": "condition"}),
        2.0 * np.arange(120),
        None,
        kept,
    )
    with pytest.warns(UserWarning, match="of 'a' at 70 s less than 10% of the response"):
        assert LSA().fit(run).rows["trial"].tolist() == [1, 1, 2, 3, 3, 4, 4]


def test_patterns_that_regressors_cannot_tell_apart_are_left_out() -> None:
    data = np.random.default_rng(0).standard_normal((120, 4))
    events = with_event(40.0, 4.0, "cue")  # with the first b
    with pytest.warns(
        UserWarning, match="'b' at 40 s, 'cue' at 40 s cannot be separated from other.* 2 of 9 pat"
    ):
        patterns = nrl.read_patterns(bold(data), None, events, model="lsa")
    assert patterns.obs_descriptors["stimulus"] == list("aababab")
    confounds = pd.DataFrame(data[:, :1] + np.arange(120)[:, None], columns=["x"])
    design, columns = GLM().design(
        Run("run", data, REGULAR.rename(columns={"trial_type": "condition"}), 2.0 * np.arange(120)),
        REGULAR["trial_type"].tolist(),
    )
    near = design[columns["b"]].to_numpy() + 1e-3 * data[:, 0]  # nearly what b evokes
    with pytest.warns(
        UserWarning,
        match="of 'b' the noise is more than 10 times that of the best condition: 1 of 3 patterns",
    ):
        patterns = nrl.read_patterns(
            bold(data), None, with_event(20.0), confounds=confounds.assign(near=near)
        )
    assert patterns.obs_descriptors["stimulus"] == ["a", "late"]


@pytest.mark.parametrize("twin", ["condition", "confound", "trials"])
def test_patterns_are_judged_by_the_best_where_half_of_them_are_bad(twin: str) -> None:
    """The median of two or three conditions was as bad as they are, and nothing was said."""
    data = np.random.default_rng(0).standard_normal((120, 400))
    events, confounds = REGULAR, None
    if twin == "confound":
        run = Run("run", data, events.rename(columns={"trial_type": "condition"}), 2.0 * np.arange(120))
        design, columns = GLM().design(run, events["trial_type"].tolist())
        noise = 1e-3 * np.random.default_rng(1).standard_normal(120)
        confounds = pd.DataFrame({"x": design[columns["a"]].to_numpy() + noise})
    else:
        again = events[events["trial_type"] == "a"]
        again = again.assign(trial_type="c", onset=again["onset"] + 0.05)
        events = pd.concat([events, again])
    if twin == "trials":  # most of them, and the median
        with pytest.warns(UserWarning, match=r"the noise of the patterns is \d+ times that of events alo"):
            nrl.read_patterns(bold(data), None, events, model="lsa")
        return
    count = "1 of 2" if twin == "confound" else "2 of 3"
    with pytest.warns(UserWarning, match=f"10 times that of the best condition: {count} patterns left out"):
        patterns = nrl.read_patterns(bold(data), None, events, confounds=confounds)
    assert patterns.obs_descriptors["stimulus"] == ["b"]
    assert patterns.measurements.std() < 1


def test_conditions_are_judged_by_their_differences() -> None:
    """Blocks that fill a run say little about each condition, and much about how they differ."""
    data = np.random.default_rng(0).standard_normal((120, 400))
    onsets = np.arange(0.0, 240.0, 20.0)
    blocks = pd.DataFrame({"onset": onsets, "duration": 20.0, "trial_type": list("ab") * 6})
    buttons = pd.DataFrame({"onset": onsets[:10] + 7.0, "duration": 0.5, "trial_type": "button"})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(left out|the noise)")
        patterns = nrl.read_patterns(bold(data), None, pd.concat([blocks, buttons]))
    assert sorted(patterns.obs_descriptors["stimulus"]) == ["a", "b", "button"]
    a, b = (patterns.measurements[patterns.obs_descriptors["stimulus"].index(name)] for name in "ab")
    assert (a - b).std() < a.std()


def test_a_condition_without_a_pattern_can_be_left_out() -> None:
    data = bold(np.random.default_rng(0).standard_normal((120, 4)))
    with pytest.warns(UserWarning, match="of 'late' less than 10%"):
        patterns = nrl.read_patterns(data, None, with_event(239.0), leave_out="late")
    assert patterns.obs_descriptors["stimulus"] == ["a", "b"]


# a model of one's own


def test_a_model_of_a_script_is_used_like_those_of_the_package() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Peak(RunModel):
        """The volume that is taken some seconds after the first event of a condition."""

        seconds: float = 5.0
        name: ClassVar[str] = "peak"
        takes_confounds: ClassVar[bool] = False

        def fit(self, run: Run) -> Estimate:
            first = run.events.groupby("condition", sort=False)["onset"].first()
            volumes = [int(np.argmin(abs(run.times - onset - self.seconds))) for onset in first]
            rows = pd.DataFrame({"condition": list(first.index)})
            return Estimate(rows, run.data[volumes], np.delete(run.data, volumes, axis=0), len(run.data))

    data = np.random.default_rng(0).standard_normal((40, 4))
    events = pd.DataFrame({"onset": [4.0, 30.0], "duration": 5.0, "trial_type": ["a", "b"]})
    patterns, residuals = nrl.read_patterns(bold(data), None, events, model=Peak(seconds=6.0), residuals=True)
    np.testing.assert_allclose(patterns.measurements, data[[5, 18]])
    assert residuals.n_obs == 38
    assert json.loads(patterns.descriptors["provenance"])["seconds"] == 6.0
    with pytest.raises(NeurordlError, match="'peak' takes no confounds"):
        nrl.read_patterns(bold(data), None, events, model=Peak(), confounds=pd.DataFrame({"x": range(40)}))
    with pytest.raises(NeurordlError, match=r"RunModel has no method fit"):
        nrl.read_patterns(bold(data), None, events, model=RunModel())
