"""Ids, subjects and ROIs that the user gives where a file does not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.matching import check_ids
from neurordl.rdms.formats.tables import read_ids

__all__ = ["agreed", "set_ids", "set_of_rdms"]


def set_ids(
    rdms: RDMs, ids: Sequence[str] | None, labels: str | os.PathLike[str] | None, source: Path
) -> None:
    """Take the ids given for the rows of a file: one each, and not against its own."""
    if ids is not None and labels is not None:
        raise NeurordlError("ids were given twice, by ids= and by labels=; give one of them")
    if labels is not None:
        ids = read_ids(Path(labels))
    if ids is None:
        return
    named = check_ids(ids, f"RDMs in {source}")
    if len(named) != rdms.n_cond:
        raise NeurordlError(
            f"{len(named)} ids were given for {source}, whose RDMs have {rdms.n_cond} stimuli; give one id "
            "for each row, in the order of the rows"
        )
    own = rdms.pattern_descriptors.get("stimulus")
    agreed(None if own is None else tuple(map(str, own)), named, source, "stimulus ids")
    rdms.pattern_descriptors["stimulus"] = list(named)


def set_of_rdms(rdms: RDMs, name: str, values: Sequence[str] | None, source: Path) -> None:
    """Take subjects or ROIs that were given for the RDMs of a file, one for each."""
    if values is None:
        return
    listed = [str(value) for value in values]
    if len(listed) != rdms.n_rdm:
        raise NeurordlError(
            f"{len(listed)} values of {name} were given for the {rdms.n_rdm} RDMs in {source}; give one "
            "for each"
        )
    own = rdms.rdm_descriptors.get(name)
    agreed(None if own is None else [str(value) for value in own], listed, source, name)
    rdms.rdm_descriptors[name] = listed


def agreed(own: Any, given: Any, source: Path, what: str) -> Any:
    """What the file says, or what was given where it says nothing; never one against the other."""
    if own is not None and given is not None and own != given:
        raise NeurordlError(
            f"{source} has its own {what} ({own!s:.60}), other than those given ({given!s:.60}); leave "
            "the argument out, or change the RDMs once they are loaded"
        )
    return given if own is None else own
