"""The content of RDM files: formats, the choice among named variables, square and condensed arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, get_args

import numpy as np
from scipy.spatial.distance import squareform

from neurordl.errors import NeurordlError
from neurordl.mat5 import Cells, Struct, Values
from neurordl.measures.condensed import pair_number
from neurordl.validate import check_choice, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Layout = Literal[
    "square", "condensed", "condensed-columns", "condensed-diagonal", "condensed-columns-diagonal"
]

_LAYOUTS = (None, *get_args(Layout))
DESCRIPTORS = ("descriptors", "rdm_descriptors", "pattern_descriptors")


class UnreadableError(NeurordlError):
    """Why something in a file is not read; a reader keeps it in its place, so that the rest can be read."""


@dataclass
class RDMContent:
    """RDMs as a file stores them.

    Attributes
    ----------
    values
        An array of any shape that `condense` reads, or a list of them (the RDMs of a struct array).
    layout
        The layout, where the format leaves no doubt about it.
    measure
        The dissimilarity measure, where the file names it.
    descriptors, rdm_descriptors, pattern_descriptors
        As in rsatoolbox: descriptors of the whole, one value per RDM, one value per stimulus.
    texts
        Other lists of texts by name, which could be ids under a name that is not known.
    notices
        Messages for the user about how the file was read.
    """

    values: Any
    layout: Layout | None = None
    measure: str | None = None
    descriptors: Struct = field(default_factory=dict)
    rdm_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    pattern_descriptors: dict[str, list[Any]] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Format:
    """A format of RDM files; an entry in ``neurordl.rdms.files.FORMATS`` makes it known to both functions.

    Attributes
    ----------
    suffixes
        The suffixes of its files, in lower case.
    read
        The reader: it takes a path and the name of a variable (None where there is only one candidate) and
        returns the content. Whatever it raises becomes a `NeurordlError` about a damaged file.
    write
        The writer: it takes RDMs and returns the bytes of a file. None if the format is only read.
    has_variables
        Whether a file holds variables that the user can choose by name.
    keeps
        The pattern descriptors that have a place in the format; None if everything has one.
    single
        Whether a file holds one RDM only.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, str | None], RDMContent]
    write: Callable[[RDMs], bytes] | None = None
    has_variables: bool = False
    keeps: tuple[str, ...] | None = None
    single: bool = False

    def omits(self, rdms: RDMs) -> list[str]:
        """What the RDMs carry and the format has no place for, in words."""
        if self.keeps is None:
            return []
        carried = {
            "descriptor": rdms.descriptors,
            "RDM descriptor": rdms.rdm_descriptors,
            "pattern descriptor": {name: 0 for name in rdms.pattern_descriptors if name not in self.keeps},
        }
        omitted = [f"the {term} {name!r}" for term in carried for name in carried[term] if name != "index"]
        return omitted + (["the dissimilarity measure"] if rdms.dissimilarity_measure is not None else [])


@dataclass(frozen=True)
class Interpretation:
    """How to read the values of a file if shape and symmetry leave this open.

    Attributes
    ----------
    layout
        "square", or one of the condensed layouts that `load_rdms` lists.
    similarity
        "1-s": the values are similarities.
    diagonal
        "ignore": the diagonal is not zero (of similarities: not one) and is left out.
    """

    layout: Layout | None = None
    similarity: Literal["1-s"] | None = None
    diagonal: Literal["ignore"] | None = None

    def __post_init__(self) -> None:
        check_choice("layout", self.layout, _LAYOUTS)
        check_choice("similarity", self.similarity, (None, "1-s"))
        check_choice("diagonal", self.diagonal, (None, "ignore"))

    @property
    def is_condensed(self) -> bool:
        """Whether the values are certainly condensed."""
        return self.layout not in (None, "square")


def unstorable(path: str, suffix: str, reason: str) -> NeurordlError:
    """The error about a descriptor that a format cannot store; a path is ``pattern_descriptors/stimulus``."""
    group, *keys = path.split("/")
    label = group + "".join(f"[{key!r}]" for key in keys)
    other = "" if suffix == ".h5" else ", or write .h5"
    return NeurordlError(f"cannot store the descriptor {label} in {suffix}: {reason}; change it{other}")


