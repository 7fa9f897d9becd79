"""MEG and EEG to patterns over time: `read_epochs` for MNE's epochs, evoked responses, and arrays."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from rsatoolbox.data import TemporalDataset

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import is_missing
from neurordl.patterns.bids import parse_name
from neurordl.validate import listed

Names: TypeAlias = str | Sequence[str] | None


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
        themselves. By default each file or Epochs of a list is a run, named by ``run-`` in the file's name.
    picks
        Channels, as MNE picks them: types such as "mag" or "eeg", or names. By default all channels of data
        that are not marked as bad, which must be of one type, for others have another unit.
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
        Epochs were dropped, channels are marked as bad, trials have no stimulus, or channels have several
        types. The message counts them.

    Raises
    ------
    NeurordlError
        There are no ids or times where they are needed, or they do not fit; channels are of several types and
        were not picked; runs differ in their channels or times; a file is damaged; or MNE is not installed.

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
    elif times is not None:
        raise NeurordlError("times= is for an array; epochs and evoked responses have times of their own")
    else:
        parts = _of_mne(epochs, stimulus, run, picks)
    for part in parts[1:]:
        if part.channels != parts[0].channels or not np.array_equal(part.times, parts[0].times):
            problem = f"{part.label} has other channels or times than {parts[0].label}"
            raise NeurordlError(f"{problem}; pick the channels that all have, and crop to the same times")
    ids = [stimulus for part in parts for stimulus in part.ids]
    known = np.array([not is_missing(stimulus) for stimulus in ids], dtype=bool)
    if not known.all():
        notify(f"{np.sum(~known)} of {len(ids)} trials have no stimulus (blank or n/a), and are left out")
    if not known.any():
        raise NeurordlError(f"no trial of {parts[0].label} has a stimulus; name them by stimulus=")
    data = np.concatenate([part.data for part in parts]) if len(parts) > 1 else parts[0].data
    observed: dict[str, list[str]] = {"stimulus": [str(x) for x, use in zip(ids, known, strict=True) if use]}
    runs = [name for part in parts for name in part.runs]
    if runs:
        observed["run"] = [str(name) for name, use in zip(runs, known, strict=True) if use]
    record = {"reader": "read_epochs", "sources": [part.label for part in parts]}
    descriptors = {"provenance": json.dumps(record, ensure_ascii=False)}
    subject = subject or next((part.subject for part in parts if part.subject), None)
    return TemporalDataset(
        data if known.all() else data[known],
        descriptors=descriptors | ({} if subject is None else {"subject": subject}),
        obs_descriptors=observed,
        channel_descriptors=parts[0].channels,
        time_descriptors={"time": parts[0].times.tolist()},
    )


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
        raise NeurordlError(f"{label} has {len(data)} trials without ids: give stimulus= a list of them")
    if times is None or len(times) != data.shape[2]:
        counts = "no times" if times is None else f"{len(times)} times"
        raise NeurordlError(f"{label} has {data.shape[2]} samples and {counts}: give each a time in seconds")
    runs = [] if run is None else _listed(run, "run", len(data), label)
    with explain(f"times= of {label} are no numbers"):
        seconds = np.asarray(times, dtype=np.float64)
    channels = {"channel": [str(k) for k in range(data.shape[1])]}
    return _Trials(label, data, seconds, _listed(stimulus, "stimulus", len(data), label), runs, channels)


def _listed(values: Names, name: str, count: int, label: str) -> list[Any]:
    """Values of each trial that were given, as many as there are trials."""
    if isinstance(values, str) or values is None:
        raise NeurordlError(f"{name}={values!r}: {label} has no metadata; give a list, one for each trial")
    if len(values) != count:
        raise NeurordlError(f"{name}= has {len(values)} values, and {label} has {count} trials")
    return list(values)


def _of_mne(source: Any, stimulus: Names, run: Names, picks: Names) -> list[_Trials]:
    try:
        import mne
    except ImportError as error:
        raise NeurordlError("epochs are read by MNE; install it: pip install 'neurordl[mne]'") from error
    sources = list(source) if isinstance(source, list | tuple) else [source]
    if not sources:
        raise NeurordlError("there are no epochs to read; the list is empty")
    if all(isinstance(part, mne.Evoked) for part in sources):
        return [_of_evoked(sources, "the evoked responses", stimulus, run, picks)]
    parts = []
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
        several = len(sources) > 1 and run is None
        runs = [names.get("run", str(number))] * len(trials.ids) if several else trials.runs
        parts.append(_Trials(**{**vars(trials), "runs": runs, "subject": names.get("sub")}))
    return parts


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
        return [values[k] for k in epochs.selection]
    return _listed(values, name, len(epochs), label)


def _of_evoked(parts: Sequence[Any], label: str, stimulus: Names, run: Names, picks: Names) -> _Trials:
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
    bads = list(data.info["bads"])
    with explain(f"no channel of {label} fits picks={picks!r}"):
        data.pick("data" if picks is None else picks, exclude="bads", verbose="ERROR")
    if bads:
        notify(f"{label}: {len(bads)} channels are marked as bad and left out: {listed(bads)}")
    types = sorted(set(data.get_channel_types()))
    if len(types) > 1 and picks is None:
        problem = f"{label} has channels of several types ({', '.join(types)}), whose units differ"
        raise NeurordlError(f"{problem}; choose one with picks=, or name all and whiten them with noise=")
    if len(types) > 1:
        notify(f"{label}: channels have several types ({', '.join(types)}), whose units differ; whiten them")
    return data


def _channels(data: Any) -> dict[str, list[str]]:
    return {"channel": list(data.ch_names), "type": list(data.get_channel_types())}
