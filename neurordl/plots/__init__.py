"""Figures: each function draws on the Axes ``ax``, or on a new one, and returns it.

The colors are those of Okabe and Ito, which color-blind readers can distinguish; markers differ, too. Font
sizes follow matplotlib's ``rcParams``, so that the sizes of a journal are set once for all figures. A figure
with ``layout="constrained"`` has room for names, legends and color bars.
"""

from __future__ import annotations

from neurordl.plots.maps import plot_map as plot_map
from neurordl.plots.mds import plot_mds as plot_mds
from neurordl.plots.mds import plot_rdm_mds as plot_rdm_mds
from neurordl.plots.rdm import plot_rdm as plot_rdm
from neurordl.plots.scores import plot_layer_roi as plot_layer_roi
from neurordl.plots.scores import plot_scores as plot_scores
from neurordl.plots.shares import plot_partition as plot_partition
from neurordl.plots.style import COLOURS as COLOURS
from neurordl.plots.time import plot_layer_time as plot_layer_time
from neurordl.plots.time import plot_model_time as plot_model_time
from neurordl.plots.time import plot_time_course as plot_time_course
from neurordl.plots.training import plot_paired as plot_paired
from neurordl.plots.training import plot_training as plot_training
from neurordl.plots.training import plot_transfer as plot_transfer
