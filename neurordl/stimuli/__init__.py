"""Stimuli: images with ids, their preprocessing, and their split into fitted and held-out ones."""

from neurordl.stimuli.preprocessing import Preprocessing as Preprocessing
from neurordl.stimuli.sets import StimulusSet as StimulusSet
from neurordl.stimuli.sets import warn_of_absent as warn_of_absent
