"""Downloads from a server on the loopback: whole, cut off and resumed, wrong, and onto a full disk."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurordl.datasets import REGISTRY, data_root, fetch, registry, status
from neurordl.datasets.registry import DataSet, File
from neurordl.errors import NeurordlError

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(ThreadingHTTPServer):
    """Serves one content; ``cut`` bytes at a time, if that is set, and then hangs up."""

    daemon_threads = True
    content = CONTENT
    cut: int | None = None
    ranges = True
    whole = False  # answer a range by all of it, and say so
    code = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/it.bin"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server: Any = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.code != 200:
            self.send_error(server.code)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        start = 0 if server.whole else start
        content = server.content[start:]
        self.send_response(206 if wanted and server.ranges else 200)
        if wanted and server.ranges:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Encoding", "gzip")  # as some servers say of .gz files: not to be unpacked
        self.end_headers()
        self.wfile.write(content[: server.cut])
        if server.cut is not None and len(content) > server.cut:
            self.close_connection = True


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NEURORDL_DATA", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running = Server()
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    file = File(running.url, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    dataset = DataSet(
        summary="a test",
        license="none",
        citation="nobody",
        source="this test",
        folder="sample",
        files=(file,),
    )
    monkeypatch.setitem(REGISTRY, "sample", dataset)
    yield running
    running.shutdown()
    running.server_close()


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    assert status("sample") == "not downloaded"
    assert fetch("sample", say=said.append) == tmp_path / "sample"
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT
    assert left(tmp_path / "sample") == ["it.bin"]
    assert said == [f"it.bin: downloaded, {len(CONTENT)} bytes, verified"]
    assert status("sample") == "downloaded"
    fetch("sample", say=said.append)
    assert said[1] == "it.bin: already there, verified"
    assert server.asked == [None]


def test_a_download_that_is_cut_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.cut = 1_100_000  # three answers are enough
    fetch("sample")
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT
    assert left(tmp_path / "sample") == ["it.bin"]
    assert len(server.asked) == 3
    assert server.asked[0] is None
    assert all(asked is not None and asked.startswith("bytes=") for asked in server.asked[1:])


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_stops_is_resumed_later(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.cut = 600_000
    with pytest.raises(NeurordlError, match=r"stopped at [1-9]\d* of 3000000 bytes.*it goes on from there"):
        fetch("sample")
    assert left(tmp_path / "sample") == [".it.bin.part"]  # hidden, and not under its name
    assert status("sample") == "not downloaded"
    have = (tmp_path / "sample" / ".it.bin.part").stat().st_size
    server.cut, server.ranges, server.asked = None, ranges, []
    fetch("sample")
    assert server.asked == [f"bytes={have}-"]
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT
    assert left(tmp_path / "sample") == ["it.bin"]


@pytest.mark.parametrize(
    "content", [CONTENT[:-1] + b"x", CONTENT + b"more", bytes(len(CONTENT))], ids=["byte", "longer", "zeros"]
)
def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    if len(content) > len(CONTENT):  # cut to the size that is known: the right bytes
        fetch("sample")
        return
    with pytest.raises(NeurordlError, match=r"is not it\.bin: its checksum is not .*nothing was kept"):
        fetch("sample")
    assert left(tmp_path / "sample") == []
    server.content = CONTENT
    fetch("sample")
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT


def test_a_resumed_download_of_another_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / ".it.bin.part").write_bytes(bytes(1000))  # not the beginning of it
    with pytest.raises(NeurordlError, match="nothing was kept"):
        fetch("sample")
    assert left(tmp_path / "sample") == []


@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_as_long_as_the_whole_begins_anew(server: Server, tmp_path: Path, size: int) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / ".it.bin.part").write_bytes(bytes(size))
    fetch("sample")
    assert server.asked == [None]
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("whole", [True, False])
def test_a_server_that_answers_a_range_by_more(server: Server, tmp_path: Path, whole: bool) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / ".it.bin.part").write_bytes(CONTENT[:1000])
    server.whole, server.content = whole, CONTENT + b"more"
    fetch("sample")
    assert server.asked == ["bytes=1000-"]
    assert (tmp_path / "sample" / "it.bin").read_bytes() == CONTENT


def test_a_file_shorter_than_known(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-100]
    with pytest.raises(NeurordlError, match="stopped at 2999900 of 3000000 bytes"):
        fetch("sample")


def test_a_full_disk(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Path, _: File) -> None:
        part.write_bytes(CONTENT[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_append", full)
        with pytest.raises(NeurordlError, match=r"\(3000000 bytes\): the disk is full"):
            fetch("sample")
    assert left(tmp_path / "sample") == []
    server.asked = []
    with monkeypatch.context() as patch:
        patch.setattr(registry.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(NeurordlError, match="disk is full"):
            fetch("sample")
    assert server.asked == []  # known before it begins
    assert left(tmp_path / "sample") == []


def test_what_the_server_refuses(server: Server, tmp_path: Path) -> None:
    server.code = 404
    with pytest.raises(NeurordlError, match=r"stopped at 0 of 3000000 bytes: 404"):
        fetch("sample")
    assert left(tmp_path / "sample") == []
    assert len(server.asked) == 1  # it would say so again
    server.shutdown()
    server.server_close()
    with pytest.raises(NeurordlError, match=r"stopped at 0 of 3000000 bytes.*check the connection"):
        fetch("sample")
    assert left(tmp_path / "sample") == []


def test_a_file_of_that_name_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "it.bin").write_bytes(b"mine")
    with pytest.raises(NeurordlError, match="exists, but its checksum is not that of the official file"):
        fetch("sample")
    assert (tmp_path / "sample" / "it.bin").read_bytes() == b"mine"


def test_names_and_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="name='imagenet': expected one of 'digits', 'images92'"):
        fetch("imagenet")
    monkeypatch.delenv("NEURORDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root() == tmp_path / "neurordl"
    (tmp_path / "neurordl").write_text("in the way")
    with pytest.raises(NeurordlError, match=r"cannot make the folder .*mnist"):
        fetch("mnist")


def test_the_registry_is_complete_for_each_file() -> None:
    for dataset in REGISTRY.values():
        assert dataset.summary and dataset.license and dataset.citation and dataset.source  # noqa: PT018
        assert dataset.size == sum(file.size for file in dataset.files)
        for file in dataset.files:
            assert len(file.sha256) == 64
            assert set(file.sha256) <= set("0123456789abcdef")
            assert file.url.startswith(("https://", "http://"))
            assert file.url.endswith(f"/{file.name}")
            assert file.size > 1000


def test_shell(server: Server, tmp_path: Path, shell: Any) -> None:
    code, out, _ = shell("data", "list")
    assert code == 0
    assert out.startswith(f"in {tmp_path}")
    for name in REGISTRY:
        assert f"\n{name} " in out
    code, out, _ = shell("data", "info", "sample")
    assert code == 0
    for text in ("license", "nobody", server.url, "sha256", "not downloaded"):
        assert text in out
    code, out, _ = shell("data", "fetch", "sample")
    assert (code, out.splitlines()[-1]) == (0, f"sample is in {tmp_path / 'sample'}")
    assert "downloaded" in shell("data", "list")[1].split("\nsample", 1)[1].splitlines()[0]
    for command in ("info", "fetch"):
        code, _, err = shell("data", command, "gone")
        assert code == 1
        assert "name='gone'" in err
    assert shell("data", "info", "haxby2001")[0] == 0
    assert "nothing to fetch" in shell("data", "fetch", "digits")[1]
