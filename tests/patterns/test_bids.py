"""What images inherit from higher BIDS folders: repetition times, events; and what sidecars say besides."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns.bids import read_metadata, volume_times
from neurordl.patterns.images import header_time

N = 40
EVENTS = pd.DataFrame({"onset": [4.0, 20.0, 36.0, 52.0], "duration": 4.0, "trial_type": list("abab")})


def write(path: Path, what: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(what, pd.DataFrame):
        what.to_csv(path, sep="\t", index=False)
    else:
        path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def write_bold(path: Path, t_r: float = 2.0, unit: str = "unknown", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = 500 + np.random.default_rng(seed).standard_normal((3, 3, 2, N))
    image = nib.Nifti1Image(values, np.eye(4))
    image.header.set_zooms((1, 1, 1, t_r))
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, path)
    return path


def taken(path: Path, t_r: float | None = None, ref: float | None = None) -> float:
    step, times, _ = volume_times(str(path), N, header_time(nib.load(path)), t_r, ref)
    np.testing.assert_allclose(times, step * (np.arange(N) + (ref or 0)))
    return step


@pytest.mark.parametrize("within", ["", "derivatives/fmriprep"])
def test_the_repetition_time_comes_from_the_closest_sidecar(tmp_path: Path, within: str) -> None:
    root = tmp_path / "ds" / within
    func = root / "sub-01" / "ses-2" / "func"
    path = write_bold(func / "sub-01_ses-2_task-x_run-1_space-MNI_desc-preproc_bold.nii.gz", t_r=0.0)
    with pytest.raises(
        NeurordlError, match="expected a number above 0 and of at most 60; set it with model=GLM"
    ):
        taken(path)
    # of others: another task, another subject, more than the image has, another suffix, another data set
    write(root / "task-y_bold.json", {"RepetitionTime": 9.1})
    write(root / "sub-02_task-x_bold.json", {"RepetitionTime": 9.2})
    write(func / "sub-01_ses-2_task-x_run-1_echo-1_space-MNI_desc-preproc_bold.json", {"RepetitionTime": 9.3})
    write(root / "task-x_sbref.json", {"RepetitionTime": 9.4})
    write(root.parent / "task-x_bold.json", {"RepetitionTime": 9.5})
    write(root / "notask_bold.json", {"RepetitionTime": 9.6})
    with pytest.raises(
        NeurordlError, match="expected a number above 0 and of at most 60; set it with model=GLM"
    ):
        taken(path)
    for step, place in enumerate(
        (
            root / "bold.json",
            root / "task-x_bold.json",
            root / "task-x_desc-preproc_bold.json",
            root / "sub-01" / "sub-01_task-x_bold.json",
            root / "sub-01" / "ses-2" / "sub-01_ses-2_task-x_bold.json",
            func / "sub-01_ses-2_task-x_run-1_bold.json",
            path.with_name(path.name.replace(".nii.gz", ".json")),
        ),
        start=1,
    ):
        write(place, {"RepetitionTime": step, f"key{step}": step})
        assert taken(path) == step
        assert read_metadata(str(path))["RepetitionTime"][1] == place
    # key by key: what the closest does not say is inherited
    assert {key for key in read_metadata(str(path)) if key != "RepetitionTime"} == {
        f"key{k}" for k in range(1, 8)
    }
    assert taken(path, t_r=1.5) == 1.5


def test_names_that_are_not_those_of_bids_have_the_file_beside_them(tmp_path: Path) -> None:
    path = write_bold(tmp_path / "my scan**[1].nii", t_r=0.0)
    write(tmp_path / "my scan**[1].json", {"RepetitionTime": 3})
    assert taken(path) == 3
    other = write_bold(tmp_path / "scan_bold.nii", t_r=2.0, unit="sec")
    write(tmp_path / "task-x_bold.json", {"RepetitionTime": 3})
    assert taken(other) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged, or not a .json file"),
        ("[1]", "is not a JSON object"),
        ({"RepetitionTime": "two"}, "='two': expected a number above 0"),
        ({"RepetitionTime": True}, "=True: expected a number above 0"),
        ({"RepetitionTime": 2000}, "=2000: expected a number above 0"),
        ({"VolumeTiming": [0, 2, 5]}, "its own time .VolumeTiming"),
    ],
)
def test_sidecars_that_say_nothing_usable(tmp_path: Path, content: Any, said: str) -> None:
    path = write_bold(tmp_path / "sub-01_task-x_bold.nii.gz", unit="sec")
    write(tmp_path / "task-x_bold.json", content)
    with pytest.raises(NeurordlError, match=said):
        nrl.read_patterns(path, None, EVENTS)
    assert nrl.read_patterns(path, None, EVENTS, model=nrl.GLM(t_r=2.0)).n_obs == 2


def test_two_files_as_close_as_each_other_are_refused(tmp_path: Path) -> None:
    path = write_bold(tmp_path / "sub-01_task-x_acq-a_bold.nii.gz", unit="sec")
    write(tmp_path / "task-x_bold.json", {"RepetitionTime": 2})
    write(tmp_path / "acq-a_bold.json", {"RepetitionTime": 3})
    with pytest.raises(NeurordlError, match=r"acq-a_bold.json and task-x_bold.json both apply"):
        taken(path)


def test_different_times_are_noticed(tmp_path: Path) -> None:
    path = write_bold(tmp_path / "sub-01_task-x_bold.nii.gz", t_r=2.5, unit="sec")
    write(tmp_path / "sub-01_task-x_bold.json", {"RepetitionTime": 2.0})
    with pytest.warns(
        UserWarning, match=r"sidecar .*bold.json says 2 s between volumes and the header 2.5 s"
    ):
        found = nrl.read_patterns(path, None, EVENTS)
    assert json.loads(found.descriptors["provenance"])["runs"][0]["t_r"] == 2.0


def notices_of(*call: Any, **options: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = nrl.read_patterns(*call, **options)
    return found, [str(warning.message) for warning in caught if "StartTime" in str(warning.message)]


@pytest.mark.parametrize("model", [nrl.GLM, nrl.LSA, nrl.LSS, nrl.Average])
@pytest.mark.parametrize("t_r", [None, 2.0])
def test_the_time_of_slices_is_that_of_the_sidecars(tmp_path: Path, model: Any, t_r: Any) -> None:
    paths = [write_bold(tmp_path / f"sub-01_task-x_run-{run}_bold.nii.gz", unit="sec") for run in range(3)]
    for path in paths[1:]:
        write(
            path.with_name(path.name.replace(".nii.gz", ".json")), {"RepetitionTime": 2.0, "StartTime": 0.98}
        )
    found, said = notices_of(paths[1:], None, [EVENTS] * 2, model=model(t_r=t_r))
    corrected = "slices were corrected to 0.98 s (StartTime of the sidecar)"
    assert said == [f"all images (2): {corrected}: slice_time_ref=0.49 is used"]
    expected, said = notices_of(paths[1:], None, [EVENTS] * 2, model=model(slice_time_ref=0.49))
    assert not said
    np.testing.assert_array_equal(found.measurements, expected.measurements)
    assert [run["slice_time_ref"] for run in json.loads(found.descriptors["provenance"])["runs"]] == [
        0.49
    ] * 2
    _, said = notices_of(paths, None, [EVENTS] * 3, model=model(slice_time_ref=0.0))
    assert len(said) == 1
    assert "run-1_bold.nii.gz (2): slices" in said[0]
    assert said[0].endswith("that is slice_time_ref=0.49, but slice_time_ref=0 is used")


@pytest.mark.parametrize(("start", "said"), [(0, 0), (0.0, 0), (2.0, 1), (-3.0, 1), (7.5, 1), ("early", 1)])
def test_start_times_of_all_sorts(tmp_path: Path, start: Any, said: int) -> None:
    path = write_bold(tmp_path / "sub-01_task-x_bold.nii.gz", unit="sec")
    write(tmp_path / "task-x_bold.json", {"StartTime": start})
    found, notices = notices_of(path, None, EVENTS)
    assert len(notices) == said
    used = json.loads(found.descriptors["provenance"])["runs"][0]["slice_time_ref"]
    assert used == (1.0 if start == 2.0 else 0.0)
    assert not notices_of(path, None, EVENTS, model=nrl.GLM(slice_time_ref=used))[1]


def test_events_are_inherited(tmp_path: Path) -> None:
    root = tmp_path / "ds" / "derivatives" / "fmriprep"
    for subject in ("01", "02"):
        for run in ("1", "2", "10"):
            stem = f"sub-{subject}_task-x_run-{run}_desc-preproc_bold.nii.gz"
            write_bold(root / f"sub-{subject}" / "func" / stem, unit="sec", seed=int(run))
    for_all = EVENTS.assign(trial_type=list("pqpq"))
    write(tmp_path / "ds" / "task-x_events.tsv", for_all)
    write(tmp_path / "ds" / "task-y_events.tsv", EVENTS)
    own = tmp_path / "ds" / "sub-02" / "func" / "sub-02_task-x_run-10_events.tsv"
    write(own, EVENTS)
    found = nrl.read_bids(root, "x", mask=None)
    assert set(found["sub-01"].obs_descriptors["stimulus"]) == {"p", "q"}
    assert found["sub-02"].obs_descriptors["stimulus"] == list("pqpqab")
    assert found["sub-02"].obs_descriptors["run"] == ["run-1", "run-1", "run-2", "run-2", "run-10", "run-10"]
    assert json.loads(found["sub-02"].descriptors["provenance"])["runs"][2]["events"] == own.name
    (tmp_path / "ds" / "task-x_events.tsv").unlink()
    with pytest.raises(NeurordlError, match=r"run-1_desc-preproc_bold.nii.gz has no events"):
        nrl.read_bids(root, "x", mask=None)


def test_resolutions_are_chosen_in_the_space(tmp_path: Path) -> None:
    func, names = tmp_path / "sub-01" / "func", []
    for number, entities in enumerate(("_res-1", "_res-2", "")):
        space = f"space-MNI{entities}" if entities else "space-T1w"
        names.append(f"sub-01_task-x_{space}_desc-preproc_bold.nii.gz")
        write_bold(func / names[-1], unit="sec", seed=number)
    write(func / "sub-01_task-x_events.tsv", EVENTS)
    for space, name in (("MNI_res-1", names[0]), ("space-MNI_res-2", names[1]), ("T1w", names[2])):
        found = nrl.read_bids(tmp_path, "x", space, mask=None)["sub-01"]
        assert json.loads(found.descriptors["provenance"])["images"] == [name]
    with pytest.raises(NeurordlError, match=r"res-.* belong to one run; choose one in space='MNI_res-[12]'"):
        nrl.read_bids(tmp_path, "x", "MNI")
    (func / names[0]).unlink()  # what is not ambiguous need not be chosen
    assert nrl.read_bids(tmp_path, "x", "MNI", mask=None)["sub-01"].n_obs == 2
    for space in ("MNI_res-1", "MNI152", None):
        with pytest.raises(
            NeurordlError, match="of this task there are space='MNI_res-2', 'T1w'; check root="
        ):
            nrl.read_bids(tmp_path, "x", space)


@pytest.mark.parametrize("suffix", [".nii", ".NII.GZ", ".nii.bz2"])
def test_a_folder_may_have_images_of_any_suffix(tmp_path: Path, suffix: str) -> None:
    func = tmp_path / "sub-01" / "func"
    path = write_bold(func / f"sub-01_task-x_bold{suffix.lower()}", t_r=3.0, unit="sec")
    path.rename(path.with_name(f"sub-01_task-x_bold{suffix}"))
    write(func / "sub-01_task-x_bold.json", {"RepetitionTime": 2.0})
    write(func / "sub-01_task-x_events.tsv", EVENTS)
    with pytest.warns(UserWarning, match="says 2 s between volumes and the header 3 s"):
        found = nrl.read_bids(tmp_path, "x", mask=None)["sub-01"]
    assert json.loads(found.descriptors["provenance"])["runs"][0]["t_r"] == 2.0


@pytest.mark.parametrize("stem", ["sub-01_task-x_bold", "sub-01_bold", "s1"])
def test_tables_and_sidecars_may_have_suffixes_in_capitals(tmp_path: Path, stem: str) -> None:
    """A sidecar named .JSON was passed over, and the time of the header taken."""
    func = tmp_path / "sub-01" / "func"
    path = write_bold(func / f"{stem}.nii.gz", t_r=3.0, unit="sec")
    write(func / f"{stem}.JSON", {"RepetitionTime": 2.0})
    assert taken(path) == 2.0
    if "task" in stem:
        table = write(func / "sub-01_task-x_events.TSV", EVENTS)
        assert set(nrl.read_bids(tmp_path, "x", mask=None)["sub-01"].obs_descriptors["stimulus"]) == {
            "a",
            "b",
        }
        packed = table.with_name("sub-01_task-x_events.tsv.gz")
        packed.write_bytes(gzip.compress(table.read_bytes()))
        table.unlink()
        with pytest.raises(NeurordlError, match=r"sub-01_task-x_events.tsv.gz is compressed; decompress it"):
            nrl.read_bids(tmp_path, "x", mask=None)


def test_braces_in_the_path_of_a_mask_are_its_own(tmp_path: Path) -> None:
    func = tmp_path / "sub-01" / "func"
    write_bold(func / "sub-01_task-x_bold.nii.gz", unit="sec")
    write(func / "sub-01_task-x_events.tsv", EVENTS)
    place = tmp_path / "{masks}"
    place.mkdir()
    nib.save(nib.Nifti1Image(np.ones((3, 3, 2), np.uint8), np.eye(4)), place / "sub-01.nii.gz")
    found = nrl.read_bids(tmp_path, "x", mask=place / "{subject}.nii.gz")
    assert found["sub-01"].n_channel == 18


def test_subjects_and_sessions_are_not_mixed(tmp_path: Path) -> None:
    for number, (subject, ses) in enumerate((s, k) for s in ("10", "1", "2") for k in "ab"):
        func = tmp_path / f"sub-{subject}" / f"ses-{ses}" / "func"
        write_bold(func / f"sub-{subject}_ses-{ses}_task-x_bold.nii.gz", unit="sec", seed=number)
        write(func / f"sub-{subject}_ses-{ses}_task-x_events.tsv", EVENTS)
    found = nrl.read_bids(tmp_path, "x", mask=None)
    assert list(found) == ["sub-1", "sub-2", "sub-10"]
    assert {data.n_obs for data in found.values()} == {4}
    some = nrl.read_bids(tmp_path, "x", mask=None, subjects="1", sessions=["ses-b"])
    assert list(some) == ["sub-1"]
    assert set(some["sub-1"].obs_descriptors["session"]) == {"ses-b"}
    np.testing.assert_array_equal(some["sub-1"].measurements, found["sub-1"].measurements[2:])


def test_of_a_data_set_the_derivatives_are_read(tmp_path: Path) -> None:
    """Raw images of the same task are not; a subject without prepared images is left out with a notice."""
    for place, seed in (("ds", 1), ("ds/derivatives/prep", 2)):
        for subject in ("1", "2")[: 3 - seed]:
            func = tmp_path / place / f"sub-{subject}" / "func"
            write_bold(func / f"sub-{subject}_task-x_bold.nii.gz", unit="sec", seed=seed)
    (tmp_path / "ds" / "derivatives" / "prep" / "sub-2").mkdir()
    (tmp_path / "ds" / "derivatives" / "freesurfer" / "sub-1").mkdir(parents=True)
    write(tmp_path / "ds" / "task-x_events.tsv", EVENTS)
    prepared = tmp_path / "ds" / "derivatives" / "prep"
    with pytest.warns(UserWarning, match="1 of 2 subjects in .*prep .* and are left out: sub-2"):
        own = nrl.read_bids(prepared, "x", mask=None)
    for folder in (tmp_path / "ds", tmp_path / "ds" / "derivatives"):
        with pytest.warns(UserWarning, match="holds derivatives: the images in .*prep are read"):
            found = nrl.read_bids(folder, "x", mask=None)
        assert list(found) == ["sub-1"]
        np.testing.assert_array_equal(found["sub-1"].measurements, own["sub-1"].measurements)
    again = prepared.with_name("prep2") / "sub-1" / "func"
    write_bold(again / "sub-1_task-x_bold.nii.gz", unit="sec", seed=3)
    with pytest.raises(
        NeurordlError, match="has images of task 'x' in prep, prep2; give one of these folders"
    ):
        nrl.read_bids(tmp_path / "ds", "x", mask=None)
