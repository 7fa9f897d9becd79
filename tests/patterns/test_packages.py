"""Betas of SPM, FSL and AFNI: miniatures of their folders, read against nibabel and the numbers written."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import scipy.io

import neurordl as nrl
from neurordl.errors import NeurordlError
from neurordl.patterns import packages

SHAPE = (4, 3, 2)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SPM_NAMES = [
    "Sn(1) face*bf(1)",
    "Sn(1) face*bf(2)",
    "Sn(1) a house, red*bf(1)",
    "Sn(1) facexrating^1*bf(1)",
    "Sn(1) R1",
    "Sn(1) motion x",
    "Sn(2) face*bf(1)",
    "Sn(2) a house, red*bf(1)",
    "Sn(1) constant",
    "Sn(2) constant",
]


def volume(number: int) -> Any:
    return np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)


def save(path: Path, data: Any, descrip: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, AFFINE)
    image.header["descrip"] = descrip
    nib.save(image, path)


def spm(folder: Path, names: list[str], suffix: str = ".nii", cut: int = 80) -> Path:
    for number, name in enumerate(names, 1):
        text = f"spm_spm:beta ({number:04}) - {name}"[:cut]
        save(folder / f"beta_{number:04}{suffix}", volume(number), text)
    return folder


def feat(folder: Path, contrasts: dict[str, list[float]] | None, fsf: str = "", images: int = 6) -> Path:
    for number in range(1, images + 1):
        save(folder / "stats" / f"cope{number}.nii.gz", volume(number))
        save(folder / "stats" / f"pe{number}.nii.gz", volume(100 + number))
    if contrasts is not None:
        lines = [f"/ContrastName{number}\t{name}" for number, name in enumerate(contrasts, 1)]
        lines += ["/NumWaves\t4", f"/NumContrasts\t{len(contrasts)}", "/PPheights\t\t1", "", "/Matrix"]
        lines += [" ".join(f"{weight:e}" for weight in row) for row in contrasts.values()]
        (folder / "design.con").write_text("\n".join(lines) + "\n")
    if fsf:
        (folder / "design.fsf").write_text(fsf)
    return folder


def fsf(titles: list[str], derivatives: list[int], **more: object) -> str:
    lines = ["# FEAT version number", "set fmri(level) 1", f"set fmri(evs_orig) {len(titles)}"]
    lines += [f"set fmri(evs_real) {len(titles) + sum(derivatives)}"]
    for number, (title, derivative) in enumerate(zip(titles, derivatives, strict=True), 1):
        lines += [f"# EV {number} title", f'set fmri(evtitle{number}) "{title}"']
        lines += [f"set fmri(convolve{number}) 3", f"set fmri(deriv_yn{number}) {derivative}"]
        lines += [f"set fmri(shape{number}) 3"]
    return "\n".join([*lines, *(f"set fmri({name}) {value}" for name, value in more.items())]) + "\n"


HISTORY = "[me@lab: Mon] 3dDeconvolve -num_stimts 2 -stim_times 1 f.1D 'GAM' -stim_label 1 face"
TRIALS = "-stim_times_IM 2 h.1D 'BLOCK(1,1)' -stim_label 2 house"
LABELS = ["Full_Fstat", "face#0_Coef", "face#0_Tstat", "face_Fstat", "house#0_Coef", "house#0_Tstat"]
LABELS += ["f-h_GLT#0_Coef", "f-h_GLT#0_Tstat"]


def bucket(path: Path, labels: list[str], history: str = HISTORY) -> Path:
    """A bucket in NIfTI as AFNI writes it: sub-bricks on the fifth axis, and the extension with labels."""
    data = np.stack([volume(number) for number in range(len(labels))], axis=-1)[:, :, :, None]
    image = nib.Nifti1Image(data, AFFINE)
    atoms = {"BRICK_LABS": "~".join(labels), "HISTORY_NOTE": history}
    text = "<?xml version='1.0' ?>\n<AFNI_attributes\n  ni_form=\"ni_group\" >\n"
    for name, value in atoms.items():
        text += (
            f'<AFNI_atr\n  ni_type="String"\n  ni_dimen="1"\n  atr_name="{name}" >\n "{value}"\n</AFNI_atr>\n'
        )
    content = (text + "</AFNI_attributes>\n").encode() + b"\0"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(4, content))
    nib.save(image, path)
    return path


def brik(path: Path, labels: list[str], history: str = HISTORY, packed: bool = False) -> Path:
    """A bucket in AFNI's own two files, with 16-bit numbers and a factor for each sub-brick."""
    factors = [0.001 * (1 + place) for place in range(len(labels))]
    numbers = {
        "DATASET_RANK": [3, len(labels), 0, 0, 0, 0, 0, 0],
        "DATASET_DIMENSIONS": [*SHAPE, 0, 0],
        "BRICK_TYPES": [1] * len(labels),
    }
    real = {"DELTA": [3.0, 3.0, 3.0], "BRICK_FLOAT_FACS": factors}
    real["IJK_TO_DICOM_REAL"] = [-3.0, 0.0, 0.0, 0.0, 0.0, -3.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0]
    parts = []
    for kind, group in (("integer", numbers), ("float", real)):
        for name, values in group.items():
            text = " ".join(map(str, values))
            parts.append(f"type  = {kind}-attribute\nname  = {name}\ncount = {len(values)}\n {text}\n")
    texts = {"BYTEORDER_STRING": "LSB_FIRST", "BRICK_LABS": "~".join(labels), "HISTORY_NOTE": history}
    for name, value in texts.items():
        parts.append(f"type  = string-attribute\nname  = {name}\ncount = {len(value) + 1}\n'{value}~\n")
    path.with_suffix(".HEAD").write_text("\n" + "\n".join(parts))
    stored = [np.round(volume(place) * 1000).astype("<i2") for place in range(len(labels))]
    content = b"".join(data.tobytes(order="F") for data in stored)
    file = path.with_suffix(".BRIK.gz" if packed else ".BRIK")
    file.write_bytes(gzip.compress(content) if packed else content)
    return path.with_suffix(".HEAD")


