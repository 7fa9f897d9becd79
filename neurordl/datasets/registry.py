"""The public data sets: what is known about each (registry.toml), their folders, verified downloads."""

from __future__ import annotations

import errno
import os
import shutil
import tomllib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurordl.errors import NeurordlError, explain
from neurordl.io import make_folder, sha256_file, write_problem
from neurordl.validate import brief, check_choice, folded_html, listed

_ATTEMPTS = 3
_BLOCK_BYTES = 1 << 18
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class File:
    """A file to download: its url, SHA-256 and size in bytes.

    Examples
    --------
    >>> import neurordl as nrl
    >>> file = nrl.datasets.REGISTRY["mnist"].files[0]
    >>> file.name, file.size
    ('train-images-idx3-ubyte.gz', 9912422)
    """

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        """The name of the file in the folder of its data set."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A public data set.

    Attributes
    ----------
    summary, license, citation
        Descriptions in words.
    source
        Who states the urls and checksums.
    loaders
        The names of the functions in ``neurordl.datasets`` that read it.
    fetcher
        How to fetch it: "download", "nilearn", or "embedded" in scikit-learn.
    files
        The files to download.
    folder
        Its folder in `data_root`.
    compact
        Files and folders that loaders read instead of the official files where they exist.
    classes
        The names of the classes, where its files do not hold them.

    Examples
    --------
    >>> import neurordl as nrl
    >>> dataset = nrl.datasets.REGISTRY["mnist"]
    >>> dataset.license, dataset.size, dataset.loaders
    ('CC BY-SA 3.0 (as the documentation of Keras says)', 11594722, ['load_mnist'])
    """

    __repr__ = brief

    summary: str
    license: str
    citation: str
    source: str
    folder: str
    loaders: Sequence[str] = ()
    fetcher: str = "download"
    files: Sequence[File] = ()
    compact: Sequence[str] = ()
    classes: Sequence[str] = ()

    def _repr_html_(self) -> str:
        files = listed(file.name for file in self.files) or "none"
        calls = ", ".join(f"datasets.{name}()" for name in self.loaders) or "none"
        rows = [["loaders", calls], ["license", self.license], ["citation", self.citation]]
        rows += [["source", self.source], ["fetched by", self.fetcher]]
        rows += [["files", f"{files} ({self.size / 1e6:,.1f} MB)" if self.size else files]]
        return folded_html(f"DataSet: {self.summary}", rows)

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(file.size for file in self.files)


def _read_registry() -> dict[str, DataSet]:
    registry = {}
    for name, entry in tomllib.loads(Path(__file__).with_name("registry.toml").read_text("utf-8")).items():
        files = tuple(File(**file) for file in entry.pop("files", ()))
        registry[name] = DataSet(**{"folder": name} | entry, files=files)
    return registry


REGISTRY = _read_registry()
"""The data sets by name."""


def find_dataset(name: str) -> DataSet:
    """Return the data set with a name; a `NeurordlError` about an unknown name lists those that are known.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.datasets.find_dataset("digits").citation
    'E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI.'
    """
    by_hand = {"cifar100_stretched": "load_cifar100_stretched says where it comes from"}
    for large in ("nsd", "algonauts", "things", "bold5000"):
        by_hand[large] = f"load_{large} reads it from the folder in which it was published, and says which"
    return REGISTRY[check_choice("name", name, list(REGISTRY), by_hand.get(str(name).lower(), ""))]


def data_root() -> Path:
    """Return the folder of the data sets: what NEURORDL_DATA names, or a folder in the user's cache.

    Raises
    ------
    NeurordlError
        The environment variable NEURORDL_DATA names something that is not a folder.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.datasets.data_root() / "mnist" == nrl.datasets.folder_of("mnist")
    True
    """
    named = os.environ.get("NEURORDL_DATA", "")
    if not named:
        with warnings.catch_warnings(action="ignore"):  # tqdm asks for widgets in notebooks
            import pooch

        return Path(pooch.os_cache("neurordl"))
    if not Path(named).is_dir():
        raise NeurordlError(f"NEURORDL_DATA names {named}, which is not a folder; set it to the data folder")
    return Path(named)


def folder_of(name: str) -> Path:
    """Return the folder of a data set in `data_root`; it may not exist yet.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.datasets.folder_of("cichy2014").name
    'images92'
    """
    return data_root() / (REGISTRY[name].folder if name in REGISTRY else name)


def require_file(name: str, file: str) -> Path:
    """Return the path of a file of a data set; if it does not exist, the error says how to get it."""
    path = folder_of(name) / file
    if not path.is_file():
        remedy = f"set the environment variable NEURORDL_DATA to the folder that contains {path.parent.name}"
        if name in REGISTRY:
            remedy = f"download it with 'neurordl data fetch {name}' or datasets.fetch({name!r}), or {remedy}"
        raise NeurordlError(f"{name} is not on this machine: there is no {path}; {remedy}")
    return path


