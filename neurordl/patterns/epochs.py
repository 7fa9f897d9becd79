"""MEG and EEG to patterns over time: `read_epochs` for MNE's epochs, evoked responses, and arrays."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from rsatoolbox.data import TemporalDataset

from neurordl.arrays import Floats, check_times
from neurordl.errors import NeurordlError, each_notice_once, explain, notify
from neurordl.ids import is_missing
from neurordl.patterns.bids import parse_name
from neurordl.validate import listed

Names: TypeAlias = str | Sequence[str] | None

_ARRAY_FILES = (".npy", ".npz", ".mat", ".h5", ".hdf5", ".csv", ".tsv")


def read_epochs(
    epochs: Any,
    stimulus: Names = None,
    *,
    run: Names = None,
    picks: Names = None,
    times: Sequence[float] | None = None,
    subject: str | None = None,
) -> TemporalDataset:
    """Read trials over time of one subject, from MNE or from an array.

    Parameters
    ----------
    epochs
        MNE's ``Epochs`` or ``EpochsArray``; a file of them (``-epo.fif``); ``Evoked`` responses, a list or a
        file of them (``-ave.fif``), each of which is a trial; or an array (trials, channels, times). A list
        of Epochs or of files of epochs is read as runs.
    stimulus
        Where the stimulus id of each trial is. By default the name of its event, or the comment of an
        ``Evoked``. A column of the metadata of the epochs, or the ids themselves, one for each trial (also of
        those that were dropped, if there are as many as events); an array needs the ids.
    run
        The run of each trial, for cross-validated distances: a column of the metadata, or the runs
        themselves. By default each file or Epochs of a list is a run, named by ``run-`` in the file's name,
        and by ``ses-``, too, if several sessions have runs of the same name.
    picks
        Channels, as MNE picks them: types such as "mag" or "eeg", or names, also of channels that are marked
        as bad. By default all channels of data that are not, which must be of one type, for others have
        another unit.
    times
        Times of the samples of an array, in seconds.
    subject
        Name of the subject. By default it is read from the name of the file (``sub-``).

    Returns
    -------
    TemporalDataset
        Measurements (trials, channels, times), in the units of MNE (volts, teslas). Observation descriptors:
        ``stimulus`` and, if known, ``run``; channel descriptors: ``channel`` and ``type``; time descriptor:
        ``time`` in seconds.

    Warns
    -----
    UserWarning
        Epochs were dropped, channels are marked as bad, projections are not applied, trials have no stimulus
        or no run, or channels have several types. The message counts them. Times of an array reach beyond
        50 s, as milliseconds do.

    Raises
    ------
    NeurordlError
        There are no ids or times where they are needed, or they do not fit; evoked responses are standard
        errors; channels are of several types and were not picked; a list of names is given for several files;
        these differ in their subjects, channels or times; a file is damaged; or MNE is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> trials = np.random.default_rng(0).normal(size=(4, 8, 50))
    >>> patterns = nrl.read_epochs(trials, ["face", "house", "face", "house"], times=np.arange(50) / 100)
    >>> patterns.measurements.shape, patterns.time_descriptors["time"][-1]
    ((4, 8, 50), 0.49)
    """
    if isinstance(epochs, np.ndarray):
        parts = [_of_array(epochs, stimulus, run, times)]
    else:
        parts = _of_mne(epochs, stimulus, run, picks, times)
    for part in parts[1:]:
        _check_alike(part, parts[0])
    subject = subject or _subject_of(parts)
    named = {"stimulus": _texts([name for part in parts for name in part.ids])}
    if any(len(part.runs) for part in parts):
        named["run"] = _texts([name for part in parts for name in part.runs])
    known = np.ones(len(named["stimulus"]), dtype=bool)
    for name, texts in named.items():
        has = np.array([text is not None for text in texts], dtype=bool)
        if not has.all():
            notify(f"{np.sum(~has)} of {len(has)} trials have no {name} (blank or n/a), and are left out")
        if not has.any():
            raise NeurordlError(f"no trial of {parts[0].label} has a {name}; name them by {name}=")
        known &= has
    data = np.concatenate([part.data for part in parts]) if len(parts) > 1 else parts[0].data
    record = {"reader": "read_epochs", "sources": [part.label for part in parts]}
    descriptors = {"provenance": json.dumps(record, ensure_ascii=False)}
    return TemporalDataset(
        data if known.all() else data[known],
        descriptors=descriptors | ({} if subject is None else {"subject": subject}),
        obs_descriptors={
            name: [text for text, use in zip(texts, known, strict=True) if use]
            for name, texts in named.items()
        },
        channel_descriptors=parts[0].channels,
        time_descriptors={"time": parts[0].times.tolist()},
    )


def _texts(values: Sequence[object]) -> list[str | None]:
    """Names as text, None where there is none; columns of whole numbers with gaps are decimal ones."""
    present = [value for value in values if not is_missing(value)]
    whole = all(isinstance(value, float) and value.is_integer() for value in present)
    return [None if is_missing(x) else str(int(x) if whole else x) for x in values]  # type: ignore[call-overload]


def _check_alike(part: _Trials, first: _Trials) -> None:
    """Check that a run has the channels, in their order, and the times of the first one."""
    remedy = "pick the channels that all have, and crop to the same times"
    mine, theirs = (trials.channels["channel"] for trials in (part, first))
    if other := [
        name
        for name in {**dict.fromkeys(mine), **dict.fromkeys(theirs)}
        if (name in mine) != (name in theirs)
    ]:
        problem = f"other channels than {first.label} (not in both: {listed(other)})"
    elif part.channels != first.channels:
        problem, remedy = (
            f"its channels in another order than {first.label}",
            "reorder_channels brings them into one",
        )
    elif not np.array_equal(part.times, first.times):
        spans = [f"{len(x.times)} from {x.times[0]:g} to {x.times[-1]:g} s" for x in (part, first)]
        problem = f"other times than {first.label} ({spans[0]}, not {spans[1]})"
    else:
        return
    raise NeurordlError(f"{part.label} has {problem}; {remedy}")


def _subject_of(parts: Sequence[_Trials]) -> str | None:
    """The subject that the names of the files say; several are an error."""
    subjects = list(dict.fromkeys(part.subject for part in parts if part.subject))
    if len(subjects) > 1:
        problem = (
            f"the files are of {len(subjects)} subjects ({listed(subjects)}), and a list is the runs of one"
        )
        raise NeurordlError(f"{problem}; call read_epochs for each, or name the one by subject=")
    return subjects[0] if subjects else None


@dataclass(frozen=True, eq=False)
class _Trials:
    """Trials of a file, an object or an array, with what is known of them."""

    label: str
    data: npt.NDArray[Any]
    times: Floats
    ids: Sequence[object]
    runs: Sequence[object]
    channels: dict[str, list[str]]
    subject: str | None = None


def _of_array(data: npt.NDArray[Any], stimulus: Names, run: Names, times: Sequence[float] | None) -> _Trials:
    label = "the array"
    if data.ndim != 3 or data.dtype.kind not in "fiu":
        expected = "expected numbers (trials, channels, times)"
        raise NeurordlError(f"{label} is {data.dtype} of shape {data.shape}: {expected}")
    if stimulus is None or isinstance(stimulus, str):
        instead = "" if stimulus is None else f", not {stimulus!r}"
        raise NeurordlError(
            f"{label} has {len(data)} trials without ids: give stimulus= a list of them{instead}"
        )
    if times is None or len(times) != data.shape[2]:
        counts = "no times" if times is None else f"{len(times)} times"
        swapped = times is not None and len(times) in data.shape
        remedy = (
            "bring its axes into the order (trials, channels, times)"
            if swapped
            else "give each a time in seconds"
        )
        shape = f" of the shape {data.shape}" if swapped else ""
        raise NeurordlError(f"{label}{shape} has {data.shape[2]} samples and {counts}: {remedy}")
    runs = [] if run is None else _listed(run, "run", len(data), label)
    seconds = check_times(label, times)
    channels = {"channel": [str(k) for k in range(data.shape[1])]}
    return _Trials(label, data, seconds, _listed(stimulus, "stimulus", len(data), label), runs, channels)


def _listed(values: Names, name: str, count: int, label: str) -> list[Any]:
    """Values of each trial that were given, as many as there are trials."""
    if isinstance(values, str) or values is None:
        raise NeurordlError(f"{name}={values!r}: {label} has no metadata; give a list, one for each trial")
    if len(values) != count:
        raise NeurordlError(f"{name}= has {len(values)} values, and {label} has {count} trials")
    return list(values)


def _of_mne(
    source: Any, stimulus: Names, run: Names, picks: Names, times: Sequence[float] | None
) -> list[_Trials]:
    try:
        import mne
    except ImportError as error:
        raise NeurordlError("epochs are read by MNE; install it: pip install 'neurordl[mne]'") from error
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if not sources:
        raise NeurordlError("there are no epochs to read; the list is empty")
    for part in sources:
        if isinstance(part, str | os.PathLike) and Path(part).suffix.lower() in _ARRAY_FILES:
            remedy = "load the array (trials, channels, times) and pass it with its stimulus= and times="
            raise NeurordlError(f"{part} is no file of MNE; {remedy}")
    if times is not None:
        raise NeurordlError("times= is for an array; epochs and evoked responses have times of their own")
    if all(isinstance(part, mne.Evoked) for part in sources):
        return [_of_evoked(sources, "the evoked responses", stimulus, run, picks)]
    for name, values in (("stimulus", stimulus), ("run", run)):
        if len(sources) > 1 and values is not None and not isinstance(values, str):
            problem = (
                f"{name}= is a list, which names the trials of one of them, and there are {len(sources)}"
            )
            raise NeurordlError(f"{problem}; put the names into the metadata of each, and give their column")
    parts, entities = [], []
    for number, part in enumerate(sources, start=1):
        label, names = "the epochs" + (f" {number}" if len(sources) > 1 else ""), dict[str, str]()
        if isinstance(part, str | os.PathLike):
            path = Path(part)
            label, names = path.name, parse_name(re.sub("-(epo|ave)", r"_\1", path.name))[0]
            part = _loaded(mne, path)
        if isinstance(part, list):
            trials = _of_evoked(part, label, stimulus, run, picks)
        elif isinstance(part, mne.BaseEpochs):
            trials = _of_epochs(part, label, stimulus, run, picks)
        else:
            expected = "MNE's Epochs or Evoked, a file of them, or an array"
            raise NeurordlError(f"read_epochs takes {expected}, not {type(part).__name__}")
        parts.append(replace(trials, subject=names.get("sub")))
        entities.append(names)
    if len(parts) == 1 or run is not None:
        return parts
    runs = _names_of_runs(entities)
    return [replace(part, runs=[name] * len(part.ids)) for part, name in zip(parts, runs, strict=True)]


def _names_of_runs(entities: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the runs of files: ``run-``, or the number; with ``ses-`` where runs have one name."""
    runs = [of.get("run", str(number)) for number, of in enumerate(entities, start=1)]
    if len(set(runs)) < len(runs):
        runs = [f"{of.get('ses', '')} {run}".strip() for of, run in zip(entities, runs, strict=True)]
    return runs if len(set(runs)) == len(runs) else [str(number) for number in range(1, len(runs) + 1)]


