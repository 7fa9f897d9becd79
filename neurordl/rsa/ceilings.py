"""How similar RDMs could be: noise ceilings of subjects' RDMs, and whether these may be chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.rdm.rdms import RDMs
from scipy import optimize

from neurordl.arrays import Floats, Ints, nan_mean
from neurordl.errors import NeurordlError, notify
from neurordl.measures.comparisons import Comparison, ComparisonLike, find_similarity, mean_ranks
from neurordl.measures.condensed import missing_groups, n_stimuli, square
from neurordl.rdms.selection import check_one_per_subject
from neurordl.rsa.compare import similarity, subject_vectors
from neurordl.validate import check_count

_ROUNDING = 1e-12  # a permuted similarity that is less by this only counts as one that is not less
_TESTED = 500_000  # values up to which `agreement` takes a second or so
_STACK = 64 << 20  # bytes of permuted RDMs at once
_ALPHA = 0.05
_CLIMB = {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7}
_KEYS = 256  # pairs by which subjects are sorted


def noise_ceiling(rdms: RDMs, comparison: ComparisonLike = "rho-a") -> tuple[float, float]:
    """Estimate the similarity that the true model would reach, given the differences between subjects.

    The bounds are means over subjects: of the similarity of each subject's RDM with the mean RDM of the other
    subjects (lower), and with that of all subjects (upper; Nili et al. 2014, PLoS Comput. Biol. 10:e1003553).
    RDMs are normalized before they are averaged, as in rsatoolbox, whose ``boot_noise_ceiling`` gives the
    same bounds if no pair is missing. Pairs are averaged over the subjects in whom they were measured; where
    subjects miss different pairs, the upper bound takes the RDM that fits all subjects best instead, since a
    model may be nearer to them than their mean RDM is.

    Parameters
    ----------
    rdms
        RDMs, one per subject; use `select_rdms` to choose or average.
    comparison
        As in `compare`.

    Returns
    -------
    lower, upper
        The two bounds; NaN if the similarity is undefined for all subjects.

    Warns
    -----
    UserWarning
        There is no evidence that the subjects agree: by a permutation test, the lower bound is not
        significantly above chance. RDMs with very many pairs are not tested. Or the upper bound is none:
        subjects miss different pairs, and there are too many for ranks, or the comparison has no gradient.

    Raises
    ------
    NeurordlError
        There are fewer than two subjects, or several RDMs of a subject.

    Examples
    --------
    >>> import numpy as np
    >>> from rsatoolbox.rdm import RDMs
    >>> import neurordl as nrl
    >>> distances = np.array([[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 20]])
    >>> nrl.noise_ceiling(RDMs(distances, rdm_descriptors={"subject": ["a", "b"]}), "spearman")
    (1.0, 1.0)
    """
    comparison, vectors = find_similarity(comparison), subject_vectors(check_one_per_subject(rdms))
    if note := chance_note(agreement(vectors, comparison, seed=0)):
        notify(note)
    return ceiling(vectors, comparison)


def ceiling(vectors: Floats, comparison: ComparisonLike) -> tuple[float, float]:
    """Lower and upper noise ceiling of condensed RDMs (subjects, pairs); see `noise_ceiling`."""
    lower, upper = subject_bounds(vectors, comparison)
    return float(nan_mean(lower)), float(nan_mean(upper))


def _lower_ceiling(vectors: Floats, comparison: ComparisonLike) -> float:
    """The lower bound of `ceiling` alone, which is fast where subjects miss different pairs."""
    return float(nan_mean(subject_bounds(vectors, comparison, fit=False)[0]))


def subject_bounds(vectors: Floats, comparison: ComparisonLike, fit: bool = True) -> tuple[Floats, Floats]:
    """Similarity of each subject's RDM with the others' pooled RDM (lower), and with all pooled (upper).

    Parameters
    ----------
    vectors
        Condensed RDMs (subjects, pairs); NaN marks a missing pair.
    comparison
        As in `compare`. Kernels of inner products have a closed form; those of ranks sort each subject once.
    fit
        Whether the upper bound is that of the RDM that fits best where subjects miss different pairs, which
        takes long, or that of their mean RDM.

    Returns
    -------
    lower, upper
        (subjects,); NaN where undefined.

    Raises
    ------
    NeurordlError
        There are fewer than two subjects.
    """
    comparison = find_similarity(comparison)
    vectors = np.asarray(vectors, dtype=np.float64)
    if len(vectors) < 2:
        raise NeurordlError("a noise ceiling takes two subjects or more, but there is one; choose more")
    groups = missing_groups(vectors)
    absent = groups[0][1]
    if comparison.kernel is not None and len(groups) == 1 and int((~absent).sum()) > 1:
        measured = torch.as_tensor(~absent) if absent.any() else None
        bounds = comparison.kernel.bounds(torch.as_tensor(vectors), measured)
        if bounds is not None:
            return bounds[0].numpy(), bounds[1].numpy()
    lower, upper = _pooled_bounds(vectors, np.ones(len(vectors), dtype=np.int64), comparison)
    return lower, _fitted_upper(vectors, upper, comparison) if fit and len(groups) > 1 else upper


def drawn_ceiling(vectors: Floats, drawn: Ints, comparison: Comparison) -> tuple[float, float]:
    """Noise ceiling of RDMs (subjects, pairs), each drawn so often; NaN of fewer than two subjects.

    The copies of a subject are pooled together and left out together.
    """
    present = np.flatnonzero(drawn)
    if len(present) < 2:
        return np.nan, np.nan
    lower, upper = _pooled_bounds(vectors[present], drawn[present], comparison)
    return float(nan_mean(lower)), float(nan_mean(upper))


def _pooled_bounds(vectors: Floats, times: Ints, comparison: Comparison) -> tuple[Floats, Floats]:
    """`subject_bounds` in the general way: pooled, and compared one by one."""
    scaled = scaled_to_pool(vectors, comparison)

    def with_pool(rows: slice, times: Ints) -> Floats:
        pool = pooled(np.repeat(scaled, times, axis=0), comparison)
        return np.asarray(similarity(pool, vectors[rows], comparison)[0])

    upper = with_pool(slice(None), times)
    subjects = np.arange(len(vectors))
    lower = [with_pool(slice(k, k + 1), np.where(subjects == k, 0, times))[0] for k in subjects]
    return np.array(lower), upper


def _fitted_upper(vectors: Floats, upper: Floats, comparison: Comparison) -> Floats:
    """Similarity of each subject with the RDM that fits all best, where they miss different pairs.

    The mean of their RDMs is not that one: a subject's unit is taken on the pairs that the subject has, and
    differs with these. So ranks take what each two pairs are in the mean of the subjects who have both, which
    no model can exceed by rho-a, and other comparisons climb from the mean RDM, to a local optimum.

    Parameters
    ----------
    vectors, upper
        Condensed RDMs (subjects, pairs), and their similarities with the mean RDM.
    comparison
        The similarity.
    """
    fitted = comparison.kernel.fitted_upper(vectors) if comparison.kernel is not None else None
    if fitted is None and (function := comparison.function) is not None and comparison.differentiable:
        # the climb is the same in whatever order the subjects come
        ordered = vectors[np.lexsort(vectors[:, :_KEYS].T)]
        data = torch.as_tensor(np.nan_to_num(ordered))  # functions never see NaN, which has no weight
        measured = torch.as_tensor(np.isfinite(ordered)).double()
        start = np.nan_to_num(pooled(scaled_to_pool(ordered, comparison), comparison)[0])

        def loss(rdm: Floats) -> tuple[float, Floats]:
            model = torch.tensor(rdm, requires_grad=True)
            with torch.enable_grad():
                value = -function(model, data, measured).nanmean()
            (gradient,) = torch.autograd.grad(value, model)
            return value.item(), gradient.numpy()

        best = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=_CLIMB).x
        fitted = np.asarray(similarity(best[None], vectors, comparison)[0])
    if fitted is None:
        problem = f"subjects miss different pairs, and no RDM can be fitted to them by {comparison.name}"
        notify(f"{problem}: the upper noise ceiling is that of their mean RDM, and no bound")
    return upper if fitted is None or not nan_mean(fitted) > nan_mean(upper) else fitted


def pooled(scaled: Floats, comparison: Comparison) -> Floats:
    """Mean of each pair over the subjects in whom it is measured: (1, pairs), NaN where in none."""
    mean = nan_mean(scaled, axis=0)[None]
    # mean ranks that tie do so whatever the rounding
    return np.asarray(mean.round(6) if comparison.pool is mean_ranks else mean)


def scaled_to_pool(vectors: Floats, comparison: Comparison) -> Floats:
    """Each subject's RDM as the comparison normalizes it before pooling; NaN where that is undefined."""
    measured = np.isfinite(vectors)
    if comparison.pool is None:
        return np.where(measured, vectors, np.nan)
    n_pairs = int(measured.any(axis=0).sum())
    scaled = np.full(vectors.shape, np.nan)
    for row, vector, known in zip(scaled, vectors, measured, strict=True):
        if known.any():
            row[known] = comparison.pool(vector[known], n_pairs)
    return scaled


