"""Measured response patterns as a teacher: the RDM of any batch, on the fly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data import Dataset
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import Match, check_ids, natural_key
from neurordl.io import sha256_array
from neurordl.measures.dissimilarities import DissimilarityLike, find_dissimilarity
from neurordl.measures.kernels.distances import exact_product, factor_of
from neurordl.teachers.base import Batch, ById, Missing, Target
from neurordl.teachers.rdm import Pool, pool_subjects

Centre = Literal["run", "all"]
Means = dict[Any, npt.NDArray[np.float32]]
_ROWS_AT_ONCE = 256


class _Subject:
    """One subject's patterns, which stay where they are (a memory map is read row by row)."""

    def __init__(self, name: str, patterns: Dataset | tuple[npt.ArrayLike, Sequence[str]]) -> None:
        if isinstance(patterns, Dataset):
            if "stimulus" not in patterns.obs_descriptors:
                raise NeurordlError(
                    f"the patterns of {name} lack the observation descriptor 'stimulus'; add the ids"
                )
            values: Any = patterns.measurements
            stimuli = [str(stimulus) for stimulus in patterns.obs_descriptors["stimulus"]]
            runs: list[Any] | None = (
                list(patterns.obs_descriptors["run"]) if "run" in patterns.obs_descriptors else None
            )
        else:
            values, ids = patterns
            values = values if isinstance(values, np.ndarray) else np.asarray(values)
            stimuli, runs = list(check_ids(ids, f"patterns of {name}")), None
        if values.ndim != 2 or len(values) != len(stimuli):
            raise NeurordlError(
                f"the patterns of {name} have shape {values.shape}: expected ({len(stimuli)}, channels), a "
                "row for each id"
            )
        self.name, self.values, self.runs = (
            name,
            values,
            np.zeros(len(stimuli)) if runs is None else np.asarray(runs),
        )
        self.has_runs = runs is not None
        self.rows: dict[str, list[int]] = {}
        for row, stimulus in enumerate(stimuli):
            self.rows.setdefault(stimulus, []).append(row)
        if self.has_runs:  # the same order of runs for each stimulus, whatever the order of the rows
            order = np.unique(self.runs, return_inverse=True)[1]
            for rows in self.rows.values():
                rows.sort(key=lambda row: int(order[row]))

    def blocks(self, rows: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.float32]]:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            yield np.asarray(self.values[rows[start : start + _ROWS_AT_ONCE]], dtype=np.float32)

    def means(self, ids: Sequence[str], centre: Centre | None) -> Means:
        """Mean pattern of the training stimuli, over all rows or in each run; never of a batch.

        Every training row is read once, so this is also where a pattern with holes is found.
        """
        rows = np.array(
            sorted(row for stimulus in ids for row in self.rows.get(stimulus, [])), dtype=np.int64
        )
        found: Means = {}
        for run in np.unique(self.runs[rows]).tolist() if centre == "run" else [None]:
            chosen = rows if run is None else rows[self.runs[rows] == run]
            total = sum(block.sum(axis=0, dtype=np.float64) for block in self.blocks(chosen))
            if not np.isfinite(total).all():
                raise NeurordlError(
                    f"the patterns of {self.name} hold NaN or infinity in {int((~np.isfinite(total)).sum())} "
                    "channels; leave those channels (or the stimuli) out"
                )
            found[run] = np.asarray(total / max(len(chosen), 1), dtype=np.float32)
        return found

    def read(
        self, rows: npt.NDArray[np.int64], centre: Centre | None, means: Means
    ) -> npt.NDArray[np.float32]:
        """Rows in float32, less the mean pattern where one is removed; any leading shape."""
        values = np.asarray(self.values[rows.ravel()], dtype=np.float32)
        if centre == "all":
            values = values - means[None]
        elif centre == "run":
            runs = self.runs[rows.ravel()].tolist()
            if unknown := sorted({str(run) for run in runs if run not in means}):
                raise NeurordlError(
                    f"center='run': no training stimulus of {self.name} is in run {', '.join(unknown)}, so "
                    "its mean pattern is not known; use center='all'"
                )
            values = values - np.stack([means[run] for run in runs])
        return values.reshape(*rows.shape, -1)


