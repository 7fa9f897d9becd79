"""Miniatures of large public data sets, in the layouts of their publication; all values are random."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.io
from PIL import Image

from neurordl.datasets import NSD_ROIS

NSD_SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)
SHAPE = (5, 4, 6)


def save_volume(path: Path, values: npt.NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.diag([1.8, 1.8, 1.8, 1.0])), path)


def nsd(folder: Path, subject: int = 1, sessions: int | None = None) -> Path:
    """NSD with 12 trials in a session of 4 runs, and 600 images: 20 shared ones, 70 of each subject alone."""
    rng = np.random.default_rng(subject)
    name, space = f"subj{subject:02d}", "func1pt8mm"
    pattern = np.zeros((40, 4, 5))
    for run, trials in enumerate((4, 2, 3, 3)):
        pattern[:, run, :trials] = 1
    images = np.random.default_rng(0).permutation(600)[:580] + 1
    shared, alone = np.sort(images[:20]), images[20:].reshape(8, 70)
    design = {
        "masterordering": (np.random.default_rng(1).permutation(480) % 90 + 1)[None],
        "subjectim": np.concatenate([np.tile(shared, (8, 1)), alone], axis=1),
        "sharedix": shared[None],
        "stimpattern": pattern,
    }
    experiment = folder / "nsddata" / "experiments" / "nsd"
    experiment.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(experiment / "nsd_expdesign.mat", design)

    inside = np.zeros(SHAPE, dtype=np.int16)
    inside[1:, 1:, 1:5] = 1
    base = folder / "nsddata" / "ppdata" / name / space
    save_volume(base / "brainmask.nii.gz", inside)
    labels = np.where(inside > 0, rng.integers(0, 6, SHAPE), -1).astype(np.int16)
    save_volume(base / "roi" / "floc-faces.nii.gz", labels)
    save_volume(base / "roi" / "nsdgeneral.nii.gz", np.where(inside > 0, labels > 1, -1).astype(np.int16))
    areas = np.where(inside > 0, rng.integers(0, 8, SHAPE), -1).astype(np.int16)
    save_volume(base / "roi" / "prf-visualrois.nii.gz", areas)
    save_volume(base / "roi" / "Kastner2015.nii.gz", areas)
    for hemisphere, half in (("lh", slice(0, 3)), ("rh", slice(3, 5))):
        part = np.full(SHAPE, -1, dtype=np.int16)
        part[half] = labels[half]
        save_volume(base / "roi" / f"{hemisphere}.floc-faces.nii.gz", part)
    tables = folder / "nsddata" / "freesurfer" / name / "label"
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "floc-faces.mgz.ctab").write_text(
        "0 Unknown\n1 OFA\n2 FFA-1\n3 FFA-2\n4 mTL-faces\n5 aTL-faces\n"
    )
    (tables / "Kastner2015.mgz.ctab").write_text(
        "0 Unknown\n1 V1v\n2 V1d\n3 V2v\n4 V2d\n5 V3v\n6 V3d\n7 hV4\n"
    )

    betas = folder / "nsddata_betas" / "ppdata" / name / space / "betas_fithrf_GLMdenoise_RR"
    betas.mkdir(parents=True, exist_ok=True)
    for session in range(1, (sessions or NSD_SESSIONS[subject - 1]) + 1):
        values = (rng.normal(size=(12, *SHAPE[::-1])) * 600).astype(np.int16) * inside.T
        with h5py.File(betas / f"betas_session{session:02d}.hdf5", "w") as file:
            file.create_dataset("betas", data=values, chunks=(12, 1, 1, 1))
    brick = folder / "nsddata_stimuli" / "stimuli" / "nsd"
    brick.mkdir(parents=True, exist_ok=True)
    with h5py.File(brick / "nsd_stimuli.hdf5", "w") as file:
        images = np.random.default_rng(2).integers(0, 255, (600, 24, 24, 3), dtype=np.uint8)
        file.create_dataset("imgBrick", data=images)
    return folder


def save_images(folder: Path, names: Iterable[str], size: int = 24) -> None:
    for name in names:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(folder / name)


def algonauts(folder: Path, subject: int = 1) -> Path:
    """Algonauts 2023 with 40 training images, and 30 and 25 vertices."""
    rng = np.random.default_rng(subject)
    base = folder / f"subj{subject:02d}"
    for place in ("training_split/training_fmri", "roi_masks", "test_split/test_images"):
        (base / place).mkdir(parents=True)
    numbers = np.sort(rng.choice(73_000, 40, replace=False))
    names = [f"train-{k:04d}_nsd-{number:05d}.png" for k, number in enumerate(numbers, 1)]
    save_images(base / "training_split" / "training_images", names)
    for side, width in (("lh", 30), ("rh", 25)):
        responses = rng.normal(size=(40, width)).astype(np.float32)
        np.save(base / "training_split" / "training_fmri" / f"{side}_training_fmri.npy", responses)
        for group, labels in NSD_ROIS.items():
            masks = rng.integers(0, len(labels) + 1, width)
            np.save(base / "roi_masks" / f"{side}.{group}_challenge_space.npy", masks)
            mapping = dict(enumerate(("Unknown", *labels)))  # as published: a pickle, which must not be read
            np.save(base / "roi_masks" / f"mapping_{group}.npy", np.array(mapping), allow_pickle=True)
        vertices = np.zeros(100, dtype=int)
        vertices[rng.choice(100, width, replace=False)] = 1
        np.save(base / "roi_masks" / f"{side}.all-vertices_fsaverage_space.npy", vertices)
    return folder


def things(folder: Path, subject: int = 1, chunks: bool = False) -> Path:
    """THINGS-fMRI with 12 sessions of 2 runs, 10 trials in a session (4 are test images), and 60 voxels."""
    rng = np.random.default_rng(subject)
    place, name = folder / "betas_csv", f"sub-{subject:02d}"
    place.mkdir(parents=True, exist_ok=True)
    trials = []
    for session in range(1, 13):
        train = [(f"concept{k % 30:02d}", 12 + k // 30) for k in range(6 * session, 6 * session + 6)]
        shown = [("train", *item) for item in train] + [("test", f"thing{k}", 14) for k in range(4)]
        for trial, number in enumerate(rng.permutation(10)):
            label, concept, version = shown[number]
            file = f"{concept}_{version:02d}s.jpg"
            trials.append((label, session, 1 + trial // 5, subject, len(trials), file, concept))
    columns = ["trial_type", "session", "run", "subject_id", "trial_id", "stimulus", "concept"]
    table = pd.DataFrame(trials, columns=columns)
    table.to_csv(place / f"{name}_StimulusMetadata.csv", index=False)
    grid = np.argwhere(np.ones((3, 4, 5)))
    voxels = pd.DataFrame({"voxel_id": np.arange(60), "subject_id": subject})
    voxels[["voxel_x", "voxel_y", "voxel_z"]] = grid
    voxels["nc_testset"] = rng.uniform(0, 50, 60)
    area = rng.integers(0, 5, 60)
    for number, roi in enumerate(("V1", "lFFA", "rFFA", "glasser-p9-\n46v"), 1):
        voxels[roi] = (area == number).astype(int)
    voxels["IT"] = (area > 1).astype(int)
    voxels["empty"] = 0
    voxels.to_csv(place / f"{name}_VoxelMetadata.csv", index=False)
    with h5py.File(place / f"{name}_ResponseData.h5", "w") as file:  # as pandas writes a frame
        frame = file.create_group("ResponseData")
        frame.attrs["pandas_type"] = "frame"
        pickled = h5py.vlen_dtype(np.uint8)  # the names of columns, text and numbers, are a pickle
        frame.create_dataset("axis0", (1,), dtype=pickled)[0] = np.frombuffer(b"not to be read", np.uint8)
        frame["axis1"] = np.arange(60)
        values = rng.normal(size=(60, len(table)))
        frame.create_dataset("block0_values", data=values, chunks=(7, 11) if chunks else None)
        frame["block1_items"] = np.array([b"voxel_id"])
        frame["block1_values"] = np.arange(60)[:, None]
    for concept, rows in table.groupby("concept"):
        save_images(folder / "object_images" / str(concept), rows["stimulus"].unique())
    return folder


def bold5000(folder: Path, subject: int = 4, betas: str = "TYPED-FITHRF-GLMDENOISE-RR") -> Path:
    """BOLD5000 (release 2) with all trials of a subject, tiny ROIs, and images of three sessions."""
    rng = np.random.default_rng(subject)
    name = f"CSI{subject}"
    n_trials = 3108 if subject == 4 else 5254
    unique = [
        *(f"COCO_train2014_{k:012d}.jpg" for k in range(1, n_trials // 3)),
        *(f"n{k:08d}_{k}.JPEG" for k in range(1, n_trials // 3)),
        *(f"banquetHall{k}.jpg" for k in range(1, n_trials // 6)),
    ]
    rng.shuffle(unique)
    repeated = [f"rep_{unique[k]}" for k in rng.integers(0, 100, n_trials - len(unique))]
    names = unique[:200] + rng.permutation([*unique[200:], *repeated]).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}_imgnames.txt").write_text("\n".join(names) + "\n")
    arrays = folder / "BOLD5000_GLMsingle_ROI_betas" / "py"
    arrays.mkdir(parents=True)
    for roi, width in (("PPA", 4), ("LOC", 3), ("EarlyVis", 5)):
        for k, side in enumerate(("LH", "RH")):
            values = rng.normal(size=(n_trials, width - k)).astype(np.float32)
            np.save(arrays / f"{name}_GLMbetas-{betas}_allses_{side}{roi}.npy", values)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[1:4, 1:, 2:5] = 1
    # its place is true, and that of the betas is not, whose voxels run from the other side
    nib.save(nib.Nifti1Image(mask[::-1], np.diag([-2, 2, 2, 1])), folder / f"{name}_brainmask.nii.gz")
    for session, trials in ((1, 370), (2, 333), (3, 333)):
        values = np.where(mask[..., None] > 0, rng.normal(size=(*SHAPE, trials)), np.nan).astype(np.float32)
        save_volume(folder / f"{name}_GLMbetas-{betas}_ses-{session:02d}.nii.gz", values)
    place = folder / "BOLD5000_Stimuli" / "Scene_Stimuli" / "Presented_Stimuli"
    for file in names[:60]:
        group = "COCO" if file.startswith("COCO") else "ImageNet" if file[0] == "n" else "Scene"
        save_images(place / group, [file])
    return folder