def to_array(value: Any, path: str, suffix: str) -> Values:
    """Convert the value of a descriptor to an array of numbers or of text (dtype U), or refuse it.

    Parameters
    ----------
    value
        A text, a number, or a list, tuple or array of these.
    path, suffix
        The descriptor and the format, for messages.
    """
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str | np.ndarray) else value
    if isinstance(values, list) and len({isinstance(item, str) for item in values}) > 1:
        raise unstorable(path, suffix, "it has text and other things in one list")
    try:
        array = np.asarray(values)
        is_text = array.dtype.kind == "O" and all(isinstance(item, str) for item in array.ravel())
        if array.dtype.kind == "S" or is_text:
            array = array.astype(str)
    except ValueError as error:
        raise unstorable(path, suffix, str(error)) from error
    if array.dtype.kind not in "fiubU":
        raise unstorable(path, suffix, f"it has values of type {array.dtype}, not text or numbers")
    texts = np.ravel(np.array(values, dtype=object)) if array.dtype.kind == "U" else ()
    if any(str(text).endswith("\0") for text in texts):
        raise unstorable(path, suffix, "its text ends in a NUL character, which is lost")
    return array


def flatten(values: Mapping[str, Any], suffix: str, path: str = "") -> Iterator[tuple[str, Any]]:
    """Walk through nested descriptors: their paths, as HDF5 names them, with None, text or arrays.

    Parameters
    ----------
    values
        What ``rdms.to_dict()`` gives, or a part of it.
    suffix
        The format, for messages.
    path
        The path of the part, with a slash at its end.
    """
    for name, value in values.items():
        if not isinstance(name, str) or not name or "/" in name:
            raise unstorable(f"{path}{name}", suffix, "its name is not text without a slash")
        if isinstance(value, Mapping):
            yield from flatten(value, suffix, f"{path}{name}/")
        else:
            is_plain = value is None or isinstance(value, str)
            yield f"{path}{name}", value if is_plain else to_array(value, f"{path}{name}", suffix)


def content_of_tree(tree: Mapping[str, Any]) -> RDMContent:
    """The RDMs in nested values that are named as ``rdms.to_dict()`` names them."""
    for group in DESCRIPTORS:
        if not isinstance(tree.get(group) or {}, Mapping):
            raise NeurordlError(f"its {group} are no descriptors with names")
    per_rdm, per_stimulus = (
        {name: _to_list(value) for name, value in (tree.get(group) or {}).items()}
        for group in ("rdm_descriptors", "pattern_descriptors")
    )
    descriptors, measure = dict(tree.get("descriptors") or {}), tree.get("dissimilarity_measure")
    return RDMContent(tree["dissimilarities"], "condensed", measure, descriptors, per_rdm, per_stimulus)


def _to_list(value: Any) -> list[Any]:
    if isinstance(value, Mapping):  # rsatoolbox may have stored a list as a numbered group
        return [value[str(k)] for k in range(len(value))]
    return value.tolist() if isinstance(value, np.ndarray) else [value]


# Square and condensed arrays

# Relative to the largest dissimilarity: triangles of float32 RDMs that were computed apart differ by less.
_ROUNDING = 1e-5
_ONE_AXIS = (
    "read RDMs of subjects x times with rdms_over_time, make rsatoolbox RDMs of them with a descriptor for "
    "each axis, or store structs with the fields RDM, subject and roi"
)


