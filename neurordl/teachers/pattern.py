"""Measured response patterns as a teacher: the RDM of any batch, on the fly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.arrays import Ints, is_dataset
from neurordl.errors import NeurordlError, notify
from neurordl.ids import Match, check_ids, natural_key
from neurordl.io import sha256_array, sha256_json
from neurordl.measures.condensed import pair_number
from neurordl.measures.dissimilarities import Dissimilarity, DissimilarityLike, find_dissimilarity
from neurordl.rdms.source import Center, Source, check_rates, check_runs
from neurordl.rsa.leaks import sketch, sketched
from neurordl.teachers.base import Batch, ById, Missing, Target, Teacher, sent
from neurordl.teachers.rdm import Pool, pool_subjects
from neurordl.validate import check_choice, check_number

if TYPE_CHECKING:
    from rsatoolbox.data.base import DatasetBase

Patterns: TypeAlias = "DatasetBase | tuple[npt.ArrayLike, Sequence[str]]"


class PatternTeacher(ById, Teacher):
    """Measured patterns as a teacher: each batch's RDM is computed from its patterns.

    No matrix of stimuli × stimuli is ever needed: a batch of b stimuli costs b rows of channels and b²
    distances, so tens of thousands of stimuli work, also from a memory map.

    Parameters
    ----------
    patterns : mapping of subject to rsatoolbox.data.Dataset, or to (array, ids); or a Dataset of one subject
        Measurements (rows, channels). A Dataset carries the observation descriptor ``stimulus`` and, where
        there are repeats, ``run``; rows of one stimulus are averaged. For crossnobis and poisson_cv they are
        averaged within each run, and distances are cross-validated across runs, also where stimuli were not
        measured equally often; the array may be a memory map. Where trials are no runs, number the repeats
        of each stimulus as ``run``: distances are then cross-validated across repeats.
    dissimilarity : str, Dissimilarity or callable
        A name in ``DISSIMILARITIES``, a `Dissimilarity`, or a function of patterns (n, channels).
    center : None, "run" or "all"
        None: patterns are not centered. "run": the mean pattern of each run is subtracted. "all": the mean of
        all rows is subtracted. Means are those of the training stimuli, computed when they are matched.
        Correlation and cosine depend on it.
    precision : array (channels, channels), or mapping of subject to array, optional
        Noise precision for mahalanobis and crossnobis.
    pool : {"mean", "zscore", "subjects"}
        As in `RDMTeacher`, for each batch.
    batches : {"subject", "shared"}
        If subjects saw different stimuli: draw each batch from one subject's stimuli, or from those that all
        of them saw.
    missing : {"error", "ignore"}
        "error": stimuli that no subject saw raise an error. "ignore": they are left out.
    min_reliability : float, optional
        Keep only the channels whose split-half reliability is at least this: the correlation of the means of
        odd and even measurements, over the training stimuli that have repeats. Held-out stimuli have no part
        in the choice, which is made when stimuli are matched. By default all channels are kept.

    Raises
    ------
    NeurordlError
        If ids, shapes or runs do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> patterns = np.random.default_rng(0).normal(size=(4, 20))
    >>> teacher = nrl.PatternTeacher({"s01": (patterns, list("abcd"))}, center="all")
    >>> teacher.match(["d", "a", "b"]).matched
    ('d', 'a', 'b')
    """

    def __init__(
        self,
        patterns: Mapping[str, Patterns] | DatasetBase,
        *,
        dissimilarity: DissimilarityLike = "correlation",
        center: Center | None = None,
        precision: npt.ArrayLike | Mapping[str, npt.ArrayLike] | None = None,
        pool: Pool = "mean",
        batches: Literal["subject", "shared"] = "subject",
        missing: Missing = "error",
        min_reliability: float | None = None,
    ) -> None:
        if min_reliability is not None:
            check_number("min_reliability", min_reliability, -1, 1)
            if precision is not None:
                raise NeurordlError(
                    "min_reliability= chooses channels, and precision= is of all of them; choose channels "
                    "first, and compute the precision of these"
                )
        self.min_reliability = min_reliability
        if is_dataset(patterns):
            patterns = {str(patterns.descriptors.get("subject", "unnamed")): patterns}
        if not isinstance(patterns, Mapping) or not patterns:
            raise NeurordlError("patterns: expected a mapping from subject to patterns: {'s01': dataset}")
        self.center = check_choice("center", center, (None, *get_args(Center)))
        self.batches = check_choice("batches", batches, ("subject", "shared"))
        self.pool, self.transformed = check_choice("pool", pool, get_args(Pool)), pool == "zscore"
        self.dissimilarity: Dissimilarity = find_dissimilarity(dissimilarity)
        measure = self.dissimilarity
        measure.check_precision(precision is not None)
        datasets = {str(name): _dataset(name, values) for name, values in patterns.items()}
        by_run = measure.needs_runs or center == "run"
        self._sources = {
            name: Source(datasets[name], f"subject {name}", by_run=by_run, dtype=np.float32, sums=np.float32)
            for name in sorted(datasets, key=natural_key)
        }
        ids = dict.fromkeys(stimulus for source in self._sources.values() for stimulus in source.ids)
        super().__init__(list(ids), missing, "patterns")
        self._unseen = {
            name: {row for row, stimulus in enumerate(self.ids) if stimulus not in source.numbers}
            for name, source in self._sources.items()
        }
        self.subjects = tuple(self._sources)
        self._functions: dict[str, Callable[..., Tensor]] = dict.fromkeys(self.subjects, measure)
        self._precision_sha256: dict[str, str] = {}
        if precision is not None:
            matrices = precision if isinstance(precision, Mapping) else dict.fromkeys(datasets, precision)
            for name, source in self._sources.items():
                if name not in matrices:
                    raise NeurordlError(f"precision: no matrix for {name}; give one for each subject")
                matrix = torch.as_tensor(np.asarray(matrices[name]), dtype=torch.float32)
                self._precision_sha256[name] = sha256_array(matrix)
                self._functions[name] = measure.with_precision(matrix, source.n_channels)
        self._sha256: dict[str, str] = {}
        self._n_channels = {name: source.n_channels for name, source in self._sources.items()}
        needs_stimuli = center is not None or min_reliability is not None
        self._centered = None if needs_stimuli else self._sources

    def prepare(self, ids: Sequence[str]) -> Match:
        """Match the training stimuli, check their patterns, and compute the mean that is removed."""
        match = self.match(ids)
        stimuli = [self.ids[row] for row in self.rows(match.matched)]  # of others in a permuted control
        centered = {}
        for name, source in self._sources.items():
            seen = [source.numbers[stimulus] for stimulus in stimuli if stimulus in source.numbers]
            numbers = np.array(seen, dtype=np.int64)
            if self.center is None:
                source.check_finite(numbers)
            if self.min_reliability is not None:
                source = self._reliable(source, numbers)
            self._n_channels[name] = source.n_channels
            centered[name] = source.centered(self.center, numbers)
        check_runs(list(centered.values()), self.dissimilarity)
        self._centered = centered
        return match

    def _reliable(self, source: Source, numbers: Ints) -> Source:
        """The channels of a source that are reliable over some of its stimuli."""
        assert self.min_reliability is not None
        reliability, n_stimuli = source.split_half(numbers)
        chosen = np.flatnonzero(reliability >= self.min_reliability)
        text = f"{len(chosen)} of {source.n_channels} channels have a split-half reliability of "
        text = f"{source.label}: {text}{self.min_reliability:g} or more over {n_stimuli} training stimuli"
        if n_stimuli < 3:
            raise NeurordlError(
                f"{source.label}: {n_stimuli} training stimuli have repeats, too few for a reliability; "
                "leave min_reliability= out"
            )
        if not len(chosen):
            best = float(np.nanmax(reliability, initial=-1.0))
            raise NeurordlError(f"{text}; the best has {best:.3g}: choose a smaller min_reliability=")
        notify(f"{text} with repeats; the others are left out")
        return source.of_channels(chosen)

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """Compute the RDMs of a batch's ids, one per subject or pooled; unmeasured pairs have weight 0."""
        if self._centered is None:
            raise NeurordlError("the teacher needs the training stimuli: call teacher.prepare(ids) first")
        names = [self.ids[row] if row >= 0 else "" for row in self.rows(batch.ids)]
        device = batch.images.device
        rdms = [self._rdm(name, source, names, device) for name, source in self._centered.items()]
        vectors = torch.stack(rdms)
        vectors = vectors.masked_fill(vectors.isinf(), torch.nan)
        return pool_subjects(self.pool, vectors, vectors.isfinite().to(vectors.dtype))

    def _rdm(self, subject: str, source: Source, names: Sequence[str], device: torch.device) -> Tensor:
        """Condensed RDM of one subject, on the device; NaN for stimuli that it did not see."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        vector = torch.full((len(names) * (len(names) - 1) // 2,), torch.nan, dtype=dtype, device=device)
        seen = np.array([place for place, name in enumerate(names) if name in source.numbers], dtype=np.int64)
        if len(seen) > 1:
            numbers = np.array([source.numbers[names[place]] for place in seen])
            patterns, options = self._patterns(source, numbers)
            patterns = check_rates(patterns, self.dissimilarity, source.label)
            options = {key: sent(option, device) for key, option in options.items()}
            values = self._functions[subject](sent(patterns, device), **options).to(dtype)
            row, column = np.triu_indices(len(seen), 1)
            pairs = np.flatnonzero(numbers[row] != numbers[column])  # a stimulus makes no pair with itself
            places = pair_number(seen[row], seen[column], len(names))[pairs]
            if len(pairs) == len(vector):
                return values
            from_pairs, to_places = (sent(torch.from_numpy(part), device) for part in (pairs, places))
            vector.index_copy_(0, to_places, values.index_select(0, from_pairs))
        return vector

    def _patterns(self, source: Source, numbers: Ints) -> tuple[Tensor, dict[str, Tensor]]:
        """(stimuli, channels); across runs (runs, stimuli, channels), with counts if they differ."""
        if not self.dissimilarity.needs_runs:
            return source.patterns(numbers), {}
        counts = source.counts[numbers]
        if self.dissimilarity.compact and (counts > 0).sum() * 2 < counts.any(axis=0).sum() * len(numbers):
            return source.compact(numbers)
        used = torch.from_numpy(np.flatnonzero(counts.any(axis=0)))
        patterns = source.by_run(numbers)
        patterns = patterns if len(used) == len(patterns) else patterns[used]
        if (counts[:, used] == counts[0, used[0]]).all():
            return patterns, {}
        if not self.dissimilarity.unbalanced:
            needed = f"{self.dissimilarity} needs each stimulus equally often in every run"
            repeats = f"{source.label} has {source.ids[numbers[0]]!r} in other runs than another stimulus"
            raise NeurordlError(f"{needed}, but {repeats}; leave one of them out")
        return patterns, {"counts": torch.from_numpy(counts.T).to(patterns)[used]}

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch: all, if all subjects saw them; else a subject's, or the shared ones."""
        known = [stimulus for stimulus in ids if stimulus in self._row]
        seen = [
            [stimulus for stimulus in known if self.ids[self._row[stimulus]] in source.numbers]
            for source in self._sources.values()
        ]
        shared = set(seen[0]).intersection(*seen[1:])
        if self.batches == "shared" and len(shared) < 3:
            raise NeurordlError(f"the subjects share {len(shared)} stimuli, too few; use batches='subject'")
        if self.batches == "shared" or all(len(group) == len(shared) for group in seen):
            return [[stimulus for stimulus in seen[0] if stimulus in shared]]
        return list({frozenset(group): group for group in seen if group}.values())

    def describe(self) -> dict[str, Any]:
        """Return the subjects, dissimilarity, centering, share of measured stimuli and checksums."""
        for name, source in self._sources.items():
            if name not in self._sha256:
                codes = [sha256_array(x) for x in (source.stimulus, source.run, source.measurements)]
                self._sha256[name] = sha256_json([source.ids, list(map(str, source.runs)), codes])
        shares = [len(source.ids) / len(self.ids) for source in self._sources.values()]
        return {
            "teacher": "PatternTeacher",
            "subjects": list(self.subjects),
            "pool": self.pool,
            "batches": self.batches,
            "dissimilarity": self.dissimilarity.name,
            "center": self.center,
            "min_reliability": self.min_reliability,
            "channels": dict(self._n_channels),
            "stimuli": len(self.ids),
            "measured_stimuli": float(np.mean(shares)),
            "control": self.control,
            "sha256": dict(self._sha256),
            "precision": self._precision_sha256,
        }

    def exposure(self) -> dict[str, Any]:
        """The subjects, and a part of their RDMs, as far as these are defined for stimuli of all runs."""
        ids, names, rdms = sketched(self.ids), [], []
        for name, source in (self._centered or {}).items():
            with suppress(NeurordlError):
                rdms.append(self._rdm(name, source, ids, torch.device("cpu")).numpy())
                names.append(name)
        return {"subjects": list(self.subjects), "rdms": [sketch(ids, np.stack(rdms), names)] if rdms else []}


def _dataset(name: str, patterns: Patterns) -> DatasetBase:
    """Return patterns as a Dataset; an array and its ids are not copied."""
    if is_dataset(patterns):
        return patterns
    if not isinstance(patterns, tuple | list) or len(patterns) != 2:
        problem = f"patterns of {name} are a {type(patterns).__name__}"
        problem += f" of {len(patterns)}" if isinstance(patterns, tuple | list) else ""
        remedy = "expected a Dataset, which can also have runs, or (array, ids)"
        raise NeurordlError(f"{problem}; {remedy}")
    values, ids = patterns
    repeats = "pass a Dataset, whose repeats are averaged: "
    repeats += 'rsatoolbox.data.Dataset(array, obs_descriptors={"stimulus": ids})'
    values, ids = np.asanyarray(values), check_ids(ids, f"patterns of {name}", repeats)
    if values.ndim != 2 or len(values) != len(ids):
        raise NeurordlError(f"patterns of {name} have shape {values.shape}: expected ({len(ids)}, channels)")
    from rsatoolbox.data import Dataset

    return Dataset(values, obs_descriptors={"stimulus": list(ids)})
