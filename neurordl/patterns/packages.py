"""Betas as SPM, FSL and AFNI write them: their images, and what each of them is the response to."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.brikhead import AFNIImage

from neurordl.errors import NeurordlError, notify
from neurordl.io import damage_named, read_text
from neurordl.patterns.bids import recording
from neurordl.patterns.images import Image, load_image
from neurordl.patterns.tables import as_list
from neurordl.validate import check_path, counted, listed

Source: TypeAlias = str | os.PathLike[str]
Betas: TypeAlias = tuple[list[Image], pd.DataFrame]

_BETA_FILE = re.compile(r"beta_(\d{4,})\.(nii|nii\.gz|img)")
_BETA_NAME = re.compile(r"spm_spm:beta \((\d+)\) - (.*)", re.DOTALL)
_CONDITION = re.compile(r"Sn\((\d+)\) (.+)\*bf\((\d+)\)")  # SPM: session, condition, basis function
_DESCRIP = 79  # letters of the header's field; a text that fills it may be cut off
_MOST_DERIVATIVES = 3  # basis functions of SPM's canonical response with both derivatives
_COEFFICIENT = re.compile(r"(.+)#(\d+)_Coef")  # AFNI: condition, number of the regressor
_POLYNOMIAL = re.compile(r"Run#\d+Pol")  # of the baseline of a run, with -bout
_AFNI = re.compile(r"(?i)\.(HEAD|BRIK)(\.gz|\.bz2|\.Z)?$")
_AFNI_VIEW = re.compile(r"[+](orig|acpc|tlrc)$")
_AFNI_CODE = 4  # of the header extension in NIfTI
_MOST_INFLATED = 1032  # times, by gzip
_SINGLE = (0, 1, 2, 3, 8)  # FSL's convolutions with one response function
_EMPTY, _INTERACTION = 10, 4  # FSL's shapes of regressors that are no condition
_LEVELS = ".gfeat holds means over runs; give the .feat folders of the runs"


def find_betas(source: Source | Sequence[Source], *, single_trials: bool = False) -> Betas:
    """Find the betas of a first-level analysis of SPM, FSL or AFNI, and the condition of each.

    What is no response to a condition is left out, with its count: nuisance regressors, constants, parametric
    modulators, derivatives, differences of conditions, t and F statistics.

    Parameters
    ----------
    source
        - SPM: the folder of ``SPM.mat``, or this file. Conditions and runs are those of the betas' headers
          ("Sn(1) face*bf(1)"), or of ``SPM.mat`` where a header has no name or a name that is cut off.
          Several folders are sessions.
        - FSL: the ``.feat`` folder of a run, or a list of those of several runs. Read are the copes of
          contrasts that weight one regressor by 1 (``design.con``), under the name of the contrast; without
          such contrasts, the parameter estimates of the conditions of ``design.fsf``. For images that were
          brought to one space by ``featregapply``, pass the folders ``reg_standard`` in the ``.feat``
          folders.
        - AFNI: a bucket of 3dDeconvolve or 3dREMLfit, ``.HEAD`` or ``.BRIK``, or ``.nii`` with AFNI's header
          extension, or a list of those of several runs. Read are the sub-bricks whose label ends in
          ``#0_Coef``, without those of the baseline (``-bout``), which are polynomials, and the regressors
          of ``-stim_base`` where the history of the file has this option; of ``-stim_times_IM``, the
          coefficient of each trial.
    single_trials
        Of AFNI: whether several coefficients of a condition are those of its trials (``-stim_times_IM``)
        where the history of the file does not say so, as that of 3dREMLfit does not.

    Returns
    -------
    (list of images, DataFrame)
        3D images, and a table with a row for each: ``stimulus``, and ``run``, ``session`` and ``trial`` if
        they are known. Both are arguments of `read_betas`.

    Warns
    -----
    UserWarning
        Betas are left out; some numbers of beta images are missing; or copes of several runs lie in the space
        of each run.

    Raises
    ------
    NeurordlError
        There is no such analysis, a part of it is missing or damaged, it is of the second level, one is given
        twice, several are of different people, no beta is the response to a condition, or conditions have
        several basis functions such as FIR or TENT.

    Examples
    --------
    Patterns of a subject are one line for each package; names stand for your own folders::

        patterns = nrl.read_betas(*nrl.find_betas("spm/sub-01"), "it.nii.gz", subject="s01")
        patterns = nrl.read_betas(*nrl.find_betas(["run1.feat", "run2.feat"]), "it.nii.gz", subject="s01")
        patterns = nrl.read_betas(*nrl.find_betas("stats.s01+tlrc.HEAD"), "it.nii.gz", subject="s01")

    Two betas of SPM and a constant are made here; their headers have the names:

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import nibabel
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> names = ["Sn(1) face*bf(1)", "Sn(1) house*bf(1)", "Sn(1) constant"]
    >>> with TemporaryDirectory() as folder:
    ...     for number, name in enumerate(names, 1):
    ...         image = nibabel.Nifti1Image(np.random.default_rng(number).normal(size=(3, 3, 2)), np.eye(4))
    ...         image.header["descrip"] = f"spm_spm:beta ({number:04}) - {name}"
    ...         nibabel.save(image, Path(folder) / f"beta_{number:04}.nii")
    ...     images, table = nrl.find_betas(folder)
    ...     patterns = nrl.read_betas(images, table)
    >>> patterns.obs_descriptors["stimulus"], patterns.measurements.shape
    (['face', 'house'], (2, 18))
    """
    paths = [check_path("source", path) for path in as_list(source, (str, os.PathLike), "source")]
    if not paths:
        raise NeurordlError("source= is empty; give a folder of SPM or FSL, or a bucket of AFNI")
    places, readers = zip(*map(_analysis, paths), strict=True)
    if len(set(readers)) > 1:
        raise NeurordlError(
            f"source= has analyses of several packages ({listed(paths)}); give those of one at a time"
        )
    _check_sources(places)
    images: list[Image] = []
    tables = []
    if single_trials and readers[0] is not _afni:
        raise NeurordlError(
            "single_trials=True is for buckets of AFNI; in designs of SPM and FSL each trial has its name"
        )
    for place, reader in zip(places, readers, strict=True):
        of_source, table = _afni(place, True) if single_trials else reader(place)
        images += of_source
        tables.append(table)
    if readers[0] is _feat and len(places) > 1 and any(path.name != "reg_standard" for path in places):
        notify(
            f"the betas of {len(places)} .feat folders lie in the space of each run: a voxel is the same "
            "place in all of them only if the runs were aligned before FEAT; else give their folders "
            "reg_standard, which featregapply makes"
        )
    return images, _with_runs(tables, places)


def _analysis(path: Path) -> tuple[Path, Callable[[Path], Betas]]:
    """The folder or file of an analysis, and the function that reads it."""
    if path.is_file() and path.name == "SPM.mat":
        path = path.parent
    if path.is_dir():
        if path.suffix == ".gfeat":
            raise NeurordlError(f"{path} is of FSL's second level: {_LEVELS}")
        if (path / "SPM.mat").is_file() or any(_BETA_FILE.fullmatch(file.name) for file in path.iterdir()):
            return path, _spm
        if (path / "stats").is_dir():
            return path, _feat
        raise NeurordlError(
            f"{path} has neither SPM's betas (beta_0001.nii) nor FSL's folder stats; give the folder of one "
            "analysis"
        )
    with_suffix = path.with_name(f"{path.name.removesuffix('.')}.HEAD")  # AFNI's programs leave it out
    path = with_suffix if not path.is_file() and with_suffix.is_file() else path
    if not path.is_file():
        raise NeurordlError(f"there is no folder or file {path}; check the path")
    return path, _afni


def _check_sources(places: Sequence[Path]) -> None:
    """Refuse the same data twice, which would be cross-validated with themselves, and several people."""
    earlier: dict[Path, Path] = {}
    for place in places:
        file = place.resolve()
        file = file.parent if file.name == "reg_standard" else file
        stem = _AFNI_VIEW.sub("", _stem(file))  # a bucket may be there in several views
        other = earlier.setdefault(file.with_name(stem), place)
        if other is not place:
            raise NeurordlError(
                f"source= has the same analysis twice ({listed([other, place])}), and no noise is "
                "independent between the two; leave one out (of AFNI's two files, name .HEAD alone)"
            )
    people = {part for place in places if (part := _person(place))}
    if len(people) > 1:
        raise NeurordlError(
            f"source= has analyses of several people ({listed(sorted(people))}), and several are runs or "
            "sessions of one; call find_betas for each person"
        )


def _person(place: Path) -> str | None:
    """The person whom the last name of a path with the entity ``sub`` is of."""
    names = re.findall(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+", str(place.absolute()))
    return str(names[-1]) if names else None


def _with_runs(tables: Sequence[pd.DataFrame], places: Sequence[Path]) -> pd.DataFrame:
    """The rows of all sources; what these are not themselves, runs or sessions, their names say."""
    if len(tables) == 1 and "run" in tables[0]:
        return tables[0]
    files = [place.parent if place.name == "reg_standard" else place for place in places]
    names = [f"run-{run}" if (run := recording(file).get("run")) else _stem(file) for file in files]
    if len(set(names)) < len(names):
        names = [f"source-{number}" for number in range(1, len(names) + 1)]
    rows = []
    for table, name, file in zip(tables, names, files, strict=True):
        if "run" in table:
            rows.append(table.assign(session=name, run=name + "_" + table["run"]))
        else:
            runs = len(tables) > 1 or "run" in recording(file)
            rows.append(table.assign(run=name) if runs else table)
    return pd.concat(rows, ignore_index=True)


def _stem(path: Path) -> str:
    return re.sub(r"(?i)(\.feat|\.nii|\.HEAD|\.BRIK)(\.\w+)?$", "", path.name)


def _left_out(place: Path, counts: Counter[str], total: int) -> None:
    """Give a notice of what is no response to a condition."""
    if counts:
        kinds = ", ".join(f"{noun} ({number})" for noun, number in counts.items())
        number = f"{counts.total()} of {total} betas"
        notify(f"{place}: {number} are no responses to a condition and left out: {kinds}")


# SPM


def _spm(folder: Path) -> Betas:
    matches = [match for file in folder.iterdir() if (match := _BETA_FILE.fullmatch(file.name))]
    files = {int(match[1]): folder / match[0] for match in sorted(matches, key=lambda match: int(match[1]))}
    if not files and (surfaces := sorted(folder.glob("beta_*.gii"))):
        raise NeurordlError(
            f"the betas of {folder} are on a surface ({surfaces[0].name}), and do not say of which "
            "hemisphere; give the files of the conditions to read_betas, by hemisphere and with a table"
        )
    if not files:
        raise NeurordlError(f"{folder} has SPM.mat, but no images beta_0001.nii and so on; copy them there")
    if len(files) < len(matches):
        raise NeurordlError(f"{folder} has two images of one beta, such as .nii and .img; leave one of each")
    if absent := sorted(set(range(1, max(files) + 1)) - set(files)):
        numbers = f"{len(absent)} of {max(files)} beta images ({listed(absent)})"
        notify(f"{folder}: {numbers} are missing; copy those that are responses to a condition there")
    names = _spm_names(folder, files)
    regressors = {number: _CONDITION.fullmatch(name) for number, name in names.items()}
    conditions = {(match[1], match[2]) for match in regressors.values() if match}
    images: list[Image] = []
    rows, counts = [], Counter[str]()
    for number, match in regressors.items():
        if match is None:
            counts["constants" if names[number].endswith(" constant") else "nuisance regressors"] += 1
        elif _is_modulator(match, conditions):
            counts["parametric modulators"] += 1
        elif int(match[3]) > _MOST_DERIVATIVES:
            raise NeurordlError(
                f"{folder}: the condition {match[2]!r} has {match[3]} basis functions or more, as in a "
                "finite impulse response, of which no single beta is the response; estimate it with SPM's "
                "canonical response, or give read_betas its betas with a table"
            )
        elif match[3] != "1":
            counts["derivatives, bf(2) and bf(3)"] += 1
        else:
            images.append(str(files[number]))
            rows.append((match[2], f"run-{match[1]}"))
    if not rows:
        known = listed(names.values(), quote=True)
        raise NeurordlError(f"{folder}: no beta is a response, such as 'Sn(1) face*bf(1)'; it has {known}")
    _left_out(folder, counts, len(files))
    return images, pd.DataFrame(rows, columns=["stimulus", "run"])


def _is_modulator(match: re.Match[str], conditions: Iterable[tuple[str, str]]) -> bool:
    """Whether a regressor has the name of a condition, an x, and a power, such as facexrating^1."""
    base, power, exponent = match[2].rpartition("^")
    starts = [base[: place.start()] for place in re.finditer("x", base)]
    return bool(power) and exponent.isdigit() and any((match[1], start) in conditions for start in starts)


def _spm_names(folder: Path, files: dict[int, Path]) -> dict[int, str]:
    """The name of each regressor: of the image's header, or of SPM.mat where it is not there whole."""
    names, cut = {}, []
    for number, file in files.items():
        text = load_image(file, "beta image")[0].header["descrip"].item().decode("latin-1")
        match = _BETA_NAME.fullmatch(text)
        if match and int(match[1]) != number:
            raise NeurordlError(f"{file} is beta {int(match[1])} by its header; give it its own name again")
        if match and len(text) < _DESCRIP:
            names[number] = match[2].strip()
        else:
            cut.append(number)
    if not cut:
        return names
    path = folder / "SPM.mat"
    if not path.is_file():
        raise NeurordlError(
            f"the header of {files[cut[0]]} has no name of a regressor, or one that is cut off "
            f"({len(cut)} such); copy SPM.mat into {folder}"
        )
    of_design = _design_names(path)
    if len(of_design) < max(files):
        raise NeurordlError(
            f"{path} names {len(of_design)} regressors, and there is a beta {max(files)}; they are of "
            "different analyses"
        )
    return {number: names.get(number, of_design[number - 1]) for number in files}


