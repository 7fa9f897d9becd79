from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurordl import io
from neurordl.errors import NeurordlError
from neurordl.io import (
    atomic_write,
    read_cells,
    read_frame,
    read_json,
    sha256_array,
    sha256_file,
    sha256_state,
    versions,
    write_json,
    write_text,
)


def test_atomic_write_puts_the_whole_file_in_place(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with atomic_write(target) as aside:
        assert aside.parent == tmp_path
        assert aside.suffix == ".csv"
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.csv"]


@pytest.mark.parametrize("failure", [RuntimeError("no"), KeyboardInterrupt()])
def test_atomic_write_leaves_the_old_file_on_failure(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(failure)), atomic_write(target) as aside:  # noqa: PT012
        aside.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_when_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NeurordlError, match=r"run\.json: the disk is full; free some space") as caught:
        write_json(tmp_path / "run.json", {"a": 1})
    assert isinstance(caught.value.__cause__, OSError)
    assert os.listdir(tmp_path) == []


def _torch_error() -> Exception:
    """As torch raises it: the system's error is only in the context."""
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        _torch_error(),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_when_writing(tmp_path: Path, failure: Exception) -> None:
    target = tmp_path / "student.safetensors"
    with pytest.raises(NeurordlError, match="the disk is full") as caught, atomic_write(target) as aside:  # noqa: PT012
        aside.write_bytes(b"half")
        raise failure
    assert caught.value.__cause__ is failure
    assert os.listdir(tmp_path) == []


def test_no_permission_and_odd_errors_name_the_file(tmp_path: Path) -> None:
    for number, said in ((errno.EACCES, "no permission"), (errno.EIO, "free space on its disk")):
        with pytest.raises(NeurordlError, match=rf"out\.txt: .*{said}"), atomic_write(tmp_path / "out.txt"):
            raise OSError(number, os.strerror(number))


def test_an_error_about_another_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), atomic_write(tmp_path / "out.txt"):
        (tmp_path / "other").read_text()


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match="nothing was written"), atomic_write(tmp_path / "out.txt"):
        pass


