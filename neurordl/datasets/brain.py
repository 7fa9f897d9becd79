"""Brain measurements: the 92 objects with their RDMs, and Haxby's faces and houses."""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.rdm.rdms import RDMs

from neurordl.datasets.download import data_root, folder_of, wanted_file
from neurordl.datasets.reading import arrays, choose
from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.rdms.alignment import Alignment, align
from neurordl.rdms.files import load_rdms
from neurordl.rdms.files.content import Interpretation, condense
from neurordl.rdms.files.matlab import read_mat5
from neurordl.stimuli import StimulusSet

__all__ = [
    "IMAGES92_IDS",
    "IMAGES92_RDMS",
    "BrainData",
    "Haxby",
    "HaxbySlice",
    "load_brain",
    "load_haxby2001",
    "load_haxby2001_slice",
    "load_images92",
    "load_images92_rdms",
]

IMAGES92_IDS = tuple(f"stim_{number:03d}" for number in range(1, 93))
# name -> file of the compact form, array in it, ROI
IMAGES92_RDMS = {
    "cichy_it": ("cichy2014_fmri.npz", "it", "IT"),
    "cichy_evc": ("cichy2014_fmri.npz", "evc", "EVC"),
    "human_it": ("kriegeskorte2008.npz", "human_it", "IT"),
    "monkey_it": ("kriegeskorte2008.npz", "monkey_it", "IT"),
}
_SUPPLEMENT = "Kriegeskorte_Neuron2008_supplementalData.mat"
_LARGEST = 1 << 25  # of an unpacked file of RDMs, which are 3 MB


class BrainData(NamedTuple):
    """Stimuli, RDMs and labels (a table by id) in one order; ``report`` says what was matched with what."""

    stimuli: StimulusSet
    rdms: RDMs
    labels: pd.DataFrame
    report: Alignment


class Haxby(NamedTuple):
    """Files of one subject: ``bold``, ``labels`` (a row per volume), ``masks`` by name, ``tr`` in seconds."""

    bold: Path
    labels: pd.DataFrame
    masks: dict[str, Path]
    tr: float


