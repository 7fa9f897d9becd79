"""RDM files: read without unpickling, checked, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from neurordl.arrays import check_times, is_rdms
from neurordl.errors import NeurordlError, explain, notify
from neurordl.ids import check_ids, is_missing, other_order, possible_ids, similar_ids
from neurordl.io import damage_named, write_bytes
from neurordl.mat5 import Cells
from neurordl.measures.condensed import unmeasured_stimuli
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.rdms.files.arrays import NPY, NPZ
from neurordl.rdms.files.content import (
    Format,
    Interpretation,
    Layout,
    RDMContent,
    columns_fit,
    condense,
    doubts,
    n_stimuli,
    over_time,
    unstacked,
)
from neurordl.rdms.files.hdf5 import HDF5, write_hdf5
from neurordl.rdms.files.matlab import MATLAB
from neurordl.rdms.files.meadows import JSON
from neurordl.rdms.files.tables import CSV, TSV, read_names
from neurordl.rdms.selection import as_text, check_distinct
from neurordl.validate import check_path, check_type, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

__all__ = [
    "FORMATS",
    "SUBJECTS",
    "Format",
    "RDMContent",
    "load_rdms",
    "rdms_over_time",
    "read_names",
    "save_rdms",
]

FORMATS: dict[str, Format] = {
    suffix: format for format in (HDF5, MATLAB, NPZ, NPY, CSV, TSV, JSON) for suffix in format.suffixes
}
"""The formats by suffix. Whoever adds one to this dictionary can load and save it."""


SUBJECTS = ("subject", "participant_id")
"""Names of the column of subjects in a table of names."""


def load_rdms(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    ids: Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    subjects_from: str | os.PathLike[str] | None = None,
    roi: str | Sequence[str] | None = None,
    session: str | Sequence[str] | None = None,
    measure: str | None = None,
    layout: Layout | None = None,
    similarity: Literal["1-s"] | None = None,
    diagonal: Literal["ignore"] | None = None,
) -> RDMs:
    """Read RDMs from a file, in the format of its suffix.

    - ``.h5``, ``.hdf5``: rsatoolbox's layout (``rdms.save(path, file_type="hdf5")``), or `save_rdms`.
    - ``.mat``, version 5 or 7.3: a matrix, a stack, a cell array, or a struct array of the MATLAB RSA toolbox
      (fields RDM, name) in MATLAB's order. Names such as "hIT | BE | Session: 1" give ROI, subject and
      session, with a notice; fields with one text or number per RDM become RDM descriptors. Exports of
      Meadows give an RDM for each participant.
    - ``.npz``: one of its arrays. The arrays stimulus (or ids), subject, roi and session become descriptors.
      Files of Net2Brain's ``RDMCreator`` give the RDM of their layer, with the RDM descriptor ``layer``.
    - ``.json``: a tree of Meadows, with an RDM for each participant and task of multiple arrangements, and
      the RDM descriptors ``subject`` and ``task``. Stimuli are matched by name, and pairs of stimuli that a
      participant did not arrange are NaN.
    - ``.npy``: an array.
    - ``.csv`` (also with semicolons and decimal commas), ``.tsv``: a square table with ids in its first row,
      its first column, both or neither, whole or one triangle of it; or condensed RDMs, one per row, after
      columns such as subject or roi. Blank cells, NA and nan are missing.

    Values are read by these rules:

    - Square matrices, stacks of them (along the first axes, or along the last as in MATLAB) and condensed
      RDMs (one per row) are recognized by shape and symmetry.
    - If the two triangles differ by up to 1e-5 of the largest value, which is rounding, they are averaged. If
      one of them is blank, the other is read.
    - NaN is a pair that was not measured. A diagonal of NaN is read as zeros.
    - Negative values, which cross-validated distances have, are kept.
    - Whole numbers and booleans become float64; float32 is kept.

    Parameters
    ----------
    path
        The file. Pickles are refused, because unpickling can run any code.
    name
        The variable of a .mat or .npz file to read, if several of them could be RDMs.
    ids
        Stimulus ids in the order of the rows, if the file has none.
    labels
        File with the stimulus ids in the order of the rows of the RDMs, if the file of the RDMs has no ids:
        .txt with one id per line, or .csv or .tsv with a column ``id`` or ``stimulus``. It can also be the
        name of a variable of the same .mat or .npz file, such as "stimNames".
    subjects
        The subject of all RDMs, or of each, if the file does not name them.
    subjects_from
        File with the subject of each RDM, if the file of the RDMs does not name them: .txt with one name per
        line, or .csv or .tsv with a column ``subject`` or ``participant_id``, such as participants.tsv.
    roi, session
        The ROI and the session of all RDMs, or of each, if the file does not name them.
    measure
        The dissimilarity, such as "correlation" or "crossnobis", if the file does not name it.
    layout
        "square", or "condensed" for upper triangles row by row, as in scipy and MATLAB's squareform;
        "condensed-columns" for upper triangles column by column, as M(triu(true(n), 1)) in MATLAB; and
        "condensed-diagonal" or "condensed-columns-diagonal" for triangles with the diagonal. By default shape
        and symmetry decide, and condensed RDMs are read row by row without the diagonal.
    similarity
        "1-s" converts similarities s, with ones on the diagonal, to dissimilarities 1 - s.
    diagonal
        "ignore" leaves out a diagonal that is not zero, as in split-half RDMs; with ``similarity``, that is
        not one.

    Returns
    -------
    RDMs
        RDMs with the descriptors of the file.

    Warns
    -----
    UserWarning
        The file has no stimulus ids (the message points out a descriptor that could hold them), or numbers as
        ids. ROI, subject and session were read from names. The rows were read as RDMs, but the columns could
        be RDMs, too. Condensed RDMs fit another order better, or values fit similarities better; vectors of a
        .mat file were read row by row. Values are NaN. Something else in the file is not read. Numbers have
        decimal commas.

    Raises
    ------
    NeurordlError
        The file does not exist or is damaged; several of its variables could be RDMs and there is no
        ``name``; it holds Python objects, text, similarities, values that are infinite or not symmetric, a
        diagonal that is not zero, or an RDM without any value; or the number of ids, subjects or ROIs differs
        from that of the RDMs, or a name is blank or repeated in ``subjects_from``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder) / "it.npy"
    ...     np.save(file, [[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    ...     rdms = nrl.load_rdms(file, ids=["face", "house", "cat"], subjects="s01")
    >>> rdms.dissimilarities  # face-house, face-cat, house-cat
    array([[1., 2., 3.]])
    """
    source = check_path("path", path)
    format = _find_format(source, "read")
    interpretation = Interpretation(layout, similarity, diagonal)
    if not source.is_file():
        raise NeurordlError(f"there is no RDM file {source}; check the path")
    if name is not None:
        check_type("name", name, str, "give the name of one variable")
    if name is not None and not format.has_variables:
        raise NeurordlError(f"{source} has no variables to choose from: leave out name={name!r}")
    _check_ids(ids, labels)
    if subjects is not None and subjects_from is not None:
        raise NeurordlError("subjects= and subjects_from= were both given; give one of them")
    with damage_named(source):
        content = format.read(source, name)
    ids = ids if labels is None else _read_labels(content, labels, source)
    if layout is None and content.layout is None:
        counts = [
            _count_of(named, stored.get(key))
            for named, stored, key in (
                (ids, content.pattern_descriptors, "stimulus"),
                (subjects, content.rdm_descriptors, "subject"),
            )
        ]
        _turn_columns(content, *counts)
    rdms = _to_rdms(content, interpretation, source)
    if ids is not None:
        ids = check_ids(ids, f"RDMs in {source}")
        if _are_row_numbers(rdms, source):
            del rdms.pattern_descriptors["stimulus"]
        columns = {name: x for name, x in rdms.pattern_descriptors.items() if name != "stimulus"}
        if column := other_order(ids, columns):
            values = [str(value) for value in rdms.pattern_descriptors[column]]
            problem = (
                f"{source}: {column!r} has the same names in another order ({listed(values, 3)}) than the ids"
            )
            remedy = f"give the ids in the order of {column!r}, which is that of the rows"
            raise NeurordlError(f"{problem} ({listed(ids, 3)}); {remedy}")
    _complete(rdms.pattern_descriptors, "stimulus", ids, rdms.n_cond, source)
    for descriptor, named in (("subject", subjects), ("roi", roi), ("session", session)):
        named = [named] * rdms.n_rdm if isinstance(named, str) else named
        _complete(rdms.rdm_descriptors, descriptor, named, rdms.n_rdm, source)
    if subjects_from is not None:
        _name_subjects(rdms, check_path("subjects_from", subjects_from), source)
    measures = {} if rdms.dissimilarity_measure is None else {"measure": [rdms.dissimilarity_measure]}
    _complete(measures, "measure", None if measure is None else [measure], 1, source)
    rdms.dissimilarity_measure = measures.get("measure", [None])[0]
    _check_values(rdms, str(source))
    # a table is square for certain, and may still hold similarities
    declared = layout is not None or similarity is not None or content.layout == "condensed"
    about_values = [] if declared else _doubts_about_values(rdms, content.values, format)
    about_values += [*_notice_about_missing(rdms), *_notices_about_names(rdms)]
    for notice in [*content.notices, *about_values, *_notice_about_ids(rdms, source)]:
        notify(f"{source}: {notice}")
    return rdms


def rdms_over_time(
    values: str | os.PathLike[str] | npt.ArrayLike,
    times: Sequence[float] | None = None,
    *,
    ids: Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
    subjects: str | Sequence[str] | None = None,
    roi: str | None = None,
    measure: str | None = None,
    name: str | None = None,
) -> RDMs:
    """RDMs of subjects at several times from one array, or from a file that holds it.

    Parameters
    ----------
    values
        RDMs (subjects, times, n, n), or condensed (subjects, times, pairs): an array, or a .npy, .npz, .mat
        or .h5 file. An array of one subject may be (times, n, n); one of MATLAB (n, n, times, subjects).
    times
        Times in seconds; by default those that the file stores as ``time`` or ``times``.
    ids
        Stimulus ids in the order of the rows, if the file does not store them.
    labels
        File with the stimulus ids, or the variable of the .mat or .npz file that has them, as for
        `load_rdms`.
    subjects
        Names of the subjects, if the file does not store them. Without names they are numbered, with a
        notice.
    roi, measure
        The ROI, and the dissimilarity, such as "crossnobis", of all RDMs.
    name
        The variable of a file with several, as for `load_rdms`.

    Returns
    -------
    RDMs
        An RDM for each subject and time, subject by subject, with the RDM descriptors ``subject`` and
        ``time``.

    Warns
    -----
    UserWarning
        Times reach beyond 50 s, as milliseconds do. Subjects have no names.

    Raises
    ------
    NeurordlError
        There are no times or ids, they do not fit the array, the axes can be read in two ways, or values are
        not RDMs, as for `load_rdms`.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> movies = np.ones((2, 5, 3, 3)) - np.eye(3)
    >>> rdms = nrl.rdms_over_time(movies, np.arange(5) / 10, ids=["a", "b", "c"], subjects=["s1", "s2"])
    >>> rdms.rdm_descriptors["subject"][4:6], rdms.rdm_descriptors["time"][4:6]
    (['s1', 's2'], [0.4, 0.0])
    """
    _check_ids(ids, labels)
    source, content = Path("the array"), RDMContent(values)
    if isinstance(values, str | os.PathLike):
        source = check_path("values", values)
        format = _find_format(source, "read")
        if not source.is_file():
            raise NeurordlError(f"there is no RDM file {source}; check the path")
        with damage_named(source):
            content = format.read(source, name)
    stored = content.rdm_descriptors
    times = stored.get("time") if times is None else times
    if times is None:
        raise NeurordlError(f"{source} stores no times; give them in seconds as times=")
    seconds = check_times(str(source), times)
    names = (
        stored.get("subject") if subjects is None else [subjects] if isinstance(subjects, str) else subjects
    )
    with explain(f"{source} holds no array of numbers"):
        array = np.asarray(content.values, dtype=np.float64)
    ids = ids if labels is None else _read_labels(content, labels, source)
    known = content.pattern_descriptors.get("stimulus") if ids is None else ids
    counts = [None if each is None else len(each) for each in (names, known)]
    stack = over_time(array, len(seconds), counts[0], counts[1], str(source))
    n_subjects = len(stack) // len(seconds)
    if names is None:
        notify(
            f"{source}: its subjects have no names and are numbered 1 to {n_subjects}; name them by subjects="
        )
        names = [str(k + 1) for k in range(n_subjects)]
    layout: Layout = "square" if stack.ndim == 3 else "condensed"
    content.values, content.layout = stack, layout
    content.rdm_descriptors = {
        "subject": [subject for subject in map(as_text, names) for _ in seconds],
        "time": seconds.tolist() * n_subjects,
        **({} if roi is None else {"roi": [roi] * len(stack)}),
    }
    content.measure = content.measure if measure is None else measure
    rdms = _to_rdms(content, Interpretation(layout), source)
    _complete(
        rdms.pattern_descriptors,
        "stimulus",
        None if ids is None else check_ids(ids, str(source)),
        rdms.n_cond,
        source,
    )
    check_distinct(rdms.rdm_descriptors, [str(source)] * rdms.n_rdm)
    _check_values(rdms, str(source))
    for notice in [*content.notices, *_notice_about_missing(rdms), *_notice_about_ids(rdms, source)]:
        notify(f"{source}: {notice}")
    return rdms


def _check_ids(ids: object, labels: object) -> None:
    """Refuse ids and labels together, and a file as ids, whose letters are no ids."""
    if ids is not None and labels is not None:
        raise NeurordlError("ids= and labels= were both given; give one of them")
    if isinstance(ids, str | os.PathLike):
        raise NeurordlError(f"ids= takes the ids as a list, not {str(ids)!r}; a file of ids is labels=")


def _read_labels(content: RDMContent, labels: str | os.PathLike[str], source: Path) -> list[str]:
    """Ids from a file, or from a variable of the file of the RDMs, which must not have the name of a file."""
    name, path = str(labels), check_path("labels", labels)
    if name in content.texts and not path.is_file():
        return content.texts[name]
    if not path.is_file() and content.texts and not path.suffix:
        raise NeurordlError(
            f"labels={name!r} is no file, and no variable of {source} with a text for each stimulus; these "
            f"are: {listed(content.texts, quote=True)}"
        )
    return read_names(path, ("id", "stimulus"))


def save_rdms(rdms: RDMs, path: str | os.PathLike[str], *, lossy: bool = False) -> None:
    """Write RDMs in the format of the suffix; `load_rdms` reads them back exactly.

    - ``.h5``, ``.hdf5``: rsatoolbox's layout, with everything that RDMs carry.
    - ``.npz``: the same names as arrays.
    - ``.mat`` (version 5): a struct array ``RDMs`` that the MATLAB toolbox reads, and a cell array
      ``stimulus``.
    - ``.npy``: the dissimilarities alone.
    - ``.csv``, ``.tsv``: one RDM, square, with its ids.

    Parameters
    ----------
    rdms
        RDMs whose descriptors are text or numbers (in .h5 also None), or lists or arrays of one type.
    path
        The file, in a folder that exists. An existing file is replaced.
    lossy
        Leave out what the format cannot store, instead of raising an error.

    Raises
    ------
    NeurordlError
        The format is unknown or cannot store what the RDMs contain, an RDM is NaN everywhere, or the file
        cannot be written.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=2)
    >>> with TemporaryDirectory() as folder:
    ...     nrl.save_rdms(rdms, Path(folder) / "it.h5")
    ...     again = nrl.load_rdms(Path(folder) / "it.h5")
    >>> again.rdm_descriptors["subject"]
    ['s01', 's02']
    """
    target, write = _checked_target(rdms, path, lossy)
    write_bytes(target, write(rdms))


def save_noted(rdms: RDMs, path: str | os.PathLike[str], note: str) -> None:
    """As `save_rdms`, an HDF5 file with a note, which `read_note` reads."""
    target, _ = _checked_target(rdms, path)
    write_bytes(target, write_hdf5(rdms, note))


def _checked_target(
    rdms: RDMs, path: str | os.PathLike[str], lossy: bool = False
) -> tuple[Path, Callable[[RDMs], bytes]]:
    """The file to write, and the writer of its format, which has a place for what the RDMs carry."""
    target = check_path("path", path)
    format = _find_format(target, "write")
    if not is_rdms(rdms):
        raise NeurordlError(f"save_rdms takes rsatoolbox RDMs, not {type(rdms).__name__}")
    _check_values(rdms, "the RDMs to save")
    if (write := format.write) is None:
        raise NeurordlError(f"RDMs are read from {target.suffix}, but not written; write .h5")
    if format.single and rdms.n_rdm > 1:
        raise NeurordlError(f"a {target.suffix} file holds one RDM, and these are {rdms.n_rdm}; write .h5")
    if not lossy and (omitted := ", ".join(format.omits(rdms))):
        raise NeurordlError(f"{target.name} has no place for {omitted}; write .h5, or pass lossy=True")
    return target, write


def _find_format(path: Path, verb: str) -> Format:
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    reason = "unpickling a file can run any code" if suffix in (".pkl", ".pickle") else "not supported"
    known = f"HDF5 in rsatoolbox's layout or others, named {', '.join(FORMATS)}"
    remedy = "convert with rdms.save(path, file_type='hdf5') in rsatoolbox"
    raise NeurordlError(f"cannot {verb} RDMs as {path.name!r} ({reason}): RDM files are {known}; {remedy}")


def _to_rdms(content: RDMContent, interpretation: Interpretation, source: Path) -> RDMs:
    """Make RDMs of the content of a file; rsatoolbox does not check numbers of pairs and descriptors."""
    from rsatoolbox.rdm.rdms import RDMs

    values = content.values
    if content.layout == "condensed" and np.ndim(values) == 2 and values.shape[1] == 1:
        values = list(values)  # RDMs of two stimuli, not one RDM as a column
    interpretation = replace(interpretation, layout=interpretation.layout or content.layout)
    vectors = condense(values, str(source), interpretation)
    if interpretation.layout is None and columns_fit(values):
        content.notices.append(
            f"the shape {values.shape} was read as {len(vectors)} RDMs, one per row; if each column is an "
            "RDM, transpose it; if it is right, pass layout='condensed'"
        )
    for name in ("subject", "roi", "session", "time"):
        names = content.rdm_descriptors.get(name)
        if names is not None and len(names) != len(vectors) and FORMATS[source.suffix.lower()].has_variables:
            del content.rdm_descriptors[name]
            content.notices.append(f"{len(names)} {name} names but {len(vectors)} RDMs: they are left out")
    described = content.rdm_descriptors | content.pattern_descriptors
    lengths = listed((f"{len(values)} {name}" for name, values in described.items()), most=40)
    with explain(f"{source} holds {len(vectors)} inconsistent RDMs, with {lengths}"):
        rdms = RDMs(
            vectors,
            dissimilarity_measure=content.measure,
            descriptors=content.descriptors,
            rdm_descriptors=content.rdm_descriptors,
            pattern_descriptors=content.pattern_descriptors,
        )
    for name, texts in content.texts.items():
        if "stimulus" not in rdms.pattern_descriptors and len(texts) == rdms.n_cond != rdms.n_rdm:
            rdms.pattern_descriptors.setdefault(name, texts)
    return rdms


def _count_of(named: object, stored: Sequence[object] | None) -> int | None:
    """How many names there are, of the user or of the file; None where none or a single one is given."""
    names = stored if named is None or isinstance(named, str) else named
    return len(names) if isinstance(names, Sequence | np.ndarray) else None


def _turn_columns(content: RDMContent, n_ids: int | None, n_subjects: int | None) -> None:
    """Transpose an array whose columns, not its rows, are the RDMs of so many stimuli and subjects."""
    values = content.values
    if not isinstance(values, np.ndarray) or values.ndim != 2 or min(values.shape) < 2:
        return
    n_pairs, n = values.shape
    of_columns, of_rows = n_stimuli(n_pairs), n_stimuli(n)
    if of_columns is None or n_pairs == n:
        return
    by_columns = n_ids in (None, of_columns) and n_subjects in (None, n)
    by_rows = of_rows is not None and n_ids in (None, of_rows) and n_subjects in (None, n_pairs)
    if by_rows or not by_columns or n_ids is n_subjects is None or unstacked(values).ndim > 2:
        return
    content.values = values.T
    names = f"{n_ids} stimuli" if n_ids is not None else f"{n_subjects} subjects"
    content.notices.append(
        f"its {n} columns of {n_pairs:,} values are read as the RDMs, as there are {names}"
    )


def _are_row_numbers(rdms: RDMs, source: Path) -> bool:
    """Whether ids are the row numbers that pandas and R write beside a table, all of them."""
    counts = [[str(k + first) for k in range(rdms.n_cond)] for first in (0, 1)]
    is_table = source.suffix.lower() in (".csv", ".tsv")
    return is_table and list(rdms.pattern_descriptors.get("stimulus", ())) in counts


def _complete(
    descriptors: dict[str, Any], name: str, named: Sequence[str] | None, count: int, source: Path
) -> None:
    """Set a descriptor to what the user names: one value for each, and not against the file."""
    if named is None:
        return
    if isinstance(named, str) or not isinstance(named, Iterable):
        raise NeurordlError(f"{source}: expected a value of {name!r} for each, got {named!r:.60}")
    texts, stored = list(map(as_text, named)), list(map(as_text, descriptors.get(name, ())))
    if len(texts) != count:
        raise NeurordlError(f"{len(texts)} values were passed for {name!r}, but {source} has {count}")
    if stored and stored != texts:
        both = [listed(values, 3, quote=True) for values in (stored, texts)]
        problem = f"{source} has its own {name} ({both[0]}), other than those given ({both[1]})"
        raise NeurordlError(f"{problem}; leave the argument out, or change the RDMs after loading")
    descriptors[name] = texts


def _name_subjects(rdms: RDMs, names_from: Path, source: Path) -> None:
    """Give each RDM the subject of a row in a file."""
    names = read_names(names_from, SUBJECTS)
    with explain(f"the subjects in {names_from} do not fit", NeurordlError):
        _complete(rdms.rdm_descriptors, "subject", names, rdms.n_rdm, source)
        check_distinct(rdms.rdm_descriptors, [str(source)] * rdms.n_rdm)


def _check_values(rdms: RDMs, label: str) -> None:
    unmeasured = np.isnan(rdms.dissimilarities).all(axis=1)
    infinite = np.isinf(rdms.dissimilarities).any(axis=1)
    for wrong, problem in ((unmeasured, "is NaN everywhere"), (infinite, "holds infinite dissimilarities")):
        if wrong.any():
            number = int(wrong.argmax())
            names = ", ".join(f"{k} {v[number]}" for k, v in rdms.rdm_descriptors.items() if k != "index")
            first = f"RDM {number}{f' ({names})' if names else ''}"
            raise NeurordlError(f"{label}: {first} {problem}; leave it out or compute it anew")


def _doubts_about_values(rdms: RDMs, values: Any, format: Format) -> list[str]:
    """What was assumed about values: their order, and that they are dissimilarities."""
    vectors = np.asarray(rdms.dissimilarities)
    size = sum(map(np.size, values)) if isinstance(values, list) else np.size(values)
    measure = dissimilarity_from_text(rdms.dissimilarity_measure)
    notices = doubts(vectors, size == vectors.size, measure is None or not measure.needs_runs)
    in_structs = isinstance(values, list) and not isinstance(values, Cells)
    if size == vectors.size and format is MATLAB and not (in_structs or notices or rdms.n_cond < 4):
        notices.append(
            "its vectors were read as upper triangles row by row, as squareform and pdist order them; if "
            "they are M(triu(true(n), 1)), pass layout='condensed-columns', otherwise layout='condensed'"
        )
    return notices


def _notice_about_missing(rdms: RDMs) -> list[str]:
    """How many pairs have no value, and which stimuli have none at all."""
    vectors = np.asarray(rdms.dissimilarities)
    if not (missing := int(np.isnan(vectors).sum())):
        return []
    unmeasured = unmeasured_stimuli(~np.isnan(vectors).all(0))
    ids = rdms.pattern_descriptors.get("stimulus", range(rdms.n_cond))
    which = f", with all of {listed([ids[k] for k in unmeasured], quote=True)}" if unmeasured else ""
    return [f"{missing:,} of {vectors.size:,} dissimilarities are NaN, pairs without a value{which}"]


def _notices_about_names(rdms: RDMs) -> list[str]:
    """RDMs without a subject, ROI or session where others have it, and names that are alike."""
    notices = []
    for name in ("subject", "roi", "session"):
        values = rdms.rdm_descriptors.get(name, ())
        if missing := [number for number, value in enumerate(values) if is_missing(value)]:
            numbers = f"number {listed(missing)} from 0"
            notices.append(f"{len(missing)} of {len(values)} RDMs have no {name} (blank or n/a), {numbers}")
        if similar := similar_ids(dict.fromkeys(values), f"{name}s"):
            notices.append(f"{name}: {similar}")
    return notices


def _notice_about_ids(rdms: RDMs, source: Path) -> list[str]:
    """What keeps the stimuli from being matched by id, if anything does."""
    ids = rdms.pattern_descriptors.get("stimulus")
    remedy = "name them by ids= or labels= (a file), or set rdms.pattern_descriptors['stimulus'] to their"
    if ids is None:
        use = "rdms.pattern_descriptors['stimulus'] = rdms.pattern_descriptors[{name!r}]"
        candidate = possible_ids(rdms.pattern_descriptors, use)
        return [f"it does not say which stimuli its {rdms.n_cond} rows are; {remedy} ids{candidate}"]
    if _are_row_numbers(rdms, source) or not all(isinstance(value, str) for value in ids):
        return [
            f"it has numbers as stimulus ids ({listed(ids, 3)}), and ids are text, '1' another than '001'; "
            f"{remedy} text"
        ]
    return [similar] if (similar := similar_ids(ids)) else []
