"""What an evaluation gives: a table of scores, what was matched with what, and how it was done."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.errors import NeurordlError
from neurordl.ids import Match
from neurordl.io import atomic_write, versions, write_json, write_text
from neurordl.measures.comparisons import Comparison, few_pairs
from neurordl.rsa.inference.infer import Inference
from neurordl.rsa.notes import repeated_layers, unmeasured

if TYPE_CHECKING:
    from rsatoolbox.inference import Result

__all__ = ["COLUMNS", "Evaluation"]

COLUMNS = (
    *("layer", "roi", "subject", "comparison", "score", "ci_low", "ci_high", "p", "p_fdr", "p_holm"),
    *("ceiling_lower", "ceiling_upper", "p_ceiling", "generalises_to"),
    *("n_subjects", "n_stimuli", "pairs", "fitted", "reason", "dissimilarity"),
)
_SHOWN = (
    *("layer", "roi", "subject", "score", "ci_low", "ci_high", "p", "p_fdr"),
    *("ceiling_lower", "ceiling_upper", "n_subjects", "fitted"),
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
        The choices made, the checksums of the inputs and the seeds, as saved.
    comparisons
        Each two layers of a ROI: the difference of their means, its 95 % interval, and two-sided p, alone and
        corrected over the ROI's pairs of layers (``p_fdr``: Benjamini & Hochberg; ``p_holm``).
    inferences
        By ROI, what lies behind: scores, evaluations of every resample, variances.
    models
        (layers, pairs) the layers' RDMs.
    """

    frame: pd.DataFrame
    match: Match
    settings: dict[str, Any] = field(default_factory=dict)
    comparisons: pd.DataFrame = field(default_factory=pd.DataFrame)
    inferences: Mapping[str, Inference] = field(default_factory=dict)
    models: npt.NDArray[np.float64] | None = None

    def to_frame(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.frame.copy()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the evaluation into a folder.

        ``scores.csv`` and ``comparisons.csv`` are the tables, ``evaluation.json`` has settings, versions and
        the match, and ``evaluation.h5`` what lies behind: a group for each ROI, with rsatoolbox's names and
        shapes.

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
        write_text(out / "comparisons.csv", self.comparisons.to_csv(index=False))
        self._save_arrays(out / "evaluation.h5")
        write_json(out / "evaluation.json", {**record, "versions": versions()})
        return out

    def _save_arrays(self, path: Path) -> None:
        # in memory first: on a full disk HDF5 ends the process when it closes the file
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs["layers"] = self.settings.get("layers", [])
            for place, (roi, found) in enumerate(self.inferences.items()):
                group = file.create_group(f"roi{place}")
                group.attrs["roi"] = roi
                for name, value in vars(found).items():
                    if isinstance(value, np.ndarray):
                        group[name] = value
                    elif value is not None:
                        group.attrs[name] = value.name if isinstance(value, Comparison) else value
        with atomic_write(path) as aside:
            aside.write_bytes(content.getbuffer())

    def to_rsatoolbox(self, roi: str | None = None) -> Result:
        """The evaluation of one ROI as rsatoolbox's ``Result``, for its tests and plots.

        Its variances are rsatoolbox's, of the resamples, also where those of the table are by components.

        Raises
        ------
        NeurordlError
            Several ROIs and none named, or one that is not there.
        """
        from rsatoolbox.inference import Result
        from rsatoolbox.model import ModelFixed

        if (roi is None and len(self.inferences) != 1) or (roi is not None and roi not in self.inferences):
            known = ", ".join(map(repr, self.inferences)) or "none"
            raise NeurordlError(f"to_rsatoolbox takes one ROI, and got {roi!r}; there are: {known}")
        found = self.inferences[roi] if roi is not None else next(iter(self.inferences.values()))
        layers = self.settings["layers"]
        assert self.models is not None
        models = [ModelFixed(name, rdm) for name, rdm in zip(layers, self.models, strict=True)]
        return Result(
            *(models, found.evaluations, found.comparison.name, found.cv_method, found.noise_ceiling),
            variances=found.variances,
            dof=found.dof,
            n_rdm=None if found.resample == "stimuli" else found.n_subjects,
            n_pattern=found.n_stimuli if found.resample in ("stimuli", "both") else None,
        )

    @property
    def title(self) -> str:
        """How it was compared, in a line."""
        chosen, means = self.settings, self.frame[self.frame["subject"] == "mean"]
        told = f"{chosen.get('comparison')}, {chosen.get('pairs')} pairs of {chosen.get('n_stimuli')} stimuli"
        if any(map(unmeasured, chosen.get("measured", {}).values())):
            told += ", as far as they were measured"
        if chosen.get("variance") == "components":
            told += ", variances by components"
        to = next(iter(means["generalises_to"]), "")
        return f"{told}; 95 % intervals and p (one-sided, above zero) generalise to {to}" if to else told

    @property
    def notes(self) -> list[str]:
        """Why something in the table of means is undefined or doubtful."""
        means = self.frame[self.frame["subject"] == "mean"]
        told: dict[tuple[str, str], list[str]] = {}
        for layer, roi, reason in means[["layer", "roi", "reason"]].itertuples(index=False):
            if reason:
                told.setdefault((roi, reason), []).append(layer)
        every = means["layer"].nunique()
        notes = self._of_pairs()
        if self.models is not None:
            notes += filter(None, [repeated_layers(self.settings["layers"], self.models)])
        for (roi, reason), layers in told.items():
            named = [layer or "output" for layer in layers] if len(layers) < every or every == 1 else []
            where = ", ".join([part for part in (roi, *named) if part])
            notes.append(f"{where}: {reason}" if where else reason)
        return notes

    def _of_pairs(self) -> list[str]:
        """Few pairs, and those that were not measured; once where it is the same in every ROI."""
        every = self.settings.get("measured", {})
        told: dict[str, list[str]] = {}
        for roi, found in every.items():
            resampled = self.settings["bootstrap"] in ("stimuli", "both")
            options: dict[str, Any] = {"resampled": resampled, "requested": found["asked"]}
            few = few_pairs(int(self.settings["n_stimuli"]), found["anyone"], **options)
            for note in filter(None, [few, unmeasured(found)]):
                told.setdefault(note, []).append(roi)
        return [
            note if len(rois) == len(every) else f"{', '.join(rois)}: {note}" for note, rois in told.items()
        ]

    def __str__(self) -> str:
        means = self.frame[self.frame["subject"].isin(["mean", "group"])]
        table = means[list(_SHOWN)].to_string(index=False, float_format="{:.3f}".format, na_rep="")
        return "\n".join([self.title, str(self.match), "", table, *self.notes])

    def _repr_html_(self) -> str:
        return str(
            self.frame[self.frame["subject"] == "mean"].to_html(index=False, float_format="{:.3f}".format)
        )
