"""Square or condensed: how an array of RDMs is laid out, and whether it is one of dissimilarities at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError
from neurordl.rdms.files.held import Diagonal, Layout, Similarity

__all__ = ["columns_fit", "condense", "could_be_rdms", "looks_square", "matrix_of"]

Values = npt.NDArray[Any]

# Of the largest dissimilarity: float32 RDMs whose two triangles were computed apart differ by less.
_ROUNDING = 1e-5


def condense(
    values: Any,
    what: str,
    layout: Layout | None = None,
    similarity: Similarity | None = None,
    diagonal: Diagonal | None = None,
) -> Values:
    """RDMs of any layout as (RDMs, pairs), float32 or float64; `load_rdms` says what is read how.

    Raises
    ------
    NeurordlError
        No numbers, a shape that no RDM has, both readings possible, asymmetry beyond rounding, similarities
        that were not asked for, or a diagonal that is not zero.
    """
    if isinstance(values, list):
        each = [
            condense(one, f"{what}, RDM {i}", layout, similarity, diagonal) for i, one in enumerate(values)
        ]
        lengths = {one.shape[1] for one in each}
        if len(lengths) > 1:
            raise NeurordlError(
                f"the RDMs in {what} are of different numbers of stimuli "
                f"({', '.join(str(_stimuli(n)) for n in sorted(lengths))}); load them one by one"
            )
        return np.concatenate(each)
    array = _numbers(values, what)
    _check_axes(array, what)
    squares, vectors = _squares(array), _vectors(array)
    if layout != "condensed" and squares:
        fitting = [one for one in squares if looks_square(one)]
        clear = len(fitting) == 1 or (vectors is None and len(squares) == 1) or layout == "square"
        if not clear:
            raise NeurordlError(
                f"{what} has the shape {array.shape}, which can be read as square RDMs or in another way, "
                "and its symmetry does not tell: say layout='square' (one matrix, or a stack of them) or "
                "layout='condensed' (one RDM per row)"
            )
        return _from_squares((fitting or squares)[0], what, similarity, diagonal)
    if layout != "square" and vectors is not None:
        return 1 - vectors if similarity else vectors
    raise NeurordlError(
        f"{what} has the shape {array.shape}, which no {layout + ' ' if layout else ''}RDM has: expected a "
        "square matrix (n, n), a stack of them (RDMs, n, n), or the upper triangles row by row, one RDM per "
        "row: (RDMs, n(n-1)/2)"
        + (
            "; its columns are of that length: transpose it"
            if layout != "square" and columns_fit(array)
            else ""
        )
    )


def _check_axes(array: Values, what: str) -> None:
    """Refuse a stack along several axes: flattened, four people in two sessions would be eight people."""
    shape = array.shape
    if array.ndim < 4 or not (shape[-1] == shape[-2] or shape[0] == shape[1]):
        return
    beside = shape[:-2] if shape[-1] == shape[-2] else shape[2:]
    if sum(length > 1 for length in beside) > 1:
        raise NeurordlError(
            f"{what} has the shape {shape}: several axes beside the stimuli, and which are subjects, "
            "sessions or ROIs is not known; read the array yourself, and make rsatoolbox RDMs of "
            "array.reshape(-1, n, n) with a descriptor for each axis"
        )


def columns_fit(values: Any) -> bool:
    """Whether an array is longer than wide, and its columns can be condensed RDMs."""
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not 1 < values.shape[1] < values.shape[0]:
        return False
    return _stimuli(values.shape[0]) is not None


def could_be_rdms(values: Any) -> bool:
    """Whether an array has a type and shape that RDMs can have."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.size < 2:
        return False
    return bool(_squares(values)) or _vectors(values) is not None


def matrix_of(vector: Values) -> Values:
    """One condensed RDM as a matrix with a zero diagonal, in its own precision."""
    n = _stimuli(len(vector)) or 0
    matrix = np.zeros((n, n), dtype=vector.dtype)
    done = 0
    for row in range(n - 1):
        matrix[row, row + 1 :] = matrix[row + 1 :, row] = vector[done : done + n - 1 - row]
        done += n - 1 - row
    return matrix


def _stimuli(pairs: int) -> int | None:
    n = (1 + math.isqrt(1 + 8 * pairs)) // 2
    return n if pairs and n * (n - 1) // 2 == pairs else None


def _numbers(values: Any, what: str) -> Values:
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or not array.size:
        raise NeurordlError(
            f"the dissimilarities in {what} must be numbers, (RDMs, pairs) or square, not {array.dtype} of "
            f"shape {array.shape}"
        )
    kept = array.dtype.newbyteorder("=") in (np.float32, np.float64)
    return array.astype(array.dtype.newbyteorder("=") if kept else np.float64, copy=False)


