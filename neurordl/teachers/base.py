"""What every teacher is.

A teacher answers, for a batch of stimuli, with one or several RDMs and a weight for each pair. Teachers are
plain objects, registered in no module, so that they reach neither an optimiser nor a checkpoint.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, Self, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import Match, match_ids, natural_key
from neurordl.io import sha256_array
from neurordl.measures.dissimilarities import DissimilarityLike

Missing = Literal["error", "ignore"]
Record = dict[str, Any]
"""What ``run.json`` holds: text, numbers and None, in lists and dictionaries."""


class Batch(NamedTuple):
    """One batch of one of the two streams, on its device.

    Attributes
    ----------
    images : Tensor, (n, channels, height, width)
    ids : sequence of str, or None
        Stimulus ids of the images, where they have any.
    labels : Tensor, (n,), or None
    """

    images: Tensor
    ids: Sequence[str] | None = None
    labels: Tensor | None = None


@dataclass(frozen=True)
class Target:
    """What a teacher answers for a batch of n stimuli.

    Attributes
    ----------
    rdms : Tensor, (n_rdms, n * (n - 1) / 2)
        Condensed RDMs (row-major upper triangle), float32 and finite.
    weights : Tensor, the same shape
        Weight of each pair; 0 where it was not measured.
    """

    rdms: Tensor
    weights: Tensor


class Teacher(Protocol):
    """What any teacher offers. `RDMTeacher`, `PatternTeacher` and `LayerTeacher` do; yours may too."""

    @property
    def dissimilarity(self) -> DissimilarityLike | None:
        """The dissimilarity of its RDMs: a name, an object or a function; None where it is not known."""

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDMs of a batch; `features` are those of the teacher's own network, if it has one."""

    def match(self, ids: Sequence[str]) -> Match | None:
        """Match ids with the teacher's own; None if it takes any."""

    def prepare(self, ids: Sequence[str]) -> Match | None:
        """Match the training stimuli, once, before the first step, and keep what only they may set."""

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch."""

    def describe(self) -> dict[str, Any]:
        """What `run.json` records of the teacher."""


def spelled(choice: Any) -> Any:
    """What stands for a choice in a record: the same in every process, so without addresses."""
    if choice is None or isinstance(choice, str | int | float):
        return choice
    return getattr(choice, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(choice))


class ById:
    """Rows found by stimulus id: what teachers with measured stimuli share."""

    def __init__(self, ids: Sequence[str], missing: Missing, what: str) -> None:
        if missing not in get_args(Missing):
            raise NeurordlError(f"missing={missing!r}: expected 'error' or 'ignore'")
        # In one order, so that neither results nor checksums depend on the order in a file.
        self.ids, self.missing, self.what = tuple(sorted(ids, key=natural_key)), missing, what
        self._given = tuple(ids)
        self._row = {stimulus: row for row, stimulus in enumerate(self.ids)}
        self.control: dict[str, Any] | None = None

    def rows(self, ids: Sequence[str] | None) -> npt.NDArray[np.int64]:
        """Row of each id; -1 for an unknown one where that is allowed."""
        if ids is None:
            raise NeurordlError(
                f"the teacher finds its {self.what} by id, but the images came without ids: pass "
                "stimuli=(images, ids), or labelled=(images, labels, ids)"
            )
        rows = np.array([self._row.get(stimulus, -1) for stimulus in ids], dtype=np.int64)
        if self.missing == "error" and (rows < 0).any():
            match_ids(ids, self.ids, names=("stimuli", self.what))  # raises, naming them
        return rows

    def match(self, ids: Sequence[str]) -> Match:
        """Match ids with the teacher's.

        Parameters
        ----------
        ids : sequence of str

        Returns
        -------
        Match
            Prints as a table; says too in which subjects some of the matched stimuli were not measured.

        Raises
        ------
        NeurordlError
            If an id is unknown (unless ``missing="ignore"``), occurs twice, or none matches.
        """
        match = match_ids(ids, self._given, names=("stimuli", self.what), missing=self.missing)
        rows = {self._row[stimulus] for stimulus in match.matched}
        lacking = {subject: len(rows & unseen) for subject, unseen in self._unseen().items()}
        return replace(match, lacking={subject: count for subject, count in lacking.items() if count})

    def _unseen(self) -> Mapping[str, Set[int]]:
        """Of each subject the rows that it has no measurement of."""
        return {}

    def prepare(self, ids: Sequence[str]) -> Match:
        """Match the training stimuli, before the first step."""
        return self.match(ids)

    def permuted(self, ids: Sequence[str], seed: int, within: Mapping[str, object] | None = None) -> Self:
        """A control: the same teacher with the ids of the training stimuli permuted.

        One fixed permutation of `ids`, rows and columns of the RDM together; other stimuli keep their own.

        Parameters
        ----------
        ids : sequence of str
            The training stimuli; their order does not matter.
        seed : int
        within : mapping of id to category, optional
            Permute within categories only.

        Returns
        -------
        the same type

        Raises
        ------
        NeurordlError
            If ids do not match, or nothing can be permuted because no category has two stimuli.
        """
        if within is not None and not isinstance(within, Mapping):
            raise NeurordlError(
                f"within: expected a mapping from id to category, got {type(within).__name__}; give "
                "dict(zip(ids, categories))"
            )
        known = sorted(self.match(ids).matched, key=natural_key)
        blocks: dict[object, list[str]] = {}
        for stimulus in known:
            if within is not None and stimulus not in within:
                raise NeurordlError(f"within: stimulus {stimulus!r} has no category; give it one")
            blocks.setdefault(within[stimulus] if within is not None else None, []).append(stimulus)
        if max(map(len, blocks.values())) < 2:
            raise NeurordlError("no category has two stimuli, so nothing can be permuted within categories")
        rng = np.random.default_rng(seed)
        row = dict(self._row)
        for block in blocks.values():
            for stimulus, other in zip(block, rng.permutation(len(block)), strict=True):
                row[stimulus] = self._row[block[other]]
        control = copy.copy(self)
        control._row = row
        rows = sha256_array(np.array([row[stimulus] for stimulus in self.ids], dtype=np.int64))
        control.control = {"permuted": seed, "within": within is not None, "sha256": rows}
        return control
