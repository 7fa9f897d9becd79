"""One RDM: a dissimilarity of the patterns of a source, written into place in blocks where that can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.data.base import DatasetBase
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.dissimilarities import DISSIMILARITIES, Dissimilarity
from neurordl.measures.kernels.distances import add_distances, checked_precision, factor_of
from neurordl.rdms.noise import Estimator, Noise, covariance, inverse, inverse_root
from neurordl.rdms.sources import Source, coded

__all__ = ["Whitening", "check_options", "fill", "rates_checked"]

Floats = npt.NDArray[np.float64]


def check_options(measure: Dissimilarity, precision: npt.ArrayLike | None, noise: Noise | None) -> None:
    """Refuse a precision and a noise that a dissimilarity cannot use."""
    if precision is not None and noise is not None:
        raise NeurordlError("precision= and noise= exclude each other; give one")
    whitened = [name for name, known in DISSIMILARITIES.items() if known.precision != "none"]
    if precision is not None and measure.precision == "none":
        raise NeurordlError(f"{measure} takes no precision; choose {' or '.join(whitened)}, or leave it out")
    if noise is not None and measure.precision == "none" and not measure.whitened_by_root:
        rooted = [name for name, known in DISSIMILARITIES.items() if known.whitened_by_root]
        raise NeurordlError(f"{measure} takes no noise=; choose one of {', '.join((*whitened, *rooted))}")
    if measure.precision == "required" and precision is None and noise is None:
        raise NeurordlError(
            f"{measure} needs precision=, the inverse of the noise covariance of the channels, or noise= to "
            "estimate it"
        )
    if noise is not None and noise.by == "run" and not measure.needs_runs:
        raise NeurordlError(
            f"Noise(by='run') is for dissimilarities across runs, such as crossnobis, and not for {measure}"
        )


class Whitening:
    """The noise of a source: a factor that its patterns are multiplied by, or a covariance for each run."""

    def __init__(
        self,
        source: Source,
        measure: Dissimilarity,
        precision: npt.ArrayLike | None,
        noise: Noise | None,
        residuals: DatasetBase | None,
    ) -> None:
        self.of_runs: list[Floats] | None = None
        self.noise: Estimator = "full" if noise is None else noise.estimator
        if precision is None and noise is None:
            return
        if precision is None and noise is not None:
            if noise.by == "run":
                self.of_runs = _covariances(source, self.noise, residuals, by_run=True)
                return
            matrix = _covariances(source, self.noise, residuals, by_run=False)[0]
            if measure.whitened_by_root:
                source.factor = torch.from_numpy(inverse_root(matrix, self.noise, source.label))
                return
            precision = inverse(matrix, self.noise, source.label)
        try:
            given = torch.as_tensor(np.asarray(precision, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise NeurordlError(f"precision= is no matrix of real numbers: {error}") from error
        if not measure.needs_runs or source.balanced:
            # distances do not see an offset, which would cost digits in the product
            offset = source.rows(0, min(len(source.ids), 64)).double().mean(0)
            source.offset = torch.where(offset.isfinite(), offset, 0)
            source.precision = checked_precision(given, source.n_channels)
        else:
            source.factor = factor_of(given, source.n_channels)


def _covariances(
    source: Source, noise: Estimator, residuals: DatasetBase | None, *, by_run: bool
) -> list[Floats]:
    """Noise covariances: of all residuals, or of each run of the source."""
    if residuals is None:
        left, dof = source.within()
        if not by_run:
            return [covariance(left, dof, noise, source.label)]
        runs = [source.run == number for number in range(len(source.runs))]
        share = dof / len(left)
        return [covariance(left[at], share * int(at.sum()), noise, source.label) for at in runs]
    rows = np.asarray(residuals.measurements)
    total = source.measurements.shape[1]
    if rows.ndim != 2 or rows.shape[1] != total:
        raise NeurordlError(
            f"the residuals of {source.label} have shape {rows.shape}; expected {total} channels in each"
        )
    rows = rows if source.channels is None else rows[:, source.channels]
    dofs = _degrees(residuals, source.label)
    if not by_run and dofs is None:
        return [covariance(rows, len(rows) - 1, noise, source.label)]
    runs_there, run = coded(residuals, "run", f"the residuals of {source.label}")
    first = [int(np.flatnonzero(run == number)[0]) for number in range(len(runs_there))]
    if not by_run:
        assert dofs is not None
        return [covariance(rows, sum(dofs[row] for row in first), noise, source.label)]
    if absent := [one for one in source.runs if one not in runs_there]:
        raise NeurordlError(f"the residuals of {source.label} have no run {absent[0]!r}")
    found = []
    for one in source.runs:
        number = runs_there.index(one)
        at = run == number
        own = float(at.sum()) - 1 if dofs is None else dofs[first[number]]
        found.append(covariance(rows[at], own, noise, f"{source.label}, run {one}"))
    return found


def _degrees(residuals: DatasetBase, label: str) -> list[float] | None:
    """Degrees of freedom of each residual's run, where they are given."""
    if (given := residuals.obs_descriptors.get("dof")) is None:
        return None
    try:
        return [float(value) for value in given]
    except (TypeError, ValueError) as error:
        raise NeurordlError(
            f"the observation descriptor 'dof' of the residuals of {label} holds no numbers: {error}"
        ) from error


