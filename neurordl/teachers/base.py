"""What all teachers have in common.

For a batch of stimuli a teacher returns one or several RDMs and a weight for each pair. Teachers are plain
objects that no module registers, so that they reach neither an optimizer nor a checkpoint.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args

import numpy as np
import torch
from torch import Tensor

from neurordl.arrays import Ints
from neurordl.errors import NeurordlError
from neurordl.ids import Match, match_ids, natural_key
from neurordl.io import sha256_array
from neurordl.measures.dissimilarities import DissimilarityLike
from neurordl.validate import brief, check_choice, counted

Missing = Literal["error", "ignore"]
Record = dict[str, Any]
"""What ``run.json`` holds: text, numbers and None, in lists and dictionaries."""


class Batch(NamedTuple):
    """One batch of one of the two streams, on its device.

    Attributes
    ----------
    images : Tensor, (n, channels, height, width)
        Images.
    ids : sequence of str, or None
        Stimulus ids of the images, where they have any.
    labels : Tensor, (n,), or None
        Class of each image, int64.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> batch = nrl.Batch(torch.rand(3, 1, 8, 8), ids=("a", "b", "c"))
    >>> len(batch.ids)
    3
    """

    images: Tensor
    ids: Sequence[str] | None = None
    labels: Tensor | None = None

    def __repr__(self) -> str:
        return brief(self)


@dataclass(frozen=True)
class Target:
    """A teacher's RDMs of a batch of n stimuli.

    Attributes
    ----------
    rdms : Tensor, (n_rdms, n * (n - 1) / 2)
        Condensed RDMs (row-major upper triangle), float32 and finite.
    weights : Tensor, the same shape
        Weight of each pair; 0 where it was not measured.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> target = nrl.Target(torch.rand(2, 6), torch.ones(2, 6))
    >>> target.rdms.shape
    torch.Size([2, 6])
    """

    __repr__ = brief

    rdms: Tensor
    weights: Tensor


class Teacher(Protocol):
    """A reference whose RDMs a student learns: `RDMTeacher`, `PatternTeacher`, `LayerTeacher`, or your own.

    To write your own, derive a class from this one and define `target`. By default a teacher accepts every
    stimulus; define `match` and `groups` too if yours has only some.

    Examples
    --------
    >>> import torch
    >>> import neurordl as nrl
    >>> class LabelTeacher(nrl.Teacher):
    ...     dissimilarity = "correlation"
    ...
    ...     def target(self, batch, features):
    ...         rows, columns = torch.triu_indices(len(batch.labels), len(batch.labels), offset=1)
    ...         rdm = (batch.labels[rows] != batch.labels[columns]).float()[None]
    ...         return nrl.Target(rdm, torch.ones_like(rdm))
    >>> loss = nrl.RDMLoss(LabelTeacher(), layer="conv3")
    """

    transformed: bool = False
    """Whether its RDMs are standardized or ranked, so that they have no unit."""

    dissimilarity: DissimilarityLike | None = None
    """The dissimilarity of its RDMs, or None if it is not known."""

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDMs of a batch; `features` are empty unless the teacher is a `LayerTeacher`."""

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with those of the teacher; None if the teacher takes any stimulus."""
        return None

    def prepare(self, ids: Sequence[str]) -> Match | None:
        """Match the training stimuli, once, before the first step."""
        return self.match(ids)

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch."""
        return [list(ids)]

    def describe(self) -> Record:
        """What ``run.json`` records of the teacher."""
        return {"teacher": type(self).__name__}

    def exposure(self) -> Record:
        """Whom a student meets by it: ``subjects``, and ``rdms`` to know them by (`neurordl.rsa.leaks`)."""
        return {}


