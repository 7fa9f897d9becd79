"""Searchlight maps of a group: computed person by person, kept in a folder, and read again."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from neurordl.arrays import is_dataset
from neurordl.errors import NeurordlError, collect_notices, notices, notify
from neurordl.ids import natural_key
from neurordl.io import (
    check_folder,
    damage_named,
    differing,
    make_folder,
    read_json,
    sha256_array,
    sha256_file,
    versions,
    write_bytes,
    write_json,
)
from neurordl.measures.comparisons import find_similarity
from neurordl.measures.dissimilarities import find_dissimilarity
from neurordl.patterns.images import AnyImage, load_image, same_grid
from neurordl.patterns.meshes import Mesh, Surface, read_meshes
from neurordl.patterns.surfaces import HEMISPHERES, map_suffix, open_surface
from neurordl.progress import progress_bar
from neurordl.rdms.selection import reindex, stimulus_ids
from neurordl.rdms.source import parsed_record
from neurordl.rsa.compare import model_stacks
from neurordl.rsa.map_spaces import MapImage, MeshSpace, count_maps, mesh_name, open_map, space_of
from neurordl.rsa.regression import Partial
from neurordl.rsa.searchlight import Searchlight, searchlight
from neurordl.validate import check_path, check_type, counted, folded_html, listed

if TYPE_CHECKING:
    import nibabel as nib
    from rsatoolbox.data.base import DatasetBase
    from rsatoolbox.rdm.rdms import RDMs

Volume: TypeAlias = "str | os.PathLike[str] | nib.Nifti1Image"
Patterns: TypeAlias = "DatasetBase | str | os.PathLike[str]"
"""Patterns of a person, or the file in which rsatoolbox saved them."""
PatternsOf: TypeAlias = "Mapping[str, Patterns] | Sequence[DatasetBase] | Callable[[str], DatasetBase]"

_SETTINGS = "settings.json"
_OF_DATASETS = (".h5", ".hdf5")
_ERRORS = re.compile(r"(?m)^(?:neurordl\.errors\.NeurordlError: |(?=[\w.]+(?:Error|Exception)\b))(.*)$")
_OF_MAPS = (".nii.gz", ".func.gii")
Files: TypeAlias = "Path | Mapping[str, Path]"
"""File of a person's maps, or of each hemisphere."""
_State = Literal["computed", "kept", "computed again"]