def _vectors(array: Values) -> Values | None:
    """The reading as condensed RDMs, one per row."""
    if array.ndim == 2 and array.shape[1] == 1 < array.shape[0]:
        array = array[:, 0]  # one RDM as a column
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0].T  # 1 x pairs x RDMs, as the MATLAB toolbox stacks them
    array = np.atleast_2d(array) if array.ndim else array
    fits = array.ndim == 2 and _stimuli(array.shape[1]) is not None
    return array if fits else None


def _squares(array: Values) -> list[Values]:
    """The readings as square RDMs: stacked along the first axes (numpy's way), or the last (MATLAB's)."""
    found = []
    shape = array.shape
    if array.ndim >= 2 and shape[-1] == shape[-2] > 1:
        found.append(array.reshape(-1, *shape[-2:]))
    if array.ndim >= 3 and shape[0] == shape[1] > 1:
        found.append(np.moveaxis(array.reshape(*shape[:2], -1), -1, 0))
    return found


def _triangle(matrix: Values) -> Values:
    """The upper triangle row by row; index arrays of all pairs would outweigh the matrix."""
    n = len(matrix)
    out = np.empty(n * (n - 1) // 2, dtype=matrix.dtype)
    done = 0
    for row in range(n - 1):
        out[done : done + n - 1 - row] = matrix[row, row + 1 :]
        done += n - 1 - row
    return out


def _rounding(matrix: Values) -> float:
    finite = np.abs(matrix[np.isfinite(matrix)])
    return _ROUNDING * float(finite.max()) if finite.size else 0.0


def _asymmetry(upper: Values, lower: Values) -> Values:
    """Difference of the triangles; infinite where only one of the two is a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart: Values = np.abs(upper - lower)
    apart[(np.isnan(upper) & np.isnan(lower)) | (upper == lower)] = 0
    apart[np.isnan(apart)] = np.inf
    return apart


def _near(diagonal: Values, value: float, within: float) -> bool:
    """Whether the measured part of a diagonal has one value; NaN is not measured."""
    finite = diagonal[~np.isnan(diagonal)]
    return bool((np.abs(finite - value) <= within).all())


def looks_square(stack: Values) -> bool:
    """Whether matrices are symmetric up to rounding, with a diagonal of zeros or of ones."""
    for matrix in stack:
        diagonal, within = np.diagonal(matrix), _rounding(matrix)
        if not (_near(diagonal, 0, within) or _near(diagonal, 1, _ROUNDING)):
            return False
        if (_asymmetry(_triangle(matrix), _triangle(matrix.T)) > within).any():
            return False
    return True


def _from_squares(
    stack: Values, what: str, similarity: Similarity | None, diagonal: Diagonal | None
) -> Values:
    n = stack.shape[1]
    out = np.empty((len(stack), n * (n - 1) // 2), dtype=stack.dtype)
    for number, matrix in enumerate(stack):
        label = what if len(stack) == 1 else f"{what}, RDM {number}"
        within = _rounding(matrix)
        _check_diagonal(np.diagonal(matrix), within, label, similarity, diagonal)
        upper, lower = _triangle(matrix), _triangle(matrix.T)
        apart = _asymmetry(upper, lower)
        if (apart > within).any():
            i, j = (int(k[apart.argmax()]) for k in np.triu_indices(n, 1))
            raise NeurordlError(
                f"{label} is not symmetric: row {i}, column {j} (from 0) is {matrix[i, j]:g}, but row {j}, "
                f"column {i} is {matrix[j, i]:g}; fill both triangles alike, or give the upper one condensed"
            )
        out[number] = upper if not apart.any() else upper / 2 + lower / 2
        if similarity:
            out[number] = 1 - out[number]
    return out


def _check_diagonal(
    values: Values, within: float, label: str, similarity: Similarity | None, diagonal: Diagonal | None
) -> None:
    measured = values[~np.isnan(values)]
    ones = len(measured) > 0 and _near(values, 1, _ROUNDING)
    zeros = _near(values, 0, within)
    if similarity and not ones:
        found = "is zero: these are dissimilarities already" if zeros else f"goes to {np.nanmax(values):g}"
        raise NeurordlError(
            f"{label}: similarity={similarity!r} takes similarities, with ones on the diagonal, but the "
            f"diagonal {found}"
        )
    if ones and not similarity:
        raise NeurordlError(
            f"{label} has ones on its diagonal: these are similarities, not dissimilarities; convert them by "
            "similarity='1-s'"
        )
    if not (ones or zeros or diagonal == "ignore"):
        raise NeurordlError(
            f"{label} has a diagonal that is not zero (from {np.nanmin(values):g} to {np.nanmax(values):g}): "
            "an RDM has no distance of a stimulus to itself; if the rest is right (as in split-half RDMs), "
            "leave the diagonal out by diagonal='ignore'"
        )
