"""What a report says of clusters of times, onsets and peaks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from neurordl.errors import NeurordlError
from neurordl.report.page import Table, number
from neurordl.rsa.scores import p_text, time_axes
from neurordl.rsa.time import MINUS
from neurordl.validate import counted, listed

_MOST = 60  # rows that a table has room for on paper
_OF_CLUSTERS = ("layer", "roi", "start", "stop", "n_times", "statistic", "p", "p_holm", "n_subjects")
_OF_ONSETS = ("layer", "roi", "onset", "onset_low", "onset_high", "peak", "peak_low", "peak_high")


class TimeTests(NamedTuple):
    """Results of `time_clusters` and of `latencies` for an evaluation."""

    clusters: Sequence[pd.DataFrame] = ()
    onsets: pd.DataFrame | None = None

    @classmethod
    def of(cls, tables: Sequence[pd.DataFrame], scores: pd.DataFrame, name: str) -> TimeTests:
        """Tell the tables apart by their columns; they must be those of the evaluation with these scores."""
        clusters, onsets = list[pd.DataFrame](), list[pd.DataFrame]()
        for table in tables:
            kinds = ((_OF_CLUSTERS, clusters), (_OF_ONSETS, onsets))
            kept = next((kept for columns, kept in kinds if set(columns) <= set(table)), None)
            if kept is None:
                raise NeurordlError(
                    f"{name!r} has a table with the columns {listed(table.columns)}; beside an evaluation, a "
                    "report takes the tables of time_clusters and latencies"
                )
            if not time_axes(scores):
                raise NeurordlError(f"{name!r}: the evaluation is not over time; leave out tests over time")
            sides = [side for layer in table["layer"].unique() for side in _sides(layer)]
            for column, values in (("layer", sides), ("roi", list(table["roi"].unique()))):
                if other := set(values) - set(scores[column]):
                    known = listed(scores[column].unique(), quote=True)
                    raise NeurordlError(
                        f"{name!r} has tests of the {column} {listed(sorted(other), quote=True)}, but the "
                        f"evaluation before them has {known}"
                    )
            kept.append(table)
        if len(onsets) > 1:
            raise NeurordlError(f"{name!r} has {len(onsets)} tables of latencies of an evaluation; give one")
        return cls(clusters, onsets[0] if onsets else None)

    @property
    def tables(self) -> list[pd.DataFrame]:
        """All tables."""
        return [*self.clusters, *([] if self.onsets is None else [self.onsets])]

    def drawn(self, layers: Sequence[str]) -> Mapping[str, Any]:
        """What figures of courses or planes of layers show: clusters, and their level of significance."""
        shown = (table for table in self.clusters if set(table["layer"]) & set(layers))
        table = next(shown, None)
        test = {} if table is None else table.attrs.get("test", {})
        return {"clusters": table, "alpha": test.get("alpha", 0.05)}

    def sentences(self) -> Iterator[str]:
        """How clusters and onsets were found, for the methods."""
        for table in self.clusters:
            yield from _of_test(table)
        if self.onsets is not None:
            times = self.onsets.attrs.get("n_bootstrap")
            samples = f" from {times:,} bootstrap samples of the subjects" if times else " over subjects"
            yield (
                "An onset is the first time of the first significant cluster, and a peak the time of the "
                f"highest mean; their intervals (95 %) are{samples}."
            )

    def blocks(self, noun: str) -> Iterator[Table]:
        """The tables of clusters, and that of onsets and peaks."""
        for table in self.clusters:
            yield _clusters(table, noun)
        if self.onsets is not None:
            header = (noun, "ROI", "onset (s)", "95 % interval", "peak (s)", "95 % interval of the peak")
            rows = [
                [
                    str(row["layer"]) or "output",
                    str(row["roi"]),
                    number(row["onset"]) if pd.notna(row["onset"]) else "none",
                    _extent(row["onset_low"], row["onset_high"]),
                    number(row["peak"]),
                    _extent(row["peak_low"], row["peak_high"]),
                ]
                for _, row in self.onsets.iterrows()
            ]
            yield Table("Onsets and peaks", header, rows)


def _of_test(table: pd.DataFrame) -> Iterator[str]:
    """How clusters were tested; of a table without a record of its test, what always holds."""
    test = table.attrs.get("test", {})
    tail = {"greater": "above zero", "two-sided": "above or below zero"}.get(test.get("tail"), "unlike zero")
    cells = "cells (model time × time)" if "inside" in table else "times"
    values = "differences of two models" if _of_difference(table) else "scores"
    details = ""
    if test:
        limits = {None: "clusters of t beyond that of p = .05", "tfce": "threshold-free cluster enhancement"}
        limit = limits.get(test["threshold"], f"clusters of t beyond {test['threshold']}")
        details = f" ({limit}, at most {test['n_permutations']:,} sign flips, seed {test['seed']})"
    yield (
        f"Clusters of {cells} at which {values} are {tail} were tested over subjects by MNE's "
        f"permutation_cluster_1samp_test{details}. Its p-values hold for all {cells} together; "
        "those of Holm's method are also corrected for the number of courses."
    )


def _sides(layer: str) -> list[str]:
    """A layer, or the two of a difference."""
    return layer.split(MINUS)


def _of_difference(table: pd.DataFrame) -> bool:
    return any(len(_sides(layer)) > 1 for layer in table["layer"])


def _clusters(table: pd.DataFrame, noun: str) -> Table:
    """The clusters with the smallest p, in the order of the table."""
    shown = table if len(table) <= _MOST else table.nsmallest(_MOST, "p").sort_index()
    planes = "model_start" in table
    rows = [
        [
            str(row["layer"]) or "output",
            str(row["roi"]),
            *([_extent(row["model_start"], row["model_stop"])] if planes else []),
            _extent(row["start"], row["stop"]),
            number(row["n_times"]),
            number(row["statistic"], 1),
            p_text(row["p"]),
            p_text(row["p_holm"]),
        ]
        for _, row in shown.iterrows()
    ]
    size = "cells" if "inside" in table else "times"
    header = (
        noun,
        "ROI",
        *(["model time (s)"] if planes else []),
        "time (s)",
        size,
        "statistic",
        "p",
        "p, Holm",
    )
    caption = f"Clusters of {size}{' of a difference' if _of_difference(table) else ''}"
    if not len(table):
        caption += ": there is none above the threshold"
    elif len(shown) < len(table):
        caption += f". Shown are the {_MOST} of {counted(len(table), 'cluster')} with the smallest p"
    return Table(caption, header, rows)


def _extent(low: Any, high: Any) -> str:
    """From a time to another; an interval may have no end."""
    if pd.isna(low):
        return "–"
    if low == high:
        return number(low)
    return f"{number(low)} to {number(high) if pd.notna(high) else 'later than all times'}"