def _design_names(path: Path) -> list[str]:
    """The names of all regressors in SPM.mat, of any version of MATLAB."""
    import scipy.io

    with damage_named(path, "let SPM write it again"):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                cells = np.ravel(file["SPM/xX/name"][()])
                return ["".join(map(chr, np.ravel(file[cell][()]))) for cell in cells]
        design = scipy.io.loadmat(path, variable_names=["SPM"], simplify_cells=True)["SPM"]
        return [str(name) for name in np.atleast_1d(design["xX"]["name"])]


# FSL


def _feat(folder: Path) -> Betas:
    design = folder.parent if folder.name == "reg_standard" else folder
    settings = _settings(design / "design.fsf")
    if settings.get("level", "1") != "1":
        raise NeurordlError(f"{folder} is of FSL's second level: {_LEVELS}")
    counts = Counter[str]()
    contrasts, total = _contrasts(design / "design.con", counts)
    titles = _conditions(design, settings, Counter()) if contrasts and settings else {}
    if unwanted := [number for number, (_, wave) in contrasts.items() if titles and wave not in titles]:
        counts["contrasts of derivatives, or of other regressors that are no condition"] = len(unwanted)
        contrasts = {number: contrast for number, contrast in contrasts.items() if number not in unwanted}
    if contrasts:
        images = _feat_images(folder, "cope", list(contrasts))
        names = [name for name, _ in contrasts.values()]
        waves = {wave for _, wave in contrasts.values()}
        if alone := [title for wave, title in titles.items() if wave not in waves]:
            notify(
                f"{folder}: {counted(len(alone), 'condition')} without a contrast of its own "
                f"({listed(alone)}): left out"
            )
    else:
        counts.clear()
        if not settings:
            raise NeurordlError(
                f"{design} has no contrast of a single condition in design.con, and no design.fsf, which "
                "names the conditions; copy it there"
            )
        conditions = _conditions(design, settings, counts)
        images, names = _feat_images(folder, "pe", list(conditions)), list(conditions.values())
        total = len(names) + counts.total()
    _left_out(folder, counts, total)
    return images, pd.DataFrame({"stimulus": names})


