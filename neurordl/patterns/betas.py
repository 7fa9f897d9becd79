"""Betas with a table: each volume with its row."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids
from neurordl.patterns.study import Study
from neurordl.patterns.tables import Table, entities, read_tsv, table_name

__all__ = ["betas_with_rows"]


def betas_with_rows(study: Study, table: Table, condition: str, named: Sequence[str]) -> Dataset:
    """Betas as they are, each volume with its row of the table.

    Parameters
    ----------
    study, table, condition
        As in `neurordl.read_patterns`.
    named
        Which of "run", "session" the caller named.
    """
    series, kept, told = study.read()
    values = np.concatenate(series)
    place = np.repeat(np.arange(len(series)), [len(one) for one in series])  # the image of each volume
    name = table_name(table, 0)
    frame = read_tsv(table, name)
    column = "stimulus" if "stimulus" in frame else condition
    if column not in frame:
        raise NeurordlError(
            f"{name} has no column 'stimulus' nor {condition!r}, but {', '.join(map(str, frame.columns))}"
        )
    if "image" in frame:
        files = [Path(file).name for file in study.names]
        wanted = [Path(str(image)).name for image in frame["image"]]
        if len(values) != len(files):
            raise NeurordlError("a table with the column 'image' names 3D images, and some here are 4D")
        match = match_ids(wanted, files, names=("rows of the table", "images"))
        values, place = values[match.index], place[match.index]
        if match.unused:
            lost = f"{len(match.unused)} images are in no row of {name} and were left out, "
            warnings.warn(lost + f"such as {match.unused[0]}", UserWarning, stacklevel=3)
    elif len(frame) != len(values):
        raise NeurordlError(
            f"{name} has {len(frame)} rows, and the images have {len(values)} volumes; give "
            "one row per volume, or name the 3D image of each row in a column 'image'"
        )
    if frame[column].isna().any():
        raise NeurordlError(f"{name} has rows without a {column}; leave those volumes out")
    if both := [one for one in named if one in frame]:
        raise NeurordlError(f"{both[0]} is a column of {name} and an argument; give one of them")
    _agree(frame, name, study, place)
    rows = {str(key): cells.tolist() for key, cells in frame.items() if key != column}
    rows["stimulus"] = [str(value) for value in frame[column]]
    # images of one volume each are no runs, unless their names or runs= say so
    told_runs = "run" in named or all("run" in entities(file) for file in study.names)
    if "run" not in frame and (told_runs or (len(series) > 1 and len(values) > len(series))):
        rows["run"] = [study.runs[k] for k in place]
    if "session" not in frame and study.sessions is not None:
        rows["session"] = [study.sessions[k] for k in place]
    made: dict[str, Any] = {"model": "betas", "table": Path(name).name, **told}
    return study.dataset(values, rows, kept, made)


def _agree(frame: pd.DataFrame, name: str, study: Study, place: npt.NDArray[np.intp]) -> None:
    """Refuse rows whose subject, session or run is another than that of their image's name."""
    of_files = [entities(file) for file in study.names]
    for column, key in (("subject", "sub"), ("session", "ses"), ("run", "run")):
        for row, value in enumerate(frame.get(column, ())):
            there = of_files[place[row]].get(key)
            if there is not None and not pd.isna(value) and _bare(value, key) != _bare(there, key):
                raise NeurordlError(
                    f"row {row + 1} of {name} (from 1) has {column} {value}, and its volume is of "
                    f"{Path(study.names[place[row]]).name}; give the images in the order of the rows (run-10 "
                    "sorts before run-2), or name them in a column 'image'"
                )


def _bare(value: object, key: str) -> str:
    """A name without its entity, the session before it, zeros in front and a fraction of 0."""
    text = re.sub("^(sub-[^_]+_)?(ses-[^_]+_)?", "", str(value)) if key == "run" else str(value)
    text = text.removeprefix(f"{key}-")
    return re.sub(r"\.0$", "", text).lstrip("0")
