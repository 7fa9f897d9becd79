"""Tables of text, .csv and .tsv: RDMs square or condensed, with or without ids, and lists of ids."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.ids import is_missing, possible_ids
from neurordl.io import DECIMAL_COMMA, is_number, read_cells, read_frame, read_text
from neurordl.rdms.files.content import Format, RDMContent, looks_square, n_stimuli, unstorable
from neurordl.validate import listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

_MISSING = ("", "na", "nan", "n/a")
_DESCRIPTORS = {
    "subject": "subject",
    "subjects": "subject",
    "participant": "subject",
    "participant_id": "subject",
}
_DESCRIPTORS |= {"roi": "roi", "session": "session"}
Rows = list[list[str]]


def _read(source: Path, _: str | None) -> RDMContent:
    """Read a square RDM with ids in its first row, its first column, both or neither; or condensed RDMs."""
    cells, decimal_commas = read_cells(source, uneven="keep")
    cells = _fill(_without_last_commas(cells))
    rows = [[cell.replace(",", ".") for cell in row] for row in cells] if decimal_commas else cells
    across, down = _has_ids(rows)
    content = RDMContent(None, "square" if across and down else None)
    if not (across or down):
        start, n_columns = _describe(content, rows, cells)
        rows = [row[n_columns:] for row in rows[start:]]
        if n_columns and len(rows) > 1 and len(rows[0]) == 1:
            names = f"{n_columns} columns of names and one of values, as with a row for each pair"
            raise NeurordlError(f"it has {names}; write a square table with ids instead")
    # ids as they are written, with their commas
    columns = [cell.strip() for cell in cells[0][down:]] if across else []
    ids = [row[0].strip() for row in cells[across:]] if down else columns
    rows = [row[down:] for row in rows[across:]]
    if across and down and ids != columns:
        rows = _reorder_columns(rows, columns, ids)
    values = [[_number(cell, i, j) for j, cell in enumerate(row)] for i, row in enumerate(rows)]
    content.values = np.array(values)
    if ids:
        content.pattern_descriptors["stimulus"] = ids
    if decimal_commas:
        content.notices.append("it was read with semicolons between cells and decimal commas")
    return content


def _without_last_commas(rows: Rows) -> Rows:
    """Rows without last columns of blanks, if only separators at the ends of the lines can have made them."""
    width = used = len(rows[0])
    if any(len(row) != width for row in rows):
        return rows
    while used > 2 and not any(row[used - 1].strip() for row in rows):
        used -= 1
    has_ids = all(_is_text(row[0]) for row in rows)
    is_square = any(_is_square([row[has_ids:k] for row in rows]) for k in range(used, width))
    fits = width == len(rows) + has_ids or (n_stimuli(width - has_ids) is not None and not is_square)
    return rows if fits and not any(map(_is_text, rows[0][1:])) else [row[:used] for row in rows]


def _fill(rows: Rows) -> Rows:
    """Rows of one length, of R's table without a cell above the row names, or of a lower triangle.

    The rows of a lower triangle end at the diagonal, or before it if they begin with ids.
    """
    widths = [len(row) for row in rows]
    if len(set(widths)) == 1:
        return rows
    if set(widths[1:]) == {widths[0] + 1}:
        return [["", *rows[0]], *rows[1:]]
    start = 0 if widths[1] == widths[0] + 1 else 1
    header, body = rows[:start], rows[start:]
    has_ids = all(_is_text(row[0]) for row in body)
    width = len(body) + has_ids
    header = [["", *row] if has_ids and len(row) == len(body) else row for row in header]
    ends = {len(row) - number for number, row in enumerate(body)}
    at_diagonal = ends == {1 + has_ids} and all(_is_diagonal(row[-1]) for row in body)
    if (
        len(body) > 2
        and (at_diagonal or (has_ids and ends == {1}))
        and {len(row) for row in header} <= {width}
    ):
        return [*header, *(row + [""] * (width - len(row)) for row in body)]
    number = next(k for k, length in enumerate(widths) if length != widths[0])
    lengths = f"row {number} (from 0) has {widths[number]} cells, but the first has {widths[0]}"
    remedy = "write rows of one length, or a lower triangle whose rows end at a diagonal of zeros"
    raise NeurordlError(f"{lengths}; {remedy}")


def _is_diagonal(cell: str) -> bool:
    return not _is_text(cell) and (math.isnan(value := _value(cell)) or value in (0, 1))


def _describe(content: RDMContent, rows: Rows, cells: Rows) -> tuple[int, int]:
    """Read what stands above and before condensed RDMs: how many rows, and how many columns."""
    width, body = len(rows[0]), rows[1:]
    if not body or _is_square(rows):
        body = rows
    counts = [[str(k + first) for k in range(max(width, len(rows)))] for first in (0, 1)]
    # numbers that count the pairs, as pandas writes them, or a name for each of them
    counted = any(rows[0][k:] == numbers[: width - k] for k in (0, 1) for numbers in counts if width - k >= 6)
    named = _is_text(rows[0][-1]) and all(map(_is_text, rows[0][1:])) and not _is_text(body[0][-1])
    named = named and not is_number(rows[0][0])
    header = body is not rows and (counted or named)
    names = [cell.strip().lower() for cell in rows[0]] if header else [""] * width
    body = body if header else rows
    n_columns = 0
    while n_columns < width - 1:
        column = [row[n_columns].strip() for row in body]
        is_count = header and not names[n_columns] and column in [numbers[: len(body)] for numbers in counts]
        name = _DESCRIPTORS.get(names[n_columns], names[n_columns])
        if not (is_count or name in _DESCRIPTORS or all(map(_is_name, column))):
            break
        if not is_count:
            texts = [row[n_columns].strip() for row in cells[header:]]
            content.rdm_descriptors[name or "subject"] = texts
            if not name:
                content.notices.append(
                    f"its column {n_columns} (from 0) was read as subjects: {listed(texts)}"
                )
        n_columns += 1
    if header:
        pairs = rows[0][n_columns:]
        content.notices.append(
            f"its first row names {len(pairs)} pairs ({listed(pairs, 2)}) and is not read: pairs are taken "
            "row by row, (0, 1), (0, 2), ..."
        )
    return int(header), n_columns


def _reorder_columns(rows: Rows, columns: list[str], ids: list[str]) -> Rows:
    """Bring the columns into the order of the rows by id, where each id occurs once on either side."""
    if set(columns) == set(ids) and len(set(ids)) == len(ids) == len(columns):
        position = {name: k for k, name in enumerate(columns)}
        return [[row[position[name]] for name in ids] for row in rows]
    if columns[1:] == ids[:-1]:
        problem = f"its columns begin with {columns[0]!r} and its rows with {ids[0]!r}, as R prints a dist"
        raise NeurordlError(f"{problem}; write as.matrix(d), with all stimuli both ways")
    k = next(k for k, pair in enumerate(zip(ids, columns, strict=False)) if pair[0] != pair[1])
    pair = f"number {k} (from 0) is {ids[k]!r} before its row and {columns[k]!r} above its column"
    remedy = "an RDM has the same stimuli both ways, each once (in any order)"
    raise NeurordlError(f"the ids of rows and columns differ: {pair}; {remedy}")


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
    if len(rows) < 2 or len(rows) != len(rows[0]) or any(_is_text(cell) for row in rows for cell in row):
        return False
    return looks_square(np.array([[[_value(cell) for cell in row] for row in rows]]))


def _value(cell: str) -> float:
    return float("nan") if cell.strip().lower() in _MISSING else float(cell)


def _is_text(cell: str) -> bool:
    return cell.strip().lower() not in _MISSING and not is_number(cell)


def _is_name(cell: str) -> bool:
    """Whether a cell is text with a letter, and no number that is written in another way."""
    return _is_text(cell) and any(map(str.isalpha, cell))


def _number(cell: str, row: int, column: int) -> float:
    if _is_text(cell):
        comma = "; write decimals with a point" if DECIMAL_COMMA.fullmatch(cell) else ""
        place = f"row {row}, column {column} of the values, from 0"
        problem = f"it has the text {cell!r:.40} where a dissimilarity should be ({place})"
        raise NeurordlError(f"{problem}; expected numbers, and ids only around a square table{comma}")
    return _value(cell)


def read_names(source: Path, columns: Sequence[str]) -> list[str]:
    """Read ids or other names in their order, from the lines of a .txt or a column of a table.

    Parameters
    ----------
    source
        The file.
    columns
        Names of the column; the first that the table has is read.
    """
    noun = f"{columns[0]}s"
    if source.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise NeurordlError(f"cannot read {noun} from {source}: expected a .csv, .tsv or .txt file")
    if source.suffix.lower() == ".txt":
        return [line.strip() for line in read_text(source).splitlines() if line.strip()]
    frame = read_frame(source, keep=columns)
    name = next((column for column in columns if column in frame), None)
    if name is None:
        wanted = " or ".join(map(repr, columns))
        problem = f"{source} has no column {wanted}: its columns are {', '.join(frame.columns)}"
        use = f"rename it to {columns[-1]!r}"
        raise NeurordlError(
            problem + possible_ids({column: frame[column] for column in frame.columns}, use, noun)
        )
    if blank := [number for number, text in enumerate(frame[name], start=1) if is_missing(text)]:
        raise NeurordlError(f"{source}: row {blank[0]} (from 1, below the header) has no {name}; fill it in")
    return [text.strip() for text in frame[name]]


def _write(rdms: RDMs, delimiter: str) -> bytes:
    """Store one RDM, square, with its ids above and before it; its numbers come back exactly."""
    ids = list(map(str, rdms.pattern_descriptors.get("stimulus", ())))
    for text in ids:
        if text != text.strip() or not text:
            problem = f"the id {text!r} is blank or begins or ends with a blank"
            raise unstorable("pattern_descriptors/stimulus", ".csv", problem)
        if delimiter == "\t" and "\t" in text:
            raise unstorable("pattern_descriptors/stimulus", ".tsv", f"the id {text!r} has a tab")
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerows([["stimulus", *ids]] if ids else [])
    matrix = squareform(np.asarray(rdms.dissimilarities)[0], checks=False)
    for k, row in enumerate(matrix.tolist()):
        writer.writerow([*ids[k : k + 1], *map(repr, row)])
    return file.getvalue().encode()


CSV = Format((".csv",), _read, partial(_write, delimiter=","), keeps=("stimulus",), single=True)
TSV = Format((".tsv",), _read, partial(_write, delimiter="\t"), keeps=("stimulus",), single=True)
