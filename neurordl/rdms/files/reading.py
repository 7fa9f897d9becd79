"""RDM files: read without unpickling, checked, and written whole or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rsatoolbox.rdm.rdms import RDMs

from neurordl.errors import NeurordlError
from neurordl.ids import possible_ids
from neurordl.io import write_aside
from neurordl.rdms.files import arrays, hdf5, matlab, tables
from neurordl.rdms.files.held import (
    Diagonal,
    Held,
    Layout,
    Similarity,
    agreed,
    numbered,
    set_ids,
    set_of_rdms,
)
from neurordl.rdms.files.shapes import columns_fit, condense
from neurordl.rdms.files.tables import read_ids

__all__ = ["load_rdms", "save_rdms"]

_READERS: dict[str, Callable[[Path, str | None], Held]] = {
    ".h5": hdf5.read,
    ".hdf5": hdf5.read,
    ".mat": matlab.read_mat,
    ".npz": arrays.read_npz,
    ".npy": arrays.read_npy,
    ".csv": tables.read_square,
    ".tsv": tables.read_square,
}
_USE = "rdms.pattern_descriptors['stimulus'] = rdms.pattern_descriptors[{name!r}]"
_WRITERS: dict[str, Callable[[RDMs], bytes]] = {
    ".h5": hdf5.content,
    ".hdf5": hdf5.content,
    ".mat": matlab.mat_content,
    ".npz": arrays.npz_content,
    ".npy": arrays.npy_content,
    ".csv": lambda rdms: tables.table_content(rdms, ","),
    ".tsv": lambda rdms: tables.table_content(rdms, "\t"),
}


def load_rdms(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    ids: Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    roi: str | Sequence[str] | None = None,
    measure: str | None = None,
    layout: Layout | None = None,
    similarity: Similarity | None = None,
    diagonal: Diagonal | None = None,
) -> RDMs:
    """Read RDMs from a file, of the format that its suffix says.

    - ``.h5``, ``.hdf5``: rsatoolbox's own layout (``rdms.save(path, file_type="hdf5")``), or `save_rdms`.
    - ``.mat``, version 5 or 7.3: a matrix, a stack, or a struct array of the MATLAB RSA toolbox (fields RDM,
      name) in MATLAB's order. Names such as "hIT | BE | Session: 1" give ROI, subject and session, with a
      notice; fields with one text or number per RDM become RDM descriptors.
    - ``.npz``: one of its arrays. Arrays stimulus (or ids), subject, roi and session say what they name.
    - ``.npy``: an array. - ``.csv`` (or with semicolons and decimal commas), ``.tsv``: a square table, ids in
      its first row, first column, both or neither; or condensed RDMs, one a row. Blank, NA, nan: missing.

    Square matrices and stacks of them (along the first axes, or the last as in MATLAB) are told from
    condensed RDMs, one per row, by shape and symmetry. What else is done with the values: differences
    between the two triangles of up to 1e-5 of the largest value are rounding, and averaged; NaN is a pair
    that was not measured; a diagonal of NaN is one of zeros; negative values stay (cross-validated distances
    have them); whole numbers and truth values become float64, float32 stays.

    Parameters
    ----------
    path
        The file. Pickles, whatever their name, are refused: unpickling can run any code.
    name
        Which variable of a .mat or .npz to read, where several can be RDMs.
    ids, labels
        Stimulus ids in the order of the rows, where the file has none: given here, or in a file: .txt with
        one a line, .csv or .tsv with a column ``id`` or ``stimulus``.
    subjects, roi
        One subject for each RDM; one ROI for all or for each. Where the file does not say.
    measure
        The dissimilarity measure, where the file does not say ("correlation", "crossnobis").
    layout
        "square" or "condensed", where shape and symmetry do not tell.
    similarity
        "1-s": the file holds similarities with ones on the diagonal; 1 - s is taken.
    diagonal
        "ignore": the diagonal is not zero and is left out (split-half RDMs have such).

    Returns
    -------
    RDMs
        With the file's descriptors; text is ``str``, whether stored as text or as bytes.

    Warns
    -----
    UserWarning
        The file names no stimuli (no pattern descriptor ``stimulus``), or by numbers (of rows). Give ids then
        before anything is matched; a descriptor that could be they is pointed out. Also: ROI, subject and
        session were read from names; rows were read as RDMs where columns could be; decimal commas.

    Raises
    ------
    NeurordlError
        No such file, a damaged one, one that claims more than it holds, several candidates and no ``name``,
        an array of Python objects, text among numbers, asymmetry beyond rounding, similarities, a diagonal
        that is not zero, too few or too many ids or subjects, an infinite value, or an RDM without a finite
        pair.
    """
    source = Path(path)
    read = _by_suffix(_READERS, source, "read")
    _check_options(layout, similarity, diagonal)
    if not source.is_file():
        raise NeurordlError(f"there is no RDM file {source}; check the path")
    try:
        held = read(source, name)
    except NeurordlError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise NeurordlError(
            f"cannot read {source}: it is damaged, or not a {source.suffix.lower()} file "
            f"({error or type(error).__name__}); write it again"
        ) from error
    values = held.values
    if held.layout == "condensed" and np.ndim(values) == 2 and values.shape[1] == 1:
        values = list(values)  # RDMs of two stimuli, not one RDM as a column
    vectors = condense(values, str(source), layout or held.layout, similarity, diagonal)
    if layout is None and held.layout is None and columns_fit(values):
        held.notices.append(
            f"{source}: the shape {values.shape} was read as {len(vectors)} RDMs, one per row; if each "
            "column is an RDM, transpose it; if this is right, say layout='condensed'"
        )
    rdms = _rdms(held, source, vectors)
    if ids is not None and labels is not None:
        raise NeurordlError("ids were given twice, by ids= and by labels=; give one of them")
    set_ids(rdms, ids if labels is None else read_ids(Path(labels)), source)
    set_of_rdms(rdms, "subject", [subjects] if isinstance(subjects, str) else subjects, source)
    set_of_rdms(rdms, "roi", [roi] * rdms.n_rdm if isinstance(roi, str) else roi, source)
    rdms.dissimilarity_measure = agreed(rdms.dissimilarity_measure, measure, source, "dissimilarity measure")
    _check_values(rdms, str(source))
    _notify(rdms, held, source)
    return rdms


def save_rdms(rdms: RDMs, path: str | os.PathLike[str], *, lossy: bool = False) -> None:
    """Write RDMs in the format that the suffix says; `load_rdms` reads them back exactly.

    ``.h5``, ``.hdf5``: rsatoolbox's own layout, all that RDMs carry. ``.npz``: the same names as arrays.
    ``.mat`` (version 5): a struct array ``RDMs`` that the MATLAB toolbox reads, and a cell array
    ``stimulus``. ``.npy``: the dissimilarities alone. ``.csv``, ``.tsv``: one RDM, square, with its ids.

    Parameters
    ----------
    rdms
        Their descriptors hold text, numbers or (in .h5) None, alone or in lists and arrays of one kind.
    path
        The file, in a folder that exists. A file already there is replaced without asking, as numpy's and
        scipy's writers do (rsatoolbox's own ``rdms.save`` refuses), once the new one is whole.
    lossy
        Leave out what the format has no place for, instead of an error that names it.

    Raises
    ------
    NeurordlError
        A format that is not one of these or has no place for what the RDMs carry, a descriptor that cannot be
        stored, an RDM that is NaN everywhere, or a file that cannot be written (nothing is left of it then).
    """
    target = Path(path)
    write = _by_suffix(_WRITERS, target, "write")
    if not isinstance(rdms, RDMs):
        raise NeurordlError(f"save_rdms takes rsatoolbox RDMs, not {type(rdms).__name__}")
    _check_values(rdms, "the RDMs to save")
    if not lossy and (lost := _lost(rdms, target.suffix.lower())):
        raise NeurordlError(
            f"{target.name} has no place for {', '.join(lost)}; write .h5, which holds everything, or leave "
            "these out by lossy=True"
        )
    if target.suffix.lower() in (".csv", ".tsv") and rdms.n_rdm > 1:
        raise NeurordlError(
            f"{target.name} holds one RDM, and these are {rdms.n_rdm}; write them one by one, or as .h5"
        )
    content = write(rdms)
    with write_aside(target) as aside:
        aside.write_bytes(content)


def _by_suffix(known: dict[str, Any], path: Path, verb: str) -> Any:
    suffix = path.suffix.lower()
    if suffix in known:
        return known[suffix]
    pickled = suffix in (".pkl", ".pickle")
    raise NeurordlError(
        f"cannot {verb} RDMs as {path.name!r} "
        f"({'unpickling a file can run any code' if pickled else 'not supported'}): RDM files are HDF5 in "
        f"rsatoolbox's layout or others, named {', '.join(known)}; convert with "
        "rdms.save(path, file_type='hdf5') in rsatoolbox"
    )


def _check_options(layout: object, similarity: object, diagonal: object) -> None:
    for option, value, known in (
        ("layout", layout, ("square", "condensed")),
        ("similarity", similarity, ("1-s",)),
        ("diagonal", diagonal, ("ignore",)),
    ):
        if value is not None and value not in known:
            raise NeurordlError(f"{option} must be {' or '.join(map(repr, known))}, but is {value!r}")


def _lost(rdms: RDMs, suffix: str) -> list[str]:
    if suffix not in (".npy", ".csv", ".tsv"):
        return []
    kept = () if suffix == ".npy" else ("stimulus",)
    lost = [f"the descriptor {name!r}" for name in rdms.descriptors]
    lost += [f"the RDM descriptor {name!r}" for name in rdms.rdm_descriptors if name != "index"]
    lost += [
        f"the pattern descriptor {name!r}"
        for name in rdms.pattern_descriptors
        if name not in ("index", *kept)
    ]
    return lost + (["the dissimilarity measure"] if rdms.dissimilarity_measure is not None else [])


def _rdms(held: Held, source: Path, vectors: np.ndarray[Any, Any]) -> RDMs:
    """RDMs of what a file holds, checked, for rsatoolbox takes any number of pairs."""
    for name in ("subject", "roi", "session"):
        values = held.rdm_descriptors.get(name)
        if values is not None and len(values) != len(vectors) and source.suffix.lower() in (".npz", ".mat"):
            del held.rdm_descriptors[name]
            held.notices.append(
                f"{source} has {len(values)} {name} names but {len(vectors)} RDMs: they are left out"
            )
    try:
        rdms = RDMs(
            vectors,
            dissimilarity_measure=held.measure,
            descriptors=held.descriptors,
            rdm_descriptors=held.rdm_descriptors,
            pattern_descriptors=held.pattern_descriptors,
        )
    except (ValueError, AttributeError, TypeError) as error:
        raise NeurordlError(
            f"{source} does not hold consistent RDMs ({len(vectors)} of them): {error}; its descriptors have "
            + ", ".join(
                f"{len(v)} {k}" for k, v in {**held.rdm_descriptors, **held.pattern_descriptors}.items()
            )
        ) from error
    for name, texts in held.texts.items():
        if "stimulus" not in rdms.pattern_descriptors and len(texts) == rdms.n_cond != rdms.n_rdm:
            rdms.pattern_descriptors.setdefault(name, texts)
    return rdms


def _check_values(rdms: RDMs, what: str) -> None:
    for number, vector in enumerate(rdms.dissimilarities):
        finite = np.isfinite(vector)
        problem = None if finite.any() else "has no measured pair (it is NaN everywhere)"
        if problem is None and not (finite | np.isnan(vector)).all():
            problem = "holds infinite dissimilarities"
        if problem is None:
            continue
        names = ", ".join(f"{k} {v[number]}" for k, v in rdms.rdm_descriptors.items() if k != "index")
        raise NeurordlError(
            f"{what}: RDM {number}{f' ({names})' if names else ''} {problem}; leave it out or compute it anew"
        )


def _notify(rdms: RDMs, held: Held, source: Path) -> None:
    for notice in held.notices:
        warnings.warn(notice, UserWarning, stacklevel=3)
    ids = rdms.pattern_descriptors.get("stimulus")
    if ids is None:
        problem = (
            f"does not say which stimuli its {rdms.n_cond} rows are; before matching give ids= or labels=, "
        )
        problem += "or set rdms.pattern_descriptors['stimulus'] to their ids" + possible_ids(
            rdms.pattern_descriptors, _USE
        )
    elif numbered(ids, source) or not all(isinstance(one, str) for one in ids):
        numbers = f"{', '.join(map(str, ids[:3]))}{', ...' if len(ids) > 3 else ''}"
        problem = (
            f"has numbers as stimulus ids ({numbers}), and ids are text, '1' another than '001'; before "
        )
        problem += "matching give ids= or labels=, or set rdms.pattern_descriptors['stimulus'] to their text"
    else:
        return
    warnings.warn(f"{source} {problem}", UserWarning, stacklevel=3)
