"""Model RDMs: of simple properties of images, of columns of a table, and of single features of patterns."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import pdist
from torch import Tensor
from torch.nn import functional

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import DissimilarityLike
from neurordl.rdms.compute import compute_rdms
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.sets import check_stimuli, read_table
from neurordl.validate import listed

if TYPE_CHECKING:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm.rdms import RDMs

_SIDE = 64  # pixels of the shorter side of images that are filtered
_WAVES, _ANGLES = (4, 8, 16), 4  # waves on the shorter side, orientations
_SHORTEST = 3  # pixels of a wave
_SIGMA, _REACH = 0.56, 2.5  # width of the envelope in waves (one octave), and where it ends
_GRID = 8  # places, along each side, in which energies are averaged
_BATCH = 64
_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def image_rdms(stimuli: StimulusSet, dissimilarity: DissimilarityLike = "correlation") -> RDMs:
    """Compute RDMs of simple properties of images, as covariates of `Partial` and others.

    All are of gray images, with pixels from 0 to 1:

    - "pixels": dissimilarity of the pixels.
    - "gabor": dissimilarity of the energies of Gabor filters in 8 x 8 places, at four orientations and with
      4, 8 and 16 waves on the shorter side of the image, which has at most 64 pixels then.
    - "luminance": absolute difference of the mean.
    - "contrast": absolute difference of the standard deviation (RMS contrast).

    Parameters
    ----------
    stimuli
        The images, as they are resized; their normalization does not matter.
    dissimilarity
        Of pixels and energies, as in `compute_rdms`.

    Returns
    -------
    RDMs
        Four RDMs, with the RDM descriptor ``name``.

    Examples
    --------
    >>> import neurordl as nrl
    >>> digits = nrl.datasets.load_digits()
    >>> nrl.image_rdms(digits.subset(digits.ids[:6])).rdm_descriptors["name"]
    ['pixels', 'gabor', 'luminance', 'contrast']
    """
    from rsatoolbox.data import Dataset

    check_stimuli(stimuli)
    parts = [_gray(stimuli.pixels[start : start + _BATCH]) for start in range(0, len(stimuli), _BATCH)]
    energies = torch.cat([gabor_energies(part) for part in parts])
    pixels = torch.cat([part.flatten(1) for part in parts])
    patterns = {"pixels": pixels.numpy(), "gabor": energies.flatten(1).numpy()}
    ids = list(stimuli.ids)
    vectors = {
        name: compute_rdms(
            Dataset(values, obs_descriptors={"stimulus": ids}), dissimilarity, progress=False
        ).dissimilarities[0]
        for name, values in patterns.items()
    }
    vectors["luminance"] = pdist(pixels.mean(1, keepdim=True).numpy(), "cityblock")
    vectors["contrast"] = pdist(pixels.std(1, correction=0, keepdim=True).numpy(), "cityblock")
    return _named(vectors, ids)


def _gray(pixels: Tensor) -> Tensor:
    """Gray images (images, height, width) in float64, from 0 to 1 if they were whole numbers."""
    values = pixels.double() / (255 if pixels.dtype == torch.uint8 else 1)
    if values.shape[1] == len(_LUMA):
        return torch.einsum("nchw,c->nhw", values, torch.tensor(_LUMA, dtype=values.dtype))
    return values.mean(1)


def gabor_energies(images: Tensor) -> Tensor:
    """Energies of Gabor filters, (images, filters, rows, columns), of gray images (images, height, width).

    An energy is the root of the sum of the squared responses of an even and an odd filter, so that it does
    not depend on the phase. Filters have no response to a uniform image.
    """
    side = min(images.shape[1:])
    if side > _SIDE:
        scale = _SIDE / side
        size = [max(_SIDE, round(scale * length)) for length in images.shape[1:]]
        images = functional.interpolate(images[:, None], size, mode="bilinear", antialias=True)[:, 0]
        side = _SIDE
    energies = []
    for wave in [side / waves for waves in _WAVES if side / waves >= _SHORTEST] or [_SHORTEST]:
        for angle in np.arange(_ANGLES) * math.pi / _ANGLES:
            kernel = _gabor(wave, angle)
            reach = kernel.shape[-1] // 2
            mode = "reflect" if reach < side else "replicate"
            padded = functional.pad(images[:, None], [reach] * 4, mode=mode)
            responses = functional.conv2d(padded, kernel)
            energies.append(responses.square().sum(1).sqrt())
    rows, columns = (min(_GRID, length) for length in images.shape[1:])
    return functional.adaptive_avg_pool2d(torch.stack(energies, 1), (rows, columns))


def _gabor(wave: float, angle: float) -> Tensor:
    """Even and odd Gabor filter, (2, 1, size, size), without a response to a uniform image."""
    reach = math.ceil(_REACH * _SIGMA * wave)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * (_SIGMA * wave) ** 2))
    phase = 2 * math.pi / wave * (x * math.cos(angle) + y * math.sin(angle))
    even = envelope * np.cos(phase)
    even -= envelope * even.sum() / envelope.sum()
    return torch.as_tensor(np.stack([even, envelope * np.sin(phase)])[:, None] / envelope.sum())


def property_rdms(
    table: str | os.PathLike[str] | pd.DataFrame, columns: Sequence[str] | None = None, id: str = "stimulus"
) -> RDMs:
    """Compute an RDM of each column of a table of stimuli, as covariates of `Partial` and others.

    The dissimilarity of two stimuli is the absolute difference of their numbers, such as motion or a rating;
    of text, truth values and categories, such as a task, it is 1 where they differ and 0 where not.

    Parameters
    ----------
    table
        A row for each stimulus; a .csv or .tsv file, or a DataFrame.
    columns
        The columns to take; by default all but the id.
    id
        The column with the stimulus ids; "id" stands in for "stimulus".

    Returns
    -------
    RDMs
        With the RDM descriptor ``name``: the names of the columns. The pairs of a stimulus without a value
        are NaN.

    Raises
    ------
    NeurordlError
        The table has no such column, or no other column than the id.

    Examples
    --------
    >>> import pandas as pd
    >>> import neurordl as nrl
    >>> table = pd.DataFrame({"stimulus": list("abc"), "task": ["see", "see", "hear"], "rating": [1, 2, 4]})
    >>> nrl.property_rdms(table).dissimilarities
    array([[0., 1., 1.],
           [1., 3., 2.]])
    """
    frame = read_table(table, id, *(columns or ()))
    names = list(frame.columns) if columns is None else list(columns)
    if not names:
        raise NeurordlError(f"the table has no column but {id!r}; give it one for each property")
    vectors = {str(name): _differences(frame[name]) for name in names}
    return _named(vectors, [str(stimulus) for stimulus in frame.index])


def feature_rdms(patterns: Dataset, by: str | None = None) -> RDMs:
    """Compute an RDM of each channel, or of each group of channels: a model whose features are weighted.

    A weighted sum of these RDMs is the RDM of patterns whose features are stretched. `evaluate_fitted` fits
    weights of 0 or more to some stimuli and scores the sum on others: feature-reweighted RSA (Kaniuth &
    Hebart 2022, NeuroImage 257:119294, who use ridge regression). Fits take longer with more features;
    of a wide layer take groups, or some principal components.

    Parameters
    ----------
    patterns
        rsatoolbox ``Dataset``, such as a layer of `extract_patterns`.
    by
        A channel descriptor whose values are the groups, such as "roi"; by default each channel is its own.

    Returns
    -------
    RDMs
        Squared Euclidean distances, divided by the number of channels in the group, with the RDM descriptor
        ``name``: the groups, or the numbers of the channels.

    Raises
    ------
    NeurordlError
        There is no such channel descriptor.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(16)]
    >>> values = np.random.default_rng(0).normal(size=(16, 4))
    >>> features = nrl.feature_rdms(Dataset(values, obs_descriptors={"stimulus": ids}))
    >>> people = nrl.simulate.simulate_subjects(values * [2, 1, 0, 0], ids, n_subjects=4)
    >>> nrl.evaluate_fitted({"units": features}, people, bootstrap=None)["fit"].tolist()
    ['weighted']
    """
    from rsatoolbox.data import Dataset

    values = np.asarray(patterns.measurements)
    if by is not None and by not in patterns.channel_descriptors:
        known = listed(patterns.channel_descriptors)
        raise NeurordlError(f"by={by!r} is no channel descriptor of the patterns, which have: {known}")
    groups = np.arange(values.shape[1]) if by is None else np.asarray(patterns.channel_descriptors[by])
    names = list(dict.fromkeys(groups.tolist()))
    parts = [Dataset(values[:, groups == name], obs_descriptors=patterns.obs_descriptors) for name in names]
    rdms = [compute_rdms(part, "euclidean", progress=False) for part in parts]
    vectors = {str(name): rdm.dissimilarities[0] for name, rdm in zip(names, rdms, strict=True)}
    return _named(vectors, list(map(str, rdms[0].pattern_descriptors["stimulus"])))


def _differences(values: pd.Series[Any]) -> Floats:
    """Condensed dissimilarities of a column; NaN where a value is missing."""
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = np.asarray(values, dtype=np.float64)
        return np.asarray(pdist(numbers[:, None], "cityblock"))
    codes = pd.factorize(values)[0].astype(float)
    i, j = np.triu_indices(len(codes), 1)
    return np.where((codes[i] < 0) | (codes[j] < 0), np.nan, (codes[i] != codes[j]).astype(float))


def _named(vectors: Mapping[str, Floats], ids: list[str]) -> RDMs:
    from rsatoolbox.rdm.rdms import RDMs

    return RDMs(
        np.stack(list(vectors.values())),
        rdm_descriptors={"name": list(vectors)},
        pattern_descriptors={"stimulus": ids},
    )
