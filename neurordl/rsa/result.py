"""What an evaluation gives: a table of scores, what was matched with what, and how it was done."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from neurordl.artifacts import versions, write_json, write_text
from neurordl.errors import NeurordlError
from neurordl.matching import Match

__all__ = ["COLUMNS", "Evaluation"]

COLUMNS = (
    *("layer", "roi", "subject", "method", "score"),
    *("ci_low", "ci_high", "p", "ceiling_lower", "ceiling_upper"),
    *("n_subjects", "n_stimuli", "pairs", "fitted", "reason", "dissimilarity"),
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of layers against subjects, with what was matched and how it was done.

    Attributes
    ----------
    frame
        A row for each layer, ROI and subject, and one for the mean over subjects; columns ``COLUMNS``.
    match
        Which stimuli were matched with the RDMs.
    settings
        The choices made, the checksums of the inputs and the seed of the run, as saved.
    """

    frame: pd.DataFrame
    match: Match
    settings: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.frame.copy()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``scores.csv`` and ``evaluation.json`` (settings, versions, match) into a folder.

        Raises
        ------
        NeurordlError
            The folder or a file cannot be written; what was there stays.
        """
        out = Path(folder)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NeurordlError(f"cannot make the folder {out}: {error.strerror}; choose another") from error
        match = {name: list(getattr(self.match, name)) for name in ("matched", "missing", "unused")}
        record = {"settings": self.settings, "match": {**match, "reordered": self.match.reordered}}
        write_text(out / "scores.csv", self.frame.to_csv(index=False))
        write_json(out / "evaluation.json", {**record, "versions": versions()})
        return out

    def __str__(self) -> str:
        shown = [*COLUMNS[:2], *COLUMNS[4:11]]
        means = self.frame[self.frame["subject"] == "mean"]
        chosen = self.settings
        title = f"{chosen.get('method')}, {chosen.get('pairs')} pairs of {chosen.get('n_stimuli')} stimuli"
        table = means[shown].to_string(index=False, float_format="{:.3f}".format)
        told = means[means["reason"] != ""]
        notes = [f"{layer}: {reason}" for layer, reason in zip(told["layer"], told["reason"], strict=True)]
        return "\n".join([title, str(self.match), "", table, *notes])

    def _repr_html_(self) -> str:
        return str(
            self.frame[self.frame["subject"] == "mean"].to_html(index=False, float_format="{:.3f}".format)
        )
