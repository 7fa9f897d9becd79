"""Tables of what is known of each stimulus, by id."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids, id_column, match_ids, natural_key

__all__ = ["labels_of", "read_table", "table_of"]


def read_table(table: str | os.PathLike[str] | pd.DataFrame, id: str, *needed: str) -> pd.DataFrame:
    """Read a CSV or TSV (by its suffix), or copy a DataFrame, and index it by the column ``id``.

    Where ``id`` is "id" the column may also be called stimulus; in a DataFrame the ids may be its index.
    Ids stay text ("007", "NA"); in other columns blanks are missing values and numbers become numbers.

    Raises
    ------
    NeurordlError
        The file cannot be read, a column is missing, or ids are not unique text.
    """
    named = "the table" if isinstance(table, pd.DataFrame) else str(table)
    frame = table.copy() if isinstance(table, pd.DataFrame) else _read_text(Path(table))
    indexed = isinstance(table, pd.DataFrame) and not pd.api.types.is_numeric_dtype(frame.index)
    if id == "id" and not (indexed and id not in frame.columns):
        id = id_column(frame.columns) or id
    if isinstance(table, pd.DataFrame) and id not in frame.columns:
        frame = frame.rename_axis(id).reset_index()
    if absent := [name for name in (id, *needed) if name not in frame.columns]:
        raise NeurordlError(
            f"{named} has no column {absent[0]!r}: its columns are {', '.join(map(str, frame.columns))}"
            + ("; use commas between them, not semicolons" if ";" in str(frame.columns[0]) else "")
        )
    check_ids(frame[id], f"rows of {named}")
    frame = frame.set_index(id)
    return frame if isinstance(table, pd.DataFrame) else _typed(frame)


def _read_text(path: Path) -> pd.DataFrame:
    separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        return pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        raise NeurordlError(
            f"cannot read the table {path}: {error}; expected CSV or TSV text in UTF-8"
        ) from error


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of text, as numbers where all of them are; blanks are missing."""
    typed = frame.mask(frame == "", np.nan)
    for name in typed.columns:
        with suppress(ValueError, TypeError):
            typed[name] = pd.to_numeric(typed[name])
    return typed


def table_of(table: str | os.PathLike[str] | pd.DataFrame | None, ids: Sequence[str]) -> pd.DataFrame:
    """The rows of a table for ``ids``, in their order; an id without a row is an error."""
    if table is None:
        return pd.DataFrame(index=list(ids))
    named = "rows of the table" if isinstance(table, pd.DataFrame) else f"rows of {table}"
    frame = read_table(table, "id")
    return frame.iloc[match_ids(ids, frame.index, names=("stimuli", named)).index]


def labels_of(
    table: pd.DataFrame, column: str = "label", classes: Sequence[str] | None = None
) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """A column as labels, int64, and the names of the classes, where it holds text; None where there is none.

    Whole numbers stay as they are; text is numbered in the order of ``classes``, else in natural order of the
    names that are there.

    Raises
    ------
    NeurordlError
        A stimulus has no label (named), a number is not whole, or a name is not among the classes.
    """
    if column not in table.columns:
        return None, None
    values = table[column]
    if absent := table.index[values.isna() | (values.astype(str) == "")].tolist():
        raise NeurordlError(
            f"{len(absent)} stimuli have no label, such as {absent[0]!r}; label them or leave them out"
        )
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)
        if (numbers % 1 != 0).any():
            raise NeurordlError(
                f"labels must be whole numbers or names, but one is {numbers[numbers % 1 != 0][0]}"
            )
        return torch.from_numpy(numbers.astype(np.int64)), None
    names = values.astype(str)
    known = tuple(classes) if classes is not None else tuple(sorted(set(names), key=natural_key))
    if unknown := sorted(set(names) - set(known), key=natural_key):
        raise NeurordlError(f"label {unknown[0]!r} is not among the classes ({', '.join(known[:10])})")
    number = {name: place for place, name in enumerate(known)}
    return torch.tensor([number[name] for name in names]), known