def inside() -> Any:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:, :2] = 1
    return mask


def measured(images: Any, table: Any) -> Any:
    mask = nib.Nifti1Image(inside(), AFFINE)
    return nrl.read_betas(images, table, mask, subject="s01").measurements


def values(numbers: list[int]) -> Any:
    return np.stack([volume(number)[inside() > 0] for number in numbers])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
def test_spm_headers_name_conditions_and_runs(tmp_path: Path, suffix: str) -> None:
    folder = spm(tmp_path / "spm", SPM_NAMES, suffix)
    left_out = "nuisance regressors (2), constants (2)"
    with pytest.warns(
        UserWarning, match=r"6 of 10 betas .*derivatives, .* \(1\), parametric modulators \(1\)"
    ) as notes:
        images, table = nrl.find_betas(folder)
    assert left_out in str(notes[0].message)
    assert table["stimulus"].tolist() == ["face", "a house, red"] * 2
    assert table["run"].tolist() == ["run-1", "run-1", "run-2", "run-2"]
    assert np.array_equal(measured(images, table), values([1, 3, 7, 8]))


def test_spm_is_read_by_the_file_and_sessions_by_folders(tmp_path: Path) -> None:
    names = ["Sn(1) face*bf(1)", "Sn(2) face*bf(1)"]
    for session in ("first", "second"):
        (spm(tmp_path / session, names) / "SPM.mat").touch()
    _, table = nrl.find_betas([tmp_path / "first" / "SPM.mat", tmp_path / "second"])
    assert table["session"].tolist() == ["first", "first", "second", "second"]
    assert table["run"].tolist() == ["first_run-1", "first_run-2", "second_run-1", "second_run-2"]


def write_design(path: Path, names: list[str], version: str) -> None:
    if version == "5":
        cells = np.empty((1, len(names)), object)
        cells[0] = names
        scipy.io.savemat(path, {"SPM": {"xX": {"name": cells, "X": np.eye(3)}, "nscan": [10.0]}})
        return
    with h5py.File(path, "w") as file:  # as MATLAB 7.3: a column of references to columns of characters
        references = []
        for number, name in enumerate(names):
            letters = np.array([[ord(letter)] for letter in name], np.uint16)
            references.append(file.create_dataset(f"#refs#/{number}", data=letters).ref)
        cells = np.array(references, dtype=h5py.ref_dtype)[:, None]
        file.create_dataset("SPM/xX/name", data=cells, dtype=h5py.ref_dtype)


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("number", [1, 3])
def test_names_that_are_cut_off_are_those_of_the_design(tmp_path: Path, version: str, number: int) -> None:
    long = "a very long name of a condition that has more letters than the header"
    names = [f"Sn(1) {long} {place}*bf(1)" for place in range(number)] + [
        "Sn(1) face*bf(1)",
        "Sn(1) constant",
    ]
    folder = spm(tmp_path / "spm", names)
    with pytest.raises(NeurordlError, match=rf"cut off \({number} such\); copy SPM.mat"):
        nrl.find_betas(folder)
    write_design(folder / "SPM.mat", names, version)
    with pytest.warns(UserWarning, match=r"1 of .*constants \(1\)"):
        images, table = nrl.find_betas(folder)
    assert table["stimulus"].tolist() == [f"{long} {place}" for place in range(number)] + ["face"]
    assert np.array_equal(measured(images, table), values(list(range(1, number + 2))))
    write_design(folder / "SPM.mat", names[:1], version)
    with pytest.raises(NeurordlError, match="different analyses"):
        nrl.find_betas(folder)


