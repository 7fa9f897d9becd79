"""Figures: each function draws on the Axes ``ax``, or on a new one, and returns it.

The colors are those of Okabe and Ito, which color-blind readers can distinguish; markers differ, too. Font
sizes follow matplotlib's ``rcParams``, so that the sizes of a journal are set once for all figures. A figure
with ``layout="constrained"`` has room for names, legends and color bars.
"""

from __future__ import annotations

from neurordl.plots.mds import plot_mds, plot_rdm_mds
from neurordl.plots.rdm import plot_rdm
from neurordl.plots.scores import plot_layer_roi, plot_scores
from neurordl.plots.style import COLOURS
from neurordl.plots.training import plot_paired, plot_training, plot_transfer

__all__ = [
    "COLOURS",
    "plot_layer_roi",
    "plot_mds",
    "plot_paired",
    "plot_rdm",
    "plot_rdm_mds",
    "plot_scores",
    "plot_training",
    "plot_transfer",
]