def ceiling_p(
    rdms: RDMs | npt.ArrayLike,
    comparison: ComparisonLike = "rho-a",
    *,
    n_permutations: int = 1000,
    rng: np.random.Generator | None = None,
) -> float:
    """Test by permutation whether subjects agree better than by chance: p of the lower noise ceiling.

    The stimuli of each subject are permuted independently, rows and columns together. It is the
    agreement of these subjects on these stimuli that is tested, compared with that of RDMs of unrelated
    stimuli (which is not zero under the cosines). It generalizes to neither other subjects nor other stimuli.

    Parameters
    ----------
    rdms
        RDMs with one RDM per subject, or condensed RDMs (subjects, pairs).
    comparison
        As in `compare`.
    n_permutations
        Number of permutations; the smallest p is one divided by this number plus one.
    rng
        Generator of the permutations; by default one with the seed 0.

    Returns
    -------
    p
        One-sided; NaN where the ceiling is undefined.

    Raises
    ------
    NeurordlError
        There are fewer than two subjects, or no permutations.
    """
    comparison, vectors = find_similarity(comparison), subject_vectors(rdms)
    rng = np.random.default_rng(0) if rng is None else rng
    observed, n = np.array(_lower_ceiling(vectors, comparison)), n_stimuli(vectors.shape[1])

    def permuted(size: int) -> Floats:
        orders = rng.permuted(np.broadcast_to(np.arange(n), (size, len(vectors), n)), axis=2)
        return _permuted_ceilings(vectors, orders, comparison)

    return float(p_by_permutation(observed, permuted, n_permutations, len(vectors) * n * n))