@dataclass(frozen=True, eq=False)
class SearchlightMaps:
    """Searchlight maps of several people: an image for each, or one of each hemisphere, with all models.

    Attributes
    ----------
    models
        Names of the models, in the order of the maps in an image.
    files
        NIfTI image of each subject, (x, y, z, models); on a surface the GIFTI files of "left" and "right",
        with an array for each model. NaN where there is no center.
    settings
        Options of the searchlights and checksums of the models.
    surface
        The mesh of each hemisphere; None in a volume.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import nibabel
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> rng, names = np.random.default_rng(0), {"stimulus": list("abcdef")}
    >>> grid = dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1), strict=True))
    >>> people = {f"s{k}": Dataset(rng.normal(size=(6, 27)), {}, names, grid) for k in range(2)}
    >>> model = nrl.compute_rdms(Dataset(np.eye(6)[:, :3], obs_descriptors=names), "euclidean")
    >>> volume = nibabel.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4))
    >>> with TemporaryDirectory() as folder:
    ...     maps = nrl.group_searchlight(people, model, folder, like=volume, radius=2)
    ...     nrl.load_maps(folder).image("s1").shape
    (3, 3, 3, 1)
    """

    models: tuple[str, ...]
    files: Mapping[str, Files | AnyImage]
    settings: Mapping[str, object]
    surface: Mapping[str, Mesh] | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Names of the subjects."""
        return tuple(self.files)

    def image(self, subject: str) -> MapImage:
        """Return the maps of a subject: NIfTI (x, y, z, models), or a SurfaceImage (vertices, models).

        Raises
        ------
        NeurordlError
            There is no such subject, or the file cannot be read.
        """
        if subject not in self.files:
            raise NeurordlError(f"subject={subject!r}: there are maps of {listed(self.files, most=40)}")
        image, name = open_map(self.files[subject], "map", self.surface)
        if count_maps(image) != len(self.models):
            n_maps = counted(count_maps(image), "map")
            raise NeurordlError(f"{name} has {n_maps}, but {len(self.models)} models are recorded")
        return image

    def _cells(self) -> list[tuple[str, str]]:
        settings = {name: value for name, value in self.settings.items() if value is not None}
        options = ", ".join(
            f"{name} {listed(value) if isinstance(value, list | dict) else value}"
            for name, value in settings.items()
        )
        return [
            ("searchlights", f"{counted(len(self.files), 'subject')}: {listed(self.files)}"),
            ("models", listed(self.models, most=8)),
            ("settings", options),
        ]

    def __str__(self) -> str:
        return "\n".join(f"{name:<12}  {text}" for name, text in self._cells())

    def _repr_html_(self) -> str:
        (_, summary), *cells = self._cells()
        return folded_html(f"Searchlight maps of {summary}", cells)

    __repr__ = __str__


def group_searchlight(
    patterns: PatternsOf,
    models: RDMs | Mapping[str, RDMs],
    folder: str | os.PathLike[str],
    *,
    subjects: Sequence[str] | None = None,
    like: Volume | None = None,
    executor: Executor | None = None,
    recheck: bool = True,
    progress: bool | None = None,
    **options: Any,
) -> SearchlightMaps:
    """Compute the searchlight maps of several people, one by one, and keep them in a folder.

    Each person's maps are an image with a map of each model, ``sub-01.nii.gz``, and a record with all
    settings, ``sub-01.json``. With ``surface=``, they are a GIFTI file of each hemisphere,
    ``sub-01_hemi-L.func.gii`` and ``sub-01_hemi-R.func.gii``, and the meshes are kept beside them,
    ``hemi-L.surf.gii`` and ``hemi-R.surf.gii``. Files of a person are written completely or not at all.

    A call that was interrupted is repeated as it is: people whose patterns are the same as before are not
    computed again, and a notice says so. So people can be added later.

    Parameters
    ----------
    patterns
        Patterns of each subject, as for `searchlight`: a mapping from subject to Dataset, such as that of
        `read_bids`, or to the HDF5 file in which rsatoolbox saved it; Datasets with the descriptor
        ``subject``; or a function that takes the name of a subject and returns the Dataset. Of files and of a
        function, the patterns of one person are in memory at a time (in each process).
    models
        Model RDMs, as for `searchlight`.
    folder
        Folder of the maps: a new or empty one, or one with maps of the same models and options.
    subjects
        Names of the subjects; needed with a function. By default all.
    like
        An image on the grid of the patterns, as for `Searchlight.image`. It can be left out if the patterns
        were read from images, and is not for surfaces.
    executor
        Computes the people in parallel: any ``concurrent.futures.Executor``, such as a
        ``ProcessPoolExecutor``, dask's ``Client.get_executor()``, or one of submitit. By default they are
        computed one after the other. What is sent to other processes is pickled, so that a function of
        ``patterns`` must be defined in a module or a script, and not within a function.
    recheck
        Call a function of ``patterns`` again for people who are finished, to see whether their patterns are
        still the same. With False, their maps are taken as they are.
    progress
        Show a progress bar over people; by default on a terminal and in a notebook.
    **options
        ``radius``, ``threshold``, ``dissimilarity``, ``comparison`` and all other options of `searchlight`;
        with ``surface``, the meshes, it is a searchlight on the surface.

    Returns
    -------
    SearchlightMaps
        The maps of these subjects. `load_maps` reads them again.

    Warns
    -----
    UserWarning
        People were finished before; patterns of finished people have changed, and their maps were computed
        again; or what `searchlight` warns of, with the number of people.

    Raises
    ------
    NeurordlError
        The folder has maps of other models or options, or other files; an option is unknown; the names of
        subjects repeat; or the maps of some people cannot be computed. These are named with the first reason
        after the maps of all others are finished.

    Examples
    --------
    With four processes, where ``maps.py`` is the script. Patterns are read in the processes::

        def patterns_of(subject):
            return nrl.read_bids("derivatives/fmriprep", "faces", "MNI152NLin6Asym", subjects=subject)[
                subject
            ]

        if __name__ == "__main__":
            names = [f"sub-{number:02d}" for number in range(1, 21)]
            with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as executor:
                nrl.group_searchlight(patterns_of, models, "maps", subjects=names, executor=executor)

    One after the other:

    >>> from tempfile import TemporaryDirectory
    >>> import nibabel
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> rng, names = np.random.default_rng(0), {"stimulus": list("abcdef")}
    >>> grid = dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1), strict=True))
    >>> people = {f"s{k}": Dataset(rng.normal(size=(6, 27)), {}, names, grid) for k in range(2)}
    >>> model = nrl.compute_rdms(Dataset(np.eye(6)[:, :3], obs_descriptors=names), "euclidean")
    >>> volume = nibabel.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4))
    >>> with TemporaryDirectory() as folder:
    ...     maps = nrl.group_searchlight(people, model, folder, like=volume, radius=2, comparison="corr")
    ...     print(maps.subjects)
    ('s0', 's1')
    """
    path = check_path("folder", folder)
    layout = _layout(options.get("surface"), like)
    options = {**options, **({} if layout.meshes is None else {"surface": layout.meshes})}
    sources = _sources(patterns, subjects)
    settings = _settings(models, options)
    names = _file_names(sources)
    if executor is not None and not hasattr(executor, "submit"):
        check_type("executor", executor, Executor, "such as ProcessPoolExecutor(4)")
    _open_folder(path, settings, layout)
    quiet = {"progress": progress if executor is None else False}
    jobs = [
        _Job(
            subject, source, path / names[subject], recheck, (models, {**options, **quiet}), layout, settings
        )
        for subject, source in sources.items()
    ]
    reports, problems = _run(jobs, executor, progress)
    _notify(reports, path)
    if problems:
        (subject, problem), n = next(iter(problems.items())), len(problems)
        of_all = f"the maps of {n} of {counted(len(jobs), 'subject')} were not computed ({listed(problems)})"
        finished = f"; those of the others are in {path}" if reports else ""
        raise NeurordlError(f"{of_all}{finished}. {subject}: {_reason(problem)}") from problem
    files = {job.subject: layout.files(job.stem) for job in jobs}
    return SearchlightMaps(tuple(settings["models"]), files, _shown(settings), layout.meshes)


def load_maps(
    folder: str | os.PathLike[str] | Mapping[str, AnyImage],
    subjects: Sequence[str] | None = None,
    *,
    surface: Surface | None = None,
) -> SearchlightMaps:
    """Read which maps a folder of `group_searchlight` has; images are read when they are used.

    Parameters
    ----------
    folder
        The folder. Files on a surface that were written otherwise, such as by `Searchlight.to_gifti`, are a
        mapping from subject to files: "maps/sub-01_hemi-{hemi}.func.gii", a mapping from "left" and "right"
        to GIFTI, or CIFTI.
    subjects
        Names of the subjects; by default all that are finished, in natural order.
    surface
        With a mapping, the mesh of each hemisphere, as for `searchlight`. A folder of `group_searchlight` has
        its own.

    Warns
    -----
    UserWarning
        Some people have an image without its record, or the other way round, and are left out.

    Raises
    ------
    NeurordlError
        The folder has no maps, or none of a subject; a record is damaged; or files and meshes do not fit.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import nibabel
    >>> import numpy as np
    >>> from rsatoolbox.data import Dataset
    >>> import neurordl as nrl
    >>> rng, names = np.random.default_rng(0), {"stimulus": list("abcdef")}
    >>> grid = dict(zip("xyz", np.indices((3, 3, 3)).reshape(3, -1), strict=True))
    >>> people = {f"s{k}": Dataset(rng.normal(size=(6, 27)), {}, names, grid) for k in range(2)}
    >>> model = nrl.compute_rdms(Dataset(np.eye(6)[:, :3], obs_descriptors=names), "euclidean")
    >>> volume = nibabel.Nifti1Image(np.zeros((3, 3, 3)), np.eye(4))
    >>> with TemporaryDirectory() as folder:
    ...     maps = nrl.group_searchlight(people, model, folder, like=volume, radius=2)
    ...     print(nrl.load_maps(folder, ["s1"]).subjects)
    ('s1',)
    """
    if isinstance(folder, Mapping):
        return _of_files({str(name): image for name, image in folder.items()}, subjects, surface)
    path = check_path("folder", folder)
    if surface is not None:
        raise NeurordlError("surface= is for a mapping from subject to files; a folder has its own meshes")
    if not (path / _SETTINGS).is_file():
        raise NeurordlError(
            f"{path} has no {_SETTINGS}, so it is no folder of group_searchlight; check the path"
        )
    settings, files = _read_settings(path / _SETTINGS), dict[str, Files]()
    sides = settings["options"].get("surface")
    layout = _layout({side: path / mesh_name(side) for side in sides} if sides else None, None)
    for file in sorted(path.glob("*.json")):
        of_person = layout.files(file.with_suffix(""))
        if file.name != _SETTINGS and all(x.is_file() for x in _each(of_person)):
            record = read_json(file)
            if not isinstance(record, dict) or "subject" not in record:
                raise NeurordlError(f"{file} is no record of searchlight maps; move it away")
            files[str(record["subject"])] = of_person
    if subjects is None:
        _warn_of_unfinished(path, layout)
    wanted = sorted(files, key=natural_key) if subjects is None else list(subjects)
    if absent := [subject for subject in wanted if subject not in files]:
        raise NeurordlError(
            f"{path} has no finished maps of {listed(absent)}; it has those of {listed(files)}"
        )
    if not wanted:
        raise NeurordlError(f"{path} has no finished maps; call group_searchlight")
    chosen = {subject: files[subject] for subject in wanted}
    return SearchlightMaps(tuple(settings["models"]), chosen, _shown(settings), layout.meshes)


def _warn_of_unfinished(folder: Path, layout: _Layout) -> None:
    """Give a notice of people who have some of their files, and not all."""
    ends = [".json", *(file.name.removeprefix("x") for file in _each(layout.files(folder / "x")))]
    stems = [file.name.removesuffix(end) for end in ends for file in folder.glob(f"[!.]*{end}")]
    counts = Counter(stems) - Counter([Path(_SETTINGS).stem])
    if partly := sorted((stem for stem, n in counts.items() if n < len(ends)), key=natural_key):
        notify(
            f"{folder} has not all files ({', '.join(ends)}) of {counted(len(partly), 'subject')}, left out: "
            f"{listed(partly)}; call group_searchlight again for them"
        )


def _of_files(
    files: Mapping[str, AnyImage], subjects: Sequence[str] | None, surface: Surface | None
) -> SearchlightMaps:
    """Maps on a surface from other files, which have the names of the models."""
    if surface is None:
        raise NeurordlError(
            "a mapping of images is for second_level; of files on a surface, give the meshes by surface="
        )
    if absent := [subject for subject in subjects or () if subject not in files]:
        raise NeurordlError(f"there are no maps of {listed(absent)}; there are those of {listed(files)}")
    chosen = dict(files) if subjects is None else {subject: files[subject] for subject in subjects}
    if not chosen:
        raise NeurordlError("there are no maps; give the files of each subject")
    subject, image = next(iter(chosen.items()))
    scan = open_surface(image, f"map of {subject}")
    n_maps = len(scan.values())
    names = scan.maps if len(set(scan.maps)) == n_maps else tuple(f"map {k + 1}" for k in range(n_maps))
    return SearchlightMaps(names, chosen, {}, read_meshes(surface))


# what is computed, and what was


class _Layout(Protocol):
    """How the maps of people are kept in files: those of a volume, or those on a surface."""

    @property
    def meshes(self) -> Mapping[str, Mesh] | None:
        """The mesh of each hemisphere, on a surface."""

    def files(self, stem: Path) -> Files:
        """The files of a person, of the names that begin so."""

    def contents(self, maps: Searchlight) -> dict[str, bytes]:
        """What the files of a person hold, by the ends of their names."""

    def fits(self, stem: Path) -> bool:
        """Whether files that were written before lie where they are to lie now."""


@dataclass(frozen=True)
class _InVolume:
    like: Volume | None
    meshes: None = None

    def files(self, stem: Path) -> Path:
        return Path(f"{stem}.nii.gz")

    def contents(self, maps: Searchlight) -> dict[str, bytes]:
        image = maps.image(self.like)
        return space_of(image).contents(image, maps.models)

    def fits(self, stem: Path) -> bool:
        images = (self.files(stem), self.like)
        return self.like is None or same_grid(*(load_image(image, "image")[0] for image in images if image))


@dataclass(frozen=True)
class _OnSurface:
    meshes: Mapping[str, Mesh]

    def files(self, stem: Path) -> Mapping[str, Path]:
        return {side: Path(f"{stem}{map_suffix(side)}") for side in self.meshes}

    def contents(self, maps: Searchlight) -> dict[str, bytes]:
        return MeshSpace(self.meshes).contents(maps.surface_image(), maps.models)

    def fits(self, stem: Path) -> bool:
        return True  # checksums of the meshes are settings


def _layout(surface: Surface | None, like: Volume | None) -> _Layout:
    if surface is None:
        return _InVolume(like)
    if like is not None:
        raise NeurordlError(
            "like= is for volumes; leave it out with surface=, whose meshes say where maps lie"
        )
    with collect_notices(show=False):  # searchlight gives them
        return _OnSurface(read_meshes(surface))


def _each(files: Files) -> list[Path]:
    return [files] if isinstance(files, Path) else list(files.values())


def _sha256(files: Sequence[Path]) -> str:
    """The checksum of a file, or those of several."""
    return " ".join(sha256_file(file) for file in files)


class _Report(NamedTuple):
    """What became of a person, and the notices about it."""

    subject: str
    state: _State
    texts: list[str]


@dataclass(frozen=True)
class _Job:
    """The maps of a person, which may be computed in another process."""

    subject: str
    source: Patterns | Callable[[str], DatasetBase]
    stem: Path
    """The files of the person without the ends of their names."""
    recheck: bool
    call: tuple[Any, Mapping[str, Any]]
    """Models and options of the searchlight."""
    layout: _Layout
    settings: Mapping[str, Any]

    @property
    def record(self) -> Path:
        """The record beside the maps."""
        return Path(f"{self.stem}.json")

    def run(self) -> _Report:
        """Compute the maps unless they are finished, and write them."""
        before = self._finished()
        if before and callable(self.source) and not self.recheck:
            return _Report(self.subject, "kept", before["notices"])
        with collect_notices(show=False):
            patterns = self.source(self.subject) if callable(self.source) else self.source
            checksum = _checksum(patterns)
            if before and before["patterns"] == checksum:
                return _Report(self.subject, "kept", before["notices"])
            self._compute(_opened(patterns), checksum)
            texts = notices()
        return _Report(self.subject, "computed again" if before else "computed", texts)

    def _finished(self) -> Mapping[str, Any]:
        """The record of finished maps; empty if there are none."""
        files = _each(self.layout.files(self.stem))
        if not all(file.is_file() for file in (self.record, *files)):
            return {}
        record = None
        with suppress(NeurordlError):  # a damaged record is written again
            record = read_json(self.record)
        if not isinstance(record, dict) or not {"patterns", "image", "notices"} <= set(record):
            return {}
        same = record.get("settings") == self.settings and record.get("subject") == self.subject
        if not same or record["image"] != _sha256(files):
            return {}
        return record if self.layout.fits(self.stem) else {}

    def _compute(self, patterns: DatasetBase, checksum: str) -> None:
        models, options = self.call
        maps = searchlight(patterns, models, **options)
        contents = self.layout.contents(maps)
        self.record.unlink(missing_ok=True)  # maps without their record are not finished
        for end, content in contents.items():
            write_bytes(f"{self.stem}{end}", content)
        record = {
            "subject": self.subject,
            "models": list(maps.models),
            "settings": self.settings,
            "scores": "as compared, without Fisher's z",
            "n_stimuli": len(maps.match.matched),
            "n_centers": len(maps.centers),
            "n_left_out": maps.settings["n_left_out"],
            "patterns": checksum,
            "image": _sha256(_each(self.layout.files(self.stem))),
            "notices": notices(),
            "versions": versions(),
        }
        write_json(self.record, record)


def _compute_job(job: _Job) -> _Report:
    return job.run()


def _run(
    jobs: Sequence[_Job], executor: Executor | None, progress: bool | None
) -> tuple[list[_Report], dict[str, Exception]]:
    """Reports of the people whose maps are finished, and why the others' are not."""
    reports, problems = list[_Report](), dict[str, Exception]()
    futures: list[Future[_Report] | None] = [None] * len(jobs)
    try:
        if executor is not None:
            futures = [executor.submit(_compute_job, job) for job in jobs]
        with progress_bar("subjects", len(jobs), progress) as advance:
            for job, future in zip(jobs, futures, strict=True):
                try:
                    reports.append(job.run() if future is None else future.result())
                except Exception as error:  # the other people are computed all the same
                    problems[job.subject] = error
                advance(1)
    finally:
        for future in filter(None, futures):
            future.cancel()  # those that have not begun, after an interruption
    return reports, problems