def _feat_images(folder: Path, noun: str, numbers: Sequence[int]) -> list[Image]:
    images: list[Image] = []
    for number in numbers:
        files = [folder / "stats" / f"{noun}{number}{suffix}" for suffix in (".nii.gz", ".nii", ".img")]
        if (image := next(filter(Path.is_file, files), None)) is None:
            raise NeurordlError(f"{folder} has no stats/{noun}{number}.nii.gz; copy the whole folder stats")
        images.append(str(image))
    return images


def _contrasts(path: Path, counts: Counter[str]) -> tuple[dict[int, tuple[str, int]], int]:
    """Contrasts that are one regressor: number -> (name, number of the regressor); and how many there are."""
    if not path.is_file():
        return {}, 0
    text = read_text(path)
    lines = re.finditer(r"(?m)^\s*/ContrastName(\d+)\s(.*)$", text)
    names = {int(match[1]): match[2].strip() for match in lines}
    with damage_named(path, "let FSL write it again"):
        rows = [[float(cell) for cell in line.split()] for line in text.partition("/Matrix")[2].splitlines()]
        weights = np.array([row for row in rows if row])
        if weights.ndim != 2 or sorted(names) != list(range(1, len(weights) + 1)):
            raise ValueError(f"{len(names)} names of contrasts, and a matrix of shape {weights.shape}")
    contrasts: dict[int, tuple[str, int]] = {}
    for number, row in enumerate(weights, 1):
        waves = np.flatnonzero(row)
        if len(waves) != 1 or row[waves[0]] != 1:
            counts["contrasts of several conditions, or with other weights than 1"] += 1
        elif any(wave == waves[0] + 1 for _, wave in contrasts.values()):
            counts["contrasts of a condition that has one already"] += 1
        else:
            contrasts[number] = names[number], int(waves[0]) + 1
    return contrasts, len(weights)


