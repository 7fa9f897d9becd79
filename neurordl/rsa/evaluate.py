"""How well layers of a network, or model RDMs, match subjects' RDMs: `evaluate`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm.rdms import RDMs
from torch import Tensor, nn

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, collect_notices, explain, notices, notify
from neurordl.ids import match_ids, natural_key
from neurordl.io import sha256_array, sha256_state
from neurordl.measures.comparisons import ComparisonLike, find_similarity
from neurordl.measures.dissimilarities import (
    Dissimilarity,
    DissimilarityLike,
    dissimilarity_from_text,
    find_dissimilarity,
    network_dissimilarity,
)
from neurordl.measures.kernels.distances import WIDE
from neurordl.patterns.network import Compute, extract_patterns, layer_bytes, read_batches, unwrapped
from neurordl.rdms.compute import compute_rdms
from neurordl.rdms.selection import (
    averaged_subjects,
    rdms_by_place,
    reindex,
    sha256_rdms,
    stimulus_ids,
    stimulus_properties,
    subject_names,
)
from neurordl.rsa.compare import model_stacks, model_vectors, models_by_time, shared_stimuli
from neurordl.rsa.inference.resampling import Resampling, Study, find_resampling
from neurordl.rsa.leaks import Exposure, Leaks, People, check_exposures, plain_name
from neurordl.rsa.regions import COLUMNS as OF_ROIS
from neurordl.rsa.regions import roi_differences
from neurordl.rsa.regression import Partial
from neurordl.rsa.scores import COLUMNS, Coverage, Evaluation, Subjects, check_names, score_roi
from neurordl.stimuli import Preprocessing, StimulusSet
from neurordl.stimuli.sets import check_stimuli, warn_of_absent
from neurordl.students.loading import READ_FROM, TRAINED_ON
from neurordl.validate import check_choice

_PAIRS = ("held-out", "fitted", "cross", "all")
# The largest layer of all stimuli: up to here they go through the network together, and no pattern is kept.
_AT_ONCE_BYTES = 1 << 29
# Patterns of several layers are kept together up to this size, where stimuli go through in batches.
_PATTERN_BYTES = 2 << 30


@runtime_checkable
class RunLike(Protocol):
    """What `evaluate` needs of a training run; `fit` returns one."""

    @property
    def student(self) -> nn.Module:
        """The trained network."""

    @property
    def fitted_ids(self) -> Sequence[str]:
        """Stimuli whose RDMs were fitted."""

    @property
    def validation_ids(self) -> Sequence[str]:
        """Stimuli by which anything was chosen: they are not held out."""

    @property
    def held_out_ids(self) -> Sequence[str]:
        """Stimuli that were neither fitted nor used for validation."""

    @property
    def fitted_subjects(self) -> Sequence[str]:
        """Subjects whose RDMs were fitted."""

    @property
    def fitted_rdms(self) -> Collection[str]:
        """Checksums of the RDMs that were fitted, each in natural order of its stimuli."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the run's stimuli were prepared; None without stimuli."""