def _reason(problem: Exception) -> str:
    """Why the maps of a person were not computed, and what helps."""
    text = str(problem) or type(problem).__name__
    if "Traceback (most recent call last)" in text and (errors := _ERRORS.findall(text)):
        return str(errors[-1])  # submitit's error is the whole traceback
    if type(problem).__name__ == "PicklingError" or "pickle" in text:
        return f"{text}; define functions at the top of a module or script, not within a function"
    if type(problem).__name__ == "BrokenProcessPool":
        return f"{text}; often memory is short: use fewer processes, and repeat the call to go on"
    return text if isinstance(problem, NeurordlError) else f"{type(problem).__name__}: {text}"


def _notify(reports: Sequence[_Report], folder: Path) -> None:
    """Say who was finished before, and what the searchlights had to say, each once."""
    by_state = {
        state: [x.subject for x in reports if x.state == state] for state in {x.state for x in reports}
    }
    if kept := by_state.get("kept"):
        everyone = counted(len(reports), "subject")
        notify(f"the maps of {len(kept)} of {everyone} were finished before in {folder}: {listed(kept)}")
    if again := by_state.get("computed again"):
        changed = "their patterns, or the files of the maps, are others than before"
        notify(f"the maps of {listed(again)} were computed again, since {changed}")
    texts: dict[str, list[str]] = {}
    for report in reports:
        for text in dict.fromkeys(report.texts):
            texts.setdefault(text, []).append(report.subject)
    for text, people in texts.items():
        notify(f"{text} ({counted(len(people), 'subject')}: {listed(people)})")


