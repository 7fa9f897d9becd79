"""`neurordl rdm`: what a shell's globs become, what is printed, and the file."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import neurordl as nrl
from neurordl.cli import rdms
from neurordl.patterns import fmri
from neurordl.patterns.fmri import read_patterns
from neurordl.rdms import odd_even_reliability
from neurordl.rdms.selection import reindex

STUDY = Path(__file__).parents[2] / "data" / "simulated_fmri" / "study"
FUNC = STUDY / "sub-01" / "func"


def files(kind: str, folder: Path = FUNC) -> list[Path]:
    return sorted(folder.glob(f"*{kind}"))


def test_rdm_is_what_the_library_says(shell: Any, tmp_path: Path) -> None:
    out = tmp_path / "it.h5"
    code, told, errors = shell(
        *("rdm", *files("_bold.nii.gz"), "--events", *files("_events.tsv"), "--mask", STUDY / "IT.nii.gz"),
        *("--dissimilarity", "crossnobis", "--noise", "shrinkage_diag", "--out", out),
    )
    assert code == 0, errors
    assert re.search(r"run-03_bold.nii.gz +sub-01_task-sim_run-03_events.tsv +run-03 +\d+ +2.0", told)
    assert re.search(r"voxels +80 used; dropped 0 with NaN", told)
    assert re.search(r"stimuli +12: ", told)
    patterns, left = nrl.read_patterns(
        files("_bold.nii.gz"), STUDY / "IT.nii.gz", files("_events.tsv"), residuals=True
    )
    own = nrl.compute_rdms(patterns, "crossnobis", noise=nrl.Noise("shrinkage_diag", left))
    written = nrl.load_rdms(out)
    np.testing.assert_array_equal(written.dissimilarities, own.dissimilarities)
    assert list(written.rdm_descriptors["subject"]) == ["sub-01"]
    assert list(written.pattern_descriptors["stimulus"]) == own.pattern_descriptors["stimulus"]
    assert re.search(
        r"RDM +sub-01: distances \S+ to \S+; reliability \(odd against even runs\): r = 0\.\d+", told
    )
    nrl.RDMTeacher(written)


def test_an_atlas_single_trials_and_options(shell: Any, tmp_path: Path) -> None:
    out = tmp_path / "all.h5"
    code, told, errors = shell(
        *("rdm", "--events", *files("_events.tsv")[::-1], *files("_bold.nii.gz")),  # options first, too
        *(
            "--mask",
            STUDY / "atlas.nii.gz",
            "--labels",
            STUDY / "atlas.tsv",
            "--model",
            "lsa",
            "--center",
            "run",
        ),
        *(
            "--dissimilarity",
            "correlation",
            "--subject",
            "ann",
            "--drift-model",
            "polynomial",
            "--leave-out",
            "face1",
        ),
        *("--out", out),
    )
    assert code == 0, errors
    written = nrl.load_rdms(out)
    assert list(written.rdm_descriptors["roi"]) == ["IT", "EVC"]
    assert list(written.rdm_descriptors["subject"]) == ["ann", "ann"]
    assert "face1" not in written.pattern_descriptors["stimulus"]
    assert re.search(r"patterns +132, model lsa", told)
    assert "RDM       ann EVC" in told


def test_betas_and_names_that_do_not_say_whose(shell: Any, tmp_path: Path) -> None:
    import nibabel as nib

    rng = np.random.default_rng(0)
    betas = rng.standard_normal((3, 3, 3, 6))
    betas[0, 0, 0] = 0
    nib.save(nib.Nifti1Image(betas, np.eye(4)), tmp_path / "betas.nii.gz")
    pd.DataFrame({"stimulus": list("abcabc"), "run": [1, 1, 1, 2, 2, 2]}).to_csv(
        tmp_path / "betas.csv", index=False
    )
    code, told, errors = shell(
        *("rdm", tmp_path / "betas.nii.gz", "--table", tmp_path / "betas.csv", "--out", tmp_path / "b.h5")
    )
    assert code == 0, errors
    assert "note: dropped 1 of 27 voxels" in errors
    assert "--subject names it" in told
    assert "needs 4 runs or more, but there are 2" in told
    for option in (("--model", "lsa"), ("--hrf-model", "glover"), ("--slice-time-ref", "0.5")):
        code, _, errors = shell(
            *("rdm", tmp_path / "betas.nii.gz", "--table", tmp_path / "betas.csv", *option),
            *("--out", tmp_path / "c.h5"),
        )
        assert code == 1
        assert f"{option[0][2:].replace('-', '_')}= is for BOLD" in errors
    assert not (tmp_path / "c.h5").exists()


def test_errors_are_one_line_and_leave_no_file(shell: Any, tmp_path: Path) -> None:
    images, events = files("_bold.nii.gz"), files("_events.tsv")
    for arguments, message in (
        (
            ("--events", *events[:4], "--out", tmp_path / "x.h5"),
            "there are no events of the image sub-01_task-sim_run-05",
        ),
        (("--events", *events, "--out", tmp_path / "x.npz"), "expected a file named .h5"),
        (("--events", *events, "--out", tmp_path / "no" / "x.h5"), "in a folder that exists"),
        (("--out", tmp_path / "x.h5"), "pass events="),
        (
            (
                "--events",
                *events,
                "--noise",
                "full",
                "--dissimilarity",
                "euclidean",
                "--out",
                tmp_path / "x.h5",
            ),
            "no noise=",
        ),
    ):
        code, _, errors = shell("rdm", *images, "--mask", STUDY / "IT.nii.gz", *arguments)
        assert code == 1
        assert errors.startswith("neurordl: ")
        assert message in errors
        assert "Traceback" not in errors
    code, _, errors = shell("rdm", images[0], "--events", events[0], "--out", tmp_path / "x.h5")
    assert code == 1
    assert "two or more runs" in errors
    assert list(tmp_path.iterdir()) == []


def test_notices_come_with_an_error_too(shell: Any, tmp_path: Path) -> None:
    import nibabel as nib

    far = np.diag([3.0, 3.0, 3.0, 1.0])
    far[:3, 3] = 5000
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), far), tmp_path / "far.nii.gz")
    code, _, errors = shell(
        *("rdm", *files("_bold.nii.gz"), "--events", *files("_events.tsv")),
        *("--mask", tmp_path / "far.nii.gz", "--out", tmp_path / "x.h5"),
    )
    assert code == 1
    assert re.search(r"note: the mask .*far.nii.gz is on another grid", errors)
    assert re.search(r"neurordl: no voxel of the mask .*far.nii.gz lies within the images", errors)


def test_stimuli_that_runs_lack(shell: Any, tmp_path: Path) -> None:

    tables = []
    for k, events in enumerate(files("_events.tsv")):
        frame = pd.read_csv(events, sep="\t")
        if k:
            frame = frame[frame["trial_type"] != "face1"]
        tables.append(tmp_path / events.name)
        frame.to_csv(tables[-1], sep="\t", index=False)
    code, told, errors = shell(
        *("rdm", *files("_bold.nii.gz"), "--events", *tables, "--mask", STUDY / "IT.nii.gz"),
        *("--model", "average", "--out", tmp_path / "it.h5"),
    )
    assert code == 0, errors
    assert "11 of 66 pairs are not measured (face1 is in one run only)" in errors
    assert re.search(r"lack some stimuli \(face1 in run-02, run-03.*--center run", errors)
    assert errors.count("face1 is in one run only") == 1
    assert re.search(r"RDM +sub-01: distances \S+ to \S+, 11 of 66 pairs are not measured; reliability", told)
    assert told.rstrip().endswith("it.h5 holds 1 RDM")


def test_slices_taken_in_the_middle(shell: Any, tmp_path: Path) -> None:
    call = ("rdm", *files("_bold.nii.gz"), "--events", *files("_events.tsv"), "--mask", STUDY / "IT.nii.gz")
    code, _, errors = shell(*call, "--slice-time-ref", "0.5", "--out", tmp_path / "it.h5")
    assert code == 0, errors
    patterns = nrl.read_patterns(
        files("_bold.nii.gz"), STUDY / "IT.nii.gz", files("_events.tsv"), model=nrl.GLM(slice_time_ref=0.5)
    )
    own = nrl.compute_rdms(patterns, "crossnobis").dissimilarities
    np.testing.assert_array_equal(nrl.load_rdms(tmp_path / "it.h5").dissimilarities, own)


def test_shifted_events_are_noticed(shell: Any, data_root: Path, tmp_path: Path) -> None:
    folder = data_root / "haxby2001_slice"
    call = ("rdm", *files("_slice_bold.nii.gz", folder), "--events", *files("_events.tsv", folder))
    for model, seen in (("glm", True), ("average", False)):
        code, _, errors = shell(
            *(*call, "--mask", folder / "slice_brain_mask.nii.gz", "--model", model),
            *("--out", tmp_path / f"{model}.h5"),
        )
        assert code == 0, errors
        assert ("already shifted by the hemodynamic lag" in errors) == seen


@pytest.mark.parametrize("trend, largest, reliability", [(False, "139", "0.390"), (True, "120.1", "0.823")])
def test_haxby_from_the_shell(
    shell: Any, data_root: Path, tmp_path: Path, trend: bool, largest: str, reliability: str
) -> None:
    folder = data_root / "haxby2001_slice"
    code, told, errors = shell(
        *("rdm", *files("_slice_bold.nii.gz", folder), "--events", *files("_events.tsv", folder)),
        *("--mask", folder / "slice_brain_mask.nii.gz", "--model", "average", "--center", "run"),
        *(["--detrend"] if trend else []),
        *("--out", tmp_path / "haxby.h5"),
    )
    assert code == 0, errors
    assert re.search(
        rf"sub-001: distances \S+ to {largest}; reliability \(odd against even runs\): r = {reliability}",
        told,
    )


def test_options_from_a_file(shell: Any, tmp_path: Path) -> None:
    config = tmp_path / "rdm.toml"
    one = nrl.read_patterns(files("_bold.nii.gz")[0], None, files("_events.tsv")[0])
    first = one.obs_descriptors["stimulus"][0]
    given = {
        "images": [str(path) for path in files("_bold.nii.gz")],
        "events": [str(path) for path in files("_events.tsv")[::-1]],
        "leave-out": [first],
        "mask": str(STUDY / "IT.nii.gz"),
        "dissimilarity": "euclidean",
        "model": "average",
    }
    lines = [f"{name} = {value!r}" for name, value in given.items()]
    config.write_text("\n".join([*lines, "detrend = true"]))
    code, _, errors = shell(
        "rdm", "--config", config, "--dissimilarity", "correlation", "--out", tmp_path / "a.h5"
    )
    assert code == 0, errors
    found = nrl.load_rdms(tmp_path / "a.h5")
    patterns = nrl.read_patterns(
        files("_bold.nii.gz"),
        STUDY / "IT.nii.gz",
        files("_events.tsv"),
        model=nrl.Average(detrend=True),
        leave_out=first,
    )
    own = nrl.compute_rdms(patterns, "correlation")  # the command line goes before the file
    np.testing.assert_array_equal(found.dissimilarities, own.dissimilarities)
    config.write_text("dissimilarities = 'euclidean'")
    code, _, errors = shell("rdm", *files("_bold.nii.gz"), "--config", config, "--out", tmp_path / "b.h5")
    assert code == 2
    assert "unknown dissimilarities" in errors


# a folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three people as fMRIPrep writes them, below a data set with their events; a fourth has another task."""
    scan = nrl.simulate.Scan(shape=(4, 3, 2), runs=4, repeats=1)
    geometry = {"IT": np.eye(5), "EVC": np.eye(5)[::-1] * 2}
    made = nrl.simulate.simulate_fmri(tmp_path / "study", geometry, list("abcde"), 3, scan=scan, snr=2.0)
    prepared = made / "derivatives" / "fmriprep"
    for bold in sorted(made.glob("sub-*/func/*_bold.nii.gz")):
        target = prepared / bold.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        bold.rename(target.with_name(bold.name.replace("_bold", "_space-MNI_desc-preproc_bold")))
    (prepared / "sub-04" / "func").mkdir(parents=True)
    return made


