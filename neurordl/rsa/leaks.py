"""What a network was trained on, and what of it is in the stimuli and subjects by which it is scored.

An exposure is what a run showed to a network, as plain values for ``run.json``: the stimuli whose geometry
was fitted or by which anything was chosen, the labelled images, and the subjects who taught, with a part of
their RDMs. It stays with the network and with files of its weights.
"""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from neurordl.arrays import Bools, Floats
from neurordl.measures.condensed import pair_number
from neurordl.rdms.selection import reindex, stimulus_ids
from neurordl.rsa.compare import same_means, same_rdms
from neurordl.stimuli import StimulusSet
from neurordl.stimuli.fingerprints import decoded, differ, encoded, find_copies
from neurordl.validate import listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Exposure = Mapping[str, Any]

_SKETCHED = 96  # stimuli of an RDM that are recorded: all of most data sets
_PREFIX = re.compile(r"^(?:sub[-_])?(?:(?:sub(?:j(?:ect)?)?|s)[-_ ]?(?=[0-9]))?0*(?=.)", re.IGNORECASE)


def shown_images(stimuli: StimulusSet) -> Exposure:
    """Ids and fingerprints of images that are shown."""
    return {"ids": list(stimuli.ids), "images": encoded(stimuli.fingerprints)}


@dataclass(frozen=True)
class Leaks:
    """Held-out stimuli that a network has met in training all the same.

    Attributes
    ----------
    n
        Number of held-out stimuli.
    labels
        Those whose labels were trained on.
    copies
        Those whose images are copies of fitted ones, with the ids of these.
    identical
        How many copies are identical, pixel by pixel.
    earlier
        Those that an earlier run trained the network on.
    """

    n: int = 0
    labels: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    identical: int = 0
    earlier: tuple[str, ...] = ()

    @classmethod
    def of(cls, now: Exposure | None, before: Sequence[Exposure], stimuli: StimulusSet) -> Leaks:
        """Look for held-out stimuli in what this run and earlier ones have shown."""
        labels, _ = _met(stimuli, now["labelled"] if now is not None else ())
        copies, identical = _met(stimuli, now["stimuli"] if now is not None else (), by_id=False)
        known, _ = _met(stimuli, [part for shown in before for part in shown["stimuli"] + shown["labelled"]])
        return cls(len(stimuli), tuple(labels), copies, identical, tuple(known))

    @property
    def brief(self) -> str:
        """A few words for the column ``fitted``; empty if nothing leaks."""
        counts = {"labels of": self.labels, "copies:": self.copies, "by an earlier run:": self.earlier}
        texts = [f"{name} {len(ids)}" for name, ids in counts.items() if ids]
        return f" ({', '.join(texts)})" if texts else ""

    @property
    def notes(self) -> list[str]:
        """What leaks, with the names of the stimuli."""
        notes, of_all = [], f"of the {self.n} held-out stimuli"
        if self.labels:
            notes.append(f"labels of {len(self.labels)} {of_all} were trained on: {listed(self.labels)}")
        if self.copies:
            pairs = listed(f"{stimulus} of {fitted}" for stimulus, fitted in self.copies.items())
            how_many = f"{self.identical} identical, {len(self.copies) - self.identical} nearly"
            notes.append(f"{len(self.copies)} {of_all} are copies of fitted images ({how_many}): {pairs}")
        if self.earlier:
            run = "an earlier run trained the network, or one that taught it,"
            notes.append(f"{run} on {len(self.earlier)} {of_all}: {listed(self.earlier)}")
        return notes


def _met(
    stimuli: StimulusSet, shown: Iterable[Exposure], *, by_id: bool = True
) -> tuple[dict[str, str], int]:
    """Stimuli among shown images, with the id of these, and how many images are identical.

    They are known by their images, and by their ids unless the images of an id surely differ.
    """
    met: dict[str, str] = {}
    identical = np.zeros(len(stimuli), dtype=bool)
    for part in shown:
        row = {stimulus: k for k, stimulus in enumerate(part["ids"])}
        rows = np.array([row.get(stimulus, -1) if by_id else -1 for stimulus in stimuli.ids], dtype=np.int64)
        if part["images"] is not None and len(part["ids"]):
            prints, known = stimuli.fingerprints, decoded(part["images"], len(part["ids"]))
            copies = find_copies(prints, known)
            identical |= copies.identical
            rows = np.where((rows >= 0) & ~differ(prints, known[rows]), rows, copies.row)
        for place in np.flatnonzero(rows >= 0):
            met.setdefault(stimuli.ids[place], part["ids"][rows[place]])
    return {stimulus: met[stimulus] for stimulus in stimuli.ids if stimulus in met}, int(identical.sum())


def count_identical(images: StimulusSet, shown: Iterable[Exposure]) -> int:
    """Count the images that are among shown ones, pixel by pixel."""
    identical = np.zeros(len(images), dtype=bool)
    for part in shown:
        if part["images"] is not None and part["ids"]:
            known = decoded(part["images"], len(part["ids"]))
            identical |= find_copies(images.fingerprints, known).identical
    return int(identical.sum())


