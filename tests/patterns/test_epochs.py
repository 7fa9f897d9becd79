"""read_epochs: MNE's epochs, evoked responses and their files, and arrays; what is dropped is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest

from neurordl import NeurordlError, Noise, Windows, compute_rdms, read_epochs

CODES = {"face": 1, "house": 2, "tool": 3}
IDS = ["face", "house", "tool", "tool", "face", "house"]


def epochs(types: str = "eeg", seed: int = 0, metadata: bool = False, bad: bool = False) -> Any:
    """Six trials of four channels and a trigger channel, 30 samples from -0.1 s."""
    names = [f"C{k}" for k in range(4)]
    info = mne.create_info([*names, "STI"], 100.0, [*[types] * 4, "stim"])
    events = np.c_[np.arange(6) * 100, np.zeros(6, int), [CODES[name] for name in IDS]]
    data = np.random.default_rng(seed).normal(size=(6, 5, 30)) * 1e-6
    table = pd.DataFrame({"image": [f"{name}.png" for name in IDS], "block": [1, 1, 1, 2, 2, 2]})
    table = table if metadata else None
    result = mne.EpochsArray(data, info, events, -0.1, CODES, metadata=table, verbose="ERROR")
    result.info["bads"] = ["C3"] if bad else []
    return result


def test_epochs_of_an_object_and_of_a_file_are_those_of_mne(tmp_path: Path) -> None:
    source = epochs(bad=True)
    path = tmp_path / "sub-07_task-view_run-2_epo.fif"
    source.save(path, verbose="ERROR")
    expected = source.get_data(picks=["C0", "C1", "C2"])
    for given, tolerance in ((source, 0.0), (path, 1e-12)):  # files have single precision
        with pytest.warns(UserWarning, match="1 channels are marked as bad and left out: C3"):
            trials = read_epochs(given)
        np.testing.assert_allclose(trials.measurements, expected, atol=tolerance)
        assert list(trials.obs_descriptors["stimulus"]) == IDS
        assert list(trials.channel_descriptors["channel"]) == ["C0", "C1", "C2"]
        assert list(trials.channel_descriptors["type"]) == ["eeg"] * 3
        np.testing.assert_allclose(trials.time_descriptors["time"], np.arange(30) / 100 - 0.1)
        assert trials.descriptors.get("subject") == (None if given is source else "07")
    assert source.info["bads"] == ["C3"]  # the user's object is as before
    assert len(source.ch_names) == 5


def test_metadata_name_stimuli_and_runs() -> None:
    source = epochs(metadata=True)
    trials = read_epochs(source, "image", run="block", subject="s1")
    assert list(trials.obs_descriptors["stimulus"]) == [f"{name}.png" for name in IDS]
    assert list(trials.obs_descriptors["run"]) == ["1", "1", "1", "2", "2", "2"]
    rdms = compute_rdms(trials, "crossnobis", noise=Noise("diagonal", times=(-0.1, 0.0)))
    assert len(rdms) == 30
    assert rdms.rdm_descriptors["subject"][0] == "s1"
    source.metadata.loc[3, "image"] = "n/a"
    with pytest.warns(UserWarning, match="1 of 6 trials have no stimulus"):
        assert len(read_epochs(source, "image").measurements) == 5


def test_dropped_epochs_are_counted_and_ids_follow() -> None:
    source = epochs()
    source.drop([1, 4], reason="blink", verbose="ERROR")
    with pytest.warns(UserWarning, match=r"2 of 6 epochs were dropped \(blink 2\)"):
        trials = read_epochs(source)
    kept = [0, 2, 3, 5]
    assert list(trials.obs_descriptors["stimulus"]) == [IDS[k] for k in kept]
    with pytest.warns(UserWarning, match="dropped"):
        named = read_epochs(source, [f"image{k}" for k in range(6)])
    assert list(named.obs_descriptors["stimulus"]) == [f"image{k}" for k in kept]
    # a Series is taken by position, whatever its index, such as that of a sorted table
    series = pd.Series([f"image{k}" for k in range(6)], index=[3, 1, 2, 0, 5, 4])
    with pytest.warns(UserWarning, match="dropped"):
        named = read_epochs(source, series, run=pd.Series(range(6), index=range(1, 7)))
    assert list(named.obs_descriptors["stimulus"]) == [f"image{k}" for k in kept]
    assert list(named.obs_descriptors["run"]) == [str(k) for k in kept]
    with pytest.raises(NeurordlError, match="has 5 values, and the epochs has 4 trials"):
        read_epochs(source, ["a"] * 5)
    source.drop([0, 1, 2, 3], verbose="ERROR")
    with pytest.raises(NeurordlError, match="no epochs left"):
        read_epochs(source)


def test_files_are_runs(tmp_path: Path) -> None:
    paths = [tmp_path / f"sub-07_run-{run}-epo.fif" for run in (1, 4)]
    for seed, path in enumerate(paths):
        epochs(seed=seed).save(path, verbose="ERROR")
    trials = read_epochs(paths)
    assert list(trials.obs_descriptors["run"]) == ["1"] * 6 + ["4"] * 6
    assert trials.descriptors["subject"] == "07"
    np.testing.assert_allclose(trials.measurements[6:], epochs(seed=1).get_data(picks="eeg"), atol=1e-12)
    assert list(read_epochs([epochs(), epochs()]).obs_descriptors["run"]) == ["1"] * 6 + ["2"] * 6
    with pytest.raises(
        NeurordlError, match=r"epochs 2 has other times than the epochs 1 \(11 from 0 to 0.1 s"
    ):
        read_epochs([epochs(), epochs().crop(0, 0.1)])
    with (
        pytest.warns(UserWarning, match="bad"),
        pytest.raises(NeurordlError, match=r"other channels .*\(not in both: C3\)"),
    ):
        read_epochs([epochs(), epochs(bad=True)])
    with pytest.raises(NeurordlError, match=r"channels in another order.*reorder_channels"):
        read_epochs([epochs(), epochs().reorder_channels(["C1", "C0", "C2", "C3", "STI"])])


def test_files_of_two_people_are_not_runs_of_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"sub-{subject}-epo.fif" for subject in ("01", "02")]
    for path in paths:
        epochs().save(path, verbose="ERROR")
    with pytest.raises(NeurordlError, match=r"of 2 subjects \(01, 02\).*read_epochs for each"):
        read_epochs(paths)
    assert read_epochs(paths, subject="01").descriptors["subject"] == "01"


def test_runs_of_several_sessions_are_not_one_run(tmp_path: Path) -> None:
    paths = [tmp_path / f"sub-1_ses-{session}_run-{run}_epo.fif" for session in "ab" for run in (1, 2)]
    paths += [tmp_path / f"sub-1_task-{task}_epo.fif" for task in "xy"]
    for path in paths:
        epochs().save(path, verbose="ERROR")
    assert list(dict.fromkeys(read_epochs(paths[:4]).obs_descriptors["run"])) == ["a 1", "a 2", "b 1", "b 2"]
    assert list(dict.fromkeys(read_epochs(paths[4:]).obs_descriptors["run"])) == ["1", "2"]
    assert len(set(read_epochs([paths[0], paths[0]]).obs_descriptors["run"])) == 2


@pytest.mark.parametrize("none", [None, np.nan, pd.NA, " "])
def test_trials_without_a_stimulus_or_run_are_left_out(none: Any) -> None:
    data, times = np.arange(6 * 4 * 5.0).reshape(6, 4, 5), np.arange(5) / 100
    with pytest.warns(UserWarning, match="1 of 6 trials have no stimulus"):
        trials = read_epochs(data, [none, *IDS[1:]], times=times, run=[1.0] * 6)
    assert list(trials.obs_descriptors["stimulus"]) == IDS[1:]
    np.testing.assert_array_equal(trials.measurements, data[1:])
    with pytest.warns(UserWarning, match="2 of 6 trials have no run"):
        trials = read_epochs(data, IDS, times=times, run=[1.0, 1.0, none, none, 2.0, 2.0])
    assert list(trials.obs_descriptors["run"]) == ["1", "1", "2", "2"]
    assert list(trials.obs_descriptors["stimulus"]) == [IDS[k] for k in (0, 1, 4, 5)]
    with (
        pytest.warns(UserWarning, match="6 of 6 trials have no run"),
        pytest.raises(NeurordlError, match="no trial of the array has a run"),
    ):
        read_epochs(data, IDS, times=times, run=[none] * 6)
    source = epochs(metadata=True)
    source.metadata = source.metadata.astype({"image": object})
    source.metadata.loc[3, "image"] = none
    with pytest.warns(UserWarning, match="1 of 6 trials have no stimulus"):
        assert len(read_epochs(source, "image").measurements) == 5


def test_a_list_of_names_is_not_taken_for_each_of_several_objects() -> None:
    for options in ({"stimulus": IDS}, {"run": [1, 1, 2, 2, 3, 3]}, {"stimulus": IDS + IDS}):
        with pytest.raises(
            NeurordlError, match=r"is a list, which names the trials of one .* there are 2; put"
        ):
            read_epochs([epochs(), epochs(seed=1)], **options)  # type: ignore[arg-type]


def test_a_list_names_evoked_responses() -> None:
    parts = [epochs()[name].average() for name in CODES]
    assert list(read_epochs(parts, ["a", "b", "c"]).obs_descriptors["stimulus"]) == ["a", "b", "c"]


def test_standard_errors_are_no_responses(tmp_path: Path) -> None:
    parts = [epochs()["face"].average(), epochs()["face"].standard_error()]
    mne.write_evokeds(tmp_path / "x-ave.fif", parts, verbose="ERROR")
    for given in (parts, tmp_path / "x-ave.fif"):
        with pytest.raises(NeurordlError, match=r"1 of 2 of .* are standard errors \(face\)"):
            read_epochs(given)


def test_projections_that_are_not_applied_are_said() -> None:
    source = epochs()
    source.set_eeg_reference(projection=True, verbose="ERROR")
    with pytest.warns(
        UserWarning, match=r"1 projections are not applied \(Average EEG reference\); apply_proj"
    ):
        read_epochs(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read_epochs(source.apply_proj(verbose="ERROR"))


def test_bad_channels_that_picks_names_are_said_to_be_used() -> None:
    source = epochs(bad=True)
    with pytest.warns(UserWarning, match="1 channels that picks= names are marked as bad: C3"):
        trials = read_epochs(source, picks=["C1", "C3"])
    assert list(trials.channel_descriptors["channel"]) == ["C1", "C3"]


def test_evoked_responses(tmp_path: Path) -> None:
    source = epochs()
    evoked = [source[name].average() for name in CODES]
    mne.write_evokeds(tmp_path / "sub-07-ave.fif", evoked, verbose="ERROR")
    expected = np.stack([part.data for part in evoked])
    for given in (evoked, tmp_path / "sub-07-ave.fif"):
        trials = read_epochs(given)
        assert list(trials.obs_descriptors["stimulus"]) == list(CODES)
        np.testing.assert_allclose(trials.measurements, expected, atol=1e-12)
    # the RDM of evoked responses is that of the trials' means
    ours, theirs = (compute_rdms(read_epochs(x), "euclidean") for x in (source, evoked))
    np.testing.assert_allclose(ours.dissimilarities, theirs.dissimilarities, rtol=1e-9)


def test_a_covariance_of_mne_whitens() -> None:
    source = epochs(bad=True)
    covariance = mne.Covariance(np.diag([4.0, 1.0, 9.0, 1.0]) * 1e-12, ["C2", "C0", "C1", "C3"], [], [], 5)
    with pytest.warns(UserWarning, match="bad"):
        trials = read_epochs(source)
    ours = compute_rdms(trials, "mahalanobis", noise=covariance, windows=Windows(width=0.05))
    expected = compute_rdms(
        trials, "mahalanobis", precision=np.diag([1, 1 / 9, 1 / 4]) * 1e12, windows=Windows(width=0.05)
    )
    np.testing.assert_allclose(ours.dissimilarities, expected.dissimilarities, rtol=1e-9)


def test_a_covariance_whose_channels_have_other_names() -> None:
    trials = read_epochs(np.ones((6, 4, 30)), IDS, times=np.arange(30) / 100)
    covariance = mne.Covariance(np.eye(2), ["C0", "C1"], [], [], 5)
    with pytest.raises(
        NeurordlError,
        match=r"no channel of Dataset 0 \(0, 1, 2, 3\) has a name in the covariance \(C0, C1\); name",
    ):
        compute_rdms(trials, "mahalanobis", noise=covariance)
    with pytest.raises(
        NeurordlError, match="are not in the covariance: 'C2', 'C3'; pick channels that it has"
    ):
        compute_rdms(read_epochs(epochs()), "mahalanobis", noise=covariance)


def test_what_is_missing_for_noise_and_cross_validation() -> None:
    trials = read_epochs(
        np.random.default_rng(0).normal(size=(6, 4, 30)), list("abcdef"), times=np.arange(30)
    )
    with pytest.raises(NeurordlError, match=r"no repeats of its 6 stimuli .* give residuals=, or the cov"):
        compute_rdms(trials, "correlation", noise=Noise("shrinkage_diag", times=(0, 9)))
    with pytest.raises(NeurordlError, match="it has 'stimulus': name the run of each measurement"):
        compute_rdms(trials, "crossnobis")
    with pytest.warns(UserWarning, match="rounded to") as notices:
        compute_rdms(trials, "euclidean", windows=Windows(width=2.4))
    assert sum("rounded" in str(notice.message) for notice in notices) == 1
    with pytest.warns(UserWarning, match="Dataset 0 and 2 more: the last 2 of 30 samples") as notices:
        compute_rdms([trials] * 3, "euclidean", windows=Windows(width=4))
    assert len(notices) == 1
    evoked = [epochs(bad=True)[name].average() for name in CODES]
    with pytest.warns(UserWarning, match="marked as bad and left out") as notices:
        read_epochs(evoked)
    assert len(notices) == 1


def test_an_array_has_ids_and_times() -> None:
    data, times = np.random.default_rng(0).normal(size=(6, 4, 30)), np.arange(30) / 100
    trials = read_epochs(data, IDS, times=times, run=[1, 1, 1, 2, 2, 2], subject="s1")
    assert np.shares_memory(trials.measurements, data)
    assert list(trials.obs_descriptors["run"]) == ["1", "1", "1", "2", "2", "2"]
    for options, message in (
        ({"times": times}, "6 trials without ids"),
        ({"stimulus": "image", "times": times}, "without ids"),
        ({"stimulus": IDS}, "30 samples and no times"),
        ({"stimulus": IDS, "times": times[:-1]}, "30 samples and 29 times"),
        ({"stimulus": IDS, "times": times[:4]}, r"shape \(6, 4, 30\) .* order \(trials, channels, times\)"),
        ({"stimulus": IDS, "times": times[::-1]}, "numbers that increase"),
        ({"stimulus": IDS, "times": [*times[:-1], np.nan]}, "numbers that increase"),
        ({"stimulus": IDS[:-1], "times": times}, "has 5 values, and the array has 6 trials"),
        ({"stimulus": ["n/a"] * 6, "times": times}, "no trial of the array has a stimulus"),
    ):
        with pytest.raises(NeurordlError, match=message):
            read_epochs(data, **options)
    with pytest.raises(NeurordlError, match=r"\(trials, channels, times\)"):
        read_epochs(data[0], IDS, times=times)
    with pytest.warns(
        UserWarning, match=r"times from 0 to 290 are taken as seconds; if they are milliseconds"
    ):
        read_epochs(data, IDS, times=times * 1000)
    with pytest.raises(NeurordlError, match=r"trials\.mat is no file of MNE; load the array"):
        read_epochs("trials.mat", IDS, times=times)


def test_bad_input(tmp_path: Path) -> None:
    info = mne.create_info(["M", "G"], 100.0, ["mag", "grad"])
    events = np.c_[np.arange(3), np.zeros(3, int), [1, 2, 3]]
    both = mne.EpochsArray(np.ones((3, 2, 5)), info, events, event_id=CODES, verbose="ERROR")
    with pytest.raises(NeurordlError, match=r"several types \(grad, mag\)"):
        read_epochs(both)
    assert read_epochs(both, picks="mag").measurements.shape == (3, 1, 5)
    with pytest.warns(UserWarning, match="several types"):
        assert read_epochs(both, picks=["mag", "grad"]).measurements.shape == (3, 2, 5)
    with pytest.raises(NeurordlError, match="fits picks='ecog'"):
        read_epochs(epochs(), picks="ecog")
    with pytest.raises(NeurordlError, match="it has no metadata"):
        read_epochs(epochs(), "image")
    with pytest.raises(NeurordlError, match="its metadata have image, block"):
        read_epochs(epochs(metadata=True), "name")
    with pytest.raises(NeurordlError, match="not dict"):
        read_epochs({})
    with pytest.raises(NeurordlError, match="there is no file"):
        read_epochs(tmp_path / "x-epo.fif")
    (tmp_path / "x-epo.fif").write_bytes(b"no")
    with pytest.raises(NeurordlError, match="cannot read"):
        read_epochs(tmp_path / "x-epo.fif")
    with pytest.raises(NeurordlError, match="times= is for an array"):
        read_epochs(epochs(), times=[0.0])