def _settings(path: Path) -> dict[str, str]:
    """The settings of design.fsf; none without the file."""
    if not path.is_file():
        return {}
    lines = re.finditer(r'(?m)^\s*set fmri\(([\w.]+)\) "?(.*?)"?\s*$', read_text(path))
    return {match[1]: match[2] for match in lines}


def _conditions(folder: Path, settings: dict[str, str], counts: Counter[str]) -> dict[int, str]:
    """The conditions of design.fsf by the numbers of their regressors, without their derivatives."""
    conditions, wave = {}, 1
    with damage_named(folder / "design.fsf", "let FSL write it again"):
        for number in range(1, int(settings["evs_orig"]) + 1):
            title, shape = settings[f"evtitle{number}"], int(settings.get(f"shape{number}", 0))
            if int(settings.get(f"convolve{number}", 0)) not in _SINGLE:
                raise NeurordlError(
                    f"{folder}: the condition {title!r} has several basis functions, of which no single "
                    "estimate is the response; estimate it with one response function (double-gamma)"
                )
            if shape in (_EMPTY, _INTERACTION):
                counts["regressors that are empty or interactions"] += 1
            else:
                conditions[wave] = title
            derivative = int(settings.get(f"deriv_yn{number}", 0))
            counts["derivatives"] += derivative
            wave += 1 + derivative
        if wave - 1 != int(settings.get("evs_real", wave - 1)):
            raise ValueError(f"{wave - 1} regressors with derivatives, and evs_real={settings['evs_real']}")
    counts += Counter()  # drops those of 0
    if not conditions:
        raise NeurordlError(f"{folder}: design.fsf has no condition; give a first-level analysis")
    return conditions


