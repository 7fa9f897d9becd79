"""RDMs as text: .csv and .tsv, square or condensed, with or without ids."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import id_column, possible_ids
from neurordl.io import read_cells, read_text
from neurordl.rdms.files.held import Held, Layout
from neurordl.rdms.files.shapes import looks_square, matrix_of

__all__ = ["read_ids", "read_square", "table_content"]

_DECIMAL_COMMA = re.compile(r"\s*[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?\s*")
_MISSING = ("", "na", "nan", "n/a")
Rows = list[list[str]]


def read_square(source: Path, name: str | None) -> Held:
    """A square RDM with ids in its first row, its first column, both or neither; or condensed RDMs."""
    if name is not None:
        raise NeurordlError(f"{source} holds one table: leave out name={name!r}")
    notices = []
    cells = read_cells(source)
    named, rows = cells.rows, cells.with_points()
    if cells.decimal_commas:
        notices.append(f"{source} was read with semicolons between cells and decimal commas")
    across, down = _has_ids(rows)
    ids: list[str] = []
    if across:
        ids = [cell.strip() for cell in named[0][1 if down else 0 :]]
        rows = rows[1:]
    if down:
        own = [row[0].strip() for row in named[1 if across else 0 :]]
        rows = [row[1:] for row in rows]
        if across and own != ids:
            rows = _in_order(rows, ids, own, source)
        ids = own
    values = np.array(
        [[_number(cell, source, i, j) for j, cell in enumerate(row)] for i, row in enumerate(rows)]
    )
    square: Layout | None = "square" if across and down else None
    return Held(values, square, pattern_descriptors={"stimulus": ids} if ids else {}, notices=notices)


def _in_order(rows: Rows, across: list[str], down: list[str], source: Path) -> Rows:
    """The columns brought into the order of the rows by id, where each id stands once on either side."""
    if set(across) == set(down) and len(set(down)) == len(down) == len(across):
        place = {name: k for k, name in enumerate(across)}
        return [[row[place[name]] for name in down] for row in rows]
    k = next(k for k, pair in enumerate(zip(down, across, strict=False)) if pair[0] != pair[1])
    raise NeurordlError(
        f"{source}: the ids of rows and columns differ: number {k} (from 0) is {down[k]!r} before its "
        f"row and {across[k]!r} above its column; an RDM has the same stimuli both ways, each once (in any "
        "order)"
    )


def _has_ids(rows: Rows) -> tuple[bool, bool]:
    """Whether the first row and the first column hold ids: text, or numbers where nothing else fits."""
    height, width = len(rows), len(rows[0])
    column = [row[0] for row in rows]
    if height == width > 2:
        blank = not rows[0][0].strip()
        named = any(map(_is_text, [*rows[0][1:], *column[1:]]))
        alike = rows[0][1:] == column[1:] and bool(rows[1][1].strip())
        both = _is_text(rows[0][0]) or (blank and (named or alike))
        return both, both
    across = height == width + 1 and (any(map(_is_text, rows[0])) or _is_square(rows[1:]))
    down = width == height + 1 and (any(map(_is_text, column)) or _is_square([row[1:] for row in rows]))
    return across, down


def _is_square(rows: Rows) -> bool:
    """Whether the rows are a square RDM, or similarities: what stands beside it can only be ids."""
    if len(rows) < 2 or any(_is_text(cell) for row in rows for cell in row):
        return False
    return looks_square(np.array([[[_value(cell) for cell in row] for row in rows]]))


def _value(cell: str) -> float:
    return float("nan") if cell.strip().lower() in _MISSING else float(cell)


def _is_text(cell: str) -> bool:
    if cell.strip().lower() in _MISSING:
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return "_" in cell


def _number(cell: str, source: Path, row: int, column: int) -> float:
    if _is_text(cell):
        raise NeurordlError(
            f"{source} has the text {cell!r:.40} where a dissimilarity should be (row {row}, column "
            f"{column} of the values, from 0); expected numbers, and ids only around a square table"
            + ("; write decimals with a point" if _DECIMAL_COMMA.fullmatch(cell) else "")
        )
    return _value(cell)


def read_ids(source: Path) -> list[str]:
    """Ids in the order of an RDM's rows: a .txt with one a line, or the column id or stimulus of a table."""
    if not source.is_file():
        raise NeurordlError(f"there is no labels file {source}; check the path")
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise NeurordlError(f"cannot read ids from {source}: expected a .csv, .tsv or .txt file")
    if source.suffix.lower() == ".txt":
        return [line.strip() for line in read_text(source).splitlines() if line.strip()]
    rows = read_cells(source).rows
    head = [cell.strip() for cell in rows[0]]
    named = id_column(head)
    if named is None:
        columns = {name: [row[place].strip() for row in rows[1:]] for place, name in enumerate(head)}
        raise NeurordlError(
            f"{source} has no column 'id' or 'stimulus': its columns are {', '.join(head)}"
            + possible_ids(columns)
        )
    return [row[head.index(named)].strip() for row in rows[1:]]


def table_content(rdms: RDMs, delimiter: str) -> bytes:
    """One RDM, square, with its ids above and before; numbers are written so that they come back exactly."""
    ids = rdms.pattern_descriptors.get("stimulus")
    if wrong := [one for one in map(str, () if ids is None else ids) if one != one.strip() or not one]:
        raise NeurordlError(
            f"the id {wrong[0]!r} is blank or begins or ends with a blank, which does not come back from a "
            "table; change it, or write .h5"
        )
    matrix = matrix_of(np.asarray(rdms.dissimilarities)[0])
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    if ids is not None:
        writer.writerow(["stimulus", *ids])
    for k, row in enumerate(matrix.tolist()):
        writer.writerow([*([ids[k]] if ids is not None else []), *map(repr, row)])
    return file.getvalue().encode()
