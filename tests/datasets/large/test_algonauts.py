"""Algonauts 2023, on a miniature of its layout, against an independent reading."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import neurordl as nrl
from neurordl.datasets import load_algonauts, load_algonauts_stimuli
from neurordl.errors import NeurordlError
from tests.datasets import miniatures
from tests.datasets.large.helpers import trained


@pytest.fixture(scope="module")
def algonauts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniatures.algonauts(tmp_path_factory.mktemp("algonauts"), subject=2)


def test_equals_an_independent_reading(algonauts: Path, tmp_path: Path) -> None:
    base = algonauts / "subj02"
    published = {  # in the pickles, which are not read
        "floc-faces": ["Unknown", "OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"],
        "prf-visualrois": ["Unknown", "V1", "V1"],
        "streams": [
            "Unknown",
            "early",
            "midventral",
            "midlateral",
            "midparietal",
            "ventral",
            "lateral",
            "parietal",
        ],
    }
    for roi, group, labels in (
        ("FFA-2", "floc-faces", [3]),
        ({"V1": ("V1v", "V1d")}, "prf-visualrois", [1, 2]),
        ("streams", "streams", [1, 2, 3, 4, 5, 6, 7]),
    ):
        patterns = load_algonauts(algonauts, 2, roi)
        sides, vertices, names = [], [], []
        for side in ("lh", "rh"):
            mask = np.load(base / "roi_masks" / f"{side}.{group}_challenge_space.npy")
            chosen = np.isin(mask, labels)
            sides.append(np.load(base / f"training_split/training_fmri/{side}_training_fmri.npy")[:, chosen])
            every = np.load(base / "roi_masks" / f"{side}.all-vertices_fsaverage_space.npy")
            vertices += np.flatnonzero(every)[chosen].tolist()
            names += [published[group][k] for k in mask[chosen]]
        np.testing.assert_array_equal(patterns.measurements, np.concatenate(sides, axis=1))
        channels = patterns.channel_descriptors
        assert list(channels["vertex"]) == vertices
        assert list(channels["roi"]) == names
        assert list(channels["hemisphere"]) == ["lh"] * sides[0].shape[1] + ["rh"] * sides[1].shape[1]
        in_file = load_algonauts(algonauts, "subj02", roi, cache=tmp_path)
        assert isinstance(in_file.measurements, np.memmap)
        np.testing.assert_array_equal(in_file.measurements, patterns.measurements)
    assert load_algonauts(algonauts, 2, "all-vertices").measurements.shape == (40, 55)


def test_images_are_those_of_the_rows(algonauts: Path) -> None:
    patterns = load_algonauts(algonauts, 2, "early")
    files = sorted((algonauts / "subj02/training_split/training_images").iterdir())
    assert patterns.obs_descriptors["stimulus"] == [path.stem.partition("_")[2] for path in files]
    stimuli = load_algonauts_stimuli(algonauts, 2)
    assert list(stimuli.ids) == patterns.obs_descriptors["stimulus"]
    for number in (0, 17, 39):
        expected = np.asarray(Image.open(files[number]))
        np.testing.assert_array_equal(stimuli.pixels[number].numpy().transpose(1, 2, 0), expected)
    some = load_algonauts_stimuli(algonauts, 2, stimuli.ids[5:8], size=12)
    assert (some.ids, some.pixels.shape) == (stimuli.ids[5:8], (3, 3, 12, 12))


def test_teaches(algonauts: Path) -> None:
    patterns = load_algonauts(algonauts, 2, ["ventral", "lateral"])
    stimuli = load_algonauts_stimuli(algonauts, 2, size=16)
    trained(patterns, stimuli, nrl.PatternTeacher(patterns))
    rdms = nrl.compute_rdms(patterns, "correlation")
    assert sorted(rdms.rdm_descriptors["roi"]) == ["lateral", "ventral"]
    trained(patterns, stimuli, nrl.RDMTeacher(rdms, select={"roi": "ventral"}))


def test_bad_input(algonauts: Path, tmp_path: Path) -> None:
    for options, message in (
        ({"roi": "FFA"}, "FFA"),
        ({"roi": {"FFA": "FFA"}}, "FFA"),
        ({"subject": 1}, r"subj01/training_split/training_images is not in .*form of the challenge"),
        ({"roi": ["streams", "prf-visualrois"]}, "a channel has one ROI"),
    ):
        arguments: dict[str, Any] = {"subject": 2, "roi": "early", **options}
        with pytest.raises(NeurordlError, match=message):
            load_algonauts(algonauts, **arguments)
    folder = shutil.copytree(algonauts, tmp_path / "copy")
    base = folder / "subj02"
    np.save(base / "roi_masks" / "lh.streams_challenge_space.npy", np.zeros(30, dtype=int))
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.zeros(25, dtype=int))
    with pytest.raises(NeurordlError, match="no vertex in 'early'"):
        load_algonauts(folder, 2, "early")
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.zeros(26, dtype=int))
    with pytest.raises(NeurordlError, match=r"rh.streams_challenge_space.npy has shape \(26,\)"):
        load_algonauts(folder, 2, "early")
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.full(25, 8))
    with pytest.raises(NeurordlError, match=r"rh.streams_.* has the label 8, and streams has 7 ROIs"):
        load_algonauts(folder, 2, "early")
    np.save(base / "roi_masks" / "rh.streams_challenge_space.npy", np.array({"a": 1}), allow_pickle=True)
    with pytest.raises(NeurordlError, match="cannot read"):
        load_algonauts(folder, 2, "early")
    image = next((base / "training_split" / "training_images").iterdir())
    image.rename(image.with_name("spare.png"))
    with pytest.raises(NeurordlError, match="39 images"):
        load_algonauts(folder, 2, "V1v")
    for path in (base / "training_split" / "training_images").iterdir():
        path.unlink()
    miniatures.save_images(base / "training_split" / "training_images", ["train-0001_nsd-00013.png"])
    with pytest.raises(NeurordlError, match="there are 1 training images"):
        load_algonauts(folder, 2, "V1v")
