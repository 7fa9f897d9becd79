"""How many subjects, stimuli and runs does it take? By simulation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rsatoolbox.data import Dataset
from scipy import stats

from neurordl.errors import NeurordlError
from neurordl.ids import check_ids
from neurordl.rdms.compute import compute_rdms
from neurordl.simulate.patterns import simulate_patterns, standardised, whole

__all__ = ["plan_study"]

Floats = npt.NDArray[np.float64]


def plan_study(
    patterns: npt.ArrayLike,
    ids: Sequence[str],
    *,
    subjects: Sequence[int] = (5, 10, 20),
    stimuli: Sequence[int] | None = None,
    runs: Sequence[int] = (2, 4, 8),
    rival: npt.ArrayLike | None = None,
    method: str = "crossnobis",
    n_simulations: int = 50,
    alpha: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """How similar the true model would be in studies of several sizes, and how often it would be found.

    Similarity is Pearson's correlation of RDMs. In each simulated study the stimuli are drawn anew from those
    given, and tests are one-sided t tests over subjects.

    Parameters
    ----------
    patterns, ids
        The true geometry, (stimuli, channels), as in `simulate_patterns`: its mean over channels, and the
        rival's, is taken away before anything is simulated or compared.
    subjects, stimuli, runs
        Numbers to try, in all combinations; by default all stimuli.
    rival
        Patterns of another model, (stimuli, channels), that the true one has to beat.
    method
        The dissimilarity, as in `neurordl.compute_rdms`. Models are measured by the correlation distance if
        it is ``correlation``, ``cosine`` if it is that, else by Euclidean distances.
    n_simulations, alpha, seed
        Studies for each combination, level of the tests, and what the random numbers follow from.
    **options
        Of `simulate_patterns`: ``snr``, ``idiosyncrasy``, ``n_channels``, ``smoothness``, ``missing``. Take
        ``snr`` from a pilot.

    Returns
    -------
    DataFrame
        For each combination, means over studies: ``similarity`` of the true model to a subject,
        ``ceiling_lower`` and ``ceiling_upper`` (each subject with the mean of the others, of all),
        ``power``, the share of studies in which the true model is above 0, and with a rival ``power_rival``,
        in which it is above the rival.

    Raises
    ------
    NeurordlError
        A number that cannot be, or as `simulate_patterns`.
    """
    names = check_ids(ids, "simulated patterns")
    sizes = _numbers("stimuli", [len(names)] if stimuli is None else stimuli)
    subjects, runs = _numbers("subjects", subjects), _numbers("runs", runs)
    whole(n_simulations=n_simulations, seed=seed)
    if min(subjects) < 2 or min(sizes) < 4 or max(sizes) > len(names) or min(runs) < 1 or n_simulations < 1:
        raise NeurordlError(
            f"cannot plan subjects={subjects}, stimuli={sizes}, runs={runs}, "
            f"n_simulations={n_simulations}: expected 2 subjects or more, 4 to {len(names)} stimuli, 1 run "
            "or more, 1 simulation or more"
        )
    if not isinstance(alpha, Real) or not 0 < float(alpha) < 1:
        raise NeurordlError(f"alpha={alpha!r}: expected a share between 0 and 1")
    # as they are simulated, without their mean over channels, which would count in Euclidean distances
    models = [standardised(patterns, len(names))]
    if rival is not None:
        models.append(standardised(rival, len(names), "patterns of the rival"))
    rows = []
    for size, n_runs in product(sizes, runs):
        found = [
            _study(models, names, size, n_runs, max(subjects), method, [seed, k], options)
            for k in range(n_simulations)
        ]
        for n in subjects:  # the first subjects of each study
            with warnings.catch_warnings():
                # pairs that others lack have no mean; subjects without noise have no variance
                warnings.simplefilter("ignore", RuntimeWarning)
                each = pd.DataFrame([_scores(study[:, :n], vectors[:n], alpha) for study, vectors in found])
            rows.append({"n_subjects": n, "n_stimuli": size, "n_runs": n_runs, **each.mean().to_dict()})
    return pd.DataFrame(rows)


def _numbers(name: str, given: object) -> list[int]:
    if not isinstance(given, Iterable) or not (numbers := list(given)):
        raise NeurordlError(f"{name}={given!r}: expected one whole number or more, in a list")
    whole(**{f"{name}, number {k} (from 0)": number for k, number in enumerate(numbers)})
    return [int(number) for number in numbers]


def _study(
    models: Sequence[Floats],
    names: tuple[str, ...],
    size: int,
    n_runs: int,
    n_subjects: int,
    method: str,
    seed: Sequence[int],
    options: dict[str, Any],
) -> tuple[Floats, Floats]:
    """Similarity of each model to each subject, and the subjects' RDMs, of one simulated study."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:size])
    shown = [names[k] for k in chosen]
    entropy = int(np.random.SeedSequence(seed).generate_state(1)[0])
    data = simulate_patterns(models[0][chosen], shown, n_subjects, runs=n_runs, seed=entropy, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the stimuli that missing= takes away
        measured = compute_rdms(data, method)
    order = [shown.index(str(name)) for name in measured.pattern_descriptors["stimulus"]]
    kind = method if method in ("correlation", "cosine") else "euclidean"
    similar = []
    for model in models:
        rows = Dataset(model[chosen][order], obs_descriptors={"stimulus": [shown[k] for k in order]})
        vector = compute_rdms(rows, kind).dissimilarities[0]
        similar.append([_pearson(vector, one) for one in measured.dissimilarities])
    if not np.isfinite(similar).all():
        raise NeurordlError(
            f"of {size} stimuli missing= leaves a subject too few pairs, or their distances are equal; try "
            "more stimuli"
        )
    return np.array(similar), np.asarray(measured.dissimilarities)


def _scores(similar: Floats, vectors: Floats, alpha: float) -> dict[str, float]:
    normal = np.stack([(one - np.nanmean(one)) / np.nanstd(one) for one in vectors])
    others = [np.nanmean(np.delete(normal, k, axis=0), axis=0) for k in range(len(normal))]
    mean = np.nanmean(normal, axis=0)
    scores = {
        "similarity": float(similar[0].mean()),
        "ceiling_lower": float(np.mean([_pearson(o, v) for o, v in zip(others, vectors, strict=True)])),
        "ceiling_upper": float(np.mean([_pearson(mean, one) for one in vectors])),
        "power": float(stats.ttest_1samp(similar[0], 0, alternative="greater").pvalue < alpha),
    }
    if len(similar) > 1:
        found = stats.ttest_rel(similar[0], similar[1], alternative="greater").pvalue
        scores["power_rival"] = float(found < alpha)
    return scores


def _pearson(one: Floats, other: Floats) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3 or not np.ptp(one[both]) or not np.ptp(other[both]):
        return np.nan
    return float(np.corrcoef(one[both], other[both])[0, 1])
