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
from neurordl.patterns.images import Regions, describe_grid, load_image, same_grid
from neurordl.patterns.trials import TrialArray, open_trials
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_path, listed

_PAGE = "https://bold5000-dataset.github.io/website/download.html"
_ACCESS = f"Download release 2.0 from {_PAGE}"
_TRIALS = 37  # in a run
_SPELLINGS = {"LO": "LOC", "RRSC": "RSC"}  # of ROIs, in files of some subjects and in those of the others
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
        The folder with ``CSI1_imgnames.txt`` and, for ROIs by name,
        ``CSI1_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_allses_LHPPA.npy`` and so on, there, in ``py`` or in
        ``BOLD5000_GLMsingle_ROI_betas/py``; for a mask, ``CSI1_GLMbetas-..._ses-01.nii.gz`` and so on. The
        list of images may also be in its place in ``BOLD5000_Stimuli``.
    subject
        1 to 4, or "CSI1" to "CSI4".
    roi
        A ROI of a hemisphere ("LHPPA"), of both ("PPA"), or several of them; a mapping joins them under other
        names. LOC and RSC have these names also where a file writes LO or RRSC. "brain" is all voxels that
        have a value in the first trial. Or a mask or atlas on the grid of the betas, as in
        `neurordl.read_patterns`. It is not resampled, and ``CSI1_brainmask.nii.gz`` is not used: users found
        that the affine of the betas is not true (https://github.com/BOLD5000-dataset/BOLD5000/issues/3), and
        that masks do not lie on them.
    sessions, standardize, cache
        As in `load_nsd`; there are 15 sessions, and 9 of CSI4.
    betas
        The version of the betas in the names of the files.

    Returns
    -------
    Dataset
        (trials, voxels), float32, with the observation descriptors ``stimulus`` (the file of the image
        without its suffix and without ``rep_``, such as "n01930112_19568"), ``session``, ``run`` and
        ``repeat``, the channel descriptors ``roi``, ``hemisphere`` and ``column``, or ``x``, ``y`` and ``z``
        of a mask, and ``subject``.

    Warns
    -----
    UserWarning
        CSI4 has fewer sessions; a ROI of both hemispheres is in one only; voxels with NaN, or constant ones
        in a session, were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, a mask is on another grid than the betas, or
        a ROI is unknown.

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
        image = _voxels_with_values(grid, files[0]) if of_brain else _aligned(roi, grid)
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


def _voxels_with_values(betas: nib.Nifti1Image, path: Path) -> nib.Nifti1Image:
    """The mask of the voxels that have a value in the first trial; the published masks do not fit them."""
    with damage_named(path, "download it again"):
        values = np.asanyarray(betas.dataobj[..., 0])
    return nib.Nifti1Image((np.isfinite(values) & (values != 0)).astype(np.uint8), betas.affine)


def _aligned(roi: Any, betas: nib.Nifti1Image) -> Any:
    """A mask or an atlas on the grid of the betas: it is not resampled, because their affine is not true."""
    image, name = load_image(roi.image if isinstance(roi, Regions) else roi, "mask")
    if not same_grid(image, betas):
        raise NeurordlError(
            f"the mask {name} is on another grid ({describe_grid(image)}) than the betas "
            f"({describe_grid(betas)}), whose headers do not say where in the head their voxels lie; lay it "
            "on an image of the betas, and save it with the affine of that image"
        )
    return roi


def _rows(layout: Layout, name: str, sessions: Sequence[int]) -> tuple[pd.DataFrame, Values]:
    """Rows of the trials of some sessions, and which of all trials these are."""
    listing, runs = f"{name}_imgnames.txt", np.array(_RUNS[name])
    path = layout.need(listing, f"BOLD5000_Stimuli/Stimuli_Presentation_Lists/{name}/{listing}")
    names = read_text(path).split()
    if len(names) != runs.sum() * _TRIALS:
        trials = f"{name} has {runs.sum()} runs of {_TRIALS} trials"
        raise NeurordlError(f"{path} names {len(names)} images, and {trials}; download it again")
    session = np.repeat(np.arange(1, len(runs) + 1), runs * _TRIALS)
    run = np.concatenate([np.repeat(np.arange(1, count + 1), _TRIALS) for count in runs])
    chosen = np.flatnonzero(np.isin(session, sessions))
    stimuli = [Path(names[trial].removeprefix("rep_")).stem for trial in chosen]
    return trial_rows(stimuli, session[chosen].tolist(), run[chosen].tolist()), chosen


def _arrays(layout: Layout, prefix: str, name: str) -> dict[str, TrialArray]:
    """The arrays of ROIs by name, such as "LHPPA", with all trials of a subject."""
    n_trials = sum(_RUNS[name]) * _TRIALS
    places = ("", "py/", "BOLD5000_GLMsingle_ROI_betas/py/")
    paths = {
        path.stem.removeprefix(prefix): path
        for place in places
        for path in sorted((layout.folder / place).glob(f"{prefix}[LR]H*.npy"))
    }
    paths = {label[:2] + _SPELLINGS.get(label[2:], label[2:]): path for label, path in paths.items()}
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
    if len(labels) == 1 and wanted not in labels:
        notify(f"{name} has {wanted} in one hemisphere only, as {labels[0]}")
    return {
        wanted: np.concatenate([np.full(array.shape[1], label in labels) for label, array in arrays.items()])
    }


def load_bold5000_stimuli(
    folder: Folder, ids: str | Iterable[str] | None = None, **preprocessing: Any
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
