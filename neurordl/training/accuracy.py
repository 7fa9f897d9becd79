"""How well a student does its task."""

from __future__ import annotations

from torch import nn

from neurordl.errors import NeurordlError
from neurordl.patterns.network import as_input, frozen_eval
from neurordl.training.streams import Labelled, check_labels, each_once


def accuracy(student: nn.Module, labelled: Labelled, batch_size: int = 512) -> float:
    """Share of images whose largest output is their label, in eval mode.

    Parameters
    ----------
    student : torch.nn.Module
        (n, channels, height, width) -> (n, classes).
    labelled : StimulusSet with labels, DataLoader, Dataset, or sized iterable of batches
        As in `fit`.
    batch_size : int
        Of a StimulusSet or Dataset.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    NeurordlError
        If there are no labels, or they are out of the range of the outputs.
    """
    right = total = 0
    with frozen_eval(student):
        for batch in each_once(labelled, batch_size):
            if batch.labels is None:
                raise NeurordlError("labelled: the batches have no labels")
            outputs = student(as_input(batch.images, student))
            check_labels(batch.labels, outputs.shape[1])
            right += int((outputs.argmax(dim=1).cpu() == batch.labels).sum())
            total += len(batch.labels)
    return right / total
