"""`neurordl rdm`: what a shell's globs become, what is printed, and the file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import neurordl as nrl

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
    import pandas as pd

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
    import pandas as pd

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
            *("--out", tmp_path / "x.h5"),
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