def status(name: str) -> str:
    """Say in words whether a data set is on this machine.

    Examples
    --------
    >>> import neurordl as nrl
    >>> nrl.datasets.status("digits")
    'comes with scikit-learn'
    """
    dataset = find_dataset(name)
    if dataset.fetcher != "download":
        return {"embedded": "comes with scikit-learn"}.get(dataset.fetcher, f"{dataset.fetcher} downloads it")
    folder = folder_of(name)
    if dataset.compact and all((folder / part).exists() for part in dataset.compact):
        return "on this machine (compact files)"
    n_files, n_present = len(dataset.files), sum((folder / file.name).is_file() for file in dataset.files)
    return {n_files: "downloaded", 0: "not downloaded"}.get(n_present, f"{n_present} of {n_files} files")


def fetch(name: str, *, say: Callable[[str], Any] = lambda _: None) -> Path:
    """Download a data set into `data_root`; existing files are verified, not downloaded again.

    A download that is cut off leaves a hidden file beside its place and continues from it the next time. A
    file appears under its own name only when it is complete and its checksum is right.

    Parameters
    ----------
    name
        A name in `REGISTRY`.
    say
        A function that is called with a line of text for each file.

    Returns
    -------
    Path
        The folder of the data set.

    Raises
    ------
    NeurordlError
        The name is unknown, the connection fails, a checksum is wrong, the disk is full, or a file with this
        name is not the official one.

    Examples
    --------
    Digits come with scikit-learn; ``fetch("mnist", say=print)`` would download 11.6 MB:

    >>> import neurordl as nrl
    >>> folder = nrl.datasets.fetch("digits", say=print)
    embedded in scikit-learn: nothing to fetch
    """
    dataset = find_dataset(name)
    if dataset.fetcher == "embedded":
        say("embedded in scikit-learn: nothing to fetch")
        return data_root()
    folder = data_root() / dataset.folder
    if dataset.fetcher == "nilearn":
        fetch_haxby(2)
        return folder
    make_folder(folder, "let NEURORDL_DATA name another one")
    for file in dataset.files:
        say(f"{file.name}: {_download(file, folder)}")
    return folder


def fetch_haxby(subject: int) -> Any:
    """Let nilearn download a subject of Haxby et al. (2001) into `data_root`; return what it returns."""
    from nilearn.datasets import fetch_haxby as fetch_by_nilearn

    with explain("nilearn could not fetch haxby2001", remedy="try again"):
        return fetch_by_nilearn(data_dir=str(data_root()), subjects=[subject], verbose=0)


def _download(file: File, folder: Path) -> str:
    """Download a file or verify it, and say in words which."""
    target, part = folder / file.name, folder / f".{file.name}.part"
    if target.exists():
        if sha256_file(target) == file.sha256:
            return "already there, verified"
        problem = f"{target} exists, but its checksum is not that of the official file"
        raise NeurordlError(f"{problem}: move it away, or keep it")
    try:
        if shutil.disk_usage(folder).free < file.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _complete(part, file)
        if sha256_file(part) != file.sha256:
            part.unlink()
            problem = f"its checksum is not {file.sha256[:12]}...; nothing was kept; try again later"
            raise NeurordlError(f"what came from {file.url} is not {file.name}: {problem}")
        os.replace(part, target)
    except OSError as error:
        part.unlink(missing_ok=True)
        problem = f"{write_problem(error)} (NEURORDL_DATA names it)"
        raise NeurordlError(f"cannot write {target} ({file.size} bytes): {problem}") from error
    return f"downloaded, {file.size} bytes, verified"


def _complete(part: Path, file: File) -> None:
    """Download what is missing of a file, which may be all of it, into ``part``."""
    import requests
    import urllib3

    with open(part, "ab") as handle:
        if handle.tell() >= file.size:
            handle.truncate(0)
    for _ in range(_ATTEMPTS):
        problem: Exception | None = None
        try:
            _append(part, file)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            problem = error
            if getattr(error, "response", None) is not None:
                break  # the server answered, and will answer the same again
        if part.stat().st_size == file.size:
            return
    if not (stored := part.stat().st_size):
        part.unlink()
    place = f"{stored} of {file.size} bytes{f': {problem}' if problem else ''}"
    remedy = "check the connection and fetch again: it goes on from there"
    raise NeurordlError(f"the download of {file.url} stopped at {place}; {remedy}") from problem


def _append(part: Path, file: File) -> None:
    """Request the bytes that are missing and append them; no more than the file has are ever stored."""
    import requests

    start = part.stat().st_size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(file.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        response.raise_for_status()
        span = response.headers.get("Content-Range", "")
        resumed = response.status_code == 206 and span.startswith(f"bytes {start}-")
        missing = file.size - start if resumed else file.size
        with open(part, "ab" if resumed else "wb") as handle:
            # the bytes as they are sent: a .gz file must not be unpacked on the way
            for block in response.raw.stream(_BLOCK_BYTES, decode_content=False):
                handle.write(block[:missing])
                missing -= len(block)
                if missing < 0:
                    break