# names and settings


def _sources(
    patterns: PatternsOf, subjects: Sequence[str] | None
) -> dict[str, Patterns | Callable[[str], DatasetBase]]:
    """Where the patterns of each subject come from."""
    names = [subjects] if isinstance(subjects, str) else list(subjects or ())
    if callable(patterns):
        if not names:
            raise NeurordlError("patterns= is a function; name the subjects that it takes by subjects=")
        if len(set(names)) < len(names):
            raise NeurordlError(f"subjects= repeats a name: {listed(names, most=40)}")
        return dict.fromkeys(names, patterns)
    if is_dataset(patterns) or isinstance(patterns, str | os.PathLike):
        raise NeurordlError("patterns= are of one person; give a mapping from subject to patterns")
    if not isinstance(patterns, Mapping):
        check_type("patterns", patterns, Sequence, "give a mapping from subject to Dataset")
        labels = [str(getattr(x, "descriptors", {}).get("subject", "")) for x in patterns]
        if not all(labels) or len(set(labels)) < len(labels):
            names_of = listed(labels, quote=True)
            raise NeurordlError(
                f"Datasets need the descriptor 'subject', each another name, but have {names_of}; give a "
                "mapping from subject to Dataset"
            )
        patterns = dict(zip(labels, patterns, strict=True))
    if not patterns:
        raise NeurordlError("patterns= is empty; give the patterns of each subject")
    known = {str(name): source for name, source in patterns.items()}
    if absent := [name for name in names if name not in known]:
        raise NeurordlError(f"subjects={listed(absent, quote=True)}: patterns= has {listed(known, most=40)}")
    chosen: dict[str, Patterns | Callable[[str], DatasetBase]] = {}
    for name in names or known:
        source = known[name]
        if isinstance(source, str | os.PathLike):
            if Path(source).suffix.lower() not in _OF_DATASETS:
                raise NeurordlError(
                    f"patterns of {name}: {source} is no HDF5 file (.h5) of rsatoolbox; save it by "
                    "Dataset.save, or give a function that reads it"
                )
            if not Path(source).is_file():
                raise NeurordlError(f"patterns of {name}: there is no file {source}; check the path")
        elif not is_dataset(source):
            raise NeurordlError(
                f"patterns of {name}: expected a Dataset or a file, got {type(source).__name__}"
            )
        chosen[name] = source
    return chosen