def test_headers_that_other_programs_wrote_leave_the_names_to_the_design(tmp_path: Path) -> None:
    names = ["Sn(1) face*bf(1)", "Sn(1) house*bf(1)"]
    folder = spm(tmp_path, names)
    save(folder / "beta_0001.nii", volume(1), "FSL5.0")
    write_design(folder / "SPM.mat", names, "5")
    assert nrl.find_betas(folder)[1]["stimulus"].tolist() == ["face", "house"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([f"Sn(1) face*bf({number})" for number in range(1, 9)], "4 basis functions or more"),
        (["Sn(1) R1", "Sn(1) constant"], "no beta is a response"),
    ],
)
def test_designs_without_a_response_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(NeurordlError, match=message):
        nrl.find_betas(spm(tmp_path, names))


def test_folders_of_spm_that_are_not_whole(tmp_path: Path) -> None:
    folder = spm(tmp_path / "spm", ["Sn(1) face*bf(1)", "Sn(1) house*bf(1)", "Sn(1) cat*bf(1)"])
    (folder / "beta_0002.nii").unlink()
    with pytest.warns(UserWarning, match=r"1 of 3 beta images \(2\) are missing"):
        assert nrl.find_betas(folder)[1]["stimulus"].tolist() == ["face", "cat"]
    (folder / "beta_0003.nii").rename(folder / "beta_0002.nii")
    with pytest.raises(NeurordlError, match=r"beta_0002.nii is beta 3 by its header"):
        nrl.find_betas(folder)
    save(folder / "beta_0001.nii.gz", volume(1))
    with pytest.raises(NeurordlError, match="two images of one beta"):
        nrl.find_betas(folder)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "SPM.mat").write_bytes(b"x" * 200)
    (tmp_path / "empty" / "beta_0001.gii").write_bytes(b"x")
    with pytest.raises(NeurordlError, match=r"are on a surface \(beta_0001.gii\).* to read_betas"):
        nrl.find_betas(tmp_path / "empty")
    (tmp_path / "empty" / "beta_0001.gii").unlink()
    with pytest.raises(NeurordlError, match=r"no images beta_0001.nii"):
        nrl.find_betas(tmp_path / "empty")
    save(tmp_path / "empty" / "beta_0001.nii", volume(1))
    with pytest.raises(NeurordlError, match=r"cannot read .*SPM.mat"):
        nrl.find_betas(tmp_path / "empty")


CONTRASTS = {"face": [1.0, 0, 0, 0], "f > h": [1.0, 0, -1, 0], "red house": [0, 0, 1.0, 0]}
CONTRASTS |= {"-face": [-1.0, 0, 0, 0], "faces": [1.0, 0, 0, 0], "cat": [0, 0, 0, 1.0]}


def test_copes_of_single_conditions_are_read(tmp_path: Path) -> None:
    settings = fsf(["face", "house", "cat"], [1, 0, 0])
    runs = [feat(tmp_path / f"run{number}.feat", CONTRASTS, settings) for number in (1, 2)]
    with pytest.warns(UserWarning, match="left out") as notes:
        images, table = nrl.find_betas(runs)
    texts = [str(note.message) for note in notes]
    assert any("3 of 6 betas" in text and "other weights than 1 (2)" in text for text in texts)
    assert any("contrasts of a condition that has one already (1)" in text for text in texts)
    assert any("2 .feat folders lie in the space of each run" in text for text in texts)
    assert table["stimulus"].tolist() == ["face", "red house", "cat"] * 2
    assert table["run"].tolist() == ["run1"] * 3 + ["run2"] * 3
    assert np.array_equal(measured(images, table), values([1, 3, 6, 1, 3, 6]))