def spelled(choice: Any) -> Any:
    """How a record spells a choice: the same in every process, so without addresses in memory."""
    if choice is None or isinstance(choice, str | int | float):
        return choice
    return getattr(choice, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(choice))


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, to which it is copied from the CPU without waiting for what the device does."""
    if device.type in ("cpu", "mps") or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class ById:
    """Rows by stimulus id: what teachers with measured stimuli share.

    Parameters
    ----------
    ids : sequence of str
        Ids of the stimuli, in any order: the rows are in natural order.
    missing : {"error", "ignore"}
        Whether unknown ids are an error, or ignored: their pairs then have weight 0.
    content : str
        The name of the rows in messages, such as "RDMs".
    """

    def __init__(self, ids: Sequence[str], missing: Missing, content: str) -> None:
        # In one order, so that neither results nor checksums depend on the order in a file.
        self.ids, self.content = tuple(sorted(ids, key=natural_key)), content
        self.missing = check_choice("missing", missing, get_args(Missing))
        self._ids_as_passed = tuple(ids)
        self._row = {stimulus: row for row, stimulus in enumerate(self.ids)}
        self.control: Record | None = None
        self._unseen: Mapping[str, Set[int]] = {}  # for each subject, the rows without a measurement

    def __repr__(self) -> str:
        roi, control = getattr(self, "roi", None), self.control
        subjects = len(getattr(self, "subjects", ()))
        parts = [roi, counted(subjects, "subject"), counted(len(self.ids), "stimulus")]
        parts += [control and f"permuted with seed {control['permuted']}"]
        return f"{type(self).__name__}({', '.join(filter(None, parts))})"

    def rows(self, ids: Sequence[str] | None) -> Ints:
        """Row of each id; -1 for an unknown one if it is ignored."""
        if ids is None:
            raise NeurordlError(
                f"the teacher finds its {self.content} by id, but the images have none. In fit, pass a "
                "StimulusSet, or batches (images, labels, ids); in your own loop, stimuli=(images, ids)"
            )
        rows = np.array([self._row.get(stimulus, -1) for stimulus in ids], dtype=np.int64)
        if self.missing == "error" and (rows < 0).any():
            self.match(ids)  # raises an error that names them
        return rows

    def match(self, ids: Sequence[str]) -> Match:
        """Match ids with the teacher's.

        Parameters
        ----------
        ids : sequence of str
            Ids of stimuli.

        Returns
        -------
        Match
            Prints as a table, also of the subjects in whom some of the matched stimuli were not measured.

        Raises
        ------
        NeurordlError
            If an id is unknown (unless ``missing="ignore"``), occurs twice, or none matches.
        """
        match = match_ids(ids, self._ids_as_passed, names=("stimuli", self.content), missing=self.missing)
        rows = {self._row[stimulus] for stimulus in match.matched}
        lacking = {subject: len(rows & unseen) for subject, unseen in self._unseen.items()}
        return replace(match, lacking={subject: count for subject, count in lacking.items() if count})

    def permuted(self, ids: Sequence[str], seed: int, within: Mapping[str, object] | None = None) -> Self:
        """A control: the same teacher with the ids of the training stimuli permuted.

        The ids are permuted once, so that rows and columns of the RDM are permuted alike. Stimuli that are
        not in `ids` are not changed.

        Parameters
        ----------
        ids : sequence of str
            The training stimuli; their order does not matter.
        seed : int
            Seed of the permutation.
        within : mapping of id to category, optional
            Permute within categories only.

        Returns
        -------
        the same type
            The control.

        Raises
        ------
        NeurordlError
            If ids do not match, or nothing can be permuted because no category has two stimuli.
        """
        stimuli = sorted(self.match(ids).matched, key=natural_key)
        categories = dict.fromkeys(stimuli) if within is None else within
        if not isinstance(categories, Mapping):
            raise NeurordlError(f"within={within!r:.40}: expected a mapping from id to category")
        blocks: dict[object, list[str]] = {}
        for stimulus in stimuli:
            if stimulus not in categories:
                raise NeurordlError(f"within: stimulus {stimulus!r} has no category; give it one")
            blocks.setdefault(categories[stimulus], []).append(stimulus)
        if max(map(len, blocks.values())) < 2:
            raise NeurordlError("no category has two stimuli, so nothing can be permuted within categories")
        rng = np.random.default_rng(seed)
        control = copy.copy(self)
        control._row = dict(self._row)
        for block in blocks.values():
            for stimulus, other in zip(block, rng.permutation(len(block)), strict=True):
                control._row[stimulus] = self._row[block[other]]
        rows = sha256_array(np.array([control._row[stimulus] for stimulus in self.ids], dtype=np.int64))
        control.control = {"permuted": seed, "within": within is not None, "sha256": rows}
        return control
