"""What a reader found in a file, and what the user says where the file does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids
from neurordl.rdms.selection import as_text

__all__ = [
    "INFLATION",
    "Diagonal",
    "Held",
    "Layout",
    "Similarity",
    "agreed",
    "numbered",
    "set_ids",
    "set_of_rdms",
]

Layout = Literal["square", "condensed"]
Similarity = Literal["1-s"]
Diagonal = Literal["ignore"]

# Deflate makes at most 1,032 bytes of one: a file that claims more holds less than it says.
INFLATION = 1040


@dataclass
class Held:
    """RDMs as a file has them.

    Attributes
    ----------
    values
        One array of any shape that `condense` reads, or a list of them (the RDMs of a struct array).
    layout
        Where the format leaves no doubt of it.
    measure
        The dissimilarity measure, where the file names it.
    descriptors, rdm_descriptors, pattern_descriptors
        As in rsatoolbox: of the whole, one value per RDM, one per stimulus.
    texts
        Other lists of texts by name: they could be ids under a name that is not known.
    notices
        What the user should know of how the file was read.
    """

    values: Any
    layout: Layout | None = None
    measure: str | None = None
    descriptors: dict[str, Any] = field(default_factory=dict)
    rdm_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    pattern_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def set_ids(rdms: RDMs, ids: Sequence[str] | None, source: Path) -> None:
    """Take the ids given for the rows of a file: one each, and not against its own."""
    if ids is None:
        return
    named = check_ids(ids, f"RDMs in {source}")
    if len(named) != rdms.n_cond:
        raise NeurordlError(
            f"{len(named)} ids were given for {source}, whose RDMs have {rdms.n_cond} stimuli; give one id "
            "for each row, in the order of the rows"
        )
    own = rdms.pattern_descriptors.get("stimulus")
    own = None if own is None or numbered(own, source) else own
    agreed(None if own is None else tuple(map(as_text, own)), named, source, "stimulus ids")
    rdms.pattern_descriptors["stimulus"] = list(named)


def numbered(ids: Sequence[Any], source: Path) -> bool:
    """Whether ids are the row numbers that pandas and R write beside a table, all of them."""
    counts = [[str(k + first) for k in range(len(ids))] for first in (0, 1)]
    return source.suffix.lower() in (".csv", ".tsv") and list(ids) in counts


def set_of_rdms(rdms: RDMs, name: str, values: Sequence[str] | None, source: Path) -> None:
    """Take subjects or ROIs that were given for the RDMs of a file, one for each."""
    if values is None:
        return
    listed = list(map(as_text, values))
    if len(listed) != rdms.n_rdm:
        raise NeurordlError(
            f"{len(listed)} values of {name} were given for the {rdms.n_rdm} RDMs in {source}; give one "
            "for each"
        )
    own = rdms.rdm_descriptors.get(name)
    agreed(None if own is None else list(map(as_text, own)), listed, source, name)
    rdms.rdm_descriptors[name] = listed


def agreed(own: Any, given: Any, source: Path, what: str) -> Any:
    """What the file says, or what was given where it says nothing; never one against the other."""
    if own is not None and given is not None and own != given:
        raise NeurordlError(
            f"{source} has its own {what} ({_some(own)}), other than those given ({_some(given)}); leave "
            "the argument out, or change the RDMs once they are loaded"
        )
    return given if own is None else own


def _some(values: Any) -> str:
    """The first few of several, or the one."""
    if isinstance(values, str):
        return values
    return ", ".join(map(repr, values[:3])) + (", ..." if len(values) > 3 else "")
