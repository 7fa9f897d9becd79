"""Stimuli: images with ids, their preprocessing, and their split into fitted and held-out ones."""

from neurordl.stimuli.preprocessing import Preprocessing as Preprocessing
from neurordl.stimuli.sets import StimulusSet as StimulusSet