def condense(values: Any, source: str, interpretation: Interpretation | None = None) -> Values:
    """Bring RDMs of any layout into the shape (RDMs, pairs), in float32 or float64.

    Parameters
    ----------
    values
        An array, or a list of arrays; `load_rdms` lists the layouts.
    source
        The name of the values in messages.
    interpretation
        What the user says about them.

    Raises
    ------
    NeurordlError
        The values are not numbers, no RDM has this shape, two readings are possible, the asymmetry exceeds
        rounding, the values are similarities without being declared so, the diagonal is not zero, or
        condensed RDMs seem to hold it.
    """
    wanted = interpretation or Interpretation()
    if isinstance(values, list):
        stacks = [condense(matrix, f"{source}, RDM {k}", wanted) for k, matrix in enumerate(values)]
        if len(stacks) > 1 and (largest := max(map(len, stacks))) > 1:
            raise NeurordlError(
                f"{source} holds several items with up to {largest} RDMs in each; {_ONE_AXIS}"
            )
        if len(sizes := sorted({stack.shape[1] for stack in stacks})) > 1:
            numbers = listed(map(n_stimuli, sizes))
            raise NeurordlError(f"{source}: different numbers of stimuli ({numbers}); load RDMs one by one")
        return np.concatenate(stacks)
    array = np.asarray(values)
    if array.dtype.kind not in "fiub" or not array.size:
        raise NeurordlError(f"the RDMs in {source} must be numbers, not {array.dtype} of {array.shape}")
    native = array.dtype.newbyteorder("=")
    array = array.astype(native if native in (np.float32, np.float64) else np.float64, copy=False)
    _check_axes(array, source)
    array = array if wanted.is_condensed else unstacked(array)
    stacks, vectors = _as_squares(array), _as_vectors(array)
    if not wanted.is_condensed and stacks:
        fitting = [stack for stack in stacks if looks_square(stack)]
        unambiguous = len(fitting) == 1 or (vectors is None and len(stacks) == 1)
        if not unambiguous and wanted.layout != "square":
            problem = f"{source} has the shape {array.shape} of square or condensed RDMs"
            remedy = "pass layout='square' (a matrix or a stack) or 'condensed' (one RDM per row)"
            raise NeurordlError(f"{problem}, and its symmetry does not decide: {remedy}")
        stack = (fitting or stacks)[0]
        each = [source] if len(stack) == 1 else [f"{source}, RDM {number}" for number in range(len(stack))]
        return np.stack([_from_square(*pair, wanted) for pair in zip(stack, each, strict=True)])
    if wanted.layout != "square" and vectors is not None:
        return _from_condensed(vectors, source, wanted)
    transposed = wanted.layout != "square" and columns_fit(array)
    layout = f"{wanted.layout} " if wanted.layout else ""
    advice = "; its columns are of that length: transpose it, or name its stimuli" if transposed else ""
    raise NeurordlError(
        f"{source} has the shape {array.shape}, which no {layout}RDM has: expected a square matrix (n, n), a "
        f"stack (RDMs, n, n), or upper triangles row by row, one RDM per row: (RDMs, n(n-1)/2){advice}"
    )


def unstacked(array: Values) -> Values:
    """Square RDMs that stand one below another in a matrix as a stack; else the array as it is."""
    height, n = array.shape if array.ndim == 2 else (1, 1)
    if n < 3 or height == n or height % n or not looks_square(blocks := array.reshape(-1, n, n)):
        return array
    return blocks


def _check_axes(array: Values, source: str) -> None:
    """Refuse a stack along several axes: flattened, four people in two sessions would be eight people."""
    shape = array.shape
    if array.ndim < 4 or not (shape[-1] == shape[-2] or shape[0] == shape[1]):
        return
    stacked = shape[:-2] if shape[-1] == shape[-2] else shape[2:]
    if sum(length > 1 for length in stacked) > 1:
        problem = f"{source} has the shape {shape}: several axes beside the stimuli, whose meaning is unknown"
        raise NeurordlError(f"{problem}; {_ONE_AXIS}")


def over_time(array: Values, n_times: int, n_subjects: int | None, n_ids: int | None, source: str) -> Values:
    """RDMs of subjects at several times as a stack, subject by subject: (RDMs, n, n) or (RDMs, pairs).

    Parameters
    ----------
    array
        Square RDMs (subjects, times, n, n) or, as in MATLAB, (n, n, times, subjects); condensed ones
        (subjects, times, pairs). The axes of subjects and times may come in either order, and that of a
        single subject may be absent.
    n_times, n_subjects, n_ids
        How many times, subjects and stimuli there are; None if a number is not known.
    source
        What messages call the array.

    Raises
    ------
    NeurordlError
        No axis, or more than one, can be that of the times.
    """
    shape = array.shape
    in_matlab = array.ndim >= 3 and shape[0] == shape[1] == (n_ids or shape[0])
    in_numpy = array.ndim >= 3 and shape[-1] == shape[-2] == (n_ids or shape[-1])
    if in_matlab and in_numpy and array.ndim == 4:
        problem = f"{source} has the shape {shape}, whose first or last two axes may be the stimuli"
        raise NeurordlError(f"{problem}; give the RDMs of one subject at a time, (times, n, n)")
    reversed_axes = in_matlab and not in_numpy  # (n, n, times, subjects)
    array = np.moveaxis(array, (0, 1), (-2, -1)) if reversed_axes else array
    lead = array.shape[: -2 if in_matlab or in_numpy else -1]
    array, lead = (array[None], (1, *lead)) if len(lead) == 1 else (array, lead)
    usual = 0 if reversed_axes and len(shape) == 4 else 1
    # in the other order only if the number of subjects agrees, too
    axes = [axis for axis in (0, 1) if lead[axis : axis + 1] == (n_times,)] if len(lead) == 2 else []
    fitting = [a for a in axes if n_subjects == lead[1 - a] or (n_subjects is None and a == usual)]
    if len(fitting) != 1:
        people = "" if n_subjects is None else f" and {n_subjects} subjects"
        reason = "either axis may be that of the times" if fitting else "no axis fits"
        remedy = "expected (subjects, times, n, n), or one subject's (times, n, n)"
        remedy = "give the RDMs of one subject at a time, (times, n, n)" if fitting else remedy
        raise NeurordlError(f"{source} has the shape {shape} for {n_times} times{people}: {reason}; {remedy}")
    return np.moveaxis(array, fitting[0], 1).reshape(-1, *array.shape[2:])