# AFNI


def _afni(path: Path, single_trials: bool = False) -> Betas:
    image, attributes = _open_afni(path)
    labels = [label.strip() for label in attributes.get("BRICK_LABS", "").strip('"\n \0~').split("~")]
    if labels == [""]:
        raise NeurordlError(
            f"{path} has no labels of sub-bricks (BRICK_LABS), as AFNI writes them; give read_betas a table"
        )
    volumes = int(np.prod(image.shape[3:]))
    if len(labels) != volumes:
        raise NeurordlError(
            f"{path} has {len(labels)} labels and {volumes} sub-bricks; let AFNI write it again"
        )
    matches = {place: match for place, label in enumerate(labels) if (match := _COEFFICIENT.fullmatch(label))}
    history = attributes.get("HISTORY_NOTE", "")
    nuisance, counts, chosen = _labelled(history, "-stim_base"), Counter[str](), {}
    for place, match in matches.items():
        if match[1].endswith("_GLT"):
            counts["general linear tests, _GLT"] += 1
        elif _POLYNOMIAL.fullmatch(match[1]) or match[1] in nuisance:
            counts["regressors of the baseline"] += 1
        else:
            chosen[place] = match
    counts["statistics"] = len(labels) - len(matches)
    if not chosen:
        raise NeurordlError(
            f"{path}: no sub-brick is a coefficient, such as face#0_Coef; it has {listed(labels)}"
        )
    rows = pd.DataFrame({"stimulus": [match[1] for match in chosen.values()]})
    numbers = [int(match[2]) for match in chosen.values()]
    if any(numbers):
        trials = _labelled(history, "-stim_times_IM")
        several = [match[1] for match in chosen.values() if int(match[2]) and match[1] not in trials]
        if several and not single_trials:
            raise NeurordlError(
                f"{path}: {several[0]!r} has several coefficients, and no -stim_times_IM in the history of "
                "the file. If they are those of trials, pass single_trials=True; of basis functions such as "
                "TENT, or of modulations, none is the response: estimate it with one response function"
            )
        rows["trial"] = numbers
    _left_out(path, +counts, len(labels))
    with damage_named(path):
        data = np.asanyarray(image.dataobj).reshape(*image.shape[:3], volumes)
    images: list[Image] = []
    for place in chosen:
        coefficients = nib.Nifti1Image(np.asarray(data[..., place], dtype=np.float32), image.affine)
        coefficients.file_map["image"].filename = str(path)  # names the file in messages
        images.append(coefficients)
    return images, rows


