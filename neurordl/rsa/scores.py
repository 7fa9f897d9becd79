"""What `evaluate` returns: a table of scores, the inferences behind it, and notes on them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from neurordl.arrays import Bools, Floats, nan_mean
from neurordl.errors import NeurordlError
from neurordl.ids import Match
from neurordl.io import make_folder, versions, write_bytes, write_json, write_text
from neurordl.measures.comparisons import few_pairs
from neurordl.measures.condensed import missing_groups, unmeasured_stimuli
from neurordl.rsa.ceilings import agreement, chance_note
from neurordl.rsa.compare import repeated_subjects, why_undefined
from neurordl.rsa.inference.infer import (
    NO_WIDTH,
    Inference,
    bayes_factor,
    correct,
    infer_study,
    mean_interval,
    p_values,
)
from neurordl.rsa.inference.resampling import Draws, Resampling, Study
from neurordl.validate import check_choice, check_number, counted, folded_html, listed

if TYPE_CHECKING:
    from rsatoolbox.inference import Result

COLUMNS = (
    *(
        "layer",
        "roi",
        "subject",
        "comparison",
        "score",
        "ci_low",
        "ci_high",
        "p",
        "p_fdr",
        "p_holm",
        "family",
    ),
    *("ceiling_lower", "ceiling_upper", "p_ceiling", "generalizes_to"),
    *("n_subjects", "n_stimuli", "pairs", "fitted", "reason", "dissimilarity"),
)
_PRINTED = (
    *("layer", "roi", "model_time", "time", "subject", "score", "ci_low", "ci_high", "p", "p_fdr"),
    *("ceiling_lower", "ceiling_upper", "n_subjects", "fitted"),
)


MOST_ROIS = 20  # of which each two are compared: 190 pairs of ROIs for each layer
_CORRECTED = "; p_fdr and p_holm are over "
_P_VALUES, _PAIR, _ROIS = ("p", "p_fdr"), ("layer_a", "layer_b"), ["roi_a", "roi_b"]
_MEANS = ("score", "ci_low", "ci_high", "p", "n_subjects")
Family = Literal["table", "roi", "layer"]


def p_text(p: float) -> str:
    """A p-value with three decimals; "< .001" below, and nothing where it is undefined.

    Examples
    --------
    >>> p_text(0.0004), p_text(0.0321)
    ('< .001', '0.032')
    """
    return "" if np.isnan(p) else "< .001" if p < 0.001 else f"{p:.3f}"


@dataclass(frozen=True)
class Subjects:
    """The subjects of a ROI.

    Attributes
    ----------
    names
        Their names.
    pooled
        Which of them are in the mean.
    fitted
        Value of the column ``fitted`` for each subject, followed by that for the mean.
    """

    names: tuple[str, ...]
    pooled: tuple[bool, ...]
    fitted: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """How much of a ROI was measured.

    Attributes
    ----------
    requested
        Number of pairs to compare.
    compared
        Number of these pairs that both a layer and a subject of the mean have.
    pairs, stimuli
        By subject, the number of pairs that were measured, and of stimuli without any such pair.
    shared
        Numbers of pairs that two subjects of the mean or more have, and that any of them has; None in records
        of earlier versions, and for a mean of one subject.
    """

    requested: int
    compared: int
    pairs: Mapping[str, int]
    stimuli: Mapping[str, int]
    shared: Sequence[int] | None = None

    @classmethod
    def of(cls, models: Floats, data: Floats, subjects: Subjects, keep: Bools) -> Coverage:
        """Coverage of RDMs of layers and of subjects, NaN where not measured, on the pairs to keep."""
        measured = np.isfinite(data) & keep
        compared = measured[list(subjects.pooled)].any(axis=0) & np.isfinite(models).any(axis=0)
        without = [len(unmeasured_stimuli(row)) for row in measured]
        pairs = dict(zip(subjects.names, measured.sum(axis=1).tolist(), strict=True))
        stimuli = dict(zip(subjects.names, without, strict=True))
        of_mean = measured[list(subjects.pooled)]
        shared = [int((of_mean.sum(axis=0) >= n).sum()) for n in (2, 1)] if len(of_mean) > 1 else None
        return cls(int(keep.sum()), int(compared.sum()), pairs, stimuli, shared)

    @property
    def note_on_ceiling(self) -> str:
        """That most pairs were measured in one subject; empty if not, or if all were: a reason says so."""
        shared, every = self.shared or (0, 0)
        if not 0 < 2 * shared < every:
            return ""
        return (
            f"noise ceiling: {shared:,} of {every:,} pairs were measured in two subjects or more; the lower "
            "bound is of these, and the upper one says nothing of the others. For a ceiling on the pairs of "
            "the scores, compare the stimuli that all saw"
        )

    @property
    def note(self) -> str:
        """In which subjects pairs were not measured; empty if in none."""
        lacking: dict[str, list[str]] = {}  # subjects people have as much
        for subject, pairs in self.pairs.items():
            if pairs < self.requested:
                n = self.stimuli[subject]
                stimuli = f" (no pair of {counted(n, 'stimulus')})" if n else ""
                text = f"{pairs:,} of {self.requested:,} pairs measured{stimuli}"
                lacking.setdefault(text, []).append(subject)
        notes = []
        for text, subjects in lacking.items():
            everyone = 1 < len(subjects) == len(self.pairs)
            people = f"each of {len(subjects)} subjects" if everyone else listed(subjects, most=3)
            notes.append(f"{people}: {text}")
        return listed(notes, most=3, separator="; ")


@dataclass(frozen=True, eq=False)
class RoiScores:
    """Scores of layers in a ROI.

    Attributes
    ----------
    study
        The layers and all subjects.
    subjects
        The subjects, and people is in the mean.
    inference
        The inference over the subjects of the mean.
    ceilings
        (layers, 2) noise ceiling on the pairs that each layer has.
    p_ceiling
        (layers,) p of each layer against its lower noise ceiling.
    estimates
        Columns of a table with a row for each layer: its mean with interval and p.
    differences
        Columns of a table with a row for each two layers, on the pairs of stimuli that both have, in the
        subjects for whom both are defined.
    agreement
        p of the noise ceiling against chance; None where it was not tested.
    repeated
        A note on subjects in the mean with the same RDM; empty if there are none.
    """

    study: Study
    subjects: Subjects
    inference: Inference
    ceilings: Floats
    p_ceiling: Floats
    estimates: Mapping[str, Floats]
    differences: Mapping[str, Floats]
    agreement: float | None
    repeated: str

    @property
    def mean_rdm(self) -> Floats:
        """(pairs,) mean RDM of the subjects in the mean."""
        return nan_mean(self.study.data[list(self.subjects.pooled)], 0)

    def columns(self, layers: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Columns of a table with a row for each layer and subject, and one for the mean of the layer."""
        names, inference = self.subjects.names, self.inference
        note = "" if inference.n_subjects > 1 else "one subject: no noise ceiling"
        reasons = _reasons(self.study, layers, [f"subject {name!r}" for name in names], note)
        means: dict[str, Any] = dict(zip(_MEANS, mean_interval(inference.scores), strict=True))
        if inference.resampling.resamples:  # otherwise each layer by the subjects in whom it is defined
            means |= self.estimates
        *of_subjects, of_mean = self.subjects.fitted

        def rows(subjects: Any, mean: Any, dtype: npt.DTypeLike = object) -> npt.NDArray[Any]:
            column = np.empty((len(layers), len(names) + 1), dtype)
            column[:, :-1], column[:, -1] = subjects, mean
            return column.ravel()

        return {
            "layer": np.repeat(np.array(layers, dtype=object), len(names) + 1),
            "subject": rows(names, "mean"),
            "score": rows(self.study.scores, means["score"], float),
            **{name: rows(np.nan, means[name], float) for name in ("ci_low", "ci_high", "p")},
            **{
                f"ceiling_{name}": np.repeat(bound, len(names) + 1)
                for name, bound in zip(("lower", "upper"), self.ceilings.T, strict=True)
            },
            "p_ceiling": rows(np.nan, self.p_ceiling, float),
            "generalizes_to": rows("", inference.resampling.generalizes_to),
            "n_subjects": rows(1, means["n_subjects"], np.int64),
            "fitted": rows(of_subjects, of_mean),
            "reason": rows(reasons, self._reasons_of_means(means["n_subjects"], means["p"], reasons)),
        }

    def _reasons_of_means(self, n_subjects: Floats, p: Floats, reasons: Any) -> Any:
        """Why the mean of a layer, its test or its noise ceiling is undefined or doubtful; else empty."""
        several = self.inference.n_subjects > 1
        untested = several and self.inference.resampling.variance_method.why_undefined
        untested = untested or "one subject: no interval, no p" + ("" if several else ", no noise ceiling")
        usual = "; ".join(filter(None, [self._why_no_ceiling, chance_note(self.agreement), self.repeated]))
        undefined = reasons[np.arange(len(p)), np.isnan(self.study.scores).argmax(axis=1)]
        cases = [n_subjects == 0, np.isnan(p), self.inference.no_width]
        return np.select(cases, [undefined, untested, NO_WIDTH], usual)

    @property
    def _why_no_ceiling(self) -> str:
        """That no pair was measured in two subjects of the mean; empty if some was, or if there is one."""
        measured = np.isfinite(self.study.data[list(self.subjects.pooled)])
        shared = len(measured) < 2 or (measured.sum(axis=0) > 1).any()
        if shared:
            return ""
        return "no pair was measured in two subjects: no lower noise ceiling, and the upper one says nothing"

    def between(self, layers: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Columns with each two layers: the difference of their means, its interval, and p (two-sided)."""
        i, j = np.triu_indices(len(layers), 1)
        names = np.array(layers, dtype=object)
        return {"layer_a": names[i], "layer_b": names[j], **self.differences}


def _reasons(study: Study, layers: Sequence[str], subjects: Sequence[str], note: str) -> Any:
    """Why a score is undefined, or else the note: (layers, subjects)."""
    reasons = np.full(study.scores.shape, note, dtype=object)
    for k, j in np.argwhere(np.isnan(study.scores)):
        names = f"layer {layers[k]!r}", subjects[j]
        reasons[k, j] = why_undefined(study.models[k], study.data[j], study.comparison, names)
    return reasons


def score_roi(
    study: Study,
    subjects: Subjects,
    resampling: Resampling,
    stimuli: Sequence[str],
    *,
    agree: bool = True,
) -> RoiScores:
    """Score the layers of a study with all subjects of a ROI; the inference is over those in the mean.

    With ``agree``, it is tested whether the subjects agree better than by chance.
    """
    pooled = np.array(subjects.pooled)
    part = study.of_subjects(pooled)
    names = np.array(subjects.names, dtype=object)[pooled]
    draws = resampling.draw(names, stimuli)
    inference = infer_study(part, resampling, draws)
    ceilings, p_ceiling = _ceilings(part, inference, draws)
    scored = ceilings, p_ceiling, inference.estimates(), _differences(part, inference, draws)
    _score_anew(part, resampling, (names, stimuli), scored)
    chance = agreement(part.data, study.comparison, resampling.seed) if agree else None
    repeated = repeated_subjects(names, part.data)
    return RoiScores(study, subjects, inference, *scored, chance, repeated)


def _ceilings(study: Study, inference: Inference, draws: Draws | None) -> tuple[Floats, Floats]:
    """Noise ceilings (layers, 2) on the pairs that each layer has, and p of each layer against its lower."""
    ceilings, p_ceiling = np.full((len(study.models), 2), np.nan), np.full(len(study.models), np.nan)
    groups = missing_groups(study.models)
    for rows, absent in groups:  # the pairs that all layers have may be fewer than a layer's own
        if absent.all():
            continue
        group = inference
        if len(groups) > 1:
            part = study.of_models(rows, absent)
            group = infer_study(part, inference.resampling, draws, estimate_variance=False)
        ceilings[rows] = group.ceiling
        if group.model_var is not None:
            p_ceiling[rows] = p_values(group, center="data").ceiling
    return ceilings, p_ceiling


def _score_anew(
    study: Study,
    resampling: Resampling,
    names: tuple[npt.NDArray[Any], Sequence[str]],
    scored: tuple[Floats, Floats, dict[str, Floats], dict[str, Floats]],
) -> None:
    """Infer layers that are undefined for some subjects from the others, and two layers from those of both.

    Parameters
    ----------
    study, resampling
        The layers, and the subjects in their means.
    names
        Those of the subjects and of the stimuli.
    scored
        Ceilings, their p, and columns of estimates and of differences, which are written anew.
    """
    ceilings, p_ceiling, estimates, differences = scored
    patterns = [(rows, ~absent) for rows, absent in missing_groups(study.scores) if not absent.all()]
    pair_of = np.full((len(study.models),) * 2, -1)
    pair_of[np.triu_indices(len(pair_of), 1)] = np.arange(len(differences["p"]))
    for first, second in combinations_with_replacement(patterns, 2) if len(patterns) > 1 else ():
        known, chosen = first[1] & second[1], np.array(sorted({*first[0], *second[0]}))
        i, j = np.triu_indices(len(chosen), 1)
        between = np.isin(chosen[i], first[0]) & np.isin(chosen[j], second[0])
        between |= np.isin(chosen[i], second[0]) & np.isin(chosen[j], first[0])
        places, alone = pair_of[chosen[i], chosen[j]][between], first is second
        if known.sum() < 1 + ("subjects" in resampling.factors):
            undefined = [
                columns[x] for columns in (estimates, differences) for x in ("ci_low", "ci_high", "p")
            ]
            for values, where in zip(undefined, [chosen if alone else []] * 3 + [places] * 3, strict=True):
                values[where] = np.nan
            continue
        part = study.of_subjects(known).of_models(chosen.tolist(), np.zeros(study.data.shape[1], dtype=bool))
        draws = resampling.draw(names[0][known].tolist(), names[1])
        inference = infer_study(part, resampling, draws)
        if alone:
            ceilings[chosen], p_ceiling[chosen] = _ceilings(part, inference, draws)
        for name, values in inference.estimates().items() if alone else ():
            estimates[name][chosen] = values
        for name, values in _differences(part, inference, draws).items():
            differences[name][places] = values[between]


def _differences(study: Study, inference: Inference, draws: Draws | None) -> dict[str, Floats]:
    """Columns with each two layers, scored anew on their shared pairs where these are fewer."""
    groups, columns = missing_groups(study.models), inference.differences()
    measured = np.isfinite(study.models)
    i, j = np.triu_indices(len(measured), 1)
    for (rows, absent), (more, absent_too) in combinations(groups, 2):
        missing, both = absent | absent_too, sorted([*rows, *more])
        if missing.all():
            continue
        data = np.where(missing, np.nan, study.data)
        part = Study(study.models[both], data, study.comparison, device=study.device)
        shared = infer_study(part, inference.resampling, draws).differences()
        chosen = np.isin(i, both) & np.isin(j, both)
        between = np.isin(i[chosen], rows) != np.isin(j[chosen], rows)
        for name, values in shared.items():
            columns[name][np.flatnonzero(chosen)[between]] = values[between]
    return {
        **columns,
        "n_pairs": (measured[i] & measured[j] & np.isfinite(study.data).any(axis=0)).sum(axis=1),
    }


def _corrected(table: pd.DataFrame, tested: Bools, family: str) -> pd.DataFrame:
    """A copy of a table whose tested rows have p-values corrected over each family, and its size and name."""
    p = table["p"].astype(float).where(tested)
    rois = _ROIS if set(_ROIS) <= set(table) else ["roi"]
    by = {"table": [], "roi": rois, "layer": [*rois, *table.columns.intersection(["layer", *_PAIR])]}[family]
    families = p.groupby([table[name] for name in by] or np.zeros(len(p)))
    sizes = families.transform("count").where(p.notna(), 0).astype(int)
    roi = "ROI" if rois == ["roi"] else "pair of ROIs"
    unit = {"table": " of the table", "roi": f" of the {roi}", "layer": f" of the layer in a {roi}"}[family]
    return table.assign(
        p_fdr=families.transform(lambda part: correct(part.to_numpy(), "fdr")),
        p_holm=families.transform(lambda part: correct(part.to_numpy(), "holm")),
        family=[f"{counted(n, 'test')}{unit}" if n else "" for n in sizes],
    )


def with_families(title: str, means: pd.DataFrame) -> str:
    """The title of an evaluation with the tests over which p-values of a table are corrected."""
    families = [name for name in means.get("family", pd.Series(dtype=object)).unique() if name]
    corrected = f"{_CORRECTED}{' or '.join(families)}" if families else ""
    return title.partition(_CORRECTED)[0] + corrected


def side_by_side(
    evaluations: Mapping[str, Evaluation | pd.DataFrame], family: Family = "table"
) -> pd.DataFrame:
    """Put the tables of several runs into a single one, with the column ``run`` first.

    Parameters
    ----------
    evaluations
        Evaluations, or their tables, by the name of the run.
    family
        The tests over which p-values are corrected, as in `Evaluation.correct`: those of all runs.

    Returns
    -------
    DataFrame
        The columns of an `Evaluation`; ``p_fdr``, ``p_holm`` and ``family`` are written anew.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> from neurordl.rsa.scores import side_by_side
    >>> ids = [f"s{number}" for number in range(12)]
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> names = ("s01", "s02")
    >>> models = {name: nrl.evaluate({"it": people.subset("subject", name)}, people) for name in names}
    >>> side_by_side(models)["family"].max()
    '2 tests of the table'
    """
    check_choice("family", family, get_args(Family))
    frames = {name: x if isinstance(x, pd.DataFrame) else x.frame for name, x in evaluations.items()}
    table = pd.concat([frame.assign(run=name) for name, frame in frames.items()], ignore_index=True)
    table = _corrected(table, (table["subject"] == "mean").to_numpy(), family)
    return table[["run", *(name for name in table if name != "run")]]


def check_names(subjects: tuple[str, ...]) -> tuple[str, ...]:
    """Names of subjects, if none is a word of the table's column ``subject``."""
    if reserved := {"mean", "group"}.intersection(subjects):
        raise NeurordlError(f"a subject is called {reserved.pop()!r}, a word that the table needs; rename it")
    return subjects


def time_axes(frame: pd.DataFrame) -> list[str]:
    """The columns of times that a table of scores has: of models, of the data, or both."""
    return [name for name in ("model_time", "time") if name in frame]


def rows_of_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of means and of the group; over time, those of the highest mean of each layer in a ROI."""
    means = frame[frame["subject"].isin(["mean", "group"])]
    if not time_axes(means):
        return means
    by = [means[name] for name in ("run", "roi", "layer", "subject") if name in means]
    return means.loc[means["score"].fillna(-np.inf).groupby(by, sort=False).idxmax()]


def repeated_layers(layers: Sequence[str], models: Floats) -> str:
    """A note on layers that have the RDM of another layer, value by value; empty if there are none.

    The RDM of a container is that of its last layer, and a layer that only reshapes, or does nothing when a
    network is evaluated, has the RDM of its input.
    """
    same: dict[bytes, list[str]] = {}
    for layer, rdm in zip(layers, models, strict=True):
        if np.isfinite(rdm).any():
            same.setdefault(np.where(np.isnan(rdm), np.nan, rdm + 0.0).tobytes(), []).append(layer)
    groups = [" = ".join(layer or "output" for layer in group) for group in same.values() if len(group) > 1]
    if not groups:
        return ""
    return (
        f"layers with identical RDMs: {listed(groups, most=3)}; the corrections for many tests count each "
        'layer, so name one of each in layers, or take "top", which leaves out layers inside of others'
    )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of layers against subjects, with what was matched and how it was done.

    Attributes
    ----------
    frame
        Table with a row for each layer, ROI and subject, and for the mean over subjects (subject "mean").
        Its columns are:

        - ``layer``, ``roi``, ``subject``, ``comparison``: what was compared, and how. For model RDMs, the
          layer is the name of the model: tables of networks and of models have the same columns.
        - ``time``: of RDMs over time only, the time in seconds.
        - ``model_time``: of models over time only, the time of the model, in seconds.
        - ``score``: the similarity of the RDMs of layer and subject, or its mean.
        - ``ci_low``, ``ci_high``: 95 % interval of a mean. It is symmetric, and may reach beyond -1 or 1 of
          few subjects; a note counts such intervals. They are not cut, which would hide how little is known.
        - ``p``: p of a mean against zero (one-sided). ``p_fdr`` (Benjamini & Hochberg) and ``p_holm`` are
          corrected over the tests that ``family`` names, such as "24 tests of the table": by default all
          layers in all ROIs. `correct` chooses another family.
        - ``ceiling_lower``, ``ceiling_upper``: noise ceiling on the pairs that the layer has.
        - ``p_ceiling``: p of a mean against the lower noise ceiling (two-sided).
        - ``generalizes_to``: the population that intervals and p of a mean are about.
        - ``n_subjects``, ``n_stimuli``: how many of them were scored.
        - ``pairs``: the pairs of stimuli that were scored, as chosen by ``pairs`` of `evaluate`.
        - ``fitted``: whether the run was trained on these stimuli and subjects; "unknown" without a run. In
          brackets, how many held-out stimuli leaked into training: by their labels, as copies of fitted
          images, or by an earlier run.
        - ``reason``: why a value is undefined or doubtful, such as subjects with the same RDM.
        - ``dissimilarity``: the dissimilarity of the network's RDMs; "as given" for model RDMs.
    match
        Which stimuli were matched with the RDMs.
    settings
        The choices made, the checksums of the inputs and the seeds, as saved.
    differences
        Table with a row for each pair of layers of a ROI: the difference of their means, its 95 % interval,
        and two-sided p, also corrected over the tests that ``family`` names (``p_fdr`` and ``p_holm``). Two
        layers are compared on the ``n_pairs`` pairs of stimuli that both have. Layers that lack different
        pairs are scored anew, each such group of layers with each other one: with 1,000 resamples of 92
        stimuli and 8 subjects, this takes about .1 s for each two groups.
    roi_differences
        Table with a row for each layer and pair of ROIs: by how much the layer is more similar to ``roi_a``
        than to ``roi_b``, its 95 % interval, and two-sided p, corrected over the tests of this table or, by
        `correct`, of a pair of ROIs or of a layer in it. The ROIs are compared in the ``n_subjects`` subjects
        that both have, on the pairs of stimuli that each of these has in both (``n_pairs``: pairs of any
        subject), with the same resamples. It is not computed of more than 20 ROIs, or of fitted models. A
        difference may be one of noise: see the ROIs' noise ceilings.
    inferences
        For each ROI, the scores, the scores of all resamples, and variances; of RDMs over time, for each ROI
        and time, such as "IT, 0.12 s".
    models
        (layers, pairs) RDMs of the layers.
    means
        For each ROI, (pairs,) mean RDM of the subjects in the mean.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> ids = [f"s{number}" for number in range(12)]
    >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
    >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
    >>> scores = nrl.evaluate({"first": people.subset("subject", "s01")}, people)
    >>> table = scores.to_frame()
    >>> len(table[table["subject"] != "mean"])
    5
    """

    frame: pd.DataFrame
    match: Match
    settings: dict[str, Any] = field(default_factory=dict)
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    roi_differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    inferences: Mapping[str, Inference] = field(default_factory=dict)
    models: Floats | None = None
    means: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def over_time(self) -> bool:
        """Whether there are scores at several times."""
        return "time" in self.frame

    @property
    def places(self) -> pd.Series[str]:
        """The ROI of each row, with its time where there are times: the keys of ``inferences``."""
        roi = self.frame["roi"].astype(str)
        if not self.over_time:
            return roi
        return roi.where(roi == "", roi + ", ") + self.frame["time"].map("{:.9g} s".format)

    def to_frame(self) -> pd.DataFrame:
        """The table, as a copy."""
        return self.frame.copy()

    def bayes_factors(self, scale: float = 0.5**0.5) -> pd.DataFrame:
        """The differences with their Bayes factors, where p is of a plain t test over subjects.

        Beside p, a Bayes factor tells a difference that is not there from one that too few subjects show.

        Parameters
        ----------
        scale
            Width of the prior: half of the standardized effects (means divided by standard deviations) are
            below it, if there is an effect. The default, .707, is usual.

        Returns
        -------
        DataFrame
            ``differences`` with the column ``bf10``: how much likelier the data are if two layers differ than
            if they do not (Rouder et al. 2009, Psychon. Bull. Rev. 16:225). Below 1/3 is commonly called
            evidence for no difference, above 3 for one.

        Raises
        ------
        NeurordlError
            Something was resampled, the scores are shares of variance, or the scale is not above 0.

        Examples
        --------
        >>> import numpy as np
        >>> import neurordl as nrl
        >>> ids = [f"s{number}" for number in range(12)]
        >>> patterns = np.random.default_rng(0).normal(size=(12, 5))
        >>> people = nrl.simulate.simulate_subjects(patterns, ids, n_subjects=5)
        >>> models = {name: people.subset("subject", name) for name in ("s01", "s02")}
        >>> scores = nrl.evaluate(models, people, subjects=["s03", "s04", "s05"])
        >>> "bf10" in scores.bayes_factors()
        True
        """
        check_number("scale", scale, 0, open_low=True)
        if self.settings.get("bootstrap") is not None or "test" in self.settings:
            raise NeurordlError(
                "Bayes factors are of plain t tests over subjects: evaluate with bootstrap=None, and compare "
                "scores or weights, not shares of variance"
            )
        table, keys = self.differences, ["roi", *time_axes(self.frame), "layer"]
        in_mean = {(place, x) for place, names in self.settings["in_mean"].items() for x in names}
        rows = [key in in_mean for key in zip(self.places, self.frame["subject"], strict=True)]
        scored = self.frame[rows].dropna(subset="score")
        people = scored.groupby(keys, dropna=False)["subject"].agg(set).to_dict()
        factors = []
        for row in table.to_dict("records"):
            at = [row[name] for name in keys[:-1]]
            n = len(set.intersection(*(people.get((*at, row[side]), set()) for side in _PAIR)))
            error = (row["ci_high"] - row["difference"]) / stats.t.ppf(0.975, max(n - 1, 1))
            t = row["difference"] / error if error > 0 and np.isfinite(row["p"]) else np.nan
            factors.append(bayes_factor(t, n, scale))
        return table.assign(bf10=factors)

    def correct(self, family: Family = "table") -> Evaluation:
        """Correct p-values for many tests over a family of your choice; `evaluate` does so over the table.

        Parameters
        ----------
        family
            The tests to correct for together: all of the "table", those of each "roi", or those of each
            "layer" in each ROI.

            A table that is searched as a whole is one family. Take "roi" where each ROI is a question of its
            own. Over time, "layer" corrects over the times of each layer and pair of layers; without times it
            corrects nothing. Differences of two layers, and of two ROIs, are families apart from the tests of
            layers, and there "roi" is a pair of ROIs.
            `time_clusters` tests clusters of times instead.

        Returns
        -------
        Evaluation
            The same scores with the columns ``p_fdr``, ``p_holm`` and ``family`` of its tables written anew.

        Raises
        ------
        NeurordlError
            The family is unknown.
        """
        check_choice("family", family, get_args(Family))
        frame = _corrected(self.frame, (self.frame["subject"] == "mean").to_numpy(), family)
        differences = _corrected(self.differences, np.full(len(self.differences), True), family)
        between = self.roi_differences
        if len(between):
            between = _corrected(between, np.full(len(between), True), family)
        settings = {**self.settings, "family": family}
        return replace(self, frame=frame, differences=differences, roi_differences=between, settings=settings)

    def group_rows(self) -> pd.DataFrame:
        """Score the mean RDM of the subjects: a row for each layer and ROI, with the subject "group".

        Each pair is averaged over the subjects in whom it was measured. These scores cannot be compared with
        the rows "mean", and the noise ceiling does not bound them.
        """
        if self.models is None:
            raise NeurordlError("weights and shares of variance have no scores of the subjects' mean RDM")
        tables, note = [], "the mean RDM of the subjects: no interval, no noise ceiling"
        for roi, rdm in self.means.items():
            study = Study(self.models, rdm[None], self.inferences[roi].comparison)
            reasons = _reasons(study, self.settings["layers"], ["the subjects' mean"], note)[:, 0]
            rows = self.frame[(self.places == roi) & (self.frame["subject"] == "mean")]
            rows = rows.assign(subject="group", score=study.scores[:, 0], generalizes_to="", reason=reasons)
            tables.append(rows.assign(n_subjects=self.inferences[roi].n_subjects))
        table = pd.concat(tables, ignore_index=True)
        undefined = [name for name in COLUMNS if name.startswith(("ci_", "p_", "ceiling_"))]
        table[["p", *undefined]] = np.nan
        return table.assign(family="")

    @property
    def record(self) -> Mapping[str, Any]:
        """What ``evaluation.json`` holds: settings, the match, versions, the title and the notes."""
        match = {name: getattr(self.match, name) for name in ("matched", "missing", "unused", "reordered")}
        parts = {"settings": self.settings, "match": match, "versions": versions()}
        return {**parts, "title": self.title, "notes": self.notes}

    def to_html(
        self,
        path: str | os.PathLike[str],
        title: str = "Evaluation",
        figures: bool = True,
        *,
        tests: Sequence[pd.DataFrame] = (),
    ) -> Path:
        """Write a report of the evaluation as one HTML file; see `neurordl.report.write_report`.

        Parameters
        ----------
        path
            The file to write, named ``.html``.
        title
            Heading of the page.
        figures
            Write the figures also as PDF and SVG, into a folder beside the file.
        tests
            Results of `time_clusters` and `latencies`, if this is an evaluation over time.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        NeurordlError
            The file cannot be written, or a table is none of these.
        """
        from neurordl.report import write_report

        return write_report(path, {title: [self, *tests]}, figures=figures)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the evaluation into a folder.

        ``scores.csv``, ``differences.csv`` and, of several ROIs, ``roi_differences.csv`` are the tables,
        ``evaluation.json`` has settings, versions, the
        match and the notes, and ``evaluation.h5`` the inferences: a group for each ROI, with rsatoolbox's
        names and shapes.

        Raises
        ------
        NeurordlError
            The folder or a file cannot be written; earlier files stay as they are.
        """
        out = Path(folder)
        make_folder(out)
        write_text(out / "scores.csv", self.frame.to_csv(index=False))
        write_text(out / "differences.csv", self.differences.to_csv(index=False))
        if len(self.roi_differences):
            write_text(out / "roi_differences.csv", self.roi_differences.to_csv(index=False))
        else:  # of an earlier evaluation
            (out / "roi_differences.csv").unlink(missing_ok=True)
        self._save_arrays(out / "evaluation.h5")
        write_json(out / "evaluation.json", self.record)
        return out

    def _save_arrays(self, path: Path) -> None:
        # in memory first: on a full disk HDF5 ends the process when it closes the file
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.attrs["layers"] = self.settings.get("layers", [])
            for number, (roi, inference) in enumerate(self.inferences.items()):
                group = file.create_group(f"roi{number}")
                resampling = inference.resampling
                group.attrs.update(roi=roi, comparison=inference.comparison.name)
                group.attrs.update(resample=resampling.name, variance=resampling.variance_method.name)
                group.attrs.update(estimand=inference.estimand)
                for name, value in vars(inference).items():
                    if isinstance(value, np.ndarray):
                        group[name] = value
                    elif isinstance(value, str | int | tuple):
                        group.attrs[name] = value
        write_bytes(path, content.getbuffer())

    def to_rsatoolbox(self, roi: str | None = None) -> Result:
        """Convert the evaluation of one ROI to rsatoolbox's ``Result``, for its tests and plots.

        Its variances are always those of the resamples, as in rsatoolbox. If the table has variances by
        components, the default of a bootstrap, p-values of the Result therefore differ from it.

        Raises
        ------
        NeurordlError
            There are several ROIs and none is named, or there is no such ROI.
        """
        from rsatoolbox.inference import Result
        from rsatoolbox.model import ModelFixed

        if self.models is None:
            raise NeurordlError("weights and shares of variance have no form in rsatoolbox")
        if roi is None and len(self.inferences) == 1:
            (roi,) = self.inferences
        if roi is None or roi not in self.inferences:
            known = listed(self.inferences, most=40, quote=True) or "none"
            raise NeurordlError(f"to_rsatoolbox takes one ROI, and got {roi!r}; there are: {known}")
        inference = self.inferences[roi]
        layers, factors = self.settings["layers"], inference.resampling.factors
        models = [ModelFixed(name, rdm) for name, rdm in zip(layers, self.models, strict=True)]
        name = inference.comparison.name
        return Result(
            *(models, inference.evaluations, name, inference.cv_method, inference.noise_ceiling),
            variances=inference.variances,
            dof=inference.dof,
            n_rdm=inference.n_subjects if "subjects" in factors else None,
            n_pattern=inference.n_stimuli if "stimuli" in factors else None,
        )

    @property
    def title(self) -> str:
        """How it was compared, in a line."""
        settings, means = self.settings, self.frame[self.frame["subject"] == "mean"]
        comparison, pairs, n = (settings.get(name) for name in ("comparison", "pairs", "n_stimuli"))
        title = f"{comparison}, {pairs} pairs of {n} stimuli"
        if controlled := settings.get("controlled"):
            title += f", controlled for {listed(controlled)}"
        if n is not None and n < len(self.match.matched):
            title += f" (of {len(self.match.matched)} that were matched)"
        if any(coverage.note for coverage in self._coverages.values()):
            title += ", as far as they were measured"
        for variance in {x.resampling.variance_method.title for x in self.inferences.values()} - {""}:
            title += f", {variance}"
        population = next(iter(means["generalizes_to"]), "") if means["ci_low"].notna().any() else ""
        population += f" ({n_groups} groups)" if population and (n_groups := self._n_groups) else ""
        test = settings.get("test", "one-sided, above zero")
        title += f"; 95 % intervals and p ({test}) generalize to {population}" if population else ""
        if axes := time_axes(means):
            counts = [counted(means[name].nunique(), name.replace("_", " ")) for name in axes]
            title += f"; {' and '.join(counts)}, shown is the highest mean of each layer"
        return with_families(title, means)

    @property
    def _n_groups(self) -> int:
        """Number of groups of stimuli that were resampled; 0 if stimuli were not grouped."""
        return len(set(self.settings.get("groups") or ()))

    @property
    def notes(self) -> list[str]:
        """What leaks from training into the scores, and why a mean is undefined or doubtful."""
        means = self.frame[self.frame["subject"] == "mean"]
        n_layers = means["layer"].nunique()
        notes = [*self.settings.get("leaks", ()), *self._notes_on_pairs(), self._note_on_layers]
        notes += [self._note_on_bounds, self._note_on_sides, self._note_on_rois]
        notes.append(self._note_on_constants)
        notes += dict.fromkeys(inference.resampling.note for inference in self.inferences.values())
        if self.models is not None:
            notes.append(repeated_layers(self.settings["layers"], self.models))
        doubtful = means[means["reason"] != ""]
        n_times = means["time"].nunique() if self.over_time else 1
        for (roi, reason), part in doubtful.groupby(["roi", "reason"], sort=False):
            layers = part["layer"].unique()
            named = [layer or "output" for layer in layers] if len(layers) < n_layers or n_layers == 1 else []
            times = part["time"].nunique() if self.over_time else 1
            at = f"at {times} of {n_times} times" if times < n_times else ""
            where = ", ".join(filter(None, [str(roi), *named, at]))
            notes.append(f"{where}: {reason}" if where else str(reason))
        return [note for note in notes if note]

    @property
    def _note_on_bounds(self) -> str:
        """How many intervals reach beyond what a similarity can be; empty if none does."""
        if any(x.comparison.kernel is None for x in self.inferences.values()):
            return ""  # its values may have other bounds
        low, high = (self.frame[name].to_numpy(float) for name in ("ci_low", "ci_high"))
        n = int(((low < -1) | (high > 1)).sum())
        if not n or not self.inferences:
            return ""
        reach = f"{counted(n, 'interval')} {'reaches' if n == 1 else 'reach'} beyond -1 or 1, "
        reach += "where no similarity can be"
        few = next(iter(self.inferences.values())).resampling.generalizes_to
        return f"{reach}: t intervals of few {few} are symmetric; take more {few}, or read them cut off"

    @property
    def _note_on_sides(self) -> str:
        """How many means are significant while their interval includes zero; empty if none is."""
        means = self.frame[self.frame["subject"] == "mean"]
        n = int(((means["p"] < 0.05) & (means["ci_low"] <= 0)).sum())
        if not n:
            return ""
        has = "mean has p < .05 and an interval that includes"
        if n > 1:
            has = "means have p < .05 and intervals that include"
        if "test" in self.settings:
            return f"{n} {has} 0: p tests the correlations of which a share consists, all at once"
        return f"{n} {has} 0: p is one-sided (above zero), and the 95 % interval is two-sided"

    @property
    def _note_on_constants(self) -> str:
        """Layers whose RDM is constant, where their similarity is defined all the same; empty without any."""
        if self.models is None:
            return ""
        defined = self.frame.groupby("layer")["score"].count()
        constant = []
        for layer, rdm in zip(self.settings["layers"], self.models, strict=True):
            values = rdm[np.isfinite(rdm)]
            if len(values) > 1 and np.ptp(values) == 0 and defined.get(layer, 0):
                constant.append(layer or "output")
        if not constant:
            return ""
        return (
            f"{listed(constant)}: all dissimilarities are the same, which predicts no order: "
            f"{self.settings.get('comparison')} is 0 by definition, and p says nothing"
        )

    @property
    def _note_on_rois(self) -> str:
        """That ROIs are too many to be compared with each other; empty if they are not."""
        n = self.frame["roi"].nunique()
        if n <= MOST_ROIS or self.models is None:
            return ""
        return f"{n} ROIs are not compared with each other: choose {MOST_ROIS} or fewer with roi="

    @property
    def _coverages(self) -> dict[str, Coverage]:
        return {roi: Coverage(**values) for roi, values in self.settings.get("measured", {}).items()}

    @property
    def _note_on_layers(self) -> str:
        """Which layers lack pairs of stimuli that are to be compared; empty if none does."""
        if self.models is None:
            return ""
        counts = np.isfinite(self.models).sum(axis=1)
        n_pairs = max([coverage.requested for coverage in self._coverages.values()], default=counts.max())
        lacking = [
            f"{layer or 'output'} has {count:,}"
            for layer, count in zip(self.settings["layers"], counts, strict=True)
            if 0 < count < n_pairs
        ]
        if not lacking:
            return ""
        return (
            f"not all layers have all {n_pairs:,} pairs of stimuli ({listed(lacking, most=3)}): each is "
            "scored on its own pairs, and two layers are compared on the pairs that both have"
        )

    def _notes_on_pairs(self) -> list[str]:
        """Notes on few pairs and on those that were not measured; once where it is the same in every ROI."""
        rois: dict[str, list[str]] = {}
        coverages, n = self._coverages, self.settings.get("n_stimuli", 0)
        for roi, coverage in coverages.items():
            resampled = "stimuli" in self.inferences[roi].resampling.factors
            few = few_pairs(n, coverage.compared, resampled=resampled, requested=coverage.requested)
            for note in filter(None, [few, coverage.note, coverage.note_on_ceiling]):
                rois.setdefault(note, []).append(roi)
        return [
            note if len(names) == len(coverages) else f"{listed(names)}: {note}"
            for note, names in rois.items()
        ]

    def __repr__(self) -> str:
        people = self.frame[~self.frame["subject"].isin(["mean", "group"])]
        counts = {"layer": people["layer"], "ROI": people["roi"], "subject": people["subject"]}
        counts |= {name.replace("_", " "): people[name] for name in time_axes(people)}
        sizes = [counted(x.nunique(), name) for name, x in counts.items()]
        return f"Evaluation({', '.join(sizes)}: {self.title}; print it for the table)"

    def __str__(self) -> str:
        means = rows_of_means(self.frame)
        table = means[[name for name in _PRINTED if name in means]].to_string(
            index=False,
            float_format="{:.3f}".format,
            na_rep="",
            formatters=dict.fromkeys(_P_VALUES, p_text),
        )
        return "\n".join([self.title, str(self.match), "", table, *self.notes])

    def _repr_html_(self) -> str:
        means = rows_of_means(self.frame)
        shown = [
            name
            for name in _PRINTED
            if name in means and means[name].notna().any() and not (means[name] == "").all()
        ]
        rows = [
            [
                p_text(value) if name in _P_VALUES else f"{value:.3f}" if isinstance(value, float) else value
                for name, value in zip(shown, row, strict=True)
            ]
            for row in means[shown].itertuples(index=False)
        ]
        return folded_html(f"Evaluation: {self.title}", rows, shown, self.notes)
