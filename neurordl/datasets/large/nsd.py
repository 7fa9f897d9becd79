"""The Natural Scenes Dataset (Allen et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.datasets.large.reading import (
    BRAIN,
    ROI,
    Folder,
    Layout,
    Part,
    Values,
    blocks_of_sessions,
    channels_of_volume,
    files_of_sessions,
    name_of_subject,
    numbers_of_sessions,
    row_blocks,
    trial_rows,
    values_of_volumes,
    wanted_ids,
)
from neurordl.errors import NeurordlError, notify
from neurordl.ids import match_ids
from neurordl.io import damage_named, read_text
from neurordl.patterns.images import load_image
from neurordl.patterns.trials import open_trials
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.preprocessing import array_pixels
from neurordl.validate import check_choice, check_path, listed

_ACCESS = "Register at https://naturalscenesdataset.org and agree to its terms to download it"
_SESSIONS = (40, 40, 32, 30, 40, 32, 40, 30)  # that subjects 1 to 8 completed, of 40
_IMAGES = 73_000
_SCALE = 300  # betas are percent signal change times this number, as int16
NSD_ROIS = {
    "prf-visualrois": ("V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4"),
    "floc-bodies": ("EBA", "FBA-1", "FBA-2", "mTL-bodies"),
    "floc-faces": ("OFA", "FFA-1", "FFA-2", "mTL-faces", "aTL-faces"),
    "floc-places": ("OPA", "PPA", "RSC"),
    "floc-words": ("OWFA", "VWFA-1", "VWFA-2", "mfs-words", "mTL-words"),
    "streams": ("early", "midventral", "midlateral", "midparietal", "ventral", "lateral", "parietal"),
}
"""Groups of ROIs of NSD, and the names of their labels 1, 2 and so on, as NSD's ``.ctab`` files list them."""


def _layout(folder: Folder) -> Layout:
    return Layout("NSD", check_path("folder", folder), _ACCESS)


def _id(number: int) -> str:
    """The id of an image, as the Algonauts 2023 challenge writes it: numbers count from 0."""
    return f"nsd-{number:05d}"


def _design(layout: Layout, *variables: str) -> list[Values]:
    from scipy.io import loadmat

    path = layout.need("nsddata/experiments/nsd/nsd_expdesign.mat")
    with damage_named(path, "download it again"):
        design = loadmat(path, variable_names=variables)
        return [np.asarray(design[name]) for name in variables]


def nsd_shared_ids(folder: Folder) -> tuple[str, ...]:
    """Return the ids of the 1,000 images that all subjects of NSD were to see, in the order of the design.

    Subjects with fewer sessions saw some of them less often, or not at all.

    Parameters
    ----------
    folder
        As in `load_nsd`.

    Raises
    ------
    NeurordlError
        The design is missing or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import scipy.io
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with a design of 3 shared images
    ...     place = Path(folder) / "nsddata" / "experiments" / "nsd"
    ...     place.mkdir(parents=True)
    ...     scipy.io.savemat(place / "nsd_expdesign.mat", {"sharedix": [[2951, 2991, 3050]]})
    ...     nrl.datasets.nsd_shared_ids(folder)
    ('nsd-02950', 'nsd-02990', 'nsd-03049')
    """
    (shared,) = _design(_layout(folder), "sharedix")
    return tuple(_id(int(number) - 1) for number in shared.ravel())