def _loaded(mne: Any, path: Path) -> Any:
    """Epochs of a file, or the list of its evoked responses."""
    if not path.is_file():
        raise NeurordlError(f"there is no file {path}; check the path")
    of_evoked = path.name.removesuffix(".gz").removesuffix(".fif").endswith(("-ave", "_ave"))
    with explain(f"cannot read {path} (-epo.fif holds epochs, and -ave.fif evoked responses)"):
        if of_evoked:
            return mne.read_evokeds(path, verbose="ERROR")
        return mne.read_epochs(path, verbose="ERROR")


def _of_epochs(source: Any, label: str, stimulus: Names, run: Names, picks: Names) -> _Trials:
    with explain(f"cannot read the data of {label}"):
        epochs = source.copy().drop_bad(verbose="ERROR")
    reasons = [reason for reason in epochs.drop_log if reason and "IGNORED" not in reason]
    n_events = sum("IGNORED" not in reason for reason in epochs.drop_log)
    if reasons:
        counts = Counter(name for reason in reasons for name in reason)
        why = listed(f"{name} {count}" for name, count in counts.most_common())
        notify(f"{label}: {len(reasons)} of {n_events} epochs were dropped ({why})")
    if not len(epochs):
        raise NeurordlError(f"{label} has no epochs left; all {n_events} were dropped")
    picked = _picked(epochs, label, picks)
    names = {code: name for name, code in epochs.event_id.items()}
    ids = [names[code] for code in epochs.events[:, 2]]
    ids = ids if stimulus is None else _column(epochs, stimulus, "stimulus", label)
    runs = [] if run is None else _column(epochs, run, "run", label)
    return _Trials(label, picked.get_data(copy=False), picked.times, ids, runs, _channels(picked))