def fill(out: npt.NDArray[Any], measure: Dissimilarity, source: Source, whitening: Whitening) -> None:
    """Write the condensed RDM of a source into ``out``, stimuli in the source's order."""
    n, channels, kernel = len(source.ids), source.n_channels, measure.kernel
    scale = 1.0 if kernel is None else kernel.factor(channels)
    shape = (n, channels)
    if kernel is not None and not measure.needs_runs:

        def sides(start: int, stop: int) -> tuple[Tensor, ...]:
            if kernel.sides is None:
                return source.sides(start, stop)
            return kernel.sides(rates_checked(source.rows(start, stop), measure, source.label))

        in_memory = kernel.sides is None and source.there()
        add_distances(sides, shape, out, kernel.normalize, scale=scale, in_memory=in_memory)
        if kernel.root:
            np.sqrt(out, out=out)
    elif kernel is not None and source.balanced and whitening.of_runs is None:
        runs = len(source.runs)
        scale /= runs * (runs - 1)
        of_run = source.by_runs()
        add_distances(of_run(None), shape, out, kernel.normalize, scale=scale)
        for run in range(runs):  # the sum over pairs of runs less that of each run with itself
            there = source.there(run)
            add_distances(of_run(run), shape, out, kernel.normalize, scale=-scale, add=True, in_memory=there)
    elif whitening.of_runs is not None:
        out[:] = _by_pairs_of_runs(source, measure, whitening.of_runs, whitening.noise)
    elif measure.needs_runs:
        cells = rates_checked(source.cells(), measure, source.label)
        if source.balanced:
            out[:] = measure(cells).numpy()
        elif measure.unbalanced:
            counts = torch.from_numpy(source.counts.T.astype(np.float64)).to(cells.dtype)
            out[:] = measure(cells, counts=counts).numpy()
        else:
            raise NeurordlError(
                f"{measure} needs every stimulus equally often in every run, and {source.label} is not so"
            )
    else:
        patterns = rates_checked(source.rows(0, n), measure, source.label)
        with torch.no_grad():
            out[:] = measure(patterns.clone()).numpy()  # a function of the user's may work in place


def rates_checked(patterns: Tensor, measure: Dissimilarity, label: str) -> Tensor:
    """Patterns, refused where a dissimilarity of rates finds negative ones."""
    # a NaN would hide behind the smallest
    if measure.rates and not bool(patterns.min() >= 0) and bool((patterns < 0).any()):
        raise NeurordlError(
            f"{measure} takes rates or counts of 0 or more, and {label} has "
            f"{float(patterns.nan_to_num().min()):.3g}; "
            "choose another dissimilarity, or leave out center="
        )
    return patterns


def _by_pairs_of_runs(
    source: Source, measure: Dissimilarity, covariances: list[Floats], noise: Estimator
) -> npt.NDArray[Any]:
    """The mean over pairs of runs of the dissimilarity with the inverse of their mean covariance."""
    if not source.balanced:
        raise NeurordlError(
            f"Noise(by='run') needs every stimulus equally often in every run, and {source.label} is not so; "
            "take by='pooled'"
        )
    cells = source.cells()
    found, pairs = torch.zeros(len(source.ids) * (len(source.ids) - 1) // 2, dtype=cells.dtype), 0
    for one in range(len(cells)):
        for other in range(one + 1, len(cells)):
            precision = inverse((covariances[one] + covariances[other]) / 2, noise, source.label)
            found += measure(cells[[one, other]], torch.from_numpy(precision).to(cells.dtype))
            pairs += 1
    return np.asarray((found / pairs).numpy())