def _diagonals(n: int) -> dict[str, Values]:
    """Where the diagonal of ``n`` stimuli lies in the triangle that holds it, by layout."""
    k = np.arange(n)
    return {
        "condensed-diagonal": k * n - k * (k - 1) // 2,
        "condensed-columns-diagonal": k * (k + 3) // 2,
    }


def _from_condensed(vectors: Values, source: str, wanted: Interpretation) -> Values:
    """RDMs as upper triangles row by row, without the diagonal, of triangles in another order or with it."""
    layout = wanted.layout or ""
    if wanted.layout is None:
        _check_for_diagonal(vectors, source)
    if layout.endswith("diagonal"):
        places = _diagonals((n_stimuli(vectors.shape[1]) or 0) - 1)[layout]
        diagonal, vectors = vectors[:, places], np.delete(vectors, places, axis=1)
        expected = 1 if wanted.similarity else 0
        wrong = diagonal[
            ~np.isnan(diagonal) & (np.abs(diagonal - expected) > _ROUNDING * np.nanmax(abs(vectors)))
        ]
        if wrong.size and wanted.diagonal is None:
            problem = f"with layout={layout!r} its diagonal is {wrong[0]:g} instead of {expected}"
            raise NeurordlError(f"{source}: {problem}; choose another layout, or pass diagonal='ignore'")
    if "columns" in layout:
        columns, rows = np.tril_indices(n_stimuli(vectors.shape[1]) or 0, -1)
        vectors = vectors[:, np.lexsort((columns, rows))]
    return 1 - vectors if wanted.similarity else vectors


def _check_for_diagonal(vectors: Values, source: str) -> None:
    """Refuse condensed RDMs that have zeros, ones or nothing just where the diagonal would be.

    Triangles with the diagonal have as many values as those of one more stimulus without it.
    """
    n = n_stimuli(vectors.shape[1]) or 0
    for layout, places in _diagonals(n - 1).items() if n > 3 else ():
        diagonal, rest = vectors[:, places], np.delete(vectors, places, axis=1)
        for blank, name in ((0, "zeros"), (1, "ones"), (np.nan, "no values")):
            on, off = (np.isnan(part) if np.isnan(blank) else part == blank for part in (diagonal, rest))
            if on.all() and not off.any():
                raise NeurordlError(
                    f"{source} has {name} exactly where the diagonal of {n - 1} stimuli would be: pass "
                    f"layout={layout!r}, or layout='condensed' if these are {n} stimuli without the diagonal"
                )


