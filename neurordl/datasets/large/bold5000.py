"""BOLD5000, its release 2.0 with GLMsingle (Chang et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.datasets.large.reading import (
    BRAIN,
    ROI,
    Block,
    Folder,
    Layout,
    Part,
    Values,
    blocks_of_sessions,
    channels_of_volume,
    files_of_sessions,
    is_image,
    name_of_subject,
    named_channels,
    numbers_of_sessions,
    read_folder_of_stimuli,
    trial_rows,
    values_of_volumes,
)
from neurordl.errors import NeurordlError, notify
from neurordl.io import damage_named, read_text
from neurordl.patterns.images import load_image
from neurordl.patterns.trials import TrialArray, open_trials
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_path, listed

_PAGE = "https://bold5000-dataset.github.io/website/download.html"
_ACCESS = f"Download release 2.0 from {_PAGE}"
_TRIALS = 37  # in a run
# runs of each session, counted in the lists of images of https://github.com/nchang430/BOLD5000-Scripts
_RUNS = {
    "CSI1": (10, 10, 10, 9, 10, 9, 10, 9, 9, 10, 9, 9, 9, 9, 10),
    "CSI2": (10, 9, 10, 10, 10, 9, 9, 9, 9, 9, 10, 10, 9, 10, 9),
    "CSI3": (10, 9, 10, 9, 10, 10, 10, 9, 9, 9, 10, 9, 9, 9, 10),
    "CSI4": (10, 9, 9, 10, 9, 9, 9, 9, 10),
}


def load_bold5000(
    folder: Folder,
    subject: int | str,
    roi: ROI,
    *,
    sessions: Iterable[int] | None = None,
    standardize: bool = False,
    cache: Folder | None = None,
    betas: str = "TYPED-FITHRF-GLMDENOISE-RR",
) -> Dataset:
    r"""Load single trials of BOLD5000 (Chang et al. 2019, Sci. Data 6:49), of release 2.0 with GLMsingle.

    They are betas in percent signal change, from the arrays of ROIs, or session by session from the images
    of the whole brain. Its authors recommend ``standardize=True``. The layout is that of the release's notes
    (https://github.com/BOLD5000-dataset/BOLD5000); the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``CSI1_imgnames.txt``, there or in
        ``BOLD5000_Stimuli/Stimuli_Presentation_Lists/CSI1``, and, for ROIs by name,
        ``CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy`` and so on, there, in ``py`` or in
        ``BOLD5000_GLMsingle_ROI_betas/py``; for a mask, ``CSI1_GLMbetas-..._ses-01.nii.gz`` and so on.
    subject
        1 to 4, or "CSI1" to "CSI4".
    roi
        A ROI of a hemisphere ("LHPPA"), of both ("PPA"), or several of them; a mapping joins them under other
        names. Or a mask or atlas in the space of the betas, as in `neurordl.read_patterns`; "brain" is
        ``CSI1_brainmask.nii.gz``, which users found not to lie exactly on the betas: it is taken voxel by
        voxel, and voxels without values are dropped.
    sessions, standardize, cache
        As in `load_nsd`; there are 15 sessions, and 9 of CSI4.
    betas
        The version of the betas in the names of the files.

    Returns
    -------
    Dataset
        (trials, voxels), float32, with the observation descriptors ``stimulus`` (the file of the image
        without its suffix and without ``rep_``, such as "n01930112_19568"), ``session``, ``run`` and
        ``repeat`` (as in `load_nsd`), the channel descriptors ``roi``, ``hemisphere`` and ``column``, or
        ``x``, ``y`` and ``z`` of a mask, and ``subject``.

    Warns
    -----
    UserWarning
        CSI4 has fewer sessions; voxels with NaN, or constant ones in a session, were dropped; or the mask of
        the brain has another affine than the betas.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, or a ROI is unknown or
        lacks a hemisphere.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with all 3,108 trials of CSI4, and 4 voxels of the left PPA
    ...     names = "\n".join(f"n{number:08d}_1.JPEG" for number in range(3108))
    ...     _ = (Path(folder) / "CSI4_imgnames.txt").write_text(names)
    ...     name = "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy"
    ...     np.save(Path(folder) / name, np.random.default_rng(0).normal(size=(3108, 4)))
    ...     patterns = nrl.datasets.load_bold5000(folder, "CSI4", "LHPPA", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["run"][-1]
    ((370, 4), 'ses-01_run-10')
    """
    layout = Layout("BOLD5000", check_path("folder", folder), _ACCESS)
    name, _ = name_of_subject(subject, "CSI{}", 4)
    numbers = numbers_of_sessions(sessions, name, len(_RUNS[name]), 15)
    rows, chosen = _rows(layout, name, numbers)
    base = f"{name}_GLMbetas-{betas}"
    record: dict[str, object] = {"data_set": "BOLD5000", "betas": betas}
    of_brain = isinstance(roi, str) and roi == BRAIN
    if of_brain or is_image(roi):
        files = files_of_sessions(layout, [f"{base}_ses-{{:02d}}.nii.gz"], numbers)
        grid, _ = load_image(files[0], "image of betas")
        image = _brain(layout.need(f"{name}_brainmask.nii.gz"), grid) if of_brain else roi
        inside, channels, space_record = channels_of_volume(image, lambda _: {}, grid)
        record |= space_record
        blocks = blocks_of_sessions(rows, files, lambda path, count: values_of_volumes(path, inside, count))
    else:
        arrays = _arrays(layout, f"{base}_allses_", name)
        mask = named_channels(roi, lambda text: _region(name, arrays, text))  # type: ignore[arg-type]
        every = [(label, column) for label, array in arrays.items() for column in range(array.shape[1])]
        labels, columns = zip(*(every[place] for place in np.flatnonzero(mask.inside)), strict=True)
        channels = pd.DataFrame({"roi": mask.roi, "hemisphere": [label[:2].lower() for label in labels]})
        channels["column"] = columns
        blocks, used = list[Block](), [arrays[label] for label in dict.fromkeys(labels)]
        for array in used:
            start = blocks[-1][1].stop if blocks else 0
            part = slice(start, start + array.shape[1])
            blocks.append((slice(None), part, partial(array.values.__getitem__, chosen)))
        files = [Path(array.name) for array in used]
    return Part(name, rows, channels, blocks, files, record).read(standardize, cache)


def _brain(path: Path, grid: nib.Nifti1Image) -> nib.Nifti1Image | Path:
    """The mask of the brain, voxel by voxel if it has as many as the betas, whose places may be wrong."""
    image, name = load_image(path, "mask")
    if image.shape != grid.shape[:3] or np.allclose(image.affine, grid.affine):
        return path
    notify(f"{name} has as many voxels as the betas but another affine; it is taken voxel by voxel")
    with damage_named(name, "download it again"):
        return nib.Nifti1Image(np.asanyarray(image.dataobj), grid.affine)


def _rows(layout: Layout, name: str, sessions: Sequence[int]) -> tuple[pd.DataFrame, Values]:
    """Rows of the trials of some sessions, and which of all trials these are."""
    lists = "BOLD5000_Stimuli/Stimuli_Presentation_Lists"
    path = layout.need(f"{name}_imgnames.txt", f"{lists}/{name}/{name}_imgnames.txt")
    runs = np.array(_RUNS[name])
    names = read_text(path).split()
    if len(names) != runs.sum() * _TRIALS:
        trials = f"{name} has {runs.sum()} runs of {_TRIALS} trials"
        raise NeurordlError(f"{path} names {len(names)} images, and {trials}; download it again")
    session = np.repeat(np.arange(1, len(runs) + 1), runs * _TRIALS)
    run = np.concatenate([np.repeat(np.arange(1, count + 1), _TRIALS) for count in runs])
    stimuli = [Path(file.removeprefix("rep_")).stem for file in names]
    return trial_rows(stimuli, session.tolist(), run.tolist(), sessions)


def _arrays(layout: Layout, prefix: str, name: str) -> dict[str, TrialArray]:
    """The arrays of ROIs by name, such as "LHPPA", with all trials of a subject."""
    n_trials = sum(_RUNS[name]) * _TRIALS
    places = ("", "py/", "BOLD5000_GLMsingle_ROI_betas/py/")
    paths = {
        path.stem.removeprefix(prefix): path
        for place in places
        for path in sorted((layout.folder / place).glob(f"{prefix}[LR]H*.npy"))
    }
    if not paths:
        layout.need(f"{places[-1]}{prefix}LHPPA.npy")
    arrays = {label: open_trials(path) for label, path in paths.items()}
    for array in arrays.values():
        if len(array.shape) != 2 or array.shape[0] != n_trials:
            raise NeurordlError(
                f"{array.name} has shape {array.shape}, expected {n_trials} trials, one for each image that "
                "the subject saw; download it again"
            )
    return arrays


def _region(name: str, arrays: Mapping[str, TrialArray], wanted: str) -> dict[str, Bools]:
    """Columns of all arrays, side by side, that belong to a ROI of a hemisphere or of both."""
    labels = [label for label in arrays if wanted in (label, label[2:])]
    if wanted == BRAIN:
        raise NeurordlError(f"roi=: 'brain' is not combined with ROIs by name, such as {listed(arrays)}")
    if not labels:
        names = listed([*sorted({label[2:] for label in arrays}), *arrays, BRAIN], most=30)
        raise NeurordlError(f"roi=: {wanted!r} is no ROI of {name}; it has {names}")
    if wanted == labels[0][2:] and len(labels) == 1:
        missing = f"{'RH' if labels[0].startswith('LH') else 'LH'}{wanted}"
        folder = Path(arrays[labels[0]].name).parent
        raise NeurordlError(
            f"roi=: {wanted!r} is of both hemispheres, and {folder} has {labels[0]} but no {missing}; "
            f"download it, or write {labels[0]!r}"
        )
    return {
        wanted: np.concatenate([np.full(array.shape[1], label in labels) for label, array in arrays.items()])
    }


def load_bold5000_stimuli(
    folder: Folder, ids: Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load images of BOLD5000 by their ids: scenes, and images of COCO and ImageNet.

    Parameters
    ----------
    folder
        The folder with ``BOLD5000_Stimuli``, or that folder, of which ``Scene_Stimuli/Presented_Stimuli`` is
        read; or a folder of images, also in subfolders.
    ids
        Ids such as "n01930112_19568", as in `load_nsd_stimuli`; by default all images in the folder.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`; ``size`` is needed
        where images have several sizes.

    Raises
    ------
    NeurordlError
        An image is missing or damaged, or two images have the same id.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     place = Path(folder) / "Scene_Stimuli" / "Presented_Stimuli" / "Scene"
    ...     place.mkdir(parents=True)
    ...     Image.new("RGB", (20, 20)).save(place / "banquetHall2.jpg")
    ...     nrl.datasets.load_bold5000_stimuli(folder, ["banquetHall2"], size=8).ids
    ('banquetHall2',)
    """
    root = check_path("folder", folder)
    root = root / "BOLD5000_Stimuli" if (root / "BOLD5000_Stimuli").is_dir() else root
    access = f"Get BOLD5000_Stimuli.zip from {_PAGE}"
    layout = Layout("BOLD5000", root, access)
    return read_folder_of_stimuli(layout, "Scene_Stimuli/Presented_Stimuli", ids, preprocessing)