def of_folder(study: Path, *options: object) -> tuple[object, ...]:
    atlas = ("--mask", study / "atlas.nii.gz", "--labels", study / "atlas.tsv")
    return ("rdm", study, "--task", "sim", "--space", "MNI", *atlas, *options)


def in_python(study: Path, noise: str | None = None, **options: Any) -> Any:
    regions = nrl.Regions(study / "atlas.nii.gz", labels=study / "atlas.tsv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        patterns, left = nrl.read_bids(study, "sim", "MNI", regions, residuals=True, **options)
        return nrl.compute_rdms(patterns, "crossnobis", noise=noise and nrl.Noise(noise, left))


def test_a_folder_gives_what_python_gives(shell: Any, study: Path, tmp_path: Path) -> None:
    events = study / "sub-02" / "func" / "sub-02_task-sim_run-01_events.tsv"
    for path in sorted(events.parent.glob("*_events.tsv")):  # sub-02 never saw a
        path.write_text("".join(line for line in path.open() if not line.endswith("\ta\n")))
    out = tmp_path / "all.h5"
    options = ("--noise", "diagonal", "--leave-out", "b", "--out", out)
    code, told, errors = shell(*of_folder(study, *options))
    assert code == 0, errors
    own, written = in_python(study, "diagonal", leave_out="b"), nrl.load_rdms(out)
    np.testing.assert_array_equal(written.dissimilarities, own.dissimilarities)
    for name in ("rdm_descriptors", "pattern_descriptors"):
        of_both = [{k: list(v) for k, v in getattr(rdms, name).items()} for rdms in (written, own)]
        assert of_both[0] == of_both[1]
    assert written.descriptors == own.descriptors
    assert "1 of 4 subjects in" in errors
    assert "are left out: sub-04" in errors
    assert re.search(r"sub-02 has 3 of 4 stimuli; the pairs of the others \(a\) are NaN", errors)
    with pytest.warns(UserWarning, match="holds derivatives"):
        patterns, left = nrl.read_bids(
            study, "sim", "MNI", study / "IT.nii.gz", subjects="01", leave_out="b", residuals=True
        )
    r = odd_even_reliability(patterns["sub-01"], "crossnobis", noise=nrl.Noise("diagonal", left["sub-01"]))
    assert re.search(rf"sub-01 +4 +16 +4 +24 +0 +0 +0 +{r[0]:.3f} ", told)
    assert told.rstrip().endswith("all.h5 holds 6 RDMs of 3 subjects and 4 stimuli")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.h5", "study"]


def test_a_folder_is_resumed(shell: Any, study: Path, tmp_path: Path, monkeypatch: Any) -> None:
    out, parts = tmp_path / "all.h5", tmp_path / "all.h5.parts"
    events = study / "sub-03" / "func" / "sub-03_task-sim_run-02_events.tsv"
    whole = events.read_text()
    events.write_text("onset\n1\n")
    code, _, errors = shell(*of_folder(study, "--out", out))
    assert code == 1
    assert "sub-03_task-sim_run-02_events.tsv" in errors.splitlines()[-1]
    assert not out.exists()
    assert sorted(path.name[:6] for path in parts.glob("*.h5")) == ["sub-01", "sub-02"]
    events.write_text(whole)
    code, _, errors = shell(*of_folder(study, "--out", out, "--model", "average"))
    assert code == 1
    assert re.search(
        r"all.h5.parts .* other settings, which differ in model \(glm before, average now\)", errors
    )
    image = next((study / "derivatives").rglob("sub-02*run-01*_bold.nii.gz"))
    os.utime(image, ns=(0, 0))  # another file, so that this subject is computed again
    read = []
    monkeypatch.setattr(
        fmri, "read_patterns", lambda files, *a, **k: read.append(files) or read_patterns(files, *a, **k)
    )
    code, told, errors = shell(*of_folder(study, "--out", out))
    assert code == 0, errors
    assert [files[0].name[:6] for files in read] == ["sub-02", "sub-03"]
    assert "1 of 3 subjects had been computed before" in told
    assert not parts.exists()
    np.testing.assert_array_equal(nrl.load_rdms(out).dissimilarities, in_python(study).dissimilarities)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((STUDY, "--mask", STUDY / "IT.nii.gz"), "is a folder: --task NAME says which"),
        ((STUDY, FUNC, "--task", "sim"), "expected one folder, or images alone"),
        ((STUDY, "--task", "sim"), "there is no brain mask"),
        ((STUDY, "--task", "sim", "--subject", "x"), "subject= is for images, and"),
        ((STUDY, "--task", "sim", "--table", STUDY / "atlas.tsv"), "table= is for images, and"),
        ((STUDY, "--task", "rest"), "has no image sub-*"),
        ((*files("_bold.nii.gz"), "--task", "sim"), "task= is for a folder, and these are images"),
        ((STUDY, "--task", "sim", "--detrend"), "detrend= is of --model average, not of glm"),
    ],
)
def test_what_a_folder_does_not_take(shell: Any, tmp_path: Path, arguments: Any, message: str) -> None:
    code, _, errors = shell("rdm", *arguments, "--out", tmp_path / "x.h5")
    assert code == 1
    assert message in errors
    assert not (tmp_path / "x.h5").exists()


