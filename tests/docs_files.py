"""Files and names that the code of the how-to pages takes as present, by page; made in the current folder."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import mne
import nibabel as nib
import numpy as np
import pandas as pd
import rsatoolbox
import scipy.io
import torch
from PIL import Image
from sklearn.utils import Bunch

import neurordl as nrl
from tests.datasets import miniatures
from tests.datasets.test_datasets import archive, strips, write_idx
from tests.helpers import icosphere

STUDY = Path(__file__).parents[1] / "data" / "simulated_fmri" / "study"
IDS = [f"{kind}-{number}" for kind in ("cat", "dog", "cup", "pen") for number in range(6)]


def people(n_subjects: int = 4, **options: Any) -> Any:
    patterns = np.random.default_rng(0).normal(size=(len(IDS), 8))
    return nrl.simulate.simulate_subjects(patterns, IDS, n_subjects=n_subjects, seed=0, **options)


def pictures(folder: str, ids: Iterable[str], size: int = 40) -> None:
    """A folder of pictures, named by their ids."""
    Path(folder).mkdir()
    rng = np.random.default_rng(0)
    for id in ids:
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(f"{folder}/{id}.png")


def seen() -> Iterable[str]:
    """Stimuli of the simulated study."""
    tables = [pd.read_csv(path, sep="\t") for path in STUDY.glob("sub-01/func/*_events.tsv")]
    return pd.concat(tables)["trial_type"].unique()


def brain_files() -> None:
    """it.h5 with six subjects, and the images in stimuli/."""
    measurement = nrl.simulate.Measurement(runs=4)
    rdms = people(6, dissimilarity="crossnobis", measurement=measurement)
    rdms.rdm_descriptors["roi"] = ["IT"] * rdms.n_rdm
    nrl.save_rdms(rdms, "it.h5")
    pictures("stimuli", IDS)


def two_networks() -> dict[str, Any]:
    pictures("stimuli", IDS)
    return {}


def fit() -> dict[str, Any]:
    brain_files()
    return {"labelled": loader()}


def own_network() -> dict[str, Any]:
    """RDMs, pictures, and the checkpoint of the page's network."""
    fit()
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten()]
    torch.save(torch.nn.Sequential(*layers, torch.nn.Linear(128, 10)).state_dict(), "mynet.pth")
    rdms = people(6)
    scipy.io.savemat("it.mat", {"itRDMs": np.moveaxis(rdms.get_matrices(), 0, 2)})
    Path("names.txt").write_text("\n".join(rdms.pattern_descriptors["stimulus"]))
    return {}


def fmriprep(root: Path, subjects: str = "12") -> None:
    """The simulated study in fMRIPrep's layout, with confounds; two subjects."""
    rng = np.random.default_rng(0)
    for bold in sorted(STUDY.glob(f"sub-0[{subjects}]/func/*_bold.nii.gz")):
        run = bold.name.removesuffix("_bold.nii.gz")
        prepared = root / "derivatives" / "fmriprep" / bold.parent.relative_to(STUDY)
        raw = root / bold.parent.relative_to(STUDY)
        prepared.mkdir(parents=True, exist_ok=True)
        raw.mkdir(parents=True, exist_ok=True)
        (prepared / f"{run}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz").symlink_to(bold)
        (raw / f"{run}_events.tsv").symlink_to(bold.with_name(f"{run}_events.tsv"))
        kinds = ("", "_derivative1", "_power2", "_derivative1_power2")
        names = [f"{part}_{axis}{kind}" for part in ("trans", "rot") for axis in "xyz" for kind in kinds]
        table = pd.DataFrame(rng.normal(size=(nib.load(bold).shape[3], 24)), columns=names)
        table.to_csv(prepared / f"{run}_desc-confounds_timeseries.tsv", sep="\t", index=False)