def test_missing_folder_and_folder_as_target(tmp_path: Path) -> None:
    with pytest.raises(NeurordlError, match=r"the folder .*nowhere does not exist; create it"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")
    with pytest.raises(NeurordlError, match="it is a folder"):
        write_text(tmp_path, "x")
    assert os.listdir(tmp_path) == []


def test_text_is_utf8_with_plain_newlines(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ρ = .5\n")
    assert (tmp_path / "a.txt").read_bytes() == "ρ = .5\n".encode()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=plain)
def test_json_comes_back(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_takes_paths_and_numpy(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(
        path, {"p": Path("x/y"), "n": np.float32(0.5), "a": np.arange(2), "t": torch.tensor([1]), "s": (1, 2)}
    )
    assert json.loads(path.read_text()) == {"p": "x/y", "n": 0.5, "a": [0, 1], "t": [1], "s": [1, 2]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), {"f": print}])
def test_json_refuses_what_it_cannot_say(value: object, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(NeurordlError, match=r"a\.json as JSON"):
        write_json(path, {"x": value})
    assert not path.exists()


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-8"):
        (tmp_path / "it.json").write_bytes('{"naïve": 1}'.encode(encoding))
        assert read_json(tmp_path / "it.json") == {"naïve": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(NeurordlError, match=r"run\.json: it is damaged, or not a \.json file"):
        read_json(path)


def test_missing_files(tmp_path: Path) -> None:
    for reader in (read_json, sha256_file):
        with pytest.raises(NeurordlError, match=r"cannot read .*gone\.json: No such file"):
            reader(tmp_path / "gone.json")


def test_sha256_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_sha256_array_sees_values_shape_and_type_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    known = sha256_array(values)
    np.save(tmp_path / "a.npy", values)
    monkeypatch.setattr(io, "_HASH_BYTES", 30)  # several blocks
    same: list[Any] = [
        torch.from_numpy(values),
        torch.from_numpy(values).requires_grad_(),
        np.asfortranarray(values),
        values.astype(">f4"),
        np.load(tmp_path / "a.npy", mmap_mode="r"),
    ]
    assert {sha256_array(one) for one in same} == {known}
    changed = values.copy()
    changed[3, 5] += 1
    others: list[Any] = [
        changed,
        values.reshape(6, 4),
        values.astype(np.float64),
        values.view(np.int32),
        values[:3],
    ]
    assert len({sha256_array(one) for one in others} | {known}) == len(others) + 1


def test_sha256_array_corner_cases() -> None:
    half = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert sha256_array(half) != sha256_array(half.view(torch.int16))
    assert len({sha256_array(np.array(x)) for x in (1, 2, [1], ["a"], ["b"], np.zeros((0, 3)))}) == 6
    with pytest.raises(NeurordlError, match="Python objects"):
        sha256_array(np.array([object()]))


def test_versions_import_nothing_heavy() -> None:
    known = versions()
    assert known["python"] == ".".join(map(str, sys.version_info[:3]))
    assert known["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"neurordl", "numpy", "rsatoolbox", "lightning-fabric"} <= set(known)
    code = "import sys, neurordl.io as a; a.versions(); print({'torch', 'numpy'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_checksum_of_weights_is_of_names_and_values() -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2)}
    lines = "".join(f"{name} {sha256_array(one)}\n" for name, one in state.items())
    assert sha256_state(state) == hashlib.sha256(lines.encode()).hexdigest()
    assert sha256_state(state) != sha256_state({"b.weight": state["a.weight"], "a.bias": state["a.bias"]})


@pytest.mark.parametrize(
    "name, text, rows, decimal_commas",
    [
        ("t.csv", "id,x\n007,1.5\n", [["id", "x"], ["007", "1.5"]], False),
        ("t.csv", "\ufeffid,x\r\n\r\na,\r\n", [["id", "x"], ["a", ""]], False),  # as spreadsheets save it
        ("t.csv", '"a,b",1\n', [["a,b", "1"]], False),
        ("t.csv", "id;x\na;1,5\n", [["id", "x"], ["a", "1,5"]], True),
        ("t.csv", "id;x\na;1\n", [["id", "x"], ["a", "1"]], False),
        ("t.csv", "id,x;y\na;1,5\n", [["id", "x;y"], ["a;1", "5"]], False),  # not certain
        ("t.csv", "1,5;2.5,3\n", [["1", "5;2.5", "3"]], False),
        ("t.tsv", "id\tx\na\t1,5\n", [["id", "x"], ["a", "1,5"]], False),
        ("t.txt", "id\tx\na\t1\n", [["id", "x"], ["a", "1"]], False),
        ("t.txt", "id,x\na,1\n", [["id", "x"], ["a", "1"]], False),
    ],
)
def test_cells(tmp_path: Path, name: str, text: str, rows: list[list[str]], decimal_commas: bool) -> None:
    (tmp_path / name).write_bytes(text.encode())
    assert read_cells(tmp_path / name) == (rows, decimal_commas)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (b"a\xff", "not text in UTF-8"),
        (b"a,b\n1\n", r"row 1 \(from 0\) has 1 cells, but the first has 2"),
        (b'"a,b', "cannot read"),
        (b"a\tb\n1\t2\n", "separated by tabs"),
        (b"a;1.5\n1,5;2\n", "separated by semicolons"),
    ],
)
def test_cells_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(NeurordlError, match=message):
        read_cells(tmp_path / "t.csv")
    with pytest.raises(NeurordlError, match=r"cannot read .*gone\.csv"):
        read_cells(tmp_path / "gone.csv")


def test_frames(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,,x\n007,1\nNA,2,3,\n")
    frame = read_frame(path)
    assert list(frame.columns) == ["id", "Unnamed: 1", "x"]
    assert frame.to_numpy().tolist() == [["007", "1", ""], ["NA", "2", "3"]]
    path.write_text("id;x\n0,5;1,25\n")
    with pytest.warns(UserWarning, match="semicolons between cells and decimal commas"):
        assert read_frame(path).to_numpy().tolist() == [["0,5", "1.25"]]
    path.write_text("id,x,x\na,1,2\n")
    with pytest.raises(NeurordlError, match="two columns 'x'"):
        read_frame(path)
    path.write_text("id,x\na,1,2\n")
    with pytest.raises(NeurordlError, match=r"row 1 \(from 0\) has 3 cells, but the first has 2"):
        read_frame(path)


def test_an_earlier_folder_outlives_a_failed_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io.write_folder(tmp_path / "figures", {"a.svg": b"1"}, (".svg",))
    replace, calls = os.replace, list[object]()

    def refuse(*paths: object) -> None:
        calls.append(paths)
        if len(calls) > 1:  # the new folder is not put there, and the earlier one not put back
            raise OSError("full")
        replace(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="full"):
        io.write_folder(tmp_path / "figures", {"b.svg": b"2"}, (".svg",))
    assert [file.read_bytes() for file in tmp_path.rglob("*.svg")] == [b"1"]