def test_masks_of_each_subject(shell: Any, study: Path, tmp_path: Path) -> None:
    for subject in ("sub-01", "sub-02", "sub-03"):
        (study / f"{subject}_it.nii.gz").write_bytes((study / "IT.nii.gz").read_bytes())
    code, _, errors = shell(
        *("rdm", study / "derivatives" / "fmriprep", "--task", "sim", "--space", "MNI", "--rois", "IT"),
        *("--mask", study / "{subject}_it.nii.gz", "--subjects", "3,1", "--out", tmp_path / "it.h5"),
    )
    assert code == 1  # names are as in the folder
    assert "subjects='3': expected one of '01', '02', '03'" in errors
    code, _, errors = shell(
        *("rdm", study / "derivatives" / "fmriprep", "--task", "sim", "--space", "MNI", "--rois", "IT"),
        *("--mask", study / "{subject}_it.nii.gz", "--subjects", "03,01", "--out", tmp_path / "it.h5"),
    )
    assert code == 0, errors
    own, written = in_python(study), nrl.load_rdms(tmp_path / "it.h5")
    assert list(written.rdm_descriptors["subject"]) == ["sub-03", "sub-01"]
    in_its_order = reindex(own, list(written.pattern_descriptors["stimulus"]))
    np.testing.assert_array_equal(written.dissimilarities, in_its_order[[4, 0]])