def _labelled(history: str, option: str) -> set[str]:
    """Labels of the regressors to which an option is given in the command that AFNI keeps."""
    labels = dict(re.findall(r"-stim_label\s+(\d+)\s+['\"]?([^\s'\"]+)", history))
    return {labels.get(number, "") for number in re.findall(rf"{option}\s+(\d+)", history)}


def _open_afni(path: Path) -> tuple[nib.spatialimages.SpatialImage, dict[str, str]]:
    """An image of AFNI with its texts by name, from the .HEAD or from the extension of a NIfTI header."""
    if not _AFNI.search(path.name):
        bucket, _ = load_image(path, "bucket")
        parts = [part for part in bucket.header.extensions if part.get_code() == _AFNI_CODE]
        content = [part.get_content() for part in parts]
        if not content:
            return bucket, {}
        with damage_named(path, "let AFNI write it again"):
            text = content[0] if isinstance(content[0], str) else content[0].decode("utf-8", "replace")
            # nothing that expands itself can be in it
            elements = ElementTree.fromstring(re.sub(r"<!.*?>", "", text.strip("\0 \n"), flags=re.DOTALL))
            atoms = elements.iter("AFNI_atr")
            return bucket, {atom.attrib["atr_name"]: (atom.text or "").strip() for atom in atoms}
    with damage_named(path, "let AFNI write it again"):
        image: AFNIImage = AFNIImage.from_filename(path)
        file = Path(str(image.file_map["image"].filename))
        if not file.is_file():
            raise NeurordlError(f"{path} has no {file.name} beside it, which holds its data; copy it there")
        n_bytes = int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        packed = file.suffix.lower() not in (".brik", ".head")
        if n_bytes > file.stat().st_size * (_MOST_INFLATED if packed else 1):
            raise ValueError(f"its header says {n_bytes} bytes, and {file.name} has {file.stat().st_size}")
        texts = {name: value for name, value in image.header.info.items() if isinstance(value, str)}
    return image, texts