def load_images92(
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> StimulusSet:
    """The 92 objects of Kriegeskorte et al. (2008, Neuron 60:1126) on the grey that was shown, 175 x 175.

    Read from ``images92`` in `data_root`: the folder ``stimuli`` with ``stimuli.tsv`` where it is there, or
    the paper's supplement, whose images are the same. Ids are `IMAGES92_IDS`; the table has ``category`` and
    binary category columns (in the folder also ``name_by_eye``); no labels. The arguments are those of
    `Preprocessing`.
    """
    folder = folder_of("images92")
    if not (folder / "stimuli").is_dir():
        return _supplement_images(size, channels, mean, std)
    stimuli = StimulusSet.from_folder(
        folder / "stimuli", size, channels, mean, std, labels=folder / "stimuli.tsv"
    )
    if stimuli.ids != IMAGES92_IDS:
        raise NeurordlError(f"{folder} must hold stim_001 to stim_092, but holds others; fetch it again")
    return stimuli


def _supplement_images(size: Any, channels: int, mean: Any, std: Any) -> StimulusSet:
    path = wanted_file("images92", _SUPPLEMENT)
    try:
        structs = read_mat5(path)["stimuli_92objs"]
        pixels = np.stack([one["image"] for one in structs]).astype(np.uint8)
        rows = [
            {"category": one["category"]}
            | {name: int(one[name].item()) for name in ("human", "face", "animal", "natural")}
            for one in structs
        ]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise NeurordlError(f"{path} does not hold the 92 images ({error}); fetch it again") from error
    if pixels.shape != (92, 175, 175, 3):
        raise NeurordlError(f"{path} holds images {pixels.shape}, not 92 of 175 x 175; fetch it again")
    table = pd.DataFrame(rows, index=list(IMAGES92_IDS))
    return StimulusSet.from_array(
        pixels, IMAGES92_IDS, None, table, size, channels, mean, std, source=str(path)
    )


def load_images92_rdms(which: str) -> RDMs:
    """Measured RDMs of the 92 objects of `load_images92`, one of `IMAGES92_RDMS`.

    "cichy_it", "cichy_evc": fMRI, 15 subjects (Cichy, Pantazis & Oliva 2014). "human_it": fMRI, 4 subjects in
    2 sessions each, an RDM per session; "monkey_it": electrophysiology, one RDM (Kriegeskorte et al. 2008).
    All are 1 - Pearson between response patterns. Read from ``images92`` in `data_root`, the compact ``.npz``
    files where they are there, or the official ones (whose numbers have more digits).

    Returns
    -------
    RDMs
        Rdm descriptors ``subject``, ``roi`` (``session`` for "human_it"); pattern descriptor ``stimulus``.
    """
    file, key, roi = choose(IMAGES92_RDMS, which, "RDMs of images92")
    path = folder_of("images92") / file
    if path.is_file():
        ids, vectors, people = _compact(path, key, which)
    else:
        ids, (vectors, people) = list(IMAGES92_IDS), _official(which)
    return RDMs(
        vectors,
        dissimilarity_measure="correlation",
        rdm_descriptors={**people, "roi": [roi] * len(vectors)},
        pattern_descriptors={"stimulus": ids},
    )


def _people(which: str, count: int) -> dict[str, list[str]]:
    if which == "monkey_it":
        return {"subject": ["monkey"]}
    return {"subject": [f"cichy{place:02d}" for place in range(1, count + 1)]}


Found = tuple[npt.NDArray[np.float64], dict[str, list[str]]]


def _compact(
    path: Path, key: str, which: str
) -> tuple[list[str], npt.NDArray[np.float64], dict[str, list[str]]]:
    held = arrays(path, key, "ids", *(["human_subjects"] if which == "human_it" else []))
    ids = held["ids"].tolist()
    match_ids(IMAGES92_IDS, ids, names=("stimuli of images92", f"RDMs in {path}"))
    given = held[key].astype(np.float64)
    matrices = given.reshape(-1, *given.shape[-2:])
    if matrices.shape[1:] != (len(ids), len(ids)) or not np.array_equal(matrices, matrices.swapaxes(1, 2)):
        raise NeurordlError(
            f"{key!r} in {path} should be symmetric {len(ids)} x {len(ids)} matrices; fetch it again"
        )
    vectors = matrices[:, *np.triu_indices(len(ids), 1)]
    if which != "human_it":
        return ids, vectors, _people(which, len(vectors))
    names, sessions = held["human_subjects"].tolist(), [str(n + 1) for n in range(given.shape[1])]
    people = {"subject": [who for who in names for _ in sessions], "session": sessions * len(names)}
    return ids, vectors, people


def _official(which: str) -> Found:
    if which.startswith("cichy"):
        area = "EVC" if which == "cichy_evc" else "IT"
        path = wanted_file("cichy2014", f"92images_fmri_{area}_RDMs.gzip")
        try:
            with gzip.open(path, "rb") as handle:
                held = json.loads(handle.read(_LARGEST))
            given = np.array(held["data"], dtype=np.float64).reshape(15, 92, 92)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
            raise NeurordlError(f"cannot read {path}: {error}; fetch it again") from error
        return condense(given, str(path), Interpretation("square")), _people(
            which, 15
        )  # symmetric to the last digits
    human = which == "human_it"
    path = wanted_file("images92", "92_brainRDMs.mat" if human else _SUPPLEMENT)
    with warnings.catch_warnings():  # that names were read is said in the docstring
        warnings.simplefilter("ignore", UserWarning)
        rdms = load_rdms(path, name="RDMs" if human else "RDMs_mIT_hIT_fig1", ids=list(IMAGES92_IDS))
    vectors = np.asarray(rdms.dissimilarities, dtype=np.float64)
    if not human:
        place = [str(name).startswith("mIT") for name in rdms.rdm_descriptors["name"]].index(True)
        return vectors[place : place + 1], _people(which, 1)
    described = {name: [str(v) for v in rdms.rdm_descriptors[name]] for name in ("subject", "session")}
    order = np.lexsort((described["session"], described["subject"]))
    return vectors[order], {name: [values[k] for k in order] for name, values in described.items()}


def load_brain(
    name: str,
    size: int | Sequence[int] | None = None,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> BrainData:
    """Stimuli, RDMs and labels of "images92" (human IT) or "cichy2014" (EVC and IT), matched by id.

    The arguments after ``name`` are those of `Preprocessing`.
    """
    wanted = choose({"images92": ("human_it",), "cichy2014": ("cichy_evc", "cichy_it")}, name, "brain data")
    stimuli = load_images92(size, channels, mean, std)
    parts = {which: load_images92_rdms(which) for which in wanted}
    report = align({"stimuli": stimuli, **parts, "labels": stimuli.table})
    rdms = _joined([report[which] for which in wanted])
    return BrainData(report["stimuli"], rdms, report["labels"], report)


def _joined(parts: list[RDMs]) -> RDMs:
    """RDMs of the same stimuli, in the same order, as one."""
    if len(parts) == 1:
        return parts[0]
    keys = [key for key in parts[0].rdm_descriptors if key != "index"]
    return RDMs(
        np.concatenate([np.asarray(part.dissimilarities) for part in parts]),
        dissimilarity_measure=parts[0].dissimilarity_measure,
        rdm_descriptors={key: [v for part in parts for v in part.rdm_descriptors[key]] for key in keys},
        pattern_descriptors={"stimulus": list(parts[0].pattern_descriptors["stimulus"])},
    )


class HaxbySlice(NamedTuple):
    """Files of one slice: ``bold`` and ``events`` by run, the brain's ``mask``, ``tr`` in seconds."""

    bold: list[Path]
    events: list[Path]
    mask: Path
    tr: float


def load_haxby2001_slice() -> HaxbySlice:
    """One axial slice of one subject of Haxby et al. (2001), from ``haxby2001_slice`` in `data_root`.

    12 runs of 121 volumes, 8 categories, one block of each per run; the events are shifted by the
    haemodynamic lag already. Source: the git repository PyMVPA/PyMVPA at 20f0335f, mvpa2/data (MIT).
    """
    stem = "sub-001_task-objectviewing_run-{:02d}_"
    bold = [wanted_file("haxby2001_slice", stem.format(run) + "slice_bold.nii.gz") for run in range(1, 13)]
    events = [wanted_file("haxby2001_slice", stem.format(run) + "events.tsv") for run in range(1, 13)]
    return HaxbySlice(bold, events, wanted_file("haxby2001_slice", "slice_brain_mask.nii.gz"), 2.5)


def load_haxby2001(subject: int = 2) -> Haxby:
    """Haxby et al. (2001): BOLD, labels and masks of one of 6 subjects, downloaded by nilearn where needed.

    nilearn keeps it under ``haxby2001`` in `data_root`. The labels have a row per volume: ``stimulus`` (the
    category, "rest" between blocks) and ``run``. They are shifted by the haemodynamic lag already. So they
    are a table for `neurordl.read_patterns`, which gives a pattern for each volume, without any detrending::

        found = load_haxby2001()
        volumes = read_patterns(found.bold, found.masks["vt"], table=found.labels, subject="sub-2")
        names = [name for name in dict.fromkeys(found.labels["stimulus"]) if name != "rest"]
        rdms = compute_rdms(volumes.subset_obs("stimulus", names), "crossnobis")

    Raises
    ------
    NeurordlError
        An unknown subject, a download that fails, or as many labels as volumes are not there.
    """
    if subject not in range(1, 7):
        raise NeurordlError(f"haxby2001 has the subjects 1 to 6, not {subject!r}")
    from nilearn.datasets import fetch_haxby

    try:
        found = fetch_haxby(data_dir=str(data_root()), subjects=[subject], verbose=0)
        labels = pd.read_csv(found.session_target[0], sep=" ")
        bold = Path(found.func[0])
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise NeurordlError(
            f"nilearn could not fetch haxby2001: {error}; check the connection and try again"
        ) from error
    import nibabel

    volumes = nibabel.load(bold).shape[3]  # type: ignore[attr-defined]
    if volumes != len(labels) or list(labels.columns) != ["labels", "chunks"]:
        raise NeurordlError(f"{bold} has {volumes} volumes, but {len(labels)} labels; fetch it again")
    table = labels.rename(columns={"labels": "stimulus", "chunks": "run"})
    masks = {"brain": Path(found.mask)} | {
        name: Path(found[f"mask_{name}"][0]) for name in ("vt", "face", "house") if found.get(f"mask_{name}")
    }
    return Haxby(bold, table, masks, 2.5)