class PatternTeacher(ById):
    """Measured patterns as a teacher: each batch's RDM is computed from its patterns.

    No matrix of stimuli × stimuli is ever held: a batch of b stimuli costs b rows of channels and b²
    distances, so tens of thousands of stimuli work, also from a memory map.

    Parameters
    ----------
    patterns : mapping of subject to rsatoolbox.data.Dataset, or to (array, ids); or a Dataset of one subject
        Measurements (rows, channels). A Dataset carries the observation descriptor ``stimulus`` and, where
        there are repeats, ``run``; rows of one stimulus are averaged (for crossnobis and poisson_cv: one row
        in each run). The array may be a memory map.
    dissimilarity : str or callable
        A name in ``DISSIMILARITIES``, or a function of patterns (n, channels).
    center : None, "run" or "all"
        Remove no mean pattern, that of each run, or that of all rows; over the training stimuli, computed
        when they are matched. Correlation and cosine depend on it.
    precision : array (channels, channels), or mapping of subject to array, optional
        Noise precision for mahalanobis and crossnobis.
    pool : {"mean", "zscore", "subjects"}
        As in `RDMTeacher`, for each batch.
    batches : {"subject", "shared"}
        Where subjects saw different stimuli: draw each batch within one subject's stimuli, or from those that
        all of them saw.
    missing : {"error", "ignore"}
        What to do with stimuli that no subject saw.

    Raises
    ------
    NeurordlError
        If ids, shapes or runs do not fit.
    """

    def __init__(
        self,
        patterns: Mapping[str, Dataset | tuple[npt.ArrayLike, Sequence[str]]] | Dataset,
        *,
        dissimilarity: DissimilarityLike = "correlation",
        center: Centre | None = None,
        precision: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
        pool: Pool = "mean",
        batches: Literal["subject", "shared"] = "subject",
        missing: Missing = "error",
    ) -> None:
        if isinstance(patterns, Dataset):
            patterns = {str(patterns.descriptors.get("subject", "unnamed")): patterns}
        if not isinstance(patterns, Mapping) or not patterns:
            raise NeurordlError(
                "patterns: expected a mapping from subject to patterns, such as {'s01': dataset}"
            )
        if center not in (None, *get_args(Centre)) or batches not in ("subject", "shared"):
            raise NeurordlError(
                f"center={center!r}, batches={batches!r}: expected None, 'run' or 'all', and 'subject' or "
                "'shared'"
            )
        named = {str(name): given for name, given in patterns.items()}
        self._subjects = [_Subject(name, named[name]) for name in sorted(named, key=natural_key)]
        ids = list(dict.fromkeys(stimulus for one in self._subjects for stimulus in one.rows))
        super().__init__(ids, missing, "patterns")
        self.subjects = tuple(one.name for one in self._subjects)
        self.dissimilarity = find_dissimilarity(dissimilarity)
        self.transformed = pool == "zscore"
        self.center, self.pool, self.batches = center, pool, batches
        if precision is not None and self.dissimilarity.precision == "none":
            raise NeurordlError(f"{self.dissimilarity} takes no precision=; leave it out")
        if precision is None and self.dissimilarity.precision == "required":
            raise NeurordlError(
                f"dissimilarity={self.dissimilarity.name!r} needs precision=, a matrix of the channels"
            )
        matrices = _by_subject(precision, self.subjects)
        self._precision_sha256 = {name: sha256_array(matrix) for name, matrix in matrices.items()}
        self._measure = self.dissimilarity
        if self.dissimilarity.precision == "required":
            self._measure = find_dissimilarity("euclidean")
        # Factored once, not at each batch, where that would take a hundred times as long as all the rest.
        self._factors: dict[str, Tensor] = {}
        for one in self._subjects:
            if (center == "run" or self.dissimilarity.needs_runs) and not one.has_runs:
                raise NeurordlError(
                    f"the patterns of {one.name} lack the observation descriptor 'run', which is needed here"
                )
            if one.name in matrices:
                self._factors[one.name] = factor_of(matrices[one.name], one.values.shape[1]).float()
        self._sha256: dict[str, str] = {}
        self._means: dict[str, Means] | None = None

    def prepare(self, ids: Sequence[str]) -> Match:
        """Match the training stimuli, look for holes in their patterns, compute the mean that is removed."""
        match = super().prepare(ids)
        true = [self._true(stimulus) for stimulus in match.matched]
        self._means = {one.name: one.means(true, self.center) for one in self._subjects}
        return match

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDMs of the ids of a batch, one a subject or pooled; unmeasured pairs have weight 0."""
        if self._means is None and self.center is not None:
            raise NeurordlError(
                "center= needs the training stimuli: call teacher.prepare(ids) before the first step"
            )
        names = [self.ids[row] if row >= 0 else "" for row in self.rows(batch.ids)]
        device = batch.images.device
        vectors = np.stack([self._rdm(one, names, device) for one in self._subjects]).astype(np.float64)
        weights = np.isfinite(vectors).astype(np.float64)
        pooled, weights = pool_subjects(vectors, weights, self.pool)
        rdms = torch.from_numpy(np.nan_to_num(pooled, nan=0.0)).float()
        return Target(rdms.to(device), torch.from_numpy(weights).float().to(device))

    def _rdm(self, one: _Subject, names: Sequence[str], device: torch.device) -> npt.NDArray[np.float32]:
        """Condensed RDM of one subject; NaN where a stimulus was not seen."""
        n = len(names)
        seen = np.array(
            [place for place, stimulus in enumerate(names) if stimulus in one.rows], dtype=np.int64
        )
        square = np.full((n, n), np.nan, dtype=np.float32)
        i, j = np.triu_indices(len(seen), 1)
        if len(seen) > 1:
            values = torch.from_numpy(self._patterns(one, [names[place] for place in seen])).to(device)
            if one.name in self._factors:
                factor = self._factors[one.name] = self._factors[one.name].to(device)
                values = exact_product(values - values.mean(-2, keepdim=True), factor)
            square[seen[i], seen[j]] = self._measure(values).cpu().numpy()
            same = np.unique(names, return_inverse=True)[1]
            square[same[:, None] == same] = np.nan  # a stimulus that came twice makes no pair with itself
        return square[np.triu_indices(n, 1)]

    def _patterns(self, one: _Subject, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """(stimuli, channels), repeats averaged; across runs (runs, stimuli, channels)."""
        means = self._means[one.name] if self._means is not None else {}
        rows = [one.rows[stimulus] for stimulus in names]
        if self.dissimilarity.needs_runs:
            runs = [tuple(one.runs[row] for row in repeats) for repeats in rows]
            if len(set(runs)) > 1 or len(set(runs[0])) < len(runs[0]):
                raise NeurordlError(
                    f"{self.dissimilarity} needs each stimulus once in every run, but {one.name} has other "
                    f"repeats for {names[0]!r} than for another stimulus; average within runs or drop it"
                )
            return one.read(np.array(rows).T, self.center, means)
        if len({len(repeats) for repeats in rows}) == 1:
            return np.asarray(one.read(np.array(rows), self.center, means).mean(axis=1))
        return np.stack([one.read(np.array(repeats), self.center, means).mean(axis=0) for repeats in rows])

    def _unseen(self) -> Mapping[str, Set[int]]:
        return {
            one.name: {row for row, stimulus in enumerate(self.ids) if stimulus not in one.rows}
            for one in self._subjects
        }

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch: all, if all subjects saw them; else a subject's, or the shared ones."""
        seen = [
            [stimulus for stimulus in ids if stimulus in self._row and self._true(stimulus) in one.rows]
            for one in self._subjects
        ]
        if self.batches == "shared" or all(set(group) == set(seen[0]) for group in seen):
            shared = set(seen[0]).intersection(*seen[1:])
            if self.batches == "shared" and len(shared) < 3:
                raise NeurordlError(
                    f"the subjects share {len(shared)} of the stimuli, too few for a batch; use "
                    "batches='subject'"
                )
            return [[stimulus for stimulus in seen[0] if stimulus in shared]]
        unique = {frozenset(group): group for group in seen if group}
        return list(unique.values())

    def _true(self, stimulus: str) -> str:
        """The stimulus whose patterns stand for an id (another one in a permuted control)."""
        return self.ids[self._row[stimulus]]

    def describe(self) -> dict[str, Any]:
        """Kind, subjects, measure, centring, share of measured stimuli and checksums."""
        for one in self._subjects:
            if one.name not in self._sha256:
                self._sha256[one.name] = sha256_array(one.values)
        return {
            "teacher": "PatternTeacher",
            "subjects": list(self.subjects),
            "pool": self.pool,
            "batches": self.batches,
            "dissimilarity": self.dissimilarity.name,
            "center": self.center,
            "stimuli": len(self.ids),
            "measured_stimuli": float(np.mean([len(one.rows) / len(self.ids) for one in self._subjects])),
            "control": self.control,
            "sha256": dict(self._sha256),
            "precision": self._precision_sha256,
        }


def _by_subject(precision: Any, subjects: Sequence[str]) -> dict[str, Tensor]:
    if precision is None:
        return {}
    given = precision if isinstance(precision, Mapping) else dict.fromkeys(subjects, precision)
    if absent := [name for name in subjects if name not in given]:
        raise NeurordlError(f"precision: no matrix for {', '.join(absent)}")
    return {name: torch.as_tensor(np.asarray(given[name]), dtype=torch.float32) for name in subjects}
