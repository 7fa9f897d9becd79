"""Downloads: through pooch, resumed where they were cut off, verified, and whole or absent."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurordl.datasets.registry import REGISTRY, File, known
from neurordl.errors import NeurordlError
from neurordl.io import sha256_file

if TYPE_CHECKING:
    import requests

__all__ = ["data_root", "fetch", "folder_of", "status", "wanted_file"]

# what loaders read instead of the official files, where it is there
_COMPACT = {
    "images92": ("stimuli", "kriegeskorte2008.npz"),
    "cichy2014": ("stimuli", "cichy2014_fmri.npz"),
}
_ATTEMPTS = 3
_BYTES = 1 << 18
_SECONDS = 30  # without a byte


def data_root() -> Path:
    """The folder of the data sets: what the environment variable NEURORDL_DATA names, or the user's cache.

    Raises
    ------
    NeurordlError
        NEURORDL_DATA names something that is not a folder.
    """
    named = os.environ.get("NEURORDL_DATA", "")
    if not named:
        import pooch

        return Path(pooch.os_cache("neurordl"))
    if not Path(named).is_dir():
        raise NeurordlError(f"NEURORDL_DATA names {named}, which is not a folder; set it to the data folder")
    return Path(named)


def folder_of(name: str) -> Path:
    """The folder of a data set in `data_root`; it may not exist yet."""
    return data_root() / ("images92" if name == "cichy2014" else name)


def wanted_file(name: str, file: str) -> Path:
    """A file of a data set; where it is not there, the error says how to get it."""
    path = folder_of(name) / file
    if not path.is_file():
        how = "let the environment variable NEURORDL_DATA name the folder that has it"
        if name in REGISTRY:
            how = f"download it by 'neurordl data fetch {name}' or datasets.fetch({name!r}), or {how}"
        raise NeurordlError(f"{name} is not on this machine: there is no {path}; {how}")
    return path


def status(name: str) -> str:
    """In words: whether a data set is on this machine."""
    files = known(name).files
    if not files:
        return "embedded" if name == "digits" else "by nilearn"
    if name in _COMPACT and all((folder_of(name) / part).exists() for part in _COMPACT[name]):
        return "compact form"
    there = sum((folder_of(name) / file.name).is_file() for file in files)
    return "there" if there == len(files) else f"{there} of {len(files)} files" if there else "not there"


def fetch(name: str, *, say: Callable[[str], Any] = lambda _: None) -> Path:
    """Download a data set into `data_root`; what is there already is verified, not downloaded again.

    A download that is cut off leaves a hidden file beside its place, and goes on from there the next time. A
    file appears under its own name only when it is whole and its checksum is right.

    Parameters
    ----------
    name
        A name in `REGISTRY`.
    say
        Called with a line for each file.

    Returns
    -------
    Path
        The folder of the data set.

    Raises
    ------
    NeurordlError
        An unknown name, a connection that fails, a wrong checksum, a full disk, or a file of this name
        that is not the official one.
    """
    dataset = known(name)
    folder = folder_of(name)
    if name == "digits":
        say("digits is embedded in scikit-learn: nothing to fetch")
        return data_root()
    if name == "haxby2001":
        from neurordl.datasets.brain import load_haxby2001

        load_haxby2001()
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NeurordlError(
            f"cannot make the folder {folder}: {error.strerror}; let NEURORDL_DATA name another one"
        ) from error
    for file in dataset.files:
        say(f"{file.name}: {_fetch_file(file, folder)}")
    return folder


def _fetch_file(file: File, folder: Path) -> str:
    import pooch

    target = folder / file.name
    if target.exists():
        if sha256_file(target) == file.sha256:
            return "already there, verified"
        raise NeurordlError(
            f"{target} is there, but is not the official file (its checksum is another): move it away and "
            "fetch again, or go on with it if you know what it is (loaders read it)"
        )
    try:
        free = shutil.disk_usage(folder).free
        if free < file.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        pooch.retrieve(
            file.url, f"sha256:{file.sha256}", file.name, folder, downloader=_downloader(file, folder)
        )
    except NeurordlError:
        raise
    except ValueError as error:  # pooch's, for a wrong checksum; its temporary file is gone
        raise NeurordlError(
            f"what came from {file.url} is not {file.name}: its checksum is not {file.sha256[:12]}...; "
            "nothing was kept, try again later, and report it if it stays so"
        ) from error
    except OSError as error:
        _part(file, folder).unlink(missing_ok=True)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        why = f"the disk is full ({file.size} bytes are needed)" if full else str(error.strerror or error)
        raise NeurordlError(
            f"cannot write {target}: {why}; nothing was kept. Free some space, or let NEURORDL_DATA name a "
            "folder on another disk"
        ) from error
    return f"downloaded, {file.size} bytes, verified"


def _part(file: File, folder: Path) -> Path:
    return folder / f".{file.name}.part"


def _downloader(file: File, folder: Path) -> Callable[[str, Any, Any], None]:
    """What pooch calls with the url and a temporary file to fill."""
    part = _part(file, folder)

    def download(url: str, output: Any, _pooch: Any) -> None:
        import requests

        problem: Exception | None = None
        for _ in range(_ATTEMPTS):
            try:
                _go_on(url, part, file.size)
            except requests.RequestException as error:
                problem = error
                if error.response is not None:  # the server answered, and will again
                    break
            else:
                if part.stat().st_size == file.size:
                    os.replace(part, output)
                    return
                problem = None
        have = part.stat().st_size if part.is_file() else 0
        if not have:
            part.unlink(missing_ok=True)
        told = f": {problem}" if problem else ""
        raise NeurordlError(
            f"the download of {url} stopped at {have} of {file.size} bytes{told}; check the connection and "
            "fetch again: it goes on from there"
        ) from problem

    return download


def _go_on(url: str, part: Path, size: int) -> None:
    """Ask for what is lacking, and append it; never more than the whole."""
    import requests

    have = part.stat().st_size if part.is_file() else 0
    if have >= size:
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
        answer.raise_for_status()
        resumed = answer.status_code == 206 and _starts_at(answer, have)
        with open(part, "ab" if resumed else "wb") as handle:
            left = size - have if resumed else size
            # as sent: a .gz file must not be unpacked on the way
            for block in _blocks(answer):
                _write(handle, block[:left])
                left -= len(block)
                if left < 0:
                    break


def _starts_at(answer: requests.Response, have: int) -> bool:
    return answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _blocks(answer: requests.Response) -> Any:
    import requests
    import urllib3

    try:
        yield from answer.raw.stream(_BYTES, decode_content=False)
    except urllib3.exceptions.HTTPError as error:  # raw bypasses requests' own wrapping
        raise requests.ConnectionError(error) from error


def _write(handle: Any, block: bytes) -> None:
    handle.write(block)
