"""Small images of stimuli in a picture, matched by id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from neurordl.ids import match_ids
from neurordl.stimuli import StimulusSet

__all__ = ["spread", "strip", "thumbnails", "thumbnails_at"]

Pixels = npt.NDArray[Any]


def thumbnails(stimuli: StimulusSet, ids: Sequence[str]) -> Pixels:
    """RGB images of these ids, (n, height, width, 3), as they were before normalisation."""
    index = match_ids(ids, stimuli.ids, names=("RDMs", "stimuli")).index
    pixels = np.moveaxis(stimuli.pixels.numpy()[index], 1, -1)
    if pixels.dtype != np.uint8:  # floats are on a scale of their own
        low, high = float(stimuli.pixels.min()), float(stimuli.pixels.max())
        pixels = (pixels - low) / ((high - low) or 1.0) if low < 0 or high > 1 else pixels
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def spread(blocks: Sequence[tuple[int, int]], size: float) -> list[tuple[int, float]]:
    """Stimuli to show with images ``size`` cells long along blocks of cells [start, end), and their centres.

    As many as fit, evenly over each block; where a block is narrower than an image, some blocks go without.
    """
    chosen: list[tuple[int, float]] = []
    end_of_all = blocks[-1][1]
    for start, end in blocks:
        count = max(1, int((end - start) / size + 1e-9))
        for k in range(count):
            centre = start + (k + 0.5) * (end - start) / count
            stimulus = int(centre)
            centre = min(max(centre, size / 2), end_of_all - size / 2) - 0.5
            if not chosen or centre - chosen[-1][1] >= size - 1e-9:
                chosen.append((stimulus, centre))
    return chosen


def strip(ax: Axes, images: Pixels, centres: Sequence[float], size: float, n: int) -> float:
    """Images along the left and the lower side of a matrix of n stimuli, inside the Axes.

    Returns the share of the Axes' sides that is left to the matrix.
    """
    gap = 0.15 * size
    near, far = gap, gap + 0.92 * size
    style: dict[str, Any] = {"interpolation": "antialiased", "clip_on": False}
    for centre, image in zip(centres, images, strict=True):
        low, high = centre - 0.46 * size, centre + 0.46 * size
        ax.imshow(image, extent=(-0.5 - far, -0.5 - near, high, low), **style)
        ax.imshow(image, extent=(low, high, n - 0.5 + far, n - 0.5 + near), **style)
    ax.set_xlim(-0.5 - 1.3 * size, n - 0.5)
    ax.set_ylim(n - 0.5 + 1.3 * size, -0.5)
    return n / (n + 1.3 * size)


def thumbnails_at(
    ax: Axes, images: Pixels, places: npt.NDArray[np.float64], size: float, edges: Sequence[str] | None
) -> None:
    """Images centred on points of the data, ``size`` points long, framed in the colours ``edges``."""
    for k, (image, place) in enumerate(zip(images, places, strict=True)):
        picture = OffsetImage(image, zoom=size / max(image.shape[:2]), interpolation="antialiased")
        frame: dict[str, Any] = {"linewidth": 0, "facecolor": "none"}
        if edges is not None:  # filled too: no paper shows between the frame and the image
            frame = {"linewidth": max(0.6, size / 18), "facecolor": edges[k], "edgecolor": edges[k]}
        box = AnnotationBbox(picture, tuple(place), pad=0.06, bboxprops=frame)
        box.set_zorder(3)
        ax.add_artist(box)