@collect_notices()
def evaluate(
    source: RunLike | nn.Module | RDMs | Mapping[str, RDMs] | Mapping[str, nn.Module],
    rdms: RDMs,
    *,
    stimuli: StimulusSet | None = None,
    layers: str | Sequence[str] = "all",
    comparison: ComparisonLike | Partial = "rho-a",
    dissimilarity: DissimilarityLike | None = None,
    roi: str | Sequence[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    pairs: Literal["held-out", "fitted", "cross", "all"] | None = None,
    bootstrap: Literal["subjects", "stimuli", "both"] | Resampling | None = None,
    missing: Literal["error", "ignore"] = "error",
    device: str | torch.device | Compute | None = None,
) -> Evaluation:
    """Compare the RDM of each layer with that of each subject, with the mean and the noise ceiling.

    Parameters
    ----------
    source
        A run of `fit`, a network, or model RDMs. Model RDMs are RDMs whose names are the RDM descriptor
        ``layer`` or ``name`` (or numbers without it), or a mapping from each name to one RDM.

        A mapping from names to networks puts their layers into one table, as "name" if each has one layer,
        and otherwise as "name: layer", so that differences of networks are tested as those of layers are.

        Models over time, such as the steps of a recurrent network, have several RDMs of a name, with the RDM
        descriptor ``time``: each of their times is scored, and is the column ``model_time``.
    rdms
        The data: RDMs with stimulus ids and the RDM descriptors ``subject`` and, if there are several ROIs,
        ``roi``. There must be one RDM per subject in each ROI; use `select_rdms` to choose or average. With
        the RDM descriptor ``time`` (seconds), each time is scored as each ROI is, and times are never
        subjects.
    stimuli
        The images, for a run or a network. For a run, they must be prepared like its training stimuli.
    layers
        Names of layers, or globs such as ``"conv*"``; "all"; or "top" (the layers of a network that are not
        part of another layer).
    comparison
        Comparison of two RDMs, spelled as in rsatoolbox: "rho-a", "spearman", "corr", "cosine", "tau-a" and
        others.

        It can also be a `Comparison`. See `compare` for all names. `Partial` controls for covariates, such as
        a model of the images' pixels.
    dissimilarity
        Dissimilarity of the network's patterns. By default it is that of the data. A network cannot have
        crossnobis or Mahalanobis distances: "euclidean" is then used. If the dissimilarity of the data is
        unknown, it is that of the run's losses, or "correlation". In both cases there is a warning.
    roi
        ROIs to evaluate. By default all are.
    subjects
        Subjects whose RDMs are evaluated. By default all are.
    pairs
        Pairs of stimuli of a run that are scored: "held-out" (the run used neither stimulus), "fitted" (it
        used both, for fitting or validation), "cross" (it used one of them) or "all".

        The default is "held-out" if the run used none of the stimuli, "fitted" if it used all of them, and
        "all" without a run. If it used some of them, ``pairs`` must be chosen.
    bootstrap
        What is resampled for intervals and p-values, and what they therefore generalize to: "subjects",
        "stimuli", "both", a `Bootstrap`, or another `Resampling`. Variances are those of `Bootstrap`'s
        default, by components. If stimuli come in groups, such as categories, and results are to hold for new
        ones, pass ``Bootstrap("both", groups=...)``. By default nothing is resampled: intervals and p-values
        are those of a t test over the subjects' scores, and generalize to new subjects only.
    missing
        "error": the RDMs must have all stimuli. "ignore": stimuli that they do not have are left out.
    device
        Device on which the network is run and matrix products of resamples are computed, or a `Compute` with
        the batch size and a progress bar. By default all stimuli are in one batch if memory allows.

    Returns
    -------
    Evaluation
        The table of scores, with a row for each layer, ROI (and time) and subject, and rows with the subject
        "mean"; `Evaluation` describes its columns. `time_clusters` and `latencies` test scores over time, and
        `plot_time_course` draws them; `plots.plot_model_time` those over the times of a model, too.

        - Means and noise ceilings are over the subjects that ``subjects`` names. By default they leave out
          the subjects on whose RDMs the run was trained, unless it was trained on all of them. A subject that
          was fitted in one ROI counts as fitted in all.
        - What leaks from training into the scores is counted in the column ``fitted`` and named in the notes:
          held-out stimuli whose labels were trained on, whose images are copies of fitted ones, or that an
          earlier run used with the same weights, and subjects who taught under another name or within a mean.
          It is known from ids and subjects' names, images and RDMs; labelled images from a loader without ids
          cannot be compared.
        - Intervals and tests are t tests as in rsatoolbox, but they are centered on the score, not on the
          mean of the resamples.
        - What is undefined is NaN, and the column ``reason`` says why.

    Raises
    ------
    NeurordlError
        Ids do not match; there are fewer than three stimuli, or several RDMs of a subject; a layer, a
        comparison or a dissimilarity is unknown; the stimuli are not prepared like those of the run; or they
        include fitted and held-out ones and ``pairs`` is not given.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rng = np.random.default_rng(0)
    >>> ids = [f"s{number}" for number in range(12)]
    >>> people = nrl.simulate.simulate_subjects(rng.normal(size=(12, 5)), ids, n_subjects=5)
    >>> models = people.subset("subject", ["s01", "s02"])
    >>> models.rdm_descriptors = {"name": ["first", "second"]}
    >>> scores = nrl.evaluate(models, people, subjects=["s03", "s04", "s05"], comparison="corr")
    >>> table = scores.to_frame()
    >>> table.loc[table["subject"] == "mean", "layer"].tolist()
    ['first', 'second']
    """
    partial = comparison if isinstance(comparison, Partial) else None
    comparison = find_similarity(comparison.comparison if isinstance(comparison, Partial) else comparison)
    resampling = find_resampling(bootstrap)
    resampling.check(comparison)
    compute = Compute.of(device)
    run = source if isinstance(source, RunLike) else None
    networks = _networks(source)
    models_as_given, of_label = models_by_time(source, layers)
    match = match_ids(_model_stimuli(models_as_given, stimuli), stimulus_ids(rdms), missing=missing)
    if networks and stimuli is not None:
        warn_of_absent(stimulus_ids(rdms), stimuli)
    chosen = choose_pairs(match.matched, run, pairs)
    comparison = comparison if partial is None else partial.for_stimuli(chosen.ids)
    known = stimulus_properties(rdms, chosen.ids)
    if stimuli is not None and (labels := stimuli.subset(chosen.ids).labels) is not None:
        known["label"] = labels.tolist()
    resampling = resampling.for_stimuli(chosen.ids, known)
    brains = rdms_by_place(rdms, roi, subjects)
    measured_by = "as given"
    if networks and stimuli is not None:
        measure = _network_dissimilarity(dissimilarity, rdms, run)
        measured_by, shown = measure.name, stimuli.subset(chosen.ids)
        parts = {x: _network_vectors(y, shown, layers, measure, compute) for x, y in networks.items()}
        models = _in_one_table(parts)
    elif dissimilarity is not None:
        raise NeurordlError("dissimilarity= is for a network's patterns, and these models are RDMs already")
    else:
        models = model_vectors(models_as_given, chosen.ids, "all" if of_label else layers)
    device = "cpu" if str(compute.device).startswith("mps") else compute.device  # products are in float64
    stack = np.where(chosen.keep, np.stack(list(models.values())), np.nan)
    trained = [run] if run is not None else networks.values()
    exposures = [exposure for part in trained for exposure in getattr(part, TRAINED_ON, None) or []]
    if exposures:
        with explain("the record of what the network was trained on is damaged", remedy="fit it again"):
            check_exposures(exposures)
    leaks = _leaks(run, exposures, stimuli, chosen)
    results, coverages, leaking = {}, {}, leaks.notes if leaks is not None else []
    over_time = "time" in rdms.rdm_descriptors
    for name, (brain, _, _) in brains.items():
        data = np.where(chosen.keep, reindex(brain, chosen.ids), np.nan)
        pair = (stack, data) if partial is None else partial.shared(stack, data, chosen.ids)
        study = Study(pair[0], pair[1], comparison, device=device)
        people = People.of(exposures, subject_names(brain), brain) if exposures else None
        leaking += people.notes if people is not None else []
        fitted = _fitted_subjects(brain, run, (chosen, leaks, people), by_name=subjects is not None)
        results[name] = score_roi(study, fitted, resampling, chosen.ids, agree=not over_time)
        coverages[name] = asdict(Coverage.of(stack, data, fitted, chosen.keep))
    names = list(models)
    sums = {name: sha256_state(network.state_dict()) for name, network in networks.items()}
    common: dict[str, Any] = {
        "comparison": comparison.name,
        "n_stimuli": len(chosen.ids),
        "pairs": chosen.name,
        "dissimilarity": measured_by,
    }
    settings = {
        **common,
        "source": type(source).__name__,
        "networks": [_described(name, network, run) for name, network in networks.items()],
        "layers": names,
        "subjects": {name: list(result.subjects.names) for name, result in results.items()},
        "in_mean": {
            name: [person for person, use in zip(x.subjects.names, x.subjects.pooled, strict=True) if use]
            for name, x in results.items()
        },
        "measured": coverages,
        "leaks": list(dict.fromkeys(leaking)),
        "notices": notices(),
        "subjects_agree_p": {name: result.agreement for name, result in results.items()},
        "bootstrap": resampling.name if resampling.resamples else None,
        "n_bootstrap": resampling.n if resampling.resamples else None,
        "variance": resampling.variance_method.name if "stimuli" in resampling.factors else None,
        "groups": resampling.group_names(chosen.ids),
        "controlled": list(partial.names) if partial is not None else [],
        "preprocessing": stimuli.preprocessing.as_dict() if stimuli else None,
        "seeds": {
            "run": getattr(run, "record", {}).get("settings", {}).get("seed"),
            "bootstrap": resampling.seed if resampling.resamples else None,
        },
        "sha256": {
            "rdms": sha256_rdms(rdms),
            "stimuli": stimuli.sha256 if stimuli else None,
            "weights": sums.get("", sums or None),
        },
    }
    axes = [*(["model_time"] if of_label else []), *(["time"] if over_time else [])]
    columns = [*COLUMNS[:2], *axes, *COLUMNS[2:]]  # after the ROI
    tables = {name: _by_model_time(result.columns(names), of_label) for name, result in results.items()}
    frame = _stacked(tables, brains)
    tables = {name: _by_model_time(result.between(names), of_label) for name, result in results.items()}
    between = _stacked(tables, brains)
    places = {name: x[1:] for name, x in brains.items()}
    of_rois = pd.DataFrame(columns=["time", *OF_ROIS])
    if len({roi for roi, _ in places.values()}) > 1:
        of_rois = roi_differences(results, places, names, chosen.ids)
    of_rois = pd.DataFrame(_by_model_time({str(key): of_rois[key].to_numpy() for key in of_rois}, of_label))
    scores = Evaluation(
        frame=frame.assign(**common).reindex(columns=columns),
        match=match,
        settings=settings,
        differences=between if over_time else between.drop(columns="time"),
        roi_differences=of_rois if over_time else of_rois.drop(columns="time"),
        inferences={name: result.inference for name, result in results.items()},
        models=stack,
        means={name: result.mean_rdm for name, result in results.items()},
    )
    return scores.correct()


def _by_model_time(
    columns: Mapping[str, Any], of_label: Mapping[str, tuple[str, float]]
) -> Mapping[str, Any]:
    """Columns with the names of models over time instead of their labels, and with their times.

    Of differences, those at the same time of both models are kept.
    """
    if not of_label:
        return columns
    keys = [key for key in ("layer", "layer_a", "layer_b") if key in columns]
    pairs = {key: [of_label[label] for label in columns[key]] for key in keys}
    names = {key: np.array([name for name, _ in pairs[key]], object) for key in keys}
    times = np.array([[time for _, time in pairs[key]] for key in keys], float)
    kept = (times == times[:1]).all(axis=0)
    timed = {"model_time": times[0], **columns, **names}
    return {key: values[kept] for key, values in timed.items()}


def _stacked(
    parts: Mapping[str, Mapping[str, Any]], places: Mapping[str, tuple[RDMs, str, float]]
) -> pd.DataFrame:
    """One table of the columns of all places, with their ROIs and times first."""
    sizes = [len(next(iter(part.values()))) for part in parts.values()]
    rois, times = zip(*(places[label][1:] for label in parts), strict=True)
    columns = {"roi": np.repeat(np.array(rois, object), sizes), "time": np.repeat(times, sizes)}
    for name in next(iter(parts.values())):
        columns[name] = np.concatenate([part[name] for part in parts.values()])
    return pd.DataFrame(columns)


@dataclass(frozen=True, eq=False)
class PairChoice:
    """Pairs of stimuli to compare RDMs on.

    Attributes
    ----------
    name
        "held-out", "fitted", "cross" or "all".
    ids
        The stimuli in these pairs, naturally sorted: the same sums in whatever order the data came.
    keep
        (pairs,) which of their condensed pairs count; all but for "cross".
    n_used
        How many of the stimuli the run used.
    """

    name: str
    ids: tuple[str, ...]
    keep: Bools
    n_used: int


def choose_pairs(ids: Sequence[str], run: RunLike | None, pairs: str | None) -> PairChoice:
    """Choose among the pairs of the matched stimuli; see ``pairs`` of `evaluate`."""
    check_choice("pairs", pairs, (*_PAIRS, None))
    if run is None and pairs not in (None, "all"):
        raise NeurordlError(f"pairs={pairs!r} takes a run, which knows what it fitted; leave pairs out")
    used = {*run.fitted_ids, *run.validation_ids} if run is not None else set()
    n_used = sum(stimulus in used for stimulus in ids)
    if pairs is None and 0 < n_used < len(ids):
        raise NeurordlError(
            f"the run used {n_used} of the {len(ids)} stimuli (fitted or for validation), not the others: "
            "choose pairs='held-out', 'fitted', 'cross' or 'all', or pass only the held-out stimuli"
        )
    if pairs is None:
        pairs = "all" if run is None else "fitted" if n_used else "held-out"
    kept = {"held-out": (False,), "fitted": (True,)}.get(pairs, (False, True))
    chosen = tuple(sorted((s for s in ids if (s in used) in kept), key=natural_key))
    if len(chosen) < 3:
        raise NeurordlError(
            f"RSA takes 3 stimuli or more, but {len(chosen)} of the {len(ids)} matched are in {pairs} pairs"
        )
    i, j = np.triu_indices(len(chosen), 1)
    is_used = np.array([stimulus in used for stimulus in chosen])
    keep = is_used[i] != is_used[j] if pairs == "cross" else np.ones(len(i), dtype=bool)
    if not keep.any():
        raise NeurordlError("no cross pairs: all stimuli are fitted, or all held out; choose other pairs")
    return PairChoice(pairs, chosen, keep, int(is_used.sum()))


def _leaks(
    run: RunLike | None, exposures: Sequence[Exposure], stimuli: StimulusSet | None, chosen: PairChoice
) -> Leaks | None:
    """What the network has met of the stimuli that its run did not use; of all without the run."""
    used = {*run.fitted_ids, *run.validation_ids} if run is not None else set()
    rest = [stimulus for stimulus in chosen.ids if stimulus not in used]
    if not exposures or stimuli is None or not rest:
        return None
    now, before = (exposures[0], exposures[1:]) if run is not None else (None, exposures)
    return Leaks.of(now, before, stimuli.subset(rest))


def _fitted_subjects(
    brain: RDMs,
    run: RunLike | None,
    used: tuple[PairChoice, Leaks | None, People | None],
    *,
    by_name: bool,
) -> Subjects:
    """Who is in the mean of a ROI, and what ``fitted`` says of each subject and of the mean."""
    names, (chosen, leaks, people) = check_names(subject_names(brain)), used
    leak = leaks.brief if leaks is not None else ""
    if run is None:
        return Subjects(names, (True,) * len(names), (f"unknown{leak}",) * (len(names) + 1))
    known = {plain_name(subject) for subject in run.fitted_subjects}
    # An RDM without a subject, such as a group mean, may be of anyone.
    other = "unknown" if "unnamed" in known else "no"
    again = [plain_name(name) in known for name in names]
    again = again if people is None else (people.fitted | again).tolist()
    if run.fitted_rdms:  # the same RDM under another name is fitted all the same
        vectors = reindex(brain, sorted(stimulus_ids(brain), key=natural_key))
        vectors[~np.isfinite(vectors)] = np.nan
        again = [same or sha256_array(v) in run.fitted_rdms for same, v in zip(again, vectors, strict=True)]
    fitted = ["yes" if same else other for same in again]
    if "subject" not in brain.rdm_descriptors and (run.fitted_ids or known):
        members = [plain_name(name) in known for name in averaged_subjects(brain)[0]]
        fitted = ["unknown" if not members else {0: "no", len(members): "yes"}.get(sum(members), "some")]
    mixed = len(set(fitted)) > 1
    pooled = tuple(by_name or not mixed or value != "yes" for value in fitted)
    fitted.append(fitted[0] if not mixed else "some" if by_name else other)
    stimuli = {0: "no", len(chosen.ids): "yes"}.get(chosen.n_used, "some")
    stimuli = "one of each pair" if chosen.name == "cross" else stimuli
    return Subjects(names, pooled, tuple(f"stimuli: {stimuli}{leak}, subjects: {value}" for value in fitted))


def _networks(source: object) -> dict[str, nn.Module]:
    """The networks of a source by name, empty for a single one; none for model RDMs."""
    if isinstance(source, RunLike):
        return {"": unwrapped(source.student)}
    if isinstance(source, nn.Module):
        return {"": unwrapped(source)}
    networks = source if isinstance(source, Mapping) else {}
    if runs := [name for name, part in networks.items() if isinstance(part, RunLike)]:
        remedy = "give its student (run.student), and held-out stimuli as stimuli="
        raise NeurordlError(f"a mapping takes networks or RDMs, and {runs[0]!r} is a run; {remedy}")
    if not networks or not all(isinstance(part, nn.Module) for part in networks.values()):
        return {}
    return {str(name): unwrapped(network) for name, network in networks.items()}


def _in_one_table(parts: Mapping[str, Mapping[str, Floats]]) -> dict[str, Floats]:
    """RDMs of the layers of one network, or of several under the names of both."""
    if "" in parts:
        return dict(parts[""])
    if all(len(part) == 1 for part in parts.values()):
        return {name: vector for name, part in parts.items() for vector in part.values()}
    return {f"{name}: {x or 'output'}": vector for name, part in parts.items() for x, vector in part.items()}


def _described(name: str, network: nn.Module, run: RunLike | None) -> str:
    """A network for a paragraph of methods: its name, its class, and the checkpoint that was read."""
    spec, start = getattr(network, "build_spec", None) or {}, getattr(network, READ_FROM, None)
    text = str(spec.get("name") or type(network).__name__)
    if start is not None and run is None:
        changed = start[1] != sha256_state(network.state_dict())
        text += f", weights of {start[0]}{', changed since' if changed else ''}"
    return f"{name} ({text})" if name else text


def _model_stimuli(source: object, stimuli: StimulusSet | None) -> tuple[str, ...]:
    """Ids of the model side, checked: images prepared as the run's were, or the models' own ids."""
    if _networks(source) and stimuli is None:
        hint = ""
        if isinstance(source, RunLike) and source.held_out_ids:
            hint = f" (the run held out {len(source.held_out_ids)}, {source.held_out_ids[0]!r} and others)"
        raise NeurordlError(f"a network is evaluated on images: pass a StimulusSet as stimuli={hint}")
    if stimuli is not None:
        check_stimuli(stimuli)
    if stimuli is None:
        return shared_stimuli({names[0]: rdms for rdms, names in model_stacks(source)})
    before = source.preprocessing if isinstance(source, RunLike) else None
    if before not in (None, stimuli.preprocessing):
        now = f"the stimuli were prepared as {stimuli.preprocessing}"
        raise NeurordlError(f"{now}, but those of the run as {before}; prepare them alike")
    return stimuli.ids


def _network_dissimilarity(
    dissimilarity: DissimilarityLike | None, rdms: RDMs, run: RunLike | None
) -> Dissimilarity:
    """The chosen dissimilarity of the network's patterns, or that of the data if a network can have it."""
    if dissimilarity is not None:
        return network_dissimilarity(dissimilarity)
    measure = dissimilarity_from_text(rdms.dissimilarity_measure)
    if measure is None:
        chosen = _trained_by(run) or find_dissimilarity("correlation")
        why = f"the dissimilarity of the data's RDMs is unknown ({rdms.dissimilarity_measure!r})"
    else:
        chosen = measure.of_network()
        why = f"{measure} needs {measure.lacking_in_network}, which a network does not have"
        if chosen == measure:
            return measure
    remedy = f"the network's RDMs are computed by {chosen}; choose another with dissimilarity="
    notify(f"{why}: {remedy}")
    return chosen


def _trained_by(run: RunLike | None) -> Dissimilarity | None:
    """The dissimilarity of the RDM losses of a run, if it is a single one that is known by its name."""
    losses = getattr(run, "record", {}).get("objective", {}).get("losses", {})
    names = {loss["dissimilarity"] for loss in losses.values() if "dissimilarity" in loss}
    return dissimilarity_from_text(names.pop()) if len(names) == 1 else None


def _network_vectors(
    network: nn.Module,
    stimuli: StimulusSet,
    layers: str | Sequence[str],
    measure: Dissimilarity,
    compute: Compute,
) -> dict[str, Floats]:
    """Condensed RDM of each layer of a network.

    Without a batch size all stimuli go through the network at once where their largest layer is not too
    large, and of each layer only its RDM is kept.
    """
    ids = stimuli.ids
    sizes = {name: len(ids) * size for name, size in layer_bytes(network, stimuli, layers).items()}
    if compute.batch_size is None and max(sizes.values(), default=0) <= _AT_ONCE_BYTES:

        def rdm(features: Tensor) -> Tensor:
            patterns = features.flatten(1)
            if patterns.device.type == "mps":  # which has no float64
                patterns = patterns.cpu()
            # wide ones are added up in float64 anyway, without a copy
            return measure(patterns.float() if patterns.shape[1] >= WIDE else patterns.double())

        whole = replace(compute, batch_size=len(ids))
        ((_, rdms),) = read_batches(network, stimuli, layers, whole, reduce=rdm)
        return {name: values.double().cpu().numpy() for name, values in rdms.items()}
    vectors = {}
    quiet = replace(compute, progress=False)
    readable = extract_patterns(network, stimuli.subset(ids[:3]), layers, device=quiet)
    for group in _groups({name: sizes.get(name, 0) for name in readable}):
        for name, patterns in extract_patterns(network, stimuli, group, device=compute).items():
            vectors[name] = reindex(compute_rdms(patterns, measure, progress=False), ids)[0]
    return vectors


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names of layers whose patterns are kept together."""
    group: list[str] = []
    for name, size in sizes.items():
        if group and sum(sizes[member] for member in group) + size > _PATTERN_BYTES:
            yield group
            group = []
        group.append(name)
    yield group