def load_nsd(
    folder: Folder,
    subject: int | str,
    roi: ROI = "nsdgeneral",
    *,
    sessions: Iterable[int] | None = None,
    standardize: bool = False,
    cache: Folder | None = None,
    betas: str = "betas_fithrf_GLMdenoise_RR",
) -> Dataset:
    """Load single trials of the Natural Scenes Dataset (Allen et al. 2022, Nat. Neurosci. 25:116-126).

    They are the betas in the subject's space of 1.8 mm, in percent signal change, read session by session
    from ``.hdf5``, or else from ``.nii.gz``. The layout is that of the NSD Data Manual
    (https://cvnlab.slite.page/p/M3ZvPmfgU3); the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``nsddata`` and ``nsddata_betas``. It needs of the subject the betas of the sessions,
        ``nsddata/experiments/nsd/nsd_expdesign.mat`` and the ROIs in
        ``nsddata/ppdata/subj01/func1pt8mm/roi``; the names of labels are in
        ``nsddata/freesurfer/subj01/label/*.mgz.ctab``, or else in `NSD_ROIS`.
    subject
        1 to 8, or "subj01" to "subj08".
    roi
        The name of a file of ROIs ("nsdgeneral", "floc-faces": all ROIs in it), of a ROI ("FFA-1"; if several
        files have it, "floc-faces/FFA-1"), "brain" for the brain mask, or several of them. A mapping joins
        them under other names: ``{"V1": ("prf-visualrois/V1v", "prf-visualrois/V1d")}``, as Kastner2015 has
        a V1v, too. It can also be a mask or atlas in the space of the betas, as in `neurordl.read_patterns`.
    sessions
        The sessions to read, such as ``range(1, 11)``; by default all that the subject completed.
    standardize
        Whether to give each voxel mean 0 and standard deviation 1 in each session. All trials of the session
        count for it, also those of stimuli that are later held out.
    cache
        A folder for the values of this call, which are then a memory map; a later call finds them there. By
        default they are in memory, float32: 4 bytes for each trial and voxel.
    betas
        The folder of a version of the betas.

    Returns
    -------
    Dataset
        (trials, voxels), with the observation descriptors ``stimulus`` (the image's number in 73,000 from 0,
        as "nsd-02950"), ``session``, ``run`` and ``repeat`` (1 for the first trial of an image among those
        that are read), the channel descriptors ``x``, ``y``, ``z`` and ``roi``, and ``subject``.

    Warns
    -----
    UserWarning
        The subject has fewer than 40 sessions, the names of ROIs in a file are not known, or voxels without
        data in a session were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or of another shape or type, or a ROI is unknown, ambiguous or empty.

    Examples
    --------
    The patterns go into a teacher as they are; where they do not fit into memory, ``cache=`` keeps them on
    the disk::

        patterns = nrl.datasets.load_nsd("nsd", 1, "nsdgeneral", cache="cache")
        images = nrl.datasets.load_nsd_stimuli("nsd", patterns.obs_descriptors["stimulus"], size=64)
        teacher = nrl.PatternTeacher(patterns)

    Here a folder with one session of 3 trials is made and read:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> import nibabel
    >>> import numpy as np
    >>> import scipy.io
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     design = Path(folder) / "nsddata" / "experiments" / "nsd"
    ...     rois = Path(folder) / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi"
    ...     version = Path(folder) / "nsddata_betas" / "ppdata" / "subj01" / "func1pt8mm"
    ...     version = version / "betas_fithrf_GLMdenoise_RR"
    ...     for place in (design, rois, version):
    ...         place.mkdir(parents=True)
    ...     order = {"masterordering": [[2, 1, 2]], "subjectim": [[14, 21]]}
    ...     order["stimpattern"] = np.ones((1, 1, 3))
    ...     scipy.io.savemat(design / "nsd_expdesign.mat", order)
    ...     mask = nibabel.Nifti1Image(np.ones((2, 2, 1), dtype=np.int16), np.eye(4))
    ...     nibabel.save(mask, rois / "nsdgeneral.nii.gz")
    ...     with h5py.File(version / "betas_session01.hdf5", "w") as file:
    ...         file["betas"] = np.arange(12, dtype=np.int16).reshape(3, 1, 2, 2)
    ...     patterns = nrl.datasets.load_nsd(folder, 1, "nsdgeneral", sessions=[1])
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 4), ['nsd-00020', 'nsd-00013', 'nsd-00020'])
    """
    layout = _layout(folder)
    name, number = name_of_subject(subject, "subj{:02d}", 8)
    numbers = numbers_of_sessions(sessions, name, _SESSIONS[number - 1], 40)
    rows = _rows(layout, number, numbers)
    base = f"nsddata_betas/ppdata/{name}/func1pt8mm/{betas}/betas_session"
    files = files_of_sessions(layout, [f"{base}{{:02d}}.hdf5", f"{base}{{:02d}}.nii.gz"], numbers)
    space = f"nsddata/ppdata/{name}/func1pt8mm"
    grid_file = layout.need(f"{space}/brainmask.nii.gz", f"{space}/roi/nsdgeneral.nii.gz")
    grid, _ = load_image(grid_file, "mask")
    inside, channels, space_record = channels_of_volume(roi, lambda text: _regions(layout, name, text), grid)

    def read(path: Path, n_trials: int) -> Values:
        values = values_of_volumes(path, inside, n_trials)
        if values.dtype != np.int16:
            problem = f"{path} holds {values.dtype}, expected int16: percent signal change times {_SCALE}"
            raise NeurordlError(f"{problem}; take the file as it was published")
        return values.astype(np.float32) / _SCALE

    blocks = blocks_of_sessions(rows, files, read)
    record = {"data_set": "NSD", "betas": betas, "space": "func1pt8mm", **space_record}
    return Part(name, rows, channels, blocks, files, record).read(standardize, cache)