def test_an_rdm_of_each_session(shell: Any, study: Path, tmp_path: Path) -> None:
    """Runs 3 and 4 become another session: each has the RDMs that are computed of it alone."""
    for path in [*study.rglob("*_task-sim_run-*")]:
        session = "a" if path.name.split("run-")[1][:2] in ("01", "02") else "b"
        subject = path.name[:6]
        place = path.parents[1] / f"ses-{session}" / "func"
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name.replace(subject, f"{subject}_ses-{session}"))
    code, _, errors = shell(
        *of_folder(study, "--each-session", "--noise", "diagonal", "--out", tmp_path / "all.h5")
    )
    assert code == 0, errors
    written = nrl.load_rdms(tmp_path / "all.h5")
    assert list(written.rdm_descriptors["session"]) == ["ses-a", "ses-a", "ses-b", "ses-b"] * 3
    assert "crossnobis in two halves needs 4 runs or more, but there are 2" in errors
    for session in ("a", "b"):
        own = in_python(study, "diagonal", sessions=session)
        part = nrl.select_rdms(written, select={"session": f"ses-{session}"})
        ids = list(written.pattern_descriptors["stimulus"])
        np.testing.assert_array_equal(part.dissimilarities, reindex(own, ids))
        assert list(part.rdm_descriptors["roi"]) == list(own.rdm_descriptors["roi"])
    code, _, errors = shell(
        "rdm",
        STUDY,
        "--task",
        "sim",
        *("--mask", STUDY / "IT.nii.gz"),
        *("--each-session", "--out", tmp_path / "x.h5"),
    )
    assert code == 1
    assert "--each-session: the images have no session" in errors