def _file_names(subjects: Iterable[str]) -> dict[str, str]:
    """How the files of each subject begin; no two are the same, also where case does not count."""
    names = {subject: re.sub(r"[^A-Za-z0-9_.+-]+", "-", subject).lstrip(".") for subject in subjects}
    lower = [name.casefold() for name in names.values()]
    for (subject, name), key in zip(names.items(), lower, strict=True):
        if not name or key == Path(_SETTINGS).stem or lower.count(key) > 1:
            problem = "names no file of its own; use letters and digits that tell subjects apart"
            raise NeurordlError(f"subject {subject!r} {problem}")
    return names


def _settings(models: object, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """All that decides the maps beside the patterns, as JSON has it."""
    parameters = inspect.signature(searchlight).parameters.values()
    defaults = {x.name: x.default for x in parameters if x.default is not x.empty and x.name != "progress"}
    if unknown := [name for name in options if name not in defaults]:
        raise NeurordlError(f"searchlight has no option {unknown[0]!r}; it has {listed(defaults, most=40)}")
    chosen = {**defaults, **options}
    comparison = chosen["comparison"]
    partial = comparison if isinstance(comparison, Partial) else None
    base = find_similarity(comparison if partial is None else partial.comparison).name
    chosen |= {
        "dissimilarity": find_dissimilarity(chosen["dissimilarity"]).name,
        "comparison": base if partial is None else f"partial {base}",
        "dtype": np.dtype(chosen["dtype"]).name,
    }
    if chosen["surface"] is not None:
        chosen["surface"] = {
            side: sha256_array(mesh.coordinates)[:16] + sha256_array(mesh.faces)[:16]
            for side, mesh in chosen["surface"].items()
        }
    if partial is not None:
        chosen["controlled"] = _checksums(partial.covariates)
    settings = {"options": chosen, "models": _checksums(models), "neurordl": versions()["neurordl"]}
    return dict(json.loads(json.dumps(settings, default=str)))


def _checksums(rdms: object) -> dict[str, str]:
    """The checksum of each RDM by its name; it does not depend on the order of the stimuli."""
    checksums = {}
    for stack, names in model_stacks(rdms):
        ids = sorted(stimulus_ids(stack), key=natural_key)
        of_ids = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
        for name, vector in zip(names, reindex(stack, ids), strict=True):
            checksums[name] = hashlib.sha256(f"{of_ids} {sha256_array(vector)}".encode()).hexdigest()[:16]
    return checksums


def _shown(settings: Mapping[str, Any]) -> dict[str, object]:
    options = dict(settings["options"])
    options |= {"controlled": list(options["controlled"])} if "controlled" in options else {}
    return {**options, "neurordl": settings["neurordl"]}


def _read_settings(file: Path) -> Mapping[str, Any]:
    """The settings of a folder of maps."""
    settings: Mapping[str, Any] = read_json(file)
    if not isinstance(settings, dict) or not {"options", "models", "neurordl"} <= set(settings):
        raise NeurordlError(f"{file} is not written by group_searchlight; choose another folder")
    return settings


def _open_folder(folder: Path, settings: Mapping[str, Any], layout: _Layout) -> None:
    """Make the folder, or refuse one with other maps or files."""
    check_folder(folder)
    file = folder / _SETTINGS
    names = [x.name for x in folder.iterdir()] if folder.is_dir() else []
    if file.is_file() and any(name.endswith(_OF_MAPS) for name in names):
        now, before = (
            {
                **x["options"],
                **{f"model {name}": value for name, value in x["models"].items()},
                "models": list(x["models"]),
                "neurordl": x["neurordl"],
            }
            for x in (settings, _read_settings(file))
        )
        if different := differing(now, before):
            raise NeurordlError(
                f"{folder} holds maps of other settings, which differ in {', '.join(different)}; choose "
                "another folder, or delete that one"
            )
    else:
        before_maps = {_SETTINGS, *(mesh_name(side) for side in HEMISPHERES)}
        if any(name not in before_maps and not name.startswith(".") for name in names):
            raise NeurordlError(f"{folder} is not empty and holds no searchlight maps; choose another folder")
        make_folder(folder)
        write_json(file, settings)
        names = []
    for name, content in MeshSpace(layout.meshes or {}).mesh_files().items():
        if name not in names:
            write_bytes(folder / name, content)


def _checksum(patterns: Patterns) -> str:
    """SHA-256 of a person's patterns, with their descriptors and grid, or of their file."""
    if isinstance(patterns, str | os.PathLike):
        return sha256_file(patterns)
    if not is_dataset(patterns):
        raise NeurordlError(f"the function of patterns= returned {type(patterns).__name__}, no Dataset")
    record = parsed_record(patterns.descriptors.get("provenance"))
    parts: list[object] = [sha256_array(np.asanyarray(patterns.measurements))]
    parts.append(record.get("grid") if isinstance(record, dict) else None)
    for descriptors in (patterns.obs_descriptors, patterns.channel_descriptors):
        for name, values in sorted(descriptors.items()):
            array = np.asarray(values)
            parts.append((name, sha256_array(array.astype(str) if array.dtype.hasobject else array)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _opened(patterns: Patterns) -> DatasetBase:
    """The patterns, read from their file."""
    if not isinstance(patterns, str | os.PathLike):
        return patterns
    from rsatoolbox.data import load_dataset

    with damage_named(patterns):
        dataset: DatasetBase = load_dataset(str(patterns), file_type="hdf5")
    return dataset
