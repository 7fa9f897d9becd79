"""What an output was made of: the same command leaves it as it is, and another one says what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from neurordl import __version__
from neurordl.cli.options import Calls
from neurordl.errors import NeurordlError
from neurordl.io import RUN_RECORD, differing, read_json, sha256_file, sha256_json
from neurordl.validate import listed, without_paths

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Origin = dict[str, object]

_IMAGES = (".nii", ".nii.gz", ".img", ".mgz", ".func.gii")  # of brains, of which each may have gigabytes
_LARGE = 1 << 26  # bytes


def settings_of(call: Calls, **more: Any) -> Origin:
    """The options of a command, ``more`` and those it takes, with files by their names, and the version."""
    options = {name: value for part in vars(call).values() for name, value in part.options.items()}
    return {**{name: _named(value) for name, value in (more | options).items()}, "version": __version__}


def contents_of(paths: Iterable[Path]) -> Origin:
    """A checksum of what is in each of some files and folders, by name; those that do not exist have none."""
    named: dict[str, list[Path]] = {}
    for path in paths:
        if path.exists():
            named.setdefault(f"the content of {path.resolve().name}", []).append(path)
    return {name: checksum(of_name) for name, of_name in named.items()}


def option_paths(call: Calls) -> list[Path]:
    """The files and folders that the options of a command name."""
    return paths_in(value for part in vars(call).values() for value in part.options.values())


def paths_in(values: Iterable[Any]) -> list[Path]:
    """The paths among some values, also within lists."""
    parts = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    return [part for part in parts if isinstance(part, Path)]


def _named(value: Any) -> Any:
    """A value as JSON holds it; of files only the names, since outputs are sent to others."""
    if isinstance(value, list | tuple):
        return [_named(part) for part in value]
    if isinstance(value, Path):
        return value.resolve().name
    return without_paths(value) if isinstance(value, str) else value


def checksum(files: Iterable[Path]) -> str:
    """A checksum of the content of files, of those in folders too; of images of brains by size and time.

    Of the folder of a run it is that of the record and the weights.
    """
    return sha256_json(sorted([file.name, _of_file(file)] for path in files for file in _files(path)))


def _files(path: Path) -> list[Path]:
    if (path / RUN_RECORD).is_file():
        return [path / RUN_RECORD, *path.glob("*.safetensors")]
    inside = path.iterdir() if path.is_dir() else [path]
    return [file for file in inside if file.is_file() and not file.name.startswith(".")]


def _of_file(file: Path) -> str:
    if file.name == RUN_RECORD:  # the accuracy on test images may be added
        return sha256_json({name: part for name, part in read_json(file).items() if name != "test"})
    status = file.stat()
    if file.name.lower().endswith(_IMAGES) or status.st_size > _LARGE:
        return f"{status.st_size} {status.st_mtime_ns}"
    return sha256_file(file)


def as_json(origin: Origin) -> Origin:
    """What a file holds of an origin."""
    return dict(json.loads(json.dumps(origin)))


def is_finished(out: Path, now: Origin, before: Origin | None, overwrite: bool, noun: str) -> bool:
    """Whether an output is that of the same command, which is said; another one is refused.

    Parameters
    ----------
    out
        The file or folder.
    now
        What the command makes it of.
    before
        What it was made of; None if that is not recorded.
    overwrite
        Whether another output may be replaced.
    noun
        What the output is, such as "a comparison".
    """
    if before == as_json(now):
        typer.echo(f"{out} holds {noun} of the same files and settings already: nothing was computed")
        return True
    if not overwrite:
        reason = "exists already, and what it was made of is not recorded"
        if before is not None:
            different = listed(differing(now, before), most=8)
            reason = f"holds {noun} already, of other files or settings, which differ in {different}"
        raise NeurordlError(f"{out} {reason}; choose another --out, or replace it by --overwrite")
    return False


def is_same_report(out: Path, contents: Mapping[str, Any], *settings: Any) -> bool:
    """Whether a report of these contents, with these settings of `report_origin`, is there as a whole."""
    from neurordl.report import is_whole, read_origin, report_origin

    return out.is_file() and read_origin(out) == report_origin(contents, *settings) and is_whole(out)


def save_with_origin(rdms: RDMs, out: Path, origin: Origin) -> None:
    """Write RDMs with what they were made of, at which readers of RDMs do not look."""
    from neurordl.rdms.files import save_noted

    save_noted(rdms, out, json.dumps(origin))


def origin_of(out: Path) -> Origin | None:
    """What an earlier file of RDMs was made of; None if it does not say."""
    from neurordl.rdms.files.hdf5 import read_note

    try:
        origin = json.loads(read_note(out))
    except ValueError:
        return None
    return origin if isinstance(origin, dict) else None
