"""Stimuli: images with ids, how they are prepared, and their split into fitted and held-out ones."""

from __future__ import annotations

from neurordl.stimuli.preprocessing import Preprocessing
from neurordl.stimuli.sets import StimulusSet

__all__ = ["Preprocessing", "StimulusSet"]
