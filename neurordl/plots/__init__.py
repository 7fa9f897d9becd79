"""Pictures: each function draws on the Axes ``ax`` (a new one if none is given) and returns it.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; markers differ too.
Sizes of letters follow matplotlib's ``rcParams``, so that a journal's are set once, for all;
a figure with ``layout="constrained"`` makes room for names, legends and colour bars.
"""

from __future__ import annotations

from neurordl.plots.mds import plot_mds, plot_rdm_mds
from neurordl.plots.rdm import plot_rdm
from neurordl.plots.roi import plot_layer_roi
from neurordl.plots.scores import plot_scores
from neurordl.plots.style import COLOURS
from neurordl.plots.training import plot_training
from neurordl.plots.transfer import plot_paired, plot_transfer

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