def _rows(layout: Layout, subject: int, sessions: Sequence[int]) -> pd.DataFrame:
    """Stimulus, session and run of the trials of some sessions."""
    order, images, pattern = _design(layout, "masterordering", "subjectim", "stimpattern")
    trials = pattern.sum(axis=2).astype(int)  # (sessions, runs)
    if trials.sum() != order.size or len(images) < subject or order.max() > images.shape[1]:
        raise NeurordlError(
            f"{layout.folder}/nsddata/experiments/nsd/nsd_expdesign.mat: masterordering {order.shape}, "
            f"subjectim {images.shape} and stimpattern {pattern.shape} do not fit; download it again"
        )
    session = np.repeat(np.arange(1, len(trials) + 1), trials.sum(axis=1))
    run = np.concatenate([np.repeat(np.arange(1, len(of_run) + 1), of_run) for of_run in trials])
    shown = images[subject - 1, order.ravel() - 1].astype(int) - 1
    chosen = np.isin(session, sessions)
    ids = [_id(number) for number in shown[chosen]]
    return trial_rows(ids, session[chosen].tolist(), run[chosen].tolist())


def _labels(layout: Layout, subject: str, group: str) -> dict[int, str]:
    """Number and name of the labels of a file of ROIs; empty for a mask."""
    group = group.removeprefix("lh.").removeprefix("rh.")
    for owner in (subject, "fsaverage"):
        path = layout.folder / "nsddata" / "freesurfer" / owner / "label" / f"{group}.mgz.ctab"
        if path.is_file():
            cells = [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
            with damage_named(path, "download it again"):
                return {int(number): label.strip() for number, label in cells if int(number) > 0}
    return dict(enumerate(NSD_ROIS.get(group, ()), 1))


def _regions(layout: Layout, subject: str, name: str) -> dict[str, Bools]:
    """Voxels of a published name: those of each ROI in a file, or those of a ROI."""
    space = f"nsddata/ppdata/{subject}/func1pt8mm"
    if name == BRAIN:
        return {name: _labels_in(layout.need(f"{space}/brainmask.nii.gz")) > 0}
    group, label = _group_and_label(layout, subject, layout.need(f"{space}/roi"), name)
    path, labels = layout.need(f"{space}/roi/{group}.nii.gz"), _labels(layout, subject, group)
    data = _labels_in(path)
    if label and not labels:
        raise NeurordlError(f"roi={name!r}: {group} has no names of labels; write {group!r}")
    if not label:
        _tell_unnamed(data, labels, group, path)
    else:
        check_choice("roi", label, list(labels.values()), f"as in {path}")
        labels = {number: text for number, text in labels.items() if text == label}
    regions = {text: np.zeros(data.shape, dtype=bool) for text in labels.values()} or {group: data > 0}
    for number, text in labels.items():
        regions[text] |= data == number
    regions = {text: inside for text, inside in regions.items() if inside.any()}
    if not regions:
        raise NeurordlError(f"roi=: {subject} has no voxel in {name!r}; choose another ROI")
    return regions


def _tell_unnamed(data: Values, labels: Mapping[int, str], group: str, path: Path) -> None:
    """Give a notice of numbers in a file of ROIs that have no name; a mask has one number without a name."""
    nameless = np.setdiff1d(data[data > 0], list(labels)).tolist()
    if labels and nameless:
        count = np.isin(data, nameless).sum()
        notify(f"{group}: {count} voxels with labels that have no name, {listed(nameless)}, are left out")
    elif len(nameless) > 1:
        problem = f"{path} has {len(nameless)} ROIs, but {group}.mgz.ctab with their names is missing"
        notify(f"{problem}; they are read as one")


def _group_and_label(layout: Layout, subject: str, folder: Path, name: str) -> tuple[str, str]:
    """The file of ROIs that a published name means, and the ROI in it, or "" for all."""
    groups = sorted(path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz"))
    group, _, label = name.partition("/")
    if name in groups or label:
        return group, label
    labels = {entry: list(_labels(layout, subject, entry).values()) for entry in groups}
    having = [entry for entry in groups if name in labels[entry]]
    # files of a hemisphere count only where there is none of both
    having = [entry for entry in having if not entry.startswith(("lh.", "rh."))] or having
    if not having:
        names = listed([*groups, *sorted({text for texts in labels.values() for text in texts})], most=60)
        raise NeurordlError(f"roi=: {name!r} is no ROI of {subject}; it has {names}, and 'brain'")
    if len(having) > 1:
        choices = listed([f"{entry}/{name}" for entry in having], most=9, quote=True, separator=" or ")
        raise NeurordlError(f"roi=: {name!r} is in {listed(having, most=9)}: write {choices}")
    return having[0], name


def _labels_in(path: Path) -> Values:
    image, name = load_image(path, "mask")
    with damage_named(name, "download it again"):
        return np.asanyarray(image.dataobj)


def load_nsd_stimuli(
    folder: Folder, ids: str | Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load images of NSD by their ids, from ``nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5``.

    Images are read and resized in blocks: with ``size=64``, 10,000 images take 123 MB; without a size they
    are 425 x 425, and take 5.4 GB.

    Parameters
    ----------
    folder
        As in `load_nsd`.
    ids
        Ids such as "nsd-02950", also with repeats, such as the descriptor ``stimulus`` of `load_nsd`; each
        image is read once, in the order of its first mention. By default all 73,000.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`.

    Raises
    ------
    NeurordlError
        The file is missing or damaged, or it has no image of an id.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import h5py
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with 5 small images
    ...     place = Path(folder) / "nsddata_stimuli" / "stimuli" / "nsd"
    ...     place.mkdir(parents=True)
    ...     with h5py.File(place / "nsd_stimuli.hdf5", "w") as file:
    ...         file["imgBrick"] = np.zeros((5, 20, 20, 3), dtype=np.uint8)
    ...     nrl.datasets.load_nsd_stimuli(folder, ["nsd-00003", "nsd-00001", "nsd-00003"], size=8).ids
    ('nsd-00003', 'nsd-00001')
    """
    path = _layout(folder).need("nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5")
    brick = open_trials(path, "imgBrick").values
    if brick.ndim != 4 or brick.dtype != np.uint8 or len(brick) > _IMAGES:
        problem = f"{path}: imgBrick is {brick.dtype} of shape {brick.shape}"
        raise NeurordlError(f"{problem}, expected ({_IMAGES}, height, width, 3) of uint8; download it again")
    known = [_id(number) for number in range(len(brick))]
    wanted = wanted_ids(ids, known)
    places = match_ids(wanted, known, names=("ids=", f"images in {path}")).index
    pixels: torch.Tensor | None = None
    for rows in row_blocks(len(wanted), math.prod(brick.shape[1:]), brick.dtype.itemsize):
        with damage_named(path, "download it again"):
            images = np.stack([brick[number] for number in places[rows].tolist()])
        part, prepared = array_pixels(images, preprocessing)
        if pixels is None:  # so that the images are never in memory twice
            pixels = part.new_empty((len(wanted), *part.shape[1:]))
        pixels[rows] = part
    assert pixels is not None  # match_ids refuses an empty list
    return StimulusSet(tuple(wanted), pixels, prepared, source=str(path))