def doubts(vectors: Values, from_condensed: bool, may_be_similar: bool) -> list[str]:
    """Say that condensed RDMs fit points in space much better in another order, or as similarities.

    Dissimilarities such as 1 - r, and Euclidean distances, squared or not, are squared distances between
    points, so that the matrix of inner products has no negative eigenvalues. The mean over the RDMs of the
    first 200 stimuli is tested.

    Parameters
    ----------
    vectors
        RDMs as they were read, (RDMs, pairs).
    from_condensed
        Whether they were condensed in the file, in an order that was assumed.
    may_be_similar
        Whether they could be similarities: nothing says that they are cross-validated dissimilarities.
    """
    n = n_stimuli(vectors.shape[1]) or 0
    size = min(n, 200)
    if size < 6:
        return []
    rows, columns = np.triu_indices(size, 1)
    matrix, transposed = np.zeros((2, size, size))
    matrix[rows, columns] = vectors[:, pair_number(rows, columns, n)].mean(0, dtype=np.float64)
    transposed[np.tril_indices(size, -1)] = vectors[:, : len(rows)].mean(0, dtype=np.float64)
    if not (np.isfinite(matrix).all() and np.isfinite(transposed).all()):
        return []
    share, is_reversed = _negative_share(matrix)
    if share < 0.02:
        return []
    if from_condensed and _negative_share(transposed)[0] < 1e-3:
        return [
            "it was read as upper triangles row by row, but its values are distances between points only "
            "column by column, as MATLAB's M(triu(true(n), 1)) orders them: pass layout='condensed-columns' "
            "then, or layout='condensed' if the order is right"
        ]
    similar = np.triu(1 - matrix, 1)
    if may_be_similar and is_reversed and np.abs(matrix).max() <= 1 and _negative_share(similar)[0] < 1e-3:
        negative = f"{np.count_nonzero(vectors < 0):,} of {vectors.size:,} values are negative, and "
        return [
            f"{negative if (vectors < 0).any() else ''}its values fit similarities s better than "
            "dissimilarities: if they are similarities, pass similarity='1-s' (and diagonal='ignore' if the "
            "diagonal is blank); if they are cross-validated dissimilarities, name them by measure="
        ]
    return []


def _negative_share(upper: Values) -> tuple[float, bool]:
    """The share of negative eigenvalues of inner products of points, and whether the largest is negative."""
    matrix = upper + upper.T
    centered = matrix - matrix.mean(0) - matrix.mean(1, keepdims=True) + matrix.mean()
    values = np.linalg.eigvalsh(-centered / 2)
    total = np.abs(values).sum()
    return float(-values[values < 0].sum() / total) if total else 0.0, bool(-values[0] > values[-1])


def columns_fit(values: Any) -> bool:
    """Whether an array is longer than wide, and its columns can be condensed RDMs."""
    tall = isinstance(values, np.ndarray) and values.ndim == 2 and 1 < values.shape[1] < values.shape[0]
    return tall and n_stimuli(values.shape[0]) is not None


def n_stimuli(n_pairs: int) -> int | None:
    """Number of stimuli that have as many pairs, or None."""
    n = (1 + math.isqrt(1 + 8 * n_pairs)) // 2
    return n if n_pairs and n * (n - 1) // 2 == n_pairs else None


def _as_vectors(array: Values) -> Values | None:
    """The array as condensed RDMs, one per row, if it can be that."""
    if array.ndim == 2 and array.shape[1] == 1 < array.shape[0]:
        array = array[:, 0]  # one RDM as a column
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0].T  # 1 x pairs x RDMs, as the MATLAB toolbox stacks them
    array = np.atleast_2d(array) if array.ndim else array
    fits = array.ndim == 2 and n_stimuli(array.shape[1]) is not None
    return array if fits else None


def _as_squares(array: Values) -> list[Values]:
    """The possible stacks of square RDMs: along the first axes (as in numpy), along the last (MATLAB)."""
    stacks, shape = [], array.shape
    if array.ndim >= 2 and shape[-1] == shape[-2] > 1:
        stacks.append(array.reshape(-1, *shape[-2:]))
    if array.ndim >= 3 and shape[0] == shape[1] > 1:
        stacks.append(np.moveaxis(array.reshape(*shape[:2], -1), -1, 0))
    return stacks


class _Square:
    """A matrix as a square RDM: triangles row by row, measured diagonal, and what is true up to rounding."""

    def __init__(self, matrix: Values) -> None:
        self.upper: Values = squareform(matrix, checks=False)
        self.lower: Values = squareform(matrix.T, checks=False)
        if (empty := np.isnan(self.upper)).all() != np.isnan(self.lower).all():  # the other triangle is blank
            self.upper = self.lower = self.lower if empty.all() else self.upper
        diagonal = np.diagonal(matrix)
        self.diagonal = diagonal[~np.isnan(diagonal)]
        finite = np.abs(matrix[np.isfinite(matrix)])
        tolerance = _ROUNDING * float(finite.max(initial=0))
        self.has_zeros = bool((np.abs(self.diagonal) <= tolerance).all())
        self.has_ones = bool(self.diagonal.size and (np.abs(self.diagonal - 1) <= _ROUNDING).all())
        with np.errstate(invalid="ignore", over="ignore"):
            self.difference = np.abs(self.upper - self.lower)
        self.difference[(np.isnan(self.upper) & np.isnan(self.lower)) | (self.upper == self.lower)] = 0
        self.difference[np.isnan(self.difference)] = np.inf  # only one of the two is a number
        self.is_symmetric = not (self.difference > tolerance).any()


