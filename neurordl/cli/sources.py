"""What several commands read: the RDMs of subjects, and what is doubtful about a network by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurordl.cli.options import Call, Takes
from neurordl.errors import NeurordlError

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

READ = Takes("cli.sources:read_rdms", panel="RDMs")
LOAD = Takes("load_rdms", "name labels subjects_from measure layout similarity diagonal", panel="RDMs")
SELECT = Takes("select_rdms", "average", panel="RDMs")


def read_rdms(load: Call, rdms: Path, each_a_subject: bool = False) -> RDMs:
    """Read the RDMs of subjects.

    Parameters
    ----------
    load
        `neurordl.load_rdms` with its options.
    rdms
        File with the RDMs of the subjects: .h5, .mat, .npz, .npy, .csv, .tsv or .json.
    each_a_subject
        Take each RDM in the file as that of a different subject, if the file does not name its subjects.
    """
    measured: RDMs = load(rdms)
    if each_a_subject:
        number_subjects(measured, rdms)
    return measured


def number_subjects(measured: RDMs, file: Path) -> None:
    """Take each RDM in a file as that of a subject: s01, s02 and so on."""
    if "subject" in measured.rdm_descriptors:
        raise NeurordlError(f"--each-a-subject: {file} names the subjects of its RDMs; leave it out")
    width = max(2, len(str(measured.n_rdm)))
    measured.rdm_descriptors["subject"] = [f"s{k + 1:0{width}d}" for k in range(measured.n_rdm)]


def notes_on_network(name: str, network: Call, prepared: Call, prefix: str = "") -> list[str]:
    """What is doubtful about the weights of a network by name, and about the images that it is shown."""
    notes, packaged = [], name.startswith(("torchvision:", "timm:"))
    if not (network.values.get("checkpoint") or network.values.get("pretrained")):
        weights = "the weights that it sets itself" if ":" in name and not packaged else "random weights"
        remedy = "; --pretrained takes the trained ones" if packaged else ""
        notes.append(f"no checkpoint was given: {name} has {weights}{remedy}")
    unset = [f"--{prefix}{part}" for part in ("size", "mean", "std") if prepared.values.get(part) is None]
    if unset and packaged:
        unprepared = f"without {' and '.join(unset)} the images are not prepared as in its training"
        most = f"--{prefix}size 224 --{prefix}mean imagenet --{prefix}std imagenet"
        notes.append(f"{name}: {unprepared}; most take {most}")
    return notes
