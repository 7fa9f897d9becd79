"""Which of two ROIs is a layer more similar to: differences of ROIs, paired over subjects and stimuli."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from neurordl.arrays import Bools, Floats, Ints
from neurordl.measures.condensed import missing_groups
from neurordl.measures.kernels.similarities import Resampled
from neurordl.rsa.inference.infer import Inference, infer_study
from neurordl.rsa.inference.resampling import Resampling, Study
from neurordl.rsa.scores import MOST_ROIS, RoiScores

COLUMNS = ("layer", "roi_a", "roi_b", "difference", "ci_low", "ci_high", "p", "n_subjects", "n_pairs")


@dataclass(frozen=True, eq=False)
class _Joined(Study):
    """The layers in several ROIs as models of the same subjects, whose resamples are those of each ROI."""

    parts: Sequence[Study] = ()

    @classmethod
    def of(cls, parts: Sequence[Study]) -> _Joined:
        """Join studies of the same subjects, in one order, and of the same stimuli."""
        models, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in _STACKED)
        first = parts[0]
        return cls(models, first.data, first.comparison, scores, first.device, parts)

    @property
    def ceiling(self) -> tuple[float, float]:
        """The ROIs have no noise ceiling in common."""
        return np.nan, np.nan

    def resample(self, stimuli: Ints | None, sets: Ints) -> Resampled:
        """Similarities with the same draws in each ROI; see `Study.resample`."""
        shape = (*sets.shape[:2], 2)
        if stimuli is None:  # only ceilings are asked for
            return Resampled(np.empty((0, len(self.models), len(self.data))), np.full(shape, np.nan))
        none = np.empty((0, *sets.shape[1:]), dtype=sets.dtype)
        scores = np.concatenate([part.resample(stimuli, none).scores for part in self.parts], axis=1)
        return Resampled(scores, np.full(shape, np.nan))


_STACKED = ("models", "scores")


def roi_differences(
    results: Mapping[str, RoiScores],
    places: Mapping[str, tuple[str, float]],
    layers: Sequence[str],
    stimuli: Sequence[str],
) -> pd.DataFrame:
    """Compare the similarities of each layer in each two ROIs, at each time.

    Parameters
    ----------
    results
        Scores by place, a ROI or a ROI at a time.
    places
        The ROI of each place, and its time.
    layers, stimuli
        Names of the layers, and ids of the stimuli.

    Returns
    -------
    DataFrame
        A row for each layer and two ROIs with `COLUMNS` and ``time``; without rows of more than `MOST_ROIS`
        ROIs.
    """
    tables = []
    rois = {roi for roi, _ in places.values()}
    for time in dict.fromkeys(time for _, time in places.values()) if len(rois) <= MOST_ROIS else ():
        present = {roi: results[place] for place, (roi, at) in places.items() if at == time or at != at}
        like = results[next(iter(results))].inference
        for names, parts, subjects in _comparable(present) if len(present) > 1 else ():
            for rows, absent in _undefined(parts):
                known = [k for k, x in enumerate(subjects) if not absent[k]]
                chosen = [part.of_models(rows, np.zeros(part.data.shape[1], dtype=bool)) for part in parts]
                chosen = [_rows(part, known) for part in chosen] if known else chosen
                people, of_rows = [subjects[k] for k in known], [layers[k] for k in rows]
                tables.append(_between(names, chosen, people, of_rows, like, stimuli).assign(time=time))
    if not tables:
        return pd.DataFrame(columns=["time", *COLUMNS])
    order = {roi: k for k, roi in enumerate(dict.fromkeys(roi for roi, _ in places.values()))}
    table = pd.concat(tables, ignore_index=True)
    keys = [table["time"], table["layer"].map(list(layers).index)]
    keys += [table[name].map(order) for name in ("roi_a", "roi_b")]
    return table.iloc[np.lexsort(keys[::-1])].reset_index(drop=True)


def _comparable(
    results: Mapping[str, RoiScores],
) -> Iterator[tuple[list[str], list[Study], list[str]]]:
    """ROIs with the same subjects and pairs of stimuli together; else each two, on what both have."""
    chosen = {name: _of_mean(result) for name, result in results.items()}
    people = {name: tuple(sorted(subjects)) for name, (_, subjects) in chosen.items()}
    together = len(set(people.values())) == 1
    groups = [list(results)] if together else [list(pair) for pair in combinations(results, 2)]
    for names in groups:
        shared = [x for x in chosen[names[0]][1] if all(x in people[name] for name in names)]
        rows = [[chosen[name][1].index(x) for x in shared] or [0] for name in names]
        parts = [_rows(chosen[name][0], order) for name, order in zip(names, rows, strict=True)]
        if not shared:
            parts = [_without(part, np.full(part.data.shape, True)) for part in parts]
        missing = [np.isnan(part.data) for part in parts]
        scored = [np.isnan(part.scores) for part in parts]
        if all((x == xs[0]).all() for xs in (missing, scored) for x in xs):
            yield names, parts, shared
            continue
        for i, j in combinations(range(len(names)), 2):
            absent = missing[i] | missing[j]
            pair = [_without(parts[k], absent) for k in (i, j)]
            yield [names[i], names[j]], pair, shared


def _undefined(parts: Sequence[Study]) -> list[tuple[list[int], Bools]]:
    """Layers that have no score in a ROI for the same subjects, such as with a constant RDM, and for whom."""
    undefined = np.any([np.isnan(part.scores) for part in parts], axis=0)
    return missing_groups(np.where(undefined, np.nan, 0.0))


def _of_mean(result: RoiScores) -> tuple[Study, list[str]]:
    """The study of the subjects in the mean, and their names."""
    pooled = np.array(result.subjects.pooled)
    names = [name for name, use in zip(result.subjects.names, pooled, strict=True) if use]
    return result.study.of_subjects(pooled), names


def _rows(study: Study, order: Sequence[int] | Ints) -> Study:
    return replace(study, data=study.data[order], scores=study.scores[:, order])


def _without(study: Study, absent: Bools) -> Study:
    """The study on the pairs of each subject that are not absent, scored anew."""
    data = np.where(absent, np.nan, study.data)
    return Study(study.models, data, study.comparison, device=study.device)


def _between(
    names: Sequence[str],
    parts: Sequence[Study],
    subjects: Sequence[str],
    layers: Sequence[str],
    like: Inference,
    stimuli: Sequence[str],
) -> pd.DataFrame:
    """Rows of each layer and two of the ROIs; undefined where fewer than two subjects are in both."""
    n, resampling = len(layers), like.resampling
    i, j = (np.asarray(x) for x in zip(*combinations(range(len(names)), 2), strict=True))
    region = np.array(names, dtype=object)
    scored = [np.isfinite(part.scores) for part in parts]
    finite = [np.isfinite(part.data).any(axis=0) for part in parts]
    measured = np.isfinite(parts[0].models)
    columns: dict[str, npt.NDArray[Any]] = {
        "layer": np.tile(np.array(layers, dtype=object), len(i)),
        "roi_a": np.repeat(region[i], n),
        "roi_b": np.repeat(region[j], n),
        "n_subjects": np.concatenate(
            [(scored[a] & scored[b]).sum(axis=1) for a, b in zip(i, j, strict=True)]
        ),
        "n_pairs": np.concatenate(
            [(measured & finite[a] & finite[b]).sum(axis=1) for a, b in zip(i, j, strict=True)]
        ),
    }
    rows = [(a * n + k, b * n + k) for a, b in zip(i, j, strict=True) for k in range(n)]
    columns |= _inferred(parts, subjects, resampling, stimuli, np.array(rows))
    return pd.DataFrame(columns)[list(COLUMNS)]


def _inferred(
    parts: Sequence[Study],
    subjects: Sequence[str],
    resampling: Resampling,
    stimuli: Sequence[str],
    rows: Ints,
) -> Mapping[str, Floats]:
    """Difference, interval and p of pairs of rows of the joined study."""
    if len(subjects) < 1 + ("subjects" in resampling.factors):
        return dict.fromkeys(("difference", "ci_low", "ci_high", "p"), np.full(len(rows), np.nan))
    study = _Joined.of(parts)
    inference = infer_study(study, resampling, resampling.draw(subjects, stimuli))
    every = np.full((len(study.models),) * 2, -1)
    i, j = np.triu_indices(len(study.models), 1)
    every[i, j] = np.arange(len(i))
    place = every[rows[:, 0], rows[:, 1]]
    return {name: values[place] for name, values in inference.differences().items()}