def looks_square(stack: Values) -> bool:
    """Whether matrices are symmetric up to rounding, with a diagonal of zeros or of ones."""
    squares = map(_Square, stack)
    return all(square.is_symmetric and (square.has_zeros or square.has_ones) for square in squares)


def _from_square(matrix: Values, source: str, wanted: Interpretation) -> Values:
    square = _Square(matrix)
    lowest, highest = square.diagonal.min(initial=np.inf), square.diagonal.max(initial=-np.inf)
    problem = ""
    ignored = wanted.diagonal == "ignore" or not square.diagonal.size
    if wanted.similarity and not (square.has_ones or ignored):
        state = "is zero, as of dissimilarities" if square.has_zeros else f"goes to {highest:g}"
        problem = (
            f"needs ones on its diagonal for similarity='1-s', which takes similarities, but it {state}; "
        )
        problem += "leave similarity out, or pass diagonal='ignore' if these are similarities all the same"
    elif square.has_ones and not wanted.similarity:
        problem = "has ones on its diagonal: these are similarities; convert them by similarity='1-s'"
    elif not (square.has_ones or square.has_zeros or wanted.diagonal == "ignore"):
        problem = f"has a diagonal that is not zero (from {lowest:g} to {highest:g}); if the rest is right "
        problem += "(as in split-half RDMs), leave the diagonal out with diagonal='ignore'"
    elif not square.is_symmetric:
        i, j = (int(index[square.difference.argmax()]) for index in np.triu_indices(len(matrix), 1))
        problem = f"is not symmetric: row {i}, column {j} (from 0) is {matrix[i, j]:g}, but row {j}, column "
        problem += f"{i} is {matrix[j, i]:g}; make it symmetric, or save its upper triangle as a vector"
    if problem:
        raise NeurordlError(f"{source} {problem}")
    vector: Values = square.upper / 2 + square.lower / 2 if square.difference.any() else square.upper
    return 1 - vector if wanted.similarity else vector


# Named variables

_IDS = ("stimulus", "stimuli", "stimulus_ids", "ids", "id")
_OF_RDMS = {name: (name, f"{name}s") for name in ("subject", "roi", "session", "time")}
_RESERVED = {*_IDS, *DESCRIPTORS, "dissimilarity_measure", *(n for names in _OF_RDMS.values() for n in names)}
_NOT_READ = (
    "is not read: strings and other objects of MATLAB are stored in a way that is not documented, and sparse "
    "and complex arrays are not RDMs; in MATLAB, store text as cellstr(x) or char(x), numbers as full(x)"
)
# ROI | subject | session, as the MATLAB toolbox names the RDMs that it makes
_TOOLBOX_NAME = re.compile(
    r"(?P<roi>[^|]+)\|(?P<subject>[^|]+)\|\s*session\s*:?\s*(?P<session>[^|\s]+)\s*", re.IGNORECASE
)


def content_of_variables(variables: Mapping[str, Any], name: str | None) -> RDMContent:
    """Find the RDMs among the variables of a file, with ids and descriptors where it has them.

    Parameters
    ----------
    variables
        By name: numpy arrays; text; a list for a cell or character array; a list of dicts for a struct array;
        None or `UnreadableError` for what is not read.
    name
        The variable to read; None where only one can be RDMs.
    """
    chosen_name = _chosen_name(variables, name)
    chosen = _plain_structs(variables[chosen_name])
    content = _from_structs(chosen) if _is_structs(chosen) else RDMContent(chosen)
    if isinstance(chosen, Cells) and chosen.n_axes > 1 and not content.rdm_descriptors:
        shape = " x ".join(map(str, chosen.shape))
        raise NeurordlError(
            f"{chosen_name!r} has {shape} items, and the meaning of its axes is unknown; {_ONE_AXIS}"
        )
    content.notices += [
        f"{key!r} {_why_unread(variables[key])}" for key in _IDS if _is_unread(variables.get(key, ""))
    ]
    measure = variables.get("dissimilarity_measure")
    content.measure = measure if isinstance(measure, str) and measure else None
    if ids := next(filter(None, (_values(variables.get(key)) for key in _IDS)), None):
        content.pattern_descriptors["stimulus"] = ids
    for descriptor, keys in _OF_RDMS.items():
        if values := next(filter(None, (_values(variables.get(key)) for key in keys)), None):
            content.rdm_descriptors.setdefault(descriptor, values)
    for group in DESCRIPTORS:
        _add_descriptors(content, group, variables)
    endings = {_ending(key) for key in variables if key != chosen_name and _could_be_rdms(variables[key])}
    for key, value in variables.items():
        if (key in _RESERVED and key not in _IDS) or not (texts := _texts(value)):
            continue
        if key in _IDS:
            content.texts[key] = texts  # labels= may name it, although it is found without
        elif _ending(key) == _ending(chosen_name) and key.partition("_")[0].lower() in _IDS:
            content.pattern_descriptors.setdefault(
                "stimulus", texts
            )  # of one participant, as Meadows names them
        elif _ending(key) == _ending(chosen_name) or _ending(key) not in endings:
            content.texts[key] = texts
    return content


