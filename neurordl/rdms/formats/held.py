"""What a reader found in a file, before its shapes and ids are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["INFLATION", "Diagonal", "Held", "Layout", "Similarity"]

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
    notices
        What the user should know of how the file was read.
    """

    values: Any
    layout: Layout | None = None
    measure: str | None = None
    descriptors: dict[str, Any] = field(default_factory=dict)
    rdm_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    pattern_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