def test_files_of_the_user_are_kept(shell: Any, study: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "all.h5", tmp_path / "all.h5.parts"
    parts.mkdir()
    notes = parts / "notes.txt"
    notes.write_text("mine")
    code, _, errors = shell(*of_folder(study, "--out", out))
    assert code == 1
    assert "all.h5.parts, the folder for finished subjects, holds files that this command did not" in errors
    assert notes.read_text() == "mine"
    assert not out.exists()
    notes.unlink()  # an empty folder is taken; files that come later are kept
    events = study / "sub-03" / "func" / "sub-03_task-sim_run-02_events.tsv"
    whole = events.read_text()
    events.write_text("onset\n1\n")
    assert shell(*of_folder(study, "--out", out))[0] == 1
    users = [parts / "sub-01_notes.json", parts / "rows" / "mine.json", parts / "mine.h5"]
    for file in users:
        file.write_text("mine")
    events.write_text(whole)
    code, _, errors = shell(*of_folder(study, "--out", out))
    assert code == 0, errors
    assert "all.h5.parts is kept, as it holds files" in errors
    assert {path for path in parts.rglob("*") if path.is_file()} == {*users}


@pytest.mark.parametrize("level", ["", "sub-01", "sub-01/func"])
def test_an_inherited_sidecar_is_part_of_the_stamp(
    shell: Any, study: Path, tmp_path: Path, monkeypatch: Any, level: str
) -> None:
    sidecar = study / "derivatives" / "fmriprep" / level / "task-sim_bold.json"
    sidecar.write_text('{"RepetitionTime": 2.0}')
    events = study / "sub-03" / "func" / "sub-03_task-sim_run-02_events.tsv"
    whole = events.read_text()
    events.write_text("onset\n1\n")
    assert shell(*of_folder(study, "--out", tmp_path / "all.h5"))[0] == 1
    events.write_text(whole)
    read = []
    monkeypatch.setattr(
        fmri, "read_patterns", lambda files, *a, **k: read.append(files) or read_patterns(files, *a, **k)
    )
    before = sidecar.stat()
    sidecar.write_text('{"RepetitionTime": 2.1}')  # of the same size and time
    os.utime(sidecar, ns=(before.st_atime_ns, before.st_mtime_ns))
    same = study / "sub-02" / "func" / "sub-02_task-sim_run-01_events.tsv"
    os.utime(same, ns=(0, 0))  # the same content
    code, _, errors = shell(*of_folder(study, "--out", tmp_path / "all.h5"))
    assert code == 0, errors
    again = ["sub-01", "sub-03"] if level else ["sub-01", "sub-02", "sub-03"]
    assert [files[0].name[:6] for files in read] == again
    written = nrl.load_rdms(tmp_path / "all.h5").dissimilarities
    np.testing.assert_array_equal(written, in_python(study).dissimilarities)
    assert not (tmp_path / "all.h5.parts").exists()


def test_a_single_rdm_is_counted_as_such(shell: Any, study: Path, tmp_path: Path) -> None:
    options = ("--subjects", "01", "--rois", "IT", "--out", tmp_path / "it.h5")
    code, printed, errors = shell(*of_folder(study, *options))
    assert code == 0, errors
    assert printed.rstrip().endswith("it.h5 holds 1 RDM of 1 subject and 5 stimuli")
    assert "computed before" not in printed


NOTHING = "holds RDMs of the same files and settings already: nothing was computed"


def test_a_finished_file_is_left_as_it_is(shell: Any, study: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Of a folder: other settings, files or subjects are named, and only --overwrite replaces the file."""
    out = tmp_path / "all.h5"
    whole = of_folder(study, "--out", out)
    start = (*whole, "--subjects", "01,02")
    assert shell(*start)[0] == 0
    before, first = out.read_bytes(), nrl.load_rdms(out)

    def refused(*call: object) -> str:
        code, printed, errors = shell(*call)
        assert (code, printed, errors.count("neurordl: ")) == (1, "", 1)
        assert out.read_bytes() == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["all.h5", "study"]
        return str(errors)

    with monkeypatch.context() as patch:
        patch.setattr(fmri, "read_patterns", None)  # nothing is read
        (study / "sub-01" / "func" / "sub-01_task-sim_run-01_events.tsv").touch()  # the same content
        code, printed, errors = shell(*start)
        assert (code, printed) == (0, f"{out} {NOTHING}\n")
        assert (out.read_bytes(), shell(*start, "--overwrite")[0]) == (before, 0)
        text = refused(*start, "--model", "average")
        assert f"{out} holds RDMs already, of other files or settings, which differ in model (glm " in text
        assert "choose another --out, or replace it by --overwrite" in text
        assert "subjects (sub-01, sub-02 before, sub-01, sub-02, sub-03 now), the files" in refused(*whole)
        image = next((study / "derivatives").rglob("sub-02*run-01*_bold.nii.gz"))
        os.utime(image, ns=(0, 0))
        assert "differ in the files of sub-02;" in refused(*start)
    code, printed, errors = shell(*start, "--overwrite")
    assert code == 0, errors
    assert printed.endswith("all.h5 holds 4 RDMs of 2 subjects and 5 stimuli\n")
    again = nrl.load_rdms(out)
    np.testing.assert_array_equal(again.dissimilarities, first.dissimilarities)
    assert str(tmp_path).encode() not in out.read_bytes()  # it is sent to others

    nrl.save_rdms(first, out)
    before = out.read_bytes()
    assert "exists already, and what it was made of is not recorded; choose another --out" in refused(*start)


def test_what_an_interrupted_command_left_is_removed(shell: Any, study: Path, tmp_path: Path) -> None:
    """Killed after the file was written and before its parts were removed."""
    out, parts, kept = tmp_path / "all.h5", tmp_path / "all.h5.parts", tmp_path / "kept"
    call = (*of_folder(study, "--out", out), "--subjects", "01")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rdms, "_remove_parts", lambda *_: shutil.copytree(parts, kept))
        assert shell(*call)[0] == 0
    assert (parts / "settings.json").is_file()
    other = (*of_folder(study, "--out", tmp_path / "other.h5"), "--subjects", "01", "--model", "average")
    assert shell(*other)[0] == 0
    assert NOTHING in shell(*call)[1]
    assert not parts.exists()
    kept.rename(parts)
    settings = json.loads((parts / "settings.json").read_text())
    (parts / "settings.json").write_text(json.dumps({**settings, "model": "average"}))
    assert NOTHING in shell(*call)[1]
    assert (parts / "settings.json").is_file()  # of a command with other settings, which may go on


def test_finished_rdms_of_images_are_left_as_they_are(shell: Any, tmp_path: Path) -> None:
    images = [shutil.copy(path, tmp_path / path.name) for path in files("_bold.nii.gz")[:2]]
    events = [shutil.copy(path, tmp_path / path.name) for path in files("_events.tsv")[:2]]
    call = ("rdm", *images, "--events", *events, "--dissimilarity", "euclidean", "--out", tmp_path / "it.h5")
    assert shell(*call)[0] == 0
    before = (tmp_path / "it.h5").stat().st_mtime_ns
    assert shell(*call)[1] == f"{tmp_path / 'it.h5'} {NOTHING}\n"
    assert (tmp_path / "it.h5").stat().st_mtime_ns == before
    code, _, errors = shell(*call, "--subject", "ann")
    assert code == 1
    assert "differ in subject (nothing before, ann now); choose another" in errors
    events[0].write_text(events[0].read_text().replace("face1", "face9"))
    code, _, errors = shell(*call)
    assert code == 1
    assert f"differ in the content of {events[0].name}; choose another" in errors
    (tmp_path / images[1].name.replace("_bold.nii.gz", "_bold.json")).write_text('{"RepetitionTime": 2.0}')
    assert "_bold.json" in shell(*call)[2]


# merge


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Files of two ROIs and three people, without names but for one; the stimuli have two orders."""
    people = nrl.simulate.simulate_subjects(np.eye(5), list("abcde"), n_subjects=3, seed=1)
    for name, order in (("it", [0, 1, 2, 3, 4]), ("evc", [3, 0, 4, 2, 1])):
        squares = people.get_matrices()[:, order][:, :, order]
        squares[:, range(5), range(5)] = 0.3  # as split-half RDMs have it
        np.savez(tmp_path / f"{name}.npz", D=squares, ids=np.array(list("abcde"))[order])
        np.savez(tmp_path / f"{name}_s1.npz", D=squares[0], ids=np.array(list("abcde"))[order])
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t20\nsub-2\t30\nsub-3\t40\n")
    nrl.save_rdms(people, tmp_path / "named.h5")
    return tmp_path


def test_merged_files_are_in_one_order(shell: Any, parts: Path) -> None:
    code, told, errors = shell(
        *("merge", parts / "it.npz", parts / "evc.npz", "--roi", "IT,EVC", "--diagonal", "ignore"),
        *("--subjects-from", parts / "participants.tsv", "--measure", "crossnobis", "--out", parts / "m.h5"),
    )
    assert code == 0, errors
    people, merged = nrl.load_rdms(parts / "named.h5"), nrl.load_rdms(parts / "m.h5")
    np.testing.assert_array_equal(merged.dissimilarities, np.tile(people.dissimilarities, (2, 1)))
    assert list(merged.rdm_descriptors["subject"]) == ["sub-1", "sub-2", "sub-3"] * 2
    assert list(merged.rdm_descriptors["roi"]) == ["IT"] * 3 + ["EVC"] * 3
    assert told.rstrip().endswith("holds 6 RDMs of 5 stimuli; subject sub-1, sub-2, sub-3; roi IT, EVC")


def test_each_rdm_of_merged_files_is_a_subject(shell: Any, parts: Path) -> None:
    named = ("--roi", "IT,EVC", "--diagonal", "ignore", "--measure", "crossnobis", "--out", parts / "m.h5")
    files = ("merge", parts / "it.npz", parts / "evc.npz")
    code, _, errors = shell(*files, *named, "--each-a-subject")
    assert code == 0, errors
    merged = nrl.load_rdms(parts / "m.h5")
    assert list(merged.rdm_descriptors["subject"]) == ["s01", "s02", "s03"] * 2
    code, _, errors = shell(*files, *named, "--each-a-subject", "--subjects-from", parts / "participants.tsv")
    assert (code, "--each-a-subject numbers the subjects, and they are named" in errors) == (1, True)
    code, _, errors = shell("merge", parts / "named.h5", "--each-a-subject", "--out", parts / "n.h5")
    assert (code, "named.h5 names the subjects of its RDMs" in " ".join(errors.split())) == (1, True)


def test_a_name_for_each_file(shell: Any, parts: Path) -> None:
    (parts / "two.txt").write_text("ann\nben\n")
    files = (parts / "it_s1.npz", parts / "evc_s1.npz")
    for k, names in enumerate((("--subjects-from", parts / "two.txt"), ("--subjects", "ann,ben"))):
        out = parts / f"m{k}.h5"
        call = ("merge", *files, *names, "--session", "2", "--diagonal", "ignore", "--out", out)
        code, _, errors = shell(*call)
        assert code == 0, errors
        assert shell(*call)[1] == f"{out} {NOTHING}\n"
        code, _, errors = shell(*call, "--missing", "nan")
        assert code == 1
        assert "differ in missing (error before, nan now)" in errors
        assert shell(*call, "--missing", "nan", "--overwrite")[0] == 0
        merged = nrl.load_rdms(out)
        assert list(merged.rdm_descriptors["subject"]) == ["ann", "ben"]
        assert list(merged.rdm_descriptors["session"]) == ["2", "2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("named.h5", "named.h5"), "named.h5 is named twice"),
        (("it.npz", "evc.npz"), "diagonal that is not zero"),
        (
            ("it.npz", "evc.npz", "--diagonal", "ignore"),
            r"6 RDMs have the same descriptors \(none\), in .*it.npz",
        ),
        (
            ("named.h5", "it.npz", "--diagonal", "ignore"),
            "in named.h5 is 'correlation', and in it.npz unknown",
        ),
        (("it.npz", "evc.npz", "--roi", "A,B,C"), "roi= has 3 names for 2 files; name each"),
        (("it.npz", "gone.npz"), "gone.npz: there is no such file"),
        (("it.npz", "--subjects", "s1", "--subjects-from", "participants.tsv"), "both given"),
        (
            ("it_s1.npz", "--subjects-from", "participants.tsv", "--diagonal", "ignore"),
            "tsv do not fit: 3 values",
        ),
    ],
)
def test_files_that_do_not_merge(
    shell: Any, parts: Path, monkeypatch: Any, arguments: Any, message: str
) -> None:
    monkeypatch.chdir(parts)
    code, _, errors = shell("merge", *arguments, "--out", "m.h5")
    assert code == 1
    assert re.search(message, errors), errors
    assert not Path("m.h5").exists()


def test_merge_does_not_overwrite_what_it_reads(shell: Any, parts: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(parts)
    before = Path("named.h5").read_bytes()
    code, _, errors = shell("merge", "it.npz", parts / "named.h5", "--out", "named.h5")
    assert code == 1
    assert "--out named.h5 is a file to merge, and would be overwritten" in errors
    assert Path("named.h5").read_bytes() == before


def test_names_that_fit_files_and_rdms_are_ambiguous(shell: Any, parts: Path) -> None:
    files = [parts / f"{name}.npz" for name in ("it", "evc", "again")]
    files[2].write_bytes(files[0].read_bytes())
    code, _, errors = shell(
        *("merge", *files, "--subjects-from", parts / "participants.tsv"),
        *("--diagonal", "ignore", "--out", parts / "m.h5"),
    )
    assert code == 1
    assert "has a name for each file, and for each of the 3 RDMs in" in errors


def test_compare_takes_names_from_a_file_and_a_diagonal(shell: Any, parts: Path) -> None:
    """Of the subjects' RDMs, and the diagonal of model RDMs, too."""
    code, _, errors = shell(
        *("compare", parts / "evc_s1.npz", "--rdms", parts / "it.npz", "--diagonal", "ignore"),
        *("--subjects-from", parts / "participants.tsv", "--out", parts / "scores"),
    )
    assert code == 0, errors
    table = pd.read_csv(parts / "scores" / "scores.csv")
    assert set(table["subject"]) == {"sub-1", "sub-2", "sub-3", "mean"}
    score = table.loc[table["subject"] == "sub-1", "score"].iloc[0]
    assert score == pytest.approx(1)