def _ending(name: str) -> str:
    """What follows the first underscore: of several participants it is their name, as in rdmutv_able_fly."""
    return name.partition("_")[2]


def _is_unread(value: Any) -> bool:
    unread = value is None or isinstance(value, UnreadableError)
    return unread or (isinstance(value, list) and any(item is None for item in value))


def _why_unread(value: Any) -> str:
    return f"is not read: {value}" if isinstance(value, UnreadableError) else _NOT_READ


def _chosen_name(variables: Mapping[str, Any], name: str | None) -> str:
    contents = ", ".join(f"{key} ({_shape(value)})" for key, value in variables.items()) or "none"
    if name is None and "dissimilarities" in variables:
        name = "dissimilarities"
    if name is not None:
        if name not in variables:
            raise NeurordlError(f"there is no variable {name!r}; it has: {contents}")
        if variables[name] is None or isinstance(variables[name], UnreadableError):
            raise NeurordlError(f"{name!r} {_why_unread(variables[name])}")
        return name
    free = {key: value for key, value in variables.items() if key not in _RESERVED}
    candidates = [key for key, value in free.items() if _could_be_rdms(value)]
    # a cell array is taken where nothing else is, for its cells may also be pictures of the stimuli
    candidates = candidates or [key for key, value in free.items() if _are_cells_of_rdms(value)]
    # condensed RDMs of subjects at several times, which `rdms_over_time` reads
    candidates = candidates or [k for k, x in free.items() if np.ndim(x) == 3 and n_stimuli(x.shape[-1])]
    # condensed RDMs as columns, whose number of stimuli decides
    candidates = candidates or [key for key, value in free.items() if columns_fit(value)]
    if not candidates:
        expected = "square, condensed, structs with a field RDM"
        problem = f"no variable that can be RDMs ({expected}); it has: {contents}"
        raise NeurordlError(problem + _of_subjects(free))
    if len(candidates) > 1:
        names = ", ".join(f"{key!r} ({_shape(variables[key])})" for key in candidates)
        remedy = "pass name=, or, if each is a subject, read one after the other and merge them: "
        remedy += "nrl.merge_rdms([nrl.load_rdms(path, name=key, subjects=key) for key in names])"
        raise NeurordlError(f"several variables can be RDMs: {names}; {remedy}")
    return candidates[0]


def _of_subjects(variables: Mapping[str, Any]) -> str:
    """What to do with a struct that has RDMs in its fields, such as one for each subject; else empty."""
    for key, value in variables.items():
        structs = value if _is_structs(value) and len(value) == 1 else [{}]
        if fields := [name for name, x in structs[0].items() if _could_be_rdms(x)]:
            return (
                f"; {key!r} has RDMs in its fields {listed(fields, most=3)}: in MATLAB, save each as a "
                f"variable (save('rdms.mat', '-struct', '{key}')) and read it by name=, or stack them as "
                "n x n x subjects"
            )
    return ""


def _could_be_rdms(value: Any) -> bool:
    if _is_structs(value := _plain_structs(value)):
        return _rdm_field(value) is not None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or value.size < 2:
        return False
    return bool(_as_squares(value)) or _as_vectors(value) is not None


def _are_cells_of_rdms(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_could_be_rdms, value))


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return " x ".join(map(str, value.shape)) or "a number"
    if _is_structs(value):
        return f"{len(value)} structs"
    if isinstance(value, UnreadableError):
        return f"not read: {value}"
    if value is None:
        return "not read: in it are strings or other objects of MATLAB, sparse or complex numbers"
    return f"{len(value)} items" if isinstance(value, list) else "text"


