"""The Algonauts 2023 challenge (Gifford et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.arrays import Bools
from neurordl.datasets.large.nsd import NSD_ROIS
from neurordl.datasets.large.reading import (
    Block,
    Folder,
    Layout,
    Names,
    Part,
    Values,
    name_of_subject,
    named_channels,
    read_stimuli,
)
from neurordl.errors import NeurordlError
from neurordl.io import damage_named
from neurordl.patterns.trials import open_trials
from neurordl.stimuli import StimulusSet
from neurordl.validate import check_choice, check_path, counted

_ACCESS = "Fill in the form of the challenge that https://github.com/gifale95/algonauts_2023 links"
_ALL_VERTICES = "all-vertices"


def _layout(folder: Folder, subject: int | str) -> tuple[Layout, str]:
    name, _ = name_of_subject(subject, "subj{:02d}", 8)
    return Layout("Algonauts 2023", check_path("folder", folder), _ACCESS), name


def _images(layout: Layout, name: str) -> dict[str, Path]:
    """Training images in the order of the responses, by their ids in NSD."""
    folder = layout.need(f"{name}/training_split/training_images")
    numbered = [(re.fullmatch(r"train-(\d+)_(nsd-\d{5})\.png", path.name), path) for path in folder.iterdir()]
    images = sorted((int(match[1]), match[2], path) for match, path in numbered if match)
    if not images or [number for number, *_ in images] != list(range(1, len(images) + 1)):
        raise NeurordlError(
            f"{folder} has {len(images)} images, which are not train-0001_nsd-... and on without a gap; "
            "unpack the archive of the subject again"
        )
    return {stimulus: path for _, stimulus, path in images}


def load_algonauts(
    folder: Folder, subject: int | str, roi: Names | Mapping[str, Names], *, cache: Folder | None = None
) -> Dataset:
    """Load training responses of the Algonauts 2023 challenge (Gifford et al. 2023, arXiv 2301.03198).

    They are responses of NSD's subjects on the surface of fsaverage, z-scored by the organizers in each
    session and averaged over the presentations of each image. The layout is that of the challenge's archives;
    the function was tested on miniatures of it only.

    Parameters
    ----------
    folder
        The folder with ``subj01`` and so on, each with ``training_split`` and ``roi_masks``. Its files
        ``mapping_*.npy`` are pickles and are not read: their names of ROIs are those of `NSD_ROIS`.
    subject
        1 to 8, or "subj01" to "subj08".
    roi
        A group in `NSD_ROIS` ("streams": all its ROIs), a ROI in it ("hV4"), "all-vertices", or several of
        them. A mapping joins them under other names: ``{"V1": ("V1v", "V1d")}``.
    cache
        As in `load_nsd`.

    Returns
    -------
    Dataset
        (images, vertices), float32, with the observation descriptor ``stimulus`` (the id in NSD, such as
        "nsd-00013"), the channel descriptors ``hemisphere`` ("lh" or "rh"), ``column`` (in the file of the
        hemisphere), ``vertex`` (of fsaverage, if ``roi_masks`` has the map of all vertices) and ``roi``, and
        ``subject``.

    Warns
    -----
    UserWarning
        Vertices with NaN, or constant ones, were dropped.

    Raises
    ------
    NeurordlError
        A file is missing, damaged, or does not fit the others, or a ROI is unknown or empty.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:  # with 3 images and 4 vertices in each hemisphere
    ...     places = [Path(folder) / "subj01" / place for place in ("training_split", "roi_masks")]
    ...     for place in (places[0] / "training_images", places[0] / "training_fmri", places[1]):
    ...         place.mkdir(parents=True)
    ...     for number in (1, 2, 3):
    ...         name = f"train-{number:04d}_nsd-{7 * number:05d}.png"
    ...         Image.new("RGB", (8, 8)).save(places[0] / "training_images" / name)
    ...     for side in ("lh", "rh"):
    ...         responses = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    ...         np.save(places[0] / "training_fmri" / f"{side}_training_fmri.npy", responses)
    ...         np.save(places[1] / f"{side}.floc-places_challenge_space.npy", np.array([0, 2, 2, 3]))
    ...     patterns = nrl.datasets.load_algonauts(folder, 1, "PPA")
    >>> patterns.measurements.shape, patterns.obs_descriptors["stimulus"]
    ((3, 4), ['nsd-00007', 'nsd-00014', 'nsd-00021'])
    """
    layout, name = _layout(folder, subject)
    ids = list(_images(layout, name))
    base = f"{name}/training_split/training_fmri"
    files = [layout.need(f"{base}/{side}_training_fmri.npy") for side in ("lh", "rh")]
    arrays = [open_trials(path) for path in files]
    for array in arrays:
        if array.shape[0] != len(ids) or len(array.shape) != 2:
            problem = f"{array.name} has shape {array.shape}, and there are {len(ids)} training images"
            raise NeurordlError(f"{problem}; unpack the archive of the subject again")
    widths = [array.shape[1] for array in arrays]
    mask = named_channels(roi, lambda text: _regions(layout, name, text, widths))
    table = _vertices(layout, name, widths)[mask.inside].assign(roi=mask.roi).reset_index(drop=True)
    blocks, start = list[Block](), 0
    for side, array in zip(("lh", "rh"), arrays, strict=True):
        chosen = table.loc[table["hemisphere"] == side, "column"].to_numpy()
        part = slice(start, start + len(chosen))
        blocks.append((slice(None), part, partial(array.values.__getitem__, (slice(None), chosen))))
        start = part.stop
    rows = pd.DataFrame({"stimulus": ids})
    return Part(name, rows, table, blocks, files, {"data_set": "Algonauts 2023"}).read(False, cache)


def _vertices(layout: Layout, name: str, widths: Sequence[int]) -> pd.DataFrame:
    """Hemisphere, column and vertex of all channels."""
    sides = []
    for side, width in zip(("lh", "rh"), widths, strict=True):
        table = pd.DataFrame({"hemisphere": side, "column": np.arange(width)})
        path = layout.folder / name / "roi_masks" / f"{side}.{_ALL_VERTICES}_fsaverage_space.npy"
        if path.is_file():
            vertices = np.flatnonzero(_whole_numbers(path))
            if len(vertices) != width:
                raise NeurordlError(f"{path} marks {len(vertices)} vertices, and the responses have {width}")
            table["vertex"] = vertices
        sides.append(table)
    return pd.concat(sides, ignore_index=True)


def _regions(layout: Layout, name: str, wanted: str, widths: Sequence[int]) -> dict[str, Bools]:
    """Vertices of both hemispheres that belong to a group of ROIs, or to a ROI."""
    if wanted == _ALL_VERTICES:
        return {wanted: np.ones(sum(widths), dtype=bool)}
    groups = {label: group for group, labels in NSD_ROIS.items() for label in labels}
    check_choice("roi", wanted, [*NSD_ROIS, *groups, _ALL_VERTICES])
    group = groups.get(wanted, wanted)
    sides = []
    for side, width in zip(("lh", "rh"), widths, strict=True):
        path = layout.need(f"{name}/roi_masks/{side}.{group}_challenge_space.npy")
        sides.append(_whole_numbers(path))
        if sides[-1].shape != (width,):
            raise NeurordlError(
                f"{path} has shape {sides[-1].shape}, and the responses have {width} vertices"
            )
        if (most := sides[-1].max()) > (count := len(NSD_ROIS[group])):
            problem = f"{path} has the label {most:g}, and {group} has {counted(count, 'ROI')}"
            raise NeurordlError(f"{problem}; unpack the archive of the subject again")
    labels = np.concatenate(sides)
    regions = {label: labels == number for number, label in enumerate(NSD_ROIS[group], 1)}
    regions = {
        label: inside for label, inside in regions.items() if wanted in (group, label) and inside.any()
    }
    if not regions:
        raise NeurordlError(f"roi=: {name} has no vertex in {wanted!r}; choose another ROI")
    return regions


def _whole_numbers(path: Path) -> Values:
    with damage_named(path, "unpack the archive of the subject again"):
        values = np.load(path, allow_pickle=False)
        if values.ndim != 1 or (values != np.round(values)).any():
            raise ValueError(f"expected a row of labels, it has shape {values.shape}")
        return np.asarray(values)


def load_algonauts_stimuli(
    folder: Folder, subject: int | str, ids: str | Iterable[str] | None = None, **preprocessing: Any
) -> StimulusSet:
    """Load training images of a subject of the Algonauts 2023 challenge; ids are NSD's.

    Parameters
    ----------
    folder, subject
        As in `load_algonauts`.
    ids
        As in `load_nsd_stimuli`; by default all training images.
    **preprocessing
        ``size``, ``channels``, ``mean``, ``std`` and ``crop`` of `neurordl.Preprocessing`.

    Raises
    ------
    NeurordlError
        Images are missing or damaged.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     place = Path(folder) / "subj02" / "training_split" / "training_images"
    ...     place.mkdir(parents=True)
    ...     Image.new("RGB", (20, 20)).save(place / "train-0001_nsd-00013.png")
    ...     nrl.datasets.load_algonauts_stimuli(folder, 2, size=8).ids
    ('nsd-00013',)
    """
    layout, name = _layout(folder, subject)
    images = _images(layout, name)
    return read_stimuli(images, ids, layout.folder / name, preprocessing)