def check_exposures(exposures: Sequence[Exposure]) -> None:
    """Raise any error of a record that is not as it was written."""
    for exposure in exposures:
        for part in (*exposure["stimuli"], *exposure["labelled"]):
            if part["images"] is not None and part["ids"]:
                decoded(part["images"], len(part["ids"]))
        names = [*exposure["subjects"], *(name for part in exposure["rdms"] for name in part["subjects"])]
        ids = [name for part in exposure["rdms"] for name in part["stimuli"]]
        if not all(isinstance(name, str) for name in (*names, *ids)):
            raise ValueError("a name of a subject or a stimulus is no text")
        for part in exposure["rdms"]:
            n_bytes = len(part["stimuli"]) * (len(part["stimuli"]) - 1)  # two for each pair
            wrong = {len(base64.b64decode(text)) for text in part["rdms"]} - {n_bytes}
            if wrong or len(part["rdms"]) != len(part["subjects"]):
                raise ValueError("an RDM is recorded with another number of pairs or subjects")


def sketched(ids: Sequence[str]) -> list[str]:
    """The stimuli of RDMs that `sketch` records, up to 96, chosen by their ids alone."""
    return sorted(sorted(ids, key=lambda name: hashlib.blake2b(name.encode()).digest())[:_SKETCHED])


def sketch(ids: Sequence[str], vectors: Floats, names: Sequence[str]) -> Exposure:
    """A part of condensed RDMs (subjects, pairs) by which they are known again under other names."""
    chosen = set(sketched(ids))
    rows = np.array([k for k, stimulus in enumerate(ids) if stimulus in chosen], dtype=np.int64)
    i, j = np.triu_indices(len(rows), 1)
    part = np.asarray(vectors)[:, pair_number(rows[i], rows[j], len(ids))]
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # an RDM without a measured pair among these
        part = np.where(np.isfinite(part), part, np.nan)
        part -= np.nanmedian(part, axis=1, keepdims=True)
        size = np.nanmedian(np.abs(part), axis=1, keepdims=True)
        size = np.where(size > 0, size, np.nanmax(np.abs(part), axis=1, keepdims=True))
        small = (part / np.where(size > 0, size, 1)).astype("<f2")
    texts = [base64.b64encode(values.tobytes()).decode() for values in small]
    return {"stimuli": [ids[row] for row in rows], "subjects": list(names), "rdms": texts}


@dataclass(frozen=True)
class People:
    """Subjects of a ROI who taught a network.

    Attributes
    ----------
    fitted
        Which of the subjects taught.
    renamed
        Those who taught under another name, with that name.
    means
        Names under which the mean RDM of subjects taught, with how many they are.
    """

    fitted: Bools
    renamed: Mapping[str, str]
    means: Mapping[str, int]

    @classmethod
    def of(cls, exposures: Sequence[Exposure], names: Sequence[str], brain: RDMs) -> People:
        """Look for subjects by name, by their RDMs, and for means of their RDMs."""
        taught = {plain_name(name) for exposure in exposures for name in exposure["subjects"]}
        fitted = np.array([plain_name(name) in taught for name in names])
        renamed: dict[str, str] = {}
        means: dict[str, int] = {}
        for part in (part for exposure in exposures for part in exposure["rdms"]):
            stored, vectors = _shared_pairs(part, brain)
            same, within = same_rdms(stored, vectors), same_means(stored, vectors)
            for k, title in enumerate(part["subjects"]):
                if within[k].any():
                    means[title] = int(within[k].sum())
                    same[k] = within[k]
                else:
                    renamed |= {names[j]: title for j in np.flatnonzero(same[k] & ~fitted).tolist()}
                fitted = fitted | same[k]
        return cls(fitted, renamed, means)

    @property
    def notes(self) -> list[str]:
        """Who taught under which name; empty if all have the same names."""
        notes = []
        if self.renamed:
            pairs = listed(f"{name} = {taught}" for name, taught in self.renamed.items())
            notes.append(f"subjects who taught under another name, by their RDMs: {pairs}")
        for title, n in self.means.items():
            notes.append(f"the mean RDM of {n} of the {len(self.fitted)} subjects taught, as {title}")
        return notes


def plain_name(name: object) -> str:
    """A subject's name without the prefixes of file names and leading zeros: sub-01, s01 and 1 are the same.

    Examples
    --------
    >>> [plain_name(name) for name in ("sub-01", "subj1", "S001", "1", "sub-anna", "sam", "0")]
    ['1', '1', '1', '1', 'anna', 'sam', '0']
    """
    return _PREFIX.sub("", str(name))


def _shared_pairs(part: Exposure, brain: RDMs) -> tuple[Floats, Floats]:
    """Recorded RDMs and those of subjects, on the pairs of stimuli that both have."""
    available, ids = set(stimulus_ids(brain)), part["stimuli"]
    rows = np.array([k for k, stimulus in enumerate(ids) if stimulus in available], dtype=np.int64)
    i, j = np.triu_indices(len(rows), 1)
    texts = [np.frombuffer(base64.b64decode(text), "<f2") for text in part["rdms"]]
    stored = np.array(texts, dtype=np.float64)[:, pair_number(rows[i], rows[j], len(ids))]
    return stored, reindex(brain, [ids[row] for row in rows]) if len(i) else np.empty((brain.n_rdm, 0))