def _column(epochs: Any, values: Names, name: str, label: str) -> list[Any]:
    """Values of each epoch: a column of the metadata, or a list, also of epochs before some were dropped."""
    if isinstance(values, str):
        known = [] if epochs.metadata is None else list(epochs.metadata.columns)
        if values not in known:
            has = f"its metadata have {listed(known, most=20)}" if known else "it has no metadata"
            raise NeurordlError(f"{name}={values!r} is no column of the metadata of {label}: {has}")
        return list(epochs.metadata[values])
    if values is not None and len(values) == len(epochs.drop_log) != len(epochs):
        values = list(values)  # of a Series, too, by position and not by its index
        return [values[k] for k in epochs.selection]
    return _listed(values, name, len(epochs), label)


def _of_evoked(parts: Sequence[Any], label: str, stimulus: Names, run: Names, picks: Names) -> _Trials:
    if errors := [evoked.comment for evoked in parts if evoked.kind != "average"]:
        problem = (
            f"{len(errors)} of {len(parts)} of {label} are standard errors ({listed(errors)}), no responses"
        )
        raise NeurordlError(f'{problem}; leave them out: mne.read_evokeds(path, kind="average")')
    with each_notice_once():
        picked = [_picked(evoked.copy(), label, picks) for evoked in parts]
    for evoked in picked[1:]:
        if evoked.ch_names != picked[0].ch_names or not np.array_equal(evoked.times, picked[0].times):
            problem = f"{evoked.comment!r} of {label} has other channels or times than {picked[0].comment!r}"
            raise NeurordlError(f"{problem}; bring them to the same channels and times")
    ids = [evoked.comment for evoked in parts]
    ids = ids if stimulus is None else _listed(stimulus, "stimulus", len(parts), label)
    runs = [] if run is None else _listed(run, "run", len(parts), label)
    data = np.stack([evoked.data for evoked in picked])
    return _Trials(label, data, picked[0].times, ids, runs, _channels(picked[0]))