def _is_structs(value: Any) -> TypeGuard[list[Struct]]:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _plain_structs(value: Any) -> Any:
    """The structs of a cell array whose cells hold one struct each, all with the same fields."""
    if not isinstance(value, Cells) or not all(_is_structs(item) and len(item) == 1 for item in value):
        return value
    structs = [item[0] for item in value]
    return Cells(structs, value.shape) if len({tuple(struct) for struct in structs}) == 1 else value


def _rdm_field(structs: list[Struct]) -> str | None:
    return next((key for key in structs[0] if key.lower() in ("rdm", "rdms")), None)


def _from_structs(structs: list[Struct]) -> RDMContent:
    """Read struct arrays of the MATLAB toolbox: fields RDM and name, and others with a value per RDM."""
    key = _rdm_field(structs)
    if key is None:
        problem = f"its structs have no field RDM, but {', '.join(structs[0]) or 'none'}"
        raise NeurordlError(problem + _of_subjects({"name": structs}))
    content = RDMContent([struct[key] for struct in structs])
    if _is_unread(content.values):
        raise NeurordlError(f"the field {key!r} {_NOT_READ}")
    for name in structs[0]:
        column = [struct[name] for struct in structs]
        if any(map(_is_unread, column)):
            content.notices.append(f"the field {name!r} {_NOT_READ}")
        values = [_single(value) for value in column]
        texts = _texts(column[0])
        if name != key and None not in values and len({isinstance(value, str) for value in values}) == 1:
            content.rdm_descriptors[name] = values
        elif texts and all(_texts(value) == texts for value in column):
            if name.lower() in _IDS:
                content.pattern_descriptors.setdefault("stimulus", texts)
            content.texts[name] = texts
        elif texts and name.lower() in _IDS:
            problem = f"the RDMs name stimuli in the field {name!r}, and not all alike"
            raise NeurordlError(f"{problem}; bring them into one order")
    _split_names(content)
    return content


def _split_names(content: RDMContent) -> None:
    """Read ROI, subject and session from names such as "hIT | BE | Session: 1"."""
    names = content.rdm_descriptors.get("name", [])
    matches = [_TOOLBOX_NAME.fullmatch(str(name)) for name in names]
    if not names or not all(matches) or set(_OF_RDMS) & set(content.rdm_descriptors):
        return
    del content.rdm_descriptors["name"]  # it says nothing more, and would keep sessions apart
    for descriptor in _TOOLBOX_NAME.groupindex:
        content.rdm_descriptors[descriptor] = [match[descriptor].strip() for match in matches if match]
    first = ", ".join(f"{key} {content.rdm_descriptors[key][0]!r}" for key in _TOOLBOX_NAME.groupindex)
    content.notices.append(
        f"ROI, subject and session were read from the names of the {len(names)} RDMs; {names[0]!r} is {first}"
    )


def _texts(value: Any) -> list[str] | None:
    """A list of texts, or None for anything else."""
    values = None if isinstance(value, str) else _values(value)
    return values if values and all(isinstance(item, str) for item in values) else None


def _single(value: Any) -> Any:
    """A single text or number, or None for anything else."""
    if isinstance(value, str):
        return value
    is_number = isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "fiub"
    return value.item() if is_number else None


def _values(value: Any) -> list[Any] | None:
    """One text or number per stimulus or RDM, or None for anything else."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiubSU":
        if sum(length != 1 for length in value.shape) > 1:
            return None  # a table, or pictures of the stimuli
        flat: list[Any] = value.ravel().tolist()
        return [item.decode() if isinstance(item, bytes) else item for item in flat]
    if isinstance(value, list) and value:
        values = [_single(item) for item in value]
        return None if None in values else values
    return None


def _add_descriptors(content: RDMContent, group: str, variables: Mapping[str, Any]) -> None:
    """Add descriptors as `save_rdms` stores them in .mat: structs of the names in `DESCRIPTORS`."""
    struct = variables.get(group)
    for key, value in struct[0].items() if _is_structs(struct) and len(struct) == 1 else ():
        if group == "descriptors":
            content.descriptors[key] = _plain(value)
        elif (values := _values(value)) is not None:
            getattr(content, group)[key] = values


def _plain(value: Any) -> Any:
    if _is_structs(value) and len(value) == 1:
        return {key: _plain(item) for key, item in value[0].items()}
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return value
