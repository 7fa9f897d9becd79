"""Which table is which image's, rows of betas with their files, and arguments of the wrong kind."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.glm.first_level import make_first_level_design_matrix

import neurordl as nrl
from neurordl import GLM, LSA, Average, Confounds, Regions
from neurordl.errors import NeurordlError
from neurordl.patterns.bids import match_tables

EVENTS = pd.DataFrame({"onset": [4.0, 20.0, 36.0, 52.0], "duration": 4.0, "trial_type": list("abab")})


def bold() -> nib.Nifti1Image:
    image = nib.Nifti1Image(500 + np.random.default_rng(0).standard_normal((3, 3, 2, 40)), np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    return image


def test_by_entities_in_any_order_or_by_order() -> None:
    images = [f"sub-1_ses-{ses}_run-{run}_bold.nii" for ses in "12" for run in ("1", "2", "10")]
    tables = [f"sub-1_ses-{ses}_task-x_run-{run}_events.tsv" for run in ("10", "2", "1") for ses in "21"]
    assert match_tables(images, tables, "events") == [5, 3, 1, 4, 2, 0]
    assert match_tables(["run1.nii", "run2.nii"], ["run1.tsv", "run2.tsv"], "events") == [0, 1]
    with pytest.warns(
        UserWarning,
        match=r"^2 of 6 tables of events are of no image .*: sub-1_ses-2_run-2, sub-1_ses-1_run-2$",
    ):
        assert match_tables([*images[:1], *images[2:4], images[5]], tables, "events") == [5, 1, 4, 0]
    # the sessions are only in the names of the images: by order, which the runs do not contradict
    assert match_tables(images[:2] + images[3:5], [f"run-{k}_e.tsv" for k in "1212"], "events") == [
        0,
        1,
        2,
        3,
    ]
    assert match_tables(["run1.nii", "run2.nii"], [EVENTS, EVENTS], "events") == [0, 1]


@pytest.mark.parametrize(
    ("images", "tables", "silent"),
    [
        (["a.nii", "b.nii"], ["y.tsv", "x.tsv"], False),
        (["scan_3.nii", "scan_7.nii"], ["log_1.tsv", "log_2.tsv"], False),
        (["faces.nii", "houses.nii"], ["houses.tsv", "faces.tsv"], False),
        (["faces_bold.nii.gz", "houses_bold.nii.gz"], ["log_faces.tsv", "log_houses.tsv"], True),
        (["run01.nii", "run02.nii"], ["run1.tsv", "run2.tsv"], True),
        (["run-1_bold.nii", "run-2_bold.nii"], ["run-2_events.tsv", "run-1_events.tsv"], True),
        (["a.nii"], ["x.tsv"], True),
        (["a.nii", "b.nii"], [EVENTS, EVENTS], True),
        (["the image", "the image"], ["y.tsv", "x.tsv"], True),
    ],
)
def test_ambiguous_file_names_are_noticed(images: Any, tables: Any, silent: bool) -> None:
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        match_tables(images, tables, "events")
    assert [str(one.message)[:56] for one in notices] == (
        [] if silent else ["the names do not show which events belong to which image"]
    )


@pytest.mark.parametrize(
    ("images", "tables", "told"),
    [
        # unique only with the sessions, which the tables lack
        (
            [f"ses-{ses}_run-{run}_bold.nii" for ses in "12" for run in "12"],
            [f"run-{run}_events.tsv" for run in "2121"],
            "ses-1_run-1_bold.nii would go with the events run-2_events.tsv, .* of another run",
        ),
        # by run alone, since one name has no session
        (
            ["ses-1_run-1_bold.nii", "ses-1_run-2_bold.nii"],
            ["ses-2_run-1_events.tsv", "run-2_events.tsv"],
            "of another ses",
        ),
        # what a glob makes of names that are not those of BIDS
        (
            ["run1.nii.gz", "run10.nii.gz", "run2.nii.gz"],
            ["run1.tsv", "run2.tsv", "run10.tsv"],
            "run10.nii.gz would go with run2.tsv",
        ),
    ],
)
def test_an_order_that_names_contradict_is_refused(images: Any, tables: Any, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        match_tables(images, tables, "events")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": None}, "images= is None"),
        ({"images": [5]}, "the image is a int; expected a path"),
        ({"mask": 5}, "the mask is a int; expected a path"),
        ({"events": 5}, "events= is 5"),
        ({"events": [5]}, "is a int; expected a TSV"),
        ({"session": 1}, "session= is 1"),
        ({"runs": 3}, "runs= is 3"),
        ({"leave_out": 5}, "leave_out= is 5"),
        ({"events": pd.concat([EVENTS, EVENTS[["onset"]]], axis=1)}, "two columns 'onset'"),
        ({"model": GLM}, "or a model with its settings, such as GLM"),
    ],
)
def test_arguments_of_the_wrong_type(change: dict[str, Any], told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        nrl.read_patterns(**{"images": bold(), "events": EVENTS, **change})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (lambda: GLM(noise_model="foo"), "noise_model='foo': expected 'ols' or 'ar1'"),
        (lambda: GLM(noise_model=None), "noise_model=None"),
        (lambda: GLM(hrf_model=["spm"]), r"hrf_model=\['spm'\]: expected the name"),
        (
            lambda: LSA(slice_time_ref="x"),
            "slice_time_ref='x': expected a number of at least 0 and of at most 1",
        ),
        (lambda: Average(slice_time_ref=1.5), "slice_time_ref=1.5"),
        (lambda: Confounds(columns=["csf"]), "columns= needs tables="),
        (lambda: Regions(None, labels={1: "IT"}), "without an atlas"),
    ],
)
def test_settings_that_cannot_be(settings: Any, told: str) -> None:
    with pytest.raises(NeurordlError, match=told):
        settings()


@pytest.mark.parametrize("option", [{"hrf_model": "glover"}, {"noise_model": "ar1"}])
def test_settings_that_a_model_does_not_have(option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(option))):
        Average(**option)
    with pytest.raises(TypeError, match="detrend"):
        GLM(**option, detrend=True)


def test_one_name_may_be_a_string() -> None:
    regressors = pd.DataFrame(np.random.default_rng(1).standard_normal((40, 2)), columns=["csf", "x"])
    call = {"images": bold(), "events": EVENTS}
    one = nrl.read_patterns(**call, confounds=Confounds(regressors, "csf"))
    np.testing.assert_array_equal(
        one.measurements, nrl.read_patterns(**call, confounds=Confounds([regressors], ["csf"])).measurements
    )
    assert nrl.read_patterns(bold(), None, EVENTS, model="average").n_obs == 2


# rows of betas


def beta_files(folder: Path, runs: list[str]) -> list[Path]:
    files = [folder / f"sub-07_ses-2_run-{run}_betas.nii.gz" for run in runs]
    for number, file in enumerate(files):
        values = np.random.default_rng(number).standard_normal((3, 3, 2, 2))
        nib.save(nib.Nifti1Image(values, np.eye(4)), file)
    return files


def rows(runs: list[Any], **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"stimulus": list("ab") * len(runs), "run": np.repeat(runs, 2), **more})


def test_rows_of_another_run_than_their_volume_are_refused(tmp_path: Path) -> None:
    images = beta_files(tmp_path, ["1", "10", "2"])
    with pytest.raises(NeurordlError, match=r"row 3 .* has run 2, and its volume is of sub-07_ses-2_run-10_"):
        nrl.read_betas(images, rows([1, 2, 10]))
    for runs in ([1, 10, 2], ["run-01", "run-10", "run-02"], [1.0, 10.0, 2.0], ["ses-2_run-1", "10", "2"]):
        found = nrl.read_betas(images, rows(runs))
        np.testing.assert_array_equal(found.measurements[2], nib.load(images[1]).get_fdata()[..., 0].ravel())
    with pytest.raises(NeurordlError, match="has subject sub-08, and its volume is of sub-07"):
        nrl.read_betas(images, rows([1, 10, 2], subject="sub-08"))
    with pytest.raises(NeurordlError, match="has session 3"):
        nrl.read_betas(images, rows([1, 10, 2], session=3))
    nrl.read_betas(images, rows([1, 10, 2], session="ses-2", subject="07"))


def test_runs_are_named_once(tmp_path: Path) -> None:
    images = beta_files(tmp_path, ["1", "2"])
    with pytest.raises(NeurordlError, match=r"run is a column of .* and an argument"):
        nrl.read_betas(images, rows([1, 2]), runs=["a", "b"])
    with pytest.raises(NeurordlError, match=r"session is a column of .* and an argument"):
        nrl.read_betas(images, rows([1, 2], session="2"), session="2")
    found = nrl.read_betas(images, rows([1, 2]).drop(columns="run"), runs=["a", "b"])
    assert found.obs_descriptors["run"] == ["a", "a", "b", "b"]


# the rows of events


TIMES = np.array([10, 40, 70, 100, 130, 160, 190, 215.0])
NAMED = pd.DataFrame({"onset": TIMES, "duration": 4.0, "trial_type": ["a", "b"] * 4})


def evoked(names: list[str], volumes: int = 120) -> nib.Nifti1Image:
    """Series without noise: 3 for each event of a, 1 for those of b, 2 for all other."""
    amplitudes = [{"a": 3.0, "b": 1.0}.get(name, 2.0) for name in names]
    events = NAMED.assign(modulation=amplitudes, trial_type="x")
    design = make_first_level_design_matrix(2.0 * np.arange(volumes), events, "spm", drift_model=None)
    image = nib.Nifti1Image(np.broadcast_to(100 + design["x"].to_numpy(), (2, 2, 1, volumes)), np.eye(4))
    image.header.set_zooms((1, 1, 1, 2.0))
    image.header.set_xyzt_units("mm", "sec")
    return image


def betas_of(names: list[str], table: Any) -> dict[str, float]:
    patterns = nrl.read_patterns(evoked(names), None, table)
    return dict(zip(patterns.obs_descriptors["stimulus"], patterns.measurements[:, 0].tolist(), strict=True))


def as_file(folder: Path, table: pd.DataFrame) -> Path:
    table.to_csv(folder / "events.tsv", sep="\t", index=False)
    return folder / "events.tsv"


@pytest.mark.parametrize("name", ["", " ", "n/a", "N/A", "nan", " NaN"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_events_without_a_name_are_left_out_with_their_count(
    tmp_path: Path, name: str, in_memory: bool
) -> None:
    names = [name, "b", name, *NAMED["trial_type"][3:]]
    table = NAMED.assign(trial_type=names)
    said = r"2 of 8 events have no trial_type .blank or n/a. and are not modeled, rows 1, 3 .from 1"
    with pytest.warns(UserWarning, match=said):
        betas = betas_of(names, table if in_memory else as_file(tmp_path, table))
    assert list(betas) == ["b", "a"]


def test_events_of_several_runs_without_a_name_are_one_notice() -> None:
    names = ["n/a", "b", "n/a", *NAMED["trial_type"][3:]]
    tables = [
        NAMED.assign(trial_type=names),
        NAMED,
        NAMED.assign(trial_type=["n/a", *NAMED["trial_type"][1:]]),
    ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nrl.read_patterns([evoked(names)] * 3, None, tables)
    texts = [str(warning.message) for warning in caught if "have no trial_type" in str(warning.message)]
    said = "2 of 3 runs: 3 of 24 events have no trial_type (blank or n/a) and are not modeled, such as rows "
    assert len(texts) == 1
    assert texts[0].startswith(f"{said}1, 3 of DataFrame 1 (from 1, below the header)")


@pytest.mark.parametrize("name", [None, np.nan, pd.NA])
def test_missing_names_of_a_frame_are_left_out_with_their_count(name: Any) -> None:
    with pytest.warns(UserWarning, match=r"1 of 8 events have no trial_type.* rows 3 .from 1"):
        betas_of(list("abababab"), NAMED.assign(trial_type=["a", "b", name, *"babab"]))


@pytest.mark.parametrize("name", ["NA", "<NA>", "#N/A", "null", "NULL", "None"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_names_that_other_software_takes_for_missing_are_names(
    tmp_path: Path, name: str, in_memory: bool
) -> None:
    names = [name, "b", name, *NAMED["trial_type"][3:]]
    table = NAMED.assign(trial_type=names)
    with pytest.warns(UserWarning, match=rf"column 'trial_type': '{name}' is taken for a name .2 of 8 rows"):
        betas = betas_of(names, table if in_memory else as_file(tmp_path, table))
    np.testing.assert_allclose([betas["a"], betas["b"], betas[name]], [3, 1, 2], atol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["none", "Null event", "Na", "nothing", "0", '5"', 'the "a"'])
def test_other_names_are_names_without_a_notice(tmp_path: Path, name: str) -> None:
    names = [name, "b", name, *NAMED["trial_type"][3:]]
    betas = betas_of(names, as_file(tmp_path, NAMED.assign(trial_type=names)))
    np.testing.assert_allclose([betas["a"], betas["b"], betas[name]], [3, 1, 2], atol=1e-6)


@pytest.mark.parametrize("marked", ['"a', '"'])
def test_a_quotation_mark_swallows_no_rows(tmp_path: Path, marked: str) -> None:
    rows = [f"{row.onset}\t4.0\t{marked if row.trial_type == 'a' else 'b'}" for row in NAMED.itertuples()]
    (tmp_path / "events.tsv").write_text("\n".join(["onset\tduration\ttrial_type", *rows]))
    with pytest.raises(
        NeurordlError, match=r"events.tsv: the quotation marks in line 2 .from 1. do not belong"
    ):
        betas_of(list("abababab"), tmp_path / "events.tsv")


def test_a_repeated_row_is_named() -> None:
    twice = pd.concat([NAMED, NAMED.iloc[[2, 3]]], ignore_index=True)
    for model in ("glm", "lsa", "lss", "average"):
        with pytest.raises(NeurordlError, match=r"rows 3 and 9 .* the event 'a' at 70 s .2 such.; leave one"):
            nrl.read_patterns(evoked(list("abababab")), None, twice, model=model)
    with pytest.warns(UserWarning, match=r"rows 3 and 9 .* at 70 s, which is modeled twice .2 such"):
        nrl.read_patterns(evoked(list("abababab")), None, twice.assign(side=[0] * 8 + [1] * 2))


@pytest.mark.parametrize("start", [-2.0, -13.0, -29.5])
def test_events_before_the_run_are_those_of_a_longer_run(start: float) -> None:
    volumes, early = np.random.default_rng(0).standard_normal((120, 4)), 20  # volumes before the run
    onsets = [start, *TIMES[1:]]
    design = make_first_level_design_matrix(
        2.0 * np.arange(120 + early),
        NAMED.assign(onset=[x + 2.0 * early for x in onsets]),
        "spm",
        drift_model=None,
    )
    image = nib.Nifti1Image(volumes.T.reshape(2, 2, 1, 120), np.eye(4))
    model = nrl.GLM(t_r=2.0, drift_model=None)
    patterns = nrl.read_patterns(image, None, NAMED.assign(onset=onsets), model=model)
    expected = np.linalg.lstsq(design.to_numpy()[early:], volumes, rcond=None)[0][:2]
    np.testing.assert_allclose(patterns.measurements, expected, rtol=1e-6)


def test_events_whose_response_ends_before_the_run_are_refused() -> None:
    with pytest.raises(NeurordlError, match=r"events lie outside the run, .* from -36 s to -32 s"):
        nrl.read_patterns(evoked(list("abababab")), None, NAMED.assign(onset=[-36.0, *TIMES[1:]]))


def test_confounds_without_a_value_are_left_out_with_their_count() -> None:
    volumes = np.random.default_rng(0).standard_normal((120, 4))
    image, model = nib.Nifti1Image(volumes.T.reshape(2, 2, 1, 120), np.eye(4)), nrl.GLM(t_r=2.0)
    csf = pd.DataFrame({"csf": volumes[:, 0] + np.arange(120)})
    for empty in (np.nan, None, "n/a", " "):
        full = csf.assign(edge=empty, wm=csf["csf"] ** 2, flow=empty)
        with pytest.warns(UserWarning, match="2 of 4 confounds hold no value and are left out: edge, flow"):
            patterns = nrl.read_patterns(image, None, NAMED, model=model, confounds=full)
        expected = nrl.read_patterns(image, None, NAMED, model=model, confounds=full[["csf", "wm"]])
        np.testing.assert_array_equal(patterns.measurements, expected.measurements)
        with pytest.raises(
            NeurordlError, match="the confound 'edge' holds no value; take it out of columns="
        ):
            nrl.read_patterns(image, None, NAMED, model=model, confounds=nrl.Confounds(full, ["csf", "edge"]))
    with pytest.raises(NeurordlError, match="column 'text' are missing or not numbers"):
        nrl.read_patterns(image, None, NAMED, model=model, confounds=csf.assign(text="left"))


def test_compressed_tables_and_rows_without_a_stimulus_are_named(tmp_path: Path) -> None:
    (tmp_path / "events.tsv.gz").write_bytes(gzip.compress(b"onset\tduration\ttrial_type\n1\t1\ta\n"))
    with pytest.raises(NeurordlError, match=r"events.tsv.gz is compressed; decompress it"):
        betas_of(list("abababab"), tmp_path / "events.tsv.gz")
    table = pd.DataFrame({"stimulus": ["a", "n/a", "b", None]})
    with pytest.raises(NeurordlError, match=r"has 2 rows without a stimulus .2, 4, from 1."):
        nrl.read_betas(nib.Nifti1Image(np.random.default_rng(0).random((2, 2, 1, 4)), np.eye(4)), table)


@pytest.mark.parametrize(("name", "ways"), [("A", "letter case"), ("a ", "blanks")])
def test_names_that_differ_only_in_writing_are_noticed(name: str, ways: str) -> None:
    names = ["a", "b", name, *NAMED["trial_type"][3:]]
    with pytest.warns(UserWarning, match=f"conditions of the events: 1 of 3 ids differs .* only by {ways}"):
        betas_of(names, NAMED.assign(trial_type=names))
    image = nib.Nifti1Image(np.random.default_rng(0).random((2, 2, 1, 3)), np.eye(4))
    with pytest.warns(UserWarning, match=f"stimuli of .*: 1 of 3 ids differs from another only by {ways}"):
        nrl.read_betas(image, pd.DataFrame({"stimulus": ["a", "b", name]}))
    atlas = nib.Nifti1Image(np.array([[[1], [2]], [[3], [3]]], np.uint8), np.eye(4))
    regions = nrl.Regions(atlas, {1: "a", 2: "b", 3: name})
    with pytest.warns(UserWarning, match=f"atlas .* 1 of 3 ids .* only by {ways}.* they are other regions"):
        nrl.read_betas(image, pd.DataFrame({"stimulus": ["x", "y", "z"]}), regions)
    pixels = np.zeros((3, 2, 2), np.uint8)
    with pytest.warns(UserWarning, match=f"'label': 1 of 3 ids .* only by {ways}.* they are other classes"):
        nrl.StimulusSet.from_array(pixels, ["x", "y", "z"], labels=["a", "b", name])


@pytest.mark.parametrize("names", [[1.0, 2.0, 3.0], [1, 2, 3], ["1", "2", "3"]])
def test_numbers_as_names_are_written_alike(names: list[Any]) -> None:
    image = nib.Nifti1Image(np.random.default_rng(0).random((2, 2, 1, 3)), np.eye(4))
    patterns = nrl.read_betas(image, pd.DataFrame({"stimulus": names}))
    assert patterns.obs_descriptors["stimulus"] == ["1", "2", "3"]


def test_events_that_overlap_with_their_own_condition_are_counted() -> None:
    events = pd.DataFrame(
        {
            "onset": [0.0, 5.0, 20.0, 26.0, 28.0],
            "duration": [10.0, 2, 6.005, 5, 1],
            "trial_type": list("aabba"),
        }
    )
    with pytest.warns(UserWarning, match=r"1 of 5 events begin before .*'a' at 5 s, until 10 s"):
        nrl.read_patterns(bold(), events=events, model="average")
    events.loc[0, "duration"] = 4.0  # 6.005 s is rounded, and another condition may overlap
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nrl.read_patterns(bold(), events=events, model="average")