def kinds_of_pictures(folder: str, kinds: Mapping[str, int], size: int = 36) -> None:
    """A folder of pictures by their ids, whose colors and shapes are those of a kind, with noise."""
    Path(folder).mkdir()
    rng = np.random.default_rng(1)
    coarse = np.random.default_rng(0).integers(0, 255, (max(kinds.values()) + 1, 3, 3, 3))
    for id, kind in kinds.items():
        clean = np.kron(coarse[kind], np.ones((size // 3, size // 3, 1)))
        noisy = np.clip(clean + rng.normal(0, 80, clean.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(f"{folder}/{id}.png")


def shell() -> None:
    """Brain images of three people, the pictures that they saw, and labelled images with test images."""
    fmriprep(Path("study"), "123")
    for name in ("atlas.nii.gz", "atlas.tsv"):
        Path(name).symlink_to(STUDY / name)
    stems = [id.rstrip("0123456789") for id in seen()]
    numbers = {stem: number for number, stem in enumerate(dict.fromkeys(sorted(stems)))}
    kinds_of_pictures("stimuli", {id: numbers[stem] for id, stem in zip(seen(), stems, strict=True)})
    labels = {f"labelled-{k}": k % len(numbers) for k in range(48)}
    kinds_of_pictures("labelled", labels)
    columns = {"path": [f"labelled/{id}.png" for id in labels], "id": [*labels], "label": [*labels.values()]}
    table = pd.DataFrame(columns)
    table[:32].to_csv("images.csv", index=False)
    table[32:].to_csv("test.csv", index=False)


def bring_rdms() -> dict[str, Any]:
    brain_files()
    rng = np.random.default_rng(0)
    Path("stimuli.txt").write_text("\n".join(IDS))
    rdms = people(3)
    squares = rdms.get_matrices()
    scipy.io.savemat("rdms.mat", {"it": np.moveaxis(squares, 0, 2), "other": squares[0]})
    for name in ("rdms.npy", "it.npy", "evc.npy"):
        np.save(name, squares)
    Path("participants.tsv").write_text("participant_id\tage\ns01\t20\ns02\t30\ns03\t40\n")
    pd.DataFrame(squares[0], index=IDS, columns=IDS).to_csv("rdm.csv")
    theirs = rsatoolbox.rdm.RDMs(rdms.dissimilarities, pattern_descriptors={"conds": IDS})
    theirs.save("theirs.h5", file_type="hdf5")
    others(rdms)
    fmriprep(Path("study"))
    for name in ("atlas.nii.gz", "atlas.tsv"):
        Path(name).symlink_to(STUDY / name)

    runs, stimuli = np.repeat(range(4), len(IDS)), IDS * 4
    betas = rng.normal(size=(5, 5, 4, len(stimuli)))
    mask = np.zeros((5, 5, 4))
    mask[1:4, 1:4] = 1
    np.save("betas.npy", betas[mask > 0].T)
    glmsingle(rng)
    analyses(rng)
    nib.save(nib.Nifti1Image(betas, np.eye(4)), "betas.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), "it.nii.gz")
    pd.DataFrame({"stimulus": stimuli, "run": runs}).to_csv("trials.csv", index=False)

    times = np.linspace(0, 0.3, 31)
    epochs = mne_epochs(rng.normal(size=(len(stimuli), 12, 31)), stimuli, runs, times)
    movies = rng.random((2, 31, len(IDS), len(IDS)))
    np.save("movies.npy", (movies + movies.swapaxes(2, 3)) * (1 - np.eye(len(IDS))))
    return {"epochs": epochs, "times": times, "ids": IDS}


def mne_epochs(data: Any, stimuli: list[str], runs: Any, times: Any) -> Any:
    """MNE's epochs, whose metadata have the columns image and block."""
    codes = {id: code for code, id in enumerate(IDS, start=1)}
    events = np.array([[k, 0, codes[id]] for k, id in enumerate(stimuli)])
    rate = float((len(times) - 1) / (times[-1] - times[0]))
    info = mne.create_info([f"E{k}" for k in range(data.shape[1])], rate, "eeg")
    table = pd.DataFrame({"image": stimuli, "block": runs})
    return mne.EpochsArray(data, info, events, times[0], codes, metadata=table, verbose="ERROR")


def epochs() -> dict[str, Any]:
    """Files of epochs of eight subjects, and RDMs of two layers."""
    times = np.arange(-10, 40) / 100
    rng = np.random.default_rng(0)
    layers = {name: rng.normal(size=(len(IDS), 6)) for name in ("conv1", "fc")}
    strengths = {name: 0.7 * (times >= onset) for name, onset in (("conv1", 0.08), ("fc", 0.16))}
    simulated = nrl.simulate.simulate_epochs(layers, strengths, IDS, times, n_subjects=8, n_channels=12)
    for number, trials in enumerate(simulated, start=1):
        names = (trials.obs_descriptors[name] for name in ("stimulus", "run"))
        mne_epochs(trials.measurements, *map(list, names), times).save(
            f"sub-{number:02d}_epo.fif", verbose="ERROR"
        )
    models = [rsatoolbox.data.Dataset(x, {"name": name}, {"stimulus": IDS}) for name, x in layers.items()]
    mixture = np.linspace(1, 0, 8)[:, None, None]
    hidden = mixture * layers["conv1"] + (1 - mixture) * layers["fc"]
    return {"layers": nrl.compute_rdms(models, "correlation"), "hidden": hidden, "ids": IDS}


def surfaces() -> dict[str, Any]:
    """A subject of fMRIPrep on a small mesh, of which a patch has the geometry of a model; an annotation."""
    rng, names = np.random.default_rng(0), [f"object-{k}" for k in range(8)]
    points, faces = icosphere(3)
    func = Path("derivatives/fmriprep/sub-01/func")
    func.mkdir(parents=True)
    geometry = rng.normal(size=(8, 5))
    maps = geometry @ rng.normal(size=(5, len(points))) * (np.linalg.norm(points - points[0], axis=1) < 30)
    small_meshes("white", points, faces)
    for mark in "LR":
        labels = np.where(points[:, 0] > 0, 1, 2)
        table = np.array([[25, 5, 25, 0], [1, 2, 3, 0], [9, 8, 7, 0]])
        texts = ["unknown", "fusiform", "lingual"]
        nib.freesurfer.write_annot(f"{mark.lower()}h.aparc.annot", labels, table, texts, fill_ctab=True)
    for run in (1, 2):
        onsets = 6.0 + 6 * np.arange(24)
        trials = {"onset": onsets, "duration": 1.0, "trial_type": rng.permutation(names * 3)}
        events, stem = pd.DataFrame(trials), f"sub-01_task-objects_run-{run:02d}"
        events.to_csv(func / f"{stem}_events.tsv", sep="\t", index=False)
        surface_run(func / stem, events, pd.DataFrame(maps, index=names), rng)
    model = rsatoolbox.data.Dataset(geometry, obs_descriptors={"stimulus": names})
    return {"models": {"objects": nrl.compute_rdms(model, "euclidean")}}


def small_meshes(name: str, points: Any, faces: Any) -> None:
    """A mesh of both hemispheres, named as those of fsaverage5."""
    for side, mark in (("left", "L"), ("right", "R")):
        mesh = {"POINTSET": points.astype(np.float32), "TRIANGLE": faces}
        gifti(mesh.items(), side, Path(f"fsaverage5_hemi-{mark}_{name}.surf.gii"))


def surface_run(stem: Path, events: pd.DataFrame, maps: pd.DataFrame, rng: np.random.Generator) -> None:
    """BOLD of a run on both hemispheres, of which the left one responds to the stimuli by maps."""
    from nilearn.glm.first_level import make_first_level_design_matrix

    n_volumes = int(events["onset"].max() / 2) + 8
    trials = events[["onset", "duration", "trial_type"]]
    design = make_first_level_design_matrix(2.0 * np.arange(n_volumes), trials, hrf_model="spm")
    for side, mark in (("left", "L"), ("right", "R")):
        bold = 500 + rng.normal(size=(n_volumes, maps.shape[1]))
        bold += (3 * design[maps.index].to_numpy() @ maps.to_numpy()) if side == "left" else 0
        path = stem.with_name(f"{stem.name}_hemi-{mark}_space-fsaverage5_bold.func.gii")
        gifti([("TIME_SERIES", volume.astype(np.float32)) for volume in bold], side, path)
        path.with_name(path.name.replace(".func.gii", ".json")).write_text('{"RepetitionTime": 2.0}')


def gifti(arrays: Iterable[tuple[str, Any]], side: str, path: Path) -> None:
    """A GIFTI file with arrays of these intents."""
    image = nib.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(values, intent=f"NIFTI_INTENT_{intent}", datatype=values.dtype)
            for intent, values in arrays
        ]
    )
    image.meta["AnatomicalStructurePrimary"] = f"Cortex{side.title()}"
    nib.save(image, path)


def glmsingle(rng: np.random.Generator) -> None:
    """A folder of GLMsingle: 48 trials of four conditions in three runs."""
    order = np.concatenate([rng.permutation(np.repeat(np.arange(1.0, 5), 4)) for _ in range(3)])
    Path("glmsingle").mkdir()
    with h5py.File("glmsingle/DESIGNINFO.mat", "w") as file:
        file["stimorder"], file["numtrialrun"] = order[:, None], np.full((3, 1), 16.0)
    with h5py.File("glmsingle/TYPED_FITHRF_GLMDENOISE_RR.hdf5", "w") as file:
        file["betasmd"], file["R2"] = rng.normal(size=(5, 5, 4, 48)), np.zeros((5, 5, 4))


def analyses(rng: np.random.Generator) -> None:
    """Two conditions in two runs, as the folders of SPM and FSL and the bucket of AFNI."""

    def image(path: str, shape: tuple[int, ...] = (5, 5, 4), descrip: str = "", labels: str = "") -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        volume = nib.Nifti1Image(rng.normal(size=shape).astype(np.float32), np.eye(4))
        volume.header["descrip"] = descrip
        if labels:
            attribute = f'<AFNI_atr ni_type="String" atr_name="BRICK_LABS">"{labels}"</AFNI_atr>'
            content = f"<AFNI_attributes>{attribute}</AFNI_attributes>".encode()
            volume.header.extensions.append(nib.nifti1.Nifti1Extension(4, content))
        nib.save(volume, path)

    names = [f"Sn({run}) {name}*bf(1)" for run in (1, 2) for name in ("face", "house")]
    for number, name in enumerate([*names, "Sn(1) constant", "Sn(2) constant"], 1):
        image(f"spm/sub-01/beta_{number:04}.nii", descrip=f"spm_spm:beta ({number:04}) - {name}")
    for run in (1, 2):
        for number in (1, 2):
            image(f"fsl/run-{run}.feat/stats/cope{number}.nii.gz")
        text = "/ContrastName1\tface\n/ContrastName2\thouse\n/NumWaves\t2\n/Matrix\n1 0\n0 1\n"
        Path(f"fsl/run-{run}.feat/design.con").write_text(text)
    labels = "Full_Fstat~face#0_Coef~face#0_Tstat~house#0_Coef~house#0_Tstat"
    image("afni/stats.s01.nii", (5, 5, 4, 1, 5), labels=labels)


def others(rdms: Any) -> None:
    """A tree of Meadows with two participants, and two layers of Net2Brain."""
    tree = {}
    for subject, values in zip(("kind-cat", "shy-owl"), rdms.dissimilarities, strict=False):
        about = {"name": "arrangement", "task_type": "multiarrange"}
        stimuli = [{"name": f"{id}.png"} for id in IDS]
        tree[subject] = {"tasks": [{"task": about, "stimuli": stimuli, "rdm": values.tolist()}]}
    Path("Meadows_objects_v_v1_tree.json").write_text(json.dumps(tree))
    Path("AlexNet_RDM").mkdir()
    for name, values in zip(("conv1", "fc8"), rdms.dissimilarities, strict=False):
        layer = {"rdm": values, "stimuli_name": IDS, "layer_name": name, "meta": {"distance": "correlation"}}
        np.savez(f"AlexNet_RDM/RDM_{name}.npz", **layer)


def choose() -> dict[str, Any]:
    patterns = np.random.default_rng(1).normal(size=(len(IDS), 8))
    measurement = nrl.simulate.Measurement(runs=4)
    measured = nrl.simulate.simulate_patterns(
        patterns, IDS, n_subjects=2, n_channels=20, measurement=measurement, seed=0
    )
    regions = {name: people() for name in ("it", "evc")}
    for name, rdms in regions.items():
        rdms.rdm_descriptors["roi"] = [name.upper()] * rdms.n_rdm
    return {"patterns": measured, **regions, **report()}


def shared_variance() -> dict[str, Any]:
    pictures("stimuli", IDS)
    numbers = range(len(IDS))
    table = {"stimulus": IDS, "task": [k % 3 < 1 for k in numbers], "motion": [k**0.5 for k in numbers]}
    pd.DataFrame(table).to_csv("stimuli.csv", index=False)
    names = "meaning", "shape", "pixels", "task"
    values = np.random.default_rng(0).normal(size=(len(IDS), 8))
    layer = rsatoolbox.data.Dataset(values, obs_descriptors={"stimulus": IDS})
    rdms = {"layer": layer, "whole": nrl.compute_rdms(layer, "euclidean")}
    return {"people": people(), **rdms, **{name: people(1, snr=0.5 + k) for k, name in enumerate(names)}}


def group_maps() -> dict[str, Any]:
    """A small study of ten people in fMRIPrep's layout, of which the left half has a model's geometry."""
    rng, ids = np.random.default_rng(0), IDS[::2]
    geometries = {half: rng.normal(size=(len(ids), 6)) for half in ("left", "right")}
    scan = nrl.simulate.Scan((8, 6, 5), runs=2, repeats=1, task="objects")
    root = nrl.simulate.simulate_fmri("simulated", geometries, ids, 10, scan=scan, snr=2.0)
    mask = nib.load(root / "atlas.nii.gz")
    whole = nib.Nifti1Image((mask.get_fdata() > 0).astype("uint8"), mask.affine)
    nib.save(whole, "gray_matter.nii.gz")
    points, faces = icosphere(2, radius=15.0)
    patch = np.linalg.norm(points - points[0], axis=1) < 15
    for bold in sorted(root.glob("sub-*/func/*_bold.nii.gz")):
        run, place = bold.name.removesuffix("_bold.nii.gz"), Path("study") / bold.parent.relative_to(root)
        prepared = Path("study/derivatives/fmriprep") / bold.parent.relative_to(root)
        for folder in (place, prepared):
            folder.mkdir(parents=True, exist_ok=True)
        space = f"{run}_space-MNI152NLin2009cAsym"
        bold.rename(prepared / f"{space}_desc-preproc_bold.nii.gz")
        nib.save(whole, prepared / f"{space}_desc-brain_mask.nii.gz")
        bold.with_name(f"{run}_events.tsv").rename(place / f"{run}_events.tsv")
        events = pd.read_csv(place / f"{run}_events.tsv", sep="\t")
        responses = geometries["left"] @ rng.normal(size=(6, len(points))) * patch
        surface_run(prepared / run, events, pd.DataFrame(responses, index=ids), rng)
    small_meshes("white", points, faces)
    small_meshes("inflated", 1.5 * points, faces)
    names = [f"sub-{number:02d}" for number in range(1, 11)]
    known = {"animacy": geometries["left"], "shape": rng.normal(size=(len(ids), 6))}
    patterns = [rsatoolbox.data.Dataset(x, {"name": name}, {"stimulus": ids}) for name, x in known.items()]
    table = pd.DataFrame({"patients": [0, 1] * 5, "age": rng.normal(50, 9, 10)}, index=names)
    return {"models": nrl.compute_rdms(patterns, "euclidean"), "table": table}


def report() -> dict[str, Any]:
    models = people(2, snr=0.5)
    models.rdm_descriptors = {"name": ["first", "second"]}
    return {"models": models, "people": people()}


def several_gpus() -> dict[str, Any]:
    digits = nrl.datasets.load_digits()
    stimuli, labelled = digits.subset(digits.ids[:64]), digits.subset(digits.ids[64:192])
    rdms = nrl.simulate.simulate_subjects(stimuli.images().flatten(1), stimuli.ids, n_subjects=3, seed=0)
    objective = nrl.Objective([nrl.RDMLoss(nrl.RDMTeacher(rdms), layer="conv3")])
    names = {"student": nrl.students.small_cnn(in_channels=1), "quiet": nrl.Execution(progress=False)}
    return {"stimuli": stimuli, "labelled": labelled, "objective": objective, **names}


def loader() -> Any:
    images, labels = torch.rand(128, 3, 32, 32), torch.arange(128) % 10
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=64)


def extending() -> dict[str, Any]:
    patterns = np.random.default_rng(1).normal(size=(len(IDS), 8))
    return {
        "patterns": nrl.simulate.simulate_patterns(patterns, IDS, n_subjects=4, n_channels=20, seed=0),
        "models": report()["models"],
        "teacher": nrl.RDMTeacher(people()),
        "network": nrl.students.cifar_resnet(depth=8),
        "student": nrl.students.small_cnn(),
        "loader": loader(),
    }


def city_block(patterns: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.triu_indices(patterns.shape[-2], patterns.shape[-2], offset=1)
    return (patterns[..., rows, :] - patterns[..., columns, :]).abs().mean(-1)


def overlap(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.minimum(weights * a, weights * b).sum(-1) / torch.maximum(weights * a, weights * b).sum(-1)


def readme() -> dict[str, Any]:
    pictures("stimuli", seen())
    atlas = nib.load(STUDY / "atlas.nii.gz")
    nib.save(nib.Nifti1Image((atlas.get_fdata() == 1).astype("uint8"), atlas.affine), "it.nii.gz")
    bold = sorted(STUDY.glob("sub-01/func/*_bold.nii.gz"))[:2]
    events = [path.with_name(path.name.replace("_bold.nii.gz", "_events.tsv")) for path in bold]
    for path in bold:  # a brain in which spheres have room
        image = nib.load(path)
        volumes = np.pad(image.get_fdata(), [(2, 2)] * 3 + [(0, 0)], mode="wrap")
        nib.save(nib.Nifti1Image(volumes, image.affine, image.header), path.name)
    nib.save(nib.Nifti1Image(np.ones(volumes.shape[:3], "uint8"), atlas.affine), "brain.nii.gz")
    subjects = [f"s{k:02d}" for k in range(1, 7)]
    rng = np.random.default_rng(0)
    np.save("betas.npy", rng.normal(size=(12, 50)))
    brains = nrl.simulate.simulate_subjects(rng.normal(size=(12, 8)), sorted(seen()), n_subjects=6, seed=0)
    layers = {"layer3": torch.nn.Conv2d(3, 8, 3), "layer4": torch.nn.Conv2d(8, 8, 3, stride=2)}
    top = {"pool": torch.nn.AdaptiveAvgPool2d(1), "flat": torch.nn.Flatten(), "fc": torch.nn.Linear(8, 10)}
    network = torch.nn.Sequential(OrderedDict({**layers, **top}))
    train = nrl.StimulusSet.from_folder("stimuli/", size=32).split(held_out=0.25, seed=0)[0]
    models = nrl.select_rdms(brains, subjects=["s01", "s02"])
    models.rdm_descriptors = {"layer": ["conv1", "conv2"]}
    return {
        "bold_files": dict.fromkeys(subjects, bold),
        "events_files": dict.fromkeys(subjects, events),
        "whole_brain": {
            "s01": nrl.read_patterns([path.name for path in bold], "brain.nii.gz", events, subject="s01")
        },
        "loader": loader(),
        "images": torch.rand(20, 3, 32, 32),
        "labels": torch.arange(20) % 10,
        "stimulus_images": train.images(),
        "stimulus_ids": train.ids,
        "network": network,
        "ids": sorted(seen()),
        "np": np,
        "nibabel": nib,
        "brain_rdms": brains,
        **dict.fromkeys(("models", "model_rdms", "layer_rdms"), models),
        "city_block": city_block,
        "overlap": overlap,
    }


# Public data sets, in the form of their files


def mnist(folder: Path) -> None:
    for part, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", np.zeros((count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.zeros(count, dtype=np.uint8))


def cifar10(folder: Path) -> None:
    path, classes = "cifar-10-batches-bin", "\n".join("abcdefghij").encode()
    members = {f"{path}/batches.meta.txt": classes, f"{path}/test_batch.bin": bytes(10_000 * 3073)}
    archive(folder / "cifar-10-binary.tar.gz", members)


def cifar100(folder: Path) -> None:
    path, counts = "cifar-100-binary", {"coarse": 20, "fine": 100}
    classes = {name: "\n".join(map(str, range(count))).encode() for name, count in counts.items()}
    members = {f"{path}/{name}_label_names.txt": content for name, content in classes.items()}
    archive(folder / "cifar-100-binary.tar.gz", {**members, f"{path}/test.bin": bytes(10_000 * 3074)})


def cifar100_stretched(folder: Path) -> None:
    np.savez(folder / "train_0.npz", **strips(20))  # type: ignore[arg-type]
    fine = {"fine_label": range(3), "fine_name": ["cat", "dog", "cup"]}
    classes = pd.DataFrame({**fine, "coarse_label": [0, 0, 1], "coarse_name": ["animal", "animal", "thing"]})
    classes.to_csv(folder / "class_names.tsv", sep="\t", index=False)


def images92(folder: Path) -> None:
    ids, rdms = nrl.datasets.IMAGES92_IDS, np.ones((15, 92, 92))
    pictures(str(folder / "stimuli"), ids)
    pd.DataFrame({"id": ids, "category": "face"}).to_csv(folder / "stimuli.tsv", sep="\t", index=False)
    np.savez(folder / "cichy2014_fmri.npz", ids=ids, it=rdms, evc=rdms)
    human = rdms[:8].reshape(4, 2, 92, 92)
    np.savez(folder / "kriegeskorte2008.npz", ids=ids, human_it=human, human_subjects=list("abcd"))


def haxby2001_slice(folder: Path) -> None:
    (folder / "slice_brain_mask.nii.gz").touch()
    for run in range(1, 13):
        for end in ("slice_bold.nii.gz", "events.tsv"):
            (folder / f"sub-001_task-objectviewing_run-{run:02d}_{end}").touch()


def haxby2001(folder: Path) -> Any:
    """What nilearn returns of a subject."""
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 3)), np.eye(4)), folder / "bold.nii.gz")
    (folder / "labels.txt").write_text("labels chunks\nrest 0\nface 0\nhouse 1\n")
    files = {"func": [str(folder / "bold.nii.gz")], "session_target": [str(folder / "labels.txt")]}
    masks = {f"mask_{name}": [f"{name}.nii.gz"] for name in ("vt", "face", "house")}
    return Bunch(mask="mask.nii.gz", **files, **masks)


def data_sets(root: Path, real: str | None) -> None:
    """The data sets of the folder ``real``, and images that are black or noise in the place of the others."""
    writers = (mnist, cifar10, cifar100, cifar100_stretched, images92, haxby2001_slice)
    for name, write in {"fashion_mnist": mnist, **{write.__name__: write for write in writers}}.items():
        if real and (Path(real) / name).is_dir():
            (root / name).symlink_to(Path(real) / name)
        else:
            (root / name).mkdir()
            write(root / name)


def large_sets() -> dict[str, Any]:
    """Miniatures of the public data sets."""
    for subject in (1, 2):
        miniatures.nsd(Path("nsd"), subject)
    miniatures.algonauts(Path("algonauts"))
    miniatures.things(Path("things"))
    miniatures.bold5000(Path("bold5000"), subject=1)
    return {}


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": readme,
    "bring_rdms": bring_rdms,
    "choose": choose,
    "epochs": epochs,
    "extending": extending,
    "fit": fit,
    "group_maps": group_maps,
    "large_sets": large_sets,
    "own_network": own_network,
    "report": report,
    "several_gpus": several_gpus,
    "shared_variance": shared_variance,
    "surfaces": surfaces,
    "two_networks": two_networks,
}