def p_by_permutation(
    observed: Floats, permuted: Callable[[int], Floats], n_permutations: int, n_values: int
) -> Floats:
    """One-sided p of observed values, of any shape; NaN where a value is undefined.

    Parameters
    ----------
    observed
        The values of the data as they are.
    permuted
        Function from a number of permutations to the values under each of them, the permutations first.
    n_permutations
        Number of permutations.
    n_values
        How many numbers a permutation takes, which limits how many are computed at once.
    """
    check_count("n_permutations", n_permutations)
    reached = np.zeros(observed.shape)
    step = max(1, _STACK // (8 * n_values))
    defined = np.isfinite(observed)
    for start in range(0, n_permutations if defined.any() else 0, step):
        values = permuted(min(step, n_permutations - start))
        reached += (~(values < observed - _ROUNDING)).sum(axis=0)
    return np.where(defined, (1 + reached) / (1 + n_permutations), np.nan)


def _permuted_ceilings(vectors: Floats, orders: Ints, comparison: Comparison) -> Floats:
    """Lower noise ceiling of each permutation of the stimuli, (permutations, subjects, stimuli)."""
    complete = np.isfinite(vectors).all()
    if comparison.kernel is not None and complete:
        bounds = comparison.kernel.permuted_bounds(torch.as_tensor(vectors), orders)
        if bounds is not None:
            return nan_mean(bounds.numpy(), 1)
    row, column = np.triu_indices(orders.shape[2], 1)
    squares = square(torch.as_tensor(vectors)).numpy()
    subjects = np.arange(len(vectors))[:, None]
    return np.array([_lower_ceiling(squares[subjects, x[:, row], x[:, column]], comparison) for x in orders])


def chance_note(p: float | None) -> str:
    """What to say of a noise ceiling that is not significantly above chance; else an empty text."""
    if p is None or p < _ALPHA:
        return ""
    test = f"permutation test of the lower noise ceiling, p = {p:.2f}"
    return f"no evidence that the subjects agree ({test}): the noise ceiling may be chance"


def agreement(vectors: Floats, comparison: Comparison, seed: int) -> float | None:
    """`ceiling_p` from 99 permutations, for tables; None of one subject, where undefined, or if too slow."""
    if len(vectors) < 2 or vectors.size > _TESTED or comparison.slow:
        return None
    p = ceiling_p(vectors, comparison, n_permutations=99, rng=np.random.default_rng(seed))
    return p if np.isfinite(p) else None