def _picked(data: Any, label: str, picks: Names) -> Any:
    """The chosen channels; those marked as bad are left out unless they are named."""
    type_of_bad = (
        dict(zip(data.info["bads"], data.get_channel_types(data.info["bads"]), strict=True))
        if data.info["bads"]
        else {}
    )
    with explain(f"no channel of {label} fits picks={picks!r}"):
        data.pick("data" if picks is None else picks, exclude="bads", verbose="ERROR")
    bads = [name for name, type_ in type_of_bad.items() if picks is None or type_ in data.get_channel_types()]
    if absent := [name for name in bads if name not in data.ch_names]:
        notify(f"{label}: {len(absent)} channels are marked as bad and left out: {listed(absent)}")
    if kept := [name for name in bads if name in data.ch_names]:
        notify(f"{label}: {len(kept)} channels that picks= names are marked as bad: {listed(kept)}")
    if idle := [projection["desc"] for projection in data.info["projs"] if not projection["active"]]:
        notify(
            f"{label}: {len(idle)} projections are not applied ({listed(idle)}); apply_proj() applies them"
        )
    types = sorted(set(data.get_channel_types()))
    if len(types) > 1 and picks is None:
        problem = f"{label} has channels of several types ({', '.join(types)}), whose units differ"
        raise NeurordlError(f"{problem}; choose one with picks=, or name all and whiten them with noise=")
    if len(types) > 1:
        notify(f"{label}: channels have several types ({', '.join(types)}), whose units differ; whiten them")
    return data


def _channels(data: Any) -> dict[str, list[str]]:
    return {"channel": list(data.ch_names), "type": list(data.get_channel_types())}