def test_conditions_without_a_contrast_are_counted(tmp_path: Path) -> None:
    folder = feat(tmp_path / "a.feat", {"face": [1.0, 0, 0, 0]}, fsf(["face", "house"], [0, 0]))
    with pytest.warns(UserWarning, match=r"1 condition without a contrast of its own \(house\)"):
        _, table = nrl.find_betas(folder)
    assert list(table) == ["stimulus"]


@pytest.mark.parametrize("contrasts", [None, {"f > h": [1.0, 0, -1, 0]}])
def test_without_such_contrasts_the_estimates_are_read(tmp_path: Path, contrasts: Any) -> None:
    settings = fsf(["face", "empty", "a house"], [1, 0, 1], shape2=10)
    folder = feat(tmp_path / "sub-01_run-2.feat", contrasts, settings)
    with pytest.warns(
        UserWarning,
        match=r"3 of 5 betas .*derivatives \(2\), regressors that are empty or interactions \(1\)",
    ):
        images, table = nrl.find_betas(folder)
    assert table["stimulus"].tolist() == ["face", "a house"]
    assert table["run"].tolist() == ["run-2"] * 2
    assert np.array_equal(measured(images, table), values([101, 104]))


def test_images_in_one_space_need_no_notice(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    runs = []
    for number in (1, 2):
        folder = feat(tmp_path / f"r{number}.feat", {"face": [1.0, 0], "house": [0, 1.0]})
        save(folder / "reg_standard" / "stats" / "cope1.nii.gz", volume(10 + number))
        save(folder / "reg_standard" / "stats" / "cope2.nii.gz", volume(20 + number))
        runs.append(folder / "reg_standard")
    images, table = nrl.find_betas(runs)
    assert not [note for note in recwarn if "space" in str(note.message)]
    assert table["run"].tolist() == ["r1", "r1", "r2", "r2"]
    assert np.array_equal(measured(images, table), values([11, 21, 12, 22]))


FEAT = """
# Basic waveform shape (EV 1)
# 0 : Square
# 3 : Custom (3 column format)
set fmri(shape1) 3

# Convolution (EV 1)
# 3 : Double-Gamma HRF
set fmri(convolve1) 3

# Convolve phase (EV 1)
set fmri(convolve_phase1) 0

# Apply temporal filtering (EV 1)
set fmri(tempfilt_yn1) 1

# Add temporal derivative (EV 1)
set fmri(deriv_yn1) 1

# Custom EV file (EV 1)
set fmri(custom1) "/data/face.txt"
"""


def test_settings_are_read_as_feat_writes_them(tmp_path: Path) -> None:
    head = "set fmri(level) 1\nset fmri(evs_orig) 2\nset fmri(evs_real) 4\nset fmri(evs_vox) 0\n"
    titles = '# EV 1 title\nset fmri(evtitle1) "face"\n# EV 2 title\nset fmri(evtitle2) "house"\n'
    second = FEAT.replace("1)", "2)")
    with pytest.warns(UserWarning, match=r"2 of 4 betas .* derivatives \(2\)"):
        images, table = nrl.find_betas(feat(tmp_path / "a.feat", None, head + titles + FEAT + second))
    assert table["stimulus"].tolist() == ["face", "house"]
    assert [Path(str(image)).name for image in images] == ["pe1.nii.gz", "pe3.nii.gz"]


def test_folders_of_fsl_that_are_not_whole(tmp_path: Path) -> None:
    folder = feat(tmp_path / "run.feat", CONTRASTS)
    (folder / "stats" / "cope3.nii.gz").unlink()
    with pytest.raises(NeurordlError, match=r"no stats/cope3.nii.gz; copy the whole folder"):
        nrl.find_betas(folder)
    text = (folder / "design.con").read_text()
    (folder / "design.con").write_text(text[: text.rindex("\n", 0, -1)])
    with pytest.raises(
        NeurordlError, match=r"design.con: .*6 names of contrasts, and a matrix of shape \(5, 4\)"
    ):
        nrl.find_betas(folder)
    (folder / "design.con").unlink()
    with pytest.raises(NeurordlError, match=r"no design.fsf"):
        nrl.find_betas(folder)
    for changed, message in (
        (fsf(["face"], [0], convolve1=7), "several basis functions"),
        (fsf(["face"], [0], evs_real=4), "evs_real=4"),
        (fsf(["face"], [0], evs_orig=2), "design.fsf"),
        (fsf(["face"], [0], level=2), "second level"),
        (fsf(["x"], [0], shape1=10), "has no condition"),
    ):
        (folder / "design.fsf").write_text(changed)
        with pytest.raises(NeurordlError, match=message):
            nrl.find_betas(folder)
    (tmp_path / "group.gfeat").mkdir()
    with pytest.raises(NeurordlError, match="second level"):
        nrl.find_betas(tmp_path / "group.gfeat")


@pytest.mark.parametrize("write", [bucket, brik], ids=["nifti", "brik"])
def test_coefficients_of_a_bucket_are_read(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "stats.nii.gz", LABELS)
    with pytest.warns(
        UserWarning, match=r"6 of 8 betas .*general linear tests, _GLT \(1\), statistics \(5\)"
    ):
        images, table = nrl.find_betas(path)
    assert table["stimulus"].tolist() == ["face", "house"]
    assert list(table) == ["stimulus"]
    expected = values([1, 4])
    if write is brik:
        whole = nib.load(path).get_fdata()[inside() > 0]  # nibabel's own reading, with its factors
        expected = whole[:, [1, 4]].T
        assert np.abs(expected[1] - values([4])[0] * 5).max() < 0.01
    assert np.allclose(measured(images, table), expected, rtol=1e-6)


def test_buckets_of_runs_are_compressed_or_without_suffix(tmp_path: Path) -> None:
    labels = ["face#0_Coef", "house#0_Coef"]
    first = brik(tmp_path / "run1+orig.x", labels, packed=True)
    brik(tmp_path / "run2+orig.x", labels)
    images, table = nrl.find_betas([first, tmp_path / "run2+orig"])
    assert table["run"].tolist() == ["run1+orig"] * 2 + ["run2+orig"] * 2
    rows = measured(images, table)
    assert np.array_equal(rows[:2], rows[2:])


def test_each_trial_has_its_coefficient(tmp_path: Path) -> None:
    labels = ["face#0_Coef", "house#0_Coef", "house#0_Tstat", "house#1_Coef", "house#2_Coef"]
    path = bucket(tmp_path / "b.nii", labels, f"{HISTORY} {TRIALS}")
    with pytest.warns(UserWarning, match="1 of 5"):
        images, table = nrl.find_betas(path)
    assert table["stimulus"].tolist() == ["face", "house", "house", "house"]
    assert table["trial"].tolist() == [0, 0, 1, 2]
    assert np.array_equal(measured(images, table), values([0, 1, 3, 4]))
    for history in (HISTORY, TRIALS.replace("house", "face"), ""):
        with pytest.raises(NeurordlError, match=r"'house' has several coefficients.*single_trials=True"):
            nrl.find_betas(bucket(path, labels, history))
        again, same = nrl.find_betas(path, single_trials=True)
        assert same.equals(table)
        assert np.array_equal(measured(again, same), measured(images, table))
    with pytest.raises(NeurordlError, match="for buckets of AFNI"):
        nrl.find_betas(spm(tmp_path / "spm", ["Sn(1) face*bf(1)"]), single_trials=True)


def test_contrasts_of_derivatives_are_no_conditions(tmp_path: Path) -> None:
    """design.fsf says which regressors are; of contrasts that are all of others, the estimates are read."""
    design = fsf(["face", "house"], [1, 1])
    contrasts = {"face": [1.0, 0, 0, 0], "late": [0, 1.0, 0, 0], "house": [0, 0, 1.0, 0]}
    folder = feat(tmp_path / "a.feat", contrasts, design)
    with pytest.warns(UserWarning, match=r"1 of 3 betas .*contrasts of derivatives, .* no condition \(1\)$"):
        images, table = nrl.find_betas(folder)
    assert table["stimulus"].tolist() == ["face", "house"]
    assert np.array_equal(measured(images, table), values([1, 3]))
    folder = feat(tmp_path / "b.feat", {"late": [0, 1.0, 0, 0]}, design)
    with pytest.warns(UserWarning, match=r"2 of 4 betas .*derivatives \(2\)$"):
        images, table = nrl.find_betas(folder)
    assert np.array_equal(measured(images, table), values([101, 103]))


def test_the_same_data_twice_are_no_two_runs(tmp_path: Path) -> None:
    """Crossnobis across them would be of one noise; a glob finds both files of AFNI."""
    brik(tmp_path / "r1+tlrc", LABELS)
    folder = spm(tmp_path / "spm", ["Sn(1) face*bf(1)", "Sn(1) house*bf(1)"])
    run = feat(tmp_path / "a.feat", {"face": [1.0, 0, 0, 0]})
    (run / "reg_standard" / "stats").mkdir(parents=True)
    link = tmp_path / "again"
    link.symlink_to(folder)
    views = [brik(tmp_path / "r2+orig", LABELS), bucket(tmp_path / "r2.nii", LABELS)]
    cases = [
        sorted(tmp_path.glob("r1+tlrc*")),
        views,
        [folder, link],
        [run, run],
        [run, run / "reg_standard"],
    ]
    for source in cases:
        assert len(source) == 2
        with pytest.raises(NeurordlError, match=r"source= has the same analysis twice \(.*leave one out"):
            nrl.find_betas(source)


def test_people_are_no_sessions(tmp_path: Path) -> None:
    names = ["Sn(1) face*bf(1)", "Sn(1) house*bf(1)"]
    people = [spm(tmp_path / f"sub-0{number}" / "first", names) for number in (1, 2)]
    with pytest.raises(NeurordlError, match=r"several people \(sub-01, sub-02\).*for each person"):
        nrl.find_betas(people)
    sessions = [spm(tmp_path / "sub-01" / name, names) for name in ("ses-1", "ses-2")]
    assert nrl.find_betas(sessions)[1]["session"].tolist() == ["ses-1"] * 2 + ["ses-2"] * 2


def test_regressors_of_the_baseline_are_no_conditions(tmp_path: Path) -> None:
    labels = ["Run#1Pol#0_Coef", "Run#1Pol#1_Coef", "Run#12Pol#0_Coef", "roll#0_Coef", "face#0_Coef"]
    motion = "-stim_file 2 motion.1D -stim_base 2 -stim_label 2 roll -bout"
    path = bucket(tmp_path / "b.nii", labels, f"{HISTORY} {motion}")
    with pytest.warns(UserWarning, match=r"4 of 5 betas .*regressors of the baseline \(4\)$"):
        images, table = nrl.find_betas(path)
    assert table.to_dict("list") == {"stimulus": ["face"]}
    assert np.array_equal(measured(images, table), values([4]))


def test_buckets_that_are_damaged_or_have_no_labels(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="no sub-brick is a coefficient"):
        nrl.find_betas(bucket(tmp_path / "a.nii", ["face#0_Tstat"]))
    save(tmp_path / "plain.nii", volume(0))
    with pytest.raises(NeurordlError, match=r"no labels of sub-bricks"):
        nrl.find_betas(tmp_path / "plain.nii")
    image = nib.load(bucket(tmp_path / "b.nii", LABELS))
    nib.save(image.slicer[..., :3], tmp_path / "c.nii")
    with pytest.raises(NeurordlError, match=r"8 labels and 3 sub-bricks"):
        nrl.find_betas(tmp_path / "c.nii")
    image.header.extensions[0] = nib.nifti1.Nifti1Extension(4, b"<AFNI_attributes")
    nib.save(image, tmp_path / "d.nii")
    with pytest.raises(NeurordlError, match=r"cannot read .*d.nii"):
        nrl.find_betas(tmp_path / "d.nii")
    head = brik(tmp_path / "e.x", LABELS)
    brick = head.with_suffix(".BRIK")
    brick.write_bytes(brick.read_bytes()[:-10])
    with pytest.raises(NeurordlError, match=r"cannot read .*e.HEAD"):
        nrl.find_betas(head)
    brick.unlink()
    with pytest.raises(NeurordlError, match=r"no e.BRIK beside it"):
        nrl.find_betas(head)
    head.write_text("nothing")
    with pytest.raises(NeurordlError, match=r"cannot read .*e.HEAD"):
        nrl.find_betas(head)


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="is empty"):
        nrl.find_betas([])
    with pytest.raises(NeurordlError, match="there is no folder or file"):
        nrl.find_betas(tmp_path / "nothing")
    with pytest.raises(NeurordlError, match="neither SPM's betas"):
        nrl.find_betas(tmp_path)
    first = spm(tmp_path / "spm", ["Sn(1) face*bf(1)"])
    second = feat(tmp_path / "run.feat", CONTRASTS)
    with pytest.raises(NeurordlError, match="several packages"):
        nrl.find_betas([first, second])
    runs = [spm(tmp_path / name / "spm", ["Sn(1) face*bf(1)"]) for name in "ab"]
    assert nrl.find_betas(runs)[1]["session"].tolist() == ["source-1", "source-2"]


def test_the_pattern_of_names_is_that_of_spm() -> None:
    assert re.fullmatch(packages._CONDITION, "Sn(12) a*b (c)*bf(3)").groups() == ("12", "a*b (c)", "3")  # type: ignore[union-attr]
